//! Repair: what a verify found is made good as far as it can be. Nothing is ever deleted.
//!
//! - Index objects that are lost are made again, from the footers of the packs that they named, or from our
//!   cache.
//! - Frames that still open in a damaged pack are copied into a new one, where no other good copy is.
//! - Snapshots whose record is damaged or gone are set aside in the log: they count as backups no more, and are
//!   taken back once the record can be read again.
//! - Damaged and missing packs are called so in the log: from then on writers store their blobs again from
//!   the source, and prune does not count them as copies. What was lost comes back with the next backup, if
//!   the source still has it.
//!
//! A plan is made without writing; [`repair`] obeys it. This module knows what to do about damage, `verify`
//! what is damaged.

use crate::RepoError;
use crate::index::{IndexBuilder, IndexedPack, Segment};
use crate::index_set::IndexSet;
use crate::layout;
use crate::log::{Change, Damaged, IndexAdded, Prune};
use crate::pack::{Footer, OpenPack, PackedFrame};
use crate::reader::BlobReader;
use crate::repo::Repo;
use crate::state::State;
use crate::verify::VerifyReport;
use crate::writer::put_index;
use hikae_model::{BlobId, Cx, IndexId, PackId, SnapshotId, WriterId, sabotage};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

/// How long an index object that was replaced stays, in seconds.
const SOFT_SECONDS: u64 = 14 * 86_400;

/// What repair is going to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairPlan {
    /// Packs that an index object is to name again.
    pub reindex: BTreeMap<PackId, FrameList>,
    /// Index objects that are lost, and whose place the new ones take.
    pub replace_indexes: BTreeSet<IndexId>,
    /// Frames that still open, by their damaged pack and where they begin in it.
    pub salvage: BTreeMap<PackId, BTreeSet<u32>>,
    /// Packs that the log is to call damaged.
    pub damaged: BTreeSet<PackId>,
    /// Packs that it calls damaged and that are well.
    pub well: BTreeSet<PackId>,
    /// Snapshots whose record cannot be read, to be set aside.
    pub set_aside: BTreeSet<SnapshotId>,
    /// Snapshots that are set aside and whose record is well.
    pub taken_back: BTreeSet<SnapshotId>,
    /// Blobs that a snapshot needs and that are nowhere. Only the source can bring them back.
    pub n_lost_blobs: u64,
}

/// Where the list of a pack's frames comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameList {
    /// From its own footer.
    Footer,
    /// From our cached copy of this index object: the footer does not open.
    Cache(IndexId),
}

/// What repair did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// Packs that are named again.
    pub n_reindexed: u64,
    /// Frames that were copied out of damaged packs.
    pub n_salvaged: u64,
    /// Packs that are called damaged from now on.
    pub n_damaged: u64,
    /// Packs that are no longer called damaged.
    pub n_well: u64,
    /// Snapshots that count for nothing from now on.
    pub n_set_aside: u64,
    /// Snapshots that count again.
    pub n_taken_back: u64,
}

impl RepairPlan {
    /// True if there is nothing to do.
    pub fn is_empty(&self) -> bool {
        let Self { reindex, replace_indexes, salvage, damaged, well, set_aside, taken_back, n_lost_blobs: _ } =
            self;
        reindex.is_empty()
            && replace_indexes.is_empty()
            && salvage.is_empty()
            && damaged.is_empty()
            && well.is_empty()
            && set_aside.is_empty()
            && taken_back.is_empty()
    }
}

/// Decides what to do about what `report` found. Writes nothing to the store.
///
/// # Errors
/// Any failure to list or read the store.
pub fn plan_repair(repo: &Repo, report: &VerifyReport, cx: &Cx) -> Result<RepairPlan, RepoError> {
    let state = repo.follow()?;
    let damage = &report.damage;
    let mut plan = RepairPlan {
        replace_indexes: damage.indexes.iter().filter(|id| state.indexes.contains_key(id)).copied().collect(),
        well: damage.well.iter().filter(|id| state.damaged.contains(id)).copied().collect(),
        set_aside: damage.snapshots.iter().filter(|id| !state.set_aside.contains(id)).copied().collect(),
        taken_back: damage.snapshots_well.iter().filter(|id| state.set_aside.contains(id)).copied().collect(),
        ..RepairPlan::default()
    };
    let index = sound_index(repo, &state, &plan.replace_indexes)?;
    let named: HashSet<_> = index.packs().map(|pack| pack.id).collect();
    plan_reindex(repo, &state, &named, &damage.unplaced, &mut plan, cx)?;

    for (id, found) in &damage.packs {
        let is_ours = (named.contains(id) || plan.reindex.contains_key(id)) && !repo.is_doomed(*id);
        if is_ours && !found.unread && !state.damaged.contains(id) {
            plan.damaged.insert(*id);
        }
    }
    for (id, found) in damage.packs.iter().filter(|(_, found)| !found.unread) {
        let mut frames =
            needed_frames(&index, *id, &|pack| state.is_good(pack) && !plan.damaged.contains(&pack))?;
        frames.retain(|offset| found.good_frames.contains(offset) && !sabotage::on("nothing-salvaged"));
        if !frames.is_empty() && !repo.is_doomed(*id) {
            plan.salvage.insert(*id, frames);
        }
    }
    Ok(plan)
}

