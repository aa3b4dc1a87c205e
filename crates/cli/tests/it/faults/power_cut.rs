//! Power cuts on an ext4 file system of its own: what was acknowledged is there when the power is back.

use super::disk::Disk;
use super::full;
use super::kill::{can_step, count, start};
use super::world::{INIT, World};
use hikae_testkit::stepper::Step;
use hikae_testkit::{Seed, TestRandom};

/// A world of which everything but the source is on the disk: the repository, the caches and the key.
fn world_on(disk: &Disk) -> World {
    let mut world = World::on(disk.path());
    // The configuration is ours; all that comes after it is hikae's to keep.
    disk.sync();
    world.ok(&INIT);
    world.back_up();
    world
}

/// Now and then only the newest stay, so that the disk does not fill up.
fn make_room(world: &World, step: u32) {
    if step.is_multiple_of(4) {
        world.ok(&["forget", "--keep-last", "2", "--even-many"]);
        world.ok(&["prune", "--soft", "0s", "--orphan-grace", "0s"]);
    }
}

/// Whether the power can be cut here. Some kernels and containers do not let us.
#[track_caller]
fn cut(disk: &Disk) -> bool {
    match disk.cut() {
        Ok(()) => true,
        Err(why) => {
            hikae_testkit::not_run(&format!("the power cannot be cut: {why}"));
            false
        }
    }
}

#[test]
fn what_was_acknowledged_survives_a_power_cut() {
    let Some(disk) = Disk::ext4(64) else { return };
    let mut world = world_on(&disk);
    let n_cuts = if full() { 60 } else { 3 };
    for step in 1..=n_cuts {
        world.change(step);
        world.back_up();
        let acknowledged = world.snapshots();
        if !cut(&disk) {
            return;
        }
        disk.power_on();
        world.check(&acknowledged).unwrap_or_else(|what| panic!("cut {step}: {what}"));
        make_room(&world, step);
    }
    println!("power cuts after an acknowledgement: {n_cuts}, nothing lost");
}

#[test]
fn a_power_cut_in_the_middle_leaves_a_whole_snapshot_or_none() {
    if !can_step() {
        return;
    }
    let Some(disk) = Disk::ext4(64) else { return };
    let mut world = world_on(&disk);
    let random = TestRandom::new(Seed::draw());
    world.change(1);
    let n_points = count(&world, &["backup"]);
    let n_cuts = if full() { 60 } else { 3 };
    for step in 1..=n_cuts {
        let acknowledged = world.snapshots();
        for id in &acknowledged {
            world.remember_once(id);
        }
        world.change(step + 1);
        let mut stepper = start(&world, &["backup"]);
        let n = 1 + random.below(n_points);
        let mut at = String::new();
        for _ in 0..n {
            match stepper.step().unwrap() {
                Step::Before(call) => at = call.to_string(),
                Step::Ended(_) => break,
            }
        }
        let was_cut = cut(&disk);
        stepper.kill().unwrap();
        if !was_cut {
            return;
        }
        disk.power_on();
        world
            .check(&acknowledged)
            .unwrap_or_else(|what| panic!("cut {step}, at point {n}, before {at}: {what}"));
        world.ok(&["backup"]);
        make_room(&world, step);
    }
    println!("power cuts in the middle: {n_cuts}, nothing lost");
}
