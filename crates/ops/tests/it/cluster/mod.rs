//! Base backups of real servers: read while they are written to, restored, started and looked at.

mod coming_back;
mod delta;
mod failing;
mod pages;
mod standby;
mod summaries;
mod versions;
mod wire;

use crate::world::{World, named};
use hikae_model::{Cx, HashKey, Outcome, Problem, SnapshotId};
use hikae_ops::backup::NamedSource;
use hikae_ops::drill::{DrillOptions, DrillReport, drill};
use hikae_ops::report::{BackupReport, SnapshotReport};
use hikae_ops::restore_cluster::{ClusterRestored, ClusterTarget, restore_cluster};
use hikae_ops::surroundings::Surroundings;
use hikae_source::postgresql::replication;
use hikae_source::postgresql::{Begins, Cluster, ClusterOptions, Environment, Host, Vacant};
use hikae_source::postgresql_cluster::{ClusterSettings, ClusterSource};
use hikae_source::{Finished, Item, Reading, Source, SourceError};
use hikae_testkit::named_postgresql;
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A directory that the server's user can reach, whoever runs the tests.
fn scratch() -> PathBuf {
    PathBuf::from("/tmp")
}

fn environment() -> Environment {
    Environment::bare(scratch())
}

fn options(settings: &[(&str, &str)]) -> ClusterOptions {
    let needed = [("wal_level", "replica"), ("max_wal_senders", "5"), ("full_page_writes", "on")];
    let settings = needed.iter().chain(settings);
    ClusterOptions {
        major: 13,
        program_directory: named_postgresql(),
        settings: settings.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        initdb: vec!["--data-checksums".to_owned()],
        ..ClusterOptions::default()
    }
}

fn start_with(options: &ClusterOptions) -> Option<Cluster> {
    match Cluster::start(options, &scratch(), &environment(), &hikae_testkit::system_cx()) {
        Ok(cluster) => Some(cluster),
        Err(error) => {
            hikae_testkit::not_run(&format!("no PostgreSQL server can be started: {error}"));
            None
        }
    }
}

/// A server with checksums, of which base backups can be made.
fn start() -> Option<Cluster> {
    start_with(&options(&[]))
}

fn conninfo(cluster: &Cluster, role: &str) -> String {
    let Host::Socket(directory) = &cluster.connection().host else { panic!("not a socket") };
    format!("host={} port={} user={role} dbname=postgres", directory.display(), cluster.connection().port)
}

fn enter(cluster: &Cluster, database: &str) -> postgres::Client {
    let Host::Socket(socket) = &cluster.connection().host else { panic!("not a socket") };
    let mut config = postgres::Config::new();
    config.host_path(socket).port(cluster.connection().port).user("postgres").dbname(database);
    config.connect(postgres::NoTls).unwrap()
}

#[track_caller]
fn sql(cluster: &Cluster, sql: &str) {
    enter(cluster, "postgres").batch_execute(sql).unwrap_or_else(|error| panic!("{error:?} in {sql}"));
}

#[track_caller]
fn text(cluster: &Cluster, sql: &str) -> String {
    let row = enter(cluster, "postgres").query_one(sql, &[]);
    row.unwrap_or_else(|error| panic!("{error:?} in {sql}")).get(0)
}

fn settings(cluster: &Cluster) -> ClusterSettings {
    ClusterSettings::of(conninfo(cluster, "postgres"))
}

fn source_of(settings: ClusterSettings) -> NamedSource {
    named("main", ClusterSource::new(settings, None, &environment()).unwrap())
}

fn source(cluster: &Cluster) -> NamedSource {
    source_of(settings(cluster))
}

/// Gives the report of the one source.
fn back_up(world: &World, source: NamedSource) -> SnapshotReport {
    let BackupReport { mut snapshots, .. } = world.backup(&[source]).unwrap();
    snapshots.remove(0)
}

#[track_caller]
fn back_up_whole(world: &World, cluster: &Cluster) -> SnapshotId {
    let report = back_up(world, source(cluster));
    assert_eq!(report.outcome, Outcome::Complete, "{:?}", report.problems);
    report.id.unwrap()
}

/// Restores a cluster and starts a server on it.
struct Restored {
    cluster: Cluster,
    report: ClusterRestored,
}

