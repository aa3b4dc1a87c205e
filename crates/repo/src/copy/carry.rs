//! Packs on their way from one repository to another, and the index objects that name them there.

use super::LetGo;
use crate::RepoError;
use crate::frame_copy::{FrameCopy, read_pack};
use crate::index::{IndexBuilder, IndexedPack, Location, Segment};
use crate::keys::BlobClass;
use crate::layout;
use crate::pack::PackedFrame;
use crate::repo::{Repo, lock};
use crate::writer::put_index;
use crossbeam_channel::{Receiver, bounded};
use hikae_model::{BlobId, Cx, IndexId, PackId, sabotage};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};

/// A pack moves whole if at least one in so many bytes of its frames is wanted.
const WHOLE_FROM: u64 = 2;

/// Brings blobs, pack by pack.
pub(super) struct Carrier<'a> {
    from: &'a Repo,
    to: &'a Repo,
    let_go: &'a LetGo,
    /// Packs that stand in the target's store, named there or not.
    stored: HashSet<PackId>,
    cx: &'a Cx,
    carried: Mutex<Carried>,
}

/// What was brought.
#[derive(Default)]
pub(super) struct Carried {
    /// The index objects that name it.
    pub(super) segments: BTreeMap<IndexId, Arc<Segment>>,
    /// Packs that are damaged or gone at the source.
    pub(super) damaged: BTreeMap<PackId, RepoError>,
    pub(super) n_whole: u64,
    pub(super) n_there: u64,
    pub(super) n_in_part: u64,
    pub(super) stored_bytes: u64,
    builder: IndexBuilder,
    content: FrameCopy,
    metadata: FrameCopy,
    /// The first failure that is no damage of the source: it ends the copy.
    failed: Option<RepoError>,
}

/// Frames of a pack that are wanted.
#[derive(Default)]
struct Wanted {
    offsets: BTreeSet<u32>,
    bytes: u64,
}

/// Which frames are wanted of which pack, by the index object that names it.
#[derive(Default)]
struct Plan {
    packs: HashMap<IndexId, HashMap<PackId, Wanted>>,
    bytes: u64,
    /// Blobs of which there is no good copy.
    lost: HashSet<BlobId>,
}

/// A pack to be moved.
struct Job {
    pack: IndexedPack,
    frames: Vec<PackedFrame>,
    segment: Arc<Segment>,
    wanted: Wanted,
}

impl<'a> Carrier<'a> {
    pub(super) fn new(
        from: &'a Repo,
        to: &'a Repo,
        let_go: &'a LetGo,
        cx: &'a Cx,
    ) -> Result<Self, RepoError> {
        let mut stored = HashSet::new();
        to.store()
            .list(layout::PACKS, &mut |object| stored.extend(layout::name_of::<PackId>(&object.key)))?;
        Ok(Self { from, to, let_go, stored, cx, carried: Mutex::default() })
    }

    /// Brings what `lacking` names, each from its best place. Gives those blobs of which the source has no good copy.
    pub(super) fn carry(&mut self, mut lacking: HashSet<BlobId>) -> Result<HashSet<BlobId>, RepoError> {
        let mut lost = HashSet::new();
        while !lacking.is_empty() {
            let n_damaged = lock(&self.carried).damaged.len();
            self.from.follow()?;
            let plan = self.plan(&lacking)?;
            lost.extend(plan.lost.iter().copied());
            self.cx.progress().begin("copying to", self.to.store().address(), plan.bytes);
            self.bring(plan)?;
            if lock(&self.carried).damaged.len() == n_damaged {
                break;
            }
            // Another place may have what was in the packs that were damaged.
            let carried = self.settle()?;
            lacking.retain(|blob| !lost.contains(blob));
            let mut left = HashSet::new();
            for blob in lacking {
                if !is_named(&carried, blob)? {
                    left.insert(blob);
                }
            }
            lacking = left;
        }
        Ok(lost)
    }

    /// Makes what was brought durable and indexed.
    pub(super) fn finish(self) -> Result<Carried, RepoError> {
        self.settle()?;
        Ok(self.carried.into_inner().unwrap_or_else(|broken| broken.into_inner()))
    }

    /// The best place of each blob: one that somebody vouches for whom we trust before another, and a pack that moves anyway
    /// before one more.
    fn plan(&self, lacking: &HashSet<BlobId>) -> Result<Plan, RepoError> {
        let (state, index, own) = (self.from.state(), self.from.index()?, self.from.signer().id());
        let carried = lock(&self.carried);
        let is_good = |pack| state.is_good(pack) && !carried.damaged.contains_key(&pack);
        let mut plan = Plan::default();
        for blob in lacking {
            let mut best: Option<((bool, bool), IndexId, Location)> = None;
            for segment in index.segments() {
                let vouched = state.indexes.get(&segment.id);
                let is_trusted = vouched.is_some_and(|index| state.trusts(own, index.writer));
                segment.find(*blob, &mut |place| {
                    let moves =
                        plan.packs.get(&segment.id).is_some_and(|packs| packs.contains_key(&place.pack));
                    let rank = (is_trusted, moves);
                    if is_good(place.pack) && best.as_ref().is_none_or(|(of_best, ..)| *of_best < rank) {
                        best = Some((rank, segment.id, place));
                    }
                    true
                })?;
            }
            let Some((_, segment, place)) = best else {
                plan.lost.insert(*blob);
                continue;
            };
            let wanted = plan.packs.entry(segment).or_default().entry(place.pack).or_default();
            if wanted.offsets.insert(place.frame.offset) {
                wanted.bytes += u64::from(place.frame.stored_bytes);
                plan.bytes += u64::from(place.frame.stored_bytes);
            }
        }
        Ok(plan)
    }

