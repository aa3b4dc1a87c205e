//! Bugs that are put in on purpose, to see that the tests catch them.
//!
//! Code asks `sabotage::on("name")` at the one place that a bug would change. Only a build with the feature
//! `sabotage` can ever hear yes; every other has the constant `false` there. One such build holds all bugs, and
//! the environment says which is in: `cargo xtask sabotages` runs through the list in `crates/xtask/sabotages.toml`.

#[cfg(all(feature = "sabotage", not(debug_assertions)))]
compile_error!("a build that can be sabotaged is never one that is released");

/// What names the bug that is in.
pub const VARIABLE: &str = "HIKAE_SABOTAGE";

/// Whether the bug `name` is in.
#[cfg(not(feature = "sabotage"))]
#[inline]
pub const fn on(_name: &str) -> bool {
    false
}

/// Whether the bug `name` is in.
#[cfg(feature = "sabotage")]
pub fn on(name: &str) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    CHOSEN.get_or_init(|| std::env::var(VARIABLE).ok()).as_deref() == Some(name)
}

/// Flips a bit in the middle of `bytes` if the bug `name` is in.
#[inline]
pub fn flip(name: &str, bytes: &mut [u8]) {
    if on(name) {
        let middle = bytes.len() / 2;
        bytes.iter_mut().skip(middle).take(1).for_each(|byte| *byte ^= 1);
    }
}
