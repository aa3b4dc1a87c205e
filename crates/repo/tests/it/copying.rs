//! Copies: what is in one repository comes into another of its family, whole or not at all.

use crate::lab::{Lab, SOFT, greedy, tree};
use crate::world::{KEY, Tree, World, noise, restore};
use hikae_model::{BlobId, Cut, Outcome, PackId, SnapshotId, SystemId, WalName};
use hikae_repo::copy::{CopyReport, LetGo, Matched, completeness, copy, heal};
use hikae_repo::keys::{Secret32, Signer};
use hikae_repo::log::{Change, Enrol, Rights};
use hikae_repo::pack::Footer;
use hikae_repo::prune::PruneOptions;
use hikae_repo::put_back::put_back;
use hikae_repo::repair::{plan_repair, repair};
use hikae_repo::slot::{Unlock, Wrap};
use hikae_repo::verify::{VerifyOptions, VerifyReport, verify};
use hikae_repo::wal::WalArchive;
use hikae_repo::{InitOptions, Repo, RepoError, layout};
use hikae_store::{MemoryStore, ObjectKey, Store};
use hikae_testkit::{Call, Fault, FaultyStore, Verb};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A repository like another, opened by the same key file.
fn like(world: &World) -> World {
    let (store, cache) = (Arc::new(MemoryStore::new()), tempfile::tempdir().unwrap());
    let key = Secret32::new(KEY);
    let options = InitOptions { like: Some(&world.repo), ..InitOptions::opened_by(Wrap::KeyFile(&key)) };
    let new = Repo::init(store.clone(), &options, cache.path(), &world.cx).unwrap();
    World { store, key: Secret32::new(KEY), cache, cx: world.cx.clone(), repo: Arc::new(new.repo) }
}

#[test]
fn a_repository_like_another_shares_its_family_recipients_and_writers_and_is_another() {
    let world = World::in_memory();
    let recipient = age::x25519::Identity::generate().to_public().to_string();
    let mut recipients = world.repo.state().recipients.clone();
    recipients.push(recipient);
    world.repo.append(&mut |_| Ok(Change::Recipients(recipients.clone()))).unwrap();
    let enrol = |seed| Enrol {
        writer: Signer::from_seed(&Secret32::new([seed; 32])).id(),
        rights: Rights::WRITE.0,
        group: "host".to_owned(),
        label: "a host".to_owned(),
        sources: Some(vec!["tree".to_owned()]),
    };
    let (trusted, distrusted) = (enrol(7), enrol(8));
    for enrol in [&trusted, &distrusted] {
        world.repo.append(&mut |_| Ok(Change::Enrol(enrol.clone()))).unwrap();
    }
    world.repo.append(&mut |_| Ok(Change::Distrust(distrusted.writer))).unwrap();

    let second = like(&world);
    let (ours, theirs) = (&world.repo.header().core, &second.repo.header().core);
    assert_eq!((ours.family, ours.root), (theirs.family, theirs.root));
    assert_ne!(ours.repository, theirs.repository);
    let (ours, theirs) = (world.repo.follow().unwrap(), second.repo.follow().unwrap());
    assert_eq!(theirs.recipients, recipients);
    assert_eq!(ours.writers, theirs.writers);
    assert!(theirs.snapshots.is_empty());
    // It is used as any other, and the entries of one are none of the other's.
    let tree = [("a".to_owned(), noise(1, 2000))].into();
    let id = second.backup(&tree, Cut::Files).unwrap().snapshots[0];
    assert_eq!(second.restore(id).unwrap(), tree);
    assert!(world.repo.snapshot(id).is_err());
}

