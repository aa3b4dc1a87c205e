//! Targets: where a restore writes, and nothing outside of it, whatever a snapshot says.
//!
//! - Every path is opened beneath the held directory of the target and through no link (`openat2`), and what
//!   is made is made in an open directory under a name of ours, then renamed. So a link that stands in the
//!   way, or is planted while we write, is replaced or refused, never followed.
//! - A file has its final name only when it is whole. What an interrupted restore leaves is named
//!   `.hikae-<random>-<n>.partial`, and the next restore into the same target removes it.
//! - What was there is kept unless an [`Overwrite`] says otherwise.
//! - What one entry cannot have is a problem of that entry; only what stops all of them ends the restore.
//!
//! This module places entries. It knows no order but that a directory is best announced before what is in it.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hikae_model::{Attributes, Cx, Entry, EntryKind, ErrorCode, Problem, TreePath, sabotage};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, RenameFlags, ResolveFlags, Statx, StatxAttributes,
    fchmod, flock, fremovexattr, linkat, mkdirat, openat, renameat_with, sync, syncfs, unlinkat,
};
use rustix::io::Errno;

use super::attributes::{ACLS, AttributeWriter, Made};
use super::beneath;
use super::names::Names;
use super::place::PlaceError;
use crate::SourceError;

/// What happens to a file that already stands where one is to be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overwrite {
    /// It stays.
    Never,
    /// It is replaced if the restored one was modified later.
    IfNewer,
    /// It is replaced unless length, time, mode and, for root, owner are the same.
    IfChanged,
    /// It is replaced.
    Always,
}

/// Whether a restore may go on into file systems that are mounted in its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mounts {
    /// A mount point is no target, and nothing is written beyond one.
    Refuse,
    /// Mounts are directories like others.
    Cross,
}

/// Whether an entry was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// It stands in the target as the snapshot has it.
    Written,
    /// What stood there was kept, as the [`Overwrite`] rule says.
    Kept,
}

/// What a restore could not bring back besides the entries whose problems it was told.
#[derive(Debug, Default)]
pub struct TargetReport {
    /// Attributes that were not set: one problem for each kind, naming the first entry.
    pub problems: Vec<Problem>,
    /// Entries that belong to whoever restored them, because only root may give files away.
    pub n_owners_not_set: u64,
    /// Files, links and the like that stood there and were replaced.
    pub n_replaced: u64,
}

/// A directory that is being restored into. Any number of threads may place entries in it at once.
#[derive(Debug)]
pub struct Target {
    root: Root,
    /// `None` for a new target, in which nothing may be in the way.
    pub(super) overwrite: Option<Overwrite>,
    pub(super) attributes: AttributeWriter,
    mounts: Mounts,
    parents: Mutex<Parents>,
    /// What is to be written on directories when nothing more is put into them.
    directories: Mutex<Vec<PendingDirectory>>,
    token: u64,
    n_temporaries: AtomicU64,
    /// What is added to the name of what is replaced, so that it stays beside.
    aside: Option<String>,
    n_replaced: AtomicU64,
}

/// The directory of a target, locked.
#[derive(Debug)]
struct Root(OwnedFd);

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        // Closing alone would not unlock while a child that is just being started holds a copy.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// Directories that were opened lately. Restores fill one directory after another.
#[derive(Debug, Default)]
struct Parents {
    open: Vec<(Box<[u8]>, Arc<OwnedFd>)>,
    next: usize,
}

const OPEN_PARENTS: usize = 32;

#[derive(Debug)]
struct PendingDirectory {
    path: TreePath,
    attributes: Box<Attributes>,
}

impl Target {
    /// A target that must not exist yet, or be empty. It is made readable by its owner alone.
    ///
    /// # Errors
    /// [`SourceError`] if something is in it, or it cannot be made or opened.
    pub fn into_new(directory: &Path, cx: &Cx) -> Result<Self, SourceError> {
        let io = |verb| move |source| SourceError::Io { verb, path: directory.to_owned(), source };
        if let Some(above) = directory.parent() {
            std::fs::create_dir_all(above).map_err(io("make"))?;
        }
        let made = match std::fs::DirBuilder::new().mode(0o700).create(directory) {
            Ok(()) => true,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(io("make")(error)),
        };
        let target = Self::open(directory, None, Mounts::Refuse, !made, cx)?;
        if made {
            // Access rules and a set-group-id bit inherited from the directory above would end up on all that is
            // restored.
            fchmod(&target.root, Mode::RWXU).map_err(|error| io("make")(error.into()))?;
            for acl in ACLS {
                let _ = fremovexattr(&target.root, acl);
            }
        }
        if !sabotage::on("target-in-use") {
            target.require_empty(directory)?;
        }
        Ok(target)
    }

