//! Recovery of a PostgreSQL cluster to a point in its life.

use super::{RestoreArgs, cluster, new_folder_of, only_for_postgresql, refuse, take_out};
use crate::app::{App, absolute, wal_program};
use crate::failure::{Ended, Failure};
use crate::page::{Mark, count, duration, marked};
use clap::Args;
use hikae_model::{Bytes, ErrorCode, Landmark, LandmarkKind, Lsn, Timeline, WalName};
use hikae_ops::pitr::cluster::KeptCluster;
use hikae_ops::pitr::paused::{FoundPaused, PausedReport, pause};
use hikae_ops::pitr::plan::{RecoveryPlan, plan};
use hikae_ops::pitr::recover::{RecoverOptions, Recovered, check, recover};
use hikae_ops::pitr::target::{Aim, Course, RestorePoint, Target, parse_moment};
use hikae_ops::restore_cluster::{ClusterPlan, ClusterTarget, KIND};
use hikae_ops::select::SnapshotSelector;
use hikae_ops::{Repo, shell_word};
use jiff::Timestamp;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

/// Where to in the life of a cluster.
#[derive(Debug, Args)]
#[group(id = "point", multiple = false)]
pub struct PointArgs {
    /// PostgreSQL cluster: recover to this moment, with its zone, as `2026-11-20 12:00:00+09:00`
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    to_time: Option<Timestamp>,
    /// Recover to this place in the log, as `16/B374D848`
    #[arg(long, value_name = "LSN")]
    to_lsn: Option<Lsn>,
    /// Recover to the commit of this transaction
    #[arg(long, value_name = "XID")]
    to_xid: Option<u64>,
    /// Recover to this restore point
    #[arg(long, value_name = "NAME")]
    to_name: Option<RestorePoint>,
    /// Recover only to the end of the newest base backup
    #[arg(long)]
    to_immediate: bool,
    /// Recover to the end of the log that is kept
    #[arg(long)]
    to_end: bool,
}

impl PointArgs {
    /// What was asked for, if anything.
    pub fn target(&self) -> Option<Target> {
        let Self { to_time, to_lsn, to_xid, to_name, to_immediate, to_end } = self;
        let named = to_name.clone().map(Target::Name);
        let target =
            to_time.map(Target::Time).or(to_lsn.map(Target::Lsn)).or(to_xid.map(Target::Xid)).or(named);
        target.or(to_immediate.then_some(Target::Immediate)).or(to_end.then_some(Target::End))
    }
}

/// `latest`, `current` or a number.
pub fn parse_course(text: &str) -> Result<Course, String> {
    match text {
        "latest" => Ok(Course::Latest),
        "current" => Ok(Course::Current),
        number => {
            let timeline = number.parse().ok().and_then(Timeline::new);
            timeline
                .map(Course::Timeline)
                .ok_or_else(|| "must be a number from 1, `latest` or `current`".to_owned())
        }
    }
}

