//! Messages within a stream of WAL, read and written. This module knows bytes, and no connection.

use hikae_model::Lsn;

/// What the server says within a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// WAL, from the place `at` on. The server's own WAL ends at `end`.
    Data { at: Lsn, end: Lsn, bytes: &'a [u8] },
    /// It lives; its WAL ends at `end`.
    KeepAlive { end: Lsn, wants_answer: bool },
}

/// Where we stand, as the server is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The place before which all was received.
    pub written: Lsn,
    /// The place before which all is durable. 0 says that nothing is, and moves no slot.
    pub flushed: Lsn,
}

impl Standing {
    /// Nothing came and nothing is durable.
    pub const NOTHING: Self = Self { written: Lsn(0), flushed: Lsn(0) };
}

/// From 1970 to 2000, when PostgreSQL's time begins.
const EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;

/// Reads one message; `None` for what is none.
pub(super) fn parse(message: &[u8]) -> Option<Message<'_>> {
    let (&kind, rest) = message.split_first()?;
    let (first, rest) = number(rest)?;
    match kind {
        b'w' => {
            let (end, rest) = number(rest)?;
            let (_clock, bytes) = number(rest)?;
            first.checked_add(bytes.len() as u64)?;
            Some(Message::Data { at: Lsn(first), end: Lsn(end), bytes })
        }
        b'k' => {
            let (_clock, rest) = number(rest)?;
            let [wants_answer] = rest else { return None };
            Some(Message::KeepAlive { end: Lsn(first), wants_answer: *wants_answer != 0 })
        }
        _ => None,
    }
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*number), rest))
}

/// Our standing at `now`, as the message "Standby status update". Nothing is ever replayed here.
pub(super) fn status(standing: Standing, now: jiff::Timestamp, wants_answer: bool) -> [u8; 34] {
    let clock = now.as_microsecond() - EPOCH_MICROSECONDS;
    let mut message = [0; 34];
    message[0] = b'r';
    message[1..9].copy_from_slice(&standing.written.0.to_be_bytes());
    message[9..17].copy_from_slice(&standing.flushed.0.to_be_bytes());
    message[25..33].copy_from_slice(&clock.to_be_bytes());
    message[33] = u8::from(wants_answer);
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use hikae_testkit::{Seed, TestRandom};

    #[test]
    fn messages_are_read_as_the_documentation_has_them() {
        let data = [&b"w"[..], &5_u64.to_be_bytes(), &9_u64.to_be_bytes(), &[1; 8], b"wal"].concat();
        assert_eq!(parse(&data), Some(Message::Data { at: Lsn(5), end: Lsn(9), bytes: b"wal" }));
        let alive = [&b"k"[..], &7_u64.to_be_bytes(), &[1; 8], &[1]].concat();
        assert_eq!(parse(&alive), Some(Message::KeepAlive { end: Lsn(7), wants_answer: true }));
        for cut in 0..25 {
            assert_eq!(parse(&data[..cut]), None, "cut to {cut}");
        }
        for cut in 0..18 {
            assert_eq!(parse(&alive[..cut]), None, "cut to {cut}");
        }
        assert_eq!(parse(b"sxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"), None);
        let beyond = [&b"w"[..], &u64::MAX.to_be_bytes(), &[0; 16], b"wal"].concat();
        assert_eq!(parse(&beyond), None, "no place is behind the last one");
    }

    #[test]
    fn a_standing_is_told_as_the_documentation_has_it() {
        let standing = Standing { written: Lsn(3), flushed: Lsn(2) };
        let message = status(standing, jiff::Timestamp::from_second(946_684_801).unwrap(), true);
        let expected = [
            &b"r"[..],
            &3_u64.to_be_bytes(),
            &2_u64.to_be_bytes(),
            &[0; 8],
            &1_000_000_u64.to_be_bytes(),
            &[1],
        ];
        assert_eq!(message.to_vec(), expected.concat());
    }
    /// Keeps I-8.
    #[test]
    fn no_bytes_of_a_stream_make_its_parsers_panic() {
        let random = TestRandom::new(Seed::draw());
        let n_changes = if std::env::var_os("HIKAE_FULL").is_some() { 2_000_000 } else { 20_000 };
        let data = [&b"w"[..], &5_u64.to_be_bytes(), &9_u64.to_be_bytes(), &[1; 8], b"wal"].concat();
        let alive = [&b"k"[..], &7_u64.to_be_bytes(), &[1; 8], &[1]].concat();
        let history = b"1\t0/5000198\tbefore noon\n\n2\t0/70000A0\tno recovery target specified\n".to_vec();
        let timeline = hikae_model::Timeline::new(3).expect("3 is one");
        let mut n_parsed = 0;
        for n in 0..n_changes {
            let mut bytes = [&data, &alive, &history][n % 3].clone();
            for _ in 0..=random.below(3) {
                let at = random.below(bytes.len().max(1) as u64) as usize;
                match random.below(4) {
                    0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
                    1 => bytes.truncate(at),
                    2 => drop(bytes.splice(at..at, random.bytes(3))),
                    _ => bytes.extend(b"9\t\n/F"),
                }
            }
            n_parsed += usize::from(parse(&bytes).is_some());
            n_parsed += usize::from(hikae_model::TimelineHistory::parse(timeline, &bytes).is_ok());
        }
        assert!(n_parsed > 1000, "only {n_parsed} still parse");
    }
}
