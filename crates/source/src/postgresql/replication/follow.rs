//! Follows the write-ahead log of a server: over timelines, broken connections and restarts of the server.

use super::assembler::SegmentAssembler;
use super::error::ReplicationError;
use super::health::slot_health;
use super::retry::{Patience, Retry};
use super::session::{Identity, NextTimeline, Session, Streaming};
use super::sink::WalSink;
use super::slot::SlotName;
use super::stream::{Standing, WalEvent, WalStream};
use crate::postgresql::connection::Connection;
use hikae_model::{Cx, Lsn, SegmentSize, SystemId, Timeline, TimelineHistory, sabotage};
use std::time::Duration;

/// How much later than it is due what came of a segment is given to the sink while more is coming in.
const GATHERING: Duration = Duration::from_millis(250);

/// What is followed, and how.
#[derive(Clone)]
pub struct FollowOptions {
    /// How to enter the server. Its database serves to find the password, and to look at the slot of a server before 15.
    pub connection: Connection,
    /// The slot that keeps WAL for us.
    pub slot: Option<SlotName>,
    /// The cluster that it has to be; the first one that answers if nobody says.
    pub system: Option<SystemId>,
    /// Where to begin.
    pub start: Start,
    /// Ends once everything before this place has come.
    pub until: Option<Lsn>,
    /// How often what came of a segment is given to the sink, while something comes. What comes after a time without is given
    /// at once.
    pub partial_interval: Duration,
    /// How long a server may say nothing before the connection is given up.
    pub silence: Duration,
    /// How a connection that broke is made anew.
    pub retry: Retry,
}

/// Where to begin. A stream always begins at the start of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Here: behind what is kept already.
    At(WalPosition),
    /// At the oldest WAL that the slot keeps.
    Slot,
    /// Where the server is.
    Now,
}

/// A place on a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalPosition {
    /// The timeline.
    pub timeline: Timeline,
    /// The place.
    pub lsn: Lsn,
}

impl FollowOptions {
    /// All by default.
    pub fn of(connection: Connection) -> Self {
        Self {
            connection,
            slot: None,
            system: None,
            start: Start::Now,
            until: None,
            partial_interval: Duration::from_secs(1),
            silence: Duration::from_secs(30),
            retry: Retry::default(),
        }
    }
}

/// Gives `sink` the WAL of a server, whole segments and what came of the last one, until everything before
/// [`FollowOptions::until`] was given or the work is cancelled. Both are a good end: says how far it came.
///
/// # Errors
/// [`ReplicationError`]: nothing can be followed, or not in [`Retry::budget`]; what came does not fit together; the sink
/// cannot keep it.
pub fn follow(
    options: &FollowOptions,
    sink: &mut dyn WalSink,
    cx: &Cx,
) -> Result<Option<WalPosition>, ReplicationError> {
    let mut follower = Follower {
        options,
        sink,
        cx,
        system: options.system,
        assembler: None,
        given: Lsn(0),
        given_at: cx.elapsed(),
        patience: Patience::new(options.retry),
    };
    loop {
        let ended = follower.connect_and_follow();
        let failure = match ended {
            Ok(()) | Err(ReplicationError::Cancelled) => break,
            Err(error) if error.may_pass() => error,
            Err(error) => return Err(error),
        };
        // What came before the connection broke is not to wait for the next one.
        follower.give_partial()?;
        match follower.patience.wait(failure, cx) {
            Err(ReplicationError::Cancelled) => break,
            waited => waited?,
        }
    }
    follower.give_partial()?;
    Ok(follower.position())
}

struct Follower<'a> {
    options: &'a FollowOptions,
    sink: &'a mut dyn WalSink,
    cx: &'a Cx,
    system: Option<SystemId>,
    assembler: Option<SegmentAssembler>,
    /// What of the segment under way the sink was given last.
    given: Lsn,
    given_at: Duration,
    patience: Patience,
}