/// Obeys a plan. Run it again from verify on if it ends with an error: what it had done stays right.
///
/// # Errors
/// [`RepoError::PackGone`] if a pack of the plan was doomed meanwhile, [`RepoError::NoRight`], and any failure
/// of the store.
pub fn repair(repo: &Repo, plan: &RepairPlan, cx: &Cx) -> Result<RepairReport, RepoError> {
    repo.check_no_doubt()?;
    let mut done = RepairReport::default();
    if !plan.reindex.is_empty() || !plan.replace_indexes.is_empty() {
        done.n_reindexed = reindex(repo, plan, cx)?;
    }
    let state = repo.follow()?;
    let index = Arc::new(sound_index(repo, &state, &BTreeSet::new())?);
    let mut salvage_from = plan.salvage.clone();
    // Of these no index knew the frames, so verify could not try them.
    for pack in plan.reindex.keys().filter(|pack| plan.damaged.contains(pack)) {
        let is_good = |pack| state.is_good(pack) && !plan.damaged.contains(&pack);
        salvage_from.insert(*pack, needed_frames(&index, *pack, &is_good)?);
    }
    let mut builder = IndexBuilder::default();
    for (pack, frames) in &salvage_from {
        cx.check()?;
        done.n_salvaged += salvage(repo, &index, *pack, frames, &mut builder)?;
    }
    // We have opened them and computed their names: we vouch for them ourselves.
    name(repo, BTreeMap::from([(repo.signer().id(), builder)]), &BTreeSet::new(), &BTreeSet::new())?;
    let change = Damaged {
        packs: plan.damaged.iter().copied().collect(),
        well: plan.well.iter().copied().collect(),
        snapshots: plan.set_aside.iter().copied().collect(),
        snapshots_well: plan.taken_back.iter().copied().collect(),
    };
    if change != Damaged::default() {
        repo.append(&mut |_| Ok(Change::Damaged(change.clone())))?;
    }
    (done.n_damaged, done.n_well) = (change.packs.len() as u64, change.well.len() as u64);
    done.n_set_aside = change.snapshots.len() as u64;
    done.n_taken_back = change.snapshots_well.len() as u64;
    Ok(done)
}

/// Names packs again, in index objects that take the place of the lost ones. Gives how many.
fn reindex(repo: &Repo, plan: &RepairPlan, cx: &Cx) -> Result<u64, RepoError> {
    let state = repo.follow()?;
    let mut builders: BTreeMap<WriterId, IndexBuilder> = BTreeMap::new();
    for (pack, list) in &plan.reindex {
        cx.check()?;
        match *list {
            FrameList::Footer => {
                let bytes = repo.store().get(&layout::pack(*pack))?;
                let footer = Footer::signed(&bytes, repo.keys());
                let (footer, signer) = footer.map_err(RepoError::damaged(layout::pack(*pack)))?;
                let builder = builders.entry(voucher(&state, &footer, signer)).or_default();
                let indexed = IndexedPack { id: *pack, bytes: bytes.len() as u64 };
                builder.add(indexed, footer.frames, &footer.sessions, &footer.epochs);
            }
            FrameList::Cache(id) => {
                let writer = state.indexes.get(&id).map_or(repo.signer().id(), |index| index.writer);
                let builder = builders.entry(writer).or_default();
                let Ok(segment) = Segment::open(id, &repo.index_cache(), repo.hash_key()) else { continue };
                segment.each_pack(&mut |indexed, frames| {
                    if indexed.id == *pack {
                        builder.add(indexed, frames, segment.sessions(), segment.epochs());
                    }
                    Ok(())
                })?;
            }
        }
    }
    let packs = plan.reindex.keys().copied().collect();
    name(repo, builders, &packs, &plan.replace_indexes)?;
    Ok(plan.reindex.len() as u64)
}

