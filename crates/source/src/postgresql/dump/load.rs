//! Loading what was judged: into a new database under a name of ours, which gets the wanted one once all rows were
//! counted there. Whatever fails before, it is dropped again.

use super::judge::{Object, Verdict, judge};
use super::refusal::beginning;
use super::spool::Spool;
use super::{Dump, DumpOptions, DumpedTable};
use crate::SourceError;
use crate::postgresql::catalog::{self, literal, quote};
use crate::postgresql::connection::{Connection, shown_name};
use crate::postgresql::script::Statement;
use crate::postgresql::swap::rename;
use crate::postgresql::wire::{Client, CopyInError, WireError};
use crate::postgresql::{connect, failed, wire_failed};
use hikae_model::{Cancel, Cx, ErrorCode, sabotage};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Statements in one transaction: each table and large object takes a lock, and a server has room for some thousands.
const STATEMENTS_AT_ONCE: u64 = 1000;

/// What a load brought.
#[derive(Clone, Debug)]
pub struct LoadedDump {
    /// Its tables that brought rows, with their rows as counted in the new database.
    pub tables: Vec<DumpedTable>,
    /// Its extensions with their versions.
    pub extensions: Vec<String>,
    /// What was left out or done differently.
    pub notes: Vec<String>,
}

/// Loads `dump` into a new database `name` of the server at `into`.
///
/// # Errors
/// [`SourceError`]: nothing was loaded, and the new database is gone again.
pub fn load_dump(
    dump: Dump,
    into: &Connection,
    name: &str,
    options: &DumpOptions,
    cx: &Cx,
) -> Result<LoadedDump, SourceError> {
    let Dump { contents, name: dump_name, spool } = dump;
    let spool = spool
        .ok_or_else(|| failed(ErrorCode::Failure, "the dump was read without being kept".into(), None))?;
    cx.check()?;
    // Who is cancelled waits for these few statements: a server goes on making a database that nobody waits for.
    let maintenance = Client::connect(into, &Cancel::default());
    let mut maintenance =
        maintenance.map_err(|error| wire_failed(&format!("cannot enter {}", into.shown()), &error))?;
    let random = cx.random::<4>().map(|byte| format!("{byte:02x}")).concat();
    let made = format!("db_restore_{random}");
    let (create, encoding) = create_statement(&mut maintenance, &made, contents.encoding.as_deref())?;
    let created = maintenance.execute(&create);
    created.map_err(|error| wire_failed("cannot create a database", &error))?;
    let notes = vec![encoding];
    let target = into.to_database(&made);
    let loaded = connect(&target, cx).and_then(|client| {
        let work =
            Work { dump_name, client, options, cx, known: HashMap::new(), tables: BTreeMap::new(), notes };
        work.load(spool)
    });
    let named = loaded.and_then(|loaded| {
        let renamed = maintenance.execute(&rename(&made, name));
        renamed.map_err(|error| {
            wire_failed(&format!("cannot call the new database {}", shown_name(name)), &error)
        })?;
        Ok(loaded)
    });
    if named.is_err() && !sabotage::on("failed-dump-stays") {
        // Ours since a moment ago, and nobody else's. What matters is the first error.
        let _ = maintenance.execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote(&made)));
    }
    named
}

/// A database of UTF-8 if the server's locale allows that, else of the encoding that new ones have there. A dump of a
/// database without encoding goes into another such.
fn create_statement(
    client: &mut Client,
    name: &str,
    of_dump: Option<&str>,
) -> Result<(String, String), SourceError> {
    let asked = client.query(
        "SELECT pg_encoding_to_char(encoding), datcollate, datctype FROM pg_database WHERE datname = 'template0'",
        &[],
    );
    let asked = asked.map_err(|error| wire_failed("cannot ask for the server's encoding", &error))?;
    let mut row = asked.into_iter().flatten().flatten();
    let (encoding, collate, ctype) =
        (row.next().unwrap_or_default(), row.next().unwrap_or_default(), row.next().unwrap_or_default());
    let any_fits = matches!(ctype.as_str(), "C" | "POSIX") && matches!(collate.as_str(), "C" | "POSIX");
    let (encoding, collate, more) = match of_dump {
        Some("SQL_ASCII") => ("SQL_ASCII".to_owned(), "C".to_owned(), " LC_COLLATE 'C' LC_CTYPE 'C'"),
        _ if any_fits => ("UTF8".to_owned(), collate, ""),
        _ => (encoding, collate, ""),
    };
    let sql =
        format!("CREATE DATABASE {} TEMPLATE template0 ENCODING {}{more}", quote(name), literal(&encoding));
    let note = format!(
        "the new database has encoding {encoding} and the server's collation {}, since a dump does not say its own",
        shown_name(&collate)
    );
    Ok((sql, note))
}

