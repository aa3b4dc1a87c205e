//! Grows trees of files that hold everything a file system can hold, from a seed.
//!
//! Every tree begins with a menagerie: each kind of file, attribute and awkward name once. What chance adds
//! comes after. What the current user may not make, or the file system does not know, is left out and said.

use crate::{Seed, TestRandom};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

/// How much to grow besides the menagerie.
#[derive(Clone, Copy, Debug)]
pub struct Growth {
    /// Entries that chance chooses.
    pub n_entries: usize,
    /// Files are at most this long.
    pub max_file_bytes: u64,
}

/// Some hundreds of entries and a few MiB: enough for one test.
impl Default for Growth {
    fn default() -> Self {
        Self { n_entries: 300, max_file_bytes: 100_000 }
    }
}

/// Grows a tree in `path`, which is made if it is absent. The same seed grows the same tree for the same
/// user. Returns what could not be made, for [`not_run`](crate::not_run()).
///
/// # Errors
/// Any failure but those that the answer lists.
pub fn grow(path: &Path, seed: Seed, growth: Growth) -> io::Result<BTreeSet<&'static str>> {
    fs::create_dir_all(path)?;
    let mut grower = Grower {
        random: TestRandom::new(seed),
        is_root: rustix::process::geteuid().is_root(),
        left_out: BTreeSet::new(),
        made: Vec::new(),
        directories: vec![path.to_owned()],
        files: Vec::new(),
    };
    grower.menagerie(path)?;
    for _ in 0..growth.n_entries {
        grower.anything(growth.max_file_bytes)?;
    }
    grower.dress_all()?;
    Ok(grower.left_out)
}

/// Names that programs have stumbled over.
pub fn awkward_names() -> Vec<OsString> {
    let mut names: Vec<Vec<u8>> = [
        "-rf",
        "--help",
        "new\nline",
        "tab\t",
        " before",
        "after ",
        "a'b\"c",
        "$(touch x)",
        "`x`",
        "*",
        "?",
        "\\",
        "\\n",
        "%s%n",
        "{}",
        "~",
        "#",
        "a:b",
        "C:\\x",
        "\x1b[31mred",
        "\r",
        "\x7f",
        ".hidden",
        "...",
        "..a",
        "é",
        "e\u{301}",
        "\u{202e}gpj.exe",
        "日本語",
        "🗄️",
        "case",
        "CASE",
        "con",
        "nul.txt",
        "a=b",
        "a;b",
        "|",
        "&",
        "!",
        "[",
        "]",
        "trailing.",
        "/etc/passwd",
    ]
    .iter()
    .map(|name| name.replace('/', "\u{2215}").into_bytes())
    .collect();
    names.extend([vec![0xff, 0xfe], b"caf\xe9".to_vec(), vec![1], b"\xed\xa0\x80".to_vec()]);
    names.extend([vec![b'x'; 255], "あ".repeat(85).into_bytes()]);
    names.into_iter().map(OsString::from_vec).collect()
}

struct Grower {
    random: TestRandom,
    is_root: bool,
    left_out: BTreeSet<&'static str>,
    /// What is made and not yet dressed in its attributes, parents first.
    made: Vec<Made>,
    directories: Vec<PathBuf>,
    files: Vec<PathBuf>,
}

