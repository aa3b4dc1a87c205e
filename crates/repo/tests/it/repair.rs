//! Repair only adds or quarantines: what could be restored before can be restored after (B-8).

use crate::small::{Small, open};
use crate::world::{Tree, World, backup, noise, restore};
use hikae_model::{Cut, Outcome, SnapshotId};
use hikae_repo::put_back::put_back;
use hikae_repo::repair::{plan_repair, repair};
use hikae_repo::verify::{VerifyOptions, VerifyReport, verify};
use hikae_repo::{Repo, layout};
use hikae_store::{MemoryStore, ObjectKey, Store};
use proptest::prelude::*;
use proptest::sample::Index;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

const READ_DATA: VerifyOptions = VerifyOptions { read_data: true, snapshots: None, sample: None };

struct Case {
    store: MemoryStore,
    trees: BTreeMap<SnapshotId, Tree>,
}

/// Two snapshots in several packs and index objects.
fn case() -> Case {
    let store = MemoryStore::new();
    let world = World::over(Arc::new(store.clone()));
    let mut trees = BTreeMap::new();
    for n in 0..2_u64 {
        let mut tree: Tree =
            (0..6).map(|file| (format!("file-{file}"), noise(n * 3 + file, 700_000))).collect();
        tree.insert("text".to_owned(), b"words ".repeat(1000));
        let id = backup(&world.repo, &tree, Cut::Files, None).unwrap().snapshots[0];
        trees.insert(id, tree);
    }
    Case { store, trees }
}

/// The files that come back right, for who opens the repository anew.
fn recoverable(case: &Case) -> BTreeSet<(SnapshotId, String)> {
    let cache = tempfile::tempdir().unwrap();
    let mut files = BTreeSet::new();
    let Ok(repo) = open(case.store.clone(), cache.path()) else { return files };
    for (id, tree) in &case.trees {
        for (path, content) in tree {
            match crate::world::restore_file(&repo, *id, path) {
                Ok(restored) => {
                    assert!(restored == *content, "wrong bytes");
                    files.insert((*id, path.clone()));
                }
                Err(error) => drop(error),
            }
        }
    }
    files
}

fn report(repo: &Repo) -> VerifyReport {
    verify(repo, &READ_DATA, repo.cx()).unwrap()
}

/// Repairs, and sees that nothing is left to do.
fn repaired(case: &Case) -> VerifyReport {
    let cache = tempfile::tempdir().unwrap();
    let repo = open(case.store.clone(), cache.path()).unwrap();
    let plan = plan_repair(&repo, &report(&repo), repo.cx()).unwrap();
    repair(&repo, &plan, repo.cx()).unwrap();
    let after = report(&repo);
    let plan = plan_repair(&repo, &after, repo.cx()).unwrap();
    assert!(plan.is_empty(), "a second repair finds something to do: {plan:?}");
    after
}

fn objects(store: &MemoryStore, class: &str) -> Vec<ObjectKey> {
    store.keys().into_iter().filter(|key| key.is_below(class)).collect()
}

#[test]
fn lost_index_objects_are_made_again_from_the_packs() {
    let case = case();
    let whole = recoverable(&case);
    for key in objects(&case.store, "index") {
        case.store.remove(&key).unwrap();
    }
    assert!(recoverable(&case).is_empty());
    assert_eq!(repaired(&case).outcome, Outcome::Complete);
    assert_eq!(recoverable(&case), whole);
}

#[test]
fn a_lost_index_object_hides_only_what_it_names() {
    let case = case();
    let whole = recoverable(&case);
    let keys = objects(&case.store, "index");
    assert!(keys.len() > 1);
    let mut seen = Vec::new();
    for key in &keys {
        let bytes = case.store.get(key).unwrap();
        case.store.remove(key).unwrap();
        let rest = recoverable(&case);
        assert!(rest.len() < whole.len());
        seen.push(rest.len());
        case.store.put(key, &bytes).unwrap();
    }
    // The first snapshot needs nothing of what the second added.
    assert!(seen.iter().any(|n| *n > 0), "{seen:?}");
}

