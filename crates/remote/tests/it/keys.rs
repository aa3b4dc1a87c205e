//! Keys that end while a run goes on, and the places where one is found.

use crate::{bucket_as, login, retry, told};
use hikae_remote::{RemoteStore, S3Identity, S3Key, S3Login, S3Role};
use hikae_store::{Store, StoreError};
use hikae_testkit::store_contract::{key, listed};
use hikae_testkit::{Asked, Fate, S3Fault, TestCx, system_cx, test_cx};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const ROLE: &str = "arn:aws:iam::111122223333:role/backup";
const MINUTE: Duration = Duration::from_secs(60);

fn fixed() -> S3Identity {
    S3Identity::Key(S3Key {
        access_key: S3Fault::ACCESS_KEY.to_owned(),
        secret_key: S3Fault::SECRET_KEY.to_owned().into(),
    })
}

fn with_role(external_id: Option<&str>) -> S3Login {
    let (arn, external_id) = (ROLE.to_owned(), external_id.map(str::to_owned));
    let role = S3Role { arn, external_id, session: "hikae-here".to_owned(), seconds: None };
    S3Login { role: Some(role), ..login(fixed()) }
}

/// A server with an empty bucket, by the clock of `cx`.
fn server(cx: &TestCx) -> S3Fault {
    let server = S3Fault::start(cx.clock.clone());
    let bucket = bucket_as(&login(fixed()), &server.endpoint(), "backups", "of/app", &system_cx());
    bucket.control(retry(), &system_cx()).unwrap().create().unwrap();
    server.allow_role(ROLE, None);
    server
}

fn store(server: &S3Fault, login: &S3Login, cx: &TestCx) -> RemoteStore {
    bucket_as(login, &server.endpoint(), "backups", "of/app", cx).store(retry(), cx).unwrap()
}

fn is_for_a_key(asked: &Asked) -> bool {
    asked.method == "POST" && asked.path == "/"
}

/// The incident: sessions of an hour, and an upload of seventy minutes.
///
/// Keeps RS-35, RS-36.
#[test]
fn an_upload_outlives_the_session_that_it_began_with() {
    let cx = test_cx();
    let server = server(&cx);
    let store = store(&server, &with_role(None), &cx);
    let clock = cx.clock.clone();
    server.decide(move |asked| {
        if asked.method == "PUT" {
            clock.advance(MINUTE / 2);
        }
        Fate::Pass
    });
    std::thread::scope(|scope| {
        for lane in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for n in 0..35 {
                    store.put(&key(&format!("packs/{lane}-{n}")), b"content").unwrap();
                }
            });
        }
    });
    assert_eq!(listed(&store, "packs").unwrap().len(), 140);
    assert_eq!(server.n_sessions(), 2, "one at the start, and one before it ended, for all four together");
    assert_eq!(server.complaints(), [""; 0]);
}

#[test]
fn who_begin_together_are_given_one_key() {
    let cx = test_cx();
    let server = server(&cx);
    let store = store(&server, &with_role(None), &cx);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| listed(&store, "").unwrap());
        }
    });
    assert_eq!(server.n_sessions(), 1, "one for all");
}

#[test]
fn a_key_is_renewed_five_minutes_or_a_quarter_of_its_life_before_it_ends() {
    for (life, kept, renewed) in [(60, 54, 56), (20, 14, 16), (16, 11, 13), (2, 1, 2)] {
        let cx = test_cx();
        let server = server(&cx);
        server.sessions_live(life * MINUTE);
        let store = store(&server, &with_role(None), &cx);
        let n_after = |minutes: u32| {
            cx.clock.advance(minutes * MINUTE);
            listed(&store, "").unwrap();
            server.n_sessions()
        };
        assert_eq!(
            [n_after(0), n_after(kept), n_after(renewed - kept)],
            [1, 1, 2],
            "a life of {life} minutes"
        );
    }
}

