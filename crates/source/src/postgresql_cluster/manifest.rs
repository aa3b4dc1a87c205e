//! The manifest: what is to be known of a base backup before it is restored, and what must hold after.

use crate::SourceError;
use crate::postgresql::failed;
use hikae_model::ErrorCode;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version that this release writes.
const FORMAT: u32 = 1;

/// What was backed up of a cluster. Places in the log and identifiers are written as PostgreSQL writes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this document.
    pub format: u32,
    /// The number that `initdb` drew.
    pub system_id: String,
    /// The server's version, as `15.13`.
    pub server_version: String,
    /// The same as a number, as 150013.
    pub server_version_num: u32,
    /// Version of the catalog; the directories of tablespaces are named for it.
    pub catalog_version: u32,
    /// Bytes of a page.
    pub block_size: u32,
    /// Bytes of a page of the log.
    pub wal_block_size: u32,
    /// Bytes of a WAL segment.
    pub segment_size: u64,
    /// Pages in one file of a relation.
    pub relation_segment_blocks: u32,
    /// Whether pages have checksums, and so were checked.
    pub data_checksums: bool,
    /// Whether a standby was read.
    pub from_standby: bool,
    /// The timeline.
    pub timeline: u32,
    /// Where in the log recovery begins.
    pub start_lsn: String,
    /// Where it must come to at least.
    pub stop_lsn: String,
    /// When the backup began, by the server's clock.
    pub started: jiff::Timestamp,
    /// When it ended: the moment that it shows.
    pub stopped: jiff::Timestamp,
    /// The segments from start to stop, which recovery needs.
    pub wal_segments: Vec<String>,
    /// Whether they are in the snapshot.
    pub wal_included: bool,
    /// Tablespaces besides the two that every cluster has.
    pub tablespaces: Vec<Tablespace>,
    /// Databases that were there from start to stop.
    pub databases: Vec<String>,
    /// A role that may enter and do everything.
    pub superuser: Option<String>,
    /// Files in the snapshot.
    pub n_files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Pages whose checksum was looked at.
    pub n_pages_checked: u64,
    /// Pages that were not what was written.
    pub n_bad_pages: u64,
    /// When every page was read last, in this backup or in one before; older releases always did.
    #[serde(default)]
    pub read_whole: Option<jiff::Timestamp>,
    /// Files that the server's summaries of its log say not to have changed since the backup before, and that were not
    /// read.
    #[serde(default)]
    pub n_files_not_read: u64,
    /// Settings of the server that a recovery needs or that say how it was run.
    pub settings: BTreeMap<String, String>,
}

/// A tablespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    /// Its number, which names the link in `pg_tblspc`.
    pub oid: u32,
    /// Where it was.
    pub location: String,
}

impl Manifest {
    /// The current format, for who fills it.
    pub(super) const FORMAT: u32 = FORMAT;

    /// Reads a manifest.
    ///
    /// # Errors
    /// [`SourceError::Failed`] if it is none, or of a newer release.
    pub fn parse(json: &[u8]) -> Result<Self, SourceError> {
        /// What every version begins with.
        #[derive(Deserialize)]
        struct Versioned {
            format: u32,
        }
        let bad = |error: serde_json::Error| {
            failed(
                ErrorCode::VerificationFailed,
                format!("the manifest of the base backup is damaged: {error}"),
                None,
            )
        };
        let Versioned { format } = serde_json::from_slice(json).map_err(bad)?;
        if format != FORMAT {
            return Err(failed(
                ErrorCode::Usage,
                format!(
                    "the manifest of the base backup has format {format}, and this release reads {FORMAT}"
                ),
                Some("use a newer release of hikae".into()),
            ));
        }
        serde_json::from_slice(json).map_err(bad)
    }

    pub(super) fn to_json(&self) -> Result<Vec<u8>, SourceError> {
        serde_json::to_vec(self)
            .map_err(|error| failed(ErrorCode::Failure, format!("cannot write the manifest: {error}"), None))
    }

    /// The major version, as 15.
    pub fn major(&self) -> u32 {
        self.server_version_num / 10_000
    }
}
