//! What prune would do, and why: a pure decision over a survey.
//!
//! - Every blob that a snapshot needs keeps one good copy for each trust group that has one: nobody can tell
//!   without an identity whether a copy by a stranger is the same (rule P3, decision 6). Of several copies
//!   that one stays whose frame is needed most, so that the other frames can go.
//! - A pack without a living frame is doomed. Packs with much dead space are emptied, those with the largest
//!   dead share first, until what stays is no more than `max_unused_percent` of what lives: the last percents
//!   would cost by far the most copying. Many small packs, as short runs leave them, are emptied into one.
//! - No living index names a doomed pack afterwards: index objects that do are written again without it, and
//!   small ones join them.

use super::survey::{Orphan, Presence, Survey};
use crate::index::TARGET_BLOBS;
use crate::log::FrameName;
use hikae_model::{Bytes, IndexId, PackId, SnapshotId, WriterId, sabotage};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// How to prune.
#[derive(Clone, Debug)]
pub struct PruneOptions {
    /// How long doomed packs stay, for undelete and for restores that are under way.
    pub soft: Duration,
    /// What nothing names is doomed once it is so old. Longer than the longest backup, or that
    /// has to rescue what it wrote.
    pub orphan_grace: Duration,
    /// How much of what lives may stay as dead space, in percent.
    pub max_unused_percent: u8,
    /// Copy no more than so many bytes in one go; the next prune goes on.
    pub max_copied_bytes: Option<u64>,
    /// Packs shorter than this are small.
    pub small_pack_bytes: u64,
    /// So many small packs are emptied into one.
    pub small_packs: usize,
    /// So many small index objects are merged into one.
    pub small_indexes: usize,
    /// Prune also when there is no snapshot, which dooms everything.
    pub even_without_snapshots: bool,
}

impl Default for PruneOptions {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(86_400);
        Self {
            soft: 14 * DAY,
            orphan_grace: DAY,
            max_unused_percent: 5,
            max_copied_bytes: None,
            small_pack_bytes: 4 << 20,
            small_packs: 16,
            small_indexes: 8,
            even_without_snapshots: false,
        }
    }
}

/// Why prune stopped, with nothing doomed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PruneStop {
    /// Everything would go.
    #[error("there is no snapshot, so all {n_packs} packs would be doomed")]
    NoSnapshots {
        /// How many.
        n_packs: usize,
    },
    /// The store shows far fewer packs than there should be.
    #[error("the store does not list {n_missing} of {n_named} packs that the index names")]
    PacksMissing {
        /// How many it does not show.
        n_missing: usize,
        /// How many there should be.
        n_named: usize,
    },
    /// Something is lost already; pruning now could take away what helps.
    #[error("{n_blobs} blobs that snapshots need, the first {first}…, have no good copy")]
    BlobsLost {
        /// How many.
        n_blobs: usize,
        /// The first digits of the name of one of them.
        first: String,
    },
    /// What a snapshot needs is not known.
    #[error(
        "the records of {n} snapshots cannot be read, the first of {}, so what they need is not known", .first.short()
    )]
    RecordsLost {
        /// How many.
        n: usize,
        /// One of them.
        first: SnapshotId,
    },
    /// Every time that a plan was made, somebody else changed the repository first.
    #[error("others changed the repository {tries} times while prune made its plan")]
    Overtaken {
        /// How often it tried.
        tries: u32,
    },
    /// The plan contradicts itself. A bug, caught before it does harm.
    #[error("after this prune an index would still name doomed pack {}", .pack.short())]
    NamesDoomed {
        /// The pack.
        pack: PackId,
    },
}

