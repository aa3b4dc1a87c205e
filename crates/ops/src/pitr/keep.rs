//! What of the archived log is still needed, and so what a prune lets go.
//!
//! - A base backup needs the log from where it is consistent, to be recovered onward; one that does not bring its own log,
//!   from where it began. Below the first place that any of them needs nobody needs anything, on any timeline that they
//!   know: a timeline begins where another stood.
//! - On a timeline later than those of all base backups a cluster may be at work that came back to an earlier place. Of such
//!   nothing goes before it has a base backup.
//! - A configuration may keep log for less long than base backups: then those count that are younger, and the newest that is
//!   older, from which the first of them is reached. Older ones can be restored as they are.
//! - Only base backups that are listed count. The entry names those that are forgotten, and nothing goes while one of them
//!   can be brought back.
//! - Where a cluster has no base backup, where one cannot be read, where they are not of one form: nothing goes.

use super::cluster::{base_of, manifest_of};
use super::window::Base;
use crate::OpsError;
use crate::config::Config;
use hikae_model::{Cx, Lsn, SegmentSize, SnapshotId, SystemId, Timeline, WalName, sabotage};
use hikae_repo::log::LogFloors;
use hikae_repo::prune::floor_log;
use hikae_repo::state::State;
use hikae_repo::wal::{self, LogFloor, StoredWal};
use hikae_repo::{Repo, RepoError};
use hikae_source::postgresql_cluster::KIND;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// How long the archived log is kept of the clusters of sources, by name of the source.
#[derive(Clone, Debug, Default)]
pub struct KeepLog(BTreeMap<String, SignedDuration>);

impl KeepLog {
    /// What the jobs say that back up into this repository of the configuration. The longest counts.
    pub fn of_config(config: &Config, repository: &str) -> Self {
        let mut keep: BTreeMap<String, SignedDuration> = BTreeMap::new();
        for (name, job) in config.jobs_into(Some(repository)) {
            let Some(length) = job.keep_log else { continue };
            for source in config.sources_of(Some(name)).unwrap_or_default() {
                let kept = keep.entry(source.to_owned()).or_insert(length);
                *kept = length.max(*kept);
            }
        }
        Self(keep)
    }

    /// The moment before which the log of a cluster of these sources need not lead, if each of them has one.
    fn until(&self, sources: &BTreeSet<String>, now: Timestamp) -> Option<Timestamp> {
        let lengths: Option<Vec<SignedDuration>> =
            sources.iter().map(|source| self.0.get(source).copied()).collect();
        now.checked_sub(lengths?.into_iter().max()?).ok()
    }
}

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
    /// Older base backups that stay, and can then be restored to their own moments only.
    pub n_alone: usize,
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
pub fn plan_log(
    repo: &Repo,
    state: &State,
    keep: &KeepLog,
    now: Timestamp,
    cx: &Cx,
) -> Result<LogPlan, OpsError> {
    let logs = wal::list(repo)?;
    if logs.is_empty() {
        return Ok(LogPlan::default());
    }
    let known = Known::read(repo, state, cx)?;
    let cluster =
        |(system, files): (&SystemId, &Vec<StoredWal>)| known.cluster(*system, files, state, keep, now);
    Ok(LogPlan { clusters: logs.iter().map(cluster).collect(), without: known.forgotten })
}

