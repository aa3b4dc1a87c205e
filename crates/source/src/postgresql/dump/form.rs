//! What a file is, by its first bytes and never by its name.

use super::DumpForm;
use super::archive::{self, Header};
use super::refusal::Refusal;
use crate::SourceError;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek as _};
use std::path::Path;

/// How much of a file is looked at.
const HEAD_BYTES: usize = 4096;
/// How much is read at once.
const BUFFER_BYTES: usize = 256 << 10;
/// Largest window of a zstd stream, as a power of two: 128 MiB, what `zstd -d` takes by default.
const ZSTD_WINDOW: u32 = 27;

/// A dump, opened.
pub(super) enum Opened {
    /// Its script.
    Script { form: DumpForm, reader: Box<dyn BufRead> },
    /// An archive, of which `pg_restore` makes one. A directory is none of ours to open.
    Archive { form: DumpForm, header: Header, file: Option<File> },
}

/// Opens what is at `path`.
pub(super) fn open(path: &Path) -> Result<Result<Opened, Refusal>, SourceError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => SourceError::Missing { path: path.to_owned() },
        _ => SourceError::Io { verb: "read", path: path.to_owned(), source },
    };
    if std::fs::metadata(path).map_err(failed)?.is_dir() {
        return open_directory(path, &failed);
    }
    let mut file = File::open(path).map_err(failed)?;
    let head = read_head(&mut file).map_err(failed)?;
    file.rewind().map_err(failed)?;
    let form = match recognise(&head) {
        Ok(form) => form,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let reader: Box<dyn BufRead> = match form {
        DumpForm::Custom | DumpForm::Tar | DumpForm::Directory => {
            if form == DumpForm::Tar
                && let Err(refusal) = archive::see_tar_is_whole(&mut file).map_err(failed)?
            {
                return Ok(Err(refusal));
            }
            let header = archive::parse_header(toc_of(form, &head));
            return Ok(header.map(|header| Opened::Archive { form, header, file: Some(file) }));
        }
        DumpForm::Plain => Box::new(BufReader::with_capacity(BUFFER_BYTES, file)),
        DumpForm::PlainGzip => Box::new(BufReader::with_capacity(
            BUFFER_BYTES,
            flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(BUFFER_BYTES, file)),
        )),
        DumpForm::PlainZstd => {
            let mut decoder = zstd::Decoder::new(file).map_err(failed)?;
            decoder.window_log_max(ZSTD_WINDOW).map_err(failed)?;
            Box::new(BufReader::with_capacity(BUFFER_BYTES, decoder))
        }
    };
    Ok(see_script(reader, form))
}

fn open_directory(
    path: &Path,
    failed: &dyn Fn(io::Error) -> SourceError,
) -> Result<Result<Opened, Refusal>, SourceError> {
    let toc = match File::open(path.join("toc.dat")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let is_server = path.join("PG_VERSION").exists() || path.join("base.tar").exists();
            let (what, advice) = match is_server {
                true => (
                    "a copy of a server's files",
                    "start a server of that version on it, and dump from there",
                ),
                false => {
                    ("a folder without the toc.dat of pg_dump", "name the folder that pg_dump -Fd has made")
                }
            };
            return Ok(Err(Refusal::NotADump { what: what.into(), advice }));
        }
        toc => toc,
    };
    let head = toc.and_then(|mut toc| read_head(&mut toc)).map_err(failed)?;
    Ok(archive::parse_header(&head).map(|header| Opened::Archive {
        form: DumpForm::Directory,
        header,
        file: None,
    }))
}

fn read_head(file: &mut File) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    file.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// Where in the head of an archive its table of contents begins: in a tar file, behind the header of its first member.
fn toc_of(form: DumpForm, head: &[u8]) -> &[u8] {
    match form {
        DumpForm::Tar => head.get(512..).unwrap_or_default(),
        _ => head,
    }
}