/// A load under way.
struct Work<'a> {
    dump_name: String,
    client: Client,
    options: &'a DumpOptions,
    cx: &'a Cx,
    /// Oids of tables by their names in the script, as long as these mean the same.
    known: HashMap<Vec<u8>, String>,
    /// Rows that were loaded, by the table's oid.
    tables: BTreeMap<String, u64>,
    notes: Vec<String>,
}

impl Work<'_> {
    fn load(mut self, mut spool: Spool) -> Result<LoadedDump, SourceError> {
        let spool_failed =
            |source| SourceError::Io { verb: "read back", path: "what was unpacked".into(), source };
        // Nothing need be durable before the new name is.
        self.execute("SET standard_conforming_strings = on; SET synchronous_commit = off; BEGIN")?;
        let tablespaces = self.tablespaces()?;
        let (mut n, mut within_object) = (0_u64, false);
        while let Some(statement) = spool.next().map_err(spool_failed)? {
            self.cx.check()?;
            let verdict =
                judge(&statement, self.options.no_owners).map_err(|refusal| refusal.of(&self.dump_name))?;
            let at = |error: &WireError| statement_failed(&self.dump_name, &statement, error);
            match &verdict {
                Verdict::Copy { table } => {
                    let mut rows = spool.rows();
                    let copied = self.client.copy_in(&statement.text, &mut rows);
                    let said = copied.map_err(|error| match error {
                        CopyInError::Wire(error) => at(&error),
                        CopyInError::Source(error) => spool_failed(error),
                    })?;
                    let sent = rows.count();
                    self.count(&statement, table, sent, said)?;
                }
                Verdict::Insert { table, n_rows } => {
                    let (_, said) = self.client.run(&statement.text, &[]).map_err(|error| at(&error))?;
                    self.count(&statement, table, *n_rows, said)?;
                }
                Verdict::Setting { name } => {
                    let is_known = self.client.value("SELECT pg_catalog.current_setting($1, true)", &[name]);
                    match is_known.map_err(|error| at(&error))? {
                        Some(_) => drop(self.client.run(&statement.text, &[]).map_err(|error| at(&error))?),
                        None => self.notes.push(format!("this server has no setting {name}: left out")),
                    }
                }
                Verdict::Tablespace { name } if !name.is_empty() && !tablespaces.contains(name) => {
                    self.execute("SET default_tablespace = ''")?;
                    let name = shown_name(name);
                    let note =
                        format!("tablespace {name} is not on this server: all of it is in the default one");
                    if !self.notes.contains(&note) {
                        self.notes.push(note);
                    }
                }
                Verdict::Load | Verdict::Tablespace { .. } | Verdict::LargeObject(_) => {
                    self.client.run(&statement.text, &[]).map_err(|error| at(&error))?;
                }
                Verdict::Drop | Verdict::LeaveOut(_) => {}
            }
            match verdict {
                Verdict::LargeObject(object) => within_object = object == Object::Open,
                // A name without a schema may now mean another table.
                Verdict::Setting { .. } => self.known.clear(),
                _ => {}
            }
            n += 1;
            if n.is_multiple_of(STATEMENTS_AT_ONCE) && !within_object {
                self.execute("COMMIT; BEGIN")?;
            }
        }
        self.execute("COMMIT; SET synchronous_commit = on; SET row_security = off")?;
        self.analyse()?;
        let tables = self.count_again()?;
        let extensions = "SELECT extname || ' ' || extversion FROM pg_catalog.pg_extension WHERE extname <> 'plpgsql' ORDER BY 1";
        let extensions = self.client.query(extensions, &[]);
        let extensions = extensions.map_err(|error| wire_failed("cannot ask for the extensions", &error))?;
        Ok(LoadedDump {
            tables,
            extensions: extensions.into_iter().flatten().flatten().collect(),
            notes: self.notes,
        })
    }

    fn execute(&mut self, sql: &str) -> Result<(), SourceError> {
        self.client
            .execute(sql)
            .map_err(|error| wire_failed(&format!("cannot load {}", self.dump_name), &error))
    }

    fn tablespaces(&mut self) -> Result<BTreeSet<String>, SourceError> {
        let sql = "SELECT spcname FROM pg_catalog.pg_tablespace WHERE pg_catalog.has_tablespace_privilege(oid, 'CREATE')";
        let rows = self.client.query(sql, &[]);
        let rows = rows.map_err(|error| wire_failed("cannot ask for the server's tablespaces", &error))?;
        Ok(rows.into_iter().flatten().flatten().collect())
    }

    /// Compares what was sent with what the server says it took, and notes it for the table.
    fn count(
        &mut self,
        statement: &Statement,
        table: &[u8],
        sent: u64,
        said: u64,
    ) -> Result<(), SourceError> {
        if sent != said {
            let what = format!(
                "{}, line {}: the dump has {sent} rows and the server took {said}",
                self.dump_name, statement.line
            );
            return Err(failed(ErrorCode::VerificationFailed, what, None));
        }
        let oid = match self.known.get(table) {
            Some(oid) => oid.clone(),
            None => {
                let quoted =
                    table.iter().flat_map(|&byte| if byte == b'\'' { vec![byte; 2] } else { vec![byte] });
                let sql: Vec<u8> = b"SELECT '"
                    .iter()
                    .copied()
                    .chain(quoted)
                    .chain(*b"'::pg_catalog.regclass::pg_catalog.oid")
                    .collect();
                let oid = self.client.value(&sql, &[]);
                let oid = oid
                    .map_err(|error| statement_failed(&self.dump_name, statement, &error))?
                    .unwrap_or_default();
                self.known.insert(table.to_vec(), oid.clone());
                oid
            }
        };
        *self.tables.entry(oid).or_default() += said;
        self.cx.progress().add_entries(1);
        Ok(())
    }

    /// Statistics for the planner, as a restore of our own gathers them. The dump's are not asked for.
    fn analyse(&mut self) -> Result<(), SourceError> {
        let failed = |error: WireError| wire_failed("cannot gather statistics", &error);
        self.client.execute("SET search_path = pg_catalog; SET client_encoding = 'UTF8'").map_err(failed)?;
        let tables = self.client.query(catalog::TABLES_TO_ANALYSE, &[]).map_err(failed)?;
        let tables: Vec<String> = tables.into_iter().flatten().flatten().collect();
        match tables.is_empty() {
            true => Ok(()),
            false => self.client.execute(&format!("ANALYZE {}", tables.join(", "))).map_err(failed),
        }
    }

    /// Counts every table that brought rows once more, where they are now.
    fn count_again(&mut self) -> Result<Vec<DumpedTable>, SourceError> {
        let mut tables = Vec::new();
        for (oid, loaded) in std::mem::take(&mut self.tables) {
            let asked = self.client.query(
                "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), c.relkind FROM pg_catalog.pg_class c
                JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1",
                &[&oid],
            );
            let asked = asked.map_err(|error| wire_failed("cannot look for a table", &error))?;
            let mut row = asked.into_iter().flatten().flatten();
            let (name, kind) = (row.next().unwrap_or_default(), row.next().unwrap_or_default());
            // Rows of a partitioned table are in its partitions; a parent by inheritance has its own.
            let only = if kind == "p" { "" } else { "ONLY " };
            let shown = shown_name(&name);
            match self.client.value(format!("SELECT pg_catalog.count(*) FROM {only}{name}"), &[]) {
                // Row security or a privilege that we gave away; the server said how many it took.
                Err(error) if error.sqlstate() == Some("42501") => {
                    self.notes.push(format!(
                        "{shown} cannot be counted once more: {}",
                        shown_name(&error.to_string())
                    ));
                }
                counted => {
                    let failed_to = |error: WireError| wire_failed(&format!("cannot count {shown}"), &error);
                    let counted = counted.map_err(failed_to)?.and_then(|n| n.parse::<u64>().ok());
                    if counted != Some(loaded) && !sabotage::on("dump-count-unlooked") {
                        let there = counted.unwrap_or(0);
                        let what = format!("{shown}: {loaded} rows were loaded and {there} are there");
                        return Err(failed(ErrorCode::VerificationFailed, what, None));
                    }
                }
            }
            tables.push(DumpedTable { name: shown, rows: loaded });
        }
        tables.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(tables)
    }
}

/// What the server said of a statement, and where that stands.
fn statement_failed(dump_name: &str, statement: &Statement, error: &WireError) -> SourceError {
    let what = format!("{dump_name}, line {}: `{}`", statement.line, beginning(statement));
    let mut tokens = statement.tokens();
    let is_extension = tokens.next().is_some_and(|token| token.is("create"))
        && tokens.next().is_some_and(|token| token.is("extension"));
    match (error.sqlstate(), is_extension) {
        (Some("42501"), true) => failed(
            ErrorCode::Permission,
            format!("{what}: {}", shown_name(&error.to_string())),
            Some("only a superuser may make this extension: if you trust who made the dump, load it as one with --allow-superuser".into()),
        ),
        (Some("42501"), false) => failed(
            ErrorCode::Permission,
            format!("{what}: {}", shown_name(&error.to_string())),
            Some("leave owners and privileges out with --no-owners, or load as a role that may".into()),
        ),
        _ => wire_failed(&what, error),
    }
}
