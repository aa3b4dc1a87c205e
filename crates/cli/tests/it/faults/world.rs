//! A machine in small: a home, a source, a repository, and the command.

use hikae_testkit::tree::{Exactness, Tree};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use tempfile::TempDir;

/// The command that is tried.
pub fn binary() -> PathBuf {
    std::env::var_os("HIKAE_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_hikae").into(), PathBuf::from)
}

/// A home, a repository and a source. Copies share the source, so that its inodes and times stay the same.
pub struct World {
    /// Holds `repo`, `home`, `tmp`, `main.key` and `config.toml`.
    root: PathBuf,
    source: Arc<TempDir>,
    /// What a snapshot must restore to. Any other is of the source as it is now.
    known: BTreeMap<String, Arc<Tree>>,
    /// Files are so many times smaller than usual.
    smaller: usize,
    kept: Option<TempDir>,
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// What `--json` gave as the result.
    pub fn result(&self) -> Value {
        let all: Value = serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        all["result"].clone()
    }
}

impl World {
    /// A source of some files and no repository.
    pub fn new() -> Self {
        let kept = tempfile::tempdir().unwrap();
        let world = Self::on(kept.path());
        Self { kept: Some(kept), ..world }
    }

    /// The same with little in the files, in memory if that can be had: to be looked at very often.
    pub fn small() -> Self {
        let kept = scratch();
        let world = Self::of(kept.path(), 40, scratch());
        Self { kept: Some(kept), ..world }
    }

    /// The same in a directory that is there, with the source elsewhere.
    pub fn on(root: &Path) -> Self {
        Self::of(root, 1, tempfile::tempdir().unwrap())
    }

    fn of(root: &Path, smaller: usize, source: TempDir) -> Self {
        let source = Arc::new(source);
        let world = Self { root: root.to_owned(), source, known: BTreeMap::new(), smaller, kept: None };
        for directory in ["home", "tmp"] {
            std::fs::create_dir(world.path(directory)).unwrap();
        }
        world.configure(&world.path("repo"), Some("0 B"));
        let source = world.source();
        std::fs::create_dir_all(source.join("folder/below")).unwrap();
        for (name, n_bytes) in
            [("a", 10_usize), ("b", 70_000), ("folder/c", 300_000), ("folder/below/d", 4097)]
        {
            std::fs::write(source.join(name), noise(name, n_bytes.div_ceil(world.smaller))).unwrap();
        }
        std::fs::write(source.join("empty"), "").unwrap();
        std::os::unix::fs::symlink("folder/c", source.join("link")).unwrap();
        std::fs::hard_link(source.join("b"), source.join("folder/b-again")).unwrap();
        world
    }

    /// Writes the configuration, with the repository in `repo` and so much of its disk kept free.
    pub fn configure(&self, repo: &Path, reserve: Option<&str>) {
        let reserve = reserve.map(|bytes| format!("reserve = {bytes:?}\n")).unwrap_or_default();
        let text = format!(
            "[repository.main]\nstore = {:?}\nunlock = {{ key_file = {:?} }}\n{reserve}\n\
             [source.tree]\nkind = \"files\"\ninclude = [{:?}]\n",
            repo,
            self.path("main.key"),
            self.source()
        );
        std::fs::write(self.path("config.toml"), text).unwrap();
    }

    /// The same machine with a repository and one snapshot, and a source that has changed since.
    pub fn with_a_snapshot() -> Self {
        Self::new().and_a_snapshot()
    }

    /// Makes the repository and a snapshot, and changes the source.
    pub fn and_a_snapshot(mut self) -> Self {
        self.ok(&INIT);
        self.back_up();
        self.change(1);
        self
    }

    /// Changes the source: one file is edited, one grows, one comes, one goes.
    pub fn change(&self, step: u32) {
        let source = self.source();
        std::fs::write(source.join("a"), format!("changed {step}")).unwrap();
        let mut grown = std::fs::read(source.join("folder/c")).unwrap();
        grown.extend(noise(&format!("grown {step}"), 50_000 / self.smaller));
        std::fs::write(source.join("folder/c"), grown).unwrap();
        let new = noise(&format!("new {step}"), 120_000 / self.smaller);
        std::fs::write(source.join(format!("new-{step}")), new).unwrap();
        // Of the one before, which may not have been.
        drop(std::fs::remove_file(source.join(format!("new-{}", step.wrapping_sub(1)))));
    }

    /// Backs up and remembers what the source was. Gives the snapshot.
    #[track_caller]
    pub fn back_up(&mut self) -> String {
        let before = self.snapshots();
        self.ok(&["backup"]);
        let new = self.snapshots().into_iter().find(|id| !before.contains(id)).expect("a new snapshot");
        self.remember(&new);
        new
    }

    /// Remembers that this snapshot is of the source as it is now.
    pub fn remember(&mut self, snapshot: &str) {
        self.known.insert(snapshot.to_owned(), Arc::new(Tree::read(&self.source()).unwrap()));
    }

    /// The same unless that is remembered already.
    pub fn remember_once(&mut self, snapshot: &str) {
        if !self.known.contains_key(snapshot) {
            self.remember(snapshot);
        }
    }

    /// A copy of all but the source, which both share.
    pub fn copy(&self) -> Self {
        let kept = tempfile::tempdir().unwrap();
        copy_all(&self.root, kept.path());
        self.moved_to(kept)
    }

    /// This machine in another directory, in which it stands already.
    pub fn moved_to(&self, kept: TempDir) -> Self {
        let copy = Self {
            root: kept.path().to_owned(),
            source: self.source.clone(),
            known: self.known.clone(),
            smaller: self.smaller,
            kept: Some(kept),
        };
        if copy.path("config.toml").exists() {
            copy.configure(&copy.path("repo"), Some("0 B"));
        }
        copy
    }

