//! Drill: a real restore into a scratch place, compared exactly, timed, and kept as signed evidence.
//!
//! Files are restored and read again; a SQLite database is put back and every row compared with the
//! manifest; a PostgreSQL database comes up in a server of its own that nothing else can reach, and so does a whole
//! cluster, from its files and its log: if that is kept beyond the backup, at a moment that is drawn by chance. The scratch
//! place is gone afterwards. A drill that compared nothing has not passed, and one that met damage has failed: it
//! leaves evidence of that too, or the snapshot would go on to be shown as proved by an older one. Only what says
//! nothing of the snapshot (no room, no server programs, no rights) is a drill that was not done.

use crate::OpsError;
use crate::compare::{Exactness, compare};
use crate::forward::{Shows, with_database};
use crate::pitr::cluster::KeptCluster;
use crate::pitr::moment::plan_to_a_moment;
use crate::pitr::plan::RecoveryPlan;
use crate::pitr::recover::{RecoverOptions, recover};
use crate::restore::restore_files;
use crate::restore_cluster::{ClusterTarget, manifest, restore_cluster};
use crate::scratch::Scratch;
use crate::stored::StoredSnapshot;
use crate::surroundings::Surroundings;
use crate::with_causes;
use hikae_model::{Advise as _, Cx, ErrorCode, EvidenceId, Landmark, Outcome, Problem, SnapshotId, sabotage};
use hikae_repo::evidence::{CheckRecord, EvidenceRecord, PhaseRecord, put_evidence};
use hikae_repo::snapshot::SnapshotRecord;
use hikae_repo::state::SnapshotState;
use hikae_repo::{RELEASE, Repo};
use hikae_source::check::Check;
use hikae_source::files::Target;
use hikae_source::postgresql::differential;
use hikae_source::postgresql_cluster::UpTo;
use hikae_source::{SourceError, Stored as _, postgresql, postgresql_cluster, sqlite};
use serde::Serialize;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How to drill.
#[derive(Clone, Debug, Default)]
pub struct DrillOptions {
    /// Where PostgreSQL's programs are, if not in one of the usual places.
    pub program_directory: Option<PathBuf>,
    /// As which user a throwaway server runs if we are root.
    pub run_as: Option<String>,
    /// The program `hikae-wal`, to recover a cluster to a moment of its window. Without it a drill ends at the backup.
    pub wal_program: Option<PathBuf>,
}

/// What a drill showed.
#[derive(Clone, Debug, Serialize)]
pub struct DrillReport {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its source.
    pub source: String,
    /// Its kind.
    pub kind: String,
    /// Complete if everything held, with problems if it did and something of the drill itself was wrong.
    pub outcome: Outcome,
    /// True if nothing of the source was missing when it was backed up.
    pub complete: bool,
    /// How many problems its backup had.
    pub n_problems_at_backup: u64,
    /// The evidence that was stored.
    pub evidence: EvidenceId,
    /// Time to recover: from the decision until the source could have served again.
    pub recovery_seconds: f64,
    /// How long the whole drill took.
    pub seconds: f64,
    /// The moment that was recovered.
    pub recovered_moment: jiff::Timestamp,
    /// Entries restored, for files.
    pub entries: u64,
    /// Bytes restored.
    pub bytes: u64,
    /// Everything that was compared.
    pub checks: Vec<Check>,
    /// How long each part took.
    pub phases: Vec<Phase>,
    /// Versions of what took part.
    pub tools: Vec<(String, String)>,
    /// What was left out or done differently.
    pub notes: Vec<String>,
    /// What was wrong with the drill itself: restored content that could not be removed again.
    pub problems: Vec<Problem>,
}

/// One part of a drill.
#[derive(Clone, Debug, Serialize)]
pub struct Phase {
    /// As `restore`, `compare`.
    pub name: String,
    /// How long it took.
    pub seconds: f64,
}

/// What the kinds of drill find.
#[derive(Default)]
struct Found {
    entries: u64,
    bytes: u64,
    checks: Vec<Check>,
    phases: Vec<Phase>,
    /// The phases until the source could have served again; the rest is comparing.
    recovery: Duration,
    /// The moment that was recovered, if it is not that of the snapshot.
    moment: Option<jiff::Timestamp>,
    tools: Vec<(String, String)>,
    notes: Vec<String>,
}

