//! What the server's summaries of its log say not to have changed is not read again, and they are not believed blindly.
//! Keeps E-3.

use super::*;
use hikae_ops::restore_cluster::manifest;

/// A server that sums up its log, and its programs.
fn summing() -> Option<(Cluster, PathBuf)> {
    let Some((major, directory)) =
        [17, 18].into_iter().find_map(|major| Some((major, hikae_testkit::postgresql(major)?)))
    else {
        hikae_testkit::not_run("no server of PostgreSQL 17 or 18 is installed");
        return None;
    };
    let server = options(&[("summarize_wal", "on"), ("autovacuum", "off")]);
    let server = ClusterOptions { major, program_directory: Some(directory.clone()), ..server };
    Some((start_with(&server)?, directory))
}

#[track_caller]
fn prove(world: &World, snapshot: SnapshotId, programs: &Path) {
    let around = Surroundings { scratch: scratch(), ..world.around() };
    let programs = DrillOptions { program_directory: Some(programs.to_owned()), ..DrillOptions::default() };
    let proved = drill(&world.repo, snapshot, &programs, &around, &world.cx).unwrap();
    assert_eq!(proved.outcome, Outcome::Complete, "{:?} {:?}", proved.checks, proved.notes);
    assert!(proved.checks.iter().any(|check| check.name.contains("pg_verifybackup")));
}

#[track_caller]
fn whole(world: &World, cluster: &Cluster) -> SnapshotReport {
    let report = back_up(world, source(cluster));
    assert_eq!(report.outcome, Outcome::Complete, "{:?}", report.problems);
    report
}

fn notes(report: &SnapshotReport) -> Vec<&str> {
    // The server of a test has its hba_file elsewhere.
    report.notes.iter().map(|note| note.code.as_str()).filter(|code| *code != "config-outside").collect()
}

const SUM: &str = "SELECT count(*) || ' ' || coalesce(sum(hashtext(t::text)), 0) FROM";

#[test]
fn files_that_did_not_change_are_not_read_again() {
    let Some((cluster, programs)) = summing() else { return };
    let world = World::new();
    for table in ["still", "moves"] {
        sql(
            &cluster,
            &format!(
                "CREATE TABLE {table} AS SELECT n AS id, md5(n::text) AS note FROM generate_series(1, 100000) n"
            ),
        );
    }
    sql(&cluster, "VACUUM (FREEZE)");
    let first = whole(&world, &cluster);
    assert_eq!(notes(&first), [""; 0]);
    sql(&cluster, "UPDATE moves SET note = 'x' WHERE id % 1000 = 0");
    let second = whole(&world, &cluster);
    assert_eq!(notes(&second), [""; 0]);
    let told = manifest(&world.repo, second.id.unwrap()).unwrap();
    assert!(told.n_files_not_read > 200, "{} files were not read", told.n_files_not_read);
    let saved = first.read_bytes.saturating_sub(second.read_bytes);
    assert!(saved > 20_000_000, "{saved} of {}", first.read_bytes);
    assert!(second.added_bytes < 4_000_000, "{}", second.added_bytes);
    prove(&world, second.id.unwrap(), &programs);
    // Both say when everything was read.
    assert_eq!(told.read_whole, Some(manifest(&world.repo, first.id.unwrap()).unwrap().started));
}

