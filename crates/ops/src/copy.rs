//! Copies of snapshots in further repositories: which ones, and what came of it.
//!
//! - Asked for by hand, it is everything that the target lacks and has not let go, unless somebody names snapshots, sources, a
//!   run or a day. Asked again, it brings what is still missing.
//! - A job copies what its run has just made, and with it what of its sources is newer than the target's newest: what a copy
//!   that failed has left. What the target's own retention let go does not come back so.
//! - With whole sources comes the archived log of their clusters: after the snapshots, so that it is of use.
//! - What came is compared with the listing of the target before anything is said of it.
//!
//! This module decides which snapshots; the repository moves them.

use crate::OpsError;
use crate::list::list;
use crate::pitr::cluster::systems_of;
use crate::report::problem_of;
use crate::select::SnapshotSelector;
use hikae_model::{Advise, Cx, ErrorCode, Outcome, Problem, SnapshotId, SystemId, sabotage};
use hikae_repo::copy as repo_copy;
use hikae_repo::copy::{Completeness, LeftSnapshot, LetGo};
use hikae_repo::log::SnapshotRef;
use hikae_repo::state::State;
use hikae_repo::{Repo, RepoError};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Which snapshots somebody wants copied. Where several things are said, all of them hold.
#[derive(Clone, Debug, Default)]
pub struct CopyRequest {
    /// These.
    pub snapshots: Vec<SnapshotSelector>,
    /// Those of these sources; of all, if none is named.
    pub sources: Vec<String>,
    /// Those of the run whose id begins so.
    pub run: Option<String>,
    /// Those of this day.
    pub day: Option<Date>,
    /// Of each source those that are newer than the newest that the target has of it.
    pub only_newer: bool,
}

/// What is to be copied, found out without writing.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CopyPlan {
    /// Snapshots that the target lacks, oldest first.
    pub missing: Vec<PlannedCopy>,
    /// How many of those that are wanted it has.
    pub n_there: u64,
    /// How many it has had and forgotten, by its own retention or somebody's word.
    pub n_let_go: u64,
    #[serde(skip)]
    log_of: LogOf,
}

/// The clusters whose archived log is copied too.
#[derive(Clone, Debug, Default)]
enum LogOf {
    #[default]
    Nobody,
    These(BTreeSet<SystemId>),
    Everybody,
}

/// A snapshot that is to be copied.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedCopy {
    /// Its name in the source.
    pub id: SnapshotId,
    /// Its source.
    pub source: String,
    /// Its moment.
    pub moment: Timestamp,
    /// True if nothing of the source was missing.
    pub complete: bool,
}

/// What a copy did.
#[derive(Clone, Debug, Serialize)]
pub struct CopyReport {
    /// Where it came from.
    pub from: String,
    /// Where to.
    pub to: String,
    /// Complete if the target has all that was wanted.
    pub outcome: Outcome,
    /// The snapshots that came, oldest first.
    pub copied: Vec<CopiedSnapshot>,
    /// How many of those that are wanted were there already.
    pub n_there: u64,
    /// How many the target has once had and let go.
    pub n_let_go: u64,
    /// The entry of the target's log.
    pub log_entry: Option<u64>,
    /// Packs that moved whole.
    pub packs: u64,
    /// Packs that a copy which did not come to its end had stored already.
    pub packs_there: u64,
    /// Packs of which only what is needed moved.
    pub packs_in_part: u64,
    /// Bytes that were stored.
    pub stored_bytes: u64,
    /// What came of the archived log; nothing if none was to be copied.
    pub log: Option<CopiedLog>,
    /// What was compared in the target afterwards.
    pub check: CopyCheck,
    /// How long it took.
    pub seconds: f64,
    /// What did not come, and why.
    pub problems: Vec<Problem>,
}

/// A snapshot that was copied.
#[derive(Clone, Debug, Serialize)]
pub struct CopiedSnapshot {
    /// Its name in the target.
    pub id: SnapshotId,
    /// Its name in the source.
    pub from: SnapshotId,
    /// Its source.
    pub source: String,
    /// Its moment.
    pub moment: Timestamp,
}

/// What came of the archived write-ahead log.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct CopiedLog {
    /// Files that came.
    pub files: u64,
    /// Files that were there.
    pub files_there: u64,
    /// Bytes that were stored.
    pub stored_bytes: u64,
}

/// What the copied snapshots say of themselves, against what stands in the target.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct CopyCheck {
    /// Entries that the records name.
    pub entries_expected: u64,
    /// Entries that the listings hold.
    pub entries: u64,
    /// Bytes that the records name.
    pub bytes_expected: u64,
    /// Bytes that the listings hold.
    pub bytes: u64,
    /// Packs that they need.
    pub packs_expected: u64,
    /// Those of them that stand in the store, as long as they should be.
    pub packs: u64,
}

