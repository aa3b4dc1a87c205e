//! Whether a slot still holds the WAL that we need, and what bounds what it holds.

use super::error::ReplicationError;
use super::slot::SlotName;
use crate::postgresql::connection::Connection;
use crate::postgresql::wire::Client;
use hikae_model::{Bytes, Cx, Lsn, Problem};

/// Behind by more than this, a slot is worth a word: 4 GiB are 256 usual segments.
const MUCH_BYTES: u64 = 4 << 30;

/// A slot as the server's catalog shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotHealth {
    /// Its name.
    pub slot: SlotName,
    /// Whether a connection uses it now.
    pub active: bool,
    /// The oldest WAL that it keeps.
    pub restart: Option<Lsn>,
    /// How much WAL that is up to now.
    pub behind_bytes: Option<u64>,
    /// `wal_status`: `reserved`, `extended`, `unreserved` or `lost`; none if nothing was ever reserved.
    pub wal_status: Option<String>,
    /// Why the server gave it up. Since 17.
    pub invalidation_reason: Option<String>,
    /// How much more may be written before the slot can be lost; none if nothing bounds it.
    pub safe_bytes: Option<i64>,
    /// `max_slot_wal_keep_size` in bytes; none if it bounds nothing.
    pub keep_bytes: Option<u64>,
}

#[derive(serde::Deserialize)]
struct SlotRow {
    slot_type: String,
    active: bool,
    restart_lsn: Option<String>,
    behind_bytes: Option<i64>,
    wal_status: Option<String>,
    invalidation_reason: Option<String>,
    safe_wal_size: Option<i64>,
    keep_mb: i64,
}

/// Looks at a slot over an ordinary connection; any role may.
///
/// # Errors
/// [`ReplicationError::NoSlot`] if there is no physical slot of this name; [`ReplicationError`] if the server does not
/// answer.
pub fn slot_health(
    connection: &Connection,
    slot: &SlotName,
    cx: &Cx,
) -> Result<SlotHealth, ReplicationError> {
    const DOING: &str = "look at the replication slot";
    let mut client = Client::connect(connection, cx.cancel())
        .map_err(|error| ReplicationError::entering(connection, error))?;
    // Columns that older versions have not are asked for by name only.
    let rows: Vec<SlotRow> = client
        .rows(
            "SELECT slot_type, active, restart_lsn::text, wal_status, safe_wal_size,
                    to_jsonb(s) ->> 'invalidation_reason' AS invalidation_reason,
                    pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn()
                                         ELSE pg_current_wal_lsn() END, restart_lsn)::bigint AS behind_bytes,
                    (SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size') AS keep_mb
             FROM pg_replication_slots s WHERE slot_name = $1",
            &[&slot.to_string()],
        )
        .map_err(|error| ReplicationError::of(DOING, error))?;
    let row = rows.into_iter().next().filter(|row| row.slot_type == "physical");
    let row = row.ok_or_else(|| ReplicationError::NoSlot { slot: slot.clone() })?;
    let restart = row.restart_lsn.as_deref().map(str::parse).transpose();
    Ok(SlotHealth {
        slot: slot.clone(),
        active: row.active,
        restart: restart.map_err(|error: hikae_model::BadWalName| ReplicationError::Protocol {
            doing: DOING,
            why: error.to_string(),
        })?,
        behind_bytes: row.behind_bytes.and_then(|bytes| bytes.try_into().ok()),
        wal_status: row.wal_status,
        invalidation_reason: row.invalidation_reason,
        safe_bytes: row.safe_wal_size,
        keep_bytes: u64::try_from(row.keep_mb).ok().map(|mb| mb << 20),
    })
}

impl SlotHealth {
    /// What is wrong with the slot, or can become so, each with advice.
    pub fn problems(&self) -> Vec<Problem> {
        let on = format!("replication slot {}", self.slot);
        let mut problems = Vec::new();
        let lost = self.wal_status.as_deref() == Some("lost") || self.invalidation_reason.is_some();
        if lost {
            let why = self.invalidation_reason.as_deref().unwrap_or("max_slot_wal_keep_size was reached");
            problems.push(
                Problem::new("slot-lost", &on, format!("the server has given it up: {why}")).advise(format!(
                    "run SELECT pg_drop_replication_slot('{}'), make it anew, and take a new base backup",
                    self.slot
                )),
            );
        } else if self.wal_status.as_deref() == Some("unreserved") {
            problems.push(
                Problem::new("slot-unreserved", &on, "its WAL goes with the next checkpoint")
                    .advise("see that the stream runs and keeps up, now; raise max_slot_wal_keep_size"),
            );
        } else if self.restart.is_none() {
            problems.push(
                Problem::new("slot-idle", &on, "it keeps no WAL, because it was never used").advise(
                    "start the stream, or make the slot with pg_create_physical_replication_slot(name, true)",
                ),
            );
        }
        if self.keep_bytes.is_none() {
            problems.push(
                Problem::new(
                    "slot-unlimited",
                    &on,
                    "nothing bounds the WAL that it keeps: a stream that stands still fills the server's disk",
                )
                .advise("set max_slot_wal_keep_size to what pg_wal has room for, as ALTER SYSTEM SET max_slot_wal_keep_size = '64GB'"),
            );
        }
        if let Some(behind) = self.behind_bytes.filter(|&bytes| !lost && bytes > MUCH_BYTES) {
            let what = format!("it is behind by {}", Bytes(behind));
            problems.push(
                Problem::new("slot-behind", &on, what)
                    .advise("see that the stream runs, and that what it writes to is fast enough"),
            );
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_of_a_slot_that_endangers_wal_or_disk_is_named() {
        let well = SlotHealth {
            slot: "s".parse().unwrap(),
            active: true,
            restart: Some(Lsn(1)),
            behind_bytes: Some(1 << 20),
            wal_status: Some("reserved".into()),
            invalidation_reason: None,
            safe_bytes: Some(1 << 30),
            keep_bytes: Some(1 << 36),
        };
        let codes = |health: SlotHealth| {
            health.problems().into_iter().map(|problem| problem.code).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(codes(well.clone()), "");
        let status = |status: &str| SlotHealth { wal_status: Some(status.into()), ..well.clone() };
        assert_eq!(codes(status("lost")), "slot-lost");
        assert_eq!(codes(status("unreserved")), "slot-unreserved");
        assert_eq!(codes(status("extended")), "");
        let invalid = SlotHealth { invalidation_reason: Some("idle_timeout".into()), ..well.clone() };
        assert_eq!(codes(invalid), "slot-lost");
        assert_eq!(codes(SlotHealth { keep_bytes: None, ..well.clone() }), "slot-unlimited");
        assert_eq!(codes(SlotHealth { restart: None, wal_status: None, ..well.clone() }), "slot-idle");
        assert_eq!(codes(SlotHealth { behind_bytes: Some(1 << 40), ..well }), "slot-behind");
    }
}
