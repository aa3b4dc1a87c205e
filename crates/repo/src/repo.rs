//! An open repository: its store, its keys, what its log says, and where its blobs are.

use crate::RepoError;
use crate::doubt::{Doubt, Seen};
use crate::epoch::{ContentKeys, EpochRecord};
use crate::header::{Core, FirstSlot, Header};
use crate::index_set::IndexSet;
use crate::keys::{MetadataKeys, RepositorySecret, Secret32, Signer};
use crate::layout;
use crate::log::{EpochRef, LogEntry, Rights, hash_of};
use crate::near::Near;
use crate::object::{BadObject, ObjectClass, open_object, seal_object};
use crate::recipient::{Identity, identity};
use crate::salvage::salvage;
use crate::slot::{self, OpenedSlot, Payload, Unlock, Wrap};
use crate::snapshot::Snapshot;
use crate::state::{State, WriterState};
use crate::unlocked::{Unlocked, cache_of};
use crate::{cbor, log};
use hikae_model::{Cx, HashKey, IndexId, PackId, RepositoryId, SlotId, SnapshotId, WriterId, sabotage};
use hikae_store::{Store, StoreError};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

/// A checkpoint is written after every so many entries: who has never been here reads as many at most, one after the
/// other.
const ENTRIES_PER_CHECKPOINT: u64 = 8;

/// An open repository. Shared between threads behind an `Arc`.
pub struct Repo {
    unlocked: Arc<Unlocked>,
    cache: PathBuf,
    near: Near,
    cx: Cx,
    followed: RwLock<Followed>,
    dooms: Mutex<Dooms>,
    following: Mutex<()>,
    /// What was wrong with the log when it was opened: see `doubt`.
    pub(crate) doubts: Vec<Doubt>,
    /// True if the state is made of what could be read of a damaged log: see `salvage`.
    is_salvaged: bool,
}

/// Everything whose doom we have read, also what is gone since: none of it lives again (rule R12).
struct Dooms {
    /// With the entry that doomed each.
    packs: HashMap<PackId, u64>,
    indexes: HashSet<IndexId>,
    snapshots: HashSet<SnapshotId>,
}

impl Dooms {
    fn of(state: &State) -> Self {
        Self {
            packs: state.doomed.iter().map(|(pack, doom)| (*pack, doom.n)).collect(),
            indexes: state.stale_indexes.keys().copied().collect(),
            snapshots: state.stale_snapshots.keys().copied().collect(),
        }
    }

    /// Takes in what entry `n` has doomed, which a void entry has not: `state` is what holds after it.
    fn read(&mut self, n: u64, prune: &log::Prune, state: &State) {
        let packs = prune.doomed.iter().filter(|pack| state.doomed.contains_key(pack));
        self.packs.extend(packs.map(|pack| (*pack, n)));
        let indexes = prune.indexes_removed.iter().filter(|index| state.stale_indexes.contains_key(index));
        self.indexes.extend(indexes);
        let snapshots = prune.snapshots.iter().filter(|id| state.stale_snapshots.contains_key(id));
        self.snapshots.extend(snapshots);
    }
}

#[derive(Clone)]
struct Followed {
    state: Arc<State>,
    index: Arc<IndexSet>,
}

/// What a new repository should be.
pub struct InitOptions<'a> {
    /// Who can open contents, besides the first identity.
    pub recipients: Vec<String>,
    /// Leave out the first identity: then only `recipients` can open contents, and the recovery sheet
    /// cannot.
    pub without_first_identity: bool,
    /// What opens it from now on.
    pub wrap: Wrap<'a>,
    /// The slot gets metadata keys and a writer's key only; the secret is on the recovery sheet and nowhere
    /// else.
    pub write_only: bool,
    /// Make it of the family of this one, which an owner has opened: secret, recipients and writers are shared, so what is
    /// sealed can be copied from one to the other as it is. `recipients` then say nothing.
    pub like: Option<&'a Repo>,
}

