//! The format: what is in `testdata/` always opens.

use hikae_model::{Attributes, BlobId, EntryKind, SessionId, SnapshotId};
use hikae_repo::chunk::{Chunker, FILES};
use hikae_repo::epoch::{ContentKeys, EpochRecord, SessionRecord};
use hikae_repo::extent::{Extent, ExtentMap};
use hikae_repo::frame::{Codec, FrameCoder, FrameHead};
use hikae_repo::header::Header;
use hikae_repo::keys::{BlobClass, RepositorySecret, Secret32};
use hikae_repo::listing::StoredEntry;
use hikae_repo::object::{ObjectClass, open_object};
use hikae_repo::pieces::piece_hash;
use hikae_repo::reach::{Entries, Named};
use hikae_repo::reader::BlobReader;
use hikae_repo::recipient::{identity, identity_text, parse_identities};
use hikae_repo::seal::{self, Algorithm};
use hikae_repo::slot::{self, Payload, Unlock};
use hikae_repo::state::State;
use hikae_repo::wal::WalArchive;
use hikae_repo::{Repo, RepoError, layout};
use hikae_store::{MemoryStore, ObjectKey, Store};
use hikae_testkit::system_cx;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A directory at the root of the project.
pub fn project(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name)
}

pub fn read_json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(project("testdata").join(name)).unwrap()).unwrap()
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

fn bytes(value: &Value) -> Vec<u8> {
    let text = text(value);
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

fn number<T: TryFrom<u64>>(value: &Value) -> T {
    value.as_u64().and_then(|number| number.try_into().ok()).unwrap_or_else(|| panic!("{value}"))
}

/// The stored repository, in memory.
pub fn stored() -> MemoryStore {
    fn load(store: &MemoryStore, top: &Path, directory: &Path) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                load(store, top, &path);
            } else {
                let key = ObjectKey::parse(path.strip_prefix(top).unwrap().to_str().unwrap()).unwrap();
                store.put(&key, &std::fs::read(&path).unwrap()).unwrap();
            }
        }
    }
    let (store, top) = (MemoryStore::new(), project("testdata/repository-v1"));
    load(&store, &top, &top);
    store
}

/// A repository that was opened with an empty cache.
pub struct Opened {
    repo: Repo,
    _cache: tempfile::TempDir,
}

impl std::ops::Deref for Opened {
    type Target = Repo;

    fn deref(&self) -> &Repo {
        &self.repo
    }
}

pub fn open(store: MemoryStore, unlock: Unlock, identities: &str) -> Result<Opened, RepoError> {
    let cache = tempfile::tempdir().unwrap();
    let identities = if identities.is_empty() { Vec::new() } else { parse_identities(identities)? };
    let repo = Repo::open(Arc::new(store), unlock, identities, cache.path(), &system_cx())?;
    Ok(Opened { repo, _cache: cache })
}

pub fn key_file(value: &Value) -> Unlock {
    Unlock::KeyFile(Secret32::new(array(value)))
}

/// What a restore of this entry gives, in the words of `testdata/repository-v1.json`.
fn described(entry: &StoredEntry, reader: &mut BlobReader<'_>) -> Value {
    let shown = |bytes: &[u8]| {
        let shown = |byte: &u8| match byte {
            b' '..=b'~' if *byte != b'\\' => char::from(*byte).to_string(),
            byte => format!("\\x{byte:02x}"),
        };
        bytes.iter().map(shown).collect::<String>()
    };
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let Attributes { mode, uid, gid, modified, ref xattrs, .. } = entry.entry.attributes;
    let mut value = json!({
        "path": shown(entry.entry.path.as_bytes()),
        "mode": format!("{mode:04o}"),
        "owner": [uid, gid],
        "modified": [modified.seconds, modified.nanoseconds],
    });
    value["kind"] = json!(match &entry.entry.kind {
        EntryKind::File { size } => {
            value["size"] = json!(size);
            value["blake3"] = json!(content_hash(entry, reader));
            "file"
        }
        EntryKind::Directory => "directory",
        EntryKind::Symlink { target } => {
            value["link"] = json!(shown(target));
            "symlink"
        }
        EntryKind::HardLink { to } => {
            value["link"] = json!(shown(to.as_bytes()));
            "hard link"
        }
        EntryKind::Fifo => "fifo",
        EntryKind::Socket => "socket",
        EntryKind::CharDevice { major, minor } => {
            value["device"] = json!([major, minor]);
            "character device"
        }
        EntryKind::BlockDevice { major, minor } => {
            value["device"] = json!([major, minor]);
            "block device"
        }
    });
    if !xattrs.is_empty() {
        value["xattrs"] = xattrs.iter().map(|x| json!([shown(&x.name), hex(&x.value)])).collect();
    }
    value
}

