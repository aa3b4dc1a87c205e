//! Opening what stands beneath a held directory: no symbolic link followed, no path too long.
//!
//! Both ways of the data rest on it: a backup that reads through a link planted meanwhile would store what
//! nobody asked for, a restore that writes through one would overwrite it.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, openat2, statx};
use rustix::io::{Errno, retry_on_intr};

use hikae_model::{FileTime, sabotage};

/// Longest stretch of a path given to the kernel at once; `PATH_MAX` is 4,096 with the closing NUL.
const STRETCH_BYTES: usize = 4000;

/// What every resolution refuses: leaving the root, links, and the links of `/proc` that jump anywhere.
const RESOLVE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Opens `path`, names joined by `/`, beneath `root`. `more` refuses more than is always refused.
///
/// A path longer than the kernel takes is opened stretch by stretch, each beneath the one before.
///
/// # Errors
/// `ELOOP` for a link in the way, `EXDEV` for a path that leaves `root`, `ENOSYS` before Linux 5.6.
pub(crate) fn open(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    more: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let mut held: Option<OwnedFd> = None;
    let mut rest = path;
    while rest.len() > STRETCH_BYTES {
        let cut = rest[..STRETCH_BYTES].iter().rposition(|&byte| byte == b'/').ok_or(Errno::NAMETOOLONG)?;
        let from = held.as_ref().map_or(root, |fd| fd.as_fd());
        held = Some(open_stretch(from, &rest[..cut], OFlags::PATH | OFlags::DIRECTORY, more)?);
        rest = &rest[cut + 1..];
    }
    let from = held.as_ref().map_or(root, |fd| fd.as_fd());
    open_stretch(from, rest, flags, more)
}

fn open_stretch(
    from: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    more: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = if sabotage::on("links-followed") { more } else { RESOLVE | more };
    retry_on_intr(|| openat2(from, path, flags, Mode::empty(), resolve))
}

/// Opens for reading without leaving an access time, if we may: the owner and root may.
///
/// Refused all the same where the owner is mapped away from us, in a user namespace for one.
pub(super) fn without_atime(
    may: bool,
    flags: OFlags,
    open: impl Fn(OFlags) -> Result<OwnedFd, Errno>,
) -> Result<OwnedFd, Errno> {
    if may && !flags.contains(OFlags::PATH) {
        match retry_on_intr(|| open(flags | OFlags::NOATIME)) {
            Err(Errno::PERM) => {}
            opened => return opened,
        }
    }
    retry_on_intr(|| open(flags))
}

/// Device and inode: what tells one thing from another while it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub(super) device: (u32, u32),
    pub(super) inode: u64,
}

/// All of `statx` but the access time, which needs not be right and may cost a network file system a round.
const MASK: StatxFlags = StatxFlags::BASIC_STATS.difference(StatxFlags::ATIME);

/// What stands at `name` in `directory`; a link is looked at, not followed, and nothing is mounted for it.
pub(crate) fn look(directory: BorrowedFd<'_>, name: impl rustix::path::Arg) -> Result<Statx, Errno> {
    statx(directory, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, MASK)
}

/// What an open file is.
pub(crate) fn look_at(file: BorrowedFd<'_>) -> Result<Statx, Errno> {
    statx(file, c"", AtFlags::EMPTY_PATH, MASK)
}

pub(super) fn identity(seen: &Statx) -> Identity {
    Identity { device: (seen.stx_dev_major, seen.stx_dev_minor), inode: seen.stx_ino }
}

pub(crate) fn file_type(seen: &Statx) -> FileType {
    FileType::from_raw_mode(u32::from(seen.stx_mode))
}

pub(crate) fn modified(seen: &Statx) -> FileTime {
    FileTime { seconds: seen.stx_mtime.tv_sec, nanoseconds: seen.stx_mtime.tv_nsec }
}

pub(super) fn changed(seen: &Statx) -> FileTime {
    FileTime { seconds: seen.stx_ctime.tv_sec, nanoseconds: seen.stx_ctime.tv_nsec }
}
