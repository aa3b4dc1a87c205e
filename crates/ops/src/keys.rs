//! Key slots and recipients: what opens a repository, and who can open contents written from now on.

use crate::OpsError;
use crate::error::printable;
use crate::open::{KeyChoice, OpenError, long_enough, read_key_file};
use hikae_model::{ErrorCode, SlotId};
use hikae_repo::log::Change;
use hikae_repo::recipient::{identity, parse_recipient};
use hikae_repo::slot::{KdfCost, Wrap};
use hikae_repo::{Repo, RepoError};
use serde::Serialize;

/// A key slot, as lists show it.
#[derive(Clone, Debug, Serialize)]
pub struct ListedKey {
    /// Its name.
    pub id: SlotId,
    /// `passphrase`, `key-file`, `recipient`; nothing is known of the one that was made at init.
    pub kind: Option<String>,
    /// For people.
    pub label: String,
}

/// Everything that opens the repository, besides the recovery sheet.
///
/// # Errors
/// Any failure to read the log.
pub fn list(repo: &Repo) -> Result<Vec<ListedKey>, RepoError> {
    let state = repo.follow()?;
    let listed = state.slots.values().map(|slot| ListedKey {
        id: slot.id,
        kind: (!slot.kind.is_empty()).then(|| slot.kind.clone()),
        label: slot.label.clone(),
    });
    Ok(listed.collect())
}

/// A key to add.
pub enum NewKey {
    /// A passphrase or a key file.
    Choice(KeyChoice),
    /// An age recipient, whose identity then opens the repository.
    Recipient(String),
}

/// Adds a key slot.
///
/// # Errors
/// [`OpenError`] if the key cannot be used, or the repository was opened with a key that is no owner's.
pub fn add(repo: &Repo, key: &NewKey, label: &str) -> Result<SlotId, OpenError> {
    match key {
        NewKey::Choice(KeyChoice::Passphrase(passphrase)) => {
            let passphrase = long_enough(passphrase)?;
            Ok(repo.add_slot(&Wrap::Passphrase(&passphrase, KdfCost::STANDARD), label)?)
        }
        NewKey::Choice(KeyChoice::KeyFile(path)) => {
            Ok(repo.add_slot(&Wrap::KeyFile(&read_key_file(path)?), label)?)
        }
        NewKey::Recipient(recipient) => {
            check_recipient(recipient)?;
            Ok(repo.add_slot(&Wrap::Recipient(recipient), label)?)
        }
        NewKey::Choice(KeyChoice::IdentityFile(_) | KeyChoice::Recovery(_)) => {
            Err(OpenError::NoKey { address: repo.store().address() })
        }
    }
}

/// Looks whether [`add`] would take this key, and adds nothing.
///
/// # Errors
/// As for [`add`].
pub fn check_new(repo: &Repo, key: &NewKey) -> Result<(), OpenError> {
    if repo.secret().is_none() {
        return Err(RepoError::NoRight { what: "add a key" }.into());
    }
    match key {
        NewKey::Choice(KeyChoice::Passphrase(passphrase)) => long_enough(passphrase).map(drop),
        NewKey::Choice(KeyChoice::KeyFile(path)) => read_key_file(path).map(drop),
        NewKey::Recipient(recipient) => Ok(check_recipient(recipient)?),
        NewKey::Choice(KeyChoice::IdentityFile(_) | KeyChoice::Recovery(_)) => {
            Err(OpenError::NoKey { address: repo.store().address() })
        }
    }
}

/// Looks whether a recipient is one.
///
/// # Errors
/// [`RepoError::BadKey`]
pub fn check_recipient(recipient: &str) -> Result<(), RepoError> {
    let parsed = parse_recipient(recipient).map(drop);
    parsed.map_err(|error| RepoError::BadKey { what: error.to_string() })
}

/// Those who can open contents once this one can too.
///
/// # Errors
/// [`RepoError::BadKey`] if it is no recipient, or one already.
pub fn with_recipient(known: &[String], recipient: &str) -> Result<Vec<String>, RepoError> {
    check_recipient(recipient)?;
    if known.iter().any(|known| known == recipient) {
        return Err(RepoError::BadKey { what: "this recipient is one already".to_owned() });
    }
    Ok(known.iter().cloned().chain([recipient.to_owned()]).collect())
}

