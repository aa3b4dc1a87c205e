//! Small segments in bundles: found at every moment, taken by nobody else, gone only when nothing needs them.

use crate::concurrency::sleep_at_every_call;
use crate::lab::{Lab, Process, SOFT, tree};
use crate::small::{WRITER_KEY, add_writer};
use crate::world::{KEY, noise};
use hikae_model::{Lsn, Outcome, SegmentName, SegmentSize, SystemId, Timeline, WalName};
use hikae_repo::keys::Secret32;
use hikae_repo::log::{Change, Enrol, LogFloors, Rights};
use hikae_repo::prune::{BundleOptions, BundleTotals, bundle_log, floor_log, plan_bundles};
use hikae_repo::slot::Unlock;
use hikae_repo::verify::{VerifyOptions, verify};
use hikae_repo::wal::{LogFloor, Pushed, StoredWal, WalArchive, WalError};
use hikae_repo::{RepoError, layout};
use hikae_store::{ObjectKey, Store};
use hikae_testkit::{Seed, TestRandom, system_cx};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SYSTEM: SystemId = SystemId(7_000_000_000_000_000_001);
const SIZE: SegmentSize = SegmentSize::USUAL;
const READ_DATA: VerifyOptions = VerifyOptions { read_data: true, snapshots: None, sample: None };

/// What a reader does.
type Reading = fn(&WalArchive);
/// What another process does while one sleeps.
type Meanwhile = Arc<dyn Fn(&Process) + Send + Sync>;

fn segment_on(timeline: u32, number: u64) -> SegmentName {
    SegmentName::holding(Lsn(number * SIZE.bytes()), Timeline::new(timeline).unwrap(), SIZE)
}

fn segment(number: u64) -> WalName {
    segment_on(1, number).into()
}

/// What is archived as a segment.
fn content(number: u64) -> Vec<u8> {
    noise(number, 300 + number as usize)
}

/// As long, and another.
fn other(number: u64) -> Vec<u8> {
    noise(number + 1_000_000, 300 + number as usize)
}

fn options(soft: Duration) -> BundleOptions {
    BundleOptions {
        soft,
        small_bytes: 4_000,
        most_files: 4,
        most_bytes: 1 << 20,
        fewest_files: 2,
        least_spared_bytes: 1,
    }
}

fn push_to(wal: &WalArchive, name: WalName, content: &[u8]) -> Result<Pushed, WalError> {
    wal.push(SYSTEM, name, &mut &*content)
}

fn push(process: &Process, name: WalName, content: &[u8]) -> Result<Pushed, WalError> {
    push_to(&WalArchive::of(&process.repo), name, content)
}

/// Only a differing file is told apart; all else must not happen.
fn was_taken(pushed: Result<Pushed, WalError>, what: &str) -> bool {
    match pushed {
        Ok(_) => true,
        Err(WalError::Differs { .. }) => false,
        Err(error) => panic!("{what}: {error:?}"),
    }
}

fn fetched(wal: &WalArchive, name: WalName) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    wal.get(SYSTEM, name, &mut bytes).unwrap_or_else(|error| panic!("{name}: {error:?}")).map(|_| bytes)
}

fn bundle(process: &Process, soft: Duration) -> Result<BundleTotals, RepoError> {
    bundle_log(&process.repo, &options(soft), &process.cx)
}

/// A prune that leaves nothing for later.
fn bundle_and_remove(process: &Process) -> Result<(), RepoError> {
    bundle(process, Duration::ZERO)?;
    process.remove().map(drop)
}

/// Puts a floor below the `number`th segment.
fn floor(process: &Process, number: u64, soft: Duration) -> Result<(), RepoError> {
    floor_log(&process.repo, &process.cx, &mut |state, _| {
        let below = Lsn(number * SIZE.bytes());
        let floor = LogFloor { system: SYSTEM, timeline: Timeline::FIRST, below, segment_size: SIZE };
        let without = state.forgotten.keys().copied().collect();
        Ok::<_, RepoError>(Some(LogFloors { floors: vec![floor], soft_seconds: soft.as_secs(), without }))
    })
    .map(drop)
}

