//! Servers that do not let us in, each with what to do.

use super::server::{Follower, Server, config, load, replicating};
use super::*;
use hikae_model::{Advise as _, ErrorCode};
use hikae_source::postgresql::Secret;
use hikae_source::postgresql::replication::{FollowOptions, ReplicationError, Session, SlotName};

#[track_caller]
fn refusal(connection: &Connection) -> (ReplicationError, String) {
    let error = Session::enter(connection, &system_cx()).err().expect("it was let in");
    let advice = error.advice().expect("advice").into_owned();
    (error, advice)
}

/// Wrong password, no right, no line, no place: each is an error of its own, with the SQL or the line to paste.
#[test]
fn a_server_that_does_not_let_us_in_says_what_to_change() {
    let mut options = replicating();
    options.settings.push(("password_encryption".into(), "scram-sha-256".into()));
    let server = Server::start(&options);
    server
        .sql("CREATE ROLE wal LOGIN REPLICATION PASSWORD 'right'; CREATE ROLE plain LOGIN PASSWORD 'right'");
    server.set_hba(
        "local all postgres trust\nlocal replication postgres trust\nlocal replication wal,plain scram-sha-256\n",
    );
    let as_role = |role: &str, password: &str| {
        server.cluster.connection_as(role, Some(Secret::new(password.to_owned())))
    };
    drop(Session::enter(&as_role("wal", "right"), &system_cx()).unwrap());

    let (error, advice) = refusal(&as_role("wal", "wrong"));
    assert!(matches!(error, ReplicationError::NotLetIn { .. }), "{error:?}");
    assert!(advice.contains("password") && advice.contains("`replication`"), "{advice}");

    let (error, advice) = refusal(&as_role("plain", "right"));
    assert!(matches!(error, ReplicationError::NoRight { .. }), "{error:?}");
    assert!(advice.contains("ALTER ROLE \"plain\" LOGIN REPLICATION"), "{advice}");
    server.sql("ALTER ROLE \"plain\" LOGIN REPLICATION");
    assert!(Session::enter(&as_role("plain", "right"), &system_cx()).is_ok(), "the advice helps");

    server.sql("CREATE ROLE other LOGIN REPLICATION PASSWORD 'right'");
    let (error, advice) = refusal(&as_role("other", "right"));
    assert!(matches!(error, ReplicationError::NotLetIn { .. }), "{error:?}");
    let line = advice.split('`').nth(1).unwrap();
    assert_eq!(line, "local replication other scram-sha-256");
    server.set_hba(&format!("{line}\nlocal all postgres trust\nlocal replication postgres trust\n"));
    assert!(Session::enter(&as_role("other", "right"), &system_cx()).is_ok(), "the advice helps");
    assert_eq!(error.code(), ErrorCode::Permission);

    let connection = server.cluster.connection();
    let held: Vec<Session> =
        std::iter::from_fn(|| Session::enter(connection, &system_cx()).ok()).take(10).collect();
    assert_eq!(held.len(), 5);
    let (error, advice) = refusal(connection);
    assert!(matches!(error, ReplicationError::NoPlace { .. }) && error.may_pass(), "{error:?}");
    assert!(advice.contains("max_wal_senders"), "{advice}");
    drop(held);

    server.kill();
    let (error, _) = refusal(connection);
    assert!(matches!(error, ReplicationError::Unreachable { .. }) && error.may_pass(), "{error:?}");
}

