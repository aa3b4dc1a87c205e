//! What nobody needs goes, what somebody needs stays, whatever happens in between.

use crate::lab::{Lab, Process, SOFT, eager, greedy, tree};
use crate::world::Tree;
use hikae_model::{IndexId, PackId, SessionId, SnapshotId, WriterId};
use hikae_repo::RepoError;
use hikae_repo::forget::ForgetRefused;
use hikae_repo::log::{Change, FrameName};
use hikae_repo::prune::{
    BlobCopy, DoomReason, Presence, PruneOptions, PruneStop, Survey, SurveyedFrame, SurveyedIndex,
    SurveyedPack, plan, plan_prune,
};
use hikae_store::Store;
use hikae_testkit::{Failure, Fault, Verb};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Bytes of all packs in the store.
fn stored_bytes(lab: &Lab) -> u64 {
    let mut bytes = 0;
    lab.memory.list("packs", &mut |object| bytes += object.bytes).unwrap();
    bytes
}

#[test]
fn a_second_prune_finds_nothing_to_do() {
    let lab = Lab::new(1);
    let process = lab.open();
    let ids: Vec<_> = (0..12).map(|n| process.backup(&tree(n, n / 4)).unwrap()).collect();
    for id in &ids[..9] {
        process.forget(*id).unwrap();
    }
    let report = process.prune(&eager()).unwrap();
    assert!(report.n.is_some() && report.n_packs_written > 0, "{report:?}");
    assert_eq!(lab.check().len(), 3);
    let again = process.prune(&eager()).unwrap();
    assert_eq!((again.n, again.plan.doomed.len()), (None, 0));
    assert_eq!(again.plan.totals.unused_bytes, 0);
}

/// Keeps D-8.
#[test]
fn what_was_doomed_is_removed_after_its_soft_period_and_not_before() {
    let lab = Lab::new(2);
    let process = lab.open();
    let first = process.backup(&tree(1, 1)).unwrap();
    process.backup(&tree(2, 2)).unwrap();
    process.forget(first).unwrap();
    let before = stored_bytes(&lab);
    let report = process.prune(&eager()).unwrap();
    lab.cx.clock.advance(SOFT - Duration::from_secs(1));
    let removal = process.remove().unwrap();
    assert_eq!((removal.n, removal.n_packs), (None, 0));
    assert!(removal.n_waiting > 0 && removal.next.is_some());
    lab.cx.clock.advance(Duration::from_secs(1));
    let removal = process.remove().unwrap();
    assert_eq!(removal.n_packs, report.plan.doomed.len());
    assert_eq!(stored_bytes(&lab) + report.plan.totals.freed_bytes, before);
    assert_eq!(process.remove().unwrap().n, None, "it is gone, and nothing is left to say");
    assert_eq!(lab.check().len(), 1);
}

#[test]
fn a_forgotten_snapshot_comes_back_until_its_soft_period_is_over() {
    let lab = Lab::new(3);
    let process = lab.open();
    let first = process.backup(&tree(1, 1)).unwrap();
    process.backup(&tree(2, 1)).unwrap();
    process.forget(first).unwrap();
    process.prune(&eager()).unwrap();
    process.repo.undelete(&[first]).unwrap();
    assert_eq!(lab.check()[&first], tree(1, 1));
    // The packs that it was rescued from go all the same.
    lab.cx.clock.advance(SOFT);
    process.remove().unwrap();
    assert_eq!(lab.check()[&first], tree(1, 1));
    // Again and again: no name of a pack ever comes back with it.
    for _ in 0..2 {
        process.forget(first).unwrap();
        process.prune(&eager()).unwrap();
        process.repo.undelete(&[first]).unwrap();
        lab.cx.clock.advance(SOFT);
        process.remove().unwrap();
        assert_eq!(lab.check()[&first], tree(1, 1));
    }
    process.forget(first).unwrap();
    process.prune(&greedy()).unwrap();
    process.remove().unwrap();
    let gone = process.repo.undelete(&[first]).unwrap_err();
    assert!(matches!(gone, RepoError::Forget(ForgetRefused::Unknown { .. })), "{gone:?}");
    assert_eq!(lab.check().len(), 1);
}

