//! A real server: protected, drilled, and swapped back by name.

use crate::home::Home;
use crate::secrets::leaks_to_children;
use hikae_source::postgresql::{Cluster, ClusterOptions, Environment, Host};
use hikae_testkit::system_cx;
use std::path::{Path, PathBuf};

pub fn start() -> Option<Cluster> {
    // A directory that the server's user can reach, whoever runs the tests.
    let scratch = PathBuf::from("/tmp");
    let environment = Environment::bare(scratch.clone());
    // Base backups can be made of it.
    let settings = [("wal_level", "replica"), ("max_wal_senders", "5"), ("full_page_writes", "on")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let options = ClusterOptions { major: 13, settings, ..ClusterOptions::default() };
    match Cluster::start(&options, &scratch, &environment, &system_cx()) {
        Ok(cluster) => Some(cluster),
        Err(error) => {
            hikae_testkit::not_run(&format!("no PostgreSQL server can be started: {error}"));
            None
        }
    }
}

pub fn enter(cluster: &Cluster, database: &str) -> postgres::Client {
    let Host::Socket(socket) = &cluster.connection().host else { panic!("not a socket") };
    let mut config = postgres::Config::new();
    config.host_path(socket).port(cluster.connection().port).user("postgres").dbname(database);
    if let Some(password) = &cluster.connection().password {
        config.password(password.reveal());
    }
    config.connect(postgres::NoTls).unwrap()
}

pub fn address(cluster: &Cluster, socket: &Path, role: &str, database: &str) -> String {
    let host = socket.display().to_string().replace('/', "%2F");
    format!("postgresql://{role}@{host}:{}/{database}", cluster.connection().port)
}

/// Keeps MK-1, X-1, MK-29, MK-40, BC-41.
#[test]
fn a_database_is_protected_proved_and_swapped_back() {
    let Some(cluster) = start() else { return };
    let Host::Socket(socket) = cluster.connection().host.clone() else { panic!("not a socket") };
    enter(&cluster, "postgres").batch_execute("CREATE DATABASE shop").unwrap();
    let mut shop = enter(&cluster, "shop");
    shop.batch_execute("CREATE TABLE orders AS SELECT n AS id FROM generate_series(1, 500) n").unwrap();

    let home = Home::new();
    // The server asks for none; hikae hands it to its programs all the same.
    let password = "canary-91c2-password";
    home.write_private(".pgpass", format!("*:*:*:*:{password}\n"));
    let live = address(&cluster, &socket, "postgres", "shop");
    // A superuser is refused unless it is allowed, with a role that is enough.
    let refused = home.run(&["protect", &live]);
    assert_ne!(refused.code, Some(0));
    assert!(!home.path("config/hikae/config.toml").exists(), "what cannot be backed up is no source");
    assert!(refused.stderr.contains("CREATE ROLE"), "{}", refused.stderr);

    // The throwaway server of the drill runs as another user, who must reach its scratch directory.
    let ran = home.expect(0, &["protect", &live, "--allow-superuser", "--scratch", "/tmp"]);
    assert!(ran.stdout.contains("1 table with 500 rows"), "{}", ran.stdout);

    let told = home.run(&["doctor"]).stdout;
    let server = format!("server {}", cluster.version());
    assert!(told.lines().any(|line| line.contains(&server) && line.contains(", pg_dump ")), "{told}");

    // pg_dump and its kin get the password by a file, never by argument or environment.
    assert_eq!(leaks_to_children(home.command(&["backup"]), password), Vec::<String>::new());

    shop.batch_execute("DELETE FROM orders WHERE id > 100").unwrap();
    drop(shop);
    let admin = address(&cluster, &socket, "postgres", "postgres");
    home.expect(2, &["restore", "shop", "--connection", &admin, "--swap"]);
    let ran = home.expect(0, &["restore", "shop", "--connection", &admin, "--swap", "--yes"]);
    assert!(ran.stdout.contains("kept as shop_before_"), "{}", ran.stdout);
    let rows: i64 = enter(&cluster, "shop").query_one("SELECT count(*) FROM orders", &[]).unwrap().get(0);
    assert_eq!(rows, 500);

    assert!(ran.stdout.contains("ALLOW_CONNECTIONS true"), "{}", ran.stdout);
    assert!(ran.stdout.contains("to go back"), "{}", ran.stdout);

    home.expect(0, &["restore", "shop", "--connection", &admin, "--into-database", "beside"]);
    let rows: i64 = enter(&cluster, "beside").query_one("SELECT count(*) FROM orders", &[]).unwrap().get(0);
    assert_eq!(rows, 500);
}

#[test]
fn what_a_role_may_not_restore_is_said_before_anything_is_made() {
    let Some(cluster) = start() else { return };
    let Host::Socket(socket) = cluster.connection().host.clone() else { panic!("not a socket") };
    enter(&cluster, "postgres")
        .batch_execute(
            "CREATE ROLE owner; CREATE ROLE reader LOGIN; CREATE ROLE maker LOGIN CREATEDB;
             CREATE ROLE member LOGIN CREATEDB; GRANT owner TO member",
        )
        .unwrap();
    enter(&cluster, "postgres").batch_execute("CREATE DATABASE shop OWNER owner").unwrap();
    enter(&cluster, "shop")
        .batch_execute("CREATE TABLE orders AS SELECT 1 AS id; GRANT SELECT ON orders TO reader; ALTER TABLE orders OWNER TO owner")
        .unwrap();
    let home = Home::new();
    let live = address(&cluster, &socket, "reader", "shop");
    home.expect(0, &["protect", &live, "--scratch", "/tmp"]);
    let as_role = |role: &str| address(&cluster, &socket, role, "postgres");
    fn restore<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
        [&["restore", "shop"], arguments].concat()
    }
    let (maker, member, admin) = (as_role("maker"), as_role("member"), as_role("postgres"));
    let with_password = admin.replace("postgres@", "postgres:secret-91c2@");
    let gone = ["--connection", &admin, "--into-database", "shop"];
    let refused: [(i32, &str, &[&str]); 5] = [
        (7, "give --connection with a role that may", &[]),
        (7, "--no-owners", &["--connection", &maker]),
        (7, "belongs to another role", &["--connection", &maker, "--no-owners", "--swap", "--yes"]),
        (12, "--swap", &gone),
        (2, "holds a password", &["--connection", &with_password]),
    ];
    for (code, said, arguments) in refused {
        for more in [&["--dry-run"][..], &[]] {
            let ran = home.expect(code, &[&restore(arguments)[..], more].concat());
            assert!(ran.stderr.contains(said), "{arguments:?}: {}", ran.stderr);
            assert!(!ran.stderr.contains("secret-91c2"), "{}", ran.stderr);
        }
    }
    let databases = "SELECT count(*) FROM pg_database WHERE datname NOT LIKE 'template%'";
    let n: i64 = enter(&cluster, "postgres").query_one(databases, &[]).unwrap().get(0);
    assert_eq!(n, 2, "nothing was made");
    home.expect(0, &restore(&["--connection", &maker, "--no-owners", "--into-database", "mine"]));
    home.expect(0, &restore(&["--connection", &member, "--swap", "--yes"]));
}

