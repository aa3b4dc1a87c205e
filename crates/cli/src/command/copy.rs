//! `hikae copy`

use crate::app::App;
use crate::command::shown;
use crate::failure::{Ended, Failure};
use crate::page::{Align, Mark, Table, count, duration, marked};
use clap::Args;
use hikae_model::{Bytes, Count, ErrorCode, Outcome};
use hikae_ops::copy::{CopyPlan, CopyReport, CopyRequest, copy, plan_copy};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use std::path::PathBuf;

/// Copy snapshots into another repository of the family, sealed as they are
#[derive(Debug, Args)]
#[command(
    after_help = "It brings what the other one lacks and has not forgotten; asked again, what is still missing. Nothing is \
                  opened on the way, so a host that only writes can copy. The other repository is one that was made with \
                  `hikae init --like`.\n\n\
                  Examples:\n  hikae copy --to offsite\n  hikae copy app-db --to offsite\n  \
                  hikae copy --to /mnt/disk/hikae --date 2026-11-20 --time-zone Asia/Tokyo"
)]
pub struct CopyArgs {
    /// Snapshots or sources to copy [default: everything]
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    /// The repository to copy into: a name of the configuration, a directory or a bucket
    #[arg(long, value_name = "REPO")]
    to: PathBuf,
    /// Only of this source
    #[arg(long, value_name = "NAME")]
    source: Vec<String>,
    /// Only what this run has made, by the beginning of its id
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
    /// Only what is of this day
    #[arg(long, value_name = "DATE")]
    date: Option<Date>,
    /// The zone of that day, as Asia/Tokyo [default: the one of this machine]
    #[arg(long, value_name = "ZONE", requires = "date")]
    time_zone: Option<String>,
    /// Only what is newer than the newest that is there, of each source
    #[arg(long)]
    newer: bool,
    /// Say what would be copied, and copy nothing
    #[arg(long)]
    dry_run: bool,
}

pub fn run(args: &CopyArgs, app: &App) -> Result<Ended, Failure> {
    let zone = match &args.time_zone {
        None => app.around.zone.clone(),
        Some(name) => TimeZone::get(name).map_err(|error| {
            let advice = "name it as the time zone database does, as Asia/Tokyo";
            Failure::new(ErrorCode::Usage, format!("`{name}` is no time zone: {error}"), Some(advice.into()))
        })?,
    };
    let from = app.open()?;
    let to = app.open_place(&app.place_of_other(&args.to)?)?;
    let state = app.readable(&from)?;
    let is_source = |name: &&String| state.snapshots.values().any(|known| known.snapshot.source == **name);
    let (sources, snapshots): (Vec<&String>, Vec<&String>) = args.snapshots.iter().partition(is_source);
    let request = CopyRequest {
        snapshots: snapshots
            .into_iter()
            .map(|text| text.parse().unwrap_or_else(|never| match never {}))
            .collect(),
        sources: sources.into_iter().chain(&args.source).cloned().collect(),
        run: args.run.clone(),
        day: args.date,
        only_newer: args.newer,
    };
    let plan = plan_copy(&from, &to, &request, &zone)?;
    if args.dry_run {
        app.output.result(Ended::Well, &plan, &plan_text(&plan, app));
        return Ok(Ended::Well);
    }
    let report = {
        let _progress = app.progress();
        copy(&from, &to, &plan, &app.cx)?
    };
    let ended = report.code().map_or(Ended::Well, Ended::With);
    app.output.result(ended, &report, &text(&report, app));
    Ok(ended)
}

fn plan_text(plan: &CopyPlan, app: &App) -> String {
    let mut table = Table::new(&[
        ("snapshot", Align::Left),
        ("moment", Align::Left),
        ("source", Align::Left),
        ("", Align::Left),
    ]);
    for planned in &plan.missing {
        let state = if planned.complete { String::new() } else { marked(Mark::Doubtful, "partial") };
        table.row([planned.id.short(), app.time(planned.moment), planned.source.clone(), state]);
    }
    let missing = count(plan.missing.len() as u64, "snapshot", "snapshots");
    format!(
        "{}Would copy {missing}{}; nothing was written.\n",
        table.text(),
        others(plan.n_there, plan.n_let_go)
    )
}

/// What was wanted and needs no copying.
fn others(n_there: u64, n_let_go: u64) -> String {
    let mut text = String::new();
    if n_there > 0 {
        text.push_str(&format!("; {} there already", Count(n_there)));
    }
    if n_let_go > 0 {
        text.push_str(&format!("; {} that the copy has forgotten stay so", Count(n_let_go)));
    }
    text
}

/// What a copy did, in words.
pub fn text(report: &CopyReport, app: &App) -> String {
    let mut table =
        Table::new(&[("snapshot", Align::Left), ("moment", Align::Left), ("source", Align::Left)]);
    for copied in &report.copied {
        table.row([copied.id.short(), app.time(copied.moment), copied.source.clone()]);
    }
    let mut text = if report.copied.is_empty() { String::new() } else { table.text() };
    let copied = count(report.copied.len() as u64, "snapshot", "snapshots");
    text.push_str(&format!(
        "Copied {copied} to {}{}: {} stored in {}.\n",
        marked(Mark::Strong, &report.to),
        others(report.n_there, report.n_let_go),
        Bytes(report.stored_bytes),
        duration(report.seconds)
    ));
    if let Some(log) = &report.log {
        let files = count(log.files, "file", "files");
        text.push_str(&format!(
            "Copied {files} of archived log, {} stored; {} there already.\n",
            Bytes(log.stored_bytes),
            Count(log.files_there)
        ));
    }
    if report.packs_there > 0 {
        let packs = count(report.packs_there, "pack was", "packs were");
        text.push_str(&format!("{packs} there from a copy that did not come to its end.\n"));
    }
    let check = &report.check;
    if !report.copied.is_empty() {
        let mark = if report.outcome == Outcome::Complete { Mark::Good } else { Mark::Doubtful };
        text.push_str(&format!(
            "{} {} of {} entries listed, {} of {} packs there.\n",
            marked(mark, "checked:"),
            Count(check.entries),
            Count(check.entries_expected),
            Count(check.packs),
            Count(check.packs_expected)
        ));
    }
    text.push_str(&shown::problems(&report.problems, report.problems.len() as u64, ""));
    text
}
