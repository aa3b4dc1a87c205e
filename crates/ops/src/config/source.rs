//! `[source.NAME]`: something to protect, of the kind that it says.

use super::{Fixtures, SecretRef};
use crate::OpsError;
use crate::backup::NamedSource;
use crate::config::SecretError;
use crate::hooks::Hooks;
use crate::surroundings::Surroundings;
use hikae_model::{Advise, Cx, ErrorCode, Problem, TreePath};
use hikae_source::files::{FilesSettings, FilesSource, Neighbours};
use hikae_source::postgresql::differential::{self, RowsSettings, RowsSource};
use hikae_source::postgresql::{Finding, PostgresqlSettings, PostgresqlSource, Secret, Weight};
use hikae_source::postgresql_cluster::{self, ClusterSettings, ClusterSource};
use hikae_source::sqlite::{SqliteSettings, SqliteSource};
use hikae_source::{Source, SourceError};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// `[source.NAME]`.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// What it is.
    pub settings: SourceSettings,
    /// Where its password is, for databases that want one.
    pub password: Option<SecretRef>,
    /// Programs around its reading.
    pub hooks: Hooks,
    /// What it must keep and leave out, for `hikae config test`.
    pub fixtures: Fixtures,
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
    /// `kind = "postgresql-rows"`.
    PostgresqlRows(Box<RowsSettings>),
    /// `kind = "postgresql-cluster"`.
    PostgresqlCluster(ClusterSettings),
}

impl SourceSettings {
    /// The kinds, as the configuration names them.
    pub const KINDS: [&str; 5] =
        ["files", "sqlite", "postgresql", differential::KIND, postgresql_cluster::KIND];

    /// Its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Files(_) => "files",
            Self::Sqlite(_) => "sqlite",
            Self::Postgresql(_) => "postgresql",
            Self::PostgresqlRows(_) => differential::KIND,
            Self::PostgresqlCluster(_) => postgresql_cluster::KIND,
        }
    }

    /// How the server is entered, for kinds that enter one.
    pub fn connection(&self) -> Option<&str> {
        match self {
            Self::Postgresql(settings) => Some(&settings.connection),
            Self::PostgresqlRows(settings) => Some(&settings.connection),
            Self::PostgresqlCluster(settings) => Some(&settings.connection),
            Self::Files(_) | Self::Sqlite(_) => None,
        }
    }

    /// What it protects, for people: folders, a database file, a database on a server, a server.
    pub fn shown(&self) -> String {
        match self {
            Self::Files(settings) => {
                let paths = settings.include.iter().map(|include| include.path.display().to_string());
                paths.collect::<Vec<_>>().join(", ")
            }
            Self::Sqlite(settings) => settings.path.display().to_string(),
            Self::PostgresqlRows(settings) => {
                let tables = settings.tables.iter().map(|table| table.table.as_str());
                format!("rows of {}", tables.collect::<Vec<_>>().join(", "))
            }
            Self::Postgresql(_) | Self::PostgresqlCluster(_) => {
                self.connection().map(super::effective::without_password).unwrap_or_default()
            }
        }
    }
}

impl SourceConfig {
    /// A source of these settings, without password, hooks and fixtures.
    pub fn of(settings: SourceSettings) -> Self {
        Self { settings, password: None, hooks: Hooks::default(), fixtures: Fixtures::default() }
    }

    /// The source, ready to be read beside these neighbours. Fetches its password.
    ///
    /// # Errors
    /// [`OpsError`] if a setting cannot be, or the password cannot be had.
    pub fn open(
        &self,
        name: &str,
        neighbours: &Neighbours,
        around: &Surroundings,
        cx: &Cx,
    ) -> Result<NamedSource, OpsError> {
        let of_source = |source: SourceError| OpsError::Source { source_name: name.to_owned(), source };
        let source: Box<dyn Source> = match &self.settings {
            SourceSettings::Files(settings) => {
                Box::new(FilesSource::beside(neighbours.clone(), settings.clone()).map_err(of_source)?)
            }
            SourceSettings::Sqlite(settings) => {
                Box::new(SqliteSource::new(settings.clone(), around.scratch.clone()))
            }
            SourceSettings::Postgresql(settings) => {
                Box::new(self.open_postgresql(settings, name, around, cx)?)
            }
            SourceSettings::PostgresqlRows(settings) => Box::new(self.open_rows(settings, name, around, cx)?),
            SourceSettings::PostgresqlCluster(settings) => {
                Box::new(self.open_cluster(settings, name, around, cx)?)
            }
        };
        let hooks = Hooks { umask: around.umask, ..self.hooks.clone() };
        Ok(NamedSource { name: name.to_owned(), source, hooks })
    }
}

impl SourceConfig {
    /// Whether an entry of its snapshots stands in an include that is `secret = true`, where it is named or where it
    /// leads to.
    pub fn is_secret(&self, path: &TreePath) -> bool {
        let SourceSettings::Files(files) = &self.settings else { return false };
        let at = Path::new("/").join(OsStr::from_bytes(path.as_bytes()));
        let secret = files.include.iter().filter(|include| include.secret).map(|include| &include.path);
        secret.into_iter().any(|place| {
            at.starts_with(place) || std::fs::canonicalize(place).is_ok_and(|place| at.starts_with(place))
        })
    }

