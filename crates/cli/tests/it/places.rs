//! Where the repositories of several sources are kept: apart, or in one bucket; and places that cannot keep any.

use crate::home::Home;
use hikae_testkit::{Rclone, SeaweedFs};

/// A home with two sources, each with a repository, a key and a job of its own, in these buckets and prefixes.
fn home(server: &SeaweedFs, places: [(&str, &str); 2]) -> Home {
    let home = Home::new();
    let secret = home.write_private("s3.secret", SeaweedFs::SECRET_KEY);
    let mut text = String::new();
    for (source, (bucket, prefix)) in ["mail", "blog"].into_iter().zip(places) {
        text.push_str(&format!(
            "[repository.{source}]\n\
             store = {{ s3 = {{ bucket = \"{bucket}\"{prefix}, endpoint = \"{}\", access_key = \"{}\", secret_key = \"file:{}\" }} }}\n\
             unlock = {{ key_file = \"{}\" }}\n\
             [source.{source}]\nkind = \"files\"\ninclude = [\"{}\"]\n\
             [job.{source}]\nsources = [\"{source}\"]\nrepository = \"{source}\"\n",
            server.endpoint(),
            SeaweedFs::ACCESS_KEY,
            secret.display(),
            home.path(&format!("{source}.key")).display(),
            home.path(source).display(),
        ));
        home.write(&format!("{source}/letter"), format!("of {source}"));
    }
    home.configure(&text);
    home
}

/// A bucket for each system, or one bucket with a prefix for each: repositories, keys and credentials are their own either way.
///
/// Keeps RS-6, RS-7, RS-18, RS-48.
#[test]
fn each_source_has_its_own_bucket_or_its_own_prefix_of_one() {
    let Some(server) = SeaweedFs::start() else { return };
    for places in [
        [("mailserver-backup-bucket", ""), ("blog-backup-bucket", "")],
        [("dell-system-backup", ", prefix = \"mailserver\""), ("dell-system-backup", ", prefix = \"blog\"")],
    ] {
        let home = home(&server, places);
        for source in ["mail", "blog"] {
            home.expect(0, &["store", "init", "--repository", source]);
            home.expect(0, &["init", "--repository", source]);
            home.expect(0, &["backup", "--job", source]);
        }
        for source in ["mail", "blog"] {
            let listed = home.json(&["list", "--repository", source]);
            let sources: Vec<_> =
                listed["result"].as_array().unwrap().iter().map(|snapshot| &snapshot["source"]).collect();
            assert_eq!(sources, [source], "{places:?}");
            let target = home.path(&format!("back/{source}"));
            home.expect(
                0,
                &["restore", source, "--repository", source, "--target", target.to_str().unwrap()],
            );
            let letter = target.join(home.path(source).strip_prefix("/").unwrap()).join("letter");
            assert_eq!(std::fs::read_to_string(letter).unwrap(), format!("of {source}"));
        }
        // The key of one opens nothing of the other.
        let key = home.path("mail.key");
        assert_ne!(
            home.run(&["list", "--repository", "blog", "--key-file", key.to_str().unwrap()]).code,
            Some(0)
        );
    }
}

/// A place that would let two machines lose each other's backups is refused when a repository is made, and `store check` says why.
#[test]
fn a_place_without_atomic_create_keeps_no_repository() {
    let Some(server) = Rclone::start() else { return };
    let home = Home::new();
    let password = home.write_private("password", Rclone::PASSWORD);
    let configure = |host_key: &str| {
        home.configure(&format!(
            "[repository.weak]\n\
             store = {{ sftp = {{ host = \"127.0.0.1\", port = {}, user = \"{}\", path = \"/weak\", password = \"file:{}\"{host_key} }} }}\n\
             unlock = {{ key_file = \"{}\" }}\n",
            server.port(),
            Rclone::USER,
            password.display(),
            home.key_file().display(),
        ));
    };
    configure("");
    let unknown = home.expect(7, &["init"]).stderr;
    let host_key = unknown.split("host_key = ").nth(1).unwrap().trim();
    configure(&format!(", host_key = {host_key}"));
    let check = home.expect(12, &["store", "init"]);
    assert!(check.stdout.contains("cannot keep a repository"), "{}", check.stdout);
    assert!(check.stdout.contains("best effort"), "{}", check.stdout);
    let refused = home.expect(12, &["init"]);
    assert!(refused.stderr.contains("never replace"), "{}", refused.stderr);
}
