//! Seals: authenticated encryption under a key that is used once.
//!
//! The key of a seal is derived from a long-lived key and a salt; the salt is a keyed hash over the
//! associated data and the bytes themselves, and the nonce is zero. So a cloned machine or a resumed
//! process can repeat a (key, nonce) pair only with the very same bytes, which is no repetition at all.
//! A counter alone could not promise that.
//!
//! This module knows bytes and keys. It knows no frame and no object.

use crate::keys::Secret32;
use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use hikae_model::sabotage;

/// How bytes are sealed. The number is stored beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Algorithm {
    /// AES-256-GCM, where the CPU has instructions for it.
    Aes256Gcm = 1,
    /// ChaCha20-Poly1305 elsewhere.
    ChaCha20Poly1305 = 2,
}

impl Algorithm {
    /// The faster one on this machine.
    pub fn fastest() -> Self {
        #[cfg(target_arch = "x86_64")]
        let aes = std::arch::is_x86_feature_detected!("aes");
        #[cfg(target_arch = "aarch64")]
        let aes = std::arch::is_aarch64_feature_detected!("aes");
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let aes = false;
        if aes { Self::Aes256Gcm } else { Self::ChaCha20Poly1305 }
    }

    /// The algorithm with this number, if there is one.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Aes256Gcm),
            2 => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }
}

/// What makes the key of one seal unlike every other. Stored beside what it sealed.
pub type Salt = [u8; 16];

/// Bytes that a seal adds.
pub const TAG_BYTES: usize = 16;

/// The seal does not open: other key, other associated data, or changed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the seal is broken")]
pub struct BrokenSeal;

/// Seals `bytes` in place; they grow by [`TAG_BYTES`]. Gives the salt that opens them.
pub fn seal(key: &Secret32, algorithm: Algorithm, aad: &[u8], bytes: &mut Vec<u8>) -> Salt {
    seal_from(0, key, algorithm, aad, bytes)
}

/// As [`seal`], for the bytes from `start` on. Those before it stay as they are.
pub fn seal_from(
    start: usize,
    key: &Secret32,
    algorithm: Algorithm,
    aad: &[u8],
    bytes: &mut Vec<u8>,
) -> Salt {
    let plain = &mut bytes[start..];
    let salt = salt(key, aad, plain);
    if sabotage::on("nothing-is-sealed") {
        bytes.extend_from_slice(&salt);
        return salt;
    }
    let tag = once_key(key, algorithm, &salt)
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key([0; 12]), Aad::from(aad), plain)
        .expect("a frame is far below the length limit of the cipher");
    bytes.extend_from_slice(tag.as_ref());
    salt
}

/// Opens `bytes` in place and gives the plain bytes, which are all but the last [`TAG_BYTES`].
///
/// # Errors
/// [`BrokenSeal`] if anything differs from what was sealed.
pub fn open<'b>(
    key: &Secret32,
    algorithm: Algorithm,
    salt: &Salt,
    aad: &[u8],
    bytes: &'b mut [u8],
) -> Result<&'b mut [u8], BrokenSeal> {
    if sabotage::on("nothing-is-sealed") {
        let end = bytes.len() - TAG_BYTES;
        return Ok(&mut bytes[..end]);
    }
    let plain = once_key(key, algorithm, salt)
        .open_in_place(Nonce::assume_unique_for_key([0; 12]), Aad::from(aad), bytes)
        .map_err(|_| BrokenSeal)?;
    // GCM alone does not commit to a key: bytes can be made that open under two. The salt does.
    match subtle::ConstantTimeEq::ct_eq(&self::salt(key, aad, plain)[..], &salt[..]).into() {
        true => Ok(plain),
        false if sabotage::on("salt-unchecked") => Ok(plain),
        false => Err(BrokenSeal),
    }
}

fn salt(key: &Secret32, aad: &[u8], bytes: &[u8]) -> Salt {
    let mut hasher = blake3::Hasher::new_keyed(&blake3::derive_key("hikae 1 seal salt", key.bytes()));
    let aad_bytes = aad.len() as u64;
    hasher.update(&if sabotage::on("format-drifts") {
        aad_bytes.to_be_bytes()
    } else {
        aad_bytes.to_le_bytes()
    });
    hasher.update(aad).update(bytes);
    let mut salt = [0; 16];
    if !sabotage::on("salt-constant") {
        salt.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    }
    salt
}

fn once_key(key: &Secret32, algorithm: Algorithm, salt: &Salt) -> LessSafeKey {
    let root = blake3::derive_key("hikae 1 seal key", key.bytes());
    let once = blake3::keyed_hash(&root, salt);
    let cipher = match algorithm {
        Algorithm::Aes256Gcm => &aead::AES_256_GCM,
        Algorithm::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
    };
    LessSafeKey::new(UnboundKey::new(cipher, once.as_bytes()).expect("both ciphers take 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [7; 32];

    /// Keeps IN-50, IN-68.
    #[test]
    fn every_changed_bit_breaks_the_seal() {
        for algorithm in [Algorithm::Aes256Gcm, Algorithm::ChaCha20Poly1305] {
            let key = Secret32::new(KEY);
            let mut sealed = b"what was sealed".to_vec();
            let salt = seal(&key, algorithm, b"aad", &mut sealed);
            let opens = |salt: &Salt, aad: &[u8], bytes: &[u8]| {
                open(&key, algorithm, salt, aad, &mut bytes.to_vec()).map(|plain| plain.to_vec())
            };
            assert_eq!(opens(&salt, b"aad", &sealed).unwrap(), b"what was sealed");
            for bit in 0..sealed.len() * 8 {
                let mut flipped = sealed.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(opens(&salt, b"aad", &flipped), Err(BrokenSeal), "bit {bit}");
            }
            for bit in 0..128 {
                let mut flipped = salt;
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(opens(&flipped, b"aad", &sealed), Err(BrokenSeal), "bit {bit} of the salt");
            }
            assert_eq!(opens(&salt, b"aae", &sealed), Err(BrokenSeal));
        }
    }

    /// Who holds the key can make bytes that the cipher opens and that we did not seal so.
    #[test]
    fn what_the_cipher_opens_under_another_salt_is_no_seal_of_ours() {
        let key = Secret32::new(KEY);
        for algorithm in [Algorithm::Aes256Gcm, Algorithm::ChaCha20Poly1305] {
            let (salt, mut bytes) = ([9; 16], b"what was sealed".to_vec());
            once_key(&key, algorithm, &salt)
                .seal_in_place_append_tag(
                    Nonce::assume_unique_for_key([0; 12]),
                    Aad::from(b"aad"),
                    &mut bytes,
                )
                .unwrap();
            assert_eq!(open(&key, algorithm, &salt, b"aad", &mut bytes), Err(BrokenSeal));
        }
    }

    /// Different bytes, or the same under other associated data, never meet the same key and nonce.
    #[test]
    fn no_key_and_nonce_is_used_twice() {
        let key = Secret32::new(KEY);
        let mut seen = std::collections::HashSet::new();
        for n in 0..20_000_u32 {
            let salt =
                seal(&key, Algorithm::Aes256Gcm, &(n % 2).to_le_bytes(), &mut (n / 2).to_le_bytes().to_vec());
            assert!(seen.insert(salt), "seal {n} repeats a salt");
        }
    }
}
