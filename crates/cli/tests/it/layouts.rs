//! Every export of `docs/exports.md`, as it stands there, opened with the program that its table names.

use crate::exports::{Gpg, everything, is_here, run, see_sums};
use crate::home::Home;
use crate::postgresql::{address, enter, start};
use hikae_source::postgresql::{Cluster, Host};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const DOCUMENT: &str = include_str!("../../../../docs/exports.md");

/// The configuration of the document, with all its paths below the home.
fn exports(home: &Home) -> String {
    let (_, section) = DOCUMENT.split_once("## Names that systems have").unwrap();
    let (_, rest) = section.split_once("```toml\n").unwrap();
    let (text, _) = rest.split_once("```").unwrap();
    let below = home.path("").display().to_string();
    let below = below.trim_end_matches('/');
    text.replace("\"/", &format!("\"{below}/")).replace("\"file:/", &format!("\"file:{below}/"))
}

/// The exports that the table of the document names.
fn of_the_table() -> BTreeSet<&'static str> {
    let (_, table) = DOCUMENT.split_once("| --- | --- | --- |\n").unwrap();
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    rows.filter_map(|row| {
        let cell = row.split('|').nth(2)?;
        match cell.trim().strip_prefix("any: `") {
            Some(rest) => rest.split('`').next(),
            None => cell.split('`').nth(1),
        }
    })
    .collect()
}

fn shop(cluster: &Cluster) {
    enter(cluster, "postgres").batch_execute("CREATE DATABASE shop").unwrap();
    let tables = ["users", "sessions", "audit_logs"].map(|table| {
        format!(
            "CREATE TABLE {table} (id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());
             CREATE INDEX ON {table} (at); INSERT INTO {table} DEFAULT VALUES;"
        )
    });
    enter(cluster, "shop").batch_execute(&tables.concat()).unwrap();
}

fn machine(cluster: &Cluster) -> Home {
    let home = Home::new();
    for (name, content) in [
        ("srv/app/data/a.txt", "a letter"),
        ("etc/nginx/app.conf", "server {}"),
        ("etc/systemd/system/app.service", "[Unit]"),
        ("var/log/app/today.log", "it runs"),
        ("srv/mail/cur/1", "From: a"),
        ("srv/blog/index.html", "<p>"),
    ] {
        home.write(name, content);
    }
    home.write_private("srv/app/.env", "TOKEN=1");
    home.write_private("etc/ssl/app/key.pem", "a key");
    home.write_private("etc/hikae/export.passphrase", "of the safe\n");
    fs::create_dir_all(home.path("var/backups/app")).unwrap();
    let itsm = rusqlite::Connection::open(home.path("srv/itsm.db")).unwrap();
    itsm.execute_batch("CREATE TABLE ticket (text); INSERT INTO ticket VALUES ('broken')").unwrap();
    let Host::Socket(socket) = cluster.connection().host.clone() else { panic!("not a socket") };
    let live =
        format!("connection = '{}'\nallow_superuser = true", address(cluster, &socket, "postgres", "shop"));
    let programs = format!("program_directory = '{}'", cluster.program_directory().display());
    let watched =
        ["users", "sessions", "audit_logs"].map(|table| format!("{{ table = '{table}', column = 'at' }}"));
    let below = home.path("").display().to_string();
    let below = below.trim_end_matches('/');
    home.configure(&format!(
        "[repository.main]\nstore = '{below}/store'\nunlock = {{ key_file = '{below}/main.key' }}\n\
         [source.app-db]\nkind = 'postgresql'\n{live}\n{programs}\n\
         [source.audit-logs]\nkind = 'postgresql'\ntables = ['audit_logs']\n{live}\n{programs}\n\
         [source.app-rows]\nkind = 'postgresql-rows'\nbase = 'app-db'\noverlap = '0s'\n{live}\ntables = [{}]\n\
         [source.app-files]\nkind = 'files'\ninclude = ['{below}/srv/app/data', {{ path = '{below}/srv/app/.env', secret = true }}, \
         {{ path = '{below}/etc/ssl/app', secret = true }}, '{below}/etc/nginx', '{below}/etc/systemd']\n\
         [source.app-logs]\nkind = 'files'\ninclude = ['{below}/var/log/app']\nnewer_than = '7d'\n\
         [source.itsm]\nkind = 'sqlite'\npath = '{below}/srv/itsm.db'\n\
         [source.mail]\nkind = 'files'\ninclude = ['{below}/srv/mail']\n\
         [source.blog]\nkind = 'files'\ninclude = ['{below}/srv/blog']\n{}",
        watched.join(", "),
        exports(&home),
    ));
    home
}

