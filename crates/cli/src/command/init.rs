//! `hikae init`

use crate::app::{App, ask_new_passphrase};
use crate::failure::{Ended, Failure};
use crate::sheet;
use clap::{ArgGroup, Args};
use hikae_ops::Repo;
use hikae_ops::keys::check_recipient;
use hikae_ops::open::{KeyChoice, NewRepositoryOptions, OpenError, Place, make_key_file};
use hikae_ops::recovery::{RecoverySheet, SheetsDue};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Make a repository
#[derive(Debug, Args)]
#[command(after_help = "The repository is the one of the configuration, or --store DIR.\n\n\
                        A key file that is named and not there is made.\n\n\
                        One that is --like another shares its secret, recipients and writers, so `hikae copy` moves \
                        what is sealed from one to the other as it is, on a host that cannot open it. It takes an \
                        owner's key of that other, or its recovery sheet.\n\n\
                        Examples:\n  hikae init --store /mnt/backup/main --key-file ~/main.key\n  \
                        hikae init --repository offsite --like main")]
#[command(group = ArgGroup::new("opens").args(["recipient", "like"]))]
pub struct InitArgs {
    /// Who can open contents, besides the recovery sheet: age1… or ssh-ed25519 …
    #[arg(long, value_name = "RECIPIENT")]
    recipient: Vec<String>,
    /// Keep no key on this host that opens contents: only --recipient can restore
    #[arg(long, requires = "opens")]
    write_only: bool,
    /// Make it of the family of this repository: a name of the configuration, a directory or a bucket
    #[arg(long, value_name = "REPO")]
    like: Option<PathBuf>,
    /// Where to write the recovery sheet
    #[arg(long, value_name = "DIR")]
    sheet: Option<PathBuf>,
    /// Say what would be made, and make nothing
    #[arg(long)]
    dry_run: bool,
}

pub fn run(args: &InitArgs, app: &App) -> Result<Ended, Failure> {
    let (mut recipients, mut write_only) = (args.recipient.clone(), args.write_only);
    if app.global.store.is_none() {
        let config = app.config()?;
        let (_, repository) = config.repository(app.global.repository.as_deref())?;
        if args.like.is_none() {
            recipients.extend(repository.recipients.iter().cloned());
        }
        write_only |= repository.write_only;
    }
    let like = args.like.as_deref().map(|like| open_model(like, app)).transpose()?;
    let place_of_new = || match &like {
        None => app.place_of_new(),
        Some(_) => app.place_of_new_like(),
    };
    if args.dry_run {
        let place = place_of_new()?;
        place.check_init(&recipients, app.may_ask(), &app.cx)?;
        let how = match &place.key {
            Some(KeyChoice::KeyFile(file)) => format!("opened by the key file {}", file.display()),
            Some(_) => "opened by the key that was given".to_owned(),
            None => "and ask for a passphrase".to_owned(),
        };
        let text = format!("would make a repository in {}, {how}; nothing was written\n", place.address());
        app.output.result(Ended::Well, &json!({ "recipients": recipients, "write_only": write_only }), &text);
        return Ok(Ended::Well);
    }
    // Before a key file is made for nothing.
    recipients.iter().try_for_each(|recipient| check_recipient(recipient))?;
    let mut place = place_of_new()?;
    if let Some(KeyChoice::KeyFile(file)) = &place.key
        && make_key_file(file, &app.cx)?
    {
        app.output.note(&format!("{} is new. Who has it opens the repository.", file.display()));
    }
    if place.key.is_none() && app.may_ask() {
        place.key = Some(KeyChoice::Passphrase(ask_new_passphrase()?));
    }
    let wanted = NewRepositoryOptions { recipients: &recipients, write_only, like: like.as_deref() };
    let (recovery, did) = match place.init(wanted, &app.around, &app.cx) {
        Ok(new) => (RecoverySheet::of(&new.repo, &new.secret), "Made a repository in"),
        Err(error) => {
            (sheet_that_is_due(&place, error, app)?, "Wrote the recovery sheet that was missing of")
        }
    };
    let directory = args.sheet.clone().unwrap_or_else(|| app.around.data.clone());
    let written = sheet::write(&recovery, &directory, app)?;
    let store = place.address();
    let text = format!(
        "{did} {store}.\n\nPrint the recovery sheet, keep it on paper, and delete the files:\n  {}\n  {}\n",
        written.text.display(),
        written.html.display()
    );
    let result = json!({ "repository": recovery.repository, "store": store, "recovery_sheet": written });
    app.output.result(Ended::Well, &result, &text);
    Ok(Ended::Well)
}

/// The repository that the new one is to be like. A recovery sheet is its own.
fn open_model(named: &Path, app: &App) -> Result<Arc<Repo>, Failure> {
    let mut place = app.place_of_other(named)?;
    if let Some(sheet @ KeyChoice::Recovery(_)) = app.key()? {
        place.key = Some(sheet);
    }
    let repo = app.open_place(&place)?;
    repo.family_secret()?;
    Ok(repo)
}

/// The sheet of a repository that is there already, if a call that died made it and did not come to write one. Any
/// other failure stays what it is.
fn sheet_that_is_due(place: &Place, error: OpenError, app: &App) -> Result<RecoverySheet, Failure> {
    if !error.says_that_it_exists() || !SheetsDue::below(&app.around.data).holds(&place.address())? {
        return Err(error.into());
    }
    Ok(RecoverySheet::of_open(&place.open(&app.around, &app.cx)?.repo)?)
}
