//! Drills: in a server of their own, without roads to anywhere.

use super::*;

#[test]
fn a_drill_leaves_nothing_behind_and_says_how_long_it_took() {
    let db = Db::new("drilled");
    db.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 10) i");
    let kept = db.back_up();
    let parent = tempfile::Builder::new().prefix("hikae-drill").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(parent.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let options = DrillOptions { key: KEY, jobs: two(), program_directory: named_postgresql(), run_as: None };
    let result = drill(&kept, parent.path(), &options, &environment(), &system_cx()).unwrap();
    assert_passed(&result);
    assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    for phase in
        ["server", "globals", "create", "definitions", "rows", "indexes and keys", "statistics", "verify"]
    {
        assert!(result.timings.iter().any(|time| time.phase == phase), "{phase}");
    }
}

#[test]
fn a_throw_away_server_runs_as_nobody_special_and_listens_on_no_port() {
    let cluster = start(&[]);
    let mut client = enter(cluster.connection(), "postgres", "postgres");
    let ask = |client: &mut postgres::Client, name: &str| -> String {
        client.query_one(&format!("SHOW {name}"), &[]).unwrap().get(0)
    };
    assert_eq!(ask(&mut client, "archive_mode"), "off");
    assert_eq!(ask(&mut client, "listen_addresses"), "");
    assert_eq!(ask(&mut client, "shared_preload_libraries"), "");
    let mode = std::fs::metadata(cluster.directory()).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o700);
    let uid = std::os::unix::fs::MetadataExt::uid(&mode);
    assert_ne!(uid, 0, "PostgreSQL does not run as root");
    if cluster.is_fenced() {
        let sql = "CREATE TABLE net (line text); COPY net FROM PROGRAM 'cat /proc/net/dev'";
        client.batch_execute(sql).unwrap();
        let n: i64 = client
            .query_one("SELECT count(*) FROM net WHERE line ~ ':' AND line !~ '^ *lo:'", &[])
            .unwrap()
            .get(0);
        assert_eq!(n, 0, "no network device but the loopback");
    }
    let directory = cluster.directory().to_owned();
    drop(client);
    drop(cluster);
    assert!(!directory.exists());
}

#[test]
fn a_scratch_directory_with_a_long_name_still_has_a_socket() {
    let parent = tempfile::Builder::new().prefix(&"long".repeat(30)).tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(parent.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let options =
        ClusterOptions { major: 13, program_directory: named_postgresql(), ..ClusterOptions::default() };
    let cluster = Cluster::start(&options, parent.path(), &environment(), &system_cx()).unwrap();
    enter(cluster.connection(), "postgres", "postgres").batch_execute("SELECT 1").unwrap();
}

#[test]
fn a_server_that_is_not_installed_is_advised() {
    let options = ClusterOptions { major: 99, ..ClusterOptions::default() };
    let error = Cluster::start(&options, &scratch(), &environment(), &system_cx()).err().unwrap();
    assert!(hikae_model::Advise::advice(&error).unwrap().contains("install postgresql-99"), "{error}");
}

#[test]
fn a_missing_extension_is_no_bad_backup() {
    let db = Db::new("extension");
    db.sql("CREATE TABLE t (a int)");
    let mut kept = db.back_up();
    let json = String::from_utf8(kept.file("database.json").to_vec()).unwrap();
    *kept.file_mut("database.json") = json.replace("\"plpgsql\"", "\"pg_no_such_extension\"").into_bytes();
    let error = drill_it(&kept).unwrap_err();
    assert_eq!(hikae_model::Advise::code(&error), hikae_model::ErrorCode::SourceMissing);
    assert!(error.to_string().contains("pg_no_such_extension is not installed"), "{error}");
}

/// Databases whose owner left, without `public`, with settings that only a superuser may make.
#[test]
fn clean_drills_are_never_red() {
    for sql in [
        "",
        "DROP SCHEMA public CASCADE",
        "DROP EXTENSION plpgsql",
        "CREATE SCHEMA a; CREATE TABLE a.t (i int); CREATE SCHEMA b; CREATE VIEW b.v AS SELECT * FROM a.t",
        "CREATE TABLE t (i int); CREATE MATERIALIZED VIEW m AS SELECT * FROM t WITH NO DATA",
        "CREATE EVENT TRIGGER e ON ddl_command_start EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "CREATE TABLE a (i int PRIMARY KEY) PARTITION BY LIST (i); CREATE TABLE b (i int REFERENCES a); CREATE TABLE a1 PARTITION OF a DEFAULT",
    ] {
        let db = Db::new("clean");
        if db.client().batch_execute(sql).is_err() {
            assert!(sql.contains("EVENT TRIGGER"), "{sql}");
            continue;
        }
        let kept = db.back_up();
        let result = drill_it(&kept).unwrap_or_else(|error| panic!("{error} after {sql}"));
        assert_passed(&result);
    }
}
