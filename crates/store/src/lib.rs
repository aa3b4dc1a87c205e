//! Stores: dumb places for named objects.
//!
//! A store knows names and bytes. It knows no encryption, no packs, no snapshots: whatever it is given it
//! keeps whole, and what it has it gives back unread.

mod directory;
mod key;
mod limited;
mod memory;
pub mod probe;

pub use directory::{DirectoryStore, Durability, Reserve};
pub use key::{BadKey, ObjectKey, is_prefix};
pub use limited::{Limit, Limited};
pub use memory::{Change, MemoryStore};

use hikae_model::{Advise, ErrorCode, Hint};
use std::io;
use std::ops::Range;

/// A dumb place for named objects. `hikae_testkit::store_contract` is the full statement of this trait.
///
/// Calls block; whoever wants several objects on their way at once calls from several threads.
pub trait Store: Send + Sync {
    /// The address, for people and for the recovery sheet. Holds no secret.
    fn address(&self) -> String;

    /// How many puts are worth having on their way at once. Where each waits for an answer over a network, some; a disk
    /// that syncs each gains nothing by a second.
    fn puts_at_once(&self) -> usize {
        1
    }

    /// True if each question takes the time of a network, so that what can be kept near is worth keeping.
    fn is_far(&self) -> bool {
        self.puts_at_once() > 1
    }

    /// Stores `bytes` whole or not at all; on `Ok` they are durable. Objects are never replaced: a taken
    /// `key` is [`StoreError::Exists`], whatever it holds. Of several that put one key at once, exactly one
    /// gets `Ok`.
    ///
    /// # Errors
    /// After any error but `Exists`, `NoSpace` and `Permission` the object may or may not be there
    /// ([`StoreError::outcome_is_unknown`]).
    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> Result<(), StoreError>;

    /// Stores `bytes` in place of what stands under `key`, damaged as it is, or of nothing: who reads meanwhile sees
    /// the one or the other. Only repair calls this, with bytes that are proved to be those that were there.
    ///
    /// # Errors
    /// As for `put`, without `Exists`.
    fn replace(&self, key: &ObjectKey, bytes: &[u8]) -> Result<(), StoreError>;

    /// Reads a whole object.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] only when the store is sure that there is no such object.
    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>, StoreError>;

    /// Reads exactly `range`. A short object is [`StoreError::Truncated`], never a short answer.
    ///
    /// # Errors
    /// As for `get`.
    fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>, StoreError>;

    /// Shows every object below `prefix` (a directory, as `packs`, or the empty string for the whole store),
    /// in any order. An error is never an empty list: after an error nothing may be concluded from what was shown.
    ///
    /// # Errors
    /// Any failure to read the list whole.
    fn list(&self, prefix: &str, show: &mut dyn FnMut(Object)) -> Result<(), StoreError>;

    /// The same of those objects alone whose name comes behind `after`, byte by byte: what has been put at the end of a log.
    ///
    /// # Errors
    /// As for `list`.
    fn list_after(
        &self,
        prefix: &str,
        after: &ObjectKey,
        show: &mut dyn FnMut(Object),
    ) -> Result<(), StoreError> {
        self.list(prefix, &mut |object| {
            if object.key > *after {
                show(object);
            }
        })
    }

    /// Size and age of one object.
    ///
    /// # Errors
    /// As for `get`.
    fn stat(&self, key: &ObjectKey) -> Result<Object, StoreError>;

    /// Makes durable what stands under `key`, whoever put it: that it can be read does not say that it survives a power
    /// cut, if another process is about to put it at this moment. Gives its size and age.
    ///
    /// # Errors
    /// As for `get`; after any other error than `NotFound` nobody knows whether it is durable.
    fn settle(&self, key: &ObjectKey) -> Result<Object, StoreError>;

    /// Removes an object, durably. One that is not there is a success: somebody else removed it.
    ///
    /// # Errors
    /// Any failure; the object may still be there.
    fn remove(&self, key: &ObjectKey) -> Result<(), StoreError>;

    /// When the lock of an object ends, where the store holds such; then nobody can remove it before.
    ///
    /// # Errors
    /// As for `get`.
    fn locked_until(&self, _key: &ObjectKey) -> Result<Option<jiff::Timestamp>, StoreError> {
        Ok(None)
    }

    /// Sees that all but what `may_go` stays locked for as long as the store is told to lock, before something relies on it.
    /// Where nothing is locked this does nothing.
    ///
    /// # Errors
    /// Any failure; then some of it may be locked for less.
    fn hold(&self, _may_go: MayGo<'_>) -> Result<Held, StoreError> {
        Ok(Held::default())
    }
}

/// Says which objects nobody relies on any more.
pub type MayGo<'a> = &'a (dyn Fn(&ObjectKey) -> bool + Sync);

/// What a store has locked, since it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Objects that were put, and then seen to be locked.
    pub n_put: u64,
    /// Objects whose locks were made longer.
    pub n_extended: u64,
    /// When the first of all locks ends; nothing if nothing is locked.
    pub until: Option<jiff::Timestamp>,
}

/// What a store says of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its name.
    pub key: ObjectKey,
    /// Its length in bytes.
    pub bytes: u64,
    /// When it was stored, by the store's clock.
    pub stored: jiff::Timestamp,
}

