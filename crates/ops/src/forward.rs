//! What a snapshot of a database shows: of one that holds only new rows, the dump that they follow with them.
//!
//! The newest dump is taken from which differentials without a gap lead to the snapshot. If one of them is damaged it is
//! passed by: those that follow may have its rows, and if not, that is a gap. A store that does not answer is no damage.

use crate::OpsError;
use crate::stored::StoredSnapshot;
use hikae_model::{ErrorCode, SnapshotId};
use hikae_repo::Repo;
use hikae_repo::keys::BlobClass;
use hikae_repo::reader::BlobReader;
use hikae_repo::snapshot::SnapshotRecord;
use hikae_repo::state::{SnapshotState, State};
use hikae_source::postgresql::differential::{self, DifferentialManifest, NotForward, RolledForward};
use hikae_source::{Source, Stored};
use jiff::Timestamp;

/// A database as a snapshot shows it.
pub(crate) struct Shows<'a> {
    /// Its files.
    pub(crate) stored: &'a dyn Stored,
    /// The record of the snapshot.
    pub(crate) record: &'a SnapshotRecord,
    /// The moment of the dump, if tables were brought forward from it.
    pub(crate) dump: Option<Timestamp>,
    /// What to know of how it was put together.
    pub(crate) notes: Vec<String>,
}

/// Calls `then` with the database that a snapshot shows.
///
/// # Errors
/// [`OpsError`] if it cannot be read, or no dump leads to it; whatever `then` fails with.
pub(crate) fn with_database<T>(
    repo: &Repo,
    snapshot: SnapshotId,
    then: impl FnOnce(&Shows<'_>) -> Result<T, OpsError>,
) -> Result<T, OpsError> {
    let stored = StoredSnapshot::open(repo, snapshot)?;
    let record = stored.record();
    if record.kind != differential::KIND {
        return then(&Shows { stored: &stored, record, dump: None, notes: Vec::new() });
    }
    let of_source = OpsError::of_source(&record.source);
    let manifest = DifferentialManifest::parse(stored.manifest().unwrap_or_default()).map_err(&of_source)?;
    let state = repo.follow()?;
    let mut broken = None;
    for dump in complete_before(&state, &manifest.base, record.moment) {
        let dump = match StoredSnapshot::open(repo, dump.snapshot.id) {
            Err(error) if error.is_damage() => continue,
            dump => dump?,
        };
        let (mut before, mut notes) = (Vec::new(), Vec::new());
        for one in between(&state, &record.source, dump.record().moment, snapshot) {
            match StoredSnapshot::open(repo, one) {
                Ok(one) => before.push(one),
                Err(error) if error.is_damage() => {
                    notes.push(format!("{} was passed by: {error}", one.short()));
                }
                Err(error) => return Err(error),
            }
        }
        let mut differentials: Vec<&dyn Stored> = before.iter().map(|one| one as &dyn Stored).collect();
        differentials.push(&stored);
        match RolledForward::new(&dump, &differentials) {
            Ok(rolled) => {
                let moment = dump.record().moment;
                notes.extend(said(&manifest, moment, differentials.len()));
                return then(&Shows { stored: &rolled, record, dump: Some(moment), notes });
            }
            // The newest dump is what people expect it to be made of.
            Err(NotForward::Broken { table, why }) => {
                broken.get_or_insert_with(|| format!("{}: {why}", table.shown()));
            }
            Err(NotForward::Source(error)) => return Err(of_source(error)),
        }
    }
    let why = broken.unwrap_or_else(|| format!("there is no complete dump of {} before it", manifest.base));
    let what = format!("these rows lead back to no dump: {why}");
    let advice = format!(
        "its files can be restored with --target; `hikae backup {}` begins anew, and keep differentials for longer than \
         dumps are apart",
        manifest.base
    );
    Err(OpsError::refused(ErrorCode::SourceMissing, what, Some(advice.into())))
}

fn said(manifest: &DifferentialManifest, dump: Timestamp, n: usize) -> Vec<String> {
    let names: Vec<String> = manifest.tables.iter().map(|table| table.table.shown()).collect();
    let mut notes = vec![format!(
        "of {}, by differentials ({n}): {}; all else is of the dump of {dump}",
        manifest.moment,
        names.join(", ")
    )];
    let differing = manifest.tables.iter().filter_map(|table| Some((table, table.differs_since?)));
    notes.extend(differing.filter(|(_, since)| *since > dump).map(|(table, since)| {
        let name = table.table.shown();
        format!("{name}: rows were deleted or changed before {since}, which differentials do not show")
    }));
    notes
}

/// Complete snapshots of a source up to a moment, the newest first.
fn complete_before<'s>(
    state: &'s State,
    source: &str,
    moment: Timestamp,
) -> impl Iterator<Item = &'s SnapshotState> + use<'s> {
    let newest = state.newest_first(Some(source));
    newest.into_iter().filter(move |one| one.snapshot.complete && one.snapshot.moment <= moment)
}

/// Snapshots of a source that show a moment after `after` and were made before `snapshot`, in the order in which they were.
fn between(state: &State, source: &str, after: Timestamp, snapshot: SnapshotId) -> Vec<SnapshotId> {
    let end = state.snapshots.get(&snapshot).map_or(u64::MAX, |state| state.n);
    let mut found: Vec<_> = state.newest_first(Some(source));
    found.retain(|one| one.snapshot.moment > after && one.n < end);
    found.sort_by_key(|one| (one.n, one.snapshot.moment));
    found.into_iter().map(|one| one.snapshot.id).collect()
}

/// The manifests from which a source with a base goes on: of its own newest snapshot, and of the newest complete one of the
/// base.
#[derive(Default)]
pub(crate) struct EarlierManifests {
    pub(crate) own: Option<Vec<u8>>,
    pub(crate) base: Option<Vec<u8>>,
}

impl EarlierManifests {
    /// Those that can be read. What cannot is passed by: the run then reads more.
    pub(crate) fn of(repo: &Repo, state: &State, name: &str, source: &dyn Source) -> Self {
        let Some(base) = source.base() else { return Self::default() };
        // By the order in which they were made: a clock that went back puts a wrong one first.
        let mut own = state.newest_first(Some(name));
        own.sort_by_key(|one| std::cmp::Reverse((one.n, one.snapshot.moment)));
        let read = |one: &SnapshotState| {
            let blob = repo.snapshot(one.snapshot.id).ok()?.record.manifest?;
            Some(BlobReader::new(repo).ok()?.read(BlobClass::Metadata, blob).ok()?.to_vec())
        };
        Self {
            own: own.into_iter().find_map(read),
            base: complete_before(state, base, Timestamp::MAX).find_map(read),
        }
    }
}
