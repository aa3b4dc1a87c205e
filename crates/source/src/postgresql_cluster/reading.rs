//! One base backup: begun on the server, read file by file, ended, and only then whole.
//!
//! ```text
//! pg_backup_start -> data/, spaces/ -> (all is read) -> pg_control -> pg_backup_stop -> stop/, wal/ -> (all is read) -> manifest
//! ```

use super::control::{self, Control};
use super::manifest::Manifest;
use super::read::{Bytes, Pages, SegmentFile, ServerFile};
use super::segment::Expected;
use super::server::{Begun, Ended, parse_tablespace_map, segments};
use super::walk::{self, Listed, Listing, Root};
use super::{ClusterSettings, same_cluster};
use crate::postgresql::{Connection, failed};
use crate::{Content, Finished, Item, Reading, SourceError};
use hikae_model::{
    Attributes, Cut, Cx, Entry, EntryKind, ErrorCode, Problem, ReadContent, SegmentName, TreePath, sabotage,
};
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

/// Files read at the same time, one a core up to this: they are on one disk.
const MAX_LANES: usize = 8;

pub(super) struct ClusterReading {
    begun: Begun,
    data: Arc<Root>,
    pages: Arc<Pages>,
    items: std::vec::IntoIter<Listed>,
    late: std::vec::IntoIter<Item>,
    ended: Option<(Ended, Vec<SegmentName>)>,
    listed: Counts,
    notes: Vec<Problem>,
    problems: Vec<Problem>,
    tablespaces: Vec<u32>,
}

#[derive(Default)]
struct Counts {
    n_files: u64,
    bytes: u64,
}

impl ClusterReading {
    pub(super) fn begin(
        connection: &Connection,
        settings: &ClusterSettings,
        cx: &Cx,
    ) -> Result<Self, SourceError> {
        let mut begun = Begun::begin(connection, cx)?;
        let facts = begun.facts.clone();
        let data = Arc::new(Root::open(&settings.data_directory_of(&facts)?)?);
        same_cluster(begun.session(), &facts, &data)?;
        let Listing { listed, bytes, problems, notes, tablespaces } =
            walk::list(&data, facts.version_num / 10_000, facts.catalog_version)?;
        let n_files = listed.iter().filter(|listed| listed.file.is_some()).count() as u64;
        cx.progress().begin("backing up", connection.shown(), bytes);
        let pages =
            Pages::new(facts.block_size, facts.relation_segment_blocks, facts.data_checksums, begun.start);
        Ok(Self {
            begun,
            data,
            pages: Arc::new(pages),
            items: listed.into_iter(),
            late: Vec::new().into_iter(),
            ended: None,
            listed: Counts { n_files, bytes },
            notes,
            problems,
            tablespaces: tablespaces.into_iter().map(|(oid, _)| oid).collect(),
        })
    }

    fn item(&self, listed: Listed) -> Item {
        let Listed { entry, file } = listed;
        let content = file.map(|file| {
            let cut = match file.relation {
                Some(_) => Cut::Pages(self.pages.page_bytes),
                None => Cut::Files,
            };
            let pages = file.relation.map(|relation| (Arc::clone(&self.pages), relation));
            let reader = ServerFile { root: file.root, path: file.path, pages, open: None };
            Content { cut, reader: Box::new(reader) }
        });
        Item { entry, content }
    }