/// Segments that stand by themselves, and bundles.
fn stored(store: &dyn Store) -> (BTreeSet<WalName>, BTreeSet<ObjectKey>) {
    let (mut singles, mut bundles) = (BTreeSet::new(), BTreeSet::new());
    store
        .list("wal", &mut |object| match layout::wal_of(&object.key) {
            Some((_, name)) => drop(singles.insert(name)),
            None => {
                assert!(layout::wal_bundle_of(&object.key).is_some(), "{}", object.key);
                bundles.insert(object.key);
            }
        })
        .unwrap();
    (singles, bundles)
}

/// A repository with these segments of the first timeline.
fn lab_with(seed: u64, segments: std::ops::Range<u64>) -> Lab {
    let lab = Lab::new(seed);
    let process = lab.open();
    process.backup(&tree(1, 1)).unwrap();
    for number in segments {
        push(&process, segment(number), &content(number)).unwrap();
    }
    lab
}

/// Whoever opens it now has all of these, to the byte, in the list too; and verify finds nothing wrong.
#[track_caller]
fn check_has(lab: &Lab, segments: impl IntoIterator<Item = u64>, what: &str) {
    let process = lab.open();
    let wal = WalArchive::of(&process.repo);
    let listed: BTreeSet<WalName> =
        wal.list().unwrap().remove(&SYSTEM).unwrap_or_default().iter().map(|file| file.name).collect();
    for number in segments {
        assert!(fetched(&wal, segment(number)) == Some(content(number)), "{what}: segment {number} is gone");
        assert!(listed.contains(&segment(number)), "{what}: segment {number} is not listed");
    }
    let report = verify(&process.repo, &READ_DATA, &process.cx).unwrap();
    assert_eq!((report.outcome, report.problems), (Outcome::Complete, Vec::new()), "{what}");
}

/// Keeps E-7.
#[test]
fn small_segments_become_one_object_and_come_back_to_the_byte() {
    let lab = lab_with(70, 0..10);
    let process = lab.open();
    let large = noise(7, 5_000);
    let history: WalName = "00000002.history".parse().unwrap();
    let partial: WalName = "000000010000000000000003.partial".parse().unwrap();
    push(&process, segment(10), &large).unwrap();
    push(&process, history, b"1\t0/3000000\tpromoted\n").unwrap();
    push(&process, partial, &content(3)).unwrap();
    push(&process, segment_on(2, 3).into(), &content(3)).unwrap();
    let before = WalArchive::of(&process.repo).list().unwrap();

    let planned = plan_bundles(&process.repo, &options(SOFT), &process.cx).unwrap();
    let made = bundle(&process, SOFT).unwrap();
    // Four, four, and two that are as many as must be; the one of the second timeline waits for more.
    assert_eq!((made.n_bundles, made.n_files), (3, 10));
    assert_eq!((planned.n_bundles, planned.n_files), (3, 10));
    assert_eq!(bundle(&process, SOFT).unwrap(), BundleTotals::default(), "all of it is bundled");
    let removed = process.remove().unwrap();
    assert_eq!(
        (removed.n_bundled, removed.next),
        (0, Some(process.cx.now() + SOFT)),
        "the soft period is not over"
    );
    check_has(&lab, 0..10, "bundled");

    lab.cx.clock.advance(SOFT);
    let removed = lab.open().remove().unwrap();
    assert_eq!((removed.n_bundled, removed.n_log_files, removed.next), (10, 0, None));
    let stays = [segment(10), history, partial, segment_on(2, 3).into()];
    assert_eq!(stored(&lab.memory).0, stays.into());
    assert_eq!(lab.open().remove().unwrap(), Default::default());
    check_has(&lab, 0..10, "removed");
    let names = |list: &BTreeMap<SystemId, Vec<StoredWal>>| {
        // When it came tells which timeline is the present, and is not when it was bundled.
        let told = |file: &StoredWal| (file.name, file.stored_bytes, file.stored.as_second());
        list[&SYSTEM].iter().map(told).collect::<Vec<_>>()
    };
    assert_eq!(names(&WalArchive::of(&process.repo).list().unwrap()), names(&before));

    // The same is known again, and another is refused as ever; nothing is stored twice.
    for number in 0..10 {
        let again = lab.open();
        assert_eq!(push(&again, segment(number), &content(number)).unwrap(), Pushed::AlreadyThere);
        assert!(!was_taken(push(&again, segment(number), &other(number)), "another"));
        assert!(!was_taken(push(&again, segment(number), &content(number)[1..]), "a shorter one"));
    }
    assert_eq!(stored(&lab.memory).0, stays.into());
    assert!(fetched(&WalArchive::of(&process.repo), segment(10)) == Some(large));
    lab.check();
}