/// What a file is that begins so.
fn recognise(head: &[u8]) -> Result<DumpForm, Refusal> {
    let not = |what: &str, advice| Err(Refusal::NotADump { what: what.to_owned(), advice });
    if head.starts_with(b"PGDMP") {
        return Ok(DumpForm::Custom);
    }
    if head.get(257..262) == Some(b"ustar") {
        return match head.starts_with(b"toc.dat\0") {
            true => Ok(DumpForm::Tar),
            false => {
                not("a tar file that pg_dump did not make", "if a dump is in it, unpack it and name that")
            }
        };
    }
    const UNPACK: &str = "unpack it first; gzip and zstd are unpacked here";
    match head {
        [] => not("an empty file", "fetch or make it again"),
        [0x1f, 0x8b, ..] => Ok(DumpForm::PlainGzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(DumpForm::PlainZstd),
        [b'B', b'Z', b'h', ..] => not("compressed by bzip2", UNPACK),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => not("compressed by xz", UNPACK),
        [0x04, 0x22, 0x4d, 0x18, ..] => not("compressed by lz4", UNPACK),
        [b'P', b'K', 3, 4, ..] => not("a zip file", UNPACK),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => not(
            "text in UTF-16, as PowerShell writes it with `>`",
            "dump again with pg_dump --file; what the shell did to the text cannot always be undone",
        ),
        _ if head.starts_with(b"SQLite format 3\0") => not(
            "a SQLite database",
            "no server is needed for it: open it where it is, or protect it with hikae",
        ),
        _ => Ok(DumpForm::Plain),
    }
}

/// Looks at how a script begins once it is unpacked.
fn see_script(mut reader: Box<dyn BufRead>, form: DumpForm) -> Result<Opened, Refusal> {
    const BOM: &[u8] = b"\xef\xbb\xbf";
    let head = match reader.fill_buf() {
        Ok(head) => &head[..head.len().min(HEAD_BYTES)],
        Err(error) => return Err(unreadable(&error)),
    };
    if form != DumpForm::Plain && !matches!(recognise(head), Ok(DumpForm::Plain)) {
        let what = match recognise(head) {
            Ok(inner) => inner.shown().to_owned(),
            Err(Refusal::NotADump { what, .. }) => what,
            Err(_) => "something else".to_owned(),
        };
        let advice = "unpack it first, and name what comes out";
        return Err(Refusal::NotADump { what: format!("{what}, compressed once more"), advice });
    }
    let text = String::from_utf8_lossy(head);
    let begins = |mark: &str| text.trim_start().starts_with(mark);
    for (mark, what) in [
        ("-- MySQL dump", "a dump of MySQL"),
        ("-- MariaDB dump", "a dump of MariaDB"),
        ("/*!999999", "a dump of MariaDB"),
        ("/*M!999999", "a dump of MariaDB"),
        ("-- phpMyAdmin SQL Dump", "a dump of MySQL by phpMyAdmin"),
        ("PRAGMA foreign_keys", "a dump of SQLite"),
    ] {
        if begins(mark) {
            let advice = "load it with the programs of that database; hikae restores dumps of PostgreSQL";
            return Err(Refusal::NotADump { what: what.to_owned(), advice });
        }
    }
    if head.starts_with(BOM) {
        reader.consume(BOM.len());
    }
    Ok(Opened::Script { form, reader })
}

/// What a script that cannot be unpacked is: cut, or not what it seemed.
pub(super) fn unreadable(error: &io::Error) -> Refusal {
    Refusal::CutShort { why: format!("its compressed stream ends early or is damaged ({error})") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_dump_is_named() {
        for (head, what) in [
            (&b""[..], "empty"),
            (b"BZh9", "bzip2"),
            (b"\xfd7zXZ\0", "xz"),
            (b"PK\x03\x04", "zip"),
            (b"\xff\xfe-\0-\0", "UTF-16"),
            (b"SQLite format 3\0", "SQLite"),
        ] {
            assert!(recognise(head).unwrap_err().to_string().contains(what), "{what}");
        }
        for (head, what) in [
            ("-- MySQL dump 10.13  Distrib 8.0", "MySQL"),
            ("/*M!999999\\- enable the sandbox mode */ \n-- MariaDB dump", "MariaDB"),
            ("PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;", "SQLite"),
        ] {
            let Err(refusal) = see_script(Box::new(head.as_bytes()), DumpForm::Plain) else {
                panic!("{head}")
            };
            assert!(refusal.to_string().contains(what), "{refusal}");
        }
        let mut tar = vec![0; 600];
        tar[..10].copy_from_slice(b"base/PG_VE");
        tar[257..262].copy_from_slice(b"ustar");
        assert!(recognise(&tar).unwrap_err().to_string().contains("did not make"));
    }
}