impl CopyReport {
    /// The code that a run ends with; nothing if all is well.
    pub fn code(&self) -> Option<ErrorCode> {
        let is_damage = |problem: &Problem| problem.code == ErrorCode::VerificationFailed.name();
        match self.outcome {
            Outcome::Complete => None,
            _ if self.problems.iter().any(is_damage) => Some(ErrorCode::VerificationFailed),
            _ => Some(ErrorCode::WithProblems),
        }
    }
}

/// Finds out what of a request the target lacks.
///
/// # Errors
/// [`OpsError::Refused`] if a snapshot that was named is not there; any failure to read one of the two.
pub fn plan_copy(
    from: &Arc<Repo>,
    to: &Arc<Repo>,
    request: &CopyRequest,
    zone: &TimeZone,
) -> Result<CopyPlan, OpsError> {
    repo_copy::check_family(from, to)?;
    // What cannot be read is no backup, and is not chosen.
    let (state, _) = from.readable()?;
    let there = to.follow()?;
    let let_go = LetGo::read(to)?;
    let newest =
        |source: &str| there.all_newest_first(Some(source)).first().map(|known| known.snapshot.moment);
    let CopyRequest { snapshots, sources, run, day, .. } = request;
    let of_sources = snapshots.is_empty() && run.is_none() && day.is_none();
    let log_of = match (of_sources, sources.is_empty()) {
        (false, _) => LogOf::Nobody,
        (true, true) => LogOf::Everybody,
        (true, false) => LogOf::These(systems_of(from, sources)?),
    };
    // What somebody names by its id comes again; a forgotten one is there to be brought back.
    let has_let_go = |id: SnapshotId, source: &str, moment| {
        there.forgotten.contains_key(&id) || snapshots.is_empty() && let_go.ever_had(source, moment)
    };
    let mut plan = CopyPlan { log_of, ..CopyPlan::default() };
    for snapshot in wanted(from, &state, request, zone)? {
        let SnapshotRef { id, source, moment, complete } = snapshot;
        let is_old = || newest(&source).is_some_and(|newest| moment <= newest);
        if is_there(&there, id, &source, moment) {
            plan.n_there += 1;
        } else if has_let_go(id, &source, moment) && !sabotage::on("let-go-comes-back") {
            plan.n_let_go += 1;
        } else if !(request.only_newer && is_old()) {
            plan.missing.push(PlannedCopy { id, source, moment, complete });
        }
    }
    plan.missing.sort_by_key(|planned| (planned.moment, planned.id));
    Ok(plan)
}

/// True if the target has a snapshot, under this name or another.
fn is_there(state: &State, id: SnapshotId, source: &str, moment: Timestamp) -> bool {
    let is_same = |known: &SnapshotRef| known.moment == moment && known.source == source;
    state.snapshots.contains_key(&id) || state.snapshots.values().any(|known| is_same(&known.snapshot))
}

/// The snapshots of the source that a request means.
fn wanted(
    from: &Repo,
    state: &State,
    request: &CopyRequest,
    zone: &TimeZone,
) -> Result<Vec<SnapshotRef>, OpsError> {
    let known: BTreeSet<&str> = state.snapshots.values().map(|one| one.snapshot.source.as_str()).collect();
    if let Some(unknown) = request.sources.iter().find(|name| !known.contains(name.as_str())) {
        return Err(SnapshotSelector::Latest.resolve(state, Some(unknown), zone).err().unwrap_or_else(
            || OpsError::refused(ErrorCode::Usage, format!("there is no snapshot of {unknown}"), None),
        ));
    }
    let of_source = |source: &String| request.sources.is_empty() || request.sources.contains(source);
    let mut chosen: Vec<SnapshotRef> = match request.snapshots.is_empty() {
        true => state.newest_first(None).into_iter().map(|known| known.snapshot.clone()).collect(),
        false => {
            let source = match request.sources.as_slice() {
                [one] => Some(one.as_str()),
                _ => None,
            };
            let resolve =
                |selector: &SnapshotSelector| Ok(selector.resolve(state, source, zone)?.snapshot.clone());
            request.snapshots.iter().map(resolve).collect::<Result<_, OpsError>>()?
        }
    };
    chosen.retain(|snapshot| of_source(&snapshot.source));
    if let Some(day) = request.day {
        chosen.retain(|snapshot| snapshot.moment.to_zoned(zone.clone()).date() == day);
    }
    if let Some(run) = &request.run {
        let run = run.to_ascii_lowercase();
        let of_run = |id: &str| !run.is_empty() && id.starts_with(&run);
        let listed = list(from, None)?;
        let runs: BTreeSet<_> =
            listed.iter().filter_map(|one| one.run).filter(|id| of_run(&id.to_string())).collect();
        if runs.len() != 1 {
            let what = format!("{} runs have an id that begins with `{run}`", runs.len());
            let advice = "`hikae show SNAPSHOT` tells the run of a snapshot";
            return Err(OpsError::refused(ErrorCode::Usage, what, Some(advice.into())));
        }
        chosen.retain(|snapshot| {
            listed.iter().any(|one| one.id == snapshot.id && one.run.is_some_and(|run| runs.contains(&run)))
        });
    }
    Ok(chosen)
}

