//! The format: what is in `testdata/` always opens, and a decoder that is not ours reads what we write.

use crate::world::{KEY, Tree, World, noise};
use hikae_model::{Attributes, BlobId, Cut, EntryKind, SessionId, SnapshotId};
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
use hikae_repo::{Repo, RepoError, layout};
use hikae_store::{MemoryStore, ObjectKey, Store};
use hikae_testkit::{not_run, system_cx};
use serde_json::{Value, json};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

/// A directory at the root of the project.
fn project(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name)
}

fn read_json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(project("testdata").join(name)).unwrap()).unwrap()
}

fn text(value: &Value) -> &str {
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
fn stored() -> MemoryStore {
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
struct Opened {
    repo: Repo,
    _cache: tempfile::TempDir,
}

impl std::ops::Deref for Opened {
    type Target = Repo;

    fn deref(&self) -> &Repo {
        &self.repo
    }
}

fn open(store: MemoryStore, unlock: Unlock, identities: &str) -> Result<Opened, RepoError> {
    let cache = tempfile::tempdir().unwrap();
    let identities = if identities.is_empty() { Vec::new() } else { parse_identities(identities)? };
    let repo = Repo::open(Arc::new(store), unlock, identities, cache.path(), &system_cx())?;
    Ok(Opened { repo, _cache: cache })
}

fn key_file(value: &Value) -> Unlock {
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

/// A Python that has what the decoder needs: the one that `./check` installs, or the system's.
fn python() -> Option<PathBuf> {
    [project("target/venv/bin/python"), PathBuf::from("python3")].into_iter().find(|python| {
        let needs = "import blake3, zstandard; import cryptography.hazmat.primitives.kdf.argon2";
        Command::new(python).args(["-c", needs]).output().is_ok_and(|output| output.status.success())
    })
}

/// Runs a program of `tools/`.
fn run(python: &Path, tool: &str, arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Output {
    let mut command = Command::new(python);
    // Without -B it would leave compiled modules in the source tree.
    command.arg("-B").arg(project("tools").join(tool));
    command.args(arguments.iter().map(|argument| argument.as_ref()));
    command.output().unwrap()
}

#[track_caller]
fn check_ran(output: &Output) {
    let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
    assert!(output.status.success(), "{said}");
}

const NO_PYTHON: &str = "no Python with blake3, cryptography 44 and zstandard; ./check installs one";

#[test]
fn the_decoder_knows_the_known_answers() {
    let Some(python) = python() else { return not_run(NO_PYTHON) };
    check_ran(&run(&python, "check_vectors.py", &[&project("testdata/vectors.json")]));
}

#[test]
fn the_decoder_reads_every_snapshot_of_the_first_format() {
    let Some(python) = python() else { return not_run(NO_PYTHON) };
    let (expected, scratch) = (read_json("repository-v1.json"), tempfile::tempdir().unwrap());
    let keys = &expected["keys"];
    let file = |name: &str, text: &str| {
        let path = scratch.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let repository = project("testdata/repository-v1");
    let writer = file("writer", text(&keys["writer_key_file"]));
    let identity = file("identity", text(&keys["identity"]));
    let later = file("later", text(&keys["later_identity"]));
    for (option, given) in [
        ("--passphrase-file", file("passphrase", text(&keys["passphrase"]))),
        ("--key-file", file("key", text(&keys["key_file"]))),
        ("--recovery", file("recovery", text(&keys["recovery"]))),
        ("--identity", identity.clone()),
    ] {
        check_ran(&run(&python, "decode.py", &[&repository, &option, &given, &"check"]));
    }
    for identity in [&identity, &later] {
        let arguments: [&dyn AsRef<_>; 6] =
            [&repository, &"--key-file", &writer, &"--identity", identity, &"check"];
        check_ran(&run(&python, "decode.py", &arguments));
    }
    for snapshot in expected["snapshots"].as_array().unwrap().iter().filter(|one| one["state"] == "there") {
        let key = scratch.path().join("key");
        let arguments: [&dyn AsRef<_>; 5] =
            [&repository, &"--key-file", &key, &"show", &text(&snapshot["id"])];
        let shown = run(&python, "decode.py", &arguments);
        check_ran(&shown);
        let shown: Vec<Value> = String::from_utf8(shown.stdout)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(json!(shown), snapshot["entries"]);
    }
}

#[test]
fn the_decoder_restores_files_links_modes_and_times() {
    let Some(python) = python() else { return not_run(NO_PYTHON) };
    let (expected, scratch) = (read_json("repository-v1.json"), tempfile::tempdir().unwrap());
    let (key, top) = (scratch.path().join("key"), scratch.path().join("restored"));
    std::fs::write(&key, text(&expected["keys"]["key_file"])).unwrap();
    let snapshot = &expected["snapshots"][0];
    let arguments: [&dyn AsRef<_>; 6] =
        [&project("testdata/repository-v1"), &"--key-file", &key, &"restore", &text(&snapshot["id"]), &top];
    let output = run(&python, "decode.py", &arguments);
    // Sockets and devices are not made, and it says so.
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    let said: Vec<_> = said.lines().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(said, ["dev/disk", "dev/null", "dev/socket"]);

    for entry in snapshot["entries"].as_array().unwrap() {
        let (kind, name) = (text(&entry["kind"]), unescaped(text(&entry["path"])));
        if ["socket", "character device", "block device"].contains(&kind) {
            continue;
        }
        let path = top.join(std::ffi::OsStr::from_bytes(&name));
        let meta = path.symlink_metadata().unwrap();
        let shown = text(&entry["path"]);
        if kind != "symlink" {
            assert_eq!(
                format!("{:04o}", meta.permissions().mode() & 0o7777),
                text(&entry["mode"]),
                "{shown}"
            );
        }
        assert_eq!(json!([meta.mtime(), meta.mtime_nsec()]), entry["modified"], "{shown}");
        match kind {
            "file" => {
                let hash = blake3::hash(&std::fs::read(&path).unwrap()).to_hex();
                assert_eq!(
                    (json!(meta.len()), hash.as_str()),
                    (entry["size"].clone(), text(&entry["blake3"])),
                    "{shown}"
                );
            }
            "directory" => assert!(meta.is_dir(), "{shown}"),
            "symlink" => {
                let target = std::fs::read_link(&path).unwrap();
                assert_eq!(target.as_os_str().as_bytes(), unescaped(text(&entry["link"])), "{shown}");
            }
            "hard link" => {
                let first = top.join(text(&entry["link"])).symlink_metadata().unwrap();
                assert_eq!((first.ino(), first.nlink()), (meta.ino(), 2), "{shown}");
            }
            "fifo" => assert!(meta.file_type().is_fifo(), "{shown}"),
            other => panic!("{other}"),
        }
    }
    let hole = top.join("srv/hole").symlink_metadata().unwrap();
    assert!(hole.blocks() * 512 < hole.len(), "a hole takes {} blocks", hole.blocks());
    // So that the scratch directory can be removed by any user.
    std::fs::set_permissions(top.join("srv/closed"), PermissionsExt::from_mode(0o755)).unwrap();
}

/// Takes the escapes out of a name in `testdata/repository-v1.json`.
fn unescaped(text: &str) -> Vec<u8> {
    let mut parts = text.split("\\x");
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    bytes
}

#[test]
fn the_decoder_finds_a_changed_byte_in_every_class_of_object() {
    let Some(python) = python() else { return not_run(NO_PYTHON) };
    let (expected, scratch) = (read_json("repository-v1.json"), tempfile::tempdir().unwrap());
    let (key, damaged) = (scratch.path().join("key"), scratch.path().join("repository"));
    std::fs::write(&key, text(&expected["keys"]["key_file"])).unwrap();
    let store = stored();
    let repo = open(store.clone(), key_file(&expected["keys"]["key_file"]), "").unwrap();
    let state = repo.state();
    let index = *state.indexes.keys().next().unwrap();
    let snapshot = *state.snapshots.keys().next().unwrap();
    let evidence = state.snapshots.values().find_map(|one| one.evidence.clone()).unwrap();
    let pack = repo.index().unwrap().packs().next().unwrap().id;
    for harmed in [
        layout::header(),
        layout::slot(state.epochs[0].epoch.object),
        layout::pack(pack),
        layout::index(index),
        layout::snapshot(snapshot),
        layout::log_entry(3),
        layout::evidence(evidence.id),
    ] {
        write_out(&store, &damaged, Some(&harmed));
        let output = run(&python, "decode.py", &[&damaged, &"--key-file", &key, &"check"]);
        assert!(!output.status.success(), "a changed byte in {harmed} is not found");
        std::fs::remove_dir_all(&damaged).unwrap();
    }
    write_out(&store, &damaged, None);
    check_ran(&run(&python, "decode.py", &[&damaged, &"--key-file", &key, &"check"]));
}

/// Writes a store into a directory, with one byte of `harmed` changed.
fn write_out(store: &MemoryStore, directory: &Path, harmed: Option<&ObjectKey>) {
    let mut keys = Vec::new();
    store.list("", &mut |object| keys.push(object.key)).unwrap();
    for key in keys {
        let mut bytes = store.get(&key).unwrap();
        if Some(&key) == harmed {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
        let path = directory.join(key.as_str());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// Keeps the words and the decoder true to what the code writes today.
#[test]
fn the_decoder_reads_what_is_written_now() {
    let Some(python) = python() else { return not_run(NO_PYTHON) };
    let store = MemoryStore::new();
    let world = World::over(Arc::new(store.clone()));
    let mut tree: Tree = (0..700).map(|n| (format!("dir/file-{n:03}"), noise(n, n as usize % 50))).collect();
    tree.insert("large".to_owned(), noise(1000, 5 << 20));
    let mut parent = None;
    for cut in [Cut::Files, Cut::Rows, Cut::Pages(4096)] {
        tree.get_mut("large").unwrap()[70_000] ^= 1;
        parent = Some(crate::world::backup(&world.repo, &tree, cut, parent).unwrap().snapshots[0]);
    }
    let scratch = tempfile::tempdir().unwrap();
    let (key, directory) = (scratch.path().join("key"), scratch.path().join("repository"));
    std::fs::write(&key, KEY).unwrap();
    write_out(&store, &directory, None);
    let arguments: [&dyn AsRef<_>; 4] = [&directory, &"--key-file", &key, &"check"];
    check_ran(&run(&python, "decode.py", &arguments));
}

/// The sizes stand in `docs/format.md` too, and whoever moves a cut point makes everything new.
#[test]
fn the_sizes_of_chunks_stay_what_the_format_says() {
    let header = Header::parse(&stored().get(&layout::header()).unwrap()).unwrap();
    assert_eq!(header.core.file_chunks, [FILES.min, FILES.average, FILES.max]);
    let keys = RepositorySecret::new([1; 32]).metadata_keys();
    assert_eq!(Chunker::new(&keys, FILES).max(), header.core.file_chunks[2]);
}
