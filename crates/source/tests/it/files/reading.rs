//! What a backup of files lists, reads and reports.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::Duration;

use hikae_model::{Advise, ContentError, EntryKind, ErrorCode, HashKey, Stretch};
use hikae_source::files::{FilesSettings, FilesSource, Include, Neighbours};
use hikae_source::{Item, Source, SourceError};
use hikae_testkit::{not_run, test_cx};
use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};

use super::{NOBODY, Piece, World, as_nobody, is_root, read_all, read_all_of, read_content, settings};

fn names(world: &World, settings: FilesSettings) -> Vec<String> {
    let prefix = format!("{}/", world.source().strip_prefix("/").unwrap().display());
    let snapshot = read_all(settings);
    snapshot.paths().iter().filter_map(|path| path.strip_prefix(&prefix).map(str::to_owned)).collect()
}

#[test]
fn entries_come_in_path_order_with_their_ancestors() {
    let world = World::new();
    for name in ["a/z", "a.b", "a-", "a/b/c", "b"] {
        world.write(name, name);
    }
    let snapshot = read_all(settings(&world.source()));
    let listed: Vec<_> = snapshot.kept.iter().map(|kept| kept.entry.path.clone()).collect();
    let mut sorted = listed.clone();
    sorted.sort();
    assert_eq!(listed, sorted);
    assert_eq!(names(&world, settings(&world.source())), ["a", "a/b", "a/b/c", "a/z", "a-", "a.b", "b"]);
    // Every directory above the include is listed, so that a restore can make it as it was.
    let ancestors = world.source().strip_prefix("/").unwrap().components().count();
    assert_eq!(listed.len(), ancestors + 7);
    assert!(snapshot.problems.is_empty());
}

#[test]
fn includes_that_overlap_are_listed_once() {
    let world = World::new();
    for name in ["a/b/c", "a/d", "e/f", "e/g", "h"] {
        world.write(name, name);
    }
    let include = ["a/b", "a", "e/g", "a/b/c"].map(|name| Include::from(world.source().join(name)));
    let settings = FilesSettings { include: include.into(), ..FilesSettings::default() };
    assert_eq!(names(&world, settings), ["a", "a/b", "a/b/c", "a/d", "e", "e/g"]);
}

#[test]
fn an_include_behind_links_is_listed_with_the_links() {
    let world = World::new();
    world.write("releases/42/app", "42");
    symlink("releases/42", world.source().join("current")).unwrap();
    symlink(world.source(), world.scratch.path().join("srv")).unwrap();
    let snapshot = read_all(settings(&world.scratch.path().join("srv/current")));
    let at = |path: &str| &snapshot.at(&world.scratch.path().join(path)).entry.kind;
    assert!(matches!(at("srv"), EntryKind::Symlink { .. }));
    assert_eq!(*at("source/current"), EntryKind::Symlink { target: b"releases/42".to_vec() });
    assert_eq!(*at("source/releases/42/app"), EntryKind::File { size: 2 });
}

#[test]
fn excludes_are_as_in_gitignore_and_relative_to_each_include() {
    let world = World::new();
    for name in
        ["one/a.log", "one/keep.log", "one/cache/x", "one/sub/cache/y", "one/top", "two/top", "two/sub/top"]
    {
        world.write(name, name);
    }
    let patterns = world.scratch.path().join("patterns");
    fs::write(&patterns, "# caches\ncache/\n").unwrap();
    let settings = FilesSettings {
        include: ["one", "two"].map(|name| Include::from(world.source().join(name))).into(),
        exclude: ["*.log", "!keep.log", "/top"].map(str::to_owned).into(),
        exclude_file: Some(patterns),
        ..FilesSettings::default()
    };
    assert_eq!(names(&world, settings), ["one", "one/keep.log", "one/sub", "two", "two/sub", "two/sub/top"]);
}

#[test]
fn an_include_inside_what_is_excluded_is_still_read() {
    let world = World::new();
    for name in ["a/x/y/z", "a/x/other", "a/w"] {
        world.write(name, name);
    }
    let settings = FilesSettings {
        include: ["a", "a/x/y"].map(|name| Include::from(world.source().join(name))).into(),
        exclude: vec!["x".to_owned()],
        ..FilesSettings::default()
    };
    assert_eq!(names(&world, settings), ["a", "a/w", "a/x", "a/x/y", "a/x/y/z"]);
}

