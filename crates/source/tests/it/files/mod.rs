//! Files, backed up and restored on real file systems.
//!
//! `describe` looks at a tree with the standard library and by path, so that what it says does not come from
//! the code under test.

mod reading;
mod restoring;
mod round_trip;
mod shape;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use hikae_model::{ContentError, Entry, EntryKind, HashKey, Problem, Stretch};
use hikae_source::files::{FilesSettings, FilesSource, Include, PlaceError, Target, TargetReport};
use hikae_source::{Finished, Item, Source};
use hikae_testkit::test_cx;
use rustix::fs::{lgetxattr, llistxattr};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use tempfile::TempDir;

/// The user `nobody`, who owns nothing.
const NOBODY: u32 = 65_534;

/// What one stretch of a file was.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Data(Vec<u8>),
    Hole(u64),
}

/// One entry as a snapshot would keep it.
struct Kept {
    entry: Entry,
    pieces: Option<Result<Vec<Piece>, ContentError>>,
}

/// All that a backup of `settings` reads.
struct Snapshot {
    kept: Vec<Kept>,
    problems: Vec<Problem>,
    notes: Vec<Problem>,
}

impl Snapshot {
    fn paths(&self) -> Vec<String> {
        self.kept.iter().map(|kept| kept.entry.path.to_string()).collect()
    }

    /// The entry at an absolute path.
    #[track_caller]
    fn at(&self, path: &Path) -> &Kept {
        let wanted = path.as_os_str().as_bytes().strip_prefix(b"/").unwrap();
        let found = self.kept.iter().find(|kept| kept.entry.path.as_bytes() == wanted);
        found.unwrap_or_else(|| panic!("{} is not listed", path.display()))
    }
}

fn settings(include: &Path) -> FilesSettings {
    FilesSettings { include: vec![Include::from(include)], ..FilesSettings::default() }
}

fn read_content(item: &mut Item, buffer: &mut [u8]) -> Option<Result<Vec<Piece>, ContentError>> {
    let reader = &mut item.content.as_mut()?.reader;
    let mut pieces = Vec::new();
    loop {
        match reader.read(buffer) {
            Ok(Stretch::Data(n)) => pieces.push(Piece::Data(buffer[..n].to_vec())),
            Ok(Stretch::Hole(n)) => pieces.push(Piece::Hole(n)),
            Ok(Stretch::End) => break,
            Err(error) => return Some(Err(error)),
        }
    }
    Some(reader.finish().map(|()| pieces))
}

/// Reads everything, each file as soon as it is listed.
fn read_all(settings: FilesSettings) -> Snapshot {
    read_all_of(&FilesSource::new(settings).unwrap())
}

fn read_all_of(source: &FilesSource) -> Snapshot {
    let mut reading = source.begin(HashKey([0; 32]), &test_cx()).unwrap();
    let mut buffer = vec![0; 100_000];
    let mut kept = Vec::new();
    while let Some(mut item) = reading.next().unwrap() {
        let pieces = read_content(&mut item, &mut buffer);
        kept.push(Kept { entry: item.entry, pieces });
    }
    let Finished { problems, notes, .. } = reading.finish().unwrap();
    Snapshot { kept, problems, notes }
}

/// Places one entry as `hikae-ops` would.
fn place(target: &Target, kept: &Kept) -> Result<(), PlaceError> {
    match &kept.entry.kind {
        EntryKind::Directory => target.directory(&kept.entry).map(drop),
        EntryKind::File { .. } => {
            let Some(writer) = target.begin_file(&kept.entry)? else { return Ok(()) };
            let mut at = 0;
            for piece in kept.pieces.as_ref().expect("a file has content").as_ref().expect("it was read") {
                match piece {
                    Piece::Data(bytes) => {
                        writer.write_at(at, bytes)?;
                        at += bytes.len() as u64;
                    }
                    Piece::Hole(n) => at += n,
                }
            }
            writer.finish()
        }
        _ => target.special(&kept.entry).map(drop),
    }
}

