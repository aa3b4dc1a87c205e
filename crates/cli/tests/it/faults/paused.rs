//! A process that sleeps while others forget, prune and remove (D-2, D-3): it is held before its n-th call, the
//! others run to their ends, and it wakes up. It ends with a whole snapshot, or fails without one.

use super::kill::{can_step, count, start};
use super::points;
use super::world::World;
use hikae_testkit::stepper::{Ended, Step};

const PRUNE: [&str; 5] = ["prune", "--soft", "0s", "--orphan-grace", "0s"];

/// Holds an operation before each of its points while `others` run.
fn hold_everywhere(name: &str, template: &World, args: &[&str], acknowledged: &[String], others: &[&[&str]]) {
    let n_points = count(template, args);
    let (mut n_well, mut n_failed, mut wrong) = (0, 0, Vec::new());
    for n in points(n_points, 6) {
        let world = template.copy();
        let mut stepper = start(&world, args);
        let mut at = stepper.step().unwrap();
        for _ in 1..n {
            at = stepper.step().unwrap();
        }
        let Step::Before(call) = at else { continue };
        for other in others {
            world.ok(other);
        }
        let before = world.snapshots();
        let ended = stepper.finish().unwrap();
        let n_new = world.snapshots().iter().filter(|id| !before.contains(id)).count();
        let said = std::fs::read_to_string(world.path("tmp/output")).unwrap();
        let result = match ended {
            Ended::With(0) => {
                n_well += 1;
                world.check(acknowledged)
            }
            Ended::With(1..=99) if n_new == 0 => {
                n_failed += 1;
                world.check(acknowledged)
            }
            ended => Err(format!("{ended:?} with {n_new} new snapshots: {said}")),
        };
        if let Err(what) = result.and_then(|()| world.check(&before)) {
            wrong.push(format!("{name} held at point {n}, before {call}: {what}\nafter {said}"));
        }
    }
    let n_wrong = wrong.len();
    println!(
        "{name}: held at {} of {n_points} points, {n_well} ended well, {n_failed} failed closed, {n_wrong} wrong",
        n_well + n_failed
    );
    wrong.truncate(5);
    assert!(wrong.is_empty(), "{n_wrong}:\n{}", wrong.join("\n\n"));
    assert!(n_well > 0, "it never ended well");
}

#[test]
fn a_backup_that_slept_through_a_prune_is_whole_or_fails() {
    if !can_step() {
        return;
    }
    let template = World::with_a_snapshot();
    let acknowledged = template.snapshots();
    hold_everywhere("backup", &template, &["backup"], &acknowledged, &[&PRUNE, &PRUNE]);
}

#[test]
fn a_backup_whose_parent_was_forgotten_and_pruned_is_whole_or_fails() {
    if !can_step() {
        return;
    }
    let template = World::with_a_snapshot();
    let first = template.snapshots().remove(0);
    let forget = ["forget", &first, "--even-last"];
    let prune = [&PRUNE[..], &["--even-without-snapshots"]].concat();
    hold_everywhere("backup without its parent", &template, &["backup"], &[], &[&forget, &prune, &prune]);
}

#[test]
fn a_prune_that_slept_while_others_worked_takes_nothing_that_is_needed() {
    if !can_step() {
        return;
    }
    let mut template = World::with_a_snapshot();
    let first = template.snapshots().remove(0);
    template.back_up();
    template.ok(&["forget", &first]);
    let acknowledged = template.snapshots();
    template.change(2);
    for id in &acknowledged {
        assert_ne!(*id, first);
    }
    hold_everywhere("prune", &template, &PRUNE, &acknowledged, &[&["backup"], &PRUNE]);
}
