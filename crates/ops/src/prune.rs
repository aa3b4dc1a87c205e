//! Prune: doom what no snapshot needs, let go of the log that no base backup needs, bundle what is small of the rest, then
//! remove what was doomed long enough ago.

use crate::OpsError;
use crate::pitr::keep::{LogPlan, let_log_go, plan_log};
use hikae_model::Cx;
use hikae_repo::Repo;
use hikae_repo::prune as repo_prune;
use hikae_repo::prune::{BundleOptions, PruneReport, RemovalReport};
use serde::Serialize;

pub use crate::pitr::keep::KeepLog;
pub use hikae_repo::prune::{BundleTotals, PruneOptions, PrunePlan, PruneTotals};

/// What a prune would do.
#[derive(Clone, Debug, Serialize)]
pub struct Planned {
    /// What would be doomed.
    #[serde(flatten)]
    pub doomed: PrunePlan,
    /// What would go of archived log.
    pub log: LogPlan,
    /// What would be bundled of it.
    pub bundled: BundleTotals,
}

/// What a prune did.
#[derive(Clone, Debug, Serialize)]
pub struct Pruned {
    /// What is doomed now.
    pub doomed: PruneReport,
    /// What goes of archived log.
    pub log: LogPlan,
    /// The entry that says so; nothing if nothing goes.
    pub log_entry: Option<u64>,
    /// What was bundled of it.
    pub bundled: BundleTotals,
    /// What was removed, of what this prune and earlier ones had doomed.
    pub removed: RemovalReport,
}

/// Says what would be doomed, and writes nothing.
///
/// # Errors
/// Whatever cannot be read, and things that look wrong.
pub fn plan(repo: &Repo, options: &PruneOptions, keep: &KeepLog, cx: &Cx) -> Result<Planned, OpsError> {
    cx.progress().begin("planning", "prune", 0);
    let doomed = repo_prune::plan(repo, options, cx)?;
    let log = plan_log(repo, &*repo.follow()?, keep, cx.now(), cx)?;
    let bundled = repo_prune::plan_bundles(repo, &bundling(options), cx)?;
    Ok(Planned { doomed, log, bundled })
}

/// What is bundled leaves its single objects for as long as what is doomed stays.
fn bundling(options: &PruneOptions) -> BundleOptions {
    BundleOptions { soft: options.soft, ..BundleOptions::default() }
}

/// Dooms, bundles, then removes.
///
/// # Errors
/// As for [`plan`], and any failure of the store; what was removed until then was due.
pub fn prune(repo: &Repo, options: &PruneOptions, keep: &KeepLog, cx: &Cx) -> Result<Pruned, OpsError> {
    cx.progress().begin("pruning", "packs", 0);
    let doomed = repo_prune::prune(repo, options, cx)?;
    let (log, log_entry) = let_log_go(repo, options.soft, keep, cx)?;
    let bundled = repo_prune::bundle_log(repo, &bundling(options), cx)?;
    let removed = repo_prune::remove_doomed(repo, cx)?;
    Ok(Pruned { doomed, log, log_entry, bundled, removed })
}
