//! Trees of files, compared exactly: what a restore is measured with.
//!
//! Obviously right comes before fast: both trees are read whole into memory (contents as hashes) and compared
//! name by name. Nothing of what hikae itself reads files with is used here.

use hikae_model::TreePath;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, SeekFrom, Statx, StatxFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, CString};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Everything below one directory, without the directory itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// The entries, in the order of a walk.
    pub entries: BTreeMap<TreePath, Node>,
}

/// One thing in a [`Tree`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it is and holds.
    pub kind: Kind,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of content: seconds and nanoseconds.
    pub modified: (i64, u32),
    /// Extended attributes, ACLs among them.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first name of the same inode, for one that has several.
    pub first_name: TreePath,
    /// Place taken on the disk.
    pub allocated_bytes: u64,
}

/// What a [`Node`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file. The hash covers where its bytes are not zero and what they are.
    File {
        /// Length.
        bytes: u64,
        /// Hash of what it holds.
        hash: blake3::Hash,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// Where it points.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A unix socket.
    Socket,
    /// A character device, major and minor number.
    CharDevice(u32, u32),
    /// A block device, major and minor number.
    BlockDevice(u32, u32),
}

/// What must be the same, besides names, kinds, contents and hard links, which always must.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exactness {
    /// Permission bits.
    pub modes: bool,
    /// User and group. Only root can restore them.
    pub owners: bool,
    /// Times of change, to the nanosecond.
    pub times: bool,
    /// Extended attributes and ACLs.
    pub xattrs: bool,
    /// Holes: the copy may take a quarter and 64 KiB more place than the original, file by file.
    pub holes: bool,
}

impl Exactness {
    /// Everything.
    pub const ALL: Self = Self { modes: true, owners: true, times: true, xattrs: true, holes: true };

    /// Everything that the current user can restore.
    pub fn of_user() -> Self {
        Self { owners: rustix::process::geteuid().is_root(), ..Self::ALL }
    }
}

/// One way in which two trees differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where.
    pub path: TreePath,
    /// How: `missing`, `extra`, or what was expected and what was found.
    pub what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.what)
    }
}

/// Reads both trees and compares them as far as the current user can restore.
///
/// # Panics
/// If they differ; the message lists how. If one cannot be read.
#[track_caller]
pub fn assert_same(expected: &Path, found: &Path) {
    let [expected, found] = [expected, found]
        .map(|path| Tree::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
    let differences = expected.differences(&found, Exactness::of_user());
    let shown: Vec<String> = differences.iter().take(50).map(Difference::to_string).collect();
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), shown.join("\n"));
}

impl Tree {
    /// Reads everything below `path`. Follows no symbolic link, and goes as deep as there are directories.
    ///
    /// # Errors
    /// Any failure to read any of it.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut tree = Self::default();
        let mut first_names: HashMap<(u32, u32, u64), TreePath> = HashMap::new();
        // One directory is open at a time, and its parent is found again by `..`: no limit on depth.
        let mut directory = rustix::fs::open(path, DIRECTORY, Mode::empty())?;
        let mut under_way = vec![(None::<TreePath>, names(&directory)?.into_iter())];
        while let Some((parent, rest)) = under_way.last_mut() {
            let Some(name) = rest.next() else {
                under_way.pop();
                directory = rustix::fs::openat(&directory, "..", DIRECTORY, Mode::empty())?;
                continue;
            };
            let path = match parent {
                None => TreePath::parse(name.to_bytes()),
                Some(parent) => parent.join(name.to_bytes()),
            };
            let path = path.map_err(io::Error::other)?;
            let node = read_node(&directory, &name, &path, &mut first_names)
                .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
            let is_directory = node.kind == Kind::Directory;
            tree.entries.insert(path.clone(), node);
            if is_directory {
                let flags = DIRECTORY | OFlags::NOFOLLOW;
                directory = rustix::fs::openat(&directory, &name, flags, Mode::empty())?;
                under_way.push((Some(path), names(&directory)?.into_iter()));
            }
        }
        Ok(tree)
    }

    /// How `found` differs from this tree, in the order of a walk. Empty if it does not.
    pub fn differences(&self, found: &Self, exactness: Exactness) -> Vec<Difference> {
        let mut differences = Vec::new();
        for (path, node) in &self.entries {
            match found.entries.get(path) {
                None => differences.push(Difference { path: path.clone(), what: "missing".to_owned() }),
                Some(other) => {
                    let ways = node.differences(other, exactness).into_iter();
                    differences.extend(ways.map(|what| Difference { path: path.clone(), what }));
                }
            }
        }
        let extra = found.entries.keys().filter(|path| !self.entries.contains_key(path));
        differences.extend(extra.map(|path| Difference { path: path.clone(), what: "extra".to_owned() }));
        differences.sort_by(|a, b| a.path.cmp(&b.path));
        differences
    }
}

