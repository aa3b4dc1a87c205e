//! Removal: what the log has doomed goes from the store, once its soft period is over.
//!
//! Only doomed names are removed, and a doomed name never lives again. So anyone may do this at any time, on
//! any state of the log that it has read, also long after somebody else did. A forgotten snapshot could still be
//! brought back under its name; so its record is removed after the entry which says that it is gone, not before.

use crate::RepoError;
use crate::layout;
use crate::lease::Lease;
use crate::log::{Change, Removed};
use crate::prune::PruneStop;
use crate::prune::bundled::remove_bundled;
use crate::prune::bundling::stored_log;
use crate::prune::floor::remove_floored;
use crate::repo::Repo;
use crate::state::{DoomState, State};
use hikae_model::{Cx, RunId, SnapshotId, sabotage};
use hikae_store::{ObjectKey, StoreError};
use jiff::Timestamp;
use std::collections::BTreeSet;

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RemovalReport {
    /// Packs.
    pub n_packs: usize,
    /// Index objects.
    pub n_indexes: usize,
    /// Snapshot records.
    pub n_snapshots: usize,
    /// Files of archived log.
    pub n_log_files: u64,
    /// Their length.
    pub log_bytes: u64,
    /// Objects of archived log that a bundle stands for.
    pub n_bundled: u64,
    /// Packs whose soft period is not over.
    pub n_waiting: usize,
    /// Objects whose soft period is over and whose lock is not.
    pub n_locked: usize,
    /// When the next of them may go.
    pub next: Option<Timestamp>,
    /// The entry that says what is gone; nothing if nothing is.
    pub n: Option<u64>,
}

/// Removes what was doomed and whose soft period is over: index objects, then packs, then the entry that says
/// so, then snapshot records, then archived log, and last what bundles of it stand for. Dying anywhere is harmless: the next removal does it again, and the next prune finds
/// the records that no entry names.
///
/// # Errors
/// Any failure of the store. What was removed until then was due.
pub fn remove_doomed(repo: &Repo, cx: &Cx) -> Result<RemovalReport, RepoError> {
    let state = repo.follow()?;
    repo.check_may(&state, &Change::Removed(Removed::default()))?;
    let forgotten = state.forgotten.values().any(|forgotten| forgotten.doom.is_some());
    let is_empty = state.doomed.is_empty() && state.stale_indexes.is_empty() && state.log_floors.is_empty();
    let stored = stored_log(repo, &state)?;
    if is_empty && state.stale_snapshots.is_empty() && !forgotten && stored.bundles.is_empty() {
        return Ok(RemovalReport::default());
    }
    let lease = Lease::take(repo, "remove")?;
    // Both clocks must say that the time is over.
    let now = lease.taken().min(cx.now());
    let (due, locked) = unlocked(repo, due(&state, now))?;
    let mut report = RemovalReport {
        n_waiting: state.doomed.iter().filter(|(_, doom)| !doom.is_over(now)).count(),
        n_locked: locked.len(),
        next: next(&state, now).into_iter().chain(locked).min(),
        ..RemovalReport::default()
    };
    if due != Removed::default() {
        remove_due(repo, &due, now, &mut report, cx)?;
    }
    // What is gone for good by now lets the floors go that have waited for it.
    let state = repo.follow()?;
    let floored = remove_floored(repo, &state, &stored, now, cx)?;
    (report.n_log_files, report.log_bytes) = (floored.n_files, floored.bytes);
    let gone = remove_bundled(repo, &state, &stored, now, cx)?;
    report.n_locked += floored.n_locked + gone.n_locked;
    report.n_bundled = gone.n_spent;
    report.n_log_files += gone.n_floored;
    report.log_bytes += gone.floored_bytes;
    report.next = report.next.into_iter().chain(gone.next).min();
    Ok(report)
}

/// Index objects, packs, the entry, records.
fn remove_due(
    repo: &Repo,
    due: &Removed,
    now: Timestamp,
    report: &mut RemovalReport,
    cx: &Cx,
) -> Result<(), RepoError> {
    check_names_nothing_due(repo, due)?;
    for index in &due.indexes {
        cx.check()?;
        repo.store().remove(&layout::index(*index))?;
    }
    for pack in &due.packs {
        cx.check()?;
        repo.store().remove(&layout::pack(*pack))?;
    }
    if sabotage::on("record-before-entry") {
        due.snapshots.iter().try_for_each(|id| repo.store().remove(&layout::snapshot(*id)))?;
    }
    let (n, gone) = record(repo, due, now)?;
    (report.n_packs, report.n_indexes) = (due.packs.len(), due.indexes.len());
    (report.n, report.n_snapshots) = (n, gone.len());
    for snapshot in &gone {
        cx.check()?;
        repo.store().remove(&layout::snapshot(*snapshot))?;
    }
    remove_old_checkpoints(repo, cx)
}

