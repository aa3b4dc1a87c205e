//! Each exit code is reached by what it stands for. No objective is declared in this release, so nothing ends with
//! 13 yet.

use crate::home::Home;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A home in which `docs` is protected.
fn protected() -> Home {
    let home = Home::new();
    home.write("docs/a.txt", "one");
    home.expect(0, &["protect", "docs"]);
    home
}

fn config_of(home: &Home, source: &str, repository: &str) -> String {
    format!(
        "[repository.main]\nstore = \"{}\"\nunlock = {{ key_file = \"{}\" }}\n{repository}\n[source.docs]\n{source}\n",
        home.store().display(),
        home.key_file().display()
    )
}

/// Keeps MK-14, X-9.
#[test]
fn a_failed_hook_is_a_failure() {
    let home = protected();
    let docs = home.path("docs").display().to_string();
    let source = format!("kind = \"files\"\ninclude = [\"{docs}\"]\nhooks = {{ before = [[\"false\"]] }}");
    home.configure(&config_of(&home, &source, ""));
    let ran = home.expect(1, &["backup"]);
    assert!(ran.stdout.contains("the program `false`"), "{}", ran.stdout);
}

#[test]
fn what_cannot_be_asked_for_is_usage() {
    let home = protected();
    home.expect(2, &["no-such-command"]);
    home.expect(2, &["list", "--no-such-flag"]);
    home.expect(2, &["backup", "no-such-source"]);
    home.expect(2, &["restore", "no-such-source"]);
    Home::new().expect(2, &["list"]);
}

/// Keeps E-1, X-9.
#[test]
fn a_source_that_is_partly_unreadable_ends_with_problems() {
    let home = Home::of_nobody();
    home.write("docs/a.txt", "one");
    let secret = home.write("docs/secret.txt", "two");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
    let ran = home.expect(3, &["protect", "docs"]);
    assert!(ran.stdout.contains("secret.txt"), "{}", ran.stdout);
    assert!(ran.stdout.contains("with problems"), "{}", ran.stdout);
    // It never counts as the last good one.
    let ran = home.run(&["doctor"]);
    assert!(ran.stdout.contains("none is complete"), "{}", ran.stdout);
}

/// Keeps MK-6, MK-39, RS-11, EC-21.
#[test]
fn damage_is_found_by_verify() {
    let home = protected();
    home.expect(0, &["verify", "--read-data"]);
    let pack = files_below(&home.store().join("packs")).into_iter().next().unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    bytes[40] ^= 1;
    fs::set_permissions(&pack, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&pack, bytes).unwrap();
    let ran = home.expect(4, &["verify", "--read-data"]);
    assert!(ran.stdout.contains("hikae repo repair"), "{}", ran.stdout);
}

#[test]
fn a_full_disk_is_no_space() {
    let home = protected();
    home.write("docs/b.txt", "two");
    let source = format!("kind = \"files\"\ninclude = [\"{}\"]", home.path("docs").display());
    home.configure(&config_of(&home, &source, "reserve = \"1 EiB\""));
    let ran = home.expect(5, &["backup"]);
    assert!(ran.stderr.contains("no space"), "{}", ran.stderr);
}

/// Keeps EC-28.
#[test]
fn a_source_that_is_not_there_is_missing() {
    let home = protected();
    home.expect(6, &["protect", "no-such-folder"]);
    home.configure(&config_of(&home, "kind = \"sqlite\"\npath = \"/no/such.db\"", ""));
    home.expect(6, &["backup"]);
    let unreachable = "kind = \"postgresql\"\nconnection = \"host=/no/such/socket dbname=x\"";
    home.configure(&config_of(&home, unreachable, ""));
    home.expect(6, &["backup"]);
}

/// Keeps X-9.
#[test]
fn a_repository_whose_disk_is_not_mounted_is_missing_and_never_made_anew() {
    let home = protected();
    fs::remove_dir_all(home.store()).unwrap();
    for arguments in [&["protect"][..], &["protect", "docs"], &["backup"], &["list"]] {
        let ran = home.expect(10, arguments);
        assert!(ran.stderr.contains("mounted, or make a repository with `hikae init`"), "{}", ran.stderr);
        assert!(!home.store().exists());
    }
}

