//! A store that is asked for no more bytes a second than it may be.
//!
//! Bytes of objects are counted, and not what a protocol adds. One object goes at the speed of the line, and what comes after it
//! waits until the time that its bytes may take is over: over a run the limit is met, and within one pack it is not.

use crate::{Held, MayGo, Object, ObjectKey, Store, StoreError};
use hikae_model::{Cx, sabotage};
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Bytes a second, if there is a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// To the store.
    pub up: Option<NonZeroU64>,
    /// From the store.
    pub down: Option<NonZeroU64>,
}

impl Limit {
    /// This one, and where it sets none, the other.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { up: self.up.or(other.up), down: self.down.or(other.down) }
    }

    /// The store within this limit; itself if there is none.
    pub fn over(self, store: Arc<dyn Store>, cx: &Cx) -> Arc<dyn Store> {
        match self {
            Self { up: None, down: None } => store,
            limit => Arc::new(Limited::new(store, limit, cx)),
        }
    }
}

/// A store within a limit.
pub struct Limited {
    store: Arc<dyn Store>,
    up: Pace,
    down: Pace,
    cx: Cx,
}

/// One direction, of all threads together.
struct Pace {
    limit: Option<NonZeroU64>,
    /// When the time of all bytes so far is over.
    until: Mutex<Duration>,
}

impl Pace {
    fn new(limit: Option<NonZeroU64>) -> Self {
        Self { limit, until: Mutex::new(Duration::ZERO) }
    }

    /// Moves bytes when it is their turn, and returns when their time is over.
    fn keep<T>(&self, cx: &Cx, call: impl FnOnce() -> T, n_bytes: impl FnOnce(&T) -> usize) -> T {
        let Some(limit) = self.limit else { return call() };
        let turn = *self.lock();
        // Who is interrupted waits no more; the work itself finds out.
        let _ = cx.wait_until(turn);
        let began = cx.elapsed();
        let done = call();
        let time = Duration::from_secs_f64(n_bytes(&done) as f64 / limit.get() as f64);
        let over = {
            let mut until = self.lock();
            *until = (*until).max(began) + if sabotage::on("limit-halved") { time / 2 } else { time };
            *until
        };
        let _ = cx.wait_until(over);
        done
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Duration> {
        self.until.lock().unwrap_or_else(|broken| broken.into_inner())
    }
}

impl Limited {
    /// `store` within `limit`.
    pub fn new(store: Arc<dyn Store>, limit: Limit, cx: &Cx) -> Self {
        Self { store, up: Pace::new(limit.up), down: Pace::new(limit.down), cx: cx.clone() }
    }

    fn read(&self, read: impl FnOnce() -> Result<Vec<u8>, StoreError>) -> Result<Vec<u8>, StoreError> {
        self.down.keep(&self.cx, read, |read| read.as_ref().map_or(0, Vec::len))
    }
}

impl Store for Limited {
    fn address(&self) -> String {
        self.store.address()
    }

    fn puts_at_once(&self) -> usize {
        self.store.puts_at_once()
    }

    fn is_far(&self) -> bool {
        self.store.is_far()
    }

    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> Result<(), StoreError> {
        // What failed was sent as well, or some of it.
        self.up.keep(&self.cx, || self.store.put(key, bytes), |_| bytes.len())
    }

    fn replace(&self, key: &ObjectKey, bytes: &[u8]) -> Result<(), StoreError> {
        self.up.keep(&self.cx, || self.store.replace(key, bytes), |_| bytes.len())
    }

    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>, StoreError> {
        self.read(|| self.store.get(key))
    }

    fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        self.read(|| self.store.get_range(key, range))
    }

    fn list(&self, prefix: &str, show: &mut dyn FnMut(Object)) -> Result<(), StoreError> {
        self.store.list(prefix, show)
    }

    fn list_after(
        &self,
        prefix: &str,
        after: &ObjectKey,
        show: &mut dyn FnMut(Object),
    ) -> Result<(), StoreError> {
        self.store.list_after(prefix, after, show)
    }

    fn stat(&self, key: &ObjectKey) -> Result<Object, StoreError> {
        self.store.stat(key)
    }

    fn settle(&self, key: &ObjectKey) -> Result<Object, StoreError> {
        self.store.settle(key)
    }

    fn remove(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.store.remove(key)
    }

    fn locked_until(&self, key: &ObjectKey) -> Result<Option<jiff::Timestamp>, StoreError> {
        self.store.locked_until(key)
    }

    fn hold(&self, may_go: MayGo<'_>) -> Result<Held, StoreError> {
        self.store.hold(may_go)
    }
}