/// Copies what a plan names.
///
/// # Errors
/// Any failure of either repository that is no damage of the source; then nothing has come, and another call goes on with
/// what was stored.
pub fn copy(from: &Arc<Repo>, to: &Arc<Repo>, plan: &CopyPlan, cx: &Cx) -> Result<CopyReport, OpsError> {
    let began = cx.elapsed();
    let ids: Vec<SnapshotId> = plan.missing.iter().map(|planned| planned.id).collect();
    let done = repo_copy::copy(from, to, &ids, cx)?;
    cx.progress().begin("comparing what came to", to.store().address(), 0);
    let came: Vec<SnapshotId> = done.copied.iter().map(|copied| copied.id).collect();
    let found = repo_copy::completeness(to, &came, cx)?;
    let mut problems: Vec<Problem> =
        done.damaged.iter().map(|(pack, why)| of_pack(from, *pack, why)).collect();
    problems.extend(done.left.iter().map(|left| of_left(plan, left)));
    problems.extend(found.missing.iter().map(|(id, what)| {
        let of = done.copied.iter().find(|copied| copied.id == *id).map_or("", |copied| &copied.source);
        let problem =
            Problem::new("verification-failed", format!("{} of {of} in the copy", id.short()), what);
        problem
            .advise("run `hikae verify --repository` on the copy, and copy again after `hikae repo repair`")
    }));
    let log = match copy_log_of(from, to, &plan.log_of, &mut problems, cx) {
        Err(OpsError::Cancelled(cancelled)) => return Err(cancelled.into()),
        // The snapshots stand whatever becomes of the log.
        Err(error) => {
            problems.push(problem_of("log", &error));
            None
        }
        log => log?,
    };
    let outcome = match (problems.is_empty(), done.copied.is_empty() && !ids.is_empty()) {
        (true, _) => Outcome::Complete,
        (false, true) => Outcome::Failed,
        (false, false) => Outcome::WithProblems,
    };
    if let Some(n) = done.log_entry {
        cx.tell("copied", &to.store().address(), format_args!("{} snapshots as log entry {n}", came.len()));
    }
    let copied = done.copied.into_iter();
    Ok(CopyReport {
        from: from.store().address(),
        to: to.store().address(),
        outcome,
        copied: copied
            .map(|one| CopiedSnapshot { id: one.id, from: one.from, source: one.source, moment: one.moment })
            .collect(),
        n_there: plan.n_there,
        n_let_go: plan.n_let_go,
        log_entry: done.log_entry,
        packs: done.n_packs,
        packs_there: done.n_packs_there,
        packs_in_part: done.n_packs_in_part,
        stored_bytes: done.stored_bytes,
        log,
        check: CopyCheck::of(&found),
        seconds: (cx.elapsed() - began).as_secs_f64(),
        problems,
    })
}

fn copy_log_of(
    from: &Arc<Repo>,
    to: &Arc<Repo>,
    of: &LogOf,
    problems: &mut Vec<Problem>,
    cx: &Cx,
) -> Result<Option<CopiedLog>, OpsError> {
    let systems = match of {
        LogOf::Nobody => return Ok(None),
        LogOf::These(systems) if systems.is_empty() => return Ok(None),
        LogOf::These(systems) => Some(systems),
        LogOf::Everybody => None,
    };
    let done = repo_copy::copy_log(from, to, systems, cx)?;
    for (system, name, why) in done.left {
        problems.push(problem_of(&format!("log {name} of system {system}"), &OpsError::from(why)));
    }
    let (files, files_there, stored_bytes) = (done.n_files, done.n_there, done.stored_bytes);
    Ok((files + files_there > 0).then_some(CopiedLog { files, files_there, stored_bytes }))
}

impl CopyCheck {
    fn of(found: &Completeness) -> Self {
        let Completeness { entries, bytes, packs, missing: _ } = found;
        Self {
            entries_expected: entries.expected,
            entries: entries.found,
            bytes_expected: bytes.expected,
            bytes: bytes.found,
            packs_expected: packs.expected,
            packs: packs.found,
        }
    }
}

fn of_pack(from: &Repo, pack: hikae_model::PackId, why: &RepoError) -> Problem {
    let problem = Problem::new(
        "verification-failed",
        format!("pack {} of {}", pack.short(), from.store().address()),
        why,
    );
    problem.advise("run `hikae repo repair` there, with --from and a good copy if there is one")
}

fn of_left(plan: &CopyPlan, left: &LeftSnapshot) -> Problem {
    let of = plan.missing.iter().find(|planned| planned.id == left.id).map_or("", |planned| &planned.source);
    let on = format!("snapshot {} of {of}", left.id.short());
    match &left.why {
        None => {
            Problem::new("verification-failed", on, "was not copied: it needs what is damaged in the source")
        }
        Some(why) => {
            let problem =
                Problem::new(why.code().name(), on, format!("was not copied: {}", crate::with_causes(why)));
            match why.advice() {
                Some(advice) => problem.advise(advice),
                None => problem,
            }
        }
    }
}
