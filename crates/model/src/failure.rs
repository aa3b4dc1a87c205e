//! Errors as programs show them: the chain of causes in one line, then what to do.

use crate::{Advise, ErrorCode, Hint, with_causes};
use std::fmt;

/// Why a program failed: any error that knows its code.
pub struct Failure(Box<dyn Advise + Send + Sync>);

impl<E: Advise + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

/// A failure of the program's own.
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
    /// A failure of the program's own.
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
        with_causes(&*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
