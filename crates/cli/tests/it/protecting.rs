//! From nothing to a proved backup, and back.

use crate::home::Home;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

fn database(home: &Home, rows: u32) {
    let connection = rusqlite::Connection::open(home.path("notes.db")).unwrap();
    connection.execute_batch("CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY, text TEXT)").unwrap();
    for n in 0..rows {
        connection.execute("INSERT INTO note (text) VALUES (?1)", [format!("note {n}")]).unwrap();
    }
}

/// Keeps MK-11, MK-21, MK-41, EC-18.
#[test]
fn one_command_leads_to_a_backup_that_was_restored() {
    let home = Home::new();
    home.write("docs/a.txt", "one");
    database(&home, 25);
    let ran = home.expect(0, &["protect", "docs", "notes.db"]);
    for said in ["restored  docs", "restored  notes", "1 table with 25 rows", "Keep a copy of"] {
        assert!(ran.stdout.contains(said), "{said} is missing in {}", ran.stdout);
    }
    for made in ["key file", "configuration", "repository", "recovery sheet"] {
        assert!(ran.stderr.contains(made), "{made} is missing in {}", ran.stderr);
    }
    let listed = home.json(&["list"]);
    assert_eq!(listed["result"].as_array().unwrap().len(), 2);
    assert!(listed["result"].as_array().unwrap().iter().all(|one| one["drill_passed"] == true));
}

/// Keeps MK-80, RS-12, EC-9.
#[test]
fn a_second_protect_stores_what_changed_and_adds_what_is_new() {
    let home = Home::new();
    home.write("docs/big", vec![7; 3 << 20]);
    home.expect(0, &["protect", "docs"]);
    home.write("docs/small", "new");
    home.write("more/b.txt", "two");
    let second = home.json(&["protect", "docs", "more"]);
    assert_eq!(second["result"]["added"], serde_json::json!(["more"]));
    let docs = &second["result"]["backup"]["snapshots"][0];
    assert_eq!(docs["source"], "docs");
    assert_eq!(docs["read_bytes"], 3, "only the new file is read");
    assert!(docs["added_bytes"].as_u64().unwrap() < 64 << 10, "{docs}");
    let config = fs::read_to_string(home.path("config/hikae/config.toml")).unwrap();
    assert_eq!(config.matches("[source.").count(), 2);
}

#[test]
fn a_first_call_uses_the_configuration_and_the_store_that_it_is_given() {
    let home = Home::new();
    home.write("docs/a.txt", "one");
    let first = ["protect", "docs", "--config", "own.toml", "--store", "disk"];
    let planned = home.expect(0, &[&first[..], &["--dry-run"]].concat()).stdout;
    for place in ["own.toml", "disk"].map(|name| home.path(name).display().to_string()) {
        assert!(planned.contains(&place), "{place} is missing in {planned}");
    }
    assert!(!home.path("own.toml").exists() && !home.path("disk").exists());
    home.expect(0, &first);
    assert!(
        home.path("own.toml").exists() && home.path("disk/hikae.json").exists() && !home.store().exists()
    );
    home.expect(0, &["protect", "--config", "own.toml"]);
    assert_eq!(home.json(&["list", "--config", "own.toml"])["result"].as_array().unwrap().len(), 2);
}

