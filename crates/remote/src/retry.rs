//! When a request is made again: never at once, never all at one time, and not for ever.

use hikae_model::Cx;
use std::sync::Mutex;
use std::time::Duration;

/// How often, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The first wait is at most this long; each further one at most twice as long as the one before.
    pub first: Duration,
    /// No wait is longer.
    pub longest: Duration,
    /// One call gives up after this.
    pub deadline: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(200),
            longest: Duration::from_secs(60),
            deadline: Duration::from_secs(180),
        }
    }
}

/// Requests that may be repeated soon after they failed: one for every five that succeed, and some to begin with. Once
/// they are used up, by all calls together, each waits as long as it may: a server that is overloaded is left in peace.
const SPARE: f64 = 20.0;
const EARNED: f64 = 0.2;

/// What all calls on a store share.
pub(crate) struct Budget(Mutex<f64>);

impl Budget {
    pub fn new() -> Self {
        Self(Mutex::new(SPARE))
    }

    /// A request succeeded.
    pub fn earn(&self) {
        self.change(|spare| *spare = (*spare + EARNED).min(SPARE));
    }

    fn spend(&self) -> bool {
        self.change(|spare| {
            let is_enough = *spare >= 1.0;
            *spare -= if is_enough { 1.0 } else { 0.0 };
            is_enough
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut f64) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(|broken| broken.into_inner()))
    }
}

/// Why a request is to be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// The server or the network could not. Others had the same; so it costs of what all calls share.
    Failed,
    /// Somebody else had the same name in hand; that is over at once.
    Raced,
}

/// One call: its requests so far.
pub(crate) struct Tries<'s> {
    retry: Retry,
    budget: &'s Budget,
    cx: &'s Cx,
    began: Duration,
    pub n: u32,
}

impl<'s> Tries<'s> {
    pub fn begin(retry: Retry, budget: &'s Budget, cx: &'s Cx) -> Self {
        Self { retry, budget, cx, began: cx.elapsed(), n: 1 }
    }

    /// Waits until the next request may be made. False if there is to be none: the time is up, or the work was cancelled.
    pub fn wait(&mut self, why: Again) -> bool {
        let most = match why {
            Again::Raced => self.retry.first,
            Again::Failed if self.budget.spend() => {
                self.retry.first.saturating_mul(1 << (self.n - 1).min(20)).min(self.retry.longest)
            }
            Again::Failed => self.retry.longest,
        };
        // Full jitter: those that failed together do not come back together.
        let share = u32::from_le_bytes(self.cx.random()) as f64 / u32::MAX as f64;
        let wait = most.mul_f64(share);
        let until = self.cx.elapsed() + wait;
        if until.saturating_sub(self.began) > self.retry.deadline {
            return false;
        }
        let is_on = self.cx.wait_until(until).is_ok();
        self.n += u32::from(is_on);
        is_on
    }
}