impl PruneStop {
    /// What to do.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::NoSnapshots { .. } => {
                "see that this is the right repository; `--even-without-snapshots` prunes it all the same"
            }
            Self::PacksMissing { .. } => {
                "run `hikae verify` for the extent, then `hikae repo repair`; nothing was doomed"
            }
            Self::BlobsLost { .. } => {
                "run `hikae repo repair`, then back up again; what no source brings back goes with `hikae forget` of the \
                 snapshots that `hikae verify` names; nothing was doomed"
            }
            Self::RecordsLost { .. } => {
                "put the records back with `hikae repo repair --from` a copy of the repository, or let the snapshots go: \
                 `hikae list` names them, `hikae forget ID` drops one; nothing was doomed"
            }
            Self::Overtaken { .. } => "run it again when fewer backups are running",
            Self::NamesDoomed { .. } => "report it; nothing was doomed",
        }
    }
}

/// What prune will do.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PrunePlan {
    /// The entry of the log on which it was made. It holds for this one and no other.
    pub n: u64,
    /// Packs to be doomed.
    pub doomed: Vec<PlannedDoom>,
    /// Frames to be copied out of packs that are emptied.
    pub copies: Vec<PlannedCopy>,
    /// Index objects that go; those that come hold what of them still counts.
    pub indexes: Vec<PlannedIndex>,
    /// Index objects that go because no entry has ever named them.
    pub index_orphans: Vec<IndexId>,
    /// Snapshot records that go: forgotten, or never named by an entry.
    pub snapshots: Vec<SnapshotId>,
    /// Frames less than half alive: writers store their blobs again from the source, and the frame dies with
    /// the older snapshots.
    pub sparse: BTreeSet<FrameName>,
    /// True if that is not what the last prune said.
    pub sparse_changed: bool,
    /// What it comes to.
    pub totals: PruneTotals,
}

/// A pack to be doomed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PlannedDoom {
    /// The pack.
    pub pack: PackId,
    /// Its length.
    pub bytes: u64,
    /// Why.
    pub reason: DoomReason,
}

/// Why a pack is doomed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DoomReason {
    /// No snapshot needs anything in it.
    Dead,
    /// What snapshots need of it is copied into a new pack.
    Emptied,
    /// Nothing names it, and it is older than the grace time.
    Orphan,
    /// It is not what it was or not there, and everything needed has another copy.
    Damaged,
}

/// Frames of one pack to be copied.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PlannedCopy {
    /// The index object that names them; its voucher vouches for them on.
    pub index: IndexId,
    /// The pack.
    pub pack: PackId,
    /// Where in the pack each frame begins.
    pub offsets: BTreeSet<u32>,
    /// Their length together.
    pub bytes: u64,
}

/// An index object that goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PlannedIndex {
    /// Its name.
    pub id: IndexId,
    /// Who vouches for it, and will for what takes its place.
    pub voucher: WriterId,
}

/// What a plan comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PruneTotals {
    /// Snapshots that are there.
    pub n_snapshots: usize,
    /// Blobs that they need.
    pub n_blobs: usize,
    /// Bytes of frames that live.
    pub living_bytes: u64,
    /// Bytes of dead frames that stay, in packs that are not worth emptying.
    pub unused_bytes: u64,
    /// Bytes of packs to be doomed.
    pub doomed_bytes: u64,
    /// Bytes to be copied into new packs.
    pub copied_bytes: u64,
    /// Bytes that the repository will shrink by once the soft period is over.
    pub freed_bytes: u64,
    /// Bytes of frames of which less than half lives. Not counted as unused: only a backup can free them.
    pub sparse_bytes: u64,
    /// Packs that were doomed before and are still stored.
    pub n_waiting: usize,
    /// Their bytes.
    pub waiting_bytes: u64,
    /// Packs that nothing names and that are too young to be doomed.
    pub n_young_orphans: usize,
    /// Their bytes.
    pub young_orphan_bytes: u64,
}

impl PrunePlan {
    /// True if there is nothing to do.
    pub fn is_empty(&self) -> bool {
        let nothing_named = self.index_orphans.is_empty() && self.snapshots.is_empty();
        self.doomed.is_empty() && self.indexes.is_empty() && nothing_named && !self.sparse_changed
    }
}

