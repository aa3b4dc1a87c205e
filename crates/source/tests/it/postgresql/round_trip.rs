//! What comes back is what was there.

use super::*;

/// One of nearly everything that a database can hold.
const NASTY: &str = r#"
CREATE SCHEMA "odd schema";
CREATE EXTENSION citext WITH SCHEMA "odd schema";
CREATE EXTENSION pgcrypto;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s "fine"');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE pair AS (a int, b text);
CREATE TYPE span AS RANGE (subtype = float8);
CREATE FUNCTION double(i int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT i * 2';
CREATE TABLE everything (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    m mood DEFAULT 'ok', p positive, c pair, s span, words text[] DEFAULT '{}', grid int[][],
    b bytea, f float8, r float4, n numeric, t timestamptz, d date, i interval, j jsonb, cash money, u uuid, x xml,
    ci "odd schema".citext, bits bit varying(9), net inet, doubled int GENERATED ALWAYS AS (double(p)) STORED,
    "Column ""x"", 'y' \ %s" text, tid regclass
);
INSERT INTO everything (m, p, c, s, words, grid, b, f, r, n, t, d, i, j, cash, u, x, ci, bits, net, "Column ""x"", 'y' \ %s", tid) VALUES
 ('it''s "fine"', 1, (1, E'a\tb\nc\\d'), '[1,2)', ARRAY['', NULL, '\N', E'\\.', 'NULL', '{"'], '{{1,2},{3,4}}', '\x00ff5c0a', 'Infinity', '-Infinity', 'NaN',
  'infinity', '-infinity', '1 year -3 days 00:00:01.5', '{"a": "\u202e\n"}', 12.34, gen_random_uuid(), '<a/>', 'CaSe', '101', '::1/64', E'\\.', 'everything'),
 ('sad', 2, NULL, 'empty', NULL, '{}', '', 'NaN', '1.17549435e-38', 1e100, '2026-03-29 01:30:00+00', '0044-03-15 BC', '0', 'null', -1, NULL, NULL, '', B'', '10.0.0.1', E'\r\n\b\f\v', 'pg_class'),
 (NULL, NULL, NULL, NULL, NULL, NULL, NULL, 4.9e-324, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '', NULL);
CREATE TABLE no_columns ();
INSERT INTO no_columns DEFAULT VALUES; INSERT INTO no_columns DEFAULT VALUES;
CREATE TABLE only_generated (g int GENERATED ALWAYS AS (7) STORED);
INSERT INTO only_generated DEFAULT VALUES;
CREATE TABLE empty (a int);
CREATE TABLE dropped (a int, gone int, b int); ALTER TABLE dropped DROP COLUMN gone; INSERT INTO dropped VALUES (1, 2);
CREATE UNLOGGED TABLE scratchpad (a int); INSERT INTO scratchpad VALUES (1);
CREATE TABLE parent (a int, note text); CREATE TABLE child (b int) INHERITS (parent);
INSERT INTO parent VALUES (1, 'p'); INSERT INTO child VALUES (2, 'c', 3);
CREATE TABLE logs (at date NOT NULL, what text, PRIMARY KEY (at, what)) PARTITION BY RANGE (at);
CREATE TABLE logs_2025 PARTITION OF logs FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE logs_rest PARTITION OF logs DEFAULT PARTITION BY LIST (what);
CREATE TABLE logs_rest_x PARTITION OF logs_rest DEFAULT;
INSERT INTO logs VALUES ('2025-05-05', 'a'), ('2026-06-06', 'b'), ('1999-01-01', 'c');
CREATE TABLE chicken (id int PRIMARY KEY, egg int); CREATE TABLE egg (id int PRIMARY KEY, chicken int REFERENCES chicken);
INSERT INTO chicken VALUES (1, 1); INSERT INTO egg VALUES (1, 1);
ALTER TABLE chicken ADD CONSTRAINT laid FOREIGN KEY (egg) REFERENCES egg DEFERRABLE INITIALLY DEFERRED;
CREATE SEQUENCE free START 5 INCREMENT -3 MINVALUE -1000 MAXVALUE 10; SELECT nextval('free'), nextval('free');
CREATE SEQUENCE untouched START 77;
CREATE TABLE owned (id serial, v text); INSERT INTO owned (v) VALUES ('a'), ('b');
CREATE VIEW seen AS SELECT m, count(*) FROM everything GROUP BY m;
CREATE MATERIALIZED VIEW z_base AS SELECT id, m FROM everything; CREATE MATERIALIZED VIEW never AS SELECT 1 WITH NO DATA;
CREATE MATERIALIZED VIEW materialised AS SELECT * FROM z_base; CREATE UNIQUE INDEX ON materialised (id);
CREATE INDEX "an index" ON everything USING gin (j); CREATE INDEX ON everything (double(p)) WHERE p > 1;
CREATE STATISTICS st ON m, p FROM everything;
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no triggers while restoring'; END $$;
CREATE TRIGGER guard BEFORE INSERT ON everything FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE TRIGGER guard_logs BEFORE INSERT ON logs FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE RULE no_delete AS ON DELETE TO owned DO INSTEAD NOTHING;
ALTER TABLE owned ENABLE ROW LEVEL SECURITY; ALTER TABLE owned FORCE ROW LEVEL SECURITY;
CREATE POLICY mine ON owned TO nasty_reader USING (v = 'a');
GRANT SELECT ON everything TO nasty_reader WITH GRANT OPTION; GRANT EXECUTE ON FUNCTION double(int) TO nasty_reader;
REVOKE EXECUTE ON FUNCTION refuse() FROM PUBLIC;
ALTER TABLE parent OWNER TO nasty_owner;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO nasty_reader;
COMMENT ON TABLE everything IS 'one of '' all'; COMMENT ON COLUMN everything.p IS '\connect prod';
SELECT lo_from_bytea(700001, '\x00010203'), lo_from_bytea(700002, ''), lo_from_bytea(700003, decode(repeat('ab', 200000), 'hex'));
GRANT SELECT ON LARGE OBJECT 700001 TO nasty_reader; COMMENT ON LARGE OBJECT 700001 IS 'a large one';
CREATE PUBLICATION everywhere FOR ALL TABLES; CREATE PUBLICATION few FOR TABLE parent, logs_2025;
GRANT SELECT (id, m) ON everything TO nasty_owner; GRANT USAGE ON SCHEMA "odd schema" TO nasty_reader;
ALTER TABLE everything DISABLE TRIGGER guard;
CREATE TEXT SEARCH CONFIGURATION plain (COPY = simple); CREATE TEXT SEARCH DICTIONARY short (TEMPLATE = simple, STOPWORDS = english);
CREATE OPERATOR FAMILY odd_family USING btree; CREATE COLLATION by_bytes FROM "C";
CREATE TYPE shell; CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
CREATE TABLE keyed (k text COLLATE by_bytes PRIMARY KEY, during tsrange, EXCLUDE USING gist (during WITH &&));
"#;

fn nasty() -> Db {
    nasty_on(server())
}

/// The nasty database on a server of one's choice.
pub(super) fn nasty_on(cluster: Arc<Cluster>) -> Db {
    let db = Db::on(cluster, "nasty", "");
    db.maintenance(
        "DO $$ BEGIN CREATE ROLE nasty_owner; EXCEPTION WHEN duplicate_object THEN END $$;
         DO $$ BEGIN CREATE ROLE nasty_reader LOGIN PASSWORD 'x'; EXCEPTION WHEN duplicate_object THEN END $$;",
    );
    db.sql(NASTY);
    let name = quote(&db.name);
    db.maintenance(&format!(
        "ALTER DATABASE {name} SET search_path TO \"odd schema\", public; ALTER DATABASE {name} SET work_mem TO '7MB';
         ALTER ROLE nasty_reader IN DATABASE {name} SET statement_timeout TO '5s';
         GRANT CREATE ON DATABASE {name} TO nasty_owner; REVOKE TEMP ON DATABASE {name} FROM PUBLIC;
         COMMENT ON DATABASE {name} IS 'it''s'; ALTER DATABASE {name} CONNECTION LIMIT 33;"
    ));
    db
}

/// Keeps MK-3.
#[test]
fn a_nasty_database_comes_back_in_a_server_of_its_own() {
    let db = nasty();
    let kept = db.back_up();
    let names = kept.names();
    for name in
        ["database.json", "globals.sql", "large-objects.dump", "schema.dump", "sequences.json", "tables"]
    {
        assert!(names.iter().any(|other| other == name), "{name} in {names:?}");
    }
    assert_eq!(kept.rows("public", "everything"), Some(3));
    assert_eq!(kept.rows("public", "no_columns"), Some(2));
    assert_eq!(kept.rows("public", "parent"), Some(1), "a parent's own rows only");
    assert_eq!(kept.rows("public", "logs"), None, "a partitioned table has no rows of its own");
    let result = drill_it(&kept).unwrap();
    assert_passed(&result);
    assert!(result.checks.len() > 60, "{}", result.checks.len());
}

#[test]
fn a_nasty_database_comes_back_beside_itself_with_all_that_is_written_on_it() {
    let db = nasty();
    let kept = db.back_up();
    let restored = hikae_source::postgresql::restore(
        &kept,
        &db.server(),
        &restore_options(),
        &environment(),
        &system_cx(),
    )
    .unwrap();
    let failed: Vec<_> = restored.checks.iter().filter(|check| !check.passed).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let mut client = db.client_as("postgres", &restored.database);
    let ask = |client: &mut postgres::Client, sql: &str| {
        client.query_one(sql, &[]).unwrap().get::<_, Option<String>>(0)
    };
    for (sql, expected) in [
        ("SELECT current_setting('search_path')", "\"odd schema\", public"),
        ("SELECT current_setting('work_mem')", "7MB"),
        (
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()",
            "it's",
        ),
        ("SELECT datconnlimit::text FROM pg_database WHERE datname = current_database()", "33"),
        ("SELECT has_database_privilege('nasty_owner', current_database(), 'CREATE')::text", "true"),
        ("SELECT has_database_privilege('nasty_reader', current_database(), 'TEMP')::text", "false"),
        ("SELECT has_database_privilege('nasty_reader', current_database(), 'CONNECT')::text", "true"),
        (
            "SELECT setconfig::text FROM pg_db_role_setting s JOIN pg_database d ON d.oid = setdatabase \
          WHERE setrole <> 0 AND datname = current_database()",
            "{statement_timeout=5s}",
        ),
        ("SELECT obj_description(700001, 'pg_largeobject')", "a large one"),
        (
            "SELECT lomacl::text FROM pg_largeobject_metadata WHERE oid = 700001",
            "{postgres=rw/postgres,nasty_reader=r/postgres}",
        ),
        ("SELECT count(*)::text FROM public.materialised", "3"),
        ("SELECT nextval('public.untouched')::text", "77"),
        ("SELECT nextval('public.owned_id_seq')::text", "3"),
        ("SELECT octet_length(lo_get(700003))::text", "200000"),
        ("SELECT doubled::text FROM public.everything WHERE p = 2", "4"),
    ] {
        assert_eq!(ask(&mut client, sql).as_deref(), Some(expected), "{sql}");
    }
    drop(client);
    db.maintenance(&format!("DROP DATABASE {}", quote(&restored.database)));
}

#[test]
fn rows_do_not_depend_on_the_size_of_the_buffer() {
    let db = Db::new("buffers");
    db.sql(
        "CREATE TABLE wide (a text); INSERT INTO wide SELECT repeat(md5(i::text), i * i) FROM generate_series(0, 120) i;
         INSERT INTO wide SELECT repeat('x', i) FROM generate_series(262125, 262145) i;",
    );
    let by = |bytes| back_up_by(&db.source(), bytes, &mut |_| {}).unwrap();
    let whole = by(1 << 20);
    for bytes in [1, 7, 4096, 262_143] {
        let other = by(bytes);
        assert!(other.file("tables/public.wide.copy") == whole.file("tables/public.wide.copy"), "{bytes}");
        assert_eq!(other.manifest().tables, whole.manifest().tables, "{bytes}");
    }
}

/// Keeps MK-78.
#[test]
fn a_big_table_in_parts_is_the_same_table() {
    let db = Db::new("parts");
    db.sql("CREATE TABLE big AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i; DELETE FROM big WHERE i % 7 = 0");
    // One that is in parts too, and all of which goes to one worker of a restore.
    db.sql("CREATE TABLE smaller AS SELECT i FROM generate_series(1, 9000) i");
    let whole = db.back_up();
    let in_parts = back_up(&source(PostgresqlSettings { part_bytes: 100_000, ..db.settings() })).unwrap();
    for (one, many) in whole.manifest().tables.iter().zip(&in_parts.manifest().tables) {
        assert!(many.files.len() > 2, "{:?}", many.files);
        assert_eq!((one.rows, &one.hash), (many.rows, &many.hash));
        let bytes = |kept: &Kept, files: &[String]| -> Vec<u8> {
            files.iter().flat_map(|file| kept.file(&format!("tables/{file}")).to_vec()).collect()
        };
        assert!(bytes(&whole, &one.files) == bytes(&in_parts, &many.files), "{}", one.name);
    }
    assert_passed(&drill_it(&in_parts).unwrap());
    // What grows keeps its parts: only the last may change, and more may come.
    let first = in_parts.file("tables/public.big.copy").to_vec();
    db.sql("INSERT INTO big SELECT i, md5(i::text) FROM generate_series(20001, 40000) i");
    let grown = back_up(&source(PostgresqlSettings { part_bytes: 100_000, ..db.settings() })).unwrap();
    assert!(grown.file("tables/public.big.copy") == first);
}

#[test]
fn an_unchanged_database_is_dumped_to_the_same_bytes() {
    let db = Db::new("same");
    db.sql("CREATE TABLE a AS SELECT i, md5(i::text) FROM generate_series(1, 5000) i");
    let (one, two) = (db.back_up(), db.back_up());
    for name in ["tables/public.a.copy", "globals.sql", "database.json", "sequences.json"] {
        assert!(one.file(name) == two.file(name), "{name}");
    }
}

#[test]
fn other_encodings_come_back_to_the_byte() {
    // A server of its own: roles that other tests name in UTF-8 could not be listed in these databases.
    let cluster = Arc::new(start(&[]));
    for (encoding, value) in
        [("LATIN1", "E'\\344'"), ("EUC_JP", "E'\\264\\301'"), ("SQL_ASCII", "E'\\377\\200'")]
    {
        let db = Db::on(
            Arc::clone(&cluster),
            "enc",
            &format!("TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"),
        );
        db.sql(&format!("SET client_encoding = '{encoding}'; CREATE TABLE t AS SELECT {value}::text AS x"));
        let kept = db.back_up();
        assert!(!kept.file("tables/public.t.copy").is_ascii(), "{encoding}");
        assert_passed(&drill_it(&kept).unwrap());
    }
}

#[test]
fn a_backup_under_load_shows_one_moment() {
    let db = Db::new("transfer");
    db.sql(
        "CREATE TABLE accounts (id int PRIMARY KEY, balance int); INSERT INTO accounts SELECT i, 100 FROM generate_series(1, 2000) i;
         CREATE TABLE savings (id int PRIMARY KEY, balance int); INSERT INTO savings SELECT i, 100 FROM generate_series(1, 2000) i;
         CREATE TABLE history (id serial, amount int);",
    );
    let stop = std::sync::atomic::AtomicBool::new(false);
    let transfers = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for worker in 0..2_i32 {
            let (db, stop, transfers) = (&db, &stop, &transfers);
            scope.spawn(move || {
                let mut client = db.client();
                for i in 0_i32.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let (from, to) = ((i * 7 + worker * 1000) % 2000 + 1, (i * 13) % 2000 + 1);
                    let sql = format!(
                        "BEGIN; UPDATE accounts SET balance = balance - 1 WHERE id = {from};
                         UPDATE savings SET balance = balance + 1 WHERE id = {to}; INSERT INTO history (amount) VALUES (1); COMMIT"
                    );
                    client.batch_execute(&sql).unwrap();
                    transfers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // A check that fails must not leave the writers writing for ever.
        let _stop = StopOnDrop(&stop);
        for _ in 0..3 {
            let begun = transfers.load(Ordering::Relaxed);
            // Each content waits for further transfers, so that the tables would differ without a snapshot.
            let kept = back_up_by(&db.source(), 4096, &mut |_| {
                let now = transfers.load(Ordering::Relaxed);
                while transfers.load(Ordering::Relaxed) < now + 20 {
                    std::thread::yield_now();
                }
            });
            let kept = kept.unwrap();
            assert!(transfers.load(Ordering::Relaxed) > begun + 100);
            let sum = |name: &str| -> i64 {
                let text = std::str::from_utf8(kept.file(name)).unwrap();
                text.lines().map(|line| line.split('\t').nth(1).unwrap().parse::<i64>().unwrap()).sum()
            };
            let (accounts, savings) = (sum("tables/public.accounts.copy"), sum("tables/public.savings.copy"));
            let n_history = kept.rows("public", "history").unwrap() as i64;
            assert_eq!(accounts + savings, 400_000);
            assert_eq!(savings - 200_000, n_history);
            assert_passed(&drill_it(&kept).unwrap());
        }
    });
}

/// Sets its flag when dropped, in a panic too.
struct StopOnDrop<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Keeps E-4.
#[test]
fn no_name_becomes_a_command_or_an_option() {
    let names = [
        "-rf",
        "--help",
        "$(touch pwned)",
        "`touch pwned`",
        ";",
        "a\nb",
        "\"",
        "'",
        "\\",
        "%s",
        "a b",
        ".",
        "..",
        "*",
        "x.*",
        "|",
        "\u{202e}evil",
        "表表表表表表表表表表表表表表表表表表表表表",
        "dbname=postgres host=evil",
        "postgresql://evil/x",
        "host=evil",
    ];
    let db = Db::new("dbname=postgres host=evil ' \\ \" -rf $(touch pwned);\n%s");
    for (i, name) in names.iter().enumerate() {
        let quoted = quote(name);
        db.sql(&format!(
            "CREATE SCHEMA {quoted}; CREATE TABLE {quoted}.{quoted} ({quoted} int); INSERT INTO {quoted}.{quoted} VALUES ({i});
             CREATE SEQUENCE {quoted}.s{i}; CREATE INDEX ON {quoted}.{quoted} ({quoted});
             DO $x$ BEGIN CREATE ROLE {quoted}; EXCEPTION WHEN duplicate_object THEN END $x$; GRANT SELECT ON {quoted}.{quoted} TO {quoted};"
        ));
    }
    let kept = db.back_up();
    assert_eq!(kept.manifest().tables.len(), names.len());
    assert_passed(&drill_it(&kept).unwrap());
    for place in [".", "/", "/tmp"] {
        assert!(!std::path::Path::new(place).join("pwned").exists());
    }
    for name in names {
        db.sql(&format!("DROP OWNED BY {0}; DROP SCHEMA {0} CASCADE", quote(name)));
    }
}
