//! One base backup over the wire: the server reads its files and sends them, with the log that makes one state of them.
//!
//! ```text
//! BASE_BACKUP -> tablespaces, data, pg_control -> (the backup has ended) -> log -> the server's manifest -> all is compared
//! ```
//!
//! - It comes out as the same snapshot as files that were read here: the same places, cut in the same pages.
//! - Files come in the server's order, one after the other, and each can be read once.
//! - What came is compared with the server's own manifest, and the log with where the backup begins and ends.
//! - A session beside it keeps the log on the server until it was sent, and must be on the very same server.

use super::arrival::{Arrivals, Arrived, Arriving};
use super::backup_manifest::{self, Summed, Sums, WalRange};
use super::control::Control;
use super::manifest::Tablespace;
use super::names::{self, RelationFile};
use super::page;
use super::read::{Bytes, HOLD, Pages, stretch};
use super::reading::Items;
use super::segment::Expected;
use super::server::{Entered, Facts, LABEL, ended_in_the_middle, segments, went_over};
use super::whole::{Counts, Whole, again, notes};
use super::{lock, read};
use crate::postgresql::replication::{
    self, BackupEntry, BackupEntryKind, BackupWal, BaseBackupOptions, Checkpoint, FinishedBackup,
    ReplicationError, WalPosition,
};
use crate::postgresql::{Connection, Session, failed};
use crate::{Content, Finished, Item, Reading, SourceError};
use hikae_model::{
    Advise as _, Attributes, ContentError, Cut, Cx, Entry, EntryKind, ErrorCode, FileTime, Lsn, Problem,
    ReadContent, SegmentName, Stretch, TreePath, WalName, sabotage,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::Cursor;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// The longest of the files that are read at once; `pg_control` has 8,192 bytes.
const MAX_SMALL_BYTES: usize = 64 << 10;
/// What to do when it broke off.
const AGAIN: &str = "nothing was kept: run the backup again";

pub(super) struct WireReading {
    server: Entered,
    start: WalPosition,
    started: jiff::Timestamp,
    arrivals: Arc<Mutex<Arrivals>>,
    tablespaces: Vec<Tablespace>,
    pages: Arc<Pages>,
    sums: Arc<Sums>,
    log: Arc<Mutex<Vec<SeenSegment>>>,
    counts: Counts,
    /// What came already: a name stands for one thing.
    came: BTreeSet<TreePath>,
    /// What is written on directories of the cluster, for those above them; `None` is the cluster's own.
    above: BTreeMap<Option<u32>, Attributes>,
    /// The time and the databases right after the backup ended on the server.
    after: Option<(jiff::Timestamp, Vec<String>)>,
    manifest: Vec<u8>,
    finished: Option<FinishedBackup>,
    segments: Option<Vec<SegmentName>>,
    late: std::vec::IntoIter<Item>,
    on: String,
}

/// A segment of the log as it came.
struct SeenSegment {
    name: SegmentName,
    bytes: u64,
    /// From where on it does not hold the log, and why.
    bad: Option<(Lsn, String)>,
    zeroes_from: Option<Lsn>,
}

impl WireReading {
    pub(super) fn begin(connection: &Connection, cx: &Cx) -> Result<Self, SourceError> {
        let mut server = Entered::enter(connection, cx)?;
        let mut sender = replication::Session::enter(connection, cx)?;
        same_server(&mut server.session, &server.facts, &mut sender)?;
        let started = server.clock()?;
        let options =
            BaseBackupOptions { label: LABEL.into(), checkpoint: Checkpoint::Fast, wal: BackupWal::Included };
        let backup = sender.base_backup(&options, cx)?;
        let on = connection.shown();
        cx.progress().begin("backing up", on.clone(), backup.size());
        let tablespaces = backup.tablespaces().map(|space| {
            let location = space.location.to_str().map(str::to_owned).ok_or_else(|| {
                let what = format!("the place of tablespace {} is not UTF-8", space.oid);
                failed(ErrorCode::Failure, what, None)
            })?;
            Ok(Tablespace { oid: space.oid, location })
        });
        let tablespaces = tablespaces.collect::<Result<_, SourceError>>()?;
        let (start, facts) = (backup.start(), &server.facts);
        let pages =
            Pages::new(facts.block_size, facts.relation_segment_blocks, facts.data_checksums, start.lsn);
        let arrivals = Arrivals::begin(backup).map_err(|error| {
            failed(ErrorCode::Failure, format!("cannot start a thread that receives: {error}"), None)
        })?;
        Ok(Self {
            server,
            start,
            started,
            arrivals,
            tablespaces,
            pages: Arc::new(pages),
            sums: Arc::default(),
            log: Arc::default(),
            counts: Counts::default(),
            came: BTreeSet::new(),
            above: BTreeMap::new(),
            after: None,
            manifest: Vec::new(),
            finished: None,
            segments: None,
            late: Vec::new().into_iter(),
            on,
        })
    }

    /// What becomes of something that came; nothing if it is not kept.
    fn item(&mut self, came: BackupEntry, n: u64) -> Result<Option<Item>, SourceError> {
        let Some(place) = place(&came) else {
            if came.kind == BackupEntryKind::File {
                // The manifest has it all the same.
                let content = lock(&self.arrivals).read_whole(MAX_SMALL_BYTES).map_err(broke_off)?;
                self.sums.add(came.path.as_bytes(), &content, 0);
            }
            return Ok(None);
        };
        let path = TreePath::parse(place).map_err(|error| bad(error.to_string()))?;
        if !self.came.insert(path.clone()) {
            return Err(bad(format!("`{path}` came twice")));
        }
        let attributes = attributes(&came);
        if came.kind != BackupEntryKind::File {
            self.above.entry(came.tablespace).or_insert_with(|| attributes.clone());
            return Ok(Some(Item {
                entry: Entry { path, kind: EntryKind::Directory, attributes },
                content: None,
            }));
        }
        let content = Arriving { arrivals: Arc::clone(&self.arrivals), entry: n };
        let (cut, reader) = self.reader(&came, &path, content)?;
        let name = match came.tablespace {
            Some(oid) => [format!("pg_tblspc/{oid}/").as_bytes(), came.path.as_bytes()].concat(),
            None => came.path.as_bytes().to_vec(),
        };
        let reader = Summed::new(reader, &self.sums, name, attributes.modified.seconds);
        let entry = Entry { path, kind: EntryKind::File { size: came.bytes }, attributes };
        Ok(Some(Item { entry, content: Some(Content { cut, reader: Box::new(reader) }) }))
    }

    /// How a file is cut and read.
    fn reader(
        &mut self,
        came: &BackupEntry,
        path: &TreePath,
        content: Arriving,
    ) -> Result<(Cut, Box<dyn ReadContent>), SourceError> {
        let plain = |content| Ok((Cut::Files, Box::new(WireFile { content }) as Box<dyn ReadContent>));
        let path = path.as_bytes();
        if path == b"stop/pg_control" {
            let control = lock(&self.arrivals).read_whole(MAX_SMALL_BYTES).map_err(broke_off)?;
            let is_ours = Control::parse(&control)
                .is_some_and(|control| control.system_id == self.server.facts.system_id);
            if !is_ours {
                return Err(bad("its pg_control is of another cluster".into()));
            }
            return Ok((Cut::Files, Box::new(Bytes(Cursor::new(control)))));
        }
        if let Some(name) = path.strip_prefix(b"wal/") {
            let name = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
            let Some(WalName::Segment(name)) = name else { return plain(content) };
            if self.after.is_none() {
                // The log follows right after the end of the backup.
                let mut look = || Ok((self.server.clock()?, self.server.databases()?));
                self.after = Some(look().map_err(ended_in_the_middle)?);
            }
            let facts = &self.server.facts;
            let expected = Expected {
                system_id: facts.system_id,
                segment_size: facts.segment_size,
                page_bytes: facts.wal_block_size,
                start: name
                    .start(facts.segment_size)
                    .ok_or_else(|| bad(format!("{name} is the name of no segment")))?,
                // Where the backup ended is told after all of the log.
                until: Lsn(u64::MAX),
                zeroes_from: None,
            };
            let seen = SeenSegment { name, bytes: 0, bad: None, zeroes_from: None };
            let reader = WireSegment { content, expected, seen: Some(seen), log: Arc::clone(&self.log) };
            return Ok((Cut::Files, Box::new(reader)));
        }
        self.counts.n_files += u64::from(!path.starts_with(b"stop/"));
        self.counts.bytes += came.bytes;
        let path = came.path.as_bytes();
        let (directory, name) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&b""[..], path),
        };
        let holds = match came.tablespace {
            Some(_) => names::holds_relations_of_space(directory),
            None => names::holds_relations(directory),
        };
        let Some(relation) = RelationFile::parse(name).filter(|_| holds) else { return plain(content) };
        let pages = Arc::clone(&self.pages);
        let cut = Cut::Pages(pages.page_bytes);
        let reader = WireRelation { content, pages, relation, path: self.shown(came), at: 0 };
        Ok((cut, Box::new(reader)))
    }

    /// Where a file is on the server, as far as we may know.
    fn shown(&self, came: &BackupEntry) -> PathBuf {
        let space = self.tablespaces.iter().find(|space| Some(space.oid) == came.tablespace);
        let base = match space {
            Some(space) => PathBuf::from(&space.location),
            None => self.server.facts.data_directory.clone().unwrap_or_default(),
        };
        base.join(OsStr::from_bytes(came.path.as_bytes()))
    }

    /// The log from start to stop, of which all must have come.
    fn log(&self, stop: WalPosition) -> Result<Vec<SegmentName>, SourceError> {
        let size = self.server.facts.segment_size;
        let needed = segments(self.start.lsn, stop.lsn, stop.timeline, size);
        let came = lock(&self.log);
        for name in &needed {
            let lacks = |why: &str| {
                let what =
                    format!("the base backup came without the log that it needs: segment {name} {why}");
                failed(ErrorCode::Failure, what, Some(HOLD.into()))
            };
            let Some(seen) = came.iter().find(|seen| seen.name == *name) else {
                return Err(lacks("did not come"));
            };
            if seen.bytes != size.bytes() {
                return Err(lacks(&format!("came with {} bytes and not {}", seen.bytes, size.bytes())));
            }
            // A segment before the last may have been ended early, and the last may not have been written to its end.
            if sabotage::on("sent-log-unchecked") {
                continue;
            }
            let is_last = Some(name) == needed.last();
            let bad = seen.bad.as_ref().filter(|(at, _)| !is_last || *at < stop.lsn);
            if let Some((_, why)) = bad {
                return Err(lacks(why));
            }
            if let Some(zeroes) = seen.zeroes_from.filter(|zeroes| is_last && *zeroes < stop.lsn) {
                return Err(lacks(&format!("does not hold the log at {zeroes}")));
            }
        }
        Ok(needed)
    }

    /// What is made here, in path order.
    fn last_items(&self, stop: WalPosition) -> Result<Vec<Item>, SourceError> {
        let facts = &self.server.facts;
        let above = |space| self.above.get(&space).or(self.above.get(&None)).cloned();
        let Some(own) = above(None) else { return Err(bad("it has no directory".into())) };
        let mut items = Items::beside(own.clone());
        items.directory("data")?;
        if !self.tablespaces.is_empty() {
            items.directory("spaces")?;
        }
        items.directory("stop")?;
        let log = WalRange { timeline: stop.timeline, start: self.start.lsn, stop: stop.lsn };
        let sums = self.sums.to_json(facts.system_id, facts.version_num, &log);
        items.bytes(&format!("stop/{}", backup_manifest::NAME), sums)?;
        items.directory("wal")?;
        let mut items = items.items;
        for space in &self.tablespaces {
            let mut of_space = Items::beside(above(Some(space.oid)).unwrap_or_else(|| own.clone()));
            of_space.directory(&format!("spaces/{}", space.oid))?;
            items.append(&mut of_space.items);
        }
        // The server sends this one only where there was something to mark.
        let mut marks = Items::beside(own);
        marks.directory("wal/archive_status")?;
        items.append(&mut marks.items);
        items.retain(|item| !self.came.contains(&item.entry.path));
        Ok(items)
    }
}

