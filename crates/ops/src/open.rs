//! Making and opening a repository as the configuration or the command line says: store, key, cache.

use crate::config::{RepositoryConfig, SecretError, SecretRef, UnlockConfig};
use crate::keys::check_recipient;
use crate::private_file::{self, PrivateFileError};
use crate::recovery::SheetsDue;
use crate::secret_text::{self, BadSecretText, SecretKind};
use crate::store::{OpenStore, StorePlace};
use crate::surroundings::Surroundings;
use hikae_model::{Advise, Cx, ErrorCode, Hint, Problem, RepositoryId};
use hikae_remote::{S3Error, SftpError};
use hikae_repo::keys::{RepositorySecret, Secret32};
use hikae_repo::recipient::{Identity, parse_identities};
use hikae_repo::slot::{KdfCost, Unlock, Wrap};
use hikae_repo::{InitOptions, NewRepository, Repo, RepoError};
pub use hikae_store::Limit;
use hikae_store::{Reserve, Store, StoreError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// No object is written for as long as this: a file on its way in that is older was left by a run that died. Were it
/// not, its owner would find it gone and fail cleanly.
const LONGEST_PUT: jiff::SignedDuration = jiff::SignedDuration::from_hours(48);

/// What somebody has to open a repository with.
#[derive(Clone)]
pub enum KeyChoice {
    /// A passphrase.
    Passphrase(Zeroizing<String>),
    /// A key file.
    KeyFile(PathBuf),
    /// A file of age or SSH identities.
    IdentityFile(PathBuf),
    /// The text of the recovery sheet.
    Recovery(Zeroizing<String>),
}

/// Why a repository could not be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The repository or its store.
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// A secret could not be had.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A file with a secret cannot be used.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// A key file or a recovery sheet holds no key.
    #[error("{}", .place.display())]
    BadText {
        /// The file.
        place: PathBuf,
        /// What is wrong with it.
        source: BadSecretText,
    },
    /// Another repository stands there than the configuration names.
    #[error("the repository in {address} is {found}, and the configuration names {expected}")]
    Another {
        /// Where it is.
        address: String,
        /// The one that is there.
        found: RepositoryId,
        /// The one that should be.
        expected: RepositoryId,
    },
    /// A new repository is to be made where the configuration names one that was there.
    #[error("the configuration names the repository {expected} in {address}, and a new one would be another")]
    Named {
        /// Where it was.
        address: String,
        /// The one that should be there.
        expected: RepositoryId,
    },
    /// Nothing says what opens it.
    #[error("nothing says what opens the repository in {address}")]
    NoKey {
        /// Where it is.
        address: String,
    },
    /// A bucket cannot be spoken to as it was asked for.
    #[error(transparent)]
    S3(#[from] S3Error),
    /// A directory of another machine cannot be opened.
    #[error(transparent)]
    Sftp(SftpError),
    /// A store that cannot do what a repository rests on.
    #[error("{address} cannot keep a repository: {ability}: {why}")]
    Weak {
        /// Where it is.
        address: String,
        /// What it should be able to do.
        ability: &'static str,
        /// What it does instead.
        why: String,
    },
    /// What should be a place of a store is none.
    #[error("`{text}` is no place of a store")]
    Address {
        /// What was given.
        text: String,
    },
    /// The passphrase is too short to protect anything.
    #[error("the passphrase is shorter than {least} characters")]
    ShortPassphrase {
        /// The least.
        least: usize,
    },
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> Self {
        Self::Repo(error.into())
    }
}

impl From<SftpError> for OpenError {
    fn from(error: SftpError) -> Self {
        match error {
            SftpError::Store(error) => error.into(),
            error => Self::Sftp(error),
        }
    }
}

impl OpenError {
    /// True if a repository was to be made where one is.
    pub fn says_that_it_exists(&self) -> bool {
        matches!(self, Self::Repo(RepoError::RepositoryExists { .. }))
    }
}

impl Advise for OpenError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Repo(error) => error.code(),
            Self::Secret(error) => error.code(),
            Self::File(error) => error.code(),
            Self::BadText { source, .. } => source.code(),
            Self::Another { .. } => ErrorCode::RepositoryMissing,
            Self::S3(error) => error.code(),
            Self::Sftp(error) => error.code(),
            Self::NoKey { .. } => ErrorCode::WrongKey,
            Self::Weak { .. } => ErrorCode::Forbidden,
            Self::ShortPassphrase { .. } | Self::Named { .. } | Self::Address { .. } => ErrorCode::Usage,
        }
    }

    fn advice(&self) -> Option<Hint> {
        match self {
            Self::Repo(error) => error.advice(),
            Self::Secret(error) => error.advice(),
            Self::File(error) => error.advice(),
            Self::BadText { source, .. } => source.advice(),
            Self::Another { .. } => Some(
                "see that the right disk is mounted there; if this one is meant, change `id` in the configuration".into(),
            ),
            Self::Named { .. } => Some(
                "see that its disk is mounted; to begin anew, take `id` out of the configuration first".into(),
            ),
            Self::NoKey { .. } => Some(
                "give --key-file, --passphrase-command, --identity, --recovery or HIKAE_PASSPHRASE, or set `unlock` \
                 in the configuration"
                    .into(),
            ),
            Self::S3(error) => error.advice(),
            Self::Sftp(error) => error.advice(),
            Self::Weak { .. } => Some(
                "two machines that write at once could lose each other's backups there; take a store that makes objects \
                 only where there are none (`If-None-Match: *`)"
                    .into(),
            ),
            Self::Address { .. } => Some(
                "give a path, a bucket as s3:https://server/bucket/prefix, or s3://bucket/prefix for Amazon's, or \
                 sftp://user@server/path"
                    .into(),
            ),
            Self::ShortPassphrase { .. } => Some("choose five or more random words".into()),
        }
    }
}

