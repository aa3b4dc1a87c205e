//! Reading the files of a running server: they may grow, shrink and vanish under our hands, and the log makes good for it.
//!
//! A file is read up to the length that it had when it was opened. Pages are looked at as they pass: one whose checksum is
//! wrong may be a page that is being written, so it is read again; if it stays wrong and the log does not bring it back,
//! it was damaged before, and is named. It is kept as it is: half a page is better than none.
//!
//! This module knows open files. It knows no listing and no server.

use super::names::RelationFile;
use super::page::{self, Seen};
use super::segment::Expected;
use super::walk::Root;
use crate::files::beneath;
use hikae_model::{ContentError, Lsn, ReadContent, Stretch, sabotage};
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::io::{Errno, pread, retry_on_intr};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often a page that is not right is read again, a little later each time.
const LOOKS: u32 = 5;
/// How many pages of a backup are named; the count is exact.
const MAX_NAMED: usize = 1000;

/// What all files of one backup have in common, and what was found in them.
#[derive(Debug)]
pub(super) struct Pages {
    pub(super) page_bytes: u32,
    /// Pages in one file of a relation.
    pub(super) segment_blocks: u32,
    /// Whether pages have checksums.
    pub(super) checked: bool,
    /// From here on the log brings changed pages back whole.
    pub(super) start: Lsn,
    n_looked_at: AtomicU64,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    n_bad: u64,
    bad: Vec<BadPage>,
    /// Wrong, and changed since the backup began, if what they say of themselves is true.
    doubtful: Vec<(BadPage, Lsn)>,
}

/// Looks at a page again: its bytes, its block, and where it stands in the file.
pub(super) type LookAgain<'a> = dyn FnMut(&mut [u8], u32, u64) -> io::Result<Seen> + 'a;

/// A page that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadPage {
    /// The file.
    pub(super) path: PathBuf,
    /// The page in its relation, as `pageinspect` counts.
    pub(super) block: u32,
}

impl Pages {
    pub(super) fn new(page_bytes: u32, segment_blocks: u32, checked: bool, start: Lsn) -> Self {
        Self {
            page_bytes,
            segment_blocks,
            checked,
            start,
            n_looked_at: AtomicU64::new(0),
            found: Mutex::default(),
        }
    }

    pub(super) fn n_looked_at(&self) -> u64 {
        self.n_looked_at.load(Ordering::Relaxed)
    }

    /// The damaged pages, and how many there are. A page that says that it was changed after the backup ended was not.
    pub(super) fn bad(&self, stop: Lsn) -> (u64, Vec<BadPage>) {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let lies = |(_, lsn): &&(BadPage, Lsn)| *lsn > stop;
        let late: Vec<_> = found.doubtful.iter().filter(lies).map(|(page, _)| page.clone()).collect();
        let mut bad = found.bad.clone();
        let n = found.n_bad + late.len() as u64;
        bad.extend(late);
        (n, bad)
    }

    /// Looks at all whole pages in `bytes`, which stand at `at` in the file. One that is not right is given to `again`,
    /// which may read it anew.
    pub(super) fn check(
        &self,
        relation: RelationFile,
        path: &dyn Fn() -> PathBuf,
        at: u64,
        bytes: &mut [u8],
        again: &mut LookAgain<'_>,
    ) -> io::Result<()> {
        let page_bytes = self.page_bytes as usize;
        let mut n_pages = 0;
        for (n, page) in bytes.chunks_exact_mut(page_bytes).enumerate() {
            n_pages += 1;
            let at = at + (n * page_bytes) as u64;
            let block = block(relation, at, self);
            if let Seen::Bad(_) = page::look(page, block)
                && let Seen::Bad(lsn) = again(page, block, at)?
            {
                self.add(BadPage { path: path(), block }, lsn);
            }
        }
        self.n_looked_at.fetch_add(n_pages, Ordering::Relaxed);
        Ok(())
    }

    fn add(&self, page: BadPage, lsn: Lsn) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if lsn >= self.start {
            found.doubtful.push((page, lsn));
            return;
        }
        found.n_bad += 1;
        if found.bad.len() < MAX_NAMED {
            found.bad.push(page);
        }
    }
}

/// What a look at some pages of a file shows that is said not to have changed.
pub(super) enum Sample {
    /// These pages, each with where it stands. One that was changed since the backup began is not among them.
    Pages(Vec<(u64, Vec<u8>)>),
    /// Something is wrong with it, so that all of it is read.
    Doubtful,
}

