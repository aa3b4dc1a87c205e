//! Death at every system call that changes something: the command is stopped before its n-th, over all
//! threads, and killed there. Then everything must work as if it had never been started, or had ended.

use super::world::{INIT, World, binary};
use super::{full, points};
use hikae_testkit::not_run;
use hikae_testkit::stepper::{Ended, Step, Stepper, stepped};
use std::collections::BTreeMap;
use std::fs::File;
use std::process::Command;
use std::sync::OnceLock;

/// How many points of each operation are tried by default.
const QUICK: u64 = 5;

/// Starts our command, to be stepped through.
pub fn start(world: &World, args: &[&str]) -> Stepper {
    let mut command = stepped(binary());
    let output = File::create(world.path("tmp/output")).unwrap();
    world.dress(&mut command, args).stdout(output.try_clone().unwrap()).stderr(output);
    Stepper::start(&mut command).unwrap()
}

/// Whether this machine lets us trace. Said only once for each test.
#[track_caller]
pub fn can_step() -> bool {
    static CAN: OnceLock<Option<String>> = OnceLock::new();
    let why_not = CAN.get_or_init(|| {
        let stepper = Stepper::start(stepped("true").current_dir("/"));
        match stepper.and_then(Stepper::finish) {
            Ok(Ended::With(0)) => None,
            Ok(ended) => Some(format!("`true` ended {ended:?}")),
            Err(error) => Some(error.to_string()),
        }
    });
    if let Some(why) = why_not {
        not_run(&format!("processes cannot be traced here: {why}"));
    }
    why_not.is_none()
}

/// How many points an operation has.
pub fn count(template: &World, args: &[&str]) -> u64 {
    let world = template.copy();
    let mut stepper = start(&world, args);
    let mut n = 0;
    loop {
        match stepper.step().unwrap() {
            Step::Before(_) => n += 1,
            Step::Ended(Ended::With(0)) => return n,
            Step::Ended(ended) => {
                let said = std::fs::read_to_string(world.path("tmp/output")).unwrap_or_default();
                panic!("hikae {} ended {ended:?} when nothing was wrong: {said}", args.join(" "));
            }
        }
    }
}

/// Kills an operation at each of its points and looks at what is left. `again` is what must succeed then; it gets
/// what the template's snapshots were.
fn kill_everywhere(
    name: &str,
    template: &World,
    args: &[&str],
    check: impl Fn(&World) -> Result<(), String>,
    again: impl Fn(&World) -> Result<(), String>,
) {
    let n_points = count(template, args);
    // The next run may have some more, with threads as they are.
    let tried = points(if full() { n_points + 5 } else { n_points }, QUICK);
    let mut calls: BTreeMap<&str, u64> = BTreeMap::new();
    let mut failures = Vec::new();
    for n in tried {
        let world = template.copy();
        let mut stepper = start(&world, args);
        let mut at = stepper.step().unwrap();
        for _ in 1..n {
            at = stepper.step().unwrap();
        }
        let Step::Before(call) = at else { break };
        stepper.kill().unwrap();
        *calls.entry(call.name).or_default() += 1;
        let result = check(&world).and_then(|()| again(&world)).and_then(|()| check(&world));
        if let Err(what) = result {
            failures.push(format!("{name} killed at point {n}, before {call}:\n{what}"));
        }
    }
    let n_killed: u64 = calls.values().sum();
    let n_failures = failures.len();
    println!("{name}: {n_killed} kills of {n_points} points, {n_failures} failures; {calls:?}");
    failures.truncate(5);
    assert!(failures.is_empty(), "{n_failures} of {n_killed}:\n{}", failures.join("\n\n"));
}

/// For an operation that is simply done again.
fn done_again(args: &[&str]) -> impl Fn(&World) -> Result<(), String> {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    move |world| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let ran = world.run(&args);
        if ran.code == Some(0) { Ok(()) } else { Err(format!("again, hikae {}: {ran:#?}", args.join(" "))) }
    }
}

