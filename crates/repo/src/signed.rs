//! Records that travel: the bytes that were written, beside the signature of who wrote them.
//!
//! ```text
//! [record as bytes, signature]       signed: purpose | family id | record as bytes
//! ```
//!
//! Who copies frames copies the records that they need. It hands the bytes on as they came, so fields that it
//! does not know stay, and the signature holds.
//!
//! This module knows bytes and signatures. It does not know what the records say.

use crate::cbor;
use crate::keys::{Signer, signature_holds};
use hikae_model::{FamilyId, WriterId};
use minicbor::decode::{self, Decode, Decoder};
use minicbor::encode::{self, Encode, Encoder, Write};

/// What a record that is signed has to say.
pub trait Signable: Encode<()> + for<'b> Decode<'b, ()> {
    /// What its signature is for: no other kind of record shares it.
    const PURPOSE: &'static [u8];

    /// Who has signed it.
    fn writer(&self) -> WriterId;
}

/// A record, with the bytes that it was read from or will be written as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed<T> {
    record: T,
    bytes: Vec<u8>,
    signature: [u8; 64],
}

impl<T: Signable> Signed<T> {
    /// Signs a record.
    pub fn new(record: T, family: FamilyId, writer: &Signer) -> Self {
        let bytes = cbor::to_bytes(&record);
        let signature = writer.sign(&message::<T>(family, &bytes));
        Self { record, bytes, signature }
    }

    /// Whether the writer that it names did sign it.
    pub fn is_signed(&self, family: FamilyId) -> bool {
        signature_holds(self.record.writer(), &message::<T>(family, &self.bytes), &self.signature)
    }
}

impl<T> std::ops::Deref for Signed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.record
    }
}

fn message<T: Signable>(family: FamilyId, bytes: &[u8]) -> Vec<u8> {
    [T::PURPOSE, family.as_bytes(), bytes].concat()
}

impl<C, T> Encode<C> for Signed<T> {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.array(2)?.bytes(&self.bytes)?.bytes(&self.signature)?.ok()
    }
}

impl<'b, C, T: Signable> Decode<'b, C> for Signed<T> {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        if d.array()? != Some(2) {
            return Err(decode::Error::message("a signed record has two parts"));
        }
        let bytes = d.bytes()?.to_vec();
        let signature =
            d.bytes()?.try_into().map_err(|_| decode::Error::message("a signature has 64 bytes"))?;
        let record = cbor::from_bytes(&bytes).map_err(decode::Error::message)?;
        Ok(Self { record, bytes, signature })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::{EpochRecord, SessionRecord};
    use crate::keys::RepositorySecret;
    use crate::recipient::identity;
    use hikae_testkit::system_cx;

    /// As a later release writes it: with a field that we do not know.
    fn with_a_new_field(signed: &SessionRecord, family: FamilyId, writer: &Signer) -> Vec<u8> {
        let mut bytes = signed.bytes.clone();
        bytes[0] += 1;
        bytes.extend(b"\x17\x63new");
        let signature = writer.sign(&[b"hikae 1 session", family.as_bytes().as_slice(), &bytes].concat());
        let mut encoder = Encoder::new(Vec::new());
        encoder.array(2).unwrap().bytes(&bytes).unwrap().bytes(&signature).unwrap();
        encoder.into_writer()
    }

    #[test]
    fn a_field_that_we_do_not_know_survives_us() {
        let (cx, secret) = (system_cx(), RepositorySecret::new([3; 32]));
        let family = secret.metadata_keys().family();
        let recipients = vec![identity(&secret.first_identity()).to_public().to_string()];
        let epoch = EpochRecord::begin(&recipients, family, &secret.root(), &cx).unwrap();
        let (session, _) = epoch.begin_session(family, 1, &secret.root(), &cx).unwrap();
        let stored = with_a_new_field(&session, family, &secret.root());
        let read: SessionRecord = cbor::from_bytes(&stored).unwrap();
        assert!(read.is_signed(family));
        assert_eq!(read.id, session.id);
        assert_eq!(cbor::to_bytes(&read), stored);
    }

    #[test]
    fn a_record_that_was_changed_or_is_another_familys_is_not_signed() {
        let (cx, secret) = (system_cx(), RepositorySecret::new([3; 32]));
        let family = secret.metadata_keys().family();
        let recipients = vec![identity(&secret.first_identity()).to_public().to_string()];
        let epoch = EpochRecord::begin(&recipients, family, &secret.root(), &cx).unwrap();
        let (session, _) = epoch.begin_session(family, 1, &secret.root(), &cx).unwrap();
        assert!(epoch.is_signed(family) && session.is_signed(family));
        assert!(!session.is_signed(FamilyId::from_bytes([0; 16])));
        let stored = cbor::to_bytes(&session);
        let mut n_read = 0;
        for bit in 0..stored.len() * 8 {
            let mut flipped = stored.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(read) = cbor::from_bytes::<SessionRecord>(&flipped) {
                n_read += 1;
                assert!(!read.is_signed(family), "bit {bit}");
            }
        }
        assert!(n_read > 1000, "{n_read}");
    }
}
