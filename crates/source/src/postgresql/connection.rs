//! Where a server is and how to enter it: connection strings, read strictly.
//!
//! Both of libpq's forms are understood, `host=... dbname=...` and `postgresql://...`. An unknown word is an
//! error and not ignored: a misspelt `sslmode` must not read as "no TLS". What goes to `pg_dump` and its
//! kin is written anew from the parts, each value escaped, so that a database called
//! `dbname=postgres host=evil` stays a name.
//!
//! This module opens no connection and looks up no password; [`password`](super::password) does the latter.

use super::password::Secret;
use crate::SourceError;
use hikae_model::sabotage;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A server, a database and who we are there.
#[derive(Clone)]
pub struct Connection {
    /// Where the server listens.
    pub host: Host,
    /// Port, which for a unix socket is the end of the socket's name.
    pub port: u16,
    /// Role to enter as.
    pub user: String,
    /// Database to enter.
    pub database: String,
    /// Password, if one was given or found.
    pub password: Option<Secret>,
    /// How TLS is used over TCP.
    pub tls: TlsSettings,
    /// How long to wait for the server to take the connection.
    pub connect_timeout: Duration,
    /// Password file to look into instead of `~/.pgpass`.
    pub passfile: Option<PathBuf>,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// The directory of a unix socket.
    Socket(PathBuf),
    /// A host name or address.
    Name(String),
}

/// How TLS is used over TCP, in libpq's words. A unix socket never uses it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// `sslmode`.
    pub mode: TlsMode,
    /// `sslrootcert`: PEM file of the authorities to trust instead of the system's.
    pub root: Option<PathBuf>,
    /// `sslcert` and `sslkey`: PEM files of our own certificate.
    pub own: Option<(PathBuf, PathBuf)>,
    /// `channel_binding`.
    pub binding: Binding,
}

/// `sslmode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// Never.
    Disable,
    /// If the server has it, without looking at its certificate. libpq's default.
    #[default]
    Prefer,
    /// Always, without looking at its certificate, unless `sslrootcert` is given.
    Require,
    /// Always, with a certificate of a trusted authority.
    VerifyCa,
    /// Always, with a certificate of a trusted authority for this host.
    VerifyFull,
}

/// `channel_binding`: whether the proof of the password is bound to the TLS connection over which it goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Binding {
    /// Where the server offers it.
    #[default]
    Prefer,
    /// Always; a server that offers it not, or lets us in by other means, is refused.
    Require,
}

