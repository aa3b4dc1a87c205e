//! What a snapshot holds, by name.

use crate::postgresql::failed;
use crate::postgresql::manifest::Manifest;
use crate::{SourceError, Stored};
use hikae_model::{Entry, ErrorCode};
use std::collections::BTreeMap;

/// The stored files by name.
pub(in crate::postgresql) struct Files<'a> {
    stored: &'a dyn Stored,
    by_name: BTreeMap<&'a [u8], &'a Entry>,
}

impl<'a> Files<'a> {
    pub(in crate::postgresql) fn of(stored: &'a dyn Stored) -> Self {
        let by_name = stored.entries().iter().map(|entry| (entry.path.as_bytes(), entry)).collect();
        Self { stored, by_name }
    }

    pub(in crate::postgresql) fn open(
        &self,
        name: &str,
    ) -> Result<Box<dyn std::io::Read + Send + '_>, SourceError> {
        let entry = self.by_name.get(name.as_bytes());
        let entry = entry.ok_or_else(|| incomplete(&format!("{name} is not in it")))?;
        self.stored.open(entry).map_err(|error| SourceError::not_read_back(name, &error))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name.as_bytes())
    }

    pub(super) fn size(&self, name: &str) -> u64 {
        self.by_name.get(name.as_bytes()).map_or(0, |entry| entry.size())
    }

    pub(in crate::postgresql) fn json<T: serde::de::DeserializeOwned>(
        &self,
        name: &str,
    ) -> Result<T, SourceError> {
        let mut bytes = Vec::new();
        self.open(name)?.read_to_end(&mut bytes).map_err(|error| SourceError::not_read_back(name, &error))?;
        serde_json::from_slice(&bytes)
            .map_err(|error| incomplete(&format!("{name} is not understood: {error}")))
    }
}

pub(super) fn incomplete(what: &str) -> SourceError {
    failed(ErrorCode::VerificationFailed, format!("the snapshot cannot be restored: {what}"), None)
}

pub(super) fn see_files_are_there(files: &Files<'_>, manifest: &Manifest) -> Result<(), SourceError> {
    let tables = manifest.tables.iter().flat_map(|table| &table.files).map(|file| format!("tables/{file}"));
    let large = manifest.large_objects.iter().map(|_| "large-objects.dump".to_owned());
    for name in tables.chain(large).chain(["schema.dump", "sequences.json", "globals.sql"].map(str::to_owned))
    {
        if !files.has(&name) {
            return Err(incomplete(&format!("{name} is not in it")));
        }
    }
    Ok(())
}
