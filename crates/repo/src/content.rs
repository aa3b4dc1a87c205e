//! Content on its way in: read, cut, stored, and written down as extents.

use crate::RepoError;
use crate::chunk::{self, Chunker};
use crate::extent::{Extent, ExtentMap};
use crate::keys::BlobClass;
use crate::listing::{MapPart, StoredContent};
use crate::pieces::{MapWriter, parse_pieces, piece_hash};
use crate::reader::BlobReader;
use crate::writer::Lane;
use hikae_model::{BlobId, ContentError, Cut, HashKey, ReadContent, Stretch, sabotage};
use std::collections::HashMap;

/// A map that is longer stands in blobs of its own.
const MAX_INLINE_BYTES: usize = 1 << 10;
/// A part of a map ends after one blob in so many, by its name: so the parts before and after a change stay
/// the same.
const EXTENTS_PER_PART: usize = 256;
const MAX_EXTENTS_PER_PART: usize = 1024;
/// Maps of pieces change everywhere; they are cut for memory only.
const MAX_RANGES_PER_PART: usize = 64 << 10;

/// Keyed BLAKE3 of a whole content, as it comes: see [`StoredEntry::hash`](crate::listing::StoredEntry).
pub struct WholeHash(blake3::Hasher);

impl WholeHash {
    /// The hash of nothing yet.
    pub fn new(key: HashKey) -> Self {
        Self(blake3::Hasher::new_keyed(&key.0))
    }

    /// Appends bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all that came.
    pub fn finish(self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

/// Content that was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Where it is.
    pub content: StoredContent,
    /// Its length, holes counted.
    pub bytes: u64,
    /// See [`StoredEntry::hash`](crate::listing::StoredEntry).
    pub hash: Option<[u8; 32]>,
}

/// Why content was not stored. The two are different things: one entry of the source is in doubt, or the
/// repository is.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The source's fault.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The repository's fault. The run has failed.
    #[error(transparent)]
    Repo(#[from] RepoError),
}

/// Stores contents one after the other, on one thread.
pub struct ContentWriter {
    lane: Lane,
    files: Chunker,
    rows: Chunker,
    buffer: Vec<u8>,
}

impl ContentWriter {
    /// A writer that puts what it cuts into `lane`.
    pub fn new(lane: Lane) -> Self {
        let keys = lane.repo().keys();
        let (files, rows) = (Chunker::new(keys, chunk::FILES), Chunker::new(keys, chunk::ROWS));
        Self { lane, files, rows, buffer: Vec::new() }
    }

    /// The lane, for listings and manifests.
    pub fn lane(&mut self) -> &mut Lane {
        &mut self.lane
    }

