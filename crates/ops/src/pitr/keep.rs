//! What of the archived log is still needed, and so what a prune lets go.
//!
//! - A base backup needs the log from where it is consistent, to be recovered onward; one that does not bring its own log,
//!   from where it began. Below the first place that any of them needs nobody needs anything, on any timeline that they
//!   know: a timeline begins where another stood.
//! - On a timeline later than those of all base backups a cluster may be at work that came back to an earlier place. Of such
//!   nothing goes before it has a base backup.
//! - Only base backups that are listed count. The entry names those that are forgotten, and nothing goes while one of them
//!   can be brought back.
//! - Where a cluster has no base backup, where one cannot be read, where they are not of one form: nothing goes.

use super::cluster::{base_of, manifest_of};
use super::window::Base;
use crate::OpsError;
use hikae_model::{Cx, Lsn, SegmentSize, SnapshotId, SystemId, WalName, sabotage};
use hikae_repo::log::LogFloors;
use hikae_repo::prune::floor_log;
use hikae_repo::state::State;
use hikae_repo::wal::{self, LogFloor, StoredWal};
use hikae_repo::{Repo, RepoError};
use hikae_source::postgresql_cluster::KIND;
use jiff::Timestamp;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// What goes of the archived log, of each cluster whose log is kept.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LogPlan {
    /// By cluster.
    pub clusters: Vec<ClusterLog>,
    /// Forgotten base backups that were not counted.
    without: Vec<SnapshotId>,
}

/// The log of one cluster.
#[derive(Clone, Debug, Serialize)]
pub struct ClusterLog {
    /// The cluster.
    pub system: SystemId,
    /// The sources whose base backups are of it.
    pub sources: BTreeSet<String>,
    /// Files that are kept of it, those that go as well.
    pub n_files: u64,
    /// Their length in the repository.
    pub stored_bytes: u64,
    /// What goes; nothing if all is needed, or has its floor already.
    pub goes: Option<GoingLog>,
    /// Why nothing may go, whatever is needed.
    pub stays: Option<WhyLogStays>,
}

/// Log that goes.
#[derive(Clone, Debug, Serialize)]
pub struct GoingLog {
    /// The last timeline of which something goes.
    pub timeline: u32,
    /// The first place that stays.
    pub below: Lsn,
    /// From when on the cluster can come back to every moment: the end of the base backup that needs that place.
    pub recovers_from: Timestamp,
    /// How many files.
    pub n_files: u64,
    /// Their length in the repository.
    pub stored_bytes: u64,
    #[serde(skip)]
    floor: LogFloor,
}

/// Why nothing of the log of a cluster may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhyLogStays {
    /// The repository has no base backup of it.
    NoBase,
    /// A snapshot cannot be read, so what it needs is not known.
    Unreadable(SnapshotId),
    /// Its base backups say different lengths of segments.
    TwoSizes,
}

impl LogPlan {
    /// True if nothing goes.
    pub fn is_empty(&self) -> bool {
        self.clusters.iter().all(|cluster| cluster.goes.is_none())
    }

    fn floors(&self, soft: Duration) -> Option<LogFloors> {
        let floors: Vec<LogFloor> =
            self.clusters.iter().filter_map(|cluster| cluster.goes.as_ref()).map(|goes| goes.floor).collect();
        let without = if sabotage::on("floor-without-forgotten") { Vec::new() } else { self.without.clone() };
        (!floors.is_empty()).then_some(LogFloors { floors, soft_seconds: soft.as_secs(), without })
    }
}

impl fmt::Display for WhyLogStays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBase => f.write_str("there is no base backup of it"),
            Self::Unreadable(id) => {
                write!(f, "snapshot {} cannot be read, and what it needs is not known", id.short())
            }
            Self::TwoSizes => f.write_str("its base backups say different lengths of segments"),
        }
    }
}