impl<'a> InitOptions<'a> {
    /// A repository that `wrap` opens whole, contents and all.
    pub fn opened_by(wrap: Wrap<'a>) -> Self {
        Self { recipients: Vec::new(), without_first_identity: false, wrap, write_only: false, like: None }
    }
}

/// A repository that was just made, and its secret, for the recovery sheet.
pub struct NewRepository {
    /// The repository, open.
    pub repo: Repo,
    /// The secret. Show it once and drop it.
    pub secret: RepositorySecret,
}

impl Repo {
    /// Makes a repository in an empty store.
    ///
    /// Slots come first and `hikae.json` last; a death before that leaves nothing but unused slots.
    ///
    /// # Errors
    /// [`RepoError::RepositoryExists`] if there is one, [`RepoError::NoRight`] if it is to be like one of which we are no
    /// owner.
    pub fn init(
        store: Arc<dyn Store>,
        options: &InitOptions<'_>,
        cache: &Path,
        cx: &Cx,
    ) -> Result<NewRepository, RepoError> {
        match store.stat(&layout::header()) {
            Ok(_) => return Err(RepoError::RepositoryExists { address: store.address() }),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        let secret = match options.like {
            None => RepositorySecret::new(cx.random()),
            Some(like) => like.family_secret()?.clone(),
        };
        let keys = secret.metadata_keys();
        let root = secret.root();
        let mut recipients = options.recipients.clone();
        if !options.without_first_identity {
            recipients.insert(0, identity(&secret.first_identity()).to_public().to_string());
        }
        if let Some(like) = options.like {
            recipients.clone_from(&like.follow()?.recipients);
        }
        // Fails here, before anything is written, if a recipient is none.
        EpochRecord::begin(&recipients, keys.family(), &root, cx)?;
        let repository = RepositoryId::from_bytes(cx.random());
        let core = Core::new(repository, keys.family(), root.id(), recipients, cx.now());
        let signer = match options.write_only {
            true => Signer::from_seed(&Secret32::new(cx.random())),
            false => Signer::from_seed(root.seed()),
        };
        let payload = match options.write_only {
            true => {
                Payload::Writer { keys: Box::new(keys.clone()), signer: Signer::from_seed(signer.seed()) }
            }
            false => Payload::Owner(secret.clone()),
        };
        let (slot, stored) = slot::make(&payload, core.hash(), &options.wrap, cx)?;
        store.put(&layout::slot(slot), &stored)?;
        let kind = options.wrap.kind().to_owned();
        let header = Header { core, slots: vec![FirstSlot { id: slot, kind }] };
        match store.put(&layout::header(), &header.to_bytes()) {
            Ok(()) => {}
            Err(StoreError::Exists { .. }) => {
                return Err(RepoError::RepositoryExists { address: store.address() });
            }
            Err(error) => return Err(error.into()),
        }
        let opened = OpenedSlot { payload: Payload::Owner(secret.clone()), header: header.core.hash() };
        let unlocked = Unlocked::with(store, header, opened, Vec::new())?;
        let mut repo = Self::follow_from(Arc::new(unlocked), cache, cx)?;
        if let Some(like) = options.like {
            repo.enrol_writers_of(like)?;
        }
        if options.write_only {
            let enrol = log::Enrol {
                writer: signer.id(),
                rights: Rights::WRITE.0,
                group: "owner".to_owned(),
                label: "made at init".to_owned(),
                sources: None,
            };
            repo.append(&mut |_| Ok(log::Change::Enrol(enrol.clone())))?;
            repo.unlocked = Arc::new(repo.unlocked.only_write(signer));
        }
        Ok(NewRepository { repo, secret })
    }

    /// The secret, for a repository that is to share it.
    ///
    /// # Errors
    /// [`RepoError::NoRight`] for who is no owner.
    pub fn family_secret(&self) -> Result<&RepositorySecret, RepoError> {
        self.secret().ok_or(RepoError::NoRight { what: "make a repository like this one" })
    }

    /// Enrols here whoever was ever enrolled in `other`, a repository of the family, and is unknown here: with the same
    /// rights, and distrusted where that was done there. What such a writer has signed counts here once it is copied.
    ///
    /// # Errors
    /// [`RepoError::NoRight`] if there is somebody to enrol and we are no owner.
    pub(crate) fn enrol_writers_of(&self, other: &Self) -> Result<(), RepoError> {
        let (state, theirs) = (self.follow()?, other.state());
        for (writer, known) in theirs.writers.iter().filter(|(writer, _)| !state.is_known(**writer)) {
            let WriterState { rights, group, label, trusted, sources, once } = known.clone();
            let enrol = log::Enrol { writer: *writer, rights, group, label, sources };
            if once != 0 {
                let before = log::Enrol { rights: rights | once, ..enrol.clone() };
                self.append(&mut |_| Ok(log::Change::Enrol(before.clone())))?;
            }
            self.append(&mut |_| Ok(log::Change::Enrol(enrol.clone())))?;
            if !trusted {
                self.append(&mut |_| Ok(log::Change::Distrust(*writer)))?;
            }
        }
        Ok(())
    }

    /// Opens the repository in `store` and reads its log. If that is damaged or older than this machine has seen it,
    /// [`doubts`](Self::doubts) says so: what is kept can be read, and nothing be written.
    ///
    /// `identities` open contents in addition to what `unlock` gives.
    ///
    /// # Errors
    /// [`RepoError::NoRepository`], [`RepoError::WrongKey`], [`RepoError::TooNew`], [`RepoError::BadLog`].
    pub fn open(
        store: Arc<dyn Store>,
        unlock: Unlock,
        identities: Vec<Identity>,
        cache: &Path,
        cx: &Cx,
    ) -> Result<Self, RepoError> {
        Self::follow_from(Arc::new(Unlocked::open(store, unlock, identities, cache)?), cache, cx)
    }

    /// Reads the log of a repository that was unlocked.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn follow_from(unlocked: Arc<Unlocked>, cache: &Path, cx: &Cx) -> Result<Self, RepoError> {
        let cache = cache_of(cache, &unlocked.header);
        for directory in [cache.join("index"), cache.join("near"), cache.clone()] {
            let made = std::fs::create_dir_all(&directory);
            made.map_err(|source| RepoError::Cache { path: directory.clone(), source })?;
            sweep_cache(&directory, cx);
        }
        let state = Arc::new(State::begin(&unlocked.header));
        let mut repo = Self {
            near: Near::of(&*unlocked.store, cache.join("near")),
            unlocked,
            cache,
            cx: cx.clone(),
            dooms: Mutex::new(Dooms::of(&state)),
            followed: RwLock::new(Followed { state, index: Arc::default() }),
            following: Mutex::new(()),
            doubts: Vec::new(),
            is_salvaged: false,
        };
        let seen = repo.compare_with_memory()?;
        let state = match seen {
            Seen::Here(head) => repo.remembered_state(&head),
            Seen::Nothing => None,
            Seen::Otherwise(doubt) => {
                repo.doubts.push(doubt);
                None
            }
        };
        repo.begin_at(state.map_or_else(|| newest_checkpoint(&repo.unlocked), Ok)?);
        match repo.follow_to_the_end() {
            Ok(()) => {}
            // Only who reads goes on from here: see `check_no_doubt`.
            Err(RepoError::Damaged { .. } | RepoError::BadLog { .. }) => repo.read_past_damage()?,
            Err(error) => return Err(error),
        }
        Ok(repo)
    }

