//! What a snapshot needs: every blob that must be there for it to be restored.

use crate::RepoError;
use crate::extent::{Extent, ExtentMap};
use crate::keys::BlobClass;
use crate::layout;
use crate::listing::{Hunk, StoredContent, StoredEntry, parse_directory, parse_hunk};
use crate::object::BadObject;
use crate::reader::BlobReader;
use crate::snapshot::SnapshotRecord;
use hikae_model::{BlobId, SnapshotId, TreePath};

/// A snapshot's record and name, for messages about it.
#[derive(Clone, Copy)]
pub struct Named<'a> {
    /// Its name.
    pub id: SnapshotId,
    /// What it says.
    pub record: &'a SnapshotRecord,
}

impl Named<'_> {
    fn damaged(&self, why: BadObject) -> RepoError {
        RepoError::damaged(layout::snapshot(self.id))(why)
    }
}

impl BlobReader<'_> {
    /// The directory of a snapshot's hunks.
    ///
    /// # Errors
    /// Any failure to read it.
    pub fn hunks(&mut self, snapshot: Named<'_>) -> Result<Vec<Hunk>, RepoError> {
        match snapshot.record.listing {
            None => Ok(Vec::new()),
            Some(listing) => {
                let bytes = self.read(BlobClass::Metadata, listing)?;
                parse_directory(&bytes).map_err(|why| snapshot.damaged(why))
            }
        }
    }

    /// The entries of one hunk.
    ///
    /// # Errors
    /// Any failure to read it.
    pub fn hunk(&mut self, snapshot: Named<'_>, hunk: &Hunk) -> Result<Vec<StoredEntry>, RepoError> {
        let bytes = self.read(BlobClass::Metadata, hunk.blob)?;
        let entries = parse_hunk(&bytes).map_err(|why| snapshot.damaged(why))?;
        match hunk.lists(&entries) {
            true => Ok(entries),
            false => {
                Err(snapshot.damaged(BadObject::BadBody("a hunk is not the one that it lists".to_owned())))
            }
        }
    }

    /// The entry at `path`, if there is one.
    ///
    /// # Errors
    /// Any failure to read the listing.
    pub fn entry(&mut self, snapshot: Named<'_>, path: &TreePath) -> Result<Option<StoredEntry>, RepoError> {
        let hunks = self.hunks(snapshot)?;
        let after = hunks.partition_point(|hunk| hunk.first <= *path);
        let Some(hunk) = after.checked_sub(1).map(|at| &hunks[at]) else { return Ok(None) };
        let entries = self.hunk(snapshot, hunk)?;
        Ok(entries.into_iter().find(|entry| entry.entry.path == *path))
    }

    /// The extents of an entry's content, in the order of the file.
    ///
    /// # Errors
    /// Any failure to read its maps, and maps that are not as long as they should be.
    pub fn extents(&mut self, content: &StoredContent) -> Result<Vec<ExtentMap>, RepoError> {
        let bad = |why| RepoError::damaged(layout::header())(why);
        match content {
            StoredContent::None => Ok(Vec::new()),
            StoredContent::Inline(map) => Ok(vec![ExtentMap::parse(map).map_err(bad)?]),
            StoredContent::Parts(parts) => {
                let mut maps = Vec::with_capacity(parts.len());
                for part in parts {
                    let map = ExtentMap::parse(&self.read(BlobClass::Metadata, part.map)?).map_err(bad)?;
                    if map.bytes() != part.bytes {
                        return Err(bad(BadObject::BadBody("a part of a map has another length".to_owned())));
                    }
                    maps.push(map);
                }
                Ok(maps)
            }
        }
    }

    /// Shows every blob that a snapshot needs, some more than once.
    ///
    /// # Errors
    /// Any failure to read metadata, and whatever `show` says.
    pub fn each_blob(
        &mut self,
        snapshot: Named<'_>,
        show: &mut dyn FnMut(BlobClass, BlobId) -> Result<(), RepoError>,
    ) -> Result<(), RepoError> {
        let record = snapshot.record;
        for blob in [record.listing, record.manifest, record.problems].into_iter().flatten() {
            show(BlobClass::Metadata, blob)?;
        }
        for hunk in self.hunks(snapshot)? {
            self.each_blob_of_hunk(snapshot, &hunk, show)?;
        }
        Ok(())
    }

    /// Shows every blob that one hunk of a snapshot needs, itself first.
    ///
    /// # Errors
    /// As for [`each_blob`](Self::each_blob).
    pub fn each_blob_of_hunk(
        &mut self,
        snapshot: Named<'_>,
        hunk: &Hunk,
        show: &mut dyn FnMut(BlobClass, BlobId) -> Result<(), RepoError>,
    ) -> Result<(), RepoError> {
        show(BlobClass::Metadata, hunk.blob)?;
        for entry in self.hunk(snapshot, hunk)? {
            if let StoredContent::Parts(parts) = &entry.content {
                parts.iter().try_for_each(|part| show(BlobClass::Metadata, part.map))?;
            }
            for map in self.extents(&entry.content)? {
                for extent in map.extents() {
                    if let Extent::Data { blob, .. } = extent {
                        show(BlobClass::Content, *blob)?;
                        if let Some(pieces) = map.pieces_of(*blob) {
                            show(BlobClass::Metadata, pieces)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// The entries of a snapshot, one after the other in path order.
pub struct Entries<'a, 'r> {
    reader: BlobReader<'r>,
    snapshot: Named<'a>,
    hunks: std::vec::IntoIter<Hunk>,
    entries: std::vec::IntoIter<StoredEntry>,
    /// The last path of the hunk that was read last.
    last: Option<TreePath>,
}

impl<'a, 'r> Entries<'a, 'r> {
    /// Starts at the first entry, or at the first hunk that may hold `from`.
    ///
    /// # Errors
    /// Any failure to read the directory.
    pub fn of(
        mut reader: BlobReader<'r>,
        snapshot: Named<'a>,
        from: Option<&TreePath>,
    ) -> Result<Self, RepoError> {
        let mut hunks = reader.hunks(snapshot)?;
        if let Some(from) = from {
            let after = hunks.partition_point(|hunk| hunk.first <= *from);
            hunks.drain(..after.saturating_sub(1));
        }
        Ok(Self { reader, snapshot, hunks: hunks.into_iter(), entries: Vec::new().into_iter(), last: None })
    }

    /// The next entry; `None` after the last.
    ///
    /// # Errors
    /// Any failure to read a hunk.
    pub fn next_entry(&mut self) -> Result<Option<StoredEntry>, RepoError> {
        loop {
            if let Some(entry) = self.entries.next() {
                return Ok(Some(entry));
            }
            let Some(hunk) = self.hunks.next() else { return Ok(None) };
            let entries = self.reader.hunk(self.snapshot, &hunk)?;
            let last = entries.last().map(|entry| entry.entry.path.clone());
            if self.last >= entries.first().map(|entry| entry.entry.path.clone()) {
                let why = "a hunk begins before the one before it ends".to_owned();
                return Err(self.snapshot.damaged(BadObject::BadBody(why)));
            }
            (self.last, self.entries) = (last, entries.into_iter());
        }
    }

    /// The reader, for contents.
    pub fn reader(&mut self) -> &mut BlobReader<'r> {
        &mut self.reader
    }
}
