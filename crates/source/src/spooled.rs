//! A reading that is kept in a directory for a moment: what is restored at once needs no repository between.
//!
//! Each content is a file of its own, named by a number: nothing that a source says becomes a path.

use crate::{Content, Item, NotReadBack, Reading, SourceError, Stored};
use hikae_model::{ContentError, Cx, Entry, EntryKind, ErrorCode, Stretch};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// How much is read at once.
const BUFFER_BYTES: usize = 256 << 10;

/// What a reading gave.
pub struct Spooled {
    /// In path order.
    entries: Vec<Entry>,
    /// The files with their contents.
    files: BTreeMap<Vec<u8>, PathBuf>,
    manifest: Option<Vec<u8>>,
}

/// Reads all of `reading` into files in `directory`, which is made.
///
/// # Errors
/// [`SourceError`] of the reading, or because a file cannot be written. A reading with problems is none.
pub fn spool(mut reading: Box<dyn Reading>, directory: &Path, cx: &Cx) -> Result<Spooled, SourceError> {
    let made = std::fs::DirBuilder::new().mode(0o700).create(directory);
    made.map_err(|source| SourceError::Io { verb: "make", path: directory.to_owned(), source })?;
    let spool = Mutex::new(Spooled { entries: Vec::new(), files: BTreeMap::new(), manifest: None });
    loop {
        let lanes = reading.lanes();
        let next = Mutex::new(&mut reading);
        let work = || {
            loop {
                cx.check()?;
                let item = next.lock().unwrap_or_else(PoisonError::into_inner).next()?;
                let Some(Item { mut entry, content }) = item else { return Ok(()) };
                if let Some(content) = content {
                    let path = {
                        let mut spool = spool.lock().unwrap_or_else(PoisonError::into_inner);
                        let path = directory.join(spool.files.len().to_string());
                        spool.files.insert(entry.path.as_bytes().to_vec(), path.clone());
                        path
                    };
                    entry.kind = EntryKind::File { size: keep(content, &entry, &path, cx)? };
                }
                spool.lock().unwrap_or_else(PoisonError::into_inner).entries.push(entry);
            }
        };
        std::thread::scope(|scope| {
            let lanes: Vec<_> = (0..lanes).map(|_| scope.spawn(work)).collect();
            let ended: Vec<Result<(), SourceError>> =
                lanes.into_iter().map(|lane| lane.join().unwrap_or_else(|_| Err(broken()))).collect();
            ended.into_iter().collect::<Result<(), SourceError>>()
        })?;
        if !reading.go_on()? {
            break;
        }
    }
    let finished = reading.finish()?;
    if let Some(problem) = finished.problems.first() {
        let what = format!("not all of it could be read: {problem}");
        return Err(SourceError::Failed { code: ErrorCode::WithProblems, what, advice: None });
    }
    let mut spooled = spool.into_inner().unwrap_or_else(PoisonError::into_inner);
    spooled.entries.sort_by(|a, b| a.path.cmp(&b.path));
    spooled.manifest = finished.manifest;
    Ok(spooled)
}

fn broken() -> SourceError {
    SourceError::Failed {
        code: ErrorCode::Failure,
        what: "a reader ended unexpectedly".to_owned(),
        advice: None,
    }
}

/// Writes a content into a file. Gives its length.
fn keep(mut content: Content, entry: &Entry, path: &Path, cx: &Cx) -> Result<u64, SourceError> {
    let unread = |error: ContentError| SourceError::Failed {
        code: ErrorCode::Failure,
        what: format!("{}: {error}", entry.path),
        advice: match error {
            ContentError::Broken { advice, .. } => advice,
            _ => None,
        },
    };
    let unwritten = |source| SourceError::Io { verb: "write", path: path.to_owned(), source };
    let mut file = File::create_new(path).map_err(unwritten)?;
    let (mut buffer, mut n_bytes) = (vec![0; BUFFER_BYTES], 0);
    loop {
        cx.check()?;
        match content.reader.read(&mut buffer).map_err(unread)? {
            Stretch::Data(n) => {
                file.write_all(&buffer[..n]).map_err(unwritten)?;
                n_bytes += n as u64;
                cx.progress().add_read(n as u64);
            }
            Stretch::Hole(n) => {
                let zeroes = io::copy(&mut io::Read::take(io::repeat(0), n), &mut file);
                n_bytes += zeroes.map_err(unwritten)?;
            }
            Stretch::End => break,
        }
    }
    content.reader.finish().map_err(unread)?;
    Ok(n_bytes)
}

impl Stored for Spooled {
    fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn manifest(&self) -> Option<&[u8]> {
        self.manifest.as_deref()
    }

    fn open(&self, entry: &Entry) -> io::Result<Box<dyn io::Read + Send + '_>> {
        let not_there = |what: String| NotReadBack { code: ErrorCode::Failure, what, advice: None };
        let path = self.files.get(entry.path.as_bytes());
        let path = path.ok_or_else(|| not_there(format!("{} was not read", entry.path)))?;
        let file = File::open(path).map_err(|error| not_there(format!("{}: {error}", path.display())))?;
        Ok(Box::new(file))
    }
}
