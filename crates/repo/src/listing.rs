//! Listings: the entries of a snapshot, flat, sorted by path, cut into hunks.
//!
//! ```text
//! snapshot -> directory blob: (first path, hunk, entries) …  -> hunk blob: entry | entry | …
//! ```
//!
//! - A hunk ends after an entry whose path hashes, with a key, to one in 512. So what did not change is cut
//!   in the same places and stored once, and nobody without the key can tell a tree by its cuts.
//! - The directory names the first path of each hunk: browsing one folder reads few hunks.
//!
//! This module knows entries and hunks. It does not know where blobs are.

use crate::RepoError;
use crate::cbor;
use crate::keys::BlobClass;
use crate::object::BadObject;
use crate::writer::Lane;
use hikae_model::{Attributes, BlobId, Entry, EntryKind, HashKey, TreePath, Xattr};
use minicbor::{Decode, Encode};

/// A hunk ends after one path in so many.
const PATHS_PER_HUNK: u64 = 512;

/// A hunk ends once it has this many bytes, wherever its paths would cut it.
const MAX_HUNK_BYTES: usize = 1 << 20;

/// An entry as a snapshot keeps it: what it is, and where its content is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEntry {
    /// The entry.
    pub entry: Entry,
    /// Its content, for files.
    pub content: StoredContent,
    /// Keyed BLAKE3 of the whole content, where it stands in a map of pieces: a check that does not rest on
    /// the map. Content that is chunk after chunk needs none; the names of its blobs are one.
    pub hash: Option<[u8; 32]>,
}

/// Where the content of an entry is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StoredContent {
    /// It has none.
    #[default]
    None,
    /// Its extents stand in the listing, in stored form.
    Inline(Vec<u8>),
    /// Its extents stand in blobs of metadata, in the order of the file.
    Parts(Vec<MapPart>),
}

/// One part of a large map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct MapPart {
    /// The blob of metadata that holds the extents.
    #[n(0)]
    pub map: BlobId,
    /// Length of the file that they cover.
    #[n(1)]
    pub bytes: u64,
}

/// One hunk, as the directory lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hunk {
    /// Its first path.
    pub first: TreePath,
    /// Its blob.
    pub blob: BlobId,
    /// How many entries it has.
    pub entries: u64,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct EntryRecord<'b> {
    #[cbor(b(0), with = "minicbor::bytes")]
    path: &'b [u8],
    #[n(1)]
    kind: u8,
    #[n(2)]
    mode: u32,
    #[n(3)]
    uid: u32,
    #[n(4)]
    gid: u32,
    #[n(5)]
    modified: (i64, u32),
    #[n(6)]
    changed: (i64, u32),
    #[n(7)]
    inode: u64,
    #[n(8)]
    size: Option<u64>,
    #[cbor(b(9), with = "minicbor::bytes")]
    inline: Option<&'b [u8]>,
    #[n(10)]
    parts: Option<Vec<MapPart>>,
    /// Target of a symbolic link, or first name of a hard link.
    #[cbor(b(11), with = "minicbor::bytes")]
    link: Option<&'b [u8]>,
    #[n(12)]
    device: Option<(u32, u32)>,
    #[b(13)]
    xattrs: Option<Vec<XattrRecord<'b>>>,
    #[cbor(n(14), with = "minicbor::bytes")]
    hash: Option<[u8; 32]>,
}

#[derive(Encode, Decode)]
#[cbor(array)]
struct XattrRecord<'b> {
    #[cbor(b(0), with = "minicbor::bytes")]
    name: &'b [u8],
    #[cbor(b(1), with = "minicbor::bytes")]
    value: &'b [u8],
}

#[derive(Encode, Decode)]
#[cbor(array)]
struct HunkRecord {
    #[cbor(n(0), with = "minicbor::bytes")]
    first: Vec<u8>,
    #[n(1)]
    blob: BlobId,
    #[n(2)]
    entries: u64,
}

const FILE: u8 = 1;
const DIRECTORY: u8 = 2;
const SYMLINK: u8 = 3;
const HARD_LINK: u8 = 4;
const FIFO: u8 = 5;
const SOCKET: u8 = 6;
const CHAR_DEVICE: u8 = 7;
const BLOCK_DEVICE: u8 = 8;

