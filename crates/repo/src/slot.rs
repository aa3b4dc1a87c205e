//! Key slots: what opens a repository, wrapped by something that a person or a host has.
//!
//! ```text
//! keys/<id>: "HIKAE" | version u8 | 0x10 | CBOR { kind, key stretching, seal }
//! ```
//!
//! A slot holds the repository secret (an owner's slot) or the metadata keys and a signing key (a writer's
//! slot). It is wrapped by a passphrase through Argon2id, by a key file, or to an age recipient; each slot
//! is independent of the others. Inside the seal stands the hash of `hikae.json`, which each slot so
//! vouches for.
//!
//! This module knows wraps. It knows no store and no log.

use crate::cbor;
use crate::error::RepoError;
use crate::keys::{MetadataKeys, RepositorySecret, Secret32, Signer};
use crate::object::{BadObject, FORMAT_VERSION};
use crate::recipient::{Identity, unwrap_key, wrap_key};
use crate::seal::{self, Algorithm, Salt};
use hikae_model::{Cx, SlotId, sabotage};
use minicbor::{Decode, Encode};
use std::collections::BTreeMap;
use zeroize::Zeroizing;

const MAGIC: &[u8; 7] = &[b'H', b'I', b'K', b'A', b'E', FORMAT_VERSION, 0x10];

/// Costs of Argon2id (RFC 9106). Stored in the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct KdfCost {
    /// Memory in KiB.
    #[n(0)]
    pub memory_kib: u32,
    /// Passes.
    #[n(1)]
    pub passes: u32,
    /// Lanes.
    #[n(2)]
    pub lanes: u32,
}

impl KdfCost {
    /// What a new slot takes: RFC 9106's second recommended option, 64 MiB in three passes.
    pub const STANDARD: Self = Self { memory_kib: 64 << 10, passes: 3, lanes: 4 };
    /// The least that is accepted when a slot is opened, unless it is a test.
    pub const FLOOR: Self = Self { memory_kib: 8, passes: 1, lanes: 1 };
    /// The most: a forged slot must not eat the machine's memory.
    const CEILING: Self = Self { memory_kib: 4 << 20, passes: 64, lanes: 64 };
}

/// What a slot opens.
pub enum Payload {
    /// The repository secret: everything.
    Owner(RepositorySecret),
    /// Metadata keys and a signing key: writing, and no content.
    Writer {
        /// What every writer holds.
        keys: Box<MetadataKeys>,
        /// What this one signs with.
        signer: Signer,
    },
}

/// What a person or a host has to open a slot with.
pub enum Unlock {
    /// A passphrase.
    Passphrase(Zeroizing<String>),
    /// The 32 bytes of a key file.
    KeyFile(Secret32),
    /// Age identities.
    Identities(Vec<Identity>),
    /// The secret itself, from the recovery sheet.
    Recovery(RepositorySecret),
}

