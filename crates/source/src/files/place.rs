//! Placing one entry in a target: made whole under a name of ours, then renamed to its own.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use hikae_model::{Attributes, Entry, EntryKind, Problem, TreePath, sabotage};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, fdatasync, ftruncate, linkat, makedev,
    mknodat, openat, renameat, renameat_with, symlinkat, unlinkat,
};
use rustix::io::{Errno, pwrite, retry_on_intr};

use super::attributes::Made;
use super::beneath;
use super::target::{Overwrite, Parent, Placed, Target};
use crate::SourceError;

/// Why an entry was not placed.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// This entry cannot be restored; all others still can.
    #[error("{0}")]
    Entry(Problem),
    /// The target takes nothing more: its disk is full, or cannot be written.
    #[error(transparent)]
    Target(SourceError),
}

impl PlaceError {
    pub(super) fn of(path: &TreePath, error: Errno) -> Self {
        match error {
            Errno::NOSPC if sabotage::on("full-is-a-problem") => {
                Self::Entry(Problem::new("not-written", path, "no space"))
            }
            Errno::NOSPC | Errno::DQUOT | Errno::ROFS | Errno::MFILE | Errno::NFILE => {
                Self::Target(SourceError::Io {
                    verb: "write",
                    path: path.to_string().into(),
                    source: error.into(),
                })
            }
            // openat2(2): a link (ELOOP) or a mount (EXDEV) on the way, which we never follow or cross.
            Errno::LOOP => Self::in_the_way(path, "a link stands on the way to it"),
            Errno::XDEV => Self::in_the_way(path, "a mount point stands on the way to it"),
            Errno::NOTDIR => Self::in_the_way(path, "something that is no directory stands on the way to it"),
            Errno::EXIST => Self::in_the_way(path, "something stands there already"),
            Errno::ISDIR | Errno::NOTEMPTY => Self::in_the_way(path, "a directory stands there"),
            other => Self::Entry(Problem::new("not-written", path, io::Error::from(other))),
        }
    }

    pub(super) fn in_the_way(path: &TreePath, what: &str) -> Self {
        Self::Entry(
            Problem::new("in-the-way", path, what)
                .advise("restore into a new directory, or move it out of the way"),
        )
    }
}

/// How the name of an entry is free to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Nothing stands there.
    Free,
    /// What stands there is to be replaced.
    Replace,
    /// What stands there is kept.
    Keep,
}

impl Target {
    /// Whether the content of this file will be wanted, so that it need not be fetched for nothing. What
    /// [`begin_file`](Self::begin_file) says later holds.
    ///
    /// # Errors
    /// As for `begin_file`.
    pub fn wants(&self, entry: &Entry) -> Result<bool, PlaceError> {
        if self.overwrite.is_none() {
            return Ok(true);
        }
        let (parent, name) = self.parent(&entry.path)?;
        Ok(self.way(parent.as_fd(), name, entry)? != Way::Keep)
    }

