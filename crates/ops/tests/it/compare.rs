//! A restored tree that differs from its snapshot is found to differ, however little it is (G-8): what a drill of
//! files rests on.

use crate::files::noise;
use crate::world::World;
use hikae_model::SnapshotId;
use hikae_ops::compare::{Comparison, Exactness, compare};
use hikae_ops::restore::restore_files;
use hikae_source::files::Target;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A snapshot, and where it was restored.
struct Restored {
    world: World,
    snapshot: SnapshotId,
    target: PathBuf,
    /// The tree that was backed up, below the target.
    inside: PathBuf,
}

impl Restored {
    fn new() -> Self {
        let world = World::new();
        let source = world.path("source");
        fs::create_dir_all(source.join("directory")).unwrap();
        fs::write(source.join("large"), noise(1, 600_000)).unwrap();
        fs::write(source.join("small"), "small").unwrap();
        fs::write(source.join("directory/last"), "last").unwrap();
        File::create(source.join("hole")).unwrap().set_len(1 << 20).unwrap();
        symlink("small", source.join("link")).unwrap();
        let (snapshot, _) = world.backup_files(&source);
        let target = world.path("restored");
        let into = Target::into_new(&target, &world.cx).unwrap();
        restore_files(&world.repo, snapshot, &[], into, &world.cx).unwrap();
        let inside = target.join(source.strip_prefix("/").unwrap());
        Self { world, snapshot, target, inside }
    }

    fn compare(&self) -> Comparison {
        let exactness = Exactness { owners: true, xattrs: true };
        compare(&self.world.repo, self.snapshot, &self.target, exactness, &self.world.cx).unwrap()
    }
}

/// G-8: as it was restored it is the same, and after `harm` to `name` that differs and nothing else.
#[track_caller]
fn assert_seen(name: &str, harm: impl FnOnce(&Path)) {
    let restored = Restored::new();
    let whole = restored.compare();
    assert_eq!((whole.n_differences, whole.found_entries), (0, whole.expected_entries), "{whole:?}");
    assert_eq!(whole.same_bytes, 600_000 + 5 + 4 + (1 << 20));
    let path = restored.inside.join(name);
    // What is made or removed changes its directory as well.
    let directory = path.parent().unwrap();
    let modified = fs::metadata(directory).unwrap().modified().unwrap();
    harm(&path);
    File::open(directory).unwrap().set_modified(modified).unwrap();
    let found = restored.compare();
    assert!(found.n_differences > 0, "{found:?}");
    assert!(found.differences.iter().all(|problem| problem.on.ends_with(name)), "{found:?}");
}

/// Writes and leaves the time of modification as it was.
fn write_unnoticed(path: &Path, offset: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(bytes, offset).unwrap();
    file.set_modified(modified).unwrap();
}

#[test]
fn a_changed_byte_is_seen() {
    let byte = noise(1, 600_000)[400_000];
    assert_seen("large", |path| write_unnoticed(path, 400_000, &[byte ^ 1]));
    assert_seen("hole", |path| write_unnoticed(path, 5000, b"x"));
}

#[test]
fn a_file_that_is_longer_or_shorter_is_seen() {
    assert_seen("small", |path| write_unnoticed(path, 5, b"x"));
    assert_seen("large", |path| File::options().write(true).open(path).unwrap().set_len(599_999).unwrap());
}

#[test]
fn what_is_missing_is_seen() {
    assert_seen("small", |path| fs::remove_file(path).unwrap());
    assert_seen("directory/last", |path| fs::remove_file(path).unwrap());
}

#[test]
fn what_should_not_be_there_is_seen() {
    assert_seen("more", |path| fs::write(path, "").unwrap());
}

#[test]
fn another_mode_time_or_target_is_seen() {
    assert_seen("small", |path| fs::set_permissions(path, Permissions::from_mode(0o640)).unwrap());
    let later = SystemTime::UNIX_EPOCH + Duration::from_nanos(1);
    assert_seen("small", |path| File::options().write(true).open(path).unwrap().set_modified(later).unwrap());
    assert_seen("link", |path| {
        fs::remove_file(path).unwrap();
        symlink("large", path).unwrap();
    });
}
