//! What a program does to the files below one directory, call by call and with the data: what
//! [`crash_states`](crate::crash_states) makes crashes of.
//!
//! Files and directories are told apart by their inodes, so a file stays the same under every name it gets.
//! Modes, owners, times and extended attributes are not recorded.
//!
//! Calls are made one after another, each to its end, whichever thread makes them: the trace has the order in
//! which the kernel did it. What the program does to memory that maps a file is not seen.

use crate::stepper::{Call, Ended, Step, Stepper};
use rustix::fs::OFlags;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A file or a directory, whatever it is called, as its place in [`Trace::nodes`]. The first is the root.
pub type NodeId = usize;

/// What stood there before the program began, and is taken to be on the disk. New ones begin empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory with names in it.
    Directory(BTreeMap<OsString, NodeId>),
    /// A file with its content.
    File(Vec<u8>),
    /// A symbolic link with its target.
    Link(PathBuf),
}

/// One change, or one promise that changes are on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A directory gets a name, in place of one that may be there.
    Name {
        /// In which directory.
        directory: NodeId,
        /// Which name.
        name: OsString,
        /// What it stands for.
        node: NodeId,
    },
    /// A directory loses a name.
    Unname {
        /// Which directory.
        directory: NodeId,
        /// Which name.
        name: OsString,
    },
    /// Bytes go to a file.
    Write {
        /// Which file.
        file: NodeId,
        /// Where in it.
        at: u64,
        /// Which bytes.
        bytes: Vec<u8>,
    },
    /// A file is cut or grows by a hole.
    Resize {
        /// Which file.
        file: NodeId,
        /// How long it is then.
        bytes: u64,
    },
    /// All that was written to this file before, or all names that this directory got and lost, are on the disk.
    Sync {
        /// Which file or directory.
        node: NodeId,
    },
    /// Everything is.
    SyncAll,
    /// The program said something to who started it.
    Said,
}

/// All that a program did.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Every file and directory that ever was.
    pub nodes: Vec<Node>,
    /// What happened, in its order.
    pub changes: Vec<Change>,
}

impl Trace {
    /// Runs a program to its end. `root` is the directory that counts; what the program writes to `output` is
    /// what it says.
    ///
    /// # Errors
    /// Those of ptrace and of reading files, and that the program did something that is not understood here.
    pub fn record(mut stepper: Stepper, root: &Path, output: &Path) -> io::Result<(Self, Ended)> {
        let mut recorder = Recorder::new(root, output)?;
        loop {
            let call = match stepper.step()? {
                Step::Before(call) => call,
                Step::Ended(ended) => {
                    return Ok((Self { nodes: recorder.nodes, changes: recorder.changes }, ended));
                }
            };
            let before = Before::of(&call)?;
            let returned = stepper.perform()?;
            if let Ok(returned) = u64::try_from(returned) {
                recorder.record(&call, &before, returned).map_err(|error| {
                    io::Error::new(error.kind(), format!("after {call} = {returned}: {error}"))
                })?;
            }
        }
    }
}

/// What has to be known of a call before it is made.
struct Before {
    /// Where the bytes will go.
    at: u64,
    /// What stands under the path that is to be opened.
    there: Option<Metadata>,
}

impl Before {
    fn of(call: &Call) -> io::Result<Self> {
        let at = match call.name {
            "write" | "writev" => position(call, call.argument(0))?,
            "pwrite64" | "pwritev" => call.argument(3),
            "copy_file_range" if call.argument(3) == 0 => position(call, call.argument(2))?,
            "copy_file_range" => call.word(call.argument(3)),
            _ => 0,
        };
        let there = call.on.first().and_then(|path| path.symlink_metadata().ok());
        Ok(Self { at, there })
    }
}

/// Where an open file stands: its end if it is for appending.
fn position(call: &Call, descriptor: u64) -> io::Result<u64> {
    let text = std::fs::read_to_string(call.proc("fdinfo", descriptor))?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let number = |field: Option<&str>, radix| field.and_then(|text| u64::from_str_radix(text, radix).ok());
    let odd = || io::Error::other("fdinfo cannot be read");
    let flags = number(field("flags:"), 8).ok_or_else(odd)?;
    if flags & u64::from(OFlags::APPEND.bits()) != 0 {
        return Ok(std::fs::metadata(call.proc("fd", descriptor))?.len());
    }
    number(field("pos:"), 10).ok_or_else(odd)
}

type Inode = (u64, u64);

fn inode(metadata: &Metadata) -> Inode {
    (metadata.dev(), metadata.ino())
}

struct Recorder {
    nodes: Vec<Node>,
    changes: Vec<Change>,
    known: HashMap<Inode, NodeId>,
    output: Inode,
    device: u64,
}

impl Recorder {
    fn new(root: &Path, output: &Path) -> io::Result<Self> {
        let output = inode(&output.metadata()?);
        let device = root.metadata()?.dev();
        let mut recorder =
            Self { nodes: Vec::new(), changes: Vec::new(), known: HashMap::new(), output, device };
        recorder.read(root)?;
        Ok(recorder)
    }

    /// Reads what is there.
    fn read(&mut self, path: &Path) -> io::Result<NodeId> {
        let metadata = path.symlink_metadata()?;
        if let Some(node) = self.known.get(&inode(&metadata)) {
            return Ok(*node);
        }
        let id = self.add(&metadata, Node::File(Vec::new()));
        self.nodes[id] = if metadata.is_dir() {
            let mut entries = BTreeMap::new();
            for entry in std::fs::read_dir(path)? {
                let entry = entry?;
                entries.insert(entry.file_name(), self.read(&entry.path())?);
            }
            Node::Directory(entries)
        } else if metadata.is_symlink() {
            Node::Link(std::fs::read_link(path)?)
        } else {
            Node::File(std::fs::read(path)?)
        };
        Ok(id)
    }

