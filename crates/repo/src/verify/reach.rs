//! Snapshots: every record opens, every listing and map parses, every blob that they need can be found in a
//! pack that is there. What cannot is mapped back to the files that it hits.

use super::{Damage, Found};
use crate::RepoError;
use crate::extent::{Extent, ExtentMap};
use crate::index_set::IndexSet;
use crate::keys::BlobClass;
use crate::layout;
use crate::listing::{Hunk, MapPart, StoredContent, StoredEntry, parse_directory, parse_hunk};
use crate::pieces::parse_pieces;
use crate::reach::Named;
use crate::reader::BlobReader;
use crate::repo::Repo;
use crate::snapshot::Snapshot;
use crate::state::{SnapshotState, State};
use hikae_model::{BlobId, Count, EntryKind, PackId, Problem, SnapshotId, TreePath};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

/// A hit lists no more files than this; it counts the others.
const MAX_FILES: usize = 20;

/// No more blobs without a place are remembered for repair.
const MAX_UNPLACED: usize = 100_000;

/// A snapshot that cannot be restored whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its source.
    pub source: String,
    /// How many entries are hit. All of them, if the list of entries itself is.
    pub n_entries: u64,
    /// Their paths, up to a bound.
    pub paths: Vec<String>,
}

/// What a walk over the snapshots showed.
pub(super) struct Walked {
    pub(super) hits: Vec<Hit>,
    pub(super) n_snapshots: u64,
}

