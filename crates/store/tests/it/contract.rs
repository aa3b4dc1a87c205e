//! The contract suite, on every store.

use hikae_store::{DirectoryStore, MemoryStore, Object, ObjectKey, Reserve, Store, StoreError};
use hikae_testkit::{store_contract, test_cx};
use std::ops::Range;
use tempfile::TempDir;

/// Keeps C-10.
#[test]
fn a_memory_store_keeps_every_promise() {
    store_contract::check(|| Box::new(MemoryStore::new()));
}

/// Keeps C-10.
#[test]
fn a_directory_store_keeps_every_promise() {
    store_contract::check(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let store = DirectoryStore::create(&path, Reserve::Usual, test_cx().random).unwrap();
        Box::new(Kept { store, _directory: directory })
    });
}

/// What two processes do to one directory, as far as one process can: two handles, calls in turn.
#[test]
fn two_handles_on_one_directory_are_one_store() {
    store_contract::check(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let first = DirectoryStore::create(&path, Reserve::Usual, test_cx().random).unwrap();
        let other = hikae_testkit::TestCx::new(hikae_testkit::Seed(1)).random;
        let second = DirectoryStore::open(&path, Reserve::Usual, other).unwrap();
        Box::new(Pair { first, second: Kept { store: second, _directory: directory } })
    });
}

/// A store and its directory, which goes away with it.
struct Kept {
    store: DirectoryStore,
    _directory: TempDir,
}

/// Writes through one handle and reads through the other; puts of odd length go to either.
struct Pair {
    first: DirectoryStore,
    second: Kept,
}

impl Store for Kept {
    fn address(&self) -> String {
        self.store.address()
    }
    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> Result<(), StoreError> {
        self.store.put(key, bytes)
    }
    fn replace(&self, key: &ObjectKey, bytes: &[u8]) -> Result<(), StoreError> {
        self.store.replace(key, bytes)
    }
    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>, StoreError> {
        self.store.get(key)
    }
    fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        self.store.get_range(key, range)
    }
    fn list(&self, prefix: &str, show: &mut dyn FnMut(Object)) -> Result<(), StoreError> {
        self.store.list(prefix, show)
    }
    fn stat(&self, key: &ObjectKey) -> Result<Object, StoreError> {
        self.store.stat(key)
    }
    fn settle(&self, key: &ObjectKey) -> Result<Object, StoreError> {
        self.store.settle(key)
    }
    fn remove(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.store.remove(key)
    }
}

impl Store for Pair {
    fn address(&self) -> String {
        self.first.address()
    }
    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> Result<(), StoreError> {
        if bytes.len().is_multiple_of(2) { self.first.put(key, bytes) } else { self.second.put(key, bytes) }
    }
    fn replace(&self, key: &ObjectKey, bytes: &[u8]) -> Result<(), StoreError> {
        self.first.replace(key, bytes)
    }
    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>, StoreError> {
        self.second.get(key)
    }
    fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        self.first.get_range(key, range)
    }
    fn list(&self, prefix: &str, show: &mut dyn FnMut(Object)) -> Result<(), StoreError> {
        self.second.list(prefix, show)
    }
    fn stat(&self, key: &ObjectKey) -> Result<Object, StoreError> {
        self.second.stat(key)
    }
    fn settle(&self, key: &ObjectKey) -> Result<Object, StoreError> {
        self.first.settle(key)
    }
    fn remove(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.first.remove(key)
    }
}
