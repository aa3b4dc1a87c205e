//! Drills: green when all is well, red when it is not.

use crate::files::{flip_a_byte_of, noise, pack_of};
use crate::world::{World, named};
use hikae_model::{Advise as _, ErrorCode, Outcome, SnapshotId};
use hikae_ops::drill::{DrillOptions, drill};
use hikae_ops::restore_database::restore_sqlite;
use hikae_repo::evidence::read_evidence;
use hikae_source::sqlite::{SqliteSettings, SqliteSource};
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn a_drill_of_files_proves_every_byte_and_leaves_evidence_and_nothing_else() {
    let world = World::new();
    let source = world.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("large"), noise(1, 3 << 20)).unwrap();
    fs::write(source.join("small"), "small").unwrap();
    let (snapshot, _) = world.backup_files(&source);
    let report = drill(&world.repo, snapshot, &DrillOptions::default(), &world.around(), &world.cx).unwrap();
    assert_eq!(report.outcome, Outcome::Complete, "{:?}", report.checks);
    assert_eq!(report.bytes, (3 << 20) + 5);
    assert_eq!(fs::read_dir(world.path("scratch")).unwrap().count(), 0);

    let state = world.repo.follow().unwrap();
    let reference = state.snapshots[&snapshot].evidence.clone().unwrap();
    assert!(reference.passed);
    let evidence = read_evidence(&world.open_afresh(), &reference).unwrap();
    assert_eq!(evidence.record.restored_bytes, (3 << 20) + 5);
}

#[test]
fn a_drill_goes_red_when_a_byte_of_the_repository_has_changed() {
    let world = World::new();
    let source = world.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("large"), noise(1, 600_000)).unwrap();
    fs::write(source.join("small"), "small").unwrap();
    let (snapshot, _) = world.backup_files(&source);
    flip_a_byte_of(&world, snapshot, &source.join("large"));
    let report = drill(&world.repo, snapshot, &DrillOptions::default(), &world.around(), &world.cx).unwrap();
    assert_eq!(report.outcome, Outcome::Failed);
    assert!(report.checks.iter().any(|check| !check.passed && check.name.ends_with("large")));
    assert!(!world.repo.follow().unwrap().snapshots[&snapshot].is_verified());
}

/// A SQLite database of random rows, backed up.
fn backed_up_database(world: &World) -> (SnapshotId, PathBuf) {
    let path = world.path("app.db");
    let database = rusqlite::Connection::open(&path).unwrap();
    database.execute_batch("CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB)").unwrap();
    for n in 0..200_u32 {
        database.execute("INSERT INTO t VALUES (?1, ?2)", (n, noise(n.into(), 1000))).unwrap();
    }
    let settings = SqliteSettings { path: path.clone(), scratch: None };
    let source = named("app", SqliteSource::new(settings, world.path("scratch")));
    (world.backup(&[source]).unwrap().snapshots[0].id.unwrap(), "/app.db".into())
}

#[test]
fn a_drill_that_meets_damage_takes_back_what_an_earlier_one_proved() {
    check_taken_back("a byte changed", flip_a_byte_of);
    check_taken_back("a pack is gone", |world, snapshot, file| {
        fs::remove_file(pack_of(world, snapshot, file).0).unwrap();
    });
}

#[track_caller]
fn check_taken_back(name: &str, damage: impl Fn(&World, SnapshotId, &Path)) {
    let world = World::new();
    let (snapshot, file) = backed_up_database(&world);
    let drill = |repo| drill(repo, snapshot, &DrillOptions::default(), &world.around(), &world.cx);
    assert_eq!(drill(&world.repo).unwrap().outcome, Outcome::Complete);
    assert!(world.repo.follow().unwrap().snapshots[&snapshot].is_verified());

    damage(&world, snapshot, &file);
    let repo = world.open_afresh();
    let report = drill(&repo).unwrap();
    assert_eq!(report.outcome, Outcome::Failed, "{name}");
    let reference = repo.follow().unwrap().snapshots[&snapshot].evidence.clone().unwrap();
    assert!(!reference.passed, "{name}: the older evidence still counts");
    let evidence = read_evidence(&repo, &reference).unwrap();
    assert!(!evidence.record.checks.is_empty(), "{name}: it says what did not hold");

    // A restore of it says so too.
    let restored = restore_sqlite(&repo, snapshot, &world.path("back.db"), false, &world.cx);
    let error = restored.unwrap_err();
    assert_eq!(error.code(), ErrorCode::VerificationFailed, "{name}: {error}");
    assert!(error.advice().is_some_and(|hint| hint.contains("hikae verify")), "{name}");
    assert!(!world.path("back.db").exists());
}

#[test]
fn a_sqlite_database_is_drilled_row_by_row_and_its_second_backup_stores_only_changed_pages() {
    let world = World::new();
    let path = world.path("app.db");
    let database = rusqlite::Connection::open(&path).unwrap();
    database
        .execute_batch("PRAGMA journal_mode = wal; CREATE TABLE orders(id INTEGER PRIMARY KEY, note BLOB)")
        .unwrap();
    database.execute_batch("BEGIN").unwrap();
    for n in 0..3000_u32 {
        database.execute("INSERT INTO orders VALUES (?1, ?2)", (n, noise(n.into(), 1000))).unwrap();
    }
    database.execute_batch("COMMIT").unwrap();
    let source = || {
        let settings = SqliteSettings { path: path.clone(), scratch: None };
        named("app", SqliteSource::new(settings, world.path("scratch")))
    };
    let first = world.backup(&[source()]).unwrap();
    database.execute("UPDATE orders SET note = ?1 WHERE id = 1500", (noise(9999, 1000),)).unwrap();
    let second = world.backup(&[source()]).unwrap();
    let added = first.snapshots[0].added_bytes;
    assert!(added > 2_900_000, "{added} bytes for 3000 rows");
    assert!(
        second.snapshots[0].added_bytes < 40_000,
        "{} bytes for one row",
        second.snapshots[0].added_bytes
    );
    for report in [first, second] {
        assert_eq!(report.outcome, Outcome::Complete, "{:?}", report.snapshots[0].problems);
        let snapshot = report.snapshots[0].id.unwrap();
        let report =
            drill(&world.repo, snapshot, &DrillOptions::default(), &world.around(), &world.cx).unwrap();
        assert_eq!(report.outcome, Outcome::Complete, "{:?}", report.checks);
        assert!(
            report.checks.iter().any(|check| check.name.contains("orders") && check.actual.contains("3000"))
        );
    }
}
