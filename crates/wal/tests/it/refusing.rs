//! What must not be archived, and what must not be taken for the end of the log.
//! Keeps E-7.

use crate::world::{Ran, SYSTEM, World, parse, segment, segment_of};
use hikae_model::SystemId;
use hikae_repo::layout;
use std::process::{Command, Stdio};

const OTHER: SystemId = SystemId(7_999_999_999_999_999_999);

/// Archives a file that is to be refused, and sees that nothing is stored.
#[track_caller]
fn is_refused(world: &World, name: &str, bytes: &[u8], code: i32, words: &str) {
    let path = world.write_log(name, bytes);
    world.run("push", &[&path]).expect(code, words);
    assert!(world.archive().list().unwrap().is_empty(), "{name} is stored");
}

#[test]
fn a_file_that_is_not_what_its_name_says_is_not_archived() {
    let world = World::new();
    let (name, bytes) = segment(5, 0);
    is_refused(&world, &name, &bytes[..bytes.len() - 1], 4, "has 1048575 bytes");
    is_refused(&world, &name, &[&bytes[..], &[0]].concat(), 4, "has 1048577 bytes");
    is_refused(&world, &name, &bytes[..20], 4, "too short");
    is_refused(&world, &name, &[], 4, "too short");
    is_refused(&world, &name, &vec![0; 1 << 20], 4, "no magic number");
    is_refused(&world, "000000010000000000000006", &bytes, 4, "begins at 0/500000");
    is_refused(&world, "000000010000000000001005", &bytes, 4, "no segment of 1048576 bytes");
    is_refused(&world, &format!("{name}.partial"), &vec![0; 1 << 20], 4, "no magic number");
    is_refused(&world, "postgresql.conf", b"x", 2, "is not the name of a file that PostgreSQL archives");
    let (name, bytes) = segment_of(OTHER, 5, 0);
    is_refused(&world, &name, &bytes, 12, "system 7999999999999999999 wrote it");
    std::fs::remove_file(world.path("data/global/pg_control")).unwrap();
    is_refused(&world, "00000002.history", b"1\n", 2, "which cluster wrote");
    world.run("push", &["pg_wal/000000010000000000000077"]).expect(1, "No such file");
}

#[test]
fn another_file_under_a_name_is_an_error_and_the_first_one_stays() {
    let world = World::new();
    let (name, bytes) = segment(1, 0);
    for (name, first, second) in [
        (name.clone(), bytes.clone(), segment(1, 1).1),
        (format!("{name}.partial"), bytes, segment(1, 1).1),
        (format!("{name}.00000028.backup"), b"a".to_vec(), b"b".to_vec()),
        ("00000002.history".to_owned(), b"1\t0/1\ta\n".to_vec(), b"1\t0/2\ta\n".to_vec()),
    ] {
        let path = world.write_log(&name, &first);
        world.run("push", &[&path]).expect(0, "");
        world.run("push", &[&path]).expect(0, "");
        world.write_log(&name, &second);
        world.run("push", &[&path]).expect(14, "archived already with other content");
        assert!(world.archived(SYSTEM, &name) == Some(first), "{name}");
    }
}

