//! Restores of databases: SQLite beside or in place of a file, PostgreSQL into a new database.

use super::{Origin, RestoreArgs, When, new_folder, only_for_postgresql, refuse};
use crate::app::{App, absolute};
use crate::failure::{Ended, Failure};
use crate::page::{Mark, count, duration, marked};
use hikae_model::{ErrorCode, Outcome};
use hikae_ops::config::SourceSettings;
use hikae_ops::restore_database::{
    DatabaseRestored, PostgresqlTarget, plan_postgresql, plan_sqlite, restore_postgresql, restore_sqlite,
};
use serde_json::json;

pub fn sqlite(args: &RestoreArgs, origin: &Origin<'_>, app: &App) -> Result<Ended, Failure> {
    let (repo, snapshot) = (origin.repo, &origin.snapshot);
    refuse(&only_for_postgresql(args), "sqlite")?;
    refuse(&[("--path", !args.path.is_empty()), ("--keep-replaced", args.keep_replaced)], "sqlite")?;
    let target = match &args.target {
        Some(target) => absolute(target)?,
        None => new_folder(snapshot, app)?,
    };
    let replace = match args.overwrite {
        None | Some(When::Never) => false,
        Some(When::Always) => true,
        Some(When::IfNewer | When::IfChanged) => {
            let what = "a database is replaced whole or not at all";
            let advice = "give --overwrite always or --overwrite never";
            return Err(Failure::new(ErrorCode::Usage, what, Some(advice.into())));
        }
    };
    let place = match args.target {
        Some(_) => plan_sqlite(repo, snapshot.id, &target, replace)?,
        // It ends in `/` because it is a folder, which is not there yet.
        None => plan_sqlite(repo, snapshot.id, &target.join(""), replace)?,
    };
    if args.dry_run {
        let text = format!(
            "would restore {} to {}, compared with its manifest first\nNothing was written.\n",
            origin.said(app),
            place.display()
        );
        app.output.result(Ended::Well, &origin.shown(json!({ "target": place })), &text);
        return Ok(Ended::Well);
    }
    if replace && place.exists() && !args.yes {
        let name = place.file_name().unwrap_or_default().to_string_lossy();
        app.confirm(&format!("{} will be moved aside and replaced", place.display()), &name)?;
    }
    if args.target.is_none() {
        hikae_ops::private_file::create_directory(&target)?;
    }
    let restored = {
        let _progress = app.progress();
        restore_sqlite(repo, snapshot.id, &target, replace, &app.cx)?
    };
    Ok(show(&restored, origin, app))
}

pub fn postgresql(args: &RestoreArgs, origin: &Origin<'_>, app: &App) -> Result<Ended, Failure> {
    let (repo, snapshot) = (origin.repo, &origin.snapshot);
    refuse(
        &[
            ("--path", !args.path.is_empty()),
            ("--target", args.target.is_some()),
            ("--overwrite", args.overwrite.is_some()),
        ],
        &snapshot.kind,
    )?;
    let config = app.config_or_none()?;
    let configured = config.sources.get(&snapshot.source);
    let address = configured.and_then(|source| Some((source, source.settings.connection()?)));
    let (connection, password) = match (&args.connection, address) {
        // Another role has another password, which is in the usual files.
        (Some(connection), _) => (connection.clone(), None),
        (None, Some((source, connection))) => {
            (connection.to_owned(), source.fetch_password(&snapshot.source, &app.around, &app.cx)?)
        }
        (None, None) => {
            let what = format!("nothing says on which server {} is to be restored", snapshot.source);
            let advice = "give --connection postgresql://ROLE@HOST/postgres";
            return Err(Failure::new(ErrorCode::Usage, what, Some(advice.into())));
        }
    };
    let program_directory = match configured.map(|source| &source.settings) {
        Some(SourceSettings::Postgresql(settings)) => settings.program_directory.clone(),
        _ => None,
    };
    let target = PostgresqlTarget {
        connection,
        password,
        database: args.into_database.clone(),
        swap: args.swap,
        no_owners: args.no_owners,
        program_directory,
    };
    let plan = plan_postgresql(repo, snapshot.id, &target, &app.around, &app.cx)?;
    let live = &plan.live;
    if args.dry_run {
        let name = args.into_database.as_deref().unwrap_or("a new database");
        let then = match args.swap {
            true => format!(", and then give it the name {live}, keeping the live one under another"),
            false => String::new(),
        };
        let notes: String = plan.notes.iter().map(|note| format!("  {note}\n")).collect();
        let text = format!(
            "would restore {} into {name}, compare it with its manifest{then}\n{notes}Nothing was written.\n",
            origin.said(app)
        );
        app.output.result(Ended::Well, &origin.shown(json!({ "database": name, "plan": plan })), &text);
        return Ok(Ended::Well);
    }
    if args.swap && !args.yes {
        let what = format!(
            "The live database {live} will be replaced by its state of {} and kept under another name; \
             whoever is in it is cut off",
            app.time(snapshot.moment)
        );
        app.confirm(&what, live)?;
    }
    let restored = {
        let _progress = app.progress();
        restore_postgresql(repo, snapshot.id, &target, &app.around, &app.cx)?
    };
    Ok(show(&restored, origin, app))
}

fn show(restored: &DatabaseRestored, origin: &Origin<'_>, app: &App) -> Ended {
    let failed: Vec<_> = restored.checks.iter().filter(|check| !check.passed).collect();
    let whole = restored.outcome != Outcome::Failed;
    let verdict = if whole { marked(Mark::Good, "restored") } else { marked(Mark::Bad, "NOT RIGHT") };
    let mut text = format!(
        "{verdict}  {}: {} in {}, {} held\n",
        origin.said(app),
        restored.place,
        duration(restored.seconds),
        count((restored.checks.len() - failed.len()) as u64, "check", "checks"),
    );
    for check in &failed {
        text.push_str(&format!("  {} {check}\n", marked(Mark::Bad, "x")));
    }
    if let Some(aside) = &restored.kept_aside {
        text.push_str(&format!("  what stood there is kept as {aside}\n"));
    }
    for note in &restored.notes {
        text.push_str(&format!("  {note}\n"));
    }
    let ended = match restored.outcome {
        Outcome::Failed => Ended::With(ErrorCode::VerificationFailed),
        outcome => outcome.into(),
    };
    app.output.result(ended, &origin.shown(json!({ "restored": restored })), &text);
    ended
}
