//! What can go wrong with a repository. Never a fault of a source.

use crate::doubt::Doubt;
use crate::forget::ForgetRefused;
use crate::object::BadObject;
use crate::prune::PruneStop;
use hikae_model::{Advise, BlobId, Cancelled, ErrorCode, Hint, PackId, WriterId};
use hikae_store::{ObjectKey, StoreError};
use std::io;
use std::path::PathBuf;

/// Why a repository could not do as it was told.
#[derive(Debug, thiserror::Error)]
pub enum RepoError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is a store, and no repository in it.
    #[error("there is no repository in {address}")]
    NoRepository {
        /// Where we looked.
        address: String,
    },
    /// There is one already.
    #[error("there is a repository in {address} already")]
    RepositoryExists {
        /// Where.
        address: String,
    },
    /// No key slot opens with what we were given.
    #[error("this key does not open the repository in {address}")]
    WrongKey {
        /// Where.
        address: String,
    },
    /// What is sealed in one repository opens in another of its family only.
    #[error("the repository in {address} is of another family than the one in {other}")]
    OtherFamily {
        /// The target.
        address: String,
        /// The source.
        other: String,
    },
    /// A writer of the source is nobody in the target, so nothing that it signed counts there.
    #[error("writer {} has signed it, whom the other repository does not know", .writer.short())]
    WriterUnknown {
        /// Who.
        writer: WriterId,
    },
    /// The repository is not the one that the key belongs to, or `hikae.json` was changed.
    #[error("hikae.json in {address} is not what the key slots vouch for")]
    HeaderChanged {
        /// Where.
        address: String,
    },
    /// A later release has made or changed it.
    #[error("the repository uses {what}, which this release does not know")]
    TooNew {
        /// The feature or the version.
        what: String,
    },
    /// An object is not what it should be.
    #[error("{key} is damaged: {why}")]
    Damaged {
        /// The object.
        key: ObjectKey,
        /// What is wrong with it.
        why: BadObject,
    },
    /// A listing or a manifest does not fit into a blob.
    #[error("a listing or a manifest has {}, more than a blob can hold", hikae_model::Bytes(*.bytes))]
    TooLarge {
        /// Its length.
        bytes: u64,
    },
    /// A blob that a snapshot needs is in no pack.
    #[error("blob {} is in no pack of the repository", .id.short())]
    BlobMissing {
        /// The blob.
        id: BlobId,
    },
    /// A frame does not hold what the index says.
    #[error("pack {} is damaged at {offset}: {why}", .pack.short())]
    FrameDamaged {
        /// The pack.
        pack: PackId,
        /// Where in the pack the frame begins.
        offset: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// What was packed is not what was read: memory, CPU or compressor are at fault.
    #[error("what was compressed and sealed does not come back the same")]
    NotTheSame,
    /// Contents cannot be opened with the key that we hold.
    #[error("this key opens metadata only, not contents")]
    NeedsIdentity,
    /// The writer may not do this.
    #[error("this key may not {what}")]
    NoRight {
        /// As `forget snapshots`.
        what: &'static str,
    },
    /// The log does not hang together.
    #[error("log entry {n} {why}")]
    BadLog {
        /// Its number.
        n: u64,
        /// What is wrong with it.
        why: String,
    },
    /// The log is damaged, or is not the one that this machine has seen.
    #[error(transparent)]
    LogInDoubt(#[from] Doubt),
    /// A run relied on a pack that prune removed meanwhile.
    #[error("pack {} was pruned while this run relied on it", .pack.short())]
    PackGone {
        /// The pack.
        pack: PackId,
    },
    /// A run relied on a pack that was found damaged meanwhile.
    #[error("pack {} was found damaged while this run relied on it", .pack.short())]
    PackDamaged {
        /// The pack.
        pack: PackId,
    },
    /// Prune stopped, with nothing doomed.
    #[error(transparent)]
    Prune(#[from] PruneStop),
    /// A forget would take what must stay.
    #[error(transparent)]
    Forget(#[from] ForgetRefused),
    /// A clock is wrong, and ages cannot be told.
    #[error(
        "this machine's clock is {seconds} s ahead of the store's, so nothing is doomed or removed by age"
    )]
    ClocksDiffer {
        /// How far; negative if it is behind.
        seconds: i64,
    },
    /// Each time that a run had rescued what it needs, prune had doomed that too.
    #[error("prune doomed what this run needs again and again")]
    RescuedInVain,
    /// The local cache failed.
    #[error("cannot use the cache {}", .path.display())]
    Cache {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file or the text that should be a key is not one.
    #[error("{what}")]
    BadKey {
        /// What is wrong, with what.
        what: String,
    },
    /// An age recipient or identity failed.
    #[error("{what}")]
    Age {
        /// What failed.
        what: String,
    },
    /// A thread of the pipeline is gone.
    #[error("a worker ended too early")]
    Worker,
    /// The work was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl RepoError {
    /// For objects that do not open.
    pub(crate) fn damaged(key: ObjectKey) -> impl Fn(BadObject) -> Self {
        move |why| match why {
            BadObject::Newer(version) => Self::TooNew { what: format!("format version {version} in {key}") },
            why => Self::Damaged { key: key.clone(), why },
        }
    }
}

impl RepoError {
    /// True if something that is kept is not what it was or not there, as opposed to a store that does not
    /// answer, a wrong key or a cancelled run: the next copy, or the source itself, may help.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Store(error) => matches!(error, StoreError::NotFound { .. } | StoreError::Truncated { .. }),
            Self::Damaged { .. } | Self::BlobMissing { .. } | Self::FrameDamaged { .. } => true,
            _ => false,
        }
    }
}

