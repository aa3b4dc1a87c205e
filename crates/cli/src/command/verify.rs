//! `hikae verify`

use super::shown;
use crate::app::App;
use crate::failure::{Ended, Failure};
use crate::page::{Mark, count, duration, marked};
use clap::Args;
use hikae_model::{Bytes, ErrorCode, Outcome};
use hikae_ops::select::SnapshotSelector;
use hikae_ops::verify::{VerifyOptions, VerifyReport, verify};

/// Paths of a snapshot that are listed before the rest is counted.
const LISTED_PATHS: usize = 5;

/// Check that everything that is kept is what it should be
#[derive(Debug, Args)]
#[command(
    after_help = "Reads the log, every record, every index and the ends of all packs. With --read-data\n\
                        everything is read, opened and compared with its name."
)]
pub struct VerifyArgs {
    /// Only what these snapshots need
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<SnapshotSelector>,
    /// Source to choose from
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Read, open and compare all contents
    #[arg(long)]
    read_data: bool,
    /// Only so many in a hundred of the packs, drawn anew each time
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    sample: Option<u8>,
}

pub fn run(args: &VerifyArgs, app: &App) -> Result<Ended, Failure> {
    let repo = app.open()?;
    let find = |selector: &SnapshotSelector| {
        app.choose(&repo, selector, args.source.as_deref()).map(|chosen| chosen.id)
    };
    let snapshots = args.snapshots.iter().map(find).collect::<Result<Vec<_>, _>>()?;
    let options = VerifyOptions {
        read_data: args.read_data,
        sample: args.sample,
        snapshots: (!snapshots.is_empty()).then_some(snapshots),
    };
    let report = {
        let _progress = app.progress();
        verify(&repo, &options, &app.cx)?
    };
    let ended = ended(&report);
    app.output.result(ended, &report, &text(&report));
    Ok(ended)
}

/// Whatever is wrong, verification failed.
pub fn ended(report: &VerifyReport) -> Ended {
    match report.outcome {
        Outcome::Complete => Ended::Well,
        Outcome::WithProblems | Outcome::Failed => Ended::With(ErrorCode::VerificationFailed),
    }
}

/// What was looked at, and what is wrong.
pub fn text(report: &VerifyReport) -> String {
    let mut text = match report.outcome {
        Outcome::Complete if report.notes.is_empty() => marked(Mark::Good, "All is well"),
        Outcome::Complete => marked(Mark::Doubtful, "Nothing that is kept is damaged, and there are notes"),
        Outcome::WithProblems | Outcome::Failed => {
            marked(Mark::Bad, count(report.n_problems, "problem", "problems"))
        }
    };
    text.push_str(&format!(
        ": {}, {}, {} of {}{} read ({}), {} in {}\n",
        count(report.snapshots, "snapshot", "snapshots"),
        count(report.log_entries, "log entry", "log entries"),
        hikae_model::Count(report.packs_read),
        count(report.packs, "pack", "packs"),
        match report.wal_files {
            0 => String::new(),
            n => format!(
                " and {} of {} of write-ahead log",
                hikae_model::Count(report.wal_files_read),
                count(n, "file", "files")
            ),
        },
        Bytes(report.read_bytes),
        match report.blobs {
            0 => "contents not opened".to_owned(),
            n => format!("{} compared", count(n, "blob", "blobs")),
        },
        duration(report.seconds),
    ));
    text.push_str(&shown::problems(&report.problems, report.n_problems, "; --json lists more"));
    for note in &report.notes {
        text.push_str(&format!("  {} {note}\n", marked(Mark::Faint, "note:")));
        if let Some(advice) = &note.advice {
            text.push_str(&format!("    {advice}\n"));
        }
    }
    for hit in &report.hits {
        text.push_str(&format!("Hit in {} of {}:\n", hit.snapshot.short(), hit.source));
        for path in hit.paths.iter().take(LISTED_PATHS) {
            text.push_str(&format!("    {path}\n"));
        }
        let rest = hit.entries.saturating_sub(LISTED_PATHS.min(hit.paths.len()) as u64);
        if rest > 0 {
            text.push_str(&format!("    and {}\n", count(rest, "more", "more")));
        }
    }
    text
}
