//! One reading: a session that holds the snapshot, workers that read tables in it, and programs that dump the rest.
//!
//! ```text
//! session   BEGIN, export the snapshot, look, lock; stays open until the end
//! workers   a connection each, in the same snapshot; used again for the next table
//! programs  pg_dump with --snapshot, pg_dumpall; started when their content is first read
//! ```
//!
//! Whatever goes wrong with any content is remembered here, so that [`finish`](Reading::finish) fails even if
//! nobody looked. An export is good only if all of it is.

mod draft;
mod files;
mod held;
mod program;
mod table;

pub(super) use files::{Files, attributes};
pub(super) use held::{Holding, Shared, end, lock};
pub(super) use program::TRAILER;

use super::catalog::{self, Relation};
use super::connection::Connection;
use super::manifest::{LargeObjects, Manifest};
use super::preflight::{self, Look};
use super::programs::{Environment, PrivateDir};
use super::rows::RowSum;
use super::settings::PostgresqlSettings;
use super::wire::{Client, WireError};
use super::{failed, wire_failed};
use crate::{Finished, Item, Reading, SourceError};
use draft::draft_manifest;
use held::Tools;
use hikae_model::{Cx, ErrorCode, HashKey};
use program::{Whole, globals_arguments, large_objects_arguments, schema_arguments};
use std::collections::VecDeque;
use std::sync::Arc;

/// How often a reading begins anew because a table was rewritten under its snapshot.
const MAX_ATTEMPTS: u32 = 3;

/// Starts a reading.
pub(super) fn begin(
    connection: &Connection,
    settings: &PostgresqlSettings,
    environment: &Environment,
    key: HashKey,
    cx: &Cx,
) -> Result<Box<dyn Reading>, SourceError> {
    for _ in 0..MAX_ATTEMPTS {
        cx.check()?;
        if let Some(reading) = try_begin(connection, settings, environment, key, cx)? {
            return Ok(Box::new(reading));
        }
    }
    Err(failed(
        ErrorCode::Busy,
        format!("tables of {} are being rewritten or truncated all the time", connection.shown()),
        Some("run again when the migration is done".into()),
    ))
}

/// `None` if a table was rewritten between the snapshot and our lock.
fn try_begin(
    connection: &Connection,
    settings: &PostgresqlSettings,
    environment: &Environment,
    key: HashKey,
    cx: &Cx,
) -> Result<Option<PostgresqlReading>, SourceError> {
    let wire = |error: WireError| wire_failed(&format!("cannot read {}", connection.shown()), &error);
    let mut holding = Holding::take(connection, settings.lock_timeout_ms(), cx)?;
    let look = preflight::look(&mut holding.session, connection, settings, environment)?;
    look.refuse()?;
    let is_read = |relation: &&Relation| look.selection.rows.contains(&relation.oid);
    let tables: Vec<&Relation> = look.relations.iter().filter(is_read).collect();
    if !lock(&mut holding.session, &tables).map_err(wire)? {
        return Ok(None);
    }

    let scratch = PrivateDir::create(&environment.scratch, cx)?;
    let passfile = scratch.write_pgpass(connection)?;
    let Some(programs) = look.pg_dump.clone() else {
        return Err(failed(ErrorCode::Usage, "pg_dump is not installed here".into(), None));
    };
    let conninfo = connection.conninfo(passfile.as_deref());
    let tools = Arc::new(Tools { programs, conninfo, _scratch: scratch });
    let (moment, horizon) = (holding.moment, holding.horizon.moment());
    let (mut session, shared) = holding.share(connection, &look.database.encoding, key, cx);
    let mut manifest =
        draft_manifest(&mut session, &look, settings, (&shared, &tools), moment).map_err(wire)?;
    manifest.horizon = horizon;
    PostgresqlReading::plan(session, (shared, tools), &look, settings, manifest).map(Some)
}

struct PostgresqlReading {
    session: Client,
    shared: Arc<Shared>,
    items: VecDeque<Item>,
    lanes: usize,
    manifest: Manifest,
    large_objects: bool,
}

impl PostgresqlReading {
    fn plan(
        session: Client,
        (shared, tools): (Arc<Shared>, Arc<Tools>),
        look: &Look,
        settings: &PostgresqlSettings,
        mut manifest: Manifest,
    ) -> Result<Self, SourceError> {
        let mut files = Files { shared: &shared, moment: manifest.moment, items: Vec::new() };
        files.add_json("database.json", &look.database)?;
        files.add_json("sequences.json", &manifest.sequences)?;
        files.add_program(
            &tools,
            "globals.sql",
            "pg_dumpall",
            globals_arguments(&shared, &tools, look),
            Whole::Trailer,
        )?;
        files.add_program(
            &tools,
            "schema.dump",
            "pg_dump",
            schema_arguments(&shared, &tools, look, settings),
            Whole::Archive,
        )?;
        let large_objects = look.has_large_objects && !settings.is_selection();
        if large_objects {
            files.add_program(
                &tools,
                "large-objects.dump",
                "pg_dump",
                large_objects_arguments(&shared, &tools, settings),
                Whole::Archive,
            )?;
        }
        files.add_directory("tables")?;
        let unreadable = |relation: &Relation| look.is_standby && relation.unlogged;
        for relation in &look.relations {
            if look.selection.rows.contains(&relation.oid) && !unreadable(relation) {
                let record = files.add_table(relation, settings, manifest.tables.len())?;
                manifest.tables.push(record);
            }
        }
        let lanes = settings.jobs.get();
        let items = files.into_items();
        Ok(Self { session, shared, items, lanes, manifest, large_objects })
    }

    /// Large objects are hashed once more from the same snapshot: pg_dump says nothing of what it wrote.
    fn hash_large_objects(&mut self) -> Result<LargeObjects, WireError> {
        let mut sum = RowSum::new(self.shared.key);
        self.session.sum_rows(&format!("COPY ({}) TO STDOUT", catalog::LARGE_OBJECTS), &mut sum)?;
        let count = self.session.value("SELECT count(*) FROM pg_largeobject_metadata", &[])?;
        let count = count.and_then(|count| count.parse().ok()).unwrap_or_default();
        Ok(LargeObjects { count, hash: sum.hex() })
    }
}

impl Reading for PostgresqlReading {
    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        self.shared.cx.check()?;
        Ok(self.items.pop_front())
    }

    fn lanes(&self) -> usize {
        self.lanes
    }

    fn finish(mut self: Box<Self>) -> Result<Finished, SourceError> {
        let sums = self.shared.sums(self.manifest.tables.len())?;
        for (table, sum) in self.manifest.tables.iter_mut().zip(&sums) {
            (table.rows, table.hash) = (sum.rows(), sum.hex());
        }
        let wire = |error: WireError| wire_failed("the session that held the snapshot failed", &error);
        if self.large_objects {
            self.manifest.large_objects = Some(self.hash_large_objects().map_err(wire)?);
        }
        let manifest = end(&mut self.session, &self.manifest)?;
        Ok(Finished {
            moment: self.manifest.moment,
            problems: Vec::new(),
            notes: Vec::new(),
            manifest: Some(manifest),
        })
    }
}