    fn begin_at(&mut self, state: State) {
        *lock(&self.dooms) = Dooms::of(&state);
        let followed = Followed { state: Arc::new(state), index: Arc::default() };
        *self.followed.write().unwrap_or_else(|broken| broken.into_inner()) = followed;
    }

    /// Reads the log to its end, and sees that nothing is missing before that.
    fn follow_to_the_end(&self) -> Result<(), RepoError> {
        // Most often nothing has come since this machine last looked, and then this is the only question.
        let n = self.state().n;
        match self.last_entry_after(n)? {
            None => Ok(()),
            Some(_) => self.follow().and_then(|state| self.check_log_ends_at(state.n)),
        }
    }

    /// Reads the log past what cannot be read, and stays with what came of it.
    fn read_past_damage(&mut self) -> Result<(), RepoError> {
        let mut state = (*self.state()).clone();
        let doubts = salvage(self, &mut state)?;
        self.is_salvaged = !doubts.is_empty();
        self.doubts.extend(doubts);
        self.begin_at(state);
        Ok(())
    }

    /// Reads the entries that came since, and gives the newest state.
    ///
    /// # Errors
    /// [`RepoError::BadLog`] if the log does not continue as it was.
    pub fn follow(&self) -> Result<Arc<State>, RepoError> {
        if self.is_salvaged {
            return Ok(self.state());
        }
        let _one_at_a_time = lock(&self.following);
        let mut state = (*self.state()).clone();
        let n = state.n;
        while let Some((entry, writer, hash)) = self.read_entry(state.n + 1)? {
            self.take(&mut state, &entry, writer, hash)?;
        }
        if state.n > n { self.stand_at(state) } else { Ok(self.state()) }
    }

