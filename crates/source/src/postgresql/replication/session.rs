//! A connection in replication mode, and its commands.

use super::error::ReplicationError;
use super::slot::{SlotName, SlotState};
use super::stream::WalStream;
use crate::postgresql::connection::Connection;
use crate::postgresql::wire::{Client, Row, WireError};
use hikae_model::{Cx, Lsn, SegmentSize, SystemId, Timeline, TimelineHistory, WalName};
use std::str::FromStr;

/// A connection in replication mode that waits for a command.
pub struct Session {
    pub(super) client: Client,
}

/// Who a server is, and where its WAL ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its cluster.
    pub system: SystemId,
    /// The timeline that it writes, or as a standby replays.
    pub timeline: Timeline,
    /// How far that is durable there.
    pub flushed: Lsn,
}

/// The file of a timeline's history, as the server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryFile {
    /// What it says.
    pub history: TimelineHistory,
    /// Its bytes, for who must keep the file.
    pub text: Vec<u8>,
}

/// The timeline with which a server went on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextTimeline {
    /// Which.
    pub timeline: Timeline,
    /// Where it begins: the first place that is not the old one's.
    pub begins: Lsn,
}

/// What became of asking for a stream.
pub enum Streaming {
    /// It runs.
    Runs(WalStream),
    /// The timeline ended where the stream was to begin.
    Ended(Session, NextTimeline),
}

impl Session {
    /// Enters the server that `connection` names. Its database plays no part, but for finding the password.
    ///
    /// # Errors
    /// [`ReplicationError`] that says what the server or its administrator has to change.
    pub fn enter(connection: &Connection, cx: &Cx) -> Result<Self, ReplicationError> {
        let client = Client::connect_for_replication(connection, cx.cancel())
            .map_err(|error| ReplicationError::entering(connection, error))?;
        Ok(Self { client })
    }

    /// The server's version, as 150013 for 15.13.
    pub fn server_version_num(&self) -> u32 {
        self.client.server_version_num()
    }

    /// The number of the server's process that serves this connection.
    pub fn process_id(&self) -> u32 {
        self.client.process_id()
    }

    /// Whether what is sent is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.client.is_encrypted()
    }

    /// Asks who the server is.
    ///
    /// # Errors
    /// [`ReplicationError`] if it does not answer, or not in a way that can be understood.
    pub fn identify(&mut self) -> Result<Identity, ReplicationError> {
        const DOING: &str = "ask the server who it is";
        let row = self.one_row(DOING, "IDENTIFY_SYSTEM")?;
        Ok(Identity {
            system: field(DOING, &row, 0)?,
            timeline: timeline_field(DOING, &row, 1)?,
            flushed: field(DOING, &row, 2)?,
        })
    }

    /// How long the server's segments are.
    ///
    /// # Errors
    /// As [`identify`](Self::identify).
    pub fn segment_size(&mut self) -> Result<SegmentSize, ReplicationError> {
        const DOING: &str = "ask for the size of segments";
        let shown = self.show(DOING, "SHOW wal_segment_size")?;
        parse_size(&shown).and_then(SegmentSize::new).ok_or_else(|| not_understood(DOING, &shown))
    }

    /// Whether the cluster's pages carry checksums.
    ///
    /// # Errors
    /// As [`identify`](Self::identify).
    pub fn data_checksums(&mut self) -> Result<bool, ReplicationError> {
        Ok(self.show("ask whether pages have checksums", "SHOW data_checksums")? == "on")
    }

    /// Makes a slot that keeps WAL from now on.
    ///
    /// # Errors
    /// [`ReplicationError::SlotExists`]; as [`identify`](Self::identify).
    pub fn create_slot(&mut self, slot: &SlotName) -> Result<(), ReplicationError> {
        let reserve = if self.server_version_num() >= 150_000 { "(RESERVE_WAL)" } else { "RESERVE_WAL" };
        let command = format!("CREATE_REPLICATION_SLOT \"{slot}\" PHYSICAL {reserve}");
        let created = self.client.command(&command);
        created
            .map(drop)
            .map_err(|error| ReplicationError::on_slot(slot, "create the replication slot", error))
    }

    /// Where a slot stands. Servers before 15 do not say so here; ask [`slot_health`](super::slot_health) there.
    ///
    /// # Errors
    /// [`ReplicationError::NoSlot`]; as [`identify`](Self::identify).
    pub fn read_slot(&mut self, slot: &SlotName) -> Result<SlotState, ReplicationError> {
        const DOING: &str = "look at the replication slot";
        let command = format!("READ_REPLICATION_SLOT \"{slot}\"");
        let rows = self.client.command(&command);
        let rows = rows.map_err(|error| ReplicationError::on_slot(slot, DOING, error))?;
        let row = single(DOING, rows)?;
        if optional::<String>(DOING, &row, 0)?.is_none() {
            return Err(ReplicationError::NoSlot { slot: slot.clone() });
        }
        let timeline = optional::<u32>(DOING, &row, 2)?.and_then(Timeline::new);
        Ok(SlotState { restart: optional(DOING, &row, 1)?, timeline })
    }

    /// Drops a slot that nobody uses.
    ///
    /// # Errors
    /// [`ReplicationError::NoSlot`], [`ReplicationError::SlotInUse`]; as [`identify`](Self::identify).
    pub fn drop_slot(&mut self, slot: &SlotName) -> Result<(), ReplicationError> {
        let dropped = self.client.command(&format!("DROP_REPLICATION_SLOT \"{slot}\""));
        dropped.map(drop).map_err(|error| ReplicationError::on_slot(slot, "drop the replication slot", error))
    }

    /// The history of a timeline. The first has none.
    ///
    /// # Errors
    /// [`ReplicationError`] if the server has no such file, or it is no history.
    pub fn timeline_history(&mut self, timeline: Timeline) -> Result<HistoryFile, ReplicationError> {
        const DOING: &str = "fetch the history of a timeline";
        let mut row = self.one_row(DOING, &format!("TIMELINE_HISTORY {timeline}"))?;
        let name: String = field(DOING, &row, 0)?;
        if name != WalName::History(timeline).to_string() {
            return Err(not_understood(DOING, &name));
        }
        let text = row.get_mut(1).and_then(Option::take).unwrap_or_default();
        let history = TimelineHistory::parse(timeline, &text)
            .map_err(|error| ReplicationError::Protocol { doing: DOING, why: error.to_string() })?;
        Ok(HistoryFile { history, text })
    }

    /// Asks for the WAL of `timeline` from `from` on.
    ///
    /// # Errors
    /// [`ReplicationError::WalRemoved`], and of the slot those of [`read_slot`](Self::read_slot).
    pub fn stream(
        mut self,
        slot: Option<&SlotName>,
        timeline: Timeline,
        from: Lsn,
        cx: &Cx,
    ) -> Result<Streaming, ReplicationError> {
        const DOING: &str = "follow the write-ahead log";
        let through = slot.map(|slot| format!("SLOT \"{slot}\" ")).unwrap_or_default();
        let command = format!("START_REPLICATION {through}PHYSICAL {from} TIMELINE {timeline}");
        let failed = |error: WireError| stream_failed(slot, timeline, from, DOING, error);
        self.client.begin_command(&command).map_err(failed)?;
        if self.client.next_copy_both().map_err(failed)? {
            return Ok(Streaming::Runs(WalStream::begin(self.client, slot.cloned(), timeline, from, cx)));
        }
        let next = self.next_timeline(DOING)?;
        Ok(Streaming::Ended(self, next))
    }

    /// What the server says at the end of a timeline.
    pub(super) fn next_timeline(&mut self, doing: &'static str) -> Result<NextTimeline, ReplicationError> {
        let rows = self.client.end_command().map_err(|error| ReplicationError::of(doing, error))?;
        let row = single(doing, rows)?;
        Ok(NextTimeline { timeline: timeline_field(doing, &row, 0)?, begins: field(doing, &row, 1)? })
    }

    fn show(&mut self, doing: &'static str, command: &str) -> Result<String, ReplicationError> {
        let row = self.one_row(doing, command)?;
        field(doing, &row, 0)
    }

    fn one_row(&mut self, doing: &'static str, command: &str) -> Result<Row, ReplicationError> {
        let rows = self.client.command(command).map_err(|error| ReplicationError::of(doing, error))?;
        single(doing, rows)
    }
}

