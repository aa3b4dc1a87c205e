//! A store within a limit of bytes a second.

use hikae_model::Cx;
use hikae_store::{Limit, Limited, MemoryStore, Store};
use hikae_testkit::store_contract::{self, key};
use hikae_testkit::system_cx;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

const LIMIT: u64 = 8 << 20;

fn limited(cx: &Cx, up: bool) -> Arc<dyn Store> {
    let limit = NonZeroU64::new(LIMIT);
    let limit = if up { Limit { up: limit, down: None } } else { Limit { up: None, down: limit } };
    limit.over(Arc::new(MemoryStore::new()), cx)
}

/// Seconds that some threads take for some calls each.
fn seconds_of(n_threads: u64, n_calls: u64, cx: &Cx, call: impl Fn(u64) + Sync) -> f64 {
    let began = cx.elapsed();
    std::thread::scope(|scope| {
        for thread in 0..n_threads {
            let call = &call;
            scope.spawn(move || (0..n_calls).for_each(|n| call(thread * n_calls + n)));
        }
    });
    (cx.elapsed() - began).as_secs_f64()
}

#[test]
fn a_limit_is_met_within_a_twentieth_by_one_thread_and_by_many() {
    let cx = system_cx();
    let object = vec![7; 1 << 20];
    for n_threads in [1, 4] {
        let n_calls = 16 / n_threads;
        let expected = 16.0 * object.len() as f64 / LIMIT as f64;
        let check = |seconds: f64, what: &str| {
            let is_near = (expected * 0.95..expected * 1.05).contains(&seconds);
            assert!(is_near, "{what} by {n_threads}: {seconds:.2} s, expected {expected:.2}");
        };
        let store = limited(&cx, true);
        let seconds = seconds_of(n_threads, n_calls, &cx, |n| {
            store.put(&key(&format!("packs/aa/{n}")), &object).unwrap();
        });
        check(seconds, "up");
        let reading = cx.elapsed();
        assert_eq!(store.get(&key("packs/aa/0")).unwrap(), object);
        assert!(cx.elapsed() - reading < Duration::from_millis(100), "the other direction has none");
        let store = limited(&cx, false);
        store.put(&key("packs/aa/0"), &object).unwrap();
        let seconds = seconds_of(n_threads, n_calls, &cx, |n| {
            match n % 2 {
                0 => assert_eq!(store.get(&key("packs/aa/0")).unwrap().len(), object.len()),
                _ => drop(store.get_range(&key("packs/aa/0"), 0..object.len() as u64).unwrap()),
            };
        });
        check(seconds, "down");
    }
}

#[test]
fn an_interrupt_does_not_wait_for_the_limit() {
    let cx = system_cx();
    let store = Limit { up: NonZeroU64::new(1), down: None }.over(Arc::new(MemoryStore::new()), &cx);
    cx.cancel().cancel();
    store.put(&key("packs/aa/0"), &[7; 1000]).unwrap();
    assert!(cx.elapsed() < Duration::from_secs(60));
}

/// Keeps C-10.
#[test]
fn a_limited_store_keeps_every_promise() {
    let most = NonZeroU64::new(u64::MAX);
    store_contract::check(|| {
        let limit = Limit { up: most, down: most };
        Box::new(Limited::new(Arc::new(MemoryStore::new()), limit, &system_cx()))
    });
}
