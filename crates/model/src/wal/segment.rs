//! What the first page of a segment says of it: which cluster wrote it, how long it is, and where in the log it stands.

use super::{Lsn, SegmentName, SegmentSize, SystemId};

/// The header of the first page of a segment, `XLogLongPageHeaderData` in PostgreSQL's `access/xlog_internal.h`:
///
/// ```text
/// magic u16 | info u16 | timeline u32 | address u64 | remaining u32 | 0 u32 | system u64 | segment size u32 | page size u32
/// ```
///
/// Numbers are in the order of the machine that wrote them. Those that PostgreSQL still runs on are little-endian but for
/// IBM Z, whose files are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Says which releases of PostgreSQL write such pages.
    pub magic: u16,
    /// The cluster.
    pub system: SystemId,
    /// How long its segments are.
    pub segment_size: SegmentSize,
    /// Where the segment begins.
    pub address: Lsn,
    /// The timeline on which its first page was written: that of the segment, or one before it, whose last segment a
    /// promotion has copied.
    pub timeline: u32,
}

/// Bytes that are no segment of the name that they have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSegment {
    /// They do not begin as a segment does.
    #[error("it does not begin as a segment of the write-ahead log: {0}")]
    NotWal(&'static str),
    /// They are one of another place.
    #[error("it begins at {found}, and a segment of its name at {expected}")]
    OtherPlace {
        /// Where it says that it begins.
        found: Lsn,
        /// Where one of its name does.
        expected: Lsn,
    },
    /// No segment of that size has the name.
    #[error("no segment of {} bytes has its name", .size.bytes())]
    NoSuchName {
        /// The size that it says.
        size: SegmentSize,
    },
    /// It was written on a timeline that began after its own.
    #[error("it was written on timeline {found}, after that of its name")]
    LaterTimeline {
        /// The one that it says.
        found: u32,
    },
    /// It is cut, or grown.
    #[error("it has {found} bytes, and says that segments have {}", .expected.bytes())]
    OtherLength {
        /// How many it has.
        found: u64,
        /// What it says.
        expected: SegmentSize,
    },
}

/// `XLP_LONG_HEADER`: the page is the first of a segment.
const LONG_HEADER: u16 = 2;
/// The first magic of each major version, from `XLOG_PAGE_MAGIC`.
const MAGICS: [(u16, u16); 6] =
    [(0xd106, 13), (0xd10d, 14), (0xd110, 15), (0xd113, 16), (0xd116, 17), (0xd118, 18)];

impl SegmentHeader {
    /// How many bytes it takes to read one.
    pub const BYTES: usize = 40;

    /// Reads the header at the beginning of a file.
    ///
    /// # Errors
    /// [`BadSegment::NotWal`].
    pub fn parse(bytes: &[u8]) -> Result<Self, BadSegment> {
        let Some((bytes, _)) = bytes.split_first_chunk::<{ Self::BYTES }>() else {
            return Err(BadSegment::NotWal("it is too short"));
        };
        let number = |at: usize, length: usize| {
            bytes[at..at + length].iter().rev().fold(0, |number: u64, byte| number << 8 | u64::from(*byte))
        };
        let (magic, info) = (number(0, 2) as u16, number(2, 2) as u16);
        // A major version that is not out yet has a magic that nobody knows, and its log is worth keeping too.
        if !(0xd101..=0xd1ff).contains(&magic) {
            return Err(BadSegment::NotWal("its first two bytes are no magic number that we know"));
        }
        if info & LONG_HEADER == 0 {
            return Err(BadSegment::NotWal("its first page has no long header"));
        }
        let segment_size = SegmentSize::new(number(32, 4))
            .ok_or(BadSegment::NotWal("segments cannot be as long as it says"))?;
        if !number(36, 4).is_power_of_two() {
            return Err(BadSegment::NotWal("pages cannot be as long as it says"));
        }
        let (system, address) = (SystemId(number(24, 8)), Lsn(number(8, 8)));
        Ok(Self { magic, system, segment_size, address, timeline: number(4, 4) as u32 })
    }

