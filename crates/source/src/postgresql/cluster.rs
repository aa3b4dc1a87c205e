//! A throw-away server: made, used and gone. Drills run in it, and so do tests.
//!
//! - A directory of its own, mode 0700, below one that the caller names. No TCP, only a socket in that directory.
//! - It runs as an unprivileged user even if we are root, and where we may, in a network namespace without any
//!   network, so that nothing in a restored database can reach out.
//! - It archives no WAL: a drill with `archive_mode` on has pushed its own history into a production archive.
//! - It keeps no promise of durability (`fsync=off`): what it holds is a copy and will be removed.
//!
//! Dropping a [`Cluster`] stops the server and removes the directory, unless it is to outlive us. One whose owner was killed
//! is found by its free lock and cleared away when the next one starts beside it ([`left`](super::left)).

use super::connection::Connection;
use super::left::{is_in_use, sweep};
use super::programs::{Environment, PrivateDir, Programs, Running, SystemUser, find, system_users};
use super::wire::Client;
use super::{Secret, failed, wire_failed};
use crate::SourceError;
use hikae_model::{Cx, ErrorCode};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::io::Read as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, chown, lchown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// Longest path of a unix socket on Linux, without its NUL (`sun_path` in unix(7)).
const MAX_SOCKET_PATH: usize = 107;
/// Any port: it is only a part of the socket's name.
const PORT: u16 = 5432;
/// How long a new server may take to answer.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How much of what a program prints is kept.
const MAX_PRINTED_BYTES: u64 = 1 << 20;
/// How long a server may take to stop at once.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// How to make a throw-away server.
#[derive(Clone, Debug, Default)]
pub struct ClusterOptions {
    /// Oldest major version that will do. The nearest that is installed is taken.
    pub major: u32,
    /// Where the server's programs are, if not in one of the usual places.
    pub program_directory: Option<PathBuf>,
    /// As which user it runs if we are root. Nobody named: `postgres`, else `nobody`.
    pub run_as: Option<String>,
    /// The server's first superuser; `postgres` if nobody is named.
    pub superuser: Option<String>,
    /// Further settings of the server. One that is told to listen on an address is not fenced off.
    pub settings: Vec<(String, String)>,
    /// Further options of `initdb`.
    pub initdb: Vec<String>,
}

/// A directory for a server that is not yet there: to be filled, then started.
pub struct Vacant {
    options: ClusterOptions,
    programs: Programs,
    user: Option<SystemUser>,
    sockets: PathBuf,
    lock: std::fs::File,
    directory: PrivateDir,
    socket: Option<PrivateDir>,
}

/// What came of a program of PostgreSQL.
pub(crate) struct Ran {
    /// Whether it succeeded, or in words how not.
    pub(crate) ended: Result<(), String>,
    /// What it printed.
    pub(crate) printed: String,
}

/// What a server does first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begins {
    /// It was made a moment ago, and answers soon.
    New,
    /// It replays the log of a base backup, which takes as long as it takes.
    Recovering,
}

/// A throw-away server under way.
pub struct Cluster {
    server: std::process::Child,
    programs: Programs,
    user: Option<SystemUser>,
    connection: Connection,
    fenced: bool,
    /// The server runs on when this is dropped.
    runs_on: bool,
    /// Held as long as we live; the system frees it however we end.
    _lock: std::fs::File,
    /// Dropped last, once the server has stopped.
    directory: PrivateDir,
    socket: Option<PrivateDir>,
}

impl Vacant {
    /// Makes a directory below `parent`, for a server whose programs are here.
    ///
    /// # Errors
    /// [`SourceError`]: no such version is installed, or no user to run it as.
    pub fn make(
        options: &ClusterOptions,
        parent: &Path,
        environment: &Environment,
        cx: &Cx,
    ) -> Result<Self, SourceError> {
        let programs = find("postgres", options.major, options.program_directory.as_deref(), environment)?;
        let user = unprivileged(options.run_as.as_deref())?;
        sweep(parent);
        let directory = PrivateDir::create(parent, cx)?;
        let base = directory.path().to_owned();
        let lock = lock_directory(&base)?;
        give(&base, user.as_ref())?;
        see_reachable(&base, user.as_ref())?;
        let (sockets, socket) = socket_directory(&base, user.as_ref(), cx)?;
        Ok(Self { options: options.clone(), programs, user, sockets, lock, directory, socket })
    }