/// Everything that makes files other than by changing pages.
#[test]
fn what_is_made_anew_cut_off_or_copied_is_read() {
    let Some((cluster, programs)) = summing() else { return };
    let world = World::new();
    let make = "SELECT n AS id, md5(n::text) AS note FROM generate_series(1, 30000) n";
    for table in ["rewritten", "emptied", "filled", "goes", "shrinks", "hinted", "still"] {
        sql(&cluster, &format!("CREATE TABLE {table} AS {make}; CREATE INDEX ON {table} (id)"));
    }
    sql(&cluster, "CREATE DATABASE copied");
    whole(&world, &cluster);
    for statement in [
        "VACUUM FULL rewritten",
        "TRUNCATE emptied",
        "TRUNCATE filled",
        "INSERT INTO filled SELECT n, md5((n + 1)::text) FROM generate_series(1, 30000) n",
        "DROP TABLE goes",
        "CREATE TABLE comes AS SELECT 7 AS id",
        "DELETE FROM shrinks WHERE id > 100",
        "VACUUM shrinks",
        "SELECT count(*) FROM hinted",
        "CREATE DATABASE by_files TEMPLATE copied STRATEGY file_copy",
    ] {
        sql(&cluster, statement);
    }
    let report = whole(&world, &cluster);
    assert_eq!(notes(&report), [""; 0]);
    assert!(manifest(&world.repo, report.id.unwrap()).unwrap().n_files_not_read > 100);
    prove(&world, report.id.unwrap(), &programs);

    let cx = hikae_testkit::system_cx();
    let server = ClusterOptions { major: cluster.major(), program_directory: Some(programs), ..options(&[]) };
    let vacant = Vacant::make(&server, &scratch(), &environment(), &cx).unwrap();
    let target = ClusterTarget { directory: vacant.data(), ..ClusterTarget::default() };
    restore_cluster(&world.repo, report.id.unwrap(), &target, &cx).unwrap();
    vacant.give_all().unwrap();
    let restored = vacant.start(Begins::Recovering, "postgres", &cx).unwrap();
    for table in ["rewritten", "emptied", "filled", "shrinks", "hinted", "still", "comes"] {
        let sum = format!("{SUM} {table} t");
        assert_eq!(text(&restored, &sum), text(&cluster, &sum), "{table}");
    }
    drop(enter(&restored, "by_files"));
}

/// Somebody puts older pages into a file, and the log knows nothing of it.
#[test]
fn summaries_that_are_wrong_are_found_out_and_everything_is_read() {
    let Some((cluster, _)) = summing() else { return };
    let world = World::new();
    for statement in [
        "CREATE TABLE t AS SELECT n AS id, repeat('a', 600) AS note FROM generate_series(1, 15000) n",
        "UPDATE t SET note = repeat('b', 600)",
        "VACUUM t",
        "CHECKPOINT",
    ] {
        sql(&cluster, statement);
    }
    let path = file_of(&cluster, "t");
    let old = std::fs::read(&path).unwrap();
    // Every page changes: one half gets the new rows, and in the other the old ones end.
    sql(&cluster, "UPDATE t SET note = repeat('c', 600)");
    sql(&cluster, "CHECKPOINT");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), old.len() as u64);
    assert!(old.len() > 16 << 20, "at least one page is looked at");
    whole(&world, &cluster);
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::io::Write::write_all(&mut file, &old).unwrap();
    let report = whole(&world, &cluster);
    assert_eq!(notes(&report), ["not-as-said"], "{:?}", report.notes);
    let stored = hikae_ops::stored::StoredSnapshot::open(&world.repo, report.id.unwrap()).unwrap();
    let name = format!("/{}", path.file_name().unwrap().to_string_lossy());
    let entries = hikae_source::Stored::entries(&stored);
    let entry = entries.iter().find(|entry| entry.path.to_string().ends_with(&name)).unwrap();
    let mut kept = Vec::new();
    std::io::Read::read_to_end(&mut hikae_source::Stored::open(&stored, entry).unwrap(), &mut kept).unwrap();
    assert!(kept[..old.len()] == old[..], "what is there was not read");
}

#[test]
fn a_gap_in_the_summaries_makes_everything_be_read() {
    let Some((cluster, _)) = summing() else { return };
    let world = World::new();
    let first = whole(&world, &cluster);
    sql(&cluster, "CREATE TABLE t AS SELECT 1 AS n");
    sql(&cluster, "CHECKPOINT");
    let summed = "SELECT (summarized_lsn > (SELECT redo_lsn FROM pg_control_checkpoint()) - 1)::text FROM pg_get_wal_summarizer_state()";
    super::standby::wait_for(&cluster, summed, "true");
    let summaries = cluster.directory().join("data/pg_wal/summaries");
    for summary in std::fs::read_dir(summaries).unwrap() {
        std::fs::remove_file(summary.unwrap().path()).unwrap();
    }
    let report = whole(&world, &cluster);
    assert_eq!(notes(&report), ["all-read"]);
    assert!(report.read_bytes >= first.read_bytes, "{} of {}", report.read_bytes, first.read_bytes);
    assert_eq!(manifest(&world.repo, report.id.unwrap()).unwrap().n_files_not_read, 0);
}
