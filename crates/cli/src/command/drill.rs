//! `hikae drill`

use super::shown;
use crate::app::{App, Chosen, wal_program};
use crate::failure::{Ended, Failure};
use crate::page::{Mark, marked};
use clap::Args;
use hikae_model::{ErrorCode, Outcome, SnapshotId};
use hikae_ops::Repo;
use hikae_ops::drill::{DrillOptions, DrillReport, drill};
use hikae_ops::select::SnapshotSelector;
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// Restore into a scratch place, compare everything, and keep signed evidence
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  hikae drill\n  hikae drill shop --scratch /var/tmp")]
pub struct DrillArgs {
    /// Snapshots [default: the latest of each source]
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<SnapshotSelector>,
    /// Source to choose from
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Where PostgreSQL's server programs are, if not in one of the usual places
    #[arg(long, value_name = "DIR")]
    program_directory: Option<PathBuf>,
    /// As which user a throwaway server runs if we are root
    #[arg(long, value_name = "USER")]
    run_as: Option<String>,
    /// The program hikae-wal, if it is not beside this one
    #[arg(long, value_name = "FILE")]
    wal_program: Option<PathBuf>,
    /// Say what would be restored, and restore nothing
    #[arg(long)]
    dry_run: bool,
}

/// Snapshots that were drilled, and those that could not be.
#[derive(Serialize)]
pub struct Drilled {
    /// What the drills showed.
    pub drills: Vec<DrillReport>,
    /// What kept a drill from being done; it says nothing about the snapshot.
    pub not_done: Vec<NotDone>,
}

/// A drill that was not done.
#[derive(Serialize)]
pub struct NotDone {
    snapshot: SnapshotId,
    source: String,
    code: &'static str,
    message: String,
    hint: Option<String>,
    #[serde(skip)]
    error: ErrorCode,
}

impl Drilled {
    /// Drills one snapshot after the other.
    ///
    /// # Errors
    /// Only the end of all work, as cancellation: a drill that cannot be done is in the result.
    pub fn all(
        repo: &Arc<Repo>,
        snapshots: &[(SnapshotId, String)],
        options: &DrillOptions,
        app: &App,
    ) -> Result<Self, Failure> {
        let _progress = app.progress();
        let mut drilled = Self { drills: Vec::new(), not_done: Vec::new() };
        for (snapshot, source) in snapshots {
            match drill(repo, *snapshot, options, &app.around, &app.cx) {
                Ok(report) => drilled.drills.push(report),
                Err(error) => {
                    let failure = Failure::from(error);
                    if failure.code() == ErrorCode::Interrupted {
                        return Err(failure);
                    }
                    drilled.not_done.push(NotDone {
                        snapshot: *snapshot,
                        source: source.clone(),
                        code: failure.code().name(),
                        message: failure.message(),
                        hint: failure.advice().map(|hint| hint.into_owned()),
                        error: failure.code(),
                    });
                }
            }
        }
        Ok(drilled)
    }

    /// Verification failed if one drill did; else what kept one from being done, or was wrong with one.
    pub fn ended(&self) -> Ended {
        let worst = self.drills.iter().map(|report| report.outcome).max().unwrap_or(Outcome::Complete);
        match (worst, self.not_done.first()) {
            (Outcome::Failed, _) => Ended::With(ErrorCode::VerificationFailed),
            (_, Some(not_done)) => Ended::With(not_done.error),
            (worst, None) => worst.into(),
        }
    }

    /// The results, one after the other.
    pub fn text(&self, app: &App) -> String {
        let mut text: String = self.drills.iter().map(|report| shown::drill(report, app)).collect();
        for not_done in &self.not_done {
            text.push_str(&format!(
                "{}  {}  {}\n",
                marked(Mark::Doubtful, "not drilled"),
                marked(Mark::Strong, &not_done.source),
                not_done.message
            ));
            if let Some(hint) = &not_done.hint {
                text.push_str(&format!("  {} {hint}\n", marked(Mark::Faint, "hint:")));
            }
        }
        text
    }
}

pub fn run(args: &DrillArgs, app: &App) -> Result<Ended, Failure> {
    let repo = app.open()?;
    // What this machine has kept near would prove nothing.
    repo.set_copies_aside();
    let state = repo.follow()?;
    let mut snapshots = Vec::new();
    if args.snapshots.is_empty() {
        let sources: BTreeSet<&str> =
            state.snapshots.values().map(|one| one.snapshot.source.as_str()).collect();
        for source in
            sources.into_iter().filter(|name| args.source.as_deref().is_none_or(|only| only == *name))
        {
            snapshots.push(app.choose(&repo, &SnapshotSelector::Latest, Some(source))?);
        }
    }
    for selector in &args.snapshots {
        snapshots.push(app.choose(&repo, selector, args.source.as_deref())?);
    }
    let snapshots: Vec<_> = snapshots.iter().map(Chosen::snapshot).collect();
    if snapshots.is_empty() {
        let advice = "make one with `hikae backup`";
        return Err(Failure::new(ErrorCode::Usage, "there is no snapshot to drill", Some(advice.into())));
    }
    let wanted: Vec<_> = snapshots.iter().map(|one| (one.snapshot.id, one.snapshot.source.clone())).collect();
    if args.dry_run {
        let lines = snapshots.iter().map(|one| {
            let snapshot = &one.snapshot;
            format!(
                "would restore {} {} of {}\n",
                snapshot.source,
                snapshot.id.short(),
                app.time(snapshot.moment)
            )
        });
        let text: String = lines.collect();
        let text = format!("{text}into {}, compare it, and remove it again\n", app.around.scratch.display());
        app.output.result(Ended::Well, &wanted, &text);
        return Ok(Ended::Well);
    }
    let options = DrillOptions {
        program_directory: args.program_directory.clone(),
        run_as: args.run_as.clone(),
        wal_program: Some(wal_program(args.wal_program.as_deref())?),
    };
    let drilled = Drilled::all(&repo, &wanted, &options, app)?;
    app.output.result(drilled.ended(), &drilled, &drilled.text(app));
    Ok(drilled.ended())
}
