//! What may stand in Rust code, and where.

use super::Finding;
use super::rust::{Layers, lines_with};
use super::tree::{Tree, crate_of, is_shipped};

/// Crates whose code meets what comes from disk, network and user.
const CAREFUL: [&str; 6] = ["cli", "model", "ops", "repo", "source", "store"];

/// Of these, those that neither print nor ask the environment.
const SILENT: [&str; 5] = ["model", "ops", "repo", "source", "store"];

/// Calls and words that are not to be in what we ship.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.rust_files() {
        let layers = Layers::of(text);
        let mut find = |check, layer: &str, needles: &[&str], what: &str| {
            for line in needles.iter().flat_map(|needle| lines_with(layer, needle)) {
                findings.push(Finding::new(check, path, line, what));
            }
        };
        find(
            "unsafe",
            &layers.code,
            &["unsafe", "allow(unsafe_code)"],
            "unsafe code stands in named modules only",
        );
        find(
            "unfinished",
            &layers.code,
            &["todo!", "unimplemented!", "#[ignore"],
            "finish it, or take it out",
        );
        find(
            "unfinished",
            &layers.comments,
            &["TODO", "FIXME", "XXX", "HACK"],
            "finish it, or say plainly what does not work",
        );
        if !is_shipped(path) {
            continue;
        }
        let layers = layers.without_tests();
        if CAREFUL.contains(&crate_of(path)) {
            find(
                "unwrap",
                &layers.code,
                &[".unwrap()", ".expect(", ".unwrap_err()"],
                "return an error, or allow it with the reason why it cannot happen",
            );
            find(
                "shell",
                &layers.uncommented,
                &[r#""sh""#, r#""bash""#, r#""/bin/sh""#, r#""/bin/bash""#, "sh -c"],
                "no shell: children get argument arrays",
            );
        }
        if SILENT.contains(&crate_of(path)) {
            find(
                "print",
                &layers.code,
                &["print!", "println!", "eprint!", "eprintln!", "dbg!"],
                "only cli prints",
            );
            find(
                "environment",
                &layers.code,
                &["env::var", "env::var_os", "env::vars", "env::args"],
                "only cli asks the environment",
            );
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::assert_finds;
    use super::*;

    #[track_caller]
    fn assert_line(krate: &str, line: &str, expected: &[(&str, usize)]) {
        let path = format!("crates/{krate}/src/a.rs");
        assert_finds(check, &[(&path, &format!("//! A.\n\n{line}\n"))], expected);
    }

    #[test]
    fn what_could_panic_is_found_outside_tests() {
        assert_line("store", "let a = b.unwrap();", &[("unwrap", 3)]);
        assert_line("cli", "let a = b\n    .expect(\"c\");", &[("unwrap", 4)]);
        assert_line("store", "let a = b.unwrap_or(1); // not .unwrap()", &[]);
        assert_line("store", "#[cfg(test)]\nmod tests { fn a() { b.unwrap() } }", &[]);
        assert_line("testkit", "let a = b.unwrap();", &[]);
        assert_finds(check, &[("crates/store/tests/it/a.rs", "b.unwrap()")], &[]);
    }

    #[test]
    fn a_shell_is_found() {
        assert_line("source", "Command::new(\"sh\")", &[("shell", 3)]);
        assert_line("ops", "let a = \"sh -c x\";", &[("shell", 3)]);
        assert_line("ops", "// no sh -c here\nlet a = \"ssh\";", &[]);
    }

    #[test]
    fn a_crate_that_prints_or_asks_the_environment_is_found() {
        assert_line("ops", "println!(\"a\");", &[("print", 3)]);
        assert_line("repo", "let a = std::env::var(\"B\");", &[("environment", 3)]);
        assert_line("cli", "eprintln!(\"a\"); std::env::var(\"B\");", &[]);
    }

    #[test]
    fn unfinished_work_is_found_in_tests_too() {
        assert_line("repo", "todo!()", &[("unfinished", 3)]);
        assert_line("repo", "// FIXME later", &[("unfinished", 3)]);
        assert_line("repo", "let a = \"FIXME\"; // mktemp a.XXXXXX", &[]);
        assert_finds(check, &[("crates/repo/tests/it/a.rs", "#[ignore]\nfn a() {}")], &[("unfinished", 1)]);
    }

    #[test]
    fn unsafe_code_is_found() {
        assert_line("testkit", "unsafe { a() }", &[("unsafe", 3)]);
        assert_line("store", "#[allow(unsafe_code)]", &[("unsafe", 3)]);
        assert_line("store", "#![deny(unsafe_code)] // unsafe is denied", &[]);
    }
}
