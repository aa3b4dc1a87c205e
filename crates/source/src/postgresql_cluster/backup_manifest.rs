//! `backup_manifest`: what PostgreSQL's own programs compare the files of a base backup with.
//!
//! ```text
//! { "PostgreSQL-Backup-Manifest-Version": 2,
//! "System-Identifier": 7345..,                       since 17, and then version 2
//! "Files": [
//! { "Path": "base/5/1259", "Size": 114688, "Last-Modified": "2026-11-20 14:30:00 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "2f1cd0ef" },
//! ...
//! ],
//! "WAL-Ranges": [
//! { "Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000100" }
//! ],
//! "Manifest-Checksum": "SHA-256 of all lines before this one"}
//! ```
//!
//! One is written for every snapshot, of the files as they were read, so `pg_verifybackup` can be run on what was restored. A
//! server that sends a base backup sends its own too, and what came is compared with it.
//!
//! Source: `src/backend/backup/backup_manifest.c`. This module knows names, lengths and sums. It reads no file.

use super::crc32c::Crc32c;
use hikae_model::{ContentError, Lsn, ReadContent, Stretch, SystemId, Timeline, TreePath, sabotage};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

/// Its name in a data directory.
pub(super) const NAME: &str = "backup_manifest";

/// A file as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileSum {
    pub(super) bytes: u64,
    pub(super) crc: u32,
    /// In seconds since 1970.
    pub(super) modified: i64,
}

/// The files of a base backup, by where they stand in the data directory; a tablespace stands in `pg_tblspc/OID`.
#[derive(Debug, Default)]
pub(super) struct Sums(Mutex<BTreeMap<Vec<u8>, FileSum>>);

impl Sums {
    /// Adds a file whose content is at hand.
    pub(super) fn add(&self, name: impl Into<Vec<u8>>, content: &[u8], modified: i64) {
        let sum = FileSum { bytes: content.len() as u64, crc: Crc32c::of(content), modified };
        self.insert(name.into(), sum);
    }

    /// Adds a file by its sum.
    pub(super) fn insert(&self, name: Vec<u8>, sum: FileSum) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name, sum);
    }

    fn take(&self) -> BTreeMap<Vec<u8>, FileSum> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The document.
    pub(super) fn to_json(&self, cluster: SystemId, version_num: u32, log: &WalRange) -> Vec<u8> {
        let mut json = match version_num {
            170_000.. => format!(
                "{{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": {cluster},\n\"Files\": ["
            ),
            _ => "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [".to_owned(),
        };
        // The log has checksums of its own, a restore makes its own links of tablespaces, and no copy follows anybody.
        let is_listed = |name: &[u8]| {
            !name.starts_with(b"pg_wal/")
                && !matches!(name, b"tablespace_map" | b"standby.signal" | b"recovery.signal")
        };
        let sums = self.take();
        for (n, (name, sum)) in sums.iter().filter(|(name, _)| is_listed(name)).enumerate() {
            json.push_str(if n == 0 { "\n" } else { ",\n" });
            let name = match std::str::from_utf8(name) {
                Ok(name) => format!("\"Path\": {}", serde_json::Value::from(name)),
                Err(_) => format!("\"Encoded-Path\": \"{}\"", hex(name)),
            };
            let modified = jiff::Timestamp::from_second(sum.modified).unwrap_or_default();
            let modified = modified.strftime("%Y-%m-%d %H:%M:%S GMT");
            // The server writes the four bytes as they are in its memory.
            let crc = hex(&sum.crc.to_ne_bytes());
            let _ = write!(
                json,
                "{{ {name}, \"Size\": {}, \"Last-Modified\": \"{modified}\", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"{crc}\" }}",
                sum.bytes
            );
        }
        let WalRange { timeline, start, stop } = log;
        let _ = write!(
            json,
            "\n],\n\"WAL-Ranges\": [\n{{ \"Timeline\": {timeline}, \"Start-LSN\": \"{start}\", \"End-LSN\": \"{stop}\" }}\n],\n"
        );
        let sum = hex(&Sha256::digest(&json));
        let _ = writeln!(json, "\"Manifest-Checksum\": \"{sum}\"}}");
        json.into_bytes()
    }

    /// Compares what came with what the server says that it sent.
    ///
    /// # Errors
    /// In words, the first difference.
    pub(super) fn compare(&self, json: &[u8]) -> Result<(), String> {
        let mut sent = parse(json)?;
        for (name, came) in self.take() {
            let shown = name.escape_ascii();
            match sent.remove(&name) {
                Some(said) if said == (came.bytes, Some(came.crc)) => {}
                // The log is not in it, and has checksums of its own.
                None if name.starts_with(b"pg_wal/") => {}
                None => return Err(format!("{shown} came, and the server's manifest has no such file")),
                Some((bytes, _)) if bytes != came.bytes => {
                    return Err(format!(
                        "{shown} came with {} bytes, and its manifest says {bytes}",
                        came.bytes
                    ));
                }
                Some((_, None)) => return Err(format!("the server's manifest has no checksum of {shown}")),
                Some(_) => {
                    return Err(format!(
                        "{shown} came otherwise than the server's manifest says: its checksum differs"
                    ));
                }
            }
        }
        match sent.first_key_value() {
            Some((name, _)) => {
                Err(format!("{} did not come, and is in the server's manifest", name.escape_ascii()))
            }
            None => Ok(()),
        }
    }
}

