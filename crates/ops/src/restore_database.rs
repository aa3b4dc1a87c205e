//! Restore of databases: each comes back beside what there is, is compared with its manifest, and takes a live
//! name only on request.
//!
//! What stood there is kept aside (SQLite) or under another name (PostgreSQL), so a restore can be taken back.

use crate::OpsError;
use crate::stored::StoredSnapshot;
use crate::surroundings::Surroundings;
use hikae_model::{Cx, ErrorCode, Outcome, SnapshotId};
use hikae_repo::Repo;
use hikae_source::check::Check;
use hikae_source::postgresql::{Connection, Manifest, Owners, Swapped, swap, with_password};
use hikae_source::{Stored as _, postgresql, sqlite};
use serde::Serialize;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// What a restore of a database did.
#[derive(Clone, Debug, Serialize)]
pub struct DatabaseRestored {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// How it ended: `Failed` if something that was compared does not hold.
    pub outcome: Outcome,
    /// Where the database is now: a file, or a name on a server.
    pub place: String,
    /// What was compared with the manifest.
    pub checks: Vec<Check>,
    /// Where the database went that stood there.
    pub kept_aside: Option<String>,
    /// What was left out or done differently.
    pub notes: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

/// Puts a SQLite database back: into `target` if that is a directory, else under that name. With `replace`, one
/// that stands there is moved aside.
///
/// # Errors
/// [`OpsError`], and then whatever stood there still stands there.
pub fn restore_sqlite(
    repo: &Repo,
    snapshot: SnapshotId,
    target: &Path,
    replace: bool,
    cx: &Cx,
) -> Result<DatabaseRestored, OpsError> {
    let began = cx.elapsed();
    let stored = StoredSnapshot::open(repo, snapshot)?;
    let record = stored.record();
    cx.progress().begin("restoring", &record.source, record.bytes);
    let options = sqlite::RestoreOptions { replace };
    let restored = sqlite::restore(&stored, target, repo.hash_key(), options, cx);
    let restored = restored.map_err(OpsError::of_source(&record.source))?;
    Ok(DatabaseRestored {
        snapshot,
        outcome: if restored.problems.is_empty() { Outcome::Complete } else { Outcome::WithProblems },
        place: restored.path.display().to_string(),
        checks: restored.checks,
        kept_aside: restored.kept_aside.map(|path| path.display().to_string()),
        notes: restored.problems.iter().map(ToString::to_string).collect(),
        seconds: (cx.elapsed() - began).as_secs_f64(),
    })
}

/// Where [`restore_sqlite`] would put a database. Makes nothing.
///
/// # Errors
/// [`OpsError`]: what the restore would be refused for.
pub fn plan_sqlite(
    repo: &Repo,
    snapshot: SnapshotId,
    target: &Path,
    replace: bool,
) -> Result<PathBuf, OpsError> {
    let stored = StoredSnapshot::open(repo, snapshot)?;
    let looked = sqlite::look(&stored, target, sqlite::RestoreOptions { replace });
    looked.map_err(OpsError::of_source(&stored.record().source))
}

/// Where a PostgreSQL database is restored to, and how.
#[derive(Clone, Debug, Default)]
pub struct PostgresqlTarget {
    /// The server, as `host=… user=…` or `postgresql://…` without a password; its database is only entered to make
    /// the new one.
    pub connection: String,
    /// Name of the new database; by default one that says what it is.
    pub database: Option<String>,
    /// Give it the name of the database that was backed up, once everything held; that one is kept under another.
    pub swap: bool,
    /// Everything belongs to the role that restores, and privileges are left out.
    pub no_owners: bool,
    /// Where `pg_restore` is, if not in one of the usual places.
    pub program_directory: Option<PathBuf>,
}

/// What a restore of a PostgreSQL snapshot would do: made without writing, shown, then obeyed.
#[derive(Clone, Debug, Serialize)]
pub struct PostgresqlPlan {
    /// Name of the database that was backed up.
    pub live: String,
    /// What to know before.
    pub notes: Vec<String>,
}

/// Looks whether a snapshot can be restored as `target` says.
///
/// # Errors
/// [`OpsError`]: what the restore would be refused for.
pub fn plan_postgresql(
    repo: &Repo,
    snapshot: SnapshotId,
    target: &PostgresqlTarget,
) -> Result<PostgresqlPlan, OpsError> {
    plan(&StoredSnapshot::open(repo, snapshot)?, target)
}

fn plan(stored: &StoredSnapshot<'_>, target: &PostgresqlTarget) -> Result<PostgresqlPlan, OpsError> {
    let manifest = manifest(stored)?;
    let selection = manifest.selection_note();
    if let Some(note) = selection.as_ref().filter(|_| target.swap) {
        // The tables that were not selected would be there and empty, and every comparison would hold.
        let what = format!("{} cannot take the place of the live database: it is {note}", manifest.database);
        let advice =
            "restore it without --swap into a database beside the live one, and copy the tables over";
        return Err(OpsError::refused(ErrorCode::Forbidden, what, Some(advice.into())));
    }
    Ok(PostgresqlPlan { live: manifest.database, notes: selection.into_iter().collect() })
}

fn manifest(stored: &StoredSnapshot<'_>) -> Result<Manifest, OpsError> {
    let source_name = &stored.record().source;
    let missing = || {
        let what = format!("the snapshot of {source_name} has no manifest, so nothing could be compared");
        OpsError::refused(ErrorCode::VerificationFailed, what, None)
    };
    Manifest::parse(stored.manifest().ok_or_else(missing)?).map_err(OpsError::of_source(source_name))
}

/// Restores a PostgreSQL database into a new one of a server, and swaps it for the live one if that was asked for
/// and everything held.
///
/// # Errors
/// [`OpsError`]: nothing was restored and the new database is gone again, or, if swapping failed, it stands
/// beside the live one, which is as it was.
pub fn restore_postgresql(
    repo: &Repo,
    snapshot: SnapshotId,
    target: &PostgresqlTarget,
    around: &Surroundings,
    cx: &Cx,
) -> Result<DatabaseRestored, OpsError> {
    let began = cx.elapsed();
    let stored = StoredSnapshot::open(repo, snapshot)?;
    let record = stored.record();
    let of_source = OpsError::of_source(&record.source);
    let PostgresqlPlan { live, .. } = plan(&stored, target)?;
    let environment = around.for_postgresql();
    let into = Connection::parse(&target.connection, &environment.user).map_err(&of_source)?;
    let into = with_password(into, None, &environment).map_err(&of_source)?;
    let maintenance = match into.database == live {
        // A database can be neither copied from nor renamed while we are in it.
        true => into.to_database("postgres"),
        false => into.clone(),
    };
    cx.progress().begin("restoring", &record.source, record.bytes);
    let options = postgresql::RestoreOptions {
        key: repo.hash_key(),
        database: target.database.clone(),
        owners: if target.no_owners { Owners::None } else { Owners::Keep },
        jobs: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        program_directory: target.program_directory.clone(),
    };
    let restored =
        postgresql::restore(&stored, &maintenance, &options, &environment, cx).map_err(&of_source)?;
    let passed = !restored.checks.is_empty() && restored.checks.iter().all(|check| check.passed);
    let mut notes = restored.notes;
    let mut place = maintenance.to_database(&restored.database).shown();
    let mut kept_aside = None;
    if target.swap && passed {
        let Swapped { live, kept } =
            swap(&maintenance, &live, &restored.database, true, cx).map_err(&of_source)?;
        place = maintenance.to_database(&live).shown();
        kept_aside = kept;
    } else if target.swap {
        notes.push("it did not get the live name, because not everything held".to_owned());
    }
    Ok(DatabaseRestored {
        snapshot,
        outcome: if passed { Outcome::Complete } else { Outcome::Failed },
        place,
        checks: restored.checks,
        kept_aside,
        notes,
        seconds: (cx.elapsed() - began).as_secs_f64(),
    })
}
