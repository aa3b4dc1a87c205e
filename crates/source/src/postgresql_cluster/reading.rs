//! One base backup: begun on the server, read file by file, ended, and only then whole.
//!
//! ```text
//! pg_backup_start -> data/, spaces/ -> (all is read) -> pg_control -> pg_backup_stop -> stop/, wal/ -> (all is read) -> manifest
//! ```

use super::backup_manifest::{self, FileSum, Summed, Sums, WalRange};
use super::control::{self, Control};
use super::names::RelationFile;
use super::read::{Bytes, Known, Pages, Sample, SegmentFile, ServerFile};
use super::segment::Expected;
use super::server::{Begun, Ended, parse_tablespace_map, segments};
use super::summaries::Unchanged;
use super::walk::{self, Listed, Listing, Root};
use super::whole::{Counts, Whole, again, notes};
use super::{ClusterSettings, same_cluster};
use crate::postgresql::{Connection, failed};
use crate::{Before, Content, Finished, Item, Reading, SourceError};
use hikae_model::{
    Attributes, Cut, Cx, Entry, EntryKind, ErrorCode, Problem, Random, ReadContent, SegmentName, TreePath,
    sabotage,
};
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Files read at the same time, one a core up to this: they are on one disk.
const MAX_LANES: usize = 8;
/// Of a file that need not be read, one page in so many is compared with what is kept: 16 MiB of pages of 8 KiB.
const PAGES_PER_SAMPLE: u64 = 2048;
/// And one of so many files.
const FILES_PER_SAMPLE: u64 = 16;

pub(super) struct ClusterReading {
    begun: Begun,
    data: Arc<Root>,
    pages: Arc<Pages>,
    sums: Arc<Sums>,
    /// What need not be read.
    unchanged: Option<Unchanged>,
    n_files_not_read: Arc<AtomicU64>,
    random: Arc<dyn Random>,
    items: std::vec::IntoIter<Listed>,
    late: std::vec::IntoIter<Item>,
    ended: Option<(Ended, Vec<SegmentName>)>,
    listed: Counts,
    notes: Vec<Problem>,
    problems: Vec<Problem>,
    tablespaces: Vec<u32>,
}

impl ClusterReading {
    pub(super) fn begin(
        connection: &Connection,
        settings: &ClusterSettings,
        before: &Before<'_>,
        cx: &Cx,
    ) -> Result<Self, SourceError> {
        let mut begun = Begun::begin(connection, cx)?;
        let facts = begun.server.facts.clone();
        let data = Arc::new(Root::open(&settings.data_directory_of(&facts)?)?);
        same_cluster(&mut begun.server.session, &facts, &data)?;
        let Listing { listed, bytes, problems, notes, tablespaces } =
            walk::list(&data, facts.version_num / 10_000, facts.catalog_version)?;
        let mut notes = notes;
        let unchanged = match Unchanged::is_told(&facts).then(before).flatten() {
            None => None,
            Some(before) => match Unchanged::since(&*before, &mut begun, cx)? {
                Ok(unchanged) => Some(unchanged),
                Err(why) => {
                    let what = format!("every page was read, although the server sums up its log: {why}");
                    notes.push(Problem::new("all-read", data.path().display(), what));
                    None
                }
            },
        };
        let n_files = listed.iter().filter(|listed| listed.file.is_some()).count() as u64;
        cx.progress().begin("backing up", connection.shown(), bytes);
        let pages =
            Pages::new(facts.block_size, facts.relation_segment_blocks, facts.data_checksums, begun.start);
        Ok(Self {
            begun,
            data,
            pages: Arc::new(pages),
            sums: Arc::default(),
            unchanged,
            n_files_not_read: Arc::default(),
            random: cx.random_source(),
            items: listed.into_iter(),
            late: Vec::new().into_iter(),
            ended: None,
            listed: Counts { n_files, bytes },
            notes,
            problems,
            tablespaces: tablespaces.into_iter().map(|(oid, _)| oid).collect(),
        })
    }

    fn item(&mut self, listed: Listed) -> Item {
        let Listed { entry, file } = listed;
        let content = file.map(|file| {
            let cut = match file.relation {
                Some(_) => Cut::Pages(self.pages.page_bytes),
                None => Cut::Files,
            };
            let pages = file.relation.map(|relation| (Arc::clone(&self.pages), relation));
            let reader = ServerFile { root: file.root, path: file.path, pages, open: None };
            let name = backup_manifest::place_of(&entry.path).unwrap_or_default();
            let reader: Box<dyn ReadContent> = match self.sample(&entry, file.relation, &reader, &name) {
                Some(pages) => {
                    let n_not_read = Arc::clone(&self.n_files_not_read);
                    Box::new(Known { file: reader, pages, n_not_read, is_read: false })
                }
                None => Box::new(reader),
            };
            let modified = entry.attributes.modified.seconds;
            Content { cut, reader: Box::new(Summed::new(reader, &self.sums, name, modified)) }
        });
        Item { entry, content }
    }

