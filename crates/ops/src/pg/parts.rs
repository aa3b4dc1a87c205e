//! The parts of the segment that is being received: each is durable within moments, so that the loss of the server is not the
//! loss of what it had written since its last whole segment.
//!
//! - Parts follow one another. One that was stored by a run before is compared with what comes now: the stream begins anew at
//!   the start of its segment.
//! - As many as [`JOINED`] of one level are joined into one of the next, and go; all go when the whole segment is durable. So a
//!   segment that fills for days does not end as thousands of objects, and each byte is stored anew a few times at most.

use crate::OpsError;
use hikae_model::{Cx, SegmentName, SegmentPart, SystemId, WalName, sabotage};
use hikae_repo::RepoError;
use hikae_repo::wal::{Pushed, WalArchive};

/// So many parts become one.
const JOINED: usize = 32;

/// What is kept of the segment under way.
pub(super) struct Parts<'a> {
    archive: &'a WalArchive,
    system: SystemId,
    cx: &'a Cx,
    segment: Option<SegmentName>,
    /// Those that follow one another from the beginning, with the level of each.
    chain: Vec<(SegmentPart, u32)>,
    /// Those that were there, and were not compared yet: the stream did not come so far.
    unseen: Vec<SegmentPart>,
    /// Parts that were stored, and their length in the repository.
    pub(super) n_stored: u64,
    pub(super) stored_bytes: u64,
}

impl<'a> Parts<'a> {
    /// Begins, and removes what a run before has left that is of no use any more.
    pub(super) fn new(archive: &'a WalArchive, system: SystemId, cx: &'a Cx) -> Self {
        let (chain, unseen) = (Vec::new(), Vec::new());
        let parts = Self { archive, system, cx, segment: None, chain, unseen, n_stored: 0, stored_bytes: 0 };
        parts.tell_failure(archive.remove_spent_parts(system));
        parts
    }

    /// Keeps `bytes`, which is the beginning of `segment`. On `Ok` all of it is durable.
    pub(super) fn keep(&mut self, segment: SegmentName, bytes: &[u8]) -> Result<(), OpsError> {
        self.turn_to(segment)?;
        self.compare(bytes)?;
        let from = self.chain.last().map_or(0, |(last, _)| last.to);
        // No segment is longer than 1 GiB.
        let Some(part) = SegmentPart::new(segment, from, bytes.len() as u32) else { return Ok(()) };
        if !sabotage::on("received-is-durable") {
            self.store(part, bytes)?;
        }
        self.chain.push((part, 0));
        self.join(bytes)
    }

    /// Compares with `segment`, which has come whole, what was kept of it. Then it can be stored.
    pub(super) fn check(&mut self, segment: SegmentName, bytes: &[u8]) -> Result<(), OpsError> {
        self.turn_to(segment)?;
        self.compare(bytes)
    }

    /// Removes the parts of `segment`, which is durable.
    pub(super) fn give_up(&mut self, segment: SegmentName) {
        self.remove_within(segment.into());
        (self.segment, self.chain) = (None, Vec::new());
    }

    /// What cannot be removed costs room and does no harm.
    fn remove_within(&self, name: WalName) {
        self.tell_failure(self.archive.remove_parts_within(self.system, name));
    }

    fn tell_failure(&self, removed: Result<usize, RepoError>) {
        if let Err(error) = removed {
            self.cx.tell("parts", &self.system.to_string(), format!("spent parts were not removed: {error}"));
        }
    }

    fn turn_to(&mut self, segment: SegmentName) -> Result<(), OpsError> {
        if self.segment != Some(segment) {
            self.unseen = self.archive.parts(self.system, segment)?;
            (self.segment, self.chain) = (Some(segment), Vec::new());
        }
        Ok(())
    }

    /// Sees that what is stored of the segment is what comes now, as far as it came.
    fn compare(&mut self, bytes: &[u8]) -> Result<(), OpsError> {
        let mut seen = Vec::new();
        for part in std::mem::take(&mut self.unseen) {
            match bytes.get(part.from as usize..part.to as usize) {
                Some(mut content) => {
                    let is_there = sabotage::on("parts-uncompared")
                        || self.archive.confirm(self.system, WalName::Part(part), &mut content)?;
                    if is_there {
                        seen.push(part);
                    }
                }
                None => self.unseen.push(part),
            }
        }
        if !seen.is_empty() {
            seen.extend(self.chain.iter().map(|(part, _)| *part));
            self.chain = SegmentPart::chain(seen).into_iter().map(|part| (part, 0)).collect();
        }
        Ok(())
    }

    /// Joins the last parts, as long as there are enough of one level.
    fn join(&mut self, bytes: &[u8]) -> Result<(), OpsError> {
        while let Some(first) = self.chain.len().checked_sub(JOINED) {
            let (last, level) = self.chain[self.chain.len() - 1];
            let are_alike = self.chain[first..].iter().all(|(_, of)| *of == level);
            // Who cannot remove them would only store them twice.
            if !are_alike || !self.archive.may_prune()? {
                return Ok(());
            }
            let joined = SegmentPart { from: self.chain[first].0.from, ..last };
            self.store(joined, bytes)?;
            self.remove_within(WalName::Part(joined));
            self.chain.truncate(first);
            self.chain.push((joined, level + 1));
        }
        Ok(())
    }

    fn store(&mut self, part: SegmentPart, bytes: &[u8]) -> Result<(), OpsError> {
        let mut content = &bytes[part.from as usize..part.to as usize];
        let pushed = self.archive.push(self.system, WalName::Part(part), &mut content);
        if let Pushed::Stored { stored_bytes } = pushed? {
            self.n_stored += 1;
            self.stored_bytes += stored_bytes;
        }
        Ok(())
    }
}
