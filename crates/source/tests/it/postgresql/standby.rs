//! A backup from a standby, which can only be read.

use super::*;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

/// A standby of `cluster`, stopped when dropped.
pub(super) struct Standby {
    server: Child,
    pub(super) connection: Connection,
}

impl Drop for Standby {
    fn drop(&mut self) {
        let pid = i32::try_from(self.server.id()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        let _ = self.server.wait();
    }
}

/// A command that runs as the user of the server that owns `directory`.
pub(super) fn as_owner(program: &Path, directory: &Path) -> Command {
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::process::CommandExt as _;
    let owner = std::fs::metadata(directory).unwrap();
    let mut command = Command::new(program);
    if rustix::process::geteuid().is_root() {
        command.uid(owner.uid()).gid(owner.gid());
    }
    command.current_dir("/");
    command
}

pub(super) fn follow(cluster: &Cluster) -> Standby {
    let base = cluster.directory();
    let hba = "local all all trust\nlocal replication all trust\n";
    std::fs::write(base.join("hba.conf"), hba).unwrap();
    enter(cluster.connection(), "postgres", "postgres").batch_execute("SELECT pg_reload_conf()").unwrap();
    let Host::Socket(sockets) = &cluster.connection().host else { panic!("not a socket") };
    let data = base.join("standby");
    let mut copied = false;
    for _ in 0..50 {
        let mut command = as_owner(&cluster.program_directory().join("pg_basebackup"), base);
        command.args(["-R", "-c", "fast", "-X", "stream", "-U", "postgres", "-h"]).arg(sockets);
        let output = command.arg("-D").arg(&data).output().unwrap();
        copied = output.status.success();
        if copied {
            break;
        }
        // The server needs a moment to read its new rules.
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(copied, "pg_basebackup");
    let sockets = base.join("following");
    std::fs::create_dir(&sockets).unwrap();
    give(&sockets, cluster);
    let mut command = as_owner(&cluster.program_directory().join("postgres"), base);
    command.arg("-D").arg(&data).args(["-c", "listen_addresses=", "-c", "port=5432", "-c", "fsync=off"]);
    for (name, file) in [("hba_file", "hba.conf"), ("ident_file", "ident.conf")] {
        command.arg("-c").arg(format!("{name}={}", base.join(file).display()));
    }
    for setting in [
        "max_connections=50",
        "max_prepared_transactions=5",
        "max_locks_per_transaction=1024",
        "max_wal_senders=5",
    ] {
        command.args(["-c", setting]);
    }
    command.arg("-c").arg(format!("unix_socket_directories={}", sockets.display()));
    // It loads a client library to follow with: its own, and not the one of another version that is installed.
    command.env("LD_LIBRARY_PATH", cluster.program_directory().join("../lib"));
    let log = std::fs::File::create(base.join("standby.log")).unwrap();
    let server = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    let connection = Connection { host: Host::Socket(sockets), ..cluster.connection().clone() };
    Standby { server, connection }
}

pub(super) fn wait_for(standby: &Standby, database: &str, sql: &str) {
    let Host::Socket(directory) = &standby.connection.host else { panic!("not a socket") };
    let mut config = postgres::Config::new();
    config.host_path(directory).port(standby.connection.port).user("postgres").dbname(database);
    for _ in 0..400 {
        let found = config.connect(postgres::NoTls).and_then(|mut client| client.query_one(sql, &[]));
        if found.is_ok_and(|row| row.get(0)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("the standby never came to {sql}");
}

#[test]
fn a_standby_is_backed_up_and_what_it_has_not_is_said() {
    let cluster = start(&[("wal_level", "replica"), ("max_wal_senders", "5")]);
    if !cluster.program_directory().join("pg_basebackup").exists() {
        return hikae_testkit::not_run("this PostgreSQL came without pg_basebackup");
    }
    let mut admin = enter(cluster.connection(), "postgres", "postgres");
    admin.batch_execute("CREATE DATABASE shop").unwrap();
    let mut shop = enter(cluster.connection(), "postgres", "shop");
    shop.batch_execute(
        "CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i; CREATE SEQUENCE s; SELECT nextval('s');
         CREATE UNLOGGED TABLE u AS SELECT 1 AS a; SELECT lo_from_bytea(730001, 'abc')",
    )
    .unwrap();
    let standby = follow(&cluster);
    wait_for(&standby, "shop", "SELECT count(*) = 20000 AND pg_is_in_recovery() FROM t");
    let Host::Socket(directory) = &standby.connection.host else { panic!("not a socket") };
    let settings = PostgresqlSettings {
        allow_superuser: true,
        program_directory: Some(cluster.program_directory().to_owned()),
        part_bytes: 200_000,
        ..PostgresqlSettings::of(format!("host={} user=postgres dbname=shop", directory.display()))
    };
    let kept = back_up(&source(settings)).unwrap();
    assert_eq!((kept.rows("public", "t"), kept.rows("public", "u")), (Some(20000), None));
    assert!(kept.manifest().not_covered.iter().any(|gap| gap.what == "public.u"));
    assert_passed(&drill_it(&kept).unwrap());
}
