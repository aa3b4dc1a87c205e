//! Compares a restored database with the manifest: exactly, because the manifest is of the very rows that were read.
//!
//! Exit codes prove nothing: a dump cut in the middle has been restored with exit 0. So every table is read again and
//! counted and hashed, each sequence looked at, the objects of each kind counted and their names compared.

use super::catalog::{self, Database};
use super::connection::{Connection, shown_name};
use super::copy::CopyTable;
use super::inventory::inventory;
use super::manifest::{Manifest, TableRecord, count_objects};
use super::restore::Owners;
use super::rows::RowSum;
use super::wire::{Client, WireError};
use super::{connect, failed, wire_failed};
use crate::SourceError;
use crate::check::Check;
use hikae_model::{Cx, ErrorCode, HashKey, sabotage};
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Kinds of objects that stand on others of any kind.
const ON_ANYTHING: [&str; 2] = ["comments", "security labels"];
/// Kinds of objects that a restore without owners leaves out.
const OF_OWNERS: [&str; 2] = ["owners", "privileges"];

/// Compares the database at `target` with `manifest`.
pub(super) fn verify(
    target: &Connection,
    manifest: &Manifest,
    database: &Database,
    key: HashKey,
    owners: Owners,
    jobs: NonZeroUsize,
    cx: &Cx,
) -> Result<Vec<Check>, SourceError> {
    let mut client = session(target, cx)?;
    let wire = |error: WireError| wire_failed("cannot compare the restored database", &error);
    let mut checks = check_tables(target, manifest, &database.encoding, key, jobs, cx)?;
    if !sabotage::on("sequences-ignored") {
        checks.extend(check_sequences(&mut client, manifest)?);
    }
    checks.extend(check_views(&mut client, manifest)?);
    if let Some(expected) = &manifest.large_objects {
        let mut sum = RowSum::new(key);
        let copied = client.sum_rows(&format!("COPY ({}) TO STDOUT", catalog::LARGE_OBJECTS), &mut sum);
        copied.map_err(wire)?;
        let count = client.value("SELECT count(*) FROM pg_largeobject_metadata", &[]).map_err(wire)?;
        checks.push(Check::equal("large objects", expected.count, count.unwrap_or_default()));
        checks.push(Check::equal("content of large objects", &expected.hash, sum.hex()));
    }

    let found = catalog::database(&mut client).map_err(wire)?;
    checks.push(Check::equal("encoding", &database.encoding, &found.encoding));
    checks.push(Check::equal("collation", &database.collate, &found.collate));
    checks.push(Check::equal("character types", &database.ctype, &found.ctype));
    let settings = |database: &Database| {
        let mut list: Vec<String> = database
            .settings
            .iter()
            .filter(|setting| setting.role.is_none())
            .map(|setting| format!("{}={}", setting.name, setting.value))
            .collect();
        list.sort();
        list.join("; ")
    };
    checks.push(Check::equal("settings of the database", settings(database), settings(&found)));

    // A selection lists neither of these: those on what was left out cannot be told from the others.
    let is_compared = |kind: &str| {
        (owners == Owners::Keep || !OF_OWNERS.contains(&kind))
            && (!manifest.selection || !ON_ANYTHING.contains(&kind))
    };
    let found = count_objects(&inventory(&mut client, "{}").map_err(wire)?, key);
    for (kind, expected) in manifest.objects.iter().filter(|(kind, _)| is_compared(kind)) {
        let found = found.get(kind);
        let count =
            Check::equal(format!("number of {kind}"), expected.count, found.map_or(0, |found| found.count));
        let same_number = count.passed;
        checks.extend(Some(count).filter(|_| !sabotage::on("objects-ignored")));
        if same_number && !sabotage::on("objects-ignored") {
            let names = found.map_or("none", |found| &found.names);
            checks.push(Check::equal(format!("names of {kind}"), &expected.names, names));
        }
    }
    Ok(checks)
}

