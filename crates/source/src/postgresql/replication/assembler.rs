//! Segments out of a stream whose messages break anywhere.
//!
//! - Bytes go where their place says. One that is left out or comes out of turn ends the stream.
//! - A stream that begins anew begins at the start of a segment. What of it was there already must come as it was: a server
//!   whose WAL is another at the same places is not the one that we followed.
//!
//! It holds one segment in memory, and knows neither the server nor who keeps the segments.

use hikae_model::{Lsn, SegmentName, SegmentSize, Timeline, sabotage};

/// Makes segments out of pieces of WAL.
pub struct SegmentAssembler {
    size: SegmentSize,
    timeline: Timeline,
    /// Where the segment under way begins.
    start: Lsn,
    /// What came of it.
    bytes: Vec<u8>,
    /// How much of that came on the connection at hand.
    seen: usize,
}

/// Why what came cannot be made into segments.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokenStream {
    /// Something was left out.
    #[error(
        "the stream of timeline {timeline} goes from {expected} to {found}, and what is between was never sent"
    )]
    Hole {
        /// The timeline.
        timeline: Timeline,
        /// The place that was to come.
        expected: Lsn,
        /// The place that came.
        found: Lsn,
    },
    /// Something came that was not to come any more.
    #[error("the stream of timeline {timeline} was to go on at {expected} and goes back to {found}")]
    Back {
        /// The timeline.
        timeline: Timeline,
        /// The place that was to come.
        expected: Lsn,
        /// The place that came.
        found: Lsn,
    },
    /// The server had other WAL at this place before.
    #[error("the WAL of timeline {timeline} at {at} is not what the server sent before")]
    Rewritten {
        /// The timeline.
        timeline: Timeline,
        /// The first place that differs.
        at: Lsn,
    },
    /// Nothing can be behind the last place there is.
    #[error("the stream reached the last place that there is")]
    PastTheEnd,
}

impl SegmentAssembler {
    /// Begins with the segment of `timeline` in which `lsn` lies, at its start.
    pub fn begin(timeline: Timeline, lsn: Lsn, size: SegmentSize) -> Self {
        let start = Lsn(lsn.0 - lsn.0 % size.bytes());
        Self { size, timeline, start, bytes: Vec::new(), seen: 0 }
    }

    /// The timeline that it is on.
    pub fn timeline(&self) -> Timeline {
        self.timeline
    }

    /// How long segments are.
    pub fn size(&self) -> SegmentSize {
        self.size
    }

    /// Where a stream has to begin: at the start of the segment under way.
    pub fn start(&self) -> Lsn {
        self.start
    }

    /// The place before which everything has come, on this connection or before.
    pub fn position(&self) -> Lsn {
        Lsn(self.start.0 + self.bytes.len() as u64)
    }

    /// The segment under way and what came of it.
    pub fn partial(&self) -> (SegmentName, &[u8]) {
        (SegmentName::holding(self.start, self.timeline, self.size), &self.bytes)
    }

    /// The stream begins anew at [`start`](Self::start).
    pub fn begin_anew(&mut self) {
        self.seen = 0;
    }

    /// The server goes on with `timeline`, which begins at `begins`. Its first segment holds what the old one held before
    /// that place, and is sent from its start.
    ///
    /// The old timeline may have come further: a promotion drops what its last record left unfinished, and a standby
    /// drops all that it never received.
    ///
    /// # Errors
    /// [`BrokenStream::Hole`] if the old timeline did not come that far.
    pub fn go_on(&mut self, timeline: Timeline, begins: Lsn) -> Result<(), BrokenStream> {
        let expected = self.position();
        if begins > expected {
            return Err(BrokenStream::Hole { timeline, expected, found: begins });
        }
        match begins.0.checked_sub(self.start.0) {
            // It fits: it is not longer than what is there.
            Some(common) => self.bytes.truncate(common as usize),
            None => *self = Self::begin(timeline, begins, self.size),
        }
        self.timeline = timeline;
        self.seen = 0;
        Ok(())
    }

