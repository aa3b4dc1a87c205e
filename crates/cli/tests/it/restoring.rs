//! Putting files and SQLite databases back, as an administrator asks for it.

use crate::home::{Home, Ran};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

/// A home in which `docs` is protected, with a letter in a folder.
fn protected() -> Home {
    let home = Home::new();
    home.write("docs/letters/a.odt", "dear reader");
    home.write("docs/b.txt", "two");
    home.expect(0, &["protect", "docs"]);
    home
}

fn shown(home: &Home, name: &str) -> String {
    home.path(name).display().to_string()
}

#[test]
fn a_path_lands_in_the_folder_that_is_named_or_where_it_was() {
    let home = protected();
    let (letter, letters) = (shown(&home, "docs/letters/a.odt"), shown(&home, "docs/letters"));
    home.expect(0, &["restore", "docs", "--path", &letter, "--into", "one"]);
    assert_eq!(fs::read_to_string(home.path("one/a.odt")).unwrap(), "dear reader");
    home.expect(0, &["restore", "docs", "--path", &letters, "--into", "folder"]);
    assert_eq!(fs::read_to_string(home.path("folder/a.odt")).unwrap(), "dear reader");
    let text = shown(&home, "docs/b.txt");
    home.expect(0, &["restore", "docs", "--path", &letters, &text, "--into", "several"]);
    assert!(home.path("several/letters/a.odt").exists() && home.path("several/b.txt").exists());

    // In place, nothing that stands is touched unless that was asked for.
    fs::write(&letter, "scribbled over").unwrap();
    fs::write(home.path("docs/letters/new"), "stays").unwrap();
    let ran = home.expect(0, &["restore", "docs", "--path", &letters, "--in-place"]);
    assert!(ran.stdout.contains("left as they stood"), "{}", ran.stdout);
    assert_eq!(fs::read_to_string(&letter).unwrap(), "scribbled over");
    let always = ["restore", "docs", "--path", &letters, "--in-place", "--overwrite", "always"];
    home.expect(2, &always); // nobody can be asked
    home.expect(0, &[&always[..], &["--yes"]].concat());
    assert_eq!(fs::read_to_string(&letter).unwrap(), "dear reader");
    assert_eq!(fs::read_to_string(home.path("docs/letters/new")).unwrap(), "stays");
    // What is gone comes back with the folders above it, as they were.
    fs::set_permissions(home.path("docs/letters"), fs::Permissions::from_mode(0o750)).unwrap();
    home.expect(0, &["backup"]);
    fs::remove_dir_all(home.path("docs/letters")).unwrap();
    home.expect(0, &["restore", "docs", "--path", &letter, "--in-place"]);
    assert_eq!(fs::metadata(home.path("docs/letters")).unwrap().mode() & 0o777, 0o750);
    // A link that was planted on the way is not followed.
    fs::remove_dir_all(home.path("docs/letters")).unwrap();
    fs::create_dir(home.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(home.path("elsewhere"), home.path("docs/letters")).unwrap();
    home.expect(3, &["restore", "docs", "--path", &letter, "--in-place"]);
    assert_eq!(fs::read_dir(home.path("elsewhere")).unwrap().count(), 0);

    home.expect(2, &["restore", "docs", "--in-place"]);
    home.expect(2, &["restore", "docs", "--path", "/", "--in-place"]);
    let ran = home.expect(12, &["restore", "docs", "--target", "/", "--overwrite", "never"]);
    assert!(ran.stderr.contains("--in-place"), "{}", ran.stderr);
}

#[test]
fn a_further_name_comes_back_without_the_first() {
    let home = Home::new();
    home.write("docs/a/first", "content");
    fs::create_dir(home.path("docs/b")).unwrap();
    for name in ["docs/b/second", "docs/b/third"] {
        fs::hard_link(home.path("docs/a/first"), home.path(name)).unwrap();
    }
    home.expect(0, &["protect", "docs"]);
    for (more, inside) in [(["--target", "out"], shown(&home, "docs/b")), (["--into", "in"], String::new())] {
        let path = shown(&home, "docs/b");
        home.expect(0, &[&["restore", "docs", "--path", &path][..], &more].concat());
        let folder = home.path(more[1]).join(inside.trim_start_matches('/'));
        assert_eq!(fs::read_to_string(folder.join("second")).unwrap(), "content");
        let inode = |name: &str| fs::metadata(folder.join(name)).unwrap().ino();
        assert_eq!(inode("second"), inode("third"), "they are one file still");
    }
}

#[test]
fn a_path_that_is_not_there_is_said_before_anything_is_made() {
    let home = protected();
    for more in [&["--dry-run"][..], &[]] {
        let wrong = ["restore", "docs", "--path", "srv/wrong", "no/such", "--target", "out"];
        let ran = home.expect(2, &[&wrong[..], more].concat());
        assert!(ran.stderr.contains("`srv/wrong`") && ran.stderr.contains("`no/such`"), "{}", ran.stderr);
        assert!(ran.stderr.contains("hikae find"), "{}", ran.stderr);
        assert!(!home.path("out").exists());
    }
}

#[test]
fn a_name_is_given_as_it_is_shown() {
    let home = Home::new();
    home.write("docs/a", "one");
    fs::write(home.path("docs").join(OsStr::from_bytes(b"bad\xff\xfename")), "odd").unwrap();
    home.expect(0, &["protect", "docs"]);
    let shown = format!("{}/bad\\xff\\xfename", shown(&home, "docs"));
    assert!(home.expect(0, &["ls", "docs", "--recursive"]).stdout.contains("bad\\xff\\xfename"));
    home.expect(0, &["restore", "docs", "--path", &shown, "--into", "out"]);
    assert!(home.path("out").join(OsStr::from_bytes(b"bad\xff\xfename")).exists());
    assert_eq!(home.expect(0, &["cat", "docs", &shown]).stdout, "odd");
}

#[test]
fn a_planned_restore_is_refused_for_what_the_real_one_is() {
    let home = protected();
    let connection = rusqlite::Connection::open(home.path("app.db")).unwrap();
    connection.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1)").unwrap();
    drop(connection);
    home.expect(0, &["protect", "app.db"]);
    let refused: [(i32, &str, &[&str]); 6] = [
        (12, "--overwrite", &["restore", "docs", "--target", "docs"]),
        (12, "--overwrite", &["restore", "app", "--target", "app.db"]),
        (2, "is no folder", &["restore", "docs", "--target", "app.db"]),
        (12, "--in-place", &["restore", "docs", "--target", "/", "--overwrite", "always", "--yes"]),
        (2, "neither a file nor a directory", &["restore", "app", "--target", "app.db/x"]),
        (2, "means nothing", &["restore", "app", "--path", "x", "--into", "y"]),
    ];
    for (code, said, arguments) in refused {
        for more in [&["--dry-run"][..], &[]] {
            let ran = home.expect(code, &[arguments, more].concat());
            assert!(ran.stderr.contains(said), "{arguments:?}: {}", ran.stderr);
        }
    }
    // A folder that is not there is made, for a database as for files.
    for (target, place) in [("new/folder/x.db", "new/folder/x.db"), ("other/", "other/app.db")] {
        let ran = home.expect(0, &["restore", "app", "--target", target, "--dry-run"]);
        assert!(ran.stdout.contains(place) && !home.path(place).parent().unwrap().exists(), "{}", ran.stdout);
        home.expect(0, &["restore", "app", "--target", target]);
        assert!(home.path(place).exists());
    }
}

