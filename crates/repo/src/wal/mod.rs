//! The archive of write-ahead log: each file that PostgreSQL archives is one object, named by cluster and file; so is each
//! part of a segment that was received before it was whole (`begun`).
//!
//! - What is acknowledged is durable and opens.
//! - A name is taken once. The same file again is a success, another one under its name an error; nothing is replaced.
//! - To know a stored file again, or to fetch it, takes `hikae.json` and a key slot. The log is read only by who stores
//!   something new, or meets what another writer has stored.
//! - Nothing here enters the index or packs. What goes of it an entry of the log says (`floor`), and prune removes it.
//!
//! `object` knows the bytes. This module knows no page of the log and no server: whether a file is what its name says is
//! for who archives it to find out.

mod begun;
mod error;
mod floor;
mod object;
mod stored;

pub use begun::Got;
pub use error::WalError;
pub use floor::LogFloor;
pub use object::WalHead;
pub(crate) use stored::StoredObject;

use crate::RepoError;
use crate::keys::Secret32;
use crate::layout;
use crate::log::{Change, Commit};
use crate::reader::newest_wrap_key;
use crate::recipient::Identity;
use crate::repo::{Repo, lock};
use crate::slot::Unlock;
use crate::state::State;
use crate::unlocked::Unlocked;
use hikae_model::{Cx, SystemId, WalName, WriterId, sabotage};
use hikae_store::{Object, ObjectKey, Store, StoreError};
use object::{OpenSession, PlainHash, Sealer, hash_file};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A session of one that runs for long ends after this, so that recipients who came or went count.
const SESSION_LASTS: Duration = Duration::from_secs(3600);

/// How long a key epoch lasts: see `epoch`.
const EPOCH_DAYS: i64 = 90;

/// Memory for a longer object than this is given back once it is stored.
const MOST_KEPT_BYTES: u64 = 64 << 20;

/// The write-ahead log that a repository keeps. Shared between threads behind a reference.
pub struct WalArchive {
    unlocked: Arc<Unlocked>,
    cache: PathBuf,
    cx: Cx,
    /// Read when it is first needed.
    repo: Mutex<Option<Arc<Repo>>>,
    session: Mutex<Option<Arc<OpenSession>>>,
    /// One for each thread that has pushed at the same time.
    sealers: Mutex<Vec<Sealer>>,
}

/// What became of a file that was to be stored. In both cases it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was stored.
    Stored {
        /// Length of its object.
        stored_bytes: u64,
    },
    /// The same file was there.
    AlreadyThere,
}

/// A file that is stored, as a list shows it: nothing of it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredWal {
    /// Its name.
    pub name: WalName,
    /// Length of its object.
    pub stored_bytes: u64,
    /// When it was stored, by the store's clock.
    pub stored: jiff::Timestamp,
}

impl WalArchive {
    /// Opens the archive in `store`, and reads no log. `cache` is for when the log must be read.
    ///
    /// # Errors
    /// As for [`Unlocked::open`].
    pub fn open(
        store: Arc<dyn Store>,
        unlock: Unlock,
        identities: Vec<Identity>,
        cache: &Path,
        cx: &Cx,
    ) -> Result<Self, RepoError> {
        let unlocked = Arc::new(Unlocked::open(store, unlock, identities)?);
        Ok(Self {
            unlocked,
            cache: cache.to_owned(),
            cx: cx.clone(),
            repo: Mutex::default(),
            session: Mutex::default(),
            sealers: Mutex::default(),
        })
    }

    /// The archive of a repository that is open.
    pub fn of(repo: &Arc<Repo>) -> Self {
        Self {
            unlocked: repo.unlocked().clone(),
            cache: PathBuf::new(),
            cx: repo.cx().clone(),
            repo: Mutex::new(Some(repo.clone())),
            session: Mutex::default(),
            sealers: Mutex::default(),
        }
    }

