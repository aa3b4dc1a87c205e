//! What a recovery can aim at, found in the log itself: commits with their times, and restore points.
//!
//! It reads records as the server does (`xlogreader.c`, `xlogrecord.h`, `xact.h`, `pg_control.h`; they have been the same
//! from 13 to 18), and only as far as it takes to tell one from the next. Their checksums are not compared: what is kept of
//! the log is proved elsewhere, and the server compares them when it recovers.
//!
//! ```text
//! page   | header 24, or 40 on the first of a segment | rest of a record | records, each at a multiple of 8
//! record | length u32 | transaction u32 | previous u64 | info u8 | manager u8 | 0 u16 | checksum u32 | headers | main data
//! ```

use super::Lsn;
use jiff::{SignedDuration, Timestamp};

const SHORT_PAGE_HEADER: usize = 24;
const LONG_PAGE_HEADER: usize = 40;
const RECORD_HEADER: usize = 24;
const ALIGNMENT: usize = 8;
/// Of the first bytes of a record so many are kept: all of what is looked at stands in them.
const KEPT: usize = 160;

/// Flags of a page (`xlog_internal.h`).
const BEGINS_WITH_REST: u16 = 0x01;
const HAS_LONG_HEADER: u16 = 0x02;

/// Resource managers, and what they write (`rmgrlist.h`, `pg_control.h`, `xact.h`).
const XLOG: u8 = 0;
const XLOG_SWITCH: u8 = 0x40;
const XLOG_RESTORE_POINT: u8 = 0x70;
const TRANSACTION: u8 = 1;
const TRANSACTION_KIND: u8 = 0x70;
const COMMIT: u8 = 0x00;
const COMMIT_PREPARED: u8 = 0x30;

/// Headers before the main data (`xlogrecord.h`).
const MAIN_DATA_SHORT: u8 = 255;
const MAIN_DATA_LONG: u8 = 254;
const ORIGIN: u8 = 253;
const TOP_TRANSACTION: u8 = 252;

/// The server counts microseconds from here.
const SERVER_EPOCH: Timestamp = Timestamp::constant(946_684_800, 0);

/// A moment in the log that has a time.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Landmark {
    /// Where its record begins.
    pub at: Lsn,
    /// When, by the server's clock.
    pub time: Timestamp,
    /// What.
    pub kind: LandmarkKind,
}

/// What happened at a landmark.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LandmarkKind {
    /// A transaction was committed. `None` for one that had been prepared: its number is elsewhere in the record.
    Commit(Option<u32>),
    /// `pg_create_restore_point` was called with this name, as far as it is UTF-8.
    RestorePoint(String),
}

/// Finds landmarks in segments that follow each other.
#[derive(Debug)]
pub struct LandmarkFinder {
    /// Bytes of a page of the log.
    page_bytes: usize,
    /// The record under way.
    record: Option<Record>,
    /// Where the page after the last that was read begins.
    next_page: Option<Lsn>,
}

/// A record of which the beginning was read.
#[derive(Debug)]
struct Record {
    at: Lsn,
    /// What is still to come.
    rest: usize,
    kept: Vec<u8>,
}

impl LandmarkFinder {
    /// For a log with pages of this many bytes: 8,192, unless the server was built otherwise.
    pub fn new(page_bytes: u32) -> Self {
        Self { page_bytes: page_bytes as usize, record: None, next_page: None }
    }

    /// Looks through the segment that begins at `start`, or as much of its beginning as is there, and shows what it finds in
    /// order. A record that goes over the end is shown when the next segment is looked through, if that follows.
    ///
    /// True if the log goes on to the end of the segment; false if it ends before, or a switch left the rest empty.
    pub fn look_through(&mut self, start: Lsn, segment: &[u8], show: &mut dyn FnMut(Landmark)) -> bool {
        if self.next_page != Some(start) {
            self.record = None;
        }
        let mut at = start;
        // The last page of a segment that was not whole may be cut, and is read as far as it goes.
        for page in segment.chunks(self.page_bytes) {
            if !self.look_through_page(at, page, show) {
                (self.record, self.next_page) = (None, None);
                return false;
            }
            at = Lsn(at.0.wrapping_add(page.len() as u64));
        }
        self.next_page = Some(at);
        true
    }

