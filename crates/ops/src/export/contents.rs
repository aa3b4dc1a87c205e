//! What of a snapshot is exported, and its contents from start to end.

use crate::OpsError;
use crate::choice::{Choice, Landing};
use crate::config::SourceConfig;
use crate::stored::ContentReader;
use crate::with_causes;
use hikae_export::ExportError;
use hikae_model::{Entry, EntryKind, ErrorCode, SnapshotId, TreePath};
use hikae_repo::Repo;
use hikae_repo::listing::StoredEntry;
use hikae_repo::reach::{Entries, Named};
use hikae_repo::reader::BlobReader;
use hikae_repo::snapshot::SnapshotRecord;
use hikae_source::NotReadBack;
use std::collections::BTreeMap;
use std::io::{self, Read};

/// What becomes of entries that the configuration calls secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Secrets {
    /// They are exported like others: the export is encrypted.
    Export,
    /// They are left out.
    LeaveOut,
    /// They end the export.
    Refuse,
}

/// The entries of a snapshot that are exported.
pub(super) struct Chosen<'a> {
    pub(super) snapshot: SnapshotId,
    pub(super) record: &'a SnapshotRecord,
    pub(super) choice: Choice,
    pub(super) secrets: Secrets,
    pub(super) source: Option<&'a SourceConfig>,
}

/// Is handed each entry with its content.
pub(super) type Each<'e> = dyn FnMut(&Entry, Option<ContentOf<'_>>) -> Result<(), OpsError> + 'e;

impl<'a> Chosen<'a> {
    /// Looks up the paths; everything if there are none.
    pub(super) fn look_up(
        repo: &Repo,
        (snapshot, record): (SnapshotId, &'a SnapshotRecord),
        paths: &[&[u8]],
        landing: Landing,
        secrets: Secrets,
        source: Option<&'a SourceConfig>,
    ) -> Result<Self, OpsError> {
        let choice = match paths {
            [] => Choice::default(),
            paths => Choice::look_up(repo, snapshot, paths, landing)?,
        };
        Ok(Self { snapshot, record, choice, secrets, source })
    }

    fn named(&self) -> Named<'_> {
        Named { id: self.snapshot, record: self.record }
    }

    /// Whether an entry is exported.
    ///
    /// # Errors
    /// [`ErrorCode::Forbidden`] for one that is secret where nothing is encrypted.
    pub(super) fn takes(&self, path: &TreePath) -> Result<bool, OpsError> {
        let is_secret = || self.source.is_some_and(|source| source.is_secret(path));
        match self.secrets {
            _ if !self.choice.wants(path) => Ok(false),
            Secrets::Export => Ok(true),
            Secrets::LeaveOut => Ok(!is_secret()),
            Secrets::Refuse if is_secret() => {
                let what = format!("{path} is secret by the configuration, and this export is not encrypted");
                let advice = "add `encrypt` to the export, or `without_secrets = true`";
                Err(OpsError::refused(ErrorCode::Forbidden, what, Some(advice.into())))
            }
            Secrets::Refuse => Ok(true),
        }
    }

    /// Hands out each entry in path order. A hard link whose first name is not exported is a file.
    pub(super) fn each(&self, repo: &Repo, each: &mut Each<'_>) -> Result<(), OpsError> {
        let mut entries = Entries::of(BlobReader::new(repo)?, self.named(), self.choice.paths().min())?;
        // First names that are not exported, and what stands in their stead.
        let mut instead: BTreeMap<TreePath, TreePath> = BTreeMap::new();
        while let Some(mut stored) = entries.next_entry()? {
            if !self.takes(&stored.entry.path)? {
                continue;
            }
            if let EntryKind::HardLink { to } = &stored.entry.kind
                && !self.takes(to)?
            {
                let (to, path) = (to.clone(), stored.entry.path.clone());
                match instead.get(&to) {
                    Some(first) => stored.entry.kind = EntryKind::HardLink { to: first.clone() },
                    None => {
                        let first = entries.reader().entry(self.named(), &to)?;
                        stored = first.ok_or_else(|| damaged(&to, "it is not in the listing"))?;
                        stored.entry.path = path.clone();
                        instead.insert(to, path);
                    }
                }
            }
            let content = match stored.entry.kind {
                EntryKind::File { .. } => Some(ContentOf::open(repo, &stored)?),
                _ => None,
            };
            each(&stored.entry, content)?;
        }
        Ok(())
    }