#[test]
fn who_is_no_owner_makes_no_repository_of_the_family() {
    let (store, cache) = (Arc::new(MemoryStore::new()), tempfile::tempdir().unwrap());
    let (key, cx) = (Secret32::new(KEY), hikae_testkit::system_cx());
    let options = InitOptions { write_only: true, ..InitOptions::opened_by(Wrap::KeyFile(&key)) };
    drop(Repo::init(store.clone(), &options, cache.path(), &cx).unwrap());
    let unlock = Unlock::KeyFile(Secret32::new(KEY));
    let host = Repo::open(store, unlock, Vec::new(), cache.path(), &cx).unwrap();
    let second = Arc::new(MemoryStore::new());
    let options = InitOptions { like: Some(&host), ..InitOptions::opened_by(Wrap::KeyFile(&key)) };
    let made = Repo::init(second.clone(), &options, cache.path(), &cx);
    assert!(matches!(made, Err(RepoError::NoRight { .. })));
    assert!(second.keys().is_empty(), "nothing was written");
}

/// Two repositories of one family over stores that can fail, on one clock.
struct Pair {
    from: Lab,
    to: Lab,
}

impl Pair {
    fn new(seed: u64) -> Self {
        let from = Lab::new(seed);
        let memory = MemoryStore::with_clock(from.cx.clock.clone());
        let (key, cache, owner) = (Secret32::new(KEY), tempfile::tempdir().unwrap(), from.open());
        let options = InitOptions { like: Some(&owner.repo), ..InitOptions::opened_by(Wrap::KeyFile(&key)) };
        Repo::init(Arc::new(memory.clone()), &options, cache.path(), &from.cx).unwrap();
        let to = Lab { faulty: FaultyStore::new(memory.clone()), memory, cx: from.cx.clone() };
        Self { from, to }
    }

    /// The same two as they are now, in stores of their own.
    fn fork(&self) -> Self {
        Self { from: self.from.fork(), to: self.to.fork() }
    }

    /// Copies all that the source lists, past all faults.
    fn copy_all(&self) -> CopyReport {
        self.copy_these(&self.from.open().snapshots())
    }

    fn copy_these(&self, ids: &[SnapshotId]) -> CopyReport {
        let (from, to) = (self.from.open(), self.to.open());
        copy(&from.repo, &to.repo, ids, &self.from.cx).unwrap()
    }
}

/// Sees that a repository is right to the last byte.
#[track_caller]
fn verified(lab: &Lab) {
    let process = lab.open();
    let report =
        verify(&process.repo, &VerifyOptions { read_data: true, ..VerifyOptions::default() }, &process.cx);
    let report = report.unwrap();
    assert_eq!(report.outcome, Outcome::Complete, "{:?}", report.problems);
}

fn packs(lab: &Lab) -> BTreeSet<ObjectKey> {
    lab.memory.keys().into_iter().filter(|key| key.is_below("packs")).collect()
}

/// Keeps MK-71.
#[test]
fn a_copy_has_the_same_snapshots_in_the_same_packs_and_a_second_brings_what_is_new() {
    let pair = Pair::new(1);
    let source = pair.from.open();
    let first = source.backup(&tree(1, 1)).unwrap();
    let second = source.backup(&tree(2, 1)).unwrap();
    let report = pair.copy_all();
    assert_eq!(report.copied.iter().map(|one| one.id).collect::<BTreeSet<_>>(), [first, second].into());
    assert!(report.left.is_empty() && report.damaged.is_empty());
    assert_eq!(packs(&pair.to), packs(&pair.from), "each moved whole, under its name");
    assert_eq!(pair.to.check(), pair.from.check());
    verified(&pair.to);

    let third = source.backup(&tree(3, 1)).unwrap();
    let before = pair.to.memory.history().len();
    let report = pair.copy_all();
    assert_eq!(report.copied.iter().map(|one| one.id).collect::<Vec<_>>(), [third]);
    let new = packs(&pair.from).len() - 2 * 2;
    assert_eq!((report.n_packs as usize, report.n_packs_in_part), (new, 0), "and nothing twice");
    // Packs, one index object, one record, one entry.
    assert_eq!(pair.to.memory.history().len() - before, new + 3);
    assert_eq!(pair.to.check(), pair.from.check());

    let before = pair.to.memory.history().len();
    let report = pair.copy_all();
    assert!(
        report.log_entry.is_none() && pair.to.memory.history().len() == before,
        "nothing is written for nothing"
    );
    verified(&pair.to);
}

