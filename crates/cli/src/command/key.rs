//! `hikae key`

use crate::app::{App, absolute, ask_new_passphrase};
use crate::failure::{Ended, Failure};
use crate::output::Form;
use crate::page::{Align, Mark, Table, marked};
use crate::sheet;
use clap::{Args, Subcommand};
use hikae_model::ErrorCode;
use hikae_ops::keys::{NewKey, add, find, list};
use hikae_ops::open::{KeyChoice, make_key_file, passphrase_of_command};
use hikae_ops::recovery::RecoverySheet;
use serde_json::json;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// List what opens the repository
    List,
    Add(AddArgs),
    Remove(RemoveArgs),
    RecoverySheet(SheetArgs),
}

/// Add a passphrase, a key file or a recipient that opens the repository
#[derive(Debug, Args)]
#[command(after_help = "Without a flag, a passphrase is asked for.")]
pub struct AddArgs {
    /// Make this key file, if it is not there, and add it
    #[arg(long, value_name = "FILE")]
    new_key_file: Option<PathBuf>,
    /// Add the passphrase that this program prints
    #[arg(long, value_name = "COMMAND", conflicts_with = "new_key_file")]
    new_passphrase_command: Option<String>,
    /// Add an age recipient: age1… or ssh-ed25519 …
    #[arg(long, value_name = "RECIPIENT", conflicts_with_all = ["new_key_file", "new_passphrase_command"])]
    new_recipient: Option<String>,
    /// What to call it
    #[arg(long, value_name = "TEXT", default_value = "")]
    label: String,
    /// Say what would be added, and add nothing
    #[arg(long)]
    dry_run: bool,
}

/// Remove a key
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// Beginning of its name, as `hikae key list` shows it
    key: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
}

/// Write the recovery sheet again
#[derive(Debug, Args)]
pub struct SheetArgs {
    /// Folder to write it to
    #[arg(long, value_name = "DIR")]
    sheet: Option<PathBuf>,
    /// Print it on standard output instead
    #[arg(long, conflicts_with = "sheet")]
    print: bool,
}

pub fn run(command: &KeyCommand, app: &App) -> Result<Ended, Failure> {
    match command {
        KeyCommand::List => show(app),
        KeyCommand::Add(args) => add_key(args, app),
        KeyCommand::Remove(args) => remove(args, app),
        KeyCommand::RecoverySheet(args) => write_sheet(args, app),
    }
}

fn show(app: &App) -> Result<Ended, Failure> {
    let keys = list(&*app.open()?)?;
    let mut table = Table::new(&[("key", Align::Left), ("kind", Align::Left), ("label", Align::Left)]);
    for key in &keys {
        table.row([key.id.short(), key.kind.clone().unwrap_or_default(), key.label.clone()]);
    }
    app.output.result(Ended::Well, &keys, &table.text());
    Ok(Ended::Well)
}

fn add_key(args: &AddArgs, app: &App) -> Result<Ended, Failure> {
    let repo = app.open()?;
    if args.dry_run {
        app.output.result(Ended::Well, &json!({}), "The repository opens, and a key can be added.\n");
        return Ok(Ended::Well);
    }
    let key = if let Some(file) = &args.new_key_file {
        let file = absolute(file)?;
        if !make_key_file(&file, &app.cx)? {
            app.output.note(&format!("{} is there already and is added.", file.display()));
        }
        NewKey::Choice(KeyChoice::KeyFile(file))
    } else if let Some(command) = &args.new_passphrase_command {
        NewKey::Choice(KeyChoice::Passphrase(passphrase_of_command(command, &app.around, &app.cx)?))
    } else if let Some(recipient) = &args.new_recipient {
        NewKey::Recipient(recipient.clone())
    } else if app.may_ask() {
        NewKey::Choice(KeyChoice::Passphrase(ask_new_passphrase()?))
    } else {
        let advice = "give --new-key-file, --new-passphrase-command or --new-recipient";
        return Err(Failure::new(ErrorCode::Usage, "nothing says which key to add", Some(advice.into())));
    };
    let id = add(&repo, &key, &args.label)?;
    app.output.result(Ended::Well, &json!({ "key": id }), &format!("Added the key {}.\n", id.short()));
    Ok(Ended::Well)
}

fn remove(args: &RemoveArgs, app: &App) -> Result<Ended, Failure> {
    let repo = app.open()?;
    let key = find(&repo, &args.key)?;
    let kind = key.kind.as_deref().unwrap_or("made at init");
    let what =
        format!("The key {} ({kind} {}) will not open the repository any more", key.id.short(), key.label);
    if args.dry_run {
        app.output.result(Ended::Well, &key, &format!("{what}. Nothing was changed.\n"));
        return Ok(Ended::Well);
    }
    if !args.yes {
        app.confirm(&what, &key.id.short())?;
    }
    repo.remove_slot(key.id)?;
    let text = format!(
        "Removed the key {}.\n{}\n",
        key.id.short(),
        marked(
            Mark::Faint,
            "Whoever had it before may have kept what it opened: the repository's secret is unchanged."
        )
    );
    app.output.result(Ended::Well, &key, &text);
    Ok(Ended::Well)
}

fn write_sheet(args: &SheetArgs, app: &App) -> Result<Ended, Failure> {
    let repo = app.open()?;
    let recovery = RecoverySheet::of_open(&repo)?;
    if args.print {
        if app.output.form != Form::Text {
            let advice = "write it to a folder with --sheet DIR";
            return Err(Failure::new(
                ErrorCode::Usage,
                "the sheet is printed as text only",
                Some(advice.into()),
            ));
        }
        app.output.result(Ended::Well, &json!({}), &sheet::text(&recovery, app)?);
        return Ok(Ended::Well);
    }
    let directory = args.sheet.clone().unwrap_or_else(|| app.around.data.clone());
    let written = sheet::write(&recovery, &directory, app)?;
    let text = format!(
        "Print one of them, keep it on paper, and delete both:\n  {}\n  {}\n",
        written.text.display(),
        written.html.display()
    );
    app.output.result(Ended::Well, &written, &text);
    Ok(Ended::Well)
}
