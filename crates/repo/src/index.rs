//! Index objects: which pack holds which blob.
//!
//! ```text
//! head length u32 | head (CBOR: sessions, epochs, nonce) | packs u32 | frames u32 | blobs u32
//!   | pack:  id 32 | stored bytes u64
//!   | frame: pack u32 | frame record (see `pack`)
//!   | blob:  id 32 | frame u32 | offset in the frame u32 | bytes u32          sorted by id
//! ```
//!
//! - An index object is stored after the packs that it names, and counts once a log entry names it.
//! - On each machine its body is kept in a cache file, checked whole when it is opened, and then looked up
//!   in place with pread. In memory stay a Bloom filter and every sixty-fourth key: 1.25 bytes a blob.
//!
//! This module knows where blobs are. It does not know which packs are doomed.

use crate::RepoError;
use crate::cbor;
use crate::epoch::{EpochRecord, SessionRecord};
use crate::object::BadObject;
use crate::pack::{FRAME_RECORD_BYTES, PackedFrame, put_frame, take_frame, u32_at};
use hikae_model::{BlobId, EpochId, HashKey, IndexId, PackId, SessionId};
use minicbor::{Decode, Encode};
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// An index object is written once it would have this many blobs.
pub const TARGET_BLOBS: usize = 64 << 10;

/// No more sessions go into one index object or pack, give or take one pack's: the records should not outweigh
/// what they are for.
pub(crate) const MAX_SESSIONS: usize = 4096;

const PACK_BYTES: usize = 40;
const FRAME_BYTES: usize = 4 + FRAME_RECORD_BYTES;
const BLOB_BYTES: usize = 44;
const FENCE: usize = 64;

/// Where a blob is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// In which pack.
    pub pack: PackId,
    /// In which of its frames. The list of blobs is empty.
    pub frame: PackedFrame,
    /// Where it begins in the opened frame.
    pub offset: u32,
    /// How long it is.
    pub bytes: u32,
}

/// A pack as an index names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IndexedPack {
    /// Its name.
    pub id: PackId,
    /// Length of the stored object.
    pub bytes: u64,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Head {
    #[n(0)]
    sessions: Vec<SessionRecord>,
    #[n(1)]
    epochs: Vec<EpochRecord>,
    /// Random, so that an index object never gets the name of an earlier one: prune may have doomed that.
    #[cbor(n(2), with = "minicbor::bytes", default)]
    nonce: [u8; 16],
}

/// Packs that wait to be written as an index object.
#[derive(Default)]
pub struct IndexBuilder {
    sessions: BTreeMap<SessionId, SessionRecord>,
    epochs: BTreeMap<EpochId, EpochRecord>,
    packs: Vec<(IndexedPack, Vec<PackedFrame>)>,
    n_blobs: usize,
}

impl IndexBuilder {
    /// Adds a pack that is durable. Of `sessions` and `epochs` it takes those that its frames need.
    pub fn add(
        &mut self,
        pack: IndexedPack,
        frames: Vec<PackedFrame>,
        sessions: &[SessionRecord],
        epochs: &[EpochRecord],
    ) {
        let needed: HashSet<_> = frames.iter().map(|frame| frame.head.session).collect();
        for session in sessions.iter().filter(|session| needed.contains(&session.id)) {
            let epoch = epochs.iter().find(|epoch| epoch.id == session.epoch);
            self.epochs.extend(epoch.map(|epoch| (epoch.id, epoch.clone())));
            self.sessions.entry(session.id).or_insert_with(|| session.clone());
        }
        self.n_blobs += frames.iter().map(|frame| frame.blobs.len()).sum::<usize>();
        self.packs.push((pack, frames));
    }

    /// True once it should be written.
    pub fn is_full(&self) -> bool {
        self.n_blobs >= TARGET_BLOBS || self.sessions.len() >= MAX_SESSIONS
    }

