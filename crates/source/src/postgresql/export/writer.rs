//! Writing an archive as `pg_dump --format=custom` does, to what cannot be sought in: where each block of data is stands
//! nowhere, and `pg_restore` reads one after the other.
//!
//! Source: `WriteHead` and `WriteToc` in PostgreSQL's `pg_backup_archiver.c`, `_StartData`, `_WriteData`, `_StartBlobs` in
//! `pg_backup_custom.c`.

use super::contents::{Archived, Entry, Text};
use crate::postgresql::dump::archive::read_int;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use std::io::{self, Read, Write};

/// Numbers are written with so many bytes.
const INT_BYTES: u8 = 4;
const OFFSET_BYTES: u8 = 8;
/// Where data is: not told.
const OFFSET_NOT_SET: u8 = 1;
/// There is none.
const NO_DATA: u8 = 3;
/// Kinds of blocks.
const BLOCK_DATA: u8 = 1;
const BLOCK_LARGE_OBJECTS: u8 = 3;
/// Rows are written in chunks of this length.
const CHUNK_BYTES: usize = 64 << 10;

/// An archive whose contents were written, and its data not yet.
pub(super) struct ArchiveWriter<'o> {
    out: &'o mut dyn Write,
    compressed: bool,
}

impl<'o> ArchiveWriter<'o> {
    /// Writes head and contents.
    pub(super) fn begin(out: &'o mut dyn Write, archived: &Archived, compressed: bool) -> io::Result<Self> {
        let minor = archived.minor;
        out.write_all(b"PGDMP")?;
        out.write_all(&[1, minor, 0, INT_BYTES, OFFSET_BYTES, 1])?;
        // Since 1.15 which compression, before its level.
        match minor {
            15.. => out.write_all(&[u8::from(compressed)])?,
            _ => write_int(out, if compressed { 6 } else { 0 })?,
        }
        for number in archived.made {
            write_int(out, number)?;
        }
        for text in [&archived.database, &archived.server_version, &archived.pg_dump_version] {
            write_text(out, text)?;
        }
        write_int(out, archived.entries().count() as i64)?;
        for entry in archived.entries() {
            write_entry(out, entry, minor)?;
        }
        Ok(Self { out, compressed })
    }

    /// Begins the block of an entry.
    pub(super) fn data(&mut self, id: i64) -> io::Result<Data<'_>> {
        self.out.write_all(&[BLOCK_DATA])?;
        write_int(self.out, id)?;
        Ok(Data::new(self.out, self.compressed))
    }

    /// Copies all blocks of an archive that is not compressed, with its numbers greater by `shift`.
    pub(super) fn copy_blocks(&mut self, from: &mut dyn Read, shift: i64) -> io::Result<()> {
        let mut from = from;
        loop {
            let mut kind = [0];
            if from.read(&mut kind)? == 0 {
                return Ok(());
            }
            let id = read_int(&mut from, INT_BYTES)?;
            self.out.write_all(&kind)?;
            write_int(self.out, id + shift)?;
            match kind {
                [BLOCK_DATA] => self.copy_chunks(&mut from)?,
                [BLOCK_LARGE_OBJECTS] => loop {
                    let oid = read_int(&mut from, INT_BYTES)?;
                    write_int(self.out, oid)?;
                    if oid == 0 {
                        break;
                    }
                    self.copy_chunks(&mut from)?;
                },
                _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "a block of an unknown kind")),
            }
        }
    }

    fn copy_chunks(&mut self, from: &mut &mut dyn Read) -> io::Result<()> {
        let mut data = Data::new(self.out, self.compressed);
        loop {
            let length = read_int(from, INT_BYTES)?;
            let length = u64::try_from(length).map_err(|_| io::ErrorKind::InvalidData)?;
            if length == 0 {
                return data.end();
            }
            if io::copy(&mut from.take(length), &mut data)? != length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// What one entry holds, on its way out.
pub(super) enum Data<'w> {
    Plain(Chunks<'w>),
    Compressed(ZlibEncoder<Chunks<'w>>),
}

impl<'w> Data<'w> {
    fn new(out: &'w mut dyn Write, compressed: bool) -> Self {
        let chunks = Chunks { out, chunk: Vec::with_capacity(CHUNK_BYTES) };
        match compressed {
            true => Self::Compressed(ZlibEncoder::new(chunks, Compression::new(6))),
            false => Self::Plain(chunks),
        }
    }

    /// Ends it.
    pub(super) fn end(self) -> io::Result<()> {
        match self {
            Self::Plain(chunks) => chunks.end(),
            Self::Compressed(encoder) => encoder.finish()?.end(),
        }
    }
}

impl Write for Data<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(chunks) => chunks.write(bytes),
            Self::Compressed(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Each with its length before it; one of no length ends them.
pub(super) struct Chunks<'w> {
    out: &'w mut dyn Write,
    chunk: Vec<u8>,
}

impl Chunks<'_> {
    fn send(&mut self) -> io::Result<()> {
        if !self.chunk.is_empty() {
            write_int(self.out, self.chunk.len() as i64)?;
            self.out.write_all(&self.chunk)?;
            self.chunk.clear();
        }
        Ok(())
    }

    fn end(mut self) -> io::Result<()> {
        self.send()?;
        write_int(self.out, 0)
    }
}

impl Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(CHUNK_BYTES - self.chunk.len());
        self.chunk.extend(&bytes[..n]);
        if self.chunk.len() == CHUNK_BYTES {
            self.send()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A sign, then the number with its lowest byte first.
fn write_int(out: &mut dyn Write, number: i64) -> io::Result<()> {
    let value = u32::try_from(number.unsigned_abs())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a number is too great for an archive"))?;
    out.write_all(&[u8::from(number < 0)])?;
    out.write_all(&value.to_le_bytes())
}

fn write_text(out: &mut dyn Write, text: &Text) -> io::Result<()> {
    match text {
        Some(text) => {
            write_int(out, text.len() as i64)?;
            out.write_all(text)
        }
        None => write_int(out, -1),
    }
}

fn write_entry(out: &mut dyn Write, entry: &Entry, minor: u8) -> io::Result<()> {
    write_int(out, entry.id)?;
    write_int(out, entry.has_data.into())?;
    for text in [&entry.table_oid, &entry.oid, &entry.tag, &entry.kind] {
        write_text(out, text)?;
    }
    write_int(out, entry.section.number())?;
    let Entry { definition, drop, copy, namespace, tablespace, access_method, .. } = entry;
    for text in [definition, drop, copy, namespace, tablespace, access_method] {
        write_text(out, text)?;
    }
    if minor >= 16 {
        write_int(out, entry.relation_kind)?;
    }
    write_text(out, &entry.owner)?;
    write_text(out, &entry.with_oids)?;
    for number in &entry.depends_on {
        write_int(out, number.len() as i64)?;
        out.write_all(number)?;
    }
    write_int(out, -1)?;
    out.write_all(&[if entry.has_data { OFFSET_NOT_SET } else { NO_DATA }])?;
    out.write_all(&[0; OFFSET_BYTES as usize])
}