#[test]
fn nothing_is_doomed_without_a_snapshot_unless_told() {
    let lab = Lab::new(4);
    let process = lab.open();
    let only = process.backup(&tree(1, 1)).unwrap();
    process.forget(only).unwrap();
    let careful = PruneOptions { even_without_snapshots: false, ..eager() };
    let stopped = process.prune(&careful).unwrap_err();
    assert!(matches!(stopped, RepoError::Prune(PruneStop::NoSnapshots { .. })), "{stopped:?}");
    assert!(process.repo.follow().unwrap().doomed.is_empty());
    process.prune(&greedy()).unwrap();
    process.remove().unwrap();
    assert_eq!(stored_bytes(&lab), 0);
}

#[test]
fn a_missing_pack_stops_prune_before_it_dooms_anything() {
    let lab = Lab::new(5);
    let process = lab.open();
    let ids: Vec<_> = (0..12).map(|n| process.backup(&tree(n, n)).unwrap()).collect();
    process.forget(ids[0]).unwrap();
    let pack = process.repo.index().unwrap().packs().last().unwrap().id;
    lab.memory.remove(&hikae_repo::layout::pack(pack)).unwrap();
    let stopped = process.prune(&eager()).unwrap_err();
    let is_damage = stopped.is_damage();
    let lost = matches!(stopped, RepoError::Prune(PruneStop::BlobsLost { .. }));
    assert!(lost || is_damage, "{stopped:?}");
    assert!(process.repo.follow().unwrap().doomed.is_empty());
}

#[test]
fn a_rotten_pack_is_not_copied_under_a_name_that_vouches_for_it() {
    let lab = Lab::new(6);
    let process = lab.open();
    let first = process.backup(&tree(1, 1)).unwrap();
    process.backup(&tree(2, 1)).unwrap();
    process.forget(first).unwrap();
    let dry = plan(&process.repo, &eager(), &process.cx).unwrap();
    let emptied = dry.doomed.iter().find(|doom| doom.reason == DoomReason::Emptied).unwrap().pack;
    let offset = *dry.copies.iter().find(|copy| copy.pack == emptied).unwrap().offsets.first().unwrap();
    lab.memory.damage(&hikae_repo::layout::pack(emptied), |bytes| bytes[offset as usize] ^= 1);
    let stopped = process.prune(&eager()).unwrap_err();
    assert!(stopped.is_damage(), "{stopped:?}");
    assert!(process.repo.follow().unwrap().doomed.is_empty());
}

#[test]
fn young_orphans_wait_and_old_ones_go_by_the_stores_clock() {
    let lab = Lab::new(7);
    let process = lab.open();
    process.backup(&tree(1, 1)).unwrap();
    let dying = lab.open_faulty().unwrap();
    lab.faulty.inject_always(Verb::Put, "index", Fault::refused());
    dying.backup(&tree(2, 2)).unwrap_err();
    let options = PruneOptions { orphan_grace: Duration::from_secs(86_400), ..eager() };
    let report = process.prune(&options).unwrap();
    assert!(report.plan.doomed.is_empty() && report.plan.totals.n_young_orphans > 0, "{}", report.plan);
    lab.cx.clock.advance(Duration::from_secs(86_400));
    let report = process.prune(&options).unwrap();
    assert!(!report.plan.doomed.is_empty());
    assert!(report.plan.doomed.iter().all(|doom| doom.reason == DoomReason::Orphan));
    assert_eq!(lab.check().len(), 1);
}

#[test]
fn a_clock_that_is_wrong_dooms_and_removes_nothing() {
    let lab = Lab::new(8);
    let process = lab.open();
    let first = process.backup(&tree(1, 1)).unwrap();
    process.backup(&tree(2, 2)).unwrap();
    process.forget(first).unwrap();
    process.prune(&eager()).unwrap();
    for years in [-10_i64, 10] {
        let wrong = hikae_testkit::test_cx();
        let seconds = lab.cx.now().as_second() + years * 365 * 86_400;
        wrong.clock.set(jiff::Timestamp::from_second(seconds).unwrap());
        let broken = Lab { memory: lab.memory.clone(), faulty: lab.faulty.clone(), cx: wrong };
        let process = broken.open();
        for result in [process.prune(&eager()).map(drop), process.remove().map(drop)] {
            assert!(matches!(result, Err(RepoError::ClocksDiffer { .. })), "{years} years: {result:?}");
        }
    }
    assert_eq!(lab.check().len(), 1);
}

