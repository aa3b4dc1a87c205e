//! Objects that are locked: as long as it was asked for, and no longer.

use crate::{login, retry, told};
use hikae_model::Cx;
use hikae_remote::{Bucket, RemoteStore, Retry, S3Identity, S3Key, S3Lock, S3LockMode, S3Settings};
use hikae_store::{Store, StoreError};
use hikae_testkit::store_contract::{key, listed};
use hikae_testkit::{Fate, S3Fault, SeaweedFs, Seed, TestCx, system_cx, test_cx};
use jiff::{SignedDuration, Timestamp};
use std::path::Path;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);
const MONTH: SignedDuration = SignedDuration::from_hours(30 * 24);

fn bucket(endpoint: &str, key: (&str, &str), lock: Option<S3Lock>, cx: &Cx) -> Bucket {
    let settings = S3Settings {
        bucket: "locked".to_owned(),
        prefix: "of/here".to_owned(),
        region: "us-east-1".to_owned(),
        endpoint: Some(endpoint.to_owned()),
        path_style: true,
        ca: None,
        lock,
    };
    let key = S3Key { access_key: key.0.to_owned(), secret_key: key.1.to_owned().into() };
    Bucket::new(&settings, &login(S3Identity::Key(key)), cx).unwrap()
}

const OF_FAULT: (&str, &str) = (S3Fault::ACCESS_KEY, S3Fault::SECRET_KEY);

fn compliance(remembered: Option<&Path>) -> S3Lock {
    S3Lock { mode: S3LockMode::Compliance, length: MONTH, remembered: remembered.map(Path::to_owned) }
}

fn made(server: &S3Fault, lock: S3Lock, cx: &TestCx) -> RemoteStore {
    let bucket = bucket(&server.endpoint(), OF_FAULT, Some(lock), cx);
    bucket.control(retry(), cx).unwrap().create().unwrap();
    bucket.store(retry(), cx).unwrap()
}

/// When each lock ends, by what the server really holds.
fn ends(server: &S3Fault) -> Vec<(String, Option<Timestamp>)> {
    let until = |versions: &[hikae_testkit::s3_fault::Version]| {
        versions.last().and_then(|version| version.lock.as_ref()).map(|lock| lock.until)
    };
    server.truth("locked").iter().map(|(key, versions)| (key.clone(), until(versions))).collect()
}

/// A year of backups, a day apart, some missed; each relies on all that was stored before.
///
/// Keeps C-8, RS-33.
#[test]
fn whatever_a_commit_relies_on_is_locked_for_the_whole_time_and_asked_for_seldom() {
    let (cx, scratch) = (test_cx(), tempfile::tempdir().unwrap());
    let server = S3Fault::start(cx.clock.clone());
    let lock = compliance(Some(&scratch.path().join("ends")));
    let mut store = made(&server, lock.clone(), &cx);
    let (mut n_extended, mut of_store) = (0, 0);
    for day in 0..365_u64 {
        cx.clock.advance(DAY);
        // A week of them is missed, and then half of the time.
        if (100..107).contains(&day) || (200..214).contains(&day) {
            continue;
        }
        if day % 20 == 0 {
            store =
                bucket(&server.endpoint(), OF_FAULT, Some(lock.clone()), &cx).store(retry(), &cx).unwrap();
            of_store = 0;
        }
        if day % 10 == 0 {
            store.put(&key(&format!("packs/{day:03}")), b"content").unwrap();
        }
        store.put(&key("leases/1"), b"at work").unwrap();
        let so_far = store.hold(&|_| false).unwrap().n_extended;
        n_extended += so_far - std::mem::replace(&mut of_store, so_far);
        store.remove(&key("leases/1")).unwrap();
        for (name, until) in ends(&server) {
            assert!(
                until.is_some_and(|until| until >= cx.now() + MONTH),
                "day {day}: {name} until {until:?}"
            );
        }
    }
    let n_objects = ends(&server).len() as u64;
    assert_eq!(n_objects, 34);
    // Each once in half of the time, at most.
    let most: u64 = (0..365).step_by(10).map(|day| (365 - day) / 15).sum();
    assert!(n_extended <= most, "{n_extended} extensions, of {most} at most");
    std::fs::remove_file(scratch.path().join("ends")).unwrap();
    let store = bucket(&server.endpoint(), OF_FAULT, Some(lock), &cx).store(retry(), &cx).unwrap();
    store.hold(&|_| false).unwrap();
    assert!(ends(&server).iter().all(|(_, until)| until.is_some_and(|until| until >= cx.now() + MONTH)));
    assert_eq!(server.complaints(), [""; 0]);
}

