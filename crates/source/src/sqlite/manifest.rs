//! The manifest of a database: what must hold after a restore, taken from the very copy that is backed up.
//!
//! It is JSON of kind `sqlite`, version 1. Hashes are keyed, so that who reads it cannot test it for rows
//! that he can guess. A damaged database has one too: it says what could be read and what SQLite found.

use super::failure::{is_damage, said};
use super::open;
use super::rows::{RowSum, encode};
use hikae_model::{Cancelled, HashKey, Problem};
use rusqlite::{Connection, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const KIND: &str = "sqlite";
const VERSION: u32 = 1;

/// What must hold after a restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    kind: String,
    version: u32,
    /// The SQLite that took it, as `3.54.1`.
    pub library: String,
    /// Bytes of a page.
    pub page_size: u32,
    /// Pages of the file.
    pub page_count: u32,
    /// As `UTF-8`.
    pub encoding: String,
    /// A number that the application keeps in the header.
    pub user_version: i32,
    /// Another one.
    pub application_id: i32,
    /// Hash over what `sqlite_schema` holds, without the places of tables in the file.
    pub schema_hash: String,
    /// Tables with rows of their own, by name. The shadow tables of virtual tables are among them.
    pub tables: Vec<Table>,
    /// Tables that have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<Skipped>,
    /// Which of SQLite's own checks was made. Manifests that do not say were made with the whole one.
    #[serde(default)]
    pub checked: Checked,
    /// What it said: `ok`, or up to 100 lines of what is wrong.
    pub integrity: Vec<String>,
    /// What `foreign_key_check` said. Applications live with violations; a restore must bring back as many.
    pub foreign_keys: ForeignKeys,
}

/// How far SQLite looked whether a database is whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Checked {
    /// `integrity_check`: also that each index holds the rows of its table and nothing else. That looks up every row in
    /// every index, page by page all over the file.
    #[default]
    IntegrityCheck,
    /// `quick_check`: every page, every row and every constraint, and of each index that it is well formed and has as
    /// many entries as its table has rows.
    QuickCheck,
}

impl Checked {
    /// As SQLite calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::IntegrityCheck => "integrity_check",
            Self::QuickCheck => "quick_check",
        }
    }
}

/// The rows of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// How many rows could be read.
    pub rows: u64,
    /// Sum of the keyed hashes of those rows.
    pub hash: String,
    /// Why no more could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
}

/// A table that has no rows of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Its name.
    pub name: String,
    /// Why.
    pub why: String,
}

/// Rows that name a parent which is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignKeys {
    /// By child and parent.
    pub violations: Vec<Violations>,
    /// Why they could not be looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unchecked: Option<String>,
}

/// Rows of one table that name a parent which another table does not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violations {
    /// The table.
    pub table: String,
    /// The table in which the parents are missing.
    pub parent: String,
    /// How many rows.
    pub rows: u64,
}

/// Bytes that are no manifest of ours.
#[derive(Debug, thiserror::Error)]
pub enum BadManifest {
    /// It is no JSON, or other JSON.
    #[error("the manifest of this snapshot cannot be read")]
    Json(#[from] serde_json::Error),
    /// It is of another kind, or from a newer hikae.
    #[error("the manifest of this snapshot is of kind `{kind}`, version {version}")]
    Other {
        /// Its kind.
        kind: String,
        /// Its version.
        version: u32,
    },
}

impl Manifest {
    /// Reads what [`to_json`](Self::to_json) wrote.
    ///
    /// # Errors
    /// [`BadManifest`] if it is none, of another kind or of a version that we do not know.
    pub fn parse(json: &[u8]) -> std::result::Result<Self, BadManifest> {
        let manifest: Self = serde_json::from_slice(json)?;
        if manifest.kind != KIND || manifest.version != VERSION {
            return Err(BadManifest::Other { kind: manifest.kind, version: manifest.version });
        }
        Ok(manifest)
    }

    /// As it is kept.
    ///
    /// # Errors
    /// None that we know of: there is nothing in it that JSON cannot say.
    pub fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }

