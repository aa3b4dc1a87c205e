//! The object that holds a file of the write-ahead log.
//!
//! ```text
//! length of the head u32 | head (a sealed object) | sealed frame | sealed frame | …
//! ```
//!
//! - The head says which file of which cluster it is, and its seal holds in no other's place.
//! - Frames are content: who only writes cannot open them again.
//! - The head holds the hash of the sealed frames, so bit rot shows without an identity, and the keyed hash of the file,
//!   so the same file is known again by who cannot read it.
//!
//! This module knows the bytes. It does not know who may write them.

use super::WalError;
use crate::RepoError;
use crate::cbor;
use crate::content::WholeHash;
use crate::epoch::{EpochRecord, SessionRecord, misfits};
use crate::frame::{FrameCoder, FrameHead, MAX_PLAIN_BYTES, NewFrame};
use crate::keys::{BlobClass, Secret32};
use crate::object::{BadObject, ObjectClass, open_object, seal_object};
use crate::pack::{FRAME_RECORD_BYTES, PackedFrame, put_frame, take_frame};
use crate::unlocked::Unlocked;
use hikae_model::{SystemId, WalName, WriterId};
use minicbor::{Decode, Encode};
use std::io::{self, Read};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Plain bytes of a frame.
pub(super) const FRAME_BYTES: usize = 4 << 20;
/// No head is longer: 1 GiB has 256 frames of 44 bytes, and an epoch is wrapped to few recipients.
pub(super) const MAX_HEAD_BYTES: usize = 1 << 20;
/// Length of the length of the head.
pub(super) const LENGTH_BYTES: usize = 4;
/// How much of a file is hashed at once: it stays in the cache of a core.
const HASH_BYTES: usize = 256 << 10;
/// More costs time and saves little: the database waits.
const LEVEL: i32 = 1;

/// What stands before the frames of a file of the write-ahead log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalHead {
    /// The cluster that wrote the file.
    pub system: SystemId,
    /// Its name.
    pub name: WalName,
    /// How long it is.
    pub bytes: u64,
    /// Who stored it: signed, and known to the log once [`WalArchive`](super::WalArchive) gives it out.
    pub writer: WriterId,
    /// Keyed hash of the file.
    pub(crate) hash: [u8; 32],
    /// Hash of the sealed frames.
    pub(crate) sealed: [u8; 32],
    pub(crate) session: SessionRecord,
    pub(crate) epoch: EpochRecord,
    /// Where the frames begin in the object.
    pub(super) frames_at: u64,
    pub(crate) frames: Vec<PackedFrame>,
}

/// A head as stored.
#[derive(Encode, Decode)]
#[cbor(map)]
struct HeadRecord {
    #[n(0)]
    name: String,
    #[n(1)]
    system: u64,
    #[n(2)]
    session: SessionRecord,
    #[n(3)]
    epoch: EpochRecord,
    #[cbor(n(4), with = "minicbor::bytes")]
    frames: Vec<u8>,
    #[cbor(n(5), with = "minicbor::bytes")]
    hash: [u8; 32],
    #[n(6)]
    bytes: u64,
    #[cbor(n(7), with = "minicbor::bytes")]
    sealed: [u8; 32],
}

/// So that no head stands in another's place.
fn context(unlocked: &Unlocked, system: SystemId, name: WalName) -> Vec<u8> {
    let repository = unlocked.header.core.repository;
    [repository.as_bytes().as_slice(), &system.0.to_le_bytes(), name.to_string().as_bytes()].concat()
}

