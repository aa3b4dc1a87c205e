//! `get`: put one file where the server wants it, and fetch those that it will ask for next.
//!
//! The server asks for one file after the other and replays each. So a call that has to fetch its file fetches the next
//! ones as well, on all cores, and the calls for these have only to compare and to rename.

use crate::archive::{threads, with_archive};
use crate::arguments::{Options, Wanted};
use crate::cluster::current;
use crate::failure::{bug, refusal, usage};
use crate::fetch::{Ahead, fetch};
use hikae_model::{Cx, ErrorCode, Failure, SegmentName, SegmentSize, SystemId, WalName};
use hikae_repo::wal::WalArchive;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Fetches the file that is wanted. False if the repository has the log of that cluster and no file of that name.
///
/// # Errors
/// [`Failure`]: nobody can say whether there is one, or it could not be had.
pub fn get(options: &Options, wanted: &Wanted, cx: &Cx) -> Result<bool, Failure> {
    let system = match (wanted.system, current()?) {
        (Some(wanted), Some(here)) if wanted != here => {
            let what = format!("the log of system {wanted} is wanted, and this is system {here}");
            return Err(refusal(ErrorCode::Forbidden, what, "see that --system is that of the base backup"));
        }
        (Some(system), _) | (None, Some(system)) => system,
        (None, None) => return Err(usage("nothing says of which cluster: give --system")),
    };
    let ahead = Ahead::beside(&wanted.target, system).filter(|_| options.ahead > 0);
    with_archive(options, cx, |archive| {
        let found = get_from(archive, system, wanted, ahead.as_ref(), options.ahead)?;
        if !found && !archive.has_log_of(system)? {
            // Most likely another system is meant, and "not archived" would end its recovery too early.
            let what = format!("nothing of system {system} is archived in this repository");
            return Err(refusal(ErrorCode::SourceMissing, what, "see that --store and --system are right"));
        }
        Ok(found)
    })
}

fn get_from(
    archive: &WalArchive,
    system: SystemId,
    wanted: &Wanted,
    ahead: Option<&Ahead>,
    most: usize,
) -> Result<bool, Failure> {
    let Wanted { name, target, .. } = wanted;
    let (Some(ahead), WalName::Segment(segment)) = (ahead, *name) else {
        if let Some(ahead) = ahead.filter(|_| matches!(name, WalName::History(_))) {
            ahead.clear();
        }
        return fetch(archive, system, *name, target, target);
    };
    ahead.forget_before(segment);
    if ahead.deliver(archive, *name, target)? {
        return Ok(true);
    }
    let Some(head) = archive.head(system, *name)? else {
        return fetch(archive, system, *name, target, target);
    };
    let next = match SegmentSize::new(head.bytes).filter(|_| ahead.create()) {
        Some(size) => {
            std::iter::successors(segment.next(size), |segment| segment.next(size)).take(most).collect()
        }
        None => Vec::new(),
    };
    fetch_all(archive, system, segment, target, ahead, &next)
}

/// Fetches the first file to its place, and the next ones ahead, as far as there are any. What is wrong with these the
/// server hears when it asks for them.
fn fetch_all(
    archive: &WalArchive,
    system: SystemId,
    asked: SegmentName,
    target: &Path,
    ahead: &Ahead,
    next: &[SegmentName],
) -> Result<bool, Failure> {
    let at = AtomicUsize::new(0);
    let outcome = Mutex::new(None);
    let work = || {
        loop {
            let n = at.fetch_add(1, Ordering::Relaxed);
            let fetched = match n.checked_sub(1) {
                None => fetch(archive, system, asked.into(), target, target),
                Some(n) => match next.get(n) {
                    Some(segment) => ahead.fetch(archive, (*segment).into()),
                    None => return,
                },
            };
            if !matches!(fetched, Ok(true)) {
                // There is none after one that is not there, and what fails once fails again.
                at.store(usize::MAX / 2, Ordering::Relaxed);
            }
            if n == 0 {
                *outcome.lock().unwrap_or_else(|broken| broken.into_inner()) = Some(fetched);
            }
        }
    };
    std::thread::scope(|scope| {
        let helpers = threads().min(1 + next.len()) - 1;
        (0..helpers).for_each(|_| drop(scope.spawn(work)));
        work();
    });
    // Whoever took it has left its outcome, unless it panicked.
    outcome.into_inner().unwrap_or_else(|broken| broken.into_inner()).unwrap_or_else(|| Err(bug()))
}
