//! PostgreSQL, logically: one database from one exported snapshot, each table a stream of rows of its own.
//!
//! ```text
//! database.json         what is written on the database itself: encoding, locale, owner, privileges, settings
//! globals.sql           roles and tablespaces of the cluster (pg_dumpall --globals-only)
//! large-objects.dump    large objects, if there are any (pg_dump, custom format)
//! schema.dump           definitions (pg_dump --schema-only, custom format)
//! sequences.json        where the sequences stand
//! tables/SCHEMA.NAME.copy, and if it is long tables/SCHEMA.NAME.0001.copy ...
//! ```
//!
//! - PostgreSQL's own programs write and load the definitions: their order is its business, not ours.
//! - All rows are of one snapshot. They are counted and hashed as they pass; the manifest holds the sums.
//! - A restore goes into a new database, is compared with the manifest, and takes the live one's name only on request.
//! - A drill does the same in a server of its own that nobody else can reach.
//!
//! This module knows no repository. It runs no shell and hands no password to an argument or an environment.

mod catalog;
mod cluster;
mod connection;
mod copy;
pub mod differential;
mod drill;
mod dump;
mod export;
mod inventory;
mod left;
mod manifest;
mod password;
mod preflight;
mod programs;
mod reading;
pub mod replication;
mod restore;
mod rows;
mod script;
mod selection;
mod session;
mod settings;
mod swap;
mod tls;
mod verify;
mod wire;

pub use cluster::{Begins, Cluster, ClusterOptions, Vacant};
pub use connection::{Binding, Connection, Host, TlsMode, TlsSettings};
pub use drill::{DrillOptions, DrillResult, drill};
pub use dump::{
    Dump, DumpContents, DumpForm, DumpOptions, DumpedTable, LoadedDump, load_dump, look_at_target, read_dump,
};
pub use export::{ExportForm, export, export_rows, tables_with_rows};
pub use manifest::{LargeObjects, Manifest, NotCovered, Objects, SequenceRecord, TableRecord, ViewRecord};
pub use password::{Secret, from_pgpass};
pub use preflight::{Finding, Weight, least_privilege_role};
pub use programs::Environment;
pub use restore::{Owners, PhaseTime, RestoreOptions, Restored, look, look_at_server, restore};
pub use settings::{PostgresqlSettings, with_password};
pub use swap::{Swapped, swap};

pub(crate) use catalog::{literal, quote as quoted};
pub(crate) use cluster::{Ran, give_tree, lock_left};
pub(crate) use left::{LEFT, directories, stop_server_of};
pub(crate) use restore::Stopwatch;
pub(crate) use session::Session;

use crate::{Reading, Source, SourceError};
use hikae_model::{Cx, ErrorCode, HashKey, Problem};
use wire::{Client, WireError};

/// One database of a PostgreSQL server.
pub struct PostgresqlSource {
    settings: PostgresqlSettings,
    connection: Connection,
    environment: Environment,
}

impl PostgresqlSource {
    /// The source that `settings` describe. `password` goes before any password file.
    ///
    /// # Errors
    /// [`SourceError::Setting`] if the connection string is not understood or holds a password;
    /// [`SourceError`] if a password file cannot be used.
    pub fn new(
        settings: PostgresqlSettings,
        password: Option<Secret>,
        environment: Environment,
    ) -> Result<Self, SourceError> {
        let connection = without_password(&settings.connection, password, &environment)?;
        Ok(Self { settings, connection, environment })
    }

    /// Where it is.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Looks, without writing, at everything that a backup needs, and says how much each finding weighs.
    ///
    /// # Errors
    /// [`SourceError`] if the server does not answer at all.
    pub fn preflight(&self, cx: &Cx) -> Result<Vec<Finding>, SourceError> {
        let mut client = connect(&self.connection, cx)?;
        let settings =
            catalog::session_settings(client.server_version_num(), self.settings.lock_timeout_ms());
        client
            .execute(&settings)
            .and_then(|()| client.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"))
            .map_err(|error| wire_failed(&format!("cannot look at {}", self.connection.shown()), &error))?;
        Ok(preflight::look(&mut client, &self.connection, &self.settings, &self.environment)?.findings)
    }
}

impl Source for PostgresqlSource {
    fn kind(&self) -> &'static str {
        "postgresql"
    }

    fn check(&self, cx: &Cx) -> Result<Vec<Problem>, SourceError> {
        let wrong = self.preflight(cx)?.into_iter().filter(|finding| finding.weight != Weight::Notes);
        Ok(wrong.map(|finding| finding.problem).collect())
    }

    fn size(&self, cx: &Cx) -> Result<Option<u64>, SourceError> {
        let size = connect(&self.connection, cx)?.value("SELECT pg_database_size(current_database())", &[]);
        let size = size
            .map_err(|error| wire_failed(&format!("cannot look at {}", self.connection.shown()), &error))?;
        Ok(Some(size.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)))
    }

    fn begin(&self, key: HashKey, cx: &Cx) -> Result<Box<dyn Reading>, SourceError> {
        reading::begin(&self.connection, &self.settings, &self.environment, key, cx)
    }
}

/// The connection of a setting, which holds no password: that is handed in or looked up.
///
/// # Errors
/// [`SourceError::Setting`] if it is not understood or holds one; [`SourceError`] if a password file cannot be used.
pub fn without_password(
    setting: &str,
    password: Option<Secret>,
    environment: &Environment,
) -> Result<Connection, SourceError> {
    let connection = Connection::parse(setting, &environment.user)?;
    if connection.password.is_some() {
        return Err(SourceError::Setting {
            setting: "connection".into(),
            why: "it holds a password; put that into ~/.pgpass or a file of mode 0600".into(),
        });
    }
    with_password(connection, password, environment)
}

pub(crate) fn failed(code: ErrorCode, what: String, advice: Option<String>) -> SourceError {
    SourceError::Failed { code, what, advice: advice.map(Into::into) }
}

fn connect(connection: &Connection, cx: &Cx) -> Result<Client, SourceError> {
    Client::connect(connection, cx.cancel())
        .map_err(|error| wire_failed(&format!("cannot enter {}", connection.shown()), &error))
}

/// An error of the protocol or the server, as one of ours.
fn wire_failed(what: &str, error: &WireError) -> SourceError {
    if matches!(error, WireError::Cancelled) {
        return SourceError::Cancelled(hikae_model::Cancelled);
    }
    let advice = match (error, error.sqlstate()) {
        (WireError::Unreachable(_), _) => Some("see that the server runs and listens there".to_owned()),
        (WireError::Refused(_), _) => {
            Some("put the role's password into ~/.pgpass (mode 0600) or name a password file".to_owned())
        }
        (_, Some("28P01" | "28000")) => Some("see that role and password are right and pg_hba.conf lets it in".to_owned()),
        (_, Some("3D000")) => Some("see that the database's name is right".to_owned()),
        (_, Some("55P03")) => {
            Some("somebody holds a table locked, perhaps a migration: run again when it is done, or raise lock_timeout".to_owned())
        }
        (_, Some("22021" | "22P05")) => {
            Some("a name or a comment in this database is not of its encoding: rename it".to_owned())
        }
        (_, Some("40001")) => Some(
            "the standby had to give way to what the primary does: set hot_standby_feedback = on, or raise max_standby_streaming_delay"
                .to_owned(),
        ),
        (WireError::Server(error), _) if !error.hint.is_empty() => Some(error.hint.clone()),
        _ => None,
    };
    failed(error.code(), format!("{what}: {}", connection::shown_name(&error.to_string())), advice)
}
