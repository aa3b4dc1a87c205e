//! Streams, under load and while servers die. Keeps E-6.

use super::server::{Follower, Server, config, load, replicating};
use super::*;
use hikae_model::{Advise as _, ErrorCode, Lsn, SystemId};
use hikae_source::postgresql::replication::{
    FollowOptions, ReplicationError, Session, Start, WalPosition, follow, slot_health,
};
use rustix::process::{Pid, Signal, kill_process};
use std::time::Duration;

/// Under pgbench, segments of 1 MiB: byte for byte the server's files, and those of PostgreSQL's own receiver.
#[test]
fn what_is_streamed_under_load_is_the_servers_own_wal() {
    let server = Server::start(&replicating());
    let (Some(mut pgbench), Some(mut receiver)) =
        (server.program("pgbench"), server.program("pg_receivewal"))
    else {
        return hikae_testkit::not_run("this PostgreSQL came without pgbench");
    };
    let made = server.program("pgbench").unwrap().args(["-q", "-i", "-s", "2", "postgres"]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let (ours, theirs) = (server.slot("ours"), server.slot("theirs"));
    let options = FollowOptions { slot: Some(ours), start: Start::Slot, ..server.follow_options() };
    let scratch = tempfile::tempdir().unwrap();
    let mut follower = Follower::start(options, &scratch.path().join("ours"));
    let ran = pgbench.args(["-c", "4", "-T", "4", "-n", "postgres"]).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let end = server.switch();
    follower.wait_for(end);
    let mut whole = follower.compare(&server.data().join("pg_wal"));
    assert!(whole > 5, "only {whole} segments");
    let directory = follower.directory.clone();
    assert_eq!(follower.stop().unwrap().unwrap().lsn, end);

    let oracle = server.cluster.directory().join("oracle");
    std::fs::create_dir(&oracle).unwrap();
    give(&oracle, &server.cluster);
    // Before 15 it does not ask its slot where to begin, but looks at what is there.
    let first = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).min().unwrap();
    let begun = oracle.join(format!("{}.partial", first.into_string().unwrap()));
    std::fs::write(&begun, "").unwrap();
    give(&begun, &server.cluster);
    receiver.args(["--no-loop", "--no-sync", "-S", &theirs.to_string(), "-E", &end.to_string(), "-D"]);
    let received = receiver.arg(&oracle).output().unwrap();
    assert!(received.status.success(), "{}", String::from_utf8_lossy(&received.stderr));
    for entry in std::fs::read_dir(&oracle).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.ends_with(".partial") {
            let same =
                std::fs::read(oracle.join(&name)).unwrap() == std::fs::read(directory.join(&name)).unwrap();
            assert!(same, "{name} is not what pg_receivewal has");
            whole -= 1;
        }
    }
    assert_eq!(whole, 0, "we have segments that pg_receivewal has not");
}

/// The server is killed in the middle, twice: the stream goes on where it was.
#[test]
fn a_server_that_dies_and_comes_back_leaves_no_hole() {
    let server = Server::start(&replicating());
    let options =
        FollowOptions { slot: Some(server.slot("hikae")), start: Start::Slot, ..server.follow_options() };
    let scratch = tempfile::tempdir().unwrap();
    let mut follower = Follower::start(options, scratch.path());
    for _ in 0..2 {
        let connection = config(server.cluster.connection());
        let writer = std::thread::spawn(move || load(&connection, 1000));
        let from = follower.position();
        follower.wait_for(Lsn(from.0 + (3 << 20) + 12345));
        server.kill();
        assert!(writer.join().unwrap().is_err(), "it ends with the server");
        std::thread::sleep(Duration::from_millis(300));
        server.start_again();
    }
    load(&config(server.cluster.connection()), 2).unwrap();
    let end = server.switch();
    follower.wait_for(end);
    assert!(follower.compare(&server.data().join("pg_wal")) > 6);
    follower.stop().unwrap();
}

