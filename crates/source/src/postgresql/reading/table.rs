//! Rows of a table, as content: a COPY in the snapshot, counted and hashed as it passes.

use super::held::{PartOutcome, Shared};
use crate::postgresql::connection::shown_name;
use crate::postgresql::rows::RowSum;
use crate::postgresql::wire::{Client, CopyOut, WireError};
use hikae_model::{ContentError, ReadContent, Stretch};
use std::sync::Arc;

/// Rows of a table or of a part of one.
pub(super) struct TableContent {
    pub(super) shared: Arc<Shared>,
    pub(super) part: usize,
    pub(super) shown: String,
    pub(super) lock: String,
    pub(super) copy: String,
    pub(super) state: Option<(Client, CopyOut)>,
    pub(super) rows: RowSum,
}

impl TableContent {
    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, WireError> {
        if self.state.is_none() {
            let mut client = self.shared.worker()?;
            client.execute(&self.lock)?;
            let copy = client.copy_out(&self.copy, &self.rows)?;
            self.state = Some((client, copy));
        }
        let Some((client, copy)) = &mut self.state else { return Ok(0) };
        client.copy_read(copy, &mut self.rows, buffer)
    }
}

impl ReadContent for TableContent {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Stretch, ContentError> {
        match self.read_some(buffer) {
            Ok(0) => {
                self.shared.set(self.part, PartOutcome::Read(Some(self.rows.clone())));
                if let Some((client, _)) = self.state.take() {
                    self.shared.give_back(client);
                }
                Ok(Stretch::End)
            }
            Ok(n) => Ok(Stretch::Data(n)),
            Err(error) => {
                self.state = None;
                let what = format!("cannot read {}: {}", self.shown, shown_name(&error.to_string()));
                Err(self.shared.broken(self.part, what))
            }
        }
    }
}
