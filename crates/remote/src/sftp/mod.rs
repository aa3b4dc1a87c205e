//! A directory of another machine, over SSH.
//!
//! The server's own key is pinned: one that is unknown, or another than before, is an error, never a question. What an
//! object needs to be durable and to be made by one writer only are extensions of OpenSSH to the protocol (`PROTOCOL` in its
//! sources); a server without them is used as well as it can be, and what it cannot is said in words.

mod files;
mod host_key;
mod session;
mod wire;

use crate::ask::{Asker, What};
use crate::retry::Retry;
use crate::store::RemoteStore;
use hikae_model::{Advise, Cx, ErrorCode, Hint};
use hikae_store::{Reserve, StoreError};
use std::io;
use std::path::PathBuf;
use zeroize::Zeroizing;

use wire::Sftp;

/// The port of SSH.
const PORT: u16 = 22;

/// Which directory of which machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SftpSettings {
    /// The machine.
    pub host: String,
    /// Its port; 22 if there is none.
    pub port: Option<u16>,
    /// Who we are there.
    pub user: String,
    /// The directory: absolute, or below the one in which the server puts that user.
    pub path: String,
    /// The fingerprint of the server's key, as `SHA256:…`.
    pub host_key: Option<String>,
    /// Where keys of servers are, if no fingerprint says which it must be.
    pub known_hosts: Option<PathBuf>,
}

/// What lets us in, in the order in which it is tried.
#[derive(Clone, Default)]
pub struct SftpLogin {
    /// Private keys.
    pub keys: Vec<SshKey>,
    /// The socket of an agent that holds keys.
    pub agent: Option<PathBuf>,
    /// A password.
    pub password: Option<Zeroizing<String>>,
}

/// A private key.
#[derive(Clone)]
pub struct SshKey {
    /// Where it was read.
    pub path: PathBuf,
    /// What stands there.
    pub text: Zeroizing<String>,
    /// What opens it.
    pub passphrase: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for SftpLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys: Vec<_> = self.keys.iter().map(|key| &key.path).collect();
        f.debug_struct("SftpLogin").field("keys", &keys).field("agent", &self.agent).finish_non_exhaustive()
    }
}

/// Why a directory of another machine could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SftpError {
    /// Nobody said which key the server has.
    #[error("the key of {host} is not known; it shows the {algorithm} key {found}")]
    HostKeyUnknown {
        /// The server.
        host: String,
        /// The kind of its key.
        algorithm: String,
        /// The fingerprint of its key.
        found: String,
    },
    /// The server has another key than it must have.
    #[error("{host} shows another key than it should: the {algorithm} key {found}, expected {expected}")]
    HostKeyChanged {
        /// The server.
        host: String,
        /// The kind of the key that it shows.
        algorithm: String,
        /// Its fingerprint.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// The fingerprint in the settings is none.
    #[error("`{text}` is no fingerprint of a server's key")]
    BadHostKey {
        /// What stands there.
        text: String,
    },
    /// The file of known servers cannot be read.
    #[error("cannot read the keys of servers in {}", path.display())]
    KnownHosts {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The server knows none of what we have.
    #[error("{host} does not let {user} in with {tried}")]
    Login {
        /// The server.
        host: String,
        /// Who we said we are.
        user: String,
        /// What was shown.
        tried: String,
    },
    /// The server lets us in and has no SFTP for us.
    #[error("{host} offers no SFTP to {user}")]
    NoSftp {
        /// The server.
        host: String,
        /// Who we are.
        user: String,
    },
    /// The operating system gives us no threads.
    #[error("cannot begin to speak to the network")]
    Runtime(#[source] io::Error),
    /// Anything that can happen to any store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Advise for SftpError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::HostKeyUnknown { .. } | Self::HostKeyChanged { .. } => ErrorCode::Permission,
            Self::Login { .. } => ErrorCode::Credentials,
            Self::BadHostKey { .. } | Self::KnownHosts { .. } => ErrorCode::Usage,
            Self::NoSftp { .. } => ErrorCode::StoreUnreachable,
            Self::Runtime(_) => ErrorCode::Failure,
            Self::Store(error) => error.code(),
        }
    }

    fn advice(&self) -> Option<Hint> {
        match self {
            Self::HostKeyUnknown { found, .. } => Some(
                format!(
                    "on the server, `ssh-keygen -lf` of its /etc/ssh/ssh_host_*_key.pub shows what is right; if it is this one, set \
                     host_key = \"{found}\""
                )
                .into(),
            ),
            Self::HostKeyChanged { .. } => Some(
                "somebody may stand between you and the server; only if you know that it was set up anew, or has several keys, \
                 take over its fingerprint as its console shows it"
                    .into(),
            ),
            Self::BadHostKey { .. } => Some("`host_key` is as \"SHA256:…\", as `ssh-keygen -lf` shows it".into()),
            Self::KnownHosts { .. } => Some("give `host_key` = \"SHA256:…\", or a readable `known_hosts`".into()),
            Self::Login { .. } => Some(
                "see that the public half of the key is in ~/.ssh/authorized_keys of that user there; `key_file`, `agent` and \
                 `password` say what is shown"
                    .into(),
            ),
            Self::NoSftp { .. } => Some("see that sshd_config of the server has `Subsystem sftp internal-sftp`".into()),
            Self::Runtime(_) => None,
            Self::Store(error) => error.advice(),
        }
    }
}

