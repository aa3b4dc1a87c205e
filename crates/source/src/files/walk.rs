//! Walking the includes: a thread of its own lists what is there, in path order, ahead of who reads it.
//!
//! Everything is looked at relative to its open directory and nothing on the way is followed, so a link that
//! is planted meanwhile leads nowhere. The walk has a stack of its own and holds few directories open, so a
//! tree may be as deep as it likes. What cannot be read is a problem, and its siblings go on.
//!
//! This module lists. It opens no file and knows nothing of contents.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossbeam_channel::Sender;
use hikae_model::{Attributes, Cut, Cx, Entry, EntryKind, FileTime, Problem, TreePath, Xattr, sabotage};
use ignore::gitignore::Gitignore;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Statx, fstatfs, openat, readlinkat};
use rustix::io::{Errno, pread};

use super::beneath::{self, Identity};
use super::include::{NodeId, Plan};
use super::names::Names;
use super::read::{FileReader, Json};
use super::xattr::XattrReader;
use crate::{Content, Item, SourceError};

/// Entries that travel to the reader together.
const BATCH_ENTRIES: usize = 256;
/// A batch is also full with this much in paths: in a deep tree each may have a megabyte.
const BATCH_PATH_BYTES: usize = 1 << 18;
/// Directories held open on the way down. Those above are opened again when the walk comes back to them.
const HELD_DIRECTORIES: usize = 64;
/// Room for names as the kernel lists them.
const NAMES_BYTES: usize = 1 << 16;

/// A stretch of the walk.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) items: Vec<Item>,
    pub(super) problems: Vec<Problem>,
    pub(super) notes: Vec<Problem>,
}

/// What to walk, and what to leave out.
pub(super) struct Rules {
    pub(super) plan: Plan,
    /// Directories that hikae fills itself.
    pub(super) own: Vec<Identity>,
    /// The same, by where they are and how their names begin.
    pub(super) own_beginnings: Vec<(Identity, &'static str)>,
    /// SQLite databases that a source of their own reads, where they really are.
    pub(super) databases: Vec<PathBuf>,
    /// Matched against paths relative to each include.
    pub(super) exclude: Gitignore,
    /// Matched against whole paths: files that must be JSON.
    pub(super) json: Gitignore,
    pub(super) one_file_system: bool,
    /// Files modified before this are left out.
    pub(super) not_before: Option<FileTime>,
}

/// Why a walk ended before its time.
enum Stop {
    /// Nobody reads any more.
    Unwanted,
    Failed(SourceError),
}

/// Walks to the end and sends what it finds, or the error that ended it.
pub(super) fn walk(rules: Rules, batches: &Sender<Result<Batch, SourceError>>, cx: &Cx) {
    let walked = Walker::begin(rules, batches, cx).and_then(Walker::run);
    if let Err(Stop::Failed(error)) = walked {
        // Who dropped the reading does not want to know.
        let _ = batches.send(Err(error));
    }
}

struct Walker<'a> {
    rules: Rules,
    batches: &'a Sender<Result<Batch, SourceError>>,
    cx: &'a Cx,
    root: Arc<OwnedFd>,
    /// Our effective user, who may read his own files without leaving an access time.
    user: u32,
    /// The path of what is being looked at.
    path: Vec<u8>,
    batch: Batch,
    batch_path_bytes: usize,
    /// The first name of every file whose other names are still to come, and how many those are.
    links: HashMap<Identity, (TreePath, u32)>,
    xattrs: XattrReader,
    names_buffer: Vec<u8>,
}

/// A directory on the way down.
struct Frame {
    directory: Option<OwnedFd>,
    names: Names,
    scope: Scope,
}

/// What holds for all names in one directory.
struct Scope {
    identity: Identity,
    path_bytes: usize,
    /// The includes that this directory is in and not excluded from, by the length of their paths.
    bases: Vec<usize>,
    /// Set while includes lie below.
    node: Option<NodeId>,
}

