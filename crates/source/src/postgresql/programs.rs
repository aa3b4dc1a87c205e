//! PostgreSQL's own programs: finding the right ones and running them.
//!
//! - Arguments go as a list, never through a shell; the environment is cleared; passwords go by a password file of mode
//!   0600 in a directory of our own.
//! - A program has succeeded if it exits with 0 *and* named no error. Its whole standard error is read.

use super::connection::Connection;
use super::password::pgpass_line;
use crate::SourceError;
use hikae_model::{Cx, ErrorCode, sabotage};
use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

/// What of its surroundings this source uses, so that nothing else asks the process for it.
#[derive(Clone, Debug)]
pub struct Environment {
    /// Directories in which programs are looked for first, as in `PATH`.
    pub path: Vec<PathBuf>,
    /// The user's home, for `.pgpass`.
    pub home: Option<PathBuf>,
    /// The user's name, the default role.
    pub user: String,
    /// Where private scratch directories are made.
    pub scratch: PathBuf,
}

impl Environment {
    /// One that names only the usual places: no home, and the role `postgres`.
    pub fn bare(scratch: PathBuf) -> Self {
        let path = ["/usr/local/bin", "/usr/bin", "/bin"].map(PathBuf::from).to_vec();
        Self { path, home: None, user: "postgres".into(), scratch }
    }
}

/// A user of the operating system, to run programs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SystemUser {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// The users in `/etc/passwd`.
pub(super) fn system_users() -> Vec<SystemUser> {
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let parse = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(SystemUser { name, uid, gid })
    };
    text.lines().filter_map(parse).collect()
}

/// One installation of PostgreSQL's programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Programs {
    pub(super) directory: PathBuf,
    /// As `15.13`.
    pub(super) version: String,
    pub(super) major: u32,
}

impl Programs {
    /// Path of one program.
    pub(super) fn path(&self, program: &str) -> PathBuf {
        self.directory.join(program)
    }
}

/// Where packages and sources put PostgreSQL, besides `PATH`.
const USUAL_PARENTS: [&str; 4] = ["/usr/lib/postgresql", "/usr/local", "/opt", "/usr"];

/// Finds the installation that has `program` and whose major version is `major` or, failing that, the next above.
///
/// # Errors
/// [`SourceError::Failed`] that says what was found instead and what to install.
pub(super) fn find(
    program: &str,
    major: u32,
    directory: Option<&Path>,
    environment: &Environment,
) -> Result<Programs, SourceError> {
    let found = installed(program, directory, environment);
    let best = found.iter().filter(|programs| programs.major >= major).min_by_key(|programs| programs.major);
    best.cloned().ok_or_else(|| {
        let newest = found.iter().max_by_key(|programs| programs.major);
        SourceError::Failed {
            // The server may well be there and answer: these are not `SourceMissing`.
            code: match newest {
                Some(_) if program == "pg_dump" => ErrorCode::PgDumpTooOld,
                Some(_) | None => ErrorCode::Usage,
            },
            what: match newest {
                Some(newest) => format!(
                    "the server is PostgreSQL {major} and the newest {program} here is {} in {}",
                    newest.version,
                    newest.directory.display()
                ),
                None => format!("{program} is not installed here"),
            },
            advice: Some(match program {
                "postgres" | "initdb" => format!("install postgresql-{major} or newer").into(),
                _ => format!(
                    "install postgresql-client-{major} or newer, or set program_directory to where {program} {major} is"
                )
                .into(),
            }),
        }
    })
}

/// All installations that have `program`: in `directory` if one is named, else in the usual ones.
pub(super) fn installed(program: &str, directory: Option<&Path>, environment: &Environment) -> Vec<Programs> {
    let directories = match directory {
        Some(directory) => vec![directory.to_owned()],
        None => usual_directories(environment),
    };
    directories.iter().filter_map(|directory| look_at(directory, program)).collect()
}

fn usual_directories(environment: &Environment) -> Vec<PathBuf> {
    let mut directories = environment.path.clone();
    for parent in USUAL_PARENTS {
        let Ok(children) = std::fs::read_dir(parent) else { continue };
        let mut children: Vec<PathBuf> = children.filter_map(|child| Some(child.ok()?.path())).collect();
        children.sort();
        let looks_right = |path: &PathBuf| {
            parent == "/usr/lib/postgresql"
                || path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pgsql"))
        };
        directories.extend(children.into_iter().filter(looks_right).map(|child| child.join("bin")));
    }
    directories
}

/// What `program --version` in `directory` says.
fn look_at(directory: &Path, program: &str) -> Option<Programs> {
    let path = directory.join(program);
    // Debian's /usr/bin/pg_dump is a script that picks a version by itself; we pick.
    let real = std::fs::canonicalize(&path).ok()?;
    if real.file_name().is_some_and(|name| name == "pg_wrapper") {
        return None;
    }
    let output = bare_command(&path).arg("--version").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let version = text.split_once("(PostgreSQL) ")?.1.split_whitespace().next()?.to_owned();
    let major = version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
    // Where the program really is, its fellows are too; a link to it may stand alone.
    Some(Programs { directory: real.parent()?.to_owned(), version, major })
}

fn bare_command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").env("HOME", "/nonexistent");
    command
}

/// A directory of our own, mode 0700, gone with all in it when dropped, unless it is to stay.
pub(super) struct PrivateDir {
    path: PathBuf,
    stays: bool,
}