/// The packs in which the blobs of `snapshots` are, as far as their listings can be read.
pub(super) fn packs_of(
    repo: &Repo,
    state: &State,
    index: &Arc<IndexSet>,
    snapshots: &[SnapshotId],
) -> Result<HashSet<PackId>, RepoError> {
    let mut packs = HashSet::new();
    let mut reader = BlobReader::over(repo, index.clone())?;
    for id in snapshots.iter().filter(|id| state.snapshots.contains_key(id)) {
        let walked = repo.snapshot(*id).and_then(|snapshot| {
            reader.each_blob(Named { id: *id, record: &snapshot.record }, &mut |_, blob| {
                let places = index.find(blob, &|pack| !repo.is_doomed(pack))?;
                packs.extend(places.iter().map(|place| place.pack));
                Ok(())
            })
        });
        match walked {
            Ok(()) => {}
            // The walk that follows says so.
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(packs)
}

/// Walks `only` these snapshots, or all.
pub(super) fn walk(
    repo: &Repo,
    state: &State,
    index: &Arc<IndexSet>,
    only: Option<&[SnapshotId]>,
    damage: &mut Damage,
    found: &Found<'_>,
) -> Result<Walked, RepoError> {
    let mut walk = Walk {
        repo,
        state,
        index,
        reader: BlobReader::over(repo, index.clone())?,
        damage,
        hunks: HashMap::new(),
        parts: HashSet::new(),
        lists: HashSet::new(),
    };
    let mut walked = Walked { hits: Vec::new(), n_snapshots: 0 };
    for id in only.into_iter().flatten().filter(|id| !state.snapshots.contains_key(id)) {
        found.add(Problem::new("missing-snapshot", format_args!("snapshot {id}"), "is not in the log"));
    }
    for known in state.snapshots.values() {
        if only.is_some_and(|only| !only.contains(&known.snapshot.id)) {
            continue;
        }
        found.cx.check()?;
        walked.n_snapshots += 1;
        found.cx.progress().add_entries(1);
        let hit = match read_record(repo, state, known)? {
            Ok(snapshot) => {
                note_readable(state, known.snapshot.id, walk.damage, found);
                walk.snapshot(&snapshot, found)?
            }
            // Known, said and out of the way; but who asks for this one is told that it fails.
            Err(error)
                if only.is_none() && state.set_aside.contains(&known.snapshot.id) && error.is_damage() =>
            {
                set_aside(known, &error, found);
                None
            }
            Err(error) => {
                if error.is_damage() {
                    walk.damage.snapshots.insert(known.snapshot.id);
                }
                found.error("damaged-snapshot", layout::snapshot(known.snapshot.id), error)?;
                Some(HunkHits { paths: vec!["all of it".to_owned()], ..HunkHits::default() })
            }
        };
        if let Some(HunkHits { n_entries, paths, .. }) = hit {
            let source = known.snapshot.source.clone();
            let id = known.snapshot.id;
            let on = format!("snapshot {} of {source}", id.short());
            let entries = if n_entries == 1 { "entry is" } else { "entries are" };
            let what = match n_entries {
                0 => "cannot be restored".to_owned(),
                n => format!("cannot be restored whole: {n} {entries} hit"),
            };
            found.add(Problem::new("damaged-snapshot", on, what).advise(format_args!(
                "run `hikae repo repair`, then back up this source: that brings back what is still in it. Of what is gone \
                 for good, restore the rest, then let go with `hikae forget {}`",
                id.short()
            )));
            walked.hits.push(Hit { snapshot: id, source, n_entries, paths });
        }
    }
    if only.is_none() {
        super::objects::names::<SnapshotId>(repo, layout::SNAPSHOTS, found)?;
        for (id, forgotten) in &state.forgotten {
            found.cx.check()?;
            match repo.snapshot(*id) {
                Ok(_) => note_readable(state, *id, walk.damage, found),
                Err(error) if state.set_aside.contains(id) && error.is_damage() => {
                    set_aside(&forgotten.snapshot, &error, found);
                }
                Err(error) => {
                    if error.is_damage() {
                        walk.damage.snapshots.insert(*id);
                    }
                    found.error("damaged-snapshot", layout::snapshot(*id), error)?;
                }
            }
        }
    }
    Ok(walked)
}

/// A snapshot that is set aside and whose record is well is for repair to take back.
fn note_readable(state: &State, id: SnapshotId, damage: &mut Damage, found: &Found<'_>) {
    if state.set_aside.contains(&id) {
        damage.snapshots_well.insert(id);
        let on = format!("snapshot {}", id.short());
        let note = Problem::new("set-aside", on, "is set aside, and its record is well again");
        found.note(note.advise("run `hikae repo repair`, which takes it back"));
    }
}

fn set_aside(known: &SnapshotState, error: &RepoError, found: &Found<'_>) {
    found.hurt(layout::snapshot(known.snapshot.id));
    let on = format!("snapshot {} of {}", known.snapshot.id.short(), known.snapshot.source);
    let what = format_args!("is set aside and cannot be restored: {error}");
    found.note(Problem::new("set-aside", on, what).advise(
        "with a copy of the repository, `hikae repo repair --from DIR` puts its record back; else forget it by its id",
    ));
}

/// Reads a record and compares it with what the log says of it. The inner error is about this snapshot.
fn read_record(
    repo: &Repo,
    state: &State,
    known: &SnapshotState,
) -> Result<Result<Snapshot, RepoError>, RepoError> {
    let id = known.snapshot.id;
    let differs = |what: &str| {
        RepoError::damaged(layout::snapshot(id))(crate::object::BadObject::BadBody(what.to_owned()))
    };
    let snapshot = match repo.snapshot(id) {
        Ok(snapshot) => snapshot,
        Err(error @ (RepoError::Cancelled(_) | RepoError::Cache { .. })) => return Err(error),
        Err(error) => return Ok(Err(error)),
    };
    let said = &known.snapshot;
    let record = &snapshot.record;
    let is_known = state.is_known(snapshot.writer);
    if (&record.source, record.moment, record.complete) != (&said.source, said.moment, said.complete) {
        return Ok(Err(differs("it does not say what the log says of it")));
    }
    Ok(if is_known { Ok(snapshot) } else { Err(differs("nobody who may write here has signed it")) })
}

/// What is hit in one hunk.
#[derive(Clone, Default)]
struct HunkHits {
    n_entries: u64,
    paths: Vec<String>,
    /// The last path of the hunk.
    last: Option<TreePath>,
    /// Its hard links: each one's file, and its own path.
    links: Vec<(TreePath, TreePath)>,
}

impl HunkHits {
    fn add(&mut self, n_entries: u64, path: String) {
        self.n_entries += n_entries;
        if self.paths.len() < MAX_FILES {
            self.paths.push(path);
        }
    }
}

struct Walk<'a> {
    repo: &'a Repo,
    state: &'a State,
    index: &'a Arc<IndexSet>,
    reader: BlobReader<'a>,
    damage: &'a mut Damage,
    /// Hunks that were looked through: most are shared by many snapshots.
    hunks: HashMap<BlobId, Rc<HunkHits>>,
    /// Parts of maps that are well.
    parts: HashSet<BlobId>,
    /// Lists of pieces that are well.
    lists: HashSet<BlobId>,
}

impl Walk<'_> {
    /// Looks through one snapshot. Gives what is hit, if anything is.
    fn snapshot(&mut self, snapshot: &Snapshot, found: &Found<'_>) -> Result<Option<HunkHits>, RepoError> {
        let record = &snapshot.record;
        let mut hits = HunkHits::default();
        for (blob, what) in [(record.manifest, "its manifest"), (record.problems, "its list of problems")] {
            if let Some(blob) = blob
                && self.metadata(blob)?.is_none()
            {
                hits.add(0, what.to_owned());
            }
        }
        let Some(listing) = record.listing else { return Ok(hits.some()) };
        let hunks = self.metadata(listing)?.map(|bytes| parse_directory(&bytes));
        let Some(Ok(hunks)) = hunks else {
            hits.add(record.entries, "the list of its entries".to_owned());
            return Ok(hits.some());
        };
        let (mut n_entries, mut last, mut links) = (0, None, Vec::new());
        for hunk in &hunks {
            found.cx.check()?;
            n_entries += hunk.entries;
            let hit = match self.hunks.get(&hunk.blob) {
                Some(hit) => hit.clone(),
                None => {
                    let hit = Rc::new(self.hunk(hunk)?);
                    self.hunks.insert(hunk.blob, hit.clone());
                    hit
                }
            };
            hits.n_entries += hit.n_entries;
            hits.paths.extend(hit.paths.iter().take(MAX_FILES - hits.paths.len().min(MAX_FILES)).cloned());
            if last.as_ref() >= Some(&hunk.first) {
                hits.add(hunk.entries, format!("{} and what follows", hunk.first));
            }
            last = hit.last.clone().or(last);
            links.extend(hit.links.iter().cloned());
        }
        self.links(&hunks, links, &mut hits)?;
        if n_entries != record.entries {
            hits.add(0, format!("its list has {} entries", Count(n_entries)));
        }
        Ok(hits.some())
    }

    /// Sees that each hard link is to a file of the same listing. Reads each hunk once at most.
    fn links(
        &mut self,
        hunks: &[Hunk],
        mut links: Vec<(TreePath, TreePath)>,
        hits: &mut HunkHits,
    ) -> Result<(), RepoError> {
        links.sort_unstable();
        let hunk_of = |path: &TreePath| hunks.partition_point(|hunk| hunk.first <= *path).checked_sub(1);
        for of_hunk in links.chunk_by(|(a, _), (b, _)| hunk_of(a) == hunk_of(b)) {
            let hunk = of_hunk.first().and_then(|(to, _)| hunk_of(to));
            let bytes = hunk.map(|at| self.metadata(hunks[at].blob)).transpose()?.flatten();
            let entries = bytes.and_then(|bytes| parse_hunk(&bytes).ok()).unwrap_or_default();
            let files = entries.iter().filter(|entry| matches!(entry.entry.kind, EntryKind::File { .. }));
            let files: HashSet<_> = files.map(|entry| &entry.entry.path).collect();
            for (to, path) in of_hunk.iter().filter(|(to, _)| !files.contains(to)) {
                hits.add(1, format!("{path}, a link to {to}, which is no file of the snapshot"));
            }
        }
        Ok(())
    }

    fn hunk(&mut self, hunk: &Hunk) -> Result<HunkHits, RepoError> {
        let mut hits = HunkHits::default();
        let entries = self.metadata(hunk.blob)?.map(|bytes| parse_hunk(&bytes));
        match entries {
            Some(Ok(entries)) if hunk.lists(&entries) => {
                hits.last = entries.last().map(|entry| entry.entry.path.clone());
                for entry in &entries {
                    if let EntryKind::HardLink { to } = &entry.entry.kind {
                        hits.links.push((to.clone(), entry.entry.path.clone()));
                    }
                    if !self.entry(entry)? {
                        hits.add(1, entry.entry.path.to_string());
                    }
                }
            }
            _ => hits.add(hunk.entries, format!("{} and what follows", hunk.first)),
        }
        Ok(hits)
    }

    /// Whether an entry can be restored.
    fn entry(&mut self, entry: &StoredEntry) -> Result<bool, RepoError> {
        let bytes = match &entry.content {
            StoredContent::None => return Ok(entry.entry.size() == 0),
            StoredContent::Inline(map) => match ExtentMap::parse(map) {
                Ok(map) => self.map(&map)?.then(|| map.bytes()),
                Err(_) => None,
            },
            StoredContent::Parts(parts) => {
                let mut bytes = Some(0_u64);
                for part in parts {
                    let is_well = self.part(part)?;
                    bytes = bytes.filter(|_| is_well).and_then(|bytes| bytes.checked_add(part.bytes));
                }
                bytes
            }
        };
        Ok(bytes == Some(entry.entry.size()))
    }

    fn part(&mut self, part: &MapPart) -> Result<bool, RepoError> {
        if self.parts.contains(&part.map) {
            return Ok(true);
        }
        let Some(Ok(map)) = self.metadata(part.map)?.map(|bytes| ExtentMap::parse(&bytes)) else {
            return Ok(false);
        };
        let is_well = self.map(&map)? && map.bytes() == part.bytes;
        if is_well {
            self.parts.insert(part.map);
        }
        Ok(is_well)
    }

    fn map(&mut self, map: &ExtentMap) -> Result<bool, RepoError> {
        let mut is_well = true;
        for extent in map.extents() {
            let Extent::Data { blob, offset, bytes } = *extent else { continue };
            let Some(length) = self.length_of(blob)? else {
                is_well = false;
                continue;
            };
            let end = u64::from(offset).checked_add(bytes);
            is_well &= end.is_some_and(|end| end <= u64::from(length));
            if let Some(list) = map.pieces_of(blob) {
                is_well &= self.list(list, length)?;
            }
        }
        Ok(is_well)
    }

    /// Whether a list of pieces can be read and is as long as its super-block. Without it the next backup
    /// stores the pieces again.
    fn list(&mut self, list: BlobId, block_bytes: u32) -> Result<bool, RepoError> {
        if self.lists.contains(&list) {
            return Ok(true);
        }
        let Some(Ok(pieces)) = self.metadata(list)?.map(|bytes| parse_pieces(&bytes)) else {
            return Ok(false);
        };
        let bytes: u64 = pieces.iter().map(|piece| u64::from(piece.bytes)).sum();
        if bytes == u64::from(block_bytes) {
            self.lists.insert(list);
        }
        Ok(bytes == u64::from(block_bytes))
    }

    /// Reads a blob of metadata, if a good copy of it is there.
    fn metadata(&mut self, blob: BlobId) -> Result<Option<Vec<u8>>, RepoError> {
        if self.length_of(blob)?.is_none() {
            return Ok(None);
        }
        match self.reader.read(BlobClass::Metadata, blob) {
            Ok(blob) => Ok(Some(blob.to_vec())),
            Err(error @ (RepoError::Cancelled(_) | RepoError::Cache { .. })) => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Length of a blob of which a good copy is there.
    fn length_of(&mut self, blob: BlobId) -> Result<Option<u32>, RepoError> {
        let places = self.index.find(blob, &|pack| !self.repo.is_doomed(pack))?;
        if places.is_empty() && self.damage.unplaced.len() < MAX_UNPLACED {
            self.damage.unplaced.insert(blob);
        }
        let good = places.iter().find(|place| {
            let was_read =
                self.damage.well.contains(&place.pack) || self.damage.packs.contains_key(&place.pack);
            (was_read || !self.state.damaged.contains(&place.pack))
                && self.damage.spares(place.pack, place.frame.offset)
        });
        Ok(good.map(|place| place.bytes))
    }
}

impl HunkHits {
    fn some(self) -> Option<Self> {
        (self.n_entries > 0 || !self.paths.is_empty()).then_some(self)
    }
}
