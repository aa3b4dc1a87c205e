//! Interrupted restores (G-2): whatever stands under its final name is right, and the same command goes on.

use super::disk::Disk;
use super::kill::{can_step, count, start};
use super::world::World;
use super::{full, points};
use hikae_testkit::stepper::Step;
use std::path::Path;

/// No regular file below `found` that has a name of the source's differs from it.
fn check_names(source: &Path, found: &Path) -> Result<u32, String> {
    let mut n_right = 0;
    let Ok(names) = std::fs::read_dir(source) else { return Ok(0) };
    for name in names.map(|entry| entry.unwrap().file_name()) {
        let (expected, restored) = (source.join(&name), found.join(&name));
        let Ok(there) = std::fs::symlink_metadata(&restored) else { continue };
        if there.is_dir() {
            n_right += check_names(&expected, &restored)?;
        } else if there.is_file() {
            if std::fs::read(&expected).unwrap() != std::fs::read(&restored).unwrap() {
                return Err(format!("{} looks right and is not ({} bytes)", restored.display(), there.len()));
            }
            n_right += 1;
        }
    }
    Ok(n_right)
}

#[test]
fn a_restore_that_dies_leaves_no_file_that_looks_right_and_goes_on() {
    if !can_step() {
        return;
    }
    let mut template = World::with_a_snapshot();
    let snapshot = template.back_up();
    let args = ["restore", &snapshot, "--target", "restored"];
    let n_points = count(&template, &args);
    let (mut n_killed, mut wrong) = (0, Vec::new());
    for n in points(n_points, 6) {
        let world = template.copy();
        let mut stepper = start(&world, &args);
        let mut at = stepper.step().unwrap();
        for _ in 1..n {
            at = stepper.step().unwrap();
        }
        let Step::Before(call) = at else { continue };
        stepper.kill().unwrap();
        n_killed += 1;
        let target = world.path("restored");
        let result = check_names(&world.source(), &world.restored(&target)).and_then(|_| {
            let ran = world.run(&[&args[..], &["--overwrite", "if-changed", "--yes"]].concat());
            match ran.code {
                Some(0) => world.compare(&snapshot, &target),
                _ => Err(format!("again: {ran:#?}")),
            }
        });
        if let Err(what) = result {
            wrong.push(format!("killed at point {n}, before {call}: {what}"));
        }
    }
    println!("restore: {n_killed} kills of {n_points} points, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn a_restore_to_a_full_disk_leaves_no_file_that_looks_right_and_goes_on() {
    let mut template = World::with_a_snapshot();
    let snapshot = template.back_up();
    let mut n_full = 0;
    for kibibytes in (16..720).step_by(if full() { 16 } else { 160 }) {
        let Some(disk) = Disk::of_memory(&format!("size={kibibytes}k")) else { return };
        let target = disk.path().join("restored");
        let args = ["restore", &snapshot, "--target", target.to_str().unwrap()];
        let ran = template.run(&args);
        if ran.code == Some(0) {
            continue;
        }
        n_full += 1;
        assert_eq!(ran.code, Some(5), "{kibibytes} KiB: {ran:#?}");
        check_names(&template.source(), &template.restored(&target)).unwrap();
        disk.remount("size=16m");
        template.ok(&[&args[..], &["--overwrite", "if-changed", "--yes"]].concat());
        template.compare(&snapshot, &target).unwrap_or_else(|what| panic!("{kibibytes} KiB: {what}"));
    }
    println!("restore to a full disk: {n_full} sizes too small");
    assert!(n_full > 1);
}
