//! Commands of replication: answers of several tables one after the other, and COPY in both directions at once.
//!
//! A server in replication mode takes its commands in simple queries only. What a COPY brings is handed out in the buffer
//! that the socket filled, and a wait for it ends after a moment, so that whoever waits can do what else is due.

use super::enter::Purpose;
use super::message::{body_length, parse_columns, unexpected};
use super::{Client, WireError};
use crate::postgresql::connection::Connection;
use hikae_model::Cancel;
use std::io;
use std::time::Duration;

/// Longest message within a COPY of replication. The server sends at most 16 pages of WAL at a time (`MAX_SEND_SIZE`), and
/// a page has at most 64 KiB.
const MAX_COPY_BYTES: usize = 2 << 20;

/// How long a server may take for an answer. What it does before is little; a base backup is the exception.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// A row of an answer: bytes, because a server in replication mode knows no encoding.
pub(in crate::postgresql) type Row = Vec<Option<Vec<u8>>>;

/// What a COPY brings next.
pub(in crate::postgresql) enum CopyMessage<'a> {
    /// What one message holds.
    Data(&'a [u8]),
    /// The server has ended its side.
    Done,
    /// Nothing for a moment.
    Nothing,
}

impl Client {
    /// Enters the server that `connection` names in replication mode, within its `connect_timeout`. `cancel` also ends
    /// every wait on this connection.
    pub(in crate::postgresql) fn connect_for_replication(
        connection: &Connection,
        cancel: &Cancel,
    ) -> Result<Self, WireError> {
        let mut client = Self::connect_for(Purpose::Replication, connection, cancel)?;
        client.patience = Some(ANSWER_LIMIT);
        Ok(client)
    }

    /// Lets the server take as long as it likes for what it answers next.
    pub(in crate::postgresql) fn wait_for_ever(&mut self) {
        self.patience = None;
    }

    /// Runs a command that answers with one table at the most.
    pub(in crate::postgresql) fn command(&mut self, command: &str) -> Result<Vec<Row>, WireError> {
        self.begin_command(command)?;
        self.end_command()
    }

    /// Sends a command whose answers are then taken one by one.
    pub(in crate::postgresql) fn begin_command(&mut self, command: &str) -> Result<(), WireError> {
        self.start_query(command)
    }

    /// The rows of the next table of an answer.
    pub(in crate::postgresql) fn next_table(&mut self) -> Result<Vec<Row>, WireError> {
        let mut rows = Vec::new();
        loop {
            match self.receive_or_error()? {
                Ok((b'C', _)) => return Ok(rows),
                Ok((b'T', _)) => {}
                Ok((b'D', body)) => rows.push(owned(&body)?),
                Ok((tag, _)) => return Err(self.break_off(unexpected(tag, "where a table was to come"))),
                Err(error) => return Err(self.recover(error)),
            }
        }
    }

    /// Waits until the server begins a COPY out.
    pub(in crate::postgresql) fn next_copy_out(&mut self) -> Result<(), WireError> {
        match self.receive_or_error()? {
            Ok((b'H', _)) => Ok(()),
            Ok((tag, _)) => Err(self.break_off(unexpected(tag, "where COPY was to begin"))),
            Err(error) => Err(self.recover(error)),
        }
    }

    /// Waits until the server begins a COPY in both directions. False if it has nothing to send and a table follows.
    pub(in crate::postgresql) fn next_copy_both(&mut self) -> Result<bool, WireError> {
        match self.receive_or_error()? {
            Ok((b'W', _)) => Ok(true),
            Ok((b'T', _)) => Ok(false),
            Ok((tag, _)) => Err(self.break_off(unexpected(tag, "where COPY was to begin"))),
            Err(error) => Err(self.recover(error)),
        }
    }

    /// Whether more has come than what was lent last.
    pub(in crate::postgresql) fn has_more(&self) -> bool {
        self.inbox.ready().len() > self.lent
    }

    /// What the COPY brings next. What it lends is gone at the next call.
    pub(in crate::postgresql) fn copy_message(&mut self) -> Result<CopyMessage<'_>, WireError> {
        self.take_back();
        loop {
            let ready = self.inbox.ready();
            let body = if ready.len() < 5 { Ok(0) } else { body_length(ready) };
            let want = 5 + body.map_err(|error| self.break_off(error))?;
            if want > 5 + MAX_COPY_BYTES {
                let why = format!("a message of {want} bytes within COPY");
                return Err(self.break_off(WireError::Protocol(why)));
            }
            let ready = self.inbox.ready();
            if ready.len() < want {
                if !self.fill_for_now(want)? {
                    return Ok(CopyMessage::Nothing);
                }
                continue;
            }
            if ready[0] == b'd' {
                self.lent = want;
                return Ok(CopyMessage::Data(&self.inbox.ready()[5..want]));
            }
            match self.take_message(want - 5) {
                None => {}
                Some(Ok((b'c', _))) => return Ok(CopyMessage::Done),
                // A server that is shut down ends the command without ending the COPY (`WalSndDone`).
                Some(Ok((b'C', _))) => {
                    let ended = io::Error::new(io::ErrorKind::ConnectionAborted, "the server shuts down");
                    return Err(self.break_off(WireError::Broken(ended)));
                }
                Some(Ok((tag, _))) => return Err(self.break_off(unexpected(tag, "within COPY"))),
                Some(Err(error)) if error.severity != "ERROR" => {
                    return Err(self.break_off(WireError::Server(error)));
                }
                Some(Err(error)) => return Err(self.recover(error)),
            }
        }
    }

    /// What the last [`CopyMessage::Data`] lent, as long as it does.
    pub(in crate::postgresql) fn lent(&self) -> &[u8] {
        self.inbox.ready().get(5..self.lent).unwrap_or_default()
    }

    /// Sends one message of ours within a COPY in both directions.
    pub(in crate::postgresql) fn send_copy(&mut self, body: &[u8]) -> Result<(), WireError> {
        self.send_message(b'd', body)
    }

    /// Ends our side of a COPY in both directions.
    pub(in crate::postgresql) fn end_copy_both(&mut self) -> Result<(), WireError> {
        self.send_message(b'c', &[])
    }

    /// Reads until the server is ready for the next command, and gives the rows that come before.
    pub(in crate::postgresql) fn end_command(&mut self) -> Result<Vec<Row>, WireError> {
        let mut rows = Vec::new();
        loop {
            match self.receive_or_error()? {
                Ok((b'Z', _)) => return Ok(rows),
                Ok((b'T' | b'C' | b'I', _)) => {}
                Ok((b'D', body)) => rows.push(owned(&body)?),
                Ok((tag, _)) => return Err(self.break_off(unexpected(tag, "to a command of replication"))),
                Err(error) => return Err(self.recover(error)),
            }
        }
    }
}

fn owned(body: &[u8]) -> Result<Row, WireError> {
    Ok(parse_columns(body)?.into_iter().map(|value| value.map(<[u8]>::to_vec)).collect())
}
