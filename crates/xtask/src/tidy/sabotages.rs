//! Bugs that are put in on purpose: each is in the list, and no build has them but that of `cargo xtask sabotages`.

use super::Finding;
use super::rust::Layers;
use super::tree::{Tree, is_shipped};
use crate::promises::tests;
use crate::sabotages::table::{self, Sabotage, TABLE, TestName};
use std::collections::{BTreeMap, BTreeSet};

/// Where the feature is declared, and the one line that does it.
const HOME: (&str, &str) = ("crates/model/Cargo.toml", "sabotage = []");

/// How code asks for a bug.
const ASKS: [&str; 2] = ["sabotage::on(\"", "sabotage::flip(\""];

/// Bugs that are asked for and not listed, or listed and not asked for, and what would build them in.
pub(crate) fn check(tree: &Tree) -> Result<Vec<Finding>, String> {
    let mut findings = turned_on(tree);
    let Some(list) = tree.text(TABLE) else { return Ok(findings) };
    let mut listed = BTreeMap::new();
    for sabotage in table::parse(list)? {
        if listed.insert(sabotage.name.clone(), false).is_some() {
            findings.push(Finding::new("sabotage", TABLE, 0, format!("{} is listed twice", sabotage.name)));
        }
    }
    findings.extend(unknown_tests(tree, &table::parse(list)?));
    for (path, text) in tree.rust_files().filter(|(path, _)| is_shipped(path) && !path.contains("/xtask/")) {
        let code = Layers::of(text).without_tests().uncommented;
        for (i, line) in code.lines().enumerate() {
            for name in names(line) {
                match listed.get_mut(name) {
                    Some(is_asked) => *is_asked = true,
                    None => {
                        let what = format!("no test catches {name}: list it in {TABLE}");
                        findings.push(Finding::new("sabotage", path, i + 1, what));
                    }
                }
            }
        }
    }
    for (name, _) in listed.iter().filter(|(_, is_asked)| !**is_asked) {
        findings.push(Finding::new("sabotage", TABLE, 0, format!("no code asks for {name}")));
    }
    Ok(findings)
}

/// Tests that a sabotage names and that are not there.
fn unknown_tests(tree: &Tree, sabotages: &[Sabotage]) -> Vec<Finding> {
    let tests: BTreeSet<TestName> = tests(tree).into_iter().map(|test| test.name).collect();
    let unknown = sabotages.iter().filter(|sabotage| !tests.contains(&sabotage.test));
    unknown
        .map(|s| Finding::new("sabotage", TABLE, 0, format!("{}: there is no test `{}`", s.name, s.test)))
        .collect()
}

/// Files other than ours in `xtask` that name the feature.
fn turned_on(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.files().filter(|(path, _)| !path.ends_with(".rs") && !path.ends_with(".md")) {
        for (i, line) in text.lines().enumerate() {
            let names_it =
                path.ends_with("Cargo.toml") && line.contains("sabotage") && !line.starts_with('#');
            if (names_it || line.contains("hikae-model/sabotage")) && (path, line) != HOME {
                let what = "only `cargo xtask sabotages` may turn the feature `sabotage` on";
                findings.push(Finding::new("sabotage", path, i + 1, what));
            }
        }
    }
    findings
}

fn names(line: &str) -> impl Iterator<Item = &str> {
    let after = ASKS.iter().flat_map(|ask| line.split(ask).skip(1));
    after.filter_map(|rest| rest.split('"').next())
}

#[cfg(test)]
mod tests {
    use super::super::assert_finds;
    use super::*;

    #[test]
    fn a_bug_that_no_test_catches_is_found() {
        let entry = "[[sabotage]]\nname = 'a'\nbug = 'b'\npromise = 'A-1'\ntest = 'repo it::c'\nsays = 'd'\n";
        let test = ("crates/repo/tests/it/it.rs", "#[test]\nfn c() {}");
        let places = |code| {
            let tree = Tree::of(&[(TABLE, entry), test, ("crates/repo/src/e.rs", code)]);
            check(&tree).unwrap().iter().map(|f| (f.path.clone(), f.line)).collect::<Vec<_>>()
        };
        assert_eq!(places("if sabotage::on(\"a\") {}"), []);
        assert_eq!(places("// sabotage::on(\"a\")"), [(TABLE.to_owned(), 0)]);
        let both = "\nsabotage::flip(\"f\", x); sabotage::on(\"a\");";
        assert_eq!(places(both), [("crates/repo/src/e.rs".to_owned(), 2)]);
        let without = Tree::of(&[(TABLE, entry), ("crates/repo/src/e.rs", "if sabotage::on(\"a\") {}")]);
        assert!(check(&without).unwrap()[0].to_string().contains("there is no test `repo it::c`"));
    }

    #[test]
    fn a_build_that_could_be_sabotaged_is_found() {
        for (path, line) in [
            ("crates/cli/Cargo.toml", "hikae-model = { workspace = true, features = [\"sabotage\"] }"),
            ("crates/model/Cargo.toml", "default = [\"sabotage\"]"),
            ("check", "cargo build --features hikae-model/sabotage"),
        ] {
            assert_finds(|tree| check(tree).unwrap(), &[(path, line)], &[("sabotage", 1)]);
        }
        assert_finds(|tree| check(tree).unwrap(), &[HOME], &[]);
    }
}
