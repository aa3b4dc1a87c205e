//! Other processes: this test binary, started again to play one part.

use hikae_model::Stretch;
use hikae_source::Source as _;
use hikae_source::sqlite::{SqliteSettings, SqliteSource};
use rusqlite::Connection;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A process that plays a part until it is dropped, which kills it.
pub(crate) struct Actor(Child);

impl Actor {
    /// Starts one and waits until it says that it is ready.
    pub(crate) fn start(part: &str, database: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "sqlite::actor::play"])
            .env("HIKAE_TEST_PART", part)
            .env("HIKAE_TEST_DATABASE", database)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("ready")), "{part} came to nothing");
        std::thread::spawn(move || lines.for_each(drop)); // an actor must not wait for a full pipe
        Self(child)
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test: what an [`Actor`] does.
#[test]
#[ignore = "a part that other tests start in a process of its own"]
fn play() {
    let Ok(part) = std::env::var("HIKAE_TEST_PART") else { return };
    let database = std::env::var_os("HIKAE_TEST_DATABASE").unwrap();
    let connection = Connection::open(&database).unwrap();
    connection.busy_timeout(std::time::Duration::from_secs(60)).unwrap();
    let run = |sql: &str| connection.execute_batch(sql).unwrap();
    let read = |sql: &str| connection.query_row(sql, [], |_| Ok(())).unwrap();
    match part.as_str() {
        // Money moves between accounts, and each transfer is written down: in every state the accounts hold
        // 100,000 and the number of transfers stands in `n`.
        "writer" => {
            println!("ready");
            for i in 0_u64.. {
                run(&format!(
                    "BEGIN IMMEDIATE;
                     UPDATE account SET money = money - 7 WHERE id = {} % 1000;
                     UPDATE account SET money = money + 7 WHERE id = {} % 1000;
                     INSERT INTO transfer (note) VALUES ('from one to the other');
                     DELETE FROM transfer WHERE id <= (SELECT max(id) FROM transfer) - 2000;
                     UPDATE total SET n = (SELECT count(*) FROM transfer);
                     COMMIT;",
                    i * 7919,
                    i * 104_729 + 1
                ));
            }
        }
        "checkpointer" => {
            println!("ready");
            loop {
                let _ = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            }
        }
        // Backups without end, as hikae makes them; their scratch is beside the database.
        "backup" => {
            let database = std::path::PathBuf::from(database);
            let scratch = database.parent().unwrap().with_file_name("scratch");
            let settings = SqliteSettings { path: database, scratch: None };
            let (source, cx) = (SqliteSource::new(settings, scratch), hikae_testkit::system_cx());
            println!("ready");
            loop {
                let mut reading = source.begin(super::KEY, &cx).unwrap();
                let mut content = reading.next().unwrap().unwrap().content.unwrap().reader;
                let mut buffer = vec![0; 1 << 16];
                while content.read(&mut buffer).unwrap() != Stretch::End {}
                drop(reading.finish().unwrap());
            }
        }
        "exclusive" => run("BEGIN EXCLUSIVE"),
        "idle" => read("SELECT count(*) FROM sqlite_schema"),
        // 19,800 rows more, which stay in the WAL.
        "more" => run("PRAGMA wal_autocheckpoint = 0;
             INSERT INTO t SELECT id + 20000, v FROM t WHERE id <= 19800"),
        // Spills a transaction that it never ends, so that a kill leaves a hot journal behind.
        "torn" => run("PRAGMA cache_size = 5; BEGIN IMMEDIATE; UPDATE t SET v = 'half done ' || id"),
        other => panic!("no part {other}"),
    }
    println!("ready");
    loop {
        std::thread::park();
    }
}
