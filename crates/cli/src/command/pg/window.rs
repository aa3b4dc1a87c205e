//! `hikae pg window`

use crate::app::App;
use crate::failure::{Ended, Failure};
use crate::page::{Align, Mark, Table, count, marked};
use clap::Args;
use hikae_model::{Bytes, ErrorCode};
use hikae_ops::config::Config;
use hikae_ops::pg::window::{MissingLog, WindowReport, window};
use hikae_ops::restore_cluster::KIND;
use jiff::Timestamp;
use serde_json::json;

/// Show the moments to which a server can come back, and where its log has gaps
#[derive(Debug, Args)]
#[command(
    after_help = "Ends with 13 if log is missing or nothing can be reached, in any repository of the source.\n\n\
    Examples:\n  hikae pg window\n  hikae pg window main --json"
)]
pub struct WindowArgs {
    /// Source of kind postgresql-cluster; all of them, if left out
    source: Option<String>,
}

pub fn run(args: &WindowArgs, app: &App) -> Result<Ended, Failure> {
    let mut reports = Vec::new();
    let mut text = String::new();
    let mut ended = Ended::Well;
    for (source, repository) in asked(args, app)? {
        let repo = app.open_of(repository.as_deref())?;
        let report = window(&repo, &source, &app.cx)?;
        if report.is_broken() {
            ended = Ended::With(ErrorCode::ObjectiveBreached);
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&page(&report, app));
        reports.push(json!({ "repository": repository, "window": report }));
    }
    app.output.result(ended, &reports, &text);
    Ok(ended)
}

/// Each source and each repository of its own; no name for the one that the command line says.
fn asked(args: &WindowArgs, app: &App) -> Result<Vec<(String, Option<String>)>, Failure> {
    let config = app.config_or_none()?;
    let sources = match &args.source {
        Some(source) => vec![source.clone()],
        None => sources(&config, app)?,
    };
    let mut asked = Vec::new();
    for source in sources {
        match (&app.global.store, &app.global.repository) {
            (None, None) => {
                let names = config.repositories_and_copies_of(&source)?.into_iter().map(str::to_owned);
                asked.extend(names.map(|name| (source.clone(), Some(name))));
            }
            _ => asked.push((source, None)),
        }
    }
    Ok(asked)
}

/// The servers of the configuration; where it has none, those of which the repository holds base backups.
fn sources(config: &Config, app: &App) -> Result<Vec<String>, Failure> {
    let configured = config.sources.iter().filter(|(_, source)| source.settings.kind() == KIND);
    let mut names: Vec<String> = configured.map(|(name, _)| name.clone()).collect();
    if names.is_empty() {
        let kept = hikae_ops::list::list(&*app.open()?, None)?;
        names.extend(kept.into_iter().filter(|snapshot| snapshot.kind == KIND).map(|one| one.source));
        names.sort_unstable();
        names.dedup();
    }
    match names.is_empty() {
        false => Ok(names),
        true => Err(Failure::new(
            ErrorCode::Usage,
            format!("there is no source of kind {KIND}"),
            Some("a [source.NAME] of that kind makes base backups; see the guide".into()),
        )),
    }
}

fn page(report: &WindowReport, app: &App) -> String {
    let heading = format!("{} (system {}) in {}", report.source, report.system, report.store);
    let mut text = format!("{}\n", marked(Mark::Strong, heading));
    if report.intervals.is_empty() {
        text.push_str(&format!("{}\n", marked(Mark::Bad, "Nothing can be reached.")));
    } else {
        text.push_str(&intervals(report, app));
    }
    for gap in &report.gaps {
        text.push_str(&missing(gap, app));
    }
    for timeline in &report.without_history {
        text.push_str(&format!(
            "{} the history of timeline {timeline} is not kept, so nothing before leads to it\n{} let the server archive {timeline:08X}.history again, or take a base backup now: hikae backup {}\n",
            marked(Mark::Bad, "missing:"),
            marked(Mark::Faint, "hint:"),
            report.source,
        ));
    }
    text.push_str(&bases(report, app));
    text.push_str(&format!(
        "{} of log, {}{}.\n",
        count(report.n_log_files, "file", "files"),
        Bytes(report.log_stored_bytes),
        report.log_came.map_or(String::new(), |came| format!(", the last came at {}", both(came, app))),
    ));
    if let Some(goes) = &report.log_goes {
        text.push_str(&format!(
            "{} of it, {}, {} before what is kept and {} with a prune after {}.\n",
            count(goes.n_files, "file", "files"),
            Bytes(goes.stored_bytes),
            if goes.n_files == 1 { "lies" } else { "lie" },
            if goes.n_files == 1 { "goes" } else { "go" },
            both(goes.after, app),
        ));
    }
    if report.sealed {
        text.push_str("The moments in the log are not known: this key does not open it. Give --identity.\n");
    }
    text
}

fn intervals(report: &WindowReport, app: &App) -> String {
    let mut table = Table::new(&[
        ("timeline", Align::Right),
        ("from", Align::Left),
        ("to the last commit", Align::Left),
        ("places", Align::Left),
        ("bases", Align::Right),
    ]);
    for interval in &report.intervals {
        let last =
            |show: &dyn Fn(Timestamp) -> String| interval.to_moment.map_or("not known".to_owned(), show);
        table.row([
            interval.timeline.to_string(),
            app.time(interval.from_moment),
            last(&|moment| app.time(moment)),
            format!("{} to {}", interval.from, interval.to),
            interval.n_bases.to_string(),
        ]);
        table.row([String::new(), utc(interval.from_moment), last(&utc), String::new(), String::new()]);
    }
    table.text()
}

fn missing(gap: &MissingLog, app: &App) -> String {
    let segments = match gap.n_segments {
        1 => format!("segment {} of timeline {} is not kept", gap.first, gap.timeline),
        n => format!("{n} segments of timeline {} are not kept, {} to {}", gap.timeline, gap.first, gap.last),
    };
    let (follows, hint) = match gap.goes_on {
        Some(moment) => (
            format!(
                "what was committed in them and after, up to the base backup of {}, cannot be reached",
                both(moment, app)
            ),
            "if the server or a standby still has them, let it archive them; nothing else brings them back",
        ),
        None => (
            "nothing behind them can be reached".to_owned(),
            "take a base backup now: `hikae backup`; then see in `hikae doctor` why they did not come",
        ),
    };
    format!("{} {segments}: {follows}\n{} {hint}\n", marked(Mark::Bad, "gap:"), marked(Mark::Faint, "hint:"))
}

fn bases(report: &WindowReport, app: &App) -> String {
    let mut table = Table::new(&[
        ("base backup", Align::Left),
        ("moment", Align::Left),
        ("timeline", Align::Right),
        ("place", Align::Left),
        ("", Align::Left),
    ]);
    for base in &report.bases {
        table.row([
            base.snapshot.short(),
            app.time(base.moment),
            base.timeline.to_string(),
            base.at.clone(),
            if base.leads_on { String::new() } else { marked(Mark::Bad, "its own log is not whole") },
        ]);
    }
    format!("\n{}", table.text())
}

/// A moment in the reader's zone and in UTC.
fn both(moment: Timestamp, app: &App) -> String {
    format!("{} ({})", app.time(moment), utc(moment))
}

fn utc(moment: Timestamp) -> String {
    moment.strftime("%F %T UTC").to_string()
}
