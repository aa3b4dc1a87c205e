//! A recovery that we run ourselves: a server of our own replays the log on restored files, opens at the target, and is shut
//! down; what it leaves is a cluster as any other, for the server that it is meant for.
//!
//! ```text
//! (the files are restored there) -> own configuration -> start, replay, open -> how far? -> stop -> configuration back
//!   -> all on the disk -> the data directory takes its name
//! ```
//!
//! As in a drill nothing of the source's configuration is used. It comes back as it was before the directory has its name.
//!
//! The server enters no session before it is done (`hot_standby = off`): so it takes settings that were smaller than the
//! source's, and no session is ever in its way. One that is to pause for a look ([`pause`](super::pause())) lets sessions in.

use super::backup_manifest;
use super::control::{self, Control};
use super::drill::fault_of_files;
use super::manifest::Manifest;
use crate::SourceError;
use crate::postgresql::{
    Begins, Cluster, Connection, PhaseTime, Session, Stopwatch, Vacant, failed, give_tree,
};
use hikae_model::{Cx, ErrorCode, Lsn, Timeline, WalName, sabotage};
use jiff::Timestamp;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Configuration that the data directory may hold, and that is not used meanwhile.
const CONFIGURATION: [&str; 2] = ["postgresql.conf", "postgresql.auto.conf"];

/// With this file in the data directory a server recovers.
pub(super) const SIGNAL: &str = "recovery.signal";

/// Where the server gets its log from.
#[derive(Clone, Copy, Debug)]
pub struct Feed<'a> {
    /// The program `hikae-wal`.
    pub program: &'a Path,
    /// The directory from which it takes what was fetched.
    pub spool: &'a Path,
}

impl Feed<'_> {
    /// What the server runs for each file, in a shell.
    fn command(&self) -> String {
        // The server replaces what stands after `%` before the shell sees it.
        let quoted =
            |path: &Path| format!("'{}'", path.to_string_lossy().replace('\'', r"'\''").replace('%', "%%"));
        format!("{} take {} %f %p", quoted(self.program), quoted(self.spool))
    }
}

/// What is recovered, and where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Recovering<'a> {
    /// The base backup.
    pub manifest: &'a Manifest,
    /// Settings that say how far.
    pub settings: &'a [(String, String)],
    /// The log.
    pub feed: Feed<'a>,
    /// Where its tablespaces were restored.
    pub tablespaces: &'a [PathBuf],
    /// The name that the data directory takes: not there, or empty, and on the file system on which it was restored.
    pub directory: &'a Path,
    /// Whom its files belonged to, if it was begun before and paused since.
    pub paused: Option<(u32, u32)>,
}

/// How far a server replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The end of the last record that was replayed.
    pub lsn: Lsn,
    /// When the last transaction ended that the server counts: one at which it stopped for a place in the log is not among
    /// them. None if there was none after the base backup began.
    pub time: Option<Timestamp>,
}

/// How far a recovery came.
#[derive(Clone, Debug)]
pub struct Reached {
    /// Where it ended.
    pub place: Place,
    /// The timeline that begins there.
    pub timeline: Timeline,
    /// The server that did it, as `15.13`.
    pub server_version: String,
    /// How long each phase took.
    pub timings: Vec<PhaseTime>,
    /// What was done differently.
    pub notes: Vec<String>,
}

/// A recovery that may begin: what a server needs is where it looks for it.
pub(super) struct Begun {
    pub(super) vacant: Vacant,
    /// Whom the files belonged to, and will again.
    pub(super) owner: (u32, u32),
    /// Open from before the first write on, they tell of every one that fails.
    disks: Vec<File>,
}

impl Begun {
    /// Makes what was restored in `vacant` ready for a server that recovers it.
    pub(super) fn new(mut vacant: Vacant, recovering: &Recovering<'_>) -> Result<Self, SourceError> {
        let Recovering { settings, feed, .. } = recovering;
        let data = vacant.data();
        let of_data = |source| SourceError::Io { verb: "use", path: data.clone(), source };
        let found = std::fs::metadata(&data).map(|found| (found.uid(), found.gid())).map_err(of_data)?;
        let disks = recovering.places(&data).map(File::open).collect::<io::Result<_>>().map_err(of_data)?;
        vacant.see_reachable(feed.program)?;
        vacant.set("restore_command", feed.command());
        settings.iter().for_each(|(name, value)| vacant.set(name, value.as_str()));
        if let Some(owner) = recovering.paused {
            return Ok(Self { vacant, owner, disks });
        }
        Configuration::of(&vacant)
            .put_aside()
            .and_then(|()| std::fs::write(data.join(SIGNAL), ""))
            .map_err(of_data)?;
        if let Some(server) = vacant.owner() {
            recovering.places(&data).try_for_each(|place| give_tree(place, server))?;
        }
        Ok(Self { vacant, owner: found, disks })
    }

