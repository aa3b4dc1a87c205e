//! Death at every system call that changes something: nothing that was acknowledged is lost, and the next call works.
//! Keeps E-7.

use crate::world::{SYSTEM, World, segment};
use hikae_testkit::not_run;
use hikae_testkit::stepper::{Ended, Step, Stepper, stepped};
use std::fs::File;

/// How many points are tried by default.
const QUICK: u64 = 16;

fn start(world: &World, verb: &str, more: &[&str]) -> Stepper {
    let call = world.call(verb);
    let mut command = stepped(&call[0]);
    let output = File::create(world.path("output")).unwrap();
    command.args(&call[1..]).args(more).current_dir(world.path("data"));
    Stepper::start(command.stdout(output.try_clone().unwrap()).stderr(output)).unwrap()
}

#[track_caller]
fn can_step() -> bool {
    let ended = Stepper::start(stepped("true").current_dir("/")).and_then(Stepper::finish);
    match ended {
        Ok(Ended::With(0)) => true,
        other => {
            not_run(&format!("processes cannot be traced here: {other:?}"));
            false
        }
    }
}

/// A server that has archived one segment and has four more ready.
fn backlog() -> World {
    let world = World::new();
    let (name, bytes) = segment(1, 1);
    world.run("push", &[&world.write_log(&name, &bytes)]).expect(0, "");
    for n in 2..=5 {
        let (name, bytes) = segment(n, n as u8);
        world.write_log(&name, &bytes);
        std::fs::write(world.path(&format!("data/pg_wal/archive_status/{name}.ready")), "").unwrap();
    }
    world
}

/// Everything that is stored is what the server has.
fn check_stored(world: &World, what: &str) {
    for name in world.names(SYSTEM) {
        let there = std::fs::read(world.path("data/pg_wal").join(&name)).unwrap();
        assert!(world.archived(SYSTEM, &name) == Some(there), "{what}: {name} is stored and is another");
    }
    assert!(world.names(SYSTEM).contains(&segment(1, 1).0), "{what}: what was acknowledged is lost");
}

#[test]
fn a_push_that_dies_loses_nothing_and_the_next_one_works() {
    if can_step() {
        kill_at_each_call("push", &["--ahead", "0", &format!("pg_wal/{}", segment(2, 2).0)]);
    }
}

#[test]
fn a_process_that_stores_ahead_and_dies_has_promised_nothing_that_is_not_stored() {
    if can_step() {
        kill_at_each_call("ahead", &["pg_wal"]);
    }
}

fn kill_at_each_call(verb: &str, on: &[&str]) {
    let n_points = {
        let world = backlog();
        let mut stepper = start(&world, verb, on);
        let mut n = 0_u64;
        loop {
            match stepper.step().unwrap() {
                Step::Before(_) => n += 1,
                Step::Ended(ended) => {
                    assert_eq!(
                        ended,
                        Ended::With(0),
                        "{}",
                        std::fs::read_to_string(world.path("output")).unwrap()
                    );
                    break n;
                }
            }
        }
    };
    let full = std::env::var_os("HIKAE_FULL").is_some_and(|value| value != "0");
    let step = if full { 1 } else { n_points.div_ceil(QUICK) };
    let mut n_killed = 0;
    for n in (1..=n_points).step_by(step as usize) {
        let world = backlog();
        let mut stepper = start(&world, verb, on);
        let mut at = stepper.step().unwrap();
        for _ in 1..n {
            at = stepper.step().unwrap();
        }
        let Step::Before(call) = at else { break };
        stepper.kill().unwrap();
        n_killed += 1;
        let what = format!("killed at point {n}, before {call}");
        check_stored(&world, &what);
        for n in 2..=5 {
            let (name, bytes) = segment(n, n as u8);
            let ran = world.run("push", &[&format!("pg_wal/{name}")]);
            assert_eq!(ran.code, Some(0), "{what}; then {name}: {}", ran.said);
            assert!(world.archived(SYSTEM, &name) == Some(bytes), "{what}: {name}");
        }
    }
    println!("{verb}: {n_killed} kills of {n_points} points");
}

/// What another process is about to store can be seen before it is on the disk.
#[test]
fn a_file_that_is_there_is_on_the_disk_before_it_is_acknowledged() {
    if !can_step() {
        return;
    }
    let world = backlog();
    let mut stepper = start(&world, "push", &[&format!("pg_wal/{}", segment(1, 1).0)]);
    let mut synced = Vec::new();
    loop {
        match stepper.step().unwrap() {
            Step::Before(call) if call.name == "fsync" => synced.extend(call.on),
            Step::Before(_) => {}
            Step::Ended(ended) => {
                assert_eq!(ended, Ended::With(0));
                break;
            }
        }
    }
    let object = hikae_repo::layout::wal(SYSTEM, crate::world::parse(&segment(1, 1).0));
    let object = world.path("repo").join(object.as_str());
    for expected in [object.as_path(), object.parent().unwrap()] {
        assert!(
            synced.iter().any(|path| path == expected),
            "{} is not synced: {synced:?}",
            expected.display()
        );
    }
}

#[test]
fn a_get_that_dies_leaves_no_file_under_a_name_that_is_not_whole() {
    if !can_step() {
        return;
    }
    let world = backlog();
    for n in 2..=5 {
        world.run("push", &[&format!("pg_wal/{}", segment(n, n as u8).0)]).expect(0, "");
    }
    let (name, bytes) = segment(1, 1);
    let target = world.path("data/pg_wal/RECOVERYXLOG");
    for n in 1.. {
        drop(std::fs::remove_file(&target));
        drop(std::fs::remove_dir_all(world.path("data/hikae-wal-ahead")));
        let mut stepper = start(&world, "get", &[&name, "pg_wal/RECOVERYXLOG"]);
        let mut at = stepper.step().unwrap();
        for _ in 1..n {
            at = stepper.step().unwrap();
        }
        let Step::Before(call) = at else { break };
        stepper.kill().unwrap();
        if let Ok(there) = std::fs::read(&target) {
            assert!(there == bytes, "killed before {call}: half a segment is delivered");
        }
        world.run("get", &[&name, "pg_wal/RECOVERYXLOG"]).expect(0, "");
        assert!(std::fs::read(&target).unwrap() == bytes, "killed before {call}");
        // What was fetched ahead is whole, or is not used.
        let (second, second_bytes) = segment(2, 2);
        world.run("get", &[&second, "pg_wal/RECOVERYXLOG"]).expect(0, "");
        assert!(std::fs::read(&target).unwrap() == second_bytes, "killed before {call}");
    }
}