#[test]
fn a_plan_survives_being_written_as_json_and_is_told_in_words() {
    let lab = Lab::new(9);
    let process = lab.open();
    let first = process.backup(&tree(1, 1)).unwrap();
    process.backup(&tree(2, 1)).unwrap();
    process.forget(first).unwrap();
    let plan = plan(&process.repo, &eager(), &process.cx).unwrap();
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<hikae_repo::prune::PrunePlan>(&json).unwrap(), plan);
    let text = plan.to_string();
    assert!(text.contains("1 snapshots need") && text.contains("doom "), "{text}");
    assert!(process.repo.follow().unwrap().doomed.is_empty(), "a plan changes nothing");
}

#[test]
fn frames_that_were_copied_for_a_plan_that_lost_serve_the_next() {
    let lab = Lab::new(13);
    let process = lab.open();
    let first = process.backup(&tree(1, 1)).unwrap();
    process.backup(&tree(2, 1)).unwrap();
    process.forget(first).unwrap();
    let alone = lab.fork().open().prune(&eager()).unwrap();
    let (other, once) = (lab.same(), std::sync::Once::new());
    lab.faulty.before_each(move |call| {
        if call.verb == Verb::Put && call.key.starts_with("log") {
            once.call_once(|| {
                // An entry that changes nothing prune looks at, and still takes the number.
                let repo = other.open().repo;
                let same = repo.state().recipients.clone();
                repo.append(&mut |_| Ok(Change::Recipients(same.clone()))).unwrap();
            });
        }
    });
    let report = lab.open_faulty().unwrap().prune(&eager()).unwrap();
    assert_eq!((alone.tries, report.tries), (1, 2));
    assert!(alone.n_packs_written > 0);
    assert_eq!(report.written_bytes, alone.written_bytes);
    assert_eq!(lab.check().len(), 1);
    assert_eq!(lab.open().prune(&eager()).unwrap().n, None);
}

#[test]
fn no_more_is_copied_than_allowed_and_the_next_prune_goes_on() {
    let lab = Lab::new(14);
    let process = lab.open();
    let ids: Vec<_> = (0..6).map(|n| process.backup(&tree(n, n / 2)).unwrap()).collect();
    ids.iter().step_by(2).for_each(|id| process.forget(*id).unwrap());
    let whole = plan(&process.repo, &eager(), &process.cx).unwrap().totals.copied_bytes;
    let limit = whole / 2;
    let careful = PruneOptions { max_copied_bytes: Some(limit), small_packs: 1000, ..eager() };
    for _ in 0..10 {
        let report = process.prune(&careful).unwrap();
        assert!(report.plan.totals.copied_bytes <= limit);
        lab.check();
    }
    assert_eq!(plan(&process.repo, &careful, &process.cx).unwrap().totals.unused_bytes, 0);
}

#[test]
fn what_is_gone_from_the_store_leaves_the_cache_too() {
    let lab = Lab::new(15);
    let cache = tempfile::tempdir().unwrap();
    let world = crate::world::World {
        store: std::sync::Arc::new(lab.memory.clone()),
        key: hikae_repo::keys::Secret32::new(crate::world::KEY),
        cx: (*lab.cx).clone(),
        repo: lab.open().repo,
        cache,
    };
    let repo = world.open().unwrap();
    let mut ids = Vec::new();
    for n in 0..7 {
        ids.push(
            crate::world::backup(&repo, &tree(n, n), hikae_model::Cut::Files, None).unwrap().snapshots[0],
        );
    }
    let process = lab.open();
    ids[1..].iter().for_each(|id| process.forget(*id).unwrap());
    process.prune(&greedy()).unwrap();
    process.remove().unwrap();
    repo.follow().unwrap();
    repo.index().unwrap();
    let files =
        std::fs::read_dir(world.cache.path().join(repo.header().core.repository.to_string()).join("index"));
    assert_eq!(files.unwrap().count(), repo.state().indexes.len());
}

