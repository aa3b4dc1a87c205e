//! One connection: who the server is, who we are, and what it can do.

use super::host_key::{HostKeys, Unlinked};
use super::{PORT, SftpError, SftpLogin, SftpSettings};
use crate::answer::Outcome;
use russh::client::{self, AuthResult, Handle};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{HashAlg, PrivateKeyWithHashAlg, decode_secret_key};
use russh_sftp::client::RawSftpSession;
use russh_sftp::client::error::Error;
use russh_sftp::client::rawsession::SftpResult;
use russh_sftp::extensions;
use russh_sftp::protocol::{Packet, Status, StatusCode};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const CONNECTS_WITHIN: Duration = Duration::from_secs(30);
/// A server that says nothing for so long is asked whether it is there, and is not after so many questions.
const ASKED_AFTER: Duration = Duration::from_secs(15);
const N_QUESTIONS: usize = 4;
/// A request waits behind what was sent before it, also over a slow line.
const ANSWERS_WITHIN_SECONDS: u64 = 180;

/// Without a word of the server, what it takes at once (draft-ietf-secsh-filexfer-02, section 3).
const USUAL_STEP: u32 = 32 << 10;
/// More brings nothing; the library takes no packet above 256 KiB.
const LONGEST_STEP: u64 = 128 << 10;

pub(super) const POSIX_RENAME: &str = "posix-rename@openssh.com";

/// A server that has let us in.
pub(super) struct Session {
    pub sftp: RawSftpSession,
    pub can: Can,
    ssh: Handle<HostKeys>,
    is_broken: AtomicBool,
}

/// What a server can do beyond the protocol.
#[derive(Clone, Copy, Debug)]
pub(super) struct Can {
    /// Tell when a file is on the disk.
    pub fsync: bool,
    /// Give a file a second name, if nothing has that.
    pub hardlink: bool,
    /// Give a file the name of another.
    pub posix_rename: bool,
    /// Say how much room there is.
    pub statvfs: bool,
    /// What it reads at once.
    pub read_step: u32,
    /// What it writes at once.
    pub write_step: u32,
}

impl Session {
    pub async fn begin(
        settings: &SftpSettings,
        login: &SftpLogin,
        keys: &HostKeys,
    ) -> Result<Self, Unlinked> {
        let config = client::Config {
            preferred: keys.preferred(),
            nodelay: true,
            keepalive_interval: Some(ASKED_AFTER),
            keepalive_max: N_QUESTIONS,
            ..client::Config::default()
        };
        let at = (settings.host.as_str(), settings.port.unwrap_or(PORT));
        let late = |_| Unlinked::Passing(io::ErrorKind::TimedOut.into());
        let connecting = client::connect(Arc::new(config), at, keys.clone());
        let mut ssh = tokio::time::timeout(CONNECTS_WITHIN, connecting).await.map_err(late)??;
        let entering = enter(&mut ssh, settings, login);
        tokio::time::timeout(CONNECTS_WITHIN, entering).await.map_err(late)??;
        let no_sftp = || SftpError::NoSftp { host: settings.host.clone(), user: settings.user.clone() };
        let channel = ssh.channel_open_session().await?;
        channel.request_subsystem(true, "sftp").await?;
        let mut sftp = RawSftpSession::new(channel.into_stream());
        sftp.set_timeout(CONNECTS_WITHIN.as_secs());
        let version = match sftp.init().await {
            Ok(version) => version,
            // The server refuses the subsystem and then says nothing on the channel, or closes it.
            Err(_) if !ssh.is_closed() => return Err(Unlinked::Final(no_sftp())),
            Err(error) => return Err(Unlinked::Passing(io::Error::other(error))),
        };
        let has = |name: &str| version.extensions.contains_key(name);
        let mut can = Can {
            fsync: has(extensions::FSYNC),
            hardlink: has(extensions::HARDLINK),
            posix_rename: has(POSIX_RENAME),
            statvfs: has(extensions::STATVFS),
            read_step: USUAL_STEP,
            write_step: USUAL_STEP,
        };
        if has(extensions::LIMITS) {
            let limits = sftp.limits().await.map_err(|error| Unlinked::Passing(io::Error::other(error)))?;
            can.read_step = step(limits.max_read_len);
            can.write_step = step(limits.max_write_len);
            sftp.set_limits(limits.into());
        }
        sftp.set_timeout(ANSWERS_WITHIN_SECONDS);
        Ok(Self { sftp, can, ssh, is_broken: AtomicBool::new(false) })
    }