fn content_hash(entry: &StoredEntry, reader: &mut BlobReader<'_>) -> String {
    let mut hasher = blake3::Hasher::new();
    for map in reader.extents(&entry.content).unwrap() {
        for extent in map.extents() {
            match *extent {
                Extent::Hole { bytes } => hasher.update(&vec![0; bytes as usize]),
                Extent::Data { blob, offset, bytes } => {
                    let blob = reader.read(BlobClass::Content, blob).unwrap();
                    hasher.update(&blob[offset as usize..offset as usize + bytes as usize])
                }
            };
        }
    }
    hasher.finalize().to_hex().to_string()
}

fn entries(repo: &Repo, id: SnapshotId) -> Vec<Value> {
    let snapshot = repo.snapshot(id).unwrap();
    let named = Named { id, record: &snapshot.record };
    let mut entries = Entries::of(BlobReader::new(repo).unwrap(), named, None).unwrap();
    let mut all = Vec::new();
    while let Some(entry) = entries.next_entry().unwrap() {
        all.push(described(&entry, entries.reader()));
    }
    all
}

#[test]
fn the_first_format_opens_with_each_of_its_keys() {
    let expected = read_json("repository-v1.json");
    let keys = &expected["keys"];
    let wanted = &expected["snapshots"][0];
    let first: SnapshotId = text(&wanted["id"]).parse().unwrap();
    for (what, unlock, identities) in [
        ("passphrase", Unlock::Passphrase(text(&keys["passphrase"]).to_owned().into()), ""),
        ("key file", key_file(&keys["key_file"]), ""),
        ("identity", Unlock::Identities(parse_identities(text(&keys["identity"])).unwrap()), ""),
        ("recovery", Unlock::Recovery(RepositorySecret::new(array(&keys["recovery"]))), ""),
        ("writer and identity", key_file(&keys["writer_key_file"]), text(&keys["identity"])),
    ] {
        let repo = open(stored(), unlock, identities).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(json!(entries(&repo, first)), wanted["entries"], "{what}");
    }
    let writer = open(stored(), key_file(&keys["writer_key_file"]), "").unwrap();
    assert!(!writer.contents().has_identity());
    assert!(matches!(
        open(stored(), Unlock::KeyFile(Secret32::new([1; 32])), ""),
        Err(RepoError::WrongKey { .. })
    ));
}

#[test]
fn every_snapshot_of_the_first_format_reads_back_to_the_byte() {
    let expected = read_json("repository-v1.json");
    let repo = open(stored(), key_file(&expected["keys"]["key_file"]), "").unwrap();
    let state = repo.state();
    let mut there = 0;
    for snapshot in expected["snapshots"].as_array().unwrap() {
        let id: SnapshotId = text(&snapshot["id"]).parse().unwrap();
        if snapshot["state"] == "forgotten" {
            assert!(state.forgotten.contains_key(&id));
            continue;
        }
        assert_eq!(state.snapshots[&id].snapshot.source, text(&snapshot["source"]));
        assert_eq!(json!(entries(&repo, id)), snapshot["entries"]);
        there += 1;
    }
    assert_eq!((there, state.epochs.len()), (state.snapshots.len(), 2));
    assert_eq!(
        (json!(state.n), json!(state.void)),
        (expected["log_entries"].clone(), expected["void_entries"].clone())
    );
}

