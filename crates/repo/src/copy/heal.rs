//! Healing: what is damaged or gone in one repository comes back out of another of its family.
//!
//! What `put_back` has brought under its own name is well again. This is for the rest: packs that the other one holds no more
//! as they were. Their blobs are sealed there all the same, in packs of other names, and those come as in a copy. Nothing that
//! is good is touched, and nothing that is damaged there moves.

use super::carry::Carrier;
use super::needs::{Found, Holdings};
use super::{LetGo, check_family};
use crate::RepoError;
use crate::commit::commit_run;
use crate::log::{Change, Commit};
use crate::reader::BlobReader;
use crate::repo::Repo;
use crate::snapshot::Snapshot;
use hikae_model::{Cx, RunId, SnapshotId};
use std::collections::HashSet;

/// What was healed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Healed {
    /// Blobs that have a good copy again.
    pub n_blobs: u64,
    /// Blobs that no good pack of either has.
    pub n_lost: u64,
    /// Bytes that were stored.
    pub stored_bytes: u64,
}

/// Brings what snapshots of `to` need, and what the log there calls damaged or does not place, out of `from`. Mark what is
/// damaged first: see `repair`.
///
/// # Errors
/// [`RepoError::OtherFamily`], [`RepoError::NoRight`], and any failure of either repository that is no damage.
pub fn heal(from: &Repo, to: &Repo, cx: &Cx) -> Result<Healed, RepoError> {
    check_family(from, to)?;
    // What is damaged in a store is to be found, whatever this machine has kept of it.
    [from, to].iter().for_each(|repo| repo.set_copies_aside());
    to.check_may(&*to.follow()?, &Change::Commit(Commit::default()))?;
    from.follow()?;
    let target = Holdings::of(to)?;
    let mut lacking = HashSet::new();
    let mut walked = HashSet::new();
    for id in target.state.snapshots.keys() {
        cx.check()?;
        let lacks = |blob| Ok(!target.has(blob)?);
        // Where the one is damaged, the other may tell.
        for repo in [to, from] {
            match walk(repo, *id, &walked, &lacks) {
                Ok(found) => {
                    lacking.extend(found.lacking);
                    walked.extend(found.hunks);
                    break;
                }
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
    }
    let n_lacking = lacking.len() as u64;
    if n_lacking == 0 {
        return Ok(Healed::default());
    }
    let let_go = LetGo::read(to)?;
    let mut carrier = Carrier::new(from, to, &let_go, cx)?;
    let n_lost = carrier.carry(lacking)?.len() as u64;
    let carried = carrier.finish()?;
    if !carried.segments.is_empty() {
        let run = RunId::from_bytes(cx.random());
        commit_run(to, run, (target.state, target.index), carried.segments.into_values(), &mut [])?;
    }
    Ok(Healed { n_blobs: n_lacking - n_lost, n_lost, stored_bytes: carried.stored_bytes })
}

fn walk(
    repo: &Repo,
    id: SnapshotId,
    walked: &HashSet<hikae_model::BlobId>,
    lacks: &dyn Fn(hikae_model::BlobId) -> Result<bool, RepoError>,
) -> Result<Found, RepoError> {
    let (snapshot, _) = Snapshot::read_stored(repo.store(), id, repo.keys())?;
    let mut found = Found::default();
    found.walk(&mut BlobReader::new(repo)?, &snapshot, walked, lacks)?;
    Ok(found)
}
