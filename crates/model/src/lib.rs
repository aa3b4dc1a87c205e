//! The nouns of hikae, without any I/O: ids, times, paths, entries, problems, and the context `Cx`.
//!
//! Every other crate knows this one; this one knows none of them.

mod advise;
mod content;
mod cx;
mod entry;
mod failure;
mod id;
mod path;
mod problem;
pub mod sabotage;
mod size;
mod timeline_history;
mod wal;

pub use advise::{Advise, ErrorCode, Hint, with_causes};
pub use content::{ContentError, Cut, ReadContent, Stretch};
pub use cx::{Cancel, Cancelled, Clock, Cx, Phase, Progress, ProgressNow, Random, Step};
pub use entry::{Attributes, Entry, EntryKind, FileTime, Xattr};
pub use failure::Failure;
pub use id::{
    BadId, BlobId, BundleId, EpochId, EvidenceId, FamilyId, HashKey, IndexId, PackId, RepositoryId, RunId,
    SessionId, SlotId, SnapshotId, WriterId,
};
pub use path::{BadTreePath, TreePath};
pub use problem::{Outcome, Problem};
pub use size::{Bytes, Count};
pub use timeline_history::{Ancestor, BadHistory, TimelineHistory};
pub use wal::{
    BadSegment, BadWalName, Landmark, LandmarkFinder, LandmarkKind, Lsn, SegmentHeader, SegmentName,
    SegmentPart, SegmentSize, SystemId, Timeline, WalName,
};