#[test]
fn a_host_that_opens_no_content_copies() {
    let pair = Pair::new(2);
    let id = pair.from.open().backup(&tree(1, 1)).unwrap();
    let host = Signer::from_seed(&Secret32::new([9; 32]));
    let group = "owner".to_owned();
    let enrol =
        Enrol { writer: host.id(), rights: Rights::WRITE.0, group, label: "host".to_owned(), sources: None };
    pair.to.open().repo.append(&mut |_| Ok(Change::Enrol(enrol.clone()))).unwrap();
    let as_host = |lab: &Lab| lab.open_as(&host, Vec::new());
    let (from, to) = (as_host(&pair.from), as_host(&pair.to));
    assert!(!from.repo.contents().has_identity() && restore(&from.repo, id).is_err());
    let report = copy(&from.repo, &to.repo, &[id], &pair.from.cx).unwrap();
    assert_eq!(report.copied.len(), 1);
    assert_eq!(pair.to.check(), pair.from.check());
    verified(&pair.to);
}

/// Keeps B-9.
#[test]
fn damage_is_never_copied_and_takes_nothing_with_it_but_what_needs_it() {
    let pair = Pair::new(3);
    let source = pair.from.open();
    let ids = [1, 2, 3].map(|n| (source.backup(&tree(n, n)).unwrap(), packs(&pair.from)));
    let of_second: BTreeSet<_> = ids[1].1.difference(&ids[0].1).cloned().collect();
    for key in &of_second {
        for is_gone in [true, false] {
            let pair = pair.fork();
            let kept = pair.from.memory.get(key).unwrap();
            match is_gone {
                true => pair.from.memory.remove(key).unwrap(),
                false => assert!(pair.from.memory.damage(key, |bytes| bytes[7] ^= 1)),
            }
            let report = pair.copy_all();
            let copied: BTreeSet<_> = report.copied.iter().map(|one| one.id).collect();
            assert_eq!(copied, [ids[0].0, ids[2].0].into(), "{key}");
            assert_eq!(report.left.iter().map(|left| left.id).collect::<Vec<_>>(), [ids[1].0]);
            let named = report.damaged.iter().any(|(pack, _)| key.as_str().ends_with(&pack.to_string()));
            assert!(named || report.left[0].why.is_some(), "{key} is named");
            assert!(!pair.to.memory.keys().contains(key));
            verified(&pair.to);
            // Once the source is whole again, the rest follows.
            pair.from.memory.replace(key, &kept).unwrap();
            assert_eq!(pair.copy_all().copied.len(), 1);
            assert_eq!(pair.to.check().len(), 3);
        }
    }
}

/// Keeps C-3, RS-26.
#[test]
fn a_copy_that_dies_anywhere_leaves_nothing_half_and_the_next_goes_on() {
    let pair = Pair::new(4);
    for n in 1..3 {
        pair.from.open().backup(&tree(n, 1)).unwrap();
    }
    let wanted = pair.from.check();
    let run = |pair: &Pair, strike: &dyn Fn(&Pair)| {
        let (Ok(from), Ok(to)) = (pair.from.open_faulty(), pair.to.open_faulty()) else { panic!("it opens") };
        let ids = from.snapshots();
        strike(pair);
        copy(&from.repo, &to.repo, &ids, &pair.from.cx)
    };
    let count = pair.fork();
    run(&count, &|pair| pair.to.faulty.forget_calls()).unwrap();
    let n_calls = count.to.faulty.calls().len();
    assert!(n_calls > 8, "{n_calls}");
    for n in 1..=n_calls {
        for fault in [Fault::refused(), Fault::answer_lost()] {
            let pair = pair.fork();
            let ended = run(&pair, &|pair| pair.to.faulty.inject_at(n, fault.clone()));
            let there = pair.to.check();
            match ended {
                Ok(_) => assert_eq!(there, wanted, "call {n}"),
                Err(_) => assert!(
                    there.is_empty() || there == wanted,
                    "call {n}: {} of {}",
                    there.len(),
                    wanted.len()
                ),
            }
            let stored = packs(&pair.to);
            let next = pair.copy_all();
            assert_eq!(pair.to.check(), wanted, "call {n}");
            assert!(
                there.len() == wanted.len() || next.n_packs_there as usize == stored.len(),
                "call {n}: it goes on"
            );
            assert_eq!(packs(&pair.to), packs(&pair.from), "call {n}");
        }
        if n % 2 == 0 {
            continue;
        }
        let pair = pair.fork();
        drop(run(&pair, &|pair| pair.to.faulty.go_away_at(n)));
        pair.to.faulty.heal();
        pair.copy_all();
        assert_eq!(pair.to.check(), wanted, "gone away at call {n}");
    }
}

