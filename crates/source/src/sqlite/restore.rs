//! Puts a database back: beside what was there, compared with its manifest, and only then under its name.
//!
//! What stood there keeps its `-wal` and goes aside with it, whole. Whenever a power cut comes, the name
//! shows the old database with its own log, nothing, or the new one: never a file with another one's log.

use super::compare::check_restored;
use super::copy::with_suffix;
use super::failure::{locked, refused};
use super::manifest::Manifest;
use crate::check::Check;
use crate::{SourceError, Stored};
use hikae_model::{Attributes, Cx, Entry, EntryKind, ErrorCode, HashKey, Problem, sabotage};
use rustix::fs::{CWD, FileType, FlockOperation, Gid, Mode, OFlags, RenameFlags, Uid};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// How a database is put back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoreOptions {
    /// Whether a database that stands there may be moved aside.
    pub replace: bool,
}

/// What a restore did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteRestored {
    /// Where the database stands now.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// What was compared with the manifest before it got its name. All of them passed.
    pub checks: Vec<Check>,
    /// Where the database went that stood there.
    pub kept_aside: Option<PathBuf>,
    /// What could not be put back of its attributes.
    pub problems: Vec<Problem>,
}

/// What SQLite keeps beside a database.
const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Sees where [`restore`] would put the database of a snapshot, and makes nothing.
///
/// # Errors
/// What it would refuse: something is there and may not be replaced, or somebody has it open.
pub fn look(stored: &dyn Stored, target: &Path, options: RestoreOptions) -> Result<PathBuf, SourceError> {
    let entry = the_database(stored)?;
    the_manifest(stored)?;
    let place = Place::find(target, entry)?;
    if !options.replace {
        place.require_free()?;
    }
    match fs::metadata(&place.path).ok().and_then(|metadata| who_has_open(&metadata)) {
        Some(process) => Err(in_use(&place.path, process)),
        None => Ok(place.path),
    }
}

/// Puts the database of a snapshot back: into `target` if that is a directory, else under that name.
///
/// # Errors
/// [`SourceError`], and then whatever stood there still stands there: something is there and
/// [`replace`](RestoreOptions::replace) is not set, somebody has it open, what came back is not what the
/// manifest says, or the operating system refused.
pub fn restore(
    stored: &dyn Stored,
    target: &Path,
    key: HashKey,
    options: RestoreOptions,
    cx: &Cx,
) -> Result<SqliteRestored, SourceError> {
    let entry = the_database(stored)?;
    let manifest = the_manifest(stored)?;
    let place = Place::find(target, entry)?;
    if !options.replace && !sabotage::on("sqlite-replaced-unasked") {
        place.require_free()?;
    }
    place.make_directory()?;
    let old = place.lock_old()?;
    let temporary = Temporary::create(&place, cx)?;
    let bytes = temporary.fill(stored, entry, cx)?;
    let checks = check_restored(&temporary.path, &manifest, key, cx)?;
    let red: Vec<_> = checks.iter().filter(|check| !check.passed).map(Check::to_string).collect();
    if !red.is_empty() && !sabotage::on("red-gets-the-name") {
        return Err(SourceError::Failed {
            code: ErrorCode::VerificationFailed,
            what: format!("what was restored is not what was backed up: {}", red.join("; ")),
            advice: Some("run `hikae verify` on this snapshot, and restore another one".into()),
        });
    }
    cx.check()?;
    // Only now, because a file may have a mode under which we cannot read it.
    let attributes = old.as_ref().map_or(&entry.attributes, |old| &old.attributes);
    let problems = temporary.set_attributes(attributes, &place)?.into_iter().collect();
    let kept_aside = place.move_aside(cx)?;
    temporary.take_name(&place)?;
    drop(old); // its lock kept everybody out until now
    Ok(SqliteRestored { path: place.path, bytes, checks, kept_aside, problems })
}

fn the_database(stored: &dyn Stored) -> Result<&Entry, SourceError> {
    match stored.entries() {
        [entry] if matches!(entry.kind, EntryKind::File { .. }) => Ok(entry),
        _ => Err(not_ours("it does not hold exactly one file".into())),
    }
}

fn the_manifest(stored: &dyn Stored) -> Result<Manifest, SourceError> {
    let json = stored.manifest().ok_or_else(|| not_ours("it has no manifest".into()))?;
    Manifest::parse(json).map_err(|bad| not_ours(bad.to_string()))
}

fn not_ours(why: String) -> SourceError {
    SourceError::Failed {
        code: ErrorCode::VerificationFailed,
        what: format!("this snapshot cannot be restored as a SQLite database: {why}"),
        advice: Some("restore it as files, and look at what comes back".into()),
    }
}

