//! What goes because a bundle stands for it: single objects of its segments, and bundles of lower rank.
//!
//! - A bundle stands for others once its own soft period is over, by the store's clock, and once it was seen to be durable
//!   and read back whole.
//! - A single object goes only if its head says that it is the very file that the bundle holds. Another one stays, and verify
//!   names it.
//! - A bundle goes once each of its segments is one that a floor has let go, or is held by a bundle of higher rank. Ranks are
//!   in one order, so of all bundles that hold a segment one stays, whoever removes and whenever.

use super::bundling::{Holders, holders, is_let_go, well};
use crate::RepoError;
use crate::layout;
use crate::prune::removal::remove_unless_locked;
use crate::repo::Repo;
use crate::state::State;
use crate::wal::{Bundle, ListedBundle, Place, Single, Stored, plain_at};
use hikae_model::{BundleId, Cx, SegmentName, WalName, sabotage};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Gone {
    /// Objects that stay until their lock ends.
    pub(super) n_locked: usize,
    /// Objects for which a bundle stands.
    pub(super) n_spent: u64,
    /// Segments that floors have let go, with their bundle.
    pub(super) n_floored: u64,
    /// Length of those.
    pub(super) floored_bytes: u64,
    /// When the next bundle stands for others.
    pub(super) next: Option<Timestamp>,
}

/// Removes what bundles stand for, and bundles that are no longer needed.
pub(super) fn remove_bundled(
    repo: &Repo,
    state: &State,
    stored: &Stored,
    now: Timestamp,
    cx: &Cx,
) -> Result<Gone, RepoError> {
    let mut keepers = Keepers::new(stored, now);
    let mut gone = Gone { next: next(stored, now), ..Gone::default() };
    for (bundle, singles) in keepers.singles(stored) {
        let Some(whole) = keepers.read(repo, &bundle)? else { continue };
        for single in singles {
            cx.check()?;
            if is_the_same(repo, state, &bundle, &whole, &single)? {
                match remove_unless_locked(repo, &layout::wal(single.system, single.file.name))? {
                    true => gone.n_spent += 1,
                    false => gone.n_locked += 1,
                }
            }
        }
    }
    for (_, bundle) in &stored.bundles {
        cx.check()?;
        let Some((n_floored, bytes)) = keepers.lets_go(repo, state, bundle, now)? else { continue };
        if !remove_unless_locked(repo, &bundle.key())? {
            gone.n_locked += 1;
            continue;
        }
        // One that another stands for is one object less, as the single ones are.
        gone.n_spent += u64::from(n_floored == 0);
        (gone.n_floored, gone.floored_bytes) = (gone.n_floored + n_floored, gone.floored_bytes + bytes);
    }
    Ok(gone)
}

/// Whether a single object is the file that a bundle holds, all of whose bytes are at hand. One that does not open is none any
/// more.
fn is_the_same(
    repo: &Repo,
    state: &State,
    bundle: &Bundle,
    whole: &[u8],
    single: &Single,
) -> Result<bool, RepoError> {
    let WalName::Segment(segment) = single.file.name else { return Ok(false) };
    let Some(bundled) = bundle.place(segment) else { return Ok(false) };
    let file = (single.system, single.file.name);
    let there = plain_at(repo, state, file, &bundled, &|range| {
        let part = whole.get((bundled.at + range.start) as usize..(bundled.at + range.end) as usize);
        part.map(<[u8]>::to_vec).ok_or(RepoError::NotTheSame)
    })?;
    let place = Place { key: layout::wal(file.0, file.1), at: 0, bytes: single.file.stored_bytes };
    match plain_at(repo, state, file, &place, &|range| place.read(repo.store(), range)) {
        Ok(here) => Ok(here == there),
        Err(RepoError::Store(error)) if error.is_not_found() => Ok(false),
        Err(error) if error.is_damage() => Ok(true),
        Err(error) => Err(error),
    }
}

/// When a bundle begins to stand for others.
fn over_at(listed: &ListedBundle, bundle: &Bundle) -> Timestamp {
    let soft = SignedDuration::try_from(bundle.bundling.soft).unwrap_or(SignedDuration::MAX);
    listed.stored.checked_add(soft).unwrap_or(Timestamp::MAX)
}

