//! The recovery window: every place in the log to which a cluster can come back, from what one repository really holds.
//!
//! A base backup and the unbroken log after it make an interval; the window is their union, for each timeline by itself.
//! It is never "from the first to the last": a segment that is missing ends an interval, and only the next base backup
//! begins another.
//!
//! This module knows names and places. It does not know where bases and segments are kept, nor what time it was at a place.

use hikae_model::{Lsn, SegmentName, SegmentSize, SnapshotId, Timeline, TimelineHistory, sabotage};
use hikae_repo::wal::LogFloor;
use std::collections::{BTreeMap, BTreeSet};

/// A base backup: where a recovery can begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// The snapshot that it is.
    pub snapshot: SnapshotId,
    /// The timeline on which it was taken.
    pub timeline: Timeline,
    /// The first place that its recovery reads.
    pub start: Lsn,
    /// Where it is consistent: no target before that can be reached from it.
    pub stop: Lsn,
    /// Whether the log from start to stop is in the snapshot, and need not be kept beside it.
    pub brings_its_log: bool,
}

impl Base {
    /// The first place of the log that must be kept beside it.
    pub(super) fn reads_from(&self) -> Lsn {
        if self.brings_its_log { self.stop } else { self.start }
    }
}

/// What is kept of the log of one cluster.
#[derive(Clone, Debug)]
pub struct Archive {
    /// How long its segments are.
    pub size: SegmentSize,
    /// The whole segments that are kept.
    pub segments: BTreeSet<SegmentName>,
    /// Segments of which only the beginning is kept, and where that ends.
    pub begun: BTreeMap<SegmentName, Lsn>,
    /// The histories that are kept. The first timeline has none and needs none.
    pub histories: BTreeMap<Timeline, TimelineHistory>,
    /// Below which nothing is kept on purpose.
    pub floors: Vec<LogFloor>,
}

/// Places that one can come back to, on one timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interval {
    /// The timeline that a recovery follows to get there.
    pub timeline: Timeline,
    /// The first place: where the earliest of its bases is consistent.
    pub from: Lsn,
    /// The first place beyond: the log from here on is not kept. The same as `from` if a base is all that there is.
    pub to: Lsn,
    /// The bases that lead into it, by the place where they are consistent.
    pub bases: Vec<Base>,
}

impl Interval {
    /// The last of its bases: there is always one.
    pub fn newest(&self) -> Base {
        self.bases[self.bases.len() - 1]
    }
}

/// Segments that are missing between what is kept of one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The timeline that a recovery cannot follow here.
    pub timeline: Timeline,
    /// The first segment that is missing.
    pub first: SegmentName,
    /// The last.
    pub last: SegmentName,
}

/// Where a cluster can come back to, and where not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// By timeline, then by place. None touches another of its timeline.
    pub intervals: Vec<Interval>,
    /// By timeline, then by place.
    pub gaps: Vec<Gap>,
    /// Timelines with segments or bases whose history is not kept: nothing before them leads to them.
    pub without_history: Vec<Timeline>,
}

impl Window {
    /// The window of the cluster with these bases and this log.
    pub fn of(bases: &[Base], archive: &Archive) -> Self {
        let mut timelines: BTreeSet<Timeline> = archive.histories.keys().copied().collect();
        timelines.extend(archive.segments.iter().chain(archive.begun.keys()).map(|segment| segment.timeline));
        timelines.extend(bases.iter().map(|base| base.timeline));
        let mut window = Self::default();
        for timeline in timelines {
            if timeline != Timeline::FIRST && !archive.histories.contains_key(&timeline) {
                window.without_history.push(timeline);
            }
            window.add(&Way::of(timeline, archive), bases);
        }
        window
    }

    fn add(&mut self, way: &Way<'_>, bases: &[Base]) {
        let mut bases: Vec<Base> = bases.iter().copied().filter(|base| way.passes(base)).collect();
        bases.sort_by_key(|base| (base.stop, base.start));
        for base in &bases {
            let to = way.unbroken_from(base.reads_from());
            if to < base.stop {
                continue; // not even its own part of the log is whole
            }
            match self.intervals.last_mut().filter(|last| last.timeline == way.timeline) {
                Some(last) if base.stop <= last.to => {
                    last.to = last.to.max(to);
                    last.bases.push(*base);
                }
                _ => self.intervals.push(Interval {
                    timeline: way.timeline,
                    from: base.stop,
                    to,
                    bases: vec![*base],
                }),
            }
        }
        if let Some(first) = bases.iter().map(Base::reads_from).min() {
            self.gaps.extend(way.gaps_after(first));
        }
    }

