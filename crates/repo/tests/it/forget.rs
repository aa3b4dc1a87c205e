//! Forgetting never takes the last good snapshot of a source, whatever it is asked.

use crate::lab::{Lab, tree};
use hikae_model::{EvidenceId, SnapshotId};
use hikae_repo::RepoError;
use hikae_repo::forget::{ForgetOptions, ForgetRefused, ToForget, forget, plan_forget};
use hikae_repo::log::{EvidenceRef, SnapshotRef};
use hikae_repo::retention::{KeptBy, Retention};
use hikae_repo::state::{SnapshotState, State};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeSet;

const NOW: i64 = 1_767_225_600;

/// One snapshot of a made-up state.
#[derive(Clone, Copy, Debug)]
struct Made {
    source: u8,
    hours_ago: i64,
    complete: bool,
    verified: bool,
}

fn id(number: usize) -> SnapshotId {
    SnapshotId::from_bytes([number as u8; 32])
}

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn state(made: &[Made]) -> State {
    let mut state = (*Lab::new(40).open().repo.state()).clone();
    add(&mut state, made);
    state
}

fn add(state: &mut State, made: &[Made]) {
    state.snapshots.clear();
    for (number, made) in made.iter().enumerate() {
        let snapshot = SnapshotRef {
            id: id(number),
            source: format!("source-{}", made.source),
            moment: Timestamp::from_second(NOW - made.hours_ago * 3600).unwrap(),
            complete: made.complete,
        };
        let evidence =
            EvidenceRef { id: EvidenceId::from_bytes([0; 32]), snapshot: id(number), passed: true };
        let evidence = made.verified.then_some(evidence);
        state.snapshots.insert(id(number), SnapshotState { snapshot, n: number as u64, evidence });
    }
}

fn rule(json: &str) -> ToForget {
    let retention: Retention = serde_json::from_str(json).unwrap();
    ToForget::Rule {
        source_name: None,
        retention: Box::new(retention),
        time_zone: TimeZone::UTC,
        leading: Default::default(),
    }
}

fn only(numbers: &[usize]) -> ToForget {
    ToForget::Snapshots(numbers.iter().map(|number| id(*number)).collect())
}

const GOOD: Made = Made { source: 0, hours_ago: 0, complete: true, verified: false };

