//! The process's environment: read once at the start, and freed of the passphrase.
//!
//! This is the one place that asks for environment variables, and the one that changes them.
#![allow(unsafe_code)] // `remove_var` is unsafe; see `take_passphrase` for why it is sound here

use hikae_model::sabotage;
use hikae_ops::surroundings::Surroundings;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

const PASSPHRASE: &str = "HIKAE_PASSPHRASE";

/// Reads `HIKAE_PASSPHRASE` and removes it from our environment, so that no program that we start inherits it.
/// What it held when we were started stays visible to our own user in `/proc` until we end, which only whoever
/// set it can change.
///
/// Call it first of all, while there is one thread.
pub fn take_passphrase() -> Option<Zeroizing<String>> {
    let given = std::env::var(PASSPHRASE).ok().map(Zeroizing::new);
    if std::env::var_os(PASSPHRASE).is_some() && !sabotage::on("passphrase-inherited") {
        // SAFETY: `main` calls this before it starts any thread, so nobody reads the environment meanwhile.
        unsafe { std::env::remove_var(PASSPHRASE) };
    }
    given.filter(|passphrase| !passphrase.is_empty())
}

/// What the process was started with. `cache` is where indexes are kept, if not in the usual place; `umask` is the
/// mask that it had.
pub fn surroundings(cache: Option<&Path>, umask: u32) -> Surroundings {
    let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
    // The XDG Base Directory Specification: relative paths in these variables are to be ignored.
    let xdg = |variable: &str, below_home: &str| -> PathBuf {
        let set = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
        let usual = || home.clone().unwrap_or_else(|| PathBuf::from("/")).join(below_home);
        set.unwrap_or_else(usual).join("hikae")
    };
    let uname = rustix::system::uname();
    Surroundings {
        variables: Arc::new(|name: &str| std::env::var_os(name)),
        path: std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default(),
        user: user_name(),
        host: uname.nodename().to_string_lossy().into_owned(),
        config: xdg("XDG_CONFIG_HOME", ".config"),
        data: xdg("XDG_DATA_HOME", ".local/share"),
        cache: cache.map_or_else(|| xdg("XDG_CACHE_HOME", ".cache"), Path::to_owned),
        scratch: std::env::temp_dir(),
        umask: Some(umask),
        zone: jiff::tz::TimeZone::system(),
        home,
    }
}

/// The user that we run as, by the list of users; `$USER` may say anything.
fn user_name() -> String {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let of_uid = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let known = of_uid.into_iter().find(|fields| fields.get(2) == Some(&uid.as_str()));
    known
        .and_then(|fields| fields.first().map(|&name| name.to_owned()))
        .or_else(|| std::env::var("USER").ok())
        .unwrap_or_else(|| "postgres".to_owned())
}

/// True if an environment variable is set to anything but nothing (`NO_COLOR`, <https://no-color.org>).
pub fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value: OsString| !value.is_empty())
}
