//! What goes wrong between us and a server that replicates to us, and what to do about it.

use super::assembler::BrokenStream;
use super::sink::SinkError;
use super::slot::SlotName;
use crate::SourceError;
use crate::postgresql::catalog::quote;
use crate::postgresql::connection::{Connection, Host, shown_name};
use crate::postgresql::wire::{ServerError, WireError};
use hikae_model::{Advise, ErrorCode, Hint, Lsn, SystemId, Timeline};
use std::net::IpAddr;
use std::time::Duration;

/// Why a server does not replicate to us, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum ReplicationError {
    /// Nobody answers there, or only to say that it starts or stops.
    #[error("cannot reach {server}: {why}")]
    Unreachable {
        /// Where.
        server: String,
        /// What was said.
        why: String,
    },
    /// The password is wrong, or no line of `pg_hba.conf` is for us.
    #[error("{server} does not let us in for replication: {why}")]
    NotLetIn {
        /// Where.
        server: String,
        /// What was said.
        why: String,
        /// What to do.
        advice: String,
    },
    /// The role may not replicate.
    #[error("role {role} may not replicate from {server}: {why}")]
    NoRight {
        /// Where.
        server: String,
        /// The role.
        role: String,
        /// What was said.
        why: String,
    },
    /// All of the server's senders of WAL, or all its connections, are in use.
    #[error("{server} has no connection left for replication: {why}")]
    NoPlace {
        /// Where.
        server: String,
        /// What was said.
        why: String,
    },
    /// A slot says where to begin, and none was named.
    #[error("no replication slot is named from which to begin")]
    NoSlotNamed,
    /// The slot is not there.
    #[error("the server has no replication slot {slot}")]
    NoSlot {
        /// The slot.
        slot: SlotName,
    },
    /// A slot of this name is there already.
    #[error("the server has a replication slot {slot} already")]
    SlotExists {
        /// The slot.
        slot: SlotName,
    },
    /// Somebody else uses the slot.
    #[error("replication slot {slot} is in use: {why}")]
    SlotInUse {
        /// The slot.
        slot: SlotName,
        /// What was said.
        why: String,
    },
    /// The server has given the slot up.
    #[error("replication slot {slot} can no longer be used: {why}")]
    SlotLost {
        /// The slot.
        slot: SlotName,
        /// What was said.
        why: String,
    },
    /// The server has removed the WAL from which we were to go on.
    #[error("the server no longer has the WAL of timeline {timeline} at {from}: {why}")]
    WalRemoved {
        /// The timeline.
        timeline: Timeline,
        /// Where we were to go on.
        from: Lsn,
        /// What was said.
        why: String,
    },
    /// Another cluster answers than the one that is followed.
    #[error("the server is of the cluster {found}, and {expected} is followed")]
    OtherCluster {
        /// The one that is followed.
        expected: SystemId,
        /// The one that answers.
        found: SystemId,
    },
    /// The server's timeline did not come from the one that is followed.
    #[error(
        "the server is on timeline {now}, which did not come from timeline {timeline}, of which we have all before {at}"
    )]
    OtherHistory {
        /// The one that is followed.
        timeline: Timeline,
        /// How far.
        at: Lsn,
        /// The server's.
        now: Timeline,
    },
    /// The server said nothing, not even when it was asked to.
    #[error("the server has said nothing for {} s", after.as_secs())]
    Silent {
        /// For so long.
        after: Duration,
    },
    /// What came does not fit together.
    #[error(transparent)]
    BrokenStream(#[from] BrokenStream),
    /// The connection broke.
    #[error("the connection broke: cannot {doing}: {why}")]
    ConnectionLost {
        /// While what was done.
        doing: &'static str,
        /// What was said.
        why: String,
    },
    /// The server says no, for a reason that no other kind names.
    #[error("cannot {doing}: {why}")]
    Refused {
        /// What was to be done.
        doing: &'static str,
        /// What was said.
        why: String,
        /// The kind of failure.
        code: ErrorCode,
        /// What the server advises.
        hint: Option<String>,
    },
    /// What came is not what the protocol says.
    #[error("cannot {doing}: the server's answer is not understood: {why}")]
    Protocol {
        /// What was to be done.
        doing: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The files of a base backup are not such as a server sends.
    #[error("the base backup that came cannot be taken: {why}")]
    BadArchive {
        /// What is wrong with it.
        why: String,
    },
    /// Who keeps the WAL could not.
    #[error("what came could not be kept: {0}")]
    NotKept(#[source] SinkError),
    /// The work was cancelled.
    #[error("interrupted")]
    Cancelled,
}

impl ReplicationError {
    /// Entering `connection` failed.
    pub(super) fn entering(connection: &Connection, error: WireError) -> Self {
        let server = connection.shown();
        let why = shown_name(&error.to_string());
        match (&error, error.sqlstate()) {
            (WireError::Cancelled, _) => Self::Cancelled,
            (WireError::Unreachable(_) | WireError::Broken(_), _) => Self::Unreachable { server, why },
            (_, Some(code)) if code.starts_with("57P") => Self::Unreachable { server, why },
            (_, Some("42501")) => Self::NoRight { server, role: connection.user.clone(), why },
            (_, Some("53300")) => Self::NoPlace { server, why },
            (_, Some("28P01")) | (WireError::Refused(_), _) => {
                let advice = "see that role and password are right; in a password file the line's database is `replication`; before 14, set the password anew with password_encryption = scram-sha-256";
                Self::NotLetIn { server, why, advice: advice.into() }
            }
            (_, Some(code)) if code.starts_with("28") => {
                Self::NotLetIn { server, advice: hba_advice(connection, &why), why }
            }
            _ => Self::of("enter the server", error),
        }
    }

    /// What was `doing` failed.
    pub(super) fn of(doing: &'static str, error: WireError) -> Self {
        let why = shown_name(&error.to_string());
        match error {
            WireError::Cancelled => Self::Cancelled,
            WireError::Unreachable(_) | WireError::Broken(_) => Self::ConnectionLost { doing, why },
            // The server, or an administrator, ended the session.
            WireError::Server(error) if error.code.starts_with("57P") => Self::ConnectionLost { doing, why },
            WireError::Protocol(_) => Self::Protocol { doing, why },
            WireError::Refused(_) => Self::Refused { doing, why, code: ErrorCode::Permission, hint: None },
            WireError::Server(error) => Self::refused(doing, why, *error),
        }
    }

    fn refused(doing: &'static str, why: String, error: ServerError) -> Self {
        let code = WireError::Server(Box::new(error.clone())).code();
        Self::Refused { doing, why, code, hint: (!error.hint.is_empty()).then_some(error.hint) }
    }

    /// A command on `slot` failed.
    pub(super) fn on_slot(slot: &SlotName, doing: &'static str, error: WireError) -> Self {
        let slot = slot.clone();
        let why = shown_name(&error.to_string());
        match error.sqlstate() {
            Some("42704") => Self::NoSlot { slot },
            Some("42710") => Self::SlotExists { slot },
            Some("55006") => Self::SlotInUse { slot, why },
            Some("55000") => Self::SlotLost { slot, why },
            _ => Self::of(doing, error),
        }
    }

    /// Whether it may pass by itself, so that trying again is worth while.
    pub fn may_pass(&self) -> bool {
        match self {
            // A connection of ours that broke can hold slot and place until the server has noticed.
            Self::Unreachable { .. }
            | Self::NoPlace { .. }
            | Self::SlotInUse { .. }
            | Self::Silent { .. }
            | Self::ConnectionLost { .. } => true,
            Self::NotLetIn { .. }
            | Self::NoRight { .. }
            | Self::NoSlotNamed
            | Self::NoSlot { .. }
            | Self::SlotExists { .. }
            | Self::SlotLost { .. }
            | Self::WalRemoved { .. }
            | Self::OtherCluster { .. }
            | Self::OtherHistory { .. }
            | Self::BrokenStream(_)
            | Self::Refused { .. }
            | Self::Protocol { .. }
            | Self::BadArchive { .. }
            | Self::NotKept(_)
            | Self::Cancelled => false,
        }
    }
}

/// The line that `pg_hba.conf` lacks: for replication, by scram, from this one address.
fn hba_advice(connection: &Connection, said: &str) -> String {
    let role =
        match connection.user.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
            true => connection.user.clone(),
            false => quote(&connection.user),
        };
    let line = match &connection.host {
        Host::Socket(_) => format!("local replication {role} scram-sha-256"),
        Host::Name(_) => {
            // The server says from where it sees us, whatever its language.
            let words = said.split(|c: char| c.is_whitespace() || "\"«»„“”',()".contains(c));
            let address = words.filter_map(|word| word.parse::<IpAddr>().ok()).next();
            let from = match address {
                Some(address @ IpAddr::V4(_)) => format!("{address}/32"),
                Some(address @ IpAddr::V6(_)) => format!("{address}/128"),
                None => "ADDRESS-OF-THIS-HOST/32".to_owned(),
            };
            format!("hostssl replication {role} {from} scram-sha-256")
        }
    };
    format!(
        "see that the role exists and may log in; if no line of pg_hba.conf is for it, put in `{line}` before the others (`all` does not match replication) and run SELECT pg_reload_conf()"
    )
}

impl Advise for ReplicationError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Unreachable { .. } | Self::ConnectionLost { .. } | Self::Silent { .. } => {
                ErrorCode::SourceMissing
            }
            Self::NotLetIn { .. } | Self::NoRight { .. } => ErrorCode::Permission,
            Self::NoPlace { .. } | Self::SlotInUse { .. } => ErrorCode::Busy,
            Self::NoSlot { .. } | Self::SlotLost { .. } | Self::WalRemoved { .. } => ErrorCode::SourceMissing,
            Self::NoSlotNamed => ErrorCode::Usage,
            Self::OtherCluster { .. } | Self::OtherHistory { .. } => ErrorCode::Forbidden,
            Self::SlotExists { .. }
            | Self::BrokenStream(_)
            | Self::Protocol { .. }
            | Self::BadArchive { .. }
            | Self::NotKept(_) => ErrorCode::Failure,
            Self::Refused { code, .. } => *code,
            Self::Cancelled => ErrorCode::Interrupted,
        }
    }

    fn advice(&self) -> Option<Hint> {
        const NEW_BASE: &str = "take a new base backup: what was written in between cannot be had any more";
        Some(match self {
            Self::Unreachable { .. } => "see that the server runs and listens there".into(),
            Self::NotLetIn { advice, .. } => advice.clone().into(),
            Self::NoRight { role, .. } => format!(
                "run as a superuser: ALTER ROLE {0} LOGIN REPLICATION; or for a role of its own: CREATE ROLE hikae_wal LOGIN REPLICATION PASSWORD '...'",
                quote(role)
            )
            .into(),
            Self::NoPlace { .. } => {
                "raise max_wal_senders (and max_connections) and restart the server, or end a standby or backup that is not needed"
                    .into()
            }
            Self::NoSlot { slot } => format!(
                "make it with SELECT pg_create_physical_replication_slot('{slot}', true), and if WAL was followed through it before, take a new base backup"
            )
            .into(),
            Self::SlotExists { .. } => "take another name, or use the slot that is there".into(),
            Self::SlotInUse { .. } => "see that no second stream runs on this slot; each wants one of its own".into(),
            Self::SlotLost { slot, .. } => format!(
                "it was never used, outgrew max_slot_wal_keep_size, or was not used for long: run SELECT pg_drop_replication_slot('{slot}'), make it anew, and take a new base backup"
            )
            .into(),
            Self::WalRemoved { .. } => format!("{NEW_BASE}; a replication slot keeps WAL for us").into(),
            Self::OtherCluster { .. } => {
                "see that the connection is to the right server; a cluster of its own wants an archive of its own".into()
            }
            Self::Silent { .. } => "see that the server and the network between are well".into(),
            Self::OtherHistory { .. } | Self::BrokenStream(BrokenStream::Rewritten { .. }) => format!(
                "see that the connection is to the server that was promoted last; if it is, it was set back or another cluster was put in its place: {NEW_BASE}"
            )
            .into(),
            Self::Refused { hint: Some(hint), .. } => hint.clone().into(),
            Self::NoSlotNamed
            | Self::BrokenStream(_)
            | Self::ConnectionLost { .. }
            | Self::Refused { hint: None, .. }
            | Self::Protocol { .. }
            | Self::BadArchive { .. }
            | Self::NotKept(_)
            | Self::Cancelled => return None,
        })
    }
}

impl From<ReplicationError> for SourceError {
    fn from(error: ReplicationError) -> Self {
        match error {
            ReplicationError::Cancelled => Self::Cancelled(hikae_model::Cancelled),
            error => Self::Failed { code: error.code(), advice: error.advice(), what: error.to_string() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_for_pg_hba_is_as_narrow_as_can_be() {
        let advice = |text: &str, said: &str| hba_advice(&Connection::parse(text, "me").unwrap(), said);
        let english = "no pg_hba.conf entry for replication connection from host \"192.0.2.7\", user \"me\", no encryption";
        assert!(advice("host=db", english).contains("`hostssl replication me 192.0.2.7/32 scram-sha-256`"));
        let german = "kein pg_hba.conf-Eintrag für Replikationsverbindung von Host »2001:db8::1«";
        assert!(advice("host=db user='A b'", german).contains("replication \"A b\" 2001:db8::1/128 scram"));
        assert!(advice("host=/run/pg", "no").contains("`local replication me scram-sha-256`"));
        assert!(advice("host=db", "no").contains("ADDRESS-OF-THIS-HOST/32"));
    }
}
