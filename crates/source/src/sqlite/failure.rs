//! What SQLite's errors mean for us: which thing failed, with which code, and what to do.

use crate::SourceError;
use hikae_model::{ErrorCode, Hint};
use rusqlite::Error;
use rusqlite::ffi;
use std::io;
use std::path::Path;

/// The error for `verb` (as `read`) on the database at `path`.
pub(super) fn failed(verb: &str, path: &Path, error: &Error) -> SourceError {
    let shown = path.display();
    let (code, what, advice): (_, _, Option<Hint>) = match error.sqlite_error_code() {
        Some(ffi::ErrorCode::DatabaseBusy | ffi::ErrorCode::DatabaseLocked) => return locked(path),
        Some(ffi::ErrorCode::NotADatabase) => (
            ErrorCode::Usage,
            format!("{shown} is not a SQLite database"),
            Some(
                "see that the path is right; to keep it as it is, name it as a source of kind `files`, or protect the \
                 folder that it is in"
                    .into(),
            ),
        ),
        Some(ffi::ErrorCode::DatabaseCorrupt) => (
            ErrorCode::Failure,
            format!("{shown} is damaged: {}", said(error)),
            Some(
                "restore it from a snapshot, or salvage it with `.recover` of the sqlite3 program; to keep it as it is, \
                 protect the folder that it is in"
                    .into(),
            ),
        ),
        Some(ffi::ErrorCode::DiskFull) => (
            ErrorCode::NoSpace,
            format!("no space left while hikae tried to {verb} {shown}"),
            Some("free some space, or set `scratch` to a directory that has room for the database".into()),
        ),
        Some(ffi::ErrorCode::CannotOpen | ffi::ErrorCode::PermissionDenied | ffi::ErrorCode::ReadOnly) => (
            ErrorCode::Permission,
            format!("cannot {verb} {shown}: {}", said(error)),
            // A database in WAL mode is read through its -shm, which must be there or be made.
            Some("run hikae as the database's user, who may also write in its directory".into()),
        ),
        _ => (ErrorCode::Failure, format!("cannot {verb} {shown}: {}", said(error)), None),
    };
    SourceError::Failed { code, what, advice }
}

/// The error for a database that another program keeps locked.
pub(super) fn locked(path: &Path) -> SourceError {
    SourceError::Failed {
        code: ErrorCode::Busy,
        what: format!("{} is locked by another program", path.display()),
        advice: Some("let the program that writes to it end its transaction, then try again".into()),
    }
}

/// The error for what the operating system would not do to `path`.
pub(super) fn refused(verb: &'static str, path: &Path, error: io::Error) -> SourceError {
    match error.kind() {
        io::ErrorKind::NotFound => SourceError::Missing { path: path.to_owned() },
        _ => SourceError::Io { verb, path: path.to_owned(), source: error },
    }
}

/// What SQLite says, in one line.
pub(super) fn said(error: &Error) -> String {
    match error {
        Error::SqliteFailure(code, None) => code.to_string(),
        Error::SqliteFailure(_, Some(message)) => message.clone(),
        other => other.to_string(),
    }
}

/// The extended result code, as `SQLITE_READONLY_ROLLBACK`; 0 if the error is not SQLite's.
pub(super) fn extended_code(error: &Error) -> i32 {
    error.sqlite_error().map_or(0, |error| error.extended_code)
}

/// Whether the error says that the file is not what SQLite wrote.
pub(super) fn is_damage(error: &Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ffi::ErrorCode::DatabaseCorrupt | ffi::ErrorCode::NotADatabase | ffi::ErrorCode::SystemIoFailure
        )
    )
}
