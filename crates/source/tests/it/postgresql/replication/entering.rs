//! Servers that do not let us in, each with what to do.

use super::server::{Server, replicating};
use super::*;
use hikae_model::{Advise as _, ErrorCode};
use hikae_source::postgresql::Secret;
use hikae_source::postgresql::replication::{ReplicationError, Session, SlotName};

#[track_caller]
fn refusal(connection: &Connection) -> (ReplicationError, String) {
    let error = Session::enter(connection, &system_cx()).err().expect("it was let in");
    let advice = error.advice().expect("advice").into_owned();
    (error, advice)
}

/// Wrong password, no right, no line, no place: each is an error of its own, with the SQL or the line to paste.
#[test]
fn a_server_that_does_not_let_us_in_says_what_to_change() {
    let server = Server::start(&replicating());
    server
        .sql("CREATE ROLE wal LOGIN REPLICATION PASSWORD 'right'; CREATE ROLE plain LOGIN PASSWORD 'right'");
    server.set_hba(
        "local all postgres trust\nlocal replication postgres trust\nlocal replication wal,plain scram-sha-256\n",
    );
    let as_role = |role: &str, password: &str| {
        server.cluster.connection_as(role, Some(Secret::new(password.to_owned())))
    };
    assert!(Session::enter(&as_role("wal", "right"), &system_cx()).is_ok());

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
