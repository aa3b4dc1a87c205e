//! Chunks: where content is cut.
//!
//! FastCDC (Xia et al., USENIX ATC 2016 and TPDS 2020) with normalised chunking, over a gear table that is
//! derived from the repository's key: the same content is cut in the same places in every run, and nobody
//! without the key can tell from the places what the content is. The parameters are part of the format:
//! moving a cut point makes everything new.
//!
//! This module knows bytes. It knows no blob and no file.

use crate::keys::MetadataKeys;
use fastcdc::v2020::{Normalization, cut_gear, select_masks};
use hikae_model::sabotage;

/// Sizes of chunks in bytes: even, the average a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkSizes {
    /// No chunk is shorter, but the last.
    pub min: usize,
    /// About the average.
    pub average: usize,
    /// No chunk is longer.
    pub max: usize,
}

/// Ordinary files.
pub const FILES: ChunkSizes = ChunkSizes { min: 512 << 10, average: 1 << 20, max: 4 << 20 };

/// Rows of a database dump: pieces of a map, not blobs of their own.
pub const ROWS: ChunkSizes = ChunkSizes { min: 512, average: 2 << 10, max: 8 << 10 };

/// Finds cut points with a key's gear table.
pub struct Chunker {
    gear: [u64; 256],
    gear_shifted: [u64; 256],
    sizes: ChunkSizes,
    mask_small: u64,
    mask_large: u64,
}

impl Chunker {
    /// A chunker for chunks of these sizes.
    pub fn new(keys: &MetadataKeys, sizes: ChunkSizes) -> Self {
        let mut gear = [0; 256];
        if !sabotage::on("cuts-unkeyed") {
            keys.fill_gear(&mut gear);
        }
        let (mask_small, mask_large) = select_masks(sizes.average, Normalization::Level1);
        Self { gear, gear_shifted: gear.map(|entry| entry << 1), sizes, mask_small, mask_large }
    }

    /// Longest chunk: a caller that holds at least as many bytes, or all that are left, may cut.
    pub fn max(&self) -> usize {
        self.sizes.max
    }

    /// Content up to this length is one chunk.
    pub fn min(&self) -> usize {
        self.sizes.min
    }

    /// Length of the first chunk of `bytes`, which are the rest of the content or at least
    /// [`max`](Self::max) bytes of it.
    pub fn cut(&self, bytes: &[u8]) -> usize {
        let ChunkSizes { min, average, max } = self.sizes;
        if bytes.len() <= min {
            return bytes.len();
        }
        cut_gear(
            bytes,
            min,
            average,
            max,
            self.mask_small,
            self.mask_large,
            self.mask_small << 1,
            self.mask_large << 1,
            &self.gear,
            &self.gear_shifted,
        )
        .1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::RepositorySecret;

    fn noise(bytes: usize) -> Vec<u8> {
        let mut noise = vec![0; bytes];
        blake3::Hasher::new_derive_key("noise for chunking").finalize_xof().fill(&mut noise);
        noise
    }

    fn cuts(secret: u8, sizes: ChunkSizes, mut bytes: &[u8]) -> Vec<usize> {
        let chunker = Chunker::new(&RepositorySecret::new([secret; 32]).metadata_keys(), sizes);
        let mut cuts = Vec::new();
        while !bytes.is_empty() {
            let cut = chunker.cut(bytes);
            cuts.push(cut);
            bytes = &bytes[cut..];
        }
        cuts
    }

    /// Golden: if this fails, the next backup of everybody would store everything anew.
    #[test]
    fn cut_points_never_move() {
        let noise = noise(8 << 20);
        assert_eq!(cuts(1, FILES, &noise)[..4], GOLDEN_FILES);
        assert_eq!(cuts(1, ROWS, &noise[..64 << 10])[..6], GOLDEN_ROWS);
    }
    const GOLDEN_FILES: [usize; 4] = [914_245, 2_313_915, 1_301_128, 1_055_245];
    const GOLDEN_ROWS: [usize; 6] = [3195, 876, 906, 5260, 2732, 2521];

    /// Keeps I-5.
    #[test]
    fn another_key_cuts_elsewhere() {
        let noise = noise(8 << 20);
        assert_ne!(cuts(1, FILES, &noise), cuts(2, FILES, &noise));
    }

    #[test]
    fn an_insertion_moves_only_the_cuts_around_it() {
        let before = noise(1 << 20);
        let after = [&before[..300_000], b"inserted", &before[300_000..]].concat();
        let ends = |bytes: &[u8]| -> Vec<usize> {
            let mut at = 0;
            cuts(1, ROWS, bytes)
                .iter()
                .map(|cut| {
                    at += cut;
                    bytes.len() - at
                })
                .collect()
        };
        let (old, new) = (ends(&before), ends(&after));
        let shared = new.iter().filter(|end| old.contains(end)).count();
        assert!(shared * 100 > old.len() * 65, "{shared} of {} cut points survive", old.len());
    }

    #[test]
    fn every_chunk_keeps_to_its_sizes() {
        let zeroes = vec![0; 9 << 20];
        for cut in cuts(1, FILES, &zeroes).iter().rev().skip(1) {
            assert!((FILES.min..=FILES.max).contains(cut));
        }
    }
}
