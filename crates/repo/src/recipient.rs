//! Age recipients and identities: who can open what was wrapped to them (age-encryption.org/v1).
//!
//! This module knows 32-byte keys wrapped in age files. It does not know what the keys open.

use crate::RepoError;
use crate::keys::Secret32;
use std::io::{Read, Write};
use zeroize::Zeroizing;

/// An identity that can be asked from any thread.
pub type Identity = Box<dyn age::Identity + Send + Sync>;

/// A recipient that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an age recipient (age1… or ssh-ed25519 …)")]
pub struct BadRecipient(pub String);

/// Parses a recipient as age or OpenSSH writes it.
///
/// # Errors
/// [`BadRecipient`] for anything else, private keys included.
pub fn parse_recipient(text: &str) -> Result<Box<dyn age::Recipient + Send>, BadRecipient> {
    if let Ok(recipient) = text.parse::<age::x25519::Recipient>() {
        return Ok(Box::new(recipient));
    }
    match text.parse::<age::ssh::Recipient>() {
        Ok(recipient) => Ok(Box::new(recipient)),
        // The text may be a private key that was pasted into the wrong field: never repeat it.
        Err(_) => Err(BadRecipient(text.chars().take(8).collect::<String>() + "…")),
    }
}

/// Parses identities as age and OpenSSH keep them in files.
///
/// # Errors
/// [`RepoError::BadKey`] if there is none in `text`.
pub fn parse_identities(text: &str) -> Result<Vec<Identity>, RepoError> {
    if text.contains("PRIVATE KEY-----") {
        return match age::ssh::Identity::from_buffer(text.as_bytes(), None) {
            Ok(identity @ age::ssh::Identity::Unencrypted(_)) => Ok(vec![Box::new(identity)]),
            Ok(_) => Err(RepoError::BadKey {
                what: "the SSH key is encrypted or of a kind that age cannot use".to_owned(),
            }),
            Err(error) => Err(RepoError::BadKey { what: format!("the SSH key cannot be read: {error}") }),
        };
    }
    let mut identities: Vec<Identity> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let identity = line.parse::<age::x25519::Identity>();
        identities.push(Box::new(
            identity
                .map_err(|why| RepoError::BadKey { what: format!("an identity cannot be read: {why}") })?,
        ));
    }
    match identities.is_empty() {
        true => Err(RepoError::BadKey { what: "the file holds no identity".to_owned() }),
        false => Ok(identities),
    }
}

/// The age identity whose X25519 scalar is `scalar`, as age writes it.
pub fn identity_text(scalar: &Secret32) -> Zeroizing<String> {
    let prefix = bech32::Hrp::parse("age-secret-key-").expect("a valid prefix");
    let text = bech32::encode_upper::<bech32::Bech32>(prefix, scalar.bytes()).expect("32 bytes fit");
    Zeroizing::new(text)
}

/// The same, ready to open age files with.
pub fn identity(scalar: &Secret32) -> age::x25519::Identity {
    identity_text(scalar).parse().expect("age reads what age writes")
}

/// An age file that holds `key` and that each of `recipients` can open.
///
/// # Errors
/// [`RepoError::Age`] if there is no recipient or one of them is not one.
pub(crate) fn wrap_key(recipients: &[String], key: &Secret32) -> Result<Vec<u8>, RepoError> {
    let failed =
        |error: &dyn std::fmt::Display| RepoError::Age { what: format!("cannot wrap a key: {error}") };
    let recipients = recipients.iter().map(|text| parse_recipient(text)).collect::<Result<Vec<_>, _>>();
    let recipients = recipients.map_err(|error| failed(&error))?;
    let mut wrap = Vec::new();
    let mut writer =
        age::Encryptor::with_recipients(recipients.iter().map(|one| &**one as &dyn age::Recipient))
            .map_err(|error| failed(&error))?
            .wrap_output(&mut wrap)
            .map_err(|error| failed(&error))?;
    writer.write_all(key.bytes()).map_err(|error| failed(&error))?;
    writer.finish().map_err(|error| failed(&error))?;
    Ok(wrap)
}

/// Opens what [`wrap_key`] made.
///
/// # Errors
/// [`RepoError::NeedsIdentity`] if none of `identities` is a recipient, [`RepoError::Age`] if it is damaged.
pub(crate) fn unwrap_key(wrap: &[u8], identities: &[Identity]) -> Result<Secret32, RepoError> {
    let failed = |error: &dyn std::fmt::Display| RepoError::Age {
        what: format!("a wrapped key does not open: {error}"),
    };
    let identities = identities.iter().map(|identity| &**identity as &dyn age::Identity);
    let mut plain = Zeroizing::new(Vec::new());
    let decryptor = age::Decryptor::new(wrap).map_err(|error| failed(&error))?;
    let mut reader = decryptor.decrypt(identities).map_err(|error| match error {
        age::DecryptError::NoMatchingKeys => RepoError::NeedsIdentity,
        error => failed(&error),
    })?;
    reader.read_to_end(&mut plain).map_err(|error| failed(&error))?;
    plain.as_slice().try_into().map(Secret32::new).map_err(|_| failed(&"it has another length"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_key_given_as_a_recipient_is_refused_and_not_repeated() {
        let secret = identity_text(&Secret32::new([5; 32]));
        let Err(error) = parse_recipient(&secret) else { panic!("a private key was taken as a recipient") };
        assert!(!error.to_string().contains(&secret[16..]));
    }

    #[test]
    fn a_key_opens_for_each_recipient_and_for_nobody_else() {
        let (one, two, stranger) = (Secret32::new([1; 32]), Secret32::new([2; 32]), Secret32::new([3; 32]));
        let recipients: Vec<_> = [&one, &two].map(|s| identity(s).to_public().to_string()).into();
        let wrap = wrap_key(&recipients, &Secret32::new([9; 32])).unwrap();
        for scalar in [&one, &two] {
            assert_eq!(unwrap_key(&wrap, &[Box::new(identity(scalar))]).unwrap().bytes(), &[9; 32]);
        }
        let refused = unwrap_key(&wrap, &[Box::new(identity(&stranger))]);
        assert!(matches!(refused, Err(RepoError::NeedsIdentity)));
    }
}