/// Works out what goes by the base backups that `state` lists.
///
/// # Errors
/// Any failure to read the repository, but for damage: then nothing goes.
pub fn plan_log(repo: &Repo, state: &State, cx: &Cx) -> Result<LogPlan, OpsError> {
    let logs = wal::list(repo)?;
    if logs.is_empty() {
        return Ok(LogPlan::default());
    }
    let known = Known::read(repo, state, cx)?;
    let cluster = |(system, files): (&SystemId, &Vec<StoredWal>)| known.cluster(*system, files, state);
    Ok(LogPlan { clusters: logs.iter().map(cluster).collect(), without: known.forgotten })
}

/// Says in the log of the repository what goes. Gives the plan that was obeyed, and its entry; none if nothing goes.
///
/// # Errors
/// As for [`plan_log`], and any failure to write the log; then nothing goes.
pub fn let_log_go(repo: &Repo, soft: Duration, cx: &Cx) -> Result<(LogPlan, Option<u64>), OpsError> {
    let mut plan = plan_log(repo, &*repo.follow()?, cx)?;
    if plan.is_empty() {
        return Ok((plan, None));
    }
    let n = floor_log::<OpsError>(repo, cx, &mut |state, _| {
        plan = plan_log(repo, state, cx)?;
        Ok(plan.floors(soft))
    })?;
    Ok((plan, n))
}

/// Base backups of all clusters.
#[derive(Default)]
struct Known {
    clusters: BTreeMap<SystemId, KnownCluster>,
    forgotten: Vec<SnapshotId>,
    unreadable: Option<SnapshotId>,
}

#[derive(Default)]
struct KnownCluster {
    bases: Vec<DatedBase>,
    sources: BTreeSet<String>,
    segment_bytes: BTreeSet<u64>,
}

/// A base backup, and when it ended.
#[derive(Clone, Copy, Debug)]
struct DatedBase {
    base: Base,
    moment: Timestamp,
}

impl Known {
    fn read(repo: &Repo, state: &State, cx: &Cx) -> Result<Self, OpsError> {
        let mut known = Self::default();
        for (id, snapshot) in &state.snapshots {
            cx.check()?;
            let manifest = match manifest_of(repo, *id) {
                Err(error) if error.is_damage() => {
                    known.unreadable.get_or_insert(*id);
                    continue;
                }
                manifest => manifest?,
            };
            let Some(manifest) = manifest else { continue };
            let (system, base) = base_of(*id, &manifest)?;
            let cluster = known.clusters.entry(system).or_default();
            cluster.bases.push(DatedBase { base, moment: manifest.stopped });
            cluster.sources.insert(snapshot.snapshot.source.clone());
            cluster.segment_bytes.insert(manifest.segment_size);
        }
        for id in state.forgotten.keys() {
            cx.check()?;
            match repo.snapshot(*id) {
                Ok(snapshot) if snapshot.record.kind != KIND => {}
                // Perhaps it is one, and can perhaps be put back.
                Ok(_) => known.forgotten.push(*id),
                Err(error) if error.is_damage() => known.forgotten.push(*id),
                Err(error) => return Err(RepoError::into(error)),
            }
        }
        Ok(known)
    }

    fn cluster(&self, system: SystemId, files: &[StoredWal], state: &State) -> ClusterLog {
        let mut log = ClusterLog {
            system,
            sources: BTreeSet::new(),
            n_files: files.len() as u64,
            stored_bytes: files.iter().map(|file| file.stored_bytes).sum(),
            goes: None,
            stays: None,
        };
        let Some(known) = self.clusters.get(&system) else {
            log.stays = Some(self.unreadable.map_or(WhyLogStays::NoBase, WhyLogStays::Unreadable));
            return log;
        };
        log.sources.clone_from(&known.sources);
        match (self.unreadable, known.floor(system)) {
            (Some(id), _) => log.stays = Some(WhyLogStays::Unreadable(id)),
            (None, Err(why)) => log.stays = Some(why),
            (None, Ok((floor, recovers_from))) => {
                let goes = |name: WalName| floor.covers(name) && !state.is_floored(system, name);
                let (mut n_files, mut stored_bytes) = (0, 0);
                for file in files.iter().filter(|file| goes(file.name)) {
                    (n_files, stored_bytes) = (n_files + 1, stored_bytes + file.stored_bytes);
                }
                let (timeline, below) = (floor.timeline.get(), floor.below);
                log.goes = (n_files > 0).then_some(GoingLog {
                    timeline,
                    below,
                    recovers_from,
                    n_files,
                    stored_bytes,
                    floor,
                });
            }
        }
        log
    }
}