impl Found {
    /// What a restore found that met damage before there was anything to compare.
    fn damage(error: &OpsError, took: Duration) -> Self {
        let check = Check {
            name: "restore".to_owned(),
            expected: "as in the snapshot".to_owned(),
            actual: with_causes(error),
            passed: false,
        };
        let phase = Phase { name: "restore".to_owned(), seconds: took.as_secs_f64() };
        let notes = error.advice().map(|advice| format!("hint: {advice}")).into_iter().collect();
        Self { checks: vec![check], phases: vec![phase], recovery: took, notes, ..Self::default() }
    }
}

/// Restores a snapshot into a scratch place, compares it, and stores the evidence.
///
/// # Errors
/// Faults that kept the drill from being done: they say nothing about the snapshot. A restore that was done
/// and does not hold, or that met damage, is a report with `Failed`.
pub fn drill(
    repo: &Arc<Repo>,
    snapshot: SnapshotId,
    options: &DrillOptions,
    around: &Surroundings,
    cx: &Cx,
) -> Result<DrillReport, OpsError> {
    let (began, started) = (cx.elapsed(), cx.now());
    // What this machine has kept near would prove nothing about the repository.
    repo.set_copies_aside();
    let state = repo.follow()?;
    let Some(SnapshotState { snapshot: in_log, .. }) = state.snapshots.get(&snapshot) else {
        let what = format!("there is no snapshot {}", snapshot.short());
        return Err(OpsError::refused(
            ErrorCode::Usage,
            what,
            Some("`hikae list` shows what there is".into()),
        ));
    };
    let failed = |source| SourceError::Io { verb: "use", path: around.scratch.clone(), source };
    let scratch = Scratch::make(&around.scratch, snapshot, cx).map_err(failed);
    let scratch = scratch.map_err(OpsError::of_source("drill"))?;
    // If the record is damaged, the log still says whose snapshot it is.
    let (mut kind, mut n_problems) = ("unknown".to_owned(), 0);
    let found = repo.snapshot(snapshot).map_err(OpsError::from).and_then(|read| {
        let record = &read.record;
        (kind, n_problems) = (record.kind.clone(), record.n_problems);
        OneDrill { repo, snapshot, record, scratch: scratch.path(), options, around, cx }
            .restore_and_compare()
    });
    let mut found = match found {
        Err(error) if error.is_damage() => Found::damage(&error, cx.elapsed() - began),
        found => found?,
    };
    let mut watch = Stopwatch::start(cx);
    cx.progress().begin("removing", "what was restored", 0);
    let problems = scratch.remove();
    watch.lap("remove", &mut found.phases);
    let evidence = EvidenceRecord {
        snapshot,
        source: in_log.source.clone(),
        kind: "restore".to_owned(),
        checks: found.checks.iter().map(check_record).collect(),
        phases: found.phases.iter().map(phase_record).collect(),
        recovery_microseconds: u64::try_from(found.recovery.as_micros()).unwrap_or(u64::MAX),
        recovered_moment: found.moment.unwrap_or(in_log.moment),
        restored_bytes: found.bytes,
        tools: found.tools.clone(),
        release: RELEASE.to_owned(),
        host: around.host.clone(),
        log_n: state.n,
        log_hash: state.head,
        started,
        finished: cx.now(),
    };
    let outcome = match (evidence.passed(), problems.is_empty()) {
        (false, _) => Outcome::Failed,
        (true, false) => Outcome::WithProblems,
        (true, true) => Outcome::Complete,
    };
    let n_held = found.checks.iter().filter(|check| check.passed).count();
    let n_checks = found.checks.len();
    cx.tell("verified", &in_log.source, format_args!("restored, {n_held} of {n_checks} checks held"));
    let evidence = put_evidence(repo, &evidence)?;
    Ok(DrillReport {
        snapshot,
        source: in_log.source.clone(),
        kind,
        outcome,
        complete: in_log.complete,
        n_problems_at_backup: n_problems,
        evidence,
        recovery_seconds: found.recovery.as_secs_f64(),
        seconds: (cx.elapsed() - began).as_secs_f64(),
        recovered_moment: found.moment.unwrap_or(in_log.moment),
        entries: found.entries,
        bytes: found.bytes,
        checks: found.checks,
        phases: found.phases,
        tools: found.tools,
        notes: found.notes,
        problems,
    })
}

