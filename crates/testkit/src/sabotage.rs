//! The bug that is put in on purpose reaches the programs that a test starts, too.

use hikae_model::sabotage::VARIABLE;
use std::ffi::OsString;

/// What a test that starts our command in an environment of its own must hand on: the name of the bug that
/// `cargo xtask sabotages` has put in, or nothing.
pub fn sabotage() -> Option<(&'static str, OsString)> {
    std::env::var_os(VARIABLE).map(|name| (VARIABLE, name))
}
