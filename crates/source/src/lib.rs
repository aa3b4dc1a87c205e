//! Sources: what we protect, how it is read consistently, and how it is put back and checked.
//!
//! A source reads; it decides nothing and never sees a repository. What it reads goes out as [`Item`]s;
//! what a restore gives it comes in as entries and bytes. The two meet only in `hikae-ops`.

pub mod check;
pub mod files;
pub mod postgresql;
pub mod postgresql_cluster;
pub mod spooled;
pub mod sqlite;

use hikae_model::{Advise, Cut, Cx, Entry, ErrorCode, HashKey, Hint, Problem, ReadContent};
use std::io;
use std::path::PathBuf;

/// Something we protect.
pub trait Source: Send + Sync {
    /// What kind of source this is: `files`, `sqlite`, `postgresql`, `postgresql-rows`, `postgresql-cluster`.
    fn kind(&self) -> &'static str;

    /// Looks, without writing, whether a backup could succeed now: what it finds wrong, each with advice.
    ///
    /// # Errors
    /// [`SourceError`] if the source does not answer at all.
    fn check(&self, cx: &Cx) -> Result<Vec<Problem>, SourceError>;

    /// How many bytes a backup would read now, of a source whose size is known without listing it: a database.
    ///
    /// # Errors
    /// [`SourceError`] if the source does not answer.
    fn size(&self, _cx: &Cx) -> Result<Option<u64>, SourceError> {
        Ok(None)
    }

    /// Starts one consistent reading. Dropping it early leaves the source as it was: no transaction, no
    /// backup mode, no scratch file left behind. `key` keys the hashes of the manifest.
    ///
    /// # Errors
    /// [`SourceError`]: nothing of this source can be backed up now.
    fn begin(&self, key: HashKey, cx: &Cx) -> Result<Box<dyn Reading>, SourceError>;

    /// Name of the source that this one goes on from, for one that holds only what came since.
    fn base(&self) -> Option<&str> {
        None
    }

    /// As [`begin`](Self::begin), where there was something before. A source that has a [`base`](Self::base) goes on from it;
    /// content that a source can tell to be as in its snapshot before says [so](hikae_model::ReadContent::unchanged).
    ///
    /// # Errors
    /// As for [`begin`](Self::begin).
    fn begin_after(
        &self,
        _earlier: &Earlier<'_>,
        key: HashKey,
        cx: &Cx,
    ) -> Result<Box<dyn Reading>, SourceError> {
        self.begin(key, cx)
    }
}

/// What there was before.
#[derive(Clone, Copy)]
pub struct Earlier<'a> {
    /// For a source that holds only what came since: the manifest of its own newest snapshot.
    pub own: Option<&'a [u8]>,
    /// That of the newest complete snapshot of its [`base`](Source::base).
    pub base: Option<&'a [u8]>,
    /// Gives its own newest snapshot, if there is one that can be read.
    pub snapshot: &'a Before<'a>,
}

impl Earlier<'_> {
    /// There was nothing.
    pub const NOTHING: Self = Self { own: None, base: None, snapshot: &|| None };
}

/// Gives a snapshot, if there is one.
pub type Before<'a> = dyn Fn() -> Option<Box<dyn Stored + 'a>> + 'a;

/// One consistent reading of a source, under way.
pub trait Reading: Send {
    /// The next entry, in path order unless [it says otherwise](Self::comes_in_path_order); `None` after the last. Contents may be read later and on another
    /// thread, up to [`lanes`](Self::lanes) of them at once.
    ///
    /// # Errors
    /// [`SourceError`]: the reading as a whole has failed, and nothing of it may be kept as a snapshot.
    fn next(&mut self) -> Result<Option<Item>, SourceError>;

    /// False if entries come as the source has them, in any order: then the content of each is read before the next is asked
    /// for, or never.
    fn comes_in_path_order(&self) -> bool {
        true
    }

    /// How many contents may usefully be read at the same time. At least 1.
    fn lanes(&self) -> usize {
        1
    }

    /// Called after `next` gave `None` and every content that came before was read: true if there is more now, which `next`
    /// gives, in path order after all that came before. For what a source has only when all else of it was read.
    ///
    /// # Errors
    /// As for `next`.
    fn go_on(&mut self) -> Result<bool, SourceError> {
        Ok(false)
    }

    /// Ends the reading, after every content was read: what must hold after a restore, and what was wrong.
    ///
    /// # Errors
    /// [`SourceError`] if the source says at the end that what it gave was not whole.
    fn finish(self: Box<Self>) -> Result<Finished, SourceError>;
}

