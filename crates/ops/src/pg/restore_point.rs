//! A named point before something that may go wrong: made on the server, and waited for until it can be recovered to.
//!
//! `--to-name` goes to the first point of a name, so a name that the kept log has already is refused.

use crate::OpsError;
use crate::pitr::cluster::KeptCluster;
use crate::pitr::plan::{RecoveryPlan, plan};
use crate::pitr::target::{Aim, Course, RestorePoint, Target};
use crate::surroundings::Surroundings;
use hikae_model::{Cx, ErrorCode, SnapshotId, sabotage};
use hikae_repo::Repo;
use hikae_source::postgresql::{Connection, without_password};
use hikae_source::postgresql_cluster::PointMaker;
use jiff::Timestamp;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// How often the repository is looked at for the log.
const PAUSE: Duration = Duration::from_millis(300);

/// How to make a point.
#[derive(Clone, Debug)]
pub struct PointOptions {
    /// The connection of a role that may; without it, the source's own.
    pub admin: Option<String>,
    /// How long to wait for the log.
    pub patience: Duration,
}

/// A point to which a server can be brought back.
#[derive(Clone, Debug, Serialize)]
pub struct PointReport {
    /// The source.
    pub source: String,
    /// Its name.
    pub name: String,
    /// The first place behind it.
    pub lsn: String,
    /// When it was made, by the server's clock.
    pub moment: Timestamp,
    /// Whether the log up to it came in time. Without it the point is made and cannot be reached yet.
    pub kept: bool,
    /// The base backup from which it is reached; the point can be reached for as long as that is kept.
    pub base: Option<SnapshotId>,
    /// When that ended.
    pub base_moment: Option<Timestamp>,
    /// Whether a drill has restored it.
    pub base_verified: bool,
    /// Why the segment was not ended at once, so that it came late.
    pub not_switched: Option<String>,
}

/// Makes a restore point on the server of `source`, which is entered as `own` says, and waits until `repo` has the log up to it.
///
/// # Errors
/// [`OpsError`] if the name is taken, there is no base backup, or the server refuses. A log that does not come in time is
/// none: the point is there.
pub fn make_point(
    repo: &Arc<Repo>,
    source: &str,
    own: &Connection,
    name: &RestorePoint,
    options: &PointOptions,
    around: &Surroundings,
    cx: &Cx,
) -> Result<PointReport, OpsError> {
    let of_source = OpsError::of_source(source);
    let admin = options.admin.as_ref().map(|text| without_password(text, None, &around.for_postgresql()));
    let admin = admin.transpose().map_err(&of_source)?;
    let cluster = KeptCluster::read(repo, source, cx)?;
    let maker = PointMaker::enter(admin.as_ref().unwrap_or(own), &cluster.system.to_string(), cx)
        .map_err(&of_source)?;
    cx.progress().begin("looking for the name in the log of", source, 0);
    see_free(&cluster, name, cx)?;
    let made = maker.make(name.as_str()).map_err(&of_source)?;
    cx.progress().begin("waiting for the log of", source, 0);
    let aim = Aim { target: Target::Lsn(made.lsn), inclusive: true, course: Course::Latest };
    let until = cx.elapsed() + options.patience;
    let reached = loop {
        cx.check()?;
        match to_reach(repo, source, &aim, cx)? {
            Some(plan) => break Some(plan),
            None if cx.elapsed() >= until => break None,
            None => std::thread::sleep(PAUSE),
        }
    };
    let base = reached.as_ref().map(|plan| plan.snapshot);
    let state = repo.follow()?;
    let is_verified = |id| state.snapshots.get(&id).is_some_and(|snapshot| snapshot.is_verified());
    Ok(PointReport {
        source: source.to_owned(),
        name: name.as_str().to_owned(),
        lsn: made.lsn.to_string(),
        moment: made.moment,
        kept: reached.is_some() || sabotage::on("point-kept-unseen"),
        base,
        base_moment: reached.map(|plan| plan.base_moment),
        base_verified: base.is_some_and(is_verified),
        not_switched: made.not_switched,
    })
}

/// How the point is reached by what is kept now; nothing if it is not.
fn to_reach(repo: &Arc<Repo>, source: &str, aim: &Aim, cx: &Cx) -> Result<Option<RecoveryPlan>, OpsError> {
    match plan(&KeptCluster::read(repo, source, cx)?, aim, cx) {
        Ok(plan) => Ok(Some(plan)),
        Err(OpsError::Refused { code: ErrorCode::Usage, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn see_free(cluster: &KeptCluster, name: &RestorePoint, cx: &Cx) -> Result<(), OpsError> {
    let aim = Aim { target: Target::Name(name.clone()), inclusive: true, course: Course::Latest };
    match plan(cluster, &aim, cx) {
        Err(OpsError::Refused { code: ErrorCode::Usage, .. }) => Ok(()),
        Err(error) => Err(error),
        Ok(_) if sabotage::on("point-name-taken-twice") => Ok(()),
        Ok(plan) => {
            let what = format!(
                "there is a restore point `{}` already, before {}, and a recovery would go to that one",
                name.as_str(),
                plan.ends_before
            );
            Err(OpsError::refused(ErrorCode::Usage, what, Some("give another name".into())))
        }
    }
}
