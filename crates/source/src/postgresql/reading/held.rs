//! The snapshot that a reading holds: what its contents share, and what became of each of them.

use crate::postgresql::connection::Connection;
use crate::postgresql::preflight::set_snapshot;
use crate::postgresql::programs::{PrivateDir, Programs};
use crate::postgresql::rows::RowSum;
use crate::postgresql::wire::{Client, WireError};
use hikae_model::{ContentError, Cx, HashKey};
use std::sync::{Mutex, MutexGuard};

/// What the contents of one reading share.
pub(super) struct Shared {
    pub(super) connection: Connection,
    /// The connection for programs.
    pub(super) conninfo: String,
    pub(super) encoding: String,
    pub(super) server_major: u32,
    pub(super) snapshot: String,
    pub(super) session_settings: String,
    pub(super) programs: Programs,
    pub(super) key: HashKey,
    pub(super) cx: Cx,
    /// Workers that wait for the next table, in the snapshot.
    pub(super) idle: Mutex<Vec<Client>>,
    pub(super) parts: Mutex<Vec<Part>>,
    /// Holds the password file while programs run.
    pub(super) _scratch: PrivateDir,
}

/// One content and what became of it.
pub(super) struct Part {
    pub(super) name: String,
    /// The table it belongs to, by its place in the manifest.
    pub(super) table: Option<usize>,
    pub(super) outcome: PartOutcome,
}

pub(super) enum PartOutcome {
    Waiting,
    Read(Option<RowSum>),
    Failed(String),
}

impl Shared {
    pub(super) fn lock_parts(&self) -> MutexGuard<'_, Vec<Part>> {
        self.parts.lock().unwrap_or_else(|broken| broken.into_inner())
    }

    pub(super) fn add_part(&self, name: &str, table: Option<usize>) -> usize {
        let mut parts = self.lock_parts();
        parts.push(Part { name: name.to_owned(), table, outcome: PartOutcome::Waiting });
        parts.len() - 1
    }

    pub(super) fn set(&self, part: usize, outcome: PartOutcome) {
        if let Some(part) = self.lock_parts().get_mut(part) {
            part.outcome = outcome;
        }
    }

    /// Remembers the failure and gives it on.
    pub(super) fn broken(&self, part: usize, what: String) -> ContentError {
        self.set(part, PartOutcome::Failed(what.clone()));
        ContentError::Broken { what, advice: None }
    }

    /// A connection in the snapshot: one that waits, or a new one.
    pub(super) fn worker(&self) -> Result<Client, WireError> {
        let idle = self.idle.lock().unwrap_or_else(|broken| broken.into_inner()).pop();
        if let Some(client) = idle {
            return Ok(client);
        }
        let mut client = Client::connect(&self.connection, self.cx.cancel())?;
        client.execute(&self.session_settings)?;
        client.execute(&set_snapshot(&self.snapshot))?;
        Ok(client)
    }

    pub(super) fn give_back(&self, client: Client) {
        if !client.is_broken() {
            self.idle.lock().unwrap_or_else(|broken| broken.into_inner()).push(client);
        }
    }
}
