//! Leases: who is at work, for people to see. Nothing is safe or unsafe because of one.
//!
//! Putting one also tells the store's own time, and that is what ages are measured with: a clock that is wrong
//! must not make anything look old (rule O6).

use crate::RepoError;
use crate::layout;
use crate::repo::Repo;
use hikae_model::{RunId, sabotage};
use hikae_store::StoreError;
use jiff::Timestamp;

/// Ours and the store's clock may differ by so many seconds before nothing is doomed or removed any more.
const MAX_SKEW_SECONDS: i64 = 300;

/// A lease. Given back when it is dropped.
pub(crate) struct Lease<'r> {
    repo: &'r Repo,
    run: RunId,
    taken: Timestamp,
}

impl<'r> Lease<'r> {
    /// Takes a lease for something that deletes by age.
    ///
    /// # Errors
    /// [`RepoError::ClocksDiffer`] if our clock and the store's cannot both be right.
    pub(crate) fn take(repo: &'r Repo, verb: &'static str) -> Result<Self, RepoError> {
        repo.check_no_doubt()?;
        let run = RunId::from_bytes(repo.cx().random());
        let key = layout::lease(run);
        match repo.store().put(&key, verb.as_bytes()) {
            Ok(()) | Err(StoreError::Exists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        // From here on it is given back whatever happens.
        let mut lease = Self { repo, run, taken: repo.cx().now() };
        lease.taken = repo.store().stat(&key)?.stored;
        let seconds = repo.cx().now().as_second() - lease.taken.as_second();
        match seconds.abs() <= MAX_SKEW_SECONDS || sabotage::on("any-clock") {
            true => Ok(lease),
            false => Err(RepoError::ClocksDiffer { seconds }),
        }
    }

    /// When it was taken, by the store's clock.
    pub(crate) fn taken(&self) -> Timestamp {
        self.taken
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // One that stays behind misleads nobody for long: it shows its age.
        drop(self.repo.store().remove(&layout::lease(self.run)));
    }
}
