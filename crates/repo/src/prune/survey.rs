//! What prune decides on: read once, at one entry of the log, into plain tables.
//!
//! Any error while reading ends the survey (PO7): what could not be read is never taken as absent. The list of
//! packs is the one thing that may be wrong without an error, so nothing but orphans follows from it alone: a
//! pack that it does not show is asked for by name.
//!
//! Memory: 16 bytes for each reachable blob, 12 for each copy of one, 44 for each frame; while an index object
//! is read, about 100 bytes for each of its blobs, of which it has about 128 Ki.

use crate::RepoError;
use crate::index::{IndexedPack, Segment};
use crate::index_set::IndexSet;
use crate::layout;
use crate::log::FrameName;
use crate::pack::PackedFrame;
use crate::prune::PruneStop;
use crate::reach::Named;
use crate::reader::BlobReader;
use crate::repo::Repo;
use crate::state::State;
use hikae_model::{BlobId, Cx, IndexId, PackId, SnapshotId, WriterId, sabotage};
use hikae_store::ObjectKey;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::str::FromStr;
use std::sync::Arc;

/// The first half of a blob's name. Names are keyed hashes, so no two blobs of one repository share it; a
/// writer that invents one so spoils only copies of its own trust group.
pub type BlobPrefix = [u8; 16];

/// The repository as of one entry of the log. Numbers of packs, frames and so on are places in these tables.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// The entry.
    pub n: u64,
    /// The time, by the store's clock.
    pub now: Timestamp,
    /// How many snapshots there are.
    pub n_snapshots: usize,
    /// Every blob that they need, sorted.
    pub blobs: Vec<BlobPrefix>,
    /// Every pack that a living index names. Twice, if two index objects differ on its length: one of them
    /// lies, and what it says must not harm the other.
    pub packs: Vec<SurveyedPack>,
    /// Its frames, those of one pack together unless several index objects name it.
    pub frames: Vec<SurveyedFrame>,
    /// Every place of a blob that is needed.
    pub copies: Vec<BlobCopy>,
    /// The living index objects.
    pub indexes: Vec<SurveyedIndex>,
    /// Packs that are stored, named by no living index and not doomed.
    pub orphans: Vec<Orphan>,
    /// Index objects that are stored, and that no entry has named or doomed.
    pub index_orphans: Vec<NamedOrphan<IndexId>>,
    /// Snapshot records that are stored, and that no entry has named or doomed, or that were removed by one.
    pub snapshot_orphans: Vec<NamedOrphan<SnapshotId>>,
    /// Forgotten snapshots whose soft period has not begun.
    pub forgotten: BTreeSet<SnapshotId>,
    /// How many packs of those that a living index names the list did not show.
    pub n_unlisted: usize,
    /// How many packs were doomed before and wait for their soft period.
    pub n_waiting: usize,
    /// Bytes of those that the list showed.
    pub waiting_bytes: u64,
    /// What the last prune said was sparse.
    pub sparse: BTreeSet<FrameName>,
}

/// A pack that a living index names.
#[derive(Clone, Debug)]
pub struct SurveyedPack {
    /// Its name.
    pub id: PackId,
    /// Its length, as the index says.
    pub bytes: u64,
    /// Whether its copies count.
    pub presence: Presence,
}

/// Whether copies in a pack count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Presence {
    /// They do.
    Good,
    /// The store is sure that it has no such pack.
    Missing,
    /// The store has it in another length.
    OtherLength,
    /// The log says that it was found damaged.
    Damaged,
    /// The log has doomed it.
    Doomed,
}

/// A frame of a pack that a living index names.
#[derive(Clone, Debug)]
pub struct SurveyedFrame {
    /// Number of its pack.
    pub pack: u32,
    /// Number of the index object that names it.
    pub index: u32,
    /// Its name.
    pub name: FrameName,
    /// Where it begins in the pack.
    pub offset: u32,
    /// How long it is there.
    pub stored_bytes: u32,
    /// How long its blobs are together.
    pub plain_bytes: u32,
}

