//! A real S3 server for tests: SeaweedFS on free ports, with all it keeps in a directory that goes away with it.

use crate::{not_run, system_cx};
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A server that runs as long as this lives.
pub struct SeaweedFs {
    child: Child,
    port: u16,
    directory: TempDir,
}

/// More than it needs on a machine with a lot else to do.
const STARTS_WITHIN: Duration = Duration::from_secs(120);

impl SeaweedFs {
    /// What opens it.
    pub const ACCESS_KEY: &str = "testaccess";
    /// The secret half of it.
    pub const SECRET_KEY: &str = "testsecret0123456789";

    /// Starts one. Nothing if its program is not here; then the test is told to be not run.
    ///
    /// # Panics
    /// If it does not start.
    #[track_caller]
    pub fn start() -> Option<Self> {
        let Some(program) = tool("weed", "HIKAE_WEED") else {
            not_run("there is no `weed` (SeaweedFS): ./check installs it");
            return None;
        };
        // Another process may take a port before the server does.
        for _ in 0..5 {
            if let Some(server) = Self::try_start(&program) {
                return Some(server);
            }
        }
        panic!("SeaweedFS does not start");
    }

    fn try_start(program: &Path) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        let identities = format!(
            r#"{{"identities": [{{"name": "admin", "credentials": [{{"accessKey": "{}", "secretKey": "{}"}}],
                "actions": ["Admin", "Read", "Write", "List", "Tagging"]}}]}}"#,
            Self::ACCESS_KEY,
            Self::SECRET_KEY
        );
        std::fs::write(path("s3.json"), identities).expect("a file");
        std::fs::create_dir(path("data")).expect("a directory");
        let [master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3, s3_grpc] = free_ports();
        let log = File::create(path("log")).expect("a file");
        let sockets = [("-filer.localSocket", path("filer.sock")), ("-s3.localSocket", path("s3.sock"))];
        let child = Command::new(program)
            .arg("server")
            .args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", "-master.telemetry=false"])
            .args([
                "-master.volumeSizeLimitMB=256",
                "-volume.max=64",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
            ])
            .arg(format!("-dir={}", path("data").display()))
            .arg(format!("-s3.config={}", path("s3.json").display()))
            .args(sockets.map(|(option, path)| format!("{option}={}", path.display())))
            .args([
                format!("-master.port={master}"),
                format!("-master.port.grpc={master_grpc}"),
                format!("-volume.port={volume}"),
                format!("-volume.port.grpc={volume_grpc}"),
                format!("-filer.port={filer}"),
                format!("-filer.port.grpc={filer_grpc}"),
                format!("-s3.port={s3}"),
                format!("-s3.port.grpc={s3_grpc}"),
            ])
            .env("HOME", directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .expect("weed starts");
        let mut server = Self { child, port: s3, directory };
        let cx = system_cx();
        while cx.elapsed() < STARTS_WITHIN {
            if server.child.try_wait().expect("a child").is_some() {
                eprintln!(
                    "{}",
                    std::fs::read_to_string(server.directory.path().join("log")).unwrap_or_default()
                );
                return None;
            }
            if is_healthy(s3) {
                return Some(server);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    }

    /// Its address.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for SeaweedFs {
    fn drop(&mut self) {
        // It takes half a minute to end in peace, and nothing of it is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program that a variable names, or beside the Python that `./check` set up, or on the path.
pub(crate) fn tool(name: &str, variable: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(PathBuf::from);
    let beside = std::env::var_os("HIKAE_PYTHON").map(|python| Path::new(&python).with_file_name(name));
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/venv/bin").join(name);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|directory| directory.join(name));
    named.into_iter().chain(beside).chain([workspace]).chain(on_path).find(|program| program.is_file())
}

pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"));
    held.map(|listener| listener.local_addr().expect("an address").port())
}

fn is_healthy(port: u16) -> bool {
    use std::io::{Read, Write};
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer)?;
        Ok(&answer[9..] == b"200")
    };
    ask().unwrap_or(false)
}