    /// What only the end of the backup gives, in path order.
    fn last_items(
        &self,
        control: Vec<u8>,
        ended: &Ended,
        segments: &[SegmentName],
    ) -> Result<Vec<Item>, SourceError> {
        let above = walk::attributes(
            &crate::files::beneath::look_at(self.data.fd())
                .map_err(|error| unreadable(self.data.path(), error.into()))?,
        );
        let mut items =
            Items { directory: above.clone(), file: Attributes { mode: 0o600, ..above }, items: Vec::new() };
        items.directory("stop")?;
        items.bytes("stop/backup_label", ended.label.clone().into_bytes())?;
        items.bytes("stop/pg_control", control)?;
        if !ended.tablespace_map.is_empty() {
            items.bytes("stop/tablespace_map", ended.tablespace_map.clone().into_bytes())?;
        }
        items.directory("wal")?;
        let log = self.data.path().join("pg_wal");
        let root = Arc::new(Root::open(&log)?);
        for history in histories(&log)? {
            let reader = ServerFile {
                root: Arc::clone(&root),
                path: history.clone().into_bytes(),
                pages: None,
                open: None,
            };
            items.file(&format!("wal/{history}"), 0, Box::new(reader))?;
        }
        let facts = &self.begun.facts;
        for name in segments {
            let start = name.start(facts.segment_size).unwrap_or(self.begun.start);
            let expected = Expected {
                system_id: facts.system_id,
                segment_size: facts.segment_size,
                page_bytes: facts.wal_block_size,
                start,
                until: ended.stop,
                switched: false,
            };
            let path = name.to_string().into_bytes();
            let reader = SegmentFile { root: Arc::clone(&root), path, expected, open: None };
            items.file(&format!("wal/{name}"), facts.segment_size.bytes(), Box::new(reader))?;
        }
        items.directory("wal/archive_status")?;
        for name in segments {
            // Whoever archives from a restored server need not archive what is here already.
            items.bytes(&format!("wal/archive_status/{name}.done"), Vec::new())?;
        }
        items.items.sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
        Ok(items.items)
    }

    fn manifest(
        &self,
        ended: &Ended,
        segments: &[SegmentName],
        n_bad_pages: u64,
    ) -> Result<Manifest, SourceError> {
        let Begun { facts, start, started, .. } = &self.begun;
        let tablespaces = parse_tablespace_map(&ended.tablespace_map).ok_or_else(|| {
            failed(ErrorCode::Failure, "the server's map of tablespaces is not understood".into(), None)
        })?;
        if tablespaces.iter().any(|space| !self.tablespaces.contains(&space.oid)) {
            let what = "a tablespace of the backup is not linked in pg_tblspc".into();
            return Err(failed(ErrorCode::Failure, what, Some("run the backup again".into())));
        }
        Ok(Manifest {
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
            timeline: ended.timeline.get(),
            start_lsn: start.to_string(),
            stop_lsn: ended.stop.to_string(),
            started: *started,
            stopped: ended.stopped,
            wal_segments: segments.iter().map(ToString::to_string).collect(),
            wal_included: true,
            tablespaces,
            databases: ended.databases.clone(),
            superuser: facts.superuser.clone(),
            n_files: self.listed.n_files,
            bytes: self.listed.bytes,
            n_pages_checked: self.pages.n_looked_at(),
            n_bad_pages,
            settings: facts.settings.clone(),
        })
    }

    /// What is to be known of the server, and takes nothing from the backup.
    fn notes(&self) -> Vec<Problem> {
        let facts = &self.begun.facts;
        let on = self.data.path().display().to_string();
        let mut notes = self.notes.clone();
        if !facts.data_checksums {
            let what = "pages have no checksums, so a damaged one is kept as it is and not seen";
            let advice = "stop the server and run pg_checksums --enable";
            notes.push(Problem::new("no-checksums", &on, what).advise(advice));
        }
        if let Some(why) = &self.begun.no_slot {
            let what = format!("nothing held the log while it was read: {why}");
            let advice = "give the role REPLICATION and see that max_replication_slots leaves room, or a long backup may fail";
            notes.push(Problem::new("no-slot", &on, what).advise(advice));
        }
        for name in ["config_file", "hba_file", "ident_file"] {
            if let Some(path) = facts.settings.get(name)
                && !Path::new(path).starts_with(self.data.path())
                && facts.data_directory.as_ref().is_none_or(|data| !Path::new(path).starts_with(data))
            {
                let what = format!("{name} is outside of the data directory and not in this backup");
                notes.push(
                    Problem::new("config-outside", path, what).advise("back it up as a source of files"),
                );
            }
        }
        notes
    }
}

