//! Names of things: fixed-length byte strings, shown in lower-case hex.
//!
//! An id is made by hashing or drawing in the crate that owns the thing, or by parsing text. It knows
//! nothing of what it names.

use std::fmt;

/// Text that should be an id and is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {what}: expected {digits} hexadecimal digits")]
pub struct BadId {
    what: &'static str,
    digits: usize,
    text: String,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $bytes;

            /// The id that these bytes are.
            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            /// The id that these bytes are, if their number is right.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            /// The bytes.
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }

            /// The first eight hex digits, for people.
            pub fn short(&self) -> String {
                self.to_string()[..8].to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl std::str::FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                let bad = || BadId { what: $what, digits: 2 * $bytes, text: text.to_owned() };
                let mut bytes = [0; $bytes];
                if text.len() != 2 * $bytes || !text.is_ascii() {
                    return Err(bad());
                }
                for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
                    let pair = std::str::from_utf8(pair).map_err(|_| bad())?;
                    *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
                }
                Ok(Self(bytes))
            }
        }

        /// In stored records an id is a byte string of its length.
        impl<C> minicbor::Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                encoder: &mut minicbor::Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                encoder.bytes(&self.0)?.ok()
            }
        }

        impl<'b, C> minicbor::Decode<'b, C> for $name {
            fn decode(decoder: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
                Self::from_slice(decoder.bytes()?)
                    .ok_or_else(|| minicbor::decode::Error::message(concat!("not ", $what)))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id! {
    /// Name of a blob: keyed BLAKE3 of its plaintext. Same key, class and content, same id, in every run.
    BlobId, 32, "a blob id"
}
id! {
    /// Name of a pack: BLAKE3 of its stored bytes.
    PackId, 32, "a pack id"
}
id! {
    /// Name of an index object: BLAKE3 of its stored bytes.
    IndexId, 32, "an index id"
}
id! {
    /// Name of a snapshot: BLAKE3 of its stored record.
    SnapshotId, 32, "a snapshot id"
}
id! {
    /// Name of a record of drill evidence: BLAKE3 of its stored bytes.
    EvidenceId, 32, "an evidence id"
}
id! {
    /// Name of a bundle of segments of write-ahead log: BLAKE3 of its stored bytes.
    BundleId, 32, "a bundle id"
}
id! {
    /// Name of a key slot: BLAKE3 of its stored bytes.
    SlotId, 32, "a key slot id"
}
id! {
    /// One carrying-out of a job, drawn at random: its nonce in the log, and what binds its sources together.
    RunId, 16, "a run id"
}
id! {
    /// One stretch of writing with one session key, drawn at random.
    SessionId, 16, "a session id"
}
id! {
    /// A key epoch of one writer, drawn at random.
    EpochId, 16, "an epoch id"
}
id! {
    /// Repositories with the same id key, between which packs may move sealed.
    FamilyId, 16, "a family id"
}
id! {
    /// One repository, drawn at random when it is made.
    RepositoryId, 16, "a repository id"
}
id! {
    /// A writer: its Ed25519 public key.
    WriterId, 32, "a writer id"
}

/// Key for hashes in manifests (rows of tables, contents of files), so that who reads a manifest cannot
/// test it for known content.
#[derive(Clone, Copy)]
pub struct HashKey(pub [u8; 32]);

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_being_written_and_read() {
        let id = RunId::from_bytes(*b"0123456789abcdef");
        assert_eq!(id.to_string().parse::<RunId>().unwrap(), id);
        assert_eq!(id.short(), "30313233");
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        for text in ["", "12", "zz313233343536373839616263646566", "303132333435363738396162636465é"] {
            assert!(text.parse::<RunId>().is_err(), "{text}");
        }
    }
}
