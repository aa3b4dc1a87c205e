//! PostgreSQL against real servers, which the tests make themselves.

mod damage;
mod drilling;
mod dumps;
mod exporting;
mod failing;
mod kinds;
mod privileges;
mod replication;
mod restoring;
mod round_trip;
mod rows;
mod selecting;
mod sessions;
mod standby;
mod tls;
mod versions;

use hikae_model::{Cx, Entry, HashKey, Problem, Stretch, TreePath};
use hikae_source::postgresql::{
    Cluster, ClusterOptions, Connection, DrillOptions, DrillResult, Environment, Host, Manifest, Owners,
    PostgresqlSettings, PostgresqlSource, RestoreOptions, drill,
};
use hikae_source::{Reading, Source, SourceError, Stored};
use hikae_testkit::{named_postgresql, system_cx};
use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

const KEY: HashKey = HashKey([42; 32]);

fn environment() -> Environment {
    // The home of whoever runs the tests is none of their business.
    Environment::bare(scratch())
}

/// A directory that the server's user can reach, whoever runs the tests.
fn scratch() -> PathBuf {
    PathBuf::from("/tmp")
}

/// One server for all tests that run at the same time; stopped when the last of them lets go.
fn server() -> Arc<Cluster> {
    static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(|broken| broken.into_inner());
    if let Some(cluster) = shared.upgrade() {
        return cluster;
    }
    let cluster = Arc::new(start(&[]));
    *shared = Arc::downgrade(&cluster);
    cluster
}

fn options(settings: &[(&str, &str)]) -> ClusterOptions {
    let settings = [("max_prepared_transactions", "5")].iter().chain(settings);
    ClusterOptions {
        major: 13,
        program_directory: named_postgresql(),
        settings: settings.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..ClusterOptions::default()
    }
}

fn start_with(options: &ClusterOptions) -> Cluster {
    Cluster::start(options, &scratch(), &environment(), &system_cx()).unwrap()
}

fn start(settings: &[(&str, &str)]) -> Cluster {
    start_with(&options(settings))
}

/// Gives `path` to the user as whom the server runs.
fn give(path: &std::path::Path, cluster: &Cluster) {
    let owner = std::fs::metadata(cluster.directory()).unwrap();
    let (uid, gid) =
        (std::os::unix::fs::MetadataExt::uid(&owner), std::os::unix::fs::MetadataExt::gid(&owner));
    std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
}

/// A database of a test's own, gone afterwards.
struct Db {
    cluster: Arc<Cluster>,
    name: String,
}

impl Db {
    fn new(tag: &str) -> Self {
        Self::on(server(), tag, "")
    }

    fn on(cluster: Arc<Cluster>, tag: &str, options: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{tag}{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let db = Self { cluster, name };
        db.maintenance(&format!("CREATE DATABASE {} {options}", quote(&db.name)));
        db
    }

    fn client_as(&self, user: &str, database: &str) -> postgres::Client {
        enter(self.cluster.connection(), user, database)
    }

    fn client(&self) -> postgres::Client {
        self.client_as("postgres", &self.name)
    }

    #[track_caller]
    fn sql(&self, sql: &str) {
        self.client().batch_execute(sql).unwrap_or_else(|error| panic!("{error:?} in {sql}"));
    }

    #[track_caller]
    fn maintenance(&self, sql: &str) {
        self.client_as("postgres", "postgres")
            .batch_execute(sql)
            .unwrap_or_else(|error| panic!("{error:?} in {sql}"));
    }

    #[track_caller]
    fn count(&self, sql: &str) -> i64 {
        self.client().query_one(sql, &[]).unwrap_or_else(|error| panic!("{error:?} in {sql}")).get(0)
    }

    fn conninfo(&self, user: &str) -> String {
        let Host::Socket(directory) = &self.cluster.connection().host else { panic!("not a socket") };
        let name = self.name.replace('\\', "\\\\").replace('\'', "\\'");
        format!("host='{}' user='{user}' dbname='{name}'", directory.display())
    }

    /// Settings to back it up as a superuser.
    fn settings(&self) -> PostgresqlSettings {
        PostgresqlSettings {
            allow_superuser: true,
            program_directory: self.programs(),
            ..PostgresqlSettings::of(self.conninfo("postgres"))
        }
    }

    /// The server's own programs, unless it came without those for clients.
    fn programs(&self) -> Option<PathBuf> {
        let directory = self.cluster.program_directory();
        directory.join("pg_dump").exists().then(|| directory.to_owned())
    }

    fn source(&self) -> PostgresqlSource {
        source(self.settings())
    }

    #[track_caller]
    fn back_up(&self) -> Kept {
        back_up(&self.source()).unwrap()
    }

    fn server(&self) -> Connection {
        self.cluster.connection().clone()
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote(&self.name));
        let _ = self.client_as("postgres", "postgres").batch_execute(&drop);
    }
}

