//! One store over the network, as every store is asked for it.

use crate::answer::Outcome;
use crate::ask::{Asker, What};
use crate::retry::Again;
use futures_util::TryStreamExt;
use hikae_model::sabotage;
use hikae_store::{Object, ObjectKey, Store, StoreError, is_prefix};
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload,
};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// An answer that does not begin within this, or stops for as long, is none.
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);
/// What is sent may take a second more for each of so many bytes.
const SLOWEST_BYTES_PER_SECOND: u64 = 32 << 10;

/// A bucket, or what is below one prefix of it.
pub struct RemoteStore {
    asker: Asker,
    objects: Arc<dyn ObjectStore>,
    prefix: String,
}

impl RemoteStore {
    pub(crate) fn new(asker: Asker, objects: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        Self { asker, objects, prefix: prefix.to_owned() }
    }

    fn path(&self, key: &str) -> Path {
        match (self.prefix.as_str(), key) {
            ("", key) => Path::from(key),
            (prefix, "") => Path::from(prefix),
            (prefix, key) => Path::from(format!("{prefix}/{key}")),
        }
    }

    async fn send(&self, path: &Path, payload: &PutPayload, mode: PutMode) -> Result<(), Error> {
        let bytes = payload.content_length() as u64;
        let limit = ANSWERS_WITHIN + Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND);
        within(limit, self.objects.put_opts(path, payload.clone(), mode.into())).await.map(drop)
    }

    /// An object, or as much of a range of it as there is.
    async fn fetch(&self, path: &Path, range: Option<&Range<u64>>) -> Result<Fetched, Error> {
        let options = GetOptions { range: range.cloned().map(GetRange::Bounded), ..GetOptions::default() };
        let got = within(ANSWERS_WITHIN, self.objects.get_opts(path, options)).await?;
        let length = got.meta.size;
        let expected = range.map_or(0..length, |range| range.start..range.end.min(length));
        let mut bytes = Vec::with_capacity((expected.end - expected.start).min(MOST_RESERVED) as usize);
        let is_right = got.range == expected;
        let mut parts = got.into_stream();
        while let Some(part) = within(ANSWERS_WITHIN, parts.try_next()).await? {
            bytes.extend_from_slice(&part);
        }
        match is_right && bytes.len() as u64 == expected.end - expected.start {
            true => Ok(Fetched { length, bytes }),
            false => Err(strange(format!("{} bytes of {:?} came for {expected:?}", bytes.len(), path))),
        }
    }

    /// True if what stands under `key` is this: who puts it once more after an answer was lost finds their own.
    fn is_ours(&self, key: &ObjectKey, bytes: &[u8]) -> Result<bool, StoreError> {
        Ok(self.stat(key)?.bytes == bytes.len() as u64 && self.get(key)? == bytes)
    }

    fn object(&self, key: &ObjectKey, meta: &ObjectMeta) -> Object {
        // Lists tell the time to the millisecond, and answers for one object to the second.
        let stored = jiff::Timestamp::from_second(meta.last_modified.timestamp()).unwrap_or_default();
        Object { key: key.clone(), bytes: meta.size, stored }
    }

    /// The key of what a list shows. What is none of ours is none of our business.
    fn key_of(&self, path: &Path) -> Option<ObjectKey> {
        let name = match self.prefix.as_str() {
            "" => path.as_ref(),
            prefix => path.as_ref().strip_prefix(prefix)?.strip_prefix('/')?,
        };
        ObjectKey::parse(name).ok()
    }
}

/// What an object is, or a range of it.
struct Fetched {
    /// How long the whole object is.
    length: u64,
    bytes: Vec<u8>,
}

/// Memory that is set aside because a server says how much is to come.
const MOST_RESERVED: u64 = 64 << 20;

async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let late = |_| Err(strange(format!("no answer within {} s", limit.as_secs())));
    tokio::time::timeout(limit, call).await.unwrap_or_else(late)
}