/// Says in the log of the repository what goes. Gives the plan that was obeyed, and its entry; none if nothing goes.
///
/// # Errors
/// As for [`plan_log`], and any failure to write the log; then nothing goes.
pub fn let_log_go(
    repo: &Repo,
    soft: Duration,
    keep: &KeepLog,
    cx: &Cx,
) -> Result<(LogPlan, Option<u64>), OpsError> {
    let mut plan = plan_log(repo, &*repo.follow()?, keep, cx.now(), cx)?;
    if plan.is_empty() {
        return Ok((plan, None));
    }
    let n = floor_log::<OpsError>(repo, cx, &mut |state, now| {
        plan = plan_log(repo, state, keep, now, cx)?;
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

#[derive(Debug, Default)]
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

    fn cluster(
        &self,
        system: SystemId,
        files: &[StoredWal],
        state: &State,
        keep: &KeepLog,
        now: Timestamp,
    ) -> ClusterLog {
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
        let newest = files.iter().map(|file| file.name.timeline()).max();
        let until = keep.until(&known.sources, now);
        match (self.unreadable, known.floor(system, newest, until)) {
            (Some(id), _) => log.stays = Some(WhyLogStays::Unreadable(id)),
            (None, Err(why)) => log.stays = Some(why),
            (None, Ok((floor, recovers_from))) => {
                let goes = |name: WalName| floor.covers(name) && !state.is_floored(system, name);
                let (mut n_files, mut stored_bytes) = (0, 0);
                for file in files.iter().filter(|file| goes(file.name)) {
                    (n_files, stored_bytes) = (n_files + 1, stored_bytes + file.stored_bytes);
                }
                let (timeline, below) = (floor.timeline.get(), floor.below);
                let alone = known.bases.iter().filter(|dated| dated.base.reads_from() < below);
                log.goes = (n_files > 0).then_some(GoingLog {
                    timeline,
                    below,
                    recovers_from,
                    n_alone: alone.count(),
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
    /// The floor, and the moment of the base backup that decides. `newest` is the last timeline of which log is kept, and
    /// log from before `until` need not be.
    fn floor(
        &self,
        system: SystemId,
        newest: Option<Timeline>,
        until: Option<Timestamp>,
    ) -> Result<(LogFloor, Timestamp), WhyLogStays> {
        let timeline = self.bases.iter().map(|dated| dated.base.timeline).max().ok_or(WhyLogStays::NoBase)?;
        let needed = needed(&self.bases, newest.max(Some(timeline)), until);
        // The one that needs the log from the first place on.
        let first =
            needed.min_by_key(|dated| (dated.base.reads_from(), dated.moment)).ok_or(WhyLogStays::NoBase)?;
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

/// The base backups that are to lead on. Before one of the newest timeline is old enough, that is all of them: the log since
/// `until` may be reached from any.
fn needed(
    bases: &[DatedBase],
    newest: Option<Timeline>,
    until: Option<Timestamp>,
) -> impl Iterator<Item = &DatedBase> {
    let is_old = move |dated: &&DatedBase| until.is_some_and(|until| dated.moment <= until);
    let old = bases.iter().filter(is_old).filter(|dated| Some(dated.base.timeline) == newest);
    let first = old.map(|dated| dated.moment).max();
    // One that does not bring its log is nothing without it.
    bases
        .iter()
        .filter(move |dated| first.is_none_or(|first| dated.moment >= first) || !dated.base.brings_its_log)
}

#[cfg(test)]
mod tests {
    use super::super::window::{Archive, Window};
    use super::*;
    use hikae_model::{SegmentName, TimelineHistory};
    use hikae_testkit::{Seed, TestRandom};

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
        let floor = cluster.floor(SystemId(7), None, None);
        floor.map(|(floor, _)| (floor.timeline.get(), floor.below.0))
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
            assert_eq!(sizes(bytes).floor(SystemId(7), None, None).unwrap_err(), WhyLogStays::TwoSizes);
        }
    }

    /// Moments are the places.
    #[test]
    fn log_that_is_kept_for_a_time_leads_from_the_base_backup_before_it() {
        let below = |bases: &[DatedBase], newest: u32, until: i64| {
            let (newest, until) = (Timeline::new(newest), Timestamp::from_second(until).ok());
            needed(bases, newest, until).map(|dated| dated.base.reads_from().0).min().unwrap()
        };
        let one_line = [base(1, 100), base(1, 200), base(1, 300)];
        for (until, first) in
            [(99, 100), (100, 100), (199, 100), (200, 200), (299, 200), (300, 300), (400, 300)]
        {
            assert_eq!(below(&one_line, 1, until), first, "until {until}");
        }
        let mut without = one_line;
        without[0].base.brings_its_log = false;
        assert_eq!(below(&without, 1, 400), 90);
        // Between the promotion and the first base backup after it every older one may be the way.
        assert_eq!(below(&one_line, 2, 400), 100);
        let mut promoted = one_line.to_vec();
        promoted.push(DatedBase { moment: Timestamp::from_second(350).unwrap(), ..base(2, 250) });
        assert_eq!((below(&promoted, 2, 349), below(&promoted, 2, 350)), (100, 250));
    }

    #[test]
    fn the_longest_time_that_any_job_keeps_log_counts_and_every_source_must_say_one() {
        let text = "[repository.m]\nstore = '/m'\n[repository.n]\nstore = '/n'\n\
            [source.a]\nkind = 'sqlite'\npath = '/a'\n[source.b]\nkind = 'sqlite'\npath = '/b'\n\
            [job.x]\nsources = ['a']\nrepository = 'm'\nkeep_log = '2d'\n\
            [job.y]\nsources = ['a', 'b']\nrepository = 'm'\nkeep_log = '7d'\n\
            [job.z]\nsources = ['a']\nrepository = 'n'\nkeep_log = '30d'\n";
        let config = crate::config::parse(text, None).unwrap();
        let now: Timestamp = "2026-11-20T00:00:00Z".parse().unwrap();
        let until = |repository, sources: &[&str]| {
            let sources = sources.iter().map(|source| (*source).to_owned()).collect();
            let until = KeepLog::of_config(&config, repository).until(&sources, now);
            until.map(|until| now.duration_since(until).as_hours() / 24)
        };
        assert_eq!(until("m", &["a"]), Some(7));
        assert_eq!(until("m", &["a", "b"]), Some(7));
        assert_eq!((until("n", &["a"]), until("n", &["a", "b"])), (Some(30), None));
    }

    /// Keeps BC-24. Of a cluster with two timelines, with gaps: what could be reached from a base backup that is to lead on can
    /// be reached from it after the log has gone, and what has gone is no gap.
    #[test]
    fn log_that_goes_by_random_schedules_changes_nothing_that_is_to_be_reached() {
        const SIZE: u64 = 1 << 20;
        let size = SegmentSize::new(SIZE).unwrap();
        let line = |number: u64| Timeline::new(1 + number as u32).unwrap();
        let segment = |line, number: u64| SegmentName::holding(Lsn(number * SIZE), line, size);
        let random = TestRandom::new(Seed::draw());
        let mut n_gone = 0;
        for _ in 0..1000 {
            let fork = 5 + random.below(25);
            let history = format!("1\t{}\tpromoted\n", Lsn(fork * SIZE + random.below(SIZE)));
            let history = TimelineHistory::parse(line(1), history.as_bytes()).unwrap();
            let written = (0..40).flat_map(|number| [(0, number), (1, number)]);
            let written =
                written.filter(|(on, number)| if *on == 0 { *number <= fork + 4 } else { *number >= fork });
            let segments =
                written.filter(|_| random.below(20) > 0).map(|(on, number)| segment(line(on), number));
            let mut archive = Archive {
                size,
                segments: segments.collect(),
                begun: BTreeMap::new(),
                histories: [(line(1), history)].into(),
                floors: Vec::new(),
            };
            let bases = (0..1 + random.below(4)).map(|n| {
                let number = random.below(40);
                let on = u64::from(number > fork);
                // A little later on the second line, which came after.
                let moment = Timestamp::from_second((number + 40 * on) as i64).unwrap();
                let stop = Lsn(number * SIZE + 1040);
                let (start, snapshot) = (Lsn(stop.0.saturating_sub(random.below(3 * SIZE))), [n as u8; 32]);
                let brings_its_log = random.below(3) > 0;
                let snapshot = SnapshotId::from_bytes(snapshot);
                DatedBase { base: Base { snapshot, timeline: line(on), start, stop, brings_its_log }, moment }
            });
            let known = KnownCluster {
                bases: bases.collect(),
                segment_bytes: [SIZE].into(),
                ..KnownCluster::default()
            };
            let newest = archive.segments.iter().map(|segment| segment.timeline).max();
            let until =
                (random.below(2) == 0).then(|| Timestamp::from_second(random.below(80) as i64).unwrap());
            let (floor, _) = known.floor(SystemId(7), newest, until).unwrap();
            let all: Vec<Base> = known.bases.iter().map(|dated| dated.base).collect();
            let to_lead: Vec<Base> = needed(&known.bases, newest.max(Some(floor.timeline)), until)
                .map(|dated| dated.base)
                .collect();
            assert!(until.is_some() || to_lead.len() == all.len());

            let before = Window::of(&all, &archive);
            n_gone += archive.segments.iter().filter(|name| floor.covers((**name).into())).count();
            archive.segments.retain(|name| !floor.covers((*name).into()));
            archive.floors.push(floor);
            let after = Window::of(&all, &archive);
            for on in [line(0), line(1)] {
                for at in 0..82 {
                    let target = Lsn(at * SIZE / 2 + 4096);
                    let wanted = before.base_for(on, target).filter(|base| to_lead.contains(base));
                    let found = after.base_for(on, target);
                    assert!(
                        wanted.is_none() || found == wanted,
                        "{target} along {on}: {found:?}, not {wanted:?}, of {known:?}"
                    );
                }
            }
            let told = |window: &Window| window.gaps.iter().map(|gap| gap.last).collect::<BTreeSet<_>>();
            assert!(told(&after).is_subset(&told(&before)), "{:?} of {:?}", after.gaps, before.gaps);
            assert!(after.gaps.iter().all(|gap| !archive.is_floored(gap.first)), "{:?}", after.gaps);
        }
        assert!(n_gone > 1000, "hardly anything went: the test tests nothing");
    }
}
