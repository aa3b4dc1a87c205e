//! What a writer may not do, and what it cannot do to others by doing it all the same.

use crate::small::{WRITER_KEY, add_writer, open, open_with};
use crate::world::{Tree, World, backup, noise, restore};
use hikae_model::{Cut, IndexId, PackId, RunId, SnapshotId};
use hikae_repo::epoch::{Epoch, EpochRecord, Session, SessionRecord};
use hikae_repo::index::{IndexBuilder, IndexedPack};
use hikae_repo::keys::Secret32;
use hikae_repo::log::{Change, Commit, Enrol, Forget, LogEntry, Rights, hash_of};
use hikae_repo::object::{ObjectClass, seal_object};
use hikae_repo::prune::{PruneOptions, prune, remove_doomed};
use hikae_repo::recipient::identity;
use hikae_repo::slot::{KdfCost, Wrap};
use hikae_repo::{Repo, RepoError, layout};
use hikae_store::{MemoryStore, Store};
use std::sync::Arc;

fn tree() -> Tree {
    Tree::from([("file".to_owned(), noise(1, 50_000)), ("text".to_owned(), b"words ".repeat(2000))])
}

/// Signs an entry that its writer may not put, and puts it all the same.
fn force(store: &MemoryStore, owner: &Repo, writer: &Repo, change: Change) -> u64 {
    let state = owner.follow().unwrap();
    let run = RunId::from_bytes(owner.cx().random());
    let (n, at) = (state.n + 1, owner.cx().now());
    let entry = LogEntry { n, previous: state.head, at, run, change };
    store.put(&layout::log_entry(n), &entry.seal(state.repository, owner.keys(), writer.signer())).unwrap();
    n
}

#[test]
fn who_may_only_write_brings_no_forgotten_snapshot_back() {
    let store = MemoryStore::new();
    let world = World::over(Arc::new(store.clone()));
    let (owner, id) = (&world.repo, world.backup(&tree(), Cut::Files).unwrap().snapshots[0]);
    add_writer(owner, &WRITER_KEY, Rights::WRITE);
    let forget = Change::Forget(Forget { snapshots: vec![id], reason: String::new() });
    owner.append(&mut |_| Ok(forget.clone())).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let writer = open_with(store.clone(), WRITER_KEY, cache.path()).unwrap();
    assert!(matches!(writer.undelete(&[id]), Err(RepoError::NoRight { .. })));
    let snapshots = vec![owner.follow().unwrap().forgotten[&id].snapshot.snapshot.clone()];
    let n = force(&store, owner, &writer, Change::Commit(Commit { snapshots, indexes: Vec::new() }));
    let after = owner.follow().unwrap();
    assert!(after.forgotten.contains_key(&id) && after.void == [n]);
    owner.undelete(&[id]).unwrap().unwrap();
    assert!(owner.state().snapshots.contains_key(&id));
}

#[test]
fn a_writer_of_certain_sources_commits_no_other() {
    let store = MemoryStore::new();
    let world = World::over(Arc::new(store.clone()));
    let owner = &world.repo;
    add_writer(owner, &WRITER_KEY, Rights::WRITE);
    let cache = tempfile::tempdir().unwrap();
    let writer = open_with(store.clone(), WRITER_KEY, cache.path()).unwrap();
    let admit = |sources: &[&str]| {
        let sources = Some(sources.iter().map(|name| (*name).to_owned()).collect());
        let (group, label) = ("owner".to_owned(), String::new());
        let writer = writer.signer().id();
        let enrol = Enrol { writer, rights: Rights::WRITE.0, group, label, sources };
        owner.append(&mut |_| Ok(Change::Enrol(enrol.clone()))).unwrap();
    };
    admit(&["app-db", "tree"]);
    let committed = backup(&writer, &tree(), Cut::Files, None).unwrap().snapshots[0];
    admit(&["app-db"]);
    let refused = backup(&writer, &tree(), Cut::Files, None).unwrap_err();
    assert!(matches!(refused, RepoError::NoRight { what: "commit snapshots of this source" }), "{refused}");
    let mut snapshot = owner.follow().unwrap().snapshots[&committed].snapshot.clone();
    snapshot.id = SnapshotId::from_bytes([1; 32]);
    let commit = Commit { snapshots: vec![snapshot], indexes: Vec::new() };
    let n = force(&store, owner, &writer, Change::Commit(commit));
    let after = owner.follow().unwrap();
    assert_eq!((after.snapshots.len(), &after.void), (1, &[n].into()));
}

