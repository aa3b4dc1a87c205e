//! One database, or some of its tables, out of a cluster as it was: into a new database.

use super::point::{shown_around, shown_phases, shown_target, shown_time, shown_way};
use super::{RestoreArgs, cluster, refuse};
use crate::app::App;
use crate::failure::{Ended, Failure};
use crate::page::{Mark, count, duration, marked};
use hikae_model::{Count, ErrorCode, Outcome};
use hikae_ops::Repo;
use hikae_ops::config::SourceSettings;
use hikae_ops::pitr::plan::RecoveryPlan;
use hikae_ops::pitr::recover::RecoverOptions;
use hikae_ops::pitr::take_out::{TakenOut, Wanted, check_wanted, take_out};
use hikae_ops::restore_cluster::KIND;
use hikae_ops::restore_database::PostgresqlTarget;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

/// Where the side server is made: nothing stays there.
pub fn place_beside(app: &App) -> PathBuf {
    let nonce = u32::from_le_bytes(app.cx.random());
    app.around.scratch.join(format!("hikae-beside-{nonce:08x}"))
}

pub fn restore(
    plan: &RecoveryPlan,
    options: &RecoverOptions,
    args: &RestoreArgs,
    repo: &Arc<Repo>,
    app: &App,
) -> Result<Ended, Failure> {
    refuse(&[("--swap", args.swap), ("--tablespace", !args.tablespace.is_empty())], KIND)?;
    let wanted = Wanted {
        database: args.from_database.clone(),
        tables: args.table.clone(),
        target: target(&plan.source, args, app)?,
    };
    let database = check_wanted(repo, plan, &wanted, &app.around, &app.cx)?;
    let what = match &args.table[..] {
        [] => format!("database {database}"),
        tables => format!("{} of database {database}", tables.join(", ")),
    };
    let around = shown_around(plan, app);
    if args.dry_run {
        let name = args.into_database.as_deref().unwrap_or("a new database");
        let text = format!(
            "would restore {what}, of {} at {}, into {name}, and compare it\n{}{around}\
             \x20 the whole cluster is recovered in {} first, and removed\nNothing was written.\n",
            plan.source,
            shown_target(plan, app),
            shown_way(plan, app),
            app.around.scratch.display(),
        );
        app.output.result(Ended::Well, &json!({ "plan": plan, "database": database }), &text);
        return Ok(Ended::Well);
    }
    let taken = {
        let _progress = app.progress();
        take_out(repo, plan, &wanted, options, &app.around, &app.cx)?
    };
    let ended = match taken.outcome {
        Outcome::Failed => Ended::With(ErrorCode::VerificationFailed),
        outcome => outcome.into(),
    };
    let text = format!(
        "{}\n{}{around}{}",
        shown_verdict(&taken, &what, plan, app),
        shown_way(plan, app),
        shown_taken(&taken, app)
    );
    app.output.result(ended, &json!({ "plan": plan, "taken_out": taken }), &text);
    Ok(ended)
}

/// The server and the new database.
fn target(source: &str, args: &RestoreArgs, app: &App) -> Result<PostgresqlTarget, Failure> {
    let config = app.config_or_none()?;
    let configured = config.sources.get(source);
    let settings = configured.map(|source| &source.settings);
    let (connection, password) = match (&args.connection, configured, settings) {
        // Another role has another password, which is in the usual files.
        (Some(connection), ..) => (connection.clone(), None),
        (None, Some(configured), Some(SourceSettings::PostgresqlCluster(settings))) => {
            (settings.connection.clone(), configured.fetch_password(source, &app.around, &app.cx)?)
        }
        (None, ..) => {
            let what = format!("nothing says on which server the new database of {source} is to be");
            let advice = "give --connection postgresql://ROLE@HOST/postgres";
            return Err(Failure::new(ErrorCode::Usage, what, Some(advice.into())));
        }
    };
    Ok(PostgresqlTarget {
        connection,
        password,
        database: args.into_database.clone(),
        swap: false,
        no_owners: args.no_owners,
        program_directory: args.program_directory.clone(),
    })
}

fn shown_verdict(taken: &TakenOut, what: &str, plan: &RecoveryPlan, app: &App) -> String {
    let failed = taken.checks.iter().filter(|check| !check.passed).count();
    let verdict = match taken.outcome {
        Outcome::Failed => marked(Mark::Bad, "NOT RIGHT"),
        _ => marked(Mark::Good, "restored"),
    };
    format!(
        "{verdict}  {what}, of {} at {}: {} in {}, {} held",
        taken.source,
        shown_target(plan, app),
        taken.place,
        duration(taken.seconds),
        count((taken.checks.len() - failed) as u64, "check", "checks"),
    )
}

fn shown_taken(taken: &TakenOut, app: &App) -> String {
    /// More than these are for programs.
    const MAX_TABLES: usize = 20;
    let mut text = format!(
        "  reached {}{}; {} replayed\n  {}\n",
        taken.reached,
        shown_time(taken.reached_time, app),
        count(taken.n_segments as u64, "segment", "segments"),
        shown_phases(&taken.phases),
    );
    for (table, rows) in taken.tables.iter().take(MAX_TABLES) {
        text.push_str(&format!("  {}: {}\n", table.escape_debug(), count(*rows, "row", "rows")));
    }
    if let Some(more @ 1..) = taken.tables.len().checked_sub(MAX_TABLES) {
        text.push_str(&format!("  and {} more tables\n", Count(more as u64)));
    }
    for check in taken.checks.iter().filter(|check| !check.passed) {
        text.push_str(&format!("  {} {check}\n", marked(Mark::Bad, "x")));
    }
    text + &cluster::lines(&taken.notes)
}
