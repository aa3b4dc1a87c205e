//! Files, backed up and restored.

use crate::world::{World, files, named};
use hikae_model::{Outcome, TreePath};
use hikae_ops::OpsError;
use hikae_ops::backup::NamedSource;
use hikae_ops::restore::restore_files;
use hikae_repo::Repo;
use hikae_repo::reach::{Entries, Named};
use hikae_repo::reader::BlobReader;
use hikae_source::files::{FilesSettings, FilesSource, Mounts, Overwrite, Target};
use hikae_testkit::random_tree::{Growth, grow};
use hikae_testkit::{Seed, tree};
use std::fs;
use std::path::{Path, PathBuf};

/// Where a folder of the world stands below a restore of everything.
fn below(target: &Path, original: &Path) -> PathBuf {
    target.join(original.strip_prefix("/").unwrap())
}

/// Keeps G-1, MK-13, RS-10, IN-5.
#[test]
fn everything_a_tree_holds_comes_back() {
    for _ in 0..4 {
        let world = World::new();
        let source = world.path("source");
        fs::create_dir(&source).unwrap();
        grow(&source, Seed::draw(), Growth::default()).unwrap();
        let (snapshot, report) = world.backup_files(&source);
        assert_eq!(report.outcome, Outcome::Complete, "{:?}", report.snapshots[0].problems);

        let target = Target::into_new(&world.path("out"), &world.cx).unwrap();
        let restored = restore_files(&world.open_afresh(), snapshot, &[], target, &world.cx).unwrap();
        assert_eq!(restored.outcome, Outcome::Complete, "{:?}", restored.problems);
        tree::assert_same(&source, &below(&world.path("out"), &source));
    }
}

/// Keeps MK-80.
#[test]
fn what_did_not_change_is_not_read_again() {
    let world = World::new();
    let source = world.path("source");
    fs::create_dir(&source).unwrap();
    for n in 0..2000 {
        fs::write(source.join(format!("file-{n:04}")), vec![n as u8; n % 700]).unwrap();
    }
    world.backup_files(&source);
    fs::write(source.join("file-0700"), b"changed").unwrap();
    fs::remove_file(source.join("file-0800")).unwrap();
    fs::write(source.join("new"), b"new!!").unwrap();
    let (snapshot, report) = world.backup_files(&source);
    assert_eq!(report.snapshots[0].read_bytes, 7 + 5);

    let target = Target::into_new(&world.path("out"), &world.cx).unwrap();
    restore_files(&world.repo, snapshot, &[], target, &world.cx).unwrap();
    tree::assert_same(&source, &below(&world.path("out"), &source));
}

/// Keeps MK-28.
#[test]
fn the_sources_of_a_run_share_its_id_and_the_skew_between_them_is_told() {
    let world = World::new();
    let sources = ["one", "two"].map(|name| {
        let source = world.path(name);
        fs::create_dir(&source).unwrap();
        fs::write(source.join("file"), name).unwrap();
        NamedSource { name: name.to_owned(), ..files(&source) }
    });
    let report = world.backup(&sources).unwrap();
    let records: Vec<_> =
        report.snapshots.iter().map(|one| world.repo.snapshot(one.id.unwrap()).unwrap().record).collect();
    assert_eq!(records.iter().map(|record| record.source.as_str()).collect::<Vec<_>>(), ["one", "two"]);
    assert!(records.iter().all(|record| record.run == report.run));
    let skew = records[1].moment.duration_since(records[0].moment).as_secs_f64();
    assert!(skew > 0.0 && (report.skew_seconds - skew).abs() < 1e-6, "{skew} {}", report.skew_seconds);
}

/// whatever of size and time of modification stays as it was, the next snapshot has what the file holds now.
#[test]
fn a_file_that_was_changed_behind_its_size_and_time_is_read_again() {
    for (same_size, same_time) in [(true, true), (true, false), (false, true), (false, false)] {
        let world = World::new();
        let source = world.path("source");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("file"), "before").unwrap();
        world.backup_files(&source);
        let modified = fs::metadata(source.join("file")).unwrap().modified().unwrap();
        fs::write(source.join("file"), if same_size { "after!" } else { "afterwards" }).unwrap();
        if same_time {
            fs::File::open(source.join("file")).unwrap().set_modified(modified).unwrap();
        }
        let (snapshot, _) = world.backup_files(&source);
        let target = Target::into_new(&world.path("out"), &world.cx).unwrap();
        restore_files(&world.repo, snapshot, &[], target, &world.cx).unwrap();
        tree::assert_same(&source, &below(&world.path("out"), &source));
    }
}