/// One place of one blob that is needed.
#[derive(Clone, Copy, Debug)]
pub struct BlobCopy {
    /// Number of the blob.
    pub blob: u32,
    /// Number of the frame.
    pub frame: u32,
    /// Length of the blob.
    pub bytes: u32,
}

/// A living index object.
#[derive(Clone, Debug)]
pub struct SurveyedIndex {
    /// Its name.
    pub id: IndexId,
    /// Who vouches for it.
    pub voucher: WriterId,
    /// Number of that writer's trust group.
    pub group: u16,
    /// True if it is in one. Who is not enrolled or was distrusted has a number of its own.
    pub is_trusted: bool,
    /// How many blobs it names.
    pub n_blobs: usize,
    /// Numbers of the packs that it names.
    pub packs: Vec<u32>,
}

/// A pack that nothing names.
#[derive(Clone, Copy, Debug)]
pub struct Orphan {
    /// Its name.
    pub id: PackId,
    /// Its length.
    pub bytes: u64,
    /// When it was stored, by the store's clock.
    pub stored: Timestamp,
}

/// An object of metadata that nothing names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedOrphan<Id> {
    /// Its name.
    pub id: Id,
    /// When it was stored, by the store's clock.
    pub stored: Timestamp,
}

/// What is read of the list of packs.
struct Listed {
    bytes: u64,
    stored: Timestamp,
}

impl Survey {
    /// Reads everything. `own` are packs that this prune has made and that no entry names yet.
    pub(super) fn read(
        repo: &Repo,
        state: &State,
        index: &Arc<IndexSet>,
        own: &HashSet<PackId>,
        now: Timestamp,
        cx: &Cx,
    ) -> Result<Self, RepoError> {
        let mut survey = Self { n: state.n, now, sparse: state.sparse.clone(), ..Self::default() };
        survey.blobs = reachable(repo, state, index, cx)?;
        survey.n_snapshots = state.snapshots.len();
        let mut listed = list_packs(repo)?;
        survey.add_indexes(repo, state, index, &listed, cx)?;
        if sabotage::on("orphan-is-a-copy") {
            survey.add_orphans_as_copies(repo, state, &listed)?;
        }
        for pack in &survey.packs {
            listed.remove(&pack.id);
        }
        survey.n_waiting = state.doomed.len();
        for (id, Listed { bytes, stored }) in listed {
            if state.doomed.contains_key(&id) {
                survey.waiting_bytes += bytes;
            } else if !own.contains(&id) {
                survey.orphans.push(Orphan { id, bytes, stored });
            }
        }
        survey.orphans.sort_by_key(|orphan| orphan.id);
        let is_known = |id: &IndexId| state.indexes.contains_key(id) || state.stale_indexes.contains_key(id);
        survey.index_orphans = unnamed(repo, layout::INDEX, &layout::index, &is_known)?;
        let is_known = |id: &SnapshotId| state.knows(*id) || state.stale_snapshots.contains_key(id);
        survey.snapshot_orphans = unnamed(repo, layout::SNAPSHOTS, &layout::snapshot, &is_known)?;
        let forgotten = state.forgotten.iter().filter(|(_, forgotten)| forgotten.doom.is_none());
        survey.forgotten = forgotten.map(|(id, _)| *id).collect();
        Ok(survey)
    }

