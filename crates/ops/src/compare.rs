//! Comparison of a restored tree with its snapshot, without asking the repository for any content.
//!
//! The tree is listed and read as a source would be. What a file holds is hashed again, range by range, and
//! compared with the names that its bytes got when they were read from the source. So this finds what was
//! lost or changed on the way into the repository, in it, and on the way out.

use crate::OpsError;
use hikae_model::{
    ContentError, Cx, Entry, EntryKind, Problem, ReadContent, SnapshotId, Stretch, TreePath, sabotage,
};
use hikae_repo::Repo;
use hikae_repo::extent::Extent;
use hikae_repo::keys::{BlobClass, MetadataKeys};
use hikae_repo::listing::StoredEntry;
use hikae_repo::reach::{Entries, Named};
use hikae_repo::reader::BlobReader;
use hikae_source::files::{FilesSettings, FilesSource};
use hikae_source::{Item, Reading, Source};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// No comparison lists more differences than this; the count is exact.
const MAX_LISTED: usize = 100;

/// What a comparison found.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// Entries of the snapshot.
    pub expected_entries: u64,
    /// Entries that were found.
    pub found_entries: u64,
    /// Bytes of content that the snapshot has.
    pub expected_bytes: u64,
    /// Bytes of content that were found the same.
    pub same_bytes: u64,
    /// How many entries differ.
    pub n_differences: u64,
    /// The first of them.
    pub differences: Vec<Problem>,
}

/// What of an entry's attributes is compared.
#[derive(Clone, Copy, Debug)]
pub struct Exactness {
    /// Owner and group: only root can restore them.
    pub owners: bool,
    /// Extended attributes: a target may have no place for them.
    pub xattrs: bool,
}

/// Compares `directory` with all of a snapshot.
///
/// # Errors
/// Faults of the repository's metadata, and a directory that cannot be walked.
pub fn compare(
    repo: &Repo,
    snapshot: SnapshotId,
    directory: &Path,
    exactness: Exactness,
    cx: &Cx,
) -> Result<Comparison, OpsError> {
    if sabotage::on("drill-compares-nothing") {
        return Ok(Comparison::default());
    }
    let record = repo.snapshot(snapshot)?.record;
    cx.progress().begin("comparing", &record.source, record.bytes);
    let of_source = OpsError::of_source("drill");
    let root = directory.canonicalize().map_err(|source| {
        of_source(hikae_source::SourceError::Io { verb: "open", path: directory.to_owned(), source })
    })?;
    let settings = FilesSettings { include: vec![root.as_path().into()], ..FilesSettings::default() };
    let source = FilesSource::new(settings).map_err(&of_source)?;
    let found =
        Found { reading: source.begin(repo.hash_key(), cx).map_err(&of_source)?, root: prefix(&root) };
    let named = Named { id: snapshot, record: &record };
    let expected = Entries::of(BlobReader::new(repo)?, named, None)?;
    let mut both =
        Both { keys: repo.keys(), exactness, result: Comparison::default(), buffer: Vec::new(), cx };
    both.walk(expected, found)?;
    Ok(both.result)
}

/// The walk over what was restored, with paths as the snapshot has them.
struct Found {
    reading: Box<dyn Reading>,
    root: Vec<u8>,
}

impl Found {
    fn next(&mut self) -> Result<Option<Item>, OpsError> {
        while let Some(mut item) = self.reading.next().map_err(OpsError::of_source("drill"))? {
            if let Some(path) = self.inside(&item.entry.path) {
                item.entry.path = path;
                if let EntryKind::HardLink { to } = &mut item.entry.kind
                    && let Some(inside) = self.inside(to)
                {
                    *to = inside;
                }
                return Ok(Some(item));
            }
        }
        Ok(None)
    }

    fn inside(&self, path: &TreePath) -> Option<TreePath> {
        TreePath::parse(path.as_bytes().strip_prefix(self.root.as_slice())?).ok()
    }
}

fn prefix(root: &Path) -> Vec<u8> {
    let bytes = root.as_os_str().as_bytes();
    [bytes.strip_prefix(b"/").unwrap_or(bytes), b"/"].concat()
}

struct Both<'a> {
    keys: &'a MetadataKeys,
    exactness: Exactness,
    result: Comparison,
    buffer: Vec<u8>,
    cx: &'a Cx,
}

