//! Evidence cannot be forged, edited or used for another snapshot (G-9).

use crate::small::{evidence, open};
use crate::world::{Tree, World};
use hikae_model::{Cut, EvidenceId};
use hikae_repo::evidence::{put_evidence, read_evidence};
use hikae_repo::keys::{Secret32, Signer};
use hikae_repo::log::{Change, EvidenceRef, hash_of};
use hikae_repo::object::{ObjectClass, seal_object};
use hikae_repo::{RepoError, layout};
use hikae_store::{MemoryStore, Store};
use std::sync::Arc;

fn tree() -> Tree {
    Tree::from([("file".to_owned(), b"content".to_vec())])
}

#[test]
fn evidence_is_read_as_it_was_given_and_marks_its_snapshot() {
    let store = MemoryStore::new();
    let world = World::over(Arc::new(store.clone()));
    let snapshot = world.backup(&tree(), Cut::Files).unwrap().snapshots[0];
    let record = evidence(&world.repo, snapshot);
    let id = put_evidence(&world.repo, &record).unwrap();
    let other = tempfile::tempdir().unwrap();
    let again = open(store, other.path()).unwrap();
    let state = again.state();
    assert!(state.snapshots[&snapshot].is_verified());
    let read = read_evidence(&again, state.snapshots[&snapshot].evidence.as_ref().unwrap()).unwrap();
    assert_eq!((read.id, read.record), (id, record));
}

#[test]
fn a_failed_check_or_none_at_all_marks_nothing() {
    let world = World::in_memory();
    let snapshot = world.backup(&tree(), Cut::Files).unwrap().snapshots[0];
    let mut record = evidence(&world.repo, snapshot);
    record.checks[0].passed = false;
    put_evidence(&world.repo, &record).unwrap();
    assert!(!world.repo.state().snapshots[&snapshot].is_verified());
    record.checks.clear();
    put_evidence(&world.repo, &record).unwrap();
    assert!(!world.repo.state().snapshots[&snapshot].is_verified());
}

#[test]
fn evidence_for_another_snapshot_or_edited_or_of_a_stranger_is_refused() {
    let store = MemoryStore::new();
    let world = World::over(Arc::new(store.clone()));
    let one = world.backup(&tree(), Cut::Files).unwrap().snapshots[0];
    let two = world.backup(&tree(), Cut::Rows).unwrap().snapshots[0];
    let repo = &world.repo;
    let record = evidence(repo, one);
    let id = put_evidence(repo, &record).unwrap();
    let refused = |reference: &EvidenceRef| {
        assert!(matches!(read_evidence(repo, reference), Err(RepoError::Damaged { .. })), "{reference:?}");
    };
    refused(&EvidenceRef { id, snapshot: two, passed: true });
    refused(&EvidenceRef { id, snapshot: one, passed: false });

    let repository = repo.header().core.repository;
    let stranger = Signer::from_seed(&Secret32::new([8; 32]));
    let (forged, stored) = record.seal(repository, repo.keys(), &stranger);
    store.put(&layout::evidence(forged), &stored).unwrap();
    refused(&EvidenceRef { id: forged, snapshot: one, passed: true });

    // Sealed as evidence about the one, and speaking of the other.
    let context = [repository.as_bytes().as_slice(), two.as_bytes()].concat();
    let body = minicbor::to_vec(&record).unwrap();
    let stored = seal_object(ObjectClass::Evidence, &context, body, repo.keys(), repo.signer());
    let crossed = EvidenceId::from_bytes(hash_of(&stored));
    store.put(&layout::evidence(crossed), &stored).unwrap();
    refused(&EvidenceRef { id: crossed, snapshot: two, passed: true });

    let reference = EvidenceRef { id, snapshot: one, passed: true };
    assert!(read_evidence(repo, &reference).is_ok());
    store.damage(&layout::evidence(id), |bytes| bytes[40] ^= 1);
    refused(&reference);
}

#[test]
fn a_drill_of_another_log_or_of_a_forgotten_snapshot_is_not_recorded() {
    let world = World::in_memory();
    let snapshot = world.backup(&tree(), Cut::Files).unwrap().snapshots[0];
    let record = evidence(&world.repo, snapshot);
    let mut other = record.clone();
    other.log_hash[0] ^= 1;
    assert!(matches!(put_evidence(&world.repo, &other), Err(RepoError::BadLog { .. })));
    let forget = hikae_repo::log::Forget { snapshots: vec![snapshot], reason: String::new() };
    world.repo.append(&mut |_| Ok(Change::Forget(forget.clone()))).unwrap();
    assert!(matches!(put_evidence(&world.repo, &record), Err(RepoError::BadKey { .. })));
}
