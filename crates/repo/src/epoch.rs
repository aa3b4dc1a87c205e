//! Who can open contents: key epochs and sessions.
//!
//! ```text
//! recipients (age) ──wrap──> epoch key (X25519) ──wrap──> session key ──seal──> frames of content
//! ```
//!
//! - A writer makes a key epoch for itself, wraps its private half to the recipients, and forgets it. So
//!   what it wrote yesterday it cannot read today.
//! - A session key is drawn for each run and wrapped to the epoch with a fresh X25519 pair.
//! - A new recipient gets old data by a new wrap of a few epochs; no pack is touched.
//!
//! This module knows wraps. It does not know where records of epochs and sessions are stored.

use crate::RepoError;
use crate::cbor;
use crate::keys::{Secret32, Signer};
use crate::recipient::{Identity, unwrap_key, wrap_key};
use crate::seal::{self, Algorithm, Salt};
use crate::signed::{Signable, Signed};
use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use hikae_model::{Cx, EpochId, FamilyId, SessionId, WriterId};
use jiff::Timestamp;
use minicbor::{Decode, Encode};
use std::collections::HashMap;
use std::sync::Mutex;

/// A key epoch, as stored in `keys/` and in the footers of packs that need it.
pub type EpochRecord = Signed<Epoch>;

/// A session, as stored in each footer and index that names its frames.
pub type SessionRecord = Signed<Session>;

/// What the record of a key epoch says.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Epoch {
    /// Its name.
    #[n(0)]
    pub id: EpochId,
    /// Public half of the epoch key.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub public: [u8; 32],
    /// When it began.
    #[cbor(n(2), with = "cbor::time")]
    pub began: Timestamp,
    /// The recipients, as age or SSH writes them.
    #[n(3)]
    pub recipients: Vec<String>,
    /// The private half: an age file for the recipients.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub wrap: Vec<u8>,
    /// Who began it, or wrapped it again.
    #[n(5)]
    pub writer: WriterId,
}

/// What the record of a session says.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Session {
    /// Its name, which is in the associated data of each of its frames.
    #[n(0)]
    pub id: SessionId,
    /// Who wrote it.
    #[n(1)]
    pub writer: WriterId,
    /// The epoch to which its key is wrapped.
    #[n(2)]
    pub epoch: EpochId,
    /// Number of the metadata key that seals its frames of metadata.
    #[n(3)]
    pub metadata_key: u32,
    /// Public half of the pair that wrapped the session key.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub ephemeral: [u8; 32],
    /// How the session key is sealed.
    #[n(5)]
    pub algorithm: u8,
    /// Salt of that seal.
    #[cbor(n(6), with = "minicbor::bytes")]
    pub salt: Salt,
    /// The session key, sealed.
    #[cbor(n(7), with = "minicbor::bytes")]
    pub wrapped: Vec<u8>,
}

impl Signable for Epoch {
    const PURPOSE: &'static [u8] = b"hikae 1 epoch";

    fn writer(&self) -> WriterId {
        self.writer
    }
}

impl Signable for Session {
    const PURPOSE: &'static [u8] = b"hikae 1 session";

    fn writer(&self) -> WriterId {
        self.writer
    }
}

impl EpochRecord {
    /// Begins an epoch of `writer` whose contents only `recipients` will be able to open.
    ///
    /// # Errors
    /// [`RepoError::Age`] if there is no recipient or one of them is not one.
    pub fn begin(
        recipients: &[String],
        family: FamilyId,
        writer: &Signer,
        cx: &Cx,
    ) -> Result<Self, RepoError> {
        let private = Secret32::new(cx.random());
        let epoch = Epoch {
            id: EpochId::from_bytes(cx.random()),
            public: public_half(&private)?,
            began: cx.now(),
            recipients: recipients.to_vec(),
            wrap: wrap_key(recipients, &private)?,
            writer: writer.id(),
        };
        Ok(Self::new(epoch, family, writer))
    }

