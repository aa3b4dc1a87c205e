//! A recovery that pauses for a look: what is noted beside the server that stands still, and how it is opened, gone on with
//! or given up afterwards, by whoever comes.
//!
//! ```text
//! PARENT/hikae-.../  data/  socket/  log  spool/  paused.json     found by the directory that it is for
//! ```
//!
//! The server replays no more while nobody feeds it. To open it, or to go on, it is stopped and started again: it replays
//! anew from its last restart point, and what it then comes to is compared with what was looked at.

use super::cluster::KeptCluster;
use super::plan::{RecoveryPlan, log_for, stored_bytes};
use super::recover::{About, Ready, RecoverOptions, Recovered, laps, see_target};
use super::spaces::Spaces;
use super::target::{Setting, Target, Then};
use crate::OpsError;
use crate::restore_cluster::{ClusterPlan, ClusterTarget, Onto, manifest};
use crate::surroundings::Surroundings;
use hikae_model::{Cx, ErrorCode, Lsn, SnapshotId, SystemId, WalName, sabotage};
use hikae_repo::Repo;
use hikae_source::SourceError;
use hikae_source::postgresql::Host;
use hikae_source::postgresql_cluster::{self, Manifest, Place, Recovering};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The version of the note that this release writes and reads.
const FORMAT: u32 = 1;

/// A server that stands still at a point of its cluster's life.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PausedRecovery {
    /// Version of this note.
    format: u32,
    /// The source.
    pub source: String,
    /// What was asked for, in words.
    pub target: String,
    /// The cluster.
    pub system: SystemId,
    /// The base backup from which it began.
    pub snapshot: SnapshotId,
    /// The timeline that it follows.
    pub timeline: u32,
    /// The end of the last record that was replayed.
    pub reached: Lsn,
    /// When the last transaction in it ended; none if there was none after the base backup began.
    pub reached_time: Option<Timestamp>,
    /// The directory of the socket on which it is entered.
    pub socket: PathBuf,
    /// The port that is a part of the socket's name.
    pub port: u16,
    /// Its superuser.
    pub user: String,
    /// Its version, as `15.13`.
    pub server_version: String,
    /// Where the data directory goes once it is opened.
    pub directory: PathBuf,
    /// Where each tablespace is.
    pub tablespaces: BTreeMap<u32, PathBuf>,
    /// Those directories of tablespaces that were there before.
    found: Vec<bool>,
    /// Settings that say how far.
    settings: Vec<Setting>,
    /// Files of the log that the server may ask for.
    log: Vec<WalName>,
    /// Whom its files belong to in the end.
    owner: (u32, u32),
    wal_program: PathBuf,
    program_directory: Option<PathBuf>,
    run_as: Option<String>,
    /// Which start of the machine it was: the server does not sync, so nothing of it counts after the next.
    boot: Option<String>,
    /// Bytes of the base backup.
    pub bytes: u64,
    /// What to know before a server is started on it.
    pub notes: Vec<String>,
}

/// What a recovery did that ended in a pause.
#[derive(Clone, Debug, Serialize)]
pub struct PausedReport {
    /// What stands still now.
    #[serde(flatten)]
    pub paused: PausedRecovery,
    /// Segments that were replayed, besides those in the base backup.
    pub n_segments: usize,
    /// How long each phase took.
    pub phases: Vec<(String, f64)>,
    /// How long it took.
    pub seconds: f64,
}

