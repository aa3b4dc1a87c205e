//! Pages: damaged ones are found and named, and only those that changed are stored again.

use super::*;
use std::os::unix::fs::FileExt as _;

/// A table of a thousand pages, all of it on the disk and in nobody's memory.
pub(super) fn cold(cluster: &Cluster) -> PathBuf {
    sql(
        cluster,
        "CREATE TABLE cold AS SELECT n AS id, repeat('c', 500) AS note FROM generate_series(1, 15000) n",
    );
    sql(cluster, "VACUUM (FREEZE) cold");
    sql(cluster, "CHECKPOINT");
    file_of(cluster, "cold")
}

pub(super) fn flip(path: &Path, at: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[test]
fn a_damaged_page_is_found_and_named_and_the_rest_is_kept() {
    let Some(cluster) = start() else { return };
    let world = World::new();
    let path = cold(&cluster);
    flip(&path, 5 * 8192 + 4000);
    // This one says of itself that it was changed in the future, as if the log would bring it back.
    flip(&path, 9 * 8192 + 3);
    let report = back_up(&world, source(&cluster));
    assert_eq!(report.outcome, Outcome::WithProblems);
    let bad: Vec<_> =
        report.problems.iter().map(|problem| (problem.code.as_str(), problem.what.clone())).collect();
    assert_eq!(bad.len(), 2, "{bad:?}");
    assert!(
        bad[0].1.starts_with("page 5 is damaged") && bad[1].1.starts_with("page 9 is damaged"),
        "{bad:?}"
    );
    assert!(report.problems.iter().all(|problem| problem.on == path.display().to_string()));
    // It is kept as it is, and a drill says that it is not good.
    let drilled = drill_of(&world, report.id.unwrap());
    assert_eq!(drilled.outcome, Outcome::Failed, "{:?}", drilled.checks);
    // Where pg_checksums is installed, it finds the same.
    if let Some(check) = drilled.checks.iter().find(|check| check.name.contains("checksum")) {
        assert_eq!((check.passed, check.actual.as_str()), (false, "2"));
    }
}

#[test]
fn a_server_without_checksums_is_backed_up_and_said_to_be_so() {
    let options = ClusterOptions { initdb: vec!["--no-data-checksums".into()], ..options(&[]) };
    let old = ClusterOptions { initdb: Vec::new(), ..options.clone() };
    // Before 18, having none is the rule and there is no word for it.
    let started = Cluster::start(&options, &scratch(), &environment(), &hikae_testkit::system_cx()).ok();
    let Some(cluster) = started.or_else(|| start_with(&old)) else { return };
    let world = World::new();
    flip(&cold(&cluster), 5 * 8192 + 4000);
    let report = back_up(&world, source(&cluster));
    assert_eq!(report.outcome, Outcome::Complete, "{:?}", report.problems);
    assert!(report.notes.iter().any(|note| note.code == "no-checksums"), "{:?}", report.notes);
    let drilled = drill_of(&world, report.id.unwrap());
    assert!(drilled.notes.iter().any(|note| note == "pages have no checksums"), "{:?}", drilled.notes);
}

/// Keeps EC-9.
#[test]
fn a_second_backup_stores_the_pages_that_changed() {
    let Some(cluster) = start() else { return };
    let world = World::new();
    sql(
        &cluster,
        "CREATE TABLE big AS SELECT n AS id, md5(n::text) || md5((n * 7)::text) AS note FROM generate_series(1, 200000) n",
    );
    sql(&cluster, "VACUUM (FREEZE, ANALYZE) big");
    let first = back_up(&world, source(&cluster));
    sql(&cluster, "UPDATE big SET note = md5(note) WHERE id % 10000 = 0");
    let second = back_up(&world, source(&cluster));
    assert_eq!(second.outcome, Outcome::Complete, "{:?}", second.problems);
    let megabytes = second.added_bytes as f64 / 1e6;
    assert!(first.added_bytes > 8_000_000, "{}", first.added_bytes);
    assert!(megabytes < 2.0, "{megabytes} MB were added for 20 rows");
    // Every snapshot is whole, and the first can go.
    assert_proved(&world, second.id.unwrap());
    let Restored { cluster: restored, .. } = restore(&world, second.id.unwrap());
    let sums = "SELECT sum(hashtext(b::text))::text FROM big b";
    assert_eq!(text(&restored, sums), text(&cluster, sums));
}