#[test]
fn a_selection_never_takes_the_place_of_the_live_database() {
    let Some(cluster) = start() else { return };
    let Host::Socket(socket) = cluster.connection().host.clone() else { panic!("not a socket") };
    enter(&cluster, "postgres").batch_execute("CREATE DATABASE shop").unwrap();
    let mut shop = enter(&cluster, "shop");
    shop.batch_execute(
        "CREATE TABLE orders AS SELECT n AS id FROM generate_series(1, 5) n; CREATE TABLE wares AS SELECT 1 AS a",
    )
    .unwrap();
    let home = Home::new();
    let live = address(&cluster, &socket, "postgres", "shop");
    home.expect(0, &["protect", &live, "--allow-superuser", "--scratch", "/tmp"]);
    let config = home.path("config/hikae/config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    home.configure(&text.replace("kind = \"postgresql\"", "kind = \"postgresql\"\ntables = [\"orders\"]"));
    home.expect(0, &["backup"]);
    let shown = home.expect(0, &["show", "shop"]).stdout;
    assert!(shown.contains("rows of public.orders"), "{shown}");
    assert!(shown.contains("definitions only of") && shown.contains("public.wares"), "{shown}");

    let admin = address(&cluster, &socket, "postgres", "postgres");
    for more in [&["--dry-run"][..], &["--yes"]] {
        let swap = ["restore", "shop", "--connection", &admin, "--swap"];
        let ran = home.expect(12, &[&swap[..], more].concat());
        assert!(ran.stderr.contains("a selection: definitions only of 1 table"), "{}", ran.stderr);
        assert!(ran.stderr.contains("hint: restore it without --swap"), "{}", ran.stderr);
    }
    let rows: i64 = shop.query_one("SELECT count(*) FROM wares", &[]).unwrap().get(0);
    assert_eq!(rows, 1, "the live database stands as it was");
    // Beside the live one it may come back, and says what it is.
    let beside = ["restore", "shop", "--connection", &admin, "--into-database", "beside"];
    for more in [&["--dry-run"][..], &[]] {
        let ran = home.expect(0, &[&beside[..], more].concat());
        assert!(ran.stdout.contains("a selection: definitions only of 1 table"), "{}", ran.stdout);
    }
    let ran = home.expect(0, &["drill", "--scratch", "/tmp"]);
    assert!(ran.stdout.contains("a selection: definitions only of 1 table"), "{}", ran.stdout);
}

