//! Checksums in the form that `sha256sum -c` reads.

use sha2::{Digest as _, Sha256};
use std::io::{self, Read};

/// SHA-256 of all that can be read.
///
/// # Errors
/// Whatever reading fails with.
pub fn sha256_of(from: &mut dyn Read) -> io::Result<[u8; 32]> {
    let (mut sha256, mut buffer) = (Sha256::new(), vec![0; 256 << 10]);
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(sha256.finalize().into()),
            Ok(n) => sha256.update(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The same of bytes.
pub fn sha256_of_bytes(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Small letters, as `sha256sum` prints them.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One line, with its line end. A name that holds a backslash or an end of a line is written as `sha256sum` writes it: escaped,
/// and with a backslash before the sum.
pub fn line(sha256: &[u8; 32], name: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(name.len());
    for &byte in name {
        match byte {
            b'\\' => escaped.extend(b"\\\\"),
            b'\n' => escaped.extend(b"\\n"),
            b'\r' => escaped.extend(b"\\r"),
            byte => escaped.push(byte),
        }
    }
    let mark = if escaped.len() > name.len() { "\\" } else { "" };
    let mut line = format!("{mark}{}  ", hex(sha256)).into_bytes();
    line.extend(escaped);
    line.push(b'\n');
    line
}
