//! Reading extended attributes of what is listed, at the price of one system call where there are none.
//!
//! There is no `llistxattr` relative to a directory before Linux 6.13 (`listxattrat`). So the walking thread
//! takes a working directory of its own, enters each directory and asks by bare name: measured, 1.3 µs
//! against 3.0 for opening each file and 4.2 for `/proc/self/fd/N/name`. That last way stays for where
//! `unshare` is forbidden, as in many containers.

use std::ffi::CStr;
use std::io::Write as _;

use hikae_model::Xattr;
use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::fs::{fgetxattr, flistxattr, lgetxattr, llistxattr};
use rustix::io::Errno;
use rustix::process::fchdir;
use rustix::thread::UnshareFlags;

/// `XATTR_LIST_MAX` and `XATTR_SIZE_MAX` (linux/limits.h): no list and no value is longer.
const LONGEST_BYTES: usize = 1 << 16;

/// Reads extended attributes. Belongs to one thread, whose working directory it moves.
pub(super) struct XattrReader {
    owns_working_directory: bool,
    /// Whether the working directory is the directory that is being walked.
    entered: bool,
    /// Devices that have no extended attributes, found by asking once.
    without: Vec<(u32, u32)>,
    path: Vec<u8>,
    list: Vec<u8>,
    value: Vec<u8>,
}

impl XattrReader {
    /// Makes the calling thread's working directory its own, if it may.
    pub(super) fn for_this_thread() -> Self {
        // Deprecated because flags that part file descriptors would be unsound. This one parts only the
        // working directory, the root and the umask.
        #[expect(deprecated)]
        let owns_working_directory = rustix::thread::unshare(UnshareFlags::FS).is_ok();
        Self {
            owns_working_directory,
            entered: false,
            without: Vec::new(),
            path: Vec::new(),
            list: vec![0; LONGEST_BYTES],
            value: vec![0; LONGEST_BYTES],
        }
    }

    /// Another directory is walked from now on.
    pub(super) fn leave(&mut self) {
        self.entered = false;
    }

    /// The attributes of `name` in the directory that is being walked, sorted by name. A link's own, not
    /// those of what it points to.
    pub(super) fn of_name(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &CStr,
        device: (u32, u32),
    ) -> Result<Vec<Xattr>, Errno> {
        if self.without.contains(&device) {
            return Ok(Vec::new());
        }
        if self.owns_working_directory {
            if !self.entered {
                fchdir(directory)?;
                self.entered = true;
            }
            let listed = llistxattr(name, &mut self.list[..]);
            self.collect(listed, device, |attribute, value| lgetxattr(name, attribute, value))
        } else {
            let mut path = std::mem::take(&mut self.path);
            path.clear();
            let _ = write!(path, "/proc/self/fd/{}/", directory.as_raw_fd());
            path.extend_from_slice(name.to_bytes());
            let listed = llistxattr(path.as_slice(), &mut self.list[..]);
            let found =
                self.collect(listed, device, |attribute, value| lgetxattr(path.as_slice(), attribute, value));
            self.path = path;
            found
        }
    }

    /// The attributes of an open directory, sorted by name.
    pub(super) fn of_open(&mut self, fd: BorrowedFd<'_>, device: (u32, u32)) -> Result<Vec<Xattr>, Errno> {
        if self.without.contains(&device) {
            return Ok(Vec::new());
        }
        let listed = flistxattr(fd, &mut self.list[..]);
        self.collect(listed, device, |attribute, value| fgetxattr(fd, attribute, value))
    }

    fn collect(
        &mut self,
        listed: Result<usize, Errno>,
        device: (u32, u32),
        get: impl Fn(&CStr, &mut [u8]) -> Result<usize, Errno>,
    ) -> Result<Vec<Xattr>, Errno> {
        let n_bytes = match listed {
            Ok(0) => return Ok(Vec::new()),
            Ok(n_bytes) => n_bytes,
            Err(Errno::OPNOTSUPP) => {
                self.without.push(device);
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for name in self.list[..n_bytes].split_inclusive(|&byte| byte == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
            match get(name, &mut self.value) {
                Ok(n) => {
                    found.push(Xattr { name: name.to_bytes().to_vec(), value: self.value[..n].to_vec() })
                }
                // It was removed since it was listed.
                Err(Errno::NODATA) => {}
                Err(error) => return Err(error),
            }
        }
        found.sort_unstable();
        Ok(found)
    }
}