    /// Reads and stores one content. `parent` is what the parent snapshot has under the same path, with a
    /// reader for it; it only saves space.
    ///
    /// # Errors
    /// [`KeepError`], which says whose fault it is. Chunks that were stored before an error of the source
    /// stay as orphans until the next prune.
    pub fn store(
        &mut self,
        cut: Cut,
        content: &mut dyn ReadContent,
        parent: Option<(&mut BlobReader<'_>, &StoredContent)>,
    ) -> Result<Kept, KeepError> {
        match cut {
            Cut::Files => self.store_chunks(content),
            Cut::Rows => self.store_pieces(None, content, parent),
            Cut::Pages(bytes) => self.store_pieces(Some(bytes as usize), content, parent),
        }
    }

    /// Ends the lane.
    ///
    /// # Errors
    /// The first error of any thread of the run.
    pub fn finish(self) -> Result<(), RepoError> {
        self.lane.finish()
    }

    fn store_chunks(&mut self, content: &mut dyn ReadContent) -> Result<Kept, KeepError> {
        let Self { lane, files, buffer, .. } = self;
        let mut chunks = Chunks { lane, chunker: files, map: ExtentMap::default(), bytes: 0 };
        feed(&mut chunks, files.max(), buffer, content)?;
        let Chunks { map, bytes, .. } = chunks;
        Ok(Kept { content: store_chunk_map(map, lane)?, bytes, hash: None })
    }

    fn store_pieces(
        &mut self,
        page: Option<usize>,
        content: &mut dyn ReadContent,
        parent: Option<(&mut BlobReader<'_>, &StoredContent)>,
    ) -> Result<Kept, KeepError> {
        let Self { lane, rows, buffer, .. } = self;
        let key = lane.repo().hash_key();
        let mut map = MapWriter::new(key);
        if let Some((reader, parent)) = parent {
            match know_parent(&mut map, reader, parent, lane) {
                // A damaged parent costs space and must not cost the backup that would make good for it.
                Err(error) if error.is_damage() => {
                    map = MapWriter::new(key);
                    lane.store_metadata_anew();
                }
                known => known?,
            }
        }
        let whole = WholeHash::new(key);
        let mut pieces = Pieces { lane, chunker: rows, page, map, whole, bytes: 0 };
        feed(&mut pieces, page.unwrap_or(rows.max()), buffer, content)?;
        let Pieces { map, whole, bytes, .. } = pieces;
        let maps = map.finish(MAX_RANGES_PER_PART, lane)?;
        Ok(Kept { content: store_maps(maps, lane)?, bytes, hash: Some(whole.finish()) })
    }
}

/// Takes content as it comes.
trait Sink {
    /// Takes as much off the front of `bytes` as can be cut with certainty: all of it if `last`. Gives how
    /// much that was.
    fn cut(&mut self, bytes: &[u8], last: bool) -> Result<usize, RepoError>;
    /// Takes a hole. Everything before it was taken.
    fn hole(&mut self, bytes: u64);
    /// Counts bytes that came from the source.
    fn progress(&self, bytes: u64);
}

/// Reads `content` to its end and feeds it to `sink`, which is sure of a cut once it sees `enough` bytes.
fn feed(
    sink: &mut dyn Sink,
    enough: usize,
    buffer: &mut Vec<u8>,
    content: &mut dyn ReadContent,
) -> Result<(), KeepError> {
    const READ_BYTES: usize = 1 << 20;
    let room = 2 * enough.max(READ_BYTES);
    if buffer.len() < room {
        // Pages of it that are never touched are never there.
        *buffer = vec![0; room];
    }
    let (mut start, mut end) = (0, 0);
    loop {
        if end + READ_BYTES > buffer.len() {
            buffer.copy_within(start..end, 0);
            (start, end) = (0, end - start);
        }
        match content.read(&mut buffer[end..end + READ_BYTES])? {
            Stretch::Data(n) => {
                end += n;
                sink.progress(n as u64);
                if end - start >= enough {
                    start += sink.cut(&buffer[start..end], false)?;
                }
            }
            Stretch::Hole(n) => {
                sink.cut(&buffer[start..end], true)?;
                (start, end) = (0, 0);
                sink.hole(n);
            }
            Stretch::End => {
                sink.cut(&buffer[start..end], true)?;
                return Ok(content.finish()?);
            }
        }
    }
}

/// Chunks that are blobs of their own.
struct Chunks<'a> {
    lane: &'a mut Lane,
    chunker: &'a Chunker,
    map: ExtentMap,
    bytes: u64,
}

impl Sink for Chunks<'_> {
    fn cut(&mut self, bytes: &[u8], last: bool) -> Result<usize, RepoError> {
        let mut rest = bytes;
        while !rest.is_empty() && (last || rest.len() >= self.chunker.max()) {
            let (chunk, after) = rest.split_at(self.chunker.cut(rest));
            let blob = self.lane.put(BlobClass::Content, chunk)?;
            self.map.push(Extent::Data { blob, offset: 0, bytes: chunk.len() as u64 });
            rest = after;
        }
        let taken = bytes.len() - rest.len();
        self.bytes += taken as u64;
        Ok(taken)
    }

    fn hole(&mut self, bytes: u64) {
        if sabotage::on("holes-forgotten") {
            return;
        }
        self.map.push(Extent::Hole { bytes });
        self.bytes += bytes;
    }

    fn progress(&self, bytes: u64) {
        self.lane.repo().cx().progress().add_read(bytes);
    }
}

/// Pieces of a map.
struct Pieces<'a> {
    lane: &'a mut Lane,
    chunker: &'a Chunker,
    page: Option<usize>,
    map: MapWriter,
    whole: WholeHash,
    bytes: u64,
}

impl Sink for Pieces<'_> {
    fn cut(&mut self, bytes: &[u8], last: bool) -> Result<usize, RepoError> {
        let enough = self.page.unwrap_or(self.chunker.max());
        let mut rest = bytes;
        while !rest.is_empty() && (last || rest.len() >= enough) {
            let cut = self.page.map_or_else(|| self.chunker.cut(rest), |page| page.min(rest.len()));
            let (piece, after) = rest.split_at(cut);
            match self.page.is_some() && piece.iter().all(|byte| *byte == 0) {
                true => self.map.hole(piece.len() as u64),
                false => self.map.piece(piece, self.lane)?,
            }
            rest = after;
        }
        let taken = bytes.len() - rest.len();
        self.whole.update(&bytes[..taken]);
        self.bytes += taken as u64;
        Ok(taken)
    }

    fn hole(&mut self, bytes: u64) {
        self.map.hole(bytes);
        self.bytes += bytes;
        let zeroes = [0; 64 << 10];
        let mut left = bytes;
        while left > 0 {
            let n = left.min(zeroes.len() as u64);
            self.whole.update(&zeroes[..n as usize]);
            left -= n;
        }
    }

    fn progress(&self, bytes: u64) {
        self.lane.repo().cx().progress().add_read(bytes);
    }
}

