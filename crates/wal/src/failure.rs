//! Failures of this program's own, and how the server's log shows all of them: what failed, why, and what to do, in one line.

use hikae_model::{ErrorCode, Failure};
use std::io;
use std::path::Path;

/// What must not be done.
pub fn refusal(code: ErrorCode, what: impl Into<String>, advice: &'static str) -> Failure {
    Failure::new(code, what, Some(advice.into()))
}

/// A call that nobody can mean.
pub fn usage(what: impl Into<String>) -> Failure {
    refusal(ErrorCode::Usage, what, "`hikae-wal --help` shows how it is called")
}

/// The operating system refused us a file.
pub fn of_file(verb: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::of_io(format_args!("{verb} {}", path.display()), error)
}

/// What was said before by whoever panicked.
pub fn bug() -> Failure {
    refusal(
        ErrorCode::Failure,
        "this program ended unexpectedly",
        "report it, with the lines before this one",
    )
}

/// True if it may pass by itself: a disk that is about to be mounted, a network that comes back.
pub fn may_pass(failure: &Failure) -> bool {
    matches!(failure.code(), ErrorCode::StoreUnreachable | ErrorCode::RepositoryMissing | ErrorCode::Busy)
}

/// Says it where the server's log is.
pub fn show(failure: &Failure) {
    match failure.advice() {
        Some(advice) => eprintln!("hikae-wal: {}; {advice}", failure.message()),
        None => eprintln!("hikae-wal: {}", failure.message()),
    }
}