/// Shortest passphrase that a new key slot takes.
const LEAST_PASSPHRASE: usize = 8;

/// An open repository, and what of its permissions had to be mended.
pub struct Opened {
    /// The repository.
    pub repo: Arc<Repo>,
    /// What others could have read, and what was done about it.
    pub repaired: Vec<Problem>,
}

/// What a repository that is to be made should be.
#[derive(Clone, Copy, Default)]
pub struct NewRepositoryOptions<'a> {
    /// Who can open contents, besides its own identity.
    pub recipients: &'a [String],
    /// This host keeps no key that opens contents.
    pub write_only: bool,
    /// The repository of whose family it is to be; then that one's recipients are its own.
    pub like: Option<&'a Repo>,
}

/// Where a repository is, and what opens it.
#[derive(Clone)]
pub struct Place {
    /// The store.
    pub store: StorePlace,
    /// Which repository it must be, if the configuration says.
    pub id: Option<RepositoryId>,
    /// Free space that packs leave.
    pub reserve: Reserve,
    /// How fast it may be written and read.
    pub limit: Limit,
    /// What opens it.
    pub key: Option<KeyChoice>,
    /// Further identities that open contents.
    pub identities: Vec<PathBuf>,
}

impl Place {
    /// A place that no configuration speaks of.
    pub fn at(store: StorePlace, key: Option<KeyChoice>) -> Self {
        let (reserve, limit) = (Reserve::default(), Limit::default());
        Self { store, id: None, reserve, limit, key, identities: Vec::new() }
    }

    /// The place that the configuration describes. `key` goes before its `unlock`.
    ///
    /// # Errors
    /// [`OpenError::Secret`] if the passphrase cannot be had.
    pub fn of(
        config: &RepositoryConfig,
        key: Option<KeyChoice>,
        around: &Surroundings,
        cx: &Cx,
    ) -> Result<Self, OpenError> {
        let key = match (key, &config.unlock) {
            (Some(key), _) => Some(key),
            (None, Some(UnlockConfig::KeyFile(path))) => Some(KeyChoice::KeyFile(path.clone())),
            (None, Some(UnlockConfig::IdentityFile(path))) => Some(KeyChoice::IdentityFile(path.clone())),
            (None, Some(UnlockConfig::Passphrase(secret))) => {
                Some(KeyChoice::Passphrase(secret.resolve(around, cx)?))
            }
            (None, None) => None,
        };
        let reserve = config.reserve.map_or(Reserve::Usual, |size| Reserve::Bytes(size.as_u64()));
        let store = StorePlace::of(&config.store, around, cx)?;
        let store = match config.lock {
            Some(lock) => store.locked(lock, around),
            None => store,
        };
        let limit =
            Limit { up: config.limit.up.map(|rate| rate.0), down: config.limit.down.map(|rate| rate.0) };
        Ok(Self { store, id: config.id, reserve, limit, key, identities: Vec::new() })
    }

    /// Where it is, for people.
    pub fn address(&self) -> String {
        self.store.address()
    }

    /// True unless it can be seen that no repository is there yet.
    pub fn has_repository(&self, cx: &Cx) -> bool {
        match self.open_store(cx) {
            Ok(store) => has_header(&*store.shared()),
            Err(OpenError::Repo(RepoError::Store(error))) => !is_missing(&error),
            Err(_) => true,
        }
    }

    /// Opens the store, and nothing in it.
    ///
    /// # Errors
    /// [`OpenError::Repo`] if there is none.
    pub fn open_store(&self, cx: &Cx) -> Result<OpenStore, OpenError> {
        self.store.open(self.reserve, cx)
    }

