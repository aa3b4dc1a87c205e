//! The checks of `cargo xtask tidy`, one file a family, and the list of findings that we allow.
//!
//! A check is a function from the [`Tree`] to its findings, so that a test can hand it a bad tree.

mod allow;
mod arrows;
mod code;
mod docs;
mod layout;
mod promises;
mod rust;
mod sabotages;
pub(crate) mod tree;
mod words;

use std::error::Error;
use std::fmt;
use std::path::Path;
use tree::Tree;

/// One breach of an invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Name of the check.
    check: &'static str,
    /// The file.
    path: String,
    /// Its line, from 1; 0 if it is about the whole file.
    line: usize,
    /// What is wrong and what would be right.
    what: String,
}

impl Finding {
    fn new(check: &'static str, path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { check, path: path.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { check, path, line, what } = self;
        if *line == 0 { write!(f, "{path}: ") } else { write!(f, "{path}:{line}: ") }?;
        write!(f, "{what} [{check}]")
    }
}

/// Every breach in the tree below `root` that is not allowed by name.
pub(crate) fn tidy(root: &Path) -> Result<Vec<Finding>, Box<dyn Error>> {
    let tree = Tree::read(root)?;
    Ok(allow::without_allowed(&tree, check(&tree)?)?)
}

fn check(tree: &Tree) -> Result<Vec<Finding>, Box<dyn Error>> {
    let mut findings = arrows::check(tree)?;
    findings.extend(layout::check(tree));
    findings.extend(code::check(tree));
    findings.extend(words::check(tree));
    findings.extend(docs::check(tree));
    findings.extend(sabotages::check(tree)?);
    findings.extend(promises::check(tree)?);
    findings.sort_by(|a, b| (&a.path, a.line, a.check).cmp(&(&b.path, b.line, b.check)));
    Ok(findings)
}

/// For the tests of the checks: `files` is a tree that `check` must find fault with, at these places.
#[cfg(test)]
#[track_caller]
fn assert_finds(check: impl Fn(&Tree) -> Vec<Finding>, files: &[(&str, &str)], expected: &[(&str, usize)]) {
    let found = check(&Tree::of(files));
    let places: Vec<(&str, usize)> = found.iter().map(|finding| (finding.check, finding.line)).collect();
    assert_eq!(places, expected, "{found:#?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_tree_is_one_that_the_checks_can_read() {
        tidy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")).unwrap();
    }
}