    /// True while there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.packs.is_empty()
    }

    /// Names of the blobs in it.
    pub fn blob_ids(&self) -> impl Iterator<Item = BlobId> {
        self.packs.iter().flat_map(|(_, frames)| frames).flat_map(|frame| &frame.blobs).map(|blob| blob.id)
    }

    /// The body of the index object. `nonce` is random.
    pub fn to_bytes(&self, nonce: [u8; 16]) -> Vec<u8> {
        let sessions: Vec<_> = self.sessions.values().cloned().collect();
        let head = cbor::to_bytes(&Head { sessions, epochs: self.epochs.values().cloned().collect(), nonce });
        let n_frames: usize = self.packs.iter().map(|(_, frames)| frames.len()).sum();
        let mut body = Vec::with_capacity(
            16 + head.len()
                + self.packs.len() * PACK_BYTES
                + n_frames * FRAME_BYTES
                + self.n_blobs * BLOB_BYTES,
        );
        body.extend_from_slice(&(head.len() as u32).to_le_bytes());
        body.extend_from_slice(&head);
        for count in [self.packs.len(), n_frames, self.n_blobs] {
            body.extend_from_slice(&(count as u32).to_le_bytes());
        }
        for (pack, _) in &self.packs {
            body.extend_from_slice(pack.id.as_bytes());
            body.extend_from_slice(&pack.bytes.to_le_bytes());
        }
        let place: BTreeMap<_, _> =
            self.sessions.keys().enumerate().map(|(at, id)| (*id, at as u32)).collect();
        let mut blobs = Vec::with_capacity(self.n_blobs);
        let mut frame_number = 0_u32;
        for (pack_number, (_, frames)) in self.packs.iter().enumerate() {
            for frame in frames {
                body.extend_from_slice(&(pack_number as u32).to_le_bytes());
                put_frame(&mut body, place.get(&frame.head.session).copied().unwrap_or(u32::MAX), frame);
                let mut offset = 0;
                for blob in &frame.blobs {
                    blobs.push((blob.id, frame_number, offset, blob.bytes));
                    offset += blob.bytes;
                }
                frame_number += 1;
            }
        }
        blobs.sort_unstable();
        for (id, frame, offset, bytes) in blobs {
            body.extend_from_slice(id.as_bytes());
            for number in [frame, offset, bytes] {
                body.extend_from_slice(&number.to_le_bytes());
            }
        }
        body
    }
}

/// An index object that can be looked up.
pub struct Segment {
    /// Name of the object.
    pub id: IndexId,
    file: File,
    path: PathBuf,
    sessions: Vec<SessionRecord>,
    epochs: Vec<EpochRecord>,
    packs: Vec<IndexedPack>,
    n_frames: usize,
    n_blobs: usize,
    frames_at: u64,
    blobs_at: u64,
    /// How every 64th name begins: four bytes are enough among so few, and there is one list for each index object.
    fences: Vec<u32>,
    filter: Filter,
}

/// Why a cache file cannot be used.
#[derive(Debug)]
pub enum BadSegment {
    /// It is not there, cut short or changed: fetch the object again.
    Stale,
    /// The object itself is not an index.
    Object(BadObject),
    /// The operating system failed.
    Io(RepoError),
}

impl Segment {
    /// Keeps the body of an index object in `directory` and opens it.
    ///
    /// # Errors
    /// [`RepoError::Cache`] if the file cannot be written, [`RepoError::Worker`] never.
    pub fn create(id: IndexId, body: &[u8], directory: &Path, key: HashKey) -> Result<Self, BadSegment> {
        let path = directory.join(id.to_string());
        let temporary = directory.join(format!("{id}.{}.tmp", std::process::id()));
        let failed = |source| BadSegment::Io(RepoError::Cache { path: temporary.clone(), source });
        let write = || -> io::Result<()> {
            let mut file =
                File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(body)?;
            file.write_all(check_sum(body, key).as_bytes())
        };
        write().map_err(failed)?;
        std::fs::rename(&temporary, &path).map_err(failed)?;
        match Self::open(id, directory, key) {
            Err(BadSegment::Stale) => Err(BadSegment::Io(RepoError::Cache {
                path,
                source: io::Error::other("what was written does not come back"),
            })),
            other => other,
        }
    }

