//! What stands in a database's catalog: the queries, and what they give.
//!
//! Every query runs with an empty `search_path`, so no function or operator of a user can stand in for
//! one of PostgreSQL's. Objects that belong to an extension are left out: `CREATE EXTENSION` makes them.
//!
//! This module asks; what is to be read is decided in [`selection`](super::selection).

use super::wire::{Client, WireError};
use serde::{Deserialize, Serialize};

/// What every session sets, as `pg_dump` does and some more, so that the same row is always the same text.
///
/// `TimeZone` and `lc_monetary` change the text of `timestamptz` and `money`; scans that join in on each other
/// (`synchronize_seqscans`) and parallel plans change the order of rows. Source: `setup_connection` in `pg_dump.c`.
pub(super) fn session_settings(server_version_num: u32, lock_timeout_ms: u64) -> String {
    let mut sql = format!(
        "SELECT pg_catalog.set_config('search_path', '', false);
         SET synchronize_seqscans = off; SET max_parallel_workers_per_gather = 0; SET jit = off;
         SET extra_float_digits = 3; SET DateStyle = 'ISO, MDY'; SET IntervalStyle = postgres; SET TimeZone = 'UTC';
         SET bytea_output = hex; SET array_nulls = on; SET lc_monetary = 'C'; SET quote_all_identifiers = off; SET xmloption = content;
         SET row_security = off; SET client_min_messages = warning; SET standard_conforming_strings = on;
         SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET lock_timeout = {lock_timeout_ms};"
    );
    if server_version_num >= 140_000 {
        sql.push_str("SET idle_session_timeout = 0;");
    }
    if server_version_num >= 170_000 {
        sql.push_str("SET transaction_timeout = 0;");
    }
    sql
}

