//! What bad luck gets: the real command is killed, starved, cut off and lied to at every point that can be found,
//! and what was acknowledged is still there afterwards.
//!
//! By default each test tries some of its points, chosen evenly. `HIKAE_FULL=1` tries all of them, and random
//! ones many times more; with `--nocapture` it says how many. `HIKAE_BINARY` names another build of the command
//! to try, as that of a release.
//!
//! ```sh
//! HIKAE_FULL=1 cargo test -p hikae-cli --test it faults:: -- --nocapture
//! ```

mod disk;
mod disk_full;
mod errors;
mod kill;
mod memory;
mod paused;
mod power_cut;
mod random;
mod reorder;
mod restore;
mod signals;
mod world;

/// Whether to try everything.
fn full() -> bool {
    std::env::var_os("HIKAE_FULL").is_some_and(|value| value != "0")
}

/// About `quick` of the points 1 to `n`, evenly; all if everything is wanted.
fn points(n: u64, quick: u64) -> Vec<u64> {
    if full() || n <= quick {
        return (1..=n).collect();
    }
    let mut points: Vec<u64> =
        (0..quick).map(|i| if quick == 1 { n.div_ceil(2) } else { 1 + i * (n - 1) / (quick - 1) }).collect();
    points.dedup();
    points
}
