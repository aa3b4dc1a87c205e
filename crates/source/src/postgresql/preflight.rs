//! Whether a backup could succeed now, and what exactly is in its way.
//!
//! Everything is looked at in one read-only transaction. What the role may not read is named, table by table, because a
//! dump that stops at the first of them makes its owner ask twenty times.

mod role;

pub use role::least_privilege_role;
pub(super) use role::me;

use super::catalog::{self, Database, Relation, literal};
use super::connection::{Connection, shown_name};
use super::programs::{Environment, Programs};
use super::selection::{Selection, foreign_views, plan_selection};
use super::settings::PostgresqlSettings;
use super::wire::{Authentication, Client, WireError};
use super::{failed, programs};
use crate::SourceError;
use hikae_model::{Advise as _, ErrorCode, Problem, sabotage};
use role::RoleAdvice;
use std::collections::BTreeSet;

/// Oldest and newest major versions of servers that are known to work.
const KNOWN_MAJORS: std::ops::RangeInclusive<u32> = 13..=19;
/// How many names a message lists.
const MAX_NAMES: usize = 20;

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// No backup is possible before it is mended.
    Blocks,
    /// A backup is possible, and something should be mended.
    Warns,
    /// Good to know.
    Notes,
}

/// One thing that preflight found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How much it weighs.
    pub weight: Weight,
    /// What it is.
    pub problem: Problem,
}

impl Finding {
    /// The kind of error that it is to who needs a backup now.
    pub fn code(&self) -> ErrorCode {
        match self.problem.code.as_str() {
            "version" | "pg-dump" => ErrorCode::Usage,
            code if code == ErrorCode::PgDumpTooOld.name() => ErrorCode::PgDumpTooOld,
            "superuser" => ErrorCode::Forbidden,
            _ => ErrorCode::Permission,
        }
    }
}

/// What one look at a database showed.
pub(super) struct Look {
    pub(super) database: Database,
    pub(super) relations: Vec<Relation>,
    pub(super) selection: Selection,
    /// Materialised views that show rows of other servers.
    pub(super) foreign_views: BTreeSet<u32>,
    pub(super) has_large_objects: bool,
    pub(super) may_read_passwords: bool,
    /// A standby cannot read unlogged tables.
    pub(super) is_standby: bool,
    pub(super) pg_dump: Option<Programs>,
    pub(super) findings: Vec<Finding>,
}

impl Look {
    /// The first finding that forbids a backup, as an error.
    pub(super) fn refuse(&self) -> Result<(), SourceError> {
        refuse(&self.findings)
    }
}

/// The first finding that forbids a backup, as an error.
pub(super) fn refuse(findings: &[Finding]) -> Result<(), SourceError> {
    let blocking = findings.iter().find(|finding| finding.weight == Weight::Blocks);
    blocking.map_or(Ok(()), |finding| {
        let Problem { on, what, advice, .. } = &finding.problem;
        Err(failed(finding.code(), format!("{on}: {what}"), advice.clone()))
    })
}

