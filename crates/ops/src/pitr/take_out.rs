//! One database, or some of its tables, out of a cluster as it was: the cluster is recovered beside, in a server of our own,
//! and what is wanted is read there and restored into a new database of the server that it is for. Nothing of what is there
//! is touched, and later data of all the other tables stays.
//!
//! ```text
//! plan -> may a database be made there? -> recover beside -> read as a source -> restore, compare -> the side server goes
//! ```

use super::plan::RecoveryPlan;
use super::recover::{Ready, RecoverOptions, laps, see_target};
use super::target::Then;
use crate::OpsError;
use crate::restore_cluster::manifest;
use crate::restore_database::{PostgresqlTarget, named_server};
use crate::surroundings::Surroundings;
use hikae_model::{Cx, ErrorCode, Outcome, SnapshotId, sabotage};
use hikae_repo::Repo;
use hikae_source::check::Check;
use hikae_source::postgresql::{self, Cluster, Manifest, PostgresqlSettings, PostgresqlSource};
use hikae_source::postgresql_cluster::{self, Place, Recovering};
use hikae_source::spooled::spool;
use hikae_source::{Source as _, Stored as _};
use jiff::Timestamp;
use serde::Serialize;
use std::sync::Arc;

/// Databases that every cluster has.
const USUAL: [&str; 3] = ["postgres", "template0", "template1"];

/// What is wanted, and where it goes.
#[derive(Clone, Default)]
pub struct Wanted {
    /// The database of the cluster. It need not be named if there is only one.
    pub database: Option<String>,
    /// Its tables whose rows are wanted, as SQL names, with their partitions and what their foreign keys name; all if none
    /// is named.
    pub tables: Vec<String>,
    /// The server and the new database.
    pub target: PostgresqlTarget,
}

/// What was taken out.
#[derive(Clone, Debug, Serialize)]
pub struct TakenOut {
    /// The source.
    pub source: String,
    /// What was asked for, in words.
    pub target: String,
    /// The base backup from which it began.
    pub snapshot: SnapshotId,
    /// The database of the cluster.
    pub database: String,
    /// How it ended: `Failed` if something that was compared does not hold.
    pub outcome: Outcome,
    /// Where it is now.
    pub place: String,
    /// Its tables, as `schema.table`, and how many rows they have.
    pub tables: Vec<(String, u64)>,
    /// What was compared with what was read.
    pub checks: Vec<Check>,
    /// The end of the last record that was replayed.
    pub reached: String,
    /// When the last transaction in it ended; none if there was none after the base backup began.
    pub reached_time: Option<Timestamp>,
    /// Segments that were replayed, besides those in the base backup.
    pub n_segments: usize,
    /// How long each phase took.
    pub phases: Vec<(String, f64)>,
    /// How long it took.
    pub seconds: f64,
    /// What was left out or done differently.
    pub notes: Vec<String>,
}

/// Which database is meant; and that one may be made where it goes. Nothing is written.
///
/// # Errors
/// [`OpsError`]: what [`take_out`] would be refused for before it begins.
pub fn check_wanted(
    repo: &Repo,
    plan: &RecoveryPlan,
    wanted: &Wanted,
    around: &Surroundings,
    cx: &Cx,
) -> Result<String, OpsError> {
    let of_source = OpsError::of_source(&plan.source);
    let into = into(wanted, around, &of_source)?;
    postgresql::look_at_server(&into, wanted.target.database.as_deref(), cx).map_err(&of_source)?;
    if let Some(database) = &wanted.database {
        return Ok(database.clone());
    }
    let all = manifest(repo, plan.snapshot)?.databases;
    let own: Vec<&String> = all.iter().filter(|name| !USUAL.contains(&name.as_str())).collect();
    match &own[..] {
        [] => Ok("postgres".to_owned()),
        [one] => Ok((*one).clone()),
        several => {
            let names: Vec<&str> = several.iter().map(|name| name.as_str()).collect();
            let what = format!("{} has several databases: {}", plan.source, names.join(", "));
            let advice = "say out of which with --from-database";
            Err(OpsError::refused(ErrorCode::Usage, what, Some(advice.into())))
        }
    }
}

