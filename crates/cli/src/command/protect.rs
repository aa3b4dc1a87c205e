//! `hikae protect`

use super::backup::{self, EPOCH_DAYS, open_sources};
use super::drill::Drilled;
use super::shown;
use crate::app::{App, absolute, ask_new_passphrase};
use crate::failure::{Ended, Failure};
use crate::page::{Mark, marked};
use crate::sheet::{self, WrittenSheet};
use clap::Args;
use hikae_model::SnapshotId;
use hikae_ops::backup::{BackupOptions, backup};
use hikae_ops::config::{SourceConfig, SourceSettings};
use hikae_ops::drill::DrillOptions;
use hikae_ops::open::KeyChoice;
use hikae_ops::protect::{Chosen, Made, Prepared, prepare, recognise};
use hikae_ops::report::BackupReport;
use serde::Serialize;
use std::ffi::OsString;

/// Protect folders, SQLite files and PostgreSQL databases: back up, restore, compare
#[derive(Debug, Args)]
#[command(
    after_help = "Without a configuration, one is written, with a repository and a key in your own folders.\n\
                        Called again, only what changed is stored; what is new is added to the configuration.\n\n\
                        Examples:\n  hikae protect ~/Documents ~/notes.db\n  \
                        hikae protect postgresql://backup@db.example.org/shop\n  hikae protect"
)]
pub struct ProtectArgs {
    /// Folders, files, SQLite databases and postgresql:// addresses [default: those of the configuration]
    #[arg(value_name = "WHAT")]
    what: Vec<OsString>,
    /// Leave out of new folders what matches this, in gitignore syntax; may be given several times
    #[arg(long, value_name = "PATTERN", requires = "what")]
    exclude: Vec<String>,
    /// Read PostgreSQL as a superuser; a backup needs to read, nothing more
    #[arg(long)]
    allow_superuser: bool,
    /// A note that is kept with the snapshots
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Protected<'a> {
    made: &'a [Made],
    added: &'a [String],
    recovery_sheet: Option<WrittenSheet>,
    backup: &'a BackupReport,
    #[serde(flatten)]
    drilled: &'a Drilled,
}

pub fn run(args: &ProtectArgs, app: &App) -> Result<Ended, Failure> {
    let recognised = args.what.iter().map(|what| recognise(what, args.allow_superuser));
    let mut what: Vec<SourceSettings> = recognised.collect::<Result<_, _>>()?;
    for settings in &mut what {
        if let SourceSettings::Files(files) = settings {
            files.exclude.clone_from(&args.exclude);
        }
    }
    let global = &app.global;
    let mut chosen = Chosen {
        config: global.config.as_deref().map(absolute).transpose()?,
        repository: global.repository.clone(),
        store: global.store.as_deref().map(absolute).transpose()?,
        limit: app.limit(),
        ..Chosen::default()
    };
    let is_new = !chosen.file(&app.around).exists();
    if args.dry_run {
        return dry_run(&what, &chosen, is_new, app);
    }
    if is_new {
        let key = app.key()?;
        chosen.key = if key.is_none() && app.may_ask() { choose_key(app)? } else { key };
    } else {
        let place = app.place()?;
        (chosen.key, chosen.identities) = (place.key, place.identities);
    }
    let mut prepared = prepare(&what, chosen, &app.around, &app.cx)?;
    let written = match &prepared.sheet {
        Some(recovery) => Some(sheet::write(recovery, &app.around.data, app)?),
        None => None,
    };
    prepared.write_configuration()?;
    if prepared.sheet_is_lost {
        let hint = "make another repository and back up into it; keep its sheet";
        let what = "the recovery sheet of this repository was never written, and its secret is gone";
        app.output.warning(what, Some(hint));
    }
    for warning in &prepared.config.warnings {
        app.output.warning(&warning.to_string(), warning.advice.as_deref());
    }
    for problem in &prepared.repaired {
        app.output.warning(&problem.to_string(), problem.advice.as_deref());
    }
    match &written {
        // Who is not told of the sheet will not print it, and without it the repository is as lost as its key.
        Some(sheet) if app.output.quiet => {
            let store = prepared.repo.store().address();
            let what = format!("the recovery sheet of the repository in {store} is {}", sheet.text.display());
            app.output.warning(&what, Some("print it, keep it away from this machine, and delete the file"));
        }
        _ => app.output.note(&made(&prepared, written.as_ref())),
    }
    let names = prepared.config.sources_of(None)?;
    let sources = open_sources(&names, &prepared.config, &prepared.repo, app)?;
    let options = BackupOptions {
        purpose: "manual".to_owned(),
        description: args.description.clone(),
        host: app.around.host.clone(),
        epoch_days: EPOCH_DAYS,
    };
    let report = {
        let _progress = app.progress();
        backup(&prepared.repo, &sources, &options, &app.cx)?
    };
    // Shown before the drill, which takes as long again.
    app.output.line(&shown::backup(&report));
    let snapshots = report.snapshots.iter().filter_map(|one| Some((one.id?, one.source.clone())));
    let snapshots: Vec<(SnapshotId, String)> = snapshots.collect();
    let drilled = Drilled::all(&prepared.repo, &snapshots, &DrillOptions::default(), app)?;
    let ended = match (backup::ended(&report), drilled.ended()) {
        (Ended::Well, drilled) => drilled,
        (backup, _) => backup,
    };
    let result = Protected {
        made: &prepared.made,
        added: &prepared.added,
        recovery_sheet: written,
        backup: &report,
        drilled: &drilled,
    };
    let text = format!("{}{}", drilled.text(app), honest_end(&prepared, app));
    app.output.result(ended, &result, &text);
    Ok(ended)
}

