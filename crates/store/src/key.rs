//! Names of objects.

use std::fmt;

/// Name of an object: names of lower-case letters, digits, `.` and `-`, joined by `/`, as `packs/3f/3f02…`.
///
/// Every store can keep such a name as it is, and none can be led out of its directory by one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(Box<str>);

/// Text that is no [`ObjectKey`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` cannot be the name of an object", .0.escape_debug())]
pub struct BadKey(String);

impl ObjectKey {
    /// Longest key in bytes.
    pub const MAX_BYTES: usize = 200;

    /// Parses a name.
    ///
    /// # Errors
    /// [`BadKey`] for anything that some store could take in another way.
    pub fn parse(text: impl AsRef<str>) -> Result<Self, BadKey> {
        let text = text.as_ref();
        let name_is_plain = |name: &str| {
            !name.is_empty()
                && !name.starts_with('.')
                && name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-')
        };
        if text.len() <= Self::MAX_BYTES && text.split('/').all(name_is_plain) {
            Ok(Self(text.into()))
        } else {
            Err(BadKey(text.to_owned()))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True for what a repository consists of by its bytes, packs and the write-ahead log: they leave room for everything
    /// else, and are read back only now and then.
    pub fn is_bulk(&self) -> bool {
        self.is_below("packs") || self.is_below("wal")
    }

    /// True if the object stands in the directory `prefix` or below it. Everything stands below the empty prefix.
    pub fn is_below(&self, prefix: &str) -> bool {
        prefix.is_empty() || self.0.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
    }
}

/// True if `prefix` can be listed: the name of a directory, or nothing for the whole store.
pub fn is_prefix(prefix: &str) -> bool {
    prefix.is_empty() || ObjectKey::parse(prefix).is_ok()
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_keys() {
        for good in ["hikae.json", "log/0000000000000001", "packs/3f/3f02", "index/a-b.c"] {
            assert_eq!(ObjectKey::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "/a", "a/", "a//b", "..", "a/../b", ".hidden", "A", "a b", "a\0", "tmp/.x", "é"] {
            assert!(ObjectKey::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_prefix_is_a_directory_and_no_part_of_a_name() {
        let key = ObjectKey::parse("packs/3f/3f02").unwrap();
        assert!(key.is_below("") && key.is_below("packs") && key.is_below("packs/3f"));
        assert!(!key.is_below("pack") && !key.is_below("packs/3") && !key.is_below("packs/3f/3f02"));
    }
}