#[test]
fn what_hikae_fills_itself_is_left_out_whatever_leads_there() {
    let world = World::new();
    for name in
        ["data/store/pack", "data/other", "tmp/hikae-drill-1/copy", "tmp/mine", "docs/hikae-drill-1/a"]
    {
        world.write(name, name);
    }
    symlink("data/store", world.source().join("link")).unwrap();
    let neighbours = Neighbours {
        own: vec![world.source().join("link"), world.source().join("not-there")],
        own_beginnings: vec![(world.source().join("tmp"), "hikae-drill-")],
        databases: Vec::new(),
    };
    let source = FilesSource::beside(neighbours, settings(&world.source())).unwrap();
    let snapshot = read_all_of(&source);
    let listed = snapshot.paths();
    let has = |end: &str| listed.iter().any(|path| path.ends_with(end));
    for kept in ["data/store", "data/other", "link", "tmp/hikae-drill-1", "tmp/mine", "docs/hikae-drill-1/a"]
    {
        assert!(has(kept), "{kept} is missing in {listed:?}");
    }
    assert!(!has("pack") && !has("copy"), "{listed:?}");
    let notes: Vec<_> = snapshot.notes.iter().map(|note| &*note.code).collect();
    assert_eq!(notes, ["own-directory"; 2]);
    assert!(snapshot.problems.is_empty());
}

/// Keeps IN-7.
#[test]
fn an_open_database_among_files_is_named() {
    let world = World::new();
    let header = b"SQLite format 3\0 and more";
    for (name, content) in [
        ("open.db", &header[..]),
        ("open.db-wal", b""),
        ("changing.db", header),
        ("changing.db-journal", b"x"),
        ("idle.db", header),
        ("idle.db-journal", b""),
        ("covered.db", header),
        ("covered.db-wal", b""),
        ("text", b"no database at all"),
        ("text-wal", b"x"),
        ("alone-wal", b"x"),
    ] {
        world.write(name, content);
    }
    let neighbours =
        Neighbours { databases: vec![world.source().join("covered.db")], ..Neighbours::default() };
    let snapshot = read_all_of(&FilesSource::beside(neighbours, settings(&world.source())).unwrap());
    let named: Vec<_> =
        snapshot.notes.iter().map(|note| note.on.rsplit('/').next().unwrap().to_owned()).collect();
    assert_eq!(named, ["changing.db", "open.db"]);
    assert!(snapshot.notes[0].advice.as_ref().unwrap().contains("kind sqlite"));
}

/// Keeps MK-19, EC-44.
#[test]
fn only_files_newer_than_the_limit_are_read() {
    let world = World::new();
    let now = test_cx().now();
    for (name, days) in [("logs/today", 0), ("logs/six", 6), ("logs/eight", 8), ("old/file", 400)] {
        let file = File::create(world.write(name, name)).unwrap();
        file.set_modified((now - Duration::from_secs(days * 86_400)).into()).unwrap();
    }
    let settings = FilesSettings { newer_than: Some("7d".to_owned()), ..settings(&world.source()) };
    assert_eq!(names(&world, settings), ["logs", "logs/six", "logs/today", "old"]);
}

#[test]
fn a_missing_include_is_a_problem_unless_it_is_optional_and_an_error_if_nothing_is_there() {
    let world = World::new();
    world.write("there", "");
    let gone = world.source().join("gone");
    let with = |include: Vec<Include>| FilesSettings { include, ..FilesSettings::default() };
    let optional = Include { optional: true, ..Include::from(&gone) };

    let snapshot = read_all(with(vec![Include::from(world.source()), Include::from(&gone)]));
    assert_eq!(snapshot.problems.len(), 1);
    assert_eq!((&*snapshot.problems[0].code, &*snapshot.problems[0].on), ("missing", gone.to_str().unwrap()));
    assert!(read_all(with(vec![Include::from(world.source()), optional])).problems.is_empty());

    let source = FilesSource::new(with(vec![Include::from(&gone)])).unwrap();
    assert!(matches!(source.check(&test_cx()), Err(SourceError::Missing { path }) if path == gone));
    assert!(matches!(source.begin(HashKey([0; 32]), &test_cx()), Err(SourceError::Missing { .. })));
}