/// A passphrase, or nothing for a key file.
fn choose_key(app: &App) -> Result<Option<KeyChoice>, Failure> {
    app.output.note(
        "A repository is made now. What should open it?\n\
         Give a passphrase, or leave it empty for a key file that this user alone can read.",
    );
    let passphrase = ask_new_passphrase()?;
    Ok((!passphrase.is_empty()).then(|| KeyChoice::Passphrase(passphrase)))
}

/// What was made, a line each.
fn made(prepared: &Prepared, sheet: Option<&WrittenSheet>) -> String {
    let mut lines = Vec::new();
    for made in &prepared.made {
        let (what, place) = match made {
            Made::KeyFile(path) => ("key file", path.display().to_string()),
            Made::Config(path) => ("configuration", path.display().to_string()),
            Made::Sources(path) => ("new sources in", path.display().to_string()),
            Made::Repository(address) => ("repository", address.clone()),
        };
        lines.push(format!("{what:<16} {place}"));
    }
    let is_new = prepared.made.iter().any(|made| matches!(made, Made::Repository(_)));
    if let Some(sheet) = sheet {
        if !is_new {
            lines.push(
                "The repository was made by a call that ended before it wrote the recovery sheet.".into(),
            );
        }
        lines.push(format!("{:<16} {}", "recovery sheet", sheet.text.display()));
        lines.push(format!("{:<16} {}", "", sheet.html.display()));
        lines.push(marked(
            Mark::Strong,
            "Print the recovery sheet, keep it away from this machine, and delete the two files.",
        ));
    }
    if !lines.is_empty() {
        lines.push(String::new());
    }
    lines.join("\n")
}

/// What this protects from, and what it does not.
fn honest_end(prepared: &Prepared, app: &App) -> String {
    let key_beside = prepared
        .config
        .repositories
        .values()
        .any(|repository| matches!(repository.unlock, Some(hikae_ops::config::UnlockConfig::KeyFile(_))));
    let store = prepared.repo.store().address();
    let mut text = format!(
        "\nThis protects from deleted and spoilt files, not from the loss or theft of {}.\n\
         Keep a copy of {store} in another place.\n",
        app.around.host
    );
    if key_beside {
        text.push_str(
            "The key lies in a file on the same machine, so the encryption keeps nothing from a thief of it.\n",
        );
    }
    text
}

fn dry_run(what: &[SourceSettings], chosen: &Chosen, is_new: bool, app: &App) -> Result<Ended, Failure> {
    #[derive(Serialize)]
    struct Planned {
        kind: &'static str,
        what: String,
    }
    let planned: Vec<Planned> =
        what.iter().map(|settings| Planned { kind: settings.kind(), what: settings.shown() }).collect();
    let mut text = String::new();
    // What would stop the real call stops this one.
    for settings in what {
        SourceConfig::of(settings.clone()).require_ready(&settings.shown(), &app.around, &app.cx)?;
    }
    if is_new {
        let (file, store) = (chosen.file(&app.around), chosen.new_store(&app.around));
        text.push_str(&format!("would write {}\n", file.display()));
        text.push_str(&format!("would make a repository in {}\n", store.display()));
    } else {
        app.open()?;
    }
    for planned in &planned {
        text.push_str(&format!("would back up, restore and compare {} ({})\n", planned.what, planned.kind));
    }
    if !is_new {
        text.push_str("would back up, restore and compare every source of the configuration\n");
    }
    text.push_str("Nothing was read and nothing written.\n");
    app.output.result(Ended::Well, &planned, &text);
    Ok(Ended::Well)
}
