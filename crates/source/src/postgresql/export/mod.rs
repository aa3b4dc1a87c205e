//! A snapshot of a database as one file that PostgreSQL's own programs read: an archive, as `pg_dump --format=custom` writes
//! it, or a script for `psql`.
//!
//! ```text
//! schema.dump: its table of contents + the rows, the sequences, the large objects -> one archive
//! archive -> pg_restore --file=- -> script             (an archive is read by pg_restore along with us, to its end)
//! ```
//!
//! Definitions are what `pg_dump` said of them: we add entries of data to its table of contents and write nothing of SQL but
//! `COPY`, `setval` and `REFRESH`. Rows go through as they are stored, so memory does not grow with a table.

mod contents;
mod rows;
mod writer;

pub use rows::{export_rows, tables_with_rows};

use super::catalog::{Database, literal, quote};
use super::copy::CopyTable;
use super::failed;
use super::manifest::{Manifest, SequenceRecord};
use super::programs::{Environment, Running, find};
use super::restore::Files;
use crate::{NotReadBack, SourceError, Stored};
use contents::{Archived, Entry, Section};
use hikae_model::{Cx, ErrorCode};
use std::collections::BTreeSet;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Stdio};
use writer::ArchiveWriter;

/// What file is made of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportForm {
    /// A script for `psql`.
    Script,
    /// An archive for `pg_restore`, its rows compressed in it.
    Archive,
    /// The same, not compressed: for one that is compressed as a whole.
    PlainArchive,
}

/// As `pg_dump` ends the rows of a table.
const END_OF_ROWS: &[u8] = b"\\.\n\n\n";
/// What an error of writing is told of.
const OUT: &str = "the export";

/// Writes the database that `stored` holds to `out`, with the `pg_restore` of `directory` or of one of the usual places. Gives
/// how many tables are in it.
///
/// # Errors
/// [`SourceError`]: it cannot be read, `pg_restore` is not here, or it does not understand the archive.
pub fn export(
    stored: &dyn Stored,
    form: ExportForm,
    out: &mut dyn Write,
    directory: Option<&Path>,
    environment: &Environment,
    cx: &Cx,
) -> Result<u64, SourceError> {
    let incomplete = |what: &str| {
        let what = format!("the snapshot cannot be exported: {what}");
        failed(ErrorCode::VerificationFailed, what, None)
    };
    let manifest = Manifest::parse(stored.manifest().ok_or_else(|| incomplete("it has no manifest"))?)?;
    let dumped_by = manifest.pg_dump.split(|c: char| !c.is_ascii_digit()).next();
    let dumped_by = dumped_by.and_then(|n| n.parse().ok()).unwrap_or(0);
    let program = find_program(dumped_by, directory, environment)?;
    let source = Source { files: Files::of(stored), manifest: &manifest, cx };
    match form {
        ExportForm::Script => script(&source, &program, out, cx)?,
        ExportForm::Archive | ExportForm::PlainArchive => {
            let mut pipe = Pipe::start(&program, out)?;
            let written = source.write(form == ExportForm::Archive, &mut pipe);
            pipe.end(written, cx)?;
        }
    }
    Ok(manifest.tables.len() as u64)
}

fn no_pipe() -> SourceError {
    failed(ErrorCode::Failure, "pg_restore has no input or output".into(), None)
}

/// What both ends of `pg_restore` say, the one that explains first: its own message, unless the content could not be read.
fn explained(
    written: Result<(), SourceError>,
    copied: io::Result<()>,
    ended: Result<(), SourceError>,
) -> Result<(), SourceError> {
    match written {
        Err(SourceError::Io { source, .. })
            if source.kind() == io::ErrorKind::BrokenPipe && ended.is_err() =>
        {
            ended
        }
        Err(error) => Err(error),
        Ok(()) => copied.map_err(unwritten).and(ended),
    }
}