/// So many of the newest checkpoints stay: one may be of a writer whom some do not believe.
const KEPT_CHECKPOINTS: usize = 8;

/// Who is about to read one that goes reads a newer one, or the log itself.
fn remove_old_checkpoints(repo: &Repo, cx: &Cx) -> Result<(), RepoError> {
    let mut numbers: Vec<u64> = Vec::new();
    repo.store()
        .list(layout::CHECKPOINTS, &mut |object| numbers.extend(layout::name_of::<u64>(&object.key)))?;
    numbers.sort_unstable();
    let n_old = numbers.len().saturating_sub(KEPT_CHECKPOINTS);
    for n in &numbers[..n_old] {
        cx.check()?;
        remove_unless_locked(repo, &layout::checkpoint(*n))?;
    }
    Ok(())
}

/// What may go by now.
fn due(state: &State, now: Timestamp) -> Removed {
    let packs = state
        .doomed
        .iter()
        .filter(|(_, doom)| doom.is_over(now) || sabotage::on("removed-at-once"))
        .map(|(pack, _)| *pack);
    let indexes = state.stale_indexes.iter().filter(|(_, doom)| doom.is_over(now)).map(|(index, _)| *index);
    let going = state.forgotten.keys().chain(state.stale_snapshots.keys());
    let snapshots = going.filter(|id| state.doom_of(**id).is_some_and(|doom| doom.is_over(now)));
    Removed { packs: packs.collect(), indexes: indexes.collect(), snapshots: snapshots.copied().collect() }
}

/// What is due and not locked, and when the locks of the rest end. A record that is locked is not said to be gone.
fn unlocked(repo: &Repo, mut due: Removed) -> Result<(Removed, Vec<Timestamp>), RepoError> {
    let (mut locked, mut failed) = (Vec::new(), None);
    let mut is_free = |key| match repo.store().locked_until(&key) {
        Ok(None) => true,
        Err(error) if error.is_not_found() => true,
        Ok(Some(until)) => {
            locked.push(until);
            false
        }
        Err(error) => {
            failed.get_or_insert(error);
            false
        }
    };
    due.packs.retain(|pack| is_free(layout::pack(*pack)));
    due.indexes.retain(|index| is_free(layout::index(*index)));
    due.snapshots.retain(|id| is_free(layout::snapshot(*id)));
    match failed {
        Some(error) => Err(error.into()),
        None => Ok((due, locked)),
    }
}

/// Removes an object; false if it is locked, and stays for now.
pub(super) fn remove_unless_locked(repo: &Repo, key: &ObjectKey) -> Result<bool, RepoError> {
    match repo.store().remove(key) {
        Err(StoreError::Locked { .. }) => Ok(false),
        removed => Ok(removed.map(|()| true)?),
    }
}

/// When something that waits may go.
fn next(state: &State, now: Timestamp) -> Option<Timestamp> {
    let floors = state.log_floors.iter().map(|floor| &floor.doom);
    let waiting = state.doomed.values().chain(floors).filter(|doom| !doom.is_over(now));
    waiting.map(DoomState::over_at).min()
}

/// An assertion that stays on: no index object that counts names what is about to go.
fn check_names_nothing_due(repo: &Repo, due: &Removed) -> Result<(), RepoError> {
    let packs: BTreeSet<_> = due.packs.iter().collect();
    match repo.index()?.packs().find(|pack| packs.contains(&pack.id)) {
        Some(pack) => Err(PruneStop::NamesDoomed { pack: pack.id }.into()),
        None => Ok(()),
    }
}

/// Puts the entry, without what another one says already. Gives the snapshots that are gone by it: one may have
/// been brought back since, and none can be from here on.
fn record(repo: &Repo, due: &Removed, now: Timestamp) -> Result<(Option<u64>, Vec<SnapshotId>), RepoError> {
    let run = RunId::from_bytes(repo.cx().random());
    loop {
        let state = repo.follow()?;
        let mut left = due.clone();
        left.packs.retain(|pack| state.doomed.contains_key(pack));
        left.indexes.retain(|index| state.stale_indexes.contains_key(index));
        left.snapshots.retain(|id| state.doom_of(*id).is_some_and(|doom| doom.is_over(now)));
        if left == Removed::default() {
            return Ok((None, Vec::new()));
        }
        let gone = left.snapshots.clone();
        if let Some(n) = repo.append_after(&state, run, Change::Removed(left))? {
            return Ok((Some(n), gone));
        }
    }
}
