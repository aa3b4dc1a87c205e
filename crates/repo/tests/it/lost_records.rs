//! A snapshot record that is lost costs this snapshot and no other, and nothing takes it for a backup.

use crate::lab::{Lab, Process, eager, tree};
use crate::world::restore;
use hikae_model::{Outcome, SnapshotId};
use hikae_repo::forget::{ForgetOptions, ForgetRefused, ToForget, forget};
use hikae_repo::prune::PruneStop;
use hikae_repo::repair::{plan_repair, repair};
use hikae_repo::retention::{KeptBy, Retention};
use hikae_repo::verify::{VerifyOptions, VerifyReport, verify};
use hikae_repo::{RepoError, layout};
use hikae_store::Store;
use std::collections::BTreeSet;

/// What becomes of a record.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Removed,
    Flipped,
}

/// Two snapshots of one source, the newer of which has lost its record. Gives the older, the newer, and its record.
fn harmed(seed: u64, harm: Harm) -> (Lab, Process, SnapshotId, SnapshotId, Vec<u8>) {
    let lab = Lab::new(seed);
    let process = lab.open();
    let older = process.backup(&tree(1, 1)).unwrap();
    lab.cx.clock.advance(std::time::Duration::from_secs(3600));
    let newer = process.backup(&tree(2, 2)).unwrap();
    let key = layout::snapshot(newer);
    let record = lab.memory.get(&key).unwrap();
    match harm {
        Harm::Removed => lab.memory.remove(&key).unwrap(),
        Harm::Flipped => assert!(lab.memory.damage(&key, |bytes| bytes[60] ^= 4)),
    }
    (lab, process, older, newer, record)
}

fn report(process: &Process) -> VerifyReport {
    verify(&process.repo, &VerifyOptions::default(), &process.cx).unwrap()
}

fn mend(process: &Process) -> hikae_repo::repair::RepairReport {
    let plan = plan_repair(&process.repo, &report(process), &process.cx).unwrap();
    repair(&process.repo, &plan, &process.cx).unwrap()
}

fn keep_one() -> ToForget {
    let retention: Retention = serde_json::from_str(r#"{"last": 1}"#).unwrap();
    ToForget::Rule {
        source_name: None,
        retention: Box::new(retention),
        time_zone: jiff::tz::TimeZone::UTC,
        leading: Default::default(),
    }
}

#[test]
fn a_lost_record_costs_its_snapshot_alone_until_it_is_put_back() {
    for harm in [Harm::Removed, Harm::Flipped] {
        let (lab, process, older, newer, record) = harmed(1, harm);
        let newest = |process: &Process| process.repo.readable().unwrap().0.newest_first(None)[0].snapshot.id;
        assert_eq!(newest(&process), older);
        assert!(restore(&process.repo, older).is_ok());
        let found = report(&process);
        assert_eq!((found.outcome, found.hits.len()), (Outcome::Failed, 1), "{harm:?}: {:?}", found.problems);

        assert_eq!(mend(&process).n_set_aside, 1);
        // Another process needs only the log to know.
        let other = lab.open();
        assert_eq!(other.repo.state().newest_first(None)[0].snapshot.id, older);
        let found = report(&other);
        assert_eq!((found.outcome, found.notes.len()), (Outcome::Complete, 1), "{:?}", found.problems);
        assert!(plan_repair(&other.repo, &found, &other.cx).unwrap().is_empty());
        let only = VerifyOptions { snapshots: Some(vec![newer]), ..VerifyOptions::default() };
        assert_eq!(verify(&other.repo, &only, &other.cx).unwrap().outcome, Outcome::Failed);

        lab.memory.remove(&layout::snapshot(newer)).unwrap();
        lab.memory.put(&layout::snapshot(newer), &record).unwrap();
        assert_eq!(newest(&process), older, "it counts once the log says so");
        assert_eq!(mend(&process).n_taken_back, 1);
        assert_eq!(newest(&process), newer);
        assert_eq!((report(&process).outcome, report(&process).notes), (Outcome::Complete, Vec::new()));
        assert!(restore(&process.repo, newer).unwrap() == tree(2, 2));
    }
}

#[test]
fn a_snapshot_that_cannot_be_read_is_nobodys_last_good_one() {
    for (harm, set_aside) in [(Harm::Removed, false), (Harm::Flipped, false), (Harm::Removed, true)] {
        let (_lab, process, older, newer, _) = harmed(2, harm);
        if set_aside {
            mend(&process);
        }
        let (repo, cx) = (&process.repo, &process.cx);
        let kept = forget(repo, &keep_one(), "a test", ForgetOptions::default(), cx).unwrap();
        assert_eq!(kept.n, None, "the only good one stays: {:?}", kept.plan);
        let why = |id| &kept.plan.snapshots.iter().find(|planned| planned.id == id).unwrap().kept_by;
        assert!(why(older).contains(&KeptBy::NewestComplete));
        assert_eq!(*why(newer), BTreeSet::from([KeptBy::SetAside]));

        let last = ToForget::Snapshots(BTreeSet::from([older]));
        let refused = forget(repo, &last, "a test", ForgetOptions::default(), cx);
        assert!(matches!(refused, Err(RepoError::Forget(ForgetRefused::Last { .. }))), "{refused:?}");
        let lost = ToForget::Snapshots(BTreeSet::from([newer]));
        assert!(forget(repo, &lost, "a test", ForgetOptions::default(), cx).unwrap().n.is_some());
    }
}

#[test]
fn what_an_unreadable_record_needed_is_not_doomed() {
    for harm in [Harm::Removed, Harm::Flipped] {
        let (lab, process, older, newer, record) = harmed(3, harm);
        for _ in 0..2 {
            let stopped = process.prune(&eager());
            let lost = RepoError::Prune(PruneStop::RecordsLost { n: 1, first: newer });
            assert_eq!(stopped.unwrap_err().to_string(), lost.to_string());
            assert!(process.repo.follow().unwrap().doomed.is_empty());
            mend(&process);
        }
        // Only who lets it go lets go of what it needed.
        process.forget(newer).unwrap();
        assert!(process.prune(&eager()).unwrap().n.is_some());
        assert!(restore(&process.repo, older).is_ok());
        // Within the soft period even that can be taken back.
        lab.memory.remove(&layout::snapshot(newer)).unwrap();
        lab.memory.put(&layout::snapshot(newer), &record).unwrap();
        assert!(process.repo.undelete(&[newer]).unwrap().is_some());
        assert!(restore(&process.repo, newer).unwrap() == tree(2, 2));
    }
}
