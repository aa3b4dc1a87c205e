//! Prune: what no snapshot needs is doomed by an entry of the log, and removed when its soft period is over.
//!
//! ```text
//! survey at n ── plan ── copy living frames ── index objects ── entry n + 1 ── … soft period … ── remove
//!    ^                                                              |
//!    └────────────── another entry took the number ─────────────────┘
//! ```
//!
//! The entry is what counts: a commit before it was seen by the plan, and a commit after it has seen the
//! dooms. No lock, no lease and no clock is needed for that (decisions 7 to 9).

mod bundled;
mod bundling;
mod floor;
mod merge;
mod plan;
mod removal;
mod survey;

pub use bundling::{BundleOptions, BundleTotals, bundle_log, plan_bundles};
pub use floor::{DecideFloors, floor_log};
pub(crate) use merge::merge_small_indexes;
pub use plan::{
    DoomReason, PlannedCopy, PlannedDoom, PlannedIndex, PruneOptions, PrunePlan, PruneStop, PruneTotals,
    plan_prune,
};
pub use removal::{RemovalReport, remove_doomed};
pub use survey::{
    BlobCopy, BlobPrefix, NamedOrphan, Orphan, Presence, Survey, SurveyedFrame, SurveyedIndex, SurveyedPack,
};

use crate::RepoError;
use crate::frame_copy::{CopiedPack, FrameAt, FrameCopy, read_pack};
use crate::index::{IndexBuilder, Segment};
use crate::index_set::IndexSet;
use crate::keys::BlobClass;
use crate::lease::Lease;
use crate::log::{Change, IndexAdded, Prune};
use crate::repo::Repo;
use crate::state::State;
use crate::writer::put_index;
use hikae_model::{Cx, IndexId, PackId, RunId, WriterId, sabotage};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

/// How often a plan is made anew because another entry came first. Frames that were copied serve again, so
/// each try costs the survey only.
const TRIES: u32 = 16;

/// What a prune did.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PruneReport {
    /// The plan that was obeyed.
    pub plan: PrunePlan,
    /// Its entry in the log; nothing if there was nothing to do.
    pub n: Option<u64>,
    /// Packs that were written.
    pub n_packs_written: usize,
    /// Bytes of packs that were written, also for plans that came to nothing.
    pub written_bytes: u64,
    /// Index objects that were written for the entry.
    pub n_indexes_written: usize,
    /// How many plans were made.
    pub tries: u32,
}

/// Makes a plan and writes nothing: `--dry-run`.
///
/// # Errors
/// As for [`prune`].
pub fn plan(repo: &Repo, options: &PruneOptions, cx: &Cx) -> Result<PrunePlan, RepoError> {
    let state = repo.follow()?;
    let index = index_at(repo, &state)?;
    let survey = Survey::read(repo, &state, &index, &HashSet::new(), cx.now(), cx)?;
    Ok(plan_prune(&survey, options)?)
}

