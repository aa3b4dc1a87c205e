//! A base backup that has ended, however it was read: what it says of itself, and what is to be said of it.
//!
//! This module knows no files and no connection.

use super::manifest::{Manifest, Tablespace};
use super::read::Pages;
use super::server::Facts;
use crate::postgresql::failed;
use crate::{Finished, SourceError};
use hikae_model::{ErrorCode, Lsn, Problem, SegmentName, Timeline};
use std::path::Path;

/// Files and their bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) n_files: u64,
    pub(super) bytes: u64,
}

/// A base backup that has ended.
pub(super) struct Whole<'a> {
    pub(super) facts: &'a Facts,
    pub(super) timeline: Timeline,
    pub(super) start: Lsn,
    pub(super) started: jiff::Timestamp,
    pub(super) stop: Lsn,
    pub(super) stopped: jiff::Timestamp,
    pub(super) segments: &'a [SegmentName],
    pub(super) tablespaces: Vec<Tablespace>,
    pub(super) databases: &'a [String],
    pub(super) counts: Counts,
    pub(super) pages: &'a Pages,
    /// When everything was read last, and how many files were not read now.
    pub(super) read_whole: jiff::Timestamp,
    pub(super) n_files_not_read: u64,
    /// What the cluster is called in what is said of it: its directory, or how it is entered.
    pub(super) on: String,
}

impl Whole<'_> {
    /// Ends the reading, with what else was found wrong and is to be known.
    pub(super) fn finish(
        self,
        mut problems: Vec<Problem>,
        notes: Vec<Problem>,
    ) -> Result<Finished, SourceError> {
        let (n_bad, bad) = self.pages.bad(self.stop);
        problems.extend(bad.iter().map(|page| {
            let what = format!("page {} is damaged: its checksum is wrong; it is kept as it is", page.block);
            let advice = "restore an older snapshot beside and copy the table over, and look at the disk";
            Problem::new("bad-page", page.path.display(), what).advise(advice)
        }));
        if n_bad > bad.len() as u64 {
            let what = format!("{} more pages are damaged", n_bad - bad.len() as u64);
            problems.push(Problem::new("bad-page", &self.on, what));
        }
        let moment = self.stopped;
        let manifest = self.manifest(n_bad).to_json()?;
        Ok(Finished { moment, problems, notes, manifest: Some(manifest) })
    }

    fn manifest(self, n_bad_pages: u64) -> Manifest {
        let facts = self.facts;
        Manifest {
            format: Manifest::FORMAT,
            system_id: facts.system_id.to_string(),
            server_version: facts.version.clone(),
            server_version_num: facts.version_num,
            catalog_version: facts.catalog_version,
            block_size: facts.block_size,
            wal_block_size: facts.wal_block_size,
            segment_size: facts.segment_size.bytes(),
            relation_segment_blocks: facts.relation_segment_blocks,
            data_checksums: facts.data_checksums,
            from_standby: facts.is_standby,
            timeline: self.timeline.get(),
            start_lsn: self.start.to_string(),
            stop_lsn: self.stop.to_string(),
            started: self.started,
            stopped: self.stopped,
            wal_segments: self.segments.iter().map(ToString::to_string).collect(),
            wal_included: true,
            tablespaces: self.tablespaces,
            databases: self.databases.to_vec(),
            superuser: facts.superuser.clone(),
            n_files: self.counts.n_files,
            bytes: self.counts.bytes,
            n_pages_checked: self.pages.n_looked_at(),
            n_bad_pages,
            read_whole: Some(self.read_whole),
            n_files_not_read: self.n_files_not_read,
            settings: facts.settings.clone(),
        }
    }
}

/// What is to be known of a server that was read, and takes nothing from the backup. `data` is where its files were read,
/// if they were read here.
pub(super) fn notes(facts: &Facts, no_slot: Option<&String>, data: Option<&Path>, on: &str) -> Vec<Problem> {
    let mut notes = Vec::new();
    if !facts.data_checksums {
        let what = "pages have no checksums, so a damaged one is kept as it is and not seen";
        let advice = "stop the server and run pg_checksums --enable";
        notes.push(Problem::new("no-checksums", on, what).advise(advice));
    }
    if let Some(why) = no_slot {
        let what = format!("nothing held the log while it was read: {why}");
        let advice = "give the role REPLICATION and see that max_replication_slots leaves room, or a long backup may fail";
        notes.push(Problem::new("no-slot", on, what).advise(advice));
    }
    for name in ["config_file", "hba_file", "ident_file"] {
        let inside = |path: &Path| {
            data.into_iter().chain(facts.data_directory.as_deref()).any(|data| path.starts_with(data))
        };
        if let Some(path) = facts.settings.get(name)
            && (data.is_some() || facts.data_directory.is_some())
            && !inside(Path::new(path))
        {
            let what = format!("{name} is outside of the data directory and not in this backup");
            notes.push(Problem::new("config-outside", path, what).advise("back it up as a source of files"));
        }
    }
    notes
}

/// The backup has failed, and nothing of it may be kept.
pub(super) fn again(what: String) -> SourceError {
    failed(ErrorCode::Failure, what, Some("run the backup again".into()))
}
