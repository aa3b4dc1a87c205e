//! Too little memory: no false snapshot, whatever the run says at its end.

use super::full;
use super::world::World;

#[test]
fn a_backup_without_memory_makes_no_false_snapshot() {
    let template = World::with_a_snapshot();
    let acknowledged = template.snapshots();
    let (mut n_failed, mut n_well) = (0, 0);
    let step = if full() { 8 } else { 96 };
    for mebibytes in (8..=520).step_by(step) {
        let world = template.copy();
        let limit = format!("--as={}", mebibytes << 20);
        let ran = world.run_below(&["prlimit", &limit], &["backup"]);
        let is_new = world.snapshots().len() > acknowledged.len();
        match ran.code == Some(0) {
            true => n_well += 1,
            false => n_failed += 1,
        }
        assert_eq!(ran.code == Some(0), is_new, "{mebibytes} MiB: {ran:#?}");
        world.check(&acknowledged).unwrap_or_else(|what| panic!("{mebibytes} MiB: {what}"));
    }
    println!("little memory: {n_failed} runs failed, {n_well} ended well");
    assert!(n_failed > 0 && n_well > 0, "{n_failed} failed, {n_well} ended well");
}

/// What a run that died left of an object is removed by a later one, once nobody can be at work on it any more.
#[test]
fn what_a_dead_run_left_half_written_is_reclaimed() {
    let world = World::with_a_snapshot();
    let [young, old] = ["0".repeat(32), "1".repeat(32)].map(|name| world.path("repo/tmp").join(name));
    for file in [&young, &old] {
        std::fs::write(file, "half of a pack").unwrap();
    }
    let aged = std::process::Command::new("touch").args(["-d", "3 days ago"]).arg(&old).status();
    assert!(aged.unwrap().success());
    world.ok(&["backup"]);
    assert!(young.exists() && !old.exists(), "{} and {}", young.exists(), old.exists());
}