/// The one recipient that begins so, and those who stay when it goes.
///
/// # Errors
/// [`RepoError::BadKey`] if there is none or more than one, or it is the last.
pub fn without_recipient(known: &[String], prefix: &str) -> Result<(String, Vec<String>), RepoError> {
    let begins = |known: &String| !prefix.is_empty() && known.starts_with(prefix);
    let (gone, kept): (Vec<_>, Vec<_>) = known.iter().cloned().partition(begins);
    match (gone.as_slice(), kept.is_empty()) {
        ([one], false) => Ok((one.clone(), kept)),
        ([_], true) => Err(RepoError::BadKey { what: "the last recipient cannot be removed".to_owned() }),
        (several, _) => Err(RepoError::BadKey { what: format!("{} recipients begin so", several.len()) }),
    }
}

/// The key slot whose name begins so, those among them that a removal left behind which died half way.
///
/// # Errors
/// [`OpsError::Refused`] if there is none, or more than one.
pub fn find(repo: &Repo, prefix: &str) -> Result<ListedKey, OpsError> {
    let lower = prefix.to_ascii_lowercase();
    let mut keys = list(repo)?;
    let stray = repo.stray_slots()?.into_iter();
    keys.extend(stray.map(|id| ListedKey {
        id,
        kind: None,
        label: "that no entry of the log names".to_owned(),
    }));
    keys.retain(|key| !lower.is_empty() && key.id.to_string().starts_with(&lower));
    let n = keys.len();
    match keys.pop() {
        Some(key) if n == 1 => Ok(key),
        _ => {
            let shown = printable(prefix);
            let what = format!("{n} keys have a name that begins with `{shown}`");
            Err(OpsError::refused(ErrorCode::Usage, what, Some("`hikae key list` shows them".into())))
        }
    }
}

/// Who can open contents that are written from now on.
///
/// # Errors
/// Any failure to read the log.
pub fn recipients(repo: &Repo) -> Result<Vec<ListedRecipient>, RepoError> {
    let state = repo.follow()?;
    let own = repo.secret().map(|secret| identity(&secret.first_identity()).to_public().to_string());
    let listed = state.recipients.iter().map(|recipient| ListedRecipient {
        recipient: recipient.clone(),
        is_own: own.as_ref() == Some(recipient),
    });
    Ok(listed.collect())
}

/// A recipient, as lists show it.
#[derive(Clone, Debug, Serialize)]
pub struct ListedRecipient {
    /// As age or OpenSSH writes it.
    pub recipient: String,
    /// The repository's own: the recovery sheet and every owner's key open it.
    pub is_own: bool,
}

/// Adds a recipient: of what is written from now on, and of what was written before, if our key opens it.
/// Gives the number of epochs of earlier contents that it can open now.
///
/// # Errors
/// [`RepoError`] if it is no recipient, or the key may not.
pub fn add_recipient(repo: &Repo, recipient: &str) -> Result<usize, RepoError> {
    repo.append(&mut |state| Ok(Change::Recipients(with_recipient(&state.recipients, recipient)?)))?;
    let state = repo.follow()?;
    let mut n_rewrapped = 0;
    for epoch in &state.epochs {
        let record = repo.read_epoch(&epoch.epoch)?;
        if record.recipients == state.recipients {
            continue;
        }
        match repo.contents().rewrap(&record, &state.recipients, repo.signer()) {
            Ok(rewrapped) => {
                repo.put_epoch(&rewrapped)?;
                n_rewrapped += 1;
            }
            // What others wrote to others stays theirs.
            Err(RepoError::NeedsIdentity) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(n_rewrapped)
}

/// Removes a recipient. It keeps what it could open, and opens nothing that is written from now on.
///
/// # Errors
/// [`RepoError::BadKey`] if it is none, or the last.
pub fn remove_recipient(repo: &Repo, prefix: &str) -> Result<String, RepoError> {
    let mut removed = String::new();
    repo.append(&mut |state| {
        let kept;
        (removed, kept) = without_recipient(&state.recipients, prefix)?;
        Ok(Change::Recipients(kept))
    })?;
    Ok(removed)
}