/// Keeps E-7. Of two that archive one name one decides, whatever is bundled and removed while one of them sleeps.
#[test]
fn a_pusher_that_slept_through_bundling_takes_no_name_of_a_bundled_segment() {
    for is_same in [true, false] {
        let first = Arc::new(Mutex::new(false));
        let in_time = first.clone();
        sleep_at_every_call(
            &lab_with(71, 0..1),
            |process| {
                let mine = if is_same { content(1) } else { other(1) };
                Ok(was_taken(push(process, segment(1), &mine), "asleep"))
            },
            move |lab| {
                let process = lab.open();
                *in_time.lock().unwrap() = was_taken(push(&process, segment(1), &content(1)), "meanwhile");
                bundle_and_remove(&process).unwrap();
                assert_eq!(stored(&lab.memory).0, [].into(), "it is not bundled: the test tests nothing");
            },
            |lab, result, what| {
                let (was_first, acknowledged) = (*first.lock().unwrap(), result.unwrap());
                assert_eq!(acknowledged, is_same || !was_first, "{what}: the first was {was_first}");
                let expected = if was_first { content(1) } else { other(1) };
                let again = lab.open();
                assert!(
                    fetched(&WalArchive::of(&again.repo), segment(1)) == Some(expected.clone()),
                    "{what}"
                );
                bundle_and_remove(&again).unwrap();
                let now = fetched(&WalArchive::of(&lab.open().repo), segment(1));
                assert!(now == Some(expected), "{what}, and after another prune");
            },
        );
    }
}

/// One that died between its put and its look leaves another file under a free name. It was never acknowledged.
#[test]
fn what_stands_beside_a_bundle_under_a_name_of_it_counts_for_nothing() {
    let lab = lab_with(72, 0..4);
    let elsewhere = lab.fork();
    let key = layout::wal(SYSTEM, segment(2));
    bundle_and_remove(&lab.open()).unwrap();
    elsewhere.memory.remove(&key).unwrap();
    push(&elsewhere.open(), segment(2), &other(2)).unwrap();
    lab.memory.put(&key, &elsewhere.memory.get(&key).unwrap()).unwrap();

    let process = lab.open();
    let wal = WalArchive::of(&process.repo);
    assert!(fetched(&wal, segment(2)) == Some(content(2)));
    assert_eq!(push_to(&wal, segment(2), &content(2)).unwrap(), Pushed::AlreadyThere);
    assert!(!was_taken(push_to(&wal, segment(2), &other(2)), "another"));
    // Nothing is removed that is not what the bundle holds; and it is named.
    assert_eq!(process.remove().unwrap().n_bundled, 0);
    assert_eq!(bundle(&process, SOFT).unwrap(), BundleTotals::default());
    let report = verify(&process.repo, &READ_DATA, &process.cx).unwrap();
    let kinds: Vec<_> = report.problems.iter().map(|problem| problem.code.to_string()).collect();
    assert_eq!(kinds, ["another-file"], "{:?}", report.problems);
}

/// A process that only reads, with its own view of the log, which it does not read again.
fn archive_over(store: impl Store + 'static) -> (WalArchive, tempfile::TempDir) {
    let cache = tempfile::tempdir().unwrap();
    let unlock = Unlock::KeyFile(Secret32::new(KEY));
    let wal = WalArchive::open(Arc::new(store), unlock, Vec::new(), cache.path(), &system_cx()).unwrap();
    (wal, cache)
}