/// Looks at everything. The session has the settings of [`catalog::session_settings`] and is in a transaction.
pub(super) fn look(
    client: &mut Client,
    connection: &Connection,
    settings: &PostgresqlSettings,
    environment: &Environment,
) -> Result<Look, SourceError> {
    let wire =
        |error: WireError| super::wire_failed(&format!("cannot look at {}", connection.shown()), &error);
    let me = role::me(client)
        .map_err(wire)?
        .ok_or_else(|| failed(ErrorCode::Failure, "our own role is not in pg_roles".into(), None))?;
    let database = catalog::database(client).map_err(wire)?;
    let relations = catalog::relations(client).map_err(wire)?;
    let edges = catalog::edges(client).map_err(wire)?;
    let chosen = if settings.is_selection() { Some(choose(client, settings, &relations)?) } else { None };
    let selection = plan_selection(&relations, &edges, chosen.as_ref());

    let mut findings = Vec::new();
    let mut find = |weight, problem| findings.push(Finding { weight, problem });
    let on = connection.shown();
    let major = database.server_version_num / 10_000;
    if !KNOWN_MAJORS.contains(&major) {
        let what = format!("the server is PostgreSQL {}", database.server_version);
        let advice = "hikae knows PostgreSQL 13 to 19";
        find(Weight::Blocks, Problem::new("version", &on, what).advise(advice));
    }
    let pg_dump = match programs::find("pg_dump", major, settings.program_directory.as_deref(), environment) {
        Ok(found) => {
            let (server, directory) = (&database.server_version, found.directory.display());
            let what = format!("server {server}, pg_dump {} in {directory}", found.version);
            find(Weight::Notes, Problem::new("versions", &on, what));
            Some(found)
        }
        Err(error) => {
            let advice = error.advice().unwrap_or_default();
            let code = match error.code() {
                ErrorCode::PgDumpTooOld => ErrorCode::PgDumpTooOld.name(),
                _ => "pg-dump",
            };
            find(Weight::Blocks, Problem::new(code, &on, error).advise(advice));
            None
        }
    };

    let blocked: Vec<&Relation> =
        relations.iter().filter(|r| selection.unreadable.contains(&r.oid)).collect();
    let filtered = blocked.iter().any(|relation| relation.filtered);
    let reads_large_objects = chosen.is_none() && me.n_large_objects > 0;
    let hidden_objects =
        if reads_large_objects { role::hidden_large_objects(client).map_err(wire)? } else { Vec::new() };
    // What is offered to who is too mighty is what nobody has yet; all others have some of it.
    let too_mighty = me.can_become.is_some();
    let large_objects = if reads_large_objects && too_mighty {
        role::first_large_objects(client).map_err(wire)?
    } else {
        hidden_objects.clone()
    };
    let large_object_owners = if large_objects.is_empty() {
        Vec::new()
    } else {
        role::large_object_owners(client).map_err(wire)?
    };
    let makes_one = too_mighty && me.ways.is_empty();
    let role = RoleAdvice {
        role: if makes_one { "hikae" } else { &me.name },
        database: &database.name,
        major,
        create: makes_one,
        inherits: makes_one || me.inherits,
        revoke: &me.ways,
        bypass_row_security: filtered || too_mighty && role::has_row_security(client).map_err(wire)?,
        large_objects: &large_objects,
        large_object_owners: &large_object_owners,
        schemas: relations.iter().map(|relation| relation.schema.as_str()).collect(),
    };
    let may = settings.allow_superuser || me.superuser && sabotage::on("superuser-welcome");
    if let Some(mighty) = me.can_become.as_deref().filter(|_| !may) {
        let name = shown_name(&me.name);
        let what = if me.superuser {
            format!("role {name} is a superuser, and a backup need only read")
        } else {
            let mighty = shown_name(mighty);
            format!(
                "role {name} can act as {mighty}, and so do anything on the server; a backup need only read"
            )
        };
        let advice = if makes_one { "make a role" } else { "make it a role" };
        let advice = format!("{advice} that may read and nothing else:\n{}", role.sql());
        find(Weight::Blocks, Problem::new("superuser", &on, what).advise(advice));
    }
    if !blocked.is_empty() {
        let names = blocked.iter().map(|relation| {
            let kind = if relation.kind == 'S' { "sequence" } else { "table" };
            let why = if relation.readable { " (row security hides rows)" } else { "" };
            format!("{kind} {}{why}", relation.shown())
        });
        let what = format!("role {} cannot read {}", shown_name(&me.name), list(names));
        find(Weight::Blocks, Problem::new("cannot-read", &on, what).advise(role.sql()));
    }
    if !hidden_objects.is_empty() {
        let names = hidden_objects.iter().map(|oid| format!("large object {oid}"));
        let what = format!("role {} cannot read {}", shown_name(&me.name), list(names));
        find(Weight::Blocks, Problem::new("cannot-read", &on, what).advise(role.sql()));
    }
    match client.authentication() {
        Authentication::Md5 => {
            let what = "the password is checked by MD5, which PostgreSQL is about to drop";
            let advice = "set password_encryption = 'scram-sha-256', set the role's password anew, and say scram-sha-256 in pg_hba.conf";
            find(Weight::Warns, Problem::new("md5", &on, what).advise(advice));
        }
        Authentication::Cleartext if !client.is_encrypted() => {
            let what = "the password goes to the server as it is";
            find(
                Weight::Warns,
                Problem::new("cleartext", &on, what).advise("say scram-sha-256 in pg_hba.conf"),
            );
        }
        Authentication::None
        | Authentication::Cleartext
        | Authentication::Scram
        | Authentication::ScramBound => {}
    }
    if !connection.is_local() && !client.is_encrypted() {
        let what = "the connection is not encrypted, and everybody on its way can read the data";
        find(Weight::Warns, Problem::new("no-tls", &on, what).advise("use sslmode=verify-full"));
    }
    let is_read = |relation: &&Relation| selection.rows.contains(&relation.oid);
    let unlogged: Vec<String> =
        relations.iter().filter(is_read).filter(|r| r.unlogged).map(Relation::shown).collect();
    if !unlogged.is_empty() {
        let what = if me.is_standby {
            format!("a standby has no rows of unlogged tables: {}", list(unlogged.into_iter()))
        } else {
            format!("unlogged, and empty after a crash of the server: {}", list(unlogged.into_iter()))
        };
        find(Weight::Notes, Problem::new("unlogged", &on, what));
    }
    let foreign: Vec<String> = relations.iter().filter(|r| r.kind == 'f').map(Relation::shown).collect();
    if !foreign.is_empty() {
        let what = format!(
            "foreign tables, whose rows are on another server and not kept: {}",
            list(foreign.into_iter())
        );
        find(Weight::Notes, Problem::new("foreign-tables", &on, what));
    }
    if !database.subscriptions.is_empty() {
        let names = list(database.subscriptions.iter().map(|name| shown_name(name)));
        let what = format!("subscriptions are never restored, so that a copy pulls from nobody: {names}");
        find(Weight::Notes, Problem::new("subscriptions", &on, what));
    }
    Ok(Look {
        has_large_objects: me.n_large_objects > 0,
        may_read_passwords: me.may_read_passwords,
        is_standby: me.is_standby,
        database,
        foreign_views: foreign_views(&relations, &edges),
        relations,
        selection,
        pg_dump,
        findings,
    })
}