    /// Begins a file under a name of ours; `None` if what stands there is kept.
    ///
    /// # Errors
    /// [`PlaceError`] if a directory is in the way or the file cannot be made.
    pub fn begin_file(&self, entry: &Entry) -> Result<Option<FileWriter<'_>>, PlaceError> {
        let EntryKind::File { size } = entry.kind else {
            return Err(PlaceError::Entry(Problem::new("not-written", &entry.path, "is not a file")));
        };
        let (parent, name) = self.parent(&entry.path)?;
        let way = self.way(parent.as_fd(), name, entry)?;
        if way == Way::Keep {
            return Ok(None);
        }
        let temporary = match sabotage::on("restored-in-place") {
            true => String::from_utf8_lossy(name).into_owned(),
            false => self.temporary_name(),
        };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(parent.as_fd(), &temporary, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| PlaceError::of(&entry.path, error))?;
        Ok(Some(FileWriter {
            temporary: Temporary { parent, name: Some(temporary) },
            target: self,
            fd,
            path: entry.path.clone(),
            attributes: entry.attributes.clone(),
            size,
            written_to: AtomicU64::new(0),
            way,
        }))
    }

    /// Opens the file that stands there, to change what differs in it: it has its length, and its attributes once it is
    /// finished, also if nothing is written. `None` if there is none whose content is its own.
    ///
    /// # Errors
    /// [`PlaceError`] if it cannot be opened.
    pub fn begin_patch(&self, entry: &Entry) -> Result<Option<FileWriter<'_>>, PlaceError> {
        let EntryKind::File { size } = entry.kind else {
            return Err(PlaceError::Entry(Problem::new("not-written", &entry.path, "is not a file")));
        };
        let Some(fd) = self.open_standing(entry, OFlags::WRONLY)? else { return Ok(None) };
        ftruncate(&fd, size).map_err(|error| PlaceError::of(&entry.path, error))?;
        let (parent, _) = self.parent(&entry.path)?;
        Ok(Some(FileWriter {
            // It has its name.
            temporary: Temporary { parent, name: None },
            target: self,
            fd,
            path: entry.path.clone(),
            attributes: entry.attributes.clone(),
            size,
            written_to: AtomicU64::new(size),
            way: Way::Free,
        }))
    }

    /// Places what is neither file nor directory: links, FIFOs, sockets and devices. The first name of a hard
    /// link must be placed before it.
    ///
    /// # Errors
    /// [`PlaceError`] if a directory is in the way, the first name is missing, or only root could do it.
    pub fn special(&self, entry: &Entry) -> Result<Placed, PlaceError> {
        let (parent, name) = self.parent(&entry.path)?;
        let at = parent.as_fd();
        let first = match &entry.kind {
            EntryKind::HardLink { to } => Some(self.first_name(entry, to)?),
            _ => None,
        };
        if let Some((first_parent, first_name)) = &first {
            let failed = |error| PlaceError::of(&entry.path, error);
            let first = self.standing(first_parent.as_fd(), first_name).map_err(failed)?;
            let standing = self.standing(at, name).map_err(failed)?;
            let identity = |seen: &_| Some(beneath::identity(seen));
            if standing.is_some() && first.as_ref().and_then(identity) == standing.as_ref().and_then(identity)
            {
                // Linked by an earlier restore. rename(2) does nothing between two names of one file, and
                // would leave the name that we made.
                return Ok(Placed::Written);
            }
        }
        let way = self.way(at, name, entry)?;
        if way == Way::Keep {
            return Ok(Placed::Kept);
        }
        let temporary = self.temporary_name();
        let made = match (&entry.kind, &first) {
            (EntryKind::HardLink { .. }, Some((first_parent, first_name))) => {
                linkat(first_parent.as_fd(), *first_name, at, &temporary, AtFlags::empty())
            }
            _ => make_special(&entry.kind, at, &temporary),
        };
        made.map_err(|error| match error {
            Errno::PERM
                if matches!(entry.kind, EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. }) =>
            {
                let problem = Problem::new("not-written", &entry.path, "only root can make a device");
                PlaceError::Entry(problem.advise("restore as root"))
            }
            other => PlaceError::of(&entry.path, other),
        })?;
        let mut temporary = Temporary { parent, name: Some(temporary) };
        if first.is_none() {
            let written = temporary.open().and_then(|fd| {
                let made = match entry.kind {
                    EntryKind::Symlink { .. } => Made::Link(fd.as_fd()),
                    _ => Made::Path(fd.as_fd()),
                };
                self.attributes.write(made, &entry.path, &entry.attributes)
            });
            written.map_err(|error| PlaceError::of(&entry.path, error))?;
        }
        if way == Way::Replace {
            let replaced = self.before_replacing(temporary.parent.as_fd(), name);
            replaced.map_err(|error| PlaceError::of(&entry.path, error))?;
        }
        temporary.rename(name, way).map_err(|error| PlaceError::of(&entry.path, error))?;
        Ok(Placed::Written)
    }

    /// Where the first name of a hard link stands, if what stands there is the file of this snapshot.
    fn first_name<'p>(&self, entry: &Entry, to: &'p TreePath) -> Result<(Parent<'_>, &'p [u8]), PlaceError> {
        let (parent, name) = self.parent(to)?;
        let standing =
            self.standing(parent.as_fd(), name).map_err(|error| PlaceError::of(&entry.path, error))?;
        // All names of a file carry the same time. Where files are kept, another time shows an older one, and
        // to link to it would pass its content off as the snapshot's.
        let is_ours = standing.is_some_and(|seen| {
            beneath::file_type(&seen) != FileType::Directory
                && (self.overwrite.is_none() || beneath::modified(&seen) == entry.attributes.modified)
        });
        if is_ours {
            return Ok((parent, name));
        }
        let what = format!("is a further name of {to}, which was not restored");
        Err(PlaceError::Entry(Problem::new("first-name-missing", &entry.path, what)))
    }

    fn way(&self, parent: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<Way, PlaceError> {
        // In a new target the rename itself refuses what should not be there.
        let Some(overwrite) = self.overwrite else { return Ok(Way::Free) };
        let standing = self.standing(parent, name).map_err(|error| PlaceError::of(&entry.path, error))?;
        let Some(seen) = standing else { return Ok(Way::Free) };
        let replaces = match overwrite {
            Overwrite::Never => sabotage::on("never-is-always"),
            Overwrite::IfNewer => entry.attributes.modified > beneath::modified(&seen),
            Overwrite::IfChanged => !self.is_same(entry, &seen),
            Overwrite::Always => true,
        };
        match (replaces, beneath::file_type(&seen)) {
            (false, _) => Ok(Way::Keep),
            (true, FileType::Directory) => Err(PlaceError::of(&entry.path, Errno::ISDIR)),
            (true, _) => Ok(Way::Replace),
        }
    }
}