struct OneDrill<'a> {
    repo: &'a Arc<Repo>,
    snapshot: SnapshotId,
    record: &'a SnapshotRecord,
    scratch: &'a Path,
    options: &'a DrillOptions,
    around: &'a Surroundings,
    cx: &'a Cx,
}

impl OneDrill<'_> {
    fn restore_and_compare(&self) -> Result<Found, OpsError> {
        match self.record.kind.as_str() {
            "files" => self.files(),
            "sqlite" => self.sqlite(),
            "postgresql" | differential::KIND => {
                with_database(self.repo, self.snapshot, |shows| self.postgresql(shows))
            }
            "postgresql-cluster" => self.cluster(),
            kind => Err(OpsError::refused(
                ErrorCode::Usage,
                format!("this release cannot drill a source of kind `{kind}`"),
                Some("use a newer release of hikae".into()),
            )),
        }
    }

    fn files(&self) -> Result<Found, OpsError> {
        let of_source = OpsError::of_source(&self.record.source);
        let target = self.scratch.join("restored");
        let mut found = Found::default();
        let mut watch = Stopwatch::start(self.cx);
        let into = Target::into_new(&target, self.cx).map_err(of_source)?;
        let restored = restore_files(self.repo, self.snapshot, &[], into, self.cx)?;
        found.recovery = watch.lap("restore", &mut found.phases);
        let lost_xattrs = restored.problems.iter().any(|problem| problem.code.contains("xattr"));
        let exactness = Exactness { owners: restored.n_owners_not_set == 0, xattrs: !lost_xattrs };
        let compared = compare(self.repo, self.snapshot, &target, exactness, self.cx)?;
        watch.lap("compare", &mut found.phases);
        (found.entries, found.bytes) = (compared.found_entries, compared.same_bytes);
        found.checks = vec![
            Check::equal("entries", compared.expected_entries, compared.found_entries),
            Check::equal(
                "bytes of content, each compared with its hash",
                compared.expected_bytes,
                compared.same_bytes,
            ),
            Check::equal("entries that differ", 0, compared.n_differences),
        ];
        let told = restored.problems.iter().chain(&compared.differences);
        found.checks.extend(told.map(|problem| Check {
            name: problem.on.clone(),
            expected: "as in the snapshot".to_owned(),
            actual: problem.what.clone(),
            passed: false,
        }));
        if !exactness.owners {
            found.notes.push("owners were not compared: only root can restore them".to_owned());
        }
        Ok(found)
    }

    fn sqlite(&self) -> Result<Found, OpsError> {
        let mut found = Found::default();
        let mut watch = Stopwatch::start(self.cx);
        self.cx.progress().begin("restoring", &self.record.source, self.record.bytes);
        let stored = StoredSnapshot::open(self.repo, self.snapshot)?;
        let options = sqlite::RestoreOptions { replace: false };
        let restored = sqlite::restore(&stored, self.scratch, self.repo.hash_key(), options, self.cx);
        let restored = restored.map_err(OpsError::of_source(&self.record.source))?;
        found.recovery = watch.lap("restore and compare", &mut found.phases);
        (found.entries, found.bytes) = (1, restored.bytes);
        found.checks = restored.checks;
        found.checks.extend(self.whole_check(&stored, &restored.path, &mut found.notes)?);
        watch.lap("integrity_check", &mut found.phases);
        found.notes.extend(restored.problems.iter().map(ToString::to_string));
        Ok(found)
    }

    /// SQLite's whole check, which a backup leaves out.
    fn whole_check(
        &self,
        stored: &StoredSnapshot<'_>,
        path: &Path,
        notes: &mut Vec<String>,
    ) -> Result<Option<Check>, OpsError> {
        let Some(Ok(manifest)) = stored.manifest().map(sqlite::Manifest::parse) else { return Ok(None) };
        self.cx.progress().begin("checking", &self.record.source, 0);
        let check = sqlite::check_whole(path, &manifest, self.cx);
        let check = check.map_err(OpsError::of_source(&self.record.source))?;
        if check.as_ref().is_some_and(|check| !check.passed) {
            notes.push(
                "every page and row is as it was backed up: the database itself is damaged; REINDEX mends its indexes"
                    .to_owned(),
            );
        }
        Ok(check)
    }

    fn postgresql(&self, shows: &Shows<'_>) -> Result<Found, OpsError> {
        self.cx.progress().begin("restoring", &self.record.source, self.record.bytes);
        let options = postgresql::DrillOptions {
            key: self.repo.hash_key(),
            jobs: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            program_directory: self.options.program_directory.clone(),
            run_as: self.options.run_as.clone(),
        };
        let environment = self.around.for_postgresql();
        let began = self.cx.elapsed();
        // Beside our scratch directory, not in it: the server may run as another user, who could not pass
        // through, and makes a private directory of its own.
        let drilled = postgresql::drill(shows.stored, &self.around.scratch, &options, &environment, self.cx);
        let drilled = drilled.map_err(OpsError::of_source(&self.record.source))?;
        let milliseconds: u64 = drilled.timings.iter().map(|lap| lap.milliseconds).sum();
        let recovery = Duration::from_millis(milliseconds);
        let lap = |lap: &postgresql::PhaseTime| Phase {
            name: lap.phase.clone(),
            seconds: Duration::from_millis(lap.milliseconds).as_secs_f64(),
        };
        // It stops its server and takes it away before it comes back.
        let stop = (self.cx.elapsed() - began).saturating_sub(recovery);
        let stop = Phase { name: "stop the server".to_owned(), seconds: stop.as_secs_f64() };
        Ok(Found {
            entries: self.record.entries,
            bytes: self.record.bytes,
            checks: drilled.checks,
            phases: drilled.timings.iter().map(lap).chain([stop]).collect(),
            recovery,
            tools: vec![
                ("PostgreSQL of the source".to_owned(), drilled.source_version),
                ("PostgreSQL of the drill".to_owned(), drilled.server_version),
            ],
            notes: shows.notes.iter().cloned().chain(drilled.notes).collect(),
            moment: None,
        })
    }
}

