//! Listing snapshots, and showing one of them.

use crate::OpsError;
use hikae_model::{EvidenceId, Problem, RunId, SnapshotId, WriterId};
use hikae_repo::keys::BlobClass;
use hikae_repo::log::{EvidenceRef, SnapshotRef};
use hikae_repo::reader::BlobReader;
use hikae_repo::state::{SnapshotState, State};
use hikae_repo::{Repo, RepoError};
use hikae_source::postgresql::Manifest;
use jiff::Timestamp;
use serde::Serialize;

/// A snapshot, as lists show it.
#[derive(Clone, Debug, Serialize)]
pub struct ListedSnapshot {
    /// Its name.
    pub id: SnapshotId,
    /// The source.
    pub source: String,
    /// Its kind.
    pub kind: String,
    /// The moment that it shows.
    pub moment: Timestamp,
    /// `daily`, `weekly`, `monthly` or `manual`.
    pub purpose: String,
    /// What the user said of it.
    pub description: Option<String>,
    /// The host that read it.
    pub host: String,
    /// The run that made it, shared by the snapshots that belong together.
    pub run: Option<RunId>,
    /// True if nothing of the source is missing.
    pub complete: bool,
    /// How many problems there were.
    pub n_problems: u64,
    /// Entries.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Bytes that it added to the repository.
    pub added_bytes: u64,
    /// Whether its last drill passed; nothing if there was none.
    pub drill_passed: Option<bool>,
    /// Why it is no backup, if it is none: its record cannot be read, or it is set aside in the log. What the log
    /// does not say of it is then empty.
    pub damaged: Option<String>,
}

/// A snapshot with everything that is known of it.
#[derive(Clone, Debug, Serialize)]
pub struct ShownSnapshot {
    /// What lists show.
    #[serde(flatten)]
    pub listed: ListedSnapshot,
    /// When reading began.
    pub started: Timestamp,
    /// When all of it was stored.
    pub finished: Timestamp,
    /// Bytes that had to be read.
    pub read_bytes: u64,
    /// The snapshot that it was compared with.
    pub parent: Option<SnapshotId>,
    /// Who signed it.
    pub writer: WriterId,
    /// The release that made it.
    pub release: String,
    /// The entry of the log that made it real.
    pub log_entry: u64,
    /// The newest evidence about it.
    pub evidence: Option<EvidenceId>,
    /// What was missing or in doubt.
    pub problems: Vec<Problem>,
    /// Which tables it has the rows of, if it is a selection of a database.
    pub selection: Option<Selection>,
    /// What must hold after a restore.
    pub manifest: Option<serde_json::Value>,
}

/// The tables of a snapshot that has the rows of some only.
#[derive(Clone, Debug, Serialize)]
pub struct Selection {
    /// Tables with their rows.
    pub tables: Vec<String>,
    /// Tables of which it has the definition and no row.
    pub without_rows: Vec<String>,
}

impl Selection {
    fn of(manifest: &[u8]) -> Option<Self> {
        let manifest = Manifest::parse(manifest).ok().filter(|manifest| manifest.selection)?;
        let tables = manifest.tables.iter().map(|table| format!("{}.{}", table.schema, table.name));
        let without_rows = manifest.without_rows().map(str::to_owned);
        Some(Self { tables: tables.collect(), without_rows: without_rows.collect() })
    }
}

/// The snapshots of a source, or of all, newest first.
///
/// # Errors
/// Any failure to read their records.
pub fn list(repo: &Repo, source: Option<&str>) -> Result<Vec<ListedSnapshot>, RepoError> {
    let state = repo.follow()?;
    state
        .all_newest_first(source)
        .into_iter()
        .map(|snapshot| listed_or_damaged(repo, &state, snapshot))
        .collect()
}

/// The snapshots that were forgotten and can still be brought back, newest first.
///
/// # Errors
/// Any failure to read their records.
pub fn list_forgotten(repo: &Repo) -> Result<Vec<ListedSnapshot>, RepoError> {
    let state = repo.follow()?;
    let forgotten = state.forgotten.values();
    let mut forgotten = forgotten
        .map(|forgotten| listed_or_damaged(repo, &state, &forgotten.snapshot))
        .collect::<Result<Vec<_>, _>>()?;
    forgotten.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.moment));
    Ok(forgotten)
}

/// What a list shows of a snapshot, also of one whose record is damaged: one bad record must not hide the others.
fn listed_or_damaged(
    repo: &Repo,
    state: &State,
    snapshot: &SnapshotState,
) -> Result<ListedSnapshot, RepoError> {
    let mut row = match listed(repo, snapshot) {
        Err(error) if error.is_damage() => damaged(snapshot, &error),
        row => row?,
    };
    if state.set_aside.contains(&row.id) {
        row.damaged.get_or_insert_with(|| "it is set aside; `hikae repo repair` takes it back".to_owned());
        row.complete = false;
    }
    Ok(row)
}

/// What the log says of a snapshot whose record cannot be read.
fn damaged(snapshot: &SnapshotState, error: &RepoError) -> ListedSnapshot {
    let evidence = snapshot.evidence.as_ref();
    let SnapshotRef { id, source, moment, .. } = snapshot.snapshot.clone();
    ListedSnapshot {
        id,
        source,
        kind: String::new(),
        moment,
        purpose: String::new(),
        description: None,
        host: String::new(),
        run: None,
        complete: false,
        n_problems: 0,
        entries: 0,
        bytes: 0,
        added_bytes: 0,
        drill_passed: evidence.map(|evidence| evidence.passed),
        damaged: Some(error.to_string()),
    }
}

/// What a list shows of one snapshot.
///
/// # Errors
/// Any failure to read its record.
pub fn listed(repo: &Repo, state: &SnapshotState) -> Result<ListedSnapshot, RepoError> {
    let record = repo.snapshot(state.snapshot.id)?.record;
    Ok(ListedSnapshot {
        id: state.snapshot.id,
        source: record.source,
        kind: record.kind,
        moment: record.moment,
        purpose: record.purpose,
        description: record.description,
        host: record.host,
        run: Some(record.run),
        complete: record.complete,
        n_problems: record.n_problems,
        entries: record.entries,
        bytes: record.bytes,
        added_bytes: record.added_bytes,
        drill_passed: state.evidence.as_ref().map(|evidence: &EvidenceRef| evidence.passed),
        damaged: None,
    })
}

/// Everything that is known of one snapshot.
///
/// # Errors
/// Any failure to read its record, its problems or its manifest.
pub fn show(repo: &Repo, state: &SnapshotState) -> Result<ShownSnapshot, OpsError> {
    let snapshot = repo.snapshot(state.snapshot.id)?;
    let record = &snapshot.record;
    let mut reader = BlobReader::new(repo)?;
    let problems = match record.problems {
        Some(blob) => serde_json::from_slice(&reader.read(BlobClass::Metadata, blob)?).unwrap_or_default(),
        None => Vec::new(),
    };
    let manifest = record.manifest.map(|blob| reader.read(BlobClass::Metadata, blob)).transpose()?;
    let manifest = manifest.as_deref();
    Ok(ShownSnapshot {
        listed: listed(repo, state)?,
        started: record.started,
        finished: record.finished,
        read_bytes: record.read_bytes,
        parent: record.parent,
        writer: snapshot.writer,
        release: record.release.clone(),
        log_entry: state.n,
        evidence: state.evidence.as_ref().map(|evidence| evidence.id),
        problems,
        selection: manifest.filter(|_| record.kind == "postgresql").and_then(Selection::of),
        manifest: manifest.and_then(|manifest| serde_json::from_slice(manifest).ok()),
    })
}
