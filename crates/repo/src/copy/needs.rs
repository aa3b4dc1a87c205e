//! What a copy has to bring: the blobs that snapshots need and the target has not.

use super::{LeftSnapshot, OnItsWay};
use crate::RepoError;
use crate::index_set::IndexSet;
use crate::reach::Named;
use crate::reader::BlobReader;
use crate::repo::Repo;
use crate::snapshot::Snapshot;
use crate::state::State;
use hikae_model::{BlobId, Cx, SnapshotId, WriterId};
use std::collections::HashSet;
use std::sync::Arc;

/// What the target has when a copy begins.
pub(super) struct Holdings {
    pub(super) state: Arc<State>,
    pub(super) index: Arc<IndexSet>,
    copier: WriterId,
}

impl Holdings {
    pub(super) fn of(repo: &Repo) -> Result<Self, RepoError> {
        Ok(Self { state: repo.follow()?, index: repo.index()?, copier: repo.signer().id() })
    }

    /// Whether a snapshot may rely on what the target has of a blob.
    pub(super) fn has(&self, blob: BlobId) -> Result<bool, RepoError> {
        self.index.has_good(blob, &self.state, self.copier, &|_| true)
    }
}

/// What is to be brought.
#[derive(Default)]
pub(super) struct Needs {
    /// Snapshots all of whose listing can be read.
    pub(super) snapshots: Vec<OnItsWay>,
    /// The blobs that they need and the target lacks.
    pub(super) lacking: HashSet<BlobId>,
    /// Snapshots that cannot be walked.
    pub(super) left: Vec<LeftSnapshot>,
}

/// Walks what `wanted` snapshots need.
pub(super) fn needs(
    from: &Repo,
    target: &Holdings,
    wanted: impl Iterator<Item = SnapshotId>,
    cx: &Cx,
) -> Result<Needs, RepoError> {
    let mut reader = BlobReader::new(from)?;
    let mut needs = Needs::default();
    // Snapshots of one source share most hunks.
    let mut walked = HashSet::new();
    for id in wanted {
        cx.check()?;
        let mut found = Found::default();
        let walk = Snapshot::read_stored(from.store(), id, from.keys()).and_then(|(snapshot, stored)| {
            // By verify's rule: what nobody has signed who may write is no snapshot there.
            if !target.state.is_known(snapshot.writer) {
                return Err(RepoError::WriterUnknown { writer: snapshot.writer });
            }
            let lacks = |blob| Ok(!needs.lacking.contains(&blob) && !target.has(blob)?);
            found.walk(&mut reader, &snapshot, &walked, &lacks)?;
            Ok(OnItsWay { snapshot: Snapshot { writer: target.copier, ..snapshot }, stored })
        });
        match walk {
            Ok(on_its_way) => {
                needs.snapshots.push(on_its_way);
                needs.lacking.extend(found.lacking);
                walked.extend(found.hunks);
            }
            Err(why) if why.is_damage() || matches!(why, RepoError::WriterUnknown { .. }) => {
                needs.left.push(LeftSnapshot { id, why: Some(why) });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(needs)
}

/// Gives those snapshots that need none of the `lost` blobs; the others are left.
pub(super) fn without_any_of(
    from: &Repo,
    snapshots: Vec<OnItsWay>,
    lost: &HashSet<BlobId>,
    left: &mut Vec<LeftSnapshot>,
) -> Result<Vec<OnItsWay>, RepoError> {
    let mut reader = BlobReader::new(from)?;
    let mut whole = Vec::with_capacity(snapshots.len());
    for on_its_way in snapshots {
        let (mut hit, snapshot) = (false, &on_its_way.snapshot);
        reader.each_blob(Named { id: snapshot.id, record: &snapshot.record }, &mut |_, blob| {
            hit |= lost.contains(&blob);
            Ok(())
        })?;
        match hit {
            true => left.push(LeftSnapshot { id: snapshot.id, why: None }),
            false => whole.push(on_its_way),
        }
    }
    Ok(whole)
}

/// What was found in the walk of one snapshot: nothing of it counts if the walk does not come to its end.
#[derive(Default)]
pub(super) struct Found {
    pub(super) lacking: HashSet<BlobId>,
    pub(super) hunks: HashSet<BlobId>,
}

impl Found {
    /// Walks what a snapshot needs, but for hunks that were `walked` already.
    pub(super) fn walk(
        &mut self,
        reader: &mut BlobReader<'_>,
        snapshot: &Snapshot,
        walked: &HashSet<BlobId>,
        lacks: &dyn Fn(BlobId) -> Result<bool, RepoError>,
    ) -> Result<(), RepoError> {
        let record = &snapshot.record;
        let named = Named { id: snapshot.id, record };
        let Self { lacking, hunks } = self;
        let mut see = |blob| {
            if !lacking.contains(&blob) && lacks(blob)? {
                lacking.insert(blob);
            }
            Ok(())
        };
        [record.listing, record.manifest, record.problems].into_iter().flatten().try_for_each(&mut see)?;
        for hunk in reader.hunks(named)? {
            if !walked.contains(&hunk.blob) && hunks.insert(hunk.blob) {
                reader.each_blob_of_hunk(named, &hunk, &mut |_, blob| see(blob))?;
            }
        }
        Ok(())
    }
}