#[test]
fn an_init_that_dies_can_be_done_again() {
    if !can_step() {
        return;
    }
    let template = World::new();
    let again = |world: &World| {
        let header = || std::fs::read(world.path("repo/hikae.json")).ok();
        let (was_whole, before) = (world.run(&["list"]).code == Some(0), header());
        let ran = world.run(&INIT);
        let sheets = std::fs::read_dir(world.path("sheet")).into_iter().flatten().flatten();
        let n_sheets = sheets.filter(|file| file.path().extension().is_some_and(|end| end == "txt")).count();
        // A repository is never made over another, and none is left without its recovery sheet.
        match (was_whole, ran.code) {
            (false, Some(0)) if n_sheets > 0 => Ok(()),
            (true, Some(0..)) if n_sheets > 0 && header() == before => Ok(()),
            _ => Err(format!("init again, {n_sheets} sheets: {ran:#?}")),
        }
    };
    // Before, there is nothing to check: no repository, or a whole one.
    let check = |world: &World| match world.path("repo/hikae.json").exists() {
        true => world.check(&[]),
        false => Ok(()),
    };
    kill_everywhere("init", &template, &INIT, check, again);
}

#[test]
fn a_backup_that_dies_leaves_a_whole_snapshot_or_none() {
    if !can_step() {
        return;
    }
    let template = World::new();
    template.ok(&INIT);
    kill_everywhere("backup", &template, &["backup"], |world| world.check(&[]), done_again(&["backup"]));
}

#[test]
fn a_second_backup_that_dies_leaves_the_first() {
    if !can_step() {
        return;
    }
    let template = World::with_a_snapshot();
    let acknowledged = template.snapshots();
    let check = |world: &World| world.check(&acknowledged);
    kill_everywhere("second backup", &template, &["backup"], check, done_again(&["backup"]));
}

/// Keeps G-2.
#[test]
fn an_export_that_dies_leaves_no_file_under_its_name_that_is_not_whole() {
    if !can_step() {
        return;
    }
    let template = World::with_a_snapshot();
    std::fs::create_dir(template.path("out")).unwrap();
    let files = |world: &World, end: &str| -> Vec<String> {
        let names = std::fs::read_dir(world.path("out")).unwrap().map(|file| file.unwrap().file_name());
        let names = names.map(|name| name.into_string().unwrap());
        names.filter(|name| !name.starts_with('.') && name.ends_with(end)).collect()
    };
    let check = |world: &World| {
        for name in files(world, ".tar.gz") {
            let tested =
                Command::new("gzip").arg("--test").arg(world.path("out").join(&name)).status().unwrap();
            if !tested.success() {
                return Err(format!("{name} is not whole"));
            }
        }
        // What is signed names what is there.
        match (files(world, ".sig").len(), files(world, ".sha256").len()) {
            (1, 0) => Err("a manifest names what is not there".to_owned()),
            _ => Ok(()),
        }
    };
    let export = ["export", "tree", "--to", "out"];
    let again = |world: &World| {
        done_again(&export)(world)?;
        let names = std::fs::read_dir(world.path("out")).unwrap().map(|file| file.unwrap().file_name());
        let unfinished = names.filter(|name| name.as_encoded_bytes().starts_with(b".")).count();
        match (files(world, ".tar.gz").len(), files(world, ".sig").len(), unfinished) {
            (1, 1, 0) => Ok(()),
            found => Err(format!("archives, signatures and unfinished files: {found:?}")),
        }
    };
    kill_everywhere("export", &template, &export, check, again);
}

#[test]
fn a_forget_that_dies_forgets_or_not() {
    if !can_step() {
        return;
    }
    let mut template = World::with_a_snapshot();
    let first = template.snapshots();
    let second = template.back_up();
    let check = |world: &World| world.check(std::slice::from_ref(&second));
    let again = |world: &World| {
        let ran = world.run(&["forget", &first[0]]);
        let gone = !world.snapshots().contains(&first[0]);
        if gone { Ok(()) } else { Err(format!("forget again: {ran:#?}")) }
    };
    kill_everywhere("forget", &template, &["forget", &first[0]], check, again);
}

