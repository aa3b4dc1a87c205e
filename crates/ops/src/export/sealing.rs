//! Who can open an export, from what the configuration says.

use crate::OpsError;
use crate::config::EncryptConfig;
use crate::surroundings::Surroundings;
use hikae_export::seal::{PublicKey, Sealing};
use hikae_model::{Advise as _, Cx, ErrorCode};
use hikae_repo::recipient::parse_recipient;

/// Reads recipients, keys and the passphrase that a configuration names.
pub(super) fn of(
    config: Option<&EncryptConfig>,
    around: &Surroundings,
    cx: &Cx,
) -> Result<Sealing, OpsError> {
    Ok(match config {
        None => Sealing::None,
        Some(EncryptConfig::Age(texts)) => {
            let parse = |text: &String| {
                parse_recipient(text).map_err(|error| {
                    let what = format!("an export cannot be encrypted: {error}");
                    let advice = "write recipients as age1…, or as SSH public keys";
                    OpsError::refused(ErrorCode::Usage, what, Some(advice.into()))
                })
            };
            Sealing::Age(texts.iter().map(parse).collect::<Result<_, _>>()?)
        }
        Some(EncryptConfig::Openpgp(paths)) => {
            Sealing::Keys(paths.iter().map(|path| PublicKey::read(path, cx)).collect::<Result<_, _>>()?)
        }
        Some(EncryptConfig::Passphrase(secret)) => {
            Sealing::Passphrase(secret.resolve(around, cx).map_err(|error| {
                let what = format!("the passphrase of an export cannot be had: {error}");
                OpsError::refused(error.code(), what, error.advice())
            })?)
        }
    })
}

/// What the names of encrypted files end with.
pub(super) fn suffix(config: Option<&EncryptConfig>) -> &'static str {
    match config {
        None => "",
        Some(EncryptConfig::Age(_)) => ".age",
        Some(EncryptConfig::Openpgp(_) | EncryptConfig::Passphrase(_)) => ".gpg",
    }
}

/// What it is called in a manifest.
pub(super) fn kind(config: Option<&EncryptConfig>) -> Option<&'static str> {
    Some(match config? {
        EncryptConfig::Age(_) => "age",
        EncryptConfig::Openpgp(_) | EncryptConfig::Passphrase(_) => "openpgp",
    })
}
