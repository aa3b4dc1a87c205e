//! Files that hold a secret: written for their owner alone, and refused when others may read them.
//!
//! The mode is taken of what is open, not of the name: the name may be changed between two looks.

use hikae_model::{Advise, ErrorCode, Hint, sabotage};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Largest secret file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// Why a secret file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    /// It is not there.
    #[error("{} is not there", .path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Others may read it.
    #[error("others may use {} (mode {mode:03o})", .path.display())]
    NotPrivate {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The operating system refused or failed.
    #[error("cannot {verb} {}", .path.display())]
    Io {
        /// `read` or `write`.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl Advise for PrivateFileError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Missing { .. } => ErrorCode::Usage,
            Self::NotPrivate { .. } => ErrorCode::Permission,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorCode::Usage,
            Self::Io { source, .. } => ErrorCode::of_io(source),
        }
    }

    fn advice(&self) -> Option<Hint> {
        match self {
            Self::Missing { .. } => Some("see that the path is right".into()),
            Self::NotPrivate { path, .. } => Some(
                format!(
                    "run chmod 600 {}, and change the secret if somebody may have read it",
                    path.display()
                )
                .into(),
            ),
            Self::Io { source, path, .. } if source.kind() == io::ErrorKind::NotFound => {
                let above = path.parent().unwrap_or(path).display();
                Some(format!("see that the disk of {above} is mounted, or make that folder").into())
            }
            Self::Io { .. } => None,
        }
    }
}

/// Reads a text that only its owner may read.
///
/// # Errors
/// [`PrivateFileError::NotPrivate`] if its group or others may use it.
pub fn read(path: &Path) -> Result<Zeroizing<String>, PrivateFileError> {
    let failed = |source| PrivateFileError::Io { verb: "read", path: path.to_owned(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(PrivateFileError::Missing { path: path.to_owned() });
        }
        opened => opened.map_err(failed)?,
    };
    let mode = file.metadata().map_err(failed)?.mode() & 0o777;
    if mode & 0o077 != 0 && !sabotage::on("key-file-open") {
        return Err(PrivateFileError::NotPrivate { path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_BYTES).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Writes a new file of mode 0600, whatever the umask says, whole or not at all, and makes it durable. It must not
/// be there yet.
///
/// # Errors
/// [`PrivateFileError::Io`], also if it is there.
pub fn create(path: &Path, bytes: &[u8]) -> Result<(), PrivateFileError> {
    let failed = |source| PrivateFileError::Io { verb: "write", path: path.to_owned(), source };
    let temporary = write_beside(path, bytes).map_err(failed)?;
    let named = name_it(&temporary, path);
    if named.is_err() {
        // The next call removes it otherwise.
        drop(std::fs::remove_file(&temporary));
    }
    named.and_then(|()| sync_directory_of(path)).map_err(failed)
}

/// Writes a file of mode 0600 in place of the one that is there, whole or not at all.
///
/// # Errors
/// [`PrivateFileError::Io`]; the old file is then as it was.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), PrivateFileError> {
    let failed = |source| PrivateFileError::Io { verb: "write", path: path.to_owned(), source };
    let temporary = write_beside(path, bytes).map_err(failed)?;
    std::fs::rename(&temporary, path).and_then(|()| sync_directory_of(path)).map_err(failed)
}

/// Removes a file, if it is there.
///
/// # Errors
/// [`PrivateFileError::Io`]
pub fn remove(path: &Path) -> Result<(), PrivateFileError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(PrivateFileError::Io { verb: "remove", path: path.to_owned(), source }),
        Ok(()) => Ok(()),
    }
}

/// Writes the file that is to be `path` under another name. Gives that name.
fn write_beside(path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    let temporary = path.with_added_extension("new");
    // What a killed run left of one.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.write_all(bytes).and_then(|()| file.sync_all())?;
    Ok(temporary)
}

/// Gives a file its name, unless the name is taken.
fn name_it(temporary: &Path, path: &Path) -> io::Result<()> {
    match renameat_with(CWD, temporary, CWD, path, RenameFlags::NOREPLACE) {
        // NFS and old file systems have no such rename; a hard link replaces nothing either.
        Err(Errno::INVAL | Errno::NOSYS) => {
            std::fs::hard_link(temporary, path).and_then(|()| std::fs::remove_file(temporary))
        }
        renamed => Ok(renamed?),
    }
}

/// Makes a directory that only its owner may enter, and those above it. One that is there stays as it is. It is for
/// what can be made again, as a cache: a power cut may take it.
///
/// # Errors
/// [`PrivateFileError::Io`] if it cannot be made.
pub fn create_directory(path: &Path) -> Result<(), PrivateFileError> {
    let failed = |source| PrivateFileError::Io { verb: "make", path: path.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)
}

/// The same for what is to stay, as a key: on return it is durable. A file in it is only as durable as the names of
/// all directories above.
///
/// # Errors
/// [`PrivateFileError::Io`] if it cannot be made, or not be made durable.
pub fn create_directory_durably(path: &Path) -> Result<(), PrivateFileError> {
    let failed = |source| PrivateFileError::Io { verb: "make", path: path.to_owned(), source };
    make_durably(path).map_err(failed)
}

fn make_durably(path: &Path) -> io::Result<()> {
    if sabotage::on("key-directory-unsynced") {
        return std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    }
    let make = || std::fs::DirBuilder::new().mode(0o700).create(path);
    let made = match (make(), path.parent()) {
        (Err(error), Some(above)) if error.kind() == io::ErrorKind::NotFound => {
            make_durably(above)?;
            make()
        }
        (made, _) => made,
    };
    match made {
        Ok(()) => sync_directory_of(path),
        // Whoever made it may have been killed before it was synced. Where we may not even look above it, it was
        // there before us.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {
            match sync_directory_of(path) {
                Err(error) if is_not_ours(&error) => Ok(()),
                synced => synced,
            }
        }
        Err(error) => Err(error),
    }
}

fn is_not_ours(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_others_may_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        create(&path, b"secret").unwrap();
        assert_eq!(read(&path).unwrap().as_str(), "secret");
        for mode in [0o604, 0o640, 0o660, 0o601, 0o777] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read(&path), Err(PrivateFileError::NotPrivate { .. })), "{mode:o}");
        }
    }

    #[test]
    fn a_secret_never_replaces_another_by_accident() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        create(&path, b"first").unwrap();
        assert!(create(&path, b"second").is_err());
        replace(&path, b"third").unwrap();
        assert_eq!(read(&path).unwrap().as_str(), "third");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else is left");
    }
}