#[test]
fn a_setting_that_cannot_be_is_named() {
    for (settings, name) in [
        (FilesSettings::default(), "include"),
        (FilesSettings { exclude: vec!["[z-a]".to_owned()], ..settings(Path::new("/etc")) }, "exclude"),
        (FilesSettings { newer_than: Some("7".to_owned()), ..settings(Path::new("/etc")) }, "newer_than"),
    ] {
        let error = FilesSource::new(settings).unwrap_err();
        assert!(matches!(&error, SourceError::Setting { setting, .. } if setting == name), "{error}");
    }
}

#[test]
fn names_of_one_file_are_listed_as_links_to_the_first() {
    let world = World::new();
    let first = world.write("b/first", "content");
    for name in ["a", "c"] {
        fs::hard_link(&first, world.source().join(name)).unwrap();
    }
    let snapshot = read_all(settings(&world.source()));
    let carrier = snapshot.at(&world.source().join("a")).entry.clone();
    assert_eq!(carrier.kind, EntryKind::File { size: 7 });
    for name in ["b/first", "c"] {
        let link = &snapshot.at(&world.source().join(name));
        assert_eq!(link.entry.kind, EntryKind::HardLink { to: carrier.path.clone() }, "{name}");
        assert!(link.pieces.is_none());
    }
}

/// Keeps H-2.
#[test]
fn holes_are_told_from_data() {
    let world = World::new();
    let path = world.write("sparse", "");
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(10 << 20).unwrap();
    file.write_all_at(&[7; 4096], 4 << 20).unwrap();
    file.sync_all().unwrap();
    let snapshot = read_all(settings(&path));
    let pieces = snapshot.at(&path).pieces.as_ref().unwrap().as_ref().unwrap();
    assert_eq!(pieces, &[Piece::Hole(4 << 20), Piece::Data(vec![7; 4096]), Piece::Hole((6 << 20) - 4096)]);
}

