//! Bundling: small segments of the archived log become one object for many, so that an archive of years with a segment a
//! minute is no half million objects.
//!
//! ```text
//! list ── plan ── read each segment, compare ── bundle ── … its soft period … ── the single ones go (`bundled`)
//! ```
//!
//! - A bundle holds the bytes of the single objects, and counts as soon as it is there. Nobody has to be told: who looks for a
//!   segment looks at both, and finds the same. So no entry of the log is needed, and a death leaves a bundle or none.
//! - Of two who bundle the same at once both are right; what is held twice goes by rank.
//! - Groups follow the order of the log, so that what a floor lets go is whole bundles. Of one that a floor has cut to less
//!   than half, what is left becomes a new one.
//! - What lies below a floor is in no new bundle.

use crate::RepoError;
use crate::layout;
use crate::lease::Lease;
use crate::log::{Change, Removed};
use crate::repo::Repo;
use crate::state::State;
use crate::wal::{
    Bundle, Bundling, Member, NewMember, OpenBundles, Place, Single, Stored, check_in, make_bundle, of_state,
};
use hikae_model::{Cx, SegmentName, SystemId, Timeline, WalName, sabotage};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What is bundled, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BundleOptions {
    /// How long single objects stay beside their bundle.
    pub soft: Duration,
    /// Longer objects stay single.
    pub small_bytes: u64,
    /// A bundle holds no more segments.
    pub most_files: usize,
    /// And is no longer.
    pub most_bytes: u64,
    /// Fewer segments wait until there are more, unless they fill a bundle.
    pub fewest_files: usize,
    /// A bundle is made anew if that spares so much, and half of it.
    pub least_spared_bytes: u64,
}

impl Default for BundleOptions {
    fn default() -> Self {
        Self {
            soft: Duration::from_secs(14 * 86_400),
            small_bytes: 1 << 20,
            most_files: 1024,
            most_bytes: 16 << 20,
            fewest_files: 256,
            least_spared_bytes: 1 << 20,
        }
    }
}

/// How much is bundled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BundleTotals {
    /// Bundles.
    pub n_bundles: u64,
    /// The segments in them.
    pub n_files: u64,
    /// Their length.
    pub stored_bytes: u64,
}

/// A bundle that is to be made: of single objects, or of what an older one holds that is still kept.
#[derive(Clone, Debug)]
struct Planned {
    system: SystemId,
    generation: u32,
    members: Vec<PlannedMember>,
    /// The bundle that they are in, if they are in one.
    of: Option<Arc<Bundle>>,
}

#[derive(Clone, Debug)]
struct PlannedMember {
    segment: SegmentName,
    place: Place,
    stored: Timestamp,
}

impl Planned {
    fn bytes(&self) -> u64 {
        self.members.iter().map(|member| member.place.bytes).sum()
    }
}

/// Says what would be bundled, and writes nothing.
///
/// # Errors
/// Any failure to read the repository.
pub fn plan_bundles(repo: &Repo, options: &BundleOptions, cx: &Cx) -> Result<BundleTotals, RepoError> {
    let state = repo.follow()?;
    let plan = plan(&stored_log(repo, &state)?, &state, cx.now(), options);
    Ok(BundleTotals {
        n_bundles: plan.len() as u64,
        n_files: plan.iter().map(|planned| planned.members.len() as u64).sum(),
        stored_bytes: plan.iter().map(Planned::bytes).sum(),
    })
}

/// Bundles small segments, and what is left of bundles that a floor has cut. Nothing goes by this; [`remove_doomed`] removes the
/// single objects later.
///
/// # Errors
/// Any failure of the store. What was bundled until then counts.
///
/// [`remove_doomed`]: super::remove_doomed
pub fn bundle_log(repo: &Repo, options: &BundleOptions, cx: &Cx) -> Result<BundleTotals, RepoError> {
    let state = repo.follow()?;
    // Only of who may remove is believed that it stands for what is gone.
    repo.check_may(&state, &Change::Removed(Removed::default()))?;
    let stored = stored_log(repo, &state)?;
    if plan(&stored, &state, cx.now(), options).is_empty() {
        return Ok(BundleTotals::default());
    }
    let lease = Lease::take(repo, "bundle")?;
    // Both clocks must say that a floor has let go.
    let now = lease.taken().min(cx.now());
    let mut totals = BundleTotals::default();
    for planned in plan(&stored, &state, now, options) {
        cx.check()?;
        let objects = objects(repo, &state, &planned)?;
        let Planned { system, generation, .. } = planned;
        let bundling = Bundling { system, generation, soft: options.soft };
        let Some((name, bytes)) = make_bundle(repo.unlocked(), bundling, &objects)? else { continue };
        if sabotage::on("single-before-bundle") {
            let key = |segment: SegmentName| layout::wal(system, segment.into());
            objects.iter().try_for_each(|new| repo.store().remove(&key(new.segment)))?;
        }
        repo.put_named(&layout::wal_bundle(system, name), &bytes)?;
        totals.n_bundles += 1;
        totals.n_files += objects.len() as u64;
        totals.stored_bytes += bytes.len() as u64;
    }
    Ok(totals)
}

/// All that is stored of log.
pub(super) fn stored_log(repo: &Repo, state: &State) -> Result<Stored, RepoError> {
    Stored::read(repo.unlocked(), &OpenBundles::default(), layout::WAL, &of_state(state))
}

