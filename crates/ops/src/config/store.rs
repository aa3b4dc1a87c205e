//! Where a repository is kept, as a configuration says it.

use super::SecretRef;
use jiff::SignedDuration;
use serde::Deserialize;
use serde::de::{self, MapAccess, Visitor};
use std::fmt;
use std::path::{Path, PathBuf};

/// Where a repository is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    /// A directory.
    Directory(PathBuf),
    /// A bucket, or a part of one.
    S3(Box<S3Config>),
    /// A directory of another machine.
    Sftp(Box<SftpConfig>),
}

/// `{ s3 = { … } }`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3Config {
    /// The bucket.
    pub bucket: String,
    /// What all names begin with.
    #[serde(default)]
    pub prefix: Option<String>,
    /// The region.
    #[serde(default)]
    pub region: Option<String>,
    /// The server, unless it is Amazon's.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Whether the bucket is named in the path and not in the host's name; where there is an endpoint it is, unless this
    /// says otherwise.
    #[serde(default)]
    pub path_style: Option<bool>,
    /// Certificates that the server's is checked against, beside those of the system.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Who we are; without it and without a profile, whatever Amazon's programs would find.
    #[serde(default)]
    pub access_key: Option<String>,
    /// The secret that goes with `access_key`.
    #[serde(default)]
    pub secret_key: Option<SecretRef>,
    /// The profile of `~/.aws` that says who we are.
    #[serde(default)]
    pub profile: Option<String>,
    /// The role that is assumed with what was found.
    #[serde(default)]
    pub role: Option<String>,
    /// What whoever trusts us with the role asks for besides.
    #[serde(default)]
    pub external_id: Option<String>,
    /// The server that gives out roles, unless it is the store's own or Amazon's.
    #[serde(default)]
    pub sts_endpoint: Option<String>,
}

/// `{ sftp = { … } }`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SftpConfig {
    /// The machine.
    pub host: String,
    /// Its port; 22, if left out.
    #[serde(default)]
    pub port: Option<u16>,
    /// Who we are there; the user's own name, if left out.
    #[serde(default)]
    pub user: Option<String>,
    /// The directory: absolute, or below the one in which the server puts that user.
    pub path: String,
    /// The fingerprint of the server's key.
    #[serde(default)]
    pub host_key: Option<String>,
    /// Where keys of servers are, if there is no fingerprint; `~/.ssh/known_hosts`, if left out.
    #[serde(default)]
    pub known_hosts: Option<PathBuf>,
    /// Our private key.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// What opens it.
    #[serde(default)]
    pub key_passphrase: Option<SecretRef>,
    /// Whether the agent that SSH_AUTH_SOCK names is asked; if nothing else is given, it is.
    #[serde(default)]
    pub agent: Option<bool>,
    /// A password.
    #[serde(default)]
    pub password: Option<SecretRef>,
}

/// How long what is stored stays, whoever wants it gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockConfig {
    /// Who may end it early.
    pub mode: LockMode,
    /// The least that is left of each lock when a snapshot relies on it.
    #[serde(rename = "for", deserialize_with = "super::length_of_time")]
    pub length: SignedDuration,
}

/// Who may end a lock early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LockMode {
    /// Nobody.
    Compliance,
    /// Who has a right of its own to.
    Governance,
}

impl StoreConfig {
    /// The directory, if it is one on this machine.
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::Directory(path) => Some(path),
            Self::S3(_) | Self::Sftp(_) => None,
        }
    }
}

impl<'de> Deserialize<'de> for StoreConfig {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PathOrTable;

        impl<'de> Visitor<'de> for PathOrTable {
            type Value = StoreConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path such as \"/var/lib/hikae/main\", { s3 = { bucket = \"…\" } } or { sftp = { host = \"…\", path = \"…\" } }")
            }

            fn visit_str<E: de::Error>(self, path: &str) -> Result<StoreConfig, E> {
                match path.starts_with('/') {
                    true => Ok(StoreConfig::Directory(path.into())),
                    false => Err(E::custom(format_args!("the store `{path}` is not an absolute path"))),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StoreConfig, A::Error> {
                use de::Error as _;
                let kind: String = map.next_key()?.unwrap_or_default();
                let store = match kind.as_str() {
                    "s3" => StoreConfig::S3(Box::new(map.next_value()?)),
                    "sftp" => StoreConfig::Sftp(Box::new(map.next_value()?)),
                    _ => {
                        return Err(A::Error::custom(format_args!(
                            "there are no stores of the kind `{kind}`, only directories, store = \"/path\", s3 and sftp"
                        )));
                    }
                };
                if let Some(other) = map.next_key::<String>()? {
                    return Err(A::Error::custom(format_args!("one store, and not also `{other}`")));
                }
                match &store {
                    StoreConfig::Directory(_) => Ok(()),
                    StoreConfig::S3(config) => config.check(),
                    StoreConfig::Sftp(config) => config.check(),
                }
                .map_err(A::Error::custom)?;
                Ok(store)
            }
        }

        deserializer.deserialize_any(PathOrTable)
    }
}

impl S3Config {
    fn check(&self) -> Result<(), String> {
        if self.bucket.is_empty() || self.bucket.contains('/') {
            return Err(format!(
                "`{}` is no name of a bucket; what comes below it is its `prefix`",
                self.bucket
            ));
        }
        if let Some(prefix) = &self.prefix
            && !hikae_store::is_prefix(prefix)
        {
            return Err(format!(
                "the prefix `{prefix}` must be names of lower-case letters, digits, `.` and `-`, joined by `/`"
            ));
        }
        for endpoint in [&self.endpoint, &self.sts_endpoint].into_iter().flatten() {
            if !(endpoint.starts_with("https://") || endpoint.starts_with("http://")) {
                return Err(format!("the endpoint `{endpoint}` must begin with https://"));
            }
        }
        if self.access_key.is_some() && self.profile.is_some() {
            return Err("`access_key` and `profile` both say who we are: take one away".to_owned());
        }
        if self.role.is_none() && (self.external_id.is_some() || self.sts_endpoint.is_some()) {
            return Err("`external_id` and `sts_endpoint` are for a `role`".to_owned());
        }
        match (&self.access_key, &self.secret_key) {
            (Some(_), None) => Err("`access_key` needs its `secret_key`".to_owned()),
            (None, Some(_)) => Err("`secret_key` needs its `access_key`".to_owned()),
            _ => Ok(()),
        }
    }
}

impl SftpConfig {
    fn check(&self) -> Result<(), String> {
        if self.host.is_empty() || self.host.contains(['/', '@', ' ']) {
            return Err(format!(
                "`{}` is no name of a machine; `user`, `port` and `path` are beside it",
                self.host
            ));
        }
        if self.path.trim_end_matches('/').is_empty() || self.path.split('/').any(|name| name == "..") {
            return Err(format!("the path `{}` must be one directory of the server", self.path));
        }
        if self.key_passphrase.is_some() && self.key_file.is_none() {
            return Err("`key_passphrase` needs its `key_file`".to_owned());
        }
        Ok(())
    }
}