/// Only what the sink calls durable is told to the server, which drops WAL by it. Keeps E-7.
#[test]
fn nothing_is_called_flushed_before_it_is_durable() {
    let server = Server::start(&replicating());
    let slot = server.slot("hikae");
    let options = FollowOptions { slot: Some(slot.clone()), start: Start::Slot, ..server.follow_options() };
    let before = slot_health(server.cluster.connection(), &slot, &system_cx()).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let mut follower = Follower::start(options.clone(), scratch.path());
    follower.kept.never_durable.store(true, Ordering::SeqCst);
    load(&config(server.cluster.connection()), 3).unwrap();
    let end = server.switch();
    follower.wait_for(end);
    server.wait_for(&format!("SELECT write_lsn >= '{end}' FROM pg_stat_replication"));
    let flushed = server.text("SELECT flush_lsn::text FROM pg_stat_replication");
    let now = slot_health(server.cluster.connection(), &slot, &system_cx()).unwrap();
    assert_eq!((flushed, now.restart), (None, before.restart), "the server was told that WAL is durable");
    assert!(now.active && now.behind_bytes > Some(1 << 20));
    assert_eq!(now.problems().iter().map(|p| p.code.as_str()).collect::<Vec<_>>(), ["slot-unlimited"]);

    follower.kept.never_durable.store(false, Ordering::SeqCst);
    server.wait_for(&format!("SELECT flush_lsn >= '{end}' FROM pg_stat_replication"));
    follower.stop().unwrap();
    // The slot goes on from there: what was called flushed does not come again.
    let position = slot_health(server.cluster.connection(), &slot, &system_cx()).unwrap().restart.unwrap();
    assert!(position >= end, "{position}");
    let again = tempfile::tempdir().unwrap();
    let mut follower = Follower::start(options, again.path());
    load(&config(server.cluster.connection()), 2).unwrap();
    follower.wait_for(server.switch());
    let first = std::fs::read_dir(again.path()).unwrap().map(|e| e.unwrap().file_name()).min().unwrap();
    let size = hikae_model::SegmentSize::new(1 << 20).unwrap();
    let expected = hikae_model::SegmentName::holding(position, hikae_model::Timeline::FIRST, size);
    assert!(first.into_string().unwrap().starts_with(&expected.to_string()));
    follower.stop().unwrap();
}

/// A server that is shut down waits until we have all of its WAL, the last checkpoint included; and not for ever.
#[test]
fn a_server_that_is_shut_down_is_followed_to_its_last_byte() {
    let server = Server::start(&replicating());
    let options = FollowOptions {
        slot: Some(server.slot("hikae")),
        start: Start::Slot,
        // Only that it asks makes us give what came.
        partial_interval: Duration::from_secs(600),
        ..server.follow_options()
    };
    let scratch = tempfile::tempdir().unwrap();
    let mut follower = Follower::start(options, scratch.path());
    load(&config(server.cluster.connection()), 2).unwrap();
    follower.wait_for(Lsn(server.switch().0 & !0xf_ffff));
    load(&config(server.cluster.connection()), 1).unwrap();
    server.stop();
    let had = follower.position();
    let pg_wal = server.data().join("pg_wal");
    follower.compare(&pg_wal);
    server.start_again();
    let checkpoint = "SELECT checkpoint_lsn::text FROM pg_control_checkpoint()";
    let checkpoint: Lsn = server.text(checkpoint).unwrap().parse().unwrap();
    assert!(had > checkpoint, "the last checkpoint is at {checkpoint}, and only {had} came");
    load(&config(server.cluster.connection()), 1).unwrap();
    follower.wait_for(Lsn(server.switch().0 & !0xf_ffff));
    follower.compare(&pg_wal);
    follower.stop().unwrap();
}

