//! What is changed on its way, and servers that send us on: nobody but the one that was named is ever shown a key.

use crate::{bucket_as, login, retry, told};
use hikae_remote::{S3Identity, S3Key, S3Login, S3Role};
use hikae_store::{Store, StoreError};
use hikae_testkit::store_contract::key;
use hikae_testkit::{Fate, S3Fault, system_clock, system_cx, test_cx};

fn fixed() -> S3Identity {
    S3Identity::Key(S3Key {
        access_key: S3Fault::ACCESS_KEY.to_owned(),
        secret_key: S3Fault::SECRET_KEY.to_owned().into(),
    })
}

/// Keeps C-6.
#[test]
fn what_is_changed_on_its_way_is_refused_and_sent_again() {
    let server = S3Fault::start(system_clock());
    let bucket = bucket_as(&login(fixed()), &server.endpoint(), "backups", "", &system_cx());
    bucket.control(retry(), &system_cx()).unwrap().create().unwrap();
    let store = bucket.store(retry(), &system_cx()).unwrap();
    store.put(&key("packs/0"), b"content").unwrap();
    let complaints = server.complaints();
    assert!(complaints.is_empty(), "each put carries its sum: {complaints:?}");
    let next = server.n_asked();
    server.decide(move |asked| if asked.n == next { Fate::HarmRequest } else { Fate::Pass });
    store.put(&key("packs/1"), b"content").unwrap();
    assert_eq!(store.get(&key("packs/1")).unwrap(), b"content");
    server.decide(|_| Fate::HarmRequest);
    let error = store.put(&key("packs/2"), b"content").unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    server.behave();
    assert!(store.stat(&key("packs/2")).unwrap_err().is_not_found());
}

/// Keeps C-11.
#[test]
fn nobody_else_is_asked_whoever_sends_us_there() {
    let cx = test_cx();
    let (server, other) = (S3Fault::start(cx.clock.clone()), S3Fault::start(cx.clock.clone()));
    let arn = "arn:aws:iam::111122223333:role/backup";
    server.allow_role(arn, None);
    let role = S3Role { arn: arn.to_owned(), external_id: None, session: "hikae".to_owned(), seconds: None };
    // With a token, which no client of HTTP knows for a secret.
    let login = S3Login { role: Some(role), ..login(fixed()) };
    let bucket = bucket_as(&login, &server.endpoint(), "backups", "", &cx);
    bucket.control(retry(), &cx).unwrap().create().unwrap();
    let store = bucket.store(retry(), &cx).unwrap();
    store.put(&key("packs/there"), b"content").unwrap();
    for status in [301, 302, 307, 308] {
        let to = other.endpoint();
        server.mangle(move |asked, answer| {
            answer.status = status;
            answer.headers.push(("Location".to_owned(), format!("{to}{}", asked.path)));
        });
        for error in [
            store.put(&key("packs/0"), b"content").unwrap_err(),
            store.get(&key("packs/0")).unwrap_err(),
            store.list("packs", &mut |_| {}).unwrap_err(),
            store.remove(&key("packs/0")).unwrap_err(),
        ] {
            assert_eq!(other.n_asked(), 0, "requests to another server");
            assert!(told(&error).contains(&format!("the server answered {status}")), "{}", told(&error));
        }
    }
}