fn is_over(listed: &ListedBundle, bundle: &Bundle, now: Timestamp) -> bool {
    // In whole seconds, as a store may tell its time.
    over_at(listed, bundle).as_second() <= now.as_second() || sabotage::on("bundled-goes-at-once")
}

/// When the next bundle will stand for something that is still there.
fn next(stored: &Stored, now: Timestamp) -> Option<Timestamp> {
    let singles: BTreeSet<_> =
        stored.singles.iter().map(|single| (single.system, single.file.name)).collect();
    let waits = |listed: &ListedBundle, bundle: &Bundle| {
        let is_there = |segment: SegmentName| singles.contains(&(listed.system, WalName::Segment(segment)));
        !is_over(listed, bundle, now) && bundle.members.iter().any(|member| is_there(member.segment))
    };
    let waiting = stored.bundles.iter().filter(|(listed, bundle)| waits(listed, bundle));
    waiting.map(|(listed, bundle)| over_at(listed, bundle)).min()
}

/// Bundles that stand for others by now.
struct Keepers {
    holders: Holders,
    /// What came of reading them back.
    read: BTreeMap<BundleId, bool>,
}

impl Keepers {
    fn new(stored: &Stored, now: Timestamp) -> Self {
        let over = stored.bundles.iter().filter(|(listed, bundle)| is_over(listed, bundle, now));
        Self { holders: holders(over.map(|(_, bundle)| bundle)), read: BTreeMap::new() }
    }

    /// The single objects for which each of them stands.
    fn singles(&self, stored: &Stored) -> Vec<(Arc<Bundle>, Vec<Single>)> {
        let mut singles: BTreeMap<BundleId, (Arc<Bundle>, Vec<Single>)> = BTreeMap::new();
        for single in &stored.singles {
            let WalName::Segment(segment) = single.file.name else { continue };
            if let Some(holder) = self.holders.get(&(single.system, segment)) {
                let of_holder = singles.entry(holder.name.id).or_insert_with(|| (holder.clone(), Vec::new()));
                of_holder.1.push(*single);
            }
        }
        singles.into_values().collect()
    }

    /// The bytes of one of them, durable; nothing if it is gone or damaged.
    fn read(&mut self, repo: &Repo, bundle: &Bundle) -> Result<Option<Vec<u8>>, RepoError> {
        let whole = well(repo, bundle)?;
        self.read.insert(bundle.name.id, whole.is_some());
        Ok(whole)
    }

    fn is_well(&mut self, repo: &Repo, bundle: &Bundle) -> Result<bool, RepoError> {
        match self.read.get(&bundle.name.id) {
            Some(is_well) => Ok(*is_well),
            None => Ok(self.read(repo, bundle)?.is_some()),
        }
    }

    /// The segments of a bundle that a floor has let go, and their length; nothing if it holds one that has to be kept and that
    /// no other bundle of higher rank holds, which can be read.
    fn lets_go(
        &mut self,
        repo: &Repo,
        state: &State,
        bundle: &Bundle,
        now: Timestamp,
    ) -> Result<Option<(u64, u64)>, RepoError> {
        let system = bundle.bundling.system;
        let (mut n_floored, mut bytes, mut above) = (0, 0, BTreeMap::new());
        for member in &bundle.members {
            if is_let_go(state, system, member.segment, now) {
                (n_floored, bytes) = (n_floored + 1, bytes + u64::from(member.bytes));
                if sabotage::on("bundle-goes-with-its-first") {
                    return Ok(Some((n_floored, bytes)));
                }
                continue;
            }
            match self.holders.get(&(system, member.segment)) {
                Some(holder) if holder.rank() > bundle.rank() => {
                    drop(above.insert(holder.name.id, holder.clone()))
                }
                _ => return Ok(None),
            }
        }
        for holder in above.values() {
            if !self.is_well(repo, holder)? {
                return Ok(None);
            }
        }
        Ok(Some((n_floored, bytes)))
    }
}
