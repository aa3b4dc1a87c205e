//! A store that does not do what a repository rests on is found out.

use hikae_store::probe::{Ability, Found, probe};
use hikae_store::{MemoryStore, Object, ObjectKey, Store, StoreError};
use std::ops::Range;
use std::time::Duration;

/// How a store can be weak.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weakness {
    /// It writes over what stands there, as servers do that do not know `If-None-Match`.
    Replaces,
    /// It looks whether a name is taken, and puts a moment later.
    LooksFirst,
    /// It lists what it knew a while ago.
    ListsLate,
    /// It says that it removed, and did not.
    KeepsRemoved,
    /// It does all it should.
    None,
}

struct Weak {
    store: MemoryStore,
    weakness: Weakness,
}

impl Store for Weak {
    fn address(&self) -> String {
        self.store.address()
    }
    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> Result<(), StoreError> {
        match self.weakness {
            Weakness::Replaces => self.store.replace(key, bytes),
            Weakness::LooksFirst => {
                if self.store.stat(key).is_ok() {
                    return Err(StoreError::Exists { key: key.clone() });
                }
                std::thread::sleep(Duration::from_millis(5));
                self.store.replace(key, bytes)
            }
            _ => self.store.put(key, bytes),
        }
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
        match self.weakness {
            Weakness::ListsLate => Ok(()),
            _ => self.store.list(prefix, show),
        }
    }
    fn stat(&self, key: &ObjectKey) -> Result<Object, StoreError> {
        self.store.stat(key)
    }
    fn settle(&self, key: &ObjectKey) -> Result<Object, StoreError> {
        self.store.settle(key)
    }
    fn remove(&self, key: &ObjectKey) -> Result<(), StoreError> {
        match self.weakness {
            Weakness::KeepsRemoved => Ok(()),
            _ => self.store.remove(key),
        }
    }
}

#[test]
fn each_weakness_is_found_and_no_other() {
    for (weakness, lacks) in [
        (Weakness::None, &[][..]),
        (Weakness::Replaces, &[Ability::NeverReplace, Ability::OneWinner]),
        (Weakness::LooksFirst, &[Ability::OneWinner]),
        (Weakness::ListsLate, &[Ability::List]),
        (Weakness::KeepsRemoved, &[Ability::Remove]),
    ] {
        let store = Weak { store: MemoryStore::new(), weakness };
        let found = probe(&store, [7; 8]).unwrap();
        let broken: Vec<Ability> = found
            .iter()
            .filter(|(_, found)| matches!(found, Found::Broken(_)))
            .map(|(ability, _)| *ability)
            .collect();
        assert_eq!(broken, lacks, "{found:?}");
        let fit = !found.iter().any(|(ability, found)| ability.is_lacking(found));
        assert_eq!(fit, matches!(weakness, Weakness::None | Weakness::KeepsRemoved));
        if weakness != Weakness::KeepsRemoved {
            assert_eq!(store.store.keys(), [], "nothing of it stays");
        }
    }
}