/// Decides what goes. Obeys rules P1 to P9 of the protocol, as far as they are not about reading.
///
/// # Errors
/// [`PruneStop`] if the survey does not look like a healthy repository.
pub fn plan_prune(survey: &Survey, options: &PruneOptions) -> Result<PrunePlan, PruneStop> {
    check_guards(survey, options)?;
    let frames = living_frames(survey)?;
    let packs = packs_of(survey, &frames);
    let (emptied, unused_bytes) = packs_to_empty(survey, &packs, options);

    let mut plan = PrunePlan { n: survey.n, ..PrunePlan::default() };
    let stays = |number: usize| {
        let is_good = survey.packs[number].presence == Presence::Good;
        is_good && packs[number].n_living > 0 && !emptied.contains(&number)
    };
    let staying: BTreeSet<PackId> =
        (0..packs.len()).filter(|number| stays(*number)).map(|number| survey.packs[number].id).collect();
    let mut doomed = BTreeMap::new();
    for (number, pack) in survey.packs.iter().enumerate().filter(|(_, pack)| !staying.contains(&pack.id)) {
        let reason = match pack.presence {
            Presence::Doomed => continue,
            Presence::Missing | Presence::OtherLength | Presence::Damaged => DoomReason::Damaged,
            Presence::Good if packs[number].n_living == 0 => DoomReason::Dead,
            Presence::Good => DoomReason::Emptied,
        };
        let doom = PlannedDoom { pack: pack.id, bytes: pack.bytes, reason };
        // Of two that differ on a pack, believe that one whose length is right.
        if pack.presence == Presence::Good || !doomed.contains_key(&pack.id) {
            doomed.insert(pack.id, doom);
        }
    }
    plan.doomed = doomed.into_values().collect();
    let gone: Vec<bool> = survey.packs.iter().map(|pack| !staying.contains(&pack.id)).collect();
    let is_old = |stored: jiff::Timestamp| {
        let age = survey.now.as_second().saturating_sub(stored.as_second());
        u64::try_from(age).is_ok_and(|age| age >= options.orphan_grace.as_secs())
    };
    let (old, young): (Vec<_>, Vec<_>) = survey.orphans.iter().partition(|orphan| is_old(orphan.stored));
    let doom =
        |orphan: &&Orphan| PlannedDoom { pack: orphan.id, bytes: orphan.bytes, reason: DoomReason::Orphan };
    plan.doomed.extend(old.iter().map(doom));
    let old_indexes = survey.index_orphans.iter().filter(|orphan| is_old(orphan.stored));
    plan.index_orphans = old_indexes.map(|orphan| orphan.id).collect();
    let old_records = survey.snapshot_orphans.iter().filter(|orphan| is_old(orphan.stored));
    plan.snapshots = survey.forgotten.iter().copied().chain(old_records.map(|orphan| orphan.id)).collect();
    plan.copies = frames_to_copy(survey, &frames, &emptied);
    plan.indexes = indexes_to_rewrite(survey, &gone, options);
    let mut sparse_bytes = 0;
    for (frame, life) in survey.frames.iter().zip(&frames) {
        if life.is_living && 2 * u64::from(life.kept_bytes) < u64::from(frame.plain_bytes) {
            plan.sparse.insert(frame.name);
            sparse_bytes += u64::from(frame.stored_bytes);
        }
    }
    plan.sparse_changed = plan.sparse != survey.sparse;
    let stored = |doom: &&PlannedDoom| doom.reason != DoomReason::Damaged;
    let doomed_bytes = plan.doomed.iter().filter(stored).map(|doom| doom.bytes).sum();
    let copied_bytes = plan.copies.iter().map(|copy| copy.bytes).sum();
    plan.totals = PruneTotals {
        n_snapshots: survey.n_snapshots,
        n_blobs: survey.blobs.len(),
        living_bytes: packs.iter().map(|pack| pack.living_bytes).sum(),
        unused_bytes,
        doomed_bytes,
        copied_bytes,
        freed_bytes: doomed_bytes.saturating_sub(copied_bytes),
        sparse_bytes,
        n_waiting: survey.n_waiting,
        waiting_bytes: survey.waiting_bytes,
        n_young_orphans: young.len(),
        young_orphan_bytes: young.iter().map(|orphan| orphan.bytes).sum(),
    };
    Ok(plan)
}

