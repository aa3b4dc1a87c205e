//! The commit of a run: what was written becomes snapshots, or nothing does.
//!
//! Order of durability: packs, index objects, snapshot records, log entry, acknowledgement. The entry is
//! put only after every entry before it was read and every blob that the run relies on was found in a pack
//! that is not doomed. A blob that only a doomed pack holds is rescued first: its frame moves into a new
//! pack, without an identity. If that pack is gone the run fails.

use crate::RepoError;
use crate::frame::FrameHead;
use crate::index::{IndexBuilder, IndexedPack, Segment};
use crate::index_set::IndexSet;
use crate::layout;
use crate::log::{Change, Commit, SnapshotRef};
use crate::pack::{OpenPack, PackedFrame};
use crate::reach::Named;
use crate::reader::BlobReader;
use crate::repo::{Repo, lock};
use crate::snapshot::{Snapshot, SnapshotRecord};
use crate::state::State;
use crate::writer::{Writer, put_index};
use hikae_model::{BlobId, IndexId, PackId, SnapshotId};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// How often a run rescues before it gives up: prune with an orphan grace of nothing could doom each new
/// pack for ever.
const RESCUES: u32 = 8;

/// What a commit did.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The entry.
    pub n: u64,
    /// The snapshots, in the order of the records.
    pub snapshots: Vec<SnapshotId>,
}

impl Writer {
    /// Waits until all content is durable, so that a record can say how much was added.
    ///
    /// # Errors
    /// The first error of any thread.
    pub fn settle(&self) -> Result<(), RepoError> {
        self.flush()
    }

    /// Makes `records` snapshots, all of them with one entry. On `Ok` they are durable and in the log.
    ///
    /// # Errors
    /// Then none of them is a snapshot, unless the store cannot say whether the entry was stored.
    pub fn commit(self, records: &[SnapshotRecord]) -> Result<Committed, RepoError> {
        self.flush()?;
        let shared = self.shared().clone();
        let repo = &shared.repo;
        let mut snapshots = Vec::new();
        for record in records {
            let (id, stored) = record.seal(repo.keys(), repo.signer());
            repo.put_named(&layout::snapshot(id), &stored)?;
            snapshots.push(Snapshot { id, writer: repo.signer().id(), record: record.clone() });
        }
        let refs: Vec<_> = snapshots.iter().map(reference).collect();
        let own = std::mem::take(&mut lock(&shared.own).segments);
        let mut own = OwnIndex { segments: own.into_iter().collect(), rescues: 0 };
        let n = repo.append_as(shared.run, &mut |state| {
            // Nothing was doomed since the run began: what it found there is still there.
            if repo.dooms().iter().any(|pack| !shared.base.doomed.contains_key(pack)) {
                own.rescue(repo, state, &snapshots)?;
            }
            if state.damaged.iter().any(|pack| !shared.base.damaged.contains(pack)) {
                own.refuse_damaged(repo, state, &snapshots)?;
            }
            Ok(Change::Commit(Commit {
                snapshots: refs.clone(),
                indexes: own.segments.keys().copied().collect(),
            }))
        })?;
        Ok(Committed { n, snapshots: snapshots.iter().map(|snapshot| snapshot.id).collect() })
    }
}

impl Repo {
    /// Brings forgotten snapshots back: a run of its own that relies on what they need and rescues what is
    /// doomed.
    ///
    /// # Errors
    /// [`RepoError::PackGone`] if something that they need was removed.
    pub fn undelete(self: &Arc<Self>, ids: &[SnapshotId]) -> Result<u64, RepoError> {
        let snapshots = ids.iter().map(|id| self.snapshot(*id)).collect::<Result<Vec<_>, _>>()?;
        let refs: Vec<_> = snapshots.iter().map(reference).collect();
        let mut own = OwnIndex::default();
        self.append(&mut |state| {
            for id in ids {
                if !state.forgotten.contains_key(id) && !state.snapshots.contains_key(id) {
                    return Err(RepoError::BadKey {
                        what: format!("snapshot {} was never there", id.short()),
                    });
                }
            }
            own.rescue(self, state, &snapshots)?;
            Ok(Change::Commit(Commit {
                snapshots: refs.clone(),
                indexes: own.segments.keys().copied().collect(),
            }))
        })
    }
}

