//! New rows between two dumps: none lost by late commits, none twice, and what rows cannot show is found.

use super::{Db, KEY, Kept, assert_passed, drill_it, environment, read_all};
use hikae_model::{Advise as _, Problem};
use hikae_source::postgresql::differential::{
    DifferentialManifest, NotForward, RolledForward, RowsSettings, RowsSource, WatchedTable,
};
use hikae_source::postgresql::{DrillResult, Weight};
use hikae_source::{Earlier, Source as _, SourceError, Stored};
use hikae_testkit::system_cx;
use jiff::{SignedDuration, Span};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::cell::RefCell;
use std::io::Read as _;

/// Differentials of one database, and the dumps that they follow.
struct History<'d> {
    db: &'d Db,
    settings: RowsSettings,
    dumps: Vec<Kept>,
    differentials: Vec<Kept>,
}

impl<'d> History<'d> {
    fn of(db: &'d Db, tables: &[(&str, &str)]) -> Self {
        let watched = |(table, column): &(&str, &str)| WatchedTable {
            table: (*table).to_owned(),
            column: (*column).to_owned(),
            time_zone: None,
        };
        let tables = tables.iter().map(watched).collect();
        let settings = RowsSettings {
            allow_superuser: true,
            overlap: SignedDuration::ZERO,
            ..RowsSettings::of(db.conninfo("postgres"), "shop", tables)
        };
        Self { db, settings, dumps: Vec::new(), differentials: Vec::new() }
    }

    fn dump(&mut self) {
        self.dumps.push(self.db.back_up());
    }

    fn source(&self) -> RowsSource {
        RowsSource::new(self.settings.clone(), None, &environment()).unwrap()
    }

    fn try_run(&mut self) -> Result<Vec<Problem>, SourceError> {
        let own = self.differentials.last().map(|kept| kept.manifest.as_slice());
        let base = self.dumps.last().map(|kept| kept.manifest.as_slice());
        let reading =
            self.source().begin_after(&Earlier { own, base, ..Earlier::NOTHING }, KEY, &system_cx())?;
        let (kept, problems) = read_all(reading, 10_000, &mut |_| {})?;
        self.differentials.push(kept);
        Ok(problems)
    }

    #[track_caller]
    fn run(&mut self) -> Vec<Problem> {
        self.try_run().unwrap()
    }

    fn newest(&self) -> DifferentialManifest {
        DifferentialManifest::parse(&self.differentials.last().unwrap().manifest).unwrap()
    }

