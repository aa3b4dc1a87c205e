//! Harm done to stored objects is found, and never restored from.
//!
//! `HIKAE_FULL=1` tries every single bit; without it a sample is tried.

use crate::small::{SYSTEM, Small, WRITER_KEY, class_of, log_files, open, open_with};
use crate::world::restore;
use hikae_model::Outcome;
use hikae_repo::Repo;
use hikae_repo::verify::{VerifyOptions, VerifyReport, verify};
use hikae_repo::wal::WalArchive;
use hikae_store::{MemoryStore, ObjectKey, Store};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

const READ_DATA: VerifyOptions = VerifyOptions { read_data: true, snapshots: None, sample: None };
const STORED_BYTES: VerifyOptions = VerifyOptions { read_data: false, snapshots: None, sample: None };

fn is_full() -> bool {
    std::env::var_os("HIKAE_FULL").is_some()
}

#[track_caller]
fn report(repo: &Repo, options: &VerifyOptions) -> VerifyReport {
    verify(repo, options, repo.cx()).unwrap()
}

/// A copy of the small repository that can be harmed and mended: seen by its owner and by a writer, both of
/// whom opened it while it was well.
struct Patient<'a> {
    small: &'a Small,
    store: MemoryStore,
    owner: std::sync::Arc<Repo>,
    writer: std::sync::Arc<Repo>,
    scratch: tempfile::TempDir,
    _caches: [tempfile::TempDir; 2],
}

impl<'a> Patient<'a> {
    fn new(small: &'a Small) -> Self {
        let store = small.store.fork();
        let caches = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        Self {
            small,
            owner: open(store.clone(), caches[0].path()).unwrap(),
            writer: open_with(store.clone(), WRITER_KEY, caches[1].path()).unwrap(),
            store,
            scratch: tempfile::tempdir().unwrap(),
            _caches: caches,
        }
    }

    /// With contents or without, verify sees that something is wrong.
    #[track_caller]
    fn check_seen(&self, what: &str) {
        for (repo, options) in [(&self.owner, &READ_DATA), (&self.writer, &STORED_BYTES)] {
            let report = verify(repo, options, repo.cx());
            let seen = report.as_ref().is_ok_and(|report| report.outcome == Outcome::Failed);
            assert!(seen, "{what}: not seen with {options:?}: {report:?}");
        }
    }

    /// Who opens the repository now gets an error or the right bytes. Gives whether every byte came.
    #[track_caller]
    fn check_restores_nothing_wrong(&self, what: &str) -> bool {
        // Without a cache from before: with it, damage to the index would not be felt.
        let _ = std::fs::remove_dir_all(self.scratch.path());
        std::fs::create_dir_all(self.scratch.path()).unwrap();
        let Ok(repo) = open(self.store.clone(), self.scratch.path()) else { return false };
        // Without an entry of the log what it forgot seems to be there.
        if repo.doubts().is_empty() {
            let there: Vec<_> = repo.state().snapshots.keys().copied().collect();
            let known: Vec<_> = self.small.trees.keys().copied().collect();
            assert_eq!(there, known, "{what}: other snapshots");
        }
        let mut all = true;
        for (id, tree) in &self.small.trees {
            match restore(&repo, *id) {
                Ok(restored) => assert!(restored == *tree, "{what}: wrong bytes were restored"),
                Err(_) => all = false,
            }
        }
        let wal = WalArchive::of(&repo);
        for (name, content) in log_files() {
            let mut fetched = Vec::new();
            match wal.get(SYSTEM, name, &mut fetched) {
                Ok(Some(_)) => assert!(fetched == content, "{what}: a wrong {name} was fetched"),
                Ok(None) | Err(_) => all = false,
            }
        }
        all
    }

    /// Does `harm` to the object, looks, and undoes it.
    fn harm(&self, key: &ObjectKey, harm: impl FnOnce(&mut Vec<u8>), look: impl FnOnce()) {
        let before = self.store.get(key).unwrap();
        self.store.damage(key, harm);
        assert_ne!(self.store.get(key).unwrap(), before, "{key} was not harmed");
        look();
        self.store.damage(key, |bytes| *bytes = before);
    }
}