/// A list of packs, or a log, that looks wrong dooms nothing (C-7, F-3).
fn check_guards(survey: &Survey, options: &PruneOptions) -> Result<(), PruneStop> {
    let n_packs = survey.packs.len() + survey.orphans.len();
    if survey.n_snapshots == 0 && n_packs > 0 && !options.even_without_snapshots {
        return Err(PruneStop::NoSnapshots { n_packs });
    }
    let (n_missing, n_named) = (survey.n_unlisted, survey.packs.len());
    if n_missing * 10 > n_named {
        return Err(PruneStop::PacksMissing { n_missing, n_named });
    }
    Ok(())
}

#[derive(Clone, Copy, Default)]
struct Life {
    /// True if a blob has its only copy that stays here.
    is_living: bool,
    /// Length of those blobs.
    kept_bytes: u32,
}

/// Which frames stay: those that hold the keeper of a blob for some trust group.
fn living_frames(survey: &Survey) -> Result<Vec<Life>, PruneStop> {
    const NONE: u32 = u32::MAX;
    const BAD: u32 = u32::MAX - 1;
    let presence = |frame: u32| survey.packs[survey.frames[frame as usize].pack as usize].presence;
    let is_trusted = |frame: u32| survey.indexes[survey.frames[frame as usize].index as usize].is_trusted;
    let group = |frame: u32| match survey.frames[frame as usize].index {
        _ if sabotage::on("writers-are-one") => 0,
        index => survey.indexes[index as usize].group,
    };

    let mut needed_bytes = vec![0_u32; survey.frames.len()];
    for copy in &survey.copies {
        let needed = &mut needed_bytes[copy.frame as usize];
        *needed = needed.saturating_add(copy.bytes);
    }
    // How much of a frame is needed at all, in thousandths; the first of equals.
    let rank = |frame: u32| {
        let plain = u64::from(survey.frames[frame as usize].plain_bytes).max(1);
        let share = u64::from(needed_bytes[frame as usize]) * 1000 / plain;
        (share, std::cmp::Reverse(frame))
    };
    let mut keepers: BTreeMap<u16, Vec<u32>> = BTreeMap::new();
    for copy in &survey.copies {
        let of_group = keepers.entry(group(copy.frame)).or_insert_with(|| vec![NONE; survey.blobs.len()]);
        let keeper = &mut of_group[copy.blob as usize];
        match presence(copy.frame) {
            Presence::Good if *keeper >= BAD || rank(copy.frame) > rank(*keeper) => *keeper = copy.frame,
            Presence::Good | Presence::Doomed => {}
            Presence::Missing | Presence::OtherLength | Presence::Damaged => {
                if *keeper == NONE && is_trusted(copy.frame) {
                    *keeper = BAD;
                }
            }
        }
    }
    // A group that has only a bad copy has lost the blob: a stranger's is no substitute (decision 6).
    let is_lost = |blob: &usize| {
        let mut of_groups = keepers.values().map(|keepers| keepers[*blob]);
        of_groups.clone().any(|keeper| keeper == BAD) || of_groups.all(|keeper| keeper == NONE)
    };
    let mut lost = (0..survey.blobs.len()).filter(is_lost).peekable();
    if let Some(first) = lost.peek() {
        let first = survey.blobs[*first][..4].iter().map(|byte| format!("{byte:02x}")).collect();
        return Err(PruneStop::BlobsLost { n_blobs: lost.count(), first });
    }
    if sabotage::on("no-keeper") {
        let mut n_copies = vec![0; survey.blobs.len()];
        survey.copies.iter().for_each(|copy| n_copies[copy.blob as usize] += 1);
        for keepers in keepers.values_mut() {
            keepers.iter_mut().zip(&n_copies).filter(|(_, n)| **n > 1).for_each(|(keeper, _)| *keeper = NONE);
        }
    }
    let mut frames = vec![Life::default(); survey.frames.len()];
    for copy in &survey.copies {
        let keeper = keepers.get(&group(copy.frame)).map_or(NONE, |keepers| keepers[copy.blob as usize]);
        if keeper == copy.frame {
            let life = &mut frames[copy.frame as usize];
            life.is_living = true;
            life.kept_bytes = life.kept_bytes.saturating_add(copy.bytes);
        }
    }
    Ok(frames)
}

