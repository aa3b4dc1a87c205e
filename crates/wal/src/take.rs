//! `take`: put one file where a server wants it that `hikae restore` recovers. No repository, no key: hikae itself fetches
//! what the server will ask for into a directory, and this hands it over.
//!
//! ```text
//! SPOOL/names        every file that will come, one in a line
//! SPOOL/NAME         one of them, whole
//! SPOOL/NAME.failed  why it does not come
//! SPOOL/wanted       the one that a server waits for: written here, removed once it is under way
//! SPOOL/feeder       locked as long as somebody fetches
//! ```
//!
//! Only a name that is not in the list is the end of the log. A file that is still to come is waited for, and whatever else
//! keeps it from coming stops the recovery.

use crate::failure::{of_file, refusal};
use hikae_model::{ErrorCode, Failure, WalName, sabotage};
use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// How often to look whether it has come.
const PAUSE: Duration = Duration::from_millis(2);

/// Moves the file `name` from `spool` to `target`. False if it is none of those that will come.
///
/// # Errors
/// [`Failure`]: it should come and will not.
pub fn take(spool: &Path, name: WalName, target: &Path) -> Result<bool, Failure> {
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|error| of_file("read", path, &error));
    if !read(&spool.join("names"))?.lines().any(|line| line.parse() == Ok(name)) {
        return Ok(false);
    }
    let place = spool.join(name.to_string());
    let failed = spool.join(format!("{name}.failed"));
    loop {
        // Before the place: a feeder that put it there and then ended has done its work.
        let is_fed = is_fed(spool)?;
        match std::fs::rename(&place, target) {
            Ok(()) => {
                drop(std::fs::remove_file(spool.join("wanted")));
                return Ok(true);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && place.symlink_metadata().is_err() => {}
            Err(error) => return Err(of_file("write", target, &error)),
        }
        if failed.exists() {
            let what = format!("{name} could not be fetched: {}", read(&failed)?.trim());
            return Err(refusal(ErrorCode::Failure, what, "see what hikae says"));
        }
        if sabotage::on("to-come-is-the-end") {
            return Ok(false);
        }
        if !is_fed && !sabotage::on("dead-feeder-waited-for") {
            let what = format!("{name} does not come: whoever fetched it has ended");
            return Err(refusal(ErrorCode::SourceMissing, what, "start the restore again"));
        }
        // Whoever fetches takes this away once it is seen to, and may have taken ours for that of the call before.
        if !spool.join("wanted").exists() {
            ask(spool, name)?;
        }
        sleep(PAUSE);
    }
}

/// Whether somebody still fetches.
fn is_fed(spool: &Path) -> Result<bool, Failure> {
    let path = spool.join("feeder");
    let lock = File::open(&path).map_err(|error| of_file("read", &path, &error))?;
    match lock.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(of_file("lock", &path, &error)),
    }
}

/// Says which one is waited for: a server may ask for one that it had before.
fn ask(spool: &Path, name: WalName) -> Result<(), Failure> {
    let (wanted, written) = (spool.join("wanted"), spool.join("wanted.tmp"));
    let done = std::fs::write(&written, name.to_string()).and_then(|()| std::fs::rename(&written, &wanted));
    done.map_err(|error| of_file("write", &wanted, &error))
}