fn strange(what: String) -> Error {
    Error::Generic { store: "remote", source: what.into() }
}

fn reading(key: &ObjectKey) -> What<'_> {
    What { verb: "read", key: key.as_str() }
}

impl Store for RemoteStore {
    fn address(&self) -> String {
        self.asker.address.clone()
    }

    fn puts_at_once(&self) -> usize {
        4
    }

    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> Result<(), StoreError> {
        let (what, path) = (What { verb: "write", key: key.as_str() }, self.path(key.as_str()));
        let payload = PutPayload::from(bytes.to_vec());
        let mut tries = self.asker.tries();
        // Whether a try that ended badly may have stored it all the same.
        let mut is_doubtful = false;
        loop {
            let (error, why) = match self.asker.ask(self.send(&path, &payload, PutMode::Create)) {
                Ok(()) => return Ok(()),
                Err(Outcome::Taken)
                    if is_doubtful
                        && !sabotage::on("lost-put-is-anothers")
                        && self.is_ours(key, bytes)? =>
                {
                    return Ok(());
                }
                Err(Outcome::Raced(error)) => (error, Again::Raced),
                Err(Outcome::Passing(error)) => {
                    is_doubtful = true;
                    (error, Again::Failed)
                }
                Err(outcome) => return Err(self.asker.failed(&what, outcome)),
            };
            if !tries.wait(why) {
                return Err(self.asker.unreachable(&what, tries.n, error));
            }
        }
    }

    fn replace(&self, key: &ObjectKey, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.path(key.as_str());
        let payload = PutPayload::from(bytes.to_vec());
        let what = What { verb: "write", key: key.as_str() };
        self.asker.persist(&what, || self.asker.ask(self.send(&path, &payload, PutMode::Overwrite)))
    }

    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>, StoreError> {
        let path = self.path(key.as_str());
        self.asker
            .persist(&reading(key), || self.asker.ask(self.fetch(&path, None)).map(|fetched| fetched.bytes))
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
        let path = self.path(key.as_str());
        let fetched =
            self.asker.persist(&reading(key), || match self.asker.ask(self.fetch(&path, Some(&range))) {
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
        let what = What { verb: "list", key: prefix };
        if !is_prefix(prefix) {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "this is no directory's name");
            return Err(self.asker.failed(&what, Outcome::Failed(source)));
        }
        let path = self.path(prefix);
        let below = (!path.as_ref().is_empty()).then_some(&path);
        // A page that fails is asked for again, from behind the last object that was shown.
        let mut last: Option<Path> = None;
        self.asker.persist(&what, || {
            let mut pages = match &last {
                Some(last) => self.objects.list_with_offset(below, last),
                None => self.objects.list(below),
            };
            loop {
                let next = self.asker.ask(within(ANSWERS_WITHIN, pages.try_next()));
                let next = if sabotage::on("broken-list-is-an-end") { next.or(Ok(None)) } else { next };
                let Some(meta) = next? else { return Ok(()) };
                if let Some(key) = self.key_of(&meta.location) {
                    show(self.object(&key, &meta));
                }
                last = Some(meta.location);
            }
        })
    }

    fn stat(&self, key: &ObjectKey) -> Result<Object, StoreError> {
        let path = self.path(key.as_str());
        let meta = self
            .asker
            .persist(&reading(key), || self.asker.ask(within(ANSWERS_WITHIN, self.objects.head(&path))))?;
        Ok(self.object(key, &meta))
    }

    fn settle(&self, key: &ObjectKey) -> Result<Object, StoreError> {
        // What such a store shows it has made durable.
        self.stat(key)
    }

    fn remove(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let path = self.path(key.as_str());
        let what = What { verb: "remove", key: key.as_str() };
        match self.asker.persist(&what, || self.asker.ask(within(ANSWERS_WITHIN, self.objects.delete(&path))))
        {
            Err(StoreError::NotFound { .. }) => Ok(()),
            result => result,
        }
    }
}
