//! Which PostgreSQL the tests start.
//!
//! Most take one version; those that are named after versions take each that is installed. Nothing here starts a server.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where `./check` puts versions that the system does not have: as root, who runs servers as another user, where that user
/// may go, and otherwise beside what was built.
const FETCHED: [&str; 2] =
    ["/var/cache/hikae-tests/postgresql", concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/postgresql")];

/// The directory of programs that a test takes which needs no certain version: the first in `HIKAE_TEST_POSTGRESQL`, whose
/// names are separated by `:`. Nothing if none is named; then what is installed is looked for as always.
pub fn named_postgresql() -> Option<PathBuf> {
    all_named().into_iter().next()
}

/// The directory with the programs of this version's server: one that is named, that of the system, or that which `./check`
/// has fetched.
pub fn postgresql(major: u32) -> Option<PathBuf> {
    let system = Path::new("/usr/lib/postgresql").join(major.to_string()).join("bin");
    let fetched = FETCHED.map(|parent| Path::new(parent).join(major.to_string()).join("bin"));
    let mut all = all_named().into_iter().chain([system]).chain(fetched);
    all.find(|directory| major_of(directory) == Some(major))
}

/// An empty name is that of no directory, and would be looked for on the path.
fn all_named() -> Vec<PathBuf> {
    let named = std::env::var_os("HIKAE_TEST_POSTGRESQL").unwrap_or_default();
    std::env::split_paths(&named).filter(|directory| directory.is_absolute()).collect()
}

/// As in `postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)`, `postgres (PostgreSQL) 19beta1`.
fn major_of(directory: &Path) -> Option<u32> {
    let output = Command::new(directory.join("postgres")).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (_, version) = text.split_once("(PostgreSQL) ")?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