/// The objects of the segments of a plan, each looked through. One that is gone or damaged is not among them: it stays where
/// it is, and verify names it.
fn objects(repo: &Repo, state: &State, planned: &Planned) -> Result<Vec<NewMember>, RepoError> {
    let whole = match &planned.of {
        Some(bundle) => match well(repo, bundle)? {
            Some(whole) => Some(whole),
            None => return Ok(Vec::new()),
        },
        None => None,
    };
    let mut objects = Vec::with_capacity(planned.members.len());
    for PlannedMember { segment, place, stored } in &planned.members {
        let object = match &whole {
            Some(whole) => whole[place.at as usize..(place.at + place.bytes) as usize].to_vec(),
            None => match repo.store().get(&place.key) {
                Err(error) if error.is_not_found() => continue,
                got => got?,
            },
        };
        let alone = Place { at: 0, bytes: object.len() as u64, ..place.clone() };
        match check_in(repo, state, (planned.system, WalName::Segment(*segment)), &alone, &object, false) {
            Ok(_) => objects.push(NewMember { segment: *segment, stored: *stored, object }),
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(objects)
}

/// The bytes of a bundle, durable and as they were made; nothing if it is gone or damaged.
pub(super) fn well(repo: &Repo, bundle: &Bundle) -> Result<Option<Vec<u8>>, RepoError> {
    let key = bundle.key();
    let bytes = match repo.store().settle(&key).and_then(|_| repo.store().get(&key)) {
        Err(error) if error.is_not_found() => return Ok(None),
        got => got?,
    };
    match Bundle::open_whole(repo.unlocked(), bundle.bundling.system, bundle.name, &bytes) {
        Ok(_) => Ok(Some(bytes)),
        Err(error) if error.is_damage() => Ok(None),
        Err(error) => Err(error),
    }
}

fn plan(stored: &Stored, state: &State, now: Timestamp, options: &BundleOptions) -> Vec<Planned> {
    let holders = holders(stored.bundles.iter().map(|(_, bundle)| bundle));
    let mut lines: BTreeMap<(SystemId, Timeline), BTreeMap<SegmentName, PlannedMember>> = BTreeMap::new();
    for Single { system, file } in &stored.singles {
        let WalName::Segment(segment) = file.name else { continue };
        let is_wanted = file.stored_bytes <= options.small_bytes
            && !holders.contains_key(&(*system, segment))
            && !state.is_floored(*system, file.name);
        if is_wanted {
            let place = Place { key: layout::wal(*system, file.name), at: 0, bytes: file.stored_bytes };
            let member = PlannedMember { segment, place, stored: file.stored };
            lines.entry((*system, segment.timeline)).or_default().insert(segment, member);
        }
    }
    let mut plan = Vec::new();
    for ((system, _), segments) in lines {
        plan.extend(groups(segments, options).into_iter().map(|members| Planned {
            system,
            generation: 0,
            members,
            of: None,
        }));
    }
    let left =
        stored.bundles.iter().filter_map(|(_, bundle)| what_is_left(bundle, &holders, state, now, options));
    plan.extend(left);
    plan
}

/// For each segment the bundle of the highest rank that holds it.
pub(super) type Holders = BTreeMap<(SystemId, SegmentName), Arc<Bundle>>;

/// The holders among some bundles.
pub(super) fn holders<'a>(bundles: impl Iterator<Item = &'a Arc<Bundle>>) -> Holders {
    let mut holders = Holders::new();
    for bundle in bundles {
        for member in &bundle.members {
            let holder =
                holders.entry((bundle.bundling.system, member.segment)).or_insert_with(|| bundle.clone());
            if holder.rank() < bundle.rank() {
                *holder = bundle.clone();
            }
        }
    }
    holders
}

/// Segments in groups, each as large as a bundle may be. Those at the end wait if they are few.
fn groups(
    segments: BTreeMap<SegmentName, PlannedMember>,
    options: &BundleOptions,
) -> Vec<Vec<PlannedMember>> {
    let (mut groups, mut group, mut bytes) = (Vec::new(), Vec::new(), 0);
    for member in segments.into_values() {
        if group.len() >= options.most_files
            || (bytes + member.place.bytes > options.most_bytes && group.len() > 1)
        {
            groups.push(std::mem::take(&mut group));
            bytes = 0;
        }
        bytes += member.place.bytes;
        group.push(member);
    }
    if group.len() >= options.fewest_files {
        groups.push(group);
    }
    groups
}

/// The bundle that takes the place of one of which a floor has let go the larger part.
fn what_is_left(
    bundle: &Arc<Bundle>,
    holders: &Holders,
    state: &State,
    now: Timestamp,
    options: &BundleOptions,
) -> Option<Planned> {
    let system = bundle.bundling.system;
    let is_of_no_use = |segment: SegmentName| {
        let is_held_above = holders.get(&(system, segment)).is_some_and(|other| other.rank() > bundle.rank());
        is_held_above || is_let_go(state, system, segment, now)
    };
    let all: u64 = bundle.members.iter().map(|member| u64::from(member.bytes)).sum();
    let left = bundle.members.iter().filter(|member| !is_of_no_use(member.segment));
    let planned = |member: &Member| {
        let Member { segment, stored, .. } = *member;
        PlannedMember { segment, place: bundle.place_of(member), stored }
    };
    let members = left.map(planned).collect();
    let planned =
        Planned { system, generation: bundle.bundling.generation + 1, members, of: Some(bundle.clone()) };
    let spared = all - planned.bytes();
    let is_worth_it =
        !planned.members.is_empty() && spared >= options.least_spared_bytes && 2 * spared >= all;
    is_worth_it.then_some(planned)
}

/// True if a floor has let go of a segment.
pub(super) fn is_let_go(state: &State, system: SystemId, segment: SegmentName, now: Timestamp) -> bool {
    let covers = |floor: &&crate::state::FloorState| {
        floor.floor.system == system && floor.floor.covers(segment.into())
    };
    state.log_floors.iter().filter(covers).any(|floor| state.lets_go(floor, now))
}
