//! Secret references: where a secret is, never the secret itself.
//!
//! ```text
//! file:/etc/hikae/passphrase      the first line of a file that only its owner may read
//! file:/etc/app/backup.env#NAME   the value of a NAME=value line of such a file, which is parsed and never run
//! env:APP_DB_PASSWORD             an environment variable
//! command:pass show hikae         what a program prints; words, never a shell
//! credential:hikae-passphrase     a file in systemd's $CREDENTIALS_DIRECTORY
//! ```
//!
//! A literal is refused without being repeated: it may be the secret.

use super::env_file::{self, BadEnvFile};
use crate::private_file::{self, PrivateFileError};
use crate::surroundings::Surroundings;
use hikae_model::{Advise, Cx, ErrorCode, Hint};
use std::fmt;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;
use zeroize::Zeroizing;

/// Longest secret that is read.
const MAX_BYTES: u64 = 64 << 10;
/// How long a program may take to tell a secret: somebody may have to touch a key.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    /// The text of a file that only its owner may read.
    File(PathBuf),
    /// The value of a `NAME=value` line of such a file.
    EnvFile {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// An environment variable.
    Variable(String),
    /// What a program prints on its standard output.
    Command(Vec<String>),
    /// A credential that systemd hands to the service.
    Credential(String),
}

/// Text that is no secret reference. It is not repeated, because it may be the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not a secret reference: write file:PATH, file:PATH#NAME, env:NAME, command:PROGRAM ARGUMENTS or credential:NAME"
)]
pub struct BadSecretRef;

impl std::str::FromStr for SecretRef {
    type Err = BadSecretRef;

    fn from_str(text: &str) -> Result<Self, BadSecretRef> {
        let (scheme, rest) = text.split_once(':').ok_or(BadSecretRef)?;
        match (scheme, rest.trim()) {
            (_, "") => Err(BadSecretRef),
            ("file", path) if path.starts_with('/') => Ok(match path.rsplit_once('#') {
                Some((path, name)) if is_variable(name) => {
                    Self::EnvFile { path: path.into(), name: name.into() }
                }
                _ => Self::File(path.into()),
            }),
            ("env", name) if is_name(name) => Ok(Self::Variable(name.to_owned())),
            ("command", words) => Ok(Self::Command(words.split_whitespace().map(str::to_owned).collect())),
            ("credential", name) if is_name(name) => Ok(Self::Credential(name.to_owned())),
            _ => Err(BadSecretRef),
        }
    }
}

/// One name, which is no path and leads nowhere.
fn is_name(text: &str) -> bool {
    !text.starts_with('.') && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
}

/// A name as variables have it.
fn is_variable(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::EnvFile { path, name } => write!(f, "file:{}#{name}", path.display()),
            Self::Variable(name) => write!(f, "env:{name}"),
            Self::Command(words) => write!(f, "command:{}", words.join(" ")),
            Self::Credential(name) => write!(f, "credential:{name}"),
        }
    }
}

/// A text, or `{ command = ["program", "argument with spaces"] }`.
impl<'de> serde::Deserialize<'de> for SecretRef {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrTable;

        impl<'de> serde::de::Visitor<'de> for TextOrTable {
            type Value = SecretRef;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a secret reference such as \"file:/etc/hikae/passphrase\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<SecretRef, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<SecretRef, A::Error> {
                use serde::de::Error as _;
                let key: Option<String> = map.next_key()?;
                if key.as_deref() != Some("command") {
                    return Err(A::Error::custom(BadSecretRef));
                }
                let words: Vec<String> = map.next_value()?;
                match words.is_empty() || map.next_key::<String>()?.is_some() {
                    true => Err(A::Error::custom(BadSecretRef)),
                    false => Ok(SecretRef::Command(words)),
                }
            }
        }

        deserializer.deserialize_any(TextOrTable)
    }
}