#[test]
fn what_a_damaged_pack_held_is_stored_again_and_what_still_opens_is_kept() {
    let case = case();
    let cache = tempfile::tempdir().unwrap();
    let key = objects(&case.store, "packs").into_iter().max_by_key(|key| case.store.get(key).unwrap().len());
    let key = key.unwrap();
    case.store.damage(&key, |bytes| bytes[100] ^= 1);
    let hurt = recoverable(&case);
    let after = repaired(&case);
    assert_eq!(after.outcome, Outcome::Failed);
    assert!(!after.hits.is_empty());
    assert_eq!(recoverable(&case), hurt);
    // What still opened has a copy elsewhere, so the rest of the pack may rot.
    case.store.remove(&key).unwrap();
    assert_eq!(recoverable(&case), hurt, "good frames went with their pack");
    // The same source again: what was lost is stored again, so that both snapshots are whole.
    let repo = open(case.store.clone(), cache.path()).unwrap();
    for tree in case.trees.values() {
        backup(&repo, tree, Cut::Files, None).unwrap();
    }
    assert_eq!(report(&repo).hits, Vec::new());
    for (id, tree) in &case.trees {
        assert!(restore(&repo, *id).unwrap() == *tree);
    }
}

#[test]
fn a_pack_that_was_put_back_counts_again() {
    let case = case();
    let key = objects(&case.store, "packs")[0].clone();
    let bytes = case.store.get(&key).unwrap();
    case.store.remove(&key).unwrap();
    repaired(&case);
    case.store.put(&key, &bytes).unwrap();
    assert_eq!(repaired(&case).outcome, Outcome::Complete);
    let cache = tempfile::tempdir().unwrap();
    assert!(open(case.store.clone(), cache.path()).unwrap().state().damaged.is_empty());
}

#[test]
fn a_copy_brings_back_every_object_and_nothing_but_what_was_there() {
    let case = small_case();
    let copy = case.store.fork();
    let keys: Vec<_> = copy.keys().into_iter().filter(|key| !key.is_below("checkpoints")).collect();
    let cache = tempfile::tempdir().unwrap();
    let seen = open(copy.clone(), cache.path()).unwrap();
    let last = layout::log_entry(seen.state().n);
    for removed in [false, true] {
        // Of what is gone, nothing names the last entry and write-ahead log.
        let is_unnamed = |key: &ObjectKey| *key == last || key.is_below("wal");
        for key in keys.iter().filter(|key| key.as_str() != "hikae.json" && !(removed && is_unnamed(key))) {
            let hurt = case.store.fork();
            match removed {
                true => hurt.remove(key).unwrap(),
                false => assert!(hurt.damage(key, |bytes| bytes[20] ^= 1)),
            }
            let scratch = tempfile::tempdir().unwrap();
            // Without its key slot nobody opens it; what is in the sheet would.
            let Ok(repo) = open(hurt.clone(), scratch.path()) else { continue };
            let found = report(&repo);
            // A copy in which the object is another one is of no use.
            let other = copy.fork();
            other.damage(key, |bytes| bytes[21] ^= 1);
            let done = put_back(&repo, &found, &other, false, repo.cx()).unwrap();
            assert_eq!((done.done, done.not_in_copy), (vec![], vec![key.clone()]), "{key}");
            let done = put_back(&repo, &found, &copy, false, repo.cx()).unwrap();
            assert_eq!((done.done, done.not_in_copy), (vec![key.clone()], vec![]), "{key}");
            assert_eq!(hurt.get(key).unwrap(), copy.get(key).unwrap());
            let repo = open(hurt, scratch.path()).unwrap();
            assert_eq!((report(&repo).outcome, repo.doubts()), (Outcome::Complete, &[][..]), "{key}");
        }
    }
}

#[test]
fn an_entry_of_another_history_is_not_put_back() {
    let case = small_case();
    let scratch = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    // Two copies that went different ways: entry 34 is another one in each.
    let copy = case.store.fork();
    for (store, scratch) in [&case.store, &copy].into_iter().zip(&scratch) {
        let repo = open(store.clone(), scratch.path()).unwrap();
        for _ in 0..2 {
            repo.append(&mut |_| Ok(hikae_repo::log::Change::Removed(Default::default()))).unwrap();
        }
    }
    for n in [34, 35] {
        let hurt = case.store.fork();
        assert!(hurt.damage(&layout::log_entry(n), |bytes| bytes[70] ^= 1));
        let repo = open(hurt.clone(), scratch[0].path()).unwrap();
        let done = put_back(&repo, &report(&repo), &copy, false, repo.cx()).unwrap();
        assert_eq!((done.done, done.not_in_copy), (vec![], vec![layout::log_entry(n)]));
    }
}

#[test]
fn a_whole_repository_needs_no_repair() {
    let case = case();
    let n_objects = case.store.keys().len();
    assert_eq!(repaired(&case).outcome, Outcome::Complete);
    assert_eq!(case.store.keys().len(), n_objects);
}

