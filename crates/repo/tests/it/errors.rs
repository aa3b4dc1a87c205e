//! Every kind of store error at every stage of a backup ends it with an error and without a snapshot (B-2).

use crate::small::open;
use crate::world::{Tree, backup, noise};
use hikae_model::{Advise, Cut, ErrorCode};
use hikae_store::MemoryStore;
use hikae_testkit::{Failure, Fault, FaultyStore, Verb};

fn tree(n: u64) -> Tree {
    Tree::from([("file".to_owned(), noise(n, 5000)), ("text".to_owned(), b"words ".repeat(n as usize))])
}

/// What a failure must be called: never a fault of the source, never a success.
fn codes(failure: Failure) -> &'static [ErrorCode] {
    match failure {
        Failure::NoSpace => &[ErrorCode::NoSpace, ErrorCode::StoreUnreachable],
        Failure::Permission => &[ErrorCode::Permission],
        Failure::Missing => &[ErrorCode::RepositoryMissing],
        Failure::TimedOut | Failure::Io => &[ErrorCode::StoreUnreachable],
        // What the store is sure not to have, somebody took away.
        Failure::NotFound => &[ErrorCode::VerificationFailed, ErrorCode::StoreUnreachable],
    }
}

#[test]
fn a_store_error_at_any_stage_ends_the_backup_without_a_snapshot() {
    const STAGES: [(Verb, &str); 7] = [
        (Verb::Put, "keys"),
        (Verb::Put, "packs"),
        (Verb::Put, "index"),
        (Verb::Put, "snapshots"),
        (Verb::Put, "log"),
        (Verb::Get, "index"),
        (Verb::Get, "log"),
    ];
    let mut n_cells = 0;
    for (verb, stage) in STAGES {
        for failure in Failure::ALL {
            // That an entry is not there is how the end of the log is told.
            if (verb, stage, failure) == (Verb::Get, "log", Failure::NotFound) {
                continue;
            }
            let memory = MemoryStore::new();
            let world = crate::world::World::over(std::sync::Arc::new(memory.clone()));
            if stage != "keys" {
                world.backup(&tree(1), Cut::Files).unwrap();
            }
            let store = FaultyStore::new(memory.clone());
            let cache = tempfile::tempdir().unwrap();
            let repo = open(store.clone(), cache.path()).unwrap();
            let before = repo.state();
            store.inject_always(verb, stage, Fault::Before(failure));
            let what = format!("{failure:?} at {verb} {stage}");
            let error = backup(&repo, &tree(2), Cut::Files, None).expect_err(&what);
            assert!(codes(failure).contains(&error.code()), "{what}: {:?}: {error}", error.code());
            assert!(store.n_struck() > 0, "{what} never came");
            store.heal();
            let elsewhere = tempfile::tempdir().unwrap();
            let after = open(memory, elsewhere.path()).unwrap().state();
            assert_eq!(after.snapshots, before.snapshots, "{what}: a snapshot was made");
            backup(&repo, &tree(2), Cut::Files, None).expect("the next run, with the store well again");
            n_cells += 1;
        }
    }
    println!("{n_cells} cells");
}
