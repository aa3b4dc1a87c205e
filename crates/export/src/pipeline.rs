//! The way of one exported file: content, compressed on one thread, encrypted and hashed on another, into a file.
//!
//! Nothing is kept between but a few buffers, so no plaintext rests anywhere and memory does not grow with the content. A content
//! that ends early ends the file with an error: what was written until then has no name yet.

use crate::ExportError;
use crate::seal::Sealing;
use crossbeam_channel::{Receiver, Sender, bounded};
use flate2::write::GzEncoder;
use hikae_model::Cx;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::io::{self, BufWriter, Read, Write};

/// How much goes from one thread to the other at once.
const BUFFER_BYTES: usize = 256 << 10;
/// How many buffers may wait.
const N_WAITING: usize = 4;
/// As `gzip` and `zstd` without a level.
const GZIP_LEVEL: flate2::Compression = flate2::Compression::new(6);
const ZSTD_LEVEL: i32 = 3;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// Not at all.
    None,
    /// As `gzip` does.
    Gzip,
    /// As `zstd` does.
    Zstd,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// How many bytes.
    pub bytes: u64,
    /// Of those bytes.
    pub sha256: [u8; 32],
}

/// Writes what `produce` gives into `out`, compressed and encrypted.
///
/// # Errors
/// Whatever `produce` fails with; else why `out` cannot be written.
pub fn write_through<T: Send, E: From<ExportError> + Send>(
    out: &mut dyn Write,
    compression: Compression,
    sealing: &Sealing,
    produce: impl FnOnce(&mut dyn Write) -> Result<T, E> + Send,
    cx: &Cx,
) -> Result<(T, Written), E> {
    let (sender, receiver) = bounded(N_WAITING);
    std::thread::scope(|scope| {
        let producer = scope.spawn(move || {
            let mut chunks = Chunks { sender };
            let produced = compress(&mut chunks, compression, produce)?;
            chunks.end().map_err(ExportError::Write)?;
            Ok(produced)
        });
        let mut hashing = Hashing { out, sha256: Sha256::new(), bytes: 0 };
        let mut arriving = Arriving { receiver, chunk: Vec::new(), at: 0, ended: false, broke_off: false };
        let sealed = sealing.seal(&mut arriving, &mut hashing, cx).and_then(|()| hashing.out.flush());
        // Who produces stops waiting when nobody reads.
        let broke_off = arriving.broke_off;
        drop(arriving);
        let produced = producer.join().unwrap_or_else(|_| {
            Err(ExportError::Write(io::Error::other("a writer ended unexpectedly")).into())
        });
        match (produced, sealed) {
            (Ok(produced), Ok(())) => {
                let Hashing { bytes, sha256, .. } = hashing;
                Ok((produced, Written { bytes, sha256: sha256.finalize().into() }))
            }
            // The one that failed first knows why; the other only that nobody is there any more.
            (Err(_), Err(error)) if !broke_off => Err(ExportError::Write(error).into()),
            (Err(error), _) => Err(error),
            (Ok(_), Err(error)) => Err(ExportError::Write(error).into()),
        }
    })
}

fn compress<T, E: From<ExportError>>(
    chunks: &mut Chunks,
    compression: Compression,
    produce: impl FnOnce(&mut dyn Write) -> Result<T, E>,
) -> Result<T, E> {
    let mut buffered = BufWriter::with_capacity(BUFFER_BYTES, chunks);
    let produced = match compression {
        Compression::None => produce(&mut buffered)?,
        Compression::Gzip => {
            let mut encoder = GzEncoder::new(&mut buffered, GZIP_LEVEL);
            let produced = produce(&mut encoder)?;
            encoder.finish().map_err(ExportError::Write)?;
            produced
        }
        Compression::Zstd => {
            let encoder = zstd::stream::write::Encoder::new(&mut buffered, ZSTD_LEVEL);
            let mut encoder = encoder.map_err(ExportError::Write)?;
            encoder.include_checksum(true).map_err(ExportError::Write)?;
            let produced = produce(&mut encoder)?;
            encoder.finish().map_err(ExportError::Write)?;
            produced
        }
    };
    buffered.flush().map_err(ExportError::Write)?;
    Ok(produced)
}

/// Gives what is written to the other thread. An empty chunk is the end; without one, there was none.
struct Chunks {
    sender: Sender<Vec<u8>>,
}

impl Chunks {
    fn send(&self, chunk: Vec<u8>) -> io::Result<()> {
        self.sender.send(chunk).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn end(self) -> io::Result<()> {
        self.send(Vec::new())
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !bytes.is_empty() {
            self.send(bytes.to_vec())?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads what comes from the other thread.
struct Arriving {
    receiver: Receiver<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
    ended: bool,
    /// Whether who wrote went away before the end.
    broke_off: bool,
}

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() && !self.ended {
            match self.receiver.recv() {
                Ok(chunk) if chunk.is_empty() => self.ended = true,
                Ok(chunk) => (self.chunk, self.at) = (chunk, 0),
                Err(_) => {
                    self.broke_off = true;
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the content broke off"));
                }
            }
        }
        let n = buffer.len().min(self.chunk.len() - self.at);
        buffer[..n].copy_from_slice(&self.chunk[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

/// Counts and hashes what is written.
struct Hashing<W> {
    out: W,
    sha256: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.sha256.update(&bytes[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