#[track_caller]
fn restore(world: &World, snapshot: SnapshotId) -> Restored {
    let cx = hikae_testkit::system_cx();
    let vacant = Vacant::make(&options(&[]), &scratch(), &environment(), &cx).unwrap();
    let target = ClusterTarget { directory: vacant.data(), ..ClusterTarget::default() };
    let report = restore_cluster(&world.repo, snapshot, &target, &cx).unwrap();
    assert_eq!(report.outcome, Outcome::Complete, "{:?}", report.problems);
    vacant.give_all().unwrap();
    Restored { cluster: vacant.start(Begins::Recovering, "postgres", &cx).unwrap(), report }
}

fn drill_of(world: &World, snapshot: SnapshotId) -> DrillReport {
    let around = Surroundings { scratch: scratch(), ..world.around() };
    let options = DrillOptions { program_directory: named_postgresql(), ..DrillOptions::default() };
    drill(&world.repo, snapshot, &options, &around, &world.cx).unwrap()
}

#[track_caller]
fn assert_proved(world: &World, snapshot: SnapshotId) {
    let report = drill_of(world, snapshot);
    assert_eq!(report.outcome, Outcome::Complete, "{:?} {:?}", report.checks, report.notes);
    let is_verified = report.checks.iter().any(|check| check.name.contains("pg_verifybackup"));
    assert!(is_verified || report.notes.iter().any(|note| note.contains("pg_verifybackup is not installed")));
}

/// The file of a relation.
fn file_of(cluster: &Cluster, relation: &str) -> PathBuf {
    let sql = format!("SELECT pg_relation_filepath('{relation}')");
    cluster.directory().join("data").join(Path::new(&text(cluster, &sql)))
}

/// When something is done in the middle of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// Everything is listed, and nothing was read yet.
    Listed,
    /// So many entries were asked for.
    Entry(usize),
    /// All files were read, and the backup is about to end.
    Read,
    /// The backup has ended, and the log is about to be read.
    Ended,
}

/// A source in the middle of whose reading something happens.
struct Meddling {
    inner: ClusterSource,
    when: When,
    what: Arc<dyn Fn() + Send + Sync>,
}

struct MeddlingReading {
    inner: Box<dyn Reading>,
    n: usize,
    when: When,
    what: Arc<dyn Fn() + Send + Sync>,
}

fn meddling(settings: ClusterSettings, when: When, what: impl Fn() + Send + Sync + 'static) -> NamedSource {
    let inner = ClusterSource::new(settings, None, &environment()).unwrap();
    named("main", Meddling { inner, when, what: Arc::new(what) })
}

impl Source for Meddling {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn check(&self, cx: &Cx) -> Result<Vec<Problem>, SourceError> {
        self.inner.check(cx)
    }

    fn begin(&self, key: HashKey, cx: &Cx) -> Result<Box<dyn Reading>, SourceError> {
        let inner = self.inner.begin(key, cx)?;
        if self.when == When::Listed {
            (self.what)();
        }
        Ok(Box::new(MeddlingReading { inner, n: 0, when: self.when, what: Arc::clone(&self.what) }))
    }
}

impl Reading for MeddlingReading {
    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        self.n += 1;
        if self.when == When::Entry(self.n) {
            (self.what)();
        }
        self.inner.next()
    }

    fn comes_in_path_order(&self) -> bool {
        self.inner.comes_in_path_order()
    }

    fn lanes(&self) -> usize {
        self.inner.lanes()
    }

    fn go_on(&mut self) -> Result<bool, SourceError> {
        if self.when == When::Read {
            (self.what)();
            self.when = When::Listed; // once
        }
        let more = self.inner.go_on()?;
        if more && self.when == When::Ended {
            (self.what)();
        }
        Ok(more)
    }

    fn finish(self: Box<Self>) -> Result<Finished, SourceError> {
        self.inner.finish()
    }
}

/// Runs this on the server in the middle of a backup.
fn with_sql(cluster: &Cluster, when: When, statements: &'static [&'static str]) -> NamedSource {
    with_sql_of(cluster, settings(cluster), when, statements)
}