    /// Opens the cache file of an index object, and checks all of it.
    ///
    /// # Errors
    /// [`BadSegment::Stale`] if it has to be fetched again.
    pub fn open(id: IndexId, directory: &Path, key: HashKey) -> Result<Self, BadSegment> {
        let path = directory.join(id.to_string());
        let mut body = Vec::new();
        let read = File::open(&path).and_then(|mut file| file.read_to_end(&mut body).map(|_| file));
        let file = match read {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(BadSegment::Stale),
            Err(source) => return Err(BadSegment::Io(RepoError::Cache { path, source })),
        };
        let (body, sum) = body.split_last_chunk::<32>().ok_or(BadSegment::Stale)?;
        if check_sum(body, key) != *sum {
            return Err(BadSegment::Stale);
        }
        Self::over(id, body, file, path).map_err(BadSegment::Object)
    }

    fn over(id: IndexId, body: &[u8], file: File, path: PathBuf) -> Result<Self, BadObject> {
        let bad = |what: &str| BadObject::BadBody(what.to_owned());
        let parts = Parts::split(body)?;
        let head: Head = cbor::from_bytes(parts.head)?;
        let packs = parts
            .packs
            .chunks_exact(PACK_BYTES)
            .map(|bytes| {
                let id = PackId::from_slice(&bytes[..32])?;
                Some(IndexedPack { id, bytes: u64::from_le_bytes(bytes[32..].try_into().ok()?) })
            })
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| bad("a pack is none"))?;
        let n_frames = parts.frames.len() / FRAME_BYTES;
        let is_frame = |bytes: &[u8]| {
            (u32_at(bytes, 0) as usize) < packs.len() && take_frame(&bytes[4..], &head.sessions).is_some()
        };
        if !parts.frames.chunks_exact(FRAME_BYTES).all(is_frame) {
            return Err(bad("a frame is none"));
        }
        let n_blobs = parts.blobs.len() / BLOB_BYTES;
        let mut filter = Filter::for_blobs(n_blobs);
        let mut fences = Vec::with_capacity(n_blobs / FENCE + 1);
        let mut last: &[u8] = &[];
        for (at, blob) in parts.blobs.chunks_exact(BLOB_BYTES).enumerate() {
            if &blob[..32] < last {
                return Err(bad("its blobs are not sorted"));
            }
            if u32_at(blob, 32) as usize >= n_frames {
                return Err(bad("a blob is in no frame"));
            }
            last = &blob[..32];
            filter.add(last);
            if at % FENCE == 0 {
                fences.push(prefix(last));
            }
        }
        Ok(Self {
            id,
            file,
            path,
            sessions: head.sessions,
            epochs: head.epochs,
            packs,
            n_frames,
            n_blobs,
            frames_at: parts.frames_at,
            blobs_at: parts.frames_at + parts.frames.len() as u64,
            fences,
            filter,
        })
    }

    /// The packs that it names.
    pub fn packs(&self) -> &[IndexedPack] {
        &self.packs
    }

    /// How many blobs it names.
    pub fn n_blobs(&self) -> usize {
        self.n_blobs
    }

    /// The sessions of its frames.
    pub fn sessions(&self) -> &[SessionRecord] {
        &self.sessions
    }

    /// The epochs of those sessions.
    pub fn epochs(&self) -> &[EpochRecord] {
        &self.epochs
    }

    /// Shows every place at which this index has the blob; `show` says whether to go on.
    ///
    /// # Errors
    /// [`RepoError::Cache`] if the cache file cannot be read.
    pub fn find(&self, id: BlobId, show: &mut dyn FnMut(Location) -> bool) -> Result<(), RepoError> {
        let name = id.as_bytes().as_slice();
        if self.n_blobs == 0 || !self.filter.may_have(name) {
            return Ok(());
        }
        // Equal prefixes may straddle a fence, so begin one before the first fence that is not below.
        let first = self.fences.partition_point(|fence| *fence < prefix(name)).saturating_sub(1) * FENCE;
        let mut at = first;
        let mut buffer = [0; FENCE * BLOB_BYTES];
        while at < self.n_blobs {
            let n = FENCE.min(self.n_blobs - at);
            let records = &mut buffer[..n * BLOB_BYTES];
            self.read(records, self.blobs_at + (at * BLOB_BYTES) as u64)?;
            for record in records.chunks_exact(BLOB_BYTES) {
                match record[..32].cmp(name) {
                    std::cmp::Ordering::Less => {}
                    std::cmp::Ordering::Equal => {
                        if !show(self.location(record)?) {
                            return Ok(());
                        }
                    }
                    std::cmp::Ordering::Greater => return Ok(()),
                }
            }
            at += n;
        }
        Ok(())
    }

    fn location(&self, record: &[u8]) -> Result<Location, RepoError> {
        let (pack, frame) = self.frame(u32_at(record, 32) as usize)?;
        Ok(Location { pack: pack.id, frame, offset: u32_at(record, 36), bytes: u32_at(record, 40) })
    }

    fn frame(&self, number: usize) -> Result<(IndexedPack, PackedFrame), RepoError> {
        let mut bytes = [0; FRAME_BYTES];
        self.read(&mut bytes, self.frames_at + (number * FRAME_BYTES) as u64)?;
        let pack = self.packs.get(u32_at(&bytes, 0) as usize).copied();
        let frame = take_frame(&bytes[4..], &self.sessions).map(|(frame, _)| frame);
        pack.zip(frame).ok_or_else(|| self.failed(io::Error::other("a frame in it is none")))
    }

    /// Shows every blob in the frames that `is_wanted` picks, by session and number.
    ///
    /// # Errors
    /// [`RepoError::Cache`] if the cache file cannot be read.
    pub(crate) fn blobs_in(
        &self,
        is_wanted: &dyn Fn(SessionId, u32) -> bool,
        show: &mut dyn FnMut(BlobId),
    ) -> Result<(), RepoError> {
        let mut wanted = HashSet::new();
        for number in 0..self.n_frames {
            let (_, frame) = self.frame(number)?;
            if is_wanted(frame.head.session, frame.head.number) {
                wanted.insert(number);
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let mut buffer = [0; FENCE * BLOB_BYTES];
        for at in (0..self.n_blobs).step_by(FENCE) {
            let records = &mut buffer[..FENCE.min(self.n_blobs - at) * BLOB_BYTES];
            self.read(records, self.blobs_at + (at * BLOB_BYTES) as u64)?;
            let in_wanted = |record: &&[u8]| wanted.contains(&(u32_at(record, 32) as usize));
            let found = records.chunks_exact(BLOB_BYTES).filter(in_wanted);
            found.filter_map(|record| BlobId::from_slice(&record[..32])).for_each(&mut *show);
        }
        Ok(())
    }

    /// Shows every pack with its frames and their blobs, in the order in which they were indexed. Holds the
    /// whole index in memory while it does.
    ///
    /// # Errors
    /// [`RepoError::Cache`] if the cache file cannot be read.
    pub fn each_pack(
        &self,
        show: &mut dyn FnMut(IndexedPack, Vec<PackedFrame>) -> Result<(), RepoError>,
    ) -> Result<(), RepoError> {
        let mut blobs = vec![0; self.n_blobs * BLOB_BYTES];
        self.read(&mut blobs, self.blobs_at)?;
        let mut by_place: Vec<(u32, u32, BlobId, u32)> = blobs
            .chunks_exact(BLOB_BYTES)
            .filter_map(|b| {
                Some((u32_at(b, 32), u32_at(b, 36), BlobId::from_slice(&b[..32])?, u32_at(b, 40)))
            })
            .collect();
        drop(blobs);
        by_place.sort_unstable();
        let mut by_place = by_place.into_iter().peekable();
        let mut packs: Vec<Vec<PackedFrame>> = vec![Vec::new(); self.packs.len()];
        for number in 0..self.n_frames {
            let mut bytes = [0; FRAME_BYTES];
            self.read(&mut bytes, self.frames_at + (number * FRAME_BYTES) as u64)?;
            let (_, mut frame) = self.frame(number)?;
            while let Some((_, _, id, bytes)) = by_place.next_if(|blob| blob.0 as usize == number) {
                frame.blobs.push(crate::frame::FrameBlob { id, bytes });
            }
            if let Some(pack) = packs.get_mut(u32_at(&bytes, 0) as usize) {
                pack.push(frame);
            }
        }
        self.packs.iter().zip(packs).try_for_each(|(pack, frames)| show(*pack, frames))
    }

    fn read(&self, buffer: &mut [u8], at: u64) -> Result<(), RepoError> {
        self.file.read_exact_at(buffer, at).map_err(|error| self.failed(error))
    }

    fn failed(&self, source: io::Error) -> RepoError {
        RepoError::Cache { path: self.path.clone(), source }
    }
}

/// The body of an index object, cut into its parts.
struct Parts<'b> {
    head: &'b [u8],
    packs: &'b [u8],
    frames: &'b [u8],
    blobs: &'b [u8],
    frames_at: u64,
}

