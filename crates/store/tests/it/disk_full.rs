//! A full disk: a clean answer, nothing half stored, and all is well once there is room again.

use hikae_store::{DirectoryStore, Reserve, Store, StoreError};
use hikae_testkit::store_contract::{key, listed};
use hikae_testkit::{not_run, test_cx};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard};

/// A small disk of memory, unmounted when dropped. There is one at a time: a program that another test
/// starts holds our files open from its fork to its exec, and so the space of what we removed.
struct SmallDisk {
    directory: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl SmallDisk {
    /// `None` if we may not mount, which is said on standard error.
    #[track_caller]
    fn mount(options: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            not_run("needs root to mount a small disk");
            return None;
        }
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(|broken| broken.into_inner());
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "hikae-test"])
            .arg(directory.path())
            .output()
            .unwrap();
        if !mounted.status.success() {
            not_run(&format!("cannot mount: {}", String::from_utf8_lossy(&mounted.stderr).trim()));
            return None;
        }
        Some(Self { directory, _alone: alone })
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l"]).arg(self.path()).status();
    }
}

#[test]
fn a_full_disk_stores_nothing_by_halves_and_recovers() {
    let Some(disk) = SmallDisk::mount("size=4608k") else { return };
    let store = DirectoryStore::create(&disk.path().join("s"), Reserve::Bytes(0), test_cx().random).unwrap();
    let big = vec![7; 1 << 20];
    let mut n_stored = 0;
    let error = loop {
        match store.put(&key(&format!("packs/00/{n_stored}")), &big) {
            Ok(()) => n_stored += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error:?}");
    // The same without the guard that looks at the free space first.
    let error = store.put(&key("index/big"), &big).unwrap_err();
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error:?}");
    assert_eq!(listed(&store, "").unwrap().len(), n_stored);
    assert_eq!(std::fs::read_dir(disk.path().join("s/tmp")).unwrap().count(), 0);
    store.put(&key("log/1"), b"small enough").unwrap();
    store.remove(&key("packs/00/0")).unwrap();
    store.put(&key("index/big"), &big).unwrap();
    assert_eq!(store.get(&key("index/big")).unwrap(), big);
}

#[test]
fn a_disk_without_inodes_is_full() {
    let Some(disk) = SmallDisk::mount("size=8m,nr_inodes=300") else { return };
    let store = DirectoryStore::create(&disk.path().join("s"), Reserve::Bytes(0), test_cx().random).unwrap();
    let mut n_stored = 0;
    let error = loop {
        match store.put(&key(&format!("index/{n_stored}")), b"x") {
            Ok(()) => n_stored += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error:?}");
    assert_eq!(listed(&store, "").unwrap().len(), n_stored);
    store.remove(&key("index/0")).unwrap();
    store.put(&key("index/0"), b"y").unwrap();
}

#[test]
fn a_disk_mounted_read_only_can_be_read_and_refuses_the_rest() {
    let Some(disk) = SmallDisk::mount("size=8m") else { return };
    let path = disk.path().join("s");
    let store = DirectoryStore::create(&path, Reserve::Bytes(0), test_cx().random).unwrap();
    store.put(&key("log/1"), b"x").unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(disk.path()).status().unwrap();
    assert!(remounted.success());

    let store = DirectoryStore::open(&path, Reserve::Bytes(0), test_cx().random).unwrap();
    assert_eq!(store.get(&key("log/1")).unwrap(), b"x");
    assert_eq!(listed(&store, "").unwrap().len(), 1);
    for error in [
        store.put(&key("log/2"), b"x").unwrap_err(),
        store.put(&key("new/1"), b"x").unwrap_err(),
        store.remove(&key("log/1")).unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Permission { .. }), "{error:?}");
    }
    let problems = store.repair_modes().unwrap();
    assert_eq!((problems.len(), problems[0].code.as_str()), (1, "wide-mode"), "{problems:?}");
}