/// Brings a cluster to what `plan` says, and leaves a server there that stands still and can be read.
///
/// # Errors
/// [`OpsError`]; then there is no server. What was paused for it before stays as it was, without a server.
pub fn pause(
    repo: &Arc<Repo>,
    plan: &RecoveryPlan,
    options: &RecoverOptions,
    around: &Surroundings,
    cx: &Cx,
) -> Result<PausedReport, OpsError> {
    if plan.aim.target == Target::End {
        let what = "nothing stops a server at the end of the log".to_owned();
        let advice = "pause at a time, a place, a transaction or a restore point";
        return Err(OpsError::refused(ErrorCode::Usage, what, Some(advice.into())));
    }
    let began = cx.elapsed();
    let Ready { vacant, mut spaces, about } = Ready::new(repo, plan, options, around, cx)?;
    let settings = plan.aim.settings(Then::Pause);
    let is_right = |place: &Place| see_target(&plan.aim, place);
    let noted = |paused: &postgresql_cluster::Paused, found: &[bool]| PausedRecovery {
        format: FORMAT,
        source: about.source.clone(),
        target: about.target.clone(),
        system: about.system,
        snapshot: about.snapshot,
        timeline: about.timeline,
        reached: paused.place.lsn,
        reached_time: paused.place.time,
        socket: match &paused.connection.host {
            Host::Socket(socket) => socket.clone(),
            Host::Name(_) => PathBuf::new(),
        },
        port: paused.connection.port,
        user: paused.connection.user.clone(),
        server_version: paused.server_version.clone(),
        directory: about.directory.clone(),
        tablespaces: about.tablespaces.clone(),
        found: found.to_owned(),
        settings: settings.clone(),
        log: about.log.clone(),
        owner: paused.owner,
        wal_program: about.options.wal_program.clone(),
        program_directory: about.options.program_directory.clone(),
        run_as: about.options.run_as.clone(),
        boot: boot(),
        bytes: about.bytes,
        notes: about.notes.iter().chain(&paused.notes).cloned().collect(),
    };
    let note = |paused: &postgresql_cluster::Paused| {
        serde_json::to_vec_pretty(&noted(paused, &spaces.found)).map_err(|error| SourceError::Failed {
            code: ErrorCode::Failure,
            what: format!("cannot note what is paused: {error}"),
            advice: None,
        })
    };
    let run = |vacant, recovering: &Recovering<'_>| {
        postgresql_cluster::pause(vacant, recovering, &is_right, &note, cx)
    };
    let (paused, n_segments) = about.while_fed(repo, vacant, &spaces, &settings, run, cx)?;
    spaces.set_kept(true);
    Ok(PausedReport {
        paused: noted(&paused, &spaces.found),
        n_segments,
        phases: about.phases.iter().cloned().chain(laps(&paused.timings)).collect(),
        seconds: (cx.elapsed() - began).as_secs_f64(),
    })
}

/// What is paused, and where it is.
pub struct FoundPaused {
    /// The directory in which its server runs.
    place: PathBuf,
    /// What was noted.
    pub paused: PausedRecovery,
}

impl FoundPaused {
    /// What is paused for the data directory `directory`, if anything is.
    ///
    /// # Errors
    /// [`OpsError`] if it was noted by a newer release.
    pub fn at(directory: &Path) -> Result<Option<Self>, OpsError> {
        /// What every version begins with.
        #[derive(Deserialize)]
        struct Versioned {
            format: u32,
            directory: PathBuf,
        }
        let parent = directory.parent().unwrap_or(Path::new("/"));
        for (place, json) in postgresql_cluster::paused_below(parent) {
            let Ok(Versioned { format, directory: of }) = serde_json::from_slice(&json) else { continue };
            if of != directory {
                continue;
            }
            let what = || format!("what is noted in {} cannot be read", place.display());
            let advice = "use the release of hikae that paused it";
            let refused = || OpsError::refused(ErrorCode::Usage, what(), Some(advice.into()));
            if format != FORMAT {
                return Err(refused());
            }
            let paused = serde_json::from_slice(&json).map_err(|_| refused())?;
            return Ok(Some(Self { place, paused }));
        }
        Ok(None)
    }

    /// The same, where nothing is an error.
    ///
    /// # Errors
    /// [`OpsError::Refused`] if nothing is paused for that directory.
    pub fn find(directory: &Path) -> Result<Self, OpsError> {
        Self::at(directory)?.ok_or_else(|| {
            let what = format!("nothing is paused for {}", directory.display());
            let advice = "give the directory that `hikae restore --pause` was given as --target";
            OpsError::refused(ErrorCode::Usage, what, Some(advice.into()))
        })
    }