#[test]
fn a_home_that_holds_its_own_repository_does_not_grow_by_it() {
    let home = Home::new();
    home.write("docs/a.txt", "one");
    home.write("docs/b.tmp", "two");
    // Of a drill that was killed; a folder of the same name elsewhere is somebody else's.
    home.write("hikae-drill-dead/restored/a.txt", "one");
    home.write("docs/hikae-drill-notes/c.txt", "three");
    let all = home.path("").display().to_string();
    let first = home.json(&["protect", &all, "--exclude", "*.tmp", "--exclude", "/output"]);
    let snapshot = |ran: &serde_json::Value| ran["result"]["backup"]["snapshots"][0].clone();
    let notes = snapshot(&first)["notes"].as_array().unwrap().clone();
    assert!(notes.iter().all(|note| note["code"] == "own-directory"), "{notes:?}");
    for own in ["data/hikae/main", "cache/hikae", "hikae-drill-dead"] {
        assert!(notes.iter().any(|note| note["on"].as_str().unwrap().ends_with(own)), "{own}: {notes:?}");
    }
    let listed = home.expect(0, &["ls", "latest", "--recursive"]).stdout;
    for kept in ["docs/a.txt", "docs/hikae-drill-notes/c.txt", "data/hikae/main\n", "main.key"] {
        assert!(listed.contains(kept), "{kept} is missing in {listed}");
    }
    for left_out in ["b.tmp", "hikae.json", "packs", "restored"] {
        assert!(!listed.contains(left_out), "{left_out} is in {listed}");
    }
    let entries = |ran: &serde_json::Value| snapshot(ran)["entries"].as_u64().unwrap();
    let (second, third) = (home.json(&["protect"]), home.json(&["protect"]));
    assert_eq!(entries(&second), entries(&third), "it does not grow by what it wrote");
    assert!(home.expect(0, &["config", "check"]).stdout.contains("main, which hikae fills itself"));
    let again = home.expect(2, &["protect", &all, "--exclude", "*.bak"]);
    assert!(again.stderr.contains("is in the configuration already"), "{}", again.stderr);
}

