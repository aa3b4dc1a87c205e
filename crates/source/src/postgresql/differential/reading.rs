//! One run: rows stamped from the watermark of the run before, in one snapshot.

use super::super::catalog::{self, Relation, literal};
use super::super::connection::Connection;
use super::super::copy::CopyTable;
use super::super::manifest::Manifest;
use super::super::manifest::file_stem;
use super::super::preflight::refuse;
use super::super::reading::{Files, Holding, Shared, end, lock};
use super::super::rows::{RowSum, Tally};
use super::super::wire::{Client, WireError};
use super::super::{failed, wire_failed};
use super::horizon::Horizon;
use super::look::{Watched, look};
use super::manifest::{DifferentialManifest, DifferentialTable, TableName, Watermark};
use super::settings::{RowsSettings, WatchedTable};
use crate::{Earlier, Finished, Item, Reading, SourceError};
use hikae_model::{Cx, ErrorCode, HashKey, Problem, sabotage};
use jiff::{Timestamp, tz::TimeZone};
use std::collections::VecDeque;
use std::sync::Arc;

/// Starts a reading that goes on where `earlier` ended.
pub(super) fn begin(
    connection: &Connection,
    settings: &RowsSettings,
    earlier: &Earlier<'_>,
    key: HashKey,
    cx: &Cx,
) -> Result<Box<dyn Reading>, SourceError> {
    let wire = |error: WireError| wire_failed(&format!("cannot read {}", connection.shown()), &error);
    let before = Before::of(earlier, settings)?;
    let mut holding = Holding::take(connection, settings.lock_timeout_ms(), cx)?;
    let looked = look(&mut holding.session, connection, settings, holding.horizon)?;
    refuse(&looked.findings)?;
    let relations: Vec<&Relation> = looked.tables.iter().map(|table| &table.relation).collect();
    if !lock(&mut holding.session, &relations).map_err(wire)? {
        let what = format!("tables of {} are being rewritten or truncated", connection.shown());
        return Err(failed(ErrorCode::Busy, what, Some("run again when the migration is done".into())));
    }
    let facts = Facts::ask(&mut holding.session).map_err(wire)?;
    let (moment, horizon) = (holding.moment, holding.horizon);
    let mut notes: Vec<Problem> = looked.findings.into_iter().map(|finding| finding.problem).collect();
    let clock_went_back = before.clock_went_back(&facts, moment, horizon, &mut notes)?;
    let (mut session, shared) = holding.share(connection, &facts.encoding, key, cx);

    let mut files = Files { shared: &shared, moment, items: Vec::new() };
    let mut tables = Vec::new();
    let mut script = format!(
        "-- psql, in this directory: \\i load.sql\nSET client_encoding = {};\n",
        literal(&facts.encoding)
    );
    for (n, table) in looked.tables.iter().enumerate() {
        let window = before.window(&mut session, table, horizon, clock_went_back, settings).map_err(wire)?;
        let planned = plan_table(&mut session, &mut files, n, table, window, moment, &mut script);
        tables.push(planned?);
    }
    files.add_text("load.sql", script)?;
    let sequences = catalog::sequences(&mut session, &looked.sequences).map_err(wire)?;
    let manifest = DifferentialManifest {
        kind: super::KIND.into(),
        version: DifferentialManifest::VERSION,
        database: facts.database,
        system_identifier: facts.system_identifier,
        moment,
        base: settings.base.clone(),
        tables,
        trees: looked.trees,
        sequences: sequences.into_iter().map(Into::into).collect(),
    };
    let items = files.into_items();
    Ok(Box::new(RowsReading {
        session,
        shared,
        items,
        lanes: settings.jobs.get(),
        relations: looked.tables.into_iter().map(|table| table.relation).collect(),
        manifest,
        before,
        clock_went_back,
        compare_every: settings.compare_every,
        notes,
    }))
}

/// What went before.
struct Before {
    /// The differential before.
    own: Option<DifferentialManifest>,
    /// The newest dump.
    dump: Manifest,
}

/// From where to where a table's rows are settled.
struct Window {
    watched: WatchedTable,
    from: Option<Watermark>,
    to: Option<Watermark>,
}

