//! Messages of the protocol, read and written: lengths, strings, rows, errors.
//!
//! What comes in is hostile until it is parsed here. This module knows bytes, and no connection.

use super::error::{ServerError, WireError};

/// Longest message other than a row: a PostgreSQL value ends at 1 GiB.
const MAX_MESSAGE_BYTES: usize = 1 << 30;

pub(super) fn length(body: usize) -> Result<[u8; 4], WireError> {
    let length = i32::try_from(body + 4).map_err(|_| WireError::Protocol("a message over 2 GiB".into()))?;
    Ok(length.to_be_bytes())
}

/// Length of the body of the message that begins here; five bytes are there.
pub(super) fn body_length(message: &[u8]) -> Result<usize, WireError> {
    let length = get_i32(message, 1)?;
    let body = usize::try_from(length).ok().and_then(|length| length.checked_sub(4));
    body.filter(|&body| body <= MAX_MESSAGE_BYTES)
        .ok_or_else(|| WireError::Protocol(format!("a message of {length} bytes")))
}

pub(super) fn get_i32(bytes: &[u8], at: usize) -> Result<i32, WireError> {
    let four = bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
    four.map(i32::from_be_bytes).ok_or_else(|| WireError::Protocol("a message too short".into()))
}

pub(super) fn put_cstr(message: &mut Vec<u8>, text: impl AsRef<[u8]>) -> Result<(), WireError> {
    let text = text.as_ref();
    if text.contains(&0) {
        return Err(WireError::Protocol("a NUL byte in a name or a statement".into()));
    }
    message.extend(text);
    message.push(0);
    Ok(())
}

/// The values of a row as they came; `None` for NULL.
pub(super) fn parse_columns(body: &[u8]) -> Result<Vec<Option<&[u8]>>, WireError> {
    let short = || WireError::Protocol("a row too short".into());
    let n_columns =
        body.get(..2).map(|two| usize::from(u16::from_be_bytes([two[0], two[1]]))).ok_or_else(short)?;
    let mut at = 2;
    let mut columns = Vec::with_capacity(n_columns);
    for _ in 0..n_columns {
        let length = get_i32(body, at)?;
        at += 4;
        let Ok(length) = usize::try_from(length) else {
            columns.push(None);
            continue;
        };
        columns.push(Some(body.get(at..at + length).ok_or_else(short)?));
        at += length;
    }
    Ok(columns)
}

pub(super) fn parse_row(body: &[u8]) -> Result<Vec<Option<String>>, WireError> {
    let text = |value: &[u8]| {
        std::str::from_utf8(value)
            .map(str::to_owned)
            .map_err(|_| WireError::Protocol("a name or a value of the catalog is not UTF-8".into()))
    };
    parse_columns(body)?.into_iter().map(|value| value.map(text).transpose()).collect()
}

/// The count at the end of what a server says of a statement that it ran: `COPY 3`, `INSERT 0 3`.
pub(super) fn count_of_tag(body: &[u8]) -> Option<u64> {
    let tag = std::str::from_utf8(body).ok()?.trim_end_matches('\0');
    tag.rsplit(' ').next()?.parse().ok()
}

pub(super) fn parse_error(body: &[u8]) -> ServerError {
    let mut error = ServerError::default();
    for field in body.split(|&byte| byte == 0) {
        let Some((kind, text)) = field.split_first() else { continue };
        let text = String::from_utf8_lossy(text).into_owned();
        match kind {
            b'V' => error.severity = text,
            b'C' => error.code = text,
            b'M' => error.message = text,
            b'D' => error.detail = text,
            b'H' => error.hint = text,
            _ => {}
        }
    }
    error
}

pub(super) fn unexpected(tag: u8, when: &str) -> WireError {
    WireError::Protocol(format!("message `{}` {when}", char::from(tag).escape_default()))
}
