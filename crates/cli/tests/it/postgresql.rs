//! A real server: protected, drilled, and swapped back by name.

use crate::home::Home;
use crate::secrets::leaks_to_children;
use hikae_source::postgresql::{Cluster, ClusterOptions, Environment, Host};
use hikae_testkit::system_cx;
use std::path::{Path, PathBuf};

fn start() -> Option<Cluster> {
    // A directory that the server's user can reach, whoever runs the tests.
    let scratch = PathBuf::from("/tmp");
    let environment = Environment::bare(scratch.clone());
    let options = ClusterOptions { major: 13, ..ClusterOptions::default() };
    match Cluster::start(&options, &scratch, &environment, &system_cx()) {
        Ok(cluster) => Some(cluster),
        Err(error) => {
            hikae_testkit::not_run(&format!("no PostgreSQL server can be started: {error}"));
            None
        }
    }
}

fn enter(cluster: &Cluster, database: &str) -> postgres::Client {
    let Host::Socket(socket) = &cluster.connection().host else { panic!("not a socket") };
    let mut config = postgres::Config::new();
    config.host_path(socket).port(cluster.connection().port).user("postgres").dbname(database);
    if let Some(password) = &cluster.connection().password {
        config.password(password.reveal());
    }
    config.connect(postgres::NoTls).unwrap()
}

fn address(cluster: &Cluster, socket: &Path, role: &str, database: &str) -> String {
    let host = socket.display().to_string().replace('/', "%2F");
    format!("postgresql://{role}@{host}:{}/{database}", cluster.connection().port)
}

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

    home.expect(0, &["restore", "shop", "--connection", &admin, "--into-database", "beside"]);
    let rows: i64 = enter(&cluster, "beside").query_one("SELECT count(*) FROM orders", &[]).unwrap().get(0);
    assert_eq!(rows, 500);
}
