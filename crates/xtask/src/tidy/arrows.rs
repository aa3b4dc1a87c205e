//! Which crate may use which: the drawing in `ARCHITECTURE.md`, as tables.

use super::Finding;
use super::tree::{Tree, crate_of};

/// Each crate of ours and those that it may use. An arrow is a `[dependencies]` line, and there is no other.
const ARROWS: [(&str, &[&str]); 11] = [
    ("model", &[]),
    ("store", &["model"]),
    ("repo", &["store", "model"]),
    ("source", &["model"]),
    ("remote", &["store", "model"]),
    ("export", &["model"]),
    ("ops", &["source", "repo", "remote", "export", "store", "model"]),
    ("cli", &["ops", "model"]),
    ("wal", &["repo", "store", "model"]),
    ("testkit", &["source", "repo", "store", "model"]),
    ("xtask", &[]),
];

/// What tests of a crate may use beyond that.
const TESTS_MAY: [(&str, &[&str]); 8] = [
    ("store", &["testkit"]),
    ("repo", &["testkit"]),
    ("remote", &["testkit"]),
    ("source", &["testkit"]),
    ("ops", &["testkit"]),
    ("cli", &["testkit", "source", "repo", "store"]),
    // A recovery by `ops` ends in its program.
    ("wal", &["testkit", "source", "ops"]),
    ("model", &[]),
];

/// Crates of others that show what a crate of ours knows, and who alone may know it.
const HOMES: [(&[&str], &[&str], &str); 4] = [
    (
        &["clap", "clap_complete", "comfy-table", "console", "dialoguer", "indicatif"],
        &["cli"],
        "only cli knows the terminal",
    ),
    (
        &["age", "argon2", "aws-lc-rs", "fastcdc", "zstd"],
        &["repo", "export", "cli"],
        "only repo and export know how things are kept",
    ),
    (
        &["ignore", "postgres", "postgres-protocol", "rusqlite", "tokio-postgres"],
        &["source", "testkit"],
        "only source knows what we protect",
    ),
    (&["http", "object_store", "reqwest", "tokio"], &["remote"], "only remote knows the network of stores"),
];

/// Arrows that are not drawn, and crates that do not take the lints of the workspace.
pub(crate) fn check(tree: &Tree) -> Result<Vec<Finding>, String> {
    let mut findings = Vec::new();
    for (path, text) in tree.files() {
        if !(path.starts_with("crates/") && path.ends_with("/Cargo.toml") && path.matches('/').count() == 2) {
            continue;
        }
        let manifest: toml::Table = text.parse().map_err(|error| format!("{path}: {error}"))?;
        let mut find = |check, what: String| findings.push(Finding::new(check, path, 0, what));
        let name = crate_of(path);
        let Some(may) = of(&ARROWS, name) else {
            find(
                "arrows",
                format!("{name} is not in the drawing: put it into ARCHITECTURE.md and into this check"),
            );
            continue;
        };
        for used in names(&manifest, "dependencies").chain(names(&manifest, "build-dependencies")) {
            if let Some(ours) = used.strip_prefix("hikae-") {
                if !may.contains(&ours) {
                    find("arrows", format!("{name} may not use {ours}"));
                }
            } else if let Some((_, _, why)) =
                HOMES.iter().find(|(theirs, homes, _)| theirs.contains(&used) && !homes.contains(&name))
            {
                find("arrows", format!("{name} may not use {used}: {why}"));
            }
        }
        let tests_may = of(&TESTS_MAY, name).unwrap_or_default();
        for ours in names(&manifest, "dev-dependencies").filter_map(|used| used.strip_prefix("hikae-")) {
            if !may.contains(&ours) && !tests_may.contains(&ours) {
                find("arrows", format!("tests of {name} may not use {ours}"));
            }
        }
        let inherits =
            manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool);
        if inherits != Some(true) {
            find(
                "lints",
                "does not take the lints of the workspace: say `[lints] workspace = true`".to_owned(),
            );
        }
    }
    Ok(findings)
}

fn of<'a>(table: &[(&str, &'a [&'a str])], name: &str) -> Option<&'a [&'a str]> {
    table.iter().find(|(of, _)| *of == name).map(|(_, may)| *may)
}

fn names<'a>(manifest: &'a toml::Table, section: &str) -> impl Iterator<Item = &'a str> {
    manifest.get(section).and_then(toml::Value::as_table).into_iter().flatten().map(|(name, _)| name.as_str())
}

#[cfg(test)]
mod tests {
    use super::super::assert_finds;
    use super::*;

    #[track_caller]
    fn assert_arrows(path: &str, dependencies: &str, n: usize) {
        let text = format!("{dependencies}\n[lints]\nworkspace = true\n");
        assert_finds(|tree| check(tree).unwrap(), &[(path, &text)], &vec![("arrows", 0); n]);
    }

    #[test]
    fn an_arrow_that_is_not_drawn_is_found() {
        assert_arrows(
            "crates/ops/Cargo.toml",
            "[dependencies]\nhikae-repo.workspace = true\nserde.workspace = true",
            0,
        );
        assert_arrows("crates/source/Cargo.toml", "[dependencies]\nhikae-repo.workspace = true", 1);
        assert_arrows("crates/repo/Cargo.toml", "[dev-dependencies]\nhikae-source.workspace = true", 1);
        assert_arrows(
            "crates/store/Cargo.toml",
            "[dependencies]\nhikae-testkit = { path = '../testkit' }",
            1,
        );
        assert_arrows("crates/store/Cargo.toml", "[dev-dependencies]\nhikae-testkit.workspace = true", 0);
        assert_arrows("crates/extra/Cargo.toml", "", 1);
    }

    #[test]
    fn a_crate_that_knows_too_much_is_found() {
        assert_arrows("crates/store/Cargo.toml", "[dependencies]\naws-lc-rs.workspace = true", 1);
        assert_arrows("crates/ops/Cargo.toml", "[dependencies]\nclap.workspace = true", 1);
        assert_arrows("crates/repo/Cargo.toml", "[dependencies]\nrusqlite.workspace = true", 1);
    }

    #[test]
    fn a_crate_with_lints_of_its_own_is_found() {
        assert_finds(|tree| check(tree).unwrap(), &[("crates/model/Cargo.toml", "")], &[("lints", 0)]);
    }
}
