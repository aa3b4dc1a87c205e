//! A repository in a bucket of a real S3 server.

use crate::home::Home;
use hikae_testkit::{Asked, Fate, HttpProxy, SeaweedFs};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A home whose repository is in a bucket at `endpoint`, with one source.
fn home(endpoint: &str) -> Home {
    let home = Home::new();
    let secret = home.write_private("s3.secret", SeaweedFs::SECRET_KEY);
    home.configure(&format!(
        "[repository.offsite]\n\
         store = {{ s3 = {{ bucket = \"backups\", prefix = \"of/here\", endpoint = \"{endpoint}\", \
         access_key = \"{}\", secret_key = \"file:{}\" }} }}\n\
         unlock = {{ key_file = \"{}\" }}\n\
         [source.docs]\nkind = \"files\"\ninclude = [\"{}\"]\n\
         [job.all]\nsources = [\"docs\"]\n",
        SeaweedFs::ACCESS_KEY,
        secret.display(),
        home.key_file().display(),
        home.path("docs").display(),
    ));
    for n in 0..20 {
        home.write(&format!("docs/{n}"), format!("file {n} ").repeat(n * 100 + 1));
    }
    home
}

/// Keeps RS-1.
#[test]
fn a_bucket_keeps_a_repository() {
    let Some(server) = SeaweedFs::start() else { return };
    let home = home(&server.endpoint());
    assert_eq!(home.json(&["store", "init"])["result"]["fit"], true);
    home.expect(0, &["init"]);
    home.expect(0, &["backup"]);
    home.write("docs/3", "another content");
    home.expect(0, &["backup"]);
    home.expect(0, &["restore", "docs", "--target", home.path("back").to_str().unwrap()]);
    let back =
        |name| std::fs::read(home.path("back").join(home.path("docs").strip_prefix("/").unwrap()).join(name));
    assert_eq!(back("3").unwrap(), b"another content");
    assert_eq!(back("19").unwrap(), std::fs::read(home.path("docs/19")).unwrap());
    home.expect(0, &["verify", "--read-data"]);
    home.expect(0, &["drill"]);
    home.expect(0, &["forget", "--keep-last", "1"]);
    home.expect(0, &["prune"]);
    assert_eq!(home.json(&["list"])["result"].as_array().unwrap().len(), 1);
    home.expect(0, &["doctor"]);
}

/// The recovery sheet names the bucket, and what lets one in comes from the surroundings.
#[test]
fn an_empty_machine_restores_by_the_address_alone() {
    let Some(server) = SeaweedFs::start() else { return };
    let home = home(&server.endpoint());
    home.expect(0, &["store", "init"]);
    home.expect(0, &["init"]);
    home.expect(0, &["backup"]);
    let elsewhere = Home::new();
    let key = elsewhere.write_private("key", std::fs::read(home.key_file()).unwrap());
    let place = format!("s3:{}/backups/of/here", server.endpoint());
    let target = elsewhere.path("back");
    let target_of_docs = target.join(home.path("docs").strip_prefix("/").unwrap());
    let arguments = [
        "restore",
        "docs",
        "--target",
        target.to_str().unwrap(),
        "--store",
        &place,
        "--key-file",
        key.to_str().unwrap(),
    ];
    let without = elsewhere.expect(7, &arguments);
    assert!(without.stderr.contains("AWS_ACCESS_KEY_ID"), "{}", without.stderr);
    let with = |secret: &str| {
        let mut command = elsewhere.command(&arguments);
        command.env("AWS_ACCESS_KEY_ID", SeaweedFs::ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", secret);
        crate::home::Ran::of(&command.output().unwrap())
    };
    let wrong = with("a wrong and very secret thing");
    assert!(wrong.stderr.contains("SignatureDoesNotMatch"), "{}", wrong.stderr);
    assert!(!wrong.stderr.contains("very secret"), "{}", wrong.stderr);
    assert!(!target.exists());
    let right = with(SeaweedFs::SECRET_KEY);
    assert_eq!(right.code, Some(0), "{}", right.stderr);
    assert_eq!(std::fs::read(target_of_docs.join("7")).unwrap(), std::fs::read(home.path("docs/7")).unwrap());
}

const NONE: usize = usize::MAX;

/// Whatever answer is lost, of every request of a backup and of a prune: the run is well, and there is one snapshot more.
/// Every seventh request, and with `HIKAE_FULL=1` each.
///
/// Keeps C-3.
#[test]
fn a_lost_answer_neither_loses_nor_doubles_anything() {
    let Some(server) = SeaweedFs::start() else { return };
    let lost = Arc::new(AtomicUsize::new(NONE));
    let asked = lost.clone();
    let upstream = server.endpoint().replace("http://", "");
    let proxy = HttpProxy::start(&upstream, move |request: &Asked| {
        if request.n == asked.load(Ordering::Relaxed) { Fate::LoseAnswer } else { Fate::Pass }
    });
    let home = home(&proxy.endpoint());
    home.expect(0, &["store", "init"]);
    home.expect(0, &["init"]);
    home.expect(0, &["backup"]);
    let n_snapshots = || home.json(&["list"])["result"].as_array().unwrap().len();
    let n_requests = |arguments: &[&str]| {
        let before = proxy.n_asked();
        home.expect(0, arguments);
        proxy.n_asked() - before
    };
    home.write("docs/3", "a change");
    let n_of_a_backup = n_requests(&["backup"]);
    let step = if std::env::var_os("HIKAE_FULL").is_some() { 1 } else { 7 };
    for n in (0..n_of_a_backup).step_by(step) {
        home.write("docs/3", format!("changed when the answer to request {n} was lost"));
        let before = n_snapshots();
        lost.store(proxy.n_asked() + n, Ordering::Relaxed);
        home.expect(0, &["backup"]);
        lost.store(NONE, Ordering::Relaxed);
        assert_eq!(n_snapshots(), before + 1, "request {n} of {n_of_a_backup}");
    }
    home.expect(0, &["forget", "--keep-last", "1", "--even-many"]);
    let mut n = 0;
    loop {
        home.write("docs/4", format!("something that goes away again, {n}"));
        home.expect(0, &["backup"]);
        home.expect(0, &["forget", "--keep-last", "1"]);
        let before = proxy.n_asked();
        lost.store(before + n, Ordering::Relaxed);
        home.expect(0, &["prune", "--soft", "0d"]);
        lost.store(NONE, Ordering::Relaxed);
        if proxy.n_asked() - before <= n {
            break;
        }
        n += step;
    }
    assert!(n > 5, "{n}");
    assert_eq!(n_snapshots(), 1);
    home.expect(0, &["verify", "--read-data"]);
}
