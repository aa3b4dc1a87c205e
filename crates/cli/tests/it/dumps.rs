//! `hikae restore --dump`, on a machine that has neither repository nor configuration.

use crate::home::Home;
use crate::postgresql::{address, enter, start};
use crate::secrets::leaks_to_children;
use hikae_source::postgresql::{Cluster, Host};
use std::process::Command;

/// Makes a database and dumps it in the home as `dump.custom` and `dump.sql`.
fn dumps_of_a_shop(home: &Home, cluster: &Cluster) -> String {
    let Host::Socket(socket) = cluster.connection().host.clone() else { panic!("not a socket") };
    enter(cluster, "postgres")
        .batch_execute("CREATE ROLE loader LOGIN CREATEDB; CREATE ROLE clerk;")
        .unwrap();
    enter(cluster, "postgres").batch_execute("CREATE DATABASE shop").unwrap();
    enter(cluster, "shop")
        .batch_execute(
            "CREATE TABLE orders AS SELECT n AS id FROM generate_series(1, 500) n; GRANT SELECT ON orders TO clerk;
             CREATE TABLE wares (name text); INSERT INTO wares VALUES ('tea'), ('cup')",
        )
        .unwrap();
    let server =
        format!("host={} port={} user=postgres dbname=shop", socket.display(), cluster.connection().port);
    for (name, format) in [("dump.custom", "-Fc"), ("dump.sql", "-Fp")] {
        let mut pg_dump = Command::new(cluster.program_directory().join("pg_dump"));
        pg_dump.arg(&server).arg(format).arg("--file").arg(home.path(name));
        assert!(pg_dump.status().unwrap().success());
    }
    address(cluster, &socket, "loader", "postgres")
}

/// Keeps MK-37.
#[test]
fn a_foreign_dump_is_looked_at_and_restored_on_a_fresh_machine() {
    let Some(cluster) = start() else { return };
    let home = Home::new();
    let server = dumps_of_a_shop(&home, &cluster);
    let password = "canary-5a1e-password";
    home.write_private(".pgpass", format!("*:*:*:*:{password}\n"));

    let shown = home.expect(0, &["restore", "--dump", "dump.custom", "--dry-run"]).stdout;
    for said in
        ["a custom archive", "2 tables with 502 rows", "500  public.orders", "clerk", "No server was asked"]
    {
        assert!(shown.contains(said), "{said} in {shown}");
    }
    let load = [
        "restore",
        "--dump",
        "dump.custom",
        "--connection",
        &server,
        "--into-database",
        "shop_old",
        "--no-owners",
    ];
    let plan = home.json(&[&load[..], &["--dry-run"]].concat());
    assert_eq!(plan["result"]["plan"]["server_asked"], true);
    assert_eq!(plan["result"]["plan"]["contents"]["tables"][0]["rows"], 500);
    // pg_restore is told nothing of the server, nor of its password.
    assert_eq!(leaks_to_children(home.command(&load), password), Vec::<String>::new());
    let rows: i64 = enter(&cluster, "shop_old").query_one("SELECT count(*) FROM orders", &[]).unwrap().get(0);
    assert_eq!(rows, 500);

    let restored = home.json(&[
        "restore",
        "--dump",
        "dump.sql",
        "--connection",
        &server,
        "--into-database",
        "b",
        "--no-owners",
    ]);
    assert_eq!(restored["result"]["compared"], false);
    assert_eq!(restored["result"]["restored"]["tables"][1]["name"], "public.wares");
    assert_eq!(restored["result"]["restored"]["tables"][1]["rows"], 2);
    let text =
        ["restore", "--dump", "dump.sql", "--connection", &server, "--into-database", "c", "--no-owners"];
    let said = home.expect(0, &text).stdout;
    assert!(said.contains("no manifest") && said.contains("privileges, as asked for"), "{said}");
    assert!(!home.path("data/hikae").exists() && !home.path("config/hikae").exists());
}

/// Keeps MK-37.
#[test]
fn a_foreign_dump_that_cannot_be_restored_says_why_by_its_exit_code() {
    let Some(cluster) = start() else { return };
    let home = Home::new();
    let server = dumps_of_a_shop(&home, &cluster);
    let script = std::fs::read_to_string(home.path("dump.sql")).unwrap();
    home.write("hostile.sql", script.replacen("\nCOPY", "\n\\! touch pwned\nCOPY", 1));
    home.write("cut.sql", &script[..script.len() / 2]);
    home.write("mysql.sql", "-- MySQL dump 10.13\n");
    let as_superuser = server.replace("loader@", "postgres@");
    let with_password = server.replace("loader@", "loader:secret-91c2@");
    let refused: [(i32, &str, &str, &[&str]); 8] = [
        (12, "hostile.sql", "the psql command `\\!`", &["--connection", &server, "--into-database", "x"]),
        (4, "cut.sql", "cut short", &["--connection", &server, "--into-database", "x"]),
        (2, "mysql.sql", "a dump of MySQL", &["--connection", &server, "--into-database", "x"]),
        (6, "missing.sql", "is not there", &["--connection", &server, "--into-database", "x"]),
        (12, "dump.sql", "is a superuser", &["--connection", &as_superuser, "--into-database", "x"]),
        (12, "dump.sql", "is there already", &["--connection", &server, "--into-database", "shop"]),
        (2, "dump.sql", "holds a password", &["--connection", &with_password, "--into-database", "x"]),
        (7, "dump.sql", "--no-owners", &["--connection", &server, "--into-database", "x"]),
    ];
    for (code, dump, said, arguments) in refused {
        for more in [&["--dry-run"][..], &[]] {
            let ran = home.expect(code, &[&["restore", "--dump", dump], arguments, more].concat());
            assert!(ran.stderr.contains(said) && ran.stderr.contains("hint:"), "{dump}: {}", ran.stderr);
        }
    }
    for arguments in [&["--into-database", "x"][..], &["--connection", &server], &[]] {
        home.expect(2, &[&["restore", "--dump", "dump.sql"], arguments].concat());
    }
    home.expect(2, &["restore", "shop", "--dump", "dump.sql"]);
    home.expect(2, &["restore", "shop", "--allow-superuser"]);
    let databases = "SELECT count(*) FROM pg_database WHERE datname NOT LIKE 'template%'";
    let n: i64 = enter(&cluster, "postgres").query_one(databases, &[]).unwrap().get(0);
    assert_eq!(n, 2, "nothing was made");
    assert!(!home.path("pwned").exists());

    let load = ["restore", "--dump", "dump.sql", "--connection", &as_superuser, "--into-database", "x"];
    home.expect(0, &[&load[..], &["--allow-superuser"]].concat());
    let granted = "SELECT has_table_privilege('clerk', 'orders', 'SELECT')";
    assert!(enter(&cluster, "x").query_one(granted, &[]).unwrap().get::<_, bool>(0));
}
