//! `hikae backup`

use super::{copy, export, prune, shown};
use crate::app::App;
use crate::failure::{Ended, Failure};
use crate::page::{Align, Mark, Table, count, marked};
use clap::{Args, ValueEnum};
use hikae_model::{Bytes, Count, ErrorCode, Outcome, sabotage};
use hikae_ops::Repo;
use hikae_ops::backup::{BackupOptions, NamedSource, backup};
use hikae_ops::backup_plan::{PlannedFiles, PlannedSource, plan_backup};
use hikae_ops::config::{Config, JobConfig};
use hikae_ops::copy::{CopyReport, CopyRequest, copy as copy_planned, plan_copy};
use hikae_ops::export::{Export, ExportReport};
use hikae_ops::report::BackupReport;
use hikae_ops::retain::{Retained, retain};
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;

/// How long a key epoch lasts (decision 4 of the design).
pub const EPOCH_DAYS: i64 = 90;

/// Back up what the configuration names, as one run
#[derive(Debug, Args)]
#[command(
    after_help = "A job that has copies brings what it has made into those repositories. A job that has a retention forgets old snapshots \
                  by it after each good backup.\n\n\
                  Examples:\n  hikae backup\n  hikae backup --job nightly --type daily\n  \
                  hikae backup documents --description 'before the upgrade'"
)]
pub struct BackupArgs {
    /// Sources to back up [default: those of the job, or all]
    #[arg(value_name = "SOURCE")]
    sources: Vec<String>,
    /// Back up what this job of the configuration names
    #[arg(long, value_name = "NAME", conflicts_with = "sources")]
    job: Option<String>,
    /// Why it is made; kept with the snapshot
    #[arg(long = "type", value_enum, value_name = "TYPE", default_value_t = Purpose::Manual)]
    purpose: Purpose,
    /// A note that is kept with the snapshot
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Say what would be read and stored, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Why a snapshot is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Purpose {
    /// One of a day
    Daily,
    /// One of a week
    Weekly,
    /// One of a month
    Monthly,
    /// Somebody wanted it
    Manual,
}

impl Purpose {
    /// As the configuration and records write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Manual => "manual",
        }
    }
}

/// The sources of the configuration that these names stand for, ready to be read into `repo`.
pub fn open_sources(
    names: &[&str],
    config: &Config,
    repo: &Repo,
    app: &App,
) -> Result<Vec<NamedSource>, Failure> {
    require_some(names)?;
    let neighbours = config.neighbours(repo, &app.around);
    let open = |name: &&str| Ok(config.source(name)?.open(name, &neighbours, &app.around, &app.cx)?);
    names.iter().map(open).collect()
}

fn require_some(names: &[&str]) -> Result<(), Failure> {
    if names.is_empty() {
        let advice = "add one with `hikae protect FOLDER`, or [source.NAME] in the configuration";
        return Err(Failure::new(
            ErrorCode::Usage,
            "the configuration names no sources",
            Some(advice.into()),
        ));
    }
    Ok(())
}

pub fn run(args: &BackupArgs, app: &App) -> Result<Ended, Failure> {
    let config = app.config()?;
    let names: Vec<&str> = match args.sources.is_empty() {
        true => config.sources_of(args.job.as_deref())?,
        false => args.sources.iter().map(String::as_str).collect(),
    };
    let job = args.job.as_ref().and_then(|job| config.jobs.get(job));
    let of_job = job.and_then(|job| job.repository.as_deref());
    if args.dry_run {
        return dry_run(&names, &config, of_job, app);
    }
    require_some(&names)?;
    names.iter().try_for_each(|name| config.source(name).map(drop))?;
    let repo = app.open_of(of_job)?;
    let sources = open_sources(&names, &config, &repo, app)?;
    let description = args.description.clone().or_else(|| job.and_then(|job| job.description.clone()));
    let options = BackupOptions {
        purpose: args.purpose.name().to_owned(),
        description,
        host: app.around.host.clone(),
        epoch_days: EPOCH_DAYS,
    };
    let report = {
        let _progress = app.progress();
        backup(&repo, &sources, &options, &app.cx)?
    };
    let mut ended = ended(&report);
    let mut text = shown::backup(&report);
    let copies = copy_run(job, &repo, &report, app);
    for copied in &copies {
        text.push_str(&format!("\n{}", copied.text(app)));
        ended = ended.or(copied.ended());
    }
    let exports = match job {
        Some(job) => exports_of(job, &config, &repo, &report, app),
        None => Vec::new(),
    };
    for (name, exported) in &exports {
        let (of_export, shown) = export::told(name, exported, app);
        text.push_str(&format!("\n{shown}"));
        if ended == Ended::Well && !sabotage::on("export-failure-hidden") {
            ended = of_export;
        }
    }
    let retained = match (job, app.repository_name(&config, of_job)?) {
        (Some(job), Some(repository)) => {
            let _progress = app.progress();
            retain(&repo, (&config, job, repository), &report, &app.around.zone, &app.cx)
        }
        // Where a command line names another store, the rules of the configuration are not for it.
        _ => Ok(None),
    };
    let retention = match retained {
        Ok(None) => None,
        Ok(Some(retained)) => {
            text.push_str(&retained_text(&retained, app));
            Some(Obeyed::Done(Box::new(retained)))
        }
        Err(error) => {
            // The snapshots stand; what should have followed did not, and that shows.
            let failure = Failure::from(error);
            if ended == Ended::Well && !sabotage::on("retention-failure-hidden") {
                ended = Ended::With(failure.code());
            }
            text.push_str(&format!(
                "\n{} by the retention of the job: {}\n",
                marked(Mark::Bad, "Nothing was forgotten"),
                failure.message()
            ));
            let hint = failure.advice().map(|hint| hint.into_owned());
            if let Some(hint) = &hint {
                text.push_str(&format!("  {} {hint}\n", marked(Mark::Faint, "hint:")));
            }
            Some(Obeyed::Failed { code: failure.code().name(), message: failure.message(), hint })
        }
    };
    let exports = exports.into_iter().map(|(name, exported)| export::Told::of(name, exported)).collect();
    app.output.result(ended, &BackedUp { report: &report, copies, exports, retention }, &text);
    Ok(ended)
}

