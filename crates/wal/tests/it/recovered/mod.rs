//! Recovery to a point in time, of real servers that archive with our program.
//!
//! What must come back is told by a ledger, into which every transaction writes its number, and by `pg_waldump`, which says
//! in what order and when they were committed.

mod disturbed;
mod drilled;
mod exact;
mod gaps;
mod kept;
mod pausing;
mod placed;
mod received;
mod refused;
mod taking_out;
mod versions;

use crate::server::{Server, wait_until_archived};
use crate::world::World;
use hikae_model::{Lsn, SnapshotId, Timeline};
use hikae_ops::OpsError;
use hikae_ops::Repo;
use hikae_ops::backup::{BackupOptions, NamedSource, backup};
use hikae_ops::hooks::Hooks;
use hikae_ops::pitr::cluster::KeptCluster;
use hikae_ops::pitr::plan::{RecoveryPlan, plan};
use hikae_ops::pitr::recover::{RecoverOptions, Recovered, recover};
use hikae_ops::pitr::target::{Aim, Course, Target};
use hikae_ops::restore_cluster::ClusterTarget;
use hikae_ops::surroundings::Surroundings;
use hikae_repo::prune::{BundleOptions, bundle_log, remove_doomed};
use hikae_source::postgresql::{Begins, Cluster, ClusterOptions, Environment, Host, Vacant};
use hikae_source::postgresql_cluster::{ClusterSettings, ClusterSource};
use hikae_testkit::system_cx;
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// A record of the log, as `pg_waldump` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    at: Lsn,
    xid: u32,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Commit(Timestamp),
    RestorePoint(String),
    Other,
}

/// A server whose log is archived, its ledger, and the repository.
struct Archived {
    world: World,
    server: Server,
    bases: Vec<SnapshotId>,
}

/// A moment, and who was in the ledger then.
type Moment = (Timestamp, BTreeSet<u32>);

/// Surroundings of whoever restores.
fn around(world: &World) -> Surroundings {
    Surroundings {
        variables: Arc::new(|_| None),
        path: vec!["/usr/bin".into(), "/bin".into()],
        home: None,
        user: "postgres".to_owned(),
        host: "test".to_owned(),
        config: world.path("config"),
        data: world.path("own"),
        cache: world.path("cache-of-owner"),
        umask: None,
        scratch: world.path(""),
        zone: jiff::tz::TimeZone::UTC,
    }
}

impl Archived {
    /// Starts a server that archives, with an empty ledger.
    fn start() -> Option<Self> {
        let mut archived = Self::begin()?;
        archived.server.archive_into(&archived.world, "copies");
        Some(archived)
    }

    /// The same of a server that does not archive yet.
    fn begin() -> Option<Self> {
        Some(Self::of(Server::start(1)?))
    }

    fn of(mut server: Server) -> Self {
        let world = World::new();
        world.give_to_owner_of(server.cluster.directory());
        let ledger = "CREATE TABLE ledger (n bigserial, xid bigint DEFAULT txid_current(), filler text)";
        server.client.batch_execute(ledger).unwrap();
        Self { world, server, bases: Vec::new() }
    }

    fn repo(&self) -> Arc<Repo> {
        self.world.repo()
    }

    /// A base backup of it.
    #[track_caller]
    fn back_up(&mut self) -> SnapshotId {
        let cluster = &self.server.cluster;
        let Host::Socket(socket) = &cluster.connection().host else { panic!("not a socket") };
        let port = cluster.connection().port;
        let connection = format!("host={} port={port} user=postgres dbname=postgres", socket.display());
        let environment = Environment::bare(self.world.path(""));
        let source = ClusterSource::new(ClusterSettings::of(connection), None, &environment).unwrap();
        let hooks = Hooks { time_limit: Duration::from_secs(5), ..Hooks::default() };
        let source = NamedSource { name: "main".to_owned(), source: Box::new(source), hooks };
        let options = BackupOptions {
            purpose: "manual".to_owned(),
            description: None,
            host: "test".to_owned(),
            epoch_days: 90,
        };
        let report = backup(&self.repo(), &[source], &options, &system_cx()).unwrap();
        let report = &report.snapshots[0];
        let id = report.id.unwrap_or_else(|| panic!("{:?}", report.problems));
        self.bases.push(id);
        // The server archives as its own user, and reads what we wrote.
        self.world.give_to_owner_of(self.server.cluster.directory());
        id
    }

