//! What programs read: one object, or events.

use crate::home::Home;
use serde_json::Value;

/// Keeps IN-51.
#[test]
fn every_verb_prints_one_object() {
    let home = Home::new();
    home.write("docs/a.txt", "one");
    let inside = home.path("docs/a.txt").display().to_string();
    for arguments in [
        &["protect", "docs"][..],
        &["backup"],
        &["list"],
        &["show", "docs"],
        &["ls", "docs"],
        &["find", "a"],
        &["diff", "docs", "docs"],
        &["verify"],
        &["drill"],
        &["restore"],
        &["restore", "docs", "--target", "back"],
        &["forget", "--keep-last", "1", "--dry-run"],
        &["undelete"],
        &["prune", "--dry-run"],
        &["prune"],
        &["key", "list"],
        &["recipient", "list"],
        &["repo", "stats"],
        &["repo", "info"],
        &["repo", "repair"],
        &["doctor"],
        &["config", "check"],
        &["config", "test"],
        &["config", "show"],
        &["config", "schema"],
        &["config", "diff"],
    ] {
        let ran = home.expect(0, &[arguments, &["--json"]].concat());
        let value: Value =
            serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
        assert_eq!((value["status"].as_str(), value["exit_code"].as_u64()), (Some("ok"), Some(0)));
        let named = value["command"].as_str().unwrap();
        assert!(!named.is_empty() && arguments.join(" ").starts_with(named), "{arguments:?}: {named}");
        assert_eq!(value["warnings"], serde_json::json!([]));
        assert!(value.get("result").is_some(), "{arguments:?}");
        assert_eq!(ran.stderr, "", "{arguments:?}");
    }
    assert_eq!(home.expect(0, &["cat", "docs", &inside]).stdout, "one");
}

/// Keeps MK-20.
#[test]
fn a_listing_says_of_every_object_what_a_manifest_must() {
    let home = Home::new();
    home.write("docs/a.txt", "one");
    home.write("docs/b.txt", "one");
    home.write("docs/large", vec![7; 3 << 20]);
    home.expect(0, &["protect", "docs"]);
    let list = |home: &Home| {
        let listed = home.json(&["ls", "docs", "--recursive"])["result"].as_array().unwrap().clone();
        let files: Vec<Value> = listed.into_iter().filter(|entry| entry["kind"] == "file").collect();
        assert_eq!(files.len(), 3);
        files
    };
    let files = list(&home);
    for file in &files {
        assert!(["path", "mode", "uid", "gid", "bytes", "modified"].iter().all(|key| !file[key].is_null()));
        assert_eq!(file["hash"].as_str().map(str::len), Some(64), "{file}");
    }
    assert_eq!(files[0]["hash"], files[1]["hash"], "the same content has the same hash");
    assert_ne!(files[0]["hash"], files[2]["hash"]);
    home.write("docs/b.txt", "two");
    home.expect(0, &["backup"]);
    let later = list(&home);
    assert_eq!((&later[0]["hash"], &later[2]["hash"]), (&files[0]["hash"], &files[2]["hash"]));
    assert_ne!(later[1]["hash"], files[1]["hash"]);
}

#[test]
fn an_error_is_an_object_with_a_stable_code() {
    let home = Home::new();
    let ran = home.expect(2, &["list", "--json"]);
    let value: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(value["error"]["code"], "usage");
    assert!(value["error"]["message"].as_str().unwrap().contains("no configuration"));
    assert!(value["error"]["hint"].is_string());
}

