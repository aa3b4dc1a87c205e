//! `global/pg_control`: what a cluster says of itself, as far as a backup must know it.
//!
//! ```text
//! system identifier 8 | pg_control version 4 | catalog version 4 | state 4 | (4) | time 8 | checkpoint 8 | its redo 8 | ...
//! ```
//!
//! The beginning is the same from PostgreSQL 11 to 18 (`catalog/pg_control.h`). It is written in place, so one reading
//! may be of two states: who needs it whole reads it until two readings are the same.

use hikae_model::{Lsn, SystemId};
use rustix::fd::BorrowedFd;
use rustix::fs::{OFlags, ResolveFlags};
use std::io::{self, Read as _};
use std::time::Duration;

use crate::files::beneath;

/// Where it stands in the data directory.
pub(super) const PATH: &str = "global/pg_control";
/// How long it may be; PostgreSQL's has 8,192 bytes.
const MAX_BYTES: u64 = 64 << 10;
/// How often it is read before it is taken for one that never holds still.
const MAX_READS: usize = 100;

/// What it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Control {
    pub(super) system_id: SystemId,
    pub(super) catalog_version: u32,
    /// Whether the server was shut down as it should be.
    pub(super) is_shut_down: bool,
    /// When it was last written, in seconds since 1970.
    pub(super) written: i64,
    pub(super) checkpoint: Lsn,
    /// From where that is replayed.
    pub(super) redo: Lsn,
}

impl Control {
    /// Reads what the bytes say; nothing if they are too few.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let long = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        /// `DB_SHUTDOWNED`
        const SHUT_DOWN: u32 = 1;
        Some(Self {
            system_id: SystemId(long(0)?),
            is_shut_down: u32::from_ne_bytes(bytes.get(16..20)?.try_into().ok()?) == SHUT_DOWN,
            catalog_version: u32::from_ne_bytes(bytes.get(12..16)?.try_into().ok()?),
            written: long(24)?.cast_signed(),
            checkpoint: Lsn(long(32)?),
            redo: Lsn(long(40)?),
        })
    }
}

/// Reads it as it is at one moment.
pub(super) fn read(data: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut before = read_once(data)?;
    for _ in 0..MAX_READS {
        std::thread::sleep(Duration::from_millis(1));
        let now = read_once(data)?;
        if now == before {
            return Ok(now);
        }
        before = now;
    }
    Err(io::Error::other("it changes all the time"))
}

fn read_once(data: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let opened = beneath::open(data, PATH.as_bytes(), OFlags::RDONLY, ResolveFlags::empty())?;
    let mut bytes = Vec::new();
    std::fs::File::from(opened).take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_short_says_nothing() {
        assert_eq!(Control::parse(&[0; 47]), None);
        let mut bytes = [0; 48];
        bytes[0] = 7;
        bytes[32] = 9;
        bytes[40] = 8;
        let control = Control::parse(&bytes).unwrap();
        assert_eq!((control.system_id, control.checkpoint, control.redo), (SystemId(7), Lsn(9), Lsn(8)));
    }
}
