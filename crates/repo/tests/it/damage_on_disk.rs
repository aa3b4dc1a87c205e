//! Harm that only files can come to (B-5): an object that nobody may read, or in whose place stands a link, a directory
//! or a pipe. It is found, never followed, and never restored from.

use crate::small::{Small, class_of, open};
use crate::world::restore;
use hikae_model::Outcome;
use hikae_repo::Repo;
use hikae_repo::verify::{VerifyOptions, verify};
use hikae_store::{DirectoryStore, ObjectKey, Reserve, Store};
use hikae_testkit::{not_run, system_cx};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

const READ_DATA: VerifyOptions = VerifyOptions { read_data: true, snapshots: None, sample: None };

/// The small repository as files.
struct OnDisk {
    small: Small,
    root: tempfile::TempDir,
    owner: Arc<Repo>,
    _cache: tempfile::TempDir,
}

impl OnDisk {
    fn new() -> Self {
        let (small, root, cache) =
            (Small::build(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = directory(root.path(), true);
        for key in small.store.keys() {
            store.put(&key, &small.store.get(&key).unwrap()).unwrap();
        }
        let owner = open(store, cache.path()).unwrap();
        Self { small, root, owner, _cache: cache }
    }

    /// Verify, by who opened it while it was well, sees that something is wrong; who opens it now gets right bytes or
    /// an error.
    #[track_caller]
    fn check_found(&self, what: &str) {
        let report = verify(&self.owner, &READ_DATA, self.owner.cx());
        let seen = report.as_ref().is_ok_and(|report| report.outcome == Outcome::Failed);
        assert!(seen || report.is_err(), "{what}: not seen: {report:?}");
        let cache = tempfile::tempdir().unwrap();
        let Ok(repo) = open(directory(self.root.path(), false), cache.path()) else { return };
        for (id, tree) in &self.small.trees {
            if let Ok(restored) = restore(&repo, *id) {
                assert!(restored == *tree, "{what}: wrong bytes were restored");
            }
        }
    }

    /// One object of each class but checkpoints, on which nothing rests.
    fn one_of_each(&self) -> Vec<ObjectKey> {
        let mut keys = BTreeMap::new();
        for key in self.small.store.keys() {
            keys.entry(class_of(&key)).or_insert(key);
        }
        keys.remove("checkpoints");
        assert!(keys.len() >= 7, "{keys:?}");
        keys.into_values().collect()
    }
}

fn directory(path: &Path, new: bool) -> DirectoryStore {
    let random = system_cx().random_source();
    let reserve = Reserve::Bytes(0);
    if new {
        DirectoryStore::create(path, reserve, random)
    } else {
        DirectoryStore::open(path, reserve, random)
    }
    .unwrap()
}

#[test]
fn what_stands_in_the_place_of_an_object_is_found_and_never_read() {
    let disk = OnDisk::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let mut n_tried = 0;
    // Nothing names a file of write-ahead log: to verify, one in whose place no object stands is not there.
    for key in disk.one_of_each().into_iter().filter(|key| !key.is_below("wal")) {
        let path = disk.root.path().join(key.as_str());
        let bytes = std::fs::read(&path).unwrap();
        let outside = elsewhere.path().join("outside");
        std::fs::write(&outside, &bytes).unwrap();
        type Put<'p> = Box<dyn Fn(&Path) + 'p>;
        let harms: [(&str, Put<'_>); 5] = [
            // Even to the very same bytes: what it points to may change any day.
            ("a link to a copy of it", Box::new(|path| std::os::unix::fs::symlink(&outside, path).unwrap())),
            ("a link to nothing", Box::new(|path| std::os::unix::fs::symlink("nowhere", path).unwrap())),
            ("a link to itself", Box::new(|path| std::os::unix::fs::symlink(path, path).unwrap())),
            ("a directory", Box::new(|path| std::fs::create_dir(path).unwrap())),
            (
                "a pipe",
                Box::new(|path| {
                    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
                    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
                }),
            ),
        ];
        for (name, put) in harms {
            std::fs::remove_file(&path).unwrap();
            put(&path);
            disk.check_found(&format!("{name} in place of {key}"));
            if path.symlink_metadata().unwrap().is_dir() {
                std::fs::remove_dir(&path).unwrap();
            } else {
                std::fs::remove_file(&path).unwrap();
            }
            std::fs::write(&path, &bytes).unwrap();
            n_tried += 1;
        }
    }
    let report = verify(&disk.owner, &READ_DATA, disk.owner.cx()).unwrap();
    assert_eq!(report.outcome, Outcome::Complete, "mended: {:?}", report.problems);
    println!("{n_tried} harms tried and found");
}

#[test]
fn an_object_that_may_not_be_read_is_found() {
    if rustix::process::geteuid().is_root() {
        return not_run("root may read everything");
    }
    let disk = OnDisk::new();
    for key in disk.one_of_each() {
        let path = disk.root.path().join(key.as_str());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
        disk.check_found(&format!("{key} that may not be read"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
    }
}

/// Who else may write to an object is told, and shut out.
#[test]
fn an_object_that_others_may_use_is_theirs_no_more() {
    let disk = OnDisk::new();
    for key in disk.one_of_each() {
        let path = disk.root.path().join(key.as_str());
        let above = disk.root.path();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        std::fs::set_permissions(above, std::fs::Permissions::from_mode(0o777)).unwrap();
        let repaired = directory(above, false).repair_modes().unwrap();
        assert!(
            repaired.iter().any(|problem| problem.to_string().contains(key.as_str())),
            "{key}: {repaired:?}"
        );
        for place in [&path, above] {
            assert_eq!(std::fs::metadata(place).unwrap().permissions().mode() & 0o077, 0, "{key}");
        }
    }
}
