//! The feeder: fetches the log that a recovery will read into a directory, ahead of the server, which takes it from there
//! with `hikae-wal take`. So the server needs neither key nor repository, and does not wait.
//!
//! What is in the directory is told where it is taken from: `crates/wal/src/take.rs`.

use crate::OpsError;
use crate::with_causes;
use hikae_model::{Cx, ErrorCode, SystemId, WalName};
use hikae_repo::private_file::create_directory;
use hikae_repo::wal::WalArchive;
use hikae_source::SourceError;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::Duration;

/// How many files wait for the server at most.
const AHEAD: usize = 32;
/// How often to look what the server took, while nothing else is to be done.
const PAUSE: Duration = Duration::from_millis(5);

/// Which log is fed, and to whom.
pub struct Feeding<'a> {
    /// Where it is kept.
    pub archive: &'a WalArchive,
    /// Of which cluster.
    pub system: SystemId,
    /// All that the server may ask for, in the order in which it does.
    pub names: &'a [WalName],
    /// Whom the server runs as, if not as us.
    pub owner: Option<(u32, u32)>,
}

/// Fetches files until it is told to end.
pub struct Feeder<'a> {
    feeding: Feeding<'a>,
    spool: PathBuf,
    /// Held as long as we live. Whoever finds it free knows that nothing more comes.
    lock: File,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The next to be fetched, of those that were not asked for.
    next: usize,
    under_way: BTreeSet<WalName>,
    /// Put there, and not yet taken.
    waiting: BTreeSet<WalName>,
    /// Segments that the server took.
    taken: BTreeSet<WalName>,
    /// Why one of them does not come.
    failed: Option<OpsError>,
    ended: bool,
}

impl<'a> Feeder<'a> {
    /// Makes the directory, which must not be there.
    ///
    /// # Errors
    /// [`SourceError::Io`]
    pub fn new(feeding: Feeding<'a>, spool: PathBuf) -> Result<Self, SourceError> {
        let make = || {
            create_directory(&spool).map_err(|error| io::Error::other(with_causes(&error)))?;
            let names: String = feeding.names.iter().map(|name| format!("{name}\n")).collect();
            std::fs::write(spool.join("names"), names)?;
            let lock = File::create(spool.join("feeder"))?;
            lock.lock()?;
            if let Some((uid, gid)) = feeding.owner {
                for path in [&spool, &spool.join("names"), &spool.join("feeder")] {
                    chown(path, Some(uid), Some(gid))?;
                }
            }
            Ok(lock)
        };
        match make() {
            Ok(lock) => Ok(Self { feeding, spool, lock, state: Mutex::default() }),
            Err(source) => Err(SourceError::Io { verb: "make", path: spool, source }),
        }
    }

    /// The directory.
    pub fn spool(&self) -> &Path {
        &self.spool
    }

