//! `hikae key`

use crate::app::{App, absolute, ask_new_passphrase};
use crate::failure::{Ended, Failure};
use crate::output::Form;
use crate::page::{Align, Mark, Table, marked};
use crate::sheet;
use clap::{Args, Subcommand};
use hikae_model::ErrorCode;
use hikae_ops::keys::{NewKey, add, check_new, find, list};
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
#[command(after_help = "Without a flag, a passphrase is asked for.\n\n\
    Examples:\n  hikae key add --new-key-file /etc/hikae/second.key\n  \
    hikae key add --recovery sheet.txt --new-key-file /etc/hikae/main.key")]
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
#[command(after_help = "Example:\n  hikae key remove 3f2a --dry-run")]
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
#[command(
    after_help = "Examples:\n  hikae key recovery-sheet --sheet /media/stick\n  hikae key recovery-sheet --print | lp"
)]
pub struct SheetArgs {
    /// Folder to write it to
    #[arg(long, value_name = "DIR")]
    sheet: Option<PathBuf>,
    /// Print it on standard output instead
    #[arg(long, conflicts_with = "sheet")]
    print: bool,
    /// Say where it would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
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
        table.row([key.id.short(), key.kind.clone().unwrap_or_else(|| "-".to_owned()), key.label.clone()]);
    }
    app.output.result(Ended::Well, &keys, &table.text());
    Ok(Ended::Well)
}

fn add_key(args: &AddArgs, app: &App) -> Result<Ended, Failure> {
    let repo = app.open()?;
    let key = if let Some(file) = &args.new_key_file {
        let file = absolute(file)?;
        if args.dry_run && !file.exists() {
            let text =
                format!("would make the key file {} and add it; nothing was changed\n", file.display());
            app.output.result(Ended::Well, &json!({ "key_file": file }), &text);
            return Ok(Ended::Well);
        }
        if !make_key_file(&file, &app.cx)? {
            app.output.note(&format!("{} is there already and is added.", file.display()));
        }
        NewKey::Choice(KeyChoice::KeyFile(file))
    } else if let Some(command) = &args.new_passphrase_command {
        NewKey::Choice(KeyChoice::Passphrase(passphrase_of_command(command, &app.around, &app.cx)?))
    } else if let Some(recipient) = &args.new_recipient {
        NewKey::Recipient(recipient.clone())
    } else if app.may_ask() && !args.dry_run {
        NewKey::Choice(KeyChoice::Passphrase(ask_new_passphrase()?))
    } else {
        let advice = "give --new-key-file, --new-passphrase-command or --new-recipient";
        return Err(Failure::new(ErrorCode::Usage, "nothing says which key to add", Some(advice.into())));
    };
    if args.dry_run {
        check_new(&repo, &key)?;
        app.output.result(Ended::Well, &json!({}), "would add this key; nothing was changed\n");
        return Ok(Ended::Well);
    }
    let id = add(&repo, &key, &args.label)?;
    app.output.result(Ended::Well, &json!({ "key": id }), &format!("Added the key {}.\n", id.short()));
    Ok(Ended::Well)
}

fn remove(args: &RemoveArgs, app: &App) -> Result<Ended, Failure> {
    let repo = app.open()?;
    let key = find(&repo, &args.key)?;
    let named: Vec<&str> = key.kind.as_deref().into_iter().chain([key.label.as_str()]).collect();
    let named = named.join(" ");
    let what = format!("The key {} ({}) will not open the repository any more", key.id.short(), named.trim());
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
    if args.dry_run {
        let text =
            format!("would write the recovery sheet to {}; nothing was written\n", directory.display());
        app.output.result(Ended::Well, &json!({ "sheet": directory }), &text);
        return Ok(Ended::Well);
    }
    let written = sheet::write(&recovery, &directory, app)?;
    let text = format!(
        "Print one of them, keep it on paper, and delete both:\n  {}\n  {}\n",
        written.text.display(),
        written.html.display()
    );
    app.output.result(Ended::Well, &written, &text);
    Ok(Ended::Well)
}
