//! The bundles of segments that a store has, and where a file stands: by itself, or in one of them.
//!
//! - A bundle counts if its writer may prune or ever might: it stands for objects that are gone.
//! - A segment that a bundle holds is that one, whatever stands under its own name. Somebody who slept may have taken the
//!   name when it came free.
//! - Who looks for a segment looks under its name first, and then at the bundles: the single one goes only after the bundle
//!   is durable, so whoever finds no single one sees the bundle.
//! - A bundle that is gone when it is opened has another one in its place: then the list is read anew.
//!
//! Nothing here is remembered but heads that were opened, which never change.

use super::bundle::{Bundle, BundleName, part_of};
use super::stored::{Place, ReadRange, StoredObject};
use super::{StoredWal, WalArchive, WalHead};
use crate::RepoError;
use crate::layout;
use crate::repo::{Repo, lock};
use crate::state::State;
use crate::unlocked::Unlocked;
use hikae_model::{SegmentName, SystemId, WalName, WriterId, sabotage};
use hikae_store::{Object, ObjectKey, Store, StoreError};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// How often the list is read anew because a bundle went meanwhile.
const TRIES: u32 = 8;

/// Whether a writer may prune or ever might.
pub(crate) type MayBundle<'a> = dyn Fn(WriterId) -> Result<bool, RepoError> + 'a;

/// A bundle as a list shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListedBundle {
    pub(crate) system: SystemId,
    pub(crate) name: BundleName,
    pub(crate) bytes: u64,
    pub(crate) stored: Timestamp,
}

impl ListedBundle {
    /// The bundle under this key, if one stands there.
    pub(crate) fn of(object: &Object) -> Option<Self> {
        let (system, name) = layout::wal_bundle_of(&object.key)?;
        Some(Self { system, name, bytes: object.bytes, stored: object.stored })
    }
}

/// Heads of bundles that were opened, each once.
#[derive(Default)]
pub(crate) struct OpenBundles(Mutex<BTreeMap<ObjectKey, Arc<Bundle>>>);

impl OpenBundles {
    /// The bundle, if it counts.
    pub(crate) fn open(
        &self,
        unlocked: &Unlocked,
        listed: &ListedBundle,
        may_bundle: &MayBundle<'_>,
    ) -> Result<Option<Arc<Bundle>>, RepoError> {
        let key = layout::wal_bundle(listed.system, listed.name);
        let known = lock(&self.0).get(&key).cloned();
        if known.is_some() {
            return Ok(known);
        }
        let read = |range| Ok(unlocked.store.get_range(&key, range)?);
        let read: &ReadRange<'_> = &read;
        let bundle = Bundle::open(unlocked, listed.system, listed.name, listed.bytes, read)?;
        if !may_bundle(bundle.writer)? && !sabotage::on("bundle-of-anybody") {
            return Ok(None);
        }
        let bundle = Arc::new(bundle);
        lock(&self.0).insert(key, bundle.clone());
        Ok(Some(bundle))
    }

    /// Where a bundle that was opened has a segment.
    fn place(&self, system: SystemId, segment: SegmentName) -> Option<Place> {
        let open = lock(&self.0);
        let spans = |bundle: &&Arc<Bundle>| bundle.bundling.system == system && bundle.name.spans(segment);
        open.values().filter(spans).find_map(|bundle| bundle.place(segment))
    }

    fn forget(&self, key: &ObjectKey) {
        lock(&self.0).remove(key);
    }
}

/// A file that was found.
pub(super) struct Found {
    pub(super) place: Place,
    pub(super) head: WalHead,
    /// All of its object, if it stands in a bundle.
    whole: Option<Vec<u8>>,
}

impl Found {
    /// Reads a range of its object.
    pub(super) fn read(&self, store: &dyn Store, range: Range<u64>) -> Result<Vec<u8>, RepoError> {
        match &self.whole {
            Some(whole) => part_of(whole, range),
            None => self.place.read(store, range),
        }
    }
}

impl WalArchive {
    /// A file: where it stands, and its head. With `settled` it is durable there. What a bundle holds counts before what stands
    /// under the name itself; that is for when the bundle is damaged, and its single ones still there.
    pub(super) fn look(
        &self,
        system: SystemId,
        name: WalName,
        settled: bool,
    ) -> Result<Option<Found>, RepoError> {
        let key = layout::wal(system, name);
        let store = &*self.unlocked.store;
        for _ in 0..TRIES {
            let single = match if settled { store.settle(&key) } else { store.stat(&key) } {
                Ok(object) => Some(Place { key: object.key, at: 0, bytes: object.bytes }),
                Err(error) if error.is_not_found() => None,
                Err(error) => return Err(error.into()),
            };
            let bundled = match name {
                WalName::Segment(segment) => self.bundled(system, segment, settled),
                _ => Ok(None),
            };
            let (mut damage, mut is_gone) = (None, false);
            for place in [bundled, Ok(single)] {
                let found = match place {
                    Ok(Some(place)) => self.open_at(system, name, place),
                    Ok(None) => continue,
                    Err(error) => Err(error),
                };
                match found {
                    Ok(found) => return Ok(Some(found)),
                    // One that a removal took between the two.
                    Err(RepoError::Store(error)) if error.is_not_found() => is_gone = true,
                    Err(error) if error.is_damage() => drop(damage.get_or_insert(error)),
                    Err(error) => return Err(error),
                }
            }
            if !is_gone {
                return damage.map_or(Ok(None), Err);
            }
        }
        Err(RepoError::Store(StoreError::NotFound { key }))
    }