    fn add(&mut self, metadata: &Metadata, node: Node) -> NodeId {
        self.nodes.push(node);
        // An inode that was there before is another file's now.
        self.known.insert(inode(metadata), self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    fn record(&mut self, call: &Call, before: &Before, returned: u64) -> io::Result<()> {
        let path = |number: usize| call.on.get(number).map_or(Path::new(""), PathBuf::as_path);
        match call.name {
            "write" | "writev" | "pwrite64" | "pwritev" => {
                self.written(call, call.argument(0), before.at, returned)
            }
            "copy_file_range" => self.written(call, call.argument(2), before.at, returned),
            "fsync" | "fdatasync" => {
                if let Some(node) = self.open_file(call)? {
                    self.changes.push(Change::Sync { node });
                }
                Ok(())
            }
            "sync" => {
                self.changes.push(Change::SyncAll);
                Ok(())
            }
            "syncfs" => {
                if std::fs::metadata(call.proc("fd", call.argument(0)))?.dev() == self.device {
                    self.changes.push(Change::SyncAll);
                }
                Ok(())
            }
            "ftruncate" => match self.open_file(call)? {
                Some(file) => self.resized(file, call.argument(1)),
                None => Ok(()),
            },
            "fallocate" if call.argument(1) == 0 => match self.open_file(call)? {
                Some(file) => {
                    let end = call.argument(2) + call.argument(3);
                    let length = std::fs::metadata(call.proc("fd", call.argument(0)))?.len();
                    if length == end { self.resized(file, end) } else { Ok(()) }
                }
                None => Ok(()),
            },
            "truncate" => match self.known.get(&inode(&path(0).metadata()?)) {
                Some(file) => self.resized(*file, call.argument(1)),
                None => Ok(()),
            },
            "openat" | "openat2" | "creat" => self.opened(path(0), before, call),
            "mkdirat" | "mkdir" => self.named(path(0), Some(Node::Directory(BTreeMap::new()))),
            "symlinkat" | "symlink" => {
                let target = std::fs::read_link(path(0))?;
                self.named(path(0), Some(Node::Link(target)))
            }
            "linkat" | "link" => self.named(path(1), None),
            "renameat2" if call.argument(4) > 1 => Err(io::Error::other("two names change places")),
            "rename" | "renameat" | "renameat2" => {
                self.named(path(1), None)?;
                self.unnamed(path(0))
            }
            "unlinkat" | "unlink" | "rmdir" => self.unnamed(path(0)),
            "fchmod" | "fchmodat" | "chmod" | "fchown" | "fchownat" | "utimensat" | "fsetxattr"
            | "setxattr" | "lsetxattr" => Ok(()),
            _ => Err(io::Error::other("nobody wrote down what this does")),
        }
    }

    /// The node of the open file that is a call's first argument, if it is below the root.
    fn open_file(&self, call: &Call) -> io::Result<Option<NodeId>> {
        let metadata = std::fs::metadata(call.proc("fd", call.argument(0)))?;
        Ok(self.known.get(&inode(&metadata)).copied())
    }

    fn written(&mut self, call: &Call, descriptor: u64, at: u64, n_bytes: u64) -> io::Result<()> {
        let path = call.proc("fd", descriptor);
        let of = inode(&std::fs::metadata(&path)?);
        if of == self.output {
            self.changes.push(Change::Said);
        } else if let Some(file) = self.known.get(&of).copied() {
            let mut bytes = vec![0; usize::try_from(n_bytes).map_err(io::Error::other)?];
            File::open(path)?.read_exact_at(&mut bytes, at)?;
            self.changes.push(Change::Write { file, at, bytes });
        }
        Ok(())
    }

    fn resized(&mut self, file: NodeId, bytes: u64) -> io::Result<()> {
        self.changes.push(Change::Resize { file, bytes });
        Ok(())
    }

    fn opened(&mut self, path: &Path, before: &Before, call: &Call) -> io::Result<()> {
        let Some(there) = &before.there else { return self.named(path, Some(Node::File(Vec::new()))) };
        let flags = match call.name {
            "openat2" => call.word(call.argument(2)),
            "openat" => call.argument(2),
            _ => OFlags::TRUNC.bits().into(),
        };
        let was_cut = flags & u64::from(OFlags::TRUNC.bits()) != 0;
        match self.known.get(&inode(there)) {
            Some(file) if was_cut && there.is_file() => self.resized(*file, 0),
            Some(_) if there.is_symlink() => Err(io::Error::other("it was opened through a link")),
            _ => Ok(()),
        }
    }

    /// A path that is there now; of a new node, or of one that is known.
    fn named(&mut self, path: &Path, new: Option<Node>) -> io::Result<()> {
        let Some((directory, name)) = self.place(path)? else { return Ok(()) };
        let metadata = path.symlink_metadata()?;
        let node = match new {
            Some(node) => self.add(&metadata, node),
            None => *self
                .known
                .get(&inode(&metadata))
                .ok_or_else(|| io::Error::other("it comes from where nobody looked"))?,
        };
        self.changes.push(Change::Name { directory, name, node });
        Ok(())
    }

    fn unnamed(&mut self, path: &Path) -> io::Result<()> {
        if let Some((directory, name)) = self.place(path)? {
            self.changes.push(Change::Unname { directory, name });
        }
        Ok(())
    }

    /// The directory of a path and the name in it, if it is below the root.
    fn place(&self, path: &Path) -> io::Result<Option<(NodeId, OsString)>> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::other("its path cannot be read"));
        };
        let directory = self.known.get(&inode(&parent.metadata()?));
        Ok(directory.map(|directory| (*directory, name.to_owned())))
    }
}
