//! A repository that a key has opened, before its log is read: store, identity, keys.
//!
//! It is all that archiving and fetching write-ahead log takes most of the time, and fast to have: `hikae.json` and the
//! key slots are read, and nothing that grows. What may be written, and by whom, only the log says.

use crate::RepoError;
use crate::epoch::ContentKeys;
use crate::header::Header;
use crate::keys::{MetadataKeys, RepositorySecret, Signer};
use crate::layout;
use crate::log::hash_of;
use crate::object::BadObject;
use crate::recipient::{Identity, identity};
use crate::slot::{self, OpenedSlot, Payload, Unlock};
use hikae_model::SlotId;
use hikae_store::Store;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Store, identity and keys of a repository.
pub struct Unlocked {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) header: Header,
    pub(crate) keys: MetadataKeys,
    pub(crate) signer: Signer,
    pub(crate) secret: Option<RepositorySecret>,
    pub(crate) contents: ContentKeys,
}

impl Unlocked {
    /// Unlocks the repository in `store`. `identities` open contents in addition to what `unlock` gives. Which slot its key
    /// opens is remembered below `cache`, if the store is far.
    ///
    /// # Errors
    /// [`RepoError::NoRepository`], [`RepoError::WrongKey`], [`RepoError::TooNew`].
    pub fn open(
        store: Arc<dyn Store>,
        unlock: Unlock,
        identities: Vec<Identity>,
        cache: &Path,
    ) -> Result<Self, RepoError> {
        let bytes = match store.get(&layout::header()) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => {
                return Err(RepoError::NoRepository { address: store.address() });
            }
            Err(error) => return Err(error.into()),
        };
        let header = Header::parse(&bytes).map_err(RepoError::damaged(layout::header()))?;
        let opened = match unlock {
            // The sheet carries the secret itself: it opens the repository even when `keys/` is gone.
            Unlock::Recovery(secret) => {
                if secret.root().id() != header.core.root {
                    return Err(RepoError::WrongKey { address: store.address() });
                }
                OpenedSlot { payload: Payload::Owner(secret), header: header.core.hash() }
            }
            unlock => {
                let memory = cache_of(cache, &header).join("slot");
                open_a_slot(&*store, &header, &unlock, store.is_far().then_some(&memory))?
            }
        };
        Self::with(store, header, opened, identities)
    }

    /// The same with a slot that was opened.
    ///
    /// # Errors
    /// [`RepoError::HeaderChanged`] if its keys are another family's.
    pub(crate) fn with(
        store: Arc<dyn Store>,
        header: Header,
        opened: OpenedSlot,
        mut identities: Vec<Identity>,
    ) -> Result<Self, RepoError> {
        let (keys, signer, secret) = match opened.payload {
            Payload::Owner(secret) => (secret.metadata_keys(), secret.root(), Some(secret)),
            Payload::Writer { keys, signer } => (*keys, signer, None),
        };
        if keys.family() != header.core.family {
            return Err(RepoError::HeaderChanged { address: store.address() });
        }
        if let Some(secret) = &secret {
            identities.push(Box::new(identity(&secret.first_identity())));
        }
        let contents = ContentKeys::new(keys.family(), identities);
        Ok(Self { store, header, keys, signer, secret, contents })
    }

    /// The same as `signer` sees it, who opens no content.
    pub(crate) fn only_write(&self, signer: Signer) -> Self {
        let contents = ContentKeys::new(self.keys.family(), Vec::new());
        let (store, header, keys) = (self.store.clone(), self.header.clone(), self.keys.clone());
        Self { store, header, keys, signer, secret: None, contents }
    }

    /// The store.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }
}

/// Where a machine keeps what it remembers of a repository.
pub(crate) fn cache_of(cache: &Path, header: &Header) -> PathBuf {
    cache.join(header.core.repository.to_string())
}

/// The slot that our key opens and that vouches for the header. The one that `memory` names is tried first, for to list
/// all and to try each takes time; only its name is remembered, so that a slot that was removed opens nothing.
///
/// One that our key opens may vouch for another header: an `init` that died before it put its own, with the same
/// passphrase or key file, left it behind. Only if there is no other, the header was changed.
fn open_a_slot(
    store: &dyn Store,
    header: &Header,
    unlock: &Unlock,
    memory: Option<&PathBuf>,
) -> Result<OpenedSlot, RepoError> {
    let remembered = memory.and_then(|memory| std::fs::read_to_string(memory).ok()?.parse::<SlotId>().ok());
    if let Some(id) = remembered
        && let Ok(stored) = store.get(&layout::slot(id))
        && hash_of(&stored) == *id.as_bytes()
        && let Ok(Some(opened)) = slot::open(&stored, unlock)
        && opened.header == header.core.hash()
    {
        return Ok(opened);
    }
    let mut slots = Vec::new();
    store.list(layout::KEYS, &mut |object| slots.push(object.key))?;
    let mut damaged = None;
    let mut of_another = false;
    for key in slots {
        let stored = store.get(&key)?;
        let id = layout::name_of::<SlotId>(&key).filter(|id| hash_of(&stored) == *id.as_bytes());
        let Some(id) = id else {
            damaged = Some(RepoError::damaged(key)(BadObject::BrokenSeal));
            continue;
        };
        match slot::open(&stored, unlock).map_err(RepoError::damaged(key))? {
            Some(opened) if opened.header == header.core.hash() => {
                // What cannot be remembered costs time and nothing else.
                memory.into_iter().for_each(|memory| drop(std::fs::write(memory, id.to_string())));
                return Ok(opened);
            }
            Some(_) => of_another = true,
            None => {}
        }
    }
    if of_another {
        return Err(RepoError::HeaderChanged { address: store.address() });
    }
    // A damaged slot may be the one that our key belongs to: say so rather than "wrong key".
    Err(damaged.unwrap_or_else(|| RepoError::WrongKey { address: store.address() }))
}
