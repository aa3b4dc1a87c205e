//! `hikae pg restore-point`

use crate::app::App;
use crate::failure::{Ended, Failure};
use crate::page::{Mark, marked};
use clap::Args;
use hikae_model::ErrorCode;
use hikae_ops::pg::restore_point::{PointOptions, PointReport, make_point};
use hikae_ops::pitr::target::RestorePoint;
use std::time::Duration;

/// Name the present of a server, before a change that may have to be taken back, and wait until it can be recovered to
#[derive(Debug, Args)]
#[command(
    after_help = "Ends with 13 if its log did not come in time: the point is there and cannot be reached yet.\n\
    It can be reached for as long as the base backup is kept that is named.\n\n\
    Examples:\n  hikae pg restore-point main 'before version 3'\n  \
    hikae pg restore-point main before-v3 --admin 'host=/run/postgresql user=postgres dbname=postgres'"
)]
pub struct RestorePointArgs {
    /// Source of kind postgresql-cluster
    source: String,
    /// A name that no restore point in its log has
    name: RestorePoint,
    /// Connection of a role that may make restore points, without a password [default: that of the source]
    #[arg(long, value_name = "CONNECTION")]
    admin: Option<String>,
    /// How many seconds to wait for its log
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    patience: u32,
}

pub fn run(args: &RestorePointArgs, app: &App) -> Result<Ended, Failure> {
    let config = app.config()?;
    let cluster = config.source(&args.source)?.cluster(&args.source, &app.around, &app.cx)?;
    let names = config.repositories_of(&args.source)?;
    let repo = app.open_of(names.first().copied())?;
    let options =
        PointOptions { admin: args.admin.clone(), patience: Duration::from_secs(args.patience.into()) };
    let report = {
        let _progress = app.progress();
        make_point(&repo, &args.source, cluster.connection(), &args.name, &options, &app.around, &app.cx)?
    };
    let ended = if report.kept { Ended::Well } else { Ended::With(ErrorCode::ObjectiveBreached) };
    app.output.result(ended, &report, &text(&report, app));
    Ok(ended)
}

fn text(report: &PointReport, app: &App) -> String {
    let PointReport { source, name, lsn, moment, .. } = report;
    let verdict = match report.kept {
        true => marked(Mark::Good, "kept"),
        false => marked(Mark::Bad, "NOT KEPT YET"),
    };
    let mut text = format!("{verdict}  {source}: `{name}` at {lsn}, {}\n", app.time(*moment));
    match report.base.zip(report.base_moment) {
        Some((base, moment)) => {
            let verified = match report.base_verified {
                true => "a drill has restored it".to_owned(),
                false => format!("no drill has restored it yet: `hikae drill {}`", base.short()),
            };
            text.push_str(&format!(
                "  from the base backup {} of {}, for as long as that is kept; {verified}\n",
                base.short(),
                app.time(moment)
            ));
        }
        None => text.push_str(
            "  its log is not in the repository: see `hikae doctor`, and look again with `hikae pg window`\n",
        ),
    }
    if let Some(why) = &report.not_switched {
        text.push_str(&format!("  its segment was not ended at once: {why}\n"));
    }
    let word = name.replace('\'', "'\\''");
    text.push_str(&format!("  to go back: hikae restore {source} --to-name '{word}' --target DIR\n"));
    text
}
