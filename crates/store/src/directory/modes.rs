//! Permissions: a store belongs to one user, directories 0700 and files 0600 or less.
//!
//! Nothing below a directory that only its owner may enter can be reached by others. So the store's own
//! directory and what stands directly in it are always checked, and all below only if the store's directory
//! was found open. Names that no store makes are left alone.

use super::{OBJECT, open_beneath, status, walk};
use crate::ObjectKey;
use hikae_model::Problem;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Mode, Statx, StatxFlags};
use rustix::io::Errno;
use std::path::Path;

const OF_OTHERS: u32 = 0o077;

/// Takes permissions from everybody but the owner, and says from what. What cannot be repaired, on a disk
/// mounted read-only or not ours, is a problem and no error: reading must go on working.
pub(super) fn repair(root: &OwnedFd, path: &Path) -> Result<Vec<Problem>, Errno> {
    let mut problems = Vec::new();
    let found = rustix::fs::statx(root, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
    let was_open = is_too_wide(&found);
    if was_open {
        problems.push(narrow(root, &found, &path.display().to_string()));
    }
    repair_below(root, &path.display().to_string(), was_open, &mut problems)?;
    Ok(problems)
}

fn repair_below(
    directory: &OwnedFd,
    path: &str,
    deep: bool,
    problems: &mut Vec<Problem>,
) -> Result<(), Errno> {
    for name in walk::names(directory)? {
        let found = match status(directory, &name) {
            Err(Errno::NOENT) => continue,
            found => found?,
        };
        let kind = FileType::from_raw_mode(found.stx_mode.into());
        let name = name.to_string_lossy();
        if !(kind.is_file() || kind.is_dir()) || ObjectKey::parse(&name).is_err() {
            continue;
        }
        let path = format!("{path}/{name}");
        if !(is_too_wide(&found) || deep && kind.is_dir()) {
            continue;
        }
        match open_beneath(directory, &name, OBJECT) {
            Ok(file) => {
                if is_too_wide(&found) {
                    problems.push(narrow(&file, &found, &path));
                }
                if deep && kind.is_dir() {
                    repair_below(&file, &path, deep, problems)?;
                }
            }
            Err(Errno::NOENT) => {}
            Err(errno) => problems.push(not_repaired(&found, &path, errno)),
        }
    }
    Ok(())
}

fn is_too_wide(status: &Statx) -> bool {
    u32::from(status.stx_mode) & OF_OTHERS != 0
}

fn narrow(file: &OwnedFd, found: &Statx, path: &str) -> Problem {
    let mode = u32::from(found.stx_mode) & 0o7777;
    match rustix::fs::fchmod(file, Mode::from_raw_mode(mode & !OF_OTHERS)) {
        Ok(()) => {
            let what = format!("others had access (mode {mode:04o}); repaired to {:04o}", mode & !OF_OTHERS);
            Problem::new("wide-mode-repaired", path, what)
        }
        Err(errno) => not_repaired(found, path, errno),
    }
}

fn not_repaired(found: &Statx, path: &str, errno: Errno) -> Problem {
    let mode = u32::from(found.stx_mode) & 0o7777;
    Problem::new("wide-mode", path, format!("others have access (mode {mode:04o}): {errno}"))
        .advise("let only the store's owner have access, with `chmod -R go=` or a mount option")
}
