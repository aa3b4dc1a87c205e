//! The files of a reading: their names, and what gives their content.

use super::held::{Shared, Tools};
use super::program::{ProgramContent, Whole};
use super::table::TableContent;
use crate::postgresql::catalog::Relation;
use crate::postgresql::copy::{Blocks, CopyTable, plan_parts};
use crate::postgresql::failed;
use crate::postgresql::manifest::{TableRecord, file_stem};
use crate::postgresql::preflight::lock_statement;
use crate::postgresql::rows::RowSum;
use crate::postgresql::settings::PostgresqlSettings;
use crate::{Content, Item, SourceError};
use hikae_model::{
    Attributes, ContentError, Cut, Entry, EntryKind, ErrorCode, FileTime, ReadContent, Stretch, TreePath,
};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::sync::Arc;

/// Gathers the items of a reading.
pub(in crate::postgresql) struct Files<'a> {
    pub(in crate::postgresql) shared: &'a Arc<Shared>,
    pub(in crate::postgresql) moment: jiff::Timestamp,
    pub(in crate::postgresql) items: Vec<Item>,
}

impl Files<'_> {
    /// The items in path order.
    pub(in crate::postgresql) fn into_items(mut self) -> VecDeque<Item> {
        self.items.sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
        self.items.into()
    }

    fn add(
        &mut self,
        path: &str,
        size: u64,
        reader: Option<Box<dyn ReadContent>>,
    ) -> Result<(), SourceError> {
        let path = TreePath::parse(path)
            .map_err(|error| failed(ErrorCode::Failure, format!("cannot name a file: {error}"), None))?;
        let (kind, mode) =
            if reader.is_some() { (EntryKind::File { size }, 0o600) } else { (EntryKind::Directory, 0o700) };
        self.items.push(Item {
            entry: Entry { path, kind, attributes: attributes(mode, self.moment) },
            content: reader.map(|reader| Content { cut: Cut::Rows, reader }),
        });
        Ok(())
    }

    pub(super) fn add_directory(&mut self, path: &str) -> Result<(), SourceError> {
        self.add(path, 0, None)
    }

    pub(super) fn add_json(&mut self, path: &str, value: &impl serde::Serialize) -> Result<(), SourceError> {
        let mut bytes = serde_json::to_vec_pretty(value)
            .map_err(|error| failed(ErrorCode::Failure, format!("cannot write {path}: {error}"), None))?;
        bytes.push(b'\n');
        self.add_text(path, bytes)
    }

    /// A small file.
    pub(in crate::postgresql) fn add_text(
        &mut self,
        path: &str,
        bytes: impl Into<Vec<u8>>,
    ) -> Result<(), SourceError> {
        let bytes = bytes.into();
        self.add(path, bytes.len() as u64, Some(Box::new(InMemory { bytes, at: 0 })))
    }

    /// Rows that `copy` gives, which are counted and hashed as those of table number `table`.
    pub(in crate::postgresql) fn add_rows(
        &mut self,
        path: &str,
        relation: &Relation,
        copy: String,
        table: usize,
    ) -> Result<(), SourceError> {
        let content = TableContent {
            shared: Arc::clone(self.shared),
            part: self.shared.add_part(path, Some(table)),
            shown: relation.shown(),
            lock: lock_statement(&[relation]),
            copy,
            state: None,
            rows: RowSum::new(self.shared.key),
        };
        self.add(path, 0, Some(Box::new(content)))
    }

    pub(super) fn add_program(
        &mut self,
        tools: &Arc<Tools>,
        path: &str,
        program: &'static str,
        arguments: Vec<OsString>,
        whole: Whole,
    ) -> Result<(), SourceError> {
        let part = self.shared.add_part(path, None);
        let content = ProgramContent::new((self.shared, tools), part, program, arguments, whole);
        self.add(path, 0, Some(Box::new(content)))
    }

    pub(super) fn add_table(
        &mut self,
        relation: &Relation,
        settings: &PostgresqlSettings,
        table: usize,
    ) -> Result<TableRecord, SourceError> {
        let copy = CopyTable {
            schema: &relation.schema,
            name: &relation.name,
            columns: &relation.columns,
            condition: relation.condition.as_deref(),
            encoding: &self.shared.encoding,
        };
        // Ranges of ctid are found without reading the rest since PostgreSQL 14.
        let parts = if self.shared.server_major >= 14 && relation.condition.is_none() {
            plan_parts(relation.blocks, relation.toast_blocks, settings.part_bytes)
        } else {
            vec![Blocks { from: 0, to: None }]
        };
        let stem = file_stem(&relation.schema, &relation.name);
        let mut files = Vec::with_capacity(parts.len());
        for (i, &blocks) in parts.iter().enumerate() {
            // The first keeps its name when a second comes.
            let file = if i == 0 { format!("{stem}.copy") } else { format!("{stem}.{i:04}.copy") };
            let part = (parts.len() > 1).then_some(blocks);
            self.add_rows(&format!("tables/{file}"), relation, copy.out(part), table)?;
            files.push(file);
        }
        Ok(TableRecord {
            schema: relation.schema.clone(),
            name: relation.name.clone(),
            files,
            columns: relation.columns.clone(),
            condition: relation.condition.clone(),
            rows: 0,
            hash: String::new(),
        })
    }
}

/// The attributes of what has none of its own.
pub(in crate::postgresql) fn attributes(mode: u32, moment: jiff::Timestamp) -> Attributes {
    let nanoseconds = moment.subsec_nanosecond().max(0) as u32;
    let modified = FileTime { seconds: moment.as_second(), nanoseconds };
    Attributes { mode, modified, ..Attributes::default() }
}

/// A small file that was made in memory.
struct InMemory {
    bytes: Vec<u8>,
    at: usize,
}

impl ReadContent for InMemory {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Stretch, ContentError> {
        let rest = &self.bytes[self.at..];
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        self.at += n;
        Ok(if n == 0 { Stretch::End } else { Stretch::Data(n) })
    }
}
