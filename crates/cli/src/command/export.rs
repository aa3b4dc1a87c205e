//! `hikae export`

use super::shown;
use crate::app::{App, absolute};
use crate::failure::{Ended, Failure};
use crate::page::{Align, Mark, Table, count, marked};
use clap::Args;
use hikae_model::{Bytes, ErrorCode, Outcome};
use hikae_ops::config::{Config, EncryptConfig, ExportConfig, StoreConfig, Template};
use hikae_ops::export::form::Form;
use hikae_ops::export::{Export, ExportPlan, ExportReport};
use hikae_ops::select::SnapshotSelector;
use serde::Serialize;
use std::path::PathBuf;

/// Write snapshots as ordinary files, which ordinary programs open
#[derive(Debug, Args)]
#[command(
    after_help = "What a name ends with says what the file is: .sql, .dump, .db, .tar, one file as itself, or / for a folder; .gz and .zst compress.\n\n\
                  Examples:\n  hikae export\n  hikae export monthly\n  \
                  hikae export app-files --to /mnt/usb --name '{source}_{time}.tar.zst'"
)]
pub struct ExportArgs {
    /// An export of the configuration, or with --to a snapshot: beginning of its id, a source, a time, `latest` [default: all
    /// exports of the configuration]
    #[arg(value_name = "EXPORT|SNAPSHOT")]
    what: Option<String>,
    /// Directory to write into, instead of that of the configuration
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// What the files are called, with {source}, {time} and the like
    #[arg(long, value_name = "TEMPLATE", requires = "to")]
    name: Option<String>,
    /// Encrypt for this age recipient or SSH public key; may be given several times
    #[arg(long, value_name = "KEY", requires = "to")]
    recipient: Vec<String>,
    /// Source to choose from
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Export this snapshot, instead of the newest complete one
    #[arg(long, value_name = "SNAPSHOT")]
    snapshot: Option<SnapshotSelector>,
    /// Say what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
}

pub fn run(args: &ExportArgs, app: &App) -> Result<Ended, Failure> {
    let config = app.config_or_none()?;
    let names: Vec<&str> = match &args.what {
        None => config.exports.keys().map(String::as_str).collect(),
        Some(name) if config.exports.contains_key(name) => vec![name],
        Some(what) if args.to.is_some() => return of_snapshot(args, what, &config, app),
        // Says which there are.
        Some(name) => vec![name],
    };
    if names.is_empty() {
        let advice =
            "add [export.NAME] to the configuration, or say what with `hikae export SNAPSHOT --to DIR`";
        return Err(Failure::new(
            ErrorCode::Usage,
            "the configuration names no exports",
            Some(advice.into()),
        ));
    }
    let mut settings = Vec::new();
    for name in names {
        settings.push((name, changed(config.export(name)?, args)?));
    }
    let repo = app.open()?;
    let state = app.readable(&repo)?;
    let mut work = Vec::new();
    for (name, settings) in &settings {
        let export = Export { name, config: settings, all: &config };
        let snapshots = match &args.snapshot {
            Some(snapshot) => {
                let source = args.source.as_deref().or(match settings.sources.as_slice() {
                    [one] => Some(one),
                    _ => None,
                });
                vec![snapshot.resolve(&state, source, &app.around.zone)?.snapshot.id]
            }
            None => export.newest(&repo, &state)?,
        };
        work.push((export, snapshots));
    }
    if args.dry_run {
        let plans = work.iter().map(|(export, snapshots)| export.plan(&repo, snapshots, &app.around));
        let plans = plans.collect::<Result<Vec<_>, _>>()?;
        return Ok(planned(&plans, app));
    }
    let mut reports = Vec::new();
    {
        let _progress = app.progress();
        for (export, snapshots) in &work {
            reports.push(export.export(&repo, snapshots, &app.around, &app.cx)?);
        }
    }
    Ok(done(&reports, app))
}

/// The settings of an export, as far as the command line does not say otherwise.
fn changed(config: &ExportConfig, args: &ExportArgs) -> Result<ExportConfig, Failure> {
    let mut config = config.clone();
    if let Some(to) = &args.to {
        config.to = StoreConfig::Directory(absolute(to)?);
    }
    if let Some(name) = &args.name {
        config.name = template(name)?;
    }
    if !args.recipient.is_empty() {
        config.encrypt = Some(EncryptConfig::Age(args.recipient.clone()));
    }
    Ok(config)
}

fn template(text: &str) -> Result<Template, Failure> {
    Template::parse(text).map_err(|error| Failure::new(ErrorCode::Usage, format!("--name: {error}"), None))
}

