//! Errors as the command line shows them: the chain of causes in one line, then what to do.

use hikae_model::{Advise, ErrorCode, Hint, sabotage};
use std::fmt;

/// Why a command failed: any error that knows its code.
pub struct Failure(Box<dyn Advise + Send + Sync>);

impl<E: Advise + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

/// A failure of the command line's own.
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
    /// A failure of the command line's own.
    pub fn new(code: ErrorCode, what: impl Into<String>, advice: Option<Hint>) -> Self {
        Self(Box::new(Plain { code, what: what.into(), advice }))
    }

    /// An error of the operating system while it did something for us.
    pub fn of_io(doing: impl fmt::Display, error: &std::io::Error) -> Self {
        Self::new(ErrorCode::of_io(error), format!("cannot {doing}: {error}"), None)
    }

    /// Its kind.
    pub fn code(&self) -> ErrorCode {
        self.0.code()
    }

    /// What to do.
    pub fn advice(&self) -> Option<Hint> {
        self.0.advice()
    }

    /// What failed and why, in one line: each cause that its effect does not repeat already.
    pub fn message(&self) -> String {
        hikae_ops::with_causes(&*self.0)
    }
}

/// How a command that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All is well.
    Well,
    /// It is done, and what it found has this code.
    With(ErrorCode),
}

impl Ended {
    /// The exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Well => 0,
            Self::With(code) => code.exit_code(),
        }
    }

    /// The name of the code, as `--json` shows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Well => "ok",
            Self::With(code) => code.name(),
        }
    }
}

impl From<hikae_model::Outcome> for Ended {
    fn from(outcome: hikae_model::Outcome) -> Self {
        match outcome {
            hikae_model::Outcome::Complete => Self::Well,
            hikae_model::Outcome::WithProblems if sabotage::on("problems-are-success") => Self::Well,
            hikae_model::Outcome::WithProblems => Self::With(ErrorCode::WithProblems),
            hikae_model::Outcome::Failed => Self::With(ErrorCode::Failure),
        }
    }
}

/// The exit codes that scripts written for four of them expect (IN-102), and 5 for every other failure.
pub fn compatible(exit_code: u8) -> u8 {
    match exit_code {
        0 => 0,
        code if code == ErrorCode::NoSpace.exit_code() => 1,
        code if code == ErrorCode::SourceMissing.exit_code() => 2,
        code if code == ErrorCode::VerificationFailed.exit_code() => 3,
        code if code == ErrorCode::Permission.exit_code() => 4,
        _ => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps IN-102.
    #[test]
    fn the_four_old_exit_codes_keep_their_meaning() {
        let mapped = ErrorCode::ALL.map(|code| (code.name(), compatible(code.exit_code())));
        for (name, code) in mapped {
            let expected = match name {
                "no-space" => 1,
                "source-missing" => 2,
                "verification-failed" => 3,
                "permission" => 4,
                _ => 5,
            };
            assert_eq!(code, expected, "{name}");
        }
        assert_eq!(compatible(0), 0);
    }

    #[test]
    fn a_cause_is_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot read the file")]
        struct Outer(#[source] std::io::Error);
        impl Advise for Outer {
            fn code(&self) -> ErrorCode {
                ErrorCode::Failure
            }
        }
        let failure = Failure::from(Outer(std::io::Error::other("the disk is gone")));
        assert_eq!(failure.message(), "cannot read the file: the disk is gone");
    }
}