/// The name that the database will have, and the directory that holds it.
struct Place {
    path: PathBuf,
    directory: PathBuf,
}

impl Place {
    fn find(target: &Path, entry: &Entry) -> Result<Self, SourceError> {
        let target = std::path::absolute(target).map_err(|error| refused("find", target, error))?;
        // A name that ends in `/` means a directory, whether it is there or not.
        let names_directory = target.as_os_str().as_bytes().ends_with(b"/");
        let path = match fs::metadata(&target) {
            Ok(metadata) if metadata.is_dir() => target.join(OsStr::from_bytes(entry.path.name())),
            Err(error) if error.kind() == io::ErrorKind::NotFound && names_directory => {
                target.join(OsStr::from_bytes(entry.path.name()))
            }
            _ => target,
        };
        // A link stays, and what it names is replaced: SQLite's log stands beside that.
        let path = match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_symlink() => {
                fs::canonicalize(&path).map_err(|error| refused("follow", &path, error))?
            }
            _ => path,
        };
        let directory = path.parent().map(Path::to_owned).unwrap_or_default();
        let neither = |path: &Path| SourceError::Setting {
            setting: "target".into(),
            why: format!("{} is neither a file nor a directory to restore into", path.display()),
        };
        match fs::metadata(&path) {
            Ok(metadata) if !metadata.is_file() => Err(neither(&path)),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Err(neither(&path)),
            _ => Ok(Self { path, directory }),
        }
    }

    /// Makes the directory that the database goes into, and those above it.
    fn make_directory(&self) -> Result<(), SourceError> {
        fs::create_dir_all(&self.directory).map_err(|error| refused("make", &self.directory, error))
    }

    /// Refuses if there is a database, or what is left of one: SQLite would play its log into ours.
    fn require_free(&self) -> Result<(), SourceError> {
        for suffix in [""].iter().chain(&COMPANIONS) {
            let path = with_suffix(&self.path, suffix);
            if fs::symlink_metadata(&path).is_ok() {
                return Err(SourceError::Failed {
                    code: ErrorCode::Forbidden,
                    what: format!("{} is there already", path.display()),
                    advice: Some(
                        "name another --target, or replace it with --overwrite always: it is then kept aside"
                            .into(),
                    ),
                });
            }
        }
        Ok(())
    }

    /// Locks the database that stands there, if one does, so that nobody can begin to use it.
    fn lock_old(&self) -> Result<Option<Old>, SourceError> {
        let metadata = match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            metadata => metadata.map_err(|error| refused("read", &self.path, error))?,
        };
        // Asked before we open it: closing our descriptor would drop the locks of a connection that this
        // very process has, which is not a lock that we would run into.
        if let Some(process) = who_has_open(&metadata).filter(|_| !sabotage::on("open-database-replaced")) {
            return Err(in_use(&self.path, process));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.path)
            .map_err(|error| refused("lock", &self.path, error))?;
        match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::AGAIN | Errno::ACCESS) => return Err(locked(&self.path)),
            Err(error) => return Err(refused("lock", &self.path, error.into())),
        }
        let attributes = Attributes {
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            ..Attributes::default()
        };
        Ok(Some(Old { _locked: file, attributes }))
    }

    /// Moves the old database aside, first the file and then its log, so that the log is never without it.
    fn move_aside(&self, cx: &Cx) -> Result<Option<PathBuf>, SourceError> {
        let time = cx.now().strftime("%Y%m%dT%H%M%SZ");
        let aside = with_suffix(&self.path, &format!(".before-restore-{time}"));
        let mut moved = None;
        let companions = if sabotage::on("old-wal-stays") { &[][..] } else { &COMPANIONS };
        for suffix in [""].iter().chain(companions) {
            let (from, to) = (with_suffix(&self.path, suffix), with_suffix(&aside, suffix));
            match rename_new(&from, &to) {
                Ok(()) => moved = Some(aside.clone()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(refused("move aside", &from, error)),
            }
        }
        self.sync()?;
        Ok(moved)
    }

    fn sync(&self) -> Result<(), SourceError> {
        let synced = File::open(&self.directory).and_then(|directory| directory.sync_all());
        synced.map_err(|error| refused("sync", &self.directory, error))
    }
}

/// The database that stood there, locked.
struct Old {
    _locked: File,
    attributes: Attributes,
}

fn in_use(path: &Path, process: u32) -> SourceError {
    SourceError::Failed {
        code: ErrorCode::Busy,
        what: format!("{} is open in process {process}", path.display()),
        advice: Some("stop the program that uses it, or restore into another directory".into()),
    }
}

