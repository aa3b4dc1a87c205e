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
