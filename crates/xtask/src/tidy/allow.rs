//! The written list of findings that we live with, each with its reason (`crates/xtask/allow.toml`).

use super::Finding;
use super::tree::Tree;

const LIST: &str = "crates/xtask/allow.toml";

struct Entry {
    check: String,
    path: String,
    line: Option<String>,
    why: String,
}

/// The findings that no entry of the list allows, and the entries that allow nothing.
pub(crate) fn without_allowed(tree: &Tree, findings: Vec<Finding>) -> Result<Vec<Finding>, String> {
    let entries = entries(tree.text(LIST).unwrap_or_default())?;
    let mut used = vec![false; entries.len()];
    let mut left = Vec::new();
    for finding in findings {
        match entries.iter().position(|entry| allows(entry, &finding, tree)) {
            Some(i) => used[i] = true,
            None => left.push(finding),
        }
    }
    for (entry, used) in entries.iter().zip(used) {
        if entry.why.trim().is_empty() {
            left.push(Finding::new(
                "allow",
                LIST,
                0,
                format!("{} of {} is allowed without a reason", entry.check, entry.path),
            ));
        } else if !used {
            left.push(Finding::new(
                "allow",
                LIST,
                0,
                format!("{} of {} is no longer found: take it out", entry.check, entry.path),
            ));
        }
    }
    Ok(left)
}

fn allows(entry: &Entry, finding: &Finding, tree: &Tree) -> bool {
    let line = || tree.text(&finding.path)?.lines().nth(finding.line.checked_sub(1)?);
    entry.check == finding.check
        && entry.path == finding.path
        && entry.line.as_ref().is_none_or(|part| line().is_some_and(|line| line.contains(part)))
}

fn entries(text: &str) -> Result<Vec<Entry>, String> {
    let bad = |what: &str| format!("{LIST}: {what}");
    let table: toml::Table = text.parse().map_err(|error| bad(&format!("{error}")))?;
    let Some(list) = table.get("allow") else { return Ok(Vec::new()) };
    let list = list.as_array().ok_or_else(|| bad("`allow` is not a list of tables"))?;
    let entry = |value: &toml::Value| {
        let get = |name: &str| value.get(name).and_then(toml::Value::as_str).map(str::to_owned);
        let need = |name: &str| get(name).ok_or_else(|| bad(&format!("an entry has no `{name}`")));
        Ok(Entry { check: need("check")?, path: need("path")?, line: get("line"), why: need("why")? })
    };
    list.iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(list: &str) -> Vec<(String, usize)> {
        let tree = Tree::of(&[(LIST, list), ("a.rs", "one\ntwo\nthree\n")]);
        let findings = vec![Finding::new("unwrap", "a.rs", 2, "x"), Finding::new("unwrap", "a.rs", 3, "x")];
        without_allowed(&tree, findings).unwrap().into_iter().map(|f| (f.path, f.line)).collect()
    }

    #[test]
    fn an_entry_allows_its_line_and_no_other() {
        let entry = "[[allow]]\ncheck = 'unwrap'\npath = 'a.rs'\nline = 'tw'\nwhy = 'so'\n";
        assert_eq!(left(entry), [("a.rs".to_owned(), 3)]);
        assert_eq!(left(""), [("a.rs".to_owned(), 2), ("a.rs".to_owned(), 3)]);
    }

    #[test]
    fn an_entry_that_allows_nothing_or_says_no_reason_is_a_finding() {
        for (line, why) in [("four", "so"), ("two", " ")] {
            let entry =
                format!("[[allow]]\ncheck = 'unwrap'\npath = 'a.rs'\nline = '{line}'\nwhy = '{why}'\n");
            assert!(left(&entry).contains(&(LIST.to_owned(), 0)), "{line}");
        }
    }
}