#[test]
fn what_the_target_let_go_comes_back_under_other_names() {
    let pair = Pair::new(5);
    let source = pair.from.open();
    let first = source.backup(&tree(1, 1)).unwrap();
    source.backup(&tree(2, 2)).unwrap();
    pair.copy_all();
    let target = pair.to.open();
    target.forget(first).unwrap();
    target.prune(&greedy()).unwrap();
    target.remove().unwrap();
    let gone: BTreeSet<_> = packs(&pair.from).difference(&packs(&pair.to)).cloned().collect();
    assert!(!gone.is_empty() && !target.repo.follow().unwrap().knows(first));
    let to = pair.to.open();
    let (moment, let_go) =
        (source.repo.snapshot(first).unwrap().record.moment, LetGo::read(&to.repo).unwrap());
    assert!(let_go.ever_had("tree", moment) && !let_go.ever_had("other", moment));
    // From a machine that remembers nothing, and from one that remembers.
    for _ in 0..2 {
        let report = copy(&source.repo, &to.repo, &[first], &pair.from.cx).unwrap();
        assert_ne!(report.copied[0].id, first);
        assert_eq!((report.n_packs, report.n_packs_in_part as usize), (0, gone.len()));
        assert!(packs(&pair.to).is_disjoint(&gone), "no name lives again");
        assert_eq!(restore(&to.repo, report.copied[0].id).unwrap(), tree(1, 1));
        verified(&pair.to);
        to.forget(report.copied[0].id).unwrap();
        to.prune(&greedy()).unwrap();
        to.remove().unwrap();
    }
}

#[test]
fn of_a_pack_of_which_little_is_wanted_only_that_moves() {
    let pair = Pair::new(6);
    let source = pair.from.open();
    let mut big: Tree = (0..12).map(|n| (format!("file-{n:02}"), noise(n, 900_000))).collect();
    source.backup(&big).unwrap();
    big.retain(|name, _| name == "file-03");
    let small = source.backup(&big).unwrap();
    let to = pair.to.open();
    let report = copy(&source.repo, &to.repo, &[small], &pair.from.cx).unwrap();
    assert_eq!(report.copied.len(), 1);
    assert!(report.n_packs_in_part > 0 && report.stored_bytes < 3 << 20, "{report:?}");
    assert_eq!(restore(&to.repo, small).unwrap(), big);
    verified(&pair.to);
}

#[test]
fn a_prune_of_the_target_beside_a_copy_takes_nothing_that_it_relies_on() {
    let pair = Pair::new(7);
    let source = pair.from.open();
    let first = source.backup(&tree(1, 1)).unwrap();
    pair.copy_all();
    source.backup(&tree(2, 1)).unwrap();
    // It found what the two share, and before its entry stands that is doomed.
    let pruner = pair.to.open();
    let copier = pair.to.open_faulty().unwrap();
    let once = AtomicBool::new(false);
    pair.to.faulty.before_each(move |call: &Call| {
        if call.verb == Verb::Put && call.key.starts_with("snapshots") && !once.swap(true, Ordering::Relaxed)
        {
            pruner.forget(first).unwrap();
            pruner.prune(&PruneOptions { soft: SOFT, ..greedy() }).unwrap();
        }
    });
    let ids: Vec<_> = source.snapshots().into_iter().filter(|id| *id != first).collect();
    copy(&source.repo, &copier.repo, &ids, &pair.from.cx).unwrap();
    let there = pair.to.check();
    assert_eq!(there.values().collect::<Vec<_>>(), [&tree(2, 1)]);
    verified(&pair.to);
}