    fn require_empty(&self, directory: &Path) -> Result<(), SourceError> {
        let mut names = Names::default();
        names.read(self.root.as_fd(), &mut Vec::with_capacity(1 << 15)).map_err(|error| SourceError::Io {
            verb: "read",
            path: directory.to_owned(),
            source: error.into(),
        })?;
        match names.n_left() {
            0 => Ok(()),
            _ => Err(forbidden(
                format!("{} is not empty", directory.display()),
                "name a new folder, or say with --overwrite what may happen to the files in this one: never, \
                 if-newer, if-changed or always",
            )),
        }
    }

    /// Sees whether [`into_new`](Self::into_new) or, with `overwrite`, [`into_existing`](Self::into_existing) would take
    /// this target, and makes nothing.
    ///
    /// # Errors
    /// What they would refuse.
    pub fn check(
        directory: &Path,
        overwrite: Option<Overwrite>,
        mounts: Mounts,
        cx: &Cx,
    ) -> Result<(), SourceError> {
        if !directory.try_exists().is_ok_and(|there| !there) {
            match overwrite {
                Some(overwrite) => drop(Self::open_existing(directory, overwrite, mounts, cx)?),
                None => Self::open(directory, None, Mounts::Refuse, true, cx)?.require_empty(directory)?,
            }
        }
        Ok(())
    }

    /// The place that entries were read from: each goes back under its own path. Disks that are mounted there belong to
    /// it. No link is followed on the way to anything, so nobody who may only write somewhere in it can send a restore
    /// elsewhere.
    ///
    /// # Errors
    /// [`SourceError`] if another restore is putting back, or the system cannot confine one.
    pub fn in_place(overwrite: Overwrite, cx: &Cx) -> Result<Self, SourceError> {
        Self::open_root(Path::new("/"), Some(overwrite), Mounts::Cross, true, cx)
    }

    /// A target that exists. What is not in the snapshot stays as it is.
    ///
    /// # Errors
    /// [`SourceError`] if it is `/`, a mount point that may not be crossed, in use by another restore, or
    /// cannot be opened.
    pub fn into_existing(
        directory: &Path,
        overwrite: Overwrite,
        mounts: Mounts,
        cx: &Cx,
    ) -> Result<Self, SourceError> {
        let target = Self::open_existing(directory, overwrite, mounts, cx)?;
        target.sweep(target.root.as_fd()).map_err(|error| SourceError::Io {
            verb: "clear what an interrupted restore left in",
            path: directory.to_owned(),
            source: error.into(),
        })?;
        Ok(target)
    }

