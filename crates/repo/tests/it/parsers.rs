//! Parsers survive anything: no bytes make them panic or take memory without bound (I-8).
//!
//! Seeds are real objects; each is changed a few thousand times. What stands inside a seal is changed and
//! sealed again, or the seal would keep it from its parser: that is what a hostile holder of the metadata key
//! could store.

use crate::small::{Small, class_of, open};
use hikae_model::{BlobId, IndexId, PackId, SnapshotId};
use hikae_repo::epoch::{EpochRecord, SessionRecord};
use hikae_repo::evidence::EvidenceRecord;
use hikae_repo::extent::{Extent, ExtentMap};
use hikae_repo::header::Header;
use hikae_repo::index::{IndexedPack, Segment};
use hikae_repo::keys::{BlobClass, Secret32};
use hikae_repo::listing::{parse_directory, parse_hunk};
use hikae_repo::log::{EvidenceRef, LogEntry, hash_of};
use hikae_repo::object::{ObjectClass, open_object, seal_object};
use hikae_repo::pack::Footer;
use hikae_repo::pieces::{Piece, parse_pieces, pieces_to_bytes};
use hikae_repo::reader::BlobReader;
use hikae_repo::slot::Unlock;
use hikae_repo::snapshot::Snapshot;
use hikae_repo::state::State;
use hikae_repo::{Repo, layout, slot};
use hikae_store::{MemoryStore, Store};
use hikae_testkit::{Seed, TestRandom};

/// More than any of these small seeds should ever take, and less than a forged length could ask for.
const MAX_MEMORY_KIB: u64 = 192 << 10;

fn n_changes() -> usize {
    let asked = std::env::var("HIKAE_FUZZ").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(if std::env::var_os("HIKAE_FULL").is_some() { 200_000 } else { 1500 })
}

/// Changes a seed as fuzzers do: bits, lengths, edges, stretches that move, grow and vanish.
fn change(seed: &[u8], random: &TestRandom) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() as u64 + 1) as usize;
        let rest = bytes.len() - at;
        let n = random.below(rest.min(16) as u64 + 1) as usize;
        match random.below(8) {
            0 if rest > 0 => bytes[at] ^= 1 << random.below(8),
            1 if rest > 0 => bytes[at] = random.bytes(1)[0],
            2 => bytes[at..at + n].fill([0, 0x7f, 0x80, 0xff][random.below(4) as usize]),
            3 => drop(bytes.drain(at..at + n)),
            4 => drop(bytes.splice(at..at, random.bytes(n))),
            5 => bytes.truncate(at),
            6 if rest >= 4 => {
                let edge = [0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX, rest as u32][random.below(6) as usize];
                bytes[at..at + 4].copy_from_slice(&edge.to_le_bytes());
            }
            // A CBOR head that promises much.
            7 if rest >= 9 => {
                bytes[at] = [0x5b, 0x7b, 0x9b, 0xbb, 0x5a, 0x9a][random.below(6) as usize];
                let promise = [u64::MAX, 1 << 40, 1 << 32][random.below(3) as usize];
                bytes[at + 1..at + 9].copy_from_slice(&promise.to_be_bytes());
            }
            _ => {}
        }
    }
    bytes
}

/// Whether these bytes are what the parser takes.
type Parse<'a> = Box<dyn Fn(&[u8]) -> bool + 'a>;

/// A parser and what it is fed with.
struct Target<'a> {
    name: &'static str,
    seeds: Vec<Vec<u8>>,
    parse: Parse<'a>,
}

/// The plain bodies of the objects of a class, as they are sealed.
fn bodies(repo: &Repo, small: &Small, class: ObjectClass, directory: &str) -> Vec<Vec<u8>> {
    let repository = repo.header().core.repository;
    let mut contexts = vec![Vec::new()];
    contexts.extend((1..=33_u64).map(|n| [repository.as_bytes().as_slice(), &n.to_le_bytes()].concat()));
    contexts.extend(small.trees.keys().map(|id| [repository.as_bytes().as_slice(), id.as_bytes()].concat()));
    let keys = small.store.keys().into_iter().filter(|key| key.is_below(directory));
    keys.filter_map(|key| {
        let stored = small.store.get(&key).unwrap();
        contexts.iter().find_map(|context| open_object(class, context, stored.clone(), repo.keys()).ok())
    })
    .map(|opened| opened.body)
    .collect()
}

fn footers(repo: &Repo, small: &Small) -> Vec<Vec<u8>> {
    let keys = small.store.keys().into_iter().filter(|key| class_of(key) == "packs");
    keys.map(|key| {
        let pack = small.store.get(&key).unwrap();
        let length = u32::from_le_bytes(pack[pack.len() - 12..][..4].try_into().unwrap()) as usize;
        let sealed = pack[pack.len() - 12 - length..pack.len() - 12].to_vec();
        open_object(ObjectClass::Footer, b"", sealed, repo.keys()).unwrap().body
    })
    .collect()
}

