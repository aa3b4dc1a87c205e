//! Files of the write-ahead log that move between repositories of a family, sealed as they are.

use super::{Pushed, WalArchive, WalError, same};
use crate::RepoError;
use crate::layout;
use crate::object::BadObject;
use hikae_model::{SystemId, WalName, sabotage};
use hikae_store::StoreError;

impl WalArchive {
    /// Stores in another repository of the family what this one keeps of a file: its frames are compared with its head, and
    /// stand there under a head that who copies has signed. Gives nothing if it is not here.
    ///
    /// # Errors
    /// [`WalError::Differs`] if another file has its name there, [`RepoError::WriterUnknown`] if who sealed it is nobody
    /// there, [`RepoError::Damaged`] if it is not what was stored.
    pub(crate) fn hand_over(
        &self,
        to: &Self,
        system: SystemId,
        name: WalName,
    ) -> Result<Option<Pushed>, WalError> {
        let Some(mut found) = self.find(system, name)? else { return Ok(None) };
        let head = found.head.clone();
        if !to.is_known(head.session.writer)? {
            return Err(RepoError::WriterUnknown { writer: head.session.writer }.into());
        }
        let key = layout::wal(system, name);
        let frames = match head.frames_range() {
            // No store is asked for a range of nothing.
            range if range.is_empty() => Vec::new(),
            range => self.read_where_it_is((system, name), &mut found, range)?,
        };
        if !head.has_frames(&frames) && !sabotage::on("damaged-log-is-copied") {
            let why = BadObject::BadBody("its frames are not what was stored".to_owned());
            return Err(RepoError::damaged(found.place.key)(why).into());
        }
        let stored = head.sealed_for(&to.unlocked, frames)?;
        match to.unlocked.store.put(&key, &stored) {
            Ok(()) => to
                .check_took_no_bundled_name(system, name, head.plain())
                .map(|()| Some(Pushed::Stored { stored_bytes: stored.len() as u64 })),
            Err(error @ StoreError::Exists { .. }) => {
                let there = to.settled(system, name)?.ok_or(error)?;
                same(&there, head.plain()).map(|()| Some(Pushed::AlreadyThere))
            }
            Err(error) => Err(error.into()),
        }
    }
}
