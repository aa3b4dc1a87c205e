//! Restore of files: a snapshot, or a part of it, into a target.
//!
//! ```text
//! listing -> window of files -> which frames do they need? -> each frame read and opened once -> written in place
//! ```
//!
//! The walk over the listing makes directories and plans; workers fetch frames and write. A file gets its
//! name when all of it is written, hard links come when all files are there. A frame that is damaged costs
//! the files that need it, and those only if no other copy is good.

use crate::OpsError;
use crate::choice::Choice;
use crate::delta::Standing;
use crate::report::RestoreReport;
use crossbeam_channel::{Receiver, Sender, bounded};
use hikae_model::{Cx, Entry, EntryKind, Outcome, Problem, SnapshotId, TreePath};
use hikae_repo::extent::Extent;
use hikae_repo::keys::BlobClass;
use hikae_repo::listing::StoredEntry;
use hikae_repo::pack::PackedFrame;
use hikae_repo::reach::{Entries, Named};
use hikae_repo::reader::BlobReader;
use hikae_repo::{Repo, RepoError};
use hikae_source::files::{FileWriter, PlaceError, Placed, Target};
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A window has at most this many ranges to write, which bounds memory, and this many files that need more
/// than one frame, which bounds open files.
const MAX_RANGES: usize = 16 << 10;
const MAX_OPEN_FILES: usize = 256;

/// Restores `paths` of a snapshot and all below them, or everything if there are none.
///
/// # Errors
/// As for [`restore_chosen`].
pub fn restore_files(
    repo: &Repo,
    snapshot: SnapshotId,
    paths: &[TreePath],
    target: Target,
    cx: &Cx,
) -> Result<RestoreReport, OpsError> {
    restore_chosen(repo, snapshot, &Choice::below(paths), target, cx)
}

/// Restores what was chosen of a snapshot.
///
/// # Errors
/// Faults that end the restore: the repository's metadata, a full target, cancellation. Faults of single
/// entries stand in the report.
pub fn restore_chosen(
    repo: &Repo,
    snapshot: SnapshotId,
    choice: &Choice,
    target: Target,
    cx: &Cx,
) -> Result<RestoreReport, OpsError> {
    restore_over(repo, snapshot, choice, target, &Standing::default(), cx)
}

/// Restores what was chosen of a snapshot, and takes what already stands in the target as it should.
///
/// # Errors
/// As for [`restore_chosen`].
pub(crate) fn restore_over(
    repo: &Repo,
    snapshot: SnapshotId,
    choice: &Choice,
    target: Target,
    standing: &Standing,
    cx: &Cx,
) -> Result<RestoreReport, OpsError> {
    let began = cx.elapsed();
    let record = repo.snapshot(snapshot)?.record;
    cx.progress().begin("restoring", &record.source, record.bytes);
    let named = Named { id: snapshot, record: &record };
    let (written, fatal) = (Tally::default(), Mutex::new(None));
    let work = Work { repo, target: &target, choice, standing, cx, written, fatal };
    let mut missing: BTreeSet<TreePath> = choice.paths().cloned().collect();
    let walked = std::thread::scope(|scope| {
        let workers = std::thread::available_parallelism().map_or(2, usize::from);
        let (jobs, queue) = bounded::<Job<'_>>(2 * workers);
        for _ in 0..workers {
            let (work, queue) = (&work, queue.clone());
            scope.spawn(move || work.write_frames(&queue));
        }
        drop(queue);
        work.walk(named, &mut missing, jobs)
    });
    if let Some(error) = lock(&work.fatal).take() {
        return Err(error);
    }
    let links = walked?;
    links.iter().try_for_each(|link| work.place(link))?;
    for path in missing {
        work.problem(
            Problem::new("not-in-snapshot", path, "is not in the snapshot").advise("look with `hikae ls`"),
        );
    }
    let Work { written, .. } = work;
    let ended = target.finish().map_err(OpsError::of_source(&record.source))?;
    let mut problems = written.problems.into_inner().unwrap_or_else(PoisonError::into_inner);
    problems.extend(ended.problems);
    Ok(RestoreReport {
        snapshot,
        outcome: if problems.is_empty() { Outcome::Complete } else { Outcome::WithProblems },
        entries: written.entries.into_inner(),
        kept: written.kept.into_inner(),
        replaced: ended.n_replaced,
        bytes: written.bytes.into_inner(),
        n_damaged: written.damaged.into_inner(),
        seconds: (cx.elapsed() - began).as_secs_f64(),
        n_owners_not_set: ended.n_owners_not_set,
        problems,
    })
}