    /// The base from which `target` is reached soonest: the last that is consistent before it on this timeline.
    pub fn base_for(&self, timeline: Timeline, target: Lsn) -> Option<Base> {
        let on_it = self.intervals.iter().filter(|interval| interval.timeline == timeline);
        let holding = on_it.filter(|interval| interval.from <= target && target < interval.to);
        holding.flat_map(|interval| &interval.bases).rfind(|base| base.stop <= target).copied()
    }
}

impl Archive {
    /// True if this segment is not kept on purpose.
    pub fn is_floored(&self, segment: SegmentName) -> bool {
        self.floors.iter().any(|floor| floor.covers(segment.into()))
    }

    /// The segments that a recovery along `timeline` reads from `from` to the one before `to`, as far as they are kept.
    pub fn along(&self, timeline: Timeline, from: Lsn, to: Lsn) -> Vec<SegmentName> {
        let way = Way::of(timeline, self);
        let first = way.segment_start(from);
        let places = first..to.max(first);
        let mut starts: Vec<Lsn> = way.kept.range(places.clone()).copied().collect();
        starts.extend(way.begun.range(places).map(|(start, _)| *start));
        starts.sort_unstable();
        starts.into_iter().map(|start| way.segment_at(start)).collect()
    }
}

/// The way of a recovery that follows one timeline: through its ancestors, then along it.
struct Way<'a> {
    timeline: Timeline,
    history: Option<&'a TimelineHistory>,
    archive: &'a Archive,
    size: SegmentSize,
    /// Where the segments begin that are kept of it.
    kept: BTreeSet<Lsn>,
    /// Where those begin of which only the beginning is kept, and where that ends.
    begun: BTreeMap<Lsn, Lsn>,
    /// The last of all of them that is of the timeline itself.
    last: Option<Lsn>,
}

impl<'a> Way<'a> {
    fn of(timeline: Timeline, archive: &'a Archive) -> Self {
        let history = archive.histories.get(&timeline);
        let (kept, begun) = (BTreeSet::new(), BTreeMap::new());
        let mut way = Self { timeline, history, archive, size: archive.size, kept, begun, last: None };
        let whole = archive.segments.iter().map(|segment| (*segment, None));
        let begun = archive.begun.iter().map(|(segment, end)| (*segment, Some(*end)));
        for (segment, end) in whole.chain(begun) {
            let Some(start) = segment.start(archive.size).filter(|start| way.segment_at(*start) == segment)
            else {
                continue;
            };
            match end {
                None => drop(way.kept.insert(start)),
                Some(end) => drop(way.begun.insert(start, end)),
            }
            if segment.timeline == timeline {
                way.last = way.last.max(Some(start));
            }
        }
        way
    }

    /// Whether a recovery from `base` can follow it: the base lies on it, whole.
    fn passes(&self, base: &Base) -> bool {
        let end = self.history.and_then(|history| history.end_of(base.timeline));
        base.timeline == self.timeline || end.is_some_and(|end| base.stop <= end)
    }

    /// The segment with the log at `lsn`. The one in which a timeline ended is read from its successor, which holds a
    /// copy of what came before (`XLogFileReadAnyTLI` in `xlogrecovery.c`).
    fn segment_at(&self, lsn: Lsn) -> SegmentName {
        let last_of_segment = match sabotage::on("fork-read-from-parent") {
            true => lsn,
            false => Lsn(lsn.0 | (self.size.bytes() - 1)),
        };
        let timeline = self.history.map_or(self.timeline, |history| history.timeline_at(last_of_segment));
        SegmentName::holding(lsn, timeline, self.size)
    }

    fn segment_start(&self, lsn: Lsn) -> Lsn {
        Lsn(lsn.0 & !(self.size.bytes() - 1))
    }

    /// Where the segment after the one that begins at `start` does; the last place of all if there is none.
    fn after(&self, start: Lsn) -> Lsn {
        Lsn(start.0.saturating_add(self.size.bytes()))
    }

    /// The end of the log that is kept without a break from the segment of `start` on; `start` if that is missing.
    fn unbroken_from(&self, start: Lsn) -> Lsn {
        let first = self.segment_start(start);
        let mut end = first;
        for kept in self.kept.range(first..) {
            if *kept != end && !sabotage::on("wal-gap-unseen") {
                break;
            }
            end = self.after(*kept);
        }
        self.begun.get(&end).copied().unwrap_or(end).max(start)
    }