struct Made {
    path: PathBuf,
    kind: FileType,
    /// If it must be so, not by chance.
    mode: Option<u32>,
    xattrs: Vec<(&'static str, Vec<u8>)>,
}

impl Grower {
    fn menagerie(&mut self, top: &Path) -> io::Result<()> {
        let names = self.directory(&top.join("names"))?;
        for name in awkward_names() {
            self.file(&names.join(&name), name.as_bytes())?;
        }
        let order = self.directory(&top.join("order"))?;
        for name in ["a", "a/b", "a/b/c", "b"] {
            self.directory(&order.join(name))?;
        }
        for name in ["a-", "a.b", "a/z", "a/b.c", "a/b/c/d", "aa"] {
            self.file(&order.join(name), b"")?;
        }
        let mut deep = self.directory(&top.join("deep"))?;
        for _ in 0..60 {
            deep = self.directory(&deep.join("d"))?;
        }
        self.file(&deep.join("bottom"), b"deep")?;
        self.directory(&top.join("empty"))?;

        for (name, n_bytes) in
            [("0", 0), ("1", 1), ("4095", 4095), ("4096", 4096), ("4097", 4097), ("3M", 3 << 20)]
        {
            let bytes = self.random.bytes(n_bytes);
            self.file(&top.join(format!("size-{name}")), &bytes)?;
        }
        self.file(&top.join("zeroes"), &vec![0; 1 << 20])?;
        self.file(&top.join("text"), "the same line over and over\n".repeat(20_000).as_bytes())?;
        for (name, n_bytes, data) in [
            ("hole", 8 << 20, &[][..]),
            ("hole-before", 8 << 20, &[(8 << 20) - 5]),
            ("hole-after", 64 << 20, &[0]),
            ("hole-within", 5_000_001, &[0, 1 << 20, 4 << 20]),
        ] {
            self.sparse(&top.join(format!("sparse-{name}")), n_bytes, data)?;
        }
        self.links(top)?;
        self.specials(top)?;
        self.attributes(top)
    }

    fn links(&mut self, top: &Path) -> io::Result<()> {
        let links = self.directory(&top.join("links"))?;
        self.file(&links.join("file"), b"linked to")?;
        let long = vec![b'l'; 4000];
        let targets: [(&str, &[u8]); 10] = [
            ("to-file", b"file"),
            ("to-directory", b"../order/a"),
            ("dangling", b"nowhere/at/all"),
            ("absolute", b"/etc/passwd"),
            ("to-itself", b"to-itself"),
            ("upwards", b"../../../../../../../../tmp"),
            ("dot", b"."),
            ("not-utf-8", b"\xff\xfe"),
            ("slash-after", b"../order/"),
            ("long", &long),
        ];
        for (name, target) in targets {
            self.symlink(&links.join(name), target)?;
        }
        self.file(&links.join("hard-1"), b"one inode")?;
        for further in ["hard-2", "../order/a/hard-3", "../zz-hard-4"] {
            fs::hard_link(links.join("hard-1"), links.join(further))?;
        }
        // A tree made by `cp -al`, as rsnapshot makes them, links symbolic links too.
        fs::hard_link(links.join("dangling"), links.join("dangling-again"))
    }

    fn specials(&mut self, top: &Path) -> io::Result<()> {
        let specials = self.directory(&top.join("specials"))?;
        self.special(&specials.join("fifo"), FileType::Fifo, 0)?;
        self.special(&specials.join("socket"), FileType::Socket, 0)?;
        self.special(&specials.join("null"), FileType::CharacterDevice, rustix::fs::makedev(1, 3))?;
        self.special(&specials.join("loop"), FileType::BlockDevice, rustix::fs::makedev(7, 0))?;
        // Numbers that need more than the 8 bits each of old formats.
        self.special(&specials.join("large"), FileType::BlockDevice, rustix::fs::makedev(259, 300_000))
    }

    fn attributes(&mut self, top: &Path) -> io::Result<()> {
        let attributes = self.directory(&top.join("attributes"))?;
        for mode in [0o4755, 0o2755, 0o6755, 0o1644, 0o400, 0o200, 0o777] {
            let is_readable = self.is_root || mode & 0o400 != 0;
            if is_readable {
                self.file(&attributes.join(format!("mode-{mode:04o}")), b"mode")?;
                self.last().mode = Some(mode);
            }
        }
        for mode in [0o1777, 0o2775, 0o711] {
            self.directory(&attributes.join(format!("directory-{mode:04o}")))?;
            self.last().mode = Some(mode);
        }
        let large = self.random.bytes(2_000);
        self.file(&attributes.join("xattrs"), b"x")?;
        self.last().xattrs = vec![
            ("user.empty", vec![]),
            ("user.binary", vec![0, 255, b'\n', 0]),
            ("user.large", large),
            ("user.日本語", b"name".to_vec()),
        ];
        self.directory(&attributes.join("xattr-directory"))?;
        self.last().xattrs = vec![("user.on", b"a directory".to_vec())];
        self.file(&attributes.join("acl"), b"x")?;
        self.last().xattrs = vec![("system.posix_acl_access", acl(6))];
        self.directory(&attributes.join("acl-directory"))?;
        self.file(&attributes.join("acl-directory/child"), b"x")?;
        let n = self.made.len();
        self.made[n - 2].xattrs =
            vec![("system.posix_acl_access", acl(7)), ("system.posix_acl_default", acl(5))];
        if self.is_root {
            self.file(&attributes.join("capability"), b"x")?;
            // cap_net_raw, permitted: `vfs_cap_data` of revision 2 in linux/capability.h.
            let words: [u32; 5] = [0x0200_0000, 1 << 13, 0, 0, 0];
            self.last().xattrs =
                vec![("security.capability", words.iter().flat_map(|w| w.to_le_bytes()).collect())];
            self.symlink(&attributes.join("trusted-link"), b"x")?;
            self.last().xattrs = vec![("trusted.on", b"a symbolic link".to_vec())];
        } else {
            self.left_out.insert("owners, capabilities and trusted xattrs (need root)");
        }
        Ok(())
    }

