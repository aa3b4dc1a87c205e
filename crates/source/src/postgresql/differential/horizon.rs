//! How old a row can be that a snapshot does not show yet: the oldest transaction that is still open.
//!
//! A row is stamped when its transaction begins and seen when that commits. So a run that goes on from "now" misses every
//! row of a transaction that was open. What goes on from the beginning of the oldest one misses none: who was not open
//! had ended, and is seen, or begins later.
//!
//! - It is asked before the snapshot is taken. Asked after it, who ended in between would be neither open nor seen.
//! - A session is seen a moment after its transaction drew its time; the overlap of the settings is longer than that.

use super::super::wire::{Client, WireError};
use hikae_model::sabotage;
use jiff::Timestamp;

/// What is known of the transactions that a snapshot does not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::postgresql) enum Horizon {
    /// None of them began before.
    Since(Timestamp),
    /// One was prepared (`PREPARE TRANSACTION`) and has no session that would say when it began.
    Prepared,
    /// The server does not say.
    Hidden(Hidden),
}

/// Why the server does not say which transactions are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::postgresql) enum Hidden {
    /// A standby knows nothing of the primary's sessions.
    Standby,
    /// The role sees its own sessions only.
    Role,
    /// A session has `track_activities = off`.
    Untracked,
}

impl Horizon {
    /// Asks for it. The session is in no transaction, and takes its snapshot afterwards.
    pub(in crate::postgresql) fn ask(client: &mut Client) -> Result<Self, WireError> {
        // Our own session is among them and began now, so nothing that begins later is older than what this gives.
        let rows = client.query(
            "SELECT to_json(coalesce(min(xact_start), now()))#>>'{}', coalesce(bool_or(state = 'disabled'), false),
                pg_has_role('pg_read_all_stats', 'USAGE'), pg_is_in_recovery(), to_json(now())#>>'{}'
            FROM pg_stat_activity WHERE backend_type <> 'autovacuum worker'
                AND datid = (SELECT oid FROM pg_database WHERE datname = current_database())",
            &[],
        )?;
        // After the sessions: one that is prepared in between was seen among them.
        let prepared = client.value(
            "SELECT EXISTS (SELECT FROM pg_prepared_xacts WHERE database = current_database())",
            &[],
        )?;
        let row = rows.into_iter().next().unwrap_or_default();
        let at = |n: usize| row.get(n).and_then(Option::as_deref).unwrap_or_default();
        let is = |n: usize| at(n) == "t";
        let oldest = if sabotage::on("watermark-is-now") { at(4) } else { at(0) };
        Ok(match () {
            () if is(3) => Self::Hidden(Hidden::Standby),
            () if !is(2) => Self::Hidden(Hidden::Role),
            () if is(1) => Self::Hidden(Hidden::Untracked),
            () if prepared.as_deref() != Some("f") => Self::Prepared,
            () => Self::Since(oldest.parse().map_err(|error| {
                WireError::Protocol(format!("the server's time `{oldest}` is not understood: {error}"))
            })?),
        })
    }

    /// The moment, if it is known.
    pub(in crate::postgresql) fn moment(self) -> Option<Timestamp> {
        match self {
            Self::Since(moment) => Some(moment),
            Self::Prepared | Self::Hidden(_) => None,
        }
    }
}
