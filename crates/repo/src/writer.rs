//! The writing side of a run: blobs go in, durable packs and index objects come out.
//!
//! ```text
//! lanes (callers' threads)          workers (one a core)             storers (as many as the store has use for)
//! chunk, hash, known? ─frame──────> compress, seal, open, compare ─┬> pack finished, put, durable
//!                      bounded                                     │
//!                                        frames shuffled over the open packs
//! ```
//!
//! Backpressure comes from the store: a full queue stops the lanes. In memory are at most two open packs of
//! content, one of metadata and one on its way to each storer, a few frames, and the names of blobs that no index object
//! names yet.
//!
//! This module knows blobs and packs. It does not know what a snapshot is; `commit` makes them real.

use crate::RepoError;
use crate::epoch::{EpochRecord, SessionRecord};
use crate::extent::Extent;
use crate::frame::{self, FrameBlob, FrameCoder, FrameHead, OpenFrame};
use crate::index::{BadSegment, IndexBuilder, IndexedPack, Segment};
use crate::index_set::IndexSet;
use crate::keys::{BlobClass, Secret32};
use crate::layout;
use crate::listing::StoredContent;
use crate::log::{Change, Commit, FrameName};
use crate::object::{ObjectClass, open_object, seal_object};
use crate::pack::{FinishedPack, OpenPack};
use crate::reader::BlobReader;
use crate::refresh::Refresh;
use crate::repo::{Repo, lock};
use crate::state::State;
use crossbeam_channel::{Receiver, Sender, bounded};
use hikae_model::{BlobId, IndexId, RunId, sabotage};
use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread::JoinHandle;

/// Zstandard level for files and metadata.
pub const LEVEL_FILES: i32 = 3;
/// Zstandard level for database dumps and pages: better in speed and, on small pieces, in ratio.
pub const LEVEL_DATABASE: i32 = 1;

/// Packs of content that are open at once; frames are shuffled over them.
const OPEN_PACKS: usize = 2;

/// Buffers of frames that are kept for the next ones.
const SPARE_FRAMES: usize = 2;

/// Writes blobs into a repository, from any number of threads.
pub struct Writer {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What all threads of a run share.
pub(crate) struct Shared {
    pub(crate) repo: Arc<Repo>,
    pub(crate) run: RunId,
    /// The state in which the run began: what it finds there it relies on.
    pub(crate) base: Arc<State>,
    pub(crate) base_index: Arc<IndexSet>,
    session: SessionRecord,
    /// Nothing is damaged and every writer is one that we trust: what earlier snapshots need will do.
    relies_on_all: bool,
    /// What is to be stored anew for the sake of sparse frames; worked out when it is first asked for.
    refresh: OnceLock<Refresh>,
    epoch: EpochRecord,
    session_key: Secret32,
    metadata_key: Secret32,
    frames: Mutex<Option<Sender<Job>>>,
    next_frame: AtomicU64,
    open: Mutex<OpenPacks>,
    packs: Mutex<Option<Sender<OpenPack>>>,
    spare_packs: Mutex<Vec<Vec<u8>>>,
    spare_frames: Mutex<Vec<Vec<u8>>>,
    /// Blobs of this run that no index object of this run names yet.
    seen: Mutex<HashSet<BlobId>>,
    pub(crate) own: Mutex<Own>,
    in_flight: Mutex<usize>,
    landed: Condvar,
    failed: OnceLock<String>,
    error: Mutex<Option<RepoError>>,
}

/// What this run has made durable.
#[derive(Default)]
pub(crate) struct Own {
    pub(crate) builder: IndexBuilder,
    pub(crate) segments: HashMap<IndexId, Arc<Segment>>,
}

#[derive(Default)]
struct OpenPacks {
    content: Vec<OpenPack>,
    metadata: Option<OpenPack>,
    has_begun: bool,
    random: u64,
}

struct Job {
    frame: OpenFrame,
    added: Arc<AtomicU64>,
}

/// One stream of blobs into a run; each thread has its own. Blobs keep the order in which they come.
pub struct Lane {
    shared: Arc<Shared>,
    level: i32,
    content: OpenFrame,
    metadata: OpenFrame,
    metadata_anew: bool,
    added: Arc<AtomicU64>,
}

impl Writer {
    /// Starts a run of writing on the newest state.
    ///
    /// # Errors
    /// [`RepoError::LogInDoubt`], any failure to read the log or to begin a session, and whatever would refuse the
    /// commit in the end.
    pub fn begin(repo: &Arc<Repo>, run: RunId, epoch_days: i64) -> Result<Self, RepoError> {
        repo.check_no_doubt()?;
        let epoch = repo.current_epoch(epoch_days)?;
        let base = repo.follow()?;
        repo.check_may(&base, &Change::Commit(Commit::default()))?;
        let base_index = repo.index()?;
        let own = repo.signer().id();
        let relies_on_all =
            base.damaged.is_empty() && base.indexes.values().all(|index| base.trusts(own, index.writer));
        let (number, metadata_key) = repo.keys().newest_seal();
        let (session, session_key) =
            epoch.begin_session(repo.keys().family(), number, repo.signer(), repo.cx())?;
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let (frames, jobs) = bounded::<Job>(1);
        // A rendezvous: a worker with a full pack waits until a storer has stored its last.
        let (packs, full) = bounded::<OpenPack>(0);
        let shared = Arc::new(Shared {
            repo: repo.clone(),
            run,
            base,
            base_index,
            relies_on_all,
            refresh: OnceLock::new(),
            session,
            epoch,
            session_key,
            metadata_key: metadata_key.clone(),
            frames: Mutex::new(Some(frames)),
            next_frame: AtomicU64::new(0),
            open: Mutex::new(OpenPacks {
                random: u64::from_le_bytes(repo.cx().random()) | 1,
                ..OpenPacks::default()
            }),
            packs: Mutex::new(Some(packs)),
            spare_packs: Mutex::default(),
            spare_frames: Mutex::default(),
            seen: Mutex::default(),
            own: Mutex::default(),
            in_flight: Mutex::new(0),
            landed: Condvar::new(),
            failed: OnceLock::new(),
            error: Mutex::new(None),
        });
        let mut threads = Vec::new();
        for _ in 0..workers {
            let (shared, jobs) = (shared.clone(), jobs.clone());
            threads.push(std::thread::spawn(move || shared.seal_frames(&jobs)));
        }
        for _ in 0..repo.store().puts_at_once() {
            let (storer, full) = (shared.clone(), full.clone());
            threads.push(std::thread::spawn(move || storer.store_packs(&full)));
        }
        Ok(Self { shared, threads })
    }

