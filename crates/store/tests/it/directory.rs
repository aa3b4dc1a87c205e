//! What only a directory can suffer: strangers, symbolic links, killed runs, full and vanished disks.

use hikae_model::{Advise, ErrorCode};
use hikae_store::{DirectoryStore, Durability, Reserve, Store, StoreError};
use hikae_testkit::store_contract::{key, listed};
use hikae_testkit::{Seed, TestCx, not_run, test_cx};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

struct World {
    directory: TempDir,
    store: DirectoryStore,
}

fn world() -> World {
    let directory = tempfile::tempdir().unwrap();
    let store = create(&directory.path().join("store"), Reserve::Usual).unwrap();
    World { directory, store }
}

fn create(path: &Path, reserve: Reserve) -> Result<DirectoryStore, StoreError> {
    DirectoryStore::create(path, reserve, test_cx().random)
}

fn open(path: &Path) -> Result<DirectoryStore, StoreError> {
    DirectoryStore::open(path, Reserve::Usual, TestCx::new(Seed(1)).random)
}

impl World {
    fn path(&self, name: &str) -> PathBuf {
        self.store.path().join(name)
    }

    fn left_in_tmp(&self) -> usize {
        fs::read_dir(self.path("tmp")).unwrap().count()
    }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn what_was_put_is_there_for_the_next_process() {
    let world = world();
    world.store.put(&key("packs/3f/3f02"), b"bytes").unwrap();
    let again = open(world.store.path()).unwrap();
    assert_eq!(again.get(&key("packs/3f/3f02")).unwrap(), b"bytes");
    assert_eq!(again.address(), world.store.path().display().to_string());
}

/// Keeps L-3.
#[test]
fn objects_are_read_only_and_for_their_owner_alone() {
    let world = world();
    world.store.put(&key("packs/3f/3f02"), b"bytes").unwrap();
    world.store.put(&key("wal/7/1/2"), b"bytes").unwrap();
    assert_eq!(mode(&world.path("packs/3f/3f02")), 0o400);
    for name in ["", "tmp", "packs", "packs/3f", "wal", "wal/7", "wal/7/1"] {
        assert_eq!(mode(&world.path(name)), 0o700, "{name}");
    }
}

#[test]
fn nothing_is_left_in_tmp_by_a_put_that_won_or_lost() {
    let world = world();
    world.store.put(&key("log/1"), b"first").unwrap();
    assert!(matches!(world.store.put(&key("log/1"), b"other"), Err(StoreError::Exists { .. })));
    assert_eq!(world.left_in_tmp(), 0);
    assert_eq!(world.store.get(&key("log/1")).unwrap(), b"first");
}

/// Keeps MK-12, EC-16.
#[test]
fn what_a_killed_run_left_is_never_listed_and_reclaimed_when_old() {
    let world = world();
    let left = world.path("tmp/00000000000000000000000000000000");
    fs::write(&left, b"half an obj").unwrap();
    assert_eq!(listed(&world.store, "").unwrap(), []);
    assert_eq!(listed(&world.store, "tmp").unwrap(), []);
    let name = key("tmp/00000000000000000000000000000000");
    assert!(world.store.get(&name).unwrap_err().is_not_found());
    assert!(world.store.put(&name, b"x").is_err(), "`tmp` is the store's own");
    world.store.remove(&name).unwrap();
    assert!(left.exists(), "only reclaiming removes from `tmp`");

    let written: jiff::Timestamp = fs::metadata(&left).unwrap().modified().unwrap().try_into().unwrap();
    assert_eq!(world.store.reclaim_temporary(written).unwrap(), 0);
    assert!(left.exists());
    assert_eq!(world.store.reclaim_temporary(written + jiff::SignedDuration::from_secs(1)).unwrap(), 1);
    assert!(!left.exists());
}

#[test]
fn a_name_in_tmp_that_is_taken_is_not_taken_again() {
    let world = world();
    // The first name that the next handle will draw, as after a crash of a test with the same seed.
    let name = format!("{:032x}", u128::from_be_bytes(TestCx::new(Seed(1)).random::<16>()));
    fs::write(world.path(&format!("tmp/{name}")), b"somebody's").unwrap();
    let store = open(world.store.path()).unwrap();
    store.put(&key("a"), b"mine").unwrap();
    assert_eq!(fs::read(world.path(&format!("tmp/{name}"))).unwrap(), b"somebody's");
    assert_eq!(store.get(&key("a")).unwrap(), b"mine");
}

#[test]
fn a_symbolic_link_in_the_store_leads_nowhere() {
    let world = world();
    let outside = world.directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), b"secret").unwrap();
    symlink(outside.join("secret"), world.path("log-1")).unwrap();
    symlink(&outside, world.path("index")).unwrap();
    symlink("nowhere", world.path("dangling")).unwrap();

    for name in ["log-1", "index/secret", "dangling"] {
        for answer in [world.store.get(&key(name)), world.store.get_range(&key(name), 0..1)] {
            let error = answer.expect_err(name);
            assert!(!error.is_not_found(), "{name}: {error:?}");
        }
        assert!(world.store.stat(&key(name)).is_err(), "{name}");
    }
    for name in ["log-1", "index/new", "dangling"] {
        let error = world.store.put(&key(name), b"x").expect_err(name);
        assert!(!matches!(error, StoreError::Exists { .. }), "{name}: {error:?}");
    }
    assert!(world.store.remove(&key("index/secret")).is_err());
    assert!(listed(&world.store, "index").is_err(), "not an empty list");
    assert_eq!(listed(&world.store, "").unwrap(), []);
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"secret");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "nothing was written outside");
}