/// The relations that the settings name.
fn choose(
    client: &mut Client,
    settings: &PostgresqlSettings,
    relations: &[Relation],
) -> Result<BTreeSet<u32>, SourceError> {
    let mut chosen = BTreeSet::new();
    for name in &settings.tables {
        let bad = |why: &str| SourceError::Setting {
            setting: "tables".into(),
            why: format!("`{}` {why}", shown_name(name)),
        };
        let oid = oid_of_table(client, name).map_err(|_| bad("is not a table's name"))?;
        let oid = oid.ok_or_else(|| bad("is not there"))?;
        if !relations.iter().any(|relation| relation.oid == oid) {
            return Err(bad("is no table of a user"));
        }
        chosen.insert(oid);
    }
    for schema in &settings.schemas {
        let before = chosen.len();
        chosen.extend(
            relations.iter().filter(|relation| relation.schema == *schema).map(|relation| relation.oid),
        );
        if chosen.len() == before {
            let why = format!("`{}` is not there or holds no tables", shown_name(schema));
            return Err(SourceError::Setting { setting: "schemas".into(), why });
        }
    }
    Ok(chosen)
}

/// The relation that a name means. The server reads it, by the rules of SQL; one without a schema is looked for in `public`.
pub(super) fn oid_of_table(client: &mut Client, name: &str) -> Result<Option<u32>, WireError> {
    let resolve =
        |client: &mut Client, name: &str| client.value("SELECT to_regclass($1)::oid::int8", &[name]);
    let mut oid = resolve(client, name)?;
    if oid.is_none() {
        oid = resolve(client, &format!("public.{name}")).unwrap_or(None);
    }
    Ok(oid.and_then(|oid| oid.parse().ok()))
}

/// `3 things: a, b, c`, and no more than [`MAX_NAMES`] of them.
fn list(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    let shown = names[..names.len().min(MAX_NAMES)].join(", ");
    match names.len().saturating_sub(MAX_NAMES) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// The statement that locks tables against being dropped or rewritten while they are read.
pub(super) fn lock_statement(tables: &[&Relation]) -> String {
    let names: Vec<String> = tables.iter().map(|table| format!("ONLY {}", table.quoted())).collect();
    format!("LOCK TABLE {} IN ACCESS SHARE MODE", names.join(", "))
}

/// A snapshot's name as SQL.
pub(super) fn set_snapshot(snapshot: &str) -> String {
    format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
        literal(snapshot).trim_start()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_is_cut_and_says_so() {
        assert_eq!(list((0..2).map(|i| i.to_string())), "0, 1");
        assert!(list((0..25).map(|i| i.to_string())).ends_with("19 and 5 more"));
    }
}
