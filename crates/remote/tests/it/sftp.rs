//! SFTP, on OpenSSH.

use crate::retry;
use hikae_model::Advise as _;
use hikae_remote::{RemoteStore, Retry, SftpError, SftpLogin, SftpSettings, SshKey};
use hikae_store::probe::{Found, probe};
use hikae_store::{Durability, Reserve, Store, StoreError};
use hikae_testkit::store_contract::{key, listed};
use hikae_testkit::{OpenSsh, Seed, TcpProxy, TestRandom, not_run, store_contract, system_cx};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A directory of the server, entered through this port.
fn settings(server: &OpenSsh, port: u16, name: &str) -> SftpSettings {
    SftpSettings {
        host: "127.0.0.1".to_owned(),
        port: Some(port),
        user: server.user(),
        path: server.data().join(name).to_str().unwrap().to_owned(),
        host_key: Some(server.fingerprint()),
        known_hosts: None,
    }
}

fn with_key(path: &Path) -> SftpLogin {
    let text = std::fs::read_to_string(path).unwrap().into();
    SftpLogin { keys: vec![SshKey { path: path.to_owned(), text, passphrase: None }], ..SftpLogin::default() }
}

fn store(server: &OpenSsh, port: u16, name: &str, retry: Retry) -> RemoteStore {
    settings(server, port, name)
        .create(&with_key(&server.key()), Reserve::Usual, retry, &system_cx())
        .unwrap()
}

/// Keeps C-10.
#[test]
fn a_store_over_sftp_keeps_every_promise() {
    let Some(server) = OpenSsh::start() else { return };
    let n = AtomicU32::new(0);
    store_contract::check(|| {
        let name = format!("deep/er/{}", n.fetch_add(1, Ordering::Relaxed));
        Box::new(store(&server, server.port(), &name, Retry::default())) as Box<dyn Store>
    });
}

/// What the server cannot do is said in words, and what can be done without it is done.
///
/// Keeps C-9.
#[test]
fn a_server_that_cannot_say_when_data_is_durable_is_called_best_effort() {
    for (without, said) in [
        (&[][..], None),
        (&["fsync"], Some("fsync@openssh.com")),
        (&["hardlink", "statvfs", "limits"], Some("hardlink@openssh.com")),
        (&["fsync", "hardlink", "posix-rename", "statvfs", "limits"], Some("fsync@openssh.com")),
    ] {
        let Some(server) = OpenSsh::start_without(without) else { return };
        let store = store(&server, server.port(), "store", retry());
        let found = store.durability().unwrap();
        match (found, said) {
            (Durability::Full, None) => {}
            (Durability::BestEffort { why }, Some(said)) => assert!(why.contains(said), "{why}"),
            (found, _) => panic!("without {without:?}: {found:?}"),
        }
        store.put(&key("packs/aa/1"), b"first").unwrap();
        assert!(matches!(store.put(&key("packs/aa/1"), b"second"), Err(StoreError::Exists { .. })));
        store.replace(&key("packs/aa/1"), b"third").unwrap();
        assert_eq!(store.get(&key("packs/aa/1")).unwrap(), b"third");
        for (ability, found) in probe(&store, [7; 8]).unwrap() {
            // OpenSSH makes a second name in its plain rename too, so there is one winner all the same.
            assert!(matches!(found, Found::Kept), "without {without:?}: {ability:?}: {found:?}");
        }
    }
}