/// A name as SQL text: always quoted.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as an SQL literal, whatever `standard_conforming_strings` says.
pub(crate) fn literal(text: &str) -> String {
    if text.contains('\\') {
        format!(" E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}

/// Oids as the text of an `oid[]`.
pub(super) fn oid_array<'a>(oids: impl IntoIterator<Item = &'a u32>) -> String {
    let oids: Vec<String> = oids.into_iter().map(u32::to_string).collect();
    format!("{{{}}}", oids.join(","))
}

/// A table, view, sequence or the like.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Relation {
    pub(super) oid: u32,
    pub(super) schema: String,
    pub(super) name: String,
    /// `pg_class.relkind`: `r` table, `p` partitioned table, `S` sequence, `v` view, `m` materialised view,
    /// `f` foreign table.
    pub(super) kind: char,
    pub(super) unlogged: bool,
    /// False for a materialised view that was never filled.
    pub(super) populated: bool,
    /// True if our role may select from it.
    pub(super) readable: bool,
    /// True if row security would hide rows from us.
    pub(super) filtered: bool,
    /// Blocks of the main fork, for tables of the heap access method.
    pub(super) blocks: u64,
    /// Blocks of the values that are too long for it.
    pub(super) toast_blocks: u64,
    /// Columns that COPY reads and writes: all but the generated ones.
    pub(super) columns: Vec<String>,
    /// It belongs to an extension, which declares its rows as configuration: the rows to keep, as `WHERE ...`.
    pub(super) condition: Option<String>,
}

impl Relation {
    /// Its name as SQL text.
    pub(super) fn quoted(&self) -> String {
        format!("{}.{}", quote(&self.schema), quote(&self.name))
    }

    /// Its name for people.
    pub(super) fn shown(&self) -> String {
        super::connection::shown_name(&format!("{}.{}", self.schema, self.name))
    }

    /// True if it holds rows of its own that a backup keeps.
    pub(super) fn has_rows(&self) -> bool {
        self.kind == 'r'
    }
}

/// All relations that are the users', readable or not.
pub(super) fn relations(client: &mut Client) -> Result<Vec<Relation>, WireError> {
    client.rows(
        "SELECT c.oid::int8 AS oid, n.nspname AS schema, c.relname AS name, c.relkind AS kind,
            c.relpersistence = 'u' AS unlogged, c.relispopulated AS populated,
            has_schema_privilege(n.oid, 'USAGE') AND CASE c.relkind
                WHEN 'S' THEN has_sequence_privilege(c.oid, 'SELECT')
                ELSE has_table_privilege(c.oid, 'SELECT') END AS readable,
            c.relkind IN ('r', 'p') AND row_security_active(c.oid) AS filtered,
            CASE WHEN c.relkind = 'r' AND m.amname = 'heap'
                THEN coalesce(pg_relation_size(c.oid), 0) / current_setting('block_size')::int8 ELSE 0 END AS blocks,
            CASE WHEN c.relkind = 'r' AND c.reltoastrelid <> 0
                THEN coalesce(pg_relation_size(c.reltoastrelid), 0) / current_setting('block_size')::int8
                ELSE 0 END AS toast_blocks,
            coalesce((SELECT json_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''),
                '[]'::json) AS columns,
            x.condition
        FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_am m ON m.oid = c.relam
        LEFT JOIN (SELECT config.oid, config.condition
            FROM pg_extension e, unnest(e.extconfig, e.extcondition) AS config(oid, condition)) x ON x.oid = c.oid
        WHERE c.relkind IN ('r', 'p', 'S', 'v', 'm', 'f') AND c.relpersistence <> 't'
            AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
            AND (x.oid IS NOT NULL OR NOT EXISTS (SELECT FROM pg_depend d
                WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'))
        ORDER BY n.nspname, c.relname",
        &[],
    )
}

/// That the relation `of` needs the relation `on`, both by oid.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Edge {
    pub(super) of: u32,
    pub(super) on: u32,
}

/// What relations need of each other.
#[derive(Clone, Debug, Default)]
pub(super) struct Edges {
    /// A table on those that its foreign keys name.
    pub(super) foreign_keys: Vec<Edge>,
    /// A partition or child on its parent.
    pub(super) parents: Vec<Edge>,
    /// A view on what it selects from.
    pub(super) views: Vec<Edge>,
    /// A sequence on the table that owns it.
    pub(super) owned: Vec<Edge>,
}

/// Reads all edges.
pub(super) fn edges(client: &mut Client) -> Result<Edges, WireError> {
    Ok(Edges {
        foreign_keys: client.rows(
            "SELECT DISTINCT conrelid::int8 AS of, confrelid::int8 AS on FROM pg_constraint
            WHERE contype = 'f' AND conrelid <> confrelid",
            &[],
        )?,
        parents: client.rows("SELECT inhrelid::int8 AS of, inhparent::int8 AS on FROM pg_inherits", &[])?,
        views: client.rows(
            "SELECT DISTINCT r.ev_class::int8 AS of, d.refobjid::int8 AS on
            FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
            WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
                AND r.ev_class <> d.refobjid",
            &[],
        )?,
        owned: client.rows(
            "SELECT d.objid::int8 AS of, d.refobjid::int8 AS on
            FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
            WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')",
            &[],
        )?,
    })
}

/// What is written on the database itself, which a dump without `--create` leaves out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Database {
    pub(super) name: String,
    pub(super) encoding: String,
    pub(super) collate: String,
    pub(super) ctype: String,
    /// `c` libc, `i` ICU, `b` built in.
    pub(super) locale_provider: char,
    /// Locale of ICU or of the built-in provider.
    pub(super) locale: Option<String>,
    pub(super) icu_rules: Option<String>,
    /// Version of the collation's library when the database was made.
    pub(super) collation_version: Option<String>,
    pub(super) owner: String,
    pub(super) comment: Option<String>,
    pub(super) connection_limit: i32,
    /// Privileges, if they are not the default ones.
    pub(super) privileges: Option<Vec<Privilege>>,
    /// `ALTER DATABASE ... SET` and `ALTER ROLE ... IN DATABASE ... SET`.
    pub(super) settings: Vec<DatabaseSetting>,
    pub(super) server_version: String,
    pub(super) server_version_num: u32,
    /// Settings of the server that are not the default, and where they were set.
    pub(super) server_settings: Vec<ServerSetting>,
    pub(super) extensions: Vec<Extension>,
    pub(super) roles: Vec<Role>,
    /// The superuser that the server was made with, in whose name others were granted roles.
    #[serde(default)]
    pub(super) first_superuser: String,
    /// The tablespace of what says nothing of its own.
    #[serde(default)]
    pub(super) tablespace: String,
    /// All tablespaces in which something of the database is, but `pg_default`.
    #[serde(default)]
    pub(super) tablespaces: Vec<String>,
    /// Subscriptions, which are never restored.
    #[serde(default)]
    pub(super) subscriptions: Vec<String>,
    /// Whether there is a schema `public`, which every new database has.
    pub(super) has_public: bool,
}

/// One privilege on the database.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Privilege {
    /// `None` is everybody (`PUBLIC`).
    pub(super) grantee: Option<String>,
    pub(super) privilege: String,
    pub(super) grantable: bool,
}

