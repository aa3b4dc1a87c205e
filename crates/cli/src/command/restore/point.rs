//! Recovery of a PostgreSQL cluster to a point in its life.

use super::{RestoreArgs, cluster, new_folder_of, only_for_postgresql, refuse};
use crate::app::{App, absolute, wal_program};
use crate::failure::{Ended, Failure};
use crate::page::{Mark, count, duration, marked};
use clap::Args;
use hikae_model::{Bytes, ErrorCode, Landmark, LandmarkKind, Lsn, Timeline, WalName};
use hikae_ops::Repo;
use hikae_ops::pitr::cluster::KeptCluster;
use hikae_ops::pitr::plan::{RecoveryPlan, plan};
use hikae_ops::pitr::recover::{RecoverOptions, Recovered, check, recover};
use hikae_ops::pitr::target::{Aim, Course, RestorePoint, Target, parse_moment};
use hikae_ops::restore_cluster::{ClusterPlan, ClusterTarget, KIND};
use hikae_ops::select::SnapshotSelector;
use jiff::Timestamp;
use serde_json::json;
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
    refuse(&only_for_postgresql(args), KIND)?;
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
    let plan = {
        let _progress = app.progress();
        plan(&KeptCluster::read(repo, source, &app.cx)?, &aim, &app.cx)?
    };
    let directory = match &args.target {
        Some(target) => absolute(target)?,
        None => new_folder_of(source, app.cx.now(), app)?,
    };
    let options = RecoverOptions {
        target: ClusterTarget { directory, tablespaces: cluster::tablespaces(args)? },
        wal_program: wal_program(args.wal_program.as_deref())?,
        program_directory: args.program_directory.clone(),
        run_as: args.run_as.clone(),
    };
    let ClusterPlan { directory, tablespaces, notes, .. } = check(repo, &plan, &options, &app.cx)?;
    let around = shown_around(&plan, app);
    let spaces = cluster::shown_spaces(&tablespaces);
    if args.dry_run {
        let text = format!(
            "would recover {source} to {}, into {}\n{}{around}{spaces}{}Nothing was written.\n",
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

fn shown_target(plan: &RecoveryPlan, app: &App) -> String {
    let before = if plan.aim.inclusive { "" } else { "just before " };
    match &plan.aim.target {
        Target::Time(time) => format!("{before}{}", app.exactly(*time)),
        other => format!("{before}{other}"),
    }
}

fn shown_way(plan: &RecoveryPlan, app: &App) -> String {
    let n_segments = plan.log.iter().filter(|name| matches!(name, WalName::Segment(_))).count();
    format!(
        "  from the base backup {} of {}, along timeline {}, over at most {} of log ({})\n",
        plan.snapshot.short(),
        app.exactly(plan.base_moment),
        plan.timeline,
        count(n_segments as u64, "segment", "segments"),
        Bytes(plan.log_stored_bytes),
    )
}

fn shown_around(plan: &RecoveryPlan, app: &App) -> String {
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
    let time = match recovered.reached_time {
        Some(time) => format!(", the last transaction of {}", app.exactly(time)),
        None => ", no transaction after the base backup".to_owned(),
    };
    let phases = recovered.phases.iter().map(|(phase, seconds)| format!("{phase} {}", duration(*seconds)));
    let (directory, timeline) = (recovered.directory.display(), recovered.new_timeline);
    format!(
        "  reached {}{time}; {} replayed; timeline {timeline} begins there\n  {}\n  start PostgreSQL {} on it: postgres -D {directory}\n",
        recovered.reached,
        count(recovered.n_segments as u64, "segment", "segments"),
        phases.collect::<Vec<_>>().join(", "),
        recovered.server_version,
    )
}