/// Whether a map has each of these pieces just where it stands. It looks at their hashes, and reads no content.
///
/// # Errors
/// Any failure to read the map.
pub fn holds_pages(
    content: &StoredContent,
    pages: &[(u64, Vec<u8>)],
    key: HashKey,
    reader: &mut BlobReader<'_>,
) -> Result<bool, RepoError> {
    if pages.is_empty() {
        return Ok(true);
    }
    let maps = reader.extents(content)?;
    for (at, page) in pages {
        let mut start = 0;
        let place = maps.iter().flat_map(|map| map.extents().iter().map(move |extent| (map, extent))).find(
            |(_, extent)| {
                let is_there = (start..start + extent.bytes()).contains(at);
                start += if is_there { 0 } else { extent.bytes() };
                is_there
            },
        );
        let holds = match place {
            None => false,
            Some((_, Extent::Hole { .. })) => page.iter().all(|&byte| byte == 0),
            Some((map, Extent::Data { blob, offset, .. })) => {
                let Some(list) = map.pieces_of(*blob) else { return Ok(false) };
                let pieces = parse_pieces(&reader.read(BlobClass::Metadata, list)?);
                let pieces = pieces.map_err(RepoError::damaged(crate::layout::header()))?;
                let wanted = u64::from(*offset) + (at - start);
                let mut offset = 0;
                let piece = pieces.iter().find(|piece| {
                    let is_there = offset == wanted;
                    offset += u64::from(piece.bytes);
                    is_there
                });
                piece.is_some_and(|piece| {
                    piece.bytes as usize == page.len() && piece.hash == piece_hash(key, page)
                })
            }
        };
        if !holds {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes the pieces of the parent's map known, as far as its super-blocks can be relied on.
fn know_parent(
    map: &mut MapWriter,
    reader: &mut BlobReader<'_>,
    parent: &StoredContent,
    lane: &Lane,
) -> Result<(), RepoError> {
    let mut alive: HashMap<BlobId, (BlobId, u64)> = HashMap::new();
    let mut order = Vec::new();
    for part in reader.extents(parent)? {
        for extent in part.extents() {
            if let Extent::Data { blob, bytes, .. } = *extent
                && let Some(list) = part.pieces_of(blob)
            {
                alive
                    .entry(blob)
                    .or_insert_with(|| {
                        order.push(blob);
                        (list, 0)
                    })
                    .1 += bytes;
            }
        }
    }
    for blob in order {
        let (list, alive_bytes) = alive[&blob];
        if lane.is_known(blob)? && lane.is_known(list)? {
            let pieces = parse_pieces(&reader.read(BlobClass::Metadata, list)?);
            let pieces = pieces.map_err(RepoError::damaged(crate::layout::header()))?;
            map.know_block(blob, list, &pieces, alive_bytes);
        }
    }
    Ok(())
}

/// Stores a map of chunks: in the listing if it is small, else in parts that are cut by the names of blobs,
/// so that the parts before and after a change stay the same.
fn store_chunk_map(map: ExtentMap, lane: &mut Lane) -> Result<StoredContent, RepoError> {
    let bytes = map.to_bytes();
    if bytes.len() <= MAX_INLINE_BYTES {
        return Ok(StoredContent::Inline(bytes));
    }
    let mut parts = Vec::new();
    let mut part = ExtentMap::default();
    for extent in map.extents() {
        part.push(*extent);
        let ends = match extent {
            Extent::Data { blob, .. } => usize::from(blob.as_bytes()[0]).is_multiple_of(EXTENTS_PER_PART),
            Extent::Hole { .. } => false,
        };
        if ends || part.extents().len() >= MAX_EXTENTS_PER_PART {
            parts.push(std::mem::take(&mut part));
        }
    }
    if !part.extents().is_empty() {
        parts.push(part);
    }
    store_maps(parts, lane)
}

/// Stores a map in the given parts, or in the listing if it is one small one.
fn store_maps(maps: Vec<ExtentMap>, lane: &mut Lane) -> Result<StoredContent, RepoError> {
    let stored: Vec<_> = maps.iter().map(|map| (map.bytes(), map.to_bytes())).collect();
    match stored.as_slice() {
        [] => Ok(StoredContent::Inline(ExtentMap::default().to_bytes())),
        [(_, bytes)] if bytes.len() <= MAX_INLINE_BYTES => Ok(StoredContent::Inline(bytes.clone())),
        _ => {
            let part = |(bytes, stored): &(u64, Vec<u8>)| {
                Ok(MapPart { map: lane.put(BlobClass::Metadata, stored)?, bytes: *bytes })
            };
            Ok(StoredContent::Parts(stored.iter().map(part).collect::<Result<_, RepoError>>()?))
        }
    }
}
