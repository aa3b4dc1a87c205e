//! The log and the objects that it names: each read, opened, and compared with what the log says.

use super::Found;
use crate::RepoError;
use crate::cbor;
use crate::doubt::Doubt;
use crate::epoch::{EpochRecord, misfits};
use crate::evidence::EvidenceRecord;
use crate::header::Header;
use crate::index::{BadSegment, Segment};
use crate::index_set::IndexSet;
use crate::layout;
use crate::log::{self, Change, EntryHash, EvidenceRef, hash_of};
use crate::object::{BadObject, ObjectClass, open_object};
use crate::repo::Repo;
use crate::state::State;
use hikae_model::{Advise as _, EpochId, EvidenceId, IndexId, Problem, SlotId, SnapshotId, WriterId};
use hikae_store::ObjectKey;
use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::sync::Arc;

/// What the log has ever named and the state has forgotten.
#[derive(Default)]
pub(super) struct History {
    pub(super) n_entries: u64,
    epochs: BTreeMap<SlotId, (EpochId, WriterId)>,
    removed_slots: BTreeSet<SlotId>,
    /// Who named each index object.
    indexers: BTreeMap<IndexId, WriterId>,
    evidence: Vec<EvidenceRef>,
    /// Every snapshot that was ever committed.
    pub(super) snapshots: BTreeSet<SnapshotId>,
    /// Hash of each entry by its number, as far as they can be read; first that of what stands before them.
    pub(super) hashes: Vec<Option<EntryHash>>,
}

/// Reads the log from its first entry, whatever checkpoints say, and compares each checkpoint with the fold.
pub(super) fn check_log(repo: &Repo, found: &Found<'_>) -> Result<History, RepoError> {
    // Listed first: what comes later is none of our business.
    let last = names::<u64>(repo, layout::LOG, found)?.last().copied().unwrap_or(0);
    let mut checkpoints = names::<u64>(repo, layout::CHECKPOINTS, found)?;
    if let Err(error) = repo.follow() {
        found.error("damaged-log", layout::LOG, error)?;
    }
    for doubt in repo.doubts() {
        let problem = |what: &Doubt| {
            let problem = Problem::new("rolled-back", "the log", what);
            problem.advise(what.advice().unwrap_or_default())
        };
        match doubt {
            // Met again below.
            Doubt::Entry { .. } => {}
            // A copy of yesterday is as it should be.
            Doubt::Older { .. } => found.note(problem(doubt)),
            Doubt::RolledBack { .. } | Doubt::Another { .. } => found.add(problem(doubt)),
        }
    }
    check_header(repo, found)?;
    let state = repo.state();
    let end = state.n.max(last);
    let mut history = History::default();
    history.hashes.push(Some(hash_of(&repo.header().to_bytes())));
    let mut fold = Some(State::begin(repo.header()));
    for n in 1..=end {
        found.cx.check()?;
        let entry = repo.read_entry(n);
        history.hashes.push(entry.as_ref().ok().and_then(|entry| entry.as_ref().map(|(_, _, hash)| *hash)));
        match entry {
            Ok(Some((entry, writer, hash))) => {
                history.note(&entry.change, writer);
                history.n_entries += 1;
                if let Some(Err(why)) = fold.as_mut().map(|fold| fold.apply(&entry, writer, hash)) {
                    found.add(replaced(n, &why));
                    fold = None;
                }
            }
            Ok(None) => {
                found.hurt(layout::log_entry(n));
                let advice = Doubt::Entry { n, why: String::new() }.advice().unwrap_or_default();
                found.add(replaced(n, &"is missing, and later ones are there").advise(advice));
                fold = None;
            }
            Err(RepoError::Damaged { key, why }) => {
                found.hurt(key.clone());
                let advice = Doubt::Entry { n, why: why.to_string() }.advice().unwrap_or_default();
                found.add(Problem::new("damaged-log", key, format_args!("is damaged: {why}")).advise(advice));
                fold = None;
            }
            Err(error) => {
                found.error("damaged-log", layout::log_entry(n), error)?;
                fold = None;
            }
        }
        if checkpoints.remove(&n) {
            check_checkpoint(repo, n, fold.as_ref(), found)?;
        }
    }
    for n in checkpoints {
        found.add(replaced(n, &"has a checkpoint, and is not there"));
    }
    if fold.as_ref().is_some_and(|fold| fold.n == state.n && *fold != *state) {
        found.add(replaced(state.n, &"leads to another state than the checkpoint from which we began"));
    }
    Ok(history)
}

