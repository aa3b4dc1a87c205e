//! PostgreSQL's streaming replication: its write-ahead log as it is written, and base backups over the wire.
//!
//! ```text
//! Session            a connection in replication mode: who the server is, slots, histories of timelines
//!   .stream(..)      WalStream: places and bytes of WAL, the server's keepalives; our standing goes back
//!   .base_backup(..) BaseBackup: the files of a cluster one after the other, and the WAL that makes them whole
//! follow(..)         the stream made into segments for a WalSink; over timelines, broken connections and restarts
//! slot_health(..)    whether a slot still holds what we need, and what bounds it
//! ```
//!
//! - What is reported as flushed is durable with who keeps it: the server drops WAL by that report.
//! - No byte is left out and none is given twice: segments are put together by place, and a hole ends the stream.
//! - What a server sends is hostile until it is parsed: lengths are bounded before memory is taken, names cannot
//!   leave the cluster.
//!
//! Sources: chapters "Streaming Replication Protocol" and "Message Flow" of PostgreSQL's documentation;
//! `src/backend/replication/walsender.c`, `src/bin/pg_basebackup/receivelog.c`. Servers 13 to 18.

mod assembler;
mod base_backup;
mod error;
mod follow;
mod health;
mod message;
mod retry;
mod session;
mod sink;
mod slot;
mod stream;
mod tar;

pub use assembler::{BrokenStream, SegmentAssembler};
pub use base_backup::{
    BackupEntry, BackupEntryKind, BackupPiece, BackupWal, BaseBackup, BaseBackupOptions, Checkpoint,
    FinishedBackup, Tablespace,
};
pub use error::ReplicationError;
pub use follow::{FollowOptions, Start, WalPosition, follow};
pub use health::{SlotHealth, slot_health};
pub use retry::Retry;
pub use session::{HistoryFile, Identity, NextTimeline, Session, Streaming};
pub use sink::{SinkError, WalSink};
pub use slot::{BadSlotName, SlotName, SlotState};
pub use stream::{Standing, WalEvent, WalStream};