pub fn restore(target: Target, args: &RestoreArgs, repo: &Arc<Repo>, app: &App) -> Result<Ended, Failure> {
    let is_part = !args.table.is_empty() || args.from_database.is_some();
    if !is_part {
        refuse(&only_for_postgresql(args), KIND)?;
    }
    let source = match (&args.source, &args.snapshot) {
        (Some(source), None) | (None, Some(SnapshotSelector::Named(source))) => source,
        _ => {
            let what = "a recovery is of a source, and chooses the base backup itself";
            let advice = "name the source alone, as `hikae restore main --to-time …`";
            return Err(Failure::new(ErrorCode::Usage, what, Some(advice.into())));
        }
    };
    let course = args.timeline.unwrap_or(Course::Latest);
    let aim = Aim { target, inclusive: !args.exclusive, course };
    let directory = match &args.target {
        Some(target) => absolute(target)?,
        None if is_part => take_out::place_beside(app),
        None => new_folder_of(source, app.cx.now(), app)?,
    };
    let plan = {
        let _progress = app.progress();
        let cluster = KeptCluster::read(repo, source, &app.cx)?;
        let mut plan = plan(&cluster, &aim, &app.cx)?;
        if let Some(paused) = FoundPaused::at(&directory)? {
            paused.lead_on(&cluster, &mut plan)?;
        }
        plan
    };
    let options = RecoverOptions {
        target: ClusterTarget {
            directory,
            tablespaces: cluster::tablespaces(args)?,
            ..ClusterTarget::default()
        },
        wal_program: wal_program(args.wal_program.as_deref())?,
        program_directory: args.program_directory.clone(),
        run_as: args.run_as.clone(),
    };
    let ClusterPlan { directory, tablespaces, notes, .. } = check(repo, &plan, &options, &app.cx)?;
    if is_part {
        return take_out::restore(&plan, &options, args, repo, app);
    }
    let around = shown_around(&plan, app);
    let spaces = cluster::shown_spaces(&tablespaces);
    if args.dry_run {
        let pause = if args.pause { ", and pause there" } else { "" };
        let text = format!(
            "would recover {source} to {}{pause}, into {}\n{}{around}{spaces}{}Nothing was written.\n",
            shown_target(&plan, app),
            directory.display(),
            shown_way(&plan, app),
            cluster::lines(&notes),
        );
        let shown =
            json!({ "plan": plan, "directory": directory, "tablespaces": tablespaces, "notes": notes });
        app.output.result(Ended::Well, &shown, &text);
        return Ok(Ended::Well);
    }
    if args.pause {
        let report = {
            let _progress = app.progress();
            pause(repo, &plan, &options, &app.around, &app.cx)?
        };
        let text = format!(
            "{}  {source} at {}: {} in {}; a server stands still there and can be read\n{}{around}{spaces}{}",
            marked(Mark::Good, "paused"),
            shown_target(&plan, app),
            Bytes(report.paused.bytes),
            duration(report.seconds),
            shown_way(&plan, app),
            shown_paused(&report, app),
        );
        app.output.result(Ended::Well, &json!({ "plan": plan, "paused": report }), &text);
        return Ok(Ended::Well);
    }
    let recovered = {
        let _progress = app.progress();
        recover(repo, &plan, &options, &app.around, &app.cx)?
    };
    let text = format!(
        "{}  {source} to {}: {} in {}, into {}\n{}{around}{spaces}{}{}",
        marked(Mark::Good, "recovered"),
        shown_target(&plan, app),
        Bytes(recovered.bytes),
        duration(recovered.seconds),
        recovered.directory.display(),
        shown_way(&plan, app),
        shown_reached(&recovered, app),
        cluster::lines(&recovered.notes),
    );
    app.output.result(Ended::Well, &json!({ "plan": plan, "recovered": recovered }), &text);
    Ok(Ended::Well)
}

/// Opens what is paused for `directory`.
pub fn promote(directory: &Path, repo: &Arc<Repo>, app: &App) -> Result<Ended, Failure> {
    let found = FoundPaused::find(&absolute(directory)?)?;
    let recovered = {
        let _progress = app.progress();
        found.promote(repo, &app.around, &app.cx)?
    };
    let text = format!(
        "{}  {}, which was paused at {}: in {}, into {}\n{}{}",
        marked(Mark::Good, "opened"),
        recovered.source,
        recovered.target,
        duration(recovered.seconds),
        recovered.directory.display(),
        shown_reached(&recovered, app),
        cluster::lines(&recovered.notes),
    );
    app.output.result(Ended::Well, &json!({ "recovered": recovered }), &text);
    Ok(Ended::Well)
}

/// Gives up what is paused for `directory`.
pub fn discard(directory: &Path, app: &App) -> Result<Ended, Failure> {
    let paused = FoundPaused::find(&absolute(directory)?)?.discard(&app.cx)?;
    let text = format!(
        "{}  the recovery of {} to {} that was paused for {}\n",
        marked(Mark::Good, "discarded"),
        paused.source,
        paused.target,
        paused.directory.display(),
    );
    app.output.result(Ended::Well, &json!({ "discarded": paused }), &text);
    Ok(Ended::Well)
}

