//! Everything that can stand in a database.

use super::{World, make};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

#[track_caller]
fn check_whole(sql: &str, tables: &[(&str, u64)]) {
    let world = World::new();
    drop(make(&world.live(), sql));
    let snapshot = world.backup(&world.live());
    assert!(snapshot.problems.is_empty(), "{:?}", snapshot.problems);
    for (name, n) in tables {
        assert_eq!(snapshot.rows_of(name), *n, "{name}");
    }
    let manifest = snapshot.manifest();
    assert_eq!(manifest.integrity, ["ok"]);
    assert!(manifest.tables.iter().all(|table| table.unreadable.is_none()), "{:?}", manifest.tables);
    assert_eq!(world.red(&world.write(&snapshot, "copy.db"), &manifest), [""; 0]);
}

#[test]
fn every_kind_of_value_and_of_table_is_counted() {
    check_whole(
        "CREATE TABLE mixed (a, b REAL, c BLOB, d TEXT);
         INSERT INTO mixed VALUES (NULL, 1.5, x'00ff', 'text'), (9223372036854775807, -0.0, x'', ''),
             (1e999, NULL, zeroblob(100000), 'ä' || char(0) || 'b');
         CREATE TABLE keyed (k TEXT PRIMARY KEY, v) WITHOUT ROWID;
         INSERT INTO keyed VALUES ('a', 1), ('b', 2);
         CREATE TABLE made (a INT, twice AS (a * 2), thrice AS (a * 3) STORED);
         INSERT INTO made VALUES (1), (2), (3);
         CREATE TABLE strict_one (i INTEGER) STRICT; INSERT INTO strict_one VALUES (1);
         CREATE TABLE empty (a);
         CREATE VIEW seen AS SELECT a FROM mixed;
         CREATE TRIGGER watch AFTER INSERT ON empty BEGIN SELECT 1; END;
         CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO counted DEFAULT VALUES;
         CREATE INDEX by_a ON mixed (a); ANALYZE;",
        &[
            ("mixed", 3),
            ("keyed", 2),
            ("made", 3),
            ("strict_one", 1),
            ("empty", 0),
            ("counted", 1),
            ("sqlite_sequence", 1),
        ],
    );
}

/// Keeps E-4.
#[test]
fn names_that_look_like_sql_are_only_names() {
    check_whole(
        "CREATE TABLE \"\"\"; drop\" (\"a\"\"b\" INT, \"select\" INT, \"x, y\" INT);
         INSERT INTO \"\"\"; drop\" VALUES (1, 2, 3);
         CREATE TABLE \"new\nline\" (\"\" INT); INSERT INTO \"new\nline\" VALUES (1), (2);
         CREATE TABLE [控え] (a INT); CREATE TABLE \"?1\" (\"%\" INT); INSERT INTO \"?1\" VALUES (1);",
        &[("\"; drop", 1), ("new\nline", 2), ("控え", 0), ("?1", 1)],
    );
}

#[test]
fn pages_of_every_size_are_read_as_such() {
    for page_size in [512, 1024, 4096, 8192, 32768, 65536] {
        let world = World::new();
        let sql = format!("PRAGMA page_size = {page_size}; PRAGMA auto_vacuum = FULL; {}", super::rows(3000));
        drop(make(&world.live(), &sql));
        let snapshot = world.backup(&world.live());
        assert_eq!(snapshot.page_size, page_size);
        assert_eq!(snapshot.bytes.len() % page_size as usize, 0);
        assert_eq!(
            world.red(&world.write(&snapshot, "copy.db"), &snapshot.manifest()),
            [""; 0],
            "{page_size}"
        );
    }
}

#[test]
fn text_in_utf_16_and_numbers_of_the_application_are_kept() {
    check_whole(
        "PRAGMA encoding = 'UTF-16be'; PRAGMA user_version = -3; PRAGMA application_id = 1196444487;
         CREATE TABLE t (a TEXT); INSERT INTO t VALUES ('grüße'), ('控え');",
        &[("t", 2)],
    );
}

