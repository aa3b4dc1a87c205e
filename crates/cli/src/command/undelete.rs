//! `hikae undelete`

use super::list::table;
use crate::app::App;
use crate::failure::{Ended, Failure};
use crate::page::count;
use clap::Args;
use hikae_model::ErrorCode;
use hikae_ops::list::list_forgotten;

/// Bring forgotten snapshots back
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  hikae undelete\n  hikae undelete 3f2a")]
pub struct UndeleteArgs {
    /// Beginnings of their ids [default: list what can be brought back]
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    /// Say what would come back, and change nothing
    #[arg(long)]
    dry_run: bool,
}

pub fn run(args: &UndeleteArgs, app: &App) -> Result<Ended, Failure> {
    let repo = app.open()?;
    let forgotten = list_forgotten(&repo)?;
    if args.snapshots.is_empty() {
        let text = match forgotten.is_empty() {
            true => "No forgotten snapshot can be brought back.\n".to_owned(),
            false => table(&forgotten, app),
        };
        app.output.result(Ended::Well, &forgotten, &text);
        return Ok(Ended::Well);
    }
    let mut chosen = Vec::new();
    for prefix in &args.snapshots {
        let begins = |id: &str| !prefix.is_empty() && id.starts_with(&prefix.to_ascii_lowercase());
        let found: Vec<_> = forgotten.iter().filter(|snapshot| begins(&snapshot.id.to_string())).collect();
        match found.as_slice() {
            [one] => chosen.push((*one).clone()),
            several => {
                let what =
                    format!("{} forgotten snapshots have an id that begins with `{prefix}`", several.len());
                let advice = "`hikae undelete` without an id lists what can be brought back";
                return Err(Failure::new(ErrorCode::Usage, what, Some(advice.into())));
            }
        }
    }
    let ids: Vec<_> = chosen.iter().map(|snapshot| snapshot.id).collect();
    let snapshots = count(ids.len() as u64, "snapshot", "snapshots");
    let said = match args.dry_run {
        true => format!("Would bring back {snapshots}; nothing was changed.\n"),
        false => {
            let _progress = app.progress();
            repo.undelete(&ids)?;
            format!("Brought back {snapshots}.\n")
        }
    };
    app.output.result(Ended::Well, &chosen, &format!("{}\n{said}", table(&chosen, app)));
    Ok(Ended::Well)
}
