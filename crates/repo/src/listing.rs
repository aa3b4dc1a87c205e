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
use crate::extent::ExtentMap;
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

impl Hunk {
    /// True if these are its entries, as far as the directory can tell.
    pub fn lists(&self, entries: &[StoredEntry]) -> bool {
        entries.first().is_some_and(|first| first.entry.path == self.first)
            && entries.len() as u64 == self.entries
    }
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
            xattrs: (!xattrs.is_empty()).then(|| {
                let mut xattrs: Vec<_> =
                    xattrs.iter().map(|x| XattrRecord { name: &x.name, value: &x.value }).collect();
                xattrs.sort_unstable_by_key(|x| x.name);
                xattrs
            }),
            hash: self.hash,
        };
        minicbor::encode(&record, hunk).expect("writing to memory does not fail");
    }

    /// Takes an entry off the front of a hunk, if it has what its kind needs and nothing else.
    fn take(hunk: &mut &[u8]) -> Result<Self, BadObject> {
        let bad = |error: &dyn std::fmt::Display| BadObject::BadBody(error.to_string());
        let record: EntryRecord<'_> = cbor::take(hunk)?;
        let path = TreePath::parse(record.path).map_err(|error| bad(&error))?;
        let kind = match (record.kind, record.size, record.link, record.device) {
            (FILE, Some(size), None, None) => EntryKind::File { size },
            (DIRECTORY, None, None, None) => EntryKind::Directory,
            (SYMLINK, None, Some(target), None) => EntryKind::Symlink { target: target.to_vec() },
            (HARD_LINK, None, Some(to), None) => {
                EntryKind::HardLink { to: TreePath::parse(to).map_err(|error| bad(&error))? }
            }
            (FIFO, None, None, None) => EntryKind::Fifo,
            (SOCKET, None, None, None) => EntryKind::Socket,
            (CHAR_DEVICE, None, None, Some((major, minor))) => EntryKind::CharDevice { major, minor },
            (BLOCK_DEVICE, None, None, Some((major, minor))) => EntryKind::BlockDevice { major, minor },
            (FILE..=BLOCK_DEVICE, ..) => return Err(bad(&"an entry has not what its kind needs, or more")),
            (other, ..) => return Err(bad(&format_args!("an entry is of the unknown kind {other}"))),
        };
        let content = match (&kind, record.inline, record.parts) {
            (EntryKind::File { size }, Some(map), None) if ExtentMap::length_of(map)? == *size => {
                StoredContent::Inline(map.to_vec())
            }
            (EntryKind::File { size }, None, Some(parts)) if length_of(&parts) == Some(*size) => {
                StoredContent::Parts(parts)
            }
            (EntryKind::File { .. }, Some(_), None) | (EntryKind::File { .. }, None, Some(_)) => {
                return Err(bad(&"a content is not as long as its file"));
            }
            (EntryKind::File { .. }, ..) => return Err(bad(&"a file has not one content")),
            (_, None, None) if record.hash.is_none() => StoredContent::None,
            _ => return Err(bad(&"an entry that is no file has a content")),
        };
        if matches!(&kind, EntryKind::HardLink { to } if *to >= path) {
            return Err(bad(&"a hard link is to no file before it"));
        }
        let is_time = |time: (i64, u32)| time.1 < 1_000_000_000;
        if record.mode >= 1 << 12 || !is_time(record.modified) || !is_time(record.changed) {
            return Err(bad(&"an entry has a mode or a time that there is not"));
        }
        let xattrs = record.xattrs.unwrap_or_default();
        if !xattrs.is_sorted_by(|a, b| a.name < b.name) {
            return Err(bad(&"extended attributes are not in order"));
        }
        Ok(Self {
            entry: Entry {
                path,
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

/// Length of a content in parts.
fn length_of(parts: &[MapPart]) -> Option<u64> {
    parts.iter().try_fold(0_u64, |bytes, part| bytes.checked_add(part.bytes))
}

/// The entries of a hunk.
///
/// # Errors
/// [`BadObject`] if it is none. Entries that are not in path order are an error: a reader may then stop at
/// the first path beyond what it looks for. So are entries that say two things about what they are.
pub fn parse_hunk(hunk: &[u8]) -> Result<Vec<StoredEntry>, BadObject> {
    let mut rest = hunk;
    let mut entries: Vec<StoredEntry> = Vec::new();
    while !rest.is_empty() {
        let entry = StoredEntry::take(&mut rest)?;
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
    use crate::extent::Extent;
    use hikae_model::FileTime;
    use proptest::prelude::*;

    fn inline(bytes: u64) -> StoredContent {
        let mut map = ExtentMap::default();
        map.push(Extent::Data { blob: BlobId::from_bytes([1; 32]), offset: 3, bytes });
        StoredContent::Inline(map.to_bytes())
    }

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
            EntryKind::File { size: 1 } => inline(1),
            EntryKind::File { size } => {
                let part = |n, bytes| MapPart { map: BlobId::from_bytes([n; 32]), bytes };
                StoredContent::Parts(vec![part(7, size.saturating_sub(1)), part(8, 1)])
            }
            _ => StoredContent::None,
        };
        StoredEntry {
            entry: Entry { path: TreePath::parse(path).unwrap(), kind, attributes },
            content,
            hash: None,
        }
    }

    /// Keeps MK-20.
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

    #[track_caller]
    fn refused(entry: &StoredEntry, why: &str) {
        let mut hunk = Vec::new();
        entry.put(&mut hunk);
        let error = parse_hunk(&hunk).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn a_content_that_is_not_as_long_as_its_file_is_refused() {
        let file = |size| entry("file", EntryKind::File { size });
        for content in [inline(8), inline(10), StoredContent::Inline(ExtentMap::default().to_bytes())] {
            refused(&StoredEntry { content, ..file(9) }, "not as long as its file");
        }
        let part = |bytes| MapPart { map: BlobId::from_bytes([7; 32]), bytes };
        for parts in [vec![], vec![part(8)], vec![part(9), part(1)], vec![part(u64::MAX), part(10)]] {
            refused(
                &StoredEntry { content: StoredContent::Parts(parts), ..file(9) },
                "not as long as its file",
            );
        }
        refused(&StoredEntry { content: StoredContent::None, ..file(0) }, "a file has not one content");
    }

    #[test]
    fn only_a_file_has_a_content_and_a_hash() {
        let directory = || entry("directory", EntryKind::Directory);
        refused(&StoredEntry { content: inline(1), ..directory() }, "no file has a content");
        refused(&StoredEntry { hash: Some([0; 32]), ..directory() }, "no file has a content");
    }

    /// The bytes of an entry as one sees them whose program is not ours: with `field` set to `value` as well.
    fn with_field(stored: &StoredEntry, field: u8, value: &[u8]) -> Vec<u8> {
        let mut hunk = Vec::new();
        stored.put(&mut hunk);
        let before: Vec<_> = (0..field).flat_map(|n| field_of(&hunk, n)).collect();
        let after: Vec<_> = (field + 1..16).flat_map(|n| field_of(&hunk, n)).collect();
        let n_fields = (0..16).filter(|n| *n == field || !field_of(&hunk, *n).is_empty()).count();
        [&[0xa0 + n_fields as u8][..], &before, &[field], value, &after].concat()
    }

    fn field_of(record: &[u8], wanted: u8) -> Vec<u8> {
        let mut decoder = minicbor::Decoder::new(record);
        for _ in 0..decoder.map().unwrap().unwrap() {
            let start = decoder.position();
            let field = decoder.u8().unwrap();
            decoder.skip().unwrap();
            if field == wanted {
                return record[start..decoder.position()].to_vec();
            }
        }
        Vec::new()
    }

    #[test]
    fn an_entry_with_a_field_of_another_kind_is_refused() {
        let file = entry("file", EntryKind::File { size: 1 });
        let fifo = entry("fifo", EntryKind::Fifo);
        let link = entry("link", EntryKind::Symlink { target: b"x".to_vec() });
        assert!(parse_hunk(&with_field(&file, 2, &[0x01])).is_ok(), "another mode is one");
        let part = [&[0x81, 0x82, 0x58, 32][..], &[7; 32], &[1]].concat();
        for (what, entry, field, value) in [
            ("two contents", &file, 10, part.as_slice()),
            ("a file with a target", &file, 11, &[0x41, b'x']),
            ("a file with a device", &file, 12, &[0x82, 1, 1]),
            ("a fifo with a size", &fifo, 8, &[0]),
            ("a fifo with a content", &fifo, 9, &[0x40]),
            ("a link with a device", &link, 12, &[0x82, 1, 1]),
            ("no kind", &fifo, 1, &[0]),
            ("an unknown kind", &fifo, 1, &[9]),
            ("a mode with a type", &fifo, 2, &[0x19, 0x10, 0]),
            ("a second of too many nanoseconds", &fifo, 5, &[0x82, 0, 0x1a, 0x3b, 0x9a, 0xca, 0]),
            ("attributes twice", &fifo, 13, &[0x82, 0x82, 0x41, b'a', 0x40, 0x82, 0x41, b'a', 0x40]),
        ] {
            assert!(parse_hunk(&with_field(entry, field, value)).is_err(), "{what}");
        }
    }

    #[test]
    fn a_hard_link_to_what_comes_later_or_to_itself_is_refused() {
        for to in ["b", "c"] {
            let to = TreePath::parse(to).unwrap();
            refused(&entry("b", EntryKind::HardLink { to }), "to no file before it");
        }
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