impl OneDrill<'_> {
    /// The files of a cluster are restored where a server of its own then starts on them.
    fn cluster(&self) -> Result<Found, OpsError> {
        let of_source = OpsError::of_source(&self.record.source);
        let manifest = manifest(self.repo, self.snapshot)?;
        let options = postgresql_cluster::DrillOptions {
            program_directory: self.options.program_directory.clone(),
            run_as: self.options.run_as.clone(),
        };
        let environment = self.around.for_postgresql();
        // Beside our scratch directory, as for a database.
        let vacant =
            postgresql_cluster::prepare(&manifest, &self.around.scratch, &options, &environment, self.cx);
        let vacant = vacant.map_err(&of_source)?;
        let mut found = Found::default();
        let target = ClusterTarget { directory: vacant.data(), ..ClusterTarget::default() };
        let up_to = match self.moment(&mut found.notes)? {
            Some(plan) => {
                self.recover(&plan, target, &mut found)?;
                UpTo::Later
            }
            None => {
                let mut watch = Stopwatch::start(self.cx);
                let restored = restore_cluster(self.repo, self.snapshot, &target, self.cx)?;
                found.recovery = watch.lap("restore", &mut found.phases);
                (found.entries, found.bytes) = (restored.entries, restored.bytes);
                found.checks = vec![Check::equal("files that did not come back", 0, restored.problems.len())];
                if !restored.problems.is_empty() {
                    found.notes = restored.problems.iter().map(ToString::to_string).collect();
                    return Ok(found);
                }
                UpTo::EndOfBackup
            }
        };
        let proved = postgresql_cluster::prove(vacant, &manifest, up_to, self.cx).map_err(&of_source)?;
        let seconds = |lap: &postgresql::PhaseTime| Duration::from_millis(lap.milliseconds);
        found.recovery += proved.timings.iter().take(proved.n_until_served).map(seconds).sum::<Duration>();
        let phase = |lap: &postgresql::PhaseTime| Phase {
            name: lap.phase.clone(),
            seconds: seconds(lap).as_secs_f64(),
        };
        found.phases.extend(proved.timings.iter().map(phase));
        found.checks.extend(proved.checks);
        found.tools = vec![
            ("PostgreSQL of the source".to_owned(), manifest.server_version),
            ("PostgreSQL of the drill".to_owned(), proved.server_version),
        ];
        found.notes.extend(proved.notes);
        Ok(found)
    }
}