    /// False if the log ends on this page.
    fn look_through_page(&mut self, at: Lsn, page: &[u8], show: &mut dyn FnMut(Landmark)) -> bool {
        let Some(header) = PageHeader::parse(page).filter(|header| header.address == at) else {
            return false;
        };
        let mut pos = header.bytes;
        if header.rest > 0 && header.flags & BEGINS_WITH_REST != 0 {
            // Of a record whose beginning we have not seen, or that the server gave up and overwrote, only the end is passed.
            let ours = self.record.take().filter(|record| record.rest == header.rest);
            let here = header.rest.min(page.len() - pos);
            if let Some(mut record) = ours {
                record.take(&page[pos..pos + here]);
                if self.keep_or_show(record, show) {
                    return false;
                }
            }
            if here < header.rest || pos + here == page.len() {
                return true;
            }
            pos = align(pos + here);
        } else {
            self.record = None;
        }
        // What is aligned has room for a length, or none at all.
        while let Some(length) = page.get(pos..).and_then(|rest| rest.first_chunk()) {
            let length = u32::from_le_bytes(*length) as usize;
            if length < RECORD_HEADER {
                return false;
            }
            let here = length.min(page.len() - pos);
            let mut record = Record { at: Lsn(at.0 + pos as u64), rest: length, kept: Vec::new() };
            record.take(&page[pos..pos + here]);
            if self.keep_or_show(record, show) {
                return false;
            }
            pos = align(pos + here);
        }
        true
    }

    /// True if the record is whole and the rest of its segment is empty.
    fn keep_or_show(&mut self, record: Record, show: &mut dyn FnMut(Landmark)) -> bool {
        if record.rest > 0 {
            self.record = Some(record);
            return false;
        }
        if let Some(landmark) = record.landmark() {
            show(landmark);
        }
        record.manager() == Some((XLOG, XLOG_SWITCH))
    }
}

impl Record {
    fn take(&mut self, bytes: &[u8]) {
        self.rest -= bytes.len();
        let wanted = KEPT.saturating_sub(self.kept.len());
        self.kept.extend_from_slice(&bytes[..bytes.len().min(wanted)]);
    }

    /// Who wrote it, and what, without the bits that say how it is stored.
    fn manager(&self) -> Option<(u8, u8)> {
        Some((*self.kept.get(17)?, self.kept.get(16)? & 0xf0))
    }

    fn landmark(&self) -> Option<Landmark> {
        let (manager, info) = self.manager()?;
        let data = match (manager, info) {
            (TRANSACTION, _) | (XLOG, XLOG_RESTORE_POINT) => self.main_data()?,
            _ => return None,
        };
        let time = i64::from_le_bytes(*data.first_chunk()?);
        let time = SERVER_EPOCH.checked_add(SignedDuration::from_micros(time)).ok()?;
        let kind = match (manager, info & TRANSACTION_KIND) {
            (TRANSACTION, COMMIT) => {
                LandmarkKind::Commit(Some(u32::from_le_bytes(*self.kept.get(4..)?.first_chunk()?)))
            }
            (TRANSACTION, COMMIT_PREPARED) => LandmarkKind::Commit(None),
            (XLOG, XLOG_RESTORE_POINT) => {
                let name = data.get(8..)?.split(|byte| *byte == 0).next()?;
                LandmarkKind::RestorePoint(String::from_utf8_lossy(name).into_owned())
            }
            _ => return None,
        };
        Some(Landmark { at: self.at, time, kind })
    }