/// Why a store could not do as it was told.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The key is taken.
    #[error("{key} is there already")]
    Exists {
        /// The key.
        key: ObjectKey,
    },
    /// There is no such object.
    #[error("{key} is not there")]
    NotFound {
        /// The key.
        key: ObjectKey,
    },
    /// The object ends before the range does.
    #[error("{key} ends at {bytes} bytes, expected at least {expected}")]
    Truncated {
        /// The key.
        key: ObjectKey,
        /// How long it is.
        bytes: u64,
        /// How long it would have to be.
        expected: u64,
    },
    /// There is no store at this address.
    #[error("there is no store at {address}")]
    Missing {
        /// The address.
        address: String,
    },
    /// The store is full.
    #[error("no space left for {key} in {address}")]
    NoSpace {
        /// What should have been stored.
        key: ObjectKey,
        /// Where.
        address: String,
    },
    /// We may not.
    #[error("not allowed to {verb} {key} in {address}")]
    Permission {
        /// `read`, `write`, `list` or `remove`.
        verb: &'static str,
        /// What.
        key: String,
        /// Where.
        address: String,
        /// What the operating system or the server said.
        source: io::Error,
    },
    /// The server refuses whoever we say we are, or what was asked for.
    #[error("{address} does not allow us to {verb} {key}")]
    Refused {
        /// `read`, `write`, `list` or `remove`.
        verb: &'static str,
        /// What.
        key: String,
        /// Where.
        address: String,
        /// What the server said.
        source: io::Error,
    },
    /// We have nothing to show the server who we are, or it does not take it.
    #[error("{address} does not know us, so we cannot {verb} {key}")]
    Credentials {
        /// `read`, `write`, `list` or `remove`.
        verb: &'static str,
        /// What.
        key: String,
        /// Where.
        address: String,
        /// What was looked for, or what the server said; never any of a secret.
        source: io::Error,
    },
    /// Nobody may remove it before.
    #[error("{key} is locked until {until}")]
    Locked {
        /// What.
        key: ObjectKey,
        /// When its lock ends.
        until: jiff::Timestamp,
    },
    /// It should be locked, and is not.
    #[error("{key} in {address} is not locked as it should be")]
    Unlocked {
        /// What.
        key: String,
        /// Where.
        address: String,
        /// What was found.
        source: io::Error,
    },
    /// The server did not answer, or not usefully, however often it was asked.
    #[error("cannot {verb} {key} in {address}: no useful answer to {n_tries} requests")]
    Unreachable {
        /// `read`, `write`, `list` or `remove`.
        verb: &'static str,
        /// What.
        key: String,
        /// Where.
        address: String,
        /// How often it was asked.
        n_tries: u32,
        /// What the server or the network said last.
        source: io::Error,
    },
    /// Anything else.
    #[error("cannot {verb} {key} in {address}")]
    Io {
        /// `read`, `write`, `list` or `remove`.
        verb: &'static str,
        /// What.
        key: String,
        /// Where.
        address: String,
        /// What the operating system or the server said.
        source: io::Error,
    },
}

impl StoreError {
    /// True if a `put` that ended so may have stored the object, now or a little later.
    pub fn outcome_is_unknown(&self) -> bool {
        match self {
            Self::Exists { .. }
            | Self::Missing { .. }
            | Self::NoSpace { .. }
            | Self::Permission { .. }
            | Self::Locked { .. }
            | Self::Refused { .. } => false,
            // An earlier try of the same put may have been carried out.
            Self::NotFound { .. }
            | Self::Truncated { .. }
            | Self::Credentials { .. }
            | Self::Unlocked { .. }
            | Self::Unreachable { .. }
            | Self::Io { .. } => true,
        }
    }

    /// True if the store is sure that there is no such object.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

impl Advise for StoreError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Exists { .. } | Self::NotFound { .. } => ErrorCode::Failure,
            Self::Truncated { .. } => ErrorCode::VerificationFailed,
            Self::Missing { .. } => ErrorCode::RepositoryMissing,
            Self::NoSpace { .. } => ErrorCode::NoSpace,
            Self::Permission { .. } | Self::Refused { .. } => ErrorCode::Permission,
            Self::Credentials { .. } => ErrorCode::Credentials,
            Self::Locked { .. } | Self::Unlocked { .. } => ErrorCode::Forbidden,
            Self::Unreachable { .. } | Self::Io { .. } => ErrorCode::StoreUnreachable,
        }
    }

    fn advice(&self) -> Option<Hint> {
        match self {
            Self::Exists { .. } | Self::NotFound { .. } => None,
            Self::Locked { .. } => Some("it goes with a later prune, once its lock has ended".into()),
            Self::Unlocked { .. } => Some(
                "run `hikae store init`, which sets up Object Lock, and see that we may do s3:PutObjectRetention and \
                 s3:GetObjectRetention; or take `lock` out of the configuration"
                    .into(),
            ),
            Self::Truncated { .. } => Some("run `hikae verify`, then `hikae repo repair`".into()),
            Self::Missing { .. } => {
                Some("see that the disk is mounted, or make a repository with `hikae init`".into())
            }
            Self::NoSpace { .. } => {
                Some("free some space or run `hikae prune`, then run the backup again".into())
            }
            Self::Permission { .. } => Some("see that this user owns the repository's directory".into()),
            Self::Refused { .. } => {
                Some("see that what we are to the server is allowed to do this there".into())
            }
            Self::Credentials { .. } => Some(
                "set `access_key` and `secret_key`, `profile` or `role` beside the bucket, or see that what gives out the key                  still does; what was stored stays, so run it again"
                    .into(),
            ),
            Self::Unreachable { .. } => Some(
                "see that the address is right and the network and the server are up; what was stored stays, so run it again"
                    .into(),
            ),
            Self::Io { .. } => Some("see that the disk is mounted and healthy".into()),
        }
    }
}