impl TlsMode {
    fn name(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

/// Directories in which PostgreSQL packages put their socket, most usual first.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

impl Connection {
    /// Reads a connection string of either form. What it does not say is as in libpq: the first socket
    /// that is there, port 5432, `user` as the role, the role's name as the database.
    ///
    /// # Errors
    /// [`SourceError::Setting`] naming the word that cannot be.
    pub fn parse(text: &str, user: &str) -> Result<Self, SourceError> {
        let pairs = if text.starts_with("postgresql://") || text.starts_with("postgres://") {
            parse_uri(text)?
        } else {
            parse_keywords(text)?
        };
        Self::from_pairs(pairs, user)
    }

    fn from_pairs(pairs: Vec<(String, String)>, user: &str) -> Result<Self, SourceError> {
        let (mut host, mut port, mut role, mut database) = (None, None, None, None);
        let (mut certificate, mut key) = (None, None);
        let mut connection = Self {
            host: Host::Name(String::new()),
            port: 5432,
            user: String::new(),
            database: String::new(),
            password: None,
            tls: TlsSettings::default(),
            connect_timeout: Duration::from_secs(10),
            passfile: None,
        };
        for (word, value) in pairs {
            match word.as_str() {
                "host" => host = Some(value),
                "port" => {
                    port = Some(value.parse().map_err(|_| bad(format!("port `{value}` is not a number")))?)
                }
                "user" => role = Some(value),
                "dbname" => database = Some(value),
                "password" => connection.password = Some(Secret::new(value)),
                "passfile" => connection.passfile = Some(value.into()),
                "sslmode" => connection.tls.mode = parse_tls_mode(&value)?,
                "sslrootcert" => connection.tls.root = Some(value.into()),
                "channel_binding" => connection.tls.binding = parse_binding(&value)?,
                "sslcert" => certificate = Some(PathBuf::from(value)),
                "sslkey" => key = Some(PathBuf::from(value)),
                "connect_timeout" => {
                    let seconds: u64 = value
                        .parse()
                        .map_err(|_| bad(format!("connect_timeout `{value}` is not a number")))?;
                    connection.connect_timeout = Duration::from_secs(seconds.clamp(1, 3600));
                }
                "application_name" => {} // accepted, because it is in so many strings; ours is `hikae`
                _ => return Err(bad(format!("`{word}` is not a word that hikae knows"))),
            }
        }
        connection.tls.own = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(bad("sslcert and sslkey come together".into())),
        };
        connection.port = port.unwrap_or(5432);
        connection.host = match host.as_deref() {
            None | Some("") => Host::Socket(usual_socket_directory(connection.port)),
            Some(path) if path.starts_with('/') => Host::Socket(path.into()),
            Some(name) if name.contains(',') => return Err(bad("one host, not several".into())),
            Some(name) => Host::Name(name.to_owned()),
        };
        connection.user = role.filter(|role| !role.is_empty()).unwrap_or_else(|| user.to_owned());
        connection.database =
            database.filter(|name| !name.is_empty()).unwrap_or_else(|| connection.user.clone());
        for (what, value) in [("user", &connection.user), ("dbname", &connection.database)] {
            if value.is_empty() || value.contains('\0') {
                return Err(bad(format!("{what} is empty or holds a NUL byte")));
            }
        }
        Ok(connection)
    }

    /// The same server and role, another database.
    pub fn to_database(&self, database: &str) -> Self {
        Self { database: database.to_owned(), ..self.clone() }
    }

    /// The string that libpq reads as exactly this connection. It never holds the password.
    pub fn conninfo(&self, passfile: Option<&Path>) -> String {
        let mut text = String::new();
        let mut put = |word: &str, value: &str| {
            let value = match sabotage::on("names-unquoted") {
                true => value.to_owned(),
                false => value.replace('\\', "\\\\").replace('\'', "\\'"),
            };
            let _ = write!(text, "{}{word}='{value}'", if text.is_empty() { "" } else { " " });
        };
        match &self.host {
            Host::Socket(directory) => put("host", &directory.to_string_lossy()),
            Host::Name(name) => put("host", name),
        }
        put("port", &self.port.to_string());
        put("user", &self.user);
        put("dbname", &self.database);
        put("application_name", "hikae");
        put("connect_timeout", &self.connect_timeout.as_secs().to_string());
        if matches!(self.host, Host::Name(_)) {
            put("sslmode", self.tls.mode.name());
            match &self.tls.root {
                Some(root) => put("sslrootcert", &root.to_string_lossy()),
                None if matches!(self.tls.mode, TlsMode::VerifyFull) => put("sslrootcert", system_roots()),
                None => {}
            }
            if self.tls.binding == Binding::Require {
                put("channel_binding", "require");
            }
            if let Some((certificate, key)) = &self.tls.own {
                put("sslcert", &certificate.to_string_lossy());
                put("sslkey", &key.to_string_lossy());
            }
        }
        if let Some(passfile) = passfile {
            put("passfile", &passfile.to_string_lossy());
        }
        text
    }

    /// For people, as `shop on db.example.org:5432`. Holds no secret.
    pub fn shown(&self) -> String {
        let database = shown_name(&self.database);
        match &self.host {
            Host::Socket(directory) if self.port == 5432 => format!("{database} on {}", directory.display()),
            Host::Socket(directory) => format!("{database} on {}:{}", directory.display(), self.port),
            Host::Name(name) => format!("{database} on {name}:{}", self.port),
        }
    }

    /// True if what is sent cannot be read on a network: a unix socket or the loopback.
    pub fn is_local(&self) -> bool {
        match &self.host {
            Host::Socket(_) => true,
            Host::Name(name) => matches!(name.as_str(), "localhost" | "127.0.0.1" | "::1"),
        }
    }
}

/// A name from a server, for people: control characters and marks of direction are escaped.
pub(super) fn shown_name(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for c in name.chars() {
        if c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            text.extend(c.escape_default());
        } else {
            text.push(c);
        }
    }
    text
}

/// The system's authorities for libpq, which knows the word `system` only since PostgreSQL 16.
fn system_roots() -> &'static str {
    const BUNDLES: [&str; 3] =
        ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
    BUNDLES.into_iter().find(|bundle| Path::new(bundle).exists()).unwrap_or("system")
}

fn usual_socket_directory(port: u16) -> PathBuf {
    let usual = SOCKET_DIRECTORIES.map(PathBuf::from);
    let found = usual.iter().find(|directory| directory.join(format!(".s.PGSQL.{port}")).exists());
    found.unwrap_or(&usual[0]).clone()
}

fn parse_binding(value: &str) -> Result<Binding, SourceError> {
    match value {
        "prefer" => Ok(Binding::Prefer),
        "require" => Ok(Binding::Require),
        _ => Err(bad(format!("channel_binding `{value}` is neither `prefer` nor `require`"))),
    }
}

fn parse_tls_mode(value: &str) -> Result<TlsMode, SourceError> {
    let modes = [TlsMode::Disable, TlsMode::Prefer, TlsMode::Require, TlsMode::VerifyCa, TlsMode::VerifyFull];
    let known = modes.into_iter().find(|mode| mode.name() == value);
    known.ok_or_else(|| {
        bad(format!("sslmode `{value}` is none of disable, prefer, require, verify-ca, verify-full"))
    })
}

