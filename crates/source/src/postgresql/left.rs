//! Servers without an owner, each in a directory of its own: one whose owner was killed is cleared away, and one that is to
//! run on is left alone until somebody asks for it.
//!
//! Whose owner lives is told by a lock, which the system frees however a process ends. What is left on purpose has a file
//! of its own in the directory.

use super::cluster::LOCK;
use crate::SourceError;
use hikae_model::{Cx, sabotage};
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Name of the file that says that a server was left on purpose, and what for.
pub const LEFT: &str = "paused.json";

/// The directories below `parent` in which servers of ours are or were.
pub fn directories(parent: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    let is_ours = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("hikae-")) && path.is_dir()
    };
    entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_ours).collect()
}

/// Stops servers below `parent` whose owner was killed, and removes what they left. It does what it can: a server that
/// cannot be cleared away is no reason not to start another.
pub(super) fn sweep(parent: &Path) {
    for directory in directories(parent) {
        if !directory.join("data/postmaster.pid").exists() {
            continue;
        }
        let is_left = directory.join(LEFT).exists() && !sabotage::on("paused-swept");
        let Ok(lock) = std::fs::File::open(directory.join(LOCK)) else { continue };
        if is_left || lock.try_lock().is_err() {
            continue; // it is to stay, or its owner lives
        }
        if let Some(pid) = server_of(&directory) {
            let _ = kill_process(pid, Signal::QUIT);
        }
        let _ = std::fs::remove_dir_all(&directory);
    }
}

/// The process of the server that runs in a directory of ours, if one does.
fn server_of(directory: &Path) -> Option<Pid> {
    let written = std::fs::read_to_string(directory.join("data/postmaster.pid")).ok()?;
    let pid = Pid::from_raw(written.lines().next()?.trim().parse().ok()?)?;
    serves(pid, directory).then_some(pid)
}

/// Whether a process is the server of this directory: the number may by now be another's, which would not name it.
fn serves(pid: Pid, directory: &Path) -> bool {
    let command = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    let mut arguments = command.split(|&byte| byte == 0);
    arguments.any(|argument| argument == directory.join("data").as_os_str().as_encoded_bytes())
}

/// How long the processes of a server that was killed may outlive it.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Stops the server that runs in a directory of ours as it should be stopped, and waits for its end, also of what is left of
/// one that was killed.
pub(crate) fn stop_server_of(directory: &Path, cx: &Cx) -> Result<(), SourceError> {
    let running = server_of(directory);
    if let Some(pid) = running {
        // SIGINT is PostgreSQL's fast shutdown.
        let _ = kill_process(pid, Signal::INT);
    }
    let begun = cx.elapsed();
    while running.is_some_and(|pid| serves(pid, directory))
        || (is_in_use(directory) && cx.elapsed().saturating_sub(begun) < END_LIMIT)
    {
        cx.check()?;
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Whether a process works in the data directory, as every one of a server does.
pub(super) fn is_in_use(directory: &Path) -> bool {
    let data = directory.join("data");
    let mut processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.any(|process| std::fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == data))
}