    /// Sees that all that was written is on the disk.
    pub(super) fn sync(disks: &[File], data: &Path) -> Result<(), SourceError> {
        disks.iter().try_for_each(rustix::fs::syncfs).map_err(|error| SourceError::Io {
            verb: "use",
            path: data.to_owned(),
            source: error.into(),
        })
    }

    /// Starts the server, and waits until it lets sessions in.
    pub(super) fn start(self, cx: &Cx) -> Result<(Cluster, Vec<File>), SourceError> {
        cx.progress().begin("recovering", "the cluster", 0);
        let cluster = self.vacant.start(Begins::Recovering, "template1", cx).map_err(fault_of_files)?;
        Ok((cluster, self.disks))
    }
}

impl Recovering<'_> {
    /// Where the files are of which the data directory is `data`.
    fn places<'p>(&'p self, data: &'p PathBuf) -> impl Iterator<Item = &'p PathBuf> {
        [data].into_iter().chain(self.tablespaces)
    }
}

/// What to know of a server that recovered.
pub(super) fn notes(cluster: &Cluster) -> Vec<String> {
    match cluster.is_fenced() {
        true => Vec::new(),
        false => vec!["the server could have reached the network: no namespace can be made here".to_owned()],
    }
}

/// A server that recovered, and opened.
struct Opened<'c> {
    cluster: Cluster,
    reached: Reached,
    owner: (u32, u32),
    disks: Vec<File>,
    watch: Stopwatch<'c>,
}

/// Lets a server recover what was restored in `vacant`, and open.
fn open<'c>(
    mut vacant: Vacant,
    recovering: &Recovering<'_>,
    is_right: &dyn Fn(&Place) -> Result<(), SourceError>,
    cx: &'c Cx,
) -> Result<Opened<'c>, SourceError> {
    vacant.set("hot_standby", "off");
    let mut watch = Stopwatch::new(cx);
    let begun = Begun::new(vacant, recovering)?;
    let owner = begun.owner;
    let (cluster, disks) = begun.start(cx)?;
    let mut reached = reached(cluster.connection(), cx)?;
    watch.lap("replay the log");
    reached.server_version = cluster.version().to_owned();
    reached.notes = notes(&cluster);
    is_right(&reached.place)?;
    Ok(Opened { cluster, reached, owner, disks, watch })
}

/// Lets a server recover what was restored in `vacant`. `is_right` sees what was reached before anything has its name.
///
/// # Errors
/// [`SourceError`] with what the server said, or what `is_right` found; then there is no directory of that name.
pub fn recover(
    vacant: Vacant,
    recovering: &Recovering<'_>,
    is_right: &dyn Fn(&Place) -> Result<(), SourceError>,
    cx: &Cx,
) -> Result<Reached, SourceError> {
    let Recovering { manifest, directory, .. } = recovering;
    let data = vacant.data();
    let of_data = |source| SourceError::Io { verb: "use", path: data.clone(), source };
    let server_owner = vacant.owner();
    let configuration = Configuration::of(&vacant);
    let Opened { mut cluster, mut reached, owner, disks, mut watch } =
        open(vacant, recovering, is_right, cx)?;
    cluster.stop(cx)?;
    see_shut_down(&data, manifest)?;
    watch.lap("stop");

    let back = if sabotage::on("configuration-stays-away") { Ok(()) } else { configuration.put_back() };
    back.and_then(|()| leave_as_found(&data, reached.timeline)).map_err(of_data)?;
    if server_owner.is_some_and(|server| server != owner) {
        recovering.places(&data).try_for_each(|place| give_tree(place, owner))?;
    }
    Begun::sync(&disks, &data)?;
    let named = std::fs::rename(&data, directory).and_then(|()| match directory.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    });
    named.map_err(|source| SourceError::Io { verb: "make", path: directory.to_path_buf(), source })?;
    cluster.forget();
    watch.lap("put in place");
    reached.timings = watch.times;
    Ok(reached)
}

/// Lets a server recover what was restored in `vacant`, to be read as long as the [`Cluster`] lives. It goes with that.
///
/// # Errors
/// [`SourceError`] with what the server said, or what `is_right` found.
pub fn recover_to_read(
    vacant: Vacant,
    recovering: &Recovering<'_>,
    is_right: &dyn Fn(&Place) -> Result<(), SourceError>,
    cx: &Cx,
) -> Result<(Cluster, Reached), SourceError> {
    let Opened { cluster, mut reached, watch, .. } = open(vacant, recovering, is_right, cx)?;
    reached.timings = watch.times;
    Ok((cluster, reached))
}

