//! Whether a backup could succeed now, and what exactly is in its way.
//!
//! Everything is looked at in one read-only transaction. What the role may not read is named, table by table, because a
//! dump that stops at the first of them makes its owner ask twenty times.

use super::catalog::{self, Database, Relation, literal, quote};
use super::connection::{Connection, shown_name};
use super::programs::{Environment, Programs};
use super::selection::{Selection, foreign_views, plan_selection};
use super::settings::PostgresqlSettings;
use super::wire::{Authentication, Client, WireError};
use super::{failed, programs};
use crate::SourceError;
use hikae_model::{ErrorCode, Problem, sabotage};
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
        let blocking = self.findings.iter().find(|finding| finding.weight == Weight::Blocks);
        blocking.map_or(Ok(()), |finding| {
            let Problem { code, on, what, advice } = &finding.problem;
            let code = match code.as_str() {
                "pg-dump" | "version" => ErrorCode::SourceMissing,
                "superuser" => ErrorCode::Forbidden,
                _ => ErrorCode::Permission,
            };
            Err(failed(code, format!("{on}: {what}"), advice.clone()))
        })
    }
}

#[derive(serde::Deserialize)]
struct Me {
    name: String,
    superuser: bool,
    may_read_passwords: bool,
    is_standby: bool,
    n_large_objects: u64,
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
    let me: Me = client
        .rows(
            "SELECT r.rolname AS name, r.rolsuper AS superuser,
                has_table_privilege('pg_authid', 'SELECT') AS may_read_passwords, pg_is_in_recovery() AS is_standby,
                (SELECT count(*) FROM pg_largeobject_metadata) AS n_large_objects
            FROM pg_roles r WHERE r.rolname = current_user",
            &[],
        )
        .map_err(wire)?
        .pop()
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
            let advice = hikae_model::Advise::advice(&error).unwrap_or_default();
            find(Weight::Blocks, Problem::new("pg-dump", &on, error).advise(advice));
            None
        }
    };

    let blocked: Vec<&Relation> =
        relations.iter().filter(|r| selection.unreadable.contains(&r.oid)).collect();
    let filtered = blocked.iter().any(|relation| relation.filtered);
    let hidden_objects = if chosen.is_none() && me.n_large_objects > 0 {
        hidden_large_objects(client).map_err(wire)?
    } else {
        Vec::new()
    };
    let role = RoleAdvice {
        role: if me.superuser { "hikae" } else { &me.name },
        database: &database.name,
        major,
        create: me.superuser,
        bypass_row_security: filtered || me.superuser && has_row_security(client).map_err(wire)?,
        large_object_owners: if me.superuser {
            large_object_owners(client).map_err(wire)?
        } else {
            Vec::new()
        },
        hidden_large_objects: &hidden_objects,
        schemas: relations.iter().map(|relation| relation.schema.as_str()).collect(),
    };
    if me.superuser && !settings.allow_superuser && !sabotage::on("superuser-welcome") {
        let what = format!("role {} is a superuser, and a backup need only read", shown_name(&me.name));
        let advice = format!("make a role that may read and nothing else:\n{}", role.sql());
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
        // The server reads the name, by the rules of SQL; a name without a schema is looked for in `public`.
        let resolve =
            |client: &mut Client, name: &str| client.value("SELECT to_regclass($1)::oid::int8", &[name]);
        let mut oid = resolve(client, name).map_err(|_| bad("is not a table's name"))?;
        if oid.is_none() {
            oid = resolve(client, &format!("public.{name}")).unwrap_or(None);
        }
        let oid = oid.and_then(|oid| oid.parse().ok()).ok_or_else(|| bad("is not there"))?;
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

/// Large objects that our role may not read.
fn hidden_large_objects(client: &mut Client) -> Result<Vec<u32>, WireError> {
    let may_read = if client.server_version_num() >= 180_000 {
        "has_largeobject_privilege(m.oid, 'SELECT')"
    } else {
        "pg_has_role(m.lomowner, 'USAGE') OR EXISTS (SELECT FROM aclexplode(m.lomacl) a
            WHERE a.privilege_type = 'SELECT' AND (a.grantee = 0 OR pg_has_role(a.grantee, 'USAGE')))"
    };
    let sql = format!(
        "SELECT m.oid::int8 FROM pg_largeobject_metadata m
        WHERE NOT ({may_read}) AND current_setting('lo_compat_privileges') = 'off' ORDER BY 1"
    );
    let rows = client.query(&sql, &[])?;
    Ok(rows.into_iter().flatten().flatten().filter_map(|oid| oid.parse().ok()).collect())
}

