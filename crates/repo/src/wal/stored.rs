//! A stored object of the write-ahead log, read in parts and compared with what its head says.

use super::object::{LENGTH_BYTES, MAX_HEAD_BYTES, WalHead};
use crate::RepoError;
use crate::content::WholeHash;
use crate::frame::FrameCoder;
use crate::keys::Secret32;
use crate::layout;
use crate::object::BadObject;
use crate::unlocked::Unlocked;
use hikae_model::{SystemId, WalName, WriterId, sabotage};
use hikae_store::ObjectKey;
use std::ops::Range;

/// Most heads are shorter, so that one read fetches all of it.
const USUAL_HEAD_BYTES: u64 = 4 << 10;

/// What reads a range of an object.
pub(crate) type ReadRange<'a> = dyn Fn(Range<u64>) -> Result<Vec<u8>, RepoError> + 'a;

/// An object that should hold a file of the write-ahead log.
pub(crate) struct StoredObject<'a> {
    unlocked: &'a Unlocked,
    key: ObjectKey,
    system: SystemId,
    name: WalName,
    /// Its length.
    bytes: u64,
    read: &'a ReadRange<'a>,
}

impl<'a> StoredObject<'a> {
    /// The object of that length for this file, of which `read` gives ranges.
    pub(crate) fn new(
        unlocked: &'a Unlocked,
        (system, name): (SystemId, WalName),
        bytes: u64,
        read: &'a ReadRange<'a>,
    ) -> Self {
        Self { unlocked, key: layout::wal(system, name), system, name, bytes, read }
    }

    /// Its head. It opens, the object is as long as it says, and `is_known` knows who wrote it.
    pub(crate) fn head(
        &self,
        is_known: &dyn Fn(WriterId) -> Result<bool, RepoError>,
    ) -> Result<WalHead, RepoError> {
        let mut start = (self.read)(0..self.bytes.min(USUAL_HEAD_BYTES))?;
        let length = start.first_chunk::<LENGTH_BYTES>().map(|length| u32::from_le_bytes(*length) as usize);
        let length = length.filter(|length| *length <= MAX_HEAD_BYTES);
        let end = LENGTH_BYTES + length.ok_or_else(|| self.damaged(BadObject::NotOurs))?;
        if start.len() < end {
            start = match self.bytes < end as u64 {
                true => return Err(self.damaged(BadObject::NotOurs)),
                false => (self.read)(0..end as u64)?,
            };
        }
        start.truncate(end);
        start.drain(..LENGTH_BYTES);
        let head = WalHead::open(start, end as u64, self.system, self.name, self.unlocked);
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
