//! A stored object of the write-ahead log, read in parts and compared with what its head says.

use super::object::{LENGTH_BYTES, MAX_HEAD_BYTES, WalHead};
use crate::RepoError;
use crate::content::WholeHash;
use crate::frame::FrameCoder;
use crate::keys::Secret32;
use crate::object::BadObject;
use crate::unlocked::Unlocked;
use hikae_model::{SystemId, WalName, WriterId, sabotage};
use hikae_store::{ObjectKey, Store};
use std::ops::Range;

/// Most heads of files are shorter, so that one read fetches all of it.
const USUAL_HEAD_BYTES: u64 = 4 << 10;

/// What reads a range of an object.
pub(crate) type ReadRange<'a> = dyn Fn(Range<u64>) -> Result<Vec<u8>, RepoError> + 'a;

/// Where the object of a file stands: by itself, or in a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The object that the store has.
    pub(crate) key: ObjectKey,
    /// Where it begins in that.
    pub(crate) at: u64,
    /// How long it is.
    pub(crate) bytes: u64,
}

impl Place {
    /// Reads a range of it.
    pub(crate) fn read(&self, store: &dyn Store, range: Range<u64>) -> Result<Vec<u8>, RepoError> {
        Ok(store.get_range(&self.key, self.at + range.start..self.at + range.end)?)
    }
}

/// What should hold a file of the write-ahead log.
pub(crate) struct StoredObject<'a> {
    unlocked: &'a Unlocked,
    /// The object that the store has.
    key: ObjectKey,
    system: SystemId,
    name: WalName,
    /// Its length.
    bytes: u64,
    read: &'a ReadRange<'a>,
}

/// Reads the head of an object of that length: what stands behind the length of the head. Gives where it ends as well.
/// `usual_bytes` are read at once.
pub(super) fn read_head(
    key: &ObjectKey,
    bytes: u64,
    usual_bytes: u64,
    read: &ReadRange<'_>,
) -> Result<(Vec<u8>, u64), RepoError> {
    let not_ours = || RepoError::damaged(key.clone())(BadObject::NotOurs);
    let mut start = read(0..bytes.min(usual_bytes))?;
    let length = start.first_chunk::<LENGTH_BYTES>().map(|length| u32::from_le_bytes(*length) as usize);
    let length = length.filter(|length| *length <= MAX_HEAD_BYTES);
    let end = LENGTH_BYTES + length.ok_or_else(not_ours)?;
    if start.len() < end {
        start = match bytes < end as u64 {
            true => return Err(not_ours()),
            false => read(0..end as u64)?,
        };
    }
    start.truncate(end);
    start.drain(..LENGTH_BYTES);
    Ok((start, end as u64))
}

impl<'a> StoredObject<'a> {
    /// What should hold this file and stands at that place, of which `read` gives ranges.
    pub(crate) fn new(
        unlocked: &'a Unlocked,
        (system, name): (SystemId, WalName),
        place: &Place,
        read: &'a ReadRange<'a>,
    ) -> Self {
        Self { unlocked, key: place.key.clone(), system, name, bytes: place.bytes, read }
    }

    /// Its head. It opens, the object is as long as it says, and `is_known` knows who wrote it.
    pub(crate) fn head(
        &self,
        is_known: &dyn Fn(WriterId) -> Result<bool, RepoError>,
    ) -> Result<WalHead, RepoError> {
        let (sealed, end) = read_head(&self.key, self.bytes, USUAL_HEAD_BYTES, self.read)?;
        let head = WalHead::open(sealed, end, self.system, self.name, self.unlocked);
        let head = head.map_err(|why| self.damaged(why))?;
        if self.bytes != head.object_bytes() {
            return Err(self.misfit("it is longer or shorter than its head says"));
        }
        for writer in [head.writer, head.session.writer] {
            if !is_known(writer)? {
                return Err(self.damaged(BadObject::UnknownWriter));
            }
        }
        Ok(head)
    }

    /// Reads all of it and compares its bytes with the head; with the key of the session the file as well, and shows it.
    pub(crate) fn read_all<E: From<RepoError>>(
        &self,
        head: &WalHead,
        session_key: Option<&Secret32>,
        show: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut coder = FrameCoder::new(self.unlocked.keys.family())?;
        let mut hash = WholeHash::new(self.unlocked.keys.hash_key());
        let mut sealed = blake3::Hasher::new();
        for frame in &head.frames {
            let start = head.frames_at + u64::from(frame.offset);
            let stored = (self.read)(start..start + u64::from(frame.stored_bytes))?;
            sealed.update(&stored);
            if let Some(key) = session_key {
                let plain = coder.open(&frame.head, key, stored).map_err(|what| self.misfit(what))?;
                hash.update(&plain);
                show(&plain)?;
            }
        }
        if *sealed.finalize().as_bytes() != head.sealed && !sabotage::on("wal-rot-unseen") {
            return Err(self.misfit("its frames are not what was stored").into());
        }
        if session_key.is_some() && hash.finish() != head.hash {
            return Err(self.misfit("it is not the file that was stored").into());
        }
        Ok(())
    }

    fn damaged(&self, why: BadObject) -> RepoError {
        RepoError::damaged(self.key.clone())(why)
    }

    fn misfit(&self, what: &str) -> RepoError {
        self.damaged(BadObject::BadBody(what.to_owned()))
    }
}
