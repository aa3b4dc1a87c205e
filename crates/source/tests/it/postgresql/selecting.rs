//! A selection of tables comes with all that it needs, and says what it left.

use super::*;

const SHOP: &str = "
    CREATE TYPE state AS ENUM ('new', 'paid'); CREATE EXTENSION citext; CREATE SEQUENCE numbers START 500; SELECT nextval('numbers');
    CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.s := 'new'; RETURN NEW; END $$;
    CREATE TABLE countries (code citext PRIMARY KEY); INSERT INTO countries VALUES ('DE');
    CREATE TABLE customers (id int PRIMARY KEY, country citext REFERENCES countries); INSERT INTO customers VALUES (1, 'DE');
    CREATE TABLE orders (id int PRIMARY KEY DEFAULT nextval('numbers'), customer int REFERENCES customers, s state);
    INSERT INTO orders VALUES (1, 1, 'paid'), (2, 1, 'new'); CREATE INDEX ON orders (s);
    CREATE TRIGGER stamp BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION stamp();
    CREATE TABLE unrelated (a int); INSERT INTO unrelated VALUES (1);
    CREATE TABLE audit_logs (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE audit_logs_2025 PARTITION OF audit_logs FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') PARTITION BY RANGE (id);
    CREATE TABLE audit_logs_2025_low PARTITION OF audit_logs_2025 FOR VALUES FROM (0) TO (501);
    CREATE TABLE audit_logs_2025_high PARTITION OF audit_logs_2025 DEFAULT;
    INSERT INTO audit_logs SELECT i, '2025-01-05' FROM generate_series(1, 1000) i;
    CREATE VIEW paid AS SELECT * FROM orders WHERE s = 'paid';";

fn shop(tag: &str) -> Db {
    let db = Db::new(tag);
    db.sql(SHOP);
    db
}

fn tables(kept: &Kept) -> Vec<String> {
    kept.manifest().tables.into_iter().map(|table| table.name).collect()
}

/// D14: types, functions, extensions and sequences come along, so it loads into an empty server.
/// Keeps BC-6.
#[test]
fn one_table_restores_into_an_empty_server() {
    let db = shop("d14");
    let kept =
        back_up(&source(PostgresqlSettings { tables: vec!["orders".into()], ..db.settings() })).unwrap();
    assert_eq!(tables(&kept), ["countries", "customers", "orders"]);
    assert_passed(&drill_it(&kept).unwrap());
    let gaps: Vec<String> = kept.manifest().not_covered.into_iter().map(|gap| gap.what).collect();
    assert!(gaps.contains(&"public.unrelated".to_owned()), "{gaps:?}");
    assert!(gaps.contains(&"public.audit_logs_2025_low".to_owned()), "{gaps:?}");
}

/// D18: a partitioned table comes with the rows of all its partitions.
/// Keeps BC-6, BC-8.
#[test]
fn a_partitioned_table_is_never_empty() {
    let db = shop("d18");
    let kept =
        back_up(&source(PostgresqlSettings { tables: vec!["public.audit_logs".into()], ..db.settings() }))
            .unwrap();
    assert_eq!(tables(&kept), ["audit_logs_2025_high", "audit_logs_2025_low"]);
    assert_eq!(kept.manifest().tables.iter().map(|table| table.rows).sum::<u64>(), 1000);
    assert_passed(&drill_it(&kept).unwrap());
}

#[test]
fn a_role_with_rights_to_its_tables_alone_can_keep_those() {
    let db = shop("narrow");
    db.sql(
        "CREATE ROLE narrow LOGIN; GRANT SELECT ON orders, customers, countries TO narrow; GRANT SELECT ON SEQUENCE numbers TO narrow;
         CREATE VIEW of_unrelated AS SELECT * FROM unrelated; CREATE TABLE serial_of_unrelated (id serial, a int);",
    );
    let settings = PostgresqlSettings {
        tables: vec!["orders".into()],
        program_directory: named_postgresql(),
        ..PostgresqlSettings::of(db.conninfo("narrow"))
    };
    let kept = back_up(&source(settings)).unwrap();
    assert_eq!(tables(&kept), ["countries", "customers", "orders"]);
    assert_passed(&drill_it(&kept).unwrap());
    let whole = back_up(&source(PostgresqlSettings::of(db.conninfo("narrow"))));
    assert!(whole.is_err(), "a role that may not read everything backed everything up");
    db.sql("DROP OWNED BY narrow; DROP ROLE narrow");
}

#[test]
fn a_schema_is_a_selection_too_and_what_is_not_there_is_named() {
    let db = shop("schemas");
    db.sql("CREATE SCHEMA sales; CREATE TABLE sales.a (i int); CREATE TABLE sales.\"B c\" (i int);");
    let kept =
        back_up(&source(PostgresqlSettings { schemas: vec!["sales".into()], ..db.settings() })).unwrap();
    assert_eq!(tables(&kept), ["B c", "a"]);
    let named = PostgresqlSettings { tables: vec!["sales.\"B c\"".into()], ..db.settings() };
    assert_eq!(tables(&back_up(&source(named)).unwrap()), ["B c"]);
    for settings in [
        PostgresqlSettings { schemas: vec!["nowhere".into()], ..db.settings() },
        PostgresqlSettings { tables: vec!["nothing".into()], ..db.settings() },
        PostgresqlSettings { tables: vec!["a.b.c.d".into()], ..db.settings() },
        PostgresqlSettings { tables: vec!["; DROP TABLE orders".into()], ..db.settings() },
        PostgresqlSettings { tables: vec!["pg_class".into()], ..db.settings() },
    ] {
        assert!(matches!(back_up(&source(settings)), Err(SourceError::Setting { .. })));
    }
}
