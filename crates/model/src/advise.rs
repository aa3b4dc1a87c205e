//! What an error carries besides its text: a stable code, and what to do.

/// A sentence of advice, fixed or made for the case.
pub type Hint = std::borrow::Cow<'static, str>;

/// An error that can say what kind it is and what to do about it.
pub trait Advise: std::error::Error {
    /// The kind, which decides the exit code.
    fn code(&self) -> ErrorCode;

    /// What the user can do, in one sentence.
    fn advice(&self) -> Option<Hint> {
        None
    }
}

/// An error with its causes in one line, each that its effect does not repeat already.
pub fn with_causes(error: &(impl std::error::Error + ?Sized)) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !message.ends_with(&text) {
            message = format!("{message}: {text}");
        }
        cause = error.source();
    }
    message
}

/// The kind of an error. Its name is stable (`--json` shows it) and so is its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// A failure that no other code names.
    Failure,
    /// The command line or the configuration asks for something that cannot be.
    Usage,
    /// Something was kept or put back, but not all of it.
    WithProblems,
    /// What is kept is not what was backed up.
    VerificationFailed,
    /// A disk or a quota is full.
    NoSpace,
    /// The `pg_dump` that is here is older than the server, and cannot read it. A usage error with a name of its own.
    PgDumpTooOld,
    /// The source is not there or does not answer.
    SourceMissing,
    /// The operating system or a server refused us.
    Permission,
    /// Nothing shows a server who we are, or it does not take it.
    Credentials,
    /// Somebody else is using it.
    Busy,
    /// The store does not answer.
    StoreUnreachable,
    /// There is no repository there.
    RepositoryMissing,
    /// The key does not open this repository.
    WrongKey,
    /// A rule or a lock forbids it.
    Forbidden,
    /// An RPO or RTO is breached.
    ObjectiveBreached,
    /// Another file of the write-ahead log is archived under that name.
    WalDiffers,
    /// The user said no.
    Cancelled,
    /// A signal ended us.
    Interrupted,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: [Self; 18] = [
        Self::Failure,
        Self::Usage,
        Self::WithProblems,
        Self::VerificationFailed,
        Self::NoSpace,
        Self::PgDumpTooOld,
        Self::SourceMissing,
        Self::Permission,
        Self::Credentials,
        Self::Busy,
        Self::StoreUnreachable,
        Self::RepositoryMissing,
        Self::WrongKey,
        Self::Forbidden,
        Self::ObjectiveBreached,
        Self::WalDiffers,
        Self::Cancelled,
        Self::Interrupted,
    ];

    /// The stable name, as `no-space`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Failure => "failure",
            Self::Usage => "usage",
            Self::WithProblems => "with-problems",
            Self::VerificationFailed => "verification-failed",
            Self::NoSpace => "no-space",
            Self::PgDumpTooOld => "pg-dump-too-old",
            Self::SourceMissing => "source-missing",
            Self::Permission => "permission",
            Self::Credentials => "credentials",
            Self::Busy => "busy",
            Self::StoreUnreachable => "store-unreachable",
            Self::RepositoryMissing => "repository-missing",
            Self::WrongKey => "wrong-key",
            Self::Forbidden => "forbidden",
            Self::ObjectiveBreached => "objective-breached",
            Self::WalDiffers => "wal-differs",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
        }
    }

    /// The exit code of a command that ends with this error.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Failure => 1,
            Self::Usage => 2,
            Self::PgDumpTooOld => 2,
            Self::WithProblems => 3,
            Self::VerificationFailed => 4,
            Self::NoSpace => 5,
            Self::SourceMissing => 6,
            Self::Permission => 7,
            Self::Busy => 8,
            Self::StoreUnreachable => 9,
            Self::RepositoryMissing => 10,
            Self::WrongKey => 11,
            Self::Forbidden => 12,
            Self::ObjectiveBreached => 13,
            Self::WalDiffers => 14,
            Self::Credentials => 15,
            Self::Cancelled => 20,
            Self::Interrupted => 130,
        }
    }

    /// The code for an error of the operating system while it worked on something of ours.
    pub fn of_io(error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::NoSpace,
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => Self::Permission,
            _ => Self::Failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_codes_share_a_name_and_two_that_say_usage_an_exit_code() {
        let is_usage = |code| matches!(code, ErrorCode::Usage | ErrorCode::PgDumpTooOld);
        for (i, a) in ErrorCode::ALL.iter().enumerate() {
            for b in &ErrorCode::ALL[i + 1..] {
                assert_ne!(a.name(), b.name());
                assert_eq!(a.exit_code() == b.exit_code(), is_usage(*a) && is_usage(*b), "{a:?} {b:?}");
            }
        }
    }
}