#[test]
fn a_symbolic_link_within_the_store_gives_no_object_a_second_name() {
    let world = world();
    world.store.put(&key("log/1"), b"one").unwrap();
    symlink("log", world.path("alias")).unwrap();
    symlink("1", world.path("log/2")).unwrap();
    for name in ["alias/1", "log/2"] {
        let error = world.store.get(&key(name)).expect_err(name);
        assert!(!error.is_not_found(), "{name}: {error:?}");
        assert!(world.store.put(&key(name), b"x").is_err(), "{name}");
    }
    assert!(world.store.put(&key("alias/3"), b"x").is_err());
    assert!(world.store.remove(&key("alias/1")).is_err());
    assert!(listed(&world.store, "alias").is_err(), "not an empty list");
    assert_eq!(listed(&world.store, "").unwrap().len(), 1);
}

#[test]
fn tmp_as_a_symbolic_link_leads_nowhere() {
    let world = world();
    let outside = world.directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::remove_dir(world.path("tmp")).unwrap();
    symlink(&outside, world.path("tmp")).unwrap();
    let store = open(world.store.path()).unwrap();
    assert!(store.put(&key("a"), b"x").is_err());
    assert!(store.reclaim_temporary(jiff::Timestamp::MAX).is_err());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn strangers_are_neither_listed_nor_read_nor_taken_for_errors() {
    let world = world();
    world.store.put(&key("log/1"), b"ours").unwrap();
    fs::write(world.path("README.txt"), b"theirs").unwrap();
    fs::write(world.path("log/.nfs0001"), b"theirs").unwrap();
    fs::create_dir(world.path("log/Photos")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        world.path("log/pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    let shown: Vec<_> = listed(&world.store, "").unwrap().into_iter().map(|object| object.key).collect();
    assert_eq!(shown, [key("log/1")]);
    let mut strangers = world.store.strangers().unwrap();
    strangers.sort();
    assert_eq!(strangers, ["README.txt", "log/.nfs0001", "log/Photos", "log/pipe"]);
    // A pipe without a writer would hold up whoever opens it.
    assert!(!world.store.get(&key("log/pipe")).unwrap_err().is_not_found());
    assert!(!world.store.get(&key("log")).unwrap_err().is_not_found(), "a directory is no object");
}

#[test]
fn a_store_that_is_not_there_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), b"").unwrap();
    for name in ["absent", "absent/deeper", "file"] {
        match open(&directory.path().join(name)) {
            Err(error @ StoreError::Missing { .. }) => assert_eq!(error.code(), ErrorCode::RepositoryMissing),
            Err(other) => panic!("{name}: {other:?}"),
            Ok(_) => panic!("{name} was opened"),
        }
    }
}

