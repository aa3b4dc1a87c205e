//! Whether a copy is complete: what its snapshots say of themselves, against what is really there.

use crate::RepoError;
use crate::index::IndexedPack;
use crate::keys::BlobClass;
use crate::layout;
use crate::reach::Named;
use crate::reader::BlobReader;
use crate::repo::Repo;
use hikae_model::{BlobId, Cx, PackId, SnapshotId, sabotage};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// What was found of some snapshots. Nothing of their contents was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Completeness {
    /// Entries that the records name, and that the listings hold.
    pub entries: Matched,
    /// Bytes of content, likewise.
    pub bytes: Matched,
    /// Packs that the snapshots need, and those of them that stand in the store, as long as they should be.
    pub packs: Matched,
    /// The snapshots of which something is missing, and what.
    pub missing: BTreeMap<SnapshotId, String>,
}

/// How many there should be and how many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Matched {
    /// So many there should be.
    pub expected: u64,
    /// So many there are.
    pub found: u64,
}

/// Compares what `ids` need with the listing of the store, and their records with what they list.
///
/// # Errors
/// Any failure to read that is no damage.
pub fn completeness(repo: &Repo, ids: &[SnapshotId], cx: &Cx) -> Result<Completeness, RepoError> {
    repo.set_copies_aside();
    let mut stored: HashMap<PackId, u64> = HashMap::new();
    repo.store().list(layout::PACKS, &mut |object| {
        stored.extend(layout::name_of::<PackId>(&object.key).map(|id| (id, object.bytes)));
    })?;
    repo.follow()?;
    let index = repo.index()?;
    let named: HashSet<IndexedPack> = index.packs().copied().collect();
    stored.retain(|id, bytes| named.contains(&IndexedPack { id: *id, bytes: *bytes }));
    let mut walk = Walk { repo, stored, needed: BTreeSet::new(), found: Completeness::default() };
    for id in ids {
        cx.check()?;
        match walk.snapshot(*id) {
            Ok(()) => {}
            Err(error) if error.is_damage() => drop(walk.found.missing.insert(*id, error.to_string())),
            Err(error) => return Err(error),
        }
    }
    walk.found.packs.expected = walk.needed.len() as u64;
    walk.found.packs.found = walk.needed.iter().filter(|pack| walk.stored.contains_key(pack)).count() as u64;
    Ok(walk.found)
}

struct Walk<'a> {
    repo: &'a Repo,
    stored: HashMap<PackId, u64>,
    needed: BTreeSet<PackId>,
    found: Completeness,
}

impl Walk<'_> {
    fn snapshot(&mut self, id: SnapshotId) -> Result<(), RepoError> {
        let record = self.repo.snapshot(id)?.record;
        let named = Named { id, record: &record };
        let mut reader = BlobReader::new(self.repo)?;
        let (mut n_entries, mut bytes) = (0, 0);
        let mut blobs: HashSet<(BlobClass, BlobId)> = HashSet::new();
        let own = [record.listing, record.manifest, record.problems];
        blobs.extend(own.into_iter().flatten().map(|blob| (BlobClass::Metadata, blob)));
        for hunk in reader.hunks(named)? {
            for entry in reader.hunk(named, &hunk)? {
                n_entries += 1;
                bytes += entry.entry.size();
            }
            reader.each_blob_of_hunk(named, &hunk, &mut |class, blob| {
                blobs.insert((class, blob));
                Ok(())
            })?;
        }
        self.found.entries.expected += record.entries;
        self.found.entries.found += n_entries;
        self.found.bytes.expected += record.bytes;
        self.found.bytes.found += bytes;
        let mut lacks = 0_u64;
        for (_, blob) in blobs {
            let places = reader.places(blob)?;
            let there = places.iter().find(|place| self.stored.contains_key(&place.pack));
            self.needed.extend(there.or(places.first()).map(|place| place.pack));
            lacks += u64::from(there.is_none());
        }
        if lacks > 0 && !sabotage::on("incomplete-copy-unseen") {
            let what = format!("{lacks} of its blobs are in no pack that stands in the store");
            self.found.missing.insert(id, what);
        } else if (n_entries, bytes) != (record.entries, record.bytes) {
            let what = format!(
                "it lists {n_entries} entries and {bytes} bytes, and says {} and {}",
                record.entries, record.bytes
            );
            self.found.missing.insert(id, what);
        }
        Ok(())
    }
}