/// Keeps E-7. To a server "there is none" is the end of the log.
#[test]
fn who_reads_finds_each_segment_at_every_moment_while_it_is_bundled_and_bundled_anew() {
    let lab = lab_with(73, 0..8);
    // Half of what a bundle holds is below a floor, so it is made anew; then another half.
    let bundled = lab.fork();
    bundle_and_remove(&bundled.open()).unwrap();
    floor(&bundled.open(), 6, Duration::ZERO).unwrap();
    for (lab, name) in [(&lab, "single"), (&bundled, "in a bundle")] {
        let read: [(&str, Reading); 3] = [
            ("get", |wal| assert!(fetched(wal, segment(7)) == Some(content(7)), "other bytes")),
            ("head", |wal| assert!(wal.head(SYSTEM, segment(7)).unwrap().is_some(), "no head")),
            ("list", |wal| {
                let list = wal.list().unwrap().remove(&SYSTEM).unwrap_or_default();
                assert!(list.iter().any(|file| file.name == segment(7)), "not in {list:?}");
            }),
        ];
        for (verb, read) in read {
            let mut n_calls = 0;
            for call in 1.. {
                let lab = lab.fork();
                let (wal, _cache) = archive_over(lab.faulty.clone());
                lab.faulty.forget_calls();
                let (inner, slept) = (lab.same(), Arc::new(Mutex::new((0, false))));
                let noted = slept.clone();
                lab.faulty.before_each(move |_| {
                    let mut noted = noted.lock().unwrap();
                    noted.0 += 1;
                    if noted.0 == call {
                        noted.1 = true;
                        bundle_and_remove(&inner.open()).unwrap();
                    }
                });
                println!("{name}, {verb}, call {call}");
                read(&wal);
                if !slept.lock().unwrap().1 {
                    break;
                }
                n_calls = call;
                assert!(
                    !stored(&lab.memory).0.contains(&segment(7)),
                    "it did not move: the test tests nothing"
                );
                // And once more, of what it remembers.
                read(&wal);
            }
            assert!(n_calls > 1, "{name}, {verb}: {n_calls} calls");
        }
    }
}

/// A host that has read the log before somebody came who may prune. What that one bundles must be found all the same.
#[test]
fn a_stale_host_finds_what_somebody_has_bundled_of_whom_it_never_heard() {
    let lab = lab_with(74, 0..4);
    let (stale, _cache) = archive_over(lab.memory.clone());
    let process = lab.open();
    add_writer(&process.repo, &[44; 32], Rights::WRITE);
    push(&lab.open_with_key([44; 32]), segment(9), &content(9)).unwrap();
    // So it has read the log.
    assert!(fetched(&stale, segment(9)) == Some(content(9)));

    add_writer(&process.repo, &WRITER_KEY, Rights(Rights::WRITE.0 | Rights::PRUNE.0));
    bundle_and_remove(&lab.open_with_key(WRITER_KEY)).unwrap();
    assert!(!stored(&lab.memory).0.contains(&segment(2)), "it did not go: the test tests nothing");
    assert!(fetched(&stale, segment(2)) == Some(content(2)));
    assert!(!was_taken(push_to(&stale, segment(1), &other(1)), "another"));
}

/// Who once might prune has bundled what is gone by itself: it must count for ever.
#[test]
fn what_one_has_bundled_counts_after_the_right_was_taken() {
    for is_distrusted in [false, true] {
        let lab = lab_with(75, 0..4);
        let process = lab.open();
        let both = Rights(Rights::WRITE.0 | Rights::PRUNE.0);
        add_writer(&process.repo, &WRITER_KEY, both);
        let pruner = lab.open_with_key(WRITER_KEY);
        bundle_and_remove(&pruner).unwrap();
        assert!(!stored(&lab.memory).0.contains(&segment(2)), "it did not go: the test tests nothing");
        let writer = pruner.repo.signer().id();
        let less = Enrol {
            writer,
            rights: Rights::WRITE.0,
            group: "owner".to_owned(),
            label: String::new(),
            sources: None,
        };
        process.repo.append(&mut |_| Ok(Change::Enrol(less.clone()))).unwrap();
        process.repo.append(&mut |_| Ok(Change::Enrol(less.clone()))).unwrap();
        if is_distrusted {
            process.repo.append(&mut |_| Ok(Change::Distrust(writer))).unwrap();
        }
        // Past a checkpoint, too.
        while process.repo.state().n < 33 {
            process.repo.append(&mut |_| Ok(Change::Removed(Default::default()))).unwrap();
        }
        lab.memory.remove(&layout::log_entry(1)).unwrap();
        let wal = WalArchive::of(&lab.open().repo);
        for number in 0..4 {
            assert!(fetched(&wal, segment(number)) == Some(content(number)));
        }
        let refused = bundle(&pruner, SOFT);
        assert!(matches!(refused, Err(RepoError::NoRight { .. })), "{refused:?}");
    }
}

