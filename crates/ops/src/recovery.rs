//! What stands on the recovery sheet: enough to restore on a fresh machine with nothing but the store and the
//! program.
//!
//! A repository whose sheet was never written is one key file away from being lost, so what must still be written is
//! noted before the repository is made, and struck off when the sheet stands.

use crate::private_file::{self, PrivateFileError};
use crate::secret_text::{self, SecretKind};
use hikae_model::RepositoryId;
use hikae_repo::keys::{RepositorySecret, Secret32};
use hikae_repo::{RELEASE, Repo, RepoError};
use jiff::Timestamp;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// A recovery sheet. It holds the secret: whoever has it and the store can read every backup.
pub struct RecoverySheet {
    /// The secret in groups, to be read by people.
    pub secret: Zeroizing<String>,
    /// The secret without spaces, for a QR code.
    pub compact: Zeroizing<String>,
    /// The repository.
    pub repository: RepositoryId,
    /// Where its store is.
    pub address: String,
    /// Its root key, by which it is known to be the right one.
    pub root_fingerprint: String,
    /// Who can open contents.
    pub recipients: Vec<String>,
    /// False if the secret opens the list of files and none of their contents.
    pub opens_contents: bool,
    /// Version of the format.
    pub format: u8,
    /// The release that wrote it.
    pub release: &'static str,
    /// When it was written.
    pub written: Timestamp,
}

impl RecoverySheet {
    /// The sheet of a repository whose secret is at hand.
    pub fn of(repo: &Repo, secret: &RepositorySecret) -> Self {
        let core = &repo.header().core;
        let state = repo.state();
        let bytes = Secret32::new(*secret.bytes());
        let own = hikae_repo::recipient::identity(&secret.first_identity()).to_public().to_string();
        Self {
            secret: secret_text::write(SecretKind::Recovery, &bytes),
            compact: secret_text::write_compact(SecretKind::Recovery, &bytes),
            repository: core.repository,
            address: repo.store().address(),
            root_fingerprint: fingerprint(&core.root.to_string()),
            opens_contents: state.recipients.contains(&own),
            recipients: state.recipients.clone(),
            format: core.format,
            release: RELEASE,
            written: repo.cx().now(),
        }
    }

    /// The sheet of an open repository.
    ///
    /// # Errors
    /// [`RepoError::NoRight`] if the key that opened it does not hold the secret.
    pub fn of_open(repo: &Repo) -> Result<Self, RepoError> {
        let secret = repo.secret().ok_or(RepoError::NoRight { what: "print the recovery sheet" })?;
        Ok(Self::of(repo, secret))
    }
}

/// The stores of repositories that were made here and whose sheets were not written yet: a list in the data folder,
/// one address a line, there only while it is not empty.
pub struct SheetsDue {
    file: PathBuf,
}

impl SheetsDue {
    /// The list in this data folder.
    pub fn below(data: &Path) -> Self {
        Self { file: data.join("recovery-sheets-due") }
    }

    /// Whether the sheet of the repository in `address` is to be written.
    ///
    /// # Errors
    /// The list is there and cannot be read.
    pub fn holds(&self, address: &str) -> Result<bool, PrivateFileError> {
        Ok(self.read()?.iter().any(|due| due == address))
    }

    /// Notes that the sheet of the repository in `address` is to be written.
    ///
    /// # Errors
    /// The list cannot be written.
    pub fn add(&self, address: &str) -> Result<(), PrivateFileError> {
        let mut due = self.read()?;
        if due.iter().any(|due| due == address) {
            return Ok(());
        }
        due.push(address.to_owned());
        private_file::create_directory(self.file.parent().unwrap_or(&self.file))?;
        self.write(&due)
    }

    /// Strikes it off.
    ///
    /// # Errors
    /// The list cannot be written.
    pub fn remove(&self, address: &str) -> Result<(), PrivateFileError> {
        let mut due = self.read()?;
        due.retain(|due| due != address);
        self.write(&due)
    }

    fn read(&self) -> Result<Vec<String>, PrivateFileError> {
        match private_file::read(&self.file) {
            Err(PrivateFileError::Missing { .. }) => Ok(Vec::new()),
            text => Ok(text?.lines().map(str::to_owned).collect()),
        }
    }

    fn write(&self, due: &[String]) -> Result<(), PrivateFileError> {
        match due {
            [] => private_file::remove(&self.file),
            due => private_file::replace(&self.file, format!("{}\n", due.join("\n")).as_bytes()),
        }
    }
}

/// The first 16 hex digits in groups of four.
fn fingerprint(id: &str) -> String {
    let groups = id.as_bytes().chunks(4).take(4).map(|group| String::from_utf8_lossy(group).into_owned());
    groups.collect::<Vec<_>>().join(" ")
}
