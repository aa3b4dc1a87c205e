//! The names in one directory, sorted bytewise: read whole, because path order needs the last to know the
//! first.

use std::ffi::CStr;

use rustix::fd::BorrowedFd;
use rustix::fs::RawDir;
use rustix::io::Errno;

/// Names in path order, handed out once. They lie one behind the other in one allocation.
#[derive(Default)]
pub(super) struct Names {
    /// Each name with its closing NUL, as system calls take it.
    bytes: Vec<u8>,
    /// Where each name lies in `bytes`, NUL included.
    places: Vec<(usize, usize)>,
    next: usize,
}

impl Names {
    /// Reads a directory. `.` and `..` are left out. If it cannot be read to its end, the names that could be
    /// are kept, and the error says why.
    pub(super) fn read(&mut self, directory: BorrowedFd<'_>, buffer: &mut Vec<u8>) -> Result<(), Errno> {
        let mut result = Ok(());
        let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            match entry {
                Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
                Ok(entry) => self.add(entry.file_name().to_bytes()),
                Err(Errno::INTR) => {}
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        let bytes = &self.bytes;
        self.places.sort_unstable_by_key(|&(from, to)| &bytes[from..to]);
        result
    }

    /// Adds a name behind the others. What is added so must come sorted.
    pub(super) fn add(&mut self, name: &[u8]) {
        let from = self.bytes.len();
        self.bytes.extend_from_slice(name);
        self.bytes.push(0);
        self.places.push((from, self.bytes.len()));
    }

    /// How many are left.
    pub(super) fn n_left(&self) -> usize {
        self.places.len() - self.next
    }

    /// The next name.
    pub(super) fn next(&mut self) -> Option<&CStr> {
        let &(from, to) = self.places.get(self.next)?;
        self.next += 1;
        CStr::from_bytes_with_nul(&self.bytes[from..to]).ok()
    }
}
