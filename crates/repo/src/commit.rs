//! The commit of a run: what was written becomes snapshots, or nothing does.
//!
//! Order of durability: packs, index objects, snapshot records, log entry, acknowledgement. The entry is
//! put only after every entry before it was read and every blob that the run relies on was found in a pack
//! that is not doomed. A blob that only a doomed pack holds is rescued first: its frame moves into a new
//! pack, without an identity. If that pack is gone the run fails.

use crate::RepoError;
use crate::forget::ForgetRefused;
use crate::frame_copy::{CopiedPack, FrameAt, FrameCopy, read_pack};
use crate::index::{IndexBuilder, Segment};
use crate::index_set::IndexSet;
use crate::layout;
use crate::log::{Change, Commit, SnapshotRef};
use crate::prune::merge_small_indexes;
use crate::reach::Named;
use crate::reader::BlobReader;
use crate::repo::{Repo, lock};
use crate::snapshot::{Snapshot, SnapshotRecord};
use crate::state::State;
use crate::writer::{Writer, put_index};
use hikae_model::{BlobId, IndexId, PackId, RunId, SnapshotId, WriterId, sabotage};
use hikae_store::{Held, ObjectKey};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
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
    /// What of all that is kept is locked, where the store locks.
    pub held: Held,
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
        let mut snapshots =
            records.iter().map(|record| Snapshot::put(repo, record)).collect::<Result<Vec<_>, _>>()?;
        let segments = std::mem::take(&mut lock(&shared.own).segments);
        let base = (shared.base.clone(), shared.base_index.clone());
        let (n, held) = commit_run(repo, shared.run, base, segments.into_values(), &mut snapshots)?;
        // The snapshots stand. That index objects cannot be merged now takes nothing from them.
        drop(merge_small_indexes(repo, &repo.state()));
        Ok(Committed { n, snapshots: snapshots.iter().map(|snapshot| snapshot.id).collect(), held })
    }
}

/// Puts the entry of a run that began on `base`, whose packs, index objects and records are durable. Whoever signed the
/// records, the writer that stands in `snapshots` is the one whose trust counts. One whose record was doomed meanwhile gets
/// another name.
///
/// # Errors
/// As for [`Writer::commit`].
pub(crate) fn commit_run(
    repo: &Repo,
    run: RunId,
    base: (Arc<State>, Arc<IndexSet>),
    segments: impl Iterator<Item = Arc<Segment>>,
    snapshots: &mut [Snapshot],
) -> Result<(u64, Held), RepoError> {
    let (began, mut held) = (base.0.clone(), Held::default());
    let segments = segments.map(|segment| (segment.id, segment)).collect();
    let mut own = OwnIndex { segments, base: Some(base), rescues: 0 };
    let n = repo.append_as(run, &mut |state| {
        // While nothing was doomed or found damaged since the run began, what it found is still there.
        let must_look = repo.has_doomed_since(began.n)
            || own.segments.keys().any(|index| repo.is_doomed_index(*index))
            || state.damaged.iter().any(|pack| !began.damaged.contains(pack));
        if must_look && !sabotage::on("commit-without-looking") {
            own.rescue(repo, state, snapshots)?;
        }
        // A run that was slow may find its own records taken for orphans.
        let is_doomed = |id| repo.is_doomed_snapshot(id) && !sabotage::on("own-record-dooms-ignored");
        for snapshot in snapshots.iter_mut().filter(|snapshot| is_doomed(snapshot.id)) {
            *snapshot = Snapshot::put(repo, &snapshot.record)?;
        }
        held = repo.hold(state)?;
        Ok(Change::Commit(Commit {
            snapshots: snapshots.iter().map(reference).collect(),
            indexes: own.segments.keys().copied().collect(),
        }))
    })?;
    Ok((n, held))
}

