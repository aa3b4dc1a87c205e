//! What holds after entry `n`: the fold of the log.
//!
//! The state follows from the entries alone. An entry whose writer lacked the right, or which repeats a
//! run's commit, is void: it holds its number and does nothing. A checkpoint is a stored state; it saves
//! reading and decides nothing.
//!
//! This module is pure: it knows entries, and no store.

use crate::cbor;
use crate::header::{FirstSlot, Header};
use crate::log::{
    Change, EntryHash, EpochRef, EvidenceRef, FrameName, IndexAdded, LogEntry, Rights, SlotRef, SnapshotRef,
    hash_of,
};
use crate::wal::LogFloor;
use hikae_model::{
    IndexId, PackId, RepositoryId, RunId, SlotId, SnapshotId, SystemId, WalName, WriterId, sabotage,
};
use jiff::Timestamp;
use minicbor::{Decode, Encode};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Features that this release knows. A log that names another is not written to.
const KNOWN_FEATURES: [&str; 0] = [];

/// How many runs are remembered, so that a second commit of one of them is void. The second can only come
/// from a put that was under way when the first was read, which is a matter of the last few entries.
const REMEMBERED_RUNS: usize = 256;

/// How many numbers of void entries are remembered.
const REMEMBERED_VOID: usize = 256;

/// What holds after an entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct State {
    /// Number of the last entry.
    #[n(0)]
    pub n: u64,
    /// Its hash.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub head: EntryHash,
    /// The repository.
    #[n(2)]
    pub repository: RepositoryId,
    /// Its root key, which may do everything.
    #[n(3)]
    pub root: WriterId,
    /// Enrolled writers.
    #[n(4)]
    pub writers: BTreeMap<WriterId, WriterState>,
    /// Who can open contents written from now on.
    #[n(5)]
    pub recipients: Vec<String>,
    /// Key slots.
    #[n(6)]
    pub slots: BTreeMap<SlotId, SlotRef>,
    /// Key epochs with their writers, oldest first.
    #[n(7)]
    pub epochs: Vec<EpochState>,
    /// Snapshots that are there.
    #[n(8)]
    pub snapshots: BTreeMap<SnapshotId, SnapshotState>,
    /// Snapshots that were forgotten and can still be brought back.
    #[n(9)]
    pub forgotten: BTreeMap<SnapshotId, ForgottenState>,
    /// Index objects that count.
    #[n(10)]
    pub indexes: BTreeMap<IndexId, IndexState>,
    /// Index objects that went and may be removed after their soft period.
    #[n(11)]
    pub stale_indexes: BTreeMap<IndexId, DoomState>,
    /// Packs that nothing may rely on. A doomed name never lives again.
    #[n(12)]
    pub doomed: BTreeMap<PackId, DoomState>,
    /// Frames whose blobs a writer takes as unknown.
    #[n(13)]
    pub sparse: BTreeSet<FrameName>,
    /// The last runs that committed.
    #[n(14)]
    pub runs: VecDeque<RunId>,
    /// Features that a writer must know.
    #[n(15)]
    pub features: BTreeSet<String>,
    /// Numbers of the last void entries, for display.
    #[n(16)]
    pub void: VecDeque<u64>,
    /// Packs that were found damaged or missing. Nothing new relies on them, and they count as no copy; who
    /// reads may try them.
    #[n(17)]
    pub damaged: BTreeSet<PackId>,
    /// Snapshots that are set aside: their record was found damaged or missing. They stand where they stood, and
    /// count for nothing.
    #[n(18)]
    pub set_aside: BTreeSet<SnapshotId>,
    /// Snapshot records that no entry has named and none may name any more.
    #[n(19)]
    pub stale_snapshots: BTreeMap<SnapshotId, DoomState>,
    /// Entries of kinds that this release does not know. While there is one it writes nothing.
    #[n(20)]
    pub unknown: Vec<UnknownEntry>,
    /// Below which archived log is no longer kept. One that is within another is dropped once both have let go.
    #[cbor(n(21), default, skip_if = "Vec::is_empty")]
    pub log_floors: Vec<FloorState>,
}

/// A floor of the archived log.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct FloorState {
    /// What lies below it.
    #[n(0)]
    pub floor: LogFloor,
    /// When that may go.
    #[n(1)]
    pub doom: DoomState,
    /// Forgotten base backups that were not counted.
    #[n(2)]
    pub without: Vec<SnapshotId>,
}

