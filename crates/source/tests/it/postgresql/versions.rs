//! Every version of PostgreSQL that is installed: the nasty database comes back, by the role that we offer too.
//!
//! The other tests take one version; `HIKAE_TEST_POSTGRESQL` says which.

use super::round_trip::nasty_on;
use super::*;

#[track_caller]
fn comes_back(major: u32) {
    let Some(directory) = hikae_testkit::postgresql(major) else {
        return hikae_testkit::not_run(&format!("no server of PostgreSQL {major} is installed"));
    };
    let options = ClusterOptions { major, program_directory: Some(directory), ..options(&[]) };
    let cluster = Arc::new(start_with(&options));
    assert_eq!(cluster.major(), major);
    let db = nasty_on(Arc::clone(&cluster));
    let in_parts = PostgresqlSettings { part_bytes: 8192, ..db.settings() };
    let kept = back_up(&source(in_parts)).unwrap();
    assert_eq!(kept.rows("public", "everything"), Some(3));
    let result = drill_by(&kept, db.programs()).unwrap();
    assert_passed(&result);
    assert!(result.checks.len() > 60, "{}", result.checks.len());

    // By the role that may read and nothing else.
    let plain = Db::on(cluster, "plain", "");
    plain.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i; CREATE SEQUENCE s");
    let role = hikae_source::postgresql::least_privilege_role("reader", &plain.name, major);
    plain.sql(&role);
    let settings = PostgresqlSettings {
        allow_superuser: false,
        connection: plain.conninfo("reader"),
        ..plain.settings()
    };
    let kept = back_up(&source(settings)).unwrap();
    assert_eq!(kept.rows("public", "t"), Some(1000));
    assert_passed(&drill_by(&kept, plain.programs()).unwrap());
}

#[test]
fn postgresql_13_comes_back() {
    comes_back(13);
}

#[test]
fn postgresql_14_comes_back() {
    comes_back(14);
}

#[test]
fn postgresql_15_comes_back() {
    comes_back(15);
}

#[test]
fn postgresql_16_comes_back() {
    comes_back(16);
}

#[test]
fn postgresql_17_comes_back() {
    comes_back(17);
}

#[test]
fn postgresql_18_comes_back() {
    comes_back(18);
}

#[test]
fn postgresql_19_comes_back() {
    comes_back(19);
}