/// A process that has this file open. A connection that is idle holds no lock on a database with a rollback
/// journal, so the lock alone does not show it. We see the processes that we may look into: those of our
/// user, or all if we are root.
fn who_has_open(file: &fs::Metadata) -> Option<u32> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.find(|id| {
        let descriptors = fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten().flatten();
        descriptors.into_iter().any(|descriptor| {
            fs::metadata(descriptor.path())
                .is_ok_and(|open| (open.dev(), open.ino()) == (file.dev(), file.ino()))
        })
    })
}

/// The new database while it has no name of its own. Removed when dropped, unless it got one.
struct Temporary {
    path: PathBuf,
    file: File,
}

impl Temporary {
    fn create(place: &Place, cx: &Cx) -> Result<Self, SourceError> {
        sweep(&place.directory);
        loop {
            let name = format!("{PREFIX}{:016x}", u64::from_le_bytes(cx.random::<8>()));
            let path = place.directory.join(name);
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
            let file = file.map_err(|error| refused("create", &path, error))?;
            // A file system that knows no such locks (some NFS) is never swept either.
            let _ = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
            // Another restore may sweep it away before we have locked it. Then we make another.
            if file.metadata().is_ok_and(|metadata| metadata.nlink() > 0) {
                return Ok(Self { path, file });
            }
        }
    }

    fn fill(&self, stored: &dyn Stored, entry: &Entry, cx: &Cx) -> Result<u64, SourceError> {
        let unreadable = |error: io::Error| SourceError::not_read_back(&entry.path, &error);
        let mut content = stored.open(entry).map_err(unreadable)?;
        let (mut buffer, mut bytes) = (vec![0; 1 << 20], 0);
        loop {
            cx.check()?;
            let n = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(unreadable(error)),
            };
            (&self.file).write_all(&buffer[..n]).map_err(|error| refused("write", &self.path, error))?;
            bytes += n as u64;
        }
        Ok(bytes)
    }

    /// Gives it mode and owner, and makes it durable. An owner that it cannot be given is a problem, not a
    /// failure.
    fn set_attributes(&self, wanted: &Attributes, place: &Place) -> Result<Option<Problem>, SourceError> {
        let mut problem = None;
        let metadata = self.file.metadata().map_err(|error| refused("read", &self.path, error))?;
        if (metadata.uid(), metadata.gid()) != (wanted.uid, wanted.gid) {
            let owner = (Some(Uid::from_raw(wanted.uid)), Some(Gid::from_raw(wanted.gid)));
            if let Err(error) = rustix::fs::fchown(&self.file, owner.0, owner.1) {
                let what = format!("cannot be given to {}:{}: {error}", wanted.uid, wanted.gid);
                problem = Some(
                    Problem::new("owner", place.path.display(), what)
                        .advise("run the restore as root, or give the file to its user with `chown`"),
                );
            }
        }
        // After the owner, whose change takes set-id bits away.
        let mode = Permissions::from_mode(wanted.mode);
        self.file.set_permissions(mode).map_err(|error| refused("set the mode of", &self.path, error))?;
        self.file.sync_all().map_err(|error| refused("sync", &self.path, error))?;
        Ok(problem)
    }

    fn take_name(self, place: &Place) -> Result<(), SourceError> {
        rename_new(&self.path, &place.path).map_err(|error| refused("create", &place.path, error))?;
        place.sync()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path); // not there any more if it got its name
    }
}

/// How our temporary files are called; 16 hex digits follow.
const PREFIX: &str = ".hikae-restore-";

/// Removes what restores of our user that were killed left in a directory: files that carry our name and that nobody
/// has locked. What cannot be looked at or removed stays.
fn sweep(directory: &Path) {
    let Ok(names) = fs::read_dir(directory) else { return };
    for entry in names.flatten() {
        let name = entry.file_name();
        let digits = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).unwrap_or_default();
        if digits.len() != 16 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::open(entry.path(), flags, Mode::empty()) else { continue };
        let is_ours = rustix::fs::fstat(&file).is_ok_and(|found| {
            FileType::from_raw_mode(found.st_mode) == FileType::RegularFile
                && found.st_uid == rustix::process::geteuid().as_raw()
        });
        if is_ours && rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Renames to a name that nobody has.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some file systems (NFS, exFAT) cannot do that in one call.
        Err(Errno::INVAL | Errno::NOSYS) => match fs::symlink_metadata(to) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => fs::rename(from, to),
        },
        done => Ok(done?),
    }
}
