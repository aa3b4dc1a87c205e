//! Frames: blobs compressed and sealed together, up to about 1 MiB.
//!
//! A blob is the unit of identity, a frame the unit of compression and sealing. The associated data of a
//! frame is family id, format version, class, session id and frame number, and nothing of the pack: so a
//! frame moves whole from pack to pack, without an identity.
//!
//! This module knows how a frame is made and opened. It knows no pack and no index.

use crate::RepoError;
use crate::keys::{BlobClass, MetadataKeys, Secret32};
use crate::object::FORMAT_VERSION;
use crate::seal::{self, Algorithm, Salt};
use hikae_model::{BlobId, FamilyId, SessionId, sabotage};
use zstd::zstd_safe::CParameter;

/// A frame is closed once it holds this many plain bytes.
pub const TARGET_BYTES: usize = 1 << 20;

/// No blob is longer, and no frame, plain. Chunks have a few MiB; the directory of a snapshot of a hundred
/// million files comes close.
pub const MAX_PLAIN_BYTES: usize = 64 << 20;

/// How a frame is compressed. The number is stored beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// As it is: a sample showed that it does not compress.
    Plain = 0,
    /// Zstandard (RFC 8878), one frame with the content size declared.
    Zstd = 1,
}

impl Codec {
    /// The codec with this number, if there is one.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Plain),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// One blob in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameBlob {
    /// Its name.
    pub id: BlobId,
    /// Its length in bytes.
    pub bytes: u32,
}

/// What it takes to open a frame, but its bytes and its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// The session that made it.
    pub session: SessionId,
    /// Its number in that session.
    pub number: u32,
    /// What its blobs are.
    pub class: BlobClass,
    /// How it is compressed.
    pub codec: Codec,
    /// How it is sealed.
    pub algorithm: Algorithm,
    /// Salt of the seal.
    pub salt: Salt,
    /// Length of its blobs together.
    pub plain_bytes: u32,
}

/// Blobs that wait to become a frame.
#[derive(Debug)]
pub struct OpenFrame {
    /// What they are.
    pub class: BlobClass,
    /// Zstandard level.
    pub level: i32,
    /// The blobs, one after the other.
    pub plain: Vec<u8>,
    /// Their names and lengths, in that order.
    pub blobs: Vec<FrameBlob>,
}

/// What a frame is made as.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewFrame {
    /// What its bytes are.
    pub(crate) class: BlobClass,
    /// Zstandard level.
    pub(crate) level: i32,
    /// The session that makes it.
    pub(crate) session: SessionId,
    /// Its number there.
    pub(crate) number: u32,
}

/// Makes and opens frames; keeps the compressor's memory between them.
pub struct FrameCoder {
    family: FamilyId,
    compressor: zstd::bulk::Compressor<'static>,
    level: i32,
    sampler: zstd::bulk::Compressor<'static>,
    decompressor: zstd::bulk::Decompressor<'static>,
    /// Memory of the last check after sealing: the stored bytes, and what they opened to.
    check: (Vec<u8>, Vec<u8>),
}

impl FrameCoder {
    /// A coder for one thread.
    ///
    /// # Errors
    /// [`RepoError::Worker`] if there is no memory for the compressor.
    pub fn new(family: FamilyId) -> Result<Self, RepoError> {
        let level = 3;
        let no_memory = |_| RepoError::Worker;
        let mut compressor = zstd::bulk::Compressor::new(level).map_err(no_memory)?;
        // Tables that fit into the cache of a core: a fifth less time for a hundredth more bytes on frames of
        // 1 MiB, measured on source trees and binaries.
        for parameter in [CParameter::HashLog(15), CParameter::ChainLog(15)] {
            compressor.set_parameter(parameter).map_err(no_memory)?;
        }
        Ok(Self {
            family,
            compressor,
            level,
            sampler: zstd::bulk::Compressor::new(1).map_err(no_memory)?,
            decompressor: zstd::bulk::Decompressor::new().map_err(no_memory)?,
            check: (Vec::new(), Vec::new()),
        })
    }

    /// Compresses and seals `frame` into `stored`, then opens the result again and compares every blob: a
    /// fault of memory, CPU or compressor must not reach the store (rule B-6). Gives `frame.plain` back
    /// through the frame, for its memory.
    ///
    /// # Errors
    /// [`RepoError::NotTheSame`] if what comes back is not what went in.
    pub fn seal(
        &mut self,
        frame: &OpenFrame,
        session: SessionId,
        number: u32,
        key: &Secret32,
        keys: &MetadataKeys,
        stored: Vec<u8>,
    ) -> Result<(FrameHead, Vec<u8>), RepoError> {
        let class = frame.class;
        let how = NewFrame { class, level: frame.level, session, number };
        self.seal_plain(&frame.plain, how, key, stored, |plain| {
            let mut at = 0;
            frame.blobs.iter().all(|blob| {
                let start = at;
                at += blob.bytes as usize;
                plain.get(start..at).is_some_and(|bytes| keys.blob_id(class, bytes) == blob.id)
            })
        })
    }