impl SftpSettings {
    /// For people and for the recovery sheet.
    pub fn address(&self) -> String {
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        let slash = if self.path.starts_with('/') { "" } else { "/~/" };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("sftp://{}@{host}{port}{slash}{}", self.user, self.path)
    }

    /// Enters the server, and opens the directory as a store whose packs leave so much room.
    ///
    /// # Errors
    /// [`SftpError`]; [`StoreError::Missing`] in it if there is no such directory.
    pub fn store(
        &self,
        login: &SftpLogin,
        reserve: Reserve,
        retry: Retry,
        cx: &Cx,
    ) -> Result<RemoteStore, SftpError> {
        self.open(Sftp::new(self.clone(), login.clone(), reserve, cx)?, retry, cx, false)
    }

    /// The same, and makes the directory if it is not there. One that holds something else is refused.
    ///
    /// # Errors
    /// [`SftpError`].
    pub fn create(
        &self,
        login: &SftpLogin,
        reserve: Reserve,
        retry: Retry,
        cx: &Cx,
    ) -> Result<RemoteStore, SftpError> {
        self.open(Sftp::new(self.clone(), login.clone(), reserve, cx)?, retry, cx, true)
    }

    fn open(&self, wire: Sftp, retry: Retry, cx: &Cx, is_new: bool) -> Result<RemoteStore, SftpError> {
        let asker = Asker::new(self.address(), retry, cx).map_err(SftpError::Runtime)?;
        let what = What { verb: if is_new { "write" } else { "list" }, key: "the directory" };
        let begun = asker.persist(&what, || {
            asker.run(async {
                match is_new {
                    true => wire.make_root().await,
                    false => wire.enter().await,
                }
            })
        });
        begun.map_err(own_error)?;
        Ok(RemoteStore::over(asker, Box::new(wire)))
    }
}

/// What we wrapped ourselves, to go through what is the same for all stores, as it was.
fn own_error(error: StoreError) -> SftpError {
    match error {
        StoreError::Refused { verb, key, address, source } => match source.downcast() {
            Ok(own) => own,
            Err(source) => StoreError::Refused { verb, key, address, source }.into(),
        },
        StoreError::Credentials { verb, key, address, source } => match source.downcast() {
            Ok(own) => own,
            Err(source) => StoreError::Credentials { verb, key, address, source }.into(),
        },
        error => error.into(),
    }
}