#[test]
fn the_write_ahead_log_of_the_first_format_comes_back_for_each_recipient() {
    let expected = read_json("repository-v1.json");
    let keys = &expected["keys"];
    for (unlock, identities) in [
        (key_file(&keys["key_file"]), ""),
        (key_file(&keys["writer_key_file"]), text(&keys["identity"])),
        // In the first epoch only its second wrap is for this one.
        (key_file(&keys["writer_key_file"]), text(&keys["later_identity"])),
    ] {
        let identities =
            if identities.is_empty() { Vec::new() } else { parse_identities(identities).unwrap() };
        let cache = tempfile::tempdir().unwrap();
        let wal =
            WalArchive::open(Arc::new(stored()), unlock, identities, cache.path(), &system_cx()).unwrap();
        let files = expected["wal"].as_array().unwrap();
        assert_eq!((files.len(), wal.list().unwrap().values().map(Vec::len).sum::<usize>()), (7, 7));
        for file in files {
            let (system, name) =
                (text(&file["system"]).parse().unwrap(), text(&file["name"]).parse().unwrap());
            let mut bytes = Vec::new();
            let head = wal.get(system, name, &mut bytes).unwrap().unwrap();
            assert_eq!((json!(head.bytes), bytes.len() as u64), (file["size"].clone(), head.bytes));
            assert_eq!(blake3::hash(&bytes).to_hex().as_str(), text(&file["blake3"]), "{name}");
        }
    }
}

#[test]
fn the_checkpoint_of_the_first_format_is_what_its_log_folds_to() {
    let expected = read_json("repository-v1.json");
    let open = |store| open(store, key_file(&expected["keys"]["key_file"]), "").unwrap();
    let with = stored();
    let without = stored();
    let mut checkpoints = Vec::new();
    with.list("checkpoints", &mut |object| checkpoints.push(object.key)).unwrap();
    assert!(!checkpoints.is_empty());
    checkpoints.iter().for_each(|key| without.remove(key).unwrap());
    // Entry 1 is not read again when a checkpoint is believed.
    with.remove(&layout::log_entry(1)).unwrap();
    let (with, without): (Arc<State>, Arc<State>) = (open(with).state(), open(without).state());
    assert_eq!(with, without);
}

