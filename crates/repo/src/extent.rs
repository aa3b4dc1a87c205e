//! Extents: what a file holds, as ranges of blobs and holes.
//!
//! One idea serves whole files, sparse files and databases. A map lists blobs and, in the order of the
//! file, ranges of them:
//!
//! ```text
//! Map (CBOR) { 0: blobs, 32 bytes each   1: piece lists of the same blobs, 32 bytes each, or empty   2: extents }
//! extent: varint(0) varint(length)                        a hole
//!         varint(blob + 1) varint(offset) varint(length)  a range of a blob
//! ```
//!
//! A small map stands in the listing itself; a large one is cut into parts that are blobs of metadata.
//!
//! This module knows ranges. It knows no frame and no pack.

use crate::cbor;
use crate::object::BadObject;
use hikae_model::BlobId;
use minicbor::{Decode, Encode};
use std::collections::HashMap;

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// `bytes` of a blob of content, from `offset` on.
    Data {
        /// The blob.
        blob: BlobId,
        /// Where in the blob it begins.
        offset: u32,
        /// How long it is.
        bytes: u64,
    },
    /// Zeroes that take no place.
    Hole {
        /// How many.
        bytes: u64,
    },
}

impl Extent {
    /// Length in bytes.
    pub fn bytes(&self) -> u64 {
        match *self {
            Self::Data { bytes, .. } | Self::Hole { bytes } => bytes,
        }
    }
}

/// Extents of a file or of a part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtentMap {
    extents: Vec<Extent>,
    /// For super-blocks: the blob of metadata that lists the pieces of each.
    pieces: HashMap<BlobId, BlobId>,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct MapRecord<'b> {
    #[cbor(b(0), with = "minicbor::bytes")]
    blobs: &'b [u8],
    #[cbor(b(1), with = "minicbor::bytes")]
    pieces: &'b [u8],
    #[cbor(b(2), with = "minicbor::bytes")]
    extents: &'b [u8],
}

impl ExtentMap {
    /// Appends an extent, joined with the last where both are one range.
    pub fn push(&mut self, extent: Extent) {
        if extent.bytes() == 0 {
            return;
        }
        match (self.extents.last_mut(), extent) {
            (Some(Extent::Hole { bytes: last }), Extent::Hole { bytes }) => *last += bytes,
            (
                Some(Extent::Data { blob: last, offset: start, bytes: length }),
                Extent::Data { blob, offset, bytes },
            ) if *last == blob && u64::from(*start) + *length == u64::from(offset) => {
                *length += bytes;
            }
            _ => self.extents.push(extent),
        }
    }

    /// Says where the pieces of a super-block are listed.
    pub fn set_pieces(&mut self, blob: BlobId, pieces: BlobId) {
        self.pieces.insert(blob, pieces);
    }

    /// The extents in the order of the file.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// Where the pieces of a super-block are listed, if it is one.
    pub fn pieces_of(&self, blob: BlobId) -> Option<BlobId> {
        self.pieces.get(&blob).copied()
    }

    /// Length of what it covers.
    pub fn bytes(&self) -> u64 {
        self.extents.iter().map(Extent::bytes).sum()
    }

    /// Each blob of content, once, in the order of first use.
    pub fn blobs(&self) -> Vec<BlobId> {
        let mut seen = std::collections::HashSet::new();
        let blobs = self.extents.iter().filter_map(|extent| match extent {
            Extent::Data { blob, .. } => Some(*blob),
            Extent::Hole { .. } => None,
        });
        blobs.filter(|blob| seen.insert(*blob)).collect()
    }

    /// The stored form.
    pub fn to_bytes(&self) -> Vec<u8> {
        let blobs = self.blobs();
        let place: HashMap<_, _> =
            blobs.iter().enumerate().map(|(at, blob)| (*blob, at as u64 + 1)).collect();
        let mut extents = Vec::with_capacity(self.extents.len() * 6);
        for extent in &self.extents {
            match extent {
                Extent::Hole { bytes } => {
                    put_varint(&mut extents, 0);
                    put_varint(&mut extents, *bytes);
                }
                Extent::Data { blob, offset, bytes } => {
                    put_varint(&mut extents, place[blob]);
                    put_varint(&mut extents, u64::from(*offset));
                    put_varint(&mut extents, *bytes);
                }
            }
        }
        let pieces: Vec<u8> = match self.pieces.is_empty() {
            true => Vec::new(),
            false => blobs.iter().flat_map(|blob| *self.pieces[blob].as_bytes()).collect(),
        };
        let blobs: Vec<u8> = blobs.iter().flat_map(|blob| *blob.as_bytes()).collect();
        cbor::to_bytes(&MapRecord { blobs: &blobs, pieces: &pieces, extents: &extents })
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`BadObject`] if it is none, names a blob that it does not list, or is longer than a file can be.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadObject> {
        let record = MapRecord::parse(bytes)?;
        let ids = |bytes: &[u8]| bytes.chunks_exact(32).filter_map(BlobId::from_slice).collect::<Vec<_>>();
        let (blobs, pieces) = (ids(record.blobs), ids(record.pieces));
        let mut map = Self { extents: Vec::new(), pieces: blobs.iter().copied().zip(pieces).collect() };
        record.each_extent(&mut |blob, offset, bytes| {
            map.extents.push(match blob {
                None => Extent::Hole { bytes },
                Some(at) => Extent::Data { blob: blobs[at], offset, bytes },
            });
        })?;
        Ok(map)
    }

