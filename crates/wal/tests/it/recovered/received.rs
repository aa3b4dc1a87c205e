//! A server whose log is received, and that is gone with its disk: what it had said to be safe comes back.

use super::*;
use crate::server::let_replicate;
use hikae_model::{Cancel, Cx, SegmentName, SegmentPart, WalName};
use hikae_ops::pg::receive::{ReceiveOptions, ReceiveReport, receive};
use hikae_repo::wal::WalArchive;
use hikae_source::postgresql::Connection;
use hikae_testkit::{Failure, Fault, FaultyStore, Seed, TestRandom, Verb};
use rustix::process::{Pid, Signal, kill_process};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// How long anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Everything that comes is stored at once.
fn at_once() -> ReceiveOptions {
    ReceiveOptions { create_slot: true, every: Some(Duration::ZERO), ..ReceiveOptions::default() }
}

#[track_caller]
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let pause = Duration::from_millis(10);
    for _ in 0..PATIENCE.as_millis() / pause.as_millis() {
        if holds() {
            return;
        }
        std::thread::sleep(pause);
    }
    panic!("it never was so: {what}");
}

impl World {
    /// The repository over a store that can fail, as another process would have opened it.
    fn faulty_repo(&self) -> (Arc<Repo>, FaultyStore) {
        let store = FaultyStore::new(self.store());
        (self.repo_over(store.clone()), store)
    }
}

impl Archived {
    fn receive(
        &self,
        repo: &Arc<Repo>,
        options: &ReceiveOptions,
        cx: &Cx,
    ) -> Result<ReceiveReport, OpsError> {
        receive(repo, "main", self.server.cluster.connection(), options, cx)
    }

    /// The place before which everything is kept.
    fn kept_up_to(&self, line: u32) -> Lsn {
        let window = self.kept().window;
        window.intervals.iter().rfind(|interval| interval.timeline == timeline(line)).unwrap().to
    }

    fn lsn(&mut self, sql: &str) -> Lsn {
        let row = self.server.client.query_one(&format!("SELECT ({sql})::text"), &[]).unwrap();
        row.get::<_, String>(0).parse().unwrap()
    }
}

