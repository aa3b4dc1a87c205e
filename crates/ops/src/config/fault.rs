//! What can be wrong with a configuration, and where.

use super::nearest;
use hikae_model::{Advise, ErrorCode, Hint};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One thing that is wrong, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Fault {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub what: String,
    /// What would be right.
    pub advice: Option<String>,
}

impl Fault {
    /// A fault at a place in `text`, given in bytes.
    pub(super) fn at(text: &str, file: Option<&Path>, span: Range<usize>, what: impl Into<String>) -> Self {
        let before = text.get(..span.start).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Self { file: file.map(Path::to_owned), line, column, what: what.into(), advice: None }
    }

    /// The same with advice.
    pub(super) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

/// As `/etc/hikae/config.toml:7:1: unknown key`.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{}:{}:{}: {}", file.display(), self.line, self.column, self.what),
            None => write!(f, "{}:{}: {}", self.line, self.column, self.what),
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is none.
    #[error("there is no configuration: looked for {}", list(.looked_for))]
    None {
        /// Where it could be.
        looked_for: Vec<PathBuf>,
    },
    /// The file cannot be read.
    #[error("cannot read the configuration {}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// It says what cannot be.
    #[error("{}", .faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Wrong {
        /// Everything that is wrong, in the order of the file. Not empty.
        faults: Vec<Fault>,
    },
    /// A name that it does not hold.
    #[error("there is no {what} `{name}` in the configuration")]
    NoSuch {
        /// As `source`.
        what: &'static str,
        /// The name.
        name: String,
        /// What there is instead.
        advice: String,
    },
    /// Several could be meant.
    #[error("{}", which(.what, .names))]
    WhichOne {
        /// As `repository`.
        what: &'static str,
        /// Their names.
        names: Vec<String>,
    },
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" and ")
}

fn which(what: &str, names: &[String]) -> String {
    match names.is_empty() {
        true => format!("the configuration names no {what}"),
        false => format!("the configuration names more than one {what}: {}", names.join(", ")),
    }
}

impl ConfigError {
    /// For a name that was given and is not there.
    pub(super) fn no_such<'n>(
        what: &'static str,
        name: &str,
        known: impl Iterator<Item = &'n str> + Clone,
    ) -> Self {
        let names: Vec<&str> = known.clone().collect();
        let advice = match (nearest(name, known), names.is_empty()) {
            (Some(near), _) => format!("did you mean `{near}`?"),
            (None, true) => format!("add [{what}.{name}] to it"),
            (None, false) => format!("there is {}", names.join(", ")),
        };
        Self::NoSuch { what, name: name.to_owned(), advice }
    }
}

impl Advise for ConfigError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Unreadable { source, .. } => match ErrorCode::of_io(source) {
                ErrorCode::Permission => ErrorCode::Permission,
                _ => ErrorCode::Usage,
            },
            Self::None { .. } | Self::Wrong { .. } | Self::NoSuch { .. } | Self::WhichOne { .. } => {
                ErrorCode::Usage
            }
        }
    }

    fn advice(&self) -> Option<Hint> {
        match self {
            Self::None { .. } => Some("`hikae protect FOLDER` writes one, or name one with --config".into()),
            Self::Unreadable { .. } => Some("see that the path is right and this user may read it".into()),
            Self::Wrong { faults } => {
                let advised: Vec<_> =
                    faults.iter().filter_map(|fault| Some((fault.line, fault.advice.as_ref()?))).collect();
                match advised.as_slice() {
                    [] => None,
                    [(_, advice)] => Some((*advice).clone().into()),
                    several => {
                        let lines = several.iter().map(|(line, advice)| format!("line {line}: {advice}"));
                        Some(lines.collect::<Vec<_>>().join("\n").into())
                    }
                }
            }
            Self::NoSuch { advice, .. } => Some(advice.clone().into()),
            Self::WhichOne { what, .. } => Some(format!("say which with --{what} NAME").into()),
        }
    }
}
