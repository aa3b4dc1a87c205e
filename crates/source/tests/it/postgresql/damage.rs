//! A drill goes red when it must (G-8): each sabotage is one thing that a restore would get wrong in silence.

use super::*;
use hikae_source::check::Check;

fn shop(tag: &str) -> Db {
    let db = Db::new(tag);
    db.sql(
        "CREATE TABLE orders (id int PRIMARY KEY, item text); INSERT INTO orders SELECT i, 'item ' || i FROM generate_series(1, 500) i;
         CREATE INDEX by_item ON orders (item); CREATE SEQUENCE numbers START 10; SELECT nextval('numbers');
         CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; SELECT lo_from_bytea(720001, 'abc');",
    );
    db
}

/// What a drill says of a sabotaged snapshot: the checks that failed, or that it could not be restored at all.
#[track_caller]
fn red(kept: &Kept) -> Vec<Check> {
    match drill_it(kept) {
        Err(_) => Vec::new(),
        Ok(result) => {
            assert!(!result.passed(), "the drill is green");
            result.checks.into_iter().filter(|check| !check.passed).collect()
        }
    }
}

/// Keeps MK-34.
#[test]
fn rows_that_are_missing_doubled_changed_or_swapped_are_found() {
    let db = shop("sabotage");
    let good = db.back_up();
    assert_passed(&drill_it(&good).unwrap());
    const FILE: &str = "tables/public.orders.copy";
    let lines = |kept: &Kept| -> Vec<String> {
        String::from_utf8(kept.file(FILE).to_vec()).unwrap().lines().map(str::to_owned).collect()
    };
    let with = |lines: Vec<String>| {
        let mut kept = good.clone();
        *kept.file_mut(FILE) = (lines.join("\n") + "\n").into_bytes();
        kept
    };
    let mut one_less = lines(&good);
    one_less.remove(250);
    let red_rows = red(&with(one_less));
    assert!(
        red_rows.iter().any(|check| check.name == "rows of public.orders" && check.actual == "499"),
        "{red_rows:?}"
    );

    let mut changed = lines(&good);
    changed[7] = "8\titem 9".into();
    let red_content = red(&with(changed));
    assert_eq!(red_content.len(), 1);
    assert_eq!(red_content[0].name, "content of public.orders");

    let mut swapped = lines(&good);
    swapped[0] = "1\titem 2".into();
    swapped[1] = "2\titem 1".into();
    assert_eq!(red(&with(swapped)).len(), 1, "two values that changed places");

    let mut doubled = lines(&good);
    doubled.push("501\titem 501".into());
    assert!(!red(&with(doubled)).is_empty());

    // D5: cut within a row. The half row is a whole one to COPY.
    let mut cut = good.clone();
    let bytes = cut.file_mut(FILE);
    bytes.truncate(bytes.len() - 5);
    red(&cut);
    let mut empty = good.clone();
    empty.file_mut(FILE).clear();
    red(&empty);
}

/// Keeps EC-20.
#[test]
fn files_that_are_missing_or_cut_are_found() {
    let db = shop("cut");
    let good = db.back_up();
    for name in
        ["tables/public.orders.copy", "schema.dump", "database.json", "globals.sql", "large-objects.dump"]
    {
        let mut missing = good.clone();
        missing.files.remove(name.as_bytes());
        missing.entries.retain(|entry| entry.path.as_bytes() != name.as_bytes());
        assert!(drill_it(&missing).is_err(), "without {name}");
        for share in [0, 10, 50, 90] {
            let mut cut = good.clone();
            let bytes = cut.file_mut(name);
            bytes.truncate(bytes.len() * share / 100);
            red(&cut);
        }
    }
    let mut without = good.clone();
    without.manifest.clear();
    assert!(drill_it(&without).is_err());
}

#[test]
fn objects_and_sequences_that_differ_are_found() {
    let db = shop("objects");
    let good = db.back_up();
    db.sql("DROP INDEX by_item");
    let without_index = Kept { manifest: good.manifest.clone(), ..db.back_up() };
    assert!(red(&without_index).iter().any(|check| check.name == "number of indexes"));
    db.sql("CREATE INDEX other_name ON orders (item)");
    let other_index = Kept { manifest: good.manifest.clone(), ..db.back_up() };
    assert!(red(&other_index).iter().any(|check| check.name == "names of indexes"));
    db.sql("DROP INDEX other_name; CREATE INDEX by_item ON orders (item); DROP FUNCTION f()");
    let without_function = Kept { manifest: good.manifest.clone(), ..db.back_up() };
    assert!(red(&without_function).iter().any(|check| check.name == "number of functions"));
    db.sql("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; REVOKE EXECUTE ON FUNCTION f() FROM PUBLIC");
    let other_grants = Kept { manifest: good.manifest.clone(), ..db.back_up() };
    assert!(red(&other_grants).iter().any(|check| check.name.ends_with("of privileges")));
    db.sql("GRANT EXECUTE ON FUNCTION f() TO PUBLIC");
    for (change, kind, back) in [
        (
            "ALTER TABLE orders ALTER item TYPE varchar(99)",
            "columns",
            "ALTER TABLE orders ALTER item TYPE text",
        ),
        (
            "ALTER TABLE orders ENABLE ROW LEVEL SECURITY",
            "row security",
            "ALTER TABLE orders DISABLE ROW LEVEL SECURITY",
        ),
        (
            "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
            "privileges",
            "ALTER DEFAULT PRIVILEGES REVOKE SELECT ON TABLES FROM PUBLIC",
        ),
        (
            "GRANT SELECT (item) ON orders TO PUBLIC",
            "privileges",
            "REVOKE SELECT (item) ON orders FROM PUBLIC",
        ),
        (
            "CREATE TEXT SEARCH CONFIGURATION c (COPY = simple)",
            "text search",
            "DROP TEXT SEARCH CONFIGURATION c",
        ),
    ] {
        db.sql(change);
        let other = Kept { manifest: good.manifest.clone(), ..db.back_up() };
        assert!(red(&other).iter().any(|check| check.name.ends_with(&format!(" of {kind}"))), "{change}");
        db.sql(back);
    }

    let mut sequence = good.clone();
    let json = String::from_utf8(sequence.file("sequences.json").to_vec()).unwrap();
    *sequence.file_mut("sequences.json") =
        json.replace("\"last_value\": 10", "\"last_value\": 11").into_bytes();
    assert!(
        red(&sequence).iter().any(|check| check.name == "sequence public.numbers" && check.actual == "11")
    );

    let mut table = good.clone();
    let mut manifest = table.manifest();
    let mut ghost = manifest.tables[0].clone();
    ghost.name = "ghost".into();
    ghost.files.clear();
    manifest.tables.push(ghost);
    table.set_manifest(&manifest);
    assert!(red(&table).iter().any(|check| check.name == "rows of public.ghost"));

    let mut large = good.clone();
    let mut manifest = large.manifest();
    manifest.large_objects.as_mut().unwrap().hash = "00".repeat(32);
    large.set_manifest(&manifest);
    assert!(red(&large).iter().any(|check| check.name == "content of large objects"));
}

#[test]
fn another_key_makes_every_table_red() {
    let db = shop("key");
    let good = db.back_up();
    let options = DrillOptions {
        key: HashKey([1; 32]),
        jobs: two(),
        program_directory: named_postgresql(),
        run_as: None,
    };
    let result = drill(&good, &scratch(), &options, &environment(), &system_cx()).unwrap();
    assert!(!result.passed());
}
