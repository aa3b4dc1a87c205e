//! A real SSH server for tests: OpenSSH's own on a free port, with keys of its own, in a directory that goes away with it.

use crate::{not_run, system_cx};
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A server that runs as long as this lives. It lets in whoever the tests run as, with the key in [`key`](Self::key).
pub struct OpenSsh {
    child: Child,
    port: u16,
    directory: TempDir,
}

/// More than it needs on a machine with a lot else to do.
const STARTS_WITHIN: Duration = Duration::from_secs(60);

impl OpenSsh {
    /// Starts one. Nothing if its program is not here; then the test is told to be not run.
    ///
    /// # Panics
    /// If it does not start.
    #[track_caller]
    pub fn start() -> Option<Self> {
        Self::start_without(&[])
    }

    /// The same, of a server that does not know these requests, as `fsync` or `hardlink`.
    ///
    /// # Panics
    /// If it does not start.
    #[track_caller]
    pub fn start_without(requests: &[&str]) -> Option<Self> {
        let Some(program) = program() else {
            not_run("there is no `sshd`: ./check installs openssh-server");
            return None;
        };
        // Another process may take the port before the server does.
        for _ in 0..5 {
            if let Some(server) = Self::try_start(&program, requests) {
                return Some(server);
            }
        }
        panic!("sshd does not start");
    }

    fn try_start(program: &Path, without: &[&str]) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        for name in ["host", "id", "other"] {
            make_key(&path(name));
        }
        std::fs::copy(path("id.pub"), path("authorized")).expect("a file");
        std::fs::create_dir(path("data")).expect("a directory");
        if rustix::process::geteuid().is_root() {
            // It parts with its rights there.
            std::fs::create_dir_all("/run/sshd").expect("a directory");
        }
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|held| held.local_addr());
        let port = port.expect("a free port").port();
        let without = match without {
            [] => String::new(),
            requests => format!(" -P {}", requests.join(",")),
        };
        let settings = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nPidFile none\nAuthorizedKeysFile {}\nStrictModes no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nMaxStartups 100\n\
             PerSourcePenalties no\nSubsystem sftp internal-sftp{without}\n",
            path("host").display(),
            path("authorized").display(),
        );
        // Newer ones shut out who fails to log in, older ones do not know the word.
        let settings =
            if knows_penalties(program) { settings } else { settings.replace("PerSourcePenalties no\n", "") };
        std::fs::write(path("config"), settings).expect("a file");
        let log = File::create(path("log")).expect("a file");
        let child = Command::new(program)
            .args(["-D", "-e", "-f"])
            .arg(path("config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("sshd starts");
        let mut server = Self { child, port, directory };
        let cx = system_cx();
        while cx.elapsed() < STARTS_WITHIN {
            if server.child.try_wait().expect("a child").is_some() {
                eprintln!("{}", server.log());
                return None;
            }
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Some(server);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    /// The process that takes connections; each is served by children of it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The port on which it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Who is let in.
    ///
    /// # Panics
    /// If the system does not know who we are.
    pub fn user(&self) -> String {
        let out = Command::new("id").arg("-un").output().expect("id runs");
        String::from_utf8(out.stdout).expect("a name").trim().to_owned()
    }

    /// The private key that lets one in.
    pub fn key(&self) -> PathBuf {
        self.directory.path().join("id")
    }

    /// A private key that does not.
    pub fn another_key(&self) -> PathBuf {
        self.directory.path().join("other")
    }

    /// The fingerprint of the server's own key.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.directory.path().join("host.pub"))
    }

    /// The fingerprint of a key that the server does not have.
    pub fn another_fingerprint(&self) -> String {
        fingerprint(&self.directory.path().join("other.pub"))
    }

    /// The server's own key as a line of a file of known servers, for a server on this port.
    ///
    /// # Panics
    /// If it cannot be read.
    pub fn known_host(&self, port: u16) -> String {
        let key = std::fs::read_to_string(self.directory.path().join("host.pub")).expect("a key");
        format!("[127.0.0.1]:{port} {key}")
    }

    /// A directory that the server can write to.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// What it said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for OpenSsh {
    fn drop(&mut self) {
        // What serves a connection ends with that.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn make_key(path: &Path) {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "hikae-test", "-f"])
        .arg(path)
        .status()
        .expect("ssh-keygen runs");
    assert!(made.success());
}

fn fingerprint(public: &Path) -> String {
    let out = Command::new("ssh-keygen").args(["-l", "-f"]).arg(public).output().expect("ssh-keygen runs");
    let text = String::from_utf8(out.stdout).expect("text");
    text.split_whitespace().nth(1).expect("a fingerprint").to_owned()
}

fn knows_penalties(program: &Path) -> bool {
    // It ends with what it does not know.
    let tried = Command::new(program).args(["-G", "-f", "/dev/null", "-o", "PerSourcePenalties=no"]).output();
    tried.is_ok_and(|out| out.status.success())
}

/// sshd stands where only root looks, and is to be called by its whole path.
fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|directory| directory.join("sshd"));
    ["/usr/sbin/sshd", "/usr/local/sbin/sshd"]
        .into_iter()
        .map(PathBuf::from)
        .chain(on_path)
        .find(|path| path.is_file())
}