/// Else a host that may only write could say what was archived long ago.
#[test]
fn a_bundle_of_who_may_not_prune_counts_for_nothing() {
    let lab = lab_with(76, 0..4);
    add_writer(&lab.open().repo, &WRITER_KEY, Rights::WRITE);
    let writer = lab.open_with_key(WRITER_KEY);
    let refused = bundle(&writer, SOFT);
    assert!(matches!(refused, Err(RepoError::NoRight { .. })), "{refused:?}");

    // In a history of its own it may, and the segments are others.
    let elsewhere = lab.fork();
    let allow = Enrol {
        writer: writer.repo.signer().id(),
        rights: Rights::ALL.0,
        group: "owner".to_owned(),
        label: String::new(),
        sources: None,
    };
    elsewhere.open().repo.append(&mut |_| Ok(Change::Enrol(allow.clone()))).unwrap();
    for number in 0..4 {
        elsewhere.memory.remove(&layout::wal(SYSTEM, segment(number))).unwrap();
    }
    let there = elsewhere.open_with_key(WRITER_KEY);
    for number in 0..4 {
        push(&there, segment(number), &other(number)).unwrap();
    }
    bundle(&there, Duration::ZERO).unwrap();
    let forged = stored(&elsewhere.memory).1.pop_first().unwrap();
    lab.memory.put(&forged, &elsewhere.memory.get(&forged).unwrap()).unwrap();

    let process = lab.open();
    let wal = WalArchive::of(&process.repo);
    assert!(fetched(&wal, segment(2)) == Some(content(2)), "a forged bundle counts");
    assert_eq!(push_to(&wal, segment(1), &content(1)).unwrap(), Pushed::AlreadyThere);
    assert_eq!(process.remove().unwrap().n_bundled, 0);
    let report = verify(&process.repo, &READ_DATA, &process.cx).unwrap();
    assert_eq!(report.n_problems, 1, "{:?}", report.problems);
    bundle_and_remove(&process).unwrap();
    assert!(fetched(&wal, segment(2)) == Some(content(2)));
}

/// Keeps BC-24.
#[test]
fn a_bundle_goes_when_none_of_it_is_needed_and_one_that_is_cut_is_made_anew() {
    let lab = lab_with(77, 0..12);
    let process = lab.open();
    bundle_and_remove(&process).unwrap();
    let length =
        |lab: &Lab| stored(&lab.memory).1.iter().map(|key| lab.memory.stat(key).unwrap().bytes).sum::<u64>();
    assert_eq!(stored(&lab.memory).1.len(), 3);
    // The first goes whole. Of the second three quarters.
    floor(&process, 7, SOFT).unwrap();
    bundle_and_remove(&process).unwrap();
    assert_eq!(stored(&lab.memory).1.len(), 3, "the soft period of the floor is not over");
    check_has(&lab, 0..12, "floored");
    lab.cx.clock.advance(SOFT);
    let before = length(&lab);
    let made = bundle(&process, SOFT).unwrap();
    assert_eq!((made.n_bundles, made.n_files), (1, 1));
    let removed = process.remove().unwrap();
    assert_eq!((removed.n_log_files, removed.n_bundled), (4, 0), "its soft period is not over");
    assert_eq!(stored(&lab.memory).1.len(), 3);
    check_has(&lab, 7..12, "made anew");
    lab.cx.clock.advance(SOFT);
    assert_eq!(process.remove().unwrap().n_log_files, 3);
    assert_eq!(stored(&lab.memory).1.len(), 2);
    assert!(length(&lab) < before / 2 + 600, "{} of {before}", length(&lab));
    check_has(&lab, 7..12, "cut");
    let listed = WalArchive::of(&process.repo).list().unwrap().remove(&SYSTEM).unwrap();
    assert_eq!(listed.len(), 5);
    lab.check();
}

