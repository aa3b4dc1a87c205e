//! rclone as a server of SFTP, for tests: one that takes passwords, syncs nothing, and whose rename writes over what is there.
//! What it keeps is in a directory that goes away with it.

use crate::seaweed::{free_ports, tool};
use crate::{not_run, system_cx};
use std::fs::File;
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A server that runs as long as this lives.
pub struct Rclone {
    child: Child,
    port: u16,
    directory: TempDir,
}

const STARTS_WITHIN: Duration = Duration::from_secs(60);

impl Rclone {
    /// Who is let in.
    pub const USER: &str = "testaccess";
    /// With which password.
    pub const PASSWORD: &str = "testsecret0123456789";

    /// Starts one. Nothing if its program is not here; then the test is told to be not run.
    ///
    /// # Panics
    /// If it does not start.
    #[track_caller]
    pub fn start() -> Option<Self> {
        let Some(program) = tool("rclone", "HIKAE_RCLONE") else {
            not_run("there is no `rclone`: ./check installs it");
            return None;
        };
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        std::fs::create_dir(path("data")).expect("a directory");
        let log = File::create(path("log")).expect("a file");
        let [port] = free_ports();
        let child = Command::new(program)
            .arg("--config")
            .arg(path("none"))
            .arg("--cache-dir")
            .arg(path("cache"))
            .args(["serve", "sftp", "--user", Self::USER, "--pass", Self::PASSWORD])
            // Without its cache it writes from start to end only.
            .args(["--vfs-cache-mode", "full", "--addr", &format!("127.0.0.1:{port}")])
            .arg(path("data"))
            .env("HOME", directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("rclone starts");
        let server = Self { child, port, directory };
        let cx = system_cx();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            let log = std::fs::read_to_string(server.directory.path().join("log")).unwrap_or_default();
            assert!(cx.elapsed() < STARTS_WITHIN, "rclone does not start\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(server)
    }

    /// Its port, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What is below its root.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }
}

impl Drop for Rclone {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
