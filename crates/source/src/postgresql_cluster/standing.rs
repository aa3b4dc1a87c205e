//! A data directory that is there and is to become another state of the same cluster.
//!
//! As long as that is under way its `pg_control` has another name, so no server starts on it, and whoever comes after one
//! who was killed still sees whose directory it is.

use super::control::{self, Control};
use crate::SourceError;
use crate::postgresql::failed;
use hikae_model::{ErrorCode, SystemId};
use rustix::process::{Pid, test_kill_process};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Name of `pg_control` while the directory is changed.
pub const ASIDE: &str = "global/pg_control.before-restore";

/// What is to be known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandingCluster {
    /// Which cluster it is of.
    pub system: SystemId,
    /// Where its tablespaces are, by number.
    pub tablespaces: BTreeMap<u32, PathBuf>,
}

impl StandingCluster {
    /// Looks at a data directory; nothing if there is none, or it is empty.
    ///
    /// # Errors
    /// [`SourceError`]: it is no data directory, a server runs on it, or its log is kept elsewhere.
    pub fn at(directory: &Path) -> Result<Option<Self>, SourceError> {
        let refuse =
            |what: String, advice: &str| Err(failed(ErrorCode::Forbidden, what, Some(advice.to_owned())));
        let shown = directory.display();
        let is_empty = match std::fs::read_dir(directory) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(source) => {
                return Err(SourceError::Io { verb: "look at", path: directory.to_owned(), source });
            }
        };
        if is_empty {
            return Ok(None);
        }
        let read = |name: &str| std::fs::read(directory.join(name)).ok();
        let control = read(control::PATH).or_else(|| read(ASIDE));
        let Some(control) = control.as_deref().and_then(Control::parse) else {
            let what = format!("{shown} is no data directory: it has no global/pg_control");
            return refuse(what, "name the directory of the cluster that is to be put back, or a new one");
        };
        if let Some(pid) = server_on(directory) {
            let what = format!("a server runs on {shown}, process {pid}");
            return refuse(what, "stop it first; if it is none, remove postmaster.pid");
        }
        let log = directory.join("pg_wal");
        if log.is_symlink() {
            let what = format!("{} leads elsewhere", log.display());
            return refuse(what, "restore into a new directory");
        }
        Ok(Some(Self { system: control.system_id, tablespaces: tablespaces(directory)? }))
    }
}

/// The process that a data directory names as its server, as long as there is one.
fn server_on(directory: &Path) -> Option<i32> {
    let written = std::fs::read_to_string(directory.join("postmaster.pid")).ok()?;
    let pid = Pid::from_raw(written.lines().next()?.trim().parse().ok()?)?;
    // One that we may not signal is there all the same.
    let is_there = !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH));
    is_there.then_some(pid.as_raw_nonzero().get())
}

/// Where the links in `pg_tblspc` lead.
fn tablespaces(directory: &Path) -> Result<BTreeMap<u32, PathBuf>, SourceError> {
    let links = directory.join("pg_tblspc");
    let entries = match std::fs::read_dir(&links) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(source) => return Err(SourceError::Io { verb: "look at", path: links, source }),
    };
    let link = |entry: io::Result<std::fs::DirEntry>| {
        let path = entry.ok()?.path();
        Some((path.file_name()?.to_str()?.parse().ok()?, std::fs::read_link(&path).ok()?))
    };
    Ok(entries.filter_map(link).collect())
}

/// Takes the name of its `pg_control` from a data directory: from here on no server starts on it.
///
/// # Errors
/// [`SourceError::Io`]
pub fn put_aside(directory: &Path) -> Result<(), SourceError> {
    match std::fs::rename(directory.join(control::PATH), directory.join(ASIDE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        // Without it, somebody was killed after that.
        _ => sync_global(directory),
    }
    .map_err(|source| SourceError::Io { verb: "put aside", path: directory.join(control::PATH), source })
}

/// Removes what was put aside, once the new one is there.
///
/// # Errors
/// [`SourceError::Io`]
pub fn remove_aside(directory: &Path) -> Result<(), SourceError> {
    std::fs::remove_file(directory.join(ASIDE))
        .and_then(|()| sync_global(directory))
        .map_err(|source| SourceError::Io { verb: "remove", path: directory.join(ASIDE), source })
}

fn sync_global(directory: &Path) -> io::Result<()> {
    File::open(directory.join("global"))?.sync_all()
}
