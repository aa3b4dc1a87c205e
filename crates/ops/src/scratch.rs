//! Scratch places of drills: private directories, gone when they are dropped, and when their owner was killed, with
//! the next drill.
//!
//! Who works in one holds a lock on it, which the kernel takes back from the dead.

use hikae_model::{Cx, SnapshotId};
use rustix::fd::OwnedFd;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat, open};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// How the names of these directories begin.
pub(crate) const PREFIX: &str = "hikae-drill-";

/// A private directory that is gone when this is dropped.
pub(crate) struct Scratch {
    path: PathBuf,
    _lock: OwnedFd,
}

impl Scratch {
    /// Makes one below a directory, and sweeps what killed drills left there.
    pub(crate) fn make(below: &Path, snapshot: SnapshotId, cx: &Cx) -> io::Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(below)?;
        sweep(below);
        loop {
            let nonce = u32::from_le_bytes(cx.random());
            let path = below.join(format!("{PREFIX}{}-{nonce:08x}", snapshot.short()));
            std::fs::DirBuilder::new().mode(0o700).create(&path)?;
            let lock = open_directory(&path)?;
            flock(&lock, FlockOperation::LockExclusive)?;
            // A sweep may have had the lock before us, and then the directory is gone.
            if fstat(&lock)?.st_nlink > 0 {
                return Ok(Self { path, _lock: lock });
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is scratch in a directory that says so; the drill's result does not change.
        drop(std::fs::remove_dir_all(&self.path));
    }
}

/// Removes the scratch of our user's drills that nobody works in any more. What cannot be removed stays.
fn sweep(below: &Path) {
    let Ok(names) = std::fs::read_dir(below) else { return };
    for name in names.flatten().map(|entry| entry.file_name()) {
        if !name.to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let path = below.join(name);
        let Ok(lock) = open_directory(&path) else { continue };
        let is_ours = fstat(&lock).is_ok_and(|found| found.st_uid == rustix::process::geteuid().as_raw());
        if is_ours && flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            drop(std::fs::remove_dir_all(&path));
        }
    }
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(open(path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hikae_testkit::test_cx;

    #[test]
    fn what_a_killed_drill_left_goes_with_the_next_and_nothing_else() {
        let below = tempfile::tempdir().unwrap();
        let cx = test_cx();
        let snapshot = SnapshotId::from_bytes([7; 32]);
        std::fs::create_dir_all(below.path().join("hikae-drill-dead/restored")).unwrap();
        std::fs::create_dir_all(below.path().join("drill-of-somebody-else")).unwrap();
        let first = Scratch::make(below.path(), snapshot, &cx).unwrap();
        std::fs::write(first.path().join("file"), "in use").unwrap();
        let second = Scratch::make(below.path(), snapshot, &cx).unwrap();
        assert!(first.path().join("file").exists() && second.path() != first.path());
        assert!(!below.path().join("hikae-drill-dead").exists());
        drop((first, second));
        let left: Vec<_> =
            std::fs::read_dir(below.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["drill-of-somebody-else"]);
    }
}