fn shown_paused(report: &PausedReport, app: &App) -> String {
    let PausedReport { paused, n_segments, phases, .. } = report;
    let socket = shell_word(&paused.socket.to_string_lossy());
    let directory = shell_word(&paused.directory.to_string_lossy());
    let source = shell_word(&paused.source);
    format!(
        "  reached {}{}; {} replayed\n  {}\n\
         \x20 look at it, read only:   psql -h {socket} -p {} -U {} postgres\n\
         \x20 open it there:           hikae restore --promote {directory}\n\
         \x20 go on to a later point:  hikae restore {source} --to-time … --target {directory}   (it only goes forward)\n\
         \x20 give it up:              hikae restore --discard {directory}\n{}",
        paused.reached,
        shown_time(paused.reached_time, app),
        count(*n_segments as u64, "segment", "segments"),
        shown_phases(phases),
        paused.port,
        shell_word(&paused.user),
        cluster::lines(&paused.notes),
    )
}

pub fn shown_time(reached: Option<Timestamp>, app: &App) -> String {
    match reached {
        Some(time) => format!(", the last transaction of {}", app.exactly(time)),
        None => ", no transaction after the base backup".to_owned(),
    }
}

pub fn shown_phases(phases: &[(String, f64)]) -> String {
    let phases = phases.iter().map(|(phase, seconds)| format!("{phase} {}", duration(*seconds)));
    phases.collect::<Vec<_>>().join(", ")
}

pub fn shown_target(plan: &RecoveryPlan, app: &App) -> String {
    let before = if plan.aim.inclusive { "" } else { "just before " };
    match &plan.aim.target {
        Target::Time(time) => format!("{before}{}", app.exactly(*time)),
        other => format!("{before}{other}"),
    }
}

pub fn shown_way(plan: &RecoveryPlan, app: &App) -> String {
    let n_segments = plan.log.iter().filter(|name| matches!(name, WalName::Segment(_))).count();
    let from = match plan.goes_on_from {
        Some(place) => format!("on from {place}, where it is paused, after"),
        None => "from".to_owned(),
    };
    format!(
        "  {from} the base backup {} of {}, along timeline {}, over at most {} of log ({})\n",
        plan.snapshot.short(),
        app.exactly(plan.base_moment),
        plan.timeline,
        count(n_segments as u64, "segment", "segments"),
        Bytes(plan.log_stored_bytes),
    )
}

pub fn shown_around(plan: &RecoveryPlan, app: &App) -> String {
    let line = |what: &str, landmark: &Option<Landmark>| {
        let Some(Landmark { at, time, kind }) = landmark else { return String::new() };
        let kind = match kind {
            LandmarkKind::Commit(Some(xid)) => format!("commit of transaction {xid}"),
            LandmarkKind::Commit(None) => "commit of a prepared transaction".to_owned(),
            LandmarkKind::RestorePoint(name) => format!("restore point `{}`", name.escape_debug()),
        };
        format!("  {what}: {kind} at {at}, {}\n", app.exactly(*time))
    };
    match &plan.aim.target {
        Target::Time(_) => {
            line("last before", &plan.around.before) + &line("first after", &plan.around.after)
        }
        _ => line("there", &plan.around.before),
    }
}

fn shown_reached(recovered: &Recovered, app: &App) -> String {
    let (directory, timeline) = (recovered.directory.display(), recovered.new_timeline);
    format!(
        "  reached {}{}; {} replayed; timeline {timeline} begins there\n  {}\n  start PostgreSQL {} on it: postgres -D {directory}\n",
        recovered.reached,
        shown_time(recovered.reached_time, app),
        count(recovered.n_segments as u64, "segment", "segments"),
        shown_phases(&recovered.phases),
        recovered.server_version,
    )
}
