//! The directory store: objects as files below one directory.
//!
//! ```text
//! <path>/packs/3f/3f02…    an object, read-only, named by its key
//! <path>/tmp/<32 hex>      an object on its way in, or what a killed run left of one
//! ```
//!
//! - An object gets its name only when all its bytes are on the disk, and nobody else's object ever loses its
//!   name to it. `put` returns when the name is on the disk too.
//! - After a failed fsync nothing is tried again on what it was called for: Linux reports a lost write once,
//!   and the next fsync of the same file says that all is well.
//! - Every path is resolved beneath the directory that is held open, through no symbolic link.
//! - Objects are read with `pread`, never mapped: a bad sector is an error, not a signal.
//!
//! A close is not checked, and need not be: nothing is written after the last fsync, so a close has nothing
//! left to lose, on NFS neither.

mod durability;
mod incoming;
mod modes;
mod walk;

pub use durability::Durability;

use crate::{Object, ObjectKey, Store, StoreError};
use hikae_model::{Problem, Random, sabotage};
use incoming::Incoming;
use rustix::buffer::spare_capacity;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Statx, StatxFlags, Uid};
use rustix::io::{Errno, retry_on_intr};
use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use walk::Found;

/// Where objects stand while they are written. No key below it is ours.
const TMP: &str = "tmp";
const PACKS: &str = "packs";
/// One of this many bulky objects is read back from the disk before it counts as stored.
const READ_BACK_EVERY: u64 = 64;

const PRIVATE_DIRECTORY: Mode = Mode::RWXU;
/// Without `NOFOLLOW`, which would answer `ENOTDIR` for a symbolic link, as if nothing were there. That none is
/// followed is [`open_beneath`]'s work.
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// `NONBLOCK`, so that a FIFO under an object's name cannot hold us up.
const OBJECT: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Objects as files below one directory of a local disk.
pub struct DirectoryStore {
    path: PathBuf,
    root: OwnedFd,
    random: Arc<dyn Random>,
    reserve: Reserve,
    /// Who owns the store, if we are root and they are not: what we make is handed to them.
    owner: Option<(Uid, Gid)>,
    /// Directories whose names are known to be on the disk.
    durable: Mutex<HashSet<String>>,
    /// Set when a directory could not be synced. What is visible in it may not be durable, and no later sync
    /// can be believed, so nothing is promised through this handle again.
    broken: AtomicBool,
    n_packs: AtomicU64,
}

/// Free space that packs must leave to indexes, records and log entries, so that a full disk stops new data
/// and not the end of a run or a prune.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reserve {
    /// 2 % of the disk, at most 1 GiB.
    #[default]
    Usual,
    /// This many bytes.
    Bytes(u64),
}