/// Stores index objects, one for each voucher, and names them in the log in place of `lost` ones. None of
/// `packs` may be doomed by then.
fn name(
    repo: &Repo,
    builders: BTreeMap<WriterId, IndexBuilder>,
    packs: &BTreeSet<PackId>,
    lost: &BTreeSet<IndexId>,
) -> Result<(), RepoError> {
    let mut indexes = Vec::new();
    for (voucher, builder) in builders.into_iter().filter(|(_, builder)| !builder.is_empty()) {
        indexes.push(IndexAdded { id: put_index(repo, &builder)?.id, voucher });
    }
    if indexes.is_empty() && lost.is_empty() {
        return Ok(());
    }
    repo.append(&mut |state| {
        if let Some(pack) = packs.iter().find(|pack| repo.is_doomed(**pack)) {
            return Err(RepoError::PackGone { pack: *pack });
        }
        Ok(Change::Prune(Prune {
            indexes_added: indexes.clone(),
            indexes_removed: match sabotage::on("repair-drops-indexes") {
                true => state.indexes.keys().copied().collect(),
                false => lost.iter().copied().collect(),
            },
            sparse: state.sparse.iter().copied().collect(),
            soft_seconds: SOFT_SECONDS,
            ..Prune::default()
        }))
    })?;
    Ok(())
}

/// Where those frames of a pack begin that hold a blob of which there is no good copy.
fn needed_frames(
    index: &IndexSet,
    pack: PackId,
    is_good: &dyn Fn(PackId) -> bool,
) -> Result<BTreeSet<u32>, RepoError> {
    let mut frames = BTreeSet::new();
    each_frame(index, pack, &mut |_, frame| {
        for blob in &frame.blobs {
            if index.find(blob.id, is_good)?.is_empty() {
                frames.insert(frame.offset);
                break;
            }
        }
        Ok(())
    })?;
    Ok(frames)
}

/// The index objects of the state without the lost ones.
fn sound_index(repo: &Repo, state: &State, lost: &BTreeSet<IndexId>) -> Result<IndexSet, RepoError> {
    let mut sound = state.clone();
    sound.indexes.retain(|id, _| !lost.contains(id));
    IndexSet::default().follow(&sound, repo.store(), repo.keys(), &repo.index_cache())
}

/// Finds packs that no sound index names: all of them if an index object is lost, else those that hold what
/// is missing. A doomed pack is none of them: a doomed name never lives again.
fn plan_reindex(
    repo: &Repo,
    state: &State,
    named: &HashSet<PackId>,
    unplaced: &BTreeSet<BlobId>,
    plan: &mut RepairPlan,
    cx: &Cx,
) -> Result<(), RepoError> {
    plan.n_lost_blobs = unplaced.len() as u64;
    if plan.replace_indexes.is_empty() && unplaced.is_empty() {
        return Ok(());
    }
    let mut stored = Vec::new();
    repo.store().list(layout::PACKS, &mut |object| {
        let id = layout::name_of::<PackId>(&object.key).filter(|id| layout::pack(*id) == object.key);
        stored.extend(id);
    })?;
    let mut placed = HashSet::new();
    for id in stored.into_iter().filter(|id| !named.contains(id) && !repo.is_doomed(*id)) {
        cx.check()?;
        let bytes = match repo.store().get(&layout::pack(id)) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error.into()),
        };
        let Ok((footer, signer)) = Footer::signed(&bytes, repo.keys()) else { continue };
        // Whoever has the metadata key can put a pack there; only enrolled writers are taken at their word.
        if !state.is_known(signer) {
            continue;
        }
        let blobs = || footer.frames.iter().flat_map(|frame| &frame.blobs).map(|blob| blob.id);
        if plan.replace_indexes.is_empty() && !blobs().any(|blob| unplaced.contains(&blob)) {
            continue;
        }
        placed.extend(blobs().filter(|blob| unplaced.contains(blob)));
        plan.reindex.insert(id, FrameList::Footer);
        // Its seal vouches for the footer and its name for all of it: if the name is wrong, frames are.
        if blake3::hash(&bytes).as_bytes() != id.as_bytes() && !state.damaged.contains(&id) {
            plan.damaged.insert(id);
        }
    }
    for id in plan.replace_indexes.clone() {
        let Ok(segment) = Segment::open(id, &repo.index_cache(), repo.hash_key()) else { continue };
        segment.each_pack(&mut |pack, frames| {
            let blobs = || frames.iter().flat_map(|frame| &frame.blobs).map(|blob| blob.id);
            if !named.contains(&pack.id) && !plan.reindex.contains_key(&pack.id) && !repo.is_doomed(pack.id) {
                placed.extend(blobs().filter(|blob| unplaced.contains(blob)));
                plan.reindex.insert(pack.id, FrameList::Cache(id));
                if !state.damaged.contains(&pack.id) {
                    plan.damaged.insert(pack.id);
                }
            }
            Ok(())
        })?;
    }
    plan.n_lost_blobs -= placed.len() as u64;
    Ok(())
}