    /// A directory in which a server was that ran on when its owner ended, and is stopped now. `sockets` is where it
    /// listened. It stays until [`Cluster::forget`] is called.
    ///
    /// # Errors
    /// [`SourceError`]: no such version is installed, no user to run it as, or somebody else is at work there.
    pub(crate) fn left_at(
        directory: PathBuf,
        sockets: PathBuf,
        options: &ClusterOptions,
        environment: &Environment,
    ) -> Result<Self, SourceError> {
        let programs = find("postgres", options.major, options.program_directory.as_deref(), environment)?;
        let user = unprivileged(options.run_as.as_deref())?;
        let lock = lock_left(&directory)?;
        let socket = (!sockets.starts_with(&directory)).then(|| PrivateDir::left(sockets.clone()));
        let directory = PrivateDir::left(directory);
        Ok(Self { options: options.clone(), programs, user, sockets, lock, directory, socket })
    }

    /// Where the server's files belong.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The server's major version.
    pub fn major(&self) -> u32 {
        self.programs.major
    }

    /// Has a new cluster made there.
    fn initialise(&self, cx: &Cx) -> Result<(), SourceError> {
        let mut arguments: Vec<OsString> =
            ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--pgdata"].map(Into::into).into();
        arguments.push(self.data().into());
        arguments.push(format!("--username={}", self.superuser()).into());
        arguments.extend(self.options.initdb.iter().map(Into::into));
        let initdb = self.programs.path("initdb");
        Running::start(&initdb, &arguments, self.user.as_ref(), Stdio::null(), Stdio::null())?.wait(cx)
    }

    /// Its own directory, in which more than the data directory may stand.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// As [`Cluster::run`].
    pub(crate) fn run(
        &self,
        program: &str,
        arguments: &[OsString],
        cx: &Cx,
    ) -> Result<Option<Ran>, SourceError> {
        run(&self.programs, self.user.as_ref(), program, arguments, cx)
    }

    /// Sets one more setting of the server.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.options.settings.push((name.to_owned(), value.into()));
    }

    /// The user and the group that the server runs as, unless they are ours.
    pub fn owner(&self) -> Option<(u32, u32)> {
        self.user.as_ref().map(|user| (user.uid, user.gid))
    }

    /// Sees that the server's user can come to a file.
    ///
    /// # Errors
    /// [`SourceError`] that names the directory which is closed.
    pub fn see_reachable(&self, path: &Path) -> Result<(), SourceError> {
        see_reachable(path, self.user.as_ref())
    }

    /// Gives everything that was put there to the server's user. No link is followed.
    ///
    /// # Errors
    /// [`SourceError::Io`].
    pub fn give_all(&self) -> Result<(), SourceError> {
        self.owner().map_or(Ok(()), |owner| give_tree(self.directory.path(), owner))
    }

    fn superuser(&self) -> &str {
        self.options.superuser.as_deref().unwrap_or("postgres")
    }

    /// Starts the server on what is there, and waits until it answers in `database`.
    ///
    /// # Errors
    /// [`SourceError`] with what the server said, if it did not start.
    pub fn start(self, begins: Begins, database: &str, cx: &Cx) -> Result<Cluster, SourceError> {
        let base = self.directory.path().to_owned();
        let user = self.user.as_ref();
        write(&base.join("hba.conf"), "local all all trust\n", user)?;
        write(&base.join("ident.conf"), "", user)?;
        let log = base.join("log");
        write(&log, "", user)?;
        let mut connection = Connection::parse(&format!("dbname=postgres port={PORT}"), self.superuser())?;
        connection.host = super::Host::Socket(self.sockets.clone());
        connection.password = None;
        let (server, fenced) = spawn_server(&self.programs, user, &base, &self.sockets, &self.options)?;
        let mut cluster = Cluster {
            server,
            programs: self.programs,
            user: self.user,
            connection: connection.to_database(database),
            fenced,
            runs_on: false,
            _lock: self.lock,
            directory: self.directory,
            socket: self.socket,
        };
        cluster.wait_until_ready(begins, cx)?;
        Ok(cluster)
    }
}

