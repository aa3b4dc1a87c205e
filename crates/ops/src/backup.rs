//! Backup: sources into one repository, as one run with one entry in the log.
//!
//! ```text
//! source::Reading --Item--> unchanged? keep what the parent has
//!                           else read, cut, store  -> listing -> record -> (all sources) -> commit
//! ```
//!
//! A source that fails neither hides nor stops the others. A repository that fails ends the run.

use crate::OpsError;
use crate::earlier::{Earlier, read_parent, unreadable};
use crate::hooks::Hooks;
use crate::report::{BackupReport, SnapshotReport};
use hikae_model::{ContentError, Cut, Cx, Entry, EntryKind, ErrorCode, Outcome, Problem, RunId, TreePath};
use hikae_repo::content::{ContentWriter, KeepError, Kept};
use hikae_repo::keys::BlobClass;
use hikae_repo::listing::{Listing, ListingWriter, StoredContent, StoredEntry};
use hikae_repo::reach::Named;
use hikae_repo::reader::BlobReader;
use hikae_repo::snapshot::{Snapshot, SnapshotRecord};
use hikae_repo::writer::{LEVEL_DATABASE, LEVEL_FILES, Writer};
use hikae_repo::{RELEASE, Repo, RepoError};
use hikae_source::{Finished, Item, Reading, Source};
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A source with the name that the configuration gives it.
pub struct NamedSource {
    /// Its name.
    pub name: String,
    /// What it is.
    pub source: Box<dyn Source>,
    /// Programs around it.
    pub hooks: Hooks,
}

/// How a backup is to be made.
#[derive(Clone, Debug)]
pub struct BackupOptions {
    /// `daily`, `weekly`, `monthly` or `manual`.
    pub purpose: String,
    /// What the user says of it.
    pub description: Option<String>,
    /// The host that reads.
    pub host: String,
    /// How long a key epoch lasts.
    pub epoch_days: i64,
}

/// No report and no record lists more problems than this; the count is exact.
const MAX_LISTED_PROBLEMS: usize = 10_000;

/// Backs up `sources`. On `Ok` the snapshots that the report names are durable and in the log.
///
/// # Errors
/// Faults of the repository and cancellation; faults of sources stand in the report.
pub fn backup(
    repo: &Arc<Repo>,
    sources: &[NamedSource],
    options: &BackupOptions,
    cx: &Cx,
) -> Result<BackupReport, OpsError> {
    let began = cx.elapsed();
    let run = RunId::from_bytes(cx.random());
    let writer = Writer::begin(repo, run, options.epoch_days)?;
    let mut reports = Vec::new();
    let mut records = Vec::new();
    for named in sources {
        cx.check()?;
        match (OneSource { repo, writer: &writer, named, options, run, cx }).back_up() {
            Ok((record, report)) => {
                records.push(record);
                reports.push(report);
            }
            Err(error @ (OpsError::Repo(_) | OpsError::Cancelled(_))) => return Err(error),
            Err(error) => reports.push(SnapshotReport::failed(&named.name, named.source.kind(), &error)),
        }
    }
    let mut log_entry = None;
    if !records.is_empty() {
        cx.progress().begin("committing", "", 0);
        let committed = writer.commit(&records)?;
        log_entry = Some(committed.n);
        let kept = reports.iter_mut().filter(|report| report.outcome != Outcome::Failed);
        for (report, id) in kept.zip(committed.snapshots) {
            report.id = Some(id);
        }
    }
    let moments = records.iter().map(|record| record.moment);
    let skew = moments.clone().max().zip(moments.min()).map(|(last, first)| last.duration_since(first));
    Ok(BackupReport {
        run,
        outcome: reports.iter().map(|report| report.outcome).max().unwrap_or(Outcome::Complete),
        log_entry,
        skew_seconds: skew.map_or(0.0, |skew| skew.as_secs_f64()),
        seconds: (cx.elapsed() - began).as_secs_f64(),
        snapshots: reports,
    })
}

/// The backup of one source in a run.
struct OneSource<'a> {
    repo: &'a Arc<Repo>,
    writer: &'a Writer,
    named: &'a NamedSource,
    options: &'a BackupOptions,
    run: RunId,
    cx: &'a Cx,
}

/// What was read of a source.
struct Read {
    listing: Listing,
    bytes: u64,
    read_bytes: u64,
    problems: Vec<Problem>,
    /// What is to be said of the run, and is no fault of the source.
    notes: Vec<Problem>,
    /// Files whose content could not be read: their further names have none either.
    lost: HashSet<TreePath>,
}

impl Read {
    fn nothing() -> Self {
        Self {
            listing: Listing { directory: None, entries: 0 },
            bytes: 0,
            read_bytes: 0,
            problems: Vec::new(),
            notes: Vec::new(),
            lost: HashSet::new(),
        }
    }
}

