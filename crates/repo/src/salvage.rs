//! What can be read when an entry of the log cannot: the entries that open, and the signed snapshot records and index
//! objects that they do not name, for the entry that is gone may have.
//!
//! This is for who reads. What the lost entry forgot or pruned may seem to be there, so nothing may be written on such
//! a state; a pack that is gone is then an error that names it, never wrong bytes.

use crate::RepoError;
use crate::doubt::Doubt;
use crate::layout;
use crate::log::{EvidenceRef, SnapshotRef};
use crate::object::{ObjectClass, open_object};
use crate::repo::Repo;
use crate::state::{IndexState, SnapshotState, State};
use hikae_model::{IndexId, SnapshotId};
use hikae_store::ObjectKey;
use std::str::FromStr;

/// Reads on after `state`, past every entry that cannot be read. Gives what is wrong with the log; nothing if all of
/// it can be read by now.
pub(crate) fn salvage(repo: &Repo, state: &mut State) -> Result<Vec<Doubt>, RepoError> {
    let mut doubts = Vec::new();
    let last = names::<u64>(repo, layout::LOG)?.into_iter().max().unwrap_or(0);
    for n in state.n + 1..=last {
        repo.cx().check()?;
        let why = match repo.read_entry(n) {
            Ok(Some((entry, writer, hash))) => match state.apply(&entry, writer, hash) {
                Ok(()) => continue,
                // After one that cannot be read nothing can be compared.
                Err(_) if state.n + 1 != n => {
                    state.apply_after_gap(&entry, writer, hash);
                    continue;
                }
                Err(why) => {
                    state.apply_after_gap(&entry, writer, hash);
                    why.to_string()
                }
            },
            Ok(None) => "is missing, and later ones are there".to_owned(),
            Err(RepoError::Damaged { why, .. }) => format!("is damaged: {why}"),
            Err(error) => return Err(error),
        };
        doubts.push(Doubt::Entry { n, why });
    }
    if let Some(Doubt::Entry { n, .. }) = doubts.first() {
        let n = *n;
        add_unnamed_snapshots(repo, state, n)?;
        add_unnamed_indexes(repo, state, n)?;
    }
    Ok(doubts)
}

/// A record by a known writer is a snapshot: it is stored after all that it needs.
fn add_unnamed_snapshots(repo: &Repo, state: &mut State, n: u64) -> Result<(), RepoError> {
    for id in names::<SnapshotId>(repo, layout::SNAPSHOTS)? {
        if state.knows(id) || state.stale_snapshots.contains_key(&id) {
            continue;
        }
        let snapshot = match repo.snapshot(id) {
            Ok(snapshot) if state.is_known(snapshot.writer) => snapshot,
            Ok(_) => continue,
            Err(error) if error.is_damage() => continue,
            Err(error) => return Err(error),
        };
        let record = snapshot.record;
        let snapshot =
            SnapshotRef { id, source: record.source, moment: record.moment, complete: record.complete };
        state.snapshots.insert(id, SnapshotState { snapshot, n, evidence: None::<EvidenceRef> });
    }
    Ok(())
}

fn add_unnamed_indexes(repo: &Repo, state: &mut State, n: u64) -> Result<(), RepoError> {
    for id in names::<IndexId>(repo, layout::INDEX)? {
        if state.indexes.contains_key(&id) || state.stale_indexes.contains_key(&id) {
            continue;
        }
        let stored = match repo.store().get(&layout::index(id)) {
            Ok(stored) => stored,
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error.into()),
        };
        let is_whole = blake3::hash(&stored).as_bytes() == id.as_bytes();
        let Ok(opened) = open_object(ObjectClass::Index, b"", stored, repo.keys()) else { continue };
        if is_whole && state.is_known(opened.writer) {
            state.indexes.insert(id, IndexState { writer: opened.writer, n });
        }
    }
    Ok(())
}

/// Names of the objects in a directory, without what is none of ours.
pub(crate) fn names<T: FromStr>(repo: &Repo, directory: &str) -> Result<Vec<T>, RepoError> {
    let mut names = Vec::new();
    let own = |key: &ObjectKey| key.as_str().split('/').count() == 2;
    repo.store().list(directory, &mut |object| {
        names.extend(layout::name_of::<T>(&object.key).filter(|_| own(&object.key)));
    })?;
    Ok(names)
}
