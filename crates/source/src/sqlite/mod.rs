//! SQLite databases: read through the online backup API, put back beside what was there, and compared.
//!
//! ```text
//! begin:    source --online backup--> scratch file --> one entry, read page by page
//!                                          `--> manifest, on a thread of its own
//! restore:  entry --> temporary file --> compared with the manifest --> renamed into place
//! ```
//!
//! - The source is opened read-only. We never checkpoint it, change its journal mode or roll back its
//!   journal: a hot journal is rolled back in a copy. A database in WAL mode gets the `-wal` and `-shm`
//!   that SQLite makes for any reader, if nobody has it open.
//! - The database file is never opened past SQLite while somebody may have it open: closing a second
//!   descriptor drops every POSIX lock that this process holds on it, and with them SQLite's own
//!   (<https://www.sqlite.org/howtocorrupt.html>, 2.2).
//! - The scratch copy has no name any more when its pages are read, so nothing is left after a kill.
//!
//! A file copied with `cp` is not enough: in WAL mode it lacks every row that was not checkpointed, and
//! `integrity_check` calls it ok. Nor is a file put back beside an old `-wal`: SQLite then plays that in.

mod compare;
mod copy;
mod failure;
mod manifest;
mod open;
mod reading;
mod restore;
mod rows;
mod scratch;

pub use compare::{check_restored, check_whole};
pub use manifest::{BadManifest, Checked, ForeignKeys, Manifest, Skipped, Table, Violations};
pub use restore::{RestoreOptions, SqliteRestored, look, restore};
pub use scratch::PREFIX as SCRATCH_PREFIX;

use crate::{Reading, Source, SourceError};
use hikae_model::{Cx, ErrorCode, HashKey, Problem, sabotage};
use reading::SqliteReading;
use std::path::PathBuf;

/// What the configuration says of a SQLite source.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqliteSettings {
    /// The database file.
    pub path: PathBuf,
    /// Where the copy is made that is backed up: a directory with room for the whole database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scratch: Option<PathBuf>,
}

/// The version of the SQLite library that reads and writes databases here, as `3.51.3`.
pub fn library_version() -> &'static str {
    rusqlite::version()
}

/// One SQLite database.
#[derive(Clone, Debug)]
pub struct SqliteSource {
    path: PathBuf,
    scratch: PathBuf,
    /// The version of the SQLite that reads it.
    library: i32,
}

impl SqliteSource {
    /// The database that `settings` names; its copy is made in `scratch` unless they name another place.
    pub fn new(settings: SqliteSettings, scratch: PathBuf) -> Self {
        let library = rusqlite::version_number();
        Self { path: settings.path, scratch: settings.scratch.unwrap_or(scratch), library }
    }
}

impl Source for SqliteSource {
    fn kind(&self) -> &'static str {
        "sqlite"
    }

    fn check(&self, cx: &Cx) -> Result<Vec<Problem>, SourceError> {
        require_safe_library(self.library)?;
        let original = copy::Original::look_at(&self.path)?;
        let mut problems = Vec::new();
        // A hot journal alone is no problem: the backup rolls it back in its copy.
        let bytes = copy::size_of_image(&original, cx)?;
        problems.extend(scratch::lack_of_space(&self.scratch, bytes)?);
        Ok(problems)
    }

    fn size(&self, cx: &Cx) -> Result<Option<u64>, SourceError> {
        Ok(Some(copy::size_of_image(&copy::Original::look_at(&self.path)?, cx)?))
    }

    fn begin(&self, key: HashKey, cx: &Cx) -> Result<Box<dyn Reading>, SourceError> {
        require_safe_library(self.library)?;
        Ok(Box::new(SqliteReading::begin(&self.path, &self.scratch, key, cx)?))
    }
}

/// The first SQLite whose writers and checkpointers cannot corrupt a WAL between them. From 3.7.0 to 3.51.2
/// two connections that reset the WAL at the same moment can lose pages
/// (<https://www.sqlite.org/wal.html>, the WAL-reset bug). The fix was also brought to 3.44.6 and 3.50.7,
/// but those are not what we link.
const SAFE_LIBRARY: i32 = 3_051_003;

/// Refuses to touch a database with a SQLite that could corrupt it. A lock file can bring one in silently.
///
/// # Errors
/// [`SourceError::Failed`] for every version before 3.51.3.
pub fn require_safe_library(version: i32) -> Result<(), SourceError> {
    if version >= SAFE_LIBRARY || sabotage::on("any-sqlite") {
        return Ok(());
    }
    let (major, minor, patch) = (version / 1_000_000, version / 1_000 % 1_000, version % 1_000);
    Err(SourceError::Failed {
        code: ErrorCode::Forbidden,
        what: format!("this build of hikae holds SQLite {major}.{minor}.{patch}, which can corrupt a WAL"),
        advice: Some("build hikae with SQLite 3.51.3 or newer".into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps E-9.
    #[test]
    fn a_sqlite_that_can_corrupt_a_wal_is_refused() {
        for old in [3_007_000, 3_044_006, 3_050_007, 3_051_000, 3_051_002] {
            let error = require_safe_library(old).unwrap_err();
            assert!(error.to_string().contains("can corrupt a WAL"), "{old}: {error}");
        }
        for fixed in [3_051_003, 3_052_000, 3_054_001, 4_000_000] {
            assert!(require_safe_library(fixed).is_ok(), "{fixed}");
        }
    }

    /// The gate stands before anything is opened: neither the database nor its directory need be there.
    #[test]
    fn nothing_is_read_with_a_sqlite_that_can_corrupt_a_wal() {
        let settings = SqliteSettings { path: "/nowhere/app.db".into(), scratch: None };
        let source = SqliteSource { library: 3_051_002, ..SqliteSource::new(settings, "/nowhere".into()) };
        let cx = hikae_testkit::test_cx();
        for error in [source.check(&cx).err(), source.begin(HashKey([0; 32]), &cx).err()] {
            assert!(error.unwrap().to_string().contains("3.51.2, which can corrupt a WAL"));
        }
    }

    #[test]
    fn the_sqlite_that_we_link_is_safe() {
        assert!(require_safe_library(rusqlite::version_number()).is_ok());
    }

    #[test]
    fn a_misspelt_setting_is_refused() {
        let good = serde_json::from_str::<SqliteSettings>(r#"{"path": "/srv/app.db"}"#).unwrap();
        assert_eq!(good.scratch, None);
        assert!(serde_json::from_str::<SqliteSettings>(r#"{"path": "/a", "scrach": "/b"}"#).is_err());
    }
}
