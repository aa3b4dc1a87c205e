//! Power cuts on file systems that reorder (A-4): every call of the real command is recorded with its data, and
//! what crashes can leave of them is built, as [`hikae_testkit::crash_states`] says. Each must be a machine on which
//! everything works without a hand's help, and on which all that was acknowledged is there: what a command printed
//! at its end, or its end.
//!
//! Everything below the machine's root takes part, the caches, the key and the configuration too.
//!
//! By default some states are tried of those in which at most two things are lost, or all but two, and as many that
//! are random. `HIKAE_FULL=1` tries all up to three, and random ones up to `HIKAE_STATES`, 100,000 without it.
//!
//! ```sh
//! HIKAE_FULL=1 cargo test --release -p hikae-cli --test it faults::reorder:: -- --nocapture --test-threads 1
//! ```

use super::full;
use super::kill::can_step;
use super::world::{INIT, World, binary, scratch};
use hikae_testkit::crash_states::{Crash, CrashStates};
use hikae_testkit::disk_trace::{Change, Trace};
use hikae_testkit::stepper::{Ended, Stepper, stepped};
use hikae_testkit::{Seed, TestRandom};
use std::collections::HashSet;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many states of each operation are tried by default.
const QUICK: usize = 36;
/// How many operations share those of the full form.
const OPERATIONS: usize = 9;

const PRUNE: [&str; 5] = ["prune", "--soft", "0s", "--orphan-grace", "0s"];

/// One command that ran to its end.
struct Recorded {
    name: &'static str,
    /// As it is after it.
    world: World,
    states: CrashStates,
    /// After how many changes it had said that it is done.
    acknowledged_at: usize,
}

/// Runs a command on this machine and writes down what it does.
fn record(name: &'static str, world: World, args: &[&str]) -> Recorded {
    let said = tempfile::NamedTempFile::new().unwrap();
    let mut command = stepped(binary());
    world.dress(&mut command, args).stdout(said.reopen().unwrap()).stderr(Stdio::null());
    let root = world.path("");
    let (trace, ended) = Trace::record(Stepper::start(&mut command).unwrap(), &root, said.path()).unwrap();
    let text = std::fs::read_to_string(said.path()).unwrap();
    assert_eq!(ended, Ended::With(0), "hikae {}: {text}", args.join(" "));
    let last_word = trace.changes.iter().rposition(|change| *change == Change::Said);
    let acknowledged_at = last_word.map_or(trace.changes.len(), |at| at + 1);
    let states = CrashStates::new(trace, &["repo/tmp", "tmp"]);
    assert_eq!(states.differs_from(&root).unwrap(), None, "{name}: a change was missed");
    Recorded { name, world, states, acknowledged_at }
}

impl Recorded {
    fn is_acknowledged(&self, crash: &Crash) -> bool {
        crash.point >= self.acknowledged_at
    }

    /// The machine that a crash leaves.
    fn after(&self, crash: &Crash) -> World {
        let kept = scratch();
        self.states.build(crash, kept.path()).unwrap();
        // Made without us, it holds our paths.
        let config = kept.path().join("home/.config/hikae/config.toml");
        if let Ok(text) = std::fs::read_to_string(&config) {
            let (old, new) = (self.world.path(""), kept.path().to_str().unwrap());
            let old = old.to_str().unwrap().trim_end_matches('/');
            std::fs::write(&config, text.replace(old, new)).unwrap();
        }
        self.world.moved_to(kept)
    }

