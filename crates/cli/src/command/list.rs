//! `hikae list`

use super::backup::Purpose;
use crate::app::App;
use crate::failure::{Ended, Failure};
use crate::page::{Align, Mark, Table, count, marked};
use clap::Args;
use hikae_model::{Bytes, Count};
use hikae_ops::list::{ListedSnapshot, list, list_forgotten};
use hikae_ops::select::SnapshotSelector;

/// List snapshots, newest first
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  hikae list\n  hikae list documents --type daily -n 10")]
pub struct ListArgs {
    /// Only of this source
    #[arg(value_name = "SOURCE")]
    source: Option<String>,
    /// The same
    #[arg(long = "source", value_name = "NAME", conflicts_with = "source", id = "source-flag")]
    of_source: Option<String>,
    /// Only those that were made as this
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    purpose: Option<Purpose>,
    /// Show at most so many
    #[arg(long, short = 'n', value_name = "N")]
    limit: Option<usize>,
    /// Those that were forgotten and can still be brought back
    #[arg(long)]
    forgotten: bool,
}

pub fn run(args: &ListArgs, app: &App) -> Result<Ended, Failure> {
    let repo = app.open()?;
    let mut snapshots = match args.forgotten {
        true => list_forgotten(&repo)?,
        false => list(&repo, None)?,
    };
    let source = args.source.as_ref().or(args.of_source.as_ref());
    if let Some(source) = source
        && !snapshots.iter().any(|snapshot| snapshot.source == *source)
    {
        let known = app.config_or_none().is_ok_and(|config| config.sources.contains_key(source));
        if !known {
            SnapshotSelector::Latest.resolve(&*repo.follow()?, Some(source), &app.around.zone)?;
        }
    }
    snapshots.retain(|snapshot| source.is_none_or(|source| *source == snapshot.source));
    snapshots.retain(|snapshot| args.purpose.is_none_or(|purpose| purpose.name() == snapshot.purpose));
    let n = snapshots.len();
    snapshots.truncate(args.limit.unwrap_or(n));
    let mut text = table(&snapshots, app);
    if snapshots.is_empty() {
        text = match (source, args.purpose) {
            (_, Some(purpose)) => format!("There is no {} snapshot.\n", purpose.name()),
            (Some(source), None) => format!("There is no snapshot of {source}.\n"),
            (None, None) => "There is no snapshot yet.\n".to_owned(),
        };
    } else if snapshots.len() < n {
        text.push_str(&format!("and {}\n", count((n - snapshots.len()) as u64, "more", "more")));
    }
    for snapshot in &snapshots {
        if let Some(why) = &snapshot.damaged {
            app.output.warning(
                &format!("snapshot {} of {} counts for nothing: {why}", snapshot.id.short(), snapshot.source),
                Some("run `hikae verify` for the extent, then `hikae repo repair`"),
            );
        }
    }
    app.output.result(Ended::Well, &snapshots, &text);
    Ok(Ended::Well)
}

/// The table of snapshots that `list`, `restore` and others show.
pub fn table(snapshots: &[ListedSnapshot], app: &App) -> String {
    let mut table = Table::new(&[
        ("snapshot", Align::Left),
        ("moment", Align::Left),
        ("source", Align::Left),
        ("type", Align::Left),
        ("entries", Align::Right),
        ("size", Align::Right),
        ("added", Align::Right),
        ("", Align::Left),
    ]);
    for snapshot in snapshots {
        let state = match (snapshot.complete, snapshot.drill_passed) {
            _ if snapshot.damaged.is_some() => marked(Mark::Bad, "damaged"),
            (_, Some(false)) => marked(Mark::Bad, "restore failed"),
            (false, _) => marked(Mark::Doubtful, count(snapshot.n_problems, "problem", "problems")),
            (true, Some(true)) => marked(Mark::Good, "restored"),
            (true, None) => String::new(),
        };
        let note = snapshot.description.as_deref().unwrap_or_default();
        table.row([
            snapshot.id.short(),
            app.time(snapshot.moment),
            snapshot.source.clone(),
            snapshot.purpose.clone(),
            Count(snapshot.entries).to_string(),
            Bytes(snapshot.bytes).to_string(),
            Bytes(snapshot.added_bytes).to_string(),
            format!("{state}{}{note}", if state.is_empty() || note.is_empty() { "" } else { "  " }),
        ]);
    }
    table.text()
}