impl Node {
    fn differences(&self, found: &Self, exactness: Exactness) -> Vec<String> {
        let mut ways = Vec::new();
        let mut expect = |what: &str, is_same: bool, expected: &dyn fmt::Debug, found: &dyn fmt::Debug| {
            if !is_same {
                ways.push(format!("{what} is {found:?}, expected {expected:?}"));
            }
        };
        expect("content", self.kind == found.kind, &self.kind, &found.kind);
        let is_same_inode = self.first_name == found.first_name;
        expect("first hard link", is_same_inode, &self.first_name, &found.first_name);
        if exactness.modes {
            let [a, b] = [self.mode, found.mode].map(|mode| format!("{mode:04o}"));
            expect("mode", a == b, &a, &b);
        }
        if exactness.owners {
            let [a, b] = [self, found].map(|node| (node.uid, node.gid));
            expect("owner", a == b, &a, &b);
        }
        if exactness.times {
            expect("time", self.modified == found.modified, &self.modified, &found.modified);
        }
        if exactness.xattrs {
            let names =
                self.xattrs.keys().chain(found.xattrs.keys().filter(|n| !self.xattrs.contains_key(*n)));
            for name in names {
                let [a, b] = [self, found].map(|node| node.xattrs.get(name));
                expect(&format!("xattr {}", name.escape_ascii()), a == b, &a, &b);
            }
        }
        if exactness.holes && matches!(self.kind, Kind::File { .. }) {
            let allowed = self.allocated_bytes + self.allocated_bytes / 4 + (64 << 10);
            let [a, b] = [allowed, found.allocated_bytes];
            expect("place taken", b <= a, &format!("at most {a}"), &b);
        }
        ways
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

fn names(directory: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    // The first hard link is then the same one in both trees.
    names.sort();
    Ok(names)
}

fn read_node(
    directory: &OwnedFd,
    name: &CStr,
    path: &TreePath,
    first_names: &mut HashMap<(u32, u32, u64), TreePath>,
) -> io::Result<Node> {
    let status = rustix::fs::statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?;
    let inode = (status.stx_dev_major, status.stx_dev_minor, status.stx_ino);
    Ok(Node {
        kind: read_kind(directory, name, &status)?,
        mode: u32::from(status.stx_mode) & 0o7777,
        uid: status.stx_uid,
        gid: status.stx_gid,
        modified: (status.stx_mtime.tv_sec, status.stx_mtime.tv_nsec),
        xattrs: read_xattrs(directory, name)?,
        first_name: first_names.entry(inode).or_insert_with(|| path.clone()).clone(),
        allocated_bytes: status.stx_blocks * 512,
    })
}

fn read_kind(directory: &OwnedFd, name: &CStr, status: &Statx) -> io::Result<Kind> {
    let (major, minor) = (status.stx_rdev_major, status.stx_rdev_minor);
    Ok(match FileType::from_raw_mode(status.stx_mode.into()) {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(directory, name, flags, Mode::empty())?;
            Kind::File { bytes: status.stx_size, hash: hash_of(&file.into(), status.stx_size)? }
        }
        FileType::Directory => Kind::Directory,
        FileType::Symlink => {
            Kind::Symlink { target: rustix::fs::readlinkat(directory, name, Vec::new())?.into_bytes() }
        }
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDevice(major, minor),
        FileType::BlockDevice => Kind::BlockDevice(major, minor),
        FileType::Unknown => return Err(io::Error::other("this is of no known kind")),
    })
}

/// Hashes the blocks that are not all zero, each with its number. So a hole and written zeroes are the same,
/// and a hole of a terabyte costs nothing.
fn hash_of(file: &File, n_bytes: u64) -> io::Result<blake3::Hash> {
    const BLOCK: u64 = 64 << 10;
    let mut hasher = blake3::Hasher::new();
    let mut block = vec![0; BLOCK as usize];
    let mut at = 0;
    while at < n_bytes {
        match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => at = at.max(data / BLOCK * BLOCK),
            Err(Errno::NXIO) => break, // a hole up to the end
            Err(errno) => return Err(errno.into()),
        }
        let part = &mut block[..BLOCK.min(n_bytes - at) as usize];
        file.read_exact_at(part, at)?;
        if part.iter().any(|&byte| byte != 0) {
            hasher.update(&(at / BLOCK).to_le_bytes()).update(part);
        }
        at += BLOCK;
    }
    Ok(hasher.finalize())
}

fn read_xattrs(directory: &OwnedFd, name: &CStr) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    use std::os::fd::AsRawFd;
    // There is no `llistxattrat` before Linux 6.13; this way reaches names of any length at any depth.
    let path = [format!("/proc/self/fd/{}/", directory.as_raw_fd()).as_bytes(), name.to_bytes()].concat();
    let mut list = Vec::with_capacity(64 << 10); // XATTR_LIST_MAX
    match rustix::fs::llistxattr(&*path, rustix::buffer::spare_capacity(&mut list)) {
        Err(Errno::OPNOTSUPP) => return Ok(BTreeMap::new()),
        listed => listed?,
    };
    let mut xattrs = BTreeMap::new();
    for name in list.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let mut value = Vec::with_capacity(64 << 10); // XATTR_SIZE_MAX
        rustix::fs::lgetxattr(&*path, name, rustix::buffer::spare_capacity(&mut value))?;
        value.shrink_to_fit();
        xattrs.insert(name.to_vec(), value);
    }
    Ok(xattrs)
}