/// A file of the server that is said not to have changed.
pub(super) struct Known {
    pub(super) file: ServerFile,
    pub(super) pages: Vec<(u64, Vec<u8>)>,
    /// One more was not read; one less if it is read after all.
    pub(super) n_not_read: Arc<AtomicU64>,
    pub(super) is_read: bool,
}

impl ReadContent for Known {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Stretch, ContentError> {
        if !std::mem::replace(&mut self.is_read, true) {
            self.n_not_read.fetch_sub(1, Ordering::Relaxed);
        }
        self.file.read(buffer)
    }

    fn unchanged(&self) -> Option<&[(u64, Vec<u8>)]> {
        Some(&self.pages)
    }
}

/// A file of the server.
pub(super) struct ServerFile {
    pub(super) root: Arc<Root>,
    pub(super) path: Vec<u8>,
    pub(super) pages: Option<(Arc<Pages>, RelationFile)>,
    pub(super) open: Option<Open>,
}

impl ServerFile {
    /// Looks at the pages of these numbers.
    pub(super) fn sample(&self, numbers: &[u64]) -> Sample {
        let Some((pages, relation)) = &self.pages else { return Sample::Doubtful };
        let Ok(open) = open_file(&self.root, &self.path) else { return Sample::Doubtful };
        let mut found = Vec::new();
        for number in numbers {
            let at = number * u64::from(pages.page_bytes);
            let block = block(*relation, at, pages);
            let mut page = vec![0; pages.page_bytes as usize];
            if !read_at(&open.fd, &mut page, at).is_ok_and(|n| n == page.len()) {
                return Sample::Doubtful;
            }
            let (seen, lsn) = page::look_with_lsn(&page, block);
            if lsn >= pages.start {
                continue;
            }
            if let Seen::Bad(_) = seen
                && !matches!(look_again(&open, &mut page, block, at, pages.start), Ok(Seen::Good))
            {
                return Sample::Doubtful;
            }
            if page::look_with_lsn(&page, block).1 < pages.start {
                found.push((at, page));
            }
        }
        Sample::Pages(found)
    }
}

/// A file that is being read.
pub(super) struct Open {
    fd: OwnedFd,
    end: u64,
    position: u64,
}

impl Open {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        let seen = beneath::look_at(fd.as_fd())?;
        Ok(Self { fd, end: seen.stx_size, position: 0 })
    }

    /// Fills `buffer` as far as there is anything.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        let buffer_bytes = buffer.len().min(left);
        let n = read_at(&self.fd, &mut buffer[..buffer_bytes], self.position)?;
        if n < buffer_bytes {
            self.end = self.position + n as u64; // it became shorter
        }
        self.position += n as u64;
        Ok(n)
    }
}

/// Reads until `buffer` is full or the file ends.
fn read_at(fd: &OwnedFd, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match retry_on_intr(|| pread(fd, &mut buffer[n..], at + n as u64))? {
            0 => break,
            more => n += more,
        }
    }
    Ok(n)
}

impl ReadContent for ServerFile {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Stretch, ContentError> {
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(open_file(&self.root, &self.path)?),
        };
        let Some((pages, relation)) = &self.pages else {
            return Ok(stretch(open.fill(buffer)?));
        };
        let whole = whole_pages(buffer, pages.page_bytes)?;
        let at = open.position;
        let n = open.fill(whole)?;
        if pages.checked {
            let path = || self.root.path().join(OsStr::from_bytes(&self.path));
            let mut again = |page: &mut [u8], block, at| look_again(open, page, block, at, pages.start);
            pages.check(*relation, &path, at, &mut whole[..n], &mut again)?;
        }
        Ok(stretch(n))
    }
}

/// As much of a buffer as whole pages fill.
pub(super) fn whole_pages(buffer: &mut [u8], page_bytes: u32) -> Result<&mut [u8], ContentError> {
    let whole = buffer.len() - buffer.len() % page_bytes as usize;
    if whole == 0 {
        let what = "a page does not fit where it is to be read to".to_owned();
        return Err(ContentError::Broken { what, advice: None });
    }
    Ok(&mut buffer[..whole])
}

pub(super) fn stretch(n: usize) -> Stretch {
    if n == 0 { Stretch::End } else { Stretch::Data(n) }
}

fn open_file(root: &Root, path: &[u8]) -> Result<Open, ContentError> {
    match root.open_file(path) {
        Ok(fd) => Ok(Open::new(fd)?),
        // The log knows that it is gone, and takes it away again if a copy has it.
        Err(Errno::NOENT) => Err(ContentError::Gone),
        Err(error) => Err(io::Error::from(error).into()),
    }
}

