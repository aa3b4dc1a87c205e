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
