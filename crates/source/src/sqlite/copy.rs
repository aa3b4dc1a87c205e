//! One consistent image of a live database, in a scratch file.
//!
//! The online backup API copies page by page. In WAL mode one read transaction is held from the first page
//! to the last: it keeps nobody from writing. With a rollback journal it would, so there the lock is let go
//! between steps, and SQLite begins again if somebody wrote meanwhile; after a few beginnings we hold the
//! lock to the end. Either way the result is one state of the database.
//!
//! A database left by a crash in the middle of a transaction has a hot journal, which a reader may not roll
//! back. It is copied together with its journal, and rolled back in the copy.

use super::failure::{self, failed, locked, refused};
use super::{open, scratch};
use crate::SourceError;
use hikae_model::{Attributes, BadTreePath, Cancelled, Cx, ErrorCode, FileTime, Phase, TreePath, sabotage};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, ffi};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

/// How long we wait for a lock. Longer than any ordinary transaction, shorter than anybody's night.
const PATIENCE: Duration = Duration::from_secs(30);
/// Waiting that is not worth a word.
const UNNOTICED: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(20);
/// Copied between two looks at whether we were cancelled.
const STEP_BYTES: u32 = 16 << 20;
/// How often writers may send us back to the first page.
const MAX_RESTARTS: u32 = 2;

/// The file that we are asked to protect.
pub(super) struct Original {
    /// Absolute, and with no symbolic link in it: the `-wal` stands beside the file that a link names.
    pub(super) path: PathBuf,
    /// The name that it is given in the snapshot.
    pub(super) name: TreePath,
    pub(super) attributes: Attributes,
    bytes: u64,
}

impl Original {
    pub(super) fn look_at(path: &Path) -> Result<Self, SourceError> {
        let real = fs::canonicalize(path).map_err(|error| refused("read", path, error))?;
        let metadata = fs::metadata(&real).map_err(|error| refused("read", path, error))?;
        if !metadata.is_file() {
            let why = format!("{} is not a file", path.display());
            return Err(SourceError::Setting { setting: "path".into(), why });
        }
        let name = path.file_name().or(real.file_name()).unwrap_or_default();
        let name = TreePath::parse(name.as_bytes()).map_err(|bad: BadTreePath| SourceError::Setting {
            setting: "path".into(),
            why: bad.to_string(),
        })?;
        let attributes = Attributes {
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            modified: FileTime { seconds: metadata.mtime(), nanoseconds: metadata.mtime_nsec() as u32 },
            // The file's times say nothing of what stands in its WAL, so it never passes for unchanged.
            ..Attributes::default()
        };
        Ok(Self { path: real, name, attributes, bytes: metadata.len() })
    }

    /// The file beside the database whose name ends in `suffix`.
    pub(super) fn beside(&self, suffix: &str) -> PathBuf {
        with_suffix(&self.path, suffix)
    }
}

/// `path` with `suffix` (as `-wal`) at its end.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Copies the database into the empty file `to`, and says at which moment it looked so.
pub(super) fn copy(original: &Original, to: &Path, cx: &Cx) -> Result<jiff::Timestamp, SourceError> {
    let mut attempt = 0;
    loop {
        if sabotage::on("file-copied") {
            let file = File::open(&original.path).map_err(|error| refused("read", &original.path, error))?;
            pour(file, &original.path, to, cx)?;
            return Ok(cx.now());
        }
        match online(original, to, cx) {
            Err(CopyError::Sqlite(error)) if is_hot(&error) && attempt < 3 => {
                // None if the journal went away meanwhile: somebody rolled it back.
                if let Some(moment) = with_journal(original, to, cx)? {
                    return Ok(moment);
                }
                attempt += 1;
            }
            Err(CopyError::Sqlite(error)) => return Err(unreadable(original, &error)),
            Err(CopyError::Source(error)) => return Err(error),
            Ok(moment) => return Ok(moment),
        }
    }
}

/// How many bytes a copy would have now.
pub(super) fn size_of_image(original: &Original, cx: &Cx) -> Result<u64, SourceError> {
    let figures = open::live(&original.path)
        .map_err(CopyError::Sqlite)
        .and_then(|connection| begin_reading(&connection, &original.path, cx));
    match figures {
        Ok(figures) => Ok(figures.bytes()),
        Err(CopyError::Sqlite(error)) if is_hot(&error) => Ok(original.bytes),
        Err(CopyError::Sqlite(error)) => Err(unreadable(original, &error)),
        Err(CopyError::Source(error)) => Err(error),
    }
}

