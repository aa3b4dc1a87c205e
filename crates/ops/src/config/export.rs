//! `[export.NAME]`: snapshots as ordinary files, as a configuration asks for them.
//!
//! The name says what a file is: `.sql` and `.dump` are two forms of a database, `.tar` is a tree in one file, a name that ends
//! with `/` is a folder, and `.gz` or `.zst` behind it compresses. So there is no setting that could contradict the name.

use super::{Config, SecretRef, SourceSettings, StoreConfig, nearest};
use crate::export::form::Form;
use hikae_export::place::FileMode;
use hikae_export::template::Template;
use hikae_model::sabotage;
use hikae_repo::retention::Retention;
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde::de::{self, Deserializer};
use std::path::{Path, PathBuf};

/// `[export.NAME]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportConfig {
    /// The sources whose snapshots are exported.
    pub sources: Vec<String>,
    /// The directory into which it goes. It must be there.
    pub to: StoreConfig,
    /// What each file is called below it.
    pub name: Template,
    /// What the manifest of a run is called, without what it ends with.
    #[serde(default = "default_manifest")]
    pub manifest: Template,
    /// Of sources of files: only these and what is below them.
    #[serde(default)]
    pub paths: Vec<PathBuf>,
    /// Only snapshots of these types, as `daily`.
    #[serde(default)]
    pub types: Vec<String>,
    /// Who can open it. Without, anybody can.
    #[serde(default)]
    pub encrypt: Option<EncryptConfig>,
    /// What is secret by the configuration of its source is left out.
    #[serde(default)]
    pub without_secrets: bool,
    /// Permission bits of the files; folders can also be entered by who may read them.
    #[serde(default)]
    pub mode: FileMode,
    /// The zone of the times in names; UTC, if left out.
    #[serde(default)]
    pub time_zone: Option<Zone>,
    /// Which runs are kept; what this export wrote before goes otherwise. All are kept, if left out.
    #[serde(default)]
    pub keep: Option<Retention>,
}

/// Who can open an export.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EncryptConfig {
    /// Recipients of age: `age1…` and SSH public keys.
    Age(Vec<String>),
    /// Files of OpenPGP public keys, as `gpg --export --armor` writes them.
    Openpgp(Vec<PathBuf>),
    /// A passphrase, by OpenPGP with AES-256: `gpg --decrypt` asks for it.
    Passphrase(SecretRef),
}

/// A zone by its name, as `Asia/Tokyo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(pub TimeZone);

impl<'de> Deserialize<'de> for Zone {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        TimeZone::get(&name).map(Self).map_err(|_| {
            de::Error::custom(format_args!("`{name}` is no time zone: write one as \"Asia/Tokyo\""))
        })
    }
}

fn default_manifest() -> Template {
    Template::manifest()
}

impl ExportConfig {
    /// An export of one source that nothing more is said of.
    pub fn of(source: &str, to: PathBuf, name: Template) -> Self {
        Self {
            sources: vec![source.to_owned()],
            to: StoreConfig::Directory(to),
            name,
            manifest: Template::manifest(),
            paths: Vec::new(),
            types: Vec::new(),
            encrypt: None,
            without_secrets: false,
            mode: FileMode::default(),
            time_zone: None,
            keep: None,
        }
    }

    /// The zone of the times in names.
    pub fn zone(&self) -> TimeZone {
        self.time_zone.as_ref().map_or(TimeZone::UTC, |zone| zone.0.clone())
    }

    /// What of it cannot be, beside what its type refuses: where it stands, what is wrong, and what to do.
    pub(super) fn faults(&self, config: &Config) -> Vec<(String, (String, String))> {
        let mut faults = Vec::new();
        let mut fault = |key: &str, what: String, advice: &str| {
            faults.push((key.to_owned(), (what, advice.to_owned())));
        };
        if self.sources.is_empty() {
            fault(
                "sources",
                "an export needs at least one source".to_owned(),
                "name one, as sources = [\"app\"]",
            );
        }
        if self.to.directory().is_none() {
            fault("to", "exports go into directories only".to_owned(), "name one, as to = \"/mnt/exports\"");
        }
        if !self.name.has("time") && !self.name.has("snapshot") {
            let what = format!("`{}` is the same name for every snapshot", self.name);
            fault("name", what, "put {time} in it, as `{source}_{time}.tar.gz`");
        }
        if self.sources.len() > 1 && !self.name.has("source") {
            let what = format!("`{}` is the same name for each of its sources", self.name);
            fault("name", what, "put {source} in it, or make one export for each");
        }
        if self.manifest.folder().is_none() || self.manifest.is_folder() || !self.manifest.has("time") {
            let what = format!("`{}` cannot be the name of manifests", self.manifest);
            fault("manifest", what, "put {time} in it, and no placeholder before its last /");
        }
        if self.name.is_folder() && self.encrypt.is_some() {
            let what = "a folder of files as themselves is not encrypted".to_owned();
            fault("name", what, "let the name end with .tar.gz");
        }
        if let Some(EncryptConfig::Age(list)) = &self.encrypt
            && list.is_empty()
        {
            fault(
                "encrypt",
                "it names nobody who could open it".to_owned(),
                "name a recipient, as \"age1…\"",
            );
        }
        if let Some(EncryptConfig::Openpgp(list)) = &self.encrypt
            && list.is_empty()
        {
            fault("encrypt", "it names nobody who could open it".to_owned(), "name the file of a public key");
        }
        for name in &self.sources {
            let Some(source) = config.sources.get(name) else {
                let near = nearest(name, config.sources.keys().map(String::as_str));
                let advice = near
                    .map_or("name one that is there".to_owned(), |near| format!("did you mean `{near}`?"));
                fault(&format!("\"{name}\""), format!("there is no [source.{name}]"), &advice);
                continue;
            };
            if let Err((what, advice)) = Form::of(&self.name, source.settings.kind()) {
                fault("name", what, &advice);
            }
            let SourceSettings::Files(files) = &source.settings else { continue };
            let shown = files.include.iter().find(|include| include.secret && self.touches(&include.path));
            if let Some(include) = shown
                && self.encrypt.is_none()
                && !self.without_secrets
                && !sabotage::on("secrets-exported")
            {
                let what = format!("{} is secret, and this export is not encrypted", include.path.display());
                fault("sources", what, "add encrypt = { age = [\"age1…\"] }, or without_secrets = true");
            }
        }
        faults
    }

    /// Whether a path, as a source includes it, is part of what is exported, or leads to it.
    pub fn touches(&self, include: &Path) -> bool {
        self.paths.is_empty()
            || self.paths.iter().any(|path| path.starts_with(include) || include.starts_with(path))
    }
}
