//! Verify: read everything back and compare, change nothing.
//!
//! ```text
//! log -> keys, evidence -> index objects -> packs (workers) -> snapshots, listings, maps -> who is hit
//! ```
//!
//! - Without `read_data` all stored bytes are read and compared with the names and seals that vouch for
//!   them. That needs no identity: a pack is named by the hash of its bytes.
//! - With `read_data` every frame is opened as well and the name of every blob computed again, which finds
//!   what a faulty or hostile writer stored.
//! - A bad object does not end the work. Each becomes a problem, and what is hit by it is listed by snapshot
//!   and path.
//!
//! The pieces: `verify/objects` reads the log and what it names, `verify/packs` reads packs, `verify/reach`
//! walks snapshots, `verify/unnamed` looks for what the log should name and does not, `verify/wal` reads the write-ahead
//! log of clusters, which nothing names.

mod objects;
mod packs;
mod reach;
mod unnamed;
mod wal;

use crate::RepoError;
use crate::layout;
use crate::repo::{Repo, lock};
use crate::state::State;
use hikae_model::{Advise, Cx, IndexId, Outcome, PackId, Problem, SnapshotId};
use hikae_store::ObjectKey;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub use reach::Hit;

/// A report lists no more problems than this; it counts the others.
const MAX_PROBLEMS: usize = 1000;

/// What to verify.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyOptions {
    /// Open every frame and compute the name of every blob again. Needs an identity.
    pub read_data: bool,
    /// Only these snapshots, and the packs that they need; all if `None`.
    pub snapshots: Option<Vec<SnapshotId>>,
    /// Only so many in a hundred of the packs, drawn anew each time; all if `None`.
    pub sample: Option<u8>,
}

/// What verify found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// `Complete` if everything that was to be read was read and is right, else `Failed`.
    pub outcome: Outcome,
    /// What is wrong, up to a bound.
    pub problems: Vec<Problem>,
    /// How many problems there are.
    pub n_problems: u64,
    /// What is to be known and harms nothing that is kept, up to a bound.
    pub notes: Vec<Problem>,
    /// Which snapshots cannot be restored whole.
    pub hits: Vec<Hit>,
    /// What repair can work on.
    pub damage: Damage,
    /// Entries of the log that were read.
    pub n_entries: u64,
    /// Snapshots that were walked.
    pub n_snapshots: u64,
    /// Packs that the index names, and doomed ones that are still stored.
    pub n_packs: u64,
    /// Packs that were read.
    pub n_packs_read: u64,
    /// Bytes of packs and of write-ahead log that were read.
    pub read_bytes: u64,
    /// Blobs whose names were computed again.
    pub n_blobs: u64,
    /// Packs that nothing names: leftovers of runs that died. The next prune takes them.
    pub n_orphans: u64,
    /// Files of write-ahead log that are stored.
    pub n_wal: u64,
    /// Those of them that were read.
    pub n_wal_read: u64,
    /// How long it took.
    pub took: Duration,
}

/// Objects that are not what they should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Index objects that are gone or do not open, or differ from the packs that they name.
    pub indexes: BTreeSet<IndexId>,
    /// Packs of which something is wrong.
    pub packs: BTreeMap<PackId, PackDamage>,
    /// Packs that the log calls damaged and that were found well.
    pub well: BTreeSet<PackId>,
    /// Blobs that a snapshot needs and no index places, up to a bound.
    pub unplaced: BTreeSet<hikae_model::BlobId>,
    /// Snapshots whose record is damaged or gone and that are not set aside yet.
    pub snapshots: BTreeSet<SnapshotId>,
    /// Snapshots that are set aside and whose record was found well.
    pub snapshots_well: BTreeSet<SnapshotId>,
    /// Every object that is damaged or gone and that a copy of the repository would have.
    pub objects: BTreeSet<ObjectKey>,
}

/// What is wrong with a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackDamage {
    /// In words.
    pub what: String,
    /// The store did not let us read it: it may be well, and tomorrow we may know.
    pub unread: bool,
    /// Where its frames begin that do not open, or could not be tried.
    pub frames: BTreeSet<u32>,
    /// Where its frames begin that were opened and are right.
    pub good_frames: BTreeSet<u32>,
}

impl Damage {
    /// Whether the frame at `offset` of `pack` can be read as far as we know.
    pub(crate) fn spares(&self, pack: PackId, offset: u32) -> bool {
        self.packs.get(&pack).is_none_or(|damage| !damage.frames.contains(&offset))
    }

    /// True if nothing is damaged that the log does not call so, or has not doomed.
    fn is_all_known(&self, state: &State) -> bool {
        self.indexes.is_empty()
            && self.packs.keys().all(|pack| !state.is_good(*pack))
            && self.unplaced.is_empty()
            && self.snapshots.is_empty()
    }
}

