//! A table or a database out of a cluster as it was, beside what there is.

use super::*;
use hikae_model::Outcome;
use hikae_ops::pitr::take_out::{TakenOut, Wanted, take_out};
use hikae_ops::restore_database::PostgresqlTarget;

impl Archived {
    /// Enters a database of the server.
    fn enter(&self, database: &str) -> postgres::Client {
        let Host::Socket(socket) = self.server.cluster.connection().host.clone() else { panic!() };
        let mut config = postgres::Config::new();
        config.host_path(socket).port(self.server.cluster.connection().port).user("postgres");
        config.dbname(database).connect(postgres::NoTls).unwrap()
    }

    fn sql(&self, database: &str, sql: &str) {
        self.enter(database).batch_execute(sql).unwrap();
    }

    /// What a query of one value says, as text.
    fn value(&self, database: &str, sql: &str) -> String {
        self.enter(database).query_one(sql, &[]).unwrap().get(0)
    }

    fn wanted(&self, database: Option<&str>, tables: &[&str], into: &str) -> Wanted {
        let connection = self.server.cluster.connection().conninfo(None);
        Wanted {
            database: database.map(str::to_owned),
            tables: tables.iter().map(|&table| table.to_owned()).collect(),
            target: PostgresqlTarget {
                connection,
                database: Some(into.to_owned()),
                program_directory: Some(self.server.cluster.program_directory().to_owned()),
                ..PostgresqlTarget::default()
            },
        }
    }

    fn take_out(&self, time: Timestamp, wanted: &Wanted) -> Result<TakenOut, OpsError> {
        let plan = self.plan(Target::Time(time), true, Course::Latest)?;
        let options = self.options("beside");
        take_out(&self.repo(), &plan, wanted, &options, &around(&self.world), &system_cx())
    }
}

/// What was in a table, whatever the order.
const ROWS: &str = "SELECT coalesce(string_agg(t::text, ',' ORDER BY t::text), '') FROM audit t";

/// Keeps BC-31.
#[test]
fn a_table_comes_back_as_it_was_into_a_new_database_and_nothing_else_is_touched() {
    let Some(mut archived) = Archived::start() else { return };
    ["shop", "other"].iter().for_each(|name| archived.sql("postgres", &format!("CREATE DATABASE {name}")));
    archived.sql(
        "shop",
        "CREATE TABLE users (id int PRIMARY KEY, name text);
         CREATE TABLE audit (id int PRIMARY KEY, who int REFERENCES users, what text);
         CREATE TABLE big AS SELECT i FROM generate_series(1, 1000) i;
         INSERT INTO users VALUES (1, 'a'), (2, 'b')",
    );
    archived.back_up();
    archived
        .sql("shop", "INSERT INTO audit SELECT i, 1 + i % 2, md5(i::text) FROM generate_series(1, 500) i");
    let then = archived.value("shop", ROWS);
    let now = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    let time: Timestamp = archived.value("shop", now).parse().unwrap();
    archived.sql("shop", "DELETE FROM audit WHERE id > 3; UPDATE users SET name = 'c'; DROP TABLE big");
    archived.server.wait_until_archived();
    let live =
        (archived.value("shop", ROWS), archived.value("shop", "SELECT string_agg(name, '') FROM users"));

    let wanted = archived.wanted(Some("shop"), &["audit"], "audit_then");
    let taken = archived
        .take_out(time, &wanted)
        .unwrap_or_else(|error| panic!("{}", hikae_model::with_causes(&error)));
    assert_eq!(taken.outcome, Outcome::Complete, "{taken:?}");
    assert!(taken.checks.len() > 5, "{taken:?}");
    let expected = [("public.audit".to_owned(), 500), ("public.users".to_owned(), 2)];
    assert_eq!(taken.tables, expected, "what was not chosen came too");
    assert_eq!(archived.value("audit_then", ROWS), then);
    assert_eq!(archived.value("audit_then", "SELECT string_agg(name, '' ORDER BY name) FROM users"), "ab");
    assert_eq!(archived.value("audit_then", "SELECT count(*)::text FROM big"), "0");
    archived.assert_nothing_left("beside");

    let whole = archived.wanted(Some("shop"), &[], "shop_then");
    let taken = archived.take_out(time, &whole).unwrap();
    assert_eq!((taken.outcome, taken.tables.len()), (Outcome::Complete, 3));
    assert_eq!(archived.value("shop_then", "SELECT count(*)::text FROM big"), "1000");
    let after =
        (archived.value("shop", ROWS), archived.value("shop", "SELECT string_agg(name, '') FROM users"));
    assert_eq!(after, live);

    // What cannot be is refused before the cluster is recovered, as far as it can be known.
    says(archived.take_out(time, &wanted), &["audit_then is there already"]);
    says(
        archived.take_out(time, &archived.wanted(None, &["audit"], "new")),
        &["several databases: other, shop", "--from-database"],
    );
    says(archived.take_out(time, &archived.wanted(Some("shop"), &["nowhere"], "new")), &["nowhere"]);
    archived.sql("postgres", "CREATE ROLE reader LOGIN");
    let mut poor = archived.wanted(Some("shop"), &["audit"], "new");
    poor.target.connection = poor.target.connection.replace("user='postgres'", "user='reader'");
    says(archived.take_out(time, &poor), &["reader may not create databases"]);
    let made = archived.value("postgres", "SELECT count(*)::text FROM pg_database WHERE datname IN ('new')");
    assert_eq!(made, "0");
    archived.assert_nothing_left("beside");
}
