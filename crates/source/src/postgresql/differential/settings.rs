//! What the configuration says of the tables whose new rows are kept.

use super::super::settings::{default_jobs, default_lock_timeout, lock_timeout_ms};
use jiff::{SignedDuration, Span};
use std::num::NonZeroUsize;

/// Append-only tables of one database, and what tells their new rows from the old ones.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowsSettings {
    /// `host=... dbname=... user=...` or `postgresql://...`, without a password.
    pub connection: String,
    /// The source of kind `postgresql` whose dumps these rows follow.
    pub base: String,
    /// The tables.
    pub tables: Vec<WatchedTable>,
    /// How much earlier than the oldest open transaction of the run before a run begins to read: for stamps that were
    /// drawn before their transaction began.
    #[serde(default = "default_overlap")]
    pub overlap: SignedDuration,
    /// How often the whole tables are counted and hashed, to see what rows alone cannot show.
    #[serde(default = "default_compare_every")]
    pub compare_every: Span,
    /// Read as a superuser or as a role that can become one. Refused by default: a backup needs to read, nothing more.
    #[serde(default)]
    pub allow_superuser: bool,
    /// How long to wait for a table that somebody holds locked.
    #[serde(default = "default_lock_timeout")]
    pub lock_timeout: SignedDuration,
    /// How many tables are read at once.
    #[serde(default = "default_jobs")]
    pub jobs: NonZeroUsize,
}

/// A table to which rows are only added.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchedTable {
    /// Its name in SQL, as `audit_logs` or `app.audit_logs`; a partitioned table with all its partitions.
    pub table: String,
    /// The column that says when a row came: `timestamptz`, or `timestamp` in `time_zone`.
    pub column: String,
    /// The zone in which a `timestamp` is written; by default that of the role's sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
}

fn default_overlap() -> SignedDuration {
    SignedDuration::from_mins(1)
}

fn default_compare_every() -> Span {
    Span::new().days(1)
}

impl RowsSettings {
    /// The rows of `tables` since the dumps of `base`, all else by default.
    pub fn of(connection: impl Into<String>, base: impl Into<String>, tables: Vec<WatchedTable>) -> Self {
        Self {
            connection: connection.into(),
            base: base.into(),
            tables,
            overlap: default_overlap(),
            compare_every: default_compare_every(),
            allow_superuser: false,
            lock_timeout: default_lock_timeout(),
            jobs: default_jobs(),
        }
    }

    pub(super) fn lock_timeout_ms(&self) -> u64 {
        lock_timeout_ms(self.lock_timeout)
    }
}