/// Has `pg_restore` make a script of the archive.
fn script(source: &Source<'_>, program: &Path, out: &mut dyn Write, cx: &Cx) -> Result<(), SourceError> {
    let arguments = ["--file=-".into(), "--no-password".into()];
    let mut running = Running::start(program, &arguments, None, Stdio::piped(), Stdio::piped())?;
    let (stdin, mut stdout) = running.stdin().zip(running.stdout()).ok_or_else(no_pipe)?;
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            let mut stdin = BufWriter::with_capacity(256 << 10, stdin);
            source.write(false, &mut stdin)?;
            stdin.flush().map_err(unwritten)
        });
        let copied = io::copy(&mut stdout, out).map(drop);
        drop(stdout);
        let written = writer.join().unwrap_or_else(|_| Err(no_pipe()));
        explained(written, copied, running.wait(cx))
    })
}

/// The `pg_restore` that reads what the `pg_dump` of this major version wrote.
fn find_program(
    dumped_by: u32,
    directory: Option<&Path>,
    environment: &Environment,
) -> Result<PathBuf, SourceError> {
    Ok(find("pg_restore", dumped_by, directory, environment)?.path("pg_restore"))
}

/// Passes an archive on, while `pg_restore` reads it too.
struct Pipe<'o> {
    out: &'o mut dyn Write,
    stdin: BufWriter<ChildStdin>,
    running: Running,
}

impl<'o> Pipe<'o> {
    fn start(program: &Path, out: &'o mut dyn Write) -> Result<Self, SourceError> {
        let arguments = ["--file=/dev/null".into(), "--no-password".into()];
        let mut running = Running::start(program, &arguments, None, Stdio::piped(), Stdio::null())?;
        let stdin = BufWriter::with_capacity(256 << 10, running.stdin().ok_or_else(no_pipe)?);
        Ok(Self { out, stdin, running })
    }

    /// Sees that `pg_restore` came to a good end, once all was `written`.
    fn end(mut self, written: Result<(), SourceError>, cx: &Cx) -> Result<(), SourceError> {
        let written =
            written.and_then(|()| self.stdin.flush().and_then(|()| self.out.flush()).map_err(unwritten));
        drop(self.stdin.into_parts());
        explained(written, Ok(()), self.running.wait(cx))
    }
}

impl Write for Pipe<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stdin.write_all(bytes)?;
        self.out.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn unwritten(source: io::Error) -> SourceError {
    SourceError::Io { verb: "write", path: OUT.into(), source }
}

/// What a failure of copying is: content that could not be read back, or an output that could not be written.
fn of_copy(name: &str, error: io::Error) -> SourceError {
    match NotReadBack::of(&error) {
        Some(_) => SourceError::not_read_back(name, &error),
        None => unwritten(error),
    }
}

/// A snapshot, as an archive is made of it.
struct Source<'a> {
    files: Files<'a>,
    manifest: &'a Manifest,
    cx: &'a Cx,
}

