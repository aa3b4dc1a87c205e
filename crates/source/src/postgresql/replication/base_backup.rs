//! A base backup over the wire: the files of a cluster, one after the other, as the server sends them.
//!
//! ```text
//! since 15   one COPY: n archive | d bytes .. | n archive | d bytes .. | m manifest | d bytes ..   and p, how far it is
//! before     a COPY for each archive, and one for the manifest
//! ```
//!
//! An archive is the cluster's directory or a tablespace, as tar. It is unpacked here without trusting it: names stay
//! below where they are put, a link stands only for a tablespace that the server named at the beginning and leads only
//! where it said, and nothing is below a link. Files come torn, as they are while they are written; only the WAL up to the
//! end of the backup makes them whole.
//!
//! This module writes nothing. Who does creates each file anew, and follows no link.

use super::error::ReplicationError;
use super::follow::WalPosition;
use super::session::{Session, field, optional, single, timeline_field};
use super::tar::{self, BLOCK, Kind};
use crate::postgresql::wire::{Client, CopyMessage, Row, WireError};
use hikae_model::{Cx, ErrorCode, TreePath, sabotage};
use std::path::PathBuf;
use std::time::Duration;

const DOING: &str = "take a base backup";
/// How long a server may send nothing in the middle of a backup.
const SILENCE: Duration = Duration::from_secs(300);

/// What is asked of the server.
#[derive(Clone, Debug)]
pub struct BaseBackupOptions {
    /// What stands in the cluster's `backup_label`.
    pub label: String,
    /// How the checkpoint is made with which a backup begins.
    pub checkpoint: Checkpoint,
    /// Whether the WAL that makes the backup whole comes with it.
    pub wal: BackupWal,
}

/// How the server makes a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpoint {
    /// At once, with as much I/O as it takes.
    Fast,
    /// Spread over minutes.
    Spread,
}

/// Where the WAL is that makes a base backup whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupWal {
    /// In it.
    Included,
    /// With who streams or archives it. Without that WAL the backup is worth nothing.
    Elsewhere,
}

/// A tablespace of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tablespace {
    /// Its number, which is also the name of its link.
    pub oid: u32,
    /// Where it is on the server.
    pub location: PathBuf,
    /// About how large it is.
    pub bytes: Option<u64>,
}

/// What a base backup brings next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupPiece {
    /// A file, a directory or a link. A file's content is read next.
    Entry(BackupEntry),
    /// The server's `backup_manifest`, whose content is read next. It comes last.
    Manifest,
}

/// A file, a directory or a link of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupEntry {
    /// The tablespace in which it lies; none for the cluster's own directory.
    pub tablespace: Option<u32>,
    /// Where in it.
    pub path: TreePath,
    /// What it is.
    pub kind: BackupEntryKind,
    /// Its permissions.
    pub mode: u32,
    /// Its owner, by the number on the server's machine.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// When it was changed, in seconds since 1970.
    pub modified: u64,
    /// How long its content is.
    pub bytes: u64,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupEntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// The link to the tablespace of this number.
    TablespaceLink(u32),
}

/// How a base backup ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FinishedBackup {
    /// The cluster is consistent once WAL was replayed up to here.
    pub stop: WalPosition,
    /// The server found pages whose checksum is wrong. Its log says which; the files came all the same.
    pub has_bad_pages: bool,
}

/// A base backup under way.
pub struct BaseBackup {
    client: Client,
    cx: Cx,
    /// One COPY holds everything: since 15.
    is_one_copy: bool,
    start: WalPosition,
    /// In the order in which they come; `None` is the cluster's own directory.
    archives: Vec<Option<Tablespace>>,
    base_bytes: Option<u64>,
    /// How many archives have begun.
    n_begun: usize,
    place: Place,
    /// How much of the message at hand, which the client lends, was looked at.
    used: usize,
    /// What was found behind the end of an archive.
    seen: Option<Next>,
    /// What of the entry's content was not yet read, and how much fills its last block up.
    content: u64,
    padding: u64,
    waited: Duration,
}

/// Where in the backup we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Begin,
    Archive,
    /// Behind the last entry of an archive: only zeros follow.
    ArchiveEnd,
    Manifest,
    End,
}

/// What comes next in the stream itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Bytes, which the client lends.
    Bytes,
    Archive,
    Manifest,
    End,
}