/// Keeps E-1, MK-5, EC-19.
#[test]
fn the_newest_verified_and_the_newest_complete_one_stay_until_told_otherwise() {
    let state = state(&[
        Made { hours_ago: 300, verified: true, ..GOOD },
        Made { hours_ago: 200, ..GOOD },
        Made { hours_ago: 100, complete: false, ..GOOD },
    ]);
    let plan = |what: &ToForget, options| plan_forget(&state, what, options, now());
    let careful = ForgetOptions::default();
    for (number, why) in [(0, KeptBy::NewestVerified), (1, KeptBy::NewestComplete)] {
        let refused = plan(&only(&[number]), careful).unwrap_err();
        assert!(
            matches!(refused, ForgetRefused::Last { id: it, why: w, .. } if it == id(number) && w == why)
        );
        let told = ForgetOptions { even_last: true, ..careful };
        assert_eq!(plan(&only(&[number]), told).unwrap().forgotten().count(), 1);
    }
    assert_eq!(plan(&only(&[2]), careful).unwrap().forgotten().count(), 1);
    // A rule does not ask for them, it simply keeps them, and says why.
    let plan = plan(&rule(r#"{"last": 1}"#), careful).unwrap();
    let kept: Vec<_> = plan.snapshots.iter().map(|snapshot| snapshot.is_kept()).collect();
    assert_eq!(kept, [true, true, true]);
    assert!(plan.snapshots[2].kept_by.contains(&KeptBy::NewestVerified));
    assert!(plan.to_string().contains("newest of its source that a drill has restored"), "{plan}");
}

#[test]
fn forgetting_much_at_once_needs_a_second_look() {
    let made: Vec<_> = (0..40).map(|n| Made { hours_ago: n, ..GOOD }).collect();
    let state = state(&made);
    let refused = plan_forget(&state, &rule(r#"{"last": 5}"#), ForgetOptions::default(), now()).unwrap_err();
    assert_eq!(refused, ForgetRefused::Many { n: 35, n_snapshots: 40 });
    let told = ForgetOptions { even_many: true, ..ForgetOptions::default() };
    let plan = plan_forget(&state, &rule(r#"{"last": 5}"#), told, now()).unwrap();
    assert_eq!(plan.forgotten().count(), 35);
    // Ten are never many.
    let few = plan_forget(&state, &rule(r#"{"last": 30}"#), ForgetOptions::default(), now()).unwrap();
    assert_eq!(few.forgotten().count(), 10);
}

#[test]
fn a_snapshot_that_is_not_there_is_named_and_nothing_is_forgotten() {
    let lab = Lab::new(41);
    let process = lab.open();
    let first = process.backup(&tree(1, 1)).unwrap();
    process.backup(&tree(2, 1)).unwrap();
    let what = ToForget::Snapshots([first, id(7)].into());
    let refused = forget(&process.repo, &what, "a test", ForgetOptions::default(), &process.cx).unwrap_err();
    assert!(matches!(refused, RepoError::Forget(ForgetRefused::Unknown { id: it }) if it == id(7)));
    assert_eq!(lab.check().len(), 2);
}

#[test]
fn two_that_forget_at_once_do_not_take_the_last_together() {
    // Each would leave one of the two complete snapshots, and not the same one.
    let lab = Lab::new(42);
    let process = lab.open();
    let ids = [1, 2].map(|n| process.backup(&tree(n, 1)).unwrap());
    let slow = lab.open_faulty().unwrap();
    let (newest, older) = {
        let state = process.repo.follow().unwrap();
        let newest = state.newest_first(None)[0].snapshot.id;
        (newest, ids.into_iter().find(|id| *id != newest).unwrap())
    };
    let told = ForgetOptions { even_last: true, ..ForgetOptions::default() };
    let stopped = lab.faulty.stop_before(hikae_testkit::Verb::Put, "log", 1);
    std::thread::scope(|scope| {
        let careful = scope.spawn(|| {
            let what = ToForget::Snapshots([older].into());
            forget(&slow.repo, &what, "a test", ForgetOptions::default(), &slow.cx)
        });
        stopped.wait();
        let what = ToForget::Snapshots([newest].into());
        forget(&process.repo, &what, "a test", told, &process.cx).unwrap();
        stopped.release();
        let refused = careful.join().unwrap().unwrap_err();
        assert!(matches!(refused, RepoError::Forget(ForgetRefused::Last { .. })), "{refused:?}");
    });
    assert_eq!(lab.check().into_keys().collect::<Vec<_>>(), [older]);
}

#[test]
fn a_rule_that_keeps_everything_puts_no_entry() {
    let lab = Lab::new(43);
    let process = lab.open();
    process.backup(&tree(1, 1)).unwrap();
    let n = process.repo.state().n;
    let report =
        forget(&process.repo, &rule(r#"{"daily": 3}"#), "a test", ForgetOptions::default(), &process.cx)
            .unwrap();
    assert_eq!((report.n, process.repo.follow().unwrap().n), (None, n));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::prune::cases(300)))]

    /// F-2: of every source the newest verified, the newest complete and the newest snapshot that is both stay,
    /// whatever the rule.
    #[test]
    fn no_rule_takes_the_last_good_snapshot_of_a_source(
        made in vec((0_u8..3, -50_i64..3_000, any::<bool>(), prop::bool::weighted(0.2)), 0..40),
        daily in 1_u32..5, weekly in 1_u32..3,
    ) {
        let made: Vec<_> = made
            .into_iter()
            .map(|(source, hours_ago, complete, verified)| Made { source, hours_ago, complete, verified })
            .collect();
        thread_local!(static EMPTY: State = state(&[]));
        let mut state = EMPTY.with(State::clone);
        add(&mut state, &made);
        let what = rule(&format!(r#"{{"daily": {daily}, "weekly": {weekly}}}"#));
        let options = ForgetOptions { even_many: true, ..ForgetOptions::default() };
        let plan = plan_forget(&state, &what, options, now()).unwrap();
        let gone: BTreeSet<_> = plan.forgotten().map(|snapshot| snapshot.id).collect();
        prop_assert_eq!(plan.snapshots.len(), made.len());
        for source in 0..3 {
            let of_source = |is_good: &dyn Fn(&Made) -> bool| {
                let of_source = (0..made.len()).filter(|at| made[*at].source == source && is_good(&made[*at]));
                of_source.filter(|at| made[*at].hours_ago >= 0).min_by_key(|at| made[*at].hours_ago)
            };
            let verified: fn(&Made) -> bool = |made| made.verified;
            for is_good in [verified, |made| made.complete, |made| made.complete && made.verified] {
                if let Some(newest) = of_source(&is_good) {
                    let rivals = (0..made.len()).filter(|at| {
                        made[*at].source == source
                            && is_good(&made[*at])
                            && made[*at].hours_ago == made[newest].hours_ago
                    });
                    prop_assert!(rivals.into_iter().any(|at| !gone.contains(&id(at))));
                }
            }
        }
    }
}
