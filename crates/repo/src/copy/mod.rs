//! Copies: snapshots of one repository brought into another of its family, sealed as they are.
//!
//! ```text
//! which snapshots -> what they need and the target lacks -> packs -> index objects -> records -> one log entry
//! ```
//!
//! - No content is opened, so it takes no identity. All that moves is compared with its name on the way.
//! - A pack moves whole and under its name where at least half of it is wanted and the target has never let that name go.
//!   Of any other, the frames that are wanted move into new packs, as prune moves them.
//! - A snapshot of which anything cannot be had does not come; the report names it, and what was damaged.
//! - Until the entry stands, nothing is there. A copy that died goes on with the packs that it had stored.
//!
//! This module knows snapshots and packs. It does not know which snapshots are wanted, nor where repositories are.

mod carry;
mod complete;
mod heal;
mod let_go;
mod log;
mod needs;

pub use complete::{Completeness, Matched, completeness};
pub use heal::{Healed, heal};
pub use let_go::LetGo;
pub use log::{CopiedLog, copy_log};

use crate::RepoError;
use crate::commit::commit_run;
use crate::layout;
use crate::log::{Change, Commit};
use crate::repo::Repo;
use crate::snapshot::Snapshot;
use carry::Carrier;
use hikae_model::{Cx, PackId, RunId, SnapshotId, sabotage};
use jiff::Timestamp;
use needs::{Holdings, needs, without_any_of};

/// What a copy did.
#[derive(Debug, Default)]
pub struct CopyReport {
    /// The entry of the target's log; nothing if there was nothing to commit.
    pub log_entry: Option<u64>,
    /// The snapshots that came.
    pub copied: Vec<CopiedSnapshot>,
    /// The snapshots that did not, and why.
    pub left: Vec<LeftSnapshot>,
    /// Packs of the source that are damaged or gone, and were not copied.
    pub damaged: Vec<(PackId, RepoError)>,
    /// Packs that moved whole.
    pub n_packs: u64,
    /// Packs that an earlier copy, which died, had stored already.
    pub n_packs_there: u64,
    /// Packs of which only some frames moved.
    pub n_packs_in_part: u64,
    /// Bytes of packs that were stored in the target.
    pub stored_bytes: u64,
}

/// A snapshot that was copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopiedSnapshot {
    /// Its name in the source.
    pub from: SnapshotId,
    /// Its name in the target: the same, unless the target has once let that go.
    pub id: SnapshotId,
    /// Its source.
    pub source: String,
    /// Its moment.
    pub moment: Timestamp,
}

/// A snapshot that was not copied.
#[derive(Debug)]
pub struct LeftSnapshot {
    /// Its name in the source.
    pub id: SnapshotId,
    /// Why; nothing if what it needs is in packs that are damaged.
    pub why: Option<RepoError>,
}

/// A snapshot on its way: as the target will list it, and its stored record.
struct OnItsWay {
    /// The copier stands as its writer: it vouches for what it brought.
    snapshot: Snapshot,
    stored: Vec<u8>,
}