    /// Makes `plan` one that goes on from here.
    ///
    /// # Errors
    /// [`OpsError::Refused`] if nothing leads from here to where it goes.
    pub fn lead_on(&self, cluster: &KeptCluster, plan: &mut RecoveryPlan) -> Result<(), OpsError> {
        let PausedRecovery { source, system, timeline, reached, snapshot, directory, .. } = &self.paused;
        let refuse = |what: String| {
            let directory = directory.display();
            let advice = format!(
                "a paused server only goes forward: aim further on, or give it up with `hikae restore --discard {directory}` and recover anew"
            );
            Err(OpsError::refused(ErrorCode::Usage, what, Some(advice.into())))
        };
        let here = format!("what is paused for {}", directory.display());
        if (source, system) != (&plan.source, &plan.system) {
            return refuse(format!("{here} is {source}, of cluster {system}"));
        }
        if *timeline != plan.timeline {
            return refuse(format!(
                "{here} follows timeline {timeline}, and {} is on {}",
                plan.target, plan.timeline
            ));
        }
        let is_behind = match plan.aim.target {
            Target::End => plan.ends_before < *reached,
            Target::Immediate => true,
            Target::Time(_) | Target::Lsn(_) | Target::Xid(_) | Target::Name(_) => {
                plan.ends_before <= *reached
            }
        };
        if is_behind && !sabotage::on("paused-goes-back") {
            return refuse(format!(
                "{here} stands at {reached} already, and {} is not after that",
                plan.target
            ));
        }
        let leads_on = |interval: &&super::window::Interval| {
            interval.timeline.get() == *timeline
                && interval.bases.iter().any(|base| base.snapshot == *snapshot)
                && interval.from <= *reached
                && plan.ends_before <= interval.to
        };
        let found = cluster.window.intervals.iter().find(leads_on);
        let base = found.and_then(|interval| interval.bases.iter().find(|base| base.snapshot == *snapshot));
        let Some((interval, base)) = found.zip(base) else {
            return refuse(format!(
                "no log is kept that leads from {reached}, where it stands, to {}",
                plan.target
            ));
        };
        plan.snapshot = *snapshot;
        plan.base_moment = cluster.moment(base);
        plan.log = log_for(cluster, interval.timeline, base, plan.ends_before);
        plan.log_stored_bytes = stored_bytes(cluster, &plan.log);
        plan.goes_on_from = Some(*reached);
        Ok(())
    }

    /// Where it goes, as a plan of a restore.
    pub(super) fn as_plan(&self, repo: &Repo) -> Result<ClusterPlan, OpsError> {
        let PausedRecovery { snapshot, directory, tablespaces, notes, .. } = self.paused.clone();
        let manifest = manifest(repo, snapshot)?;
        Ok(ClusterPlan { manifest, directory, tablespaces, onto: Onto::Nothing, notes })
    }

    /// For who would recover into its directory without knowing of it.
    pub(super) fn in_the_way(&self) -> OpsError {
        let directory = self.paused.directory.display();
        let what = format!("a recovery is paused for {directory}");
        let advice =
            format!("open it with `hikae restore --promote {directory}`, or give it up with --discard");
        OpsError::refused(ErrorCode::Forbidden, what, Some(advice.into()))
    }

