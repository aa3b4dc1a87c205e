//! Looking into snapshots: the entries of a folder, and names in all snapshots. Needs no identity.

use crate::OpsError;
use hikae_model::{
    Advise as _, BlobId, Cx, EntryKind, ErrorCode, FileTime, HashKey, Problem, SnapshotId, TreePath,
};
use hikae_repo::Repo;
use hikae_repo::content::WholeHash;
use hikae_repo::listing::{StoredContent, StoredEntry};
use hikae_repo::reach::{Entries, Named};
use hikae_repo::reader::BlobReader;
use hikae_repo::state::SnapshotState;
use jiff::Timestamp;
use serde::Serialize;
use std::collections::HashMap;
use std::collections::hash_map::Entry as Known;

/// An entry, as lists show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListedEntry {
    /// Where it stands; control characters and bytes that are no text are escaped.
    pub path: String,
    /// `file`, `directory`, `symlink`, `hard-link`, `fifo`, `socket`, `char-device` or `block-device`.
    pub kind: &'static str,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length of a file.
    pub bytes: Option<u64>,
    /// Last change of content.
    pub modified: Timestamp,
    /// Where a link leads.
    pub link: Option<String>,
    /// A hash of what a file holds, keyed by the repository: the same for the same content, in all its snapshots. (A
    /// file with holes may have another than its copy without.) Nobody outside can tell content by it.
    pub hash: Option<String>,
}

impl ListedEntry {
    /// What lists show of an entry.
    fn of(stored: &StoredEntry, key: HashKey) -> Self {
        let entry = &stored.entry;
        let (kind, link) = match &entry.kind {
            EntryKind::File { .. } => ("file", None),
            EntryKind::Directory => ("directory", None),
            EntryKind::Symlink { target } => ("symlink", Some(shown(target))),
            EntryKind::HardLink { to } => ("hard-link", Some(to.to_string())),
            EntryKind::Fifo => ("fifo", None),
            EntryKind::Socket => ("socket", None),
            EntryKind::CharDevice { .. } => ("char-device", None),
            EntryKind::BlockDevice { .. } => ("block-device", None),
        };
        Self {
            path: entry.path.to_string(),
            kind,
            mode: entry.attributes.mode,
            uid: entry.attributes.uid,
            gid: entry.attributes.gid,
            bytes: matches!(entry.kind, EntryKind::File { .. }).then(|| entry.size()),
            modified: timestamp(entry.attributes.modified),
            link,
            hash: content_hash(stored, key).map(|hash| hex(&hash)),
        }
    }
}

/// The hash of the content where the listing holds one, and else of the names of its blobs, which are hashes of it.
fn content_hash(stored: &StoredEntry, key: HashKey) -> Option<[u8; 32]> {
    let mut names = WholeHash::new(key);
    match (stored.hash, &stored.content) {
        (Some(hash), _) => return Some(hash),
        (None, StoredContent::None) => return None,
        (None, StoredContent::Inline(map)) => names.update(map),
        (None, StoredContent::Parts(parts)) => {
            parts.iter().for_each(|part| names.update(part.map.as_bytes()))
        }
    }
    Some(names.finish())
}

fn hex(hash: &[u8; 32]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A link's target for people, escaped as paths are.
fn shown(bytes: &[u8]) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    String::from_utf8_lossy(bytes).chars().map(escape).collect()
}

fn timestamp(time: FileTime) -> Timestamp {
    let nanoseconds = i32::try_from(time.nanoseconds).unwrap_or(0);
    // Some file systems hold times beyond the year 9999.
    Timestamp::new(time.seconds, nanoseconds).unwrap_or(Timestamp::MAX)
}

/// Reads a path inside a snapshot as people type it: with or without a `/` before it.
///
/// # Errors
/// [`OpsError::Refused`] if it is none. The empty path and `/` are the whole snapshot.
pub fn parse_path(text: &[u8]) -> Result<Option<TreePath>, OpsError> {
    let text = text.strip_prefix(b"/").unwrap_or(text);
    let text = text.strip_suffix(b"/").unwrap_or(text);
    if text.is_empty() || text == b"." {
        return Ok(None);
    }
    let path = TreePath::parse(text);
    path.map(Some).map_err(|error| OpsError::refused(ErrorCode::Usage, error.to_string(), None))
}

