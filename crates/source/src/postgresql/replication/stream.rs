//! One stream of WAL: what the server sends, and what we tell it of ourselves.

use super::error::ReplicationError;
pub use super::message::Standing;
use super::message::{self, Message};
use super::session::{NextTimeline, Session, stream_failed};
use super::slot::SlotName;
use crate::postgresql::wire::{Client, CopyMessage, WireError};
use hikae_model::{Cx, Lsn, Timeline};
use std::time::Duration;

const DOING: &str = "follow the write-ahead log";

/// How often the server is told where we stand, unless it asks. It ends a connection after `wal_sender_timeout`, 60 s as a
/// rule.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// How long a server may say nothing before it is given up. At half of it, it is asked whether it lives.
const USUAL_SILENCE: Duration = Duration::from_secs(30);

/// A stream of WAL under way.
pub struct WalStream {
    client: Client,
    slot: Option<SlotName>,
    timeline: Timeline,
    from: Lsn,
    standing: Standing,
    told: Standing,
    told_at: Duration,
    must_answer: bool,
    /// How long we have waited for a word.
    waited: Duration,
    asked: bool,
    silence: Duration,
    end: Lsn,
    ended: bool,
}

/// What happens on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalEvent<'a> {
    /// WAL came.
    Data {
        /// The place of its first byte.
        at: Lsn,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// Nothing came for a moment, or only a sign of life.
    Nothing,
    /// The timeline has ended, and all of it was sent. [`WalStream::finish`] says what follows.
    End,
}

impl WalStream {
    pub(super) fn begin(
        client: Client,
        slot: Option<SlotName>,
        timeline: Timeline,
        from: Lsn,
        cx: &Cx,
    ) -> Self {
        Self {
            client,
            slot,
            timeline,
            from,
            standing: Standing::NOTHING,
            told: Standing::NOTHING,
            told_at: cx.elapsed(),
            must_answer: false,
            waited: Duration::ZERO,
            asked: false,
            silence: USUAL_SILENCE,
            end: from,
            ended: false,
        }
    }

    /// Gives the server up when it has said nothing for so long.
    pub fn set_silence(&mut self, silence: Duration) {
        self.silence = silence;
    }

    /// Where the server's own WAL ended when it last said so.
    pub fn server_end(&self) -> Lsn {
        self.end
    }

    /// Whether the server waits for an answer, which goes with the next call of [`next`](Self::next). One that is shut
    /// down waits until everything that it sent is durable here.
    pub fn is_asked(&self) -> bool {
        self.must_answer
    }

    /// Whether more has come already than was given out.
    pub fn has_more(&self) -> bool {
        self.client.has_more()
    }

    /// Sets what the server will be told of us: within a second, when it asks, or with the next call of [`next`](Self::next) if
    /// more is flushed, for a commit may wait for it.
    pub fn report(&mut self, standing: Standing) {
        self.standing = standing;
    }

    /// Tells the server now.
    ///
    /// # Errors
    /// [`ReplicationError`] if the connection broke.
    pub fn tell(&mut self, cx: &Cx) -> Result<(), ReplicationError> {
        self.send_status(false, cx)
    }

    /// Waits a moment for what happens next. Tells the server in between where we stand.
    ///
    /// # Errors
    /// [`ReplicationError`] if the stream broke, the server is silent, or the work was cancelled.
    pub fn next(&mut self, cx: &Cx) -> Result<WalEvent<'_>, ReplicationError> {
        if self.ended {
            return Ok(WalEvent::End);
        }
        let begun = cx.elapsed();
        let is_due = begun.saturating_sub(self.told_at) >= STATUS_INTERVAL;
        if self.waited >= self.silence {
            return Err(ReplicationError::Silent { after: self.waited });
        }
        let must_ask = self.waited * 2 >= self.silence && !self.asked;
        let is_news = self.standing.flushed > self.told.flushed;
        if must_ask || self.must_answer || is_news || (is_due && self.told != self.standing) {
            self.send_status(must_ask, cx)?;
            self.asked |= must_ask;
        }
        // Only fields beside the client are set from here on: it has lent the bytes.
        let (slot, timeline, from) = (self.slot.as_ref(), self.timeline, self.from);
        let failed = |error: WireError| stream_failed(slot, timeline, from, DOING, error);
        let parsed = match self.client.copy_message().map_err(failed)? {
            CopyMessage::Nothing => {
                self.waited += cx.elapsed().saturating_sub(begun);
                return Ok(WalEvent::Nothing);
            }
            CopyMessage::Done => {
                self.ended = true;
                return Ok(WalEvent::End);
            }
            CopyMessage::Data(body) => message::parse(body),
        };
        (self.waited, self.asked) = (Duration::ZERO, false);
        match parsed {
            Some(Message::Data { at, end, bytes }) => {
                self.end = end;
                Ok(WalEvent::Data { at, bytes })
            }
            Some(Message::KeepAlive { end, wants_answer }) => {
                self.end = end;
                self.must_answer |= wants_answer;
                Ok(WalEvent::Nothing)
            }
            None => {
                Err(ReplicationError::Protocol { doing: DOING, why: "a message of an unknown form".into() })
            }
        }
    }

    /// After [`WalEvent::End`]: ends our side too, and learns which timeline follows.
    ///
    /// # Errors
    /// [`ReplicationError`] if the connection broke.
    pub fn finish(mut self, cx: &Cx) -> Result<(Session, NextTimeline), ReplicationError> {
        self.send_status(false, cx)?;
        self.client.end_copy_both().map_err(|error| ReplicationError::of(DOING, error))?;
        let mut session = Session { client: self.client };
        let next = session.next_timeline(DOING)?;
        Ok((session, next))
    }

    fn send_status(&mut self, wants_answer: bool, cx: &Cx) -> Result<(), ReplicationError> {
        let message = message::status(self.standing, cx.now(), wants_answer);
        self.client.send_copy(&message).map_err(|error| ReplicationError::of(DOING, error))?;
        (self.told, self.told_at, self.must_answer) = (self.standing, cx.elapsed(), false);
        Ok(())
    }
}