    /// Leaves the directory behind for somebody to look at, and says where it is.
    pub fn keep(self) -> PathBuf {
        self.kept.map_or(self.root, TempDir::keep)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub fn source(&self) -> PathBuf {
        self.source.path().join("source")
    }

    /// Where the source is below a target.
    pub fn restored(&self, place: &Path) -> PathBuf {
        place.join(self.source().strip_prefix("/").unwrap())
    }

    /// Puts arguments and surroundings of our command to `command`, which starts it.
    pub fn dress<'c>(&self, command: &'c mut Command, args: &[&str]) -> &'c mut Command {
        command
            .args(args)
            .current_dir(&self.root)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .env("TMPDIR", self.path("tmp"))
            .env("RUST_BACKTRACE", "0")
            .envs(hikae_testkit::sabotage())
            .stdin(Stdio::null());
        // Without one, hikae makes its own in the home.
        let config = self.path("config.toml");
        if config.exists() {
            command.env("HIKAE_CONFIG", config);
        }
        command
    }

    /// The command with these arguments.
    pub fn hikae(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        self.dress(&mut command, args);
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::of(&self.hikae(args).output().unwrap())
    }

    /// Runs our command below another one, as `strace`.
    pub fn run_below(&self, outer: &[&str], args: &[&str]) -> Ran {
        let mut command = Command::new(outer[0]);
        command.args(&outer[1..]).arg(binary());
        Ran::of(&self.dress(&mut command, args).output().unwrap())
    }

    /// Runs what must succeed.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.code, Some(0), "hikae {}: {ran:#?}", args.join(" "));
        ran
    }

    /// Every snapshot that is listed, newest first.
    #[track_caller]
    pub fn snapshots(&self) -> Vec<String> {
        let listed = self.ok(&["list", "--json"]).result();
        let ids =
            listed.as_array().unwrap().iter().map(|snapshot| snapshot["id"].as_str().unwrap().to_owned());
        ids.collect()
    }

    /// What must hold whatever happened before: commands work as if nothing had, all of `acknowledged` is listed,
    /// and all that is listed verifies and restores to the byte.
    pub fn check(&self, acknowledged: &[String]) -> Result<(), String> {
        let ran = self.run(&["list", "--json"]);
        if ran.code != Some(0) {
            return Err(format!("list: {ran:#?}"));
        }
        let listed = ran.result();
        let listed = listed.as_array().ok_or("list gives no list")?;
        let id_of = |one: &Value| one["id"].as_str().unwrap_or_default().to_owned();
        if let Some(lost) = acknowledged.iter().find(|id| !listed.iter().any(|one| id_of(one) == **id)) {
            return Err(format!("snapshot {lost} is lost; listed: {listed:#?}"));
        }
        // One with problems says itself that something of the source is missing.
        for whole in listed.iter().filter(|one| one["complete"] == true) {
            self.check_restores(&id_of(whole))?;
        }
        let verified = self.run(&["verify", "--read-data"]);
        if verified.code != Some(0) {
            return Err(format!("verify: {verified:#?}"));
        }
        Ok(())
    }

    /// Restores a snapshot and compares.
    pub fn check_restores(&self, snapshot: &str) -> Result<(), String> {
        let target = tempfile::tempdir_in(&self.root).unwrap();
        let place = target.path().join("restored");
        let restored = self.run(&["restore", snapshot, "--target", place.to_str().unwrap()]);
        if restored.code != Some(0) {
            return Err(format!("restore of {snapshot}: {restored:#?}"));
        }
        self.compare(snapshot, &place)
    }

    /// Compares names, kinds and contents of what was restored to `place` with the source as it is now.
    pub fn compare_content(&self, place: &Path) -> Result<(), String> {
        let (expected, found) = (self.source(), self.restored(place));
        let compared =
            Command::new("diff").args(["-r", "--no-dereference"]).arg(&expected).arg(&found).output();
        let compared = Ran::of(&compared.unwrap());
        match compared.code {
            Some(0) => Ok(()),
            _ => Err(format!("{} differs: {compared:#?}", found.display())),
        }
    }

    /// Compares what was restored to `place` with what the snapshot was made of.
    pub fn compare(&self, snapshot: &str, place: &Path) -> Result<(), String> {
        let found = Tree::read(&self.restored(place)).map_err(|error| error.to_string())?;
        let now = || Arc::new(Tree::read(&self.source()).unwrap());
        let expected = self.known.get(snapshot).cloned().unwrap_or_else(now);
        let differences = expected.differences(&found, Exactness::of_user());
        match differences.is_empty() {
            true => Ok(()),
            false => Err(format!("{snapshot} restores to something else: {differences:#?}")),
        }
    }
}

/// What makes the repository.
pub const INIT: [&str; 5] = ["init", "--key-file", "main.key", "--sheet", "sheet"];

/// A directory in memory, if that can be had.
pub fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Copies a directory as it is, holes, links, times and all.
pub fn copy_all(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().unwrap();
    assert!(copied.success(), "cp -a {} {}", from.display(), to.display());
}

/// Bytes that do not compress, the same for the same name.
pub fn noise(name: &str, n_bytes: usize) -> Vec<u8> {
    let seed =
        name.bytes().fold(0x9e37_79b9_7f4a_7c15_u64, |seed, byte| seed.rotate_left(7) ^ u64::from(byte));
    hikae_testkit::TestRandom::new(hikae_testkit::Seed(seed)).bytes(n_bytes)
}
