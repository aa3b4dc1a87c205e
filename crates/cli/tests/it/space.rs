//! Where space goes and what frees it, as people are told of it.

use crate::home::Home;
use hikae_testkit::{Seed, TestRandom};
use std::fs;
use std::path::PathBuf;

/// All packs of the repository.
pub fn packs(home: &Home) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut below = vec![home.store().join("packs")];
    while let Some(directory) = below.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { below.push(path) } else { found.push(path) }
        }
    }
    found
}

#[test]
fn a_prune_tells_what_dead_runs_left_and_what_it_removed_itself() {
    let home = Home::new();
    home.write("docs/a.txt", vec![1; 70_000]);
    home.expect(0, &["protect", "docs"]);
    // A run that died left a pack that nothing names.
    let pack = packs(&home).remove(0);
    let name = pack.file_name().unwrap().to_str().unwrap();
    let turned: String = name.chars().rev().collect();
    let shard = home.store().join("packs").join(&turned[..2]);
    fs::create_dir_all(&shard).unwrap();
    fs::copy(&pack, shard.join(&turned)).unwrap();
    for more in [&["--dry-run"][..], &[]] {
        let told = home.expect(0, &[&["prune"][..], more].concat()).stdout;
        assert!(told.contains("in 1 pack that nothing names"), "{told}");
    }

    home.write("docs/a.txt", vec![2; 70_000]);
    home.expect(0, &["backup"]);
    // The newest that was restored stays.
    home.expect(0, &["drill"]);
    home.expect(0, &["forget", "--keep-last", "1"]);
    let told = home.expect(0, &["prune", "--soft", "0d"]).stdout;
    assert!(told.contains("Removed ") && told.contains("whose soft period is over"), "{told}");
}

#[test]
fn space_is_told_by_source_and_by_kind() {
    let home = Home::new();
    home.write("docs/a.txt", "one");
    let database = rusqlite::Connection::open(home.path("notes.db")).unwrap();
    database.execute_batch("CREATE TABLE note (text)").unwrap();
    home.expect(0, &["protect", "docs", "notes.db"]);
    let told = home.expect(0, &["repo", "stats"]).stdout;
    let rows: Vec<&str> = told.lines().collect();
    assert!(rows[0].starts_with("source"), "{told}");
    for row in ["docs ", "notes ", "all files ", "all sqlite ", "all "] {
        assert!(rows.iter().any(|line| line.starts_with(row)), "{row}: {told}");
    }
}

/// A limit of the configuration, and one of the command line before it.
#[test]
fn a_backup_and_a_restore_are_no_faster_than_they_may_be() {
    let home = Home::new();
    home.configure(&format!(
        "[repository.main]\nstore = \"{}\"\nunlock = {{ key_file = \"{}\" }}\nlimit = {{ up = \"1 MB/s\", down = \"40 MB/s\" }}\n\
         [source.docs]\nkind = \"files\"\ninclude = [\"{}\"]\n[job.all]\nsources = [\"docs\"]\n",
        home.store().display(),
        home.key_file().display(),
        home.path("docs").display(),
    ));
    home.write("docs/noise", TestRandom::new(Seed(1)).bytes(2_000_000));
    home.expect(0, &["init"]);
    let seconds = |arguments: &[&str]| {
        let cx = hikae_testkit::system_cx();
        home.expect(0, arguments);
        cx.elapsed().as_secs_f64()
    };
    let backup = seconds(&["backup"]);
    assert!(backup > 2.0, "{backup}");
    let target = |name: &str| home.path(name).to_str().unwrap().to_owned();
    let slow = seconds(&["restore", "docs", "--target", &target("slow"), "--limit-download", "1 MB/s"]);
    assert!(slow > 2.0, "{slow}");
    let fast = seconds(&["restore", "docs", "--target", &target("fast")]);
    assert!(fast < slow, "{fast}");
    assert_eq!(home.run(&["list", "--limit-upload", "10 MB"]).code, Some(2));
}
