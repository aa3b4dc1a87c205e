//! What of its surroundings hikae uses: the user's home, directories, programs and environment variables.
//!
//! Only `cli` asks the process for them. Everything else is handed this, so a test can set all of it.

use hikae_source::postgresql;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

/// Looks up an environment variable.
pub type Variables = Arc<dyn Fn(&str) -> Option<OsString> + Send + Sync>;

/// The user, the directories and the variables that a command works with.
#[derive(Clone)]
pub struct Surroundings {
    /// Environment variables, for `env:` references.
    pub variables: Variables,
    /// Directories in which programs are looked for, as in `PATH`.
    pub path: Vec<PathBuf>,
    /// The user's home.
    pub home: Option<PathBuf>,
    /// The user's name.
    pub user: String,
    /// The machine's name, as snapshots show it.
    pub host: String,
    /// Where configurations are written: `$XDG_CONFIG_HOME/hikae`.
    pub config: PathBuf,
    /// Where `protect` keeps a repository: `$XDG_DATA_HOME/hikae`.
    pub data: PathBuf,
    /// Where indexes are cached: `$XDG_CACHE_HOME/hikae`.
    pub cache: PathBuf,
    /// Where scratch copies and drills are made.
    pub scratch: PathBuf,
    /// The file mode mask that the process was started with, for the programs of others that it starts.
    pub umask: Option<u32>,
    /// The zone in which times are shown and dates are read.
    pub zone: jiff::tz::TimeZone,
}

impl Surroundings {
    /// The part that PostgreSQL sources and restores use.
    pub fn for_postgresql(&self) -> postgresql::Environment {
        postgresql::Environment {
            path: self.path.clone(),
            home: self.home.clone(),
            user: self.user.clone(),
            scratch: self.scratch.clone(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::path::Path;

    /// Surroundings in which nothing is set and everything is below `root`.
    pub(crate) fn surroundings(root: &Path) -> Surroundings {
        Surroundings {
            variables: Arc::new(|_| None),
            path: vec!["/usr/bin".into(), "/bin".into()],
            home: Some(root.to_owned()),
            user: "tester".to_owned(),
            host: "test".to_owned(),
            config: root.join("config"),
            data: root.join("data"),
            cache: root.join("cache"),
            scratch: root.to_owned(),
            umask: None,
            zone: jiff::tz::TimeZone::UTC,
        }
    }
}