fn make_special(kind: &EntryKind, parent: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    let node = |file_type, device| mknodat(parent, name, file_type, Mode::RUSR | Mode::WUSR, device);
    match *kind {
        EntryKind::Symlink { ref target } => symlinkat(target.as_slice(), parent, name),
        EntryKind::Fifo => node(FileType::Fifo, 0),
        EntryKind::Socket => node(FileType::Socket, 0),
        EntryKind::CharDevice { major, minor } => node(FileType::CharacterDevice, makedev(major, minor)),
        EntryKind::BlockDevice { major, minor } => node(FileType::BlockDevice, makedev(major, minor)),
        EntryKind::File { .. } | EntryKind::Directory | EntryKind::HardLink { .. } => Err(Errno::INVAL),
    }
}

/// A file that is being restored. Any number of threads may write into it; dropped before
/// [`finish`](Self::finish), it leaves nothing behind.
#[derive(Debug)]
pub struct FileWriter<'t> {
    temporary: Temporary<'t>,
    target: &'t Target,
    fd: OwnedFd,
    path: TreePath,
    attributes: Attributes,
    size: u64,
    written_to: AtomicU64,
    way: Way,
}

impl FileWriter<'_> {
    /// Writes a stretch. What is never written stays a hole.
    ///
    /// # Errors
    /// [`PlaceError`] if the disk does not take it, or it lies beyond the end of the file.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), PlaceError> {
        let end =
            offset.checked_add(bytes.len() as u64).filter(|&end| end <= self.size).ok_or_else(|| {
                let what = format!("its content goes beyond its end at {} bytes", self.size);
                PlaceError::Entry(Problem::new("not-written", &self.path, what))
            })?;
        let (mut at, mut left) = (offset, bytes);
        while !left.is_empty() {
            let n = retry_on_intr(|| pwrite(&self.fd, left, at)).map_err(|error| self.failed(error))?;
            at += n as u64;
            left = &left[n..];
        }
        self.written_to.fetch_max(end, Ordering::Relaxed);
        Ok(())
    }

    /// Gives the file its length, attributes and name. All that belongs in it must have been written.
    ///
    /// # Errors
    /// [`PlaceError`] if it could not be; nothing is left under its name then but what was there before.
    pub fn finish(mut self) -> Result<(), PlaceError> {
        if *self.written_to.get_mut() < self.size {
            ftruncate(&self.fd, self.size).map_err(|error| self.failed(error))?;
        }
        let made = Made::File(self.fd.as_fd());
        self.target
            .attributes
            .write(made, &self.path, &self.attributes)
            .map_err(|error| self.failed(error))?;
        if self.way == Way::Replace {
            // Otherwise a power cut could leave neither the old content nor the new.
            fdatasync(&self.fd).map_err(|error| self.failed(error))?;
        }
        let name = self.path.name().to_vec();
        if self.way == Way::Replace {
            let parent = self.temporary.parent.as_fd();
            self.target.before_replacing(parent, &name).map_err(|error| self.failed(error))?;
        }
        self.temporary.rename(&name, self.way).map_err(|error| PlaceError::of(&self.path, error))
    }

    fn failed(&self, error: Errno) -> PlaceError {
        PlaceError::of(&self.path, error)
    }
}

/// Something of ours under a name of ours. It goes when this is dropped, unless it was renamed.
#[derive(Debug)]
struct Temporary<'t> {
    parent: Parent<'t>,
    name: Option<String>,
}

impl Temporary<'_> {
    fn open(&self) -> Result<OwnedFd, Errno> {
        let name = self.name.as_deref().ok_or(Errno::NOENT)?;
        beneath::open(self.parent.as_fd(), name.as_bytes(), OFlags::PATH, ResolveFlags::empty())
    }

    fn rename(&mut self, name: &[u8], way: Way) -> Result<(), Errno> {
        let Some(ours) = &self.name else { return Ok(()) };
        let at = self.parent.as_fd();
        match way {
            Way::Replace => renameat(at, ours, at, name)?,
            Way::Free if sabotage::on("rename-replaces") => renameat(at, ours, at, name)?,
            Way::Free | Way::Keep => match renameat_with(at, ours, at, name, RenameFlags::NOREPLACE) {
                // NFS among others cannot rename so. A second name is refused just as well where one stands.
                Err(Errno::INVAL) => return linkat(at, ours, at, name, AtFlags::empty()),
                renamed => renamed?,
            },
        }
        self.name = None;
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // If it cannot be removed now, the next restore into this target removes it.
            let _ = unlinkat(self.parent.as_fd(), name, AtFlags::empty());
        }
    }
}
