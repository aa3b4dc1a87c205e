//! The context that every long piece of work is handed: clock, randomness, cancellation, progress.
//!
//! Nothing else in hikae asks the time or the random source, so a test can set both.

use crate::sabotage;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// Who waits looks this often whether the work was cancelled.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);

/// Where the time comes from.
pub trait Clock: Send + Sync {
    /// The time of day, for records and people. It may jump.
    fn now(&self) -> jiff::Timestamp;
    /// Time since some fixed moment, for durations. It never goes back.
    fn elapsed(&self) -> Duration;
}

/// Where random bytes come from. In production: the operating system.
pub trait Random: Send + Sync {
    /// Fills `bytes` with bytes that nobody can guess.
    fn fill(&self, bytes: &mut [u8]);
}

/// Clock, randomness, cancellation and progress of one piece of work. Cheap to clone; clones share.
#[derive(Clone)]
pub struct Cx {
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    cancel: Cancel,
    progress: Arc<Progress>,
}

impl Cx {
    /// A context that is not cancelled and has made no progress.
    pub fn new(clock: Arc<dyn Clock>, random: Arc<dyn Random>, cancel: Cancel) -> Self {
        Self { clock, random, cancel, progress: Arc::default() }
    }

    /// The time of day.
    pub fn now(&self) -> jiff::Timestamp {
        self.clock.now()
    }

    /// Time since some fixed moment.
    pub fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }

    /// `N` random bytes.
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.random.fill(&mut bytes);
        bytes
    }

    /// Where the random bytes come from, for what outlives this context.
    pub fn random_source(&self) -> Arc<dyn Random> {
        self.random.clone()
    }

    /// Ends the work with an error if it was cancelled. Long loops call it once a turn.
    ///
    /// # Errors
    /// [`Cancelled`] once [`Cancel::cancel`] was called.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.cancel.is_cancelled() && !sabotage::on("cancel-ignored") { Err(Cancelled) } else { Ok(()) }
    }

    /// Waits until this much time has elapsed ([`elapsed`](Self::elapsed)).
    ///
    /// # Errors
    /// [`Cancelled`], soon after it was.
    pub fn wait_until(&self, until: Duration) -> Result<(), Cancelled> {
        while self.elapsed() < until {
            self.check()?;
            std::thread::sleep(until.saturating_sub(self.elapsed()).min(LONGEST_SLEEP));
        }
        self.check()
    }

    /// The switch that cancels this work.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// How far the work has come.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Tells who follows the work that `name`, as `size` or `committed`, came about on something.
    pub fn tell(&self, name: &'static str, on: &str, what: impl fmt::Display) {
        if let Some(Follower(tell)) = self.progress.follower.get() {
            tell(&Step { at: self.now(), name, on: on.to_owned(), what: what.to_string() });
        }
    }
}

/// Something that came about in a run, for a log of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// When.
    pub at: jiff::Timestamp,
    /// As `size` or `committed`.
    pub name: &'static str,
    /// On what, as the name of a source.
    pub on: String,
    /// What is to be said of it.
    pub what: String,
}

struct Follower(Box<dyn Fn(&Step) + Send + Sync>);

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Follower")
    }
}

/// The work was cancelled, by a signal or by whoever asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Cancelled;

/// A switch that tells running work to stop. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Tells the work to stop at its next safe point.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was told so.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a piece of work is busy with, in the order in which `protect` meets them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Phase {
    /// A verb, as `backing up`.
    pub verb: &'static str,
    /// On what, as the name of a source.
    pub on: String,
}

/// How far a piece of work has come: counters that any thread bumps and one thread shows.
#[derive(Debug, Default)]
pub struct Progress {
    phase: Mutex<Phase>,
    entries: AtomicU64,
    read_bytes: AtomicU64,
    stored_bytes: AtomicU64,
    total_bytes: AtomicU64,
    problems: AtomicU64,
    follower: OnceLock<Follower>,
}

/// A [`Progress`] at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgressNow {
    /// What the work is busy with.
    pub phase: Phase,
    /// Entries dealt with in this phase.
    pub entries: u64,
    /// Bytes read from the source, or from the store when restoring.
    pub read_bytes: u64,
    /// Bytes written: to the store, or to the target when restoring.
    pub stored_bytes: u64,
    /// Bytes to read in all; 0 if nobody knows.
    pub total_bytes: u64,
    /// Problems met.
    pub problems: u64,
}

impl Progress {
    /// Has every [`Step`] told to `tell`, as it comes about. Only the first who asks is told.
    pub fn follow(&self, tell: impl Fn(&Step) + Send + Sync + 'static) {
        drop(self.follower.set(Follower(Box::new(tell))));
    }

    /// Whether anybody is told of steps: what is only for them need not be found out else.
    pub fn is_followed(&self) -> bool {
        self.follower.get().is_some()
    }

    /// Starts a phase; its counters begin at 0. `total_bytes` is 0 if nobody knows.
    pub fn begin(&self, verb: &'static str, on: impl Into<String>, total_bytes: u64) {
        let mut phase = self.phase.lock().unwrap_or_else(|broken| broken.into_inner());
        *phase = Phase { verb, on: on.into() };
        for counter in [&self.entries, &self.read_bytes, &self.stored_bytes, &self.problems] {
            counter.store(0, Ordering::Relaxed);
        }
        self.total_bytes.store(total_bytes, Ordering::Relaxed);
    }

    /// Counts entries.
    pub fn add_entries(&self, n: u64) {
        self.entries.fetch_add(n, Ordering::Relaxed);
    }

    /// Counts bytes read.
    pub fn add_read(&self, bytes: u64) {
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes written.
    pub fn add_stored(&self, bytes: u64) {
        self.stored_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts problems.
    pub fn add_problems(&self, n: u64) {
        self.problems.fetch_add(n, Ordering::Relaxed);
    }

    /// The counters now.
    pub fn now(&self) -> ProgressNow {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ProgressNow {
            phase: self.phase.lock().unwrap_or_else(|broken| broken.into_inner()).clone(),
            entries: get(&self.entries),
            read_bytes: get(&self.read_bytes),
            stored_bytes: get(&self.stored_bytes),
            total_bytes: get(&self.total_bytes),
            problems: get(&self.problems),
        }
    }
}