/// As the server's system calls show: first the content is on the disk, then it gets its name, then the name is on the disk.
///
/// Keeps C-9.
#[test]
fn what_is_stored_is_on_the_disk_of_the_server_with_its_name() {
    let Some(server) = OpenSsh::start() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let trace = scratch.path().join("trace");
    let strace = Command::new("strace")
        .args(["-f", "-y", "-qq", "-e", "trace=fsync,link,linkat,mkdir,mkdirat", "-e", "signal=none", "-o"])
        .arg(&trace)
        .args(["-p", &server.pid().to_string()])
        .spawn();
    let Ok(mut strace) = strace else { return not_run("there is no strace") };
    let status = format!("/proc/{}/status", server.pid());
    while std::fs::read_to_string(&status).unwrap().contains("TracerPid:\t0\n") {
        if let Some(ended) = strace.try_wait().unwrap() {
            return not_run(&format!("strace cannot look at another process here: {ended}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let store = store(&server, server.port(), "store", retry());
    store.put(&key("packs/aa/1"), b"content").unwrap();
    let data = server.data();
    drop((store, server));
    strace.wait().unwrap();
    let data = format!("{}/", data.display());
    let calls = std::fs::read_to_string(trace).unwrap();
    let calls: Vec<String> = calls
        .lines()
        .map(|line| {
            // As `123 fsync(3</tmp/x/data/store/tmp/0a>) = 0`: the call, and the last thing that it names.
            let (call, arguments) =
                line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ').split_once('(').unwrap();
            let (_, name) = arguments.rsplit_once(&data).unwrap_or(("", "the directory above"));
            let name = name.trim_end_matches(|c: char| "\" ,0)>=7".contains(c));
            let name = if name.starts_with("store/tmp/") { "what is on its way" } else { name };
            format!("{call} {name}")
        })
        .collect();
    assert_eq!(
        calls,
        [
            "mkdir store",
            "fsync store",
            "fsync the directory above",
            "mkdir store/tmp",
            "fsync store",
            "mkdir store/packs",
            "fsync store",
            "mkdir store/packs/aa",
            "fsync store/packs",
            "fsync what is on its way",
            "link store/packs/aa/1",
            "fsync store/packs/aa",
        ]
    );
}

/// At every so many bytes of an upload, the handshake of the connection included: what was told to be stored is there, and what
/// is left of a broken upload is no object, and goes once it is old.
///
/// Keeps C-9, C-3.
#[test]
fn an_upload_that_is_cut_anywhere_is_whole_or_nowhere() {
    let Some(server) = OpenSsh::start() else { return };
    let proxy = TcpProxy::start(server.port());
    let content = TestRandom::new(Seed(5)).bytes(150_000);
    let put_all = |n: u64| {
        let store = store(&server, proxy.port(), "store", retry());
        let before = proxy.passed();
        let result = store.put(&key(&format!("packs/aa/{n}")), &content);
        (store, proxy.passed() - before, result)
    };
    let (_, sent, whole) = put_all(0);
    whole.unwrap();
    let n_cuts = if std::env::var_os("HIKAE_FULL").is_some() { 400 } else { 24 };
    for n in 1..=n_cuts {
        let store = store(&server, proxy.port(), "store", retry());
        // More of them where the names are given, at the end.
        let at = sent * n / n_cuts;
        let at = if n % 2 == 0 { sent - (sent - at) / 100 } else { at };
        let (name, before) = (key(&format!("packs/aa/{n}")), proxy.n_connections());
        proxy.cut_after(at);
        store.put(&name, &content).unwrap_or_else(|error| panic!("cut at {at} of {sent}: {error:?}"));
        assert_eq!(store.get(&name).unwrap(), content, "cut at {at}");
        let is_cut = proxy.n_connections() > before;
        assert!(is_cut || at + 200 >= sent, "no cut at {at} of {sent}");
    }
    let store = store(&server, server.port(), "store", retry());
    let objects = listed(&store, "").unwrap();
    assert_eq!(objects.len() as u64, n_cuts + 1, "{objects:?}");
    let left = || std::fs::read_dir(server.data().join("store/tmp")).unwrap().count();
    assert!(left() > 0, "no upload was broken");
    assert_eq!(store.reclaim_temporary(jiff::Timestamp::UNIX_EPOCH).unwrap(), 0);
    let n = left();
    assert_eq!(store.reclaim_temporary(jiff::Timestamp::MAX).unwrap(), n);
    assert_eq!(left(), 0);
    assert_eq!(listed(&store, "").unwrap(), objects);
}

/// Reading goes on, too.
#[test]
fn what_is_read_or_listed_survives_a_cut() {
    let Some(server) = OpenSsh::start() else { return };
    let proxy = TcpProxy::start(server.port());
    let store = store(&server, proxy.port(), "store", retry());
    let content = TestRandom::new(Seed(6)).bytes(300_000);
    for n in 0..4 {
        store.put(&key(&format!("packs/{n}{n}/{n}")), &content).unwrap();
    }
    for at in [0, 50, 200, 400, 1_000] {
        proxy.cut_after(at);
        assert_eq!(store.get(&key("packs/00/0")).unwrap(), content, "cut at {at}");
        proxy.cut_after(at);
        assert_eq!(listed(&store, "packs").unwrap().len(), 4, "cut at {at}");
        proxy.cut_after(at);
        store.remove(&key(&format!("packs/11/{at}"))).unwrap();
    }
    drop(proxy);
}

/// A server is who it was, or nobody.
#[test]
fn a_server_with_another_key_is_an_error_and_never_a_question() {
    let Some(server) = OpenSsh::start() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let known = |text: &str| {
        let path = scratch.path().join("known_hosts");
        std::fs::write(&path, text).unwrap();
        SftpSettings { host_key: None, known_hosts: Some(path), ..settings(&server, server.port(), "") }
    };
    let enter = |settings: &SftpSettings| {
        settings.store(&with_key(&server.key()), Reserve::Usual, retry(), &system_cx()).map(drop)
    };
    let right = server.known_host(server.port());
    enter(&settings(&server, server.port(), "")).unwrap();
    enter(&known(&right)).unwrap();
    let unknown = enter(&known(&server.known_host(1))).unwrap_err();
    assert!(matches!(&unknown, SftpError::HostKeyUnknown { found, .. } if *found == server.fingerprint()));
    assert!(unknown.advice().unwrap().to_string().contains(&server.fingerprint()), "{unknown:?}");
    let another = std::fs::read_to_string(server.another_key().with_extension("pub")).unwrap();
    for wrong in [
        SftpSettings { host_key: Some(server.another_fingerprint()), ..settings(&server, server.port(), "") },
        known(&format!("[127.0.0.1]:{} {another}", server.port())),
        known(&format!("{right}@revoked * {}", right.split_once(' ').unwrap().1)),
    ] {
        let error = enter(&wrong).unwrap_err();
        assert!(matches!(error, SftpError::HostKeyChanged { .. }), "{error:?}");
    }
    let absent = SftpSettings { known_hosts: Some(scratch.path().join("absent")), ..known("") };
    assert!(matches!(enter(&absent), Err(SftpError::KnownHosts { .. })));
    for bad in ["", "SHA256:x", "MD5:00", "yes"] {
        let bad = SftpSettings { host_key: Some(bad.to_owned()), ..known("") };
        assert!(matches!(enter(&bad), Err(SftpError::BadHostKey { .. })));
    }
}

/// Keys, an agent, and who is not let in.
#[test]
fn who_is_not_known_is_told_what_was_shown() {
    let Some(server) = OpenSsh::start() else { return };
    let settings = settings(&server, server.port(), "");
    let enter = |login: &SftpLogin| settings.store(login, Reserve::Usual, retry(), &system_cx()).map(drop);
    enter(&with_key(&server.key())).unwrap();
    let error = enter(&with_key(&server.another_key())).unwrap_err();
    assert!(matches!(&error, SftpError::Login { tried, .. } if tried.contains("other")), "{error}");
    assert!(matches!(enter(&SftpLogin::default()), Err(SftpError::Login { .. })));
    let password = SftpLogin { password: Some("very secret".to_owned().into()), ..SftpLogin::default() };
    let error = enter(&password).unwrap_err();
    assert!(!format!("{error:?} {error} {password:?}").contains("very secret"));
    let scratch = tempfile::tempdir().unwrap();
    let socket = scratch.path().join("agent");
    let agent = Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn();
    let Ok(mut agent) = agent else { return not_run("there is no ssh-agent") };
    while !socket.exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let login = SftpLogin { agent: Some(socket.clone()), ..SftpLogin::default() };
    let add = |path: &Path| {
        let added = Command::new("ssh-add").arg("-q").arg(path).env("SSH_AUTH_SOCK", &socket).status();
        assert!(added.unwrap().success());
    };
    add(&server.another_key());
    let refused = enter(&login);
    add(&server.key());
    let entered = enter(&login);
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert!(matches!(&refused, Err(SftpError::Login { tried, .. }) if tried == "1 keys of the agent"));
    entered.unwrap();
    assert!(matches!(enter(&login), Err(SftpError::Login { .. })), "the agent is gone");
}

/// A directory that is not there is no empty store, and one that holds something else becomes none.
#[test]
fn a_directory_of_something_else_becomes_no_store() {
    let Some(server) = OpenSsh::start() else { return };
    let login = with_key(&server.key());
    let absent = settings(&server, server.port(), "absent");
    let missing = |result: Result<RemoteStore, SftpError>| {
        assert!(matches!(result.map(drop), Err(SftpError::Store(StoreError::Missing { .. }))));
    };
    missing(absent.store(&login, Reserve::Usual, retry(), &system_cx()));
    std::fs::create_dir(server.data().join("home")).unwrap();
    std::fs::write(server.data().join("home/letter"), "dear").unwrap();
    let taken = settings(&server, server.port(), "home");
    let error = taken.create(&login, Reserve::Usual, retry(), &system_cx()).map(drop).unwrap_err();
    assert!(matches!(error, SftpError::Store(StoreError::Io { .. })), "{error:?}");
    let store = store(&server, server.port(), "store", retry());
    store.put(&key("packs/aa/1"), b"x").unwrap();
    drop(
        settings(&server, server.port(), "store")
            .create(&login, Reserve::Usual, retry(), &system_cx())
            .unwrap(),
    );
    std::fs::rename(server.data().join("store"), server.data().join("away")).unwrap();
    assert!(matches!(store.get(&key("packs/aa/1")), Err(StoreError::Missing { .. })));
    assert!(matches!(store.put(&key("packs/aa/2"), b"x"), Err(StoreError::Missing { .. })));
    assert!(matches!(store.list("", &mut |_| {}), Err(StoreError::Missing { .. })));
}