/// What happens to objects: B-4 and B-5 of the fault catalogue.
#[derive(Clone, Debug)]
enum Harm {
    Flip(Index, Index),
    Cut(Index, Index),
    Grow(Index),
    Zero(Index),
    Swap(Index, Index),
    Remove(Index),
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        4 => (any::<Index>(), any::<Index>()).prop_map(|(object, at)| Harm::Flip(object, at)),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(object, at)| Harm::Cut(object, at)),
        1 => any::<Index>().prop_map(Harm::Grow),
        1 => any::<Index>().prop_map(Harm::Zero),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(one, two)| Harm::Swap(one, two)),
        2 => any::<Index>().prop_map(Harm::Remove),
    ]
}

impl Harm {
    /// Harms one object of a class drawn first, for there are many packs and few of anything else.
    fn strike(&self, store: &MemoryStore, class: Index) {
        let classes = ["packs", "index", "snapshots", "log", "evidence", "checkpoints", "keys"];
        let targets = objects(store, class.get::<&str>(&classes));
        if targets.is_empty() {
            return;
        }
        match self {
            Self::Flip(object, at) => drop(store.damage(object.get(&targets), |bytes| {
                let bit = at.index(bytes.len().max(1) * 8);
                if let Some(byte) = bytes.get_mut(bit / 8) {
                    *byte ^= 1 << (bit % 8);
                }
            })),
            Self::Cut(object, at) => drop(store.damage(object.get(&targets), |bytes| {
                bytes.truncate(at.index(bytes.len().max(1)));
            })),
            Self::Grow(object) => drop(store.damage(object.get(&targets), |bytes| bytes.push(0))),
            Self::Zero(object) => drop(store.damage(object.get(&targets), |bytes| {
                let end = bytes.len().min(4096);
                bytes[..end].fill(0);
            })),
            Self::Swap(one, two) => {
                let all = store.keys();
                let (one, two) = (one.get(&targets), two.get(&all));
                let (of_one, of_two) = (store.get(one).unwrap(), store.get(two).unwrap());
                store.damage(one, |bytes| *bytes = of_two);
                store.damage(two, |bytes| *bytes = of_one);
            }
            Self::Remove(object) => store.remove(object.get(&targets)).unwrap(),
        }
    }
}

fn n_cases() -> u32 {
    if std::env::var_os("HIKAE_FULL").is_some() { 2000 } else { 40 }
}

/// As [`repaired`], for a repository that may be too damaged to be written to, or to be opened at all.
fn repaired_if_possible(case: &Case) {
    let cache = tempfile::tempdir().unwrap();
    let Ok(repo) = open(case.store.clone(), cache.path()) else { return };
    if repo.doubts().is_empty() {
        repaired(case);
        return;
    }
    let n_objects = case.store.keys().len();
    let plan = plan_repair(&repo, &report(&repo), repo.cx()).unwrap();
    assert!(repair(&repo, &plan, repo.cx()).is_err(), "nothing is written while the log is in doubt");
    assert_eq!(case.store.keys().len(), n_objects);
}

/// Two small snapshots, one of them drilled, and a checkpoint.
fn small_case() -> Case {
    let small = Small::build();
    Case { store: small.store, trees: small.trees }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(n_cases()) })]

    #[test]
    fn repair_never_loses_what_could_be_restored(
        harms in prop::collection::vec((any::<Index>(), harm()), 1..5),
        is_small in any::<bool>(),
    ) {
        static CASES: OnceLock<[Case; 2]> = OnceLock::new();
        let whole = &CASES.get_or_init(|| [case(), small_case()])[usize::from(is_small)];
        let case = Case { store: whole.store.fork(), trees: whole.trees.clone() };
        harms.iter().for_each(|(class, harm)| harm.strike(&case.store, *class));
        let before = recoverable(&case);
        let content = |key: &ObjectKey| case.store.get(key).ok().map(|bytes| blake3::hash(&bytes));
        let objects_before: Vec<_> = case.store.keys().into_iter().map(|key| (content(&key), key)).collect();
        repaired_if_possible(&case);
        let after = recoverable(&case);
        prop_assert!(after.is_superset(&before), "lost {:?}", before.difference(&after).collect::<Vec<_>>());
        for (was, key) in objects_before {
            prop_assert_eq!(content(&key), was, "repair removed or changed {}", key);
        }
    }
}
