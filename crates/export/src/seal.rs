//! Encryption of an export, in the stream: age, or OpenPGP as `gpg` reads it.
//!
//! OpenPGP is written as every GnuPG since 2.2 reads it: AES-256 with a modification detection code (SEIPD version 1), not
//! compressed, because the content is. Both libraries draw their keys from the operating system themselves or from what is
//! handed to them here.

use crate::ExportError;
use hikae_model::{Cx, Random};
use pgp::composed::{MessageBuilder, PublicOrSecret, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::crypto::sym::SymmetricKeyAlgorithm;
use pgp::packet::SignatureType;
use pgp::types::{KeyDetails as _, Password, StringToKey};
use rand::RngCore;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use zeroize::Zeroizing;

/// How often a passphrase is hashed, as GnuPG writes it: 65,011,712 bytes.
const S2K_COUNT: u8 = 255;
/// Longest file of a key that is read.
const MAX_KEY_BYTES: u64 = 1 << 20;

/// How a file is encrypted, with everything that it takes.
pub enum Sealing {
    /// Not at all.
    None,
    /// For recipients of age.
    Age(Vec<Box<dyn age::Recipient + Send>>),
    /// For OpenPGP keys.
    Keys(Vec<PublicKey>),
    /// With a passphrase, as OpenPGP.
    Passphrase(Zeroizing<String>),
}

/// A subkey for encryption.
pub struct PublicKey(SignedPublicSubKey);

impl Sealing {
    /// Reads `from` to its end and writes it to `out`, encrypted.
    ///
    /// # Errors
    /// Whatever reading or writing fails with.
    pub fn seal(&self, from: &mut dyn Read, out: &mut dyn Write, cx: &Cx) -> io::Result<()> {
        let mut rng = CxRng(cx.random_source());
        match self {
            Self::None => io::copy(from, out).map(drop),
            Self::Age(recipients) => {
                let recipients = recipients.iter().map(|one| &**one as &dyn age::Recipient);
                let encryptor = age::Encryptor::with_recipients(recipients).map_err(io::Error::other)?;
                let mut sealed = encryptor.wrap_output(out)?;
                io::copy(from, &mut sealed)?;
                sealed.finish().map(drop)
            }
            Self::Keys(keys) => {
                let builder = MessageBuilder::from_reader("", from);
                let mut builder = builder.seipd_v1(&mut rng, SymmetricKeyAlgorithm::AES256);
                for key in keys {
                    builder.encrypt_to_key(&mut rng, &key.0).map_err(io::Error::other)?;
                }
                builder.to_writer(&mut rng, out).map_err(io::Error::other)
            }
            Self::Passphrase(passphrase) => {
                let builder = MessageBuilder::from_reader("", from);
                let mut builder = builder.seipd_v1(&mut rng, SymmetricKeyAlgorithm::AES256);
                let s2k = StringToKey::new_iterated(&mut rng, HashAlgorithm::Sha256, S2K_COUNT);
                let password = Password::from(passphrase.as_str());
                builder.encrypt_with_password(s2k, &password).map_err(io::Error::other)?;
                builder.to_writer(&mut rng, out).map_err(io::Error::other)
            }
        }
    }
}

impl PublicKey {
    /// Reads a file of one public key, as `gpg --export` writes it: the newest of its subkeys that is for encryption, valid and
    /// not expired.
    ///
    /// # Errors
    /// [`ExportError::Key`]: there is none, or the key was revoked, or it is a secret one.
    pub fn read(path: &Path, cx: &Cx) -> Result<Self, ExportError> {
        let cannot = |why: String, advice| ExportError::Key { path: path.to_owned(), why, advice };
        let unreadable =
            |why: String| cannot(why, "write it with `gpg --export --armor ADDRESS`, one file for each key");
        let file = File::open(path).map_err(|error| unreadable(error.to_string()))?;
        let (keys, _) = PublicOrSecret::from_reader_many(file.take(MAX_KEY_BYTES))
            .map_err(|error| unreadable(error.to_string()))?;
        let keys: Vec<_> = keys.collect::<Result<_, _>>().map_err(|error| unreadable(error.to_string()))?;
        let key: SignedPublicKey = match <[PublicOrSecret; 1]>::try_from(keys) {
            Ok([PublicOrSecret::Public(key)]) => key,
            Ok([PublicOrSecret::Secret(_)]) => {
                let why = "it is a secret key, which has no place on this machine".to_owned();
                return Err(unreadable(why));
            }
            Err(keys) => return Err(unreadable(format!("it holds {} keys", keys.len()))),
        };
        if !key.details.revocation_signatures.is_empty() {
            return Err(cannot("it was revoked".to_owned(), "ask its owner for the new one"));
        }
        let now = cx.now().as_second();
        let found = key.public_subkeys.iter().filter(|subkey| is_for_encryption(subkey, &key, now));
        let newest = found.max_by_key(|subkey| subkey.key.created_at().as_secs());
        newest.cloned().map(Self).ok_or_else(|| {
            cannot(
                "none of its subkeys is for encryption, valid and not expired".to_owned(),
                "ask its owner for a newer one",
            )
        })
    }
}

fn is_for_encryption(subkey: &SignedPublicSubKey, key: &SignedPublicKey, now: i64) -> bool {
    let is_revoked = subkey.signatures.iter().any(|one| one.typ() == Some(SignatureType::SubkeyRevocation));
    if is_revoked || subkey.verify_bindings(&key.primary_key).is_err() {
        return false;
    }
    let newest = subkey.signatures.iter().max_by_key(|one| one.created().map(|at| at.as_secs()));
    let created = i64::from(subkey.key.created_at().as_secs());
    newest.is_some_and(|binding| {
        let flags = binding.key_flags();
        let lives = binding.key_expiration_time().map_or(0, |time| i64::from(time.as_secs()));
        (flags.encrypt_storage() || flags.encrypt_comms()) && (lives == 0 || now < created + lives)
    })
}

/// Randomness of the context, as the OpenPGP library asks for it.
struct CxRng(Arc<dyn Random>);

impl RngCore for CxRng {
    fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.fill_bytes(&mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill_bytes(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        self.0.fill(bytes);
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), rand::Error> {
        self.0.fill(bytes);
        Ok(())
    }
}

impl rand::CryptoRng for CxRng {}
