//! Doubts about the log: an entry is damaged or gone, or this is not the copy of the repository that this machine
//! has seen. Who reads is told and goes on; who writes is refused, for what is put after such an end would continue
//! another log than the true one.

use crate::RepoError;
use crate::cbor;
use crate::log::{self, EntryHash, hash_of};
use crate::object::{ObjectClass, open_object, seal_object};
use crate::repo::Repo;
use crate::state::State;
use hikae_model::{Advise, ErrorCode, Hint, sabotage};
use std::io;
use std::path::{Path, PathBuf};

/// Why the log cannot be trusted to be whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// An entry cannot be read, is not there, or does not continue the one before.
    #[error("log entry {n} {why}")]
    Entry {
        /// Its number.
        n: u64,
        /// What is wrong with it.
        why: String,
    },
    /// The log is shorter than this machine has seen it, in this place.
    #[error("log entry {seen} was here once and is gone: this repository was put back to an older state")]
    RolledBack {
        /// The last entry that was seen.
        seen: u64,
        /// Where that is remembered.
        memory: PathBuf,
    },
    /// The log is shorter than this machine has seen it in another place.
    #[error("this copy is older: this machine has seen log entry {seen} in {place}, and it is not here")]
    Older {
        /// The last entry that was seen.
        seen: u64,
        /// Where it was seen.
        place: String,
        /// Where that is remembered.
        memory: PathBuf,
    },
    /// An entry is another one than this machine has seen.
    #[error(
        "log entry {seen} is not the one that this machine has seen in {place}: one of the two was replaced"
    )]
    Another {
        /// The entry.
        seen: u64,
        /// Where it was seen.
        place: String,
        /// Where that is remembered.
        memory: PathBuf,
    },
}

impl Advise for Doubt {
    fn code(&self) -> ErrorCode {
        ErrorCode::VerificationFailed
    }

    fn advice(&self) -> Option<Hint> {
        let text = match self {
            Self::Entry { .. } => {
                "put it back from a copy of the repository with `hikae repo repair --from DIR`; until then nothing is \
                 written, and lists and restores go by the snapshot records"
                    .to_owned()
            }
            Self::RolledBack { memory, .. } | Self::Older { memory, .. } | Self::Another { memory, .. } => {
                let memory = memory.display();
                format!(
                    "restore from it as you need; nothing is written to it. If the newer one is lost for good and \
                         this one is to go on, remove {memory}"
                )
            }
        };
        Some(text.into())
    }
}

/// The last entry that this machine has seen, and in which copy of the repository.
pub(crate) struct Head {
    n: u64,
    hash: String,
    place: String,
}

/// How what this machine has seen of the log compares with what is here.
pub(crate) enum Seen {
    /// It has seen nothing, or what it has seen cannot be read now.
    Nothing,
    /// The last entry that it has seen is here.
    Here(Head),
    /// It is not.
    Otherwise(Doubt),
}

impl Repo {
    /// What who reads has to know of the log; nothing if it is whole as far as one can tell.
    pub fn doubts(&self) -> &[Doubt] {
        &self.doubts
    }

    /// Refuses to write while the log is in doubt.
    ///
    /// # Errors
    /// [`RepoError::LogInDoubt`].
    pub(crate) fn check_no_doubt(&self) -> Result<(), RepoError> {
        if sabotage::on("write-in-doubt") {
            return Ok(());
        }
        self.doubts().first().map_or(Ok(()), |doubt| Err(doubt.clone().into()))
    }

    /// Compares the log with what this machine has seen of it.
    pub(crate) fn compare_with_memory(&self) -> Result<Seen, RepoError> {
        let memory = self.head_memory();
        let Some(head) = read(&memory)? else { return Ok(Seen::Nothing) };
        let here = match head.n {
            0 => Some(hash_of(&self.header().to_bytes())),
            n => match self.read_entry(n) {
                Ok(entry) => entry.map(|(_, _, hash)| hash),
                // That it is damaged is found when the log is read.
                Err(RepoError::Damaged { .. }) => return Ok(Seen::Nothing),
                Err(error) => return Err(error),
            },
        };
        let Head { n: seen, place, .. } = &head;
        let (seen, place) = (*seen, place.clone());
        Ok(match here {
            Some(here) if hex(&here) == head.hash => Seen::Here(head),
            Some(_) => Seen::Otherwise(Doubt::Another { seen, place, memory }),
            None if place == self.store().address() => Seen::Otherwise(Doubt::RolledBack { seen, memory }),
            None => Seen::Otherwise(Doubt::Older { seen, place, memory }),
        })
    }

    /// What held after the last entry that this machine has seen: then the entries up to it need not be read again, each a
    /// question to a far store. It is sealed as a checkpoint is, and believed if this process could have written it.
    pub(crate) fn remembered_state(&self, head: &Head) -> Option<State> {
        if !self.store().is_far() {
            return None;
        }
        let stored = std::fs::read(self.state_memory()).ok()?;
        let context = log::context(self.header().core.repository, head.n);
        let opened = open_object(ObjectClass::Checkpoint, &context, stored, self.keys()).ok()?;
        let state: State = cbor::from_bytes(&opened.body).ok()?;
        let is_ours =
            opened.writer == self.signer().id() && state.repository == self.header().core.repository;
        (is_ours && state.n == head.n && hex(&state.head) == head.hash).then_some(state)
    }

    /// True unless this machine has seen another entry `n` than that of this hash.
    pub(crate) fn remembers_no_other(&self, n: u64, hash: EntryHash) -> Result<bool, RepoError> {
        Ok(read(&self.head_memory())?.is_none_or(|head| head.n != n || head.hash == hex(&hash)))
    }

    /// Remembers `state` and its last entry, unless a later one is remembered already.
    pub(crate) fn remember(&self, state: &State) -> Result<(), RepoError> {
        let head = self.head_memory();
        if !self.doubts().is_empty() || read(&head)?.is_some_and(|head| head.n >= state.n) {
            return Ok(());
        }
        let context = log::context(state.repository, state.n);
        let sealed =
            || seal_object(ObjectClass::Checkpoint, &context, state.to_bytes(), self.keys(), self.signer());
        // The state counts only with the entry that it stands at, which is therefore remembered last.
        if self.store().is_far() {
            replace(&self.state_memory(), &sealed())?;
        }
        let text = format!("{} {} {}\n", state.n, hex(&state.head), self.store().address());
        replace(&head, text.as_bytes())
    }

    fn head_memory(&self) -> PathBuf {
        self.cache().join("head")
    }

    fn state_memory(&self) -> PathBuf {
        self.cache().join("state")
    }
}

/// Puts a file of the cache in place of the one that is there.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), RepoError> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    std::fs::write(&temporary, bytes)
        .and_then(|()| std::fs::rename(&temporary, path))
        .map_err(|source| RepoError::Cache { path: path.to_owned(), source })
}

/// What is remembered at `path`. What is no memory of ours is none: a cache may be deleted at any time.
fn read(path: &Path) -> Result<Option<Head>, RepoError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(RepoError::Cache { path: path.to_owned(), source }),
    };
    let mut words = text.trim_end().splitn(3, ' ');
    let head = || {
        let n = words.next()?.parse().ok()?;
        // A line that was cut short vouches for nothing.
        let hash = words.next().filter(|hash| hash.len() == 2 * size_of::<EntryHash>())?.to_owned();
        Some(Head { n, hash, place: words.next().unwrap_or_default().to_owned() })
    };
    Ok({ head }())
}

fn hex(hash: &EntryHash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}