    /// Moves the packs of a plan, several at a time where the target has use for that.
    fn bring(&self, mut plan: Plan) -> Result<(), RepoError> {
        let index = self.from.index()?;
        let (jobs, queue) = bounded::<Job>(0);
        let walked = std::thread::scope(|scope| {
            for _ in 0..self.to.store().puts_at_once() {
                let queue = queue.clone();
                scope.spawn(move || self.move_all(&queue));
            }
            // Theirs are all: once they are gone, sending ends.
            drop(queue);
            for segment in index.segments() {
                let Some(mut packs) = plan.packs.remove(&segment.id) else { continue };
                segment.each_pack(&mut |pack, frames| {
                    self.cx.check()?;
                    let Some(wanted) = packs.remove(&pack.id) else { return Ok(()) };
                    let job = Job { pack, frames, segment: segment.clone(), wanted };
                    jobs.send(job).map_err(|_| RepoError::Worker)
                })?;
            }
            drop(jobs);
            Ok::<(), RepoError>(())
        });
        match lock(&self.carried).failed.take() {
            Some(failed) => Err(failed),
            None => walked,
        }
    }

    fn move_all(&self, queue: &Receiver<Job>) {
        for job in queue {
            let pack = job.pack.id;
            if let Err(error) = self.move_pack(job) {
                let mut carried = lock(&self.carried);
                if error.is_damage() || matches!(error, RepoError::PackGone { .. }) {
                    carried.damaged.insert(pack, error);
                    continue;
                }
                carried.failed.get_or_insert(error);
                return;
            }
        }
    }

    fn move_pack(&self, job: Job) -> Result<(), RepoError> {
        let Job { pack, mut frames, segment, wanted } = job;
        let of_frames: u64 = frames.iter().map(|frame| u64::from(frame.stored_bytes)).sum();
        if wanted.bytes * WHOLE_FROM >= of_frames
            && self.may_have_its_name(pack.id)
            && self.is_moved(pack.id)?
        {
            let mut carried = lock(&self.carried);
            carried.builder.add(pack, frames, segment.sessions(), segment.epochs());
            return carried.put_index_if(self.to, false);
        }
        frames.retain(|frame| wanted.offsets.contains(&frame.offset));
        let bytes = read_pack(self.from, pack.id)?;
        let mut carried = lock(&self.carried);
        carried.n_in_part += 1;
        // Packs of metadata stay packs of metadata.
        let copy = match frames.first().map(|frame| frame.head.class) {
            Some(BlobClass::Metadata) => &mut carried.metadata,
            _ => &mut carried.content,
        };
        copy.take(self.to, (pack.id, &bytes), frames, &segment)
    }

    /// Whether a pack may stand in the target under its own name.
    fn may_have_its_name(&self, pack: PackId) -> bool {
        let is_let_go = self.let_go.has_let_go_pack(pack) || self.to.is_doomed(pack);
        (!is_let_go || sabotage::on("copied-names-recur")) && !self.to.state().damaged.contains(&pack)
    }

    /// Moves a whole pack, unless it stands there. False if something else stands under its name.
    fn is_moved(&self, pack: PackId) -> Result<bool, RepoError> {
        let key = layout::pack(pack);
        if self.stored.contains(&pack) {
            self.to.store().settle(&key)?;
            let is_right = read_pack(self.to, pack).is_ok();
            lock(&self.carried).n_there += u64::from(is_right);
            return Ok(is_right);
        }
        let bytes = match sabotage::on("damage-is-copied") {
            true => self.from.store().get(&key)?,
            false => read_pack(self.from, pack)?,
        };
        self.to.put_named(&key, &bytes)?;
        self.cx.progress().add_stored(bytes.len() as u64);
        let mut carried = lock(&self.carried);
        carried.n_whole += 1;
        carried.stored_bytes += bytes.len() as u64;
        Ok(true)
    }

    /// Makes what is open durable, and gives the index objects so far.
    fn settle(&self) -> Result<Vec<Arc<Segment>>, RepoError> {
        let mut carried = lock(&self.carried);
        for mut copy in [std::mem::take(&mut carried.content), std::mem::take(&mut carried.metadata)] {
            copy.finish(self.to)?;
            for copied in &copy.packs {
                carried.stored_bytes += copied.pack.bytes;
                copied.add_to(&mut carried.builder);
                carried.put_index_if(self.to, false)?;
            }
        }
        carried.put_index_if(self.to, true)?;
        Ok(carried.segments.values().cloned().collect())
    }
}

impl Carried {
    /// Makes the index object that is being built durable, if it is full or `now`.
    fn put_index_if(&mut self, to: &Repo, now: bool) -> Result<(), RepoError> {
        if self.builder.is_empty() || !(now || self.builder.is_full()) {
            return Ok(());
        }
        let segment = Arc::new(put_index(to, &std::mem::take(&mut self.builder))?);
        self.segments.insert(segment.id, segment);
        Ok(())
    }
}

/// True if one of these index objects names the blob.
fn is_named(segments: &[Arc<Segment>], blob: BlobId) -> Result<bool, RepoError> {
    let mut named = false;
    for segment in segments {
        segment.find(blob, &mut |_| {
            named = true;
            false
        })?;
    }
    Ok(named)
}
