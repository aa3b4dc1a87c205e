//! Who can open what: wrong, lost, removed and several keys (I-4), and hosts that write and cannot read.

use crate::small::{WRITER_KEY, add_writer, open, open_with};
use crate::world::{KEY, Tree, World, backup, noise, restore};
use hikae_model::{Cut, Outcome};
use hikae_repo::keys::{RepositorySecret, Secret32};
use hikae_repo::log::{Change, Forget, Rights};
use hikae_repo::recipient::{identity, parse_identities};
use hikae_repo::slot::{KdfCost, Unlock, Wrap};
use hikae_repo::verify::{VerifyOptions, verify};
use hikae_repo::{InitOptions, NewRepository, Repo, RepoError, layout};
use hikae_store::{MemoryStore, Store};
use hikae_testkit::system_cx;
use std::path::Path;
use std::sync::Arc;
use zeroize::Zeroizing;

fn tree() -> Tree {
    Tree::from([("file".to_owned(), noise(1, 50_000)), ("text".to_owned(), b"words ".repeat(2000))])
}

fn with(store: &MemoryStore, unlock: Unlock, cache: &Path) -> Result<Arc<Repo>, RepoError> {
    Repo::open(Arc::new(store.clone()), unlock, Vec::new(), cache, &system_cx()).map(Arc::new)
}

fn passphrase(text: &str) -> Unlock {
    Unlock::Passphrase(Zeroizing::new(text.to_owned()))
}

/// A repository whose first host cannot read what it writes, and its secret.
fn write_only(store: &MemoryStore, recipients: Vec<String>, cache: &Path) -> (Arc<Repo>, RepositorySecret) {
    let key = Secret32::new(KEY);
    let options = InitOptions {
        recipients,
        without_first_identity: false,
        wrap: Wrap::KeyFile(&key),
        write_only: true,
        like: None,
    };
    let NewRepository { repo, secret } =
        Repo::init(Arc::new(store.clone()), &options, cache, &system_cx()).unwrap();
    (Arc::new(repo), secret)
}

#[test]
fn only_the_right_passphrase_opens_and_a_removed_key_opens_no_more() {
    let store = MemoryStore::new();
    let world = World::over(Arc::new(store.clone()));
    let id = world.repo.add_slot(&Wrap::Passphrase("right", KdfCost::FLOOR), "").unwrap();
    let cache = tempfile::tempdir().unwrap();
    assert!(with(&store, passphrase("right"), cache.path()).is_ok());
    for wrong in ["", "Right", "right "] {
        let refused = with(&store, passphrase(wrong), cache.path());
        assert!(matches!(refused, Err(RepoError::WrongKey { .. })), "{wrong:?}");
    }
    let kept = store.get(&layout::slot(id)).unwrap();
    world.repo.remove_slot(id).unwrap();
    assert!(matches!(with(&store, passphrase("right"), cache.path()), Err(RepoError::WrongKey { .. })));
    // Somebody puts the object back: it opens again, because who has it and the passphrase has the secret.
    // Verify says so.
    store.put(&layout::slot(id), &kept).unwrap();
    let report = verify(&world.repo, &VerifyOptions::default(), world.repo.cx()).unwrap();
    assert_eq!(report.problems[0].code, "removed-key");
}

#[test]
fn the_last_key_cannot_be_removed() {
    let world = World::in_memory();
    let only = *world.repo.state().slots.keys().next().unwrap();
    assert!(matches!(world.repo.remove_slot(only), Err(RepoError::BadKey { .. })));
    assert!(world.open().is_ok());
}

#[test]
fn a_slot_that_asks_for_senseless_costs_is_refused_before_any_memory_is_taken() {
    let store = MemoryStore::new();
    let world = World::over(Arc::new(store.clone()));
    let id = world.repo.add_slot(&Wrap::Passphrase("right", KdfCost::FLOOR), "").unwrap();
    let stored = store.get(&layout::slot(id)).unwrap();
    let KdfCost { memory_kib, passes, lanes } = KdfCost::FLOOR;
    let costs = |cost: [u32; 3]| minicbor::to_vec(cost).unwrap();
    let at = stored.windows(4).position(|four| four == costs([memory_kib, passes, lanes])).unwrap();
    for cost in [
        [(4 << 20) + 1, 1, 1],
        [0, 1, 1],
        [8, 0, 1],
        [8, 1, 0],
        [u32::MAX, 1, 1],
        [8, u32::MAX, 1],
        [8, 1, u32::MAX],
    ] {
        let forged = [&stored[..at], &costs(cost), &stored[at + 4..]].concat();
        let refused = hikae_repo::slot::open(&forged, &passphrase("right"));
        assert!(refused.is_err(), "{cost:?}");
    }
}

#[test]
fn each_of_two_recipients_reads_contents_and_a_stranger_reads_none() {
    let (store, cache) = (MemoryStore::new(), tempfile::tempdir().unwrap());
    let identities = [7_u8, 8, 9].map(|n| identity(&Secret32::new([n; 32])));
    let recipients = identities[..2].iter().map(|one| one.to_public().to_string()).collect();
    let (repo, _) = write_only(&store, recipients, cache.path());
    let id = backup(&repo, &tree(), Cut::Files, None).unwrap().snapshots[0];
    for (n, one) in identities.iter().enumerate() {
        use age::secrecy::ExposeSecret;
        let cache = tempfile::tempdir().unwrap();
        let given = parse_identities(one.to_string().expose_secret()).unwrap();
        let unlock = Unlock::KeyFile(Secret32::new(KEY));
        let repo = Repo::open(Arc::new(store.clone()), unlock, given, cache.path(), &system_cx()).unwrap();
        match n {
            0 | 1 => assert!(restore(&repo, id).unwrap() == tree()),
            _ => assert!(matches!(restore(&repo, id), Err(RepoError::NeedsIdentity))),
        }
    }
}

