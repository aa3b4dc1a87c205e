//! Seals are never used twice (I-1) and open nothing but what they sealed (I-2).

use crate::small::{Small, class_of, open};
use crate::world::{KEY, Tree, World, backup, noise};
use hikae_model::{Cut, PackId};
use hikae_repo::frame::FrameCoder;
use hikae_repo::keys::{BlobClass, Secret32};
use hikae_repo::layout;
use hikae_repo::object::{ObjectClass, open_object};
use hikae_repo::pack::Footer;
use hikae_repo::slot::{Unlock, Wrap};
use hikae_repo::{InitOptions, Repo};
use hikae_store::{MemoryStore, Store};
use hikae_testkit::{Seed, TestCx};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Which long-lived key sealed something: the metadata key, or that of a session's contents.
type Sealer = Option<hikae_model::SessionId>;

/// One seal: its key and its salt, and what it sealed. The nonce is always zero.
type Seal = ((Sealer, [u8; 16]), Vec<u8>);

/// Every seal in a store.
fn seals(store: &MemoryStore, repo: &Repo) -> Vec<Seal> {
    let mut seals = Vec::new();
    for key in store.keys() {
        let bytes = store.get(&key).unwrap();
        if bytes.starts_with(b"HIKAE") && bytes[6] < 0x10 {
            seals.push(((None, bytes[12..28].try_into().unwrap()), bytes[28..].to_vec()));
        }
        if class_of(&key) == "packs" {
            let id = layout::name_of::<PackId>(&key).unwrap();
            let footer = Footer::read(store, id, repo.keys()).unwrap();
            for frame in footer.frames {
                let sealer = (frame.head.class == BlobClass::Content).then_some(frame.head.session);
                let range = frame.offset as usize..(frame.offset + frame.stored_bytes) as usize;
                seals.push(((sealer, frame.head.salt), bytes[range].to_vec()));
            }
            let length = u32::from_le_bytes(bytes[bytes.len() - 12..][..4].try_into().unwrap()) as usize;
            let footer = &bytes[bytes.len() - 12 - length..bytes.len() - 12];
            seals.push(((None, footer[12..28].try_into().unwrap()), footer[28..].to_vec()));
        }
    }
    seals
}

/// A machine is cloned, or a process resumed from a copy: both go on with the same random bytes, the same
/// session key and the same frame numbers, and meet different data.
#[test]
fn a_clone_repeats_no_key_and_nonce_for_other_bytes() {
    let store = MemoryStore::new();
    let key = Secret32::new(KEY);
    let options = InitOptions::opened_by(Wrap::KeyFile(&key));
    let cache = tempfile::tempdir().unwrap();
    Repo::init(Arc::new(store.clone()), &options, cache.path(), &TestCx::new(Seed(1))).unwrap();
    let mut seen: HashMap<_, Vec<u8>> = HashMap::new();
    let mut n_seals = 0;
    for clone in 0..4 {
        let (store, cache) = (store.fork(), tempfile::tempdir().unwrap());
        let cx = TestCx::new(Seed(2));
        let unlock = Unlock::KeyFile(key.clone());
        let repo = Repo::open(Arc::new(store.clone()), unlock, Vec::new(), cache.path(), &cx).unwrap();
        let repo = Arc::new(repo);
        for round in 0..3 {
            let tree: Tree = (0..20)
                .map(|n| (format!("file-{n}"), noise(clone * 1000 + round * 100 + n, 200_000)))
                .collect();
            backup(&repo, &tree, Cut::Files, None).unwrap();
        }
        for (name, sealed) in seals(&store, &repo) {
            n_seals += 1;
            let before = seen.entry(name).or_insert_with(|| sealed.clone());
            assert!(*before == sealed, "one key and nonce sealed two different things");
        }
    }
    let sessions: HashSet<_> = seen.keys().filter_map(|(sealer, _)| *sealer).collect();
    // Else the clones were none, and the test showed nothing.
    assert_eq!(sessions.len(), 3, "each clone has the same sessions");
    println!("{n_seals} seals, {} of them different", seen.len());
}