    /// Starts a session of `writer` in this epoch: its record, and its key while the session lasts.
    ///
    /// # Errors
    /// [`RepoError::Age`] if the epoch's public key is none.
    pub fn begin_session(
        &self,
        family: FamilyId,
        metadata_key: u32,
        writer: &Signer,
        cx: &Cx,
    ) -> Result<(SessionRecord, Secret32), RepoError> {
        let key = Secret32::new(cx.random());
        let pair = Secret32::new(cx.random());
        let ephemeral = public_half(&pair)?;
        let id = SessionId::from_bytes(cx.random());
        let kek = shared_key(&pair, &self.public, &ephemeral, &self.public)?;
        let algorithm = Algorithm::fastest();
        let mut wrapped = key.bytes().to_vec();
        let salt = seal::seal(&kek, algorithm, &wrap_aad(family, id), &mut wrapped);
        let session = Session {
            id,
            writer: writer.id(),
            epoch: self.id,
            metadata_key,
            ephemeral,
            algorithm: algorithm as u8,
            salt,
            wrapped,
        };
        Ok((SessionRecord::new(session, family, writer), key))
    }
}

/// What is wrong with records that stand beside frames, in words.
pub(crate) fn misfits(sessions: &[SessionRecord], epochs: &[EpochRecord], family: FamilyId) -> Vec<String> {
    let unsigned = |what: &str, id: &dyn std::fmt::Display| {
        format!("the record of {what} {id} is not signed by its writer")
    };
    let sessions = sessions.iter().filter(|session| !session.is_signed(family));
    let epochs = epochs.iter().filter(|epoch| !epoch.is_signed(family));
    let sessions = sessions.map(|session| unsigned("session", &session.id.short()));
    sessions.chain(epochs.map(|epoch| unsigned("epoch", &epoch.id.short()))).collect()
}

/// Identities that open contents, and the keys that they have opened so far.
///
/// A hardware identity is asked once an epoch, not once a session.
pub struct ContentKeys {
    family: FamilyId,
    identities: Vec<Identity>,
    epochs: Mutex<HashMap<EpochId, Secret32>>,
    sessions: Mutex<HashMap<(SessionId, WriterId), Secret32>>,
}

impl ContentKeys {
    /// Keys for contents of `family`. Without identities it opens only the sessions that it is told.
    pub fn new(family: FamilyId, identities: Vec<Identity>) -> Self {
        Self { family, identities, epochs: Mutex::default(), sessions: Mutex::default() }
    }

    /// True if it was given an identity.
    pub fn has_identity(&self) -> bool {
        !self.identities.is_empty()
    }

    /// Key of a session. `epoch` is what stands beside it or is named by the log: whatever its signature says,
    /// the caller knows whose it may be.
    ///
    /// # Errors
    /// [`RepoError::NeedsIdentity`] if none of the identities opens the epoch, [`RepoError::Age`] if one of the
    /// records is not what its writer signed.
    pub fn session_key(
        &self,
        session: &SessionRecord,
        epoch: Option<&EpochRecord>,
    ) -> Result<Secret32, RepoError> {
        // Nobody else can sign a session of this writer, whatever id it takes.
        let name = (session.id, session.writer);
        let broken = || RepoError::Age { what: "the key of a session does not open".to_owned() };
        if let Some(key) = lock(&self.sessions).get(&name) {
            return Ok(key.clone());
        }
        let epoch = epoch.ok_or(RepoError::NeedsIdentity)?;
        if !session.is_signed(self.family) || !epoch.is_signed(self.family) {
            return Err(broken());
        }
        let private = self.epoch_key(epoch)?;
        let kek = shared_key(&private, &session.ephemeral, &session.ephemeral, &epoch.public)?;
        let algorithm = Algorithm::from_number(session.algorithm).ok_or_else(broken)?;
        let mut wrapped = session.wrapped.clone();
        let aad = wrap_aad(self.family, session.id);
        let plain = seal::open(&kek, algorithm, &session.salt, &aad, &mut wrapped).map_err(|_| broken())?;
        let key = Secret32::new((&*plain).try_into().map_err(|_| broken())?);
        lock(&self.sessions).insert(name, key.clone());
        Ok(key)
    }