    /// One more entry, by chance.
    fn anything(&mut self, max_file_bytes: u64) -> io::Result<()> {
        let parent = self.directories[self.random.below(self.directories.len() as u64) as usize].clone();
        let path = parent.join(self.name());
        if path.as_os_str().len() > 3_000 || fs::symlink_metadata(&path).is_ok() {
            return Ok(());
        }
        match self.random.below(20) {
            0..=3 => self.directory(&path).map(drop),
            4 => {
                let target = self.name();
                self.symlink(&path, target.as_bytes())
            }
            5 => self.special(&path, FileType::Fifo, 0),
            6 if !self.files.is_empty() => {
                let file = &self.files[self.random.below(self.files.len() as u64) as usize];
                fs::hard_link(file, &path)
            }
            7 => {
                let n_bytes = self.random.below(8 * max_file_bytes.max(1)) + 1;
                let data = [self.random.below(n_bytes), self.random.below(n_bytes)];
                self.sparse(&path, n_bytes, &data)
            }
            _ => {
                let n_bytes = self.random.below(max_file_bytes.max(1)) as usize;
                let mut bytes = self.random.bytes(n_bytes);
                if self.random.once_in(2) {
                    bytes.iter_mut().for_each(|byte| *byte = b'a' + *byte % 4); // compresses well
                }
                self.file(&path, &bytes)
            }
        }
    }

    fn name(&self) -> OsString {
        if self.random.once_in(10) {
            let names = awkward_names();
            let name = &names[self.random.below(names.len() as u64) as usize];
            let suffix = self.random.below(100).to_string();
            let room = name.len().min(255 - suffix.len());
            return OsString::from_vec([&name.as_bytes()[..room], suffix.as_bytes()].concat());
        }
        let n_letters = 1 + self.random.below(12) as usize;
        let letters = self.random.bytes(n_letters).into_iter().map(|byte| b'a' + byte % 26);
        OsString::from_vec(letters.collect())
    }

    fn last(&mut self) -> &mut Made {
        self.made.last_mut().expect("something was just made")
    }

    fn note(&mut self, path: &Path, kind: FileType) {
        self.made.push(Made { path: path.to_owned(), kind, mode: None, xattrs: Vec::new() });
    }

    fn directory(&mut self, path: &Path) -> io::Result<PathBuf> {
        fs::create_dir(path)?;
        self.note(path, FileType::Directory);
        self.directories.push(path.to_owned());
        Ok(path.to_owned())
    }

    fn file(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        fs::write(path, bytes)?;
        self.note(path, FileType::RegularFile);
        self.files.push(path.to_owned());
        Ok(())
    }

    fn sparse(&mut self, path: &Path, n_bytes: u64, data: &[u64]) -> io::Result<()> {
        let file = File::create(path)?;
        file.set_len(n_bytes)?;
        for at in data {
            let room = 4.min(n_bytes - at) as usize;
            file.write_all_at(&b"data"[..room], *at)?;
        }
        self.note(path, FileType::RegularFile);
        Ok(())
    }

