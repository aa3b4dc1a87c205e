//! Writers, pruners, removers and forgetters at once, and each of them stopped wherever it can be.

use crate::lab::{Lab, Process, SOFT, eager, greedy, tree};
use crate::world::{Tree, restore};
use hikae_model::SnapshotId;
use hikae_repo::log::Change;
use hikae_repo::prune::PruneOptions;
use hikae_repo::{RepoError, layout};
use hikae_store::{Store, StoreError};
use hikae_testkit::{Seed, TestRandom, Verb};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

type Meanwhile = Box<dyn Fn(&Lab) + Send + Sync>;

/// Runs `work` once for each call that it makes, and each time `meanwhile` runs from begin to end before that
/// call: as if the process had slept there.
pub fn sleep_at_every_call<T>(
    lab: &Lab,
    work: impl Fn(&Process) -> Result<T, RepoError>,
    meanwhile: impl Fn(&Lab) + Send + Sync + Clone + 'static,
    then: impl Fn(&Lab, Result<T, RepoError>, &str),
) {
    let mut call = 1;
    loop {
        let lab = lab.fork();
        let process = lab.open_faulty().unwrap();
        let (n, slept) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(None)));
        let (inner, meanwhile, noted) = (lab.same(), meanwhile.clone(), slept.clone());
        lab.faulty.before_each(move |before| {
            if n.fetch_add(1, Ordering::SeqCst) + 1 == call {
                *noted.lock().unwrap() = Some(before.to_string());
                meanwhile(&inner);
            }
        });
        let result = work(&process);
        let Some(at) = slept.lock().unwrap().take() else { break };
        then(&lab, result, &format!("asleep before call {call}, `{at}`"));
        call += 1;
    }
    assert!(call > 2, "that were too few calls");
}

/// Three snapshots, of which the first is forgotten and shares most of its content with the tree that the
/// test backs up.
fn lab_with_forgotten() -> Lab {
    let lab = Lab::new(30);
    let process = lab.open();
    let first = process.backup(&tree(1, 1)).unwrap();
    process.backup(&tree(2, 2)).unwrap();
    process.backup(&tree(3, 2)).unwrap();
    process.forget(first).unwrap();
    lab
}

/// Forgotten snapshots that are gone for good.
fn dropped(lab: &Lab) -> BTreeSet<SnapshotId> {
    let (repo, mut committed, mut dropped) = (lab.open().repo, BTreeSet::new(), BTreeSet::new());
    for n in 1..=repo.state().n {
        match repo.read_entry(n).unwrap().unwrap().0.change {
            Change::Commit(commit) => committed.extend(commit.snapshots.iter().map(|snapshot| snapshot.id)),
            Change::Removed(removed) => dropped.extend(removed.snapshots),
            _ => {}
        }
    }
    dropped.retain(|id| committed.contains(id));
    dropped
}

fn prune_and_remove(options: PruneOptions) -> impl Fn(&Lab) + Send + Sync + Clone + 'static {
    move |lab| {
        let process = lab.open();
        process.prune(&options).unwrap();
        process.remove().unwrap();
    }
}

/// Keeps D-2.
#[test]
fn a_writer_that_slept_through_a_prune_rescues_what_it_needs() {
    // Its own files are new, the others are those of the forgotten snapshot.
    let new = tree(9, 1);
    let then = |lab: &Lab, result: Result<SnapshotId, RepoError>, what: &str| {
        let id = result.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert!(lab.check()[&id] == new, "{what}");
        // What was doomed meanwhile goes for good now.
        lab.cx.clock.advance(SOFT);
        lab.open().remove().unwrap();
        assert!(lab.check()[&id] == new, "{what}, then removed");
    };
    sleep_at_every_call(
        &lab_with_forgotten(),
        |process| process.backup(&new),
        prune_and_remove(eager()),
        then,
    );
}