    /// Compresses and seals bytes that have no blobs, then opens the result again and compares it with them.
    ///
    /// # Errors
    /// As for [`seal`](Self::seal).
    pub(crate) fn seal_bytes(
        &mut self,
        plain: &[u8],
        how: NewFrame,
        key: &Secret32,
        stored: Vec<u8>,
    ) -> Result<(FrameHead, Vec<u8>), RepoError> {
        self.seal_plain(plain, how, key, stored, |opened| opened == plain)
    }

    fn seal_plain(
        &mut self,
        plain: &[u8],
        how: NewFrame,
        key: &Secret32,
        mut stored: Vec<u8>,
        is_right: impl FnOnce(&[u8]) -> bool,
    ) -> Result<(FrameHead, Vec<u8>), RepoError> {
        stored.clear();
        let NewFrame { class, level, session, number } = how;
        let codec = self.compress(plain, level, &mut stored)?;
        sabotage::flip("flip-after-compress", &mut stored);
        let algorithm = Algorithm::fastest();
        let aad = aad(self.family, class, session, number);
        let salt = seal::seal(key, algorithm, &aad, &mut stored);
        let plain_bytes = plain.len() as u32;
        let head = FrameHead { session, number, class, codec, algorithm, salt, plain_bytes };
        sabotage::flip("flip-after-seal", &mut stored);

        let (copy, again) = &mut self.check;
        copy.clear();
        copy.reserve_exact(stored.len());
        copy.extend_from_slice(&stored);
        let opened = open_into(&mut self.decompressor, self.family, &head, key, copy, again);
        let opened = opened.map_err(|_| RepoError::NotTheSame)?;
        match is_right(opened) || sabotage::on("no-check-after-seal") {
            true => Ok((head, stored)),
            false => Err(RepoError::NotTheSame),
        }
    }

    fn compress(&mut self, plain: &[u8], level: i32, stored: &mut Vec<u8>) -> Result<Codec, RepoError> {
        if self.looks_compressible(plain, stored) {
            if level != self.level {
                self.compressor.set_compression_level(level).map_err(|_| RepoError::Worker)?;
                self.level = level;
            }
            stored.clear();
            stored.reserve_exact(zstd::zstd_safe::compress_bound(plain.len()) + seal::TAG_BYTES);
            self.compressor.compress_to_buffer(plain, stored).map_err(|_| RepoError::Worker)?;
            if stored.len() < plain.len() {
                return Ok(Codec::Zstd);
            }
        }
        stored.clear();
        stored.reserve_exact(plain.len() + seal::TAG_BYTES);
        stored.extend_from_slice(plain);
        Ok(Codec::Plain)
    }

    /// Whether a sample of `plain` shrinks by at least a thirty-second. `scratch` is overwritten.
    fn looks_compressible(&mut self, plain: &[u8], scratch: &mut Vec<u8>) -> bool {
        const SAMPLE: usize = 8 << 10;
        const SAMPLES: usize = 4;
        if plain.len() <= 2 * SAMPLE * SAMPLES {
            return true;
        }
        let stride = (plain.len() - SAMPLE) / (SAMPLES - 1);
        let mut compressed = 0;
        for at in (0..SAMPLES).map(|n| n * stride) {
            scratch.clear();
            scratch.reserve(zstd::zstd_safe::compress_bound(SAMPLE));
            match self.sampler.compress_to_buffer(&plain[at..at + SAMPLE], scratch) {
                Ok(bytes) => compressed += bytes,
                Err(_) => return true,
            }
        }
        compressed < SAMPLE * SAMPLES / 32 * 31
    }

    /// Opens and decompresses a frame. `stored` is used up.
    ///
    /// # Errors
    /// What is wrong with the frame, in words.
    pub fn open(
        &mut self,
        head: &FrameHead,
        key: &Secret32,
        mut stored: Vec<u8>,
    ) -> Result<Vec<u8>, &'static str> {
        let mut plain = Vec::new();
        let length =
            open_into(&mut self.decompressor, self.family, head, key, &mut stored, &mut plain)?.len();
        match head.codec {
            Codec::Plain => {
                stored.truncate(length);
                Ok(stored)
            }
            Codec::Zstd => Ok(plain),
        }
    }
}

