//! Small objects of a far store of which this machine keeps copies: snapshot records, key epochs, packs of metadata.
//!
//! Each has the hash of its bytes for a name and none is ever replaced, so a copy is as good as what it was made of. But it
//! proves nothing about the store: whoever is to show that a backup comes back from there (a drill, a verification), or
//! deletes by what it finds, sets the copies aside. They can be deleted at any time, and what cannot be written costs time
//! and nothing else.
//!
//! This module knows names and bytes; whether a stretch of a pack opens, its caller sees.

use hikae_model::sabotage;
use hikae_store::{ObjectKey, Store, StoreError};
use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Room for copies. A listing takes some 100 bytes for each file, and less where it did not change.
const MOST_BYTES: u64 = 1 << 30;

/// A pack of which so many stretches were asked for is fetched whole.
const STRETCHES: u32 = 2;

/// The copies that a machine keeps of one repository.
pub(crate) struct Near {
    /// Nothing where the store is near itself.
    directory: Option<PathBuf>,
    is_set_aside: AtomicBool,
    stretches: Mutex<HashMap<ObjectKey, u32>>,
}

impl Near {
    /// The copies of what is in `store`, kept in `directory`.
    pub fn of(store: &dyn Store, directory: PathBuf) -> Self {
        let directory = store.is_far().then_some(directory);
        directory.iter().for_each(|directory| make_room(directory));
        Self { directory, is_set_aside: AtomicBool::new(false), stretches: Mutex::default() }
    }

    /// From here on everything is read from the store.
    pub fn set_aside(&self) {
        self.is_set_aside.store(!sabotage::on("copies-prove"), Ordering::Relaxed);
    }

    fn path(&self, key: &ObjectKey) -> Option<PathBuf> {
        Some(self.directory.as_ref()?.join(key.as_str().replace('/', "-")))
    }

    fn path_to_read(&self, key: &ObjectKey) -> Option<PathBuf> {
        self.path(key).filter(|_| !self.is_set_aside.load(Ordering::Relaxed))
    }

    /// An object whose name is its hash.
    ///
    /// # Errors
    /// Those of the store.
    pub fn get(&self, store: &dyn Store, key: &ObjectKey) -> Result<Vec<u8>, StoreError> {
        let copy = self.path_to_read(key).and_then(|path| std::fs::read(path).ok());
        if let Some(copy) = copy.filter(|copy| is_named_after(key, copy)) {
            return Ok(copy);
        }
        let stored = store.get(key)?;
        if is_named_after(key, &stored) {
            self.keep(key, &stored);
        }
        Ok(stored)
    }

    /// A stretch of a pack out of its copy, if there is one. Whether it is right, nobody has looked.
    pub fn stretch(&self, key: &ObjectKey, range: &Range<u64>) -> Option<Vec<u8>> {
        let file = File::open(self.path_to_read(key)?).ok()?;
        let mut bytes = vec![0; usize::try_from(range.end - range.start).ok()?];
        file.read_exact_at(&mut bytes, range.start).ok()?;
        Some(bytes)
    }

    /// A stretch of a pack out of the store. A pack that is asked for again and again is fetched whole.
    ///
    /// # Errors
    /// Those of the store.
    pub fn fetch(
        &self,
        store: &dyn Store,
        key: &ObjectKey,
        range: Range<u64>,
    ) -> Result<Vec<u8>, StoreError> {
        if self.path_to_read(key).is_some() && self.is_worth_fetching(key) {
            let stored = store.get(key)?;
            if is_named_after(key, &stored) {
                self.keep(key, &stored);
            }
            let stretch = |bound: u64| usize::try_from(bound).unwrap_or(usize::MAX);
            if let Some(bytes) = stored.get(stretch(range.start)..stretch(range.end)) {
                return Ok(bytes.to_vec());
            }
        }
        store.get_range(key, range)
    }

    fn is_worth_fetching(&self, key: &ObjectKey) -> bool {
        let mut stretches = self.stretches.lock().unwrap_or_else(|broken| broken.into_inner());
        let n = stretches.entry(key.clone()).or_default();
        *n += 1;
        *n == STRETCHES
    }

    /// Keeps a copy of what was stored.
    pub fn keep(&self, key: &ObjectKey, bytes: &[u8]) {
        let Some(path) = self.path(key) else { return };
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let written = std::fs::write(&temporary, bytes).and_then(|()| std::fs::rename(&temporary, &path));
        if written.is_err() {
            drop(std::fs::remove_file(temporary));
        }
    }

    /// Lets go of a copy: what it was made of is gone, or it does not open.
    pub fn forget(&self, key: &ObjectKey) {
        self.path(key).into_iter().for_each(|path| drop(std::fs::remove_file(path)));
    }
}

fn is_named_after(key: &ObjectKey, bytes: &[u8]) -> bool {
    let name = key.as_str().rsplit('/').next();
    name == Some(blake3::hash(bytes).to_hex().as_str())
}

/// Removes the oldest copies until there is room.
fn make_room(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    let age_and_length = |entry: std::fs::DirEntry| {
        let metadata = entry.metadata().ok()?;
        Some((metadata.modified().ok()?, metadata.len(), entry.path()))
    };
    let mut files: Vec<_> = entries.flatten().filter_map(age_and_length).collect();
    files.sort();
    let mut bytes: u64 = files.iter().map(|(_, length, _)| length).sum();
    for (_, length, path) in files {
        if bytes <= MOST_BYTES {
            return;
        }
        drop(std::fs::remove_file(path));
        bytes -= length;
    }
}
