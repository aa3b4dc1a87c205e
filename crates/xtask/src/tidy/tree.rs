//! The tree that is checked: every file of ours with its text.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// Directories that hold nothing of ours, at the root.
const NOT_OURS: [&str; 2] = [".git", "target"];

/// Files by path from the root, with `/`. A file that is not text has the empty text.
pub(crate) struct Tree(BTreeMap<String, String>);

impl Tree {
    /// Reads every file below `root`.
    pub(crate) fn read(root: &Path) -> io::Result<Self> {
        let mut tree = Self(BTreeMap::new());
        for entry in std::fs::read_dir(root)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !NOT_OURS.contains(&name.as_str()) {
                tree.add(&entry.path(), name)?;
            }
        }
        Ok(tree)
    }

    fn add(&mut self, at: &Path, path: String) -> io::Result<()> {
        let kind = at.symlink_metadata()?.file_type();
        if kind.is_dir() {
            for entry in std::fs::read_dir(at)? {
                let entry = entry?;
                let path = format!("{path}/{}", entry.file_name().to_string_lossy());
                // Caches of the Python interpreter appear wherever a script of ours ran.
                if !path.ends_with("/__pycache__") {
                    self.add(&entry.path(), path)?;
                }
            }
        } else if kind.is_file() {
            self.0.insert(path, String::from_utf8(std::fs::read(at)?).unwrap_or_default());
        }
        Ok(())
    }

    /// A made-up tree.
    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        Self(files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect())
    }

    /// Every file, in path order.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// Every Rust file of the crates.
    pub(crate) fn rust_files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files().filter(|(path, _)| path.starts_with("crates/") && path.ends_with(".rs"))
    }

    /// The text of one file.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.0.get(path).map(String::as_str)
    }

    /// Whether `path` is a file, or a directory with a file in it.
    pub(crate) fn has(&self, path: &str) -> bool {
        let inside = format!("{}/", path.trim_end_matches('/'));
        self.0.contains_key(path)
            || self.0.range(inside.clone()..).next().is_some_and(|(p, _)| p.starts_with(&inside))
    }
}

/// The crate that a path below `crates/` belongs to, as `store`.
pub(crate) fn crate_of(path: &str) -> &str {
    path.split('/').nth(1).unwrap_or_default()
}

/// Whether a Rust file goes into what we ship: below `src`, and not a module of tests.
pub(crate) fn is_shipped(path: &str) -> bool {
    path.split('/').nth(2) == Some("src") && !path.ends_with("/tests.rs") && !path.contains("/tests/")
}
