//! Headers of the archives in which a server sends a base backup: tar, as far as PostgreSQL writes it.
//!
//! `tarCreateHeader` in `src/port/tar.c` writes ustar with names of up to 99 bytes, regular files, directories and symbolic
//! links, and numbers too large for octal digits in base 256. Everything else is refused: long names in blocks of their
//! own, hard links, devices. A name can leave neither the archive nor the tree (CVE-2026-6475).
//!
//! This module knows one block. What may be linked to what, [`base_backup`](super::base_backup) says.

use hikae_model::TreePath;

/// Size of a block; contents are filled up to it.
pub(super) const BLOCK: usize = 512;
/// Largest file that is taken: 8 TiB, 8,192 times the largest segment of a table.
const MAX_FILE_BYTES: u64 = 8 << 40;

/// What stands in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) path: TreePath,
    pub(super) kind: Kind,
    /// Permissions, nothing else.
    pub(super) mode: u32,
    /// Owner and group, as numbers of the server's machine.
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since 1970.
    pub(super) modified: u64,
    /// Of a file's content; 0 for all else.
    pub(super) bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    /// A symbolic link and where it leads to.
    Link(Vec<u8>),
}

/// Reads a header; `None` for the block of zeros at the end of an archive.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn parse_header(block: &[u8; BLOCK]) -> Result<Option<Header>, String> {
    if block.iter().all(|&byte| byte == 0) {
        return Ok(None);
    }
    let sum: u64 = block
        .iter()
        .enumerate()
        .map(|(i, &byte)| u64::from(if (148..156).contains(&i) { b' ' } else { byte }))
        .sum();
    if number(&block[148..156]) != Some(sum) {
        return Err("a header does not have the checksum that it says".into());
    }
    if &block[257..262] != b"ustar" || block[345..500].iter().any(|&byte| byte != 0) {
        return Err("a header is not of the form that PostgreSQL writes".into());
    }
    let name = text(&block[..100]);
    let shown = name.escape_ascii().to_string();
    let kind = match block[156] {
        b'0' | 0 => Kind::File,
        b'5' => Kind::Directory,
        b'2' => Kind::Link(text(&block[157..257]).to_vec()),
        other => return Err(format!("`{shown}` is of kind `{}`", other.escape_ascii())),
    };
    // The server marks directories, and links to them, with a slash.
    let bare = if kind == Kind::File { name } else { name.strip_suffix(b"/").unwrap_or(name) };
    if name.len() > 99 {
        return Err(format!("the name `{shown}` has no end"));
    }
    // One directory comes as `./pg_wal/archive_status`.
    let path =
        TreePath::parse(bare.strip_prefix(b"./").unwrap_or(bare)).map_err(|error| error.to_string())?;
    let field = |what: &str, range: std::ops::Range<usize>| {
        number(&block[range]).ok_or_else(|| format!("`{shown}` has a {what} that is no number"))
    };
    let bytes = field("size", 124..136)?;
    if bytes > MAX_FILE_BYTES || (kind != Kind::File && bytes > 0) {
        return Err(format!("`{shown}` is said to have {bytes} bytes"));
    }
    let mode = (field("mode", 100..108)? & 0o777) as u32;
    let modified = field("time", 136..148)?;
    let owner = |what, range| {
        let id = u32::try_from(field(what, range)?);
        id.map_err(|_| format!("`{shown}` has a {what} that is no number of one"))
    };
    let (uid, gid) = (owner("user", 108..116)?, owner("group", 116..124)?);
    Ok(Some(Header { path, kind, mode, uid, gid, modified, bytes }))
}