    /// Stores a file, unless it is there. On `Ok` it is durable and opens.
    ///
    /// # Errors
    /// [`WalError::Differs`] if another file stands under its name. After any other error it may or may not be there: push
    /// it again.
    pub fn push(&self, system: SystemId, name: WalName, content: &mut dyn Read) -> Result<Pushed, WalError> {
        if self.confirm(system, name, content)? {
            return Ok(Pushed::AlreadyThere);
        }
        let key = layout::wal(system, name);
        let session = self.session()?;
        let spare = lock(&self.sealers).pop();
        let mut sealer = spare.map_or_else(|| Sealer::new(&self.unlocked), Ok)?;
        let plain = sealer.seal(&self.unlocked, &session, system, name, content)?;
        let put = self.unlocked.store.put(&key, &sealer.stored);
        let stored_bytes = sealer.stored.len() as u64;
        if stored_bytes <= MOST_KEPT_BYTES {
            lock(&self.sealers).push(sealer);
        }
        match put {
            Ok(()) => Ok(Pushed::Stored { stored_bytes }),
            Err(error @ StoreError::Exists { .. }) => {
                let there = self.settled_head(&key, system, name)?.ok_or(error)?;
                same(&there, plain).map(|()| Pushed::AlreadyThere)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// True if this file is there, durable, and the same. False if there is none of its name: then nothing of `content` was
    /// read.
    ///
    /// # Errors
    /// As for [`push`](Self::push).
    pub fn confirm(&self, system: SystemId, name: WalName, content: &mut dyn Read) -> Result<bool, WalError> {
        let Some(there) = self.settled_head(&layout::wal(system, name), system, name)? else {
            return Ok(false);
        };
        let plain = hash_file(&self.unlocked, content).map_err(WalError::Read)?;
        same(&there, plain).map(|()| true)
    }

    /// What is stored under a name, if anything is. It opens, is as long as it should be, and is of a writer that counts.
    ///
    /// # Errors
    /// [`RepoError::Damaged`] if it is not so.
    pub fn head(&self, system: SystemId, name: WalName) -> Result<Option<WalHead>, RepoError> {
        let key = layout::wal(system, name);
        self.head_of(&key, self.unlocked.store.stat(&key), system, name)
    }

    /// Writes a file to `target`. Gives what is known of it; nothing if there is none of its name. Until this returns, what
    /// was written may be cut or wrong.
    ///
    /// # Errors
    /// [`RepoError::NeedsIdentity`] for who opens no contents, [`RepoError::Damaged`], and any failure to read or write.
    pub fn get(
        &self,
        system: SystemId,
        name: WalName,
        target: &mut dyn Write,
    ) -> Result<Option<WalHead>, WalError> {
        let Some(head) = self.head(system, name)? else { return Ok(None) };
        let key = layout::wal(system, name);
        let session_key = self.content_key(&head)?;
        let read = |range| {
            self.cx.check()?;
            Ok(self.unlocked.store.get_range(&key, range)?)
        };
        let object = StoredObject::new(&self.unlocked, (system, name), head.object_bytes(), &read);
        object.read_all(&head, Some(&session_key), &mut |plain| {
            target.write_all(plain).map_err(WalError::Write)
        })?;
        Ok(Some(head))
    }

    /// Every file that is stored, by cluster and in order of their names.
    ///
    /// # Errors
    /// Any failure to list the store.
    pub fn list(&self) -> Result<BTreeMap<SystemId, Vec<StoredWal>>, RepoError> {
        list_in(&*self.unlocked.store)
    }

    /// True if anything of this cluster is stored.
    ///
    /// # Errors
    /// Any failure to list the store.
    pub fn has_log_of(&self, system: SystemId) -> Result<bool, RepoError> {
        let mut has_any = false;
        self.unlocked.store.list(&layout::wal_directory(system), &mut |_| has_any = true)?;
        Ok(has_any)
    }

    /// The head of what stands under a name, once that is durable: somebody else may just be putting it.
    fn settled_head(
        &self,
        key: &ObjectKey,
        system: SystemId,
        name: WalName,
    ) -> Result<Option<WalHead>, RepoError> {
        self.head_of(key, self.unlocked.store.settle(key), system, name)
    }

    fn head_of(
        &self,
        key: &ObjectKey,
        found: Result<Object, StoreError>,
        system: SystemId,
        name: WalName,
    ) -> Result<Option<WalHead>, RepoError> {
        let read = |range| Ok(self.unlocked.store.get_range(key, range)?);
        let head = found.map_err(RepoError::from).and_then(|object| {
            let object = StoredObject::new(&self.unlocked, (system, name), object.bytes, &read);
            object.head(&|writer| self.is_known(writer))
        });
        match head {
            // Also one that a removal took between the two.
            Err(RepoError::Store(error)) if error.is_not_found() => Ok(None),
            head => head.map(Some),
        }
    }

    /// Whether the log has ever named this writer. Of the root key and our own we know it without looking.
    fn is_known(&self, writer: WriterId) -> Result<bool, RepoError> {
        let Unlocked { header, signer, .. } = &*self.unlocked;
        let at_once = writer == header.core.root || writer == signer.id() || sabotage::on("wal-of-anybody");
        Ok(at_once || self.repo()?.state().is_known(writer))
    }

    fn content_key(&self, head: &WalHead) -> Result<Secret32, RepoError> {
        match self.unlocked.contents.session_key(&head.session, Some(&head.epoch)) {
            // Perhaps the log names a newer wrap.
            Err(RepoError::NeedsIdentity) if self.unlocked.contents.has_identity() => {
                content_key(&*self.repo()?, head)
            }
            opened => opened,
        }
    }

    /// The repository with its log.
    fn repo(&self) -> Result<Arc<Repo>, RepoError> {
        let mut repo = lock(&self.repo);
        if let Some(repo) = &*repo {
            return Ok(repo.clone());
        }
        let opened = Arc::new(Repo::follow_from(self.unlocked.clone(), &self.cache, &self.cx)?);
        Ok(repo.insert(opened).clone())
    }

    /// The session under which new files are sealed.
    fn session(&self) -> Result<Arc<OpenSession>, RepoError> {
        let mut session = lock(&self.session);
        let now = self.cx.elapsed();
        if let Some(session) =
            session.as_ref().filter(|session| now.saturating_sub(session.began) < SESSION_LASTS)
        {
            return Ok(session.clone());
        }
        let repo = self.repo()?;
        let state = repo.follow()?;
        repo.check_may(&state, &Change::Commit(Commit::default()))?;
        let epoch = repo.current_epoch(EPOCH_DAYS)?;
        let Unlocked { keys, signer, .. } = &*self.unlocked;
        let (record, key) = epoch.begin_session(keys.family(), keys.newest_seal().0, signer, &self.cx)?;
        let opened = OpenSession { record, epoch, key, began: now, next_frame: AtomicU32::new(0) };
        Ok(session.insert(Arc::new(opened)).clone())
    }
}

/// Every file that a repository keeps, by cluster and in order of their names.
///
/// # Errors
/// Any failure to list the store.
pub fn list(repo: &Repo) -> Result<BTreeMap<SystemId, Vec<StoredWal>>, RepoError> {
    list_in(repo.store())
}

fn list_in(store: &dyn Store) -> Result<BTreeMap<SystemId, Vec<StoredWal>>, RepoError> {
    let mut systems: BTreeMap<SystemId, Vec<StoredWal>> = BTreeMap::new();
    store.list(layout::WAL, &mut |object| {
        if let Some((system, name)) = layout::wal_of(&object.key) {
            let stored = StoredWal { name, stored_bytes: object.bytes, stored: object.stored };
            systems.entry(system).or_default().push(stored);
        }
    })?;
    systems.values_mut().for_each(|files| files.sort_by_key(|file| file.name));
    Ok(systems)
}

/// The key of the frames of a file.
pub(crate) fn content_key(repo: &Repo, head: &WalHead) -> Result<Secret32, RepoError> {
    match repo.contents().session_key(&head.session, Some(&head.epoch)) {
        Err(RepoError::NeedsIdentity) => newest_wrap_key(repo, &head.session),
        opened => opened,
    }
}

/// Whether these are the bytes of an object for the file of that name, of a writer that `state` knows: nothing else says
/// so of an object that is put back.
pub(crate) fn is_right(repo: &Repo, state: &State, file: (SystemId, WalName), bytes: &[u8]) -> bool {
    let read = |range: Range<u64>| {
        let part = bytes.get(range.start as usize..range.end as usize).map(<[u8]>::to_vec);
        part.ok_or(RepoError::NotTheSame)
    };
    let object = StoredObject::new(repo.unlocked(), file, bytes.len() as u64, &read);
    let head = object.head(&|writer| Ok(state.is_known(writer)));
    head.and_then(|head| object.read_all(&head, None, &mut |_| Ok(()))).is_ok()
}

/// Sees that a file is the one that is stored.
fn same(there: &WalHead, plain: PlainHash) -> Result<(), WalError> {
    match there.plain() == plain || sabotage::on("wal-differs-unseen") {
        true => Ok(()),
        false => Err(WalError::Differs { system: there.system, name: there.name }),
    }
}
