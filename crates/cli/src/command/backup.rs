//! `hikae backup`

use super::shown;
use crate::app::App;
use crate::failure::{Ended, Failure};
use crate::page::{Align, Mark, Table, marked};
use clap::{Args, ValueEnum};
use hikae_model::{Advise, ErrorCode, Outcome, Problem};
use hikae_ops::backup::{BackupOptions, NamedSource, backup};
use hikae_ops::config::Config;
use hikae_ops::report::BackupReport;
use serde::Serialize;

/// How long a key epoch lasts (decision 4 of the design).
pub const EPOCH_DAYS: i64 = 90;

/// Back up what the configuration names, as one run
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  hikae backup\n  hikae backup documents --description 'before the upgrade'"
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
    /// See whether it could be done, and do nothing
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
    fn name(self) -> &'static str {
        match self {
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Manual => "manual",
        }
    }
}

/// The sources of the configuration that these names stand for, ready to be read.
pub fn open_sources(names: &[&str], config: &Config, app: &App) -> Result<Vec<NamedSource>, Failure> {
    if names.is_empty() {
        let advice = "add one with `hikae protect FOLDER`, or [source.NAME] in the configuration";
        return Err(Failure::new(
            ErrorCode::Usage,
            "the configuration names no sources",
            Some(advice.into()),
        ));
    }
    let open = |name: &&str| Ok(config.source(name)?.open(name, &app.around, &app.cx)?);
    names.iter().map(open).collect()
}

pub fn run(args: &BackupArgs, app: &App) -> Result<Ended, Failure> {
    let config = app.config()?;
    let names: Vec<&str> = match args.sources.is_empty() {
        true => config.sources_of(args.job.as_deref())?,
        false => args.sources.iter().map(String::as_str).collect(),
    };
    let sources = open_sources(&names, &config, app)?;
    if args.dry_run {
        return dry_run(&sources, app);
    }
    let job = args.job.as_ref().and_then(|job| config.jobs.get(job));
    let description = args.description.clone().or_else(|| job.and_then(|job| job.description.clone()));
    let repo = app.open()?;
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
    let ended = ended(&report);
    app.output.result(ended, &report, &shown::backup(&report));
    Ok(ended)
}

/// A run of one source that failed ends with what that source said; one of several with the worst outcome.
pub fn ended(report: &BackupReport) -> Ended {
    match report.outcome {
        Outcome::Failed => {
            let failed = report.snapshots.iter().filter(|snapshot| snapshot.outcome == Outcome::Failed);
            let codes = failed
                .filter_map(|snapshot| snapshot.problems.first())
                .map(|problem| code_named(&problem.code));
            let mut codes: Vec<ErrorCode> = codes.collect();
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

/// What a source would do, as far as can be seen without reading it.
#[derive(Serialize)]
struct PlannedSource {
    source: String,
    kind: &'static str,
    problems: Vec<Problem>,
}

fn dry_run(sources: &[NamedSource], app: &App) -> Result<Ended, Failure> {
    let mut ended = Ended::Well;
    let mut table = Table::new(&[("source", Align::Left), ("kind", Align::Left), ("", Align::Left)]);
    let mut plan = Vec::new();
    let mut text = String::new();
    for named in sources {
        let problems = match named.source.check(&app.cx) {
            Ok(problems) => problems,
            Err(error) => {
                ended = Ended::With(error.code());
                let failure = Failure::from(error);
                let problem = Problem::new(failure.code().name(), &named.name, failure.message());
                vec![match failure.advice() {
                    Some(advice) => problem.advise(advice),
                    None => problem,
                }]
            }
        };
        let state = match problems.is_empty() {
            true => marked(Mark::Good, "ready"),
            false => marked(Mark::Doubtful, "see below"),
        };
        table.row([named.name.clone(), named.source.kind().to_owned(), state]);
        text.push_str(&shown::problems(&problems, problems.len() as u64, ""));
        plan.push(PlannedSource { source: named.name.clone(), kind: named.source.kind(), problems });
    }
    let text = format!("{}{text}\nNothing was read and nothing written.\n", table.text());
    app.output.result(ended, &plan, &text);
    Ok(ended)
}
