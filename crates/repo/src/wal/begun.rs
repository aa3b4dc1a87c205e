//! Segments that are not whole: parts of them, as they came, and what is kept of their beginning.
//!
//! - A part is an object as any file of the log, and is never replaced. Of two that overlap the bytes are the same: who stores
//!   one compares those that are there.
//! - The whole segment stands for all of its parts, and a longer part for those within it. Then they are of no use, and whoever
//!   may prune takes them away; a reader that meets one on its way out looks again.

use super::{WalArchive, WalError};
use crate::RepoError;
use crate::layout;
use crate::log::{Change, Removed};
use crate::object::BadObject;
use hikae_model::{SegmentHeader, SegmentName, SegmentPart, SystemId, WalName, sabotage};
use hikae_store::StoreError;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;

/// How often parts are listed anew because one of them went meanwhile. Each time there are fewer.
const TRIES: u32 = 8;

/// What was had of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    /// All of it.
    Whole,
    /// Its beginning.
    Begun,
}

impl WalArchive {
    /// The parts of a segment that are stored, in order.
    ///
    /// # Errors
    /// Any failure to list the store.
    pub fn parts(&self, system: SystemId, segment: SegmentName) -> Result<Vec<SegmentPart>, RepoError> {
        let mut parts = Vec::new();
        self.unlocked.store.list(&layout::wal_parts(system, segment.timeline), &mut |object| {
            if let Some((_, WalName::Part(part))) = layout::wal_of(&object.key)
                && part.segment == segment
            {
                parts.push(part);
            }
        })?;
        parts.sort_unstable();
        Ok(parts)
    }

    /// Writes a segment to `target`, or as much of its beginning as is kept. Gives nothing if there is nothing of it.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    pub fn get_begun(
        &self,
        system: SystemId,
        segment: SegmentName,
        target: &mut dyn Write,
    ) -> Result<Option<Got>, WalError> {
        for _ in 0..TRIES {
            if self.get(system, segment.into(), target)?.is_some() {
                return Ok(Some(Got::Whole));
            }
            let chain = SegmentPart::chain(self.parts(system, segment)?);
            if chain.is_empty() {
                // The whole one may have come between.
                return Ok(self.get(system, segment.into(), target)?.map(|_| Got::Whole));
            }
            if let Some(begun) = self.join(system, &chain)? {
                target.write_all(&begun).map_err(WalError::Write)?;
                return Ok(Some(Got::Begun));
            }
        }
        Err(RepoError::Store(StoreError::NotFound { key: layout::wal(system, segment.into()) }).into())
    }

    /// Writes a file as a server reads it: behind what is kept of a segment that is not whole there are zeros, to the length
    /// that its first page says. False if there is none of its name, and nothing of it.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    pub fn get_file(&self, system: SystemId, name: WalName, file: &mut File) -> Result<bool, WalError> {
        let WalName::Segment(segment) = name else {
            return Ok(self.get(system, name, file)?.is_some());
        };
        let mut start = Start { bytes: Vec::new(), file };
        match self.get_begun(system, segment, &mut start)? {
            Some(Got::Whole) => Ok(true),
            Some(Got::Begun) => match SegmentHeader::parse(&start.bytes) {
                Ok(header) => {
                    file.set_len(header.segment_size.bytes()).map_err(WalError::Write)?;
                    Ok(true)
                }
                // Less than a header: no record is in it.
                Err(_) => Ok(false),
            },
            None => Ok(false),
        }
    }

    /// Removes the parts that lie within a file, which is the whole segment or a longer part of it, once that is durable. Says
    /// how many they were: none for who may not prune.
    ///
    /// # Errors
    /// Any failure to list or remove them, but a lack of rights.
    pub fn remove_parts_within(&self, system: SystemId, name: WalName) -> Result<usize, RepoError> {
        let (segment, from, to) = match name {
            WalName::Segment(segment) => (segment, 0, u32::MAX),
            WalName::Part(SegmentPart { segment, from, to }) => (segment, from, to),
            WalName::Partial(_) | WalName::Backup(..) | WalName::History(_) => return Ok(0),
        };
        let mut within = self.parts(system, segment)?;
        within.retain(|part| from <= part.from && part.to <= to && WalName::Part(*part) != name);
        if within.is_empty() || !self.may_prune()? {
            return Ok(0);
        }
        if self.settled(system, name)?.is_none() {
            return Ok(0);
        }
        for part in &within {
            match self.unlocked.store.remove(&layout::wal(system, WalName::Part(*part))) {
                Err(
                    StoreError::Permission { .. } | StoreError::Refused { .. } | StoreError::Locked { .. },
                ) => return Ok(0),
                removed => removed?,
            }
        }
        Ok(within.len())
    }

    /// Removes the parts of whole segments, which somebody has left who died or may not prune. Says how many they were.
    ///
    /// # Errors
    /// As for [`remove_parts_within`](Self::remove_parts_within).
    pub fn remove_spent_parts(&self, system: SystemId) -> Result<usize, RepoError> {
        let (mut whole, mut begun) = (BTreeSet::new(), BTreeSet::new());
        self.unlocked.store.list(&layout::wal_directory(system), &mut |object| match layout::wal_of(
            &object.key,
        ) {
            Some((_, WalName::Segment(segment))) => drop(whole.insert(segment)),
            Some((_, WalName::Part(part))) => drop(begun.insert(part.segment)),
            _ => {}
        })?;
        let mut n_removed = 0;
        for segment in begun {
            if whole.contains(&segment) || self.bundled(system, segment, false)?.is_some() {
                n_removed += self.remove_parts_within(system, segment.into())?;
            }
        }
        Ok(n_removed)
    }

    /// Whether we may take parts away that are of no use.
    ///
    /// # Errors
    /// Any failure to read the log of the repository.
    pub fn may_prune(&self) -> Result<bool, RepoError> {
        let repo = self.repo()?;
        let state = repo.follow()?;
        match repo.check_may(&state, &Change::Removed(Removed::default())) {
            Ok(()) => Ok(true),
            Err(RepoError::NoRight { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The bytes of parts that follow each other; nothing if one of them is gone.
    fn join(&self, system: SystemId, chain: &[SegmentPart]) -> Result<Option<Vec<u8>>, WalError> {
        let mut joined: Vec<u8> = Vec::new();
        let forgotten = usize::from(sabotage::on("last-part-forgotten"));
        for part in &chain[..chain.len() - forgotten] {
            let mut bytes = Vec::new();
            let name = WalName::Part(*part);
            match self.get(system, name, &mut bytes) {
                Ok(Some(_)) => {}
                Ok(None) | Err(WalError::Repo(RepoError::Store(StoreError::NotFound { .. }))) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
            // It begins in what is there, or where that ends.
            let common = joined.len() - part.from as usize;
            if bytes.len() != (part.to - part.from) as usize
                || bytes[..common] != joined[part.from as usize..]
            {
                let why = BadObject::BadBody("it does not go with the parts before it".to_owned());
                return Err(RepoError::damaged(layout::wal(system, name))(why).into());
            }
            joined.extend_from_slice(&bytes[common..]);
        }
        Ok(Some(joined))
    }
}

/// Writes to a file, and remembers how that begins.
struct Start<'a> {
    bytes: Vec<u8>,
    file: &'a mut File,
}

impl Write for Start<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.file.write(bytes)?;
        let wanted = SegmentHeader::BYTES.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..n.min(wanted)]);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}
