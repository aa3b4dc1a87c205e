//! SQLite, against databases that are written to by other processes.

mod actor;
mod content;
mod damage;
mod live;
mod restoring;

use hikae_model::{Cut, Cx, Entry, EntryKind, HashKey, Problem, Stretch};
use hikae_source::sqlite::{Manifest, SqliteSettings, SqliteSource, check_restored};
use hikae_source::{Source, SourceError, Stored};
use hikae_testkit::{TestCx, test_cx};
use rusqlite::Connection;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use tempfile::TempDir;

pub(crate) const KEY: HashKey = HashKey([7; 32]);

/// A directory with room for a database, for scratch files and for what is restored.
pub(crate) struct World {
    directory: TempDir,
    pub(crate) cx: TestCx,
}

impl World {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["live", "scratch", "restored"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        Self { directory, cx: test_cx() }
    }

    pub(crate) fn live(&self) -> PathBuf {
        self.directory.path().join("live/app.db")
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        self.directory.path().join("scratch")
    }

    pub(crate) fn restored(&self) -> PathBuf {
        self.directory.path().join("restored")
    }

    pub(crate) fn source(&self, path: &Path) -> SqliteSource {
        SqliteSource::new(SqliteSettings { path: path.to_owned(), scratch: None }, self.scratch())
    }

    pub(crate) fn backup(&self, path: &Path) -> Snapshot {
        self.try_backup(path).unwrap()
    }

    pub(crate) fn try_backup(&self, path: &Path) -> Result<Snapshot, SourceError> {
        let snapshot = Snapshot::take(&self.source(path), &self.cx)?;
        assert_eq!(names_in(&self.scratch()), [""; 0], "nothing is left in scratch");
        Ok(snapshot)
    }

    /// Writes the snapshot's bytes to a file, as a restore does.
    pub(crate) fn write(&self, snapshot: &Snapshot, name: &str) -> PathBuf {
        let path = self.restored().join(name);
        std::fs::write(&path, &snapshot.bytes).unwrap();
        path
    }

    /// The names of the checks that fail on the file at `path`.
    pub(crate) fn red(&self, path: &Path, manifest: &Manifest) -> Vec<String> {
        let checks = check_restored(path, manifest, KEY, &self.cx).unwrap();
        assert!(checks.len() > 5, "{checks:?}");
        checks.into_iter().filter(|check| !check.passed).map(|check| check.name).collect()
    }
}

/// What a backup would keep.
pub(crate) struct Snapshot {
    pub(crate) entries: Vec<Entry>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) page_size: u32,
    pub(crate) json: Vec<u8>,
    pub(crate) problems: Vec<Problem>,
}

impl Snapshot {
    fn take(source: &SqliteSource, cx: &Cx) -> Result<Self, SourceError> {
        let mut reading = source.begin(KEY, cx)?;
        let item = reading.next()?.unwrap();
        assert!(reading.next()?.is_none());
        let mut content = item.content.unwrap();
        let Cut::Pages(page_size) = content.cut else { panic!("{:?}", content.cut) };
        let (mut bytes, mut buffer) = (Vec::new(), vec![0; 100_000]);
        while let Stretch::Data(n) = content.reader.read(&mut buffer).unwrap() {
            bytes.extend_from_slice(&buffer[..n]);
        }
        content.reader.finish().unwrap();
        assert_eq!(item.entry.kind, EntryKind::File { size: bytes.len() as u64 });
        let finished = reading.finish()?;
        let (json, problems) = (finished.manifest.unwrap(), finished.problems);
        Ok(Self { entries: vec![item.entry], bytes, page_size, json, problems })
    }

    pub(crate) fn manifest(&self) -> Manifest {
        Manifest::parse(&self.json).unwrap()
    }

    #[track_caller]
    pub(crate) fn rows_of(&self, table: &str) -> u64 {
        let manifest = self.manifest();
        manifest.tables.iter().find(|t| t.name == table).unwrap_or_else(|| panic!("no table {table}")).rows
    }
}

impl Stored for Snapshot {
    fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn manifest(&self) -> Option<&[u8]> {
        Some(&self.json)
    }

    fn open(&self, _: &Entry) -> io::Result<Box<dyn io::Read + Send + '_>> {
        Ok(Box::new(&self.bytes[..]))
    }
}

pub(crate) fn make(path: &Path, sql: &str) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch(sql).unwrap();
    connection
}

pub(crate) fn count(path: &Path, table: &str) -> u64 {
    let sql = format!("SELECT count(*) FROM {table}");
    Connection::open(path).unwrap().query_row(&sql, [], |row| row.get::<_, i64>(0)).unwrap() as u64
}

pub(crate) fn integrity(path: &Path) -> String {
    Connection::open(path).unwrap().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap()
}

pub(crate) fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// SQL that fills table `t` with `n` rows of one length.
pub(crate) fn rows(n: u32) -> String {
    format!(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {n})
         INSERT INTO t SELECT i, printf('row %08d of the table, with a tail', i) FROM n;"
    )
}

/// Tests that start other processes take turns, so that two cores are enough for each.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(|broken| broken.into_inner())
}