impl Cluster {
    /// Makes a server below `parent` and waits until it answers.
    ///
    /// # Errors
    /// [`SourceError`]: no such version is installed, no user to run it as, or it did not start.
    pub fn start(
        options: &ClusterOptions,
        parent: &Path,
        environment: &Environment,
        cx: &Cx,
    ) -> Result<Self, SourceError> {
        let vacant = Vacant::make(options, parent, environment, cx)?;
        vacant.initialise(cx)?;
        vacant.start(Begins::New, "postgres", cx)
    }

    fn wait_until_ready(&mut self, begins: Begins, cx: &Cx) -> Result<(), SourceError> {
        let begun = cx.elapsed();
        loop {
            cx.check()?;
            let exited = matches!(self.server.try_wait(), Ok(Some(_)));
            match Client::connect(&self.connection, cx.cancel()) {
                Ok(_) if !exited => return Ok(()),
                // It runs, and will not let us in: waiting would not help. 57P03 is a server that is not ready yet.
                Err(error)
                    if begins == Begins::Recovering
                        && error.sqlstate().is_some_and(|code| code != "57P03") =>
                {
                    return Err(wire_failed("cannot enter the throw-away server", &error));
                }
                Ok(_) | Err(_) => {}
            }
            let is_late = cx.elapsed().saturating_sub(begun) > START_LIMIT && begins == Begins::New;
            if exited || is_late {
                return Err(self.failed("did not start"));
            }
            std::thread::sleep(Duration::from_millis(15));
        }
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// Whether there is a line with these words in what the server said.
    pub(crate) fn has_said(&self, words: &str) -> Result<bool, SourceError> {
        let said = std::fs::read(self.log()).map_err(|source| SourceError::Io {
            verb: "read",
            path: self.log(),
            source,
        })?;
        Ok(String::from_utf8_lossy(&said).contains(words))
    }

    /// Why the server is not what it should be, with what it said.
    fn failed(&self, what: &str) -> SourceError {
        let said = std::fs::read_to_string(self.log()).unwrap_or_default();
        let what =
            format!("the throw-away PostgreSQL {} {what}: {}", self.programs.version, last_words(&said));
        failed(ErrorCode::Failure, what, None)
    }

    /// Waits until `is_done`, as long as the server lives.
    ///
    /// # Errors
    /// [`SourceError`] with what the server said if it ended, and what `is_done` says of one that lives.
    pub(crate) fn wait_until(
        &mut self,
        mut is_done: impl FnMut() -> Result<bool, SourceError>,
        cx: &Cx,
    ) -> Result<(), SourceError> {
        loop {
            cx.check()?;
            match is_done() {
                Ok(true) => return Ok(()),
                Ok(false) => std::thread::sleep(Duration::from_millis(15)),
                Err(error) => {
                    // A session ends a moment before its server.
                    std::thread::sleep(Duration::from_millis(200));
                    return Err(match self.server.try_wait() {
                        Ok(Some(_)) => self.failed("ended"),
                        _ => error,
                    });
                }
            }
        }
    }

    /// Lets the server run on when we end, with its directory.
    pub(crate) fn run_on(mut self) {
        self.runs_on = true;
        self.set_stays(true);
    }

    /// Has the directory of a server that outlived somebody go with us.
    pub(crate) fn forget(&mut self) {
        self.set_stays(false);
    }

    fn set_stays(&mut self, stays: bool) {
        self.directory.set_stays(stays);
        self.socket.iter_mut().for_each(|socket| socket.set_stays(stays));
    }

    /// Stops the server as it should be stopped, with all that it holds written down. It is not entered again.
    pub(crate) fn stop(&mut self, cx: &Cx) -> Result<(), SourceError> {
        // SIGINT is PostgreSQL's fast shutdown.
        if let Some(pid) = i32::try_from(self.server.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::INT);
        }
        while let Ok(None) = self.server.try_wait() {
            cx.check()?;
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Runs one of PostgreSQL's programs as the server's user. Nothing, if it is not installed.
    pub(crate) fn run(
        &self,
        program: &str,
        arguments: &[OsString],
        cx: &Cx,
    ) -> Result<Option<Ran>, SourceError> {
        run(&self.programs, self.user.as_ref(), program, arguments, cx)
    }

    /// How to enter it, as its superuser.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The server's version, as `15.13`.
    pub fn version(&self) -> &str {
        &self.programs.version
    }

    /// Its major version.
    pub fn major(&self) -> u32 {
        self.programs.major
    }

    /// Whether it runs without any network.
    pub fn is_fenced(&self) -> bool {
        self.fenced
    }

    /// Its directory. Whoever puts files there for the server's user gives them to that user.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where its programs are.
    pub fn program_directory(&self) -> &Path {
        &self.programs.directory
    }

    pub(super) fn user(&self) -> Option<&SystemUser> {
        self.user.as_ref()
    }

    /// The same connection as another role.
    pub fn connection_as(&self, role: &str, password: Option<Secret>) -> Connection {
        Connection { user: role.to_owned(), password, ..self.connection.clone() }
    }
}

fn run(
    programs: &Programs,
    user: Option<&SystemUser>,
    program: &str,
    arguments: &[OsString],
    cx: &Cx,
) -> Result<Option<Ran>, SourceError> {
    let path = programs.path(program);
    if !path.exists() {
        return Ok(None);
    }
    let mut running = Running::start(&path, arguments, user, Stdio::null(), Stdio::piped())?;
    let mut printed = Vec::new();
    if let Some(stdout) = running.stdout() {
        let read = stdout.take(MAX_PRINTED_BYTES).read_to_end(&mut printed);
        read.map_err(|source| SourceError::Io { verb: "run", path: path.clone(), source })?;
    }
    cx.check()?;
    let printed = String::from_utf8_lossy(&printed).into_owned();
    Ok(Some(Ran { ended: running.finish(), printed }))
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.runs_on {
            return;
        }
        // SIGQUIT is PostgreSQL's immediate shutdown: nothing here is worth a checkpoint.
        let pid = i32::try_from(self.server.id()).ok().and_then(Pid::from_raw);
        let mut waited = Duration::ZERO;
        while let Ok(None) = self.server.try_wait() {
            if waited == Duration::ZERO
                && let Some(pid) = pid
            {
                let _ = kill_process(pid, Signal::QUIT);
            }
            if waited > STOP_LIMIT {
                let _ = self.server.kill();
                let _ = self.server.wait();
            }
            std::thread::sleep(Duration::from_millis(5));
            waited += Duration::from_millis(5);
        }
        // Of one that was killed, the others end a moment later, and until then write what we would remove.
        while is_in_use(self.directory.path()) && waited < STOP_LIMIT {
            std::thread::sleep(Duration::from_millis(5));
            waited += Duration::from_millis(5);
        }
    }
}

/// Name of the file in a server's directory that its owner holds locked.
pub(super) const LOCK: &str = "lock";

/// Locks the directory of a server that outlived its owner.
pub(crate) fn lock_left(base: &Path) -> Result<std::fs::File, SourceError> {
    let path = base.join(LOCK);
    let file = std::fs::File::open(&path).map_err(|source| SourceError::Io {
        verb: "lock",
        path: path.clone(),
        source,
    })?;
    file.try_lock().map_err(|error| match error {
        std::fs::TryLockError::WouldBlock => failed(
            ErrorCode::Busy,
            format!("somebody else is at work in {}", base.display()),
            Some("wait until that has ended".into()),
        ),
        std::fs::TryLockError::Error(source) => SourceError::Io { verb: "lock", path, source },
    })?;
    Ok(file)
}

fn lock_directory(base: &Path) -> Result<std::fs::File, SourceError> {
    let path = base.join(LOCK);
    let locked = std::fs::File::create_new(&path).and_then(|file| {
        file.try_lock()?;
        Ok(file)
    });
    locked.map_err(|source| SourceError::Io { verb: "lock", path, source })
}

/// PostgreSQL refuses to run as root.
pub(super) fn unprivileged(run_as: Option<&str>) -> Result<Option<SystemUser>, SourceError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = system_users();
    let wanted: Vec<&str> = match run_as {
        Some(name) => vec![name],
        None => vec!["postgres", "nobody"],
    };
    let found = wanted.iter().find_map(|name| users.iter().find(|user| user.name == *name && user.uid != 0));
    found.cloned().map(Some).ok_or_else(|| {
        failed(
            ErrorCode::Permission,
            format!("PostgreSQL does not run as root, and there is no user {}", wanted.join(" or ")),
            Some("name an unprivileged user".into()),
        )
    })
}