/// `word = value` or `word='va\'lue'`, as `conninfo_parse` in libpq's `fe-connect.c` reads it.
fn parse_keywords(text: &str) -> Result<Vec<(String, String)>, SourceError> {
    let mut pairs = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(pairs);
        }
        let mut word = String::new();
        while let Some(c) = chars.next_if(|&c| c != '=' && !c.is_whitespace()) {
            word.push(c);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.next() != Some('=') {
            // The word itself is not shown: it may be a piece of a password.
            return Err(bad("a word without `=`; it wants `host=... dbname=...` or postgresql://...".into()));
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let quoted = chars.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match chars.next() {
                Some('\'') if quoted => break,
                Some('\\') => value.extend(chars.next()),
                Some(c) if !quoted && c.is_whitespace() => break,
                Some(c) => value.push(c),
                None if quoted => return Err(bad(format!("the quoted value of `{word}` does not end"))),
                None => break,
            }
        }
        pairs.push((word, value));
    }
}

/// `postgresql://user:password@host:port/database?word=value`, each part percent-encoded.
fn parse_uri(text: &str) -> Result<Vec<(String, String)>, SourceError> {
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let (authority, database) = rest.split_once('/').map_or((rest, None), |(a, d)| (a, Some(d)));
    let mut pairs = Vec::new();
    let mut put = |word: &str, value: &str| -> Result<(), SourceError> {
        if !value.is_empty() {
            pairs.push((word.to_owned(), percent_decode(value)?));
        }
        Ok(())
    };
    let place = match authority.rsplit_once('@') {
        Some((who, place)) => {
            let (user, password) = who.split_once(':').unwrap_or((who, ""));
            put("user", user)?;
            put("password", password)?;
            place
        }
        None => authority,
    };
    if let Some(rest) = place.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else {
            return Err(bad("the host begins with `[` and does not end with `]`".into()));
        };
        put("host", address)?;
        put("port", port.strip_prefix(':').unwrap_or(port))?;
    } else {
        let (host, port) = place.split_once(':').unwrap_or((place, ""));
        put("host", host)?;
        put("port", port)?;
    }
    put("dbname", database.unwrap_or(""))?;
    for pair in query.into_iter().flat_map(|query| query.split('&')).filter(|pair| !pair.is_empty()) {
        let (word, value) = pair.split_once('=').ok_or_else(|| bad("a word without `=` after `?`".into()))?;
        put(&percent_decode(word)?, value)?;
    }
    Ok(pairs)
}

fn percent_decode(text: &str) -> Result<String, SourceError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = rest.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        let decoded = digits.and_then(|pair| u8::from_str_radix(pair, 16).ok()).filter(|&byte| byte != 0);
        bytes.push(decoded.ok_or_else(|| bad("a `%` that two hex digits do not follow".into()))?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| bad("it is not UTF-8 once decoded".into()))
}

fn bad(why: String) -> SourceError {
    SourceError::Setting { setting: "connection".into(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Connection {
        Connection::parse(text, "me").unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn both_forms_say_the_same() {
        for text in [
            "host=db.example.org port=5433 user=hikae dbname='my shop' sslmode=verify-full",
            "postgresql://hikae@db.example.org:5433/my%20shop?sslmode=verify-full",
            "  host = db.example.org port=5433 user=hikae dbname=my\\ shop sslmode='verify-full' ",
        ] {
            let connection = parse(text);
            assert_eq!(connection.host, Host::Name("db.example.org".into()));
            assert_eq!((connection.port, connection.user.as_str()), (5433, "hikae"));
            assert_eq!(connection.database, "my shop");
            assert_eq!(connection.tls.mode, TlsMode::VerifyFull);
        }
        assert_eq!(parse("postgresql://[::1]:1/x").host, Host::Name("::1".into()));
        assert_eq!(parse("postgresql://%2Frun%2Fpg/x").host, Host::Socket("/run/pg".into()));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for text in [
            "host=a sslmod=verify-full",
            "host=a sslmode=maybe",
            "host=a options=-csearch_path=evil",
            "service=prod",
            "host=a,b",
            "dbname='x",
            "justaword",
            "port=many",
            "sslcert=/c",
            "channel_binding=disable",
            "postgresql://a/b?x",
            "postgresql://a/%zz",
        ] {
            assert!(Connection::parse(text, "me").is_err(), "{text}");
        }
    }

    /// Keeps E-4.
    #[test]
    fn a_name_stays_a_name() {
        for name in
            ["dbname=postgres host=evil", "it's", "\\", "-rf", "a b", "postgresql://evil/x", "x'y\\'z"]
        {
            let mut connection = parse("host=/run/pg");
            connection.database = name.to_owned();
            let again = parse(&connection.conninfo(None));
            assert_eq!(again.database, name);
            assert_eq!(again.host, Host::Socket("/run/pg".into()));
        }
    }

    #[test]
    fn the_password_never_leaves_with_the_string() {
        let connection = parse("postgresql://u:hunter2@h/d");
        assert!(connection.password.is_some());
        assert!(!connection.conninfo(None).contains("hunter2"));
        assert!(!connection.shown().contains("hunter2"));
    }
}
