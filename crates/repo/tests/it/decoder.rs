//! `tools/decode.py` shares no code with us: what it reads, the words of `docs/format.md` say (I-3).

use crate::small::{self, Small, log_files};
use crate::testdata::{key_file, open, project, read_json, stored, text};
use crate::world::{KEY, Tree, World, noise};
use hikae_model::{Cut, SystemId};
use hikae_repo::layout;
use hikae_repo::wal::WalArchive;
use hikae_store::{MemoryStore, ObjectKey, Store};
use hikae_testkit::not_run;
use serde_json::{Value, json};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

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
    let wal = &expected["wal"][0];
    let mut bundle = None;
    store.list("wal", &mut |object| bundle = layout::wal_bundle_of(&object.key).or(bundle)).unwrap();
    let (system, bundle) = bundle.unwrap();
    for harmed in [
        layout::wal_bundle(system, bundle),
        layout::header(),
        layout::slot(state.epochs[0].epoch.object),
        layout::pack(pack),
        layout::index(index),
        layout::snapshot(snapshot),
        layout::log_entry(3),
        layout::evidence(evidence.id),
        layout::wal(text(&wal["system"]).parse().unwrap(), text(&wal["name"]).parse().unwrap()),
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
    let segment = noise(2000, 5 << 20);
    let (system, name) = (SystemId(7), "000000010000000000000001");
    WalArchive::of(&world.repo).push(system, name.parse().unwrap(), &mut &*segment).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let (key, directory) = (scratch.path().join("key"), scratch.path().join("repository"));
    std::fs::write(&key, KEY).unwrap();
    write_out(&store, &directory, None);
    let arguments: [&dyn AsRef<_>; 4] = [&directory, &"--key-file", &key, &"check"];
    check_ran(&run(&python, "decode.py", &arguments));
    let (object, target) = (layout::wal(system, name.parse().unwrap()), scratch.path().join("segment"));
    let arguments: [&dyn AsRef<_>; 6] = [&directory, &"--key-file", &key, &"wal", &object.as_str(), &target];
    check_ran(&run(&python, "decode.py", &arguments));
    assert!(std::fs::read(target).unwrap() == segment);
}

#[test]
fn the_decoder_reads_segments_out_of_bundles() {
    let Some(python) = python() else { return not_run(NO_PYTHON) };
    let small = Small::build();
    let scratch = tempfile::tempdir().unwrap();
    let (key, directory) = (scratch.path().join("key"), scratch.path().join("repository"));
    std::fs::write(&key, KEY).unwrap();
    write_out(&small.store, &directory, None);
    let arguments: [&dyn AsRef<_>; 4] = [&directory, &"--key-file", &key, &"check"];
    check_ran(&run(&python, "decode.py", &arguments));
    for (number, (name, content)) in log_files().into_iter().enumerate() {
        let (object, target) = (layout::wal(small::SYSTEM, name), scratch.path().join(number.to_string()));
        let arguments: [&dyn AsRef<_>; 6] =
            [&directory, &"--key-file", &key, &"wal", &object.as_str(), &target];
        check_ran(&run(&python, "decode.py", &arguments));
        assert!(std::fs::read(target).unwrap() == content, "{name}");
    }
}
