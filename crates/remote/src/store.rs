//! One store over the network, as every store is asked for it: what the answers mean, and what is asked again.

use crate::answer::Outcome;
use crate::ask::{Asker, What};
use crate::objects::Objects;
use crate::retry::Again;
use crate::wire::{Fetched, Mode, Wire};
use bytes::Bytes;
use futures_util::TryStreamExt;
use hikae_model::sabotage;
use hikae_store::{Durability, Held, MayGo, Object, ObjectKey, Store, StoreError, is_prefix};
use jiff::Timestamp;
use object_store::ObjectStore;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// A store over the network: a bucket, or what is below one prefix of it; or a directory of another machine.
pub struct RemoteStore {
    asker: Asker,
    wire: Box<dyn Wire>,
}

impl RemoteStore {
    pub(crate) fn new(asker: Asker, objects: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        Self::over(asker, Box::new(Objects { objects, prefix: prefix.to_owned() }))
    }

    pub(crate) fn over(asker: Asker, wire: Box<dyn Wire>) -> Self {
        Self { asker, wire }
    }

    /// Whether what `put` calls durable survives a power cut, as far as can be seen from here.
    ///
    /// # Errors
    /// The server does not answer.
    pub fn durability(&self) -> Result<Durability, StoreError> {
        let what = What { verb: "read", key: "what the server can do" };
        self.asker.persist(&what, || self.asker.run(self.wire.durability()))
    }

    /// Removes what broken uploads left of objects, if last written to before `before`: the caller knows that no run as old as
    /// that is still at work. Returns how many there were.
    ///
    /// # Errors
    /// Any failure; some may have been removed.
    pub fn reclaim_temporary(&self, before: jiff::Timestamp) -> Result<usize, StoreError> {
        let what = What { verb: "remove", key: "what broken uploads left" };
        self.asker.persist(&what, || self.asker.run(self.wire.reclaim(before)))
    }

    /// True if what stands under `key` is this: who puts it once more after an answer was lost finds their own.
    fn is_ours(&self, key: &ObjectKey, bytes: &[u8]) -> Result<bool, StoreError> {
        Ok(self.settle(key)?.bytes == bytes.len() as u64 && self.get(key)? == bytes)
    }

    fn reading<T>(
        &self,
        key: &ObjectKey,
        mut call: impl AsyncFnMut() -> Result<T, Outcome>,
    ) -> Result<T, StoreError> {
        self.asker.persist(&reading(key), || self.asker.run(call()))
    }

    /// Shows what lies below `prefix` and behind `last`.
    fn list_from(
        &self,
        prefix: &str,
        mut last: Option<ObjectKey>,
        show: &mut dyn FnMut(Object),
    ) -> Result<(), StoreError> {
        let what = What { verb: "list", key: prefix };
        if !is_prefix(prefix) {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "this is no directory's name");
            return Err(self.asker.failed(&what, Outcome::Failed(source)));
        }
        // A page that fails is asked for again, from behind the last object that was shown.
        self.asker.persist(&what, || {
            let mut objects = self.wire.list(prefix, last.as_ref());
            loop {
                let next = self.asker.run(objects.try_next());
                let next = if sabotage::on("broken-list-is-an-end") { next.or(Ok(None)) } else { next };
                let Some(object) = next? else { return Ok(()) };
                last = Some(object.key.clone());
                show(object);
            }
        })
    }
}

fn reading(key: &ObjectKey) -> What<'_> {
    What { verb: "read", key: key.as_str() }
}

fn writing(key: &ObjectKey) -> What<'_> {
    What { verb: "write", key: key.as_str() }
}

impl Store for RemoteStore {
    fn address(&self) -> String {
        self.asker.address.clone()
    }