fn with_sql_of(
    cluster: &Cluster,
    settings: ClusterSettings,
    when: When,
    statements: &'static [&'static str],
) -> NamedSource {
    let connection = cluster.connection().clone();
    meddling(settings, when, move || {
        let Host::Socket(socket) = &connection.host else { panic!("not a socket") };
        let mut config = postgres::Config::new();
        config.host_path(socket).port(connection.port).user("postgres").dbname("postgres");
        let mut client = config.connect(postgres::NoTls).unwrap();
        for sql in statements {
            client.batch_execute(sql).unwrap_or_else(|error| panic!("{error:?} in {sql}"));
        }
    })
}

#[track_caller]
fn assert_fails(world: &World, source: NamedSource, says: &str) {
    let report = back_up(world, source);
    assert_eq!(report.outcome, Outcome::Failed);
    let problem = &report.problems[0];
    assert!(problem.what.contains(says), "{problem} lacks {says}");
    assert!(problem.advice.is_some(), "{problem}");
    assert!(world.repo.follow().unwrap().snapshots.is_empty(), "it was kept all the same");
}

fn pid_of(cluster: &Cluster) -> Pid {
    let file = std::fs::read_to_string(cluster.directory().join("data/postmaster.pid")).unwrap();
    Pid::from_raw(file.lines().next().unwrap().parse().unwrap()).unwrap()
}

/// Lets everybody in for replication too.
fn let_replicate(cluster: &Cluster) {
    let rules = "local all all trust\nlocal replication all trust\n";
    std::fs::write(cluster.directory().join("hba.conf"), rules).unwrap();
    sql(cluster, "SELECT pg_reload_conf()");
    // The server reads its rules anew when it comes to it.
    let enter = || replication::Session::enter(cluster.connection(), &hikae_testkit::system_cx());
    assert!((0..500).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        enter().is_ok()
    }));
}

/// Does this while rows come in and change: what came of it, and how many had come before and after.
fn under_load<T>(cluster: &Cluster, work: impl FnOnce() -> T) -> (T, i64, i64) {
    sql(
        cluster,
        "CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL, filler text);
         INSERT INTO account SELECT n, 1000, repeat('f', 200) FROM generate_series(1, 50000) n;
         CREATE TABLE ledger (n bigserial PRIMARY KEY, a int, b int)",
    );
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in 1..=2_i32 {
            let stop = &stop;
            scope.spawn(move || {
                let mut client = enter(cluster, "postgres");
                let mut n = seed;
                while !stop.load(Ordering::Relaxed) {
                    n = n.wrapping_mul(1_103_515_245).wrapping_add(12_345);
                    let (from, to) = (n.rem_euclid(50_000) + 1, (n / 7).rem_euclid(50_000) + 1);
                    let (low, high) = (from.min(to), from.max(to));
                    let moved = format!(
                        "BEGIN;
                         UPDATE account SET balance = balance - 1 WHERE id = {low};
                         UPDATE account SET balance = balance + 1 WHERE id = {high};
                         INSERT INTO ledger (a, b) VALUES ({from}, {to});
                         COMMIT"
                    );
                    client.batch_execute(&moved).unwrap();
                }
            });
        }
        std::thread::sleep(std::time::Duration::from_millis(300));
        let before: i64 = text(cluster, "SELECT count(*)::text FROM ledger").parse().unwrap();
        let result = work();
        let after: i64 = text(cluster, "SELECT count(*)::text FROM ledger").parse().unwrap();
        stop.store(true, Ordering::Relaxed);
        (result, before, after)
    })
}

/// What was committed before the backup ended is there, and whole.
#[track_caller]
fn assert_load_is_whole(restored: &Cluster, before: i64, after: i64) {
    assert_eq!(text(restored, "SELECT sum(balance)::text FROM account"), "50000000");
    let n: i64 = text(restored, "SELECT count(*)::text FROM ledger").parse().unwrap();
    assert!(before <= n && n <= after && before < after, "{before} {n} {after}");
}

/// Makes a tablespace of the name `space`, whose directory has a blank in its name.
fn make_space(cluster: &Cluster) {
    let space = cluster.directory().join("a space");
    std::fs::create_dir(&space).unwrap();
    give(&space, cluster);
    sql(cluster, &format!("CREATE TABLESPACE space LOCATION '{}'", space.display()));
}

/// Gives `path` to the user as whom the server runs.
fn give(path: &Path, cluster: &Cluster) {
    let owner = std::fs::metadata(cluster.directory()).unwrap();
    chown(path, Some(owner.uid()), Some(owner.gid())).unwrap();
}
