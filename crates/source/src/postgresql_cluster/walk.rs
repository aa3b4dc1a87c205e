//! What a base backup lists of a data directory and its tablespaces, in path order.
//!
//! ```text
//! data/...          the data directory, without what is left out
//! spaces/OID/...    each tablespace
//! stop/...          backup_label, tablespace_map and pg_control: what only the end of the backup gives
//! wal/...           the segments from start to stop
//! ```
//!
//! So what comes last sorts last. A link below the data directory is listed as a link and never followed, but for those of
//! tablespaces. What vanishes meanwhile is no problem: the log knows of it.

use super::names::{self, Fork, RelationFile};
use crate::SourceError;
use crate::files::beneath;
use hikae_model::{Attributes, Entry, EntryKind, FileTime, Problem, TreePath, sabotage};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, Statx, openat, readlinkat};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A directory that is read: the data directory or a tablespace.
#[derive(Debug)]
pub(super) struct Root {
    fd: OwnedFd,
    path: PathBuf,
}

impl Root {
    /// Opens a directory, whatever leads to it.
    pub(super) fn open(path: &Path) -> Result<Self, SourceError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match openat(rustix::fs::CWD, path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self { fd, path: path.to_owned() }),
            Err(Errno::NOENT | Errno::NOTDIR) => Err(SourceError::Missing { path: path.to_owned() }),
            Err(error) => Err(SourceError::Io { verb: "read", path: path.to_owned(), source: error.into() }),
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file beneath it, through no link.
    pub(super) fn open_file(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        // Whatever has taken its name meanwhile must not make us wait.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        beneath::open(self.fd(), path, flags, ResolveFlags::empty())
    }
}

/// One thing that was listed.
pub(super) struct Listed {
    pub(super) entry: Entry,
    /// Where it is read, if it is a file.
    pub(super) file: Option<ListedFile>,
}

/// A file that was listed.
pub(super) struct ListedFile {
    pub(super) root: Arc<Root>,
    /// Beneath the root.
    pub(super) path: Vec<u8>,
    /// Which pages it holds, if it holds any.
    pub(super) relation: Option<RelationFile>,
}

/// All that was listed.
pub(super) struct Listing {
    pub(super) listed: Vec<Listed>,
    pub(super) bytes: u64,
    pub(super) problems: Vec<Problem>,
    pub(super) notes: Vec<Problem>,
    /// Number and place of each tablespace.
    pub(super) tablespaces: Vec<(u32, Arc<Root>)>,
}

/// Lists everything that a backup of the data directory keeps. `catalog_version` and `major` name what in a tablespace is
/// this server's.
pub(super) fn list(data: &Arc<Root>, major: u32, catalog_version: u32) -> Result<Listing, SourceError> {
    let tablespaces = tablespaces(data)?;
    let mut walk = Walk {
        root: Arc::clone(data),
        under: b"data".to_vec(),
        elsewhere: BTreeSet::new(),
        only: None,
        listing: Listing {
            listed: Vec::new(),
            bytes: 0,
            problems: Vec::new(),
            notes: Vec::new(),
            tablespaces: Vec::new(),
        },
    };
    for (_, space) in &tablespaces {
        let seen = beneath::look_at(space.fd()).map_err(|error| refused(space.path(), error))?;
        walk.elsewhere.insert(inode(&seen));
    }
    walk.top()?;
    walk.elsewhere.clear();
    if !tablespaces.is_empty() {
        walk.push_directory(b"spaces", attributes_of(data)?)?;
    }
    for (oid, space) in tablespaces {
        walk.root = Arc::clone(&space);
        walk.under = format!("spaces/{oid}").into_bytes();
        walk.only = Some(format!("PG_{major}_{catalog_version}").into_bytes());
        walk.top()?;
        walk.listing.tablespaces.push((oid, space));
    }
    walk.listing.listed.sort_unstable_by(|a, b| a.entry.path.cmp(&b.entry.path));
    Ok(walk.listing)
}