/// A slot that somebody drops, and one that has grown too old: an error with what to do, and not a stream with a hole.
#[test]
fn a_slot_that_is_gone_ends_the_stream_with_advice() {
    let server = Server::start(&replicating());
    let slot = server.slot("hikae");
    let options = FollowOptions { slot: Some(slot.clone()), start: Start::Slot, ..server.follow_options() };
    let scratch = tempfile::tempdir().unwrap();
    let mut follower = Follower::start(options.clone(), scratch.path());
    load(&config(server.cluster.connection()), 2).unwrap();
    follower.wait_for(server.switch());
    let mut admin = server.client();
    for _ in 0..200 {
        let _ = admin
            .batch_execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active");
        if admin.batch_execute("SELECT pg_drop_replication_slot('hikae')").is_ok() {
            break;
        }
    }
    let error = follower.end().expect_err("the slot is gone, and nobody saw it");
    assert!(matches!(error, ReplicationError::NoSlot { .. }), "{error}");
    assert!(error.advice().unwrap().contains("pg_create_physical_replication_slot('hikae', true)"));
    let health = slot_health(server.cluster.connection(), &slot, &system_cx());
    assert!(matches!(health, Err(ReplicationError::NoSlot { .. })));

    // One that outgrows what the server keeps for it.
    server.slot("hikae");
    server.sql("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'");
    server.kill();
    server.start_again_with(&["wal_keep_size=0"]);
    load(&config(server.cluster.connection()), 8).unwrap();
    for _ in 0..3 {
        server.switch();
    }
    let health = slot_health(server.cluster.connection(), &slot, &system_cx()).unwrap();
    let codes: Vec<String> = health.problems().into_iter().map(|problem| problem.code).collect();
    assert_eq!(codes, ["slot-lost"], "{health:?}");
    let mut sink = super::server::Directory::new(scratch.path(), &super::server::Kept::default());
    let at = WalPosition { timeline: hikae_model::Timeline::FIRST, lsn: Lsn(1 << 20) };
    for start in [Start::At(at), Start::Slot] {
        let options = FollowOptions { start, ..options.clone() };
        let until = FollowOptions { until: Some(Lsn(0)), ..options };
        let error = follow(&until, &mut sink, &system_cx()).unwrap_err();
        let is_lost =
            matches!(error, ReplicationError::SlotLost { .. } | ReplicationError::WalRemoved { .. });
        assert!(is_lost, "{error:?}");
        assert!(error.advice().unwrap().contains("new base backup"));
    }
}

/// A sender that stands still says nothing any more, and nobody closes the connection.
#[test]
fn a_server_that_says_nothing_any_more_is_given_up_and_tried_again() {
    let server = Server::start(&replicating());
    let options = FollowOptions { silence: Duration::from_secs(2), ..server.follow_options() };
    let scratch = tempfile::tempdir().unwrap();
    let mut follower = Follower::start(options, scratch.path());
    load(&config(server.cluster.connection()), 2).unwrap();
    follower.wait_for(server.switch());
    // Idle is not silent: it answers when it is asked.
    std::thread::sleep(Duration::from_secs(3));
    let pid = |server: &Server| server.text("SELECT string_agg(pid::text, ',') FROM pg_stat_replication");
    let sender = pid(&server).unwrap();
    let stopped = Pid::from_raw(sender.parse().unwrap()).unwrap();
    kill_process(stopped, Signal::STOP).unwrap();
    load(&config(server.cluster.connection()), 2).unwrap();
    let end = server.switch();
    follower.wait_for(end);
    assert!(pid(&server).unwrap().split(',').any(|pid| pid != sender), "another sender serves us");
    kill_process(stopped, Signal::CONT).unwrap();
    assert!(follower.compare(&server.data().join("pg_wal")) >= 2);
    follower.stop().unwrap();
}

/// Keeps E-7.
#[test]
fn another_cluster_is_not_followed() {
    let server = Server::start(&replicating());
    let mut session = Session::enter(server.cluster.connection(), &system_cx()).unwrap();
    let system = session.identify().unwrap().system;
    let options = FollowOptions {
        system: Some(SystemId(system.0 + 1)),
        until: Some(Lsn(0)),
        ..server.follow_options()
    };
    let scratch = tempfile::tempdir().unwrap();
    let error = Follower::start(options, scratch.path()).end().expect_err("it was followed");
    assert!(matches!(error, ReplicationError::OtherCluster { found, .. } if found == system), "{error}");
    assert_eq!(error.code(), ErrorCode::Forbidden);
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
}