    /// Opens the repository, and takes from others what permissions they have on it.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(&self, around: &Surroundings, cx: &Cx) -> Result<Opened, OpenError> {
        let store = self.open_store(cx)?;
        let (unlock, identities) = self.unlock().map_err(|error| match has_header(&*store.shared()) {
            true => error,
            // On a disk that is not mounted, nothing is wrong with the key.
            false => RepoError::NoRepository { address: self.address() }.into(),
        })?;
        private_file::create_directory(&around.cache)?;
        let repo = Repo::open(self.limit.over(store.shared(), cx), unlock, identities, &around.cache, cx)?;
        let found = repo.header().core.repository;
        if let Some(expected) = self.id.filter(|expected| *expected != found) {
            return Err(OpenError::Another { address: self.address(), found, expected });
        }
        let repaired = tidy_up(&store, cx);
        Ok(Opened { repo: Arc::new(repo), repaired })
    }

    /// What opens the repository, and what else opens contents.
    fn unlock(&self) -> Result<(Unlock, Vec<Identity>), OpenError> {
        let mut identities: Vec<Identity> = Vec::new();
        for path in &self.identities {
            identities.extend(parse_identities(&private_file::read(path)?)?);
        }
        let unlock = match &self.key {
            None => return Err(OpenError::NoKey { address: self.address() }),
            Some(KeyChoice::Passphrase(passphrase)) => Unlock::Passphrase(passphrase.clone()),
            Some(KeyChoice::KeyFile(path)) => Unlock::KeyFile(read_key_file(path)?),
            Some(KeyChoice::IdentityFile(path)) => {
                let text = private_file::read(path)?;
                // Once to open the slot and once to open contents: identities cannot be cloned.
                identities.extend(parse_identities(&text)?);
                Unlock::Identities(parse_identities(&text)?)
            }
            Some(KeyChoice::Recovery(text)) => Unlock::Recovery(read_recovery(text)?),
        };
        Ok((unlock, identities))
    }

    /// Looks whether [`init`](Self::init) would make a repository, and makes nothing. `may_ask` if a key can still be
    /// asked for.
    ///
    /// # Errors
    /// As for [`init`](Self::init).
    pub fn check_init(&self, recipients: &[String], may_ask: bool, cx: &Cx) -> Result<(), OpenError> {
        recipients.iter().try_for_each(|recipient| check_recipient(recipient))?;
        match &self.key {
            None if may_ask => {}
            None | Some(KeyChoice::Recovery(_)) => return Err(OpenError::NoKey { address: self.address() }),
            Some(KeyChoice::Passphrase(given)) => drop(long_enough(given)?),
            Some(KeyChoice::KeyFile(path)) if path.exists() => drop(read_key_file(path)?),
            Some(KeyChoice::KeyFile(_)) => {}
            Some(KeyChoice::IdentityFile(path)) => drop(recipient_of(path)?),
        }
        match self.has_repository(cx) {
            true => Err(RepoError::RepositoryExists { address: self.address() }.into()),
            false => Ok(()),
        }
    }

    /// Makes a repository. Its recovery sheet is due until [`SheetsDue::remove`] is told that it was written.
    ///
    /// # Errors
    /// [`OpenError`], with [`RepoError::RepositoryExists`] if there is one.
    pub fn init(
        &self,
        wanted: NewRepositoryOptions<'_>,
        around: &Surroundings,
        cx: &Cx,
    ) -> Result<NewRepository, OpenError> {
        if let Some(expected) = self.id.filter(|_| !self.has_repository(cx)) {
            return Err(OpenError::Named { address: self.address(), expected });
        }
        let key;
        let passphrase;
        let recipient;
        let wrap = match &self.key {
            None | Some(KeyChoice::Recovery(_)) => return Err(OpenError::NoKey { address: self.address() }),
            Some(KeyChoice::Passphrase(given)) => {
                passphrase = long_enough(given)?;
                Wrap::Passphrase(&passphrase, KdfCost::STANDARD)
            }
            Some(KeyChoice::KeyFile(path)) => {
                key = read_key_file(path)?;
                Wrap::KeyFile(&key)
            }
            Some(KeyChoice::IdentityFile(path)) => {
                recipient = recipient_of(path)?;
                Wrap::Recipient(&recipient)
            }
        };
        let NewRepositoryOptions { recipients, write_only, like } = wanted;
        if let Some(like) = like {
            // Before anything is written.
            like.family_secret()?;
        }
        let options = InitOptions {
            recipients: recipients.to_vec(),
            without_first_identity: write_only && !recipients.is_empty(),
            wrap,
            write_only,
            like,
        };
        private_file::create_directory(&around.cache)?;
        // Before there is a repository: from then on, a death leaves one without its sheet.
        let sheets = SheetsDue::below(&around.data);
        let was_due = sheets.holds(&self.address())?;
        sheets.add(&self.address())?;
        let store = self.store.create(self.reserve, cx)?;
        let made = Repo::init(self.limit.over(store.shared(), cx), &options, &around.cache, cx);
        let made = made.map_err(OpenError::from);
        if !was_due && made.as_ref().is_err_and(OpenError::says_that_it_exists) {
            sheets.remove(&self.address())?;
        }
        made
    }
}

