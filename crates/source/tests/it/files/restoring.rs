//! What a restore may touch, and what it leaves alone.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hikae_model::{Advise, Attributes, Entry, EntryKind, ErrorCode, FileTime, TreePath, Xattr};
use hikae_source::SourceError;
use hikae_source::files::{FilesSettings, Mounts, Overwrite, PlaceError, Placed, Target};
use hikae_testkit::{not_run, test_cx};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{NOBODY, World, as_nobody, check_same, describe, is_root, read_all, restore, settings};

const RULES: [Overwrite; 4] = [Overwrite::Never, Overwrite::IfNewer, Overwrite::IfChanged, Overwrite::Always];

fn path(text: &str) -> TreePath {
    TreePath::parse(text).unwrap()
}

fn entry(text: &str, kind: EntryKind) -> Entry {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let modified = FileTime { seconds: 1_700_000_000, nanoseconds: 5 };
    Entry {
        path: path(text),
        kind,
        attributes: Attributes { mode: 0o644, uid, gid, modified, ..Attributes::default() },
    }
}

fn file(text: &str, size: u64) -> Entry {
    entry(text, EntryKind::File { size })
}

fn existing(directory: &Path, overwrite: Overwrite) -> Target {
    Target::into_existing(directory, overwrite, Mounts::Refuse, &test_cx()).unwrap()
}

/// Places one entry; a file gets `content`.
fn place(target: &Target, entry: &Entry, content: &[u8]) -> Result<Placed, PlaceError> {
    match entry.kind {
        EntryKind::Directory => target.directory(entry),
        EntryKind::File { .. } => match target.begin_file(entry)? {
            None => Ok(Placed::Kept),
            Some(writer) => {
                writer.write_at(0, content)?;
                writer.finish().map(|()| Placed::Written)
            }
        },
        _ => target.special(entry),
    }
}

#[track_caller]
fn check_problem(result: Result<Placed, PlaceError>, code: &str) {
    match result {
        Err(PlaceError::Entry(problem)) => assert_eq!(problem.code, code, "{problem}"),
        other => panic!("expected the problem {code}, found {other:?}"),
    }
}

/// Keeps G-7.
#[test]
fn a_target_that_is_not_empty_is_refused_without_a_rule_for_what_is_there() {
    let world = World::new();
    world.write("precious", "");
    let error = Target::into_new(&world.source(), &test_cx()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Forbidden);
    assert!(error.to_string().ends_with("is not empty") && error.advice().is_some(), "{error}");

    let root =
        Target::into_existing(Path::new("/"), Overwrite::Always, Mounts::Cross, &test_cx()).unwrap_err();
    assert_eq!(root.code(), ErrorCode::Forbidden);

    let new = world.scratch.path().join("made/with/its/parents");
    drop(Target::into_new(&new, &test_cx()).unwrap());
    assert_eq!(new.metadata().unwrap().mode() & 0o777, 0o700);
    drop(Target::into_new(&new, &test_cx()).unwrap()); // it is there, and empty
}

#[test]
fn two_restores_do_not_share_a_target() {
    let world = World::new();
    let first = existing(&world.source(), Overwrite::Always);
    let second = Target::into_existing(&world.source(), Overwrite::Always, Mounts::Refuse, &test_cx());
    assert_eq!(second.unwrap_err().code(), ErrorCode::Busy);
    drop(first);
    drop(existing(&world.source(), Overwrite::Always));
}

/// Kinds of entries that a hostile snapshot could try to place through a link.
fn every_kind(at: &str) -> [Entry; 6] {
    [
        file(at, 4),
        entry(at, EntryKind::Directory),
        entry(at, EntryKind::Symlink { target: b"/etc/passwd".to_vec() }),
        entry(at, EntryKind::Fifo),
        entry(at, EntryKind::Socket),
        entry(at, EntryKind::HardLink { to: path("first") }),
    ]
}

