//! A repository on a faulty store, opened by any number of processes, and what must be true of it at any time.

use crate::world::{KEY, Tree, World, backup, noise, restore};
use hikae_model::{Cut, Cx, PackId, SnapshotId};
use hikae_repo::keys::{Secret32, Signer};
use hikae_repo::log::Change;
use hikae_repo::prune::{PruneOptions, PruneReport, RemovalReport, prune, remove_doomed};
use hikae_repo::reach::Named;
use hikae_repo::reader::BlobReader;
use hikae_repo::recipient::Identity;
use hikae_repo::slot::{self, Payload, Unlock, Wrap};
use hikae_repo::state::State;
use hikae_repo::{Repo, RepoError, forget, layout};
use hikae_store::{MemoryStore, Store};
use hikae_testkit::{FaultyStore, Seed, TestCx};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// How long a prune that is not asked otherwise leaves what it dooms.
pub const SOFT: Duration = Duration::from_secs(14 * 86_400);

/// A repository in a memory store whose clock is the context's.
pub struct Lab {
    pub memory: MemoryStore,
    /// The same store, for faults. A process over `memory` meets none.
    pub faulty: FaultyStore,
    pub cx: TestCx,
}

/// One process: the repository opened with a cache of its own.
pub struct Process {
    pub repo: Arc<Repo>,
    pub cx: Cx,
    _cache: tempfile::TempDir,
}

impl Lab {
    pub fn new(seed: u64) -> Self {
        let cx = TestCx::new(Seed(seed));
        let memory = MemoryStore::with_clock(cx.clock.clone());
        World::with(Arc::new(memory.clone()), (*cx).clone());
        Self { faulty: FaultyStore::new(memory.clone()), memory, cx }
    }

    /// The same repository as it is now, in a store of its own.
    pub fn fork(&self) -> Self {
        let memory = self.memory.fork();
        Self { faulty: FaultyStore::new(memory.clone()), memory, cx: self.cx.clone() }
    }

    /// The same repository as it is now, in a store, near or far, and a time of its own: what happens in another thread is
    /// not felt here.
    pub fn fork_in_time(&self, seed: Seed, is_far: bool) -> Self {
        let cx = self.cx.fork(seed);
        let memory = self.memory.fork().on_clock(cx.clock.clone());
        let memory = if is_far { memory.far() } else { memory };
        Self { faulty: FaultyStore::new(memory.clone()), memory, cx }
    }

    /// The same store and the same faults once more.
    pub fn same(&self) -> Self {
        Self { memory: self.memory.clone(), faulty: self.faulty.clone(), cx: self.cx.clone() }
    }

    /// Opens it, past all faults.
    pub fn open(&self) -> Process {
        self.open_with_key(KEY)
    }

    /// The same as a writer that has a key of its own.
    pub fn open_with_key(&self, key: [u8; 32]) -> Process {
        Process::over(Arc::new(self.memory.clone()), key, &self.cx).unwrap()
    }

    /// Opens it over the store with the faults.
    pub fn open_faulty(&self) -> Result<Process, RepoError> {
        Process::over(Arc::new(self.faulty.clone()), KEY, &self.cx)
    }

    /// Opens it as a writer who opens no contents but by these identities.
    pub fn open_as(&self, signer: &Signer, identities: Vec<Identity>) -> Process {
        let owner = self.open();
        let keys = Box::new(owner.repo.keys().clone());
        let payload = Payload::Writer { keys, signer: Signer::from_seed(signer.seed()) };
        let key = Secret32::new(*signer.id().as_bytes());
        let header = owner.repo.header().core.hash();
        let (id, slot) = slot::make(&payload, header, &Wrap::KeyFile(&key), &self.cx).unwrap();
        self.memory.put(&layout::slot(id), &slot).unwrap();
        let cache = tempfile::tempdir().unwrap();
        let store = Arc::new(self.memory.clone());
        let repo = Repo::open(store, Unlock::KeyFile(key), identities, cache.path(), &self.cx).unwrap();
        // Its key is not the repository's business here.
        self.memory.remove(&layout::slot(id)).unwrap();
        Process { repo: Arc::new(repo), cx: (*self.cx).clone(), _cache: cache }
    }

    /// Sees that everything holds that must hold at any time. Gives what each listed snapshot restores to.
    #[track_caller]
    pub fn check(&self) -> BTreeMap<SnapshotId, Tree> {
        let process = self.open();
        check_repository(&process.repo, &self.memory);
        process.snapshots().into_iter().map(|id| (id, restore(&process.repo, id).unwrap())).collect()
    }
}

impl Process {
    fn over(store: Arc<dyn Store>, key: [u8; 32], cx: &Cx) -> Result<Self, RepoError> {
        let cache = tempfile::tempdir().unwrap();
        let unlock = Unlock::KeyFile(Secret32::new(key));
        let repo = Arc::new(Repo::open(store, unlock, Vec::new(), cache.path(), cx)?);
        Ok(Self { repo, cx: cx.clone(), _cache: cache })
    }

