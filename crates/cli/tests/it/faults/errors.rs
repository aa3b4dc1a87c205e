//! Any system call may fail (B-3), and each that fails is injected into the running command. A run never ends well
//! unless its snapshot is whole.
//!
//! `strace` counts each system call for each thread apart: the n-th fails of whichever threads come so far, all of
//! them. Every call of the thread that makes most of a kind is reached.

use super::world::{INIT, Ran, World};
use super::{full, points};
use hikae_testkit::not_run;
use std::collections::BTreeMap;

/// Calls that change something, with what can be wrong about them.
const CHANGING: [&str; 7] = ["write", "pwrite64", "fsync", "renameat2", "mkdirat", "unlinkat", "fchmod"];
/// Calls that look.
const LOOKING: [&str; 6] = ["openat", "openat2", "read", "pread64", "statx", "getdents64"];
const ERRORS: [&str; 6] = ["EIO", "ENOSPC", "EDQUOT", "EROFS", "ESTALE", "EINTR"];

#[track_caller]
fn can_inject(world: &World) -> bool {
    match world.run_below(&["strace", "-qq", "-e", "trace=none"], &["--version"]) {
        ran if ran.code == Some(0) => true,
        ran => {
            not_run(&format!("strace cannot trace here: {}", ran.err.trim()));
            false
        }
    }
}

/// How many calls of this name the busiest thread makes.
fn busiest(template: &World, call: &str, args: &[&str]) -> u64 {
    let world = template.copy();
    let log = world.path("tmp/log");
    let trace = format!("trace={call}");
    let ran = world.run_below(&["strace", "-f", "-qq", "-o", log.to_str().unwrap(), "-e", &trace], args);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    let mut counts = BTreeMap::<String, u64>::new();
    for line in std::fs::read_to_string(&log).unwrap().lines().filter(|line| !line.contains("resumed>")) {
        if line.contains(&format!("{call}(")) {
            *counts.entry(line.split(' ').next().unwrap().to_owned()).or_default() += 1;
        }
    }
    counts.into_values().max().unwrap_or(0)
}

/// What must hold after a run in which something failed.
type Check<'a> = &'a dyn Fn(&World, &Ran) -> Result<(), String>;

/// Lets one call fail and looks at what the run says of it. True if the run failed.
fn fail_one(template: &World, args: &[&str], check: Check<'_>, inject: &str) -> Result<bool, String> {
    let world = template.copy();
    let inject = format!("inject={inject}");
    let ran = world.run_below(&["strace", "-f", "-qq", "-o", "/dev/null", "-e", &inject], args);
    // 127 is the loader's, which fails before any of our code runs.
    let is_clean = matches!(ran.code, Some(0..=99 | 127 | 130)) && !ran.err.contains("panicked");
    let result = if is_clean { check(&world, &ran) } else { Err("no clean end".to_owned()) };
    result.map(|()| ran.code != Some(0)).map_err(|what| format!("{inject}: {what}\nafter {ran:#?}"))
}

/// Lets calls of every kind fail, about `quick` of each by default.
fn fail_everywhere(name: &str, template: &World, args: &[&str], quick: u64, check: Check<'_>) {
    let (mut n_tried, mut n_failed) = (0, 0);
    let mut wrong = Vec::new();
    for (kind, call) in CHANGING.into_iter().chain(LOOKING).enumerate() {
        let mut here = (0, 0);
        let n_calls = busiest(template, call, args);
        for (i, n) in points(n_calls, quick).into_iter().enumerate() {
            let errors: Vec<&str> = match full() && CHANGING.contains(&call) {
                true => ERRORS.to_vec(),
                false => vec![ERRORS[(kind + i) % ERRORS.len()]],
            };
            for error in errors {
                here.0 += 1;
                match fail_one(template, args, check, &format!("{call}:error={error}:when={n}")) {
                    Ok(failed) => here.1 += u64::from(failed),
                    Err(what) => wrong.push(what),
                }
            }
        }
        println!("{name}, {call}: {} failures in {n_calls} calls, {} runs failed for it", here.0, here.1);
        (n_tried, n_failed) = (n_tried + here.0, n_failed + here.1);
    }
    let n_wrong = wrong.len();
    println!("{name}, failing system calls: {n_tried} tried, {n_failed} runs failed, {n_wrong} wrong");
    wrong.truncate(8);
    assert!(wrong.is_empty(), "{n_wrong} of {n_tried}:\n{}", wrong.join("\n\n"));
    assert!(n_failed > 0, "no injected failure reached the command");
}

#[test]
fn a_system_call_that_fails_never_makes_a_false_success() {
    let template = World::with_a_snapshot();
    if !can_inject(&template) {
        return;
    }
    let acknowledged = template.snapshots();
    fail_everywhere("backup", &template, &["backup"], 2, &|world, ran| {
        let has_new = world.snapshots().len() > acknowledged.len();
        match matches!(ran.code, Some(0 | 3)) && !has_new {
            true => Err("a false success".to_owned()),
            false => world.check(&acknowledged),
        }
    });
}

#[test]
fn a_system_call_that_fails_takes_nothing_from_a_prune() {
    let mut template = World::with_a_snapshot();
    if !can_inject(&template) {
        return;
    }
    let first = template.snapshots().remove(0);
    template.back_up();
    template.ok(&["forget", &first]);
    let acknowledged = template.snapshots();
    let prune = ["prune", "--soft", "0s", "--orphan-grace", "0s"];
    fail_everywhere("prune", &template, &prune, 1, &|world, _| {
        world.check(&acknowledged)?;
        match world.run(&prune) {
            again if again.code == Some(0) => world.check(&acknowledged),
            again => Err(format!("again: {again:#?}")),
        }
    });
}

#[test]
fn an_init_in_which_a_system_call_fails_can_be_done_again() {
    let template = World::new();
    if !can_inject(&template) {
        return;
    }
    fail_everywhere("init", &template, &INIT, 1, &|world, ran| {
        let is_made = world.path("repo/hikae.json").exists();
        if ran.code == Some(0) && !is_made {
            return Err("a false success".to_owned());
        }
        match (is_made, world.run(&INIT)) {
            (false, again) if again.code != Some(0) => Err(format!("again: {again:#?}")),
            (true, again) if again.code == Some(0) => Err("made over another".to_owned()),
            _ => world.check(&[]),
        }
    });
}

#[test]
fn a_file_that_cannot_be_read_is_a_problem_and_costs_no_other() {
    let template = World::with_a_snapshot();
    if !can_inject(&template) {
        return;
    }
    let file = template.source().join("folder/c");
    for inject in ["inject=read,pread64:error=EIO", "inject=openat,openat2:error=EACCES"] {
        let world = template.copy();
        let outer = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", file.to_str().unwrap(), "-e", inject];
        let ran: Ran = world.run_below(&outer, &["backup"]);
        // A path that is opened from its directory is not known to strace before it is open.
        if inject.contains("openat") && ran.code == Some(0) {
            continue;
        }
        assert_eq!(ran.code, Some(3), "{inject}: {ran:#?}");
        assert!(format!("{}{}", ran.out, ran.err).contains("folder/c"), "{ran:#?}");
        world.check(&[]).unwrap();
    }
}