/// Verifies the repository. Every problem is in the report; an error is returned only when the work could
/// not be done.
///
/// # Errors
/// [`RepoError::NeedsIdentity`] if contents are to be read without one, [`RepoError::Cancelled`], and any
/// failure to list the store or to use the cache.
pub fn verify(repo: &Repo, options: &VerifyOptions, cx: &Cx) -> Result<VerifyReport, RepoError> {
    repo.set_copies_aside();
    if options.read_data && !repo.contents().has_identity() {
        return Err(RepoError::NeedsIdentity);
    }
    let began = cx.elapsed();
    let found = Found::new(cx);
    let listed = unnamed::Listed::read(repo)?;
    let history = objects::check_log(repo, &found)?;
    let state = repo.state();
    objects::check_keys(repo, &state, &history, &found)?;
    objects::check_evidence(repo, &history, &found)?;
    // Of a damaged log nobody can say what it named.
    if history.is_whole() {
        listed.check(repo, &state, &history, &found)?;
    }
    let (index, lost) = objects::check_indexes(repo, &state, &history, &found)?;
    let index = Arc::new(index);
    let mut damage = Damage { indexes: lost, ..Damage::default() };

    let stored = packs::list(repo, &found)?;
    let wanted = match &options.snapshots {
        None => None,
        Some(ids) => Some(reach::packs_of(repo, &state, &index, ids)?),
    };
    let plan = packs::Plan { read_data: options.read_data, sample: options.sample, wanted };
    let read = packs::check(repo, &state, &index, &stored, &plan, &found, &mut damage)?;

    // No snapshot needs it.
    let wal = match options.snapshots {
        Some(_) => wal::Read::default(),
        None => wal::check(repo, &state, options.read_data, options.sample, &found)?,
    };

    let walked = reach::walk(repo, &state, &index, options.snapshots.as_deref(), &mut damage, &found)?;
    damage.objects = std::mem::take(&mut *lock(&found.hurt));
    damage.objects.extend(damage.indexes.iter().map(|id| layout::index(*id)));
    damage.objects.extend(damage.snapshots.iter().map(|id| layout::snapshot(*id)));
    let packs = damage.packs.iter().filter(|(_, pack)| !pack.unread);
    damage.objects.extend(packs.map(|(id, _)| layout::pack(*id)));
    let notes = std::mem::take(&mut *lock(&found.notes));
    let (problems, n_problems) = found.into_parts();
    Ok(VerifyReport {
        outcome: if n_problems == 0 && damage.is_all_known(&state) {
            Outcome::Complete
        } else {
            Outcome::Failed
        },
        problems,
        n_problems,
        notes,
        hits: walked.hits,
        damage,
        n_entries: history.n_entries,
        n_snapshots: walked.n_snapshots,
        n_packs: read.n_packs,
        n_packs_read: read.n_packs_read,
        read_bytes: read.read_bytes + wal.read_bytes,
        n_blobs: read.n_blobs,
        n_orphans: read.n_orphans,
        n_wal: wal.n_files,
        n_wal_read: wal.n_files_read,
        took: cx.elapsed().saturating_sub(began),
    })
}

/// Problems as they are found, by any thread.
struct Found<'a> {
    cx: &'a Cx,
    problems: Mutex<(Vec<Problem>, u64)>,
    notes: Mutex<Vec<Problem>>,
    /// Objects that another copy could bring back.
    hurt: Mutex<BTreeSet<ObjectKey>>,
}

impl<'a> Found<'a> {
    fn new(cx: &'a Cx) -> Self {
        Self { cx, problems: Mutex::default(), notes: Mutex::default(), hurt: Mutex::default() }
    }

    /// Notes that this object is not what it was.
    fn hurt(&self, key: ObjectKey) {
        lock(&self.hurt).insert(key);
    }

    /// Something to be known that harms nothing that is kept.
    fn note(&self, note: Problem) {
        let mut notes = lock(&self.notes);
        if notes.len() < MAX_PROBLEMS {
            notes.push(note);
        }
    }

    fn add(&self, problem: Problem) {
        self.cx.progress().add_problems(1);
        let mut problems = lock(&self.problems);
        problems.1 += 1;
        if problems.0.len() < MAX_PROBLEMS {
            problems.0.push(problem);
        }
    }

    /// A problem with our usual advice for damage.
    fn damaged(&self, code: &str, on: impl fmt::Display, what: impl fmt::Display) {
        self.add(Problem::new(code, on, what).advise(REPAIR));
    }

    /// Makes a problem of an error, unless it is one that ends the work.
    fn error(&self, code: &str, on: impl fmt::Display, error: RepoError) -> Result<(), RepoError> {
        match error {
            RepoError::Cancelled(_) | RepoError::Cache { .. } | RepoError::Worker => Err(error),
            error => {
                let mut problem = Problem::new(code, on, &error);
                problem.advice = error.advice().map(|hint| hint.into_owned());
                if error.is_damage() {
                    problem.advice = Some(REPAIR.to_owned());
                }
                self.add(problem);
                Ok(())
            }
        }
    }

    fn into_parts(self) -> (Vec<Problem>, u64) {
        self.problems.into_inner().unwrap_or_else(|broken| broken.into_inner())
    }
}

const REPAIR: &str = "run `hikae repo repair`, then back up again; restores of everything else still work";