#[test]
fn a_whole_repository_is_found_whole() {
    let small = Small::build();
    let patient = Patient::new(&small);
    println!("{} bytes in {} objects", small.bytes(), small.store.keys().len());
    let classes: std::collections::BTreeSet<_> = small.store.keys().iter().map(class_of).collect();
    let all = ["checkpoints", "evidence", "hikae.json", "index", "keys", "log", "packs", "snapshots", "wal"];
    assert!(classes.iter().eq(all), "{classes:?}");
    for (repo, options) in [(&patient.owner, &READ_DATA), (&patient.writer, &STORED_BYTES)] {
        let report = report(repo, options);
        assert_eq!((report.outcome, report.problems), (Outcome::Complete, Vec::new()));
        assert_eq!((report.n_entries, report.n_snapshots, report.n_orphans), (33, 2, 0));
        assert_eq!(report.n_packs, report.n_packs_read);
        assert_eq!((report.n_wal, report.n_wal_read), (4, 4));
    }
    assert!(patient.check_restores_nothing_wrong("whole"));
}

/// Keeps B-4.
#[test]
fn every_single_bit_that_flips_is_found_and_never_restored() {
    let small = Small::build();
    let mut flips = Vec::new();
    for key in small.store.keys() {
        let n_bits = small.store.get(&key).unwrap().len() * 8;
        let n_sampled = if class_of(&key) == "log" { 4 } else { 20 };
        // An odd stride meets every bit of a byte.
        let stride = if is_full() { 1 } else { (n_bits / n_sampled).max(1) | 1 };
        flips.extend((0..n_bits).step_by(stride).map(|bit| (key.clone(), bit)));
    }
    let next = AtomicUsize::new(0);
    let mut tried = BTreeMap::<String, usize>::new();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let patient = Patient::new(&small);
                while let Some((key, bit)) = flips.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let what = format!("bit {bit} of {key}");
                    patient.harm(
                        key,
                        |bytes| bytes[bit / 8] ^= 1 << (bit % 8),
                        || {
                            patient.check_seen(&what);
                            patient.check_restores_nothing_wrong(&what);
                        },
                    );
                }
            });
        }
    });
    flips.iter().for_each(|(key, _)| *tried.entry(class_of(key)).or_default() += 1);
    println!("{} flips tried and found: {tried:?}", flips.len());
}