/// The version of the head, behind the length of the head and the magic.
const VERSION_AT: usize = 4 + 5;

/// Until the single ones go, a bundle that rots harms nobody; and they do not go because of such a one.
/// Keeps B-4.
#[test]
fn a_bundle_that_is_damaged_stands_for_nothing_and_the_single_ones_serve() {
    let lab = lab_with(82, 0..4);
    bundle(&lab.open(), Duration::ZERO).unwrap();
    let bundle_key = stored(&lab.memory).1.pop_first().unwrap();
    let n_bytes = lab.memory.stat(&bundle_key).unwrap().bytes as usize;
    let what_reads_and_prunes = |lab: &Lab, what: &str| {
        let process = lab.open();
        let wal = WalArchive::of(&process.repo);
        for number in 0..4 {
            assert!(fetched(&wal, segment(number)) == Some(content(number)), "{what}: segment {number}");
        }
        let report = verify(&process.repo, &READ_DATA, &process.cx).unwrap();
        assert_eq!(report.damage.objects, [bundle_key.clone()].into(), "{what}: {:?}", report.problems);
        let removed = process.remove().map(|removed| removed.n_bundled);
        assert!(matches!(removed, Ok(0)), "{what}: a damaged bundle stands for others: {removed:?}");
    };
    for at in (0..n_bytes).step_by(97).chain([VERSION_AT, n_bytes - 1]) {
        let lab = lab.fork();
        lab.memory.damage(&bundle_key, |bytes| bytes[at] ^= 1);
        what_reads_and_prunes(&lab, &format!("byte {at} of {n_bytes}"));
    }
    let cut = lab.fork();
    cut.memory.damage(&bundle_key, |bytes| bytes.truncate(n_bytes - 1));
    what_reads_and_prunes(&cut, "cut");
}

/// Two who bundle at once store twice; what is held twice goes, and of each segment one stays.
#[test]
fn of_what_two_have_bundled_at_once_one_copy_stays() {
    let lab = lab_with(78, 0..4);
    let elsewhere = lab.fork();
    bundle(&lab.open(), Duration::ZERO).unwrap();
    // One more, and fewer in a bundle: other groups.
    push(&elsewhere.open(), segment(4), &content(4)).unwrap();
    let options = BundleOptions { most_files: 3, ..options(Duration::ZERO) };
    bundle_log(&elsewhere.open().repo, &options, &lab.cx).unwrap();
    for key in stored(&elsewhere.memory).1 {
        lab.memory.put(&key, &elsewhere.memory.get(&key).unwrap()).unwrap();
    }
    assert_eq!(stored(&lab.memory).1.len(), 3);
    for _ in 0..2 {
        lab.open().remove().unwrap();
        check_has(&lab, 0..5, "of two");
    }
    assert_eq!(stored(&lab.memory), ([].into(), stored(&lab.memory).1));
    assert_eq!(stored(&lab.memory).1.len(), 2, "the one of three is held twice");
}

/// There is something to bundle, single ones to remove, a bundle that is cut, and one of which nothing is needed.
fn lab_between(seed: u64) -> Lab {
    let lab = lab_with(seed, 0..8);
    let process = lab.open();
    bundle(&process, Duration::ZERO).unwrap();
    floor(&process, 6, Duration::ZERO).unwrap();
    for number in 8..10 {
        push(&process, segment(number), &content(number)).unwrap();
    }
    lab
}

/// Keeps A-1, D-3, E-7.
#[test]
fn who_bundles_and_dies_at_any_call_has_lost_nothing_and_the_next_one_finishes() {
    let lab = lab_between(79);
    for call in 1.. {
        let lab = lab.fork();
        let process = lab.open_faulty().unwrap();
        lab.faulty.go_away_at(call);
        let ended = bundle_and_remove(&process);
        let n_struck = lab.faulty.n_struck();
        check_has(&lab, 6..10, &format!("dead at call {call}"));
        lab.faulty.heal();
        bundle_and_remove(&lab.open()).unwrap();
        bundle_and_remove(&lab.open()).unwrap();
        check_has(&lab, 6..10, &format!("finished after call {call}"));
        let (singles, bundles) = stored(&lab.memory);
        assert_eq!((singles.len(), bundles.len()), (0, 2), "call {call}: {singles:?} {bundles:?}");
        if n_struck == 0 {
            assert!(ended.is_ok() && call > 20, "{ended:?} after {call} calls");
            break;
        }
    }
}

