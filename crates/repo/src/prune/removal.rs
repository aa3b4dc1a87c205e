//! Removal: what the log has doomed goes from the store, once its soft period is over.
//!
//! Only doomed names are removed, and a doomed name never lives again. So anyone may do this at any time, on
//! any state of the log that it has read, also long after somebody else did.

use crate::RepoError;
use crate::layout;
use crate::lease::Lease;
use crate::log::{Change, Removed};
use crate::prune::PruneStop;
use crate::repo::Repo;
use crate::state::State;
use hikae_model::{Cx, RunId};
use jiff::Timestamp;
use std::collections::BTreeSet;

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RemovalReport {
    /// Packs.
    pub n_packs: usize,
    /// Index objects.
    pub n_indexes: usize,
    /// Packs whose soft period is not over.
    pub n_waiting: usize,
    /// When the next of them may go.
    pub next: Option<Timestamp>,
    /// The entry that says what is gone; nothing if nothing is.
    pub n: Option<u64>,
}

/// Removes what was doomed and whose soft period is over: index objects, then packs, then the entry that says
/// so. Dying anywhere is harmless; the next removal does it again.
///
/// # Errors
/// Any failure of the store. What was removed until then was due.
pub fn remove_doomed(repo: &Repo, cx: &Cx) -> Result<RemovalReport, RepoError> {
    let state = repo.follow()?;
    repo.check_may(&state, &Change::Removed(Removed::default()))?;
    if state.doomed.is_empty() && state.stale_indexes.is_empty() {
        return Ok(RemovalReport::default());
    }
    let lease = Lease::take(repo, "remove")?;
    // Both clocks must say that the time is over.
    let now = lease.taken().min(cx.now());
    let due = due(&state, now);
    let mut report = RemovalReport {
        n_packs: due.packs.len(),
        n_indexes: due.indexes.len(),
        n_waiting: state.doomed.len() - due.packs.len(),
        next: next(&state, now),
        n: None,
    };
    if due == Removed::default() {
        return Ok(report);
    }
    check_names_nothing_due(repo, &due)?;
    for index in &due.indexes {
        cx.check()?;
        repo.store().remove(&layout::index(*index))?;
    }
    for pack in &due.packs {
        cx.check()?;
        repo.store().remove(&layout::pack(*pack))?;
    }
    report.n = record(repo, &due)?;
    Ok(report)
}

/// What may go by now.
fn due(state: &State, now: Timestamp) -> Removed {
    let packs = state.doomed.iter().filter(|(_, doom)| doom.is_over(now)).map(|(pack, _)| *pack);
    let indexes = state.stale_indexes.iter().filter(|(_, doom)| doom.is_over(now)).map(|(index, _)| *index);
    Removed { packs: packs.collect(), indexes: indexes.collect() }
}

/// When something that waits may go.
fn next(state: &State, now: Timestamp) -> Option<Timestamp> {
    let waiting = state.doomed.values().filter(|doom| !doom.is_over(now));
    let over = |seconds: i64, soft: u64| seconds.checked_add(i64::try_from(soft).ok()?);
    waiting
        .filter_map(|doom| Timestamp::from_second(over(doom.at.as_second(), doom.soft_seconds)?).ok())
        .min()
}

/// An assertion that stays on: no index object that counts names what is about to go.
fn check_names_nothing_due(repo: &Repo, due: &Removed) -> Result<(), RepoError> {
    let packs: BTreeSet<_> = due.packs.iter().collect();
    match repo.index()?.packs().find(|pack| packs.contains(&pack.id)) {
        Some(pack) => Err(PruneStop::NamesDoomed { pack: pack.id }.into()),
        None => Ok(()),
    }
}

/// Puts the entry, without what another one says already.
fn record(repo: &Repo, due: &Removed) -> Result<Option<u64>, RepoError> {
    let run = RunId::from_bytes(repo.cx().random());
    loop {
        let state = repo.follow()?;
        let mut left = due.clone();
        left.packs.retain(|pack| state.doomed.contains_key(pack));
        left.indexes.retain(|index| state.stale_indexes.contains_key(index));
        if left == Removed::default() {
            return Ok(None);
        }
        if let Some(n) = repo.append_after(&state, run, Change::Removed(left))? {
            return Ok(Some(n));
        }
    }
}
