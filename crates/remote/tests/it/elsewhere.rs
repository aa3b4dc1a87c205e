//! Servers that send us on: nobody but the one that was named is ever shown a key.

use crate::{bucket_as, login, retry, told};
use hikae_remote::{S3Identity, S3Key, S3Login, S3Role};
use hikae_store::Store;
use hikae_testkit::S3Fault;
use hikae_testkit::store_contract::key;
use hikae_testkit::test_cx;

/// Keeps C-11.
#[test]
fn nobody_else_is_asked_whoever_sends_us_there() {
    let cx = test_cx();
    let (server, other) = (S3Fault::start(cx.clock.clone()), S3Fault::start(cx.clock.clone()));
    let identity = S3Identity::Key(S3Key {
        access_key: S3Fault::ACCESS_KEY.to_owned(),
        secret_key: S3Fault::SECRET_KEY.to_owned().into(),
    });
    let arn = "arn:aws:iam::111122223333:role/backup";
    server.allow_role(arn, None);
    let role = S3Role { arn: arn.to_owned(), external_id: None, session: "hikae".to_owned(), seconds: None };
    // With a token, which no client of HTTP knows for a secret.
    let login = S3Login { role: Some(role), ..login(identity) };
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
