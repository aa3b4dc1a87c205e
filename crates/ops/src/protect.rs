//! Protect: from nothing to a configuration, a key and a repository, each made only if it is not there.
//!
//! Order: key file, configuration, repository. A death in between leaves something that the next call goes on
//! from. What is given is recognised by looking at it, and what the configuration has already is not added
//! again.
//!
//! The backup and the drill that follow are verbs of their own.

use crate::OpsError;
use crate::config::{
    Config, NewSource, SourceConfig, SourceSettings, StoreConfig, UnlockConfig, append_sources, new_text,
    parse,
};
use crate::open::{KeyChoice, OpenError, Opened, Place, make_key_file};
use crate::private_file::{self, PrivateFileError};
use crate::recovery::{RecoverySheet, SheetsDue};
use crate::surroundings::Surroundings;
use hikae_model::{Advise, Cx, ErrorCode, Hint, Problem};
use hikae_repo::Repo;
use hikae_source::files::FilesSettings;
use hikae_source::postgresql::PostgresqlSettings;
use hikae_source::sqlite::SqliteSettings;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Name of the repository that `protect` makes.
const REPOSITORY: &str = "main";

/// The first 16 bytes of a SQLite database (<https://www.sqlite.org/fileformat.html>, 1.3).
const SQLITE_HEADER: &[u8; 16] = b"SQLite format 3\0";

/// What is ready to be backed up.
pub struct Prepared {
    /// The configuration, with the new sources.
    pub config: Config,
    /// The repository, open.
    pub repo: Arc<Repo>,
    /// Its name in the configuration.
    pub repository: String,
    /// What was made or changed, in this order.
    pub made: Vec<Made>,
    /// The sources that were added.
    pub added: Vec<String>,
    /// The recovery sheet, if the repository was made now, or made before and its sheet never written.
    pub sheet: Option<RecoverySheet>,
    /// A sheet was never written and cannot be any more: the key at hand does not hold the secret.
    pub sheet_is_lost: bool,
    /// Permissions of the repository that had to be mended.
    pub repaired: Vec<Problem>,
}

/// Something that `protect` made or changed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case", tag = "made", content = "path")]
pub enum Made {
    /// A key file.
    KeyFile(PathBuf),
    /// A configuration.
    Config(PathBuf),
    /// Sources at the end of a configuration.
    Sources(PathBuf),
    /// A repository.
    Repository(PathBuf),
}

/// Why nothing could be prepared.
#[derive(Debug, thiserror::Error)]
pub enum ProtectError {
    /// A source, or the configuration.
    #[error(transparent)]
    Ops(#[from] OpsError),
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// The repository or its key.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] PrivateFileError),
}

impl Advise for ProtectError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Ops(error) => error.code(),
            Self::Config(error) => error.code(),
            Self::Open(error) => error.code(),
            Self::File(error) => error.code(),
        }
    }

    fn advice(&self) -> Option<Hint> {
        match self {
            Self::Ops(error) => error.advice(),
            Self::Config(error) => error.advice(),
            Self::Open(error) => error.advice(),
            Self::File(error) => error.advice(),
        }
    }
}

/// What a word on the command line means: a PostgreSQL address, a SQLite database, a folder or a file.
///
/// # Errors
/// [`OpsError::Refused`] if there is nothing there.
pub fn recognise(what: &OsStr, allow_superuser: bool) -> Result<SourceSettings, OpsError> {
    if let Some(address) = what.to_str()
        && (address.starts_with("postgresql://") || address.starts_with("postgres://"))
    {
        let settings = PostgresqlSettings { allow_superuser, ..PostgresqlSettings::of(address) };
        return Ok(SourceSettings::Postgresql(Box::new(settings)));
    }
    let given = Path::new(what);
    let path = std::path::absolute(given).map_err(|error| cannot_see(given, &error))?;
    let metadata = std::fs::metadata(&path).map_err(|error| cannot_see(&path, &error))?;
    if path.to_str().is_none() {
        let what = format!("{} is not UTF-8 and cannot stand in a configuration", path.display());
        let advice = "protect the folder above it";
        return Err(OpsError::refused(ErrorCode::Usage, what, Some(advice.into())));
    }
    // Without `.` and `..`, but through no symbolic link: what is a link stays one.
    let path: PathBuf = path.components().collect();
    if metadata.is_file() && is_sqlite(&path) {
        return Ok(SourceSettings::Sqlite(SqliteSettings { path, scratch: None }));
    }
    Ok(SourceSettings::Files(FilesSettings { include: vec![path.into()], ..FilesSettings::default() }))
}

fn cannot_see(path: &Path, error: &std::io::Error) -> OpsError {
    let (code, advice) = match error.kind() {
        std::io::ErrorKind::NotFound => {
            (ErrorCode::SourceMissing, "give a folder, a file, a SQLite database or postgresql://…")
        }
        _ => (ErrorCode::of_io(error), "run hikae as a user who may read it"),
    };
    OpsError::refused(code, format!("cannot protect {}: {error}", path.display()), Some(advice.into()))
}