impl KnownCluster {
    /// The floor, and the moment from which on every one can be reached.
    fn floor(&self, system: SystemId) -> Result<(LogFloor, Timestamp), WhyLogStays> {
        let timeline = self.bases.iter().map(|dated| dated.base.timeline).max().ok_or(WhyLogStays::NoBase)?;
        let first = first_needed(&self.bases).ok_or(WhyLogStays::NoBase)?;
        let mut sizes = self.segment_bytes.iter().filter_map(|bytes| SegmentSize::new(*bytes));
        let (Some(segment_size), None, true) = (sizes.next(), sizes.next(), self.segment_bytes.len() == 1)
        else {
            return Err(WhyLogStays::TwoSizes);
        };
        let mut below = first.base.reads_from();
        if sabotage::on("floor-too-high") {
            below = Lsn(below.0 + segment_size.bytes());
        }
        Ok((LogFloor { system, timeline, below, segment_size }, first.moment))
    }
}

/// The base backup that needs the log from the first place on.
fn first_needed(bases: &[DatedBase]) -> Option<DatedBase> {
    bases.iter().copied().min_by_key(|dated| (dated.base.reads_from(), dated.moment))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hikae_model::Timeline;

    fn base(timeline: u32, stop: u64) -> DatedBase {
        let timeline = Timeline::new(timeline).unwrap();
        let snapshot = SnapshotId::from_bytes([stop as u8; 32]);
        let base = Base { snapshot, timeline, start: Lsn(stop - 10), stop: Lsn(stop), brings_its_log: true };
        DatedBase { base, moment: Timestamp::from_second(stop as i64).unwrap() }
    }

    fn floor(bases: &[DatedBase]) -> Result<(u32, u64), WhyLogStays> {
        let cluster = KnownCluster {
            bases: bases.to_vec(),
            segment_bytes: [16 << 20].into(),
            ..KnownCluster::default()
        };
        cluster.floor(SystemId(7)).map(|(floor, _)| (floor.timeline.get(), floor.below.0))
    }

    #[test]
    fn the_first_place_that_a_base_backup_needs_decides_on_whatever_timeline() {
        assert_eq!(floor(&[base(1, 300), base(1, 200)]), Ok((1, 200)));
        // After a recovery to an earlier place the newest is not the highest.
        assert_eq!(floor(&[base(1, 300), base(2, 250)]), Ok((2, 250)));
        let mut without = base(1, 200);
        without.base.brings_its_log = false;
        assert_eq!(floor(&[base(1, 300), without]), Ok((1, 190)));
        assert_eq!(floor(&[]), Err(WhyLogStays::NoBase));
    }

    #[test]
    fn base_backups_of_two_forms_let_nothing_go() {
        let sizes = |sizes: &[u64]| KnownCluster {
            bases: vec![base(1, 300)],
            segment_bytes: sizes.iter().copied().collect(),
            ..KnownCluster::default()
        };
        for bytes in [&[1 << 20, 16 << 20][..], &[1 << 20, 3], &[3]] {
            assert_eq!(sizes(bytes).floor(SystemId(7)).unwrap_err(), WhyLogStays::TwoSizes);
        }
    }
}
