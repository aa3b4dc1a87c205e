//! Signals that ask for an end: the run ends early and makes no snapshot, or ends well and makes one.

use super::kill::{can_step, count, start};
use super::points;
use super::world::{World, binary};
use hikae_testkit::stepper::{Ended, Step};
use rustix::process::Signal;
use std::process::{Command, Stdio};

#[test]
fn a_run_that_is_asked_to_end_makes_no_half_snapshot() {
    if !can_step() {
        return;
    }
    let template = World::with_a_snapshot();
    let acknowledged = template.snapshots();
    let n_points = count(&template, &["backup"]);
    let mut n_interrupted = 0;
    for (i, n) in points(n_points, 6).into_iter().enumerate() {
        let signal = [Signal::TERM, Signal::INT, Signal::HUP][i % 3];
        let world = template.copy();
        let mut stepper = start(&world, &["backup"]);
        for _ in 0..n {
            stepper.step().unwrap();
        }
        stepper.signal(signal.as_raw()).unwrap();
        let ended = stepper.finish().unwrap();
        let is_new = world.snapshots().len() > acknowledged.len();
        match ended {
            Ended::With(0) => assert!(is_new, "point {n}, {signal:?}: well, and no snapshot"),
            Ended::With(130) => {
                n_interrupted += 1;
                assert!(!is_new, "point {n}, {signal:?}: interrupted, and a snapshot");
            }
            ended => {
                let said = std::fs::read_to_string(world.path("tmp/output")).unwrap();
                // Before we listen, signals do what they always do.
                assert_eq!(ended, Ended::By(signal.as_raw()), "point {n}, {signal:?}: {said}");
                assert!(!is_new);
            }
        }
        world.check(&acknowledged).unwrap_or_else(|what| panic!("point {n}, {signal:?}: {what}"));
        world.ok(&["backup"]);
    }
    assert!(n_interrupted > 0, "no signal came in time");
}

#[test]
fn a_reader_that_goes_away_does_not_end_a_backup() {
    let world = World::with_a_snapshot();
    let acknowledged = world.snapshots();
    let mut child = world.hikae(&["backup", "--json-lines"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
    assert_eq!(world.snapshots().len(), acknowledged.len() + 1);
    world.check(&acknowledged).unwrap();
}

#[test]
fn a_limit_on_the_size_of_files_is_a_clean_failure() {
    let world = World::with_a_snapshot();
    let acknowledged = world.snapshots();
    // SIGXFSZ ends a process that does not expect it; either way there is no snapshot.
    let mut command = Command::new("prlimit");
    command.arg("--fsize=65536").arg(binary());
    let ended = world.dress(&mut command, &["backup"]).output().unwrap();
    assert_ne!(ended.status.code(), Some(0), "{ended:?}");
    assert_eq!(world.snapshots(), acknowledged);
    world.check(&acknowledged).unwrap();
    world.ok(&["backup"]);
}

#[test]
fn step_and_end_agree() {
    if !can_step() {
        return;
    }
    let world = World::with_a_snapshot();
    let mut stepper = start(&world, &["list"]);
    while !matches!(stepper.step().unwrap(), Step::Ended(Ended::With(0))) {}
}