enum CopyError {
    Sqlite(rusqlite::Error),
    Source(SourceError),
}

impl From<rusqlite::Error> for CopyError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<SourceError> for CopyError {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

impl From<Cancelled> for CopyError {
    fn from(cancelled: Cancelled) -> Self {
        Self::Source(cancelled.into())
    }
}

/// True if there is a hot journal, which a read-only connection may not roll back.
fn is_hot(error: &rusqlite::Error) -> bool {
    failure::extended_code(error) == ffi::SQLITE_READONLY_ROLLBACK
}

fn online(original: &Original, to: &Path, cx: &Cx) -> Result<jiff::Timestamp, CopyError> {
    let source = open::live(&original.path)?;
    let figures = begin_reading(&source, &original.path, cx)?;
    require_space(to, figures.bytes())?;
    let mut moment = cx.now();
    if figures.n_pages == 0 {
        return Ok(moment); // SQLite would make a page of it; an empty file is a database with nothing in it
    }
    let mut holding = figures.is_wal;
    if !holding {
        source.execute_batch("COMMIT")?;
    }
    let mut target = open::scratch(to)?;
    let backup = Backup::new(&source, &mut target)?;
    let step_pages = (STEP_BYTES / figures.page_size.max(512)) as i32;
    let (mut remaining, mut n_restarts) = (i32::MAX, 0);
    loop {
        cx.check()?;
        let step = patiently(&original.path, cx, || match backup.step(step_pages) {
            Ok(StepResult::Busy | StepResult::Locked) => Ok(None),
            step => step.map(Some).map_err(CopyError::Sqlite),
        })?;
        if step == StepResult::Done {
            return Ok(moment);
        }
        let now_remaining = backup.progress().remaining;
        if now_remaining > remaining {
            // Somebody wrote, and SQLite began again with the first page.
            n_restarts += 1;
            moment = cx.now();
            if n_restarts > MAX_RESTARTS && !holding {
                begin_reading(&source, &original.path, cx)?;
                holding = true;
            }
        }
        remaining = now_remaining;
    }
}

struct Figures {
    page_size: u32,
    n_pages: u32,
    is_wal: bool,
}

impl Figures {
    fn bytes(&self) -> u64 {
        u64::from(self.page_size) * u64::from(self.n_pages)
    }
}

/// Starts a read transaction, which lasts until `COMMIT`.
fn begin_reading(connection: &Connection, path: &Path, cx: &Cx) -> Result<Figures, CopyError> {
    connection.execute_batch("BEGIN")?;
    patiently(path, cx, || match read_figures(connection) {
        Err(error) if is_busy(&error) => Ok(None),
        // What stands in a damaged file is still worth keeping. Under `writable_schema` SQLite opens one
        // that is shorter than its header says or whose schema does not parse; nothing is written.
        Err(error) if is_corrupt(&error) => {
            open::tolerate_damage(connection)?;
            Ok(Some(read_figures(connection)?))
        }
        figures => Ok(Some(figures?)),
    })
}

fn read_figures(connection: &Connection) -> rusqlite::Result<Figures> {
    let number = |pragma: &str| connection.query_row(pragma, [], |row| row.get::<_, u32>(0));
    let n_pages = number("PRAGMA page_count")?;
    let mode = connection.query_row("PRAGMA journal_mode", [], |row| row.get::<_, String>(0))?;
    Ok(Figures { page_size: number("PRAGMA page_size")?, n_pages, is_wal: mode == "wal" })
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ffi::ErrorCode::DatabaseBusy | ffi::ErrorCode::DatabaseLocked))
}

fn is_corrupt(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ffi::ErrorCode::DatabaseCorrupt)
}

