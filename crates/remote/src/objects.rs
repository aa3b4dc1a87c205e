//! Stores of objects over HTTP, by the library that speaks to each of them.

use crate::answer::{Outcome, noting};
use crate::wire::{Fetched, MOST_RESERVED, Mode, Wire};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use hikae_store::{Object, ObjectKey};
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload,
};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// An answer that does not begin within this, or stops for as long, is none.
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);
/// What is sent may take a second more for each of so many bytes.
const SLOWEST_BYTES_PER_SECOND: u64 = 32 << 10;

/// A bucket, or what is below one prefix of it.
pub(crate) struct Objects {
    pub objects: Arc<dyn ObjectStore>,
    pub prefix: String,
}

impl Objects {
    fn path(&self, key: &str) -> Path {
        match (self.prefix.as_str(), key) {
            ("", key) => Path::from(key),
            (prefix, "") => Path::from(prefix),
            (prefix, key) => Path::from(format!("{prefix}/{key}")),
        }
    }

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

    /// The key of what a list shows. What is none of ours is none of our business.
    fn key_of(&self, path: &Path) -> Option<ObjectKey> {
        let name = match self.prefix.as_str() {
            "" => path.as_ref(),
            prefix => path.as_ref().strip_prefix(prefix)?.strip_prefix('/')?,
        };
        ObjectKey::parse(name).ok()
    }
}

#[async_trait::async_trait]
impl Wire for Objects {
    async fn send(&self, key: &ObjectKey, bytes: &Bytes, mode: Mode) -> Result<(), Outcome> {
        let limit = ANSWERS_WITHIN + Duration::from_secs(bytes.len() as u64 / SLOWEST_BYTES_PER_SECOND);
        let mode = match mode {
            Mode::Create => PutMode::Create,
            Mode::Overwrite => PutMode::Overwrite,
        };
        let path = self.path(key.as_str());
        let put = self.objects.put_opts(&path, PutPayload::from(bytes.clone()), mode.into());
        noting(within(limit, put)).await.map(drop)
    }

    async fn fetch(&self, key: &ObjectKey, range: Option<&Range<u64>>) -> Result<Fetched, Outcome> {
        noting(self.fetch(&self.path(key.as_str()), range)).await
    }

    fn list<'w>(&'w self, prefix: &str, after: Option<&ObjectKey>) -> BoxStream<'w, Result<Object, Outcome>> {
        let path = self.path(prefix);
        let below = (!path.as_ref().is_empty()).then_some(&path);
        let pages = match after {
            Some(after) => self.objects.list_with_offset(below, &self.path(after.as_str())),
            None => self.objects.list(below),
        };
        let noted = stream::unfold(pages, |mut pages| async {
            let next = noting(within(ANSWERS_WITHIN, pages.try_next())).await;
            next.transpose().map(|next| (next, pages))
        });
        let ours = move |meta: ObjectMeta| async move {
            Ok(self.key_of(&meta.location).map(|key| object(key, &meta)))
        };
        noted.try_filter_map(ours).boxed()
    }

    async fn stat(&self, key: &ObjectKey) -> Result<Object, Outcome> {
        let path = self.path(key.as_str());
        let meta = noting(within(ANSWERS_WITHIN, self.objects.head(&path))).await?;
        Ok(object(key.clone(), &meta))
    }

    async fn settle(&self, key: &ObjectKey) -> Result<Object, Outcome> {
        // What such a store shows it has made durable.
        self.stat(key).await
    }

    async fn remove(&self, key: &ObjectKey) -> Result<(), Outcome> {
        let path = self.path(key.as_str());
        noting(within(ANSWERS_WITHIN, self.objects.delete(&path))).await
    }
}

fn object(key: ObjectKey, meta: &ObjectMeta) -> Object {
    // Lists tell the time to the millisecond, and answers for one object to the second.
    let stored = jiff::Timestamp::from_second(meta.last_modified.timestamp()).unwrap_or_default();
    Object { key, bytes: meta.size, stored }
}

async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let late = |_| Err(strange(format!("no answer within {} s", limit.as_secs())));
    tokio::time::timeout(limit, call).await.unwrap_or_else(late)
}

fn strange(what: String) -> Error {
    Error::Generic { store: "remote", source: what.into() }
}
