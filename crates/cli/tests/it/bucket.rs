//! A repository in a bucket of a real S3 server.

use crate::home::Home;
use hikae_testkit::{Asked, Fate, HttpProxy, S3Fault, SeaweedFs, system_clock};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

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
    let mut nobody = elsewhere.command(&arguments);
    nobody.env("AWS_EC2_METADATA_DISABLED", "true");
    let nobody = crate::home::Ran::of(&nobody.output().unwrap());
    assert_eq!(nobody.code, Some(15), "{}", nobody.stderr);
    assert!(nobody.stderr.contains("no AWS_ACCESS_KEY_ID"), "{}", nobody.stderr);
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

const ROLE: &str = "arn:aws:iam::111122223333:role/backup";

/// A home whose repository is on `server`, entered by a role that a profile's key may assume.
fn home_with_a_role(server: &S3Fault) -> Home {
    let home = home(&server.endpoint());
    let (access_key, secret) = (S3Fault::ACCESS_KEY, S3Fault::SECRET_KEY);
    home.write_private(
        ".aws/credentials",
        format!("[backup]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret}\n"),
    );
    home.configure(&format!(
        "[repository.offsite]\n\
         store = {{ s3 = {{ bucket = \"backups\", prefix = \"of/here\", endpoint = \"{}\", \
         profile = \"backup\", role = \"{ROLE}\", external_id = \"of-us\" }} }}\n\
         unlock = {{ key_file = \"{}\" }}\n\
         [source.docs]\nkind = \"files\"\ninclude = [\"{}\"]\n\
         [job.all]\nsources = [\"docs\"]\n",
        server.endpoint(),
        home.key_file().display(),
        home.path("docs").display(),
    ));
    server.allow_role(ROLE, Some("of-us"));
    home
}

/// The incident once more, with the program itself: sessions that are shorter than the run.
///
/// Keeps RS-35, RS-36, C-5.
#[test]
fn a_backup_outlives_the_sessions_that_it_is_made_in() {
    let server = S3Fault::start(system_clock());
    let home = home_with_a_role(&server);
    home.expect(0, &["store", "init"]);
    home.expect(0, &["init"]);
    server.sessions_live(Duration::from_millis(1500));
    server.decide(|asked| {
        if asked.path.contains("backups") {
            std::thread::sleep(Duration::from_millis(200));
        }
        Fate::Pass
    });
    let before = server.n_sessions();
    home.expect(0, &["backup"]);
    assert!(server.n_sessions() - before >= 2, "{} sessions", server.n_sessions() - before);
    server.behave();
    home.expect(0, &["verify", "--read-data"]);
    assert_eq!(server.complaints(), [""; 0]);
}

/// Keeps C-5, RS-35.
#[test]
fn a_run_whose_key_ends_for_good_says_so_with_a_code_of_its_own() {
    let server = Arc::new(S3Fault::start(system_clock()));
    let home = home_with_a_role(&server);
    home.expect(0, &["store", "init"]);
    home.expect(0, &["init"]);
    home.expect(0, &["backup"]);
    home.write("docs/3", "a change");
    let n_puts = AtomicUsize::new(0);
    let ends = Arc::downgrade(&server);
    server.decide(move |asked| match (asked.method.as_str(), asked.path.as_str()) {
        ("POST", "/") if n_puts.load(Ordering::Relaxed) > 0 => Fate::Answer(403, "AccessDenied"),
        ("PUT", _) => {
            n_puts.fetch_add(1, Ordering::Relaxed);
            ends.upgrade().unwrap().end_sessions();
            Fate::Pass
        }
        _ => Fate::Pass,
    });
    let ran = home.expect(15, &["backup"]);
    assert!(ran.stderr.contains(ROLE) && ran.stderr.contains("AccessDenied"), "{}", ran.stderr);
    assert!(ran.stderr.contains("`role`"), "{}", ran.stderr);
    assert!(!ran.stderr.contains(S3Fault::SECRET_KEY) && !ran.stderr.contains("token+of"), "{}", ran.stderr);
    let json = home.run(&["backup", "--json"]);
    assert!(json.stdout.contains("\"credentials\""), "{}", json.stdout);
    server.behave();
    home.expect(0, &["backup"]);
    home.expect(0, &["verify", "--read-data"]);
    assert_eq!(home.json(&["list"])["result"].as_array().unwrap().len(), 2);
}

