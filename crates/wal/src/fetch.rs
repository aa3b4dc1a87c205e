//! Files on their way out of the archive: written beside, synced, and only then given their name.
//!
//! ```text
//! <above pg_wal>/hikae-wal-ahead/<system>/<name>            fetched ahead, whole
//! <above pg_wal>/hikae-wal-ahead/<system>/<name>.<pid>.tmp  on its way
//! ```
//!
//! The directory is on the file system of `pg_wal`, so that a rename is enough, and not in it: `pg_rewind` and the server
//! take what lies there for their own. What is found in it is compared with the archive before it is used. It goes when a
//! recovery begins or ends, which shows in that the server asks for a history file.

use crate::failure::of_file;
use hikae_model::{Failure, SegmentName, SystemId, WalName, sabotage};
use hikae_repo::wal::{WalArchive, WalError};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Where files wait for the server to ask for them.
const DIRECTORY: &str = "hikae-wal-ahead";

/// The directory of files that were fetched ahead.
pub struct Ahead {
    /// Of all clusters.
    directory: PathBuf,
    system: SystemId,
}

impl Ahead {
    /// The directory for a server that wants `target`, a file in its `pg_wal`. Nothing if there can be none on the same
    /// file system.
    pub fn beside(target: &Path, system: SystemId) -> Option<Self> {
        let log = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let log = log.canonicalize().ok()?;
        let above = log.parent()?;
        let device = |path: &Path| path.metadata().map(|metadata| metadata.dev()).ok();
        (device(&log)? == device(above)?).then(|| Self { directory: above.join(DIRECTORY), system })
    }

    /// Where a file waits.
    fn place(&self, name: WalName) -> PathBuf {
        self.of_system().join(name.to_string())
    }

    fn of_system(&self) -> PathBuf {
        self.directory.join(self.system.to_string())
    }

    /// Makes the directory. False if it cannot be made.
    pub fn create(&self) -> bool {
        DirBuilder::new().recursive(true).mode(0o700).create(self.of_system()).is_ok()
    }

    /// Fetches a file ahead, if it is whole: of one that is not, there is more when the server asks.
    ///
    /// # Errors
    /// [`Failure`]
    pub fn fetch(&self, archive: &WalArchive, name: WalName) -> Result<bool, Failure> {
        let place = self.place(name);
        if place.exists() {
            return Ok(true);
        }
        Ok(archive.head(self.system, name)?.is_some() && fetch(archive, self.system, name, &place, &place)?)
    }

    /// Moves a file that was fetched ahead to `target`, if it is there and is still what is archived. Else false, and what
    /// was there is gone.
    ///
    /// # Errors
    /// [`Failure`] if nobody can say whether it is.
    pub fn deliver(&self, archive: &WalArchive, name: WalName, target: &Path) -> Result<bool, Failure> {
        let place = self.place(name);
        let Ok(mut file) = File::open(&place) else { return Ok(false) };
        let compared = match sabotage::on("ahead-unchecked") {
            true => Ok(true),
            false => archive.confirm(self.system, name, &mut file),
        };
        match compared {
            Ok(true) => match std::fs::rename(&place, target) {
                Ok(()) => Ok(true),
                Err(error) => Err(of_file("write", target, &error)),
            },
            Ok(false) | Err(WalError::Differs { .. }) => {
                std::fs::remove_file(&place).map_err(|error| of_file("remove", &place, &error))?;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Removes what the server has passed. What cannot be removed costs space and nothing else.
    pub fn forget_before(&self, asked: SegmentName) {
        let Ok(entries) = std::fs::read_dir(self.of_system()) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_str().and_then(|name| name.split('.').next()?.parse::<SegmentName>().ok());
            if name.is_none_or(|name| name < asked) {
                drop(std::fs::remove_file(entry.path()));
            }
        }
    }

    /// Removes all of it.
    pub fn clear(&self) {
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

/// Fetches a file to `target`, through a new file beside `near`, which is on the same file system; of a segment that is not
/// whole, what is kept of its beginning, and zeros to its length. False if there is none of its name.
///
/// # Errors
/// [`Failure`]; then `target` is as it was.
pub fn fetch(
    archive: &WalArchive,
    system: SystemId,
    name: WalName,
    near: &Path,
    target: &Path,
) -> Result<bool, Failure> {
    let temporary = near.with_file_name(format!("{name}.{}.tmp", std::process::id()));
    let fetched = write(archive, system, name, &temporary).and_then(|found| match found {
        // The name need not survive a power cut: the server asks again. The bytes must not be fewer than the name says.
        true => std::fs::rename(&temporary, target)
            .map(|()| true)
            .map_err(|error| of_file("write", target, &error)),
        false => Ok(false),
    });
    if !matches!(fetched, Ok(true)) {
        drop(std::fs::remove_file(&temporary));
    }
    fetched
}

fn write(archive: &WalArchive, system: SystemId, name: WalName, path: &Path) -> Result<bool, Failure> {
    let failed = |error: io::Error| of_file("write", path, &error);
    // One of a process that had our number and was killed.
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    let mut file = file.map_err(failed)?;
    if !archive.get_file(system, name, &mut file)? {
        return Ok(false);
    }
    file.sync_all().map_err(failed)?;
    Ok(true)
}
