//! One reading of a database: the scratch copy, given out as one file, and its manifest.

use super::copy::{self, Original};
use super::failure::{failed, refused};
use super::manifest::{Checked, Manifest};
use super::open;
use super::scratch::Scratch;
use crate::{Content, Finished, Item, Reading, SourceError};
use hikae_model::{
    Cancelled, ContentError, Cut, Cx, Entry, EntryKind, ErrorCode, HashKey, ReadContent, Stretch,
};
use rusqlite::Connection;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

pub(super) struct SqliteReading {
    path: PathBuf,
    moment: jiff::Timestamp,
    item: Option<Item>,
    manifest: ManifestWorker,
}

impl SqliteReading {
    pub(super) fn begin(path: &Path, scratch: &Path, key: HashKey, cx: &Cx) -> Result<Self, SourceError> {
        let original = Original::look_at(path)?;
        let scratch = Scratch::create(scratch, cx)?;
        let copy = scratch.create_file("copy.db")?;
        let moment = copy::copy(&original, &copy, cx)?;

        let file = File::open(&copy).map_err(|error| refused("read", &copy, error))?;
        let connection = open::immutable(&copy).map_err(|error| failed("read", &copy, &error))?;
        drop(scratch); // both have it open, so it needs no name any more
        let size = file.metadata().map_err(|error| refused("read", &copy, error))?.len();
        let page_size = connection
            .query_row("PRAGMA page_size", [], |row| row.get(0))
            .map_err(|error| failed("read", &copy, &error))?;
        let content = Content { cut: Cut::Pages(page_size), reader: Box::new(Pages { file, offset: 0 }) };
        let entry =
            Entry { path: original.name, kind: EntryKind::File { size }, attributes: original.attributes };
        Ok(Self {
            path: original.path,
            moment,
            item: Some(Item { entry, content: Some(content) }),
            manifest: ManifestWorker::start(connection, key, cx),
        })
    }
}

impl Reading for SqliteReading {
    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        Ok(self.item.take())
    }

    fn finish(self: Box<Self>) -> Result<Finished, SourceError> {
        let manifest = self.manifest.finish()?;
        let problems = manifest.problems(&self.path);
        let json = manifest.to_json().map_err(|error| SourceError::Failed {
            code: ErrorCode::Failure,
            what: format!("cannot write the manifest of {}: {error}", self.path.display()),
            advice: None,
        })?;
        Ok(Finished { moment: self.moment, problems, notes: Vec::new(), manifest: Some(json) })
    }
}

/// The scratch copy, read from start to end.
struct Pages {
    file: File,
    offset: u64,
}

impl ReadContent for Pages {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Stretch, ContentError> {
        let n = self.file.read_at(buffer, self.offset).map_err(ContentError::Unreadable)?;
        self.offset += n as u64;
        Ok(if n == 0 { Stretch::End } else { Stretch::Data(n) })
    }
}

/// Takes the manifest while the pages are read. Dropping it stops it.
struct ManifestWorker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Manifest, Cancelled>>>,
}

impl ManifestWorker {
    fn start(connection: Connection, key: HashKey, cx: &Cx) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stop_too, cx) = (Arc::clone(&stop), cx.clone());
        let thread = std::thread::spawn(move || {
            Manifest::take(&connection, key, Checked::QuickCheck, &|| {
                stop_too.load(Ordering::Relaxed) || cx.check().is_err()
            })
        });
        Self { stop, thread: Some(thread) }
    }

    fn finish(mut self) -> Result<Manifest, Cancelled> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(manifest)) => manifest,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Err(Cancelled),
        }
    }
}

impl Drop for ManifestWorker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // nobody wants what it found
        }
    }
}
