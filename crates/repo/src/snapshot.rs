//! Snapshot records: one source at one moment.
//!
//! A record is immutable, signed by its writer, and real once an entry of the log names it.

use crate::RepoError;
use crate::cbor;
use crate::keys::MetadataKeys;
use crate::layout;
use crate::object::{BadObject, ObjectClass, open_object, seal_object};
use crate::repo::Repo;
use hikae_model::{BlobId, RunId, SnapshotId, WriterId};
use hikae_store::Store;
use jiff::Timestamp;
use minicbor::{Decode, Encode};

/// What is known of a snapshot without opening any content.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SnapshotRecord {
    /// Name of the source.
    #[n(0)]
    pub source: String,
    /// Kind of the source: `files`, `sqlite`, `postgresql`.
    #[n(1)]
    pub kind: String,
    /// The run that made it. Snapshots of one run belong together.
    #[n(2)]
    pub run: RunId,
    /// The moment that it shows.
    #[cbor(n(3), with = "cbor::time")]
    pub moment: Timestamp,
    /// When reading began.
    #[cbor(n(4), with = "cbor::time")]
    pub started: Timestamp,
    /// When all of it was stored.
    #[cbor(n(5), with = "cbor::time")]
    pub finished: Timestamp,
    /// The host that read it.
    #[n(6)]
    pub host: String,
    /// `daily`, `weekly`, `monthly` or `manual`: why it was taken.
    #[n(7)]
    pub purpose: String,
    /// What the user said of it.
    #[n(8)]
    pub description: Option<String>,
    /// True if nothing of the source is missing.
    #[n(9)]
    pub complete: bool,
    /// How many problems there were.
    #[n(10)]
    pub n_problems: u64,
    /// Blob of metadata with the problems, as JSON.
    #[n(11)]
    pub problems: Option<BlobId>,
    /// Blob of metadata with the directory of hunks: equal entries, equal name. Nothing if there are none.
    #[n(12)]
    pub listing: Option<BlobId>,
    /// How many entries.
    #[n(13)]
    pub entries: u64,
    /// Bytes of content, holes counted.
    #[n(14)]
    pub bytes: u64,
    /// Bytes of content that were read from the source; the others were known to be unchanged.
    #[n(15)]
    pub read_bytes: u64,
    /// Bytes that this snapshot added to the repository, compressed and sealed.
    #[n(16)]
    pub added_bytes: u64,
    /// Blob of metadata with what must hold after a restore, as JSON.
    #[n(17)]
    pub manifest: Option<BlobId>,
    /// The snapshot that served as the parent.
    #[n(18)]
    pub parent: Option<SnapshotId>,
    /// The release that wrote it.
    #[n(19)]
    pub release: String,
    /// Drawn when it is stored, so that a record never gets the name of an earlier one: prune may have doomed
    /// that.
    #[cbor(n(20), with = "minicbor::bytes")]
    pub nonce: [u8; 16],
}

/// A snapshot record as it stands in the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name.
    pub id: SnapshotId,
    /// Who wrote it.
    pub writer: WriterId,
    /// What it says.
    pub record: SnapshotRecord,
}

impl Snapshot {
    /// Stores a record under a name that was never there.
    ///
    /// # Errors
    /// Any failure of the store.
    pub(crate) fn put(repo: &Repo, record: &SnapshotRecord) -> Result<Self, RepoError> {
        let record = SnapshotRecord { nonce: repo.cx().random(), ..record.clone() };
        let stored =
            seal_object(ObjectClass::Snapshot, b"", cbor::to_bytes(&record), repo.keys(), repo.signer());
        let id = SnapshotId::from_bytes(*blake3::hash(&stored).as_bytes());
        let key = layout::snapshot(id);
        repo.put_named(&key, &stored)?;
        repo.near().keep(&key, &stored);
        Ok(Self { id, writer: repo.signer().id(), record })
    }

    /// Reads a record out of the store, with its stored bytes, which are right.
    ///
    /// # Errors
    /// [`RepoError::Damaged`] if it is not the record that its name promises.
    pub(crate) fn read_stored(
        store: &dyn Store,
        id: SnapshotId,
        keys: &MetadataKeys,
    ) -> Result<(Self, Vec<u8>), RepoError> {
        let key = layout::snapshot(id);
        let stored = store.get(&key)?;
        let opened = Self::open(id, stored.clone(), keys).map_err(RepoError::damaged(key))?;
        Ok((opened, stored))
    }

    /// Opens the stored bytes of a record.
    ///
    /// # Errors
    /// [`BadObject`] if they are not the record that its name promises.
    pub fn open(id: SnapshotId, stored: Vec<u8>, keys: &MetadataKeys) -> Result<Self, BadObject> {
        if blake3::hash(&stored).as_bytes() != id.as_bytes() {
            return Err(BadObject::BrokenSeal);
        }
        let opened = open_object(ObjectClass::Snapshot, b"", stored, keys)?;
        Ok(Self { id, writer: opened.writer, record: cbor::from_bytes(&opened.body)? })
    }
}