impl HeadRecord {
    /// Signs and seals the head, and puts it before its frames.
    fn put_before(
        &self,
        frames: &mut Vec<u8>,
        unlocked: &Unlocked,
        system: SystemId,
        name: WalName,
    ) -> Result<(), RepoError> {
        let context = context(unlocked, system, name);
        let body = cbor::to_bytes(self);
        let head = seal_object(ObjectClass::Wal, &context, body, &unlocked.keys, &unlocked.signer);
        let length = u32::try_from(head.len()).map_err(|_| RepoError::TooLarge { bytes: self.bytes })?;
        // In place: a file of 1 GiB that does not compress is in memory once.
        frames.splice(0..0, length.to_le_bytes().into_iter().chain(head));
        Ok(())
    }
}

impl WalHead {
    /// Opens the head of the object for this file. Whether its writer counts is for the caller to find out.
    pub(super) fn open(
        sealed: Vec<u8>,
        frames_at: u64,
        system: SystemId,
        name: WalName,
        unlocked: &Unlocked,
    ) -> Result<Self, BadObject> {
        let keys = &unlocked.keys;
        let opened = open_object(ObjectClass::Wal, &context(unlocked, system, name), sealed, keys)?;
        let record: HeadRecord = cbor::from_bytes(&opened.body)?;
        let bad = |what: &str| BadObject::BadBody(what.to_owned());
        if record.name != name.to_string() || record.system != system.0 {
            return Err(bad("it is the head of another file"));
        }
        let sessions = [record.session];
        let mut frames = Vec::with_capacity(record.frames.len() / FRAME_RECORD_BYTES);
        let (records, rest) = record.frames.as_chunks::<FRAME_RECORD_BYTES>();
        let (mut offset, mut bytes) = (0_u64, 0_u64);
        for frame in records {
            let (frame, n_blobs) = take_frame(frame, &sessions).ok_or_else(|| bad("a frame is none"))?;
            let FrameHead { class, plain_bytes, .. } = frame.head;
            let is_next = u64::from(frame.offset) == offset && n_blobs == 0;
            if !is_next || class != BlobClass::Content || plain_bytes as usize > MAX_PLAIN_BYTES {
                return Err(bad("its frames do not follow each other"));
            }
            offset += u64::from(frame.stored_bytes);
            bytes += u64::from(plain_bytes);
            frames.push(frame);
        }
        if !rest.is_empty() || bytes != record.bytes {
            return Err(bad("its lengths do not add up"));
        }
        let [session] = sessions;
        let epoch = record.epoch;
        if let Some(what) =
            misfits(std::slice::from_ref(&session), std::slice::from_ref(&epoch), keys.family()).pop()
        {
            return Err(BadObject::BadBody(what));
        }
        if session.writer != epoch.writer || session.epoch != epoch.id {
            return Err(bad("its session is of another epoch"));
        }
        let (hash, sealed) = (record.hash, record.sealed);
        Ok(Self {
            system,
            name,
            bytes,
            writer: opened.writer,
            hash,
            sealed,
            session,
            epoch,
            frames_at,
            frames,
        })
    }

    /// Length of the object.
    pub(super) fn object_bytes(&self) -> u64 {
        self.frames_at + self.frames.iter().map(|frame| u64::from(frame.stored_bytes)).sum::<u64>()
    }

    /// Where its frames stand in the object.
    pub(super) fn frames_range(&self) -> Range<u64> {
        self.frames_at..self.object_bytes()
    }

    /// True if these are its frames.
    pub(super) fn has_frames(&self, frames: &[u8]) -> bool {
        *blake3::hash(frames).as_bytes() == self.sealed
    }

    /// The object of the same file and the same frames in the repository `unlocked`, signed by who opened that.
    pub(super) fn sealed_for(&self, unlocked: &Unlocked, frames: Vec<u8>) -> Result<Vec<u8>, RepoError> {
        let mut records = Vec::with_capacity(self.frames.len() * FRAME_RECORD_BYTES);
        self.frames.iter().for_each(|frame| put_frame(&mut records, 0, frame));
        let record = HeadRecord {
            name: self.name.to_string(),
            system: self.system.0,
            session: self.session.clone(),
            epoch: self.epoch.clone(),
            frames: records,
            hash: self.hash,
            bytes: self.bytes,
            sealed: self.sealed,
        };
        let mut stored = frames;
        record.put_before(&mut stored, unlocked, self.system, self.name)?;
        Ok(stored)
    }