/// Carries out the exports of a job. What fails leaves the snapshots as they are, and shows.
fn exports_of(
    job: &JobConfig,
    config: &Config,
    repo: &Repo,
    report: &BackupReport,
    app: &App,
) -> Vec<(String, Result<ExportReport, Failure>)> {
    let _progress = app.progress();
    let one = |name: &String| {
        let settings = config.export(name)?;
        let export = Export { name, config: settings, all: config };
        let snapshots = export.of_run(repo, report)?;
        match snapshots.is_empty() {
            true => Ok(None),
            false => Ok::<_, Failure>(Some(export.export(repo, &snapshots, &app.around, &app.cx)?)),
        }
    };
    let named = job.exports.iter().map(|name| (name.clone(), one(name).transpose()));
    named.filter_map(|(name, exported)| Some((name, exported?))).collect()
}

#[derive(Serialize)]
struct BackedUp<'a> {
    #[serde(flatten)]
    report: &'a BackupReport,
    /// What came of each copy of the job; left out where there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    copies: Vec<CopyOfRun>,
    /// What the exports of the job did.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    exports: Vec<export::Told>,
    /// What the retention of the job did; left out where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    retention: Option<Obeyed>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Obeyed {
    Done(Box<Retained>),
    Failed { code: &'static str, message: String, hint: Option<String> },
}

/// What came of one copy of a run.
#[derive(Serialize)]
struct CopyOfRun {
    /// The name of the repository in the configuration.
    repository: String,
    #[serde(flatten)]
    done: Done,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Done {
    Done(Box<CopyReport>),
    Failed {
        code: &'static str,
        message: String,
        hint: Option<String>,
        #[serde(skip)]
        ends_with: ErrorCode,
    },
}

impl CopyOfRun {
    fn ended(&self) -> Ended {
        match &self.done {
            _ if sabotage::on("copy-failure-hidden") => Ended::Well,
            Done::Done(report) => report.code().map_or(Ended::Well, Ended::With),
            Done::Failed { ends_with, .. } => Ended::With(*ends_with),
        }
    }