/// An entry of a kind that this release does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct UnknownEntry {
    /// Its number.
    #[n(0)]
    pub n: u64,
    /// Its kind.
    #[n(1)]
    pub kind: u32,
}

/// An enrolled writer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct WriterState {
    /// Sum of [`Rights`] bits.
    #[n(0)]
    pub rights: u32,
    /// Trust group.
    #[n(1)]
    pub group: String,
    /// For people.
    #[n(2)]
    pub label: String,
    /// False once it was distrusted.
    #[n(3)]
    pub trusted: bool,
    /// The only sources of which it may commit snapshots; nothing if it may of any.
    #[n(4)]
    pub sources: Option<Vec<String>>,
    /// Rights that an earlier enrolment gave and the newest does not.
    #[cbor(n(5), default, skip_if = "is_none")]
    pub once: u32,
}

/// A reference, as minicbor asks for it.
fn is_none(rights: &u32) -> bool {
    *rights == 0
}

/// A key epoch.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct EpochState {
    /// Its name and object.
    #[n(0)]
    pub epoch: EpochRef,
    /// Who began it.
    #[n(1)]
    pub writer: WriterId,
    /// True once it got a new wrap: then nothing new is written in it.
    #[n(2)]
    pub wrapped_again: bool,
}

/// A snapshot that is there.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SnapshotState {
    /// What the commit says of it.
    #[n(0)]
    pub snapshot: SnapshotRef,
    /// The entry that committed it.
    #[n(1)]
    pub n: u64,
    /// The newest evidence about it.
    #[n(2)]
    pub evidence: Option<EvidenceRef>,
}

/// A snapshot that was forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ForgottenState {
    /// What it was.
    #[n(0)]
    pub snapshot: SnapshotState,
    /// When it was forgotten.
    #[cbor(n(1), with = "cbor::time")]
    pub at: Timestamp,
    /// Why.
    #[n(2)]
    pub reason: String,
    /// The prune that began its soft period, after which it cannot be brought back.
    #[n(3)]
    pub doom: Option<DoomState>,
}

/// An index object that counts.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct IndexState {
    /// Who vouches for it: the writer of the commit that named it, also after a prune has rewritten it.
    #[n(0)]
    pub writer: WriterId,
    /// That entry.
    #[n(1)]
    pub n: u64,
}

/// Something that may be removed once its soft period is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct DoomState {
    /// The entry that doomed it.
    #[n(0)]
    pub n: u64,
    /// When that was.
    #[cbor(n(1), with = "cbor::time")]
    pub at: Timestamp,
    /// How long it stays, in seconds.
    #[n(2)]
    pub soft_seconds: u64,
}

impl DoomState {
    /// When it may be removed.
    pub fn over_at(&self) -> Timestamp {
        let soft = i64::try_from(self.soft_seconds).unwrap_or(i64::MAX);
        Timestamp::from_second(self.at.as_second().saturating_add(soft)).unwrap_or(Timestamp::MAX)
    }

    /// True once it may be removed.
    pub fn is_over(&self, now: Timestamp) -> bool {
        now.as_second().saturating_sub(self.at.as_second())
            >= i64::try_from(self.soft_seconds).unwrap_or(i64::MAX)
    }
}

/// Why an entry cannot follow the state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEntry {
    /// It is not the next one.
    #[error("is not the one that follows entry {after}")]
    WrongNumber {
        /// The last entry.
        after: u64,
    },
    /// It does not name the entry before it.
    #[error("does not continue the log that we have read: the log was replaced or rolled back")]
    WrongPrevious,
}

impl State {
    /// The state of a new repository, before the first entry.
    pub fn begin(header: &Header) -> Self {
        let slot = |slot: &FirstSlot| {
            let (id, label) = (slot.id, "made at init".to_owned());
            (id, SlotRef { id, kind: slot.kind.clone(), label })
        };
        Self {
            n: 0,
            head: hash_of(&header.to_bytes()),
            repository: header.core.repository,
            root: header.core.root,
            writers: BTreeMap::new(),
            recipients: header.core.recipients.clone(),
            slots: header.slots.iter().map(slot).collect(),
            epochs: Vec::new(),
            snapshots: BTreeMap::new(),
            forgotten: BTreeMap::new(),
            indexes: BTreeMap::new(),
            stale_indexes: BTreeMap::new(),
            doomed: BTreeMap::new(),
            sparse: BTreeSet::new(),
            runs: VecDeque::new(),
            features: BTreeSet::new(),
            void: VecDeque::new(),
            damaged: BTreeSet::new(),
            set_aside: BTreeSet::new(),
            stale_snapshots: BTreeMap::new(),
            unknown: Vec::new(),
            log_floors: Vec::new(),
        }
    }

