//! What was checked of a dump, kept until it is loaded: a private file that has no name.
//!
//! ```text
//! line, u64 | length, u32 | statement       again and again
//!   behind a COPY: length, u32 | rows              until a length of 0
//! ```
//!
//! The dump itself is never read again: it could be another by then. What follows from a statement is for who reads it
//! here to find out once more.

use crate::SourceError;
use crate::postgresql::programs::PrivateDir;
use crate::postgresql::script::Statement;
use hikae_model::Cx;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Read, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

const BUFFER_BYTES: usize = 256 << 10;
/// How many bytes of rows stand behind one length.
const ROWS_BYTES: usize = 64 << 10;

/// A spool that is being written.
pub(super) struct SpoolWriter {
    file: BufWriter<File>,
    path: PathBuf,
    rows: Vec<u8>,
}

impl SpoolWriter {
    /// Makes one below `parent`.
    pub(super) fn create(parent: &Path, cx: &Cx) -> Result<Self, SourceError> {
        let directory = PrivateDir::create(parent, cx)?;
        let path = directory.path().join("dump");
        let failed = |source| SourceError::Io { verb: "write", path: path.clone(), source };
        let mut options = std::fs::OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        // Its name goes with the directory, at once: so it is gone however we end.
        drop(directory);
        Ok(Self {
            file: BufWriter::with_capacity(BUFFER_BYTES, file),
            path: parent.to_owned(),
            rows: Vec::new(),
        })
    }

    /// Where it is, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a statement.
    pub(super) fn add(&mut self, statement: &Statement) -> io::Result<()> {
        let length = u32::try_from(statement.text.len()).map_err(io::Error::other)?;
        self.file.write_all(&statement.line.to_le_bytes())?;
        self.file.write_all(&length.to_le_bytes())?;
        self.file.write_all(&statement.text)
    }

    /// Adds rows behind a COPY.
    pub(super) fn add_rows(&mut self, rows: &[u8]) -> io::Result<()> {
        for piece in rows.chunks(ROWS_BYTES) {
            if self.rows.len() + piece.len() > ROWS_BYTES {
                self.put_rows()?;
            }
            self.rows.extend(piece);
        }
        Ok(())
    }

    /// After the last of them.
    pub(super) fn end_rows(&mut self) -> io::Result<()> {
        if !self.rows.is_empty() {
            self.put_rows()?;
        }
        self.put_rows()
    }

    fn put_rows(&mut self) -> io::Result<()> {
        let length = u32::try_from(self.rows.len()).map_err(io::Error::other)?;
        self.file.write_all(&length.to_le_bytes())?;
        self.file.write_all(&self.rows)?;
        self.rows.clear();
        Ok(())
    }

    /// All of it, to be read.
    pub(super) fn finish(self) -> io::Result<Spool> {
        let mut file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        Ok(Spool { file: BufReader::with_capacity(BUFFER_BYTES, file) })
    }
}

/// A spool that is being read.
pub(super) struct Spool {
    file: BufReader<File>,
}

impl Spool {
    /// The next statement; `None` after the last. After a COPY its rows come first.
    pub(super) fn next(&mut self) -> io::Result<Option<Statement>> {
        if self.file.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let mut line = [0; 8];
        self.file.read_exact(&mut line)?;
        let mut text = vec![0; self.length()? as usize];
        self.file.read_exact(&mut text)?;
        Ok(Some(Statement { line: u64::from_le_bytes(line), text }))
    }

    fn length(&mut self) -> io::Result<u32> {
        let mut length = [0; 4];
        self.file.read_exact(&mut length)?;
        Ok(u32::from_le_bytes(length))
    }

    /// The rows of the COPY that was just given. They are read to their end.
    pub(super) fn rows(&mut self) -> Rows<'_> {
        Rows { spool: self, left: 0, ended: false, n_rows: 0 }
    }
}

/// The rows of one COPY.
pub(super) struct Rows<'a> {
    spool: &'a mut Spool,
    left: usize,
    ended: bool,
    n_rows: u64,
}

impl Rows<'_> {
    /// How many were given.
    pub(super) fn count(&self) -> u64 {
        self.n_rows
    }
}

impl Read for Rows<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && !self.ended {
            self.left = self.spool.length()? as usize;
            self.ended = self.left == 0;
        }
        let wanted = self.left.min(buffer.len());
        let n = self.spool.file.read(&mut buffer[..wanted])?;
        if n == 0 && wanted > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= n;
        self.n_rows += buffer[..n].iter().filter(|&&byte| byte == b'\n').count() as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hikae_testkit::system_cx;

    #[test]
    fn what_was_put_in_comes_out() {
        let mut writer = SpoolWriter::create(&std::env::temp_dir(), &system_cx()).unwrap();
        let statement = |line, text: &str| Statement { line, text: text.as_bytes().to_vec() };
        let long = "x".repeat(3 * ROWS_BYTES + 17);
        writer.add(&statement(1, "a")).unwrap();
        for rows in ["", "1\n2\n", &long] {
            writer.add(&statement(3, "copy")).unwrap();
            writer.add_rows(rows.as_bytes()).unwrap();
            writer.end_rows().unwrap();
        }
        let mut spool = writer.finish().unwrap();
        assert_eq!(spool.next().unwrap(), Some(statement(1, "a")));
        for rows in ["", "1\n2\n", &long] {
            assert_eq!(spool.next().unwrap(), Some(statement(3, "copy")));
            let (mut given, mut reader) = (String::new(), spool.rows());
            reader.read_to_string(&mut given).unwrap();
            assert_eq!((given.as_str(), reader.count()), (rows, rows.matches('\n').count() as u64));
        }
        assert_eq!(spool.next().unwrap(), None);
    }
}
