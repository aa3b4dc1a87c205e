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
