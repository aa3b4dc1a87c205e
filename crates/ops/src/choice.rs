//! What is restored of a snapshot of files, and where each entry lands in the target.
//!
//! ```text
//!                         srv/docs (a folder)       srv/docs/letter.odt
//! below the target        TARGET/srv/docs/…         TARGET/srv/docs/letter.odt
//! into it, one path       TARGET/…                  TARGET/letter.odt
//! into it, of several     TARGET/docs/…             TARGET/letter.odt
//! ```
//!
//! Paths are looked up before anything is made, so that a misspelt one costs nothing. This module decides, and writes
//! nothing.

use crate::OpsError;
use crate::browse::{no_entry, parse_path};
use hikae_model::{EntryKind, ErrorCode, SnapshotId, TreePath};
use hikae_repo::Repo;
use hikae_repo::listing::StoredEntry;
use hikae_repo::reach::Named;
use hikae_repo::reader::BlobReader;
use std::collections::BTreeSet;

/// Where what was chosen lands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landing {
    /// Below the target, under the path that it has in the snapshot.
    Below,
    /// In the target itself.
    Into,
}

/// What is restored of a snapshot.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Nothing means everything.
    chosen: Vec<Chosen>,
}

#[derive(Clone, Debug)]
struct Chosen {
    path: TreePath,
    /// How many of its first bytes are no part of where it lands. Longer than the path if it is the target itself.
    cut: usize,
}

impl Choice {
    /// These paths and all below them, under the paths that they have in the snapshot; everything if there are none.
    pub fn below(paths: &[TreePath]) -> Self {
        Self { chosen: paths.iter().map(|path| Chosen { path: path.clone(), cut: 0 }).collect() }
    }

    /// Looks up what people asked for, by path, with or without a `/` before it, or as `hikae ls` shows it.
    ///
    /// # Errors
    /// [`OpsError::Refused`] if a path is not in the snapshot, or two would land in one place; any failure to read the
    /// listing.
    pub fn look_up(
        repo: &Repo,
        snapshot: SnapshotId,
        asked: &[&[u8]],
        landing: Landing,
    ) -> Result<Self, OpsError> {
        let record = repo.snapshot(snapshot)?.record;
        let named = Named { id: snapshot, record: &record };
        let mut reader = BlobReader::new(repo)?;
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for text in asked {
            match look_up(&mut reader, named, text)? {
                LookedUp::Top => return Ok(Self::default()),
                LookedUp::Entry(stored) => found.push(stored.entry),
                LookedUp::Nothing(path) => missing.push(path.to_string()),
            }
        }
        if !missing.is_empty() {
            let what = format!("the snapshot has no `{}`", missing.join("`, no `"));
            let advice = "look with `hikae ls`, or in all snapshots with `hikae find`";
            return Err(OpsError::refused(ErrorCode::Usage, what, Some(advice.into())));
        }
        if landing == Landing::Below {
            return Ok(Self::below(&found.into_iter().map(|entry| entry.path).collect::<Vec<_>>()));
        }
        let alone = found.len() == 1;
        let mut names = BTreeSet::new();
        let mut chosen = Vec::new();
        for entry in found {
            let (path, name) = (entry.path.as_bytes(), entry.path.name().to_vec());
            let cut = match alone && matches!(entry.kind, EntryKind::Directory) {
                true => path.len() + 1,
                false => path.len() - name.len(),
            };
            if !names.insert(name) {
                let what = format!("two of the paths have the name of {}", entry.path);
                let advice = "restore them one after the other, each into a folder of its own";
                return Err(OpsError::refused(ErrorCode::Usage, what, Some(advice.into())));
            }
            chosen.push(Chosen { path: entry.path, cut });
        }
        Ok(Self { chosen })
    }

    /// True if nothing was chosen, which means everything.
    pub fn is_everything(&self) -> bool {
        self.chosen.is_empty()
    }

    /// The paths that were chosen.
    pub fn paths(&self) -> impl Iterator<Item = &TreePath> {
        self.chosen.iter().map(|chosen| &chosen.path)
    }

