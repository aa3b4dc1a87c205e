//! Why a dump of foreign origin is not let near a server.

use super::DumpForm;
use crate::SourceError;
use crate::postgresql::connection::shown_name;
use crate::postgresql::script::Statement;
use hikae_model::ErrorCode;

/// Why a dump of foreign origin is not let near a server.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// It makes, drops or changes a database, by a name that it brings along.
    #[error("line {line}: `{statement}` acts on a database by the dump's own name for it")]
    ActsOnDatabase { line: u64, statement: String },
    /// It reaches for what all databases of the server share.
    #[error(
        "line {line}: `{statement}` reaches beyond one database: to roles, tablespaces or the server itself"
    )]
    ActsOnServer { line: u64, statement: String },
    /// A dump of everything that a server has.
    #[error("it is of a whole server (pg_dumpall), with its roles and all its databases")]
    WholeServer,
    /// It holds a command that psql would obey: connect elsewhere, run a program, read a file.
    #[error("line {line}: the psql command `\\{command}`")]
    Command { line: u64, command: String },
    /// It makes the server run a program or touch a file.
    #[error("line {line}: `{statement}` runs a program or touches a file of the server")]
    ServerSide { line: u64, statement: String },
    /// It brings code that may do anything as the server's user of the operating system.
    #[error(
        "line {line}: `{statement}` brings code in the language {language}, which may do anything on the server's machine"
    )]
    Untrusted { line: u64, statement: String, language: String },
    /// No statement of this kind is in what `pg_dump` writes.
    #[error("line {line}: `{statement}` is none of the statements that pg_dump writes")]
    Unknown { line: u64, statement: String },
    /// Its quotes cannot be told.
    #[error("line {line}: it switches standard_conforming_strings off, so its quotes cannot be told")]
    Ambiguous { line: u64 },
    /// A statement that no server takes.
    #[error("line {line}: a statement that is too long or holds a NUL byte")]
    Malformed { line: u64 },
    /// It ends too early.
    #[error("it is cut short: {why}")]
    CutShort { why: String },
    /// It is something else.
    #[error("it is no dump that can be restored: it is {what}")]
    NotADump { what: String, advice: &'static str },
}

impl Refusal {
    /// As an error of the dump that is called `name`.
    pub(super) fn of(self, name: &str) -> SourceError {
        let (code, advice) = self.code_and_advice();
        let what = format!("{} is refused: {self}", shown_name(name));
        SourceError::Failed { code, what, advice: Some(advice.into()) }
    }

    fn code_and_advice(&self) -> (ErrorCode, &'static str) {
        match self {
            Self::ActsOnDatabase { .. } => (
                ErrorCode::Forbidden,
                "dump the database again without --create, or as an archive (pg_dump -Fc), whose statements for the database are left out",
            ),
            Self::ActsOnServer { .. } => (
                ErrorCode::Forbidden,
                "no dump of one database holds this; if you know where it comes from, take the line out of a copy and run it by hand",
            ),
            Self::WholeServer => (
                ErrorCode::Usage,
                "dump the one database with pg_dump, or let psql load all of it into a server made for it",
            ),
            Self::Command { .. } => (
                ErrorCode::Forbidden,
                "pg_dump writes no such command but with --create; dump again without it, or ask who made this file",
            ),
            Self::ServerSide { .. } | Self::Unknown { .. } => (
                ErrorCode::Forbidden,
                "ask who made this file: somebody has changed it, or pg_dump did not write it",
            ),
            Self::Untrusted { .. } => (
                ErrorCode::Forbidden,
                "only functions in sql, plpgsql and other trusted languages are loaded; review this one and make it by hand afterwards",
            ),
            Self::Ambiguous { .. } => (
                ErrorCode::Forbidden,
                "dump again with PGOPTIONS='-c standard_conforming_strings=on', or as an archive from such a server",
            ),
            Self::Malformed { .. } => (ErrorCode::Forbidden, "dump again with COPY instead of --inserts"),
            Self::CutShort { .. } => (
                ErrorCode::VerificationFailed,
                "fetch or make it again; what is there is not all of the database",
            ),
            Self::NotADump { advice, .. } => (ErrorCode::Usage, advice),
        }
    }

    pub(super) fn cut_in(form: DumpForm, line: u64) -> Self {
        let where_ = if form.is_archive() { "of the script within" } else { "" };
        Self::CutShort { why: format!("it ends at line {line} {where_}").trim_end().to_owned() }
    }
}

/// How a statement begins, for people.
pub(super) fn beginning(statement: &Statement) -> String {
    const SHOWN: usize = 80;
    let text = String::from_utf8_lossy(&statement.text[..statement.text.len().min(4 * SHOWN)]);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let cut: String = text.chars().take(SHOWN).collect();
    let more = if cut.len() < text.len() { "…" } else { "" };
    format!("{}{more}", shown_name(&cut))
}
