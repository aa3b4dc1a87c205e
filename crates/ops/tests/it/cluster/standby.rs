//! A standby as the source: it can only be read, and may be promoted while it is.

use super::*;

/// A standby of `cluster`, made by hikae itself.
pub(super) fn follow(world: &World, cluster: &Cluster) -> Cluster {
    let_replicate(cluster);
    let snapshot = back_up_whole(world, cluster);
    let cx = hikae_testkit::system_cx();
    let Host::Socket(socket) = &cluster.connection().host else { panic!("not a socket") };
    let primary = format!("host={} port={} user=postgres", socket.display(), cluster.connection().port);
    let vacant =
        Vacant::make(&options(&[("primary_conninfo", &primary)]), &scratch(), &environment(), &cx).unwrap();
    let target = ClusterTarget { directory: vacant.data(), ..ClusterTarget::default() };
    restore_cluster(&world.repo, snapshot, &target, &cx).unwrap();
    std::fs::write(vacant.data().join("standby.signal"), "").unwrap();
    vacant.give_all().unwrap();
    vacant.start(Begins::Recovering, "postgres", &cx).unwrap()
}

pub(super) fn wait_for(cluster: &Cluster, sql: &str, expected: &str) {
    for _ in 0..1500 {
        if text(cluster, sql) == expected {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("{sql} never became {expected}");
}

/// Keeps E-3.
#[test]
fn a_standby_is_backed_up_and_comes_back() {
    let Some(cluster) = start() else { return };
    sql(&cluster, "CREATE TABLE orders AS SELECT n AS id FROM generate_series(1, 1000) n");
    let standby = follow(&World::new(), &cluster);
    sql(&cluster, "INSERT INTO orders SELECT n FROM generate_series(1001, 3000) n");
    wait_for(&standby, "SELECT count(*)::text FROM orders", "3000");

    let world = World::new();
    let report = back_up(&world, source(&standby));
    assert_eq!(report.outcome, Outcome::Complete, "{:?}", report.problems);
    let Restored { cluster: restored, .. } = restore(&world, report.id.unwrap());
    assert_eq!(text(&restored, "SELECT pg_is_in_recovery()::text"), "false", "it follows nobody");
    assert_proved(&world, report.id.unwrap());

    // Its primary's files have the same system identifier, and are others, although both may write the same
    // checkpoint within one second.
    sql(&cluster, "CHECKPOINT");
    let mixed =
        ClusterSettings { data_directory: Some(cluster.directory().join("data")), ..settings(&standby) };
    let report = back_up(&world, source_of(mixed));
    assert!(report.problems[0].what.contains("holds the files of another server"), "{:?}", report.problems);
}

#[test]
fn a_standby_that_is_promoted_in_the_middle_is_no_backup() {
    let Some(cluster) = start() else { return };
    let standby = follow(&World::new(), &cluster);
    let world = World::new();
    assert_fails_by_promotion(&world, &standby);
    // What it has become can be backed up.
    back_up_whole(&world, &standby);
}

/// A standby of a standby goes over to another timeline with it, and the segments that a backup needs are of both.
#[test]
fn a_timeline_that_changes_in_the_middle_is_no_backup() {
    let Some(cluster) = start() else { return };
    let between = follow(&World::new(), &cluster);
    let standby = std::sync::Arc::new(follow(&World::new(), &between));
    let world = World::new();
    let (above, below) = (Arc::new(between), Arc::clone(&standby));
    let source = meddling(settings(&standby), When::Read, move || {
        sql(&above, "SELECT pg_promote()");
        sql(&above, "CREATE TABLE after AS SELECT 1 AS n");
        sql(&above, "CHECKPOINT");
        wait_for(&below, "SELECT count(*)::text FROM pg_class WHERE relname = 'after'", "1");
        sql(&below, "CHECKPOINT");
        let timeline = "SELECT greatest(timeline_id, min_recovery_end_timeline)::text
                        FROM pg_control_checkpoint(), pg_control_recovery()";
        wait_for(&below, timeline, "2");
    });
    assert_fails(&world, source, "timeline 1 to 2 in the middle");
}

#[track_caller]
fn assert_fails_by_promotion(world: &World, standby: &Cluster) {
    let report = back_up(world, with_sql(standby, When::Read, &["SELECT pg_promote()"]));
    assert_eq!(report.outcome, Outcome::Failed);
    assert!(report.problems[0].what.contains("promoted"), "{:?}", report.problems);
    assert!(world.repo.follow().unwrap().snapshots.is_empty());
}
