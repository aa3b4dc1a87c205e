//! Whatever one call to the store meets: exactly one snapshot, nothing lost, and a second try finishes.

use crate::lab::{Lab, Process, eager, greedy, tree};
use hikae_model::{Cut, RunId, SnapshotId};
use hikae_repo::forget::{ForgetOptions, ToForget, forget};
use hikae_repo::keys::{Secret32, Signer};
use hikae_repo::log::{Change, LogEntry, Prune};
use hikae_repo::prune::{PruneStop, prune, remove_doomed};
use hikae_repo::slot::Wrap;
use hikae_repo::{InitOptions, Repo, RepoError, layout};
use hikae_store::Store;
use hikae_testkit::{Failure, Fault, Verb};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What may happen to a call. `Delayed` lands after the work, or before the second try.
fn faults() -> [(&'static str, Fault); 5] {
    [
        ("refused", Fault::refused()),
        ("the answer lost", Fault::answer_lost()),
        ("delayed", Fault::Delayed),
        ("not found", Fault::Before(Failure::NotFound)),
        ("no space", Fault::Before(Failure::NoSpace)),
    ]
}

/// A repository with garbage and with something to copy: five snapshots, of which two are forgotten.
fn lab_with_garbage() -> (Lab, BTreeSet<SnapshotId>) {
    let lab = Lab::new(20);
    let process = lab.open();
    let ids: Vec<_> =
        [(1, 1), (2, 1), (3, 2), (4, 3), (5, 3)].map(|(n, s)| process.backup(&tree(n, s)).unwrap()).into();
    process.forget(ids[0]).unwrap();
    process.forget(ids[2]).unwrap();
    (lab, [ids[1], ids[3], ids[4]].into())
}

/// Does `work` once for each call that it makes to the store and each fault, the fault in that call. Then
/// everything must hold, and again once what was delayed has landed.
fn try_every_call<T>(
    lab: &Lab,
    work: impl Fn(&Process) -> Result<T, RepoError>,
    then: impl Fn(&Lab, Result<T, RepoError>, &str),
) {
    let counted = lab.fork();
    let process = counted.open_faulty().unwrap();
    counted.faulty.forget_calls();
    assert!(work(&process).is_ok());
    let calls = counted.faulty.calls();
    assert!(calls.len() > 10);
    for call in 1..=calls.len() {
        for (name, fault) in faults() {
            for lands_late in [false, true] {
                let lab = lab.fork();
                let process = lab.open_faulty().unwrap();
                lab.faulty.inject_at(call, fault.clone());
                let result = work(&process);
                if lab.faulty.n_struck() == 0 || (lands_late && !matches!(fault, Fault::Delayed)) {
                    continue;
                }
                let what = format!("call {call}, `{}`, {name}", calls[call - 1]);
                lab.faulty.heal();
                if !lands_late {
                    lab.faulty.land();
                }
                then(&lab, result, &what);
                lab.faulty.land();
                lab.check();
            }
        }
    }
}

#[test]
fn a_fault_in_any_call_of_a_backup_leaves_one_snapshot_or_none() {
    let (lab, kept) = lab_with_garbage();
    let new = tree(9, 3);
    try_every_call(
        &lab,
        |process| process.backup(&new),
        |lab, result, what| {
            let listed = lab.check();
            let ours: Vec<_> = listed.iter().filter(|(_, tree)| **tree == new).map(|(id, _)| *id).collect();
            match result {
                Ok(id) => assert_eq!(ours, [id], "{what}"),
                Err(_) => assert!(ours.len() <= 1, "{what}"),
            }
            assert!(kept.iter().all(|id| listed.contains_key(id)), "{what}");
            // A new run finishes, whatever the last one left.
            let again = lab.open().backup(&new).unwrap();
            assert!(lab.check()[&again] == new, "{what}");
        },
    );
}

/// Keeps D-7.
#[test]
fn a_fault_in_any_call_of_a_prune_loses_nothing_and_the_next_finishes() {
    for options in [greedy(), eager()] {
        let (lab, kept) = lab_with_garbage();
        try_every_call(
            &lab,
            |process| process.prune(&options),
            |lab, _, what| {
                assert_eq!(lab.check().keys().copied().collect::<BTreeSet<_>>(), kept, "{what}");
                let process = lab.open();
                process.prune(&greedy()).unwrap();
                lab.cx.clock.advance(crate::lab::SOFT);
                process.remove().unwrap();
                assert_eq!(lab.check().keys().copied().collect::<BTreeSet<_>>(), kept, "{what}");
                let idle = process.prune(&greedy()).unwrap();
                assert!(idle.plan.is_empty(), "{what}: {}", idle.plan);
            },
        );
    }
}

/// Keeps D-7.
#[test]
fn a_fault_in_any_call_of_a_removal_loses_nothing_and_the_next_finishes() {
    let (lab, kept) = lab_with_garbage();
    lab.open().prune(&greedy()).unwrap();
    try_every_call(&lab, Process::remove, |lab, _, what| {
        lab.open().remove().unwrap();
        assert_eq!(lab.check().keys().copied().collect::<BTreeSet<_>>(), kept, "{what}");
        let state = lab.open().repo.state();
        assert!(state.doomed.is_empty() && state.stale_indexes.is_empty(), "{what}");
    });
}

#[test]
fn a_backup_whose_answer_was_lost_does_not_come_back_when_it_is_forgotten_meanwhile() {
    let (lab, _) = lab_with_garbage();
    let process = lab.open_faulty().unwrap();
    lab.faulty.inject(Verb::Put, "log", 1, Fault::answer_lost());
    let other = lab.open();
    let known: BTreeSet<_> = other.snapshots().into_iter().collect();
    // Between the put and the look that follows it, somebody forgets what it has committed.
    let seen = std::sync::Mutex::new(false);
    let (forgetter, before) = (other.repo.clone(), known.clone());
    lab.faulty.before_each(move |call| {
        if call.verb == Verb::Get && call.key.starts_with("log") {
            let state = forgetter.follow().unwrap();
            let mut seen = seen.lock().unwrap();
            if let Some(id) = state.snapshots.keys().find(|id| !before.contains(*id)).filter(|_| !*seen) {
                *seen = true;
                let change = Change::Forget(hikae_repo::log::Forget {
                    snapshots: vec![*id],
                    reason: "at once".to_owned(),
                });
                forgetter.append(&mut |_| Ok(change.clone())).unwrap();
            }
        }
    });
    process.backup(&tree(9, 3)).unwrap();
    let listed: BTreeSet<_> = lab.check().into_keys().collect();
    assert_eq!(listed, known, "what was forgotten is listed again");
}

#[test]
fn a_list_that_fails_or_lies_dooms_nothing_that_is_named() {
    let (lab, _) = lab_with_garbage();
    let past = lab.cx.now();
    let young = jiff::Timestamp::from_second(past.as_second() - 3600).unwrap();
    for (name, fails, fault) in [
        ("an error", true, Fault::refused()),
        ("an answer lost", true, Fault::answer_lost()),
        ("breaks off", true, Fault::ListBreaks(2)),
        ("not allowed", true, Fault::Before(Failure::Permission)),
        ("empty", false, Fault::empty_list()),
        ("one of many", false, Fault::partial_list(1)),
        ("an hour old", false, Fault::stale_list(young)),
    ] {
        let lab = lab.fork();
        let process = lab.open_faulty().unwrap();
        lab.faulty.inject_always(Verb::List, "packs", fault);
        let stopped = process.prune(&greedy()).unwrap_err();
        let is_right = match &stopped {
            RepoError::Store(_) => fails,
            RepoError::Prune(PruneStop::PacksMissing { .. }) => !fails,
            _ => false,
        };
        assert!(is_right, "{name}: {stopped:?}");
        lab.faulty.heal();
        let state = process.repo.follow().unwrap();
        assert!(state.doomed.is_empty(), "{name}");
        assert_eq!(process.remove().unwrap().n_packs, 0, "{name}");
        lab.check();
    }
    // Twice and backwards is the whole truth all the same.
    let process = lab.open_faulty().unwrap();
    lab.faulty.inject_always(Verb::List, "packs", Fault::muddled_list());
    process.prune(&greedy()).unwrap();
    process.remove().unwrap();
    lab.check();
}

#[test]
fn a_pack_that_the_list_does_not_show_is_asked_for_and_not_doomed_for_that() {
    let lab = Lab::new(21);
    let process = lab.open_faulty().unwrap();
    let ids: Vec<_> = (0..8).map(|n| process.backup(&tree(n, n)).unwrap()).collect();
    process.forget(ids[0]).unwrap();
    let named: Vec<_> = process.repo.index().unwrap().packs().map(|pack| pack.id).collect();
    for hidden in named {
        let lab = lab.fork();
        let process = lab.open_faulty().unwrap();
        let key = hikae_repo::layout::pack(hidden);
        let hide = move |objects: &mut Vec<hikae_store::Object>| objects.retain(|object| object.key != key);
        let whole = hikae_repo::prune::plan(&process.repo, &greedy(), &process.cx).unwrap();
        lab.faulty.inject_always(Verb::List, "packs", Fault::List(std::sync::Arc::new(hide)));
        let partial = hikae_repo::prune::plan(&process.repo, &greedy(), &process.cx).unwrap();
        assert_eq!(partial, whole);
    }
}

#[test]
fn what_cannot_be_read_is_never_taken_as_absent() {
    let (lab, _) = lab_with_garbage();
    for prefix in ["snapshots", "index", "log", "packs"] {
        for failure in Failure::ALL {
            let lab = lab.fork();
            let process = lab.open_faulty().unwrap();
            lab.faulty.inject_always(Verb::Get, prefix, Fault::Before(failure));
            // An entry that is "not found" ends the log, as each log ends; the put finds out.
            if let Ok(report) = process.prune(&greedy()) {
                assert!(prefix == "log" && failure == Failure::NotFound, "{prefix} {failure:?}: {report:?}");
            } else {
                lab.faulty.heal();
                let state = process.repo.follow().unwrap();
                assert!(state.doomed.is_empty(), "{prefix} {failure:?}");
            }
            lab.faulty.heal();
            process.remove().unwrap();
            lab.check();
        }
    }
}

#[test]
fn an_entry_by_a_stranger_holds_its_number_and_does_nothing() {
    let (lab, kept) = lab_with_garbage();
    let process = lab.open();
    let state = process.repo.follow().unwrap();
    let packs = process.repo.index().unwrap().packs().map(|pack| pack.id).collect();
    let entry = LogEntry {
        n: state.n + 1,
        previous: state.head,
        at: process.cx.now(),
        run: RunId::from_bytes([7; 16]),
        change: Change::Prune(Prune { doomed: packs, ..Prune::default() }),
    };
    let stranger = Signer::from_seed(&Secret32::new([7; 32]));
    let stored = entry.seal(process.repo.header().core.repository, process.repo.keys(), &stranger);
    lab.memory.put(&layout::log_entry(entry.n), &stored).unwrap();
    let after = process.repo.follow().unwrap();
    assert_eq!((after.n, after.void.back().copied()), (entry.n, Some(entry.n)));
    assert!(after.doomed.is_empty());
    process.backup(&tree(9, 9)).unwrap();
    process.prune(&greedy()).unwrap();
    process.remove().unwrap();
    assert!(kept.iter().all(|id| lab.check().contains_key(id)));
}

#[test]
fn who_may_only_write_prunes_forgets_and_removes_nothing() {
    let cx = hikae_testkit::test_cx();
    let memory = hikae_store::MemoryStore::with_clock(cx.clock.clone());
    let (key, cache) = (Secret32::new(crate::world::KEY), tempfile::tempdir().unwrap());
    let recipient = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p".to_owned();
    let options = InitOptions {
        recipients: vec![recipient],
        without_first_identity: false,
        wrap: Wrap::KeyFile(&key),
        write_only: true,
        like: None,
    };
    let new = Repo::init(Arc::new(memory.clone()), &options, cache.path(), &cx).unwrap();
    let repo = Arc::new(new.repo);
    let id = crate::world::backup(&repo, &tree(1, 1), Cut::Files, None).unwrap().snapshots[0];
    let before = memory.keys();
    let what = ToForget::Snapshots([id].into());
    let told = ForgetOptions { even_last: true, even_many: true };
    for result in [
        prune(&repo, &greedy(), &cx).map(drop),
        remove_doomed(&repo, &cx).map(drop),
        forget(&repo, &what, "a test", told, &cx).map(drop),
    ] {
        assert!(matches!(result, Err(RepoError::NoRight { .. })), "{result:?}");
    }
    assert_eq!(memory.keys(), before, "and nothing was written for it");
}
