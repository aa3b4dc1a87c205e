//! Recovery: a base backup is restored beside the place where it goes, a server of our own brings it to the target, and only
//! then it takes its name.
//!
//! ```text
//! plan -> restore the base -> feed the log, replay it, open -> is it what was asked for? -> shut down -> in place
//! ```

use super::feed::{Feeder, Feeding};
use super::paused::FoundPaused;
use super::plan::RecoveryPlan;
use super::spaces::Spaces;
use super::target::{Aim, Setting, Target, Then};
use crate::OpsError;
use crate::restore_cluster::{ClusterPlan, ClusterTarget, plan_cluster, restore_cluster};
use crate::surroundings::Surroundings;
use hikae_model::{Cx, ErrorCode, SnapshotId, SystemId, WalName, sabotage};
use hikae_repo::Repo;
use hikae_repo::wal::WalArchive;
use hikae_source::SourceError;
use hikae_source::postgresql::{PhaseTime, Vacant};
use hikae_source::postgresql_cluster::{self, DrillOptions, Feed, Manifest, Place, Recovering};
use jiff::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How a recovery is done, besides how far it goes.
#[derive(Clone, Debug)]
pub struct RecoverOptions {
    /// Where to.
    pub target: ClusterTarget,
    /// The program `hikae-wal`, which the server runs for each file of its log.
    pub wal_program: PathBuf,
    /// Where PostgreSQL's programs are, if not in one of the usual places.
    pub program_directory: Option<PathBuf>,
    /// As which user the server runs if we are root.
    pub run_as: Option<String>,
}

impl RecoverOptions {
    pub(super) fn server(&self) -> DrillOptions {
        DrillOptions { program_directory: self.program_directory.clone(), run_as: self.run_as.clone() }
    }
}

/// What a recovery did.
#[derive(Clone, Debug, Serialize)]
pub struct Recovered {
    /// The source.
    pub source: String,
    /// What was asked for, in words.
    pub target: String,
    /// The base backup from which it began.
    pub snapshot: SnapshotId,
    /// Its data directory.
    pub directory: PathBuf,
    /// Where each tablespace is.
    pub tablespaces: BTreeMap<u32, PathBuf>,
    /// The timeline that was followed.
    pub timeline: u32,
    /// The timeline that begins where it ended.
    pub new_timeline: u32,
    /// The end of the last record that was replayed.
    pub reached: String,
    /// When the last transaction in it ended; none if there was none after the base backup began.
    pub reached_time: Option<Timestamp>,
    /// Segments that were replayed, besides those in the base backup.
    pub n_segments: usize,
    /// Bytes of the base backup.
    pub bytes: u64,
    /// The server that did it, as `15.13`.
    pub server_version: String,
    /// How long each phase took.
    pub phases: Vec<(String, f64)>,
    /// How long it took.
    pub seconds: f64,
    /// What to know before a server is started on it.
    pub notes: Vec<String>,
}

/// Looks whether `plan` can be carried out as `options` say. Nothing is written.
///
/// # Errors
/// [`OpsError`]: what the recovery would be refused for.
pub fn check(
    repo: &Repo,
    plan: &RecoveryPlan,
    options: &RecoverOptions,
    cx: &Cx,
) -> Result<ClusterPlan, OpsError> {
    if !options.wal_program.is_file() {
        let what =
            format!("{} is not there, and a server takes its log with it", options.wal_program.display());
        let advice = "install hikae-wal beside hikae: both come with every release";
        return Err(OpsError::refused(ErrorCode::Usage, what, Some(advice.into())));
    }
    match (FoundPaused::at(&options.target.directory)?, plan.goes_on_from) {
        (None, _) => plan_cluster(repo, plan.snapshot, &options.target, cx),
        (Some(found), Some(_)) => found.as_plan(repo),
        // The plan was made before it was paused.
        (Some(found), None) => Err(found.in_the_way()),
    }
}

