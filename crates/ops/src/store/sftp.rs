//! A directory of another machine, as a configuration or an address names it, and what we show its server.

use super::{StorePlace, variable};
use crate::config::SftpConfig;
use crate::open::OpenError;
use crate::private_file;
use crate::surroundings::Surroundings;
use hikae_model::Cx;
use hikae_remote::{SftpLogin, SftpSettings, SshKey};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Keys that OpenSSH makes, by their names in `~/.ssh`.
const USUAL_KEYS: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];

/// # Errors
/// A secret or a key cannot be read.
pub(super) fn place_of(config: &SftpConfig, around: &Surroundings, cx: &Cx) -> Result<StorePlace, OpenError> {
    let SftpConfig {
        host,
        port,
        user,
        path,
        host_key,
        known_hosts,
        key_file,
        key_passphrase,
        agent,
        password,
    } = config;
    let secret = |reference: &Option<crate::config::SecretRef>| {
        reference.as_ref().map(|reference| reference.resolve(around, cx)).transpose()
    };
    let password = secret(password)?;
    let mut keys = Vec::new();
    if let Some(path) = key_file {
        keys.push(key(path, secret(key_passphrase)?)?);
    }
    let has_other = !keys.is_empty() || password.is_some();
    let agent = agent.unwrap_or(!has_other).then(|| agent_of(around)).flatten();
    if !has_other {
        keys = usual_keys(around)?;
    }
    let settings = SftpSettings {
        host: host.clone(),
        port: *port,
        user: user.clone().unwrap_or_else(|| around.user.clone()),
        path: path.trim_end_matches('/').to_owned(),
        host_key: host_key.clone(),
        known_hosts: known_hosts.clone().or_else(|| usual_known_hosts(around)),
    };
    Ok(StorePlace::Sftp(Box::new((settings, SftpLogin { keys, agent, password }))))
}

/// What stands behind `sftp://`. Nothing if that is no address.
///
/// # Errors
/// A key cannot be read.
pub(super) fn parse(text: &str, around: &Surroundings) -> Result<Option<StorePlace>, OpenError> {
    let Some(settings) = parse_settings(text, around) else { return Ok(None) };
    let agent = agent_of(around);
    let login = SftpLogin { keys: usual_keys(around)?, agent, password: None };
    Ok(Some(StorePlace::Sftp(Box::new((settings, login)))))
}

fn parse_settings(text: &str, around: &Surroundings) -> Option<SftpSettings> {
    let (authority, path) = text.split_once('/')?;
    let (user, place) = match authority.split_once('@') {
        Some((user, place)) => (user.to_owned(), place),
        None => (around.user.clone(), authority),
    };
    // An address of version 6 of the protocol has colons of its own.
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map(str::parse).transpose().ok()?;
    let path = match path.trim_end_matches('/').strip_prefix("~/") {
        Some(path) => path.to_owned(),
        None => format!("/{}", path.trim_end_matches('/')),
    };
    let is_path = !matches!(path.as_str(), "" | "/" | "/~") && path.split('/').all(|name| name != "..");
    // A password in an address would be shown wherever that is.
    let is_user = !user.is_empty() && !user.contains(':');
    let known_hosts = usual_known_hosts(around);
    let settings = SftpSettings { host: host.to_owned(), port, user, path, host_key: None, known_hosts };
    (is_user && is_path && !host.is_empty()).then_some(settings)
}

fn key(path: &Path, passphrase: Option<Zeroizing<String>>) -> Result<SshKey, OpenError> {
    Ok(SshKey { path: path.to_owned(), text: private_file::read(path)?, passphrase })
}

fn usual_keys(around: &Surroundings) -> Result<Vec<SshKey>, OpenError> {
    let Some(home) = &around.home else { return Ok(Vec::new()) };
    let paths = USUAL_KEYS.map(|name| home.join(".ssh").join(name));
    paths.iter().filter(|path| path.is_file()).map(|path| key(path, None)).collect()
}

fn usual_known_hosts(around: &Surroundings) -> Option<PathBuf> {
    around.home.as_ref().map(|home| home.join(".ssh/known_hosts")).filter(|path| path.is_file())
}

fn agent_of(around: &Surroundings) -> Option<PathBuf> {
    variable(around, "SSH_AUTH_SOCK").map(PathBuf::from)
}
