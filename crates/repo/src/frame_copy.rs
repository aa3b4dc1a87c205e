//! Frames that move: copied whole and sealed as they are, out of packs that prune empties or has doomed.
//!
//! Needs no identity. Who copies cannot tell by the frame whether it is still what was sealed, so the whole
//! pack is read and compared with its name first: else a frame that has rotted would get a pack whose name
//! vouches for it.
//!
//! This module knows packs and frames. It does not know why they move.

use crate::RepoError;
use crate::epoch::{EpochRecord, SessionRecord};
use crate::index::{IndexBuilder, IndexedPack, MAX_SESSIONS, Segment};
use crate::layout;
use crate::object::BadObject;
use crate::pack::{OpenPack, PackedFrame};
use crate::repo::Repo;
use hikae_model::{EpochId, PackId, SessionId, sabotage};
use std::collections::BTreeMap;

/// Copies whole frames into new packs.
#[derive(Default)]
pub(crate) struct FrameCopy {
    open: OpenPack,
    sessions: BTreeMap<SessionId, SessionRecord>,
    epochs: BTreeMap<EpochId, EpochRecord>,
    sources: Vec<FrameAt>,
    /// The packs that are durable.
    pub(crate) packs: Vec<CopiedPack>,
}

/// A frame by its place: its pack, and where in the pack it begins.
pub(crate) type FrameAt = (PackId, u32);

/// A pack of copied frames.
pub(crate) struct CopiedPack {
    pub(crate) pack: IndexedPack,
    pub(crate) frames: Vec<PackedFrame>,
    pub(crate) sessions: Vec<SessionRecord>,
    pub(crate) epochs: Vec<EpochRecord>,
    /// Where the frames were before.
    pub(crate) sources: Vec<FrameAt>,
}

impl CopiedPack {
    /// Names it in an index object to be.
    pub(crate) fn add_to(&self, builder: &mut IndexBuilder) {
        builder.add(self.pack, self.frames.clone(), &self.sessions, &self.epochs);
    }
}

/// Reads a whole pack, and sees that it is what its name says.
///
/// # Errors
/// [`RepoError::PackGone`] if it was removed, [`RepoError::Damaged`] if it is another.
pub(crate) fn read_pack(repo: &Repo, pack: PackId) -> Result<Vec<u8>, RepoError> {
    let key = layout::pack(pack);
    let bytes = repo.store().get(&key).map_err(|error| match error {
        error if error.is_not_found() => RepoError::PackGone { pack },
        error => error.into(),
    })?;
    match blake3::hash(&bytes).as_bytes() == pack.as_bytes() {
        true => Ok(bytes),
        false => Err(RepoError::damaged(key)(BadObject::BrokenSeal)),
    }
}

impl FrameCopy {
    /// Copies `frames` out of `pack`, whose `bytes` [`read_pack`] gave, into packs of `repo`. `segment` is an index object
    /// that names both.
    ///
    /// # Errors
    /// [`RepoError::FrameDamaged`] if the pack has no such frame, and any failure of the store.
    pub(crate) fn take(
        &mut self,
        repo: &Repo,
        (pack, bytes): (PackId, &[u8]),
        frames: Vec<PackedFrame>,
        segment: &Segment,
    ) -> Result<(), RepoError> {
        for frame in frames {
            let start = frame.offset as usize;
            let stored = bytes.get(start..start + frame.stored_bytes as usize).ok_or_else(|| {
                let why = "it ends before the frame that the index names";
                RepoError::FrameDamaged { pack, offset: start as u64, why }
            })?;
            if self.open.is_of_other_class(frame.head.class) {
                self.finish(repo)?;
            }
            self.open.push(frame.head, frame.blobs, stored);
            self.sources.push((pack, frame.offset));
            let id = frame.head.session;
            if let Some(session) = segment.sessions().iter().find(|session| session.id == id) {
                let epoch = segment.epochs().iter().find(|epoch| epoch.id == session.epoch);
                self.epochs.extend(epoch.map(|epoch| (epoch.id, epoch.clone())));
                self.sessions.entry(id).or_insert_with(|| session.clone());
            }
            if self.open.is_full() || self.sessions.len() >= MAX_SESSIONS {
                self.finish(repo)?;
            }
        }
        Ok(())
    }

    /// Makes the pack that is open durable.
    ///
    /// # Errors
    /// Any failure of the store.
    pub(crate) fn finish(&mut self, repo: &Repo) -> Result<(), RepoError> {
        if self.open.is_empty() {
            return Ok(());
        }
        let sessions: Vec<_> = std::mem::take(&mut self.sessions).into_values().collect();
        let epochs: Vec<_> = std::mem::take(&mut self.epochs).into_values().collect();
        let nonce = if sabotage::on("names-recur") { [0; 16] } else { repo.cx().random() };
        let open = std::mem::take(&mut self.open);
        let finished = open.finish(nonce, sessions.clone(), epochs.clone(), repo.keys(), repo.signer());
        repo.put_named(&layout::pack(finished.id), &finished.bytes)?;
        repo.cx().progress().add_stored(finished.bytes.len() as u64);
        self.packs.push(CopiedPack {
            pack: IndexedPack { id: finished.id, bytes: finished.bytes.len() as u64 },
            frames: finished.frames,
            sessions,
            epochs,
            sources: std::mem::take(&mut self.sources),
        });
        Ok(())
    }
}