impl<'a> Walker<'a> {
    fn begin(
        rules: Rules,
        batches: &'a Sender<Result<Batch, SourceError>>,
        cx: &'a Cx,
    ) -> Result<Self, Stop> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, c"/", flags, Mode::empty()).map_err(|error| {
            let source = error.into();
            Stop::Failed(SourceError::Io { verb: "open", path: "/".into(), source })
        })?;
        Ok(Self {
            rules,
            batches,
            cx,
            root: Arc::new(root),
            user: rustix::process::geteuid().as_raw(),
            path: Vec::new(),
            batch: Batch::default(),
            batch_path_bytes: 0,
            links: HashMap::new(),
            xattrs: XattrReader::for_this_thread(),
            names_buffer: Vec::with_capacity(NAMES_BYTES),
        })
    }

    fn run(mut self) -> Result<(), Stop> {
        let mut stack = Vec::from_iter(self.enter_root()?);
        while let Some(mut frame) = stack.pop() {
            let Some(child) = self.walk_on(&mut frame)? else { continue };
            stack.push(frame);
            stack.push(child);
            if let Some(above) = stack.len().checked_sub(HELD_DIRECTORIES + 1) {
                stack[above].directory = None;
            }
        }
        self.flush()
    }

    /// `/` itself has no path in a snapshot and so no entry.
    fn enter_root(&mut self) -> Result<Option<Frame>, Stop> {
        let bases = if self.rules.plan.is_included(Plan::ROOT) { vec![0] } else { Vec::new() };
        let flags = if bases.is_empty() { OFlags::PATH } else { OFlags::RDONLY };
        let root = openat(CWD, c"/", flags | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        match root.and_then(|root| beneath::look_at(root.as_fd()).map(|seen| (root, seen))) {
            Ok((root, seen)) => Ok(Some(self.frame(root, &seen, bases, Some(Plan::ROOT)))),
            Err(error) => {
                let source = error.into();
                Err(Stop::Failed(SourceError::Io { verb: "open", path: "/".into(), source }))
            }
        }
    }

    /// Lists what is left of a directory, up to the next directory in it, which is to be walked first.
    fn walk_on(&mut self, frame: &mut Frame) -> Result<Option<Frame>, Stop> {
        self.xattrs.leave();
        let Some(directory) = self.reopen(frame) else { return Ok(None) };
        let Frame { names, scope, .. } = frame;
        while let Some(name) = names.next() {
            self.cx.check().map_err(|cancelled| Stop::Failed(cancelled.into()))?;
            self.path.truncate(scope.path_bytes);
            if scope.path_bytes > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name.to_bytes());
            let node = scope.node.and_then(|node| self.rules.plan.child(node, name.to_bytes()));
            let seen = match beneath::look(directory.as_fd(), name) {
                Ok(seen) => seen,
                // Such as the mount of another user's FUSE, which even root cannot look at: to exclude it is
                // the usual remedy, and we do not know whether it is a directory.
                Err(_) if node.is_none() && [true, false].iter().any(|&d| self.is_left_out(scope, d)) => {
                    continue;
                }
                Err(error) => {
                    self.fail(error);
                    continue;
                }
            };
            if beneath::file_type(&seen) == FileType::Directory {
                if let Some(child) = self.directory(scope, directory.as_fd(), name, &seen, node)? {
                    frame.directory = Some(directory);
                    return Ok(Some(child));
                }
            } else if node.is_some() || !self.is_left_out(scope, false) {
                self.other(directory.as_fd(), name, &seen)?;
            }
        }
        Ok(None)
    }

    /// Takes the directory out of its frame, opened again if it was closed to save descriptors.
    fn reopen(&mut self, frame: &mut Frame) -> Option<OwnedFd> {
        if frame.names.n_left() == 0 {
            return None;
        }
        if let Some(directory) = frame.directory.take() {
            return Some(directory);
        }
        self.path.truncate(frame.scope.path_bytes);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let opened = beneath::open(self.root.as_fd(), &self.path, flags, ResolveFlags::empty());
        let same = opened.and_then(|directory| {
            let seen = beneath::look_at(directory.as_fd())?;
            if beneath::identity(&seen) == frame.scope.identity { Ok(directory) } else { Err(Errno::NOENT) }
        });
        same.inspect_err(|_| {
            let what =
                format!("was moved while it was read; {} entries in it are missing", frame.names.n_left());
            self.batch.problems.push(Problem::new("vanished", shown(&self.path), what));
        })
        .ok()
    }

    /// Lists a directory, and opens it unless nothing below it is wanted.
    fn directory(
        &mut self,
        parent: &Scope,
        parent_fd: BorrowedFd<'_>,
        name: &CStr,
        seen: &Statx,
        node: Option<NodeId>,
    ) -> Result<Option<Frame>, Stop> {
        let mut bases = parent.bases.clone();
        bases.retain(|&base| !self.excludes(base, true));
        let own_base = self.path.len();
        if node.is_some_and(|node| self.rules.plan.is_included(node)) {
            bases.push(own_base);
        }
        if bases.is_empty() && node.is_none() {
            return Ok(None);
        }
        let Some(path) = self.tree_path() else { return Ok(None) };
        if !bases.is_empty() && self.is_own(parent, name, seen) {
            let what = "is filled by hikae itself and was left out";
            self.batch.notes.push(Problem::new("own-directory", shown(&self.path), what));
            return self.emit(path, EntryKind::Directory, seen, Vec::new(), None).map(|()| None);
        }
        if self.rules.one_file_system && beneath::identity(seen).device != parent.identity.device {
            bases.retain(|&base| base == own_base);
            if bases.is_empty() && node.is_none() {
                // Not even opened: that might mount it.
                return self.emit(path, EntryKind::Directory, seen, Vec::new(), None).map(|()| None);
            }
        }
        let readable = if bases.is_empty() { OFlags::PATH } else { OFlags::RDONLY | OFlags::NONBLOCK };
        let flags = readable | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = beneath::without_atime(self.may_hide_access(seen), flags, |flags| {
            openat(parent_fd, name, flags, Mode::empty())
        });
        let looked = opened.and_then(|fd| beneath::look_at(fd.as_fd()).map(|seen| (fd, seen)));
        let (fd, seen) = match looked {
            Ok(opened) => opened,
            Err(error) => {
                self.fail(error);
                let gone = matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP);
                if !gone {
                    self.emit(path, EntryKind::Directory, seen, Vec::new(), None)?;
                }
                return Ok(None);
            }
        };
        let device = beneath::identity(&seen).device;
        let xattrs = if bases.is_empty() {
            // Opened only to pass through, which gives no right to ask the descriptor itself.
            self.xattrs.of_name(parent_fd, name, device)
        } else {
            self.xattrs.of_open(fd.as_fd(), device)
        };
        let xattrs = self.or_problem(xattrs);
        self.emit(path, EntryKind::Directory, &seen, xattrs, None)?;
        if device != parent.identity.device && is_made_by_the_kernel(fd.as_fd()) {
            bases.retain(|&base| base == own_base);
        }
        Ok((!bases.is_empty() || node.is_some()).then(|| self.frame(fd, &seen, bases, node)))
    }

    fn is_own(&self, parent: &Scope, name: &CStr, seen: &Statx) -> bool {
        let Rules { own, own_beginnings, .. } = &self.rules;
        let begins = |(place, beginning): &(Identity, &str)| {
            *place == parent.identity && name.to_bytes().starts_with(beginning.as_bytes())
        };
        own.contains(&beneath::identity(seen)) || own_beginnings.iter().any(begins)
    }

    /// An opened directory with its names.
    fn frame(&mut self, directory: OwnedFd, seen: &Statx, bases: Vec<usize>, node: Option<NodeId>) -> Frame {
        let mut names = Names::default();
        if !bases.is_empty() {
            if let Err(error) = names.read(directory.as_fd(), &mut self.names_buffer) {
                self.fail(error);
            }
        } else if let Some(node) = node {
            self.rules.plan.names(node).for_each(|name| names.add(name));
        }
        let scope = Scope { identity: beneath::identity(seen), path_bytes: self.path.len(), bases, node };
        Frame { directory: Some(directory), names, scope }
    }

    /// Lists what is not a directory.
    fn other(&mut self, directory: BorrowedFd<'_>, name: &CStr, seen: &Statx) -> Result<(), Stop> {
        let identity = beneath::identity(seen);
        let is_file = beneath::file_type(seen) == FileType::RegularFile;
        if is_file && self.rules.not_before.is_some_and(|moment| beneath::modified(seen) < moment) {
            return Ok(());
        }
        let Some(path) = self.tree_path() else { return Ok(()) };
        if is_file {
            self.note_open_database(directory, name, seen);
        }
        if let Some(to) = self.first_name(&path, seen) {
            let xattrs = self.xattrs.of_name(directory, name, identity.device);
            let xattrs = self.or_problem(xattrs);
            return self.emit(path, EntryKind::HardLink { to }, seen, xattrs, None);
        }
        let kind = match beneath::file_type(seen) {
            FileType::RegularFile => EntryKind::File { size: seen.stx_size },
            FileType::Symlink => match readlinkat(directory, name, Vec::new()) {
                Ok(target) => EntryKind::Symlink { target: target.into_bytes() },
                Err(error) => return self.fail_with(error),
            },
            FileType::Fifo => EntryKind::Fifo,
            FileType::Socket => EntryKind::Socket,
            FileType::CharacterDevice => {
                EntryKind::CharDevice { major: seen.stx_rdev_major, minor: seen.stx_rdev_minor }
            }
            FileType::BlockDevice => {
                EntryKind::BlockDevice { major: seen.stx_rdev_major, minor: seen.stx_rdev_minor }
            }
            FileType::Directory | FileType::Unknown => return self.fail_with(Errno::STALE),
        };
        let xattrs = self.xattrs.of_name(directory, name, identity.device);
        let xattrs = self.or_problem(xattrs);
        let content = matches!(kind, EntryKind::File { .. }).then(|| Content {
            cut: Cut::Files,
            reader: Box::new(FileReader {
                root: Arc::clone(&self.root),
                path: path.clone(),
                identity,
                may_hide_access: self.may_hide_access(seen),
                limit: u64::MAX,
                json: self.must_be_json().then(Json::default),
                file: None,
            }),
        });
        self.emit(path, kind, seen, xattrs, content)
    }

    /// A SQLite database with a journal beside it is open, or was when its program died. A copy of the two files is of
    /// two moments, and SQLite may find nothing wrong with what it makes of them.
    fn note_open_database(&mut self, directory: BorrowedFd<'_>, journal: &CStr, seen: &Statx) {
        let name = journal.to_bytes();
        // SQLite leaves an empty rollback journal, or none, where no change is under way.
        let rollback = || name.strip_suffix(b"-journal").filter(|_| seen.stx_size > 0);
        let Some(database) = name.strip_suffix(b"-wal").or_else(rollback) else { return };
        let path = &self.path[..self.path.len() - name.len() + database.len()];
        let place = Path::new("/").join(OsStr::from_bytes(path));
        if is_sqlite(directory, database) && !self.rules.databases.contains(&place) {
            let what = "is a SQLite database that somebody has open; its copy may lack rows, or hold half of a change";
            let note = Problem::new("open-database", shown(path), what);
            let advice = "protect it as a source of its own, of kind sqlite; `hikae protect FILE` adds one";
            self.batch.notes.push(note.advise(advice));
        }
    }

    /// The name under which this very file, or link, pipe or device, was listed before, if it was.
    fn first_name(&mut self, path: &TreePath, seen: &Statx) -> Option<TreePath> {
        if seen.stx_nlink < 2 || sabotage::on("links-are-files") {
            return None;
        }
        let identity = beneath::identity(seen);
        let Some((first, n_to_come)) = self.links.get_mut(&identity) else {
            self.links.insert(identity, (path.clone(), seen.stx_nlink - 1));
            return None;
        };
        *n_to_come -= 1;
        let first = first.clone();
        if *n_to_come == 0 {
            self.links.remove(&identity);
        }
        Some(first)
    }

    /// Whether no include wants what is being looked at.
    fn is_left_out(&self, scope: &Scope, is_directory: bool) -> bool {
        scope.bases.iter().all(|&base| self.excludes(base, is_directory))
    }

    fn excludes(&self, base: usize, is_directory: bool) -> bool {
        if self.rules.exclude.is_empty() {
            return false;
        }
        let below = if base == 0 { &self.path[..] } else { &self.path[base + 1..] };
        self.rules.exclude.matched(Path::new(OsStr::from_bytes(below)), is_directory).is_ignore()
    }

    fn must_be_json(&self) -> bool {
        let path = Path::new(OsStr::from_bytes(&self.path));
        !self.rules.json.is_empty() && self.rules.json.matched(path, false).is_ignore()
    }

    fn may_hide_access(&self, seen: &Statx) -> bool {
        self.user == 0 || self.user == seen.stx_uid
    }

    fn tree_path(&mut self) -> Option<TreePath> {
        TreePath::parse(&self.path)
            .inspect_err(|error| {
                self.batch.problems.push(Problem::new("path-too-long", shown(&self.path), error));
            })
            .ok()
    }

    fn emit(
        &mut self,
        path: TreePath,
        kind: EntryKind,
        seen: &Statx,
        xattrs: Vec<Xattr>,
        content: Option<Content>,
    ) -> Result<(), Stop> {
        let attributes = Attributes {
            mode: u32::from(seen.stx_mode) & 0o7777,
            uid: seen.stx_uid,
            gid: seen.stx_gid,
            modified: beneath::modified(seen),
            changed: beneath::changed(seen),
            inode: seen.stx_ino,
            xattrs,
        };
        self.batch_path_bytes += path.as_bytes().len();
        self.batch.items.push(Item { entry: Entry { path, kind, attributes }, content });
        if self.batch.items.len() >= BATCH_ENTRIES || self.batch_path_bytes >= BATCH_PATH_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Stop> {
        self.batch_path_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        self.batch.items.reserve(BATCH_ENTRIES);
        self.batches.send(Ok(batch)).map_err(|_| Stop::Unwanted)
    }

    /// The attributes, or none and a problem: the entry itself is worth keeping.
    fn or_problem(&mut self, xattrs: Result<Vec<Xattr>, Errno>) -> Vec<Xattr> {
        xattrs.unwrap_or_else(|error| {
            let what = format_args!("its extended attributes cannot be read: {}", io::Error::from(error))
                .to_string();
            self.batch.problems.push(Problem::new("xattrs-unreadable", shown(&self.path), what));
            Vec::new()
        })
    }

    fn fail_with(&mut self, error: Errno) -> Result<(), Stop> {
        self.fail(error);
        Ok(())
    }

    fn fail(&mut self, error: Errno) {
        if sabotage::on("unreadable-forgotten") {
            return;
        }
        let on = shown(&self.path);
        self.batch.problems.push(match error {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => {
                Problem::new("vanished", on, "vanished while its directory was read")
            }
            Errno::ACCESS | Errno::PERM => Problem::new("unreadable", on, io::Error::from(error))
                .advise("run hikae as a user who may read it, or exclude it"),
            other => Problem::new("unreadable", on, io::Error::from(other)),
        });
    }
}

