//! What a database can hold besides tables of its own: each kind comes back, or it is said that it does not.

use super::*;

/// Restores beside the database.
fn restore_beside(db: &Db, kept: &Kept) -> hikae_source::postgresql::Restored {
    let options = RestoreOptions { program_directory: db.programs(), ..restore_options() };
    let restored =
        hikae_source::postgresql::restore(kept, &db.server(), &options, &environment(), &system_cx())
            .unwrap();
    let failed: Vec<_> = restored.checks.iter().filter(|check| !check.passed).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    restored
}

#[track_caller]
fn not_covered(kept: &Kept, what: &str) {
    let gaps: Vec<String> = kept.manifest().not_covered.into_iter().map(|gap| gap.what).collect();
    assert!(gaps.iter().any(|gap| gap == what), "{what} in {gaps:?}");
}

#[test]
fn tablespaces_are_used_where_they_are_and_not_missed_where_they_are_not() {
    let cluster = Arc::new(start(&[]));
    let mut admin = enter(cluster.connection(), "postgres", "postgres");
    for name in ["fast disk", "slow"] {
        let place = cluster.directory().join(name);
        std::fs::create_dir(&place).unwrap();
        give(&place, &cluster);
        let sql = format!("CREATE TABLESPACE {} LOCATION '{}'", quote(name), place.display());
        admin.batch_execute(&sql).unwrap();
    }
    let db = Db::on(cluster, "spaces", "TABLESPACE \"fast disk\"");
    db.sql(
        "CREATE TABLE here (a int); CREATE TABLE there (a int PRIMARY KEY USING INDEX TABLESPACE slow) TABLESPACE slow;
         INSERT INTO here VALUES (1); INSERT INTO there VALUES (2)",
    );
    let kept = db.back_up();
    let restored = restore_beside(&db, &kept);
    assert!(restored.notes.is_empty(), "{:?}", restored.notes);
    let mut client = db.client_as("postgres", &restored.database);
    let spaces = "SELECT string_agg(relname || ' ' || coalesce(spcname, 'default'), ', ' ORDER BY relname)
        || ', ' || (SELECT spcname FROM pg_database d JOIN pg_tablespace t ON t.oid = dattablespace WHERE datname = current_database())
        FROM pg_class c LEFT JOIN pg_tablespace t ON t.oid = reltablespace WHERE relname IN ('here', 'there', 'there_pkey')";
    let found: String = client.query_one(spaces, &[]).unwrap().get(0);
    assert_eq!(found, "here default, there slow, there_pkey slow, fast disk");
    drop(client);
    db.maintenance(&format!("DROP DATABASE {}", quote(&restored.database)));

    let drilled = drill_it(&kept).unwrap();
    assert_passed(&drilled);
    assert!(
        drilled.notes.iter().any(|note| note.contains("tablespace fast disk, slow")),
        "{:?}",
        drilled.notes
    );
}

/// A copy that subscribed like the original would pull from the publisher and use up the original's slot.
#[test]
fn a_subscription_is_never_made_by_a_restore_and_that_is_said() {
    let db = Db::on(Arc::new(start(&[])), "subscribed", "");
    db.sql(
        "CREATE TABLE t (a int);
         CREATE SUBSCRIPTION news CONNECTION 'host=/nonexistent dbname=x' PUBLICATION p WITH (connect = false)",
    );
    let kept = db.back_up();
    not_covered(&kept, "news");
    let restored = restore_beside(&db, &kept);
    assert!(
        restored.notes.iter().any(|note| note == "subscription news is not made"),
        "{:?}",
        restored.notes
    );
    assert_eq!(db.count("SELECT count(*) FROM pg_subscription"), 1);
    db.maintenance(&format!("DROP DATABASE {}", quote(&restored.database)));
    assert_passed(&drill_it(&kept).unwrap());
    let findings = db.source().preflight(&system_cx()).unwrap();
    assert!(findings.iter().any(|finding| finding.problem.what.contains("news")));
    // Another database's subscriptions are not this one's.
    let other = Db::on(Arc::clone(&db.cluster), "unsubscribed", "");
    let findings = other.source().preflight(&system_cx()).unwrap();
    assert!(findings.iter().all(|finding| finding.problem.code != "subscriptions"));
}

/// An audit log that a trigger on definitions writes must not hold what the restore did.
#[test]
fn an_event_trigger_does_not_write_down_the_restore() {
    let db = Db::new("audited");
    db.sql(
        "CREATE TABLE ddl (what text);
         CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.ddl VALUES (tg_tag); END $$;
         CREATE EVENT TRIGGER audit ON ddl_command_end EXECUTE FUNCTION note();
         CREATE TABLE t (a int); CREATE MATERIALIZED VIEW shown AS SELECT * FROM t",
    );
    let kept = db.back_up();
    assert_eq!(kept.rows("public", "ddl"), Some(2));
    assert_passed(&drill_it(&kept).unwrap());
}

