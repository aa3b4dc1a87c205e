//! Putting an entry at the end of the log.
//!
//! Steps 6 to 8 of the commit protocol: read every entry up to `n`, decide, put `n + 1` with a condition.
//! Who loses the number reads what won and decides again. After any put that did not plainly succeed the
//! number is read and the nonce compared before anything else: the refusal may come from our own delayed
//! put. `models/log` of the design checks these rules; each is asserted by a test on a faulty store.

use crate::RepoError;
use crate::layout;
use crate::log::{Change, LogEntry};
use crate::repo::Repo;
use crate::state::State;
use hikae_model::{RunId, sabotage};
use hikae_store::StoreError;

/// How often a put whose outcome stays unknown is tried under the same number.
const TRIES: u32 = 5;

impl Repo {
    /// Puts the entry that `decide` makes of the newest state. `decide` is asked again each time that
    /// somebody else's entry came first. Gives the number of the entry.
    ///
    /// # Errors
    /// What `decide` says, or any failure to read or put; then no entry of ours is in the log, unless the
    /// error is one of the store whose outcome is unknown.
    pub fn append(
        &self,
        decide: &mut dyn FnMut(&State) -> Result<Change, RepoError>,
    ) -> Result<u64, RepoError> {
        self.append_as(RunId::from_bytes(self.cx().random()), decide)
    }

    /// The same under the nonce of a run.
    ///
    /// # Errors
    /// As for [`append`](Self::append).
    pub fn append_as(
        &self,
        nonce: RunId,
        decide: &mut dyn FnMut(&State) -> Result<Change, RepoError>,
    ) -> Result<u64, RepoError> {
        loop {
            let state = self.follow()?;
            let nonce = if sabotage::on("unknown-is-failure") {
                RunId::from_bytes(self.cx().random())
            } else {
                nonce
            };
            // `decide` may take long and read on; only the state that it saw may be followed.
            let change = decide(&state)?;
            if let Some(n) = self.append_after(&state, nonce, change)? {
                return Ok(n);
            }
        }
    }

    /// Puts `change` as the entry that follows `state`, which is what it was decided on. Nothing if another
    /// entry came first: then the decision is worth nothing and has to be made again.
    ///
    /// # Errors
    /// As for [`append`](Self::append).
    pub(crate) fn append_after(
        &self,
        state: &State,
        nonce: RunId,
        change: Change,
    ) -> Result<Option<u64>, RepoError> {
        self.check_may(state, &change)?;
        self.check_log_ends_at(state.n)?;
        let n = state.n + 1;
        let entry = LogEntry { n, previous: state.head, at: self.cx().now(), run: nonce, change };
        let stored = entry.seal(self.header().core.repository, self.keys(), self.signer());
        if !self.put_entry(n, &stored)? {
            return Ok(None);
        }
        // The entry stands. That this process cannot go on from it takes nothing from it.
        if let Ok(state) = self.follow_own(n, stored) {
            self.checkpoint(&state);
        }
        Ok(Some(n))
    }

    /// Whether we may make this change at all, so that nobody begins long work in vain.
    ///
    /// # Errors
    /// [`RepoError::LogInDoubt`], [`RepoError::TooNew`] and [`RepoError::NoRight`].
    pub(crate) fn check_may(&self, state: &State, change: &Change) -> Result<(), RepoError> {
        self.check_no_doubt()?;
        if let Some(what) = state.beyond_us() {
            return Err(RepoError::TooNew { what });
        }
        match state.lacks(self.signer().id(), change) {
            None => Ok(()),
            Some(what) => Err(RepoError::NoRight { what }),
        }
    }

    /// Puts an entry. True if it is in the log now, false if its number is another's.
    fn put_entry(&self, n: u64, stored: &[u8]) -> Result<bool, RepoError> {
        let key = layout::log_entry(n);
        let mut tries = 0;
        loop {
            tries += 1;
            let refused = match self.store().put(&key, stored) {
                Ok(()) => return Ok(true),
                Err(error @ StoreError::Exists { .. }) => error,
                Err(error) if error.outcome_is_unknown() && sabotage::on("unknown-is-success") => {
                    return Ok(true);
                }
                Err(error) if error.outcome_is_unknown() && sabotage::on("unknown-is-failure") => {
                    return Ok(false);
                }
                Err(error) if error.outcome_is_unknown() => error,
                Err(error) => return Err(error.into()),
            };
            match self.store().get(&key) {
                Ok(there) => return Ok(there == stored),
                // Not there: the same put again, never a higher number.
                Err(error) if error.is_not_found() && tries < TRIES => {}
                Err(error) if error.is_not_found() => return Err(refused.into()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
