//! The real clock and the real random source, which `Cx` hands to everything else: for the programs, and nothing else.

use hikae_model::{Cancel, Clock, Cx, Random};
use rustix::io::retry_on_intr;
use rustix::rand::{GetRandomFlags, getrandom};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A context over this machine's clock and random source.
pub fn system_cx(cancel: Cancel) -> Cx {
    Cx::new(Arc::new(SystemClock::start()), Arc::new(SystemRandom), cancel)
}

struct SystemClock {
    started: Instant,
}

impl SystemClock {
    #[allow(clippy::disallowed_methods)] // this is where `Cx` takes the time from
    fn start() -> Self {
        Self { started: Instant::now() }
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
    /// From the kernel at each call: a generator of our own would first gather chance from the processor, which takes a
    /// short program longer than all of its work. Without random bytes there are no keys and no names, and nothing safe to
    /// go on with.
    fn fill(&self, bytes: &mut [u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let n = retry_on_intr(|| getrandom(&mut *rest, GetRandomFlags::empty()));
            rest = &mut rest[n.expect("the operating system gives random bytes")..];
        }
    }
}
