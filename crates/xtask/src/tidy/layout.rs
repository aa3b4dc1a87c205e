//! How files are named, how long they are, and how they begin.

use super::Finding;
use super::tree::{Tree, is_shipped};

/// Past this many lines a file most likely holds two subjects.
const MOST_LINES: usize = 800;

/// Names that say nothing of what is in the file.
const EMPTY_NAMES: [&str; 7] = ["common", "helper", "helpers", "misc", "shared", "util", "utils"];

/// Files that are too long, have no header or an empty name.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, _) in tree.files() {
        let is_code = path.ends_with(".rs") || path.ends_with(".py");
        let stems = path.split('/').map(|part| part.split('.').next().unwrap_or_default());
        if is_code && let Some(name) = stems.into_iter().find(|stem| EMPTY_NAMES.contains(stem)) {
            findings.push(Finding::new("name", path, 0, format!("`{name}` says nothing: name the subject")));
        }
    }
    for (path, text) in tree.rust_files() {
        let n_lines = text.lines().count();
        if is_shipped(path) && n_lines > MOST_LINES {
            let what = format!("{n_lines} lines: look for the second subject, or allow it with a reason");
            findings.push(Finding::new("length", path, 0, what));
        }
        if !text.starts_with("//!") {
            findings.push(Finding::new(
                "header",
                path,
                1,
                "begin with `//!`: what this file knows and what it does not",
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::assert_finds;
    use super::*;

    #[test]
    fn a_file_without_a_header_is_found() {
        assert_finds(check, &[("crates/ops/src/a.rs", "//! A.\n")], &[]);
        assert_finds(check, &[("crates/ops/src/a.rs", "// A.\n")], &[("header", 1)]);
        assert_finds(check, &[("crates/ops/tests/it/a.rs", "use b;\n")], &[("header", 1)]);
    }

    #[test]
    fn a_long_file_is_found_unless_it_holds_tests() {
        let long = format!("//! A.\n{}", "\n".repeat(MOST_LINES));
        assert_finds(check, &[("crates/ops/src/a.rs", &long)], &[("length", 0)]);
        assert_finds(check, &[("crates/ops/tests/it/a.rs", &long)], &[]);
    }

    #[test]
    fn an_empty_name_is_found() {
        for path in ["crates/ops/src/utils.rs", "crates/ops/src/common/a.rs", "bench/helpers.py"] {
            assert_finds(check, &[(path, "//! A.\n")], &[("name", 0)]);
        }
    }
}
