//! Tests and what they say they keep, read from the sources as text.

use crate::sabotages::table::TestName;
use crate::tidy::tree::Tree;
use std::collections::BTreeSet;

/// A test, as its source shows it.
pub(crate) struct Test {
    /// Crate and path, as the harness prints them.
    pub(crate) name: TestName,
    /// Where it stands.
    pub(crate) file: String,
    /// Ids in its doc comment and in the header of its file.
    pub(crate) keeps: BTreeSet<String>,
}

impl Test {
    /// Its name without its module.
    pub(crate) fn own_name(&self) -> &str {
        self.name.path.rsplit("::").next().unwrap_or_default()
    }
}

/// Every test of the crates, in the order of files and lines.
pub(crate) fn tests(tree: &Tree) -> Vec<Test> {
    tree.rust_files()
        .filter(|(path, _)| !path.contains("/xtask/"))
        .flat_map(|(path, text)| of_file(path, text))
        .collect()
}

fn of_file(path: &str, text: &str) -> Vec<Test> {
    let header: BTreeSet<String> =
        text.lines().take_while(|line| line.starts_with("//!")).flat_map(ids).collect();
    let (mut tests, mut keeps, mut is_test) = (Vec::new(), BTreeSet::new(), false);
    for line in text.lines().map(str::trim) {
        if let Some(doc) = line.strip_prefix("///") {
            keeps.extend(ids(doc));
        } else if line == "#[test]" {
            is_test = true;
        } else if let Some(rest) = line.strip_prefix("fn ").filter(|_| is_test) {
            let own = rest.split('(').next().unwrap_or_default();
            keeps.extend(header.iter().cloned());
            let name = TestName { krate: krate(path).to_owned(), path: module(path) + own };
            tests.push(Test { name, file: path.to_owned(), keeps: std::mem::take(&mut keeps) });
            is_test = false;
        } else if !line.starts_with("#[") && !line.starts_with("//") {
            keeps.clear();
        }
    }
    tests
}

/// Ids in a text, as `MK-35`: at most two capital letters, a hyphen, a number.
fn ids(text: &str) -> impl Iterator<Item = String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    let is_id = |word: &&str| {
        word.split_once('-').is_some_and(|(letters, number)| {
            matches!(letters.len(), 1 | 2)
                && letters.bytes().all(|byte| byte.is_ascii_uppercase())
                && (1..=3).contains(&number.len())
                && number.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    words.filter(is_id).map(str::to_owned)
}

fn krate(path: &str) -> &str {
    path.split('/').nth(1).unwrap_or_default()
}

/// The module of tests in a file, with `::` at its end: that of `tests/it/a/b.rs` is `a::b::`, that of
/// `src/a.rs` is `a::tests::`.
fn module(path: &str) -> String {
    let inside: Vec<&str> = path.split('/').skip(3).collect();
    let inside = inside.join("::");
    let inside = inside.trim_end_matches(".rs").trim_end_matches("::mod");
    match path.split('/').nth(2) {
        Some("src") if matches!(inside, "lib" | "main") => "tests::".to_owned(),
        Some("src") => format!("{}::tests::", inside.trim_end_matches("::tests")),
        _ => inside.split_once("::").map_or(String::new(), |(_, module)| format!("{module}::")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_keeps_what_its_doc_comment_and_its_file_name() {
        let text = "//! Faults (A-2).\n\n/// X-9 has nothing to do with it.\nfn a() {}\n\n/// It keeps MK-35, RS-3.\n\
            #[test]\n#[cfg(unix)]\nfn b() {}\n\n#[test]\nfn c(\n) {}\n";
        let tests = tests(&Tree::of(&[("crates/cli/tests/it/faults/kill.rs", text)]));
        let found: Vec<_> = tests
            .iter()
            .map(|test| (test.name.to_string(), test.keeps.iter().map(String::as_str).collect()))
            .collect();
        let expected: [(String, Vec<&str>); 2] = [
            ("cli faults::kill::b".to_owned(), vec!["A-2", "MK-35", "RS-3"]),
            ("cli faults::kill::c".to_owned(), vec!["A-2"]),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn tests_are_named_as_the_harness_names_them() {
        for (path, expected) in [
            ("crates/repo/src/prune/plan.rs", "prune::plan::tests::"),
            ("crates/repo/src/lib.rs", "tests::"),
            ("crates/repo/src/postgresql/mod.rs", "postgresql::tests::"),
            ("crates/repo/tests/it/main.rs", "main::"),
            ("crates/repo/tests/it/sqlite/mod.rs", "sqlite::"),
            ("crates/repo/tests/it/sqlite/live.rs", "sqlite::live::"),
        ] {
            assert_eq!(module(path), expected, "{path}");
        }
    }

    #[test]
    fn only_ids_are_ids() {
        assert_eq!(
            ids("A-2 (MK-10), SHA-256, UTF-8, ISO-8859-1, X-13: a-1, AB-1234").collect::<Vec<_>>(),
            ["A-2", "MK-10", "X-13"]
        );
    }
}