    pub fn is_over(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed) || self.ssh.is_closed()
    }

    /// What the answer to one request means.
    pub fn judge<T>(&self, result: SftpResult<T>) -> Result<T, Outcome> {
        result.map_err(|error| match error {
            Error::Status(status) => judge(status),
            // The limit on open files is ours to keep, and passes.
            Error::Limited(text) => Outcome::Passing(io::Error::other(text)),
            error => {
                self.is_broken.store(true, Ordering::Relaxed);
                Outcome::Passing(io::Error::other(error))
            }
        })
    }

    /// An extension whose arguments are texts, and whose answer is a status.
    pub async fn extended(&self, name: &str, arguments: &[&str]) -> Result<(), Outcome> {
        let mut data = Vec::new();
        for argument in arguments {
            let length = u32::try_from(argument.len()).unwrap_or(u32::MAX);
            data.extend_from_slice(&length.to_be_bytes());
            data.extend_from_slice(argument.as_bytes());
        }
        match self.judge(self.sftp.extended(name, data).await)? {
            Packet::Status(status) if status.status_code == StatusCode::Ok => Ok(()),
            Packet::Status(status) => Err(judge(status)),
            _ => self.judge(Err(Error::UnexpectedPacket)),
        }
    }
}

fn step(limit: u64) -> u32 {
    match limit {
        0 => USUAL_STEP,
        limit => limit.min(LONGEST_STEP) as u32,
    }
}

fn judge(status: Status) -> Outcome {
    let said = match status.error_message.as_str() {
        "" => format!("the server answered: {}", status.status_code),
        message => format!("the server answered: {message}"),
    };
    let said = io::Error::other(said);
    match status.status_code {
        StatusCode::NoSuchFile => Outcome::NotThere,
        StatusCode::PermissionDenied => Outcome::NotAllowed(said),
        StatusCode::NoConnection | StatusCode::ConnectionLost => Outcome::Passing(said),
        StatusCode::Ok
        | StatusCode::Eof
        | StatusCode::Failure
        | StatusCode::BadMessage
        | StatusCode::OpUnsupported => Outcome::Failed(said),
    }
}

/// Shows the server one thing after the other until it lets us in.
async fn enter(
    ssh: &mut Handle<HostKeys>,
    settings: &SftpSettings,
    login: &SftpLogin,
) -> Result<(), Unlinked> {
    let mut tried = Vec::new();
    let is_in = |result: &AuthResult| matches!(result, AuthResult::Success);
    for key in &login.keys {
        let passphrase = key.passphrase.as_ref().map(|passphrase| passphrase.as_str());
        let own = match decode_secret_key(&key.text, passphrase) {
            Ok(own) => own,
            Err(error) => {
                tried.push(format!("the key in {}, which cannot be used ({error})", key.path.display()));
                continue;
            }
        };
        let hash = hash_of(ssh).await?;
        let key_of_us = PrivateKeyWithHashAlg::new(Arc::new(own), hash);
        if is_in(&ssh.authenticate_publickey(&settings.user, key_of_us).await?) {
            return Ok(());
        }
        tried.push(format!("the key in {}", key.path.display()));
    }
    if let Some(socket) = &login.agent {
        match AgentClient::connect_uds(socket).await {
            Err(_) => tried.push("an agent that does not answer".to_owned()),
            Ok(mut agent) => {
                let held = agent.request_identities().await.unwrap_or_default();
                tried.push(format!("{} keys of the agent", held.len()));
                for identity in held {
                    let AgentIdentity::PublicKey { key, .. } = identity else { continue };
                    let hash = hash_of(ssh).await?;
                    let shown = ssh.authenticate_publickey_with(&settings.user, key, hash, &mut agent).await;
                    if shown.as_ref().is_ok_and(is_in) {
                        return Ok(());
                    }
                }
            }
        }
    }
    if let Some(password) = &login.password {
        if is_in(&ssh.authenticate_password(&settings.user, password.as_str()).await?) {
            return Ok(());
        }
        tried.push("the password".to_owned());
    }
    if ssh.is_closed() {
        return Err(Unlinked::Passing(io::ErrorKind::ConnectionReset.into()));
    }
    let tried = if tried.is_empty() { "nothing to show".to_owned() } else { tried.join(" or ") };
    let (host, user) = (settings.host.clone(), settings.user.clone());
    Err(Unlinked::Final(SftpError::Login { host, user, tried }))
}

/// What an RSA key is to sign with; SHA-1 only if the server knows nothing else.
async fn hash_of(ssh: &Handle<HostKeys>) -> Result<Option<HashAlg>, Unlinked> {
    Ok(ssh.best_supported_rsa_hash().await?.flatten())
}
