//! What must be there before anything is restored: programs, extensions, roles, the new database itself.

use super::admit::{ANOTHER_ROLE, NO_OWNERS, exists};
use super::{Owners, RestoreOptions};
use crate::SourceError;
use crate::postgresql::catalog::{Database, literal, quote};
use crate::postgresql::connection::shown_name;
use crate::postgresql::manifest::Manifest;
use crate::postgresql::programs::{Environment, Programs, find};
use crate::postgresql::wire::{Client, WireError};
use crate::postgresql::{failed, wire_failed};
use hikae_model::ErrorCode;
use std::collections::BTreeSet;

/// A `pg_restore` that reads the dump, and a server that takes it.
pub(super) fn choose_programs(
    client: &Client,
    manifest: &Manifest,
    options: &RestoreOptions,
    environment: &Environment,
) -> Result<Programs, SourceError> {
    let target = client.server_version_num() / 10_000;
    let origin = manifest.server_version_num / 10_000;
    if target < origin {
        return Err(failed(
            ErrorCode::Usage,
            format!("the snapshot is of PostgreSQL {origin} and this server is {target}"),
            Some(format!("restore into PostgreSQL {origin} or newer")),
        ));
    }
    let dumped_by: u32 = manifest
        .pg_dump
        .split(|c: char| !c.is_ascii_digit())
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    find("pg_restore", dumped_by.max(target), options.program_directory.as_deref(), environment)
}

/// A missing extension is no fault of the snapshot, and is said before anything is made.
pub(super) fn see_extensions_are_there(client: &mut Client, database: &Database) -> Result<(), SourceError> {
    let wire = |error: WireError| wire_failed("cannot ask for the server's extensions", &error);
    let rows = client.query("SELECT name FROM pg_available_extensions", &[]).map_err(wire)?;
    let available: BTreeSet<String> = rows.into_iter().flatten().flatten().collect();
    let missing: Vec<&str> = database
        .extensions
        .iter()
        .map(|e| e.name.as_str())
        .filter(|name| !available.contains(*name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = shown_name(&missing.join(", "));
    Err(failed(
        ErrorCode::SourceMissing,
        format!("extension {names} is not installed on this server; the snapshot itself is not at fault"),
        Some(format!(
            "install the package of {names} for PostgreSQL {}",
            client.server_version_num() / 10_000
        )),
    ))
}

pub(super) fn make_roles(
    client: &mut Client,
    database: &Database,
    owners: Owners,
    notes: &mut Vec<String>,
) -> Result<(), SourceError> {
    let wire = |error: WireError| wire_failed("cannot make the roles that own the objects", &error);
    let rows = client.query("SELECT rolname FROM pg_roles", &[]).map_err(wire)?;
    let existing: BTreeSet<String> = rows.into_iter().flatten().flatten().collect();
    let missing =
        database.roles.iter().filter(|role| !existing.contains(&role.name) && !role.name.starts_with("pg_"));
    for role in missing {
        match owners {
            Owners::Keep => {
                client.execute(&format!("CREATE ROLE {} NOLOGIN", quote(&role.name))).map_err(wire)?;
                notes.push(format!(
                    "made role {} without login; its password is in globals.sql",
                    shown_name(&role.name)
                ));
            }
            Owners::None => notes.push(format!("role {} is not on this server", shown_name(&role.name))),
        }
    }
    Ok(())
}

/// True if everything can go into the tablespaces in which it was: all are on this server and open to us. Directories
/// are the server's business; none is made here.
pub(super) fn has_tablespaces(
    client: &mut Client,
    database: &Database,
    notes: &mut Vec<String>,
) -> Result<bool, SourceError> {
    let rows =
        client.query("SELECT spcname FROM pg_tablespace WHERE has_tablespace_privilege(oid, 'CREATE')", &[]);
    let rows = rows.map_err(|error| wire_failed("cannot ask for the server's tablespaces", &error))?;
    let usable: BTreeSet<String> = rows.into_iter().flatten().flatten().collect();
    let missing: Vec<&str> =
        database.tablespaces.iter().map(String::as_str).filter(|name| !usable.contains(*name)).collect();
    if !missing.is_empty() {
        let names = shown_name(&missing.join(", "));
        notes.push(format!("tablespace {names} is not on this server: everything is in the default one"));
    }
    Ok(missing.is_empty())
}

/// `CREATE DATABASE` for a server of version `target`.
pub(super) fn create_statement(name: &str, database: &Database, target: u32, in_tablespaces: bool) -> String {
    let mut sql = format!(
        "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}",
        quote(name),
        literal(&database.encoding),
        literal(&database.collate),
        literal(&database.ctype)
    );
    let locale = database.locale.as_deref();
    if target >= 150_000 {
        match (database.locale_provider, locale) {
            ('i', Some(locale)) => {
                sql.push_str(&format!(" LOCALE_PROVIDER icu ICU_LOCALE {}", literal(locale)));
                if let Some(rules) = database.icu_rules.as_deref().filter(|_| target >= 160_000) {
                    sql.push_str(&format!(" ICU_RULES {}", literal(rules)));
                }
            }
            ('b', Some(locale)) => {
                sql.push_str(&format!(" LOCALE_PROVIDER builtin BUILTIN_LOCALE {}", literal(locale)))
            }
            _ => sql.push_str(" LOCALE_PROVIDER libc"),
        }
    }
    if in_tablespaces && database.tablespaces.contains(&database.tablespace) {
        sql.push_str(&format!(" TABLESPACE {}", quote(&database.tablespace)));
    }
    sql
}

pub(super) fn creation_failed(name: &str, database: &Database, error: &WireError) -> SourceError {
    let what = format!("cannot create database {}", shown_name(name));
    // 22023, 42809: the server has no such locale, or none for this encoding.
    if matches!(error.sqlstate(), Some("22023" | "42809")) {
        let locale = database.locale.as_deref().unwrap_or(&database.collate);
        let advice =
            format!("install locale {locale} on the server's machine; the snapshot itself is not at fault");
        return failed(ErrorCode::SourceMissing, format!("{what}: {error}"), Some(advice));
    }
    match error.sqlstate() {
        Some("42P04") => exists(name),
        Some("42501") => failed(ErrorCode::Permission, format!("{what}: {error}"), Some(ANOTHER_ROLE.into())),
        _ => wire_failed(&what, error),
    }
}

/// Gives the new database to its owner, before anything is in it: from PostgreSQL 15 on, only whoever owns a database
/// may make anything in its schema `public`, and so be given what is there.
pub(super) fn give_to_owner(client: &mut Client, name: &str, database: &Database) -> Result<(), SourceError> {
    let given =
        client.execute(&format!("ALTER DATABASE {} OWNER TO {}", quote(name), quote(&database.owner)));
    given.map_err(|error| {
        let what = format!("cannot give database {} to {}", shown_name(name), shown_name(&database.owner));
        match error.sqlstate() {
            Some("42501") => {
                failed(ErrorCode::Permission, format!("{what}: {error}"), Some(NO_OWNERS.into()))
            }
            _ => wire_failed(&what, &error),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_database_is_made_for_the_version_of_the_server() {
        let database = Database {
            encoding: "UTF8".into(),
            collate: "C".into(),
            ctype: "C".into(),
            locale_provider: 'i',
            locale: Some("de-DE".into()),
            ..Database::default()
        };
        let statement = |version| create_statement("x", &database, version, true);
        assert!(statement(150_001).ends_with("LOCALE_PROVIDER icu ICU_LOCALE 'de-DE'"));
        assert!(statement(140_001).ends_with("LC_CTYPE 'C'"));
    }
}
