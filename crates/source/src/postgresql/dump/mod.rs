//! Dumps of foreign origin: files that hikae did not make, of which nothing is known but what they say themselves.
//!
//! ```text
//! the file -> unpacked -> split into statements -> each judged -> spool       (an archive by way of pg_restore)
//! spool    -> a new database under a name of ours -> its rows counted -> renamed
//! ```
//!
//! - A dump can hold anything, so only statements that `pg_dump` writes pass, and of those none that reaches beyond the
//!   new database. It is read once; what is loaded is what was judged.
//! - Statements go to the server one by one by its own protocol, which takes no second statement behind the first and
//!   knows no `\` commands: there is no psql that could obey one. So a plain script needs no program here.
//! - The role that loads decides what functions of the dump could do: they run when indexes and constraints are made. A
//!   superuser is refused unless that is allowed.
//! - A foreign dump has no manifest. Rows are counted on both sides, and nothing else can be compared.

mod admit;
pub(super) mod archive;
mod contents;
mod form;
mod judge;
mod load;
mod refusal;
mod spool;

pub use admit::look_at_target;
pub use contents::{DumpContents, DumpForm, DumpedTable};
pub use load::{LoadedDump, load_dump};

use super::connection::shown_name;
use super::programs::Environment;
use super::script::{Piece, Script};
use crate::SourceError;
use archive::{Archive, Header};
use contents::Gleaner;
use form::Opened;
use hikae_model::{Cx, sabotage};
use judge::judge;
use refusal::Refusal;
use spool::{Spool, SpoolWriter};
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};

/// How a dump is read and loaded.
#[derive(Clone, Debug, Default)]
pub struct DumpOptions {
    /// Everything belongs to the role that loads, and privileges are left out.
    pub no_owners: bool,
    /// Load as a superuser, or as a role that can become as mighty.
    pub allow_superuser: bool,
    /// Where `pg_restore` is, if not in one of the usual places.
    pub program_directory: Option<PathBuf>,
}

/// A dump that was read and found to hold nothing that a server must not see.
pub struct Dump {
    /// What it holds.
    pub contents: DumpContents,
    /// What the file is called, for messages.
    name: String,
    /// What is loaded, if it is to be.
    spool: Option<Spool>,
}

/// Reads the dump at `path` to its end and judges all of it. With `keep`, what passed is kept in a private file that has
/// no name, to be loaded.
///
/// # Errors
/// [`SourceError`]: it is refused, it is no dump, or it cannot be read.
pub fn read_dump(
    path: &Path,
    keep: bool,
    options: &DumpOptions,
    environment: &Environment,
    cx: &Cx,
) -> Result<Dump, SourceError> {
    let name = path.display().to_string();
    let refused = |refusal: Refusal| refusal.of(&name);
    let opened = form::open(path)?.map_err(refused)?;
    let spool = if keep { Some(SpoolWriter::create(&environment.scratch, cx)?) } else { None };
    let mut pass =
        Pass { path, no_owners: options.no_owners, spool, gleaner: Gleaner::default(), n_data: 0, cx };
    let (form, header) = match opened {
        Opened::Script { form, reader } => {
            match pass.read(reader, form) {
                Err(Fault::Read(error)) if form != DumpForm::Plain => {
                    return Err(refused(form::unreadable(&error)));
                }
                read => read.map_err(|fault| fault.of(path))?,
            }
            (form, Header::default())
        }
        Opened::Archive { form, header, file } => {
            let directory = options.program_directory.as_deref();
            let archive = Archive::new(path, form, &header, file, directory, environment)?;
            pass.read_archive(&archive)?;
            (form, header)
        }
    };
    let failed = |source| SourceError::Io { verb: "write", path: environment.scratch.clone(), source };
    let spool = pass.spool.map(SpoolWriter::finish).transpose().map_err(failed)?;
    let mut contents = pass.gleaner.finish(form);
    contents.server_version = contents.server_version.or(header.server_version);
    contents.pg_dump_version = contents.pg_dump_version.or(header.pg_dump_version);
    Ok(Dump { contents, name, spool })
}

/// Why reading a dump ended.
enum Fault {
    Refused(Refusal),
    Read(io::Error),
    Other(SourceError),
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<SourceError> for Fault {
    fn from(error: SourceError) -> Self {
        Self::Other(error)
    }
}

impl Fault {
    fn of(self, path: &Path) -> SourceError {
        match self {
            Self::Refused(refusal) => refusal.of(&path.display().to_string()),
            Self::Read(source) => SourceError::Io { verb: "read", path: path.to_owned(), source },
            Self::Other(error) => error,
        }
    }
}

/// The one pass over a dump.
struct Pass<'a> {
    path: &'a Path,
    no_owners: bool,
    spool: Option<SpoolWriter>,
    gleaner: Gleaner,
    /// Tables whose rows are announced by a line of comment.
    n_data: u64,
    cx: &'a Cx,
}

