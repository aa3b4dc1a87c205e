//! Metadata objects: what is stored beside packs, each signed by its writer, then sealed.
//!
//! ```text
//! "HIKAE" | version u8 | class u8 | algorithm u8 | metadata key u32 LE | salt 16 | sealed { body | writer 32 | signature 64 }
//! ```
//!
//! The associated data of the seal is the header without its salt, then the family id and the context.
//! The signature covers the same, then the body. The context is empty for objects that are named by their
//! hash; for log entries and checkpoints it is repository id and number, so that none can stand in
//! another's place.
//!
//! This module knows the envelope. It does not know who may sign what: the log decides that.

use crate::keys::{MetadataKeys, Signer, signature_holds};
use crate::seal::{self, Algorithm};
use hikae_model::{FamilyId, WriterId, sabotage};

/// What a metadata object is. The number is stored in its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ObjectClass {
    /// Footer of a pack, inside the pack.
    Footer = 1,
    /// Index object.
    Index = 2,
    /// Snapshot record.
    Snapshot = 3,
    /// Entry of the log.
    LogEntry = 4,
    /// Checkpoint of the log.
    Checkpoint = 5,
    /// Key epoch of a writer.
    Epoch = 6,
    /// Evidence of a drill.
    Evidence = 7,
    /// Head of a file of the write-ahead log, inside its object.
    Wal = 8,
    /// Head of a bundle of segments of the write-ahead log, inside its object.
    WalBundle = 9,
}

/// Version of the envelope and of all that is in it.
pub const FORMAT_VERSION: u8 = 1;

const MAGIC: &[u8; 5] = b"HIKAE";
const HEADER_BYTES: usize = 12;
const SALT_AT: usize = HEADER_BYTES;
const BODY_AT: usize = SALT_AT + 16;
const SIGNATURE_BYTES: usize = 32 + 64;

/// A metadata object, opened: its writer did sign it. Whether that writer had the right is another matter.
#[derive(Debug)]
pub struct Opened {
    /// What the object says.
    pub body: Vec<u8>,
    /// Who signed it.
    pub writer: WriterId,
}

/// Bytes that are no object of ours, or not any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadObject {
    /// They do not begin as an object does.
    #[error("it is not an object of hikae")]
    NotOurs,
    /// A later release wrote them.
    #[error("it has format version {0}, and this release reads up to {FORMAT_VERSION}")]
    Newer(u8),
    /// They are an object of another class.
    #[error("it is an object of another class")]
    OtherClass,
    /// They name a key that we do not have.
    #[error("it needs metadata key {0}, which this key does not give")]
    NoKey(u32),
    /// Changed, or sealed for another place or with another key.
    #[error("its seal is broken: it was changed, or stands in another object's place")]
    BrokenSeal,
    /// Sealed by somebody with the metadata key, and not signed by the writer that it names.
    #[error("its signature is not that of its writer")]
    BadSignature,
    /// Rightly signed, by somebody of whom the log knows nothing.
    #[error("who wrote it is nobody whom the log knows")]
    UnknownWriter,
    /// The envelope is right and the contents are not.
    #[error("its contents cannot be read: {0}")]
    BadBody(String),
}

/// Signs and seals `body`, in its own memory: an index has megabytes.
pub fn seal_object(
    class: ObjectClass,
    context: &[u8],
    body: Vec<u8>,
    keys: &MetadataKeys,
    writer: &Signer,
) -> Vec<u8> {
    let (number, key) = keys.newest_seal();
    let algorithm = Algorithm::fastest();
    let mut header = MAGIC.to_vec();
    header.extend_from_slice(&[FORMAT_VERSION, class as u8, algorithm as u8]);
    header.extend_from_slice(&number.to_le_bytes());
    let aad = aad(&header, keys.family(), context);
    let signature = writer.sign(&signed(&aad, &body));
    let mut stored = body;
    stored.reserve_exact(BODY_AT + SIGNATURE_BYTES + seal::TAG_BYTES);
    stored.splice(..0, header.into_iter().chain([0; BODY_AT - SALT_AT]));
    stored.extend_from_slice(writer.id().as_bytes());
    stored.extend_from_slice(&signature);
    let salt = seal::seal_from(BODY_AT, key, algorithm, &aad, &mut stored);
    stored[SALT_AT..BODY_AT].copy_from_slice(&salt);
    stored
}