impl Repo {
    /// Brings forgotten snapshots back: a run of its own that relies on what they need and rescues what is
    /// doomed. Gives the entry; nothing if all of them are there already.
    ///
    /// # Errors
    /// [`ForgetRefused::Unknown`] if one was never there, [`RepoError::PackGone`] or
    /// [`RepoError::BlobMissing`] if something that they need was removed.
    pub fn undelete(&self, ids: &[SnapshotId]) -> Result<Option<u64>, RepoError> {
        let run = RunId::from_bytes(self.cx().random());
        let mut own = OwnIndex::default();
        loop {
            let state = self.follow()?;
            if let Some(id) = ids.iter().find(|id| !state.knows(**id)) {
                return Err(ForgetRefused::Unknown { id: *id }.into());
            }
            let gone = ids.iter().filter(|id| state.forgotten.contains_key(id));
            let snapshots = gone.map(|id| self.snapshot(*id)).collect::<Result<Vec<_>, _>>()?;
            if snapshots.is_empty() {
                return Ok(None);
            }
            if !sabotage::on("undelete-without-looking") {
                own.rescue(self, &state, &snapshots)?;
            }
            self.hold(&state)?;
            let change = Change::Commit(Commit {
                snapshots: snapshots.iter().map(reference).collect(),
                indexes: own.segments.keys().copied().collect(),
            });
            if let Some(n) = self.append_after(&state, run, change)? {
                return Ok(Some(n));
            }
        }
    }
}

impl Repo {
    /// Sees that what a commit may rely on is locked as long as the store is told to lock: all but what is on its way out.
    /// Before the entry, else a snapshot would be promised what its content has not.
    fn hold(&self, state: &State) -> Result<Held, RepoError> {
        let going = state.doomed.keys().map(|pack| layout::pack(*pack));
        let indexes = state.stale_indexes.keys().map(|index| layout::index(*index));
        let forgotten =
            state.forgotten.iter().filter(|(_, forgotten)| forgotten.doom.is_some()).map(|(id, _)| id);
        let snapshots = forgotten.chain(state.stale_snapshots.keys()).map(|id| layout::snapshot(*id));
        let going: HashSet<ObjectKey> = going.chain(indexes).chain(snapshots).collect();
        Ok(self.store().hold(&|key| going.contains(key))?)
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
    /// What the run began with, if it is one that wrote: the packs that it relies on are named there.
    base: Option<(Arc<State>, Arc<IndexSet>)>,
    rescues: u32,
}

impl OwnIndex {
    /// Sees to it that every blob of `snapshots` lies in a pack that lives, and that no index object of ours
    /// names one that does not. What this writes can be doomed only by an entry after `state`, and then our
    /// own entry is refused and this is called again.
    fn rescue(&mut self, repo: &Repo, state: &State, snapshots: &[Snapshot]) -> Result<(), RepoError> {
        let living = repo.index()?.follow(state, repo.store(), repo.keys(), &repo.index_cache())?;
        let all = Arc::new(self.everything(repo, state, &living)?);
        let stranded = self.stranded(repo, state, &living, &all, snapshots)?;
        let names_doomed = self.segments.values().any(|segment| names_doomed(repo, segment));
        if stranded.is_empty() && !names_doomed {
            return Ok(());
        }
        self.rescues += 1;
        if self.rescues > RESCUES {
            return Err(RepoError::RescuedInVain);
        }
        let copied = self.copy_frames(repo, state, &all, &stranded)?;
        let mut builder = IndexBuilder::default();
        if names_doomed {
            self.keep_living_packs(repo, &mut builder)?;
        }
        copied.iter().for_each(|pack| pack.add_to(&mut builder));
        if !builder.is_empty() {
            let segment = Arc::new(put_index(repo, &builder)?);
            self.segments.insert(segment.id, segment);
        }
        Ok(())
    }

    /// All index objects in which a blob that is needed may be named, also those that went.
    fn everything(&self, repo: &Repo, state: &State, living: &IndexSet) -> Result<IndexSet, RepoError> {
        let mut all = living.with_stale(state, repo.store(), repo.keys(), &repo.index_cache())?;
        let base = self.base.iter().flat_map(|(_, base)| base.segments());
        base.chain(self.segments.values()).for_each(|segment| all.add(segment.clone()));
        Ok(all)
    }

    /// Blobs of `snapshots` that no living pack has.
    fn stranded(
        &self,
        repo: &Repo,
        state: &State,
        living: &IndexSet,
        all: &Arc<IndexSet>,
        snapshots: &[Snapshot],
    ) -> Result<HashSet<BlobId>, RepoError> {
        let mut reader = BlobReader::over(repo, all.clone())?;
        let (mut stranded, mut seen) = (HashSet::new(), HashSet::new());
        for snapshot in snapshots {
            let named = Named { id: snapshot.id, record: &snapshot.record };
            reader.each_blob(named, &mut |_, blob| {
                if seen.insert(blob) && !self.lives(repo, state, living, snapshot, blob)? {
                    stranded.insert(blob);
                }
                Ok(())
            })?;
        }
        Ok(stranded)
    }

