//! Whether new rows of a table can be told from the old ones, and what is in the way.

use super::super::catalog::{self, Edges, Relation};
use super::super::connection::{Connection, shown_name};
use super::super::preflight::{Finding, Weight, me, oid_of_table};
use super::super::wire::{Client, WireError};
use super::super::{failed, wire_failed};
use super::horizon::{Hidden, Horizon};
use super::manifest::TableName;
use super::settings::{RowsSettings, WatchedTable};
use crate::SourceError;
use hikae_model::{ErrorCode, Problem};
use std::collections::BTreeSet;

/// A table that holds rows, and how it is watched.
pub(super) struct Watched {
    /// A table, or one partition.
    pub(super) relation: Relation,
    /// As the settings say; the zone is filled in.
    pub(super) watched: WatchedTable,
}

/// What a look showed.
pub(super) struct Look {
    pub(super) tables: Vec<Watched>,
    /// What was asked for, with all partitioned tables below and all that hold rows.
    pub(super) trees: Vec<TableName>,
    /// Sequences that any of these own.
    pub(super) sequences: Vec<(String, String)>,
    pub(super) findings: Vec<Finding>,
}

/// What the server says of the column that is watched.
#[derive(serde::Deserialize)]
struct Column {
    kind: String,
    not_null: bool,
    indexed: bool,
}

/// Looks at everything that the settings name. The session has the settings of [`catalog::session_settings`].
pub(super) fn look(
    client: &mut Client,
    connection: &Connection,
    settings: &RowsSettings,
    horizon: Horizon,
) -> Result<Look, SourceError> {
    let wire = |error: WireError| wire_failed(&format!("cannot look at {}", connection.shown()), &error);
    let relations = catalog::relations(client).map_err(wire)?;
    let edges = catalog::edges(client).map_err(wire)?;
    let mut findings = look_at_role(client, connection, settings, horizon)?;
    let (mut tables, mut trees) = (Vec::new(), BTreeSet::new());
    let mut taken = BTreeSet::new();
    for named in &settings.tables {
        let root = find(client, &relations, named)?;
        let mut watched = named.clone();
        let below = with_partitions(root, &relations, &edges);
        for &relation in &below {
            trees.insert(TableName { schema: relation.schema.clone(), name: relation.name.clone() });
            if !taken.insert(relation.oid) {
                return Err(bad(format!("`{}` is named twice", relation.shown())));
            }
        }
        for &relation in &below {
            look_at_table(client, relation, &mut watched, &mut findings).map_err(wire)?;
        }
        let holds_rows = below.into_iter().filter(|relation| relation.has_rows());
        tables.extend(
            holds_rows.map(|relation| Watched { relation: relation.clone(), watched: watched.clone() }),
        );
    }
    if settings.tables.is_empty() {
        return Err(bad("it names none".into()));
    }
    tables
        .sort_by(|a, b| (&a.relation.schema, &a.relation.name).cmp(&(&b.relation.schema, &b.relation.name)));
    let owned = edges.owned.iter().filter(|edge| taken.contains(&edge.on)).map(|edge| edge.of);
    let owned: BTreeSet<u32> = owned.collect();
    let sequences = relations.iter().filter(|relation| relation.readable && owned.contains(&relation.oid));
    let sequences = sequences.map(|sequence| (sequence.schema.clone(), sequence.name.clone())).collect();
    Ok(Look { tables, trees: trees.into_iter().collect(), sequences, findings })
}

fn bad(why: String) -> SourceError {
    SourceError::Setting { setting: "tables".into(), why }
}

fn find<'r>(
    client: &mut Client,
    relations: &'r [Relation],
    named: &WatchedTable,
) -> Result<&'r Relation, SourceError> {
    let shown = shown_name(&named.table);
    let oid =
        oid_of_table(client, &named.table).map_err(|_| bad(format!("`{shown}` is not a table's name")))?;
    let oid = oid.ok_or_else(|| bad(format!("`{shown}` is not there")))?;
    let found = relations.iter().find(|relation| relation.oid == oid && matches!(relation.kind, 'r' | 'p'));
    found.ok_or_else(|| bad(format!("`{shown}` is no table of a user")))
}

/// A table and all its partitions, of any depth. Children by inheritance are tables of their own.
fn with_partitions<'r>(root: &'r Relation, relations: &'r [Relation], edges: &Edges) -> Vec<&'r Relation> {
    let mut below = vec![root];
    let mut at = 0;
    while let Some(parent) = below.get(at).copied() {
        at += 1;
        if parent.kind == 'p' {
            let of_it = edges.parents.iter().filter(|edge| edge.on == parent.oid);
            below.extend(of_it.filter_map(|edge| relations.iter().find(|relation| relation.oid == edge.of)));
        }
    }
    below
}