    pub fn backup(&self, tree: &Tree) -> Result<SnapshotId, RepoError> {
        Ok(backup(&self.repo, tree, Cut::Files, None)?.snapshots[0])
    }

    pub fn forget(&self, id: SnapshotId) -> Result<(), RepoError> {
        let what = forget::ToForget::Snapshots([id].into());
        let options = forget::ForgetOptions { even_last: true, even_many: true };
        forget::forget(&self.repo, &what, "the test said so", options, &self.cx).map(drop)
    }

    pub fn prune(&self, options: &PruneOptions) -> Result<PruneReport, RepoError> {
        prune(&self.repo, options, &self.cx)
    }

    pub fn remove(&self) -> Result<RemovalReport, RepoError> {
        remove_doomed(&self.repo, &self.cx)
    }

    pub fn snapshots(&self) -> Vec<SnapshotId> {
        self.repo.follow().unwrap().snapshots.keys().copied().collect()
    }
}

/// Prune that keeps nothing longer than it must.
pub fn greedy() -> PruneOptions {
    PruneOptions { soft: Duration::ZERO, ..eager() }
}

/// Prune with a soft period that copies and dooms as much as it can.
pub fn eager() -> PruneOptions {
    PruneOptions {
        soft: SOFT,
        orphan_grace: Duration::ZERO,
        max_unused_percent: 0,
        small_packs: 3,
        small_indexes: 3,
        even_without_snapshots: true,
        ..PruneOptions::default()
    }
}

/// A few files of which `number` and `shared` stand for what changed and what did not.
pub fn tree(number: u64, shared: u64) -> Tree {
    let mut tree: Tree = (0..3)
        .map(|n| (format!("own-{n}"), noise(number * 100 + n, 2_000 + n as usize * 1_000)))
        .chain((0..4).map(|n| (format!("shared-{n}"), noise(1_000_000 + shared * 100 + n, 3_000))))
        .collect();
    tree.insert("number".to_owned(), number.to_string().into_bytes());
    tree
}

/// The obligations of the prune protocol, as far as one can see them in a repository that nobody changes:
///
/// - every blob that a listed snapshot needs is named by a living index in a pack that is stored and not
///   doomed (PO1, PO2, PO10);
/// - no living index names a pack that is doomed or missing (PO3, PO5);
/// - the record of every snapshot that is listed or forgotten is stored, and none of the former is doomed;
/// - the log from its first entry gives the same state as from a checkpoint, and commits each snapshot once,
///   and once more after each forget (PO4).
#[track_caller]
pub fn check_repository(repo: &Repo, store: &dyn Store) {
    let state = repo.follow().unwrap();
    let mut stored = HashSet::new();
    store.list("packs", &mut |object| stored.extend(layout::name_of::<PackId>(&object.key))).unwrap();
    let index = repo.index().unwrap();
    for pack in index.packs() {
        assert!(!state.doomed.contains_key(&pack.id), "a living index names doomed pack {}", pack.id.short());
        assert!(stored.contains(&pack.id), "a living index names missing pack {}", pack.id.short());
    }
    let mut reader = BlobReader::new(repo).unwrap();
    for id in state.snapshots.keys() {
        let snapshot = repo.snapshot(*id).unwrap();
        let named = Named { id: *id, record: &snapshot.record };
        let mut show = |_, blob| {
            let places = index.find(blob, &|pack| stored.contains(&pack) && state.is_good(pack))?;
            assert!(!places.is_empty(), "snapshot {} has lost a blob", id.short());
            Ok(())
        };
        reader.each_blob(named, &mut show).unwrap();
    }
    for id in state.forgotten.keys().filter(|id| !state.set_aside.contains(id)) {
        repo.snapshot(*id).unwrap_or_else(|error| panic!("the record of forgotten {}: {error}", id.short()));
    }
    assert!(state.indexes.keys().all(|id| !state.stale_indexes.contains_key(id)), "a doomed index counts");
    assert!(state.snapshots.keys().all(|id| state.doom_of(*id).is_none()), "a doomed record is listed");
    check_log(repo, &state);
}

#[track_caller]
fn check_log(repo: &Repo, state: &State) {
    let mut replayed = State::begin(repo.header());
    let mut listed = BTreeSet::new();
    for n in 1..=state.n {
        let (entry, writer, hash) = repo.read_entry(n).unwrap().expect("entries are never removed");
        match &entry.change {
            Change::Commit(commit) => {
                for snapshot in &commit.snapshots {
                    assert!(listed.insert(snapshot.id), "entry {n} commits {} again", snapshot.id.short());
                }
            }
            Change::Forget(forget) => {
                for id in &forget.snapshots {
                    assert!(listed.remove(id), "entry {n} forgets {} again", id.short());
                }
            }
            _ => {}
        }
        replayed.apply(&entry, writer, hash).unwrap();
    }
    assert!(replayed == *state, "the log and the checkpoint disagree");
    assert_eq!(listed, state.snapshots.keys().copied().collect());
}
