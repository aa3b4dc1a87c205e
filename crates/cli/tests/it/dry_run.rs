//! A dry run counts what the real call would do, refuses what it would refuse, and writes nothing.

use crate::home::Home;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

fn database(home: &Home) {
    let connection = rusqlite::Connection::open(home.path("notes.db")).unwrap();
    connection
        .execute_batch("CREATE TABLE note (text TEXT); INSERT INTO note VALUES (randomblob(100000))")
        .unwrap();
}

/// Every file below a directory with its bytes.
fn everything(directory: &Path) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(everything(&path)),
            false => drop(found.insert(path.clone(), fs::read(path).unwrap())),
        }
    }
    found
}

#[test]
fn a_backup_that_is_only_planned_counts_what_it_would_read_and_writes_nothing() {
    let home = Home::new();
    for (name, bytes) in [("same", 1000), ("changes", 2000), ("goes", 3000), ("becomes-a-folder", 10)] {
        home.write(&format!("docs/{name}"), vec![1; bytes]);
    }
    database(&home);
    home.expect(0, &["protect", "docs", "notes.db"]);
    let plan = |home: &Home| home.json(&["backup", "--dry-run"])["result"].clone();
    let nothing = plan(&home);
    assert_eq!(nothing[0]["files"], serde_json::json!({ "new": 0, "changed": 0, "unchanged": 4, "gone": 0 }));
    assert_eq!((&nothing[0]["read_bytes"], &nothing[0]["bytes"]), (&0.into(), &6010.into()));

    fs::remove_file(home.path("docs/goes")).unwrap();
    fs::remove_file(home.path("docs/becomes-a-folder")).unwrap();
    home.write("docs/becomes-a-folder/new", "");
    home.write("docs/changes", vec![2; 2500]);
    home.write("docs/comes", vec![3; 4000]);
    let before = (everything(&home.path("data")), everything(&home.path("config")));
    let some = plan(&home);
    assert_eq!(some[0]["files"], serde_json::json!({ "new": 2, "changed": 1, "unchanged": 1, "gone": 2 }));
    assert_eq!((&some[0]["read_bytes"], &some[0]["bytes"]), (&6500.into(), &7500.into()));
    let size = fs::metadata(home.path("notes.db")).unwrap().len();
    assert_eq!((&some[1]["files"], &some[1]["bytes"]), (&serde_json::Value::Null, &size.into()));
    let text = home.expect(0, &["backup", "--dry-run"]).stdout;
    assert!(text.contains("nothing written") && text.contains("to read"), "{text}");
    assert!(before == (everything(&home.path("data")), everything(&home.path("config"))));

    let real = home.json(&["backup"]);
    assert_eq!(real["result"]["snapshots"][0]["read_bytes"], some[0]["read_bytes"]);
}

#[test]
fn a_planned_backup_ends_as_the_real_one_would() {
    let home = Home::of_nobody();
    home.write("docs/a.txt", "one");
    home.write("docs/secret.txt", "two");
    home.write("more/b.txt", "three");
    home.hand_over();
    home.expect(0, &["protect", "docs", "more"]);
    let both_end = |code: i32, what: &str| {
        let planned = home.expect(code, &["backup", "--dry-run"]);
        let real = home.expect(code, &["backup"]);
        for said in [planned, real] {
            assert!(
                format!("{}{}", said.stdout, said.stderr).contains(what),
                "{}{}",
                said.stdout,
                said.stderr
            );
        }
    };
    fs::set_permissions(home.path("docs/secret.txt"), std::os::unix::fs::PermissionsExt::from_mode(0o000))
        .unwrap();
    both_end(3, "secret.txt");
    fs::remove_dir_all(home.path("more")).unwrap();
    both_end(6, "more is not there");
    fs::rename(home.store(), home.path("elsewhere")).unwrap();
    both_end(10, "hikae init");
    fs::rename(home.path("elsewhere"), home.store()).unwrap();
    fs::remove_file(home.key_file()).unwrap();
    both_end(2, "main.key");
}

/// Every verb that writes, asked for what it must refuse: planned or real, it ends the same way.
#[test]
fn a_dry_run_refuses_what_the_real_call_refuses() {
    let home = Home::new();
    home.write("docs/a.txt", "one");
    home.expect(0, &["protect", "docs"]);
    let no_key = home.write_private("no.key", "nonsense").display().to_string();
    for (code, arguments) in [
        (12, &["init"][..]),
        (2, &["init", "--store", "new", "--key-file", "new.key", "--recipient", "nonsense"]),
        (2, &["recipient", "add", "nonsense"]),
        (2, &["recipient", "remove", "age1nobody", "--yes"]),
        (2, &["key", "add"]),
        (2, &["key", "add", "--new-recipient", "nonsense"]),
        (2, &["key", "remove", "ffff", "--yes"]),
        (2, &["backup", "nothing"]),
        (6, &["protect", "nothing"]),
        (2, &["drill", "nothing"]),
        (2, &["forget", "nothing"]),
        (2, &["undelete", "nothing"]),
        (2, &["restore", "nothing"]),
    ] {
        home.expect(code, &[arguments, &["--dry-run"]].concat());
        home.expect(code, arguments);
    }
    let before = everything(&home.path("data"));
    for arguments in [
        &["key", "add", "--new-key-file", "new.key"][..],
        &["key", "recovery-sheet"],
        &["recipient", "add", "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"],
        &["init", "--store", "new", "--key-file", "new.key"],
        &["protect", "docs"],
        &["backup"],
        &["prune"],
        &["forget", "--keep-last", "1"],
        &["repo", "repair"],
        &["drill"],
        &["restore", "docs"],
    ] {
        home.expect(0, &[arguments, &["--dry-run"]].concat());
    }
    assert!(before == everything(&home.path("data")), "nothing was written");
    assert!(!home.path("new.key").exists() && !home.path("new").exists());
    let said = home.expect(7, &["list", "--key-file", "docs/a.txt"]);
    assert!(said.stderr.contains("chmod 600"), "{}", said.stderr);
    home.expect(11, &["key", "add", "--new-key-file", &no_key, "--dry-run"]);
    home.expect(11, &["key", "add", "--new-key-file", &no_key]);
}
