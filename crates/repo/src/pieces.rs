//! Maps of pieces: content that changes in places, kept as what changed and references to the rest.
//!
//! A database page or a run of rows is a *piece*. A piece that the parent's map has, wherever, becomes a
//! reference to it; the others are packed in the order in which they come into *super-blocks* of up to
//! 1 MiB, each one blob of content. Beside each super-block stands its list of pieces, a blob of metadata,
//! written once; so the next run compares without reading, or being able to read, any content.
//!
//! ```text
//! piece list: varint(0), then for each piece: hash 16 | varint(length)       pieces of any length
//!             varint(length), then for each piece: hash 16                   pages of one length
//! ```
//!
//! A piece hash is the first 16 bytes of keyed BLAKE3: an unkeyed or weaker hash could be made to collide,
//! and the page would stay unsaved. Every map is whole: no chains, any snapshot can go.
//!
//! This module knows pieces and super-blocks. It does not know how content is cut.

use crate::RepoError;
use crate::extent::{Extent, ExtentMap, put_varint, take_varint};
use crate::keys::BlobClass;
use crate::object::BadObject;
use crate::writer::Lane;
use hikae_model::{BlobId, HashKey};
use std::collections::HashMap;

/// A super-block is closed once it has this many bytes.
const BLOCK_BYTES: usize = 1 << 20;

/// First 16 bytes of keyed BLAKE3 of a piece.
pub type PieceHash = [u8; 16];

/// Hash of a piece.
pub fn piece_hash(key: HashKey, piece: &[u8]) -> PieceHash {
    let hash = blake3::keyed_hash(&key.0, piece);
    let mut short = [0; 16];
    short.copy_from_slice(&hash.as_bytes()[..16]);
    short
}

/// One piece in a super-block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its hash.
    pub hash: PieceHash,
    /// Its length in bytes.
    pub bytes: u32,
}

/// The stored form of a list of pieces.
pub fn pieces_to_bytes(pieces: &[Piece]) -> Vec<u8> {
    let fixed = pieces.first().map_or(0, |first| first.bytes);
    let fixed = if pieces.iter().all(|piece| piece.bytes == fixed) { fixed } else { 0 };
    let mut bytes = Vec::with_capacity(4 + pieces.len() * 18);
    put_varint(&mut bytes, u64::from(fixed));
    for piece in pieces {
        bytes.extend_from_slice(&piece.hash);
        if fixed == 0 {
            put_varint(&mut bytes, u64::from(piece.bytes));
        }
    }
    bytes
}

/// Reads the stored form.
///
/// # Errors
/// [`BadObject`] if it is none.
pub fn parse_pieces(mut bytes: &[u8]) -> Result<Vec<Piece>, BadObject> {
    let mut take = || {
        let fixed = u32::try_from(take_varint(&mut bytes)?).ok()?;
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let (hash, rest) = bytes.split_first_chunk::<16>()?;
            bytes = rest;
            let length = if fixed == 0 { u32::try_from(take_varint(&mut bytes)?).ok()? } else { fixed };
            pieces.push(Piece { hash: *hash, bytes: length });
        }
        Some(pieces)
    };
    take().ok_or_else(|| BadObject::BadBody("a list of pieces is none".to_owned()))
}

/// Where a piece is: in which super-block, and where in it.
#[derive(Clone, Copy)]
struct Place {
    block: u32,
    offset: u32,
    bytes: u32,
}

/// A super-block that this map may refer to.
struct Block {
    /// Its blob and its list of pieces; nothing while it grows.
    blobs: Option<(BlobId, BlobId)>,
    /// True if less than a quarter of it is alive in the parent: its pieces are stored again, within limits.
    sparse: bool,
}

/// A map that grows as content comes.
pub struct MapWriter {
    key: HashKey,
    known: HashMap<PieceHash, Place>,
    blocks: Vec<Block>,
    /// Ranges in the order of the file: super-block (or none, for a hole), offset, length.
    ranges: Vec<(Option<u32>, u32, u64)>,
    block: Vec<u8>,
    pieces: Vec<Piece>,
    new_bytes: u64,
    rebased_bytes: u64,
}

impl MapWriter {
    /// An empty map without a parent.
    pub fn new(key: HashKey) -> Self {
        Self {
            key,
            known: HashMap::new(),
            blocks: Vec::new(),
            ranges: Vec::new(),
            block: Vec::new(),
            pieces: Vec::new(),
            new_bytes: 0,
            rebased_bytes: 0,
        }
    }

