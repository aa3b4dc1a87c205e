//! Parts of a segment: what had come of it at one moment and the next, until it was whole.

use super::{Lsn, SegmentName, SegmentSize};

/// The bytes of a segment from one offset to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentPart {
    /// The segment.
    pub segment: SegmentName,
    /// The offset of its first byte.
    pub from: u32,
    /// The offset behind its last.
    pub to: u32,
}

impl SegmentPart {
    /// The part from one offset to a later one.
    pub fn new(segment: SegmentName, from: u32, to: u32) -> Option<Self> {
        (from < to).then_some(Self { segment, from, to })
    }

    /// Those of `parts`, all of one segment, that it takes to have as much as they hold of its beginning: each begins in the
    /// one before it, or where that ends.
    pub fn chain(parts: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut parts: Vec<Self> = parts.into_iter().collect();
        parts.sort_unstable_by_key(|part| (part.from, part.to));
        let (mut chain, mut end, mut next) = (Vec::new(), 0, 0);
        loop {
            let reached = parts[next..].iter().take_while(|part| part.from <= end);
            let n_reached = reached.clone().count();
            let Some(longest) = reached.max_by_key(|part| part.to).filter(|part| part.to > end) else {
                return chain;
            };
            end = longest.to;
            chain.push(*longest);
            next += n_reached;
        }
    }

    /// Where it ends in the log; `None` if no segment of this size has its name, or is that long.
    pub fn end(self, size: SegmentSize) -> Option<Lsn> {
        let start = self.segment.start(size).filter(|_| u64::from(self.to) <= size.bytes())?;
        start.0.checked_add(self.to.into()).map(Lsn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_chained_from_the_beginning_to_the_first_hole() {
        let segment: SegmentName = "000000010000000000000003".parse().unwrap();
        for (parts, expected) in [
            (&[][..], &[][..]),
            (&[(0, 5), (5, 9)], &[(0, 5), (5, 9)]),
            (&[(5, 9), (0, 5)], &[(0, 5), (5, 9)]),
            (&[(1, 5), (5, 9)], &[]),
            (&[(0, 5), (6, 9)], &[(0, 5)]),
            // Of a receiver that began anew, and of one that joined what it had.
            (&[(0, 3), (0, 7), (3, 5), (5, 9)], &[(0, 7), (5, 9)]),
            (&[(0, 3), (3, 5), (0, 5), (5, 6)], &[(0, 5), (5, 6)]),
            (&[(0, 9), (2, 4), (8, 9)], &[(0, 9)]),
        ] {
            let part = |&(from, to)| SegmentPart::new(segment, from, to).unwrap();
            let chain = SegmentPart::chain(parts.iter().map(part));
            assert_eq!(chain, expected.iter().map(part).collect::<Vec<_>>(), "{parts:?}");
        }
    }

    #[test]
    fn a_part_ends_where_its_segment_says() {
        let segment: SegmentName = "000000010000000000000003".parse().unwrap();
        let part = SegmentPart::new(segment, 5, 9).unwrap();
        assert_eq!(part.end(SegmentSize::USUAL), Some(Lsn(0x0300_0009)));
        let part = SegmentPart::new(segment, 5, (16 << 20) + 1).unwrap();
        assert_eq!(part.end(SegmentSize::USUAL), None);
    }
}
