//! Verify and repair: whether everything that is kept is what it should be, and what can be done if not.
//!
//! The work is the repository's; this says what came of it, in a form that can be shown and sent.

use crate::OpsError;
use hikae_model::{Cx, Outcome, Problem, SnapshotId};
use hikae_repo::Repo;
use hikae_repo::header::Header;
use hikae_repo::layout;
use hikae_repo::repair as repo_repair;
use hikae_repo::verify as repo_verify;
use hikae_store::{ObjectKey, Store};
use serde::Serialize;

pub use hikae_repo::verify::VerifyOptions;

/// What verify found.
#[derive(Clone, Debug, Serialize)]
pub struct VerifyReport {
    /// Complete if all that was to be read is right.
    pub outcome: Outcome,
    /// What is wrong, up to a bound.
    pub problems: Vec<Problem>,
    /// How many problems there are.
    pub n_problems: u64,
    /// What is to be known and harms nothing that is kept.
    pub notes: Vec<Problem>,
    /// Which snapshots cannot be restored whole.
    pub hits: Vec<Hit>,
    /// Entries of the log that were read.
    pub log_entries: u64,
    /// Snapshots that were walked.
    pub snapshots: u64,
    /// Packs that the index names, and doomed ones that are still stored.
    pub packs: u64,
    /// Packs that were read.
    pub packs_read: u64,
    /// Bytes of packs that were read.
    pub read_bytes: u64,
    /// Blobs whose names were computed again.
    pub blobs: u64,
    /// Packs that nothing names.
    pub orphans: u64,
    /// Files of write-ahead log that are stored.
    pub wal_files: u64,
    /// Those of them that were read.
    pub wal_files_read: u64,
    /// How long it took.
    pub seconds: f64,
}

/// A snapshot that cannot be restored whole.
#[derive(Clone, Debug, Serialize)]
pub struct Hit {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its source.
    pub source: String,
    /// How many entries are hit.
    pub entries: u64,
    /// Their paths, up to a bound.
    pub paths: Vec<String>,
}

/// What repair will do, or did.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct RepairReport {
    /// Packs that an index names again.
    pub packs_named_again: u64,
    /// Frames, or for a plan packs, from which what still opens is copied.
    pub salvaged: u64,
    /// Packs that are called damaged from now on.
    pub called_damaged: u64,
    /// Packs that are no longer called damaged.
    pub called_well: u64,
    /// Snapshots whose record cannot be read, and which count for nothing from now on.
    pub set_aside: u64,
    /// Snapshots that were set aside and count again.
    pub taken_back: u64,
    /// Blobs that are nowhere; only the source can bring them back.
    pub lost_blobs: u64,
    /// False if there was nothing to do.
    pub anything: bool,
}

/// Verifies a repository.
///
/// # Errors
/// Only if it could not be done; what is wrong is in the report.
pub fn verify(repo: &Repo, options: &VerifyOptions, cx: &Cx) -> Result<VerifyReport, OpsError> {
    Ok(report(repo_verify::verify(repo, options, cx)?))
}

fn report(report: repo_verify::VerifyReport) -> VerifyReport {
    let hit = |hit: repo_verify::Hit| Hit {
        snapshot: hit.snapshot,
        source: hit.source,
        entries: hit.n_entries,
        paths: hit.paths,
    };
    VerifyReport {
        outcome: report.outcome,
        problems: report.problems,
        n_problems: report.n_problems,
        notes: report.notes,
        hits: report.hits.into_iter().map(hit).collect(),
        log_entries: report.n_entries,
        snapshots: report.n_snapshots,
        packs: report.n_packs,
        packs_read: report.n_packs_read,
        read_bytes: report.read_bytes,
        blobs: report.n_blobs,
        orphans: report.n_orphans,
        wal_files: report.n_wal,
        wal_files_read: report.n_wal_read,
        seconds: report.took.as_secs_f64(),
    }
}