impl Reading for WireReading {
    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        while self.finished.is_none() {
            let arrived = lock(&self.arrivals).next();
            match arrived.map_err(broke_off)? {
                Arrived::Entry(came, n) => {
                    if let Some(item) = self.item(came, n)? {
                        return Ok(Some(item));
                    }
                }
                Arrived::Manifest(json) => self.manifest = json,
                Arrived::End(finished) => self.finished = Some(finished),
            }
        }
        Ok(self.late.next())
    }

    fn comes_in_path_order(&self) -> bool {
        false
    }

    fn go_on(&mut self) -> Result<bool, SourceError> {
        if self.segments.is_some() {
            return Ok(false);
        }
        let Some(FinishedBackup { stop, .. }) = self.finished else {
            return Err(again("the base backup was not read to its end".into()));
        };
        if stop.timeline != self.start.timeline {
            return Err(went_over(self.start.timeline, stop.timeline));
        }
        let compared = self.sums.compare(&self.manifest);
        if let Err(why) = compared
            && !sabotage::on("server-manifest-ignored")
        {
            let advice =
                "run the backup again; if it happens again, look at memory and network of both machines";
            return Err(failed(
                ErrorCode::VerificationFailed,
                format!("the base backup did not come as it was sent: {why}"),
                Some(advice.into()),
            ));
        }
        self.segments = Some(self.log(stop)?);
        self.late = self.last_items(stop)?.into_iter();
        Ok(true)
    }

    fn finish(self: Box<Self>) -> Result<Finished, SourceError> {
        let (Some(FinishedBackup { stop, has_bad_pages }), Some(segments), Some((stopped, databases))) =
            (self.finished, &self.segments, &self.after)
        else {
            return Err(failed(ErrorCode::Failure, "the base backup was not ended".into(), None));
        };
        let mut problems = Vec::new();
        if has_bad_pages && self.pages.bad(stop.lsn).0 == 0 {
            let what = "the server found pages whose checksum is wrong, which came right; its log says which";
            let advice = "look at the server's log and at its disk";
            problems.push(Problem::new("bad-page", &self.on, what).advise(advice));
        }
        let facts = &self.server.facts;
        let said = notes(facts, self.server.no_slot.as_ref(), None, &self.on);
        let whole = Whole {
            facts,
            timeline: stop.timeline,
            start: self.start.lsn,
            started: self.started,
            stop: stop.lsn,
            stopped: *stopped,
            segments,
            tablespaces: self.tablespaces.clone(),
            databases,
            counts: self.counts,
            pages: &self.pages,
            read_whole: self.started,
            n_files_not_read: 0,
            on: self.on.clone(),
        };
        whole.finish(problems, said)
    }
}