/// What happens to whole objects: B-5 of the fault catalogue.
/// Keeps IN-65, IN-66, IN-67.
#[test]
fn every_harm_to_an_object_is_found_and_never_restored() {
    let small = Small::build();
    let patient = Patient::new(&small);
    let mut n_tried = 0;
    let keys = small.store.keys();
    let mut of_class = BTreeMap::<String, Vec<ObjectKey>>::new();
    keys.iter().for_each(|key| of_class.entry(class_of(key)).or_default().push(key.clone()));
    let log = of_class.get_mut("log").unwrap();
    // The others are alike.
    *log = [0, 3, 10, 31, 32].iter().map(|n| log[*n].clone()).collect();

    type Harm = (&'static str, fn(&mut Vec<u8>));
    let harms: [Harm; 6] = [
        ("emptied", Vec::clear),
        ("one byte less", |bytes| bytes.truncate(bytes.len() - 1)),
        ("half", |bytes| bytes.truncate(bytes.len() / 2)),
        ("one byte more", |bytes| bytes.push(0)),
        ("a MiB more", |bytes| bytes.extend(vec![0; 1 << 20])),
        ("a page of zeroes", |bytes| {
            let end = bytes.len().min(4096);
            bytes[..end].fill(0);
        }),
    ];
    for key in of_class.values().flatten() {
        for (name, harm) in harms {
            let what = format!("{key}: {name}");
            patient.harm(key, harm, || {
                patient.check_seen(&what);
                patient.check_restores_nothing_wrong(&what);
            });
            n_tried += 1;
        }
    }
    let swap = |one: &ObjectKey, two: &ObjectKey| {
        let bytes = small.store.get(two).unwrap();
        let what = format!("{one} and {two} swapped");
        patient.harm(
            one,
            |there| *there = bytes,
            || {
                patient.harm(
                    two,
                    |there| *there = small.store.get(one).unwrap(),
                    || {
                        patient.check_seen(&what);
                        patient.check_restores_nothing_wrong(&what);
                    },
                );
            },
        );
    };
    for objects in of_class.values() {
        for pair in objects.windows(2) {
            swap(&pair[0], &pair[1]);
            n_tried += 1;
        }
    }
    let first_of_each: Vec<_> = of_class.values().map(|objects| &objects[0]).collect();
    for (at, one) in first_of_each.iter().enumerate() {
        for two in &first_of_each[at + 1..] {
            swap(one, two);
            n_tried += 1;
        }
    }
    for key in of_class.values().flatten() {
        let bytes = patient.store.get(key).unwrap();
        patient.store.remove(key).unwrap();
        // Nothing rests on a checkpoint: without one the log is read from its start.
        if class_of(key) == "checkpoints" {
            assert!(patient.check_restores_nothing_wrong("no checkpoint"));
        } else if class_of(key) == "wal" {
            // Nothing names it: that it is missing shows in the recovery window of its cluster.
            assert!(!patient.check_restores_nothing_wrong("no such file of the log"));
        } else {
            patient.check_seen(&format!("{key}: removed"));
            if *key != of_class["log"][4] {
                patient.check_restores_nothing_wrong(&format!("{key}: removed"));
            }
        }
        patient.store.put(key, &bytes).unwrap();
        n_tried += 1;
    }
    assert!(patient.check_restores_nothing_wrong("mended"));
    println!("{n_tried} harms tried and found");
}

/// Objects of another history of the same repository, each rightly signed and sealed.
/// Keeps B-5.
#[test]
fn an_object_of_another_history_is_found() {
    let small = Small::build();
    let patient = Patient::new(&small);
    let past = small.store.history().iter().position(|change| {
        matches!(change, hikae_store::Change::Put { key, .. } if key.as_str().ends_with("00000000000000000020"))
    });
    let other = small.store.as_of(past.unwrap());
    let cache = tempfile::tempdir().unwrap();
    let repo = open(other.clone(), cache.path()).unwrap();
    while repo.state().n < 33 {
        repo.append(&mut |_| Ok(hikae_repo::log::Change::Removed(Default::default()))).unwrap();
    }
    let mut n_tried = 0;
    for key in other.keys().into_iter().filter(|key| matches!(&*class_of(key), "log" | "checkpoints")) {
        let theirs = other.get(&key).unwrap();
        if theirs != small.store.get(&key).unwrap() {
            let what = format!("{key} of another history");
            patient.harm(&key, |bytes| *bytes = theirs, || patient.check_seen(&what));
            n_tried += 1;
        }
    }
    assert_eq!(n_tried, 16, "entries 20 to 33 and two checkpoints");
}

/// The whole repository put back as it was some time ago: who has seen more says so.
#[test]
fn a_repository_that_was_rolled_back_is_named_where_it_was_seen() {
    let small = Small::build();
    let cache = tempfile::tempdir().unwrap();
    drop(open(small.store.clone(), cache.path()).unwrap());
    let n_changes = small.store.history().len();
    let back = open(small.store.as_of(n_changes - 1), cache.path()).unwrap();
    assert!(matches!(back.doubts(), [hikae_repo::doubt::Doubt::RolledBack { seen: 33, .. }]));
    assert_eq!(report(&back, &STORED_BYTES).problems[0].code, "rolled-back");
    let elsewhere = tempfile::tempdir().unwrap();
    assert_eq!(open(small.store.as_of(n_changes - 1), elsewhere.path()).unwrap().doubts(), []);
}