impl Before {
    fn of(earlier: &Earlier<'_>, settings: &RowsSettings) -> Result<Self, SourceError> {
        let Some(dump) = earlier.base else {
            let what = format!("there is no dump of {} that these rows could follow", settings.base);
            return Err(failed(
                ErrorCode::SourceMissing,
                what,
                Some(format!("hikae backup {}", settings.base)),
            ));
        };
        let own = earlier.own.map(DifferentialManifest::parse).transpose()?;
        Ok(Self { own, dump: Manifest::parse(dump)? })
    }

    /// Whether stamps may be older than what is kept already. Nothing is missed then: all rows are read.
    fn clock_went_back(
        &self,
        facts: &Facts,
        moment: Timestamp,
        horizon: Horizon,
        notes: &mut Vec<Problem>,
    ) -> Result<bool, SourceError> {
        if self.dump.database != facts.database {
            let what =
                format!("the dumps are of database {}, and this is {}", self.dump.database, facts.database);
            return Err(failed(
                ErrorCode::Usage,
                what,
                Some("see that `base` and `connection` are of one database".into()),
            ));
        }
        let Some(own) = &self.own else { return Ok(false) };
        if own.system_identifier != facts.system_identifier {
            let what = "this is another server than that of the differential before".to_owned();
            let advice = "give the new server a source of its own, or enter the old one";
            return Err(failed(ErrorCode::Forbidden, what, Some(advice.into())));
        }
        let newest = own.tables.iter().filter_map(|table| table.to.as_ref()).map(|to| to.moment);
        let newest = newest.chain([own.moment]).max().unwrap_or(own.moment);
        if moment >= newest
            && horizon.moment().is_none_or(|oldest| {
                own.tables.iter().filter_map(|table| table.to.as_ref()).all(|to| oldest >= to.moment)
            })
        {
            return Ok(false);
        }
        let what = format!("the server's clock went back: the run before was at {newest}. All rows are read");
        notes.push(Problem::new("clock", &facts.database, what).advise("see that its clock is kept right"));
        Ok(!sabotage::on("clock-unwatched"))
    }

    fn table(&self, name: &TableName) -> Option<&DifferentialTable> {
        self.own.as_ref().and_then(|own| own.table(name))
    }

    fn window(
        &self,
        session: &mut Client,
        table: &Watched,
        horizon: Horizon,
        clock_went_back: bool,
        settings: &RowsSettings,
    ) -> Result<Window, WireError> {
        let name = name_of(&table.relation);
        let mut mark = |moment: Timestamp, least: Option<&Watermark>| {
            watermark(session, &table.watched, moment, settings.overlap, least)
        };
        let in_dump = self.dump.tables.iter().any(|had| had.schema == name.schema && had.name == name.name);
        let from = match self.table(&name) {
            _ if clock_went_back => None,
            Some(had) if had.watched == table.watched => had.to.clone(),
            _ => match self.dump.horizon.filter(|_| in_dump) {
                Some(seen) => Some(mark(seen, None)?),
                None => None,
            },
        };
        let to = match horizon.moment() {
            Some(oldest) => Some(mark(oldest, from.as_ref())?),
            // The transaction that is prepared was open or unborn at the run before.
            None => from.clone(),
        };
        Ok(Window { watched: table.watched.clone(), from, to })
    }
}

fn name_of(relation: &Relation) -> TableName {
    TableName { schema: relation.schema.clone(), name: relation.name.clone() }
}

/// The least stamp of a transaction that began at `moment` or later, and no less than `least`.
///
/// A `timestamp` shows the same hour twice when clocks are put back in autumn, so where they are, it is one hour earlier.
fn watermark(
    session: &mut Client,
    watched: &WatchedTable,
    moment: Timestamp,
    overlap: jiff::SignedDuration,
    least: Option<&Watermark>,
) -> Result<Watermark, WireError> {
    let (at, overlap) = (moment.to_string(), format!("{} seconds", overlap.as_secs_f64()));
    let floor = least.map_or("", |least| &least.value);
    let value = match &watched.time_zone {
        None => session.value(
            "SELECT greatest($1::timestamptz - $2::interval, nullif($3, '')::timestamptz)::text",
            &[&at, &overlap, floor],
        )?,
        Some(zone) => session.value(
            "SELECT greatest(($1::timestamptz - $2::interval) AT TIME ZONE $4 - CASE WHEN
                now() AT TIME ZONE $4 - (now() + interval '182 days') AT TIME ZONE $4 <> interval '-182 days'
                THEN interval '1 hour' ELSE interval '0' END, nullif($3, '')::timestamp)::text",
            &[&at, &overlap, floor, zone],
        )?,
    };
    let value = value.ok_or_else(|| WireError::Protocol("no watermark came".into()))?;
    Ok(Watermark { moment: least.map_or(moment, |least| least.moment.max(moment)), value })
}

