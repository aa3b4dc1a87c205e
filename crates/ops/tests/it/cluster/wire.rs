//! Base backups over the wire: the server reads its files and sends them, and the snapshot is the same as one of files that
//! were read here. What fails in the middle leaves none. Keeps E-3.

use super::failing::{FILL_THE_LOG, forgetful};
use super::standby::{follow, wait_for};
use super::*;
use hikae_source::Stored as _;
use hikae_source::postgresql_cluster::ReadBy;
use hikae_store::MemoryStore;
use hikae_testkit::{Failure, Fault, FaultyStore, Verb};
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

/// A server that sends base backups.
fn sending(options: &ClusterOptions) -> Option<Cluster> {
    let cluster = start_with(options)?;
    let_replicate(&cluster);
    Some(cluster)
}

pub(super) fn by_wire(cluster: &Cluster) -> ClusterSettings {
    ClusterSettings { read: ReadBy::Wire, ..settings(cluster) }
}

#[test]
fn a_cluster_that_is_sent_under_load_comes_back_to_one_moment() {
    let Some(cluster) = sending(&options(&[])) else { return };
    let world = World::new();
    let (report, before, after) = under_load(&cluster, || back_up(&world, source_of(by_wire(&cluster))));
    assert_eq!(report.outcome, Outcome::Complete, "{:?}", report.problems);
    let snapshot = report.id.unwrap();
    let restored = restore(&world, snapshot).cluster;
    assert_load_is_whole(&restored, before, after);
    assert_proved(&world, snapshot);
}

/// The same places, the same pages: a backup by one way stores nothing again that the other way stored.
#[test]
fn both_ways_of_reading_make_the_same_snapshot() {
    let Some(cluster) = sending(&options(&[])) else { return };
    make_space(&cluster);
    sql(
        &cluster,
        "CREATE TABLE here AS SELECT n AS id, md5(n::text) AS note FROM generate_series(1, 60000) n;
         CREATE TABLE there TABLESPACE space AS SELECT * FROM here;
         CREATE UNLOGGED TABLE fleeting AS SELECT * FROM here",
    );
    sql(&cluster, "VACUUM (FREEZE, ANALYZE)");
    sql(&cluster, "CHECKPOINT");
    let world = World::new();
    let whole = |source| {
        let report = back_up(&world, source);
        assert_eq!(report.outcome, Outcome::Complete, "{:?}", report.problems);
        report
    };
    let first = whole(source_of(by_wire(&cluster)));
    let local = whole(source(&cluster));
    let second = whole(source_of(by_wire(&cluster)));
    assert!(first.added_bytes > 4_000_000, "{}", first.added_bytes);
    for again in [&local, &second] {
        assert!(again.added_bytes < 600_000, "{} bytes were added for nothing", again.added_bytes);
    }
    // Names, kinds, owners and modes of all but the log.
    let entries = |snapshot| {
        let stored = hikae_ops::stored::StoredSnapshot::open(&world.repo, snapshot).unwrap();
        let entries = stored.entries().iter().filter(|entry| !entry.path.to_string().starts_with("wal/0"));
        let about = |entry: &hikae_model::Entry| {
            let a = &entry.attributes;
            (matches!(entry.kind, hikae_model::EntryKind::Directory), a.mode, a.uid, a.gid)
        };
        entries
            .filter(|entry| !entry.path.to_string().ends_with(".done"))
            .map(|entry| (entry.path.to_string(), about(entry)))
            .collect::<BTreeMap<_, _>>()
    };
    assert_eq!(entries(first.id.unwrap()), entries(local.id.unwrap()));
    assert_proved(&world, second.id.unwrap());
}

/// What the connection for SQL and the one for the files lead to, and what happens to what the second one brings.
struct Between {
    directory: tempfile::TempDir,
}