/// Brings a cluster to what `plan` says, into a new data directory, and opens it there on a new timeline. The server is
/// shut down when this returns.
///
/// # Errors
/// [`OpsError`]; then there is no directory of that name. What was paused for it before stays as it was, without a server.
pub fn recover(
    repo: &Arc<Repo>,
    plan: &RecoveryPlan,
    options: &RecoverOptions,
    around: &Surroundings,
    cx: &Cx,
) -> Result<Recovered, OpsError> {
    let aim = Aim {
        inclusive: plan.aim.inclusive || sabotage::on("exclusive-ignored") || sabotage::on("stop-unseen"),
        ..plan.aim.clone()
    };
    let is_right = |place: &Place| see_target(&plan.aim, place);
    let began = cx.elapsed();
    Ready::new(repo, plan, options, around, cx)?.open(
        repo,
        &aim.settings(Then::Promote),
        &is_right,
        began,
        cx,
    )
}

/// What was restored for a recovery, or was paused in the middle of one, before a server is started on it.
pub(super) struct Ready {
    pub(super) vacant: Vacant,
    pub(super) spaces: Spaces,
    pub(super) about: About,
}

/// What is to be known of a recovery besides how far it goes.
pub(super) struct About {
    pub(super) source: String,
    pub(super) target: String,
    pub(super) system: SystemId,
    pub(super) snapshot: SnapshotId,
    pub(super) manifest: Manifest,
    pub(super) directory: PathBuf,
    pub(super) tablespaces: BTreeMap<u32, PathBuf>,
    pub(super) timeline: u32,
    /// The files of the log that the server may ask for.
    pub(super) log: Vec<WalName>,
    pub(super) options: RecoverOptions,
    /// Whom the files belonged to, if it was paused.
    pub(super) paused: Option<(u32, u32)>,
    pub(super) bytes: u64,
    pub(super) phases: Vec<(String, f64)>,
    pub(super) notes: Vec<String>,
}

impl Ready {
    /// Restores the base backup of `plan`, or takes up what is paused for the same directory.
    pub(super) fn new(
        repo: &Arc<Repo>,
        plan: &RecoveryPlan,
        options: &RecoverOptions,
        around: &Surroundings,
        cx: &Cx,
    ) -> Result<Self, OpsError> {
        let ClusterPlan { directory, tablespaces, notes, manifest, .. } = check(repo, plan, options, cx)?;
        if let Some(found) = FoundPaused::at(&directory)? {
            return found.take_up(plan.target.clone(), plan.log.clone(), manifest, around, cx);
        }
        let of_source = OpsError::of_source(&plan.source);
        let parent = directory.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(parent)
            .map_err(|source| of_source(SourceError::Io { verb: "make", path: parent.to_owned(), source }))?;
        // Beside the target, so that a rename is enough.
        let environment = around.for_postgresql();
        let vacant = postgresql_cluster::prepare(&manifest, parent, &options.server(), &environment, cx)
            .map_err(&of_source)?;
        let spaces = Spaces::new(&tablespaces);
        let target = ClusterTarget {
            directory: vacant.data(),
            tablespaces: tablespaces.clone(),
            ..ClusterTarget::default()
        };
        let restored = restore_cluster(repo, plan.snapshot, &target, cx)?;
        if let Some(problem) = restored.problems.first() {
            let what = format!("the base backup did not come back whole: {problem}");
            let advice = "run `hikae verify` for the extent, then `hikae repo repair`";
            return Err(OpsError::refused(ErrorCode::VerificationFailed, what, Some(advice.into())));
        }
        let about = About {
            source: plan.source.clone(),
            target: plan.target.clone(),
            system: plan.system,
            snapshot: plan.snapshot,
            manifest,
            directory,
            tablespaces,
            timeline: plan.timeline,
            log: plan.log.clone(),
            options: options.clone(),
            paused: None,
            bytes: restored.bytes,
            phases: vec![("restore the base backup".to_owned(), restored.seconds)],
            notes,
        };
        Ok(Self { vacant, spaces, about })
    }

    /// Has a server replay up to where `settings` say, open there, and shut down, and puts it in place.
    pub(super) fn open(
        self,
        repo: &Arc<Repo>,
        settings: &[Setting],
        is_right: &dyn Fn(&Place) -> Result<(), SourceError>,
        began: Duration,
        cx: &Cx,
    ) -> Result<Recovered, OpsError> {
        let Self { vacant, mut spaces, about } = self;
        let run = |vacant, recovering: &Recovering<'_>| {
            postgresql_cluster::recover(vacant, recovering, is_right, cx)
        };
        let (reached, n_segments) = about.while_fed(repo, vacant, &spaces, settings, run, cx)?;
        spaces.set_kept(true);
        Ok(Recovered {
            source: about.source,
            target: about.target,
            snapshot: about.snapshot,
            directory: about.directory,
            tablespaces: about.tablespaces,
            timeline: about.timeline,
            new_timeline: reached.timeline.get(),
            reached: reached.place.lsn.to_string(),
            reached_time: reached.place.time,
            n_segments,
            bytes: about.bytes,
            server_version: reached.server_version,
            phases: about.phases.into_iter().chain(laps(&reached.timings)).collect(),
            seconds: (cx.elapsed() - began).as_secs_f64(),
            notes: about.notes.into_iter().chain(reached.notes).collect(),
        })
    }
}

