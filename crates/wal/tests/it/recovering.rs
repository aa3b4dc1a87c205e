//! A server that recovers with what our program fetches.

use crate::server::Server;
use crate::world::{SYSTEM, World, parse, segment};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};

/// Runs a program of the server as its user.
fn run_as(server: &Server, program: &str, arguments: &[&str]) -> Output {
    let owner = std::fs::metadata(server.cluster.directory()).unwrap();
    let mut command = Command::new(server.cluster.program_directory().join(program));
    command.args(arguments).env("LC_ALL", "C").current_dir("/");
    if rustix::process::geteuid().is_root() {
        command.uid(owner.uid()).gid(owner.gid());
    }
    command.output().unwrap()
}

#[track_caller]
fn must_run(server: &Server, program: &str, arguments: &[&str]) -> String {
    let output = run_as(server, program, arguments);
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn append(path: &Path, lines: &str) {
    let before = std::fs::read_to_string(path).unwrap();
    std::fs::write(path, before + lines).unwrap();
}

#[test]
fn a_base_backup_is_recovered_to_the_end_of_what_was_archived() {
    let Some(mut server) = Server::start(1) else { return };
    let world = World::new();
    server.archive_into(&world, "copies");
    server.write(2);
    let copy = world.path("copy");
    let (copy_text, socket) = (copy.to_str().unwrap(), server_socket(&server));
    must_run(
        &server,
        "pg_basebackup",
        &["-h", &socket, "-U", "postgres", "-D", copy_text, "-X", "none", "--no-sync"],
    );
    server.write(25);
    server.wait_until_archived();
    let rows: i64 = server.client.query_one("SELECT count(*) FROM ledger", &[]).unwrap().get(0);

    let sockets = world.path("sockets");
    std::fs::create_dir(&sockets).unwrap();
    // A copy must allow for what the server was allowed.
    let limits = "SELECT string_agg(name || ' = ' || setting, E'\\n') FROM pg_settings WHERE name IN ('max_connections', \
        'max_worker_processes', 'max_wal_senders', 'max_prepared_transactions', 'max_locks_per_transaction')";
    let limits: String = server.client.query_one(limits, &[]).unwrap().get(0);
    let restore = format!("{} %f %p", world.call("get").join(" "));
    append(
        &copy.join("postgresql.conf"),
        &format!(
            "archive_mode = off\nrestore_command = '{restore}'\nlisten_addresses = ''\nfsync = off\n\
             unix_socket_directories = '{}'\nport = 5433\nrecovery_target_timeline = 'latest'\n{limits}\n",
            sockets.display()
        ),
    );
    // It overrides: the server that is alive archives by this.
    std::fs::write(copy.join("postgresql.auto.conf"), "").unwrap();
    std::fs::write(copy.join("recovery.signal"), "").unwrap();
    std::fs::copy(server.cluster.directory().join("hba.conf"), copy.join("pg_hba.conf")).unwrap();
    world.give_to_owner_of(server.cluster.directory());
    let log = world.path("copy/log");
    let started = run_as(&server, "pg_ctl", &["-D", copy_text, "-w", "-l", log.to_str().unwrap(), "start"]);
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    assert!(started.status.success(), "{} {said}", String::from_utf8_lossy(&started.stderr));
    let socket = sockets.to_str().unwrap();
    let ask = |query: &str| {
        must_run(&server, "psql", &["-h", socket, "-p", "5433", "-U", "postgres", "-Atc", query, "postgres"])
    };
    let mut promoted = String::new();
    for _ in 0..200 {
        promoted = ask("SELECT pg_is_in_recovery()");
        if promoted == "f" {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(promoted, "f", "{}", std::fs::read_to_string(&log).unwrap());
    assert_eq!(ask("SELECT count(*) FROM ledger"), rows.to_string());
    assert_eq!(ask("SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)"), "00000002");
    assert!(!copy.join("hikae-wal-ahead").exists(), "what was fetched ahead is left behind");
    must_run(&server, "pg_ctl", &["-D", copy_text, "-m", "immediate", "stop"]);
}

/// What was received of a segment that is not whole is given too, and looked for again each time: it grows.
#[test]
fn of_a_segment_that_is_not_whole_the_server_has_what_came() {
    let world = World::new();
    let push = |name: &str, mut bytes: &[u8]| {
        world.archive().push(SYSTEM, parse(name), &mut bytes).unwrap();
    };
    let ((whole_name, whole), (name, bytes)) = (segment(1, 1), segment(2, 2));
    push(&whole_name, &whole);
    world.run("get", &[&name, "pg_wal/RECOVERYXLOG"]).expect(1, "");
    for (from, to) in [(0, 8192), (8192, 50_000)] {
        push(&format!("{name}.{from:08X}-{to:08X}"), &bytes[from..to]);
        world.run("get", &[&whole_name, "pg_wal/RECOVERYXLOG"]).expect(0, "");
        world.run("get", &[&name, "pg_wal/RECOVERYXLOG"]).expect(0, "");
        let got = std::fs::read(world.path("data/pg_wal/RECOVERYXLOG")).unwrap();
        assert!(got[..to] == bytes[..to], "up to {to}");
        assert!(got.len() == bytes.len() && got[to..].iter().all(|byte| *byte == 0), "up to {to}");
    }
    world.run("get", &[&segment(3, 3).0, "pg_wal/RECOVERYXLOG"]).expect(1, "");
    let part = world.write_log(&format!("{name}.00000000-00000008"), &bytes[..8]);
    world.run("push", &[&part]).expect(2, "is no file that a server archives");
}

fn server_socket(server: &Server) -> String {
    match &server.cluster.connection().host {
        hikae_source::postgresql::Host::Socket(socket) => socket.to_str().unwrap().to_owned(),
        other => panic!("{other:?}"),
    }
}