/// What a new slot is wrapped by.
pub enum Wrap<'a> {
    /// A passphrase, at this cost.
    Passphrase(&'a str, KdfCost),
    /// The 32 bytes of a key file.
    KeyFile(&'a Secret32),
    /// An age recipient.
    Recipient(&'a str),
}

impl Wrap<'_> {
    /// What the log calls it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Passphrase(..) => "passphrase",
            Self::KeyFile(_) => "key-file",
            Self::Recipient(_) => "recipient",
        }
    }
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct SlotRecord {
    /// 1 passphrase, 2 key file, 3 recipient.
    #[n(0)]
    kind: u8,
    #[n(1)]
    kdf: Option<KdfCost>,
    #[cbor(n(2), with = "minicbor::bytes")]
    kdf_salt: Option<[u8; 16]>,
    #[n(3)]
    algorithm: u8,
    #[cbor(n(4), with = "minicbor::bytes")]
    salt: Salt,
    /// For a recipient: an age file that holds the key of the seal.
    #[cbor(n(5), with = "minicbor::bytes")]
    wrap: Option<Vec<u8>>,
    #[cbor(n(6), with = "minicbor::bytes")]
    sealed: Vec<u8>,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct PayloadRecord {
    #[cbor(n(0), with = "minicbor::bytes")]
    header: [u8; 32],
    #[cbor(n(1), with = "minicbor::bytes")]
    secret: Option<[u8; 32]>,
    #[cbor(n(2), with = "minicbor::bytes")]
    id_root: Option<[u8; 32]>,
    #[n(3)]
    seals: Option<Vec<SealKey>>,
    #[cbor(n(4), with = "minicbor::bytes")]
    signer: Option<[u8; 32]>,
}

#[derive(Encode, Decode)]
#[cbor(array)]
struct SealKey {
    #[n(0)]
    number: u32,
    #[cbor(n(1), with = "minicbor::bytes")]
    key: [u8; 32],
}

const PASSPHRASE: u8 = 1;
const KEY_FILE: u8 = 2;
const RECIPIENT: u8 = 3;

/// What a slot says once it is open.
pub struct OpenedSlot {
    /// What it opens.
    pub payload: Payload,
    /// Hash of the `hikae.json` that it vouches for.
    pub header: [u8; 32],
}

/// Makes a slot: its name and its stored bytes.
///
/// # Errors
/// [`RepoError::Age`] if a recipient is none.
pub fn make(
    payload: &Payload,
    header: [u8; 32],
    wrap: &Wrap<'_>,
    cx: &Cx,
) -> Result<(SlotId, Vec<u8>), RepoError> {
    let record = match payload {
        Payload::Owner(secret) => {
            PayloadRecord { header, secret: Some(*secret.bytes()), id_root: None, seals: None, signer: None }
        }
        Payload::Writer { keys, signer } => {
            let seals =
                keys.seals().iter().map(|(number, key)| SealKey { number: *number, key: *key.bytes() });
            PayloadRecord {
                header,
                secret: None,
                id_root: Some(*keys.id_root().bytes()),
                seals: Some(seals.collect()),
                signer: Some(*signer.seed().bytes()),
            }
        }
    };
    let mut sealed = cbor::to_bytes(&record);
    let (kind, kdf, kdf_salt, key, age_wrap) = match wrap {
        Wrap::Passphrase(passphrase, cost) => {
            let salt = cx.random();
            (PASSPHRASE, Some(*cost), Some(salt), stretch(passphrase, &salt, *cost)?, None)
        }
        Wrap::KeyFile(key) => (KEY_FILE, None, None, (*key).clone(), None),
        Wrap::Recipient(recipient) => {
            let key = Secret32::new(cx.random());
            (RECIPIENT, None, None, key.clone(), Some(wrap_key(&[(*recipient).to_owned()], &key)?))
        }
    };
    let algorithm = Algorithm::fastest();
    let salt = seal::seal(&key, algorithm, &[MAGIC, &[kind][..]].concat(), &mut sealed);
    let record = SlotRecord { kind, kdf, kdf_salt, algorithm: algorithm as u8, salt, wrap: age_wrap, sealed };
    let stored = [MAGIC.as_slice(), &cbor::to_bytes(&record)].concat();
    Ok((SlotId::from_bytes(*blake3::hash(&stored).as_bytes()), stored))
}

/// Tries to open a slot. `None` means that it is another's, or another kind of slot.
///
/// # Errors
/// [`BadObject`] if it is no slot.
pub fn open(stored: &[u8], unlock: &Unlock) -> Result<Option<OpenedSlot>, BadObject> {
    let Some(body) = stored.strip_prefix(MAGIC) else { return Ok(None) };
    let record: SlotRecord = cbor::from_bytes(body)?;
    let key = match (record.kind, unlock) {
        (PASSPHRASE, Unlock::Passphrase(passphrase)) => {
            let bad = || BadObject::BadBody("its costs are beyond reason".to_owned());
            let (cost, salt) = record.kdf.zip(record.kdf_salt).ok_or_else(bad)?;
            let within =
                |value, floor, ceiling| (floor..=ceiling).contains(&value) || sabotage::on("kdf-unbounded");
            let (floor, ceiling) = (KdfCost::FLOOR, KdfCost::CEILING);
            if !within(cost.memory_kib, floor.memory_kib, ceiling.memory_kib)
                || !within(cost.passes, floor.passes, ceiling.passes)
                || !within(cost.lanes, floor.lanes, ceiling.lanes)
            {
                return Err(bad());
            }
            stretch(passphrase, &salt, cost).map_err(|_| bad())?
        }
        (KEY_FILE, Unlock::KeyFile(key)) => key.clone(),
        (RECIPIENT, Unlock::Identities(identities)) => {
            match record.wrap.as_deref().map(|wrap| unwrap_key(wrap, identities)) {
                Some(Ok(key)) => key,
                Some(Err(_)) | None => return Ok(None),
            }
        }
        _ => return Ok(None),
    };
    let Some(algorithm) = Algorithm::from_number(record.algorithm) else { return Ok(None) };
    let mut sealed = Zeroizing::new(record.sealed);
    let aad = [MAGIC, &[record.kind][..]].concat();
    let Ok(plain) = seal::open(&key, algorithm, &record.salt, &aad, &mut sealed) else { return Ok(None) };
    let payload: PayloadRecord = cbor::from_bytes(plain)?;
    let opened = match (payload.secret, payload.id_root, payload.seals, payload.signer) {
        (Some(secret), ..) => Payload::Owner(RepositorySecret::new(secret)),
        (None, Some(id_root), Some(seals), Some(signer)) if !seals.is_empty() => {
            let seals = seals.into_iter().map(|seal| (seal.number, Secret32::new(seal.key)));
            Payload::Writer {
                keys: Box::new(MetadataKeys::new(Secret32::new(id_root), seals.collect::<BTreeMap<_, _>>())),
                signer: Signer::from_seed(&Secret32::new(signer)),
            }
        }
        _ => return Err(BadObject::BadBody("it holds no key".to_owned())),
    };
    Ok(Some(OpenedSlot { payload: opened, header: payload.header }))
}

fn stretch(passphrase: &str, salt: &[u8; 16], cost: KdfCost) -> Result<Secret32, RepoError> {
    let failed = |error: argon2::Error| RepoError::BadKey {
        what: format!("the passphrase cannot be stretched: {error}"),
    };
    let params = argon2::Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).map_err(failed)?;
    let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let mut key = [0; 32];
    argon2.hash_password_into(passphrase.as_bytes(), salt, &mut key).map_err(failed)?;
    Ok(Secret32::new(key))
}
