//! `hikae forget`

use crate::app::App;
use crate::failure::{Ended, Failure};
use crate::page::{Align, Mark, Table, count, marked};
use clap::Args;
use hikae_ops::forget::{ForgetOptions, ForgetPlan, Request, Rule};
use hikae_ops::select::SnapshotSelector;
use std::num::NonZeroU32;

/// Drop snapshots from the list, by rule or by name; space is freed by `hikae prune`
#[derive(Debug, Args)]
#[command(
    after_help = "Without snapshots and rules, the retention of each job of the configuration is obeyed, as after its backups.\n\
                        A forgotten snapshot can be brought back with `hikae undelete` until prune has removed what it needs.\n\n\
                        Example:\n  hikae forget --keep-daily 30 --keep-monthly 12 --dry-run"
)]
pub struct ForgetArgs {
    /// Snapshots to forget
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<SnapshotSelector>,
    /// Only of this source
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Keep the newest so many of each source
    #[arg(long, value_name = "N", conflicts_with = "snapshots")]
    keep_last: Option<NonZeroU32>,
    /// Keep one of each of so many hours that have any
    #[arg(long, value_name = "N", conflicts_with = "snapshots")]
    keep_hourly: Option<NonZeroU32>,
    /// Keep one of each of so many days
    #[arg(long, value_name = "N", conflicts_with = "snapshots")]
    keep_daily: Option<NonZeroU32>,
    /// Keep one of each of so many weeks
    #[arg(long, value_name = "N", conflicts_with = "snapshots")]
    keep_weekly: Option<NonZeroU32>,
    /// Keep one of each of so many months
    #[arg(long, value_name = "N", conflicts_with = "snapshots")]
    keep_monthly: Option<NonZeroU32>,
    /// Keep one of each of so many years
    #[arg(long, value_name = "N", conflicts_with = "snapshots")]
    keep_yearly: Option<NonZeroU32>,
    /// Keep all that is no older, as 30d
    #[arg(long, value_name = "TIME", conflicts_with = "snapshots")]
    keep_within: Option<jiff::Span>,
    /// Also the newest good snapshot of a source
    #[arg(long)]
    even_last: bool,
    /// Also many at once
    #[arg(long)]
    even_many: bool,
    /// Why; kept in the log
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Say what would be forgotten and why the rest stays, and forget nothing
    #[arg(long)]
    dry_run: bool,
}

impl ForgetArgs {
    /// The rule on the command line, if there is one.
    fn rule(&self) -> Option<Rule> {
        let counts =
            [self.keep_hourly, self.keep_daily, self.keep_weekly, self.keep_monthly, self.keep_yearly];
        if self.keep_last.is_none() && self.keep_within.is_none() && counts.iter().all(Option::is_none) {
            return None;
        }
        let [hourly, daily, weekly, monthly, yearly] = counts.map(|count| count.map_or(0, NonZeroU32::get));
        let last = self.keep_last.unwrap_or(NonZeroU32::MIN);
        Some(Rule { last, hourly, daily, weekly, monthly, yearly, within: self.keep_within })
    }
}

pub fn run(args: &ForgetArgs, app: &App) -> Result<Ended, Failure> {
    let repo = app.open()?;
    let state = app.readable(&repo)?;
    let options = ForgetOptions { even_last: args.even_last, even_many: args.even_many };
    let zone = &app.around.zone;
    let requests = if !args.snapshots.is_empty() {
        let find = |selector: &SnapshotSelector| {
            selector.resolve(&state, args.source.as_deref(), zone).map(|snapshot| snapshot.snapshot.id)
        };
        let ids = args.snapshots.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        vec![Request::of_snapshots(ids, args.reason.as_deref())]
    } else if let Some(rule) = args.rule() {
        vec![Request::of_rule(args.source.as_deref(), rule, zone)]
    } else {
        let config = app.config()?;
        Request::of_config(&config, app.repository_name(&config, None)?, zone)?.into_values().collect()
    };
    let mut plans = Vec::new();
    for request in &requests {
        plans.push(match args.dry_run {
            true => request.plan(&repo, options, &app.cx)?,
            false => request.carry_out(&repo, options, &app.cx)?.plan,
        });
    }
    app.output.result(Ended::Well, &plans, &text(&plans, args.dry_run, app));
    Ok(Ended::Well)
}

fn text(plans: &[ForgetPlan], dry_run: bool, app: &App) -> String {
    let mut table = Table::new(&[
        ("", Align::Left),
        ("", Align::Left),
        ("", Align::Left),
        ("", Align::Left),
        ("", Align::Left),
    ]);
    let verb = if dry_run { "would forget" } else { "forgot" };
    for snapshot in plans.iter().flat_map(|plan| &plan.snapshots) {
        let why: Vec<_> = snapshot.kept_by.iter().map(ToString::to_string).collect();
        let (what, why) = match snapshot.is_kept() {
            true => (marked(Mark::Good, "keep"), why.join(", ")),
            false => (marked(Mark::Doubtful, verb), "no rule keeps it".to_owned()),
        };
        let moment = app.time(snapshot.moment);
        table.row([what, snapshot.id.short(), snapshot.source_name.clone(), moment, why]);
    }
    let n_forgotten: usize = plans.iter().map(|plan| plan.forgotten().count()).sum();
    let snapshots = count(n_forgotten as u64, "snapshot", "snapshots");
    let mut text = table.text();
    match (dry_run, n_forgotten) {
        (_, 0) => text.push_str("\nNothing is to be forgotten.\n"),
        (true, _) => text.push_str(&format!("\nWould forget {snapshots}; nothing was changed.\n")),
        (false, _) => text.push_str(&format!(
            "\nForgot {snapshots}. `hikae undelete` brings them back; `hikae prune` frees their space.\n"
        )),
    }
    text
}
