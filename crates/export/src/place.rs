//! The directory into which exports go: plain files under the names that a template gave.
//!
//! - The directory must be there: a disk that is not mounted must not fill the one below it.
//! - A file is written under a name of ours, synced, and named when all of it is there; nothing that stands there is ever
//!   written over. What a killed run left is removed by the next one that writes into the same folder.
//! - Folders below it are made as needed. No symbolic link is followed in them.
//!
//! One run at a time writes into a directory.

use crate::ExportError;
use hikae_model::{Cx, TreePath, sabotage};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags, ResolveFlags, fchmod, flock,
    fsync, linkat, mkdirat, openat, openat2, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use serde::de::{self, Deserialize, Deserializer};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Permission bits, written as `"0640"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(pub u32);

impl Default for FileMode {
    fn default() -> Self {
        Self(0o600)
    }
}

impl std::fmt::Display for FileMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl<'de> Deserialize<'de> for FileMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode & !0o666 == 0 && mode & 0o600 == 0o600 => Ok(Self(mode)),
            _ => Err(de::Error::custom(format_args!(
                "`{text}` is no mode of a file: write \"0600\", or \"0640\" for its group too"
            ))),
        }
    }
}

/// What the names of unfinished files begin and end with.
const BEGINS: &str = ".hikae-";
const ENDS: &str = ".partial";

/// A directory that exports go into, locked.
pub struct Place {
    root: OwnedFd,
    path: PathBuf,
    mode: FileMode,
}

/// A file or folder that has no name of its own yet. Dropped without one, it is removed.
pub struct Unnamed {
    /// Where it stands.
    folder: OwnedFd,
    temporary: String,
    /// What it will be called.
    name: TreePath,
    what: What,
    is_named: bool,
}

enum What {
    File(File),
    /// Filled by way of its path.
    Folder(PathBuf),
}

impl Place {
    /// Opens and locks the directory.
    pub fn open(path: &Path, mode: FileMode) -> Result<Self, ExportError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, path, flags, Mode::empty())
            .map_err(|errno| ExportError::Directory { path: path.to_owned(), source: errno.into() })?;
        match flock(&root, FlockOperation::NonBlockingLockExclusive) {
            // Some network file systems have no locks.
            Ok(()) | Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOLCK) => {}
            Err(_) => return Err(ExportError::Busy { path: path.to_owned() }),
        }
        Ok(Self { root, path: path.to_owned(), mode })
    }

    /// Where a name leads to, for people.
    pub fn shown(&self, name: &TreePath) -> String {
        format!("{}/{name}", self.path.display())
    }

    /// Where something below it is on this machine.
    pub fn path_of(&self, name: &TreePath) -> PathBuf {
        self.path.join(OsStr::from_bytes(name.as_bytes()))
    }

    fn failed(&self, verb: &'static str, name: &TreePath, source: impl Into<io::Error>) -> ExportError {
        ExportError::Io { verb, name: self.shown(name), source: source.into() }
    }

    /// The folder in which `name` stands, made if need be.
    fn folder_of(&self, name: &TreePath) -> Result<OwnedFd, Errno> {
        let mut folder =
            self.root.try_clone().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        let Some(above) = name.parent() else { return Ok(folder) };
        for name in above.names() {
            folder = match open_folder(&folder, name) {
                Err(Errno::NOENT) => {
                    match mkdirat(&folder, name, folder_mode(self.mode)) {
                        Ok(()) => fsync(&folder)?,
                        Err(Errno::EXIST) => {}
                        Err(errno) => return Err(errno),
                    }
                    let made = open_folder(&folder, name)?;
                    fchmod(&made, folder_mode(self.mode))?;
                    made
                }
                opened => opened?,
            };
        }
        Ok(folder)
    }

    fn begin(&self, name: &TreePath, cx: &Cx) -> Result<(OwnedFd, String), ExportError> {
        let folder = self.folder_of(name).map_err(|errno| self.failed("make the folder of", name, errno))?;
        let temporary = format!("{BEGINS}{:016x}{ENDS}", u64::from_be_bytes(cx.random()));
        Ok((folder, temporary))
    }

    /// A new file that will be called `name`.
    pub fn create(&self, name: &TreePath, cx: &Cx) -> Result<Unnamed, ExportError> {
        let (folder, temporary) = self.begin(name, cx)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&folder, &temporary, flags, Mode::RUSR | Mode::WUSR);
        let file = file.map_err(|errno| self.failed("write", name, errno))?;
        Ok(Unnamed { folder, temporary, name: name.clone(), what: What::File(file.into()), is_named: false })
    }

    /// A folder that will be called `name`; whoever fills it makes it.
    pub fn create_folder(&self, name: &TreePath, cx: &Cx) -> Result<Unnamed, ExportError> {
        let (folder, temporary) = self.begin(name, cx)?;
        let above = name.parent().map_or_else(|| self.path.clone(), |above| self.path_of(&above));
        let what = What::Folder(above.join(&temporary));
        Ok(Unnamed { folder, temporary, name: name.clone(), what, is_named: false })
    }

    /// Gives it its name, durably. What stands there already must be the same, which `is_same` is asked.
    pub fn name(&self, mut unnamed: Unnamed, is_same: &dyn Fn() -> bool) -> Result<(), ExportError> {
        let failed = |error: io::Error| self.failed("write", &unnamed.name, error);
        match &unnamed.what {
            What::File(file) => {
                fchmod(file, Mode::from_raw_mode(self.mode.0)).map_err(|errno| failed(errno.into()))?;
                file.sync_all().map_err(failed)?;
            }
            // What is in it was made durable by who filled it.
            What::Folder(path) => {
                let mode = std::fs::Permissions::from_mode(folder_mode(self.mode).bits());
                std::fs::set_permissions(path, mode).map_err(failed)?;
            }
        }
        let (folder, last) = (&unnamed.folder, unnamed.name.name());
        let flags =
            if sabotage::on("export-replaces") { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        let named = match renameat_with(folder, &unnamed.temporary, folder, last, flags) {
            // File systems without such a rename: a link replaces nothing either.
            Err(Errno::INVAL | Errno::NOSYS) if matches!(unnamed.what, What::File(_)) => {
                linkat(folder, &unnamed.temporary, folder, last, AtFlags::empty())
            }
            renamed => renamed.inspect(|()| unnamed.is_named = true),
        };
        match named {
            Ok(()) => {}
            // A run that was killed between the files and their manifest left it.
            Err(Errno::EXIST) if is_same() => {}
            Err(Errno::EXIST) => {
                return Err(ExportError::Taken { name: self.shown(&unnamed.name) });
            }
            Err(errno) => return Err(self.failed("write", &unnamed.name, errno)),
        }
        fsync(&unnamed.folder).map_err(|errno| self.failed("write", &unnamed.name, errno))
    }

    /// SHA-256 of what stands under a name.
    pub fn sha256_of(&self, name: &TreePath) -> io::Result<[u8; 32]> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat2(&self.root, name.as_bytes(), flags, Mode::empty(), RESOLVE)?;
        crate::sums::sha256_of(&mut File::from(file))
    }

    /// Reads a small file; nothing if it is not there.
    pub fn read(&self, name: &TreePath, most: u64) -> Result<Option<Vec<u8>>, ExportError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat2(&self.root, name.as_bytes(), flags, Mode::empty(), RESOLVE) {
            Err(Errno::NOENT) => return Ok(None),
            opened => File::from(opened.map_err(|errno| self.failed("read", name, errno))?),
        };
        let mut bytes = Vec::new();
        file.take(most).read_to_end(&mut bytes).map_err(|error| self.failed("read", name, error))?;
        Ok(Some(bytes))
    }

    /// Length of the file, or that it is a folder; nothing if neither stands there.
    pub fn stat(&self, name: &TreePath) -> Result<Option<(bool, u64)>, ExportError> {
        let found = self.above(name).and_then(|above| statat(&above, name.name(), AtFlags::SYMLINK_NOFOLLOW));
        match found {
            Ok(stat) => Ok(match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => Some((false, stat.st_size.unsigned_abs())),
                FileType::Directory => Some((true, 0)),
                _ => None,
            }),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.failed("look at", name, errno)),
        }
    }

    fn above(&self, name: &TreePath) -> Result<OwnedFd, Errno> {
        let above = name.parent();
        let above = above.as_ref().map_or(b".".as_slice(), TreePath::as_bytes);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat2(&self.root, above, flags, Mode::empty(), RESOLVE)
    }

    /// Removes a file. One that is not there is a success.
    pub fn remove(&self, name: &TreePath) -> Result<(), ExportError> {
        match self.above(name).and_then(|above| unlinkat(&above, name.name(), AtFlags::empty())) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.failed("remove", name, errno)),
        }
    }

    /// Removes a folder with all that is in it.
    pub fn remove_folder(&self, name: &TreePath) -> Result<(), ExportError> {
        // Moved aside first: half a folder never stands under its name. The standard library follows no link here.
        let above = self.above(name).map_err(|errno| self.failed("remove", name, errno))?;
        let aside = format!("{BEGINS}{:016x}{ENDS}", rustix::process::getpid().as_raw_nonzero().get());
        renameat_with(&above, name.name(), &above, &aside, RenameFlags::NOREPLACE)
            .map_err(|errno| self.failed("remove", name, errno))?;
        let parent = name.parent().map_or_else(|| self.path.clone(), |above| self.path_of(&above));
        std::fs::remove_dir_all(parent.join(aside)).map_err(|error| self.failed("remove", name, error))
    }

    /// Makes durable what was removed in the folder of `name`.
    ///
    /// # Errors
    /// [`ExportError::Io`].
    pub fn settle(&self, name: &TreePath) -> Result<(), ExportError> {
        match self.above(name) {
            // There is nothing left that could come back.
            Err(Errno::NOENT) => Ok(()),
            above => above.and_then(fsync).map_err(|errno| self.failed("remove", name, errno)),
        }
    }

    /// The names of what stands in a folder; nothing for the directory itself. A folder that is not there holds nothing.
    pub fn list(&self, folder: Option<&TreePath>) -> Result<Vec<Vec<u8>>, ExportError> {
        let failed = |errno: Errno| {
            let name = folder.map_or_else(|| self.path.display().to_string(), |folder| self.shown(folder));
            ExportError::Io { verb: "list", name, source: errno.into() }
        };
        let path = folder.map_or(b".".as_slice(), TreePath::as_bytes);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = match openat2(&self.root, path, flags, Mode::empty(), RESOLVE) {
            Err(Errno::NOENT) if folder.is_some() => return Ok(Vec::new()),
            opened => opened.map_err(failed)?,
        };
        let mut names = Vec::new();
        for entry in Dir::new(opened).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Removes what killed runs left in the folder of `name`.
    pub fn sweep(&self, name: &TreePath) -> Result<(), ExportError> {
        let folder = name.parent();
        for left in self.list(folder.as_ref())? {
            if left.starts_with(BEGINS.as_bytes()) && left.ends_with(ENDS.as_bytes()) {
                let path = match &folder {
                    Some(folder) => folder.join(&left),
                    None => TreePath::parse(&left),
                };
                let Ok(path) = path else { continue };
                match self.stat(&path)? {
                    Some((true, _)) => self.remove_folder(&path)?,
                    _ => self.remove(&path)?,
                }
            }
        }
        Ok(())
    }
}

/// What every resolution below the directory refuses.
const RESOLVE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

fn open_folder(folder: &impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(folder, name, flags, Mode::empty())
}

/// Who may read the files may enter the folder.
fn folder_mode(mode: FileMode) -> Mode {
    Mode::from_raw_mode(mode.0 | (mode.0 & 0o444) >> 2)
}

impl Unnamed {
    /// Where the folder is to be made and filled; nothing for a file.
    pub fn folder(&self) -> Option<&Path> {
        match &self.what {
            What::Folder(path) => Some(path),
            What::File(_) => None,
        }
    }
}

impl Write for Unnamed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.what {
            What::File(file) => file.write(bytes),
            What::Folder(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        if self.is_named {
            return;
        }
        // If this fails the next run removes it.
        let _ = match &self.what {
            What::File(_) => {
                unlinkat(&self.folder, &self.temporary, AtFlags::empty()).map_err(io::Error::from)
            }
            What::Folder(path) => std::fs::remove_dir_all(path),
        };
    }
}