impl OneSource<'_> {
    fn back_up(&self) -> Result<(SnapshotRecord, SnapshotReport), OpsError> {
        let (name, cx) = (&self.named.name, self.cx);
        let (began, started) = (cx.elapsed(), cx.now());
        cx.progress().begin("backing up", name, 0);
        let newest = self.writer.base().newest_first(Some(name)).first().map(|state| state.snapshot.id);
        let (parent, note) = read_parent(self.repo, newest);
        let quiesced = self.named.hooks.begin(name, cx)?;
        let of_source = OpsError::of_source(name);
        let mut reading = self.named.source.begin(self.repo.hash_key(), cx).map_err(&of_source)?;
        let database = reading.lanes() > 1 || self.named.source.kind() != "files";
        let added = Arc::new(AtomicU64::new(0));
        let level = if database { LEVEL_DATABASE } else { LEVEL_FILES };
        let lane = || ContentWriter::new(self.writer.lane(level, added.clone()));
        let mut contents = lane();
        if note.is_some() {
            contents.lane().store_metadata_anew();
        }
        let read = match reading.lanes() {
            1 => self.read_in_order(&mut *reading, parent.as_ref(), &mut contents)?,
            lanes => self.read_side_by_side(&mut reading, lanes, parent.as_ref(), &lane, &mut contents)?,
        };
        let Finished { moment, problems: more, manifest } = reading.finish().map_err(&of_source)?;
        quiesced.finish()?;
        let mut problems = read.problems;
        problems.extend(more);
        let notes = note.into_iter().chain(read.notes).collect();

        let lane = contents.lane();
        let manifest = manifest.map(|manifest| lane.put(BlobClass::Metadata, &manifest)).transpose()?;
        let n_problems = problems.len() as u64;
        problems.truncate(MAX_LISTED_PROBLEMS);
        let problem_list = match problems.is_empty() {
            true => None,
            false => {
                let json = serde_json::to_vec(&problems).map_err(|_| RepoError::Worker)?;
                Some(lane.put(BlobClass::Metadata, &json)?)
            }
        };
        contents.finish()?;
        self.writer.settle()?;
        let record = SnapshotRecord {
            source: name.clone(),
            kind: self.named.source.kind().to_owned(),
            run: self.run,
            moment,
            started,
            finished: cx.now(),
            host: self.options.host.clone(),
            purpose: self.options.purpose.clone(),
            description: self.options.description.clone(),
            complete: n_problems == 0,
            n_problems,
            problems: problem_list,
            listing: read.listing.directory,
            entries: read.listing.entries,
            bytes: read.bytes,
            read_bytes: read.read_bytes,
            added_bytes: added.load(Ordering::Relaxed),
            manifest,
            parent: parent.map(|parent| parent.id),
            release: RELEASE.to_owned(),
        };
        let seconds = (cx.elapsed() - began).as_secs_f64();
        let report = SnapshotReport::of(&record, problems, notes, seconds);
        Ok((record, report))
    }

    fn read_in_order(
        &self,
        reading: &mut dyn Reading,
        parent: Option<&Snapshot>,
        contents: &mut ContentWriter,
    ) -> Result<Read, OpsError> {
        let mut listing = ListingWriter::default();
        let mut earlier = Earlier::of(self.repo, parent)?;
        let mut read = Read::nothing();
        while let Some(Item { entry, content }) =
            reading.next().map_err(OpsError::of_source(&self.named.name))?
        {
            self.cx.check()?;
            let before = earlier.find(&entry.path);
            let before = match earlier.reader() {
                Some(reader) => self.reliable(before, reader)?,
                None => before,
            };
            if let EntryKind::HardLink { to } = &entry.kind
                && read.lost.contains(to)
            {
                let what = format!("is a further name of {to}, which could not be read");
                read.problems.push(Problem::new("unreadable", &entry.path, what));
                self.cx.progress().add_problems(1);
                continue;
            }
            let stored = match content {
                None => Some(StoredEntry { entry, content: StoredContent::None, hash: None }),
                Some(_)
                    if before.as_ref().is_some_and(|before| entry.looks_unchanged_since(&before.entry)) =>
                {
                    read.bytes += entry.size();
                    // The attributes of now: owner and mode may have changed with the rest as it was.
                    before.map(|before| StoredEntry { entry, ..before })
                }
                Some(mut content) => {
                    let parent = match content.cut {
                        Cut::Files => None,
                        Cut::Rows | Cut::Pages(_) => {
                            earlier.reader().zip(before.as_ref().map(|before| &before.content))
                        }
                    };
                    let kept = contents.store(content.cut, &mut *content.reader, parent);
                    self.kept(entry, kept, &mut read)?
                }
            };
            if let Some(stored) = stored {
                if earlier.note.is_some() {
                    contents.lane().store_metadata_anew();
                }
                listing.push(&stored, contents.lane())?;
                self.cx.progress().add_entries(1);
            }
        }
        read.notes.extend(earlier.note.take());
        read.listing = listing.finish(contents.lane())?;
        Ok(read)
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

    /// For sources whose contents are few and large, and can be read at the same time.
    fn read_side_by_side<'l>(
        &self,
        reading: &mut Box<dyn Reading>,
        lanes: usize,
        parent: Option<&Snapshot>,
        lane: &(dyn Fn() -> ContentWriter + Sync + 'l),
        contents: &mut ContentWriter,
    ) -> Result<Read, OpsError> {
        let reading = Mutex::new(reading);
        let together = Mutex::new((Vec::new(), Read::nothing()));
        let work = || -> Result<(), OpsError> {
            let mut contents = lane();
            let mut reader = parent.map(|_| BlobReader::new(self.repo)).transpose()?;
            loop {
                self.cx.check()?;
                let item = lock(&reading).next().map_err(OpsError::of_source(&self.named.name))?;
                let Some(Item { entry, content }) = item else { break };
                let stored = match content {
                    None => Some(StoredEntry { entry, content: StoredContent::None, hash: None }),
                    Some(mut content) => {
                        let before = match (parent, &mut reader) {
                            (Some(parent), Some(reader)) => {
                                let named = Named { id: parent.id, record: &parent.record };
                                match reader.entry(named, &entry.path) {
                                    Ok(before) => self.reliable(before, reader)?,
                                    Err(error) => {
                                        // Every lane may find it, and to say it once is enough.
                                        lock(&together).1.notes = vec![unreadable(parent.id, &error)];
                                        contents.lane().store_metadata_anew();
                                        None
                                    }
                                }
                            }
                            _ => None,
                        };
                        let before = before.as_ref().map(|before| &before.content);
                        let kept =
                            contents.store(content.cut, &mut *content.reader, reader.as_mut().zip(before));
                        self.kept(entry, kept, &mut lock(&together).1)?
                    }
                };
                lock(&together).0.extend(stored);
                self.cx.progress().add_entries(1);
            }
            Ok(contents.finish()?)
        };
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..lanes).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or(Err(RepoError::Worker.into()))).collect()
        });
        results.into_iter().collect::<Result<(), _>>()?;
        let (mut entries, mut read) = together.into_inner().unwrap_or_else(PoisonError::into_inner);
        entries.sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
        if !read.notes.is_empty() {
            contents.lane().store_metadata_anew();
        }
        let mut listing = ListingWriter::default();
        entries.iter().try_for_each(|entry| listing.push(entry, contents.lane()))?;
        read.listing = listing.finish(contents.lane())?;
        Ok(read)
    }

    /// The entry for content that was kept; nothing, and a problem, for content that could not be read.
    fn kept(
        &self,
        mut entry: Entry,
        kept: Result<Kept, KeepError>,
        read: &mut Read,
    ) -> Result<Option<StoredEntry>, OpsError> {
        match kept {
            Ok(Kept { content, bytes, hash }) => {
                read.bytes += bytes;
                read.read_bytes += bytes;
                entry.kind = EntryKind::File { size: bytes };
                Ok(Some(StoredEntry { entry, content, hash }))
            }
            Err(KeepError::Repo(error)) => Err(error.into()),
            Err(KeepError::Content(ContentError::Broken(what))) => Err(OpsError::Source {
                source_name: self.named.name.clone(),
                source: hikae_source::SourceError::Failed { code: ErrorCode::Failure, what, advice: None },
            }),
            Err(KeepError::Content(error)) => {
                self.cx.progress().add_problems(1);
                read.problems.push(content_problem(&entry.path, &error));
                read.lost.insert(entry.path);
                Ok(None)
            }
        }
    }
}

fn content_problem(path: &TreePath, error: &ContentError) -> Problem {
    let code = match error {
        ContentError::Unreadable(_) => "unreadable",
        ContentError::ChangedWhileRead => "changed-while-read",
        ContentError::Vanished => "vanished",
        ContentError::Broken(_) => "broken",
    };
    let problem = Problem::new(code, path, error);
    match error {
        ContentError::Unreadable(_) => problem.advise("run hikae as a user who may read it, or exclude it"),
        ContentError::ChangedWhileRead => {
            problem.advise("back it up through its database source, or quiesce it with a hook")
        }
        ContentError::Vanished | ContentError::Broken(_) => problem,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