/// Tries until it gets something, as long as our patience lasts. `None` means that somebody has a lock. Whoever watches
/// is told what we wait for.
fn patiently<T, E: From<SourceError>>(
    path: &Path,
    cx: &Cx,
    mut attempt: impl FnMut() -> Result<Option<T>, E>,
) -> Result<T, E> {
    let began = cx.elapsed();
    let mut waiting = None;
    loop {
        if let Some(got) = attempt()? {
            if let Some(Phase { verb, on }) = waiting {
                cx.progress().begin(verb, on, 0);
            }
            return Ok(got);
        }
        if waiting.is_none() && cx.elapsed() - began >= UNNOTICED {
            waiting = Some(cx.progress().now().phase);
            cx.progress().begin("waiting, up to 30 s, for who has locked", path.display().to_string(), 0);
        }
        if cx.elapsed() - began >= PATIENCE {
            return Err(locked(path).into());
        }
        cx.check().map_err(SourceError::from)?;
        std::thread::sleep(PAUSE);
    }
}

fn require_space(to: &Path, bytes: u64) -> Result<(), SourceError> {
    scratch::require_space(to.parent().unwrap_or(to), bytes)
}

/// Copies the database with its hot journal, and rolls it back in the copy; `None` if there is no journal.
///
/// Rolling back needs an exclusive lock and writing a reserved one, so a shared lock on the whole file keeps
/// both files as they are. Whether a journal belongs to a transaction over several files that was committed
/// SQLite sees from the file that it names by its full path, which the copy sees as well.
fn with_journal(original: &Original, to: &Path, cx: &Cx) -> Result<Option<jiff::Timestamp>, SourceError> {
    // Locks belong to the process: two threads here would drop each other's.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(|broken| broken.into_inner());

    let database = File::open(&original.path).map_err(|error| refused("read", &original.path, error))?;
    patiently(&original.path, cx, || {
        match rustix::fs::fcntl_lock(&database, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(Some(())),
            Err(Errno::AGAIN | Errno::ACCESS) => Ok(None),
            Err(error) => Err(refused("lock", &original.path, error.into())),
        }
    })?;
    let journal_path = original.beside("-journal");
    let journal = match File::open(&journal_path) {
        Ok(journal) => journal,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refused("read", &journal_path, error)),
    };
    require_space(to, original.bytes)?;
    let moment = cx.now();
    let to_journal = with_suffix(to, "-journal");
    pour(database, &original.path, to, cx)?;
    if !sabotage::on("journal-left") {
        pour(journal, &journal_path, &to_journal, cx)?;
    }

    let rolled_back = open::for_rollback(to).and_then(|copy| {
        copy.query_row("PRAGMA user_version", [], |_| Ok(())) // the first read rolls back
    });
    rolled_back.map_err(|error| unreadable(original, &error))?;
    Ok(Some(moment))
}

fn pour(mut from: File, from_path: &Path, to: &Path, cx: &Cx) -> Result<(), SourceError> {
    let written = OpenOptions::new().write(true).create(true).truncate(true).open(to);
    let mut written = written.map_err(|error| refused("write", to, error))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        cx.check()?;
        let n = from.read(&mut buffer).map_err(|error| refused("read", from_path, error))?;
        if n == 0 {
            return Ok(());
        }
        written.write_all(&buffer[..n]).map_err(|error| refused("write", to, error))?;
    }
}

/// The error for a database that cannot be read at all.
fn unreadable(original: &Original, error: &rusqlite::Error) -> SourceError {
    let path = &original.path;
    if error.sqlite_error_code() == Some(ffi::ErrorCode::NotADatabase) && looks_encrypted(original) {
        return SourceError::Failed {
            code: ErrorCode::Usage,
            what: format!("{} is encrypted, or not a SQLite database at all", path.display()),
            advice: Some(
                "stop the program that uses it and back it up as a source of kind `files`, which needs no \
                 key"
                .into(),
            ),
        };
    }
    failed("read", path, error)
}

/// Whether the file is whole pages that look random, as those of SQLCipher and of SQLite's own SEE do.
///
/// It may be opened past SQLite: it is none of its databases, so SQLite holds no lock on it.
fn looks_encrypted(original: &Original) -> bool {
    let mut start = Vec::new();
    let read = File::open(&original.path).and_then(|file| file.take(4096).read_to_end(&mut start));
    if read.is_err() || start.len() < 1024 || !original.bytes.is_multiple_of(512) {
        return false;
    }
    let mut seen = [false; 256];
    start.iter().for_each(|&byte| seen[usize::from(byte)] = true);
    // 1,024 random bytes show 251 of 256 values (256 * (1 - e^-4)), give or take 2; text shows about 80.
    seen.iter().filter(|&&seen| seen).count() > 230
}
