//! `hikae find`

use super::ls;
use crate::app::App;
use crate::failure::{Ended, Failure};
use crate::page::{Mark, count, marked};
use clap::Args;
use hikae_model::ErrorCode;
use hikae_ops::browse::find;

/// Find files by name in all snapshots, and their versions
#[derive(Debug, Args)]
#[command(after_help = "A pattern with * or ? is compared with whole names, one with / with whole paths;\n\
                        any other is looked for anywhere in the name.\n\nExample:\n  hikae find '*.pdf'")]
pub struct FindArgs {
    /// What to look for
    #[arg(value_name = "PATTERN")]
    pattern: String,
    /// Only in snapshots of this source
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
}

pub fn run(args: &FindArgs, app: &App) -> Result<Ended, Failure> {
    let repo = app.open()?;
    let state = app.readable(&repo)?;
    let snapshots = state.newest_first(args.source.as_deref());
    let (versions, damaged) = find(&repo, &args.pattern, &snapshots, &app.cx)?;
    let mut text = String::new();
    for version in &versions {
        let newest = version.snapshots.first().map_or(String::new(), |found| found.id.short());
        let n = count(version.snapshots.len() as u64, "snapshot", "snapshots");
        text.push_str(&ls::line(&version.entry, app));
        text.push_str(&marked(Mark::Faint, format!("  in {n}, newest {newest} ({})\n", version.source)));
    }
    if versions.is_empty() {
        text = "Nothing of that name is in any snapshot.\n".to_owned();
    }
    for problem in &damaged {
        app.output.warning(&problem.to_string(), problem.advice.as_deref());
    }
    // What the log says is lost was told when it was set aside; anything else makes this search a partial one.
    let all_looked_through = damaged.is_empty() && state.set_aside == repo.state().set_aside;
    let ended = match all_looked_through {
        true => Ended::Well,
        false => Ended::With(ErrorCode::VerificationFailed),
    };
    app.output.result(ended, &versions, &text);
    Ok(ended)
}