/// Each request takes the time of a network. The goals are 15, 6 and 20.
#[test]
fn little_is_asked_of_a_server() {
    let Some(server) = SeaweedFs::start() else { return };
    let said = Arc::new(Mutex::new(Vec::new()));
    let log = said.clone();
    let proxy = HttpProxy::start(&server.endpoint().replace("http://", ""), move |request: &Asked| {
        log.lock().unwrap().push(format!("{} {}", request.method, request.path));
        Fate::Pass
    });
    let home = home(&proxy.endpoint());
    home.expect(0, &["store", "init"]);
    home.expect(0, &["init"]);
    for n in 0..30 {
        home.write("docs/3", format!("content {n}"));
        home.expect(0, &["backup"]);
    }
    let asks = |most: usize, run: &dyn Fn()| {
        said.lock().unwrap().clear();
        run();
        let said = said.lock().unwrap();
        assert!(said.len() <= most, "{} requests:\n{}", said.len(), said.join("\n"));
    };
    asks(15, &|| drop(home.expect(0, &["backup"])));
    asks(6, &|| drop(home.expect(0, &["list"])));
    let path = home.path("docs/7");
    let arguments = |target: &str| {
        ["restore", "docs", "--path", path.to_str().unwrap(), "--target", target].map(str::to_owned)
    };
    let target = home.path("back");
    asks(6, &|| drop(home.expect(0, &arguments(target.to_str().unwrap()).each_ref().map(String::as_str))));

    // From a machine that has seen nothing of it.
    let elsewhere = Home::new();
    let key = elsewhere.write_private("key", std::fs::read(home.key_file()).unwrap());
    let target = elsewhere.path("back");
    let place = format!("s3:{}/backups/of/here", proxy.endpoint());
    let mut all = arguments(target.to_str().unwrap()).to_vec();
    all.extend(["--store", &place, "--key-file", key.to_str().unwrap()].map(str::to_owned));
    asks(20, &|| {
        let mut command = elsewhere.command(&all.iter().map(String::as_str).collect::<Vec<_>>());
        command.env("AWS_ACCESS_KEY_ID", SeaweedFs::ACCESS_KEY);
        command.env("AWS_SECRET_ACCESS_KEY", SeaweedFs::SECRET_KEY);
        let ran = crate::home::Ran::of(&command.output().unwrap());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    });
}

/// What this machine keeps copies of comes back to it; whether it would from the bucket, only the bucket shows.
#[test]
fn a_drill_is_not_passed_by_the_copies_that_are_kept_near() {
    let Some(server) = SeaweedFs::start() else { return };
    let gone = Arc::new(Mutex::new(None));
    let pack = gone.clone();
    let proxy = HttpProxy::start(&server.endpoint().replace("http://", ""), move |request: &Asked| {
        let is_gone = pack.lock().unwrap().as_ref().is_some_and(|pack: &String| request.path.contains(pack));
        if is_gone { Fate::Answer(404, "NoSuchKey") } else { Fate::Pass }
    });
    let home = home(&proxy.endpoint());
    home.expect(0, &["store", "init"]);
    home.expect(0, &["init"]);
    home.expect(0, &["backup"]);
    home.expect(0, &["drill"]);
    let repositories = std::fs::read_dir(home.path("cache/hikae")).unwrap();
    let near = repositories.map(|repository| repository.unwrap().path().join("near"));
    let copies = near.filter(|near| near.is_dir()).flat_map(|near| std::fs::read_dir(near).unwrap());
    let names: Vec<String> = copies.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    let pack = names.iter().find_map(|name| name.strip_prefix("packs-")).expect("a copy of a listing");
    *gone.lock().unwrap() = Some(pack.replace('-', "/"));
    home.expect(0, &["ls", "docs"]);
    home.expect(4, &["drill"]);
    home.expect(4, &["verify"]);
}

/// Keeps C-8, RS-28, RS-33.
#[test]
fn a_locked_repository_says_what_is_locked_and_what_waits_for_it() {
    let server = S3Fault::start(system_clock());
    let home = home_with_a_role(&server);
    let config = std::fs::read_to_string(home.path("config/hikae/config.toml")).unwrap();
    home.expect(0, &["store", "init"]);
    home.configure(&config.replace("unlock =", "lock = { mode = \"compliance\", for = \"30d\" }\nunlock ="));
    let not_yet = home.run(&["init"]);
    assert_eq!(not_yet.code, Some(9), "{}", not_yet.stderr);
    home.expect(0, &["store", "init"]);
    home.expect(0, &["init"]);
    let first = home.json(&["backup"])["result"]["locked"].clone();
    assert!(first["objects"].as_u64().unwrap() >= 3, "{first}");
    home.write("docs/3", "a change");
    home.expect(0, &["backup"]);
    home.expect(0, &["forget", "--keep-last", "1"]);
    home.expect(0, &["prune", "--soft", "0d"]);
    let waits = home.expect(0, &["prune", "--soft", "0d"]);
    assert!(waits.stdout.contains("for the end of their lock"), "{}", waits.stdout);
    let checked = home.expect(0, &["store", "check"]);
    assert!(
        checked.stdout.contains("object lock") && checked.stdout.contains("locked until"),
        "{}",
        checked.stdout
    );
    let truth = server.truth("backups");
    let unlocked = truth.iter().filter(|(_, versions)| {
        versions.iter().any(|version| version.bytes.is_some() && version.lock.is_none())
    });
    assert_eq!(unlocked.map(|(key, _)| key.as_str()).collect::<Vec<_>>(), [""; 0]);
    assert_eq!(server.complaints().iter().filter(|what| !what.contains("InvalidRequest")).count(), 0);
}