/// The socket's directory: within `base` if the path is short enough, else one of its own.
fn socket_directory(
    base: &Path,
    user: Option<&SystemUser>,
    cx: &Cx,
) -> Result<(PathBuf, Option<PrivateDir>), SourceError> {
    let fits = |directory: &Path| {
        directory.join(format!(".s.PGSQL.{PORT}")).as_os_str().len() <= MAX_SOCKET_PATH
            && directory.to_str().is_some_and(|path| !path.contains([',', '"', '\'']))
    };
    let inside = base.join("socket");
    if fits(&inside) {
        let made = std::fs::DirBuilder::new().mode(0o700).create(&inside);
        made.map_err(|source| SourceError::Io { verb: "create", path: inside.clone(), source })?;
        give(&inside, user)?;
        return Ok((inside, None));
    }
    let own = PrivateDir::create(Path::new("/tmp"), cx)?;
    give(own.path(), user)?;
    Ok((own.path().to_owned(), Some(own)))
}

/// What a server said before it ended: why, if it said so, and its last lines if not.
fn last_words(said: &str) -> String {
    let is_why = |line: &&str| ["FATAL: ", "PANIC: ", "hikae-wal: "].iter().any(|mark| line.contains(mark));
    // Who asked while it started was told so in lines of the same kind.
    let is_answer = |line: &&str| line.contains("the database system is ");
    let why: Vec<&str> = said.lines().filter(is_why).filter(|line| !is_answer(line)).take(3).collect();
    match why.is_empty() {
        false => why.join("; "),
        true => {
            let last: Vec<&str> = said.lines().rev().take(3).collect();
            last.into_iter().rev().collect::<Vec<_>>().join("; ")
        }
    }
}

