//! The parent of a snapshot that is being made: what it has of each entry. It only saves work: what of it cannot be
//! read is said, read anew from the source, and makes the new snapshot no less whole.

use hikae_model::{EntryKind, Problem, SnapshotId, TreePath};
use hikae_repo::listing::{StoredContent, StoredEntry};
use hikae_repo::reach::{Entries, Named};
use hikae_repo::reader::BlobReader;
use hikae_repo::snapshot::Snapshot;
use hikae_repo::{Repo, RepoError};
use std::collections::HashMap;

/// The snapshot `newest`, or what to say of it.
pub(crate) fn read_parent(repo: &Repo, newest: Option<SnapshotId>) -> (Option<Snapshot>, Option<Problem>) {
    match newest.map(|id| (id, repo.snapshot(id))) {
        None => (None, None),
        Some((_, Ok(parent))) => (Some(parent), None),
        Some((id, Err(error))) => (None, Some(unreadable(id, &error))),
    }
}

/// What is said of a parent that cannot be read. It is no problem of the source.
pub(crate) fn unreadable(parent: SnapshotId, error: &RepoError) -> Problem {
    let what = format!("cannot be read, so what it was to save was read anew: {error}");
    Problem::new("parent-unreadable", format!("the snapshot before, {}", parent.short()), what)
        .advise("run `hikae verify`, which says what else is damaged, then `hikae repo repair`")
}

/// The parent's entries, walked beside those of the source: both are in path order. For a source that is not, all of them are
/// in memory.
pub(crate) struct Earlier<'a, 'r> {
    entries: Option<Entries<'a, 'r>>,
    next: Option<StoredEntry>,
    by_path: Option<HashMap<TreePath, StoredEntry>>,
    parent: Option<SnapshotId>,
    /// What to say if it could not be read to its end.
    pub(crate) note: Option<Problem>,
    n_passed_by: u64,
}

impl<'a> Earlier<'a, 'a> {
    /// The entries of `parent`; none if there is no parent, or it cannot be read.
    ///
    /// # Errors
    /// The repository's index cannot be read at all.
    pub(crate) fn of(repo: &'a Repo, parent: Option<&'a Snapshot>) -> Result<Self, RepoError> {
        let mut earlier = Self {
            entries: None,
            next: None,
            by_path: None,
            parent: parent.map(|parent| parent.id),
            note: None,
            n_passed_by: 0,
        };
        if let Some(parent) = parent {
            let named = Named { id: parent.id, record: &parent.record };
            match Entries::of(BlobReader::new(repo)?, named, None) {
                Ok(entries) => earlier.entries = Some(entries),
                Err(error) => earlier.give_up(&error),
            }
            earlier.advance();
        }
        Ok(earlier)
    }

    /// Lets paths come in any order. Only files are kept for it.
    pub(crate) fn find_in_any_order(&mut self) {
        let mut by_path = HashMap::new();
        while let Some(next) = self.next.take() {
            if next.content != StoredContent::None {
                by_path.insert(next.entry.path.clone(), next);
            }
            self.advance();
        }
        self.by_path = Some(by_path);
    }

    /// The parent's entry at `path`. Paths must come in order.
    pub(crate) fn find(&mut self, path: &TreePath) -> Option<StoredEntry> {
        if let Some(by_path) = &mut self.by_path {
            return by_path.remove(path);
        }
        while self.next.as_ref()?.entry.path < *path {
            self.pass_by();
        }
        if self.next.as_ref()?.entry.path != *path {
            return None;
        }
        let found = self.next.take();
        self.advance();
        found
    }

    /// Goes to the end, and says how many files there were that nobody asked for.
    pub(crate) fn n_files_passed_by(mut self) -> u64 {
        while self.next.is_some() {
            self.pass_by();
        }
        self.n_passed_by
    }

    fn pass_by(&mut self) {
        let is_file = |next: &StoredEntry| matches!(next.entry.kind, EntryKind::File { .. });
        self.n_passed_by += u64::from(self.next.as_ref().is_some_and(is_file));
        self.advance();
    }

    /// Reads what the entries name.
    pub(crate) fn reader(&mut self) -> Option<&mut BlobReader<'a>> {
        self.entries.as_mut().map(Entries::reader)
    }

    fn advance(&mut self) {
        self.next = match self.entries.as_mut().map(Entries::next_entry) {
            None => None,
            Some(Ok(next)) => next,
            Some(Err(error)) => {
                self.give_up(&error);
                None
            }
        };
    }

    fn give_up(&mut self, error: &RepoError) {
        self.entries = None;
        self.note = self.parent.map(|parent| unreadable(parent, error));
    }
}