#[test]
fn an_orphan_is_not_a_copy() {
    let lab = Lab::new(12);
    // A backup dies before its index; what it stored is stored again by the next, together with more.
    let dying = lab.open_faulty().unwrap();
    lab.faulty.inject_always(Verb::Put, "index", Fault::refused());
    let few: Tree = tree(1, 1).into_iter().filter(|(path, _)| path.starts_with("shared")).collect();
    dying.backup(&few).unwrap_err();
    let process = lab.open();
    let more = process.backup(&tree(1, 1)).unwrap();
    let id = process.backup(&few).unwrap();
    process.forget(more).unwrap();
    process.prune(&PruneOptions { orphan_grace: SOFT, ..greedy() }).unwrap();
    assert_eq!(lab.check()[&id], few);
    process.prune(&greedy()).unwrap();
    process.remove().unwrap();
    assert_eq!(lab.check()[&id], few);
}

/// A survey in which each pack is `(group, blobs)`, one frame of 1000 bytes a pack, its blobs of 100 each.
fn survey(packs: &[(u16, &[u32])]) -> Survey {
    let mut survey = Survey { n_snapshots: 1, ..Survey::default() };
    let n_blobs = packs.iter().flat_map(|(_, blobs)| *blobs).max().map_or(0, |last| last + 1);
    survey.blobs = (0..n_blobs).map(|blob| [blob as u8; 16]).collect();
    for (number, (group, blobs)) in packs.iter().enumerate() {
        let name = |byte| [byte; 32];
        survey.packs.push(SurveyedPack {
            id: PackId::from_bytes(name(number as u8)),
            bytes: 1100,
            presence: Presence::Good,
        });
        survey.indexes.push(SurveyedIndex {
            id: IndexId::from_bytes(name(number as u8)),
            voucher: WriterId::from_bytes(name(*group as u8)),
            group: *group,
            is_trusted: true,
            n_blobs: 10,
            packs: vec![number as u32],
        });
        survey.frames.push(SurveyedFrame {
            pack: number as u32,
            index: number as u32,
            name: FrameName { session: SessionId::from_bytes([0; 16]), number: number as u32 },
            offset: 0,
            stored_bytes: 1000,
            plain_bytes: 1000,
        });
        let copies = blobs.iter().map(|blob| BlobCopy { blob: *blob, frame: number as u32, bytes: 100 });
        survey.copies.extend(copies);
    }
    survey
}

fn dead_packs(packs: &[(u16, &[u32])]) -> Vec<PackId> {
    let plan = plan_prune(&survey(packs), &PruneOptions::default()).unwrap();
    plan.doomed.iter().map(|doom| doom.pack).collect()
}

#[test]
fn each_trust_group_keeps_a_copy_of_its_own() {
    assert_eq!(dead_packs(&[(0, &[0, 1]), (1, &[0, 1])]), []);
    assert_eq!(dead_packs(&[(0, &[0, 1]), (0, &[0, 1])]), [PackId::from_bytes([1; 32])]);
}

#[test]
fn of_several_copies_that_one_stays_whose_frame_is_needed_most() {
    // Pack 0 has one needed blob of ten, pack 1 three: then pack 0 is needed no more.
    assert_eq!(dead_packs(&[(0, &[0]), (0, &[0, 1, 2])]), [PackId::from_bytes([0; 32])]);
}

#[test]
fn index_objects_of_two_vouchers_are_never_merged() {
    let options = PruneOptions { small_indexes: 2, ..PruneOptions::default() };
    let plan = plan_prune(&survey(&[(0, &[0]), (1, &[1])]), &options).unwrap();
    assert_eq!(plan.indexes, []);
    let plan = plan_prune(&survey(&[(0, &[0]), (1, &[1]), (0, &[2])]), &options).unwrap();
    let vouchers: BTreeSet<_> = plan.indexes.iter().map(|index| index.voucher).collect();
    assert_eq!((plan.indexes.len(), vouchers.len()), (2, 1));
}

