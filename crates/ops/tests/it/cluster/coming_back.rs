//! What comes back: rows that were written while the backup ran, tablespaces, and nothing of what must not.

use super::*;

#[test]
fn a_cluster_comes_back_and_is_proved() {
    let Some(cluster) = start() else { return };
    let world = World::new();
    sql(
        &cluster,
        "CREATE TABLE orders AS SELECT n AS id, repeat('x', 100) AS note FROM generate_series(1, 20000) n",
    );
    sql(&cluster, "CREATE INDEX ON orders (id)");
    let snapshot = back_up_whole(&world, &cluster);
    let Restored { cluster: restored, report } = restore(&world, snapshot);
    let sums = "SELECT count(*) || ' ' || sum(hashtext(o::text)) FROM orders o";
    assert_eq!(text(&restored, sums), text(&cluster, sums));
    assert_eq!(report.n_damaged, 0);
    assert_proved(&world, snapshot);
    drop(enter(&cluster, "postgres")); // the source is as it was
}

/// Rows come in and change while the files are read: what was committed before the backup ended is there, and whole.
#[test]
fn a_backup_under_load_comes_back_to_one_moment() {
    let Some(cluster) = start() else { return };
    let world = World::new();
    let (report, before, after) = under_load(&cluster, || back_up(&world, source(&cluster)));
    assert_eq!(report.outcome, Outcome::Complete, "{:?}", report.problems);
    let snapshot = report.id.unwrap();
    let Restored { cluster: restored, .. } = restore(&world, snapshot);
    assert_load_is_whole(&restored, before, after);
    assert_proved(&world, snapshot);
}

/// Files grow, shrink, vanish and appear while they are read.
#[test]
fn what_changes_while_it_is_read_comes_back_as_it_was_at_the_end() {
    let Some(cluster) = start() else { return };
    let world = World::new();
    let make = "SELECT n AS id, repeat('x', 200) AS note FROM generate_series(1, 5000) n";
    for table in ["grows", "shrinks", "vanishes", "moves"] {
        sql(&cluster, &format!("CREATE TABLE {table} AS {make}; CREATE INDEX ON {table} (id)"));
    }
    let source = with_sql(
        &cluster,
        When::Listed,
        &[
            "INSERT INTO grows SELECT n, repeat('y', 200) FROM generate_series(1, 20000) n",
            "DELETE FROM shrinks WHERE id > 10",
            "VACUUM shrinks",
            "DROP TABLE vanishes",
            "VACUUM FULL moves",
            "CREATE TABLE appears AS SELECT 7 AS n",
            "CREATE DATABASE appears",
            "CHECKPOINT",
        ],
    );
    let report = back_up(&world, source);
    assert_eq!(report.outcome, Outcome::Complete, "{:?}", report.problems);
    let snapshot = report.id.unwrap();
    let Restored { cluster: restored, .. } = restore(&world, snapshot);
    for (query, expected) in [
        ("SELECT count(*)::text FROM grows", "25000"),
        ("SELECT count(*)::text FROM shrinks", "10"),
        ("SELECT coalesce(to_regclass('vanishes')::text, 'gone')", "gone"),
        ("SELECT count(*)::text FROM moves", "5000"),
        ("SELECT n::text FROM appears", "7"),
        ("SELECT count(*)::text FROM pg_database WHERE datname = 'appears'", "1"),
    ] {
        assert_eq!(text(&restored, query), expected, "{query}");
    }
    assert_proved(&world, snapshot);
}

