//! What keeps an ordinary file from being written.

use hikae_model::{Advise, ErrorCode, Hint};
use std::io;
use std::path::PathBuf;

/// Why something could not be written as an ordinary file.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The directory that it should go into is not there.
    #[error("exports cannot go into {}", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Another run is writing there.
    #[error("another export is writing into {}", .path.display())]
    Busy {
        /// The directory.
        path: PathBuf,
    },
    /// Something else stands under the name.
    #[error("{name} is there already, and is something else")]
    Taken {
        /// Where.
        name: String,
    },
    /// The operating system refused or failed.
    #[error("cannot {verb} {name}")]
    Io {
        /// As `write`.
        verb: &'static str,
        /// What.
        name: String,
        /// What it said.
        source: io::Error,
    },
    /// What should be written cannot be.
    #[error("cannot write the export")]
    Write(#[source] io::Error),
    /// A key cannot be used.
    #[error("the OpenPGP key in {} cannot be used: {why}", .path.display())]
    Key {
        /// Its file.
        path: PathBuf,
        /// Why.
        why: String,
        /// What to do.
        advice: &'static str,
    },
}

impl Advise for ExportError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Directory { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorCode::Usage,
            Self::Directory { source, .. } | Self::Io { source, .. } | Self::Write(source) => {
                ErrorCode::of_io(source)
            }
            Self::Busy { .. } => ErrorCode::Busy,
            Self::Taken { .. } => ErrorCode::Forbidden,
            Self::Key { .. } => ErrorCode::Usage,
        }
    }

    fn advice(&self) -> Option<Hint> {
        match self {
            Self::Directory { .. } => Some("see that its disk is mounted, and make the directory".into()),
            Self::Busy { .. } => Some("run it again afterwards".into()),
            Self::Taken { .. } => Some(
                "give the export a name with {time} or {snapshot}, or take away what stands there".into(),
            ),
            Self::Io { .. } | Self::Write(_) => None,
            Self::Key { advice, .. } => Some((*advice).into()),
        }
    }
}