#[test]
fn the_recovery_secret_restores_everything_when_all_keys_are_gone() {
    let store = MemoryStore::new();
    let world = World::over(Arc::new(store.clone()));
    let id = world.backup(&tree(), Cut::Files).unwrap().snapshots[0];
    let secret = world.repo.secret().unwrap().clone();
    for key in store.keys().iter().filter(|key| key.is_below("keys")) {
        store.remove(key).unwrap();
    }
    let cache = tempfile::tempdir().unwrap();
    assert!(matches!(open(store.clone(), cache.path()), Err(RepoError::WrongKey { .. })));
    let repo = with(&store, Unlock::Recovery(secret), cache.path()).unwrap();
    assert!(restore(&repo, id).unwrap() == tree());
    let stranger = Unlock::Recovery(RepositorySecret::new([1; 32]));
    assert!(matches!(with(&store, stranger, cache.path()), Err(RepoError::WrongKey { .. })));
}

#[test]
fn a_host_that_only_writes_backs_up_verifies_and_lists_and_reads_no_content() {
    let (store, cache) = (MemoryStore::new(), tempfile::tempdir().unwrap());
    let (repo, secret) = write_only(&store, Vec::new(), cache.path());
    let mut changing = tree();
    let first = backup(&repo, &changing, Cut::Rows, None).unwrap().snapshots[0];
    drop(repo);
    let again = open(store.clone(), cache.path()).unwrap();
    assert!(again.secret().is_none() && !again.contents().has_identity());
    // Incremental: the parent's maps are metadata.
    let second = backup(&again, &changing, Cut::Rows, Some(first)).unwrap().snapshots[0];
    assert_eq!(again.snapshot(second).unwrap().record.added_bytes, 0);
    changing.insert("more".to_owned(), noise(5, 3000));
    let third = backup(&again, &changing, Cut::Rows, Some(second)).unwrap().snapshots[0];
    assert!(again.snapshot(third).unwrap().record.added_bytes < 6000);

    assert!(matches!(restore(&again, first), Err(RepoError::NeedsIdentity)));
    let report = verify(&again, &VerifyOptions::default(), again.cx()).unwrap();
    assert_eq!((report.outcome, report.n_snapshots), (Outcome::Complete, 3), "{:?}", report.problems);
    let read_data = VerifyOptions { read_data: true, ..VerifyOptions::default() };
    assert!(matches!(verify(&again, &read_data, again.cx()), Err(RepoError::NeedsIdentity)));

    let elsewhere = tempfile::tempdir().unwrap();
    let owner = with(&store, Unlock::Recovery(secret), elsewhere.path()).unwrap();
    assert!(restore(&owner, first).unwrap() == tree());
    assert!(restore(&owner, third).unwrap() == changing);
    assert_eq!(verify(&owner, &read_data, owner.cx()).unwrap().outcome, Outcome::Complete);
}

#[test]
fn a_writer_may_only_what_it_was_enrolled_for_and_nothing_once_it_is_distrusted() {
    let store = MemoryStore::new();
    let world = World::over(Arc::new(store.clone()));
    let id = world.backup(&tree(), Cut::Files).unwrap().snapshots[0];
    add_writer(&world.repo, &WRITER_KEY, Rights::WRITE);
    let cache = tempfile::tempdir().unwrap();
    let writer = open_with(store.clone(), WRITER_KEY, cache.path()).unwrap();
    let forget = Change::Forget(Forget { snapshots: vec![id], reason: String::new() });
    assert!(matches!(writer.append(&mut |_| Ok(forget.clone())), Err(RepoError::NoRight { .. })));
    assert!(matches!(
        writer.add_slot(&Wrap::Passphrase("mine", KdfCost::FLOOR), ""),
        Err(RepoError::NoRight { .. })
    ));
    backup(&writer, &tree(), Cut::Files, None).unwrap();

    let distrust = Change::Distrust(writer.signer().id());
    world.repo.append(&mut |_| Ok(distrust.clone())).unwrap();
    assert!(matches!(backup(&writer, &tree(), Cut::Rows, None), Err(RepoError::NoRight { .. })));
    // A writer that does not ask itself whether it may: its entry stands in the log and does nothing.
    let state = world.repo.follow().unwrap();
    let forged = hikae_repo::log::LogEntry {
        n: state.n + 1,
        previous: state.head,
        at: world.repo.cx().now(),
        run: hikae_model::RunId::from_bytes([3; 16]),
        change: forget,
    };
    let stored = forged.seal(state.repository, world.repo.keys(), writer.signer());
    store.put(&layout::log_entry(forged.n), &stored).unwrap();
    let after = world.repo.follow().unwrap();
    assert_eq!((after.n, &after.void), (forged.n, &[forged.n].into()));
    assert!(after.snapshots.contains_key(&id));
}