/// One setting that holds in the database, for one role or all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct DatabaseSetting {
    pub(super) role: Option<String>,
    pub(super) name: String,
    pub(super) value: String,
}

/// A setting of the server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ServerSetting {
    pub(super) name: String,
    pub(super) value: String,
    pub(super) source: String,
}

/// An extension.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Extension {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) schema: String,
}

/// A role that owns something in the database or has a privilege there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Role {
    pub(super) name: String,
    pub(super) login: bool,
    pub(super) superuser: bool,
    pub(super) bypasses_row_security: bool,
}

/// Reads what is written on the database.
pub(super) fn database(client: &mut Client) -> Result<Database, WireError> {
    let version = client.server_version_num();
    let provider = if version >= 150_000 { "d.datlocprovider" } else { "'c'" };
    let locale = match version {
        170_000.. => "d.datlocale",
        150_000.. => "d.daticulocale",
        _ => "NULL",
    };
    let rules = if version >= 160_000 { "d.daticurules" } else { "NULL" };
    let collation_version = if version >= 150_000 { "d.datcollversion" } else { "NULL" };
    let mut found: Vec<Database> = client.rows(
        &format!(
            "SELECT d.datname AS name, pg_encoding_to_char(d.encoding) AS encoding, d.datcollate AS collate,
                d.datctype AS ctype, {provider} AS locale_provider, {locale} AS locale, {rules} AS icu_rules,
                {collation_version} AS collation_version, pg_get_userbyid(d.datdba) AS owner,
                shobj_description(d.oid, 'pg_database') AS comment, d.datconnlimit AS connection_limit,
                CASE WHEN d.datacl IS NOT NULL THEN (SELECT coalesce(json_agg(json_build_object(
                    'grantee', CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee) END,
                    'privilege', a.privilege_type, 'grantable', a.is_grantable)), '[]')
                    FROM aclexplode(d.datacl) a) END AS privileges,
                (SELECT coalesce(json_agg(json_build_object(
                    'role', CASE WHEN s.setrole <> 0 THEN pg_get_userbyid(s.setrole) END,
                    'name', split_part(item, '=', 1), 'value', substr(item, strpos(item, '=') + 1))
                    ORDER BY s.setrole, item), '[]')
                    FROM pg_db_role_setting s, unnest(s.setconfig) item WHERE s.setdatabase = d.oid) AS settings,
                current_setting('server_version') AS server_version,
                current_setting('server_version_num')::int AS server_version_num,
                (SELECT coalesce(json_agg(json_build_object('name', name, 'value', setting, 'source', source)
                    ORDER BY name), '[]')
                    FROM pg_settings WHERE source IN ('configuration file', 'command line', 'environment variable',
                        'database', 'global') AND name !~ 'passw|secret|conninfo|passphrase') AS server_settings,
                (SELECT coalesce(json_agg(json_build_object('name', e.extname, 'version', e.extversion,
                    'schema', n.nspname) ORDER BY e.extname), '[]')
                    FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace) AS extensions,
                (SELECT coalesce(json_agg(json_build_object('name', r.rolname, 'login', r.rolcanlogin,
                    'superuser', r.rolsuper, 'bypasses_row_security', r.rolbypassrls) ORDER BY r.rolname), '[]')
                    FROM pg_roles r WHERE r.oid = d.datdba OR EXISTS (SELECT FROM pg_shdepend s
                        WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = r.oid AND (s.dbid = d.oid
                            OR s.dbid = 0 AND s.classid = 'pg_database'::regclass AND s.objid = d.oid))
                        OR EXISTS (SELECT FROM pg_class c WHERE c.relowner = r.oid AND c.oid >= 16384)
                        OR EXISTS (SELECT FROM pg_namespace n WHERE n.nspowner = r.oid AND n.oid >= 16384)
                        OR EXISTS (SELECT FROM pg_proc p WHERE p.proowner = r.oid AND p.oid >= 16384)
                        OR EXISTS (SELECT FROM pg_type t WHERE t.typowner = r.oid AND t.oid >= 16384)) AS roles,
                EXISTS (SELECT FROM pg_namespace WHERE nspname = 'public') AS has_public,
                (SELECT rolname FROM pg_roles WHERE oid = 10) AS first_superuser,
                (SELECT spcname FROM pg_tablespace WHERE oid = d.dattablespace) AS tablespace,
                (SELECT coalesce(json_agg(spcname ORDER BY spcname), '[]') FROM pg_tablespace s
                    WHERE spcname NOT IN ('pg_default', 'pg_global') AND (s.oid = d.dattablespace
                        OR EXISTS (SELECT FROM pg_class c WHERE c.reltablespace = s.oid))) AS tablespaces,
                (SELECT coalesce(json_agg(subname ORDER BY subname), '[]') FROM pg_subscription
                    WHERE subdbid = d.oid) AS subscriptions
            FROM pg_database d WHERE d.datname = current_database()"
        ),
        &[],
    )?;
    found.pop().ok_or_else(|| WireError::Protocol("the database is not in pg_database".into()))
}