impl StoredEntry {
    /// Appends the stored form to a hunk.
    pub fn put(&self, hunk: &mut Vec<u8>) {
        let Attributes { mode, uid, gid, modified, changed, inode, ref xattrs } = self.entry.attributes;
        let (kind, link, device) = match &self.entry.kind {
            EntryKind::File { .. } => (FILE, None, None),
            EntryKind::Directory => (DIRECTORY, None, None),
            EntryKind::Symlink { target } => (SYMLINK, Some(target.as_slice()), None),
            EntryKind::HardLink { to } => (HARD_LINK, Some(to.as_bytes()), None),
            EntryKind::Fifo => (FIFO, None, None),
            EntryKind::Socket => (SOCKET, None, None),
            EntryKind::CharDevice { major, minor } => (CHAR_DEVICE, None, Some((*major, *minor))),
            EntryKind::BlockDevice { major, minor } => (BLOCK_DEVICE, None, Some((*major, *minor))),
        };
        let record = EntryRecord {
            path: self.entry.path.as_bytes(),
            kind,
            mode,
            uid,
            gid,
            modified: (modified.seconds, modified.nanoseconds),
            changed: (changed.seconds, changed.nanoseconds),
            inode,
            size: matches!(self.entry.kind, EntryKind::File { .. }).then(|| self.entry.size()),
            inline: match &self.content {
                StoredContent::Inline(map) => Some(map),
                StoredContent::None | StoredContent::Parts(_) => None,
            },
            parts: match &self.content {
                StoredContent::Parts(parts) => Some(parts.clone()),
                StoredContent::None | StoredContent::Inline(_) => None,
            },
            link,
            device,
            xattrs: (!xattrs.is_empty())
                .then(|| xattrs.iter().map(|x| XattrRecord { name: &x.name, value: &x.value }).collect()),
            hash: self.hash,
        };
        minicbor::encode(&record, hunk).expect("writing to memory does not fail");
    }

    fn take(decoder: &mut minicbor::Decoder<'_>) -> Result<Self, BadObject> {
        let bad = |error: &dyn std::fmt::Display| BadObject::BadBody(error.to_string());
        let record: EntryRecord<'_> = decoder.decode().map_err(|error| bad(&error))?;
        let missing = || BadObject::BadBody("an entry lacks what its kind needs".to_owned());
        let kind = match record.kind {
            FILE => EntryKind::File { size: record.size.ok_or_else(missing)? },
            DIRECTORY => EntryKind::Directory,
            SYMLINK => EntryKind::Symlink { target: record.link.ok_or_else(missing)?.to_vec() },
            HARD_LINK => {
                let to = TreePath::parse(record.link.ok_or_else(missing)?).map_err(|error| bad(&error))?;
                EntryKind::HardLink { to }
            }
            FIFO => EntryKind::Fifo,
            SOCKET => EntryKind::Socket,
            CHAR_DEVICE | BLOCK_DEVICE => {
                let (major, minor) = record.device.ok_or_else(missing)?;
                match record.kind {
                    CHAR_DEVICE => EntryKind::CharDevice { major, minor },
                    _ => EntryKind::BlockDevice { major, minor },
                }
            }
            other => return Err(BadObject::BadBody(format!("an entry is of the unknown kind {other}"))),
        };
        let content = match (record.inline, record.parts) {
            (Some(map), None) => StoredContent::Inline(map.to_vec()),
            (None, Some(parts)) => StoredContent::Parts(parts),
            _ => StoredContent::None,
        };
        let xattrs = record.xattrs.unwrap_or_default();
        Ok(Self {
            entry: Entry {
                path: TreePath::parse(record.path).map_err(|error| bad(&error))?,
                kind,
                attributes: Attributes {
                    mode: record.mode,
                    uid: record.uid,
                    gid: record.gid,
                    modified: cbor::file_time(record.modified),
                    changed: cbor::file_time(record.changed),
                    inode: record.inode,
                    xattrs: xattrs
                        .iter()
                        .map(|x| Xattr { name: x.name.to_vec(), value: x.value.to_vec() })
                        .collect(),
                },
            },
            content,
            hash: record.hash,
        })
    }
}

