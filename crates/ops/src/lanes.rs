//! Reading one source into the repository on several threads, and its listing in path order.
//!
//! A source that cannot choose its order is read item by item, and what became of it is held until all is there and sorted.
//!
//! ```text
//! Reading ──items──> Queue ──stretches──┬─> lane: unchanged? keep what the parent has ─┐
//!            parent's entries beside    └─> lane: else read, cut, store               ─┴─> Listed, in path order
//! ```
//!
//! This module knows one reading and one parent. It knows no runs, records or hooks.

use crate::OpsError;
use crate::earlier::Earlier;
use crate::still::{Held, store_still};
use hikae_model::{ContentError, Cut, Cx, EntryKind, ErrorCode, FileTime, Problem, TreePath, sabotage};
use hikae_repo::content::{ContentWriter, KeepError, Kept, holds_pages};
use hikae_repo::listing::{Listing, ListingWriter, StoredContent, StoredEntry};
use hikae_repo::reader::BlobReader;
use hikae_repo::snapshot::Snapshot;
use hikae_repo::writer::{Lane, Writer};
use hikae_repo::{Repo, RepoError};
use hikae_source::{Item, Reading, SourceError};
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Entries that a lane takes at once.
const STRETCH_ENTRIES: usize = 256;
/// It takes no more once they hold this much: a lane with large files must not leave the others without work.
const STRETCH_BYTES: u64 = 4 << 20;
/// Entries that may wait for an earlier stretch, while a lane is busy with a large file.
const MAX_WAITING: usize = 1 << 14;

const NO_LISTING: Listing = Listing { directory: None, entries: 0 };

/// What is read, and where it goes.
pub(crate) struct Lanes<'a> {
    pub(crate) repo: &'a Arc<Repo>,
    pub(crate) writer: &'a Writer,
    /// The snapshot before this one.
    pub(crate) parent: Option<&'a Snapshot>,
    /// The source's name.
    pub(crate) source: &'a str,
    pub(crate) cx: &'a Cx,
}

/// What was read of a source.
pub(crate) struct Read {
    pub(crate) listing: Listing,
    /// Length of all files.
    pub(crate) bytes: u64,
    /// What was read of them, whatever came of it.
    pub(crate) read_bytes: u64,
    pub(crate) problems: Vec<Problem>,
    /// What is to be said of the run, and is no fault of the source.
    pub(crate) notes: Vec<Problem>,
    /// Something that is not what the source said: what was read is worth nothing, and all is to be read anew.
    pub(crate) not_as_said: Option<TreePath>,
}

/// Entries that follow each other, each with what the parent has under its path.
struct Stretch {
    n: u64,
    /// The parent is damaged: see [`Lane::store_metadata_anew`].
    anew: bool,
    items: Vec<(Item, Option<StoredEntry>, Unchanged)>,
}

/// Whether an entry is what the parent has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unchanged {
    No,
    /// As size and times show.
    Seen,
    /// As its source says, which is compared in places.
    Said,
}

/// What became of one entry.
enum Done {
    Kept {
        stored: StoredEntry,
        held: Held,
        read_bytes: u64,
    },
    Lost {
        path: TreePath,
        problem: Problem,
        read_bytes: u64,
    },
    /// It is not there any more, and is not missed.
    Gone,
    /// Its source said that it is what the parent has, and it is not.
    NotAsSaid {
        path: TreePath,
    },
}

impl Done {
    fn path(&self) -> Option<&TreePath> {
        match self {
            Self::Kept { stored, .. } => Some(&stored.entry.path),
            Self::Lost { path, .. } | Self::NotAsSaid { path } => Some(path),
            Self::Gone => None,
        }
    }
}