    /// What is wrong with the database that it was taken from.
    pub(super) fn problems(&self, path: &Path) -> Vec<Problem> {
        let advice = "this backup holds the damaged database; restore an older snapshot, or salvage it with \
                      `.recover` of the sqlite3 program";
        let mut problems = Vec::new();
        if self.integrity != ["ok"] && !self.integrity.iter().any(|line| line.starts_with(NOT_CHECKED)) {
            let what = format!("{}: {}", self.checked.name(), self.integrity.join("; "));
            problems.push(Problem::new("damaged", path.display(), what).advise(advice));
        }
        for table in &self.tables {
            if let Some(why) = &table.unreadable {
                let what = format!("table {} cannot be read after {} rows: {why}", table.name, table.rows);
                problems.push(Problem::new("damaged", path.display(), what).advise(advice));
            }
        }
        problems
    }

    /// Takes the manifest of a database that nobody writes to. Damage does not end it, only `cancelled` does.
    pub(super) fn take(
        connection: &Connection,
        key: HashKey,
        checked: Checked,
        cancelled: &(dyn Fn() -> bool + Sync),
    ) -> std::result::Result<Self, Cancelled> {
        interruptible(connection, cancelled, || take_all(connection, key, checked))
    }
}

/// Does something that asks SQLite, unless it is cancelled meanwhile.
pub(super) fn interruptible<T>(
    connection: &Connection,
    cancelled: &(dyn Fn() -> bool + Sync),
    work: impl FnOnce() -> T,
) -> std::result::Result<T, Cancelled> {
    let interrupt = connection.get_interrupt_handle();
    let done = AtomicBool::new(false);
    let found = std::thread::scope(|scope| {
        // One statement may run for minutes, so somebody else has to look whether we were cancelled.
        let watcher = scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                if cancelled() {
                    interrupt.interrupt();
                }
                std::thread::park_timeout(Duration::from_millis(20));
            }
        });
        let found = work();
        done.store(true, Ordering::Release);
        watcher.thread().unpark();
        found
    });
    if cancelled() { Err(Cancelled) } else { Ok(found) }
}

/// Begins a line that says that SQLite could not check, which is no damage.
const NOT_CHECKED: &str = "not checked: ";

fn take_all(connection: &Connection, key: HashKey, checked: Checked) -> Manifest {
    let mut integrity = Vec::new();
    let mut header = read_header(connection);
    if let Err(error) = &header {
        integrity.push(said(error));
        if open::tolerate_damage(connection).is_ok() {
            header = read_header(connection);
        }
    }
    let Header { page_size, page_count, encoding, user_version, application_id } = header.unwrap_or_default();
    let mut skipped = Vec::new();
    let (schema_hash, names) = read_schema(connection, key, &mut skipped).unwrap_or_else(|error| {
        integrity.push(said(&error));
        Default::default()
    });
    let row_key = key_for(key, "rows");
    let tables = names.into_iter().map(|name| read_table(connection, name, &row_key)).collect();
    integrity.extend(check_integrity(connection, checked));
    Manifest {
        kind: KIND.into(),
        version: VERSION,
        library: rusqlite::version().into(),
        page_size,
        page_count,
        encoding,
        user_version,
        application_id,
        schema_hash,
        tables,
        skipped,
        checked,
        integrity,
        foreign_keys: check_foreign_keys(connection),
    }
}

#[derive(Default)]
struct Header {
    page_size: u32,
    page_count: u32,
    encoding: String,
    user_version: i32,
    application_id: i32,
}

fn read_header(connection: &Connection) -> Result<Header> {
    let number = |pragma: &str| connection.query_row(pragma, [], |row| row.get::<_, i64>(0));
    Ok(Header {
        page_count: number("PRAGMA page_count")? as u32,
        page_size: number("PRAGMA page_size")? as u32,
        encoding: connection.query_row("PRAGMA encoding", [], |row| row.get(0))?,
        user_version: number("PRAGMA user_version")? as i32,
        application_id: number("PRAGMA application_id")? as i32,
    })
}

