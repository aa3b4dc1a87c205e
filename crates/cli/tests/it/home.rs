//! A home of its own for each test, and the program run in it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// A user without rights, whom Linux systems know as `nobody`.
const NOBODY: u32 = 65534;

/// A home directory with nothing in it, gone afterwards.
pub struct Home {
    root: TempDir,
    /// Whether the program runs as nobody: root can read everything, so some tests need another.
    as_nobody: bool,
}

/// What a run of the program said and how it ended.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Home {
    pub fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap(), as_nobody: false }
    }

    /// A home in which the program has no more rights than any user.
    pub fn of_nobody() -> Self {
        let home = Self { as_nobody: is_root(), ..Self::new() };
        home.hand_over();
        home
    }

    /// Gives all that is in the home to whom the program runs as.
    pub fn hand_over(&self) {
        if self.as_nobody {
            give(self.root.path());
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Writes a file, with the directories above it.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        self.hand_over();
        path
    }

    /// Writes a file that its owner alone may read.
    pub fn write_private(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.write(name, content);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// Writes the configuration.
    pub fn configure(&self, text: &str) -> PathBuf {
        self.write_private("config/hikae/config.toml", text)
    }

    pub fn store(&self) -> PathBuf {
        self.path("data/hikae/main")
    }

    pub fn key_file(&self) -> PathBuf {
        self.path("config/hikae/main.key")
    }

    /// The program, in an environment that holds this home and nothing else.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.program(env!("CARGO_BIN_EXE_hikae"));
        command.args(arguments);
        command
    }

    /// Any program, in that environment.
    pub fn program(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.root.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.root.path())
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("XDG_DATA_HOME", self.path("data"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("TMPDIR", self.root.path())
            .env("TZ", "Asia/Tokyo")
            .envs(hikae_testkit::sabotage())
            .stdin(Stdio::null());
        if self.as_nobody {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(&self.command(arguments).output().unwrap())
    }

    /// Runs the program and expects this exit code.
    #[track_caller]
    pub fn expect(&self, code: i32, arguments: &[&str]) -> Ran {
        let ran = self.run(arguments);
        assert_eq!(ran.code, Some(code), "hikae {}\n{}\n{}", arguments.join(" "), ran.stdout, ran.stderr);
        ran
    }

    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let ran = self.expect(0, &[arguments, &["--json"]].concat());
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error} in {}", ran.stdout))
    }
}

impl Ran {
    pub fn of(output: &Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own)).ok() == Some(0)
}

fn give(path: &Path) {
    chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| give(&entry.unwrap().path()));
    }
}