/// The log that makes a base backup whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct WalRange {
    pub(super) timeline: Timeline,
    pub(super) start: Lsn,
    pub(super) stop: Lsn,
}

/// Where a file of a snapshot stands in a data directory; nothing for what is not below `data/` or `spaces/`.
pub(super) fn place_of(path: &TreePath) -> Option<Vec<u8>> {
    let path = path.as_bytes();
    if let Some(below) = path.strip_prefix(b"data/") {
        return Some(below.to_vec());
    }
    path.strip_prefix(b"spaces/").map(|below| [b"pg_tblspc/", below].concat())
}

/// The sums in a manifest that was written here.
///
/// # Errors
/// In words, what is wrong with it.
pub(super) fn sums_of(json: &[u8]) -> Result<BTreeMap<Vec<u8>, FileSum>, String> {
    let said = parse(json)?.into_iter();
    Ok(said
        .filter_map(|(name, (bytes, crc))| Some((name, FileSum { bytes, crc: crc?, modified: 0 })))
        .collect())
}

/// Length and checksum of each file of a server's manifest.
type Said = BTreeMap<Vec<u8>, (u64, Option<u32>)>;

fn parse(json: &[u8]) -> Result<Said, String> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(rename = "Files")]
        files: Vec<File>,
        #[serde(rename = "Manifest-Checksum")]
        sum: String,
    }
    #[derive(Deserialize)]
    struct File {
        #[serde(rename = "Path")]
        path: Option<String>,
        #[serde(rename = "Encoded-Path")]
        encoded: Option<String>,
        #[serde(rename = "Size")]
        bytes: u64,
        #[serde(rename = "Checksum-Algorithm")]
        algorithm: Option<String>,
        #[serde(rename = "Checksum")]
        sum: Option<String>,
    }
    let bad = |why: &dyn std::fmt::Display| format!("the server's manifest is not understood: {why}");
    let document: Document = serde_json::from_slice(json).map_err(|error| bad(&error))?;
    // Its own sum is of all lines but the last.
    let lines = json.strip_suffix(b"\n").and_then(|all| all.iter().rposition(|&byte| byte == b'\n'));
    let lines = lines.map(|end| &json[..=end]).ok_or_else(|| bad(&"it has no lines"))?;
    if !document.sum.eq_ignore_ascii_case(&hex(&Sha256::digest(lines))) {
        return Err("the server's manifest came otherwise than it was written".into());
    }
    let mut said = Said::new();
    for file in document.files {
        let name = match (file.path, file.encoded) {
            (Some(name), None) => name.into_bytes(),
            (None, Some(encoded)) => unhex(&encoded).ok_or_else(|| bad(&"a name is not hexadecimal"))?,
            _ => return Err(bad(&"a file has not one name")),
        };
        let name = name.strip_prefix(b"./").map(<[u8]>::to_vec).unwrap_or(name);
        let crc = match (file.algorithm.as_deref(), &file.sum) {
            (Some("CRC32C"), Some(sum)) => {
                unhex(sum).and_then(|sum| Some(u32::from_ne_bytes(sum.try_into().ok()?)))
            }
            _ => None,
        };
        if said.insert(name, (file.bytes, crc)).is_some() {
            return Err(bad(&"a file is in it twice"));
        }
    }
    Ok(said)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let bytes = pairs.iter().map(|[high, low]| Some((digit(*high)? << 4 | digit(*low)?) as u8));
    if rest.is_empty() { bytes.collect() } else { None }
}

/// Content whose sum is taken as it passes.
pub(super) struct Summed {
    content: Box<dyn ReadContent>,
    sums: Arc<Sums>,
    name: Vec<u8>,
    modified: i64,
    bytes: u64,
    crc: Crc32c,
}