    /// The crashes that are tried, each of which leaves something else.
    fn crashes(&self, n_wanted: usize, random: &TestRandom) -> Vec<Crash> {
        let depth = if full() { 3 } else { 2 };
        let mut n_all = 0_usize;
        self.states.each(depth, &mut |_| {
            n_all += 1;
            true
        });
        // Most crashes leave what others leave too.
        let n_looked_at = if full() { 300_000 } else { 8 * n_wanted };
        let stride = n_all.div_ceil(n_looked_at);
        let (mut seen, mut crashes) = (HashSet::new(), Vec::new());
        let mut take = |crash: Crash, crashes: &mut Vec<Crash>| {
            if seen.insert((self.is_acknowledged(&crash), self.states.fingerprint(&crash))) {
                crashes.push(crash);
            }
        };
        let mut at = 0;
        self.states.each(depth, &mut |crash| {
            if at % stride == 0 {
                take(crash, &mut crashes);
            }
            at += 1;
            true
        });
        let n_systematic = crashes.len();
        // Room is left for random ones.
        let share = if full() { n_wanted * 3 / 4 } else { n_wanted / 2 };
        let every = n_systematic.div_ceil(share.max(1)).max(1);
        crashes = crashes.into_iter().step_by(every).collect();
        for _ in 0..20 * n_wanted {
            if crashes.len() >= n_wanted {
                break;
            }
            take(self.states.any(random), &mut crashes);
        }
        println!(
            "{}: {} changes; {n_all} crashes to depth {depth}, {} of them looked at, {n_systematic} distinct, every \
             {every}. tried; {} in all with random ones",
            self.name,
            self.states.trace().changes.len(),
            n_all.div_ceil(stride),
            crashes.len(),
        );
        crashes
    }

    /// Tries crashes until so many went wrong; `check` gets the machine that each left and whether the command was
    /// acknowledged.
    fn try_crashes(&self, n_wanted: usize, n_wrong: usize, check: Check<'_>) -> Vec<String> {
        let seed = Seed::draw();
        let crashes = self.crashes(n_wanted, &TestRandom::new(seed));
        let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
                scope.spawn(|| {
                    while let Some(crash) = crashes.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if wrong.lock().unwrap().len() >= n_wrong {
                            break;
                        }
                        let n_done = next.load(Ordering::Relaxed);
                        if n_done.is_multiple_of(1000) {
                            println!("{}: {n_done} of {}", self.name, crashes.len());
                        }
                        let world = self.after(crash);
                        if let Err(what) = check(&world, self.is_acknowledged(crash)) {
                            let mut wrong = wrong.lock().unwrap();
                            // What the checks have done to it is in there too.
                            let kept = match wrong.len() {
                                0..3 if n_wrong > 1 => world.keep().display().to_string(),
                                _ => "nothing".to_owned(),
                            };
                            wrong.push(format!(
                                "{} {}\nreplay: HIKAE_TEST_SEED={} {crash:?}; left in {}\n{what}",
                                self.name,
                                self.states.describe(crash),
                                seed.0,
                                kept,
                            ));
                        }
                    }
                });
            }
        });
        let wrong = wrong.into_inner().unwrap();
        let n_tried = next.load(Ordering::Relaxed).min(crashes.len());
        println!("{}: {n_tried} states tried, {} wrong", self.name, wrong.len());
        wrong
    }

    #[track_caller]
    fn survives(&self, check: Check<'_>) {
        let all = || std::env::var("HIKAE_STATES").ok().and_then(|n| n.parse().ok()).unwrap_or(100_000_usize);
        let wrong = self.try_crashes(if full() { all() / OPERATIONS } else { QUICK }, 100, check);
        let shown: Vec<_> = wrong.iter().take(5).cloned().collect();
        assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), shown.join("\n\n"));
    }
}

type Check<'a> = &'a (dyn Fn(&World, bool) -> Result<(), String> + Sync);

/// The same as [`World::check`] after something was done that takes nothing away; in little time by default.
fn check_again(world: &World, acknowledged: &[String]) -> Result<(), String> {
    if full() {
        return world.check(acknowledged);
    }
    let listed = world.snapshots();
    match acknowledged.iter().find(|id| !listed.contains(id)) {
        Some(lost) => Err(format!("{lost} is lost; listed: {listed:?}")),
        None => listed.first().map_or(Ok(()), |newest| world.check_restores(newest)),
    }
}

fn succeeds(world: &World, args: &[&str]) -> Result<(), String> {
    match world.run(args) {
        ran if ran.code == Some(0) => Ok(()),
        ran => Err(format!("hikae {}: {ran:#?}", args.join(" "))),
    }
}

