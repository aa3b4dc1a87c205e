//! COPY, out and in. Rows are hashed and copied straight out of the buffer that the socket filled.
//!
//! A COPY is whole only if the server's count of rows is ours.

use super::error::CopyInError;
use super::message::{body_length, count_of_tag, length, put_cstr, unexpected};
use super::{Client, INBOX_BYTES, WireError};
use crate::postgresql::rows::{RowHash, RowSum};
use std::io::{self, Read};

/// How much of a COPY in is gathered before it is sent.
const OUTBOX_BYTES: usize = 64 << 10;

/// A COPY out under way.
pub(in crate::postgresql) struct CopyOut {
    /// Bytes of the row at hand that were not yet given out.
    row_left: usize,
    /// Hashes a row that is longer than the inbox.
    long: Option<RowHash>,
    /// Set once the server said how many rows it sent.
    ended: bool,
    rows_before: u64,
}

impl Client {
    /// Starts `sql`, a `COPY ... TO STDOUT`. `rows` is what will count and hash its rows.
    pub(in crate::postgresql) fn copy_out(&mut self, sql: &str, rows: &RowSum) -> Result<CopyOut, WireError> {
        self.start_query(sql)?;
        match self.receive_or_error()? {
            Ok((b'H', _)) => Ok(CopyOut { row_left: 0, long: None, ended: false, rows_before: rows.rows() }),
            Ok((tag, _)) => Err(self.break_off(unexpected(tag, "to COPY"))),
            Err(error) => Err(self.recover(error)),
        }
    }

    /// Fills `buffer` with the next bytes of the COPY; 0 once it has ended and the server's count of rows is ours.
    ///
    /// The server sends each row in one message of its own ("Messages sent from the backend will always correspond
    /// to single data rows", section CopyData), so a row is hashed where it stands.
    pub(in crate::postgresql) fn copy_read(
        &mut self,
        copy: &mut CopyOut,
        rows: &mut RowSum,
        buffer: &mut [u8],
    ) -> Result<usize, WireError> {
        let mut filled = 0;
        while filled < buffer.len() && !copy.ended {
            let ready = self.inbox.ready();
            if copy.row_left > 0 {
                let n = copy.row_left.min(ready.len()).min(buffer.len() - filled);
                if n == 0 {
                    self.fill(1)?;
                    continue;
                }
                let piece = &ready[..n];
                buffer[filled..filled + n].copy_from_slice(piece);
                if let Some(long) = &mut copy.long {
                    long.update(piece);
                    if n == copy.row_left {
                        rows.add_hash(long);
                        copy.long = None;
                    }
                }
                self.inbox.consume(n);
                copy.row_left -= n;
                filled += n;
                continue;
            }
            if ready.len() < 5 {
                self.fill(5)?;
                continue;
            }
            let body = body_length(ready)?;
            if ready[0] != b'd' {
                self.end_copy(copy, rows)?;
                continue;
            }
            if ready.len() >= 5 + body {
                let row = &ready[5..5 + body];
                if row.last() != Some(&b'\n') {
                    return Err(
                        self.break_off(WireError::Protocol("a row of COPY without an end of line".into()))
                    );
                }
                rows.add(row);
            } else if 5 + body <= INBOX_BYTES {
                self.fill(5 + body)?;
                continue;
            } else {
                copy.long = Some(rows.hasher());
            }
            copy.row_left = body;
            self.inbox.consume(5);
        }
        Ok(filled)
    }

    /// Runs `sql`, a `COPY ... TO STDOUT`, to its end, and keeps nothing but what `rows` makes of it.
    pub(in crate::postgresql) fn sum_rows(&mut self, sql: &str, rows: &mut RowSum) -> Result<(), WireError> {
        let mut buffer = vec![0; INBOX_BYTES];
        let mut copy = self.copy_out(sql, rows)?;
        while self.copy_read(&mut copy, rows, &mut buffer)? > 0 {}
        Ok(())
    }

    /// What follows the last row: end of copy, the count, readiness. Or an error.
    fn end_copy(&mut self, copy: &mut CopyOut, rows: &RowSum) -> Result<(), WireError> {
        match self.receive_or_error()? {
            Ok((b'c', _)) => {}
            Ok((tag, _)) => return Err(self.break_off(unexpected(tag, "within COPY"))),
            Err(error) => return Err(self.recover(error)),
        }
        let sent = self.finish_copy()?;
        let seen = rows.rows() - copy.rows_before;
        if sent != seen {
            let why = format!("the server counts {sent} rows and {seen} came");
            return Err(self.break_off(WireError::Protocol(why)));
        }
        copy.ended = true;
        Ok(())
    }

    /// Reads `COPY n` and readiness.
    fn finish_copy(&mut self) -> Result<u64, WireError> {
        let (mut count, mut failure) = (None, None);
        loop {
            match self.receive_or_error()? {
                Ok((b'Z', _)) => break,
                Ok((b'C', body)) => count = count_of_tag(&body),
                Ok((tag, _)) => return Err(self.break_off(unexpected(tag, "at the end of COPY"))),
                Err(error) => failure = failure.or(Some(WireError::Server(error))),
            }
        }
        match (failure, count) {
            (Some(error), _) => Err(error),
            (None, Some(count)) => Ok(count),
            (None, None) => Err(self.break_off(WireError::Protocol("COPY ended without a count".into()))),
        }
    }

    /// Runs `sql`, a `COPY ... FROM STDIN`, with all that `from` gives. Returns the server's count of rows.
    pub(in crate::postgresql) fn copy_in(
        &mut self,
        sql: impl AsRef<[u8]>,
        from: &mut dyn Read,
    ) -> Result<u64, CopyInError> {
        self.start_query(sql)?;
        match self.receive_or_error()? {
            Ok((b'G', _)) => {}
            Ok((tag, _)) => return Err(self.break_off(unexpected(tag, "to COPY")).into()),
            Err(error) => return Err(self.recover(error).into()),
        }
        let mut outbox = std::mem::take(&mut self.outbox);
        outbox.resize(OUTBOX_BYTES, 0);
        let outcome = self.send_rows(from, &mut outbox);
        self.outbox = outbox;
        if let Err(CopyInError::Source(error)) = outcome {
            // The server forgets what it got; the reader's error is what matters.
            let mut body = Vec::new();
            put_cstr(&mut body, "hikae could not read what it was to restore")?;
            self.send_message(b'f', &body)?;
            let _ = self.finish_copy();
            return Err(CopyInError::Source(error));
        }
        outcome?;
        self.send_message(b'c', &[])?;
        Ok(self.finish_copy()?)
    }

    fn send_rows(&mut self, from: &mut dyn Read, outbox: &mut [u8]) -> Result<(), CopyInError> {
        loop {
            let n = match from.read(&mut outbox[5..]) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read.map_err(CopyInError::Source)?,
            };
            outbox[0] = b'd';
            outbox[1..5].copy_from_slice(&length(n)?);
            self.send(&outbox[..5 + n])?;
            if self.cancel.is_cancelled() {
                return Err(self.break_off(WireError::Cancelled).into());
            }
        }
    }
}
