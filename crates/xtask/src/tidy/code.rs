//! What may stand in Rust code, and where.

use super::Finding;
use super::rust::{Layers, lines_with};
use super::tree::{Tree, crate_of, is_shipped};

/// Where a rule looks: at which layer of which files.
enum Where {
    /// Code of every file, tests too.
    Code,
    /// Comments of every file.
    Comments,
    /// Code that we ship, of these crates.
    Shipped(&'static [&'static str]),
    /// The same with what stands in its literals.
    ShippedText(&'static [&'static str]),
}

/// What is not to be there.
struct Rule {
    check: &'static str,
    at: Where,
    needles: &'static [&'static str],
    /// What is right instead.
    what: &'static str,
}

/// Crates whose code meets what comes from disk, network and user.
const CAREFUL: &[&str] = &["cli", "model", "ops", "remote", "repo", "source", "store"];

/// Of these, those that know neither terminal nor process.
const SILENT: &[&str] = &["model", "ops", "remote", "repo", "source", "store"];

const RULES: [Rule; 8] = [
    Rule {
        check: "unsafe",
        at: Where::Code,
        needles: &["unsafe", "allow(unsafe_code)"],
        what: "unsafe code stands in named modules only",
    },
    Rule {
        check: "unfinished",
        at: Where::Code,
        needles: &["todo!", "unimplemented!", "#[ignore"],
        what: "finish it, or take it out",
    },
    Rule {
        check: "unfinished",
        at: Where::Comments,
        needles: &["TODO", "FIXME", "XXX", "HACK"],
        what: "finish it, or say plainly what does not work",
    },
    Rule {
        check: "unwrap",
        at: Where::Shipped(CAREFUL),
        needles: &[".unwrap()", ".expect(", ".unwrap_err()", ".expect_err("],
        what: "return an error, or allow it with the reason why it cannot happen",
    },
    Rule {
        check: "shell",
        at: Where::ShippedText(CAREFUL),
        needles: &[r#""sh""#, r#""bash""#, r#""/bin/sh""#, r#""/bin/bash""#, "sh -c"],
        what: "no shell: children get argument arrays",
    },
    Rule {
        check: "print",
        at: Where::Shipped(SILENT),
        needles: &["print!", "println!", "eprint!", "eprintln!", "dbg!", "io::stdout()", "io::stderr()"],
        what: "only cli prints",
    },
    Rule {
        check: "environment",
        at: Where::Shipped(SILENT),
        needles: &["env::var", "env::var_os", "env::vars", "env::args"],
        what: "only cli asks the environment",
    },
    Rule {
        check: "random",
        at: Where::Shipped(SILENT),
        needles: &["OsRng", "SystemRandom", "getrandom", "rand::fill", "thread_rng"],
        what: "random bytes come from Cx",
    },
];

/// Calls and words that are not to be in our code.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.rust_files() {
        let all = Layers::of(text);
        let shipped = is_shipped(path).then(|| Layers::of(text).without_tests());
        for Rule { check, at, needles, what } in &RULES {
            let layer = match at {
                Where::Code => Some(&all.code),
                Where::Comments => Some(&all.comments),
                Where::Shipped(crates) | Where::ShippedText(crates) if !crates.contains(&crate_of(path)) => {
                    None
                }
                Where::Shipped(_) => shipped.as_ref().map(|layers| &layers.code),
                Where::ShippedText(_) => shipped.as_ref().map(|layers| &layers.uncommented),
            };
            let lines = layer
                .into_iter()
                .flat_map(|layer| needles.iter().flat_map(|needle| lines_with(layer, needle)));
            findings.extend(lines.map(|line| Finding::new(check, path, line, *what)));
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
    fn a_crate_that_prints_or_asks_the_process_is_found() {
        assert_line("ops", "println!(\"a\");", &[("print", 3)]);
        assert_line("repo", "let a = std::env::var(\"B\");", &[("environment", 3)]);
        assert_line("repo", "rand::fill(&mut a);", &[("random", 3)]);
        assert_line("store", "io::stderr().write(b);", &[("print", 3)]);
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