#[test]
fn a_fifo_is_listed_and_never_waited_for() {
    let world = World::new();
    mknodat(CWD, world.source().join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let snapshot = read_all(settings(&world.source()));
    assert_eq!(snapshot.at(&world.source().join("pipe")).entry.kind, EntryKind::Fifo);
}

/// Lists `name` in a world and hands its item to `harm` before it is read, and again after its first read.
fn read_while(world: &World, name: &str, harm: impl Fn(u32)) -> Result<Vec<Piece>, ContentError> {
    let mut reading =
        FilesSource::new(settings(&world.source())).unwrap().begin(HashKey([0; 32]), &test_cx()).unwrap();
    let mut found = None;
    while let Some(item) = reading.next().unwrap() {
        if item.entry.path.name() == name.as_bytes() {
            found = Some(item);
        }
    }
    let mut item: Item = found.expect("it is listed");
    harm(0);
    let mut buffer = [0; 10];
    let mut first = Vec::new();
    if let Stretch::Data(n) = item.content.as_mut().unwrap().reader.read(&mut buffer)? {
        first.push(Piece::Data(buffer[..n].to_vec()));
    }
    harm(1);
    let rest = read_content(&mut item, &mut [0; 1000]).unwrap()?;
    Ok(first.into_iter().chain(rest).collect())
}

/// Something done to a file behind our back.
type Harm = fn(&Path);

/// Keeps E-1.
#[test]
fn a_file_that_is_written_to_while_it_is_read_is_in_doubt() {
    let harms: [(&str, Harm); 4] = [
        ("grown", |path| File::options().append(true).open(path).unwrap().write_all(b"more").unwrap()),
        ("shrunk", |path| File::options().write(true).open(path).unwrap().set_len(11).unwrap()),
        ("rewritten", |path| File::options().write(true).open(path).unwrap().write_all_at(b"X", 3).unwrap()),
        ("rewritten with its old time", |path| {
            let file = File::options().write(true).open(path).unwrap();
            let modified = file.metadata().unwrap().modified().unwrap();
            file.write_all_at(b"X", 3).unwrap();
            file.set_modified(modified).unwrap();
        }),
    ];
    for (what, harm) in harms {
        let world = World::new();
        let path = world.write("log", [b'.'; 5000]);
        std::thread::sleep(Duration::from_millis(10)); // one tick of the clock of an older kernel's inodes
        let read = read_while(&world, "log", |step| {
            if step == 1 {
                harm(&path)
            }
        });
        assert!(matches!(read, Err(ContentError::ChangedWhileRead)), "{what}: {read:?}");
    }
    let world = World::new();
    let path = world.write("log", [b'.'; 5000]);
    // Written to before we open it: what is read is one state all the same, and as long as the file is then.
    let read = read_while(&world, "log", |step| {
        if step == 0 {
            File::options().append(true).open(&path).unwrap().write_all(b"more").unwrap();
        }
    });
    let n: usize =
        read.unwrap().iter().map(|piece| if let Piece::Data(d) = piece { d.len() } else { 0 }).sum();
    assert_eq!(n, 5004);
}

/// Keeps E-1.
#[test]
fn a_second_reading_goes_no_further_than_the_first() {
    let world = World::new();
    let path = world.write("log", [b'.'; 5000]);
    let mut reading =
        FilesSource::new(settings(&world.source())).unwrap().begin(HashKey([0; 32]), &test_cx()).unwrap();
    let log = std::iter::from_fn(|| reading.next().unwrap()).find(|item| item.entry.path.name() == b"log");
    let mut log = log.expect("it is listed");
    let append = || File::options().append(true).open(&path).unwrap().write_all(b"more").unwrap();
    let bytes = |read: Result<Vec<Piece>, ContentError>| {
        let pieces = read.unwrap();
        pieces.iter().map(|piece| if let Piece::Data(d) = piece { d.len() } else { 0 }).sum::<usize>()
    };
    assert_eq!(bytes(read_content(&mut log, &mut [0; 1000]).unwrap()), 5000);
    append();
    assert!(log.content.as_mut().unwrap().reader.read_again());
    // It holds still now, and what is read is not all of it.
    let read = read_content(&mut log, &mut [0; 1000]).unwrap();
    assert!(matches!(read, Err(ContentError::ChangedWhileRead)), "{read:?}");
    File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
    assert!(log.content.as_mut().unwrap().reader.read_again());
    assert_eq!(bytes(read_content(&mut log, &mut [0; 1000]).unwrap()), 100);
}

/// Keeps E-1.
#[test]
fn a_file_that_vanished_or_was_replaced_before_it_was_read_is_not_read() {
    let replaced: [(&str, Harm); 4] = [
        ("another file", |path| fs::write(path, "other").unwrap()),
        ("a link", |path| symlink("/etc/passwd", path).unwrap()),
        ("a FIFO", |path| mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0).unwrap()),
        ("a directory", |path| fs::create_dir(path).unwrap()),
    ];
    for (what, replace) in replaced {
        let world = World::new();
        let path = world.write("file", "content");
        let read = read_while(&world, "file", |step| {
            if step == 0 {
                fs::rename(&path, world.scratch.path().join("away")).unwrap();
                replace(&path);
            }
        });
        assert!(matches!(read, Err(ContentError::ChangedWhileRead)), "{what}: {read:?}");
    }
    let world = World::new();
    let path = world.write("file", "content");
    let read = read_while(&world, "file", |_| drop(fs::remove_file(&path)));
    assert!(matches!(read, Err(ContentError::Vanished)), "{read:?}");
}

#[test]
fn a_directory_that_becomes_a_link_leads_nowhere() {
    let world = World::new();
    let secret = world.scratch.path().join("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("file"), "secret").unwrap();
    world.write("dir/file", "public");
    symlink(&secret, world.scratch.path().join("link")).unwrap();
    let read = read_while(&world, "file", |step| {
        if step == 0 {
            let (a, b) = (world.source().join("dir"), world.scratch.path().join("link"));
            renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).unwrap();
        }
    });
    assert!(matches!(read, Err(ContentError::ChangedWhileRead)), "{read:?}");
}