/// The path as a report shows it.
fn shown(path: &[u8]) -> String {
    match TreePath::parse(path) {
        Ok(path) => path.to_string(),
        Err(_) => String::from_utf8_lossy(&path[..path.len().min(200)]).into_owned() + "...",
    }
}

/// Whether a file begins as SQLite databases do (<https://www.sqlite.org/fileformat.html>, 1.3).
fn is_sqlite(directory: BorrowedFd<'_>, name: &[u8]) -> bool {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut header = [0; 16];
    let read = openat(directory, name, flags, Mode::empty()).and_then(|file| pread(&file, &mut header, 0));
    read == Ok(header.len()) && header == *b"SQLite format 3\0"
}

/// File systems without a disk behind them, whose files the kernel makes up as they are read. Backing up `/`
/// does not mean them. Numbers: linux/magic.h.
fn is_made_by_the_kernel(directory: BorrowedFd<'_>) -> bool {
    const MADE_UP: [u32; 14] = [
        0x0000_9fa0, // proc
        0x6265_6572, // sysfs
        0x0027_e0eb, // cgroup
        0x6367_7270, // cgroup2
        0x0000_1cd1, // devpts
        0x6462_6720, // debugfs
        0x7472_6163, // tracefs
        0x7363_6673, // securityfs
        0x6265_6570, // configfs
        0x6165_676c, // pstore
        0xcafe_4a11, // bpf
        0xf97c_ff8c, // selinuxfs
        0xde5e_81e4, // efivarfs
        0x4249_4e4d, // binfmt_misc
    ];
    fstatfs(directory)
        .is_ok_and(|found| u32::try_from(found.f_type).is_ok_and(|kind| MADE_UP.contains(&kind)))
}
