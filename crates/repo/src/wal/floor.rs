//! The floor of a cluster's log: the place before which nothing of it is kept.
//!
//! - Places compare across timelines, for one begins where another stood. But a cluster that came back to an earlier place
//!   writes its new timeline below where others are: so a floor holds for the timelines up to one, and no later one.
//! - Histories have no place and stay.
//!
//! This module knows places and names. Which place is the right one is for who knows what base backups need.

use hikae_model::{Lsn, SegmentSize, SystemId, Timeline, WalName};
use minicbor::decode::{self, Decoder};
use minicbor::encode::{self, Encoder, Write};
use minicbor::{Decode, Encode};

/// A place in the log of a cluster before which nothing is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogFloor {
    /// The cluster.
    pub system: SystemId,
    /// The last timeline of which something goes.
    pub timeline: Timeline,
    /// The place. The segment that holds it stays.
    pub below: Lsn,
    /// How long its segments are.
    pub segment_size: SegmentSize,
}

impl LogFloor {
    /// True if this file of the cluster ends before the floor. One that is named as no segment of this size can be stays.
    pub fn covers(&self, name: WalName) -> bool {
        let Some(segment) = name.segment().filter(|segment| segment.timeline <= self.timeline) else {
            return false;
        };
        let end =
            segment.start(self.segment_size).map(|start| start.0.saturating_add(self.segment_size.bytes()));
        end.is_some_and(|end| end <= self.below.0)
    }

    /// True if all that goes by this one goes by the other as well.
    pub fn is_within(&self, other: &Self) -> bool {
        let is_of_it = self.system == other.system && self.segment_size == other.segment_size;
        is_of_it && self.timeline <= other.timeline && self.below <= other.below
    }
}

/// `[system, timeline, place, bytes of a segment]`.
impl<C> Encode<C> for LogFloor {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, cx: &mut C) -> Result<(), encode::Error<W::Error>> {
        let Self { system, timeline, below, segment_size } = self;
        e.encode_with((system.0, timeline.get(), below.0, segment_size.bytes()), cx)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for LogFloor {
    fn decode(d: &mut Decoder<'b>, cx: &mut C) -> Result<Self, decode::Error> {
        let (system, timeline, below, segment_bytes): (u64, u32, u64, u64) = d.decode_with(cx)?;
        let floor = Timeline::new(timeline).zip(SegmentSize::new(segment_bytes));
        let (timeline, segment_size) =
            floor.ok_or_else(|| decode::Error::message("no log is of this timeline or size"))?;
        Ok(Self { system: SystemId(system), timeline, below: Lsn(below), segment_size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_before_the_floor_goes_and_nothing_else() {
        let floor = |below: u64, timeline| LogFloor {
            system: SystemId(7),
            timeline: Timeline::new(timeline).unwrap(),
            below: Lsn(below),
            segment_size: SegmentSize::USUAL,
        };
        let third = floor(0x3000_0000, 2);
        for (name, goes) in [
            ("00000001000000000000002F", true),
            ("000000010000000000000030", false),
            ("00000002000000000000002F.partial", true),
            ("00000002000000000000002F.00000028.backup", true),
            ("00000002000000000000002F.00000028-00000100", true),
            ("000000020000000000000030.00000000-00000100", false),
            ("00000003000000000000002F", false),
            ("00000001.history", false),
            ("000000010000000100000000", false),
            ("0000000100000000000001FF", false), // of no cluster with segments of 16 MiB
        ] {
            assert_eq!(third.covers(name.parse().unwrap()), goes, "{name}");
        }
        // In the middle of a segment, it stays.
        assert!(!floor(0x2fff_ffff, 2).covers("00000001000000000000002F".parse().unwrap()));
        assert!(!floor(u64::MAX, 2).covers("00000001FFFFFFFF000001FF".parse().unwrap()));
        assert!(third.is_within(&floor(0x3000_0000, 2)) && !third.is_within(&floor(0x4000_0000, 1)));
        let other = LogFloor { system: SystemId(8), ..third };
        assert!(!third.is_within(&other));
    }

    #[test]
    fn a_floor_is_stored_in_one_form_and_one_of_no_timeline_is_refused() {
        let floor = LogFloor {
            system: SystemId(7_000_000_000_000_000_001),
            timeline: Timeline::FIRST,
            below: Lsn(0x16b_3748),
            segment_size: SegmentSize::USUAL,
        };
        assert_eq!(crate::cbor::from_bytes::<LogFloor>(&crate::cbor::to_bytes(&floor)).unwrap(), floor);
        for stored in [(7_u64, 0_u32, 1_u64, 16_u64 << 20), (7, 1, 1, 3 << 20)] {
            assert!(crate::cbor::from_bytes::<LogFloor>(&crate::cbor::to_bytes(&stored)).is_err());
        }
    }
}