impl Follower<'_> {
    fn position(&self) -> Option<WalPosition> {
        let assembler = self.assembler.as_ref()?;
        Some(WalPosition { timeline: assembler.timeline(), lsn: assembler.position() })
    }

    /// One connection, from its beginning to its end.
    fn connect_and_follow(&mut self) -> Result<(), ReplicationError> {
        let mut session = Session::enter(&self.options.connection, self.cx)?;
        let identity = session.identify()?;
        let expected = *self.system.get_or_insert(identity.system);
        if identity.system != expected && !sabotage::on("any-cluster-followed") {
            return Err(ReplicationError::OtherCluster { expected, found: identity.system });
        }
        let size = session.segment_size()?;
        let mut assembler = match self.assembler.take() {
            Some(assembler) => assembler,
            None => self.begin(&mut session, identity, size)?,
        };
        assembler.begin_anew();
        self.assembler = Some(assembler);
        self.catch_up(&mut session, identity.timeline)?;
        loop {
            let Some(assembler) = &self.assembler else { return Ok(()) };
            let (slot, timeline, start) =
                (self.options.slot.as_ref(), assembler.timeline(), assembler.start());
            let next;
            (session, next) = match session.stream(slot, timeline, start, self.cx)? {
                Streaming::Ended(session, next) => (session, next),
                Streaming::Runs(mut stream) => {
                    stream.set_silence(self.options.silence);
                    if self.pump(&mut stream)? == Pumped::Enough {
                        return Ok(());
                    }
                    stream.finish(self.cx)?
                }
            };
            self.go_on(&mut session, next)?;
        }
    }

    /// Finds where to begin.
    fn begin(
        &mut self,
        session: &mut Session,
        identity: Identity,
        size: SegmentSize,
    ) -> Result<SegmentAssembler, ReplicationError> {
        let begin = match self.options.start {
            Start::At(position) => position,
            Start::Slot => self.oldest(session, identity)?,
            Start::Now => WalPosition { timeline: identity.timeline, lsn: identity.flushed },
        };
        let WalPosition { timeline, lsn: at } = begin;
        if timeline > identity.timeline {
            return Err(ReplicationError::OtherHistory { timeline, at, now: identity.timeline });
        }
        if timeline != Timeline::FIRST {
            self.keep_history(session, timeline)?;
        }
        Ok(SegmentAssembler::begin(timeline, at, size))
    }

    fn oldest(&mut self, session: &mut Session, identity: Identity) -> Result<WalPosition, ReplicationError> {
        let Some(slot) = &self.options.slot else { return Err(ReplicationError::NoSlotNamed) };
        let (restart, timeline) = if session.server_version_num() >= 150_000 {
            let state = session.read_slot(slot)?;
            (state.restart, state.timeline)
        } else {
            (slot_health(&self.options.connection, slot, self.cx)?.restart, None)
        };
        // A server serves one that it has given up as if it were new (seen with 15): what is missing would not show.
        let lost = || ReplicationError::SlotLost { slot: slot.clone(), why: "it keeps no WAL".into() };
        let lsn = restart.ok_or_else(lost)?;
        let timeline = match timeline {
            Some(timeline) => timeline,
            None if identity.timeline == Timeline::FIRST => Timeline::FIRST,
            None => session.timeline_history(identity.timeline)?.history.timeline_at(lsn),
        };
        Ok(WalPosition { timeline, lsn })
    }

    fn keep_history(
        &mut self,
        session: &mut Session,
        timeline: Timeline,
    ) -> Result<TimelineHistory, ReplicationError> {
        let file = session.timeline_history(timeline)?;
        self.sink.history(timeline, &file.text).map_err(ReplicationError::NotKept)?;
        Ok(file.history)
    }

    /// Takes what comes until the timeline ends, or there is enough.
    fn pump(&mut self, stream: &mut WalStream) -> Result<Pumped, ReplicationError> {
        let cx = self.cx;
        loop {
            let Some(assembler) = &mut self.assembler else { return Ok(Pumped::Enough) };
            match stream.next(cx)? {
                WalEvent::Nothing => {}
                WalEvent::End => return Ok(Pumped::EndOfTimeline),
                WalEvent::Data { at, bytes } => {
                    let sink = &mut *self.sink;
                    let given_at = &mut self.given_at;
                    assembler.push(at, bytes, |segment, bytes| {
                        *given_at = cx.elapsed();
                        sink.segment(segment, bytes).map_err(ReplicationError::NotKept)
                    })?;
                    self.patience.renew();
                }
            }
            let position = assembler.position();
            let is_enough = self.options.until.is_some_and(|until| position >= until);
            let is_cancelled = cx.check().is_err();
            let waited = cx.elapsed().saturating_sub(self.given_at);
            // While more is there already the segment soon is whole, or the part longer.
            let longest =
                self.options.partial_interval + if stream.has_more() { GATHERING } else { Duration::ZERO };
            let is_due = waited >= longest;
            if is_due || is_enough || is_cancelled || stream.is_asked() {
                self.give_partial()?;
            }
            stream.report(self.standing(position));
            if is_enough || is_cancelled {
                stream.tell(cx)?;
                return Ok(Pumped::Enough);
            }
        }
    }

    /// What the server may know: it drops what we call flushed.
    fn standing(&mut self, written: Lsn) -> Standing {
        let durable = self.sink.durable().unwrap_or(Lsn(0)).min(written);
        let flushed = if sabotage::on("flushed-before-durable") { written } else { durable };
        Standing { written, flushed }
    }

    /// Gives the sink what came of the segment under way, if anything did since it was given last.
    fn give_partial(&mut self) -> Result<(), ReplicationError> {
        let Some(assembler) = &self.assembler else { return Ok(()) };
        let (segment, bytes) = assembler.partial();
        if !bytes.is_empty() && assembler.position() != self.given {
            self.given_at = self.cx.elapsed();
            self.sink.partial(segment, bytes).map_err(ReplicationError::NotKept)?;
            self.given = assembler.position();
        }
        Ok(())
    }

    /// Turns to the timeline with which the server went on.
    fn go_on(&mut self, session: &mut Session, next: NextTimeline) -> Result<(), ReplicationError> {
        self.give_partial()?;
        let history = self.keep_history(session, next.timeline)?;
        let Some(assembler) = &mut self.assembler else { return Ok(()) };
        let old = assembler.timeline();
        if history.end_of(old) != Some(next.begins) {
            let why = format!(
                "timeline {old} ends at {}, and not by the history of timeline {}",
                next.begins, next.timeline
            );
            return Err(ReplicationError::Protocol { doing: "go on with the next timeline", why });
        }
        let position = assembler.position();
        assembler.go_on(next.timeline, next.begins)?;
        self.given = next.begins;
        let what =
            format!("timeline {old} came up to {position}, {} goes on from {}", next.timeline, next.begins);
        self.cx.tell("timeline", &self.options.connection.shown(), what);
        Ok(())
    }

    /// The server may have been promoted while we were not there, at a place before what we have. It then sends nothing of
    /// the old timeline.
    fn catch_up(&mut self, session: &mut Session, now: Timeline) -> Result<(), ReplicationError> {
        loop {
            let Some(assembler) = &self.assembler else { return Ok(()) };
            let old = assembler.timeline();
            if old == now {
                return Ok(());
            }
            // One that is on an older timeline was left behind when another was promoted.
            let history = if old < now { Some(session.timeline_history(now)?.history) } else { None };
            let followed = history.and_then(|history| Some((history.end_of(old)?, history.after(old)?)));
            let Some((begins, timeline)) = followed else {
                let at = assembler.position();
                return Err(ReplicationError::OtherHistory { timeline: old, at, now });
            };
            if begins >= assembler.start() {
                return Ok(());
            }
            self.go_on(session, NextTimeline { timeline, begins })?;
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pumped {
    EndOfTimeline,
    Enough,
}