fn look_at_role(
    client: &mut Client,
    connection: &Connection,
    settings: &RowsSettings,
    horizon: Horizon,
) -> Result<Vec<Finding>, SourceError> {
    let wire = |error: WireError| wire_failed(&format!("cannot look at {}", connection.shown()), &error);
    let me = me(client).map_err(wire)?;
    let me = me.ok_or_else(|| failed(ErrorCode::Failure, "our own role is not in pg_roles".into(), None))?;
    let (on, name) = (connection.shown(), shown_name(&me.name));
    let mut findings = Vec::new();
    let mut find = |weight, problem| findings.push(Finding { weight, problem });
    if me.can_become.is_some() && !settings.allow_superuser {
        let what = format!("role {name} is a superuser or can act as one, and a backup need only read");
        let advice =
            "enter as the role that backs up the database (`hikae config test` prints the SQL that makes it)";
        find(Weight::Blocks, Problem::new("superuser", &on, what).advise(advice));
    }
    let hidden = match horizon {
        Horizon::Since(_) => None,
        Horizon::Prepared => {
            let what = "a prepared transaction is open, and nothing says when it began: until it ends, each run reads from \
                        where the run before began";
            find(Weight::Notes, Problem::new("prepared-transaction", &on, what));
            None
        }
        Horizon::Hidden(Hidden::Standby) => Some((
            "a standby does not know which transactions are open on the primary".to_owned(),
            "name the primary in `connection`".to_owned(),
        )),
        Horizon::Hidden(Hidden::Role) => Some((
            format!("role {name} does not see since when the transactions of others are open"),
            format!("GRANT pg_read_all_stats TO {}", catalog::quote(&me.name)),
        )),
        Horizon::Hidden(Hidden::Untracked) => Some((
            "a session has track_activities = off, and so hides since when its transaction is open"
                .to_owned(),
            "leave track_activities on".to_owned(),
        )),
    };
    if let Some((what, advice)) = hidden {
        find(Weight::Blocks, Problem::new("open-transactions", &on, what).advise(advice));
    }
    Ok(findings)
}

/// One table: that it can be read whole, and that its column orders its rows. Fills in the zone.
fn look_at_table(
    client: &mut Client,
    relation: &Relation,
    watched: &mut WatchedTable,
    findings: &mut Vec<Finding>,
) -> Result<(), WireError> {
    let (on, column) = (relation.shown(), shown_name(&watched.column));
    let mut find = |weight, problem| findings.push(Finding { weight, problem });
    if relation.filtered {
        let what = "row security hides rows from this role";
        let advice = "back it up whole, as a role that row security does not hold for";
        find(Weight::Blocks, Problem::new("row-security", &on, what).advise(advice));
    } else if !relation.readable {
        let what = "the role may not read it";
        find(Weight::Blocks, Problem::new("cannot-read", &on, what).advise("GRANT SELECT on it"));
    } else if !relation.has_rows() && relation.kind != 'p' {
        let what = "its rows are on another server";
        find(Weight::Blocks, Problem::new("foreign-table", &on, what).advise("name the other partitions"));
    }
    if relation.condition.is_some() {
        let what = "it belongs to an extension, which says which of its rows are kept";
        find(Weight::Blocks, Problem::new("extension", &on, what).advise("leave it to the dump"));
    }
    let found: Vec<Column> = client.rows(
        "SELECT format_type(a.atttypid, NULL) AS kind, a.attnotnull AS not_null,
            EXISTS (SELECT FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisvalid AND i.indpred IS NULL
                AND i.indkey[0] = a.attnum) AS indexed
        FROM pg_attribute a WHERE a.attrelid = $1::oid AND a.attname = $2 AND a.attnum > 0 AND NOT a.attisdropped
            AND a.attgenerated = ''",
        &[&relation.oid.to_string(), &watched.column],
    )?;
    let Some(Column { kind, not_null, indexed }) = found.into_iter().next() else {
        let what = format!("it has no column {column} that is stored as it was written");
        let advice = "name a column of type timestamptz that says when the row came";
        find(Weight::Blocks, Problem::new("column", &on, what).advise(advice));
        return Ok(());
    };
    match kind.as_str() {
        "timestamp with time zone" => watched.time_zone = None,
        "timestamp without time zone" => {
            let usual = client.value("SELECT reset_val FROM pg_settings WHERE name = 'TimeZone'", &[])?;
            let zone = usual.unwrap_or_else(|| "UTC".into());
            if let Some(said) = &watched.time_zone {
                let clocks =
                    client.value("SELECT now() AT TIME ZONE $1 = now() AT TIME ZONE $2", &[said, &zone])?;
                if clocks.as_deref() != Some("t") {
                    let what = format!(
                        "column {column} is taken for one of {}, and sessions here are in {}",
                        shown_name(said),
                        shown_name(&zone)
                    );
                    let advice = "see in which zone it is really written: rows of a zone further west are missed until the next comparison";
                    find(Weight::Warns, Problem::new("other-time-zone", &on, what).advise(advice));
                }
            } else {
                let what = format!(
                    "column {column} has no time zone, and is taken for one of {}",
                    shown_name(&zone)
                );
                let advice = "say in which zone it is written with time_zone: rows that were written in one further west are missed";
                find(Weight::Warns, Problem::new("no-time-zone", &on, what).advise(advice));
                watched.time_zone = Some(zone);
            }
        }
        kind => {
            let what = format!(
                "column {column} is of type {}, which does not say when a row came",
                shown_name(kind)
            );
            let advice = "name a column of type timestamptz: numbers and dates do not tell a row that is committed late";
            find(Weight::Blocks, Problem::new("column", &on, what).advise(advice));
        }
    }
    if !indexed && relation.has_rows() {
        let what = format!("no index begins with column {column}, so every run reads the whole table");
        find(
            Weight::Warns,
            Problem::new("no-index", &on, what).advise("make an index on it, BRIN is enough"),
        );
    }
    if !not_null && relation.has_rows() {
        let what = format!("column {column} may be NULL: every run has all rows in which it is");
        find(Weight::Notes, Problem::new("nulls", &on, what));
    }
    Ok(())
}