/// Hashes the schema and lists the tables that have rows, by name.
fn read_schema(
    connection: &Connection,
    key: HashKey,
    skipped: &mut Vec<Skipped>,
) -> Result<(String, Vec<String>)> {
    let mut statement =
        connection.prepare("SELECT type, name, tbl_name, sql, rootpage FROM sqlite_schema")?;
    let mut rows = statement.query([])?;
    let (mut objects, mut names) = (Vec::new(), Vec::new());
    while let Some(row) = rows.next()? {
        let mut object = Vec::new();
        encode(row, 4, &mut object)?;
        objects.push(object);
        if row.get_ref(0)?.as_bytes_or_null()? != Some(b"table") {
            continue;
        }
        let name = row.get_ref(1)?.as_bytes_or_null()?.unwrap_or_default();
        match std::str::from_utf8(name) {
            _ if row.get::<_, Option<i64>>(4)?.unwrap_or(0) == 0 => skipped.push(Skipped {
                name: String::from_utf8_lossy(name).into_owned(),
                why: "a virtual table: its rows stand in its shadow tables, or outside of the database"
                    .into(),
            }),
            Ok(name) => names.push(name.to_owned()),
            Err(_) => skipped.push(Skipped {
                name: String::from_utf8_lossy(name).into_owned(),
                why: "its name is not UTF-8".into(),
            }),
        }
    }
    objects.sort_unstable();
    names.sort_unstable();
    skipped.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let mut hasher = blake3::Hasher::new_keyed(&key_for(key, "schema"));
    objects.iter().for_each(|object| {
        hasher.update(&(object.len() as u64).to_le_bytes()).update(object);
    });
    Ok((hasher.finalize().to_hex().to_string(), names))
}

/// Hashes of rows and of schemas must not be comparable with each other, nor with any other source's.
fn key_for(key: HashKey, purpose: &str) -> [u8; 32] {
    *blake3::keyed_hash(&key.0, format!("hikae sqlite {purpose} v1").as_bytes()).as_bytes()
}

fn read_table(connection: &Connection, name: String, key: &[u8; 32]) -> Table {
    let mut sum = RowSum::default();
    let end = sum_rows(connection, &name, key, &mut sum);
    Table { rows: sum.n_rows, hash: sum.hex(), unreadable: end.err().map(|error| said(&error)), name }
}

fn sum_rows(connection: &Connection, name: &str, key: &[u8; 32], sum: &mut RowSum) -> Result<()> {
    // Ordinary columns are 0 and stored generated ones 3. Virtual ones (2) stand nowhere, and may need
    // functions that only the application has.
    let mut columns = connection
        .prepare("SELECT name FROM pragma_table_xinfo(?1) WHERE hidden IN (0, 3)")?
        .query_map([name], |row| row.get::<_, String>(0))?
        .collect::<Result<Vec<_>>>()?;
    columns.iter_mut().for_each(|column| *column = quote(column));
    // Without NOT INDEXED, SQLite may read an index that holds all columns, and not the table.
    let sql = format!("SELECT {} FROM {} NOT INDEXED", columns.join(", "), quote(name));
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query([])?;
    let mut written = Vec::new();
    while let Some(row) = rows.next()? {
        encode(row, columns.len(), &mut written)?;
        sum.add(blake3::keyed_hash(key, &written).as_bytes());
    }
    Ok(())
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The lines of the check. Where the application's own collations or functions are needed for the whole one,
/// `quick_check` does without the indexes.
pub(super) fn check_integrity(connection: &Connection, checked: Checked) -> Vec<String> {
    let lines = |pragma: &str| -> Result<Vec<String>> {
        connection.prepare(pragma)?.query_map([], |row| row.get(0))?.collect()
    };
    match lines(&format!("PRAGMA {}(100)", checked.name())) {
        Ok(lines) => lines,
        Err(error) if is_damage(&error) => vec![said(&error)],
        Err(error) => match lines("PRAGMA quick_check(100)") {
            Ok(lines) => lines,
            Err(other) if is_damage(&other) => vec![said(&other)],
            Err(_) => vec![format!("{NOT_CHECKED}{}", said(&error))],
        },
    }
}

fn check_foreign_keys(connection: &Connection) -> ForeignKeys {
    let mut counts = BTreeMap::<(String, String), u64>::new();
    let end = (|| -> Result<()> {
        let mut statement = connection.prepare("PRAGMA foreign_key_check")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            *counts.entry((row.get(0)?, row.get(2)?)).or_default() += 1;
        }
        Ok(())
    })();
    let violations =
        counts.into_iter().map(|((table, parent), rows)| Violations { table, parent, rows }).collect();
    ForeignKeys { violations, unchecked: end.err().map(|error| said(&error)) }
}
