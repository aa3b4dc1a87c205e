//! Private places for a copy: a directory of mode 0700 that goes away with its owner, killed or not.
//!
//! Whoever uses one holds a lock on it. A directory that nobody locks was left behind by a process that was
//! killed, and the next one to make a directory beside it takes it away.

use super::failure::refused;
use crate::SourceError;
use hikae_model::{Bytes, Cx, ErrorCode, Problem};
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How the names of these directories begin.
pub const PREFIX: &str = "hikae-sqlite-";

/// A locked directory that only we may enter, removed with all in it when this is dropped.
pub(super) struct Scratch {
    directory: PathBuf,
    _lock: File,
}

impl Scratch {
    /// Makes one in `parent` and takes away those that killed processes left there.
    pub(super) fn create(parent: &Path, cx: &Cx) -> Result<Self, SourceError> {
        let parent = std::path::absolute(parent).map_err(|error| refused("find", parent, error))?;
        sweep(&parent)?;
        loop {
            let directory = parent.join(format!("{PREFIX}{:016x}", u64::from_le_bytes(cx.random::<8>())));
            DirBuilder::new()
                .mode(0o700)
                .create(&directory)
                .map_err(|error| refused("make a scratch directory in", &parent, error))?;
            // Another process may sweep it away before we have locked it. Then we make another.
            if let Some(lock) = try_lock(&directory)
                && directory.exists()
            {
                return Ok(Self { directory, _lock: lock });
            }
        }
    }

    /// Makes an empty file of mode 0600 and says where.
    pub(super) fn create_file(&self, name: &str) -> Result<PathBuf, SourceError> {
        let path = self.directory.join(name);
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| refused("create", &path, error))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory); // the next one to come sweeps it away
    }
}

fn try_lock(directory: &Path) -> Option<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let lock = rustix::fs::open(directory, flags, Mode::empty()).ok()?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(File::from(lock))
}

/// Removes what killed processes of our user left in `parent`.
fn sweep(parent: &Path) -> Result<(), SourceError> {
    let listing = fs::read_dir(parent).map_err(|error| refused("list", parent, error))?;
    let user = rustix::process::geteuid().as_raw();
    for entry in listing.flatten() {
        let is_ours = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes())
            && entry.metadata().is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == user);
        if is_ours && let Some(_lock) = try_lock(&entry.path()) {
            let _ = fs::remove_dir_all(entry.path()); // what cannot be removed is in nobody's way
        }
    }
    Ok(())
}

/// A problem if a copy of `bytes` does not fit into `directory`.
pub(super) fn lack_of_space(directory: &Path, bytes: u64) -> Result<Option<Problem>, SourceError> {
    let free = free_bytes(directory)?;
    Ok((free < bytes)
        .then(|| Problem::new("no-space", directory.display(), lacking(bytes, free)).advise(MORE_SPACE)))
}

/// Refuses to begin a copy of `bytes` that does not fit into `directory`.
pub(super) fn require_space(directory: &Path, bytes: u64) -> Result<(), SourceError> {
    let free = free_bytes(directory)?;
    if free >= bytes {
        return Ok(());
    }
    Err(SourceError::Failed {
        code: ErrorCode::NoSpace,
        what: format!("{}: {}", directory.display(), lacking(bytes, free)),
        advice: Some(MORE_SPACE.into()),
    })
}

const MORE_SPACE: &str = "free some space there, or set `scratch` to a directory that has more";

fn lacking(bytes: u64, free: u64) -> String {
    format!("a copy of the database needs {}, and {} are free", Bytes(bytes), Bytes(free))
}

fn free_bytes(directory: &Path) -> Result<u64, SourceError> {
    let figures = rustix::fs::statvfs(directory)
        .map_err(|error| refused("look at", directory, io::Error::from(error)))?;
    Ok(figures.f_bavail.saturating_mul(figures.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_in_use_is_not_swept_away_and_one_of_a_killed_process_is() {
        let parent = tempfile::tempdir().unwrap();
        let cx = hikae_testkit::test_cx();
        let used = Scratch::create(parent.path(), &cx).unwrap();
        let file = used.create_file("copy.db").unwrap();
        let left = parent.path().join("hikae-sqlite-left");
        let foreign = parent.path().join("hikae-else");
        fs::create_dir(&left).unwrap();
        fs::create_dir(&foreign).unwrap();

        let second = Scratch::create(parent.path(), &cx).unwrap();

        assert!(file.exists() && foreign.exists() && !left.exists());
        assert_eq!(fs::metadata(&used.directory).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        drop((used, second));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
    }
}
