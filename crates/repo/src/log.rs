//! The one ordered log: commits, forgets, prunes, writers, recipients, features.
//!
//! Entry `log/<n>` is put with a condition and never replaced, so there is one order of all that ever
//! happened. Each entry is signed and names the hash of the one before. What no entry names does not exist.
//!
//! This module knows what an entry says and how it is stored. What holds after it is in `state`, how it is
//! put in `append`.

use crate::cbor;
use crate::keys::{MetadataKeys, Signer};
use crate::object::{BadObject, ObjectClass, Opened, open_object, seal_object};
use crate::wal::LogFloor;
use hikae_model::{
    EpochId, EvidenceId, IndexId, PackId, RepositoryId, RunId, SessionId, SlotId, SnapshotId, WriterId,
};
use jiff::Timestamp;
use minicbor::decode::{self, Decoder};
use minicbor::encode::{self, Encoder, Write};
use minicbor::{Decode, Encode};

/// BLAKE3 of the stored bytes of an entry. Before the first entry stands `hikae.json`.
pub type EntryHash = [u8; 32];

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LogEntry {
    /// Its number, from 1.
    #[n(0)]
    pub n: u64,
    /// Hash of entry `n - 1`.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub previous: EntryHash,
    /// When it was made, by the writer's clock. Nothing rests on it.
    #[cbor(n(2), with = "cbor::time")]
    pub at: Timestamp,
    /// Nonce of the run: by it a run knows its own entry again.
    #[n(3)]
    pub run: RunId,
    /// What it changes.
    #[n(4)]
    pub change: Change,
}

/// What an entry changes: `[kind, payload]`, where the kind is the place in this list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Snapshots become real, and with them the index objects that they need.
    Commit(Commit),
    /// Snapshots are dropped from the list. What they alone needed goes with the next prune.
    Forget(Forget),
    /// Packs are doomed, index objects come and go.
    Prune(Prune),
    /// Objects that were doomed are gone from the store.
    Removed(Removed),
    /// A writer may take part.
    Enrol(Enrol),
    /// What a writer wrote is no longer reused, and it may not write any more.
    Distrust(WriterId),
    /// Who can open contents from now on.
    Recipients(Vec<String>),
    /// A key slot comes.
    SlotAdded(SlotRef),
    /// A key slot goes.
    SlotRemoved(SlotId),
    /// A key epoch begins, or gets a new wrap.
    Epoch(EpochRef),
    /// A snapshot was restored and compared.
    Evidence(EvidenceRef),
    /// From here on, writers that do not know this feature must not write.
    Feature(String),
    /// Packs or snapshots were found damaged, or well again.
    Damaged(Damaged),
    /// Log of clusters from before a place is no longer kept.
    LogFloors(LogFloors),
    /// What a later release knows. It holds its number; who reads goes on, who would write does not.
    Unknown {
        /// Its kind.
        kind: u32,
    },
}

impl<C> Encode<C> for Change {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, cx: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.array(2)?;
        match self {
            Self::Commit(payload) => e.u32(0)?.encode_with(payload, cx)?,
            Self::Forget(payload) => e.u32(1)?.encode_with(payload, cx)?,
            Self::Prune(payload) => e.u32(2)?.encode_with(payload, cx)?,
            Self::Removed(payload) => e.u32(3)?.encode_with(payload, cx)?,
            Self::Enrol(payload) => e.u32(4)?.encode_with(payload, cx)?,
            Self::Distrust(payload) => e.u32(5)?.encode_with(payload, cx)?,
            Self::Recipients(payload) => e.u32(6)?.encode_with(payload, cx)?,
            Self::SlotAdded(payload) => e.u32(7)?.encode_with(payload, cx)?,
            Self::SlotRemoved(payload) => e.u32(8)?.encode_with(payload, cx)?,
            Self::Epoch(payload) => e.u32(9)?.encode_with(payload, cx)?,
            Self::Evidence(payload) => e.u32(10)?.encode_with(payload, cx)?,
            Self::Feature(payload) => e.u32(11)?.encode_with(payload, cx)?,
            Self::Damaged(payload) => e.u32(12)?.encode_with(payload, cx)?,
            Self::LogFloors(payload) => e.u32(13)?.encode_with(payload, cx)?,
            Self::Unknown { .. } => {
                return Err(encode::Error::message("an entry of an unknown kind is read only"));
            }
        };
        Ok(())
    }
}

