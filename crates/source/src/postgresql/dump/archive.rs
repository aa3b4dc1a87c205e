//! Archives of `pg_dump`: who made one, and the script that `pg_restore` makes of it.
//!
//! An archive can hold any statement, so its script is judged like any other. `pg_restore` itself parses what a stranger
//! wrote: only releases without known holes in that are let near it, and if we are root it runs as nobody.
//!
//! Source of the header: `ReadHead` in PostgreSQL's `pg_backup_archiver.c`.

use super::DumpForm;
use super::refusal::Refusal;
use crate::SourceError;
use crate::postgresql::cluster::unprivileged;
use crate::postgresql::connection::shown_name;
use crate::postgresql::failed;
use crate::postgresql::programs::{Environment, Programs, Running, installed};
use hikae_model::{Cx, ErrorCode, sabotage};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek as _, SeekFrom};
use std::path::Path;
use std::process::{ChildStdout, Stdio};

/// Oldest release of each major version whose `pg_restore` may read an archive of a stranger (CVE-2026-116314).
const SAFE_RELEASES: [(u32, u32); 5] = [(14, 25), (15, 20), (16, 16), (17, 12), (18, 7)];
/// Longest text in a header.
const MAX_TEXT_BYTES: u64 = 1024;

/// What the header of an archive says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) server_version: Option<String>,
    pub(super) pg_dump_version: Option<String>,
}

impl Header {
    /// Major version of the `pg_dump` that made it; 0 if that cannot be told.
    fn major(&self) -> u32 {
        let version = self.pg_dump_version.as_deref().unwrap_or_default();
        version.split(|c: char| !c.is_ascii_digit()).next().and_then(|n| n.parse().ok()).unwrap_or(0)
    }
}

/// Reads the header that `bytes` begin with.
pub(super) fn parse_header(bytes: &[u8]) -> Result<Header, Refusal> {
    read_header(&mut &*bytes).map_err(|_| Refusal::NotADump {
        what: "an archive whose header is not as pg_dump writes it".into(),
        advice: "fetch or make it again",
    })
}

fn read_header(bytes: &mut &[u8]) -> io::Result<Header> {
    let damaged = || io::Error::from(io::ErrorKind::InvalidData);
    let mut magic = [0; 5];
    bytes.read_exact(&mut magic)?;
    let [major, minor, _revision, int_bytes, _offset_bytes, _format] = take(bytes)?;
    if magic != *b"PGDMP" || major != 1 || minor < 10 || !(1..=8).contains(&int_bytes) {
        return Err(damaged());
    }
    // Since 1.15 a byte names the compression; a number of its level did before.
    match minor {
        15.. => drop(take::<1>(bytes)?),
        _ => drop(read_int(bytes, int_bytes)?),
    }
    for _ in 0..7 {
        read_int(bytes, int_bytes)?; // when it was made
    }
    let _database = read_text(bytes, int_bytes)?;
    Ok(Header { server_version: read_text(bytes, int_bytes)?, pg_dump_version: read_text(bytes, int_bytes)? })
}

/// The next bytes.
pub(in crate::postgresql) fn take<const N: usize>(bytes: &mut impl Read) -> io::Result<[u8; N]> {
    let mut taken = [0; N];
    bytes.read_exact(&mut taken)?;
    Ok(taken)
}

/// A sign, then the number with its lowest byte first.
pub(in crate::postgresql) fn read_int(bytes: &mut impl Read, int_bytes: u8) -> io::Result<i64> {
    let [sign] = take(bytes)?;
    let mut value = 0_u64;
    for shift in 0..int_bytes {
        value |= u64::from(take::<1>(bytes)?[0]) << (8 * shift);
    }
    let value = i64::try_from(value).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(if sign == 0 { value } else { -value })
}

fn read_text(bytes: &mut &[u8], int_bytes: u8) -> io::Result<Option<String>> {
    let Ok(length) = u64::try_from(read_int(bytes, int_bytes)?) else { return Ok(None) };
    if length > MAX_TEXT_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut text = Vec::new();
    if bytes.take(length).read_to_end(&mut text)? as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(shown_name(&String::from_utf8_lossy(&text))))
}

/// Looks whether a tar file goes on to its end mark: `pg_restore` reads for ever in one that was cut.
pub(super) fn see_tar_is_whole(file: &mut File) -> Result<Result<(), Refusal>, io::Error> {
    const BLOCK: u64 = 512;
    let length = file.seek(SeekFrom::End(0))?;
    let cut =
        || Ok(Err(Refusal::CutShort { why: format!("as a tar file it goes on behind its {length} bytes") }));
    let mut at = 0;
    loop {
        // Two empty blocks end it.
        if at + 2 * BLOCK > length {
            return cut();
        }
        file.seek(SeekFrom::Start(at))?;
        let mut blocks = [0; 2 * BLOCK as usize];
        file.read_exact(&mut blocks)?;
        if blocks.iter().all(|&byte| byte == 0) {
            file.rewind()?;
            return Ok(Ok(()));
        }
        let Some(bytes) = member_bytes(&blocks[124..136]) else { return cut() };
        at = match bytes
            .checked_next_multiple_of(BLOCK)
            .and_then(|bytes| at.checked_add(BLOCK)?.checked_add(bytes))
        {
            Some(next) => next,
            None => return cut(),
        };
    }
}