fn session(target: &Connection, cx: &Cx) -> Result<Client, SourceError> {
    let mut client = connect(target, cx)?;
    let settings = catalog::session_settings(client.server_version_num(), 0);
    client
        .execute(&settings)
        .and_then(|()| client.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"))
        .map_err(|error| wire_failed("cannot set up a session", &error))?;
    Ok(client)
}

/// Reads every table again, several at once.
fn check_tables(
    target: &Connection,
    manifest: &Manifest,
    encoding: &str,
    key: HashKey,
    jobs: NonZeroUsize,
    cx: &Cx,
) -> Result<Vec<Check>, SourceError> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, [Check; 2])>, SourceError> {
        let mut checks = Vec::new();
        let mut client: Option<Client> = None;
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(table) = manifest.tables.get(i) else { return Ok(checks) };
            cx.check()?;
            let mut in_session = match client.take() {
                Some(client) => client,
                None => session(target, cx)?,
            };
            let (pair, still_good) = check_table(&mut in_session, table, encoding, key)?;
            checks.push((i, pair));
            // A failed statement ends the transaction; the next table gets a session of its own.
            client = still_good.then_some(in_session);
        }
    };
    let mut numbered = Vec::new();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.get()).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let ended = |_| Err(failed(ErrorCode::Failure, "a worker ended unexpectedly".into(), None));
            numbered.extend(worker.join().unwrap_or_else(ended)?);
        }
        Ok::<(), SourceError>(())
    })?;
    numbered.sort_by_key(|(i, _)| *i);
    Ok(numbered.into_iter().flat_map(|(_, pair)| pair).collect())
}

/// Counts and hashes one table. A table that is not there is a check that failed, and no error.
fn check_table(
    client: &mut Client,
    table: &TableRecord,
    encoding: &str,
    key: HashKey,
) -> Result<([Check; 2], bool), SourceError> {
    let copy = CopyTable {
        schema: &table.schema,
        name: &table.name,
        columns: &table.columns,
        condition: table.condition.as_deref(),
        encoding,
    };
    let name = shown_name(&format!("{}.{}", table.schema, table.name));
    let (on_rows, on_content) = (format!("rows of {name}"), format!("content of {name}"));
    let mut sum = RowSum::new(key);
    match client.sum_rows(&copy.out(None), &mut sum) {
        Ok(()) => {
            let rows = Check::equal(on_rows, table.rows, sum.rows());
            let found = if sabotage::on("pg-rows-counted-only") { table.hash.clone() } else { sum.hex() };
            Ok(([rows, Check::equal(on_content, &table.hash, found)], true))
        }
        Err(WireError::Server(error)) => {
            let rows = Check::equal(on_rows, table.rows, &error);
            Ok(([rows, Check::equal(on_content, &table.hash, &error)], false))
        }
        Err(error) => Err(wire_failed(&format!("cannot read {name} again"), &error)),
    }
}

fn check_views(client: &mut Client, manifest: &Manifest) -> Result<Vec<Check>, SourceError> {
    let rows = client.query(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'm' AND c.relispopulated",
        &[],
    );
    let rows = rows.map_err(|error| wire_failed("cannot look at the materialised views", &error))?;
    let check = |view: &super::ViewRecord| {
        let is_this = |row: &Vec<Option<String>>| {
            row.first().and_then(Option::as_deref) == Some(view.schema.as_str())
                && row.get(1).and_then(Option::as_deref) == Some(view.name.as_str())
        };
        let found = if rows.iter().any(is_this) { "filled" } else { "not filled" };
        let name = shown_name(&format!("{}.{}", view.schema, view.name));
        Check::equal(format!("materialised view {name}"), "filled", found)
    };
    Ok(manifest.materialised_views.iter().map(check).collect())
}

fn check_sequences(client: &mut Client, manifest: &Manifest) -> Result<Vec<Check>, SourceError> {
    let names: Vec<(String, String)> =
        manifest.sequences.iter().map(|sequence| (sequence.schema.clone(), sequence.name.clone())).collect();
    let shown = |last_value: i64, is_called: bool| {
        format!("{last_value}{}", if is_called { "" } else { ", not called" })
    };
    let existing = client.query(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'S'",
        &[],
    );
    let wire = |error: WireError| wire_failed("cannot look at the sequences", &error);
    let existing: std::collections::BTreeSet<(String, String)> = existing
        .map_err(wire)?
        .into_iter()
        .filter_map(|row| Some((row.first()?.clone()?, row.get(1)?.clone()?)))
        .collect();
    let there: Vec<(String, String)> = names.into_iter().filter(|name| existing.contains(name)).collect();
    let found: BTreeMap<(String, String), String> = catalog::sequences(client, &there)
        .map_err(wire)?
        .into_iter()
        .map(|s| ((s.schema, s.name), shown(s.last_value, s.is_called)))
        .collect();
    let check = |sequence: &super::SequenceRecord| {
        let name = shown_name(&format!("{}.{}", sequence.schema, sequence.name));
        let actual = found.get(&(sequence.schema.clone(), sequence.name.clone()));
        let actual = actual.map_or("not there", String::as_str);
        Check::equal(format!("sequence {name}"), shown(sequence.last_value, sequence.is_called), actual)
    };
    Ok(manifest.sequences.iter().map(check).collect())
}
