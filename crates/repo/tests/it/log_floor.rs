//! Floors of the archived log: what lies below goes when it may, and nothing that a base backup needs which can come back.

use crate::concurrency::sleep_at_every_call;
use crate::lab::{Lab, Process, SOFT, eager, tree};
use crate::small::{WRITER_KEY, add_writer, open_with};
use hikae_model::{Lsn, SegmentName, SegmentSize, SnapshotId, SystemId, Timeline, WalName};
use hikae_repo::log::{LogFloors, Rights};
use hikae_repo::prune::floor_log;
use hikae_repo::wal::{LogFloor, Pushed, WalArchive};
use hikae_repo::{RepoError, layout};
use hikae_store::Store;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const SYSTEM: SystemId = SystemId(7_000_000_000_000_000_001);
const OTHER: SystemId = SystemId(7_000_000_000_000_000_002);
const SIZE: SegmentSize = SegmentSize::USUAL;

fn segment(timeline: u32, number: u64) -> WalName {
    let timeline = Timeline::new(timeline).unwrap();
    SegmentName::holding(Lsn(number * SIZE.bytes()), timeline, SIZE).into()
}

fn push(process: &Process, system: SystemId, name: WalName) -> Result<Pushed, RepoError> {
    let pushed = WalArchive::of(&process.repo).push(system, name, &mut name.to_string().as_bytes());
    pushed.map_err(|error| match error {
        hikae_repo::wal::WalError::Repo(error) => error,
        other => panic!("{other}"),
    })
}

/// The files that are stored of a cluster.
fn kept(lab: &Lab, system: SystemId) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut show = |object: hikae_store::Object| {
        names.extend(
            layout::wal_of(&object.key).filter(|(of, _)| *of == system).map(|(_, name)| name.to_string()),
        );
    };
    lab.memory.list("wal", &mut show).unwrap();
    names
}

fn names(files: &[WalName]) -> BTreeSet<String> {
    files.iter().map(ToString::to_string).collect()
}

/// Puts a floor below the `number`th segment of the timelines up to one.
fn floor(process: &Process, timeline: u32, number: u64, soft: Duration) -> Result<Option<u64>, RepoError> {
    floor_log(&process.repo, &process.cx, &mut |state, _| {
        let below = Lsn(number * SIZE.bytes() + 40);
        let timeline = Timeline::new(timeline).unwrap();
        let floor = LogFloor { system: SYSTEM, timeline, below, segment_size: SIZE };
        let without = state.forgotten.keys().copied().collect();
        Ok::<_, RepoError>(Some(LogFloors { floors: vec![floor], soft_seconds: soft.as_secs(), without }))
    })
}

/// Keeps BC-24.
#[test]
fn log_below_the_floor_goes_after_the_soft_period_and_not_before() {
    let lab = Lab::new(60);
    let process = lab.open();
    process.backup(&tree(1, 1)).unwrap();
    let history: WalName = "00000002.history".parse().unwrap();
    let partial: WalName = "000000010000000000000002.partial".parse().unwrap();
    let backup: WalName = "000000010000000000000002.00000028.backup".parse().unwrap();
    let goes = [segment(1, 1), segment(2, 2), partial, backup];
    let stays = [segment(1, 3), segment(1, 4), segment(3, 2), history];
    for name in goes.iter().chain(&stays) {
        push(&process, SYSTEM, *name).unwrap();
    }
    push(&process, OTHER, segment(1, 1)).unwrap();
    floor(&process, 2, 3, SOFT).unwrap();
    assert!(process.repo.state().is_floored(SYSTEM, goes[0]));
    let all: Vec<WalName> = goes.iter().chain(&stays).copied().collect();
    let removed = process.remove().unwrap();
    assert_eq!((removed.n_log_files, removed.next), (0, Some(process.cx.now() + SOFT)));
    assert_eq!(kept(&lab, SYSTEM), names(&all));

    lab.cx.clock.advance(SOFT);
    // Whoever has read the entry, with a cache of its own.
    let removed = lab.open().remove().unwrap();
    assert_eq!((removed.n_log_files, removed.next), (4, None));
    assert_eq!(kept(&lab, SYSTEM), names(&stays));
    assert_eq!(kept(&lab, OTHER), names(&goes[..1]));
    assert_eq!(lab.open().remove().unwrap(), Default::default());

    // It is durable, as it must be, and goes with a later removal.
    assert!(matches!(push(&process, SYSTEM, goes[0]).unwrap(), Pushed::Stored { .. }));
    assert_eq!(process.remove().unwrap().n_log_files, 1);
    lab.check();
}

