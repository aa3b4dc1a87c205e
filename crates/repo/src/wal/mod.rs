//! The archive of write-ahead log: each file that PostgreSQL archives is one object, named by cluster and file; so is each
//! part of a segment that was received before it was whole (`begun`).
//!
//! - What is acknowledged is durable and opens.
//! - A name is taken once. The same file again is a success, another one under its name an error; nothing is replaced.
//! - To know a stored file again, or to fetch it, takes `hikae.json` and a key slot. The log is read only by who stores
//!   something new, or meets what another writer has stored.
//! - Nothing here enters the index or packs. What goes of it an entry of the log says (`floor`), and prune removes it.
//! - Prune gathers small segments into one object for many (`bundle`, `bundles`): a segment is where it was, or there.
//!
//! `object` knows the bytes. This module knows no page of the log and no server: whether a file is what its name says is
//! for who archives it to find out.

mod begun;
mod bundle;
mod bundles;
mod error;
mod floor;
mod object;
mod sealed;
mod stored;

pub use begun::Got;
pub use bundle::{BadBundleName, BundleName};
pub(crate) use bundle::{Bundle, Bundling, Member, NewMember, make_bundle};
pub use bundles::list;
pub(crate) use bundles::{ListedBundle, OpenBundles, Single, Stored, of_state};
pub use error::WalError;
pub use floor::LogFloor;
pub use object::WalHead;
pub(crate) use stored::{Place, ReadRange};