#[test]
fn an_init_is_whole_or_can_be_done_again() {
    if !can_step() {
        return;
    }
    let init = record("init", World::small(), &[&INIT[..], &["--json"]].concat());
    init.survives(&|world, is_acknowledged| {
        let is_whole = world.run(&["list"]).code == Some(0);
        if is_acknowledged && !is_whole {
            return Err(format!("the repository is lost: {:#?}", world.run(&["list"])));
        }
        if !is_whole {
            succeeds(world, &INIT)?;
        }
        succeeds(world, &["backup"])?;
        world.check(&[])
    });
}

/// Records a backup, of which the last snapshot is new.
fn record_backup(name: &'static str, world: World) -> (Recorded, Vec<String>, String) {
    let before = world.snapshots();
    let mut recorded = record(name, world, &["backup", "--json"]);
    let now = recorded.world.snapshots();
    let new = now.into_iter().find(|id| !before.contains(id)).unwrap();
    recorded.world.remember(&new);
    (recorded, before, new)
}

/// What must hold after a backup.
fn check_backup(world: &World, before: &[String], new: Option<&String>) -> Result<(), String> {
    let acknowledged: Vec<_> = before.iter().chain(new).cloned().collect();
    world.check(&acknowledged)?;
    succeeds(world, &["backup"])?;
    check_again(world, &acknowledged)
}

#[test]
fn a_first_backup_is_whole_or_invisible() {
    if !can_step() {
        return;
    }
    let world = World::small();
    world.ok(&INIT);
    let (backup, before, new) = record_backup("first backup", world);
    backup.survives(&|world, is_acknowledged| check_backup(world, &before, is_acknowledged.then_some(&new)));
}

#[test]
fn a_backup_is_whole_or_invisible_and_takes_nothing_from_others() {
    if !can_step() {
        return;
    }
    let (backup, before, new) = record_backup("backup", World::small().and_a_snapshot());
    backup.survives(&|world, is_acknowledged| check_backup(world, &before, is_acknowledged.then_some(&new)));
}

/// Three snapshots of which one is forgotten, so that there is something to copy and something to doom.
fn with_something_to_prune() -> (World, Vec<String>) {
    let mut world = World::small().and_a_snapshot();
    let first = world.snapshots();
    world.back_up();
    world.change(2);
    world.back_up();
    world.ok(&["forget", &first[0]]);
    let left = world.snapshots();
    assert_eq!(left.len(), 2);
    (world, left)
}

fn check_prune(world: &World, left: &[String]) -> Result<(), String> {
    world.check(left)?;
    succeeds(world, &PRUNE)?;
    succeeds(world, &["backup"])?;
    check_again(world, left)
}

#[test]
fn a_prune_takes_nothing_that_is_needed() {
    if !can_step() {
        return;
    }
    let (world, left) = with_something_to_prune();
    let prune = record("prune", world, &[&PRUNE[..], &["--json"]].concat());
    prune.survives(&|world, _| check_prune(world, &left));
}

#[test]
fn a_removal_takes_nothing_that_is_needed() {
    if !can_step() {
        return;
    }
    let (world, left) = with_something_to_prune();
    world.ok(&["prune", "--soft", "1s", "--orphan-grace", "0s"]);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let removal = record("removal", world, &[&PRUNE[..], &["--json"]].concat());
    removal.survives(&|world, _| check_prune(world, &left));
}

#[test]
fn a_forget_forgets_one_or_nothing() {
    if !can_step() {
        return;
    }
    let mut world = World::small().and_a_snapshot();
    let first = world.snapshots().remove(0);
    let second = world.back_up();
    let forget = record("forget", world, &["forget", &first, "--json"]);
    forget.survives(&|world, is_acknowledged| {
        let is_listed = || world.snapshots().contains(&first);
        if is_acknowledged && is_listed() {
            return Err("what was forgotten is back".to_owned());
        }
        world.check(std::slice::from_ref(&second))?;
        if is_listed() {
            succeeds(world, &["forget", &first])?;
        }
        succeeds(world, &["backup"])?;
        check_again(world, std::slice::from_ref(&second))
    });
}