/// The tablespaces that are linked from the data directory.
fn tablespaces(data: &Root) -> Result<Vec<(u32, Arc<Root>)>, SourceError> {
    let path = data.path().join("pg_tblspc");
    let directory = data.open_file(b"pg_tblspc").map_err(|error| refused(&path, error))?;
    let mut found = Vec::new();
    for name in names_in(directory.as_fd()).map_err(|error| refused(&path, error))? {
        let oid = std::str::from_utf8(&name).ok().and_then(|name| name.parse::<u32>().ok());
        let Some(oid) = oid else { continue };
        match readlinkat(&directory, &*name, Vec::new()) {
            Ok(target) => {
                let target = path.join(OsStr::from_bytes(target.as_bytes()));
                found.push((oid, Arc::new(Root::open(&target)?)));
            }
            // A directory stands there itself, and is listed with the data directory.
            Err(Errno::INVAL) => {}
            Err(error) => return Err(refused(&path, error)),
        }
    }
    found.sort_unstable_by_key(|(oid, _)| oid.to_string());
    Ok(found)
}

struct Walk {
    root: Arc<Root>,
    /// Where in the snapshot it is listed.
    under: Vec<u8>,
    /// Directories that are listed elsewhere: a tablespace may lie in the data directory.
    elsewhere: BTreeSet<(u32, u32, u64)>,
    /// The only name at the top that is listed.
    only: Option<Vec<u8>>,
    listing: Listing,
}

impl Walk {
    fn top(&mut self) -> Result<(), SourceError> {
        let attributes = attributes_of(&self.root)?;
        let under = self.under.clone();
        self.push_directory(&under, attributes)?;
        let root = Arc::clone(&self.root);
        self.directory(root.fd(), b"")
    }

    /// Lists what is in a directory, which stands at `path` beneath the root.
    fn directory(&mut self, directory: BorrowedFd<'_>, path: &[u8]) -> Result<(), SourceError> {
        let names = names_in(directory).map_err(|error| refused(&self.shown(path), error))?;
        // Only what an unlogged relation begins from is kept of it.
        let unlogged: BTreeSet<u32> = match sabotage::on("unlogged-kept") {
            true => BTreeSet::new(),
            false => {
                let files = names.iter().filter_map(|name| RelationFile::parse(name));
                files.filter(|file| file.fork == Fork::Init).map(|file| file.number).collect()
            }
        };
        for name in names {
            let at_top = path.is_empty();
            let at = if at_top { name.clone() } else { [path, b"/", &*name].concat() };
            let relation = RelationFile::parse(&name).filter(|_| self.holds_relations(path));
            let is_of_unlogged =
                relation.is_some_and(|file| file.fork != Fork::Init && unlogged.contains(&file.number));
            let left_out = is_of_unlogged
                || names::is_left_out_anywhere(&name)
                || at_top && self.only.as_ref().is_some_and(|only| *only != name)
                || at_top && self.only.is_none() && names::is_left_out_at_top(&name)
                || at == super::control::PATH.as_bytes() && self.only.is_none();
            if left_out {
                continue;
            }
            match beneath::look(directory, &*name) {
                Ok(seen) => self.one(directory, &name, at, relation, &seen)?,
                Err(Errno::NOENT) => {}
                Err(error) => return Err(refused(&self.shown(&at), error)),
            }
        }
        Ok(())
    }

