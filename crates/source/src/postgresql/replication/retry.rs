//! How long to try again, and how often.

use super::error::ReplicationError;
use hikae_model::Cx;
use std::time::Duration;

/// How a stream that broke is begun anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The first wait; each further one is twice as long.
    pub first: Duration,
    /// The longest wait.
    pub longest: Duration,
    /// For how long since the last byte that came. Then the last error is the end.
    pub budget: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(250),
            longest: Duration::from_secs(15),
            budget: Duration::from_secs(600),
        }
    }
}

/// What is left of a [`Retry`].
pub(super) struct Patience {
    retry: Retry,
    wait: Duration,
    since: Option<Duration>,
}

impl Patience {
    pub(super) fn new(retry: Retry) -> Self {
        Self { retry, wait: retry.first, since: None }
    }

    /// Something came: the next failure is a new one.
    pub(super) fn renew(&mut self) {
        *self = Self::new(self.retry);
    }

    /// Waits before the next try.
    ///
    /// # Errors
    /// `error` itself once the budget is used up; [`ReplicationError::Cancelled`].
    pub(super) fn wait(&mut self, error: ReplicationError, cx: &Cx) -> Result<(), ReplicationError> {
        let begun = *self.since.get_or_insert_with(|| cx.elapsed());
        if cx.elapsed().saturating_sub(begun) + self.wait > self.retry.budget {
            return Err(error);
        }
        let until = cx.elapsed() + self.wait;
        cx.wait_until(until).map_err(|_| ReplicationError::Cancelled)?;
        self.wait = (self.wait * 2).min(self.retry.longest);
        Ok(())
    }
}