#[derive(Clone, Copy, Default)]
struct PackLife {
    n_living: usize,
    living_bytes: u64,
    dead_bytes: u64,
}

fn packs_of(survey: &Survey, frames: &[Life]) -> Vec<PackLife> {
    let mut packs = vec![PackLife::default(); survey.packs.len()];
    for (frame, life) in survey.frames.iter().zip(frames) {
        let pack = &mut packs[frame.pack as usize];
        if life.is_living {
            pack.n_living += 1;
            pack.living_bytes += u64::from(frame.stored_bytes);
        } else {
            pack.dead_bytes += u64::from(frame.stored_bytes);
        }
    }
    packs
}

/// Packs to be emptied, and how many dead bytes stay in the others.
fn packs_to_empty(survey: &Survey, packs: &[PackLife], options: &PruneOptions) -> (BTreeSet<usize>, u64) {
    let living: Vec<_> = (0..packs.len())
        .filter(|pack| survey.packs[*pack].presence == Presence::Good && packs[*pack].n_living > 0)
        .collect();
    let mut unused: u64 = living.iter().map(|pack| packs[*pack].dead_bytes).sum();
    let in_use: u64 = living.iter().map(|pack| packs[*pack].living_bytes).sum();
    let may_stay = in_use / 100 * u64::from(options.max_unused_percent);
    let mut budget = options.max_copied_bytes.unwrap_or(u64::MAX);
    let mut emptied = BTreeSet::new();
    let mut empty = |pack: usize, emptied: &mut BTreeSet<usize>| {
        let fits = packs[pack].living_bytes <= budget;
        if fits && emptied.insert(pack) {
            budget -= packs[pack].living_bytes;
        }
        fits
    };

    let mut by_share: Vec<_> = living.iter().copied().filter(|pack| packs[*pack].dead_bytes > 0).collect();
    by_share.sort_by_key(|pack| {
        let PackLife { dead_bytes, living_bytes, .. } = packs[*pack];
        (std::cmp::Reverse(dead_bytes.saturating_mul(1 << 20) / (dead_bytes + living_bytes)), *pack)
    });
    for pack in by_share {
        if unused > may_stay && empty(pack, &mut emptied) {
            unused -= packs[pack].dead_bytes;
        }
    }
    let is_small = |pack: &usize| survey.packs[*pack].bytes < options.small_pack_bytes;
    let small: Vec<_> = living.into_iter().filter(is_small).collect();
    if small.len() >= options.small_packs.max(2) {
        for pack in small {
            if !emptied.contains(&pack) && empty(pack, &mut emptied) {
                unused -= packs[pack].dead_bytes;
            }
        }
    }
    (emptied, unused)
}

fn frames_to_copy(survey: &Survey, frames: &[Life], emptied: &BTreeSet<usize>) -> Vec<PlannedCopy> {
    let mut copies: BTreeMap<(u32, u32), PlannedCopy> = BTreeMap::new();
    for (frame, life) in survey.frames.iter().zip(frames) {
        if life.is_living && emptied.contains(&(frame.pack as usize)) {
            let copy = copies.entry((frame.index, frame.pack)).or_insert_with(|| PlannedCopy {
                index: survey.indexes[frame.index as usize].id,
                pack: survey.packs[frame.pack as usize].id,
                offsets: BTreeSet::new(),
                bytes: 0,
            });
            if copy.offsets.insert(frame.offset) {
                copy.bytes += u64::from(frame.stored_bytes);
            }
        }
    }
    copies.into_values().collect()
}

