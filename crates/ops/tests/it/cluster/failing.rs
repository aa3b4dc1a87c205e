//! What fails in the middle of a backup: then there is no snapshot, and the server is as it was. Keeps E-3.

use super::*;
use hikae_model::Advise as _;

const END_SESSIONS: &[&str] = &[
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND application_name = 'hikae'",
];

#[test]
fn a_session_that_ends_in_the_middle_is_no_backup() {
    let Some(cluster) = start() else { return };
    let world = World::new();
    for when in [When::Listed, When::Read] {
        assert_fails(&world, with_sql(&cluster, when, END_SESSIONS), "cannot end the backup of");
    }
    back_up_whole(&world, &cluster);
}

#[test]
fn a_server_that_is_killed_in_the_middle_is_no_backup() {
    let Some(cluster) = start() else { return };
    let world = World::new();
    let pid = pid_of(&cluster);
    let source = meddling(settings(&cluster), When::Read, move || {
        kill_process(pid, Signal::KILL).unwrap();
        // Our session ends once its process finds that it is alone.
        std::thread::sleep(std::time::Duration::from_secs(1));
    });
    assert_fails(&world, source, "the backup of");
}

#[test]
fn a_backup_that_is_given_up_leaves_the_server_as_it_was() {
    let Some(cluster) = start() else { return };
    let cx = hikae_testkit::system_cx();
    let source = ClusterSource::new(settings(&cluster), None, &environment()).unwrap();
    let mut reading = source.begin(HashKey([1; 32]), &cx).unwrap();
    reading.next().unwrap();
    assert_eq!(text(&cluster, "SELECT count(*)::text FROM pg_replication_slots"), "1");
    drop(reading);
    let mut left = String::new();
    for _ in 0..200 {
        left = text(&cluster, "SELECT count(*)::text FROM pg_replication_slots");
        if left == "0" {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(left, "0");
    assert!(!cluster.directory().join("data/backup_label").exists());
}

/// The files of another cluster, of a copy of this one, and of nothing at all.
#[test]
fn files_of_another_server_are_refused() {
    let (Some(cluster), Some(other)) = (start(), start()) else { return };
    let world = World::new();
    let at = |path: PathBuf| ClusterSettings { data_directory: Some(path), ..settings(&cluster) };
    let says = "holds the files of another server";
    assert_fails(&world, source_of(at(other.directory().join("data"))), says);

    let copy = world.path("copy");
    let copied =
        std::process::Command::new("cp").arg("-a").arg(cluster.directory().join("data")).arg(&copy).status();
    assert!(copied.unwrap().success());
    assert_fails(&world, source_of(at(copy)), says);
    assert_fails(&world, source_of(at(world.path("nowhere"))), "is not there");
    let findings = ClusterSource::new(at(other.directory().join("data")), None, &environment());
    let problems = findings.unwrap().check(&world.cx).unwrap();
    assert!(problems.iter().any(|problem| problem.code == "other-server"), "{problems:?}");
}

/// A server whose log is taken away as soon as it may.
pub(super) fn forgetful() -> Option<Cluster> {
    let forgets = [("min_wal_size", "2MB"), ("max_wal_size", "2MB"), ("wal_keep_size", "0")];
    let options = options(&forgets);
    let initdb = options.initdb.iter().cloned().chain(["--wal-segsize=1".to_owned()]).collect();
    start_with(&ClusterOptions { initdb, ..options })
}

pub(super) const FILL_THE_LOG: &[&str] = &[
    "CREATE TABLE filler AS SELECT repeat('f', 1000) AS f FROM generate_series(1, 10000)",
    "CHECKPOINT",
    "INSERT INTO filler SELECT f FROM filler",
    "CHECKPOINT",
];

#[test]
fn the_log_is_held_until_it_is_read() {
    let Some(cluster) = forgetful() else { return };
    let world = World::new();
    for when in [When::Read, When::Ended] {
        sql(&cluster, "DROP TABLE IF EXISTS filler");
        let report = back_up(&world, with_sql(&cluster, when, FILL_THE_LOG));
        assert_eq!(report.outcome, Outcome::Complete, "{:?}", report.problems);
        assert_proved(&world, report.id.unwrap());
    }
}

/// A role without REPLICATION: nothing can hold the log for it.
fn reader_of(cluster: &Cluster) -> ClusterSettings {
    let (start, stop) = match &*text(cluster, "SELECT current_setting('server_version_num')") {
        version if version >= "150000" => ("pg_backup_start(text, boolean)", "pg_backup_stop(boolean)"),
        _ => ("pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)"),
    };
    sql(
        cluster,
        &format!(
            "CREATE ROLE reader LOGIN; GRANT pg_read_all_settings TO reader;
         GRANT EXECUTE ON FUNCTION {start} TO reader; GRANT EXECUTE ON FUNCTION {stop} TO reader"
        ),
    );
    ClusterSettings::of(conninfo(cluster, "reader"))
}

#[test]
fn a_log_that_nothing_holds_is_noted() {
    let Some(cluster) = start_with(&options(&[])) else { return };
    let quiet = back_up(&World::new(), source_of(reader_of(&cluster)));
    assert_eq!(quiet.outcome, Outcome::Complete, "{:?}", quiet.problems);
    assert!(quiet.notes.iter().any(|note| note.code == "no-slot"), "{:?}", quiet.notes);
}

#[test]
fn a_segment_that_is_gone_fails_the_backup() {
    let Some(cluster) = forgetful() else { return };
    let reader = reader_of(&cluster);
    let world = World::new();
    let connection = cluster.connection().clone();
    let source = meddling(reader, When::Read, move || {
        let Host::Socket(socket) = &connection.host else { panic!("not a socket") };
        let mut config = postgres::Config::new();
        config.host_path(socket).port(connection.port).user("postgres").dbname("postgres");
        let mut client = config.connect(postgres::NoTls).unwrap();
        FILL_THE_LOG.iter().for_each(|sql| client.batch_execute(sql).unwrap());
    });
    assert_fails(&world, source, "the server took it away before it was read");
}

#[test]
fn a_role_without_rights_is_told_what_to_run_and_then_it_is_enough() {
    let Some(cluster) = start() else { return };
    let world = World::new();
    sql(&cluster, "CREATE ROLE \"new one\" LOGIN");
    let role = ClusterSettings::of(conninfo(&cluster, "'new one'"));
    let source = ClusterSource::new(role.clone(), None, &environment()).unwrap();
    let problems = source.check(&world.cx).unwrap();
    let problem = problems.iter().find(|problem| problem.code == "cannot-back-up").unwrap();
    let advice = problem.advice.clone().unwrap();
    sql(&cluster, &advice);
    assert_eq!(source.check(&world.cx).unwrap(), Vec::new());
    let report = back_up(&world, source_of(role));
    assert_eq!(report.outcome, Outcome::Complete, "{:?}", report.problems);
    assert!(report.notes.iter().all(|note| note.code != "no-slot"), "{:?}", report.notes);
}

/// What is damaged in the repository keeps a server from starting on what came back.
#[test]
fn a_restore_that_met_damage_cannot_be_started() {
    let Some(cluster) = start() else { return };
    let world = World::new();
    sql(
        &cluster,
        "CREATE TABLE big AS SELECT md5(n::text) AS note FROM generate_series(1, 60000) n; CHECKPOINT",
    );
    let snapshot = back_up_whole(&world, &cluster);
    let stored = hikae_ops::stored::StoredSnapshot::open(&world.repo, snapshot).unwrap();
    let name = file_of(&cluster, "big").file_name().unwrap().to_string_lossy().into_owned();
    let entries = hikae_source::Stored::entries(&stored);
    let path = entries.iter().find(|entry| entry.path.to_string().ends_with(&format!("/{name}"))).unwrap();
    crate::files::flip_a_byte_of(&world, snapshot, Path::new(&format!("/{}", path.path)));
    let target = ClusterTarget { directory: world.path("back"), ..ClusterTarget::default() };
    let report = restore_cluster(&world.repo, snapshot, &target, &world.cx).unwrap();
    assert_eq!((report.outcome, report.n_damaged), (Outcome::Failed, 1), "{:?}", report.problems);
    assert!(!world.path("back/global/pg_control").exists());
    assert_eq!(drill_of(&world, snapshot).outcome, Outcome::Failed);
    // The same that a drill without any server says nothing of the snapshot.
    let options = DrillOptions { program_directory: Some("/nowhere".into()), ..DrillOptions::default() };
    let error = drill(&world.repo, snapshot, &options, &world.around(), &world.cx).unwrap_err();
    assert_eq!(error.code(), hikae_model::ErrorCode::Usage);
}