#[test]
fn virtual_tables_are_kept_through_their_shadow_tables() {
    let world = World::new();
    drop(make(
        &world.live(),
        "CREATE VIRTUAL TABLE note USING fts5(body);
         INSERT INTO note VALUES ('the copy kept in reserve'), ('another one');
         CREATE VIRTUAL TABLE place USING rtree(id, x0, x1); INSERT INTO place VALUES (1, 0, 1);",
    ));
    let snapshot = world.backup(&world.live());
    assert_eq!(snapshot.rows_of("note_content"), 2);
    assert_eq!(snapshot.rows_of("place_rowid"), 1);
    let skipped: Vec<_> = snapshot.manifest().skipped.into_iter().map(|skipped| skipped.name).collect();
    assert_eq!(skipped, ["note", "place"]);
    let copy = world.write(&snapshot, "copy.db");
    assert_eq!(world.red(&copy, &snapshot.manifest()), [""; 0]);
    assert_eq!(super::count(&copy, "note WHERE note MATCH 'reserve'"), 1);
}

#[test]
fn an_empty_file_is_a_database_with_nothing_in_it() {
    let world = World::new();
    std::fs::write(world.live(), b"").unwrap();
    let snapshot = world.backup(&world.live());
    assert_eq!(snapshot.bytes, b"");
    assert_eq!(world.red(&world.write(&snapshot, "copy.db"), &snapshot.manifest()), [""; 0]);
}

#[test]
fn any_name_of_a_file_will_do() {
    for name in [
        &b"what?mode=memory"[..],
        b"50%41.db",
        b"a#b",
        b"-rf",
        b"two words.db",
        b"not \xff utf-8",
        b"file:x",
        b"new\nline",
        b"'quoted\"",
    ] {
        let world = World::new();
        let path = world.live().with_file_name(OsStr::from_bytes(name));
        drop(make(&path, "PRAGMA journal_mode = WAL; CREATE TABLE t (a); INSERT INTO t VALUES (1)"));
        let snapshot = world.backup(&path);
        assert_eq!(snapshot.entries[0].path.as_bytes(), name);
        assert_eq!(snapshot.rows_of("t"), 1);
        let options = hikae_source::sqlite::RestoreOptions::default();
        let restored =
            hikae_source::sqlite::restore(&snapshot, &world.restored(), super::KEY, options, &world.cx)
                .unwrap();
        assert_eq!(restored.path, world.restored().join(OsStr::from_bytes(name)));
    }
}

#[test]
fn the_entry_says_what_is_written_on_the_file_and_never_looks_unchanged() {
    let world = World::new();
    drop(make(&world.live(), &super::rows(1)));
    std::fs::set_permissions(world.live(), std::fs::Permissions::from_mode(0o640)).unwrap();
    let entry = &world.backup(&world.live()).entries[0];
    assert_eq!(entry.path.to_string(), "app.db");
    assert_eq!(entry.attributes.mode, 0o640);
    assert!(entry.attributes.modified.seconds > 0);
    assert_eq!((entry.attributes.changed, entry.attributes.inode), Default::default());
}

#[test]
fn violated_foreign_keys_are_counted_and_no_problem() {
    let world = World::new();
    drop(make(
        &world.live(),
        "PRAGMA foreign_keys = OFF; CREATE TABLE p (id INTEGER PRIMARY KEY);
         CREATE TABLE c (p INT REFERENCES p); INSERT INTO c VALUES (1), (2);",
    ));
    let snapshot = world.backup(&world.live());
    assert!(snapshot.problems.is_empty());
    assert_eq!(snapshot.manifest().foreign_keys.violations[0].rows, 2);
    assert_eq!(world.red(&world.write(&snapshot, "copy.db"), &snapshot.manifest()), [""; 0]);
}

/// Two backups of one state have one manifest, and hashes say nothing to who has not the key.
#[test]
fn a_manifest_follows_from_the_content_and_the_key() {
    let world = World::new();
    drop(make(&world.live(), &super::rows(100)));
    let manifest = world.backup(&world.live()).manifest();
    assert_eq!(world.backup(&world.live()).manifest(), manifest);
    let path = world.write(&world.backup(&world.live()), "copy.db");
    let other = hikae_model::HashKey([8; 32]);
    let checks = hikae_source::sqlite::check_restored(&path, &manifest, other, &world.cx).unwrap();
    let red: Vec<_> = checks.iter().filter(|check| !check.passed).map(|check| &check.name[..]).collect();
    assert_eq!(red, ["schema", "hash of t"]);
}
