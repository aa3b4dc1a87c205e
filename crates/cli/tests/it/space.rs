//! Where space goes and what frees it, as people are told of it.

use crate::home::Home;
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