    /// Whether an entry is restored.
    pub fn wants(&self, path: &TreePath) -> bool {
        self.is_everything() || self.paths().any(|chosen| path.is_within(chosen))
    }

    /// Where a wanted entry lands; nothing if it is the target itself.
    pub fn landing(&self, path: TreePath) -> Option<TreePath> {
        match self.chosen.iter().find(|chosen| path.is_within(&chosen.path)) {
            None | Some(Chosen { cut: 0, .. }) => Some(path),
            // What is left of a path after one of its names is a path.
            Some(Chosen { cut, .. }) => TreePath::parse(path.as_bytes().get(*cut..)?).ok(),
        }
    }

    /// The folders above what was chosen that come back with it: those that are part of where it lands.
    pub fn folders_above(&self) -> BTreeSet<TreePath> {
        let above = |chosen: &Chosen| {
            let above = std::iter::successors(chosen.path.parent(), TreePath::parent);
            if chosen.cut == 0 { above.collect() } else { Vec::new() }
        };
        let above: BTreeSet<_> = self.chosen.iter().flat_map(above).collect();
        above.into_iter().filter(|folder| !self.wants(folder)).collect()
    }
}

/// The path of the entry that somebody means.
///
/// # Errors
/// [`OpsError::Refused`] if it is not in the snapshot, or is the whole of it; any failure to read the listing.
pub fn path_of(repo: &Repo, snapshot: SnapshotId, text: &[u8]) -> Result<TreePath, OpsError> {
    let record = repo.snapshot(snapshot)?.record;
    let named = Named { id: snapshot, record: &record };
    match look_up(&mut BlobReader::new(repo)?, named, text)? {
        LookedUp::Entry(stored) => Ok(stored.entry.path),
        LookedUp::Nothing(path) => Err(no_entry(&path)),
        LookedUp::Top => Err(OpsError::refused(ErrorCode::Usage, "the top is no file", None)),
    }
}

/// What a path that somebody typed leads to.
enum LookedUp {
    /// The whole snapshot.
    Top,
    /// An entry.
    Entry(StoredEntry),
    /// Nothing in this snapshot.
    Nothing(TreePath),
}

/// Finds an entry by its path, or by what is shown of a path that has bytes that cannot be shown.
fn look_up(reader: &mut BlobReader<'_>, named: Named<'_>, text: &[u8]) -> Result<LookedUp, OpsError> {
    let Some(path) = parse_path(text)? else { return Ok(LookedUp::Top) };
    if let Some(entry) = reader.entry(named, &path)? {
        return Ok(LookedUp::Entry(entry));
    }
    // A name may really hold a backslash, so the text as it is goes before what it may stand for.
    if let Some(meant) = TreePath::parse_shown(&path)
        && let Some(entry) = reader.entry(named, &meant)?
    {
        return Ok(LookedUp::Entry(entry));
    }
    Ok(LookedUp::Nothing(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::parse(text).unwrap()
    }

    #[test]
    fn what_is_chosen_lands_where_it_was_asked_to() {
        let choice = |paths: &[(&str, usize)]| Choice {
            chosen: paths.iter().map(|(text, cut)| Chosen { path: path(text), cut: *cut }).collect(),
        };
        let landing =
            |choice: &Choice, text: &str| choice.landing(path(text)).map(|landing| landing.to_string());
        let below = choice(&[("srv/docs", 0)]);
        assert_eq!(landing(&below, "srv/docs/a").as_deref(), Some("srv/docs/a"));
        assert_eq!(below.folders_above(), BTreeSet::from([path("srv")]));
        let alone = choice(&[("srv/docs", 9)]);
        assert_eq!(landing(&alone, "srv/docs"), None);
        assert_eq!(landing(&alone, "srv/docs/a/b").as_deref(), Some("a/b"));
        assert!(!alone.wants(&path("srv/docs-old")) && alone.folders_above().is_empty());
        let several = choice(&[("srv/docs", 4), ("etc/hosts", 4)]);
        assert_eq!(landing(&several, "srv/docs/a").as_deref(), Some("docs/a"));
        assert_eq!(landing(&several, "etc/hosts").as_deref(), Some("hosts"));
    }
}