    /// Applies the next entry.
    ///
    /// # Errors
    /// [`BadEntry`] if it does not follow; the state is then unchanged.
    pub fn apply(&mut self, entry: &LogEntry, writer: WriterId, hash: EntryHash) -> Result<(), BadEntry> {
        if entry.n != self.n + 1 {
            return Err(BadEntry::WrongNumber { after: self.n });
        }
        if entry.previous != self.head && !sabotage::on("rollback-unnoticed") {
            return Err(BadEntry::WrongPrevious);
        }
        self.apply_after_gap(entry, writer, hash);
        Ok(())
    }

    /// Applies an entry whatever came before it: for who reads on past one that cannot be read.
    pub(crate) fn apply_after_gap(&mut self, entry: &LogEntry, writer: WriterId, hash: EntryHash) {
        (self.n, self.head) = (entry.n, hash);
        let repeated = matches!(entry.change, Change::Commit(_)) && self.runs.contains(&entry.run);
        if repeated || self.lacks(writer, &entry.change).is_some() {
            self.void.push_back(entry.n);
            while self.void.len() > REMEMBERED_VOID {
                self.void.pop_front();
            }
            return;
        }
        self.change(entry, writer);
    }

    fn change(&mut self, entry: &LogEntry, writer: WriterId) {
        let n = entry.n;
        match &entry.change {
            Change::Commit(commit) => {
                for snapshot in &commit.snapshots {
                    let forgotten = self.forgotten.remove(&snapshot.id).map(|forgotten| forgotten.snapshot);
                    let earlier = forgotten.or_else(|| self.snapshots.remove(&snapshot.id));
                    let state = match earlier {
                        Some(earlier) => SnapshotState { n, ..earlier },
                        None => SnapshotState { snapshot: snapshot.clone(), n, evidence: None },
                    };
                    self.snapshots.insert(snapshot.id, state);
                }
                self.indexes.extend(commit.indexes.iter().map(|index| (*index, IndexState { writer, n })));
                self.runs.push_back(entry.run);
                while self.runs.len() > REMEMBERED_RUNS {
                    self.runs.pop_front();
                }
            }
            Change::Forget(forget) => {
                for id in &forget.snapshots {
                    if let Some(snapshot) = self.snapshots.remove(id) {
                        let (at, reason) = (entry.at, forget.reason.clone());
                        self.forgotten.insert(*id, ForgottenState { snapshot, at, reason, doom: None });
                    }
                }
            }
            Change::Prune(prune) => {
                let doom = DoomState { n, at: entry.at, soft_seconds: prune.soft_seconds };
                self.doomed.extend(prune.doomed.iter().map(|pack| (*pack, doom)));
                self.damaged.retain(|pack| !prune.doomed.contains(pack));
                for IndexAdded { id, voucher } in &prune.indexes_added {
                    self.indexes.insert(*id, IndexState { writer: *voucher, n });
                }
                for index in &prune.indexes_removed {
                    self.indexes.remove(index);
                    self.stale_indexes.insert(*index, doom);
                }
                for snapshot in &prune.snapshots {
                    match self.forgotten.get_mut(snapshot) {
                        Some(forgotten) => drop(forgotten.doom.get_or_insert(doom)),
                        None if self.snapshots.contains_key(snapshot) => {}
                        None => drop(self.stale_snapshots.entry(*snapshot).or_insert(doom)),
                    }
                }
                self.sparse = prune.sparse.iter().copied().collect();
            }
            Change::Removed(removed) => {
                self.doomed.retain(|pack, _| !removed.packs.contains(pack));
                self.stale_indexes.retain(|index, _| !removed.indexes.contains(index));
                for snapshot in &removed.snapshots {
                    self.stale_snapshots.remove(snapshot);
                    if self.forgotten.get(snapshot).is_some_and(|forgotten| forgotten.doom.is_some()) {
                        self.forgotten.remove(snapshot);
                        self.set_aside.remove(snapshot);
                    }
                }
            }
            Change::Enrol(enrol) => {
                let before = self.writers.get(&enrol.writer).map_or(0, |state| state.rights | state.once);
                let state = WriterState {
                    rights: enrol.rights,
                    group: enrol.group.clone(),
                    label: enrol.label.clone(),
                    trusted: true,
                    sources: enrol.sources.clone(),
                    once: before & !enrol.rights,
                };
                self.writers.insert(enrol.writer, state);
            }
            Change::Distrust(writer) => {
                if let Some(state) = self.writers.get_mut(writer) {
                    state.trusted = false;
                }
            }
            Change::Recipients(recipients) => self.recipients.clone_from(recipients),
            Change::SlotAdded(slot) => drop(self.slots.insert(slot.id, slot.clone())),
            Change::SlotRemoved(slot) => drop(self.slots.remove(slot)),
            Change::Epoch(epoch) => match self.epochs.iter_mut().find(|state| state.epoch.id == epoch.id) {
                Some(state) => (state.epoch, state.wrapped_again) = (epoch.clone(), true),
                None => {
                    self.epochs.push(EpochState { epoch: epoch.clone(), writer, wrapped_again: false });
                }
            },
            Change::Evidence(evidence) => {
                if let Some(snapshot) = self.snapshots.get_mut(&evidence.snapshot) {
                    snapshot.evidence = Some(evidence.clone());
                }
            }
            Change::Feature(feature) => drop(self.features.insert(feature.clone())),
            Change::Damaged(found) => {
                let doomed = &self.doomed;
                self.damaged.extend(found.packs.iter().filter(|pack| !doomed.contains_key(pack)));
                self.damaged.retain(|pack| !found.well.contains(pack));
                let known: Vec<_> = found.snapshots.iter().filter(|id| self.knows(**id)).copied().collect();
                self.set_aside.extend(known);
                self.set_aside.retain(|id| !found.snapshots_well.contains(id));
            }
            Change::LogFloors(change) => {
                let doom = DoomState { n, at: entry.at, soft_seconds: change.soft_seconds };
                let state =
                    |floor: &LogFloor| FloorState { floor: *floor, doom, without: change.without.clone() };
                self.log_floors.extend(change.floors.iter().map(state));
                self.drop_floors_within_others(entry.at);
            }
            Change::Unknown { kind } => self.unknown.push(UnknownEntry { n, kind: *kind }),
        }
    }