/// Opens what [`seal_object`] made.
///
/// # Errors
/// [`BadObject`] for every other sequence of bytes.
pub fn open_object(
    class: ObjectClass,
    context: &[u8],
    mut stored: Vec<u8>,
    keys: &MetadataKeys,
) -> Result<Opened, BadObject> {
    if stored.len() < BODY_AT + SIGNATURE_BYTES + seal::TAG_BYTES || !stored.starts_with(MAGIC) {
        return Err(BadObject::NotOurs);
    }
    match stored[5] {
        FORMAT_VERSION => {}
        // No release wrote that.
        0 => return Err(BadObject::NotOurs),
        newer => return Err(BadObject::Newer(newer)),
    }
    if stored[6] != class as u8 {
        return Err(BadObject::OtherClass);
    }
    let algorithm = Algorithm::from_number(stored[7]).ok_or(BadObject::NotOurs)?;
    let number = u32::from_le_bytes([stored[8], stored[9], stored[10], stored[11]]);
    let key = keys.seal(number).ok_or(BadObject::NoKey(number))?;
    let aad = aad(&stored[..HEADER_BYTES], keys.family(), context);
    let mut salt = [0; 16];
    salt.copy_from_slice(&stored[SALT_AT..BODY_AT]);
    let plain =
        seal::open(key, algorithm, &salt, &aad, &mut stored[BODY_AT..]).map_err(|_| BadObject::BrokenSeal)?;
    let body_bytes = plain.len() - SIGNATURE_BYTES;
    let (body, tail) = plain.split_at(body_bytes);
    let writer = WriterId::from_slice(&tail[..32]).ok_or(BadObject::NotOurs)?;
    let is_signed = signature_holds(writer, &signed(&aad, body), &tail[32..]);
    if !is_signed && !sabotage::on("signature-unchecked") {
        return Err(BadObject::BadSignature);
    }
    stored.drain(..BODY_AT);
    stored.truncate(body_bytes);
    Ok(Opened { body: stored, writer })
}

fn aad(header: &[u8], family: FamilyId, context: &[u8]) -> Vec<u8> {
    let context = if sabotage::on("aad-without-place") { &[][..] } else { context };
    [header, family.as_bytes(), context].concat()
}

fn signed(aad: &[u8], body: &[u8]) -> Vec<u8> {
    // A hash of the body keeps the signed message short; an index may have megabytes.
    let mut message = b"hikae 1 object".to_vec();
    message.extend_from_slice(&(aad.len() as u64).to_le_bytes());
    message.extend_from_slice(aad);
    message.extend_from_slice(blake3::hash(body).as_bytes());
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{RepositorySecret, Secret32};

    #[test]
    fn an_object_opens_only_in_its_own_place_and_unchanged() {
        let secret = RepositorySecret::new([1; 32]);
        let (keys, writer) = (secret.metadata_keys(), secret.root());
        let stored = seal_object(ObjectClass::Index, b"here", b"body".to_vec(), &keys, &writer);
        let open = |class, context: &[u8], bytes: &[u8]| open_object(class, context, bytes.to_vec(), &keys);

        let opened = open(ObjectClass::Index, b"here", &stored).unwrap();
        assert_eq!((opened.body.as_slice(), opened.writer), (b"body".as_slice(), writer.id()));
        assert_eq!(open(ObjectClass::Index, b"there", &stored).unwrap_err(), BadObject::BrokenSeal);
        assert_eq!(open(ObjectClass::Snapshot, b"here", &stored).unwrap_err(), BadObject::OtherClass);
        for bit in 0..stored.len() * 8 {
            let mut flipped = stored.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(open(ObjectClass::Index, b"here", &flipped).is_err(), "bit {bit}");
        }
        for length in 0..stored.len() {
            assert!(open(ObjectClass::Index, b"here", &stored[..length]).is_err(), "cut to {length}");
        }
    }

    /// Whoever has the metadata key can seal; only the writer can sign.
    /// Keeps MK-20, BC-9.
    #[test]
    fn an_object_that_another_has_signed_in_the_writers_name_does_not_open() {
        let secret = RepositorySecret::new([1; 32]);
        let (keys, writer) = (secret.metadata_keys(), secret.root());
        let stranger = Signer::from_seed(&Secret32::new([8; 32]));
        let stored = seal_object(ObjectClass::Index, b"here", b"body".to_vec(), &keys, &stranger);
        let (header, key) = (&stored[..HEADER_BYTES], keys.newest_seal().1);
        let aad = aad(header, keys.family(), b"here");
        let (salt, mut sealed) = (stored[SALT_AT..BODY_AT].try_into().unwrap(), stored[BODY_AT..].to_vec());
        let mut body = seal::open(key, Algorithm::fastest(), &salt, &aad, &mut sealed).unwrap().to_vec();
        body[4..36].copy_from_slice(writer.id().as_bytes());
        let salt = seal::seal(key, Algorithm::fastest(), &aad, &mut body);
        let forged = [header, &salt, &body].concat();
        let opened = open_object(ObjectClass::Index, b"here", forged, &keys);
        assert_eq!(opened.map(|opened| opened.writer), Err(BadObject::BadSignature));
    }

    #[test]
    fn another_familys_object_does_not_open() {
        let (ours, theirs) = (RepositorySecret::new([1; 32]), RepositorySecret::new([2; 32]));
        let stored = seal_object(
            ObjectClass::Snapshot,
            b"",
            b"body".to_vec(),
            &theirs.metadata_keys(),
            &theirs.root(),
        );
        let error = open_object(ObjectClass::Snapshot, b"", stored, &ours.metadata_keys()).unwrap_err();
        assert_eq!(error, BadObject::BrokenSeal);
    }
}
