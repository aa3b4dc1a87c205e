//! Archived write-ahead log on its way to another repository of the family.
//!
//! Its frames move as they are sealed; the head, which holds for one repository only, is sealed anew by who copies. A file
//! is there whole or not at all, histories come before the segments of their timelines and those in order, so at any moment
//! what is there leads as far as it looks.

use super::check_family;
use crate::RepoError;
use crate::log::{Change, Commit};
use crate::repo::{Repo, lock};
use crate::wal::{self, Pushed, WalArchive, WalError};
use hikae_model::{Cx, SystemId, WalName};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// What was copied of the log of clusters.
#[derive(Debug, Default)]
pub struct CopiedLog {
    /// Files that came.
    pub n_files: u64,
    /// Files that were there.
    pub n_there: u64,
    /// Bytes that were stored.
    pub stored_bytes: u64,
    /// Files that did not come, and why.
    pub left: Vec<(SystemId, WalName, WalError)>,
}

/// Copies the log that the target lacks and would keep, of these clusters or of all.
///
/// # Errors
/// [`RepoError::OtherFamily`], [`RepoError::NoRight`], and any failure of either repository that is no damage of the source.
pub fn copy_log(
    from: &Arc<Repo>,
    to: &Arc<Repo>,
    systems: Option<&BTreeSet<SystemId>>,
    cx: &Cx,
) -> Result<CopiedLog, RepoError> {
    check_family(from, to)?;
    let (theirs, state) = (from.follow()?, to.follow()?);
    to.check_may(&state, &Change::Commit(Commit::default()))?;
    let mut copied = CopiedLog::default();
    let mut there = wal::list(to)?;
    let mut missing: Vec<(SystemId, WalName)> = Vec::new();
    for (system, files) in wal::list(from)? {
        if systems.is_some_and(|systems| !systems.contains(&system)) {
            continue;
        }
        let there: BTreeSet<WalName> =
            there.remove(&system).into_iter().flatten().map(|file| file.name).collect();
        let whole: BTreeSet<WalName> =
            files.iter().map(|file| file.name).chain(there.iter().copied()).collect();
        // Of no use beside the whole segment.
        let is_spent = |name: WalName| match name {
            WalName::Part(part) => whole.contains(&WalName::Segment(part.segment)),
            _ => false,
        };
        let goes = |name| theirs.is_floored(system, name) || state.is_floored(system, name);
        let (known, new): (Vec<WalName>, Vec<WalName>) =
            files.into_iter().map(|file| file.name).partition(|name| there.contains(name));
        copied.n_there += known.len() as u64;
        let new = new.into_iter().filter(|name| !is_spent(*name) && !goes(*name));
        missing.extend(new.map(|name| (system, name)));
    }
    missing.sort_by_key(|(system, name)| (*system, !matches!(name, WalName::History(_)), *name));
    cx.progress().begin("copying log to", to.store().address(), 0);
    carry(&WalArchive::of(from), &WalArchive::of(to), to.store().puts_at_once(), missing, &mut copied, cx)?;
    Ok(copied)
}

/// Brings files, several at a time where the target has use for that.
fn carry(
    from: &WalArchive,
    to: &WalArchive,
    at_once: usize,
    missing: Vec<(SystemId, WalName)>,
    copied: &mut CopiedLog,
    cx: &Cx,
) -> Result<(), RepoError> {
    let (missing, copied, failed) = (Mutex::new(missing.into_iter()), Mutex::new(copied), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while lock(&failed).is_none() {
                    let Some((system, name)) = lock(&missing).next() else { return };
                    let moved = cx.check().map_err(RepoError::from).map_err(WalError::from);
                    let moved = moved.and_then(|()| from.hand_over(to, system, name));
                    let mut copied = lock(&copied);
                    match moved {
                        Ok(Some(Pushed::Stored { stored_bytes })) => {
                            copied.n_files += 1;
                            copied.stored_bytes += stored_bytes;
                            cx.progress().add_stored(stored_bytes);
                        }
                        Ok(Some(Pushed::AlreadyThere)) => copied.n_there += 1,
                        // It went meanwhile, by a floor of the source.
                        Ok(None) => {}
                        Err(WalError::Repo(error)) if !stays(&error) => {
                            lock(&failed).get_or_insert(error);
                        }
                        Err(error) => copied.left.push((system, name, error)),
                    }
                }
            });
        }
    });
    match failed.into_inner().unwrap_or_else(|broken| broken.into_inner()) {
        Some(failed) => Err(failed),
        None => Ok(()),
    }
}

/// True if a file that failed so is left and the others come.
fn stays(error: &RepoError) -> bool {
    error.is_damage() || matches!(error, RepoError::WriterUnknown { .. })
}
