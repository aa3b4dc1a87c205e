//! What a drill leaves behind: evidence, and nothing of the content.

use crate::home::Home;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

/// Changes a byte in every pack.
pub fn damage(home: &Home) {
    let packs = fs::read_dir(home.store().join("packs")).unwrap();
    for pack in packs.flat_map(|shard| fs::read_dir(shard.unwrap().path()).unwrap()) {
        let pack = pack.unwrap().path();
        let mut bytes = fs::read(&pack).unwrap();
        bytes[40] ^= 1;
        fs::set_permissions(&pack, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&pack, bytes).unwrap();
    }
}

#[test]
fn a_snapshot_that_was_damaged_after_its_drill_is_no_longer_called_restored() {
    let home = Home::new();
    let database = rusqlite::Connection::open(home.path("app.db")).unwrap();
    database.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES ('a row that fills a page')").unwrap();
    home.write("docs/a.txt", "one");
    home.expect(0, &["protect", "app.db", "docs"]);
    home.expect(0, &["show", "latest-verified", "--source", "app"]);
    damage(&home);
    let ran = home.expect(4, &["drill"]);
    assert!(ran.stdout.contains("NOT PROVED") && !ran.stdout.contains("not drilled"), "{}", ran.stdout);
    let listed = home.json(&["list"]);
    assert!(listed["result"].as_array().unwrap().iter().all(|one| one["drill_passed"] == false), "{listed}");
    let ran = home.run(&["doctor"]);
    assert!(ran.stdout.contains("was not right"), "{}", ran.stdout);
    home.expect(2, &["show", "latest-verified", "--source", "app"]);

    for source in ["app", "docs"] {
        let ran = home.expect(4, &["restore", source, "--target", &format!("back-{source}")]);
        assert!(ran.stderr.contains("hint: run `hikae verify`"), "{}", ran.stderr);
    }
}

#[test]
fn a_drill_leaves_no_plain_text_whatever_modes_were_restored() {
    let home = Home::of_nobody();
    let folder = home.write("docs/module/go.mod", "plain text").parent().unwrap().to_owned();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
    let scratch = home.path("scratch");
    home.expect(0, &["protect", "docs", "--scratch", scratch.to_str().unwrap()]);
    home.expect(0, &["drill", "--scratch", scratch.to_str().unwrap()]);
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0, "restored content was left");
}

#[test]
fn a_partial_snapshot_is_drilled_and_never_the_last_good_one() {
    let home = Home::of_nobody();
    home.write("docs/a.txt", "one");
    let closed = home.write("docs/closed.txt", "two");
    home.expect(0, &["protect", "docs"]);
    let good = home.json(&["list"])["result"][0]["id"].as_str().unwrap().to_owned();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    home.expect(3, &["backup"]);
    let partial = home.run(&["list", "--json"]);
    let partial: serde_json::Value = serde_json::from_str(&partial.stdout).unwrap();
    let partial = partial["result"][0]["id"].as_str().unwrap();
    let ran = home.expect(0, &["drill", partial]);
    assert!(ran.stdout.contains("partial: 1 problem at backup"), "{}", ran.stdout);
    let shown = home.json(&["show", "latest-verified"]);
    assert_eq!(shown["result"]["id"], good, "{shown}");
    let ran = home.run(&["doctor"]);
    assert!(
        ran.stdout.contains(&format!("proved snapshot is less than an hour old ({}", &good[..8])),
        "{}",
        ran.stdout
    );
}