impl<'b, C> Decode<'b, C> for Change {
    fn decode(d: &mut Decoder<'b>, cx: &mut C) -> Result<Self, decode::Error> {
        if d.array()? != Some(2) {
            return Err(decode::Error::message("a change has a kind and a payload"));
        }
        Ok(match d.u32()? {
            0 => Self::Commit(d.decode_with(cx)?),
            1 => Self::Forget(d.decode_with(cx)?),
            2 => Self::Prune(d.decode_with(cx)?),
            3 => Self::Removed(d.decode_with(cx)?),
            4 => Self::Enrol(d.decode_with(cx)?),
            5 => Self::Distrust(d.decode_with(cx)?),
            6 => Self::Recipients(d.decode_with(cx)?),
            7 => Self::SlotAdded(d.decode_with(cx)?),
            8 => Self::SlotRemoved(d.decode_with(cx)?),
            9 => Self::Epoch(d.decode_with(cx)?),
            10 => Self::Evidence(d.decode_with(cx)?),
            11 => Self::Feature(d.decode_with(cx)?),
            12 => Self::Damaged(d.decode_with(cx)?),
            13 => Self::LogFloors(d.decode_with(cx)?),
            kind => {
                d.skip()?;
                Self::Unknown { kind }
            }
        })
    }
}

/// A commit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Commit {
    /// The snapshots, new ones or forgotten ones that come back.
    #[n(0)]
    pub snapshots: Vec<SnapshotRef>,
    /// The index objects that name their new packs.
    #[n(1)]
    pub indexes: Vec<IndexId>,
}

/// A snapshot, with what retention and lists need of it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SnapshotRef {
    /// Its name.
    #[n(0)]
    pub id: SnapshotId,
    /// Name of the source.
    #[n(1)]
    pub source: String,
    /// The moment that it shows.
    #[cbor(n(2), with = "cbor::time")]
    pub moment: Timestamp,
    /// True if nothing of the source is missing.
    #[n(3)]
    pub complete: bool,
}

/// A forget.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Forget {
    /// Which snapshots.
    #[n(0)]
    pub snapshots: Vec<SnapshotId>,
    /// Why: the rule, or what the user said.
    #[n(1)]
    pub reason: String,
}

/// A prune. Also merges index objects, then without dooms.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Prune {
    /// Packs that nothing may rely on from here on.
    #[n(0)]
    pub doomed: Vec<PackId>,
    /// Index objects that come.
    #[n(1)]
    pub indexes_added: Vec<IndexAdded>,
    /// Index objects that go, and such as no entry has named: nothing may name them from here on.
    #[n(2)]
    pub indexes_removed: Vec<IndexId>,
    /// All frames less than half alive: writers take their blobs as unknown.
    #[n(3)]
    pub sparse: Vec<FrameName>,
    /// How long what goes stays stored, in seconds.
    #[n(4)]
    pub soft_seconds: u64,
    /// Snapshot records that go: of a forgotten snapshot the soft period begins, and one that no entry has named
    /// none may name from here on.
    #[n(5)]
    pub snapshots: Vec<SnapshotId>,
}

/// An index object that comes with a prune.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct IndexAdded {
    /// Its name.
    #[n(0)]
    pub id: IndexId,
    /// Who vouches for it: the writer whose index objects it takes the place of. Without it a prune would make
    /// everybody's blobs the pruner's, and trust groups would trust what they must not (decision 6).
    #[n(1)]
    pub voucher: WriterId,
}

/// A frame: its session and its number there.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Encode,
    Decode,
    serde::Serialize,
    serde::Deserialize,
)]
#[cbor(array)]
pub struct FrameName {
    /// The session.
    #[n(0)]
    pub session: SessionId,
    /// The number.
    #[n(1)]
    pub number: u32,
}

/// Objects that are gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Removed {
    /// Doomed packs that were removed.
    #[n(0)]
    pub packs: Vec<PackId>,
    /// Index objects that were removed.
    #[n(1)]
    pub indexes: Vec<IndexId>,
    /// Snapshots that cannot come back any more: their records are removed after this entry, unlike the others,
    /// because until then a forgotten snapshot could be brought back under its name.
    #[n(2)]
    pub snapshots: Vec<SnapshotId>,
}

/// Packs and snapshots that were read and found to be no more what they were, and those that are well again.
///
/// A damaged pack stays where it is and readers still try it, for most of its frames may open. But writers
/// store its blobs again, and prune does not count it as a copy. A snapshot whose record is damaged or gone is
/// set aside: it stays in the lists, and nothing counts it as a backup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Damaged {
    /// Found damaged or missing.
    #[n(0)]
    pub packs: Vec<PackId>,
    /// Found well: put back from a copy, or a fault of the store that has passed.
    #[n(1)]
    pub well: Vec<PackId>,
    /// Snapshots whose record was found damaged or missing.
    #[n(2)]
    pub snapshots: Vec<SnapshotId>,
    /// Snapshots whose record is well again.
    #[n(3)]
    pub snapshots_well: Vec<SnapshotId>,
}

/// Floors of the archived write-ahead log: what lies below goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LogFloors {
    /// Up to where nothing is kept, for each cluster.
    #[n(0)]
    pub floors: Vec<LogFloor>,
    /// How long what lies below stays stored, in seconds.
    #[n(1)]
    pub soft_seconds: u64,
    /// Forgotten base backups that were not counted. They may need what lies below: nothing of it goes while one of them
    /// can be brought back.
    #[n(2)]
    pub without: Vec<SnapshotId>,
}