/// Keeps C-8.
#[test]
fn what_is_locked_goes_when_its_lock_has_ended_and_with_its_versions() {
    let cx = test_cx();
    let server = S3Fault::start(cx.clock.clone());
    let store = made(&server, compliance(None), &cx);
    let pack = key("packs/0");
    store.put(&pack, b"content").unwrap();
    let until = store.locked_until(&pack).unwrap().unwrap();
    assert_eq!(until, cx.now() + MONTH + MONTH / 2);
    let error = store.remove(&pack).unwrap_err();
    assert!(matches!(&error, StoreError::Locked { until: told, .. } if *told == until), "{error:?}");
    assert_eq!(store.get(&pack).unwrap(), b"content");
    // What is on its way out is locked no longer.
    cx.clock.advance(20 * DAY);
    assert_eq!(store.hold(&|key| *key == pack).unwrap().n_extended, 0);
    cx.clock.advance(26 * DAY);
    assert_eq!(store.locked_until(&pack).unwrap(), None);
    store.remove(&pack).unwrap();
    store.remove(&pack).unwrap();
    assert!(server.truth("locked").is_empty(), "{:?}", server.truth("locked").keys());
}

/// Keeps RS-28.
#[test]
fn a_lock_that_the_server_does_not_confirm_is_none() {
    let cx = test_cx();
    let server = S3Fault::start(cx.clock.clone());
    let plain = bucket(&server.endpoint(), OF_FAULT, None, &cx);
    plain.control(retry(), &cx).unwrap().create().unwrap();
    let store =
        bucket(&server.endpoint(), OF_FAULT, Some(compliance(None)), &cx).store(retry(), &cx).unwrap();
    assert!(store.put(&key("packs/0"), b"content").is_err(), "a bucket without locks");
    let control = bucket(&server.endpoint(), OF_FAULT, Some(compliance(None)), &cx);
    let control = control.control(retry(), &cx).unwrap();
    assert!(matches!(control.check_lock(false), Err(StoreError::Unlocked { .. })));
    control.check_lock(true).unwrap();
    store.put(&key("packs/1"), b"content").unwrap();
    let held = store.hold(&|_| false).unwrap();
    assert_eq!((held.n_put, held.n_extended), (1, 0), "each put is seen");
    for (name, value) in [
        ("x-amz-object-lock-mode", Some("GOVERNANCE")),
        ("x-amz-object-lock-retain-until-date", Some("2026-01-20T00:00:00Z")),
        ("x-amz-object-lock-mode", None),
    ] {
        server.mangle(move |asked, answer| {
            if asked.method == "HEAD" {
                answer.headers.retain(|(known, _)| known != name);
                answer.headers.extend(value.map(|value| (name.to_owned(), value.to_owned())));
            }
        });
        let error = store.put(&key(&format!("packs/of-{}", server.n_asked())), b"content").unwrap_err();
        assert!(matches!(error, StoreError::Unlocked { .. }), "{error:?}");
        assert!(told(&error).contains("is locked"), "{}", told(&error));
    }
    server.behave();
    server.decide(|asked| {
        if asked.path.ends_with("?retention") { Fate::Answer(403, "AccessDenied") } else { Fate::Pass }
    });
    cx.clock.advance(20 * DAY);
    let error = store.hold(&|_| false).unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
}

/// On a server that really holds locks: nobody removes, shortens or overwrites what is locked, with any key.
///
/// Keeps C-8, EC-46, RS-28.
#[test]
fn a_real_server_keeps_what_is_locked() {
    let Some(server) = SeaweedFs::start() else { return };
    let (cx, keys) = (system_cx(), (SeaweedFs::ACCESS_KEY, SeaweedFs::SECRET_KEY));
    let lock =
        S3Lock { mode: S3LockMode::Compliance, length: SignedDuration::from_hours(24), remembered: None };
    let locked = bucket(&server.endpoint(), keys, Some(lock.clone()), &cx);
    let control = locked.control(Retry::default(), &cx).unwrap();
    control.create().unwrap();
    control.create().unwrap();
    control.check_lock(false).unwrap();
    let store = locked.store(Retry::default(), &cx).unwrap();
    let pack = key("packs/0");
    store.put(&pack, b"content").unwrap();
    let until = store.locked_until(&pack).unwrap().unwrap();
    assert!(until >= cx.now() + SignedDuration::from_hours(35), "{until}");
    assert!(matches!(store.remove(&pack), Err(StoreError::Locked { .. })));
    // By a clock that runs ahead the lock has ended; by the server's it has not.
    let ahead = TestCx::new(Seed(1));
    ahead.clock.set(cx.now() + SignedDuration::from_hours(100));
    let hasty =
        bucket(&server.endpoint(), keys, Some(lock.clone()), &ahead).store(Retry::default(), &ahead).unwrap();
    assert!(matches!(hasty.remove(&pack), Err(StoreError::Refused { .. })));
    assert_eq!(store.get(&pack).unwrap(), b"content");
    store.put(&key("leases/1"), b"at work").unwrap();
    store.remove(&key("leases/1")).unwrap();
    assert_eq!(store.hold(&|_| false).unwrap().n_extended, 0);
    // A longer time than before: what was put by the old rule is locked by the new one.
    let longer = S3Lock { length: SignedDuration::from_hours(48), ..lock };
    let longer = bucket(&server.endpoint(), keys, Some(longer), &cx).store(Retry::default(), &cx).unwrap();
    assert_eq!(longer.hold(&|_| false).unwrap().n_extended, 1);
    assert!(store.locked_until(&pack).unwrap().unwrap() >= cx.now() + SignedDuration::from_hours(71));
    assert_eq!(listed(&store, "").unwrap().len(), 1);
}
