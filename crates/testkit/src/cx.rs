//! The context for tests: time stands still until it is moved, and chance repeats itself.

use hikae_model::{Cancel, Clock, Cx, Random};
use std::fs::File;
use std::io::Read;
use std::ops::Deref;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A context for a test. The clock stands at 2026-01-01T00:00:00Z, and random bytes are the same in every
/// run. It is a [`Cx`] wherever one is wanted, with the handles to move its clock.
pub fn test_cx() -> TestCx {
    TestCx::new(Seed(0))
}

/// A [`Cx`] and what drives it. Clones share.
#[derive(Clone)]
pub struct TestCx {
    cx: Cx,
    /// Its clock.
    pub clock: Arc<TestClock>,
    /// Its random source.
    pub random: Arc<TestRandom>,
}

impl TestCx {
    /// A context whose random bytes follow from `seed`.
    pub fn new(seed: Seed) -> Self {
        Self::at(TestClock::new(), seed)
    }

    /// A context whose time stands where this one's does and goes on by itself, and whose random bytes follow from `seed`.
    pub fn fork(&self, seed: Seed) -> Self {
        Self::at(self.clock.fork(), seed)
    }

    fn at(clock: TestClock, seed: Seed) -> Self {
        let (clock, random) = (Arc::new(clock), Arc::new(TestRandom::new(seed)));
        let cx = Cx::new(clock.clone(), random.clone(), Cancel::default());
        Self { cx, clock, random }
    }
}

impl Deref for TestCx {
    type Target = Cx;

    fn deref(&self) -> &Cx {
        &self.cx
    }
}

/// What a random test starts from. The same seed gives the same test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(pub u64);

impl Seed {
    /// The seed in the environment variable `HIKAE_TEST_SEED`, or a new one; printed, so that a test that
    /// fails shows how it can be run again.
    pub fn draw() -> Self {
        let given = std::env::var("HIKAE_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let mut bytes = [0; 8];
            SystemRandom.fill(&mut bytes);
            u64::from_le_bytes(bytes)
        });
        eprintln!("to repeat this test: HIKAE_TEST_SEED={seed}");
        Self(seed)
    }
}

/// A clock that is moved by hand.
pub struct TestClock(Mutex<(jiff::Timestamp, Duration)>);

impl TestClock {
    fn new() -> Self {
        let start = jiff::Timestamp::from_second(1_767_225_600).expect("2026 is a time");
        Self(Mutex::new((start, Duration::ZERO)))
    }

    /// Another clock that shows the same now.
    fn fork(&self) -> Self {
        Self(Mutex::new(*self.0.lock().expect("no panic under this lock")))
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        let mut times = self.0.lock().expect("no panic under this lock");
        times.0 = times.0.checked_add(by).expect("time ends here");
        times.1 += by;
    }

    /// Sets the time of day, forward or back, as an administrator or a broken battery does. The time that
    /// durations are taken with goes on as if nothing had happened.
    pub fn set(&self, now: jiff::Timestamp) {
        self.0.lock().expect("no panic under this lock").0 = now;
    }
}

impl Clock for TestClock {
    fn now(&self) -> jiff::Timestamp {
        self.0.lock().expect("no panic under this lock").0
    }

    fn elapsed(&self) -> Duration {
        self.0.lock().expect("no panic under this lock").1
    }
}

/// Random bytes that follow from a seed: BLAKE3 keyed with it, read as a stream.
pub struct TestRandom(Mutex<blake3::OutputReader>);

impl TestRandom {
    /// The bytes of this seed, from their start.
    pub fn new(seed: Seed) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("hikae 2026 random bytes for tests");
        hasher.update(&seed.0.to_le_bytes());
        Self(Mutex::new(hasher.finalize_xof()))
    }

    /// A number below `end`, which is not 0.
    pub fn below(&self, end: u64) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes) % end
    }

    /// True once in `n` times.
    pub fn once_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// `n` bytes.
    pub fn bytes(&self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        self.fill(&mut bytes);
        bytes
    }
}

impl Random for TestRandom {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().expect("no panic under this lock").fill(bytes);
    }
}

/// A context with the real clock and the operating system's random source, for benchmarks.
pub fn system_cx() -> Cx {
    Cx::new(system_clock(), Arc::new(SystemRandom), Cancel::default())
}

/// The real clock.
pub fn system_clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::start())
}

struct SystemClock {
    started: std::time::Instant,
}

impl SystemClock {
    #[allow(clippy::disallowed_methods)] // this is where `Cx` takes the time from
    fn start() -> Self {
        Self { started: std::time::Instant::now() }
    }
}

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // this is where `Cx` takes the time from
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, bytes: &mut [u8]) {
        File::open("/dev/urandom").and_then(|mut file| file.read_exact(bytes)).expect("random bytes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_itself_and_no_other() {
        let bytes = |seed| TestCx::new(Seed(seed)).random::<32>();
        assert_eq!(bytes(7), bytes(7));
        assert_ne!(bytes(7), bytes(8));
    }

    #[test]
    fn time_passes_only_by_hand_and_may_jump() {
        let cx = test_cx();
        let start = cx.now();
        cx.clock.advance(Duration::from_secs(60));
        assert_eq!(cx.now().as_second() - start.as_second(), 60);
        cx.clock.set(start);
        assert_eq!((cx.now(), cx.elapsed()), (start, Duration::from_secs(60)));
    }
}
