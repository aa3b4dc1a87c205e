//! A snapshot as a database restore sees it: entries, a manifest, and contents to be read from start to end.

use crate::OpsError;
use crate::with_causes;
use hikae_model::{Advise as _, Entry, ErrorCode, SnapshotId};
use hikae_repo::content::WholeHash;
use hikae_repo::extent::Extent;
use hikae_repo::keys::BlobClass;
use hikae_repo::listing::StoredEntry;
use hikae_repo::reach::{Entries, Named};
use hikae_repo::reader::{Blob, BlobReader};
use hikae_repo::snapshot::SnapshotRecord;
use hikae_repo::{Repo, RepoError};
use hikae_source::{NotReadBack, Stored};
use std::io::{self, Read};

/// Opened frames that a content keeps: a map of pieces goes back and forth between the super-blocks of
/// recent backups.
const KEPT_FRAMES: usize = 40;

/// The files of one snapshot, all entries in memory: for databases, which have few.
pub struct StoredSnapshot<'r> {
    repo: &'r Repo,
    record: SnapshotRecord,
    entries: Vec<Entry>,
    stored: Vec<StoredEntry>,
    manifest: Option<Vec<u8>>,
}

impl<'r> StoredSnapshot<'r> {
    /// Reads the listing and the manifest of a snapshot.
    ///
    /// # Errors
    /// Any failure to read them.
    pub fn open(repo: &'r Repo, snapshot: SnapshotId) -> Result<Self, OpsError> {
        let record = repo.snapshot(snapshot)?.record;
        let mut reader = BlobReader::new(repo)?;
        let manifest = record.manifest.map(|blob| reader.read(BlobClass::Metadata, blob)).transpose()?;
        let manifest = manifest.map(|manifest| manifest.to_vec());
        let mut entries = Entries::of(reader, Named { id: snapshot, record: &record }, None)?;
        let mut stored = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            stored.push(entry);
        }
        drop(entries);
        let entries = stored.iter().map(|stored| stored.entry.clone()).collect();
        Ok(Self { repo, record, entries, stored, manifest })
    }

    /// The record.
    pub fn record(&self) -> &SnapshotRecord {
        &self.record
    }
}

impl Stored for StoredSnapshot<'_> {
    fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn manifest(&self) -> Option<&[u8]> {
        self.manifest.as_deref()
    }

    fn open(&self, entry: &Entry) -> io::Result<Box<dyn Read + Send + '_>> {
        let at = self.stored.binary_search_by(|stored| stored.entry.path.cmp(&entry.path));
        let at = at.map_err(|_| damaged("it is not in the listing"))?;
        Ok(Box::new(ContentReader::open(self.repo, &self.stored[at]).map_err(io_error)?))
    }
}

/// Reads one content from start to end.
pub struct ContentReader<'r> {
    repo: &'r Repo,
    reader: BlobReader<'r>,
    extents: std::vec::IntoIter<Extent>,
    /// The blob that is being read, and the part of it that is left.
    blob: Option<Blob>,
    left: std::ops::Range<usize>,
    hole: u64,
    whole: Option<(WholeHash, [u8; 32])>,
}

impl<'r> ContentReader<'r> {
    /// Prepares to read the content of an entry.
    ///
    /// # Errors
    /// Any failure to read its maps.
    pub fn open(repo: &'r Repo, stored: &StoredEntry) -> Result<Self, RepoError> {
        let mut reader = BlobReader::new(repo)?;
        reader.keep_frames(KEPT_FRAMES);
        let maps = reader.extents(&stored.content)?;
        let extents: Vec<_> = maps.iter().flat_map(|map| map.extents()).copied().collect();
        let whole = stored.hash.map(|hash| (WholeHash::new(repo.hash_key()), hash));
        Ok(Self { repo, reader, extents: extents.into_iter(), blob: None, left: 0..0, hole: 0, whole })
    }

    /// Moves on to the next extent; false at the end.
    fn advance(&mut self) -> io::Result<bool> {
        match self.extents.next() {
            None => Ok(false),
            Some(Extent::Hole { bytes }) => {
                self.hole = bytes;
                Ok(true)
            }
            Some(Extent::Data { blob, offset, bytes }) => {
                let blob = self.reader.read(BlobClass::Content, blob).map_err(io_error)?;
                let end = offset as usize + bytes as usize;
                if end > blob.len() {
                    return Err(damaged("an extent goes beyond its blob"));
                }
                self.left = offset as usize..end;
                self.blob = Some(blob);
                Ok(true)
            }
        }
    }

    fn finish(&mut self) -> io::Result<usize> {
        let whole = self.whole.take().map(|(hasher, expected)| hasher.finish() == expected);
        match whole {
            Some(false) => Err(damaged("the content is not the one that was backed up")),
            Some(true) | None => Ok(0),
        }
    }
}

impl Read for ContentReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while self.left.is_empty() && self.hole == 0 {
            if !self.advance()? {
                return self.finish();
            }
        }
        let n = if self.hole > 0 {
            let n = buffer.len().min(usize::try_from(self.hole).unwrap_or(usize::MAX));
            buffer[..n].fill(0);
            self.hole -= n as u64;
            n
        } else {
            let n = buffer.len().min(self.left.len());
            if let Some(blob) = &self.blob {
                buffer[..n].copy_from_slice(&blob[self.left.start..self.left.start + n]);
            }
            self.left.start += n;
            n
        };
        if let Some((hasher, _)) = &mut self.whole {
            hasher.update(&buffer[..n]);
        }
        self.repo.cx().progress().add_read(n as u64);
        Ok(n)
    }
}

fn io_error(error: RepoError) -> io::Error {
    let error = OpsError::Repo(error);
    NotReadBack { code: error.code(), what: with_causes(&error), advice: error.advice() }.into()
}

fn damaged(what: &str) -> io::Error {
    let advice = "run `hikae verify` on this snapshot, and restore another one";
    NotReadBack { code: ErrorCode::VerificationFailed, what: what.to_owned(), advice: Some(advice.into()) }
        .into()
}