/// Kills a server and takes its disk away.
fn lose(cluster: &Cluster) {
    let data = cluster.directory().join("data");
    let pid = std::fs::read_to_string(data.join("postmaster.pid")).unwrap();
    let pid = Pid::from_raw(pid.lines().next().unwrap().parse().unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    // What is left of its processes may still write.
    wait_until("its disk is gone", || std::fs::remove_dir_all(&data).is_ok() && !data.exists());
}

fn numbers(client: &mut postgres::Client) -> BTreeSet<i64> {
    client.query("SELECT n FROM ledger", &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

/// A receiver that dies now and then, before or after it has stored something, and is started again each time.
fn receive_and_die(world: &World, connection: &Connection, is_over: &AtomicBool, cx: &Cx) {
    let random = TestRandom::new(Seed::draw());
    while !is_over.load(Ordering::Relaxed) {
        let (repo, store) = world.faulty_repo();
        let fault = [Fault::Before, Fault::After][random.below(2) as usize](Failure::TimedOut);
        store.inject(Verb::Put, "wal", 1 + random.below(20) as usize, fault);
        let ended = receive(&repo, "main", connection, &at_once(), cx);
        match ended {
            Ok(_) => assert!(is_over.load(Ordering::Relaxed), "it ended by itself"),
            // It cannot enter a server that is gone.
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Ends the receiver, however the test ends.
struct Ending<'a>(&'a AtomicBool, &'a Cancel);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.cancel();
    }
}

/// Writes and is received, by one that dies again and again, until the server is lost. Gives the commits that had returned.
fn live_and_lose(world: &World, cluster: &Cluster, next: &AtomicI64) -> BTreeSet<i64> {
    let (is_over, cx) = (AtomicBool::new(false), system_cx());
    let returned = Mutex::new(BTreeSet::new());
    let mut admin = enter(cluster);
    let_replicate(cluster, &mut admin);
    std::thread::scope(|scope| {
        let _ending = Ending(&is_over, cx.cancel());
        scope.spawn(|| receive_and_die(world, cluster.connection(), &is_over, &cx));
        admin.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'hikae'").unwrap();
        admin.batch_execute("SELECT pg_reload_conf()").unwrap();
        wait_until("commits wait for the receiver", || {
            let sql = "SELECT count(*) > 0 FROM pg_stat_replication WHERE sync_state = 'sync'";
            admin.query_one(sql, &[]).unwrap().get(0)
        });
        for _ in 0..2 {
            scope.spawn(|| {
                let mut client = enter(cluster);
                client.batch_execute("SET synchronous_commit = on").unwrap();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let filler = if n % 20 == 0 { 4000 } else { 10 };
                    let insert = "INSERT INTO ledger (n, filler)
                        SELECT $1, string_agg(md5(random()::text), '') FROM generate_series(1, $2::int)";
                    if client.execute(insert, &[&n, &filler]).is_err() {
                        return; // the server is gone
                    }
                    returned.lock().unwrap().insert(n);
                }
            });
        }
        wait_until("there were enough commits", || returned.lock().unwrap().len() >= 80);
        lose(cluster);
    });
    returned.into_inner().unwrap()
}

/// Keeps EC-10, E-7.
#[test]
fn a_commit_that_returned_is_there_after_the_server_and_its_disk_are_gone() {
    let Some(mut archived) = Archived::begin() else { return };
    archived.back_up();
    let next = AtomicI64::new(1);
    let mut returned = live_and_lose(&archived.world, &archived.server.cluster, &next);
    let see_all = |line: u32, returned: &BTreeSet<i64>| {
        let plan = archived.plan(Target::End, true, Course::Latest).unwrap();
        let directory = format!("recovered-{line}");
        let recovered = archived.recover(&plan, &directory).unwrap();
        assert_eq!((recovered.timeline, recovered.new_timeline), (line, line + 1));
        let opened = archived.open(&directory, &[]);
        let found = numbers(&mut enter(&opened));
        let lost: Vec<_> = returned.difference(&found).collect();
        assert!(lost.is_empty(), "{lost:?} had returned and are lost; {recovered:?}");
        let more: Vec<_> = found.difference(returned).collect();
        assert!(more.len() <= 2 * line as usize, "{more:?} had not returned");
        opened
    };
    let second = see_all(1, &returned);
    // Its first segment is a copy of what the first one began, and is received from its start.
    returned.extend(live_and_lose(&archived.world, &second, &next));
    see_all(2, &returned);
}

/// Dies at each call of its store, one after the other: the server has what is not kept, and the next one goes on.
/// Keeps EC-10, E-7.
#[test]
fn a_receiver_that_dies_at_any_call_of_its_store_has_lost_nothing() {
    let Some(mut archived) = Archived::begin() else { return };
    archived.server.client.batch_execute("SET synchronous_commit = on").unwrap();
    archived.back_up();
    let until = |archived: &mut Archived| ReceiveOptions {
        until: Some(archived.lsn("pg_current_wal_flush_lsn()")),
        ..at_once()
    };
    // It goes over the end of a segment, and what it brings is stored in several parts.
    let life = |archived: &mut Archived| {
        archived.server.client.batch_execute("SELECT pg_switch_wal()").unwrap();
        (0..3).for_each(|_| commit(&mut archived.server.client));
    };
    life(&mut archived);
    let (repo, store) = archived.world.faulty_repo();
    let options = until(&mut archived);
    store.forget_calls();
    archived.receive(&repo, &options, &system_cx()).unwrap();
    let n_calls = store.calls().len();
    assert!(n_calls > 10, "{:?}", store.calls());
    let mut n_died = 0;
    for n in 1..=n_calls {
        life(&mut archived);
        let options = until(&mut archived);
        let (repo, store) = archived.world.faulty_repo();
        store.go_away_at(n);
        n_died += usize::from(archived.receive(&repo, &options, &system_cx()).is_err());
        let slot = "SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_name = 'hikae_main'";
        let held: String = archived.server.client.query_one(slot, &[]).unwrap().get(0);
        let (held, kept): (Lsn, Lsn) = (held.parse().unwrap(), archived.kept_up_to(1));
        assert!(
            held <= kept,
            "death at call {n}: the server holds what is behind {held}, and {kept} is kept"
        );
    }
    assert!(n_died * 2 > n_calls, "{n_died} of {n_calls}");
    let options = until(&mut archived);
    archived.receive(&archived.repo(), &options, &system_cx()).unwrap();
    assert!(archived.kept_up_to(1) >= options.until.unwrap());
    see_bytes(&archived);
}

/// As after a server was set back, or a copy of it was received: its log is another under the same names. Keeps E-7.
#[test]
fn a_receiver_ends_where_other_parts_of_the_same_segment_are_kept() {
    let Some(mut archived) = Archived::begin() else { return };
    archived.server.client.batch_execute("SET synchronous_commit = on").unwrap();
    commit(&mut archived.server.client);
    let segment =
        archived.server.client.query_one("SELECT pg_walfile_name(pg_current_wal_lsn())", &[]).unwrap();
    let segment: SegmentName = segment.get::<_, String>(0).parse().unwrap();
    let other = SegmentPart::new(segment, 0, 8192).unwrap();
    let wal = archived.world.archive();
    wal.push(archived.server.system, WalName::Part(other), &mut &[7; 8192][..]).unwrap();
    let options = ReceiveOptions { until: Some(archived.lsn("pg_current_wal_flush_lsn()")), ..at_once() };
    let received = archived.receive(&archived.repo(), &options, &system_cx());
    let error = received.expect_err("it was received over what is kept");
    assert_eq!(hikae_model::Advise::code(&error), hikae_model::ErrorCode::WalDiffers, "{error}");
}

/// Everything that is kept of the log is what the server has.
#[track_caller]
fn see_bytes(archived: &Archived) {
    let archive = WalArchive::of(&archived.repo());
    let kept = archived.kept();
    let pg_wal = archived.server.cluster.directory().join("data/pg_wal");
    let all: Vec<SegmentName> =
        kept.archive.segments.iter().chain(kept.archive.begun.keys()).copied().collect();
    for segment in all {
        let mut bytes = Vec::new();
        archive.get_begun(kept.system, segment, &mut bytes).unwrap().unwrap();
        let there = std::fs::read(pg_wal.join(segment.to_string())).unwrap();
        assert!(there.starts_with(&bytes), "{segment} is not what the server wrote");
        let is_whole = kept.archive.segments.contains(&segment);
        assert_eq!(bytes.len() as u64 == kept.archive.size.bytes(), is_whole);
        let parts = archive.parts(kept.system, segment).unwrap();
        assert!(!is_whole || parts.is_empty(), "{segment} is whole, and has parts: {parts:?}");
    }
    assert!(kept.stored.keys().any(|name| matches!(name, WalName::Part(_))));
}
