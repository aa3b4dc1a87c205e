//! The snapshot that a reading holds: what its contents share, and what became of each of them.

use crate::SourceError;
use crate::postgresql::catalog::{self, Relation};
use crate::postgresql::connection::Connection;
use crate::postgresql::differential::Horizon;
use crate::postgresql::preflight::{lock_statement, set_snapshot};
use crate::postgresql::programs::{PrivateDir, Programs};
use crate::postgresql::rows::RowSum;
use crate::postgresql::wire::{Client, WireError};
use crate::postgresql::{connect, failed, wire_failed};
use hikae_model::{ContentError, Cx, ErrorCode, HashKey, sabotage};
use std::sync::{Arc, Mutex, MutexGuard};

/// A session in a snapshot that others may join. It stays open until the end.
pub(in crate::postgresql) struct Holding {
    pub(in crate::postgresql) session: Client,
    pub(in crate::postgresql) moment: jiff::Timestamp,
    /// What the snapshot cannot show is no older than this.
    pub(in crate::postgresql) horizon: Horizon,
    session_settings: String,
    snapshot: String,
}

impl Holding {
    /// Enters the server and takes a snapshot.
    pub(in crate::postgresql) fn take(
        connection: &Connection,
        lock_timeout_ms: u64,
        cx: &Cx,
    ) -> Result<Self, SourceError> {
        let wire = |error: WireError| wire_failed(&format!("cannot read {}", connection.shown()), &error);
        let mut session = connect(connection, cx)?;
        let session_settings = catalog::session_settings(session.server_version_num(), lock_timeout_ms);
        session.execute(&session_settings).map_err(wire)?;
        let horizon = Horizon::ask(&mut session).map_err(wire)?;
        session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").map_err(wire)?;
        let snapshot = session.value("SELECT pg_export_snapshot()", &[]).map_err(wire)?.unwrap_or_default();
        let moment = session.value("SELECT to_json(now())#>>'{}'", &[]).map_err(wire)?.unwrap_or_default();
        let moment = moment.parse().map_err(|error| {
            let what = format!("the server's time `{moment}` is not understood: {error}");
            failed(ErrorCode::Failure, what, None)
        })?;
        Ok(Self { session, moment, horizon, session_settings, snapshot })
    }

    /// What is shared by those who join, and the session, which goes on holding the snapshot.
    pub(in crate::postgresql) fn share(
        self,
        connection: &Connection,
        encoding: &str,
        key: HashKey,
        cx: &Cx,
    ) -> (Client, Arc<Shared>) {
        let Self { session, session_settings, snapshot, .. } = self;
        let shared = Shared {
            connection: connection.clone(),
            encoding: encoding.to_owned(),
            server_major: session.server_version_num() / 10_000,
            snapshot,
            session_settings,
            key,
            cx: cx.clone(),
            idle: Mutex::default(),
            parts: Mutex::default(),
        };
        (session, Arc::new(shared))
    }
}

/// Locks tables that are read. False if one of them was rewritten since the snapshot: rows of before then cannot be seen
/// any more, and a truncated table would be read as an empty one.
pub(in crate::postgresql) fn lock(session: &mut Client, tables: &[&Relation]) -> Result<bool, WireError> {
    for batch in tables.chunks(LOCK_BATCH) {
        match session.execute(&lock_statement(batch)) {
            Err(error) if matches!(error.sqlstate(), Some("42P01" | "3F000")) => return Ok(false), // dropped meanwhile
            locked => locked?,
        }
    }
    // The query sees the catalog as it was in our snapshot, the function as it is now.
    let rewritten = session.value(
        "SELECT count(*) FROM pg_class WHERE oid = ANY ($1::oid[])
            AND pg_relation_filenode(oid) IS DISTINCT FROM relfilenode AND relfilenode <> 0",
        &[&catalog::oid_array(tables.iter().map(|table| &table.oid))],
    )?;
    Ok(rewritten.as_deref() == Some("0") || sabotage::on("truncated-is-empty"))
}

/// Ends the session that held the snapshot, and writes the manifest of what was read in it.
pub(in crate::postgresql) fn end(
    session: &mut Client,
    manifest: &impl serde::Serialize,
) -> Result<Vec<u8>, SourceError> {
    // If the session died, locks were let go and tables may have been rewritten while they were read.
    if !sabotage::on("dead-snapshot-unnoticed") {
        let ended = session.execute("COMMIT");
        ended.map_err(|error| wire_failed("the session that held the snapshot failed", &error))?;
    }
    serde_json::to_vec_pretty(manifest)
        .map_err(|error| failed(ErrorCode::Failure, format!("cannot write the manifest: {error}"), None))
}

/// How many tables one LOCK names.
const LOCK_BATCH: usize = 500;

/// What the contents of one reading share.
pub(in crate::postgresql) struct Shared {
    pub(in crate::postgresql) connection: Connection,
    pub(in crate::postgresql) encoding: String,
    pub(in crate::postgresql) server_major: u32,
    pub(super) snapshot: String,
    pub(super) session_settings: String,
    pub(in crate::postgresql) key: HashKey,
    pub(in crate::postgresql) cx: Cx,
    /// Workers that wait for the next table, in the snapshot.
    pub(super) idle: Mutex<Vec<Client>>,
    pub(super) parts: Mutex<Vec<Part>>,
}

/// PostgreSQL's own programs, which read along in the snapshot.
pub(super) struct Tools {
    pub(super) programs: Programs,
    /// The connection for them.
    pub(super) conninfo: String,
    /// Holds the password file while they run.
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

    /// The sums of `n_tables` tables, all of whose contents were read to their end.
    pub(in crate::postgresql) fn sums(&self, n_tables: usize) -> Result<Vec<RowSum>, SourceError> {
        let mut sums = vec![RowSum::new(self.key); n_tables];
        for part in self.lock_parts().iter() {
            let what = match &part.outcome {
                PartOutcome::Waiting if sabotage::on("unread-part-unnoticed") => continue,
                PartOutcome::Waiting => format!("{} was not read to its end", part.name),
                PartOutcome::Failed(what) => what.clone(),
                PartOutcome::Read(sum) => {
                    if let (Some(table), Some(sum)) = (part.table, sum) {
                        sums[table].add_sum(sum);
                    }
                    continue;
                }
            };
            return Err(failed(ErrorCode::Failure, what, Some("run the backup again".into())));
        }
        Ok(sums)
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
