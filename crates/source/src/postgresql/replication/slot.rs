//! Replication slots: the server's promise to keep WAL until we have it.

use hikae_model::{Lsn, Timeline};
use std::fmt;
use std::str::FromStr;

/// The name of a replication slot. Of lower-case letters, digits and `_` only, so it needs no quotes anywhere.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SlotName(String);

/// Text that is no name of a replication slot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not the name of a replication slot: up to 63 lower-case letters, digits and `_`")]
pub struct BadSlotName {
    text: String,
}

impl FromStr for SlotName {
    type Err = BadSlotName;

    /// As `ReplicationSlotValidateName` in PostgreSQL's `slot.c`.
    fn from_str(text: &str) -> Result<Self, BadSlotName> {
        let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let is_name = (1..=63).contains(&text.len()) && text.bytes().all(is_part);
        is_name.then(|| Self(text.to_owned())).ok_or_else(|| BadSlotName { text: text.to_owned() })
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a physical slot stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotState {
    /// The oldest WAL that it keeps; `None` for a slot that was never used and reserved nothing, or has lost all.
    pub restart: Option<Lsn>,
    /// The timeline of that place, where the server says it.
    pub timeline: Option<Timeline>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_would_need_quotes_is_none() {
        for text in ["hikae", "hikae_1", "1", &"a".repeat(63)] {
            assert_eq!(text.parse::<SlotName>().map(|name| name.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "Hikae", "a-b", "a\"; DROP", "a b", "ä", &"a".repeat(64)] {
            assert!(text.parse::<SlotName>().is_err(), "{text}");
        }
    }
}