/// Keeps C-5.
#[test]
fn a_key_that_lives_is_used_when_there_is_no_new_one() {
    let cx = test_cx();
    let server = server(&cx);
    let store = store(&server, &with_role(None), &cx);
    store.put(&key("packs/0"), b"content").unwrap();
    server.decide(|asked| if is_for_a_key(asked) { Fate::Answer(403, "AccessDenied") } else { Fate::Pass });
    let before = server.n_asked();
    for minutes in [56, 3] {
        cx.clock.advance(minutes * MINUTE);
        assert_eq!(store.get(&key("packs/0")).unwrap(), b"content");
        assert_eq!(store.get(&key("packs/0")).unwrap(), b"content");
    }
    assert_eq!(server.n_asked() - before, 6, "four reads, and a question for a key at each of two moments");
    cx.clock.advance(2 * MINUTE);
    let error = store.get(&key("packs/0")).unwrap_err();
    assert!(matches!(error, StoreError::Credentials { .. }), "{error:?}");
    let told = told(&error);
    assert!(told.contains(ROLE) && told.contains("ended at 2026-01-01T01:00:00Z"), "{told}");
    assert!(told.contains("403 AccessDenied"), "{told}");
    server.behave();
    assert_eq!(store.get(&key("packs/0")).unwrap(), b"content");
}

/// A session ends at one request after the other, of all that a store is asked for.
///
/// Keeps C-5.
#[test]
fn whenever_a_session_is_ended_the_request_is_made_once_more_with_another() {
    let cx = test_cx();
    let server = Arc::new(server(&cx));
    let store = store(&server, &with_role(None), &cx);
    let all = || {
        store.put(&key("packs/0"), b"content").unwrap();
        assert_eq!(store.get(&key("packs/0")).unwrap(), b"content");
        assert_eq!(store.get_range(&key("packs/0"), 1..3).unwrap(), b"on");
        assert_eq!(store.stat(&key("packs/0")).unwrap().bytes, 7);
        assert_eq!(listed(&store, "packs").unwrap().len(), 1);
        store.remove(&key("packs/0")).unwrap();
        assert!(store.stat(&key("packs/0")).unwrap_err().is_not_found());
    };
    all();
    let n_requests = server.n_asked();
    for k in 0..n_requests {
        // To a HEAD nobody says that a key has ended; one that is a while old is taken to have.
        cx.clock.advance(2 * MINUTE);
        let (at, ends) = (server.n_asked() + k, Arc::downgrade(&server));
        server.decide(move |asked| {
            if asked.n == at {
                ends.upgrade().unwrap().end_sessions();
            }
            Fate::Pass
        });
        all();
    }
    assert_eq!(server.complaints(), [""; 0]);
}

/// Keeps C-5.
#[test]
fn who_is_not_known_is_told_so_and_no_secret_with_it() {
    let cx = test_cx();
    let server = server(&cx);
    server.allow_role("arn:aws:iam::111122223333:role/of-partners", Some("who-else"));
    let mut errors = Vec::new();
    let mut ask = |login: &S3Login| {
        let error = store(&server, login, &cx).put(&key("packs/0"), b"content").unwrap_err();
        assert!(matches!(error, StoreError::Credentials { .. }), "{error:?}");
        errors.push(format!("{} {error:?} {login:?}", told(&error)));
        errors.last().unwrap().clone()
    };
    let key_of = |access_key: &str, secret: &str| {
        let (access_key, secret_key) = (access_key.to_owned(), secret.to_owned().into());
        login(S3Identity::Key(S3Key { access_key, secret_key }))
    };
    assert!(ask(&key_of("AKIANOBODY", "a/secret+of=tests")).contains("InvalidAccessKeyId"));
    assert!(ask(&key_of(S3Fault::ACCESS_KEY, "another/secret")).contains("SignatureDoesNotMatch"));
    let role =
        S3Role { arn: "arn:aws:iam::111122223333:role/of-partners".into(), ..with_role(None).role.unwrap() };
    assert!(ask(&S3Login { role: Some(role), ..with_role(None) }).contains("role/of-partners"));
    let mut surroundings = login(S3Identity::Surroundings);
    surroundings.around.variables =
        Arc::new(|name| (name == "AWS_EC2_METADATA_DISABLED").then(|| "true".into()));
    assert!(ask(&surroundings).contains("no AWS_ACCESS_KEY_ID"));
    for error in errors {
        assert!(!error.contains("/secret") && !error.contains("token+of"), "{error}");
    }
}