/// Where a sequence stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sequence {
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) last_value: i64,
    pub(super) is_called: bool,
}

/// Reads where sequences stand. They obey no snapshot: read after it was taken, they are never behind its rows.
pub(super) fn sequences(client: &mut Client, names: &[(String, String)]) -> Result<Vec<Sequence>, WireError> {
    let mut sequences = Vec::with_capacity(names.len());
    for batch in names.chunks(200) {
        let selects: Vec<String> = batch
            .iter()
            .map(|(schema, name)| {
                format!(
                    "SELECT {}::text AS schema, {}::text AS name, last_value, is_called FROM {}.{}",
                    literal(schema),
                    literal(name),
                    quote(schema),
                    quote(name)
                )
            })
            .collect();
        sequences.extend(client.rows::<Sequence>(&selects.join(" UNION ALL "), &[])?);
    }
    Ok(sequences)
}

/// Query of what `ANALYZE` is to be told to get at all tables and materialised views, each once or nearly so. It goes from a
/// table down to its partitions and children, wherever their rows are, so those that have foreign tables below are not in it.
pub(super) const TABLES_TO_ANALYSE: &str = "WITH RECURSIVE above(oid) AS (
        SELECT i.inhparent FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relkind = 'f'
        UNION SELECT i.inhparent FROM pg_inherits i JOIN above a ON a.oid = i.inhrelid)
    SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'm') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_'
        AND n.nspname <> 'information_schema' AND c.oid NOT IN (SELECT oid FROM above)
        AND (NOT c.relispartition OR pg_partition_root(c.oid) IN (SELECT oid FROM above))";

/// Query of all large objects in pieces of 64 KiB, so that none need stand in memory whole.
/// `x'40000'` is `INV_READ`, 2 is `SEEK_END`.
pub(super) const LARGE_OBJECTS: &str = "SELECT m.oid, piece, lo_get(m.oid, piece * 65536, 65536)
    FROM (SELECT oid, lo_lseek64(lo_open(oid, x'40000'::int), 0, 2) AS bytes FROM pg_largeobject_metadata) m,
    generate_series(0, m.bytes / 65536) piece";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_cannot_end_their_quotes() {
        assert_eq!(quote("a\"b; DROP"), "\"a\"\"b; DROP\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("\\'; DROP"), " E'\\\\''; DROP'");
        assert_eq!(oid_array(&[1, 2]), "{1,2}");
        assert_eq!(oid_array(&[]), "{}");
    }
}