/// Index objects that name a pack that goes, and small ones if there are many or others of the same voucher
/// are written again anyway. Never two vouchers' in one.
fn indexes_to_rewrite(survey: &Survey, gone: &[bool], options: &PruneOptions) -> Vec<PlannedIndex> {
    let mut by_voucher: BTreeMap<WriterId, Vec<(PlannedIndex, bool, bool)>> = BTreeMap::new();
    for index in &survey.indexes {
        let must = index.packs.iter().any(|pack| gone[*pack as usize]);
        let is_small = index.n_blobs < TARGET_BLOBS / 4;
        let planned = PlannedIndex { id: index.id, voucher: index.voucher };
        by_voucher.entry(index.voucher).or_default().push((planned, must, is_small));
    }
    let mut rewritten = Vec::new();
    for indexes in by_voucher.into_values() {
        let any_must = indexes.iter().any(|(_, must, _)| *must);
        let n_small = indexes.iter().filter(|(_, _, is_small)| *is_small).count();
        let join = any_must || n_small >= options.small_indexes.max(2);
        let goes = |(planned, must, is_small): &(PlannedIndex, bool, bool)| {
            (*must || (*is_small && join)).then_some(*planned)
        };
        rewritten.extend(indexes.iter().filter_map(goes));
    }
    rewritten
}

impl fmt::Display for DoomReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dead => "no snapshot needs anything in them",
            Self::Emptied => "what snapshots need of them is copied into new packs",
            Self::Orphan => "nothing names them, and they are older than the grace time",
            Self::Damaged => "they are damaged or missing, and everything needed has another copy",
        })
    }
}

impl fmt::Display for PrunePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let totals = &self.totals;
        let PruneTotals { n_snapshots, n_blobs, .. } = totals;
        let living = Bytes(totals.living_bytes);
        writeln!(f, "{n_snapshots} snapshots need {n_blobs} blobs in {living}")?;
        let mut reasons: BTreeMap<DoomReason, (usize, u64)> = BTreeMap::new();
        for doom in &self.doomed {
            let sum = reasons.entry(doom.reason).or_default();
            *sum = (sum.0 + 1, sum.1 + doom.bytes);
        }
        for (reason, (n_packs, bytes)) in reasons {
            writeln!(f, "doom {n_packs} packs of {}: {reason}", Bytes(bytes))?;
        }
        if totals.copied_bytes > 0 {
            writeln!(f, "copy {} into new packs", Bytes(totals.copied_bytes))?;
        }
        if !self.indexes.is_empty() {
            writeln!(f, "write {} index objects again", self.indexes.len())?;
        }
        let n_orphans = self.index_orphans.len();
        if n_orphans > 0 {
            writeln!(f, "drop {n_orphans} index objects of runs that died")?;
        }
        if !self.snapshots.is_empty() {
            let n = self.snapshots.len();
            writeln!(f, "drop {n} snapshot records that are forgotten or of runs that died")?;
        }
        writeln!(f, "free {} after the soft period", Bytes(totals.freed_bytes))?;
        if totals.n_waiting > 0 {
            let (n, bytes) = (totals.n_waiting, Bytes(totals.waiting_bytes));
            writeln!(f, "{n} packs of {bytes} were doomed before and wait for theirs")?;
        }
        if totals.unused_bytes > 0 {
            writeln!(f, "leave {} unused in packs not worth emptying", Bytes(totals.unused_bytes))?;
        }
        if !self.sparse.is_empty() {
            let (n, bytes) = (self.sparse.len(), Bytes(totals.sparse_bytes));
            writeln!(
                f,
                "{n} frames of {bytes} are less than half needed; backups will store that half again"
            )?;
        }
        if totals.n_young_orphans > 0 {
            let n = totals.n_young_orphans;
            writeln!(f, "leave {n} packs that nothing names: they may belong to a backup that is running")?;
        }
        Ok(())
    }
}
