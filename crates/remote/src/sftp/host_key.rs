//! Whether a server is the one that it should be.

use super::{PORT, SftpError, SftpSettings};
use hikae_model::sabotage;
use russh::Preferred;
use russh::client::Handler;
use russh::keys::known_hosts::known_host_keys_path;
use russh::keys::ssh_key::Fingerprint;
use russh::keys::{Algorithm, HashAlg, PublicKey, PublicKeyOrCertificate};
use std::borrow::Cow;
use std::io;

/// What the key of a server must be.
#[derive(Clone)]
pub(super) struct HostKeys {
    host: String,
    expected: Expected,
}

#[derive(Clone)]
enum Expected {
    /// With this fingerprint.
    Fingerprint(Fingerprint),
    /// One of these; with none, the server is not known.
    Keys { keys: Vec<PublicKey>, revoked: Vec<PublicKey>, file: String },
}

impl HostKeys {
    /// # Errors
    /// [`SftpError::BadHostKey`] and [`SftpError::KnownHosts`].
    pub fn of(settings: &SftpSettings) -> Result<Self, SftpError> {
        let expected = match (&settings.host_key, &settings.known_hosts) {
            (Some(text), _) => match text.parse::<Fingerprint>() {
                Ok(fingerprint) if text.starts_with("SHA256:") => Expected::Fingerprint(fingerprint),
                Ok(_) | Err(_) => return Err(SftpError::BadHostKey { text: text.clone() }),
            },
            (None, Some(path)) => {
                let unreadable = |source| SftpError::KnownHosts { path: path.clone(), source };
                let port = settings.port.unwrap_or(PORT);
                // The library takes a file that it cannot read for an empty one.
                let text = std::fs::read_to_string(path).map_err(unreadable)?;
                let keys = known_host_keys_path(&settings.host, port, path)
                    .map_err(|error| unreadable(io::Error::other(error)))?;
                let keys = keys.into_iter().map(|(_, key)| key).collect();
                Expected::Keys { keys, revoked: revoked(&text), file: path.display().to_string() }
            }
            (None, None) => Expected::Keys { keys: Vec::new(), revoked: Vec::new(), file: String::new() },
        };
        Ok(Self { host: settings.host.clone(), expected })
    }

    /// The algorithms to ask for: those of the keys that we know come first, or a server with several would show another one.
    pub fn preferred(&self) -> Preferred {
        let Expected::Keys { keys, .. } = &self.expected else { return Preferred::DEFAULT };
        let is_known = |algorithm: &&Algorithm| keys.iter().any(|key| is_of(key, algorithm));
        let mut all: Vec<Algorithm> = Preferred::DEFAULT.key.iter().filter(is_known).cloned().collect();
        all.extend(Preferred::DEFAULT.key.iter().filter(|algorithm| !is_known(algorithm)).cloned());
        Preferred { key: Cow::Owned(all), ..Preferred::DEFAULT }
    }

    fn judge(&self, shown: &PublicKey) -> Result<(), SftpError> {
        if sabotage::on("any-server-will-do") {
            return Ok(());
        }
        let found = shown.fingerprint(HashAlg::Sha256);
        let (host, algorithm) = (self.host.clone(), shown.algorithm().to_string());
        let expected = match &self.expected {
            Expected::Fingerprint(expected) if *expected == found => return Ok(()),
            Expected::Fingerprint(expected) => expected.to_string(),
            Expected::Keys { revoked, file, .. } if holds(revoked, shown) => {
                format!("any but this one, which {file} revokes")
            }
            Expected::Keys { keys, .. } if holds(keys, shown) => return Ok(()),
            Expected::Keys { keys, .. } if keys.is_empty() => {
                return Err(SftpError::HostKeyUnknown { host, algorithm, found: found.to_string() });
            }
            Expected::Keys { keys, file, .. } => {
                let known: Vec<_> =
                    keys.iter().map(|key| key.fingerprint(HashAlg::Sha256).to_string()).collect();
                format!("{} as in {file}", known.join(" or "))
            }
        };
        Err(SftpError::HostKeyChanged { host, algorithm, found: found.to_string(), expected })
    }
}

/// A comment is no part of a key.
fn holds(keys: &[PublicKey], key: &PublicKey) -> bool {
    keys.iter().any(|known| known.key_data() == key.key_data())
}

fn is_of(key: &PublicKey, algorithm: &Algorithm) -> bool {
    match (key.algorithm(), algorithm) {
        (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }) => true,
        (own, other) => own == *other,
    }
}

/// Keys that a file of known servers says are stolen, whoever shows them.
fn revoked(text: &str) -> Vec<PublicKey> {
    let lines = text.lines().filter_map(|line| line.trim_start().strip_prefix("@revoked"));
    let key = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        PublicKey::from_openssh(&format!("{} {}", words.next()?, words.next()?)).ok()
    };
    lines.filter_map(key).collect()
}

/// What went wrong while a connection was made.
#[derive(Debug)]
pub(super) enum Unlinked {
    /// It will not go better in a moment.
    Final(SftpError),
    /// The network, or the server for now.
    Passing(io::Error),
}

impl From<russh::Error> for Unlinked {
    fn from(error: russh::Error) -> Self {
        Self::Passing(io::Error::other(error))
    }
}

impl Handler for HostKeys {
    type Error = Unlinked;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Unlinked> {
        match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => {
                self.judge(key).map(|()| true).map_err(Unlinked::Final)
            }
            // None was asked for.
            PublicKeyOrCertificate::Certificate(_) => Ok(false),
        }
    }
}
