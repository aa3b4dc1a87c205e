//! An object on its way in: a file in `tmp` that has no name of its own yet.

use hikae_model::Random;
use rustix::fd::OwnedFd;
use rustix::fs::{Advice, AtFlags, Gid, Mode, OFlags, RenameFlags, Uid};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

const READ_ONLY: Mode = Mode::RUSR;

/// A file in `tmp`. Dropped without a name, it is removed.
pub(super) struct Incoming {
    tmp: OwnedFd,
    temporary_name: String,
    file: File,
    is_named: bool,
}

impl Incoming {
    pub(super) fn create(
        tmp: OwnedFd,
        owner: Option<(Uid, Gid)>,
        random: &dyn Random,
    ) -> Result<Self, Errno> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut last = Errno::EXIST;
        // A name is taken only if the random source repeats itself, as in a test that is run again over
        // what it left.
        for _ in 0..64 {
            let mut bytes = [0; 16];
            random.fill(&mut bytes);
            let temporary_name = format!("{:032x}", u128::from_be_bytes(bytes));
            match rustix::fs::openat(&tmp, &temporary_name, flags, Mode::RUSR | Mode::WUSR) {
                Ok(file) => {
                    let incoming = Self { tmp, temporary_name, file: file.into(), is_named: false };
                    if let Some((uid, gid)) = owner {
                        rustix::fs::fchown(&incoming.file, Some(uid), Some(gid))?;
                    }
                    return Ok(incoming);
                }
                Err(errno @ (Errno::EXIST | Errno::INTR)) => last = errno,
                Err(errno) => return Err(errno),
            }
        }
        Err(last)
    }

    /// Writes all and waits until it is on the disk. After an error this file is never synced again.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        match rustix::fs::fchmod(&self.file, READ_ONLY) {
            // exFAT and some network file systems have no such permissions. Objects are never written to
            // anyway; this is for people.
            Ok(()) | Err(Errno::PERM | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno.into()),
        }
        rustix::fs::fsync(&self.file)?;
        Ok(())
    }

    /// Reads back what was written, past the page cache where the file system lets us.
    pub(super) fn compare_with_disk(&self, bytes: &[u8]) -> io::Result<()> {
        const STEP: usize = 256 << 10;
        // Only advice: without it the comparison still finds memory that fails.
        let _ = rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed);
        let mut buffer = vec![0; bytes.len().min(STEP)];
        for (i, expected) in bytes.chunks(STEP).enumerate() {
            let read = &mut buffer[..expected.len()];
            self.file.read_exact_at(read, (i * STEP) as u64)?;
            if read != expected {
                let why = "what was written does not read back; the disk or the memory is failing";
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
        }
        Ok(())
    }

    /// Gives the file its name in `directory`, unless the name is taken: then the error is `EXIST`.
    pub(super) fn name_it(mut self, directory: &OwnedFd, name: &str) -> Result<(), Errno> {
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(&self.tmp, &self.temporary_name, directory, name, flags) {
            Ok(()) => {
                self.is_named = true;
                Ok(())
            }
            // NFS and old file systems have no such rename; a hard link replaces nothing either.
            Err(Errno::INVAL | Errno::NOSYS) => self.link(directory, name),
            Err(errno) => Err(errno),
        }
    }

    fn link(&self, directory: &OwnedFd, name: &str) -> Result<(), Errno> {
        match rustix::fs::linkat(&self.tmp, &self.temporary_name, directory, name, AtFlags::empty()) {
            // An NFS client that lost the first answer asks again, and finds the link that it made itself.
            Err(Errno::EXIST) if rustix::fs::fstat(&self.file)?.st_nlink == 2 => Ok(()),
            linked => linked,
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.is_named {
            // If this fails the file stays in `tmp`, where it is no object and is reclaimed one day.
            let _ = rustix::fs::unlinkat(&self.tmp, &self.temporary_name, AtFlags::empty());
        }
    }
}