/// Keeps MK-35, MK-36, IN-26, IN-44, IN-45, IN-46, IN-48, IN-76.
#[test]
fn what_was_protected_is_found_looked_at_and_restored() {
    let home = Home::new();
    home.write("docs/letter.txt", "dear reader\n");
    home.expect(0, &["protect", "docs"]);
    let inside = format!("{}/docs", home.path("").display());
    let inside = inside.trim_start_matches('/').replace("//", "/");
    assert!(home.expect(0, &["ls", "docs", &inside]).stdout.contains("letter.txt"));
    assert!(home.expect(0, &["find", "letter"]).stdout.contains("in 1 snapshot"));
    let content = home.expect(0, &["cat", "docs", &format!("{inside}/letter.txt")]);
    assert_eq!(content.stdout, "dear reader\n");

    home.write("docs/letter.txt", "dear reader, again\n");
    home.expect(0, &["backup", "--type", "daily", "--description", "before the upgrade"]);
    let listed = home.json(&["list"]);
    let newest = &listed["result"][0];
    assert_eq!(
        (newest["purpose"].as_str(), newest["description"].as_str()),
        (Some("daily"), Some("before the upgrade"))
    );
    assert_eq!(listed["result"][1]["purpose"], "manual", "it did not say what for");
    let first = listed["result"][1]["id"].as_str().unwrap();
    assert!(home.expect(0, &["diff", first, "docs"]).stdout.contains("content"));

    // Without a snapshot, restore lists; with a bare name it restores the latest into a new folder.
    assert!(home.expect(0, &["restore"]).stdout.contains("docs"));
    home.expect(0, &["restore", "docs", "--target", "back"]);
    let restored = fs::read_to_string(home.path("back").join(format!("{inside}/letter.txt"))).unwrap();
    assert_eq!(restored, "dear reader, again\n");
    let letter = format!("/{inside}/letter.txt");
    home.expect(0, &["restore", first, "--path", &letter, "--target", "first"]);
    let restored = fs::read_to_string(home.path("first").join(format!("{inside}/letter.txt"))).unwrap();
    assert_eq!(restored, "dear reader\n");
    let today = newest["moment"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let today = today.to_zoned(jiff::tz::TimeZone::get("Asia/Tokyo").unwrap()).date().to_string();
    home.expect(0, &["restore", "--source", "docs", "--date", &today, "--target", "dated"]);
    home.expect(2, &["restore", "--source", "docs", "--date", "2001-01-01", "--target", "never"]);
}

/// Keeps G-7, MK-31.
#[test]
fn a_database_is_put_back_beside_what_is_kept_aside() {
    let home = Home::new();
    database(&home, 10);
    home.expect(0, &["protect", "notes.db"]);
    database(&home, 5);
    let target = home.path("notes.db").display().to_string();
    home.expect(12, &["restore", "notes", "--target", &target]);
    home.expect(0, &["restore", "notes", "--target", &target, "--overwrite", "always", "--yes"]);
    let rows = |path: &std::path::Path| -> u32 {
        let connection = rusqlite::Connection::open(path).unwrap();
        connection.query_row("SELECT count(*) FROM note", [], |row| row.get(0)).unwrap()
    };
    assert_eq!(rows(&home.path("notes.db")), 10);
    let mut beside = fs::read_dir(home.path("")).unwrap().map(|entry| entry.unwrap().path());
    let aside = beside.find(|path| path.to_string_lossy().contains("notes.db.before-restore-")).unwrap();
    assert_eq!(rows(&aside), 15);
}

/// Keeps, MK-65.
#[test]
fn the_recovery_sheet_alone_opens_the_repository_on_a_fresh_machine() {
    let home = Home::new();
    home.write("docs/a.txt", "one");
    home.expect(0, &["protect", "docs"]);
    let mut made = fs::read_dir(home.path("data/hikae")).unwrap().map(|entry| entry.unwrap().path());
    let sheet = made.find(|path| path.extension().is_some_and(|end| end == "txt")).unwrap();
    let fresh = Home::new();
    let (store, sheet) = (home.store().display().to_string(), sheet.display().to_string());
    let recovery = ["--store", &store, "--recovery", &sheet];
    fresh.expect(0, &[&["list"][..], &recovery].concat());
    fresh.expect(0, &[&["restore", "docs", "--target", "back"][..], &recovery].concat());
    fresh.expect(0, &[&["verify", "--read-data"][..], &recovery].concat());
    // A key that is lost is replaced with the sheet, even when all key slots are gone.
    for slot in fs::read_dir(home.store().join("keys")).unwrap() {
        let slot = slot.unwrap().path();
        if fs::metadata(&slot).unwrap().len() < 300 {
            fs::remove_file(slot).unwrap();
        }
    }
    fresh.expect(0, &[&["key", "add", "--new-key-file", "new.key"][..], &recovery].concat());
    fresh.expect(0, &["list", "--store", &store, "--key-file", "new.key"]);
}

#[test]
fn forgotten_snapshots_come_back_until_their_space_is_freed() {
    let home = Home::new();
    for n in 0..3 {
        home.write("docs/a.txt", format!("version {n}"));
        home.expect(0, &["protect", "docs"]);
    }
    let plan = home.json(&["forget", "--keep-last", "1", "--dry-run"]);
    assert_eq!(plan["result"][0]["snapshots"].as_array().unwrap().len(), 3);
    assert_eq!(home.json(&["list"])["result"].as_array().unwrap().len(), 3, "a dry run forgets nothing");
    home.expect(0, &["forget", "--keep-last", "1"]);
    assert_eq!(home.json(&["list"])["result"].as_array().unwrap().len(), 1);
    let forgotten = home.json(&["undelete"]);
    let id = forgotten["result"][0]["id"].as_str().unwrap();
    home.expect(0, &["prune", "--soft", "1d", "--orphan-grace", "0s"]);
    home.expect(0, &["undelete", id]);
    home.expect(0, &["restore", id, "--target", "back"]);
    home.expect(0, &["verify", "--read-data"]);
}

#[test]
fn what_was_damaged_is_mended_by_repair_and_the_next_backup() {
    // One pack holds content, the other metadata.
    for damaged in 0..2 {
        let home = Home::new();
        home.write("docs/a.txt", "one".repeat(1000));
        home.expect(0, &["protect", "docs"]);
        let mut packs = packs(&home);
        packs.sort();
        assert_eq!(packs.len(), 2);
        let pack = &packs[damaged];
        let mut bytes = fs::read(pack).unwrap();
        bytes[20] ^= 1;
        fs::set_permissions(pack, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(pack, &bytes).unwrap();
        home.expect(4, &["verify", "--read-data"]);
        home.expect(4, &["repo", "repair", "--read-data", "--dry-run"]);
        home.run(&["repo", "repair", "--read-data"]);
        assert_eq!(
            fs::read(pack).unwrap(),
            bytes,
            "repair deletes nothing and changes nothing that is there"
        );
        // Nothing of the source has changed, and what was damaged is stored again all the same.
        home.expect(0, &["backup"]);
        home.expect(0, &["protect"]);
        home.expect(0, &["restore", "docs", "--target", "back"]);
        // What the source does not bring back, the list of entries as they were then, is let go as the hint says.
        let verified = home.run(&["verify", "--read-data"]);
        if let Some((_, rest)) = verified.stdout.split_once("hikae forget ") {
            let id = rest.split('`').next().unwrap();
            home.expect(0, &["forget", id]);
        }
        // What is known and harms nothing is no failure, neither while the pack stays nor once it is doomed.
        for prune in [false, true] {
            if prune {
                home.expect(0, &["prune"]);
            }
            let verified = home.expect(0, &["verify", "--read-data"]);
            assert!(verified.stdout.contains("as is known"), "{}", verified.stdout);
            assert!(home.expect(0, &["repo", "repair"]).stdout.contains("nothing to repair"));
        }
    }
}

/// Keeps IN-51.
#[test]
fn space_is_told_by_source_and_kind() {
    let home = Home::new();
    // Bytes that do not compress, so that stored and unique can be compared.
    let noise: Vec<u8> =
        (0_u64..400_000).map(|n| (n.wrapping_mul(n) >> 7 ^ n.wrapping_mul(0x9e37_79b9)) as u8).collect();
    home.write("docs/noise", &noise);
    home.write("copy/noise", &noise);
    home.expect(0, &["protect", "docs", "copy"]);
    home.expect(0, &["backup"]);
    let stats = home.json(&["repo", "stats"]);
    let of = |name: &str, what: &str| stats["result"]["sources"][name][what].as_u64().unwrap();
    for source in ["docs", "copy"] {
        assert_eq!(of(source, "snapshots"), 2);
        assert_eq!(of(source, "restored_bytes"), 800_000);
        assert!((400_000..410_000).contains(&of(source, "unique_bytes")));
    }
    let total = &stats["result"]["total"];
    assert_eq!(total["restored_bytes"], 1_600_000);
    assert!(total["unique_bytes"].as_u64().unwrap() < 420_000, "two sources share what is the same: {total}");
    assert_eq!(stats["result"]["kinds"]["files"]["restored_bytes"], 1_600_000);
}

/// Keeps L-3, MK-58, MK-59, EC-83, IN-86.
#[test]
fn every_file_is_made_for_its_owner_alone_whatever_the_umask() {
    for umask in ["000", "077"] {
        let home = Home::new();
        home.write("docs/a.txt", "one");
        assert!(with_umask(&home, umask, &["protect", "docs"]).status.success());
        for made in ["config/hikae", "data/hikae", "cache/hikae"] {
            check_private(&home.path(made), umask);
        }
    }
}

fn check_private(path: &std::path::Path, umask: &str) {
    let mode = fs::symlink_metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode & 0o077, 0, "{} has mode {mode:o} under umask {umask}", path.display());
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| check_private(&entry.unwrap().path(), umask));
    }
}