/// Why a secret could not be had. Never holds any of it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Its file cannot be used.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// Its file does not tell it.
    #[error("{}", .path.display())]
    EnvFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: BadEnvFile,
    },
    /// The variable is not set, or is no text.
    #[error("the environment variable {name} is not set")]
    NoVariable {
        /// Its name.
        name: String,
    },
    /// systemd handed us no credentials.
    #[error("there is no credential {name}")]
    NoCredential {
        /// Its name.
        name: String,
    },
    /// The program could not be started.
    #[error("cannot run {program}")]
    CannotRun {
        /// The program.
        program: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The program did not end well.
    #[error("{program} told no secret: {how}")]
    CommandFailed {
        /// The program.
        program: String,
        /// How it ended.
        how: String,
    },
    /// The work was cancelled while the program ran.
    #[error(transparent)]
    Cancelled(#[from] hikae_model::Cancelled),
}

impl Advise for SecretError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::File(error) => error.code(),
            Self::EnvFile { .. } | Self::NoVariable { .. } | Self::NoCredential { .. } => ErrorCode::Usage,
            Self::CannotRun { .. } | Self::CommandFailed { .. } => ErrorCode::Permission,
            Self::Cancelled(_) => ErrorCode::Interrupted,
        }
    }

    fn advice(&self) -> Option<Hint> {
        match self {
            Self::File(error) => error.advice(),
            Self::EnvFile { .. } => {
                Some("see that it holds NAME=value lines and nothing that a shell would run".into())
            }
            Self::NoVariable { .. } => Some("set it, or refer to the secret by file: instead".into()),
            Self::NoCredential { .. } => Some("see LoadCredential= in the unit that starts hikae".into()),
            Self::CannotRun { .. } => Some("see that the program is there and on PATH".into()),
            Self::CommandFailed { .. } => {
                Some("run it by hand; it must print the secret and exit with 0".into())
            }
            Self::Cancelled(_) => None,
        }
    }
}

impl SecretRef {
    /// Fetches the secret: the first line of what is there, without its line end.
    ///
    /// # Errors
    /// [`SecretError`], which says where the secret should have been.
    pub fn resolve(&self, around: &Surroundings, cx: &Cx) -> Result<Zeroizing<String>, SecretError> {
        match self {
            Self::File(path) => Ok(first_line(private_file::read(path)?)),
            Self::EnvFile { path, name } => env_file::value_of(name, &private_file::read(path)?)
                .map_err(|source| SecretError::EnvFile { path: path.clone(), source }),
            Self::Variable(name) => (around.variables)(name)
                .and_then(|value| value.into_string().ok())
                .map(Zeroizing::new)
                .ok_or_else(|| SecretError::NoVariable { name: name.clone() }),
            Self::Credential(name) => {
                let directory = (around.variables)("CREDENTIALS_DIRECTORY").map(PathBuf::from);
                let missing = || SecretError::NoCredential { name: name.clone() };
                let path = directory.ok_or_else(missing)?.join(name);
                // systemd keeps the directory to the service; an ACL can make the file look readable by its
                // group (systemd.exec(5), LoadCredential=), so its mode says nothing.
                let text = std::fs::read_to_string(path).map_err(|_| missing())?;
                Ok(first_line(Zeroizing::new(text)))
            }
            Self::Command(words) => ask_command(words, around, cx),
        }
    }
}

fn first_line(text: Zeroizing<String>) -> Zeroizing<String> {
    Zeroizing::new(text.lines().next().unwrap_or_default().to_owned())
}

fn ask_command(words: &[String], around: &Surroundings, cx: &Cx) -> Result<Zeroizing<String>, SecretError> {
    printed_by(words, around, cx).map(first_line)
}

