//! Reading blobs back: find, fetch, open, compare.
//!
//! Every blob that leaves this module was compared with its name. One copy that is damaged or gone is no
//! loss while another is good.

use crate::RepoError;
use crate::frame::FrameCoder;
use crate::index::Location;
use crate::index_set::IndexSet;
use crate::keys::{BlobClass, Secret32};
use crate::layout;
use crate::pack::PackedFrame;
use crate::repo::Repo;
use hikae_model::{BlobId, PackId};
use std::collections::VecDeque;
use std::sync::Arc;

/// How many opened frames a reader keeps: listings and small files are read in the order of their frames.
const KEPT_FRAMES: usize = 4;

/// Reads blobs, for one thread.
pub struct BlobReader<'r> {
    repo: &'r Repo,
    index: Arc<IndexSet>,
    coder: FrameCoder,
    kept_frames: usize,
    opened: VecDeque<(PackId, u32, Arc<Vec<u8>>)>,
}

impl<'r> BlobReader<'r> {
    /// A reader over everything that the state which was read last names.
    ///
    /// # Errors
    /// Any failure to fetch an index object.
    pub fn new(repo: &'r Repo) -> Result<Self, RepoError> {
        Self::over(repo, repo.index()?)
    }

    /// A reader over `index`.
    ///
    /// # Errors
    /// [`RepoError::Worker`] if there is no memory.
    pub fn over(repo: &'r Repo, index: Arc<IndexSet>) -> Result<Self, RepoError> {
        let coder = FrameCoder::new(repo.keys().family())?;
        Ok(Self { repo, index, coder, kept_frames: KEPT_FRAMES, opened: VecDeque::new() })
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
    pub fn read(&mut self, class: BlobClass, id: BlobId) -> Result<Vec<u8>, RepoError> {
        let mut failed = RepoError::BlobMissing { id };
        for place in self.places(id)? {
            match self.read_at(class, id, &place) {
                Ok(blob) => return Ok(blob),
                Err(error @ (RepoError::NeedsIdentity | RepoError::Cancelled(_))) => return Err(error),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    fn read_at(&mut self, class: BlobClass, id: BlobId, place: &Location) -> Result<Vec<u8>, RepoError> {
        let offset = u64::from(place.frame.offset);
        let damaged = |why| RepoError::FrameDamaged { pack: place.pack, offset, why };
        let plain = self.frame(place.pack, &place.frame)?;
        let end = place.offset as usize + place.bytes as usize;
        let blob = plain
            .get(place.offset as usize..end)
            .ok_or_else(|| damaged("it is shorter than the index says"))?;
        match place.frame.head.class == class && self.repo.keys().blob_id(class, blob) == id {
            true => Ok(blob.to_vec()),
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
        let stored = self.repo.store().get_range(&layout::pack(pack), range)?;
        let plain = Arc::new(self.open(pack, frame, stored)?);
        self.opened.push_back((pack, frame.offset, plain.clone()));
        if self.opened.len() > self.kept_frames {
            self.opened.pop_front();
        }
        Ok(plain)
    }

    /// Opens the stored bytes of a frame.
    ///
    /// # Errors
    /// [`RepoError::FrameDamaged`] if they are not what was sealed.
    pub fn open(&mut self, pack: PackId, frame: &PackedFrame, stored: Vec<u8>) -> Result<Vec<u8>, RepoError> {
        let key = frame_key(self.repo, &self.index, frame)?;
        let damaged = |why| RepoError::FrameDamaged { pack, offset: u64::from(frame.offset), why };
        self.coder.open(&frame.head, &key, stored).map_err(damaged)
    }
}

/// The key that seals the frames of this frame's session and class.
fn frame_key(repo: &Repo, index: &IndexSet, frame: &PackedFrame) -> Result<Secret32, RepoError> {
    let session = index.session(frame.head.session);
    let missing = || RepoError::Age { what: "the record of a session is missing".to_owned() };
    match frame.head.class {
        BlobClass::Metadata => {
            let session = session.ok_or_else(missing)?;
            repo.keys().seal(session.metadata_key).cloned().ok_or_else(missing)
        }
        BlobClass::Content => {
            let session = session.ok_or_else(missing)?;
            repo.contents().session_key(session, index.epoch(session.epoch))
        }
    }
}
