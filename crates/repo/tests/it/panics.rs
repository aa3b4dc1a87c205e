//! A panic never makes a false snapshot: it comes in every call of the store, of whichever thread, and in every
//! use of the random source.

use crate::lab::{Lab, greedy, tree};
use crate::small::open;
use crate::world::{Tree, restore};
use hikae_model::SnapshotId;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs `act` on copies of the lab again and again, with a panic in its first call of the store, its second, and so
/// on until it comes through. Then all that was there is there, and what is new is whole.
fn panic_everywhere(
    name: &str,
    lab: &Lab,
    trees: &BTreeMap<SnapshotId, Tree>,
    new: &Tree,
    act: fn(&Lab, &Tree) -> bool,
) {
    let (mut n_panics, mut n_new) = (0, 0);
    for n in 1.. {
        let lab = lab.fork();
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        lab.faulty.before_each(move |call| {
            if counted.fetch_add(1, Ordering::Relaxed) + 1 == n {
                panic!("call {n}, {call:?}");
            }
        });
        let ended = catch_unwind(AssertUnwindSafe(|| act(&lab, new)));
        let came = calls.load(Ordering::Relaxed) >= n;
        let listed = lab.check();
        let is_new = listed.len() > trees.len();
        n_new += u32::from(is_new && came);
        for (id, tree) in &listed {
            assert!(trees.get(id).unwrap_or(new) == tree, "{name}, call {n}: {} is another", id.short());
        }
        assert!(trees.keys().all(|id| listed.contains_key(id)), "{name}, call {n}: a snapshot is lost");
        match ended {
            Ok(true) if name == "backup" => assert!(is_new, "call {n}: a false success"),
            Ok(_) => {}
            Err(_) => n_panics += 1,
        }
        // The next one needs no help.
        lab.open().backup(new).unwrap();
        if !came {
            break;
        }
    }
    println!("{name}: {n_panics} panics came through, {n_new} of them after the snapshot was whole");
    assert!(n_panics > 0);
}

fn lab_with_two() -> (Lab, BTreeMap<SnapshotId, Tree>) {
    let lab = Lab::new(51);
    let process = lab.open();
    let trees = (0..2).map(|n| (process.backup(&tree(n, n)).unwrap(), tree(n, n))).collect();
    (lab, trees)
}

#[test]
fn a_backup_that_panics_makes_no_false_snapshot() {
    let (lab, trees) = lab_with_two();
    panic_everywhere("backup", &lab, &trees, &tree(7, 1), |lab, new| {
        lab.open_faulty().and_then(|process| process.backup(new)).is_ok()
    });
}

#[test]
fn a_prune_that_panics_takes_nothing_that_is_needed() {
    let (lab, mut trees) = lab_with_two();
    let process = lab.open();
    let gone = *trees.keys().next().unwrap();
    process.forget(gone).unwrap();
    trees.remove(&gone);
    panic_everywhere("prune", &lab, &trees, &tree(7, 1), |lab, _| {
        lab.open_faulty().and_then(|process| process.prune(&greedy()).and_then(|_| process.remove())).is_ok()
    });
}

#[test]
fn what_was_restored_before_a_panic_is_restored_after_it() {
    let (lab, trees) = lab_with_two();
    let (id, tree) = trees.iter().next().unwrap();
    for n in 1..12 {
        let lab = lab.fork();
        let calls = AtomicUsize::new(0);
        lab.faulty.before_each(move |_| assert!(calls.fetch_add(1, Ordering::Relaxed) + 1 != n, "call {n}"));
        let restored =
            catch_unwind(AssertUnwindSafe(|| restore(&lab.open_faulty().unwrap().repo, *id).unwrap()));
        assert!(restored.is_err() || restored.is_ok_and(|restored| restored == *tree));
        let cache = tempfile::tempdir().unwrap();
        assert!(restore(&open(lab.memory.clone(), cache.path()).unwrap(), *id).unwrap() == *tree);
    }
}
