//! 32 secret bytes as text that a person can copy from paper: Bech32m (BIP 350), whose checksum finds any four
//! wrong characters.
//!
//! ```text
//! HIKAESECRET1…  the repository secret, on the recovery sheet
//! HIKAEKEY1…     the key in a key file
//! ```

use crate::keys::Secret32;
use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32m, Hrp};
use hikae_model::{Advise, ErrorCode, Hint};
use zeroize::Zeroizing;

/// What a secret text opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretKind {
    /// Everything: the repository secret itself.
    Recovery,
    /// One key slot.
    KeyFile,
}

impl SecretKind {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Recovery => "hikaesecret",
            Self::KeyFile => "hikaekey",
        }
    }
}

/// Text that is not the secret it should be. It is never repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSecretText {
    /// It does not begin as it should.
    #[error("it holds no text that begins with {}1", .wanted.prefix().to_uppercase())]
    NotThere {
        /// What it should be.
        wanted: SecretKind,
    },
    /// The checksum does not hold.
    #[error("a character of the secret text is wrong or missing: its checksum does not hold")]
    Checksum,
}

impl Advise for BadSecretText {
    fn code(&self) -> ErrorCode {
        ErrorCode::WrongKey
    }

    fn advice(&self) -> Option<Hint> {
        match self {
            Self::NotThere { wanted: SecretKind::KeyFile } => {
                Some("name the file that `hikae init`, `hikae protect` or `hikae key add` made".into())
            }
            Self::NotThere { wanted: SecretKind::Recovery } => {
                Some("give the whole sheet, or the groups of its secret".into())
            }
            Self::Checksum => Some("compare it with the sheet, group by group".into()),
        }
    }
}

/// The text, in upper case and groups of five characters.
pub fn write(kind: SecretKind, secret: &Secret32) -> Zeroizing<String> {
    let text = Zeroizing::new(plain(kind, secret));
    let groups =
        text.as_bytes().chunks(5).map(|group| group.iter().map(|&byte| byte as char).collect::<String>());
    Zeroizing::new(groups.collect::<Vec<_>>().join(" "))
}

/// The text without spaces, for a QR code.
pub fn write_compact(kind: SecretKind, secret: &Secret32) -> Zeroizing<String> {
    Zeroizing::new(plain(kind, secret))
}

fn plain(kind: SecretKind, secret: &Secret32) -> String {
    let prefix = Hrp::parse_unchecked(kind.prefix());
    // Too long is the only way to fail, and 32 bytes are not.
    bech32::encode_upper::<Bech32m>(prefix, secret.bytes()).unwrap_or_default()
}

/// Finds the secret in a text: alone or on a sheet, in any case, with spaces, hyphens and line ends anywhere in
/// it. 64 hex digits alone will do as well.
///
/// # Errors
/// [`BadSecretText`].
pub fn read(kind: SecretKind, text: &str) -> Result<Secret32, BadSecretText> {
    let squeeze = |text: &str| -> Zeroizing<String> {
        let kept = text.chars().filter(|c| !c.is_whitespace() && *c != '-');
        Zeroizing::new(kept.map(|c| c.to_ascii_lowercase()).collect())
    };
    let squeezed = squeeze(text);
    if let Some(bytes) = from_hex(&squeezed) {
        return Ok(Secret32::new(bytes));
    }
    let start = format!("{}1", kind.prefix());
    let at = squeezed.find(&start).ok_or(BadSecretText::NotThere { wanted: kind })?;
    // 32 bytes are 52 characters of five bits; the checksum is six.
    let end = at + start.len() + 52 + 6;
    let word = squeezed.get(at..end).ok_or(BadSecretText::Checksum)?;
    let parsed = CheckedHrpstring::new::<Bech32m>(word).map_err(|_| BadSecretText::Checksum)?;
    let bytes = Zeroizing::new(parsed.byte_iter().collect::<Vec<u8>>());
    bytes.as_slice().try_into().map(Secret32::new).map_err(|_| BadSecretText::Checksum)
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: [u8; 32] = *b"0123456789abcdef0123456789ABCDEF";

    #[test]
    fn a_secret_is_read_back_however_it_was_copied() {
        for kind in [SecretKind::Recovery, SecretKind::KeyFile] {
            let written = write(kind, &Secret32::new(SECRET));
            let compact = write_compact(kind, &Secret32::new(SECRET));
            for copied in [
                written.to_string(),
                compact.to_string(),
                written.to_lowercase(),
                written.replace(' ', "-"),
                written.replace(' ', "\n   "),
                format!("Recovery sheet\n  some words\n\n  {}\n\nmore words 1 2 3\n", *written),
            ] {
                assert_eq!(read(kind, &copied).unwrap().bytes(), &SECRET, "{copied}");
            }
        }
        let hex: String = SECRET.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(read(SecretKind::Recovery, &hex).unwrap().bytes(), &SECRET);
    }

    #[test]
    fn any_wrong_character_is_found_and_the_secret_is_not_repeated() {
        let written = write_compact(SecretKind::Recovery, &Secret32::new(SECRET));
        let start = "HIKAESECRET1".len();
        for at in start..written.len() {
            let mut wrong = written.to_string().into_bytes();
            wrong[at] = if wrong[at] == b'Q' { b'P' } else { b'Q' };
            let wrong = String::from_utf8(wrong).unwrap();
            assert_eq!(read(SecretKind::Recovery, &wrong).unwrap_err(), BadSecretText::Checksum, "{at}");
        }
        for short in [&written[..written.len() - 1], &written[..20]] {
            assert_eq!(read(SecretKind::Recovery, short).unwrap_err(), BadSecretText::Checksum);
        }
        let other = read(SecretKind::KeyFile, &written).unwrap_err();
        assert_eq!(other, BadSecretText::NotThere { wanted: SecretKind::KeyFile });
        assert!(!other.to_string().contains(&written[20..30]));
    }
}