    /// Calls `then` with what the newest dump that carries so far and all differentials after it make.
    fn rolled<T>(&self, then: impl FnOnce(Result<RolledForward<'_>, NotForward>) -> T) -> T {
        let moments =
            self.differentials.iter().map(|kept| DifferentialManifest::parse(&kept.manifest).unwrap().moment);
        let moments: Vec<_> = moments.collect();
        let after = |dump: &Kept| -> Vec<&dyn Stored> {
            let moment = dump.manifest().moment;
            let all = self.differentials.iter().zip(&moments).filter(|(_, at)| **at > moment);
            all.map(|(kept, _)| kept as &dyn Stored).collect()
        };
        for dump in self.dumps.iter().rev() {
            let differentials = after(dump);
            let rolled = RolledForward::new(dump, &differentials);
            if rolled.is_ok() || std::ptr::eq(dump, &self.dumps[0]) {
                return then(rolled);
            }
        }
        panic!("there is no dump")
    }

    /// The rows of a table at the moment of the newest differential, in order.
    #[track_caller]
    fn rows(&self, file: &str) -> Vec<String> {
        self.rolled(|rolled| sorted(&text(&rolled.unwrap(), file)))
    }

    fn drill(&self) -> DrillResult {
        self.rolled(|rolled| {
            let rolled = rolled.unwrap();
            let mut kept = Kept { manifest: rolled.manifest().unwrap().to_vec(), ..Kept::default() };
            for entry in rolled.entries() {
                kept.entries.push(entry.clone());
                let mut bytes = Vec::new();
                if entry.path.to_string() != "tables" {
                    rolled.open(entry).unwrap().read_to_end(&mut bytes).unwrap();
                }
                kept.files.insert(entry.path.as_bytes().to_vec(), bytes);
            }
            drill_it(&kept).unwrap()
        })
    }
}

fn text(stored: &dyn Stored, file: &str) -> String {
    let entry = stored.entries().iter().find(|entry| entry.path.to_string() == file);
    let mut text = String::new();
    stored.open(entry.unwrap_or_else(|| panic!("no {file}"))).unwrap().read_to_string(&mut text).unwrap();
    text
}

fn sorted(text: &str) -> Vec<String> {
    let mut rows: Vec<String> = text.lines().map(str::to_owned).collect();
    rows.sort();
    rows
}

/// What happens to the table between two looks, by one of several sessions.
#[derive(Clone, Copy, Debug)]
enum Step {
    Begin(usize),
    Insert(usize),
    Commit(usize),
    RollBack(usize),
    Prepare(usize),
    CommitPrepared,
    Run,
    Dump,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_usize).prop_map(Step::Begin),
        6 => (0..3_usize).prop_map(Step::Insert),
        2 => (0..3_usize).prop_map(Step::Commit),
        1 => (0..3_usize).prop_map(Step::RollBack),
        1 => (0..3_usize).prop_map(Step::Prepare),
        1 => Just(Step::CommitPrepared),
        4 => Just(Step::Run),
    ]
}

/// Keeps BC-26.
#[test]
fn a_row_that_is_committed_late_with_an_early_stamp_is_never_lost() {
    let db = Db::new("late");
    db.sql("CREATE TABLE log (id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), what text); CREATE INDEX ON log (at)");
    let history = RefCell::new(History::of(&db, &[("log", "at")]));
    let sessions: Vec<RefCell<(postgres::Client, bool)>> =
        (0..3).map(|_| RefCell::new((db.client(), false))).collect();
    let mut look = db.client();
    look.batch_execute("SET TimeZone = 'UTC'").unwrap();
    let look = RefCell::new(look);
    let prepared = RefCell::new(Vec::new());
    let n_prepared = RefCell::new(0);
    let step = |step: Step| match step {
        Step::Begin(n) => {
            let (client, open) = &mut *sessions[n].borrow_mut();
            if !*open {
                // A transaction draws its time with its first statement.
                client.batch_execute("BEGIN; SELECT now()").unwrap();
                *open = true;
            }
        }
        Step::Insert(n) => {
            sessions[n].borrow_mut().0.batch_execute("INSERT INTO log (what) VALUES ('x')").unwrap()
        }
        Step::Commit(n) | Step::RollBack(n) => {
            let (client, open) = &mut *sessions[n].borrow_mut();
            client
                .batch_execute(if matches!(step, Step::Commit(_)) { "COMMIT" } else { "ROLLBACK" })
                .unwrap();
            *open = false;
        }
        Step::Prepare(n) => {
            let (client, open) = &mut *sessions[n].borrow_mut();
            if *open && prepared.borrow().len() < 3 {
                let name = format!("{}-{}", db.name, n_prepared.replace_with(|n| *n + 1));
                client.batch_execute(&format!("PREPARE TRANSACTION '{name}'")).unwrap();
                *open = false;
                prepared.borrow_mut().push(name);
            }
        }
        Step::CommitPrepared => {
            if let Some(name) = prepared.borrow_mut().pop() {
                look.borrow_mut().batch_execute(&format!("COMMIT PREPARED '{name}'")).unwrap();
            }
        }
        Step::Dump => history.borrow_mut().dump(),
        Step::Run => {
            let problems = history.borrow_mut().run();
            assert!(problems.is_empty(), "{problems:?}");
            let rows =
                look.borrow_mut().query("SELECT concat_ws(E'\\t', id, at, what) FROM log", &[]).unwrap();
            let expected = sorted(&rows.iter().map(|row| row.get::<_, String>(0) + "\n").collect::<String>());
            assert_eq!(
                history.borrow().rows("tables/public.log.copy"),
                expected,
                "rows were lost or doubled"
            );
        }
    };
    // A dump is taken with transactions open too, and not for each schedule, because it takes its time.
    [Step::Begin(0), Step::Insert(0), Step::Dump, Step::Run].into_iter().for_each(step);
    let n_schedules = RefCell::new(0);
    let mut runner = TestRunner::new(Config {
        cases: 100,
        max_shrink_iters: 0,
        failure_persistence: None,
        ..Config::default()
    });
    let steps = prop::collection::vec(any_step(), 4..12);
    let ran = runner.run(&steps, |steps| {
        steps.into_iter().chain([Step::Run]).for_each(step);
        if n_schedules.replace_with(|n| *n + 1) % 25 == 24 {
            step(Step::Dump);
        }
        Ok(())
    });
    while !prepared.borrow().is_empty() {
        step(Step::CommitPrepared);
    }
    ran.unwrap();
}

