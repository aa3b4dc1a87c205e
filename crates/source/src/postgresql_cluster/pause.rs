//! A pause for a look: the server replays to the target and stands still there, read only, on its own socket, and runs on
//! when we end. Later it is stopped, and started again to open there or to go on.
//!
//! A server only replays forward, so a later target can be gone on to and an earlier one cannot. As it may have been started
//! without syncing, nothing of it is used after the machine was restarted.

use super::control::{self, Control};
use super::drill::{DrillOptions, throw_away};
use super::manifest::Manifest;
use super::recover::{Begun, PLACE, Place, Recovering, SIGNAL, notes, parse_place};
use crate::SourceError;
use crate::postgresql::{
    Connection, Environment, LEFT, PhaseTime, Session, Stopwatch, Vacant, directories, failed, lock_left,
    stop_server_of,
};
use hikae_model::{Cx, ErrorCode, Lsn, sabotage};
use std::path::{Path, PathBuf};

/// What a server says that would need larger settings (`xlogrecovery.c`).
const CANNOT_GO_ON: &str = "insufficient parameter settings";

/// A server that stands still where it was told to.
#[derive(Clone)]
pub struct Paused {
    /// How far it replayed.
    pub place: Place,
    /// The directory in which it runs.
    pub directory: PathBuf,
    /// How to enter it, as its superuser.
    pub connection: Connection,
    /// Whom its files belong to once it is done.
    pub owner: (u32, u32),
    /// The server, as `15.13`.
    pub server_version: String,
    /// How long each phase took.
    pub timings: Vec<PhaseTime>,
    /// What was done differently.
    pub notes: Vec<String>,
}

/// Lets a server replay what was restored in `vacant` up to its target, and stand still there. `is_right` sees how far it
/// came. What `note` gives is kept beside it, and then the server is on its own.
///
/// # Errors
/// [`SourceError`] with what the server said, or what `is_right` found; then there is no server. What was paused before
/// stays, without one.
pub fn pause(
    mut vacant: Vacant,
    recovering: &Recovering<'_>,
    is_right: &dyn Fn(&Place) -> Result<(), SourceError>,
    note: &dyn Fn(&Paused) -> Result<Vec<u8>, SourceError>,
    cx: &Cx,
) -> Result<Paused, SourceError> {
    let (directory, data) = (vacant.directory().to_owned(), vacant.data());
    let mut watch = Stopwatch::new(cx);
    vacant.set("hot_standby", "on");
    let begun = Begun::new(vacant, recovering)?;
    let owner = begun.owner;
    let (mut cluster, disks) = begun.start(cx)?;
    let mut session = Session::enter(cluster.connection(), cx)?;
    let mut place = None;
    let look = || {
        // It is asked to pause by nobody but its target.
        let sql =
            format!("SELECT CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() END::text, {PLACE}");
        let rows = session.query("look at", &sql, &[])?;
        let Some([paused, lsn, time]) = rows.first().map(|row| &row[..]) else { return Ok(false) };
        match paused.as_deref() {
            None => {
                let what = "the server went through its target and opened: nobody could be let in there";
                let advice = "pause at a later point, or recover without a pause";
                Err(failed(ErrorCode::Failure, what.to_owned(), Some(advice.into())))
            }
            Some(paused) => {
                place = parse_place(lsn, time).filter(|_| paused.starts_with('t'));
                Ok(place.is_some())
            }
        }
    };
    cluster.wait_until(look, cx)?;
    drop(session);
    // It also pauses where it cannot go on with sessions in it, and says so.
    if cluster.has_said(CANNOT_GO_ON)? {
        let what = "the server cannot go on to its target and let sessions in".to_owned();
        let advice = "a setting of the source was raised on the way: recover without a pause";
        return Err(failed(ErrorCode::Failure, what, Some(advice.into())));
    }
    let Some(place) = place else {
        return Err(failed(ErrorCode::Failure, "the server does not say how far it came".into(), None));
    };
    watch.lap("replay the log");
    is_right(&place)?;
    Begun::sync(&disks, &data)?;
    watch.lap("sync");
    let paused = Paused {
        place,
        connection: cluster.connection().clone(),
        owner,
        server_version: cluster.version().to_owned(),
        timings: watch.times,
        notes: notes(&cluster),
        directory,
    };
    let (mark, new) = (paused.directory.join(LEFT), paused.directory.join("paused.new"));
    std::fs::write(&new, note(&paused)?)
        .and_then(|()| std::fs::rename(&new, &mark))
        .map_err(|source| SourceError::Io { verb: "write", path: mark, source })?;
    if !sabotage::on("pause-ends-with-us") {
        cluster.run_on();
    }
    Ok(paused)
}

/// The directories below `parent` in which something is paused, with what was noted beside it.
pub fn paused_below(parent: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let noted = |directory: PathBuf| Some((directory.clone(), std::fs::read(directory.join(LEFT)).ok()?));
    directories(parent).into_iter().filter_map(noted).collect()
}

/// Takes what is paused in `directory` into hand: its server is stopped, so that another can be started there with other
/// targets. `sockets` is where it listened.
///
/// # Errors
/// [`SourceError`]: somebody else is at work there, or it cannot be gone on with.
pub fn take_over(
    manifest: &Manifest,
    directory: &Path,
    sockets: &Path,
    server: &DrillOptions,
    environment: &Environment,
    cx: &Cx,
) -> Result<Vacant, SourceError> {
    let options = throw_away(manifest, server);
    let vacant = Vacant::left_at(directory.to_owned(), sockets.to_owned(), &options, environment)?;
    stop_server_of(directory, cx)?;
    if !vacant.data().join(SIGNAL).exists() {
        let what = format!("the server in {} was opened already", directory.display());
        let advice = "give it up with `hikae restore --discard`, and recover anew";
        return Err(failed(ErrorCode::Forbidden, what, Some(advice.into())));
    }
    Ok(vacant)
}

/// From where the server in a directory of ours would replay.
///
/// # Errors
/// [`SourceError`]: its `pg_control` cannot be read.
pub fn replays_from(vacant: &Vacant) -> Result<Lsn, SourceError> {
    let path = vacant.data().join(control::PATH);
    let bytes = std::fs::read(&path).map_err(|source| SourceError::Io {
        verb: "read",
        path: path.clone(),
        source,
    })?;
    let control = Control::parse(&bytes);
    control.map(|control| control.redo).ok_or_else(|| {
        let what = format!("{} is too short", path.display());
        failed(ErrorCode::VerificationFailed, what, None)
    })
}

/// Stops what is paused in `directory`, and removes it. `sockets` is where it listened.
///
/// # Errors
/// [`SourceError`]: somebody else is at work there, or it cannot be removed.
pub fn discard(directory: &Path, sockets: &Path, cx: &Cx) -> Result<(), SourceError> {
    let _lock = lock_left(directory)?;
    stop_server_of(directory, cx)?;
    for place in [sockets, directory] {
        match std::fs::remove_dir_all(place) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(SourceError::Io { verb: "remove", path: place.to_owned(), source });
            }
            _ => {}
        }
    }
    Ok(())
}
