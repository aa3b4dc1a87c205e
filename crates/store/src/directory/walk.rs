//! Listing: every object below a directory, or an error.

use super::{DIRECTORY, DirectoryStore, TMP, modified, open_beneath, status};
use crate::{Object, ObjectKey, StoreError, is_prefix};
use rustix::fd::OwnedFd;
use rustix::fs::{Dir, FileType};
use rustix::io::Errno;
use std::ffi::CString;
use std::io;

/// What a walk meets.
pub(super) enum Found {
    Object(Object),
    /// A name that no store made.
    Stranger(String),
}

impl DirectoryStore {
    pub(super) fn walk(&self, prefix: &str, show: &mut dyn FnMut(Found)) -> Result<(), StoreError> {
        if !is_prefix(prefix) {
            let why = io::Error::new(io::ErrorKind::InvalidInput, "this is no directory's name");
            return Err(self.io_error("list", prefix, why));
        }
        if prefix == TMP || prefix.starts_with("tmp/") {
            return Ok(());
        }
        match self.open_beneath(prefix, DIRECTORY) {
            // Nothing was ever put there, if the store itself is still there.
            Err(Errno::NOENT | Errno::NOTDIR) => self.still_there(),
            opened => {
                let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
                opened
                    .and_then(|directory| walk(&directory, &prefix, show))
                    .map_err(|errno| self.error("list", &prefix, errno.into()))?;
                self.still_there()
            }
        }
    }
}

/// `prefix` is empty or ends with `/`.
fn walk(directory: &OwnedFd, prefix: &str, show: &mut dyn FnMut(Found)) -> Result<(), Errno> {
    for name in names(directory)? {
        let shown = format!("{prefix}{}", name.to_string_lossy());
        if shown == TMP {
            continue;
        }
        let found = match status(directory, &name) {
            Err(Errno::NOENT) => continue, // removed since its directory was read
            found => found?,
        };
        // A name that is not UTF-8 turns into one that is no key.
        match (FileType::from_raw_mode(found.stx_mode.into()), ObjectKey::parse(&shown)) {
            (FileType::RegularFile, Ok(key)) => {
                show(Found::Object(Object { key, bytes: found.stx_size, stored: modified(&found) }));
            }
            (FileType::Directory, Ok(key)) => {
                let name = &key.as_str()[prefix.len()..];
                match open_beneath(directory, name, DIRECTORY) {
                    Err(Errno::NOENT) => {}
                    child => walk(&child?, &format!("{key}/"), show)?,
                }
            }
            _ => show(Found::Stranger(shown)),
        }
    }
    Ok(())
}

/// Every name in a directory, read to the end before any is used, so that what is done with them cannot
/// disturb the reading.
pub(super) fn names(directory: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}
