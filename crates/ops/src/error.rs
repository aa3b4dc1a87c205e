//! What can end an operation. A fault of the repository and a fault of a source are different things, and
//! stay so up to the exit code.

use hikae_export::ExportError;
use hikae_model::{Advise, Cancelled, ErrorCode, Hint, with_causes};
use hikae_repo::RepoError;
use hikae_repo::wal::WalError;
use hikae_source::SourceError;
use hikae_store::StoreError;

/// Why an operation ended.
#[derive(Debug, thiserror::Error)]
pub enum OpsError {
    /// The repository failed.
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// The archive of write-ahead log failed.
    #[error(transparent)]
    Wal(WalError),
    /// A source or a target failed.
    #[error("{source_name}: {source}")]
    Source {
        /// Name of the source.
        source_name: String,
        /// What it said.
        source: SourceError,
    },
    /// A program around a source failed.
    #[error("{source_name}: the program `{program}`, run {when}, {what}")]
    Hook {
        /// Name of the source.
        source_name: String,
        /// Whether it runs before the source is read or after.
        when: &'static str,
        /// The program and its arguments, secrets taken out.
        program: String,
        /// What it did.
        what: String,
    },
    /// What was asked for cannot be.
    #[error("{what}")]
    Refused {
        /// The kind, for the exit code.
        code: ErrorCode,
        /// What cannot be, and why.
        what: String,
        /// What to do instead.
        advice: Option<Hint>,
    },
    /// The work was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl OpsError {
    /// For `map_err`: says which source it was.
    pub(crate) fn of_source(name: &str) -> impl Fn(SourceError) -> Self + use<'_> {
        move |source| match source {
            SourceError::Cancelled(cancelled) => Self::Cancelled(cancelled),
            source => Self::Source { source_name: name.to_owned(), source },
        }
    }

    /// True if what is kept is not what was backed up, or not there: no restore of it can succeed, wherever it is
    /// tried.
    pub fn is_damage(&self) -> bool {
        self.code() == ErrorCode::VerificationFailed
    }

    /// A refusal.
    pub fn refused(code: ErrorCode, what: impl Into<String>, advice: Option<Hint>) -> Self {
        Self::Refused { code, what: what.into(), advice }
    }
}

/// What somebody typed, safe to be shown: what moves a cursor is escaped, and every script stays as it is.
pub(crate) fn printable(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}

impl From<StoreError> for OpsError {
    fn from(error: StoreError) -> Self {
        Self::Repo(error.into())
    }
}

impl From<ExportError> for OpsError {
    fn from(error: ExportError) -> Self {
        Self::Refused { code: error.code(), what: with_causes(&error), advice: error.advice() }
    }
}

impl From<WalError> for OpsError {
    fn from(error: WalError) -> Self {
        match error {
            WalError::Repo(error) => Self::Repo(error),
            error => Self::Wal(error),
        }
    }
}

impl Advise for OpsError {
    fn code(&self) -> ErrorCode {
        match self {
            // A pack that is not there is for the store only a name that nobody has.
            Self::Repo(error) if error.is_damage() => ErrorCode::VerificationFailed,
            Self::Repo(error) => error.code(),
            Self::Wal(error) => error.code(),
            Self::Source { source, .. } => source.code(),
            Self::Hook { .. } => ErrorCode::Failure,
            Self::Refused { code, .. } => *code,
            Self::Cancelled(_) => ErrorCode::Interrupted,
        }
    }

    fn advice(&self) -> Option<Hint> {
        match self {
            Self::Repo(error) => error.advice().or_else(|| {
                error
                    .is_damage()
                    .then(|| "run `hikae verify` for the extent, then `hikae repo repair`".into())
            }),
            Self::Wal(error) => error.advice(),
            Self::Source { source, .. } => source.advice(),
            Self::Hook { .. } => Some("run the program by hand and see what it says".into()),
            Self::Refused { advice, .. } => advice.clone(),
            Self::Cancelled(_) => None,
        }
    }
}
