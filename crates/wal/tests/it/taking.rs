//! Keeps E-5. `take`: what hikae has fetched for a server that it recovers is handed over, and nothing else is the end of the log.

use crate::world::Ran;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const FIRST: &str = "000000010000000000000001";
const SECOND: &str = "000000010000000000000002";

/// A directory into which somebody fetches, as long as the lock is held.
struct Spool {
    home: tempfile::TempDir,
    lock: File,
}

impl Spool {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("names"), format!("{FIRST}\n{SECOND}\n")).unwrap();
        let lock = File::create(home.path().join("feeder")).unwrap();
        lock.lock().unwrap();
        Self { home, lock }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn put(&self, name: &str, content: &str) {
        std::fs::write(self.path("new"), content).unwrap();
        std::fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    fn begin(&self, name: &str) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hikae-wal"));
        command.arg("take").arg(self.home.path()).arg(name).arg(self.path("target"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn take(&self, name: &str) -> Ran {
        Ran::of(self.begin(name).wait_with_output().unwrap())
    }

    /// Begins to take, does `then` once it waits, and gives how it ended.
    fn while_waiting(&self, name: &str, then: impl FnOnce()) -> Ran {
        let mut taking = self.begin(name);
        while !self.path("wanted").exists() {
            assert!(taking.try_wait().unwrap().is_none(), "it does not wait for what is to come");
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(std::fs::read_to_string(self.path("wanted")).unwrap(), name);
        then();
        for _ in 0..1000 {
            if taking.try_wait().unwrap().is_some() {
                return Ran::of(taking.wait_with_output().unwrap());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        taking.kill().unwrap();
        panic!("it waits for what nobody fetches");
    }
}

#[test]
fn what_was_fetched_is_handed_over_and_what_is_to_come_is_waited_for() {
    let spool = Spool::new();
    spool.put(FIRST, "first");
    spool.take(FIRST).expect(0, "");
    assert_eq!(std::fs::read_to_string(spool.path("target")).unwrap(), "first");
    assert!(!spool.path(FIRST).exists());
    spool.while_waiting(SECOND, || spool.put(SECOND, "second")).expect(0, "");
    assert_eq!(std::fs::read_to_string(spool.path("target")).unwrap(), "second");
}

#[test]
fn only_a_name_that_is_not_to_come_is_the_end_of_what_is_fetched() {
    let spool = Spool::new();
    spool.take("000000010000000000000003").expect(1, "");
    spool.take("00000002.history").expect(1, "");
    std::fs::remove_file(spool.path("names")).unwrap();
    spool.take("000000010000000000000003").expect(126, "cannot read");
}

#[test]
fn what_cannot_be_fetched_stops_the_recovery() {
    let spool = Spool::new();
    spool
        .while_waiting(FIRST, || spool.put(&format!("{FIRST}.failed"), "it is damaged"))
        .expect(126, "it is damaged");
    assert!(!spool.path("target").exists());
    // A place where it cannot go.
    spool.put(SECOND, "second");
    std::fs::create_dir(spool.path("target")).unwrap();
    spool.take(SECOND).expect(126, "cannot write");
}

#[test]
fn a_feeder_that_ended_stops_the_recovery() {
    let spool = Spool::new();
    spool.while_waiting(FIRST, || spool.lock.unlock().unwrap()).expect(126, "has ended");
    spool.take(SECOND).expect(126, "has ended");
    // What it had put there is whole.
    spool.put(SECOND, "second");
    spool.take(SECOND).expect(0, "");
}
