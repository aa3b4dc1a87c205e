//! Forget: snapshots go from the list. What they alone needed goes with the next prune; until it is removed
//! they can be brought back.
//!
//! A plan says of every snapshot whether it goes and why. It is made on the newest state and put as the entry
//! right after it: if somebody else was faster, it is made again, so that no two forgets together take what
//! neither would take alone.

use crate::RepoError;
use crate::lease::Lease;
use crate::log::{Change, Forget};
use crate::repo::Repo;
use crate::retention::{Kept, KeptBy, Retention, kept};
use crate::state::{SnapshotState, State};
use hikae_model::{Cx, RunId, SnapshotId, sabotage};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What should be forgotten.
#[derive(Clone, Debug)]
pub enum ToForget {
    /// What a rule does not keep.
    Rule {
        /// Of this source, or of each.
        source_name: Option<String>,
        /// The rule.
        retention: Box<Retention>,
        /// Where its days begin.
        time_zone: TimeZone,
        /// These stay whatever it says: base backups without which the present could not be reached.
        leading: BTreeSet<SnapshotId>,
    },
    /// These.
    Snapshots(BTreeSet<SnapshotId>),
}

/// What may go that otherwise may not.
#[derive(Clone, Copy, Debug, Default)]
pub struct ForgetOptions {
    /// Also the newest verified and the newest complete snapshot of a source.
    pub even_last: bool,
    /// Also more than ten snapshots that are more than a fifth of all.
    pub even_many: bool,
}

/// Why nothing was forgotten.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForgetRefused {
    /// There is no such snapshot.
    #[error("there is no snapshot {}", .id.short())]
    Unknown {
        /// The name.
        id: SnapshotId,
    },
    /// It is the last of its kind.
    #[error("snapshot {} of {source_name} stays: {why}", .id.short())]
    Last {
        /// The snapshot.
        id: SnapshotId,
        /// Its source.
        source_name: String,
        /// What it is the last of.
        why: KeptBy,
    },
    /// Many at once: a mistake in a rule looks like that.
    #[error("this would forget {n} of {n_snapshots} snapshots")]
    Many {
        /// How many would go.
        n: usize,
        /// How many there are.
        n_snapshots: usize,
    },
}

impl ForgetRefused {
    /// What to do.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "see `hikae list`",
            Self::Last { .. } => "back it up again first, or give --even-last",
            Self::Many { .. } => "look at it with --dry-run, then give --even-many",
        }
    }
}

/// What a forget will do.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ForgetPlan {
    /// The entry of the log on which it was made.
    pub n: u64,
    /// Every snapshot that was looked at, by source, newest first.
    pub snapshots: Vec<PlannedSnapshot>,
}

/// One snapshot of a plan.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PlannedSnapshot {
    /// Its name.
    pub id: SnapshotId,
    /// Its source.
    pub source_name: String,
    /// The moment that it shows.
    pub moment: Timestamp,
    /// Nothing of the source is missing.
    pub complete: bool,
    /// Why it stays. If nothing keeps it, it goes.
    pub kept_by: BTreeSet<KeptBy>,
}

impl PlannedSnapshot {
    /// True if it stays.
    pub fn is_kept(&self) -> bool {
        !self.kept_by.is_empty()
    }
}

impl ForgetPlan {
    /// The snapshots that go.
    pub fn forgotten(&self) -> impl Iterator<Item = &PlannedSnapshot> {
        self.snapshots.iter().filter(|snapshot| !snapshot.is_kept())
    }
}

/// What a forget did.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ForgetReport {
    /// The plan that was obeyed.
    pub plan: ForgetPlan,
    /// Its entry in the log; nothing if nothing was to go.
    pub n: Option<u64>,
}

