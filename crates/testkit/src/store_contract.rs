//! What every store promises, as tests that each store is put through.
//!
//! Each promise is a function that is given an empty store. A new kind of store is done when
//! [`check`] passes on it.

use crate::{Seed, TestRandom};
use hikae_store::{Object, ObjectKey, Store, StoreError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

/// A promise: its name, and the test that it is kept, on an empty store.
pub type Promise = (&'static str, fn(&dyn Store));

/// Every promise.
pub const PROMISES: &[Promise] = &[
    ("what is put comes back", what_is_put_comes_back),
    ("what comes behind a name is listed alone", what_comes_behind_a_name_is_listed_alone),
    ("sizes at every edge come back", sizes_at_every_edge_come_back),
    ("keys of every form and length are kept apart", keys_of_every_form_and_length_are_kept_apart),
    ("an object is never replaced", an_object_is_never_replaced),
    ("what is put back takes the place of what was there", what_is_put_back_takes_the_place),
    ("of many putters of one key exactly one wins", of_many_putters_of_one_key_exactly_one_wins),
    ("an object is seen whole or not at all", an_object_is_seen_whole_or_not_at_all),
    ("ranges are exact", ranges_are_exact),
    ("a short object is truncated, never a short answer", a_short_object_is_truncated),
    ("what is not there is not found", what_is_not_there_is_not_found),
    ("a list shows every object below its prefix once", a_list_shows_every_object_below_its_prefix_once),
    ("a list of thousands is whole", a_list_of_thousands_is_whole),
    ("a list that cannot be is an error, and one of nothing is empty", a_bad_list_is_an_error),
    ("a list and a stat agree", a_list_and_a_stat_agree),
    ("what is settled is what stands there", what_is_settled_is_what_stands_there),
    ("removing is idempotent and frees the key", removing_is_idempotent_and_frees_the_key),
    ("many threads do not disturb each other", many_threads_do_not_disturb_each_other),
];

/// Puts a store through every promise. `make` gives an empty store at each call.
///
/// # Panics
/// If a promise is broken; its name is printed before.
pub fn check(make: impl Fn() -> Box<dyn Store>) {
    for (name, promise) in PROMISES {
        eprintln!("promise: {name}");
        promise(&*make());
    }
}

/// A key of ours.
///
/// # Panics
/// If `text` is no key.
#[track_caller]
pub fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).expect("a key")
}

/// What a list shows, sorted by key.
///
/// # Errors
/// The store's.
pub fn listed(store: &dyn Store, prefix: &str) -> Result<Vec<Object>, StoreError> {
    let mut objects = Vec::new();
    store.list(prefix, &mut |object| objects.push(object))?;
    objects.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(objects)
}

fn what_comes_behind_a_name_is_listed_alone(store: &dyn Store) {
    for n in 0..30 {
        store.put(&key(&format!("log/{n:020}")), b"entry").unwrap();
    }
    store.put(&key("packs/3f/3f02"), b"beyond").unwrap();
    for after in [0, 7, 28, 29, 40] {
        let mut behind = Vec::new();
        let after = key(&format!("log/{after:020}"));
        store.list_after("log", &after, &mut |object| behind.push(object.key)).unwrap();
        behind.sort();
        let all = listed(store, "log").unwrap().into_iter().map(|object| object.key);
        assert_eq!(behind, all.filter(|key| *key > after).collect::<Vec<_>>());
    }
}

fn noise(seed: u64, n_bytes: usize) -> Vec<u8> {
    TestRandom::new(Seed(seed)).bytes(n_bytes)
}

fn what_is_put_comes_back(store: &dyn Store) {
    let bytes = noise(1, 100_000);
    store.put(&key("packs/3f/3f02"), &bytes).unwrap();
    store.put(&key("hikae.json"), b"{}").unwrap();
    assert_eq!(store.get(&key("packs/3f/3f02")).unwrap(), bytes);
    assert_eq!(store.get(&key("hikae.json")).unwrap(), b"{}");
    assert!(!store.address().is_empty());
}