    /// Some pages of a file that need not be read. Its sum is that of before.
    fn sample(
        &self,
        entry: &Entry,
        relation: Option<RelationFile>,
        file: &ServerFile,
        name: &[u8],
    ) -> Option<Vec<(u64, Vec<u8>)>> {
        let sum = self.unchanged.as_ref()?.find(&entry.path, relation?, entry.size())?;
        let random = || {
            let mut number = [0; 8];
            self.random.fill(&mut number);
            u64::from_le_bytes(number)
        };
        let n_pages = entry.size() / u64::from(self.pages.page_bytes);
        let n = n_pages / PAGES_PER_SAMPLE + u64::from(random().is_multiple_of(FILES_PER_SAMPLE));
        let numbers: Vec<u64> = (0..n).map(|_| random() % n_pages.max(1)).collect();
        let Sample::Pages(pages) = file.sample(&numbers) else { return None };
        self.sums.insert(name.to_vec(), FileSum { modified: entry.attributes.modified.seconds, ..sum });
        self.n_files_not_read.fetch_add(1, Ordering::Relaxed);
        Some(pages)
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
        let facts = &self.begun.server.facts;
        let stopped = ended.stopped.as_second();
        self.sums.add("backup_label", ended.label.as_bytes(), stopped);
        self.sums.add(control::PATH, &control, stopped);
        let log = WalRange { timeline: ended.timeline, start: self.begun.start, stop: ended.stop };
        let sums = self.sums.to_json(facts.system_id, facts.version_num, &log);
        let mut items = Items::beside(above);
        items.directory("stop")?;
        items.bytes("stop/backup_label", ended.label.clone().into_bytes())?;
        items.bytes(&format!("stop/{}", backup_manifest::NAME), sums)?;
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
        for name in segments {
            let start = name.start(facts.segment_size).unwrap_or(self.begun.start);
            let expected = Expected {
                system_id: facts.system_id,
                segment_size: facts.segment_size,
                page_bytes: facts.wal_block_size,
                start,
                until: ended.stop,
                zeroes_from: None,
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
            Control::parse(&control).is_some_and(|read| read.system_id == self.begun.server.facts.system_id);
        if !is_ours {
            return Err(again(format!(
                "{} was replaced in the middle of the backup",
                self.data.path().display()
            )));
        }
        let ended = self.begun.end()?;
        if self.unchanged.as_ref().is_some_and(|unchanged| unchanged.timeline != ended.timeline) {
            return Err(again("the server went over to another timeline in the middle of the backup".into()));
        }
        let size = self.begun.server.facts.segment_size;
        let mut segments = segments(self.begun.start, ended.stop, ended.timeline, size);
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
        let Begun { server, start, started } = &self.begun;
        let tablespaces = parse_tablespace_map(&ended.tablespace_map).ok_or_else(|| {
            failed(ErrorCode::Failure, "the server's map of tablespaces is not understood".into(), None)
        })?;
        if tablespaces.iter().any(|space| !self.tablespaces.contains(&space.oid)) {
            return Err(again("a tablespace of the backup is not linked in pg_tblspc".into()));
        }
        let on = self.data.path().display().to_string();
        let said = notes(&server.facts, server.no_slot.as_ref(), Some(self.data.path()), &on);
        let whole = Whole {
            facts: &server.facts,
            timeline: ended.timeline,
            start: *start,
            started: *started,
            stop: ended.stop,
            stopped: ended.stopped,
            segments,
            tablespaces,
            databases: &ended.databases,
            counts: self.listed,
            pages: &self.pages,
            read_whole: self.unchanged.as_ref().map_or(*started, |unchanged| unchanged.read_whole),
            n_files_not_read: self.n_files_not_read.load(Ordering::Relaxed),
            on,
        };
        whole.finish(self.problems, self.notes.into_iter().chain(said).collect())
    }
}

/// Entries that are made here, with owner and mode like those of the data directory.
pub(super) struct Items {
    directory: Attributes,
    file: Attributes,
    pub(super) items: Vec<Item>,
}

impl Items {
    /// None yet. What is made is like `above`, a directory of the cluster.
    pub(super) fn beside(above: Attributes) -> Self {
        Self { directory: above.clone(), file: Attributes { mode: 0o600, ..above }, items: Vec::new() }
    }

    pub(super) fn directory(&mut self, path: &str) -> Result<(), SourceError> {
        let entry =
            Entry { path: tree_path(path)?, kind: EntryKind::Directory, attributes: self.directory.clone() };
        self.items.push(Item { entry, content: None });
        Ok(())
    }

    pub(super) fn bytes(&mut self, path: &str, bytes: Vec<u8>) -> Result<(), SourceError> {
        self.file(path, bytes.len() as u64, Box::new(Bytes(Cursor::new(bytes))))
    }

    fn file(&mut self, path: &str, size: u64, reader: Box<dyn ReadContent>) -> Result<(), SourceError> {
        let entry =
            Entry { path: tree_path(path)?, kind: EntryKind::File { size }, attributes: self.file.clone() };
        self.items.push(Item { entry, content: Some(Content { cut: Cut::Files, reader }) });
        Ok(())
    }
}

pub(super) fn tree_path(path: &str) -> Result<TreePath, SourceError> {
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
