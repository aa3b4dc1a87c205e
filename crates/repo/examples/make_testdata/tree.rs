//! What is backed up, and what a restore of it must give.

use hikae_model::{
    Attributes, ContentError, Cut, Entry, EntryKind, FileTime, ReadContent, Stretch, TreePath, Xattr,
};
use serde_json::{Value, json};

/// A stretch of a file.
#[derive(Clone)]
pub enum Part {
    Data(Vec<u8>),
    Hole(u64),
}

/// An entry, with what it holds.
#[derive(Clone)]
pub struct Item {
    pub entry: Entry,
    pub cut: Cut,
    pub parts: Vec<Part>,
}

/// Bytes that do not compress, the same for the same number.
pub fn noise(number: u64, bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    let mut hasher = blake3::Hasher::new_derive_key("hikae noise for testdata");
    hasher.update(&number.to_le_bytes()).finalize_xof().fill(&mut noise);
    noise
}

/// Attributes that differ from entry to entry.
fn attributes(n: u32, mode: u32) -> Attributes {
    Attributes {
        mode,
        uid: 1000 + n,
        gid: 100,
        modified: FileTime { seconds: 1_700_000_000 + i64::from(n) * 86_400, nanoseconds: n * 1_000_001 },
        changed: FileTime { seconds: 1_700_000_001, nanoseconds: n },
        inode: 5000 + u64::from(n),
        xattrs: Vec::new(),
    }
}

pub fn path(bytes: impl AsRef<[u8]>) -> TreePath {
    TreePath::parse(bytes).expect("a path")
}

fn other(at: impl AsRef<[u8]>, n: u32, mode: u32, kind: EntryKind) -> Item {
    let entry = Entry { path: path(at), kind, attributes: attributes(n, mode) };
    Item { entry, cut: Cut::Files, parts: Vec::new() }
}

fn file(at: impl AsRef<[u8]>, n: u32, cut: Cut, parts: Vec<Part>) -> Item {
    let size = parts.iter().map(Part::bytes).sum();
    let entry = Entry { path: path(at), kind: EntryKind::File { size }, attributes: attributes(n, 0o640) };
    Item { entry, cut, parts }
}

fn data(bytes: impl Into<Vec<u8>>) -> Vec<Part> {
    vec![Part::Data(bytes.into())]
}

/// Every kind of entry and every form of content. `day` is 1 or 2: a few things change overnight.
pub fn everything(day: u64) -> Vec<Item> {
    let islands = (0..40).flat_map(|n| [Part::Data(noise(100 + n, 20)), Part::Hole(65_536)]).collect();
    let mut ended_by_a_hole = data("a head, then nothing\n");
    ended_by_a_hole.push(Part::Hole(1 << 20));
    let mut noted = file("etc/noted", 7, Cut::Files, data("with notes\n"));
    let xattr = |name: &str, value: &[u8]| Xattr { name: name.into(), value: value.into() };
    noted.entry.attributes.xattrs =
        vec![xattr("user.binary", &[0, 255, 10]), xattr("user.comment", b"kept in reserve")];
    let mut old = file("etc/old", 8, Cut::Files, data("from before 1970\n"));
    old.entry.attributes.modified = FileTime { seconds: -86_400, nanoseconds: 999_999_999 };
    let mut items = vec![
        other("etc", 1, 0o755, EntryKind::Directory),
        file("etc/empty", 2, Cut::Files, Vec::new()),
        file("etc/hosts", 3, Cut::Files, data(format!("127.0.0.1 localhost\n# day {day}\n"))),
        file("etc/hosts.copy", 4, Cut::Files, data(format!("127.0.0.1 localhost\n# day {day}\n"))),
        noted,
        old,
        other("etc/link", 9, 0o777, EntryKind::Symlink { target: b"../srv/caf\xc3\xa9".to_vec() }),
        other("etc/outside", 10, 0o777, EntryKind::Symlink { target: b"/nowhere/\xff".to_vec() }),
        other("etc/second-name", 3, 0o640, EntryKind::HardLink { to: path("etc/hosts") }),
        other("dev", 11, 0o755, EntryKind::Directory),
        other("dev/fifo", 12, 0o600, EntryKind::Fifo),
        other("dev/socket", 13, 0o700, EntryKind::Socket),
        other("dev/null", 14, 0o666, EntryKind::CharDevice { major: 1, minor: 3 }),
        other("dev/disk", 15, 0o660, EntryKind::BlockDevice { major: 259, minor: 1 << 20 }),
        other("srv", 16, 0o2775, EntryKind::Directory),
        other("srv/closed", 17, 0o555, EntryKind::Directory),
        file("srv/closed/inside", 18, Cut::Files, data("in a directory that may not be written to\n")),
        file("srv/café", 19, Cut::Files, data("UTF-8\n")),
        file(b"srv/latin-\xe9", 20, Cut::Files, data("not UTF-8\n")),
        file("srv/new\nline", 21, Cut::Files, data("a name to trip over\n")),
        file("srv/large", 22, Cut::Files, data(b"the same words again\n".repeat(400_000))),
        file("srv/incompressible", 23, Cut::Files, data(noise(1, 40_000))),
        file("srv/hole", 24, Cut::Files, vec![Part::Hole(123_456)]),
        file("srv/ended-by-a-hole", 25, Cut::Files, ended_by_a_hole),
        file("srv/islands", 26, Cut::Files, islands),
        file("srv/dump.sql", 27, Cut::Rows, data(rows(day))),
        // `a.b` sorts after `a/z`: a walk meets what is in a directory before its next sibling.
        other("srv/a", 28, 0o755, EntryKind::Directory),
        file("srv/a/z", 29, Cut::Files, data("z\n")),
        file("srv/a.b", 30, Cut::Files, data("a.b\n")),
    ];
    items.sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
    items
}