#[test]
fn a_store_that_was_removed_is_missing_and_not_empty() {
    let world = world();
    world.store.put(&key("log/1"), b"x").unwrap();
    fs::remove_dir_all(world.store.path()).unwrap();
    let is_missing = |error: StoreError| matches!(error, StoreError::Missing { .. });
    assert!(is_missing(world.store.get(&key("log/1")).unwrap_err()));
    assert!(is_missing(world.store.stat(&key("log/1")).unwrap_err()));
    assert!(is_missing(listed(&world.store, "log").unwrap_err()));
    assert!(is_missing(listed(&world.store, "").unwrap_err()));
    assert!(is_missing(world.store.remove(&key("log/1")).unwrap_err()));
    assert!(world.store.put(&key("log/2"), b"x").is_err());
}

#[test]
fn create_makes_what_is_absent_and_may_be_repeated() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b/store");
    let store = create(&path, Reserve::Usual).unwrap();
    store.put(&key("hikae.json"), b"{}").unwrap();
    // An interrupted or doubled init: nothing is lost, and the put of `hikae.json` says who was first.
    let again = create(&path, Reserve::Usual).unwrap();
    assert_eq!(again.get(&key("hikae.json")).unwrap(), b"{}");

    let half = directory.path().join("half");
    fs::create_dir_all(half.join("tmp")).unwrap();
    create(&half, Reserve::Usual).unwrap().put(&key("packs/00/x"), b"x").unwrap();
}

#[test]
fn create_leaves_other_peoples_directories_alone() {
    let directory = tempfile::tempdir().unwrap();
    for (i, names) in
        [&["notes.txt"][..], &["tmp", "etc"], &["Photos"], &["packs", "other"]].iter().enumerate()
    {
        let path = directory.path().join(i.to_string());
        for name in *names {
            fs::create_dir_all(path.join(name)).unwrap();
        }
        set_mode(&path, 0o755);
        assert!(create(&path, Reserve::Usual).is_err(), "{names:?}");
        assert_eq!(mode(&path), 0o755, "{names:?}");
        assert_eq!(fs::read_dir(&path).unwrap().count(), names.len(), "{names:?}");
    }
    let file = directory.path().join("file");
    fs::write(&file, b"").unwrap();
    assert!(create(&file, Reserve::Usual).is_err());
}

/// Keeps MK-60, IN-86.
#[test]
fn modes_that_are_too_wide_are_repaired_and_reported() {
    let world = world();
    world.store.put(&key("packs/3f/3f02"), b"x").unwrap();
    world.store.put(&key("hikae.json"), b"x").unwrap();
    assert_eq!(world.store.repair_modes().unwrap(), [], "nothing to repair in what we made");

    set_mode(&world.path("hikae.json"), 0o644);
    let repaired = world.store.repair_modes().unwrap();
    assert_eq!(repaired.len(), 1, "{repaired:?}");
    assert_eq!(repaired[0].code, "wide-mode-repaired");
    assert_eq!(mode(&world.path("hikae.json")), 0o600);

    set_mode(world.store.path(), 0o755);
    set_mode(&world.path("packs/3f"), 0o750);
    set_mode(&world.path("packs/3f/3f02"), 0o444);
    assert_eq!(world.store.repair_modes().unwrap().len(), 3);
    for (name, expected) in [("", 0o700), ("packs/3f", 0o700), ("packs/3f/3f02", 0o400)] {
        assert_eq!(mode(&world.path(name)), expected, "{name}");
    }
}