    /// Goes on to entry `n`, which this process has just put and need not fetch: these are its bytes.
    ///
    /// # Errors
    /// As for [`follow`](Self::follow).
    pub(crate) fn follow_own(&self, n: u64, stored: Vec<u8>) -> Result<Arc<State>, RepoError> {
        let one_at_a_time = lock(&self.following);
        let mut state = (*self.state()).clone();
        if state.n + 1 != n {
            drop(one_at_a_time);
            return self.follow();
        }
        let (entry, writer, hash) = self.open_entry(n, stored)?;
        self.take(&mut state, &entry, writer, hash)?;
        self.stand_at(state)
    }

    /// Goes on from `state` by the entry that follows it.
    fn take(
        &self,
        state: &mut State,
        entry: &LogEntry,
        writer: WriterId,
        hash: log::EntryHash,
    ) -> Result<(), RepoError> {
        let n = entry.n;
        state.apply(entry, writer, hash).map_err(|why| RepoError::BadLog { n, why: why.to_string() })?;
        if let log::Change::Prune(prune) = &entry.change {
            lock(&self.dooms).read(n, prune, state);
        }
        if let log::Change::Removed(removed) = &entry.change {
            // Names that are gone never come back, so neither do their files in the cache. One that stays
            // costs space and nothing else.
            let gone = removed.indexes.iter().filter(|index| !state.indexes.contains_key(index));
            gone.for_each(|index| drop(std::fs::remove_file(self.index_cache().join(index.to_string()))));
            let packs = removed.packs.iter().map(|pack| layout::pack(*pack));
            let snapshots = removed.snapshots.iter().map(|snapshot| layout::snapshot(*snapshot));
            packs.chain(snapshots).for_each(|key| self.near.forget(&key));
        }
        Ok(())
    }

    /// Makes `state` the one that was read last.
    fn stand_at(&self, state: State) -> Result<Arc<State>, RepoError> {
        let mut followed = self.followed();
        followed.state = Arc::new(state);
        *self.followed.write().unwrap_or_else(|broken| broken.into_inner()) = followed.clone();
        self.remember(&followed.state)?;
        Ok(followed.state)
    }

    /// The state that was read last.
    pub fn state(&self) -> Arc<State> {
        self.followed().state
    }

