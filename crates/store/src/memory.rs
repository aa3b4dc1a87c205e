//! The memory store: objects in a map, with the history of how they came and went.
//!
//! It keeps every promise of a store but to outlive the process. What it adds is for tests: each change is
//! remembered, so that a test can look at the store as it was after any of them.

use crate::{Object, ObjectKey, Store, StoreError};
use hikae_model::Clock;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

/// Objects in memory. Cheap to clone; clones share.
#[derive(Clone, Default)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    clock: Option<Arc<dyn Clock>>,
    is_far: bool,
}

#[derive(Clone, Default)]
struct State {
    objects: BTreeMap<ObjectKey, Kept>,
    history: Vec<Change>,
}

#[derive(Clone)]
struct Kept {
    bytes: Arc<[u8]>,
    stored: jiff::Timestamp,
}

/// One change of a [`MemoryStore`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An object was stored.
    Put {
        /// Its key.
        key: ObjectKey,
        /// What it holds.
        bytes: Arc<[u8]>,
        /// When.
        stored: jiff::Timestamp,
    },
    /// An object was removed.
    Remove {
        /// Its key.
        key: ObjectKey,
    },
}

impl MemoryStore {
    /// An empty store whose own clock starts with 2026 and goes on by a second with every change.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store that takes the ages of its objects from `clock`.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self::new().on_clock(clock)
    }

    /// Every change so far, oldest first. What [`damage`](Self::damage) did is not among them.
    pub fn history(&self) -> Vec<Change> {
        self.state().history.clone()
    }

    /// A store of its own as this one was after its first `n_changes` changes: what a crash right then would
    /// have left.
    pub fn as_of(&self, n_changes: usize) -> Self {
        let state = self.state();
        let mut then = State::default();
        for change in state.history.iter().take(n_changes) {
            then.apply(change.clone());
        }
        Self { state: Arc::new(Mutex::new(then)), ..self.clone() }
    }

    /// A store of its own that holds the same objects now and has no history.
    pub fn fork(&self) -> Self {
        let forked = State { objects: self.state().objects.clone(), history: Vec::new() };
        Self { state: Arc::new(Mutex::new(forked)), ..self.clone() }
    }

    /// The same store, whose objects are of the age that `clock` says from here on.
    pub fn on_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock: Some(clock), ..self }
    }

    /// The same store, that says it is as far away as one behind a network.
    pub fn far(self) -> Self {
        Self { is_far: true, ..self }
    }

    /// Every key, in order.
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.state().objects.keys().cloned().collect()
    }

    /// Changes an object behind everybody's back, as a failing disk does. False if it is not there.
    pub fn damage(&self, key: &ObjectKey, harm: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut state = self.state();
        let Some(kept) = state.objects.get_mut(key) else { return false };
        let mut bytes = kept.bytes.to_vec();
        harm(&mut bytes);
        kept.bytes = bytes.into();
        true
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code of a caller runs under the lock but `damage`, which changes nothing before it has run.
        self.state.lock().unwrap_or_else(|broken| broken.into_inner())
    }

    fn kept(&self, key: &ObjectKey) -> Result<Kept, StoreError> {
        self.state().objects.get(key).cloned().ok_or_else(|| StoreError::NotFound { key: key.clone() })
    }
}

impl State {
    fn apply(&mut self, change: Change) {
        match &change {
            Change::Put { key, bytes, stored } => {
                self.objects.insert(key.clone(), Kept { bytes: bytes.clone(), stored: *stored });
            }
            Change::Remove { key } => {
                self.objects.remove(key);
            }
        }
        self.history.push(change);
    }

    /// The store's own clock.
    fn next_second(&self) -> jiff::Timestamp {
        let year_2026 = 1_767_225_600;
        jiff::Timestamp::from_second(year_2026 + self.history.len() as i64).unwrap_or(jiff::Timestamp::MAX)
    }
}

impl Store for MemoryStore {
    fn address(&self) -> String {
        "memory".to_owned()
    }

    fn is_far(&self) -> bool {
        self.is_far
    }

    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.objects.contains_key(key) {
            return Err(StoreError::Exists { key: key.clone() });
        }
        let stored = match &self.clock {
            Some(clock) => clock.now(),
            None => state.next_second(),
        };
        state.apply(Change::Put { key: key.clone(), bytes: bytes.into(), stored });
        Ok(())
    }

    fn replace(&self, key: &ObjectKey, bytes: &[u8]) -> Result<(), StoreError> {
        let mut state = self.state();
        let stored = match &self.clock {
            Some(clock) => clock.now(),
            None => state.next_second(),
        };
        state.apply(Change::Put { key: key.clone(), bytes: bytes.into(), stored });
        Ok(())
    }

    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>, StoreError> {
        Ok(self.kept(key)?.bytes.to_vec())
    }

    fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let kept = self.kept(key)?;
        let length = kept.bytes.len() as u64;
        if length < range.end {
            return Err(StoreError::Truncated { key: key.clone(), bytes: length, expected: range.end });
        }
        match kept.bytes.get(range.start as usize..range.end as usize) {
            Some(bytes) => Ok(bytes.to_vec()),
            None => Err(refused("read", key.as_str(), "the range ends before it starts")),
        }
    }

    fn list(&self, prefix: &str, show: &mut dyn FnMut(Object)) -> Result<(), StoreError> {
        if !crate::is_prefix(prefix) {
            return Err(refused("list", prefix, "this is no directory's name"));
        }
        // Copied first: whoever is shown an object may use the store.
        let found: Vec<Object> = self
            .state()
            .objects
            .iter()
            .filter(|(key, _)| key.is_below(prefix))
            .map(|(key, kept)| Object {
                key: key.clone(),
                bytes: kept.bytes.len() as u64,
                stored: kept.stored,
            })
            .collect();
        found.into_iter().for_each(show);
        Ok(())
    }

    fn stat(&self, key: &ObjectKey) -> Result<Object, StoreError> {
        let kept = self.kept(key)?;
        Ok(Object { key: key.clone(), bytes: kept.bytes.len() as u64, stored: kept.stored })
    }

    fn settle(&self, key: &ObjectKey) -> Result<Object, StoreError> {
        self.stat(key)
    }

    fn remove(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.objects.contains_key(key) {
            state.apply(Change::Remove { key: key.clone() });
        }
        Ok(())
    }
}

fn refused(verb: &'static str, key: &str, why: &str) -> StoreError {
    StoreError::Io {
        verb,
        key: key.to_owned(),
        address: "memory".to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidInput, why.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> ObjectKey {
        ObjectKey::parse(text).unwrap()
    }

    #[test]
    fn history_gives_back_every_earlier_state() {
        let store = MemoryStore::new();
        store.put(&key("a"), b"1").unwrap();
        store.put(&key("b"), b"2").unwrap();
        store.remove(&key("a")).unwrap();
        let states = [0, 1, 2, 3].map(|n| store.as_of(n).keys());
        assert_eq!(states[0], []);
        assert_eq!(states[1], [key("a")]);
        assert_eq!(states[2], [key("a"), key("b")]);
        assert_eq!(states[3], [key("b")]);
        assert_eq!(store.as_of(2).get(&key("a")).unwrap(), b"1");
    }

    #[test]
    fn clones_share_and_forks_do_not() {
        let store = MemoryStore::new();
        let (clone, fork) = (store.clone(), store.fork());
        store.put(&key("a"), b"1").unwrap();
        assert!(clone.get(&key("a")).is_ok());
        assert!(fork.get(&key("a")).is_err());
    }
}
