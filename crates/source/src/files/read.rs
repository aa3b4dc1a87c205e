//! Reading one file: from its first byte to its last, holes told from zeroes, and whether it held still.
//!
//! This module knows one open file. It knows no directories and no includes.

use std::io;
use std::sync::Arc;

use hikae_model::{ContentError, FileTime, ReadContent, Stretch, TreePath, sabotage};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Advice, FileType, OFlags, ResolveFlags, SeekFrom, Statx, fadvise, seek};
use rustix::io::{Errno, pread, retry_on_intr};

use super::beneath::{self, Identity};

/// From this size on the kernel is told that we read to the end: it then reads twice as far ahead.
const LARGE_BYTES: u64 = 1 << 20;

/// A listed file. It is opened at the first read, so that a file that is not read costs no system call.
pub(super) struct FileReader {
    pub(super) root: Arc<OwnedFd>,
    pub(super) path: TreePath,
    /// What was listed at this path. Anything else that stands there now is not what the entry says.
    pub(super) identity: Identity,
    /// Whether we may ask that reading leaves no trace: the owner and root may.
    pub(super) may_hide_access: bool,
    /// A second reading goes no further than the first.
    pub(super) limit: u64,
    /// What is read so far of a file that must be JSON.
    pub(super) json: Option<Json>,
    pub(super) file: Option<OpenFile>,
}

/// A file that must be JSON, as far as it is read.
#[derive(Default)]
pub(super) struct Json(Vec<u8>);

/// Largest file that is parsed: it is held in memory.
const MAX_JSON_BYTES: usize = 64 << 20;

impl Json {
    fn take(&mut self, bytes: &[u8]) {
        // One byte more than the most, by which it is known to be more.
        let room = (MAX_JSON_BYTES + 1).saturating_sub(self.0.len());
        self.0.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn check(&self) -> Result<(), ContentError> {
        if self.0.len() > MAX_JSON_BYTES {
            let what = format!("is longer than {} MiB and was not parsed", MAX_JSON_BYTES >> 20);
            return Err(ContentError::Malformed(what));
        }
        serde_json::from_slice::<serde::de::IgnoredAny>(&self.0)
            .map(drop)
            .map_err(|error| ContentError::Malformed(format!("is no JSON: {error}")))
    }
}

/// A file that is being read.
pub(super) struct OpenFile {
    fd: OwnedFd,
    before: State,
    /// Where reading ends: at the size that it had when it was opened, or at the limit.
    end: u64,
    position: u64,
    /// Up to here is data, as far as we have asked.
    data_end: u64,
}

/// What changes when somebody writes to a file.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State {
    size: u64,
    modified: FileTime,
    changed: FileTime,
}

impl State {
    fn of(seen: &Statx) -> Self {
        Self { size: seen.stx_size, modified: beneath::modified(seen), changed: beneath::changed(seen) }
    }
}

impl ReadContent for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Stretch, ContentError> {
        if self.file.is_none() {
            self.file = Some(self.open()?);
        }
        match &mut self.file {
            Some(file) => {
                let stretch = file.read(buffer).map_err(io::Error::from)?;
                match (&mut self.json, stretch) {
                    (Some(json), Stretch::Data(n)) => json.take(&buffer[..n]),
                    // Zeroes are no JSON, wherever they stand.
                    (Some(json), Stretch::Hole(_)) => json.take(&[0]),
                    (Some(_), Stretch::End) | (None, _) => {}
                }
                Ok(stretch)
            }
            None => Ok(Stretch::End),
        }
    }

    fn finish(&mut self) -> Result<(), ContentError> {
        let Some(file) = &self.file else { return Ok(()) };
        let after = beneath::look_at(file.fd.as_fd()).map_err(io::Error::from)?;
        let held_still = State::of(&after) == file.before && file.position == file.before.size;
        match (held_still, &self.json) {
            (false, _) if sabotage::on("change-unnoticed") => Ok(()),
            (false, _) => Err(ContentError::ChangedWhileRead),
            (true, Some(json)) if !sabotage::on("json-unchecked") => json.check(),
            (true, _) => Ok(()),
        }
    }

    fn read_again(&mut self) -> bool {
        if let Some(file) = self.file.take() {
            self.limit = file.end;
        }
        self.json = self.json.take().map(|_| Json::default());
        true
    }
}

impl FileReader {
    fn open(&self) -> Result<OpenFile, ContentError> {
        // A FIFO that took the file's name meanwhile must not make us wait for its writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = beneath::without_atime(self.may_hide_access, flags, |flags| {
            beneath::open(self.root.as_fd(), self.path.as_bytes(), flags, ResolveFlags::empty())
        });
        let fd = match opened {
            Ok(fd) => fd,
            // A link or a socket has taken its name.
            Err(Errno::LOOP | Errno::NXIO) => return Err(ContentError::ChangedWhileRead),
            Err(Errno::NOTDIR) => return Err(ContentError::Vanished),
            Err(error) => return Err(io::Error::from(error).into()),
        };
        let seen = beneath::look_at(fd.as_fd()).map_err(io::Error::from)?;
        if (beneath::identity(&seen) != self.identity && !sabotage::on("other-file-read"))
            || beneath::file_type(&seen) != FileType::RegularFile
        {
            return Err(ContentError::ChangedWhileRead);
        }
        let before = State::of(&seen);
        if before.size >= LARGE_BYTES {
            // Advice only: a file system that takes none reads all the same.
            let _ = fadvise(&fd, 0, None, Advice::Sequential);
        }
        // Fewer blocks than bytes: there may be holes. Compression looks the same, and then asking for holes
        // finds none.
        let may_have_holes =
            !sabotage::on("holes-unseen") && seen.stx_blocks.saturating_mul(512) < before.size;
        let end = before.size.min(self.limit);
        Ok(OpenFile { fd, before, end, position: 0, data_end: if may_have_holes { 0 } else { end } })
    }
}

impl OpenFile {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Stretch, Errno> {
        // What is appended meanwhile is not read: it might never end. `finish` sees that the size changed.
        if self.position >= self.end {
            return Ok(Stretch::End);
        }
        if self.position == self.data_end {
            let hole = self.find_data()?;
            if hole > 0 {
                self.position += hole;
                self.data_end = self.position;
                return Ok(Stretch::Hole(hole));
            }
        }
        let left = usize::try_from(self.data_end - self.position).unwrap_or(usize::MAX);
        let wanted = left.min(buffer.len());
        match retry_on_intr(|| pread(&self.fd, &mut buffer[..wanted], self.position))? {
            // It was cut short: `finish` sees that we did not come to its end.
            0 => Ok(Stretch::End),
            n => {
                self.position += n as u64;
                Ok(Stretch::Data(n))
            }
        }
    }

    /// At the end of known data: the length of the hole that begins here, or 0 and where data ends now.
    fn find_data(&mut self) -> Result<u64, Errno> {
        let size = self.end;
        match seek(&self.fd, SeekFrom::Data(self.position)) {
            Ok(data) if data > self.position => Ok(data.min(size) - self.position),
            Ok(_) => {
                let end = seek(&self.fd, SeekFrom::Hole(self.position)).unwrap_or(size);
                // A file cut short between the two calls has no data here; reading will find that out.
                self.data_end = if end > self.position { end.min(size) } else { size };
                Ok(0)
            }
            // lseek(2): no data from here to the end.
            Err(Errno::NXIO) => Ok(size - self.position),
            // The file system knows no holes: all is data.
            Err(_) => {
                self.data_end = size;
                Ok(0)
            }
        }
    }
}
