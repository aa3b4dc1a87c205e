//! Files and directories of the server, by their paths: several requests in flight, and every answer looked at.

use super::session::Session;
use crate::answer::Outcome;
use crate::wire::MOST_RESERVED;
use futures_util::{StreamExt, TryStreamExt, stream};
use russh_sftp::client::error::Error;
use russh_sftp::protocol::{File, FileAttributes, OpenFlags, Status, StatusCode};
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Requests of one file that wait for their answers at one time.
const N_IN_FLIGHT: usize = 16;
const PRIVATE_DIRECTORY: u32 = 0o700;
const READ_ONLY: u32 = 0o400;
/// The bits of a mode that tell what it is, and those of a file and of a directory (`inode(7)`).
const KIND: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;

/// A file that is open. It is to be closed; one that was forgotten goes with its connection.
pub(super) struct Opened {
    session: Arc<Session>,
    handle: String,
}

impl Opened {
    /// Opens a file, or a directory to be synced, to read.
    pub async fn to_read(session: &Arc<Session>, path: &str) -> Result<Self, Outcome> {
        Self::open(session, path, OpenFlags::READ, FileAttributes::empty()).await
    }

    /// Makes a file that is not there, read-only for all but this opening.
    pub async fn create(session: &Arc<Session>, path: &str) -> Result<Self, Outcome> {
        let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUDE;
        let attributes = FileAttributes { permissions: Some(READ_ONLY), ..FileAttributes::empty() };
        Self::open(session, path, flags, attributes).await
    }

    async fn open(
        session: &Arc<Session>,
        path: &str,
        flags: OpenFlags,
        attributes: FileAttributes,
    ) -> Result<Self, Outcome> {
        let opened = session.judge(session.sftp.open(path, flags, attributes).await)?;
        Ok(Self { session: session.clone(), handle: opened.handle })
    }

    /// Writes from the start.
    pub async fn write(&self, bytes: &[u8]) -> Result<(), Outcome> {
        let session = &self.session;
        let step = session.can.write_step as usize;
        let parts = (0..bytes.len()).step_by(step).map(|start| async move {
            let part = bytes[start..bytes.len().min(start + step)].to_vec();
            session.judge(session.sftp.write(&self.handle, start as u64, part).await).map(drop)
        });
        stream::iter(parts).buffer_unordered(N_IN_FLIGHT).try_collect::<()>().await
    }

    /// Waits until it is on the disk.
    pub async fn sync(&self) -> Result<(), Outcome> {
        self.session.judge(self.session.sftp.fsync(&self.handle).await).map(drop)
    }

    /// What it is.
    pub async fn attributes(&self) -> Result<FileAttributes, Outcome> {
        Ok(self.session.judge(self.session.sftp.fstat(&self.handle).await)?.attrs)
    }

    /// As much of a range as there is.
    pub async fn read(&self, range: Range<u64>) -> Result<Vec<u8>, Outcome> {
        let step = u64::from(self.session.can.read_step);
        let starts =
            (0..range.end.saturating_sub(range.start).div_ceil(step)).map(|n| range.start + n * step);
        let end = range.end;
        let parts = starts.map(|start| self.read_part(start..(start + step).min(end)));
        let mut parts = stream::iter(parts).buffered(N_IN_FLIGHT);
        let mut bytes = Vec::with_capacity((end - range.start).min(MOST_RESERVED) as usize);
        while let Some((part, is_whole)) = parts.try_next().await? {
            bytes.extend_from_slice(&part);
            if !is_whole {
                break;
            }
        }
        Ok(bytes)
    }

    /// One part, and whether all of it came: a server may send less than it was asked for.
    async fn read_part(&self, range: Range<u64>) -> Result<(Vec<u8>, bool), Outcome> {
        let mut bytes: Vec<u8> = Vec::new();
        loop {
            let at = range.start + bytes.len() as u64;
            let left = (range.end - at) as u32;
            if left == 0 {
                return Ok((bytes, true));
            }
            match self.session.sftp.read(&self.handle, at, left).await {
                // Some say that they did well, and send nothing.
                Err(Error::Status(Status { status_code: StatusCode::Eof | StatusCode::Ok, .. })) => {
                    return Ok((bytes, false));
                }
                read => {
                    let part = self.session.judge(read)?.data;
                    if part.is_empty() || part.len() > left as usize {
                        let what = format!("{} bytes came for {left}", part.len());
                        return Err(Outcome::Passing(io::Error::other(what)));
                    }
                    bytes.extend_from_slice(&part);
                }
            }
        }
    }

    /// Closes it, and waits for the answer: what was written may be refused only now.
    pub async fn close(self) -> Result<(), Outcome> {
        self.session.judge(self.session.sftp.close(self.handle).await).map(drop)
    }

    /// Closes it behind our back, after nothing was written.
    pub fn leave(self) {
        // If it fails, the server closes it with the connection.
        tokio::spawn(async move { self.session.sftp.close(self.handle).await });
    }
}

impl Session {
    /// What stands under a path; no link is followed.
    pub async fn attributes(&self, path: &str) -> Result<FileAttributes, Outcome> {
        Ok(self.judge(self.sftp.lstat(path).await)?.attrs)
    }

    /// Makes a directory, or finds it.
    pub async fn make_directory(&self, path: &str) -> Result<(), Outcome> {
        let attributes = FileAttributes { permissions: Some(PRIVATE_DIRECTORY), ..FileAttributes::empty() };
        match self.judge(self.sftp.mkdir(path, attributes).await) {
            Ok(_) => Ok(()),
            Err(refused @ (Outcome::Failed(_) | Outcome::NotAllowed(_))) => {
                match self.attributes(path).await {
                    Ok(attributes) if is_directory(&attributes) => Ok(()),
                    Ok(_) | Err(_) => Err(refused),
                }
            }
            Err(outcome) => Err(outcome),
        }
    }

    /// Everything in a directory but itself and the one above.
    pub async fn names(&self, path: &str) -> Result<Vec<File>, Outcome> {
        let handle = self.judge(self.sftp.opendir(path).await)?.handle;
        let mut all = Vec::new();
        let read = loop {
            match self.sftp.readdir(handle.as_str()).await {
                Err(Error::Status(status)) if status.status_code == StatusCode::Eof => break Ok(()),
                Ok(some) => {
                    all.extend(
                        some.files.into_iter().filter(|file| !matches!(file.filename.as_str(), "." | "..")),
                    );
                }
                Err(error) => break self.judge(Err(error)),
            }
        };
        self.judge(self.sftp.close(handle).await)?;
        read.map(|()| all)
    }

    /// Removes a file; one that is not there is a success.
    pub async fn remove(&self, path: &str) -> Result<(), Outcome> {
        match self.judge(self.sftp.remove(path).await) {
            Ok(_) | Err(Outcome::NotThere) => Ok(()),
            Err(outcome) => Err(outcome),
        }
    }
}

pub(super) fn is_regular(attributes: &FileAttributes) -> bool {
    attributes.permissions.is_some_and(|mode| mode & KIND == REGULAR)
}

pub(super) fn is_directory(attributes: &FileAttributes) -> bool {
    attributes.permissions.is_some_and(|mode| mode & KIND == DIRECTORY)
}