/// One entry and, for a file, what it holds.
pub struct Item {
    /// The entry. A file's size is what was seen when it was listed, or 0 where that cannot be known; what
    /// counts is what is read.
    pub entry: Entry,
    /// What it holds, for files.
    pub content: Option<Content>,
}

/// What a file holds, not yet opened.
pub struct Content {
    /// How it is to be cut.
    pub cut: Cut,
    /// Reads it.
    pub reader: Box<dyn ReadContent>,
}

/// What a reading says at its end.
#[derive(Debug)]
pub struct Finished {
    /// The one moment that the whole reading shows, or for `files` the moment at which it began.
    pub moment: jiff::Timestamp,
    /// What could not be read. Not empty means that the snapshot is partial.
    pub problems: Vec<Problem>,
    /// What is to be known of the reading. Nothing is missing for it.
    pub notes: Vec<Problem>,
    /// What must hold after a restore (JSON, of the source's own kind and version).
    pub manifest: Option<Vec<u8>>,
}

/// Why a source could not be read or a target not be written. Never a fault of the repository.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It is not there.
    #[error("{} is not there", .path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// The operating system refused or failed.
    #[error("cannot {verb} {}", .path.display())]
    Io {
        /// As `read` or `write`.
        verb: &'static str,
        /// The path.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A setting of this source cannot be.
    #[error("{setting}: {why}")]
    Setting {
        /// Name of the setting.
        setting: String,
        /// What is wrong with it.
        why: String,
    },
    /// A database or a program that we need failed.
    #[error("{what}")]
    Failed {
        /// The kind of failure, for the exit code.
        code: ErrorCode,
        /// What failed, on what, in one sentence; no secrets.
        what: String,
        /// What to do.
        advice: Option<Hint>,
    },
    /// The work was cancelled.
    #[error(transparent)]
    Cancelled(#[from] hikae_model::Cancelled),
}

impl Advise for SourceError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Missing { .. } => ErrorCode::SourceMissing,
            Self::Io { source, .. } => ErrorCode::of_io(source),
            Self::Setting { .. } => ErrorCode::Usage,
            Self::Failed { code, .. } => *code,
            Self::Cancelled(_) => ErrorCode::Interrupted,
        }
    }

    fn advice(&self) -> Option<Hint> {
        match self {
            Self::Missing { .. } => Some("see that the path is right and the disk is mounted".into()),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run hikae as a user who may read and write there".into())
            }
            Self::Failed { advice, .. } => advice.clone(),
            Self::Io { .. } | Self::Setting { .. } | Self::Cancelled(_) => None,
        }
    }
}

/// Why a content of a snapshot could not be read back. It travels inside the [`io::Error`] of [`Stored::open`] and of
/// what that gives, so that damage can be told from a store that does not answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what}")]
pub struct NotReadBack {
    /// The kind of failure, for the exit code.
    pub code: ErrorCode,
    /// What failed, in one sentence.
    pub what: String,
    /// What to do.
    pub advice: Option<Hint>,
}

impl From<NotReadBack> for io::Error {
    fn from(why: NotReadBack) -> Self {
        Self::other(why)
    }
}

impl NotReadBack {
    /// What an error carries, if it is one of reading back.
    pub(crate) fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl SourceError {
    /// For the content called `name` of a snapshot, which could not be read back. An error that does not say why is
    /// taken for damage.
    pub(crate) fn not_read_back(name: impl std::fmt::Display, error: &io::Error) -> Self {
        let what = format!("cannot read {name} of the snapshot: {error}");
        match NotReadBack::of(error) {
            Some(NotReadBack { code: ErrorCode::Interrupted, .. }) => Self::Cancelled(hikae_model::Cancelled),
            Some(why) => Self::Failed { code: why.code, what, advice: why.advice.clone() },
            None => Self::Failed {
                code: ErrorCode::VerificationFailed,
                what,
                advice: Some("run `hikae verify`, and restore another snapshot".into()),
            },
        }
    }
}

/// The files of one snapshot, for a restore that must read them in an order of its own. `hikae-ops`
/// implements it over a repository, tests over a map.
pub trait Stored: Sync {
    /// The entries, in path order.
    fn entries(&self) -> &[Entry];

    /// The manifest that was taken with them.
    fn manifest(&self) -> Option<&[u8]>;

    /// Reads one file from start to end. May be called from several threads.
    ///
    /// # Errors
    /// A [`NotReadBack`] inside says whether what was kept is damaged or missing, or cannot be had now.
    fn open(&self, entry: &Entry) -> io::Result<Box<dyn io::Read + Send + '_>>;
}