fn sizes_at_every_edge_come_back(store: &dyn Store) {
    let sizes = [0, 1, 511, 512, 4095, 4096, 4097, (256 << 10) + 1, (1 << 20) - 1, 33 << 20];
    for (i, n_bytes) in sizes.into_iter().enumerate() {
        let (key, bytes) = (key(&format!("packs/00/{i}")), noise(i as u64, n_bytes));
        store.put(&key, &bytes).unwrap();
        assert!(store.get(&key).unwrap() == bytes, "{n_bytes} bytes");
        assert_eq!(store.stat(&key).unwrap().bytes, n_bytes as u64);
    }
}

fn keys_of_every_form_and_length_are_kept_apart(store: &dyn Store) {
    let keys = [
        "a".to_owned(),
        "-".to_owned(),
        "--help".to_owned(),
        "0".to_owned(),
        "a.".to_owned(),
        "a-b.c".to_owned(),
        "log/0000000000000001".to_owned(),
        "wal/7/00000001/000000010000000000000001".to_owned(),
        "x".repeat(ObjectKey::MAX_BYTES),
        format!("deep{}", "/d".repeat((ObjectKey::MAX_BYTES - 4) / 2)),
    ];
    for name in &keys {
        store.put(&key(name), name.as_bytes()).unwrap();
    }
    for name in &keys {
        assert_eq!(store.get(&key(name)).unwrap(), name.as_bytes(), "{name}");
    }
    let shown: BTreeSet<String> =
        listed(store, "").unwrap().into_iter().map(|object| object.key.to_string()).collect();
    assert_eq!(shown, keys.into_iter().collect());
}

fn what_is_put_back_takes_the_place(store: &dyn Store) {
    let damaged = key("log/00000000000000000001");
    store.put(&damaged, b"damaged").unwrap();
    store.replace(&damaged, b"as it was").unwrap();
    assert_eq!(store.get(&damaged).unwrap(), b"as it was");
    let gone = key("snapshots/aa");
    store.replace(&gone, b"this too").unwrap();
    assert_eq!(store.get(&gone).unwrap(), b"this too");
    assert_eq!(listed(store, "").unwrap().len(), 2);
    assert!(matches!(store.put(&gone, b"other"), Err(StoreError::Exists { .. })));
}

fn an_object_is_never_replaced(store: &dyn Store) {
    let key = key("log/0000000000000001");
    store.put(&key, b"first").unwrap();
    for again in [b"first".as_slice(), b"other", b""] {
        match store.put(&key, again) {
            Err(StoreError::Exists { key: told }) => assert_eq!(told, key),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(store.get(&key).unwrap(), b"first");
    assert_eq!(listed(store, "log").unwrap().len(), 1);
}

fn of_many_putters_of_one_key_exactly_one_wins(store: &dyn Store) {
    const N_RACERS: usize = 16;
    for round in 0..8 {
        let key = key(&format!("log/{round:016}"));
        let start = Barrier::new(N_RACERS);
        let results: Vec<_> = std::thread::scope(|scope| {
            let race = |racer: usize| {
                let (key, start) = (&key, &start);
                move || {
                    // Each brings something else of another length, so that a mixture would show.
                    let bytes = noise(racer as u64, 10_000 + racer);
                    start.wait();
                    store.put(key, &bytes).map(|()| racer)
                }
            };
            let racers: Vec<_> = (0..N_RACERS).map(|racer| scope.spawn(race(racer))).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        let winners: Vec<_> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
        assert_eq!(winners.len(), 1, "{results:?}");
        for result in &results {
            assert!(matches!(result, Ok(_) | Err(StoreError::Exists { .. })), "{result:?}");
        }
        assert!(store.get(&key).unwrap() == noise(*winners[0] as u64, 10_000 + winners[0]));
    }
}

fn an_object_is_seen_whole_or_not_at_all(store: &dyn Store) {
    let bytes = noise(3, 4 << 20);
    let n_bytes = bytes.len() as u64;
    for round in 0..4 {
        let key = key(&format!("packs/aa/{round}"));
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    match store.get(&key) {
                        Ok(got) => assert!(got == bytes, "{} bytes", got.len()),
                        Err(error) => assert!(error.is_not_found(), "{error:?}"),
                    }
                    match store.get_range(&key, n_bytes - 1..n_bytes) {
                        Ok(got) => assert_eq!(got, bytes[bytes.len() - 1..]),
                        Err(error) => assert!(error.is_not_found(), "{error:?}"),
                    }
                    for object in listed(store, "packs/aa").unwrap() {
                        assert_eq!(object.bytes, n_bytes, "{}", object.key);
                    }
                }
            });
            let put = store.put(&key, &bytes);
            is_done.store(true, Ordering::Relaxed);
            put.unwrap();
        });
    }
}

