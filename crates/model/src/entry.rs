//! What a snapshot lists: files, directories, links and the other things that a file system holds.
//!
//! An entry says what a thing is and what is written on it. What a file holds is read apart from it
//! (see [`ReadContent`](crate::ReadContent)).

use crate::TreePath;
use crate::sabotage;

/// One thing in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands.
    pub path: TreePath,
    /// What it is.
    pub kind: EntryKind,
    /// What is written on it.
    pub attributes: Attributes,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A file with content of `size` bytes, holes counted.
    File {
        /// Length in bytes.
        size: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link and the bytes in it, never followed.
    Symlink {
        /// Where it points, as written.
        target: Vec<u8>,
    },
    /// A further name of a file that stands earlier in the same snapshot.
    HardLink {
        /// The first name.
        to: TreePath,
    },
    /// A named pipe.
    Fifo,
    /// A unix socket: its name is kept, nobody listens on a restored one.
    Socket,
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// What is written on an entry, as `statx` and `llistxattr` report it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits, set-id and sticky bits: the low 12 bits of `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of content.
    pub modified: FileTime,
    /// Last change of the inode. Never restored; it shows whether a file must be read again.
    pub changed: FileTime,
    /// Inode number, for the same purpose. 0 where the source has none.
    pub inode: u64,
    /// Extended attributes sorted by name. POSIX ACLs are among them.
    pub xattrs: Vec<Xattr>,
}

/// One extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// Name with its namespace, as `user.comment`.
    pub name: Vec<u8>,
    /// Value, any bytes.
    pub value: Vec<u8>,
}

/// A file system's time: seconds since 1970 (negative before) and nanoseconds 0..1,000,000,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileTime {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub seconds: i64,
    /// Nanoseconds after that second.
    pub nanoseconds: u32,
}

impl Entry {
    /// Length in bytes of what a file holds; 0 for everything else.
    pub fn size(&self) -> u64 {
        match self.kind {
            EntryKind::File { size } => size,
            _ => 0,
        }
    }

    /// True if nothing hints that the file behind this entry changed since `earlier` was read: kind, size,
    /// inode and both times are the same. An entry without a change time never looks unchanged.
    pub fn looks_unchanged_since(&self, earlier: &Entry) -> bool {
        let (now, then) = (&self.attributes, &earlier.attributes);
        if sabotage::on("unchanged-by-time-and-size") {
            return self.kind == earlier.kind && now.modified == then.modified;
        }
        self.kind == earlier.kind
            && now.changed != FileTime::default()
            && (now.changed, now.modified, now.inode) == (then.changed, then.modified, then.inode)
    }
}
