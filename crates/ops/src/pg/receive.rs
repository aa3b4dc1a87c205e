//! Receives a cluster's log as it is written, and keeps it: each segment as soon as it is whole, and every moment what came of
//! the one under way (`parts`).
//!
//! The server is told that something is flushed once it is durable in the repository, and not before: its slot holds everything
//! else, and a commit that waits for us (`synchronous_standby_names`) survives the loss of the server.
//!
//! `follow` knows connections and timelines, the archive knows what is kept; this module brings them together.

use super::parts::Parts;
use super::slot_of;
use crate::OpsError;
use crate::pitr::cluster::KeptCluster;
use hikae_model::{
    Advise, Bytes, Cx, ErrorCode, Lsn, SegmentHeader, SegmentName, SegmentSize, SystemId, Timeline, WalName,
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
    /// How often what came of a segment is made durable, while something comes.
    pub every: Option<Duration>,
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
    /// Parts of segments that were stored before these were whole.
    pub n_parts: u64,
    /// Their length in the repository, as long as they were there.
    pub part_bytes: u64,
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

    let archive = WalArchive::of(repo);
    let mut sink = ArchiveSink {
        archive: &archive,
        parts: Parts::new(&archive, system, cx),
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
    let (usual, fresh) = (Retry::default(), FollowOptions::of(connection.clone()));
    let how = FollowOptions {
        slot: Some(slot.clone()),
        system: Some(system),
        start: Start::Slot,
        until: options.until,
        partial_interval: options.every.unwrap_or(fresh.partial_interval),
        retry: Retry { budget: options.patience.unwrap_or(usual.budget), ..usual },
        ..fresh
    };
    let end = match follow(&how, &mut sink, cx) {
        Ok(end) => end,
        Err(ReplicationError::NotKept(why)) => match sink.failure.take() {
            // It was stopped while something was stored: that comes again.
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
        n_parts: sink.parts.n_stored,
        part_bytes: sink.parts.stored_bytes,
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

/// Keeps segments, parts of them and histories in the archive.
struct ArchiveSink<'a> {
    archive: &'a WalArchive,
    parts: Parts<'a>,
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
    fn push(&self, name: WalName, bytes: &[u8]) -> Result<Pushed, OpsError> {
        Ok(self.archive.push(self.system, name, &mut &*bytes)?)
    }

    fn keep_segment(&mut self, segment: SegmentName, bytes: &[u8]) -> Result<Pushed, OpsError> {
        self.is_what_it_says(segment, bytes)?;
        self.parts.check(segment, bytes)?;
        let pushed = self.push(segment.into(), bytes)?;
        self.parts.give_up(segment);
        Ok(pushed)
    }

    fn keep_part(&mut self, segment: SegmentName, bytes: &[u8]) -> Result<(), OpsError> {
        if bytes.len() < SegmentHeader::BYTES {
            return Ok(()); // no record is in it, and nobody could say whose it is
        }
        self.is_what_it_says(segment, bytes)?;
        self.parts.keep(segment, bytes)?;
        self.durable = segment.start(self.size).map(|start| Lsn(start.0 + bytes.len() as u64));
        Ok(())
    }

    /// What a stream is told of a failure, which is kept for who reads of it.
    fn or_end<T>(&mut self, kept: Result<T, OpsError>) -> Result<T, SinkError> {
        kept.map_err(|error| {
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
        let kept = self.keep_segment(segment, bytes);
        let said = match self.or_end(kept)? {
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

    fn partial(&mut self, segment: SegmentName, bytes: &[u8]) -> Result<(), SinkError> {
        let kept = self.keep_part(segment, bytes);
        self.or_end(kept)
    }

    fn history(&mut self, timeline: Timeline, text: &[u8]) -> Result<(), SinkError> {
        let kept = self.push(WalName::History(timeline), text);
        self.or_end(kept).map(drop)
    }

    fn durable(&mut self) -> Option<Lsn> {
        self.durable
    }
}