/// A state holds one floor for each cluster, and those whose soft period is under way.
#[test]
fn floors_that_let_go_are_not_remembered_one_by_one() {
    let lab = Lab::new(61);
    let process = lab.open();
    process.backup(&tree(1, 1)).unwrap();
    for number in 1..10 {
        floor(&process, 1, number, SOFT).unwrap();
        lab.cx.clock.advance(SOFT / 4);
    }
    let floors: Vec<_> =
        process.repo.state().log_floors.iter().map(|state| state.floor.below.0 / SIZE.bytes()).collect();
    assert_eq!(floors, [5, 6, 7, 8, 9], "five was the last to let go when the ninth came");
    lab.check();
}

#[test]
fn who_may_not_prune_puts_no_floor() {
    let lab = Lab::new(62);
    let process = lab.open();
    add_writer(&process.repo, &WRITER_KEY, Rights::WRITE);
    let cache = tempfile::tempdir().unwrap();
    let writer = open_with(lab.memory.clone(), WRITER_KEY, cache.path()).unwrap();
    let refused =
        floor_log::<RepoError>(&writer, &process.cx, &mut |_, _| panic!("it was asked")).unwrap_err();
    assert!(matches!(refused, RepoError::NoRight { .. }), "{refused:?}");
}

/// Three base backups. The forgotten one needs the log from segment 1 on, the second from 3, the last from 5.
struct Chains {
    lab: Lab,
    forgotten: SnapshotId,
    needs: BTreeMap<SnapshotId, u64>,
}

impl Chains {
    fn new(seed: u64) -> Self {
        let lab = Lab::new(seed);
        let process = lab.open();
        let needs: BTreeMap<SnapshotId, u64> =
            [1, 3, 5].into_iter().map(|need| (process.backup(&tree(need, need)).unwrap(), need)).collect();
        for number in 0..6 {
            push(&process, SYSTEM, segment(1, number)).unwrap();
        }
        let forgotten = *needs.iter().find(|(_, need)| **need == 1).unwrap().0;
        process.forget(forgotten).unwrap();
        Self { lab, forgotten, needs }
    }

    /// What a prune does: packs, then the floor by the base backups that are listed, then removal.
    fn prune(&self, process: &Process, soft: Duration) -> Result<(), RepoError> {
        process.prune(&hikae_repo::prune::PruneOptions { soft, ..eager() })?;
        floor_log(&process.repo, &process.cx, &mut |state, _| {
            let need = state.snapshots.keys().map(|id| self.needs[id]).min().unwrap();
            let below = Lsn(need * SIZE.bytes());
            let floor = LogFloor { system: SYSTEM, timeline: Timeline::FIRST, below, segment_size: SIZE };
            let is_new = !state.floors_in_force().any(|state| floor.is_within(&state.floor));
            let without = state.forgotten.keys().copied().collect();
            let floors = LogFloors { floors: vec![floor], soft_seconds: soft.as_secs(), without };
            Ok::<_, RepoError>(is_new.then_some(floors))
        })?;
        process.remove().map(drop)
    }

    /// Sees that every base backup that is listed has the log that it needs, now and after all removals.
    #[track_caller]
    fn check(&self, lab: &Lab, what: &str) {
        for _ in 0..2 {
            let listed = lab.check();
            let need = listed.keys().map(|id| self.needs[id]).min().unwrap();
            let kept = kept(lab, SYSTEM);
            for number in need..6 {
                assert!(kept.contains(&segment(1, number).to_string()), "{what}: segment {number} is gone");
            }
            lab.cx.clock.advance(SOFT);
            lab.open().remove().unwrap();
        }
        // And no more than that, once a prune has had its time.
        self.prune(&lab.open(), Duration::ZERO).unwrap();
        lab.open().remove().unwrap();
        let need = lab.check().keys().map(|id| self.needs[id]).min().unwrap();
        assert_eq!(kept(lab, SYSTEM).len() as u64, 6 - need, "{what}: {:?}", kept(lab, SYSTEM));
    }

