//! Entries of a snapshot as one tar archive (POSIX.1-2001, "pax").
//!
//! Whatever a plain header cannot say stands in an extended one before it: long and strange names, times to the nanosecond,
//! large owners, extended attributes as `SCHILY.xattr.…`. Every `tar` of today reads that.

use hikae_model::{Attributes, Entry, EntryKind};
use std::io::{self, Read, Write};
use tar::{Builder, EntryType, Header};

/// Longest name and link that a plain header holds.
const MAX_NAME: usize = 100;

/// An archive that is being written.
pub struct Archive<W: Write> {
    builder: Builder<W>,
    n_entries: u64,
}

impl<W: Write> Archive<W> {
    /// An archive with nothing in it.
    pub fn new(out: W) -> Self {
        Self { builder: Builder::new(out), n_entries: 0 }
    }

    /// Adds an entry and, for a file, its content, which must be as long as the entry says. A socket is left out, as `tar` does.
    ///
    /// # Errors
    /// Whatever reading or writing fails with.
    pub fn add(&mut self, entry: &Entry, content: Option<impl Read>) -> io::Result<()> {
        let Some(head) = Head::of(entry) else { return Ok(()) };
        append(&mut self.builder, entry, &head, content)?;
        self.n_entries += 1;
        Ok(())
    }

    /// Ends the archive. Gives how many entries it holds.
    ///
    /// # Errors
    /// Whatever writing fails with.
    pub fn finish(self) -> io::Result<u64> {
        self.builder.into_inner()?;
        Ok(self.n_entries)
    }
}

/// What a header says of an entry beside its name and attributes.
struct Head<'a> {
    kind: EntryType,
    link: &'a [u8],
    device: Option<(u32, u32)>,
    size: u64,
}

impl<'a> Head<'a> {
    /// Nothing for a socket.
    fn of(entry: &'a Entry) -> Option<Self> {
        let (kind, link, device): (_, &[u8], _) = match &entry.kind {
            EntryKind::File { .. } => (EntryType::Regular, b"", None),
            EntryKind::Directory => (EntryType::Directory, b"", None),
            EntryKind::Symlink { target } => (EntryType::Symlink, target, None),
            EntryKind::HardLink { to } => (EntryType::Link, to.as_bytes(), None),
            EntryKind::Fifo => (EntryType::Fifo, b"", None),
            EntryKind::CharDevice { major, minor } => (EntryType::Char, b"", Some((*major, *minor))),
            EntryKind::BlockDevice { major, minor } => (EntryType::Block, b"", Some((*major, *minor))),
            EntryKind::Socket => return None,
        };
        Some(Self { kind, link, device, size: entry.size() })
    }
}

fn append<W: Write>(
    builder: &mut Builder<W>,
    entry: &Entry,
    head: &Head<'_>,
    content: Option<impl Read>,
) -> io::Result<()> {
    let mut name = entry.path.as_bytes().to_vec();
    if head.kind == EntryType::Directory {
        name.push(b'/');
    }
    let records = records(&name, head.link, &entry.attributes);
    builder.append_pax_extensions(records.iter().map(|(key, value)| (key.as_str(), value.as_slice())))?;
    let mut header = Header::new_ustar();
    header.set_entry_type(head.kind);
    header.set_size(head.size);
    header.set_mode(entry.attributes.mode);
    header.set_uid(u64::from(entry.attributes.uid));
    header.set_gid(u64::from(entry.attributes.gid));
    header.set_mtime(u64::try_from(entry.attributes.modified.seconds).unwrap_or(0));
    if let Some((major, minor)) = head.device {
        header.set_device_major(major)?;
        header.set_device_minor(minor)?;
    }
    set(&mut header.as_old_mut().name, &name);
    set(&mut header.as_old_mut().linkname, head.link);
    header.set_cksum();
    match content {
        Some(content) => builder.append(&header, content),
        None => builder.append(&header, io::empty()),
    }
}

/// As much of a text as a field holds.
fn set(field: &mut [u8; MAX_NAME], text: &[u8]) {
    let n = text.len().min(MAX_NAME);
    field[..n].copy_from_slice(&text[..n]);
}

/// The records of the extended header: only what the plain one cannot say.
fn records(name: &[u8], link: &[u8], attributes: &Attributes) -> Vec<(String, Vec<u8>)> {
    let mut records = Vec::new();
    let time = attributes.modified;
    if time.nanoseconds != 0 || time.seconds < 0 {
        records.push(("mtime".to_owned(), pax_time(time.seconds, time.nanoseconds).into_bytes()));
    }
    for (key, value) in [("path", name), ("linkpath", link)] {
        if value.len() > MAX_NAME || !value.is_ascii() {
            records.push((key.to_owned(), value.to_vec()));
        }
    }
    for xattr in &attributes.xattrs {
        // A `=` would end the key, and Linux names attributes in UTF-8.
        if let Ok(name) = std::str::from_utf8(&xattr.name)
            && !name.contains('=')
        {
            records.push((format!("SCHILY.xattr.{name}"), xattr.value.clone()));
        }
    }
    records
}

/// A time as decimal seconds; before 1970 as `-0.5` for half a second.
fn pax_time(seconds: i64, nanoseconds: u32) -> String {
    match (seconds, nanoseconds) {
        (seconds, 0) => seconds.to_string(),
        (seconds, nanoseconds) if seconds < 0 => {
            format!("-{}.{:09}", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds)
        }
        (seconds, nanoseconds) => format!("{seconds}.{nanoseconds:09}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_before_1970_is_negative() {
        assert_eq!(pax_time(-1, 500_000_000), "-0.500000000");
        assert_eq!(pax_time(-3, 750_000_000), "-2.250000000");
        assert_eq!((pax_time(7, 0), pax_time(7, 5)), ("7".to_owned(), "7.000000005".to_owned()));
    }
}
