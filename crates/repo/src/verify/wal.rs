//! The write-ahead log: each object read, its head opened, its bytes compared; with an identity, opened. Of a bundle all that
//! it holds.
//!
//! Nothing names these objects but their own keys. That one is missing shows in the recovery window, and not here.

use super::Found;
use super::packs::Draw;
use crate::RepoError;
use crate::layout;
use crate::object::BadObject;
use crate::repo::{Repo, lock};
use crate::state::State;
use crate::wal::{Bundle, ListedBundle, OpenBundles, Place, check_file, check_in, of_state};
use hikae_model::{Problem, SystemId, WalName};
use hikae_store::ObjectKey;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What was read.
#[derive(Default)]
pub(super) struct Read {
    pub(super) n_files: u64,
    pub(super) n_files_read: u64,
    pub(super) read_bytes: u64,
}

/// An object of the log.
enum Stored {
    File(SystemId, WalName),
    Bundle(ListedBundle),
}

struct Check<'a> {
    repo: &'a Repo,
    state: &'a State,
    read_data: bool,
    found: &'a Found<'a>,
    /// The bundles that count, with their heads.
    bundles: BTreeMap<SystemId, Vec<Arc<Bundle>>>,
}

/// Reads every file of the log, or a share of them, on all cores.
pub(super) fn check(
    repo: &Repo,
    state: &State,
    read_data: bool,
    sample: Option<u8>,
    found: &Found<'_>,
) -> Result<Read, RepoError> {
    let mut objects = Vec::new();
    let mut foreign = Vec::new();
    repo.store().list(layout::WAL, &mut |object| {
        let file = layout::wal_of(&object.key).map(|(system, name)| Stored::File(system, name));
        match file.or_else(|| ListedBundle::of(&object).map(Stored::Bundle)) {
            Some(stored) => objects.push((object.key, stored, object.bytes)),
            None => foreign.push(object.key),
        }
    })?;
    for key in foreign {
        let problem = Problem::new("foreign-object", key, "is not a file of a write-ahead log in its place");
        found.add(problem.advise("see who put it there, and remove it"));
    }
    let mut check = Check { repo, state, read_data, found, bundles: BTreeMap::new() };
    let mut n_files = check.open_bundles(&objects)?;
    n_files += objects.iter().filter(|(_, stored, _)| matches!(stored, Stored::File(..))).count() as u64;
    let draw = Draw { seed: found.cx.random(), percent: sample };
    objects.retain(|(key, ..)| draw.takes(key.as_str().as_bytes()));
    let (next, n_read, read_bytes) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let failed = Mutex::new(None);
    let work = || {
        while let Some((key, stored, bytes)) = objects.get(next.fetch_add(1, Ordering::Relaxed)) {
            let checked = match found.cx.check() {
                Ok(()) => check.object(key, stored, *bytes),
                Err(cancelled) => Err(cancelled.into()),
            };
            read_bytes.fetch_add(*bytes, Ordering::Relaxed);
            n_read.fetch_add(*checked.as_ref().unwrap_or(&1), Ordering::Relaxed);
            let Err(error) = checked else { continue };
            if let Err(error) = check.tell(key, error) {
                *lock(&failed) = Some(error);
                next.store(objects.len(), Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(objects.len());
        (0..workers).for_each(|_| drop(scope.spawn(work)));
    });
    match failed.into_inner().unwrap_or_else(|broken| broken.into_inner()) {
        Some(error) => Err(error),
        None => Ok(Read { n_files, n_files_read: n_read.into_inner(), read_bytes: read_bytes.into_inner() }),
    }
}

impl Check<'_> {
    /// Opens the heads of all bundles that count. Gives how many segments they hold.
    fn open_bundles(&mut self, objects: &[(ObjectKey, Stored, u64)]) -> Result<u64, RepoError> {
        let (open, may_bundle) = (OpenBundles::default(), of_state(self.state));
        let mut n_files = 0;
        for (_, stored, _) in objects {
            let Stored::Bundle(listed) = stored else { continue };
            match open.open(self.repo.unlocked(), listed, &may_bundle) {
                Ok(Some(bundle)) => {
                    n_files += bundle.members.len() as u64;
                    self.bundles.entry(listed.system).or_default().push(bundle);
                }
                // What is wrong with it is found when all of it is read.
                Ok(None) => n_files += 1,
                Err(error) if error.is_damage() => n_files += 1,
                Err(RepoError::Store(error)) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(n_files)
    }

    /// What is wrong with an object goes into the report. An error that is none of its own comes back.
    fn tell(&self, key: &ObjectKey, error: RepoError) -> Result<(), RepoError> {
        // A removal was faster. Whether one is missing that should be there is not for us to see.
        if matches!(&error, RepoError::Store(error) if error.is_not_found()) {
            return Ok(());
        }
        if error.is_damage() {
            self.found.hurt(key.clone());
        }
        self.found.error("damaged-wal", key, error)
    }

    /// Reads an object. Gives how many files it holds.
    fn object(&self, key: &ObjectKey, stored: &Stored, bytes: u64) -> Result<u64, RepoError> {
        match stored {
            Stored::File(system, name) => self.file(key, (*system, *name), bytes).map(|()| 1),
            Stored::Bundle(listed) => self.bundle(key, listed),
        }
    }

    fn file(&self, key: &ObjectKey, file: (SystemId, WalName), bytes: u64) -> Result<(), RepoError> {
        let place = Place { key: key.clone(), at: 0, bytes };
        let store = self.repo.store();
        let read = |range| place.read(store, range);
        let head = check_file(self.repo, self.state, file, &place, self.read_data, &read)?;
        let WalName::Segment(segment) = file.1 else { return Ok(()) };
        for bundle in self.bundles.get(&file.0).into_iter().flatten() {
            let Some(bundled) = bundle.place(segment) else { continue };
            let read = |range| bundled.read(store, range);
            // A bundle that is hurt there is found when it is read.
            let there = check_file(self.repo, self.state, file, &bundled, false, &read);
            if there.is_ok_and(|there| there.plain() != head.plain()) {
                let problem = Problem::new(
                    "another-file",
                    key,
                    "is not the segment that a bundle holds under this name",
                );
                self.found.add(problem.advise(
                    "what the bundle holds was archived first, and counts; see who archives to this repository",
                ));
            }
        }
        Ok(())
    }

    fn bundle(&self, key: &ObjectKey, listed: &ListedBundle) -> Result<u64, RepoError> {
        let bytes = self.repo.store().get(key)?;
        let bundle = Bundle::open_whole(self.repo.unlocked(), listed.system, listed.name, &bytes)?;
        if !self.state.ever_might_prune(bundle.writer) {
            return Err(RepoError::damaged(key.clone())(BadObject::UnknownWriter));
        }
        for member in &bundle.members {
            self.found.cx.check()?;
            let file = (listed.system, WalName::Segment(member.segment));
            check_in(self.repo, self.state, file, &bundle.place_of(member), &bytes, self.read_data)?;
        }
        Ok(bundle.members.len() as u64)
    }
}