#[test]
fn one_folder_of_a_snapshot_comes_back_and_nothing_else() {
    let world = World::new();
    let source = world.path("source");
    for path in ["a/one", "a/two", "a-b/three", "b/four"] {
        fs::create_dir_all(source.join(path).parent().unwrap()).unwrap();
        fs::write(source.join(path), path).unwrap();
    }
    let (snapshot, _) = world.backup_files(&source);
    let wanted = source.join("a");
    let path = TreePath::parse(wanted.strip_prefix("/").unwrap().as_os_str().as_encoded_bytes()).unwrap();
    let missing = TreePath::parse("not/there").unwrap();
    let target = Target::into_new(&world.path("out"), &world.cx).unwrap();
    let report = restore_files(&world.repo, snapshot, &[path, missing], target, &world.cx).unwrap();
    let names = |at: &Path| fs::read_dir(at).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(names(&below(&world.path("out"), &source)), ["a"]);
    assert_eq!(names(&below(&world.path("out"), &wanted)).len(), 2);
    assert_eq!(report.problems.len(), 1);
    assert_eq!(report.problems[0].code, "not-in-snapshot");
}

#[test]
fn what_already_stands_is_treated_as_asked() {
    for (overwrite, expected) in [(Overwrite::Never, "mine"), (Overwrite::Always, "theirs")] {
        let world = World::new();
        let source = world.path("source");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("file"), "theirs").unwrap();
        let (snapshot, _) = world.backup_files(&source);
        let file = below(&world.path("out"), &source).join("file");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "mine").unwrap();
        let target = Target::into_existing(&world.path("out"), overwrite, Mounts::Refuse, &world.cx).unwrap();
        restore_files(&world.repo, snapshot, &[], target, &world.cx).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), expected);
    }
}

/// Keeps X-9.
#[test]
fn a_source_that_fails_neither_hides_nor_stops_the_others() {
    let world = World::new();
    let source = world.path("source");
    fs::create_dir(&source).unwrap();
    let gone =
        FilesSettings { include: vec![world.path("gone").as_path().into()], ..FilesSettings::default() };
    let report = world.backup(&[named("gone", FilesSource::new(gone).unwrap()), files(&source)]).unwrap();
    assert_eq!(report.outcome, Outcome::Failed);
    assert_eq!(report.snapshots[0].id, None);
    assert_eq!(report.snapshots[0].problems[0].code, "source-missing");
    assert!(report.snapshots[1].id.is_some());
    assert_eq!(world.repo.follow().unwrap().snapshots.len(), 1);
}

#[test]
fn a_failing_program_before_a_source_fails_its_run_and_what_comes_after_still_runs() {
    let world = World::new();
    let (source, after) = (world.path("source"), world.path("after"));
    fs::create_dir(&source).unwrap();
    let mut named = files(&source);
    named.hooks.before = vec![vec!["false".to_owned()]];
    named.hooks.after = vec![vec!["touch".to_owned(), after.to_str().unwrap().to_owned()]];
    let report = world.backup(&[named]).unwrap();
    assert_eq!(report.outcome, Outcome::Failed);
    assert!(report.snapshots[0].problems[0].what.contains("`false`"), "{:?}", report.snapshots[0].problems);
    assert!(after.exists());
    assert!(world.repo.follow().unwrap().snapshots.is_empty());
}

/// Keeps MK-14.
#[test]
fn a_program_that_hangs_is_ended_at_its_time_limit() {
    let world = World::new();
    let source = world.path("source");
    fs::create_dir(&source).unwrap();
    let mut named = files(&source);
    named.hooks.before = vec![vec!["sleep".to_owned(), "60".to_owned()]];
    named.hooks.time_limit = std::time::Duration::from_millis(100);
    let report = world.backup(&[named]).unwrap();
    assert!(
        report.snapshots[0].problems[0].what.contains("took longer"),
        "{:?}",
        report.snapshots[0].problems
    );
}

/// A program that starts another, which would go on for a minute, and tells its number in `file`.
fn parent_and_child(file: &Path) -> Vec<String> {
    let script = format!("sleep 60 & echo $! > {}; wait", file.display());
    vec!["/bin/sh".to_owned(), "-c".to_owned(), script]
}

#[track_caller]
fn check_child_is_gone(file: &Path) {
    let number = fs::read_to_string(file).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", number.trim()));
    // It may still have to be waited for by who adopted it.
    assert!(status.is_err() || status.unwrap().contains("State:\tZ"), "process {number} goes on");
}