    fn same(&self) -> Self {
        Self { lab: self.lab.same(), forgotten: self.forgotten, needs: self.needs.clone() }
    }
}

/// Keeps D-3, BC-24.
#[test]
fn a_pruner_that_slept_through_an_undelete_leaves_the_log_of_what_came_back() {
    for soft in [Duration::ZERO, SOFT] {
        let chains = Arc::new(Chains::new(63));
        let back = Arc::new(AtomicUsize::new(0));
        let (forgotten, came_back) = (chains.forgotten, back.clone());
        sleep_at_every_call(
            &chains.lab,
            |process| chains.prune(process, soft),
            move |lab| {
                drop(lab.open().repo.undelete(&[forgotten]).map(|_| back.fetch_add(1, Ordering::Relaxed)))
            },
            |lab, result, what| {
                result.unwrap_or_else(|error| panic!("{what}: {error:?}"));
                chains.check(lab, what);
            },
        );
        assert!(came_back.load(Ordering::Relaxed) > 0, "no undelete was in time: the test tests nothing");
    }
}

/// Keeps D-3, BC-24.
#[test]
fn an_undelete_that_slept_through_a_prune_has_its_log_or_fails() {
    for soft in [Duration::ZERO, SOFT] {
        let chains = Arc::new(Chains::new(64));
        let meanwhile = chains.same();
        let meanwhile = Arc::new(meanwhile);
        sleep_at_every_call(
            &chains.lab,
            |process| process.repo.undelete(&[chains.forgotten]),
            move |lab| meanwhile.prune(&lab.open(), soft).unwrap(),
            |lab, result, what| {
                let is_listed = lab.check().contains_key(&chains.forgotten);
                assert_eq!(is_listed, result.is_ok(), "{what}: {result:?}");
                chains.check(lab, what);
            },
        );
    }
}

/// Brought back within the soft period, and forgotten again long after: its log waits as long.
#[test]
fn a_base_backup_that_comes_back_holds_the_floor_as_long_as_it_is_there() {
    let chains = Chains::new(65);
    let process = chains.lab.open();
    chains.prune(&process, SOFT).unwrap();
    process.repo.undelete(&[chains.forgotten]).unwrap();
    let first = segment(1, 1);
    assert!(!process.repo.state().is_floored(SYSTEM, first), "it counts again");
    for _ in 0..3 {
        chains.lab.cx.clock.advance(SOFT);
        chains.prune(&process, SOFT).unwrap();
        assert!(kept(&chains.lab, SYSTEM).contains(&first.to_string()));
    }
    process.forget(chains.forgotten).unwrap();
    chains.prune(&process, SOFT).unwrap();
    assert!(kept(&chains.lab, SYSTEM).contains(&first.to_string()), "it can come back once more");
    chains.lab.cx.clock.advance(SOFT);
    chains.prune(&process, SOFT).unwrap();
    assert!(!kept(&chains.lab, SYSTEM).contains(&first.to_string()));
}

/// Keeps D-3, E-7.
#[test]
fn what_is_pushed_while_a_floor_is_put_and_obeyed_is_durable_above_it() {
    let chains = Arc::new(Chains::new(66));
    let meanwhile = Arc::new(chains.same());
    for (number, is_above) in [(6, true), (0, false), (5, true)] {
        let meanwhile = meanwhile.clone();
        sleep_at_every_call(
            &chains.lab,
            |process| push(process, SYSTEM, segment(1, number)),
            move |lab| {
                meanwhile.prune(&lab.open(), Duration::ZERO).unwrap();
                meanwhile.prune(&lab.open(), Duration::ZERO).unwrap();
            },
            |lab, result, what| {
                result.unwrap_or_else(|error| panic!("{what}: {error:?}"));
                let is_there = kept(lab, SYSTEM).contains(&segment(1, number).to_string());
                assert!(is_there || !is_above, "{what}: segment {number} is gone");
            },
        );
    }
}
