//! Backup: sources into one repository, as one run with one entry in the log.
//!
//! ```text
//! source::Reading --Item--> unchanged? keep what the parent has
//!                           else read, cut, store  -> listing -> record -> (all sources) -> commit
//! ```
//!
//! A source that fails neither hides nor stops the others. A repository that fails ends the run.

use crate::OpsError;
use crate::doctor::Disk;
use crate::earlier::read_parent;
use crate::forward::EarlierManifests;
use crate::hooks::Hooks;
use crate::lanes::Lanes;
use crate::report::{BackupReport, LockedReport, SnapshotReport};
use crate::stored::StoredSnapshot;
use hikae_model::{Bytes, Count, Cx, Outcome, Problem, RunId, sabotage};
use hikae_repo::content::ContentWriter;
use hikae_repo::keys::BlobClass;
use hikae_repo::snapshot::SnapshotRecord;
use hikae_repo::writer::{LEVEL_DATABASE, LEVEL_FILES, Writer};
use hikae_repo::{RELEASE, Repo, RepoError};
use hikae_source::{Earlier, Finished, Source, Stored};
use hikae_store::Held;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
    tell_free_space(repo, cx);
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
            Err(_) if sabotage::on("failed-source-hidden") => {}
            Err(error) => reports.push(SnapshotReport::failed(&named.name, named.source.kind(), &error)),
        }
    }
    let (mut log_entry, mut locked) = (None, None);
    if !records.is_empty() {
        cx.progress().begin("committing", "", 0);
        let committed = writer.commit(&records)?;
        log_entry = Some(committed.n);
        let Held { n_put, n_extended, until } = committed.held;
        locked = until.map(|until| LockedReport { objects: n_put, extended: n_extended, until });
        cx.tell("committed", "", format_args!("run {run} as log entry {}", committed.n));
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
        locked,
    })
}

/// Who follows the run is told what room there is, where the store is a directory.
fn tell_free_space(repo: &Repo, cx: &Cx) {
    let store = repo.store().address();
    if cx.progress().is_followed()
        && let Some(disk) = Disk::of(Path::new(&store))
    {
        cx.tell("free space", &store, disk);
    }
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

impl OneSource<'_> {
    fn back_up(&self) -> Result<(SnapshotRecord, SnapshotReport), OpsError> {
        let (name, cx) = (&self.named.name, self.cx);
        let (began, started) = (cx.elapsed(), cx.now());
        cx.progress().begin("backing up", name, 0);
        cx.tell("begun", name, self.named.source.kind());
        if cx.progress().is_followed()
            && let Some(bytes) = self.named.source.size(cx).map_err(OpsError::of_source(name))?
        {
            cx.tell("size", name, Bytes(bytes));
        }
        let newest = self.writer.base().newest_first(Some(name)).first().map(|state| state.snapshot.id);
        let (parent, note) = read_parent(self.repo, newest);
        let quiesced = self.named.hooks.begin(name, cx)?;
        let of_source = OpsError::of_source(name);
        let (source, key) = (&*self.named.source, self.repo.hash_key());
        let manifests = EarlierManifests::of(self.repo, self.writer.base(), name, source);
        let snapshot = || {
            let stored = StoredSnapshot::open(self.repo, parent.as_ref()?.id).ok()?;
            Some(Box::new(stored) as Box<dyn Stored>)
        };
        let (own, base) = (manifests.own.as_deref(), manifests.base.as_deref());
        let earlier = Earlier { own, base, snapshot: &snapshot };
        let mut reading = source.begin_after(&earlier, key, cx).map_err(&of_source)?;
        let added = Arc::new(AtomicU64::new(0));
        let level = if self.named.source.kind() == "files" { LEVEL_FILES } else { LEVEL_DATABASE };
        let lane = || {
            let mut lane = self.writer.lane(level, added.clone());
            if note.is_some() {
                lane.store_metadata_anew();
            }
            ContentWriter::new(lane)
        };
        let mut contents = lane();
        let lanes = Lanes { repo: self.repo, writer: self.writer, parent: parent.as_ref(), source: name, cx };
        let mut read = lanes.read(&mut *reading, &lane, &mut contents)?;
        if let Some(path) = read.not_as_said {
            drop(reading);
            reading = source.begin(key, cx).map_err(&of_source)?;
            read = lanes.read(&mut *reading, &lane, &mut contents)?;
            let what = "is not what it was, although the server's summaries say so; everything was read, and is whole";
            let advice = "see who writes to the server's files besides the server, or put them back; if nobody does, turn summarize_wal off";
            read.notes.push(Problem::new("not-as-said", path, what).advise(advice));
        }
        let Finished { moment, problems: more, notes: said, manifest } =
            reading.finish().map_err(&of_source)?;
        quiesced.finish()?;
        let (entries, bytes) = (Count(read.listing.entries), Bytes(read.bytes));
        cx.tell(
            "read",
            name,
            format_args!("{entries} entries, {bytes}, {} of it anew", Bytes(read.read_bytes)),
        );
        let mut problems = read.problems;
        problems.extend(more);
        let notes = note.into_iter().chain(read.notes).chain(said).collect();

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
            complete: n_problems == 0 || sabotage::on("partial-is-complete"),
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
            nonce: [0; 16],
        };
        let whole = if record.complete { "complete" } else { "with problems" };
        let added = Bytes(record.added_bytes);
        cx.tell("stored", name, format_args!("{whole}, {added} added, state of {}", record.moment));
        let seconds = (cx.elapsed() - began).as_secs_f64();
        let report = SnapshotReport::of(&record, problems, notes, seconds);
        Ok((record, report))
    }
}