/// Sees that both connections lead to one server: a name may lead to several, and to another one after a failover.
pub(super) fn same_server(
    session: &mut Session,
    facts: &Facts,
    sender: &mut replication::Session,
) -> Result<(), SourceError> {
    let system = sender.identify()?.system;
    let sql = "SELECT 1::text FROM pg_stat_activity WHERE pid = $1::int AND backend_type = 'walsender'";
    let process = sender.process_id().to_string();
    let is_there = session.value("look at", sql, &[&process])?.is_some();
    if (system == facts.system_id && is_there) || sabotage::on("any-sender") {
        return Ok(());
    }
    let what = "the connection for replication leads to another server than the one for SQL".to_owned();
    let advice = "name one server in the connection, and no pool or balancer before several";
    Err(failed(ErrorCode::Forbidden, what, Some(advice.into())))
}

/// Where something stands in the snapshot; nothing if it is not kept.
fn place(came: &BackupEntry) -> Option<Vec<u8>> {
    let path = came.path.as_bytes();
    let below = |directory: &str, path: &[u8]| Some([directory.as_bytes(), path].concat());
    if let Some(oid) = came.tablespace {
        return below(&format!("spaces/{oid}/"), path);
    }
    match (came.kind, path) {
        // A restore makes links of its own.
        (BackupEntryKind::TablespaceLink(_), _) => None,
        (BackupEntryKind::File, b"backup_label" | b"tablespace_map") => below("stop/", path),
        (BackupEntryKind::File, b"global/pg_control") => below("stop/", b"pg_control"),
        // They say what the server that was read was about to do. A copy must not follow its primary by itself.
        (BackupEntryKind::File, b"standby.signal" | b"recovery.signal") => None,
        (BackupEntryKind::File, _) if path.starts_with(b"pg_wal/") => below("", &path[3..]),
        (BackupEntryKind::File | BackupEntryKind::Directory, _) => below("data/", path),
    }
}