/// Keeps BC-26, BC-27.
#[test]
fn a_dump_and_its_differentials_come_back_as_the_tables_were() {
    let db = Db::new("forward");
    db.sql(
        "SET TimeZone = 'UTC';
         CREATE TABLE users (id int PRIMARY KEY);
         CREATE SCHEMA app;
         CREATE TABLE \"audit logs\" (id bigint GENERATED ALWAYS AS IDENTITY, who int REFERENCES users, what text,
             at timestamp DEFAULT now() NOT NULL, double int GENERATED ALWAYS AS (who * 2) STORED, PRIMARY KEY (id, at))
             PARTITION BY RANGE (at);
         CREATE TABLE old PARTITION OF \"audit logs\" FOR VALUES FROM ('2000-01-01') TO ('2020-01-01');
         CREATE TABLE app.new PARTITION OF \"audit logs\" FOR VALUES FROM ('2020-01-01') TO ('3000-01-01');
         CREATE TABLE plain (what text, at timestamptz DEFAULT now());
         CREATE TABLE other (n int);
         INSERT INTO users SELECT generate_series(1, 5);
         INSERT INTO \"audit logs\" (who, what, at) SELECT 1, 'old', '2010-01-01' FROM generate_series(1, 100);
         INSERT INTO \"audit logs\" (who, what) SELECT 2, E'tab\\t and line\\n ' || n FROM generate_series(1, 50) n;
         INSERT INTO plain SELECT 'same' FROM generate_series(1, 10); INSERT INTO plain VALUES ('never', NULL), ('x', 'infinity'), ('y', '-infinity');
         INSERT INTO other VALUES (1)",
    );
    let mut history = History::of(&db, &[("\"audit logs\"", "at"), ("plain", "at")]);
    history.settings.tables[0].time_zone = Some("UTC".into());
    history.dump();
    for n in 0..3 {
        db.sql(&format!(
            "SET TimeZone = 'UTC'; INSERT INTO users VALUES (10 + {n});
             INSERT INTO \"audit logs\" (who, what) SELECT 10 + {n}, 'new' FROM generate_series(1, 20);
             INSERT INTO plain SELECT 'same' FROM generate_series(1, 10); INSERT INTO plain VALUES ('never', NULL);
             INSERT INTO other VALUES (2)"
        ));
        assert_eq!(history.run(), []);
    }
    let names = history.differentials[2].names().join(" ");
    assert!(
        names.contains("app.new_incr_20") && names.contains("plain_open_20") && !names.contains("old_"),
        "{names}"
    );
    let newest = history.newest();
    let settled: u64 = newest.tables.iter().map(|table| table.settled.rows).sum();
    assert!(settled <= 34, "a run holds what came since the one before: {newest:#?}");

    let drilled = history.drill();
    assert_passed(&drilled);
    let check = |name: &str| drilled.checks.iter().find(|check| check.name == name).unwrap().actual.clone();
    assert_eq!(check("rows of app.new"), "110");
    assert_eq!(check("rows of public.plain"), "46");
    assert_eq!(check("rows of public.other"), "1", "all else is the dump's");
    assert_eq!(check("sequence public.audit logs_id_seq"), "210");
    assert!(drilled.notes.iter().any(|note| note.contains("foreign key")), "{:?}", drilled.notes);
}