impl Source<'_> {
    /// Writes the archive.
    fn write(&self, compressed: bool, out: &mut dyn Write) -> Result<(), SourceError> {
        let damaged = |name: &'static str| move |error: io::Error| of_contents(name, error);
        let schema = "schema.dump";
        let mut stream = self.files.open(schema)?;
        let mut archived = Archived::read(&mut stream).map_err(damaged(schema))?;
        drop(stream);
        let tables = self.add_tables(&mut archived)?;
        archived.wait_for_rows();
        self.add_sequences(&mut archived)?;
        let mut large_objects = match self.manifest.large_objects {
            Some(_) => Some(self.files.open("large-objects.dump")?),
            None => None,
        };
        let mut shift = 0;
        if let Some(stream) = &mut large_objects {
            let theirs = Archived::read(stream).map_err(damaged("large-objects.dump"))?;
            shift = archived.add_archive(theirs);
        }
        self.add_views(&mut archived, tables.clone());
        let mut writer = ArchiveWriter::begin(out, &archived, compressed).map_err(unwritten)?;
        for (table, id) in self.manifest.tables.iter().zip(tables) {
            self.cx.check()?;
            let mut data = writer.data(id).map_err(unwritten)?;
            for file in &table.files {
                let name = format!("tables/{file}");
                io::copy(&mut self.files.open(&name)?, &mut data).map_err(|error| of_copy(&name, error))?;
                self.cx.check()?;
            }
            data.write_all(END_OF_ROWS).map_err(unwritten)?;
            data.end().map_err(unwritten)?;
            self.cx.progress().add_entries(1);
        }
        if let Some(stream) = &mut large_objects {
            let copied = writer.copy_blocks(stream, shift);
            copied.map_err(|error| of_contents("large-objects.dump", error))?;
        }
        Ok(())
    }

    /// Adds the rows of each table behind all definitions. Gives their numbers.
    fn add_tables(&self, archived: &mut Archived) -> Result<Vec<i64>, SourceError> {
        let database: Database = self.files.json("database.json")?;
        let defined = archived.by_name(&["TABLE"]);
        let mut numbers = Vec::new();
        for table in &self.manifest.tables {
            let copy = CopyTable {
                schema: &table.schema,
                name: &table.name,
                columns: &table.columns,
                condition: table.condition.as_deref(),
                encoding: &database.encoding,
            };
            let statement = format!("COPY {}{} FROM stdin;\n", copy.quoted(), copy.list());
            let of = defined.get(&(table.schema.clone(), table.name.clone()));
            let entry = Entry {
                copy: Some(statement.into_bytes()),
                has_data: true,
                ..Entry::of("TABLE DATA", &table.schema, &table.name, Section::Data, of)
            };
            numbers.push(archived.add(entry));
        }
        Ok(numbers)
    }

    fn add_sequences(&self, archived: &mut Archived) -> Result<(), SourceError> {
        let defined = archived.by_name(&["SEQUENCE"]);
        let sequences: Vec<SequenceRecord> = self.files.json("sequences.json")?;
        for sequence in sequences {
            let SequenceRecord { schema, name, last_value, is_called } = sequence;
            let quoted = literal(&format!("{}.{}", quote(&schema), quote(&name)));
            let statement = format!("SELECT pg_catalog.setval({quoted}, {last_value}, {is_called});\n\n");
            let of = defined.get(&(schema.clone(), name.clone()));
            archived.add(Entry {
                definition: Some(statement.into_bytes()),
                ..Entry::of("SEQUENCE SET", &schema, &name, Section::Data, of)
            });
        }
        Ok(())
    }

    /// Fills materialised views when all else is there, in the order in which they were defined: one may select from another.
    fn add_views(&self, archived: &mut Archived, mut wait_for: Vec<i64>) {
        let views = self.manifest.materialised_views.iter();
        let filled: BTreeSet<_> = views.map(|view| (view.schema.as_str(), view.name.as_str())).collect();
        for (schema, name, of) in archived.in_order("MATERIALIZED VIEW") {
            if filled.contains(&(schema.as_str(), name.as_str())) {
                let statement = format!("REFRESH MATERIALIZED VIEW {}.{};\n", quote(&schema), quote(&name));
                let entry = Entry {
                    definition: Some(statement.into_bytes()),
                    ..Entry::of("MATERIALIZED VIEW DATA", &schema, &name, Section::PostData, Some(&of))
                };
                wait_for = vec![archived.add_last(entry, &wait_for)];
            }
        }
    }
}

/// A failure to read a stored archive: the store, or what it says.
fn of_contents(name: &str, error: io::Error) -> SourceError {
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof if NotReadBack::of(&error).is_none() => {
            let what = format!("{name} of the snapshot is no archive that can be exported: {error}");
            failed(ErrorCode::VerificationFailed, what, Some("restore the snapshot instead".into()))
        }
        _ => of_copy(name, error),
    }
}
