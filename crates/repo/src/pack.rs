//! Packs: one stored object that carries many frames of blobs.
//!
//! ```text
//! sealed frame | sealed frame | … | footer (a sealed object) | footer length, u32 LE | b"PACK0001"
//! ```
//!
//! - A pack is written once and never changed. Its name is BLAKE3 of its stored bytes.
//! - A pack is durable before any index names it; an index, before any log entry does.
//! - The footer lists every frame and blob, with the records of their sessions and epochs, so the index can
//!   be rebuilt from packs alone, and a frame copied into another pack stays readable.
//! - No boundary of a frame stands in clear.
//!
//! This module knows frames and footers. It knows no snapshot, no source, no retention.

use crate::RepoError;
use crate::cbor;
use crate::epoch::{EpochRecord, SessionRecord};
use crate::frame::{Codec, FrameBlob, FrameHead};
use crate::keys::{BlobClass, MetadataKeys, Signer};
use crate::layout;
use crate::object::{BadObject, ObjectClass, open_object, seal_object};
use crate::seal::Algorithm;
use hikae_model::{BlobId, PackId, WriterId};
use hikae_store::Store;
use minicbor::{Decode, Encode};

/// A pack of content is finished once its frames have this many bytes. Two are open and one is on its way, with the
/// names of all their blobs.
pub const TARGET_BYTES: usize = 16 << 20;

/// Or this many blobs, for the memory that their names take beside a million tiny files.
const TARGET_BLOBS: usize = 32 << 10;

/// A pack of metadata, which is read in small parts and changes sooner.
pub const METADATA_TARGET_BYTES: usize = 8 << 20;

/// Room for the frame that fills a pack, and for most footers.
const ROOM_BYTES: usize = 3 << 20;

/// No footer is longer: a whole pack of the smallest blobs, and their frames.
const MAX_FOOTER_BYTES: u64 = 256 << 20;

const TAIL: &[u8; 8] = b"PACK0001";
const TAIL_BYTES: u64 = 12;

/// A frame in a pack: where it is and what opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedFrame {
    /// What opens it.
    pub head: FrameHead,
    /// Where it begins in the pack.
    pub offset: u32,
    /// How long it is there.
    pub stored_bytes: u32,
    /// Its blobs in order.
    pub blobs: Vec<FrameBlob>,
}

impl PackedFrame {
    /// What is wrong with the opened frame, if anything is: its blobs are not what their names say.
    pub(crate) fn misfit(&self, plain: &[u8], keys: &MetadataKeys) -> Option<String> {
        let mut rest = plain;
        for blob in &self.blobs {
            let Some((bytes, after)) = rest.split_at_checked(blob.bytes as usize) else {
                return Some("it is shorter than its blobs".to_owned());
            };
            if keys.blob_id(self.head.class, bytes) != blob.id {
                return Some(format!("blob {} is not what its name says", blob.id.short()));
            }
            rest = after;
        }
        (!rest.is_empty()).then(|| "it is longer than its blobs".to_owned())
    }
}

/// What a footer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footer {
    /// Random bytes that make the pack's name unique.
    pub nonce: [u8; 16],
    /// The sessions of its frames.
    pub sessions: Vec<SessionRecord>,
    /// The epochs of those sessions.
    pub epochs: Vec<EpochRecord>,
    /// The frames in the order in which they stand.
    pub frames: Vec<PackedFrame>,
}

/// A footer as stored. Frames and blobs are packed records, not CBOR, because there are many.
#[derive(Encode, Decode)]
#[cbor(map)]
struct FooterRecord {
    #[n(0)]
    sessions: Vec<SessionRecord>,
    #[n(1)]
    epochs: Vec<EpochRecord>,
    #[cbor(n(2), with = "minicbor::bytes")]
    frames: Vec<u8>,
    #[cbor(n(3), with = "minicbor::bytes")]
    blobs: Vec<u8>,
    #[cbor(n(4), with = "minicbor::bytes")]
    nonce: [u8; 16],
}

/// Length of a stored frame record: see [`put_frame`].
pub(crate) const FRAME_RECORD_BYTES: usize = 44;
const BLOB_RECORD_BYTES: usize = 36;

/// Frames that grow into a pack.
pub struct OpenPack {
    bytes: Vec<u8>,
    frames: Vec<PackedFrame>,
    n_blobs: usize,
    target_bytes: usize,
}

