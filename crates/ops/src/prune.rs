//! Prune: doom what no snapshot needs, then remove what was doomed long enough ago.

use crate::OpsError;
use hikae_model::Cx;
use hikae_repo::Repo;
use hikae_repo::prune as repo_prune;
use hikae_repo::prune::{PruneReport, RemovalReport};
use serde::Serialize;

pub use hikae_repo::prune::{PruneOptions, PrunePlan, PruneTotals};

/// What a prune did.
#[derive(Clone, Debug, Serialize)]
pub struct Pruned {
    /// What is doomed now.
    pub doomed: PruneReport,
    /// What was removed, of what this prune and earlier ones had doomed.
    pub removed: RemovalReport,
}

/// Says what would be doomed, and writes nothing.
///
/// # Errors
/// Whatever cannot be read, and things that look wrong.
pub fn plan(repo: &Repo, options: &PruneOptions, cx: &Cx) -> Result<PrunePlan, OpsError> {
    cx.progress().begin("planning", "prune", 0);
    Ok(repo_prune::plan(repo, options, cx)?)
}

/// Dooms, then removes.
///
/// # Errors
/// As for [`plan`], and any failure of the store; what was removed until then was due.
pub fn prune(repo: &Repo, options: &PruneOptions, cx: &Cx) -> Result<Pruned, OpsError> {
    cx.progress().begin("pruning", "packs", 0);
    let doomed = repo_prune::prune(repo, options, cx)?;
    let removed = repo_prune::remove_doomed(repo, cx)?;
    Ok(Pruned { doomed, removed })
}