/// A login whose surroundings are these variables and this home.
fn found_in(server: &S3Fault, home: &Path, identity: S3Identity, variables: &[(&str, &str)]) -> S3Login {
    let mut login = login(identity);
    let mut set: Vec<(String, String)> =
        variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    set.push(("AWS_EC2_METADATA_SERVICE_ENDPOINT".into(), server.endpoint()));
    set.push(("AWS_ENDPOINT_URL_SSO".into(), server.endpoint()));
    login.around.variables =
        Arc::new(move |name| set.iter().find(|(known, _)| known == name).map(|(_, value)| value.into()));
    login.around.home = Some(home.to_owned());
    let n_runs = AtomicUsize::new(0);
    login.around.run = Arc::new(move |words| {
        assert_eq!(words, ["/opt/keys", "of app"]);
        n_runs.fetch_add(1, Ordering::Relaxed);
        let (access_key, secret) = (S3Fault::ACCESS_KEY, S3Fault::SECRET_KEY);
        Ok(format!(r#"{{"Version":1,"AccessKeyId":"{access_key}","SecretAccessKey":"{secret}"}}"#).into())
    });
    login
}

/// Keeps RS-36.
#[test]
fn a_key_is_found_wherever_amazons_programs_would_find_it() {
    let (cx, home) = (test_cx(), tempfile::tempdir().unwrap());
    let server = server(&cx);
    let (access_key, secret) = (S3Fault::ACCESS_KEY, S3Fault::SECRET_KEY);
    let write = |name: &str, text: &str| {
        let path = home.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let of_profile = |name: &str| found_in(&server, home.path(), S3Identity::Profile(name.to_owned()), &[]);
    let around =
        |variables: &[(&str, &str)]| found_in(&server, home.path(), S3Identity::Surroundings, variables);
    let works = |login: &S3Login| store(&server, login, &cx).stat(&key("absent")).unwrap_err().is_not_found();
    let fails = |login: &S3Login| told(&store(&server, login, &cx).stat(&key("absent")).unwrap_err());

    // Nothing is there but the machine itself, a container, and a token that somebody vouches with.
    assert!(works(&around(&[])), "the machine");
    let container = format!("{}/container", server.endpoint());
    let of_container = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", container.as_str())];
    assert!(fails(&around(&of_container)).contains("another container"));
    let token = ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "of-the-container");
    assert!(works(&around(&[of_container[0], token])), "a container");
    write("token", "vouched\n");
    let file = home.path().join("token");
    let of_token = [("AWS_ROLE_ARN", ROLE), ("AWS_WEB_IDENTITY_TOKEN_FILE", file.to_str().unwrap())];
    assert!(works(&around(&of_token)), "web identity");

    write(
        ".aws/config",
        "[profile of-role]\nrole_arn = arn:aws:iam::111122223333:role/backup\nsource_profile = base\n\
         [profile of-program]\ncredential_process = /opt/keys 'of app'\n\
         [profile of-sso]\nsso_session = corp\nsso_account_id = 1\nsso_role_name = backup\n\
         [sso-session corp]\nsso_region = eu-west-1\nsso_start_url = https://corp.example.com\n\
         [profile round]\nrole_arn = arn:aws:iam::111122223333:role/backup\nsource_profile = trip\n\
         [profile trip]\nrole_arn = arn:aws:iam::111122223333:role/backup\nsource_profile = round\n\
         [profile empty]\nregion = eu-west-1\n",
    );
    write(
        ".aws/credentials",
        &format!("[base]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret}\n"),
    );
    for name in ["base", "of-role", "of-program"] {
        assert!(works(&of_profile(name)), "{name}");
        assert!(works(&around(&[("AWS_PROFILE", name)])), "{name}");
    }
    assert!(fails(&of_profile("of-sso")).contains("aws sso login --profile of-sso"));
    let signed_in = |ends: &str| format!(r#"{{"accessToken":"signed-in","expiresAt":"{ends}"}}"#);
    // `printf corp | sha1sum`
    let cached = ".aws/sso/cache/ee0bfd2552fbd840c02cc48b6e823320543c450f.json";
    write(cached, &signed_in("2025-12-31T23:59:59Z"));
    assert!(fails(&of_profile("of-sso")).contains("ended at 2025-12-31T23:59:59Z"));
    write(cached, &signed_in("2026-01-02T00:00:00Z"));
    assert!(works(&of_profile("of-sso")), "SSO");

    // A name that leads nowhere ends there: the machine is not asked instead.
    let before = server.n_sessions();
    for (name, says) in [
        ("absent", "there is no profile `absent`"),
        ("empty", "names no key"),
        ("round", "`round` names no key"),
    ] {
        assert!(fails(&of_profile(name)).contains(says), "{}", fails(&of_profile(name)));
        assert!(fails(&around(&[("AWS_PROFILE", name)])).contains(says), "{name}");
    }
    assert_eq!(server.n_sessions(), before);
    let of_environment = [("AWS_ACCESS_KEY_ID", access_key), ("AWS_SECRET_ACCESS_KEY", secret)];
    assert!(works(&around(&of_environment)), "the environment");
    assert_eq!(server.complaints(), [""; 0]);
}