fn large_object_owners(client: &mut Client) -> Result<Vec<String>, WireError> {
    let rows = client
        .query("SELECT DISTINCT pg_get_userbyid(lomowner) FROM pg_largeobject_metadata ORDER BY 1", &[])?;
    Ok(rows.into_iter().flatten().flatten().collect())
}

fn has_row_security(client: &mut Client) -> Result<bool, WireError> {
    let answer =
        client.value("SELECT EXISTS (SELECT FROM pg_class WHERE relrowsecurity AND oid >= 16384)", &[])?;
    Ok(answer.as_deref() == Some("t"))
}

/// What a role lacks, or what a new one needs.
struct RoleAdvice<'a> {
    role: &'a str,
    database: &'a str,
    major: u32,
    create: bool,
    bypass_row_security: bool,
    large_object_owners: Vec<String>,
    hidden_large_objects: &'a [u32],
    schemas: BTreeSet<&'a str>,
}

impl RoleAdvice<'_> {
    /// Statements to paste. They set no password: psql's `\password` does, without showing it.
    fn sql(&self) -> String {
        let role = quote(self.role);
        let mut lines = Vec::new();
        if self.create {
            lines.push(format!("CREATE ROLE {role} LOGIN; -- then \\password {role}"));
        }
        lines.push(format!("GRANT CONNECT ON DATABASE {} TO {role};", quote(self.database)));
        if self.major >= 14 {
            lines.push(format!("GRANT pg_read_all_data TO {role};"));
        } else {
            for schema in &self.schemas {
                let schema = quote(schema);
                lines.push(format!("GRANT USAGE ON SCHEMA {schema} TO {role};"));
                lines.push(format!("GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role};"));
                lines.push(format!("GRANT SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {role};"));
            }
        }
        if self.bypass_row_security {
            lines.push(format!("ALTER ROLE {role} BYPASSRLS; -- some tables have row security"));
        }
        for owner in &self.large_object_owners {
            lines.push(format!("GRANT {} TO {role}; -- owner of large objects", quote(owner)));
        }
        for oid in self.hidden_large_objects.iter().take(MAX_NAMES) {
            lines.push(format!("GRANT SELECT ON LARGE OBJECT {oid} TO {role};"));
        }
        lines.join("\n")
    }
}

/// The statements that make a role which may back up `database` and nothing else, ready to paste.
pub fn least_privilege_role(role: &str, database: &str, server_major: u32) -> String {
    RoleAdvice {
        role,
        database,
        major: server_major,
        create: true,
        bypass_row_security: false,
        large_object_owners: Vec::new(),
        hidden_large_objects: &[],
        schemas: BTreeSet::from(["public"]),
    }
    .sql()
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
    fn the_role_that_we_offer_may_only_read() {
        let sql = least_privilege_role("it\"s", "my db", 17);
        assert_eq!(
            sql,
            "CREATE ROLE \"it\"\"s\" LOGIN; -- then \\password \"it\"\"s\"\n\
             GRANT CONNECT ON DATABASE \"my db\" TO \"it\"\"s\";\nGRANT pg_read_all_data TO \"it\"\"s\";"
        );
        assert!(
            least_privilege_role("hikae", "db", 13)
                .contains("GRANT SELECT ON ALL TABLES IN SCHEMA \"public\"")
        );
    }

    #[test]
    fn a_long_list_is_cut_and_says_so() {
        assert_eq!(list((0..2).map(|i| i.to_string())), "0, 1");
        assert!(list((0..25).map(|i| i.to_string())).ends_with("19 and 5 more"));
    }
}