/// Blobs of metadata of the first snapshots: directories, hunks, lists of pieces.
fn metadata(repo: &Repo, small: &Small) -> [Vec<Vec<u8>>; 3] {
    let mut reader = BlobReader::new(repo).unwrap();
    let mut blobs = [const { Vec::new() }; 3];
    for id in small.trees.keys() {
        let directory = repo.snapshot(*id).unwrap().record.listing.unwrap();
        let directory = reader.read(BlobClass::Metadata, directory).unwrap().to_vec();
        for hunk in parse_directory(&directory).unwrap() {
            blobs[1].push(reader.read(BlobClass::Metadata, hunk.blob).unwrap().to_vec());
        }
        blobs[0].push(directory);
    }
    let piece = |n: u8, bytes| Piece { hash: [n; 16], bytes };
    blobs[2] = vec![
        pieces_to_bytes(&[piece(1, 8192), piece(2, 8192)]),
        pieces_to_bytes(&[piece(1, 1), piece(2, 70_000)]),
    ];
    blobs
}

fn extent_map() -> Vec<u8> {
    let mut map = ExtentMap::default();
    for n in 0..5 {
        let blob = BlobId::from_bytes([n; 32]);
        map.push(Extent::Data { blob, offset: 300 * u32::from(n), bytes: 70_000 });
        map.push(Extent::Hole { bytes: 1 << 40 });
        map.set_pieces(blob, BlobId::from_bytes([100 + n; 32]));
    }
    map.to_bytes()
}

