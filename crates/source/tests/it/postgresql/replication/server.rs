//! A server that replicates, can be killed and started again; and a directory that keeps what is streamed from it.

use super::super::standby::as_owner;
use super::*;
use hikae_model::{Cancel, Lsn, SegmentName, Timeline, WalName};
use hikae_source::postgresql::replication::{
    FollowOptions, ReplicationError, Retry, SinkError, SlotName, WalPosition, WalSink, follow,
};
use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

/// A server that lets anybody replicate, and keeps all its WAL.
pub(super) struct Server {
    pub(super) cluster: Cluster,
    again: Mutex<Option<Child>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if let Some(mut child) = self.again.lock().unwrap().take() {
            let _ = child.wait();
        }
    }
}

pub(super) fn replicating() -> ClusterOptions {
    let settings = [
        ("wal_level", "replica"),
        ("full_page_writes", "on"),
        ("max_wal_senders", "5"),
        ("max_replication_slots", "6"),
        ("wal_keep_size", "2GB"),
    ];
    ClusterOptions { initdb: vec!["--wal-segsize=1".into()], ..options(&settings) }
}

impl Server {
    pub(super) fn start(options: &ClusterOptions) -> Self {
        let server = Self { cluster: start_with(options), again: Mutex::default() };
        server.set_hba("local all all trust\nlocal replication all trust\n");
        server
    }

    /// Sets who may enter how, and waits until that holds.
    pub(super) fn set_hba(&self, lines: &str) {
        std::fs::write(self.cluster.directory().join("hba.conf"), lines).unwrap();
        let n_rules = lines.lines().count() as i64;
        self.sql("SELECT pg_reload_conf()");
        // Read by each session when it starts; what this view reads is the file itself, so a moment more is needed.
        self.wait_for(&format!("SELECT count(*) = {n_rules} FROM pg_hba_file_rules"));
        std::thread::sleep(Duration::from_millis(200));
    }

    pub(super) fn client(&self) -> postgres::Client {
        enter(self.cluster.connection(), "postgres", "postgres")
    }

    #[track_caller]
    pub(super) fn sql(&self, sql: &str) {
        self.client().batch_execute(sql).unwrap_or_else(|error| panic!("{error:?} in {sql}"));
    }

    #[track_caller]
    pub(super) fn text(&self, sql: &str) -> Option<String> {
        self.client().query_one(sql, &[]).unwrap_or_else(|error| panic!("{error:?} in {sql}")).get(0)
    }