#[test]
fn a_key_that_was_added_opens() {
    if !can_step() {
        return;
    }
    let world = World::small().and_a_snapshot();
    let before = world.snapshots();
    let add = ["key", "add", "--new-key-file", "second.key", "--json"];
    let recorded = record("key add", world, &add);
    recorded.survives(&|world, is_acknowledged| {
        let opens = |world: &World| succeeds(world, &["list", "--key-file", "second.key"]);
        if is_acknowledged {
            opens(world)?;
        }
        world.check(&before)?;
        if opens(world).is_err() {
            succeeds(world, &add)?;
            opens(world)?;
        }
        succeeds(world, &["backup"])?;
        check_again(world, &before)
    });
}

/// All that hikae keeps for a user who configured nothing: key, configuration, repository, sheet.
#[test]
fn a_protect_is_whole_or_gone_on_from() {
    if !can_step() {
        return;
    }
    let world = World::small();
    std::fs::remove_file(world.path("config.toml")).unwrap();
    let source = world.source();
    let protect = ["protect", source.to_str().unwrap(), "--json"];
    let recorded = record("protect", world, &protect);
    let snapshots = recorded.world.snapshots();
    recorded.survives(&|world, is_acknowledged| {
        if is_acknowledged {
            world.check(&snapshots)?;
        }
        succeeds(world, &protect)?;
        world.check(if is_acknowledged { &snapshots } else { &[] })
    });
}

/// What a restore wrote before it was done may be anything; done again, it is right.
#[test]
fn a_restore_that_is_done_is_on_the_disk_and_another_can_be_done_again() {
    if !can_step() {
        return;
    }
    let mut world = World::small().and_a_snapshot();
    let snapshot = world.back_up();
    let restore = ["restore", &snapshot, "--target", "restored", "--json"];
    let recorded = record("restore", world, &restore);
    recorded.survives(&|world, is_acknowledged| {
        let target = world.path("restored");
        if is_acknowledged {
            return world.compare_content(&target);
        }
        succeeds(world, &[&restore[..], &["--overwrite", "always", "--yes"]].concat())?;
        world.compare(&snapshot, &target)
    });
}

/// What a backup does with some of its syncs left out must be seen to lose what was acknowledged. If it is not, the
/// states above prove nothing.
#[test]
fn a_backup_that_leaves_syncs_out_is_caught() {
    if !can_step() {
        return;
    }
    let (backup, before, new) = record_backup("backup", World::small().and_a_snapshot());
    type LeavesOut = fn(&hikae_testkit::disk_trace::Node) -> bool;
    let sabotages: [(&str, LeavesOut); 2] = [
        ("no sync of directories", |node| matches!(node, hikae_testkit::disk_trace::Node::Directory(_))),
        ("no sync of files", |node| matches!(node, hikae_testkit::disk_trace::Node::File(_))),
    ];
    for (name, leaves_out) in sabotages {
        let mut trace = backup.states.trace().clone();
        for change in &mut trace.changes {
            // In its place stands something that means nothing, so that the numbers stay.
            if matches!(change, Change::Sync { node } if leaves_out(&trace.nodes[*node])) {
                *change = Change::Said;
            }
        }
        let sabotaged = Recorded {
            name,
            world: backup.world.copy(),
            states: CrashStates::new(trace, &["repo/tmp", "tmp"]),
            acknowledged_at: backup.acknowledged_at,
        };
        let wrong = sabotaged.try_crashes(QUICK, 1, &|world, is_acknowledged| {
            check_backup(world, &before, is_acknowledged.then_some(&new))
        });
        assert!(!wrong.is_empty(), "{name}: nothing was lost");
        println!("{name}: caught, {}", wrong[0].lines().nth(1).unwrap_or_default().trim());
    }
}
