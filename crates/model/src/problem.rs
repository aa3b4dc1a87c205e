//! What went wrong without ending a run, and how a run ended.

use std::fmt;

/// How a piece of work ended. There is no fourth way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// All was done and read back.
    Complete,
    /// It was done, but something of the source is missing or in doubt; the report lists it.
    WithProblems,
    /// It was not done.
    Failed,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Complete => "complete",
            Self::WithProblems => "with problems",
            Self::Failed => "failed",
        })
    }
}

/// One thing that went wrong: on what, and how. A report lists all of them.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Problem {
    /// Stable name of the kind of problem, as `unreadable` or `changed-while-read`.
    pub code: String,
    /// What it happened to: a path, a table, an object.
    pub on: String,
    /// What happened, in one sentence without the thing's name.
    pub what: String,
    /// What to do about it, if we know.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub advice: Option<String>,
}

impl Problem {
    /// A problem without advice.
    pub fn new(code: &str, on: impl fmt::Display, what: impl fmt::Display) -> Self {
        Self { code: code.to_owned(), on: on.to_string(), what: what.to_string(), advice: None }
    }

    /// The same with advice.
    pub fn advise(mut self, advice: impl fmt::Display) -> Self {
        self.advice = Some(advice.to_string());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.on, self.what)
    }
}