/// Opens `stored` in place and decompresses it into `plain`; gives whichever of the two holds the blobs.
fn open_into<'b>(
    decompressor: &mut zstd::bulk::Decompressor<'_>,
    family: FamilyId,
    head: &FrameHead,
    key: &Secret32,
    stored: &'b mut [u8],
    plain: &'b mut Vec<u8>,
) -> Result<&'b [u8], &'static str> {
    let plain_bytes = head.plain_bytes as usize;
    // The bound comes before any memory is taken: a forged length must not be a bomb.
    if plain_bytes > MAX_PLAIN_BYTES {
        return Err("its declared length is beyond the limit");
    }
    let aad = aad(family, head.class, head.session, head.number);
    let opened =
        seal::open(key, head.algorithm, &head.salt, &aad, stored).map_err(|_| "its seal is broken")?;
    let blobs: &[u8] = match head.codec {
        Codec::Plain => opened,
        Codec::Zstd => {
            plain.clear();
            plain.reserve_exact(plain_bytes);
            decompressor.decompress_to_buffer(opened, plain).map_err(|_| "it does not decompress")?;
            plain
        }
    };
    if blobs.len() == plain_bytes { Ok(blobs) } else { Err("its length is not the declared one") }
}

fn aad(family: FamilyId, class: BlobClass, session: SessionId, number: u32) -> [u8; 38] {
    let mut aad = [0; 38];
    aad[..16].copy_from_slice(family.as_bytes());
    aad[16] = FORMAT_VERSION;
    aad[17] = if sabotage::on("aad-without-class") { 0 } else { class as u8 };
    aad[18..34].copy_from_slice(session.as_bytes());
    if !sabotage::on("aad-without-number") {
        aad[34..].copy_from_slice(&number.to_le_bytes());
    }
    aad
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::RepositorySecret;

    fn sealed(plain: Vec<u8>) -> (FrameCoder, Secret32, FrameHead, Vec<u8>) {
        let keys = RepositorySecret::new([1; 32]).metadata_keys();
        let key = Secret32::new([2; 32]);
        let blobs =
            vec![FrameBlob { id: keys.blob_id(BlobClass::Content, &plain), bytes: plain.len() as u32 }];
        let frame = OpenFrame { class: BlobClass::Content, level: 3, plain, blobs };
        let mut coder = FrameCoder::new(keys.family()).unwrap();
        let session = SessionId::from_bytes([9; 16]);
        let (head, stored) = coder.seal(&frame, session, 5, &key, &keys, Vec::new()).unwrap();
        (coder, key, head, stored)
    }

    /// Keeps B-6, IN-49.
    #[test]
    fn what_changed_after_it_was_named_is_refused_before_it_is_stored() {
        let keys = RepositorySecret::new([1; 32]).metadata_keys();
        let named = FrameBlob { id: keys.blob_id(BlobClass::Content, b"words"), bytes: 5 };
        let frame =
            OpenFrame { class: BlobClass::Content, level: 3, plain: b"wordz".to_vec(), blobs: vec![named] };
        let mut coder = FrameCoder::new(keys.family()).unwrap();
        let sealed =
            coder.seal(&frame, SessionId::from_bytes([9; 16]), 5, &Secret32::new([2; 32]), &keys, Vec::new());
        assert!(matches!(sealed, Err(RepoError::NotTheSame)), "{sealed:?}");
    }

    fn noise(bytes: usize) -> Vec<u8> {
        let mut noise = vec![0; bytes];
        blake3::Hasher::new_derive_key("noise for frames").finalize_xof().fill(&mut noise);
        noise
    }

    /// Keeps MK-4, IN-9, EC-17.
    #[test]
    fn what_does_not_compress_is_stored_as_it_is_and_text_is_not() {
        let (_, _, head, stored) = sealed(noise(300_000));
        assert_eq!((head.codec, stored.len()), (Codec::Plain, 300_000 + seal::TAG_BYTES));
        let (_, _, head, stored) = sealed(b"words and words ".repeat(20_000));
        assert_eq!(head.codec, Codec::Zstd);
        assert!(stored.len() < 2_000);
    }

    #[test]
    fn a_frame_opens_only_under_its_own_session_and_number() {
        let (mut coder, key, head, stored) = sealed(noise(1000));
        assert!(coder.open(&head, &key, stored.clone()).is_ok());
        for other in [
            FrameHead { number: 6, ..head },
            FrameHead { session: SessionId::from_bytes([8; 16]), ..head },
            FrameHead { class: BlobClass::Metadata, ..head },
            FrameHead { codec: Codec::Zstd, ..head },
            FrameHead { plain_bytes: 999, ..head },
            FrameHead { plain_bytes: u32::MAX, ..head },
        ] {
            assert!(coder.open(&other, &key, stored.clone()).is_err(), "{other:?}");
        }
        assert!(coder.open(&head, &Secret32::new([3; 32]), stored).is_err());
    }
}
