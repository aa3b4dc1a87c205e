//! Snapshot records and evidence that no entry of the log names.
//!
//! A run that is under way, or that died before its commit, leaves such a record. So does a log that was put back to
//! an older state, and on a machine that has not seen the newer one nothing else tells it. Some of them prove it: a
//! parent was in the log before its child was made, and a drill names the entry before it. What proves nothing is
//! noted.

use super::Found;
use super::objects::History;
use crate::RepoError;
use crate::evidence::EvidenceRecord;
use crate::layout;
use crate::log::{EntryHash, EvidenceRef};
use crate::repo::Repo;
use crate::salvage::names;
use crate::snapshot::Snapshot;
use crate::state::State;
use hikae_model::{EvidenceId, Problem, SnapshotId};
use std::collections::{BTreeMap, BTreeSet};

/// What stands in the store. Listed before the log is read, so that what was committed by then is named there.
pub(super) struct Listed {
    snapshots: Vec<SnapshotId>,
    evidence: Vec<EvidenceId>,
}

impl Listed {
    pub(super) fn read(repo: &Repo) -> Result<Self, RepoError> {
        Ok(Self { snapshots: names(repo, layout::SNAPSHOTS)?, evidence: names(repo, layout::EVIDENCE)? })
    }

    /// Says what of it the log does not name.
    pub(super) fn check(
        self,
        repo: &Repo,
        state: &State,
        history: &History,
        found: &Found<'_>,
    ) -> Result<(), RepoError> {
        let is_named = |id: &SnapshotId| {
            history.snapshots.contains(id) || state.knows(*id) || state.stale_snapshots.contains_key(id)
        };
        let mut records = BTreeMap::new();
        for id in self.snapshots.into_iter().filter(|id| !is_named(id)) {
            found.cx.check()?;
            match repo.snapshot(id) {
                Ok(snapshot) => drop(records.insert(id, snapshot)),
                Err(error) if error.is_damage() => note(found, &layout::snapshot(id), "is damaged"),
                Err(error) => return Err(error),
            }
        }
        let parents: BTreeSet<_> = records.values().filter_map(|snapshot| snapshot.record.parent).collect();
        for (id, snapshot) in &records {
            let Snapshot { record, .. } = snapshot;
            let what = format!("of {} at {}", record.source, record.moment);
            match parents.contains(id) {
                true => rolled_back(
                    found,
                    &layout::snapshot(*id),
                    &format!("{what}, a later one was made from it"),
                ),
                false => note(found, &layout::snapshot(*id), &what),
            }
        }
        let about: BTreeSet<_> = records.keys().chain(&history.snapshots).copied().collect();
        for id in self.evidence.into_iter().filter(|id| !history.names_evidence(*id)) {
            found.cx.check()?;
            let key = layout::evidence(id);
            match open(repo, id, &about)? {
                None => note(found, &key, "cannot be opened"),
                Some(record) if entry_hash(history, record.log_n) != Some(record.log_hash) => {
                    let what = format!("a drill of {} after log entry {}", record.source, record.log_n);
                    rolled_back(found, &key, &what);
                }
                Some(record) => note(found, &key, &format!("a drill of {}", record.source)),
            }
        }
        Ok(())
    }
}

/// Opens evidence that nobody says what it is about: its seal does.
fn open(
    repo: &Repo,
    id: EvidenceId,
    about: &BTreeSet<SnapshotId>,
) -> Result<Option<EvidenceRecord>, RepoError> {
    let stored = match repo.store().get(&layout::evidence(id)) {
        Ok(stored) => stored,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let repository = repo.header().core.repository;
    let tried = about
        .iter()
        .flat_map(|snapshot| [true, false].map(|passed| EvidenceRef { id, snapshot: *snapshot, passed }));
    let mut opened = tried.filter_map(|reference| {
        EvidenceRecord::open(&reference, stored.clone(), repository, repo.keys()).ok()
    });
    Ok(opened.next().map(|(record, _)| record))
}

fn entry_hash(history: &History, n: u64) -> Option<EntryHash> {
    usize::try_from(n).ok().and_then(|n| history.hashes.get(n)).copied().flatten()
}

fn note(found: &Found<'_>, key: &hikae_store::ObjectKey, what: &str) {
    let note = Problem::new("unnamed", key, format_args!("{what}: no entry of the log names it"));
    found.note(note.advise(
        "a run that is under way or has died left it; if that run ended well, the log was put back to an older state: \
         compare it with a copy, and do not prune",
    ));
}

fn rolled_back(found: &Found<'_>, key: &hikae_store::ObjectKey, what: &str) {
    let problem =
        Problem::new("rolled-back", key, format_args!("{what}: the log named it once and does not now"));
    found.add(
        problem.advise("the log was put back to an older state: compare it with a copy, and do not prune"),
    );
}