fn replaced(n: u64, why: &dyn std::fmt::Display) -> Problem {
    Problem::new("damaged-log", format_args!("log entry {n}"), why)
        .advise("do not write to this repository; compare it with a copy")
}

fn check_header(repo: &Repo, found: &Found<'_>) -> Result<(), RepoError> {
    let key = layout::header();
    match repo.store().get(&key) {
        Ok(bytes) if Header::parse(&bytes).is_ok_and(|header| header == *repo.header()) => Ok(()),
        Ok(_) => {
            let problem = Problem::new("damaged-header", key, "is not what it was when we opened it");
            found.add(problem.advise("put back hikae.json from a copy"));
            Ok(())
        }
        Err(error) => found.error("damaged-header", key, error.into()),
    }
}

fn check_checkpoint(repo: &Repo, n: u64, fold: Option<&State>, found: &Found<'_>) -> Result<(), RepoError> {
    let key = layout::checkpoint(n);
    let open = || -> Result<State, RepoError> {
        let context = log::context(repo.header().core.repository, n);
        let opened = open_object(ObjectClass::Checkpoint, &context, repo.store().get(&key)?, repo.keys());
        opened.and_then(|opened| cbor::from_bytes(&opened.body)).map_err(RepoError::damaged(key.clone()))
    };
    match open() {
        Ok(state) if fold.is_none_or(|fold| *fold == state) => {}
        Ok(_) => {
            let problem = Problem::new("damaged-checkpoint", &key, "is not what the log leads to");
            found.add(problem.advise("remove this object: it is derived from the log, and can mislead"));
        }
        Err(error) => found.error("damaged-checkpoint", &key, error)?,
    }
    Ok(())
}

impl History {
    /// True if every entry could be read.
    pub(super) fn is_whole(&self) -> bool {
        self.hashes.iter().all(Option::is_some)
    }

    pub(super) fn names_evidence(&self, id: EvidenceId) -> bool {
        self.evidence.iter().any(|evidence| evidence.id == id)
    }

    fn note(&mut self, change: &Change, writer: WriterId) {
        match change {
            Change::Epoch(epoch) => drop(self.epochs.insert(epoch.object, (epoch.id, writer))),
            Change::SlotRemoved(slot) => drop(self.removed_slots.insert(*slot)),
            Change::Evidence(evidence) => self.evidence.push(evidence.clone()),
            Change::Commit(commit) => {
                self.indexers.extend(commit.indexes.iter().map(|id| (*id, writer)));
                self.snapshots.extend(commit.snapshots.iter().map(|snapshot| snapshot.id));
            }
            Change::Prune(prune) => {
                self.indexers.extend(prune.indexes_added.iter().map(|added| (added.id, writer)))
            }
            _ => {}
        }
    }
}

/// Key slots and key epochs.
pub(super) fn check_keys(
    repo: &Repo,
    state: &State,
    history: &History,
    found: &Found<'_>,
) -> Result<(), RepoError> {
    let there = names::<SlotId>(repo, layout::KEYS, found)?;
    for id in &there {
        let key = layout::slot(*id);
        let stored = match repo.store().get(&key) {
            Ok(stored) => stored,
            Err(error) => {
                if error.is_not_found() {
                    found.hurt(key.clone());
                }
                found.error("damaged-key", key, error.into())?;
                continue;
            }
        };
        if hash_of(&stored) != *id.as_bytes() {
            found.hurt(key.clone());
            let problem = Problem::new("damaged-key", &key, "is not what its name says");
            found.add(problem.advise("add a key with `hikae key add`, then remove this one"));
        } else if let Some((epoch, writer)) = history.epochs.get(id) {
            let opened = open_object(ObjectClass::Epoch, b"", stored, repo.keys());
            let right = opened.and_then(|opened| {
                let record: EpochRecord = cbor::from_bytes(&opened.body)?;
                let is_its = opened.writer == *writer && record.writer == *writer;
                match record.id == *epoch && is_its && record.is_signed(repo.keys().family()) {
                    true => Ok(()),
                    false => Err(BadObject::BadBody("it is not the epoch that the log names".to_owned())),
                }
            });
            if let Err(why) = right {
                found.error("damaged-key", &key, RepoError::damaged(key.clone())(why))?;
            }
        } else if history.removed_slots.contains(id) {
            let problem =
                Problem::new("removed-key", &key, "was removed in the log, and still opens the repository");
            found.add(problem.advise("run `hikae key remove` for it once more"));
        }
    }
    let named = state.slots.keys().chain(state.epochs.iter().map(|state| &state.epoch.object));
    for id in named.filter(|id| !there.contains(id)) {
        found.hurt(layout::slot(*id));
        let problem = Problem::new("missing-key", layout::slot(*id), "is not there");
        found.add(problem.advise("put it back from a copy, or add a key with `hikae key add`"));
    }
    Ok(())
}