/// Dooms what no snapshot needs. What is doomed stays stored until [`remove_doomed`].
///
/// # Errors
/// Whatever could not be read, and [`PruneStop`] where things look wrong: then nothing was doomed.
pub fn prune(repo: &Repo, options: &PruneOptions, cx: &Cx) -> Result<PruneReport, RepoError> {
    let state = repo.follow()?;
    repo.check_may(&state, &Change::Prune(Prune::default()))?;
    let lease = Lease::take(repo, "prune")?;
    let (started, taken) = (cx.elapsed(), lease.taken());
    let run = RunId::from_bytes(cx.random());
    let mut moved = Moved::default();
    for tries in 1..=TRIES {
        let state = repo.follow()?;
        let index = index_at(repo, &state)?;
        let now = taken.checked_add(cx.elapsed().saturating_sub(started)).unwrap_or(taken);
        let survey = Survey::read(repo, &state, &index, &moved.packs(), now, cx)?;
        let plan = plan_prune(&survey, options)?;
        // The largest thing that we hold, and from here on the plan says it all.
        drop(survey);
        let mut report = PruneReport {
            n: None,
            n_packs_written: moved.n_written,
            written_bytes: moved.written_bytes,
            n_indexes_written: 0,
            tries,
            plan,
        };
        if report.plan.is_empty() {
            return Ok(report);
        }
        let change = moved.carry_out(repo, &state, &index, &report.plan, options, cx)?;
        report.n_packs_written = moved.n_written;
        report.written_bytes = moved.written_bytes;
        report.n_indexes_written = change.indexes_added.len();
        if sabotage::on("delete-first") {
            change.doomed.iter().try_for_each(|pack| repo.store().remove(&crate::layout::pack(*pack)))?;
        }
        if sabotage::on("plan-kept") {
            report.n = Some(repo.append(&mut |_| Ok(Change::Prune(change.clone())))?);
            return Ok(report);
        }
        report.n = repo.append_after(&state, run, Change::Prune(change))?;
        if report.n.is_some() {
            return Ok(report);
        }
    }
    Err(PruneStop::Overtaken { tries: TRIES }.into())
}

/// The index objects of this state and of no other.
fn index_at(repo: &Repo, state: &State) -> Result<Arc<IndexSet>, RepoError> {
    let index = repo.index()?.follow(state, repo.store(), repo.keys(), &repo.index_cache())?;
    Ok(Arc::new(index))
}

/// Frames that this prune has copied. They serve for the next plan too, as long as nobody doomed their packs.
#[derive(Default)]
struct Moved {
    by_voucher: BTreeMap<WriterId, Vec<CopiedPack>>,
    n_written: usize,
    written_bytes: u64,
}

impl Moved {
    /// The packs that hold them.
    fn packs(&self) -> HashSet<PackId> {
        self.by_voucher.values().flatten().map(|copied| copied.pack.id).collect()
    }

    /// Makes everything durable that the plan's entry will name, and gives the entry.
    fn carry_out(
        &mut self,
        repo: &Repo,
        state: &State,
        index: &IndexSet,
        plan: &PrunePlan,
        options: &PruneOptions,
        cx: &Cx,
    ) -> Result<Prune, RepoError> {
        let doomed: BTreeSet<PackId> = plan.doomed.iter().map(|doom| doom.pack).collect();
        let goes: BTreeSet<IndexId> = plan.indexes.iter().map(|index| index.id).collect();
        let mut change = Prune {
            doomed: doomed.iter().copied().collect(),
            indexes_removed: goes.iter().chain(&plan.index_orphans).copied().collect(),
            snapshots: plan.snapshots.clone(),
            sparse: plan.sparse.iter().copied().collect(),
            soft_seconds: options.soft.as_secs(),
            ..Prune::default()
        };
        let vouchers: BTreeSet<WriterId> = plan.indexes.iter().map(|index| index.voucher).collect();
        for voucher in vouchers {
            let of_voucher = plan.indexes.iter().filter(|index| index.voucher == voucher);
            let segments: Vec<_> = of_voucher.filter_map(|planned| index.get(planned.id)).collect();
            self.copy(repo, voucher, &segments, plan, cx)?;
            let mut new = NewIndexes { repo, voucher, builder: IndexBuilder::default(), change: &mut change };
            let wanted: HashSet<FrameAt> = places(plan).collect();
            for copied in self.by_voucher.get(&voucher).into_iter().flatten() {
                if copied.sources.iter().any(|source| wanted.contains(source)) && !sabotage::on("index-later")
                {
                    copied.add_to(&mut new.builder);
                    new.put_if(false)?;
                }
            }
            let mut named = HashSet::new();
            for segment in segments {
                cx.check()?;
                segment.each_pack(&mut |pack, frames| {
                    let stays = !doomed.contains(&pack.id) && !state.doomed.contains_key(&pack.id);
                    // Twice named in what goes, once in what comes.
                    if stays && named.insert(pack.id) {
                        new.builder.add(pack, frames, segment.sessions(), segment.epochs());
                        new.put_if(false)?;
                    }
                    Ok(())
                })?;
            }
            new.put_if(true)?;
        }
        check_names_no_doomed(index, &goes, &doomed)?;
        Ok(change)
    }