#[test]
fn a_strangers_index_cannot_take_away_a_pack_or_make_good_for_a_lost_one() {
    // Group 1 says of pack 0 that it has another length, and has copies of its own of all that is in it.
    let mut lie = survey(&[(0, &[0, 1]), (1, &[0, 1]), (1, &[])]);
    lie.packs[2] = SurveyedPack { presence: Presence::OtherLength, bytes: 7, ..lie.packs[0].clone() };
    let plan = plan_prune(&lie, &PruneOptions::default()).unwrap();
    assert_eq!(plan.doomed, []);
    // Pack 0 is lost; what group 1 calls the same is not known to be.
    let mut lost = survey(&[(0, &[0, 1]), (1, &[0, 1])]);
    lost.packs[0].presence = Presence::Missing;
    let stopped = plan_prune(&lost, &PruneOptions::default()).unwrap_err();
    assert!(matches!(stopped, PruneStop::BlobsLost { n_blobs: 2, .. }), "{stopped:?}");
    // A writer that was distrusted can lose what it likes.
    lost.indexes[0].is_trusted = false;
    assert!(plan_prune(&lost, &PruneOptions::default()).is_ok());
}

#[test]
fn a_blob_without_a_good_copy_stops_the_plan() {
    for presence in [Presence::Missing, Presence::OtherLength, Presence::Damaged, Presence::Doomed] {
        let mut broken = survey(&[(0, &[0, 1]), (0, &[1])]);
        broken.packs[0].presence = presence;
        let stopped = plan_prune(&broken, &PruneOptions::default()).unwrap_err();
        assert!(matches!(stopped, PruneStop::BlobsLost { n_blobs: 1, .. }), "{presence:?}: {stopped:?}");
        // With another good copy it is the broken one that goes.
        let mut spared = survey(&[(0, &[0, 1]), (0, &[0, 1])]);
        spared.packs[0].presence = presence;
        let plan = plan_prune(&spared, &PruneOptions::default()).unwrap();
        assert!(plan.doomed.iter().all(|doom| doom.pack == spared.packs[0].id), "{presence:?}");
        assert!(plan.indexes.iter().any(|index| index.id == spared.indexes[0].id), "{presence:?}");
    }
}

/// What may happen to a repository.
#[derive(Clone, Debug)]
enum Step {
    Backup {
        shared: u64,
    },
    Forget {
        which: usize,
    },
    Undelete {
        which: usize,
    },
    Prune {
        soft: bool,
        copies: bool,
    },
    Remove,
    Wait {
        hours: u16,
    },
    Reopen,
    /// The other process goes on.
    Switch,
    /// The step, and the store goes away at this call; or the answer to that call is lost and then the store
    /// goes away.
    Crash {
        at: usize,
        answer_lost: bool,
        step: Box<Step>,
    },
}

fn any_step() -> impl Strategy<Value = Step> {
    let whole = prop_oneof![
        4 => (0_u64..4).prop_map(|shared| Step::Backup { shared }),
        3 => any::<usize>().prop_map(|which| Step::Forget { which }),
        1 => any::<usize>().prop_map(|which| Step::Undelete { which }),
        3 => any::<(bool, bool)>().prop_map(|(soft, copies)| Step::Prune { soft, copies }),
        2 => Just(Step::Remove),
        1 => (0_u16..500).prop_map(|hours| Step::Wait { hours }),
        1 => Just(Step::Reopen),
        2 => Just(Step::Switch),
    ];
    prop_oneof![
        3 => whole.clone(),
        1 => (1_usize..60, any::<bool>(), whole)
            .prop_map(|(at, answer_lost, step)| Step::Crash { at, answer_lost, step: Box::new(step) }),
    ]
}

/// A repository and what we know of it.
struct Model {
    lab: Lab,
    process: Process,
    other: Process,
    trees: Vec<Tree>,
    /// Acknowledged and not forgotten.
    must: BTreeSet<SnapshotId>,
    /// Forgotten, as far as we know.
    forgotten: Vec<SnapshotId>,
}

impl Model {
    fn new() -> Self {
        let lab = Lab::new(0);
        let (process, other) = (lab.open_faulty().unwrap(), lab.open_faulty().unwrap());
        Self { lab, process, other, trees: Vec::new(), must: BTreeSet::new(), forgotten: Vec::new() }
    }