    /// So that there are as many as clusters and soft periods under way, and not one for each prune that ever was.
    fn drop_floors_within_others(&mut self, now: Timestamp) {
        let all = std::mem::take(&mut self.log_floors);
        let let_go: Vec<bool> = all.iter().map(|floor| self.lets_go(floor, now)).collect();
        let is_within = |at: usize| {
            let mut others = (0..all.len()).filter(|other| *other != at && let_go[*other]);
            // Of two that are the same, the later stays.
            others.any(|other| {
                all[at].floor.is_within(&all[other].floor)
                    && (all[at].floor != all[other].floor || at < other)
            })
        };
        let stays: Vec<bool> = (0..all.len()).map(|at| !(let_go[at] && is_within(at))).collect();
        self.log_floors =
            all.into_iter().zip(stays).filter(|(_, stays)| *stays).map(|(floor, _)| floor).collect();
    }

    /// True if what lies below this floor may be removed: its soft period is over, and none of the base backups that it was
    /// put without can come back.
    pub fn lets_go(&self, floor: &FloorState, now: Timestamp) -> bool {
        let can_come_back = |id: &SnapshotId| self.knows(*id) && !sabotage::on("floor-over-undelete");
        let is_over = floor.doom.is_over(now) || sabotage::on("log-removed-at-once");
        is_over && !floor.without.iter().any(can_come_back)
    }

    /// The floors below which nothing is kept. One that was put without a base backup that is listed again waits.
    pub fn floors_in_force(&self) -> impl Iterator<Item = &FloorState> {
        let is_in_force =
            |floor: &&FloorState| !floor.without.iter().any(|id| self.snapshots.contains_key(id));
        self.log_floors.iter().filter(is_in_force)
    }

    /// True if this file of the archived log goes, or will be removed should it come.
    pub fn is_floored(&self, system: SystemId, name: WalName) -> bool {
        self.floors_in_force().any(|state| state.floor.system == system && state.floor.covers(name))
    }

    /// What `writer` may do.
    pub fn rights_of(&self, writer: WriterId) -> Rights {
        if writer == self.root {
            return Rights::ALL;
        }
        match self.writers.get(&writer) {
            Some(state) if state.trusted => Rights(state.rights),
            _ => Rights::default(),
        }
    }

