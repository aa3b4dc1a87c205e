//! A repository, the program, and a data directory of a server that need not be there.

use hikae_model::{SystemId, WalName};
use hikae_repo::keys::Secret32;
use hikae_repo::secret_text::{SecretKind, write};
use hikae_repo::slot::{Unlock, Wrap};
use hikae_repo::wal::WalArchive;
use hikae_repo::{InitOptions, Repo};
use hikae_store::{DirectoryStore, Reserve, Store};
use hikae_testkit::system_cx;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

const KEY: [u8; 32] = [42; 32];

/// The cluster of segments that no server wrote.
pub const SYSTEM: SystemId = SystemId(7_123_456_789_012_345_678);

/// Where everything is. Removed when dropped.
pub struct World {
    home: tempfile::TempDir,
}

impl World {
    /// A repository and the program, where a server's user can reach them, and a data directory of [`SYSTEM`].
    pub fn new() -> Self {
        let home = tempfile::Builder::new().prefix("hikae-wal-test-").tempdir_in("/tmp").unwrap();
        let world = Self { home };
        std::fs::set_permissions(world.home.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::copy(env!("CARGO_BIN_EXE_hikae-wal"), world.path("hikae-wal")).unwrap();
        world.make_repository("repo");
        std::fs::create_dir_all(world.path("data/global")).unwrap();
        std::fs::create_dir_all(world.path("data/pg_wal/archive_status")).unwrap();
        std::fs::write(world.path("data/global/pg_control"), SYSTEM.0.to_le_bytes()).unwrap();
        world
    }

    /// Makes a repository that the key file opens.
    pub fn make_repository(&self, name: &str) {
        let (cx, key) = (system_cx(), Secret32::new(KEY));
        let path = self.path(name);
        let store = DirectoryStore::create(&path, Reserve::Bytes(0), cx.random_source()).unwrap();
        let cache = tempfile::tempdir().unwrap();
        let options = InitOptions::opened_by(Wrap::KeyFile(&key));
        Repo::init(Arc::new(store), &options, cache.path(), &cx).unwrap();
        self.write_private("key", write(SecretKind::KeyFile, &key).as_str());
    }

    pub fn write_private(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Gives everything to the owner of `like`.
    pub fn give_to_owner_of(&self, like: &Path) {
        let owner = std::fs::metadata(like).unwrap();
        let owner = format!("{}:{}", owner.uid(), owner.gid());
        assert!(Command::new("chown").args(["-R", &owner]).arg(self.home.path()).status().unwrap().success());
    }

    /// A call of the program, without `%p` and `%f`.
    pub fn call(&self, verb: &str) -> Vec<String> {
        let [program, store, key, cache] =
            ["hikae-wal", "repo", "key", "cache"].map(|name| self.path(name).to_str().unwrap().to_owned());
        let words =
            [&program, verb, "--store", &store, "--key-file", &key, "--cache", &cache, "--patience", "0"];
        words.map(str::to_owned).to_vec()
    }

    /// Runs the program in the data directory.
    pub fn run(&self, verb: &str, more: &[&str]) -> Ran {
        let call = self.call(verb);
        let output =
            Command::new(&call[0]).args(&call[1..]).args(more).current_dir(self.path("data")).output();
        Ran::of(output.unwrap())
    }

    /// Writes a file where the server has its log. Gives what `%p` would be.
    pub fn write_log(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.path("data/pg_wal").join(name), bytes).unwrap();
        format!("pg_wal/{name}")
    }

    /// The archive of the repository, as its owner sees it.
    pub fn archive(&self) -> WalArchive {
        let (unlock, cache) = (Unlock::KeyFile(Secret32::new(KEY)), self.path("cache-of-owner"));
        WalArchive::open(Arc::new(self.store()), unlock, Vec::new(), &cache, &system_cx()).unwrap()
    }

    pub fn store(&self) -> DirectoryStore {
        DirectoryStore::open(&self.path("repo"), Reserve::Usual, system_cx().random_source()).unwrap()
    }

    /// The repository, as its owner sees it.
    pub fn repo(&self) -> Arc<Repo> {
        self.repo_over(self.store())
    }

    /// The same in `store`.
    pub fn repo_over(&self, store: impl Store + 'static) -> Arc<Repo> {
        let unlock = Unlock::KeyFile(Secret32::new(KEY));
        let cache = self.path("cache-of-owner");
        Arc::new(Repo::open(Arc::new(store), unlock, Vec::new(), &cache, &system_cx()).unwrap())
    }

    /// The file in which a file of the log is kept.
    pub fn object(&self, name: &str) -> PathBuf {
        let (mut waiting, name) = (vec![self.path("repo/wal")], name.to_ascii_lowercase());
        while let Some(path) = waiting.pop() {
            for entry in std::fs::read_dir(path).unwrap().flatten() {
                match entry.file_type().unwrap().is_dir() {
                    true => waiting.push(entry.path()),
                    false if entry.file_name().to_string_lossy().contains(&name) => return entry.path(),
                    false => {}
                }
            }
        }
        panic!("{name} is not there")
    }

    /// What is archived under a name.
    pub fn archived(&self, system: SystemId, name: &str) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        self.archive().get(system, parse(name), &mut bytes).unwrap().map(|_| bytes)
    }

    /// Names of all that is archived.
    pub fn names(&self, system: SystemId) -> Vec<String> {
        let listed = self.archive().list().unwrap();
        listed.get(&system).into_iter().flatten().map(|file| file.name.to_string()).collect()
    }
}

pub fn parse(name: &str) -> WalName {
    name.parse().unwrap()
}

/// A segment of 1 MiB as [`SYSTEM`] would write it: the n-th of the first timeline, filled by `seed`.
pub fn segment(n: u32, seed: u8) -> (String, Vec<u8>) {
    segment_of(SYSTEM, n, seed)
}

/// The same of another cluster.
pub fn segment_of(system: SystemId, n: u32, seed: u8) -> (String, Vec<u8>) {
    let size = 1_u32 << 20;
    let mut bytes: Vec<u8> = (0..size).map(|at| (at >> 9) as u8 ^ seed).collect();
    let header = [
        &0xd110_u16.to_le_bytes()[..],
        &2_u16.to_le_bytes(),
        &1_u32.to_le_bytes(),
        &(u64::from(n) * u64::from(size)).to_le_bytes(),
        &[0; 8],
        &system.0.to_le_bytes(),
        &size.to_le_bytes(),
        &8192_u32.to_le_bytes(),
    ];
    bytes[..40].copy_from_slice(&header.concat());
    (format!("0000000100000000{n:08X}"), bytes)
}

/// How a call ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub said: String,
}

impl Ran {
    pub fn of(output: Output) -> Self {
        assert!(output.stdout.is_empty(), "it printed {}", String::from_utf8_lossy(&output.stdout));
        Self { code: output.status.code(), said: String::from_utf8(output.stderr).unwrap() }
    }

    /// Sees that it ended so, and that what it said is one line with `words` in it and no secret.
    #[track_caller]
    pub fn expect(self, code: i32, words: &str) {
        assert_eq!(self.code, Some(code), "{}", self.said);
        assert!(self.said.contains(words), "`{words}` is not in: {}", self.said);
        assert_eq!(self.said.lines().count(), usize::from(code > 1 || !words.is_empty()), "{}", self.said);
        assert!(!self.said.to_lowercase().contains("hikaekey1"), "{}", self.said);
    }
}
