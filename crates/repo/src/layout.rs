//! Where things stand in a store.
//!
//! ```text
//! hikae.json  keys/<id>  packs/<2 hex>/<id>  index/<id>  snapshots/<id>  log/<n>  checkpoints/<n>  evidence/<id>  leases/<id>
//! wal/<system id>/<timeline>/<file name in lower case>  wal/<system id>/<timeline>/parts/<segment>.<from>-<to>
//! wal/<system id>/<timeline>/bundles/<first segment>-<last segment>.<id>
//! ```

use crate::wal::BundleName;
use hikae_model::{EvidenceId, IndexId, PackId, RunId, SlotId, SnapshotId, SystemId, Timeline, WalName};
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
pub(crate) const WAL: &str = "wal";

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

/// Where the write-ahead log of a cluster stands.
pub fn wal_directory(system: SystemId) -> String {
    format!("{WAL}/{:020}", system.0)
}

/// Where the parts of segments of a timeline stand: apart from its files, so that the few of them are listed at once.
pub(crate) fn wal_parts(system: SystemId, timeline: Timeline) -> String {
    format!("{}/{:08x}/parts", wal_directory(system), timeline.get())
}

/// Where the bundles of segments of a timeline stand.
pub(crate) fn wal_bundles(system: SystemId, timeline: Timeline) -> String {
    format!("{}/{:08x}/bundles", wal_directory(system), timeline.get())
}

/// A bundle of segments of a cluster.
pub fn wal_bundle(system: SystemId, name: BundleName) -> ObjectKey {
    key(format!("{}/{name}", wal_bundles(system, name.first.timeline)))
}

/// Which bundle of which cluster stands under a key, if one does.
pub fn wal_bundle_of(key: &ObjectKey) -> Option<(SystemId, BundleName)> {
    let mut words = key.as_str().split('/');
    let (system, name) = (words.nth(1)?.parse().ok()?, words.next_back()?.parse().ok()?);
    (wal_bundle(system, name) == *key).then_some((system, name))
}

/// A file of the write-ahead log of a cluster.
pub fn wal(system: SystemId, name: WalName) -> ObjectKey {
    let file = name.to_string().to_ascii_lowercase();
    let timeline = name.timeline();
    key(match name {
        WalName::Part(_) => format!("{}/{file}", wal_parts(system, timeline)),
        _ => format!("{}/{:08x}/{file}", wal_directory(system), timeline.get()),
    })
}

/// Which file of which cluster stands under a key, if one does.
pub fn wal_of(key: &ObjectKey) -> Option<(SystemId, WalName)> {
    let mut words = key.as_str().split('/');
    let (system, file) = (words.nth(1)?, words.next_back()?);
    // Digits are in upper case, and what follows them is in lower case.
    let upper = |part: &str| match part {
        "partial" | "backup" | "history" => part.to_owned(),
        digits => digits.to_ascii_uppercase(),
    };
    let name = file.split('.').map(upper).collect::<Vec<_>>().join(".").parse().ok()?;
    let system = system.parse().ok()?;
    (wal(system, name) == *key).then_some((system, name))
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

    #[test]
    fn files_of_the_write_ahead_log_have_one_name_each() {
        let system = SystemId(7_000_000_000_000_000_001);
        for (name, file) in [
            ("0000000A000000A9000000FF", "0000000a/0000000a000000a9000000ff"),
            ("0000000A000000A9000000FF.partial", "0000000a/0000000a000000a9000000ff.partial"),
            ("000000010000000000000002.0000AB28.backup", "00000001/000000010000000000000002.0000ab28.backup"),
            ("0000000B.history", "0000000b/0000000b.history"),
            (
                "0000000A000000A9000000FF.0000AB28-00C00000",
                "0000000a/parts/0000000a000000a9000000ff.0000ab28-00c00000",
            ),
        ] {
            let name: WalName = name.parse().unwrap();
            let key = wal(system, name);
            assert_eq!(key.as_str(), format!("wal/07000000000000000001/{file}"));
            assert_eq!(wal_of(&key), Some((system, name)));
        }
        for foreign in [
            "wal/7000000000000000001/0000000b/0000000b.history",
            "wal/07000000000000000001/0000000a/0000000b.history",
            "wal/07000000000000000001/0000000b.history",
            "wal/07000000000000000001/0000000a/0000000a000000a9000000ff.0000ab28-00c00000",
            "wal/07000000000000000001/0000000a/parts/0000000a000000a9000000ff",
            "wal/07000000000000000001/0000000b/0000000b.histor",
            "wal/99999999999999999999/0000000b/0000000b.history",
            "x/wal/07000000000000000001/0000000b/0000000b.history",
        ] {
            assert_eq!(wal_of(&ObjectKey::parse(foreign).unwrap()), None, "{foreign}");
        }
    }

    #[test]
    fn a_bundle_has_one_name_and_is_no_file() {
        let segments = "0000000a000000a9000000f0-0000000a000000aa00000001";
        let name = format!("{segments}.{}", "ab".repeat(32));
        let place = format!("wal/07000000000000000001/0000000a/bundles/{name}");
        let key = ObjectKey::parse(place).unwrap();
        let (system, bundle) = wal_bundle_of(&key).unwrap();
        assert_eq!((wal_bundle(system, bundle), wal_of(&key)), (key, None));
        for foreign in [
            format!("wal/07000000000000000001/0000000b/bundles/{name}"),
            format!("wal/07000000000000000001/0000000a/{name}"),
            format!("wal/07000000000000000001/0000000a/bundles/{segments}"),
            format!("wal/07000000000000000001/0000000a/bundles/{segments}.ab"),
            format!(
                "wal/07000000000000000001/0000000a/bundles/0000000a000000aa00000001-0000000a000000a9000000f0.{}",
                "ab".repeat(32)
            ),
            format!(
                "wal/07000000000000000001/0000000a/bundles/0000000a000000a9000000f0-0000000b000000aa00000001.{}",
                "ab".repeat(32)
            ),
        ] {
            assert_eq!(wal_bundle_of(&ObjectKey::parse(foreign.as_str()).unwrap()), None, "{foreign}");
        }
    }
}