impl Lanes<'_> {
    /// Reads everything. `lane` opens one stream of blobs for each thread; the listing goes to `own`.
    pub(crate) fn read(
        &self,
        reading: &mut dyn Reading,
        lane: &(dyn Fn() -> ContentWriter + Sync),
        own: &mut ContentWriter,
    ) -> Result<Read, OpsError> {
        let lanes = reading.lanes();
        let mut earlier = Earlier::of(self.repo, self.parent)?;
        let mut listed = Listed::new(own.lane());
        let stretch_entries = match reading.comes_in_path_order() {
            true => STRETCH_ENTRIES,
            false => {
                earlier.find_in_any_order();
                listed.unsorted = Some(Vec::new());
                1
            }
        };
        let queue = Mutex::new(Queue { reading, earlier, stretch_entries, n: 0 });
        let order = Order { listed: Mutex::new(listed), advanced: Condvar::new() };
        loop {
            let results: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> =
                    (0..lanes).map(|_| scope.spawn(|| self.lane(&queue, &order, lane()))).collect();
                let joined = threads.into_iter().map(|thread| thread.join());
                joined.map(|joined| joined.unwrap_or(Err(RepoError::Worker.into()))).collect()
            });
            // Where the repository fails, one lane learns why and the others only that it did.
            let is_echo = |error: &OpsError| matches!(error, OpsError::Repo(RepoError::Worker));
            if let Some(error) = results.into_iter().filter_map(Result::err).min_by_key(is_echo) {
                return Err(error);
            }
            if lock(&order.listed).read.not_as_said.is_some() {
                break;
            }
            if !lock(&queue).reading.go_on().map_err(OpsError::of_source(self.source))? {
                break;
            }
        }
        let Queue { earlier, .. } = queue.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut listed = order.listed.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut unsorted) = listed.unsorted.take() {
            unsorted.sort_unstable_by(|a, b| a.path().cmp(&b.path()));
            unsorted.into_iter().try_for_each(|one| listed.list(one, self.cx))?;
        }
        let Listed { listing, lane, mut read, .. } = listed;
        if earlier.note.is_some() {
            lane.store_metadata_anew();
        }
        read.notes.extend(earlier.note);
        read.listing = listing.finish(lane)?;
        Ok(read)
    }

    fn lane(
        &self,
        queue: &Mutex<Queue<'_>>,
        order: &Order<'_>,
        mut contents: ContentWriter,
    ) -> Result<(), OpsError> {
        // Dropped on every way out: who waits for a stretch of ours must not wait for ever.
        let mut ending = Ending { order, finished: false };
        let mut reader = self.parent.map(|_| BlobReader::new(self.repo)).transpose()?;
        while let Some(Stretch { n, anew, items }) = self.next(queue)? {
            if anew {
                contents.lane().store_metadata_anew();
            }
            let mut done = Vec::with_capacity(items.len());
            for (item, before, unchanged) in items {
                self.cx.check()?;
                done.push(self.keep(item, before, unchanged, &mut contents, reader.as_mut())?);
                self.cx.progress().add_entries(1);
            }
            if !order.put(n, anew, done, self.cx)? {
                return Ok(());
            }
        }
        contents.finish()?;
        ending.finished = true;
        Ok(())
    }

    fn next(&self, queue: &Mutex<Queue<'_>>) -> Result<Option<Stretch>, OpsError> {
        let mut queue = lock(queue);
        let mut items = Vec::new();
        let mut bytes = 0;
        while items.len() < queue.stretch_entries && bytes < STRETCH_BYTES {
            let Some(item) = queue.reading.next().map_err(OpsError::of_source(self.source))? else { break };
            let before = queue.earlier.find(&item.entry.path);
            let (before, unchanged) = match queue.earlier.reader() {
                Some(reader) => {
                    let before = self.reliable(before, reader)?;
                    let unchanged = is_unchanged(&item, before.as_ref());
                    let is_anew = match &before {
                        Some(before) if unchanged != Unchanged::No => {
                            self.writer.should_read_anew(&before.content, reader)?
                        }
                        Some(_) | None => false,
                    };
                    // What it keeps still serves as the parent of a map.
                    (before, if is_anew { Unchanged::No } else { unchanged })
                }
                None => {
                    let unchanged = is_unchanged(&item, before.as_ref());
                    (before, unchanged)
                }
            };
            bytes += match &item.content {
                Some(_) if unchanged != Unchanged::No => 0,
                // How long a dump will be is not known before it is read.
                Some(content) if content.cut != Cut::Files => STRETCH_BYTES,
                Some(_) => item.entry.size(),
                None => 0,
            };
            items.push((item, before, unchanged));
        }
        if items.is_empty() {
            return Ok(None);
        }
        let (n, anew) = (queue.n, queue.earlier.note.is_some());
        queue.n += 1;
        Ok(Some(Stretch { n, anew, items }))
    }

    /// The parent's entry, unless what it keeps is damaged: then its content is read and stored anew.
    fn reliable(
        &self,
        before: Option<StoredEntry>,
        reader: &mut BlobReader<'_>,
    ) -> Result<Option<StoredEntry>, RepoError> {
        match before {
            Some(before) if self.writer.may_rely_on(&before.content, reader)? => Ok(Some(before)),
            Some(_) | None => Ok(None),
        }
    }

    /// Whether the parent has these pages there; nothing if that cannot be seen.
    fn agrees(
        &self,
        before: &StoredEntry,
        pages: &[(u64, Vec<u8>)],
        reader: &mut BlobReader<'_>,
    ) -> Result<Option<bool>, OpsError> {
        if sabotage::on("sample-ignored") {
            return Ok(Some(true));
        }
        match holds_pages(&before.content, pages, self.repo.hash_key(), reader) {
            Ok(agrees) => Ok(Some(agrees)),
            Err(error) if error.is_damage() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn keep(
        &self,
        item: Item,
        before: Option<StoredEntry>,
        unchanged: Unchanged,
        contents: &mut ContentWriter,
        mut reader: Option<&mut BlobReader<'_>>,
    ) -> Result<Done, OpsError> {
        let Item { mut entry, content } = item;
        let unread = |stored| Ok(Done::Kept { stored, held: Held::Still, read_bytes: 0 });
        let Some(mut content) = content else {
            return unread(StoredEntry { entry, content: StoredContent::None, hash: None });
        };
        if let Some(before) = before.as_ref() {
            let agrees = match (unchanged, reader.as_deref_mut(), content.reader.unchanged()) {
                (Unchanged::Seen, ..) => Some(true),
                (Unchanged::Said, Some(reader), Some(pages)) => self.agrees(before, pages, reader)?,
                _ => None,
            };
            match agrees {
                // The attributes of now: owner and mode may have changed with the rest as it was.
                Some(true) => return unread(StoredEntry { entry, ..before.clone() }),
                Some(false) => return Ok(Done::NotAsSaid { path: entry.path }),
                None => {}
            }
        }
        let mut parent = match content.cut {
            Cut::Files => None,
            Cut::Rows | Cut::Pages(_) => reader.zip(before.as_ref().map(|before| &before.content)),
        };
        let (read_bytes, kept) =
            store_still(&mut *content.reader, |reader| contents.store(content.cut, reader, parent.take()));
        match kept {
            Ok((Kept { content, bytes, hash }, held)) => {
                entry.kind = EntryKind::File { size: bytes };
                if held != Held::Still {
                    // It never looks unchanged to the next run, whatever its times say.
                    entry.attributes.changed = FileTime::default();
                }
                Ok(Done::Kept { stored: StoredEntry { entry, content, hash }, held, read_bytes })
            }
            Err(KeepError::Repo(error)) => Err(error.into()),
            Err(KeepError::Content(ContentError::Broken { what, advice })) => Err(OpsError::Source {
                source_name: self.source.to_owned(),
                source: SourceError::Failed { code: ErrorCode::Failure, what, advice },
            }),
            Err(KeepError::Content(ContentError::Gone)) => Ok(Done::Gone),
            Err(KeepError::Content(error)) => {
                self.cx.progress().add_problems(1);
                let problem = content_problem(&entry.path, &error);
                Ok(Done::Lost { path: entry.path, problem, read_bytes })
            }
        }
    }
}

fn is_unchanged(item: &Item, before: Option<&StoredEntry>) -> Unchanged {
    let said = || item.content.as_ref().is_some_and(|content| content.reader.unchanged().is_some());
    match before {
        Some(before) if item.entry.looks_unchanged_since(&before.entry) => Unchanged::Seen,
        Some(before) if item.entry.kind == before.entry.kind && said() => Unchanged::Said,
        Some(_) | None => Unchanged::No,
    }
}

/// What is still to be read, in path order, and the parent's entries beside it.
struct Queue<'a> {
    reading: &'a mut dyn Reading,
    earlier: Earlier<'a, 'a>,
    stretch_entries: usize,
    n: u64,
}

