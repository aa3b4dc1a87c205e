//! `hikae show`

use super::shown;
use crate::app::App;
use crate::failure::{Ended, Failure};
use crate::page::{Align, Mark, Table, duration, marked};
use clap::Args;
use hikae_model::{Bytes, Count};
use hikae_ops::list::show;
use hikae_ops::select::SnapshotSelector;

/// Tables of a selection that are named before the rest is counted.
const LISTED_TABLES: usize = 8;

/// Show everything that is known of one snapshot
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  hikae show documents")]
pub struct ShowArgs {
    /// Snapshot: beginning of its id, a source, a time, `latest` or `latest-verified`
    #[arg(default_value = "latest")]
    snapshot: SnapshotSelector,
    /// Source to choose from
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
}

/// The first of many names.
fn first(names: &[String]) -> String {
    match names.len().checked_sub(LISTED_TABLES) {
        None | Some(0) if names.is_empty() => "none".to_owned(),
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more; --json lists them", names[..LISTED_TABLES].join(", ")),
    }
}

pub fn run(args: &ShowArgs, app: &App) -> Result<Ended, Failure> {
    let repo = app.open()?;
    let chosen = app.choose(&repo, &args.snapshot, args.source.as_deref())?;
    let snapshot = chosen.snapshot();
    let shown = show(&repo, snapshot)?;
    let listed = &shown.listed;
    let mut table = Table::new(&[("", Align::Left), ("", Align::Left)]);
    let mut put = |name: &str, value: String| table.row([marked(Mark::Faint, name), value]);
    put("snapshot", listed.id.to_string());
    put("source", format!("{} ({}) of {}", listed.source, listed.kind, listed.host));
    put("moment", app.time(listed.moment));
    if let Some(description) = &listed.description {
        put("note", description.clone());
    }
    put("type", listed.purpose.clone());
    let seconds = shown.finished.duration_since(shown.started).as_secs_f64();
    let run = listed.run.map_or(String::new(), |run| format!(", run {run}"));
    put("made", format!("in {} by hikae {}{run}", duration(seconds), shown.release));
    put("entries", Count(listed.entries).to_string());
    put("size", Bytes(listed.bytes).to_string());
    if let Some(selection) = &shown.selection {
        put("selection", format!("rows of {}", first(&selection.tables)));
        put("", format!("definitions only of {}", first(&selection.without_rows)));
    }
    put("read", Bytes(shown.read_bytes).to_string());
    put("added", Bytes(listed.added_bytes).to_string());
    put("parent", shown.parent.map_or("none".to_owned(), |id| id.short()));
    put("signed by", shown.writer.short());
    put("log entry", shown.log_entry.to_string());
    put(
        "drill",
        match listed.drill_passed {
            None => "never restored".to_owned(),
            Some(true) => marked(Mark::Good, "restored, and everything held"),
            Some(false) => marked(Mark::Bad, "the restore was not right"),
        },
    );
    let mut text = table.text();
    if listed.n_problems > 0 {
        text.push_str(&format!("\n{}\n", marked(Mark::Strong, "What is missing or in doubt:")));
        text.push_str(&shown::problems(&shown.problems, listed.n_problems, "; --json lists more"));
    }
    app.output.result(Ended::Well, &shown, &text);
    Ok(Ended::Well)
}