/// Keeps MK-14.
#[test]
fn all_that_a_program_started_ends_with_it_at_its_time_limit() {
    let world = World::new();
    let (source, child) = (world.path("source"), world.path("child"));
    fs::create_dir(&source).unwrap();
    let mut named = files(&source);
    named.hooks.before = vec![parent_and_child(&child)];
    named.hooks.time_limit = std::time::Duration::from_millis(500);
    let report = world.backup(&[named]).unwrap();
    let what = &report.snapshots[0].problems[0].what;
    assert!(what.contains("`/bin/sh -c") && what.contains("before it is read"), "{what}");
    check_child_is_gone(&child);
}

/// Keeps MK-14.
#[test]
fn a_run_that_is_cancelled_ends_what_runs_before_and_still_runs_what_comes_after() {
    let world = World::new();
    let (source, child, after) = (world.path("source"), world.path("child"), world.path("after"));
    fs::create_dir(&source).unwrap();
    let mut named = files(&source);
    named.hooks.before = vec![parent_and_child(&child)];
    named.hooks.after = vec![vec!["touch".to_owned(), after.to_str().unwrap().to_owned()]];
    named.hooks.time_limit = std::time::Duration::from_secs(50);
    let cancel = world.cx.cancel().clone();
    let started = child.clone();
    let canceller = std::thread::spawn(move || {
        while !fs::read_to_string(&started).is_ok_and(|text| text.ends_with('\n')) {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        cancel.cancel();
    });
    let began = world.cx.elapsed();
    assert!(matches!(world.backup(&[named]), Err(OpsError::Cancelled(_))));
    canceller.join().unwrap();
    assert!(world.cx.elapsed() - began < std::time::Duration::from_secs(30));
    check_child_is_gone(&child);
    assert!(after.exists());
}

#[test]
fn a_cancelled_run_leaves_no_snapshot() {
    let world = World::new();
    let source = world.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "content").unwrap();
    world.cx.cancel().cancel();
    assert!(matches!(world.backup(&[files(&source)]), Err(OpsError::Cancelled(_) | OpsError::Repo(_))));
    let log = |repo: &Repo| repo.state().snapshots.len();
    assert_eq!(log(&world.open_afresh()), 0);
}

#[test]
fn a_damaged_pack_costs_the_files_in_it_and_no_others() {
    let world = World::new();
    let source = world.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("first"), noise(1, 900_000)).unwrap();
    let (first, _) = world.backup_files(&source);
    fs::write(source.join("second"), noise(2, 600_000)).unwrap();
    let (second, _) = world.backup_files(&source);
    flip_a_byte_of(&world, first, &source.join("first"));

    let target = Target::into_new(&world.path("out"), &world.cx).unwrap();
    let report = restore_files(&world.repo, second, &[], target, &world.cx).unwrap();
    assert_eq!(report.outcome, Outcome::WithProblems);
    assert_eq!((report.problems.len(), report.n_damaged), (1, 1), "{:?}", report.problems);
    assert!(report.problems[0].on.ends_with("first"));
    let out = below(&world.path("out"), &source);
    assert!(!out.join("first").exists());
    assert_eq!(fs::read(out.join("second")).unwrap(), noise(2, 600_000));
}

/// Bytes that do not compress, the same for the same number.
pub fn noise(number: u64, bytes: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..bytes.div_ceil(8)).flat_map(|_| next()).take(bytes).collect()
}

/// The pack that holds a file's first blob, and where its frame begins in it.
pub fn pack_of(world: &World, snapshot: hikae_model::SnapshotId, file: &Path) -> (PathBuf, usize) {
    let record = world.repo.snapshot(snapshot).unwrap().record;
    let named = Named { id: snapshot, record: &record };
    let path = TreePath::parse(file.strip_prefix("/").unwrap().as_os_str().as_encoded_bytes()).unwrap();
    let mut entries = Entries::of(BlobReader::new(&world.repo).unwrap(), named, Some(&path)).unwrap();
    let stored =
        std::iter::from_fn(|| entries.next_entry().unwrap()).find(|stored| stored.entry.path == path);
    let maps = entries.reader().extents(&stored.unwrap().content).unwrap();
    let place = entries.reader().places(maps[0].blobs()[0]).unwrap().remove(0);
    let name = place.pack.to_string();
    (world.path("repo").join("packs").join(&name[..2]).join(&name), place.frame.offset as usize)
}

/// Damages the stored bytes of the frame that holds a file's first blob.
pub fn flip_a_byte_of(world: &World, snapshot: hikae_model::SnapshotId, file: &Path) {
    let (pack, offset) = pack_of(world, snapshot, file);
    let mut bytes = fs::read(&pack).unwrap();
    bytes[offset + 10] ^= 1;
    fs::remove_file(&pack).unwrap();
    fs::write(&pack, bytes).unwrap();
}
