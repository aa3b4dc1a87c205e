//! What a repository has let go: names that must not live again there (rule R7), and snapshots that it once had.
//!
//! The state forgets a doomed name once the object is gone, and who had read the doom may still remove the object later.
//! Packs and records that are made there have names that never were; those that a copy brings have theirs already. So it
//! asks the whole log, which is never removed. Each machine reads an entry for this once and remembers.

use crate::RepoError;
use crate::cbor;
use crate::log::{Change, EntryHash, SnapshotRef};
use crate::repo::Repo;
use hikae_model::{PackId, SnapshotId};
use jiff::Timestamp;
use minicbor::{Decode, Encode};
use std::collections::BTreeSet;

/// What the log up to an entry has let go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LetGo {
    /// The last entry that was read.
    #[n(0)]
    n: u64,
    /// Its hash.
    #[cbor(n(1), with = "minicbor::bytes")]
    head: EntryHash,
    /// Packs that were ever doomed. An entry that is void counts here too: it does no harm.
    #[n(2)]
    packs: BTreeSet<PackId>,
    /// Snapshot records that were ever doomed or removed.
    #[n(3)]
    records: BTreeSet<SnapshotId>,
    /// Snapshots that were ever committed.
    #[n(4)]
    had: Vec<SnapshotRef>,
}

impl LetGo {
    /// Reads the log of a repository up to the state that was read last.
    ///
    /// # Errors
    /// Any failure to read an entry.
    pub fn read(repo: &Repo) -> Result<Self, RepoError> {
        let state = repo.state();
        let mut let_go = Self::remembered(repo)?;
        for n in let_go.n + 1..=state.n {
            let (entry, _, hash) = repo.read_entry(n)?.ok_or_else(|| RepoError::BadLog {
                n,
                why: "is missing, and later ones are there".to_owned(),
            })?;
            (let_go.n, let_go.head) = (n, hash);
            match entry.change {
                Change::Commit(commit) => let_go.had.extend(commit.snapshots),
                Change::Prune(prune) => {
                    let_go.packs.extend(prune.doomed);
                    let_go.records.extend(prune.snapshots);
                }
                Change::Removed(removed) => let_go.records.extend(removed.snapshots),
                _ => {}
            }
        }
        let_go.remember(repo);
        Ok(let_go)
    }

    /// True if this name was once a doomed pack's.
    pub(super) fn has_let_go_pack(&self, pack: PackId) -> bool {
        self.packs.contains(&pack)
    }

    /// True if this name was once a record's that went.
    pub(super) fn has_let_go_record(&self, snapshot: SnapshotId) -> bool {
        self.records.contains(&snapshot)
    }

    /// True if the repository has, or once had, the snapshot of this source and moment, under whatever name.
    pub fn ever_had(&self, source: &str, moment: Timestamp) -> bool {
        self.had.iter().any(|had| had.moment == moment && had.source == source)
    }

    /// What this machine remembers, if the log still is the one that it has read.
    fn remembered(repo: &Repo) -> Result<Self, RepoError> {
        let Ok(bytes) = std::fs::read(repo.let_go_memory()) else { return Ok(Self::default()) };
        let Some((body, sum)) = bytes.split_last_chunk::<32>() else { return Ok(Self::default()) };
        if check_sum(repo, body) != *sum {
            return Ok(Self::default());
        }
        let Ok(let_go) = cbor::from_bytes::<Self>(body) else { return Ok(Self::default()) };
        let is_of_this_log = let_go.n <= repo.state().n
            && repo.read_entry(let_go.n)?.is_some_and(|(_, _, hash)| hash == let_go.head);
        Ok(if is_of_this_log { let_go } else { Self::default() })
    }

    /// A failure costs reading time and nothing else.
    fn remember(&self, repo: &Repo) {
        let path = repo.let_go_memory();
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let body = cbor::to_bytes(self);
        let bytes = [body.as_slice(), check_sum(repo, &body).as_bytes()].concat();
        if std::fs::write(&temporary, bytes).is_ok() {
            drop(std::fs::rename(&temporary, &path));
        }
    }
}

fn check_sum(repo: &Repo, body: &[u8]) -> blake3::Hash {
    blake3::Hasher::new_keyed(&repo.hash_key().0).update(b"let go").update(body).finalize()
}
