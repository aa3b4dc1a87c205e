//! Keeps BC-24: a prune lets log go, and everything that the window shows after it still comes back.

use super::exact::{Way, live};
use super::*;
use hikae_model::{SegmentSize, WalName};
use hikae_ops::forget::{ForgetOptions, Request};
use hikae_ops::prune::{KeepLog, PruneOptions, Pruned, prune};

impl Archived {
    fn forget(&self, id: SnapshotId) {
        let request = Request::of_snapshots([id], None);
        request.carry_out(&self.repo(), ForgetOptions::default(), &system_cx()).unwrap();
    }

    fn prune(&self, soft: Duration) -> Pruned {
        self.prune_keeping(soft, &KeepLog::default())
    }

    fn prune_keeping(&self, soft: Duration, keep: &KeepLog) -> Pruned {
        let options = PruneOptions { soft, ..PruneOptions::default() };
        let pruned = prune(&self.repo(), &options, keep, &system_cx()).unwrap();
        self.world.give_to_owner_of(self.server.cluster.directory());
        pruned
    }

    /// A life with a base backup at its beginning.
    fn live(&mut self, from: u32) {
        self.back_up();
        let Archived { server: Server { cluster, client, .. }, .. } = self;
        live(client, cluster, from, 24);
    }

    fn way(&mut self) -> Way {
        self.server.wait_until_archived();
        Way { timeline: 1, records: self.records(1), ledger: ledger(&mut self.server.client) }
    }
}

#[test]
fn log_goes_with_the_oldest_base_backup_and_all_that_the_window_shows_still_comes_back() {
    let Some(mut archived) = Archived::start() else { return };
    (0..3).for_each(|n| archived.live(3 * n));
    let way = archived.way();
    let before = archived.kept();
    let stop = |n: usize| before.bases.iter().find(|base| base.snapshot == archived.bases[n]).unwrap().stop;
    let (first, second) = (stop(0), stop(1));
    let all: Vec<WalName> = before.stored.keys().copied().collect();

    // Nothing goes that any base backup needs, but what came before the first one.
    let pruned = archived.prune(Duration::ZERO);
    let size = SegmentSize::new(1 << 20).unwrap();
    let is_before = |name: &WalName, place: Lsn| {
        name.segment().is_some_and(|segment| segment.start(size).unwrap().0 + size.bytes() <= place.0)
    };
    let left = |archived: &Archived| archived.kept().stored.keys().copied().collect::<Vec<_>>();
    let above = |place: Lsn| all.iter().filter(|name| !is_before(name, place)).copied().collect::<Vec<_>>();
    assert_eq!(left(&archived), above(first), "{:?}", pruned.log);
    assert_eq!(archived.kept().window, before.window);

    // What is forgotten can come back for a while, and so its log stays as long; brought back, it holds it.
    archived.forget(archived.bases[0]);
    let pruned = archived.prune(Duration::from_secs(1));
    let goes = pruned.log.clusters[0].goes.clone().unwrap();
    assert_eq!((goes.below, pruned.removed.n_log_files), (second, 0));
    assert_eq!(
        (left(&archived), goes.n_files as usize),
        (above(first), above(first).len() - above(second).len())
    );
    archived.repo().undelete(&[archived.bases[0]]).unwrap();
    let over = pruned.removed.next.unwrap();
    while system_cx().now() <= over {
        std::thread::sleep(Duration::from_millis(50));
    }
    archived.prune(Duration::ZERO);
    assert_eq!(left(&archived), above(first), "the log of one that came back is gone");
    let early = way.commits(first)[3];
    assert!(early.0 < second);
    archived.see_exact(&way, Target::Lsn(early.0), true, 0);

    archived.forget(archived.bases[0]);
    let pruned = archived.prune(Duration::ZERO);
    assert_eq!(pruned.removed.n_log_files, goes.n_files);
    assert_eq!(left(&archived), above(second));
    let window = archived.kept().window;
    let places: Vec<_> = window.intervals.iter().map(|interval| (interval.from, interval.to)).collect();
    assert_eq!((places, window.gaps.len()), (vec![(second, before.window.intervals[0].to)], 0));
    says(archived.plan(Target::Lsn(early.0), true, Course::Current), &["cannot be reached"]);
    says(archived.plan(Target::Time(early.2), true, Course::Current), &["before the oldest base backup"]);
    let commits = way.commits(second);
    for (n, commit) in [commits[0], commits[commits.len() - 3]].iter().enumerate() {
        archived.see_exact(&way, Target::Lsn(commit.0), true, n + 1);
    }
    assert!(archived.prune(Duration::ZERO).log_entry.is_none(), "a second prune finds nothing to do");

    // Log that is kept for a time leads from the last base backup before it; the other one is there by itself.
    let config = "[repository.r]\nstore = '/r'\n[source.main]\nkind = 'postgresql-cluster'\nconnection = 'host=h'\n\
        [job.j]\nkeep_log = '1s'\n";
    let keep = KeepLog::of_config(&hikae_ops::config::parse(config, None).unwrap(), "r");
    let third = stop(2);
    let pruned = archived.prune_keeping(Duration::ZERO, &keep);
    assert_eq!(pruned.log.clusters[0].goes.as_ref().map(|goes| goes.n_alone), Some(1));
    assert_eq!(left(&archived), above(third));
    let window = archived.kept().window;
    let places: Vec<_> = window.intervals.iter().map(|interval| (interval.from, interval.to)).collect();
    assert_eq!(places, [(second, second), (third, before.window.intervals[0].to)]);
    assert_eq!(window.gaps, [], "what is not kept on purpose is no gap");
    archived.see_exact(&way, Target::End, true, 9);
}

/// The newest base backup is of the line that nobody goes on with.
#[test]
fn a_rule_leaves_the_base_backup_from_which_the_present_is_reached() {
    let Some(mut archived) = Archived::start() else { return };
    archived.live(0);
    let way = archived.way();
    let first = archived.kept().bases[0].stop;
    let fork = way.commits(first)[way.commits(first).len() / 2];
    let plan = archived.plan(Target::Lsn(fork.0), true, Course::Current).unwrap();
    archived.recover(&plan, "other").unwrap();
    archived.live(3);
    archived.server.wait_until_archived();
    let other = archived.open("other", &[("archive_mode", "on")]);
    let mut client = enter(&other);
    live(&mut client, &other, 6, 24);
    wait_until_archived(&mut client);
    let on_it = ledger(&mut client);
    drop(client);
    drop(other);

    let config = "[repository.r]\nstore = '/r'\n[source.main]\nkind = 'postgresql-cluster'\nconnection = 'host=h'\n\
        [job.j]\nretention = { last = 1 }\n";
    let config = hikae_ops::config::parse(config, None).unwrap();
    let rule = config.jobs["j"].retention.clone().unwrap();
    let request = Request::of_rule(Some("main"), rule, &jiff::tz::TimeZone::UTC);
    let forgotten = request.carry_out(&archived.repo(), ForgetOptions::default(), &system_cx()).unwrap();
    let gone: Vec<_> = forgotten.plan.forgotten().map(|snapshot| snapshot.id).collect();
    assert!(!gone.contains(&archived.bases[0]), "the way to the present is gone: {:?}", forgotten.plan);
    archived.prune(Duration::ZERO);
    let end = archived.plan(Target::End, true, Course::Latest).unwrap();
    assert_eq!((end.snapshot, end.timeline), (archived.bases[0], 2));
    archived.recover(&end, "recovered").unwrap();
    assert_eq!(ledger(&mut enter(&archived.open("recovered", &[]))), on_it);
}
