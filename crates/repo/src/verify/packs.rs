//! Packs: each read once, hashed, and compared with the index; with an identity, opened.
//!
//! Workers take packs from a short queue and read them in ranges, so that memory does not grow with their
//! number or length.

use super::{Damage, Found, PackDamage};
use crate::RepoError;
use crate::epoch::misfits;
use crate::index::IndexedPack;
use crate::index_set::IndexSet;
use crate::layout;
use crate::pack::{Footer, PackedFrame};
use crate::reader::BlobReader;
use crate::repo::{Repo, lock};
use crate::state::State;
use crossbeam_channel::{Receiver, bounded};
use hikae_model::{IndexId, PackId, Problem, sabotage};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// How much of a pack is in memory at once, beside one frame. Below the size from which the allocator would
/// give memory back to the operating system each time.
const RANGE_BYTES: u64 = 16 << 20;

/// Which packs to read, and how.
pub(super) struct Plan {
    pub(super) read_data: bool,
    pub(super) sample: Option<u8>,
    pub(super) wanted: Option<HashSet<PackId>>,
}

/// What was read.
#[derive(Default)]
pub(super) struct Read {
    pub(super) n_packs: u64,
    pub(super) n_packs_read: u64,
    pub(super) read_bytes: u64,
    pub(super) n_blobs: u64,
    pub(super) n_orphans: u64,
}

/// Length of every pack in the store.
pub(super) fn list(repo: &Repo, found: &Found<'_>) -> Result<BTreeMap<PackId, u64>, RepoError> {
    let mut packs = BTreeMap::new();
    let mut foreign = Vec::new();
    repo.store().list(layout::PACKS, &mut |object| match layout::name_of::<PackId>(&object.key)
        .filter(|id| layout::pack(*id) == object.key)
    {
        Some(id) => drop(packs.insert(id, object.bytes)),
        None => foreign.push(object.key),
    })?;
    for key in foreign {
        let problem = Problem::new("foreign-object", key, "is not a pack in its place");
        found.add(problem.advise("see who put it there, and remove it"));
    }
    Ok(packs)
}

/// One pack to be read.
struct Task {
    pack: IndexedPack,
    /// Its length in the store.
    stored_bytes: u64,
    /// What the index says of it, and which index object that is; nothing for packs that are doomed and whose
    /// index is gone.
    indexed: Option<(IndexId, Vec<PackedFrame>)>,
}