/// What all threads of a restore share.
struct Work<'a> {
    repo: &'a Repo,
    target: &'a Target,
    choice: &'a Choice,
    standing: &'a Standing,
    cx: &'a Cx,
    written: Tally,
    fatal: Mutex<Option<OpsError>>,
}

#[derive(Default)]
struct Tally {
    entries: AtomicU64,
    kept: AtomicU64,
    bytes: AtomicU64,
    damaged: AtomicU64,
    problems: Mutex<Vec<Problem>>,
}

/// A file that waits for its frames.
struct PendingFile<'a> {
    entry: Entry,
    /// What stands there is changed, instead of replaced.
    patches: bool,
    writer: Mutex<FileState<'a>>,
    /// Ranges that are still to be written.
    left: AtomicUsize,
}

enum FileState<'a> {
    /// Nothing of it was written yet.
    Waiting,
    /// It is being written.
    Open(FileWriter<'a>),
    /// It is done, kept, or failed; whatever comes for it is dropped.
    Closed,
}

/// A frame to open, and where its bytes go.
struct Job<'a> {
    pack: hikae_model::PackId,
    frame: PackedFrame,
    ranges: Vec<Range<'a>>,
}

/// A part of a frame that is a part of a file.
struct Range<'a> {
    file: Arc<PendingFile<'a>>,
    /// Where it goes in the file.
    at: u64,
    blob: hikae_model::BlobId,
    /// The whole blob in the opened frame, to compare it with its name.
    blob_start: u32,
    blob_bytes: u32,
    /// The part of the blob.
    offset: u32,
    bytes: u64,
}

/// Further names of files.
#[derive(Default)]
struct Links {
    /// Those that wait for their files.
    waiting: Vec<Entry>,
    /// For first names that were not chosen: the chosen name that comes back in its stead.
    in_stead: HashMap<TreePath, TreePath>,
}

impl Links {
    /// Makes a further name lead to where its first name lands. If that is not chosen, this name takes its content, and
    /// those that follow lead here.
    fn resolve(
        &mut self,
        stored: &mut StoredEntry,
        choice: &Choice,
        reader: &mut BlobReader<'_>,
        named: Named<'_>,
    ) -> Result<(), OpsError> {
        let EntryKind::HardLink { to } = &stored.entry.kind else { return Ok(()) };
        let first = match (choice.wants(to), self.in_stead.get(to)) {
            (true, _) => to.clone(),
            (false, Some(first)) => first.clone(),
            (false, None) => {
                // A listing without the first name is damaged, and the link a problem when it is placed.
                if let Some(mut first) = reader.entry(named, to)? {
                    let path = stored.entry.path.clone();
                    self.in_stead.insert(to.clone(), path.clone());
                    first.entry.path = path;
                    *stored = first;
                }
                return Ok(());
            }
        };
        if let Some(to) = choice.landing(first) {
            stored.entry.kind = EntryKind::HardLink { to };
        }
        Ok(())
    }
}

/// Files whose frames are being gathered.
#[derive(Default)]
struct Window<'a> {
    jobs: Vec<Job<'a>>,
    by_frame: HashMap<(hikae_model::PackId, u32), usize>,
    n_ranges: usize,
    n_open_files: usize,
}

