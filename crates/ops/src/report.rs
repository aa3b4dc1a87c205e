//! What operations say when they are done. The command line shows it to people, `--json` to programs.

use crate::OpsError;
use hikae_model::{Advise, Outcome, Problem, RunId, SnapshotId};
use hikae_repo::snapshot::SnapshotRecord;
use serde::Serialize;

/// What a run did.
#[derive(Clone, Debug, Serialize)]
pub struct BackupReport {
    /// The run.
    pub run: RunId,
    /// The worst outcome of its sources.
    pub outcome: Outcome,
    /// The entry that committed it; nothing if there was nothing to commit.
    pub log_entry: Option<u64>,
    /// How far the moments of its sources are apart.
    pub skew_seconds: f64,
    /// How long it took.
    pub seconds: f64,
    /// One for each source, in the order in which they were asked for.
    pub snapshots: Vec<SnapshotReport>,
    /// What was seen of locks; nothing where nothing is locked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locked: Option<LockedReport>,
}

/// What was seen of locks, before the run was committed.
#[derive(Clone, Debug, Serialize)]
pub struct LockedReport {
    /// Objects of this run that the server says are locked, and hold what was put.
    pub objects: u64,
    /// Older objects whose locks were made longer.
    pub extended: u64,
    /// The first moment at which the lock of any object ends that a snapshot may rely on.
    pub until: jiff::Timestamp,
}

/// What a run did with one source.
#[derive(Clone, Debug, Serialize)]
pub struct SnapshotReport {
    /// Its name; nothing if the source failed.
    pub id: Option<SnapshotId>,
    /// The source.
    pub source: String,
    /// Its kind.
    pub kind: String,
    /// How it ended.
    pub outcome: Outcome,
    /// The moment that it shows.
    pub moment: Option<jiff::Timestamp>,
    /// Entries.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Bytes that had to be read.
    pub read_bytes: u64,
    /// Bytes added to the repository.
    pub added_bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// What is missing or in doubt. There may be more than are listed.
    pub problems: Vec<Problem>,
    /// How many there are.
    pub n_problems: u64,
    /// What is to be known of the run. Nothing of the source is missing for it.
    pub notes: Vec<Problem>,
}

impl SnapshotReport {
    pub(crate) fn of(
        record: &SnapshotRecord,
        problems: Vec<Problem>,
        notes: Vec<Problem>,
        seconds: f64,
    ) -> Self {
        Self {
            id: None,
            source: record.source.clone(),
            kind: record.kind.clone(),
            outcome: if record.complete { Outcome::Complete } else { Outcome::WithProblems },
            moment: Some(record.moment),
            entries: record.entries,
            bytes: record.bytes,
            read_bytes: record.read_bytes,
            added_bytes: record.added_bytes,
            seconds,
            problems,
            n_problems: record.n_problems,
            notes,
        }
    }

    pub(crate) fn failed(source: &str, kind: &str, error: &OpsError) -> Self {
        Self {
            id: None,
            source: source.to_owned(),
            kind: kind.to_owned(),
            outcome: Outcome::Failed,
            moment: None,
            entries: 0,
            bytes: 0,
            read_bytes: 0,
            added_bytes: 0,
            seconds: 0.0,
            problems: vec![problem_of(source, error)],
            n_problems: 1,
            notes: Vec::new(),
        }
    }
}

/// An error as a problem of a report: its kind, the chain of causes, its advice.
pub(crate) fn problem_of(on: &str, error: &OpsError) -> Problem {
    let what = crate::with_causes(error);
    let what = what.strip_prefix(&format!("{on}: ")).map_or(what.clone(), str::to_owned);
    let problem = Problem::new(error.code().name(), on, what);
    match error.advice() {
        Some(advice) => problem.advise(advice),
        None => problem,
    }
}

/// What a restore did.
#[derive(Clone, Debug, Serialize)]
pub struct RestoreReport {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// How it ended.
    pub outcome: Outcome,
    /// Entries written.
    pub entries: u64,
    /// Entries that were left as they stood, as the overwrite rule says.
    pub kept: u64,
    /// Files, links and the like that stood there and were replaced.
    pub replaced: u64,
    /// Bytes of content written.
    pub bytes: u64,
    /// Files that could not be restored because what is kept of them is damaged or missing.
    pub n_damaged: u64,
    /// How long it took.
    pub seconds: f64,
    /// Entries that belong to whoever restored them, because only root may give files away.
    pub n_owners_not_set: u64,
    /// What could not be restored.
    pub problems: Vec<Problem>,
}
