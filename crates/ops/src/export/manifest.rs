//! The manifest of a run: what it wrote, signed, and once more for people.
//!
//! ```text
//! manifest_NAME_TIME.json        what each file is, with its length and SHA-256
//! manifest_NAME_TIME.json.sig    64 bytes: Ed25519 of whoever wrote it over the bytes of the .json
//! manifest_NAME_TIME.txt         the same for people
//! ```
//!
//! It is written last: what no manifest names is of no finished run. Only what a manifest names that was signed by a writer of
//! this repository is ever removed.

use super::form::Form;
use hikae_export::pipeline::Compression;
use hikae_model::{Bytes, Count, RepositoryId, SnapshotId, WriterId, sabotage};
use hikae_repo::Repo;
use hikae_repo::keys::signature_holds;
use hikae_repo::log::Rights;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// The version that we write.
const VERSION: u32 = 1;
/// Longest manifest that is read.
pub(super) const MAX_BYTES: u64 = 64 << 20;

/// What a run of an export wrote.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// That it is one, and of which version.
    pub hikae_export: u32,
    /// Name of the export.
    pub export: String,
    /// The repository that it came from.
    pub repository: RepositoryId,
    /// Who wrote and signed it.
    pub writer: WriterId,
    /// The release that did.
    pub release: String,
    /// The host on which it was written.
    pub host: String,
    /// When.
    pub made: Timestamp,
    /// The files.
    pub files: Vec<ExportedFile>,
}

/// One exported file, or one folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedFile {
    /// Below the target.
    pub name: String,
    /// Length of the file; of a folder, of all the files in it.
    pub bytes: u64,
    /// SHA-256 of the file; of a folder, of the list of sums beside it.
    pub sha256: String,
    /// What it holds.
    pub form: Form,
    /// How it is compressed.
    pub compression: Compression,
    /// How it is encrypted: `age` or `openpgp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<String>,
    /// Name of the source.
    pub source: String,
    /// Its kind.
    pub kind: String,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The moment that it shows.
    pub moment: Timestamp,
    /// `daily`, `weekly`, `monthly` or `manual`.
    #[serde(rename = "type")]
    pub purpose: String,
    /// Nothing of the source is missing in it.
    pub complete: bool,
    /// How many files, rows of a listing or tables are in it.
    pub entries: u64,
    /// What was exported as one file: its path, time, owner and mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<Original>,
}

/// What a single file was where it was backed up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Original {
    /// Where it stood.
    pub path: String,
    /// When it was modified.
    pub modified: Timestamp,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its mode, in octal digits.
    pub mode: String,
}

impl Manifest {
    /// The manifest of a run of `repo`'s writer.
    pub(super) fn new(export: &str, files: Vec<ExportedFile>, host: &str, repo: &Repo) -> Self {
        Self {
            hikae_export: VERSION,
            export: export.to_owned(),
            repository: repo.header().core.repository,
            writer: repo.signer().id(),
            release: hikae_repo::RELEASE.to_owned(),
            host: host.to_owned(),
            made: repo.cx().now(),
            files,
        }
    }

    /// As it is stored, and its signature.
    pub(super) fn sign(&self, repo: &Repo) -> Result<(Vec<u8>, [u8; 64]), serde_json::Error> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        // Other things that a writer signs begin with their purpose, and never with a brace.
        let signature = repo.signer().sign(&bytes);
        Ok((bytes, signature))
    }

    /// Reads a manifest; nothing if it is none, is of another repository or export, or was not signed by one of its writers.
    pub(super) fn open(bytes: &[u8], signature: &[u8], export: &str, repo: &Repo) -> Option<Self> {
        let manifest: Self = serde_json::from_slice(bytes).ok()?;
        let is_ours = manifest.hikae_export == VERSION
            && manifest.export == export
            && manifest.repository == repo.header().core.repository;
        let is_signed = signature_holds(manifest.writer, bytes, signature)
            && repo.state().rights_of(manifest.writer).allow(Rights::WRITE);
        (is_ours && (is_signed || sabotage::on("export-manifest-unsigned"))).then_some(manifest)
    }

    /// The same for people.
    pub(super) fn to_text(&self, zone: &TimeZone) -> String {
        let time = |moment: Timestamp| moment.to_zoned(zone.clone()).strftime("%F %T %:z").to_string();
        let bytes: u64 = self.files.iter().map(|file| file.bytes).sum();
        let mut text = format!(
            "Export {}\nMade {} on {} by hikae {}\nRepository {}\nWriter {}\nFiles {}, {}\n",
            self.export,
            time(self.made),
            self.host,
            self.release,
            self.repository,
            self.writer,
            Count(self.files.len() as u64),
            Bytes(bytes),
        );
        for file in &self.files {
            let encryption = file.encryption.as_deref().unwrap_or("none");
            let complete = if file.complete { "complete" } else { "PARTIAL" };
            // Writing to a text cannot fail.
            let _ = write!(
                text,
                "\n{}\n  sha256 {}\n  {} bytes, {} in it, encryption: {encryption}\n  {} ({}) of {}, {}, {complete}, snapshot {}\n",
                file.name,
                file.sha256,
                file.bytes,
                file.entries,
                file.source,
                file.kind,
                time(file.moment),
                file.purpose,
                file.snapshot,
            );
            if let Some(original) = &file.original {
                let _ = writeln!(
                    text,
                    "  was {} of {}, owner {}:{}, mode {}",
                    original.path,
                    time(original.modified),
                    original.uid,
                    original.gid,
                    original.mode
                );
            }
        }
        text
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use hikae_model::TreePath;

    /// A run: `day sources`, of January; `28-03` is of March. A `!` makes it partial.
    pub(in crate::export) fn run_of(text: &str) -> (TreePath, Manifest) {
        let complete = !text.ends_with('!');
        let mut words = text.trim_end_matches('!').split(' ');
        let day = words.next().unwrap();
        let date = day.split_once('-').map_or(format!("01-{day}"), |(day, month)| format!("{month}-{day}"));
        let moment: Timestamp = format!("2026-{date}T00:00:00Z").parse().unwrap();
        let file = |source: &str| ExportedFile {
            name: format!("{day}-{source}"),
            bytes: 1,
            sha256: String::new(),
            form: Form::File,
            compression: Compression::None,
            encryption: None,
            source: source.to_owned(),
            kind: "files".to_owned(),
            snapshot: SnapshotId::from_bytes([0; 32]),
            moment,
            purpose: "daily".to_owned(),
            complete,
            entries: 1,
            original: None,
        };
        let manifest = Manifest {
            hikae_export: VERSION,
            export: "e".to_owned(),
            repository: RepositoryId::from_bytes([0; 16]),
            writer: WriterId::from_bytes([0; 32]),
            release: String::new(),
            host: String::new(),
            made: moment,
            files: words.map(file).collect(),
        };
        (TreePath::parse(day).unwrap(), manifest)
    }
}