    /// Stops its server, so that another one goes on.
    pub(super) fn take_up(
        self,
        target: String,
        log: Vec<WalName>,
        manifest: Manifest,
        around: &Surroundings,
        cx: &Cx,
    ) -> Result<Ready, OpsError> {
        let Self { place, paused } = self;
        let source = paused.source;
        let of_source = OpsError::of_source(&source);
        if paused.boot != boot() {
            let what = "the machine was restarted since it was paused, and what was not synced may be lost";
            let directory = paused.directory.display();
            let advice = format!("give it up with `hikae restore --discard {directory}`, and recover anew");
            return Err(OpsError::refused(ErrorCode::Forbidden, what.to_owned(), Some(advice.into())));
        }
        let options = RecoverOptions {
            target: ClusterTarget {
                directory: paused.directory.clone(),
                tablespaces: paused.tablespaces.clone(),
                onto: Onto::Nothing,
            },
            wal_program: paused.wal_program,
            program_directory: paused.program_directory,
            run_as: paused.run_as,
        };
        let environment = around.for_postgresql();
        let vacant = postgresql_cluster::take_over(
            &manifest,
            &place,
            &paused.socket,
            &options.server(),
            &environment,
            cx,
        );
        let vacant = vacant.map_err(&of_source)?;
        let spool = place.join("spool");
        std::fs::remove_dir_all(&spool)
            .or_else(|error| if spool.exists() { Err(error) } else { Ok(()) })
            .map_err(|source| of_source(SourceError::Io { verb: "remove", path: spool, source }))?;
        // What lies before that is replayed. A server that takes nothing of what waits for it would have nothing fetched.
        let from = postgresql_cluster::replays_from(&vacant).map_err(&of_source)?;
        let size = hikae_model::SegmentSize::new(manifest.segment_size);
        let is_needed = |name: &WalName| match (name, size) {
            (WalName::Segment(name), Some(size)) => {
                name.start(size).is_none_or(|start| start.0 + size.bytes() > from.0)
            }
            _ => true,
        };
        let spaces = Spaces::left(&paused.tablespaces, &paused.found);
        let about = About {
            source: source.clone(),
            target,
            system: paused.system,
            snapshot: paused.snapshot,
            manifest,
            directory: paused.directory,
            tablespaces: paused.tablespaces,
            timeline: paused.timeline,
            log: log.into_iter().filter(is_needed).collect(),
            options,
            paused: Some(paused.owner),
            bytes: paused.bytes,
            phases: Vec::new(),
            notes: paused.notes,
        };
        Ok(Ready { vacant, spaces, about })
    }

    /// Opens it where it stands, on a new timeline, and puts it in place. The server is shut down when this returns.
    ///
    /// # Errors
    /// [`OpsError`]; then it stays, without a server, and can be opened again.
    pub fn promote(self, repo: &Arc<Repo>, around: &Surroundings, cx: &Cx) -> Result<Recovered, OpsError> {
        let began = cx.elapsed();
        let manifest = manifest(repo, self.paused.snapshot)?;
        let PausedRecovery { directory, reached, target, log, mut settings, .. } = self.paused.clone();
        let is_taken = std::fs::read_dir(&directory).is_ok_and(|mut entries| entries.next().is_some());
        if is_taken {
            let what = format!("{} is not empty any more", directory.display());
            let advice = "move away what stands there";
            return Err(OpsError::refused(ErrorCode::Forbidden, what, Some(advice.into())));
        }
        let set = |settings: &mut Vec<Setting>, name: &str, value: String| {
            settings.retain(|(other, _)| other != name);
            settings.push((name.to_owned(), value));
        };
        set(&mut settings, "recovery_target_action", "promote".to_owned());
        if settings.iter().any(|(name, value)| name == "recovery_target" && !value.is_empty()) {
            // It is consistent from another place on now: a record follows this one, or it had not stood still here.
            set(&mut settings, "recovery_target", String::new());
            set(&mut settings, "recovery_target_lsn", reached.to_string());
            set(&mut settings, "recovery_target_inclusive", "off".to_owned());
        }
        let is_right = |place: &Place| match place.lsn == reached {
            true => Ok(()),
            false => Err(SourceError::Failed {
                code: ErrorCode::VerificationFailed,
                what: format!("the server stood at {reached}, and now came to {}", place.lsn),
                advice: None,
            }),
        };
        self.take_up(target, log, manifest, around, cx)?.open(repo, &settings, &is_right, began, cx)
    }

    /// Stops its server, and removes all of it.
    ///
    /// # Errors
    /// [`OpsError`]: somebody else is at work there, or it cannot be removed.
    pub fn discard(self, cx: &Cx) -> Result<PausedRecovery, OpsError> {
        let Self { place, paused } = self;
        let of_source = OpsError::of_source(&paused.source);
        postgresql_cluster::discard(&place, &paused.socket, cx).map_err(of_source)?;
        Spaces::left(&paused.tablespaces, &paused.found).set_kept(false);
        Ok(paused)
    }
}

/// What the kernel calls this start of the machine.
fn boot() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}