#[test]
fn two_calls_for_one_name_at_once_end_as_one() {
    let world = World::new();
    let elsewhere = world.path("other");
    std::fs::create_dir_all(elsewhere.join("global")).unwrap();
    std::fs::create_dir_all(elsewhere.join("pg_wal")).unwrap();
    std::fs::copy(world.path("data/global/pg_control"), elsewhere.join("global/pg_control")).unwrap();
    for n in 0..6 {
        let (name, first) = segment(n, 0);
        let second = if n % 2 == 0 { first.clone() } else { segment(n, 1).1 };
        let path = world.write_log(&name, &first);
        std::fs::write(elsewhere.join(&path), &second).unwrap();
        let call = world.call("push");
        let start = |directory| {
            let mut command = Command::new(&call[0]);
            command.args(&call[1..]).arg(&path).current_dir(directory);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let both = [start(world.path("data")), start(elsewhere.clone())];
        let [one, two] = both.map(|child| Ran::of(child.wait_with_output().unwrap()));
        let there = world.archived(SYSTEM, &name).unwrap();
        let expected = |bytes: &[u8]| if there == bytes { Some(0) } else { Some(14) };
        assert_eq!((one.code, two.code), (expected(&first), expected(&second)), "{one:?} {two:?}");
    }
}

#[test]
fn only_a_name_that_is_surely_not_archived_is_the_end_of_the_log() {
    let world = World::new();
    let (name, bytes) = segment(1, 0);
    let path = world.write_log(&name, &bytes);
    world.run("push", &[&path]).expect(0, "");
    let (next, _) = segment(2, 0);
    let get = |more: &[&str], name: &str| {
        let ran = world.run("get", &[more, &[name, "pg_wal/RECOVERYXLOG"]].concat());
        (ran, std::fs::read(world.path("data/pg_wal/RECOVERYXLOG")).ok())
    };
    let (ran, got) = get(&[], &name);
    ran.expect(0, "");
    assert!(got == Some(bytes));
    std::fs::remove_file(world.path("data/pg_wal/RECOVERYXLOG")).unwrap();
    let not_archived = |name: &str| {
        let (ran, got) = get(&[], name);
        ran.expect(1, "");
        assert_eq!(got, None);
    };
    not_archived(&next);
    not_archived("00000002.history");
    // The end of a timeline is not the segment of that name.
    not_archived("000000010000000000000001.partial");

    let stops = |more: &[&str], words: &str| {
        let (ran, got) = get(more, &next);
        ran.expect(126, words);
        assert_eq!(got, None);
    };
    stops(&["--system", "1"], "the log of system 1 is wanted");
    stops(&["--systen", "1"], "there is no option --systen");
    stops(&["--store", "/nowhere/at/all"], "there is no store");
    stops(&["--key-file", "/nowhere/at/all"], "is not there");
    std::fs::create_dir(world.path("empty")).unwrap();
    let empty = world.path("empty");
    stops(&["--store", empty.to_str().unwrap()], "there is no repository");
    world.write_private("other-key", &"ab".repeat(32));
    let other = world.path("other-key");
    stops(&["--key-file", other.to_str().unwrap()], "this key does not open");
    // Another cluster's recovery that is told of the wrong repository.
    std::fs::write(world.path("data/global/pg_control"), OTHER.0.to_le_bytes()).unwrap();
    stops(&[], "nothing of system 7999999999999999999 is archived");
    world.run("gte", &[&next, "x"]).expect(126, "there is no verb");
}

#[test]
fn a_damaged_object_is_neither_delivered_nor_the_end_of_the_log() {
    let world = World::new();
    let (name, bytes) = segment(1, 0);
    let path = world.write_log(&name, &bytes);
    world.run("push", &[&path]).expect(0, "");
    let object = world.path("repo").join(layout::wal(SYSTEM, parse(&name)).as_str());
    let stored = std::fs::read(&object).unwrap();
    for at in [0, 50, stored.len() - 1] {
        let mut harmed = stored.clone();
        harmed[at] ^= 1;
        std::fs::remove_file(&object).unwrap();
        std::fs::write(&object, &harmed).unwrap();
        world.run("get", &[&name, "pg_wal/RECOVERYXLOG"]).expect(126, "is damaged");
        let left: Vec<_> = std::fs::read_dir(world.path("data/pg_wal")).unwrap().flatten().collect();
        assert_eq!(left.len(), 2, "archive_status and the segment: {left:?}");
    }
    std::fs::remove_file(&object).unwrap();
    std::fs::write(&object, &stored[..stored.len() - 1]).unwrap();
    world.run("push", &[&path]).expect(4, "is damaged");
}

#[test]
fn what_was_fetched_ahead_is_compared_before_it_is_used() {
    let world = World::new();
    for n in 1..=4 {
        let (name, bytes) = segment(n, 0);
        world.run("push", &[&world.write_log(&name, &bytes)]).expect(0, "");
    }
    let target = world.path("data/pg_wal/RECOVERYXLOG");
    let ahead = world.path(&format!("data/hikae-wal-ahead/{SYSTEM}"));
    world.run("get", &[&segment(1, 0).0, "pg_wal/RECOVERYXLOG"]).expect(0, "");
    let waiting = || {
        let entries = std::fs::read_dir(&ahead).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(waiting(), [2, 3, 4].map(|n| segment(n, 0).0));
    // Cut by a power failure, and another one's.
    std::fs::write(ahead.join(segment(2, 0).0), &segment(2, 0).1[..1000]).unwrap();
    std::fs::write(ahead.join(segment(3, 0).0), segment(3, 1).1).unwrap();
    for n in 2..=4 {
        let (name, bytes) = segment(n, 0);
        world.run("get", &[&name, "pg_wal/RECOVERYXLOG"]).expect(0, "");
        assert!(std::fs::read(&target).unwrap() == bytes, "what is delivered as segment {n} is another");
    }
    assert_eq!(waiting(), [""; 0]);
    std::fs::write(ahead.join(segment(2, 0).0), b"left behind").unwrap();
    world.run("get", &["00000002.history", "pg_wal/RECOVERYHISTORY"]).expect(1, "");
    assert!(!ahead.exists(), "a recovery that begins or ends leaves nothing");
}

#[test]
fn a_store_that_is_away_or_full_acknowledges_nothing() {
    let world = World::new();
    let (name, bytes) = segment(1, 0);
    let path = world.write_log(&name, &bytes);
    std::fs::rename(world.path("repo"), world.path("away")).unwrap();
    world.run("push", &[&path]).expect(10, "there is no store");
    std::fs::create_dir(world.path("repo")).unwrap();
    world.run("push", &[&path]).expect(10, "there is no repository");
    std::fs::remove_dir(world.path("repo")).unwrap();
    std::fs::rename(world.path("away"), world.path("repo")).unwrap();
    world.run("push", &[&path]).expect(0, "");

    if !rustix::process::geteuid().is_root() {
        return hikae_testkit::not_run("needs root to mount a small disk");
    }
    let repo = world.path("repo");
    let mount =
        |arguments: &[&str]| Command::new(arguments[0]).args(&arguments[1..]).arg(&repo).status().unwrap();
    std::fs::rename(&repo, world.path("whole")).unwrap();
    std::fs::create_dir(&repo).unwrap();
    if !mount(&["mount", "-t", "tmpfs", "-o", "size=1m", "hikae-test"]).success() {
        return hikae_testkit::not_run("a small disk cannot be mounted here");
    }
    let copied = Command::new("cp").arg("-aT").args([world.path("whole"), repo.clone()]).status().unwrap();
    let mut state = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        // Xorshift (Marsaglia, 2003): what does not compress.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(1 << 20)
    .collect();
    let (name, mut second) = segment(2, 0);
    second[40..].copy_from_slice(&noise[40..]);
    let path = world.write_log(&name, &second);
    let ran = world.run("push", &[&path]);
    let left = world.names(SYSTEM);
    assert!(mount(&["umount", "-l"]).success() && copied.success());
    ran.expect(5, "no space left");
    assert_eq!(left, [segment(1, 0).0]);
}