impl About {
    /// Feeds the server that `run` starts. Gives what that gave, and how many segments it took.
    pub(super) fn while_fed<T>(
        &self,
        repo: &Arc<Repo>,
        vacant: Vacant,
        spaces: &Spaces,
        settings: &[Setting],
        run: impl FnOnce(Vacant, &Recovering<'_>) -> Result<T, SourceError>,
        cx: &Cx,
    ) -> Result<(T, usize), OpsError> {
        let of_source = OpsError::of_source(&self.source);
        let archive = WalArchive::of(repo);
        let feeding =
            Feeding { archive: &archive, system: self.system, names: &self.log, owner: vacant.owner() };
        let feeder = Feeder::new(feeding, vacant.directory().join("spool")).map_err(&of_source)?;
        let spool = feeder.spool().to_owned();
        let recovering = Recovering {
            manifest: &self.manifest,
            settings,
            feed: Feed { program: &self.options.wal_program, spool: &spool },
            tablespaces: &spaces.places,
            directory: &self.directory,
            paused: self.paused,
        };
        feeder.while_feeding(|| run(vacant, &recovering).map_err(&of_source), cx)
    }
}

/// How long phases took, in seconds.
pub(super) fn laps(timings: &[PhaseTime]) -> impl Iterator<Item = (String, f64)> {
    timings.iter().map(|lap| (lap.phase.clone(), lap.milliseconds as f64 / 1e3))
}

/// Sees that the server stopped where it was told to. It says nothing of a target that it passed before it began.
pub(super) fn see_target(aim: &Aim, reached: &Place) -> Result<(), SourceError> {
    let went_wrong = match (&aim.target, aim.inclusive) {
        (Target::Time(wanted), true) => reached.time.is_some_and(|time| time > *wanted),
        (Target::Time(wanted), false) => reached.time.is_some_and(|time| time >= *wanted),
        (Target::Lsn(wanted), true) => reached.lsn <= *wanted,
        // A record in whose middle the place is was begun before it.
        (Target::Lsn(_), false) => false,
        (Target::End | Target::Immediate | Target::Xid(_) | Target::Name(_), _) => false,
    };
    match went_wrong && !sabotage::on("stop-unseen") {
        false => Ok(()),
        true => {
            let time = reached.time.map_or(String::new(), |time| format!(", of {time}"));
            let what =
                format!("the server was to recover to {}, and came to {}{time}", aim.target, reached.lsn);
            Err(SourceError::Failed { code: ErrorCode::VerificationFailed, what, advice: None })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pitr::target::Course;
    use hikae_model::Lsn;

    /// What the server says of itself is not taken on trust.
    #[test]
    fn a_server_that_went_too_far_is_found_out() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let reached = |lsn, time: Option<&str>| Place { lsn: Lsn(lsn), time: time.map(at) };
        let noon = "2026-11-20T12:00:00Z";
        let time = Target::Time(at(noon));
        for (target, inclusive, reached, right) in [
            (&time, true, reached(100, Some(noon)), true),
            (&time, true, reached(100, Some("2026-11-20T12:00:00.000001Z")), false),
            (&time, false, reached(100, Some(noon)), false),
            (&time, false, reached(100, Some("2026-11-20T11:59:59.999999Z")), true),
            (&time, true, reached(100, None), true),
            (&Target::Lsn(Lsn(100)), true, reached(100, None), false),
            (&Target::Lsn(Lsn(100)), true, reached(124, None), true),
            (&Target::Lsn(Lsn(100)), false, reached(100, None), true),
        ] {
            let aim = Aim { target: target.clone(), inclusive, course: Course::Latest };
            assert_eq!(see_target(&aim, &reached).is_ok(), right, "{aim:?} {reached:?}");
        }
    }
}