    /// Does a step, which may fail if it was told to crash.
    fn apply(&mut self, step: &Step, may_fail: bool) {
        let result = match step {
            Step::Backup { shared } => {
                let tree = tree(self.trees.len() as u64, *shared);
                self.trees.push(tree.clone());
                self.process.backup(&tree).map(|id| {
                    self.must.insert(id);
                })
            }
            Step::Forget { which } => {
                let known: Vec<_> = self.must.iter().copied().collect();
                if known.is_empty() {
                    return;
                }
                let id = known[which % known.len()];
                // Whether it happened, a lost answer does not tell: from here on it may be either.
                self.must.remove(&id);
                self.forgotten.push(id);
                self.process.forget(id)
            }
            Step::Undelete { which } => {
                if self.forgotten.is_empty() {
                    return;
                }
                let id = self.forgotten[which % self.forgotten.len()];
                match self.process.repo.undelete(&[id]) {
                    Ok(_) => {
                        self.must.insert(id);
                    }
                    Err(error) if may_fail => drop(error),
                    // It may be too late for it.
                    Err(RepoError::PackGone { .. } | RepoError::Forget(ForgetRefused::Unknown { .. })) => {}
                    Err(error) => assert!(error.is_damage(), "{error:?}"),
                }
                Ok(())
            }
            Step::Prune { soft, copies } => {
                let options = if *soft { eager() } else { greedy() };
                let max_unused_percent = if *copies { 0 } else { 100 };
                self.process.prune(&PruneOptions { max_unused_percent, ..options }).map(drop)
            }
            Step::Remove => self.process.remove().map(drop),
            Step::Wait { hours } => {
                self.lab.cx.clock.advance(Duration::from_secs(u64::from(*hours) * 3600));
                Ok(())
            }
            Step::Reopen => self.lab.open_faulty().map(|process| self.process = process),
            Step::Switch => {
                std::mem::swap(&mut self.process, &mut self.other);
                Ok(())
            }
            Step::Crash { at, answer_lost, step } => {
                if *answer_lost {
                    self.lab.faulty.inject_at(*at, Fault::After(Failure::TimedOut));
                }
                self.lab.faulty.go_away_at(*at + usize::from(*answer_lost));
                self.apply(step, true);
                self.lab.faulty.heal();
                self.process = self.lab.open_faulty().unwrap();
                Ok(())
            }
        };
        assert!(may_fail || result.is_ok(), "{step:?}: {result:?}");
    }

    fn check(&self) {
        let restored = self.lab.check();
        for id in &self.must {
            assert!(restored.contains_key(id), "acknowledged {} is not there", id.short());
        }
        for (id, tree) in restored {
            let number: usize = std::str::from_utf8(&tree["number"]).unwrap().parse().unwrap();
            assert!(tree == self.trees[number], "{} restores to something else", id.short());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(40)))]

    /// Back up, forget, prune, remove, crash, in any order: what is listed restores to the byte.
    #[test]
    fn listed_snapshots_restore_exactly(steps in vec(any_step(), 1..25)) {
        let mut model = Model::new();
        for step in &steps {
            model.apply(step, false);
            model.check();
        }
    }
}

/// So many cases, or as many times more as `HIKAE_TEST_TIMES` says.
pub fn cases(n: u32) -> u32 {
    let times = std::env::var("HIKAE_TEST_TIMES").ok().and_then(|text| text.parse::<u32>().ok());
    n * times.unwrap_or(1)
}

#[test]
fn garbage_is_gone_after_two_prunes_and_their_soft_periods() {
    let lab = Lab::new(10);
    let process = lab.open();
    let mut ids = BTreeMap::new();
    for n in 0..6 {
        ids.insert(n, process.backup(&tree(n, 0)).unwrap());
    }
    for n in 0..5 {
        process.forget(ids[&n]).unwrap();
    }
    for _ in 0..2 {
        process.prune(&eager()).unwrap();
        lab.cx.clock.advance(SOFT);
        process.remove().unwrap();
    }
    let fresh = Lab::new(11);
    fresh.open().backup(&tree(5, 0)).unwrap();
    let (left, needed) = (stored_bytes(&lab), stored_bytes(&fresh));
    assert!(left < needed + needed / 2, "{left} bytes are left where {needed} are needed");
}