    fn puts_at_once(&self) -> usize {
        4
    }

    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> Result<(), StoreError> {
        let content = Bytes::copy_from_slice(bytes);
        let mut tries = self.asker.tries();
        // Whether a try that ended badly may have stored it all the same.
        let mut is_doubtful = false;
        loop {
            let (error, why) = match self.asker.run(self.wire.send(key, &content, Mode::Create)) {
                Ok(()) => return Ok(()),
                Err(Outcome::Taken)
                    if is_doubtful
                        && !sabotage::on("lost-put-is-anothers")
                        && self.is_ours(key, bytes)? =>
                {
                    return Ok(());
                }
                // That it is refused now says nothing of the try before.
                Err(Outcome::Refused(_)) if is_doubtful && self.is_ours(key, bytes).unwrap_or(false) => {
                    return Ok(());
                }
                Err(Outcome::Raced(error)) => (error, Again::Raced),
                Err(Outcome::Passing(error)) => {
                    is_doubtful = true;
                    (error, Again::Failed)
                }
                Err(outcome) => return Err(self.asker.failed(&writing(key), outcome)),
            };
            if !tries.wait(why) {
                return Err(self.asker.unreachable(&writing(key), tries.n, error));
            }
        }
    }

    fn replace(&self, key: &ObjectKey, bytes: &[u8]) -> Result<(), StoreError> {
        let content = Bytes::copy_from_slice(bytes);
        self.asker.persist(&writing(key), || self.asker.run(self.wire.send(key, &content, Mode::Overwrite)))
    }

    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>, StoreError> {
        self.reading(key, async || self.wire.fetch(key, None).await).map(|fetched| fetched.bytes)
    }

    fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let truncated = |bytes| StoreError::Truncated { key: key.clone(), bytes, expected: range.end };
        if range.start >= range.end {
            // No server has a range of nothing; but how long the object is, it knows.
            return match self.stat(key)?.bytes {
                length if length < range.end => Err(truncated(length)),
                _ if range.start == range.end => Ok(Vec::new()),
                _ => {
                    let source =
                        io::Error::new(io::ErrorKind::InvalidInput, "the range ends before it starts");
                    Err(self.asker.failed(&reading(key), Outcome::Failed(source)))
                }
            };
        }
        let fetched = self.reading(key, async || match self.wire.fetch(key, Some(&range)).await {
            Err(Outcome::BeyondEnd) => Ok(None),
            fetched => fetched.map(Some),
        })?;
        match fetched {
            Some(Fetched { length, bytes }) if length >= range.end => Ok(bytes),
            Some(Fetched { length, .. }) => Err(truncated(length)),
            None => Err(truncated(self.stat(key)?.bytes)),
        }
    }

    fn list(&self, prefix: &str, show: &mut dyn FnMut(Object)) -> Result<(), StoreError> {
        self.list_from(prefix, None, show)
    }

    fn list_after(
        &self,
        prefix: &str,
        after: &ObjectKey,
        show: &mut dyn FnMut(Object),
    ) -> Result<(), StoreError> {
        self.list_from(prefix, Some(after.clone()), show)
    }

    fn stat(&self, key: &ObjectKey) -> Result<Object, StoreError> {
        self.reading(key, async || self.wire.stat(key).await)
    }

    fn settle(&self, key: &ObjectKey) -> Result<Object, StoreError> {
        self.reading(key, async || self.wire.settle(key).await)
    }

    fn locked_until(&self, key: &ObjectKey) -> Result<Option<Timestamp>, StoreError> {
        self.reading(key, async || self.wire.locked_until(key).await)
    }

    fn hold(&self, may_go: MayGo<'_>) -> Result<Held, StoreError> {
        let what = What { verb: "lock", key: "what is kept" };
        self.asker.persist(&what, || self.asker.run(self.wire.hold(may_go)))
    }

    fn remove(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let what = What { verb: "remove", key: key.as_str() };
        match self.asker.persist(&what, || self.asker.run(self.wire.remove(key))) {
            Err(StoreError::NotFound { .. }) => Ok(()),
            result => result,
        }
    }
}