    fn open_postgresql(
        &self,
        settings: &PostgresqlSettings,
        name: &str,
        around: &Surroundings,
        cx: &Cx,
    ) -> Result<PostgresqlSource, OpsError> {
        let password = self.fetch_password(name, around, cx)?;
        PostgresqlSource::new(settings.clone(), password, around.for_postgresql())
            .map_err(|source| OpsError::Source { source_name: name.to_owned(), source })
    }

    fn open_rows(
        &self,
        settings: &RowsSettings,
        name: &str,
        around: &Surroundings,
        cx: &Cx,
    ) -> Result<RowsSource, OpsError> {
        let password = self.fetch_password(name, around, cx)?;
        RowsSource::new(settings.clone(), password, &around.for_postgresql())
            .map_err(|source| OpsError::Source { source_name: name.to_owned(), source })
    }

    /// The cluster that it is, ready to be entered. Fetches its password.
    ///
    /// # Errors
    /// [`OpsError::Refused`] if it is of another kind; as for [`open`](Self::open).
    pub fn cluster(&self, name: &str, around: &Surroundings, cx: &Cx) -> Result<ClusterSource, OpsError> {
        if let SourceSettings::PostgresqlCluster(settings) = &self.settings {
            return self.open_cluster(settings, name, around, cx);
        }
        let what =
            format!("{name} is a source of kind {}, and this wants a whole server", self.settings.kind());
        let advice = "name a source of kind postgresql-cluster";
        Err(OpsError::refused(ErrorCode::Usage, what, Some(advice.into())))
    }

    fn open_cluster(
        &self,
        settings: &ClusterSettings,
        name: &str,
        around: &Surroundings,
        cx: &Cx,
    ) -> Result<ClusterSource, OpsError> {
        let password = self.fetch_password(name, around, cx)?;
        ClusterSource::new(settings.clone(), password, &around.for_postgresql())
            .map_err(|source| OpsError::Source { source_name: name.to_owned(), source })
    }

    /// The password that the configuration leads to, if it does.
    ///
    /// # Errors
    /// [`OpsError`] if it cannot be had.
    pub fn fetch_password(
        &self,
        name: &str,
        around: &Surroundings,
        cx: &Cx,
    ) -> Result<Option<Secret>, OpsError> {
        let password = self.password.as_ref().map(|secret| secret.resolve(around, cx)).transpose();
        let password = password.map_err(|error| no_password(name, &error))?;
        Ok(password.map(|text| Secret::new(text.as_str().to_owned())))
    }

    /// Looks, without writing, whether a backup could succeed now: what is wrong, and whether it stops a backup.
    ///
    /// # Errors
    /// [`OpsError`] if the source does not answer at all.
    pub fn look(&self, name: &str, around: &Surroundings, cx: &Cx) -> Result<Vec<Finding>, OpsError> {
        let of_source = |source: SourceError| OpsError::Source { source_name: name.to_owned(), source };
        if let SourceSettings::Postgresql(settings) = &self.settings {
            return self.open_postgresql(settings, name, around, cx)?.preflight(cx).map_err(of_source);
        }
        if let SourceSettings::PostgresqlRows(settings) = &self.settings {
            return self.open_rows(settings, name, around, cx)?.preflight(cx).map_err(of_source);
        }
        if let SourceSettings::PostgresqlCluster(settings) = &self.settings {
            return self.open_cluster(settings, name, around, cx)?.preflight(cx).map_err(of_source);
        }
        let problems =
            self.open(name, &Neighbours::default(), around, cx)?.source.check(cx).map_err(of_source)?;
        // A copy that does not fit is not begun; everything else costs a part of the source.
        let weight =
            |problem: &Problem| if problem.code == NO_SPACE { Weight::Blocks } else { Weight::Warns };
        Ok(problems.into_iter().map(|problem| Finding { weight: weight(&problem), problem }).collect())
    }

    /// The same, as the backup would take it: what would cost a part of the source.
    ///
    /// # Errors
    /// [`OpsError`] with the first thing that stops a backup.
    pub fn require_ready(
        &self,
        name: &str,
        around: &Surroundings,
        cx: &Cx,
    ) -> Result<Vec<Problem>, OpsError> {
        let findings = self.look(name, around, cx)?;
        let Some(finding) = findings.iter().find(|finding| finding.weight == Weight::Blocks).cloned() else {
            let costs = |finding: Finding| (finding.weight == Weight::Warns).then_some(finding.problem);
            return Ok(findings.into_iter().filter_map(costs).collect());
        };
        let code = match finding.problem.code.as_str() {
            NO_SPACE => ErrorCode::NoSpace,
            _ => finding.code(),
        };
        Err(OpsError::refused(code, finding.problem.to_string(), finding.problem.advice.map(Into::into)))
    }
}

/// The code of the problem that a copy has no room.
const NO_SPACE: &str = "no-space";

fn no_password(name: &str, error: &SecretError) -> OpsError {
    OpsError::refused(error.code(), format!("{name}: its password cannot be had: {error}"), error.advice())
}