/// It never looks unchanged to the next backup: see [`walk::attributes`](super::walk::attributes).
fn attributes(came: &BackupEntry) -> Attributes {
    let seconds = i64::try_from(came.modified).unwrap_or_default();
    Attributes {
        mode: came.mode,
        uid: came.uid,
        gid: came.gid,
        modified: FileTime { seconds, nanoseconds: 0 },
        changed: FileTime::default(),
        inode: 0,
        xattrs: Vec::new(),
    }
}

fn bad(why: String) -> SourceError {
    ReplicationError::BadArchive { why }.into()
}

/// It broke off in the middle.
fn broke_off(error: ReplicationError) -> SourceError {
    match SourceError::from(error) {
        SourceError::Failed { code, what, advice: None } => {
            SourceError::Failed { code, what, advice: Some(AGAIN.into()) }
        }
        error => error,
    }
}

fn broken(error: &ReplicationError) -> ContentError {
    let advice = error.advice().unwrap_or_else(|| AGAIN.into());
    ContentError::Broken { what: error.to_string(), advice: Some(advice) }
}

/// A file as it comes.
struct WireFile {
    content: Arriving,
}

impl ReadContent for WireFile {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Stretch, ContentError> {
        self.content.read(buffer).map(stretch).map_err(|error| broken(&error))
    }
}