/// Copies those of `wanted` into `to` that it does not know. On `Ok` what the report calls copied is durable there, and in
/// its log.
///
/// # Errors
/// [`RepoError::OtherFamily`], [`RepoError::NoRight`], and any failure of either repository that is no damage of the
/// source. Then nothing has come; another call goes on with what was stored.
pub fn copy(from: &Repo, to: &Repo, wanted: &[SnapshotId], cx: &Cx) -> Result<CopyReport, RepoError> {
    let mut report = CopyReport::default();
    check_family(from, to)?;
    from.follow()?;
    to.check_may(&*to.follow()?, &Change::Commit(Commit::default()))?;
    let let_go = LetGo::read(to)?;
    if to.secret().is_some() {
        to.enrol_writers_of(from)?;
    }
    let target = Holdings::of(to)?;
    let wanted = wanted.iter().copied().filter(|id| !target.state.knows(*id));
    cx.progress().begin("looking for what is missing in", to.store().address(), 0);
    let mut needed = needs(from, &target, wanted, cx)?;
    let mut on_their_way = needed.snapshots;
    report.left.append(&mut needed.left);

    let mut carrier = Carrier::new(from, to, &let_go, cx)?;
    let lost = carrier.carry(needed.lacking)?;
    let carried = carrier.finish()?;
    if !lost.is_empty() && !sabotage::on("copy-in-part") {
        on_their_way = without_any_of(from, on_their_way, &lost, &mut report.left)?;
    }
    report.damaged = carried.damaged.into_iter().collect();
    report.n_packs = carried.n_whole;
    report.n_packs_there = carried.n_there;
    report.n_packs_in_part = carried.n_in_part;
    report.stored_bytes = carried.stored_bytes;
    if on_their_way.is_empty() {
        return Ok(report);
    }

    from.bring_wraps_to(to)?;
    let mut snapshots = Vec::with_capacity(on_their_way.len());
    let mut names = Vec::with_capacity(on_their_way.len());
    for OnItsWay { snapshot, stored } in on_their_way {
        names.push(snapshot.id);
        let is_let_go = let_go.has_let_go_record(snapshot.id) || to.is_doomed_snapshot(snapshot.id);
        snapshots.push(match is_let_go && !sabotage::on("copied-names-recur") {
            true => Snapshot::put(to, &snapshot.record)?,
            false => {
                to.put_named(&layout::snapshot(snapshot.id), &stored)?;
                snapshot
            }
        });
    }
    let run = RunId::from_bytes(cx.random());
    let base = (target.state, target.index);
    let (n, _) = commit_run(to, run, base, carried.segments.into_values(), &mut snapshots)?;
    report.log_entry = Some(n);
    report.copied = names.into_iter().zip(snapshots).map(|(from, copied)| of_copied(from, &copied)).collect();
    Ok(report)
}

fn of_copied(from: SnapshotId, copied: &Snapshot) -> CopiedSnapshot {
    let (source, moment) = (copied.record.source.clone(), copied.record.moment);
    CopiedSnapshot { from, id: copied.id, source, moment }
}

/// Sees that what is sealed in one opens in the other, and that they are two.
///
/// # Errors
/// [`RepoError::OtherFamily`], and [`RepoError::BadKey`] if they are one.
pub fn check_family(from: &Repo, to: &Repo) -> Result<(), RepoError> {
    let (ours, theirs) = (&from.header().core, &to.header().core);
    if ours.repository == theirs.repository {
        let what = format!("{} and {} are one repository", from.store().address(), to.store().address());
        return Err(RepoError::BadKey { what });
    }
    if ours.family != theirs.family {
        let (address, other) = (to.store().address(), from.store().address());
        return Err(RepoError::OtherFamily { address, other });
    }
    Ok(())
}

impl Repo {
    /// Names in the log of `to` the newest wraps of epochs that got one here: who became a recipient later reads what was
    /// written before in the copy too.
    fn bring_wraps_to(&self, to: &Self) -> Result<(), RepoError> {
        let there = to.follow()?;
        for wrapped in self.state().epochs.iter().filter(|epoch| epoch.wrapped_again) {
            if there.epochs.iter().any(|epoch| epoch.epoch == wrapped.epoch) {
                continue;
            }
            let key = layout::slot(wrapped.epoch.object);
            // Compared with its name before it is passed on.
            self.read_epoch(&wrapped.epoch)?;
            to.put_named(&key, &self.store().get(&key)?)?;
            let is_known = there.epochs.iter().any(|epoch| epoch.epoch.id == wrapped.epoch.id);
            // Named a second time it counts as wrapped again: nothing new is written in it.
            for _ in 0..if is_known { 1 } else { 2 } {
                to.append(&mut |_| Ok(Change::Epoch(wrapped.epoch.clone())))?;
            }
        }
        Ok(())
    }
}