/// Keeps D-2.
#[test]
fn a_writer_that_slept_through_a_removal_too_is_whole_or_fails_without_an_entry() {
    // Its own files are new, the others are those of the forgotten snapshot.
    let new = tree(9, 1);
    let failed = AtomicUsize::new(0);
    let then = |lab: &Lab, result: Result<SnapshotId, RepoError>, what: &str| {
        let listed = lab.check();
        match result {
            Ok(id) => assert!(listed[&id] == new, "{what}"),
            Err(_) => {
                failed.fetch_add(1, Ordering::Relaxed);
                assert_eq!(listed.len(), 2, "{what}");
            }
        }
        let again = lab.open().backup(&new).unwrap();
        assert!(lab.check()[&again] == new, "{what}");
    };
    sleep_at_every_call(
        &lab_with_forgotten(),
        |process| process.backup(&new),
        prune_and_remove(greedy()),
        then,
    );
    assert!(failed.into_inner() > 0, "no run relied on what was removed: the test tests nothing");
}

/// Keeps D-1.
#[test]
fn of_content_that_two_writers_stored_at_once_one_copy_stays() {
    let lab = Lab::new(32);
    lab.open().backup(&tree(1, 1)).unwrap();
    let new = tree(2, 2);
    // The second backs up the same from begin to end before the first puts its entry.
    let (other, again) = (lab.same(), new.clone());
    let once = std::sync::Once::new();
    lab.faulty.before_each(move |call| {
        if call.verb == Verb::Put && call.key.starts_with("log") {
            once.call_once(|| assert!(other.open().backup(&again).is_ok()));
        }
    });
    lab.open_faulty().unwrap().backup(&new).unwrap();
    let process = lab.open();
    let report = process.prune(&greedy()).unwrap();
    assert!(report.plan.doomed.len() > 1, "the second copies go: {}", report.plan);
    process.remove().unwrap();
    assert_eq!(lab.check().values().filter(|tree| **tree == new).count(), 2);
}

/// Keeps D-2.
#[test]
fn an_undelete_that_slept_through_a_prune_and_removal_is_whole_or_fails() {
    for options in [eager(), greedy()] {
        let lab = lab_with_forgotten();
        let forgotten = *lab.open().repo.state().forgotten.keys().next().unwrap();
        sleep_at_every_call(
            &lab,
            |process| process.repo.undelete(&[forgotten]),
            prune_and_remove(options),
            |lab, result, what| {
                let listed = lab.check();
                assert_eq!(listed.contains_key(&forgotten), result.is_ok(), "{what}: {result:?}");
                lab.cx.clock.advance(SOFT);
                lab.open().remove().unwrap();
                assert_eq!(lab.check().len(), listed.len(), "{what}");
            },
        );
    }
}

/// Keeps D-3.
#[test]
fn a_pruner_that_slept_through_commits_and_prunes_dooms_nothing_that_is_needed() {
    let forgotten_again = tree(1, 1);
    let commit = {
        let tree = forgotten_again.clone();
        move |lab: &Lab| {
            lab.open().backup(&tree).unwrap();
        }
    };
    let undelete = |lab: &Lab| {
        let process = lab.open();
        // After the removal it is too late.
        let forgotten = process.repo.state().forgotten.keys().next().copied();
        drop(forgotten.map(|id| process.repo.undelete(&[id])));
    };
    let all = {
        let commit = commit.clone();
        move |lab: &Lab| {
            commit(lab);
            prune_and_remove(greedy())(lab);
        }
    };
    let cases: [(&str, Meanwhile, usize); 4] = [
        ("a commit", Box::new(commit), 4),
        ("an undelete", Box::new(undelete), 3),
        ("a prune and a removal", Box::new(prune_and_remove(greedy())), 3),
        ("all of it", Box::new(all), 4),
    ];
    for (name, meanwhile, n_made) in cases {
        let meanwhile = Arc::new(meanwhile);
        for options in [greedy(), eager()] {
            sleep_at_every_call(
                &lab_with_forgotten(),
                |process| process.prune(&options).and_then(|_| process.remove()),
                {
                    let meanwhile = meanwhile.clone();
                    move |lab: &Lab| meanwhile(lab)
                },
                |lab, result, what| {
                    let what = format!("{name}, {what}: {result:?}");
                    let listed = lab.check().len();
                    let there = listed + lab.open().repo.state().forgotten.len();
                    assert_eq!(there + dropped(lab).len(), n_made, "{what}");
                    lab.cx.clock.advance(SOFT);
                    lab.open().remove().unwrap();
                    assert_eq!(lab.check().len(), listed, "{what}");
                },
            );
        }
    }
}