/// What was put back out of another copy.
#[derive(Clone, Debug, Serialize)]
pub struct PutBackReport {
    /// Objects that are well again.
    pub put_back: Vec<String>,
    /// Objects that the copy has not, or not as they were.
    pub not_in_copy: Vec<String>,
}

/// Verifies, and puts back what is damaged or gone out of the store of a copy, proving each object. With
/// `dry_run` it only says what it would put back. Open the repository anew afterwards.
///
/// # Errors
/// Any failure to read the copy, or to read or write the repository.
pub fn put_back(
    repo: &Repo,
    options: &VerifyOptions,
    copy: &dyn Store,
    dry_run: bool,
    cx: &Cx,
) -> Result<PutBackReport, OpsError> {
    let found = repo_verify::verify(repo, options, cx)?;
    let done = hikae_repo::put_back::put_back(repo, &found, copy, dry_run, cx)?;
    let names = |keys: Vec<ObjectKey>| keys.iter().map(ToString::to_string).collect();
    Ok(PutBackReport { put_back: names(done.done), not_in_copy: names(done.not_in_copy) })
}

/// What came back out of another repository of the family.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct HealReport {
    /// Blobs that have a good copy again.
    pub blobs: u64,
    /// Blobs of which neither has one.
    pub lost: u64,
    /// Bytes that were stored.
    pub stored_bytes: u64,
}

/// Brings what is damaged or gone in `repo`, and was marked so by [`repair`], out of another repository of its family.
///
/// # Errors
/// Any failure of either that is no damage.
pub fn heal(repo: &Repo, from: &Repo, cx: &Cx) -> Result<HealReport, OpsError> {
    let healed = hikae_repo::copy::heal(from, repo, cx)?;
    Ok(HealReport { blobs: healed.n_blobs, lost: healed.n_lost, stored_bytes: healed.stored_bytes })
}

/// True if this is another repository of the family, and not the same one kept twice.
///
/// # Errors
/// Any failure to read what it is.
pub fn is_relative(repo: &Repo, store: &dyn Store) -> Result<bool, OpsError> {
    let ours = &repo.header().core;
    let theirs = Header::parse(&store.get(&layout::header())?);
    Ok(theirs
        .is_ok_and(|theirs| theirs.core.family == ours.family && theirs.core.repository != ours.repository))
}

/// Verifies, and repairs what can be: it adds and marks, and deletes nothing. With `dry_run` it only plans.
///
/// # Errors
/// Any failure to read or write the repository; what was done until then stays right.
pub fn repair(
    repo: &Repo,
    options: &VerifyOptions,
    dry_run: bool,
    cx: &Cx,
) -> Result<(VerifyReport, RepairReport), OpsError> {
    let found = repo_verify::verify(repo, options, cx)?;
    if !repo.doubts().is_empty() {
        // Nothing may be written; the report says what to do about the log.
        return Ok((report(found), RepairReport::default()));
    }
    let plan = repo_repair::plan_repair(repo, &found, cx)?;
    let mut done = RepairReport {
        packs_named_again: plan.reindex.len() as u64,
        salvaged: plan.salvage.len() as u64,
        called_damaged: plan.damaged.len() as u64,
        called_well: plan.well.len() as u64,
        set_aside: plan.set_aside.len() as u64,
        taken_back: plan.taken_back.len() as u64,
        lost_blobs: plan.n_lost_blobs,
        anything: !plan.is_empty(),
    };
    if !dry_run && !plan.is_empty() {
        let repaired = repo_repair::repair(repo, &plan, cx)?;
        done.packs_named_again = repaired.n_reindexed;
        done.salvaged = repaired.n_salvaged;
        done.called_damaged = repaired.n_damaged;
        done.called_well = repaired.n_well;
        done.set_aside = repaired.n_set_aside;
        done.taken_back = repaired.n_taken_back;
    }
    Ok((report(found), done))
}