/// Where the stretches come together again.
struct Order<'a> {
    listed: Mutex<Listed<'a>>,
    advanced: Condvar,
}

struct Listed<'a> {
    listing: ListingWriter,
    lane: &'a mut Lane,
    read: Read,
    /// Files whose content could not be read: their further names have none either.
    lost: HashSet<TreePath>,
    /// What came of a source that does not come in path order.
    unsorted: Option<Vec<Done>>,
    next: u64,
    /// Stretches that came before their turn.
    waiting: BTreeMap<u64, Vec<Done>>,
    n_waiting: usize,
    /// A lane has failed: no stretch of it will come.
    stopped: bool,
}

impl Order<'_> {
    /// Lists a stretch, now or in its turn. False if the others have stopped.
    fn put(&self, n: u64, anew: bool, done: Vec<Done>, cx: &Cx) -> Result<bool, RepoError> {
        let mut listed = lock(&self.listed);
        if anew {
            listed.lane.store_metadata_anew();
        }
        listed.n_waiting += done.len();
        listed.waiting.insert(n, done);
        while let Some(done) = listed.take_next() {
            match &mut listed.unsorted {
                Some(unsorted) => unsorted.extend(done),
                None => done.into_iter().try_for_each(|one| listed.list(one, cx))?,
            }
            self.advanced.notify_all();
        }
        while listed.n_waiting > MAX_WAITING && !listed.stopped {
            listed = self.advanced.wait(listed).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(!listed.stopped)
    }
}