/// The record of a forgotten snapshot goes after the entry that says so, and an undelete that comes between the
/// two keeps it.
#[test]
fn a_remover_that_slept_through_an_undelete_leaves_it_whole() {
    let lab = lab_with_forgotten();
    let forgotten = *lab.open().repo.state().forgotten.keys().next().unwrap();
    lab.open().prune(&eager()).unwrap();
    lab.cx.clock.advance(SOFT);
    let back = Arc::new(AtomicUsize::new(0));
    let came_back = back.clone();
    sleep_at_every_call(
        &lab,
        |process| process.remove(),
        move |lab| drop(lab.open().repo.undelete(&[forgotten]).map(|_| back.fetch_add(1, Ordering::Relaxed))),
        |lab, result, what| {
            let listed = lab.check();
            let gone = dropped(lab).contains(&forgotten);
            assert_eq!(listed.contains_key(&forgotten), !gone, "{what}: {result:?}");
            let stored = lab.memory.stat(&layout::snapshot(forgotten)).is_ok();
            assert!(stored || gone, "{what}: {result:?}");
            lab.open().remove().unwrap();
            assert_eq!(lab.check().len(), listed.len(), "{what}");
        },
    );
    assert!(came_back.load(Ordering::Relaxed) > 0, "no undelete was in time: the test tests nothing");
}

/// The runs of a month leave few index objects, without a prune.
#[test]
fn small_index_objects_are_merged_by_who_may_and_whatever_happens_meanwhile() {
    let lab = Lab::new(33);
    let process = lab.open();
    for n in 0..7 {
        let tree: Tree = [("number".to_owned(), n.to_string().into_bytes())].into();
        let id = process.backup(&tree).unwrap();
        if n > 1 {
            process.forget(id).unwrap();
        }
    }
    assert_eq!(process.repo.state().indexes.len(), 7);
    let new = tree(9, 9);
    let backup = |lab: &Lab| {
        lab.open().backup(&tree(8, 9)).unwrap();
    };
    let meanwhile: [Meanwhile; 2] = [Box::new(backup), Box::new(prune_and_remove(greedy()))];
    for meanwhile in meanwhile {
        let meanwhile = Arc::new(meanwhile);
        sleep_at_every_call(
            &lab,
            |process| process.backup(&new),
            move |lab| meanwhile(lab),
            |lab, result, what| {
                let listed = lab.check();
                match result {
                    Ok(id) => assert!(listed[&id] == new, "{what}"),
                    Err(error) => assert!(is_a_clean_end(&error), "{what}: {error:?}"),
                }
                let n_indexes = lab.open().repo.state().indexes.len();
                assert!(n_indexes <= 3, "{what}: {n_indexes}");
                lab.cx.clock.advance(SOFT);
                lab.open().remove().unwrap();
                assert_eq!(lab.check().len(), listed.len(), "{what}");
            },
        );
    }
}

#[test]
fn who_may_not_prune_merges_no_index_objects() {
    let lab = Lab::new(34);
    crate::small::add_writer(&lab.open().repo, &crate::small::WRITER_KEY, hikae_repo::log::Rights::WRITE);
    let cache = tempfile::tempdir().unwrap();
    let writer = crate::small::open_with(lab.memory.clone(), crate::small::WRITER_KEY, cache.path()).unwrap();
    for n in 0..40 {
        let tree: Tree = [("number".to_owned(), n.to_string().into_bytes())].into();
        crate::world::backup(&writer, &tree, hikae_model::Cut::Files, None).unwrap();
    }
    assert_eq!(lab.check().len(), 40);
    assert_eq!(lab.open().repo.state().indexes.len(), 40);
}

