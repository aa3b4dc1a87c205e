//! A session on a server, for the other kinds of sources that enter one.

use super::connection::Connection;
use super::wire::{Client, WireError};
use super::{catalog, connect, wire_failed};
use crate::SourceError;
use hikae_model::Cx;

/// A session under way, with settings that no role or database can change. It ends when it is dropped.
pub(crate) struct Session {
    client: Client,
    shown: String,
}

/// One row, as text.
pub(crate) type Row = Vec<Option<String>>;

impl Session {
    /// Enters a server. A cancellation of `cx` ends every wait.
    pub(crate) fn enter(connection: &Connection, cx: &Cx) -> Result<Self, SourceError> {
        const LOCK_TIMEOUT_MS: u64 = 60_000;
        let mut session = Self { client: connect(connection, cx)?, shown: connection.shown() };
        let settings = catalog::session_settings(session.client.server_version_num(), LOCK_TIMEOUT_MS);
        let set = session.client.execute(&settings);
        set.map_err(|error| session.failed("look at", &error))?;
        Ok(session)
    }

    /// The server's version, as 150013 for 15.13.
    pub(crate) fn server_version_num(&self) -> u32 {
        self.client.server_version_num()
    }

    /// Whether what is sent is encrypted.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.client.is_encrypted()
    }

    /// The rows of a query. `verb` says what is being done to the server, if it fails.
    pub(crate) fn query(
        &mut self,
        verb: &str,
        sql: &str,
        parameters: &[&str],
    ) -> Result<Vec<Row>, SourceError> {
        self.client.query(sql, parameters).map_err(|error| self.failed(verb, &error))
    }

    /// The one value of a query that gives one.
    pub(crate) fn value(
        &mut self,
        verb: &str,
        sql: &str,
        parameters: &[&str],
    ) -> Result<Option<String>, SourceError> {
        self.client.value(sql, parameters).map_err(|error| self.failed(verb, &error))
    }

    /// The rows of a query, each read as an object whose fields are the columns.
    pub(crate) fn rows<T: serde::de::DeserializeOwned>(
        &mut self,
        verb: &str,
        sql: &str,
    ) -> Result<Vec<T>, SourceError> {
        self.client.rows(sql, &[]).map_err(|error| self.failed(verb, &error))
    }

    /// Runs a query that the server may refuse without harm: then what it says instead.
    pub(crate) fn attempt(
        &mut self,
        verb: &str,
        sql: &str,
        parameters: &[&str],
    ) -> Result<Result<(), String>, SourceError> {
        self.attempt_rows(verb, sql, parameters).map(|rows| rows.map(drop))
    }

    /// The same, with what it gives.
    pub(crate) fn attempt_rows(
        &mut self,
        verb: &str,
        sql: &str,
        parameters: &[&str],
    ) -> Result<Result<Vec<Row>, String>, SourceError> {
        match self.client.query(sql, parameters) {
            Ok(rows) => Ok(Ok(rows)),
            Err(WireError::Server(error)) if error.severity == "ERROR" => Ok(Err(error.message.clone())),
            Err(error) => Err(self.failed(verb, &error)),
        }
    }

    fn failed(&self, verb: &str, error: &WireError) -> SourceError {
        wire_failed(&format!("cannot {verb} {}", self.shown), error)
    }
}
