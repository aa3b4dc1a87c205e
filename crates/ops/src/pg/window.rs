//! The recovery window for people and programs: what one repository can bring a cluster back to, with its moments.

use crate::OpsError;
use crate::pitr::cluster::KeptCluster;
use crate::pitr::log::LogPart;
use crate::pitr::window::{Base, Interval};
use hikae_model::{Cx, Lsn, SnapshotId, Timeline, sabotage};
use hikae_repo::{Repo, RepoError};
use jiff::Timestamp;
use serde::Serialize;
use std::sync::Arc;

/// Where a cluster can come back to from one repository, and where not.
#[derive(Clone, Debug, Serialize)]
pub struct WindowReport {
    /// The source.
    pub source: String,
    /// Where the repository is.
    pub store: String,
    /// The cluster.
    pub system: String,
    /// By timeline, then by place.
    pub intervals: Vec<Reachable>,
    /// What is missing between.
    pub gaps: Vec<MissingLog>,
    /// Timelines to which nothing leads from before, because their history is not kept.
    pub without_history: Vec<u32>,
    /// The base backups, by their moments.
    pub bases: Vec<KeptBase>,
    /// Files of the log that are kept.
    pub n_log_files: u64,
    /// Their length in the repository.
    pub log_stored_bytes: u64,
    /// When the last of them came, by the store's clock.
    pub log_came: Option<Timestamp>,
    /// Of these, what the last prunes have let go of; nothing if all of it stays.
    pub log_goes: Option<LogThatGoes>,
    /// The log is kept and cannot be opened with this key, so its moments are not known.
    pub sealed: bool,
}

/// Log that no base backup needs, or that is older than it is to be kept, and is still there.
#[derive(Clone, Debug, Serialize)]
pub struct LogThatGoes {
    /// How many files.
    pub n_files: u64,
    /// Their length in the repository.
    pub stored_bytes: u64,
    /// When the last of them may be removed.
    pub after: Timestamp,
}

/// Every place from one to another.
#[derive(Clone, Debug, Serialize)]
pub struct Reachable {
    /// The timeline.
    pub timeline: u32,
    /// The first place.
    pub from: String,
    /// The first place beyond.
    pub to: String,
    /// When the base backup ended from which it begins.
    pub from_moment: Timestamp,
    /// When the last transaction was committed of which the log is kept; the moment of the last base if none was. Nothing if
    /// the log cannot be opened.
    pub to_moment: Option<Timestamp>,
    /// Base backups that lead into it.
    pub n_bases: usize,
}

/// Segments that are missing.
#[derive(Clone, Debug, Serialize)]
pub struct MissingLog {
    /// The timeline that cannot be followed here.
    pub timeline: u32,
    /// The first segment.
    pub first: String,
    /// The last.
    pub last: String,
    /// How many.
    pub n_segments: u64,
    /// When the first base backup ended that leads on behind it; nothing if none does.
    pub goes_on: Option<Timestamp>,
}

/// A base backup.
#[derive(Clone, Debug, Serialize)]
pub struct KeptBase {
    /// Its snapshot.
    pub snapshot: SnapshotId,
    /// When it ended.
    pub moment: Timestamp,
    /// Its timeline.
    pub timeline: u32,
    /// Where it is consistent.
    pub at: String,
    /// Whether anything can be reached from it.
    pub leads_on: bool,
}

impl WindowReport {
    /// True if something is missing, or nothing can be reached.
    pub fn is_broken(&self) -> bool {
        self.intervals.is_empty() || !self.gaps.is_empty() || !self.without_history.is_empty()
    }
}

