//! Protect: from nothing to a key, a repository and a configuration, each made only if it is not there.
//!
//! Order: key file, repository, recovery sheet, configuration. Whoever dies or fails in between has no
//! configuration, and the next call goes on from what is there. Once a configuration stands, the repository that
//! it names was there: one that is missing is a disk that is not mounted, and nothing is made in its place.
//!
//! What is given is recognised by looking at it, and what the configuration has already is not added again.
//!
//! The backup and the drill that follow are verbs of their own.

use crate::OpsError;
use crate::config::{
    Config, ConfigError, NewSource, SourceConfig, SourceSettings, UnlockConfig, append_sources, new_text,
    parse,
};
use crate::open::{KeyChoice, NewRepositoryOptions, OpenError, Opened, Place, make_key_file};
use crate::private_file::{self, PrivateFileError};
use crate::recovery::{RecoverySheet, SheetsDue};
use crate::store::StorePlace;
use crate::surroundings::Surroundings;
use hikae_model::{Advise, Cx, ErrorCode, Hint, Problem, sabotage};
use hikae_repo::Repo;
use hikae_source::files::FilesSettings;
use hikae_source::postgresql::PostgresqlSettings;
use hikae_source::sqlite::SqliteSettings;
use hikae_store::Limit;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// Name of the repository that `protect` makes.
const REPOSITORY: &str = "main";

/// The first 16 bytes of a SQLite database (<https://www.sqlite.org/fileformat.html>, 1.3).
const SQLITE_HEADER: &[u8; 16] = b"SQLite format 3\0";

/// Which configuration and repository, as far as the command line says.
#[derive(Clone, Default)]
pub struct Chosen {
    /// The configuration; by default the one in the usual places.
    pub config: Option<PathBuf>,
    /// The repository by its name in the configuration; `main` for one that is made.
    pub repository: Option<String>,
    /// The directory of the repository, instead of what the configuration says.
    pub store: Option<PathBuf>,
    /// What opens it, instead of what the configuration says.
    pub key: Option<KeyChoice>,
    /// Further identities that open contents.
    pub identities: Vec<PathBuf>,
    /// How fast it may be written and read, before what the configuration says.
    pub limit: Limit,
}

impl Chosen {
    /// The configuration: the one that is named or there, or the one that a first call writes.
    pub fn file(&self, around: &Surroundings) -> PathBuf {
        Config::find(self.config.as_deref(), around).unwrap_or_else(|| around.config.join("config.toml"))
    }

    /// The directory of the repository that a first call makes.
    pub fn new_store(&self, around: &Surroundings) -> PathBuf {
        self.store.clone().unwrap_or_else(|| around.data.join(self.new_name()))
    }

    fn new_name(&self) -> &str {
        self.repository.as_deref().unwrap_or(REPOSITORY)
    }
}

/// What is ready to be backed up, once [`write_configuration`](Prepared::write_configuration) was called.
pub struct Prepared {
    /// The configuration, with the new sources.
    pub config: Config,
    /// The repository, open.
    pub repo: Arc<Repo>,
    /// What was made or changed, in this order.
    pub made: Vec<Made>,
    /// The sources that were added.
    pub added: Vec<String>,
    /// The recovery sheet, if none was written yet. It is to be written before the configuration is.
    pub sheet: Option<RecoverySheet>,
    /// A sheet was never written and cannot be any more: the key at hand does not hold the secret.
    pub sheet_is_lost: bool,
    /// Permissions of the repository that had to be mended.
    pub repaired: Vec<Problem>,
    /// The configuration that is to be written, if it changed.
    unwritten: Option<Unwritten>,
}

/// The text of a configuration that is not written yet.
struct Unwritten {
    file: PathBuf,
    text: String,
    is_new: bool,
}

impl Prepared {
    /// Writes the configuration, if it is new or has new sources: the last step of a first call.
    ///
    /// # Errors
    /// [`PrivateFileError`]; the next call then does it.
    pub fn write_configuration(&mut self) -> Result<(), PrivateFileError> {
        let Some(Unwritten { file, text, is_new }) = self.unwritten.take() else { return Ok(()) };
        if is_new {
            private_file::create_directory_durably(file.parent().unwrap_or(&file))?;
            private_file::create(&file, text.as_bytes())?;
            self.made.push(Made::Config(file));
        } else {
            private_file::replace(&file, text.as_bytes())?;
            self.made.push(Made::Sources(file));
        }
        Ok(())
    }
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
    /// A repository, by its address.
    Repository(String),
}