fn ranges_are_exact(store: &dyn Store) {
    let (key, bytes) = (key("packs/01/range"), noise(4, 10_000));
    store.put(&key, &bytes).unwrap();
    for range in [0..0, 0..1, 1..2, 4095..4097, 9_999..10_000, 0..10_000, 10_000..10_000, 5_000..5_000] {
        let got = store.get_range(&key, range.clone()).unwrap();
        assert!(got == bytes[range.start as usize..range.end as usize], "{range:?}");
    }
    let backwards = std::ops::Range { start: 9, end: 8 };
    assert!(store.get_range(&key, backwards).is_err());
}

fn a_short_object_is_truncated(store: &dyn Store) {
    let key = key("packs/01/short");
    store.put(&key, &[7; 100]).unwrap();
    for range in [0..101, 99..101, 100..101, 101..101, 200..300, 0..u64::MAX, u64::MAX - 1..u64::MAX] {
        match store.get_range(&key, range.clone()) {
            Err(StoreError::Truncated { key: told, bytes, expected }) => {
                assert_eq!((told, bytes, expected), (key.clone(), 100, range.end));
            }
            other => panic!("{range:?}: {other:?}"),
        }
    }
}

fn what_is_not_there_is_not_found(store: &dyn Store) {
    store.put(&key("packs/01/there"), b"x").unwrap();
    for absent in ["absent", "packs/01/absent", "packs/02/there", "nowhere/at/all"] {
        let key = key(absent);
        assert!(store.get(&key).unwrap_err().is_not_found(), "{absent}");
        assert!(store.get_range(&key, 0..1).unwrap_err().is_not_found(), "{absent}");
        assert!(store.stat(&key).unwrap_err().is_not_found(), "{absent}");
    }
}

fn a_list_shows_every_object_below_its_prefix_once(store: &dyn Store) {
    let keys = ["hikae.json", "packs/00/1", "packs/00/2", "packs/ff/3", "packs-x/4", "log/5"];
    for name in keys {
        store.put(&key(name), name.as_bytes()).unwrap();
    }
    for (prefix, expected) in [
        ("", vec!["hikae.json", "log/5", "packs-x/4", "packs/00/1", "packs/00/2", "packs/ff/3"]),
        ("packs", vec!["packs/00/1", "packs/00/2", "packs/ff/3"]),
        ("packs/00", vec!["packs/00/1", "packs/00/2"]),
        ("pack", vec![]),
        ("log", vec!["log/5"]),
        ("log/5", vec![]), // an object, not a directory
        ("hikae.json", vec![]),
    ] {
        let shown = listed(store, prefix).unwrap();
        let names: Vec<_> = shown.iter().map(|object| object.key.as_str()).collect();
        assert_eq!(names, expected, "below `{prefix}`");
        assert!(shown.iter().all(|object| object.bytes == object.key.as_str().len() as u64));
    }
}

fn a_list_of_thousands_is_whole(store: &dyn Store) {
    const N: usize = 2_000; // more than a page of any object store
    let name = |i: usize| format!("index/{i:08}");
    std::thread::scope(|scope| {
        for lane in 0..8 {
            scope.spawn(move || {
                for i in (lane..N).step_by(8) {
                    store.put(&key(&name(i)), &[lane as u8; 3]).unwrap();
                }
            });
        }
    });
    let shown: Vec<_> = listed(store, "index").unwrap().into_iter().map(|object| object.key).collect();
    assert_eq!(shown, (0..N).map(|i| key(&name(i))).collect::<Vec<_>>());
}