/// Shows the entries in a folder of a snapshot, or the entry itself if it is no folder; with `recursive`, all
/// below it.
///
/// # Errors
/// [`OpsError::Refused`] if there is no such entry; whatever `show` says; any failure to read the listing.
pub fn ls(
    repo: &Repo,
    snapshot: SnapshotId,
    path: Option<&TreePath>,
    recursive: bool,
    show: &mut dyn FnMut(ListedEntry) -> Result<(), OpsError>,
) -> Result<(), OpsError> {
    let record = repo.snapshot(snapshot)?.record;
    let named = Named { id: snapshot, record: &record };
    let mut entries = Entries::of(BlobReader::new(repo)?, named, path)?;
    let key = repo.hash_key();
    let depth = path.map_or(0, |path| path.names().count());
    let mut found = path.is_none();
    while let Some(stored) = entries.next_entry()? {
        let entry = &stored.entry;
        repo.cx().check()?;
        match path {
            Some(path) if entry.path == *path => {
                found = true;
                if !matches!(entry.kind, EntryKind::Directory) {
                    show(ListedEntry::of(&stored, key))?;
                }
            }
            // The first hunk may begin before the path; past it, nothing follows that is within.
            Some(path) if !entry.path.is_within(path) && entry.path > *path => break,
            Some(path) if !entry.path.is_within(path) => {}
            _ if recursive || entry.path.names().count() == depth + 1 => show(ListedEntry::of(&stored, key))?,
            _ => {}
        }
    }
    match (found, path) {
        (false, Some(path)) => Err(no_entry(path)),
        _ => Ok(()),
    }
}

/// For a path that a snapshot does not have.
pub(crate) fn no_entry(path: &TreePath) -> OpsError {
    let advice = "look with `hikae ls`, or in all snapshots with `hikae find`";
    OpsError::refused(ErrorCode::Usage, format!("the snapshot has no `{path}`"), Some(advice.into()))
}

/// One version of something, and where it is kept.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// The source.
    pub source: String,
    /// What it is.
    #[serde(flatten)]
    pub entry: ListedEntry,
    /// The snapshots that hold this version, newest first.
    pub snapshots: Vec<FoundIn>,
}

/// A snapshot that holds a version.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct FoundIn {
    /// The snapshot.
    pub id: SnapshotId,
    /// The moment that it shows.
    pub moment: Timestamp,
}

/// Looks for a name in snapshots: one line for each version, newest first.
///
/// `pattern` may hold `*` (any characters), `?` (one) and, if it holds a `/`, is compared with whole paths; without
/// any of these, it is looked for anywhere in the name.
///
/// Gives with it what could not be looked through because it is damaged.
///
/// # Errors
/// Any failure to read that is no damage.
pub fn find(
    repo: &Repo,
    pattern: &str,
    snapshots: &[&SnapshotState],
    cx: &Cx,
) -> Result<(Vec<Found>, Vec<Problem>), OpsError> {
    let mut search = Search {
        reader: BlobReader::new(repo)?,
        pattern: Pattern::parse(pattern),
        hunks: HashMap::new(),
        versions: Vec::new(),
        of_path: HashMap::new(),
    };
    let mut damaged = Vec::new();
    for state in snapshots {
        match search.look_into(repo, state.snapshot.id, cx) {
            Err(OpsError::Repo(error)) if error.is_damage() => {
                let on = format!("snapshot {} of {}", state.snapshot.id.short(), state.snapshot.source);
                let problem =
                    Problem::new("damaged-snapshot", on, format_args!("cannot be looked through: {error}"));
                damaged.push(match error.advice() {
                    Some(advice) => problem.advise(advice),
                    None => problem,
                });
            }
            looked => looked?,
        }
    }
    let mut versions = search.versions;
    versions.sort_by(|(a, _), (b, _)| a.entry.path.cmp(&b.entry.path));
    Ok((versions.into_iter().map(|(_, found)| found).collect(), damaged))
}

/// A search over snapshots.
struct Search<'r> {
    reader: BlobReader<'r>,
    pattern: Pattern,
    /// What matches in each hunk. Most are shared by many snapshots: each is read once.
    hunks: HashMap<BlobId, Vec<StoredEntry>>,
    versions: Vec<(StoredEntry, Found)>,
    of_path: HashMap<(String, TreePath), Vec<usize>>,
}