/// Evidence that the log names.
pub(super) fn check_evidence(repo: &Repo, history: &History, found: &Found<'_>) -> Result<(), RepoError> {
    names::<EvidenceId>(repo, layout::EVIDENCE, found)?;
    for reference in &history.evidence {
        found.cx.check()?;
        let key = layout::evidence(reference.id);
        let read = repo.store().get(&key).map_err(RepoError::from).and_then(|stored| {
            let repository = repo.header().core.repository;
            EvidenceRecord::open(reference, stored, repository, repo.keys())
                .map_err(RepoError::damaged(key.clone()))
        });
        if let Err(error) = read {
            if error.is_damage() {
                found.hurt(key.clone());
            }
            let advised = found.error("damaged-evidence", &key, error);
            advised?;
        }
    }
    Ok(())
}

/// Reads every index object that counts. Gives those that can be used, from our cache if the stored one is
/// gone, and the names of those that have to be made again.
pub(super) fn check_indexes(
    repo: &Repo,
    state: &State,
    history: &History,
    found: &Found<'_>,
) -> Result<(IndexSet, BTreeSet<IndexId>), RepoError> {
    names::<IndexId>(repo, layout::INDEX, found)?;
    let (mut index, mut lost) = (IndexSet::default(), BTreeSet::new());
    let (cache, hash_key) = (repo.index_cache(), repo.hash_key());
    for id in state.indexes.keys() {
        found.cx.check()?;
        let key = layout::index(*id);
        let body = read_index(repo, *id, history.indexers.get(id).copied());
        let segment = match (Segment::open(*id, &cache, hash_key), &body) {
            (Ok(segment), _) => Some(segment),
            (Err(BadSegment::Io(error)), _) => return Err(error),
            (Err(_), Ok(body)) => match Segment::create(*id, body, &cache, hash_key) {
                Ok(segment) => Some(segment),
                Err(BadSegment::Io(error)) => return Err(error),
                Err(BadSegment::Object(why)) => {
                    found.damaged("damaged-index", &key, why);
                    lost.insert(*id);
                    None
                }
                Err(BadSegment::Stale) => return Err(RepoError::Worker),
            },
            (Err(_), Err(_)) => None,
        };
        if let Err(error) = body {
            lost.insert(*id);
            found.error("damaged-index", &key, error)?;
        }
        let Some(segment) = segment else { continue };
        let family = repo.keys().family();
        for what in misfits(segment.sessions(), segment.epochs(), family) {
            found.damaged("damaged-index", &key, what);
        }
        index.add(Arc::new(segment));
    }
    Ok((index, lost))
}

/// The body of an index object that `writer` named and so must have signed.
fn read_index(repo: &Repo, id: IndexId, writer: Option<WriterId>) -> Result<Vec<u8>, RepoError> {
    let key = layout::index(id);
    let stored = repo.store().get(&key)?;
    if hash_of(&stored) != *id.as_bytes() {
        return Err(RepoError::damaged(key)(BadObject::BrokenSeal));
    }
    let opened = open_object(ObjectClass::Index, b"", stored, repo.keys());
    let opened = opened.map_err(RepoError::damaged(key.clone()))?;
    match writer.is_none_or(|writer| writer == opened.writer) {
        true => Ok(opened.body),
        false => Err(RepoError::damaged(key)(BadObject::BadSignature)),
    }
}

/// Names of the objects in a directory. What has another kind of name is a problem: we never write such.
pub(super) fn names<T: FromStr + Ord>(
    repo: &Repo,
    directory: &str,
    found: &Found<'_>,
) -> Result<BTreeSet<T>, RepoError> {
    let mut names = BTreeSet::new();
    repo.store().list(directory, &mut |object| match own_name(directory, &object.key) {
        Some(name) => drop(names.insert(name)),
        None => found.add(
            Problem::new("foreign-object", object.key, "is not an object of hikae")
                .advise("see who put it there, and remove it"),
        ),
    })?;
    Ok(names)
}

fn own_name<T: FromStr>(directory: &str, key: &ObjectKey) -> Option<T> {
    let name = key.as_str().strip_prefix(directory)?.strip_prefix('/')?;
    if name.contains('/') { None } else { name.parse().ok() }
}