/// Plans the files of a table, and gives what is known of it before any row is read.
fn plan_table(
    session: &mut Client,
    files: &mut Files<'_>,
    n: usize,
    table: &Watched,
    window: Window,
    moment: Timestamp,
    script: &mut String,
) -> Result<DifferentialTable, SourceError> {
    let relation = &table.relation;
    let wire = |error: WireError| wire_failed(&format!("cannot read {}", relation.shown()), &error);
    let Window { watched, from, to } = window;
    let column = catalog::quote(&watched.column);
    let from_on = from.as_ref().map(|from| format!("{column} >= {}", literal(&from.value)));
    let settled = to.as_ref().map(|to| {
        let before = format!("{column} < {}", literal(&to.value));
        from_on.iter().cloned().chain([before]).collect::<Vec<_>>().join(" AND ")
    });
    let open = match &to {
        Some(to) => format!("{column} >= {} OR {column} IS NULL", literal(&to.value)),
        None => "true".to_owned(),
    };
    let mut add =
        |part: &str, index: usize, condition: Option<String>| -> Result<Option<String>, SourceError> {
            let Some(condition) = condition.map(|condition| format!("WHERE {condition}")) else {
                return Ok(None);
            };
            let exists = format!("SELECT EXISTS (SELECT FROM ONLY {} {condition})", relation.quoted());
            if session.value(exists, &[]).map_err(wire)?.as_deref() == Some("f") {
                return Ok(None);
            }
            let copy = copy_of(relation, Some(&condition), &files.shared.encoding);
            let (name, list) = (file_name(relation, part, moment), copy.list());
            files.add_rows(&name, relation, copy.out(None), index)?;
            script.push_str(&format!("\\copy {}{list} FROM '{name}'\n", relation.quoted()));
            Ok(Some(name))
        };
    let settled_file = add("incr", 2 * n, settled)?;
    let open_file = add("open", 2 * n + 1, Some(open))?;
    Ok(DifferentialTable {
        table: name_of(relation),
        watched,
        columns: relation.columns.clone(),
        from,
        to,
        settled_file,
        settled: Tally::default(),
        open_file,
        open: Tally::default(),
        total: Tally::default(),
        compared: moment,
        differs_since: None,
    })
}

fn copy_of<'a>(relation: &'a Relation, condition: Option<&'a str>, encoding: &'a str) -> CopyTable<'a> {
    CopyTable {
        schema: &relation.schema,
        name: &relation.name,
        columns: &relation.columns,
        condition,
        encoding,
    }
}

/// As `audit_logs_incr_20261120_150000.copy`, in UTC; with the schema before it unless that is `public`.
fn file_name(relation: &Relation, part: &str, moment: Timestamp) -> String {
    let stem = file_stem(&relation.schema, &relation.name);
    let stem = stem.strip_prefix("public.").unwrap_or(&stem);
    format!("{stem}_{part}_{}.copy", moment.to_zoned(TimeZone::UTC).strftime("%Y%m%d_%H%M%S"))
}

/// What is the same for all tables.
struct Facts {
    database: String,
    encoding: String,
    system_identifier: String,
}

impl Facts {
    fn ask(session: &mut Client) -> Result<Self, WireError> {
        let rows = session.query(
            "SELECT current_database(), pg_encoding_to_char(encoding),
                (SELECT system_identifier::text FROM pg_control_system())
            FROM pg_database WHERE datname = current_database()",
            &[],
        )?;
        let mut row = rows.into_iter().next().unwrap_or_default().into_iter().flatten();
        let mut next =
            || row.next().ok_or_else(|| WireError::Protocol("the server does not say where we are".into()));
        Ok(Self { database: next()?, encoding: next()?, system_identifier: next()? })
    }
}

struct RowsReading {
    session: Client,
    shared: Arc<Shared>,
    items: VecDeque<Item>,
    lanes: usize,
    /// Of the tables of the manifest, in the same order.
    relations: Vec<Relation>,
    manifest: DifferentialManifest,
    before: Before,
    clock_went_back: bool,
    compare_every: jiff::Span,
    notes: Vec<Problem>,
}