impl Session {
    /// Begins a base backup. It lasts until the server has made a checkpoint.
    ///
    /// # Errors
    /// [`ReplicationError`] if the server does not begin one.
    pub fn base_backup(
        mut self,
        options: &BaseBackupOptions,
        cx: &Cx,
    ) -> Result<BaseBackup, ReplicationError> {
        let is_one_copy = self.server_version_num() >= 150_000;
        let command = command(options, is_one_copy)?;
        let failed = |error: WireError| ReplicationError::of(DOING, error);
        // A checkpoint comes first, which may be spread over minutes; and when all was sent, the manifest is made.
        self.client.wait_for_ever();
        self.client.begin_command(&command).map_err(failed)?;
        let row = single(DOING, self.client.next_table().map_err(failed)?)?;
        let start = position(&row)?;
        let mut backup = BaseBackup {
            is_one_copy,
            start,
            archives: Vec::new(),
            base_bytes: None,
            n_begun: 0,
            place: Place::Begin,
            used: 0,
            seen: None,
            content: 0,
            padding: 0,
            waited: Duration::ZERO,
            cx: cx.clone(),
            client: self.client,
        };
        for row in backup.client.next_table().map_err(failed)? {
            backup.add_archive(&row)?;
        }
        if backup.archives.iter().filter(|archive| archive.is_none()).count() != 1 {
            return Err(bad("it has not one directory of the cluster".into()));
        }
        if is_one_copy {
            backup.client.next_copy_out().map_err(failed)?;
        }
        Ok(backup)
    }
}

impl BaseBackup {
    /// From where WAL must be replayed.
    pub fn start(&self) -> WalPosition {
        self.start
    }

    /// The tablespaces besides the cluster's own directory.
    pub fn tablespaces(&self) -> impl Iterator<Item = &Tablespace> {
        self.archives.iter().flatten()
    }

    /// About how many bytes will come.
    pub fn size(&self) -> u64 {
        let spaces = self.tablespaces().filter_map(|space| space.bytes);
        spaces.fold(self.base_bytes.unwrap_or(0), u64::saturating_add)
    }

    /// What comes next; what was not read of the piece before is passed over. `None` after the last.
    ///
    /// # Errors
    /// [`ReplicationError::BadArchive`] for what no server sends; [`ReplicationError`] if the connection broke.
    pub fn next_piece(&mut self) -> Result<Option<BackupPiece>, ReplicationError> {
        self.skip_rest()?;
        loop {
            match self.place {
                Place::End => return Ok(None),
                Place::Archive => match self.next_header()? {
                    Some(entry) => return Ok(Some(BackupPiece::Entry(entry))),
                    None => continue,
                },
                Place::Begin | Place::ArchiveEnd | Place::Manifest => {}
            }
            match self.fill()? {
                Next::Bytes
                    if self.place == Place::ArchiveEnd && self.rest().iter().all(|&byte| byte == 0) =>
                {
                    self.used += self.rest().len();
                }
                Next::Bytes => return Err(bad("something stands behind the end of an archive".into())),
                next => {
                    if self.turn_to(next)? {
                        return Ok(Some(BackupPiece::Manifest));
                    }
                }
            }
        }
    }

    /// Fills `buffer` with the next bytes of the piece at hand; 0 at its end.
    ///
    /// # Errors
    /// As [`next_piece`](Self::next_piece).
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ReplicationError> {
        let n = self.available(buffer.len())?;
        buffer[..n].copy_from_slice(&self.rest()[..n]);
        self.pass(n);
        Ok(n)
    }