impl Reading for ClusterReading {
    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        if let Some(listed) = self.items.next() {
            return Ok(Some(self.item(listed)));
        }
        Ok(self.late.next())
    }

    fn lanes(&self) -> usize {
        std::thread::available_parallelism().map_or(1, usize::from).min(MAX_LANES)
    }

    fn go_on(&mut self) -> Result<bool, SourceError> {
        if self.ended.is_some() {
            return Ok(false);
        }
        // Last of all files, and before the end: what it says of a standby is how far recovery must come.
        let read = || control::read(self.data.fd());
        let control = read().map_err(|error| unreadable(&self.data.path().join(control::PATH), error))?;
        let is_ours =
            Control::parse(&control).is_some_and(|read| read.system_id == self.begun.facts.system_id);
        if !is_ours {
            let what = format!("{} was replaced in the middle of the backup", self.data.path().display());
            return Err(failed(ErrorCode::Failure, what, Some("run the backup again".into())));
        }
        let ended = self.begun.end()?;
        let mut segments =
            segments(self.begun.start, ended.stop, ended.timeline, self.begun.facts.segment_size);
        if sabotage::on("last-segment-forgotten") {
            segments.pop();
        }
        self.late = self.last_items(control, &ended, &segments)?.into_iter();
        self.ended = Some((ended, segments));
        Ok(true)
    }

    fn finish(self: Box<Self>) -> Result<Finished, SourceError> {
        let Some((ended, segments)) = &self.ended else {
            return Err(failed(ErrorCode::Failure, "the base backup was not ended".into(), None));
        };
        let (n_bad, bad) = self.pages.bad(ended.stop);
        let manifest = self.manifest(ended, segments, n_bad)?.to_json()?;
        let mut problems = self.problems.clone();
        problems.extend(bad.iter().map(|page| {
            let what = format!("page {} is damaged: its checksum is wrong; it is kept as it is", page.block);
            let advice = "restore an older snapshot beside and copy the table over, and look at the disk";
            Problem::new("bad-page", page.path.display(), what).advise(advice)
        }));
        if n_bad > bad.len() as u64 {
            let what = format!("{} more pages are damaged", n_bad - bad.len() as u64);
            problems.push(Problem::new("bad-page", self.data.path().display(), what));
        }
        Ok(Finished { moment: ended.stopped, problems, notes: self.notes(), manifest: Some(manifest) })
    }
}

/// Entries that are made here, with owner and mode like those of the data directory.
struct Items {
    directory: Attributes,
    file: Attributes,
    items: Vec<Item>,
}

impl Items {
    fn directory(&mut self, path: &str) -> Result<(), SourceError> {
        let entry =
            Entry { path: tree_path(path)?, kind: EntryKind::Directory, attributes: self.directory.clone() };
        self.items.push(Item { entry, content: None });
        Ok(())
    }

    fn bytes(&mut self, path: &str, bytes: Vec<u8>) -> Result<(), SourceError> {
        self.file(path, bytes.len() as u64, Box::new(Bytes(Cursor::new(bytes))))
    }

    fn file(&mut self, path: &str, size: u64, reader: Box<dyn ReadContent>) -> Result<(), SourceError> {
        let entry =
            Entry { path: tree_path(path)?, kind: EntryKind::File { size }, attributes: self.file.clone() };
        self.items.push(Item { entry, content: Some(Content { cut: Cut::Files, reader }) });
        Ok(())
    }
}

fn tree_path(path: &str) -> Result<TreePath, SourceError> {
    TreePath::parse(path).map_err(|error| failed(ErrorCode::Failure, error.to_string(), None))
}

/// Which timelines came before: a few small files, which recovery may ask for.
fn histories(log: &Path) -> Result<Vec<String>, SourceError> {
    let names = std::fs::read_dir(log).map_err(|error| unreadable(log, error))?;
    let names = names.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let is_history = |name: &String| matches!(name.parse(), Ok(hikae_model::WalName::History(_)));
    Ok(names.filter(is_history).collect())
}

fn unreadable(path: &Path, source: std::io::Error) -> SourceError {
    SourceError::Io { verb: "read", path: path.to_owned(), source }
}
