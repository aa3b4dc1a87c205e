//! Base backups that no rule may let go: those from which the log leads to the present.
//!
//! A rule counts snapshots, and the newest of them need not be the one that leads on: after a promotion, or a recovery to an
//! earlier place, the cluster goes on along a new timeline, which is reached from before the fork alone until it has a base
//! backup of its own. Which timeline is the present nobody says. It is the one whose log came last, or the last of all:
//! a base backup stays for either.

use super::cluster::{KeptCluster, manifest_of};
use super::window::Interval;
use crate::OpsError;
use hikae_model::{Cx, SnapshotId, Timeline, WalName};
use hikae_repo::Repo;
use hikae_repo::state::State;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The base backups of a source, or of each, that must stay.
///
/// # Errors
/// Any failure to read the repository, but for damage: what is damaged leads nowhere.
pub fn leading_bases(
    repo: &Arc<Repo>,
    source: Option<&str>,
    cx: &Cx,
) -> Result<BTreeSet<SnapshotId>, OpsError> {
    let (state, _) = repo.readable()?;
    let all = state.snapshots.values().map(|snapshot| snapshot.snapshot.source.as_str());
    let sources: BTreeSet<&str> = all.filter(|name| source.is_none_or(|source| source == *name)).collect();
    let mut leading = BTreeSet::new();
    for source in sources {
        cx.check()?;
        if is_cluster(repo, &state, source)? {
            match KeptCluster::read(repo, source, cx) {
                Ok(cluster) => leading.extend(of_cluster(&cluster)),
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(leading)
}

/// Whether the newest snapshot of a source that can be read is a base backup.
fn is_cluster(repo: &Repo, state: &State, source: &str) -> Result<bool, OpsError> {
    let complete = state.newest_first(Some(source)).into_iter().filter(|snapshot| snapshot.snapshot.complete);
    for snapshot in complete {
        match manifest_of(repo, snapshot.snapshot.id) {
            Ok(manifest) => return Ok(manifest.is_some()),
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// The newest base backup before the end of each timeline that may be the present. If it cannot be known which leads there,
/// because histories are sealed to this host, all of them.
fn of_cluster(cluster: &KeptCluster) -> BTreeSet<SnapshotId> {
    let segments = || cluster.stored.values().filter(|file| matches!(file.name, WalName::Segment(_)));
    let came_last = segments().max_by_key(|file| (file.stored, file.name)).map(|file| file.name.timeline());
    let highest = segments().map(|file| file.name.timeline()).max();
    let mut leading = BTreeSet::new();
    for timeline in BTreeSet::from_iter(came_last.into_iter().chain(highest)) {
        match last_interval(cluster, timeline) {
            Some(last) => drop(leading.insert(last.newest().snapshot)),
            None if cluster.is_sealed(timeline) => {
                leading.extend(cluster.bases.iter().map(|base| base.snapshot));
            }
            None => {}
        }
    }
    leading
}

/// The last part of a timeline that can be reached.
fn last_interval(cluster: &KeptCluster, timeline: Timeline) -> Option<&Interval> {
    let of_it = cluster.window.intervals.iter().filter(|interval| interval.timeline == timeline);
    of_it.max_by_key(|interval| interval.to)
}
