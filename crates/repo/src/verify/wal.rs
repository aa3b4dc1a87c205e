//! The write-ahead log: each object read, its head opened, its bytes compared; with an identity, opened.
//!
//! Nothing names these objects but their own keys. That one is missing shows in the recovery window, and not here.

use super::Found;
use super::packs::Draw;
use crate::RepoError;
use crate::layout;
use crate::repo::Repo;
use crate::state::State;
use crate::wal::{StoredObject, content_key};
use hikae_model::{Problem, SystemId, WalName};
use hikae_store::ObjectKey;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What was read.
#[derive(Default)]
pub(super) struct Read {
    pub(super) n_files: u64,
    pub(super) n_files_read: u64,
    pub(super) read_bytes: u64,
}

/// Reads every file of the log, or a share of them, on all cores.
pub(super) fn check(
    repo: &Repo,
    state: &State,
    read_data: bool,
    sample: Option<u8>,
    found: &Found<'_>,
) -> Result<Read, RepoError> {
    let mut files = Vec::new();
    let mut foreign = Vec::new();
    repo.store().list(layout::WAL, &mut |object| match layout::wal_of(&object.key) {
        Some(file) => files.push((object.key, file, object.bytes)),
        None => foreign.push(object.key),
    })?;
    for key in foreign {
        let problem = Problem::new("foreign-object", key, "is not a file of a write-ahead log in its place");
        found.add(problem.advise("see who put it there, and remove it"));
    }
    let n_files = files.len() as u64;
    let draw = Draw { seed: found.cx.random(), percent: sample };
    files.retain(|(key, ..)| draw.takes(key.as_str().as_bytes()));
    let (next, read_bytes) = (AtomicUsize::new(0), AtomicU64::new(0));
    let failed = Mutex::new(None);
    let work = || {
        while let Some((key, file, bytes)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            let checked = match found.cx.check() {
                Ok(()) => check_file(repo, state, key, *file, *bytes, read_data),
                Err(cancelled) => Err(cancelled.into()),
            };
            read_bytes.fetch_add(*bytes, Ordering::Relaxed);
            let Err(error) = checked else { continue };
            // A removal was faster. Whether one is missing that should be there is not for us to see.
            if matches!(&error, RepoError::Store(error) if error.is_not_found()) {
                continue;
            }
            if error.is_damage() {
                found.hurt(key.clone());
            }
            if let Err(error) = found.error("damaged-wal", key, error) {
                *crate::repo::lock(&failed) = Some(error);
                next.store(files.len(), Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(files.len());
        (0..workers).for_each(|_| drop(scope.spawn(work)));
    });
    match failed.into_inner().unwrap_or_else(|broken| broken.into_inner()) {
        Some(error) => Err(error),
        None => Ok(Read { n_files, n_files_read: files.len() as u64, read_bytes: read_bytes.into_inner() }),
    }
}

fn check_file(
    repo: &Repo,
    state: &State,
    key: &ObjectKey,
    file: (SystemId, WalName),
    bytes: u64,
    read_data: bool,
) -> Result<(), RepoError> {
    let read = |range| Ok(repo.store().get_range(key, range)?);
    let object = StoredObject::new(repo.unlocked(), file, bytes, &read);
    let head = object.head(&|writer| Ok(state.is_known(writer)))?;
    let session_key = read_data.then(|| content_key(repo, &head)).transpose()?;
    object.read_all(&head, session_key.as_ref(), &mut |_| Ok(()))
}
