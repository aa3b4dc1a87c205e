//! `hikae diff`

use crate::app::App;
use crate::failure::{Ended, Failure};
use crate::output::Form;
use crate::page::{Mark, count, marked};
use clap::Args;
use hikae_model::Bytes;
use hikae_ops::diff::{DiffTotals, EntryChange, diff};
use hikae_ops::select::SnapshotSelector;
use serde::Serialize;

/// Show what differs between two snapshots
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  hikae diff 3f2a latest --source documents")]
pub struct DiffArgs {
    /// The earlier snapshot
    first: SnapshotSelector,
    /// The later snapshot
    second: SnapshotSelector,
    /// Source to choose from
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
}

#[derive(Serialize)]
struct ChangedEntry {
    path: String,
    #[serde(flatten)]
    change: EntryChange,
}

#[derive(Serialize)]
struct DiffResult {
    first: String,
    second: String,
    #[serde(flatten)]
    totals: DiffTotals,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changes: Vec<ChangedEntry>,
}

pub fn run(args: &DiffArgs, app: &App) -> Result<Ended, Failure> {
    let repo = app.open()?;
    let find = |selector: &SnapshotSelector| {
        app.choose(&repo, selector, args.source.as_deref()).map(|chosen| chosen.id)
    };
    let (first, second) = (find(&args.first)?, find(&args.second)?);
    let mut changes = Vec::new();
    let totals = diff(&repo, first, second, &app.cx, &mut |path, change| {
        let changed = || ChangedEntry { path: path.to_owned(), change: change.clone() };
        match app.output.form {
            Form::Text => app.output.line(&line(path, change)),
            Form::JsonLines => app.output.event("change", &changed()),
            Form::Json => changes.push(changed()),
        }
        Ok(())
    })?;
    let DiffTotals { added, removed, changed, bytes_added, bytes_removed } = totals;
    let text = match added + removed + changed {
        0 => "Nothing differs.\n".to_owned(),
        _ => format!(
            "\n{}, {} removed, {} changed; {} more and {} less\n",
            count(added, "entry added", "entries added"),
            hikae_model::Count(removed),
            hikae_model::Count(changed),
            Bytes(bytes_added),
            Bytes(bytes_removed),
        ),
    };
    let result = DiffResult { first: first.to_string(), second: second.to_string(), totals, changes };
    app.output.result(Ended::Well, &result, &text);
    Ok(Ended::Well)
}

fn line(path: &str, change: &EntryChange) -> String {
    match change {
        EntryChange::Added { .. } => format!("{} {path}", marked(Mark::Good, "+")),
        EntryChange::Removed { .. } => format!("{} {path}", marked(Mark::Bad, "-")),
        EntryChange::Changed { what, .. } => {
            format!("{} {path}  {}", marked(Mark::Doubtful, "~"), marked(Mark::Faint, what.join(", ")))
        }
    }
}