    /// Takes `bytes`, which stand at `at`, and gives each segment that they make whole to `keep`.
    ///
    /// # Errors
    /// [`BrokenStream`] if they are not what has to come; whatever `keep` says.
    pub fn push<E: From<BrokenStream>>(
        &mut self,
        at: Lsn,
        mut bytes: &[u8],
        mut keep: impl FnMut(SegmentName, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let timeline = self.timeline;
        let expected = Lsn(self.start.0 + self.seen as u64);
        if at > expected && !sabotage::on("wal-hole-unnoticed") {
            return Err(BrokenStream::Hole { timeline, expected, found: at }.into());
        }
        if at < expected {
            return Err(BrokenStream::Back { timeline, expected, found: at }.into());
        }
        while !bytes.is_empty() {
            let known = &self.bytes[self.seen..];
            let n = known.len().min(bytes.len());
            let differs =
                (0..n).find(|&i| known[i] != bytes[i]).filter(|_| !sabotage::on("wal-rewritten-unseen"));
            if let Some(i) = differs {
                let at = Lsn(self.start.0 + (self.seen + i) as u64);
                return Err(BrokenStream::Rewritten { timeline, at }.into());
            }
            self.seen += n;
            bytes = &bytes[n..];
            if bytes.is_empty() {
                break;
            }
            // All that was known is behind us: from here on everything is new.
            let room = self.size.bytes() as usize - self.bytes.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.bytes.extend_from_slice(now);
            self.seen = self.bytes.len();
            bytes = later;
            if self.bytes.len() as u64 == self.size.bytes() {
                let next = self.start.0.checked_add(self.size.bytes()).ok_or(BrokenStream::PastTheEnd)?;
                keep(SegmentName::holding(self.start, timeline, self.size), &self.bytes)?;
                self.start = Lsn(next);
                self.bytes.clear();
                self.seen = 0;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hikae_testkit::{Seed, TestRandom};

    const MIB: u64 = 1 << 20;

    fn size() -> SegmentSize {
        SegmentSize::new(MIB).unwrap()
    }

    fn timeline(number: u32) -> Timeline {
        Timeline::new(number).unwrap()
    }

    fn nothing(_: SegmentName, _: &[u8]) -> Result<(), BrokenStream> {
        panic!("no segment is whole")
    }

    /// Messages of any length, connections that break anywhere: the segments are the bytes.
    #[test]
    fn segments_are_whole_wherever_messages_and_connections_break() {
        let random = TestRandom::new(Seed::draw());
        let wal = random.bytes(5 * MIB as usize);
        let begin = 3 * MIB;
        let mut assembler = SegmentAssembler::begin(Timeline::FIRST, Lsn(begin + 77), size());
        let mut segments = Vec::new();
        let mut at = 0;
        while at < wal.len() {
            let n =
                (random.below([3, 5000, 3_000_000][random.below(3) as usize]) as usize).min(wal.len() - at);
            assembler
                .push::<BrokenStream>(Lsn(begin + at as u64), &wal[at..at + n], |name, bytes| {
                    segments.push((name.to_string(), bytes.to_vec()));
                    Ok(())
                })
                .unwrap();
            at += n;
            assert!(assembler.position() >= Lsn(begin + at as u64));
            if random.once_in(20) {
                assembler.begin_anew();
                at = (assembler.start().0 - begin) as usize;
            }
        }
        assert_eq!(segments.len(), 5);
        for (n, (name, bytes)) in segments.iter().enumerate() {
            assert_eq!(*name, format!("0000000100000000000000{:02X}", n + 3));
            assert!(*bytes == wal[n * MIB as usize..][..MIB as usize], "{name}");
        }
    }

    /// Keeps E-6.
    #[test]
    fn what_is_left_out_or_comes_twice_ends_the_stream() {
        let mut assembler = SegmentAssembler::begin(Timeline::FIRST, Lsn(MIB), size());
        assembler.push(Lsn(MIB), b"abc", nothing).unwrap();
        let broken = assembler.push(Lsn(MIB + 4), b"e", nothing).expect_err("the hole went unnoticed");
        assert!(matches!(broken, BrokenStream::Hole { found: Lsn(0x10_0004), .. }), "{broken}");
        let broken = assembler.push(Lsn(MIB + 2), b"cd", nothing).unwrap_err();
        assert!(matches!(broken, BrokenStream::Back { .. }), "{broken}");
        assembler.push(Lsn(MIB + 3), b"d", nothing).unwrap();
        assert_eq!(assembler.partial().1, b"abcd");
    }

    /// Keeps E-7.
    #[test]
    fn a_server_whose_wal_is_another_at_the_same_place_is_found_out() {
        let mut assembler = SegmentAssembler::begin(Timeline::FIRST, Lsn(MIB), size());
        assembler.push(Lsn(MIB), b"abcd", nothing).unwrap();
        assembler.begin_anew();
        assembler.push(Lsn(MIB), b"ab", nothing).unwrap();
        let broken = assembler.push(Lsn(MIB + 2), b"cxy", nothing).expect_err("it was taken for the same");
        assert_eq!(broken, BrokenStream::Rewritten { timeline: Timeline::FIRST, at: Lsn(MIB + 3) });
    }

    #[test]
    fn a_new_timeline_begins_with_what_the_old_one_held() {
        let mut assembler = SegmentAssembler::begin(Timeline::FIRST, Lsn(MIB), size());
        assembler.push(Lsn(MIB), b"abcdXX", nothing).unwrap();
        assembler.go_on(timeline(2), Lsn(MIB + 4)).unwrap();
        assert_eq!(assembler.partial().0.to_string(), "000000020000000000000001");
        assembler.push(Lsn(MIB), b"abcde", nothing).unwrap();
        assert_eq!((assembler.position(), assembler.partial().1), (Lsn(MIB + 5), &b"abcde"[..]));
        assert!(matches!(assembler.go_on(timeline(3), Lsn(MIB + 6)), Err(BrokenStream::Hole { .. })));
        assembler.go_on(timeline(3), Lsn(MIB + 5)).unwrap();
        assert!(assembler.push(Lsn(MIB), b"abcdX", nothing).is_err());
        // It may begin in a segment that was whole on the old one.
        assembler.go_on(timeline(4), Lsn(3)).unwrap();
        assert_eq!((assembler.start(), assembler.position()), (Lsn(0), Lsn(0)));
    }
}