    /// The file that stands at a place.
    pub(super) fn open_at(&self, system: SystemId, name: WalName, place: Place) -> Result<Found, RepoError> {
        let store = &*self.unlocked.store;
        let is_known = |writer| self.is_known(writer);
        if place.key == layout::wal(system, name) {
            let read = |range| place.read(store, range);
            let head = StoredObject::new(&self.unlocked, (system, name), &place, &read).head(&is_known)?;
            return Ok(Found { place, head, whole: None });
        }
        // It is small. And so all of it is known to be right before any of it is used.
        let whole = place.read(store, 0..place.bytes).inspect_err(|_| self.bundles.forget(&place.key))?;
        let read = |range| part_of(&whole, range);
        let object = StoredObject::new(&self.unlocked, (system, name), &place, &read);
        let head = object.head(&is_known)?;
        object.read_all(&head, None, &mut |_| Ok::<_, RepoError>(()))?;
        Ok(Found { place, head, whole: Some(whole) })
    }

    /// The head of what a bundle holds of a segment, durable there.
    pub(super) fn bundled_head(
        &self,
        system: SystemId,
        segment: SegmentName,
    ) -> Result<Option<WalHead>, RepoError> {
        for _ in 0..TRIES {
            let Some(place) = self.bundled(system, segment, true)? else { return Ok(None) };
            match self.open_at(system, segment.into(), place) {
                Err(RepoError::Store(error)) if error.is_not_found() => {}
                found => return Ok(Some(found?.head)),
            }
        }
        Err(RepoError::Store(StoreError::NotFound { key: layout::wal(system, segment.into()) }))
    }

    /// Where a bundle has a segment, if one does. With `settled` it is durable there.
    pub(super) fn bundled(
        &self,
        system: SystemId,
        segment: SegmentName,
        settled: bool,
    ) -> Result<Option<Place>, RepoError> {
        for _ in 0..TRIES {
            let place = match self.bundles.place(system, segment) {
                Some(place) => Some(place),
                None => match self.look_in_bundles(system, segment) {
                    Err(RepoError::Store(error)) if error.is_not_found() => continue,
                    looked => looked?,
                },
            };
            let Some(place) = place else { return Ok(None) };
            if !settled {
                return Ok(Some(place));
            }
            match self.unlocked.store.settle(&place.key) {
                Ok(_) => return Ok(Some(place)),
                Err(error) if error.is_not_found() => self.bundles.forget(&place.key),
                Err(error) => return Err(error.into()),
            }
        }
        Err(RepoError::Store(StoreError::NotFound { key: layout::wal(system, segment.into()) }))
    }

    fn look_in_bundles(&self, system: SystemId, segment: SegmentName) -> Result<Option<Place>, RepoError> {
        let (mut spanning, wanted) = (Vec::new(), segment.to_string().to_ascii_lowercase());
        self.unlocked.store.list(&layout::wal_bundles(system, segment.timeline), &mut |object| {
            // Names of one length are in the order of the log. Nothing more is done with the thousand others.
            let name = object.key.as_str().rsplit('/').next().unwrap_or_default();
            let spans = |first: &str, last: &str| (first..=last).contains(&wanted.as_str());
            if name
                .split_once('.')
                .and_then(|(ends, _)| ends.split_once('-'))
                .is_some_and(|(a, b)| spans(a, b))
            {
                spanning.extend(ListedBundle::of(&object));
            }
        })?;
        let mut damage = None;
        for listed in &spanning {
            match self.bundles.open(&self.unlocked, listed, &|writer| self.may_bundle(writer)) {
                Ok(bundle) => {
                    let place = bundle.and_then(|bundle| bundle.place(segment));
                    if place.is_some() {
                        return Ok(place);
                    }
                }
                Err(error) if error.is_damage() => drop(damage.get_or_insert(error)),
                Err(error) => return Err(error),
            }
        }
        damage.map_or(Ok(None), Err)
    }

    /// Whether a writer may prune or ever might. Of the root key we know it without looking; a log that was read before this
    /// writer came is read on.
    fn may_bundle(&self, writer: WriterId) -> Result<bool, RepoError> {
        if writer == self.unlocked.header.core.root {
            return Ok(true);
        }
        let repo = self.repo()?;
        let known = repo.state().ever_might_prune(writer);
        Ok(known || (!sabotage::on("bundle-of-a-stale-state") && repo.follow()?.ever_might_prune(writer)))
    }