#[test]
fn a_key_file_whose_folder_is_not_there_is_usage() {
    let home = Home::new();
    home.write("docs/a.txt", "one");
    for command in [&["protect", "docs"][..], &["init", "--store", "store"]] {
        let ran = home.expect(2, &[command, &["--key-file", "stick/main.key"]].concat());
        assert!(ran.stderr.contains("is mounted, or make that folder"), "{}", ran.stderr);
    }
    // Nothing of it is in the way of the next call.
    home.expect(0, &["protect", "docs"]);
}

/// Keeps L-3.
#[test]
fn a_key_file_that_others_may_read_is_refused() {
    let home = protected();
    for mode in [0o604, 0o640, 0o666] {
        fs::set_permissions(home.key_file(), fs::Permissions::from_mode(mode)).unwrap();
        let ran = home.expect(7, &["list"]);
        assert!(ran.stderr.contains("hint: run chmod 600"), "{}", ran.stderr);
    }
}

#[test]
fn a_database_that_somebody_locks_is_busy() {
    let home = Home::new();
    let path = home.path("app.db");
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1);").unwrap();
    home.expect(0, &["protect", "app.db"]);
    connection.execute_batch("BEGIN EXCLUSIVE").unwrap();
    // Somebody may only be slow, so hikae waits for a while before it says so.
    let target = path.display().to_string();
    home.expect(8, &["restore", "app", "--target", &target, "--overwrite", "always", "--yes"]);
}

#[test]
fn a_store_that_fails_is_unreachable() {
    let home = protected();
    let header = home.store().join("hikae.json");
    fs::remove_file(&header).unwrap();
    fs::create_dir(&header).unwrap();
    home.expect(9, &["list"]);
}

#[test]
fn a_repository_that_is_not_there_is_missing() {
    let home = protected();
    fs::remove_dir_all(home.store()).unwrap();
    home.expect(10, &["list"]);
    fs::create_dir(home.store()).unwrap();
    home.expect(10, &["list"]);
}

#[test]
fn another_key_is_the_wrong_key() {
    let (home, other) = (protected(), protected());
    let key = other.key_file().display().to_string();
    let ran = home.expect(11, &["list", "--key-file", &key]);
    assert!(ran.stderr.contains("hint:"), "{}", ran.stderr);
    let passphrase = home.command(&["list"]).env("HIKAE_PASSPHRASE", "not the one").output().unwrap();
    assert_eq!(passphrase.status.code(), Some(11));
}

#[test]
fn what_stands_there_is_not_written_over() {
    let home = protected();
    home.expect(12, &["restore", "docs", "--target", "docs"]);
    home.expect(12, &["init"]);
}

/// Keeps MK-33, EC-29.
#[test]
fn a_no_is_cancelled_and_nothing_was_changed() {
    let home = protected();
    home.expect(0, &["restore", "docs", "--target", "back"]);
    let Some(script) = find_program("script") else {
        return hikae_testkit::not_run("script, which gives a program a terminal, is not installed");
    };
    // `script` starts its command through a shell; the paths have no space.
    let line = format!("{} restore docs --target back --overwrite always", env!("CARGO_BIN_EXE_hikae"));
    let command = home.command(&[]);
    let run = |answer: &str| {
        let mut on_terminal = Command::new(&script);
        on_terminal.args(["-qec", &line, "/dev/null"]).current_dir(home.path("")).env_clear();
        on_terminal.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        on_terminal.env("SHELL", "/bin/sh").stdin(std::process::Stdio::piped());
        on_terminal.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
        let mut child = on_terminal.spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), answer.as_bytes()).unwrap();
        child.wait_with_output().unwrap().status.code()
    };
    assert_eq!(run("no\n"), Some(20));
    assert_eq!(run("back\n"), Some(0));
    // Where nobody can be asked, nobody is.
    home.expect(2, &["restore", "docs", "--target", "back", "--overwrite", "always"]);
}

/// Keeps IN-102.
#[test]
fn old_scripts_get_the_four_codes_that_they_know() {
    let home = protected();
    home.expect(2, &["protect", "no-such-folder", "--compat-exit-codes"]);
    home.expect(5, &["no-such-command", "--compat-exit-codes"]);
    fs::set_permissions(home.key_file(), fs::Permissions::from_mode(0o644)).unwrap();
    home.expect(4, &["list", "--compat-exit-codes"]);
    let by_variable = home.command(&["list"]).env("HIKAE_COMPAT_EXIT_CODES", "1").output().unwrap();
    assert_eq!(by_variable.status.code(), Some(4));
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.is_file())
}
