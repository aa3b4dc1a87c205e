//! The plan of a recovery: from which base, along which timeline, over how much log, to what; or why not.
//!
//! PostgreSQL opens silently at a later place than asked if the target is before the base, and gives up after hours of
//! replay if it is behind the end of the log. Both are found here, before anything is written.

use super::cluster::KeptCluster;
use super::log::{Around, LogPart};
use super::target::{Aim, Course, Target};
use super::window::{Base, Interval};
use crate::OpsError;
use hikae_model::{
    Cx, ErrorCode, Landmark, LandmarkKind, Lsn, SegmentName, SnapshotId, SystemId, Timeline, WalName,
    sabotage,
};
use jiff::Timestamp;
use serde::Serialize;

/// How a cluster is brought back to a point in its life. Made without writing, shown, then obeyed.
#[derive(Clone, Debug, Serialize)]
pub struct RecoveryPlan {
    /// The source.
    pub source: String,
    /// The cluster.
    pub system: SystemId,
    /// What was asked for, in words.
    pub target: String,
    /// The base backup from which it begins.
    pub snapshot: SnapshotId,
    /// When that ended.
    pub base_moment: Timestamp,
    /// The timeline that it follows.
    pub timeline: u32,
    /// The files of the log that the server may ask for, in order.
    pub log: Vec<WalName>,
    /// Their length in the repository.
    pub log_stored_bytes: u64,
    /// The nearest commits on both sides of the target, where it has a time.
    pub around: Around,
    /// The first place that is not replayed, as far as the log tells it beforehand.
    pub ends_before: Lsn,
    /// Where a server stands from which it goes on, instead of from the base backup.
    pub goes_on_from: Option<Lsn>,
    /// What the server is told.
    #[serde(skip)]
    pub aim: Aim,
}

/// Where a recovery goes: from this base to the segment with that place.
struct Route {
    base: Base,
    /// The first place that is not read.
    end: Lsn,
    around: Around,
}

/// Works out how `cluster` is brought to what `aim` says.
///
/// # Errors
/// [`OpsError::Refused`] if it cannot be reached, with what can; any failure to read the repository.
pub fn plan(cluster: &KeptCluster, aim: &Aim, cx: &Cx) -> Result<RecoveryPlan, OpsError> {
    let timeline = timeline_of(cluster, aim.course)?;
    let intervals: Vec<&Interval> =
        cluster.window.intervals.iter().filter(|interval| interval.timeline == timeline).collect();
    let Some(last) = intervals.last() else {
        let what = format!("no base backup of {} leads to timeline {timeline}", cluster.source);
        return Err(refused(what, "take a base backup now; `hikae pg window` shows what can be reached"));
    };
    let route = match &aim.target {
        Target::End => Route { base: last.newest(), end: last.to, around: Around::default() },
        Target::Immediate => {
            let base = last.newest();
            Route { base, end: base.stop, around: Around::default() }
        }
        Target::Lsn(lsn) => to_place(cluster, timeline, *lsn)?,
        Target::Time(time) => to_time(cluster, &intervals, *time, aim.inclusive, cx)?,
        Target::Xid(xid) => {
            let xid = *xid as u32; // the server compares no more of it
            to_landmark(cluster, &intervals, aim, &|kind| *kind == LandmarkKind::Commit(Some(xid)), cx)?
        }
        Target::Name(name) => {
            let name = LandmarkKind::RestorePoint(name.as_str().to_owned());
            to_landmark(cluster, &intervals, aim, &|kind| *kind == name, cx)?
        }
    };
    let Route { base, end, around } = route;
    let log = log_for(cluster, timeline, &base, end);
    Ok(RecoveryPlan {
        source: cluster.source.clone(),
        system: cluster.system,
        target: aim.target.to_string(),
        snapshot: base.snapshot,
        base_moment: cluster.moment(&base),
        timeline: timeline.get(),
        log_stored_bytes: stored_bytes(cluster, &log),
        log,
        around,
        ends_before: end,
        goes_on_from: None,
        aim: Aim { course: Course::Timeline(timeline), ..aim.clone() },
    })
}

/// The files of the log that a server may ask for which begins at `base`, in order.
pub(super) fn log_for(cluster: &KeptCluster, timeline: Timeline, base: &Base, end: Lsn) -> Vec<WalName> {
    // A record may go on in the segment after.
    let end = Lsn(end.0.saturating_add(cluster.archive.size.bytes()));
    let segments = cluster.archive.along(timeline, base.reads_from(), end).into_iter().map(WalName::from);
    // All histories: a server that is promoted takes a number that none of them has.
    let histories = cluster.archive.histories.keys().map(|timeline| WalName::History(*timeline));
    histories.chain(segments).collect()
}

/// Their length in the repository.
pub(super) fn stored_bytes(cluster: &KeptCluster, log: &[WalName]) -> u64 {
    log.iter().map(|name| cluster.stored_bytes(*name)).sum()
}