/// Reads every pack that the plan asks for and notes what is wrong.
pub(super) fn check(
    repo: &Repo,
    state: &State,
    index: &Arc<IndexSet>,
    stored: &BTreeMap<PackId, u64>,
    plan: &Plan,
    found: &Found<'_>,
    damage: &mut Damage,
) -> Result<Read, RepoError> {
    let named: BTreeSet<_> = index.packs().map(|pack| pack.id).collect();
    let draw = Draw { seed: found.cx.random(), percent: plan.sample };
    let is_only_doomed = |id: &PackId| state.doomed.contains_key(id) && !named.contains(id);
    let is_wanted = |id: PackId| plan.wanted.as_ref().is_none_or(|wanted| wanted.contains(&id));
    let is_asked_for = |id: PackId| is_wanted(id) && draw.takes(id.as_bytes());
    let total = stored
        .iter()
        .filter(|(id, _)| is_asked_for(**id) && (named.contains(id) || state.doomed.contains_key(id)));
    found.cx.progress().begin("verifying", repo.store().address(), total.map(|(_, bytes)| bytes).sum());

    let checker = Checker {
        repo,
        index,
        state,
        found,
        read_data: plan.read_data,
        damage: Mutex::default(),
        n_packs: AtomicU64::default(),
        read_bytes: AtomicU64::default(),
        n_blobs: AtomicU64::default(),
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let (tasks, queue) = bounded::<Task>(workers);
    let fed = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(|| checker.work(&queue))).collect();
        let feed = || -> Result<(), RepoError> {
            let send = |task| tasks.send(task).map_err(|_| RepoError::Worker);
            for segment in index.segments() {
                segment.each_pack(&mut |pack, frames| {
                    if !is_wanted(pack.id) || sabotage::on("verify-skips-packs") {
                        return Ok(());
                    }
                    match stored.get(&pack.id) {
                        None => checker.missing(pack.id, &frames),
                        // A pack of another length is no matter of chance.
                        Some(bytes) if *bytes == pack.bytes && !draw.takes(pack.id.as_bytes()) => Ok(()),
                        Some(bytes) => {
                            send(Task { pack, stored_bytes: *bytes, indexed: Some((segment.id, frames)) })
                        }
                    }
                })?;
            }
            for (id, bytes) in stored {
                if is_only_doomed(id) && is_asked_for(*id) {
                    let pack = IndexedPack { id: *id, bytes: *bytes };
                    send(Task { pack, stored_bytes: *bytes, indexed: None })?;
                }
            }
            Ok(())
        };
        let fed = feed();
        drop(tasks);
        // The first error of a worker says more than that the queue is closed.
        let worked: Result<Vec<()>, _> =
            threads.into_iter().map(|thread| thread.join().unwrap_or(Err(RepoError::Worker))).collect();
        worked.map(drop).and(fed)
    });
    fed?;
    let Damage { indexes, packs, well, .. } =
        checker.damage.into_inner().unwrap_or_else(|broken| broken.into_inner());
    damage.well = well.into_iter().filter(|id| !packs.contains_key(id)).collect();
    damage.packs = packs;
    damage.indexes.extend(indexes);
    Ok(Read {
        n_packs: (named.len() + stored.keys().filter(|id| is_only_doomed(id)).count()) as u64,
        n_packs_read: checker.n_packs.into_inner(),
        read_bytes: checker.read_bytes.into_inner(),
        n_blobs: checker.n_blobs.into_inner(),
        n_orphans: stored.keys().filter(|id| !named.contains(id) && !state.doomed.contains_key(id)).count()
            as u64,
    })
}

/// What the workers share.
struct Checker<'a> {
    repo: &'a Repo,
    index: &'a Arc<IndexSet>,
    state: &'a State,
    found: &'a Found<'a>,
    read_data: bool,
    damage: Mutex<Damage>,
    n_packs: AtomicU64,
    read_bytes: AtomicU64,
    n_blobs: AtomicU64,
}

/// What one reading of a pack showed.
struct Scanned {
    hash: blake3::Hash,
    /// Frames that were tried, by where they begin, and what is wrong with them.
    frames: BTreeMap<u32, Option<String>>,
    /// The bytes after the last frame.
    tail: Vec<u8>,
}