impl Both<'_> {
    fn walk(&mut self, mut expected: Entries<'_, '_>, mut found: Found) -> Result<(), OpsError> {
        let (mut left, mut right) = (expected.next_entry()?, found.next()?);
        loop {
            self.cx.check()?;
            match (left.take(), right.take()) {
                (None, None) => return Ok(()),
                (Some(stored), Some(item)) if stored.entry.path == item.entry.path => {
                    self.result.expected_entries += 1;
                    self.result.found_entries += 1;
                    self.pair(&stored, item, expected.reader())?;
                    (left, right) = (expected.next_entry()?, found.next()?);
                }
                (Some(stored), item)
                    if item.as_ref().is_none_or(|item| stored.entry.path < item.entry.path) =>
                {
                    self.result.expected_entries += 1;
                    self.result.expected_bytes += stored.entry.size();
                    self.differ(&stored.entry.path, "was not restored");
                    (left, right) = (expected.next_entry()?, item);
                }
                (stored, Some(item)) => {
                    self.result.found_entries += 1;
                    if !sabotage::on("drill-ignores-what-is-too-much") {
                        self.differ(&item.entry.path, "is there and should not be");
                    }
                    (left, right) = (stored, found.next()?);
                }
                // The second arm takes every entry beside nothing.
                (Some(_), None) => return Ok(()),
            }
        }
    }

    fn pair(
        &mut self,
        stored: &StoredEntry,
        item: Item,
        reader: &mut BlobReader<'_>,
    ) -> Result<(), OpsError> {
        self.result.expected_bytes += stored.entry.size();
        self.cx.progress().add_entries(1);
        if let Some(what) = self.attributes(&stored.entry, &item.entry) {
            self.differ(&stored.entry.path, what);
        }
        if let (EntryKind::File { .. }, Some(mut content)) = (&stored.entry.kind, item.content) {
            let maps = reader.extents(&stored.content)?;
            let extents = maps.iter().flat_map(|map| map.extents());
            match self.content(extents, &mut *content.reader) {
                Ok(None) => self.result.same_bytes += stored.entry.size(),
                Ok(Some(what)) => self.differ(&stored.entry.path, what),
                Err(error) => self.differ(&stored.entry.path, &error.to_string()),
            }
        }
        Ok(())
    }

    /// The first attribute that differs, in words.
    fn attributes(&self, expected: &Entry, found: &Entry) -> Option<&'static str> {
        let (a, b) = (&expected.attributes, &found.attributes);
        if sabotage::on("drill-compares-no-attributes") {
            None
        } else if expected.kind != found.kind {
            Some("is of another kind or length")
        } else if matches!(expected.kind, EntryKind::HardLink { .. }) {
            None
        } else if a.mode != b.mode && !matches!(expected.kind, EntryKind::Symlink { .. }) {
            Some("has another mode")
        } else if a.modified != b.modified {
            Some("has another time of modification")
        } else if self.exactness.owners && (a.uid, a.gid) != (b.uid, b.gid) {
            Some("belongs to somebody else")
        } else if self.exactness.xattrs && a.xattrs != b.xattrs {
            Some("has other extended attributes")
        } else {
            None
        }
    }

    /// Reads a content and compares each range with its name. Ranges of files are whole chunks.
    fn content<'e>(
        &mut self,
        extents: impl Iterator<Item = &'e Extent>,
        content: &mut dyn ReadContent,
    ) -> Result<Option<&'static str>, ContentError> {
        let mut file = Ranges { content, hole: 0, ended: false };
        for extent in extents {
            let same = match *extent {
                Extent::Hole { bytes } => file.is_zero(bytes, &mut self.buffer)?,
                Extent::Data { blob, bytes, .. } => {
                    self.buffer.resize(bytes as usize, 0);
                    file.fill(&mut self.buffer)?
                        && self.keys.blob_id(BlobClass::Content, &self.buffer) == blob
                }
            };
            self.cx.progress().add_read(extent.bytes());
            if !same && !sabotage::on("drill-compares-no-content") {
                return Ok(Some("holds something else"));
            }
        }
        match file.fill(&mut [0])? {
            true => Ok(Some("is longer than it should be")),
            false => Ok(None),
        }
    }

    fn differ(&mut self, path: &TreePath, what: &str) {
        self.result.n_differences += 1;
        if self.result.differences.len() < MAX_LISTED {
            self.result.differences.push(Problem::new("differs", path, what));
        }
    }
}

/// A content as ranges of any length.
struct Ranges<'c> {
    content: &'c mut dyn ReadContent,
    hole: u64,
    ended: bool,
}

impl Ranges<'_> {
    /// Fills the whole buffer; false if the content ends before it is full.
    fn fill(&mut self, mut buffer: &mut [u8]) -> Result<bool, ContentError> {
        while !buffer.is_empty() {
            if self.ended {
                return Ok(false);
            }
            let n = if self.hole > 0 {
                let n = buffer.len().min(usize::try_from(self.hole).unwrap_or(usize::MAX));
                buffer[..n].fill(0);
                self.hole -= n as u64;
                n
            } else {
                match self.content.read(buffer)? {
                    Stretch::Data(n) => n,
                    Stretch::Hole(bytes) => {
                        self.hole = bytes;
                        0
                    }
                    Stretch::End => {
                        self.ended = true;
                        0
                    }
                }
            };
            buffer = &mut buffer[n..];
        }
        Ok(true)
    }

    fn is_zero(&mut self, bytes: u64, buffer: &mut Vec<u8>) -> Result<bool, ContentError> {
        let mut left = bytes;
        while left > 0 {
            // A hole that is one here too need not be read.
            let skipped = self.hole.min(left);
            self.hole -= skipped;
            left -= skipped;
            buffer.resize(left.min(1 << 20) as usize, 0);
            if !self.fill(buffer)? || buffer.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            left -= buffer.len() as u64;
        }
        Ok(true)
    }
}