    /// The beginning of its main data; `None` if it has blocks, as no landmark has.
    fn main_data(&self) -> Option<&[u8]> {
        let mut headers = self.kept.get(RECORD_HEADER..)?;
        loop {
            let (id, after) = headers.split_first()?;
            match *id {
                MAIN_DATA_SHORT => return after.get(1..),
                MAIN_DATA_LONG => return after.get(4..),
                ORIGIN => headers = after.get(2..)?,
                TOP_TRANSACTION => headers = after.get(4..)?,
                _ => return None,
            }
        }
    }
}

struct PageHeader {
    flags: u16,
    address: Lsn,
    /// What is still to come of the record that the page begins with, this page included.
    rest: usize,
    bytes: usize,
}

impl PageHeader {
    fn parse(page: &[u8]) -> Option<Self> {
        let flags = u16::from_le_bytes(*page.get(2..)?.first_chunk()?);
        let address = Lsn(u64::from_le_bytes(*page.get(8..)?.first_chunk()?));
        let rest = u32::from_le_bytes(*page.get(16..)?.first_chunk()?) as usize;
        let bytes = if flags & HAS_LONG_HEADER != 0 { LONG_PAGE_HEADER } else { SHORT_PAGE_HEADER };
        (page.len() >= bytes).then_some(Self { flags, address, rest, bytes })
    }
}

