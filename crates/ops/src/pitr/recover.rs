//! Recovery: a base backup is restored beside the place where it goes, a server of our own brings it to the target, and only
//! then it takes its name.
//!
//! ```text
//! plan -> restore the base -> feed the log, replay it, open -> is it what was asked for? -> shut down -> in place
//! ```

use super::feed::{Feeder, Feeding};
use super::plan::RecoveryPlan;
use super::target::{Aim, Target};
use crate::OpsError;
use crate::restore_cluster::{ClusterPlan, ClusterTarget, manifest, plan_cluster, restore_cluster};
use crate::surroundings::Surroundings;
use hikae_model::{Cx, ErrorCode, SnapshotId, sabotage};
use hikae_repo::Repo;
use hikae_repo::wal::WalArchive;
use hikae_source::SourceError;
use hikae_source::postgresql_cluster::{self, DrillOptions, Feed, Reached, Recovering};
use jiff::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    plan_cluster(repo, plan.snapshot, &options.target, cx)
}

/// Brings a cluster to what `plan` says, into a new data directory, and opens it there on a new timeline. The server is
/// shut down when this returns.
///
/// # Errors
/// [`OpsError`]; then there is no directory of that name.
pub fn recover(
    repo: &Arc<Repo>,
    plan: &RecoveryPlan,
    options: &RecoverOptions,
    around: &Surroundings,
    cx: &Cx,
) -> Result<Recovered, OpsError> {
    let began = cx.elapsed();
    let ClusterPlan { directory, tablespaces, notes, .. } = check(repo, plan, options, cx)?;
    let of_source = OpsError::of_source(&plan.source);
    let manifest = manifest(repo, plan.snapshot)?;
    let parent = directory.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(parent)
        .map_err(|source| of_source(SourceError::Io { verb: "make", path: parent.to_owned(), source }))?;
    let server =
        DrillOptions { program_directory: options.program_directory.clone(), run_as: options.run_as.clone() };
    // Beside the target, so that a rename is enough.
    let environment = around.for_postgresql();
    let vacant =
        postgresql_cluster::prepare(&manifest, parent, &server, &environment, cx).map_err(&of_source)?;
    let spaces = Spaces::new(&tablespaces);
    let target = ClusterTarget { directory: vacant.data(), tablespaces: tablespaces.clone() };
    let restored = restore_cluster(repo, plan.snapshot, &target, cx)?;
    if let Some(problem) = restored.problems.first() {
        let what = format!("the base backup did not come back whole: {problem}");
        let advice = "run `hikae verify` for the extent, then `hikae repo repair`";
        return Err(OpsError::refused(ErrorCode::VerificationFailed, what, Some(advice.into())));
    }
    let mut phases = vec![("restore the base backup".to_owned(), restored.seconds)];

    let archive = WalArchive::of(repo);
    let feeding = Feeding { archive: &archive, system: plan.system, names: &plan.log, owner: vacant.owner() };
    let feeder = Feeder::new(feeding, vacant.directory().join("spool")).map_err(&of_source)?;
    let spool = feeder.spool().to_owned();
    let aim = Aim {
        inclusive: plan.aim.inclusive || sabotage::on("exclusive-ignored") || sabotage::on("stop-unseen"),
        ..plan.aim.clone()
    };
    let recovering = Recovering {
        manifest: &manifest,
        settings: &aim.settings(),
        feed: Feed { program: &options.wal_program, spool: &spool },
        tablespaces: &spaces.places,
        directory: &directory,
    };
    let is_right = |reached: &Reached| see_target(&plan.aim, reached);
    let recover = || postgresql_cluster::recover(vacant, &recovering, &is_right, cx).map_err(&of_source);
    let (reached, n_segments) = feeder.while_feeding(recover, cx)?;
    spaces.keep();
    let lap = |lap: &hikae_source::postgresql::PhaseTime| (lap.phase.clone(), lap.milliseconds as f64 / 1e3);
    phases.extend(reached.timings.iter().map(lap));
    Ok(Recovered {
        source: plan.source.clone(),
        target: plan.target.clone(),
        snapshot: plan.snapshot,
        directory,
        tablespaces,
        timeline: plan.timeline,
        new_timeline: reached.timeline.get(),
        reached: reached.lsn.to_string(),
        reached_time: reached.time,
        n_segments,
        bytes: restored.bytes,
        server_version: reached.server_version,
        phases,
        seconds: (cx.elapsed() - began).as_secs_f64(),
        notes: notes.into_iter().chain(reached.notes).collect(),
    })
}

/// Sees that the server stopped where it was told to. It says nothing of a target that it passed before it began.
fn see_target(aim: &Aim, reached: &Reached) -> Result<(), SourceError> {
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

/// Where tablespaces are restored. What stands there goes again if the recovery fails.
struct Spaces {
    places: Vec<PathBuf>,
    /// Those that were there before, and empty.
    found: Vec<bool>,
    kept: bool,
}

impl Spaces {
    fn new(tablespaces: &BTreeMap<u32, PathBuf>) -> Self {
        let places: Vec<PathBuf> = tablespaces.values().cloned().collect();
        Self { found: places.iter().map(|place| place.exists()).collect(), places, kept: false }
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Spaces {
    fn drop(&mut self) {
        for (place, was_found) in self.places.iter().zip(&self.found).filter(|_| !self.kept) {
            // What cannot be removed takes room and does no harm: no data directory leads there.
            match was_found {
                false => drop(std::fs::remove_dir_all(place)),
                true => {
                    let entries = std::fs::read_dir(place).into_iter().flatten().flatten();
                    entries.for_each(|entry| drop(std::fs::remove_dir_all(entry.path())));
                }
            }
            if let Some(above) = place.parent().filter(|_| !was_found) {
                drop(std::fs::remove_dir(above)); // if it is empty
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pitr::target::Course;
    use hikae_model::{Lsn, Timeline};

    /// What the server says of itself is not taken on trust.
    #[test]
    fn a_server_that_went_too_far_is_found_out() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let reached = |lsn, time: Option<&str>| Reached {
            lsn: Lsn(lsn),
            time: time.map(at),
            timeline: Timeline::FIRST,
            server_version: String::new(),
            timings: Vec::new(),
            notes: Vec::new(),
        };
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