fn reference(snapshot: &Snapshot) -> SnapshotRef {
    let SnapshotRecord { source, moment, complete, .. } = &snapshot.record;
    SnapshotRef { id: snapshot.id, source: source.clone(), moment: *moment, complete: *complete }
}

/// Index objects of this run that are not in the log yet.
#[derive(Default)]
struct OwnIndex {
    segments: BTreeMap<IndexId, Arc<Segment>>,
    rescues: u32,
}

impl OwnIndex {
    /// Sees to it that every blob of `snapshots` lies in a pack that lives, and that no index object of ours
    /// names one that does not. What this writes can be doomed only by an entry after `state`, and then our
    /// own entry is refused and this is called again.
    fn rescue(&mut self, repo: &Repo, state: &State, snapshots: &[Snapshot]) -> Result<(), RepoError> {
        let index = self.with_log(repo, state)?;
        let stranded = stranded(repo, &index, snapshots)?;
        let names_doomed =
            self.segments.values().any(|segment| segment.packs().iter().any(|pack| repo.is_doomed(pack.id)));
        if stranded.is_empty() && !names_doomed {
            return Ok(());
        }
        self.rescues += 1;
        if self.rescues > RESCUES {
            return Err(RepoError::RescuedInVain);
        }
        let mut builder = IndexBuilder::default();
        if names_doomed {
            self.keep_living_packs(repo, &mut builder)?;
        }
        copy_frames(repo, &index, &stranded, &mut builder)?;
        if !builder.is_empty() {
            let segment = Arc::new(put_index(repo, &builder)?);
            self.segments.insert(segment.id, segment);
        }
        Ok(())
    }

    /// Ends the run if a blob of `snapshots` lies only in packs that were found damaged since it began. There
    /// is no rescue: which of their frames still open, only who has an identity can tell.
    fn refuse_damaged(&self, repo: &Repo, state: &State, snapshots: &[Snapshot]) -> Result<(), RepoError> {
        let index = self.with_log(repo, state)?;
        let mut reader = BlobReader::over(repo, index.clone())?;
        for snapshot in snapshots {
            let named = Named { id: snapshot.id, record: &snapshot.record };
            reader.each_blob(named, &mut |_, blob| {
                let places = index.find(blob, &|pack| !repo.is_doomed(pack))?;
                match places.first() {
                    Some(place) if places.iter().all(|place| state.damaged.contains(&place.pack)) => {
                        Err(RepoError::PackDamaged { pack: place.pack })
                    }
                    _ => Ok(()),
                }
            })?;
        }
        Ok(())
    }

    /// What the log names at `state`, and ours.
    fn with_log(&self, repo: &Repo, state: &State) -> Result<Arc<IndexSet>, RepoError> {
        let mut index = repo.index()?.follow(state, repo.store(), repo.keys(), &repo.index_cache())?;
        self.segments.values().for_each(|segment| index.add(segment.clone()));
        Ok(Arc::new(index))
    }