    /// What a file is known again by.
    pub(crate) fn plain(&self) -> PlainHash {
        PlainHash { bytes: self.bytes, hash: self.hash }
    }
}

/// What frames are sealed with.
pub(super) struct OpenSession {
    pub(super) record: SessionRecord,
    pub(super) epoch: EpochRecord,
    pub(super) key: Secret32,
    /// When it began, by a clock that never goes back.
    pub(super) began: Duration,
    pub(super) next_frame: AtomicU32,
}

/// Makes objects of files, one after the other, in the same memory: new memory for each would take the kernel a tenth of
/// the time.
pub(super) struct Sealer {
    coder: FrameCoder,
    plain: Vec<u8>,
    frame: Vec<u8>,
    /// The object that was made last.
    pub(super) stored: Vec<u8>,
}

/// What a file is known again by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlainHash {
    pub(super) bytes: u64,
    pub(super) hash: [u8; 32],
}

impl Sealer {
    /// A sealer for one thread at a time.
    pub(super) fn new(unlocked: &Unlocked) -> Result<Self, RepoError> {
        let coder = FrameCoder::new(unlocked.keys.family())?;
        Ok(Self { coder, plain: Vec::with_capacity(FRAME_BYTES), frame: Vec::new(), stored: Vec::new() })
    }

    /// Reads a file to its end and makes its object.
    pub(super) fn seal(
        &mut self,
        unlocked: &Unlocked,
        session: &OpenSession,
        system: SystemId,
        name: WalName,
        content: &mut dyn Read,
    ) -> Result<PlainHash, WalError> {
        let Self { coder, plain, frame, stored } = self;
        let mut hash = WholeHash::new(unlocked.keys.hash_key());
        let (mut records, mut bytes) = (Vec::new(), 0);
        stored.clear();
        loop {
            plain.clear();
            let n = content.take(FRAME_BYTES as u64).read_to_end(plain).map_err(WalError::Read)?;
            if n == 0 {
                break;
            }
            hash.update(plain);
            bytes += n as u64;
            let how = NewFrame {
                class: BlobClass::Content,
                level: LEVEL,
                session: session.record.id,
                number: session.next_frame.fetch_add(1, Ordering::Relaxed),
            };
            let (head, sealed) = coder.seal_bytes(plain, how, &session.key, std::mem::take(frame))?;
            let offset = u32::try_from(stored.len()).map_err(|_| RepoError::TooLarge { bytes })?;
            let stored_bytes = sealed.len() as u32;
            put_frame(&mut records, 0, &PackedFrame { head, offset, stored_bytes, blobs: Vec::new() });
            stored.extend_from_slice(&sealed);
            *frame = sealed;
        }
        let plain = PlainHash { bytes, hash: hash.finish() };
        let record = HeadRecord {
            name: name.to_string(),
            system: system.0,
            session: session.record.clone(),
            epoch: session.epoch.clone(),
            frames: records,
            hash: plain.hash,
            bytes,
            sealed: *blake3::hash(stored).as_bytes(),
        };
        record.put_before(stored, unlocked, system, name)?;
        Ok(plain)
    }
}

/// Hashes a file to its end.
pub(super) fn hash_file(unlocked: &Unlocked, content: &mut dyn Read) -> io::Result<PlainHash> {
    let mut hash = WholeHash::new(unlocked.keys.hash_key());
    let mut buffer = vec![0; HASH_BYTES];
    let mut bytes = 0;
    loop {
        match content.read(&mut buffer) {
            Ok(0) => return Ok(PlainHash { bytes, hash: hash.finish() }),
            Ok(n) => {
                hash.update(&buffer[..n]);
                bytes += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