impl<'a> Listed<'a> {
    fn new(lane: &'a mut Lane) -> Self {
        Self {
            listing: ListingWriter::default(),
            lane,
            read: Read {
                listing: NO_LISTING,
                bytes: 0,
                read_bytes: 0,
                problems: Vec::new(),
                notes: Vec::new(),
                not_as_said: None,
            },
            lost: HashSet::new(),
            unsorted: None,
            next: 0,
            waiting: BTreeMap::new(),
            n_waiting: 0,
            stopped: false,
        }
    }

    fn take_next(&mut self) -> Option<Vec<Done>> {
        let done = self.waiting.remove(&self.next)?;
        self.next += 1;
        self.n_waiting -= done.len();
        Some(done)
    }

    fn list(&mut self, done: Done, cx: &Cx) -> Result<(), RepoError> {
        match done {
            Done::Kept { stored, held, read_bytes } => {
                if let EntryKind::HardLink { to } = &stored.entry.kind
                    && self.lost.contains(to)
                {
                    let what = format!("is a further name of {to}, which could not be read");
                    self.read.problems.push(Problem::new("unreadable", &stored.entry.path, what));
                    cx.progress().add_problems(1);
                    return Ok(());
                }
                match held {
                    Held::Still => {}
                    Held::Once => {
                        let what = "was written to while it was read, and is kept as it was at one moment";
                        self.read.notes.push(Problem::new("written-while-read", &stored.entry.path, what));
                    }
                    Held::Malformed(how) => {
                        cx.progress().add_problems(1);
                        let problem = Problem::new("malformed", &stored.entry.path, how);
                        let advice = "see what writes it; if it is read while it is written, stop who does with a hook";
                        self.read.problems.push(problem.advise(advice));
                    }
                    Held::InDoubt => {
                        cx.progress().add_problems(1);
                        let what = "changed while it was read, twice; what was read last is kept, and may be of several \
                                    moments";
                        let problem = Problem::new("changed-while-read", &stored.entry.path, what);
                        self.read.problems.push(problem.advise(WRITTEN_TO));
                    }
                }
                self.read.bytes += stored.entry.size();
                self.read.read_bytes += read_bytes;
                self.listing.push(&stored, self.lane)
            }
            Done::Lost { path, problem, read_bytes } => {
                self.read.read_bytes += read_bytes;
                self.read.problems.push(problem);
                self.lost.insert(path);
                Ok(())
            }
            Done::Gone => Ok(()),
            Done::NotAsSaid { path } => {
                self.read.not_as_said = Some(path);
                self.stopped = true;
                Ok(())
            }
        }
    }
}

/// Tells the other lanes, when a lane ends by an error or a panic.
struct Ending<'a, 'l> {
    order: &'a Order<'l>,
    finished: bool,
}

impl Drop for Ending<'_, '_> {
    fn drop(&mut self) {
        if !self.finished {
            lock(&self.order.listed).stopped = true;
            self.order.advanced.notify_all();
        }
    }
}

/// What to do about a file that others write to.
const WRITTEN_TO: &str = "back it up when nobody writes to it, or stop who does with a hook; a database has a kind of \
                          source of its own";

fn content_problem(path: &TreePath, error: &ContentError) -> Problem {
    let code = match error {
        ContentError::Unreadable(_) => "unreadable",
        ContentError::ChangedWhileRead => "changed-while-read",
        ContentError::Malformed(_) => "malformed",
        ContentError::Vanished => "vanished",
        ContentError::Gone | ContentError::Broken { .. } => "broken",
    };
    let problem = Problem::new(code, path, error);
    match error {
        ContentError::Unreadable(_) => problem.advise("run hikae as a user who may read it, or exclude it"),
        ContentError::ChangedWhileRead => problem.advise(WRITTEN_TO),
        ContentError::Malformed(_)
        | ContentError::Vanished
        | ContentError::Gone
        | ContentError::Broken { .. } => problem,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