const CLASSES: [ObjectClass; 7] = [
    ObjectClass::Footer,
    ObjectClass::Index,
    ObjectClass::Snapshot,
    ObjectClass::LogEntry,
    ObjectClass::Checkpoint,
    ObjectClass::Epoch,
    ObjectClass::Evidence,
];

/// Whatever an object is called and whichever class is written on it: it opens as what it is.
#[test]
fn no_object_opens_as_another_class_or_in_another_place() {
    let small = Small::build();
    let cache = tempfile::tempdir().unwrap();
    let repo = open(small.store.clone(), cache.path()).unwrap();
    let repository = repo.header().core.repository;
    let mut contexts = vec![Vec::new()];
    contexts.extend((1..=33_u64).map(|n| [repository.as_bytes().as_slice(), &n.to_le_bytes()].concat()));
    contexts.extend(small.trees.keys().map(|id| [repository.as_bytes().as_slice(), id.as_bytes()].concat()));
    let (mut n_opened, mut n_refused) = (0, 0);
    for key in small.store.keys() {
        let bytes = small.store.get(&key).unwrap();
        if !bytes.starts_with(b"HIKAE") || bytes[6] >= 0x10 {
            continue;
        }
        for class in CLASSES {
            for context in &contexts {
                let mut claimed = bytes.clone();
                claimed[6] = class as u8;
                match open_object(class, context, claimed, repo.keys()) {
                    Ok(_) => {
                        assert_eq!(bytes[6], class as u8, "{key} opens as {class:?}");
                        n_opened += 1;
                    }
                    Err(_) => n_refused += 1,
                }
            }
        }
    }
    // Each object in exactly one place.
    let n_objects = small.store.keys().into_iter().filter(|key| {
        let bytes = small.store.get(key).unwrap();
        bytes.starts_with(b"HIKAE") && bytes[6] < 0x10
    });
    assert_eq!(n_opened, n_objects.count());
    println!("{n_refused} exchanges refused");
}

#[test]
fn no_frame_opens_under_the_head_of_another() {
    let store = MemoryStore::new();
    let world = World::over(Arc::new(store.clone()));
    let repo = &world.repo;
    // Several frames of one session and class, which differ by their numbers alone.
    for n in 0..2 {
        let tree: Tree = (0..3).map(|file| (format!("file-{file}"), noise(10 * n + file, 1 << 20))).collect();
        backup(repo, &tree, Cut::Files, None).unwrap();
    }
    let mut coder = FrameCoder::new(repo.keys().family()).unwrap();
    let mut frames = Vec::new();
    for key in store.keys().iter().filter(|key| class_of(key) == "packs") {
        let bytes = store.get(key).unwrap();
        let footer = Footer::of_pack(&bytes, repo.keys()).unwrap();
        for frame in footer.frames {
            let session = footer.sessions.iter().find(|one| one.id == frame.head.session).unwrap();
            let sealer = match frame.head.class {
                BlobClass::Metadata => repo.keys().seal(session.metadata_key).unwrap().clone(),
                BlobClass::Content => repo.contents().session_key(session, footer.epochs.first()).unwrap(),
            };
            let range = frame.offset as usize..(frame.offset + frame.stored_bytes) as usize;
            frames.push((frame.head, sealer, bytes[range].to_vec()));
        }
    }
    assert!(frames.len() >= 6, "{} frames", frames.len());
    for (at, (head, sealer, _)) in frames.iter().enumerate() {
        for (other, (_, _, stored)) in frames.iter().enumerate() {
            let opened = coder.open(head, sealer, stored.clone());
            assert_eq!(opened.is_ok(), at == other, "frame {other} under the head of frame {at}");
            // Not with its own salt and length either: number, session and class are sealed in.
            let mixed = hikae_repo::frame::FrameHead {
                salt: frames[other].0.salt,
                plain_bytes: frames[other].0.plain_bytes,
                codec: frames[other].0.codec,
                ..*head
            };
            assert_eq!(coder.open(&mixed, sealer, stored.clone()).is_ok(), at == other);
        }
    }
}
