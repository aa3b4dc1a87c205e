//! Every version of PostgreSQL that is installed: read by us and sent by the server, restored, verified by PostgreSQL's own
//! program, and started.
//!
//! The other tests take one version; `HIKAE_TEST_POSTGRESQL` says which.

use super::wire::by_wire;
use super::*;

#[track_caller]
fn comes_back(major: u32) {
    let Some(directory) = hikae_testkit::postgresql(major) else {
        return hikae_testkit::not_run(&format!("no server of PostgreSQL {major} is installed"));
    };
    let server = ClusterOptions { major, program_directory: Some(directory.clone()), ..options(&[]) };
    let Some(cluster) = start_with(&server) else { return };
    assert_eq!(cluster.major(), major);
    let_replicate(&cluster);
    make_space(&cluster);
    sql(
        &cluster,
        "CREATE TABLE kept TABLESPACE space AS SELECT n AS id, md5(n::text) AS m FROM generate_series(1, 20000) n",
    );
    let world = World::new();
    for (source, most_bytes) in [
        (source_of(by_wire(&cluster)), u64::MAX),
        (source(&cluster), 600_000),
        (source_of(by_wire(&cluster)), 600_000),
    ] {
        let report = back_up(&world, source);
        assert_eq!(report.outcome, Outcome::Complete, "{:?}", report.problems);
        assert!(report.added_bytes < most_bytes, "{} bytes were added for nothing", report.added_bytes);
        if most_bytes == u64::MAX {
            continue;
        }
        let around = Surroundings { scratch: scratch(), ..world.around() };
        let programs = DrillOptions { program_directory: Some(directory.clone()), ..DrillOptions::default() };
        let proved = drill(&world.repo, report.id.unwrap(), &programs, &around, &world.cx).unwrap();
        assert_eq!(proved.outcome, Outcome::Complete, "{:?} {:?}", proved.checks, proved.notes);
        if directory.join("pg_verifybackup").exists() {
            assert!(proved.checks.iter().any(|check| check.name.contains("pg_verifybackup")));
        }
    }
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
