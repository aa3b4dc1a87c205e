//! How databases are opened: a live one, so that nothing of it changes; a copy that only we have.

use hikae_model::sabotage;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Result};
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// Opens somebody's database for reading. It is neither made, nor checkpointed, nor rolled back.
///
/// `path` is absolute: SQLite would take one that begins with `file:` for a URI.
pub(super) fn live(path: &Path) -> Result<Connection> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if sabotage::on("opened-for-writing") {
        flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
    }
    let connection = Connection::open_with_flags(path, flags)?;
    // The last connection to a WAL database checkpoints it when it closes, unless told not to.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    distrust_schema(&connection)?;
    // Waiting is done by us, who can be cancelled.
    connection.busy_timeout(Duration::ZERO)?;
    Ok(connection)
}

/// Opens a file that nobody else has open. SQLite takes no lock, looks for no `-wal` or journal and makes
/// none, which it otherwise does for a database in WAL mode even to read it.
pub(super) fn immutable(path: &Path) -> Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(format!("file:{}?immutable=1", escape(path)), flags)?;
    distrust_schema(&connection)?;
    Ok(connection)
}

/// Opens our own copy for writing. It is thrown away if anything fails, so nothing is synced or journaled.
pub(super) fn scratch(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.execute_batch(
        "PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF",
    )?;
    Ok(connection)
}

/// Opens our own copy for SQLite to roll back its journal.
pub(super) fn for_rollback(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    distrust_schema(&connection)?;
    connection.execute_batch("PRAGMA synchronous = OFF")?;
    Ok(connection)
}

/// Lets SQLite read a file that is shorter than its header says or whose schema does not parse. The
/// connection cannot write, whatever the setting is called.
pub(super) fn tolerate_damage(connection: &Connection) -> Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, true)?;
    Ok(())
}

/// The schema comes with the file, from wherever that came: it may not call functions with side effects.
fn distrust_schema(connection: &Connection) -> Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    Ok(())
}

/// A path inside a URI: every byte but the plainest becomes `%XX` (<https://www.sqlite.org/uri.html>).
fn escape(path: &Path) -> String {
    let mut text = String::new();
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}"); // writing to a String cannot fail
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn no_byte_of_a_path_means_anything_in_a_uri() {
        let path = Path::new(OsStr::from_bytes(b"/a b/?x=1#%41&\xff.db"));
        assert_eq!(escape(path), "/a%20b/%3Fx%3D1%23%2541%26%FF.db");
    }
}