impl<'a> Work<'a> {
    /// Walks the listing: makes directories, hands out frames. Gives the hard links, which wait for files.
    fn walk(
        &self,
        named: Named<'_>,
        missing: &mut BTreeSet<TreePath>,
        jobs: Sender<Job<'a>>,
    ) -> Result<Vec<Entry>, OpsError> {
        let (first, last) = (self.choice.paths().min(), self.choice.paths().max());
        let mut entries = Entries::of(BlobReader::new(self.repo)?, named, first)?;
        for folder in self.choice.folders_above() {
            if let Some(stored) = entries.reader().entry(named, &folder)? {
                self.target.folder_above(&stored.entry).or_else(|error| self.failed(error))?;
            }
        }
        let mut window = Window::default();
        let mut links = Links::default();
        while let Some(mut stored) = entries.next_entry()? {
            self.cx.check()?;
            if lock(&self.fatal).is_some() {
                return Ok(Vec::new());
            }
            let path = &stored.entry.path;
            if !self.choice.wants(path) {
                // All that is below the last path follows it at once.
                if last.is_some_and(|last| path > last) {
                    break;
                }
                continue;
            }
            missing.remove(path);
            links.resolve(&mut stored, self.choice, entries.reader(), named)?;
            match self.choice.landing(stored.entry.path) {
                Some(landing) => stored.entry.path = landing,
                // The target itself, which is there.
                None => continue,
            }
            match &stored.entry.kind {
                EntryKind::Directory => self.place(&stored.entry)?,
                EntryKind::HardLink { .. } => links.waiting.push(stored.entry),
                EntryKind::File { .. } => {
                    self.plan(stored, entries.reader(), &mut window)?;
                    if window.n_ranges >= MAX_RANGES || window.n_open_files >= MAX_OPEN_FILES {
                        hand_out(&mut window, &jobs);
                    }
                }
                EntryKind::Symlink { .. }
                | EntryKind::Fifo
                | EntryKind::Socket
                | EntryKind::CharDevice { .. }
                | EntryKind::BlockDevice { .. } => self.place(&stored.entry)?,
            }
        }
        hand_out(&mut window, &jobs);
        Ok(links.waiting)
    }

