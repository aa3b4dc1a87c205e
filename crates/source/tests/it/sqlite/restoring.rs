//! Putting a database back where one stands, or stood.

use super::actor::Actor;
use super::{KEY, Snapshot, World, count, integrity, make, names_in, rows, turn};
use hikae_model::{Advise, ErrorCode};
use hikae_source::SourceError;
use hikae_source::sqlite::{RestoreOptions, SqliteRestored, restore};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn put_back(world: &World, snapshot: &Snapshot, target: &Path) -> Result<SqliteRestored, SourceError> {
    restore(snapshot, target, KEY, RestoreOptions { replace: true }, &world.cx)
}

fn mode_of(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_database_comes_back_into_a_directory() {
    let world = World::new();
    drop(make(&world.live(), &rows(500)));
    std::fs::set_permissions(world.live(), std::fs::Permissions::from_mode(0o640)).unwrap();
    let snapshot = world.backup(&world.live());
    let restored = restore(&snapshot, &world.restored(), KEY, RestoreOptions::default(), &world.cx).unwrap();
    assert_eq!(restored.path, world.restored().join("app.db"));
    assert_eq!(restored.bytes, snapshot.bytes.len() as u64);
    assert!(restored.checks.iter().all(|check| check.passed));
    assert_eq!((restored.kept_aside, restored.problems), (None, vec![]));
    assert_eq!(names_in(&world.restored()), ["app.db"]);
    assert_eq!((count(&restored.path, "t"), mode_of(&restored.path)), (500, 0o640));
}

/// Keeps G-7.
#[test]
fn what_stands_there_is_replaced_only_if_asked_for() {
    let world = World::new();
    drop(make(&world.live(), &rows(5)));
    let snapshot = world.backup(&world.live());
    for name in ["app.db", "app.db-wal", "app.db-journal"] {
        let taken = world.restored().join(name);
        std::fs::write(&taken, b"").unwrap();
        let error =
            restore(&snapshot, &world.restored(), KEY, RestoreOptions::default(), &world.cx).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Forbidden, "{error}");
        assert_eq!(names_in(&world.restored()), [name]);
        std::fs::remove_file(taken).unwrap();
    }
}

/// DATABASES 8: put back with `cp` beside the old WAL, 20,000 rows become 39,800, and `integrity_check`
/// calls that ok.
#[test]
fn an_old_wal_is_not_played_into_the_restored_database() {
    let _turn = turn();
    let world = World::new();
    drop(make(&world.live(), &format!("PRAGMA journal_mode = WAL; {}", rows(20_000))));
    let snapshot = world.backup(&world.live());
    // Later rows reach only the WAL, and the application dies.
    drop(Actor::start("more", &world.live()));
    let wal = world.live().with_file_name("app.db-wal");
    assert!(std::fs::metadata(&wal).unwrap().len() > 0);
    std::fs::set_permissions(world.live(), std::fs::Permissions::from_mode(0o604)).unwrap();

    // The harm that this test is about is real.
    let harmed = world.restored().join("harmed.db");
    std::fs::write(&harmed, &snapshot.bytes).unwrap();
    std::fs::copy(&wal, world.restored().join("harmed.db-wal")).unwrap();
    assert_ne!(count(&harmed, "t"), 20_000);

    let restored = put_back(&world, &snapshot, &world.live()).unwrap();

    assert_eq!((count(&restored.path, "t"), integrity(&restored.path).as_str()), (20_000, "ok"));
    assert_eq!(mode_of(&restored.path), 0o604, "the mode of the file that it replaces");
    let aside = restored.kept_aside.unwrap();
    assert_eq!(aside.file_name().unwrap(), "app.db.before-restore-20260101T000000Z");
    assert_eq!(count(&aside, "t"), 39_800, "the old one is whole, with its log");
}

/// Keeps G-7, MK-32.
#[test]
fn a_database_that_somebody_has_open_is_not_replaced() {
    let _turn = turn();
    for (mode, part) in [("DELETE", "idle"), ("WAL", "idle"), ("DELETE", "exclusive"), ("WAL", "exclusive")] {
        let world = World::new();
        drop(make(&world.live(), &format!("PRAGMA journal_mode = {mode}; {}", rows(5))));
        let snapshot = world.backup(&world.live());
        let before = std::fs::read(world.live()).unwrap();
        let user = Actor::start(part, &world.live());
        let error = put_back(&world, &snapshot, &world.live()).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Busy, "{mode} {part}: {error}");
        assert!(error.advice().is_some());
        assert!(std::fs::read(world.live()).unwrap() == before);
        assert!(names_in(world.live().parent().unwrap()).iter().all(|name| !name.contains("restore")));
        drop(user);
        assert!(put_back(&world, &snapshot, &world.live()).is_ok(), "{mode} {part}: free again");
    }
}

#[test]
fn a_connection_of_this_very_process_counts_as_well() {
    let world = World::new();
    let app = make(&world.live(), &rows(5));
    let snapshot = world.backup(&world.live());
    assert_eq!(put_back(&world, &snapshot, &world.live()).unwrap_err().code(), ErrorCode::Busy);
    drop(app);
    put_back(&world, &snapshot, &world.live()).unwrap();
}

/// Keeps G-2, MK-30.
#[test]
fn bytes_that_differ_from_the_manifest_never_get_the_name() {
    let world = World::new();
    drop(make(&world.live(), &rows(500)));
    let mut snapshot = world.backup(&world.live());
    super::damage::flip_in_all(&mut snapshot.bytes, "row 00000077", 11);
    let before = std::fs::read(world.live()).unwrap();
    let error = put_back(&world, &snapshot, &world.live()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::VerificationFailed);
    assert!(error.to_string().contains("hash of t: expected"), "{error}");
    assert!(std::fs::read(world.live()).unwrap() == before);
    assert!(names_in(world.live().parent().unwrap()).iter().all(|name| !name.contains("restore")));
}

#[test]
fn a_link_stays_and_what_it_names_is_replaced() {
    let world = World::new();
    drop(make(&world.live(), &rows(5)));
    let snapshot = world.backup(&world.live());
    let link = world.restored().join("app.db");
    std::os::unix::fs::symlink(world.live(), &link).unwrap();
    let restored = put_back(&world, &snapshot, &link).unwrap();
    assert_eq!(restored.path, std::fs::canonicalize(world.live()).unwrap());
    assert!(link.is_symlink());
}

#[test]
fn what_a_killed_restore_left_goes_with_the_next_and_nothing_else() {
    let world = World::new();
    drop(make(&world.live(), &rows(10)));
    let snapshot = world.backup(&world.live());
    let beside = |name: &str| {
        let path = world.restored().join(name);
        std::fs::write(&path, "rows").unwrap();
        path
    };
    let dead = beside(".hikae-restore-0123456789abcdef");
    let used = beside(".hikae-restore-fedcba9876543210");
    let lock = std::fs::File::open(&used).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let foreign = beside(".hikae-restore-notes");

    put_back(&world, &snapshot, &world.restored()).unwrap();

    assert!(!dead.exists());
    assert!(used.exists() && foreign.exists(), "one is in use and one is not ours");
}