/// Looks whether each compressed file of a directory archive goes on to its end: `pg_restore` takes one that was cut for
/// whole, and of a large object nothing else says how long it was.
pub(super) fn see_directory_is_whole(path: &Path, cx: &Cx) -> Result<Result<(), Refusal>, SourceError> {
    let failed = |source| SourceError::Io { verb: "read", path: path.to_owned(), source };
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        let extension = file.extension().unwrap_or_default();
        if extension != "gz" && extension != "zst" {
            continue;
        }
        let opened = File::open(&file).map_err(failed)?;
        let mut unpacked: Box<dyn Read> = match extension == "gz" {
            true => Box::new(flate2::read::GzDecoder::new(opened)),
            false => Box::new(zstd::Decoder::new(opened).map_err(failed)?),
        };
        let mut buffer = vec![0; 64 << 10];
        loop {
            cx.check()?;
            match unpacked.read(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let name = file.file_name().unwrap_or_default().to_string_lossy();
                    let why = format!("{} ends early or is damaged ({error})", shown_name(&name));
                    return Ok(Err(Refusal::CutShort { why }));
                }
            }
        }
    }
    Ok(Ok(()))
}

/// The size of a member as its header says: octal digits, or a number of base 256 if it is large.
fn member_bytes(field: &[u8]) -> Option<u64> {
    if field[0] == 0x80 {
        return Some(field[4..].iter().fold(0, |n, &byte| n << 8 | u64::from(byte)));
    }
    let digits = std::str::from_utf8(field).ok()?.trim_matches(|c: char| c == '\0' || c == ' ');
    u64::from_str_radix(digits, 8).ok()
}

/// An archive and the program that reads it.
pub(super) struct Archive<'a> {
    pub(super) path: &'a Path,
    pub(super) form: DumpForm,
    /// What is at `path`, unless it is a directory.
    file: Option<File>,
    programs: Programs,
}

impl<'a> Archive<'a> {
    pub(super) fn new(
        path: &'a Path,
        form: DumpForm,
        header: &Header,
        file: Option<File>,
        directory: Option<&Path>,
        environment: &Environment,
    ) -> Result<Self, SourceError> {
        let programs = choose(&installed("pg_restore", directory, environment), header)?;
        Ok(Self { path, form, file, programs })
    }

    /// Starts `pg_restore`. It reads the file that we opened: who runs as nobody could not open it.
    fn start(&self, what: &str) -> Result<Running, SourceError> {
        let failed = |source| SourceError::Io { verb: "read", path: self.path.to_owned(), source };
        let format = match self.form {
            DumpForm::Tar => "--format=tar",
            DumpForm::Directory => "--format=directory",
            _ => "--format=custom",
        };
        let mut arguments: Vec<OsString> = vec![format.into(), what.into()];
        let (user, stdin) = match &self.file {
            Some(file) => {
                let mut file = file.try_clone().map_err(failed)?;
                file.rewind().map_err(failed)?;
                (unprivileged(Some("nobody"))?, Stdio::from(file))
            }
            None => {
                arguments.extend(["--".into(), self.path.as_os_str().to_owned()]);
                (None, Stdio::null())
            }
        };
        Running::start(&self.programs.path("pg_restore"), &arguments, user.as_ref(), stdin, Stdio::piped())
    }

    /// The script of it, under way.
    pub(super) fn script(&self) -> Result<ScriptOf, SourceError> {
        let mut running = self.start("--file=-")?;
        let stdout = running
            .stdout()
            .ok_or_else(|| failed(ErrorCode::Failure, "pg_restore has no output".into(), None))?;
        Ok(ScriptOf { running, stdout: BufReader::with_capacity(256 << 10, stdout) })
    }

    /// For how many tables it says that it has rows. A script cannot tell: if the end of one table's rows is lost, the
    /// statements that follow read like rows.
    pub(super) fn n_tables_with_rows(&self) -> Result<u64, SourceError> {
        let mut running = self.start("--list")?;
        let mut n = 0;
        if let Some(stdout) = running.stdout() {
            let mut stdout = BufReader::new(stdout);
            let mut line = Vec::new();
            while next_line(&mut stdout, &mut line).map_err(|source| SourceError::Io {
                verb: "read",
                path: self.path.to_owned(),
                source,
            })? {
                let mut words = line.split(|&byte| byte == b' ').skip(3);
                n += u64::from(words.next() == Some(b"TABLE") && words.next() == Some(b"DATA"));
            }
        }
        running
            .finish()
            .map_err(|what| Refusal::CutShort { why: what }.of(&self.path.display().to_string()))?;
        Ok(n)
    }
}

