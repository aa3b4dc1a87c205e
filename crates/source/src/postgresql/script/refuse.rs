//! Plain dumps of foreign origin, looked through before any server sees them.

use super::{Piece, Script, Statement};
use crate::postgresql::connection::shown_name;
use std::io::{self, BufRead as _, Read};

/// Why a dump of foreign origin is not let near a server.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It makes, drops or changes a database, by a name that it brings along.
    #[error("line {line}: `{statement}` would act on a database by the dump's own name for it")]
    ActsOnDatabase {
        /// Where.
        line: u64,
        /// How the statement begins.
        statement: String,
    },
    /// It holds a command that psql would obey: connect elsewhere, run a program, read a file.
    #[error("line {line}: the psql command `\\{command}`")]
    Command {
        /// Where.
        line: u64,
        /// The command's first word.
        command: String,
    },
    /// It makes the server run a program or read a file.
    #[error("line {line}: a COPY that runs a program or touches a file of the server")]
    ServerSide {
        /// Where.
        line: u64,
    },
    /// Its quotes cannot be told.
    #[error("line {line}: it switches standard_conforming_strings off, so its quotes cannot be told")]
    Ambiguous {
        /// Where.
        line: u64,
    },
    /// It ends too early.
    #[error("it is cut short at line {line}")]
    CutShort {
        /// Where.
        line: u64,
    },
    /// It is compressed, so nothing can be said of it.
    #[error("it is compressed")]
    Compressed,
    /// It could not be read.
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
}

/// Ends what `pg_dump` writes as a plain script.
const DUMP_HEADER: &str = "-- PostgreSQL database dump";
const DUMP_TRAILERS: [&str; 2] =
    ["-- PostgreSQL database dump complete", "-- PostgreSQL database cluster dump complete"];

/// Looks through a plain dump of foreign origin and refuses what could reach beyond the database that it is loaded
/// into, and what is cut short. An archive (`pg_dump -Fc`) passes: `pg_restore` without `--create` acts on no
/// other database.
///
/// # Errors
/// [`Refusal`]: no server may see this dump.
pub fn refuses_dump(reader: impl Read) -> Result<(), Refusal> {
    let mut reader =
        io::BufReader::with_capacity(256 << 10, Watch { inner: reader, head: Vec::new(), tail: Vec::new() });
    let head = reader.fill_buf()?;
    if head.starts_with(b"PGDMP") {
        return Ok(());
    }
    if head.starts_with(&[0x1f, 0x8b])
        || head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
        || head.starts_with(b"BZh")
    {
        return Err(Refusal::Compressed);
    }
    let mut script = Script::new(&mut reader);
    let mut last_line = 1;
    while let Some(piece) = script.next()? {
        match piece {
            Piece::CutShort { line } => return Err(Refusal::CutShort { line }),
            Piece::Meta { line, text } => {
                let command = text.split_whitespace().next().unwrap_or("").to_owned();
                if !matches!(command.as_str(), "restrict" | "unrestrict") {
                    return Err(Refusal::Command { line, command: shown_name(&command) });
                }
            }
            Piece::Statement(statement) => refuse_statement(&statement)?,
        }
        last_line = script.line;
    }
    let watch = reader.get_ref();
    let (head, tail) = (String::from_utf8_lossy(&watch.head), String::from_utf8_lossy(&watch.tail));
    if head.contains(DUMP_HEADER) && !DUMP_TRAILERS.iter().any(|trailer| tail.contains(trailer)) {
        return Err(Refusal::CutShort { line: last_line });
    }
    Ok(())
}

fn refuse_statement(statement: &Statement) -> Result<(), Refusal> {
    let line = statement.line;
    for verb in ["create", "drop", "alter"] {
        if statement.begins(&[verb, "database"]) {
            let statement = shown_name(&statement.text.chars().take(60).collect::<String>());
            return Err(Refusal::ActsOnDatabase { line, statement });
        }
    }
    if statement.begins(&["copy"])
        && !statement.bare.contains(" from stdin")
        && !statement.bare.contains(" to stdout")
    {
        return Err(Refusal::ServerSide { line });
    }
    if statement.bare.contains("standard_conforming_strings")
        && !statement.begins(&["set", "standard_conforming_strings", "=", "on"])
    {
        return Err(Refusal::Ambiguous { line });
    }
    Ok(())
}

/// Keeps the first and the last bytes that pass.
struct Watch<R> {
    inner: R,
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl<R: Read> Read for Watch<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        const KEEP: usize = 4096;
        let n = self.inner.read(buffer)?;
        let room = KEEP.saturating_sub(self.head.len());
        self.head.extend(&buffer[..n.min(room)]);
        self.tail.extend(&buffer[..n]);
        let cut = self.tail.len().saturating_sub(KEEP);
        self.tail.drain(..cut);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(script: &str) -> Refusal {
        refuses_dump(script.as_bytes()).expect_err(script)
    }

    #[test]
    fn a_dump_that_reaches_for_another_database_is_refused() {
        for script in [
            "DROP DATABASE IF EXISTS english_cafe_db;",
            "CREATE DATABASE english_cafe_db WITH TEMPLATE = template0;",
            "create/* */ dataBase x;",
            "ALTER DATABASE english_cafe_db OWNER TO postgres;",
            "SELECT 1; DROP\n--\nDATABASE x;",
        ] {
            assert!(matches!(refused(script), Refusal::ActsOnDatabase { .. }), "{script}");
        }
        for script in [
            "\\connect english_cafe_db\n",
            "SELECT 1;\n\\c prod\n",
            "\\! touch pwned\n",
            "select 1 \\gexec\n",
        ] {
            assert!(matches!(refused(script), Refusal::Command { .. }), "{script}");
        }
        assert!(matches!(refused("COPY t FROM PROGRAM 'sh';"), Refusal::ServerSide { .. }));
        assert!(matches!(refused("SET standard_conforming_strings = off;"), Refusal::Ambiguous { .. }));
        assert!(matches!(refuses_dump(&[0x1f, 0x8b, 8][..]), Err(Refusal::Compressed)));
    }

    #[test]
    fn an_ordinary_dump_passes() {
        let dump = "--\n-- PostgreSQL database dump\n--\n\\restrict abc\nSET standard_conforming_strings = on;\n\
            CREATE TABLE t (a text DEFAULT 'CREATE DATABASE x;');\nCOMMENT ON TABLE t IS '\\connect x';\n\
            COPY t (a) FROM stdin;\nDROP DATABASE x;\n\\\\connect\n\\.\n\n\
            CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $_$ begin execute 'drop database x'; end $_$;\n\
            --\n-- PostgreSQL database dump complete\n--\n\\unrestrict abc\n";
        refuses_dump(dump.as_bytes()).unwrap();
        refuses_dump(&b"PGDMP\x01\x0e"[..]).unwrap();
    }

    #[test]
    fn a_dump_that_was_cut_is_refused_wherever_it_was_cut() {
        let rows = "1\tone\n".repeat(50);
        let dump = format!(
            "--\n-- PostgreSQL database dump\n--\n\nCREATE TABLE t (i int, w text);\nCOPY t (i, w) FROM stdin;\n{rows}\\.\n\
            --\n-- PostgreSQL database dump complete\n--\n"
        );
        refuses_dump(dump.as_bytes()).unwrap();
        let end = dump.find(" complete").unwrap() + " complete".len();
        for cut in 60..end {
            assert!(refuses_dump(&dump.as_bytes()[..cut]).is_err(), "cut at {cut}");
        }
    }
}