    /// Feeds the server while `recover` runs. Gives what that gave, and how many segments the server took.
    ///
    /// # Errors
    /// Why a file that the server waited for could not be fetched, else what `recover` says.
    pub fn while_feeding<T>(
        self,
        recover: impl FnOnce() -> Result<T, OpsError>,
        cx: &Cx,
    ) -> Result<(T, usize), OpsError> {
        let recovered = std::thread::scope(|scope| {
            let threads = 2 * std::thread::available_parallelism().map_or(1, usize::from);
            (0..threads).for_each(|_| drop(scope.spawn(|| self.work(cx))));
            let _ending = Ending(&self);
            recover()
        });
        let mut state = self.state();
        match (recovered, state.failed.take()) {
            (Err(_), Some(failed)) => Err(failed),
            (recovered, _) => {
                self.see_what_was_taken(&mut state);
                let is_segment = |name: &&WalName| matches!(name, WalName::Segment(_));
                Ok((recovered?, state.taken.iter().filter(is_segment).count()))
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, cx: &Cx) {
        let _alive = Alive(self);
        loop {
            let name = {
                let mut state = self.state();
                if state.ended || cx.check().is_err() {
                    return;
                }
                self.choose(&mut state)
            };
            let Some(name) = name else {
                sleep(PAUSE);
                continue;
            };
            let fetched = self.fetch(name);
            let mut state = self.state();
            state.under_way.remove(&name);
            match fetched {
                Ok(()) => drop(state.waiting.insert(name)),
                Err(error) => {
                    // It hears of this one only if it comes so far. Those after it would be of no use.
                    let said = self.put(&format!("{name}.failed"), |file| {
                        file.write_all(with_causes(&error).as_bytes()).map_err(WriteError::Here)
                    });
                    state.next = self.feeding.names.len();
                    state.failed.get_or_insert(error);
                    if said.is_err() {
                        let _ = self.lock.unlock();
                        state.ended = true;
                    }
                }
            }
        }
    }

    /// What to fetch now: what the server waits for, else the next that it will ask for, if not enough of them wait.
    fn choose(&self, state: &mut State) -> Option<WalName> {
        self.see_what_was_taken(state);
        let wanted = std::fs::read_to_string(self.spool.join("wanted")).ok();
        let wanted = wanted.and_then(|name| name.parse::<WalName>().ok());
        let wanted = wanted.and_then(|name| self.feeding.names.iter().position(|listed| *listed == name));
        if let Some(at) = wanted {
            // What stayed here would be fetched once more after it was taken.
            drop(std::fs::remove_file(self.spool.join("wanted")));
            let name = self.feeding.names[at];
            let comes = state.under_way.contains(&name) || state.waiting.contains(&name);
            let failed = self.spool.join(format!("{name}.failed")).exists();
            if !comes && !failed {
                // It does not come back to what it has passed over.
                state.next = state.next.max(at + 1);
                state.under_way.insert(name);
                return Some(name);
            }
        }
        if state.waiting.len() + state.under_way.len() >= AHEAD {
            return None;
        }
        let name = *self.feeding.names.get(state.next)?;
        state.next += 1;
        state.under_way.insert(name);
        Some(name)
    }

    fn see_what_was_taken(&self, state: &mut State) {
        let State { waiting, taken, .. } = state;
        waiting.retain(|name| {
            let waits = self.spool.join(name.to_string()).exists();
            if !waits {
                taken.insert(*name);
            }
            waits
        });
    }

    fn fetch(&self, name: WalName) -> Result<(), OpsError> {
        let Feeding { archive, system, .. } = &self.feeding;
        let put = self.put(&name.to_string(), |file| match archive.get_file(*system, name, file) {
            Ok(true) => Ok(()),
            Ok(false) => {
                let what = format!("{name} was in the repository a moment ago, and is not any more");
                let advice = "see who removes files from the store, and restore again";
                let gone = OpsError::refused(ErrorCode::VerificationFailed, what, Some(advice.into()));
                Err(WriteError::There(gone))
            }
            Err(error) => Err(WriteError::There(error.into())),
        });
        put.map_err(|error| match error {
            WriteError::There(error) => error,
            WriteError::Here(source) => {
                let path = self.spool.join(name.to_string());
                OpsError::of_source("log")(SourceError::Io { verb: "write", path, source })
            }
        })
    }

    /// Writes a file, and gives it its name once it is whole.
    fn put(
        &self,
        name: &str,
        write: impl FnOnce(&mut File) -> Result<(), WriteError>,
    ) -> Result<(), WriteError> {
        let new = self.spool.join(format!("{name}.tmp"));
        write(&mut File::create(&new).map_err(WriteError::Here)?)?;
        if let Some((uid, gid)) = self.feeding.owner {
            chown(&new, Some(uid), Some(gid)).map_err(WriteError::Here)?;
        }
        // Not synced: after a power cut nothing of this recovery is used.
        std::fs::rename(&new, self.spool.join(name)).map_err(WriteError::Here)
    }
}

/// Why a file was not put there.
enum WriteError {
    /// It cannot be written.
    Here(io::Error),
    /// It cannot be had.
    There(OpsError),
}

/// Tells the threads to end, however the recovery ended.
struct Ending<'a, 'f>(&'a Feeder<'f>);

impl Drop for Ending<'_, '_> {
    fn drop(&mut self) {
        self.0.state().ended = true;
    }
}

/// Sets the lock free if a thread panics: the server would wait for what it had in hand.
struct Alive<'a, 'f>(&'a Feeder<'f>);

impl Drop for Alive<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.lock.unlock();
        }
    }
}
