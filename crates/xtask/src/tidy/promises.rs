//! Promises: each is kept by a test, and what is written of them is current.

use super::Finding;
use super::tree::Tree;
use crate::promises::{REPORT, report};

/// Promises without a test, and a report that others have overtaken.
pub(crate) fn check(tree: &Tree) -> Result<Vec<Finding>, String> {
    let (text, faults) = report(tree)?;
    let find = |what| Finding::new("promises", REPORT, 0, what);
    let mut findings: Vec<_> = faults.into_iter().map(find).collect();
    if tree.text(REPORT).unwrap_or_default() != text {
        findings.push(find("is not current: run `cargo xtask promises`".to_owned()));
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::super::assert_finds;
    use super::*;

    const LIST: &str = "crates/xtask/promises.toml";

    #[test]
    fn a_report_that_is_not_current_is_found() {
        let files = [(LIST, "[faults]\n"), ("crates/repo/src/a.rs", "//! A.\n")];
        let (text, _) = report(&Tree::of(&files)).unwrap();
        assert_finds(|tree| check(tree).unwrap(), &[files[0], files[1], (REPORT, &text)], &[]);
        assert_finds(|tree| check(tree).unwrap(), &[files[0], files[1], (REPORT, "old")], &[("promises", 0)]);
    }
}
