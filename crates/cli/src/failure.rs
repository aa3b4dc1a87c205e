//! How commands end, well or not, and with which exit codes.

pub use hikae_model::Failure;
use hikae_model::{ErrorCode, sabotage};

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

    /// This, unless it is well and the other is not.
    pub fn or(self, other: Self) -> Self {
        if self == Self::Well { other } else { self }
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
}