const DAMAGED: &str =
    "run `hikae verify` for the extent, then `hikae repo repair`; restores of everything else still work";

impl Advise for RepoError {
    fn code(&self) -> ErrorCode {
        match self {
            // What the store is sure not to have, somebody took away.
            Self::Store(_) if self.is_damage() => ErrorCode::VerificationFailed,
            Self::Store(error) => error.code(),
            Self::NoRepository { .. } => ErrorCode::RepositoryMissing,
            Self::RepositoryExists { .. } | Self::NoRight { .. } | Self::WriterUnknown { .. } => {
                ErrorCode::Forbidden
            }
            Self::BadKey { .. } | Self::OtherFamily { .. } => ErrorCode::Usage,
            Self::WrongKey { .. } | Self::NeedsIdentity | Self::Age { .. } => ErrorCode::WrongKey,
            Self::HeaderChanged { .. }
            | Self::Damaged { .. }
            | Self::BlobMissing { .. }
            | Self::FrameDamaged { .. }
            | Self::BadLog { .. } => ErrorCode::VerificationFailed,
            Self::TooLarge { .. }
            | Self::TooNew { .. }
            | Self::NotTheSame
            | Self::PackGone { .. }
            | Self::PackDamaged { .. }
            | Self::Worker => ErrorCode::Failure,
            Self::Prune(PruneStop::NoSnapshots { .. }) | Self::Forget(_) => ErrorCode::Forbidden,
            Self::Prune(
                PruneStop::PacksMissing { .. } | PruneStop::BlobsLost { .. } | PruneStop::RecordsLost { .. },
            ) => ErrorCode::VerificationFailed,
            Self::Prune(PruneStop::NamesDoomed { .. }) | Self::ClocksDiffer { .. } => ErrorCode::Failure,
            Self::RescuedInVain | Self::Prune(PruneStop::Overtaken { .. }) => ErrorCode::Busy,
            Self::Cache { source, .. } => ErrorCode::of_io(source),
            Self::LogInDoubt(doubt) => doubt.code(),
            Self::Cancelled(_) => ErrorCode::Interrupted,
        }
    }

    fn advice(&self) -> Option<Hint> {
        let text = match self {
            Self::Store(_) if self.is_damage() => DAMAGED,
            Self::Store(error) => return error.advice(),
            Self::NoRepository { .. } => {
                "see that its disk is mounted, or make a repository with `hikae init`"
            }
            Self::RepositoryExists { .. } => "use it as it is, or choose another place",
            Self::WrongKey { .. } => {
                "check passphrase or key file; the recovery sheet gives it a new key: \
                 `hikae key add --recovery SHEET --new-key-file FILE`"
            }
            Self::OtherFamily { .. } => {
                "make it with `hikae init --like`, so that what is sealed opens in both"
            }
            Self::WriterUnknown { .. } => {
                "copy once with the recovery sheet or another key of an owner: that makes it known there"
            }
            Self::HeaderChanged { .. } => "put back hikae.json from a copy; do not write to this repository",
            Self::TooNew { .. } => "use a newer release of hikae",
            Self::Damaged { .. } | Self::BlobMissing { .. } | Self::FrameDamaged { .. } => DAMAGED,
            Self::TooLarge { .. } => "divide the source into several",
            Self::NotTheSame => "test this machine's memory before trusting any backup made on it",
            Self::NeedsIdentity => {
                "give an identity with --identity, or open the repository with its passphrase"
            }
            Self::NoRight { .. } => "use the repository's own passphrase or key file",
            Self::BadLog { .. } => "do not write to this repository; compare it with a copy",
            Self::PackGone { .. } | Self::PackDamaged { .. } => "run the backup again",
            Self::Prune(stop) => stop.advice(),
            Self::Forget(refused) => refused.advice(),
            Self::LogInDoubt(doubt) => return doubt.advice(),
            Self::ClocksDiffer { .. } => {
                "set the clock of this machine, or that of the store's, and run it again"
            }
            Self::RescuedInVain => "give prune an orphan grace that is longer than a backup takes",
            Self::Cache { .. } => "free space there, or choose another place with HIKAE_CACHE",
            Self::BadKey { .. } | Self::Age { .. } => return None,
            Self::Worker => "run it again; if it stays, report it",
            Self::Cancelled(_) => return None,
        };
        Some(text.into())
    }
}