/// The next line, as much of it as matters; false at the end.
fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let n = reader.by_ref().take(MAX_TEXT_BYTES).read_until(b'\n', line)?;
    if n > 0 && line.last() != Some(&b'\n') {
        reader.skip_until(b'\n')?;
    }
    Ok(n > 0)
}

/// A script that `pg_restore` is making.
pub(super) struct ScriptOf {
    running: Running,
    pub(super) stdout: BufReader<ChildStdout>,
}

impl ScriptOf {
    /// Once the script was read to its end: whether that was all of it. The error is a sentence.
    pub(super) fn finish(self, cx: &Cx) -> Result<(), SourceError> {
        drop(self.stdout);
        self.running.wait(cx)
    }
}

/// The nearest `pg_restore` that reads the archive and may.
fn choose(found: &[Programs], header: &Header) -> Result<Programs, SourceError> {
    let needed = header.major();
    let fits = |programs: &&Programs| programs.major >= needed;
    let best =
        found.iter().filter(fits).filter(|programs| is_safe(programs)).min_by_key(|programs| programs.major);
    if let Some(best) = best {
        return Ok(best.clone());
    }
    let install =
        format!("install postgresql-client-{needed} or newer, or set PATH to where pg_restore {needed} is");
    let newest = found.iter().max_by_key(|programs| programs.major);
    Err(match (newest, found.iter().find(fits)) {
        (None, _) => failed(
            ErrorCode::Usage,
            "pg_restore is not installed here, and an archive needs it".into(),
            Some(install),
        ),
        (Some(newest), None) => failed(
            ErrorCode::PgDumpTooOld,
            format!(
                "the archive is by pg_dump {needed} and the newest pg_restore here is {}",
                newest.version
            ),
            Some(install),
        ),
        (_, Some(unsafe_one)) => failed(
            ErrorCode::Forbidden,
            format!(
                "pg_restore {} has known holes, through which an archive can run programs here",
                unsafe_one.version
            ),
            Some(format!("update it: {}", releases())),
        ),
    })
}

fn is_safe(programs: &Programs) -> bool {
    if sabotage::on("old-pg-restore") {
        return true;
    }
    let newest_known = SAFE_RELEASES.iter().map(|(major, _)| *major).max().unwrap_or(0);
    let minor = programs.version.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok()).unwrap_or(0);
    programs.major > newest_known
        || SAFE_RELEASES.iter().any(|(major, oldest)| programs.major == *major && minor >= *oldest)
}

fn releases() -> String {
    let releases: Vec<String> =
        SAFE_RELEASES.iter().map(|(major, minor)| format!("{major}.{minor}")).collect();
    format!("{} and what came after them have none that are known", releases.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs(version: &str) -> Programs {
        let major = version.split('.').next().unwrap().parse().unwrap();
        Programs { directory: "/x".into(), version: version.into(), major }
    }

    fn header(minor: u8, pg_dump: &str) -> Vec<u8> {
        let int = |n: u32| [&[0_u8][..], &n.to_le_bytes()].concat();
        let text = |text: &str| [int(text.len() as u32), text.as_bytes().to_vec()].concat();
        let compression = if minor >= 15 { vec![1] } else { int(0) };
        let parts = [
            vec![1, minor, 0, 4, 8, 1],
            compression,
            int(0).repeat(7),
            text("shop"),
            text("15.20"),
            text(pg_dump),
        ];
        [b"PGDMP".to_vec(), parts.concat()].concat()
    }

    #[test]
    fn a_header_says_who_made_the_archive_or_is_refused() {
        for minor in [12, 14, 15, 16] {
            let bytes = header(minor, "17.2 (Debian)");
            let parsed = parse_header(&bytes).unwrap();
            assert_eq!((parsed.server_version.as_deref(), parsed.major()), (Some("15.20"), 17));
            for cut in 0..bytes.len() {
                assert!(parse_header(&bytes[..cut]).is_err(), "cut at {cut}");
            }
        }
        let mut bytes = header(14, "15.20");
        bytes[8] = 200; // integers of 200 bytes
        assert!(parse_header(&bytes).is_err());
    }

    #[test]
    fn the_nearest_pg_restore_that_may_read_it_is_taken() {
        let of = |version: &str| parse_header(&header(14, version)).unwrap();
        let found = [programs("15.19"), programs("16.16"), programs("18.7"), programs("19.1")];
        assert_eq!(choose(&found, &of("15.3")).unwrap().version, "16.16");
        assert_eq!(choose(&found, &of("17.1")).unwrap().version, "18.7");
        assert_eq!(choose(&found, &of("19.1")).unwrap().version, "19.1");
        let refused = |found: &[Programs], version: &str| choose(found, &of(version)).unwrap_err();
        assert!(refused(&found, "20.1").to_string().contains("newest pg_restore here is 19.1"));
        assert!(refused(&found[..1], "15.3").to_string().contains("known holes"));
        assert!(refused(&[programs("13.23")], "13.1").to_string().contains("known holes"));
        assert!(refused(&[], "15.3").to_string().contains("not installed"));
    }
}