/// Who vouches for a pack that is named from its footer: its signer, or, if that was a pruner who copied
/// frames of another trust group, the writer of those.
fn voucher(state: &State, footer: &Footer, signer: WriterId) -> WriterId {
    let others = footer.sessions.iter().map(|session| session.writer);
    others.into_iter().find(|writer| !state.trusts(signer, *writer)).unwrap_or(signer)
}

type ShowFrame<'a> = dyn FnMut(&Arc<Segment>, PackedFrame) -> Result<(), RepoError> + 'a;

/// Shows every frame of a pack, with its segment.
fn each_frame(index: &IndexSet, pack: PackId, show: &mut ShowFrame<'_>) -> Result<(), RepoError> {
    for segment in index.segments().filter(|segment| segment.packs().iter().any(|named| named.id == pack)) {
        segment.each_pack(&mut |named, frames| match named.id == pack {
            true => frames.into_iter().try_for_each(|frame| show(segment, frame)),
            false => Ok(()),
        })?;
    }
    Ok(())
}

/// Copies those of the frames that open and are right out of a damaged pack into a new one. Gives how many.
fn salvage(
    repo: &Repo,
    index: &Arc<IndexSet>,
    pack: PackId,
    offsets: &BTreeSet<u32>,
    builder: &mut IndexBuilder,
) -> Result<u64, RepoError> {
    let mut reader = BlobReader::over(repo, index.clone())?;
    let mut open = OpenPack::default();
    let (mut sessions, mut epochs) = (BTreeMap::new(), BTreeMap::new());
    let mut n_salvaged = 0;
    each_frame(index, pack, &mut |segment, frame| {
        if !offsets.contains(&frame.offset) {
            return Ok(());
        }
        let start = u64::from(frame.offset);
        let range = start..start + u64::from(frame.stored_bytes);
        let stored = repo.store().get_range(&layout::pack(pack), range).map_err(RepoError::from);
        let opened = stored.and_then(|stored| Ok((reader.open(pack, &frame, stored.clone())?, stored)));
        let (plain, stored) = match opened {
            Ok(opened) => opened,
            // Without an identity only metadata can be told to be right.
            Err(error) if error.is_damage() || matches!(error, RepoError::NeedsIdentity) => return Ok(()),
            Err(error) => return Err(error),
        };
        if frame.misfit(&plain, repo.keys()).is_some() {
            return Ok(());
        }
        let session = segment.sessions().iter().find(|session| session.id == frame.head.session);
        if let Some(session) = session {
            let epoch = segment.epochs().iter().find(|epoch| epoch.id == session.epoch);
            epochs.extend(epoch.map(|epoch| (epoch.id, epoch.clone())));
            sessions.insert(session.id, session.clone());
        }
        n_salvaged += 1;
        open.push(frame.head, frame.blobs, &stored);
        Ok(())
    })?;
    if open.is_empty() {
        return Ok(0);
    }
    let sessions: Vec<_> = sessions.into_values().collect();
    let epochs: Vec<_> = epochs.into_values().collect();
    let made = open.finish(repo.cx().random(), sessions.clone(), epochs.clone(), repo.keys(), repo.signer());
    repo.put_named(&layout::pack(made.id), &made.bytes)?;
    let indexed = IndexedPack { id: made.id, bytes: made.bytes.len() as u64 };
    builder.add(indexed, made.frames, &sessions, &epochs);
    Ok(n_salvaged)
}
