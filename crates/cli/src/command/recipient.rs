//! `hikae recipient`

use crate::app::App;
use crate::failure::{Ended, Failure};
use crate::page::{Align, Mark, Table, count, marked};
use clap::{Args, Subcommand};
use hikae_ops::keys::{add_recipient, recipients, remove_recipient, with_recipient, without_recipient};
use serde_json::json;

#[derive(Debug, Subcommand)]
pub enum RecipientCommand {
    /// List who can open contents that are written from now on
    List,
    Add(AddArgs),
    Remove(RemoveArgs),
}

/// Let somebody open contents, earlier ones too as far as our key opens them
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  hikae recipient add age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
)]
pub struct AddArgs {
    /// As age or OpenSSH writes it: age1… or "ssh-ed25519 …"
    recipient: String,
    /// Say who would be added, and add nobody
    #[arg(long)]
    dry_run: bool,
}

/// Take somebody from those who can open what is written from now on
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  hikae recipient remove age1ql3z7h --dry-run")]
pub struct RemoveArgs {
    /// The recipient, or its beginning
    recipient: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Say who would be removed, and remove nobody
    #[arg(long)]
    dry_run: bool,
}

pub fn run(command: &RecipientCommand, app: &App) -> Result<Ended, Failure> {
    let repo = app.open()?;
    match command {
        RecipientCommand::List => {
            let listed = recipients(&repo)?;
            let mut table = Table::new(&[("recipient", Align::Left), ("", Align::Left)]);
            for one in &listed {
                let note = if one.is_own {
                    marked(Mark::Faint, "recovery sheet and owner's keys")
                } else {
                    String::new()
                };
                table.row([one.recipient.clone(), note]);
            }
            app.output.result(Ended::Well, &listed, &table.text());
        }
        RecipientCommand::Add(args) if args.dry_run => {
            with_recipient(&repo.follow()?.recipients, &args.recipient)?;
            let text = format!("{} could open what is written from now on.\n", args.recipient);
            app.output.result(Ended::Well, &json!({ "recipient": args.recipient }), &text);
        }
        RecipientCommand::Add(args) => {
            let n_epochs = add_recipient(&repo, &args.recipient)?;
            let epochs = count(n_epochs as u64, "earlier key epoch", "earlier key epochs");
            let text = format!("Added. It opens what is written from now on, and {epochs}.\n");
            let result = json!({ "recipient": args.recipient, "earlier_epochs": n_epochs });
            app.output.result(Ended::Well, &result, &text);
        }
        RecipientCommand::Remove(args) => {
            let (goes, _) = without_recipient(&repo.follow()?.recipients, &args.recipient)?;
            let what = format!("{goes} will not open what is written from now on");
            if args.dry_run {
                app.output.result(Ended::Well, &json!({}), &format!("{what}. Nothing was changed.\n"));
                return Ok(Ended::Well);
            }
            if !args.yes {
                app.confirm(&what, &args.recipient)?;
            }
            let removed = remove_recipient(&repo, &args.recipient)?;
            let text = format!("Removed {removed}.\nIt keeps what it could open before.\n");
            app.output.result(Ended::Well, &json!({ "recipient": removed }), &text);
        }
    }
    Ok(Ended::Well)
}