fn a_bad_list_is_an_error(store: &dyn Store) {
    assert_eq!(listed(store, "").unwrap(), []);
    assert_eq!(listed(store, "packs").unwrap(), []);
    for bad in ["..", "packs/", "/", "packs/../..", "/etc", "A", "a\0b"] {
        assert!(listed(store, bad).is_err(), "{bad:?}");
    }
}

fn a_list_and_a_stat_agree(store: &dyn Store) {
    store.put(&key("index/a"), b"1").unwrap();
    store.put(&key("index/b"), b"22").unwrap();
    for object in listed(store, "index").unwrap() {
        assert_eq!(store.stat(&object.key).unwrap(), object);
    }
    let [a, b] = ["index/a", "index/b"].map(|name| store.stat(&key(name)).unwrap().stored);
    assert!(a <= b, "the second was stored before the first: {b} < {a}");
}

fn what_is_settled_is_what_stands_there(store: &dyn Store) {
    store.put(&key("wal/1/a"), b"segment").unwrap();
    assert_eq!(store.settle(&key("wal/1/a")).unwrap(), store.stat(&key("wal/1/a")).unwrap());
    assert_eq!(store.get(&key("wal/1/a")).unwrap(), b"segment");
    for absent in ["wal/1/b", "wal/2/a", "elsewhere"] {
        assert!(store.settle(&key(absent)).unwrap_err().is_not_found(), "{absent}");
    }
}

fn removing_is_idempotent_and_frees_the_key(store: &dyn Store) {
    let key = key("packs/05/gone");
    store.remove(&key).unwrap();
    store.put(&key, b"first").unwrap();
    store.remove(&key).unwrap();
    store.remove(&key).unwrap();
    assert!(store.get(&key).unwrap_err().is_not_found());
    assert_eq!(listed(store, "packs").unwrap(), []);
    store.put(&key, b"second").unwrap();
    assert_eq!(store.get(&key).unwrap(), b"second");
}

fn many_threads_do_not_disturb_each_other(store: &dyn Store) {
    let kept = |lane: u64| -> BTreeMap<ObjectKey, Vec<u8>> {
        let random = TestRandom::new(Seed(lane));
        let mut mine = BTreeMap::new();
        for i in 0..40 {
            let size = random.below(20_000) as usize;
            let (key, bytes) =
                (key(&format!("packs/{:02x}/{lane}-{i}", random.below(4))), random.bytes(size));
            store.put(&key, &bytes).unwrap();
            if random.once_in(3) {
                store.remove(&key).unwrap();
                assert!(store.get(&key).unwrap_err().is_not_found());
            } else {
                mine.insert(key, bytes);
            }
            for (key, bytes) in mine.iter().take(4) {
                assert!(&store.get(key).unwrap() == bytes, "{key}");
            }
            if random.once_in(8) {
                let shown: BTreeSet<_> =
                    listed(store, "packs").unwrap().into_iter().map(|object| object.key).collect();
                assert!(
                    mine.keys().all(|key| shown.contains(key)),
                    "a list missed what stood there throughout"
                );
            }
        }
        mine
    };
    let all: BTreeMap<ObjectKey, Vec<u8>> = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..8).map(|lane| scope.spawn(move || kept(lane))).collect();
        lanes.into_iter().flat_map(|lane| lane.join().unwrap()).collect()
    });
    let shown: Vec<_> =
        listed(store, "packs").unwrap().into_iter().map(|object| (object.key, object.bytes)).collect();
    assert_eq!(shown, all.iter().map(|(key, bytes)| (key.clone(), bytes.len() as u64)).collect::<Vec<_>>());
    for (key, bytes) in &all {
        assert!(&store.get(key).unwrap() == bytes, "{key}");
    }
}
