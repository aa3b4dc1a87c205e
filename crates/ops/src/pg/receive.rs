//! Receives a cluster's log as it is written, and keeps each segment as soon as it is whole.
//!
//! - The server is told that a segment is flushed once it is durable in the repository, and not before: its slot holds
//!   everything else.
//! - What came of a segment that is not whole is not kept. It stays with the server, and comes again with the next call.
//!
//! `follow` knows connections and timelines, the archive knows what is kept; this module brings them together.

use super::slot_of;
use crate::OpsError;
use crate::pitr::cluster::KeptCluster;
use hikae_model::{
    Advise, Bytes, Cx, ErrorCode, Lsn, SegmentHeader, SegmentName, SegmentSize, SystemId, Timeline, WalName,
    sabotage,
};
use hikae_repo::Repo;
use hikae_repo::wal::{Pushed, WalArchive};
use hikae_source::postgresql::Connection;
use hikae_source::postgresql::replication::{
    FollowOptions, ReplicationError, Retry, Session, SinkError, SlotName, Start, WalSink, follow,
};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// What is received, and how.
#[derive(Clone, Debug, Default)]
pub struct ReceiveOptions {
    /// The slot that holds what has not come yet; the source's own by default.
    pub slot: Option<SlotName>,
    /// Make the slot if it is not there.
    pub create_slot: bool,
    /// End once everything before this place has come.
    pub until: Option<Lsn>,
    /// For how long a server that is away is waited for.
    pub patience: Option<Duration>,
}

/// What was received until it was stopped.
#[derive(Clone, Debug, Serialize)]
pub struct ReceiveReport {
    /// The source.
    pub source: String,
    /// The cluster.
    pub system: String,
    /// The slot.
    pub slot: String,
    /// Whether the slot was made.
    pub made_slot: bool,
    /// Segments that were stored.
    pub n_stored: u64,
    /// Their length in the repository.
    pub stored_bytes: u64,
    /// Segments that were there already.
    pub n_known: u64,
    /// The timeline at the end; nothing if nothing came.
    pub timeline: Option<u32>,
    /// How far it came.
    pub received: Option<String>,
    /// The place before which everything is durable in the repository, of what came.
    pub durable: Option<String>,
    /// What came and is not: it is with the server.
    pub pending_bytes: u64,
}

/// Receives the log of the cluster that `connection` leads to, until `cx` is cancelled. That is a good end.
///
/// # Errors
/// [`OpsError`]: the server or the repository cannot go on, or another cluster answers than the source's base backups are of.
pub fn receive(
    repo: &Arc<Repo>,
    source: &str,
    connection: &Connection,
    options: &ReceiveOptions,
    cx: &Cx,
) -> Result<ReceiveReport, OpsError> {
    let failed = |error: ReplicationError| of_stream(source, error);
    let slot = match &options.slot {
        Some(slot) => slot.clone(),
        None => slot_of(source).map_err(|error| {
            OpsError::refused(ErrorCode::Usage, error.to_string(), Some("name one with --slot".into()))
        })?,
    };
    let mut session = Session::enter(connection, cx).map_err(failed)?;
    let system = session.identify().map_err(failed)?.system;
    if let Some(expected) = system_of(repo, source, cx)?.filter(|expected| *expected != system) {
        return Err(failed(ReplicationError::OtherCluster { expected, found: system }));
    }
    let size = session.segment_size().map_err(failed)?;
    let made_slot = options.create_slot && make_slot(&mut session, &slot).map_err(failed)?;
    drop(session);

    let mut sink = ArchiveSink {
        archive: WalArchive::of(repo),
        source,
        system,
        size,
        cx,
        durable: None,
        failure: None,
        n_stored: 0,
        stored_bytes: 0,
        n_known: 0,
    };
    let usual = Retry::default();
    let how = FollowOptions {
        slot: Some(slot.clone()),
        system: Some(system),
        start: Start::Slot,
        until: options.until,
        retry: Retry { budget: options.patience.unwrap_or(usual.budget), ..usual },
        ..FollowOptions::of(connection.clone())
    };
    let end = match follow(&how, &mut sink, cx) {
        Ok(end) => end,
        Err(ReplicationError::NotKept(why)) => match sink.failure.take() {
            // It was stopped while a segment was stored: that one comes again.
            Some(OpsError::Cancelled(_)) => None,
            Some(failure) => return Err(failure),
            None => return Err(failed(ReplicationError::NotKept(why))),
        },
        Err(error) => return Err(failed(error)),
    };
    let pending = end.map(|end| {
        end.lsn.0.saturating_sub(sink.durable.map_or(end.lsn.0 - end.lsn.0 % size.bytes(), |at| at.0))
    });
    Ok(ReceiveReport {
        source: source.to_owned(),
        system: system.to_string(),
        slot: slot.to_string(),
        made_slot,
        n_stored: sink.n_stored,
        stored_bytes: sink.stored_bytes,
        n_known: sink.n_known,
        timeline: end.map(|end| end.timeline.get()),
        received: end.map(|end| end.lsn.to_string()),
        durable: sink.durable.map(|at| at.to_string()),
        pending_bytes: pending.unwrap_or(0),
    })
}