impl Between {
    /// `change` sees what came for the second connection, and how many bytes came before; false cuts the connection.
    fn stand(
        sql: &Cluster,
        sender: &Cluster,
        change: impl Fn(&mut [u8], usize) -> bool + Send + Sync + 'static,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join(".s.PGSQL.5432")).unwrap();
        let servers = [sql, sender].map(|cluster| {
            let Host::Socket(socket) = &cluster.connection().host else { panic!("not a socket") };
            socket.join(format!(".s.PGSQL.{}", cluster.connection().port))
        });
        let change = Arc::new(change);
        std::thread::spawn(move || {
            for (n, server) in servers.into_iter().enumerate() {
                let (Ok((ours, _)), Ok(theirs)) = (listener.accept(), UnixStream::connect(server)) else {
                    return;
                };
                let (from, to) = (ours.try_clone().unwrap(), theirs.try_clone().unwrap());
                std::thread::spawn(move || pass(from, to, |_, _| true));
                let change = Arc::clone(&change);
                std::thread::spawn(move || pass(theirs, ours, |bytes, at| n == 0 || change(bytes, at)));
            }
        });
        Self { directory }
    }

    fn settings(&self) -> ClusterSettings {
        let connection =
            format!("host={} port=5432 user=postgres dbname=postgres", self.directory.path().display());
        ClusterSettings { read: ReadBy::Wire, ..ClusterSettings::of(connection) }
    }
}

fn pass(mut from: UnixStream, mut to: UnixStream, change: impl Fn(&mut [u8], usize) -> bool) {
    let (mut buffer, mut at) = (vec![0; 64 << 10], 0);
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if !change(&mut buffer[..n], at) || to.write_all(&buffer[..n]).is_err() {
            break;
        }
        at += n;
    }
    for end in [&from, &to] {
        let _ = end.shutdown(Shutdown::Both);
    }
}

#[test]
fn a_connection_that_breaks_anywhere_is_no_backup() {
    let Some(cluster) = sending(&options(&[])) else { return };
    let world = World::new();
    for after in [100_000, 3_000_000, 20_000_000] {
        let between = Between::stand(&cluster, &cluster, move |bytes, at| at + bytes.len() < after);
        assert_fails(&world, source_of(between.settings()), "the connection broke");
    }
    let whole = Between::stand(&cluster, &cluster, |_, _| true);
    let report = back_up(&world, source_of(whole.settings()));
    assert_eq!(report.outcome, Outcome::Complete, "{:?}", report.problems);
}

/// The server's own manifest says what it has sent.
#[test]
fn a_byte_that_changes_on_the_way_is_seen() {
    let Some(cluster) = sending(&options(&[])) else { return };
    let options = ["CREATE TABLE marked AS SELECT 'the mark on the page' AS mark", "CHECKPOINT"];
    options.iter().for_each(|statement| sql(&cluster, statement));
    let world = World::new();
    let between = Between::stand(&cluster, &cluster, |bytes, _| {
        if let Some(at) = bytes.windows(20).position(|window| window == b"the mark on the page") {
            bytes[at] ^= 1;
        }
        true
    });
    assert_fails(&world, source_of(between.settings()), "did not come as it was sent");
}

/// The manifest says nothing of the log, and the log itself where it stands.
#[test]
fn log_that_changes_on_the_way_is_seen() {
    let Some(cluster) = sending(&options(&[])) else { return };
    let segment =
        "SELECT (('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 17))::bit(32)::bigint)::text";
    let now: u64 = text(&cluster, segment).parse().unwrap();
    // A backup begins with a new segment, and its first page says where it stands.
    let address = ((now + 1) * (16 << 20)).to_le_bytes();
    let header = [&[2, 0, 1, 0, 0, 0][..], &address].concat(); // a long one, of timeline 1
    let world = World::new();
    let between = Between::stand(&cluster, &cluster, move |bytes, _| {
        if let Some(at) = bytes.windows(14).position(|window| window == header) {
            bytes[at + 9] ^= 1;
        }
        true
    });
    assert_fails(&world, source_of(between.settings()), "does not hold the log");
}