    /// Where the blobs of the state that was read last are.
    ///
    /// # Errors
    /// Any failure to fetch an index object.
    pub fn index(&self) -> Result<Arc<IndexSet>, RepoError> {
        let _one_at_a_time = lock(&self.following);
        let mut followed = self.followed().clone();
        let complete = followed.index.segments().count() == followed.state.indexes.len()
            && followed.state.indexes.keys().all(|id| followed.index.has(*id));
        if !complete {
            let index =
                followed.index.follow(&followed.state, self.store(), self.keys(), &self.index_cache())?;
            followed.index = Arc::new(index);
            *self.followed.write().unwrap_or_else(|broken| broken.into_inner()) = followed.clone();
        }
        Ok(followed.index)
    }

    /// True if nothing may rely on this pack any more.
    pub fn is_doomed(&self, pack: PackId) -> bool {
        lock(&self.dooms).packs.contains_key(&pack)
    }

    /// True if nothing may name this index object any more.
    pub(crate) fn is_doomed_index(&self, index: IndexId) -> bool {
        lock(&self.dooms).indexes.contains(&index)
    }

    /// True if nothing may name this snapshot record any more.
    pub(crate) fn is_doomed_snapshot(&self, snapshot: SnapshotId) -> bool {
        lock(&self.dooms).snapshots.contains(&snapshot)
    }