    /// Finds the frames that a file needs.
    fn plan(
        &self,
        stored: StoredEntry,
        reader: &mut BlobReader<'_>,
        window: &mut Window<'a>,
    ) -> Result<(), OpsError> {
        match self.target.wants(&stored.entry) {
            Ok(true) => {}
            Ok(false) => {
                self.written.kept.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            Err(error) => return self.failed(error),
        }
        let differs = self.standing.differs(&stored.entry.path);
        if differs.is_some_and(<[_]>::is_empty) {
            // Content is the same; attributes may not be.
            match self
                .target
                .begin_patch(&stored.entry)
                .and_then(|file| file.map(FileWriter::finish).transpose())
            {
                Ok(_) => drop(self.written.kept.fetch_add(1, Ordering::Relaxed)),
                Err(error) => return self.failed(error),
            }
            self.cx.progress().add_read(stored.entry.size());
            return Ok(());
        }
        let maps = match reader.extents(&stored.content) {
            Ok(maps) => maps,
            Err(error) => {
                self.not_read(&stored.entry, &error);
                return Ok(());
            }
        };
        let file = Arc::new(PendingFile {
            entry: stored.entry,
            patches: differs.is_some(),
            writer: Mutex::new(FileState::Waiting),
            left: AtomicUsize::new(0),
        });
        let (mut ranges, mut n_ranges) = (Vec::new(), 0);
        let mut at = 0;
        for extent in maps.iter().flat_map(|map| map.extents()) {
            if let Extent::Data { blob, offset, bytes } = *extent {
                let places = reader.places(blob)?;
                let Some(place) = places.into_iter().next() else {
                    self.not_read(&file.entry, &RepoError::BlobMissing { id: blob });
                    return Ok(());
                };
                let parts = parts_of(at..at + bytes, differs);
                let parts: Vec<Range<'a>> = parts
                    .map(|part| Range {
                        file: file.clone(),
                        at: part.start,
                        blob,
                        blob_start: place.offset,
                        blob_bytes: place.bytes,
                        offset: offset + (part.start - at) as u32,
                        bytes: part.end - part.start,
                    })
                    .collect();
                if !parts.is_empty() {
                    n_ranges += parts.len();
                    ranges.push((place.pack, place.frame, parts));
                }
            }
            at += extent.bytes();
        }
        if at != file.entry.size() {
            let what = format!("its content has {at} bytes and should have {}", file.entry.size());
            self.damaged(&file.entry, what);
            return Ok(());
        }
        if ranges.is_empty() {
            // Empty, or one hole.
            return self.close(&file);
        }
        file.left.store(n_ranges, Ordering::Relaxed);
        window.n_ranges += n_ranges;
        window.n_open_files += usize::from(ranges.len() > 1);
        for (pack, frame, parts) in ranges {
            let number = *window.by_frame.entry((pack, frame.offset)).or_insert_with(|| {
                window.jobs.push(Job { pack, frame, ranges: Vec::new() });
                window.jobs.len() - 1
            });
            window.jobs[number].ranges.extend(parts);
        }
        Ok(())
    }

    /// A worker: opens frames and writes what they hold.
    fn write_frames(&self, queue: &Receiver<Job<'a>>) {
        let mut reader = match BlobReader::new(self.repo) {
            Ok(reader) => reader,
            Err(error) => return self.end(error.into()),
        };
        reader.keep_frames(1);
        for job in queue {
            // After a fatal error the queue is emptied, so that nobody waits to fill it.
            if lock(&self.fatal).is_none()
                && let Err(error) =
                    self.cx.check().map_err(OpsError::from).and_then(|()| self.write_frame(&mut reader, &job))
            {
                self.end(error);
            }
        }
    }

    fn write_frame(&self, reader: &mut BlobReader<'_>, job: &Job<'a>) -> Result<(), OpsError> {
        let opened = reader.frame(job.pack, &job.frame);
        let mut checked = None;
        for range in &job.ranges {
            let span = range.blob_start as usize..range.blob_start as usize + range.blob_bytes as usize;
            let in_frame = opened.as_ref().ok().and_then(|plain| plain.get(span));
            // Ranges of one blob follow each other: hash it once.
            let good = in_frame.filter(|blob| {
                checked == Some(range.blob)
                    || self.repo.keys().blob_id(BlobClass::Content, blob) == range.blob
            });
            checked = good.map(|_| range.blob);
            let other_copy;
            let blob = match good {
                Some(blob) => blob,
                // Damaged here; another pack may have it. The search says what is wrong if none has.
                None => match reader.read(BlobClass::Content, range.blob) {
                    Ok(blob) => {
                        other_copy = blob;
                        &*other_copy
                    }
                    Err(error @ (RepoError::NeedsIdentity | RepoError::Cancelled(_))) => {
                        return Err(error.into());
                    }
                    Err(error) => {
                        if self.drop_file(&range.file) {
                            self.not_read(&range.file.entry, &error);
                        }
                        continue;
                    }
                },
            };
            let part = range.offset as usize..range.offset as usize + range.bytes as usize;
            match blob.get(part) {
                Some(bytes) => self.write(range, bytes)?,
                None => {
                    if self.drop_file(&range.file) {
                        self.damaged(&range.file.entry, "its extents go beyond a blob");
                    }
                }
            }
        }
        Ok(())
    }

    fn write(&self, range: &Range<'a>, bytes: &[u8]) -> Result<(), OpsError> {
        let file = &range.file;
        let mut state = lock(&file.writer);
        if matches!(*state, FileState::Waiting) {
            *state = match self.begin(file) {
                Ok(Some(writer)) => FileState::Open(writer),
                Ok(None) => {
                    self.written.kept.fetch_add(1, Ordering::Relaxed);
                    FileState::Closed
                }
                Err(error) => {
                    *state = FileState::Closed;
                    return self.failed(error);
                }
            };
        }
        if let FileState::Open(writer) = &*state
            && let Err(error) = writer.write_at(range.at, bytes)
        {
            *state = FileState::Closed;
            return self.failed(error);
        }
        drop(state);
        self.written.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.cx.progress().add_read(bytes.len() as u64);
        if file.left.fetch_sub(1, Ordering::AcqRel) == 1 { self.close(file) } else { Ok(()) }
    }

    fn begin(&self, file: &PendingFile<'a>) -> Result<Option<FileWriter<'a>>, PlaceError> {
        match file.patches {
            true => self.target.begin_patch(&file.entry),
            false => self.target.begin_file(&file.entry),
        }
    }

    /// Gives a file its name: all that belongs in it is there.
    fn close(&self, file: &PendingFile<'a>) -> Result<(), OpsError> {
        let state = std::mem::replace(&mut *lock(&file.writer), FileState::Closed);
        let writer = match state {
            FileState::Closed => return Ok(()),
            FileState::Open(writer) => Ok(Some(writer)),
            FileState::Waiting => self.begin(file),
        };
        match writer.and_then(|writer| writer.map(FileWriter::finish).transpose()) {
            Ok(Some(())) => self.count(),
            Ok(None) => drop(self.written.kept.fetch_add(1, Ordering::Relaxed)),
            Err(error) => return self.failed(error),
        }
        Ok(())
    }

    /// Gives a file up. True for the first that does: a file is one problem, however much of it is damaged.
    fn drop_file(&self, file: &PendingFile<'a>) -> bool {
        !matches!(std::mem::replace(&mut *lock(&file.writer), FileState::Closed), FileState::Closed)
    }

    /// Places what has no content.
    fn place(&self, entry: &Entry) -> Result<(), OpsError> {
        let placed = match entry.kind {
            EntryKind::Directory => self.target.directory(entry),
            _ => self.target.special(entry),
        };
        match placed {
            Ok(Placed::Written) => self.count(),
            Ok(Placed::Kept) => drop(self.written.kept.fetch_add(1, Ordering::Relaxed)),
            Err(error) => return self.failed(error),
        }
        Ok(())
    }

    fn count(&self) {
        self.written.entries.fetch_add(1, Ordering::Relaxed);
        self.cx.progress().add_entries(1);
    }

    fn failed(&self, error: PlaceError) -> Result<(), OpsError> {
        match error {
            PlaceError::Entry(problem) => {
                self.problem(problem);
                Ok(())
            }
            PlaceError::Target(error) => Err(OpsError::of_source("target")(error)),
        }
    }

    fn not_read(&self, entry: &Entry, error: &RepoError) {
        self.damaged(entry, format!("cannot be restored: {error}"));
    }

    fn damaged(&self, entry: &Entry, what: impl std::fmt::Display) {
        self.written.damaged.fetch_add(1, Ordering::Relaxed);
        let problem = Problem::new("damaged", &entry.path, what);
        self.problem(problem.advise("take it from another snapshot or another copy of the repository"));
    }

    fn problem(&self, problem: Problem) {
        self.cx.progress().add_problems(1);
        lock(&self.written.problems).push(problem);
    }

    fn end(&self, error: OpsError) {
        lock(&self.fatal).get_or_insert(error);
    }
}

/// The parts of a stretch of a file that are to be written: all of it, or what of it is in `differs`.
fn parts_of(
    stretch: std::ops::Range<u64>,
    differs: Option<&[std::ops::Range<u64>]>,
) -> impl Iterator<Item = std::ops::Range<u64>> {
    let whole = differs.is_none().then(|| stretch.clone());
    let parts = differs.unwrap_or_default();
    let first = parts.partition_point(|part| part.end <= stretch.start);
    let within = parts[first..].iter().map_while(move |part| {
        let part = part.start.max(stretch.start)..part.end.min(stretch.end);
        (part.start < part.end).then_some(part)
    });
    whole.into_iter().chain(within)
}

/// Sends the frames of a window to the workers, in the order in which files first need them.
fn hand_out<'a>(window: &mut Window<'a>, jobs: &Sender<Job<'a>>) {
    for job in std::mem::take(window).jobs {
        // Without workers there is a fatal error to report; the walk finds it.
        drop(jobs.send(job));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