    /// Takes every living index object into the tables.
    fn add_indexes(
        &mut self,
        repo: &Repo,
        state: &State,
        index: &IndexSet,
        listed: &HashMap<PackId, Listed>,
        cx: &Cx,
    ) -> Result<(), RepoError> {
        let mut packs: HashMap<IndexedPack, u32> = HashMap::new();
        let mut groups: BTreeMap<String, u16> = BTreeMap::new();
        for segment in index.segments() {
            cx.check()?;
            let Some(vouched) = state.indexes.get(&segment.id) else { continue };
            // Who is in no group is one of his own.
            let group = state.group_of(vouched.writer);
            let is_trusted = group.is_some();
            let group = match group {
                Some(group) => format!("group {group}"),
                None => format!("writer {}", vouched.writer),
            };
            let next = groups.len() as u16;
            let group = *groups.entry(group).or_insert(next);
            let number = self.indexes.len() as u32;
            self.indexes.push(SurveyedIndex {
                id: segment.id,
                voucher: vouched.writer,
                group,
                is_trusted,
                n_blobs: segment.n_blobs(),
                packs: Vec::new(),
            });
            for pack in segment.packs() {
                let next = self.packs.len() as u32;
                let at = *packs.entry(*pack).or_insert(next);
                if at == next {
                    let presence = self.presence(repo, state, pack.id, pack.bytes, listed)?;
                    self.packs.push(SurveyedPack { id: pack.id, bytes: pack.bytes, presence });
                }
                self.indexes[number as usize].packs.push(at);
            }
            self.add_frames(segment, number, &packs)?;
        }
        Ok(())
    }

    fn presence(
        &mut self,
        repo: &Repo,
        state: &State,
        id: PackId,
        bytes: u64,
        listed: &HashMap<PackId, Listed>,
    ) -> Result<Presence, RepoError> {
        let length = match listed.get(&id) {
            Some(listed) => Some(listed.bytes),
            None => {
                self.n_unlisted += 1;
                match repo.store().stat(&layout::pack(id)) {
                    Ok(object) => Some(object.bytes),
                    Err(error) if error.is_not_found() => None,
                    Err(error) => return Err(error.into()),
                }
            }
        };
        Ok(match length {
            _ if state.doomed.contains_key(&id) => Presence::Doomed,
            None => Presence::Missing,
            Some(length) if length != bytes => Presence::OtherLength,
            Some(_) if state.damaged.contains(&id) => Presence::Damaged,
            Some(_) => Presence::Good,
        })
    }

    fn add_frames(
        &mut self,
        segment: &Segment,
        index: u32,
        packs: &HashMap<IndexedPack, u32>,
    ) -> Result<(), RepoError> {
        segment.each_pack(&mut |pack, frames| {
            let number = packs[&pack];
            frames.iter().for_each(|frame| self.add_frame(number, index, frame));
            Ok(())
        })
    }

    fn add_frame(&mut self, pack: u32, index: u32, frame: &PackedFrame) {
        let number = self.frames.len() as u32;
        self.frames.push(SurveyedFrame {
            pack,
            index,
            name: FrameName { session: frame.head.session, number: frame.head.number },
            offset: frame.offset,
            stored_bytes: frame.stored_bytes,
            plain_bytes: frame.head.plain_bytes,
        });
        for blob in &frame.blobs {
            if let Ok(at) = self.blobs.binary_search(&prefix(blob.id)) {
                self.copies.push(BlobCopy { blob: at as u32, frame: number, bytes: blob.bytes });
            }
        }
    }

    /// The bug that the model calls "orphan counts as a copy".
    fn add_orphans_as_copies(
        &mut self,
        repo: &Repo,
        state: &State,
        listed: &HashMap<PackId, Listed>,
    ) -> Result<(), RepoError> {
        let named: HashSet<_> = self.packs.iter().map(|pack| pack.id).collect();
        for (id, Listed { bytes, .. }) in listed {
            if !named.contains(id) && !state.doomed.contains_key(id) && !self.indexes.is_empty() {
                let footer = crate::pack::Footer::read(repo.store(), *id, repo.keys())?;
                let pack = self.packs.len() as u32;
                self.packs.push(SurveyedPack { id: *id, bytes: *bytes, presence: Presence::Good });
                footer.frames.iter().for_each(|frame| self.add_frame(pack, 0, frame));
            }
        }
        Ok(())
    }
}

