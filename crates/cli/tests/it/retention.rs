//! A job that has a retention forgets by it after its good backups, and only then.

use crate::home::Home;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

/// A home with two sources and a job over both.
fn home(rule: &str, of_repository: &str) -> Home {
    let home = Home::of_nobody();
    home.write("docs/a.txt", "one");
    home.write("more/b.txt", "two");
    home.configure(&format!(
        "[repository.main]\nstore = '{0}/store'\nunlock = {{ key_file = '{0}/main.key' }}\n{of_repository}\n\
         [source.docs]\nkind = 'files'\ninclude = ['{0}/docs']\n\
         [source.more]\nkind = 'files'\ninclude = ['{0}/more']\n\
         [job.nightly]\n{rule}\n",
        home.path("").display()
    ));
    home.expect(0, &["init"]);
    home
}

fn listed(home: &Home, source: &str) -> usize {
    home.json(&["list", source])["result"].as_array().unwrap().len()
}

#[test]
fn a_good_backup_of_a_job_forgets_what_its_retention_does_not_keep() {
    let home = home("retention = { last = 2 }", "");
    for n in 0..4 {
        home.expect(0, &["backup", "--job", "nightly"]);
        assert_eq!(listed(&home, "docs"), (n + 1).min(2));
    }
    let text = home.expect(0, &["backup", "--job", "nightly"]).stdout;
    assert!(text.contains("2 snapshots were forgotten and 4 kept"), "{text}");
    // A backup that is not the job's obeys no rule of it.
    home.expect(0, &["backup"]);
    home.expect(0, &["backup", "docs"]);
    assert_eq!((listed(&home, "docs"), listed(&home, "more")), (4, 3));
    let shown = home.expect(0, &["config", "show"]).stdout;
    assert!(shown.contains("retention = { last = 2 }"), "{shown}");
    home.expect(0, &["verify"]);
}

#[test]
fn a_job_without_a_retention_forgets_nothing() {
    let home = home("", "prune_every = '1s'");
    for _ in 0..3 {
        let ran = home.json(&["backup", "--job", "nightly"]);
        assert!(ran["result"].get("retention").is_none());
    }
    assert_eq!(listed(&home, "docs"), 3);
}

#[test]
fn a_partial_run_makes_no_older_good_one_go() {
    let home = home("retention = { last = 2 }", "");
    home.expect(0, &["backup", "--job", "nightly"]);
    home.expect(0, &["backup", "--job", "nightly"]);
    fs::set_permissions(home.path("docs/a.txt"), fs::Permissions::from_mode(0o000)).unwrap();
    for _ in 0..3 {
        let ran = home.expect(3, &["backup", "--job", "nightly"]).stdout;
        assert!(ran.contains("Nothing of docs was forgotten"), "{ran}");
    }
    assert_eq!((listed(&home, "docs"), listed(&home, "more")), (5, 2), "the other source is as good as ever");
    fs::set_permissions(home.path("docs/a.txt"), fs::Permissions::from_mode(0o644)).unwrap();
    home.expect(0, &["backup", "--job", "nightly"]);
    let left = home.json(&["list", "docs"]);
    let complete = left["result"].as_array().unwrap().iter().filter(|one| one["complete"] == true).count();
    assert_eq!(complete, 2, "{left}");
}

#[test]
fn a_rule_that_would_take_much_at_once_stops_and_the_backup_stands() {
    let home = home("", "");
    for _ in 0..8 {
        home.expect(0, &["backup", "--job", "nightly"]);
    }
    let config = home.path("config/hikae/config.toml");
    let text = fs::read_to_string(&config)
        .unwrap()
        .replace("[job.nightly]\n", "[job.nightly]\nretention = { last = 1 }\n");
    fs::write(&config, text.replace("[source.more]", "[source.later]")).unwrap();
    for _ in 0..8 {
        home.expect(0, &["backup", "docs"]);
    }
    let ran = home.expect(12, &["backup", "--job", "nightly"]);
    assert!(
        ran.stdout.contains("Nothing was forgotten") && ran.stdout.contains("--even-many"),
        "{}",
        ran.stdout
    );
    assert_eq!(listed(&home, "docs"), 17, "the backup was made and nothing went");
}

#[test]
fn space_is_freed_after_a_job_only_when_that_is_due() {
    let home = home("retention = { last = 1 }", "prune_every = '3s'");
    let backup = |n: u8| {
        home.write("docs/a.txt", [n; 3000]);
        let ran = home.json(&["backup", "--job", "nightly"]);
        !ran["result"]["retention"]["done"]["pruned"].is_null()
    };
    assert!(!backup(0), "the repository is younger than that");
    std::thread::sleep(std::time::Duration::from_secs(4));
    assert!(backup(1));
    assert!(!backup(2), "the last prune is not old enough");
    home.expect(0, &["verify", "--read-data"]);
}
