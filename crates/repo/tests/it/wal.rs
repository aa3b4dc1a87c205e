//! The archive of write-ahead log: what is acknowledged comes back, and no name is taken twice.

use crate::small::{WRITER_KEY, add_writer, open, open_with};
use crate::world::{KEY, World, noise};
use hikae_model::{Advise as _, ErrorCode, SegmentName, SegmentPart, SystemId, WalName};
use hikae_repo::keys::Secret32;
use hikae_repo::log::{Change, Rights};
use hikae_repo::slot::Unlock;
use hikae_repo::wal::{Got, Pushed, WalArchive, WalError};
use hikae_repo::{RepoError, layout};
use hikae_store::{MemoryStore, Store};
use hikae_testkit::{Failure, Fault, FaultyStore, Verb, system_cx};
use std::io::{Read as _, Seek as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

const SYSTEM: SystemId = SystemId(7_000_000_000_000_000_001);
const OTHER: SystemId = SystemId(7_000_000_000_000_000_002);

fn name(text: &str) -> WalName {
    text.parse().unwrap()
}

/// Opens the archive as the client does: by itself, with a cache of its own.
fn archive(store: impl Store + 'static, key: [u8; 32]) -> (WalArchive, tempfile::TempDir) {
    let cache = tempfile::tempdir().unwrap();
    let unlock = Unlock::KeyFile(Secret32::new(key));
    let wal = WalArchive::open(Arc::new(store), unlock, Vec::new(), cache.path(), &system_cx()).unwrap();
    (wal, cache)
}

fn new_repository() -> (MemoryStore, World) {
    let store = MemoryStore::new();
    (store.clone(), World::over(Arc::new(store)))
}

fn fetched(wal: &WalArchive, system: SystemId, name: WalName) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    wal.get(system, name, &mut bytes).unwrap().map(|_| bytes)
}