/// Keeps MK-7, EC-12, EC-13.
#[test]
fn events_end_with_the_result_or_the_error() {
    let home = Home::new();
    home.write("docs/a.txt", "one");
    let events = |code: i32, arguments: &[&str]| -> Vec<Value> {
        let ran = home.expect(code, &[arguments, &["--json-lines"]].concat());
        ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let last = events(0, &["protect", "docs"]).pop().unwrap();
    assert_eq!((last["event"].as_str(), last["status"].as_str()), (Some("result"), Some("ok")));
    let listed = events(0, &["ls", "docs"]);
    assert!(listed.iter().any(|event| event["event"] == "entry"));
    let last = events(2, &["restore", "nothing"]).pop().unwrap();
    assert_eq!((last["event"].as_str(), last["code"].as_str()), (Some("exit_error"), Some("usage")));
    assert!(last["message"].is_string());
}

#[test]
fn a_hostile_name_is_shown_and_moves_no_cursor() {
    let home = Home::new();
    home.write("docs/red\u{1b}[31m\r\u{202e}txt", "one");
    home.expect(0, &["protect", "docs", "--description", "\u{1b}]0;title\u{7}\u{202e}"]);
    for arguments in [&["ls", "docs", "-r"][..], &["find", "red"], &["list"], &["show", "docs"], &["restore"]]
    {
        let ran = home.expect(0, arguments);
        let odd = ran.stdout.chars().find(|c| c.is_control() && *c != '\n' || *c == '\u{202e}');
        assert_eq!(odd, None, "{arguments:?}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let home = Home::new();
    home.write("docs/big", vec![b'x'; 8 << 20]);
    home.expect(0, &["protect", "docs"]);
    let inside = home.path("docs/big").display().to_string();
    let mut child =
        home.command(&["cat", "docs", &inside]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut start = [0; 10];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut start).unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_command_line_that_cannot_be_is_an_object_too() {
    let home = Home::new();
    for arguments in [&["list", "--json", "--nope"][..], &["--json", "lsit"], &["cat", "--json"]] {
        let ran = home.expect(2, arguments);
        let value: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!((&value["error"]["code"], &value["exit_code"]), (&"usage".into(), &2.into()));
        assert!(!value["error"]["message"].as_str().unwrap().starts_with("error:"), "{value}");
        assert_eq!(ran.stderr, "");
    }
    let ran = home.expect(2, &["list", "--json-lines", "--nope"]);
    assert_eq!(serde_json::from_str::<Value>(&ran.stdout).unwrap()["event"], "exit_error");
    assert!(home.expect(0, &["list", "--help", "--json"]).stdout.contains("Usage:"));
    assert!(home.expect(2, &["list", "--nope"]).stderr.contains("--nope"));
}

#[test]
fn warnings_are_part_of_the_object() {
    let home = Home::new();
    home.configure(
        "[repository.main]\nstore = '/a'\n[source.a]\nkind = 'files'\ninclude = ['/srv/a']\nexclude = ['/srv/a/tmp']\n",
    );
    let value = home.json(&["config", "check"]);
    let warning = &value["warnings"][0];
    assert!(warning["message"].as_str().unwrap().contains("`/srv/a/tmp` matches nothing"), "{value}");
    assert_eq!(warning["hint"], "write \"/tmp\"");
}

#[test]
fn each_fault_of_a_configuration_has_its_own_hint() {
    let home = Home::new();
    home.configure("[repository.main]\nstroe = '/a'\n[source.a]\nkind = 'fils'\ninclude = ['/srv/a']\n");
    let said = home.expect(2, &["config", "check"]).stderr;
    for hint in ["line 2: did you mean `store`?", "line 4: did you mean `files`?"] {
        assert!(said.contains(hint), "{said}");
    }
}

#[test]
fn a_backup_tells_its_steps_in_order_to_who_asks() {
    let home = Home::new();
    let database = rusqlite::Connection::open(home.path("notes.db")).unwrap();
    database.execute_batch("CREATE TABLE note (text); INSERT INTO note VALUES ('one')").unwrap();
    home.expect(0, &["protect", "notes.db"]);
    let told = home.expect(0, &["backup", "--json-lines"]).stdout;
    let events: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps: Vec<&Value> = events.iter().filter(|event| event["event"] == "step").collect();
    let names: Vec<&str> = steps.iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(names, ["free space", "begun", "size", "read", "stored", "committed"]);
    let is_whole = |step: &&Value| step["time"].is_string() && !step["what"].as_str().unwrap().is_empty();
    assert!(steps.iter().all(is_whole), "{told}");
    assert_eq!(events.last().unwrap()["event"], "result");

    let told = home.expect(0, &["backup", "-v"]).stderr;
    assert!(told.contains("  size notes: ") && told.contains("  committed: run "), "{told}");
    assert!(!home.expect(0, &["backup"]).stderr.contains("committed"), "nobody asked");
    let drill = home.expect(0, &["drill", "-v"]);
    assert!(drill.stderr.contains("  verified notes: restored, "), "{}", drill.stderr);
    assert!(drill.stdout.contains("checked: bytes of the file, "), "{}", drill.stdout);
}