#[test]
fn who_became_a_recipient_later_reads_the_copy_too() {
    let pair = Pair::new(8);
    let source = pair.from.open();
    let id = source.backup(&tree(1, 1)).unwrap();
    let late = age::x25519::Identity::generate();
    let repo = &source.repo;
    let mut recipients = repo.state().recipients.clone();
    recipients.push(late.to_public().to_string());
    repo.append(&mut |_| Ok(Change::Recipients(recipients.clone()))).unwrap();
    for epoch in repo.state().epochs.clone() {
        let record = repo.read_epoch(&epoch.epoch).unwrap();
        repo.put_epoch(&repo.contents().rewrap(&record, &recipients, repo.signer()).unwrap()).unwrap();
    }
    pair.copy_all();
    pair.copy_all();
    let state = pair.to.open().repo.follow().unwrap();
    assert!(state.epochs.len() == 1 && state.epochs[0].wrapped_again, "{:?}", state.epochs);
    let reader =
        |identity| pair.to.open_as(&Signer::from_seed(&Secret32::new([9; 32])), vec![Box::new(identity)]);
    assert!(restore(&reader(age::x25519::Identity::generate()).repo, id).is_err());
    assert_eq!(restore(&reader(late).repo, id).unwrap(), tree(1, 1));
}

#[test]
fn one_repository_and_one_of_another_family_are_no_targets() {
    let pair = Pair::new(9);
    let (from, to, other) = (pair.from.open(), pair.to.open(), Lab::new(10).open());
    let refused = |to: &Repo| copy(&from.repo, to, &[], &pair.from.cx).unwrap_err();
    assert!(matches!(refused(&from.repo), RepoError::BadKey { .. }));
    assert!(matches!(refused(&other.repo), RepoError::OtherFamily { .. }));
    copy(&from.repo, &to.repo, &[], &pair.from.cx).unwrap();
}

#[test]
fn what_a_copy_that_died_has_stored_may_be_doomed_before_the_next_one() {
    let pair = Pair::new(11);
    let ids = [1, 2].map(|n| pair.from.open().backup(&tree(n, n)).unwrap());
    pair.copy_these(&ids[..1]);
    pair.to.faulty.inject_always(Verb::Put, "log", Fault::refused());
    let to = pair.to.open_faulty().unwrap();
    assert!(copy(&pair.from.open().repo, &to.repo, &ids, &pair.from.cx).is_err());
    let left = packs(&pair.to);
    for is_removed in [false, true] {
        let pair = pair.fork();
        let pruner = pair.to.open();
        pruner.prune(&greedy()).unwrap();
        if is_removed {
            pruner.remove().unwrap();
        }
        let state = pruner.repo.follow().unwrap();
        assert!(state.stale_snapshots.contains_key(&ids[1]) != is_removed);
        let report = pair.copy_all();
        assert_ne!(report.copied[0].id, ids[1], "the name of a record that was doomed does not live again");
        assert_eq!((report.n_packs, report.n_packs_there), (0, 0));
        assert_eq!(pair.to.check().into_values().collect::<Vec<_>>().len(), 2);
        pair.to.open().remove().unwrap();
        assert_eq!(pair.to.check().len(), 2);
        verified(&pair.to);
        assert_eq!(packs(&pair.to).intersection(&left).count(), 2, "those of the first stay");
    }
}

