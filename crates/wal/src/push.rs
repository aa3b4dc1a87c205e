//! `push`: archive one file.
//!
//! The server asks for one file after the other and waits for each. Where more are ready, a process that outlives the call
//! stores them ahead (`ahead`), and the call waits for its note about this one. Without such a process, and if its note is not
//! about this very file, the call does all by itself; so does it for files that are no segments.

use crate::ahead::{ready, start};
use crate::archive::{open_store, with_archive};
use crate::arguments::Options;
use crate::cluster::{LogFile, current};
use crate::notes::Notes;
use hikae_model::{Cx, Failure, SegmentName, WalName};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// How often to look for a note.
const PAUSE: Duration = Duration::from_millis(1);
/// How long to wait until this segment is begun with.
const GRACE: Duration = Duration::from_millis(200);
/// How long to wait for one that was begun with. Whoever stores it may stand still, and the call must not.
const LONGEST: Duration = Duration::from_secs(30);

/// Archives the file at `path`, from the data directory.
///
/// # Errors
/// [`Failure`]: then nothing is acknowledged.
pub fn push(options: &Options, path: &Path, cx: &Cx) -> Result<(), Failure> {
    let system = current()?;
    if system.is_some() && is_stored_ahead(options, &LogFile::open(path, system)?, path, cx)? {
        return Ok(());
    }
    with_archive(options, cx, |archive| {
        let mut log = LogFile::open(path, system)?;
        archive.push(log.system, log.name, &mut log.file)?;
        Ok(())
    })
}

/// Whether a process that stores ahead has made this file durable, or does so while we wait. Starts one if more are ready.
fn is_stored_ahead(options: &Options, log: &LogFile, path: &Path, cx: &Cx) -> Result<bool, Failure> {
    let WalName::Segment(segment) = log.name else { return Ok(false) };
    let pg_wal = path.parent().unwrap_or(Path::new(""));
    let notes = Notes::of(&options.cache, log.system);
    if options.ahead == 0 || (!notes.are_attended() && !has_more(pg_wal, segment)) {
        return Ok(false);
    }
    let Ok(store) = open_store(options, cx) else { return Ok(false) };
    if let Some(is_stored) = notes.say_stored(log, &store) {
        return Ok(is_stored);
    }
    if !notes.are_attended() {
        start(options, pg_wal);
    }
    let began = cx.elapsed();
    loop {
        // Before the note: one that was written before its writer ended counts.
        let waited = cx.elapsed().saturating_sub(began);
        let is_coming = match notes.is_begun(log.name) {
            true => waited < LONGEST && notes.are_attended(),
            false => waited < GRACE,
        };
        match notes.say_stored(log, &store) {
            Some(is_stored) => return Ok(is_stored),
            None if !is_coming => return Ok(false),
            None => sleep(PAUSE),
        }
    }
}

fn has_more(pg_wal: &Path, than: SegmentName) -> bool {
    ready(pg_wal).iter().any(|segment| *segment != than)
}