    /// The major version of PostgreSQL that writes such pages, if it is one that we know.
    pub fn major(&self) -> Option<u16> {
        MAGICS.iter().find(|(magic, _)| *magic == self.magic).map(|(_, major)| *major)
    }

    /// Sees that a file that begins so can be the segment of that name.
    ///
    /// # Errors
    /// [`BadSegment`].
    pub fn check_name(&self, name: SegmentName) -> Result<(), BadSegment> {
        let size = self.segment_size;
        let expected = name.start(size).ok_or(BadSegment::NoSuchName { size })?;
        if expected != self.address {
            return Err(BadSegment::OtherPlace { found: self.address, expected });
        }
        if self.timeline > name.timeline.get() {
            return Err(BadSegment::LaterTimeline { found: self.timeline });
        }
        Ok(())
    }

    /// Sees that a file of `bytes` bytes is a whole segment.
    ///
    /// # Errors
    /// [`BadSegment::OtherLength`].
    pub fn check_length(&self, bytes: u64) -> Result<(), BadSegment> {
        match bytes == self.segment_size.bytes() {
            true => Ok(()),
            false => Err(BadSegment::OtherLength { found: bytes, expected: self.segment_size }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first bytes of a segment that PostgreSQL 15 wrote.
    const REAL: [u8; 40] = [
        0x10, 0xd1, 0x02, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00,
        0x00, //
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x68, 0x2b, 0x1d, 0x5c, 0x0f, 0x1a, 0x3d,
        0x69, //
        0x00, 0x00, 0x00, 0x01, 0x00, 0x20, 0x00, 0x00,
    ];

    fn name(text: &str) -> SegmentName {
        text.parse().unwrap()
    }

    #[test]
    fn the_header_of_a_segment_says_whose_it_is_and_where_it_stands() {
        let header = SegmentHeader::parse(&REAL).unwrap();
        assert_eq!(
            (header.major(), header.segment_size, header.address, header.timeline),
            (Some(15), SegmentSize::USUAL, Lsn(0x0100_0000), 1)
        );
        assert_eq!(header.system, SystemId(0x693d_1a0f_5c1d_2b68));
        assert_eq!(header.check_name(name("000000010000000000000001")), Ok(()));
        // Copied by a promotion.
        assert_eq!(header.check_name(name("000000020000000000000001")), Ok(()));
        assert_eq!(header.check_length(16 << 20), Ok(()));
    }

    #[test]
    fn a_segment_under_another_name_or_cut_is_refused() {
        let header = SegmentHeader::parse(&REAL).unwrap();
        let (found, expected) = (Lsn(0x0100_0000), Lsn(0x0200_0000));
        assert_eq!(
            header.check_name(name("000000010000000000000002")),
            Err(BadSegment::OtherPlace { found, expected })
        );
        let size = SegmentSize::USUAL;
        assert_eq!(header.check_name(name("000000010000000000000100")), Err(BadSegment::NoSuchName { size }));
        let later = SegmentHeader { timeline: 2, ..header };
        assert_eq!(
            later.check_name(name("000000010000000000000001")),
            Err(BadSegment::LaterTimeline { found: 2 })
        );
        for found in [0, (16 << 20) - 1, 8 << 20, (16 << 20) + 1] {
            assert_eq!(header.check_length(found), Err(BadSegment::OtherLength { found, expected: size }));
        }
    }

    #[test]
    fn what_is_no_segment_is_refused() {
        for (what, at, bytes) in [
            ("zeroes", 0, [0, 0]),
            ("another byte order", 0, [0xd1, 0x10]),
            ("a short header", 2, [0, 0]),
            ("segments of 3 MiB", 34, [0x30, 0]),
            ("segments of 2 GiB", 34, [0, 0x80]),
            ("pages of 0", 36, [0, 0]),
        ] {
            let mut header = REAL;
            header[at..at + 2].copy_from_slice(&bytes);
            assert!(matches!(SegmentHeader::parse(&header), Err(BadSegment::NotWal(_))), "{what}");
        }
        assert!(matches!(SegmentHeader::parse(&REAL[..39]), Err(BadSegment::NotWal(_))));
    }
}