    /// Makes the pieces of a super-block of the parent known. `alive_bytes` of it are in the parent's map.
    pub fn know_block(&mut self, blob: BlobId, list: BlobId, pieces: &[Piece], alive_bytes: u64) {
        let number = self.blocks.len() as u32;
        let total: u64 = pieces.iter().map(|piece| u64::from(piece.bytes)).sum();
        self.blocks.push(Block { blobs: Some((blob, list)), sparse: alive_bytes * 4 < total });
        let mut offset = 0;
        for piece in pieces {
            self.known.entry(piece.hash).or_insert(Place { block: number, offset, bytes: piece.bytes });
            offset += piece.bytes;
        }
    }

    /// Appends a hole.
    pub fn hole(&mut self, bytes: u64) {
        match self.ranges.last_mut() {
            Some((None, _, last)) => *last += bytes,
            _ => self.ranges.push((None, 0, bytes)),
        }
    }

    /// Appends a piece; stores it if the parent does not have it.
    ///
    /// # Errors
    /// Any failure to store a super-block.
    pub fn piece(&mut self, piece: &[u8], lane: &mut Lane) -> Result<(), RepoError> {
        let hash = piece_hash(self.key, piece);
        let bytes = piece.len() as u32;
        if let Some(place) = self.known.get(&hash).copied().filter(|place| place.bytes == bytes) {
            let worth_moving = self.blocks[place.block as usize].sparse
                && (self.rebased_bytes + u64::from(bytes)) * 4 <= self.new_bytes;
            if !worth_moving {
                self.range(place);
                return Ok(());
            }
            self.rebased_bytes += u64::from(bytes);
        } else {
            self.new_bytes += u64::from(bytes);
        }
        if self.pieces.is_empty() {
            self.blocks.push(Block { blobs: None, sparse: false });
        }
        let place = Place { block: self.blocks.len() as u32 - 1, offset: self.block.len() as u32, bytes };
        self.block.extend_from_slice(piece);
        self.pieces.push(Piece { hash, bytes });
        self.known.insert(hash, place);
        self.range(place);
        if self.block.len() >= BLOCK_BYTES { self.close_block(lane) } else { Ok(()) }
    }

    fn range(&mut self, place: Place) {
        match self.ranges.last_mut() {
            Some((Some(block), offset, length))
                if *block == place.block && u64::from(*offset) + *length == u64::from(place.offset) =>
            {
                *length += u64::from(place.bytes);
            }
            _ => self.ranges.push((Some(place.block), place.offset, u64::from(place.bytes))),
        }
    }

    fn close_block(&mut self, lane: &mut Lane) -> Result<(), RepoError> {
        if let Some(open) = self.blocks.last_mut().filter(|block| block.blobs.is_none()) {
            let blob = lane.put(BlobClass::Content, &self.block)?;
            let list = lane.put(BlobClass::Metadata, &pieces_to_bytes(&self.pieces))?;
            open.blobs = Some((blob, list));
        }
        self.block.clear();
        self.pieces.clear();
        Ok(())
    }

    /// Ends the map: its parts, each of at most `max_extents`.
    ///
    /// # Errors
    /// Any failure to store the last super-block.
    pub fn finish(mut self, max_extents: usize, lane: &mut Lane) -> Result<Vec<ExtentMap>, RepoError> {
        self.close_block(lane)?;
        let mut maps = Vec::new();
        for ranges in self.ranges.chunks(max_extents) {
            let mut map = ExtentMap::default();
            for (block, offset, bytes) in ranges {
                let blobs = block.and_then(|block| self.blocks[block as usize].blobs);
                match blobs {
                    None => map.push(Extent::Hole { bytes: *bytes }),
                    Some((blob, list)) => {
                        map.push(Extent::Data { blob, offset: *offset, bytes: *bytes });
                        map.set_pieces(blob, list);
                    }
                }
            }
            maps.push(map);
        }
        Ok(maps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_pieces_survive_being_stored() {
        let piece = |n: u8, bytes| Piece { hash: [n; 16], bytes };
        for pieces in [vec![], vec![piece(1, 8192), piece(2, 8192)], vec![piece(1, 1), piece(2, 4095)]] {
            assert_eq!(parse_pieces(&pieces_to_bytes(&pieces)).unwrap(), pieces);
        }
    }

    #[test]
    fn a_list_that_ends_too_early_is_refused() {
        let list = pieces_to_bytes(&[Piece { hash: [1; 16], bytes: 10 }, Piece { hash: [2; 16], bytes: 11 }]);
        for length in 2..list.len() - 1 {
            let whole = (length - 1) % 17 == 0;
            assert_eq!(parse_pieces(&list[..length]).is_ok(), whole, "cut to {length}");
        }
    }
}