    /// Bundles what is archived by now, and takes it away as it stood by itself.
    #[track_caller]
    fn bundle(&self) {
        let (repo, cx) = (self.repo(), system_cx());
        let options = BundleOptions {
            soft: Duration::ZERO,
            most_files: 3,
            fewest_files: 1,
            ..BundleOptions::default()
        };
        let bundled = bundle_log(&repo, &options, &cx).unwrap();
        let removed = remove_doomed(&repo, &cx).unwrap();
        assert!(bundled.n_files > 0 && removed.n_bundled == bundled.n_files, "{bundled:?} {removed:?}");
        self.world.give_to_owner_of(self.server.cluster.directory());
    }

    /// The log of a timeline, in order.
    fn records(&self, timeline: u32) -> Vec<Record> {
        records(&self.server, &self.world.path("copies"), timeline)
    }

    fn kept(&self) -> KeptCluster {
        KeptCluster::read(&self.repo(), "main", &system_cx()).unwrap()
    }

    fn plan(&self, target: Target, inclusive: bool, course: Course) -> Result<RecoveryPlan, OpsError> {
        let aim = Aim { target, inclusive, course };
        plan(&self.kept(), &aim, &system_cx())
    }

    fn options(&self, directory: &str) -> RecoverOptions {
        RecoverOptions {
            target: ClusterTarget { directory: self.world.path(directory), ..ClusterTarget::default() },
            wal_program: self.world.path("hikae-wal"),
            program_directory: Some(self.server.cluster.program_directory().to_owned()),
            run_as: None,
        }
    }

    fn recover(&self, plan: &RecoveryPlan, directory: &str) -> Result<Recovered, OpsError> {
        recover(&self.repo(), plan, &self.options(directory), &around(&self.world), &system_cx())
    }

    /// Starts a server on what was recovered.
    #[track_caller]
    fn open(&self, directory: &str, settings: &[(&str, &str)]) -> Cluster {
        open(&self.server, &self.world.path(directory), settings)
    }