/// Unlogged rows, temporary relations and slots are no part of a base backup.
#[test]
fn what_must_not_come_back_does_not() {
    let Some(cluster) = start() else { return };
    let world = World::new();
    sql(
        &cluster,
        "CREATE UNLOGGED TABLE fleeting AS SELECT n FROM generate_series(1, 1000) n;
         CREATE INDEX ON fleeting (n);
         SELECT pg_create_physical_replication_slot('somebody', true)",
    );
    let file = file_of(&cluster, "fleeting");
    let mut session = enter(&cluster, "postgres");
    session
        .batch_execute("CREATE TEMP TABLE mine AS SELECT n FROM generate_series(1, 1000) n; CHECKPOINT")
        .unwrap();
    let snapshot = back_up_whole(&world, &cluster);
    let stored = hikae_ops::stored::StoredSnapshot::open(&world.repo, snapshot).unwrap();
    let paths: Vec<String> =
        hikae_source::Stored::entries(&stored).iter().map(|entry| entry.path.to_string()).collect();
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    let of_fleeting: Vec<_> = paths.iter().filter(|path| path.contains(&format!("/{name}"))).collect();
    assert!(matches!(of_fleeting[..], [one] if one.ends_with("_init")), "{of_fleeting:?}");
    let temporary: String = session.query_one("SELECT pg_relation_filepath('mine')", &[]).unwrap().get(0);
    for left_out in [&*temporary, "postmaster.pid", "pg_internal.init", "pg_replslot/somebody"] {
        let found: Vec<_> = paths.iter().filter(|path| path.contains(left_out)).collect();
        assert!(found.is_empty(), "{found:?}");
    }
    let Restored { cluster: restored, .. } = restore(&world, snapshot);
    assert_eq!(text(&restored, "SELECT count(*)::text FROM fleeting"), "0");
    assert_eq!(text(&restored, "SELECT count(*)::text FROM pg_replication_slots"), "0");
}

#[test]
fn tablespaces_come_back_where_they_are_sent() {
    let Some(cluster) = start() else { return };
    let world = World::new();
    let places = ["fast", "slow disk"].map(|name| cluster.directory().join(name));
    for place in &places {
        std::fs::create_dir(place).unwrap();
        give(place, &cluster);
    }
    // One lies in the data directory, where PostgreSQL warns of it.
    let inside = cluster.directory().join("data/inside");
    std::fs::create_dir(&inside).unwrap();
    give(&inside, &cluster);
    for (name, place) in [("fast", &places[0]), ("slow", &places[1]), ("inside", &inside)] {
        sql(&cluster, &format!("CREATE TABLESPACE {name} LOCATION '{}'", place.display()));
        sql(
            &cluster,
            &format!("CREATE TABLE in_{name} TABLESPACE {name} AS SELECT n FROM generate_series(1, 3000) n"),
        );
    }
    let snapshot = back_up_whole(&world, &cluster);
    let oid: u32 =
        text(&cluster, "SELECT oid::text FROM pg_tablespace WHERE spcname = 'slow'").parse().unwrap();

    let cx = hikae_testkit::system_cx();
    let vacant = Vacant::make(&options(&[]), &scratch(), &environment(), &cx).unwrap();
    let sent = vacant.data().parent().unwrap().join("sent");
    let tablespaces = [(oid, sent.clone())].into();
    let target = ClusterTarget { directory: vacant.data(), tablespaces, ..ClusterTarget::default() };
    let report = restore_cluster(&world.repo, snapshot, &target, &cx).unwrap();
    assert_eq!(report.outcome, Outcome::Complete, "{:?}", report.problems);
    assert_eq!(report.tablespaces.len(), 3);
    assert!(std::fs::read_dir(&sent).unwrap().next().is_some());
    // The source's own are not needed, nor touched.
    drop(cluster);
    vacant.give_all().unwrap();
    let restored = vacant.start(Begins::Recovering, "postgres", &cx).unwrap();
    for name in ["fast", "slow", "inside"] {
        assert_eq!(text(&restored, &format!("SELECT count(*)::text FROM in_{name}")), "3000");
        let location =
            format!("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = '{name}'");
        let base = restored.directory().display().to_string();
        assert!(text(&restored, &location).starts_with(&base));
    }
    drop(restored);
    assert_proved(&world, snapshot);
}

#[test]
fn a_restore_goes_into_nothing_that_is_there() {
    let Some(cluster) = start() else { return };
    let world = World::new();
    let snapshot = back_up_whole(&world, &cluster);
    let directory = world.path("taken");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("mine"), "mine").unwrap();
    let target = ClusterTarget { directory: directory.clone(), ..ClusterTarget::default() };
    let error = restore_cluster(&world.repo, snapshot, &target, &world.cx).unwrap_err();
    assert!(hikae_ops::with_causes(&error).contains("is not empty"), "{error}");
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1);

    let new = world.path("new");
    for (oid, place) in [(77_777, world.path("elsewhere")), (1, new.join("inside"))] {
        let tablespaces = [(oid, place)].into();
        let target = ClusterTarget { directory: new.clone(), tablespaces, ..ClusterTarget::default() };
        restore_cluster(&world.repo, snapshot, &target, &world.cx).unwrap_err();
        assert!(!new.exists());
    }
}
