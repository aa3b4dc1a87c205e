//! What a file holds, on its way from a source to the repository.

use crate::Hint;
use std::io;

/// How content is cut into chunks. The source chooses, because it knows what its bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Ordinary files: content-defined, about 1 MiB, each chunk a blob of its own that any file may share.
    Files,
    /// Rows of a database dump: content-defined pieces of about 2 KiB, kept in a map beside super-blocks.
    Rows,
    /// Pages of this many bytes (a power of two from 512 to 65,536), kept in a map beside super-blocks.
    Pages(u32),
}

/// What one call of [`ReadContent::read`] brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stretch {
    /// This many bytes at the start of the buffer; at least one.
    Data(usize),
    /// A hole of this many bytes, which read as zeroes and need no place. The buffer is untouched.
    Hole(u64),
    /// Nothing follows.
    End,
}

/// Content, read once from start to end. Nothing is opened before the first `read`.
pub trait ReadContent: Send {
    /// Reads the next stretch into `buffer`, which is never empty.
    ///
    /// # Errors
    /// [`ContentError`]: this content cannot be kept; the source's other entries still can.
    fn read(&mut self, buffer: &mut [u8]) -> Result<Stretch, ContentError>;

    /// Called once after [`Stretch::End`]: whether what was read is one state of the content. A file that
    /// was written to meanwhile answers with [`ContentError::ChangedWhileRead`].
    ///
    /// # Errors
    /// As for `read`.
    fn finish(&mut self) -> Result<(), ContentError> {
        Ok(())
    }

    /// Pages of it, each with where it stands, if it is said to be what the snapshot before has at the same path: where
    /// that has these pages there, it need not be read.
    fn unchanged(&self) -> Option<&[(u64, Vec<u8>)]> {
        None
    }

    /// Makes the next `read` begin at the start once more, and end where the first reading ended, or before if
    /// there is less now. What is read then is whole only if `finish` says so. False if it can be read only once.
    fn read_again(&mut self) -> bool {
        false
    }
}

/// Why one entry's content could not be read. Never says anything about the repository.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The operating system would not open or read it.
    #[error("cannot be read: {0}")]
    Unreadable(#[source] io::Error),
    /// It was written to while we read it.
    #[error("changed while it was read")]
    ChangedWhileRead,
    /// It was read whole, and is not what its source says that it must be. Its bytes are worth keeping.
    #[error("{0}")]
    Malformed(String),
    /// It was there when its directory was listed and is not there any more.
    #[error("vanished before it was read")]
    Vanished,
    /// It is not there any more, and nothing is missing without it: its source makes good for it.
    #[error("is gone, as it may be")]
    Gone,
    /// The server or the library that makes it failed. The whole source is in doubt.
    #[error("{what}")]
    Broken {
        /// What failed, in one sentence.
        what: String,
        /// What to do.
        advice: Option<Hint>,
    },
}

impl From<io::Error> for ContentError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Vanished,
            _ => Self::Unreadable(error),
        }
    }
}
