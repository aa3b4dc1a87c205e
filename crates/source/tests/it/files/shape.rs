//! Trees of unusual shape: deep, wide, with names that nobody would choose.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use hikae_model::EntryKind;
use hikae_source::files::Target;
use hikae_testkit::test_cx;
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};

use super::{World, check_same, read_all, restore, settings};

/// Keeps H-3.
#[test]
fn a_tree_5000_deep_comes_back() {
    const DEPTH: usize = 5000;
    let world = World::new();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut at = openat(CWD, world.source(), flags, Mode::empty()).unwrap();
    for n in 0..DEPTH {
        mkdirat(&at, c"d", Mode::RWXU).unwrap();
        if n % 100 == 0 {
            // Makes the walk come back to directories that it has closed meanwhile.
            let file = openat(&at, c"file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
            rustix::io::write(&file, n.to_string().as_bytes()).unwrap();
        }
        at = openat(&at, c"d", flags, Mode::empty()).unwrap();
    }
    let snapshot = read_all(settings(&world.source()));
    assert!(snapshot.problems.is_empty(), "{:?}", snapshot.problems);
    let count = |snapshot: &super::Snapshot, directories: bool| {
        snapshot.kept.iter().filter(|kept| (kept.entry.kind == EntryKind::Directory) == directories).count()
    };
    assert!(count(&snapshot, true) > DEPTH);
    assert_eq!(count(&snapshot, false), DEPTH / 100);
    assert!(snapshot.kept.iter().all(|kept| !matches!(kept.pieces, Some(Err(_)))));

    let (problems, _) = restore(&snapshot, Target::into_new(&world.target(), &test_cx()).unwrap());
    assert!(problems.is_empty(), "{problems:?}");
    // Too deep for paths, so compare what a second backup sees.
    let again = read_all(settings(&world.restored()));
    let tail = |snapshot: &super::Snapshot, root: &std::path::Path| -> Vec<_> {
        let cut = root.as_os_str().len() - 1;
        let below = snapshot.kept.iter().filter(|kept| kept.entry.path.as_bytes().len() > cut);
        below
            .map(|kept| {
                let path = kept.entry.path.as_bytes()[cut..].to_vec();
                let pieces = kept.pieces.as_ref().map(|pieces| pieces.as_ref().unwrap().clone());
                (
                    path,
                    kept.entry.kind.clone(),
                    kept.entry.attributes.modified,
                    kept.entry.attributes.mode,
                    pieces,
                )
            })
            .collect()
    };
    assert!(tail(&snapshot, &world.source()) == tail(&again, &world.restored()), "the trees differ");
}

/// Keeps H-3.
#[test]
fn a_directory_of_100_000_entries_is_listed_in_order() {
    let world = World::in_memory();
    for n in 0..100_000 {
        fs::File::create(world.source().join(format!("{:x}", n * 7919))).unwrap();
    }
    let snapshot = read_all(settings(&world.source()));
    let paths: Vec<_> = snapshot.kept.iter().map(|kept| &kept.entry.path).collect();
    assert!(paths.is_sorted());
    assert_eq!(
        snapshot.kept.iter().filter(|kept| kept.entry.kind == EntryKind::File { size: 0 }).count(),
        100_000
    );
}

/// Keeps H-3.
#[test]
fn names_of_any_bytes_and_of_any_length_come_back() {
    let world = World::new();
    let long = [b'n'; 255];
    let names: [&[u8]; 8] =
        [b"\xff\xfe", b"-rf", b"a\nb", b"\x1b[31m", b" ", "日本語".as_bytes(), b"\\", &long];
    for name in names {
        fs::write(world.source().join(OsStr::from_bytes(name)), name).unwrap();
    }
    let snapshot = read_all(settings(&world.source()));
    let (problems, _) = restore(&snapshot, Target::into_new(&world.target(), &test_cx()).unwrap());
    assert!(problems.is_empty(), "{problems:?}");
    check_same(&world.source(), &world.restored());
}
