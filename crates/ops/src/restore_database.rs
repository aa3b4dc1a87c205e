//! Restore of databases: each comes back beside what there is, is compared with its manifest, and takes a live
//! name only on request.
//!
//! What stood there is kept aside (SQLite) or under another name (PostgreSQL), so a restore can be taken back.

use crate::OpsError;
use crate::forward::{Shows, with_database};
use crate::stored::StoredSnapshot;
use crate::surroundings::Surroundings;
use hikae_model::{Cx, ErrorCode, Outcome, SnapshotId};
use hikae_repo::Repo;
use hikae_source::check::Check;
use hikae_source::postgresql::{Connection, Manifest, Owners, Secret, Swapped, swap, with_password};
use hikae_source::{SourceError, postgresql, sqlite};
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

/// Where a PostgreSQL database is restored to, and how. It holds a password, so it cannot be printed.
#[derive(Clone, Default)]
pub struct PostgresqlTarget {
    /// The server, as `host=… user=…` or `postgresql://…` without a password; its database is only entered to make
    /// the new one.
    pub connection: String,
    /// Its password; by default that of the usual password files.
    pub password: Option<Secret>,
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
#[derive(Clone, Serialize)]
pub struct PostgresqlPlan {
    /// Name of the database that was backed up.
    pub live: String,
    /// What to know before.
    pub notes: Vec<String>,
    /// The database from which the new one is made.
    #[serde(skip)]
    maintenance: Connection,
}

/// Looks whether a snapshot can be restored as `target` says: into that server, by that role.
///
/// # Errors
/// [`OpsError`]: what the restore would be refused for.
pub fn plan_postgresql(
    repo: &Repo,
    snapshot: SnapshotId,
    target: &PostgresqlTarget,
    around: &Surroundings,
    cx: &Cx,
) -> Result<PostgresqlPlan, OpsError> {
    with_database(repo, snapshot, |shows| plan_shown(repo, shows, target, around, cx))
}

fn plan_shown(
    repo: &Repo,
    shows: &Shows<'_>,
    target: &PostgresqlTarget,
    around: &Surroundings,
    cx: &Cx,
) -> Result<PostgresqlPlan, OpsError> {
    let manifest = manifest(shows)?;
    if let Some(dump) = shows.dump.filter(|_| target.swap) {
        let what = format!(
            "{} cannot take the place of the live database: all but the tables that were brought forward is of {dump}",
            manifest.database
        );
        let advice =
            "restore it without --swap into a database beside the live one, and copy the tables over";
        return Err(OpsError::refused(ErrorCode::Forbidden, what, Some(advice.into())));
    }
    let selection = manifest.selection_note();
    if let Some(note) = selection.as_ref().filter(|_| target.swap) {
        // The tables that were not selected would be there and empty, and every comparison would hold.
        let what = format!("{} cannot take the place of the live database: it is {note}", manifest.database);
        let advice =
            "restore it without --swap into a database beside the live one, and copy the tables over";
        return Err(OpsError::refused(ErrorCode::Forbidden, what, Some(advice.into())));
    }
    let of_source = OpsError::of_source(&shows.record.source);
    let environment = around.for_postgresql();
    let password = target.password.clone();
    let connection = named_server(&target.connection, password, &environment, &of_source)?;
    let maintenance = match connection.database == manifest.database {
        // A database can be neither copied from nor renamed while we are in it.
        true => connection.to_database("postgres"),
        false => connection,
    };
    let options = target.options(repo);
    let live = target.swap.then_some(manifest.database.as_str());
    postgresql::look(shows.stored, &maintenance, &options, live, &environment, cx).map_err(&of_source)?;
    let notes = shows.notes.iter().cloned().chain(selection).collect();
    Ok(PostgresqlPlan { live: manifest.database, notes, maintenance })
}

/// The server that a command line names, with the password of the usual files unless one is given.
pub(crate) fn named_server(
    text: &str,
    password: Option<Secret>,
    environment: &postgresql::Environment,
    of_source: &dyn Fn(SourceError) -> OpsError,
) -> Result<Connection, OpsError> {
    let connection = Connection::parse(text, &environment.user).map_err(of_source)?;
    if connection.password.is_some() {
        // Others see it in the list of processes.
        let what = "the connection holds a password";
        let advice = "put that into ~/.pgpass or a file of mode 0600 that `passfile` names";
        return Err(OpsError::refused(ErrorCode::Usage, what, Some(advice.into())));
    }
    with_password(connection, password, environment).map_err(of_source)
}

impl PostgresqlTarget {
    pub(crate) fn options(&self, repo: &Repo) -> postgresql::RestoreOptions {
        postgresql::RestoreOptions {
            key: repo.hash_key(),
            database: self.database.clone(),
            owners: if self.no_owners { Owners::None } else { Owners::Keep },
            jobs: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            program_directory: self.program_directory.clone(),
        }
    }
}

fn manifest(shows: &Shows<'_>) -> Result<Manifest, OpsError> {
    let source_name = &shows.record.source;
    let missing = || {
        let what = format!("the snapshot of {source_name} has no manifest, so nothing could be compared");
        OpsError::refused(ErrorCode::VerificationFailed, what, None)
    };
    Manifest::parse(shows.stored.manifest().ok_or_else(missing)?).map_err(OpsError::of_source(source_name))
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
    with_database(repo, snapshot, |shows| restore_shown((repo, snapshot), shows, target, around, cx))
}

fn restore_shown(
    (repo, snapshot): (&Repo, SnapshotId),
    shows: &Shows<'_>,
    target: &PostgresqlTarget,
    around: &Surroundings,
    cx: &Cx,
) -> Result<DatabaseRestored, OpsError> {
    let began = cx.elapsed();
    let record = shows.record;
    let of_source = OpsError::of_source(&record.source);
    let PostgresqlPlan { live, maintenance, .. } = plan_shown(repo, shows, target, around, cx)?;
    let environment = around.for_postgresql();
    cx.progress().begin("restoring", &record.source, record.bytes);
    let restored = postgresql::restore(shows.stored, &maintenance, &target.options(repo), &environment, cx);
    let restored = restored.map_err(&of_source)?;
    let passed = !restored.checks.is_empty() && restored.checks.iter().all(|check| check.passed);
    let mut notes = shows.notes.clone();
    notes.extend(restored.notes);
    let mut place = maintenance.to_database(&restored.database).shown();
    let mut kept_aside = None;
    if target.swap && passed {
        let swapped = swap(&maintenance, &live, &restored.database, true, cx).map_err(&of_source)?;
        notes.extend(swapped.notes());
        let Swapped { live, kept } = swapped;
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
