//! What two snapshots do not share: entries that came, went or changed. Needs no identity.

use crate::OpsError;
use hikae_model::{Cx, EntryKind, SnapshotId};
use hikae_repo::Repo;
use hikae_repo::listing::StoredEntry;
use hikae_repo::reach::{Entries, Named};
use hikae_repo::reader::BlobReader;
use serde::Serialize;
use std::cmp::Ordering;

/// How one entry differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "change")]
pub enum EntryChange {
    /// Only the second has it.
    Added {
        /// Its length, for files.
        bytes: u64,
    },
    /// Only the first has it.
    Removed {
        /// Its length, for files.
        bytes: u64,
    },
    /// Both have it.
    Changed {
        /// What about it: `kind`, `content`, `mode`, `owner`, `modified`, `xattrs`.
        what: Vec<&'static str>,
        /// Its length in the first.
        bytes_before: u64,
        /// Its length in the second.
        bytes: u64,
    },
}

/// How many entries differ, and by how much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiffTotals {
    /// Entries that only the second has.
    pub added: u64,
    /// Entries that only the first has.
    pub removed: u64,
    /// Entries that both have and that differ.
    pub changed: u64,
    /// Bytes of files that came.
    pub bytes_added: u64,
    /// Bytes of files that went.
    pub bytes_removed: u64,
}

/// Shows every entry in which two snapshots differ, in path order.
///
/// # Errors
/// Any failure to read a listing; whatever `show` says.
pub fn diff(
    repo: &Repo,
    first: SnapshotId,
    second: SnapshotId,
    cx: &Cx,
    show: &mut dyn FnMut(&str, &EntryChange) -> Result<(), OpsError>,
) -> Result<DiffTotals, OpsError> {
    let mut totals = DiffTotals::default();
    let records = [repo.snapshot(first)?.record, repo.snapshot(second)?.record];
    if records[0].listing == records[1].listing {
        return Ok(totals);
    }
    let mut ours = Entries::of(BlobReader::new(repo)?, Named { id: first, record: &records[0] }, None)?;
    let mut theirs = Entries::of(BlobReader::new(repo)?, Named { id: second, record: &records[1] }, None)?;
    let (mut a, mut b) = (ours.next_entry()?, theirs.next_entry()?);
    loop {
        cx.check()?;
        let order = match (&a, &b) {
            (None, None) => return Ok(totals),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => a.entry.path.cmp(&b.entry.path),
        };
        match order {
            Ordering::Less => {
                if let Some(gone) = std::mem::replace(&mut a, ours.next_entry()?) {
                    let bytes = gone.entry.size();
                    totals.removed += 1;
                    totals.bytes_removed += bytes;
                    show(&gone.entry.path.to_string(), &EntryChange::Removed { bytes })?;
                }
            }
            Ordering::Greater => {
                if let Some(come) = std::mem::replace(&mut b, theirs.next_entry()?) {
                    let bytes = come.entry.size();
                    totals.added += 1;
                    totals.bytes_added += bytes;
                    show(&come.entry.path.to_string(), &EntryChange::Added { bytes })?;
                }
            }
            Ordering::Equal => {
                let before = std::mem::replace(&mut a, ours.next_entry()?);
                let after = std::mem::replace(&mut b, theirs.next_entry()?);
                if let (Some(before), Some(after)) = (before, after) {
                    let what = changes(&before, &after);
                    if !what.is_empty() {
                        let (bytes_before, bytes) = (before.entry.size(), after.entry.size());
                        totals.changed += 1;
                        totals.bytes_added += bytes.saturating_sub(bytes_before);
                        totals.bytes_removed += bytes_before.saturating_sub(bytes);
                        let change = EntryChange::Changed { what, bytes_before, bytes };
                        show(&after.entry.path.to_string(), &change)?;
                    }
                }
            }
        }
    }
}

/// What differs between two entries of one path. Inode and time of inode change do not count: a restore does not
/// bring them back.
fn changes(before: &StoredEntry, after: &StoredEntry) -> Vec<&'static str> {
    let (a, b) = (&before.entry.attributes, &after.entry.attributes);
    let is_file = |entry: &StoredEntry| matches!(entry.entry.kind, EntryKind::File { .. });
    let both_files = is_file(before) && is_file(after);
    [
        ("kind", !both_files && before.entry.kind != after.entry.kind),
        (
            "content",
            both_files && (before.content != after.content || before.entry.size() != after.entry.size()),
        ),
        ("mode", a.mode != b.mode),
        ("owner", (a.uid, a.gid) != (b.uid, b.gid)),
        ("modified", a.modified != b.modified),
        ("xattrs", a.xattrs != b.xattrs),
    ]
    .into_iter()
    .filter_map(|(what, differs)| differs.then_some(what))
    .collect()
}