/// Behind one name stand a primary and its standby: files of one and facts of the other fit together by nothing but luck.
#[test]
fn a_name_that_leads_to_two_servers_is_refused() {
    let Some(cluster) = sending(&options(&[])) else { return };
    let standby = follow(&World::new(), &cluster);
    let_replicate(&standby);
    let world = World::new();
    let between = Between::stand(&cluster, &standby, |_, _| true);
    assert_fails(&world, source_of(between.settings()), "leads to another server");
}

#[test]
fn a_server_or_sender_that_ends_in_the_middle_is_no_backup() {
    const END_SENDERS: &[&str] =
        &["SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'walsender'"];
    const END_SESSIONS: &[&str] = &[
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'",
    ];
    let Some(cluster) = sending(&options(&[])) else { return };
    sql(&cluster, "CREATE TABLE big AS SELECT md5(n::text) AS note FROM generate_series(1, 400000) n");
    let world = World::new();
    let with = |when, statements| with_sql_of(&cluster, by_wire(&cluster), when, statements);
    for when in [When::Listed, When::Entry(10)] {
        assert_fails(&world, with(when, END_SENDERS), "the connection broke");
    }
    // Nothing holds the log any more.
    assert_fails(&world, with(When::Entry(10), END_SESSIONS), "look at");
    let pid = pid_of(&cluster);
    let killed =
        meddling(by_wire(&cluster), When::Entry(10), move || kill_process(pid, Signal::QUIT).unwrap());
    assert_fails(&world, killed, "the connection broke");
}

#[test]
fn a_standby_is_sent_and_one_that_is_promoted_in_the_middle_is_no_backup() {
    let Some(cluster) = sending(&options(&[])) else { return };
    sql(
        &cluster,
        "CREATE TABLE orders AS SELECT n AS id, md5(n::text) AS note FROM generate_series(1, 300000) n",
    );
    let standby = follow(&World::new(), &cluster);
    let_replicate(&standby);
    let world = World::new();
    let promoted = with_sql_of(&standby, by_wire(&standby), When::Listed, &["SELECT pg_promote()"]);
    let report = back_up(&world, promoted);
    assert_eq!(report.outcome, Outcome::Failed);
    assert!(report.problems[0].what.contains("promoted"), "{:?}", report.problems);
    assert!(world.repo.follow().unwrap().snapshots.is_empty());

    let standby = follow(&World::new(), &cluster);
    let_replicate(&standby);
    sql(&cluster, "INSERT INTO orders SELECT n FROM generate_series(1, 3000) n");
    wait_for(&standby, "SELECT count(*)::text FROM orders", "303000");
    let report = back_up(&world, source_of(by_wire(&standby)));
    assert_eq!(report.outcome, Outcome::Complete, "{:?}", report.problems);
    let restored = restore(&world, report.id.unwrap()).cluster;
    assert_eq!(text(&restored, "SELECT count(*)::text FROM orders"), "303000");
    assert_eq!(text(&restored, "SELECT pg_is_in_recovery()::text"), "false", "it follows nobody");
    assert_proved(&world, report.id.unwrap());
}

/// The repository's disk is full in the middle: the run says so, and the server is as it was.
#[test]
fn a_full_repository_leaves_no_backup_and_the_server_as_it_was() {
    let Some(cluster) = sending(&options(&[])) else { return };
    let store = FaultyStore::new(MemoryStore::new());
    let world = World::of(Arc::new(store.clone()));
    store.inject(Verb::Put, "packs/", 2, Fault::Before(Failure::NoSpace));
    let error = world.backup(&[source_of(by_wire(&cluster))]).unwrap_err();
    assert_eq!(hikae_model::Advise::code(&error), hikae_model::ErrorCode::NoSpace, "{error}");
    assert!(world.repo.follow().unwrap().snapshots.is_empty(), "it was kept all the same");
    let left = "SELECT ((SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_stat_replication))::text";
    wait_for(&cluster, left, "0");
    let report = back_up(&world, source_of(by_wire(&cluster)));
    assert_eq!(report.outcome, Outcome::Complete, "{:?}", report.problems);
}

