//! The `hikae-wal` command: what PostgreSQL calls to archive its write-ahead log and to have it back.
//!
//! ```text
//! archive_command = 'hikae-wal push --store DIR --key-file FILE --cache DIR %p'
//! restore_command = 'hikae-wal get --store DIR --key-file FILE --cache DIR --system ID %f %p'
//! ```
//!
//! PostgreSQL draws conclusions from how it ends (`pgarch.c`, `xlogarchive.c`), so each ending is chosen:
//!
//! - `push`: 0 only when the file is durable in the repository, else 1 to 125. More would end the archiver.
//! - `get` and `take`: 0 when the file is in its place, 1 when there surely is none of its name, else 126. Anything from 2 to 125
//!   would be taken for the end of the log, and the server would open without what comes after it.
//!
//! This file knows endings. What is done is in `push` and `ahead`, `get` and `take`.

mod ahead;
mod archive;
mod arguments;
mod cluster;
mod failure;
mod fetch;
mod get;
mod notes;
mod push;
mod take;

use arguments::Call;
use failure::{bug, show};
use hikae_model::{Cancel, sabotage};
use hikae_repo::clock::system_cx;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// The repository has no file of that name: to PostgreSQL, the end of the log.
const NOT_ARCHIVED: u8 = 1;
/// Recovery must not go on.
const STOP_RECOVERY: u8 = 126;

fn main() -> ExitCode {
    // No core dump has our keys in it, and no other process of our user can look at them.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let call = match Call::parse(std::env::args_os().skip(1)) {
        Ok(call) => call,
        Err(failure) => {
            show(&failure);
            // What it was to be nobody knows. An archiver that is ended starts again and says so; a recovery that took this
            // for the end of the log would lose what comes after it.
            return ExitCode::from(STOP_RECOVERY);
        }
    };
    let cx = system_cx(Cancel::default());
    let run = || match &call {
        Call::Help => {
            print!("{}", arguments::HELP);
            Ok(0)
        }
        Call::Version => {
            println!("hikae-wal {}", hikae_repo::RELEASE);
            Ok(0)
        }
        Call::Push(options, path) => push::push(options, path, &cx).map(|()| 0),
        Call::Ahead(options, pg_wal) => ahead::ahead(options, pg_wal, &cx).map(|()| 0),
        Call::Get(options, wanted) => {
            get::get(options, wanted, &cx).map(|found| if found { 0 } else { NOT_ARCHIVED })
        }
        Call::Take(spool, wanted) => {
            take::take(spool, wanted.name, &wanted.target).map(|found| if found { 0 } else { NOT_ARCHIVED })
        }
    };
    let ended = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err(bug()));
    ExitCode::from(match ended {
        Ok(code) => code,
        Err(failure) => {
            show(&failure);
            match &call {
                Call::Get(..) if sabotage::on("failure-ends-the-log") => NOT_ARCHIVED,
                Call::Get(..) | Call::Take(..) => STOP_RECOVERY,
                // 126 and more would end the archiver.
                _ => Some(failure.code().exit_code()).filter(|code| (1..=125).contains(code)).unwrap_or(1),
            }
        }
    })
}
