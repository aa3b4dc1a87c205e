//! Frames of which less than half is needed, and that only unchanged files still need: prune cannot take them
//! apart, for that takes an identity, and no backup would store what lies in them again, for nothing changed. So
//! a run reads some of these files anew. What lies in a sparse frame counts as unknown then and is stored once
//! more, with its like, and the old frame dies.
//!
//! - A run reads no more than [`READ_ANEW_BYTES`] so, and the rest of the file that crosses the bound: the next
//!   goes on.
//! - What only older snapshots need goes with them.
//!
//! This module knows which files these are. It does not read them.

use crate::RepoError;
use crate::extent::{Extent, ExtentMap};
use crate::index_set::IndexSet;
use crate::listing::StoredContent;
use crate::log::FrameName;
use crate::reader::BlobReader;
use crate::writer::{Shared, Writer};
use hikae_model::{BlobId, sabotage};
use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};

/// A run reads so many bytes of unchanged files for the sake of sparse frames: some seconds.
const READ_ANEW_BYTES: u64 = 1 << 30;

/// So many blobs in sparse frames are looked at in a run: 16 MiB of memory.
const MAX_BLOBS: usize = 1 << 20;

/// What a run would store anew.
pub(crate) struct Refresh {
    /// The first bytes of the names of blobs in sparse frames. They are keyed hashes; where two begin alike, a
    /// file too many is looked up.
    blobs: HashSet<u64>,
    left_bytes: AtomicU64,
}

impl Refresh {
    /// Of the frames that are `sparse`.
    pub(crate) fn of(sparse: &BTreeSet<FrameName>, index: &IndexSet) -> Result<Self, RepoError> {
        let mut blobs = HashSet::new();
        if !sparse.is_empty() {
            for segment in index.segments() {
                let is_sparse = |session, number| sparse.contains(&FrameName { session, number });
                segment.blobs_in(&is_sparse, &mut |blob| {
                    if blobs.len() < MAX_BLOBS {
                        blobs.insert(prefix(blob));
                    }
                })?;
            }
        }
        Ok(Self { blobs, left_bytes: AtomicU64::new(READ_ANEW_BYTES) })
    }

    /// Takes `bytes` off what this run may still read. False if nothing was left.
    fn take(&self, bytes: u64) -> bool {
        let less = |left: u64| (left > 0).then(|| left.saturating_sub(bytes));
        self.left_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

fn prefix(id: BlobId) -> u64 {
    id.as_bytes().first_chunk().map_or(0, |eight| u64::from_le_bytes(*eight))
}

impl Writer {
    /// True if an unchanged file with this content should be read and stored like a changed one: something of it
    /// lies in sparse frames alone, and this run may still read as much.
    ///
    /// # Errors
    /// [`RepoError::Cache`] if the index cannot be read. Maps that cannot be read are no error: then it need not.
    pub fn should_read_anew(
        &self,
        content: &StoredContent,
        reader: &mut BlobReader<'_>,
    ) -> Result<bool, RepoError> {
        let shared = self.shared();
        let refresh = shared.refresh()?;
        if sabotage::on("sparse-frames-stay") {
            return Ok(false);
        }
        if refresh.blobs.is_empty() || refresh.left_bytes.load(Ordering::Relaxed) == 0 {
            return Ok(false);
        }
        let Ok(maps) = reader.extents(content) else { return Ok(false) };
        let bytes = maps.iter().map(ExtentMap::bytes).sum();
        Ok(shared.lies_in_sparse_frames(refresh, content, &maps)? && refresh.take(bytes))
    }
}

impl Shared {
    fn lies_in_sparse_frames(
        &self,
        refresh: &Refresh,
        content: &StoredContent,
        maps: &[ExtentMap],
    ) -> Result<bool, RepoError> {
        let is_sparse = |blob: BlobId| -> Result<bool, RepoError> {
            Ok(refresh.blobs.contains(&prefix(blob)) && !self.is_usable(blob)?)
        };
        if let StoredContent::Parts(parts) = content {
            for part in parts {
                if is_sparse(part.map)? {
                    return Ok(true);
                }
            }
        }
        for map in maps {
            for extent in map.extents() {
                let Extent::Data { blob, .. } = *extent else { continue };
                if is_sparse(blob)? || map.pieces_of(blob).map_or(Ok(false), is_sparse)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_reads_no_more_than_its_share_and_the_rest_of_one_file() {
        let refresh = Refresh::of(&BTreeSet::new(), &IndexSet::default()).unwrap();
        assert!(refresh.take(READ_ANEW_BYTES - 1));
        assert!(refresh.take(u64::MAX));
        assert!(!refresh.take(1) && !refresh.take(0));
    }
}