impl Summed {
    /// The content of the file that stands at `name` in the data directory.
    pub(super) fn new(content: Box<dyn ReadContent>, sums: &Arc<Sums>, name: Vec<u8>, modified: i64) -> Self {
        Self { content, sums: Arc::clone(sums), name, modified, bytes: 0, crc: Crc32c::new() }
    }
}

impl ReadContent for Summed {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Stretch, ContentError> {
        let stretch = self.content.read(buffer)?;
        match stretch {
            Stretch::Data(n) => {
                self.crc.update(&buffer[..n]);
                self.bytes += n as u64;
            }
            Stretch::Hole(n) => {
                return Err(ContentError::Broken {
                    what: format!("{n} bytes of a server's file were left out"),
                    advice: None,
                });
            }
            Stretch::End => {
                let crc = self.crc.finish() ^ u32::from(sabotage::on("manifest-sums-wrong"));
                let sum = FileSum { bytes: self.bytes, crc, modified: self.modified };
                self.sums.insert(std::mem::take(&mut self.name), sum);
            }
        }
        Ok(stretch)
    }

    fn finish(&mut self) -> Result<(), ContentError> {
        self.content.finish()
    }

    fn unchanged(&self) -> Option<&[(u64, Vec<u8>)]> {
        self.content.unchanged()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: WalRange = WalRange { timeline: Timeline::FIRST, start: Lsn(0x28), stop: Lsn(0x100) };

    fn sums() -> Sums {
        let sums = Sums::default();
        sums.add("base/5/1259", b"123456789", 0);
        sums.add(b"odd \xff".to_vec(), b"", 1_700_000_000);
        sums
    }

    fn json(sums: &Sums) -> String {
        String::from_utf8(sums.to_json(SystemId(77), 170_001, &LOG)).unwrap()
    }

    /// As a server writes it, line by line.
    #[test]
    fn a_manifest_is_written_as_postgresql_writes_it() {
        let written = json(&sums());
        let mut lines = written.lines();
        for expected in [
            r#"{ "PostgreSQL-Backup-Manifest-Version": 2,"#,
            r#""System-Identifier": 77,"#,
            r#""Files": ["#,
            r#"{ "Path": "base/5/1259", "Size": 9, "Last-Modified": "1970-01-01 00:00:00 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "839206e3" },"#,
            r#"{ "Encoded-Path": "6f646420ff", "Size": 0, "Last-Modified": "2023-11-14 22:13:20 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "00000000" }"#,
            "],",
            r#""WAL-Ranges": ["#,
            r#"{ "Timeline": 1, "Start-LSN": "0/28", "End-LSN": "0/100" }"#,
            "],",
        ] {
            assert_eq!(lines.next(), Some(expected));
        }
        assert!(lines.next().unwrap().starts_with("\"Manifest-Checksum\": \"") && lines.next().is_none());
        let old = String::from_utf8(sums().to_json(SystemId(77), 160_001, &LOG)).unwrap();
        assert!(old.starts_with("{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n"));
    }

    #[test]
    fn every_difference_from_what_the_server_says_is_found() {
        let told = json(&sums());
        assert_eq!(sums().compare(told.as_bytes()), Ok(()));
        let differs = |change: &dyn Fn(&Sums)| {
            let sums = sums();
            change(&sums);
            sums.compare(told.as_bytes()).unwrap_err()
        };
        assert!(differs(&|sums| sums.add("base/5/1259", b"12345678", 0)).contains("with 8 bytes"));
        assert!(differs(&|sums| sums.add("base/5/1259", b"123456780", 0)).contains("checksum differs"));
        assert!(differs(&|sums| sums.add("base/5/1260", b"", 0)).contains("has no such file"));
        assert!(Sums::default().compare(told.as_bytes()).unwrap_err().contains("did not come"));
        let log = sums();
        log.add("pg_wal/000000010000000000000002", b"log", 0);
        assert_eq!(log.compare(told.as_bytes()), Ok(()));
        for harm in [("77", "78"), ("\"Files\"", "\"Fil\""), ("839206e3", "839206e4")] {
            let harmed = told.replacen(harm.0, harm.1, 1);
            assert!(sums().compare(harmed.as_bytes()).is_err(), "{harm:?}");
        }
        for cut in 0..told.len() {
            assert!(sums().compare(&told.as_bytes()[..cut]).is_err(), "cut to {cut}");
        }
    }
}
