//! What a protocol does in one go: one request, or the few that belong together.
//!
//! Here nothing is tried again, and nothing is made of an answer but an [`Outcome`]; [`RemoteStore`](crate::RemoteStore)
//! does that for all protocols alike.

use crate::answer::Outcome;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use hikae_store::{Durability, Held, MayGo, Object, ObjectKey};
use jiff::Timestamp;
use std::ops::Range;

/// One place that is spoken to by one protocol.
#[async_trait::async_trait]
pub(crate) trait Wire: Send + Sync {
    /// Stores an object whole; on `Ok` it is durable.
    async fn send(&self, key: &ObjectKey, bytes: &Bytes, mode: Mode) -> Result<(), Outcome>;

    /// An object, or as much of a range of it as there is.
    async fn fetch(&self, key: &ObjectKey, range: Option<&Range<u64>>) -> Result<Fetched, Outcome>;

    /// The objects below a prefix, those up to `after` left out. Ends with its first error.
    fn list<'w>(&'w self, prefix: &str, after: Option<&ObjectKey>) -> BoxStream<'w, Result<Object, Outcome>>;

    /// Size and age of an object.
    async fn stat(&self, key: &ObjectKey) -> Result<Object, Outcome>;

    /// The same, of an object that is durable then, whoever put it.
    async fn settle(&self, key: &ObjectKey) -> Result<Object, Outcome>;

    /// Removes an object.
    async fn remove(&self, key: &ObjectKey) -> Result<(), Outcome>;

    /// Whether what was stored survives a power cut.
    async fn durability(&self) -> Result<Durability, Outcome> {
        Ok(Durability::Full)
    }

    /// Removes what broken uploads left, if last written to before `before`; gives how many there were.
    async fn reclaim(&self, _before: jiff::Timestamp) -> Result<usize, Outcome> {
        Ok(0)
    }

    /// When its lock ends, if it has one.
    async fn locked_until(&self, _: &ObjectKey) -> Result<Option<Timestamp>, Outcome> {
        Ok(None)
    }

    /// Sees that all but what `may_go` is locked for as long as it should be, where anything is.
    async fn hold(&self, _: MayGo<'_>) -> Result<Held, Outcome> {
        Ok(Held::default())
    }
}

/// What becomes of a name that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It stays, and this is [`Outcome::Taken`].
    Create,
    /// It is replaced.
    Overwrite,
}

/// What an object is, or a range of it.
pub(crate) struct Fetched {
    /// How long the whole object is.
    pub length: u64,
    /// As much as there is of what was asked for.
    pub bytes: Vec<u8>,
}

/// Memory that is set aside because a server says how much is to come.
pub(crate) const MOST_RESERVED: u64 = 64 << 20;
