//! What roles and databases set for their sessions changes nothing of what is kept.

use super::*;
use std::time::Duration;

/// Settings that change how a value is written or read, where a name is looked for, how long a statement may take.
const HOSTILE: [(&str, &str); 23] = [
    ("DateStyle", "'German, DMY'"),
    ("IntervalStyle", "sql_standard"),
    ("extra_float_digits", "-9"),
    ("bytea_output", "escape"),
    ("TimeZone", "'Asia/Kolkata'"),
    ("search_path", "evil"),
    ("array_nulls", "off"),
    ("xmloption", "document"),
    ("quote_all_identifiers", "on"),
    ("standard_conforming_strings", "off"),
    ("escape_string_warning", "on"),
    ("client_encoding", "'LATIN1'"),
    ("client_min_messages", "debug1"),
    ("row_security", "off"),
    ("statement_timeout", "'400ms'"),
    ("lock_timeout", "'400ms'"),
    ("idle_in_transaction_session_timeout", "'400ms'"),
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_read_only", "on"),
    ("default_transaction_deferrable", "on"),
    ("enable_tidscan", "off"),
    ("transform_null_equals", "on"),
    ("default_statistics_target", "1"),
];

const VALUES: &str = "
    CREATE SCHEMA evil; CREATE TABLE evil.pg_class (a int);
    CREATE FUNCTION evil.count(\"any\") RETURNS bigint LANGUAGE internal AS 'int8up' IMMUTABLE;
    CREATE TABLE public.v (f float8, r float4, t timestamptz, d date, i interval, b bytea, a text[], x xml, m money, s text);
    INSERT INTO public.v VALUES (0.1 + 0.2::float8, 1.1, '2026-03-29 01:30:00.123456+00', '2026-02-01', '1 mon -2 days 03:04:05.6',
        '\\x005c0a', ARRAY['NULL', NULL, 'ü'], 'ab<c/>', 1234.5, E'\\\\ü''\"');
    CREATE TABLE public.many AS SELECT i, md5(i::text) AS h FROM generate_series(1, 60000) i;";

#[test]
fn settings_of_a_role_and_of_a_database_change_no_byte() {
    let db = Db::on(Arc::new(start(&[])), "settings", "");
    db.sql(VALUES);
    db.sql("CREATE ROLE odd LOGIN SUPERUSER");
    let in_parts = |settings: PostgresqlSettings| PostgresqlSettings { part_bytes: 500_000, ..settings };
    let plain = back_up(&source(in_parts(db.settings()))).unwrap();
    let name = quote(&db.name);
    let mut admin = db.client_as("postgres", "postgres");
    for (setting, value) in HOSTILE {
        admin.batch_execute(&format!("ALTER ROLE odd SET {setting} = {value}")).unwrap();
        admin.batch_execute(&format!("ALTER DATABASE {name} SET {setting} = {value}")).unwrap();
    }
    let as_odd = PostgresqlSettings { connection: db.conninfo("odd"), ..in_parts(db.settings()) };
    // Longer than any of the time limits: sessions wait in their transactions, statements for us.
    let mut waits = 3;
    let kept = back_up_by(&source(as_odd), 4096, &mut |_| {
        if waits > 0 {
            std::thread::sleep(Duration::from_millis(600));
            waits -= 1;
        }
    })
    .unwrap();
    assert_eq!(kept.manifest().tables, plain.manifest().tables);
    for table in &plain.manifest().tables {
        for file in &table.files {
            let name = format!("tables/{file}");
            assert!(kept.file(&name) == plain.file(&name), "{name}");
        }
    }
    // Restored with all of them in place again.
    assert_passed(&drill_by(&kept, db.programs()).unwrap());
}

/// In clouds the first superuser is the provider's, and `postgres` is nobody special.
#[test]
fn a_server_whose_postgres_is_no_superuser_can_be_drilled() {
    let options = ClusterOptions { superuser: Some("clouds admin".into()), ..options(&[]) };
    let cluster = start_with(&options);
    let admin = cluster.connection().user.clone();
    assert_eq!(admin, "clouds admin");
    let mut client = enter(cluster.connection(), &admin, "postgres");
    client
        .batch_execute(
            "CREATE ROLE postgres LOGIN CREATEROLE CREATEDB; CREATE ROLE app; CREATE ROLE staff; CREATE ROLE guest;
             GRANT app TO postgres WITH ADMIN OPTION; GRANT staff TO app; SET ROLE postgres; GRANT app TO guest; RESET ROLE;
             CREATE TABLE t AS SELECT 1 AS a; ALTER TABLE t OWNER TO app;
             ALTER ROLE \"clouds admin\" SET default_transaction_read_only = on;
             ALTER ROLE \"clouds admin\" SET search_path = nowhere",
        )
        .unwrap();
    let Host::Socket(directory) = &cluster.connection().host else { panic!("not a socket") };
    let conninfo = format!("host={} user='clouds admin' dbname=postgres", directory.display());
    let settings = PostgresqlSettings {
        allow_superuser: true,
        program_directory: named_postgresql(),
        ..PostgresqlSettings::of(conninfo)
    };
    let kept = back_up(&source(settings)).unwrap();
    assert_passed(&drill_it(&kept).unwrap());
}
