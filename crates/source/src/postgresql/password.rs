//! Passwords: how they are held and where they are read from.
//!
//! - Never from `PGPASSWORD`, never in an argument, never in a message: [`Secret`] cannot be shown.
//! - From `.pgpass`, in libpq's format; from a file of `NAME=value` lines, which is parsed and never run; or from the
//!   caller. A file that others may read is refused.
//!
//! The formats: "The Password File" in PostgreSQL's documentation; `backup.env` as shells write it.

use super::connection::{Connection, Host};
use crate::SourceError;
use hikae_model::{ErrorCode, sabotage};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// A password. It has no `Debug` and no `Display`, so that it cannot be logged by accident.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Holds `text`.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The password itself, for whoever must send or write it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// Largest password file that is read.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Looks the password for `connection` up in a file of libpq's format. `None` if no line is for it.
///
/// # Errors
/// [`SourceError`] if the file is not there, others may read it, or it is no text.
pub fn from_pgpass(file: &Path, connection: &Connection) -> Result<Option<Secret>, SourceError> {
    let text = read_private(file)?;
    let port = connection.port.to_string();
    // libpq writes `localhost` for a socket in the default directory, else the directory.
    let hosts = match &connection.host {
        Host::Name(name) => [name.clone(), name.clone()],
        Host::Socket(directory) => ["localhost".to_owned(), directory.to_string_lossy().into_owned()],
    };
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let fields = split_pgpass(line);
        let [host, line_port, database, user, password] = fields.as_slice() else { continue };
        let fits = |field: &str, value: &str| field == "*" || field == value;
        if (fits(host, &hosts[0]) || fits(host, &hosts[1]))
            && fits(line_port, &port)
            && fits(database, &connection.database)
            && fits(user, &connection.user)
        {
            return Ok(Some(Secret::new(password.clone())));
        }
    }
    Ok(None)
}

/// Splits at `:`; a backslash takes the next character as it is. The fifth field is the rest.
fn split_pgpass(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        let n = fields.len();
        let field = &mut fields[n - 1];
        match c {
            '\\' => field.extend(chars.next()),
            ':' if n < 5 => fields.push(String::new()),
            c => field.push(c),
        }
    }
    fields
}

/// Reads a small file that only its owner may read.
fn read_private(file: &Path) -> Result<String, SourceError> {
    let failed = |source| SourceError::Io { verb: "read", path: file.to_owned(), source };
    let mut opened = match std::fs::File::open(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(SourceError::Missing { path: file.to_owned() });
        }
        opened => opened.map_err(failed)?,
    };
    // The mode of what is open, not of the name: the name may be changed between two looks.
    let mode = opened.metadata().map_err(failed)?.mode() & 0o777;
    if mode & 0o077 != 0 && !sabotage::on("pgpass-open") {
        return Err(SourceError::Failed {
            code: ErrorCode::Permission,
            what: format!("others may use the password file {} (mode {mode:03o})", file.display()),
            advice: Some(
                format!(
                    "run chmod 600 {}, and change the password if somebody may have read it",
                    file.display()
                )
                .into(),
            ),
        });
    }
    let mut text = String::new();
    opened.by_ref().take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// One line of a password file that is for this connection alone, for a child program.
pub(super) fn pgpass_line(connection: &Connection, password: &Secret) -> String {
    let escape = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
    format!("*:*:*:{}:{}\n", escape(&connection.user), escape(password.reveal()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// A file in the directory of temporary files, gone when dropped.
    struct Private(std::path::PathBuf);

    impl Private {
        fn new(name: &str, text: &str, mode: u32) -> Self {
            let path = std::env::temp_dir().join(format!("hikae-password-{}-{name}", std::process::id()));
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            Self(path)
        }
    }

    impl Drop for Private {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn connection(text: &str) -> Connection {
        Connection::parse(text, "me").unwrap()
    }

    /// Keeps MK-62.
    #[test]
    fn the_first_line_for_a_connection_gives_its_password() {
        let file = Private::new(
            "pgpass",
            "# host:port:database:user:password\nother:*:*:*:no\ndb:5432:shop:me:a\\:b\\\\c:d\n*:*:*:*:last\n",
            0o600,
        );
        let of = |text| from_pgpass(&file.0, &connection(text)).unwrap().map(|s| s.reveal().to_owned());
        assert_eq!(of("host=db dbname=shop").as_deref(), Some("a:b\\c:d"));
        assert_eq!(of("host=db dbname=other").as_deref(), Some("last"));
    }

    #[test]
    fn a_line_written_for_a_child_is_read_back() {
        let connection = connection("host=db user='a:b\\\\c'");
        let line = pgpass_line(&connection, &Secret::new("p:w\\d".into()));
        let file = Private::new("line", &line, 0o600);
        assert_eq!(from_pgpass(&file.0, &connection).unwrap().unwrap().reveal(), "p:w\\d");
    }

    #[test]
    fn a_password_file_that_others_may_read_is_refused() {
        for mode in [0o644, 0o640, 0o604, 0o666] {
            let file = Private::new("open", "DB=x\n", mode);
            assert!(from_pgpass(&file.0, &connection("")).is_err(), "{mode:o}");
        }
    }
}