impl Checker<'_> {
    /// Takes tasks until there are no more. After an error it takes them all the same, so that who feeds the
    /// queue does not wait for ever.
    fn work(&self, queue: &Receiver<Task>) -> Result<(), RepoError> {
        let mut reader = BlobReader::over(self.repo, self.index.clone());
        let mut worked = Ok(());
        for task in queue {
            if worked.is_ok() {
                worked = match &mut reader {
                    Ok(reader) => self.check_pack(reader, &task),
                    Err(_) => Err(RepoError::Worker),
                };
            }
        }
        worked
    }

    fn missing(&self, id: PackId, frames: &[PackedFrame]) -> Result<(), RepoError> {
        if self.is_doomed(id)? || sabotage::on("missing-pack-unnoticed") {
            return Ok(());
        }
        let what = "is not there";
        self.say("missing-pack", id, what);
        let frames = frames.iter().map(|frame| (frame.offset, Some(String::new()))).collect();
        self.note(id, what.to_owned(), false, frames);
        Ok(())
    }

    /// Whether the pack is doomed by now: then it may go while we read.
    fn is_doomed(&self, id: PackId) -> Result<bool, RepoError> {
        if !self.repo.is_doomed(id) {
            match self.repo.follow() {
                Ok(_) => {}
                Err(error) if error.is_damage() || matches!(error, RepoError::BadLog { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.repo.is_doomed(id))
    }

    fn check_pack(&self, reader: &mut BlobReader<'_>, task: &Task) -> Result<(), RepoError> {
        let id = task.pack.id;
        let key = layout::pack(id);
        let frames = task.indexed.as_ref().map_or(&[][..], |(_, frames)| frames);
        let scanned = match self.scan(reader, task, self.read_data) {
            Ok(scanned) => scanned,
            Err(error) if matches!(&error, RepoError::Store(error) if error.is_not_found()) => {
                return self.missing(id, frames);
            }
            Err(error) => {
                let (what, unread) = (error.to_string(), !error.is_damage());
                match unread {
                    true => self.found.error("damaged-pack", &key, error)?,
                    false => self.say("damaged-pack", id, &what),
                }
                let frames = frames.iter().map(|frame| (frame.offset, Some(String::new()))).collect();
                self.note(id, what, unread, frames);
                return Ok(());
            }
        };
        self.n_packs.fetch_add(1, Ordering::Relaxed);
        if scanned.hash.as_bytes() != id.as_bytes() && !sabotage::on("pack-hash-ignored") {
            // A second look tells which of its frames are still right.
            let tried = match self.read_data {
                true => scanned.frames,
                false => self.scan(reader, task, true).map(|scanned| scanned.frames).unwrap_or_else(|_| {
                    frames.iter().map(|frame| (frame.offset, Some("could not be read".to_owned()))).collect()
                }),
            };
            let (is, should) = (task.stored_bytes, task.pack.bytes);
            let mut what = match is == should {
                true => "holds other bytes than its name says".to_owned(),
                false => format!("has {is} bytes instead of {should}"),
            };
            // Of a doomed pack no index knows the frames any more.
            if task.indexed.is_some() {
                let n_bad = tried.values().flatten().count();
                what.push_str(&format!("; {n_bad} of {} frames hit", tried.len()));
            }
            self.say("damaged-pack", id, &what);
            self.note(id, what, false, tried);
            return Ok(());
        }
        let first_bad = scanned.frames.iter().find_map(|(at, why)| why.as_ref().map(|why| (at, why)));
        if let Some((at, why)) = first_bad {
            let what = format!("its frame at {at} is not what the index says: {why}");
            self.say("damaged-pack", id, &what);
            self.note(id, what, false, scanned.frames);
        } else if self.state.damaged.contains(&id) {
            lock(&self.damage).well.insert(id);
        }
        self.check_footer(task, &scanned.tail)
    }

    /// Compares the footer with the index. The bytes of the pack are known to be those that were stored.
    fn check_footer(&self, task: &Task, tail: &[u8]) -> Result<(), RepoError> {
        let Some((index, frames)) = &task.indexed else { return Ok(()) };
        let key = layout::pack(task.pack.id);
        let footer = match Footer::of_pack(tail, self.repo.keys()) {
            Ok(footer) => footer,
            Err(why) => {
                self.say("damaged-pack", task.pack.id, format_args!("its footer is damaged: {why}"));
                self.note(task.pack.id, why.to_string(), false, BTreeMap::new());
                return Ok(());
            }
        };
        let family = self.repo.keys().family();
        if footer.frames != *frames {
            let what = format!("does not say of {key} what its footer says");
            self.found.damaged("damaged-index", layout::index(*index), what);
            lock(&self.damage).indexes.insert(*index);
        } else if let Some(what) = misfits(&footer.sessions, &footer.epochs, family).pop() {
            self.say("damaged-pack", task.pack.id, &what);
            self.note(task.pack.id, what, false, BTreeMap::new());
        }
        Ok(())
    }

    /// Says that a pack is damaged. If the log says so already, or nothing may rely on it any more, this alone harms
    /// nobody: what is missed of it is told by the snapshots that need it.
    fn say(&self, code: &str, id: PackId, what: impl fmt::Display) {
        let key = layout::pack(id);
        match self.state.is_good(id) {
            true => self.found.damaged(code, key, what),
            false => {
                let note = Problem::new(code, key, format_args!("{what}, as is known"));
                self.found.note(note.advise("nothing is to be done for it; a later prune takes it away"));
            }
        }
    }

    fn note(&self, id: PackId, what: String, unread: bool, tried: BTreeMap<u32, Option<String>>) {
        let offsets = |bad: bool| {
            let offsets = tried.iter().filter(move |(_, why)| why.is_some() == bad);
            offsets.map(|(offset, _)| *offset).collect()
        };
        let damage = PackDamage { what, unread, frames: offsets(true), good_frames: offsets(false) };
        lock(&self.damage).packs.insert(id, damage);
    }

    /// Reads a pack from its beginning to its end, once. Opens its frames if `open` says so.
    fn scan(&self, reader: &mut BlobReader<'_>, task: &Task, open: bool) -> Result<Scanned, RepoError> {
        let key = layout::pack(task.pack.id);
        let mut frames: Vec<_> = task.indexed.iter().flat_map(|(_, frames)| frames).collect();
        frames.sort_unstable_by_key(|frame| frame.offset);
        let end_of = |frame: &PackedFrame| u64::from(frame.offset) + u64::from(frame.stored_bytes);
        // Nothing after the frames is of use where there is no index to compare a footer with.
        let has_footer = task.indexed.is_some() && task.stored_bytes == task.pack.bytes;
        let tail_at = if has_footer { frames.last().map_or(0, |frame| end_of(frame)) } else { u64::MAX };
        let mut frames = frames.into_iter().peekable();
        let mut tried = BTreeMap::new();
        let mut hasher = blake3::Hasher::new();
        let (mut held, mut held_at, mut at) = (Vec::new(), 0_u64, 0_u64);
        while at < task.stored_bytes {
            self.found.cx.check()?;
            let to = (at + RANGE_BYTES).min(task.stored_bytes);
            let bytes = self.repo.store().get_range(&key, at..to)?;
            hasher.update(&bytes);
            self.found.cx.progress().add_read(bytes.len() as u64);
            self.read_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            if held.is_empty() {
                (held, held_at) = (bytes, at);
            } else {
                held.extend_from_slice(&bytes);
            }
            at = to;
            while let Some(frame) = frames.next_if(|frame| end_of(frame) <= at) {
                if open {
                    let start = u64::from(frame.offset).checked_sub(held_at).map(|start| start as usize);
                    let stored = start.and_then(|start| held.get(start..start + frame.stored_bytes as usize));
                    let why = match stored {
                        Some(stored) => self.try_frame(reader, task.pack.id, frame, stored.to_vec())?,
                        None => Some("it overlaps another frame".to_owned()),
                    };
                    tried.insert(frame.offset, why);
                }
            }
            let keep_from = frames.peek().map_or(tail_at, |frame| u64::from(frame.offset));
            let n_done = keep_from.clamp(held_at, at) - held_at;
            held.drain(..n_done as usize);
            held_at += n_done;
        }
        if open {
            tried.extend(frames.map(|frame| (frame.offset, Some("the pack ends before it does".to_owned()))));
        }
        Ok(Scanned { hash: hasher.finalize(), frames: tried, tail: held })
    }

    /// Opens a frame and computes the names of its blobs. Gives what is wrong with it.
    fn try_frame(
        &self,
        reader: &mut BlobReader<'_>,
        pack: PackId,
        frame: &PackedFrame,
        stored: Vec<u8>,
    ) -> Result<Option<String>, RepoError> {
        let plain = match reader.open(pack, frame, stored) {
            Ok(plain) => plain,
            Err(error @ RepoError::Cancelled(_)) => return Err(error),
            Err(RepoError::FrameDamaged { why, .. }) => return Ok(Some(why.to_owned())),
            Err(error) => return Ok(Some(error.to_string())),
        };
        self.n_blobs.fetch_add(frame.blobs.len() as u64, Ordering::Relaxed);
        Ok(frame.misfit(&plain, self.repo.keys()))
    }
}

/// Draws objects by chance, the same answer for the same name.
pub(super) struct Draw {
    pub(super) seed: [u8; 32],
    pub(super) percent: Option<u8>,
}

impl Draw {
    pub(super) fn takes(&self, name: &[u8]) -> bool {
        let Some(percent) = self.percent else { return true };
        let hash = blake3::keyed_hash(&self.seed, name);
        hash.as_bytes()
            .first_chunk::<8>()
            .is_none_or(|eight| u64::from_le_bytes(*eight) % 100 < u64::from(percent))
    }
}
