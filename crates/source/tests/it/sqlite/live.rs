//! Databases that somebody uses, or was using when he was killed (E-9).

use super::actor::Actor;
use super::{World, count, integrity, make, names_in, rows, turn};
use hikae_model::{Advise, ErrorCode};
use hikae_source::Source;
use rusqlite::Connection;
use std::time::Duration;

const BANK: &str = "CREATE TABLE account (id INTEGER PRIMARY KEY, money INT);
    WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 999)
    INSERT INTO account SELECT i, 100 FROM n;
    CREATE TABLE transfer (id INTEGER PRIMARY KEY AUTOINCREMENT, note TEXT);
    CREATE TABLE total (n INT); INSERT INTO total VALUES (0);
    CREATE TABLE ballast (b BLOB);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
    INSERT INTO ballast SELECT randomblob(10000) FROM n;";

/// D12: `cp` keeps 0 of these rows, and `integrity_check` calls its copy ok.
/// Keeps E-9, IN-7.
#[test]
fn rows_that_are_only_in_the_wal_are_kept() {
    let world = World::new();
    let app = make(&world.live(), "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0");
    app.execute_batch(&rows(500)).unwrap();
    let before = (std::fs::read(world.live()).unwrap(), std::fs::read(wal(&world)).unwrap());

    let snapshot = world.backup(&world.live());

    assert_eq!(snapshot.rows_of("t"), 500);
    assert_eq!(count(&world.write(&snapshot, "copy.db"), "t"), 500);
    let after = (std::fs::read(world.live()).unwrap(), std::fs::read(wal(&world)).unwrap());
    assert!(before == after, "neither the database nor its WAL is touched");
    drop(app);
}

fn wal(world: &World) -> std::path::PathBuf {
    world.live().with_file_name("app.db-wal")
}