#[test]
fn the_known_answers_hold() {
    let known = read_json("vectors.json");
    let secret = RepositorySecret::new(array(&known["secret"]));
    let keys = secret.metadata_keys();

    let derived = &known["keys"];
    assert_eq!(keys.id_root().bytes(), &array(&derived["id_root"]));
    assert_eq!(keys.family().to_string(), text(&derived["family"]));
    assert_eq!(keys.hash_key().0, array(&derived["hash_key"]));
    assert_eq!(keys.newest_seal().1.bytes(), &array(&derived["metadata_key_1"]));
    assert_eq!(secret.root().seed().bytes(), &array(&derived["root_seed"]));
    assert_eq!(secret.root().id().to_string(), text(&derived["root"]));
    let first = secret.first_identity();
    assert_eq!(first.bytes(), &array(&derived["first_identity"]));
    assert_eq!(identity_text(&first).as_str(), text(&derived["first_identity_text"]));
    assert_eq!(identity(&first).to_public().to_string(), text(&derived["first_recipient"]));
    let mut gear = [0; 256];
    keys.fill_gear(&mut gear);
    assert_eq!(json!([gear[0], gear[1], gear[255]].map(|entry| format!("{entry:016x}"))), derived["gear"]);

    for blob in known["blobs"].as_array().unwrap() {
        let class = BlobClass::from_number(number(&blob["class"])).unwrap();
        assert_eq!(keys.blob_id(class, &bytes(&blob["plain"])).to_string(), text(&blob["id"]));
    }
    let piece = &known["piece"];
    assert_eq!(piece_hash(keys.hash_key(), &bytes(&piece["plain"])), array(&piece["hash"]));
    for one in known["seals"].as_array().unwrap() {
        let algorithm = Algorithm::from_number(number(&one["algorithm"])).unwrap();
        let mut sealed = bytes(&one["plain"]);
        let salt =
            seal::seal(&Secret32::new(array(&one["key"])), algorithm, &bytes(&one["aad"]), &mut sealed);
        assert_eq!((salt, sealed), (array(&one["salt"]), bytes(&one["sealed"])));
    }
    for one in known["frames"].as_array().unwrap() {
        let plain = bytes(&one["plain"]);
        let head = FrameHead {
            session: SessionId::from_bytes(array(&one["session"])),
            number: number(&one["number"]),
            class: BlobClass::from_number(number(&one["class"])).unwrap(),
            codec: Codec::from_number(number(&one["codec"])).unwrap(),
            algorithm: Algorithm::from_number(number(&one["algorithm"])).unwrap(),
            salt: array(&one["salt"]),
            plain_bytes: plain.len() as u32,
        };
        let (key, stored) = (Secret32::new(array(&one["key"])), bytes(&one["stored"]));
        let opened = FrameCoder::new(keys.family()).unwrap().open(&head, &key, stored.clone());
        assert_eq!(opened.unwrap(), plain);
        let mut sealed = stored;
        assert!(seal::open(&key, head.algorithm, &head.salt, &bytes(&one["aad"]), &mut sealed).is_ok());
    }
    let one = &known["object"];
    let opened =
        open_object(ObjectClass::LogEntry, &bytes(&one["context"]), bytes(&one["stored"]), &keys).unwrap();
    assert_eq!(
        (opened.body, opened.writer.to_string()),
        (bytes(&one["body"]), text(&one["writer"]).to_owned())
    );
    let header = Header::parse(text(&known["core"]["stored"]).as_bytes()).unwrap();
    assert_eq!(header.core.hash(), array(&known["core"]["hash"]));
    check_known_slots(&known["slots"], &secret);

    let one = &known["session"];
    let epoch: EpochRecord = minicbor::decode(&bytes(&one["epoch"])).unwrap();
    let session: SessionRecord = minicbor::decode(&bytes(&one["session"])).unwrap();
    assert!(session.is_signed(keys.family()));
    let contents = ContentKeys::new(keys.family(), vec![Box::new(identity(&first))]);
    assert_eq!(contents.session_key(&session, Some(&epoch)).unwrap().bytes(), &array(&one["key"]));

    let one = &known["extents"];
    let extents = ExtentMap::parse(&bytes(&one["stored"])).unwrap();
    let shown = |extent: &Extent| match extent {
        Extent::Hole { bytes } => json!([null, 0, bytes]),
        Extent::Data { blob, offset, bytes } => json!([blob.to_string(), offset, bytes]),
    };
    assert_eq!(json!(extents.extents().iter().map(shown).collect::<Vec<_>>()), one["extents"]);
    assert_eq!(extents.pieces_of(BlobId::from_bytes([2; 32])), Some(BlobId::from_bytes([4; 32])));
    assert_eq!(extents.to_bytes(), bytes(&one["stored"]));
}

fn check_known_slots(slots: &Value, secret: &RepositorySecret) {
    let identities = parse_identities(text(&slots["recipient"]["with"])).unwrap();
    for (kind, unlock) in [
        ("passphrase", Unlock::Passphrase(text(&slots["passphrase"]["with"]).to_owned().into())),
        ("key_file", key_file(&slots["key_file"]["with"])),
        ("recipient", Unlock::Identities(identities)),
    ] {
        let opened = slot::open(&bytes(&slots[kind]["stored"]), &unlock).unwrap().unwrap();
        assert_eq!(opened.header, array(&slots["core_hash"]));
        assert!(
            matches!(opened.payload, Payload::Owner(opened) if opened.bytes() == secret.bytes()),
            "{kind}"
        );
    }
}

/// The sizes stand in `docs/format.md` too, and whoever moves a cut point makes everything new.
#[test]
fn the_sizes_of_chunks_stay_what_the_format_says() {
    let header = Header::parse(&stored().get(&layout::header()).unwrap()).unwrap();
    assert_eq!(header.core.file_chunks, [FILES.min, FILES.average, FILES.max]);
    let keys = RepositorySecret::new([1; 32]).metadata_keys();
    assert_eq!(Chunker::new(&keys, FILES).max(), header.core.file_chunks[2]);
}