/// Why nothing could be prepared.
#[derive(Debug, thiserror::Error)]
pub enum ProtectError {
    /// A source, or the configuration.
    #[error(transparent)]
    Ops(#[from] OpsError),
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
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
    if what.is_empty() {
        let advice = "give a folder, a file, a SQLite database or postgresql://…";
        return Err(OpsError::refused(ErrorCode::Usage, "cannot protect an empty name", Some(advice.into())));
    }
    let path = std::path::absolute(given).map_err(|error| cannot_see(given, &error))?;
    let metadata = std::fs::metadata(&path).map_err(|error| cannot_see(&path, &error))?;
    if path.to_str().is_none() {
        let what = format!("{} is not UTF-8 and cannot stand in a configuration", path.display());
        let advice = "protect the folder above it";
        return Err(OpsError::refused(ErrorCode::Usage, what, Some(advice.into())));
    }
    let path = without_dots(&path).map_err(|error| cannot_see(&path, &error))?;
    if metadata.is_file() && is_sqlite(&path) {
        return Ok(SourceSettings::Sqlite(SqliteSettings { path, scratch: None }));
    }
    Ok(SourceSettings::Files(FilesSettings { include: vec![path.into()], ..FilesSettings::default() }))
}

/// The path without `.` and `..`. What comes before a `..` is resolved, because a link may lead elsewhere; what comes
/// after the last one is not: what is a link stays one.
fn without_dots(path: &Path) -> std::io::Result<PathBuf> {
    let names: Vec<Component<'_>> = path.components().collect();
    let Some(last) = names.iter().rposition(|name| *name == Component::ParentDir) else {
        return Ok(names.iter().collect());
    };
    let mut resolved = std::fs::canonicalize(names[..=last].iter().collect::<PathBuf>())?;
    resolved.extend(&names[last + 1..]);
    Ok(resolved)
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
        SourceSettings::PostgresqlRows(_) | SourceSettings::PostgresqlCluster(_) => None,
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

/// Makes what is not there yet, up to the configuration, which the caller has written when the recovery sheet is.
///
/// # Errors
/// [`ProtectError`]; what was made until then is used by the next call.
pub fn prepare(
    what: &[SourceSettings],
    chosen: Chosen,
    around: &Surroundings,
    cx: &Cx,
) -> Result<Prepared, ProtectError> {
    let file = chosen.file(around);
    let before = read_if_there(&file)?;
    let known = match &before {
        Some(text) => parse(text, Some(&file))?,
        None => Config::default(),
    };
    let (new_sources, added) = sources_to_add(&known, what)?;
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
    let is_new = before.is_none();
    let (text, ready) = match before {
        Some(mut text) => {
            append_sources(&mut text, &new_sources);
            let place = configured_place(&known, chosen, around, cx)?;
            let ready = match sabotage::on("gone-is-made-anew") {
                true => first_repository(&Place { id: None, ..place }, around, cx)?,
                false => Ready::open(&place, around, cx)?,
            };
            (text, ready)
        }
        None => {
            let (name, store) = (chosen.new_name().to_owned(), chosen.new_store(around));
            let key =
                chosen.key.unwrap_or_else(|| KeyChoice::KeyFile(around.config.join(format!("{name}.key"))));
            let unlock = match &key {
                KeyChoice::KeyFile(path) => Some(UnlockConfig::KeyFile(path.clone())),
                KeyChoice::IdentityFile(path) => Some(UnlockConfig::IdentityFile(path.clone())),
                KeyChoice::Passphrase(_) | KeyChoice::Recovery(_) => None,
            };
            let text = |id| new_text(&name, &store, id, unlock.as_ref(), &new_sources);
            // A name that cannot stand there is seen before anything is made.
            parse(&text(None), Some(&file))?;
            let place = place_of(store.clone(), Some(key), chosen.identities);
            let place = Place { limit: chosen.limit, ..place };
            let ready = first_repository(&place, around, cx)?;
            (text(Some(ready.repo.header().core.repository)), ready)
        }
    };
    let config = parse(&text, Some(&file))?;
    let unwritten = (is_new || !new_sources.is_empty()).then_some(Unwritten { file, text, is_new });
    let Ready { repo, repaired, made, sheet, sheet_is_lost } = ready;
    Ok(Prepared { config, repo, made, added, sheet, sheet_is_lost, repaired, unwritten })
}

fn read_if_there(file: &Path) -> Result<Option<String>, ConfigError> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ConfigError::Unreadable { path: file.to_owned(), source }),
    }
}