/// A pack ready to be stored.
pub struct FinishedPack {
    /// Its name.
    pub id: PackId,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its frames.
    pub frames: Vec<PackedFrame>,
}

/// An empty pack that takes no memory yet.
impl Default for OpenPack {
    fn default() -> Self {
        Self { bytes: Vec::new(), frames: Vec::new(), n_blobs: 0, target_bytes: TARGET_BYTES }
    }
}

impl OpenPack {
    /// An empty pack of `class` that grows in `memory`.
    pub fn new(class: BlobClass, mut memory: Vec<u8>) -> Self {
        let target_bytes = match class {
            BlobClass::Content => TARGET_BYTES,
            BlobClass::Metadata => METADATA_TARGET_BYTES,
        };
        memory.clear();
        // All at once: a buffer that doubles would end at twice the size of a pack.
        memory.reserve_exact(target_bytes + ROOM_BYTES);
        Self { bytes: memory, frames: Vec::new(), n_blobs: 0, target_bytes }
    }

    /// The same, finished at half the size.
    pub fn of_half_size(mut self) -> Self {
        self.target_bytes /= 2;
        self
    }

    /// Appends a frame.
    pub fn push(&mut self, head: FrameHead, blobs: Vec<FrameBlob>, stored: &[u8]) {
        self.n_blobs += blobs.len();
        self.frames.push(PackedFrame {
            head,
            offset: self.bytes.len() as u32,
            stored_bytes: stored.len() as u32,
            blobs,
        });
        self.bytes.extend_from_slice(stored);
    }