/// Keeps BC-26.
#[test]
fn what_rows_cannot_show_is_found_by_the_comparison() {
    for (what, harm) in [
        (
            "rows were deleted: it has 99 rows where the differentials lead to 100",
            "DELETE FROM log WHERE id = 7",
        ),
        ("changed without a new stamp", "UPDATE log SET what = 'other' WHERE id = 7"),
        ("it has 0 rows where", "TRUNCATE log"),
        ("rows came with a stamp older", "INSERT INTO log VALUES (777, '2001-01-01', 'from an import')"),
    ] {
        let db = Db::new("silent");
        db.maintenance(&format!("ALTER DATABASE {} SET TimeZone = 'UTC'", db.name));
        db.sql(
            "CREATE TABLE log (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), what text);
                INSERT INTO log SELECT n, now(), 'x' FROM generate_series(1, 100) n",
        );
        let mut history = History::of(&db, &[("log", "at")]);
        history.dump();
        assert_eq!(history.run(), []);
        db.sql(harm);
        assert_eq!(history.run(), [], "no comparison is due");
        history.settings.compare_every = Span::new().microseconds(1);
        let found = history.run();
        let found = found.first().unwrap_or_else(|| panic!("{harm}: nothing was found"));
        assert!(found.what.contains(what), "{harm}: {found:?}");
        assert!(found.advice.as_ref().unwrap().contains("hikae backup shop"), "{found:?}");
        history.settings.compare_every = Span::new().days(7);
        assert!(history.run()[0].what.contains("no dump was made since"), "it is said until there is one");
        let makes = |history: &History<'_>| history.rows("tables/public.log.copy");
        let is = || {
            sorted(
                &db.client()
                    .query("SELECT concat_ws(E'\t', id, at, what) || E'\n' FROM log", &[])
                    .unwrap()
                    .iter()
                    .map(|row| row.get::<_, String>(0))
                    .collect::<String>(),
            )
        };
        assert_ne!(makes(&history), is(), "{harm}: the differentials lead elsewhere");
        if harm.starts_with("DELETE") {
            let drilled = history.drill();
            assert!(!drilled.passed(), "and a restore sees it: {:?}", drilled.checks);
        }

        history.dump();
        db.sql("INSERT INTO log VALUES (1000, now(), 'z')");
        assert_eq!(history.run(), [], "{harm}: a dump ends it");
        assert_eq!(makes(&history), is());
    }
}

#[test]
fn rows_that_are_in_no_differential_are_a_gap_and_not_passed_over() {
    let db = Db::new("gap");
    db.sql("CREATE TABLE log (id serial, at timestamptz NOT NULL DEFAULT now())");
    let mut history = History::of(&db, &[("log", "at")]);
    history.dump();
    for _ in 0..3 {
        db.sql("INSERT INTO log DEFAULT VALUES");
        history.run();
    }
    assert_eq!(history.rows("tables/public.log.copy").len(), 3);
    history.differentials.remove(1);
    let error = history.rolled(|rolled| rolled.err().map(|error| error.to_string()));
    assert!(
        error.as_ref().unwrap().contains("public.log: no differential here has the rows from"),
        "{error:?}"
    );
}