/// All that a program prints, if it ends well.
///
/// # Errors
/// [`SecretError::CannotRun`], [`SecretError::CommandFailed`] and [`SecretError::Cancelled`].
pub(crate) fn printed_by(
    words: &[String],
    around: &Surroundings,
    cx: &Cx,
) -> Result<Zeroizing<String>, SecretError> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(SecretError::CommandFailed { program: String::new(), how: "it has no name".to_owned() });
    };
    let failed = |how: String| SecretError::CommandFailed { program: program.clone(), how };
    let cannot_run = |source| SecretError::CannotRun { program: program.clone(), source };
    let mut command = Command::new(find_program(program, around));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(cannot_run)?;
    let stdout = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut text = Zeroizing::new(String::new());
        let read = stdout.map(|stdout| stdout.take(MAX_BYTES).read_to_string(&mut text));
        read.unwrap_or(Ok(0)).map(|_| text)
    });
    let since = cx.elapsed();
    let status: ExitStatus = loop {
        if let Some(status) = child.try_wait().map_err(cannot_run)? {
            break status;
        }
        let late = cx.elapsed().saturating_sub(since) > COMMAND_LIMIT;
        if late || cx.cancel().is_cancelled() {
            // Nothing is lost if it ended meanwhile.
            let _ = child.kill();
            let _ = child.wait();
            cx.check()?;
            return Err(failed(format!("it took longer than {} s", COMMAND_LIMIT.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let text = match reader.join() {
        Ok(Ok(text)) => text,
        Ok(Err(_)) | Err(_) => return Err(failed("what it printed is no text".to_owned())),
    };
    match status.success() {
        true if text.trim().is_empty() => Err(failed("it printed nothing".to_owned())),
        true => Ok(text),
        false => Err(failed(format!("it ended with {status}"))),
    }
}

/// A program by its path, or by its name on our `PATH`.
fn find_program(program: &str, around: &Surroundings) -> PathBuf {
    let named = || around.path.iter().map(|directory| directory.join(program)).find(|path| path.is_file());
    if program.contains('/') { program.into() } else { named().unwrap_or_else(|| program.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::surroundings::tests::surroundings;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_literal_is_refused_and_not_repeated() {
        for literal in ["hunter2", "pass:word", "file:relative", "credential:../x"] {
            let error = literal.parse::<SecretRef>().unwrap_err();
            assert!(!error.to_string().contains(literal), "{error}");
        }
        for empty in ["env:", "command: ", "file:", "credential:"] {
            assert!(empty.parse::<SecretRef>().is_err(), "{empty}");
        }
    }

    #[test]
    fn a_secret_comes_from_where_its_reference_says() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("secret");
        std::fs::write(&file, "from a file\nsecond line\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let env = directory.path().join("backup.env");
        std::fs::write(&env, "# of the application\nexport DB_PASSWORD=\"it's in the file\"\n").unwrap();
        std::fs::set_permissions(&env, std::fs::Permissions::from_mode(0o600)).unwrap();
        let mut around = surroundings(directory.path());
        let credentials = directory.path().to_owned();
        around.variables = std::sync::Arc::new(move |name| match name {
            "APP" => Some("from a variable".into()),
            "CREDENTIALS_DIRECTORY" => Some(credentials.clone().into()),
            _ => None,
        });
        let cx = hikae_testkit::system_cx();
        for (reference, secret) in [
            (format!("file:{}", file.display()), "from a file"),
            (format!("file:{}#DB_PASSWORD", env.display()), "it's in the file"),
            ("env:APP".to_owned(), "from a variable"),
            ("command:printf a\\nb".to_owned(), "a"),
            ("credential:secret".to_owned(), "from a file"),
        ] {
            let found = reference.parse::<SecretRef>().unwrap().resolve(&around, &cx);
            assert_eq!(found.unwrap().as_str(), secret, "{reference}");
        }
        for missing in
            ["env:OTHER", "credential:other", "command:false", "command:no-such-program", "command:true"]
        {
            assert!(missing.parse::<SecretRef>().unwrap().resolve(&around, &cx).is_err(), "{missing}");
        }
        let resolve = |name: &str| {
            let reference: SecretRef = format!("file:{}#{name}", env.display()).parse().unwrap();
            assert_eq!(reference.to_string().parse(), Ok(reference.clone()), "it is shown as it is written");
            reference.resolve(&around, &cx).unwrap_err()
        };
        assert!(matches!(resolve("OTHER"), SecretError::EnvFile { .. }));
        std::fs::set_permissions(&env, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(resolve("DB_PASSWORD").code(), ErrorCode::Permission);
    }
}