/// A repository that is open, and what was done to come there.
struct Ready {
    repo: Arc<Repo>,
    repaired: Vec<Problem>,
    made: Vec<Made>,
    sheet: Option<RecoverySheet>,
    sheet_is_lost: bool,
}

impl Ready {
    fn open(place: &Place, around: &Surroundings, cx: &Cx) -> Result<Self, ProtectError> {
        let Opened { repo, repaired } = place.open(around, cx)?;
        let is_due = SheetsDue::below(&around.data).holds(&place.address())?;
        let sheet = if is_due { RecoverySheet::of_open(&repo).ok() } else { None };
        let sheet_is_lost = is_due && sheet.is_none();
        Ok(Self { repo, repaired, made: Vec::new(), sheet, sheet_is_lost })
    }
}

/// A directory that no configuration speaks of.
fn place_of(store: PathBuf, key: Option<KeyChoice>, identities: Vec<PathBuf>) -> Place {
    Place { identities, ..Place::at(StorePlace::Directory(store), key) }
}

/// The repository of a configuration, unless the command line names another.
fn configured_place(
    config: &Config,
    chosen: Chosen,
    around: &Surroundings,
    cx: &Cx,
) -> Result<Place, ProtectError> {
    let Chosen { repository, store, key, identities, limit, .. } = chosen;
    let place = match store {
        Some(store) => place_of(store, key, identities),
        None => {
            let (_, repository) = config.repository(repository.as_deref())?;
            Place { identities, ..Place::of(repository, key, around, cx)? }
        }
    };
    Ok(Place { limit: limit.or(place.limit), ..place })
}

/// The repository of who has no configuration yet: a new one, or what a call left that came no further.
fn first_repository(place: &Place, around: &Surroundings, cx: &Cx) -> Result<Ready, ProtectError> {
    let mut made = Vec::new();
    if let Some(KeyChoice::KeyFile(file)) = &place.key {
        if file.starts_with(&around.config) {
            private_file::create_directory_durably(&around.config)?;
        }
        if make_key_file(file, cx)? {
            made.push(Made::KeyFile(file.clone()));
        }
    }
    match Ready::open(place, around, cx) {
        Ok(ready) => Ok(Ready { made, ..ready }),
        Err(error) if error.code() == ErrorCode::RepositoryMissing => {
            if place.store.directory().is_some_and(|directory| directory.starts_with(&around.data)) {
                private_file::create_directory_durably(&around.data)?;
            }
            let new = place.init(NewRepositoryOptions::default(), around, cx)?;
            made.push(Made::Repository(place.address()));
            let sheet = Some(RecoverySheet::of(&new.repo, &new.secret));
            let repo = Arc::new(new.repo);
            Ok(Ready { repo, repaired: Vec::new(), made, sheet, sheet_is_lost: false })
        }
        Err(error) => Err(error),
    }
}

