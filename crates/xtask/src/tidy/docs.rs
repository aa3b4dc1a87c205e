//! The documents: that they are there, that their links lead somewhere, that their tables are true.

use super::Finding;
use super::tree::Tree;
use std::collections::BTreeSet;

/// What must be there.
const DOCUMENTS: [&str; 10] = [
    "README.md",
    "ARCHITECTURE.md",
    "STYLE.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    "deny.toml",
    "docs/format.md",
    "docs/concurrency.md",
];

/// Where the exit codes are defined.
const CODES: &str = "crates/model/src/advise.rs";

/// Missing documents, dead links, and exit codes of which the README tells otherwise.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = missing(tree);
    findings.extend(dead_links(tree));
    findings.extend(exit_codes(tree));
    findings
}

fn missing(tree: &Tree) -> Vec<Finding> {
    let gone = DOCUMENTS.iter().filter(|path| tree.text(path).is_none_or(str::is_empty));
    gone.map(|path| Finding::new("document", path, 0, "is not there")).collect()
}

fn dead_links(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.files().filter(|(path, _)| path.ends_with(".md")) {
        let mut fenced = false;
        for (i, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
            }
            for target in links(line).filter(|_| !fenced) {
                if !resolve(path, target).is_some_and(|target| target.is_empty() || tree.has(&target)) {
                    findings.push(Finding::new("link", path, i + 1, format!("`{target}` leads nowhere")));
                }
            }
        }
    }
    findings
}

/// The relative targets of `[text](target)` in a line, without fragment; code in backquotes is no link.
fn links(line: &str) -> impl Iterator<Item = &str> {
    let prose = line.split('`').step_by(2);
    let targets = prose.flat_map(|prose| prose.split("](").skip(1)).filter_map(|rest| rest.split(')').next());
    let is_outside = |target: &&str| target.contains("://") || target.starts_with("mailto:");
    targets
        .filter(move |target| !is_outside(target))
        .map(|target| target.split('#').next().unwrap_or_default())
}

/// The path from the root that `target` means in the file `from`; `None` if it leads out of the tree.
fn resolve(from: &str, target: &str) -> Option<String> {
    if target.is_empty() {
        return Some(from.to_owned());
    }
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.trim_end_matches('/').split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()?),
            _ => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The exit codes of `ErrorCode` and those in the table of the README under `## Exit codes`.
fn exit_codes(tree: &Tree) -> Vec<Finding> {
    let (Some(code), Some(readme)) = (tree.text(CODES), tree.text("README.md")) else { return Vec::new() };
    let mut defined = BTreeSet::from([(0, "ok".to_owned())]);
    let arms: Vec<(&str, &str)> = code
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Self::")?.strip_suffix(',')?.split_once(" => "))
        .collect();
    for (variant, number) in
        arms.iter().filter_map(|(variant, value)| Some((variant, value.parse::<u8>().ok()?)))
    {
        let name = arms.iter().find(|(of, value)| of == variant && value.starts_with('"'));
        defined.insert((number, name.map_or("", |(_, name)| name.trim_matches('"')).to_owned()));
    }
    let section = readme.lines().skip_while(|line| *line != "## Exit codes").skip(1);
    let rows = section.take_while(|line| !line.starts_with("## ") && !line.starts_with("### "));
    let told: BTreeSet<(u8, String)> = rows
        .filter_map(|row| {
            let mut cells = row.split('|').skip(1).map(|cell| cell.trim().trim_matches('`'));
            Some((cells.next()?.parse().ok()?, cells.next()?.to_owned()))
        })
        .collect();
    let tell = |(number, name): &(u8, String), what: &str| {
        Finding::new("exit-codes", "README.md", 0, format!("exit code {number} `{name}` {what}"))
    };
    let untold = defined.difference(&told).map(|code| tell(code, "is missing in the table"));
    untold
        .chain(told.difference(&defined).map(|code| tell(code, "is in the table and not in ErrorCode")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::assert_finds;
    use super::*;

    #[test]
    fn a_missing_document_is_found() {
        let all: Vec<(&str, &str)> = DOCUMENTS.iter().map(|path| (*path, "text")).collect();
        assert_finds(missing, &all, &[]);
        assert_finds(missing, &all[1..], &[("document", 0)]);
    }

    #[test]
    fn a_link_that_leads_nowhere_is_found() {
        let good = "[a](b.md) [c](../README.md#d) [e](https://example.org) [f](#g) [h](../docs/) `[i](j)`\n```\n[k](l)\n```";
        let around = [("README.md", ""), ("docs/b.md", "")];
        assert_finds(dead_links, &[around[0], around[1], ("docs/a.md", good)], &[]);
        for bad in ["x\n[a](c.md)", "x\n[a](b.md) [c](README.md)", "x\n[a](../../README.md)"] {
            assert_finds(dead_links, &[around[0], around[1], ("docs/a.md", bad)], &[("link", 2)]);
        }
    }

    #[test]
    fn an_exit_code_that_the_readme_tells_otherwise_is_found() {
        let code = "            Self::Failure => \"failure\",\n            Self::Failure => 1,\n";
        let readme = "## Exit codes\n\n| Code | Name |\n| --- | --- |\n| 0 | `ok` |\n| 1 | `failure` |\n\n### Other\n\n| 4 | x |\n";
        assert_finds(exit_codes, &[(CODES, code), ("README.md", readme)], &[]);
        for bad in [readme.replace("| 1 |", "| 2 |"), readme.replace("failure", "fault")] {
            assert_finds(exit_codes, &[(CODES, code), ("README.md", &bad)], &[("exit-codes", 0); 2]);
        }
    }
}