    /// Sees that nothing that is secret is among them: for a folder, which is never encrypted and of which nothing can be left
    /// out.
    pub(super) fn see_no_secrets(&self, repo: &Repo) -> Result<(), OpsError> {
        let mut entries = Entries::of(BlobReader::new(repo)?, self.named(), self.choice.paths().min())?;
        while let Some(stored) = entries.next_entry()? {
            let path = &stored.entry.path;
            if self.choice.wants(path) && self.source.is_some_and(|source| source.is_secret(path)) {
                let what = format!("{path} is secret by the configuration, and a folder is not encrypted");
                let advice = "name other `paths`, or let the name end with .tar.gz and add `encrypt`";
                return Err(OpsError::refused(ErrorCode::Forbidden, what, Some(advice.into())));
            }
        }
        Ok(())
    }

    /// The one file that there is.
    ///
    /// # Errors
    /// [`OpsError::Refused`] if there are several, or none.
    pub(super) fn one_file(&self, repo: &Repo) -> Result<StoredEntry, OpsError> {
        let mut entries = Entries::of(BlobReader::new(repo)?, self.named(), self.choice.paths().min())?;
        let mut found: Option<StoredEntry> = None;
        while let Some(stored) = entries.next_entry()? {
            let is_file = matches!(stored.entry.kind, EntryKind::File { .. } | EntryKind::HardLink { .. });
            if !is_file || !self.takes(&stored.entry.path)? {
                continue;
            }
            if let Some(first) = &found {
                let what = format!("{} and {} cannot be one file", first.entry.path, stored.entry.path);
                let advice =
                    "name one of them in `paths`, or let the name end with .tar.gz, or with / for a folder";
                return Err(OpsError::refused(ErrorCode::Usage, what, Some(advice.into())));
            }
            found = Some(stored);
        }
        let mut found = found.ok_or_else(|| {
            let what = format!("there is no file to export in the snapshot of {}", self.record.source);
            OpsError::refused(ErrorCode::Usage, what, Some("look with `hikae ls`".into()))
        })?;
        if let EntryKind::HardLink { to } = &found.entry.kind {
            let to = to.clone();
            let first = entries.reader().entry(self.named(), &to)?;
            found = first.ok_or_else(|| damaged(&to, "it is not in the listing"))?;
        }
        Ok(found)
    }
}

fn damaged(path: &TreePath, why: &str) -> OpsError {
    let what = format!("{path} cannot be exported: {why}");
    let advice = "run `hikae verify` on this snapshot, and export another one";
    OpsError::refused(ErrorCode::VerificationFailed, what, Some(advice.into()))
}

/// The content of a file, of exactly the length that its entry has.
pub(super) struct ContentOf<'r> {
    reader: ContentReader<'r>,
    path: TreePath,
    left: u64,
}

impl<'r> ContentOf<'r> {
    pub(super) fn open(repo: &'r Repo, stored: &StoredEntry) -> Result<Self, OpsError> {
        let reader = ContentReader::open(repo, stored)?;
        Ok(Self { reader, path: stored.entry.path.clone(), left: stored.entry.size() })
    }
}

impl Read for ContentOf<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buffer).map_err(|error| named(&self.path, error))?;
        let is_too_short = n == 0 && self.left > 0 && !buffer.is_empty();
        match self.left.checked_sub(n as u64) {
            Some(left) if !is_too_short => self.left = left,
            _ => {
                let what = format!("{}: its content has another length than its entry", self.path);
                return Err(NotReadBack { code: ErrorCode::VerificationFailed, what, advice: None }.into());
            }
        }
        Ok(n)
    }
}

/// The same failure, saying of which file.
fn named(path: &TreePath, error: io::Error) -> io::Error {
    match error.get_ref().and_then(|why| why.downcast_ref::<NotReadBack>()) {
        Some(why) => NotReadBack { what: format!("{path}: {}", why.what), ..why.clone() }.into(),
        None => error,
    }
}

/// What ended an export: content that could not be read back, or an output that could not be written.
pub(super) fn of_io(error: io::Error) -> OpsError {
    match error.get_ref().and_then(|why| why.downcast_ref::<NotReadBack>()) {
        Some(NotReadBack { code: ErrorCode::Interrupted, .. }) => hikae_model::Cancelled.into(),
        Some(why) => OpsError::refused(why.code, with_causes(why), why.advice.clone()),
        None => ExportError::Write(error).into(),
    }
}
