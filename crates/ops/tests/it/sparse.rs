//! Frames of which less than half is needed go, also where nothing of the source changes any more.

use crate::world::World;
use hikae_model::{Random, SnapshotId};
use hikae_ops::restore::restore_files;
use hikae_repo::forget::{ForgetOptions, ToForget, forget};
use hikae_repo::prune::{PruneOptions, PrunePlan, prune, remove_doomed};
use hikae_source::files::Target;
use hikae_testkit::{Seed, TestRandom, tree};
use std::fs;
use std::path::Path;
use std::time::Duration;

const FILES: usize = 40;
const FILE_BYTES: usize = 10_000;

fn write(source: &Path, file: usize, version: u64) {
    let mut noise = vec![0; FILE_BYTES];
    TestRandom::new(Seed(version * 1000 + file as u64)).fill(&mut noise);
    fs::write(source.join(format!("file-{file:02}")), noise).unwrap();
}

/// Forgets a snapshot and gives back all space that can be.
fn drop_snapshot(world: &World, id: SnapshotId) -> PrunePlan {
    let options = ForgetOptions { even_last: true, even_many: true };
    forget(&world.repo, &ToForget::Snapshots([id].into()), "", options, &world.cx).unwrap();
    let options = PruneOptions { soft: Duration::ZERO, max_unused_percent: 0, ..PruneOptions::default() };
    let report = prune(&world.repo, &options, &world.cx).unwrap();
    remove_doomed(&world.repo, &world.cx).unwrap();
    report.plan
}

#[test]
fn frames_that_only_unchanged_files_need_are_given_back() {
    let world = World::new();
    let source = world.path("source");
    fs::create_dir(&source).unwrap();
    (0..FILES).for_each(|file| write(&source, file, 1));
    let (first, _) = world.backup_files(&source);
    // Three quarters of what lies together in one frame change, and nothing ever after.
    (0..FILES).filter(|file| file % 4 != 0).for_each(|file| write(&source, file, 2));
    let (second, _) = world.backup_files(&source);
    let plan = drop_snapshot(&world, first);
    let kept = (FILES * FILE_BYTES) as u64;
    assert!(plan.totals.sparse_bytes > kept / 2, "{plan}");
    assert!(plan.totals.living_bytes > kept * 3 / 2, "{plan}");

    let (third, report) = world.backup_files(&source);
    assert_eq!(report.snapshots[0].read_bytes, kept / 4, "no file was read anew, or too many were");
    let plan = drop_snapshot(&world, second);
    assert!(plan.totals.sparse_bytes < kept / 10, "{plan}");
    assert!(plan.totals.living_bytes < kept * 11 / 10, "{plan}");
    assert_eq!(world.backup_files(&source).1.snapshots[0].read_bytes, 0);

    let target = Target::into_new(&world.path("out"), &world.cx).unwrap();
    restore_files(&world.open_afresh(), third, &[], target, &world.cx).unwrap();
    tree::assert_same(&source, &world.path("out").join(source.strip_prefix("/").unwrap()));
}