/// Works out the window of the cluster of `source` from what `repo` holds.
///
/// # Errors
/// [`OpsError::Refused`] if there is no base backup of it; any failure to read the repository.
pub fn window(repo: &Arc<Repo>, source: &str, cx: &Cx) -> Result<WindowReport, OpsError> {
    let cluster = KeptCluster::read(repo, source, cx)?;
    let mut sealed = false;
    let mut intervals = Vec::new();
    for interval in &cluster.window.intervals {
        let last = last_commit(&cluster, interval, cx)?;
        sealed |= last.is_none();
        intervals.push(Reachable {
            timeline: interval.timeline.get(),
            from: interval.from.to_string(),
            to: interval.to.to_string(),
            from_moment: cluster.moment(&interval.bases[0]),
            to_moment: last,
            n_bases: interval.bases.len(),
        });
    }
    let mut bases: Vec<KeptBase> = cluster.bases.iter().map(|base| kept_base(&cluster, base)).collect();
    bases.sort_by_key(|base| base.moment);
    let without_history =
        cluster.window.without_history.iter().filter(|timeline| !cluster.is_sealed(**timeline));
    sealed |= cluster.window.without_history.iter().any(|timeline| cluster.is_sealed(*timeline));
    let log = cluster.stored.values();
    Ok(WindowReport {
        source: source.to_owned(),
        store: repo.store().address(),
        system: cluster.system.to_string(),
        intervals,
        gaps: gaps(&cluster),
        without_history: without_history.map(|timeline| timeline.get()).collect(),
        bases,
        n_log_files: cluster.stored.len() as u64,
        log_stored_bytes: log.clone().map(|file| file.stored_bytes).sum(),
        log_came: log.map(|file| file.stored).max(),
        log_goes: log_that_goes(repo, &cluster)?,
        sealed,
    })
}

fn log_that_goes(repo: &Repo, cluster: &KeptCluster) -> Result<Option<LogThatGoes>, OpsError> {
    let state = repo.follow()?;
    let floors: Vec<_> =
        state.floors_in_force().filter(|floor| floor.floor.system == cluster.system).collect();
    let mut goes: Option<LogThatGoes> = None;
    for file in cluster.stored.values() {
        let covering = floors.iter().filter(|floor| floor.floor.covers(file.name));
        let Some(after) = covering.map(|floor| floor.doom.over_at()).min() else { continue };
        let goes = goes.get_or_insert(LogThatGoes { n_files: 0, stored_bytes: 0, after });
        goes.n_files += 1;
        goes.stored_bytes += file.stored_bytes;
        goes.after = goes.after.max(after);
    }
    Ok(goes)
}

/// When the last transaction was committed that an interval holds. Nothing if the log cannot be opened.
fn last_commit(cluster: &KeptCluster, interval: &Interval, cx: &Cx) -> Result<Option<Timestamp>, OpsError> {
    let base = interval.newest();
    let base_moment = cluster.moment(&base);
    let last = LogPart::of(cluster, interval.timeline, base.stop, interval.to).last(cx);
    match last {
        Ok(last) => Ok(Some(last.map_or(base_moment, |last| last.time.max(base_moment)))),
        Err(OpsError::Repo(RepoError::NeedsIdentity)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn kept_base(cluster: &KeptCluster, base: &Base) -> KeptBase {
    let leads = |interval: &Interval| interval.bases.iter().any(|other| other.snapshot == base.snapshot);
    KeptBase {
        snapshot: base.snapshot,
        moment: cluster.moment(base),
        timeline: base.timeline.get(),
        at: base.stop.to_string(),
        leads_on: cluster.window.intervals.iter().any(leads),
    }
}

fn gaps(cluster: &KeptCluster) -> Vec<MissingLog> {
    let size = cluster.archive.size;
    let mut missing = Vec::new();
    for gap in cluster.window.gaps.iter().filter(|_| !sabotage::on("gap-unshown")) {
        let (Some(first), Some(last)) = (gap.first.start(size), gap.last.start(size)) else { continue };
        missing.push(MissingLog {
            timeline: gap.timeline.get(),
            first: gap.first.to_string(),
            last: gap.last.to_string(),
            n_segments: last.0.saturating_sub(first.0) / size.bytes() + 1,
            goes_on: after(cluster, gap.timeline, last),
        });
    }
    missing
}

/// When the first base ended that is consistent behind `place` on this timeline.
fn after(cluster: &KeptCluster, timeline: Timeline, place: Lsn) -> Option<Timestamp> {
    let intervals = cluster.window.intervals.iter().filter(|interval| interval.timeline == timeline);
    let bases = intervals.flat_map(|interval| &interval.bases).filter(|base| base.stop > place);
    let first = bases.min_by_key(|base| base.stop)?;
    Some(cluster.moment(first))
}