    /// Asks the store whether it has a pack.
    pub(crate) fn is_stored(&self, pack: PackId) -> Result<bool, RepoError> {
        match self.store().stat(&layout::pack(pack)) {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// True if an entry after `n` has doomed a pack, as far as we have read.
    pub(crate) fn has_doomed_since(&self, n: u64) -> bool {
        lock(&self.dooms).packs.values().any(|doomed| *doomed > n)
    }

    /// Reads entry `n`, if it is there.
    ///
    /// # Errors
    /// [`RepoError::Damaged`] if it does not open.
    pub fn read_entry(&self, n: u64) -> Result<Option<(LogEntry, WriterId, log::EntryHash)>, RepoError> {
        match self.store().get(&layout::log_entry(n)) {
            Ok(stored) => self.open_entry(n, stored).map(Some),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn open_entry(&self, n: u64, stored: Vec<u8>) -> Result<(LogEntry, WriterId, log::EntryHash), RepoError> {
        let hash = hash_of(&stored);
        let opened = LogEntry::open(n, stored, self.header().core.repository, self.keys());
        let (entry, writer) = opened.map_err(RepoError::damaged(layout::log_entry(n)))?;
        Ok((entry, writer, hash))
    }

    /// Reads the record of a snapshot, whether it is in the state or not.
    ///
    /// # Errors
    /// [`RepoError::Damaged`] if it does not open.
    pub fn snapshot(&self, id: SnapshotId) -> Result<Snapshot, RepoError> {
        let key = layout::snapshot(id);
        let stored = self.near.get(self.store(), &key)?;
        Snapshot::open(id, stored, self.keys()).map_err(RepoError::damaged(key))
    }

    /// From here on nothing is read from the copies that this machine keeps of small objects: what comes back comes back
    /// from the store.
    pub fn set_copies_aside(&self) {
        self.near.set_aside();
    }

    pub(crate) fn near(&self) -> &Near {
        &self.near
    }

    /// The newest state, in which those snapshots count as set aside, too, whose record cannot be read today:
    /// for who chooses among snapshots, so that none is taken for a backup that is none. With it the reason for
    /// each that is set aside now, if there is one.
    ///
    /// # Errors
    /// Any failure to read that is no damage: what the store does not let us read is never taken for lost.
    pub fn readable(&self) -> Result<(State, BTreeMap<SnapshotId, Option<RepoError>>), RepoError> {
        let mut state = (*self.follow()?).clone();
        let mut aside = BTreeMap::new();
        for id in state.snapshots.keys() {
            match self.snapshot(*id) {
                Ok(_) if state.set_aside.contains(id) => drop(aside.insert(*id, None)),
                Ok(_) => {}
                Err(_) if sabotage::on("unread-is-good") => {}
                Err(error) if error.is_damage() => drop(aside.insert(*id, Some(error))),
                Err(error) => return Err(error),
            }
        }
        state.set_aside.extend(aside.keys());
        Ok((state, aside))
    }

    /// Adds a key slot: its object, then the entry that names it.
    ///
    /// # Errors
    /// [`RepoError::NoRight`] for who is no owner.
    pub fn add_slot(&self, wrap: &Wrap<'_>, label: &str) -> Result<SlotId, RepoError> {
        let Some(secret) = &self.unlocked.secret else {
            return Err(RepoError::NoRight { what: "add a key" });
        };
        let payload = Payload::Owner(secret.clone());
        let (id, stored) = slot::make(&payload, self.header().core.hash(), wrap, &self.cx)?;
        self.put_named(&layout::slot(id), &stored)?;
        let slot = log::SlotRef { id, kind: wrap.kind().to_owned(), label: label.to_owned() };
        self.append(&mut |_| Ok(log::Change::SlotAdded(slot.clone())))?;
        Ok(id)
    }

    /// Objects that open the repository and that no entry names: of a removal that died between the two, or of
    /// one who adds a key at this moment.
    ///
    /// # Errors
    /// Any failure to list or read them.
    pub fn stray_slots(&self) -> Result<Vec<SlotId>, RepoError> {
        let mut ids: Vec<SlotId> = Vec::new();
        self.store().list(layout::KEYS, &mut |object| ids.extend(layout::name_of::<SlotId>(&object.key)))?;
        // After the list: what was added in between is named.
        let state = self.follow()?;
        ids.retain(|id| !state.slots.contains_key(id));
        let mut strays = Vec::new();
        for id in ids {
            // Epochs lie among the slots, those too of which a newer wrap is in use.
            let stored = self.store().get(&layout::slot(id))?;
            if open_object(ObjectClass::Epoch, b"", stored, self.keys()).is_err() {
                strays.push(id);
            }
        }
        Ok(strays)
    }

    /// Removes a key slot: the entry first, then the object. The last one stays. For a stray one only the object
    /// is left to remove.
    ///
    /// # Errors
    /// [`RepoError::BadKey`] if there is no such slot or it is the last.
    pub fn remove_slot(&self, id: SlotId) -> Result<(), RepoError> {
        self.check_no_doubt()?;
        if self.stray_slots()?.contains(&id) {
            return Ok(self.store().remove(&layout::slot(id))?);
        }
        if sabotage::on("key-removed-before-its-entry") {
            self.store().remove(&layout::slot(id))?;
        }
        self.append(&mut |state| match state.slots.contains_key(&id) {
            false => Err(RepoError::BadKey { what: format!("there is no key {}", id.short()) }),
            true if state.slots.len() == 1 && !sabotage::on("last-key-goes") => Err(RepoError::BadKey {
                what: "the last key cannot be removed; add another first".to_owned(),
            }),
            true => Ok(log::Change::SlotRemoved(id)),
        })?;
        Ok(self.store().remove(&layout::slot(id))?)
    }

    /// The epoch that new sessions of this writer belong to: its newest, unless that is too old or the
    /// recipients have changed since; else a new one.
    ///
    /// # Errors
    /// Any failure to read or begin it.
    pub(crate) fn current_epoch(&self, max_days: i64) -> Result<EpochRecord, RepoError> {
        let state = self.state();
        // The key of a wrap that was made later is known to recipients that may have been removed since.
        let own = state
            .epochs
            .iter()
            .rev()
            .find(|epoch| epoch.writer == self.signer().id() && !epoch.wrapped_again);
        if let Some(own) = own {
            let epoch = self.read_epoch(&own.epoch)?;
            let age_days = (self.cx.now().as_second() - epoch.began.as_second()) / 86_400;
            if epoch.recipients == state.recipients && (0..max_days).contains(&age_days) {
                return Ok(epoch);
            }
        }
        let epoch = EpochRecord::begin(&state.recipients, self.keys().family(), self.signer(), &self.cx)?;
        self.put_epoch(&epoch)?;
        Ok(epoch)
    }

    /// Stores an epoch, or a new wrap of one, and names it in the log.
    ///
    /// # Errors
    /// Any failure to put either.
    pub fn put_epoch(&self, epoch: &EpochRecord) -> Result<(), RepoError> {
        let stored = seal_object(ObjectClass::Epoch, b"", cbor::to_bytes(epoch), self.keys(), self.signer());
        let object = SlotId::from_bytes(hash_of(&stored));
        self.put_named(&layout::slot(object), &stored)?;
        let named = EpochRef { id: epoch.id, object };
        self.append(&mut |_| Ok(log::Change::Epoch(named.clone())))?;
        Ok(())
    }

    /// Reads the record of an epoch.
    ///
    /// # Errors
    /// [`RepoError::Damaged`] if it does not open.
    pub fn read_epoch(&self, epoch: &EpochRef) -> Result<EpochRecord, RepoError> {
        let key = layout::slot(epoch.object);
        let stored = self.near.get(self.store(), &key)?;
        if hash_of(&stored) != *epoch.object.as_bytes() {
            return Err(RepoError::damaged(key)(BadObject::BrokenSeal));
        }
        let opened = open_object(ObjectClass::Epoch, b"", stored, self.keys());
        opened.and_then(|opened| cbor::from_bytes(&opened.body)).map_err(RepoError::damaged(key))
    }

    /// Stores an object whose name is its hash. One that is there already is the same one.
    pub(crate) fn put_named(&self, key: &hikae_store::ObjectKey, bytes: &[u8]) -> Result<(), RepoError> {
        self.check_no_doubt()?;
        match self.store().put(key, bytes) {
            Ok(()) | Err(StoreError::Exists { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a checkpoint of `state` if one is due. A failure costs reading time and nothing else.
    pub(crate) fn checkpoint(&self, state: &State) {
        if state.n.is_multiple_of(ENTRIES_PER_CHECKPOINT) {
            let context = log::context(state.repository, state.n);
            let stored =
                seal_object(ObjectClass::Checkpoint, &context, state.to_bytes(), self.keys(), self.signer());
            // Nothing rests on a checkpoint, so nothing fails with it; the next one is written by the next writer.
            drop(self.store().put(&layout::checkpoint(state.n), &stored));
        }
    }

    /// What opens without the log.
    pub fn unlocked(&self) -> &Arc<Unlocked> {
        &self.unlocked
    }

    /// The store.
    pub fn store(&self) -> &dyn Store {
        &*self.unlocked.store
    }

    /// What `hikae.json` says.
    pub fn header(&self) -> &Header {
        &self.unlocked.header
    }

    /// The keys of metadata.
    pub fn keys(&self) -> &MetadataKeys {
        &self.unlocked.keys
    }

    /// Key for hashes in manifests.
    pub fn hash_key(&self) -> HashKey {
        self.unlocked.keys.hash_key()
    }

    /// The keys of contents.
    pub fn contents(&self) -> &ContentKeys {
        &self.unlocked.contents
    }

    /// What this process signs with.
    pub fn signer(&self) -> &Signer {
        &self.unlocked.signer
    }

    /// The repository secret, if it was opened with an owner's key.
    pub fn secret(&self) -> Option<&RepositorySecret> {
        self.unlocked.secret.as_ref()
    }

    /// The context that it was opened with.
    pub fn cx(&self) -> &Cx {
        &self.cx
    }

    pub(crate) fn index_cache(&self) -> PathBuf {
        self.cache.join("index")
    }

    /// Where this machine keeps what it remembers of this repository. All of it may be deleted at any time.
    pub(crate) fn cache(&self) -> &Path {
        &self.cache
    }

    /// Where this machine remembers what the log has let go.
    pub(crate) fn let_go_memory(&self) -> PathBuf {
        self.cache.join("let-go")
    }

    fn followed(&self) -> Followed {
        self.followed.read().unwrap_or_else(|broken| broken.into_inner()).clone()
    }

    /// Sees that the log really ends with entry `n`. An entry that is missing while later ones are there must
    /// not be filled in: the later ones would continue another log than ours.
    ///
    /// # Errors
    /// [`RepoError::BadLog`] if it does not.
    pub(crate) fn check_log_ends_at(&self, n: u64) -> Result<(), RepoError> {
        // Somebody may have put `n + 1` since we looked; then it is there now.
        match self.last_entry_after(n)? {
            Some(last) if self.read_entry(n + 1)?.is_none() => {
                let why = format!("is missing, and entry {last} is there");
                Err(RepoError::BadLog { n: n + 1, why })
            }
            _ => Ok(()),
        }
    }

    /// The last of the entries after `n` that are listed.
    fn last_entry_after(&self, n: u64) -> Result<Option<u64>, RepoError> {
        let mut last = None;
        let after = layout::log_entry(n);
        self.store().list_after(layout::LOG, &after, &mut |object| {
            last = last.max(layout::name_of::<u64>(&object.key).filter(|listed| *listed > n));
        })?;
        Ok(last)
    }
}

/// How long a file of the cache may take to be written.
const HALF_WRITTEN_STAYS: SignedDuration = SignedDuration::from_hours(1);

/// Removes what processes that were killed left half written in the cache: temporary files of a process that is not
/// there and that are old, for the cache may be shared with machines whose processes we do not see. What cannot
/// be removed costs space and nothing else.
fn sweep_cache(directory: &Path, cx: &Cx) {
    let Ok(names) = std::fs::read_dir(directory) else { return };
    for file in names.flatten() {
        let name = file.file_name();
        let process = name.to_str().and_then(|name| name.strip_suffix(".tmp")?.rsplit('.').next());
        let Some(process) = process.and_then(|process| process.parse::<u32>().ok()) else { continue };
        let written = file.metadata().and_then(|metadata| metadata.modified());
        let written = written.ok().and_then(|time| Timestamp::try_from(time).ok());
        let is_old = written.is_some_and(|written| cx.now().duration_since(written) > HALF_WRITTEN_STAYS);
        if is_old && !Path::new("/proc").join(process.to_string()).exists() {
            drop(std::fs::remove_file(file.path()));
        }
    }
}

/// The newest checkpoint that we believe, or the beginning.
///
/// A checkpoint is believed if the root key signed it, or we did ourselves: another writer could enrol
/// itself in a state of its own making.
fn newest_checkpoint(unlocked: &Unlocked) -> Result<State, RepoError> {
    let Unlocked { store, header, keys, signer, .. } = unlocked;
    let mut numbers = Vec::new();
    store.list(layout::CHECKPOINTS, &mut |object| numbers.extend(layout::name_of::<u64>(&object.key)))?;
    numbers.sort_unstable();
    for n in numbers.into_iter().rev() {
        let Ok(stored) = store.get(&layout::checkpoint(n)) else { continue };
        let context = log::context(header.core.repository, n);
        let Ok(opened) = open_object(ObjectClass::Checkpoint, &context, stored, keys) else { continue };
        let Ok(state) = cbor::from_bytes::<State>(&opened.body) else { continue };
        let believed = opened.writer == header.core.root || opened.writer == signer.id();
        if believed && state.n == n && state.repository == header.core.repository {
            return Ok(state);
        }
    }
    Ok(State::begin(header))
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|broken| broken.into_inner())
}
