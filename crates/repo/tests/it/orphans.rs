//! What runs that died leave behind goes, by an entry of the log, and nothing else does.

use crate::lab::{Lab, Process, SOFT, eager, tree};
use hikae_repo::prune::{PruneOptions, PruneReport};
use hikae_store::{ObjectKey, Store};
use hikae_testkit::{Fault, Verb};
use std::time::Duration;

const GRACE: Duration = Duration::from_secs(86_400);

fn options() -> PruneOptions {
    PruneOptions { orphan_grace: GRACE, ..eager() }
}

fn stored(lab: &Lab, directory: &str) -> Vec<ObjectKey> {
    let mut keys = Vec::new();
    lab.memory.list(directory, &mut |object| keys.push(object.key)).unwrap();
    keys
}

/// A snapshot, and a run that died just before its entry.
fn lab_with_orphans(seed: u64) -> (Lab, Process) {
    let lab = Lab::new(seed);
    lab.open().backup(&tree(1, 1)).unwrap();
    let dying = lab.open_faulty().unwrap();
    lab.faulty.inject_always(Verb::Put, "log", Fault::refused());
    dying.backup(&tree(2, 2)).unwrap_err();
    let lab = lab.fork();
    assert_eq!((stored(&lab, "index").len(), stored(&lab, "snapshots").len()), (2, 2));
    let process = lab.open();
    (lab, process)
}

fn dropped(report: &PruneReport) -> (usize, usize) {
    (report.plan.index_orphans.len(), report.plan.snapshots.len())
}

#[test]
fn index_objects_and_records_of_a_run_that_died_go_after_grace_and_soft_period() {
    let (lab, process) = lab_with_orphans(50);
    let young = process.prune(&options()).unwrap();
    assert_eq!((young.n, dropped(&young)), (None, (0, 0)));
    lab.cx.clock.advance(GRACE);
    let old = process.prune(&options()).unwrap();
    assert_eq!(dropped(&old), (1, 1), "{}", old.plan);
    lab.cx.clock.advance(SOFT - Duration::from_secs(1));
    process.remove().unwrap();
    assert_eq!((stored(&lab, "index").len(), stored(&lab, "snapshots").len()), (2, 2));
    lab.cx.clock.advance(Duration::from_secs(1));
    let removal = process.remove().unwrap();
    assert_eq!((removal.n_indexes, removal.n_snapshots), (1, 1));
    assert_eq!((stored(&lab, "index").len(), stored(&lab, "snapshots").len()), (1, 1));
    assert_eq!(lab.check().len(), 1);
    let state = process.repo.follow().unwrap();
    assert!(state.stale_indexes.is_empty() && state.stale_snapshots.is_empty());
    assert_eq!((process.prune(&options()).unwrap().n, process.remove().unwrap().n), (None, None));
}

#[test]
fn a_list_that_fails_or_shows_too_little_dooms_no_metadata() {
    let (lab, _) = lab_with_orphans(51);
    lab.cx.clock.advance(GRACE);
    for directory in ["index", "snapshots"] {
        let lab = lab.fork();
        lab.faulty.inject_always(Verb::List, directory, Fault::refused());
        let process = lab.open_faulty().unwrap();
        process.prune(&options()).unwrap_err();
        let state = process.repo.follow().unwrap();
        assert!(state.stale_indexes.is_empty() && state.stale_snapshots.is_empty(), "{directory}");
    }
    // What a list does not show stays: here it shows nothing at all.
    let hidden = lab.fork();
    hidden.faulty.inject_always(Verb::List, "index", Fault::empty_list());
    let report = hidden.open_faulty().unwrap().prune(&options()).unwrap();
    assert_eq!(dropped(&report), (0, 1));
    assert_eq!(hidden.check().len(), 1);
}

#[test]
fn forgotten_snapshots_leave_the_state_when_they_cannot_come_back() {
    let lab = Lab::new(52);
    let process = lab.open();
    for n in 0..6 {
        let id = process.backup(&tree(n, 0)).unwrap();
        if n > 0 {
            process.forget(id).unwrap();
        }
    }
    // Without a prune they stay, however long it takes.
    lab.cx.clock.advance(SOFT);
    process.remove().unwrap();
    assert_eq!(process.repo.follow().unwrap().forgotten.len(), 5);
    process.prune(&options()).unwrap();
    lab.cx.clock.advance(SOFT);
    process.remove().unwrap();
    assert_eq!(process.repo.follow().unwrap().forgotten.len(), 0);
    assert_eq!((stored(&lab, "snapshots").len(), lab.check().len()), (1, 1));
}
