//! All index objects that count, together: where every blob of the repository is.

use crate::RepoError;
use crate::epoch::{EpochRecord, SessionRecord};
use crate::index::{BadSegment, Location, Segment};
use crate::keys::MetadataKeys;
use crate::layout;
use crate::object::{BadObject, ObjectClass, open_object};
use crate::state::State;
use hikae_model::{BlobId, EpochId, FamilyId, IndexId, PackId, SessionId, WriterId, sabotage};
use hikae_store::Store;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

/// The segments of a state, ready to be looked up. Cheap to clone.
#[derive(Clone, Default)]
pub struct IndexSet {
    segments: BTreeMap<IndexId, Arc<Segment>>,
    /// Whoever indexes can bring a record of his own under any id; it must not hide the right one.
    sessions: HashMap<SessionId, Vec<SessionRecord>>,
    epochs: HashMap<EpochId, Vec<EpochRecord>>,
}

impl IndexSet {
    /// The index objects of `state`: from `cache` where they are there, else from the store. Segments that
    /// `self` has already are taken over.
    ///
    /// # Errors
    /// [`RepoError::Damaged`] if an object is not the index that its name promises.
    pub fn follow(
        &self,
        state: &State,
        store: &dyn Store,
        keys: &MetadataKeys,
        cache: &Path,
    ) -> Result<Self, RepoError> {
        let mut next = if sabotage::on("index-never-forgets") { self.clone() } else { Self::default() };
        for id in state.indexes.keys() {
            let segment = match self.segments.get(id) {
                Some(segment) => segment.clone(),
                None => Arc::new(load(*id, store, keys, cache)?),
            };
            next.add(segment);
        }
        Ok(next)
    }

    /// The same, and with it the index objects that went and are still stored: what a rescue looks in, since
    /// no living index names what is doomed.
    ///
    /// # Errors
    /// As for [`follow`](Self::follow).
    pub(crate) fn with_stale(
        &self,
        state: &State,
        store: &dyn Store,
        keys: &MetadataKeys,
        cache: &Path,
    ) -> Result<Self, RepoError> {
        let mut all = self.clone();
        for id in state.stale_indexes.keys() {
            match load(*id, store, keys, cache) {
                Ok(segment) => all.add(Arc::new(segment)),
                Err(RepoError::Store(error)) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// The index objects of `state` that can be had, for who reads: a lost one hides what only it names, and
    /// nothing else. Nobody may conclude from this that a blob is not there.
    ///
    /// # Errors
    /// Any failure that is not damage: the store does not answer, the cache cannot be used.
    pub(crate) fn what_opens(
        state: &State,
        store: &dyn Store,
        keys: &MetadataKeys,
        cache: &Path,
    ) -> Result<Self, RepoError> {
        let mut index = Self::default();
        for id in state.indexes.keys() {
            match load(*id, store, keys, cache) {
                Ok(segment) => index.add(Arc::new(segment)),
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(index)
    }

    /// Adds one more segment.
    pub fn add(&mut self, segment: Arc<Segment>) {
        segment.sessions().iter().for_each(|session| add_once(&mut self.sessions, session.id, session));
        segment.epochs().iter().for_each(|epoch| add_once(&mut self.epochs, epoch.id, epoch));
        self.segments.insert(segment.id, segment);
    }

    /// The segments.
    pub fn segments(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.segments.values()
    }

    /// One of them.
    pub fn get(&self, id: IndexId) -> Option<&Arc<Segment>> {
        self.segments.get(&id)
    }

    /// True if this index object is among them.
    pub fn has(&self, id: IndexId) -> bool {
        self.segments.contains_key(&id)
    }

    /// Every place of a blob, in packs that `is_live` accepts.
    ///
    /// # Errors
    /// [`RepoError::Cache`] if a cache file cannot be read.
    pub fn find(&self, id: BlobId, is_live: &dyn Fn(PackId) -> bool) -> Result<Vec<Location>, RepoError> {
        let mut places = Vec::new();
        for segment in self.segments.values() {
            segment.find(id, &mut |location| {
                if is_live(location.pack) {
                    places.push(location);
                }
                true
            })?;
        }
        Ok(places)
    }

    /// True if a blob has a place that `will_do`, in a pack that is neither doomed nor damaged in `state`, named by an index
    /// object of a writer whom `reader` trusts.
    ///
    /// # Errors
    /// As for [`find`](Self::find).
    pub(crate) fn has_good(
        &self,
        id: BlobId,
        state: &State,
        reader: WriterId,
        will_do: &dyn Fn(&Location) -> bool,
    ) -> Result<bool, RepoError> {
        for segment in self.segments.values() {
            let vouched = state.indexes.get(&segment.id);
            if !vouched.is_some_and(|index| state.trusts(reader, index.writer)) {
                continue;
            }
            let mut is_good = false;
            segment.find(id, &mut |place| {
                is_good = state.is_good(place.pack) && will_do(&place);
                !is_good
            })?;
            if is_good {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The records of a session: one, unless somebody lies.
    pub fn sessions(&self, id: SessionId) -> &[SessionRecord] {
        self.sessions.get(&id).map_or(&[], Vec::as_slice)
    }

    /// The record of a session's epoch, which its own writer has signed.
    pub fn epoch_of(&self, session: &SessionRecord, family: FamilyId) -> Option<&EpochRecord> {
        let mut epochs = self.epochs.get(&session.epoch)?.iter();
        epochs.find(|epoch| epoch.writer == session.writer && epoch.is_signed(family))
    }

    /// Packs that any segment names.
    pub fn packs(&self) -> impl Iterator<Item = &crate::index::IndexedPack> {
        self.segments.values().flat_map(|segment| segment.packs())
    }

    /// How many blobs are named, copies counted.
    pub fn n_blobs(&self) -> u64 {
        self.segments.values().map(|segment| segment.n_blobs() as u64).sum()
    }
}

fn add_once<K: Eq + std::hash::Hash, R: Clone + PartialEq>(
    records: &mut HashMap<K, Vec<R>>,
    id: K,
    record: &R,
) {
    let of_id = records.entry(id).or_default();
    if !of_id.contains(record) {
        of_id.push(record.clone());
    }
}

/// Reads and checks the body of an index object.
///
/// # Errors
/// [`RepoError::Damaged`] if it is not the index that its name promises.
pub fn read_index(id: IndexId, store: &dyn Store, keys: &MetadataKeys) -> Result<Vec<u8>, RepoError> {
    let key = layout::index(id);
    let stored = store.get(&key)?;
    if blake3::hash(&stored).as_bytes() != id.as_bytes() {
        return Err(RepoError::damaged(key)(BadObject::BrokenSeal));
    }
    let opened = open_object(ObjectClass::Index, b"", stored, keys).map_err(RepoError::damaged(key))?;
    Ok(opened.body)
}

fn load(id: IndexId, store: &dyn Store, keys: &MetadataKeys, cache: &Path) -> Result<Segment, RepoError> {
    match Segment::open(id, cache, keys.hash_key()) {
        Ok(segment) => return Ok(segment),
        Err(BadSegment::Stale | BadSegment::Object(_)) => {}
        Err(BadSegment::Io(error)) => return Err(error),
    }
    let body = read_index(id, store, keys)?;
    Segment::create(id, &body, cache, keys.hash_key()).map_err(|error| match error {
        BadSegment::Object(why) => RepoError::damaged(layout::index(id))(why),
        BadSegment::Io(error) => error,
        BadSegment::Stale => RepoError::Worker,
    })
}