    /// The state in which the run began.
    pub fn base(&self) -> &Arc<State> {
        &self.shared.base
    }

    /// True if what an earlier snapshot kept of a content may be named again as it is: every blob of it has a
    /// copy that a run may rely on. Where all copies are damaged, or none is of a writer that we trust, it is to
    /// be stored again from the source.
    ///
    /// # Errors
    /// [`RepoError::Cache`] if the index cannot be read. Maps that cannot be read are no error: then it may not.
    pub fn may_rely_on(
        &self,
        content: &StoredContent,
        reader: &mut BlobReader<'_>,
    ) -> Result<bool, RepoError> {
        if self.shared.relies_on_all {
            return Ok(true);
        }
        if let StoredContent::Parts(parts) = content {
            for part in parts {
                if !self.shared.is_reliable(part.map)? {
                    return Ok(false);
                }
            }
        }
        let Ok(maps) = reader.extents(content) else { return Ok(false) };
        for map in &maps {
            for extent in map.extents() {
                let Extent::Data { blob, .. } = extent else { continue };
                if !self.shared.is_reliable(*blob)? {
                    return Ok(false);
                }
                if let Some(pieces) = map.pieces_of(*blob)
                    && !self.shared.is_reliable(pieces)?
                {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Opens a lane for one source, whose content is compressed at `level`. `added` counts the bytes that
    /// it adds to the store.
    pub fn lane(&self, level: i32, added: Arc<AtomicU64>) -> Lane {
        let open = |class, level| OpenFrame { class, level, plain: Vec::new(), blobs: Vec::new() };
        Lane {
            shared: self.shared.clone(),
            level,
            content: open(BlobClass::Content, level),
            metadata: open(BlobClass::Metadata, LEVEL_FILES),
            metadata_anew: false,
            added,
        }
    }

    /// Waits until everything that lanes have flushed is durable and indexed.
    ///
    /// # Errors
    /// The first error of any thread.
    pub(crate) fn flush(&self) -> Result<(), RepoError> {
        self.shared.wait_for_frames()?;
        let open = std::mem::take(&mut *lock(&self.shared.open));
        for pack in open.content.into_iter().chain(open.metadata).filter(|pack| !pack.is_empty()) {
            self.shared.hand_to_storer(pack);
        }
        self.shared.wait_for_frames()?;
        self.shared.write_index(true)
    }

    /// Ends the threads.
    fn stop(&mut self) {
        lock(&self.shared.frames).take();
        lock(&self.shared.packs).take();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                self.shared.fail(RepoError::Worker);
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Lane {
    /// Stores a blob, unless the repository has it. Gives its name; it is durable once the run is flushed.
    ///
    /// # Errors
    /// The first error of any thread of the run.
    pub fn put(&mut self, class: BlobClass, bytes: &[u8]) -> Result<BlobId, RepoError> {
        if bytes.len() > frame::MAX_PLAIN_BYTES {
            return Err(RepoError::TooLarge { bytes: bytes.len() as u64 });
        }
        let id = self.shared.repo.keys().blob_id(class, bytes);
        let anew = self.metadata_anew && class == BlobClass::Metadata;
        if !self.shared.is_new(id, anew)? {
            return Ok(id);
        }
        let open = match class {
            BlobClass::Content => &mut self.content,
            BlobClass::Metadata => &mut self.metadata,
        };
        // A blob that would make the frame much too long begins the next.
        if !open.blobs.is_empty() && open.plain.len() + bytes.len() > frame::TARGET_BYTES {
            self.send(class)?;
        }
        let open = match class {
            BlobClass::Content => &mut self.content,
            BlobClass::Metadata => &mut self.metadata,
        };
        if open.plain.is_empty() {
            open.plain.reserve_exact(bytes.len().max(frame::TARGET_BYTES));
        }
        open.plain.extend_from_slice(bytes);
        sabotage::flip("flip-after-hash", &mut open.plain);
        open.blobs.push(FrameBlob { id, bytes: bytes.len() as u32 });
        Ok(id)
    }

    /// From here on, stores metadata even where the repository has it. For a run that found metadata of the
    /// snapshot before damaged: its own listing is often the same, and must not come to rest on what is broken.
    pub fn store_metadata_anew(&mut self) {
        self.metadata_anew = true;
    }

    /// Hands what is left to the workers.
    ///
    /// # Errors
    /// The first error of any thread of the run.
    pub fn finish(mut self) -> Result<(), RepoError> {
        self.send(BlobClass::Content)?;
        self.send(BlobClass::Metadata)
    }

    /// Whether a blob can be relied on: the repository has it, or this run does.
    ///
    /// # Errors
    /// [`RepoError::Cache`] if the index cannot be read.
    pub fn is_known(&self, id: BlobId) -> Result<bool, RepoError> {
        Ok(lock(&self.shared.seen).contains(&id) || self.shared.is_usable(id)?)
    }

    /// The repository that it writes to.
    pub fn repo(&self) -> &Arc<Repo> {
        &self.shared.repo
    }

    fn send(&mut self, class: BlobClass) -> Result<(), RepoError> {
        let (open, level) = match class {
            BlobClass::Content => (&mut self.content, self.level),
            BlobClass::Metadata => (&mut self.metadata, LEVEL_FILES),
        };
        if open.blobs.is_empty() {
            return Ok(());
        }
        let plain = lock(&self.shared.spare_frames).pop().unwrap_or_default();
        let frame = std::mem::replace(open, OpenFrame { class, level, plain, blobs: Vec::new() });
        self.shared.send(Job { frame, added: self.added.clone() })
    }
}

impl Shared {
    fn send(&self, job: Job) -> Result<(), RepoError> {
        self.check()?;
        self.repo.cx().check()?;
        *lock(&self.in_flight) += 1;
        let frames = lock(&self.frames).clone();
        match frames.map(|frames| frames.send(job)) {
            Some(Ok(())) => Ok(()),
            _ => {
                self.land();
                self.check()?;
                Err(RepoError::Worker)
            }
        }
    }

    /// True if the blob has to be stored; from then on it counts as known. `anew` if what earlier runs stored does
    /// not count.
    fn is_new(&self, id: BlobId, anew: bool) -> Result<bool, RepoError> {
        if lock(&self.seen).contains(&id) {
            return Ok(false);
        }
        let own: Vec<_> = lock(&self.own).segments.values().cloned().collect();
        for segment in own {
            let mut found = false;
            segment.find(id, &mut |_| {
                found = true;
                false
            })?;
            if found {
                return Ok(false);
            }
        }
        if !anew && self.is_usable(id)? {
            return Ok(false);
        }
        Ok(lock(&self.seen).insert(id))
    }

    pub(crate) fn refresh(&self) -> Result<&Refresh, RepoError> {
        match self.refresh.get() {
            Some(refresh) => Ok(refresh),
            None => {
                let refresh = Refresh::of(&self.base.sparse, &self.base_index)?;
                Ok(self.refresh.get_or_init(|| refresh))
            }
        }
    }

    /// Step 2 of the commit protocol: named by an index object of a writer that we trust, in a pack that is
    /// neither doomed nor damaged, in a frame that is not sparse.
    pub(crate) fn is_usable(&self, id: BlobId) -> Result<bool, RepoError> {
        self.has_copy(id, &|frame| !self.base.sparse.contains(&frame))
    }

    /// The same, in whatever frame: for what a snapshot needs already.
    fn is_reliable(&self, id: BlobId) -> Result<bool, RepoError> {
        self.has_copy(id, &|_| true)
    }

    fn has_copy(&self, id: BlobId, in_frame: &dyn Fn(FrameName) -> bool) -> Result<bool, RepoError> {
        let own = self.repo.signer().id();
        self.base_index.has_good(id, &self.base, own, &|place| {
            in_frame(FrameName { session: place.frame.head.session, number: place.frame.head.number })
        })
    }

    fn seal_frames(&self, jobs: &Receiver<Job>) {
        let mut coder = match FrameCoder::new(self.repo.keys().family()) {
            Ok(coder) => Some(coder),
            Err(error) => {
                self.fail(error);
                None
            }
        };
        for job in jobs {
            self.land_after(|| match coder.as_mut().filter(|_| self.failed.get().is_none()) {
                Some(coder) => self.seal_frame(coder, job),
                None => Ok(()),
            });
        }
    }

    fn seal_frame(&self, coder: &mut FrameCoder, job: Job) -> Result<(), RepoError> {
        let OpenFrame { class, .. } = job.frame;
        let number =
            u32::try_from(self.next_frame.fetch_add(1, Ordering::Relaxed)).map_err(|_| RepoError::Worker)?;
        let key = match class {
            BlobClass::Content => &self.session_key,
            BlobClass::Metadata => &self.metadata_key,
        };
        let memory = lock(&self.spare_frames).pop().unwrap_or_default();
        let (head, stored) =
            coder.seal(&job.frame, self.session.id, number, key, self.repo.keys(), memory)?;
        job.added.fetch_add(stored.len() as u64, Ordering::Relaxed);
        self.repo.cx().progress().add_stored(stored.len() as u64);
        self.push(head, job.frame.blobs, &stored);
        let mut spare = lock(&self.spare_frames);
        for mut buffer in [stored, job.frame.plain] {
            buffer.clear();
            spare.push(buffer);
        }
        spare.truncate(SPARE_FRAMES);
        Ok(())
    }

    /// Appends a frame to one of the open packs, and hands the pack on if it is full.
    fn push(&self, head: FrameHead, blobs: Vec<FrameBlob>, stored: &[u8]) {
        let mut open = lock(&self.open);
        let new_pack = || OpenPack::new(head.class, lock(&self.spare_packs).pop().unwrap_or_default());
        let full = match head.class {
            BlobClass::Metadata => {
                let pack = open.metadata.get_or_insert_with(new_pack);
                pack.push(head, blobs, stored);
                if pack.is_full() { open.metadata.take() } else { None }
            }
            BlobClass::Content => {
                // xorshift64: which pack a frame goes to must not follow from its place in a file.
                open.random ^= open.random << 13;
                open.random ^= open.random >> 7;
                open.random ^= open.random << 17;
                let at = (open.random % OPEN_PACKS as u64) as usize;
                while open.content.len() <= at {
                    let pack = new_pack();
                    // The first is short, so that packs which fill side by side are not full together.
                    let first = !std::mem::replace(&mut open.has_begun, true);
                    open.content.push(if first { pack.of_half_size() } else { pack });
                }
                open.content[at].push(head, blobs, stored);
                if open.content[at].is_full() { Some(open.content.swap_remove(at)) } else { None }
            }
        };
        // Under the lock: while a full pack waits for the storer nobody begins another, or memory would grow
        // by a pack for each worker.
        if let Some(pack) = full {
            self.hand_to_storer(pack);
        }
    }

    pub(crate) fn hand_to_storer(&self, pack: OpenPack) {
        *lock(&self.in_flight) += 1;
        let packs = lock(&self.packs).clone();
        if packs.is_none_or(|packs| packs.send(pack).is_err()) {
            self.land();
            self.fail(RepoError::Worker);
        }
    }

    fn store_packs(&self, full: &Receiver<OpenPack>) {
        for pack in full {
            self.land_after(|| match self.failed.get() {
                None => self.store_pack(pack),
                Some(_) => Ok(()),
            });
        }
    }

    fn store_pack(&self, pack: OpenPack) -> Result<(), RepoError> {
        let (sessions, epochs) = (vec![self.session.clone()], vec![self.epoch.clone()]);
        let nonce = self.repo.cx().random();
        let finished =
            pack.finish(nonce, sessions.clone(), epochs.clone(), self.repo.keys(), self.repo.signer());
        self.keep_pack(finished, &sessions, &epochs)
    }

    /// Makes a pack durable and takes it into the index that is being built.
    pub(crate) fn keep_pack(
        &self,
        pack: FinishedPack,
        sessions: &[SessionRecord],
        epochs: &[EpochRecord],
    ) -> Result<(), RepoError> {
        let key = layout::pack(pack.id);
        let stored = self.repo.put_named(&key, &pack.bytes);
        if !sabotage::on("failed-store-unnoticed") {
            stored?;
        }
        // No pack holds frames of both classes.
        if pack.frames.first().is_some_and(|frame| frame.head.class == BlobClass::Metadata) {
            self.repo.near().keep(&key, &pack.bytes);
        }
        let indexed = IndexedPack { id: pack.id, bytes: pack.bytes.len() as u64 };
        lock(&self.spare_packs).push(pack.bytes);
        lock(&self.own).builder.add(indexed, pack.frames, sessions, epochs);
        self.write_index(false)
    }

    /// Writes the index object that is being built, if it is full or `now`.
    pub(crate) fn write_index(&self, now: bool) -> Result<(), RepoError> {
        let builder = {
            let mut own = lock(&self.own);
            if own.builder.is_empty() || !(now || own.builder.is_full()) {
                return Ok(());
            }
            std::mem::take(&mut own.builder)
        };
        let segment = Arc::new(put_index(&self.repo, &builder)?);
        lock(&self.own).segments.insert(segment.id, segment);
        // The segment answers for them from here on.
        let mut seen = lock(&self.seen);
        for id in builder.blob_ids() {
            seen.remove(&id);
        }
        Ok(())
    }

    fn wait_for_frames(&self) -> Result<(), RepoError> {
        let mut in_flight = lock(&self.in_flight);
        while *in_flight > 0 {
            in_flight = self.landed.wait(in_flight).unwrap_or_else(|broken| broken.into_inner());
        }
        drop(in_flight);
        self.check()
    }

    /// Does what is in flight, and lands it whatever happens: who waits for it must not wait for ever, because a
    /// thread that was to do it panicked.
    fn land_after(&self, work: impl FnOnce() -> Result<(), RepoError>) {
        let done = catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(RepoError::Worker));
        if let Err(error) = done {
            self.fail(error);
        }
        self.land();
    }

    fn land(&self) {
        *lock(&self.in_flight) -= 1;
        self.landed.notify_all();
    }

    fn fail(&self, error: RepoError) {
        if self.failed.set(error.to_string()).is_ok() {
            *lock(&self.error) = Some(error);
        }
    }

    /// The first error of any thread; the first caller gets it whole, later ones learn that there was one.
    fn check(&self) -> Result<(), RepoError> {
        match self.failed.get() {
            None => Ok(()),
            Some(_) => Err(lock(&self.error).take().unwrap_or(RepoError::Worker)),
        }
    }
}

/// Stores the index object that `builder` holds, and opens it.
pub(crate) fn put_index(repo: &Repo, builder: &IndexBuilder) -> Result<Segment, RepoError> {
    let body = builder.to_bytes(repo.cx().random());
    let stored = seal_object(ObjectClass::Index, b"", body, repo.keys(), repo.signer());
    let id = IndexId::from_bytes(*blake3::hash(&stored).as_bytes());
    let damaged = RepoError::damaged(layout::index(id));
    repo.put_named(&layout::index(id), &stored)?;
    let opened = open_object(ObjectClass::Index, b"", stored, repo.keys()).map_err(&damaged)?;
    Segment::create(id, &opened.body, &repo.index_cache(), repo.hash_key()).map_err(|error| match error {
        BadSegment::Object(why) => damaged(why),
        BadSegment::Io(error) => error,
        BadSegment::Stale => RepoError::Worker,
    })
}