/// The number of the page that stands `at` bytes into a file of a relation.
fn block(relation: RelationFile, at: u64, pages: &Pages) -> u32 {
    let in_file = u32::try_from(at / u64::from(pages.page_bytes)).unwrap_or(u32::MAX);
    let segment = if sabotage::on("segment-forgotten") { 0 } else { relation.segment };
    segment.wrapping_mul(pages.segment_blocks).wrapping_add(in_file)
}

/// Reads a page that is not right again: it may just be written.
fn look_again(open: &Open, page: &mut [u8], block: u32, at: u64, start: Lsn) -> io::Result<Seen> {
    let mut seen = Seen::Good;
    let mut again = vec![0; page.len()];
    for look in 0..LOOKS {
        std::thread::sleep(Duration::from_millis(u64::from(look)));
        if read_at(&open.fd, &mut again, at)? < again.len() {
            // It was cut off meanwhile, which the log knows.
            return Ok(Seen::Good);
        }
        page.copy_from_slice(&again);
        seen = page::look(page, block);
        match seen {
            Seen::Good => return Ok(seen),
            Seen::Bad(lsn) if lsn >= start => return Ok(seen),
            Seen::Bad(_) => {}
        }
    }
    Ok(seen)
}

/// A WAL segment that the backup needs. It is there and whole, or the backup has failed.
pub(super) struct SegmentFile {
    pub(super) root: Arc<Root>,
    pub(super) path: Vec<u8>,
    pub(super) expected: Expected,
    pub(super) open: Option<Open>,
}

impl ReadContent for SegmentFile {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Stretch, ContentError> {
        let name = String::from_utf8_lossy(&self.path).into_owned();
        let broken = |why: &dyn std::fmt::Display| {
            let what = format!("WAL segment {name} {why}: the server took it away before it was read");
            ContentError::Broken { what, advice: Some(HOLD.into()) }
        };
        let bytes = self.expected.segment_size.bytes();
        let open = match &mut self.open {
            Some(open) => open,
            none => {
                let fd = self.root.open_file(&self.path);
                let fd =
                    fd.map_err(|error| broken(&format!("cannot be read ({})", io::Error::from(error))))?;
                none.insert(Open::new(fd)?)
            }
        };
        if open.end != bytes {
            return Err(broken(&format!("has {} bytes and not {bytes}", open.end)));
        }
        let whole = buffer.len() - buffer.len() % self.expected.page_bytes as usize;
        let at = open.position;
        let n = open.fill(&mut buffer[..whole.max(1)])?;
        self.expected.look(at, &buffer[..n]).map_err(|why| broken(&why))?;
        if n == 0 && at != bytes {
            return Err(broken(&"became shorter while it was read"));
        }
        Ok(stretch(n))
    }
}

/// What to do about a segment that is not there.
pub(super) const HOLD: &str =
    "give the role REPLICATION, so that hikae can hold the log, or raise wal_keep_size";

/// A file that is held in memory.
pub(super) struct Bytes(pub(super) io::Cursor<Vec<u8>>);

impl ReadContent for Bytes {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Stretch, ContentError> {
        Ok(stretch(io::Read::read(&mut self.0, buffer)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgresql_cluster::names::Fork;

    fn pages() -> Pages {
        Pages::new(8192, 131_072, true, Lsn(1000))
    }

    #[test]
    fn blocks_are_counted_through_all_files_of_a_relation() {
        let file = |segment| RelationFile { number: 16384, fork: Fork::Main, segment };
        assert_eq!(block(file(0), 8192, &pages()), 1);
        assert_eq!(block(file(1), 0, &pages()), 131_072);
        assert_eq!(block(file(3), 3 * 8192, &pages()), 3 * 131_072 + 3);
        // The last page that a relation can have.
        assert_eq!(block(file(32_767), (1 << 30) - 8192, &pages()), u32::MAX);
    }

    #[test]
    fn a_page_is_excused_by_the_log_only_if_it_can_have_been_changed_meanwhile() {
        let pages = pages();
        for (block, lsn) in [(1, 999), (2, 1000), (3, 2000), (4, 2001)] {
            pages.add(BadPage { path: "base/5/1".into(), block }, Lsn(lsn));
        }
        let (n, bad) = pages.bad(Lsn(2000));
        assert_eq!((n, bad.iter().map(|page| page.block).collect::<Vec<_>>()), (2, vec![1, 4]));
    }
}
