//! Opening the archive, and trying again what may pass by itself.

use crate::arguments::Options;
use crate::failure::may_pass;
use hikae_model::{Advise, Cx, ErrorCode, Failure, Hint};
use hikae_repo::private_file;
use hikae_repo::recipient::parse_identities;
use hikae_repo::secret_text::{self, BadSecretText, SecretKind};
use hikae_repo::slot::Unlock;
use hikae_repo::wal::WalArchive;
use hikae_store::{DirectoryStore, Reserve};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

/// How long to wait before the second try; twice as long before each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// And never longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A key file that holds no key.
#[derive(Debug, thiserror::Error)]
#[error("{}", .path.display())]
struct BadKeyFile {
    path: PathBuf,
    source: BadSecretText,
}

impl Advise for BadKeyFile {
    fn code(&self) -> ErrorCode {
        self.source.code()
    }

    fn advice(&self) -> Option<Hint> {
        self.source.advice()
    }
}

/// Opens the archive and does `work` with it. What may pass by itself is tried again, from the start: after a failed sync
/// nothing may be believed of a store that was open then.
pub fn with_archive<T>(
    options: &Options,
    cx: &Cx,
    mut work: impl FnMut(&WalArchive) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let began = cx.elapsed();
    let mut pause = FIRST_PAUSE;
    loop {
        let failure = match open(options, cx).and_then(|archive| work(&archive)) {
            Ok(done) => return Ok(done),
            Err(failure) => failure,
        };
        let left = options.patience.saturating_sub(cx.elapsed().saturating_sub(began));
        if !may_pass(&failure) || left.is_zero() {
            return Err(failure);
        }
        sleep(pause.min(left));
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
}

/// The store, of which no key opens anything yet.
pub fn open_store(options: &Options, cx: &Cx) -> Result<DirectoryStore, Failure> {
    Ok(DirectoryStore::open(&options.store, Reserve::Usual, cx.random_source())?)
}

fn open(options: &Options, cx: &Cx) -> Result<WalArchive, Failure> {
    let store = open_store(options, cx)?;
    let text = private_file::read(&options.key_file)?;
    let key = secret_text::read(SecretKind::KeyFile, &text)
        .map_err(|source| BadKeyFile { path: options.key_file.clone(), source })?;
    let identities = match &options.identity {
        Some(path) => parse_identities(&private_file::read(path)?)?,
        None => Vec::new(),
    };
    Ok(WalArchive::open(Arc::new(store), Unlock::KeyFile(key), identities, &options.cache, cx)?)
}

/// How many threads look ahead: more than cores, because each waits for the disk part of the time. It is a fifth faster
/// where others use the disk.
pub fn threads() -> usize {
    2 * std::thread::available_parallelism().map_or(1, usize::from)
}