    /// Ends the backup, after [`next_piece`](Self::next_piece) gave `None`.
    ///
    /// # Errors
    /// [`ReplicationError`] if not all was read, or the server says at the end that the backup failed.
    pub fn finish(mut self) -> Result<FinishedBackup, ReplicationError> {
        if self.place != Place::End {
            return Err(bad("it was not read to its end".into()));
        }
        let failed = |error: WireError| ReplicationError::of(DOING, error);
        let row = single(DOING, self.client.next_table().map_err(failed)?)?;
        let stop = position(&row)?;
        if stop.lsn < self.start.lsn || stop.timeline < self.start.timeline {
            return Err(bad(format!("it ends at {}, before it began at {}", stop.lsn, self.start.lsn)));
        }
        match self.client.end_command() {
            Ok(_) => Ok(FinishedBackup { stop, has_bad_pages: false }),
            // Everything was sent; the server says so only now.
            Err(error) if error.sqlstate() == Some("XX001") => {
                Ok(FinishedBackup { stop, has_bad_pages: true })
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn add_archive(&mut self, row: &Row) -> Result<(), ReplicationError> {
        // The server counts in KiB.
        let bytes = optional::<u64>(DOING, row, 2)?.map(|kib| kib.saturating_mul(1024));
        let Some(oid) = optional::<u32>(DOING, row, 0)? else {
            self.archives.push(None);
            self.base_bytes = bytes;
            return Ok(());
        };
        let location: String = field(DOING, row, 1)?;
        if self.tablespaces().any(|space| space.oid == oid) {
            return Err(bad(format!("tablespace {oid} comes twice")));
        }
        self.archives.push(Some(Tablespace { oid, location: location.into(), bytes }));
        Ok(())
    }

    /// Turns to what begins next; true for the manifest.
    fn turn_to(&mut self, next: Next) -> Result<bool, ReplicationError> {
        let n_archives = self.archives.len();
        match next {
            Next::Archive if self.n_begun < n_archives && self.place != Place::Manifest => {
                self.n_begun += 1;
                self.place = Place::Archive;
                Ok(false)
            }
            Next::Manifest if self.n_begun == n_archives && self.place != Place::Manifest => {
                self.place = Place::Manifest;
                Ok(true)
            }
            Next::End if self.place == Place::Manifest => {
                self.place = Place::End;
                Ok(false)
            }
            _ => Err(bad(format!("{} of {n_archives} archives came, and then {next:?}", self.n_begun))),
        }
    }

    /// The next entry of the archive; `None` at its end.
    fn next_header(&mut self) -> Result<Option<BackupEntry>, ReplicationError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            if self.rest().is_empty() {
                let next = self.fill()?;
                if next == Next::Bytes {
                    continue;
                }
                if filled > 0 {
                    return Err(bad("an archive ends in the middle of a header".into()));
                }
                // Before 15 an archive has no blocks of zeros at its end.
                self.place = Place::ArchiveEnd;
                self.seen = Some(next);
                return Ok(None);
            }
            let n = (BLOCK - filled).min(self.rest().len());
            block[filled..filled + n].copy_from_slice(&self.rest()[..n]);
            self.used += n;
            filled += n;
        }
        let Some(header) = tar::parse_header(&block).map_err(bad)? else {
            self.place = Place::ArchiveEnd;
            return Ok(None);
        };
        self.content = header.bytes;
        self.padding = header.bytes.next_multiple_of(BLOCK as u64) - header.bytes;
        self.entry(header).map(Some)
    }

    /// An entry, if it may stand where it does.
    fn entry(&self, header: tar::Header) -> Result<BackupEntry, ReplicationError> {
        let tar::Header { path, kind, mode, uid, gid, modified, bytes } = header;
        let tablespace = self.archives[self.n_begun - 1].as_ref().map(|space| space.oid);
        let names: Vec<&[u8]> = path.names().collect();
        // A tablespace comes in an archive of its own: nothing is below its link.
        if tablespace.is_none() && names.len() > 2 && names[0] == b"pg_tblspc" {
            return Err(bad(format!("`{path}` would be written through a link")));
        }
        let kind = match kind {
            Kind::File => BackupEntryKind::File,
            Kind::Directory => BackupEntryKind::Directory,
            Kind::Link(target) => {
                let space = self.tablespaces().find(|space| {
                    names == [b"pg_tblspc".as_slice(), space.oid.to_string().as_bytes()]
                        && (space.location.as_os_str().as_encoded_bytes() == target
                            || sabotage::on("links-lead-anywhere"))
                });
                let space = space.filter(|_| tablespace.is_none()).ok_or_else(|| {
                    bad(format!("`{path}` is a link to `{}`, which is no tablespace", target.escape_ascii()))
                })?;
                BackupEntryKind::TablespaceLink(space.oid)
            }
        };
        Ok(BackupEntry { tablespace, path, kind, mode, uid, gid, modified, bytes })
    }

    /// How many bytes of the piece at hand are there, `most` at the most; 0 at its end.
    fn available(&mut self, most: usize) -> Result<usize, ReplicationError> {
        let wanted = match self.place {
            Place::Manifest => most,
            _ => most.min(usize::try_from(self.content).unwrap_or(usize::MAX)),
        };
        if wanted > 0 && self.rest().is_empty() {
            match self.fill()? {
                Next::Bytes => {}
                next if self.place == Place::Manifest => {
                    self.turn_to(next)?;
                    return Ok(0);
                }
                // The bug would take what is there for the whole file.
                next if sabotage::on("cut-archive-is-whole") => {
                    (self.content, self.padding) = (0, 0);
                    (self.place, self.seen) = (Place::ArchiveEnd, Some(next));
                    return Ok(0);
                }
                _ => return Err(bad("an archive ends in the middle of a file".into())),
            }
        }
        Ok(wanted.min(self.rest().len()))
    }

    /// Passes over bytes that are there.
    fn pass(&mut self, n: usize) {
        self.used += n;
        if self.place != Place::Manifest {
            self.content -= n as u64;
        }
    }

    /// Passes over what was not read of the piece at hand, and what fills its last block up.
    fn skip_rest(&mut self) -> Result<(), ReplicationError> {
        for _ in 0..2 {
            loop {
                match self.available(usize::MAX)? {
                    0 => break,
                    n => self.pass(n),
                }
            }
            self.content = std::mem::take(&mut self.padding);
        }
        Ok(())
    }

    fn rest(&self) -> &[u8] {
        self.client.lent().get(self.used..).unwrap_or_default()
    }

    /// Waits for what comes next. Bytes that are still to be looked at come first.
    fn fill(&mut self) -> Result<Next, ReplicationError> {
        if let Some(seen) = self.seen.take() {
            return Ok(seen);
        }
        while self.rest().is_empty() {
            // Before 15, each archive is announced by a COPY of its own.
            if !self.is_one_copy && self.place == Place::Begin {
                return self.next_copy();
            }
            let begun = self.cx.elapsed();
            let message = self.client.copy_message().map_err(|error| ReplicationError::of(DOING, error))?;
            let bytes = match message {
                CopyMessage::Nothing => {
                    self.waited += self.cx.elapsed().saturating_sub(begun);
                    if self.waited >= SILENCE {
                        return Err(ReplicationError::Silent { after: self.waited });
                    }
                    continue;
                }
                CopyMessage::Done if self.is_one_copy => return Ok(Next::End),
                CopyMessage::Done => return self.next_copy(),
                CopyMessage::Data(bytes) => bytes,
            };
            (self.waited, self.used) = (Duration::ZERO, 0);
            if !self.is_one_copy {
                continue;
            }
            let (kind, length) = (bytes.first().copied(), bytes.len());
            self.used = length;
            match kind {
                Some(b'd') => self.used = 1,
                Some(b'n') => return Ok(Next::Archive),
                Some(b'm') => return Ok(Next::Manifest),
                Some(b'p') => {}
                _ => return Err(bad("a message of an unknown form".into())),
            }
        }
        Ok(Next::Bytes)
    }

    /// Before 15: what the next COPY holds follows from how many there were.
    fn next_copy(&mut self) -> Result<Next, ReplicationError> {
        if self.place == Place::Manifest {
            return Ok(Next::End);
        }
        self.client.next_copy_out().map_err(|error| ReplicationError::of(DOING, error))?;
        Ok(if self.n_begun < self.archives.len() { Next::Archive } else { Next::Manifest })
    }
}

fn bad(why: String) -> ReplicationError {
    ReplicationError::BadArchive { why }
}

fn position(row: &Row) -> Result<WalPosition, ReplicationError> {
    Ok(WalPosition { lsn: field(DOING, row, 0)?, timeline: timeline_field(DOING, row, 1)? })
}

fn command(options: &BaseBackupOptions, is_one_copy: bool) -> Result<String, ReplicationError> {
    if options.label.contains(char::is_control) {
        let why = "its label holds a control character".into();
        return Err(ReplicationError::Refused { doing: DOING, why, code: ErrorCode::Usage, hint: None });
    }
    // Strings of replication commands know doubled quotes, and no backslashes.
    let label = format!("'{}'", options.label.replace('\'', "''"));
    let mut words =
        vec![format!("LABEL {label}"), "PROGRESS".into(), "TABLESPACE_MAP".into(), "MANIFEST 'yes'".into()];
    if options.checkpoint == Checkpoint::Fast {
        words.push(if is_one_copy { "CHECKPOINT 'fast'" } else { "FAST" }.into());
    }
    if options.wal == BackupWal::Included {
        words.push("WAL".into());
    }
    // The server is not to wait for its own archiver: the WAL is in the backup, or comes by our own way.
    words.push(if is_one_copy { "WAIT 0" } else { "NOWAIT" }.into());
    Ok(if is_one_copy {
        format!("BASE_BACKUP ({})", words.join(", "))
    } else {
        format!("BASE_BACKUP {}", words.join(" "))
    })
}
