//! Floors of the archived log: put by who knows what base backups need, obeyed by whoever has read their entry.
//!
//! An entry is put as a prune is: decided on the state at *n*, put as *n + 1*, or decided again. What lies below goes once
//! the soft period is over and no base backup can come back that was not counted: one that is brought back holds the floor
//! up as long as it is there. Since such a snapshot is gone only by an entry, no removal can be ahead of an undelete.

use crate::RepoError;
use crate::layout;
use crate::lease::Lease;
use crate::log::{Change, LogFloors};
use crate::prune::removal::remove_unless_locked;
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

/// What of the log was removed.
#[derive(Default)]
pub(super) struct Floored {
    pub n_files: u64,
    pub bytes: u64,
    /// Files that stay until their lock ends.
    pub n_locked: usize,
}

/// Removes what stands by itself and lies below floors that let go of it.
pub(super) fn remove_floored(
    repo: &Repo,
    state: &State,
    stored: &Stored,
    now: Timestamp,
    cx: &Cx,
) -> Result<Floored, RepoError> {
    let open: Vec<_> = state.log_floors.iter().filter(|floor| state.lets_go(floor, now)).collect();
    let goes = |Single { system, file }: &&Single| {
        open.iter().any(|state| state.floor.system == *system && state.floor.covers(file.name))
    };
    let mut floored = Floored::default();
    for Single { system, file } in stored.singles.iter().filter(goes) {
        cx.check()?;
        match remove_unless_locked(repo, &layout::wal(*system, file.name))? {
            true => {
                floored.n_files += 1;
                floored.bytes += file.stored_bytes;
            }
            false => floored.n_locked += 1,
        }
    }
    Ok(floored)
}
