//! Dumps of foreign origin: all of a good one comes back, and nothing of a bad one reaches a server.

use super::round_trip::nasty_on;
use super::*;
use hikae_model::{Advise as _, ErrorCode};
use hikae_source::postgresql::{
    Dump, DumpContents, DumpForm, DumpOptions, LoadedDump, load_dump, look_at_target, read_dump,
};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// A folder that a dump is put into. Whoever runs `pg_restore` may pass through it.
fn folder() -> TempDir {
    let folder = tempfile::tempdir_in(scratch()).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// Runs pg_dump into `to`.
fn pg_dump(db: &Db, to: &Path, arguments: &[&str]) {
    let output = Command::new(db.cluster.program_directory().join("pg_dump"))
        .arg(format!("--dbname={}", db.conninfo("postgres")))
        .arg("--file")
        .arg(to)
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn script_of(db: &Db, arguments: &[&str]) -> String {
    let folder = folder();
    let path = folder.path().join("dump");
    pg_dump(db, &path, arguments);
    fs::read_to_string(path).unwrap()
}

fn options(change: impl FnOnce(&mut DumpOptions)) -> DumpOptions {
    let mut options = DumpOptions { program_directory: named_postgresql(), ..DumpOptions::default() };
    change(&mut options);
    options
}

fn read(path: &Path) -> Result<Dump, SourceError> {
    read_dump(path, true, &options(|_| {}), &environment(), &system_cx())
}

/// Reads bytes as a dump.
fn read_bytes(bytes: &[u8]) -> Result<DumpContents, SourceError> {
    let folder = folder();
    let path = folder.path().join("what.txt"); // the name says nothing
    fs::write(&path, bytes).unwrap();
    read_dump(&path, false, &options(|_| {}), &environment(), &system_cx()).map(|dump| dump.contents)
}

/// Does all that `hikae restore --dump` does.
fn restore_dump(
    path: &Path,
    into: &Connection,
    name: &str,
    options: &DumpOptions,
) -> Result<(DumpContents, LoadedDump), SourceError> {
    let cx = system_cx();
    look_at_target(into, name, None, options, &cx)?;
    let dump = read_dump(path, true, options, &environment(), &cx)?;
    let contents = dump.contents.clone();
    look_at_target(into, name, Some(&contents), options, &cx)?;
    Ok((contents, load_dump(dump, into, name, options, &cx)?))
}

/// A role that may make databases and nothing else.
fn loader(cluster: &Cluster) -> Connection {
    let made = enter(cluster.connection(), "postgres", "postgres").batch_execute(
        "DO $$ BEGIN CREATE ROLE loader LOGIN CREATEDB; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$",
    );
    made.unwrap();
    cluster.connection_as("loader", None)
}

/// An ordinary database of an application: nothing that only a superuser may make.
fn app(cluster: Arc<Cluster>) -> Db {
    let db = Db::on(cluster, "app", "");
    db.sql(
        "CREATE EXTENSION citext; CREATE EXTENSION pgcrypto;
         CREATE TABLE logs (at date NOT NULL, what text, PRIMARY KEY (at, what)) PARTITION BY RANGE (at);
         CREATE TABLE logs_2025 PARTITION OF logs FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
         CREATE TABLE logs_rest PARTITION OF logs DEFAULT;
         INSERT INTO logs VALUES ('2025-05-05', 'a'), ('2026-06-06', 'b'), ('1999-01-01', 'c');
         CREATE TABLE users (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, mail citext UNIQUE, note text);
         INSERT INTO users (mail, note) SELECT n || '@example.org', repeat(md5(n::text), n % 7) FROM generate_series(1, 3000) n;
         INSERT INTO users (mail, note) VALUES (E'\\\\!\\tsh', E'\\\\! touch pwned\\n\\\\.\\n\\\\connect postgres\\nDROP DATABASE postgres;\\n');
         CREATE TABLE letters (body text); INSERT INTO letters VALUES (repeat('long ', 900000)), (NULL), ('');
         CREATE TABLE nothing (a int);
         CREATE FUNCTION twice(i bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN i * 2; END $$;
         CREATE INDEX ON users (public.twice(id));
         CREATE VIEW seen AS SELECT count(*) FROM users; CREATE MATERIALIZED VIEW kept AS SELECT * FROM users WHERE id < 10;
         CREATE RULE twofold AS ON DELETE TO nothing DO ALSO (INSERT INTO letters VALUES ('a;'); INSERT INTO letters VALUES (''));
         SELECT lo_from_bytea(700001, '\\x00010203'), lo_from_bytea(700002, decode(repeat('ab', 200000), 'hex'));",
    );
    // A body of SQL itself, with semicolons in it, is known since 14.
    if db.cluster.major() >= 14 {
        db.sql("CREATE FUNCTION both_of() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END");
    }
    db
}

/// Every table with its rows and the sum of their hashes, and how large the large objects are.
fn fingerprint(db: &Db, name: &str) -> Vec<(String, u64, String)> {
    let settings = PostgresqlSettings {
        connection: db
            .conninfo("postgres")
            .replace(&format!("dbname='{}'", db.name), &format!("dbname='{name}'")),
        ..db.settings()
    };
    let manifest = back_up(&source(settings)).unwrap().manifest();
    let mut all: Vec<_> = manifest
        .tables
        .iter()
        .map(|table| (format!("{}.{}", table.schema, table.name), table.rows, table.hash.clone()))
        .collect();
    let sequences =
        manifest.sequences.iter().map(|s| (s.name.clone(), 0, format!("{} {}", s.last_value, s.is_called)));
    all.extend(sequences);
    all.extend(manifest.large_objects.map(|objects| ("large objects".to_owned(), 0, format!("{objects:?}"))));
    all
}

/// Every form that pg_dump writes, and how scripts are compressed.
fn every_form(db: &Db, folder: &Path) -> Vec<(PathBuf, DumpForm)> {
    let at = |name: &str| folder.join(name);
    pg_dump(db, &at("plain"), &[]);
    pg_dump(db, &at("inserts"), &["--inserts", "--rows-per-insert=7"]);
    pg_dump(db, &at("clean"), &["--clean", "--if-exists"]);
    pg_dump(db, &at("clean-at-once"), &["--clean"]);
    pg_dump(db, &at("through-root"), &["--load-via-partition-root"]);
    pg_dump(db, &at("custom"), &["-Fc"]);
    pg_dump(db, &at("directory"), &["-Fd"]);
    pg_dump(db, &at("tar"), &["-Ft"]);
    let plain = fs::read(at("plain")).unwrap();
    fs::write(at("gzip"), gzip(&plain)).unwrap();
    fs::write(at("zstd"), zstd::encode_all(&plain[..], 3).unwrap()).unwrap();
    // As Windows writes it.
    let windows =
        [b"\xef\xbb\xbf", String::from_utf8(plain).unwrap().replace('\n', "\r\n").as_bytes()].concat();
    fs::write(at("windows"), windows).unwrap();
    use DumpForm::{Custom, Directory, Plain, PlainGzip, PlainZstd, Tar};
    [
        ("plain", Plain),
        ("inserts", Plain),
        ("clean", Plain),
        ("clean-at-once", Plain),
        ("through-root", Plain),
        ("windows", Plain),
        ("custom", Custom),
        ("directory", Directory),
        ("tar", Tar),
        ("gzip", PlainGzip),
        ("zstd", PlainZstd),
    ]
    .map(|(name, form)| (at(name), form))
    .into()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    // Two members, as `pigz` and appending make them.
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let member = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    [member(first), member(second)].concat()
}

/// Keeps MK-37.
#[test]
fn a_dump_of_any_form_comes_back_by_a_role_that_may_only_make_databases() {
    let db = app(server());
    let folder = folder();
    let into = loader(&db.cluster);
    let expected = fingerprint(&db, &db.name);
    for (path, form) in every_form(&db, folder.path()) {
        let name = format!("{}_back", db.name);
        let options = options(|options| options.no_owners = true);
        let restored = restore_dump(&path, &into, &name, &options);
        let (contents, loaded) = restored.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(contents.form, form);
        assert_eq!(contents.extensions, ["citext", "pgcrypto"]);
        assert_eq!(contents.large_objects, 2, "{}", path.display());
        let rows =
            |tables: &[hikae_source::postgresql::DumpedTable]| tables.iter().map(|t| t.rows).sum::<u64>();
        assert_eq!((rows(&contents.tables), rows(&loaded.tables)), (3007, 3007), "{}", path.display());
        assert_eq!(
            contents.server_version.as_deref().map(|v| v.starts_with(db.cluster.version())),
            Some(true)
        );
        if path.ends_with("windows") {
            // What the text was changed to is what is in the rows too; its tables are whole.
            assert_eq!(
                db.client_as("postgres", &name).query("SELECT * FROM users", &[]).unwrap().len(),
                3001
            );
        } else {
            assert_eq!(fingerprint(&db, &name), expected, "{}", path.display());
        }
        let owner = "SELECT count(*)::int FROM pg_class c WHERE relnamespace = 'public'::regnamespace
            AND pg_get_userbyid(relowner) <> 'loader' AND relkind = 'r'";
        assert_eq!(db.client_as("postgres", &name).query_one(owner, &[]).unwrap().get::<_, i32>(0), 0);
        db.maintenance(&format!("DROP DATABASE {}", quote(&name)));
    }
}

/// Keeps MK-37.
#[test]
fn a_nasty_database_comes_back_from_its_dump_with_owners_and_privileges() {
    let db = nasty_on(server());
    let folder = folder();
    let expected = fingerprint(&db, &db.name);
    let acl = "SELECT string_agg(relname || relacl::text || pg_get_userbyid(relowner), ' ' ORDER BY relname)
        FROM pg_class WHERE relnamespace = 'public'::regnamespace";
    let acl_of = |name: &str| db.client_as("postgres", name).query_one(acl, &[]).unwrap().get::<_, String>(0);
    for arguments in [&[][..], &["-Fc"], &["-Fd"], &["--inserts"]] {
        let path = folder.path().join(format!("dump{}", arguments.concat()));
        pg_dump(&db, &path, arguments);
        let name = format!("{}_back", db.name);
        let options = options(|options| options.allow_superuser = true);
        let restored = restore_dump(&path, &db.server(), &name, &options);
        let (contents, _) = restored.unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
        for role in ["nasty_owner", "nasty_reader", "postgres"] {
            assert!(contents.roles.iter().any(|other| other == role), "{role} in {:?}", contents.roles);
        }
        assert_eq!(fingerprint(&db, &name), expected, "{arguments:?}");
        assert_eq!(acl_of(&name), acl_of(&db.name), "{arguments:?}");
        db.maintenance(&format!("DROP DATABASE {}", quote(&name)));
    }
}

#[track_caller]
fn refused(outcome: Result<DumpContents, SourceError>, code: ErrorCode, said: &str) {
    let error = outcome.expect_err(said);
    assert_eq!(error.code(), code, "{error}");
    assert!(error.to_string().contains(said), "{error} says not {said}");
    assert!(error.advice().is_some(), "{error}");
}

/// D2, D3: what pg_dump --create --clean writes never reaches a server.
/// Keeps EC-15, MK-37.
#[test]
fn a_dump_that_reaches_for_more_than_its_own_database_is_refused() {
    let db = app(server());
    for arguments in [&["--create"][..], &["--create", "--clean", "--if-exists"]] {
        let outcome = read_bytes(script_of(&db, arguments).as_bytes());
        refused(outcome, ErrorCode::Forbidden, "DATABASE");
    }
    let script = script_of(&db, &[]);
    let copy = script.find("\nCOPY ").unwrap();
    let (before, after) = script.split_at(copy + 1);
    let line = before.matches('\n').count() + 1;
    for (statement, said) in [
        ("\\! touch pwned", "`\\!`"),
        ("\\connect postgres", "`\\connect`"),
        ("\\i /etc/passwd", "`\\i`"),
        ("SELECT 'x' \\gexec", "`\\gexec`"),
        ("\\restrict x\n\\o |sh", "`\\o`"),
        ("COPY public.users FROM PROGRAM 'touch pwned';", "runs a program"),
        ("COPY public.users TO '/tmp/pwned';", "runs a program"),
        ("ALTER SYSTEM SET archive_command = 'touch pwned';", "reaches beyond"),
        ("ALTER ROLE postgres PASSWORD 'x';", "reaches beyond"),
        ("CREATE/**/ROLE x;", "reaches beyond"),
        ("GRANT postgres TO x;", "reaches beyond"),
        ("DROP\n-- x\rDATABASE postgres;", "acts on a database"),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE C AS 'libc.so.6', 'system';", "language c"),
        ("CREATE FUNCTION f() RETURNS int AS $$ $$ LANGUAGE plpython3u;", "language plpython3u"),
        ("DO $$ BEGIN EXECUTE 'DROP ROLE x'; END $$;", "none of the statements"),
        ("SELECT pg_read_file('/etc/passwd');", "none of the statements"),
        ("SET standard_conforming_strings = off;", "standard_conforming_strings"),
    ] {
        let hostile = format!("{before}{statement}\n{after}");
        let outcome = read_bytes(hostile.as_bytes());
        let told = outcome.as_ref().err().map(ToString::to_string).unwrap_or_default();
        refused(outcome, ErrorCode::Forbidden, said);
        let at = line + usize::from(statement.contains("\\restrict"));
        assert!(told.contains(&format!("line {at}:")), "{told} is not about line {at}");
        refused(read_bytes(&gzip(hostile.as_bytes())), ErrorCode::Forbidden, said);
    }
    // The same is data where data stands, as it is in this database already.
    let contents = read_bytes(script.as_bytes()).unwrap();
    assert!(script.contains("\\\\! touch pwned"));
    assert!(contents.tables.iter().any(|table| table.name == "public.users" && table.rows == 3001));
}

/// Keeps MK-37, EC-15.
#[test]
fn an_archive_is_judged_by_the_script_that_is_in_it() {
    let db = Db::new("archive");
    db.sql(
        "CREATE TABLE t (a int); INSERT INTO t VALUES (1);
         COMMENT ON TABLE t IS '.....................................................'",
    );
    let folder = folder();
    let (custom, tar, directory) =
        (folder.path().join("custom"), folder.path().join("tar"), folder.path().join("directory"));
    for (path, format) in [(&custom, "-Fc"), (&tar, "-Ft"), (&directory, "-Fd")] {
        pg_dump(&db, path, &[format]);
        read(path).unwrap();
    }
    let comment = b"COMMENT ON TABLE public.t IS '.....................................................';\n";
    for (statement, said) in [
        ("ALTER SYSTEM SET archive_command = 'touch pwned';", "reaches beyond"),
        ("\\! touch pwned", "`\\!`"),
        ("COPY public.t FROM PROGRAM 'touch pwned';", "runs a program"),
    ] {
        let mut instead = statement.as_bytes().to_vec();
        instead.resize(comment.len() - 1, b' ');
        instead.push(b'\n');
        for path in [&custom, &tar, &directory.join("toc.dat")] {
            let whole = fs::read(path).unwrap();
            let mut bytes = whole.clone();
            let mut n = 0;
            while let Some(at) = bytes.windows(comment.len()).position(|window| window == comment) {
                bytes[at..at + comment.len()].copy_from_slice(&instead);
                n += 1;
            }
            assert!(n > 0, "{}", path.display());
            fs::write(path, &bytes).unwrap();
            let dump = if path.ends_with("toc.dat") { &directory } else { path };
            refused(read(dump).map(|dump| dump.contents), ErrorCode::Forbidden, said);
            fs::write(path, whole).unwrap();
        }
    }
    db.sql("CREATE FUNCTION hidden(int, int) RETURNS int LANGUAGE internal AS 'int4pl'");
    pg_dump(&db, &custom, &["-Fc"]);
    refused(read(&custom).map(|dump| dump.contents), ErrorCode::Forbidden, "language internal");
}

/// D5. Keeps MK-37, EC-20.
#[test]
fn a_dump_that_was_cut_is_refused_wherever_it_was_cut() {
    let db = Db::new("cut");
    db.sql(
        "CREATE TABLE a (w text); INSERT INTO a SELECT 'word ' || n FROM generate_series(1, 40) n;
         CREATE TABLE b (w text); INSERT INTO b SELECT md5(n::text) FROM generate_series(1, 40) n;
         COMMENT ON TABLE b IS '-- PostgreSQL database dump complete'; SELECT lo_from_bytea(1, '\\x00');",
    );
    let script = script_of(&db, &[]);
    let header = script.find("-- PostgreSQL database dump").unwrap() + "-- PostgreSQL database dump".len();
    let end = script.rfind(" complete").unwrap() + " complete".len();
    read_bytes(script.as_bytes()).unwrap();
    for cut in header..end {
        refused(read_bytes(&script.as_bytes()[..cut]), ErrorCode::VerificationFailed, "cut short");
    }
    // Rows that are whole, then the end that belongs elsewhere: the cut is between.
    let inserts = script_of(&db, &["--inserts"]);
    for at in inserts
        .match_indices(";\n")
        .map(|(at, _)| at + 2)
        .filter(|&at| at > header && at < inserts.len() - 100)
    {
        refused(read_bytes(&inserts.as_bytes()[..at]), ErrorCode::VerificationFailed, "cut short");
    }
    // With its sum, as the program writes it.
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(script.as_bytes()).unwrap();
    for compressed in [gzip(script.as_bytes()), encoder.finish().unwrap()] {
        read_bytes(&compressed).unwrap();
        for cut in (20..compressed.len() - 1).step_by(13).chain([compressed.len() - 1]) {
            let error = read_bytes(&compressed[..cut]).unwrap_err();
            assert_eq!(error.code(), ErrorCode::VerificationFailed, "cut at {cut}: {error}");
        }
        let mut flipped = compressed.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 0x40;
        assert!(read_bytes(&flipped).is_err());
    }
    let folder = folder();
    let path = folder.path().join("archive");
    for format in ["-Fc", "-Ft"] {
        pg_dump(&db, &path, &[format]);
        let whole = fs::read(&path).unwrap();
        read(&path).unwrap();
        for cut in (600..whole.len()).step_by(whole.len() / 25).chain([whole.len() - 1]) {
            fs::write(&path, &whole[..cut]).unwrap();
            assert!(read(&path).is_err(), "{format} cut at {cut} of {}", whole.len());
        }
        fs::remove_file(&path).unwrap();
    }
    for arguments in [&["-Fd"][..], &["-Fd", "-Z0"]] {
        pg_dump(&db, &path, arguments);
        read(&path).unwrap();
        for entry in fs::read_dir(&path).unwrap() {
            let file = entry.unwrap().path();
            let whole = fs::read(&file).unwrap();
            for cut in (0..whole.len().saturating_sub(4)).step_by((whole.len() / 9).max(1)) {
                fs::write(&file, &whole[..cut]).unwrap();
                assert!(read(&path).is_err(), "{} cut at {cut} of {}", file.display(), whole.len());
            }
            fs::remove_file(&file).unwrap();
            assert!(read(&path).is_err(), "without {}", file.display());
            fs::write(&file, &whole).unwrap();
        }
        fs::remove_dir_all(&path).unwrap();
    }
}

#[test]
fn what_is_no_dump_of_one_database_is_named() {
    let db = Db::new("named");
    let all = Command::new(db.cluster.program_directory().join("pg_dumpall"))
        .arg(format!("--dbname={}", db.conninfo("postgres")))
        .output()
        .unwrap();
    refused(read_bytes(&all.stdout), ErrorCode::Usage, "whole server");
    refused(read_bytes(b"-- MySQL dump 10.13\nCREATE TABLE x (a int);"), ErrorCode::Usage, "MySQL");
    refused(read_bytes(b"SELECT 1;"), ErrorCode::Usage, "does not begin as");
    refused(read_bytes(b""), ErrorCode::Usage, "empty");
    let folder = folder();
    refused(read(folder.path()).map(|dump| dump.contents), ErrorCode::Usage, "toc.dat");
    let custom = folder.path().join("custom");
    pg_dump(&db, &custom, &["-Fc"]);
    refused(read_bytes(&gzip(&fs::read(&custom).unwrap())), ErrorCode::Usage, "compressed once more");
    let missing = read(&folder.path().join("missing")).map(|dump| dump.contents);
    refused(missing, ErrorCode::SourceMissing, "not there");
}

#[test]
fn an_archive_that_is_newer_than_every_pg_restore_here_is_refused() {
    let db = Db::new("newer");
    let folder = folder();
    let path = folder.path().join("custom");
    pg_dump(&db, &path, &["-Fc"]);
    let version = db.cluster.version();
    let mut bytes = fs::read(&path).unwrap();
    let major = format!("\0{version}");
    let at: Vec<usize> = bytes
        .windows(major.len())
        .enumerate()
        .filter(|(_, w)| w.ends_with(version.as_bytes()))
        .map(|(i, _)| i + 1)
        .collect();
    for at in at {
        bytes[at..at + 2].copy_from_slice(b"99");
    }
    refused(read_bytes(&bytes), ErrorCode::PgDumpTooOld, "pg_dump 99");
}

/// All databases of a server.
fn databases(cluster: &Cluster) -> Vec<String> {
    let rows = enter(cluster.connection(), "postgres", "postgres")
        .query("SELECT datname FROM pg_database ORDER BY 1", &[]);
    rows.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Keeps MK-37.
#[test]
fn a_load_that_fails_leaves_no_database() {
    let db = app(Arc::new(start(&[])));
    let folder = folder();
    let path = folder.path().join("dump");
    let into = loader(&db.cluster);
    let script = script_of(&db, &["--no-owner"]);
    let before = databases(&db.cluster);
    let options = options(|_| {});
    for (whole, broken, said) in [
        // A row of too many columns, in the last table of all.
        (
            "\\.\n\n\n--\n-- Name: users_id_seq",
            "a\tb\tc\td\te\n\\.\n\n\n--\n-- Name: users_id_seq",
            "extra data",
        ),
        (
            "CREATE MATERIALIZED VIEW",
            "CREATE MATERIALIZED VIEW public.x AS SELECT 1/0;\nCREATE MATERIALIZED VIEW",
            "division by zero",
        ),
        ("REFRESH MATERIALIZED VIEW public.kept", "REFRESH MATERIALIZED VIEW public.gone", "gone"),
    ] {
        assert!(script.contains(whole), "{whole}");
        fs::write(&path, script.replacen(whole, broken, 1)).unwrap();
        let error = restore_dump(&path, &into, "fresh", &options).unwrap_err();
        assert!(error.to_string().contains(said) && error.to_string().contains("line "), "{error}");
        assert_eq!(databases(&db.cluster), before);
    }
    // Rows that something in the dump takes away are missed: by a rule at once, by a function in the end.
    let eater = "CREATE FUNCTION public.eat() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN DELETE FROM public.letters WHERE body IS NULL; RETURN 1; END $$;\n\
        CREATE MATERIALIZED VIEW public.eaten AS SELECT public.eat() AS n;\n";
    let at = script.find("REFRESH MATERIALIZED VIEW").unwrap();
    fs::write(&path, format!("{}{eater}{}", &script[..at], &script[at..])).unwrap();
    let error = restore_dump(&path, &into, "fresh", &options).unwrap_err();
    assert!(error.to_string().contains("3 rows were loaded and 2 are there"), "{error}");
    assert_eq!(databases(&db.cluster), before);
    let rule = "CREATE RULE away AS ON INSERT TO public.letters DO INSTEAD NOTHING;\nINSERT INTO public.letters VALUES ('x');\n";
    let at = script.find("REFRESH MATERIALIZED VIEW").unwrap();
    fs::write(&path, format!("{}{rule}{}", &script[..at], &script[at..])).unwrap();
    let error = restore_dump(&path, &into, "fresh", &options).unwrap_err();
    assert_eq!(error.code(), ErrorCode::VerificationFailed, "{error}");
    assert_eq!(databases(&db.cluster), before);

    fs::write(&path, &script).unwrap();
    for moment_ms in [0, 100, 700] {
        let cancelled = system_cx();
        let cancel = cancelled.cancel().clone();
        let dump = read(&path).unwrap();
        let later = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(moment_ms));
            cancel.cancel();
        });
        if load_dump(dump, &into, "fresh", &options, &cancelled).is_ok() {
            db.maintenance("DROP DATABASE fresh");
        }
        later.join().unwrap();
        assert_eq!(databases(&db.cluster), before, "cancelled after {moment_ms} ms");
    }

    // A name that somebody took while rows were loaded stays theirs.
    db.maintenance("CREATE DATABASE fresh");
    let error = load_dump(read(&path).unwrap(), &into, "fresh", &options, &system_cx()).err().unwrap();
    assert!(error.to_string().contains("fresh"), "{error}");
    db.maintenance("DROP DATABASE fresh");
    assert_eq!(databases(&db.cluster), before);
    restore_dump(&path, &into, "fresh", &options).unwrap();
}

#[test]
fn what_stands_in_the_way_is_said_before_anything_is_made() {
    let db = app(Arc::new(start(&[])));
    let into = loader(&db.cluster);
    db.maintenance(
        "CREATE ROLE \"an Owner\"; CREATE ROLE reader; CREATE ROLE poor LOGIN; CREATE ROLE boss LOGIN CREATEDB;
         GRANT postgres TO boss; CREATE ROLE runner LOGIN CREATEDB; GRANT pg_execute_server_program TO runner",
    );
    db.sql(
        "ALTER TABLE users OWNER TO \"an Owner\"; GRANT SELECT ON users TO reader;
         ALTER TABLE letters ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON letters TO reader USING (true)",
    );
    let folder = folder();
    let path = folder.path().join("dump");
    pg_dump(&db, &path, &[]);
    let before = databases(&db.cluster);
    let plain = options(|_| {});
    let no_owners = options(|options| options.no_owners = true);
    let as_role = |role: &str| db.cluster.connection_as(role, None);
    let try_it = |into: &Connection, name: &str, options: &DumpOptions| {
        restore_dump(&path, into, name, options).map(|(contents, _)| contents)
    };
    refused(try_it(&into, &db.name, &no_owners), ErrorCode::Forbidden, "is there already");
    refused(try_it(&as_role("poor"), "fresh", &no_owners), ErrorCode::Permission, "may not create databases");
    refused(try_it(&db.server(), "fresh", &no_owners), ErrorCode::Forbidden, "is a superuser");
    refused(try_it(&as_role("boss"), "fresh", &no_owners), ErrorCode::Forbidden, "can act as postgres");
    refused(
        try_it(&as_role("runner"), "fresh", &no_owners),
        ErrorCode::Forbidden,
        "pg_execute_server_program",
    );
    refused(try_it(&into, "fresh", &plain), ErrorCode::Permission, "an Owner");
    // Privileges can be left out, a policy cannot.
    db.sql("DROP POLICY p ON letters; REVOKE SELECT ON users FROM reader");
    db.maintenance("DROP ROLE reader");
    let error = try_it(&into, "fresh", &no_owners).unwrap_err();
    assert!(error.to_string().contains("not on this server: reader"), "{error}");
    assert!(error.advice().unwrap().contains("CREATE ROLE \"reader\" NOLOGIN"), "{error:?}");
    assert_eq!(databases(&db.cluster), before);

    let script = script_of(&db, &["--no-owner"]);
    let missing = script.replacen("CREATE EXTENSION", "CREATE EXTENSION nowhere;\nCREATE EXTENSION", 1);
    fs::write(&path, missing).unwrap();
    refused(try_it(&into, "fresh", &plain), ErrorCode::SourceMissing, "extension nowhere is not installed");
    let untrusted = script.replacen(
        "CREATE EXTENSION",
        "CREATE EXTENSION dblink WITH SCHEMA public;\nCREATE EXTENSION",
        1,
    );
    fs::write(&path, untrusted).unwrap();
    let contents = read(&path).unwrap().contents;
    let notes = look_at_target(&into, "fresh", Some(&contents), &plain, &system_cx()).unwrap();
    assert!(notes[0].contains("dblink is not a trusted one"), "{notes:?}");
    refused(try_it(&into, "fresh", &plain), ErrorCode::Permission, "dblink");
    assert_eq!(databases(&db.cluster), before);
}

#[test]
fn what_the_server_does_not_have_is_left_out_and_said() {
    let db = app(server());
    let folder = folder();
    let path = folder.path().join("dump");
    let script = script_of(&db, &["--no-owner"])
        .replacen("SET statement_timeout = 0;", "SET transaction_timeout = 0;\nSET default_tablespace = \"fast disk\";\nSET statement_timeout = 0;", 1)
        .replacen("CREATE EXTENSION", "CREATE SUBSCRIPTION news CONNECTION 'host=x' PUBLICATION p;\nCREATE EXTENSION", 1);
    fs::write(&path, script).unwrap();
    let name = format!("{}_back", db.name);
    let (contents, loaded) = restore_dump(&path, &loader(&db.cluster), &name, &options(|_| {})).unwrap();
    db.maintenance(&format!("DROP DATABASE {}", quote(&name)));
    assert!(contents.left_out.iter().any(|note| note.contains("subscriptions are not made")), "{contents:?}");
    assert_eq!(contents.tablespaces, ["fast disk"]);
    let said = |what: &str| loaded.notes.iter().any(|note| note.contains(what));
    assert!(said("tablespace fast disk"), "{:?}", loaded.notes);
    assert!(said("no setting transaction_timeout") || db.cluster.major() >= 17, "{:?}", loaded.notes);
}

/// Scripts are bytes of the encoding that they say.
#[test]
fn a_dump_in_another_encoding_comes_back() {
    let db = Db::new("encoded");
    db.sql(
        "CREATE TABLE \"表\" (\"名前\" text); INSERT INTO \"表\" VALUES ('ソースコード 表示 \\ 能'), ('竹')",
    );
    let folder = folder();
    for encoding in ["EUC_JP", "SJIS", "UTF8"] {
        let path = folder.path().join(encoding);
        for more in [&[][..], &["--inserts"], &["-Fc"]] {
            if encoding == "SJIS" && more == ["-Fc"] && db.cluster.major() < 14 {
                continue;
            }
            pg_dump(&db, &path, &[&["-E", encoding], more].concat());
            let name = format!("{}_back", db.name);
            let restored =
                restore_dump(&path, &db.server(), &name, &options(|options| options.allow_superuser = true));
            let (contents, _) = restored.unwrap_or_else(|error| panic!("{encoding} {more:?}: {error}"));
            assert_eq!(contents.encoding.as_deref(), Some(encoding));
            assert_eq!(fingerprint(&db, &name), fingerprint(&db, &db.name), "{encoding} {more:?}");
            db.maintenance(&format!("DROP DATABASE {}", quote(&name)));
        }
    }
}
