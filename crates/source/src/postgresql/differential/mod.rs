//! New rows of append-only tables, between two dumps of their database. Not shown are rows that were deleted or changed
//! without a new stamp, and a table that was truncated: the next comparison or dump finds those.
//!
//! ```text
//! audit_logs_incr_20261120_150000.copy   rows that came since, COPY text; no later differential has them again
//! audit_logs_open_20261120_150000.copy   the youngest, which the next one has again, with those that were not committed yet
//! load.sql                               how psql loads them
//! ```
//!
//! - A run reads rows whose stamp is not older than the oldest transaction that was open at the run before.
//! - Each run knows what its tables must be as a whole, if they only grew. That is compared from time to time with the
//!   tables themselves, and always with what a restore brings.
//! - A dump and the differentials after it make a snapshot like any other: [`RolledForward`]. It is restored, compared and
//!   drilled as one.
//!
//! What the rows refer to is not looked at. This module knows no repository.

mod chain;
mod horizon;
mod look;
mod manifest;
mod reading;
mod rolled;
mod settings;
mod stamp;

pub use manifest::{DifferentialManifest, DifferentialTable, TableName, Watermark};
pub use rolled::{NotForward, RolledForward};
pub use settings::{RowsSettings, WatchedTable};

pub use super::rows::Tally;
pub(super) use horizon::Horizon;

use super::connection::Connection;
use super::password::Secret;
use super::preflight::{Finding, Weight};
use super::programs::Environment;
use super::wire::{Client, WireError};
use super::{catalog, connect, wire_failed, without_password};
use crate::{Earlier, Reading, Source, SourceError};
use hikae_model::{Cx, HashKey, Problem};
use look::Look;

/// The kind of such a source.
pub const KIND: &str = "postgresql-rows";

/// New rows of append-only tables of one database.
pub struct RowsSource {
    settings: RowsSettings,
    connection: Connection,
}

impl RowsSource {
    /// The source that `settings` describe. `password` goes before any password file.
    ///
    /// # Errors
    /// [`SourceError::Setting`] if the connection string is not understood or holds a password;
    /// [`SourceError`] if a password file cannot be used.
    pub fn new(
        settings: RowsSettings,
        password: Option<Secret>,
        environment: &Environment,
    ) -> Result<Self, SourceError> {
        let connection = without_password(&settings.connection, password, environment)?;
        Ok(Self { settings, connection })
    }

    /// Looks, without writing, at everything that a backup needs, and says how much each finding weighs.
    ///
    /// # Errors
    /// [`SourceError`] if the server does not answer, or a table is not there.
    pub fn preflight(&self, cx: &Cx) -> Result<Vec<Finding>, SourceError> {
        Ok(self.look(cx)?.1.findings)
    }

    fn look(&self, cx: &Cx) -> Result<(Client, Look), SourceError> {
        let mut client = connect(&self.connection, cx)?;
        let settings =
            catalog::session_settings(client.server_version_num(), self.settings.lock_timeout_ms());
        let horizon = client.execute(&settings).and_then(|()| Horizon::ask(&mut client));
        let horizon = horizon.map_err(|error| self.not_looked(&error))?;
        let looked = look::look(&mut client, &self.connection, &self.settings, horizon)?;
        Ok((client, looked))
    }

    fn not_looked(&self, error: &WireError) -> SourceError {
        wire_failed(&format!("cannot look at {}", self.connection.shown()), error)
    }
}

impl Source for RowsSource {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn base(&self) -> Option<&str> {
        Some(&self.settings.base)
    }

    fn check(&self, cx: &Cx) -> Result<Vec<Problem>, SourceError> {
        let wrong = self.preflight(cx)?.into_iter().filter(|finding| finding.weight != Weight::Notes);
        Ok(wrong.map(|finding| finding.problem).collect())
    }

    /// Of the whole tables: which part is new is known only when it is read.
    fn size(&self, cx: &Cx) -> Result<Option<u64>, SourceError> {
        let (mut client, looked) = self.look(cx)?;
        let oids = catalog::oid_array(looked.tables.iter().map(|table| &table.relation.oid));
        let size = client
            .value("SELECT coalesce(sum(pg_table_size(oid)), 0)::int8 FROM unnest($1::oid[]) oid", &[&oids]);
        Ok(Some(
            size.map_err(|error| self.not_looked(&error))?.and_then(|bytes| bytes.parse().ok()).unwrap_or(0),
        ))
    }

    fn begin(&self, key: HashKey, cx: &Cx) -> Result<Box<dyn Reading>, SourceError> {
        self.begin_after(&Earlier::NOTHING, key, cx)
    }

    fn begin_after(
        &self,
        earlier: &Earlier<'_>,
        key: HashKey,
        cx: &Cx,
    ) -> Result<Box<dyn Reading>, SourceError> {
        reading::begin(&self.connection, &self.settings, earlier, key, cx)
    }
}
