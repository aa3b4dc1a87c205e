//! Writing owner, extended attributes, mode and times onto what a restore made.
//!
//! The order matters: a change of owner clears set-id bits and file capabilities, so it comes first; user
//! attributes need the right to write, so the mode comes after them; times come last.
//!
//! What the target cannot take (a foreign owner without root, an attribute that its file system does not
//! know) is counted and told once at the end, not once for every file.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::{Mutex, PoisonError};

use hikae_model::{Attributes, FileTime, Problem, TreePath, sabotage};
use rustix::fd::BorrowedFd;
use rustix::fs::{
    AtFlags, CWD, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chmodat, chownat, fchmod,
    fchown, fremovexattr, fsetxattr, futimens, removexattr, setxattr, utimensat,
};
use rustix::io::Errno;

/// Access rules, the second for what will be made in a directory (acl(5)).
pub(super) const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

/// How to get at what was made.
#[derive(Clone, Copy)]
pub(super) enum Made<'a> {
    /// A file, open for writing.
    File(BorrowedFd<'a>),
    /// Opened with `O_PATH`, as a FIFO must be and an unreadable directory can be.
    Path(BorrowedFd<'a>),
    /// The same for a symbolic link, which has no mode.
    Link(BorrowedFd<'a>),
}

impl Made<'_> {
    fn set_owner(self, uid: u32, gid: u32) -> Result<(), Errno> {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        match self {
            Self::File(fd) => fchown(fd, uid, gid),
            Self::Path(fd) | Self::Link(fd) => chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH),
        }
    }

    fn set_xattr(self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        match self {
            Self::File(fd) => fsetxattr(fd, name, value, XattrFlags::empty()),
            Self::Path(fd) | Self::Link(fd) => setxattr(by_proc(fd), name, value, XattrFlags::empty()),
        }
    }

    fn remove_xattr(self, name: &[u8]) -> Result<(), Errno> {
        match self {
            Self::File(fd) => fremovexattr(fd, name),
            Self::Path(fd) | Self::Link(fd) => removexattr(by_proc(fd), name),
        }
    }

    fn set_mode(self, mode: u32) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(mode);
        match self {
            Self::File(fd) => fchmod(fd, mode),
            Self::Path(fd) => chmodat(CWD, by_proc(fd), mode, AtFlags::empty()),
            Self::Link(_) => Ok(()),
        }
    }

    fn set_modified(self, modified: FileTime) -> Result<(), Errno> {
        let nanoseconds = if sabotage::on("times-in-seconds") { 0 } else { modified.nanoseconds };
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: modified.seconds, tv_nsec: nanoseconds.into() },
        };
        match self {
            Self::File(fd) => futimens(fd, &times),
            Self::Path(fd) | Self::Link(fd) => utimensat(fd, c"", &times, AtFlags::EMPTY_PATH),
        }
    }
}

/// The link of `/proc` that leads to exactly what is open, whatever stands at its name by now.
fn by_proc(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Writes attributes as far as this process may, and remembers what it could not.
#[derive(Debug)]
pub(super) struct AttributeWriter {
    user: u32,
    group: u32,
    /// Whether what is made may have inherited access rules or a group from a directory that was there before.
    inherits: bool,
    losses: Mutex<BTreeMap<Loss, (u64, TreePath)>>,
}

/// A kind of attribute that was not set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Loss {
    Owner,
    SetId,
    Xattr { name: Vec<u8>, why: String },
}

impl AttributeWriter {
    pub(super) fn for_this_process(inherits: bool) -> Self {
        Self {
            user: rustix::process::geteuid().as_raw(),
            group: rustix::process::getegid().as_raw(),
            inherits,
            losses: Mutex::default(),
        }
    }

    /// Whether we may give files away.
    pub(super) fn is_root(&self) -> bool {
        self.user == 0
    }

    /// Sets all of `attributes` on what was made at `path`.
    pub(super) fn write(
        &self,
        made: Made<'_>,
        path: &TreePath,
        attributes: &Attributes,
    ) -> Result<(), Errno> {
        let is_owned = self.own(made, attributes)?;
        if !is_owned {
            self.lose(Loss::Owner, path);
        }
        if self.inherits {
            for name in
                ACLS.into_iter().filter(|name| attributes.xattrs.iter().all(|xattr| xattr.name != *name))
            {
                // Fails where there is none, or can be none.
                let _ = made.remove_xattr(name);
            }
        }
        for xattr in attributes.xattrs.iter().filter(|_| !sabotage::on("no-xattrs")) {
            if let Err(error) = made.set_xattr(&xattr.name, &xattr.value) {
                if matches!(error, Errno::NOSPC | Errno::DQUOT) {
                    return Err(error);
                }
                let why = io::Error::from(error).to_string();
                self.lose(Loss::Xattr { name: xattr.name.clone(), why }, path);
            }
        }
        let mut mode = attributes.mode & 0o7777;
        // A program that ran as its owner must not run as whoever restores it.
        if !is_owned && mode & 0o6000 != 0 {
            mode &= 0o1777;
            self.lose(Loss::SetId, path);
        }
        made.set_mode(mode)?;
        if sabotage::on("owner-last") {
            self.own(made, attributes)?;
        }
        made.set_modified(attributes.modified)
    }

    /// Whether it now belongs to whom it should.
    fn own(&self, made: Made<'_>, attributes: &Attributes) -> Result<bool, Errno> {
        let is_ours = (attributes.uid, attributes.gid) == (self.user, self.group);
        if !self.is_root() || (is_ours && !self.inherits) {
            return Ok(is_ours);
        }
        match made.set_owner(attributes.uid, attributes.gid) {
            Ok(()) => Ok(true),
            // Root of a user namespace that does not know this user, or a file system without owners.
            Err(Errno::INVAL | Errno::PERM | Errno::OPNOTSUPP) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn lose(&self, loss: Loss, path: &TreePath) {
        let mut losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
        losses.entry(loss).and_modify(|(n, _)| *n += 1).or_insert_with(|| (1, path.clone()));
    }

    /// How many owners were not set, and a problem for each other kind of loss.
    pub(super) fn finish(self) -> (u64, Vec<Problem>) {
        let (mut n_owners, mut problems) = (0, Vec::new());
        for (loss, (n, first)) in self.losses.into_inner().unwrap_or_else(PoisonError::into_inner) {
            let others = if n > 1 { format!(", nor on {} others", n - 1) } else { String::new() };
            match loss {
                Loss::Owner => n_owners = n,
                Loss::SetId => problems.push(
                    Problem::new(
                        "set-id-dropped",
                        first,
                        format_args!("its set-user-id or set-group-id bit was not set, because its owner was not{others}"),
                    )
                    .advise("restore as root"),
                ),
                Loss::Xattr { name, why } => problems.push(Problem::new(
                    "xattr-not-set",
                    first,
                    format_args!("its attribute {} was not set{others}: {why}", name.escape_ascii()),
                )),
            }
        }
        (n_owners, problems)
    }
}