/// Decides which snapshots go. Pure. A snapshot that is set aside is nobody's last and takes no other's place; it
/// goes only if it is named.
///
/// # Errors
/// [`ForgetRefused`] if it asks for what may not go. A rule never asks for the last of anything: that simply
/// stays.
pub fn plan_forget(
    state: &State,
    what: &ToForget,
    options: ForgetOptions,
    now: Timestamp,
) -> Result<ForgetPlan, ForgetRefused> {
    let mut sources: BTreeMap<&str, Vec<&SnapshotState>> = BTreeMap::new();
    for snapshot in state.all_newest_first(None) {
        sources.entry(&snapshot.snapshot.source).or_default().push(snapshot);
    }
    let mut plan = ForgetPlan { n: state.n, snapshots: Vec::new() };
    match what {
        ToForget::Rule { source_name, retention, time_zone, leading } => {
            sources.retain(|name, _| source_name.as_ref().is_none_or(|wanted| wanted == name));
            for snapshots in sources.values() {
                let good = not_set_aside(state, snapshots);
                let seen: Vec<_> = good
                    .iter()
                    .map(|state| Kept { moment: state.snapshot.moment, complete: state.snapshot.complete })
                    .collect();
                let mut kept_by = kept(&seen, retention, time_zone, now);
                for (at, why) in protected(&good, now) {
                    kept_by[at].insert(why);
                }
                let ids = good.iter().map(|state| state.snapshot.id);
                for (id, kept_by) in ids.clone().zip(&mut kept_by) {
                    kept_by.extend(leading.contains(&id).then_some(KeptBy::Leading));
                }
                let mut why: BTreeMap<_, _> = ids.zip(kept_by).collect();
                plan.snapshots.extend(snapshots.iter().map(|state| {
                    let set_aside = || BTreeSet::from([KeptBy::SetAside]);
                    planned((state, why.remove(&state.snapshot.id).unwrap_or_else(set_aside)))
                }));
            }
        }
        ToForget::Snapshots(ids) => {
            if let Some(id) = ids.iter().find(|id| !state.snapshots.contains_key(id)) {
                return Err(ForgetRefused::Unknown { id: *id });
            }
            for (name, snapshots) in &sources {
                if !snapshots.iter().any(|state| ids.contains(&state.snapshot.id)) {
                    continue;
                }
                let good = not_set_aside(state, snapshots);
                for (at, why) in protected(&good, now) {
                    let id = good[at].snapshot.id;
                    if ids.contains(&id) && !options.even_last {
                        return Err(ForgetRefused::Last { id, source_name: (*name).to_owned(), why });
                    }
                }
                plan.snapshots.extend(snapshots.iter().map(|state| {
                    let stays = !ids.contains(&state.snapshot.id);
                    planned((state, BTreeSet::from_iter(stays.then_some(KeptBy::NotAsked))))
                }));
            }
        }
    }
    let (n, n_snapshots) = (plan.forgotten().count(), state.snapshots.len());
    match n > 10 && n * 5 > n_snapshots && !options.even_many {
        true => Err(ForgetRefused::Many { n, n_snapshots }),
        false => Ok(plan),
    }
}

fn planned((state, kept_by): (&&SnapshotState, BTreeSet<KeptBy>)) -> PlannedSnapshot {
    let snapshot = &state.snapshot;
    PlannedSnapshot {
        id: snapshot.id,
        source_name: snapshot.source.clone(),
        moment: snapshot.moment,
        complete: snapshot.complete,
        kept_by,
    }
}

fn not_set_aside<'s>(state: &State, snapshots: &[&'s SnapshotState]) -> Vec<&'s SnapshotState> {
    snapshots.iter().filter(|one| !state.set_aside.contains(&one.snapshot.id)).copied().collect()
}

/// Of the snapshots of a source, newest first, those that stay whatever a rule says: the newest verified and
/// the newest complete one. One from the future is neither, unless there is no other.
fn protected(snapshots: &[&SnapshotState], now: Timestamp) -> Vec<(usize, KeptBy)> {
    let newest = |is_so: &dyn Fn(&SnapshotState) -> bool| {
        let past = snapshots.iter().position(|state| is_so(state) && state.snapshot.moment <= now);
        past.or_else(|| snapshots.iter().position(|state| is_so(state)))
    };
    // The newest verified one may be partial, and then the newest that is whole and proved stays too.
    let verified = newest(&|state| state.is_verified());
    let good = newest(&|state| state.snapshot.complete && state.is_verified());
    let verified = verified.into_iter().chain(good).map(|at| (at, KeptBy::NewestVerified));
    let complete = newest(&|state| state.snapshot.complete || sabotage::on("partial-counts"))
        .map(|at| (at, KeptBy::NewestComplete));
    verified.filter(|_| !sabotage::on("verified-goes")).chain(complete).collect()
}

/// Forgets snapshots, with one entry. `reason` is for people: the rule, or what the user said.
///
/// # Errors
/// [`ForgetRefused`], or any failure to read or write the log; then nothing was forgotten.
pub fn forget(
    repo: &Repo,
    what: &ToForget,
    reason: &str,
    options: ForgetOptions,
    cx: &Cx,
) -> Result<ForgetReport, RepoError> {
    // What counts as a backup that stays is what can be read where it is kept.
    repo.set_copies_aside();
    // A rule asks for the time; a clock that is wrong must not make everything old (F-1).
    let _lease = match what {
        ToForget::Rule { .. } => Some(Lease::take(repo, "forget")?),
        ToForget::Snapshots(_) => None,
    };
    let run = RunId::from_bytes(cx.random());
    loop {
        cx.check()?;
        let (state, _) = repo.readable()?;
        let plan = plan_forget(&state, what, options, cx.now())?;
        let snapshots: Vec<_> = plan.forgotten().map(|snapshot| snapshot.id).collect();
        if snapshots.is_empty() {
            return Ok(ForgetReport { plan, n: None });
        }
        let change = Change::Forget(Forget { snapshots, reason: reason.to_owned() });
        if let Some(n) = repo.append_after(&state, run, change)? {
            return Ok(ForgetReport { plan, n: Some(n) });
        }
    }
}

impl fmt::Display for ForgetPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for snapshot in &self.snapshots {
            let (id, name, moment) = (snapshot.id.short(), &snapshot.source_name, snapshot.moment);
            let incomplete = if snapshot.complete { "" } else { " incomplete" };
            let why: Vec<_> = snapshot.kept_by.iter().map(ToString::to_string).collect();
            match snapshot.is_kept() {
                true => writeln!(f, "keep   {id} {name} {moment}{incomplete}: {}", why.join(", "))?,
                false => writeln!(f, "forget {id} {name} {moment}{incomplete}: no rule keeps it")?,
            }
        }
        Ok(())
    }
}
