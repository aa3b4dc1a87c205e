//! The configuration: one TOML file, strict.
//!
//! ```toml
//! [repository.main]
//! store = "/var/lib/hikae/main"
//! unlock = { key_file = "/etc/hikae/main.key" }
//!
//! [source.app]
//! kind = "files"
//! include = ["/srv/app"]
//!
//! [job.nightly]
//! sources = ["app"]
//! repository = "main"
//! retention = { daily = 30, weekly = 12, monthly = 12 }
//! ```
//!
//! - An unknown key, a key given twice or a wrong type is an error with line and column: a misspelt rule must
//!   not read as none.
//! - Secrets are references ([`SecretRef`]), so a configuration can be shown and kept.
//!
//! Each crate owns the settings of its things; this module puts them together and knows where the file is.

mod append;
mod domains;
mod effective;
mod env_file;
mod export;
mod fault;
mod fixtures;
mod leak;
mod nearest;
mod neighbours;
mod parse;
mod rate;
mod schema;
mod secret;
mod source;
mod store;

pub use bytesize::ByteSize;

pub use domains::{DomainKind, Domains};

pub use append::{NewSource, append_sources, new_text};
pub use effective::{Difference, differences, effective, to_text};
pub use env_file::BadEnvFile;
pub use export::{EncryptConfig, ExportConfig, Zone};
pub use fault::{ConfigError, Fault};
pub use fixtures::Fixtures;
pub use hikae_export::place::FileMode;
pub use hikae_export::template::Template;
pub(crate) use leak::masked;
pub use nearest::nearest;
pub use parse::parse;
pub use rate::{BadRate, Rate};
pub use schema::schema;
pub(crate) use secret::printed_by;
pub use secret::{BadSecretRef, SecretError, SecretRef};
pub use source::{SourceConfig, SourceSettings};
pub use store::{LockConfig, LockMode, S3Config, SftpConfig, StoreConfig};

use crate::surroundings::Surroundings;
use hikae_model::RepositoryId;
use hikae_repo::retention::Retention;
use jiff::{SignedDuration, Span, SpanRelativeTo};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A whole configuration.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The file that it was read from.
    pub file: Option<PathBuf>,
    /// Repositories by name.
    pub repositories: BTreeMap<String, RepositoryConfig>,
    /// Sources by name.
    pub sources: BTreeMap<String, SourceConfig>,
    /// Where this machine is, and who looks after it.
    pub here: Domains,
    /// Jobs by name.
    pub jobs: BTreeMap<String, JobConfig>,
    /// Exports by name.
    pub exports: BTreeMap<String, ExportConfig>,
    /// What is no error and should be mended, as a password in a connection string.
    pub warnings: Vec<Fault>,
}

/// `[repository.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepositoryConfig {
    /// Where it is kept.
    pub store: StoreConfig,
    /// Which one it is: another that stands there, as after a wrong disk was mounted, is refused.
    #[serde(default)]
    pub id: Option<RepositoryId>,
    /// What opens it, unless the command line says otherwise.
    #[serde(default)]
    pub unlock: Option<UnlockConfig>,
    /// Who can open contents, besides the repository's own identity: age recipients, used when it is made.
    #[serde(default)]
    pub recipients: Vec<String>,
    /// This host keeps no key that opens contents; used when it is made.
    #[serde(default)]
    pub write_only: bool,
    /// Free space that packs leave on the disk; by default 2 % of it, at most 1 GiB.
    #[serde(default)]
    pub reserve: Option<ByteSize>,
    /// How fast it may be written and read.
    #[serde(default)]
    pub limit: LimitConfig,
    /// How often space is freed after a job has forgotten old snapshots by its retention; never, if left out.
    #[serde(default, deserialize_with = "span_of_time")]
    pub prune_every: Option<SignedDuration>,
    /// What it is lost with, as far as it cannot be seen.
    #[serde(default)]
    pub domains: Domains,
    /// It cannot be reached from here most of the time, as a disk that is unplugged.
    #[serde(default)]
    pub offline: bool,
    /// How long what is stored stays, whoever wants it gone; only in a bucket.
    #[serde(default)]
    pub lock: Option<LockConfig>,
}

/// `limit = { up = "10 MB/s", down = "50 MB/s" }`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitConfig {
    /// To the repository.
    #[serde(default)]
    pub up: Option<Rate>,
    /// From the repository.
    #[serde(default)]
    pub down: Option<Rate>,
}

/// A length of time as people write it, as `7d`.
fn span_of_time<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SignedDuration>, D::Error> {
    length_of_time(deserializer).map(Some)
}

/// The same where there must be one.
pub(crate) fn length_of_time<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<SignedDuration, D::Error> {
    use serde::de::Error as _;
    let span = Span::deserialize(deserializer)?;
    let length = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(D::Error::custom)?;
    match length.is_positive() {
        true => Ok(length),
        false => Err(D::Error::custom("must be longer than nothing, as \"7d\"")),
    }
}

/// What opens a repository.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnlockConfig {
    /// A key file.
    KeyFile(PathBuf),
    /// A passphrase.
    Passphrase(SecretRef),
    /// A file of age or SSH identities.
    IdentityFile(PathBuf),
}

