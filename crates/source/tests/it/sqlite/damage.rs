//! Files that are not what SQLite wrote: before the backup, and after it (G-8, IN-69).

use super::{World, make, rows};
use hikae_model::{Advise, ErrorCode};
use hikae_source::Source;
use hikae_source::sqlite::check_whole;
use rusqlite::Connection;

#[track_caller]
fn check_refused(world: &World, code: ErrorCode, text: &str) {
    let begun = world.source(&world.live()).begin(super::KEY, &world.cx).err();
    let checked = world.source(&world.live()).check(&world.cx).err();
    for error in [begun, checked] {
        let error = error.unwrap();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(text), "{error}");
        assert!(error.advice().is_some(), "{error}");
    }
    assert_eq!(super::names_in(&world.scratch()), [""; 0]);
}

#[test]
fn what_is_no_database_is_named_as_what_it_is() {
    let world = World::new();
    check_refused(&world, ErrorCode::SourceMissing, "is not there");
    assert!(!world.live().exists(), "and it is not made");

    std::fs::write(world.live(), "not a database, but some text\n".repeat(100)).unwrap();
    check_refused(&world, ErrorCode::Usage, "is not a SQLite database");

    // SQLCipher's pages are random from the first byte on.
    let mut random = vec![0; 8192];
    blake3::Hasher::new().finalize_xof().fill(&mut random);
    std::fs::write(world.live(), random).unwrap();
    check_refused(&world, ErrorCode::Usage, "is encrypted");
}

#[test]
fn a_directory_is_no_database() {
    let world = World::new();
    let error = world.source(&world.scratch()).begin(super::KEY, &world.cx).err().unwrap();
    assert!(error.to_string().contains("is not a file"), "{error}");
}

#[test]
fn a_damaged_database_is_kept_with_its_problems() {
    let world = World::new();
    drop(make(&world.live(), &format!("{} CREATE INDEX by_v ON t (v);", rows(5000))));
    let mut bytes = std::fs::read(world.live()).unwrap();
    bytes[20 * 4096..22 * 4096].fill(0xaa);
    std::fs::write(world.live(), &bytes).unwrap();

    let snapshot = world.backup(&world.live());

    assert!(snapshot.problems.iter().any(|problem| problem.code == "damaged"), "{:?}", snapshot.problems);
    assert!(snapshot.problems.iter().all(|problem| problem.advice.is_some()));
    let copy = world.write(&snapshot, "copy.db");
    assert_eq!(snapshot.bytes[20 * 4096..22 * 4096], bytes[20 * 4096..22 * 4096]);
    assert_eq!(world.red(&copy, &snapshot.manifest()), [""; 0], "the copy is as damaged, and no more");
}

#[test]
fn a_database_that_was_cut_short_is_kept_with_its_problems() {
    let world = World::new();
    drop(make(&world.live(), &rows(5000)));
    let bytes = std::fs::read(world.live()).unwrap();
    std::fs::write(world.live(), &bytes[..bytes.len() / 2]).unwrap();

    let snapshot = world.backup(&world.live());

    assert!(!snapshot.problems.is_empty());
    assert!(snapshot.bytes[4096..bytes.len() / 2] == bytes[4096..bytes.len() / 2]);
    assert_eq!(world.red(&world.write(&snapshot, "copy.db"), &snapshot.manifest()), [""; 0]);
}

/// Keeps IN-69.
#[test]
fn what_differs_from_the_manifest_is_seen() {
    let world = World::new();
    drop(make(&world.live(), &format!("{} CREATE TABLE other (a); CREATE INDEX by_v ON t (v);", rows(500))));
    let snapshot = world.backup(&world.live());
    let manifest = snapshot.manifest();
    let spoil = |name: &str, sql: &str| {
        let path = world.write(&snapshot, name);
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        world.red(&path, &manifest)
    };
    let copy = world.write(&snapshot, "good.db");
    assert_eq!(world.red(&copy, &manifest), [""; 0]);
    assert_eq!(spoil("row.db", "DELETE FROM t WHERE id = 77"), ["rows of t", "hash of t"]);
    assert_eq!(
        spoil("value.db", "UPDATE t SET v = replace(v, '00077', '00078') WHERE id = 77"),
        ["hash of t"],
        "integrity_check and row counts see nothing of it"
    );
    assert_eq!(
        spoil("type.db", "PRAGMA ignore_check_constraints = 1; PRAGMA user_version = 5"),
        ["user_version"]
    );
    assert_eq!(spoil("schema.db", "DROP INDEX by_v; CREATE INDEX by_v ON t (v DESC)"), ["schema"]);
    assert_eq!(spoil("missing.db", "DROP TABLE other"), ["schema", "table other"]);
    assert!(spoil("more.db", "CREATE TABLE more (a)").contains(&"table more".to_owned()));

    let page = snapshot.bytes.len() / 2;
    for (name, spoilt) in [
        ("cut.db", snapshot.bytes[..page].to_vec()),
        ("cut-page.db", snapshot.bytes[..snapshot.bytes.len() - 4096].to_vec()),
        ("empty.db", Vec::new()),
        ("noise.db", vec![b'x'; 8192]),
    ] {
        let path = copy.with_file_name(name);
        std::fs::write(&path, spoilt).unwrap();
        assert!(!world.red(&path, &manifest).is_empty(), "{name}");
    }
}

