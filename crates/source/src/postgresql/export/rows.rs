//! New rows of one table between two dumps as an archive, which `pg_restore` adds to a table that is there.
//!
//! Only rows that no later differential has again: who loads one after the other gets each row once.

use super::contents::{Archived, Entry, Section};
use super::writer::ArchiveWriter;
use super::{Pipe, find_program, of_copy, unwritten};
use crate::postgresql::copy::CopyTable;
use crate::postgresql::differential::{DifferentialManifest, DifferentialTable, TableName};
use crate::postgresql::failed;
use crate::postgresql::programs::Environment;
use crate::postgresql::restore::Files;
use crate::{SourceError, Stored};
use hikae_model::{Cx, ErrorCode};
use jiff::tz::TimeZone;
use std::io::{self, Read as _, Write};

/// Longest `load.sql` that is read.
const MAX_SCRIPT: u64 = 64 << 20;

/// The tables of which a snapshot of new rows has any, by the manifest that was kept with it.
///
/// # Errors
/// [`SourceError`] if it has none.
pub fn tables_with_rows(stored: &dyn Stored) -> Result<Vec<TableName>, SourceError> {
    let manifest = DifferentialManifest::parse(stored.manifest().unwrap_or_default())?;
    Ok(manifest.tables.into_iter().map(|table| table.table).collect())
}

/// Writes the rows of one table to `out`. Gives how many.
///
/// # Errors
/// As for [`export`](super::export()).
pub fn export_rows(
    stored: &dyn Stored,
    table: &TableName,
    compressed: bool,
    out: &mut dyn Write,
    environment: &Environment,
    cx: &Cx,
) -> Result<u64, SourceError> {
    let manifest = DifferentialManifest::parse(stored.manifest().unwrap_or_default())?;
    let found = manifest.tables.iter().find(|found| found.table == *table).ok_or_else(|| {
        let what = format!("the snapshot has no rows of {}", table.shown());
        failed(ErrorCode::VerificationFailed, what, None)
    })?;
    let files = Files::of(stored);
    let program = find_program(0, None, environment)?;
    let mut pipe = Pipe::start(&program, out)?;
    let written = write(&files, &manifest, found, compressed, &mut pipe);
    pipe.end(written, cx)?;
    Ok(found.settled.rows)
}

fn write(
    files: &Files<'_>,
    manifest: &DifferentialManifest,
    table: &DifferentialTable,
    compressed: bool,
    out: &mut dyn Write,
) -> Result<(), SourceError> {
    let TableName { schema, name } = &table.table;
    let mut archived = Archived::empty(manifest.moment.to_zoned(TimeZone::UTC), &manifest.database);
    archived.add(Entry::setting("ENCODING", &encoding(files)?));
    archived.add(Entry::setting("STDSTRINGS", "SET standard_conforming_strings = 'on';\n"));
    let copy = CopyTable { schema, name, columns: &table.columns, condition: None, encoding: "" };
    let statement = format!("COPY {}{} FROM stdin;\n", copy.quoted(), copy.list());
    let id = archived.add(Entry {
        copy: Some(statement.into_bytes()),
        has_data: true,
        ..Entry::of("TABLE DATA", schema, name, Section::Data, None)
    });
    let mut writer = ArchiveWriter::begin(out, &archived, compressed).map_err(unwritten)?;
    let mut data = writer.data(id).map_err(unwritten)?;
    if let Some(file) = &table.settled_file {
        io::copy(&mut files.open(file)?, &mut data).map_err(|error| of_copy(file, error))?;
    }
    data.write_all(super::END_OF_ROWS).map_err(unwritten)?;
    data.end().map_err(unwritten)
}

/// The statement of `load.sql` that says how its rows are encoded.
fn encoding(files: &Files<'_>) -> Result<String, SourceError> {
    let mut script = String::new();
    let read = files.open("load.sql")?.take(MAX_SCRIPT).read_to_string(&mut script);
    read.map_err(|error| of_copy("load.sql", error))?;
    let line = script.lines().find(|line| line.starts_with("SET client_encoding = "));
    let line = line.ok_or_else(|| {
        let what = "load.sql of the snapshot does not say how its rows are encoded".to_owned();
        failed(ErrorCode::VerificationFailed, what, None)
    })?;
    Ok(format!("{line}\n"))
}
