//! A moment for a drill: drawn by chance from the log that leads on from a base backup.

use super::cluster::KeptCluster;
use super::log::LogPart;
use super::plan::{RecoveryPlan, plan};
use super::target::{Aim, Course, Target};
use crate::OpsError;
use hikae_model::{Cx, SnapshotId};

/// The plan of a recovery from `snapshot` to a commit after it; nothing if the log that is kept has none that can be aimed
/// at, or a newer base backup is nearer to all of them.
///
/// # Errors
/// Any failure to read the repository.
pub fn plan_to_a_moment(
    cluster: &KeptCluster,
    snapshot: SnapshotId,
    cx: &Cx,
) -> Result<Option<RecoveryPlan>, OpsError> {
    let holds = |bases: &[super::window::Base]| bases.iter().position(|base| base.snapshot == snapshot);
    let found =
        cluster.window.intervals.iter().find_map(|interval| Some((interval, holds(&interval.bases)?)));
    let Some((interval, n)) = found else { return Ok(None) };
    let base = interval.bases[n];
    let to = interval.bases.get(n + 1).map_or(interval.to, |next| next.stop.min(interval.to));
    let mut log = LogPart::of(cluster, interval.timeline, base.stop, to);
    let Some(commit) = log.draw(cx)?.filter(|commit| base.stop <= commit.at) else { return Ok(None) };
    let aim = Aim {
        target: Target::Time(commit.time),
        inclusive: true,
        course: Course::Timeline(interval.timeline),
    };
    match plan(cluster, &aim, cx) {
        Ok(plan) => Ok(Some(plan).filter(|plan| plan.snapshot == snapshot)),
        // After the last one nothing stops the server.
        Err(OpsError::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