#[test]
fn foreign_tables_and_servers_come_back_and_their_rows_are_not_ours() {
    let db = Db::new("foreign");
    if let Err(error) = db.client().batch_execute("CREATE EXTENSION postgres_fdw") {
        return hikae_testkit::not_run(&format!("no postgres_fdw: {error}"));
    }
    db.sql(
        "CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '/nonexistent', dbname 'x');
         CREATE USER MAPPING FOR postgres SERVER far OPTIONS (user 'u');
         CREATE TABLE parent (a int) PARTITION BY LIST (a); CREATE TABLE near PARTITION OF parent FOR VALUES IN (1);
         CREATE FOREIGN TABLE away PARTITION OF parent FOR VALUES IN (2) SERVER far; INSERT INTO parent VALUES (1);
         CREATE VIEW both_sides AS SELECT * FROM parent; CREATE MATERIALIZED VIEW kept AS SELECT * FROM near;
         CREATE MATERIALIZED VIEW pulled AS SELECT a FROM both_sides WHERE a = 1",
    );
    let kept = db.back_up();
    not_covered(&kept, "public.away");
    not_covered(&kept, "public.pulled");
    assert_eq!(kept.rows("public", "near"), Some(1));
    assert_passed(&drill_it(&kept).unwrap());
}

/// An extension declares rows as configuration; those and no others are kept, and come on top of its own.
#[test]
fn configuration_of_an_extension_is_kept() {
    let cluster = Arc::new(start(&[]));
    if cluster.major() < 18 {
        return hikae_testkit::not_run(
            "an extension can be made without writing into the installation since PostgreSQL 18",
        );
    }
    let directory = cluster.directory().join("share/extension");
    std::fs::create_dir_all(&directory).unwrap();
    for (name, text) in [
        ("hikae_shop.control", "default_version = '1'\n"),
        (
            "hikae_shop--1.sql",
            "CREATE TABLE rates (name text, standard boolean); INSERT INTO rates VALUES ('normal', true);
             CREATE SEQUENCE numbers; CREATE TABLE cache (a int);
             SELECT pg_extension_config_dump('rates', 'WHERE NOT standard'); SELECT pg_extension_config_dump('numbers', '');",
        ),
    ] {
        std::fs::write(directory.join(name), text).unwrap();
        give(&directory.join(name), &cluster);
    }
    for directory in [directory.parent().unwrap(), &directory] {
        give(directory, &cluster);
    }
    let path = cluster.directory().join("share");
    let mut admin = enter(cluster.connection(), "postgres", "postgres");
    let set = format!("ALTER SYSTEM SET extension_control_path = '$system:{}'", path.display());
    admin.batch_execute(&set).unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").unwrap();
    let db = Db::on(Arc::clone(&cluster), "configured", "");
    let mut tries = 0;
    while db.count("SELECT count(*) FROM pg_available_extensions WHERE name = 'hikae_shop'") == 0
        && tries < 100
    {
        std::thread::sleep(std::time::Duration::from_millis(20));
        tries += 1;
    }
    db.sql(
        "CREATE EXTENSION hikae_shop; INSERT INTO rates VALUES ('ours', false); SELECT nextval('numbers');
         INSERT INTO cache VALUES (1)",
    );
    let kept = db.back_up();
    assert_eq!((kept.rows("public", "rates"), kept.rows("public", "cache")), (Some(1), None));
    let restored = restore_beside(&db, &kept);
    let mut client = db.client_as("postgres", &restored.database);
    let rates: String = client
        .query_one("SELECT string_agg(name, ' ' ORDER BY name) || ' ' || nextval('numbers') FROM rates", &[])
        .unwrap()
        .get(0);
    assert_eq!(rates, "normal ours 2");
    drop(client);
    db.maintenance(&format!("DROP DATABASE {}", quote(&restored.database)));
}

/// PostgreSQL takes values of up to 1 GiB, and no row of a COPY that is longer.
#[test]
fn a_value_of_300_mb_comes_back() {
    let db = Db::new("wide");
    db.sql(
        "CREATE TABLE wide (a int, t text, b bytea);
         INSERT INTO wide VALUES (1, repeat('hikae and ', 30000000), NULL), (2, 'short', '\\x00ff0a5c');
         INSERT INTO wide SELECT 3, NULL, convert_to(repeat('\\0', 1000000), 'UTF8')",
    );
    let kept = back_up_by(&db.source(), 1 << 20, &mut |_| {}).unwrap();
    assert!(kept.file("tables/public.wide.copy").len() > 300_000_000);
    assert_passed(&drill_it(&kept).unwrap());
}

/// The catalog of such a database may hold names in any encoding, and in several.
#[test]
fn names_that_are_not_utf8_are_refused_and_not_mangled() {
    let db = Db::on(
        Arc::new(start(&[])),
        "ascii",
        "TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'",
    );
    db.sql("DO $$ BEGIN EXECUTE 'CREATE TABLE ' || quote_ident(E'\\344') || ' (a int)'; END $$");
    let error = back_up(&db.source()).err().unwrap();
    assert!(error.to_string().contains("encoding \"UTF8\""), "{error}");
    assert!(hikae_model::Advise::advice(&error).is_some_and(|advice| advice.contains("rename")));
}