#[test]
fn who_waits_for_a_lock_says_so() {
    let world = World::new();
    let app = make(&world.live(), "PRAGMA journal_mode = DELETE");
    app.execute_batch("CREATE TABLE t (a); BEGIN EXCLUSIVE").unwrap();
    let cx = hikae_testkit::system_cx();
    cx.progress().begin("backing up", "app", 0);
    let source = hikae_source::sqlite::SqliteSource::new(
        hikae_source::sqlite::SqliteSettings { path: world.live(), scratch: None },
        std::env::temp_dir(),
    );
    std::thread::scope(|scope| {
        let checking = scope.spawn(|| source.check(&cx).map(|_| ()));
        let began = cx.elapsed();
        while !cx.progress().now().phase.verb.contains("locked") {
            assert!(cx.elapsed() - began < Duration::from_secs(20), "nobody says that we wait");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(cx.progress().now().phase.on.ends_with("app.db"));
        app.execute_batch("COMMIT").unwrap();
        checking.join().unwrap().unwrap();
    });
    assert_eq!(cx.progress().now().phase.verb, "backing up");
}

/// E-9 in both journal modes: a writer at full speed, somebody who checkpoints, and our backups.
#[test]
fn every_backup_of_a_busy_database_is_one_state_of_it() {
    let _turn = turn();
    for (mode, n_backups) in [("WAL", 25), ("DELETE", 5)] {
        let world = World::new();
        drop(make(&world.live(), &format!("PRAGMA journal_mode = {mode}; PRAGMA synchronous = OFF; {BANK}")));
        let writer = Actor::start("writer", &world.live());
        let checkpointer = (mode == "WAL").then(|| Actor::start("checkpointer", &world.live()));
        let mut last = u64::MAX;
        for i in 0..n_backups {
            let snapshot = world.backup(&world.live());
            assert!(snapshot.problems.is_empty(), "{:?}", snapshot.problems);
            let copy = world.write(&snapshot, &format!("{mode}-{i}.db"));
            assert_eq!(world.red(&copy, &snapshot.manifest()), [""; 0]);
            let copied = Connection::open(&copy).unwrap();
            let number = |sql: &str| copied.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap() as u64;
            assert_eq!(number("SELECT sum(money) FROM account"), 100_000, "{mode} {i}");
            assert_eq!(number("SELECT n FROM total"), number("SELECT count(*) FROM transfer"), "{mode} {i}");
            let now = number("SELECT coalesce(max(id), 0) FROM transfer");
            assert!(last == u64::MAX || now >= last, "{mode} {i}: backups go forward");
            last = now;
        }
        assert!(last > 0 && last != u64::MAX, "{mode}: the writer wrote");
        drop((writer, checkpointer));
        assert_eq!(integrity(&world.live()), "ok", "{mode}: the source is whole");
    }
}

/// Keeps E-9.
///
/// With deaths: a writer at full speed, somebody who checkpoints, and backups that are killed at any moment, the
/// writer too from time to time. 10,000 rounds with `HIKAE_FULL=1`.
#[test]
fn killed_backups_and_writers_leave_a_whole_database_and_the_next_backup_is_one_state_of_it() {
    let _turn = turn();
    let n_rounds = if std::env::var_os("HIKAE_FULL").is_some() { 10_000 } else { 24 };
    let world = World::new();
    drop(make(&world.live(), &format!("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; {BANK}")));
    let mut writer = Actor::start("writer", &world.live());
    let _checkpointer = Actor::start("checkpointer", &world.live());
    let (mut n_states, mut last) = (0, 0);
    for round in 0..n_rounds {
        let backup = Actor::start("backup", &world.live());
        // Spread over the length of a backup, the same in every run.
        std::thread::sleep(Duration::from_millis(round * 7919 % 61));
        drop(backup);
        if round % 8 == 7 {
            drop(writer);
            writer = Actor::start("writer", &world.live());
        }
        // Nine of ten rounds are for the killed ones; every backup that lives is looked at.
        if n_rounds > 100 && round % 10 != 0 {
            continue;
        }
        // What was killed left scratch, which goes with the next.
        let snapshot = world.backup(&world.live());
        assert!(snapshot.problems.is_empty(), "{round}: {:?}", snapshot.problems);
        let copy = world.write(&snapshot, "copy.db");
        assert_eq!(world.red(&copy, &snapshot.manifest()), [""; 0], "{round}");
        assert_eq!(integrity(&copy), "ok", "{round}");
        let copied = Connection::open(&copy).unwrap();
        let number = |sql: &str| copied.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap() as u64;
        assert_eq!(number("SELECT sum(money) FROM account"), 100_000, "{round}");
        assert_eq!(number("SELECT n FROM total"), number("SELECT count(*) FROM transfer"), "{round}");
        n_states += u64::from(number("SELECT coalesce(max(id), 0) FROM transfer") > last);
        last = number("SELECT coalesce(max(id), 0) FROM transfer");
        assert_eq!(integrity(&world.live()), "ok", "{round}: the source is whole");
    }
    println!("{n_rounds} rounds, {n_states} states of the database seen");
    assert!(n_states > 10, "the writer wrote all the time: {n_states} states");
}

/// Keeps E-9.
#[test]
fn a_hot_journal_is_rolled_back_in_the_copy_and_left_where_it_is() {
    let _turn = turn();
    let world = World::new();
    drop(make(&world.live(), &rows(20_000)));
    drop(Actor::start("torn", &world.live())); // killed in its transaction
    let journal = world.live().with_file_name("app.db-journal");
    let before = (std::fs::read(world.live()).unwrap(), std::fs::read(&journal).unwrap());
    assert!(before.1.len() > 512, "there is a hot journal");

    assert_eq!(world.source(&world.live()).check(&world.cx).unwrap(), []);
    let snapshot = world.backup(&world.live());

    let copy = world.write(&snapshot, "copy.db");
    assert_eq!(count(&copy, "t WHERE v LIKE 'half done%'"), 0);
    assert_eq!((count(&copy, "t"), integrity(&copy).as_str()), (20_000, "ok"));
    assert_eq!(world.red(&copy, &snapshot.manifest()), [""; 0]);
    assert!(before == (std::fs::read(world.live()).unwrap(), std::fs::read(&journal).unwrap()));
    assert_eq!(count(&world.live(), "t WHERE v LIKE 'half done%'"), 0, "the application rolls back as ever");
}

#[test]
fn a_wal_that_a_killed_process_left_is_read_and_left() {
    let _turn = turn();
    let world = World::new();
    drop(make(&world.live(), &format!("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; {BANK}")));
    let writer = Actor::start("writer", &world.live());
    std::thread::sleep(Duration::from_millis(200));
    drop(writer);
    std::fs::remove_file(world.live().with_file_name("app.db-shm")).unwrap(); // as after a new start
    let before = (std::fs::read(world.live()).unwrap(), std::fs::read(wal(&world)).unwrap());
    assert!(!before.1.is_empty());

    let snapshot = world.backup(&world.live());

    assert!(before == (std::fs::read(world.live()).unwrap(), std::fs::read(wal(&world)).unwrap()));
    assert_eq!(snapshot.rows_of("transfer"), count(&world.live(), "transfer"));
}

#[test]
fn a_database_that_stays_locked_is_busy_and_says_so() {
    let _turn = turn();
    let world = World::new();
    drop(make(&world.live(), &rows(5)));
    let _holder = Actor::start("exclusive", &world.live());
    std::thread::scope(|scope| {
        let backup = scope.spawn(|| world.try_backup(&world.live()).err().unwrap());
        std::thread::sleep(Duration::from_millis(300));
        assert!(!backup.is_finished(), "it waits for a while");
        while !backup.is_finished() {
            world.cx.clock.advance(Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(10));
        }
        let error = backup.join().unwrap();
        assert_eq!(error.code(), ErrorCode::Busy);
        assert!(error.to_string().contains("is locked by another program"), "{error}");
        assert!(error.advice().is_some());
    });
    assert_eq!(names_in(&world.scratch()), [""; 0]);
}

#[test]
fn waiting_for_a_lock_can_be_interrupted() {
    let _turn = turn();
    let world = World::new();
    drop(make(&world.live(), &rows(5)));
    let _holder = Actor::start("exclusive", &world.live());
    std::thread::scope(|scope| {
        let backup = scope.spawn(|| world.try_backup(&world.live()).err().unwrap());
        std::thread::sleep(Duration::from_millis(100));
        world.cx.cancel().cancel();
        assert_eq!(backup.join().unwrap().code(), ErrorCode::Interrupted);
    });
}

#[test]
fn a_reading_that_is_dropped_early_or_killed_leaves_no_scratch() {
    let world = World::new();
    drop(make(&world.live(), &rows(50_000)));
    // What a killed backup left: a directory with a copy in it, which nobody locks.
    let stale = world.scratch().join("hikae-sqlite-0123456789abcdef");
    std::fs::create_dir(&stale).unwrap();
    std::fs::write(stale.join("copy.db"), b"secret rows").unwrap();

    let reading = world.source(&world.live()).begin(super::KEY, &world.cx).unwrap();
    assert_eq!(names_in(&world.scratch()), [""; 0], "it has no name while it is read");
    drop(reading);
}
