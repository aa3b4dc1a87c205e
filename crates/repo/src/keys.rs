//! The keys of an open repository, all derived from one secret or handed to a writer.
//!
//! ```text
//! repository secret ─┬─ id root ────┬─ family id, blob keys, gear table, hash key
//!   (32 bytes)       │              │
//!                    ├─ metadata key 1, 2, …      what a writer, a pruner and the catalog hold
//!                    ├─ root signing key          who may enrol writers
//!                    └─ first identity            who may read contents
//! ```
//!
//! Purposes are separated by BLAKE3's `derive_key` with a context string of their own. This module knows
//! which key follows from which. It knows no object, no slot and no age file.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use hikae_model::{BlobId, FamilyId, HashKey, WriterId, sabotage};
use std::collections::BTreeMap;
use zeroize::{Zeroize as _, Zeroizing};

/// 32 secret bytes, wiped when dropped, never shown. They have one place in memory, so that a move leaves no copy
/// behind on a stack.
#[derive(Clone)]
pub struct Secret32(Box<Zeroizing<[u8; 32]>>);

impl Secret32 {
    /// Takes the bytes over, and wipes where they came from.
    pub fn new(mut bytes: [u8; 32]) -> Self {
        let mut own = Box::new(Zeroizing::new([0; 32]));
        own.copy_from_slice(&bytes);
        if !sabotage::on("key-copies-stay") {
            bytes.zeroize();
        }
        Self(own)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key for `purpose`, which is a context string that no other use shares.
    fn derive(&self, purpose: &str) -> Self {
        Self::new(blake3::derive_key(purpose, self.bytes()))
    }
}

impl std::fmt::Debug for Secret32 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if sabotage::on("secret-in-debug") {
            return write!(f, "Secret32({:?})", self.bytes());
        }
        f.write_str("Secret32(..)")
    }
}

/// What a blob is, which decides the key of its id and of its seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum BlobClass {
    /// What sources hold. Only who has an identity can read it.
    Content = 1,
    /// Listings, maps, manifests. Every holder of the metadata key can read it.
    Metadata = 2,
}

impl BlobClass {
    /// The class with this number, if there is one.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Content),
            2 => Some(Self::Metadata),
            _ => None,
        }
    }
}

/// The secret from which everything follows. It is on the recovery sheet.
#[derive(Clone, Debug)]
pub struct RepositorySecret(Secret32);

impl RepositorySecret {
    /// A secret read from a slot or a recovery sheet, or drawn at random.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Secret32::new(bytes))
    }

    /// The bytes, for a slot or a recovery sheet.
    pub fn bytes(&self) -> &[u8; 32] {
        self.0.bytes()
    }

    /// What every writer of the repository holds.
    pub fn metadata_keys(&self) -> MetadataKeys {
        let number = MetadataKeys::FIRST;
        let key = Secret32::new(blake3::derive_key(
            "hikae 1 metadata key",
            &[self.bytes().as_slice(), &number.to_le_bytes()].concat(),
        ));
        MetadataKeys::new(self.0.derive("hikae 1 id root"), BTreeMap::from([(number, key)]))
    }

    /// The root key: it enrols writers, and is a writer itself.
    pub fn root(&self) -> Signer {
        Signer::from_seed(&self.0.derive("hikae 1 root signing key"))
    }

    /// Private half of the first recipient, an X25519 scalar.
    pub fn first_identity(&self) -> Secret32 {
        self.0.derive("hikae 1 first identity")
    }
}

/// Everything that reads and writes metadata and names blobs, and opens no content.
#[derive(Clone)]
pub struct MetadataKeys {
    id_root: Secret32,
    seals: BTreeMap<u32, Secret32>,
    family: FamilyId,
    blob_keys: [Secret32; 2],
    hash_key: Secret32,
}

impl MetadataKeys {
    /// Number of the first metadata key.
    pub const FIRST: u32 = 1;

    /// Keys that were wrapped for a writer, or derived from the repository secret.
    pub fn new(id_root: Secret32, seals: BTreeMap<u32, Secret32>) -> Self {
        let mut family = [0; 16];
        family.copy_from_slice(&id_root.derive("hikae 1 family id").bytes()[..16]);
        Self {
            family: FamilyId::from_bytes(family),
            blob_keys: [
                id_root.derive("hikae 1 content blob id"),
                id_root.derive("hikae 1 metadata blob id"),
            ],
            hash_key: id_root.derive("hikae 1 manifest hash"),
            id_root,
            seals,
        }
    }

    /// The root of all that names blobs, for a writer's slot.
    pub fn id_root(&self) -> &Secret32 {
        &self.id_root
    }

    /// The metadata keys by number, for a writer's slot.
    pub fn seals(&self) -> &BTreeMap<u32, Secret32> {
        &self.seals
    }

    /// The family: repositories that share the id root.
    pub fn family(&self) -> FamilyId {
        self.family
    }

    /// The key that seals new metadata, and its number.
    pub fn newest_seal(&self) -> (u32, &Secret32) {
        // A set of keys is never empty: it is made with the first.
        self.seals.last_key_value().map_or((0, &self.id_root), |(number, key)| (*number, key))
    }

    /// The metadata key with this number.
    pub fn seal(&self, number: u32) -> Option<&Secret32> {
        self.seals.get(&number)
    }

    /// Name of a blob. The same bytes have another name in another class, so that content that happens to
    /// equal a listing never stands for it.
    pub fn blob_id(&self, class: BlobClass, plain: &[u8]) -> BlobId {
        let key = &self.blob_keys[match class {
            BlobClass::Content => 0,
            BlobClass::Metadata => 1,
        }];
        BlobId::from_bytes(*blake3::keyed_hash(key.bytes(), plain).as_bytes())
    }

    /// Key for hashes in manifests, of pieces, and of paths.
    pub fn hash_key(&self) -> HashKey {
        HashKey(*self.hash_key.bytes())
    }

    /// Fills the table that decides where content is cut; secret, so that cut points tell nobody which
    /// files are stored.
    pub fn fill_gear(&self, table: &mut [u64; 256]) {
        let mut bytes = [0; 2048];
        blake3::Hasher::new_derive_key("hikae 1 gear table")
            .update(self.id_root.bytes())
            .finalize_xof()
            .fill(&mut bytes);
        for (entry, eight) in table.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *entry = u64::from_le_bytes(*eight);
        }
    }
}

/// A key that signs what a writer writes.
pub struct Signer {
    seed: Secret32,
    pair: Ed25519KeyPair,
}

impl Signer {
    /// The key that this seed stands for.
    pub fn from_seed(seed: &Secret32) -> Self {
        let pair =
            Ed25519KeyPair::from_seed_unchecked(seed.bytes()).expect("every 32 bytes are an Ed25519 seed");
        Self { seed: seed.clone(), pair }
    }

    /// The seed, for a slot.
    pub fn seed(&self) -> &Secret32 {
        &self.seed
    }

    /// Its public half.
    pub fn id(&self) -> WriterId {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.pair.public_key().as_ref());
        WriterId::from_bytes(bytes)
    }

    /// Signs `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.pair.sign(message).as_ref());
        signature
    }
}

/// Whether `writer` signed `message`.
pub fn signature_holds(writer: WriterId, message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, writer.as_bytes()).verify(message, signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_shows_in_what_is_printed_to_find_faults() {
        let key = Secret32::new([0xA7; 32]);
        for shown in [format!("{key:?}"), format!("{key:#?}"), format!("{:?}", Some(&key))] {
            assert!(!shown.contains("167") && !shown.to_lowercase().contains("a7"), "{shown}");
        }
    }
}