/// Three snapshots of which one stays, so that there is something to copy and something to doom.
fn with_something_to_prune() -> (World, Vec<String>) {
    let mut template = World::with_a_snapshot();
    let first = template.snapshots();
    template.back_up();
    template.change(2);
    template.back_up();
    template.ok(&["forget", &first[0]]);
    let left = template.snapshots();
    assert_eq!(left.len(), 2);
    (template, left)
}

const PRUNE: [&str; 5] = ["prune", "--soft", "0s", "--orphan-grace", "0s"];

/// Keeps D-7.
#[test]
fn a_prune_that_dies_loses_nothing() {
    if !can_step() {
        return;
    }
    let (template, left) = with_something_to_prune();
    kill_everywhere("prune", &template, &PRUNE, |world| world.check(&left), done_again(&PRUNE));
}

#[test]
fn a_removal_that_dies_goes_on_next_time() {
    if !can_step() {
        return;
    }
    let (template, left) = with_something_to_prune();
    template.ok(&["prune", "--soft", "1s", "--orphan-grace", "0s"]);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    kill_everywhere("removal", &template, &PRUNE, |world| world.check(&left), done_again(&PRUNE));
}

#[test]
fn a_key_add_that_dies_locks_nobody_out() {
    if !can_step() {
        return;
    }
    let template = World::with_a_snapshot();
    let acknowledged = template.snapshots();
    let add = ["key", "add", "--new-key-file", "second.key"];
    let again = |world: &World| {
        let ran = world.run(&add);
        match ran.code == Some(0) && world.run(&["list", "--key-file", "second.key"]).code == Some(0) {
            true => Ok(()),
            false => Err(format!("key add again: {ran:#?}")),
        }
    };
    kill_everywhere("key add", &template, &add, |world| world.check(&acknowledged), again);
}

#[test]
fn a_key_removal_that_dies_can_be_done_again() {
    if !can_step() {
        return;
    }
    let template = World::with_a_snapshot();
    let acknowledged = template.snapshots();
    let added = template.ok(&["key", "add", "--new-key-file", "second.key", "--json"]).result();
    let key = added["key"].as_str().unwrap().to_owned();
    let remove = ["key", "remove", &key, "--yes"];
    let opens = |world: &World| world.run(&["list", "--key-file", "second.key"]).code == Some(0);
    // Between the entry of the log and the object, the key still opens, and verify says so.
    let check = |world: &World| match world.check(&acknowledged) {
        Err(what) if what.contains("was removed in the log, and still opens") && opens(world) => Ok(()),
        checked => checked,
    };
    let again = |world: &World| {
        let ran = world.run(&remove);
        match opens(world) {
            true => Err(format!("key remove again, and it still opens: {ran:#?}")),
            false => world.check(&acknowledged),
        }
    };
    kill_everywhere("key remove", &template, &remove, check, again);
}

/// All that hikae keeps for a user who configured nothing: key, configuration, repository, sheet, drill.
#[test]
fn a_protect_that_dies_is_gone_on_from() {
    if !can_step() {
        return;
    }
    let template = World::new();
    std::fs::remove_file(template.path("config.toml")).unwrap();
    let source = template.source();
    let protect = ["protect", source.to_str().unwrap()];
    let again = |world: &World| match world.run(&protect) {
        ran if ran.code == Some(0) => world.check(&[]),
        ran => Err(format!("protect again: {ran:#?}")),
    };
    kill_everywhere("protect", &template, &protect, |_| Ok(()), again);
}

/// A drill writes what it restores in the clear.
#[test]
fn a_drill_that_dies_leaves_nothing_once_another_has_run() {
    if !can_step() {
        return;
    }
    let template = World::with_a_snapshot();
    let acknowledged = template.snapshots();
    let again = |world: &World| {
        let ran = world.run(&["drill"]);
        let left = std::fs::read_dir(world.path("tmp")).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name != "output").collect();
        match ran.code == Some(0) && left.is_empty() {
            true => Ok(()),
            false => Err(format!("{left:?} are left; drill again: {ran:#?}")),
        }
    };
    kill_everywhere("drill", &template, &["drill"], |world| world.check(&acknowledged), again);
}
