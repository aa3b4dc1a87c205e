//! Scratch places of drills: private directories, gone when they are dropped, and when their owner was killed, with
//! the next drill.
//!
//! Who works in one holds a lock on it, which the kernel takes back from the dead. What was restored there is plain
//! text of the source, so what cannot be removed is told.

use hikae_model::{Cx, Problem, SnapshotId};
use rustix::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, Dir, FlockOperation, Mode, OFlags, RenameFlags, flock, fstat, open, openat, renameat_with,
    unlinkat,
};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// How the names of these directories begin.
pub(crate) const PREFIX: &str = "hikae-drill-";

/// A private directory that is gone when this is dropped.
pub(crate) struct Scratch {
    path: PathBuf,
    lock: OwnedFd,
    /// What could not be removed of earlier drills.
    problems: Vec<Problem>,
}

impl Scratch {
    /// Makes one below a directory, and sweeps what killed drills left there.
    pub(crate) fn make(below: &Path, snapshot: SnapshotId, cx: &Cx) -> io::Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(below)?;
        let problems = sweep(below);
        loop {
            let nonce = u32::from_le_bytes(cx.random());
            let path = below.join(format!("{PREFIX}{}-{nonce:08x}", snapshot.short()));
            std::fs::DirBuilder::new().mode(0o700).create(&path)?;
            let lock = open_directory(&path)?;
            flock(&lock, FlockOperation::LockExclusive)?;
            // A sweep may have had the lock before us, and then the directory is gone.
            if fstat(&lock)?.st_nlink > 0 {
                return Ok(Self { path, lock, problems });
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, and says what could not be removed, here and of earlier drills.
    pub(crate) fn remove(mut self) -> Vec<Problem> {
        let mut problems = std::mem::take(&mut self.problems);
        problems.extend(remove(&self.path, &self.lock));
        problems
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // After `remove` there is nothing left to do; after an error, that is what matters, and the next drill tells.
        drop(remove(&self.path, &self.lock));
    }
}

/// Removes the scratch of our user's drills that nobody works in any more. What cannot be removed stays, and is told.
fn sweep(below: &Path) -> Vec<Problem> {
    let Ok(names) = std::fs::read_dir(below) else { return Vec::new() };
    let mut problems = Vec::new();
    for name in names.flatten().map(|entry| entry.file_name()) {
        if !name.to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let path = below.join(name);
        let Ok(lock) = open_directory(&path) else { continue };
        let is_ours = fstat(&lock).is_ok_and(|found| found.st_uid == rustix::process::geteuid().as_raw());
        if is_ours && flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            problems.extend(remove(&path, &lock));
        }
    }
    problems
}

/// Removes a scratch directory with all that is in it.
fn remove(path: &Path, directory: &OwnedFd) -> Option<Problem> {
    if fstat(directory).is_ok_and(|found| found.st_nlink == 0) {
        return None;
    }
    let emptied = empty(directory.as_fd());
    let removed = emptied.and_then(|()| unlinkat(CWD, path, AtFlags::REMOVEDIR));
    let error = removed.err().filter(|error| *error != Errno::NOENT)?;
    let what = format!("cannot be removed, and holds restored content: {}", io::Error::from(error));
    Some(Problem::new("scratch-left", path.display(), what).advise("remove it by hand, as root if need be"))
}

/// Empties a directory of ours, whatever the modes of what is in it, and goes on after what cannot be removed. No link
/// is followed. Folders are moved up to the top as they are met, so depth costs neither stack nor descriptors.
///
/// # Errors
/// The first that the system said.
fn empty(top: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut first_error = Ok(());
    let mut note = |done: Result<(), Errno>| first_error = first_error.and(done);
    let (mut folders, mut n_folders) = (clear(top, &mut note), 0_u64);
    let mut waiting = Vec::new();
    loop {
        // What stands at the top already stays where it is; what is deeper comes up.
        waiting.append(&mut folders);
        let Some(name) = waiting.pop() else { return first_error };
        let cleared = open_own(top, &name).map(|folder| {
            for inner in clear(folder.as_fd(), &mut note) {
                // A folder that moves has its `..` changed, which takes the right to write in it.
                let moved = open_own(folder.as_fd(), &inner)
                    .and_then(|_| move_up(folder.as_fd(), &inner, top, &mut n_folders));
                match moved {
                    Ok(up) => folders.push(up),
                    Err(error) => note(Err(error)),
                }
            }
        });
        note(cleared.and_then(|()| unlinkat(top, &name, AtFlags::REMOVEDIR)));
    }
}

/// Moves a folder to the top, under a name that is free: somebody who died as he removed may have left some.
fn move_up(
    from: BorrowedFd<'_>,
    name: &CStr,
    top: BorrowedFd<'_>,
    n_folders: &mut u64,
) -> Result<CString, Errno> {
    loop {
        let up = CString::new(format!(".hikae-going-{n_folders}")).map_err(|_| Errno::INVAL)?;
        *n_folders += 1;
        match renameat_with(from, name, top, &up, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(up),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Removes what is no folder, and gives the folders.
fn clear(directory: BorrowedFd<'_>, note: &mut impl FnMut(Result<(), Errno>)) -> Vec<CString> {
    let names = Dir::read_from(directory).and_then(|entries| {
        let names = entries.map(|entry| entry.map(|entry| entry.file_name().to_owned()));
        names.collect::<Result<Vec<_>, _>>()
    });
    let mut folders = Vec::new();
    match names {
        Err(error) => note(Err(error)),
        Ok(names) => {
            for name in names.into_iter().filter(|name| !matches!(name.to_bytes(), b"." | b"..")) {
                match unlinkat(directory, &name, AtFlags::empty()) {
                    Err(Errno::ISDIR) => folders.push(name),
                    done => note(done),
                }
            }
        }
    }
    folders
}

/// Opens a folder that was restored, and lets us into it first if its mode does not.
fn open_own(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = openat(parent, name, flags | OFlags::PATH, Mode::empty())?;
    let mode = fstat(&handle)?.st_mode & 0o7777;
    if mode & 0o700 != 0o700 {
        // A descriptor that is only a handle takes a new mode by this name alone. It leads to the folder itself,
        // whatever stands at `name` by now.
        let handle = format!("/proc/self/fd/{}", handle.as_raw_fd());
        let opened = std::fs::set_permissions(handle, std::fs::Permissions::from_mode(mode | 0o700));
        opened.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    }
    openat(&handle, ".", flags | OFlags::RDONLY, Mode::empty())
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
    fn scratch_goes_whatever_modes_and_depth_were_restored_there_and_no_link_is_followed() {
        let below = tempfile::tempdir().unwrap();
        let outside = below.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "kept").unwrap();
        let scratch = Scratch::make(below.path(), SnapshotId::from_bytes([7; 32]), &test_cx()).unwrap();
        let deep = scratch.path().join("restored").join(vec!["deep"; 300].join("/"));
        std::fs::create_dir_all(&deep).unwrap();
        std::os::unix::fs::symlink(&outside, deep.join("link")).unwrap();
        for (at, mode) in [("module", 0o555), ("closed", 0o000)] {
            let folder = scratch.path().join("restored").join(at);
            std::fs::create_dir_all(folder.join("inner")).unwrap();
            std::fs::write(folder.join("inner/secret"), "plain text").unwrap();
            for folder in [folder.join("inner"), folder] {
                std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode)).unwrap();
            }
        }
        assert_eq!(scratch.remove(), Vec::new());
        let left: Vec<_> =
            std::fs::read_dir(below.path()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["outside"]);
        assert!(outside.join("kept").exists());
    }

    #[test]
    fn what_a_killed_drill_left_goes_with_the_next_and_nothing_else() {
        let below = tempfile::tempdir().unwrap();
        let cx = test_cx();
        let snapshot = SnapshotId::from_bytes([7; 32]);
        std::fs::create_dir_all(below.path().join("hikae-drill-dead/restored/deep/er")).unwrap();
        // It died as it removed what it had restored.
        std::fs::create_dir_all(below.path().join("hikae-drill-dead/.hikae-going-0/deep/er")).unwrap();
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