impl PrivateDir {
    pub(super) fn create(parent: &Path, cx: &Cx) -> Result<Self, SourceError> {
        let name: String = cx.random::<8>().iter().map(|byte| format!("{byte:02x}")).collect();
        let path = parent.join(format!("hikae-{name}"));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|source| SourceError::Io { verb: "create", path: path.clone(), source })?;
        Ok(Self { path, stays: false })
    }

    /// One that was left before, and stays until it is told otherwise.
    pub(super) fn left(path: PathBuf) -> Self {
        Self { path, stays: true }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it outlives us.
    pub(super) fn set_stays(&mut self, stays: bool) {
        self.stays = stays;
    }

    /// Writes a password file for `connection`, if it has a password. Returns its path.
    pub(super) fn write_pgpass(&self, connection: &Connection) -> Result<Option<PathBuf>, SourceError> {
        let Some(password) = &connection.password else { return Ok(None) };
        let path = self.path.join("pgpass");
        let written = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(pgpass_line(connection, password).as_bytes()));
        written.map_err(|source| SourceError::Io { verb: "write", path: path.clone(), source })?;
        Ok(Some(path))
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        if !self.stays {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// A program under way. Dropped early, it is killed.
pub(super) struct Running {
    name: String,
    child: std::process::Child,
    errors: Option<JoinHandle<String>>,
}

/// As much of a program's standard error as is kept.
const MAX_ERROR_BYTES: usize = 64 << 10;

impl Running {
    /// Starts `program` with `arguments`, as `user` if one is given.
    pub(super) fn start(
        program: &Path,
        arguments: &[OsString],
        user: Option<&SystemUser>,
        stdin: Stdio,
        stdout: Stdio,
    ) -> Result<Self, SourceError> {
        let mut command = bare_command(program);
        command.args(arguments).stdin(stdin).stdout(stdout).stderr(Stdio::piped());
        if let Some(user) = user {
            command.uid(user.uid).gid(user.gid).current_dir("/");
        }
        let failed = |source| SourceError::Io { verb: "run", path: program.to_owned(), source };
        let mut child = command.spawn().map_err(failed)?;
        let errors = child.stderr.take().map(|mut stderr| {
            std::thread::spawn(move || {
                let mut kept = Vec::new();
                let mut buffer = [0; 4096];
                // Read to the end even when no more is kept: a full pipe would stop the program.
                while let Ok(n @ 1..) = stderr.read(&mut buffer) {
                    let room = MAX_ERROR_BYTES.saturating_sub(kept.len());
                    kept.extend(&buffer[..n.min(room)]);
                }
                String::from_utf8_lossy(&kept).into_owned()
            })
        });
        let name = program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Self { name, child, errors })
    }

    pub(super) fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    pub(super) fn stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.child.stdin.take()
    }

    /// Waits for the end of a program whose output was read to its end. The error is a sentence.
    pub(super) fn finish(mut self) -> Result<(), String> {
        let status = self.child.wait().map_err(|error| format!("{}: {error}", self.name))?;
        self.judge(status)
    }

    /// Waits for the end, and kills the program if the work is cancelled.
    pub(super) fn wait(mut self, cx: &Cx) -> Result<(), SourceError> {
        let mut pause = Duration::from_millis(1);
        loop {
            cx.check()?;
            let polled = self.child.try_wait();
            let polled = polled.map_err(|source| SourceError::Io {
                verb: "run",
                path: self.name.clone().into(),
                source,
            });
            if let Some(status) = polled? {
                let judged = self.judge(status);
                return judged.map_err(|what| SourceError::Failed {
                    code: ErrorCode::Failure,
                    what,
                    advice: None,
                });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    fn judge(&mut self, status: ExitStatus) -> Result<(), String> {
        let errors = self.errors.take().map(|thread| thread.join().unwrap_or_default()).unwrap_or_default();
        let says_error =
            |line: &&str| line.contains("error: ") || line.contains("ERROR: ") || line.contains("FATAL: ");
        let first = errors.lines().find(says_error);
        if (status.success() || sabotage::on("exit-ignored")) && first.is_none() {
            return Ok(());
        }
        // Several lines, because pg_restore says in the second which object it was at.
        let said: Vec<&str> = match first {
            Some(_) => errors.lines().skip_while(|line| !says_error(line)).take(4).collect(),
            None => errors.lines().take(4).collect(),
        };
        Err(format!("{} failed ({status}): {}", self.name, super::connection::shown_name(&said.join("; "))))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(arguments: &[&str]) -> Result<(), String> {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        Running::start(Path::new("/bin/sh"), &arguments, None, Stdio::null(), Stdio::null()).unwrap().finish()
    }

    #[test]
    fn a_program_that_names_an_error_has_failed_whatever_it_exits_with() {
        assert!(run(&["-c", "exit 0"]).is_ok());
        assert!(run(&["-c", "echo 'pg_dump: warning: circular foreign keys' >&2"]).is_ok());
        assert!(run(&["-c", "echo 'pg_dump: error: out of memory' >&2; exit 0"]).is_err());
        assert!(run(&["-c", "exit 1"]).is_err());
        assert!(run(&["-c", "kill -9 $$"]).is_err());
    }

    #[test]
    fn programs_get_no_environment() {
        let mut running =
            Running::start(Path::new("/usr/bin/env"), &[], None, Stdio::null(), Stdio::piped()).unwrap();
        let mut text = String::new();
        running.stdout().unwrap().read_to_string(&mut text).unwrap();
        running.finish().unwrap();
        let mut names: Vec<&str> = text.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        names.sort_unstable();
        assert_eq!(names, ["HOME", "LC_ALL", "PATH"]);
    }
}