/// A database of pages, of which a few change overnight; some are empty.
pub fn database(day: u64) -> Vec<Item> {
    let mut pages = noise(2, 16 * 4096);
    pages[3 * 4096..5 * 4096].fill(0);
    if day > 1 {
        pages[7 * 4096..8 * 4096].copy_from_slice(&noise(day, 4096));
        pages.extend_from_slice(&noise(1000 + day, 4096));
    }
    vec![file("app.db", 31, Cut::Pages(4096), data(pages))]
}

/// What only the snapshot that is forgotten holds.
pub fn scratch() -> Vec<Item> {
    vec![file("scratch", 32, Cut::Files, data(noise(3, 5000)))]
}

fn rows(day: u64) -> Vec<u8> {
    let row = |n: u64| format!("INSERT INTO t VALUES ({n}, '{}');\n", if n == 500 { day } else { 0 });
    (0..2000).map(row).collect::<String>().into_bytes()
}

impl Part {
    fn bytes(&self) -> u64 {
        match self {
            Self::Data(bytes) => bytes.len() as u64,
            Self::Hole(bytes) => *bytes,
        }
    }
}

impl Item {
    /// What a restore must give.
    pub fn expected(&self) -> Value {
        let Attributes { mode, uid, gid, modified, ref xattrs, .. } = self.entry.attributes;
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut value = json!({ "path": shown(self.entry.path.as_bytes()) });
        let kind = match &self.entry.kind {
            EntryKind::File { .. } => "file",
            EntryKind::Directory => "directory",
            EntryKind::Symlink { target } => {
                value["link"] = json!(shown(target));
                "symlink"
            }
            EntryKind::HardLink { to } => {
                value["link"] = json!(shown(to.as_bytes()));
                "hard link"
            }
            EntryKind::Fifo => "fifo",
            EntryKind::Socket => "socket",
            EntryKind::CharDevice { major, minor } => {
                value["device"] = json!([major, minor]);
                "character device"
            }
            EntryKind::BlockDevice { major, minor } => {
                value["device"] = json!([major, minor]);
                "block device"
            }
        };
        value["kind"] = json!(kind);
        value["mode"] = json!(format!("{mode:04o}"));
        value["owner"] = json!([uid, gid]);
        value["modified"] = json!([modified.seconds, modified.nanoseconds]);
        if !xattrs.is_empty() {
            value["xattrs"] = xattrs.iter().map(|x| json!([shown(&x.name), hex(&x.value)])).collect();
        }
        if let EntryKind::File { size } = self.entry.kind {
            value["size"] = json!(size);
            let mut hasher = blake3::Hasher::new();
            for part in &self.parts {
                match part {
                    Part::Data(bytes) => hasher.update(bytes),
                    Part::Hole(bytes) => hasher.update(&vec![0; *bytes as usize]),
                };
            }
            value["blake3"] = json!(hasher.finalize().to_hex().to_string());
        }
        value
    }

    pub fn reader(&self) -> Held<'_> {
        Held { parts: &self.parts, at: 0 }
    }
}

/// Names and targets, with all but printable ASCII escaped.
fn shown(bytes: &[u8]) -> String {
    let shown = |byte: &u8| match byte {
        b' '..=b'~' if *byte != b'\\' => char::from(*byte).to_string(),
        byte => format!("\\x{byte:02x}"),
    };
    bytes.iter().map(shown).collect()
}

/// Content out of memory.
pub struct Held<'a> {
    parts: &'a [Part],
    at: usize,
}

impl ReadContent for Held<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Stretch, ContentError> {
        match self.parts.split_first() {
            None => Ok(Stretch::End),
            Some((Part::Hole(bytes), rest)) => {
                self.parts = rest;
                Ok(Stretch::Hole(*bytes))
            }
            Some((Part::Data(bytes), rest)) => {
                let n = buffer.len().min(bytes.len() - self.at);
                buffer[..n].copy_from_slice(&bytes[self.at..self.at + n]);
                self.at += n;
                if self.at == bytes.len() {
                    (self.parts, self.at) = (rest, 0);
                }
                Ok(Stretch::Data(n))
            }
        }
    }
}