fn timeline_of(cluster: &KeptCluster, course: Course) -> Result<Timeline, OpsError> {
    let newest_base = cluster.bases.iter().max_by_key(|base| base.stop).map(|base| base.timeline);
    match course {
        Course::Timeline(timeline) => Ok(timeline),
        Course::Current => Ok(newest_base.unwrap_or(Timeline::FIRST)),
        Course::Latest => {
            let reached = cluster.window.intervals.iter().map(|interval| interval.timeline).max();
            Ok(reached.or(newest_base).unwrap_or(Timeline::FIRST))
        }
    }
}

fn to_place(cluster: &KeptCluster, timeline: Timeline, lsn: Lsn) -> Result<Route, OpsError> {
    match cluster.window.base_for(timeline, lsn) {
        Some(base) => Ok(Route { base, end: Lsn(lsn.0.saturating_add(1)), around: Around::default() }),
        None => {
            let intervals = cluster.window.intervals.iter().filter(|interval| interval.timeline == timeline);
            let shown: Vec<_> =
                intervals.map(|interval| format!("{} to {}", interval.from, interval.to)).collect();
            let what = format!("{lsn} cannot be reached on timeline {timeline}");
            Err(refused(what, &format!("what can be reached: {}", shown.join(", "))))
        }
    }
}

/// The last base that ended before `time`, if the log after it goes beyond.
fn to_time(
    cluster: &KeptCluster,
    intervals: &[&Interval],
    time: Timestamp,
    inclusive: bool,
    cx: &Cx,
) -> Result<Route, OpsError> {
    let bases =
        || intervals.iter().flat_map(|interval| interval.bases.iter().map(move |base| (*interval, *base)));
    let before = bases().filter(|(_, base)| cluster.moment(base) < time);
    let Some((interval, base)) = before.max_by_key(|(_, base)| base.stop) else {
        let oldest = bases().map(|(_, base)| cluster.moment(&base)).min();
        let what = format!("{time} is before the oldest base backup of {}", cluster.source);
        let oldest =
            oldest.map(|oldest| format!("it ended at {oldest}: no moment before that can be reached"));
        return Err(refused(what, &oldest.unwrap_or_default()));
    };
    let mut log = LogPart::of(cluster, interval.timeline, base.stop, interval.to);
    // The server stops at the first commit that is no longer wanted: without one it runs into the end of the log.
    let wanted = if inclusive { time } else { time - jiff::SignedDuration::from_micros(1) };
    let around = log.around(wanted, cx)?;
    match &around.after {
        None if sabotage::on("end-of-log-unseen") => Ok(Route { base, end: interval.to, around }),
        Some(after) => Ok(Route { base, end: Lsn(after.at.0 + 1), around }),
        None => {
            let what = format!("the log that is kept of {} does not go to {time}", cluster.source);
            let gap = cluster.window.gaps.iter().find(|gap| {
                gap.first == SegmentName::holding(interval.to, gap.timeline, cluster.archive.size)
            });
            let why = match gap {
                Some(gap) => format!("{} to {} are missing; ", gap.first, gap.last),
                None => String::new(),
            };
            let last = match &around.before {
                Some(before) => format!("the last commit before its end is of {}; ", before.time),
                None => format!("no commit is kept after the base backup of {}; ", cluster.moment(&base)),
            };
            Err(refused(what, &format!("{why}{last}aim at an earlier time, or at the end of the log")))
        }
    }
}

/// The base before the one landmark that is meant.
fn to_landmark(
    cluster: &KeptCluster,
    intervals: &[&Interval],
    aim: &Aim,
    is_it: &dyn Fn(&LandmarkKind) -> bool,
    cx: &Cx,
) -> Result<Route, OpsError> {
    let mut found: Vec<(Base, Landmark)> = Vec::new();
    for interval in intervals {
        let log = LogPart::of(cluster, interval.timeline, interval.from, interval.to);
        for landmark in log.find(is_it, cx)? {
            if let Some(base) = cluster.window.base_for(interval.timeline, landmark.at) {
                found.push((base, landmark));
            }
        }
    }
    match &found[..] {
        [] => {
            let what = format!("{} is not in the log that is kept of {}", aim.target, cluster.source);
            Err(refused(
                what,
                "it must lie after the end of a base backup, with no gap between; aim at a time instead",
            ))
        }
        [(base, landmark)] => {
            let around = Around { before: Some(landmark.clone()), after: None };
            Ok(Route { base: *base, end: Lsn(landmark.at.0 + 1), around })
        }
        several => {
            let places = several.iter().map(|(_, landmark)| format!("{} of {}", landmark.at, landmark.time));
            let what = format!("{} is there {} times", aim.target, several.len());
            Err(refused(
                what,
                &format!("aim at one of these places: {}", places.collect::<Vec<_>>().join(", ")),
            ))
        }
    }
}

fn refused(what: String, advice: &str) -> OpsError {
    OpsError::refused(ErrorCode::Usage, what, Some(advice.to_owned().into()))
}
