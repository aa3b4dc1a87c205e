//! What one repository holds of a PostgreSQL cluster: its base backups, and its log.

use super::window::{Archive, Base, Window};
use crate::OpsError;
use crate::restore_cluster::manifest;
use hikae_model::{
    Cx, ErrorCode, Lsn, SegmentName, SegmentPart, SegmentSize, SnapshotId, SystemId, Timeline,
    TimelineHistory, WalName,
};
use hikae_repo::log::SnapshotRef;
use hikae_repo::wal::{StoredWal, WalArchive};
use hikae_repo::{Repo, RepoError};
use hikae_source::postgresql_cluster::{KIND, Manifest};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A cluster, as one repository knows it.
pub struct KeptCluster {
    /// The source whose snapshots its bases are.
    pub source: String,
    /// Which cluster.
    pub system: SystemId,
    /// What is to be known of each base.
    pub manifests: BTreeMap<SnapshotId, Manifest>,
    /// Its bases, in no order.
    pub bases: Vec<Base>,
    /// Its log.
    pub archive: Archive,
    /// Each file of its log, as it is stored.
    pub stored: BTreeMap<WalName, StoredWal>,
    /// Where it can come back to.
    pub window: Window,
    /// Timelines whose history is kept and cannot be opened with this key.
    sealed: BTreeSet<Timeline>,
    wal: WalArchive,
}

