//! `push`: archive one file, and while we are at it, those that the server is about to ask for.
//!
//! The server asks for one file after the other and waits for each. So a call that has to store something stores the
//! next ones as well, on all cores, and the calls for these find them there. Only the file that was asked for is
//! acknowledged; of the others the server hears when it asks.

use crate::archive::{threads, with_archive};
use crate::arguments::Options;
use crate::cluster::{LogFile, current};
use crate::failure::bug;
use hikae_model::{Cx, Failure, SystemId, WalName};
use hikae_repo::wal::WalArchive;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Archives the file at `path`, from the data directory.
///
/// # Errors
/// [`Failure`]: then nothing is acknowledged.
pub fn push(options: &Options, path: &Path, cx: &Cx) -> Result<(), Failure> {
    let system = current()?;
    with_archive(options, cx, |archive| {
        let LogFile { name, system: of, mut file } = LogFile::open(path, system)?;
        match archive.confirm(of, name, &mut file)? {
            true => Ok(()),
            false => push_all(archive, path, &ready_after(path, name, options.ahead), system),
        }
    })
}

/// Archives the first file, and as many of the others as come along. What is wrong with these the server hears when it
/// asks for them.
fn push_all(
    archive: &WalArchive,
    asked: &Path,
    others: &[PathBuf],
    system: Option<SystemId>,
) -> Result<(), Failure> {
    let next = AtomicUsize::new(0);
    let outcome = Mutex::new(None);
    let work = || {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let Some(path) = std::iter::once(asked).chain(others.iter().map(PathBuf::as_path)).nth(n) else {
                return;
            };
            let pushed = LogFile::open(path, system)
                .and_then(|mut log| archive.push(log.system, log.name, &mut log.file).map_err(Failure::from));
            if pushed.is_err() {
                // The others would most likely fail as well, and the server waits.
                next.store(usize::MAX / 2, Ordering::Relaxed);
            }
            if n == 0 {
                *outcome.lock().unwrap_or_else(|broken| broken.into_inner()) = Some(pushed.map(drop));
            }
        }
    };
    std::thread::scope(|scope| {
        let helpers = threads().min(1 + others.len()) - 1;
        (0..helpers).for_each(|_| drop(scope.spawn(work)));
        work();
    });
    // Whoever took it has left its outcome, unless it panicked.
    outcome.into_inner().unwrap_or_else(|broken| broken.into_inner()).unwrap_or_else(|| Err(bug()))
}

/// Up to `most` segments after `name` on its timeline that the server says are ready to be archived. If it cannot be
/// seen which, none: looking ahead only saves time.
fn ready_after(path: &Path, name: WalName, most: usize) -> Vec<PathBuf> {
    let WalName::Segment(asked) = name else { return Vec::new() };
    let directory = path.parent().unwrap_or(Path::new(""));
    let Ok(entries) = std::fs::read_dir(directory.join("archive_status")) else { return Vec::new() };
    let mut ready: Vec<_> = entries
        .flatten()
        .filter_map(|entry| match entry.file_name().to_str()?.strip_suffix(".ready")?.parse().ok()? {
            WalName::Segment(segment) => Some(segment),
            _ => None,
        })
        .filter(|segment| segment.timeline == asked.timeline && *segment > asked)
        .collect();
    ready.sort_unstable();
    ready.truncate(most);
    ready.into_iter().map(|segment| directory.join(segment.to_string())).collect()
}
