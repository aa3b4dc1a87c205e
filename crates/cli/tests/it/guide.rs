//! The guide says what is true: its commands are run in the order in which a reader meets them.
//!
//! Every `sh` fence is run line by line and every `toml` fence becomes the configuration, with paths and servers put
//! below a home of their own. At "When the machine is gone", it is: the repository and the recovery sheet are left.

use crate::home::{Home, Ran};
use crate::postgresql::{enter, start};
use crate::recovering::wal_program;
use hikae_source::postgresql::Host;
use hikae_testkit::system_cx;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

const GUIDE: &str = include_str!("../../../../docs/guide.md");
/// Where the guide's machine keeps its things; all of it is below the home here.
const PLACES: [&str; 7] = ["/var/lib/", "/srv/", "/etc/", "/var/log/", "/mnt/", "/tmp/", "/usr/local/bin/"];
/// Heading below which the reader has another machine.
const MACHINE_IS_GONE: &str = "## When the machine is gone";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step<'a> {
    Configuration(&'a str),
    Command(&'a str),
    MachineIsGone,
}

fn steps(guide: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    // With every second fence mark, the text goes on.
    for (i, part) in guide.split("```").enumerate() {
        match part.split_once('\n') {
            Some(("sh", lines)) if i % 2 == 1 => steps.extend(lines.lines().map(Step::Command)),
            Some(("toml", text)) if i % 2 == 1 => steps.push(Step::Configuration(text)),
            _ if i % 2 == 1 => panic!("a fence of another kind: {part}"),
            _ if part.contains(MACHINE_IS_GONE) => steps.push(Step::MachineIsGone),
            _ => {}
        }
    }
    steps
}

/// Puts the other for the one, everywhere and once: what was put in is not looked at again.
fn replaced(text: &str, table: &[(String, String)]) -> String {
    let mut done = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        match table.iter().find(|(from, _)| rest.starts_with(from)) {
            Some((from, to)) => {
                done.push_str(to);
                rest = &rest[from.len()..];
            }
            None => {
                done.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    done
}

/// A home with all that the guide's machine has.
fn machine() -> Home {
    let home = Home::new();
    home.write("srv/app/data/orders.json", "[]");
    home.write("srv/app/data/cache/page.html", "<p>");
    home.write("srv/app/data/a.odt", "a letter");
    home.write("srv/app/data/invoice-7.pdf", "an invoice");
    home.write_private("srv/app/.env", "TOKEN=1");
    home.write("etc/nginx/nginx.conf", "events {}");
    home.write_private("etc/hikae/passphrase", "a passphrase that is long enough\n");
    home.write("var/log/app/today.log", "it runs");
    fs::create_dir_all(home.path("mnt/backup")).unwrap();
    fs::create_dir_all(home.path("srv/itsm")).unwrap();
    for database in ["srv/app/app.db", "srv/itsm/itsm_nexus.db"] {
        let connection = rusqlite::Connection::open(home.path(database)).unwrap();
        connection.execute_batch("CREATE TABLE ticket (text); INSERT INTO ticket VALUES ('broken')").unwrap();
    }
    for program in ["quiesce", "resume"] {
        let path = home.write(&format!("usr/local/bin/{program}"), "#!/bin/sh\n");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    home
}

/// What somebody has kept of a database, as `srv/old/shop.sql.gz`.
fn foreign_dump(home: &Home, programs: &Path, server: &str) {
    fs::create_dir_all(home.path("srv/old")).unwrap();
    let mut pg_dump = std::process::Command::new(programs.join("pg_dump"));
    pg_dump.arg(format!("{server} user=postgres dbname=app")).arg("--compress=6").arg("--file");
    assert!(pg_dump.arg(home.path("srv/old/shop.sql.gz")).status().unwrap().success());
}

/// Takes everything away but the repository and the recovery sheet of it, which somebody kept as `sheet.txt`.
fn lose_the_machine(home: &Home) {
    let store = home.path("mnt/backup/hikae").display().to_string();
    let sheets = fs::read_dir(home.path("data/hikae")).unwrap().map(|entry| entry.unwrap().path());
    let is_sheet = |path: &Path| {
        path.extension().is_some_and(|extension| extension == "txt")
            && fs::read_to_string(path).is_ok_and(|text| text.contains(&store))
    };
    let sheet = fs::read(sheets.filter(|path| is_sheet(path)).last().expect("a recovery sheet")).unwrap();
    for entry in fs::read_dir(home.path("")).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true if path.ends_with("mnt") => {}
            true => fs::remove_dir_all(&path).unwrap(),
            false => fs::remove_file(&path).unwrap(),
        }
    }
    fs::write(home.path("sheet.txt"), sheet).unwrap();
}

#[test]
fn every_command_of_the_guide_does_what_it_says() {
    let Some(cluster) = start() else { return };
    let Host::Socket(socket) = cluster.connection().host.clone() else { panic!("not a socket") };
    let port = cluster.connection().port;
    enter(&cluster, "postgres").batch_execute("CREATE ROLE hikae LOGIN").unwrap();
    enter(&cluster, "postgres").batch_execute("CREATE DATABASE app").unwrap();
    let version: String =
        enter(&cluster, "postgres").query_one("SHOW server_version_num", &[]).unwrap().get(0);
    let functions = match version.as_str() {
        version if version >= "150000" => ["pg_backup_start(text, boolean)", "pg_backup_stop(boolean)"],
        _ => ["pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)"],
    };
    let rights = format!(
        "CREATE ROLE hikae_cluster LOGIN REPLICATION; GRANT pg_read_all_settings TO hikae_cluster;
         GRANT EXECUTE ON FUNCTION {}, {} TO hikae_cluster",
        functions[0], functions[1]
    );
    enter(&cluster, "postgres").batch_execute(&rights).unwrap();
    let orders = "CREATE TABLE orders AS SELECT n AS id FROM generate_series(1, 50) n";
    enter(&cluster, "app").batch_execute(&format!("{orders}; GRANT SELECT ON orders TO hikae")).unwrap();
    let added_to = "CREATE TABLE audit_logs (recorded_at timestamp NOT NULL DEFAULT now());
         CREATE TABLE sessions (created_at timestamptz NOT NULL DEFAULT now());
         GRANT SELECT ON audit_logs, sessions TO hikae; GRANT pg_read_all_stats TO hikae";
    enter(&cluster, "app").batch_execute(added_to).unwrap();

    enter(&cluster, "postgres").batch_execute("CREATE ROLE loader LOGIN CREATEDB").unwrap();

    let home = machine();
    wal_program();
    foreign_dump(&home, cluster.program_directory(), &format!("host={} port={port}", socket.display()));
    let root = home.path("").display().to_string();
    let root = root.trim_end_matches('/');
    let server = format!("{}:{port}", socket.display().to_string().replace('/', "%2F"));
    let today = system_cx().now().to_zoned(jiff::tz::TimeZone::get("Asia/Tokyo").unwrap()).date();
    let mut table: Vec<(String, String)> = vec![
        ("host=/run/postgresql".into(), format!("host={} port={port}", socket.display())),
        ("hikae@db/app".into(), format!("hikae@{server}/app")),
        ("admin@db/postgres".into(), format!("postgres@{server}/postgres")),
        ("loader@db/postgres".into(), format!("loader@{server}/postgres")),
        (" srv/app".into(), format!(" {}/srv/app", root.trim_start_matches('/'))),
        ("2026-11-18".into(), today.to_string()),
        // Nobody is here to answer.
        ("--overwrite if-changed".into(), "--overwrite if-changed --yes".into()),
        ("--overwrite always".into(), "--overwrite always --yes".into()),
        ("--swap".into(), "--swap --yes".into()),
    ];
    table.extend(PLACES.map(|place| (place.into(), format!("{root}{place}"))));

    let mut untrue = String::new();
    for step in steps(GUIDE) {
        match step {
            Step::Configuration(text) => drop(home.configure(&replaced(text, &table))),
            Step::MachineIsGone => lose_the_machine(&home),
            Step::Command(line) => {
                if line.contains("3f2a") {
                    let listed = home.json(&["list", "app-files"]);
                    let id = listed["result"][0]["id"].as_str().unwrap()[..8].to_owned();
                    table.insert(0, ("3f2a".into(), id));
                }
                let ran = run(&home, &replaced(line, &table));
                if ran.code != Some(0) {
                    untrue
                        .push_str(&format!("\n{line}\nended {:?}: {}\n{}", ran.code, ran.stdout, ran.stderr));
                }
            }
        }
    }
    assert!(untrue.is_empty(), "the guide is not true:\n{untrue}");
}

/// Runs a line as a shell would. The throwaway server of a drill runs as another user, who must reach its files.
fn run(home: &Home, line: &str) -> Ran {
    let own = Path::new(env!("CARGO_BIN_EXE_hikae")).parent().unwrap().to_owned();
    let others = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([own].into_iter().chain(std::env::split_paths(&others))).unwrap();
    let mut shell = home.program("sh");
    let output = shell.args(["-c", line]).env("PATH", path).env("HIKAE_SCRATCH", "/tmp").output().unwrap();
    Ran::of(&output)
}