    /// What a failed recovery must leave: nothing.
    #[track_caller]
    fn assert_nothing_left(&self, directory: &str) {
        assert!(!self.world.path(directory).exists(), "{directory} was made");
        let names = std::fs::read_dir(self.world.path("")).unwrap().flatten().map(|entry| entry.file_name());
        let left: Vec<_> = names
            .filter(|name| {
                let name = name.to_string_lossy();
                name.starts_with("hikae-") && name != "hikae-wal" || name.starts_with(directory)
            })
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// Starts a server on a data directory, which it takes away.
#[track_caller]
fn open(like: &Server, data: &Path, settings: &[(&str, &str)]) -> Cluster {
    let settings = [("wal_level", "replica"), ("max_wal_senders", "4"), ("full_page_writes", "on")]
        .iter()
        .chain(settings)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let options = ClusterOptions {
        major: like.cluster.major(),
        program_directory: Some(like.cluster.program_directory().to_owned()),
        settings: settings.collect(),
        ..ClusterOptions::default()
    };
    let (scratch, cx) = (PathBuf::from("/tmp"), system_cx());
    let vacant = Vacant::make(&options, &scratch, &Environment::bare(scratch.clone()), &cx).unwrap();
    std::fs::rename(data, vacant.data()).unwrap();
    vacant.give_all().unwrap();
    vacant.start(Begins::New, "postgres", &cx).unwrap()
}

fn enter(cluster: &Cluster) -> postgres::Client {
    let Host::Socket(socket) = cluster.connection().host.clone() else { panic!("not a socket") };
    let mut config = postgres::Config::new();
    config.host_path(socket).port(cluster.connection().port).user("postgres").dbname("postgres");
    config.connect(postgres::NoTls).unwrap()
}

/// The transactions in a ledger.
fn ledger(client: &mut postgres::Client) -> BTreeSet<u32> {
    let rows = client.query("SELECT xid FROM ledger", &[]).unwrap();
    rows.iter().map(|row| u32::try_from(row.get::<_, i64>(0)).unwrap()).collect()
}

/// One transaction that writes itself into the ledger.
fn commit(client: &mut postgres::Client) {
    client.batch_execute("INSERT INTO ledger (filler) VALUES (repeat(md5(random()::text), 8))").unwrap();
}

/// Writes into the ledger for a while. Gives moments on the way, each with commits before and after it.
fn moments(archived: &mut Archived, n: usize) -> Vec<Moment> {
    let client = &mut archived.server.client;
    let mut found = Vec::new();
    for _ in 0..n {
        (0..5).for_each(|_| commit(client));
        let now = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
        let now: String = client.query_one(now, &[]).unwrap().get(0);
        found.push((now.parse().unwrap(), ledger(client)));
        client.batch_execute("SELECT pg_switch_wal()").unwrap();
    }
    commit(client);
    archived.server.wait_until_archived();
    found
}

/// Everything that `pg_waldump` finds in the segments of a timeline in a directory.
fn records(server: &Server, copies: &Path, timeline: u32) -> Vec<Record> {
    let prefix = format!("{timeline:08X}");
    let names = std::fs::read_dir(copies).unwrap().flatten().map(|entry| entry.file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| name.len() == 24 && name.starts_with(&prefix));
    names.sort();
    let (Some(first), Some(last)) = (names.first(), names.last()) else { return Vec::new() };
    let output = Command::new(server.cluster.program_directory().join("pg_waldump"))
        .args(["--timeline", &timeline.to_string(), "--path"])
        .arg(copies)
        .args([first, last])
        .env("TZ", "UTC")
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let found: Vec<Record> = text.lines().map(record).collect();
    assert!(!found.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    found
}

/// As `rmgr: Transaction len (rec/tot): 46/46, tx: 735, lsn: 0/0162D310, prev 0/0162D2D0, desc: COMMIT 2026-11-20 12:00:00.5 UTC`.
fn record(line: &str) -> Record {
    let after = |mark: &str| line.split_once(mark).unwrap_or_else(|| panic!("{line}")).1;
    let word = |mark: &str| after(mark).trim_start().split([',', ' ']).next().unwrap().to_owned();
    let what = after("desc: ");
    let what = if let Some(time) = what.strip_prefix("COMMIT ").filter(|_| line.contains("Transaction")) {
        let time = time.split(" UTC").next().unwrap();
        What::Commit(format!("{time}Z").parse().unwrap_or_else(|error| panic!("{line}: {error}")))
    } else if let Some(name) = what.strip_prefix("RESTORE_POINT ") {
        What::RestorePoint(name.trim().to_owned())
    } else {
        What::Other
    };
    Record { at: word("lsn: ").parse().unwrap(), xid: word("tx: ").parse().unwrap(), what }
}

fn timeline(n: u32) -> Timeline {
    Timeline::new(n).unwrap()
}

#[track_caller]
fn says(result: Result<impl std::fmt::Debug, OpsError>, words: &[&str]) {
    use hikae_model::Advise as _;
    let error = result.expect_err("it was not refused");
    let said = format!("{} {}", hikae_model::with_causes(&error), error.advice().unwrap_or_default());
    words.iter().for_each(|word| assert!(said.contains(word), "`{word}` is not in: {said}"));
}
