//! A small world for tests: a repository in memory, and trees of named contents to back up.

use hikae_model::{
    Attributes, ContentError, Cut, Cx, Entry, EntryKind, ReadContent, RunId, SnapshotId, Stretch, TreePath,
};
use hikae_repo::content::{ContentWriter, KeepError};
use hikae_repo::extent::Extent;
use hikae_repo::keys::{BlobClass, Secret32};
use hikae_repo::listing::{ListingWriter, StoredEntry};
use hikae_repo::reach::{Entries, Named};
use hikae_repo::reader::BlobReader;
use hikae_repo::slot::{Unlock, Wrap};
use hikae_repo::snapshot::SnapshotRecord;
use hikae_repo::writer::{LEVEL_FILES, Writer};
use hikae_repo::{Committed, InitOptions, Repo, RepoError};
use hikae_store::{MemoryStore, Store};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Contents by path.
pub type Tree = BTreeMap<String, Vec<u8>>;

/// A repository and what it takes to open it again.
pub struct World {
    pub store: Arc<dyn Store>,
    pub key: Secret32,
    pub cache: tempfile::TempDir,
    pub cx: Cx,
    pub repo: Arc<Repo>,
}

/// The key file of every test repository.
pub const KEY: [u8; 32] = [42; 32];

impl World {
    pub fn in_memory() -> Self {
        Self::over(Arc::new(MemoryStore::new()))
    }

    pub fn over(store: Arc<dyn Store>) -> Self {
        Self::with(store, hikae_testkit::system_cx())
    }

    pub fn with(store: Arc<dyn Store>, cx: Cx) -> Self {
        let (key, cache) = (Secret32::new(KEY), tempfile::tempdir().unwrap());
        let options = InitOptions::opened_by(Wrap::KeyFile(&key));
        let new = Repo::init(store.clone(), &options, cache.path(), &cx).unwrap();
        Self { store, key, cache, cx, repo: Arc::new(new.repo) }
    }

    /// Opens the same repository once more, as another process would.
    pub fn open(&self) -> Result<Arc<Repo>, RepoError> {
        let unlock = Unlock::KeyFile(self.key.clone());
        Repo::open(self.store.clone(), unlock, Vec::new(), self.cache.path(), &self.cx).map(Arc::new)
    }

    pub fn backup(&self, tree: &Tree, cut: Cut) -> Result<Committed, RepoError> {
        backup(&self.repo, tree, cut, None)
    }

    pub fn restore(&self, id: SnapshotId) -> Result<Tree, RepoError> {
        restore(&self.repo, id)
    }
}

/// Backs up a tree as one snapshot of the source `tree`.
pub fn backup(
    repo: &Arc<Repo>,
    tree: &Tree,
    cut: Cut,
    parent: Option<SnapshotId>,
) -> Result<Committed, RepoError> {
    let run = RunId::from_bytes(repo.cx().random());
    let writer = Writer::begin(repo, run, 90)?;
    let record = write(&writer, repo, run, tree, cut, parent)?;
    writer.commit(&[record])
}

/// Writes a tree, without committing it.
pub fn write(
    writer: &Writer,
    repo: &Arc<Repo>,
    run: RunId,
    tree: &Tree,
    cut: Cut,
    parent: Option<SnapshotId>,
) -> Result<SnapshotRecord, RepoError> {
    let started = repo.cx().now();
    let added = Arc::new(AtomicU64::new(0));
    let mut contents = ContentWriter::new(writer.lane(LEVEL_FILES, added.clone()));
    let mut listing = ListingWriter::default();
    let mut bytes = 0;
    let parent_snapshot = parent.map(|id| repo.snapshot(id)).transpose()?;
    for (path, content) in tree {
        let path = TreePath::parse(path).unwrap();
        let mut reader = BlobReader::new(repo)?;
        let earlier = match &parent_snapshot {
            Some(parent) => reader.entry(Named { id: parent.id, record: &parent.record }, &path)?,
            None => None,
        };
        let parent = earlier.as_ref().map(|entry| (&mut reader, &entry.content));
        let kept = match contents.store(cut, &mut Held(content, 0), parent) {
            Ok(kept) => kept,
            Err(KeepError::Repo(error)) => return Err(error),
            Err(KeepError::Content(error)) => panic!("{error}"),
        };
        bytes += kept.bytes;
        let kind = EntryKind::File { size: kept.bytes };
        let entry = Entry { path, kind, attributes: Attributes::default() };
        listing.push(&StoredEntry { entry, content: kept.content, hash: kept.hash }, contents.lane())?;
    }
    let listing = listing.finish(contents.lane())?;
    contents.finish()?;
    writer.settle()?;
    let now = repo.cx().now();
    Ok(SnapshotRecord {
        source: "tree".to_owned(),
        kind: "files".to_owned(),
        run,
        moment: started,
        started,
        finished: now,
        host: "test".to_owned(),
        purpose: "manual".to_owned(),
        description: None,
        complete: true,
        n_problems: 0,
        problems: None,
        listing: listing.directory,
        entries: listing.entries,
        bytes,
        read_bytes: bytes,
        added_bytes: added.load(Ordering::Relaxed),
        manifest: None,
        parent,
        release: "test".to_owned(),
        nonce: [0; 16],
    })
}

/// Reads every content of a snapshot back.
pub fn restore(repo: &Repo, id: SnapshotId) -> Result<Tree, RepoError> {
    let snapshot = repo.snapshot(id)?;
    let named = Named { id, record: &snapshot.record };
    let mut entries = Entries::of(BlobReader::new(repo)?, named, None)?;
    let mut tree = Tree::new();
    while let Some(entry) = entries.next_entry()? {
        let content = content_of(entries.reader(), &entry)?;
        tree.insert(entry.entry.path.to_string(), content);
    }
    Ok(tree)
}

/// Reads one content of a snapshot back.
pub fn restore_file(repo: &Repo, id: SnapshotId, path: &str) -> Result<Vec<u8>, RepoError> {
    let snapshot = repo.snapshot(id)?;
    let mut reader = BlobReader::new(repo)?;
    let path = TreePath::parse(path).unwrap();
    let entry = reader.entry(Named { id, record: &snapshot.record }, &path)?;
    content_of(&mut reader, &entry.expect("the path is in the snapshot"))
}

fn content_of(reader: &mut BlobReader<'_>, entry: &StoredEntry) -> Result<Vec<u8>, RepoError> {
    let mut content = Vec::new();
    for map in reader.extents(&entry.content)? {
        for extent in map.extents() {
            match *extent {
                Extent::Hole { bytes } => content.resize(content.len() + bytes as usize, 0),
                Extent::Data { blob, offset, bytes } => {
                    let blob = reader.read(BlobClass::Content, blob)?;
                    content.extend_from_slice(&blob[offset as usize..offset as usize + bytes as usize]);
                }
            }
        }
    }
    assert_eq!(content.len() as u64, entry.entry.size());
    Ok(content)
}

/// Bytes that do not compress, the same for the same number.
pub fn noise(number: u64, bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    let mut hasher = blake3::Hasher::new_derive_key("noise for tests of the repository");
    hasher.update(&number.to_le_bytes()).finalize_xof().fill(&mut noise);
    noise
}

pub struct Held<'a>(pub &'a [u8], pub usize);

impl ReadContent for Held<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Stretch, ContentError> {
        let rest = &self.0[self.1..];
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        self.1 += n;
        Ok(if n == 0 { Stretch::End } else { Stretch::Data(n) })
    }
}