    fn epoch_key(&self, epoch: &EpochRecord) -> Result<Secret32, RepoError> {
        let mut epochs = lock(&self.epochs);
        let private = match epochs.get(&epoch.id) {
            Some(private) => private.clone(),
            None => unwrap_key(&epoch.wrap, &self.identities)?,
        };
        if public_half(&private)? != epoch.public {
            return Err(RepoError::Age { what: "an epoch holds the key of another".to_owned() });
        }
        epochs.insert(epoch.id, private.clone());
        Ok(private)
    }

    /// Wraps the key of an old epoch to further recipients, for `writer` to say so.
    ///
    /// # Errors
    /// [`RepoError::NeedsIdentity`] if we cannot open it ourselves.
    pub fn rewrap(
        &self,
        epoch: &EpochRecord,
        recipients: &[String],
        writer: &Signer,
    ) -> Result<EpochRecord, RepoError> {
        let wrap = wrap_key(recipients, &self.epoch_key(epoch)?)?;
        let again = Epoch { recipients: recipients.to_vec(), wrap, writer: writer.id(), ..(**epoch).clone() };
        Ok(EpochRecord::new(again, self.family, writer))
    }
}

fn public_half(private: &Secret32) -> Result<[u8; 32], RepoError> {
    let failed = || RepoError::Age { what: "an X25519 key is none".to_owned() };
    let private = PrivateKey::from_private_key(&X25519, private.bytes()).map_err(|_| failed())?;
    let public = private.compute_public_key().map_err(|_| failed())?;
    public.as_ref().try_into().map_err(|_| failed())
}

/// Key that wraps a session key: X25519, then BLAKE3 over the shared point and both public halves.
fn shared_key(
    private: &Secret32,
    peer: &[u8; 32],
    ephemeral: &[u8; 32],
    epoch: &[u8; 32],
) -> Result<Secret32, RepoError> {
    let failed = || RepoError::Age { what: "an X25519 key is none".to_owned() };
    let private = PrivateKey::from_private_key(&X25519, private.bytes()).map_err(|_| failed())?;
    agreement::agree(&private, UnparsedPublicKey::new(&X25519, peer), failed(), |shared| {
        let material = zeroize::Zeroizing::new([shared, ephemeral, epoch].concat());
        Ok(Secret32::new(blake3::derive_key("hikae 1 session wrap", &material)))
    })
}

fn wrap_aad(family: FamilyId, session: SessionId) -> Vec<u8> {
    [family.as_bytes().as_slice(), session.as_bytes()].concat()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|broken| broken.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::RepositorySecret;
    use crate::recipient::identity;
    use hikae_testkit::system_cx;

    #[test]
    fn only_a_recipient_opens_a_session() {
        let cx = system_cx();
        let secret = RepositorySecret::new([3; 32]);
        let family = secret.metadata_keys().family();
        let owner = identity(&secret.first_identity());
        let recipients = vec![owner.to_public().to_string()];
        let epoch = EpochRecord::begin(&recipients, family, &secret.root(), &cx).unwrap();
        let (session, key) = epoch.begin_session(family, 1, &secret.root(), &cx).unwrap();
        assert!(session.is_signed(family));

        let opened =
            ContentKeys::new(family, vec![Box::new(owner)]).session_key(&session, Some(&epoch)).unwrap();
        assert_eq!(opened.bytes(), key.bytes());
        let stranger = age::x25519::Identity::generate();
        let refused = ContentKeys::new(family, vec![Box::new(stranger)]).session_key(&session, Some(&epoch));
        assert!(matches!(refused, Err(RepoError::NeedsIdentity)));
    }
}
