//! Text that tells of the machine on which it was written, and where packages come from.

use super::Finding;
use super::tree::Tree;

/// Paths and names of one machine, put together here so that this file does not hold them.
const OF_ONE_MACHINE: [&str; 6] = [
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/home", "/"),
    concat!("/tmp/", "bash_jobs"),
    concat!("hikae-", "services"),
    concat!("HIKAE_", "SERVICES"),
];

/// The one place that the lock file may name.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Words of one machine in any text, and sources of packages other than the public registry.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.files() {
        for (i, line) in text.lines().enumerate() {
            if let Some(word) = OF_ONE_MACHINE.iter().find(|word| line.contains(*word)) {
                findings.push(Finding::new("words", path, i + 1, format!("`{word}` is of one machine")));
            }
            let source = line.strip_prefix("source = ").map(|source| source.trim_matches('"'));
            if path == "Cargo.lock" && source.is_some_and(|source| source != REGISTRY) {
                findings.push(Finding::new(
                    "registry",
                    path,
                    i + 1,
                    format!("packages come from {REGISTRY}"),
                ));
            }
            if path.starts_with(".cargo/") && (line.starts_with("[source") || line.starts_with("[registr")) {
                findings.push(Finding::new(
                    "registry",
                    path,
                    i + 1,
                    "where packages come from is the machine's to say",
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::assert_finds;
    use super::*;

    #[test]
    fn a_word_of_one_machine_is_found() {
        let text = format!("see {}a\n", OF_ONE_MACHINE[0]);
        assert_finds(check, &[("docs/a.md", &text)], &[("words", 1)]);
        assert_finds(check, &[("docs/a.md", "see the framework/\n")], &[]);
    }

    #[test]
    fn another_registry_is_found() {
        let ours = format!("source = \"{REGISTRY}\"\n");
        assert_finds(check, &[("Cargo.lock", &ours)], &[]);
        assert_finds(
            check,
            &[("Cargo.lock", "source = \"registry+https://example.org\"\n")],
            &[("registry", 1)],
        );
        assert_finds(check, &[(".cargo/config.toml", "[source.crates-io]\n")], &[("registry", 1)]);
    }
}
