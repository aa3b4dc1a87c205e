//! The configuration as its author meets it.

use crate::home::Home;

/// Keeps L-2.
#[test]
fn an_unknown_key_is_refused_by_every_verb_with_its_place() {
    let home = Home::new();
    home.write("docs/a.txt", "one");
    home.expect(0, &["protect", "docs"]);
    let path = home.path("config/hikae/config.toml");
    let text = std::fs::read_to_string(&path).unwrap().replace("include =", "incude =");
    home.configure(&text);
    let line = text.lines().position(|line| line.starts_with("incude")).unwrap() + 1;
    for arguments in [&["config", "check"][..], &["backup"], &["list"], &["protect"]] {
        let ran = home.expect(2, arguments);
        let place = format!("error: {}:{line}:1: `incude` is not a known key", path.display());
        assert!(ran.stderr.contains(&place), "{}", ran.stderr);
        assert!(ran.stderr.contains("hint: did you mean `include`?"), "{}", ran.stderr);
    }
}

/// Keeps MK-61, X-8.
#[test]
fn a_secret_in_the_configuration_is_told_of_and_never_shown() {
    let home = Home::new();
    let repository = "[repository.main]\nstore = \"/srv/hikae\"\n";
    let shows =
        [&["config", "check"][..], &["config", "show"], &["config", "show", "--json"], &["config", "diff"]];
    // No backup uses a password in a connection; arguments of programs may only look like one.
    for (source, code, told) in [
        ("kind = \"postgresql\"\nconnection = \"postgresql://hikae:hunter2canary@db/app\"", 2, "error:"),
        (
            "kind = \"files\"\nhooks.before = [[\"dump\", \"--password=hunter2canary\"]]\ninclude = [\"/srv\"]",
            0,
            "warning:",
        ),
    ] {
        home.configure(&format!("{repository}[source.db]\n{source}\n"));
        for arguments in shows {
            let ran = home.expect(code, arguments);
            assert!(!format!("{}{}", ran.stdout, ran.stderr).contains("hunter2canary"), "{arguments:?}");
        }
        let ran = home.expect(code, &["config", "check"]);
        assert!(ran.stderr.contains(told) && ran.stderr.contains(":5:"), "{}", ran.stderr);
        assert_eq!(home.run(&["config", "test"]).stderr.matches(":5:").count(), 1, "it is told once");
    }
}

#[test]
fn two_configurations_are_compared() {
    let home = Home::new();
    let text = "[repository.main]\nstore = \"/a\"\n";
    home.configure(text);
    let other = home.write("other.toml", text.replace("/a", "/b")).display().to_string();
    let ran = home.expect(0, &["config", "diff", &other]);
    assert_eq!(ran.stdout, "repository.main.store\n  - \"/a\"\n  + \"/b\"\n");
    assert_eq!(home.expect(0, &["config", "diff", &other, &other]).stdout, "Nothing differs.\n");
}

/// Keeps RS-3.
#[test]
fn config_test_tries_everything_and_writes_nothing() {
    let home = Home::new();
    home.write("docs/a.txt", "one");
    home.expect(0, &["protect", "docs"]);
    let before = std::fs::read_dir(home.store().join("log")).unwrap().count();
    let ran = home.expect(0, &["config", "test"]);
    assert!(ran.stdout.contains("source docs"), "{}", ran.stdout);
    std::fs::remove_dir_all(home.path("docs")).unwrap();
    let ran = home.run(&["config", "test"]);
    assert!(ran.stdout.contains("is not there"), "{}", ran.stdout);
    assert_eq!(std::fs::read_dir(home.store().join("log")).unwrap().count(), before);
}

#[test]
fn a_flag_can_be_set_by_its_variable() {
    let home = Home::new();
    let path = home.write("elsewhere.toml", "[repository.main]\nstore = \"/a\"\n");
    let ran = home
        .command(&["config", "check"])
        .env("HIKAE_CONFIG", &path)
        .env("HIKAE_JSON", "1")
        .output()
        .unwrap();
    assert!(ran.status.success());
    assert!(serde_json::from_slice::<serde_json::Value>(&ran.stdout).is_ok());
}

#[test]
fn config_test_before_init_says_what_to_do_and_is_no_failure() {
    let home = Home::new();
    home.write("docs/a.txt", "one");
    let docs = home.path("docs").display().to_string();
    home.configure(&format!(
        "[repository.main]\nstore = '{0}/store'\nunlock = {{ key_file = '{0}/main.key' }}\n\
         [repository.second]\nstore = '{0}/second'\nunlock = {{ key_file = '{0}/second.key' }}\n\
         [source.docs]\nkind = 'files'\ninclude = ['{docs}']\n",
        home.path("").display()
    ));
    let ran = home.expect(0, &["config", "test"]);
    assert_eq!(ran.stdout.matches("run `hikae init`").count(), 2, "{}", ran.stdout);
    assert!(!ran.stdout.contains("FAIL") && ran.stdout.contains("source docs"), "{}", ran.stdout);
    assert!(!home.path("store").exists() && !home.path("main.key").exists(), "nothing is made");
    // What looks at backups and not at the configuration does fail.
    let ran = home.expect(1, &["doctor", "--repository", "main"]);
    assert!(ran.stdout.contains("hikae init"), "{}", ran.stdout);
    home.expect(0, &["init", "--repository", "main"]);
    let ran = home.expect(0, &["config", "test", "--repository", "main"]);
    assert!(!ran.stdout.contains("hikae init"), "{}", ran.stdout);
}

#[test]
fn fixtures_say_what_a_configuration_must_keep_and_leave_out() {
    let home = Home::new();
    home.write("docs/a.txt", "one");
    home.expect(0, &["protect", "docs"]);
    let text = std::fs::read_to_string(home.path("config/hikae/config.toml")).unwrap();
    let docs = home.path("docs").display().to_string();
    let with = |exclude: &str| {
        home.configure(&format!(
            "{text}exclude = ['{exclude}']\n\
             fixtures = {{ holds = ['{docs}/a.txt', '{docs}/later.txt'], leaves_out = ['{docs}/b.tmp'] }}\n"
        ));
        home.run(&["config", "test"])
    };
    let good = with("*.tmp");
    assert_eq!(good.code, Some(0), "{}", good.stdout);
    assert!(good.stdout.contains("2 held, 1 left out, as meant"), "{}", good.stdout);
    let bad = with("*.t*");
    assert_eq!(bad.code, Some(1), "{}", bad.stdout);
    assert_eq!(bad.stdout.matches("would be left out: `*.t*` excludes it").count(), 2, "{}", bad.stdout);
    let bad = with("nothing");
    assert!(bad.stdout.contains("b.tmp would be kept"), "{}", bad.stdout);
}