/// Keeps RS-42.
#[test]
fn a_copy_that_lacks_a_pack_or_an_entry_is_not_complete() {
    let pair = Pair::new(12);
    let id = pair.from.open().backup(&tree(1, 1)).unwrap();
    pair.copy_all();
    let found = |pair: &Pair| {
        let to = pair.to.open();
        completeness(&to.repo, &[id], &to.cx).unwrap()
    };
    let whole = found(&pair);
    let n_entries = tree(1, 1).len() as u64;
    assert_eq!(whole.entries, Matched { expected: n_entries, found: n_entries });
    assert_eq!(whole.packs, Matched { expected: 2, found: 2 });
    assert!(whole.missing.is_empty() && whole.bytes.expected == whole.bytes.found);
    for key in packs(&pair.to) {
        for is_cut in [false, true] {
            let pair = pair.fork();
            let bytes = pair.to.memory.get(&key).unwrap();
            pair.to.memory.remove(&key).unwrap();
            if is_cut {
                pair.to.memory.put(&key, &bytes[1..]).unwrap();
            }
            let found = found(&pair);
            assert!(found.missing.contains_key(&id), "without {key} it is called complete: {found:?}");
        }
    }
}

const SYSTEM: SystemId = SystemId(7_000_000_000_000_000_001);

/// Keeps BC-1.
#[test]
fn archived_log_comes_back_from_the_copy_and_what_is_damaged_stays_behind() {
    let pair = Pair::new(13);
    let (source, host) = (pair.from.open(), Signer::from_seed(&Secret32::new([9; 32])));
    let enrol = |repo: &Repo| {
        let (group, label) = ("owner".to_owned(), "host".to_owned());
        let enrol = Enrol { writer: host.id(), rights: Rights::WRITE.0, group, label, sources: None };
        repo.append(&mut |_| Ok(Change::Enrol(enrol.clone()))).unwrap();
    };
    enrol(&source.repo);
    let name = |text: &str| text.parse::<WalName>().unwrap();
    let files = [
        ("000000010000000000000001", noise(1, 90_000)),
        ("000000010000000000000002", noise(2, 5 << 20)),
        ("00000002.history", b"1\t0/2000000\tno recovery target specified\n".to_vec()),
        ("000000020000000000000002.00000000-00000400", noise(3, 1024)),
        ("000000020000000000000003", Vec::new()),
    ];
    // Part of it by the owner, part by a host.
    let pushers = [pair.from.open(), pair.from.open_as(&host, Vec::new())];
    for (n, (file, content)) in files.iter().enumerate() {
        WalArchive::of(&pushers[n % 2].repo).push(SYSTEM, name(file), &mut &**content).unwrap();
    }
    let kept = pair.fork();
    let fetched = |pair: &Pair, file: &str| {
        let mut bytes = Vec::new();
        let process = pair.to.open();
        let archive = WalArchive::of(&process.repo);
        archive.get(SYSTEM, name(file), &mut bytes).unwrap().map(|_| bytes)
    };
    let copy_log = |pair: &Pair, systems: Option<&BTreeSet<SystemId>>| {
        let (from, to) = (pair.from.open_as(&host, Vec::new()), pair.to.open_as(&host, Vec::new()));
        hikae_repo::copy::copy_log(&from.repo, &to.repo, systems, &pair.from.cx)
    };
    // Whom the target does not know it believes nothing.
    assert!(matches!(copy_log(&pair, None), Err(RepoError::NoRight { .. })));
    enrol(&pair.to.open().repo);
    assert_eq!(copy_log(&pair, Some(&[SystemId(7)].into())).unwrap().n_files, 0);
    let copied = copy_log(&pair, None).unwrap();
    assert_eq!((copied.n_files, copied.left.len()), (5, 0), "{:?}", copied.left);
    for (file, content) in &files {
        assert!(fetched(&pair, file).as_ref() == Some(content), "{file}");
    }
    verified(&pair.to);
    let again = copy_log(&pair, None).unwrap();
    assert_eq!((again.n_files, again.n_there), (0, 5));

    for (file, _) in &files[..2] {
        let pair = kept.fork();
        enrol(&pair.to.open().repo);
        let key = layout::wal(SYSTEM, name(file));
        let last = pair.from.memory.get(&key).unwrap().len() - 1;
        assert!(pair.from.memory.damage(&key, |bytes| bytes[last] ^= 1));
        let copied = copy_log(&pair, None).unwrap();
        assert_eq!(copied.n_files, 4);
        assert_eq!(copied.left.iter().map(|left| left.1).collect::<Vec<_>>(), [name(file)], "is named");
        assert_eq!(fetched(&pair, file), None);
        verified(&pair.to);
    }
}