    /// True if a pack that is not doomed has the blob, and somebody vouches for it whom the snapshot's writer
    /// trusts.
    ///
    /// Ends a run whose blob lies only in a pack that was found damaged since it began. There is no rescue:
    /// which of its frames still open, only who has an identity can tell.
    fn lives(
        &self,
        repo: &Repo,
        state: &State,
        living: &IndexSet,
        snapshot: &Snapshot,
        blob: BlobId,
    ) -> Result<bool, RepoError> {
        let vouched = living.segments().filter(|segment| vouches(state, snapshot.writer, segment));
        let mut damaged = None;
        for segment in vouched.chain(self.segments.values()) {
            let ours = self.segments.contains_key(&segment.id);
            let mut lives = false;
            segment.find(blob, &mut |place| {
                let ignored = ours && sabotage::on("own-dooms-ignored");
                if ignored || !repo.is_doomed(place.pack) {
                    // An undelete brings back what is there, damaged or not.
                    lives = self.base.is_none() || !state.damaged.contains(&place.pack);
                    damaged = Some(place.pack);
                }
                !lives
            })?;
            if lives {
                return Ok(true);
            }
        }
        damaged.map_or(Ok(false), |pack| Err(RepoError::PackDamaged { pack }))
    }

    /// Copies the frames of `stranded` out of doomed packs into new ones.
    fn copy_frames(
        &self,
        repo: &Repo,
        state: &State,
        all: &IndexSet,
        stranded: &HashSet<BlobId>,
    ) -> Result<Vec<CopiedPack>, RepoError> {
        let (mut wanted, mut stored) = (HashSet::new(), HashMap::new());
        for blob in stranded {
            wanted.insert(self.place_to_copy(repo, state, all, *blob, &mut stored)?);
        }
        let mut copy = FrameCopy::default();
        for segment in all.segments() {
            let named = segment.packs().iter().any(|pack| wanted.iter().any(|(id, _)| *id == pack.id));
            if named {
                segment.each_pack(&mut |pack, mut frames| {
                    frames.retain(|frame| wanted.remove(&(pack.id, frame.offset)));
                    match frames.is_empty() {
                        true => Ok(()),
                        false => copy.take(repo, (pack.id, &read_pack(repo, pack.id)?), frames, segment),
                    }
                })?;
            }
        }
        copy.finish(repo)?;
        Ok(copy.packs)
    }

    /// Where a stranded blob can still be had: in a pack that is stored, by preference one that we or
    /// somebody whom we trust has named.
    fn place_to_copy(
        &self,
        repo: &Repo,
        state: &State,
        all: &IndexSet,
        blob: BlobId,
        stored: &mut HashMap<PackId, bool>,
    ) -> Result<FrameAt, RepoError> {
        let ours = repo.signer().id();
        let mut segments: Vec<_> = all.segments().collect();
        segments.sort_by_cached_key(|segment| {
            let base = self.base.as_ref().is_some_and(|(base, _)| vouches(base, ours, segment));
            !(self.segments.contains_key(&segment.id) || base || vouches(state, ours, segment))
        });
        let mut gone = None;
        for segment in segments {
            let mut places = Vec::new();
            segment.find(blob, &mut |place| {
                places.push((place.pack, place.frame.offset));
                true
            })?;
            for (pack, offset) in places {
                if let Entry::Vacant(unknown) = stored.entry(pack) {
                    unknown.insert(repo.is_stored(pack)?);
                }
                if stored[&pack] {
                    return Ok((pack, offset));
                }
                gone = Some(pack);
            }
        }
        Err(gone.map_or(RepoError::BlobMissing { id: blob }, |pack| RepoError::PackGone { pack }))
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

/// True if `reader` trusts who vouches for this index object in `state`.
fn vouches(state: &State, reader: WriterId, segment: &Segment) -> bool {
    state.indexes.get(&segment.id).is_some_and(|index| state.trusts(reader, index.writer))
}

/// True if an index object is doomed, or names a pack that is.
fn names_doomed(repo: &Repo, segment: &Segment) -> bool {
    if sabotage::on("own-dooms-ignored") {
        return false;
    }
    repo.is_doomed_index(segment.id) || segment.packs().iter().any(|pack| repo.is_doomed(pack.id))
}
