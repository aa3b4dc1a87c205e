//! Keys and recipients: who opens what.

use crate::home::Home;
use hikae_repo::keys::Secret32;
use hikae_repo::recipient::{identity, identity_text};

/// An age identity in a file, and its recipient.
fn age_key(home: &Home, name: &str, seed: u8) -> (String, String) {
    let scalar = Secret32::new([seed; 32]);
    let recipient = identity(&scalar).to_public().to_string();
    let text = format!("# public key: {recipient}\n{}\n", *identity_text(&scalar));
    (home.write_private(name, text).display().to_string(), recipient)
}

#[test]
fn a_host_that_only_writes_cannot_read_what_it_wrote() {
    let home = Home::new();
    home.write("docs/a.txt", "one");
    let (identity, recipient) = age_key(&home, "identity", 1);
    home.configure(&format!(
        "[repository.main]\nstore = \"{}\"\nunlock = {{ key_file = \"{}\" }}\nrecipients = [\"{recipient}\"]\n\
         write_only = true\n[source.docs]\nkind = \"files\"\ninclude = [\"{}\"]\n",
        home.store().display(),
        home.key_file().display(),
        home.path("docs").display()
    ));
    home.expect(0, &["init", "--key-file", &home.key_file().display().to_string()]);
    home.expect(0, &["backup"]);
    home.expect(0, &["backup"]);
    let inside = home.path("docs/a.txt").display().to_string();
    home.expect(0, &["ls", "docs", "-r"]);
    home.expect(0, &["verify"]);
    let ran = home.expect(11, &["cat", "docs", &inside]);
    assert!(ran.stderr.contains("--identity"), "{}", ran.stderr);
    home.expect(11, &["verify", "--read-data"]);
    // Who writes may not delete what it wrote, nor let others in.
    home.expect(12, &["forget", "--keep-last", "1", "--even-last"]);
    home.expect(12, &["key", "add", "--new-key-file", "other.key"]);
    let key = home.key_file().display().to_string();
    let with_identity = ["--key-file", &key, "--identity", &identity];
    assert_eq!(home.expect(0, &[&["cat", "docs", &inside][..], &with_identity].concat()).stdout, "one");
    home.expect(0, &[&["restore", "docs", "--target", "back"][..], &with_identity].concat());
}

#[test]
fn a_new_recipient_opens_what_was_written_before() {
    let home = Home::new();
    home.write("docs/a.txt", "one");
    home.expect(0, &["protect", "docs"]);
    let (identity, recipient) = age_key(&home, "identity", 2);
    let added = home.json(&["recipient", "add", &recipient]);
    assert_eq!(added["result"]["earlier_epochs"], 1);
    home.expect(0, &["key", "add", "--new-recipient", &recipient, "--label", "desk"]);
    let listed = home.expect(0, &["key", "list"]);
    assert!(listed.stdout.contains("recipient  desk"), "{}", listed.stdout);
    // The identity alone opens the repository, and contents of before and after.
    home.write("docs/b.txt", "two");
    home.expect(0, &["backup"]);
    for name in ["docs/a.txt", "docs/b.txt"] {
        let inside = home.path(name).display().to_string();
        let text = home.path("config/hikae/config.toml");
        let store = home.store().display().to_string();
        assert!(text.exists());
        home.expect(0, &["cat", "docs", &inside, "--store", &store, "--identity", &identity]);
    }
    home.expect(0, &["recipient", "remove", &recipient, "--yes"]);
    assert_eq!(home.json(&["recipient", "list"])["result"].as_array().unwrap().len(), 1);
}

#[test]
fn the_last_key_stays() {
    let home = Home::new();
    home.write("docs/a.txt", "one");
    home.expect(0, &["protect", "docs"]);
    let id = home.json(&["key", "list"])["result"][0]["id"].as_str().unwrap().to_owned();
    assert_ne!(home.run(&["key", "remove", &id, "--yes"]).code, Some(0));
    home.expect(0, &["list"]);
    home.expect(0, &["key", "add", "--new-key-file", "second.key"]);
    home.expect(0, &["key", "remove", &id[..10], "--yes"]);
    home.expect(11, &["list"]);
    home.expect(0, &["list", "--key-file", "second.key"]);
}

#[test]
fn a_repository_is_made_like_another_by_who_has_its_secret() {
    let home = Home::new();
    home.configure(&format!(
        "[repository.main]\nstore = '{0}/main'\nunlock = {{ key_file = '{0}/main.key' }}\n\
         [repository.second]\nstore = '{0}/second'\nunlock = {{ key_file = '{0}/second.key' }}\nwrite_only = true\n\
         [repository.host]\nstore = '{0}/host'\nunlock = {{ key_file = '{0}/second.key' }}\n",
        home.path("").display()
    ));
    home.expect(0, &["init", "--repository", "main"]);
    let like = ["init", "--repository", "second", "--like"];
    let said = home.expect(0, &[&like[..], &["main", "--dry-run"]].concat()).stdout;
    assert!(said.contains("would make a repository") && !home.path("second").exists(), "{said}");
    home.expect(0, &[&like[..], &["main"]].concat());
    let family = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(home.path(name).join("hikae.json")).unwrap()).unwrap()
    };
    let (main, second) = (family("main"), family("second"));
    assert_eq!(main["core"]["family"], second["core"]["family"]);
    assert_eq!(main["core"]["recipients"], second["core"]["recipients"]);
    assert_ne!(main["core"]["repository"], second["core"]["repository"]);
    // The second keeps no secret on this host, so it is no model, until somebody brings the sheet.
    let like_second = ["init", "--repository", "host", "--like", "second"];
    let refused = home.expect(12, &like_second);
    assert!(refused.stderr.contains("may not make a repository like this one"), "{}", refused.stderr);
    let sheet = std::fs::read_dir(home.path("data/hikae")).unwrap().map(|file| file.unwrap().path());
    let sheet = sheet.filter(|path| path.extension().is_some_and(|kind| kind == "txt")).max().unwrap();
    home.expect(0, &[&like_second[..], &["--recovery", sheet.to_str().unwrap()]].concat());
    assert_eq!(family("host")["core"]["family"], main["core"]["family"]);
}