#[test]
fn slots_are_made_looked_at_and_dropped() {
    let server = Server::start(&replicating());
    let mut session = Session::enter(server.cluster.connection(), &system_cx()).unwrap();
    let identity = session.identify().unwrap();
    assert_eq!(session.segment_size().unwrap().bytes(), 1 << 20);
    assert!(!session.is_encrypted());
    assert_eq!(session.server_version_num() / 10_000, server.cluster.major());
    let control = server.text("SELECT system_identifier::text FROM pg_control_system()");
    assert_eq!(Some(identity.system.to_string()), control);
    assert_eq!(server.text("SHOW data_checksums").unwrap() == "on", session.data_checksums().unwrap());

    let slot: SlotName = "a_slot".parse().unwrap();
    session.create_slot(&slot).unwrap();
    assert!(matches!(session.create_slot(&slot), Err(ReplicationError::SlotExists { .. })));
    if session.server_version_num() >= 150_000 {
        let state = session.read_slot(&slot).unwrap();
        assert!(state.restart.is_some_and(|restart| restart <= identity.flushed), "{state:?}");
        assert_eq!(state.timeline, Some(identity.timeline));
        let none = "none".parse().unwrap();
        assert!(matches!(session.read_slot(&none), Err(ReplicationError::NoSlot { .. })));
    }
    session.drop_slot(&slot).unwrap();
    assert!(matches!(session.drop_slot(&slot), Err(ReplicationError::NoSlot { .. })));
    // An error leaves the session as it was.
    assert_eq!(session.identify().unwrap().system, identity.system);
    assert!(matches!(
        session.timeline_history(hikae_model::Timeline::new(7).unwrap()),
        Err(ReplicationError::Refused { .. })
    ));
}

/// By TLS and with a password, as over a network: streamed and backed up; and the line that `pg_hba.conf` lacks is told
/// with the address from which the server sees us.
#[test]
fn replication_goes_over_tls() {
    let mut options = replicating();
    options.settings.push(("listen_addresses".into(), "127.0.0.81".into()));
    options.settings.push(("password_encryption".into(), "scram-sha-256".into()));
    let server = Server::start(&options);
    let directory = server.cluster.directory();
    if !super::super::tls::make_certificates(directory) {
        return hikae_testkit::not_run("openssl makes no certificates here");
    }
    for file in ["server.crt", "server.key"] {
        give(&directory.join(file), &server.cluster);
    }
    server.sql("CREATE ROLE wal LOGIN REPLICATION PASSWORD 'right'");
    for (name, file) in [("ssl_cert_file", "server.crt"), ("ssl_key_file", "server.key")] {
        server.sql(&format!("ALTER SYSTEM SET {name} = '{}'", directory.join(file).display()));
    }
    server.sql("ALTER SYSTEM SET ssl = on");
    server.set_hba("local all postgres trust\n");
    server.wait_for("SELECT current_setting('ssl') = 'on'");
    let root = directory.join("ca.crt");
    let text = format!(
        "host=127.0.0.81 user=wal sslmode=verify-ca channel_binding=require sslrootcert={}",
        root.display()
    );
    let mut connection = Connection::parse(&text, "wal").unwrap();
    connection.password = Some(Secret::new("right".into()));
    let (_, advice) = refusal(&connection);
    let line = advice.split('`').nth(1).unwrap();
    assert!(
        line.starts_with("hostssl replication wal 127.0.0.") && line.ends_with("/32 scram-sha-256"),
        "{line}"
    );
    server.set_hba(&format!("local all postgres trust\n{line}\n"));
    assert!(Session::enter(&connection, &system_cx()).unwrap().is_encrypted());

    let options = FollowOptions { connection: connection.clone(), ..server.follow_options() };
    let scratch = tempfile::tempdir().unwrap();
    let mut follower = Follower::start(options, scratch.path());
    // It begins where the server is when it comes.
    server.wait_for("SELECT count(*) = 1 FROM pg_stat_replication");
    load(&config(server.cluster.connection()), 3).unwrap();
    follower.wait_for(server.switch());
    assert!(follower.compare(&server.data().join("pg_wal")) > 1);
    follower.stop().unwrap();
    let session = Session::enter(&connection, &system_cx()).unwrap();
    let backup = session.base_backup(&super::base_backup::usual(), &system_cx()).unwrap();
    let scratch = scratch.path();
    super::base_backup::unpack(backup, &scratch.join("data"), &scratch.join("spaces")).unwrap();
}