#[test]
fn no_link_at_any_component_leads_outside() {
    for (at, link) in [
        ("a", "a"),
        ("a/b", "a"),
        ("a/b/c/d", "a"),
        ("a/b/c/d", "a/b"),
        ("a/b/c/d", "a/b/c"),
        ("a/b/c/d", "a/b/c/d"),
    ] {
        for destination in ["outside", "outside/b", "outside/precious"] {
            for rule in RULES {
                for hostile in every_kind(at) {
                    let world = World::in_memory();
                    let outside = world.scratch.path().join("outside");
                    fs::create_dir_all(outside.join("b/c")).unwrap();
                    for name in ["precious", "first", "b/precious", "b/c/d"] {
                        fs::write(outside.join(name), "precious").unwrap();
                    }
                    let before = describe(&outside);
                    let planted = world.source().join(link);
                    fs::create_dir_all(planted.parent().unwrap()).unwrap();
                    // Relative, because an absolute link would already be refused for crossing to another mount.
                    let up = "../".repeat(link.split('/').count());
                    symlink(format!("{up}{destination}"), &planted).unwrap();

                    let target = existing(&world.source(), rule);
                    place(&target, &file("first", 4), b"evil").unwrap();
                    // Whatever becomes of the entry itself: a problem, or placed instead of the link.
                    let _ = place(&target, &hostile, b"evil");
                    let _ = place(&target, &file(&format!("{at}/below"), 4), b"evil");
                    target.finish().unwrap();
                    assert_eq!(
                        describe(&outside),
                        before,
                        "{hostile:?} through {link} to {destination}, {rule:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_link_to_outside_is_no_first_name() {
    let world = World::new();
    let outside = world.scratch.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("shadow"), "secret").unwrap();
    symlink(&outside, world.source().join("out")).unwrap();
    symlink(outside.join("shadow"), world.source().join("direct")).unwrap();
    let target = existing(&world.source(), Overwrite::Always);
    for to in ["out/shadow", "direct"] {
        let link = entry("stolen", EntryKind::HardLink { to: path(to) });
        assert!(matches!(place(&target, &link, b""), Err(PlaceError::Entry(_))), "{to}");
        assert!(!world.source().join("stolen").exists());
    }
}

/// Ends another thread, also when an assertion fails.
struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn links_that_are_exchanged_for_directories_meanwhile_lead_nowhere() {
    let world = World::in_memory();
    let outside = world.scratch.path().join("outside");
    fs::create_dir_all(outside.join("b")).unwrap();
    fs::create_dir_all(world.source().join("a/b")).unwrap();
    let link = world.scratch.path().join("link");
    symlink("../outside", &link).unwrap(); // seen from where it is planted
    let before = describe(&outside);
    let (over, n_exchanges) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                if renameat_with(CWD, &link, CWD, world.source().join("a"), RenameFlags::EXCHANGE).is_ok() {
                    n_exchanges.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let _end = SetWhenDropped(&over);
        // Until both sides have had their way often enough for the race to be one.
        let (mut n_written, mut round) = (0, 0);
        while round < 300 || n_written < 50 || n_exchanges.load(Ordering::Relaxed) < 1000 {
            round += 1;
            let target = existing(&world.source(), Overwrite::Always);
            let attempts = [
                entry("a/b", EntryKind::Directory),
                file(&format!("a/b/{round}"), 4),
                entry("a/b/fifo", EntryKind::Fifo),
            ];
            for hostile in attempts {
                n_written += u64::from(place(&target, &hostile, b"evil").is_ok());
            }
            target.finish().unwrap();
        }
    });
    if world.source().join("a").is_symlink() {
        renameat_with(CWD, &link, CWD, world.source().join("a"), RenameFlags::EXCHANGE).unwrap();
    }
    assert_eq!(describe(&outside), before);
}

/// Keeps G-7.
#[test]
fn an_existing_file_is_kept_or_replaced_as_the_rule_says() {
    let newer = FileTime { seconds: 1_800_000_000, nanoseconds: 0 };
    let changed_mode = |mut entry: Entry| {
        entry.attributes.mode = 0o600;
        entry
    };
    let with_time = |modified| {
        let mut entry = file("f", 3);
        entry.attributes.modified = modified;
        entry
    };
    let older = FileTime { seconds: 1, nanoseconds: 0 };
    use Overwrite::{Always, IfChanged, IfNewer, Never};
    for (rule, restored, replaces) in [
        (Never, with_time(newer), false),
        (IfNewer, with_time(newer), true),
        (IfNewer, with_time(older), false),
        (IfNewer, file("f", 3), false),
        (IfChanged, file("f", 3), false),
        (IfChanged, with_time(older), true),
        (IfChanged, changed_mode(file("f", 3)), true),
        (Always, with_time(older), true),
    ] {
        let world = World::new();
        let at = world.write("f", "old");
        world.write("other", "stays");
        fs::set_permissions(&at, Permissions::from_mode(0o644)).unwrap();
        let time = file("f", 3).attributes.modified;
        let time = std::time::UNIX_EPOCH + Duration::new(time.seconds as u64, time.nanoseconds);
        File::options().write(true).open(&at).unwrap().set_modified(time).unwrap();

        let target = existing(&world.source(), rule);
        assert_eq!(target.wants(&restored).unwrap(), replaces, "{rule:?} {restored:?}");
        let placed = place(&target, &restored, b"new").unwrap();
        target.finish().unwrap();
        let (expected, content) = if replaces { (Placed::Written, "new") } else { (Placed::Kept, "old") };
        assert_eq!(
            (placed, &*fs::read_to_string(&at).unwrap()),
            (expected, content),
            "{rule:?} {restored:?}"
        );
        assert_eq!(fs::read_to_string(world.source().join("other")).unwrap(), "stays");
    }
}

#[test]
fn a_link_in_the_way_is_replaced_and_not_followed() {
    let world = World::new();
    let outside = world.scratch.path().join("outside");
    fs::write(&outside, "precious").unwrap();
    symlink(&outside, world.source().join("f")).unwrap();
    let target = existing(&world.source(), Overwrite::Always);
    place(&target, &file("f", 3), b"new").unwrap();
    assert!(world.source().join("f").symlink_metadata().unwrap().is_file());
    assert_eq!(fs::read_to_string(&outside).unwrap(), "precious");
}

#[test]
fn what_is_in_the_way_and_may_not_go_is_a_problem_of_that_entry() {
    for rule in RULES {
        let world = World::new();
        world.write("dir/inside", "stays");
        world.write("plain", "stays");
        let target = existing(&world.source(), rule);
        let over_directory = place(&target, &file("dir", 3), b"new");
        let over_file = place(&target, &entry("plain", EntryKind::Directory), b"");
        let below_file = place(&target, &file("plain/below", 3), b"new");
        let may_replace_file = matches!(rule, Overwrite::IfChanged | Overwrite::Always);
        match rule {
            Overwrite::Never | Overwrite::IfNewer => assert_eq!(over_directory.unwrap(), Placed::Kept),
            Overwrite::IfChanged | Overwrite::Always => check_problem(over_directory, "in-the-way"),
        }
        if may_replace_file {
            assert_eq!((over_file.unwrap(), below_file.unwrap()), (Placed::Written, Placed::Written));
        } else {
            check_problem(over_file, "in-the-way");
            check_problem(below_file, "in-the-way");
            assert_eq!(fs::read_to_string(world.source().join("plain")).unwrap(), "stays");
        }
        place(&target, &file("sibling", 3), b"new").unwrap();
        target.finish().unwrap();
        assert_eq!(fs::read_to_string(world.source().join("dir/inside")).unwrap(), "stays", "{rule:?}");
    }
}

#[test]
fn a_hostile_listing_with_one_name_twice_places_it_once() {
    let world = World::new();
    let target = Target::into_new(&world.target(), &test_cx()).unwrap();
    place(&target, &file("a", 4), b"good").unwrap();
    for hostile in every_kind("a") {
        assert!(matches!(place(&target, &hostile, b"evil"), Err(PlaceError::Entry(_))), "{hostile:?}");
    }
    check_problem(place(&target, &file("a/b", 4), b"evil"), "in-the-way");
    target.finish().unwrap();
    assert_eq!(fs::read_to_string(world.target().join("a")).unwrap(), "good");
    assert_eq!(describe(&world.target()).len(), 2, "nothing else is left");
}

/// Keeps G-2.
#[test]
fn a_file_has_its_name_only_when_it_is_whole() {
    let world = World::new();
    let names = || fs::read_dir(world.target()).unwrap().map(|n| n.unwrap().file_name()).collect::<Vec<_>>();
    let target = Target::into_new(&world.target(), &test_cx()).unwrap();
    let writer = target.begin_file(&file("f", 10)).unwrap().unwrap();
    writer.write_at(5, b"later").unwrap();
    assert!(names().len() == 1 && names()[0].to_str().unwrap().ends_with(".partial"), "{:?}", names());
    drop(writer);
    assert!(names().is_empty());

    let writer = target.begin_file(&file("f", 10)).unwrap().unwrap();
    check_problem(writer.write_at(6, b"later").map(|()| Placed::Written), "not-written");
    check_problem(writer.write_at(u64::MAX, b"later").map(|()| Placed::Written), "not-written");
    writer.write_at(5, b"later").unwrap();
    writer.write_at(0, b"soone").unwrap();
    writer.finish().unwrap();
    assert_eq!(fs::read(world.target().join("f")).unwrap(), b"soonelater");
}

#[test]
fn what_an_interrupted_restore_left_is_removed_by_the_next() {
    let world = World::new();
    world.write("dir/a", "content");
    world.write("dir/b", "content");
    let snapshot = read_all(settings(&world.source()));
    let target = Target::into_new(&world.target(), &test_cx()).unwrap();
    // Killed in the middle: some entries placed, one half written, nothing finished.
    let n = snapshot.kept.len() - 1;
    for kept in &snapshot.kept[..n] {
        super::place(&target, kept).unwrap();
    }
    std::mem::forget(target.begin_file(&snapshot.kept[n].entry).unwrap().unwrap());
    drop(target);
    let left = |n: usize| {
        let found = fs::read_dir(world.restored().join("dir")).unwrap();
        let partial =
            found.filter(|name| name.as_ref().unwrap().path().extension().is_some_and(|x| x == "partial"));
        assert_eq!(partial.count(), n);
    };
    left(1);
    let cx = hikae_testkit::TestCx::new(hikae_testkit::Seed(1)); // another run draws another name
    let target = Target::into_existing(&world.target(), Overwrite::IfChanged, Mounts::Refuse, &cx).unwrap();
    let (problems, _) = restore(&snapshot, target);
    assert!(problems.is_empty(), "{problems:?}");
    left(0);
    check_same(&world.source(), &world.restored());
}

/// Keeps H-2.
#[test]
fn a_sparse_file_stays_sparse_and_is_written_by_several_threads() {
    const PIECE: u64 = 1 << 16;
    let world = World::new();
    let target = Target::into_new(&world.target(), &test_cx()).unwrap();
    let writer = target.begin_file(&file("image", 4 << 30)).unwrap().unwrap();
    std::thread::scope(|scope| {
        for n in 0..4u8 {
            let writer = &writer;
            scope.spawn(move || {
                for i in 0..16 {
                    writer.write_at((i * 4 + u64::from(n)) * PIECE, &vec![n; PIECE as usize]).unwrap();
                }
            });
        }
    });
    writer.finish().unwrap();
    let metadata = world.target().join("image").metadata().unwrap();
    assert_eq!(metadata.len(), 4 << 30);
    assert!(metadata.blocks() * 512 <= 64 * PIECE * 105 / 100, "{} blocks", metadata.blocks());
    let mut start = vec![0; 5 * PIECE as usize];
    std::io::Read::read_exact(&mut File::open(world.target().join("image")).unwrap(), &mut start).unwrap();
    let owners: Vec<u8> = start.chunks(PIECE as usize).map(|piece| piece[0]).collect();
    assert_eq!(owners, [0, 1, 2, 3, 0]);
}

#[test]
fn who_is_not_root_keeps_what_he_restores_and_is_told() {
    if !is_root() {
        return not_run("only root can become somebody else");
    }
    let world = World::new();
    fs::set_permissions(world.scratch.path(), Permissions::from_mode(0o777)).unwrap();
    let report = as_nobody(|| {
        let target = Target::into_new(&world.target(), &test_cx()).unwrap();
        let mut program = file("program", 3);
        program.attributes = Attributes { mode: 0o4755, uid: 0, gid: 0, ..program.attributes };
        program.attributes.xattrs = vec![Xattr { name: b"trusted.x".to_vec(), value: vec![1] }];
        let mut locked = entry("locked", EntryKind::Directory);
        locked.attributes.mode = 0;
        place(&target, &locked, b"").unwrap();
        place(&target, &file("locked/inside", 3), b"new").unwrap();
        place(&target, &program, b"new").unwrap();
        program.path = path("again");
        place(&target, &program, b"new").unwrap();
        check_problem(
            place(&target, &entry("null", EntryKind::CharDevice { major: 1, minor: 3 }), b""),
            "not-written",
        );
        target.finish().unwrap()
    });
    assert_eq!(report.n_owners_not_set, 2);
    let codes: Vec<_> = report.problems.iter().map(|problem| &*problem.code).collect();
    assert_eq!(codes, ["set-id-dropped", "xattr-not-set"]);
    assert!(report.problems[1].what.contains("on 1 others"), "{}", report.problems[1]);
    let metadata = world.target().join("program").metadata().unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.uid()), (0o755, NOBODY));
    assert_eq!(world.target().join("locked").metadata().unwrap().mode() & 0o7777, 0);
    assert_eq!(fs::read(world.target().join("locked/inside")).unwrap(), b"new");
}

/// A file system in memory, mounted for one test.
struct Mounted(PathBuf);

impl Mounted {
    fn at(path: PathBuf, options: &str) -> Option<Self> {
        fs::create_dir_all(&path).unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(&path).output();
        mount.is_ok_and(|output| output.status.success()).then_some(Self(path))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn mounts_are_crossed_only_when_that_is_allowed() {
    let world = World::new();
    world.write("mounted/below", "under the mount");
    let Some(mounted) = Mounted::at(world.source().join("mounted"), "size=1m") else {
        return not_run("only root can mount");
    };
    fs::write(mounted.0.join("inside"), "other").unwrap();
    let listed = |one_file_system| {
        let snapshot = read_all(FilesSettings { one_file_system, ..settings(&world.source()) });
        assert!(snapshot.problems.is_empty());
        (
            snapshot.paths().iter().any(|path| path.ends_with("/mounted")),
            snapshot.paths().iter().any(|path| path.ends_with("inside")),
        )
    };
    assert_eq!((listed(true), listed(false)), ((true, false), (true, true)));

    let refused = Target::into_existing(&mounted.0, Overwrite::Always, Mounts::Refuse, &test_cx());
    assert_eq!(refused.unwrap_err().code(), ErrorCode::Forbidden);
    let target = existing(&world.source(), Overwrite::Always);
    check_problem(place(&target, &entry("mounted", EntryKind::Directory), b""), "in-the-way");
    check_problem(place(&target, &file("mounted/inside", 3), b"new"), "in-the-way");
    drop(target);
    assert_eq!(fs::read(mounted.0.join("inside")).unwrap(), b"other");
    let target =
        Target::into_existing(&world.source(), Overwrite::Always, Mounts::Cross, &test_cx()).unwrap();
    place(&target, &file("mounted/inside", 3), b"new").unwrap();
    target.finish().unwrap();
    assert_eq!(fs::read(mounted.0.join("inside")).unwrap(), b"new");
}

#[test]
fn a_full_disk_ends_the_restore_and_leaves_no_file_that_looks_right() {
    let world = World::new();
    let Some(mounted) = Mounted::at(world.scratch.path().join("disk"), "size=256k") else {
        return not_run("only root can mount");
    };
    let target = Target::into_new(&mounted.0.join("new"), &test_cx()).unwrap();
    let mut n_whole = 0;
    let error = loop {
        match place(&target, &file(&format!("f{n_whole}"), 50_000), &[1; 50_000]) {
            Ok(_) => n_whole += 1,
            Err(PlaceError::Target(error)) => break error,
            Err(PlaceError::Entry(problem)) => panic!("{problem}"),
        }
    };
    assert_eq!(error.code(), ErrorCode::NoSpace);
    assert!(matches!(error, SourceError::Io { .. }));
    let sizes: Vec<_> =
        fs::read_dir(mounted.0.join("new")).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).collect();
    assert_eq!(sizes, vec![50_000; n_whole]);
}
