//! Small index objects become one without a prune, for each of them is a lookup for every new blob.
//!
//! It is an entry of prune that dooms nothing: it needs the right to prune, for who may take index objects away
//! can make packs look like orphans. So a host that only writes merges nothing, and leaves it to who prunes.

use super::NewIndexes;
use crate::RepoError;
use crate::index::{IndexBuilder, TARGET_BLOBS};
use crate::log::{Change, Prune};
use crate::repo::Repo;
use crate::state::State;
use hikae_model::RunId;

/// So many small index objects of one writer are merged.
const SMALL_INDEXES: usize = 8;

/// How long the old ones stay stored, for who looks in them: two weeks.
const SOFT_SECONDS: u64 = 14 * 86_400;

/// Merges our own small index objects if there are many of them. Gives the entry; nothing if there are few, if we
/// may not, or if somebody else was faster: then the next run does it.
///
/// # Errors
/// Any failure to read or to write them. Nothing rests on it.
pub(crate) fn merge_small_indexes(repo: &Repo, state: &State) -> Result<Option<u64>, RepoError> {
    let (own, run) = (repo.signer().id(), RunId::from_bytes(repo.cx().random()));
    let n_own = state.indexes.values().filter(|index| index.writer == own).count();
    if n_own < SMALL_INDEXES || repo.check_may(state, &Change::Prune(Prune::default())).is_err() {
        return Ok(None);
    }
    let index = super::index_at(repo, state)?;
    let is_ours = |id| state.indexes.get(id).is_some_and(|index| index.writer == own);
    let small: Vec<_> = index
        .segments()
        .filter(|segment| is_ours(&segment.id) && segment.n_blobs() < TARGET_BLOBS / 4)
        .collect();
    if small.len() < SMALL_INDEXES {
        return Ok(None);
    }
    let mut change = Prune {
        indexes_removed: small.iter().map(|segment| segment.id).collect(),
        sparse: state.sparse.iter().copied().collect(),
        soft_seconds: SOFT_SECONDS,
        ..Prune::default()
    };
    let mut new = NewIndexes { repo, voucher: own, builder: IndexBuilder::default(), change: &mut change };
    for segment in small {
        segment.each_pack(&mut |pack, frames| {
            new.builder.add(pack, frames, segment.sessions(), segment.epochs());
            new.put_if(false)
        })?;
    }
    new.put_if(true)?;
    repo.append_after(state, run, Change::Prune(change))
}