impl Pass<'_> {
    /// Judges every piece of a script.
    fn read(&mut self, reader: impl BufRead, form: DumpForm) -> Result<(), Fault> {
        let mut script = Script::new(reader);
        let (mut begun, mut complete) = (false, false);
        while let Some(piece) = script.next().map_err(Fault::Read)? {
            self.cx.check().map_err(SourceError::from)?;
            match piece {
                Piece::Comment { text, .. } => match text.as_str() {
                    "PostgreSQL database dump" => begun = true,
                    "PostgreSQL database dump complete" => complete = true,
                    "PostgreSQL database cluster dump" => return Err(Refusal::WholeServer.into()),
                    text => {
                        let announces =
                            text.starts_with("Data for Name: ") && text.contains("; Type: TABLE DATA; ");
                        self.n_data += u64::from(announces);
                        self.gleaner.comment(text);
                    }
                },
                Piece::CutShort { line } if begun => return Err(Refusal::cut_in(form, line).into()),
                _ if !begun => return Err(no_dump().into()),
                Piece::CutShort { line } | Piece::TooLong { line } => {
                    return Err(Refusal::Malformed { line }.into());
                }
                Piece::Meta { line, text } => {
                    let command = text.split_whitespace().next().unwrap_or("");
                    // Our loading knows no commands, so it needs none to forbid them either.
                    if !matches!(command, "restrict" | "unrestrict") && !sabotage::on("meta-passed-over") {
                        return Err(Refusal::Command { line, command: shown_name(command) }.into());
                    }
                }
                Piece::Statement(statement) => {
                    complete = false;
                    let verdict = judge(&statement, self.no_owners)?;
                    self.gleaner.statement(&statement, &verdict);
                    if verdict.is_loaded() {
                        self.keep(|spool| spool.add(&statement))?;
                    }
                    if let judge::Verdict::Copy { table } = &verdict {
                        self.rows(&mut script, table, form)?;
                    }
                }
            }
        }
        if !begun {
            return Err(no_dump().into());
        }
        if !complete && !sabotage::on("trailer-unasked") {
            return Err(Refusal::cut_in(form, script.line()).into());
        }
        Ok(())
    }

    fn rows<R: BufRead>(
        &mut self,
        script: &mut Script<R>,
        table: &[u8],
        form: DumpForm,
    ) -> Result<(), Fault> {
        let mut broken = None;
        let counted = script.rows(|rows| {
            let kept = self.keep(|spool| spool.add_rows(rows)).and_then(|()| Ok(self.cx.check()?));
            self.cx.progress().add_read(rows.len() as u64);
            kept.map_err(|error| {
                broken = Some(error);
                io::ErrorKind::Other.into()
            })
        });
        match (counted, broken) {
            (_, Some(error)) => Err(error.into()),
            (Err(error), None) => Err(Fault::Read(error)),
            (Ok(None), None) => Err(Refusal::cut_in(form, script.line()).into()),
            (Ok(Some(n_rows)), None) => {
                self.gleaner.rows(table, n_rows);
                Ok(self.keep(SpoolWriter::end_rows)?)
            }
        }
    }

    fn keep(&mut self, keep: impl FnOnce(&mut SpoolWriter) -> io::Result<()>) -> Result<(), SourceError> {
        let Some(spool) = &mut self.spool else { return Ok(()) };
        keep(spool).map_err(|source| SourceError::Io {
            verb: "unpack into",
            path: spool.path().to_owned(),
            source,
        })
    }

    /// Judges the script that `pg_restore` makes of an archive.
    fn read_archive(&mut self, archive: &Archive<'_>) -> Result<(), SourceError> {
        if archive.form == DumpForm::Directory {
            let whole = archive::see_directory_is_whole(archive.path, self.cx)?;
            whole.map_err(|refusal| refusal.of(&self.path.display().to_string()))?;
        }
        let mut script = archive.script()?;
        let read = self.read(&mut script.stdout, archive.form);
        // An end that came too early is explained best by the program that came to it.
        if matches!(read, Ok(()) | Err(Fault::Refused(Refusal::CutShort { .. } | Refusal::NotADump { .. }))) {
            script.finish(self.cx).map_err(|error| match error {
                SourceError::Failed { what, .. } => {
                    Refusal::CutShort { why: what }.of(&self.path.display().to_string())
                }
                error => error,
            })?;
        }
        read.map_err(|fault| fault.of(self.path))?;
        let announced = archive.n_tables_with_rows()?;
        if announced != self.n_data && !sabotage::on("archive-tables-uncounted") {
            let why = format!("it has rows of {announced} tables, and those of {} came whole", self.n_data);
            return Err(Refusal::CutShort { why }.of(&self.path.display().to_string()));
        }
        // Their list is a file of its own, and an empty one is no error to pg_restore.
        let (made, filled) = self.gleaner.large_objects();
        if made != filled {
            let why = format!("it makes {made} large objects and has the content of {filled}");
            return Err(Refusal::CutShort { why }.of(&self.path.display().to_string()));
        }
        Ok(())
    }
}

fn no_dump() -> Refusal {
    Refusal::NotADump {
        what: "a text that does not begin as the scripts of pg_dump do".into(),
        advice: "name what pg_dump has written, unchanged",
    }
}