/// The objects of a directory that are none of those that are known. An error is one: an orphan that does not show
/// stays, and only orphans follow from a list.
fn unnamed<Id: Copy + FromStr>(
    repo: &Repo,
    directory: &str,
    key_of: &dyn Fn(Id) -> ObjectKey,
    is_known: &dyn Fn(&Id) -> bool,
) -> Result<Vec<NamedOrphan<Id>>, RepoError> {
    let mut orphans = Vec::new();
    repo.store().list(directory, &mut |object| {
        let id = layout::name_of::<Id>(&object.key).filter(|id| key_of(*id) == object.key);
        orphans.extend(id.filter(|id| !is_known(id)).map(|id| NamedOrphan { id, stored: object.stored }));
    })?;
    Ok(orphans)
}

fn list_packs(repo: &Repo) -> Result<HashMap<PackId, Listed>, RepoError> {
    let mut listed = HashMap::new();
    let whole = repo.store().list(layout::PACKS, &mut |object| {
        // What has no pack's name is none of ours.
        if let Some(id) = layout::name_of::<PackId>(&object.key)
            && layout::pack(id) == object.key
        {
            listed.insert(id, Listed { bytes: object.bytes, stored: object.stored });
        }
    });
    if !sabotage::on("list-error-is-empty") {
        whole?;
    }
    Ok(listed)
}

/// Every blob that a snapshot of `state` needs, sorted. Hunks that several snapshots share are read once.
fn reachable(
    repo: &Repo,
    state: &State,
    index: &Arc<IndexSet>,
    cx: &Cx,
) -> Result<Vec<BlobPrefix>, RepoError> {
    let mut reader = BlobReader::over(repo, index.clone())?;
    let mut blobs = BlobCollector::default();
    let mut walked = HashSet::new();
    let mut lost = Vec::new();
    for id in state.snapshots.keys() {
        cx.check()?;
        let snapshot = match repo.snapshot(*id) {
            Err(_) if sabotage::on("unread-is-absent") => continue,
            Err(error) if error.is_damage() => {
                lost.push(*id);
                continue;
            }
            snapshot => snapshot?,
        };
        let record = &snapshot.record;
        [record.listing, record.manifest, record.problems].into_iter().flatten().for_each(|id| blobs.add(id));
        if record.listing.is_some_and(|listing| !walked.insert(prefix(listing))) {
            continue;
        }
        let named = Named { id: *id, record };
        for hunk in reader.hunks(named)? {
            cx.check()?;
            if walked.insert(prefix(hunk.blob)) {
                reader.each_blob_of_hunk(named, &hunk, &mut |_, blob| {
                    blobs.add(blob);
                    Ok(())
                })?;
            }
        }
    }
    match lost.first() {
        Some(first) => Err(PruneStop::RecordsLost { n: lost.len(), first: *first }.into()),
        None => Ok(blobs.finish()),
    }
}

/// A set that takes 16 bytes for each blob, and as much again while it grows.
#[derive(Default)]
struct BlobCollector {
    blobs: Vec<BlobPrefix>,
    distinct: usize,
}

impl BlobCollector {
    fn add(&mut self, id: BlobId) {
        const SLACK: usize = 64 << 10;
        if self.blobs.len() >= 2 * self.distinct + SLACK {
            self.sort();
        }
        self.blobs.push(prefix(id));
    }

    fn sort(&mut self) {
        self.blobs.sort_unstable();
        self.blobs.dedup();
        self.distinct = self.blobs.len();
    }

    fn finish(mut self) -> Vec<BlobPrefix> {
        self.sort();
        self.blobs.shrink_to_fit();
        self.blobs
    }
}

fn prefix(id: BlobId) -> BlobPrefix {
    id.as_bytes().first_chunk().copied().unwrap_or_default()
}