/// The entries of a hunk.
///
/// # Errors
/// [`BadObject`] if it is none. Entries that are not in path order are an error: a reader may then stop at
/// the first path beyond what it looks for.
pub fn parse_hunk(hunk: &[u8]) -> Result<Vec<StoredEntry>, BadObject> {
    let mut decoder = minicbor::Decoder::new(hunk);
    let mut entries: Vec<StoredEntry> = Vec::new();
    while decoder.position() < hunk.len() {
        let entry = StoredEntry::take(&mut decoder)?;
        if entries.last().is_some_and(|last| last.entry.path >= entry.entry.path) {
            return Err(BadObject::BadBody("its entries are not in order".to_owned()));
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// The stored form of a directory of hunks.
pub fn directory_to_bytes(hunks: &[Hunk]) -> Vec<u8> {
    let records: Vec<_> = hunks
        .iter()
        .map(|hunk| HunkRecord {
            first: hunk.first.as_bytes().to_vec(),
            blob: hunk.blob,
            entries: hunk.entries,
        })
        .collect();
    cbor::to_bytes(&records)
}

/// Reads the stored form of a directory of hunks.
///
/// # Errors
/// [`BadObject`] if it is none, or not in order.
pub fn parse_directory(bytes: &[u8]) -> Result<Vec<Hunk>, BadObject> {
    let records: Vec<HunkRecord> = cbor::from_bytes(bytes)?;
    let hunks = records
        .into_iter()
        .map(|record| {
            let first =
                TreePath::parse(&record.first).map_err(|error| BadObject::BadBody(error.to_string()))?;
            Ok(Hunk { first, blob: record.blob, entries: record.entries })
        })
        .collect::<Result<Vec<_>, BadObject>>()?;
    match hunks.is_sorted_by(|a, b| a.first < b.first) {
        true => Ok(hunks),
        false => Err(BadObject::BadBody("its hunks are not in order".to_owned())),
    }
}

/// A listing that grows, entry after entry in path order.
#[derive(Default)]
pub struct ListingWriter {
    hunk: Vec<u8>,
    first: Option<TreePath>,
    n_hunk: u64,
    hunks: Vec<Hunk>,
    n_entries: u64,
}

/// A listing that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The blob of its directory; nothing if there are no entries.
    pub directory: Option<BlobId>,
    /// How many entries it has.
    pub entries: u64,
}

impl ListingWriter {
    /// Appends an entry. Entries come in path order; the reader refuses others.
    ///
    /// # Errors
    /// Any failure to store a hunk.
    pub fn push(&mut self, entry: &StoredEntry, lane: &mut Lane) -> Result<(), RepoError> {
        entry.put(&mut self.hunk);
        self.first.get_or_insert_with(|| entry.entry.path.clone());
        self.n_hunk += 1;
        if self.hunk.len() >= MAX_HUNK_BYTES || ends_a_hunk(&entry.entry.path, lane.repo().hash_key()) {
            self.close_hunk(lane)?;
        }
        Ok(())
    }

    /// Stores the directory.
    ///
    /// # Errors
    /// Any failure to store it.
    pub fn finish(mut self, lane: &mut Lane) -> Result<Listing, RepoError> {
        self.close_hunk(lane)?;
        let directory = match self.hunks.is_empty() {
            true => None,
            false => Some(lane.put(BlobClass::Metadata, &directory_to_bytes(&self.hunks))?),
        };
        Ok(Listing { directory, entries: self.n_entries })
    }

    fn close_hunk(&mut self, lane: &mut Lane) -> Result<(), RepoError> {
        if let Some(first) = self.first.take() {
            let blob = lane.put(BlobClass::Metadata, &self.hunk)?;
            self.hunks.push(Hunk { first, blob, entries: self.n_hunk });
            self.n_entries += self.n_hunk;
            self.n_hunk = 0;
            self.hunk.clear();
        }
        Ok(())
    }
}

fn ends_a_hunk(path: &TreePath, key: HashKey) -> bool {
    let hash = blake3::keyed_hash(&key.0, path.as_bytes());
    hash.as_bytes()
        .first_chunk::<8>()
        .is_some_and(|eight| u64::from_le_bytes(*eight).is_multiple_of(PATHS_PER_HUNK))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hikae_model::FileTime;
    use proptest::prelude::*;

    fn entry(path: &str, kind: EntryKind) -> StoredEntry {
        let attributes = Attributes {
            mode: 0o4755,
            uid: 1000,
            gid: u32::MAX,
            modified: FileTime { seconds: -1, nanoseconds: 999_999_999 },
            changed: FileTime { seconds: 1 << 40, nanoseconds: 0 },
            inode: u64::MAX,
            xattrs: vec![Xattr { name: b"user.note".to_vec(), value: vec![0, 255] }],
        };
        let content = match kind {
            EntryKind::File { size: 1 } => StoredContent::Inline(vec![1, 2, 3]),
            EntryKind::File { .. } => {
                StoredContent::Parts(vec![MapPart { map: BlobId::from_bytes([7; 32]), bytes: 9 }])
            }
            _ => StoredContent::None,
        };
        StoredEntry {
            entry: Entry { path: TreePath::parse(path).unwrap(), kind, attributes },
            content,
            hash: None,
        }
    }

    #[test]
    fn every_kind_of_entry_survives_being_stored() {
        let entries = [
            entry("a", EntryKind::Directory),
            entry("a/file", EntryKind::File { size: 1 }),
            entry("a/large", EntryKind::File { size: u64::MAX }),
            entry("b", EntryKind::Symlink { target: b"\xff/../x".to_vec() }),
            entry("c", EntryKind::HardLink { to: TreePath::parse("a/file").unwrap() }),
            entry("d", EntryKind::Fifo),
            entry("e", EntryKind::Socket),
            entry("f", EntryKind::CharDevice { major: 1, minor: 3 }),
            entry("g", EntryKind::BlockDevice { major: 259, minor: 1 << 20 }),
        ];
        let mut hunk = Vec::new();
        entries.iter().for_each(|entry| entry.put(&mut hunk));
        assert_eq!(parse_hunk(&hunk).unwrap(), entries);
    }

    #[test]
    fn a_listing_out_of_order_is_refused() {
        let mut hunk = Vec::new();
        entry("b", EntryKind::Fifo).put(&mut hunk);
        entry("a", EntryKind::Fifo).put(&mut hunk);
        assert!(parse_hunk(&hunk).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parsers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_hunk(&bytes);
            let _ = parse_directory(&bytes);
        }
    }
}