    /// True if `writer` may prune or ever might. What it bundled then must count for ever: the single ones are gone.
    pub fn ever_might_prune(&self, writer: WriterId) -> bool {
        let ever = self.writers.get(&writer).map(|state| Rights(state.rights | state.once));
        writer == self.root || ever.is_some_and(|rights| rights.allow(Rights::PRUNE))
    }

    /// What `writer` may not do of what this change does, in words; nothing if it may do all of it.
    pub fn lacks(&self, writer: WriterId, change: &Change) -> Option<&'static str> {
        let rights = self.rights_of(writer);
        if !rights.allow(change.needs()) {
            return Some(change.verb());
        }
        let Change::Commit(commit) = change else { return None };
        let brings_back = commit.snapshots.iter().any(|snapshot| self.forgotten.contains_key(&snapshot.id));
        if brings_back && !rights.allow(Rights::FORGET) {
            return Some("bring forgotten snapshots back");
        }
        let sources = self.writers.get(&writer).and_then(|state| state.sources.as_ref());
        let is_its_own = |name: &String| sources.is_none_or(|sources| sources.contains(name));
        match commit.snapshots.iter().all(|snapshot| is_its_own(&snapshot.source)) {
            true => None,
            false => Some("commit snapshots of this source"),
        }
    }

    /// The doom of a snapshot record that goes.
    pub fn doom_of(&self, snapshot: SnapshotId) -> Option<DoomState> {
        let forgotten = self.forgotten.get(&snapshot).and_then(|forgotten| forgotten.doom);
        forgotten.or_else(|| self.stale_snapshots.get(&snapshot).copied())
    }

    /// True if this writer is enrolled or once was.
    pub fn is_known(&self, writer: WriterId) -> bool {
        writer == self.root || self.writers.contains_key(&writer)
    }

    /// True if a copy in this pack can be relied on: the pack is not doomed and was not found damaged.
    pub fn is_good(&self, pack: PackId) -> bool {
        !self.doomed.contains_key(&pack) && !self.damaged.contains(&pack)
    }

    /// True if `reader` may rely on blobs that `writer` indexed: they are of one trust group.
    pub fn trusts(&self, reader: WriterId, writer: WriterId) -> bool {
        reader == writer || self.group_of(reader).is_some_and(|ours| Some(ours) == self.group_of(writer))
    }

    /// The trust group of a writer. Who is not enrolled or was distrusted is in none.
    pub fn group_of(&self, id: WriterId) -> Option<&str> {
        const ROOT_GROUP: &str = "owner";
        match self.writers.get(&id) {
            _ if id == self.root => Some(ROOT_GROUP),
            Some(state) if state.trusted => Some(&state.group),
            _ => None,
        }
    }

    /// True if this snapshot is there, or was and can perhaps be brought back.
    pub fn knows(&self, id: SnapshotId) -> bool {
        self.snapshots.contains_key(&id) || self.forgotten.contains_key(&id)
    }

    /// What in the log this release does not know, so that it must not write: a feature, or an entry.
    pub fn beyond_us(&self) -> Option<String> {
        if sabotage::on("any-feature") {
            return None;
        }
        let feature = self.features.iter().find(|feature| !KNOWN_FEATURES.contains(&feature.as_str()));
        let entry = self.unknown.first();
        let entry = entry.map(|UnknownEntry { n, kind }| format!("log entry {n} of kind {kind}"));
        feature.map(|feature| format!("the feature `{feature}`")).or(entry)
    }

    /// The snapshots of a source, or of all, newest moment first, without those that are set aside.
    pub fn newest_first(&self, source: Option<&str>) -> Vec<&SnapshotState> {
        let mut snapshots = self.all_newest_first(source);
        snapshots.retain(|state| !self.set_aside.contains(&state.snapshot.id));
        snapshots
    }

    /// The same with those that are set aside.
    pub fn all_newest_first(&self, source: Option<&str>) -> Vec<&SnapshotState> {
        let wanted = |state: &&SnapshotState| source.is_none_or(|source| state.snapshot.source == source);
        let mut snapshots: Vec<_> = self.snapshots.values().filter(wanted).collect();
        snapshots.sort_by_key(|state| std::cmp::Reverse((state.snapshot.moment, state.n, state.snapshot.id)));
        snapshots
    }

    /// The stored form, for a checkpoint.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        cbor::to_bytes(self)
    }
}

impl SnapshotState {
    /// True if a drill restored it and everything held.
    pub fn is_verified(&self) -> bool {
        self.evidence.as_ref().is_some_and(|evidence| evidence.passed)
    }
}
