//! Copies: what is in one repository comes into another of its family, whole or not at all.

use crate::world::{KEY, World, noise};
use hikae_model::Cut;
use hikae_repo::keys::Secret32;
use hikae_repo::log::{Change, Enrol, Rights};
use hikae_repo::slot::{Unlock, Wrap};
use hikae_repo::{InitOptions, Repo, RepoError};
use hikae_store::MemoryStore;
use std::sync::Arc;

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
        writer: hikae_repo::keys::Signer::from_seed(&Secret32::new([seed; 32])).id(),
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
