//! Keeps E-5: a recovery holds exactly what was committed up to its target.

use super::*;
use hikae_model::{LandmarkFinder, LandmarkKind, SegmentSize};
use hikae_testkit::{Seed, TestRandom};

/// A way through the log: what a recovery along one timeline replays, and who is in the ledger at its end.
pub(super) struct Way {
    pub(super) timeline: u32,
    pub(super) records: Vec<Record>,
    pub(super) ledger: BTreeSet<u32>,
}

impl Way {
    /// Who must be in the ledger after a recovery to `target` that began at a base which ended at `base`.
    fn expected(&self, target: &Target, inclusive: bool, base: Lsn) -> BTreeSet<u32> {
        let mut expected = BTreeSet::new();
        for record in &self.records {
            let commit = match &record.what {
                What::Commit(time) => Some(*time),
                _ => None,
            };
            let named = |name: &str| matches!(&record.what, What::RestorePoint(found) if found == name);
            let (before, after) = match target {
                Target::End => (false, false),
                Target::Immediate => (record.at >= base, false),
                Target::Time(wanted) => {
                    let passed = |time: Timestamp| time > *wanted || (!inclusive && time == *wanted);
                    (record.at >= base && commit.is_some_and(passed), false)
                }
                Target::Lsn(wanted) => {
                    let there = record.at >= *wanted && record.at >= base;
                    (there && !inclusive, there && inclusive)
                }
                Target::Xid(xid) => {
                    let there = commit.is_some() && u64::from(record.xid) == *xid && record.at >= base;
                    (there && !inclusive, there && inclusive)
                }
                Target::Name(name) => (false, named(name.as_str()) && record.at >= base),
            };
            if before {
                break;
            }
            if commit.is_some() && self.ledger.contains(&record.xid) {
                expected.insert(record.xid);
            }
            if after {
                break;
            }
        }
        expected
    }

    pub(super) fn commits(&self, after: Lsn) -> Vec<(Lsn, u32, Timestamp)> {
        let commit = |record: &Record| match record.what {
            What::Commit(time) if record.at >= after => Some((record.at, record.xid, time)),
            _ => None,
        };
        self.records.iter().filter_map(commit).collect()
    }

    /// True of a time after which nothing was committed: at such nothing stops the server.
    fn is_passed_by_nothing(&self, target: &Target) -> bool {
        let last = self.commits(Lsn(0)).into_iter().map(|(_, _, time)| time).max();
        matches!(target, Target::Time(time) if Some(*time) > last)
    }

    /// A random target, which can be reached unless it is a time after all commits.
    fn draw(&self, random: &TestRandom, first: Lsn) -> Target {
        let commits = self.commits(first);
        // After the last one nothing stops the server.
        let (at, xid, time) = commits[random.below(commits.len() as u64 - 2) as usize];
        let names: Vec<&str> = self
            .records
            .iter()
            .filter_map(|record| match &record.what {
                What::RestorePoint(name) if record.at >= first => Some(name.as_str()),
                _ => None,
            })
            .collect();
        match random.below(8) {
            0 | 1 => Target::Time(time),
            2 => Target::Time(time + jiff::SignedDuration::from_micros(random.below(3000) as i64 - 1500)),
            3 => Target::Lsn(at),
            4 => Target::Lsn(Lsn(at.0 + random.below(200))),
            5 | 6 if !names.is_empty() && random.below(3) == 0 => {
                Target::Name(names[random.below(names.len() as u64) as usize].parse().unwrap())
            }
            5..=7 if random.below(12) == 0 => Target::Immediate,
            7 if random.below(4) == 0 => Target::End,
            _ => Target::Xid(xid.into()),
        }
    }
}

/// Writes for a while: small transactions of several sessions, some that are given up, restore points, switches.
pub(super) fn live(client: &mut postgres::Client, cluster: &Cluster, from: u32, n: u32) {
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut client = enter(cluster);
                (0..n).for_each(|_| commit(&mut client));
            });
        }
        for at in from..from + 3 {
            (0..n / 6).for_each(|_| commit(client));
            client.batch_execute("BEGIN; INSERT INTO ledger DEFAULT VALUES; ROLLBACK").unwrap();
            client.query_one("SELECT pg_create_restore_point($1)::text", &[&format!("point {at}")]).unwrap();
            client.batch_execute("SELECT pg_switch_wal()").unwrap();
            (0..n / 6).for_each(|_| commit(client));
        }
    });
}

impl Archived {
    /// Recovers to a target, and compares the ledger.
    #[track_caller]
    pub(super) fn see_exact(&self, way: &Way, target: Target, inclusive: bool, n: usize) -> Recovered {
        let course = Course::Timeline(timeline(way.timeline));
        let what = format!("{target:?}, inclusive {inclusive}, timeline {}", way.timeline);
        let plan =
            self.plan(target.clone(), inclusive, course).unwrap_or_else(|error| panic!("{what}: {error}"));
        let directory = format!("recovered-{n}");
        let recovered = self.recover(&plan, &directory);
        let recovered =
            recovered.unwrap_or_else(|error| panic!("{what}: {}", hikae_model::with_causes(&error)));
        assert_eq!(recovered.snapshot, plan.snapshot);
        let base = self.kept().bases.iter().find(|base| base.snapshot == plan.snapshot).unwrap().stop;
        let opened = self.open(&directory, &[]);
        let found = ledger(&mut enter(&opened));
        let expected = way.expected(&target, inclusive, base);
        println!("{n}: {what}: {} rows, {:.1} s", expected.len(), recovered.seconds);
        let (more, less): (Vec<_>, Vec<_>) =
            (found.difference(&expected).collect(), expected.difference(&found).collect());
        assert!(found == expected, "{what}: {more:?} should not be there, {less:?} should; {recovered:?}");
        recovered
    }
}

