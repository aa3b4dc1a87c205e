//! Promotions.

use super::super::standby;
use super::server::{Follower, Server, config, load, replicating};
use super::*;
use hikae_model::{Lsn, Timeline};
use hikae_source::postgresql::replication::{
    FollowOptions, ReplicationError, Session, Start, WalPosition, follow,
};

/// A standby is promoted while it is streamed from: the stream goes on with the new timeline, and its history is kept. Who
/// comes later and begins on the old timeline gets the same.
#[test]
fn a_promotion_is_followed_and_its_history_kept() {
    let server = Server::start(&replicating());
    if server.program("pg_basebackup").is_none() {
        return hikae_testkit::not_run("this PostgreSQL came without pg_basebackup");
    }
    load(&config(server.cluster.connection()), 2).unwrap();
    // The standby takes it over.
    server.sql("ALTER SYSTEM SET wal_keep_size = '2GB'");
    let standby = standby::follow(&server.cluster);
    standby::wait_for(&standby, "postgres", "SELECT pg_is_in_recovery()");
    let mut session = Session::enter(&standby.connection, &system_cx()).unwrap();
    let begin = session.identify().unwrap();
    assert_eq!(begin.timeline, Timeline::FIRST);
    let options = FollowOptions { connection: standby.connection.clone(), ..server.follow_options() };
    let scratch = tempfile::tempdir().unwrap();
    let mut follower = Follower::start(options.clone(), &scratch.path().join("along"));
    load(&config(server.cluster.connection()), 3).unwrap();
    let target: Lsn = server.text("SELECT pg_current_wal_flush_lsn()::text").unwrap().parse().unwrap();
    follower.wait_for(target);

    let mut promoted = config(&standby.connection).connect(postgres::NoTls).unwrap();
    promoted.batch_execute("SELECT pg_promote()").unwrap();
    standby::wait_for(&standby, "postgres", "SELECT NOT pg_is_in_recovery()");
    load(&config(&standby.connection), 4).unwrap();
    promoted.batch_execute("SELECT pg_switch_wal(); CHECKPOINT").unwrap();
    let end: String = promoted.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).unwrap().get(0);
    let end: Lsn = end.parse().unwrap();
    follower.wait_for(end);
    let pg_wal = server.cluster.directory().join("standby/pg_wal");
    assert!(follower.compare(&pg_wal) > 4);
    let along = follower.directory.clone();
    assert_eq!(follower.stop().unwrap().unwrap().timeline, Timeline::new(2).unwrap());
    assert!(along.join("00000002.history").exists(), "the history was not kept");
    let history = session.timeline_history(Timeline::new(2).unwrap()).unwrap().history;
    let switch = history.end_of(Timeline::FIRST).unwrap();
    assert!(switch > begin.flushed && switch < end);

    // From the old timeline on, as after a restart of ours.
    let start = Start::At(WalPosition { timeline: Timeline::FIRST, lsn: begin.flushed });
    let later = scratch.path().join("later");
    let follower = Follower::start(FollowOptions { start, until: Some(end), ..options.clone() }, &later);
    let mut follower = follower;
    let reached = follower.end().unwrap().unwrap();
    assert_eq!((reached.timeline.get(), reached.lsn), (2, end));
    follower.compare(&pg_wal);
    // Of the old one, who followed along may have more: what its last record left unfinished.
    let names = |directory: &std::path::Path| {
        let entries = std::fs::read_dir(directory).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("00000002")).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(names(&along), names(&later));

    // And from the very place where it ended.
    let start = Start::At(WalPosition { timeline: Timeline::FIRST, lsn: switch });
    let last = scratch.path().join("last");
    let options = FollowOptions { start, until: Some(end), ..options };
    let mut sink = super::server::Directory::new(&last, &super::server::Kept::default());
    assert_eq!(follow(&options, &mut sink, &system_cx()).unwrap().unwrap().lsn, end);

    // The old primary still runs. It was left behind, and has nothing of the new timeline.
    let start = Start::At(WalPosition { timeline: Timeline::new(2).unwrap(), lsn: end });
    let options = FollowOptions { start, ..server.follow_options() };
    let error = follow(&options, &mut sink, &system_cx()).expect_err("the old primary was followed");
    assert!(matches!(error, ReplicationError::OtherHistory { .. }), "{error:?}");
}