#[test]
fn the_log_is_held_until_it_is_sent() {
    let Some(cluster) = forgetful() else { return };
    let_replicate(&cluster);
    let world = World::new();
    let report = back_up(&world, with_sql_of(&cluster, by_wire(&cluster), When::Entry(10), FILL_THE_LOG));
    assert_eq!(report.outcome, Outcome::Complete, "{:?}", report.problems);
    assert_proved(&world, report.id.unwrap());
}

/// Timelines are counted in hexadecimal.
#[test]
fn a_cluster_on_its_eleventh_timeline_comes_back() {
    let cx = hikae_testkit::system_cx();
    let Some(first) = start() else { return };
    let vacant = Vacant::make(&options(&[]), &scratch(), &environment(), &cx).unwrap();
    let owner = std::fs::metadata(vacant.directory()).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new(first.program_directory().join(program));
        let output = command
            .args(arguments)
            .arg("-D")
            .arg(vacant.data())
            .uid(owner.uid())
            .gid(owner.gid())
            .current_dir("/");
        let output = output.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run("initdb", &["-A", "trust", "-U", "postgres", "-k", "-N"]);
    run("pg_resetwal", &["-l", "0000000B00000003000000FE"]);
    let cluster = vacant.start(Begins::New, "postgres", &cx).unwrap();
    let_replicate(&cluster);
    sql(&cluster, "CREATE TABLE orders AS SELECT n AS id FROM generate_series(1, 1000) n");
    let world = World::new();
    let report = back_up(&world, source_of(by_wire(&cluster)));
    assert_eq!(report.outcome, Outcome::Complete, "{:?}", report.problems);
    let restored = restore(&world, report.id.unwrap()).cluster;
    assert_eq!(text(&restored, "SELECT count(*)::text FROM orders"), "1000");
    assert_proved(&world, back_up_whole(&world, &cluster));
}

#[test]
fn a_damaged_page_that_is_sent_is_found_and_named() {
    let Some(cluster) = sending(&options(&[])) else { return };
    let path = super::pages::cold(&cluster);
    super::pages::flip(&path, 5 * 8192 + 4000);
    let world = World::new();
    let report = back_up(&world, source_of(by_wire(&cluster)));
    assert_eq!(report.outcome, Outcome::WithProblems);
    let [problem] = &report.problems[..] else { panic!("{:?}", report.problems) };
    assert!(problem.what.starts_with("page 5 is damaged"), "{problem}");
    assert_eq!(problem.on, path.display().to_string());
}

#[test]
fn a_role_that_is_not_let_in_is_told_what_to_do_and_then_it_is_enough() {
    let Some(cluster) = start() else { return };
    let world = World::new();
    sql(&cluster, "CREATE ROLE \"new one\" LOGIN");
    let connection = conninfo(&cluster, "'new one'");
    let role = ClusterSettings { read: ReadBy::Wire, ..ClusterSettings::of(connection) };
    let source = ClusterSource::new(role.clone(), None, &environment()).unwrap();
    let problem = |code: &str| {
        let problems = source.check(&world.cx).unwrap();
        let found = problems.iter().find(|problem| problem.code == code).cloned();
        found.unwrap_or_else(|| panic!("{problems:?}"))
    };
    let advice = problem("no-replication").advice.clone().unwrap();
    assert!(!advice.contains("backup_start") && !advice.contains("start_backup"), "{advice}");
    sql(&cluster, &advice);
    let not_let_in = problem("cannot-read");
    assert!(not_let_in.advice.as_ref().unwrap().contains("local replication \"new one\""), "{not_let_in:?}");
    let_replicate(&cluster);
    assert_eq!(source.check(&world.cx).unwrap(), Vec::new());
    let report = back_up(&world, source_of(role.clone()));
    assert_eq!(report.outcome, Outcome::Complete, "{:?}", report.problems);
    assert!(report.notes.iter().all(|note| note.code != "no-slot"), "{:?}", report.notes);

    let both = ClusterSettings { data_directory: Some("/srv".into()), ..role };
    let error = ClusterSource::new(both, None, &environment()).err().unwrap();
    assert!(error.to_string().starts_with("data_directory"), "{error}");
}
