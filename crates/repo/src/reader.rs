//! Reading blobs back: find, fetch, open, compare.
//!
//! Every blob that leaves this module was compared with its name. One copy that is damaged or gone is no
//! loss while another is good.

use crate::RepoError;
use crate::epoch::SessionRecord;
use crate::frame::FrameCoder;
use crate::index::Location;
use crate::index_set::IndexSet;
use crate::keys::{BlobClass, Secret32};
use crate::layout;
use crate::pack::PackedFrame;
use crate::repo::Repo;
use hikae_model::{BlobId, PackId};
use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

/// How many opened frames a reader keeps: listings and small files are read in the order of their frames.
const KEPT_FRAMES: usize = 4;

/// Reads blobs, for one thread.
pub struct BlobReader<'r> {
    repo: &'r Repo,
    index: Arc<IndexSet>,
    /// True if `index` is that of the newest state which was read, and may be followed.
    follows: bool,
    coder: FrameCoder,
    kept_frames: usize,
    opened: VecDeque<(PackId, u32, Arc<Vec<u8>>)>,
    /// Blobs of those frames that were compared with their names.
    checked: VecDeque<(BlobClass, BlobId, Blob)>,
}

/// A blob in an opened frame.
#[derive(Clone)]
pub struct Blob {
    frame: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl std::ops::Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.frame[self.range.clone()]
    }
}

impl<'r> BlobReader<'r> {
    /// A reader over everything that the state which was read last names. Where an index object is damaged,
    /// it reads what the others name; `hikae repo repair` makes a new one.
    ///
    /// # Errors
    /// Any failure to fetch an index object but damage.
    pub fn new(repo: &'r Repo) -> Result<Self, RepoError> {
        match repo.index() {
            Err(error) if error.is_damage() => {
                let (state, cache) = (repo.state(), repo.index_cache());
                let index = IndexSet::what_opens(&state, repo.store(), repo.keys(), &cache)?;
                Self::over(repo, Arc::new(index))
            }
            index => Ok(Self { follows: true, ..Self::over(repo, index?)? }),
        }
    }

    /// A reader over `index`.
    ///
    /// # Errors
    /// [`RepoError::Worker`] if there is no memory.
    pub fn over(repo: &'r Repo, index: Arc<IndexSet>) -> Result<Self, RepoError> {
        let coder = FrameCoder::new(repo.keys().family())?;
        Ok(Self {
            repo,
            index,
            follows: false,
            coder,
            kept_frames: KEPT_FRAMES,
            opened: VecDeque::new(),
            checked: VecDeque::new(),
        })
    }

    /// Keeps `n` opened frames, up to a few MiB each: a map of pieces refers to one super-block for each
    /// backup that changed something nearby.
    pub fn keep_frames(&mut self, n: usize) {
        self.kept_frames = n;
    }

    /// The index that it looks in.
    pub fn index(&self) -> &IndexSet {
        &self.index
    }

    /// Every place of a blob: those in good packs first, then those in packs that were found damaged, then
    /// those that are doomed and may still be there.
    ///
    /// # Errors
    /// [`RepoError::Cache`] if the index cannot be read.
    pub fn places(&self, id: BlobId) -> Result<Vec<Location>, RepoError> {
        let mut places = self.index.find(id, &|_| true)?;
        let state = self.repo.state();
        places.sort_by_key(|place| (self.repo.is_doomed(place.pack), state.damaged.contains(&place.pack)));
        Ok(places)
    }

    /// Reads a blob.
    ///
    /// # Errors
    /// [`RepoError::BlobMissing`] if no pack has it; otherwise what was wrong with the last copy.
    pub fn read(&mut self, class: BlobClass, id: BlobId) -> Result<Blob, RepoError> {
        let kept = self.checked.iter().position(|kept| (kept.0, kept.1) == (class, id));
        if let Some(kept) = kept.and_then(|at| self.checked.remove(at)) {
            // To the back: what was used last goes last.
            let blob = kept.2.clone();
            self.checked.push_back(kept);
            return Ok(blob);
        }
        match self.read_stored(class, id) {
            // Whoever misses a pack reads the log again: prune may have moved what was in it (rule 10 of the
            // protocol).
            Err(error) if error.is_damage() && self.look_again()? => self.read_stored(class, id),
            read => read,
        }
    }

    /// Reads the log on. True if there is another index to look in.
    fn look_again(&mut self) -> Result<bool, RepoError> {
        if !self.follows {
            return Ok(false);
        }
        self.repo.follow()?;
        let index = self.repo.index()?;
        let is_new = !Arc::ptr_eq(&index, &self.index);
        self.index = index;
        Ok(is_new)
    }