fn into(
    wanted: &Wanted,
    around: &Surroundings,
    of_source: &dyn Fn(hikae_source::SourceError) -> OpsError,
) -> Result<postgresql::Connection, OpsError> {
    let PostgresqlTarget { connection, password, .. } = &wanted.target;
    named_server(connection, password.clone(), &around.for_postgresql(), of_source)
}

/// Recovers the cluster beside as `plan` says, and restores what is wanted of it into a new database. `options` name a
/// directory for the side server that is not there; nothing is left of it.
///
/// # Errors
/// [`OpsError`]: nothing was restored, and the new database is gone again.
pub fn take_out(
    repo: &Arc<Repo>,
    plan: &RecoveryPlan,
    wanted: &Wanted,
    options: &RecoverOptions,
    around: &Surroundings,
    cx: &Cx,
) -> Result<TakenOut, OpsError> {
    let began = cx.elapsed();
    let of_source = OpsError::of_source(&plan.source);
    let database = check_wanted(repo, plan, wanted, around, cx)?;
    let Ready { vacant, spaces, about } = Ready::new(repo, plan, options, around, cx)?;
    let is_right = |place: &Place| see_target(&plan.aim, place);
    let settings = plan.aim.settings(Then::Promote);
    let run = |vacant, recovering: &Recovering<'_>| {
        postgresql_cluster::recover_to_read(vacant, recovering, &is_right, cx)
    };
    let ((side, reached), n_segments) = about.while_fed(repo, vacant, &spaces, &settings, run, cx)?;
    let mut phases: Vec<(String, f64)> = about.phases.iter().cloned().chain(laps(&reached.timings)).collect();
    let mut lap = |phase: &str, since: &mut std::time::Duration| {
        let now = cx.elapsed();
        phases.push((phase.to_owned(), now.saturating_sub(*since).as_secs_f64()));
        *since = now;
    };
    let mut since = cx.elapsed();

    let source = source(&side, &database, wanted, around).map_err(&of_source)?;
    cx.progress().begin("reading", &database, 0);
    let reading = source.begin(repo.hash_key(), cx).map_err(&of_source)?;
    let stored = spool(reading, &side.directory().join("taken"), cx).map_err(&of_source)?;
    lap("read what is wanted", &mut since);
    let read = Manifest::parse(stored.manifest().unwrap_or_default()).map_err(&of_source)?;
    cx.progress().begin("restoring", &database, 0);
    let into = into(wanted, around, &of_source)?;
    let target = wanted.target.options(repo);
    let restored = postgresql::restore(&stored, &into, &target, &around.for_postgresql(), cx);
    let restored = restored.map_err(&of_source)?;
    lap("restore and compare", &mut since);
    // What was read lies in its directory.
    drop(side);
    drop(spaces);
    let passed = !restored.checks.is_empty() && restored.checks.iter().all(|check| check.passed);
    let tables = read.tables.iter().map(|table| (format!("{}.{}", table.schema, table.name), table.rows));
    Ok(TakenOut {
        source: plan.source.clone(),
        target: plan.target.clone(),
        snapshot: plan.snapshot,
        database,
        outcome: if passed { Outcome::Complete } else { Outcome::Failed },
        place: into.to_database(&restored.database).shown(),
        tables: tables.collect(),
        checks: restored.checks,
        reached: reached.place.lsn.to_string(),
        reached_time: reached.place.time,
        n_segments,
        phases,
        seconds: (cx.elapsed() - began).as_secs_f64(),
        notes: restored.notes,
    })
}

/// What is wanted, as a source in the side server.
fn source(
    side: &Cluster,
    database: &str,
    wanted: &Wanted,
    around: &Surroundings,
) -> Result<PostgresqlSource, hikae_source::SourceError> {
    let tables = if sabotage::on("tables-ignored") { Vec::new() } else { wanted.tables.clone() };
    let settings = PostgresqlSettings {
        tables,
        // It is our own server, and nobody else is in it.
        allow_superuser: true,
        program_directory: Some(side.program_directory().to_owned()),
        ..PostgresqlSettings::of(side.connection().to_database(database).conninfo(None))
    };
    PostgresqlSource::new(settings, None, around.for_postgresql())
}
