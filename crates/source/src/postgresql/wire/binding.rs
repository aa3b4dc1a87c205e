//! What ties a proof of the password to the TLS connection over which it goes: `tls-server-end-point` of RFC 5929.
//!
//! The hash of the server's certificate goes into the proof. Somebody in the middle who shows a certificate of his own
//! can then not pass the proof on, even where nobody looks at certificates (`sslmode=require`).
//!
//! This module finds out which hash, from a certificate's DER. It judges no certificate: it was taken as it came.

use sha2::{Digest as _, Sha256, Sha384, Sha512};

/// The data that binds to the server with this certificate. `None` where the RFC defines none: the algorithm of the
/// certificate's signature names no hash of its own (Ed25519), or we do not know it.
pub(super) fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    const SEQUENCE: u8 = 0x30;
    const OBJECT_IDENTIFIER: u8 = 0x06;
    // Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm SEQUENCE { algorithm OID, .. }, .. } (RFC 5280).
    let (body, _) = element(certificate, SEQUENCE)?;
    let (_, after) = element(body, SEQUENCE)?;
    let (algorithm, _) = element(after, SEQUENCE)?;
    let (oid, _) = element(algorithm, OBJECT_IDENTIFIER)?;
    const RSA: [u8; 8] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01]; // 1.2.840.113549.1.1
    const ECDSA: [u8; 6] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04]; // 1.2.840.10045.4
    match (oid.strip_prefix(&RSA), oid.strip_prefix(&ECDSA)) {
        // SHA-256 in place of MD5 and SHA-1, too (RFC 5929, section 4.1).
        (Some([4 | 5 | 11]), _) | (_, Some([1] | [3, 2])) => Some(Sha256::digest(certificate).to_vec()),
        (Some([12]), _) | (_, Some([3, 3])) => Some(Sha384::digest(certificate).to_vec()),
        (Some([13]), _) | (_, Some([3, 4])) => Some(Sha512::digest(certificate).to_vec()),
        _ => None,
    }
}

/// The content of the element of DER that begins here and has this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, first], rest) = der.split_first_chunk::<2>()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |length, &digit| length << 8 | usize::from(digit)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate as far as we look into it.
    fn certificate(oid: &[u8]) -> Vec<u8> {
        let mut body = vec![0x30, 0x82, 0x01, 0x00]; // a tbsCertificate of 256 bytes
        body.extend([7; 256]);
        body.extend([0x30, oid.len() as u8 + 4, 0x06, oid.len() as u8]);
        body.extend(oid);
        body.extend([0x05, 0x00]);
        let mut der = vec![0x30, 0x82];
        der.extend((body.len() as u16).to_be_bytes());
        der.extend(body);
        der
    }

    #[test]
    fn the_hash_is_that_of_the_signature() {
        let rsa = |last: u8| [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, last].to_vec();
        let ecdsa = |last: u8| [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, last].to_vec();
        for (oid, bytes) in [
            (rsa(4), Some(32)),
            (rsa(5), Some(32)),
            (rsa(11), Some(32)),
            (rsa(12), Some(48)),
            (rsa(13), Some(64)),
            (rsa(10), None), // RSASSA-PSS
            (ecdsa(2), Some(32)),
            (ecdsa(3), Some(48)),
            (ecdsa(4), Some(64)),
            (vec![0x2b, 0x65, 0x70], None), // Ed25519
        ] {
            let found = server_end_point(&certificate(&oid)).map(|data| data.len());
            assert_eq!(found, bytes, "{oid:x?}");
        }
    }

    #[test]
    fn a_certificate_that_is_none_binds_to_nothing() {
        let whole = certificate(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02]);
        for cut in 0..whole.len() {
            assert_eq!(server_end_point(&whole[..cut]), None, "cut to {cut}");
        }
        assert_eq!(server_end_point(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0]), None);
    }
}
