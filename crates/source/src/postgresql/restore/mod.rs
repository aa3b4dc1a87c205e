//! A restore: always into a new database, never into one that is there.
//!
//! ```text
//! roles, extensions   what must exist first; a missing one is said by its name
//! CREATE DATABASE     from template0, with the recorded encoding and locale
//! definitions         pg_restore --section=pre-data
//! rows                COPY, several tables at once; then sequences and large objects
//! indexes, keys       pg_restore --section=post-data
//! the database        settings, privileges, comment, statistics
//! ```
//!
//! If any step fails, the new database is dropped again. What was restored is then compared with the manifest by
//! [`verify`](super::verify); giving it the live one's name is [`swap`](super::swap()).

mod admit;
mod adorn;
mod create;
mod files;
mod fill;

pub(super) use admit::{ANOTHER_ROLE, is_there};
pub use admit::{look, look_at_server};
pub(super) use files::Files;

use super::catalog::{Database, quote};
use super::connect;
use super::connection::{Connection, shown_name};
use super::manifest::Manifest;
use super::programs::{Environment, PrivateDir, SystemUser};
use super::verify::verify;
use crate::check::Check;
use crate::{SourceError, Stored};
use adorn::adorn;
use create::{
    choose_programs, create_statement, creation_failed, give_to_owner, has_tablespaces, make_roles,
    see_extensions_are_there,
};
use files::{incomplete, see_files_are_there};
use fill::Work;
use hikae_model::{Cx, HashKey, sabotage};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How to restore.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// The key that hashed the rows in the manifest.
    pub key: HashKey,
    /// Name of the new database; by default `db_restore_` and something random.
    pub database: Option<String>,
    /// Whom the objects belong to.
    pub owners: Owners,
    /// How many tables are written, and indexes made, at once.
    pub jobs: NonZeroUsize,
    /// Where `pg_restore` is, if not in one of the usual places.
    pub program_directory: Option<PathBuf>,
}

/// Whom restored objects belong to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Owners {
    /// To their owners, with their privileges. Roles that are missing are made, without login.
    #[default]
    Keep,
    /// To the role that restores; privileges are left out.
    None,
}

/// What a restore brought.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The new database.
    pub database: String,
    /// Everything that was compared with the manifest.
    pub checks: Vec<Check>,
    /// What was left out or done differently.
    pub notes: Vec<String>,
    /// How long each phase took.
    pub timings: Vec<PhaseTime>,
}

/// How long one phase took.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PhaseTime {
    /// As `rows`.
    pub phase: String,
    /// In milliseconds.
    pub milliseconds: u64,
}

/// Restores what `stored` holds into a new database of the server at `into`, and compares it with its manifest.
///
/// A check that failed is not an error: the new database stays, and the caller decides.
///
/// # Errors
/// [`SourceError`]: nothing was restored, and the new database is gone again.
pub fn restore(
    stored: &dyn Stored,
    into: &Connection,
    options: &RestoreOptions,
    environment: &Environment,
    cx: &Cx,
) -> Result<Restored, SourceError> {
    let scratch = PrivateDir::create(&environment.scratch, cx)?;
    let conninfo_passfile = scratch.write_pgpass(into)?;
    let place = Place { into, scratch: scratch.path(), passfile: conninfo_passfile.as_deref(), user: None };
    restore_at(stored, &place, options, environment, cx)
}

/// Where a restore goes and what it may use there.
pub(super) struct Place<'a> {
    /// A database of the server, to make the new one from.
    pub(super) into: &'a Connection,
    /// A directory of our own that programs can reach.
    pub(super) scratch: &'a Path,
    pub(super) passfile: Option<&'a Path>,
    /// As whom programs run, which read what we restore.
    pub(super) user: Option<&'a SystemUser>,
}

/// Measures phases.
pub(crate) struct Stopwatch<'a> {
    cx: &'a Cx,
    since: Duration,
    pub(crate) times: Vec<PhaseTime>,
}

impl<'a> Stopwatch<'a> {
    pub(crate) fn new(cx: &'a Cx) -> Self {
        Self { cx, since: cx.elapsed(), times: Vec::new() }
    }

    /// Ends a phase and begins the next.
    pub(crate) fn lap(&mut self, phase: &str) {
        let now = self.cx.elapsed();
        let spent = now.saturating_sub(self.since);
        self.since = now;
        let milliseconds = u64::try_from(spent.as_millis()).unwrap_or(u64::MAX);
        self.times.push(PhaseTime { phase: phase.to_owned(), milliseconds });
    }
}

/// Restores at `place`.
pub(super) fn restore_at(
    stored: &dyn Stored,
    place: &Place<'_>,
    options: &RestoreOptions,
    environment: &Environment,
    cx: &Cx,
) -> Result<Restored, SourceError> {
    let manifest = stored.manifest().ok_or_else(|| incomplete("it has no manifest"))?;
    let manifest = Manifest::parse(manifest)?;
    let files = Files::of(stored);
    let database: Database = files.json("database.json")?;
    see_files_are_there(&files, &manifest)?;
    let mut maintenance = connect(place.into, cx)?;
    let programs = choose_programs(&maintenance, &manifest, options, environment)?;
    let name = match &options.database {
        Some(name) => name.clone(),
        None => format!("db_restore_{}", cx.random::<4>().map(|byte| format!("{byte:02x}")).concat()),
    };
    let mut notes: Vec<String> = manifest.selection_note().into_iter().collect();
    see_extensions_are_there(&mut maintenance, &database)?;
    make_roles(&mut maintenance, &database, options.owners, &mut notes)?;

    let in_tablespaces = has_tablespaces(&mut maintenance, &database, &mut notes)?;
    for subscription in &database.subscriptions {
        notes.push(format!("subscription {} is not made", shown_name(subscription)));
    }

    let mut watch = Stopwatch::new(cx);
    let version = maintenance.server_version_num();
    if sabotage::on("database-replaced") {
        let _ = maintenance.execute(&format!("DROP DATABASE IF EXISTS {}", quote(&name)));
    }
    let created = maintenance.execute(&create_statement(&name, &database, version, in_tablespaces));
    created.map_err(|error| creation_failed(&name, &database, &error))?;
    watch.lap("create");
    let work = Work {
        files: &files,
        manifest: &manifest,
        database: &database,
        target: place.into.to_database(&name),
        place,
        programs: &programs,
        in_tablespaces,
        options,
        cx,
    };
    let given = match options.owners {
        Owners::Keep => give_to_owner(&mut maintenance, &name, &database),
        Owners::None => Ok(()),
    };
    let filled = given.and_then(|()| work.fill(&mut watch)).and_then(|more| {
        notes.extend(more);
        adorn(&mut maintenance, &name, &database, options.owners, &mut notes)?;
        let checks =
            verify(&work.target, &manifest, &database, options.key, options.owners, options.jobs, cx)?;
        watch.lap("verify");
        Ok(checks)
    });
    match filled {
        Ok(checks) => Ok(Restored { database: name, checks, notes, timings: watch.times }),
        Err(error) if sabotage::on("failed-database-stays") => Err(error),
        Err(error) => {
            // Ours since a moment ago, and nobody else's. What matters is the first error.
            let _ = maintenance.execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote(&name)));
            Err(error)
        }
    }
}