impl Reserve {
    /// Bytes, of a disk that has so many.
    pub fn bytes_of(self, disk_bytes: u64) -> u64 {
        match self {
            Self::Usual => (disk_bytes / 50).min(1 << 30),
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl DirectoryStore {
    /// Makes a store at `path`, which must be absent, empty, or a store already: then it is opened, so that
    /// an interrupted `create` can simply be called again.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the directory holds something else, and for every failure to make it durably.
    pub fn create(path: &Path, reserve: Reserve, random: Arc<dyn Random>) -> Result<Self, StoreError> {
        let path = absolute(path)?;
        let fail = |error: io::Error| failure("make", "a store", &path, error);
        make_all_durably(&path).map_err(|errno| fail(errno.into()))?;
        let store = Self::open(&path, reserve, random)?;
        if !store.is_empty_or_store().map_err(|errno| fail(errno.into()))? {
            let why = "the directory is not empty and holds no store";
            return Err(fail(io::Error::new(io::ErrorKind::DirectoryNotEmpty, why)));
        }
        store.repair_modes()?;
        for mark in [TMP, PACKS] {
            store.directory_for_writing(mark).map_err(|errno| fail(errno.into()))?;
        }
        Ok(store)
    }

    /// Opens the store at `path`. Writes nothing: whether this is a repository at all is for its reader to
    /// find out, who then calls [`repair_modes`](Self::repair_modes).
    ///
    /// # Errors
    /// [`StoreError::Missing`] if there is no such directory.
    pub fn open(path: &Path, reserve: Reserve, random: Arc<dyn Random>) -> Result<Self, StoreError> {
        let path = absolute(path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = match retry_on_intr(|| rustix::fs::open(&path, flags, Mode::empty())) {
            Ok(root) => root,
            Err(Errno::NOENT | Errno::NOTDIR) => {
                return Err(StoreError::Missing { address: path.display().to_string() });
            }
            Err(errno) => return Err(failure("open", "the store", &path, errno.into())),
        };
        let owner =
            owner_to_serve(&root).map_err(|errno| failure("open", "the store", &path, errno.into()))?;
        Ok(Self {
            path,
            root,
            random,
            reserve,
            owner,
            durable: Mutex::default(),
            broken: AtomicBool::new(false),
            n_packs: AtomicU64::new(0),
        })
    }

    /// Where the store is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes from everybody but the owner the permissions that they have on the store, and says what was
    /// repaired (`wide-mode-repaired`) or could not be (`wide-mode`). To be called once this is known to be a
    /// repository: a mistyped path must not change the modes of somebody's home directory.
    ///
    /// # Errors
    /// Any failure to look.
    pub fn repair_modes(&self) -> Result<Vec<Problem>, StoreError> {
        modes::repair(&self.root, &self.path)
            .map_err(|errno| self.error("check", "permissions", errno.into()))
    }

    /// Whether what `put` calls durable survives a power cut on this kind of file system.
    ///
    /// # Errors
    /// Any failure to ask.
    pub fn durability(&self) -> Result<Durability, StoreError> {
        durability::of(&self.root).map_err(|errno| self.io_error("read", "its file system", errno.into()))
    }

    /// Removes what killed runs left of objects they wrote, if last written to before `before`: the caller
    /// knows that no run as old as that is still at work. Returns how many there were.
    ///
    /// # Errors
    /// Any failure; some may have been removed.
    pub fn reclaim_temporary(&self, before: jiff::Timestamp) -> Result<usize, StoreError> {
        self.reclaim(before).map_err(|errno| self.error("remove", TMP, errno.into()))
    }

    /// Names below the store's directory that no store made: other people's files, symbolic links, sockets.
    /// They are never listed as objects, never read and never removed.
    ///
    /// # Errors
    /// Any failure to read the directories whole.
    pub fn strangers(&self) -> Result<Vec<String>, StoreError> {
        let mut strangers = Vec::new();
        self.walk("", &mut |found| {
            if let Found::Stranger(name) = found {
                strangers.push(name);
            }
        })?;
        Ok(strangers)
    }

    fn reclaim(&self, before: jiff::Timestamp) -> Result<usize, Errno> {
        let directory = match self.open_beneath(TMP, DIRECTORY) {
            Err(Errno::NOENT) => return Ok(0),
            opened => opened?,
        };
        let mut n_removed = 0;
        for name in walk::names(&directory)? {
            let left = match status(&directory, &name) {
                Err(Errno::NOENT) => continue,
                left => left?,
            };
            let is_file = FileType::from_raw_mode(left.stx_mode.into()).is_file();
            if is_file && modified(&left) < before {
                match rustix::fs::unlinkat(&directory, &name, AtFlags::empty()) {
                    Ok(()) => n_removed += 1,
                    Err(Errno::NOENT) => {} // somebody else reclaims too
                    Err(errno) => return Err(errno),
                }
            }
        }
        Ok(n_removed)
    }

    /// Nothing is there but what an interrupted `create` may have left, or all that a finished one leaves.
    fn is_empty_or_store(&self) -> Result<bool, Errno> {
        let names = walk::names(&self.root)?;
        let is = |name: &CString, known: &str| name.as_bytes() == known.as_bytes();
        let nothing_else =
            names.iter().all(|name| is(name, TMP) || is(name, PACKS) || is(name, "lost+found"));
        let all_of_it = [TMP, PACKS].iter().all(|known| names.iter().any(|name| is(name, known)));
        Ok(nothing_else || all_of_it)
    }

    /// Opens a directory to put something into, and makes it if need be. When this returns, its name and all
    /// above it are on the disk, whoever made them: another process may have made one and not synced it yet.
    ///
    /// So the 256 directories of packs come one by one, each for one sync more. All at once, when the store is
    /// made, they would cost more than a small repository has to store.
    fn directory_for_writing(&self, path: &str) -> Result<OwnedFd, Errno> {
        if self.is_known_durable(path) {
            match self.open_beneath(path, DIRECTORY) {
                Err(Errno::NOENT) => {} // removed meanwhile
                opened => return opened,
            }
        }
        let mut directory = self.open_beneath("", DIRECTORY)?;
        let mut walked = String::new();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            walked = if walked.is_empty() { name.to_owned() } else { format!("{walked}/{name}") };
            let is_new = self.make_directory(&directory, name)?;
            let child = open_beneath(&directory, name, DIRECTORY)?;
            if is_new || !self.is_known_durable(&walked) {
                self.sync_directory(&directory)?;
                self.durable.lock().unwrap_or_else(|broken| broken.into_inner()).insert(walked.clone());
            }
            directory = child;
        }
        Ok(directory)
    }

    fn make_directory(&self, parent: &OwnedFd, name: &str) -> Result<bool, Errno> {
        match rustix::fs::mkdirat(parent, name, PRIVATE_DIRECTORY) {
            Ok(()) => {
                if let Some((uid, gid)) = self.owner {
                    rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
                }
                Ok(true)
            }
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    fn is_known_durable(&self, path: &str) -> bool {
        self.durable.lock().unwrap_or_else(|broken| broken.into_inner()).contains(path)
    }

    fn open_beneath(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        open_beneath(&self.root, if path.is_empty() { "." } else { path }, flags)
    }

    /// Opens an object and says how long it is.
    fn open_object(&self, verb: &'static str, key: &ObjectKey) -> Result<(OwnedFd, Statx), StoreError> {
        if place(key).is_none() {
            return Err(StoreError::NotFound { key: key.clone() });
        }
        match open_regular(&self.root, key.as_str()) {
            Err(error) if is_absence(&error) => {
                self.still_there()?;
                Err(StoreError::NotFound { key: key.clone() })
            }
            opened => opened.map_err(|error| self.error(verb, key.as_str(), error)),
        }
    }

    /// A store whose directory was removed has lost its objects, which is not the same as never having had
    /// them.
    fn still_there(&self) -> Result<(), StoreError> {
        let status = rustix::fs::fstat(&self.root)
            .map_err(|errno| self.error("read", "the directory", errno.into()))?;
        if status.st_nlink == 0 { Err(StoreError::Missing { address: self.address() }) } else { Ok(()) }
    }

    fn read(&self, key: &ObjectKey, file: &OwnedFd, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let fail = |error: io::Error| self.error("read", key.as_str(), error);
        let n_bytes = range.end.checked_sub(range.start).and_then(|n| usize::try_from(n).ok());
        let Some(n_bytes) = n_bytes else {
            return Err(fail(io::Error::new(io::ErrorKind::InvalidInput, "there is no such range")));
        };
        let mut bytes: Vec<u8> = Vec::new();
        bytes.try_reserve_exact(n_bytes).map_err(|_| fail(io::ErrorKind::OutOfMemory.into()))?;
        while bytes.len() < n_bytes {
            let at = range.start + bytes.len() as u64;
            let read = retry_on_intr(|| rustix::io::pread(file, spare_capacity(&mut bytes), at));
            if read.map_err(|errno| fail(errno.into()))? == 0 {
                if sabotage::on("short-read-passes") {
                    break;
                }
                return Err(StoreError::Truncated { key: key.clone(), bytes: at, expected: range.end });
            }
        }
        // The allocator may have given more room than was asked for, and `pread` filled it.
        bytes.truncate(n_bytes);
        Ok(bytes)
    }

    /// Refuses a pack that would leave too little room for the objects that must follow it.
    fn check_reserve(&self, key: &ObjectKey, n_bytes: usize) -> Result<(), StoreError> {
        let disk = rustix::fs::fstatvfs(&self.root)
            .map_err(|errno| self.error("write", key.as_str(), errno.into()))?;
        let (free, all) =
            (disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize));
        // A tmpfs without a limit says that it has no blocks at all.
        if all > 0
            && !sabotage::on("no-reserve")
            && free < self.reserve.bytes_of(all).saturating_add(n_bytes as u64)
        {
            return Err(StoreError::NoSpace { key: key.clone(), address: self.address() });
        }
        Ok(())
    }

    fn should_read_back(&self, key: &ObjectKey) -> bool {
        !key.is_bulk() || self.n_packs.fetch_add(1, Ordering::Relaxed).is_multiple_of(READ_BACK_EVERY)
    }

    fn check_not_broken(&self, verb: &'static str, key: &ObjectKey) -> Result<(), StoreError> {
        if self.broken.load(Ordering::Relaxed) {
            let why =
                "a directory could not be synced before, so nothing here can be called durable any more";
            return Err(self.io_error(verb, key.as_str(), io::Error::other(why)));
        }
        Ok(())
    }

    fn sync_directory(&self, directory: &OwnedFd) -> Result<(), Errno> {
        if sabotage::on("no-dir-fsync") {
            return Ok(());
        }
        rustix::fs::fsync(directory).inspect_err(|_| self.broken.store(true, Ordering::Relaxed))
    }

    /// Writes an object beside, whole and durable, and then lets `name_it` give it its name.
    fn bring(
        &self,
        key: &ObjectKey,
        bytes: &[u8],
        name_it: impl FnOnce(Incoming, &OwnedFd, &str) -> Result<(), Errno>,
    ) -> Result<(), StoreError> {
        let before = |error: io::Error| self.error("write", key.as_str(), error);
        let after = |error: io::Error| self.io_error("write", key.as_str(), error);
        let Some((parent, name)) = place(key) else {
            return Err(before(io::Error::new(io::ErrorKind::InvalidInput, "`tmp` is the store's own")));
        };
        self.check_not_broken("write", key)?;
        if key.is_bulk() {
            self.check_reserve(key, bytes.len())?;
        }
        let directory = self.directory_for_writing(parent).map_err(|errno| before(errno.into()))?;
        let tmp = self.directory_for_writing(TMP).map_err(|errno| before(errno.into()))?;
        let mut incoming =
            Incoming::create(tmp, self.owner, &*self.random).map_err(|errno| before(errno.into()))?;
        incoming.write(bytes).map_err(before)?;
        if self.should_read_back(key) {
            incoming.compare_with_disk(bytes).map_err(before)?;
        }
        match name_it(incoming, &directory, name) {
            Ok(()) => self.sync_directory(&directory).map_err(|errno| after(errno.into())),
            Err(Errno::EXIST) => {
                self.sync_existing(&directory, name).map_err(after)?;
                Err(StoreError::Exists { key: key.clone() })
            }
            Err(errno) => Err(before(errno.into())),
        }
    }

    /// What somebody else put under our key is there, but perhaps not on the disk yet.
    fn sync_existing(&self, directory: &OwnedFd, name: &str) -> io::Result<()> {
        let (existing, _) = open_regular(directory, name)?;
        rustix::fs::fsync(&existing)?;
        Ok(self.sync_directory(directory)?)
    }

    /// An error at a point where the operating system's answer says that nothing was done.
    fn error(&self, verb: &'static str, key: &str, error: io::Error) -> StoreError {
        match (error.kind(), ObjectKey::parse(key)) {
            (io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded, Ok(key)) => {
                StoreError::NoSpace { key, address: self.address() }
            }
            _ => failure(verb, key, &self.path, error),
        }
    }

    /// An error after which nobody knows.
    fn io_error(&self, verb: &'static str, key: &str, source: io::Error) -> StoreError {
        StoreError::Io { verb, key: key.to_owned(), address: self.address(), source }
    }
}

impl Store for DirectoryStore {
    fn address(&self) -> String {
        self.path.display().to_string()
    }

    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> Result<(), StoreError> {
        self.bring(key, bytes, Incoming::name_it)
    }

    fn replace(&self, key: &ObjectKey, bytes: &[u8]) -> Result<(), StoreError> {
        self.bring(key, bytes, Incoming::take_the_place)
    }

    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>, StoreError> {
        let (file, status) = self.open_object("read", key)?;
        self.read(key, &file, 0..status.stx_size)
    }

    fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let (file, status) = self.open_object("read", key)?;
        if status.stx_size < range.end && !sabotage::on("short-read-passes") {
            return Err(StoreError::Truncated {
                key: key.clone(),
                bytes: status.stx_size,
                expected: range.end,
            });
        }
        self.read(key, &file, range)
    }

    fn list(&self, prefix: &str, show: &mut dyn FnMut(Object)) -> Result<(), StoreError> {
        self.walk(prefix, &mut |found| {
            if let Found::Object(object) = found {
                show(object);
            }
        })
    }

    fn stat(&self, key: &ObjectKey) -> Result<Object, StoreError> {
        let (_, status) = self.open_object("read", key)?;
        Ok(Object { key: key.clone(), bytes: status.stx_size, stored: modified(&status) })
    }

    fn settle(&self, key: &ObjectKey) -> Result<Object, StoreError> {
        let (_, status) = self.open_object("read", key)?;
        self.check_not_broken("write", key)?;
        if let Some((parent, name)) = place(key).filter(|_| !sabotage::on("settle-without-sync")) {
            let directory = self.directory_for_writing(parent);
            let directory = directory.map_err(|errno| self.io_error("write", key.as_str(), errno.into()))?;
            self.sync_existing(&directory, name)
                .map_err(|error| self.io_error("write", key.as_str(), error))?;
        }
        Ok(Object { key: key.clone(), bytes: status.stx_size, stored: modified(&status) })
    }

    fn remove(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let fail = |errno: Errno| self.error("remove", key.as_str(), errno.into());
        let Some((parent, name)) = place(key) else { return Ok(()) };
        self.check_not_broken("remove", key)?;
        let directory = match self.open_beneath(parent, DIRECTORY) {
            Err(Errno::NOENT | Errno::NOTDIR) => return self.still_there(),
            opened => opened.map_err(fail)?,
        };
        match rustix::fs::unlinkat(&directory, name, AtFlags::empty()) {
            // Who removed it before us may not have synced the directory yet.
            Ok(()) | Err(Errno::NOENT) => self.sync_directory(&directory).map_err(fail),
            Err(errno) => Err(fail(errno)),
        }
    }
}

/// Directory and name of an object. `None` for a key below `tmp`, which is the store's own.
fn place(key: &ObjectKey) -> Option<(&str, &str)> {
    let (parent, name) = key.as_str().rsplit_once('/').unwrap_or(("", key.as_str()));
    if key.as_str() == TMP || key.is_below(TMP) { None } else { Some((parent, name)) }
}

fn open_beneath(directory: &OwnedFd, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    retry_on_intr(|| rustix::fs::openat2(directory, path, flags, Mode::empty(), resolve))
}

/// Opens an object for reading. A FIFO, a device or a directory of its name is none.
fn open_regular(directory: &OwnedFd, path: &str) -> io::Result<(OwnedFd, Statx)> {
    let file = open_beneath(directory, path, OBJECT)?;
    let status = rustix::fs::statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
    if FileType::from_raw_mode(status.stx_mode.into()).is_file() {
        Ok((file, status))
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "this is no regular file"))
    }
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn status(directory: &OwnedFd, name: &CStr) -> Result<Statx, Errno> {
    rustix::fs::statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)
}

/// When an object was stored: nothing changes it after its last write.
fn modified(status: &Statx) -> jiff::Timestamp {
    let nanoseconds = i32::try_from(status.stx_mtime.tv_nsec).unwrap_or(0);
    jiff::Timestamp::new(status.stx_mtime.tv_sec, nanoseconds).unwrap_or(jiff::Timestamp::MIN)
}

fn absolute(path: &Path) -> Result<PathBuf, StoreError> {
    std::path::absolute(path).map_err(|error| failure("open", "the store", path, error))
}

/// Makes a directory and what is missing above it, each name synced in its parent before the next is made.
fn make_all_durably(path: &Path) -> Result<(), Errno> {
    let Some(parent) = path.parent() else { return Ok(()) };
    let is_new = match rustix::fs::mkdir(path, PRIVATE_DIRECTORY) {
        Err(Errno::NOENT) => {
            make_all_durably(parent)?;
            match rustix::fs::mkdir(path, PRIVATE_DIRECTORY) {
                Err(Errno::EXIST) => false,
                made => made.map(|()| true)?,
            }
        }
        Err(Errno::EXIST) => false, // if it is no directory, opening it says so
        made => made.map(|()| true)?,
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(parent, flags, Mode::empty()).and_then(rustix::fs::fsync) {
        // Whoever made it may have been killed before it was synced. Where we may not even open the parent
        // we did not make it, and it was there before there was a store.
        Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) if !is_new => Ok(()),
        synced => synced,
    }
}

fn owner_to_serve(root: &OwnedFd) -> Result<Option<(Uid, Gid)>, Errno> {
    let status = rustix::fs::fstat(root)?;
    let (uid, gid) = (Uid::from_raw(status.st_uid), Gid::from_raw(status.st_gid));
    Ok((rustix::process::geteuid().is_root() && !uid.is_root()).then_some((uid, gid)))
}

fn failure(verb: &'static str, key: &str, path: &Path, source: io::Error) -> StoreError {
    let (key, address) = (key.to_owned(), path.display().to_string());
    match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            StoreError::Permission { verb, key, address, source }
        }
        _ => StoreError::Io { verb, key, address, source },
    }
}
