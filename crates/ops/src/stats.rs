//! Where the space of a repository goes: by source, by kind of source, by class of object (IN-51).
//!
//! What several sources share is counted for each of them, and once in the total.

use crate::OpsError;
use hikae_model::{BlobId, Cx};
use hikae_repo::Repo;
use hikae_repo::keys::BlobClass;
use hikae_repo::reach::Named;
use hikae_repo::reader::BlobReader;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Space of a whole repository.
#[derive(Clone, Debug, Serialize)]
pub struct RepositoryStats {
    /// Snapshots.
    pub snapshots: u64,
    /// Objects of each class in the store.
    pub objects: BTreeMap<String, ObjectStats>,
    /// All bytes in the store.
    pub stored_bytes: u64,
    /// Bytes in packs that no snapshot needs: what prune can free now or later.
    pub unneeded_bytes: u64,
    /// Everything that snapshots need, once.
    pub total: Space,
    /// By source.
    pub sources: BTreeMap<String, Space>,
    /// By kind of source.
    pub kinds: BTreeMap<String, Space>,
}

/// Objects of one class.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct ObjectStats {
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Space of some snapshots.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Space {
    /// Snapshots.
    pub snapshots: u64,
    /// Bytes that they would take as full copies.
    pub restored_bytes: u64,
    /// Bytes of different content and metadata.
    pub unique_bytes: u64,
    /// Their share of the packs: compressed and sealed.
    pub stored_bytes: u64,
}

impl Space {
    /// How many times smaller than full copies it is; nothing for an empty repository.
    pub fn factor(&self) -> Option<f64> {
        (self.stored_bytes > 0).then(|| self.restored_bytes as f64 / self.stored_bytes as f64)
    }
}

/// Measures a repository. Reads all listings, and no content.
///
/// # Errors
/// Any failure to read metadata or to list the store.
pub fn stats(repo: &Repo, cx: &Cx) -> Result<RepositoryStats, OpsError> {
    let state = repo.follow()?;
    let mut reader = BlobReader::new(repo)?;
    let mut sizes = Sizes::default();
    let mut total = Measured::default();
    let mut sources: BTreeMap<String, Measured> = BTreeMap::new();
    let mut kinds: BTreeMap<String, Measured> = BTreeMap::new();
    cx.progress().begin("measuring", "snapshots", 0);
    for id in state.snapshots.keys() {
        let record = match repo.snapshot(*id) {
            // One that cannot be read is for `list` and `verify` to name.
            Err(error) if error.is_damage() => continue,
            snapshot => snapshot?.record,
        };
        let named = Named { id: *id, record: &record };
        let mut blobs: Vec<BlobId> =
            [record.listing, record.manifest, record.problems].into_iter().flatten().collect();
        let mut measured = [
            &mut total,
            sources.entry(record.source.clone()).or_default(),
            kinds.entry(record.kind.clone()).or_default(),
        ];
        for hunk in reader.hunks(named)? {
            cx.check()?;
            // Whoever has the hunk has all that it names.
            if measured.iter().all(|one| one.blobs.contains(&hunk.blob)) {
                continue;
            }
            reader.each_blob_of_hunk(named, &hunk, &mut |_: BlobClass, blob| {
                blobs.push(blob);
                Ok(())
            })?;
        }
        for blob in blobs {
            let size = sizes.of(blob, &mut reader)?;
            measured.iter_mut().for_each(|one| one.add(blob, size));
        }
        for one in &mut measured {
            one.space.snapshots += 1;
            one.space.restored_bytes += record.bytes;
        }
        cx.progress().add_entries(1);
    }
    let mut objects: BTreeMap<String, ObjectStats> = BTreeMap::new();
    repo.store().list("", &mut |object| {
        let class = object.key.as_str().split('/').next().unwrap_or_default().to_owned();
        let one = objects.entry(class).or_default();
        one.objects += 1;
        one.bytes += object.bytes;
    })?;
    let in_packs = objects.get("packs").map_or(0, |packs| packs.bytes);
    let spaces = |measured: BTreeMap<String, Measured>| {
        measured.into_iter().map(|(name, one)| (name, one.space)).collect::<BTreeMap<_, _>>()
    };
    Ok(RepositoryStats {
        snapshots: state.snapshots.len() as u64,
        stored_bytes: objects.values().map(|one| one.bytes).sum(),
        unneeded_bytes: in_packs.saturating_sub(total.space.stored_bytes),
        objects,
        total: total.space,
        sources: spaces(sources),
        kinds: spaces(kinds),
    })
}

/// Length of a blob, and its share of the stored bytes of its frame.
#[derive(Clone, Copy)]
struct Size {
    plain: u64,
    stored: u64,
}

#[derive(Default)]
struct Sizes(HashMap<BlobId, Size>);

impl Sizes {
    fn of(&mut self, blob: BlobId, reader: &mut BlobReader<'_>) -> Result<Size, OpsError> {
        if let Some(size) = self.0.get(&blob) {
            return Ok(*size);
        }
        // One that is missing is for `verify` to report.
        let size = reader.places(blob)?.first().map_or(Size { plain: 0, stored: 0 }, |place| {
            let share = u64::from(place.frame.stored_bytes) * u64::from(place.bytes);
            Size {
                plain: u64::from(place.bytes),
                stored: share / u64::from(place.frame.head.plain_bytes).max(1),
            }
        });
        self.0.insert(blob, size);
        Ok(size)
    }
}

#[derive(Default)]
struct Measured {
    blobs: HashSet<BlobId>,
    space: Space,
}

impl Measured {
    fn add(&mut self, blob: BlobId, size: Size) {
        if self.blobs.insert(blob) {
            self.space.unique_bytes += size.plain;
            self.space.stored_bytes += size.stored;
        }
    }
}