#[test]
fn repairing_modes_follows_no_link_and_changes_no_strangers() {
    let world = world();
    let outside = world.directory.path().join("outside");
    fs::write(&outside, b"").unwrap();
    fs::write(world.path("Stranger"), b"").unwrap();
    for path in [&outside, &world.path("Stranger"), world.store.path()] {
        set_mode(path, 0o755);
    }
    symlink(&outside, world.path("link")).unwrap();
    world.store.repair_modes().unwrap();
    assert_eq!(mode(&outside), 0o755);
    assert_eq!(mode(&world.path("Stranger")), 0o755);
    assert_eq!(mode(world.store.path()), 0o700);
}

#[test]
fn what_root_puts_into_somebodys_store_is_theirs() {
    if !is_root() {
        return not_run("needs root to act in another user's store");
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    create(&path, Reserve::Usual).unwrap();
    chown(&path, Some(2_000), Some(2_001)).unwrap();
    let store = open(&path).unwrap();
    store.put(&key("new/directory/object"), b"x").unwrap();
    for name in ["new", "new/directory", "new/directory/object"] {
        let found = fs::metadata(path.join(name)).unwrap();
        assert_eq!((found.uid(), found.gid()), (2_000, 2_001), "{name}");
    }
}

#[test]
fn packs_leave_room_for_what_must_follow_them() {
    let directory = tempfile::tempdir().unwrap();
    let store = create(&directory.path().join("store"), Reserve::Bytes(u64::MAX)).unwrap();
    let error = store.put(&key("packs/00/00"), b"data").unwrap_err();
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error:?}");
    assert_eq!(error.code(), ErrorCode::NoSpace);
    for name in ["index/1", "snapshots/1", "log/1", "packs-of-cards"] {
        store.put(&key(name), b"must go on").unwrap();
    }
}

#[test]
fn what_may_not_be_read_or_listed_is_an_error_and_not_absent() {
    let world = world();
    if is_root() {
        return not_run("root may read everything; run as another user");
    }
    world.store.put(&key("packs/00/a"), b"x").unwrap();
    set_mode(&world.path("packs/00"), 0o000);
    for error in [
        world.store.get(&key("packs/00/a")).unwrap_err(),
        world.store.put(&key("packs/00/b"), b"").unwrap_err(),
        world.store.remove(&key("packs/00/a")).unwrap_err(),
        listed(&world.store, "packs").unwrap_err(),
    ] {
        assert_eq!(error.code(), ErrorCode::Permission, "{error:?}");
    }
    set_mode(&world.path("packs/00"), 0o700);
}

#[test]
fn a_directory_in_the_place_of_an_object_is_an_error() {
    let world = world();
    fs::create_dir(world.path("log")).unwrap();
    fs::create_dir(world.path("log/1")).unwrap();
    let error = world.store.put(&key("log/1"), b"x").unwrap_err();
    assert!(!matches!(error, StoreError::Exists { .. }), "{error:?}");
    assert!(world.store.remove(&key("log/1")).is_err());
    world.store.put(&key("a"), b"x").unwrap();
    assert!(world.store.put(&key("a/b"), b"x").is_err(), "an object in the place of a directory");
    assert!(world.store.get(&key("a/b")).unwrap_err().is_not_found());
}

#[test]
fn a_directory_that_was_removed_meanwhile_is_made_again() {
    let world = world();
    world.store.put(&key("wal/1/a"), b"x").unwrap();
    fs::remove_dir_all(world.path("wal")).unwrap();
    world.store.put(&key("wal/1/a"), b"again").unwrap();
    assert_eq!(world.store.get(&key("wal/1/a")).unwrap(), b"again");
}

#[test]
fn the_kind_of_file_system_says_what_durable_means() {
    let world = world();
    world.store.durability().unwrap();
    let Ok(memory) = tempfile::tempdir_in("/dev/shm") else { return not_run("there is no /dev/shm") };
    let store = create(&memory.path().join("store"), Reserve::Usual).unwrap();
    assert!(matches!(store.durability().unwrap(), Durability::BestEffort { .. }));
}
