//! What a store really does, found out by doing it: a manual promises, and a server in front of it may do otherwise.
//!
//! Objects of its own, below `probe`, are put and removed. What is found holds for the moment, and for who asks.

use crate::{Object, ObjectKey, Store, StoreError};
use std::sync::Barrier;

/// Putters of one name at the same moment.
const N_RACERS: usize = 8;
/// A server that decides too late lets more than one win now and then only.
const N_RACES: usize = 4;

/// What a store can be asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ability {
    /// What is put can be read again, as it was.
    WriteAndRead,
    /// A part of an object can be read alone.
    ReadParts,
    /// A name that is taken is refused, and what stands there stays.
    NeverReplace,
    /// Of several who put one name at one moment, exactly one is told that they did.
    OneWinner,
    /// A list shows what was put a moment ago.
    List,
    /// What is put can be removed again, and then is gone.
    Remove,
}

impl Ability {
    /// Whether a repository can live without it.
    pub fn is_needed(self) -> bool {
        // A host that may only add is safer for it.
        self != Self::Remove
    }

    /// Whether this keeps a repository from being there.
    pub fn is_lacking(self, found: &Found) -> bool {
        self.is_needed() && !matches!(found, Found::Kept)
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::WriteAndRead => "write and read",
            Self::ReadParts => "read parts",
            Self::NeverReplace => "never replace",
            Self::OneWinner => "one winner of a race",
            Self::List => "list",
            Self::Remove => "remove",
        }
    }
}

/// What was found of one ability.
#[derive(Debug)]
pub enum Found {
    /// It has it.
    Kept,
    /// It does something else.
    Broken(String),
    /// It will not do it for us, or could not.
    Failed(StoreError),
}

/// Tries each ability. `nonce` makes names that nobody else has.
///
/// # Errors
/// Only if nothing at all can be written; the rest is in what was found.
pub fn probe(store: &dyn Store, nonce: [u8; 8]) -> Result<Vec<(Ability, Found)>, StoreError> {
    let name: String = nonce.iter().map(|byte| format!("{byte:02x}")).collect();
    let key =
        |n: usize| ObjectKey::parse(format!("probe/{name}-{n}")).expect("digits and letters are a name");
    let (first, bytes) = (key(0), content(0));
    store.put(&first, &bytes)?;
    let found = |tried: Result<Option<String>, StoreError>| match tried {
        Ok(None) => Found::Kept,
        Ok(Some(why)) => Found::Broken(why),
        Err(error) => Found::Failed(error),
    };
    let mut all = vec![
        (Ability::WriteAndRead, found(reads_back(store, &first, &bytes))),
        (Ability::ReadParts, found(reads_parts(store, &first, &bytes))),
        (Ability::NeverReplace, found(never_replaces(store, &first, &bytes))),
        (Ability::List, found(lists(store, &first))),
    ];
    let raced: Vec<ObjectKey> = (1..=N_RACES).map(key).collect();
    all.push((
        Ability::OneWinner,
        found(raced.iter().try_fold(None, |broken, key| match broken {
            None => one_wins(store, key),
            broken => Ok(broken),
        })),
    ));
    let removed = raced.iter().chain([&first]).try_fold(None, |_, key| {
        store.remove(key)?;
        match store.stat(key) {
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
            Ok(_) => Ok(Some(format!("{key} was removed and is still there"))),
        }
    });
    all.push((Ability::Remove, found(removed)));
    Ok(all)
}

/// Of another length for each, so that a mixture would show.
fn content(n: usize) -> Vec<u8> {
    (0..10_000 + n).map(|i| (i * 31 + n) as u8).collect()
}

fn reads_back(store: &dyn Store, key: &ObjectKey, bytes: &[u8]) -> Result<Option<String>, StoreError> {
    let is_same = store.get(key)? == bytes && store.stat(key)?.bytes == bytes.len() as u64;
    Ok((!is_same).then(|| "what came back is not what was put".to_owned()))
}

fn reads_parts(store: &dyn Store, key: &ObjectKey, bytes: &[u8]) -> Result<Option<String>, StoreError> {
    let is_same = store.get_range(key, 1_000..3_000)? == bytes[1_000..3_000];
    Ok((!is_same).then(|| "another part came back than was asked for".to_owned()))
}

fn never_replaces(store: &dyn Store, key: &ObjectKey, bytes: &[u8]) -> Result<Option<String>, StoreError> {
    match store.put(key, &content(99)) {
        Ok(()) => Ok(Some("an object was written over another one".to_owned())),
        Err(StoreError::Exists { .. }) if store.get(key)? == bytes => Ok(None),
        Err(StoreError::Exists { .. }) => {
            Ok(Some("a name was said to be taken, and what stood there is gone".to_owned()))
        }
        Err(error) => Err(error),
    }
}

fn lists(store: &dyn Store, key: &ObjectKey) -> Result<Option<String>, StoreError> {
    let mut is_there = false;
    store.list("probe", &mut |Object { key: shown, .. }| is_there |= shown == *key)?;
    Ok((!is_there).then(|| "an object that was put is not in the list".to_owned()))
}

fn one_wins(store: &dyn Store, key: &ObjectKey) -> Result<Option<String>, StoreError> {
    let start = Barrier::new(N_RACERS);
    let results: Vec<Result<(), StoreError>> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..N_RACERS)
            .map(|racer| {
                let start = &start;
                scope.spawn(move || {
                    let bytes = content(racer);
                    start.wait();
                    store.put(key, &bytes)
                })
            })
            .collect();
        let failed = |_| Err(StoreError::NotFound { key: key.clone() });
        racers.into_iter().map(|racer| racer.join().unwrap_or_else(failed)).collect()
    });
    let mut winners = Vec::new();
    for (racer, result) in results.into_iter().enumerate() {
        match result {
            Ok(()) => winners.push(racer),
            Err(StoreError::Exists { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    match winners[..] {
        [winner] if store.get(key)? == content(winner) => Ok(None),
        [_] => Ok(Some("who won a race is not whose object is there".to_owned())),
        _ => Ok(Some(format!("{} of {N_RACERS} who put one name were told that they did", winners.len()))),
    }
}