fn is_sqlite(path: &Path) -> bool {
    let mut header = [0; SQLITE_HEADER.len()];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut header));
    read.is_ok() && header == *SQLITE_HEADER
}

/// A name for a source, as its user would call it, that is not taken yet.
fn name_for(settings: &SourceSettings, taken: &BTreeSet<String>) -> String {
    let last = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let wish = match settings {
        SourceSettings::Files(files) => files.include.first().and_then(|include| last(&include.path)),
        SourceSettings::Sqlite(sqlite) => {
            sqlite.path.file_stem().map(|name| name.to_string_lossy().into_owned())
        }
        SourceSettings::Postgresql(postgresql) => {
            let address = postgresql.connection.split('?').next().unwrap_or_default();
            address
                .rsplit_once("://")
                .and_then(|(_, rest)| rest.split_once('/'))
                .map(|(_, name)| name.to_owned())
        }
    };
    let clean = |c: char| if c.is_alphanumeric() || "-_".contains(c) { c } else { '-' };
    let wish: String = wish.unwrap_or_default().chars().take(40).map(clean).collect();
    let wish = wish.trim_matches('-').to_owned();
    let wish = if wish.is_empty() { settings.kind().to_owned() } else { wish };
    let numbered = (2..).map(|n| format!("{wish}-{n}"));
    let mut names = std::iter::once(wish.clone()).chain(numbered);
    names.find(|name| !taken.contains(name)).unwrap_or(wish)
}

/// Whether a source of the configuration protects this already.
fn is_covered(config: &Config, wanted: &SourceSettings) -> bool {
    config.sources.values().any(|source| match (&source.settings, wanted) {
        (SourceSettings::Files(have), SourceSettings::Files(want)) => {
            want.include.iter().all(|want| have.include.iter().any(|have| have.path == want.path))
        }
        (SourceSettings::Sqlite(have), SourceSettings::Sqlite(want)) => have.path == want.path,
        (SourceSettings::Postgresql(have), SourceSettings::Postgresql(want)) => {
            have.connection == want.connection
        }
        _ => false,
    })
}

/// Makes what is not there yet. `file` is the configuration to use; `key` is what opens the repository, if
/// the configuration does not say.
///
/// # Errors
/// [`ProtectError`]; what was made until then is used by the next call.
pub fn prepare(
    what: &[SourceSettings],
    file: Option<&Path>,
    key: Option<KeyChoice>,
    around: &Surroundings,
    cx: &Cx,
) -> Result<Prepared, ProtectError> {
    let mut made = Vec::new();
    let found = Config::find(file, around);
    let path = found.clone().unwrap_or_else(|| around.config.join("config.toml"));
    let text = match found.filter(|path| path.exists()) {
        Some(path) => Some(
            std::fs::read_to_string(&path)
                .map_err(|source| crate::config::ConfigError::Unreadable { path, source })?,
        ),
        None => None,
    };
    let known = match &text {
        Some(text) => parse(text, Some(&path))?,
        None => Config::default(),
    };
    let (new_sources, added) = sources_to_add(&known, what);
    if known.sources.is_empty() && new_sources.is_empty() {
        let advice = "give a folder, a file, a SQLite database or postgresql://…";
        return Err(
            OpsError::refused(ErrorCode::Usage, "there is nothing to protect", Some(advice.into())).into()
        );
    }
    for new in &new_sources {
        // What cannot be read must not become a source: the whole next run would fail with it.
        SourceConfig::of(new.settings.clone()).require_ready(&new.name, around, cx)?;
    }
    let text = match text {
        Some(text) if new_sources.is_empty() => text,
        Some(mut text) => {
            append_sources(&mut text, &new_sources);
            private_file::replace(&path, text.as_bytes())?;
            made.push(Made::Sources(path.clone()));
            text
        }
        None => {
            private_file::create_directory_durably(path.parent().unwrap_or(&path))?;
            let unlock = match &key {
                Some(KeyChoice::KeyFile(path)) => Some(UnlockConfig::KeyFile(path.clone())),
                Some(KeyChoice::IdentityFile(path)) => Some(UnlockConfig::IdentityFile(path.clone())),
                Some(KeyChoice::Passphrase(_) | KeyChoice::Recovery(_)) => None,
                None => Some(UnlockConfig::KeyFile(around.config.join(format!("{REPOSITORY}.key")))),
            };
            if let (Some(UnlockConfig::KeyFile(file)), None) = (&unlock, &key)
                && make_key_file(file, cx)?
            {
                made.push(Made::KeyFile(file.clone()));
            }
            let store = around.data.join(REPOSITORY);
            let text = new_text(REPOSITORY, &store, unlock.as_ref(), &new_sources);
            private_file::create(&path, text.as_bytes())?;
            made.push(Made::Config(path.clone()));
            text
        }
    };
    let config = parse(&text, Some(&path))?;
    let (name, repository) = config.repository(None)?;
    let repository_name = name.to_owned();
    let place = Place::of(repository, key, around, cx)?;
    let mut sheet_is_lost = false;
    let (opened, sheet) = match place.open(around, cx) {
        Ok(opened) => {
            let is_due = SheetsDue::below(&around.data).holds(&place.address())?;
            let sheet = is_due.then(|| RecoverySheet::of_open(&opened.repo).ok());
            sheet_is_lost = matches!(sheet, Some(None));
            (opened, sheet.flatten())
        }
        Err(OpenError::Repo(error)) if error.code() == ErrorCode::RepositoryMissing => {
            let StoreConfig::Directory(directory) = &repository.store;
            if let Some(above) = directory.parent() {
                private_file::create_directory_durably(above)?;
            }
            let new = place.init(&repository.recipients, repository.write_only, around, cx)?;
            made.push(Made::Repository(directory.clone()));
            let sheet = RecoverySheet::of(&new.repo, &new.secret);
            (Opened { repo: Arc::new(new.repo), repaired: Vec::new() }, Some(sheet))
        }
        Err(error) => return Err(error.into()),
    };
    let Opened { repo, repaired } = opened;
    Ok(Prepared { config, repo, repository: repository_name, made, added, sheet, sheet_is_lost, repaired })
}