    fn open_existing(
        directory: &Path,
        overwrite: Overwrite,
        mounts: Mounts,
        cx: &Cx,
    ) -> Result<Self, SourceError> {
        let target = Self::open(directory, Some(overwrite), mounts, true, cx)?;
        let io = |verb| {
            move |error: Errno| SourceError::Io { verb, path: directory.to_owned(), source: error.into() }
        };
        let seen = beneath::look_at(target.root.as_fd()).map_err(io("look at"))?;
        if mounts == Mounts::Refuse && seen.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            return Err(forbidden(
                format!("{} is a mount point", directory.display()),
                "restore into a directory in it, or allow mounts to be crossed",
            ));
        }
        Ok(target)
    }

    /// Opens a target that is not `/`.
    fn open(
        directory: &Path,
        overwrite: Option<Overwrite>,
        mounts: Mounts,
        inherits: bool,
        cx: &Cx,
    ) -> Result<Self, SourceError> {
        let target = Self::open_root(directory, overwrite, mounts, inherits, cx)?;
        let failed =
            |error: Errno| SourceError::Io { verb: "open", path: directory.to_owned(), source: error.into() };
        let seen = beneath::look_at(target.root.as_fd()).map_err(failed)?;
        let slash = beneath::look(CWD, c"/").map_err(failed)?;
        if beneath::identity(&seen) == beneath::identity(&slash) {
            return Err(forbidden(
                "/ is no target: everything would be restored over the running system".to_owned(),
                "put single folders and files back with --in-place --path PATH, or mount the disk elsewhere and \
                 restore there",
            ));
        }
        Ok(target)
    }

    fn open_root(
        directory: &Path,
        overwrite: Option<Overwrite>,
        mounts: Mounts,
        inherits: bool,
        cx: &Cx,
    ) -> Result<Self, SourceError> {
        let failed =
            |error: Errno| SourceError::Io { verb: "open", path: directory.to_owned(), source: error.into() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, directory, flags, Mode::empty()).map_err(|error| match error {
            Errno::NOTDIR => SourceError::Failed {
                code: ErrorCode::Usage,
                what: format!("{} is no folder, and files are restored into one", directory.display()),
                advice: Some("name a new folder".into()),
            },
            error => failed(error),
        })?;
        // Before Linux 5.6 we could not hold what this module promises, and so do not start.
        beneath::open(root.as_fd(), b".", OFlags::PATH, ResolveFlags::empty()).map_err(
            |error| match error {
                Errno::NOSYS | Errno::PERM => SourceError::Failed {
                    code: ErrorCode::Failure,
                    what: "this system cannot confine a restore to its target: openat2 is missing".to_owned(),
                    advice: Some("use Linux 5.6 or later, or a container that allows openat2".into()),
                },
                other => failed(other),
            },
        )?;
        // A file system without locks cannot tell; names that are drawn at random keep restores apart still.
        if flock(&root, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
            return Err(SourceError::Failed {
                code: ErrorCode::Busy,
                what: format!("another restore writes into {}", directory.display()),
                advice: Some("wait for it to end".into()),
            });
        }
        Ok(Self {
            root: Root(root),
            overwrite,
            attributes: AttributeWriter::for_this_process(inherits),
            mounts,
            parents: Mutex::default(),
            directories: Mutex::default(),
            token: u64::from_le_bytes(cx.random()),
            n_temporaries: AtomicU64::new(0),
            aside: None,
            n_replaced: AtomicU64::new(0),
        })
    }

    /// Keeps what is replaced, beside what replaces it and under its name with `suffix`.
    pub fn keep_replaced(self, suffix: String) -> Self {
        Self { aside: Some(suffix), ..self }
    }

    /// To be called before what stands at a name is replaced.
    pub(super) fn before_replacing(&self, parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        if let Some(suffix) = &self.aside {
            let aside = [name, suffix.as_bytes()].concat();
            // A second name, so that the first never leads to nothing. Where there are none, or we may make none to a
            // file of somebody else, it is moved.
            let kept = match linkat(parent, name, parent, &aside[..], AtFlags::empty()) {
                Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => {
                    renameat_with(parent, name, parent, &aside[..], RenameFlags::NOREPLACE)
                }
                linked => linked,
            };
            match kept {
                Err(Errno::NOENT) => return Ok(()), // somebody removed it meanwhile
                kept => kept?,
            }
        }
        self.n_replaced.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Makes a directory, or takes the one that stands there. Its attributes are set by
    /// [`finish`](Self::finish); until then only its owner can enter one that was made.
    ///
    /// # Errors
    /// [`PlaceError`] if something else is in the way and may not be replaced.
    pub fn directory(&self, entry: &Entry) -> Result<Placed, PlaceError> {
        let (parent, name) = self.parent(&entry.path)?;
        let parent = parent.as_fd();
        let made = mkdirat(parent, name, Mode::RWXU);
        let placed = match made {
            Ok(()) => Placed::Written,
            Err(Errno::EXIST) => self.take_directory(parent, name, entry)?,
            Err(error) => return Err(PlaceError::of(&entry.path, error)),
        };
        if placed == Placed::Written {
            let attributes = Box::new(entry.attributes.clone());
            lock(&self.directories).push(PendingDirectory { path: entry.path.clone(), attributes });
        }
        Ok(placed)
    }

    /// Makes a directory that stands above what is restored, as it was, if nothing stands there. One that stands is
    /// left as it is.
    ///
    /// # Errors
    /// [`PlaceError`] if it cannot be made.
    pub fn folder_above(&self, entry: &Entry) -> Result<(), PlaceError> {
        let (parent, name) = self.parent(&entry.path)?;
        match mkdirat(parent.as_fd(), name, Mode::RWXU) {
            Ok(()) => {
                let attributes = Box::new(entry.attributes.clone());
                lock(&self.directories).push(PendingDirectory { path: entry.path.clone(), attributes });
                Ok(())
            }
            Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(PlaceError::of(&entry.path, error)),
        }
    }

    fn take_directory(
        &self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
    ) -> Result<Placed, PlaceError> {
        let failed = |error| PlaceError::of(&entry.path, error);
        let seen = beneath::look(parent, name).map_err(failed)?;
        if beneath::file_type(&seen) == FileType::Directory {
            let Some(overwrite) = self.overwrite else { return Ok(Placed::Written) };
            // What cannot be listed cannot be swept, but may still be written into.
            match beneath::open(parent, name, OFlags::RDONLY | OFlags::DIRECTORY, self.refused()) {
                Ok(directory) => self.sweep(directory.as_fd()).map_err(failed)?,
                Err(Errno::ACCESS) => {}
                Err(error) => return Err(failed(error)),
            }
            return Ok(if overwrite == Overwrite::Never { Placed::Kept } else { Placed::Written });
        }
        let may_replace = match self.overwrite {
            None | Some(Overwrite::Never) => false,
            Some(Overwrite::IfNewer) => entry.attributes.modified > beneath::modified(&seen),
            Some(Overwrite::IfChanged | Overwrite::Always) => true,
        };
        if !may_replace {
            return Err(PlaceError::in_the_way(&entry.path, "something that is no directory stands there"));
        }
        self.before_replacing(parent, name).map_err(failed)?;
        match unlinkat(parent, name, AtFlags::empty()) {
            Err(Errno::NOENT) => {} // it was moved aside
            removed => removed.map_err(failed)?,
        }
        mkdirat(parent, name, Mode::RWXU).map_err(failed)?;
        Ok(Placed::Written)
    }

    /// Ends the restore: writes the attributes of directories, deepest first, and makes everything durable.
    ///
    /// # Errors
    /// [`SourceError`] if the disk does not take it.
    pub fn finish(self) -> Result<TargetReport, SourceError> {
        let mut problems = Vec::new();
        let mut directories = std::mem::take(&mut *lock(&self.directories));
        directories.sort_unstable_by(|a, b| b.path.cmp(&a.path));
        for PendingDirectory { path, attributes } in &directories {
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let written = beneath::open(self.root.as_fd(), path.as_bytes(), flags, self.refused())
                .and_then(|fd| self.attributes.write(Made::Path(fd.as_fd()), path, attributes));
            match written.map_err(|error| PlaceError::of(path, error)) {
                Ok(()) => {}
                Err(PlaceError::Entry(problem)) => problems.push(problem),
                Err(PlaceError::Target(error)) => return Err(error),
            }
        }
        match self.mounts {
            Mounts::Refuse => syncfs(&self.root).map_err(|error| SourceError::Io {
                verb: "write all of",
                path: "the target".into(),
                source: error.into(),
            })?,
            Mounts::Cross => sync(),
        }
        let (n_owners_not_set, losses) = self.attributes.finish();
        problems.extend(losses);
        Ok(TargetReport { problems, n_owners_not_set, n_replaced: self.n_replaced.into_inner() })
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// What a resolution refuses besides links.
    pub(super) fn refused(&self) -> ResolveFlags {
        match self.mounts {
            Mounts::Refuse => ResolveFlags::NO_XDEV,
            Mounts::Cross => ResolveFlags::empty(),
        }
    }

    /// The open directory that an entry belongs in, made if it is not there, and the entry's name in it.
    pub(super) fn parent<'p>(&self, path: &'p TreePath) -> Result<(Parent<'_>, &'p [u8]), PlaceError> {
        let bytes = path.as_bytes();
        let Some(cut) = bytes.iter().rposition(|&byte| byte == b'/') else {
            return Ok((Parent::Root(self.root.as_fd()), bytes));
        };
        let (above, name) = (&bytes[..cut], &bytes[cut + 1..]);
        if let Some((_, fd)) = lock(&self.parents).open.iter().find(|(path, _)| **path == *above) {
            return Ok((Parent::Below(Arc::clone(fd)), name));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let opened = match beneath::open(self.root.as_fd(), above, flags, self.refused()) {
            Err(Errno::NOENT) => self.make_all(above),
            opened => opened,
        };
        let fd = Arc::new(opened.map_err(|error| PlaceError::of(path, error))?);
        lock(&self.parents).remember(above, &fd);
        Ok((Parent::Below(fd), name))
    }

    /// Makes directories that nobody announced, as when a single file is restored.
    fn make_all(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let mut at = beneath::open(self.root.as_fd(), b".", flags, self.refused())?;
        for name in path.split(|&byte| byte == b'/') {
            match mkdirat(&at, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
            at = beneath::open(at.as_fd(), name, flags, self.refused())?;
        }
        Ok(at)
    }

    /// A name that nothing else has.
    pub(super) fn temporary_name(&self) -> String {
        let n = self.n_temporaries.fetch_add(1, Ordering::Relaxed);
        format!(".hikae-{:016x}-{n:x}.partial", self.token)
    }

    /// Removes what an interrupted restore left in a directory.
    fn sweep(&self, directory: BorrowedFd<'_>) -> Result<(), Errno> {
        let mut names = Names::default();
        names.read(directory, &mut Vec::with_capacity(1 << 15))?;
        while let Some(name) = names.next() {
            if temporary_token(name.to_bytes()).is_some_and(|token| token != self.token) {
                unlinkat(directory, name, AtFlags::empty())?;
            }
        }
        Ok(())
    }

    /// What stands at a name, if anything.
    pub(super) fn standing(&self, parent: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Statx>, Errno> {
        match beneath::look(parent, name) {
            Ok(seen) => Ok(Some(seen)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a file like this is already there.
    pub(super) fn is_same(&self, entry: &Entry, seen: &Statx) -> bool {
        let EntryKind::File { size } = entry.kind else { return false };
        let Attributes { mode, uid, gid, modified, .. } = entry.attributes;
        beneath::file_type(seen) == FileType::RegularFile
            && seen.stx_size == size
            && beneath::modified(seen) == modified
            && u32::from(seen.stx_mode) & 0o7777 == mode
            && (!self.attributes.is_root() || (seen.stx_uid, seen.stx_gid) == (uid, gid))
    }
}

impl Parents {
    fn remember(&mut self, path: &[u8], fd: &Arc<OwnedFd>) {
        let entry = (Box::from(path), Arc::clone(fd));
        if self.open.len() < OPEN_PARENTS {
            self.open.push(entry);
        } else {
            self.open[self.next] = entry;
            self.next = (self.next + 1) % OPEN_PARENTS;
        }
    }
}

/// The directory that an entry goes into.
#[derive(Debug)]
pub(super) enum Parent<'t> {
    Root(BorrowedFd<'t>),
    Below(Arc<OwnedFd>),
}

impl AsFd for Parent<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Root(fd) => *fd,
            Self::Below(fd) => fd.as_fd(),
        }
    }
}

/// The restore that a temporary name is of, if it is one.
fn temporary_token(name: &[u8]) -> Option<u64> {
    let name = std::str::from_utf8(name).ok()?;
    let (token, n) = name.strip_prefix(".hikae-")?.strip_suffix(".partial")?.split_once('-')?;
    let is_hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if token.len() != 16 || n.is_empty() || !is_hex(token) || !is_hex(n) {
        return None;
    }
    u64::from_str_radix(token, 16).ok()
}

fn forbidden(what: String, advice: &'static str) -> SourceError {
    SourceError::Failed { code: ErrorCode::Forbidden, what, advice: Some(advice.into()) }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_temporaries_are_swept() {
        assert_eq!(temporary_token(b".hikae-00000000000000ff-1a.partial"), Some(255));
        for name in [
            "notes.partial",
            ".hikae-.partial",
            ".hikae-00000000000000ff-.partial",
            ".hikae-00000000000000FF-1.partial",
            ".hikae-ff-1.partial",
            ".hikae-00000000000000ff-1.partial.bak",
            ".hikae-00000000000000ff-+1.partial",
        ] {
            assert_eq!(temporary_token(name.as_bytes()), None, "{name}");
        }
    }
}
