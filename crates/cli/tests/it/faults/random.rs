//! Death at any moment: backups, forgets and prunes in a random mix, each killed after a random time.

use super::full;
use super::world::World;
use hikae_testkit::{Seed, TestRandom, system_cx};
use std::process::Stdio;
use std::time::Duration;

const PRUNE: [&str; 5] = ["prune", "--soft", "0s", "--orphan-grace", "0s"];

#[test]
fn what_is_listed_survives_kills_at_any_moment() {
    let n_kills = if full() { 300 } else { 30 };
    let random = TestRandom::new(Seed::draw());
    let clock = system_cx();
    let mut world = World::with_a_snapshot();
    // In microseconds, of those that came to their ends.
    let mut times = vec![50_000];
    let (mut n_killed, mut n_ended, mut n_checked) = (0, 0, 0);
    for step in 2.. {
        if n_killed == n_kills || n_killed + n_ended > 4 * n_kills {
            break;
        }
        let listed = world.snapshots();
        let oldest = listed.last().cloned().filter(|_| listed.len() > 2);
        let (args, mut kept): (Vec<&str>, Vec<String>) = match (random.below(3), &oldest) {
            (0, Some(oldest)) => {
                (vec!["forget", oldest], listed.iter().filter(|id| *id != oldest).cloned().collect())
            }
            (1, _) => (PRUNE.to_vec(), listed.clone()),
            _ => {
                world.change(step);
                (vec!["backup"], listed.clone())
            }
        };
        let mut child = world.hikae(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        times.sort_unstable();
        let limit = Duration::from_micros(random.below(2 * times[times.len() / 2] + 1));
        let began = clock.elapsed();
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break status,
                None if clock.elapsed() - began < limit => std::thread::sleep(Duration::from_micros(500)),
                None => {
                    child.kill().unwrap();
                    break child.wait().unwrap();
                }
            }
        };
        match status.code() {
            None => n_killed += 1,
            Some(code) => {
                assert_eq!(code, 0, "hikae {} failed when nothing was wrong", args.join(" "));
                n_ended += 1;
                times.push(u64::try_from((clock.elapsed() - began).as_micros()).unwrap());
            }
        }
        let now = world.snapshots();
        for new in now.iter().filter(|id| !listed.contains(id)) {
            world.remember(new);
        }
        if status.success() && args[0] == "backup" {
            assert_eq!(now.len(), listed.len() + 1, "an acknowledged snapshot is not listed");
        }
        if let Some(lost) = kept.iter().find(|id| !now.contains(id)) {
            panic!("after hikae {} {lost} is lost", args.join(" "));
        }
        // Everything now and then; else the newest.
        let result = match n_killed % 5 {
            _ if status.code().is_some() => continue,
            0 => world.check(&kept),
            _ => kept.drain(..1).try_for_each(|newest| world.check_restores(&newest)),
        };
        result.unwrap_or_else(|what| panic!("step {step}, after hikae {}: {what}", args.join(" ")));
        n_checked += 1;
    }
    world.ok(&["backup"]);
    world.ok(&PRUNE);
    world.check(&world.snapshots()).unwrap();
    println!("random kills: {n_killed} killed, {n_ended} ended before, {n_checked} checks, nothing lost");
}
