//! A real server that archives with our program.

use crate::world::World;
use hikae_model::SystemId;
use hikae_source::postgresql::{Cluster, ClusterOptions, Environment, Host};
use hikae_testkit::{named_postgresql, not_run, system_cx};
use std::path::PathBuf;
use std::time::Duration;

/// How long archiving a few segments may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server under way.
pub struct Server {
    pub cluster: Cluster,
    pub client: postgres::Client,
    pub system: SystemId,
}

impl Server {
    /// Starts a server with segments of so many MiB that has no archive yet. `None` if there is no PostgreSQL here.
    #[track_caller]
    pub fn start(segment_mib: u32) -> Option<Self> {
        Self::start_of(named_postgresql(), segment_mib)
    }

    /// The same of the programs in a directory.
    #[track_caller]
    pub fn start_of(program_directory: Option<PathBuf>, segment_mib: u32) -> Option<Self> {
        let scratch = PathBuf::from("/tmp");
        let settings = [
            ("archive_mode", "on"),
            ("wal_level", "replica"),
            ("max_wal_senders", "4"),
            ("full_page_writes", "on"),
        ];
        let options = ClusterOptions {
            major: 13,
            program_directory,
            settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            initdb: vec![format!("--wal-segsize={segment_mib}")],
            ..ClusterOptions::default()
        };
        let cluster =
            match Cluster::start(&options, &scratch, &Environment::bare(scratch.clone()), &system_cx()) {
                Ok(cluster) => cluster,
                Err(error) => {
                    not_run(&format!("no PostgreSQL server can be started: {error}"));
                    return None;
                }
            };
        let Host::Socket(socket) = cluster.connection().host.clone() else { panic!("not a socket") };
        let mut config = postgres::Config::new();
        config.host_path(socket).port(cluster.connection().port).user("postgres").dbname("postgres");
        let mut client = config.connect(postgres::NoTls).unwrap();
        let system: String =
            client.query_one("SELECT system_identifier::text FROM pg_control_system()", &[]).unwrap().get(0);
        let_replicate(&cluster, &mut client);
        Some(Self { cluster, client, system: system.parse().unwrap() })
    }

    /// Lets it archive with `command`.
    pub fn archive_with(&mut self, command: &str) {
        let set = format!("ALTER SYSTEM SET archive_command = '{}'", command.replace('\'', "''"));
        self.client.batch_execute(&set).unwrap();
        self.client.batch_execute("SELECT pg_reload_conf()").unwrap();
    }

    /// Lets it archive into the repository of `world`, and keep a copy of each file in `copies`.
    pub fn archive_into(&mut self, world: &World, copies: &str) {
        self.archive_by(world, copies, "");
    }

    /// The same, each file when the server calls for it and not before.
    pub fn archive_one_by_one(&mut self, world: &World, copies: &str) {
        self.archive_by(world, copies, "--ahead 0");
    }

    fn archive_by(&mut self, world: &World, copies: &str, more: &str) {
        let copies = world.path(copies);
        std::fs::create_dir_all(&copies).unwrap();
        world.give_to_owner_of(self.cluster.directory());
        let push = world.call("push").join(" ");
        let command = format!("cp %p {}/%f && {push} {more} %p", copies.display());
        self.archive_with(&command);
    }

    /// Writes `n` segments with something in each.
    pub fn write(&mut self, n: u32) {
        self.client.batch_execute("CREATE TABLE IF NOT EXISTS ledger (n bigserial, what text)").unwrap();
        for _ in 0..n {
            let insert = "INSERT INTO ledger (what) SELECT repeat(md5(random()::text), 20) FROM generate_series(1, 50)";
            self.client.batch_execute(insert).unwrap();
            self.client.batch_execute("SELECT pg_switch_wal()").unwrap();
        }
    }

    /// Waits until all that was written before is archived.
    #[track_caller]
    pub fn wait_until_archived(&mut self) {
        wait_until_archived(&mut self.client);
    }

    /// How many calls failed.
    pub fn n_failed(&mut self) -> i64 {
        self.client.query_one("SELECT failed_count FROM pg_stat_archiver", &[]).unwrap().get(0)
    }
}

/// Lets everybody in for replication.
pub fn let_replicate(cluster: &Cluster, client: &mut postgres::Client) {
    let hba = cluster.directory().join("hba.conf");
    let lines = std::fs::read_to_string(&hba).unwrap() + "local replication all trust\n";
    std::fs::write(&hba, lines).unwrap();
    client.batch_execute("SELECT pg_reload_conf()").unwrap();
}

/// Waits until all that was written before is archived.
#[track_caller]
pub fn wait_until_archived(client: &mut postgres::Client) {
    // A place at the beginning of a segment is taken for the end of the one before.
    let last: String = client.query_one("SELECT pg_walfile_name(pg_switch_wal())", &[]).unwrap().get(0);
    // What the server counts of it is lost before PostgreSQL 15, where it has no network.
    let left =
        "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready' AND left(name, 24) <= $1";
    let mut waited = Duration::ZERO;
    loop {
        let left: i64 = client.query_one(left, &[&last]).unwrap().get(0);
        if left == 0 {
            return;
        }
        assert!(waited < PATIENCE, "{left} files up to {last} are not archived");
        std::thread::sleep(Duration::from_millis(50));
        waited += Duration::from_millis(50);
    }
}