/// Keeps E-1.
#[test]
fn what_may_not_be_read_is_named_and_its_siblings_are_complete() {
    if !is_root() {
        return not_run("only root can become somebody else");
    }
    let world = World::new();
    for n in 0..1000 {
        world.write(&format!("{n:04}"), n.to_string());
    }
    world.write("closed/inside", "");
    world.write("open/inside", "");
    fs::set_permissions(world.scratch.path(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(world.source().join("0500"), Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(world.source().join("closed"), Permissions::from_mode(0o700)).unwrap();

    let (snapshot, problems) = as_nobody(|| {
        let source = FilesSource::new(settings(&world.source())).unwrap();
        (read_all(settings(&world.source())), source.check(&test_cx()).unwrap())
    });
    assert!(problems.is_empty(), "what is given to read can be read: {problems:?}");
    let unread: Vec<_> = snapshot
        .kept
        .iter()
        .filter(|kept| matches!(kept.pieces, Some(Err(ContentError::Unreadable(_)))))
        .map(|kept| kept.entry.path.name().to_vec())
        .collect();
    assert_eq!(unread, [b"0500"]);
    let read = snapshot.kept.iter().filter(|kept| matches!(kept.pieces, Some(Ok(_)))).count();
    assert_eq!(read, 999 + 1);
    let closed = snapshot.at(&world.source().join("closed"));
    let codes: Vec<_> =
        snapshot.problems.iter().map(|problem| (&*problem.code, problem.on.clone())).collect();
    assert_eq!(codes, [("unreadable", closed.entry.path.to_string())]);
    assert!(snapshot.problems[0].advice.is_some());
}

#[test]
fn what_cannot_be_read_is_found_before_a_backup() {
    if !is_root() {
        return not_run("only root can become somebody else");
    }
    let world = World::new();
    let path = world.write("key", "");
    fs::set_permissions(world.scratch.path(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let include = vec![Include::from(path.as_path()), Include::from(world.scratch.path())];
    let both = FilesSource::new(FilesSettings { include, ..FilesSettings::default() }).unwrap();
    let problems = as_nobody(|| both.check(&test_cx()).unwrap());
    assert_eq!((problems.len(), &*problems[0].code), (1, "unreadable"));
}

/// Keeps E-1, X-9.
#[test]
fn a_source_of_which_nothing_can_be_read_has_failed() {
    if !is_root() {
        return not_run("only root can become somebody else");
    }
    let world = World::new();
    let path = world.write("key", "");
    fs::set_permissions(world.scratch.path(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let source = FilesSource::new(settings(&path)).unwrap();
    let (checked, begun) =
        as_nobody(|| (source.check(&test_cx()).err(), source.begin(HashKey([0; 32]), &test_cx()).err()));
    for error in [checked.unwrap(), begun.unwrap()] {
        assert_eq!(error.code(), ErrorCode::Permission);
        assert!(error.advice().is_some());
    }
}

#[test]
fn reading_leaves_no_access_time_and_no_thread() {
    let world = World::new();
    let path = world.write("file", "content");
    let long_ago = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let times = fs::FileTimes::new().set_accessed(long_ago).set_modified(long_ago);
    File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
    read_all(settings(&path));
    assert_eq!(path.metadata().unwrap().accessed().unwrap(), long_ago);

    for n in 0..5000 {
        world.write(&n.to_string(), "");
    }
    let source = FilesSource::new(settings(&world.source())).unwrap();
    let mut reading = source.begin(HashKey([0; 32]), &test_cx()).unwrap();
    assert!(reading.next().unwrap().is_some());
    drop(reading); // joins the walk, which would otherwise wait for ever to hand over its next batch
}

#[test]
fn cancelling_ends_the_reading_as_a_whole() {
    let world = World::new();
    for n in 0..5000 {
        world.write(&n.to_string(), "");
    }
    let cx = test_cx();
    cx.cancel().cancel();
    let mut reading =
        FilesSource::new(settings(&world.source())).unwrap().begin(HashKey([0; 32]), &cx).unwrap();
    let end = loop {
        match reading.next() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended as if it were whole"),
            Err(error) => break error,
        }
    };
    assert!(matches!(end, SourceError::Cancelled(_)));
}

#[test]
fn owners_and_modes_are_listed_as_they_are() {
    if !is_root() {
        return not_run("only root can give files away");
    }
    let world = World::new();
    let path = world.write("tool", "");
    chown(&path, Some(NOBODY), Some(7)).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o4711)).unwrap();
    let snapshot = read_all(settings(&path));
    let attributes = &snapshot.at(&path).entry.attributes;
    assert_eq!((attributes.mode, attributes.uid, attributes.gid), (0o4711, NOBODY, 7));
    assert!(path.as_os_str().as_bytes().ends_with(b"tool"));
}