fn sources_to_add(config: &Config, what: &[SourceSettings]) -> (Vec<NewSource>, Vec<String>) {
    let mut taken: BTreeSet<String> = config.sources.keys().cloned().collect();
    let mut with_new = config.clone();
    let mut new_sources = Vec::new();
    for settings in what {
        if is_covered(&with_new, settings) {
            continue;
        }
        let name = name_for(settings, &taken);
        taken.insert(name.clone());
        with_new.sources.insert(name.clone(), SourceConfig::of(settings.clone()));
        new_sources.push(NewSource { name, settings: settings.clone() });
    }
    let added = new_sources.iter().map(|new| new.name.clone()).collect();
    (new_sources, added)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::open::create_key_file;
    use crate::surroundings::tests::surroundings;

    fn files(path: &str) -> SourceSettings {
        SourceSettings::Files(FilesSettings { include: vec![path.into()], ..FilesSettings::default() })
    }

    #[test]
    fn names_are_what_a_person_would_say_and_never_taken_twice() {
        let postgresql = |uri: &str| SourceSettings::Postgresql(Box::new(PostgresqlSettings::of(uri)));
        let mut taken = BTreeSet::new();
        for (settings, name) in [
            (files("/srv/docs"), "docs"),
            (files("/var/docs"), "docs-2"),
            (files("/"), "files"),
            (files("/srv/my notes.v2"), "my-notes-v2"),
            (files("/srv/控え"), "控え"),
            (postgresql("postgresql://u@h:1/shop?sslmode=require"), "shop"),
            (postgresql("postgresql://h"), "postgresql"),
        ] {
            let found = name_for(&settings, &taken);
            assert_eq!(found, name);
            taken.insert(found);
        }
    }

    #[test]
    fn a_second_call_goes_on_from_the_first() {
        let root = tempfile::tempdir().unwrap();
        let (docs, more) = (root.path().join("docs"), root.path().join("more"));
        std::fs::create_dir(&docs).unwrap();
        std::fs::create_dir(&more).unwrap();
        let around = surroundings(root.path());
        let cx = hikae_testkit::system_cx();
        let call = |what: &[&Path]| {
            let what: Vec<_> = what.iter().map(|path| recognise(path.as_os_str(), false).unwrap()).collect();
            prepare(&what, None, None, &around, &cx).unwrap_or_else(|error| panic!("{error}"))
        };
        let first = call(&[&docs]);
        assert_eq!(first.made.len(), 3);
        assert_eq!(first.added, ["docs"]);
        // Nobody says that it was written, so it is made again; then it is.
        assert!(first.sheet.is_some() && call(&[&docs]).sheet.is_some());
        SheetsDue::below(&around.data).remove(&first.sheet.unwrap().address).unwrap();
        let second = call(&[&docs]);
        assert!(second.made.is_empty() && second.added.is_empty() && second.sheet.is_none());
        let third = call(&[&docs, &more]);
        assert_eq!(third.added, ["more"]);
        assert_eq!(third.config.sources.len(), 2);
        let error = recognise(root.path().join("nothing").as_os_str(), false).unwrap_err();
        assert_eq!(error.code(), ErrorCode::SourceMissing);
    }

    #[test]
    fn a_death_after_any_step_is_gone_on_from() {
        let root = tempfile::tempdir().unwrap();
        let docs = root.path().join("docs");
        std::fs::create_dir(&docs).unwrap();
        let around = surroundings(root.path());
        let cx = hikae_testkit::system_cx();
        let what = [recognise(docs.as_os_str(), false).unwrap()];
        // A key file and nothing else; then all but the repository.
        private_file::create_directory(&around.config).unwrap();
        create_key_file(&around.config.join("main.key"), &cx).unwrap();
        prepare(&what, None, None, &around, &cx).unwrap_or_else(|error| panic!("{error}"));
        std::fs::remove_dir_all(&around.data).unwrap();
        std::fs::remove_dir_all(&around.cache).unwrap();
        let again = prepare(&what, None, None, &around, &cx).unwrap_or_else(|error| panic!("{error}"));
        assert!(again.sheet.is_some());
    }
}