impl KeptCluster {
    /// Looks at the complete snapshots of `source`, and at the log of the cluster of the newest. Those of another cluster
    /// or kind, which the source was before, are left out, and so is what is damaged: nothing can be reached by it.
    ///
    /// # Errors
    /// [`OpsError::Refused`] if there is no base backup of that source; what is damaged, if all of them are; any other
    /// failure to read the repository.
    pub fn read(repo: &Arc<Repo>, source: &str, cx: &Cx) -> Result<Self, OpsError> {
        let mut manifests = BTreeMap::new();
        let mut newest: Option<(Timestamp, SystemId)> = None;
        let mut damage = None;
        let state = repo.follow()?;
        for snapshot in state.newest_first(Some(source)) {
            cx.check()?;
            let SnapshotRef { id, complete, .. } = snapshot.snapshot;
            let manifest = match complete.then(|| manifest_of(repo, id)).transpose() {
                Ok(Some(Some(manifest))) => manifest,
                Ok(_) => continue,
                Err(error) if error.is_damage() => {
                    damage.get_or_insert(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let (system, _) = base_of(id, &manifest)?;
            newest = newest.max(Some((manifest.stopped, system)));
            manifests.insert(id, manifest);
        }
        let Some((_, system)) = newest else {
            if let Some(damage) = damage {
                return Err(damage);
            }
            let what = format!("there is no base backup of {source}");
            let advice = "`hikae list` shows what there is; base backups are made of sources of kind postgresql-cluster";
            return Err(OpsError::refused(ErrorCode::Usage, what, Some(advice.into())));
        };
        manifests.retain(|_, manifest| manifest.system_id == system.to_string());
        let bases = manifests
            .iter()
            .map(|(id, manifest)| Ok(base_of(*id, manifest)?.1))
            .collect::<Result<Vec<_>, OpsError>>()?;
        let size = manifests.values().map(|manifest| manifest.segment_size).max().and_then(SegmentSize::new);
        let wal = WalArchive::of(repo);
        let stored: BTreeMap<WalName, StoredWal> = wal
            .list()?
            .remove(&system)
            .unwrap_or_default()
            .into_iter()
            .map(|file| (file.name, file))
            .collect();
        let (histories, sealed) = histories(&wal, system, stored.keys(), cx)?;
        let size = size.unwrap_or(SegmentSize::USUAL);
        let segments: BTreeSet<SegmentName> = stored.keys().filter_map(|name| segment_of(*name)).collect();
        let mut begun = begun(stored.keys(), size);
        begun.retain(|segment, _| !segments.contains(segment));
        let archive = Archive {
            size,
            segments,
            begun,
            histories,
            floors: state
                .floors_in_force()
                .filter(|floor| floor.floor.system == system)
                .map(|floor| floor.floor)
                .collect(),
        };
        let window = Window::of(&bases, &archive);
        Ok(Self { source: source.to_owned(), system, manifests, bases, archive, stored, window, sealed, wal })
    }

    /// True if the history of this timeline is kept and cannot be opened with this key.
    pub fn is_sealed(&self, timeline: Timeline) -> bool {
        self.sealed.contains(&timeline)
    }

    /// When one of its bases ended.
    pub fn moment(&self, base: &Base) -> Timestamp {
        self.manifests[&base.snapshot].stopped
    }

    /// Bytes of a page of its log.
    pub fn wal_page_bytes(&self) -> u32 {
        self.manifests.values().map(|manifest| manifest.wal_block_size).max().unwrap_or(8192)
    }

    /// Length in the repository of a file of its log, or of the parts of one that is not whole.
    pub fn stored_bytes(&self, name: WalName) -> u64 {
        let is_it = |stored: WalName| match (stored, name) {
            (WalName::Part(part), WalName::Segment(segment)) => {
                part.segment == segment && self.archive.begun.contains_key(&segment)
            }
            (stored, name) => stored == name,
        };
        match self.stored.get(&name) {
            Some(file) => file.stored_bytes,
            None => self.stored.values().filter(|file| is_it(file.name)).map(|file| file.stored_bytes).sum(),
        }
    }

    /// A segment of its log, or as much of its beginning as is kept; nothing if there is nothing of it.
    ///
    /// # Errors
    /// Any failure to read it.
    pub fn segment(&self, name: SegmentName) -> Result<Option<Vec<u8>>, OpsError> {
        let mut bytes = Vec::new();
        Ok(self.wal.get_begun(self.system, name, &mut bytes)?.map(|_| bytes))
    }
}

/// The manifest of a base backup; nothing of a snapshot of another kind, nor of a run that did not come to its end.
pub(super) fn manifest_of(repo: &Repo, snapshot: SnapshotId) -> Result<Option<Manifest>, OpsError> {
    let record = repo.snapshot(snapshot)?.record;
    match record.kind == KIND && (record.complete || record.manifest.is_some()) {
        true => manifest(repo, snapshot).map(Some),
        false => Ok(None),
    }
}

/// The clusters of which these sources have base backups now.
///
/// # Errors
/// Any failure to read a manifest that is no damage.
pub(crate) fn systems_of(repo: &Repo, sources: &[String]) -> Result<BTreeSet<SystemId>, OpsError> {
    let state = repo.state();
    let mut systems = BTreeSet::new();
    for source in sources {
        for snapshot in state.newest_first(Some(source)) {
            let id = snapshot.snapshot.id;
            match manifest_of(repo, id) {
                Ok(Some(manifest)) => {
                    systems.insert(base_of(id, &manifest)?.0);
                    break;
                }
                Ok(None) => {}
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(systems)
}

fn segment_of(name: WalName) -> Option<SegmentName> {
    match name {
        WalName::Segment(segment) => Some(segment),
        _ => None,
    }
}

/// Where what is kept of each segment ends that has parts.
fn begun<'a>(names: impl Iterator<Item = &'a WalName>, size: SegmentSize) -> BTreeMap<SegmentName, Lsn> {
    let mut parts: BTreeMap<SegmentName, Vec<SegmentPart>> = BTreeMap::new();
    for name in names {
        if let WalName::Part(part) = name {
            parts.entry(part.segment).or_default().push(*part);
        }
    }
    let end = |parts| SegmentPart::chain(parts).last().and_then(|last| last.end(size));
    parts.into_iter().filter_map(|(segment, parts)| Some((segment, end(parts)?))).collect()
}

/// The histories that can be read: without one, nothing leads to its timeline. And those that this key does not open.
fn histories<'a>(
    wal: &WalArchive,
    system: SystemId,
    names: impl Iterator<Item = &'a WalName>,
    cx: &Cx,
) -> Result<(BTreeMap<Timeline, TimelineHistory>, BTreeSet<Timeline>), OpsError> {
    let (mut histories, mut sealed) = (BTreeMap::new(), BTreeSet::new());
    for name in names {
        let WalName::History(timeline) = name else { continue };
        cx.check()?;
        let mut text = Vec::new();
        let got = wal.get(system, *name, &mut text).map_err(OpsError::from);
        let read = got.and_then(|_| TimelineHistory::parse(*timeline, &text).map_err(|error| bad(&error)));
        match read {
            Ok(history) => drop(histories.insert(*timeline, history)),
            Err(OpsError::Repo(RepoError::NeedsIdentity)) => drop(sealed.insert(*timeline)),
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error),
        }
    }
    Ok((histories, sealed))
}

/// The cluster of a base backup, and its places.
pub(super) fn base_of(snapshot: SnapshotId, manifest: &Manifest) -> Result<(SystemId, Base), OpsError> {
    let system = parsed(&manifest.system_id)?;
    let timeline = Timeline::new(manifest.timeline).ok_or_else(|| bad(&"timeline 0"))?;
    let (start, stop) = (parsed::<Lsn>(&manifest.start_lsn)?, parsed::<Lsn>(&manifest.stop_lsn)?);
    Ok((system, Base { snapshot, timeline, start, stop, brings_its_log: manifest.wal_included }))
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, OpsError> {
    text.parse().map_err(|error| bad(&error))
}

fn bad(why: &dyn std::fmt::Display) -> OpsError {
    let what = format!("what is kept of the cluster cannot be read: {why}");
    let advice = "`hikae verify` says what is damaged";
    OpsError::refused(ErrorCode::VerificationFailed, what, Some(advice.into()))
}
