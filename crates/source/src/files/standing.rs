//! What stands in a target already: read to be compared with what is to stand there, and removed where it is to be nothing.

use super::beneath;
use super::names::Names;
use super::place::PlaceError;
use super::target::Target;
use crate::SourceError;
use hikae_model::{Entry, TreePath};
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, OFlags, unlinkat};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::ffi::OsStringExt as _;

/// What is to be at a path of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing: it goes, with all below it.
    Nothing,
    /// A directory.
    Directory,
    /// A file.
    File,
    /// Whatever stands there.
    Anything,
}

impl Target {
    /// The file that stands where one is to be restored, if that alone has its content: what else leads to it, as a hard
    /// link, would change with it.
    ///
    /// # Errors
    /// [`PlaceError`] if it cannot be looked at.
    pub fn standing_file(&self, entry: &Entry) -> Result<Option<File>, PlaceError> {
        Ok(self.open_standing(entry, OFlags::RDONLY)?.map(File::from))
    }

    /// The same, opened as `access` says.
    pub(super) fn open_standing(&self, entry: &Entry, access: OFlags) -> Result<Option<OwnedFd>, PlaceError> {
        let failed = |error| PlaceError::of(&entry.path, error);
        let (parent, name) = self.parent(&entry.path)?;
        let is_own = |seen: &rustix::fs::Statx| {
            beneath::file_type(seen) == FileType::RegularFile && seen.stx_nlink == 1
        };
        if !self.standing(parent.as_fd(), name).map_err(failed)?.as_ref().is_some_and(is_own) {
            return Ok(None);
        }
        let opened = beneath::open(parent.as_fd(), name, access, self.refused()).map_err(failed)?;
        let seen = beneath::look_at(opened.as_fd()).map_err(failed)?;
        Ok(is_own(&seen).then_some(opened))
    }

    /// Removes what is not wanted. Gives how many entries that were.
    ///
    /// # Errors
    /// [`SourceError`] if something cannot be removed.
    pub fn remove_others(&self, wanted: &dyn Fn(&TreePath) -> Wanted) -> Result<u64, SourceError> {
        let top = beneath::open(self.root(), b".", OFlags::RDONLY | OFlags::DIRECTORY, self.refused());
        let top = top.map_err(|error| removing(b".", error))?;
        self.remove_below(top.as_fd(), &mut Vec::new(), Some(wanted))
    }

    /// Removes what is not wanted in a directory; everything, if nobody says what is. `path` is its own.
    fn remove_below(
        &self,
        directory: BorrowedFd<'_>,
        path: &mut Vec<u8>,
        wanted: Option<&dyn Fn(&TreePath) -> Wanted>,
    ) -> Result<u64, SourceError> {
        let mut names = Names::default();
        names.read(directory, &mut Vec::with_capacity(1 << 15)).map_err(|error| removing(path, error))?;
        let (mut n_removed, length) = (0, path.len());
        while let Some(name) = names.next() {
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name.to_bytes());
            let seen = beneath::look(directory, name).map_err(|error| removing(path, error))?;
            let is_directory = beneath::file_type(&seen) == FileType::Directory;
            let wants = match (wanted, TreePath::parse(path.as_slice())) {
                (Some(wanted), Ok(path)) => wanted(&path),
                _ => Wanted::Nothing,
            };
            let stays = match wants {
                Wanted::Anything => true,
                Wanted::Directory => is_directory,
                Wanted::File => beneath::file_type(&seen) == FileType::RegularFile,
                Wanted::Nothing => false,
            };
            if is_directory && wants != Wanted::Anything {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                let below = beneath::open(directory, name.to_bytes(), flags, self.refused())
                    .map_err(|error| removing(path, error))?;
                n_removed += self.remove_below(below.as_fd(), path, wanted.filter(|_| stays))?;
            }
            if !stays {
                let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
                unlinkat(directory, name, flags).map_err(|error| removing(path, error))?;
                n_removed += 1;
            }
            path.truncate(length);
        }
        Ok(n_removed)
    }
}

fn removing(path: &[u8], error: Errno) -> SourceError {
    let path = std::path::PathBuf::from(std::ffi::OsString::from_vec(path.to_vec()));
    SourceError::Io { verb: "remove what is not wanted at", path, source: error.into() }
}