fn enter(server: &Connection, user: &str, database: &str) -> postgres::Client {
    let Host::Socket(directory) = &server.host else { panic!("not a socket") };
    postgres::Config::new()
        .host_path(directory)
        .port(server.port)
        .user(user)
        .dbname(database)
        .connect(postgres::NoTls)
        .unwrap_or_else(|error| panic!("{error:?}"))
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn source(settings: PostgresqlSettings) -> PostgresqlSource {
    PostgresqlSource::new(settings, None, environment()).unwrap()
}

/// What a backup kept, in memory.
#[derive(Clone, Default)]
struct Kept {
    entries: Vec<Entry>,
    files: BTreeMap<Vec<u8>, Vec<u8>>,
    manifest: Vec<u8>,
}

impl Kept {
    fn manifest(&self) -> Manifest {
        Manifest::parse(&self.manifest).unwrap()
    }

    fn set_manifest(&mut self, manifest: &Manifest) {
        self.manifest = serde_json::to_vec(manifest).unwrap();
    }

    #[track_caller]
    fn file(&self, name: &str) -> &[u8] {
        self.files.get(name.as_bytes()).unwrap_or_else(|| panic!("no file {name}"))
    }

    #[track_caller]
    fn file_mut(&mut self, name: &str) -> &mut Vec<u8> {
        self.files.get_mut(name.as_bytes()).unwrap_or_else(|| panic!("no file {name}"))
    }

    fn names(&self) -> Vec<String> {
        self.entries.iter().map(|entry| String::from_utf8_lossy(entry.path.as_bytes()).into_owned()).collect()
    }

    fn rows(&self, schema: &str, name: &str) -> Option<u64> {
        let manifest = self.manifest();
        manifest
            .tables
            .iter()
            .find(|table| table.schema == schema && table.name == name)
            .map(|table| table.rows)
    }
}

impl Stored for Kept {
    fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn manifest(&self) -> Option<&[u8]> {
        (!self.manifest.is_empty()).then_some(&self.manifest)
    }

    fn open(&self, entry: &Entry) -> io::Result<Box<dyn io::Read + Send + '_>> {
        let bytes = self.files.get(entry.path.as_bytes()).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(bytes.as_slice()))
    }
}

fn back_up(source: &PostgresqlSource) -> Result<Kept, SourceError> {
    back_up_by(source, 10_000, &mut |_| {})
}

/// Backs up with a buffer of `buffer_bytes`; `before` is called before each entry's content is read.
fn back_up_by(
    source: &PostgresqlSource,
    buffer_bytes: usize,
    before: &mut dyn FnMut(&TreePath),
) -> Result<Kept, SourceError> {
    let cx: Cx = system_cx();
    let (kept, problems) = read_all(source.begin(KEY, &cx)?, buffer_bytes, before)?;
    assert!(problems.is_empty());
    Ok(kept)
}

/// Reads all that a reading gives, and what it says was wrong.
fn read_all(
    mut reading: Box<dyn Reading>,
    buffer_bytes: usize,
    before: &mut dyn FnMut(&TreePath),
) -> Result<(Kept, Vec<Problem>), SourceError> {
    let mut kept = Kept::default();
    let mut buffer = vec![0; buffer_bytes];
    while let Some(item) = reading.next()? {
        before(&item.entry.path);
        if let Some(mut content) = item.content {
            let mut bytes = Vec::new();
            loop {
                match content.reader.read(&mut buffer) {
                    Ok(Stretch::Data(n)) => bytes.extend(&buffer[..n]),
                    Ok(Stretch::Hole(_)) => panic!("a dump has no holes"),
                    Ok(Stretch::End) => break,
                    // The reading itself must remember that this content broke.
                    Err(_) => break,
                }
            }
            kept.files.insert(item.entry.path.as_bytes().to_vec(), bytes);
        }
        if let Some(last) = kept.entries.last() {
            assert!(last.path < item.entry.path, "{} is not before {}", last.path, item.entry.path);
        }
        kept.entries.push(item.entry);
    }
    let finished = reading.finish()?;
    kept.manifest = finished.manifest.unwrap();
    Ok((kept, finished.problems))
}

fn two() -> NonZeroUsize {
    NonZeroUsize::MIN.saturating_add(1)
}

fn drill_it(kept: &Kept) -> Result<DrillResult, SourceError> {
    drill_by(kept, named_postgresql())
}

fn drill_by(kept: &Kept, program_directory: Option<PathBuf>) -> Result<DrillResult, SourceError> {
    let options = DrillOptions { key: KEY, jobs: two(), program_directory, run_as: None };
    drill(kept, &scratch(), &options, &environment(), &system_cx())
}

#[track_caller]
fn assert_passed(result: &DrillResult) {
    let failed: Vec<String> =
        result.checks.iter().filter(|check| !check.passed).map(ToString::to_string).collect();
    assert!(result.passed(), "{failed:#?}");
}

fn restore_options() -> RestoreOptions {
    RestoreOptions {
        key: KEY,
        database: None,
        owners: Owners::Keep,
        jobs: two(),
        program_directory: named_postgresql(),
    }
}
