//! The process of the server that runs on a data directory, by the file that it leaves there.
//!
//! A primary and its standby have one system identifier, and for a second the same `pg_control`; their processes differ. What
//! runs on another machine or in another container says nothing here: numbers of processes mean something only where both
//! ends are found among those of this machine.

use super::walk::Root;
use crate::SourceError;
use crate::files::beneath;
use crate::postgresql::Session;
use rustix::fs::{OFlags, ResolveFlags};
use std::io::Read as _;

/// `miscadmin.h`, `pidfile.h`: the first line is the number of the process.
const PATH: &str = "postmaster.pid";
/// What is read of it.
const MAX_BYTES: u64 = 4096;

/// True if the server that a session has entered is seen to be another one than that which runs on the files.
pub(super) fn is_another(session: &mut Session, data: &Root) -> Result<bool, SourceError> {
    let Some(of_files) = of_files(data).filter(|process| parent(*process).is_some()) else {
        return Ok(false);
    };
    let row = session.query("ask who serves", "SELECT pg_backend_pid()::text", &[])?;
    let serves = row.into_iter().next().unwrap_or_default().into_iter().flatten().next();
    let serves_us = serves.and_then(|process| process.parse().ok()).and_then(parent);
    Ok(serves_us.is_some_and(|of_session| of_session != of_files))
}

fn of_files(data: &Root) -> Option<u32> {
    let file = beneath::open(data.fd(), PATH.as_bytes(), OFlags::RDONLY, ResolveFlags::NO_SYMLINKS).ok()?;
    let mut text = String::new();
    std::fs::File::from(file).take(MAX_BYTES).read_to_string(&mut text).ok()?;
    text.lines().next()?.trim().parse().ok()
}

/// The parent of a process of PostgreSQL on this machine, as in `812 (postgres) S 790 …`.
fn parent(process: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, rest) = stat.split_once(" (postgres) ")?;
    rest.split(' ').nth(1)?.parse().ok()
}