/// Verifies with all contents, marks what is damaged, and heals it from the other.
fn mended(lab: &Lab, from: &Lab) -> VerifyReport {
    let options = VerifyOptions { read_data: true, ..VerifyOptions::default() };
    let found = {
        let process = lab.open();
        let found = verify(&process.repo, &options, &process.cx).unwrap();
        put_back(&process.repo, &found, &from.memory, false, &process.cx).unwrap();
        found
    };
    assert_ne!(found.outcome, Outcome::Complete);
    let (process, healthy) = (lab.open(), from.open());
    let found = verify(&process.repo, &options, &process.cx).unwrap();
    let plan = plan_repair(&process.repo, &found, &process.cx).unwrap();
    repair(&process.repo, &plan, &process.cx).unwrap();
    heal(&healthy.repo, &process.repo, &process.cx).unwrap();
    verify(&process.repo, &options, &process.cx).unwrap()
}

/// Keeps B-9.
#[test]
fn two_copies_that_are_damaged_at_different_places_heal_each_other() {
    let pair = Pair::new(14);
    let ids = [1, 2, 3].map(|n| pair.from.open().backup(&tree(n, n)).unwrap());
    // The second has its packs by other names, so only the blobs in them can help.
    pair.copy_these(&ids[..1]);
    let to = pair.to.open();
    to.prune(&PruneOptions { small_packs: 1, ..greedy() }).unwrap();
    to.remove().unwrap();
    pair.copy_all();
    let wanted = pair.from.check();
    let all = |lab: &Lab| {
        lab.memory.keys().into_iter().filter(|key| key.is_below("packs") || key.is_below("snapshots"))
    };
    let (ours, theirs): (Vec<_>, Vec<_>) = (all(&pair.from).collect(), all(&pair.to).collect());
    // What both hold of the same content cannot be had any more once both are damaged.
    let blobs = |lab: &Lab, key: &ObjectKey| -> BTreeSet<BlobId> {
        let Some(pack) = layout::name_of::<PackId>(key).filter(|_| key.is_below("packs")) else {
            return BTreeSet::new();
        };
        let footer = Footer::read(&lab.memory, pack, lab.open().repo.keys()).unwrap();
        footer.frames.iter().flat_map(|frame| &frame.blobs).map(|blob| blob.id).collect()
    };
    for (n, key) in ours.iter().enumerate() {
        let pair = pair.fork();
        let is_elsewhere =
            |other: &&ObjectKey| *other != key && blobs(&pair.from, key).is_disjoint(&blobs(&pair.to, other));
        let elsewhere: Vec<_> = theirs.iter().filter(is_elsewhere).collect();
        let other = elsewhere[n % elsewhere.len()];
        pair.from.memory.damage(key, |bytes| bytes[9] ^= 1);
        pair.to.memory.damage(other, |bytes| bytes[9] ^= 1);
        let healed = mended(&pair.from, &pair.to);
        assert!(healed.hits.is_empty(), "{key}, and {other} there: {:?}", healed.hits);
        assert_eq!(pair.from.check(), wanted);
        let healed = mended(&pair.to, &pair.from);
        assert!(healed.hits.is_empty(), "{other}, and {key} there: {:?}", healed.hits);
        assert_eq!(pair.to.check(), wanted);
    }
}
