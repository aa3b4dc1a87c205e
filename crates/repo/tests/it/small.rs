//! A repository as small as can be that holds every class of object, for tests that try every harm.

use crate::world::{KEY, Tree, World, backup, noise};
use hikae_model::{Cut, PackId, SnapshotId, SystemId, WalName};
use hikae_repo::evidence::{CheckRecord, EvidenceRecord, PhaseRecord, put_evidence};
use hikae_repo::keys::{Secret32, Signer};
use hikae_repo::log::{Change, Enrol, Forget, Prune, Rights, SlotRef};
use hikae_repo::prune::{BundleOptions, bundle_log, remove_doomed};
use hikae_repo::slot::{KdfCost, Payload, Unlock, Wrap};
use hikae_repo::wal::WalArchive;
use hikae_repo::{Repo, RepoError, layout, slot};
use hikae_store::{MemoryStore, ObjectKey, Store};
use hikae_testkit::{Seed, TestCx};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A small repository and what must come out of it.
pub struct Small {
    pub store: MemoryStore,
    /// The snapshots that are there, and what they hold.
    pub trees: BTreeMap<SnapshotId, Tree>,
}

/// The key file of a writer that opens no content.
pub const WRITER_KEY: [u8; 32] = [43; 32];

impl Small {
    pub fn build() -> Self {
        let cx = TestCx::new(Seed(1));
        let store = MemoryStore::with_clock(cx.clock.clone());
        let world = World::with(Arc::new(store.clone()), (*cx).clone());
        let repo = &world.repo;
        let mut trees = BTreeMap::new();

        let forgotten = backup(repo, &tree(0), Cut::Files, None).unwrap().snapshots[0];
        for (n, cut) in [(1, Cut::Files), (2, Cut::Pages(64))] {
            let id = backup(repo, &tree(n), cut, None).unwrap().snapshots[0];
            trees.insert(id, tree(n));
        }
        let forget = Forget { snapshots: vec![forgotten], reason: "a test".to_owned() };
        repo.append(&mut |_| Ok(Change::Forget(forget.clone()))).unwrap();
        put_evidence(repo, &evidence(repo, *trees.keys().next().unwrap())).unwrap();
        repo.add_slot(&Wrap::Passphrase("a passphrase", KdfCost::FLOOR), "").unwrap();
        add_writer(repo, &WRITER_KEY, Rights::WRITE);
        let prune = Prune { doomed: vec![PackId::from_bytes([1; 32])], soft_seconds: 9, ..Prune::default() };
        repo.append(&mut |_| Ok(Change::Prune(prune.clone()))).unwrap();
        while repo.state().n < 32 {
            repo.append(&mut |_| Ok(Change::Removed(Default::default()))).unwrap();
        }
        let wal = WalArchive::of(repo);
        for (name, content) in log_files() {
            wal.push(SYSTEM, name, &mut &*content).unwrap();
        }
        // Two of them in a bundle, and no longer by themselves.
        let options = BundleOptions {
            soft: Duration::ZERO,
            small_bytes: 2_000,
            most_files: 2,
            fewest_files: 2,
            ..BundleOptions::default()
        };
        assert_eq!(bundle_log(repo, &options, repo.cx()).unwrap().n_files, 2);
        assert_eq!(remove_doomed(repo, repo.cx()).unwrap().n_bundled, 2);
        repo.append(&mut |_| Ok(Change::Removed(Default::default()))).unwrap();
        Self { store, trees }
    }

    pub fn bytes(&self) -> u64 {
        let mut bytes = 0;
        self.store.list("", &mut |object| bytes += object.bytes).unwrap();
        bytes
    }
}

/// The cluster whose write-ahead log is kept.
pub const SYSTEM: SystemId = SystemId(7_000_000_000_000_000_001);

/// Its files.
pub fn log_files() -> [(WalName, Vec<u8>); 4] {
    [
        ("000000010000000000000001", noise(7, 300)),
        ("000000010000000000000002", noise(8, 300)),
        ("000000010000000000000003", noise(9, 3_000)),
        ("00000002.history", b"1\t0/3000000\tno recovery target\n".to_vec()),
    ]
    .map(|(name, content)| (name.parse().unwrap(), content))
}

/// Names a writer with its own key file in the log.
pub fn add_writer(repo: &Repo, key: &[u8; 32], rights: Rights) {
    let signer = Signer::from_seed(&Secret32::new(repo.cx().random()));
    let enrol = Enrol {
        writer: signer.id(),
        rights: rights.0,
        group: "owner".to_owned(),
        label: String::new(),
        sources: None,
    };
    let payload = Payload::Writer { keys: Box::new(repo.keys().clone()), signer };
    let key = Secret32::new(*key);
    let (id, stored) =
        slot::make(&payload, repo.header().core.hash(), &Wrap::KeyFile(&key), repo.cx()).unwrap();
    repo.store().put(&layout::slot(id), &stored).unwrap();
    repo.append(&mut |_| Ok(Change::Enrol(enrol.clone()))).unwrap();
    let slot = SlotRef { id, kind: "key-file".to_owned(), label: String::new() };
    repo.append(&mut |_| Ok(Change::SlotAdded(slot.clone()))).unwrap();
}

/// Opens a store with one of the two key files, with a cache of its own.
pub fn open_with(
    store: impl Store + 'static,
    key: [u8; 32],
    cache: &std::path::Path,
) -> Result<Arc<Repo>, RepoError> {
    let unlock = Unlock::KeyFile(Secret32::new(key));
    Repo::open(Arc::new(store), unlock, Vec::new(), cache, &hikae_testkit::system_cx()).map(Arc::new)
}

/// The same as the owner.
pub fn open(store: impl Store + 'static, cache: &std::path::Path) -> Result<Arc<Repo>, RepoError> {
    open_with(store, KEY, cache)
}

pub fn evidence(repo: &Repo, snapshot: SnapshotId) -> EvidenceRecord {
    let state = repo.state();
    // Stored times have microseconds.
    let now = jiff::Timestamp::from_microsecond(repo.cx().now().as_microsecond()).unwrap();
    let check = CheckRecord {
        name: "files".to_owned(),
        expected: "2".to_owned(),
        actual: "2".to_owned(),
        passed: true,
    };
    EvidenceRecord {
        snapshot,
        source: "tree".to_owned(),
        kind: "restore".to_owned(),
        checks: vec![check],
        phases: vec![PhaseRecord { name: "fetch".to_owned(), microseconds: 12 }],
        recovery_microseconds: 34,
        recovered_moment: now,
        restored_bytes: 56,
        tools: vec![("pg_restore".to_owned(), "17.12".to_owned())],
        release: hikae_repo::RELEASE.to_owned(),
        host: "test".to_owned(),
        log_n: state.n,
        log_hash: state.head,
        started: now,
        finished: now,
    }
}

fn tree(n: u64) -> Tree {
    let mut tree = Tree::from([("file".to_owned(), noise(n, 300)), ("same".to_owned(), noise(99, 200))]);
    tree.insert("text".to_owned(), b"words ".repeat(50 + n as usize));
    tree
}

/// The first part of a key: `log`, `packs`, `hikae.json`.
pub fn class_of(key: &ObjectKey) -> String {
    key.as_str().split('/').next().unwrap_or_default().to_owned()
}