    /// Lists one thing, with all that is in it.
    fn one(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        at: Vec<u8>,
        relation: Option<RelationFile>,
        seen: &Statx,
    ) -> Result<(), SourceError> {
        let attributes = attributes(seen);
        match beneath::file_type(seen) {
            FileType::Directory => {
                if self.elsewhere.contains(&inode(seen)) {
                    return Ok(());
                }
                self.push_directory(&[&*self.under, b"/", &*at].concat(), attributes)?;
                if self.only.is_none() && names::is_emptied(&at) {
                    return Ok(());
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                match beneath::open(parent, name, flags, ResolveFlags::empty()) {
                    Ok(directory) => self.directory(directory.as_fd(), &at),
                    Err(Errno::NOENT) => Ok(()),
                    Err(error) => Err(refused(&self.shown(&at), error)),
                }
            }
            FileType::RegularFile => {
                if self.is_log_file(&at) {
                    return Ok(());
                }
                let size = seen.stx_size;
                self.listing.bytes += size;
                let path = self.tree_path(&at)?;
                let file = ListedFile { root: Arc::clone(&self.root), path: at, relation };
                let entry = Entry { path, kind: EntryKind::File { size }, attributes };
                self.listing.listed.push(Listed { entry, file: Some(file) });
                Ok(())
            }
            FileType::Symlink => self.link(parent, name, at, attributes),
            _ => {
                let what = "is neither file nor directory, and PostgreSQL makes no such thing";
                self.listing.notes.push(Problem::new("not-kept", self.shown(&at).display(), what));
                Ok(())
            }
        }
    }

    fn link(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        at: Vec<u8>,
        attributes: Attributes,
    ) -> Result<(), SourceError> {
        if at.starts_with(b"pg_tblspc/") && self.only.is_none() {
            // A restore makes links of its own.
            return Ok(());
        }
        if at == b"pg_wal" && self.only.is_none() {
            // A restored cluster has its log in itself.
            let attributes = Attributes { mode: 0o700, ..attributes };
            self.push_directory(b"data/pg_wal", attributes.clone())?;
            return self.push_directory(b"data/pg_wal/archive_status", attributes);
        }
        let target = match readlinkat(parent, name, Vec::new()) {
            Ok(target) => target.into_bytes(),
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(refused(&self.shown(&at), error)),
        };
        let what = "is a link, which is kept; what it leads to is not in the backup";
        let problem = Problem::new("link", self.shown(&at).display(), what)
            .advise("back up what it leads to as a source of files, and see that it is there before a restored server starts");
        self.listing.notes.push(problem);
        let entry = Entry { path: self.tree_path(&at)?, kind: EntryKind::Symlink { target }, attributes };
        self.listing.listed.push(Listed { entry, file: None });
        Ok(())
    }

    /// Whether files in a directory may be those of relations.
    fn holds_relations(&self, path: &[u8]) -> bool {
        match &self.only {
            Some(_) => names::holds_relations_of_space(path),
            None => names::holds_relations(path),
        }
    }

    /// A file of the log comes after the end of the backup, if the backup needs it.
    fn is_log_file(&self, at: &[u8]) -> bool {
        self.only.is_none() && at.strip_prefix(b"pg_wal/").is_some()
    }

    fn push_directory(&mut self, path: &[u8], attributes: Attributes) -> Result<(), SourceError> {
        let path = TreePath::parse(path).map_err(|error| not_a_path(&error))?;
        self.listing
            .listed
            .push(Listed { entry: Entry { path, kind: EntryKind::Directory, attributes }, file: None });
        Ok(())
    }

    fn tree_path(&self, at: &[u8]) -> Result<TreePath, SourceError> {
        TreePath::parse([&*self.under, b"/", at].concat()).map_err(|error| not_a_path(&error))
    }

    fn shown(&self, at: &[u8]) -> PathBuf {
        self.root.path().join(OsStr::from_bytes(at))
    }
}

fn not_a_path(error: &dyn std::fmt::Display) -> SourceError {
    crate::postgresql::failed(hikae_model::ErrorCode::Failure, error.to_string(), None)
}

fn refused(path: &Path, error: Errno) -> SourceError {
    SourceError::Io { verb: "read", path: path.to_owned(), source: error.into() }
}

/// The names in a directory.
fn names_in(directory: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn inode(seen: &Statx) -> (u32, u32, u64) {
    (seen.stx_dev_major, seen.stx_dev_minor, seen.stx_ino)
}

fn attributes_of(root: &Root) -> Result<Attributes, SourceError> {
    beneath::look_at(root.fd()).map(|seen| attributes(&seen)).map_err(|error| refused(root.path(), error))
}

/// What is written on a thing. It never looks unchanged to the next backup: a page may be written within the same tick of
/// the clock in which it was read, and the log of the next backup would not bring that write back.
pub(super) fn attributes(seen: &Statx) -> Attributes {
    Attributes {
        mode: u32::from(seen.stx_mode) & 0o7777,
        uid: seen.stx_uid,
        gid: seen.stx_gid,
        modified: beneath::modified(seen),
        changed: FileTime::default(),
        inode: 0,
        xattrs: Vec::new(),
    }
}