/// What of a field stands before its first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// Octal digits with an end, or if the first byte is 0x80 a number in base 256 (`print_tar_number`).
fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if *first == 0x80 {
        let (high, low) = rest.split_at(rest.len().saturating_sub(8));
        let is_small = high.iter().all(|&byte| byte == 0);
        return is_small.then(|| low.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)));
    }
    let digits = field.trim_ascii_start();
    let end = digits.iter().position(|byte| !(b'0'..=b'7').contains(byte)).unwrap_or(digits.len());
    let (digits, end) = digits.split_at(end);
    let is_ended = end.iter().all(|&byte| byte == 0 || byte == b' ');
    (is_ended && !digits.is_empty())
        .then(|| digits.iter().fold(0, |number, &digit| number << 3 | u64::from(digit - b'0')))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use hikae_testkit::{Seed, TestRandom};

    /// A header as PostgreSQL writes it.
    pub(crate) fn header(name: &[u8], kind: u8, link: &[u8], size: &[u8; 12]) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        block[..name.len()].copy_from_slice(name);
        block[100..108].copy_from_slice(b"0000600 ");
        block[108..124].copy_from_slice(b"0000146 0000147 ");
        block[124..136].copy_from_slice(size);
        block[136..148].copy_from_slice(b"15070624612 ");
        block[156] = kind;
        block[157..157 + link.len()].copy_from_slice(link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        seal(block)
    }

    /// The block with its right checksum.
    fn seal(mut block: [u8; BLOCK]) -> [u8; BLOCK] {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:07o} ").as_bytes());
        block
    }

    const SMALL: &[u8; 12] = b"00000020000 ";

    #[test]
    fn headers_are_read_as_the_server_writes_them() {
        let file = parse_header(&header(b"base/5/1259", b'0', b"", SMALL)).unwrap().unwrap();
        assert_eq!((file.path.as_bytes(), file.bytes, file.mode), (&b"base/5/1259"[..], 8192, 0o600));
        assert_eq!((file.kind, file.modified), (Kind::File, 0o15070624612));
        let directory = parse_header(&header(b"pg_wal/", b'5', b"", b"00000000000 ")).unwrap().unwrap();
        assert_eq!((directory.path.as_bytes(), directory.kind), (&b"pg_wal"[..], Kind::Directory));
        let dotted = parse_header(&header(b"./pg_wal/archive_status/", b'5', b"", b"00000000000 ")).unwrap();
        assert_eq!(dotted.unwrap().path.as_bytes(), b"pg_wal/archive_status");
        let link = parse_header(&header(b"pg_tblspc/1/", b'2', b"/mnt/x", b"00000000000 ")).unwrap().unwrap();
        assert_eq!(link.kind, Kind::Link(b"/mnt/x".to_vec()));
        // 9 GiB do not fit into octal digits.
        let mut large = [0; 12];
        large[0] = 0x80;
        large[4..].copy_from_slice(&(9_u64 << 30).to_be_bytes());
        assert_eq!(parse_header(&header(b"a", b'0', b"", &large)).unwrap().unwrap().bytes, 9 << 30);
        assert_eq!(parse_header(&[0; BLOCK]), Ok(None));
    }

    #[test]
    fn what_could_lead_outside_or_is_never_sent_is_refused() {
        for name in [
            &b"../x"[..],
            b"/etc/passwd",
            b"a/../../x",
            b"a//b",
            b"././x",
            b".//x",
            b"./../x",
            b"./",
            b"",
            b"a/",
            b"a/.",
        ] {
            assert!(parse_header(&header(name, b'0', b"", SMALL)).is_err(), "{}", name.escape_ascii());
        }
        assert!(parse_header(&header(&[b'a'; 100], b'0', b"", SMALL)).is_err(), "a name without end");
        for kind in *b"13467xgLKSVM\xff" {
            assert!(parse_header(&header(b"a", kind, b"", SMALL)).is_err(), "{}", kind.escape_ascii());
        }
        for size in [
            b"-0000000001 ",
            b"77777777777x",
            b"\x80\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff",
            b"            ",
        ] {
            assert!(parse_header(&header(b"a", b'0', b"", size)).is_err(), "{}", size.escape_ascii());
        }
        assert!(parse_header(&header(b"a/", b'5', b"", SMALL)).is_err(), "a directory with content");
        let mut prefixed = header(b"x", b'0', b"", SMALL);
        prefixed[345..347].copy_from_slice(b"..");
        assert!(parse_header(&seal(prefixed)).is_err());
        let mut flipped = header(b"x", b'0', b"", SMALL);
        flipped[0] ^= 1;
        assert!(parse_header(&flipped).is_err());
    }

    /// Keeps I-8.
    #[test]
    fn no_block_makes_the_parser_panic_or_names_anything_outside() {
        let random = TestRandom::new(Seed::draw());
        let n_changes = if std::env::var_os("HIKAE_FULL").is_some() { 2_000_000 } else { 20_000 };
        let seeds = [
            header(b"base/5/1259", b'0', b"", SMALL),
            header(b"pg_tblspc/16384/", b'2', b"/mnt/space", b"00000000000 "),
        ];
        let mut n_parsed = 0;
        for n in 0..n_changes {
            let mut block = seeds[n % seeds.len()];
            for _ in 0..=random.below(4) {
                let at = random.below(BLOCK as u64) as usize;
                match random.below(3) {
                    0 => block[at] ^= 1 << random.below(8),
                    1 => block[at] = random.bytes(1)[0],
                    _ => block[at % 30] = b"./\0.\x80-7"[random.below(7) as usize],
                }
            }
            if let Ok(Some(header)) = parse_header(&seal(block)) {
                n_parsed += 1;
                assert!(header.path.names().all(|name| !matches!(name, b"" | b"." | b"..")));
                assert!(header.bytes <= MAX_FILE_BYTES);
            }
        }
        assert!(n_parsed > 100, "only {n_parsed} still parse");
    }
}