/// True unless it can be seen that no repository is in a store.
fn has_header(store: &dyn Store) -> bool {
    store.stat(&hikae_repo::layout::header()).as_ref().err().is_none_or(|error| !is_missing(error))
}

fn is_missing(error: &StoreError) -> bool {
    matches!(error, StoreError::Missing { .. } | StoreError::NotFound { .. })
}

/// What can be mended in the store of a repository that we may open.
fn tidy_up(store: &OpenStore, cx: &Cx) -> Vec<Problem> {
    // What killed runs left half written. Nothing else rests on it, so who may not remove it reads on.
    if let Ok(before) = cx.now().checked_sub(LONGEST_PUT) {
        drop(store.reclaim_temporary(before));
    }
    // It is a repository, so its modes are ours to mend. A failure to look does not keep anybody from
    // reading; `doctor` looks again.
    store.directory().and_then(|store| store.repair_modes().ok()).unwrap_or_default()
}

/// A passphrase that is worth its name.
///
/// # Errors
/// [`OpenError::ShortPassphrase`].
pub fn long_enough(passphrase: &Zeroizing<String>) -> Result<Zeroizing<String>, OpenError> {
    match passphrase.chars().count() >= LEAST_PASSPHRASE {
        true => Ok(passphrase.clone()),
        false => Err(OpenError::ShortPassphrase { least: LEAST_PASSPHRASE }),
    }
}

/// Makes a key file of mode 0600 with a new random key.
///
/// # Errors
/// [`OpenError::File`], also if the file is there already: a key file is never written over.
pub fn create_key_file(path: &Path, cx: &Cx) -> Result<Secret32, OpenError> {
    let key = Secret32::new(cx.random());
    let text = secret_text::write(SecretKind::KeyFile, &key);
    let file = Zeroizing::new(format!(
        "# A key of a hikae repository. Who has this file and the repository can read every backup.\n{}\n",
        *text
    ));
    private_file::create(path, file.as_bytes())?;
    Ok(key)
}

/// The key file that is there, as a call that died after it may have left it, or else a new one: then true.
///
/// # Errors
/// Those of [`create_key_file`] and [`read_key_file`]: what is there must be a key file.
pub fn make_key_file(path: &Path, cx: &Cx) -> Result<bool, OpenError> {
    match read_key_file(path) {
        Ok(_) => Ok(false),
        Err(OpenError::File(PrivateFileError::Missing { .. })) => create_key_file(path, cx).map(|_| true),
        Err(error) => Err(error),
    }
}

/// Reads a key file.
///
/// # Errors
/// [`OpenError::File`] if others may read it, [`OpenError::BadText`] if it holds no key.
pub fn read_key_file(path: &Path) -> Result<Secret32, OpenError> {
    let text = private_file::read(path)?;
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>();
    let key = Zeroizing::new(lines.join("\n"));
    secret_text::read(SecretKind::KeyFile, &key)
        .map_err(|source| OpenError::BadText { place: path.to_owned(), source })
}

fn read_recovery(text: &str) -> Result<RepositorySecret, OpenError> {
    let secret = secret_text::read(SecretKind::Recovery, text);
    let secret =
        secret.map_err(|source| OpenError::BadText { place: "the recovery sheet".into(), source })?;
    Ok(RepositorySecret::new(*secret.bytes()))
}

/// The recipient whose identity a file holds: age writes it beside, as `# public key: age1…`.
fn recipient_of(path: &Path) -> Result<String, OpenError> {
    let text = private_file::read(path)?;
    let public = text.lines().find_map(|line| line.strip_prefix("# public key: "));
    public.map(|line| line.trim().to_owned()).ok_or_else(|| {
        let what = format!("{} does not say `# public key: age1…`, as age-keygen writes it", path.display());
        OpenError::Repo(RepoError::BadKey { what })
    })
}

/// The passphrase that a command tells.
///
/// # Errors
/// [`SecretError`].
pub fn passphrase_of_command(
    command: &str,
    around: &Surroundings,
    cx: &Cx,
) -> Result<Zeroizing<String>, SecretError> {
    SecretRef::Command(command.split_whitespace().map(str::to_owned).collect()).resolve(around, cx)
}
