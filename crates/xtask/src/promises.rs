//! `cargo xtask promises`: which test keeps which promise, collected from the tests themselves.
//!
//! A test says what it keeps by the ids in its doc comment (`/// Keeps MK-35, RS-53.`), a file by those in its
//! header, for all of its tests. `crates/xtask/promises.toml` lists what must be kept; `docs/promises.md` is made
//! of both and of the list of sabotages, and `cargo xtask tidy` sees that it is current.

mod collect;

use crate::sabotages::table::{self, TABLE};
use crate::tidy::tree::Tree;
pub(crate) use collect::{Test, tests};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What must be kept.
const LIST: &str = "crates/xtask/promises.toml";
/// What is written.
pub(crate) const REPORT: &str = "docs/promises.md";

/// Something that must hold: a promise of the catalogue of faults, or an item of the requirements.
struct Promise {
    id: String,
    text: String,
    /// Why no test keeps it, if none does.
    untested: Option<String>,
}

/// The report, and what is wrong: promises that no test keeps, reasons for what is tested after all.
///
/// # Errors
/// A list that cannot be read.
pub(crate) fn report(tree: &Tree) -> Result<(String, Vec<String>), String> {
    let Some(list) = tree.text(LIST) else { return Ok(Default::default()) };
    let sections = parse(list)?;
    let tests = tests(tree);
    let sabotages = tree.text(TABLE).map_or(Ok(Vec::new()), table::parse)?;
    let mut faults = Vec::new();
    let mut text = String::from(HEAD);
    for (title, promises) in sections {
        let _ = write!(text, "\n## {title}\n");
        for Promise { id, text: what, untested } in promises {
            let kept_by: Vec<&Test> = tests.iter().filter(|test| test.keeps.contains(&id)).collect();
            match (kept_by.is_empty(), &untested) {
                (true, None) => faults.push(format!("no test keeps {id}: {what}")),
                (false, Some(_)) => faults.push(format!("{id} has a test, so no reason why it has none")),
                _ => {}
            }
            let _ = write!(text, "\n**{id}** {what}\n\n");
            if let Some(why) = untested {
                let _ = writeln!(text, "- no test: {why}");
            }
            let mut by_file: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            kept_by.iter().for_each(|test| by_file.entry(&test.file).or_default().push(test.own_name()));
            for (file, names) in by_file {
                let n_in_file = tests.iter().filter(|test| test.file == file).count();
                let shown = match names.len() {
                    n if n == n_in_file && n > 2 => "all of it".to_owned(),
                    _ => names.join(", "),
                };
                let _ = writeln!(text, "- [{}](../{file}): {shown}", file.trim_start_matches("crates/"));
            }
            let caught = sabotages.iter().filter(|sabotage| sabotage.promises.contains(&id));
            let caught: Vec<_> =
                caught.map(|sabotage| format!("{} (`{}`)", sabotage.bug, sabotage.name)).collect();
            if !caught.is_empty() {
                let _ = writeln!(text, "- seen to fail when: {}", caught.join("; "));
            }
        }
    }
    Ok((text, faults))
}

const HEAD: &str = "# Promises

What hikae promises, the tests that keep it, and the bugs that were put in to see those tests fail. Written by
`cargo xtask promises`; do not edit. Ids of one letter are those of the catalogue of faults, the others those of the
written requirements.
";

fn parse(text: &str) -> Result<Vec<(String, Vec<Promise>)>, String> {
    let bad = |what: &str| format!("{LIST}: {what}");
    let table: toml::Table = text.parse().map_err(|error| bad(&format!("{error}")))?;
    let table_of = |name: &str| table.get(name).and_then(toml::Value::as_table).cloned().unwrap_or_default();
    let untested = table_of("untested");
    let mut sections = Vec::new();
    for (name, title) in [("faults", "Faults and attacks"), ("items", "Requirements")] {
        let mut promises: Vec<Promise> = Vec::new();
        for (id, text) in table_of(name) {
            let text = text.as_str().ok_or_else(|| bad(&format!("{id} is no text")))?.to_owned();
            let untested = untested.get(&id).and_then(toml::Value::as_str).map(str::to_owned);
            promises.push(Promise { id, text, untested });
        }
        promises.sort_by_key(|promise| order(&promise.id));
        sections.push((title.to_owned(), promises));
    }
    let known = |id: &String| sections.iter().flat_map(|(_, list)| list).any(|promise| promise.id == *id);
    match untested.keys().find(|id| !known(id)) {
        Some(id) => Err(bad(&format!("{id} is untested and not listed"))),
        None => Ok(sections),
    }
}

/// `MK-9` before `MK-10`.
fn order(id: &str) -> (String, u32) {
    let (letters, number) = id.split_once('-').unwrap_or((id, ""));
    (letters.to_owned(), number.parse().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEST: (&str, &str) =
        ("crates/repo/tests/it/a.rs", "//! A.\n\n/// Keeps A-2.\n#[test]\nfn b() {}\n\n#[test]\nfn c() {}\n");

    fn faults(list: &str) -> Vec<String> {
        let sabotages =
            "[[sabotage]]\nname = 's'\nbug = 'it leaks'\npromise = 'A-2'\ntest = 'repo a::b'\nsays = 'x'\n";
        report(&Tree::of(&[(LIST, list), TEST, (TABLE, sabotages)])).unwrap().1
    }

    #[test]
    fn a_promise_that_no_test_keeps_is_found() {
        assert!(faults("[faults]\nA-2 = 'x'\n").is_empty());
        assert_eq!(faults("[faults]\nA-2 = 'x'\nA-10 = 'y'\n"), ["no test keeps A-10: y"]);
        assert!(faults("[faults]\nA-10 = 'y'\n[untested]\nA-10 = 'needs a moon'\n").is_empty());
        assert_eq!(faults("[faults]\nA-2 = 'x'\n[untested]\nA-2 = 'z'\n").len(), 1);
    }

    #[test]
    fn the_report_names_tests_and_bugs() {
        let sabotages =
            "[[sabotage]]\nname = 's'\nbug = 'it leaks'\npromise = 'A-2'\ntest = 'repo a::b'\nsays = 'x'\n";
        let tree = Tree::of(&[(LIST, "[faults]\nA-2 = 'It holds'\n"), TEST, (TABLE, sabotages)]);
        let (text, _) = report(&tree).unwrap();
        let expected = "**A-2** It holds\n\n- [repo/tests/it/a.rs](../crates/repo/tests/it/a.rs): b\n\
            - seen to fail when: it leaks (`s`)\n";
        assert!(text.contains(expected), "{text}");
    }
}