/// The packs of a repository that hold metadata or content.
fn packs(home: &Home) -> Vec<std::path::PathBuf> {
    let directories = fs::read_dir(home.store().join("packs")).unwrap();
    let packs = directories.flat_map(|entry| fs::read_dir(entry.unwrap().path()).unwrap());
    packs.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_parent_that_cannot_be_read_is_said_and_leaves_the_new_snapshot_whole() {
    let mut n_said = 0;
    for source in ["docs", "notes.db"] {
        for at in 0..2 {
            let home = Home::new();
            home.write("docs/a.txt", "one".repeat(1000));
            database(&home, 100);
            home.expect(0, &["protect", source]);
            let mut packs = packs(&home);
            packs.sort_by_key(|pack| fs::metadata(pack).unwrap().len());
            let pack = &packs[at];
            // In every frame, for which of them holds the listing is left to chance.
            let mut bytes = fs::read(pack).unwrap();
            bytes.iter_mut().skip(20).step_by(60).for_each(|byte| *byte ^= 1);
            fs::set_permissions(pack, fs::Permissions::from_mode(0o600)).unwrap();
            fs::write(pack, &bytes).unwrap();
            let ran = home.json(&["backup"]);
            let snapshot = &ran["result"]["snapshots"][0];
            assert_eq!((&snapshot["outcome"], &snapshot["n_problems"]), (&"complete".into(), &0.into()));
            if snapshot["notes"].as_array().unwrap().is_empty() {
                continue; // it was content that is damaged, which a backup does not look at
            }
            n_said += 1;
            assert_eq!(snapshot["notes"][0]["code"], "parent-unreadable");
            let id = snapshot["id"].as_str().unwrap();
            home.expect(0, &["restore", id, "--target", "back"]);
        }
    }
    assert_eq!(n_said, 2, "once a source");
}

#[test]
fn a_recovery_sheet_that_was_not_written_is_written_by_the_next_call() {
    let sheets = |home: &Home| {
        let names = fs::read_dir(home.path("data/hikae")).into_iter().flatten();
        let names = names.map(|name| name.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("recovery-sheet")).collect::<Vec<_>>()
    };
    for again in [&["init"][..], &["protect", "docs"]] {
        let home = Home::new();
        home.write("docs/a.txt", "one");
        let store = home.store().display().to_string();
        let (key, docs) = (home.key_file().display().to_string(), home.path("docs").display().to_string());
        home.configure(&format!(
            "[repository.main]\nstore = '{store}'\nunlock = {{ key_file = '{key}' }}\n\
             [source.docs]\nkind = 'files'\ninclude = ['{docs}']\n"
        ));
        fs::create_dir_all(home.path("data/hikae")).unwrap();
        // Where the sheet should go there is a file, so the call ends between the repository and its sheet.
        let file = home.write("in-the-way", "").display().to_string();
        assert_ne!(home.run(&["init", "--key-file", &key, "--sheet", &file]).code, Some(0));
        assert!(home.store().join("hikae.json").exists());
        assert_eq!(sheets(&home), ["recovery-sheets-due"]);

        let ran = home.expect(0, again);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(said.contains("ecovery sheet") && said.contains(".html"), "{said}");
        assert_eq!(sheets(&home).len(), 2, "text and page, and nothing is due: {:?}", sheets(&home));
        // Once is enough, and it is the right one.
        let sheet = sheets(&home).into_iter().find(|name| name.ends_with(".txt")).unwrap();
        let sheet = home.path("data/hikae").join(sheet).display().to_string();
        Home::new().expect(0, &["list", "--store", &store, "--recovery", &sheet]);
        home.expect(0, &["protect", "docs"]);
        home.expect(12, &["init"]);
        assert_eq!(sheets(&home).len(), 2);
    }
}

/// The program with this file mode mask.
fn with_umask(home: &Home, umask: &str, arguments: &[&str]) -> std::process::Output {
    let command = home.command(arguments);
    let set_umask = home.write("set-umask", format!("umask {umask}\nexec \"$@\"\n"));
    let mut shell = std::process::Command::new("/bin/bash");
    shell.arg(set_umask).arg(command.get_program()).args(command.get_args()).current_dir(home.path(""));
    shell.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.output().unwrap()
}

#[test]
fn a_hook_runs_with_the_mask_of_whoever_called() {
    let home = Home::new();
    home.write("docs/a.txt", "one");
    home.expect(0, &["protect", "docs"]);
    let made = home.path("made-by-the-hook");
    let config = home.path("config/hikae/config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}\nhooks = {{ before = [['touch', '{}']] }}\n", made.display()))
        .unwrap();
    for (umask, mode) in [("022", 0o644), ("027", 0o640), ("000", 0o666)] {
        let output = with_umask(&home, umask, &["backup"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(fs::metadata(&made).unwrap().mode() & 0o777, mode, "umask {umask}");
        fs::remove_file(&made).unwrap();
    }
}

#[test]
fn what_killed_calls_left_in_the_cache_is_reclaimed() {
    let home = Home::new();
    home.write("docs/a.txt", "one");
    home.expect(0, &["protect", "docs"]);
    let cache = fs::read_dir(home.path("cache/hikae")).unwrap().next().unwrap().unwrap().path();
    // No process has a number above 2^22.
    let (dead, own) = (5_000_000, std::process::id());
    let index = "ab".repeat(32);
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    let write = |name: String, is_old: bool| {
        let file = fs::File::create(cache.join(&name)).unwrap();
        if is_old {
            file.set_modified(old).unwrap();
        }
        cache.join(name)
    };
    let litter = [write(format!("head.{dead}.tmp"), true), write(format!("index/{index}.{dead}.tmp"), true)];
    let in_use = [write(format!("head.{own}.tmp"), true), write(format!("head.{}.tmp", dead + 1), false)];
    home.expect(0, &["list"]);
    assert!(litter.iter().all(|file| !file.exists()));
    assert!(in_use.iter().all(|file| file.exists()));
}

#[test]
fn every_part_of_a_drill_is_timed_its_cleaning_up_too() {
    let home = Home::new();
    home.write("docs/a.txt", "one");
    home.expect(0, &["protect", "docs"]);
    let drill = &home.json(&["drill"])["result"]["drills"][0];
    let phases = drill["phases"].as_array().unwrap();
    let names: Vec<_> = phases.iter().map(|phase| phase["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["restore", "compare", "remove"]);
}

#[test]
fn a_drill_makes_the_whole_check_that_a_backup_leaves_out() {
    let home = Home::new();
    database(&home, 20);
    home.expect(0, &["protect", "notes.db"]);
    let drill = home.json(&["drill"]);
    let checks = drill["result"]["drills"][0]["checks"].as_array().unwrap();
    let names: Vec<_> = checks.iter().map(|check| check["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"quick_check") && names.contains(&"integrity_check"), "{names:?}");
    // An index with an old value: every page is well formed, and a backup keeps it as it is.
    let sql = |sql: &str| {
        rusqlite::Connection::open(home.path("notes.db")).unwrap().execute_batch(sql).unwrap();
    };
    sql("CREATE INDEX by_text ON note (text)");
    sql(
        "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET tbl_name = tbl_name, type = 'gone' WHERE name = 'by_text'; \
         CREATE TABLE kept AS SELECT rootpage FROM sqlite_schema WHERE name = 'by_text'; \
         DELETE FROM sqlite_schema WHERE name = 'by_text'",
    );
    sql("UPDATE note SET text = 'not in the index' WHERE id = 7");
    sql("PRAGMA writable_schema = ON; INSERT INTO sqlite_schema \
         SELECT 'index', 'by_text', 'note', rootpage, 'CREATE INDEX by_text ON note (text)' FROM kept");
    home.expect(0, &["backup"]);
    let ran = home.expect(4, &["drill"]);
    assert!(ran.stdout.contains("integrity_check") && ran.stdout.contains("REINDEX"), "{}", ran.stdout);
    home.expect(0, &["restore", "notes", "--target", "back.db"]);
}