/// `[job.NAME]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobConfig {
    /// Sources that are backed up together, as one run; all of them, if left out.
    #[serde(default)]
    pub sources: Option<Vec<String>>,
    /// Where to; not needed if there is one repository.
    #[serde(default)]
    pub repository: Option<String>,
    /// Further repositories, into which the snapshots of each run are copied.
    #[serde(default)]
    pub copies: Vec<String>,
    /// What the job is for; kept with each snapshot that it makes.
    #[serde(default)]
    pub description: Option<String>,
    /// Which snapshots of its sources are kept: the others are forgotten after each good backup of this job, and by
    /// `hikae forget`. All are kept, if left out.
    #[serde(default)]
    pub retention: Option<Retention>,
    /// How far back the archived log of its clusters leads; older log goes with a prune, also where older base backups
    /// stay. As far as the oldest of them, if left out.
    #[serde(default, deserialize_with = "span_of_time")]
    pub keep_log: Option<SignedDuration>,
    /// Exports that follow each run, of what it backed up.
    #[serde(default)]
    pub exports: Vec<String>,
}

impl JobConfig {
    /// True if the job backs this source up.
    pub fn takes(&self, source: &str) -> bool {
        self.sources.as_ref().is_none_or(|sources| sources.iter().any(|taken| taken == source))
    }
}

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError`] with every fault that was found, each with its place.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        parse(&text, Some(path))
    }

    /// The file to read: the one that was named, else the first that is there.
    pub fn find(named: Option<&Path>, around: &Surroundings) -> Option<PathBuf> {
        let named = named.map(Path::to_owned);
        named.or_else(|| Self::places(around).into_iter().find(|path| path.exists()))
    }

    /// Where a configuration is looked for, in this order, if none was named.
    pub fn places(around: &Surroundings) -> [PathBuf; 2] {
        [around.config.join("config.toml"), "/etc/hikae/config.toml".into()]
    }

    /// The repository of this name, or the only one.
    ///
    /// # Errors
    /// [`ConfigError`] if there is none, or there are several and none was named.
    pub fn repository(&self, name: Option<&str>) -> Result<(&str, &RepositoryConfig), ConfigError> {
        let names = || self.repositories.keys().map(String::as_str);
        let found = match name {
            Some(name) => self.repositories.get_key_value(name),
            None if self.repositories.len() == 1 => self.repositories.first_key_value(),
            None => None,
        };
        found.map(|(name, repository)| (name.as_str(), repository)).ok_or_else(|| match name {
            Some(name) => ConfigError::no_such("repository", name, names()),
            None => ConfigError::WhichOne { what: "repository", names: names().map(str::to_owned).collect() },
        })
    }

    /// The sources that a job asks for, or all of them.
    ///
    /// # Errors
    /// [`ConfigError`] if there is no such job.
    pub fn sources_of(&self, job: Option<&str>) -> Result<Vec<&str>, ConfigError> {
        let all = || self.sources.keys().map(String::as_str).collect();
        let Some(name) = job else { return Ok(all()) };
        let names = || self.jobs.keys().map(String::as_str);
        let job = self.jobs.get(name).ok_or_else(|| ConfigError::no_such("job", name, names()))?;
        Ok(job.sources.as_ref().map_or_else(all, |sources| sources.iter().map(String::as_str).collect()))
    }

    /// The jobs that back up into this repository of the configuration, as far as they say.
    pub fn jobs_into(&self, repository: Option<&str>) -> impl Iterator<Item = (&str, &JobConfig)> {
        let is_elsewhere =
            move |job: &JobConfig| job.repository.as_deref().zip(repository).is_some_and(|(a, b)| a != b);
        self.jobs.iter().filter(move |(_, job)| !is_elsewhere(job)).map(|(name, job)| (name.as_str(), job))
    }

    /// The repositories into which a source is backed up, by its jobs; without a job, the only one.
    ///
    /// # Errors
    /// [`ConfigError`] if a job leaves it open and there are several.
    pub fn repositories_of(&self, source: &str) -> Result<Vec<&str>, ConfigError> {
        let mut names = Vec::new();
        for job in self.jobs.values().filter(|job| job.takes(source)) {
            names.push(self.repository(job.repository.as_deref())?.0);
        }
        if names.is_empty() {
            names.push(self.repository(None)?.0);
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// The same, and the repositories into which its jobs copy.
    ///
    /// # Errors
    /// As for [`repositories_of`](Self::repositories_of).
    pub fn repositories_and_copies_of(&self, source: &str) -> Result<Vec<&str>, ConfigError> {
        let mut names = self.repositories_of(source)?;
        for job in self.jobs.values().filter(|job| job.takes(source)) {
            names.extend(
                job.copies
                    .iter()
                    .map(String::as_str)
                    .filter(|name| !names.contains(name))
                    .collect::<Vec<_>>(),
            );
        }
        Ok(names)
    }

    /// Sources that go on from the dumps of another: their names, and whose.
    pub fn bases(&self) -> impl Iterator<Item = (&str, &str)> {
        self.sources.iter().filter_map(|(name, source)| match &source.settings {
            SourceSettings::PostgresqlRows(rows) => Some((name.as_str(), rows.base.as_str())),
            _ => None,
        })
    }

    /// The export of this name.
    ///
    /// # Errors
    /// [`ConfigError`] if there is none.
    pub fn export(&self, name: &str) -> Result<&ExportConfig, ConfigError> {
        let names = || self.exports.keys().map(String::as_str);
        self.exports.get(name).ok_or_else(|| ConfigError::no_such("export", name, names()))
    }

    /// The source of this name.
    ///
    /// # Errors
    /// [`ConfigError`] if there is none.
    pub fn source(&self, name: &str) -> Result<&SourceConfig, ConfigError> {
        let names = || self.sources.keys().map(String::as_str);
        self.sources.get(name).ok_or_else(|| ConfigError::no_such("source", name, names()))
    }
}