/// The one file of the exports whose name begins and ends so.
#[track_caller]
fn found(home: &Home, begins: &str, ends: &str) -> PathBuf {
    let names = everything(&home.path("var/backups/app"));
    let fits = |name: &&String| name.starts_with(begins) && name.ends_with(ends);
    let fitting: Vec<_> = names.iter().filter(fits).collect();
    assert_eq!(fitting.len(), 1, "{begins}…{ends} in {names:?}");
    home.path("var/backups/app").join(fitting[0])
}

/// Keeps MK-22, MK-23, MK-24, MK-25, MK-26, MK-27, BC-7, BC-15, BC-27, IN-14, RS-47, MK-37.
#[test]
fn every_export_of_the_document_is_opened_by_an_ordinary_program() {
    let Some(cluster) = start() else { return };
    if !is_here("gpg") || !is_here("sqlite3") {
        return;
    }
    shop(&cluster);
    let home = machine(&cluster);
    home.expect(0, &["init"]);
    let all = ["app-db", "audit-logs", "app-files", "app-logs", "itsm", "mail", "blog"];
    home.expect(0, &[&["backup", "--type", "monthly"], &all[..]].concat());
    for table in ["users", "sessions", "audit_logs"] {
        enter(&cluster, "shop").batch_execute(&format!("INSERT INTO {table} DEFAULT VALUES")).unwrap();
    }
    home.expect(0, &["backup", "app-rows"]);
    home.expect(0, &["export"]);
    let in_home = home.path("");

    let Host::Socket(socket) = cluster.connection().host.clone() else { panic!("not a socket") };
    let sql = |database: &str, sql: &str| enter(&cluster, database).batch_execute(sql).unwrap();
    let load = |database: &str, program: &str, more: &[&str], file: &Path| {
        let at = format!(
            "--dbname=host={} port={} user=postgres dbname={database}",
            socket.display(),
            cluster.connection().port
        );
        let program = cluster.program_directory().join(program);
        run(&in_home, program.to_str().unwrap(), &[&[at.as_str()], more, &[file.to_str().unwrap()]].concat());
    };
    let count = |database: &str, table: &str| -> i64 {
        enter(&cluster, database).query_one(&format!("SELECT count(*) FROM {table}"), &[]).unwrap().get(0)
    };
    let unzipped =
        |file: &Path| home.write("unzipped", run(&in_home, "gunzip", &["--stdout", file.to_str().unwrap()]));
    let listed = |file: &Path, more: &str| {
        let listed = run(&in_home, "tar", &["--list", more, "--file", file.to_str().unwrap()]);
        String::from_utf8(listed).unwrap()
    };
    let gpg = Gpg::new(&home);
    let decrypted = |file: &Path| {
        let passphrase = home.path("etc/hikae/export.passphrase").display().to_string();
        let asked = ["--batch", "--pinentry-mode", "loopback", "--passphrase-file", &passphrase, "--decrypt"];
        home.write("decrypted", gpg.run(&[&asked[..], &[file.to_str().unwrap()]].concat()))
    };
    let psql = ["--quiet", "--set=ON_ERROR_STOP=1", "--file"];

    let mut opened = BTreeSet::new();
    for (export, begins, ends) in [
        ("db", "postgresql/db_", ".sql.gz"),
        ("db-backup", "db_backup_", ".sql.gz"),
        ("full", "bc003_full_", ".dump"),
        ("audit", "audit_logs_2", ".dump.gz"),
        ("increments", "sessions_incr_", ".dump"),
        ("data", "appdata/data_", ".tar.gz"),
        ("env", "appdata/env_", ".backup.gpg"),
        ("ssl", "appdata/ssl_", ".tar.gz.gpg"),
        ("nginx", "appdata/nginx_", ".conf"),
        ("systemd", "appdata/systemd_", ".service"),
        ("config", "config_backup_", ".tar.gz"),
        ("logs", "logs_2", ".tar.gz"),
        ("logs-of-day", "logs_backup_", ".tar.gz"),
        ("itsm", "monthly/itsm_nexus_monthly_", ".db.gz"),
        ("trees", "daily/blog/", ".sha256"),
    ] {
        let file = found(&home, begins, ends);
        match export {
            "trees" => {
                let name = file.file_name().unwrap().to_str().unwrap();
                run(file.parent().unwrap(), "sha256sum", &["--check", "--strict", "--quiet", name]);
            }
            _ => see_sums(&file),
        }
        let database = format!("of_{}", export.replace('-', "_"));
        if ["db", "db-backup", "full", "audit"].contains(&export) {
            sql("postgres", &format!("CREATE DATABASE {database} TEMPLATE template0"));
        }
        match export {
            "db" | "db-backup" => {
                load(&database, "psql", &psql, &unzipped(&file));
                assert_eq!((count(&database, "users"), count(&database, "audit_logs")), (1, 1));
            }
            "full" => {
                load(&database, "pg_restore", &["--exit-on-error"], &file);
                assert_eq!((count(&database, "users"), count(&database, "audit_logs")), (1, 1));
            }
            "audit" => {
                load(&database, "pg_restore", &["--exit-on-error"], &unzipped(&file));
                assert_eq!((count(&database, "users"), count(&database, "audit_logs")), (0, 1));
            }
            "increments" => {
                for table in ["users", "sessions", "audit_logs"] {
                    let file = found(&home, &format!("{table}_incr_"), ".dump");
                    load("of_full", "pg_restore", &["--exit-on-error", "--data-only"], &file);
                    assert_eq!(count("of_full", table), 2, "{table}");
                }
            }
            "data" => assert!(listed(&file, "--gzip").contains("data/a.txt")),
            "env" => assert_eq!(fs::read(decrypted(&file)).unwrap(), b"TOKEN=1"),
            "ssl" => assert!(listed(&decrypted(&file), "--gzip").contains("ssl/app/key.pem")),
            "nginx" => assert_eq!(fs::read(&file).unwrap(), b"server {}"),
            "systemd" => {
                assert_eq!(fs::read(&file).unwrap(), b"[Unit]");
                let manifest = fs::read_to_string(found(&home, "appdata/manifest_2", ".txt")).unwrap();
                assert!(manifest.contains("systemd_") && manifest.contains("sha256 "), "{manifest}");
            }
            "config" => {
                let names = listed(&file, "--gzip");
                assert!(names.contains("nginx/app.conf") && names.contains("system/app.service"), "{names}");
            }
            "logs" | "logs-of-day" => assert!(listed(&file, "--gzip").contains("log/app/today.log")),
            "itsm" => {
                let database = unzipped(&file);
                let rows = run(&in_home, "sqlite3", &[database.to_str().unwrap(), "SELECT * FROM ticket"]);
                assert_eq!(rows, b"broken\n");
            }
            "trees" => {
                assert_eq!(fs::read(file.with_extension("").join("index.html")).unwrap(), b"<p>");
                found(&home, "daily/mail/", "cur/1");
            }
            _ => unreachable!(),
        }
        opened.insert(export);
    }
    assert_eq!(opened, of_the_table(), "the table of the document and what is opened here");
    // What we export passes where a stranger's dump is judged, on a machine without a repository.
    for (file, database) in [
        (found(&home, "postgresql/db_", ".sql.gz"), "judged_sql"),
        (found(&home, "bc003_full_", ".dump"), "judged_dump"),
    ] {
        let fresh = Home::new();
        let server = address(&cluster, &socket, "postgres", "postgres");
        let restore = [
            "restore",
            "--dump",
            file.to_str().unwrap(),
            "--connection",
            &server,
            "--into-database",
            database,
            "--allow-superuser",
        ];
        fresh.expect(0, &restore);
        assert_eq!(count(database, "sessions"), 1);
    }
}
