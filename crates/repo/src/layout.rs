//! Where things stand in a store.
//!
//! ```text
//! hikae.json  keys/<id>  packs/<2 hex>/<id>  index/<id>  snapshots/<id>  log/<n>  checkpoints/<n>  evidence/<id>  leases/<id>
//! ```

use hikae_model::{EvidenceId, IndexId, PackId, RunId, SlotId, SnapshotId};
use hikae_store::ObjectKey;
use std::str::FromStr;

/// Directories that hold objects named by their hash, and the log.
pub(crate) const KEYS: &str = "keys";
pub(crate) const PACKS: &str = "packs";
pub(crate) const INDEX: &str = "index";
pub(crate) const SNAPSHOTS: &str = "snapshots";
pub(crate) const LOG: &str = "log";
pub(crate) const CHECKPOINTS: &str = "checkpoints";
pub(crate) const EVIDENCE: &str = "evidence";
pub(crate) const LEASES: &str = "leases";

fn key(text: String) -> ObjectKey {
    ObjectKey::parse(text).expect("names of objects are made of hex digits")
}

/// Format, parameters and identity of the repository.
pub fn header() -> ObjectKey {
    key("hikae.json".to_owned())
}

/// A key slot or a key epoch.
pub fn slot(id: SlotId) -> ObjectKey {
    key(format!("{KEYS}/{id}"))
}

/// A pack.
pub fn pack(id: PackId) -> ObjectKey {
    let name = id.to_string();
    key(format!("{PACKS}/{}/{name}", &name[..2]))
}

/// An index object.
pub fn index(id: IndexId) -> ObjectKey {
    key(format!("{INDEX}/{id}"))
}

/// A snapshot record.
pub fn snapshot(id: SnapshotId) -> ObjectKey {
    key(format!("{SNAPSHOTS}/{id}"))
}

/// An entry of the log. Twenty digits, so that names sort as numbers do.
pub fn log_entry(n: u64) -> ObjectKey {
    key(format!("{LOG}/{n:020}"))
}

/// A checkpoint of the log.
pub fn checkpoint(n: u64) -> ObjectKey {
    key(format!("{CHECKPOINTS}/{n:020}"))
}

/// Evidence of a drill.
pub fn evidence(id: EvidenceId) -> ObjectKey {
    key(format!("{EVIDENCE}/{id}"))
}

/// The lease of a run.
pub fn lease(run: RunId) -> ObjectKey {
    key(format!("{LEASES}/{run}"))
}

/// The id or number at the end of a key, if it is one.
pub fn name_of<T: FromStr>(key: &ObjectKey) -> Option<T> {
    key.as_str().rsplit('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_log_entries_sort_as_numbers_and_read_back() {
        assert!(log_entry(9) < log_entry(10));
        assert_eq!(name_of::<u64>(&log_entry(u64::MAX)), Some(u64::MAX));
        let id = PackId::from_bytes([0xab; 32]);
        assert_eq!(name_of::<PackId>(&pack(id)), Some(id));
    }
}