/// Keeps IN-69.
#[test]
fn an_index_that_misses_a_row_is_seen() {
    let world = World::new();
    drop(make(&world.live(), &format!("{} CREATE INDEX by_v ON t (v);", rows(500))));
    let snapshot = world.backup(&world.live());
    let path = world.write(&snapshot, "copy.db");
    // Put back while nobody knows of the index, the row is in the table as it was and in the index no more.
    let steps = [
        "CREATE TABLE kept AS SELECT * FROM t WHERE id = 77; DELETE FROM t WHERE id = 77",
        "CREATE TABLE hidden AS SELECT * FROM sqlite_schema WHERE name = 'by_v'; PRAGMA writable_schema = 1;
         DELETE FROM sqlite_schema WHERE name = 'by_v'",
        "INSERT INTO t SELECT * FROM kept; PRAGMA writable_schema = 1; INSERT INTO sqlite_schema SELECT * FROM hidden",
        "DROP TABLE kept; DROP TABLE hidden",
    ];
    steps.iter().for_each(|sql| Connection::open(&path).unwrap().execute_batch(sql).unwrap());
    let red = world.red(&path, &snapshot.manifest());
    assert!(red.contains(&"quick_check".to_owned()), "{red:?}");
    assert!(!red.iter().any(|name| name.ends_with(" of t")), "the rows are as they were: {red:?}");
}

/// Keeps IN-69.
#[test]
fn violated_foreign_keys_that_the_manifest_does_not_know_are_seen() {
    let world = World::new();
    let sql = "CREATE TABLE p (a PRIMARY KEY); CREATE TABLE c (a REFERENCES p); PRAGMA foreign_keys = 0; INSERT INTO c VALUES (7)";
    drop(make(&world.live(), sql));
    let snapshot = world.backup(&world.live());
    let path = world.write(&snapshot, "copy.db");
    assert_eq!(world.red(&path, &snapshot.manifest()), [""; 0]);
    let mut manifest = snapshot.manifest();
    manifest.foreign_keys.violations.clear();
    assert_eq!(world.red(&path, &manifest), ["foreign_key_check"]);
}

#[test]
fn a_flipped_bit_in_a_row_is_seen() {
    let world = World::new();
    drop(make(&world.live(), &rows(2000)));
    let snapshot = world.backup(&world.live());
    let text = "row 00001234 of the table";
    for offset in 0..text.len() {
        let mut bytes = snapshot.bytes.clone();
        flip_in_all(&mut bytes, text, offset);
        let path = world.restored().join("flipped.db");
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(world.red(&path, &snapshot.manifest()), ["hash of t"], "{offset}");
    }
}

/// Flips a bit of `text` wherever it stands: pages that were split hold old rows in their free space.
pub(crate) fn flip_in_all(bytes: &mut [u8], text: &str, offset: usize) {
    let starts: Vec<_> = bytes
        .windows(text.len())
        .enumerate()
        .filter_map(|(at, window)| (window == text.as_bytes()).then_some(at))
        .collect();
    assert!(!starts.is_empty());
    starts.into_iter().for_each(|at| bytes[at + offset] ^= 1);
}

#[test]
fn a_log_beside_the_restored_file_is_seen() {
    let world = World::new();
    drop(make(&world.live(), &rows(5)));
    let snapshot = world.backup(&world.live());
    let path = world.write(&snapshot, "copy.db");
    std::fs::write(path.with_file_name("copy.db-wal"), b"of another database").unwrap();
    assert_eq!(world.red(&path, &snapshot.manifest()), ["log or journal beside the file"]);
}

/// A database whose index holds an old value: an SQLite with a bug left it so. Its pages are well formed, and it has an
/// entry for each row.
fn with_a_stale_index(world: &World) {
    let connection = make(&world.live(), &format!("{} CREATE INDEX by_v ON t (v);", rows(500)));
    let root: i64 = connection
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'by_v'", [], |r| r.get(0))
        .unwrap();
    // Each step in a connection of its own, which reads the schema as the last one left it.
    drop(connection);
    for sql in [
        "PRAGMA writable_schema = ON; DELETE FROM sqlite_schema WHERE name = 'by_v'".to_owned(),
        "UPDATE t SET v = 'a value that the index does not know' WHERE id = 77".to_owned(),
        format!(
            "PRAGMA writable_schema = ON; \
             INSERT INTO sqlite_schema VALUES ('index', 'by_v', 't', {root}, 'CREATE INDEX by_v ON t (v)')"
        ),
    ] {
        Connection::open(world.live()).unwrap().execute_batch(&sql).unwrap();
    }
}

/// The whole check is ten times as dear as the quick one, so a backup leaves it to the drill: what the quick one does
/// not see is kept and restored as it is, and seen then.
#[test]
fn a_stale_index_is_kept_restored_and_seen_by_the_whole_check() {
    let world = World::new();
    with_a_stale_index(&world);
    assert_ne!(super::integrity(&world.live()), "ok");
    let snapshot = world.backup(&world.live());
    assert_eq!(snapshot.problems, []);
    assert_eq!(snapshot.rows_of("t"), 500);

    let copy = world.write(&snapshot, "copy.db");
    assert_eq!(world.red(&copy, &snapshot.manifest()), [""; 0], "it comes back as it was");
    let whole = check_whole(&copy, &snapshot.manifest(), &world.cx).unwrap().unwrap();
    assert!(!whole.passed && whole.actual.contains("by_v"), "{whole}");
    Connection::open(&copy).unwrap().execute_batch("REINDEX").unwrap();
    assert!(check_whole(&copy, &snapshot.manifest(), &world.cx).unwrap().unwrap().passed);
}
