//! Floors of the archived log: put by who knows what base backups need, obeyed by whoever has read their entry.
//!
//! An entry is put as a prune is: decided on the state at *n*, put as *n + 1*, or decided again. What lies below goes once
//! the soft period is over and no base backup can come back that was not counted: one that is brought back holds the floor
//! up as long as it is there. Since such a snapshot is gone only by an entry, no removal can be ahead of an undelete.

use crate::RepoError;
use crate::layout;
use crate::lease::Lease;
use crate::log::{Change, LogFloors};
use crate::repo::Repo;
use crate::state::State;
use crate::wal::{Single, Stored};
use hikae_model::{Cx, RunId};
use jiff::Timestamp;

/// What makes an entry of a state and a time; nothing, if none is wanted.
pub type DecideFloors<'a, E> = dyn FnMut(&State, Timestamp) -> Result<Option<LogFloors>, E> + 'a;

/// Puts the entry that `decide` makes of the newest state and the time by both clocks; nothing, if it wants none. It is
/// asked again each time that somebody else's entry came first. Gives the number of the entry.
///
/// # Errors
/// What `decide` says, or any failure to read or write the log; then nothing goes.
pub fn floor_log<E: From<RepoError>>(
    repo: &Repo,
    cx: &Cx,
    decide: &mut DecideFloors<'_, E>,
) -> Result<Option<u64>, E> {
    repo.check_may(&*repo.follow()?, &Change::LogFloors(LogFloors::default()))?;
    let lease = Lease::take(repo, "floor")?;
    let run = RunId::from_bytes(cx.random());
    loop {
        cx.check().map_err(RepoError::from)?;
        let state = repo.follow()?;
        // Both clocks must say that something is old.
        let Some(floors) = decide(&state, lease.taken().min(cx.now()))? else { return Ok(None) };
        if let Some(n) = repo.append_after(&state, run, Change::LogFloors(floors))? {
            return Ok(Some(n));
        }
    }
}

/// Removes what stands by itself and lies below floors that let go of it. Gives how many files that were, and their bytes.
pub(super) fn remove_floored(
    repo: &Repo,
    state: &State,
    stored: &Stored,
    now: Timestamp,
    cx: &Cx,
) -> Result<(u64, u64), RepoError> {
    let open: Vec<_> = state.log_floors.iter().filter(|floor| state.lets_go(floor, now)).collect();
    let goes = |Single { system, file }: &&Single| {
        open.iter().any(|state| state.floor.system == *system && state.floor.covers(file.name))
    };
    let (mut n_files, mut bytes) = (0, 0);
    for Single { system, file } in stored.singles.iter().filter(goes) {
        cx.check()?;
        repo.store().remove(&layout::wal(*system, file.name))?;
        (n_files, bytes) = (n_files + 1, bytes + file.stored_bytes);
    }
    Ok((n_files, bytes))
}