    /// What is missing from the segment of `first` to the last that is kept of the timeline itself, whole or not. What is not
    /// kept on purpose is not missing.
    fn gaps_after(&self, first: Lsn) -> Vec<Gap> {
        let mut expected = self.segment_start(first);
        let Some(last) = self.last.filter(|last| *last >= expected) else { return Vec::new() };
        let mut gaps = Vec::new();
        let begun_last = self.begun.get_key_value(&last).map(|(start, _)| start);
        for kept in self.kept.range(expected..=last).chain(begun_last) {
            let is_missing = |start: &Lsn| !self.archive.is_floored(self.segment_at(*start));
            let missing = std::iter::successors(Some(expected), |start| Some(self.after(*start)));
            if let Some(first) = missing.take_while(|start| start < kept).find(is_missing) {
                gaps.push(Gap {
                    timeline: self.timeline,
                    first: self.segment_at(first),
                    last: self.segment_at(Lsn(kept.0 - 1)),
                });
            }
            expected = self.after(*kept);
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hikae_testkit::{Seed, TestRandom};

    const SIZE: u64 = 1 << 20;

    fn timeline(number: u32) -> Timeline {
        Timeline::new(number).unwrap()
    }

    fn segment(line: u32, number: u64) -> SegmentName {
        SegmentName::holding(Lsn(number * SIZE), timeline(line), SegmentSize::new(SIZE).unwrap())
    }

    /// A base on `line` that begins in the segment `number` and is consistent in it.
    fn base(line: u32, number: u64) -> Base {
        let start = Lsn(number * SIZE + 40);
        let snapshot = SnapshotId::from_bytes([number as u8; 32]);
        let stop = Lsn(start.0 + 1000);
        Base { snapshot, timeline: timeline(line), start, stop, brings_its_log: false }
    }

    fn archive(segments: impl IntoIterator<Item = (u32, u64)>, histories: &[(u32, &str)]) -> Archive {
        Archive {
            size: SegmentSize::new(SIZE).unwrap(),
            segments: segments.into_iter().map(|(line, number)| segment(line, number)).collect(),
            begun: BTreeMap::new(),
            histories: histories
                .iter()
                .map(|(line, text)| {
                    let line = timeline(*line);
                    (line, TimelineHistory::parse(line, text.as_bytes()).unwrap())
                })
                .collect(),
            floors: Vec::new(),
        }
    }

    fn line_of(numbers: impl IntoIterator<Item = u64>) -> impl Iterator<Item = (u32, u64)> {
        numbers.into_iter().map(|number| (1, number))
    }

    /// Keeps BC-1, BC-31.
    #[test]
    fn a_missing_segment_ends_an_interval_until_the_next_base() {
        let window = Window::of(&[base(1, 3), base(1, 12)], &archive(line_of((2..8).chain(9..16)), &[]));
        let found: Vec<_> = window.intervals.iter().map(|i| (i.from, i.to, i.bases.len())).collect();
        let (first, second) = (base(1, 3), base(1, 12));
        assert_eq!(found, [(first.stop, Lsn(8 * SIZE), 1), (second.stop, Lsn(16 * SIZE), 1)]);
        assert_eq!(window.gaps, [Gap { timeline: timeline(1), first: segment(1, 8), last: segment(1, 8) }]);
        assert_eq!(window.base_for(timeline(1), Lsn(9 * SIZE)), None);
        assert_eq!(window.base_for(timeline(1), Lsn(8 * SIZE - 1)), Some(first));
        assert_eq!(window.base_for(timeline(1), Lsn(second.stop.0 - 1)), None);
        assert_eq!(window.base_for(timeline(1), second.stop), Some(second));
    }

    #[test]
    fn the_nearest_base_before_a_target_is_taken() {
        let window = Window::of(&[base(1, 2), base(1, 5), base(1, 9)], &archive(line_of(2..12), &[]));
        assert_eq!(window.intervals.len(), 1);
        let base_for = |number: u64| window.base_for(timeline(1), Lsn(number * SIZE));
        assert_eq!(
            (base_for(5), base_for(9), base_for(11)),
            (Some(base(1, 2)), Some(base(1, 5)), Some(base(1, 9)))
        );
        assert_eq!(base_for(12), None);
    }

    #[test]
    fn a_base_whose_own_log_is_not_whole_leads_nowhere() {
        let mut long = base(1, 3);
        long.stop = Lsn(5 * SIZE + 1);
        let window = Window::of(&[long], &archive(line_of([3, 4, 6]), &[]));
        assert_eq!(window.intervals, []);
        assert_eq!(window.gaps.len(), 1);
    }

    #[test]
    fn a_base_that_brings_its_log_needs_what_follows_and_nothing_else() {
        let mut long = Base { brings_its_log: true, ..base(1, 3) };
        long.stop = Lsn(5 * SIZE + 1);
        let window = Window::of(&[long], &archive(line_of([5, 6]), &[]));
        assert_eq!((window.intervals[0].from, window.intervals[0].to), (long.stop, Lsn(7 * SIZE)));
        let window = Window::of(&[long], &archive(line_of([7]), &[]));
        assert_eq!((window.intervals[0].from, window.intervals[0].to), (long.stop, long.stop));
        assert_eq!(window.gaps, [Gap { timeline: timeline(1), first: segment(1, 5), last: segment(1, 6) }]);
    }

    #[test]
    fn what_a_floor_has_let_go_is_no_gap_and_what_is_missing_above_it_is() {
        let bases = [base(1, 2), base(1, 9)].map(|base| Base { brings_its_log: true, ..base });
        let mut archive = archive(line_of(9..12), &[]);
        let gap = |first: u64| Gap { timeline: timeline(1), first: segment(1, first), last: segment(1, 8) };
        for (below, gaps) in [(None, vec![gap(2)]), (Some(9), Vec::new()), (Some(7), vec![gap(7)])] {
            archive.floors = Vec::from_iter(below.map(|below| LogFloor {
                system: hikae_model::SystemId(7),
                timeline: timeline(1),
                below: Lsn(below * SIZE),
                segment_size: archive.size,
            }));
            let window = Window::of(&bases, &archive);
            assert_eq!(window.gaps, gaps, "{below:?}");
            let found: Vec<_> = window.intervals.iter().map(|i| (i.from, i.to)).collect();
            assert_eq!(found, [(bases[0].stop, bases[0].stop), (bases[1].stop, Lsn(12 * SIZE))]);
        }
    }

    /// Keeps EC-10.
    #[test]
    fn the_beginning_of_a_segment_is_reached_and_no_byte_beyond() {
        let begun = |number: u64, bytes: u64| (segment(1, number), Lsn(number * SIZE + bytes));
        let mut kept = archive(line_of(2..6), &[]);
        kept.begun = BTreeMap::from([begun(6, 777)]);
        let window = Window::of(&[base(1, 3)], &kept);
        assert_eq!((window.intervals[0].to, window.gaps.len()), (Lsn(6 * SIZE + 777), 0));
        assert_eq!(window.base_for(timeline(1), Lsn(6 * SIZE + 776)), Some(base(1, 3)));
        assert_eq!(window.base_for(timeline(1), Lsn(6 * SIZE + 777)), None);
        let along = kept.along(timeline(1), Lsn(4 * SIZE), Lsn(9 * SIZE));
        assert_eq!(along, [segment(1, 4), segment(1, 5), segment(1, 6)]);

        // What follows it makes it a gap, whole or begun.
        kept.segments.insert(segment(1, 7));
        kept.begun.extend([begun(9, 5)]);
        let window = Window::of(&[base(1, 3)], &kept);
        assert_eq!(window.intervals[0].to, Lsn(6 * SIZE + 777));
        let gaps = [6, 8].map(|n| Gap { timeline: timeline(1), first: segment(1, n), last: segment(1, n) });
        assert_eq!(window.gaps, gaps);
        // A base in it is reached by what is kept of it.
        kept.begun = BTreeMap::from([begun(8, 4000)]);
        let window = Window::of(&[base(1, 8)], &kept);
        assert_eq!(
            (window.intervals[0].from, window.intervals[0].to),
            (base(1, 8).stop, Lsn(8 * SIZE + 4000))
        );
        kept.begun = BTreeMap::from([begun(8, 1000)]);
        assert_eq!(Window::of(&[base(1, 8)], &kept).intervals, []);
    }

    /// Of the segment in which a timeline ended, what its successor holds is read.
    #[test]
    fn what_is_begun_on_a_timeline_that_ended_in_it_is_its_own_end_alone() {
        let history = format!("1\t{}\tpromoted\n", Lsn(5 * SIZE + 500));
        let mut kept = archive(line_of(2..5), &[(2, &history)]);
        kept.begun =
            BTreeMap::from([(segment(1, 5), Lsn(5 * SIZE + 900)), (segment(2, 5), Lsn(5 * SIZE + 600))]);
        let window = Window::of(&[base(1, 2)], &kept);
        let found: Vec<_> = window.intervals.iter().map(|i| (i.timeline.get(), i.to)).collect();
        assert_eq!(found, [(1, Lsn(5 * SIZE + 900)), (2, Lsn(5 * SIZE + 600))]);
        assert_eq!(window.gaps, []);
        assert_eq!(kept.along(timeline(2), Lsn(4 * SIZE), Lsn(7 * SIZE)), [segment(1, 4), segment(2, 5)]);
    }

    /// A promotion in the middle of a segment: its successor's copy is what a recovery reads.
    #[test]
    fn a_recovery_follows_a_promotion_and_both_lines_can_be_reached() {
        let end = Lsn(5 * SIZE + 500);
        let history = format!("1\t{end}\tpromoted\n");
        let kept = line_of(2..9).chain((5..8).map(|number| (2, number)));
        let window = Window::of(&[base(1, 2)], &archive(kept, &[(2, &history)]));
        let found: Vec<_> = window.intervals.iter().map(|i| (i.timeline.get(), i.to)).collect();
        assert_eq!(found, [(1, Lsn(9 * SIZE)), (2, Lsn(8 * SIZE))]);
        assert_eq!((window.gaps.len(), window.without_history.len()), (0, 0));

        // Without the copy there is no way on, though the old line goes on.
        let kept = line_of(2..9).chain((6..8).map(|number| (2, number)));
        let window = Window::of(&[base(1, 2)], &archive(kept, &[(2, &history)]));
        assert_eq!(window.base_for(timeline(2), Lsn(6 * SIZE)), None);
        assert_eq!(window.gaps, [Gap { timeline: timeline(2), first: segment(2, 5), last: segment(2, 5) }]);
    }

    #[test]
    fn a_base_after_the_fork_does_not_lead_to_the_other_line() {
        let history = format!("1\t{}\tpromoted\n", Lsn(5 * SIZE + 500));
        let kept = line_of(2..9).chain((5..9).map(|number| (2, number)));
        let window = Window::of(&[base(1, 6)], &archive(kept, &[(2, &history)]));
        assert!(window.intervals.iter().all(|interval| interval.timeline == timeline(1)));
    }

    #[test]
    fn without_its_history_a_timeline_is_named_and_joined_to_nothing() {
        let kept = line_of(2..6).chain((5..9).map(|number| (2, number)));
        let window = Window::of(&[base(1, 2)], &archive(kept, &[]));
        assert_eq!(window.without_history, [timeline(2)]);
        assert!(window.intervals.iter().all(|interval| interval.timeline == timeline(1)));
    }

    /// Keeps E-6. Against a recovery that is played segment by segment.
    #[test]
    fn every_gap_of_random_schedules_is_found_and_nothing_else() {
        let random = TestRandom::new(Seed::draw());
        for _ in 0..1000 {
            let fork = random.below(30);
            let history = format!("1\t{}\tpromoted\n", Lsn(fork * SIZE + random.below(SIZE)));
            let mut kept = BTreeSet::new();
            for number in 0..40 {
                let lines = [(1, number <= fork + random.below(3)), (2, number >= fork)];
                kept.extend(
                    lines.iter().filter(|(_, made)| *made && random.below(12) > 0).map(|(l, _)| (*l, number)),
                );
            }
            let bases: Vec<Base> = (0..1 + random.below(3))
                .map(|_| (1 + random.below(2) as u32, random.below(40)))
                .filter(|(line, number)| (*line == 1) == (*number < fork))
                .map(|(line, number)| base(line, number))
                .collect();
            let archive = archive(kept.iter().copied(), &[(2, &history)]);
            let window = Window::of(&bases, &archive);
            for line in [1, 2] {
                for number in 0..41 {
                    let target = Lsn(number * SIZE + SIZE / 2);
                    let expected = bases
                        .iter()
                        .filter(|base| base.stop <= target && plays(base, target, line, fork, &kept))
                        .max_by_key(|base| base.stop);
                    let found = window.base_for(timeline(line), target);
                    assert_eq!(
                        found,
                        expected.copied(),
                        "line {line}, segment {number}, of {kept:?}, {bases:?}"
                    );
                }
            }
        }
    }

    /// Whether a recovery from `base` along `line` reads each segment up to that of `target`.
    fn plays(base: &Base, target: Lsn, line: u32, fork: u64, kept: &BTreeSet<(u32, u64)>) -> bool {
        if base.timeline.get() > line {
            return false;
        }
        (base.start.0 / SIZE..=target.0 / SIZE)
            .all(|number| kept.contains(&(if line == 2 && number >= fork { 2 } else { 1 }, number)))
    }
}