impl RowsReading {
    /// What the whole table must be, if it only grew since the run before.
    fn expected(&self, table: &DifferentialTable) -> Option<Tally> {
        let had = self.before.table(&table.table).filter(|_| !self.clock_went_back)?;
        let goes_on = had.to.is_some() && had.to == table.from && had.columns == table.columns;
        goes_on.then(|| had.total.minus(had.open).plus(table.settled).plus(table.open))
    }

    fn is_comparison_due(&self, compared: Timestamp) -> bool {
        let next = compared.to_zoned(TimeZone::UTC).checked_add(self.compare_every);
        next.is_ok_and(|next| next.timestamp() <= self.manifest.moment)
    }

    /// Reads all rows of a table, and keeps none.
    fn count_whole(&mut self, n: usize) -> Result<Tally, SourceError> {
        let relation = &self.relations[n];
        self.shared.cx.progress().begin("comparing", relation.shown(), 0);
        let copy = copy_of(relation, None, &self.shared.encoding).out(None);
        let mut sum = RowSum::new(self.shared.key);
        let counted = self.session.sum_rows(&copy, &mut sum);
        counted.map_err(|error| wire_failed(&format!("cannot read {}", relation.shown()), &error))?;
        Ok(sum.tally())
    }

    /// Fills in what the whole table is now, and says what the differentials do not show.
    fn settle(
        &mut self,
        n: usize,
        mut table: DifferentialTable,
    ) -> Result<(DifferentialTable, Option<Problem>), SourceError> {
        let expected = self.expected(&table);
        let had = self.before.table(&table.table);
        let (compared, differed) = (had.map(|had| had.compared), had.and_then(|had| had.differs_since));
        table.differs_since = differed.filter(|since| self.before.dump.moment < *since);
        match (expected, compared) {
            (Some(expected), Some(compared)) if !self.is_comparison_due(compared) => {
                (table.total, table.compared) = (expected, compared);
            }
            _ => {
                let found = self.count_whole(n)?;
                let differs = expected.is_some_and(|expected| expected != found);
                if differs && !sabotage::on("differences-unseen") {
                    table.differs_since = Some(self.manifest.moment);
                }
                table.total = found;
                if let Some(expected) = expected.filter(|_| table.differs_since == Some(self.manifest.moment))
                {
                    let what = differing(expected, found);
                    return Ok((table.clone(), Some(not_shown(&table, &self.manifest.base, what))));
                }
            }
        }
        let problem = table.differs_since.map(|since| {
            let what = format!(
                "at {since} rows had been deleted, or changed without a new stamp, and no dump was made since"
            );
            not_shown(&table, &self.manifest.base, what)
        });
        Ok((table, problem))
    }
}

fn differing(expected: Tally, found: Tally) -> String {
    let what = match (expected.rows, found.rows) {
        (expected, found) if found < expected => "rows were deleted",
        (expected, found) if found > expected => "rows came with a stamp older than the watermark",
        _ => "rows were changed without a new stamp",
    };
    format!("{what}: it has {} rows where the differentials lead to {}", found.rows, expected.rows)
}

fn not_shown(table: &DifferentialTable, base: &str, what: String) -> Problem {
    let advice = format!("`hikae backup {base}`: differentials after that dump are right again");
    Problem::new("rows-not-shown", table.table.shown(), what).advise(advice)
}

impl Reading for RowsReading {
    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        self.shared.cx.check()?;
        Ok(self.items.pop_front())
    }

    fn lanes(&self) -> usize {
        self.lanes
    }

    fn finish(mut self: Box<Self>) -> Result<Finished, SourceError> {
        let sums = self.shared.sums(2 * self.relations.len())?;
        let mut problems = Vec::new();
        for (n, mut table) in std::mem::take(&mut self.manifest.tables).into_iter().enumerate() {
            (table.settled, table.open) = (sums[2 * n].tally(), sums[2 * n + 1].tally());
            let (table, problem) = self.settle(n, table)?;
            problems.extend(problem);
            self.manifest.tables.push(table);
        }
        let manifest = end(&mut self.session, &self.manifest)?;
        Ok(Finished { moment: self.manifest.moment, problems, notes: self.notes, manifest: Some(manifest) })
    }
}