impl Search<'_> {
    fn look_into(&mut self, repo: &Repo, id: SnapshotId, cx: &Cx) -> Result<(), OpsError> {
        let record = repo.snapshot(id)?.record;
        let named = Named { id, record: &record };
        let here = FoundIn { id, moment: record.moment };
        for hunk in self.reader.hunks(named)? {
            cx.check()?;
            let entries = match self.hunks.entry(hunk.blob) {
                Known::Occupied(known) => known.into_mut(),
                Known::Vacant(new) => {
                    let mut entries = self.reader.hunk(named, &hunk)?;
                    entries.retain(|entry| self.pattern.matches(&entry.entry.path));
                    new.insert(entries)
                }
            };
            for entry in entries {
                let same = self.of_path.entry((record.source.clone(), entry.entry.path.clone())).or_default();
                match same.iter().find(|&&at| is_same(&self.versions[at].0, entry)) {
                    Some(&at) => self.versions[at].1.snapshots.push(here),
                    None => {
                        same.push(self.versions.len());
                        let found = Found {
                            source: record.source.clone(),
                            entry: ListedEntry::of(entry, repo.hash_key()),
                            snapshots: vec![here],
                        };
                        self.versions.push((entry.clone(), found));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Whether two entries of one path are one version: what it is and holds, not when its inode changed.
fn is_same(a: &StoredEntry, b: &StoredEntry) -> bool {
    a.entry.kind == b.entry.kind
        && a.content == b.content
        && a.entry.attributes.modified == b.entry.attributes.modified
        && a.entry.attributes.mode == b.entry.attributes.mode
}

/// What to look for.
enum Pattern {
    /// Somewhere in the last name.
    InName(Vec<u8>),
    /// The whole last name, with wildcards.
    Name(Vec<u8>),
    /// The whole path, with wildcards.
    Path(Vec<u8>),
}

impl Pattern {
    fn parse(text: &str) -> Self {
        let text = text.strip_prefix('/').map_or(text.to_owned(), |rest| rest.to_owned());
        match (text.contains('/'), text.contains(['*', '?'])) {
            (true, _) => Self::Path(text.into_bytes()),
            (false, true) => Self::Name(text.into_bytes()),
            (false, false) => Self::InName(text.into_bytes()),
        }
    }

    fn matches(&self, path: &TreePath) -> bool {
        match self {
            Self::InName(part) => {
                part.is_empty() || path.name().windows(part.len()).any(|window| window == part.as_slice())
            }
            Self::Name(pattern) => matches(pattern, path.name()),
            Self::Path(pattern) => matches(pattern, path.as_bytes()),
        }
    }
}

/// Wildcards: `*` is any bytes, `?` any one byte. Takes time in the product of the lengths at worst.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            // The last star takes one byte more.
            _ => match star {
                Some((at, from)) => {
                    p = at + 1;
                    t = from + 1;
                    star = Some((at, t));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_finds_names_and_paths() {
        let path = |text: &str| TreePath::parse(text).unwrap();
        for (pattern, text, found) in [
            ("invoice", "srv/2026-invoice.pdf", true),
            ("invoice", "invoice/readme", false),
            ("*.pdf", "srv/invoice.pdf", true),
            ("*.pdf", "srv/invoice.pdf.bak", false),
            ("inv*ce.p?f", "srv/invoice.pdf", true),
            ("srv/*.pdf", "srv/a/b.pdf", true),
            ("/srv/invoice.pdf", "srv/invoice.pdf", true),
            ("/srv/invoice.pdf", "old/srv/invoice.pdf", false),
            ("*a*b*c", "xaybzc", true),
            ("*a*b*c", "xaybz", false),
        ] {
            assert_eq!(Pattern::parse(pattern).matches(&path(text)), found, "{pattern} in {text}");
        }
    }

    #[test]
    fn a_path_is_read_as_people_type_it() {
        for (text, path) in [("/a/b/", Some("a/b")), ("a", Some("a")), ("/", None), ("", None), (".", None)] {
            let read = parse_path(text.as_bytes()).unwrap().map(|path| path.to_string());
            assert_eq!(read.as_deref(), path, "{text}");
        }
        assert!(parse_path(b"../etc").is_err());
    }
}