/// Stamps drawn after a clock went back are older than those that are kept: all rows are read, and none is missed.
#[test]
fn a_clock_that_went_back_costs_a_whole_reading_and_no_row() {
    let db = Db::new("clock");
    db.sql("CREATE TABLE log (id serial, at timestamptz NOT NULL DEFAULT now())");
    let mut history = History::of(&db, &[("log", "at")]);
    history.dump();
    history.run();
    // As if that run had been made while the clock was an hour ahead.
    let mut ahead = history.newest();
    ahead.moment += SignedDuration::from_hours(1);
    for table in &mut ahead.tables {
        let to = table.to.as_mut().unwrap();
        to.moment += SignedDuration::from_hours(1);
        to.value = "2999-01-01 00:00:00+00".into();
    }
    history.differentials[0].manifest = serde_json::to_vec(&ahead).unwrap();
    db.sql("INSERT INTO log DEFAULT VALUES");
    assert_eq!(history.run(), []);
    let rows = history.newest().tables[0].rows();
    assert_eq!(rows, 1, "the row of before the watermark is missing");
    assert_eq!(history.newest().tables[0].from, None);
}

/// A table of which new rows cannot be told is refused before anything is read, with what to do.
#[test]
fn a_table_whose_new_rows_cannot_be_told_is_refused() {
    let db = Db::new("refused");
    db.sql(
        "CREATE TABLE log (id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), day date, local timestamp,
             made timestamptz GENERATED ALWAYS AS (at) STORED);
         CREATE INDEX ON log (at);
         CREATE TABLE hidden (at timestamptz NOT NULL DEFAULT now()); ALTER TABLE hidden ENABLE ROW LEVEL SECURITY;
         CREATE VIEW seen AS SELECT * FROM log;
         DO $$ BEGIN CREATE ROLE rows_reader LOGIN IN ROLE pg_read_all_data;
             EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$",
    );
    let mut dumped = History::of(&db, &[("log", "at")]);
    dumped.dump();
    let refused = |user: &str, table: &str, column: &str| {
        let mut history = History::of(&db, &[(table, column)]);
        history.settings.connection = db.conninfo(user);
        history.dumps = dumped.dumps.clone();
        let error = history.try_run().err();
        error.map(|error| format!("{error} / {}", error.advice().unwrap_or_default())).unwrap_or_default()
    };
    for (user, table, column, why) in [
        ("postgres", "log", "id", "is of type bigint, which does not say when a row came"),
        ("postgres", "log", "day", "is of type date"),
        ("postgres", "log", "made", "has no column made that is stored as it was written"),
        ("postgres", "log", "nowhere", "has no column nowhere"),
        ("postgres", "seen", "at", "is no table of a user"),
        ("postgres", "absent", "at", "is not there"),
        ("rows_reader", "hidden", "at", "GRANT pg_read_all_stats TO \"rows_reader\""),
    ] {
        let error = refused(user, table, column);
        assert!(error.contains(why), "{table}.{column}: {error}");
    }
    db.sql("GRANT pg_read_all_stats TO rows_reader");
    assert!(refused("rows_reader", "hidden", "at").contains("row security hides rows"));
    assert_eq!(refused("rows_reader", "log", "at"), "", "a role that only reads is enough");

    let mut history = History::of(&db, &[("log", "local")]);
    history.settings.tables[0].time_zone = Some("Pacific/Kiritimati".into());
    let found = history.source().preflight(&system_cx()).unwrap();
    assert!(found.iter().any(|finding| finding.problem.what.contains("sessions here are in")), "{found:?}");
    history.settings.tables[0].time_zone = None;
    let found = history.source().preflight(&system_cx()).unwrap();
    let warned: Vec<_> = found.iter().filter(|finding| finding.weight == Weight::Warns).collect();
    assert!(warned.iter().any(|finding| finding.problem.what.contains("has no time zone")), "{found:?}");
    assert!(warned.iter().any(|finding| finding.problem.what.contains("no index begins with")), "{found:?}");
    assert!(found.iter().any(|finding| finding.problem.what.contains("may be NULL")), "{found:?}");

    let mut nothing = History::of(&db, &[("log", "at")]);
    assert!(nothing.try_run().unwrap_err().to_string().contains("no dump of shop"));
}