/// Gives a directory and all that is in it to a user and a group. No link is followed.
pub(crate) fn give_tree(top: &Path, (uid, gid): (u32, u32)) -> Result<(), SourceError> {
    let mut waiting = vec![top.to_owned()];
    while let Some(path) = waiting.pop() {
        let refused = |source| SourceError::Io { verb: "give away", path: path.clone(), source };
        lchown(&path, Some(uid), Some(gid)).map_err(refused)?;
        if std::fs::symlink_metadata(&path).map_err(refused)?.is_dir() {
            let entries = std::fs::read_dir(&path).map_err(refused)?;
            waiting.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
        }
    }
    Ok(())
}

fn give(path: &Path, user: Option<&SystemUser>) -> Result<(), SourceError> {
    let Some(user) = user else { return Ok(()) };
    chown(path, Some(user.uid), Some(user.gid)).map_err(|source| SourceError::Io {
        verb: "give away",
        path: path.to_owned(),
        source,
    })
}

/// Writes a file that belongs to the server's user.
pub(super) fn write(path: &Path, text: &str, user: Option<&SystemUser>) -> Result<(), SourceError> {
    std::fs::write(path, text).map_err(|source| SourceError::Io {
        verb: "write",
        path: path.to_owned(),
        source,
    })?;
    give(path, user)
}

/// Every directory above must let the server's user pass.
fn see_reachable(path: &Path, user: Option<&SystemUser>) -> Result<(), SourceError> {
    let Some(user) = user else { return Ok(()) };
    for directory in path.ancestors().skip(1).filter(|directory| !directory.as_os_str().is_empty()) {
        let Ok(metadata) = std::fs::metadata(directory) else { continue };
        let bit = match (metadata.uid() == user.uid, metadata.gid() == user.gid) {
            (true, _) => 0o100,
            (false, true) => 0o010,
            (false, false) => 0o001,
        };
        if metadata.mode() & bit == 0 {
            return Err(failed(
                ErrorCode::Permission,
                format!("user {} may not pass through {}", user.name, directory.display()),
                Some("choose a scratch directory that other users can reach, as /var/tmp".into()),
            ));
        }
    }
    Ok(())
}