/// A stream of WAL, or the wish for one, failed.
pub(super) fn stream_failed(
    slot: Option<&SlotName>,
    timeline: Timeline,
    from: Lsn,
    doing: &'static str,
    error: WireError,
) -> ReplicationError {
    match (slot, error.sqlstate()) {
        (_, Some("58P01")) => ReplicationError::WalRemoved { timeline, from, why: error.to_string() },
        (Some(slot), _) => ReplicationError::on_slot(slot, doing, error),
        (None, _) => ReplicationError::of(doing, error),
    }
}

fn not_understood(doing: &'static str, what: &str) -> ReplicationError {
    ReplicationError::Protocol { doing, why: format!("`{}`", what.escape_debug()) }
}

pub(super) fn single(doing: &'static str, mut rows: Vec<Row>) -> Result<Row, ReplicationError> {
    match (rows.pop(), rows.pop()) {
        (Some(row), None) => Ok(row),
        _ => Err(ReplicationError::Protocol { doing, why: "it has not one row".into() }),
    }
}

/// The value of a column, which may be NULL.
pub(super) fn optional<T: FromStr>(
    doing: &'static str,
    row: &Row,
    column: usize,
) -> Result<Option<T>, ReplicationError> {
    let Some(value) = row.get(column) else { return Err(not_understood(doing, "a column is missing")) };
    let Some(value) = value else { return Ok(None) };
    let text = String::from_utf8_lossy(value);
    text.parse().map(Some).map_err(|_| not_understood(doing, &text))
}

/// The value of a column that is never NULL.
pub(super) fn field<T: FromStr>(
    doing: &'static str,
    row: &Row,
    column: usize,
) -> Result<T, ReplicationError> {
    optional(doing, row, column)?.ok_or_else(|| not_understood(doing, "NULL"))
}

pub(super) fn timeline_field(
    doing: &'static str,
    row: &Row,
    column: usize,
) -> Result<Timeline, ReplicationError> {
    Timeline::new(field(doing, row, column)?).ok_or_else(|| not_understood(doing, "timeline 0"))
}

/// A size as `SHOW` has it: `16MB`, `1GB`.
fn parse_size(shown: &str) -> Option<u64> {
    let digits = shown.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &shown[digits.len()..] {
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "B" | "" => 1,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_servers_show_them() {
        for (shown, bytes) in [("1MB", 1 << 20), ("16MB", 16 << 20), ("1GB", 1 << 30), ("16777216", 1 << 24)]
        {
            assert_eq!(parse_size(shown), Some(bytes), "{shown}");
        }
        for shown in ["", "MB", "16 MB", "-1MB", "99999999999999999999GB", "18446744073709551615kB"] {
            assert_eq!(parse_size(shown), None, "{shown}");
        }
    }
}