    /// Copies the plan's frames of one voucher that were not copied yet, or whose new pack was doomed since.
    fn copy(
        &mut self,
        repo: &Repo,
        voucher: WriterId,
        segments: &[&Arc<Segment>],
        plan: &PrunePlan,
        cx: &Cx,
    ) -> Result<(), RepoError> {
        let moved = self.by_voucher.entry(voucher).or_default();
        moved.retain(|copied| !repo.is_doomed(copied.pack.id));
        let done: HashSet<FrameAt> = moved.iter().flat_map(|copied| copied.sources.iter().copied()).collect();
        // Packs of metadata stay packs of metadata.
        let (mut content, mut metadata) = (FrameCopy::default(), FrameCopy::default());
        for segment in segments {
            let copies: BTreeMap<PackId, &BTreeSet<u32>> = plan
                .copies
                .iter()
                .filter(|copy| copy.index == segment.id)
                .map(|copy| (copy.pack, &copy.offsets))
                .collect();
            if copies.is_empty() {
                continue;
            }
            segment.each_pack(&mut |pack, mut frames| {
                cx.check()?;
                let Some(offsets) = copies.get(&pack.id) else { return Ok(()) };
                frames.retain(|frame| {
                    offsets.contains(&frame.offset) && !done.contains(&(pack.id, frame.offset))
                });
                let copy = match frames.first().map(|frame| frame.head.class) {
                    None => return Ok(()),
                    Some(BlobClass::Content) => &mut content,
                    Some(BlobClass::Metadata) => &mut metadata,
                };
                copy.take(repo, (pack.id, &read_pack(repo, pack.id)?), frames, segment)
            })?;
        }
        for mut copy in [content, metadata] {
            copy.finish(repo)?;
            self.n_written += copy.packs.len();
            self.written_bytes += copy.packs.iter().map(|copied| copied.pack.bytes).sum::<u64>();
            moved.append(&mut copy.packs);
        }
        Ok(())
    }
}

/// Every frame that a plan copies.
fn places(plan: &PrunePlan) -> impl Iterator<Item = FrameAt> {
    plan.copies.iter().flat_map(|copy| copy.offsets.iter().map(|offset| (copy.pack, *offset)))
}

/// Index objects that come, all of one voucher.
struct NewIndexes<'a> {
    repo: &'a Repo,
    voucher: WriterId,
    builder: IndexBuilder,
    change: &'a mut Prune,
}

impl NewIndexes<'_> {
    /// Makes the object that is being built durable, if it is full or `now`.
    fn put_if(&mut self, now: bool) -> Result<(), RepoError> {
        if self.builder.is_empty() || !(now || self.builder.is_full()) {
            return Ok(());
        }
        let segment = put_index(self.repo, &std::mem::take(&mut self.builder))?;
        self.change.indexes_added.push(IndexAdded { id: segment.id, voucher: self.voucher });
        Ok(())
    }
}

/// The last look before the entry: no index object that stays names a pack that goes.
fn check_names_no_doomed(
    index: &IndexSet,
    goes: &BTreeSet<IndexId>,
    doomed: &BTreeSet<PackId>,
) -> Result<(), PruneStop> {
    let stays = index.segments().filter(|segment| !goes.contains(&segment.id));
    match stays.flat_map(|segment| segment.packs()).find(|pack| doomed.contains(&pack.id)) {
        Some(pack) => Err(PruneStop::NamesDoomed { pack: pack.id }),
        None => Ok(()),
    }
}