fn sources_to_add(
    config: &Config,
    what: &[SourceSettings],
) -> Result<(Vec<NewSource>, Vec<String>), OpsError> {
    let mut taken: BTreeSet<String> = config.sources.keys().cloned().collect();
    let mut with_new = config.clone();
    let mut new_sources = Vec::new();
    for settings in what {
        if is_covered(&with_new, settings) {
            if let SourceSettings::Files(files) = settings
                && !files.exclude.is_empty()
            {
                let what = format!("{} is in the configuration already", settings.shown());
                let advice = "add what to leave out to its `exclude` there";
                return Err(OpsError::refused(ErrorCode::Usage, what, Some(advice.into())));
            }
            continue;
        }
        let name = name_for(settings, &taken);
        taken.insert(name.clone());
        with_new.sources.insert(name.clone(), SourceConfig::of(settings.clone()));
        new_sources.push(NewSource { name, settings: settings.clone() });
    }
    let added = new_sources.iter().map(|new| new.name.clone()).collect();
    Ok((new_sources, added))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StoreConfig;
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

    /// A home with one folder in it, and calls of `protect` there.
    struct Calls {
        root: tempfile::TempDir,
        around: Surroundings,
        cx: Cx,
    }

    impl Calls {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            std::fs::create_dir(root.path().join("docs")).unwrap();
            let around = surroundings(root.path());
            Self { root, around, cx: hikae_testkit::system_cx() }
        }

        fn prepare(&self, names: &[&str], chosen: Chosen) -> Result<Prepared, ProtectError> {
            let recognise = |name: &&str| recognise(self.root.path().join(name).as_os_str(), false).unwrap();
            let what: Vec<_> = names.iter().map(recognise).collect();
            prepare(&what, chosen, &self.around, &self.cx)
        }

        fn protect(&self, names: &[&str]) -> Prepared {
            let mut prepared =
                self.prepare(names, Chosen::default()).unwrap_or_else(|error| panic!("{error}"));
            if let Some(sheet) = &prepared.sheet {
                SheetsDue::below(&self.around.data).remove(&sheet.address).unwrap();
            }
            prepared.write_configuration().unwrap();
            prepared
        }

        fn configuration(&self) -> PathBuf {
            self.around.config.join("config.toml")
        }
    }

    #[test]
    fn a_second_call_goes_on_from_the_first() {
        let calls = Calls::new();
        std::fs::create_dir(calls.root.path().join("more")).unwrap();
        let first = calls.protect(&["docs"]);
        assert_eq!(first.made.len(), 3);
        assert_eq!(first.added, ["docs"]);
        assert!(first.sheet.is_some());
        let second = calls.protect(&["docs"]);
        assert!(second.made.is_empty() && second.added.is_empty() && second.sheet.is_none());
        let third = calls.protect(&["docs", "more"]);
        assert_eq!(third.added, ["more"]);
        assert_eq!(third.config.sources.len(), 2);
        let error = recognise(calls.root.path().join("nothing").as_os_str(), false).unwrap_err();
        assert_eq!(error.code(), ErrorCode::SourceMissing);
    }

    #[test]
    fn a_folder_is_one_source_however_it_is_written() {
        let calls = Calls::new();
        std::fs::create_dir(calls.root.path().join("docs/sub")).unwrap();
        std::os::unix::fs::symlink(calls.root.path().join("docs/sub"), calls.root.path().join("link"))
            .unwrap();
        let first = calls.protect(&["docs"]);
        for again in ["docs/", "docs/../docs", "docs/sub/..", "docs/./.", "link/.."] {
            assert!(calls.protect(&[again]).added.is_empty(), "{again}");
        }
        assert_eq!(
            first.config.sources["docs"].settings.shown(),
            calls.root.path().join("docs").display().to_string()
        );
        // A link is a thing of its own.
        let added = calls.protect(&["docs/../link"]);
        let shown = added.config.sources["link"].settings.shown();
        assert!(shown.ends_with("/link"), "{shown}");
        let error = recognise(OsStr::new(""), false).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Usage);
        assert!(error.advice().unwrap().contains("give a folder"));
    }

    #[test]
    fn a_death_after_any_step_is_gone_on_from() {
        let calls = Calls::new();
        // A key file and nothing else; then all but the sheet and the configuration.
        private_file::create_directory(&calls.around.config).unwrap();
        create_key_file(&calls.around.config.join("main.key"), &calls.cx).unwrap();
        let first = calls.prepare(&["docs"], Chosen::default()).unwrap_or_else(|error| panic!("{error}"));
        let first = first.sheet.unwrap();
        assert!(!calls.configuration().exists());
        let again = calls.protect(&["docs"]);
        let sheet = again.sheet.expect("nobody has the sheet yet");
        assert_eq!((&*sheet.secret, sheet.repository), (&*first.secret, first.repository));
        assert!(calls.configuration().exists());
    }

    /// Keeps X-9.
    #[test]
    fn a_repository_that_is_gone_is_never_made_anew() {
        let calls = Calls::new();
        calls.protect(&["docs"]);
        let before = std::fs::read(calls.configuration()).unwrap();
        std::fs::create_dir(calls.root.path().join("more")).unwrap();
        let store = calls.around.data.join("main");
        std::fs::remove_dir_all(&store).unwrap();
        // Not mounted, and mounted on nothing: the directory is not there, or is empty.
        for made in [false, true] {
            if made {
                std::fs::create_dir(&store).unwrap();
            }
            let error = calls.prepare(&["docs", "more"], Chosen::default()).err().unwrap();
            assert_eq!(error.code(), ErrorCode::RepositoryMissing);
            let advice = error.advice().unwrap();
            assert!(advice.contains("mounted") && advice.contains("hikae init"), "{advice}");
            assert!(!made || std::fs::read_dir(&store).unwrap().next().is_none());
            assert_eq!(std::fs::read(calls.configuration()).unwrap(), before, "no source was added");
        }
    }

    #[test]
    fn another_repository_in_its_place_is_refused() {
        let calls = Calls::new();
        let other = Calls::new();
        calls.protect(&["docs"]);
        other.protect(&["docs"]);
        // The wrong disk is mounted, and the key would open what is on it.
        let store = calls.around.data.join("main");
        std::fs::remove_dir_all(&store).unwrap();
        std::fs::rename(other.around.data.join("main"), &store).unwrap();
        std::fs::copy(other.around.config.join("main.key"), calls.around.config.join("main.key")).unwrap();
        let error = calls.prepare(&["docs"], Chosen::default()).err().unwrap();
        assert_eq!(error.code(), ErrorCode::RepositoryMissing);
        assert!(error.to_string().contains("and the configuration names"), "{error}");
        assert!(error.advice().unwrap().contains("right disk"));
        // Nor is a new one made under the name of the old.
        std::fs::remove_dir_all(&store).unwrap();
        let config = Config::load(&calls.configuration()).unwrap();
        let place = Place::of(config.repository(None).unwrap().1, None, &calls.around, &calls.cx).unwrap();
        let error = place.init(NewRepositoryOptions::default(), &calls.around, &calls.cx).err().unwrap();
        assert!(matches!(error, OpenError::Named { .. }) && !store.exists());
    }

    #[test]
    fn a_first_call_that_fails_on_its_key_leaves_nothing_in_the_way() {
        let calls = Calls::new();
        let short = zeroize::Zeroizing::new("short".to_owned());
        for (key, code) in [
            (KeyChoice::Passphrase(short), ErrorCode::Usage),
            (KeyChoice::KeyFile(calls.root.path().join("no/such/folder.key")), ErrorCode::Usage),
            (KeyChoice::IdentityFile(calls.root.path().join("no-such.age")), ErrorCode::Usage),
        ] {
            let error =
                calls.prepare(&["docs"], Chosen { key: Some(key), ..Chosen::default() }).err().unwrap();
            assert_eq!(error.code(), code, "{error}");
            assert!(error.advice().is_some(), "{error}");
            assert!(!calls.configuration().exists(), "{error}");
        }
        // A key file that is named and not there is made, as `init` does.
        let file = calls.root.path().join("own.key");
        let chosen = Chosen { key: Some(KeyChoice::KeyFile(file.clone())), ..Chosen::default() };
        let mut prepared = calls.prepare(&["docs"], chosen).unwrap_or_else(|error| panic!("{error}"));
        prepared.write_configuration().unwrap();
        assert!(matches!(&prepared.made[0], Made::KeyFile(made) if *made == file));
        calls.protect(&["docs"]);
    }

    #[test]
    fn what_the_command_line_names_is_what_is_used() {
        let calls = Calls::new();
        let (store, config) = (calls.root.path().join("elsewhere"), calls.root.path().join("own.toml"));
        let chosen = Chosen {
            config: Some(config.clone()),
            store: Some(store.clone()),
            repository: Some("disk".to_owned()),
            ..Chosen::default()
        };
        let mut prepared = calls.prepare(&["docs"], chosen.clone()).unwrap_or_else(|error| panic!("{error}"));
        prepared.write_configuration().unwrap();
        assert!(
            store.join("hikae.json").exists() && config.exists() && !calls.around.data.join("main").exists()
        );
        let (name, repository) = prepared.config.repository(None).unwrap();
        assert_eq!((name, &repository.store), ("disk", &StoreConfig::Directory(store)));
        // With a configuration, another directory or name is used as it is, or not at all.
        for chosen in [
            Chosen { store: Some(calls.root.path().join("third")), ..chosen.clone() },
            Chosen { store: None, repository: Some("main".to_owned()), ..chosen },
        ] {
            let error = calls.prepare(&["docs"], chosen).err().unwrap();
            assert!(matches!(error.code(), ErrorCode::RepositoryMissing | ErrorCode::Usage), "{error}");
        }
        assert!(!calls.root.path().join("third").exists());
    }
}