fn align(pos: usize) -> usize {
    pos.next_multiple_of(ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 512;

    /// Pages that begin at `start`, with these records one after the other.
    struct Log {
        start: u64,
        bytes: Vec<u8>,
    }

    impl Log {
        fn at(start: u64) -> Self {
            Self { start, bytes: Vec::new() }
        }

        fn begin_page(&mut self, rest: usize) {
            let flags = if rest > 0 { BEGINS_WITH_REST } else { 0 };
            let address = self.start + self.bytes.len() as u64;
            self.bytes.extend([0xd1, 0x10]);
            self.bytes.extend(flags.to_le_bytes());
            self.bytes.extend(1u32.to_le_bytes());
            self.bytes.extend(address.to_le_bytes());
            self.bytes.extend((rest as u32).to_le_bytes());
            self.bytes.extend([0; 4]);
        }

        fn record(&mut self, xid: u32, manager: u8, info: u8, body: &[u8]) -> Lsn {
            let mut record = ((RECORD_HEADER + body.len()) as u32).to_le_bytes().to_vec();
            record.extend(xid.to_le_bytes());
            record.extend([0; 8]);
            record.extend([info, manager, 0, 0, 9, 9, 9, 9]);
            record.extend(body);
            if self.bytes.len().is_multiple_of(PAGE) {
                self.begin_page(0);
            }
            let at = self.start + self.bytes.len() as u64;
            let mut rest = &record[..];
            loop {
                let room = PAGE - self.bytes.len() % PAGE;
                let (here, after) = rest.split_at(rest.len().min(room));
                self.bytes.extend(here);
                rest = after;
                if rest.is_empty() {
                    break;
                }
                self.begin_page(rest.len());
            }
            self.bytes.resize(align(self.bytes.len()), 0);
            Lsn(at)
        }

        fn commit(&mut self, xid: u32, micros: i64) -> Lsn {
            let data = [&[MAIN_DATA_SHORT, 8][..], &micros.to_le_bytes()].concat();
            self.record(xid, TRANSACTION, COMMIT, &data)
        }

        fn end(mut self) -> Vec<u8> {
            self.bytes.resize(self.bytes.len().next_multiple_of(PAGE), 0);
            self.bytes
        }
    }

    fn found(finder: &mut LandmarkFinder, start: u64, bytes: &[u8]) -> Vec<(Lsn, LandmarkKind)> {
        let mut found = Vec::new();
        finder.look_through(Lsn(start), bytes, &mut |landmark| found.push((landmark.at, landmark.kind)));
        found
    }

    #[test]
    fn commits_are_found_wherever_their_records_are_broken() {
        // Each round moves all records by eight bytes over the ends of pages.
        for before in (0..PAGE).step_by(ALIGNMENT) {
            let mut log = Log::at(0x10_0000);
            log.record(1, 10, 0, &vec![7; before + 700]);
            let expected: Vec<_> =
                (0..40).map(|n| (log.commit(n, 5), LandmarkKind::Commit(Some(n)))).collect();
            let bytes = log.end();
            assert_eq!(found(&mut LandmarkFinder::new(PAGE as u32), 0x10_0000, &bytes), expected, "{before}");
            // In two halves, as of two segments.
            let mut finder = LandmarkFinder::new(PAGE as u32);
            let (first, second) = bytes.split_at(2 * PAGE);
            let mut parts = found(&mut finder, 0x10_0000, first);
            parts.extend(found(&mut finder, 0x10_0000 + 2 * PAGE as u64, second));
            assert_eq!(parts, expected, "{before}");
            // The second alone: what began before it is passed over.
            let alone = found(&mut LandmarkFinder::new(PAGE as u32), 0x10_0000 + 2 * PAGE as u64, second);
            assert_eq!(alone, expected[expected.len() - alone.len()..], "{before}");
        }
    }

    /// What came of a segment that was not whole is cut anywhere.
    #[test]
    fn a_record_that_is_cut_is_not_found_and_all_before_it_are() {
        let mut log = Log::at(0);
        let expected: Vec<_> = (0..40).map(|n| (log.commit(n, 5), LandmarkKind::Commit(Some(n)))).collect();
        let whole = log.end();
        let record = RECORD_HEADER + 10;
        for cut in 0..whole.len() {
            let found = found(&mut LandmarkFinder::new(PAGE as u32), 0, &whole[..cut]);
            let broken = |at: &Lsn| at.0 as usize % PAGE + record > PAGE;
            let headers = |at: &Lsn| if broken(at) { SHORT_PAGE_HEADER } else { 0 };
            let is_whole = |(at, _): &&(Lsn, _)| at.0 as usize + record + headers(at) <= cut;
            assert_eq!(found, expected.iter().filter(is_whole).cloned().collect::<Vec<_>>(), "{cut}");
        }
    }

    #[test]
    fn a_restore_point_has_its_name_and_time() {
        let mut log = Log::at(0);
        let mut data = vec![MAIN_DATA_SHORT, 72];
        data.extend(86_400_000_000i64.to_le_bytes());
        let mut name = [0; 64];
        name[..6].copy_from_slice(b"before");
        data.extend(name);
        log.record(0, XLOG, XLOG_RESTORE_POINT, &data);
        let mut landmarks = Vec::new();
        LandmarkFinder::new(PAGE as u32).look_through(Lsn(0), &log.end(), &mut |found| landmarks.push(found));
        assert_eq!(landmarks[0].kind, LandmarkKind::RestorePoint("before".into()));
        assert_eq!(landmarks[0].time.to_string(), "2000-01-02T00:00:00Z");
    }

    #[test]
    fn nothing_is_read_behind_a_switch_or_on_a_page_of_another_place() {
        let mut log = Log::at(0);
        log.commit(1, 0);
        log.record(0, XLOG, XLOG_SWITCH, &[]);
        log.commit(2, 0);
        let bytes = log.end();
        assert_eq!(found(&mut LandmarkFinder::new(PAGE as u32), 0, &bytes).len(), 1);
        assert_eq!(found(&mut LandmarkFinder::new(PAGE as u32), PAGE as u64, &bytes).len(), 0);
    }

    /// What is stored is hostile until parsed.
    #[test]
    fn any_bytes_end_the_log_and_nothing_else() {
        let mut log = Log::at(0);
        (0..60).for_each(|n| _ = log.commit(n, i64::MAX));
        let good = log.end();
        for at in 0..good.len() {
            for value in [0, 0xff, 0x80, good[at] ^ 1] {
                let mut bad = good.clone();
                bad[at] = value;
                found(&mut LandmarkFinder::new(PAGE as u32), 0, &bad);
            }
        }
    }
}