/// A writer comes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Enrol {
    /// Who.
    #[n(0)]
    pub writer: WriterId,
    /// What it may do: a sum of [`Rights`] bits.
    #[n(1)]
    pub rights: u32,
    /// Writers of one group reuse each other's blobs.
    #[n(2)]
    pub group: String,
    /// For people: a host, a person.
    #[n(3)]
    pub label: String,
    /// The only sources of which it may commit snapshots; nothing if it may of any.
    #[n(4)]
    pub sources: Option<Vec<String>>,
}

/// A key slot.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SlotRef {
    /// Its object.
    #[n(0)]
    pub id: SlotId,
    /// What opens it: `passphrase`, `key-file`, `recipient`.
    #[n(1)]
    pub kind: String,
    /// For people.
    #[n(2)]
    pub label: String,
}

/// A key epoch.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct EpochRef {
    /// Its name.
    #[n(0)]
    pub id: EpochId,
    /// Its object in `keys/`.
    #[n(1)]
    pub object: SlotId,
}

/// Evidence.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct EvidenceRef {
    /// Its object.
    #[n(0)]
    pub id: EvidenceId,
    /// The snapshot that was drilled.
    #[n(1)]
    pub snapshot: SnapshotId,
    /// Whether everything held.
    #[n(2)]
    pub passed: bool,
}

/// What a writer may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights(pub u32);

impl Rights {
    /// Commit snapshots, begin epochs, record evidence.
    pub const WRITE: Self = Self(1);
    /// Forget and bring back snapshots.
    pub const FORGET: Self = Self(2);
    /// Doom and remove packs, merge indexes.
    pub const PRUNE: Self = Self(4);
    /// Enrol writers, change recipients, key slots and features.
    pub const ADMIN: Self = Self(8);
    /// Everything.
    pub const ALL: Self = Self(15);

    /// True if these rights include all of `needed`.
    pub fn allow(self, needed: Self) -> bool {
        self.0 & needed.0 == needed.0
    }
}

impl Change {
    /// What its writer must be allowed to do, whatever it is about. An unknown kind takes an administrator: else
    /// anyone could end all writing by releases that do not know it.
    pub fn needs(&self) -> Rights {
        match self {
            Self::Commit(_) | Self::Epoch(_) | Self::Evidence(_) => Rights::WRITE,
            Self::Forget(_) => Rights::FORGET,
            Self::Prune(_) | Self::Removed(_) | Self::Damaged(_) | Self::LogFloors(_) => Rights::PRUNE,
            Self::Enrol(_)
            | Self::Distrust(_)
            | Self::Recipients(_)
            | Self::SlotAdded(_)
            | Self::SlotRemoved(_)
            | Self::Feature(_)
            | Self::Unknown { .. } => Rights::ADMIN,
        }
    }

    /// For people: what an entry of this kind does.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Commit(_) => "commit",
            Self::Forget(_) => "forget",
            Self::Prune(_) => "prune",
            Self::Removed(_) => "removed",
            Self::Enrol(_) => "enrol",
            Self::Distrust(_) => "distrust",
            Self::Recipients(_) => "recipients",
            Self::SlotAdded(_) => "key added",
            Self::SlotRemoved(_) => "key removed",
            Self::Epoch(_) => "key epoch",
            Self::Evidence(_) => "evidence",
            Self::Feature(_) => "feature",
            Self::Damaged(_) => "damaged",
            Self::LogFloors(_) => "log floor",
            Self::Unknown { .. } => "unknown",
        }
    }
}

impl LogEntry {
    /// Signs and seals the entry.
    pub fn seal(&self, repository: RepositoryId, keys: &MetadataKeys, writer: &Signer) -> Vec<u8> {
        seal_object(ObjectClass::LogEntry, &context(repository, self.n), cbor::to_bytes(self), keys, writer)
    }

    /// Opens entry `n` of `repository`.
    ///
    /// # Errors
    /// [`BadObject`] if it is not that entry.
    pub fn open(
        n: u64,
        stored: Vec<u8>,
        repository: RepositoryId,
        keys: &MetadataKeys,
    ) -> Result<(Self, WriterId), BadObject> {
        let Opened { body, writer } =
            open_object(ObjectClass::LogEntry, &context(repository, n), stored, keys)?;
        let entry: Self = cbor::from_bytes(&body)?;
        match entry.n == n {
            true => Ok((entry, writer)),
            false => Err(BadObject::BadBody(format!("it says that it is entry {}", entry.n))),
        }
    }
}

/// What binds a log entry or a checkpoint to its place.
pub(crate) fn context(repository: RepositoryId, n: u64) -> Vec<u8> {
    [repository.as_bytes().as_slice(), &n.to_le_bytes()].concat()
}

/// Hash of a stored entry.
pub fn hash_of(stored: &[u8]) -> EntryHash {
    *blake3::hash(stored).as_bytes()
}
