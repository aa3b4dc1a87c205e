//! A repository in a directory of another machine, over SSH.

use crate::home::Home;
use hikae_testkit::OpenSsh;

/// A home whose repository is on the server, with one source.
fn home(server: &OpenSsh, host_key: &str) -> Home {
    let home = Home::new();
    let key = home.write_private("id", std::fs::read(server.key()).unwrap());
    home.configure(&format!(
        "[repository.nas]\n\
         store = {{ sftp = {{ host = \"127.0.0.1\", port = {}, user = \"{}\", path = \"{}/hikae\", key_file = \"{}\"{host_key} }} }}\n\
         unlock = {{ key_file = \"{}\" }}\n\
         [source.docs]\nkind = \"files\"\ninclude = [\"{}\"]\n\
         [job.all]\nsources = [\"docs\"]\n",
        server.port(),
        server.user(),
        server.data().display(),
        key.display(),
        home.key_file().display(),
        home.path("docs").display(),
    ));
    for n in 0..20 {
        home.write(&format!("docs/{n}"), format!("file {n} ").repeat(n * 100 + 1));
    }
    home
}

/// Keeps C-9.
#[test]
fn another_machine_keeps_a_repository() {
    let Some(server) = OpenSsh::start() else { return };
    let home = home(&server, &format!(", host_key = \"{}\"", server.fingerprint()));
    let check = home.json(&["store", "init"]);
    assert_eq!((&check["result"]["fit"], &check["result"]["durable"]), (&true.into(), &"yes".into()));
    home.expect(0, &["init"]);
    home.expect(0, &["backup"]);
    home.write("docs/3", "another content");
    home.expect(0, &["backup"]);
    home.expect(0, &["restore", "docs", "--target", home.path("back").to_str().unwrap()]);
    let back = home.path("back").join(home.path("docs").strip_prefix("/").unwrap());
    assert_eq!(std::fs::read(back.join("3")).unwrap(), b"another content");
    assert_eq!(std::fs::read(back.join("19")).unwrap(), std::fs::read(home.path("docs/19")).unwrap());
    home.expect(0, &["verify", "--read-data"]);
    home.expect(0, &["drill"]);
    home.expect(0, &["forget", "--keep-last", "1"]);
    home.expect(0, &["prune", "--soft", "0d"]);
    assert_eq!(home.json(&["list"])["result"].as_array().unwrap().len(), 1);
    home.expect(0, &["doctor"]);
    // What is there is what would be on a disk of this machine.
    let address = server.data().join("hikae");
    home.expect(
        0,
        &["verify", "--store", address.to_str().unwrap(), "--key-file", home.key_file().to_str().unwrap()],
    );
    // By its address alone, on a machine that knows the server as others do.
    let elsewhere = Home::new();
    let key = elsewhere.write_private("key", std::fs::read(home.key_file()).unwrap());
    elsewhere.write_private(".ssh/id_ed25519", std::fs::read(server.key()).unwrap());
    let place =
        format!("sftp://{}@127.0.0.1:{}{}/hikae", server.user(), server.port(), server.data().display());
    let list = ["list", "--store", &place, "--key-file", key.to_str().unwrap()];
    let unknown = elsewhere.expect(7, &list);
    assert!(unknown.stderr.contains(&server.fingerprint()), "{}", unknown.stderr);
    elsewhere.write(".ssh/known_hosts", server.known_host(server.port()));
    assert!(elsewhere.expect(0, &list).stdout.contains("docs"));
}

/// A wrong server is told from a wrong key, and neither from a repository that is not there.
#[test]
fn what_is_wrong_with_the_server_is_said() {
    let Some(server) = OpenSsh::start() else { return };
    let home = home(&server, "");
    let unknown = home.expect(7, &["init"]);
    assert!(
        unknown.stderr.contains("host_key = ") && unknown.stderr.contains(&server.fingerprint()),
        "{}",
        unknown.stderr
    );
    let configured = std::fs::read_to_string(home.path("config/hikae/config.toml")).unwrap();
    let told = |code: i32, extra: &str| {
        home.configure(&configured.replacen("path = ", &format!("{extra}, path = "), 1));
        home.expect(code, &["list"]).stderr
    };
    let changed = told(7, &format!("host_key = \"{}\"", server.another_fingerprint()));
    assert!(changed.contains("another key than it should"), "{changed}");
    home.write_private("id", std::fs::read(server.another_key()).unwrap());
    let refused = told(15, &format!("host_key = \"{}\"", server.fingerprint()));
    assert!(refused.contains("does not let") && refused.contains("authorized_keys"), "{refused}");
    home.write_private("id", "no key");
    let refused = told(15, &format!("host_key = \"{}\"", server.fingerprint()));
    assert!(refused.contains("cannot be used"), "{refused}");
}

/// What a mount of another machine promises is not what a disk does.
///
/// Of mounts of other machines, as NFS and SMB, their kind of file system says so.
#[test]
fn a_store_that_a_power_cut_may_empty_is_called_best_effort() {
    let Ok(memory) = tempfile::tempdir_in("/dev/shm") else {
        return hikae_testkit::not_run("there is no /dev/shm");
    };
    let home = Home::new();
    let place = memory.path().join("store");
    std::fs::create_dir(&place).unwrap();
    let check = home.json(&["store", "check", "--store", place.to_str().unwrap()]);
    let durable = check["result"]["durable"].as_str().unwrap();
    assert!(durable.starts_with("best effort") && durable.contains("memory"), "{check}");
}