    fn symlink(&mut self, path: &Path, target: &[u8]) -> io::Result<()> {
        symlink(OsStr::from_bytes(target), path)?;
        self.note(path, FileType::Symlink);
        Ok(())
    }

    fn special(&mut self, path: &Path, kind: FileType, device: rustix::fs::Dev) -> io::Result<()> {
        match rustix::fs::mknodat(CWD, path, kind, Mode::RUSR | Mode::WUSR, device) {
            Ok(()) => self.note(path, kind),
            Err(Errno::PERM | Errno::OPNOTSUPP) => {
                self.left_out.insert("devices (need root)");
            }
            Err(errno) => return Err(errno.into()),
        }
        Ok(())
    }

    /// Gives everything its owner, mode, extended attributes and time; children first, as each of their
    /// changes would change the time of their directory, and its mode may lock us out.
    fn dress_all(&mut self) -> io::Result<()> {
        for made in std::mem::take(&mut self.made).into_iter().rev() {
            self.dress(&made)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", made.path.display())))?;
        }
        Ok(())
    }

    fn dress(&mut self, made: &Made) -> io::Result<()> {
        let path = &made.path;
        // In this order: a change of owner clears set-id bits and capabilities, and an ACL changes the mode.
        if self.is_root && self.random.once_in(3) {
            let [uid, gid] = [0, 1].map(|_| 2_000 + self.random.below(3) as u32);
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            rustix::fs::chownat(CWD, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if made.kind != FileType::Symlink {
            let by_chance: &[u32] = match made.kind {
                FileType::Directory => &[0o755, 0o700, 0o750, 0o775],
                _ => &[0o644, 0o600, 0o755, 0o444, 0o640],
            };
            let mode = made.mode.unwrap_or(by_chance[self.random.below(by_chance.len() as u64) as usize]);
            rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())?;
        }
        for (name, value) in &made.xattrs {
            self.xattr(path, name, value)?;
        }
        if matches!(made.kind, FileType::RegularFile | FileType::Directory) && self.random.once_in(8) {
            let value = self.random.bytes(20);
            self.xattr(path, "user.by-chance", &value)?;
        }
        let time = self.time();
        rustix::fs::utimensat(
            CWD,
            path,
            &Timestamps { last_access: time, last_modification: time },
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        Ok(())
    }

    fn xattr(&mut self, path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
        let kind = match name.split_once('.') {
            Some(("user", _)) => "user xattrs",
            Some(("system", _)) => "ACLs",
            _ => "capabilities and trusted xattrs",
        };
        match rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()) {
            Ok(()) => {}
            // A read-only mode stops the owner too, unless that is root.
            Err(Errno::ACCESS) if !self.is_root => {}
            Err(Errno::OPNOTSUPP | Errno::PERM | Errno::NOSPC) => {
                self.left_out.insert(kind);
            }
            Err(errno) => return Err(errno.into()),
        }
        Ok(())
    }

    /// From before 1970 to after 2038, with every digit of the nanoseconds in use.
    fn time(&self) -> Timespec {
        let tv_sec = match self.random.below(8) {
            0 => -(self.random.below(1_000_000_000) as i64) - 1,
            1 => (1 << 31) + self.random.below(1_000_000_000) as i64,
            2 => 0,
            _ => 1_600_000_000 + self.random.below(160_000_000) as i64,
        };
        let tv_nsec = if self.random.once_in(8) { 0 } else { self.random.below(1_000_000_000) as i64 };
        Timespec { tv_sec, tv_nsec }
    }
}

/// An ACL with one further user who has `permissions`, as the kernel writes it
/// (`posix_acl_xattr_header` and `_entry` in linux/posix_acl_xattr.h).
fn acl(permissions: u16) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let entries = [
        (0x01, 7, NOBODY), // the owner
        (0x02, permissions, 2_001),
        (0x04, 5, NOBODY), // the group
        (0x10, 7, NOBODY), // the mask
        (0x20, 0, NOBODY), // all others
    ];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(u16::to_le_bytes(tag));
        bytes.extend(u16::to_le_bytes(permissions));
        bytes.extend(u32::to_le_bytes(id));
    }
    bytes
}
