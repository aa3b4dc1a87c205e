//! A full disk (B-1, B-7): a clean failure that says where, nothing lost, and all is well once there is room.

use super::disk::Disk;
use super::full;
use super::world::{World, copy_all};

/// A copy of the world whose repository stands on a disk.
fn on_disk(template: &World, disk: &Disk, reserve: Option<&str>) -> World {
    let world = template.copy();
    let repo = disk.path().join("repo");
    std::fs::create_dir(&repo).unwrap();
    copy_all(&template.path("repo"), &repo);
    world.configure(&repo, reserve);
    world
}

/// Backs up to a disk that may be too small, makes it larger, and backs up again. True if it was too small.
#[track_caller]
fn back_up_on(template: &World, acknowledged: &[String], small: &str, large: &str) -> Option<bool> {
    let disk = Disk::of_memory("size=16m")?;
    let world = on_disk(template, &disk, Some("0 B"));
    disk.remount(small);
    let ran = world.run(&["backup"]);
    let was_full = match ran.code {
        Some(0) => false,
        Some(5) => {
            let store = disk.path().join("repo");
            assert!(ran.err.contains(store.to_str().unwrap()), "the store is not named: {ran:#?}");
            true
        }
        _ => panic!("{small}: {ran:#?}"),
    };
    world.check(acknowledged).unwrap_or_else(|what| panic!("{small}: {what}"));
    disk.remount(large);
    world.ok(&["backup"]);
    world.check(acknowledged).unwrap_or_else(|what| panic!("{small}, then {large}: {what}"));
    Some(was_full)
}

#[test]
fn a_backup_to_a_full_disk_fails_cleanly_at_every_size() {
    let template = World::with_a_snapshot();
    let acknowledged = template.snapshots();
    let used = {
        let Some(disk) = Disk::of_memory("size=16m") else { return };
        let _world = on_disk(&template, &disk, None);
        disk.used() >> 10
    };
    let step = if full() { 16 } else { 128 };
    let (mut n_full, mut size) = (0, used);
    // The backup puts less than this to it.
    while size < used + 900 {
        let Some(was_full) = back_up_on(&template, &acknowledged, &format!("size={size}k"), "size=16m")
        else {
            return;
        };
        n_full += u32::from(was_full);
        size += step;
    }
    println!("disk full: {} sizes, {n_full} too small", 900 / step + 1);
    assert!(n_full > 1, "no disk was full");
}

#[test]
fn a_disk_without_inodes_is_a_full_disk() {
    let template = World::with_a_snapshot();
    let acknowledged = template.snapshots();
    let used = {
        let Some(disk) = Disk::of_memory("size=16m,nr_inodes=10k") else { return };
        let _world = on_disk(&template, &disk, None);
        rustix::fs::statvfs(disk.path()).unwrap().f_files - rustix::fs::statvfs(disk.path()).unwrap().f_ffree
    };
    let mut n_full = 0;
    for more in (0..if full() { 16 } else { 4 }).map(|i| if full() { i } else { i * 3 }) {
        let small = format!("nr_inodes={}", used + more);
        let Some(was_full) = back_up_on(&template, &acknowledged, &small, "nr_inodes=10k") else { return };
        n_full += u32::from(was_full);
    }
    assert!(n_full > 1, "no disk was full");
}

#[test]
fn a_disk_that_backups_have_filled_can_still_be_pruned() {
    let template = World::with_a_snapshot();
    let Some(disk) = Disk::of_memory("size=16m") else { return };
    let mut world = on_disk(&template, &disk, None);
    disk.remount("size=4m");
    let full_at = (1..60).find(|step| {
        world.change(*step);
        let ran = world.run(&["backup"]);
        if let Some(new) = world.snapshots().first().cloned().filter(|_| ran.code == Some(0)) {
            world.remember(&new);
        }
        assert!(matches!(ran.code, Some(0 | 5)), "{ran:#?}");
        ran.code == Some(5)
    });
    assert!(full_at.is_some(), "the disk never was full");
    let before = disk.used();
    let newest = world.snapshots().remove(0);
    world.ok(&["forget", "--keep-last", "1", "--even-many"]);
    // The first dooms, the second removes, in case that one needs both.
    for _ in 0..2 {
        world.ok(&["prune", "--soft", "0s", "--orphan-grace", "0s"]);
    }
    assert!(disk.used() < before / 2, "{} of {before} bytes are still in use", disk.used());
    world.check(&[newest]).unwrap();
    world.ok(&["backup"]);
}

/// Indexes are read from the cache, so nothing goes without one. But it can be anywhere.
#[test]
fn a_full_disk_under_the_cache_changes_nothing() {
    let mut world = World::with_a_snapshot();
    let Some(disk) = Disk::of_memory("size=64k") else { return };
    let cache = disk.path().join("cache");
    std::fs::create_dir(&cache).unwrap();
    // So much that nothing else fits.
    drop(std::fs::write(disk.path().join("filler"), vec![7; 1 << 20]));
    let (full, elsewhere) = (cache.to_str().unwrap(), world.path("cache"));
    let first = world.snapshots().remove(0);
    for args in [
        &["list"][..],
        &["verify", "--read-data"],
        &["restore", &first, "--target", "restored"],
        &["backup"],
        &["forget", "--keep-last", "1"],
        &["prune", "--soft", "0s", "--orphan-grace", "0s"],
    ] {
        let ran = world.run(&[args, &["--cache", full]].concat());
        assert_eq!(ran.code, Some(5), "{args:?}: {ran:#?}");
        assert!(ran.err.contains(full) && ran.err.contains("HIKAE_CACHE"), "{args:?}: {ran:#?}");
        world.check(&[]).unwrap();
        world.ok(&[args, &["--cache", elsewhere.to_str().unwrap()]].concat());
    }
    let second = world.snapshots().remove(0);
    world.remember(&second);
    world.check(&[second]).unwrap();
}

#[test]
fn a_drill_without_room_does_not_pass() {
    let world = World::with_a_snapshot();
    let acknowledged = world.snapshots();
    for size in ["64k", "200k"] {
        let Some(disk) = Disk::of_memory(&format!("size={size}")) else { return };
        let ran = world.run(&["drill", "--scratch", disk.path().to_str().unwrap()]);
        assert_eq!(ran.code, Some(5), "{ran:#?}");
        let listed = world.ok(&["list", "--json"]).result();
        assert_ne!(listed[0]["drill_passed"], true, "{listed:#}");
        assert_eq!(std::fs::read_dir(disk.path()).unwrap().count(), 0, "the scratch is left behind");
    }
    world.check(&acknowledged).unwrap();
    world.ok(&["drill"]);
}