/// How many targets are tried: in the full form as many as `HIKAE_TARGETS` says.
fn n_targets() -> usize {
    let said = std::env::var("HIKAE_TARGETS").ok().map(|n| n.parse().expect("a number"));
    match std::env::var_os("HIKAE_FULL").is_some() {
        true => said.unwrap_or(2000),
        false => 9,
    }
}

/// The second half is across a promotion: the cluster was recovered once, and went on, beside the one that it was of. Part of the
/// log is in bundles.
/// Keeps MK-79.
#[test]
fn a_recovery_holds_exactly_what_was_committed_up_to_its_target() {
    let Some(mut archived) = Archived::start() else { return };
    let random = TestRandom::new(Seed::draw());
    let n = n_targets();
    let life = |archived: &mut Archived, from| {
        let Archived { server: Server { cluster, client, .. }, .. } = archived;
        live(client, cluster, from, 24);
    };
    archived.back_up();
    life(&mut archived, 0);
    archived.back_up();
    life(&mut archived, 3);
    archived.server.wait_until_archived();
    archived.bundle();
    let first = archived.kept().bases.iter().map(|base| base.stop).min().unwrap();
    let mut way =
        Way { timeline: 1, records: archived.records(1), ledger: ledger(&mut archived.server.client) };
    see_landmarks(&archived, &way);

    // The other life begins at a moment that is passed.
    let fork = way.commits(first)[way.commits(first).len() * 2 / 3];
    let plan = archived.plan(Target::Lsn(fork.0), true, Course::Current).unwrap();
    let recovered = archived.recover(&plan, "other").unwrap();
    assert_eq!((recovered.timeline, recovered.new_timeline), (1, 2));
    assert!(recovered.n_segments > 0 && recovered.reached_time <= Some(fork.2), "{recovered:?}");
    assert!(recovered.reached_time.is_some(), "{recovered:?}");
    let configuration = std::fs::read_to_string(archived.world.path("other/postgresql.auto.conf")).unwrap();
    assert!(
        configuration.contains("archive_command"),
        "the configuration did not come back: {configuration}"
    );
    assert!(!archived.world.path("other/recovery.signal").exists());
    let other = archived.open("other", &[("archive_mode", "on")]);
    let mut client = enter(&other);
    let before = ledger(&mut client);
    live(&mut client, &other, 6, 24);
    wait_until_archived(&mut client);
    let forked = recovered.reached.parse::<Lsn>().unwrap();
    let until = way.records.iter().filter(|record| record.at < forked).cloned();
    let second = archived.records(2).into_iter().filter(|record| record.at >= forked);
    let other_way = Way { timeline: 2, records: until.chain(second).collect(), ledger: ledger(&mut client) };
    assert!(other_way.ledger.len() > before.len());
    drop(client);
    drop(other);

    // And the first one goes on as well.
    archived.bundle();
    life(&mut archived, 9);
    archived.server.wait_until_archived();
    way = Way { timeline: 1, records: archived.records(1), ledger: ledger(&mut archived.server.client) };

    archived.see_exact(&way, Target::Immediate, true, n);
    archived.see_exact(&other_way, Target::End, true, n + 1);
    archived.see_exact(&way, Target::Time(fork.2), false, n + 2);
    for done in 0..n - 3 {
        let way = if random.below(2) == 0 { &way } else { &other_way };
        let target = way.draw(&random, first);
        if way.is_passed_by_nothing(&target) {
            let refused = archived.plan(target.clone(), true, Course::Timeline(timeline(way.timeline)));
            assert!(refused.is_err(), "{target:?} is after all commits of timeline {}", way.timeline);
            continue;
        }
        archived.see_exact(way, target, random.below(2) == 0, done);
    }
}

/// The landmarks that we find are those that the server's own program finds.
fn see_landmarks(archived: &Archived, way: &Way) {
    let (mut finder, mut found) = (LandmarkFinder::new(8192), Vec::new());
    let mut names: Vec<_> = archived.kept().archive.segments.into_iter().collect();
    names.sort();
    for name in names {
        let bytes = std::fs::read(archived.world.path("copies").join(name.to_string())).unwrap();
        let start = name.start(SegmentSize::new(1 << 20).unwrap()).unwrap();
        finder.look_through(start, &bytes, &mut |landmark| found.push(landmark));
    }
    let found: Vec<Record> = found
        .into_iter()
        .map(|landmark| match landmark.kind {
            LandmarkKind::Commit(xid) => {
                Record { at: landmark.at, xid: xid.unwrap(), what: What::Commit(landmark.time) }
            }
            LandmarkKind::RestorePoint(name) => {
                Record { at: landmark.at, xid: 0, what: What::RestorePoint(name) }
            }
        })
        .collect();
    let expected: Vec<Record> =
        way.records.iter().filter(|record| record.what != What::Other).cloned().collect();
    assert_eq!(found, expected);
    assert!(found.len() > 100);
}
