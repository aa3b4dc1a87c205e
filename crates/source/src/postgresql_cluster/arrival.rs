//! A base backup as it arrives: a thread receives it, a few parts ahead of who stores them, so that both go on at once.
//!
//! A file that is not read is passed over. This module knows the order in which things come, and not what they are for.

use crate::postgresql::replication::{
    BackupEntry, BackupPiece, BaseBackup, FinishedBackup, ReplicationError,
};
use crate::postgresql_cluster::lock;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

/// A part of a file, as it is handed over.
const PART_BYTES: usize = 256 << 10;
/// Parts that are received ahead.
const N_PARTS: usize = 16;
/// The longest manifest that is taken: of about five million files.
const MAX_MANIFEST_BYTES: usize = 1 << 30;

enum Part {
    Entry(BackupEntry),
    Bytes(Vec<u8>),
    Manifest,
    End(FinishedBackup),
}

/// What arrived next.
pub(super) enum Arrived {
    /// A file, whose content is read by this number, or a directory or link.
    Entry(BackupEntry, u64),
    /// All of the server's manifest.
    Manifest(Vec<u8>),
    /// Everything came.
    End(FinishedBackup),
}

/// A base backup as it arrives.
pub(super) struct Arrivals {
    parts: Receiver<Result<Part, ReplicationError>>,
    /// The part at hand, and how much of it was read.
    bytes: Vec<u8>,
    used: usize,
    /// What came behind the content at hand.
    ahead: Option<Part>,
    n_entries: u64,
}

impl Arrivals {
    /// Begins to receive. Dropped, it ends the connection.
    pub(super) fn begin(backup: BaseBackup) -> io::Result<Arc<Mutex<Self>>> {
        let (to, parts) = sync_channel(N_PARTS);
        std::thread::Builder::new().name("base-backup".into()).spawn(move || {
            if let Err(error) = receive(backup, &to) {
                // Nobody is there any more to be told.
                let _ = to.send(Err(error));
            }
        })?;
        let arrivals = Self { parts, bytes: Vec::new(), used: 0, ahead: None, n_entries: 0 };
        Ok(Arc::new(Mutex::new(arrivals)))
    }

    /// What arrives next. What was not read of the content at hand is passed over.
    pub(super) fn next(&mut self) -> Result<Arrived, ReplicationError> {
        (self.bytes, self.used) = (Vec::new(), 0);
        loop {
            match self.part()? {
                Part::Bytes(_) => {}
                Part::Entry(entry) => {
                    self.n_entries += 1;
                    return Ok(Arrived::Entry(entry, self.n_entries));
                }
                Part::Manifest => {
                    self.n_entries += 1;
                    return self.read_whole(MAX_MANIFEST_BYTES).map(Arrived::Manifest);
                }
                Part::End(finished) => return Ok(Arrived::End(finished)),
            }
        }
    }

    /// Fills `buffer` from the entry of this number, as far as there is anything; 0 at its end.
    pub(super) fn read(&mut self, entry: u64, buffer: &mut [u8]) -> Result<usize, ReplicationError> {
        if entry != self.n_entries {
            return Err(bad("a file was asked for after the next one".into()));
        }
        let mut n = 0;
        while n < buffer.len() {
            if self.used == self.bytes.len() && !self.turn()? {
                break;
            }
            let more = (buffer.len() - n).min(self.bytes.len() - self.used);
            buffer[n..n + more].copy_from_slice(&self.bytes[self.used..self.used + more]);
            self.used += more;
            n += more;
        }
        Ok(n)
    }

    /// All of the content at hand, which has not begun.
    pub(super) fn read_whole(&mut self, most: usize) -> Result<Vec<u8>, ReplicationError> {
        let mut whole = Vec::new();
        while self.turn()? {
            if whole.len() + self.bytes.len() > most {
                return Err(bad(format!("a file of a few kilobytes has more than {most}")));
            }
            whole.append(&mut self.bytes);
        }
        Ok(whole)
    }

    /// Turns to the next part of the content at hand; false at its end.
    fn turn(&mut self) -> Result<bool, ReplicationError> {
        match self.part()? {
            Part::Bytes(bytes) => {
                (self.bytes, self.used) = (bytes, 0);
                Ok(true)
            }
            next => {
                (self.bytes, self.used) = (Vec::new(), 0);
                self.ahead = Some(next);
                Ok(false)
            }
        }
    }

    fn part(&mut self) -> Result<Part, ReplicationError> {
        match self.ahead.take() {
            Some(part) => Ok(part),
            None => self.parts.recv().unwrap_or_else(|_| Err(bad("its receiver has ended".into()))),
        }
    }
}

/// What is read of one entry.
#[derive(Clone)]
pub(super) struct Arriving {
    pub(super) arrivals: Arc<Mutex<Arrivals>>,
    pub(super) entry: u64,
}

impl Arriving {
    pub(super) fn read(&self, buffer: &mut [u8]) -> Result<usize, ReplicationError> {
        lock(&self.arrivals).read(self.entry, buffer)
    }
}

fn bad(why: String) -> ReplicationError {
    ReplicationError::BadArchive { why }
}

/// Receives everything, until nobody wants it.
fn receive(
    mut backup: BaseBackup,
    to: &SyncSender<Result<Part, ReplicationError>>,
) -> Result<(), ReplicationError> {
    while let Some(piece) = backup.next_piece()? {
        let (begins, mut left) = match piece {
            BackupPiece::Entry(entry) => {
                let bytes = entry.bytes;
                (Part::Entry(entry), usize::try_from(bytes).unwrap_or(usize::MAX))
            }
            BackupPiece::Manifest => (Part::Manifest, usize::MAX),
        };
        if to.send(Ok(begins)).is_err() {
            return Ok(());
        }
        while left > 0 {
            let mut part = vec![0; PART_BYTES.min(left)];
            let mut n = 0;
            while n < part.len() {
                match backup.read(&mut part[n..])? {
                    0 => break,
                    more => n += more,
                }
            }
            if n == 0 {
                break;
            }
            part.truncate(n);
            left -= n;
            if to.send(Ok(Part::Bytes(part))).is_err() {
                return Ok(());
            }
        }
    }
    let _ = to.send(Ok(Part::End(backup.finish()?)));
    Ok(())
}
