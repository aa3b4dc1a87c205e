//! Failures as the server's log shows them: what failed, why, and what to do, in one line.

use hikae_model::{Advise, ErrorCode, Hint, with_causes};
use std::io;
use std::path::Path;

/// Why a call failed: any error that knows its code.
pub struct Failure(Box<dyn Advise + Send + Sync>);

impl<E: Advise + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

/// A failure of this program's own.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
struct Plain {
    code: ErrorCode,
    what: String,
    advice: Option<Hint>,
}

impl Advise for Plain {
    fn code(&self) -> ErrorCode {
        self.code
    }

    fn advice(&self) -> Option<Hint> {
        self.advice.clone()
    }
}

impl Failure {
    /// A failure of this program's own.
    pub fn new(code: ErrorCode, what: impl Into<String>, advice: &'static str) -> Self {
        Self(Box::new(Plain { code, what: what.into(), advice: Some(advice.into()) }))
    }

    /// A call that nobody can mean.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(ErrorCode::Usage, what, "`hikae-wal --help` shows how it is called")
    }

    /// The operating system refused us a file.
    pub fn of_io(verb: &str, path: &Path, error: &io::Error) -> Self {
        let what = format!("cannot {verb} {}: {error}", path.display());
        Self(Box::new(Plain { code: ErrorCode::of_io(error), what, advice: None }))
    }

    /// What was said before by whoever panicked.
    pub fn bug() -> Self {
        Self::new(
            ErrorCode::Failure,
            "this program ended unexpectedly",
            "report it, with the lines before this one",
        )
    }

    /// Its kind.
    pub fn code(&self) -> ErrorCode {
        self.0.code()
    }

    /// True if it may pass by itself: a disk that is about to be mounted, a network that comes back.
    pub fn may_pass(&self) -> bool {
        matches!(self.code(), ErrorCode::StoreUnreachable | ErrorCode::RepositoryMissing | ErrorCode::Busy)
    }

    /// Says it where the server's log is.
    pub fn show(&self) {
        let what = with_causes(&*self.0);
        match self.0.advice() {
            Some(advice) => eprintln!("hikae-wal: {what}; {advice}"),
            None => eprintln!("hikae-wal: {what}"),
        }
    }
}
