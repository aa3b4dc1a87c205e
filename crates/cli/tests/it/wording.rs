//! What people read: help texts, as they are, so that a change of one is seen.

use crate::home::Home;

/// Keeps IN-47.
#[test]
fn help_says_what_each_verb_does() {
    let home = Home::new();
    insta::assert_snapshot!("hikae", home.expect(0, &["--help"]).stdout);
    for verb in [
        "protect",
        "init",
        "backup",
        "copy",
        "copies",
        "list",
        "show",
        "ls",
        "find",
        "cat",
        "diff",
        "restore",
        "export",
        "verify",
        "drill",
        "forget",
        "undelete",
        "prune",
        "key",
        "recipient",
        "repo",
        "pg",
        "doctor",
        "config",
        "completions",
    ] {
        insta::assert_snapshot!(verb, home.expect(0, &[verb, "-h"]).stdout);
    }
}

/// Keeps MK-33.
#[test]
fn without_a_terminal_nothing_is_asked() {
    let home = Home::new();
    home.write("docs/a.txt", "one");
    home.expect(0, &["protect", "docs"]);
    std::fs::remove_file(home.key_file()).unwrap();
    let text = std::fs::read_to_string(home.path("config/hikae/config.toml")).unwrap();
    home.configure(&text.replace("unlock =", "# unlock ="));
    let ran = home.expect(11, &["list"]);
    assert!(ran.stderr.contains("nothing says what opens the repository"), "{}", ran.stderr);
    home.expect(2, &["key", "add", "--recovery", &sheet(&home)]);
}

fn sheet(home: &Home) -> String {
    let files = std::fs::read_dir(home.path("data/hikae")).unwrap().map(|entry| entry.unwrap().path());
    let mut texts = files.filter(|path| path.extension().is_some_and(|end| end == "txt"));
    texts.next().unwrap().display().to_string()
}

#[test]
fn quiet_says_only_what_was_asked_for() {
    let home = Home::new();
    home.write("docs/a.txt", "one");
    // Nothing but what must be printed on paper.
    let first = home.expect(0, &["protect", "docs", "--quiet"]).stderr;
    assert!(
        first.starts_with("warning: the recovery sheet of the repository in ") && first.lines().count() == 2
    );
    assert!(first.contains(&home.store().display().to_string()) && first.contains("print it"), "{first}");
    assert_eq!(home.expect(0, &["protect", "docs", "--quiet"]).stderr, "");
}

#[test]
fn completions_are_made_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(Home::new().expect(0, &["completions", shell]).stdout.contains("hikae"), "{shell}");
    }
}