#[track_caller]
fn is_differs(pushed: Result<Pushed, WalError>) {
    match pushed {
        Err(error @ WalError::Differs { .. }) => assert_eq!(error.code(), ErrorCode::WalDiffers),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_archived_file_comes_back_to_the_byte() {
    let (store, _world) = new_repository();
    let (wal, _cache) = archive(store.clone(), KEY);
    let mut zeroes_at_the_end = noise(1, 700_000);
    zeroes_at_the_end.resize(1 << 20, 0);
    let files = [
        ("000000010000000000000001", zeroes_at_the_end),
        ("000000010000000000000002", noise(2, 9 << 20)),
        ("000000010000000000000003.partial", noise(3, 4 << 20)),
        ("000000010000000000000002.00000028.backup", b"START WAL LOCATION: 0/2000028\n".to_vec()),
        ("00000002.history", Vec::new()),
    ];
    for (text, content) in &files {
        let pushed = wal.push(SYSTEM, name(text), &mut &**content).unwrap();
        let key = layout::wal(SYSTEM, name(text));
        assert_eq!(pushed, Pushed::Stored { stored_bytes: store.stat(&key).unwrap().bytes }, "{text}");
    }
    let (again, _cache) = archive(store, KEY);
    for (text, content) in &files {
        assert!(fetched(&again, SYSTEM, name(text)).as_ref() == Some(content), "{text}");
        let head = again.head(SYSTEM, name(text)).unwrap().unwrap();
        assert_eq!((head.system, head.name, head.bytes), (SYSTEM, name(text), content.len() as u64));
    }
    let listed: Vec<_> = again.list().unwrap()[&SYSTEM].iter().map(|file| file.name).collect();
    let mut names = files.map(|(text, _)| name(text));
    names.sort();
    assert_eq!(listed, names);
}

/// A server archives a file again when it did not hear that it was archived, and a standby archives it too.
/// Keeps E-7.
#[test]
fn the_same_file_again_is_a_success_and_another_under_its_name_never() {
    let (store, world) = new_repository();
    add_writer(&world.repo, &WRITER_KEY, Rights::WRITE);
    let (wal, _cache) = archive(store.clone(), KEY);
    let (standby, _cache) = archive(store.clone(), WRITER_KEY);
    let content = noise(1, 100_000);
    for text in [
        "000000010000000000000001",
        "000000010000000000000001.partial",
        "000000010000000000000001.00000028.backup",
        "00000002.history",
    ] {
        let name = name(text);
        wal.push(SYSTEM, name, &mut &*content).unwrap();
        let stored = store.get(&layout::wal(SYSTEM, name)).unwrap();
        for again in [&wal, &standby] {
            assert_eq!(again.push(SYSTEM, name, &mut &*content).unwrap(), Pushed::AlreadyThere, "{text}");
            let mut other = content.clone();
            other[99_999] ^= 1;
            is_differs(again.push(SYSTEM, name, &mut &*other));
            is_differs(again.push(SYSTEM, name, &mut &content[..99_999]));
        }
        assert!(store.get(&layout::wal(SYSTEM, name)).unwrap() == stored, "{text} was written over");
    }
}

#[test]
fn each_cluster_has_its_own_log() {
    let (store, _world) = new_repository();
    let (wal, _cache) = archive(store, KEY);
    let segment = name("000000010000000000000001");
    wal.push(SYSTEM, segment, &mut &*noise(1, 5000)).unwrap();
    assert_eq!(fetched(&wal, OTHER, segment), None);
    wal.push(OTHER, segment, &mut &*noise(2, 5000)).unwrap();
    assert_eq!(fetched(&wal, SYSTEM, segment), Some(noise(1, 5000)));
    assert_eq!(fetched(&wal, OTHER, segment), Some(noise(2, 5000)));
    assert_eq!(wal.list().unwrap().keys().copied().collect::<Vec<_>>(), [SYSTEM, OTHER]);
}

#[test]
fn of_two_that_archive_one_name_at_once_one_decides() {
    let (store, _world) = new_repository();
    let segment = name("000000010000000000000001");
    for (round, contents) in [(0, [1, 1]), (1, [1, 2])] {
        let system = SystemId(round);
        let start = Barrier::new(2);
        let results = std::thread::scope(|scope| {
            let push = |seed| {
                let (wal, _cache) = archive(store.clone(), KEY);
                // So that both have looked before either has stored.
                start.wait();
                wal.push(system, segment, &mut &*noise(seed, 3 << 20)).map(|_| seed)
            };
            contents.map(|seed| scope.spawn(move || push(seed))).map(|thread| thread.join().unwrap())
        });
        let (wal, _cache) = archive(store.clone(), KEY);
        let there = fetched(&wal, system, segment).unwrap();
        for (seed, result) in contents.into_iter().zip(results) {
            match result {
                Ok(_) => assert!(there == noise(seed, 3 << 20), "what was acknowledged is not there"),
                Err(error) => {
                    assert!(there != noise(seed, 3 << 20), "refused, and it is the same: {error}");
                    is_differs(Err(error));
                }
            }
        }
    }
}

#[test]
fn who_only_writes_archives_and_knows_again_and_cannot_read() {
    let (store, world) = new_repository();
    add_writer(&world.repo, &WRITER_KEY, Rights::WRITE);
    let (writer, _cache) = archive(store.clone(), WRITER_KEY);
    let segment = name("000000010000000000000001");
    writer.push(SYSTEM, segment, &mut &*noise(1, 5000)).unwrap();
    let fetching = writer.get(SYSTEM, segment, &mut Vec::new());
    assert!(matches!(fetching, Err(WalError::Repo(RepoError::NeedsIdentity))), "{fetching:?}");
    let (owner, _cache) = archive(store, KEY);
    assert_eq!(fetched(&owner, SYSTEM, segment), Some(noise(1, 5000)));
}

/// Whoever once had the metadata key could otherwise take the names of segments that are still to come.
#[test]
fn what_nobody_known_has_stored_does_not_count() {
    let (store, world) = new_repository();
    let elsewhere = store.fork();
    let cache = tempfile::tempdir().unwrap();
    let copy = open(elsewhere.clone(), cache.path()).unwrap();
    // Enrolled in another history of the same repository only.
    add_writer(&copy, &WRITER_KEY, Rights::WRITE);
    let (stranger, _cache) = archive(elsewhere.clone(), WRITER_KEY);
    let segment = name("000000010000000000000001");
    stranger.push(SYSTEM, segment, &mut &*noise(1, 5000)).unwrap();
    let key = layout::wal(SYSTEM, segment);
    store.put(&key, &elsewhere.get(&key).unwrap()).unwrap();

    let (wal, _cache) = archive(store.clone(), KEY);
    for result in [
        wal.push(SYSTEM, segment, &mut &*noise(1, 5000)).map(drop),
        wal.get(SYSTEM, segment, &mut Vec::new()).map(drop),
        wal.head(SYSTEM, segment).map(drop).map_err(WalError::from),
    ] {
        let error = result.expect_err("a stranger's file counts");
        assert!(error.to_string().contains("nobody whom the log knows"), "{error}");
    }
    drop(world);
}

#[test]
fn a_writer_whose_right_was_taken_archives_nothing_more() {
    let (store, world) = new_repository();
    add_writer(&world.repo, &WRITER_KEY, Rights::WRITE);
    let (writer, _cache) = archive(store.clone(), WRITER_KEY);
    writer.push(SYSTEM, name("000000010000000000000001"), &mut &*noise(1, 5000)).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let id = open_with(store.clone(), WRITER_KEY, cache.path()).unwrap().signer().id();
    world.repo.append(&mut |_| Ok(Change::Distrust(id))).unwrap();
    let (writer, _cache) = archive(store, WRITER_KEY);
    let refused = writer.push(SYSTEM, name("000000010000000000000002"), &mut &*noise(1, 5000));
    assert!(matches!(refused, Err(WalError::Repo(RepoError::NoRight { .. }))), "{refused:?}");
}

/// A name that can be seen is not yet on the disk: somebody else may be about to put it there.
/// Keeps E-7.
#[test]
fn nothing_is_acknowledged_before_the_store_says_that_it_is_durable() {
    let (store, _world) = new_repository();
    let segment = name("000000010000000000000001");
    let content = noise(1, 5000);
    for (verb, n_there) in [(Verb::Put, 0), (Verb::Stat, 1)] {
        let faulty = Arc::new(FaultyStore::new(store.clone()));
        let cache = tempfile::tempdir().unwrap();
        let unlock = Unlock::KeyFile(Secret32::new(KEY));
        let wal = WalArchive::open(faulty.clone(), unlock, Vec::new(), cache.path(), &system_cx()).unwrap();
        assert_eq!(wal.list().unwrap().len(), n_there);
        faulty.inject_always(verb, "wal", Fault::After(Failure::TimedOut));
        let pushed = wal.push(SYSTEM, segment, &mut &*content);
        assert!(matches!(pushed, Err(WalError::Repo(RepoError::Store(_)))), "{verb}: {pushed:?}");
        // It was stored all the same, and the next one finds it.
        let (wal, _cache) = archive(store.clone(), KEY);
        assert_eq!(wal.push(SYSTEM, segment, &mut &*content).unwrap(), Pushed::AlreadyThere, "{verb}");
    }
}

fn part(segment: &str, from: u32, to: u32) -> SegmentPart {
    SegmentPart::new(segment.parse().unwrap(), from, to).unwrap()
}

const SEGMENT: &str = "000000010000000000000001";

/// A segment of 1 MiB with the header that says so.
fn segment_content() -> Vec<u8> {
    let mut content = noise(1, 1 << 20);
    let head = [0x10, 0xd1, 2, 0, 1, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0];
    content[..16].copy_from_slice(&head);
    content[32..40].copy_from_slice(&[0, 0, 0x10, 0, 0, 0x20, 0, 0]);
    content
}

#[track_caller]
fn push_part(wal: &WalArchive, content: &[u8], from: u32, to: u32) {
    let mut bytes = &content[from as usize..to as usize];
    wal.push(SYSTEM, WalName::Part(part(SEGMENT, from, to)), &mut bytes).unwrap();
}

/// Keeps EC-10.
#[test]
fn of_a_segment_that_is_not_whole_its_beginning_comes_back() {
    let (store, _world) = new_repository();
    let (wal, _cache) = archive(store, KEY);
    let (content, segment) = (segment_content(), SEGMENT.parse().unwrap());
    let begun = || {
        let mut bytes = Vec::new();
        wal.get_begun(SYSTEM, segment, &mut bytes).unwrap().map(|got| (got == Got::Begun, bytes))
    };
    let server_file = || {
        let mut file = tempfile::tempfile().unwrap();
        let found = wal.get_file(SYSTEM, segment.into(), &mut file).unwrap();
        file.rewind().unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        found.then_some(bytes)
    };
    assert_eq!((begun(), server_file()), (None, None));
    push_part(&wal, &content, 5000, 9000);
    assert_eq!(begun(), None, "its first bytes are missing");
    push_part(&wal, &content, 0, 39);
    assert_eq!(server_file(), None, "nobody can say how long it is");
    for (from, to, end) in
        [(30, 5000, 9000), (8000, 20_000, 20_000), (20_001, 30_000, 20_000), (0, 700, 20_000)]
    {
        push_part(&wal, &content, from, to);
        assert_eq!(begun(), Some((true, content[..end].to_vec())), "{from}");
        let mut file = content[..end].to_vec();
        file.resize(1 << 20, 0);
        assert!(server_file() == Some(file), "{from}");
    }
    let parts = wal.parts(SYSTEM, segment).unwrap();
    assert_eq!(parts.len(), 6);
    assert_eq!(wal.parts(SYSTEM, "000000010000000000000002".parse().unwrap()).unwrap(), []);
    // A longer part takes the place of those in it, and the whole of all.
    push_part(&wal, &content, 0, 20_000);
    assert_eq!(wal.remove_parts_within(SYSTEM, WalName::Part(part(SEGMENT, 0, 20_000))).unwrap(), 5);
    assert_eq!(begun(), Some((true, content[..20_000].to_vec())));
    assert_eq!(wal.remove_parts_within(SYSTEM, segment.into()).unwrap(), 0, "it is not whole yet");
    wal.push(SYSTEM, segment.into(), &mut &*content).unwrap();
    assert_eq!(begun(), Some((false, content.clone())));
    assert_eq!(wal.remove_spent_parts(SYSTEM).unwrap(), 2);
    assert_eq!(wal.list().unwrap()[&SYSTEM].len(), 1);
    assert!(server_file() == Some(content));
}

#[test]
fn parts_that_contradict_each_other_are_damage_and_no_log() {
    let (store, _world) = new_repository();
    let (wal, _cache) = archive(store, KEY);
    let content = segment_content();
    push_part(&wal, &content, 0, 5000);
    let mut other = content;
    other[4999] ^= 1;
    push_part(&wal, &other, 4000, 9000);
    let error = wal.get_begun(SYSTEM, SEGMENT.parse().unwrap(), &mut Vec::new()).unwrap_err();
    assert!(matches!(&error, WalError::Repo(error) if error.is_damage()), "{error}");
}

/// A host that only writes leaves them to whoever prunes.
#[test]
fn who_may_not_prune_removes_no_part() {
    let (store, world) = new_repository();
    add_writer(&world.repo, &WRITER_KEY, Rights::WRITE);
    let (writer, _cache) = archive(store.clone(), WRITER_KEY);
    let content = segment_content();
    push_part(&writer, &content, 0, 5000);
    writer.push(SYSTEM, name(SEGMENT), &mut &*content).unwrap();
    assert_eq!(writer.remove_spent_parts(SYSTEM).unwrap(), 0);
    assert_eq!(
        writer.parts(SYSTEM, SEGMENT.parse().unwrap()).unwrap().len(),
        1,
        "it was removed all the same"
    );
    let (owner, _cache) = archive(store, KEY);
    assert_eq!(owner.remove_spent_parts(SYSTEM).unwrap(), 1);
}

/// They go as soon as the whole one is there, and whoever has just listed them must not take that for the end of the log.
#[test]
fn parts_that_go_while_they_are_read_are_looked_for_again() {
    let (store, _world) = new_repository();
    let (owner, _cache) = archive(store.clone(), KEY);
    let content = segment_content();
    for (from, to) in [(0, 4000), (4000, 9000)] {
        push_part(&owner, &content, from, to);
    }
    let segment: SegmentName = SEGMENT.parse().unwrap();
    for n in 1.. {
        let faulty = FaultyStore::new(store.fork());
        let (other, _cache) = archive(faulty.clone(), KEY);
        let (changes, _cache) = archive(faulty.clone(), KEY);
        faulty.forget_calls();
        let (calls, whole) = (AtomicUsize::new(0), content.clone());
        // The hook's own calls pass it too.
        faulty.before_each(move |_| {
            if calls.fetch_add(1, Ordering::Relaxed) + 1 == n {
                changes.push(SYSTEM, segment.into(), &mut &*whole).unwrap();
                changes.remove_spent_parts(SYSTEM).unwrap();
            }
        });
        let mut bytes = Vec::new();
        let got = other.get_begun(SYSTEM, segment, &mut bytes).unwrap().expect("it is there");
        let expected = if got == Got::Begun { 9000 } else { content.len() };
        assert!(bytes == content[..expected], "call {n}");
        if got == Got::Begun && n > 3 {
            return; // read to its end before the whole one came
        }
    }
}
