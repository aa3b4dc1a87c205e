//! A restored database against the manifest that was taken when it was backed up.

use super::copy::with_suffix;
use super::failure::{failed, refused};
use super::manifest::{Checked, ForeignKeys, Manifest, Table, check_integrity, interruptible};
use super::open;
use crate::SourceError;
use crate::check::Check;
use hikae_model::{Cx, HashKey, sabotage};
use std::collections::BTreeMap;
use std::path::Path;

/// Compares the database at `path`, which nobody may have open, with what must hold: every table with all
/// its rows, the schema, and what SQLite's own checks say. `key` is the one that the manifest was taken with.
///
/// # Errors
/// [`SourceError`] only if it cannot be looked at. A database that differs is not an error but a red check.
pub fn check_restored(
    path: &Path,
    manifest: &Manifest,
    key: HashKey,
    cx: &Cx,
) -> Result<Vec<Check>, SourceError> {
    let path = &std::path::absolute(path).map_err(|error| refused("find", path, error))?;
    let bytes = std::fs::metadata(path).map_err(|error| refused("read", path, error))?.len();
    let connection = open::immutable(path).map_err(|error| failed("read", path, &error))?;
    let found = Manifest::take(&connection, key, manifest.checked, &|| cx.check().is_err())?;
    let should = u64::from(manifest.page_size) * u64::from(manifest.page_count);
    let mut checks = vec![Check::equal("bytes of the file", should, bytes)];
    checks.extend(compare(manifest, &found));
    if !sabotage::on("log-beside-ignored") {
        checks.push(nothing_beside(path));
    }
    Ok(checks)
}

/// The whole check, which a backup leaves out for what it costs; nothing if the manifest says more already. For drills:
/// a database whose index lacks rows is backed up and restored as faithfully as any other.
///
/// # Errors
/// [`SourceError`] if it cannot be looked at.
pub fn check_whole(path: &Path, manifest: &Manifest, cx: &Cx) -> Result<Option<Check>, SourceError> {
    if manifest.checked == Checked::IntegrityCheck || manifest.integrity != ["ok"] {
        return Ok(None);
    }
    let connection = open::immutable(path).map_err(|error| failed("read", path, &error))?;
    let found = interruptible(&connection, &|| cx.check().is_err(), || {
        check_integrity(&connection, Checked::IntegrityCheck).join("; ")
    })?;
    Ok(Some(Check::equal(Checked::IntegrityCheck.name(), "ok", found)))
}

/// What SQLite would play into the database as soon as somebody opens it. We looked without.
fn nothing_beside(path: &Path) -> Check {
    let beside = ["-wal", "-journal"]
        .iter()
        .find(|suffix| std::fs::metadata(with_suffix(path, suffix)).is_ok_and(|metadata| metadata.len() > 0));
    Check::equal("log or journal beside the file", "none", beside.unwrap_or(&"none"))
}

fn compare(expected: &Manifest, found: &Manifest) -> Vec<Check> {
    let mut checks = vec![
        Check::equal("page size", expected.page_size, found.page_size),
        Check::equal("pages", expected.page_count, found.page_count),
        Check::equal("encoding", &expected.encoding, &found.encoding),
        Check::equal("user_version", expected.user_version, found.user_version),
        Check::equal("application_id", expected.application_id, found.application_id),
        Check::equal(expected.checked.name(), expected.integrity.join("; "), found.integrity.join("; ")),
        Check::equal("foreign_key_check", show(&expected.foreign_keys), show(&found.foreign_keys)),
        Check::equal("schema", &expected.schema_hash, &found.schema_hash),
    ];
    checks.retain(|check| match check.name.as_str() {
        "integrity_check" | "quick_check" => !sabotage::on("integrity-ignored"),
        "foreign_key_check" => !sabotage::on("foreign-keys-ignored"),
        "schema" => !sabotage::on("schema-ignored"),
        _ => true,
    });
    let by_name = |tables: &[Table]| -> BTreeMap<String, Table> {
        tables.iter().map(|table| (table.name.clone(), table.clone())).collect()
    };
    let (expected, mut found) = (by_name(&expected.tables), by_name(&found.tables));
    for (name, expected) in expected {
        let Some(found) = found.remove(&name) else {
            checks.push(Check::equal(format!("table {name}"), "there", "missing"));
            continue;
        };
        checks.push(Check::equal(format!("rows of {name}"), show_rows(&expected), show_rows(&found)));
        if !sabotage::on("sqlite-rows-counted-only") {
            checks.push(Check::equal(format!("hash of {name}"), expected.hash, found.hash));
        }
    }
    for name in found.into_keys() {
        checks.push(Check::equal(format!("table {name}"), "none", "there"));
    }
    checks
}

fn show_rows(table: &Table) -> String {
    match &table.unreadable {
        None => table.rows.to_string(),
        Some(why) => format!("{}, then: {why}", table.rows),
    }
}

fn show(foreign_keys: &ForeignKeys) -> String {
    let mut parts: Vec<_> = foreign_keys
        .violations
        .iter()
        .map(|v| format!("{} rows of {} without parent in {}", v.rows, v.table, v.parent))
        .collect();
    parts.extend(foreign_keys.unchecked.iter().map(|why| format!("not checked: {why}")));
    if parts.is_empty() { "ok".into() } else { parts.join("; ") }
}
