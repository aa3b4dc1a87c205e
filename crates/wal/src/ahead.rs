//! `ahead`: the process that stores what a server is about to ask for. A call starts it that finds more segments ready than
//! its own, and it outlives that call: so all cores work while the server goes from one call to the next, and a call has
//! only to look whether its segment is durable (`notes`).
//!
//! It ends by itself when nothing has been ready for a while, and at the first failure: the calls then work by themselves,
//! and say what is wrong. It is of the same program, of the session that it makes for itself, and holds nothing of the
//! server's but its directory.

use crate::archive::{open_store, threads, with_archive};
use crate::arguments::Options;
use crate::cluster::{LogFile, current};
use crate::notes::Notes;
use hikae_model::{Cx, Failure, SegmentName, SystemId, WalName};
use hikae_repo::wal::WalArchive;
use hikae_store::Store;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::Duration;

/// How often to look what is ready, while nothing is to be done.
const PAUSE: Duration = Duration::from_millis(10);
/// It ends when there was nothing to do for so long.
const IDLE: Duration = Duration::from_secs(3);

/// Starts the process for the server whose log is in `pg_wal`. Whether it comes up shows in its notes.
pub fn start(options: &Options, pg_wal: &Path) {
    let Ok(program) = std::env::current_exe() else { return };
    let mut command = Command::new(program);
    command.arg("ahead").arg("--store").arg(&options.store).arg("--key-file").arg(&options.key_file);
    command.arg("--cache").arg(&options.cache).args(["--patience", "0", "--ahead"]);
    command.arg(options.ahead.to_string()).arg(pg_wal);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Without it the call works by itself, and the next one tries again.
    drop(command.spawn());
}

/// Stores what the server says is ready in `pg_wal`, until nothing is for a while. Does nothing if another one does so.
///
/// # Errors
/// [`Failure`]: what the calls will find themselves.
pub fn ahead(options: &Options, pg_wal: &Path, cx: &Cx) -> Result<(), Failure> {
    // So that a signal to the server's processes is none to us. It fails for the first of a group only.
    let _ = rustix::process::setsid();
    let Some(system) = current()? else { return Ok(()) };
    let notes = Notes::of(&options.cache, system);
    let Some(_attending) = notes.attend()? else { return Ok(()) };
    let store = open_store(options, cx)?;
    with_archive(options, cx, |archive| {
        let work = Work { archive, store: &store, notes: &notes, system, pg_wal, most: options.ahead, cx };
        let state = Mutex::new(State { busy_at: cx.elapsed(), ..State::default() });
        std::thread::scope(|scope| {
            (1..threads()).for_each(|_| drop(scope.spawn(|| work.run(&state))));
            work.run(&state);
        });
        locked(&state).failed.take().map_or(Ok(()), Err)
    })
}

struct Work<'a> {
    archive: &'a WalArchive,
    store: &'a dyn Store,
    notes: &'a Notes,
    system: SystemId,
    pg_wal: &'a Path,
    /// So many of what is ready are stored ahead of the server.
    most: usize,
    cx: &'a Cx,
}

#[derive(Default)]
struct State {
    /// Begun with or stored, and still said to be ready.
    taken: BTreeSet<SegmentName>,
    n_under_way: usize,
    /// When there was something to do.
    busy_at: Duration,
    failed: Option<Failure>,
    ended: bool,
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Work<'_> {
    fn run(&self, state: &Mutex<State>) {
        loop {
            let chosen = {
                let mut state = locked(state);
                if state.ended {
                    return;
                }
                self.choose(&mut state)
            };
            let Some(segment) = chosen else {
                sleep(PAUSE);
                continue;
            };
            let stored = self.store(segment);
            let mut state = locked(state);
            (state.n_under_way, state.busy_at) = (state.n_under_way - 1, self.cx.elapsed());
            if let Err(failure) = stored {
                state.ended = true;
                state.failed.get_or_insert(failure);
            }
        }
    }

    /// The first that is ready and was not taken yet.
    fn choose(&self, state: &mut State) -> Option<SegmentName> {
        let ready = ready(self.pg_wal);
        state.taken.retain(|segment| ready.contains(segment));
        let next = ready.iter().take(self.most).find(|segment| !state.taken.contains(segment)).copied();
        match next {
            Some(segment) => {
                state.taken.insert(segment);
                state.n_under_way += 1;
            }
            None if state.n_under_way > 0 => {}
            None => state.ended |= self.cx.elapsed().saturating_sub(state.busy_at) >= IDLE,
        }
        next
    }

    fn store(&self, segment: SegmentName) -> Result<(), Failure> {
        let name = WalName::Segment(segment);
        self.notes.begin(name)?;
        let mut log = LogFile::open(&self.pg_wal.join(segment.to_string()), Some(self.system))?;
        self.archive.push(self.system, name, &mut log.file)?;
        self.notes.write(&log, self.store)
    }
}

/// The segments that the server says are ready to be archived, in the order in which it asks. None if it cannot be seen
/// which.
pub fn ready(pg_wal: &Path) -> BTreeSet<SegmentName> {
    let entries = std::fs::read_dir(pg_wal.join("archive_status")).into_iter().flatten().flatten();
    let segments =
        entries.filter_map(|entry| match entry.file_name().to_str()?.strip_suffix(".ready")?.parse() {
            Ok(WalName::Segment(segment)) => Some(segment),
            _ => None,
        });
    segments.collect()
}