    /// Length of what the map with this stored form covers.
    ///
    /// # Errors
    /// As for [`parse`](Self::parse).
    pub fn length_of(bytes: &[u8]) -> Result<u64, BadObject> {
        MapRecord::parse(bytes)?.each_extent(&mut |_, _, _| {})
    }
}

impl<'b> MapRecord<'b> {
    fn parse(bytes: &'b [u8]) -> Result<Self, BadObject> {
        let record: Self = cbor::from_bytes(bytes)?;
        let has_pieces = record.pieces.is_empty() || record.pieces.len() == record.blobs.len();
        match record.blobs.len().is_multiple_of(32) && has_pieces {
            true => Ok(record),
            false => Err(BadObject::BadBody("its lists of blobs do not add up".to_owned())),
        }
    }

    /// Shows of each extent the number of its blob (none for a hole), where in the blob, and how long. Gives the
    /// length of all of them, which is below 2^63.
    fn each_extent(&self, show: &mut dyn FnMut(Option<usize>, u32, u64)) -> Result<u64, BadObject> {
        let bad = |what: &str| BadObject::BadBody(what.to_owned());
        let mut rest = self.extents;
        let mut total = 0_u64;
        while !rest.is_empty() {
            let extent = take_extent(&mut rest, self.blobs.len() / 32);
            let (blob, offset, bytes) = extent.ok_or_else(|| bad("an extent is none"))?;
            total = total
                .checked_add(bytes)
                .filter(|total| *total <= i64::MAX as u64)
                .ok_or_else(|| bad("it is longer than a file can be"))?;
            show(blob, offset, bytes);
        }
        Ok(total)
    }
}

fn take_extent(rest: &mut &[u8], n_blobs: usize) -> Option<(Option<usize>, u32, u64)> {
    match take_varint(rest)? {
        0 => Some((None, 0, take_varint(rest)?)),
        place => {
            let blob = usize::try_from(place - 1).ok().filter(|blob| *blob < n_blobs)?;
            let offset = u32::try_from(take_varint(rest)?).ok()?;
            Some((Some(blob), offset, take_varint(rest)?))
        }
    }
}

/// Appends a number, seven bits a byte, lowest first (LEB128).
pub(crate) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Takes a number off the front of `bytes`.
pub(crate) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let seven = u64::from(byte & 0x7f);
        if shift == 63 && seven > 1 {
            return None;
        }
        number |= seven << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn blob(n: u8) -> BlobId {
        BlobId::from_bytes([n; 32])
    }

    #[test]
    fn ranges_that_follow_each_other_become_one() {
        let mut map = ExtentMap::default();
        map.push(Extent::Data { blob: blob(1), offset: 0, bytes: 10 });
        map.push(Extent::Data { blob: blob(1), offset: 10, bytes: 5 });
        map.push(Extent::Hole { bytes: 3 });
        map.push(Extent::Hole { bytes: 4 });
        map.push(Extent::Data { blob: blob(1), offset: 0, bytes: 1 });
        assert_eq!(map.extents().len(), 3);
        assert_eq!(map.bytes(), 23);
    }

    proptest! {
        #[test]
        fn a_map_survives_being_stored(parts in proptest::collection::vec((0_u8..5, 0_u32..1000, 1_u64..1 << 40), 0..50)) {
            let mut map = ExtentMap::default();
            for (n, offset, bytes) in parts {
                map.push(match n {
                    0 => Extent::Hole { bytes },
                    n => Extent::Data { blob: blob(n), offset, bytes },
                });
            }
            for (n, blob) in map.blobs().into_iter().enumerate() {
                map.set_pieces(blob, BlobId::from_bytes([100 + n as u8; 32]));
            }
            prop_assert_eq!(ExtentMap::parse(&map.to_bytes()).unwrap(), map);
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = ExtentMap::parse(&bytes);
        }
    }
}
