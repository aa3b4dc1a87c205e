//! Looking for landmarks in the log that is kept of a cluster: what was committed about a time, and where a transaction or a
//! restore point is.
//!
//! Times rise along the log as far as the server's clock did, so a time is found by halving. Transactions and names are not
//! in any order: for those all of the log is read, a segment at a time.

use super::cluster::KeptCluster;
use crate::OpsError;
use hikae_model::{Cx, Landmark, LandmarkFinder, LandmarkKind, Lsn, SegmentName, Timeline};
use std::collections::BTreeMap;

/// A part of the log of a cluster, along one timeline.
pub struct LogPart<'a> {
    cluster: &'a KeptCluster,
    page_bytes: u32,
    names: Vec<SegmentName>,
    /// Of segments that were looked through alone.
    seen: BTreeMap<usize, Vec<Landmark>>,
}

/// The commits on both sides of a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Around {
    /// The last that is not after it.
    pub before: Option<Landmark>,
    /// The first that is after it.
    pub after: Option<Landmark>,
}

/// A server that recovers to a time stops at no restore point (`recoveryStopsBefore` in `xlogrecovery.c`).
fn is_commit(landmark: &Landmark) -> bool {
    matches!(landmark.kind, LandmarkKind::Commit(_))
}

impl<'a> LogPart<'a> {
    /// What is kept along `timeline` from `from` to `to`.
    pub fn of(cluster: &'a KeptCluster, timeline: Timeline, from: Lsn, to: Lsn) -> Self {
        let names = cluster.archive.along(timeline, from, to);
        Self { cluster, page_bytes: cluster.wal_page_bytes(), names, seen: BTreeMap::new() }
    }

    /// What was committed about `time`.
    ///
    /// # Errors
    /// Any failure to read the log.
    pub fn around(&mut self, time: jiff::Timestamp, cx: &Cx) -> Result<Around, OpsError> {
        // Every segment before `low` is not after it, and every one from `high` on is, as far as they say anything.
        let (mut low, mut high) = (0, self.names.len());
        while low < high {
            cx.check()?;
            let middle = low + (high - low) / 2;
            let mut at = middle;
            while at < high && self.landmarks(at)?.is_empty() {
                at += 1;
            }
            match self.seen.get(&at).and_then(|found| found.last()).filter(|_| at < high) {
                Some(last) if last.time <= time => low = at + 1,
                _ => high = middle,
            }
        }
        let mut around = Around::default();
        // The segments up to where it is found may hold those before it.
        let mut searched = self.names.len();
        for at in low..self.names.len() {
            let found = self.landmarks(at)?;
            around.after = found.iter().find(|landmark| is_commit(landmark) && landmark.time > time).cloned();
            if around.after.is_some() {
                searched = at + 1;
                break;
            }
        }
        for at in (0..searched).rev() {
            let found = self.landmarks(at)?;
            around.before =
                found.iter().rfind(|landmark| is_commit(landmark) && landmark.time <= time).cloned();
            if around.before.is_some() {
                break;
            }
        }
        Ok(around)
    }

    /// The last landmark that is kept; nothing if there is none.
    ///
    /// # Errors
    /// Any failure to read the log.
    pub fn last(&mut self, cx: &Cx) -> Result<Option<Landmark>, OpsError> {
        for at in (0..self.names.len()).rev() {
            cx.check()?;
            if let Some(last) = self.landmarks(at)?.last() {
                return Ok(Some(last.clone()));
            }
        }
        Ok(None)
    }

    /// A commit, drawn by chance: of a segment, then of what was committed in it. Nothing if the segments that were drawn
    /// have none.
    ///
    /// # Errors
    /// Any failure to read the log.
    pub fn draw(&mut self, cx: &Cx) -> Result<Option<Landmark>, OpsError> {
        /// A log without commits is not read to its end.
        const DRAWS: usize = 8;
        let below = |end: usize| u64::from_le_bytes(cx.random()) as usize % end;
        for _ in 0..DRAWS.min(4 * self.names.len()) {
            cx.check()?;
            let at = below(self.names.len());
            let commits: Vec<&Landmark> =
                self.landmarks(at)?.iter().filter(|found| is_commit(found)).collect();
            if !commits.is_empty() {
                return Ok(Some(commits[below(commits.len())].clone()));
            }
        }
        Ok(None)
    }

    /// Every landmark for which `is_it` holds, in order of the log.
    ///
    /// # Errors
    /// Any failure to read the log.
    pub fn find(&self, is_it: &dyn Fn(&LandmarkKind) -> bool, cx: &Cx) -> Result<Vec<Landmark>, OpsError> {
        let mut finder = LandmarkFinder::new(self.page_bytes);
        let mut found = Vec::new();
        for name in &self.names {
            cx.check()?;
            self.look_through(*name, &mut finder, &mut |landmark| {
                if is_it(&landmark.kind) {
                    found.push(landmark);
                }
            })?;
        }
        Ok(found)
    }

    fn landmarks(&mut self, at: usize) -> Result<&[Landmark], OpsError> {
        if !self.seen.contains_key(&at) {
            let mut found = Vec::new();
            let mut finder = LandmarkFinder::new(self.page_bytes);
            self.look_through(self.names[at], &mut finder, &mut |landmark| found.push(landmark))?;
            self.seen.insert(at, found);
        }
        Ok(&self.seen[&at])
    }

    fn look_through(
        &self,
        name: SegmentName,
        finder: &mut LandmarkFinder,
        show: &mut dyn FnMut(Landmark),
    ) -> Result<(), OpsError> {
        let bytes = self.cluster.segment(name)?;
        if let (Some(bytes), Some(start)) = (bytes, name.start(self.cluster.archive.size)) {
            finder.look_through(start, &bytes, show);
        }
        Ok(())
    }
}