use stored::StoredObject;

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
use bundle::part_of;
use bundles::Found;
use hikae_model::{Cx, SystemId, WalName, WriterId, sabotage};
use hikae_store::{Store, StoreError};
use object::{OpenSession, PlainHash, Sealer, hash_file};
use std::cell::RefCell;
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
    bundles: OpenBundles,
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
        let unlocked = Arc::new(Unlocked::open(store, unlock, identities, cache)?);
        Ok(Self {
            unlocked,
            cache: cache.to_owned(),
            cx: cx.clone(),
            repo: Mutex::default(),
            session: Mutex::default(),
            sealers: Mutex::default(),
            bundles: OpenBundles::default(),
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
            bundles: OpenBundles::default(),
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
            Ok(()) => {
                self.check_took_no_bundled_name(system, name, plain).map(|()| Pushed::Stored { stored_bytes })
            }
            Err(error @ StoreError::Exists { .. }) => {
                let there = self.settled(system, name)?.ok_or(error)?;
                same(&there, plain).map(|()| Pushed::AlreadyThere)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sees, once a file was put, that no bundle has another one of its name: between a look and a put the single one may have
    /// made room for its bundle. What a bundle holds is what was there first, and counts.
    fn check_took_no_bundled_name(
        &self,
        system: SystemId,
        name: WalName,
        plain: PlainHash,
    ) -> Result<(), WalError> {
        let WalName::Segment(segment) = name else { return Ok(()) };
        if sabotage::on("bundles-unseen-after-put") {
            return Ok(());
        }
        let Some(there) = self.bundled_head(system, segment)? else { return Ok(()) };
        let compared = same(&there, plain);
        if compared.is_err() {
            // It counts for nothing. Who may not remove it leaves it to prune.
            drop(self.unlocked.store.remove(&layout::wal(system, name)));
        }
        compared
    }

    /// True if this file is there, durable, and the same. False if there is none of its name: then nothing of `content` was
    /// read.
    ///
    /// # Errors
    /// As for [`push`](Self::push).
    pub fn confirm(&self, system: SystemId, name: WalName, content: &mut dyn Read) -> Result<bool, WalError> {
        let Some(there) = self.settled(system, name)? else { return Ok(false) };
        let plain = hash_file(&self.unlocked, content).map_err(WalError::Read)?;
        same(&there, plain).map(|()| true)
    }

    /// What is stored under a name, if anything is. It opens, is as long as it should be, and is of a writer that counts.
    ///
    /// # Errors
    /// [`RepoError::Damaged`] if it is not so.
    pub fn head(&self, system: SystemId, name: WalName) -> Result<Option<WalHead>, RepoError> {
        Ok(self.find(system, name)?.map(|found| found.head))
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
        let Some(found) = self.find(system, name)? else { return Ok(None) };
        let (place, head) = (found.place.clone(), found.head.clone());
        let session_key = self.content_key(&head)?;
        let current = RefCell::new(found);
        let read = |range| {
            self.cx.check()?;
            self.read_where_it_is((system, name), &mut current.borrow_mut(), range)
        };
        let object = StoredObject::new(&self.unlocked, (system, name), &place, &read);
        object.read_all(&head, Some(&session_key), &mut |plain| {
            target.write_all(plain).map_err(WalError::Write)
        })?;
        Ok(Some(head))
    }

    /// Reads a range of a file. If it has moved into a bundle meanwhile, the bytes are the same there.
    fn read_where_it_is(
        &self,
        (system, name): (SystemId, WalName),
        found: &mut Found,
        range: Range<u64>,
    ) -> Result<Vec<u8>, RepoError> {
        let store = &*self.unlocked.store;
        match found.read(store, range.clone()) {
            Err(RepoError::Store(error)) if error.is_not_found() => {}
            read => return read,
        }
        if let Some(now) = self.look(system, name, false)?.filter(|now| now.head == found.head) {
            *found = now;
        }
        found.read(store, range)
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

    /// A file, if there is one. That there is none is believed of two looks: one that moves from bundle to bundle may be in
    /// neither while a list is read.
    fn find(&self, system: SystemId, name: WalName) -> Result<Option<Found>, RepoError> {
        match self.look(system, name, false)? {
            None if matches!(name, WalName::Segment(_)) => self.look(system, name, false),
            found => Ok(found),
        }
    }

    /// The head of what stands under a name, once that is durable: somebody else may just be putting it.
    fn settled(&self, system: SystemId, name: WalName) -> Result<Option<WalHead>, RepoError> {
        Ok(self.look(system, name, true)?.map(|found| found.head))
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

/// The key of the frames of a file.
fn content_key(repo: &Repo, head: &WalHead) -> Result<Secret32, RepoError> {
    match repo.contents().session_key(&head.session, Some(&head.epoch)) {
        Err(RepoError::NeedsIdentity) => newest_wrap_key(repo, &head.session),
        opened => opened,
    }
}

/// Whether these are the bytes of an object for the file of that name, of a writer that `state` knows: nothing else says
/// so of an object that is put back.
pub(crate) fn is_right(repo: &Repo, state: &State, file: (SystemId, WalName), bytes: &[u8]) -> bool {
    let read = |range| part_of(bytes, range);
    let place = Place { key: layout::wal(file.0, file.1), at: 0, bytes: bytes.len() as u64 };
    check_file(repo, state, file, &place, false, &read).is_ok()
}

/// Opens what stands at a place in `object`, all of whose bytes are at hand: it is the object of that file, whole, of a
/// writer that counts; with `reads_contents` its contents are opened too.
pub(crate) fn check_in(
    repo: &Repo,
    state: &State,
    file: (SystemId, WalName),
    place: &Place,
    object: &[u8],
    reads_contents: bool,
) -> Result<WalHead, RepoError> {
    check_file(repo, state, file, place, reads_contents, &|range| {
        part_of(object, place.at + range.start..place.at + range.end)
    })
}

/// The same of what `read` reads.
pub(crate) fn check_file(
    repo: &Repo,
    state: &State,
    file: (SystemId, WalName),
    place: &Place,
    reads_contents: bool,
    read: &ReadRange<'_>,
) -> Result<WalHead, RepoError> {
    let object = StoredObject::new(repo.unlocked(), file, place, read);
    let head = object.head(&|writer| Ok(state.is_known(writer)))?;
    let session_key = reads_contents.then(|| content_key(repo, &head)).transpose()?;
    object.read_all(&head, session_key.as_ref(), &mut |_| Ok::<_, RepoError>(()))?;
    Ok(head)
}

/// What the head at a place says of the file that should stand there: the same file says the same.
pub(crate) fn plain_at(
    repo: &Repo,
    state: &State,
    file: (SystemId, WalName),
    place: &Place,
    read: &ReadRange<'_>,
) -> Result<PlainHash, RepoError> {
    let object = StoredObject::new(repo.unlocked(), file, place, read);
    Ok(object.head(&|writer| Ok(state.is_known(writer)))?.plain())
}

/// Sees that a file is the one that is stored.
fn same(there: &WalHead, plain: PlainHash) -> Result<(), WalError> {
    match there.plain() == plain || sabotage::on("wal-differs-unseen") {
        true => Ok(()),
        false => Err(WalError::Differs { system: there.system, name: there.name }),
    }
}
