//! `hikae.json`: what a repository is, in clear.
//!
//! It is the one object that decides whether there is a repository, put with a condition, last of all at
//! init. Each key slot vouches for its core, and the first log entry names the hash of its bytes.

use crate::cbor;
use crate::chunk;
use crate::object::{BadObject, FORMAT_VERSION};
use hikae_model::{FamilyId, RepositoryId, SlotId, WriterId};
use minicbor::Encode;
use serde::{Deserialize, Serialize};

const PRODUCT: &str = "hikae";

/// What `hikae.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The part that slots vouch for. Never changes.
    pub core: Core,
    /// The slots made at init. They name the core, so the core cannot name them.
    pub slots: Vec<FirstSlot>,
}

/// A slot made at init.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirstSlot {
    /// Its object.
    pub id: SlotId,
    /// What opens it: `passphrase`, `key-file`, `recipient`.
    pub kind: String,
}

/// Format, identity and parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Core {
    /// What this is, for who finds the file.
    pub product: String,
    /// Version of the format.
    pub format: u8,
    /// This repository.
    pub repository: RepositoryId,
    /// Repositories with the same id key.
    pub family: FamilyId,
    /// Its root key (Ed25519).
    pub root: WriterId,
    /// Who can open contents, at the start.
    pub recipients: Vec<String>,
    /// When it was made.
    pub created: jiff::Timestamp,
    /// The release that made it.
    pub release: String,
    /// Sizes of chunks of ordinary files, in bytes: least, average, most.
    pub file_chunks: [usize; 3],
    /// Sizes of pieces of database dumps, in bytes: least, average, most.
    pub row_pieces: [usize; 3],
}

/// The core as it is hashed.
#[derive(Encode)]
#[cbor(map)]
struct CoreRecord<'a> {
    #[n(0)]
    format: u8,
    #[n(1)]
    repository: RepositoryId,
    #[n(2)]
    family: FamilyId,
    #[n(3)]
    root: WriterId,
    #[n(4)]
    recipients: &'a [String],
    /// As the file has it.
    #[n(5)]
    created: &'a str,
    #[n(6)]
    release: &'a str,
    #[n(7)]
    file_chunks: [usize; 3],
    #[n(8)]
    row_pieces: [usize; 3],
}

impl Core {
    /// The core of a new repository of this release's format.
    pub fn new(
        repository: RepositoryId,
        family: FamilyId,
        root: WriterId,
        recipients: Vec<String>,
        created: jiff::Timestamp,
    ) -> Self {
        let sizes = |sizes: chunk::ChunkSizes| [sizes.min, sizes.average, sizes.max];
        Self {
            product: PRODUCT.to_owned(),
            format: FORMAT_VERSION,
            repository,
            family,
            root,
            recipients,
            created,
            release: crate::RELEASE.to_owned(),
            file_chunks: sizes(chunk::FILES),
            row_pieces: sizes(chunk::ROWS),
        }
    }

    /// What slots vouch for: the fields, however the file writes them.
    pub fn hash(&self) -> [u8; 32] {
        let record = CoreRecord {
            format: self.format,
            repository: self.repository,
            family: self.family,
            root: self.root,
            recipients: &self.recipients,
            created: &self.created.to_string(),
            release: &self.release,
            file_chunks: self.file_chunks,
            row_pieces: self.row_pieces,
        };
        *blake3::hash(&[b"hikae 1 core".as_slice(), &cbor::to_bytes(&record)].concat()).as_bytes()
    }
}

impl Header {
    /// The stored form.
    pub fn to_bytes(&self) -> Vec<u8> {
        json(self)
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`BadObject`] for everything that this release did not write so, to the byte.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadObject> {
        #[derive(Deserialize)]
        struct Version {
            core: VersionCore,
        }
        #[derive(Deserialize)]
        struct VersionCore {
            format: u8,
        }
        let bad = |error: serde_json::Error| BadObject::BadBody(error.to_string());
        // The version first: a later format may have fields that we would call unknown.
        let version: Version = serde_json::from_slice(bytes).map_err(bad)?;
        if version.core.format != FORMAT_VERSION {
            return Err(BadObject::Newer(version.core.format));
        }
        let header: Self = serde_json::from_slice(bytes).map_err(bad)?;
        if header.core.product != PRODUCT {
            return Err(BadObject::NotOurs);
        }
        match header.to_bytes() == bytes {
            true => Ok(header),
            false => Err(BadObject::BadBody("it is not written as hikae writes it".to_owned())),
        }
    }
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("plain fields can be written as JSON");
    bytes.push(b'\n');
    bytes
}