#[test]
fn a_restore_says_of_what_it_is_and_what_is_missing_from_it() {
    let home = Home::of_nobody();
    home.write("docs/a.txt", "one");
    let closed = home.write("docs/closed.txt", "two");
    home.expect(0, &["protect", "docs"]);
    let good = home.json(&["list"])["result"][0]["id"].as_str().unwrap().to_owned();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    home.expect(3, &["backup"]);

    // The name of a source means its newest complete snapshot, and says so where there is a newer one.
    let ran = home.expect(0, &["restore", "docs", "--target", "back"]);
    assert!(ran.stderr.contains("a newer, partial one exists"), "{}", ran.stderr);
    assert!(ran.stdout.contains("restored  docs, state of 20"), "{}", ran.stdout);
    let value = home.json(&["restore", "docs", "--target", "back-2"]);
    assert_eq!(value["result"]["snapshot"]["id"], good);
    let partial = value["result"]["newer_partial"].as_str().unwrap();

    let value = home.json(&["restore", partial, "--target", "back-3"]);
    let snapshot = &value["result"]["snapshot"];
    assert_eq!((&snapshot["complete"], &snapshot["n_problems"]), (&false.into(), &1.into()));
    assert!(snapshot["moment"].is_string() && value["result"]["restored"]["entries"].is_u64());
    let ran = home.expect(0, &["restore", partial, "--target", "back-4"]);
    assert!(ran.stdout.contains("(partial: 1 problem at backup)"), "{}", ran.stdout);
}

#[test]
fn a_day_chooses_among_the_snapshots_of_a_source() {
    let home = protected();
    let listed = home.json(&["list"]);
    let moment: jiff::Timestamp = listed["result"][0]["moment"].as_str().unwrap().parse().unwrap();
    let day = moment.to_zoned(jiff::tz::TimeZone::fixed(jiff::tz::offset(9))).date().to_string();
    let run = |arguments: &[&str]| -> Ran { home.run(&[&["restore", "--dry-run"], arguments].concat()) };
    assert_eq!(run(&["docs", "--date", &day]).code, Some(0));
    assert_eq!(run(&["--source", "docs", "--date", &day]).code, Some(0));
    assert_eq!(run(&["docs", "--date", "2001-01-01"]).code, Some(2));
    let near = run(&["dosc", "--date", &day]);
    assert!(near.code == Some(2) && near.stderr.contains("did you mean `docs`"), "{}", near.stderr);
    assert_eq!(run(&["latest", "--date", &day]).code, Some(2));
}

#[test]
fn what_is_replaced_is_kept_beside_if_that_was_asked_for() {
    let home = protected();
    let text = shown(&home, "docs/b.txt");
    fs::write(&text, "mine").unwrap();
    let replace = ["restore", "docs", "--path", &text, "--in-place", "--overwrite", "always", "--yes"];
    let ran = home.expect(0, &[&replace[..], &["--keep-replaced"]].concat());
    assert!(ran.stdout.contains("1 file was replaced; what stood there is kept"), "{}", ran.stdout);
    assert_eq!(fs::read_to_string(&text).unwrap(), "two");
    let names = fs::read_dir(home.path("docs")).unwrap().map(|entry| entry.unwrap().path());
    let aside: Vec<_> =
        names.filter(|path| path.to_string_lossy().contains("b.txt.before-restore-2")).collect();
    assert_eq!(fs::read_to_string(&aside[0]).unwrap(), "mine");
    let ran = home.expect(0, &replace);
    assert!(ran.stdout.contains("is gone (--keep-replaced keeps it)"), "{}", ran.stdout);
}
