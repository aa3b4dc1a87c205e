//! Damage to a repository as its owner meets it: what is hit is named, the rest works, and each hint leads out.

use crate::home::Home;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// A home in which `docs` was backed up twice, with a file that changed in between.
fn two_snapshots() -> Home {
    let home = Home::new();
    home.write("docs/a.txt", "one");
    home.expect(0, &["protect", "docs"]);
    home.write("docs/a.txt", "two, and longer");
    home.expect(0, &["backup"]);
    home
}

/// Ids of all snapshots, newest first.
fn ids(home: &Home) -> Vec<String> {
    let list = home.json(&["list"]);
    let rows = list["result"].as_array().unwrap();
    rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

fn change(path: &Path, harm: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    harm(&mut bytes);
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
}

fn record(home: &Home, id: &str) -> PathBuf {
    home.store().join("snapshots").join(id)
}

#[test]
fn one_lost_record_keeps_nobody_from_the_other_snapshots() {
    for removed in [true, false] {
        let home = two_snapshots();
        let ids = ids(&home);
        let lost = record(&home, &ids[0]);
        match removed {
            true => fs::remove_file(&lost).unwrap(),
            false => change(&lost, |bytes| bytes[70] ^= 1),
        }
        let list = home.expect(0, &["list"]);
        assert!(list.stdout.contains("damaged") && list.stdout.contains(&ids[1][..8]), "{}", list.stdout);
        assert!(list.stderr.contains("hikae repo repair"), "{}", list.stderr);
        home.expect(0, &["restore"]);
        let back = home.expect(0, &["restore", "docs", "--target", "back"]);
        assert!(back.stderr.contains(&ids[0][..8]), "says that a newer one is damaged: {}", back.stderr);
        let found = home.expect(4, &["find", "a.txt"]);
        assert!(found.stdout.contains("a.txt"), "{}", found.stdout);
        let named = home.expect(4, &["show", &ids[0]]);
        assert!(named.stderr.contains("hint:"), "{}", named.stderr);
        assert!(home.run(&["doctor"]).stdout.contains("is damaged"));
        let kept = home.expect(0, &["forget", "--keep-last", "1", "--dry-run"]);
        assert!(kept.stdout.contains("Nothing is to be forgotten"), "{}", kept.stdout);
        let pruned = home.expect(4, &["prune"]);
        assert!(pruned.stderr.contains("nothing was doomed"), "{}", pruned.stderr);
        home.expect(4, &["verify"]);

        let repaired = home.run(&["repo", "repair"]);
        assert!(repaired.stdout.contains("set aside"), "{}", repaired.stdout);
        assert!(home.expect(0, &["verify"]).stdout.contains("set aside"));
        home.expect(0, &["backup"]);
        home.expect(0, &["find", "a.txt"]);
        home.expect(0, &["forget", &ids[0]]);
        home.expect(0, &["prune"]);
        home.expect(0, &["verify", "--read-data"]);
    }
}

#[test]
fn an_older_copy_serves_the_machine_that_lost_the_newer_one() {
    let home = two_snapshots();
    let copy = home.path("copy");
    let copied = std::process::Command::new("cp").arg("-a").args([&home.store(), &copy]).status();
    assert!(copied.unwrap().success());
    home.expect(0, &["backup"]);
    let key = home.key_file().display().to_string();
    let of_copy = ["--store", copy.to_str().unwrap(), "--key-file", &key];
    let with = |arguments: &[&'static str]| [arguments, &of_copy[..]].concat();
    let list = home.expect(0, &with(&["list"]));
    assert!(list.stderr.contains("this copy is older"), "{}", list.stderr);
    home.expect(0, &with(&["restore", "docs", "--target", "back"]));
    assert_eq!(
        fs::read(home.path("back").join(home.path("docs/a.txt").strip_prefix("/").unwrap())).unwrap(),
        b"two, and longer"
    );
    let verified = home.expect(0, &with(&["verify", "--read-data"]));
    assert!(verified.stdout.contains("this copy is older"), "{}", verified.stdout);
    let refused = home.expect(4, &with(&["forget", "latest", "--even-last"]));
    assert!(refused.stderr.contains("nothing is written to it"), "{}", refused.stderr);
    home.expect(0, &["backup"]);
}

#[test]
fn a_damaged_entry_of_the_log_keeps_nobody_from_a_restore() {
    let home = two_snapshots();
    let mut entries: Vec<_> =
        fs::read_dir(home.store().join("log")).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    let copied =
        std::process::Command::new("cp").arg("-a").args([&home.store(), &home.path("copy")]).status();
    assert!(copied.unwrap().success());
    for entry in &entries {
        let well = fs::read(entry).unwrap();
        change(entry, |bytes| bytes[70] ^= 1);
        fs::remove_dir_all(home.path("back")).ok();
        let ran = home.expect(0, &["restore", "docs", "--target", "back"]);
        assert!(ran.stderr.contains("from a copy"), "{}", ran.stderr);
        home.expect(0, &["list"]);
        home.expect(4, &["verify"]);
        home.expect(4, &["repo", "repair"]);
        let refused = home.expect(4, &["backup"]);
        assert!(refused.stderr.contains("until then nothing is written"), "{}", refused.stderr);
        let mended = home.expect(0, &["repo", "repair", "--from", "copy"]);
        assert!(mended.stdout.contains("Put back 1 object"), "{}", mended.stdout);
        assert_eq!(fs::read(entry).unwrap(), well);
        home.expect(0, &["verify"]);
    }
}

#[test]
fn what_is_hit_is_named_once_and_a_repair_does_not_ask_for_itself() {
    let home = Home::new();
    (0..7).for_each(|n| drop(home.write(&format!("docs/{n}.txt"), [n; 3000])));
    home.expect(0, &["protect", "docs"]);
    let packs = crate::space::packs(&home);
    packs.iter().for_each(|pack| change(pack, |bytes| bytes[20] ^= 1));
    let told = home.expect(4, &["verify", "--read-data"]).stdout;
    assert!(told.lines().all(|line| line.matches(".txt").count() <= 1), "one path a line: {told}");
    let hits = told.lines().filter(|line| line.ends_with("0.txt")).count();
    assert!(hits <= 1 && told.contains("Hit in "), "{told}");
    assert!(told.contains("hikae repo repair"), "{told}");
    let mended = home.run(&["repo", "repair", "--read-data"]).stdout;
    assert!(!mended.contains("run `hikae repo repair`"), "{mended}");
}