/// A file of a relation as it comes.
struct WireRelation {
    content: Arriving,
    pages: Arc<Pages>,
    relation: RelationFile,
    path: PathBuf,
    at: u64,
}

impl ReadContent for WireRelation {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Stretch, ContentError> {
        let whole = read::whole_pages(buffer, self.pages.page_bytes)?;
        let n = self.content.read(whole).map_err(|error| broken(&error))?;
        if self.pages.checked {
            // The server has read it again already; it comes once.
            let mut again = |page: &mut [u8], block, _| Ok(page::look(page, block));
            let path = || self.path.clone();
            self.pages.check(self.relation, &path, self.at, &mut whole[..n], &mut again)?;
        }
        self.at += n as u64;
        Ok(stretch(n))
    }
}

/// A segment of the log as it comes.
struct WireSegment {
    content: Arriving,
    expected: Expected,
    seen: Option<SeenSegment>,
    log: Arc<Mutex<Vec<SeenSegment>>>,
}

impl ReadContent for WireSegment {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Stretch, ContentError> {
        let page_bytes = self.expected.page_bytes;
        let whole = read::whole_pages(buffer, page_bytes)?;
        let n = self.content.read(whole).map_err(|error| broken(&error))?;
        let Some(seen) = &mut self.seen else { return Ok(Stretch::End) };
        for page in whole[..n].chunks(page_bytes as usize) {
            if seen.bad.is_none()
                && let Err(why) = self.expected.look(seen.bytes, page)
            {
                seen.bad = Some((Lsn(self.expected.start.0 + seen.bytes), why));
            }
            seen.bytes += page.len() as u64;
        }
        if n == 0
            && let Some(mut seen) = self.seen.take()
        {
            seen.zeroes_from = self.expected.zeroes_from;
            lock(&self.log).push(seen);
        }
        Ok(stretch(n))
    }
}