impl<'b> Parts<'b> {
    fn split(body: &'b [u8]) -> Result<Self, BadObject> {
        Self::try_split(body).ok_or_else(|| BadObject::BadBody("its parts do not add up".to_owned()))
    }

    fn try_split(body: &'b [u8]) -> Option<Self> {
        let (length, rest) = body.split_first_chunk::<4>()?;
        let (head, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let (counts, rest) = rest.split_first_chunk::<12>()?;
        let bytes = |at: usize, each: usize| (u32_at(counts, at) as usize).checked_mul(each);
        let (packs, rest) = rest.split_at_checked(bytes(0, PACK_BYTES)?)?;
        let (frames, blobs) = rest.split_at_checked(bytes(4, FRAME_BYTES)?)?;
        let frames_at = (body.len() - frames.len() - blobs.len()) as u64;
        (blobs.len() == bytes(8, BLOB_BYTES)?).then_some(Self { head, packs, frames, blobs, frames_at })
    }
}

fn check_sum(body: &[u8], key: HashKey) -> blake3::Hash {
    blake3::Hasher::new_keyed(&key.0).update(b"index cache").update(body).finalize()
}

fn prefix(name: &[u8]) -> u32 {
    name.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// A Bloom filter of nine bits and six probes a blob: about one false answer in sixty. Names of blobs are
/// keyed hashes, so their own bytes serve as the probes.
struct Filter {
    bits: Vec<u64>,
}

impl Filter {
    const PROBES: u64 = 6;

    fn for_blobs(n: usize) -> Self {
        Self { bits: vec![0; (n * 9).div_ceil(64).max(1)] }
    }

    fn probes(&self, name: &[u8]) -> impl Iterator<Item = (usize, u64)> {
        let n_bits = self.bits.len() as u64 * 64;
        let word = |at: usize| name[at..].first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let (start, step) = (word(8), word(16) | 1);
        (0..Self::PROBES).map(move |n| {
            let bit = start.wrapping_add(n.wrapping_mul(step)) % n_bits;
            ((bit / 64) as usize, 1 << (bit % 64))
        })
    }

    fn add(&mut self, name: &[u8]) {
        for (word, bit) in self.probes(name).collect::<Vec<_>>() {
            self.bits[word] |= bit;
        }
    }

    fn may_have(&self, name: &[u8]) -> bool {
        self.probes(name).all(|(word, bit)| self.bits[word] & bit != 0)
    }
}