    fn read_stored(&mut self, class: BlobClass, id: BlobId) -> Result<Blob, RepoError> {
        let mut failed = RepoError::BlobMissing { id };
        for place in self.places(id)? {
            match self.read_at(class, id, &place) {
                Ok(blob) => {
                    self.checked.push_back((class, id, blob.clone()));
                    if self.checked.len() > self.kept_frames {
                        self.checked.pop_front();
                    }
                    return Ok(blob);
                }
                Err(error @ (RepoError::NeedsIdentity | RepoError::Cancelled(_))) => return Err(error),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    fn read_at(&mut self, class: BlobClass, id: BlobId, place: &Location) -> Result<Blob, RepoError> {
        let offset = u64::from(place.frame.offset);
        let damaged = |why| RepoError::FrameDamaged { pack: place.pack, offset, why };
        let frame = self.frame(place.pack, &place.frame)?;
        let range = place.offset as usize..place.offset as usize + place.bytes as usize;
        let bytes = frame.get(range.clone()).ok_or_else(|| damaged("it is shorter than the index says"))?;
        match place.frame.head.class == class && self.repo.keys().blob_id(class, bytes) == id {
            true => Ok(Blob { frame, range }),
            false => Err(damaged("it holds another blob than the index says")),
        }
    }

    /// Opens a frame, or takes it from those that are open.
    ///
    /// # Errors
    /// [`RepoError::FrameDamaged`] if it does not open.
    pub fn frame(&mut self, pack: PackId, frame: &PackedFrame) -> Result<Arc<Vec<u8>>, RepoError> {
        let kept = self.opened.iter().position(|(id, offset, _)| (*id, *offset) == (pack, frame.offset));
        if let Some(frame) = kept.and_then(|at| self.opened.remove(at)) {
            // To the back: what was used last goes last.
            let plain = frame.2.clone();
            self.opened.push_back(frame);
            return Ok(plain);
        }
        let start = u64::from(frame.offset);
        let range = start..start + u64::from(frame.stored_bytes);
        let plain = Arc::new(match frame.head.class {
            BlobClass::Content => {
                let stored = self.repo.store().get_range(&layout::pack(pack), range)?;
                self.open(pack, frame, stored)?
            }
            BlobClass::Metadata => self.metadata_frame(pack, frame, range)?,
        });
        self.opened.push_back((pack, frame.offset, plain.clone()));
        if self.opened.len() > self.kept_frames {
            self.opened.pop_front();
        }
        Ok(plain)
    }

    /// A frame of metadata, out of the copy of its pack that this machine keeps, if that is good.
    fn metadata_frame(
        &mut self,
        pack: PackId,
        frame: &PackedFrame,
        range: Range<u64>,
    ) -> Result<Vec<u8>, RepoError> {
        let (near, key) = (self.repo.near(), layout::pack(pack));
        if let Some(copy) = near.stretch(&key, &range) {
            match self.open(pack, frame, copy) {
                Ok(plain) => return Ok(plain),
                Err(_) => near.forget(&key),
            }
        }
        let stored = near.fetch(self.repo.store(), &key, range)?;
        self.open(pack, frame, stored)
    }

    /// Opens the stored bytes of a frame.
    ///
    /// # Errors
    /// [`RepoError::FrameDamaged`] if they are not what was sealed.
    pub fn open(&mut self, pack: PackId, frame: &PackedFrame, stored: Vec<u8>) -> Result<Vec<u8>, RepoError> {
        let keys = frame_keys(self.repo, &self.index, frame)?;
        let damaged = |why| RepoError::FrameDamaged { pack, offset: u64::from(frame.offset), why };
        let (last, others) = keys.split_last().ok_or(damaged("the record of its session is missing"))?;
        for key in others {
            if let Ok(plain) = self.coder.open(&frame.head, key, stored.clone()) {
                return Ok(plain);
            }
        }
        self.coder.open(&frame.head, last, stored).map_err(damaged)
    }
}

/// The keys that may seal this frame: one, unless somebody else indexed a session of the same id.
fn frame_keys(repo: &Repo, index: &IndexSet, frame: &PackedFrame) -> Result<Vec<Secret32>, RepoError> {
    let sessions = index.sessions(frame.head.session);
    let mut keys = Vec::new();
    if frame.head.class == BlobClass::Metadata {
        let numbers: BTreeSet<u32> = sessions.iter().map(|session| session.metadata_key).collect();
        keys.extend(numbers.into_iter().filter_map(|number| repo.keys().seal(number).cloned()));
        return Ok(keys);
    }
    let mut failed = None;
    for session in sessions {
        match content_key(repo, index, session) {
            Ok(key) => keys.push(key),
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if keys.is_empty() => Err(error),
        _ => Ok(keys),
    }
}

/// The key of a session's contents for a recipient that came later: only the newest wrap of the epoch, which the log
/// names, is for it too.
pub(crate) fn newest_wrap_key(repo: &Repo, session: &SessionRecord) -> Result<Secret32, RepoError> {
    let state = repo.state();
    let newest = state.epochs.iter().find(|state| state.epoch.id == session.epoch);
    let newest = newest.ok_or(RepoError::NeedsIdentity)?;
    repo.contents().session_key(session, Some(&repo.read_epoch(&newest.epoch)?))
}

/// The key of a session's contents.
fn content_key(repo: &Repo, index: &IndexSet, session: &SessionRecord) -> Result<Secret32, RepoError> {
    match repo.contents().session_key(session, index.epoch_of(session, repo.keys().family())) {
        Err(RepoError::NeedsIdentity) => newest_wrap_key(repo, session),
        opened => opened,
    }
}
