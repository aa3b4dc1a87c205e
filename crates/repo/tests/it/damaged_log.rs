//! A log that is damaged, or older than it was, stops who writes and nobody who reads.

use crate::lab::{Lab, Process, eager, tree};
use crate::small::{evidence, open};
use crate::world::{Tree, backup, restore};
use hikae_model::{Cut, Outcome, SnapshotId};
use hikae_repo::doubt::Doubt;
use hikae_repo::evidence::put_evidence;
use hikae_repo::keys::Secret32;
use hikae_repo::slot::Wrap;
use hikae_repo::verify::{VerifyOptions, VerifyReport, verify};
use hikae_repo::{RepoError, layout};
use hikae_store::Store;
use std::collections::BTreeMap;

const LOOK: VerifyOptions = VerifyOptions { read_data: false, snapshots: None, sample: None };

/// A log in which snapshots came and went and packs were doomed, and what each snapshot holds.
fn history() -> (Lab, BTreeMap<SnapshotId, Tree>) {
    let lab = Lab::new(11);
    let process = lab.open();
    let mut trees = BTreeMap::new();
    for n in 0..4 {
        let id = process.backup(&tree(n, n / 2)).unwrap();
        trees.insert(id, tree(n, n / 2));
        if n == 2 {
            let first = *trees.keys().next().unwrap();
            process.forget(first).unwrap();
            trees.remove(&first);
            assert!(process.prune(&eager()).unwrap().n.is_some());
        }
    }
    (lab, trees)
}

#[track_caller]
fn check_no_writing(lab: &Lab, process: &Process, what: &str) {
    let before = lab.memory.keys();
    let id = *process.repo.state().snapshots.keys().next().unwrap();
    let check = |verb: &str, tried: Result<(), RepoError>| {
        assert!(matches!(tried, Err(RepoError::LogInDoubt(_))), "{what}: {verb} was let in: {tried:?}");
    };
    // First what ends even where it is let in: an entry of the others would be refused and tried again for ever.
    check("a removal", process.remove().map(drop));
    check("a backup", process.backup(&tree(9, 9)).map(drop));
    check("a forget", process.forget(id));
    check("a prune", process.prune(&eager()).map(drop));
    check("a key", process.repo.add_slot(&Wrap::KeyFile(&Secret32::new([5; 32])), "").map(drop));
    assert_eq!(lab.memory.keys(), before, "{what}: something was written");
}

#[test]
fn a_damaged_entry_stops_who_writes_and_no_restore() {
    let (lab, trees) = history();
    let last = lab.open().repo.state().n;
    for n in 1..=last {
        for removed in [false, true] {
            if removed && n == last {
                continue; // that is an older log, and not a damaged one
            }
            let what = format!("entry {n} of {last}, removed: {removed}");
            let lab = lab.fork();
            let key = layout::log_entry(n);
            let bytes = lab.memory.get(&key).unwrap();
            match removed {
                true => lab.memory.remove(&key).unwrap(),
                false => assert!(lab.memory.damage(&key, |bytes| bytes[70] ^= 1)),
            }
            let process = lab.open();
            let doubts = process.repo.doubts();
            assert!(matches!(doubts, [Doubt::Entry { n: bad, .. }] if *bad == n), "{what}: {doubts:?}");
            for (id, tree) in &trees {
                assert!(process.repo.state().snapshots.contains_key(id), "{what}: {id} is not listed");
                assert!(restore(&process.repo, *id).unwrap() == *tree, "{what}");
            }
            check_no_writing(&lab, &process, &what);
            let report = verify(&process.repo, &LOOK, &process.cx).unwrap();
            let named = |problem: &hikae_model::Problem| problem.on.contains(&format!("{n:020}"));
            let missing = |problem: &hikae_model::Problem| problem.on == format!("log entry {n}");
            assert!(report.problems.iter().any(|problem| named(problem) || missing(problem)), "{what}");
            assert!(report.n_packs_read > 0 && report.n_snapshots >= trees.len() as u64, "{what}");

            // As its advice says.
            lab.memory.remove(&key).unwrap();
            lab.memory.put(&key, &bytes).unwrap();
            let process = lab.open();
            assert_eq!(process.repo.doubts(), [], "{what}");
            process.backup(&tree_of(&trees)).unwrap();
            assert_eq!(verify(&process.repo, &LOOK, &process.cx).unwrap().outcome, Outcome::Complete);
        }
    }
}

fn tree_of(trees: &BTreeMap<SnapshotId, Tree>) -> Tree {
    trees.values().next().unwrap().clone()
}

#[test]
fn an_older_copy_can_be_read_where_the_newer_one_was_made_and_not_written() {
    let (lab, trees) = history();
    let cache = tempfile::tempdir().unwrap();
    let copy = lab.fork();
    let newer = open(lab.memory.clone(), cache.path()).unwrap();
    backup(&newer, &tree(7, 7), Cut::Files, None).unwrap();
    let n = newer.state().n;
    let older = open(copy.memory.clone(), cache.path()).unwrap();
    let doubts = older.doubts();
    assert!(matches!(doubts, [Doubt::RolledBack { seen, .. }] if *seen == n), "{doubts:?}");
    for (id, tree) in &trees {
        assert!(restore(&older, *id).unwrap() == *tree);
    }
    let refused = backup(&older, &tree(8, 8), Cut::Files, None);
    assert!(matches!(refused, Err(RepoError::LogInDoubt(_))), "{refused:?}");
    // To have read it is not to have forgotten the newer one.
    assert_eq!(open(lab.memory.clone(), cache.path()).unwrap().doubts(), []);
    assert!(!open(copy.memory.clone(), cache.path()).unwrap().doubts().is_empty());
}

/// Entries are taken off the end of the log, as somebody would who holds the store and no key.
fn without_last(lab: &Lab, n_entries: u64) -> VerifyReport {
    let last = lab.open().repo.state().n;
    let lab = lab.fork();
    for n in last - n_entries + 1..=last {
        lab.memory.remove(&layout::log_entry(n)).unwrap();
    }
    // This machine has seen nothing of it.
    let process = lab.open();
    assert_eq!(process.repo.doubts(), []);
    verify(&process.repo, &LOOK, &process.cx).unwrap()
}

#[test]
fn what_a_log_put_back_does_not_name_any_more_is_named_by_verify() {
    let lab = Lab::new(12);
    let process = lab.open();
    let first = process.backup(&tree(1, 1)).unwrap();
    let second = backup(&process.repo, &tree(2, 2), Cut::Files, Some(first)).unwrap().snapshots[0];
    assert_eq!(verify(&process.repo, &LOOK, &process.cx).unwrap().notes, []);
    // One record without an entry may be of a run that died.
    let report = without_last(&lab, 1);
    assert_eq!((report.outcome, report.notes.len()), (Outcome::Complete, 1));
    assert!(report.notes[0].on.contains(&second.to_string()));
    // But a parent was in the log once, and so was the entry that a drill names.
    let report = without_last(&lab, 2);
    let rolled_back = |report: &VerifyReport, key: String| {
        report.problems.iter().any(|problem| problem.code == "rolled-back" && problem.on == key)
    };
    assert!(rolled_back(&report, layout::snapshot(first).to_string()), "{report:?}");
    let drilled = put_evidence(&process.repo, &evidence(&process.repo, second)).unwrap();
    assert_eq!(without_last(&lab, 1).outcome, Outcome::Complete);
    let report = without_last(&lab, 2);
    assert!(rolled_back(&report, layout::evidence(drilled).to_string()), "{report:?}");
}