/// As a later release would put it: `kind` is one that we do not know.
fn put_unknown(store: &MemoryStore, owner: &Repo, writer: &Repo, kind: u8) -> u64 {
    let state = owner.follow().unwrap();
    let n = state.n + 1;
    let known = LogEntry {
        n,
        previous: state.head,
        at: owner.cx().now(),
        run: RunId::from_bytes(owner.cx().random()),
        change: Change::Feature(String::new()),
    };
    let mut body = minicbor::to_vec(&known).unwrap();
    let change = body.len() - 3;
    assert_eq!(body[change..], [0x82, 11, 0x60]);
    body.splice(change + 1.., [0x18, kind, 0xa1, 0, 0x41, 7]);
    let context = [state.repository.as_bytes().as_slice(), &n.to_le_bytes()].concat();
    let stored = seal_object(ObjectClass::LogEntry, &context, body, owner.keys(), writer.signer());
    store.put(&layout::log_entry(n), &stored).unwrap();
    n
}

#[test]
fn an_entry_of_an_unknown_kind_is_read_over_and_ends_writing() {
    let store = MemoryStore::new();
    let world = World::over(Arc::new(store.clone()));
    let (owner, id) = (&world.repo, world.backup(&tree(), Cut::Files).unwrap().snapshots[0]);
    add_writer(owner, &WRITER_KEY, Rights::WRITE);
    let cache = tempfile::tempdir().unwrap();
    let writer = open_with(store.clone(), WRITER_KEY, cache.path()).unwrap();

    // Of one who is no administrator it is void: else a stolen host could end all backups.
    let void = put_unknown(&store, owner, &writer, 99);
    backup(owner, &tree(), Cut::Files, None).unwrap();
    assert_eq!((&owner.state().void, owner.state().unknown.len()), (&[void].into(), 0));

    let n = put_unknown(&store, owner, owner, 99);
    assert!(restore(owner, id).unwrap() == tree());
    assert_eq!(owner.follow().unwrap().n, n);
    let options = PruneOptions::default();
    for refused in [
        backup(owner, &tree(), Cut::Files, None).map(drop),
        backup(&writer, &tree(), Cut::Files, None).map(drop),
        prune(owner, &options, owner.cx()).map(drop),
        remove_doomed(owner, owner.cx()).map(drop),
        owner.add_slot(&Wrap::Passphrase("more", KdfCost::FLOOR), "").map(drop),
    ] {
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains(&format!("log entry {n} of kind 99")), "{refused}");
    }
    assert_eq!(owner.follow().unwrap().n, n);
    let elsewhere = tempfile::tempdir().unwrap();
    let again = open(store, elsewhere.path()).unwrap();
    assert!(restore(&again, id).unwrap() == tree());
}

/// A writer with the metadata key sees the id of every session, and can index a record of its own under it.
#[test]
fn a_forged_session_or_epoch_hides_no_content() {
    let store = MemoryStore::new();
    let world = World::over(Arc::new(store.clone()));
    let (owner, id) = (&world.repo, world.backup(&tree(), Cut::Files).unwrap().snapshots[0]);
    add_writer(owner, &WRITER_KEY, Rights::WRITE);
    let cache = tempfile::tempdir().unwrap();
    let writer = open_with(store.clone(), WRITER_KEY, cache.path()).unwrap();
    let (index, family) = (owner.index().unwrap(), owner.keys().family());
    let segment = index.segments().next().unwrap();
    let (session, epoch) = (&segment.sessions()[0], &segment.epochs()[0]);
    let recipients = [identity(&Secret32::new([5; 32])).to_public().to_string()];
    let begun = EpochRecord::begin(&recipients, family, writer.signer(), owner.cx()).unwrap();
    let forged_epoch = EpochRecord::new(Epoch { id: epoch.id, ..(*begun).clone() }, family, writer.signer());
    let (begun, _) = begun.begin_session(family, 1, writer.signer(), owner.cx()).unwrap();
    let forged = Session { id: session.id, epoch: epoch.id, ..(*begun).clone() };
    let unsigned =
        SessionRecord::new(Session { writer: session.writer, ..forged.clone() }, family, writer.signer());
    let forged = SessionRecord::new(forged, family, writer.signer());
    assert!(forged.is_signed(family) && !unsigned.is_signed(family));
    for (n, forged) in [forged, unsigned].into_iter().enumerate() {
        // Index objects are looked through by their names, so some come before the right one and some after.
        for _ in 0..4 {
            let mut builder = IndexBuilder::default();
            let pack = IndexedPack { id: PackId::from_bytes([n as u8; 32]), bytes: 1 };
            let mut frames = Vec::new();
            let mut take = |_, of_pack| {
                frames.extend(of_pack);
                Ok(())
            };
            segment.each_pack(&mut take).unwrap();
            builder.add(pack, frames, std::slice::from_ref(&forged), std::slice::from_ref(&forged_epoch));
            let body = builder.to_bytes(owner.cx().random());
            let stored = seal_object(ObjectClass::Index, b"", body, owner.keys(), writer.signer());
            let index = IndexId::from_bytes(hash_of(&stored));
            store.put(&layout::index(index), &stored).unwrap();
            let commit = Commit { snapshots: Vec::new(), indexes: vec![index] };
            writer.append(&mut |_| Ok(Change::Commit(commit.clone()))).unwrap();
        }
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let reader = open(store, elsewhere.path()).unwrap();
    assert!(restore(&reader, id).unwrap() == tree());
}
