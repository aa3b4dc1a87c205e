//! Why a file of the write-ahead log was not stored, or not fetched.

use crate::RepoError;
use hikae_model::{Advise, ErrorCode, Hint, SystemId, WalName};
use hikae_store::StoreError;
use std::io;

/// Why a file of the write-ahead log was not stored, or not fetched.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The repository's fault.
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// Another file stands under the name.
    #[error("{name} of system {system} is archived already with other content")]
    Differs {
        /// The cluster.
        system: SystemId,
        /// The file.
        name: WalName,
    },
    /// The file could not be read.
    #[error("cannot read the file that is to be archived")]
    Read(#[source] io::Error),
    /// What was fetched could not be written.
    #[error("cannot write the file that was fetched")]
    Write(#[source] io::Error),
}

impl From<StoreError> for WalError {
    fn from(error: StoreError) -> Self {
        Self::Repo(error.into())
    }
}

impl Advise for WalError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Repo(error) => error.code(),
            Self::Differs { .. } => ErrorCode::WalDiffers,
            Self::Read(error) | Self::Write(error) => ErrorCode::of_io(error),
        }
    }

    fn advice(&self) -> Option<Hint> {
        match self {
            Self::Repo(error) => error.advice(),
            Self::Differs { .. } => Some(
                "see whether a restored copy of this cluster archives to the same repository, and let it begin a \
                 timeline of its own"
                    .into(),
            ),
            Self::Read(_) => Some("see that this user may read pg_wal".into()),
            Self::Write(_) => Some("see that there is room where the server recovers".into()),
        }
    }
}
