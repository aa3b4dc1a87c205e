//! Where an entry stands inside a snapshot.
//!
//! A path is a list of names, kept as bytes because file names need not be UTF-8. It is relative, never
//! empty, and holds no `.`, no `..`, no empty name and no NUL: such a path cannot even be made, so
//! nothing that reads a snapshot can be sent outside its target by one.

use std::cmp::Ordering;
use std::fmt;

/// Path of an entry inside a snapshot: names joined by `/`.
///
/// Ordered component by component, as a walk meets entries: a directory, then all that is in it, then
/// its next sibling. So `a`, `a/z`, `a.b`: the `/` sorts before every other byte.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TreePath(Box<[u8]>);

/// Bytes that are no [`TreePath`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{shown}` is not a path inside a snapshot: {why}")]
pub struct BadTreePath {
    shown: String,
    why: &'static str,
}

impl TreePath {
    /// Longest path in bytes. Linux paths end at 4,096, but a tree can be walked deeper.
    pub const MAX_BYTES: usize = 1 << 20;

    /// Parses names joined by `/`.
    ///
    /// # Errors
    /// [`BadTreePath`] for everything that could leave the tree or name nothing in it.
    pub fn parse(bytes: impl AsRef<[u8]>) -> Result<Self, BadTreePath> {
        let bytes = bytes.as_ref();
        let bad = |why| Err(BadTreePath { shown: shown(bytes), why });
        if bytes.len() > Self::MAX_BYTES {
            return bad("it is too long");
        }
        if bytes.contains(&0) {
            return bad("it holds a NUL byte");
        }
        for name in bytes.split(|&byte| byte == b'/') {
            match name {
                b"" => return bad("a name is empty"),
                b"." | b".." => return bad("`.` and `..` are not names"),
                _ => {}
            }
        }
        Ok(Self(bytes.into()))
    }

    /// The path that is shown as this one, if its text holds what stands for bytes that cannot be shown.
    pub fn parse_shown(shown: &Self) -> Option<Self> {
        if !shown.0.contains(&b'\\') {
            return None;
        }
        Self::parse(unshown(&shown.0)?).ok()
    }

    /// This path with one more name.
    ///
    /// # Errors
    /// [`BadTreePath`] if `name` is not one name.
    pub fn join(&self, name: &[u8]) -> Result<Self, BadTreePath> {
        Self::parse([&self.0[..], b"/", name].concat())
    }

    /// The bytes, names joined by `/`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The names, outermost first. There is at least one.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|&byte| byte == b'/')
    }

    /// The last name.
    pub fn name(&self) -> &[u8] {
        self.names().next_back().unwrap_or(&self.0)
    }

    /// The directory that holds this entry, unless it stands at the top.
    pub fn parent(&self) -> Option<Self> {
        let cut = self.0.iter().rposition(|&byte| byte == b'/')?;
        Some(Self(self.0[..cut].into()))
    }

    /// True for the path itself and for all below it.
    pub fn is_within(&self, ancestor: &Self) -> bool {
        self.0.strip_prefix(&*ancestor.0).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }
}

impl Ord for TreePath {
    fn cmp(&self, other: &Self) -> Ordering {
        let common = self.0.iter().zip(&other.0).position(|(a, b)| a != b);
        let rank = |byte: u8| if byte == b'/' { 0 } else { byte };
        match common {
            Some(at) => rank(self.0[at]).cmp(&rank(other.0[at])),
            None => self.0.len().cmp(&other.0.len()),
        }
    }
}

impl PartialOrd for TreePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// For people: control characters and bytes that are not UTF-8 are escaped, so that a name can neither
/// move the cursor nor hide.
impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.0))
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", shown(&self.0))
    }
}

fn shown(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || is_direction_mark(c) || c == '\\' {
                text.extend(c.escape_default());
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// Undoes [`shown`]; nothing for what it would not have made.
fn unshown(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        if first != b'\\' {
            bytes.push(first);
            rest = after;
            continue;
        }
        let (&kind, after) = after.split_first()?;
        rest = after;
        match kind {
            b'\\' => bytes.push(b'\\'),
            b'n' => bytes.push(b'\n'),
            b'r' => bytes.push(b'\r'),
            b't' => bytes.push(b'\t'),
            b'x' => {
                let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = &rest[2..];
            }
            b'u' => {
                let end = rest.iter().position(|&byte| byte == b'}')?;
                let digits = std::str::from_utf8(rest[..end].strip_prefix(b"{")?).ok()?;
                let c = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
                bytes.extend(c.encode_utf8(&mut [0; 4]).bytes());
                rest = &rest[end + 1..];
            }
            _ => return None,
        }
    }
    Some(bytes)
}

/// Unicode's marks for the direction of text, which can make a name read as another.
fn is_direction_mark(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::parse(text).unwrap()
    }

    #[test]
    fn no_path_leaves_the_tree() {
        for hostile in ["", "/", "/etc", "a//b", "a/", "..", "a/../b", "./a", "a/.", "a\0b"] {
            assert!(TreePath::parse(hostile).is_err(), "{hostile:?}");
        }
    }

    #[test]
    fn paths_sort_as_a_walk_meets_them() {
        let mut paths = ["a.b", "a/z", "a", "b", "a/b/c", "a/b", "a-"].map(path);
        paths.sort();
        assert_eq!(paths.map(|p| p.to_string()), ["a", "a/b", "a/b/c", "a/z", "a-", "a.b", "b"]);
    }

    #[test]
    fn a_directory_contains_what_is_below_it_and_not_its_namesakes() {
        assert!(path("a/b").is_within(&path("a")));
        assert!(path("a").is_within(&path("a")));
        assert!(!path("ab").is_within(&path("a")));
    }

    #[test]
    fn what_is_shown_leads_back_to_the_path() {
        for bytes in [b"bad\xff\xfename".as_slice(), b"a\\x41/\ttab\n", "red\x1b[31m\u{202e}表".as_bytes()] {
            let path = TreePath::parse(bytes).unwrap();
            let shown = TreePath::parse(path.to_string()).unwrap();
            assert_eq!(TreePath::parse_shown(&shown), Some(path));
        }
        for text in ["plain", "a\\", "a\\q", "a\\xg0", "a\\u{110000}", "a\\u{2f"] {
            assert_eq!(TreePath::parse_shown(&path(text)), None, "{text}");
        }
        assert_eq!(TreePath::parse_shown(&path("a\\x2f\\x2e\\x2e")), None, "no name of a path is `..`");
    }

    #[test]
    fn names_are_shown_without_moving_the_cursor() {
        let hostile = TreePath::parse(b"red\x1b[31m\xff\xe2\x80\xae".as_slice()).unwrap();
        assert_eq!(hostile.to_string(), "red\\u{1b}[31m\\xff\\u{202e}");
    }
}
