//! Places and names in the write-ahead log of PostgreSQL.
//!
//! They know how PostgreSQL counts and writes them (`src/include/access/xlogdefs.h`, `xlog_internal.h`), and nothing of
//! where a file of that name lies or what is in it.

mod landmark;
mod part;
mod segment;

pub use landmark::{Landmark, LandmarkFinder, LandmarkKind};
pub use part::SegmentPart;
pub use segment::{BadSegment, SegmentHeader};

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

/// Text that should be a place or a name in the write-ahead log and is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {what}")]
pub struct BadWalName {
    what: &'static str,
    text: String,
}

fn bad(what: &'static str, text: &str) -> BadWalName {
    BadWalName { what, text: text.to_owned() }
}

/// A place in the log: bytes from its beginning, written as `0/16B3748`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

macro_rules! serialized_as_shown {
    ($($name:ident),*) => {$(
        /// As it is written for people.
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                <String as serde::Deserialize>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

serialized_as_shown!(Lsn, SystemId, WalName);

impl FromStr for Lsn {
    type Err = BadWalName;

    fn from_str(text: &str) -> Result<Self, BadWalName> {
        let half = |text: &str| (1..=8).contains(&text.len()).then(|| hex(text)).flatten();
        text.split_once('/')
            .and_then(|(high, low)| Some(Self((half(high)? << 32) | half(low)?)))
            .ok_or_else(|| bad("a place in the write-ahead log, as 0/16B3748", text))
    }
}

/// One line of history of a cluster. A promotion or a recovery to a point in time begins a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timeline(NonZeroU32);

impl Timeline {
    /// That of a cluster that was never promoted.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// The timeline of this number; there is none of number 0.
    pub fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }

    /// Its number.
    pub fn get(self) -> u32 {
        self.0.get()
    }
}

/// In decimal, as PostgreSQL's settings and messages have it.
impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which cluster: the number that `initdb` drew, which its standbys and restored copies share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemId(pub u64);

/// In decimal, as `pg_controldata` shows it.
impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for SystemId {
    type Err = BadWalName;

    fn from_str(text: &str) -> Result<Self, BadWalName> {
        let is_decimal = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = is_decimal.then(|| text.parse().ok()).flatten();
        number.map(Self).ok_or_else(|| bad("a system identifier, a decimal number", text))
    }
}

/// How long each segment of a cluster is: a power of two from 1 MiB to 1 GiB, chosen at `initdb`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SegmentSize(u32);

impl SegmentSize {
    /// What `initdb` takes unless it is told otherwise.
    pub const USUAL: Self = Self(16 << 20);

    /// The size of so many bytes, if PostgreSQL can have it.
    pub fn new(bytes: u64) -> Option<Self> {
        let bytes = u32::try_from(bytes).ok()?;
        (bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes)).then_some(Self(bytes))
    }

    /// In bytes.
    pub fn bytes(self) -> u64 {
        u64::from(self.0)
    }

    /// How many segments go into the 4 GiB that the first half of a place counts.
    fn to_a_half(self) -> u64 {
        (1 << 32) / self.bytes()
    }
}

/// The name of a segment: its timeline and where it begins, counted in segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// The timeline on which it was written.
    pub timeline: Timeline,
    high: u32,
    low: u32,
}

impl SegmentName {
    /// The segment of these two words after the timeline.
    pub fn of_words(timeline: Timeline, high: u32, low: u32) -> Self {
        Self { timeline, high, low }
    }

    /// The two words after the timeline.
    pub fn words(self) -> (u32, u32) {
        (self.high, self.low)
    }

    /// The segment in which `lsn` lies.
    pub fn holding(lsn: Lsn, timeline: Timeline, size: SegmentSize) -> Self {
        let number = lsn.0 / size.bytes();
        // Both fit: a place has 64 bits, and a half of it 32.
        let (high, low) = (number / size.to_a_half(), number % size.to_a_half());
        Self { timeline, high: high as u32, low: low as u32 }
    }

    /// Where it begins; `None` if no segment of this size has the name.
    pub fn start(self, size: SegmentSize) -> Option<Lsn> {
        let fits = u64::from(self.low) < size.to_a_half();
        fits.then(|| Lsn((u64::from(self.high) << 32) | (u64::from(self.low) * size.bytes())))
    }

    /// The one after it on its timeline; `None` at the end of all places, or if no segment of this size has the name.
    pub fn next(self, size: SegmentSize) -> Option<Self> {
        let end = self.start(size)?.0.checked_add(size.bytes())?;
        Some(Self::holding(Lsn(end), self.timeline, size))
    }
}

/// As `00000001000000A900000065`.
impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline.get(), self.high, self.low)
    }
}

impl FromStr for SegmentName {
    type Err = BadWalName;

    fn from_str(text: &str) -> Result<Self, BadWalName> {
        let read = || {
            let [timeline, high, low] = [text.get(..8)?, text.get(8..16)?, text.get(16..24)?].map(word);
            (text.len() == 24).then_some(())?;
            Some(Self { timeline: Timeline::new(timeline?)?, high: high?, low: low? })
        };
        read().ok_or_else(|| bad("the name of a WAL segment, 24 hexadecimal digits", text))
    }
}

/// The name of a file that a server archives, or of a part of one that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalName {
    /// A whole segment.
    Segment(SegmentName),
    /// The last segment of a timeline that a promotion ended within it, as far as it was written.
    Partial(SegmentName),
    /// Where a base backup began and ended: the segment in which it began, and the offset there.
    Backup(SegmentName, u32),
    /// Which timelines came before this one, and where each ended.
    History(Timeline),
    /// What had come of a segment before it was whole. No server has such a file.
    Part(SegmentPart),
}

