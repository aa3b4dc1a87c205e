//! Every version of PostgreSQL that is installed: streamed, and backed up over the wire.

use super::base_backup::comes_back;
use super::server::{Follower, Server, config, load, replicating};
use super::*;
use hikae_source::postgresql::replication::{FollowOptions, Start};

#[track_caller]
fn replicates(major: u32) {
    let Some(directory) = hikae_testkit::postgresql(major) else {
        return hikae_testkit::not_run(&format!("no server of PostgreSQL {major} is installed"));
    };
    let options = ClusterOptions { major, program_directory: Some(directory), ..replicating() };
    let server = Server::start(&options);
    assert_eq!(server.cluster.major(), major);
    let slot = server.slot("hikae");
    load(&config(server.cluster.connection()), 3).unwrap();
    let options = FollowOptions { slot: Some(slot), start: Start::Slot, ..server.follow_options() };
    let scratch = tempfile::tempdir().unwrap();
    let mut follower = Follower::start(options, scratch.path());
    follower.wait_for(server.switch());
    comes_back(&server);
    follower.wait_for(server.switch());
    assert!(follower.compare(&server.data().join("pg_wal")) > 4);
    follower.stop().unwrap();
}

#[test]
fn postgresql_13_replicates() {
    replicates(13);
}

#[test]
fn postgresql_14_replicates() {
    replicates(14);
}

#[test]
fn postgresql_15_replicates() {
    replicates(15);
}

#[test]
fn postgresql_16_replicates() {
    replicates(16);
}

#[test]
fn postgresql_17_replicates() {
    replicates(17);
}

#[test]
fn postgresql_18_replicates() {
    replicates(18);
}