/// Starts the server, fenced off from the network if we may.
fn spawn_server(
    programs: &Programs,
    user: Option<&SystemUser>,
    base: &Path,
    sockets: &Path,
    options: &ClusterOptions,
) -> Result<(std::process::Child, bool), SourceError> {
    let mut settings: Vec<(String, String)> = [
        ("archive_mode", "off"),
        ("listen_addresses", ""),
        ("port", &PORT.to_string()),
        ("fsync", "off"),
        ("full_page_writes", "off"),
        ("synchronous_commit", "off"),
        ("wal_level", "minimal"),
        ("max_wal_senders", "0"),
        ("max_wal_size", "8GB"),
        ("checkpoint_timeout", "1h"),
        ("autovacuum", "off"),
        ("maintenance_work_mem", "256MB"),
        ("max_connections", "50"),
        ("max_locks_per_transaction", "1024"),
        ("max_logical_replication_workers", "0"),
        ("shared_preload_libraries", ""),
        ("jit", "off"),
        ("logging_collector", "off"),
        ("log_destination", "stderr"),
        ("lc_messages", "C"),
        ("timezone", "UTC"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let path = |path: &Path| path.to_string_lossy().into_owned();
    settings.push(("unix_socket_directories".into(), path(sockets)));
    settings.push(("hba_file".into(), path(&base.join("hba.conf"))));
    settings.push(("ident_file".into(), path(&base.join("ident.conf"))));
    settings.extend(options.settings.iter().cloned());

    let mut arguments: Vec<OsString> = vec!["-D".into(), base.join("data").into()];
    for (name, value) in settings {
        arguments.push("-c".into());
        arguments.push(format!("{name}={value}").into());
    }
    let mut command = std::process::Command::new(programs.path("postgres"));
    use std::os::unix::process::CommandExt as _;
    let mut fenced = false;
    let wants_network = options.settings.iter().any(|(name, _)| name == "listen_addresses");
    if let Some(user) = user {
        let fence = [Path::new("/usr/bin/unshare"), Path::new("/usr/bin/setpriv")];
        if !wants_network && fence.iter().all(|program| program.exists()) && may_unshare(fence[0]) {
            fenced = true;
            // Both replace themselves, so the process that we started is the server.
            command = std::process::Command::new(fence[0]);
            command.args(["--net", "--"]).arg(fence[1]);
            command.arg(format!("--reuid={}", user.uid)).arg(format!("--regid={}", user.gid));
            command.args(["--clear-groups", "--no-new-privs", "--"]).arg(programs.path("postgres"));
        } else {
            command.uid(user.uid).gid(user.gid);
        }
    }
    let log = base.join("log");
    let open = || std::fs::OpenOptions::new().append(true).open(&log);
    let failed_at = |path: &Path| {
        let path = path.to_owned();
        move |source| SourceError::Io { verb: "run", path, source }
    };
    let (stdout, stderr) = (open().map_err(failed_at(&log))?, open().map_err(failed_at(&log))?);
    command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").current_dir(base);
    command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    // Who presses Ctrl-C interrupts us, and we stop it, unless it is to run on.
    command.process_group(0);
    Ok((command.spawn().map_err(failed_at(&programs.path("postgres")))?, fenced))
}

/// Whether a network namespace can be made: not in every container.
fn may_unshare(unshare: &Path) -> bool {
    let mut command = std::process::Command::new(unshare);
    command.args(["--net", "--", "/bin/true"]).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_whose_owner_was_killed_is_cleared_away() {
        let parent = tempfile::Builder::new().prefix("sweep").tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(parent.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let options = ClusterOptions { major: 13, ..ClusterOptions::default() };
        let cx = hikae_testkit::system_cx();
        let environment = Environment::bare(parent.path().to_owned());
        let mut cluster = Cluster::start(&options, parent.path(), &environment, &cx).unwrap();
        sweep(parent.path());
        assert!(Client::connect(cluster.connection(), cx.cancel()).is_ok(), "one in use stays");
        cluster._lock.unlock().unwrap(); // as the system does when its owner ends
        sweep(parent.path());
        assert!(!cluster.directory().exists());
        let ended = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            matches!(cluster.server.try_wait(), Ok(Some(_)))
        });
        assert!(ended, "the server runs on");
    }
}