    /// True once it should be finished.
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= self.target_bytes || self.n_blobs >= TARGET_BLOBS
    }

    /// True if it has a frame of another class. No pack holds both, so that contents can go to a colder place.
    pub fn is_of_other_class(&self, class: BlobClass) -> bool {
        self.frames.first().is_some_and(|frame| frame.head.class != class)
    }

    /// True before the first frame.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Writes the footer, with the records of the sessions and epochs that its frames need. `nonce` is
    /// random: no two packs share a name, even with the same frames, so a doomed name never lives again.
    pub fn finish(
        mut self,
        nonce: [u8; 16],
        sessions: Vec<SessionRecord>,
        epochs: Vec<EpochRecord>,
        keys: &MetadataKeys,
        writer: &Signer,
    ) -> FinishedPack {
        let footer = Footer { nonce, sessions, epochs, frames: self.frames };
        let sealed = seal_object(ObjectClass::Footer, b"", footer.to_bytes(), keys, writer);
        self.bytes.reserve_exact(sealed.len() + TAIL_BYTES as usize);
        self.bytes.extend_from_slice(&sealed);
        self.bytes.extend_from_slice(&(sealed.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(TAIL);
        let id = PackId::from_bytes(*blake3::hash(&self.bytes).as_bytes());
        FinishedPack { id, bytes: self.bytes, frames: footer.frames }
    }
}

impl Footer {
    fn to_bytes(&self) -> Vec<u8> {
        let mut frames = Vec::with_capacity(self.frames.len() * FRAME_RECORD_BYTES);
        let mut blobs = Vec::new();
        for frame in &self.frames {
            let session = self.sessions.iter().position(|session| session.id == frame.head.session);
            put_frame(&mut frames, session.map_or(u32::MAX, |at| at as u32), frame);
            for blob in &frame.blobs {
                blobs.extend_from_slice(blob.id.as_bytes());
                blobs.extend_from_slice(&blob.bytes.to_le_bytes());
            }
        }
        let (sessions, epochs) = (self.sessions.clone(), self.epochs.clone());
        cbor::to_bytes(&FooterRecord { sessions, epochs, frames, blobs, nonce: self.nonce })
    }

    fn parse(body: &[u8]) -> Result<Self, BadObject> {
        let record: FooterRecord = cbor::from_bytes(body)?;
        let bad = |what: &str| BadObject::BadBody(what.to_owned());
        let mut blobs = record.blobs.chunks_exact(BLOB_RECORD_BYTES);
        let mut frames = Vec::with_capacity(record.frames.len() / FRAME_RECORD_BYTES);
        for bytes in record.frames.chunks_exact(FRAME_RECORD_BYTES) {
            let (mut frame, n_blobs) =
                take_frame(bytes, &record.sessions).ok_or_else(|| bad("a frame is none"))?;
            for _ in 0..n_blobs {
                let blob = blobs.next().ok_or_else(|| bad("a frame has too few blobs"))?;
                let id = BlobId::from_slice(&blob[..32]).ok_or_else(|| bad("a blob is none"))?;
                frame.blobs.push(FrameBlob { id, bytes: u32_at(blob, 32) });
            }
            frames.push(frame);
        }
        if blobs.next().is_some() || !record.frames.len().is_multiple_of(FRAME_RECORD_BYTES) {
            return Err(bad("it has blobs or bytes left over"));
        }
        Ok(Self { nonce: record.nonce, sessions: record.sessions, epochs: record.epochs, frames })
    }

    /// Reads the footer of a stored pack.
    ///
    /// # Errors
    /// [`RepoError::Damaged`] if the pack has none that opens.
    pub fn read(store: &dyn Store, id: PackId, keys: &MetadataKeys) -> Result<Self, RepoError> {
        let key = layout::pack(id);
        let bytes = store.stat(&key)?.bytes;
        let damaged = RepoError::damaged(key.clone());
        if bytes < TAIL_BYTES {
            return Err(damaged(BadObject::NotOurs));
        }
        let tail = store.get_range(&key, bytes - TAIL_BYTES..bytes)?;
        let footer_bytes = u64::from(u32_at(&tail, 0));
        if &tail[4..] != TAIL || footer_bytes > MAX_FOOTER_BYTES || footer_bytes > bytes - TAIL_BYTES {
            return Err(damaged(BadObject::NotOurs));
        }
        let end = bytes - TAIL_BYTES;
        let sealed = store.get_range(&key, end - footer_bytes..end)?;
        let footer =
            open_object(ObjectClass::Footer, b"", sealed, keys).and_then(|opened| Self::parse(&opened.body));
        footer.map_err(damaged)
    }

    /// Reads the footer out of a whole pack.
    ///
    /// # Errors
    /// [`BadObject`] if there is none that opens.
    pub fn of_pack(pack: &[u8], keys: &MetadataKeys) -> Result<Self, BadObject> {
        Self::signed(pack, keys).map(|(footer, _)| footer)
    }

    /// The same, and who signed it.
    pub(crate) fn signed(pack: &[u8], keys: &MetadataKeys) -> Result<(Self, WriterId), BadObject> {
        let body = pack.strip_suffix(TAIL).ok_or(BadObject::NotOurs)?;
        let (body, length) = body.split_last_chunk::<4>().ok_or(BadObject::NotOurs)?;
        let start = body.len().checked_sub(u32::from_le_bytes(*length) as usize).ok_or(BadObject::NotOurs)?;
        let opened = open_object(ObjectClass::Footer, b"", body[start..].to_vec(), keys)?;
        Ok((Self::parse(&opened.body)?, opened.writer))
    }
}

/// Appends a frame record:
///
/// ```text
/// session u32 | class u8 | codec u8 | algorithm u8 | 0 u8 | number u32 | offset u32 | stored u32 | plain u32 | blobs u32 | salt 16
/// ```
///
/// All numbers little-endian; `session` is a place in the list of sessions beside it.
pub(crate) fn put_frame(out: &mut Vec<u8>, session: u32, frame: &PackedFrame) {
    let head = &frame.head;
    out.extend_from_slice(&session.to_le_bytes());
    out.extend_from_slice(&[head.class as u8, head.codec as u8, head.algorithm as u8, 0]);
    for number in [head.number, frame.offset, frame.stored_bytes, head.plain_bytes, frame.blobs.len() as u32]
    {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&head.salt);
}

/// Reads what [`put_frame`] wrote: the frame without its blobs, and how many there are.
pub(crate) fn take_frame(bytes: &[u8], sessions: &[SessionRecord]) -> Option<(PackedFrame, u32)> {
    let session = sessions.get(u32_at(bytes, 0) as usize)?;
    let head = FrameHead {
        session: session.id,
        class: BlobClass::from_number(bytes[4])?,
        codec: Codec::from_number(bytes[5])?,
        algorithm: Algorithm::from_number(bytes[6])?,
        number: u32_at(bytes, 8),
        plain_bytes: u32_at(bytes, 20),
        salt: bytes[28..44].try_into().ok()?,
    };
    let frame =
        PackedFrame { head, offset: u32_at(bytes, 12), stored_bytes: u32_at(bytes, 16), blobs: Vec::new() };
    Some((frame, u32_at(bytes, 24)))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