    /// Takes the packs that live out of our index objects into `builder`, and drops the objects.
    fn keep_living_packs(&mut self, repo: &Repo, builder: &mut IndexBuilder) -> Result<(), RepoError> {
        for segment in std::mem::take(&mut self.segments).into_values() {
            segment.each_pack(&mut |pack, frames| {
                if !repo.is_doomed(pack.id) {
                    builder.add(pack, frames, segment.sessions(), segment.epochs());
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// Blobs of `snapshots` that no living pack has.
fn stranded(
    repo: &Repo,
    index: &Arc<IndexSet>,
    snapshots: &[Snapshot],
) -> Result<HashSet<BlobId>, RepoError> {
    let mut reader = BlobReader::over(repo, index.clone())?;
    let mut stranded = HashSet::new();
    for snapshot in snapshots {
        let named = Named { id: snapshot.id, record: &snapshot.record };
        reader.each_blob(named, &mut |_, blob| {
            if index.find(blob, &|pack| !repo.is_doomed(pack))?.is_empty() {
                stranded.insert(blob);
            }
            Ok(())
        })?;
    }
    Ok(stranded)
}

/// Copies the frames of `blobs` out of doomed packs into new ones, whole and sealed as they are.
fn copy_frames(
    repo: &Repo,
    index: &IndexSet,
    blobs: &HashSet<BlobId>,
    builder: &mut IndexBuilder,
) -> Result<(), RepoError> {
    let mut wanted = HashSet::new();
    for blob in blobs {
        let places = index.find(*blob, &|_| true)?;
        let place = places.first().ok_or(RepoError::BlobMissing { id: *blob })?;
        wanted.insert((place.pack, place.frame.offset));
    }
    let mut copy = FrameCopy::default();
    for segment in index.segments() {
        if segment.packs().iter().any(|pack| wanted.iter().any(|(id, _)| *id == pack.id)) {
            segment.each_pack(&mut |pack, frames| {
                let frames = frames.iter().filter(|frame| wanted.remove(&(pack.id, frame.offset)));
                frames
                    .collect::<Vec<_>>()
                    .into_iter()
                    .try_for_each(|frame| copy.take(repo, index, pack.id, frame, builder))
            })?;
        }
    }
    copy.finish(repo, index, builder)
}

/// Copies whole frames into new packs: for rescue and for prune. Needs no identity.
#[derive(Default)]
pub(crate) struct FrameCopy {
    open: OpenPack,
    heads: Vec<FrameHead>,
}

impl FrameCopy {
    /// Copies one frame, with all its blobs.
    pub(crate) fn take(
        &mut self,
        repo: &Repo,
        index: &IndexSet,
        pack: PackId,
        frame: &PackedFrame,
        builder: &mut IndexBuilder,
    ) -> Result<(), RepoError> {
        let start = u64::from(frame.offset);
        let range = start..start + u64::from(frame.stored_bytes);
        let stored = repo.store().get_range(&layout::pack(pack), range).map_err(|error| match error {
            error if error.is_not_found() => RepoError::PackGone { pack },
            error => error.into(),
        })?;
        // A frame that does not hash right would be carried on for ever: its salt is a hash of its bytes,
        // but only who has the key can compare it. `verify --read-data` does.
        self.open.push(frame.head, frame.blobs.clone(), &stored);
        self.heads.push(frame.head);
        if self.open.is_full() { self.finish(repo, index, builder) } else { Ok(()) }
    }

    /// Makes the pack that is open durable.
    pub(crate) fn finish(
        &mut self,
        repo: &Repo,
        index: &IndexSet,
        builder: &mut IndexBuilder,
    ) -> Result<(), RepoError> {
        if self.open.is_empty() {
            return Ok(());
        }
        let ids: HashSet<_> = std::mem::take(&mut self.heads).iter().map(|head| head.session).collect();
        let sessions: Vec<_> = ids.iter().filter_map(|id| index.session(*id)).cloned().collect();
        let epoch_ids: HashSet<_> = sessions.iter().map(|session| session.epoch).collect();
        let epochs: Vec<_> = epoch_ids.iter().filter_map(|id| index.epoch(*id)).cloned().collect();
        let open = std::mem::take(&mut self.open);
        let pack =
            open.finish(repo.cx().random(), sessions.clone(), epochs.clone(), repo.keys(), repo.signer());
        repo.put_named(&layout::pack(pack.id), &pack.bytes)?;
        let indexed = IndexedPack { id: pack.id, bytes: pack.bytes.len() as u64 };
        builder.add(indexed, pack.frames, &sessions, &epochs);
        Ok(())
    }
}
