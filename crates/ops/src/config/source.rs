//! `[source.NAME]`: something to protect, of the kind that it says.

use super::SecretRef;
use crate::OpsError;
use crate::backup::NamedSource;
use crate::config::SecretError;
use crate::hooks::Hooks;
use crate::surroundings::Surroundings;
use hikae_model::{Advise, Cx};
use hikae_source::files::{FilesSettings, FilesSource};
use hikae_source::postgresql::{PostgresqlSettings, PostgresqlSource, Secret};
use hikae_source::sqlite::{SqliteSettings, SqliteSource};
use hikae_source::{Source, SourceError};

/// `[source.NAME]`.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// What it is.
    pub settings: SourceSettings,
    /// Where its password is, for databases that want one.
    pub password: Option<SecretRef>,
    /// Programs around its reading.
    pub hooks: Hooks,
}

/// What kind of source it is, with the settings of that kind.
#[derive(Clone, Debug)]
pub enum SourceSettings {
    /// `kind = "files"`.
    Files(FilesSettings),
    /// `kind = "sqlite"`.
    Sqlite(SqliteSettings),
    /// `kind = "postgresql"`.
    Postgresql(Box<PostgresqlSettings>),
}

impl SourceSettings {
    /// The kinds, as the configuration names them.
    pub const KINDS: [&str; 3] = ["files", "sqlite", "postgresql"];

    /// Its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Files(_) => "files",
            Self::Sqlite(_) => "sqlite",
            Self::Postgresql(_) => "postgresql",
        }
    }

    /// What it protects, for people: folders, a database file, a database on a server.
    pub fn shown(&self) -> String {
        match self {
            Self::Files(settings) => {
                let paths = settings.include.iter().map(|include| include.path.display().to_string());
                paths.collect::<Vec<_>>().join(", ")
            }
            Self::Sqlite(settings) => settings.path.display().to_string(),
            Self::Postgresql(settings) => super::effective::without_password(&settings.connection),
        }
    }
}

impl SourceConfig {
    /// A source of these settings, without password and hooks.
    pub fn of(settings: SourceSettings) -> Self {
        Self { settings, password: None, hooks: Hooks::default() }
    }

    /// The source, ready to be read. Fetches its password.
    ///
    /// # Errors
    /// [`OpsError`] if a setting cannot be, or the password cannot be had.
    pub fn open(&self, name: &str, around: &Surroundings, cx: &Cx) -> Result<NamedSource, OpsError> {
        let of_source = |source: SourceError| OpsError::Source { source_name: name.to_owned(), source };
        let source: Box<dyn Source> = match &self.settings {
            SourceSettings::Files(settings) => {
                Box::new(FilesSource::new(settings.clone()).map_err(of_source)?)
            }
            SourceSettings::Sqlite(settings) => {
                Box::new(SqliteSource::new(settings.clone(), around.scratch.clone()))
            }
            SourceSettings::Postgresql(settings) => {
                let password = self.password.as_ref().map(|secret| secret.resolve(around, cx)).transpose();
                let password = password.map_err(|error| no_password(name, &error))?;
                let password = password.map(|text| Secret::new(text.as_str().to_owned()));
                let environment = around.for_postgresql();
                let source = PostgresqlSource::new((**settings).clone(), password, environment);
                Box::new(source.map_err(of_source)?)
            }
        };
        Ok(NamedSource { name: name.to_owned(), source, hooks: self.hooks.clone() })
    }
}

fn no_password(name: &str, error: &SecretError) -> OpsError {
    OpsError::refused(error.code(), format!("{name}: its password cannot be had: {error}"), error.advice())
}
