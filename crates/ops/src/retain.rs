//! What follows a good backup of a job that has a retention: what the rule does not keep is forgotten, and space is
//! freed when that is due.
//!
//! - Only sources whose snapshot of this very run is complete: a partial run never makes older good ones go.
//! - Only what `forget` and `prune` would do, with all that they refuse. A rule that would take much at once stops, and
//!   says so; the backup stands.
//! - Nothing of this happens unless the configuration says so.

use crate::OpsError;
use crate::config::{Config, JobConfig};
use crate::forget::{ForgetOptions, ForgetPlan, Request};
use crate::prune::{KeepLog, PruneOptions, Pruned, prune};
use crate::report::BackupReport;
use hikae_model::{Cx, Outcome, sabotage};
use hikae_repo::log::Change;
use hikae_repo::{Repo, RepoError};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use std::sync::Arc;

/// What the retention of a job did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Retained {
    /// What was forgotten and what stays, for each source that was backed up whole.
    pub forgotten: Vec<ForgetPlan>,
    /// Sources of which nothing was forgotten, because this run did not get all of them.
    pub left_alone: Vec<String>,
    /// The prune, if one was due.
    pub pruned: Option<Pruned>,
}

/// Obeys the retention of a job after the run that `report` tells of; nothing if the job has none. `repository` is
/// the name of the repository in the configuration.
///
/// # Errors
/// Whatever keeps a forget or a prune from being done. The backup is not touched by it.
pub fn retain(
    repo: &Arc<Repo>,
    (config, job, repository): (&Config, &JobConfig, &str),
    report: &BackupReport,
    zone: &TimeZone,
    cx: &Cx,
) -> Result<Option<Retained>, OpsError> {
    if job.retention.is_none() || sabotage::on("retention-unheeded") {
        return Ok(None);
    }
    let requests = Request::of_config(config, Some(repository), zone)?;
    let mut retained = Retained::default();
    for snapshot in &report.snapshots {
        let Some(request) = requests.get(snapshot.source.as_str()) else { continue };
        if snapshot.outcome != Outcome::Complete && !sabotage::on("partial-run-forgets") {
            retained.left_alone.push(snapshot.source.clone());
            continue;
        }
        cx.progress().begin("forgetting old snapshots of", &snapshot.source, 0);
        retained.forgotten.push(request.carry_out(repo, ForgetOptions::default(), cx)?.plan);
    }
    let every = config.repositories.get(repository).and_then(|repository| repository.prune_every);
    if let Some(every) = every
        && !retained.forgotten.is_empty()
        && is_prune_due(repo, every, cx.now())?
    {
        retained.pruned =
            Some(prune(repo, &PruneOptions::default(), &KeepLog::of_config(config, repository), cx)?);
    }
    Ok(Some(retained))
}

/// True if the log is longer than `every` and its entries of that time hold no prune.
fn is_prune_due(repo: &Repo, every: SignedDuration, now: Timestamp) -> Result<bool, RepoError> {
    for n in (1..=repo.follow()?.n).rev() {
        let Some((entry, _, _)) = repo.read_entry(n)? else { return Ok(false) };
        match entry.change {
            _ if now.duration_since(entry.at) >= every || sabotage::on("prune-always-due") => {
                return Ok(true);
            }
            Change::Prune(_) => return Ok(false),
            _ => {}
        }
    }
    Ok(false)
}