/// How a server says how far it replayed, in two columns.
pub(super) const PLACE: &str = "pg_last_wal_replay_lsn()::text, \
    to_char(pg_last_xact_replay_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";

/// Reads these columns.
pub(super) fn parse_place(lsn: &Option<String>, time: &Option<String>) -> Option<Place> {
    let time = match time {
        Some(time) => Some(time.parse().ok()?),
        None => None,
    };
    Some(Place { lsn: lsn.as_ref()?.parse().ok()?, time })
}

/// What the server says of how far it came.
fn reached(connection: &Connection, cx: &Cx) -> Result<Reached, SourceError> {
    let look = format!(
        "SELECT {PLACE}, left(pg_walfile_name(pg_current_wal_insert_lsn()), 8), pg_is_in_recovery()::text"
    );
    let mut session = Session::enter(connection, cx)?;
    let rows = session.query("look at", &look, &[])?;
    let parse = || {
        let [lsn, time, timeline, in_recovery] = &rows.first()?[..] else { return None };
        in_recovery.as_deref().filter(|text| !text.starts_with('t'))?;
        Some(Reached {
            place: parse_place(lsn, time)?,
            timeline: u32::from_str_radix(timeline.as_ref()?, 16).ok().and_then(Timeline::new)?,
            server_version: String::new(),
            timings: Vec::new(),
            notes: Vec::new(),
        })
    };
    parse().ok_or_else(|| {
        let what = format!("the server does not say how far it came: {rows:?}");
        failed(ErrorCode::Failure, what, None)
    })
}

/// Sees that all of it is in the files: a server that was ended otherwise would have to recover once more.
fn see_shut_down(data: &Path, manifest: &Manifest) -> Result<(), SourceError> {
    let path = data.join(control::PATH);
    let bytes = std::fs::read(&path).map_err(|source| SourceError::Io { verb: "read", path, source })?;
    match Control::parse(&bytes) {
        Some(control) if control.is_shut_down && control.system_id.to_string() == manifest.system_id => {
            Ok(())
        }
        _ => {
            let what = "the server that recovered was not shut down in order".to_owned();
            Err(failed(ErrorCode::Failure, what, None))
        }
    }
}

/// Takes away what only our server needed, and leaves what the next one would miss.
fn leave_as_found(data: &Path, timeline: Timeline) -> io::Result<()> {
    // The manifest was of the files as they were before the recovery.
    for name in [SIGNAL, "postmaster.opts", backup_manifest::NAME] {
        match std::fs::remove_file(data.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    // A server that archives tells its archiver of the history that it begins, once. Ours did not archive: without this
    // nobody would ever archive it, and no recovery could follow the new timeline.
    let history = WalName::History(timeline).to_string();
    if data.join("pg_wal").join(&history).exists() {
        let mark = data.join("pg_wal/archive_status").join(format!("{history}.ready"));
        std::fs::write(&mark, "")?;
        let owner = std::fs::metadata(data)?;
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&mark, Some(owner.uid()), Some(owner.gid()))?;
        }
    }
    Ok(())
}

/// The configuration in a data directory, out of the way.
struct Configuration {
    data: PathBuf,
    aside: PathBuf,
}

impl Configuration {
    fn of(vacant: &Vacant) -> Self {
        Self { data: vacant.data(), aside: vacant.directory().to_owned() }
    }

    fn put_aside(&self) -> io::Result<()> {
        for name in CONFIGURATION {
            let path = self.data.join(name);
            match std::fs::rename(&path, self.aside.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => std::fs::write(path, "")?, // the server does not start without them
            }
        }
        Ok(())
    }

    fn put_back(&self) -> io::Result<()> {
        for name in CONFIGURATION {
            let path = self.data.join(name);
            match std::fs::rename(self.aside.join(name), &path) {
                // Where the configuration is elsewhere there was none.
                Err(error) if error.kind() == io::ErrorKind::NotFound => std::fs::remove_file(path)?,
                done => done?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_leave_its_word_of_the_command() {
        let feed = Feed { program: Path::new("/opt/it's 100%/hikae-wal"), spool: Path::new("/srv/a b") };
        assert_eq!(feed.command(), r"'/opt/it'\''s 100%%/hikae-wal' take '/srv/a b' %f %p");
    }
}