    #[track_caller]
    pub(super) fn wait_for(&self, sql: &str) {
        for _ in 0..400 {
            if self.client().query_one(sql, &[]).is_ok_and(|row| row.get::<_, Option<bool>>(0) == Some(true))
            {
                return;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        panic!("it never came to {sql}");
    }

    /// Where its WAL ends, all of it flushed; the segment before is whole.
    pub(super) fn switch(&self) -> Lsn {
        self.sql("SELECT pg_switch_wal()");
        self.sql("CHECKPOINT");
        self.text("SELECT pg_current_wal_flush_lsn()::text").unwrap().parse().unwrap()
    }

    pub(super) fn sockets(&self) -> PathBuf {
        let Host::Socket(directory) = &self.cluster.connection().host else { panic!("not a socket") };
        directory.clone()
    }

    pub(super) fn data(&self) -> PathBuf {
        self.cluster.directory().join("data")
    }

    /// One of its programs, told where it is. `None` if it came without those for clients.
    pub(super) fn program(&self, name: &str) -> Option<Command> {
        let program = self.cluster.program_directory().join(name);
        if !program.exists() {
            return None;
        }
        let mut command = as_owner(&program, self.cluster.directory());
        command.arg("-h").arg(self.sockets()).args(["-U", "postgres"]);
        Some(command)
    }

    /// Ends it without any farewell, as a crash does.
    pub(super) fn kill(&self) {
        self.signal(Signal::QUIT);
    }

    /// Shuts it down.
    pub(super) fn stop(&self) {
        self.signal(Signal::INT);
    }

    /// Tells it to end, and waits until it has.
    fn signal(&self, signal: Signal) {
        let Ok(text) = std::fs::read_to_string(self.data().join("postmaster.pid")) else { return };
        let pid = text.lines().next().and_then(|line| line.parse().ok()).and_then(Pid::from_raw).unwrap();
        let _ = kill_process(pid, signal);
        for _ in 0..800 {
            if let Some(child) = &mut *self.again.lock().unwrap() {
                let _ = child.try_wait();
            }
            if !self.data().join("postmaster.pid").exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        panic!("the server does not end");
    }

    /// Starts it again.
    pub(super) fn start_again(&self) {
        self.start_again_with(&["wal_keep_size=2GB"]);
    }

    /// Starts it again, with settings.
    pub(super) fn start_again_with(&self, settings: &[&str]) {
        let base = self.cluster.directory();
        let mut command = as_owner(&self.cluster.program_directory().join("postgres"), base);
        command.arg("-D").arg(self.data());
        let sockets = self.sockets();
        for setting in [
            "listen_addresses=".into(),
            "port=5432".into(),
            "fsync=off".into(),
            "max_wal_senders=5".into(),
            format!("unix_socket_directories={}", sockets.display()),
            format!("hba_file={}", base.join("hba.conf").display()),
            format!("ident_file={}", base.join("ident.conf").display()),
        ] {
            command.arg("-c").arg(setting);
        }
        command.args(settings.iter().flat_map(|setting| ["-c", setting]));
        let log = std::fs::OpenOptions::new().append(true).open(base.join("log")).unwrap();
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        if let Some(mut before) = self.again.lock().unwrap().replace(child) {
            let _ = before.wait();
        }
        let mut config = postgres::Config::new();
        config.host_path(&sockets).port(5432).user("postgres").dbname("postgres");
        for _ in 0..400 {
            if config.connect(postgres::NoTls).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        panic!("the server does not start again: {}", std::fs::read_to_string(base.join("log")).unwrap());
    }

    pub(super) fn follow_options(&self) -> FollowOptions {
        FollowOptions {
            partial_interval: Duration::from_millis(50),
            retry: Retry {
                first: Duration::from_millis(20),
                longest: Duration::from_millis(200),
                budget: Duration::from_secs(20),
            },
            ..FollowOptions::of(self.cluster.connection().clone())
        }
    }

    pub(super) fn slot(&self, name: &str) -> SlotName {
        let slot: SlotName = name.parse().unwrap();
        let mut session =
            hikae_source::postgresql::replication::Session::enter(self.cluster.connection(), &system_cx())
                .unwrap();
        session.create_slot(&slot).unwrap();
        slot
    }
}

/// Rows that make about `mib` MiB of WAL, in as many transactions.
pub(super) fn load(server: &postgres::Config, mib: u32) -> Result<(), postgres::Error> {
    let mut client = server.connect(postgres::NoTls)?;
    client.batch_execute("CREATE TABLE IF NOT EXISTS load (i int, t text)")?;
    for n in 0..mib {
        let row = format!("i, repeat(md5((i + {n})::text), 20)");
        client.batch_execute(&format!("INSERT INTO load SELECT {row} FROM generate_series(1, 1500) i"))?;
    }
    Ok(())
}

pub(super) fn config(connection: &Connection) -> postgres::Config {
    let Host::Socket(directory) = &connection.host else { panic!("not a socket") };
    let mut config = postgres::Config::new();
    config.host_path(directory).port(connection.port).user("postgres").dbname("postgres");
    config
}

/// What a sink in a directory shares with who looks at it.
#[derive(Clone, Default)]
pub(super) struct Kept {
    /// The place before which everything is in the directory.
    pub(super) position: Arc<AtomicU64>,
    /// Says of nothing that it is durable.
    pub(super) never_durable: Arc<AtomicBool>,
}

/// Keeps segments as files.
pub(super) struct Directory {
    path: PathBuf,
    kept: Kept,
    last: Option<SegmentName>,
}

const SEGMENT_BYTES: u64 = 1 << 20;

impl Directory {
    pub(super) fn new(path: &Path, kept: &Kept) -> Self {
        std::fs::create_dir_all(path).unwrap();
        Self { path: path.to_owned(), kept: kept.clone(), last: None }
    }

    fn reached(&self, segment: SegmentName, bytes: usize) {
        let size = hikae_model::SegmentSize::new(SEGMENT_BYTES).unwrap();
        let end = segment.start(size).unwrap().0 + bytes as u64;
        self.kept.position.store(end, Ordering::SeqCst);
    }
}

impl WalSink for Directory {
    fn segment(&mut self, segment: SegmentName, bytes: &[u8]) -> Result<(), SinkError> {
        assert_eq!(bytes.len() as u64, SEGMENT_BYTES);
        assert!(self.last.is_none_or(|last| last < segment), "{segment} came after {:?}", self.last);
        self.last = Some(segment);
        std::fs::write(self.path.join(segment.to_string()), bytes)?;
        let _ = std::fs::remove_file(self.path.join(WalName::Partial(segment).to_string()));
        self.reached(segment, bytes.len());
        Ok(())
    }

    fn partial(&mut self, segment: SegmentName, bytes: &[u8]) -> Result<(), SinkError> {
        assert!(!bytes.is_empty() && (bytes.len() as u64) < SEGMENT_BYTES);
        std::fs::write(self.path.join(WalName::Partial(segment).to_string()), bytes)?;
        self.reached(segment, bytes.len());
        Ok(())
    }

    fn history(&mut self, timeline: Timeline, text: &[u8]) -> Result<(), SinkError> {
        std::fs::write(self.path.join(WalName::History(timeline).to_string()), text)?;
        Ok(())
    }

    fn durable(&mut self) -> Option<Lsn> {
        let position = Lsn(self.kept.position.load(Ordering::SeqCst));
        (position.0 > 0 && !self.kept.never_durable.load(Ordering::SeqCst)).then_some(position)
    }
}

/// A stream into a directory, on a thread of its own.
pub(super) struct Follower {
    pub(super) kept: Kept,
    pub(super) directory: PathBuf,
    cancel: Cancel,
    thread: Option<std::thread::JoinHandle<Result<Option<WalPosition>, ReplicationError>>>,
}

impl Follower {
    pub(super) fn start(options: FollowOptions, directory: &Path) -> Self {
        let (kept, cx) = (Kept::default(), system_cx());
        let cancel = cx.cancel().clone();
        let mut sink = Directory::new(directory, &kept);
        let thread = std::thread::spawn(move || follow(&options, &mut sink, &cx));
        Self { kept, directory: directory.to_owned(), cancel, thread: Some(thread) }
    }

    pub(super) fn position(&self) -> Lsn {
        Lsn(self.kept.position.load(Ordering::SeqCst))
    }

    /// Waits until everything before `lsn` was kept.
    #[track_caller]
    pub(super) fn wait_for(&mut self, lsn: Lsn) {
        for _ in 0..1200 {
            if self.position() >= lsn {
                return;
            }
            if self.thread.as_ref().is_some_and(|thread| thread.is_finished()) {
                panic!("the stream ended: {:?}", self.end());
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        panic!("{lsn} never came, only {}", self.position());
    }

    /// Waits for its own end.
    pub(super) fn end(&mut self) -> Result<Option<WalPosition>, ReplicationError> {
        self.thread.take().unwrap().join().unwrap()
    }

    /// Ends it.
    pub(super) fn stop(mut self) -> Result<Option<WalPosition>, ReplicationError> {
        self.cancel.cancel();
        self.end()
    }

    /// Compares every segment with the server's own file; says how many there are.
    #[track_caller]
    pub(super) fn compare(&self, pg_wal: &Path) -> usize {
        let mut n_whole = 0;
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.directory).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let ours = std::fs::read(self.directory.join(&name)).unwrap();
            let parsed = name.parse::<WalName>().unwrap();
            let theirs = match parsed {
                // At the end of a timeline the server calls its last segment partial, and it may be whole here.
                WalName::Segment(segment) | WalName::Partial(segment) => {
                    let partial = pg_wal.join(WalName::Partial(segment).to_string());
                    std::fs::read(pg_wal.join(segment.to_string())).or_else(|_| std::fs::read(partial))
                }
                _ => std::fs::read(pg_wal.join(&name)),
            };
            let theirs = theirs.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(ours.len() <= theirs.len() && ours == theirs[..ours.len()], "{name} differs");
            if let WalName::Segment(segment) = parsed {
                assert_eq!(ours.len(), theirs.len(), "{name}");
                n_whole += 1;
                names.push(segment);
            }
        }
        names.sort();
        let size = hikae_model::SegmentSize::new(SEGMENT_BYTES).unwrap();
        for pair in names.windows(2).filter(|pair| pair[0].timeline == pair[1].timeline) {
            assert_eq!(pair[0].next(size), Some(pair[1]), "a segment is missing");
        }
        n_whole
    }
}