fn targets<'a>(repo: &'a Repo, small: &'a Small, scratch: &'a std::path::Path) -> Vec<Target<'a>> {
    let sealed = |class: ObjectClass, context: &[u8], body: &[u8]| {
        seal_object(class, context, body.to_vec(), repo.keys(), repo.signer())
    };
    let raw = |class: &str| -> Vec<Vec<u8>> {
        let keys = small.store.keys().into_iter().filter(|key| class_of(key) == class);
        keys.map(|key| small.store.get(&key).unwrap()).collect()
    };
    let repository = repo.header().core.repository;
    let snapshot = *small.trees.keys().next().unwrap();
    let [directories, hunks, pieces] = metadata(repo, small);
    let target = |name, seeds: Vec<Vec<u8>>, parse: Parse<'a>| {
        assert!(seeds.iter().any(|seed| parse(seed)), "no seed of `{name}` is what it parses");
        Target { name, seeds, parse }
    };
    let decodes = |name, seeds, decode: fn(&[u8]) -> bool| target(name, seeds, Box::new(decode));
    let sessions: Vec<_> = repo.index().unwrap().segments().flat_map(|s| s.sessions().to_vec()).collect();
    vec![
        target("header", raw("hikae.json"), Box::new(|bytes| Header::parse(bytes).is_ok())),
        target(
            "slot",
            raw("keys"),
            Box::new(|bytes| {
                // A passphrase would be stretched at whatever cost the bytes ask for, within bounds.
                let key = Unlock::KeyFile(Secret32::new(crate::world::KEY));
                matches!(slot::open(bytes, &key), Ok(Some(_)))
            }),
        ),
        target(
            "object",
            raw("index"),
            Box::new(|bytes| open_object(ObjectClass::Index, b"", bytes.to_vec(), repo.keys()).is_ok()),
        ),
        target("pack", raw("packs"), Box::new(|bytes| Footer::of_pack(bytes, repo.keys()).is_ok())),
        target(
            "stored pack",
            raw("packs"),
            Box::new(|bytes| {
                let (store, id) = (MemoryStore::new(), PackId::from_bytes([1; 32]));
                store.put(&layout::pack(id), bytes).unwrap();
                Footer::read(&store, id, repo.keys()).is_ok()
            }),
        ),
        target(
            "footer",
            footers(repo, small),
            Box::new(move |body| {
                let mut pack = sealed(ObjectClass::Footer, b"", body);
                pack.extend((pack.len() as u32).to_le_bytes());
                pack.extend(b"PACK0001");
                Footer::of_pack(&pack, repo.keys()).is_ok()
            }),
        ),
        target(
            "index",
            bodies(repo, small, ObjectClass::Index, "index"),
            Box::new(move |body| {
                let id = IndexId::from_bytes([1; 32]);
                let Ok(segment) = Segment::create(id, body, scratch, repo.hash_key()) else { return false };
                let mut ids = Vec::new();
                let walked = segment.each_pack(&mut |_: IndexedPack, frames| {
                    ids.extend(frames.iter().flat_map(|frame| &frame.blobs).map(|blob| blob.id));
                    Ok(())
                });
                ids.iter().for_each(|id| drop(segment.find(*id, &mut |_| true)));
                walked.is_ok()
            }),
        ),
        target(
            "snapshot",
            bodies(repo, small, ObjectClass::Snapshot, "snapshots"),
            Box::new(move |body| {
                let stored = sealed(ObjectClass::Snapshot, b"", body);
                Snapshot::open(SnapshotId::from_bytes(hash_of(&stored)), stored, repo.keys()).is_ok()
            }),
        ),
        target(
            "log entry",
            bodies(repo, small, ObjectClass::LogEntry, "log"),
            Box::new(move |body| {
                let n = minicbor::decode::<LogEntry>(body).map_or(2, |entry| entry.n);
                let context = [repository.as_bytes().as_slice(), &n.to_le_bytes()].concat();
                let stored = sealed(ObjectClass::LogEntry, &context, body);
                match LogEntry::open(n, stored, repository, repo.keys()) {
                    Ok((entry, writer)) => {
                        let mut state = State::begin(repo.header());
                        (state.n, state.head) = (n.saturating_sub(1), entry.previous);
                        state.apply(&entry, writer, [0; 32]).is_ok()
                    }
                    Err(_) => false,
                }
            }),
        ),
        decodes("checkpoint", bodies(repo, small, ObjectClass::Checkpoint, "checkpoints"), |body| {
            minicbor::decode::<State>(body).is_ok_and(|state| !state.newest_first(None).is_empty())
        }),
        decodes("epoch", bodies(repo, small, ObjectClass::Epoch, "keys"), |body| {
            minicbor::decode::<EpochRecord>(body).is_ok()
        }),
        target(
            "session",
            sessions.iter().map(|session| minicbor::to_vec(session).unwrap()).collect(),
            Box::new(|body| {
                let family = repo.keys().family();
                minicbor::decode::<SessionRecord>(body).is_ok_and(|session| {
                    let index = repo.index().unwrap();
                    let _ = repo.contents().session_key(&session, index.epoch_of(&session, family));
                    session.is_signed(family)
                })
            }),
        ),
        target(
            "evidence",
            bodies(repo, small, ObjectClass::Evidence, "evidence"),
            Box::new(move |body| {
                let context = [repository.as_bytes().as_slice(), snapshot.as_bytes()].concat();
                let stored = sealed(ObjectClass::Evidence, &context, body);
                let id = hikae_model::EvidenceId::from_bytes(hash_of(&stored));
                let reference = EvidenceRef { id, snapshot, passed: true };
                EvidenceRecord::open(&reference, stored, repository, repo.keys()).is_ok()
            }),
        ),
        decodes("directory", directories, |bytes| parse_directory(bytes).is_ok()),
        decodes("listing", hunks, |bytes| parse_hunk(bytes).is_ok()),
        decodes("extent map", vec![extent_map()], |bytes| {
            ExtentMap::parse(bytes).is_ok_and(|map| map.bytes() > 0 && !map.blobs().is_empty())
        }),
        decodes("pieces", pieces, |bytes| parse_pieces(bytes).is_ok()),
    ]
}

fn peak_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

const ALONE: &str = "HIKAE_PARSERS_ALONE";

#[test]
fn no_bytes_make_a_parser_panic_or_take_memory_without_bound() {
    if std::env::var_os(ALONE).is_none() {
        // In a process of its own, so that the peak of its memory is that of the parsers. By this name, which
        // holds when the file was replaced by a newer build.
        let test = "parsers::no_bytes_make_a_parser_panic_or_take_memory_without_bound";
        let ran = std::process::Command::new("/proc/self/exe")
            .args([test, "--exact", "--nocapture"])
            .env(ALONE, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success(), "{said}\n{}", String::from_utf8_lossy(&ran.stderr));
        println!("{said}");
        return;
    }
    let random = TestRandom::new(Seed::draw());
    let small = Small::build();
    let (cache, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let repo = open(small.store.clone(), cache.path()).unwrap();
    let targets = targets(&repo, &small, scratch.path());
    assert!(targets.len() >= 15);
    for target in &targets {
        let mut n_parsed = 0;
        for n in 0..n_changes() {
            let seed = &target.seeds[n % target.seeds.len()];
            n_parsed += usize::from((target.parse)(&change(seed, &random)));
        }
        println!("{}: {} changed, {n_parsed} still parse", target.name, n_changes());
    }
    let peak = peak_memory_kib();
    println!("{peak} KiB at the most");
    assert!(peak < MAX_MEMORY_KIB, "{peak} KiB");
}