impl OneDrill<'_> {
    /// A moment after the backup, if the log and the program for it are there.
    fn moment(&self, notes: &mut Vec<String>) -> Result<Option<RecoveryPlan>, OpsError> {
        let program = self.options.wal_program.as_ref();
        let Some(program) = program.filter(|_| !sabotage::on("drill-ends-at-the-backup")) else {
            return Ok(None);
        };
        let cluster = KeptCluster::read(self.repo, &self.record.source, self.cx)?;
        let plan = plan_to_a_moment(&cluster, self.snapshot, self.cx)?;
        if plan.is_some() && !program.is_file() {
            let note = "no moment after the backup was recovered: hikae-wal is not installed beside hikae";
            notes.push(note.to_owned());
            return Ok(None);
        }
        Ok(plan)
    }

    /// Recovers the cluster to a moment after the backup.
    fn recover(&self, plan: &RecoveryPlan, target: ClusterTarget, found: &mut Found) -> Result<(), OpsError> {
        let options = RecoverOptions {
            target,
            wal_program: self.options.wal_program.clone().unwrap_or_default(),
            program_directory: self.options.program_directory.clone(),
            run_as: self.options.run_as.clone(),
        };
        let recovered = recover(self.repo, plan, &options, self.around, self.cx)?;
        let (from, until) = (&plan.around.before, &plan.around.after);
        let time = |landmark: &Option<Landmark>| landmark.as_ref().map(|landmark| landmark.time);
        let passed = recovered.reached_time >= time(from)
            && recovered.reached_time.zip(time(until)).is_some_and(|(reached, until)| reached < until);
        let shown = |time: Option<jiff::Timestamp>| time.map_or("none".to_owned(), |time| time.to_string());
        found.checks.push(Check {
            name: "last transaction recovered".to_owned(),
            expected: format!("of {}, before {}", shown(time(from)), shown(time(until))),
            actual: shown(recovered.reached_time),
            passed,
        });
        found.notes.push(format!(
            "recovered to {} along timeline {}, over {} segments of log",
            plan.target, plan.timeline, recovered.n_segments
        ));
        found.moment = recovered.reached_time;
        found.recovery = Duration::from_secs_f64(recovered.seconds);
        (found.entries, found.bytes) = (self.record.entries, recovered.bytes);
        let phase = |(name, seconds): (String, f64)| Phase { name, seconds };
        found.phases.extend(recovered.phases.into_iter().map(phase));
        Ok(())
    }
}

struct Stopwatch<'a> {
    cx: &'a Cx,
    last: Duration,
}

impl<'a> Stopwatch<'a> {
    fn start(cx: &'a Cx) -> Self {
        Self { cx, last: cx.elapsed() }
    }

    fn lap(&mut self, name: &str, phases: &mut Vec<Phase>) -> Duration {
        let now = self.cx.elapsed();
        let lap = now - std::mem::replace(&mut self.last, now);
        phases.push(Phase { name: name.to_owned(), seconds: lap.as_secs_f64() });
        lap
    }
}

fn check_record(check: &Check) -> CheckRecord {
    let Check { name, expected, actual, passed } = check.clone();
    CheckRecord { name, expected, actual, passed }
}

fn phase_record(phase: &Phase) -> PhaseRecord {
    PhaseRecord { name: phase.name.clone(), microseconds: (phase.seconds * 1e6) as u64 }
}
