//! Repair only adds or quarantines: what could be restored before can be restored after (B-8).

use crate::small::open;
use crate::world::{Tree, World, backup, noise, restore};
use hikae_model::{Cut, Outcome, SnapshotId};
use hikae_repo::Repo;
use hikae_repo::repair::{plan_repair, repair};
use hikae_repo::verify::{VerifyOptions, VerifyReport, verify};
use hikae_store::{MemoryStore, ObjectKey, Store};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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
    let repo = open(case.store.clone(), cache.path()).unwrap();
    let mut files = BTreeSet::new();
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
fn a_whole_repository_needs_no_repair() {
    let case = case();
    let n_objects = case.store.keys().len();
    assert_eq!(repaired(&case).outcome, Outcome::Complete);
    assert_eq!(case.store.keys().len(), n_objects);
}

#[derive(Clone, Debug)]
enum Harm {
    Flip(prop::sample::Index, prop::sample::Index),
    Cut(prop::sample::Index, prop::sample::Index),
    Remove(prop::sample::Index),
}

fn harm() -> impl Strategy<Value = Harm> {
    use prop::sample::Index;
    prop_oneof![
        4 => (any::<Index>(), any::<Index>()).prop_map(|(object, at)| Harm::Flip(object, at)),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(object, at)| Harm::Cut(object, at)),
        1 => any::<Index>().prop_map(Harm::Remove),
    ]
}

fn n_cases() -> u32 {
    if std::env::var_os("HIKAE_FULL").is_some() { 2000 } else { 12 }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(n_cases()) })]

    #[test]
    fn repair_never_loses_what_could_be_restored(harms in prop::collection::vec(harm(), 1..5)) {
        use std::sync::OnceLock;
        static CASE: OnceLock<Case> = OnceLock::new();
        let whole = CASE.get_or_init(case);
        let case = Case { store: whole.store.fork(), trees: whole.trees.clone() };
        for harm in &harms {
            let mut targets = objects(&case.store, "packs");
            targets.extend(objects(&case.store, "index"));
            if targets.is_empty() {
                break;
            }
            match harm {
                Harm::Flip(object, at) => drop(case.store.damage(object.get(&targets), |bytes| {
                    let bit = at.index(bytes.len().max(1) * 8);
                    if let Some(byte) = bytes.get_mut(bit / 8) {
                        *byte ^= 1 << (bit % 8);
                    }
                })),
                Harm::Cut(object, at) => drop(case.store.damage(object.get(&targets), |bytes| {
                    bytes.truncate(at.index(bytes.len().max(1)));
                })),
                Harm::Remove(object) => case.store.remove(object.get(&targets)).unwrap(),
            }
        }
        let before = recoverable(&case);
        let objects_before = case.store.keys();
        repaired(&case);
        let after = recoverable(&case);
        prop_assert!(after.is_superset(&before), "lost {:?}", before.difference(&after).collect::<Vec<_>>());
        let there = case.store.keys();
        prop_assert!(objects_before.iter().all(|key| there.contains(key)), "repair removed an object");
    }
}
