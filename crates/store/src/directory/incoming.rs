//! An object on its way in: a file in `tmp` that has no name of its own yet.

use hikae_model::{Random, sabotage};
use rustix::fd::OwnedFd;
use rustix::fs::{Advice, AtFlags, Gid, Mode, OFlags, RenameFlags, Uid};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

const READ_ONLY: Mode = Mode::RUSR;

/// Objects of this length and more are written past the page cache.
const LARGE: usize = 1 << 20;
/// How much is written at once then.
const STEP: usize = 2 << 20;
/// Memory and places on the disk are aligned to this.
const BLOCK: usize = 4096;

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
        let past_the_cache = if bytes.len() >= LARGE { self.write_directly(bytes)? } else { 0 };
        self.file.write_all(&bytes[past_the_cache..])?;
        let mode = if sabotage::on("objects-for-everybody") { Mode::from_raw_mode(0o644) } else { READ_ONLY };
        match rustix::fs::fchmod(&self.file, mode) {
            // exFAT and some network file systems have no such permissions. Objects are never written to
            // anyway; this is for people.
            Ok(()) | Err(Errno::PERM | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno.into()),
        }
        if !sabotage::on("no-file-fsync") {
            rustix::fs::fsync(&self.file)?;
        }
        Ok(())
    }

    /// Writes as many whole blocks as there are past the page cache, where the file system can: a backup must
    /// not push what the machine works with out of its memory, and the copy into the cache is a seventh of
    /// its CPU time. Gives how many bytes that were; the rest is written as usual.
    fn write_directly(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let flags = rustix::fs::fcntl_getfl(&self.file)?;
        if rustix::fs::fcntl_setfl(&self.file, flags | OFlags::DIRECT).is_err() {
            return Ok(0);
        }
        // O_DIRECT wants memory, length and place in whole blocks (open(2)); 4 KiB are enough everywhere.
        let mut memory = vec![0; STEP + BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK);
        let window = &mut memory[start..start + STEP];
        let mut written = 0;
        for step in bytes[..bytes.len() / BLOCK * BLOCK].chunks(STEP) {
            let window = &mut window[..step.len()];
            window.copy_from_slice(step);
            match self.file.write(window) {
                Ok(n) if n == step.len() => written += n,
                // A file system may refuse only when it is tried. What it took counts; the rest is not ours
                // to force.
                Ok(n) => {
                    written += n;
                    break;
                }
                Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => break,
                Err(error) => return Err(error),
            }
        }
        rustix::fs::fcntl_setfl(&self.file, flags)?;
        Ok(written)
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
        let flags = if sabotage::on("put-replaces") { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
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

    /// Gives the file the name in `directory`, whatever bears it.
    pub(super) fn take_the_place(mut self, directory: &OwnedFd, name: &str) -> Result<(), Errno> {
        rustix::fs::renameat(&self.tmp, &self.temporary_name, directory, name)?;
        self.is_named = true;
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    struct Counter(std::sync::atomic::AtomicU8);

    impl Random for Counter {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        }
    }

    fn open(path: &Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    fn incoming(tmp: &Path, bytes: &[u8]) -> Incoming {
        let counter = Counter(std::sync::atomic::AtomicU8::new(0));
        let mut incoming = Incoming::create(open(tmp), None, &counter).unwrap();
        incoming.write(bytes).unwrap();
        incoming
    }

    #[test]
    fn where_a_rename_could_replace_a_link_does_not() {
        let (tmp, objects) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let directory = open(objects.path());
        incoming(tmp.path(), b"first").link(&directory, "name").unwrap();
        let second = incoming(tmp.path(), b"second").link(&directory, "name");
        assert_eq!(second, Err(Errno::EXIST));
        assert_eq!(std::fs::read(objects.path().join("name")).unwrap(), b"first");
        assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 0, "nothing is left in tmp");
    }

    #[test]
    fn a_link_whose_answer_was_lost_is_ours() {
        let (tmp, objects) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let directory = open(objects.path());
        let incoming = incoming(tmp.path(), b"ours");
        std::fs::hard_link(tmp.path().join(&incoming.temporary_name), objects.path().join("name")).unwrap();
        assert_eq!(incoming.link(&directory, "name"), Ok(()));
    }

    #[test]
    fn what_does_not_read_back_is_found_before_it_has_a_name() {
        let tmp = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..600_000_u32).map(|i| (i % 251) as u8).collect();
        let incoming = incoming(tmp.path(), &bytes);
        incoming.compare_with_disk(&bytes).unwrap();
        for at in [0, 255 << 10, 599_999] {
            let mut expected = bytes.clone();
            expected[at] ^= 1;
            assert!(incoming.compare_with_disk(&expected).is_err(), "byte {at}");
        }
        incoming.file.set_len(599_999).unwrap();
        assert!(incoming.compare_with_disk(&bytes).is_err());
    }
}
