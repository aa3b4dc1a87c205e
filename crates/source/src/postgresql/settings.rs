//! What the configuration says of a PostgreSQL source.

use super::connection::Connection;
use super::password::{Secret, from_pgpass};
use super::programs::Environment;
use crate::SourceError;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// One database and how to read it.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresqlSettings {
    /// `host=... dbname=... user=...` or `postgresql://...`, without a password.
    pub connection: String,
    /// Tables whose rows are kept, as SQL names (`orders`, `sales.orders`), with their partitions and what their foreign
    /// keys name. Definitions are always those of the whole database. Neither tables nor schemas: everything.
    #[serde(default)]
    pub tables: Vec<String>,
    /// Schemas all of whose tables are kept.
    #[serde(default)]
    pub schemas: Vec<String>,
    /// Read as a superuser or as a role that can become one. Refused by default: a backup needs to read, nothing more.
    #[serde(default)]
    pub allow_superuser: bool,
    /// How long to wait for a table that somebody holds locked.
    #[serde(default = "default_lock_timeout")]
    pub lock_timeout: jiff::SignedDuration,
    /// How many tables are read at once.
    #[serde(default = "default_jobs")]
    pub jobs: NonZeroUsize,
    /// Where `pg_dump` is, if not in one of the usual places.
    #[serde(default)]
    pub program_directory: Option<PathBuf>,
    /// Tables are read in parts of about so many bytes, several at once.
    #[serde(default = "default_part_bytes")]
    pub part_bytes: u64,
}

pub(super) fn default_lock_timeout() -> jiff::SignedDuration {
    jiff::SignedDuration::from_secs(60)
}

pub(super) fn default_jobs() -> NonZeroUsize {
    NonZeroUsize::MIN.saturating_add(1)
}

fn default_part_bytes() -> u64 {
    64 << 20
}

impl PostgresqlSettings {
    /// The whole of one database, all else by default.
    pub fn of(connection: impl Into<String>) -> Self {
        Self {
            connection: connection.into(),
            tables: Vec::new(),
            schemas: Vec::new(),
            allow_superuser: false,
            lock_timeout: default_lock_timeout(),
            jobs: default_jobs(),
            program_directory: None,
            part_bytes: default_part_bytes(),
        }
    }

    pub(super) fn lock_timeout_ms(&self) -> u64 {
        lock_timeout_ms(self.lock_timeout)
    }

    /// True if not the whole database is wanted.
    pub(super) fn is_selection(&self) -> bool {
        !self.tables.is_empty() || !self.schemas.is_empty()
    }
}

/// A wait for a lock as the server takes it, for which 0 would mean "for ever".
pub(super) fn lock_timeout_ms(timeout: jiff::SignedDuration) -> u64 {
    u64::try_from(timeout.as_millis()).unwrap_or(0).clamp(1, 86_400_000)
}

/// Finds the password for a connection: the one handed in, else a line of its `passfile` or of `~/.pgpass`.
///
/// # Errors
/// [`SourceError`] if a password file cannot be read or others may read it.
pub fn with_password(
    connection: Connection,
    password: Option<Secret>,
    environment: &Environment,
) -> Result<Connection, SourceError> {
    let password = match (password, &connection.password, &connection.passfile) {
        (Some(password), ..) => Some(password),
        (None, Some(password), _) => Some(password.clone()),
        (None, None, Some(file)) => from_pgpass(file, &connection)?,
        (None, None, None) => match &environment.home {
            Some(home) => match from_pgpass(&home.join(".pgpass"), &connection) {
                Err(SourceError::Missing { .. }) => None,
                found => found?,
            },
            None => None,
        },
    };
    Ok(Connection { password, ..connection })
}
