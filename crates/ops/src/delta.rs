//! What of a snapshot stands in a target already, to the page: compared by hashes, without fetching any content.
//!
//! ```text
//! pages of a database   the lists of pieces, which stand beside the super-blocks
//! all else              the names of blobs, which are hashes of what they hold
//! ```
//!
//! Both are keyed and too long to be met by chance or by design, as when a backup takes a page for one that is kept. What
//! cannot be compared so is taken for different. This module reads, and writes nothing.

use crate::OpsError;
use crate::choice::Choice;
use hikae_model::{BlobId, Cx, EntryKind, SnapshotId, TreePath, sabotage};
use hikae_repo::extent::Extent;
use hikae_repo::keys::BlobClass;
use hikae_repo::listing::StoredEntry;
use hikae_repo::pieces::{Piece, parse_pieces, piece_hash};
use hikae_repo::reach::{Entries, Named};
use hikae_repo::reader::BlobReader;
use hikae_repo::{Repo, RepoError};
use hikae_source::files::{PlaceError, Target, Wanted};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A list of pieces is a blob of its own, and neighbours lie in one frame.
const KEPT_FRAMES: usize = 16;

/// How files that stand in a target differ from what is to stand there.
#[derive(Default)]
pub(crate) struct Standing {
    /// By where it lands, what is to be written. Nothing means that it is the same.
    files: HashMap<TreePath, Vec<Range<u64>>>,
    /// What is to be in the target.
    wanted: BTreeMap<TreePath, Wanted>,
}

impl Standing {
    /// Compares what stands in `target` with what was chosen of a snapshot.
    ///
    /// # Errors
    /// Any failure to read metadata of the repository, or the target.
    pub(crate) fn look(
        repo: &Repo,
        snapshot: SnapshotId,
        choice: &Choice,
        target: &Target,
        cx: &Cx,
    ) -> Result<Self, OpsError> {
        let record = repo.snapshot(snapshot)?.record;
        cx.progress().begin("comparing", &record.source, record.bytes);
        let named = Named { id: snapshot, record: &record };
        let mut entries = Entries::of(BlobReader::new(repo)?, named, choice.paths().min())?;
        let (mut stored, mut wanted) = (Vec::new(), BTreeMap::new());
        while let Some(mut entry) = entries.next_entry()? {
            cx.check()?;
            if !choice.wants(&entry.entry.path) {
                continue;
            }
            let Some(landing) = choice.landing(entry.entry.path) else { continue };
            entry.entry.path = landing.clone();
            let is = match entry.entry.kind {
                EntryKind::Directory => Wanted::Directory,
                EntryKind::File { .. } => Wanted::File,
                // What is no file of one name is made anew.
                _ => Wanted::Nothing,
            };
            if is == Wanted::File {
                stored.push(entry);
            }
            wanted.insert(landing, is);
        }
        // The longest first: the last one is then short.
        stored.sort_by_key(|stored| std::cmp::Reverse(stored.entry.size()));
        let next = AtomicUsize::new(0);
        let work = || {
            let mut comparison = Comparison::new(repo, target, cx)?;
            let mut found = Vec::new();
            while let Some(stored) = stored.get(next.fetch_add(1, Ordering::Relaxed)) {
                cx.check()?;
                if let Some(differs) = comparison.compare(stored)? {
                    found.push((stored.entry.path.clone(), differs));
                }
            }
            Ok::<_, OpsError>(found)
        };
        let workers = std::thread::available_parallelism().map_or(2, usize::from);
        let mut files = HashMap::new();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            for worker in workers {
                files.extend(worker.join().map_err(|_| RepoError::Worker)??);
            }
            Ok::<_, OpsError>(())
        })?;
        Ok(Self { files, wanted })
    }

    /// What is to be written of a file that is changed where it stands; nothing of one that is written anew.
    pub(crate) fn differs(&self, path: &TreePath) -> Option<&[Range<u64>]> {
        self.files.get(path).map(Vec::as_slice)
    }

    /// What is to be at a path.
    pub(crate) fn wanted(&self, path: &TreePath) -> Wanted {
        self.wanted.get(path).copied().unwrap_or(Wanted::Nothing)
    }
}

/// Compares files, on one thread.
struct Comparison<'a> {
    repo: &'a Repo,
    target: &'a Target,
    reader: BlobReader<'a>,
    cx: &'a Cx,
    buffer: Vec<u8>,
}

/// Why the comparison of a file ends early.
enum Stop {
    /// It is written anew.
    Anew,
    /// The whole restore fails.
    Failed(OpsError),
}

impl<E: Into<OpsError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl<'a> Comparison<'a> {
    fn new(repo: &'a Repo, target: &'a Target, cx: &'a Cx) -> Result<Self, OpsError> {
        let mut reader = BlobReader::new(repo)?;
        reader.keep_frames(KEPT_FRAMES);
        Ok(Self { repo, target, reader, cx, buffer: Vec::new() })
    }