impl WalName {
    /// The timeline to which it belongs.
    pub fn timeline(self) -> Timeline {
        match self {
            Self::Segment(segment) | Self::Partial(segment) | Self::Backup(segment, _) => segment.timeline,
            Self::History(timeline) => timeline,
            Self::Part(part) => part.segment.timeline,
        }
    }

    /// The segment of which it tells; `None` for a history.
    pub fn segment(self) -> Option<SegmentName> {
        match self {
            Self::Segment(segment) | Self::Partial(segment) | Self::Backup(segment, _) => Some(segment),
            Self::Part(part) => Some(part.segment),
            Self::History(_) => None,
        }
    }
}

impl From<SegmentName> for WalName {
    fn from(segment: SegmentName) -> Self {
        Self::Segment(segment)
    }
}

/// As PostgreSQL names the file; a part as its segment, and its two offsets behind a point.
impl fmt::Display for WalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(segment) => segment.fmt(f),
            Self::Partial(segment) => write!(f, "{segment}.partial"),
            Self::Backup(segment, offset) => write!(f, "{segment}.{offset:08X}.backup"),
            Self::History(timeline) => write!(f, "{:08X}.history", timeline.get()),
            Self::Part(SegmentPart { segment, from, to }) => write!(f, "{segment}.{from:08X}-{to:08X}"),
        }
    }
}

impl FromStr for WalName {
    type Err = BadWalName;

    fn from_str(text: &str) -> Result<Self, BadWalName> {
        let read = || match text.split('.').collect::<Vec<_>>()[..] {
            [segment] => segment.parse().ok().map(Self::Segment),
            [segment, "partial"] => segment.parse().ok().map(Self::Partial),
            [segment, offset, "backup"] => Some(Self::Backup(segment.parse().ok()?, word(offset)?)),
            [timeline, "history"] => Timeline::new(word(timeline)?).map(Self::History),
            [segment, range] => {
                let (from, to) = range.split_once('-')?;
                SegmentPart::new(segment.parse().ok()?, word(from)?, word(to)?).map(Self::Part)
            }
            _ => None,
        };
        read().ok_or_else(|| bad("the name of a file that PostgreSQL archives", text))
    }
}

/// Eight hexadecimal digits as PostgreSQL writes them: in upper case.
fn word(text: &str) -> Option<u32> {
    let is_upper = text.len() == 8 && !text.bytes().any(|byte| byte.is_ascii_lowercase());
    is_upper.then(|| hex(text)).flatten().and_then(|number| u32::try_from(number).ok())
}

fn hex(text: &str) -> Option<u64> {
    let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(text: &str) -> SegmentName {
        text.parse().unwrap()
    }

    #[test]
    fn a_place_is_written_as_postgresql_writes_it() {
        assert_eq!(Lsn(0x0000_00a9_65ff_0028).to_string(), "A9/65FF0028");
        assert_eq!("A9/65ff0028".parse(), Ok(Lsn(0x0000_00a9_65ff_0028)));
        assert_eq!(Lsn(0x16b_3748).to_string(), "0/16B3748");
        for text in ["", "1", "/", "1/", "/1", "1/2/3", "G/1", "+1/1", "100000000/0", "0/ 1"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_of_archived_files_come_back_as_they_were() {
        for text in [
            "00000001000000A900000065",
            "0000000A0000000000000001.partial",
            "000000010000000000000002.00000028.backup",
            "0000000B.history",
            "00000001000000A900000065.0000AB28-00C00000",
        ] {
            assert_eq!(text.parse::<WalName>().map(|name| name.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn what_postgresql_would_not_write_is_no_name() {
        for text in [
            "",
            "00000001000000a900000065",
            "00000000000000A900000065",
            "00000001000000A90000006",
            "00000001000000A9000000650",
            "+0000001000000A900000065",
            "00000001000000A900000065.done",
            "00000001000000A900000065.28.backup",
            "00000000.history",
            "../00000002.history",
            "00000001000000A900000065.00000028-00000028",
            "00000001000000A900000065.00000029-00000028",
            "00000001000000A900000065.00000000-0000ab28",
            "00000001000000A900000065.00000000-0000AB28.partial",
            "00000001000000A900000065.0000AB28",
            "0000000２.history",
        ] {
            assert!(text.parse::<WalName>().is_err(), "{text}");
        }
    }

    #[test]
    fn segments_are_counted_by_their_size() {
        let (usual, small) = (SegmentSize::USUAL, SegmentSize::new(1 << 20).unwrap());
        let last = segment("0000000100000000000000FF");
        assert_eq!(last.start(usual), Some(Lsn(0xff00_0000)));
        assert_eq!(last.next(usual), Some(segment("000000010000000100000000")));
        assert_eq!(last.next(small), Some(segment("000000010000000000000100")));
        assert_eq!(segment("000000010000000000000100").start(usual), None);
        assert_eq!(segment("00000001FFFFFFFF000000FF").next(usual), None);
        assert_eq!(
            SegmentName::holding(Lsn(0x1_0000_0001), Timeline::FIRST, usual),
            last.next(usual).unwrap()
        );
    }

    #[test]
    fn a_size_that_postgresql_cannot_have_is_refused() {
        for bytes in [0, 1 << 19, 3 << 20, 1 << 31, 1 << 40] {
            assert_eq!(SegmentSize::new(bytes), None, "{bytes}");
        }
        assert_eq!(SegmentSize::new(1 << 30).map(SegmentSize::bytes), Some(1 << 30));
    }
}