    fn text(&self, app: &App) -> String {
        match &self.done {
            Done::Done(report) => copy::text(report, app),
            Done::Failed { message, hint, .. } => {
                let mut text = format!(
                    "{} to {}: {message}\n",
                    marked(Mark::Bad, "Nothing was copied"),
                    self.repository
                );
                if let Some(hint) = hint {
                    text.push_str(&format!("  {} {hint}\n", marked(Mark::Faint, "hint:")));
                }
                text
            }
        }
    }
}

/// Copies what a run of a job has made into each repository that the job names. One that cannot be reached takes nothing
/// from the backup and nothing from the others.
fn copy_run(job: Option<&JobConfig>, repo: &Arc<Repo>, report: &BackupReport, app: &App) -> Vec<CopyOfRun> {
    let Some(job) = job.filter(|_| report.log_entry.is_some()) else { return Vec::new() };
    let sources = report.snapshots.iter().filter(|snapshot| snapshot.id.is_some());
    let sources: Vec<String> = sources.map(|snapshot| snapshot.source.clone()).collect();
    let copied = job.copies.iter().map(|name| {
        let copied = copy_into(name, repo, sources.clone(), app);
        let done = copied.map(|report| Done::Done(Box::new(report))).unwrap_or_else(|failure| Done::Failed {
            code: failure.code().name(),
            message: failure.message(),
            hint: failure.advice().map(|hint| hint.into_owned()),
            ends_with: failure.code(),
        });
        CopyOfRun { repository: name.clone(), done }
    });
    copied.collect()
}

fn copy_into(name: &str, repo: &Arc<Repo>, sources: Vec<String>, app: &App) -> Result<CopyReport, Failure> {
    let to = app.open_place(&app.place_of_other(Path::new(name))?)?;
    let request = CopyRequest { sources, only_newer: true, ..CopyRequest::default() };
    let plan = plan_copy(repo, &to, &request, &app.around.zone)?;
    let _progress = app.progress();
    Ok(copy_planned(repo, &to, &plan, &app.cx)?)
}

fn retained_text(retained: &Retained, app: &App) -> String {
    let n_kept: usize =
        retained.forgotten.iter().flat_map(|plan| &plan.snapshots).filter(|one| one.is_kept()).count();
    let n_forgotten: usize = retained.forgotten.iter().map(|plan| plan.forgotten().count()).sum();
    let mut text = String::new();
    if !retained.forgotten.is_empty() {
        text.push_str(&format!(
            "\nBy the retention of the job, {} forgotten and {n_kept} kept.\n",
            count(n_forgotten as u64, "snapshot was", "snapshots were"),
        ));
    }
    for source in &retained.left_alone {
        text.push_str(&format!("Nothing of {source} was forgotten: this run did not get all of it.\n"));
    }
    if let Some(pruned) = &retained.pruned {
        text.push_str(&format!("\n{}", prune::pruned_text(pruned, app)));
    }
    text
}

/// A run of one source that failed ends with what that source said; one of several with the worst outcome.
pub fn ended(report: &BackupReport) -> Ended {
    worst(report.snapshots.iter().map(|snapshot| {
        let failed = snapshot.problems.first().filter(|_| snapshot.outcome == Outcome::Failed);
        (snapshot.outcome, failed.map(|problem| code_named(&problem.code)))
    }))
}

/// How a run ends whose sources end so, each that failed with its code.
fn worst(sources: impl Iterator<Item = (Outcome, Option<ErrorCode>)>) -> Ended {
    let (outcomes, codes): (Vec<_>, Vec<_>) = sources.unzip();
    match outcomes.into_iter().max().unwrap_or(Outcome::Complete) {
        Outcome::Failed => {
            let mut codes: Vec<ErrorCode> = codes.into_iter().flatten().collect();
            codes.dedup();
            match codes.as_slice() {
                [one] => Ended::With(*one),
                _ => Ended::With(ErrorCode::Failure),
            }
        }
        outcome => outcome.into(),
    }
}

fn code_named(name: &str) -> ErrorCode {
    ErrorCode::ALL.into_iter().find(|code| code.name() == name).unwrap_or(ErrorCode::Failure)
}

fn dry_run(names: &[&str], config: &Config, of_job: Option<&str>, app: &App) -> Result<Ended, Failure> {
    require_some(names)?;
    let plan = {
        let repo = app.open_of(of_job)?;
        let _progress = app.progress();
        plan_backup(&repo, config, names, &app.around, &app.cx)?
    };
    let ended = worst(plan.iter().map(|planned| (planned.outcome, planned.code)));
    app.output.result(ended, &plan, &plan_text(&plan));
    Ok(ended)
}

fn plan_text(plan: &[PlannedSource]) -> String {
    let mut table = Table::new(&[
        ("source", Align::Left),
        ("kind", Align::Left),
        ("new", Align::Right),
        ("changed", Align::Right),
        ("unchanged", Align::Right),
        ("gone", Align::Right),
        ("size", Align::Right),
        ("to read", Align::Right),
        ("", Align::Left),
    ]);
    let mut problems = String::new();
    for planned in plan {
        let known = planned.outcome != Outcome::Failed;
        let or_dash = |text: Option<String>| text.filter(|_| known).unwrap_or_else(|| "-".to_owned());
        let files = |count: fn(&PlannedFiles) -> u64| {
            or_dash(planned.files.as_ref().map(|files| Count(count(files)).to_string()))
        };
        let verdict = match planned.outcome {
            Outcome::Complete => marked(Mark::Good, "ready"),
            Outcome::WithProblems => marked(Mark::Doubtful, "would be partial"),
            Outcome::Failed => marked(Mark::Bad, "would fail"),
        };
        table.row([
            planned.source.clone(),
            planned.kind.to_owned(),
            files(|files| files.new),
            files(|files| files.changed),
            files(|files| files.unchanged),
            files(|files| files.gone),
            or_dash(Some(Bytes(planned.bytes).to_string())),
            or_dash(Some(Bytes(planned.read_bytes).to_string())),
            verdict,
        ]);
        if !planned.problems.is_empty() {
            problems.push_str(&format!("\n{}:\n", marked(Mark::Strong, &planned.source)));
            problems.push_str(&shown::problems(&planned.problems, planned.problems.len() as u64, ""));
        }
    }
    let read: u64 = plan.iter().map(|planned| planned.read_bytes).sum();
    let stored =
        match plan.iter().any(|planned| planned.files.is_none() && planned.outcome != Outcome::Failed) {
            true => ", and of databases only the parts that are new",
            false => "",
        };
    format!(
        "{}{problems}\nWould read {} and store at most that, compressed, without what the repository has already{stored}.\n\
         No content was read and nothing written.\n",
        table.text(),
        Bytes(read)
    )
}
