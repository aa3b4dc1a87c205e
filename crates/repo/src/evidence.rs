//! Evidence: the signed record that a snapshot was restored and compared.
//!
//! - A record is bound to its repository and its snapshot: it opens for no other.
//! - It counts once an entry of the log names it. It names the end of the log before the drill, so it cannot
//!   have been made earlier than that.
//! - Whether it passed follows from its checks. A record without a check has not passed.
//!
//! This module knows what was found. It does not know how a drill is done.

use crate::RepoError;
use crate::cbor;
use crate::keys::{MetadataKeys, Signer};
use crate::layout;
use crate::log::{Change, EntryHash, EvidenceRef, Rights, hash_of};
use crate::object::{BadObject, ObjectClass, open_object, seal_object};
use crate::repo::Repo;
use hikae_model::{EvidenceId, RepositoryId, SnapshotId, WriterId, sabotage};
use jiff::Timestamp;
use minicbor::{Decode, Encode};

/// What a drill found.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct EvidenceRecord {
    /// The snapshot that was restored.
    #[n(0)]
    pub snapshot: SnapshotId,
    /// Its source.
    #[n(1)]
    pub source: String,
    /// What was done: `restore` into a scratch target, `sample` of files.
    #[n(2)]
    pub kind: String,
    /// What was compared.
    #[n(3)]
    pub checks: Vec<CheckRecord>,
    /// How long each part took, in order.
    #[n(4)]
    pub phases: Vec<PhaseRecord>,
    /// From the decision to restore until the source could have served again, in microseconds: the measured
    /// recovery time.
    #[n(5)]
    pub recovery_microseconds: u64,
    /// The moment that was recovered: all that came after it would have been lost.
    #[cbor(n(6), with = "cbor::time")]
    pub recovered_moment: Timestamp,
    /// Bytes that were restored.
    #[n(7)]
    pub restored_bytes: u64,
    /// Versions of the tools that took part, as `pg_restore` and `17.12`.
    #[n(8)]
    pub tools: Vec<(String, String)>,
    /// The release that did it.
    #[n(9)]
    pub release: String,
    /// The host on which it was done.
    #[n(10)]
    pub host: String,
    /// Number of the last log entry before the drill.
    #[n(11)]
    pub log_n: u64,
    /// Its hash.
    #[cbor(n(12), with = "minicbor::bytes")]
    pub log_hash: EntryHash,
    /// When it began.
    #[cbor(n(13), with = "cbor::time")]
    pub started: Timestamp,
    /// When it ended.
    #[cbor(n(14), with = "cbor::time")]
    pub finished: Timestamp,
}

/// One comparison.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CheckRecord {
    /// What was compared, as `rows of public.orders`.
    #[n(0)]
    pub name: String,
    /// What the manifest says.
    #[n(1)]
    pub expected: String,
    /// What was found.
    #[n(2)]
    pub actual: String,
    /// Whether that will do.
    #[n(3)]
    pub passed: bool,
}

/// One part of a drill.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PhaseRecord {
    /// As `fetch`, `load`, `check`.
    #[n(0)]
    pub name: String,
    /// How long it took.
    #[n(1)]
    pub microseconds: u64,
}

/// Evidence as it stands in the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Its name.
    pub id: EvidenceId,
    /// Who signed it.
    pub writer: WriterId,
    /// What it says.
    pub record: EvidenceRecord,
}

impl EvidenceRecord {
    /// True if there were checks and all of them passed.
    pub fn passed(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.passed)
    }

    /// Signs and seals the record: its name and its stored bytes.
    pub fn seal(
        &self,
        repository: RepositoryId,
        keys: &MetadataKeys,
        writer: &Signer,
    ) -> (EvidenceId, Vec<u8>) {
        let context = context(repository, self.snapshot);
        let stored = seal_object(ObjectClass::Evidence, &context, cbor::to_bytes(self), keys, writer);
        (EvidenceId::from_bytes(hash_of(&stored)), stored)
    }

    /// Opens stored evidence about `reference.snapshot`.
    ///
    /// # Errors
    /// [`BadObject`] if it is other evidence, or about something else.
    pub fn open(
        reference: &EvidenceRef,
        stored: Vec<u8>,
        repository: RepositoryId,
        keys: &MetadataKeys,
    ) -> Result<(Self, WriterId), BadObject> {
        if hash_of(&stored) != *reference.id.as_bytes() {
            return Err(BadObject::BrokenSeal);
        }
        let context = context(repository, reference.snapshot);
        let opened = open_object(ObjectClass::Evidence, &context, stored, keys)?;
        let record: Self = cbor::from_bytes(&opened.body)?;
        let differs = |what: &str| Err(BadObject::BadBody(what.to_owned()));
        if record.snapshot != reference.snapshot {
            return differs("it is about another snapshot");
        }
        if record.passed() != reference.passed {
            return differs("it does not say what the log says of it");
        }
        Ok((record, opened.writer))
    }
}

/// Stores evidence and names it in the log.
///
/// # Errors
/// [`RepoError::BadKey`] if the snapshot is not there, [`RepoError::BadLog`] if the record does not name an
/// entry of this log, [`RepoError::NoRight`].
pub fn put_evidence(repo: &Repo, record: &EvidenceRecord) -> Result<EvidenceId, RepoError> {
    let log_hash = match record.log_n {
        0 => Some(hash_of(&repo.header().to_bytes())),
        n => repo.read_entry(n)?.map(|(_, _, hash)| hash),
    };
    if log_hash != Some(record.log_hash) {
        let why = "is not the one that the drill began with".to_owned();
        return Err(RepoError::BadLog { n: record.log_n, why });
    }
    let (id, stored) = record.seal(repo.header().core.repository, repo.keys(), repo.signer());
    repo.put_named(&layout::evidence(id), &stored)?;
    let reference = EvidenceRef { id, snapshot: record.snapshot, passed: record.passed() };
    repo.append(&mut |state| match state.snapshots.contains_key(&record.snapshot) {
        true => Ok(Change::Evidence(reference.clone())),
        false => {
            let what = format!("snapshot {} is not there any more", record.snapshot.short());
            Err(RepoError::BadKey { what })
        }
    })?;
    Ok(id)
}

/// Reads evidence that the log names.
///
/// # Errors
/// [`RepoError::Damaged`] if it was changed, is about another snapshot, or was signed by somebody who may not
/// give evidence here.
pub fn read_evidence(repo: &Repo, reference: &EvidenceRef) -> Result<Evidence, RepoError> {
    let key = layout::evidence(reference.id);
    let stored = repo.store().get(&key)?;
    let opened = EvidenceRecord::open(reference, stored, repo.header().core.repository, repo.keys());
    let (record, writer) = opened.map_err(RepoError::damaged(key.clone()))?;
    match repo.state().rights_of(writer).allow(Rights::WRITE) || sabotage::on("evidence-of-strangers") {
        true => Ok(Evidence { id: reference.id, writer, record }),
        false => Err(RepoError::damaged(key)(BadObject::BadSignature)),
    }
}

fn context(repository: RepositoryId, snapshot: SnapshotId) -> Vec<u8> {
    [repository.as_bytes().as_slice(), snapshot.as_bytes()].concat()
}