/// Keeps D-5.
#[test]
fn stale_caches_lead_nobody_to_what_was_pruned() {
    let lab = lab_with_forgotten();
    let new = tree(1, 1);
    // Opened, and its index loaded, before the prune; used after it.
    let stale = lab.open();
    stale.repo.index().unwrap();
    let pruner = lab.open();
    pruner.prune(&greedy()).unwrap();
    pruner.remove().unwrap();
    let id = stale.backup(&new).unwrap();
    assert!(lab.check()[&id] == new);
    // The same for a process that opens with a cache and a checkpoint from before.
    for n in 0..40 {
        let id = pruner.backup(&tree(100 + n, n)).unwrap();
        if n % 3 == 0 {
            pruner.forget(id).unwrap();
            pruner.prune(&greedy()).unwrap();
            pruner.remove().unwrap();
        }
    }
    let id = stale.backup(&tree(1, 3)).unwrap();
    assert!(lab.check()[&id] == tree(1, 3));
    assert_eq!(restore(&pruner.repo, id).unwrap(), tree(1, 3));
}

/// What may end a run when everything that it relies on may be pruned and removed at any time.
pub fn is_a_clean_end(error: &RepoError) -> bool {
    matches!(
        error,
        RepoError::PackGone { .. }
            | RepoError::RescuedInVain
            | RepoError::BlobMissing { .. }
            | RepoError::Store(StoreError::NotFound { .. })
            | RepoError::Prune(_)
            | RepoError::Forget(_)
    )
}

/// Keeps D-1, D-8.
#[test]
fn writers_pruners_forgetters_removers_and_readers_at_once_lose_nothing() {
    let rounds = crate::prune::cases(12) as usize;
    let seed = Seed::draw();
    let lab = Lab::new(31);
    let random = Arc::new(TestRandom::new(seed));
    let delays = random.clone();
    lab.faulty.before_each(move |_| {
        std::thread::sleep(std::time::Duration::from_micros(delays.below(400)));
    });
    let numbers = AtomicUsize::new(0);
    let acked: Mutex<BTreeMap<SnapshotId, Tree>> = Mutex::default();
    let asked: Mutex<BTreeSet<SnapshotId>> = Mutex::default();
    let (restored, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let end = |error: RepoError| {
        assert!(is_a_clean_end(&error), "{error:?}");
        refused.fetch_add(1, Ordering::Relaxed);
    };
    let options = |soft: bool| if soft { eager() } else { greedy() };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let process = lab.open_faulty().unwrap();
                for _ in 0..rounds {
                    let tree = tree(numbers.fetch_add(1, Ordering::Relaxed) as u64, random.below(4));
                    match process.backup(&tree) {
                        Ok(id) => drop(acked.lock().unwrap().insert(id, tree)),
                        Err(error) => end(error),
                    }
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                let process = lab.open_faulty().unwrap();
                for _ in 0..rounds {
                    process.prune(&options(random.once_in(2))).map_or_else(end, drop);
                }
            });
        }
        scope.spawn(|| {
            let process = lab.open_faulty().unwrap();
            for _ in 0..2 * rounds {
                process.remove().map_or_else(end, drop);
            }
        });
        scope.spawn(|| {
            let process = lab.open_faulty().unwrap();
            for _ in 0..2 * rounds {
                let known: Vec<_> = acked.lock().unwrap().keys().copied().collect();
                if !known.is_empty() {
                    let id = known[random.below(known.len() as u64) as usize];
                    asked.lock().unwrap().insert(id);
                    process.forget(id).map_or_else(end, drop);
                }
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        });
        scope.spawn(|| {
            let process = lab.open_faulty().unwrap();
            for _ in 0..4 * rounds {
                let known: Vec<_> = acked.lock().unwrap().keys().copied().collect();
                if known.is_empty() {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                } else {
                    let id = known[random.below(known.len() as u64) as usize];
                    match restore(&process.repo, id) {
                        Ok(tree) => {
                            assert!(tree == acked.lock().unwrap()[&id], "wrong bytes");
                            restored.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => assert!(error.is_damage() || is_a_clean_end(&error), "{error:?}"),
                    }
                }
            }
        });
    });
    let listed = lab.check();
    let (acked, asked) = (acked.into_inner().unwrap(), asked.into_inner().unwrap());
    for (id, tree) in acked.iter().filter(|(id, _)| !asked.contains(id)) {
        assert!(listed.get(id) == Some(tree), "acknowledged {} was lost", id.short());
    }
    eprintln!(
        "{} acknowledged, {} forgotten, {} restores while it went on, {} refusals, entry {}",
        acked.len(),
        asked.len(),
        restored.into_inner(),
        refused.into_inner(),
        lab.open().repo.state().n
    );
}