/// An export that no configuration tells of.
fn of_snapshot(args: &ExportArgs, what: &str, config: &Config, app: &App) -> Result<Ended, Failure> {
    let repo = app.open()?;
    let state = app.readable(&repo)?;
    let selector: SnapshotSelector = what.parse().unwrap_or_else(|never| match never {});
    let snapshot = selector.resolve(&state, args.source.as_deref(), &app.around.zone)?.snapshot.clone();
    let kind = repo.snapshot(snapshot.id).map_err(hikae_ops::OpsError::from)?.record.kind;
    let name = template(args.name.as_deref().unwrap_or_else(|| Form::usual_name(&kind)))?;
    let to = args.to.clone().unwrap_or_default();
    let settings = changed(&ExportConfig::of(&snapshot.source, to, name), args)?;
    let export = Export { name: &snapshot.source, config: &settings, all: config };
    if args.dry_run {
        return Ok(planned(&[export.plan(&repo, &[snapshot.id], &app.around)?], app));
    }
    let report = {
        let _progress = app.progress();
        export.export(&repo, &[snapshot.id], &app.around, &app.cx)?
    };
    Ok(done(&[report], app))
}

fn planned(plans: &[ExportPlan], app: &App) -> Ended {
    let mut text = String::new();
    for plan in plans {
        let mut table = Table::new(&[
            ("file", Align::Left),
            ("source", Align::Left),
            ("of", Align::Left),
            ("content", Align::Right),
            ("encryption", Align::Left),
        ]);
        for file in &plan.files {
            table.row([
                file.name.clone(),
                file.source.clone(),
                app.time(file.moment),
                Bytes(file.bytes).to_string(),
                file.encryption.unwrap_or("none").to_owned(),
            ]);
        }
        text.push_str(&format!(
            "{} into {}:\n{}\n",
            marked(Mark::Strong, &plan.export),
            plan.to,
            table.text()
        ));
        for name in &plan.goes {
            text.push_str(&format!("{name} would go, as `keep` says\n"));
        }
    }
    text.push_str("Nothing was written.\n");
    app.output.result(Ended::Well, &plans, &text);
    Ended::Well
}

fn done(reports: &[ExportReport], app: &App) -> Ended {
    let text: Vec<String> = reports.iter().map(|report| shown(report, app)).collect();
    let worst = reports.iter().max_by_key(|report| report.outcome);
    let ended = worst.map_or(Ended::Well, ended);
    app.output.result(ended, &reports, &text.join("\n"));
    ended
}

fn ended(report: &ExportReport) -> Ended {
    match (report.outcome, report.code) {
        (Outcome::Failed, Some(code)) => Ended::With(code),
        (outcome, _) => outcome.into(),
    }
}

fn shown(report: &ExportReport, app: &App) -> String {
    let mut table = Table::new(&[
        ("file", Align::Left),
        ("source", Align::Left),
        ("of", Align::Left),
        ("size", Align::Right),
    ]);
    for file in &report.files {
        let of = app.time(file.moment);
        table.row([file.name.clone(), file.source.clone(), of, Bytes(file.bytes).to_string()]);
    }
    let mut text = format!("{} into {}:\n", marked(Mark::Strong, &report.export), report.to);
    if !report.files.is_empty() {
        text.push_str(&table.text());
    }
    for name in &report.there_already {
        text.push_str(&format!("{name} is there already\n"));
    }
    for name in &report.removed {
        text.push_str(&format!("{} {name} went, as `keep` says\n", marked(Mark::Faint, "-")));
    }
    if !report.problems.is_empty() {
        text.push_str(&shown::problems(&report.problems, report.problems.len() as u64, ""));
    }
    match &report.manifest {
        Some(manifest) => text.push_str(&format!(
            "{} written, named by {manifest}\n",
            count(report.files.len() as u64, "file was", "files were")
        )),
        None => text.push_str("Nothing was written.\n"),
    }
    text
}

/// What came of an export of a job, for its run: how it ended, and what is to be said.
pub fn told(name: &str, exported: &Result<ExportReport, Failure>, app: &App) -> (Ended, String) {
    match exported {
        Ok(report) => (ended(report), shown(report, app)),
        Err(failure) => {
            let mut text =
                format!("{} {name}: {}\n", marked(Mark::Bad, "Nothing was exported by"), failure.message());
            if let Some(hint) = failure.advice() {
                text.push_str(&format!("  {} {hint}\n", marked(Mark::Faint, "hint:")));
            }
            (Ended::With(failure.code()), text)
        }
    }
}

/// The same for programs.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Told {
    /// It was carried out.
    Done(Box<ExportReport>),
    /// Nothing was exported.
    Failed {
        /// Name of the export.
        export: String,
        /// The kind of failure.
        code: &'static str,
        /// What failed.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
}

impl Told {
    /// What came of the export called `name`.
    pub fn of(name: String, exported: Result<ExportReport, Failure>) -> Self {
        match exported {
            Ok(report) => Self::Done(Box::new(report)),
            Err(failure) => Self::Failed {
                export: name,
                code: failure.code().name(),
                message: failure.message(),
                hint: failure.advice().map(std::borrow::Cow::into_owned),
            },
        }
    }
}