/// Restores all of a snapshot and answers with the problems of entries besides the report.
fn restore(snapshot: &Snapshot, target: Target) -> (Vec<Problem>, TargetReport) {
    let mut problems = Vec::new();
    for kept in &snapshot.kept {
        match place(&target, kept) {
            Ok(()) => {}
            Err(PlaceError::Entry(problem)) => problems.push(problem),
            Err(PlaceError::Target(error)) => panic!("{error}"),
        }
    }
    (problems, target.finish().unwrap())
}

/// What can be seen of one thing from outside.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    device: u64,
    content: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Whether blocks are missing.
    is_sparse: bool,
    /// The first path with the same inode.
    first_name: PathBuf,
}

/// Everything below `root` by its path from there.
fn describe(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let (mut all, mut first_names, mut ahead) = (BTreeMap::new(), BTreeMap::new(), vec![PathBuf::new()]);
    let mut paths = Vec::new();
    while let Some(path) = ahead.pop() {
        if root.join(&path).symlink_metadata().unwrap().is_dir() {
            ahead.extend(
                fs::read_dir(root.join(&path)).unwrap().map(|found| path.join(found.unwrap().file_name())),
            );
        }
        paths.push(path);
    }
    paths.sort();
    for path in paths {
        let full = root.join(&path);
        let metadata = full.symlink_metadata().unwrap();
        let file_type = metadata.file_type();
        let content = if file_type.is_file() {
            fs::read(&full).unwrap()
        } else if file_type.is_symlink() {
            fs::read_link(&full).unwrap().as_os_str().as_bytes().to_vec()
        } else {
            Vec::new()
        };
        let first_name = first_names.entry(metadata.ino()).or_insert_with(|| path.clone()).clone();
        let seen = Seen {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            device: metadata.rdev(),
            content,
            xattrs: xattrs(&full),
            is_sparse: file_type.is_file() && metadata.blocks() * 512 < metadata.size(),
            first_name,
        };
        all.insert(path, seen);
    }
    all
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0; 65_536];
    let n = llistxattr(path, &mut list[..]).unwrap();
    let names = list[..n].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 65_536];
        let n = lgetxattr(path, name, &mut value[..]).unwrap();
        value[..n].to_vec()
    };
    names.map(|name| (name.to_vec(), value(name))).collect()
}

/// Compares two trees and names the first path that differs.
#[track_caller]
fn check_same(expected: &Path, actual: &Path) {
    let (expected, actual) = (describe(expected), describe(actual));
    for (path, seen) in &expected {
        assert_eq!(actual.get(path), Some(seen), "{}", path.display());
    }
    let extra: Vec<_> = actual.keys().filter(|path| !expected.contains_key(*path)).collect();
    assert!(extra.is_empty(), "only in the restored tree: {extra:?}");
}

/// Runs `work` in a thread that is nobody. Threads that it starts are nobody too.
fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let drop_rights = || {
        let id = rustix::fs::Gid::from_raw(NOBODY);
        set_thread_groups(&[]).unwrap();
        set_thread_res_gid(id, id, id).unwrap();
        let id = rustix::fs::Uid::from_raw(NOBODY);
        set_thread_res_uid(id, id, id).unwrap();
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            drop_rights();
            work()
        });
        thread.join().unwrap()
    })
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A directory with a source to fill and the place of a target.
struct World {
    scratch: TempDir,
}

impl World {
    fn new() -> Self {
        Self::in_scratch(TempDir::new().unwrap())
    }

    /// The same without a disk, for what is done very often: a disk makes every restore wait for it.
    fn in_memory() -> Self {
        Self::in_scratch(TempDir::new_in("/dev/shm").unwrap())
    }

    fn in_scratch(scratch: TempDir) -> Self {
        fs::create_dir(scratch.path().join("source")).unwrap();
        Self { scratch }
    }

    /// What is backed up.
    fn source(&self) -> PathBuf {
        self.scratch.path().join("source")
    }

    /// Where it is restored.
    fn target(&self) -> PathBuf {
        self.scratch.path().join("target")
    }

    /// The source as it is found in the target.
    fn restored(&self) -> PathBuf {
        self.target().join(self.source().strip_prefix("/").unwrap())
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.source().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }
}
