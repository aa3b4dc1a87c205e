//! `hikae.json`: what a repository is, in clear.
//!
//! It is the one object that decides whether there is a repository, put with a condition, last of all at
//! init. Each key slot vouches for its core, and the first log entry names the hash of its bytes.

use crate::chunk;
use crate::object::{BadObject, FORMAT_VERSION};
use hikae_model::{FamilyId, RepositoryId, SlotId, WriterId};
use serde::{Deserialize, Serialize};

/// What `hikae.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The part that slots vouch for. Never changes.
    pub core: Core,
    /// The slots made at init. They name the core, so the core cannot name them.
    pub slots: Vec<SlotId>,
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
            product: "hikae".to_owned(),
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

    /// What slots vouch for.
    pub fn hash(&self) -> [u8; 32] {
        *blake3::hash(&json(self)).as_bytes()
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
