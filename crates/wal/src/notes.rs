//! What the process that stores ahead tells the calls that the server makes: files in the cache of this host.
//!
//! ```text
//! <cache>/wal-stored/<system>/attended      locked as long as such a process is there: one for a cluster and cache
//! <cache>/wal-stored/<system>/<name>.work   it has begun with this segment
//! <cache>/wal-stored/<system>/<name>        this segment is durable: which file that was, and how long its object is
//! ```
//!
//! A note is written once its segment is durable, and believed of that very file only: the same inode with the same times,
//! length and first bytes, while its object stands in the store as long as it was. Anything else is no note, and the call
//! works by itself.

use crate::cluster::LogFile;
use crate::failure::of_file;
use hikae_model::{Failure, SegmentHeader, SystemId, WalName, sabotage};
use hikae_repo::layout;
use hikae_store::Store;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

const DIRECTORY: &str = "wal-stored";

/// The notes about the log of one cluster.
pub struct Notes {
    directory: PathBuf,
    system: SystemId,
}

/// Held by who writes notes. When it is dropped, or its process dies, nobody does.
pub struct Attending(#[expect(dead_code, reason = "it is held")] File);

impl Notes {
    pub fn of(cache: &Path, system: SystemId) -> Self {
        Self { directory: cache.join(DIRECTORY).join(system.to_string()), system }
    }

    fn lock_file(&self) -> PathBuf {
        self.directory.join("attended")
    }

    fn place(&self, name: WalName) -> PathBuf {
        self.directory.join(name.to_string())
    }

    fn work_file(&self, name: WalName) -> PathBuf {
        self.directory.join(format!("{name}.work"))
    }

    /// Becomes the one who writes notes. Nothing if there is one.
    ///
    /// # Errors
    /// [`Failure`] if the directory cannot be made or written to.
    pub fn attend(&self) -> Result<Option<Attending>, Failure> {
        let failed = |error: io::Error| of_file("write", &self.directory, &error);
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory).map_err(failed)?;
        let open = OpenOptions::new().write(true).create(true).truncate(false).open(self.lock_file());
        let lock = open.map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // What another has left that has died.
        for entry in std::fs::read_dir(&self.directory).map_err(failed)?.flatten() {
            if entry.path() != self.lock_file() {
                std::fs::remove_file(entry.path()).map_err(failed)?;
            }
        }
        Ok(Some(Attending(lock)))
    }

    /// Whether somebody writes notes.
    pub fn are_attended(&self) -> bool {
        let lock = File::open(self.lock_file());
        lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    /// Says that a segment has been begun with.
    ///
    /// # Errors
    /// [`Failure`]
    pub fn begin(&self, name: WalName) -> Result<(), Failure> {
        let path = self.work_file(name);
        File::create(&path).map(drop).map_err(|error| of_file("write", &path, &error))
    }

    pub fn is_begun(&self, name: WalName) -> bool {
        self.work_file(name).exists()
    }

    /// Says that the segment in this file is durable in `store`.
    ///
    /// # Errors
    /// [`Failure`]
    pub fn write(&self, log: &LogFile, store: &dyn Store) -> Result<(), Failure> {
        let (place, work) = (self.place(log.name), self.work_file(log.name));
        let note = self.note(log, store)?;
        let written = std::fs::write(&work, note).and_then(|()| std::fs::rename(&work, &place));
        written.map_err(|error| of_file("write", &place, &error))
    }

    /// Whether there is a note that this very file is durable in `store`. What is found is used up.
    pub fn say_stored(&self, log: &LogFile, store: &dyn Store) -> Option<bool> {
        let place = self.place(log.name);
        let found = std::fs::read_to_string(&place).ok()?;
        drop(std::fs::remove_file(&place));
        Some(self.note(log, store).is_ok_and(|note| note == found) || sabotage::on("any-note-believed"))
    }

    /// What tells this file, and the object that it is stored as, from every other.
    fn note(&self, log: &LogFile, store: &dyn Store) -> Result<String, Failure> {
        let mut start = [0; SegmentHeader::BYTES];
        let seen = log.file.metadata().and_then(|seen| log.file.read_exact_at(&mut start, 0).map(|()| seen));
        let seen = seen.map_err(|error| of_file("read", Path::new(&log.name.to_string()), &error))?;
        let object = store.stat(&layout::wal(self.system, log.name))?;
        let file = (seen.dev(), seen.ino(), seen.len());
        let times = (seen.mtime(), seen.mtime_nsec(), seen.ctime(), seen.ctime_nsec());
        Ok(format!("{file:?} {times:?} {start:?} {} {}", store.address(), object.bytes))
    }
}