    /// Every file that is stored, by cluster and in order of their names, those in bundles too. What a damaged bundle may hold
    /// is not among them.
    ///
    /// # Errors
    /// Any failure to read the store, but for damage.
    pub fn list(&self) -> Result<BTreeMap<SystemId, Vec<StoredWal>>, RepoError> {
        list_in(&self.unlocked, &self.bundles, &|writer| self.may_bundle(writer))
    }
}

/// Every file that a repository keeps, by cluster and in order of their names, those in bundles too. What a damaged bundle may
/// hold is not among them.
///
/// # Errors
/// Any failure to read the store, but for damage.
pub fn list(repo: &Repo) -> Result<BTreeMap<SystemId, Vec<StoredWal>>, RepoError> {
    list_in(repo.unlocked(), &OpenBundles::default(), &of_state(&*repo.follow()?))
}

/// Whether a writer may bundle, by a state that is as new as what was listed.
pub(crate) fn of_state(state: &State) -> impl Fn(WriterId) -> Result<bool, RepoError> {
    |writer| Ok(state.ever_might_prune(writer))
}

fn list_in(
    unlocked: &Unlocked,
    open: &OpenBundles,
    may_bundle: &MayBundle<'_>,
) -> Result<BTreeMap<SystemId, Vec<StoredWal>>, RepoError> {
    let stored = Stored::read(unlocked, open, layout::WAL, may_bundle)?;
    let mut systems: BTreeMap<SystemId, BTreeMap<WalName, StoredWal>> = BTreeMap::new();
    let singles = stored.singles.iter().map(|single| (single.system, single.file));
    let bundled = stored.bundles.iter().flat_map(|(listed, bundle)| {
        bundle.members.iter().map(|member| {
            let (name, stored_bytes) = (WalName::Segment(member.segment), member.bytes.into());
            (listed.system, StoredWal { name, stored_bytes, stored: member.stored })
        })
    });
    // The bundles come last, and count.
    for (system, file) in singles.chain(bundled) {
        systems.entry(system).or_default().insert(file.name, file);
    }
    Ok(systems.into_iter().map(|(system, files)| (system, files.into_values().collect())).collect())
}

/// A file that stands by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Single {
    pub(crate) system: SystemId,
    pub(crate) file: StoredWal,
}

/// What a store has of write-ahead log.
pub(crate) struct Stored {
    pub(crate) singles: Vec<Single>,
    /// Those that count and whose head opens.
    pub(crate) bundles: Vec<(ListedBundle, Arc<Bundle>)>,
    /// Those whose head does not open.
    pub(crate) damaged: Vec<ListedBundle>,
}

impl Stored {
    /// Reads the list below `prefix`, and the heads of its bundles. A segment that moves from a single object into a bundle
    /// meanwhile is in one of both: the list is read anew when a bundle of it is gone, and as long as a second one names other
    /// bundles.
    pub(crate) fn read(
        unlocked: &Unlocked,
        open: &OpenBundles,
        prefix: &str,
        may_bundle: &MayBundle<'_>,
    ) -> Result<Self, RepoError> {
        let mut moved = None;
        'anew: for _ in 0..TRIES {
            let mut stored = Self { singles: Vec::new(), bundles: Vec::new(), damaged: Vec::new() };
            let mut listed = Vec::new();
            unlocked.store.list(prefix, &mut |object| match layout::wal_of(&object.key) {
                Some((system, name)) => {
                    let file = StoredWal { name, stored_bytes: object.bytes, stored: object.stored };
                    stored.singles.push(Single { system, file });
                }
                None => listed.extend(ListedBundle::of(&object)),
            })?;
            let names = |listed: &[ListedBundle]| {
                listed.iter().map(|listed| (listed.system, listed.name)).collect::<BTreeSet<_>>()
            };
            // The singles of a bundle that came while we listed may have gone before we came to them.
            let timelines: BTreeSet<String> = stored
                .singles
                .iter()
                .map(|single| layout::wal_bundles(single.system, single.file.name.timeline()))
                .chain(
                    listed
                        .iter()
                        .map(|listed| layout::wal_bundles(listed.system, listed.name.first.timeline)),
                )
                .collect();
            let mut again = Vec::new();
            for directory in &timelines {
                unlocked.store.list(directory, &mut |object| again.extend(ListedBundle::of(&object)))?;
            }
            if let Some((system, name)) = names(&again).symmetric_difference(&names(&listed)).next() {
                moved = Some(layout::wal_bundle(*system, *name));
                continue;
            }
            for listed in listed {
                match open.open(unlocked, &listed, may_bundle) {
                    Ok(Some(bundle)) => stored.bundles.push((listed, bundle)),
                    Ok(None) => {}
                    Err(error) if error.is_damage() => stored.damaged.push(listed),
                    Err(RepoError::Store(StoreError::NotFound { key })) => {
                        moved = Some(key);
                        continue 'anew;
                    }
                    Err(error) => return Err(error),
                }
            }
            return Ok(stored);
        }
        Err(RepoError::Store(StoreError::NotFound { key: moved.unwrap_or_else(layout::header) }))
    }
}