    /// What is to be written of a file; nothing if none stands there that could be changed, or it is to be written anew.
    fn compare(&mut self, stored: &StoredEntry) -> Result<Option<Vec<Range<u64>>>, OpsError> {
        let file = match self.target.standing_file(&stored.entry) {
            Ok(Some(file)) => file,
            // Where it is to be written, it is told what is wrong.
            Ok(None) | Err(PlaceError::Entry(_)) => return Ok(None),
            Err(PlaceError::Target(error)) => return Err(OpsError::of_source("target")(error)),
        };
        match self.parts(stored, &file) {
            Ok(differs) => Ok(Some(differs)),
            Err(Stop::Anew) => Ok(None),
            // What is damaged is found when it is restored.
            Err(Stop::Failed(error)) if error.is_damage() => Ok(None),
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    fn parts(&mut self, stored: &StoredEntry, file: &File) -> Result<Vec<Range<u64>>, Stop> {
        let mut differs = Vec::new();
        let mut at = 0;
        for map in self.reader.extents(&stored.content)? {
            for extent in map.extents() {
                self.cx.check()?;
                match *extent {
                    Extent::Hole { bytes } => {
                        if !self.is_zero(file, at, bytes)? {
                            return Err(Stop::Anew);
                        }
                    }
                    Extent::Data { blob, offset, bytes } => match map.pieces_of(blob) {
                        Some(list) => {
                            let pieces = self.pieces(list)?;
                            self.pages(file, at, &pieces, (offset, bytes), &mut differs)?;
                        }
                        None => {
                            let keys = self.repo.keys();
                            let read = self.read(file, at, bytes)?;
                            // A part of a blob has no name of its own, and is never met by that of the whole.
                            let is_same =
                                read.is_some_and(|read| keys.blob_id(BlobClass::Content, read) == blob);
                            if !is_same {
                                push(&mut differs, at..at + bytes);
                            }
                        }
                    },
                }
                at += extent.bytes();
                self.cx.progress().add_read(extent.bytes());
            }
        }
        Ok(differs)
    }

    /// The pieces of a super-block, in order.
    fn pieces(&mut self, list: BlobId) -> Result<Vec<Piece>, Stop> {
        let blob = self.reader.read(BlobClass::Metadata, list)?;
        parse_pieces(&blob).map_err(|_| Stop::Anew)
    }

    /// Compares a stretch of a file with the pieces of a super-block of which it is a part.
    fn pages(
        &mut self,
        file: &File,
        at: u64,
        pieces: &[Piece],
        (offset, bytes): (u32, u64),
        differs: &mut Vec<Range<u64>>,
    ) -> Result<(), Stop> {
        let key = self.repo.hash_key();
        let (mut place, start, end) = (0_u64, u64::from(offset), u64::from(offset) + bytes);
        let read = self.read(file, at, bytes)?;
        for piece in pieces {
            let range = place..place + u64::from(piece.bytes);
            place = range.end;
            if range.end <= start || range.start >= end {
                continue;
            }
            if range.start < start || range.end > end {
                return Err(Stop::Anew);
            }
            let within = (range.start - start) as usize..(range.end - start) as usize;
            let is_same = read.is_some_and(|read| piece_hash(key, &read[within]) == piece.hash);
            if !is_same && !sabotage::on("delta-keeps-what-differs") {
                push(differs, at + range.start - start..at + range.end - start);
            }
        }
        // What lies behind all of them is no part of the super-block.
        if place < end { Err(Stop::Anew) } else { Ok(()) }
    }

    /// Reads a stretch of a file; nothing if it ends before.
    fn read(&mut self, file: &File, at: u64, bytes: u64) -> Result<Option<&[u8]>, Stop> {
        let bytes = usize::try_from(bytes).map_err(|_| Stop::Anew)?;
        self.buffer.resize(bytes.max(self.buffer.len()), 0);
        match file.read_exact_at(&mut self.buffer[..bytes], at) {
            Ok(()) => Ok(Some(&self.buffer[..bytes])),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(_) => Err(Stop::Anew),
        }
    }

    /// Whether a stretch of a file holds nothing but zeroes.
    fn is_zero(&mut self, file: &File, at: u64, bytes: u64) -> Result<bool, Stop> {
        const STEP: u64 = 1 << 20;
        let mut done = 0;
        while done < bytes {
            let n = STEP.min(bytes - done);
            match self.read(file, at + done, n)? {
                Some(read) if read.iter().all(|byte| *byte == 0) => done += n,
                _ => return Ok(false),
            }
        }
        Ok(true)
    }
}

/// Appends a part, joined with the last where one follows the other.
fn push(differs: &mut Vec<Range<u64>>, part: Range<u64>) {
    match differs.last_mut() {
        Some(last) if last.end == part.start => last.end = part.end,
        _ => differs.push(part),
    }
}