/// A server that is newer than `pg_dump` is not a server that is away, to people as to scripts.
///
/// Keeps IN-102.
#[test]
fn a_pg_dump_that_is_too_old_is_told_from_a_server_that_is_away() {
    let Some(cluster) = start() else { return };
    let Host::Socket(socket) = cluster.connection().host.clone() else { panic!("not a socket") };
    let home = Home::new();
    let live = address(&cluster, &socket, "postgres", "postgres");
    home.expect(0, &["protect", &live, "--allow-superuser", "--scratch", "/tmp"]);
    let old = home.path("pg_dump");
    std::fs::write(&old, "#!/bin/sh\necho 'pg_dump (PostgreSQL) 12.3'\n").unwrap();
    std::fs::set_permissions(&old, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let text = std::fs::read_to_string(home.path("config/hikae/config.toml")).unwrap();
    let directory = format!("kind = \"postgresql\"\nprogram_directory = {:?}", old.parent().unwrap());
    home.configure(&text.replace("kind = \"postgresql\"", &directory));

    let told = |expected: i32, more: &[&str]| -> String {
        let ran = home.expect(expected, &[&["backup", "--json"], more].concat());
        let answer: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        answer["status"].as_str().unwrap().to_owned()
    };
    assert_eq!(told(2, &[]), "pg-dump-too-old");
    assert_eq!(told(5, &["--compat-exit-codes"]), "pg-dump-too-old");
    let ran = home.expect(2, &["backup"]);
    assert!(format!("{}{}", ran.stdout, ran.stderr).contains("install postgresql-client-"), "{}", ran.stderr);
    drop(cluster);
    assert_eq!(told(6, &[]), "source-missing");
    assert_eq!(told(2, &["--compat-exit-codes"]), "source-missing");
}

/// A killed hikae leaves neither a snapshot nor anything on the server: that forgets the backup and lets go of the log.
///
/// Keeps E-3.
#[test]
fn a_base_backup_that_is_killed_leaves_no_snapshot_and_the_server_as_it_was() {
    let Some(cluster) = start() else { return };
    let Host::Socket(socket) = cluster.connection().host.clone() else { panic!("not a socket") };
    let mut client = enter(&cluster, "postgres");
    client
        .batch_execute("CREATE TABLE big AS SELECT md5(n::text) AS note FROM generate_series(1, 200000) n")
        .unwrap();
    let home = Home::new();
    let port = cluster.connection().port;
    home.configure(&format!(
        "[repository.main]\nstore = \"{}\"\nunlock = {{ key_file = \"{}\" }}\n\n[source.main]\nkind = \"postgresql-cluster\"\n\
         connection = \"host={} port={port} dbname=postgres user=postgres\"\n",
        home.store().display(),
        home.key_file().display(),
        socket.display(),
    ));
    home.expect(0, &["init"]);
    let mut slots =
        || -> i64 { client.query_one("SELECT count(*) FROM pg_replication_slots", &[]).unwrap().get(0) };
    let silent = std::process::Stdio::null;
    for pause in [0, 30, 60] {
        let mut child = home.command(&["backup"]).stdout(silent()).stderr(silent()).spawn().unwrap();
        let mut began = false;
        while !began && child.try_wait().unwrap().is_none() {
            began = slots() == 1;
        }
        assert!(began, "it was over before it was seen");
        std::thread::sleep(std::time::Duration::from_millis(pause));
        // While the server holds the log, nothing is committed.
        let is_in_the_middle = slots() == 1;
        child.kill().unwrap();
        child.wait().unwrap();
        if !is_in_the_middle {
            break;
        }
        assert_eq!(home.json(&["list"])["result"].as_array().unwrap().len(), 0);
        let gone = (0..200).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            slots() == 0
        });
        assert!(gone, "the server holds its log for nobody");
    }
    home.expect(0, &["backup"]);
    home.expect(0, &["verify", "--read-data"]);
    let drilled = home.expect(0, &["drill", "main", "--scratch", "/tmp"]);
    assert!(
        drilled.stdout.contains("pg_checksums") || drilled.stdout.contains("no checksums"),
        "{}",
        drilled.stdout
    );
}