/// Keeps D-3, E-7, BC-24.
#[test]
fn who_bundles_and_sleeps_through_another_loses_nothing() {
    let start = lab_between(80);
    let cases: [(&str, Meanwhile); 3] = [
        ("another", Arc::new(|process| bundle_and_remove(process).unwrap())),
        (
            "a floor and another",
            Arc::new(|process| {
                floor(process, 9, Duration::ZERO).unwrap();
                bundle_and_remove(process).unwrap();
                bundle_and_remove(process).unwrap();
            }),
        ),
        (
            "one more segment, other groups",
            Arc::new(|process| {
                push(process, segment(10), &content(10)).unwrap();
                let options = BundleOptions { most_files: 3, ..options(Duration::ZERO) };
                bundle_log(&process.repo, &options, &process.cx).unwrap();
                process.remove().unwrap();
            }),
        ),
    ];
    for (name, meanwhile) in cases {
        sleep_at_every_call(
            &start,
            bundle_and_remove,
            move |lab| meanwhile(&lab.open()),
            |lab, result, what| {
                let what = format!("{name}, {what}");
                result.unwrap_or_else(|error| panic!("{what}: {error:?}"));
                check_has(lab, 9..10, &what);
                bundle_and_remove(&lab.open()).unwrap();
                check_has(lab, 9..10, &format!("{what}, and one more"));
                // What is left above the floor, or came meanwhile, may wait for more.
                assert!(stored(&lab.memory).0.is_subset(&[segment(9), segment(10)].into()), "{what}");
            },
        );
    }
}

/// Archives, bundlers, removers and floors in any order, with sleeps between a look and a put: what was acknowledged and is not
/// below a floor comes back, and nothing else.
/// Keeps E-7, BC-24.
#[test]
fn acknowledged_segments_come_back_whatever_is_bundled_and_when() {
    let random = TestRandom::new(Seed::draw());
    let (mut n_bundles, mut n_floored) = (0, 0);
    for round in 0..6 {
        let lab = lab_with(81 + round, 0..0);
        let mut acknowledged: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let (mut next, mut below) = (0, 0);
        for step in 0..50 {
            let process = lab.open();
            let what = format!("round {round}, step {step}");
            match random.below(10) {
                of @ 0..6 => {
                    let number = if of < 5 { next } else { below + random.below(next + 1 - below) };
                    next += u64::from(of < 5) * (1 + random.below(3) / 2);
                    let mine = if random.below(4) > 0 { content(number) } else { other(number) };
                    let expected = acknowledged.get(&number).is_none_or(|there| *there == mine);
                    let pushed = was_taken(push(&process, segment(number), &mine), &what);
                    assert_eq!(pushed, expected, "{what}: segment {number}");
                    acknowledged.entry(number).or_insert(mine);
                }
                6 => n_bundles += bundle(&process, SOFT * (random.below(2) as u32)).unwrap().n_bundles,
                7 => drop(process.remove().unwrap()),
                8 => lab.cx.clock.advance(SOFT / 2),
                _ => {
                    below = below.max(random.below(next + 1).saturating_sub(5));
                    floor(&process, below, SOFT / 2).unwrap();
                    // What lies below may be there or gone, and is asked no more.
                    n_floored += acknowledged.len();
                    acknowledged.retain(|number, _| *number >= below);
                    n_floored -= acknowledged.len();
                    next = next.max(below);
                }
            }
            let wal = WalArchive::of(&process.repo);
            for (number, content) in acknowledged.iter().filter(|(number, _)| (**number + step) % 4 == 0) {
                assert!(
                    fetched(&wal, segment(*number)).as_ref() == Some(content),
                    "{what}: segment {number}"
                );
            }
        }
        lab.check();
    }
    assert!(
        n_bundles > 5 && n_floored > 10,
        "{n_bundles} bundles, {n_floored} floored: the test tests nothing"
    );
}