/// The cluster that the source's base backups are of, if there is one.
fn system_of(repo: &Arc<Repo>, source: &str, cx: &Cx) -> Result<Option<SystemId>, OpsError> {
    match KeptCluster::read(repo, source, cx) {
        Ok(cluster) => Ok(Some(cluster.system)),
        Err(OpsError::Refused { code: ErrorCode::Usage, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Says whether it was made now.
fn make_slot(session: &mut Session, slot: &SlotName) -> Result<bool, ReplicationError> {
    match session.create_slot(slot) {
        Ok(()) => Ok(true),
        Err(ReplicationError::SlotExists { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) fn of_stream(source: &str, error: ReplicationError) -> OpsError {
    let advice = match &error {
        ReplicationError::NoSlot { .. } => Some(
            "give --create-slot; if the log was received through it before, take a new base backup then"
                .into(),
        ),
        error => error.advice(),
    };
    OpsError::refused(error.code(), format!("{source}: {}", crate::with_causes(&error)), advice)
}

/// Keeps whole segments and histories in the archive.
struct ArchiveSink<'a> {
    archive: WalArchive,
    source: &'a str,
    system: SystemId,
    size: SegmentSize,
    cx: &'a Cx,
    /// Everything before this that came is durable.
    durable: Option<Lsn>,
    /// Why the last of what came was not kept.
    failure: Option<OpsError>,
    n_stored: u64,
    stored_bytes: u64,
    n_known: u64,
}

impl ArchiveSink<'_> {
    fn keep(&mut self, name: WalName, bytes: &[u8]) -> Result<Pushed, SinkError> {
        let pushed = match name {
            WalName::Segment(segment) => self.is_what_it_says(segment, bytes),
            _ => Ok(()),
        };
        let pushed =
            pushed.and_then(|()| self.archive.push(self.system, name, &mut &*bytes).map_err(OpsError::from));
        pushed.map_err(|error| {
            let said = error.to_string();
            self.failure = Some(error);
            said.into()
        })
    }

    /// Sees that a segment is of this cluster and stands where its name says, as the server itself would.
    fn is_what_it_says(&self, segment: SegmentName, bytes: &[u8]) -> Result<(), OpsError> {
        let unfit = |why: String| {
            let what = format!("{}: segment {segment} came and is none: {why}", self.source);
            let advice = "see that the server and its disk are well; nothing of it was kept";
            OpsError::refused(ErrorCode::VerificationFailed, what, Some(advice.into()))
        };
        let header = SegmentHeader::parse(bytes).map_err(|why| unfit(why.to_string()))?;
        header.check_name(segment).map_err(|why| unfit(why.to_string()))?;
        match header.system == self.system {
            true => Ok(()),
            false => Err(unfit(format!("system {} wrote it", header.system))),
        }
    }
}

impl WalSink for ArchiveSink<'_> {
    fn segment(&mut self, segment: SegmentName, bytes: &[u8]) -> Result<(), SinkError> {
        let end = segment.start(self.size).map(|start| Lsn(start.0.saturating_add(self.size.bytes())));
        let said = match self.keep(segment.into(), bytes)? {
            Pushed::Stored { stored_bytes } => {
                self.n_stored += 1;
                self.stored_bytes += stored_bytes;
                format!("{segment} is durable, {} stored", Bytes(stored_bytes))
            }
            Pushed::AlreadyThere => {
                self.n_known += 1;
                format!("{segment} was there")
            }
        };
        self.durable = end;
        self.cx.tell("segment", self.source, said);
        Ok(())
    }

    /// Keeps nothing: the archive takes each name once, so a part would stand in the way of the whole.
    fn partial(&mut self, segment: SegmentName, bytes: &[u8]) -> Result<(), SinkError> {
        if sabotage::on("received-is-durable") {
            self.durable = segment.start(self.size).map(|start| Lsn(start.0 + bytes.len() as u64));
        }
        Ok(())
    }

    fn history(&mut self, timeline: Timeline, text: &[u8]) -> Result<(), SinkError> {
        self.keep(WalName::History(timeline), text).map(drop)
    }

    fn durable(&mut self) -> Option<Lsn> {
        self.durable
    }
}
