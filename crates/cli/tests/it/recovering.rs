//! A cluster brought back to a point in its life, from the command line.

use crate::home::Home;
use crate::postgresql::{enter, start};
use hikae_source::postgresql::{Cluster, Host};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program that servers call, which stands beside ours.
pub fn wal_program() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_hikae")).with_file_name("hikae-wal");
    if !program.exists() {
        let built = Command::new(env!("CARGO")).args(["build", "--package", "hikae-wal"]).status();
        assert!(built.unwrap().success() && program.exists(), "{} is not there", program.display());
    }
    program
}

/// A home that the server's user can pass through, with a base backup of `cluster` as `main`.
fn backed_up(cluster: &Cluster) -> Home {
    let Host::Socket(socket) = &cluster.connection().host else { panic!("not a socket") };
    let home = Home::new();
    std::fs::set_permissions(home.path(""), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::copy(wal_program(), home.path("hikae-wal")).unwrap();
    std::fs::create_dir(home.path("srv")).unwrap();
    home.configure(&format!(
        "[repository.main]\nstore = \"{}\"\nunlock = {{ key_file = \"{}\" }}\n\
         [source.main]\nkind = \"postgresql-cluster\"\nconnection = \"host={} port={} user=postgres dbname=postgres\"\n",
        home.store().display(),
        home.key_file().display(),
        socket.display(),
        cluster.connection().port,
    ));
    home.expect(0, &["init"]);
    home.expect(0, &["backup"]);
    home
}

/// Switches to the next segment, and archives all before.
fn archive(home: &Home, cluster: &Cluster) {
    let last = "SELECT pg_walfile_name(pg_switch_wal() - 1)";
    let last: String = enter(cluster, "postgres").query_one(last, &[]).unwrap().get(0);
    let data = cluster.directory().join("data");
    let names = std::fs::read_dir(data.join("pg_wal")).unwrap().flatten();
    let names = names.map(|entry| entry.file_name().into_string().unwrap());
    for name in names.filter(|name| name.len() == 24 && *name <= last) {
        let mut push = home.program(home.path("hikae-wal").to_str().unwrap());
        push.arg("push").arg("--store").arg(home.store()).arg("--key-file").arg(home.key_file());
        push.arg("--cache").arg(home.path("wal-cache")).arg(format!("pg_wal/{name}"));
        let pushed = push.current_dir(&data).output().unwrap();
        assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
    }
}

/// Keeps BC-34.
#[test]
fn a_cluster_is_recovered_to_a_time_that_is_shown_in_utc_and_here_with_its_neighbours() {
    let Some(cluster) = start() else { return };
    enter(&cluster, "postgres").batch_execute("CREATE TABLE ledger (at timestamptz)").unwrap();
    let home = backed_up(&cluster);
    let mut times = Vec::new();
    for _ in 0..3 {
        let mut client = enter(&cluster, "postgres");
        client.batch_execute("INSERT INTO ledger VALUES (now())").unwrap();
        let now = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US')";
        times.push(client.query_one(now, &[]).unwrap().get::<_, String>(0));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    archive(&home, &cluster);
    // As it is shown, without zeros at its end.
    let (first, wal) = (format!("{}Z", times[0].trim_end_matches('0')), home.path("hikae-wal"));
    let target = home.path("srv/then");
    let program_directory = cluster.program_directory().to_str().unwrap();
    let fixed =
        ["restore", "main", "--wal-program", wal.to_str().unwrap(), "--program-directory", program_directory];
    let fixed = [&fixed[..], &["--target", target.to_str().unwrap()]].concat();
    let call = |more: &[&'static str], time: Option<&str>| -> Vec<String> {
        let time = time.into_iter().flat_map(|time| ["--to-time", time]);
        fixed.iter().copied().chain(more.iter().copied()).chain(time).map(str::to_owned).collect()
    };
    let run = |code: i32, more: &[&'static str], time: Option<&str>| {
        let call = call(more, time);
        home.expect(code, &call.iter().map(String::as_str).collect::<Vec<_>>())
    };

    let ran = run(2, &[], Some(&times[0]));
    assert!(
        ran.stderr.contains("in which zone") && ran.stderr.contains(&format!("{}Z", times[0])),
        "{}",
        ran.stderr
    );
    let ran = run(2, &[], Some("2001-01-01T00:00Z"));
    assert!(ran.stderr.contains("before the oldest base backup"), "{}", ran.stderr);
    let ran = run(2, &[], Some(&format!("{}Z", times[2])));
    assert!(ran.stderr.contains("aim at an earlier time, or at the end of the log"), "{}", ran.stderr);
    run(2, &["--to-end", "--to-immediate"], None);
    run(2, &["--exclusive"], None);
    run(2, &["--to-end", "--date", "2026-11-20"], None);
    assert!(!target.exists());

    let planned = run(0, &["--dry-run"], Some(&first)).stdout;
    for words in [
        "would recover main to",
        &first,
        "+09:00)",
        "last before: commit",
        "first after: commit",
        "along timeline 1",
    ] {
        assert!(planned.contains(words), "`{words}` is not in {planned}");
    }
    assert!(!target.exists());

    let call = call(&["--json"], Some(&first));
    let ran = home.expect(0, &call.iter().map(String::as_str).collect::<Vec<_>>());
    let shown: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let recovered = &shown["result"]["recovered"];
    assert_eq!((&recovered["timeline"], &recovered["new_timeline"]), (&1.into(), &2.into()), "{shown}");
    let reached = recovered["reached_time"].as_str().unwrap().trim_end_matches('Z');
    assert!(reached <= first.trim_end_matches('Z'), "{shown}");
    assert!(target.join("PG_VERSION").exists() && !target.join("recovery.signal").exists());
    assert!(target.join("pg_wal/archive_status/00000002.history.ready").exists());
    let left = std::fs::read_dir(home.path("srv")).unwrap().count();
    assert_eq!(left, 1, "only the new directory");
    // Nothing goes where something is.
    run(12, &["--to-end"], None);
}

/// The state of a base backup, onto a data directory that is there: asked for, and said what came of it.
#[test]
fn a_data_directory_is_put_back_only_when_that_is_confirmed() {
    let Some(cluster) = start() else { return };
    let home = backed_up(&cluster);
    let target = home.path("srv/data");
    let call = ["restore", "main", "--target", target.to_str().unwrap()];
    home.expect(0, &call);
    std::fs::write(target.join("PG_VERSION"), "x").unwrap();
    std::fs::write(target.join("more"), "x").unwrap();
    let delta = [&call[..], &["--delta"]].concat();
    home.expect(12, &call);
    let planned = home.expect(0, &[&delta[..], &["--dry-run"]].concat()).stdout;
    assert!(planned.contains(" onto "), "{planned}");
    let ran = home.expect(2, &delta);
    assert!(
        ran.stderr.contains("what else it holds is lost") && target.join("more").exists(),
        "{}",
        ran.stderr
    );
    let ran = home.expect(0, &[&delta[..], &["--yes"]].concat()).stdout;
    assert!(ran.contains("there already; ") && ran.contains("not in the backup went"), "{ran}");
    assert!(!target.join("more").exists());
    home.expect(2, &[&delta[..], &["--to-end"]].concat());
}

/// Keeps BC-36.
#[test]
fn a_recovery_that_pauses_says_how_to_look_and_how_to_go_on_and_ends_without_a_terminal() {
    let Some(cluster) = start() else { return };
    enter(&cluster, "postgres").batch_execute("CREATE TABLE ledger (at timestamptz)").unwrap();
    let home = backed_up(&cluster);
    enter(&cluster, "postgres").batch_execute("INSERT INTO ledger VALUES (now())").unwrap();
    let now = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    let then: String = enter(&cluster, "postgres").query_one(now, &[]).unwrap().get(0);
    enter(&cluster, "postgres").batch_execute("INSERT INTO ledger VALUES (now())").unwrap();
    archive(&home, &cluster);
    let (wal, target) = (home.path("hikae-wal"), home.path("srv/then"));
    let target = target.to_str().unwrap();
    let call = ["restore", "main", "--to-time", &then, "--pause", "--target", target];
    let programs = ["--wal-program", wal.to_str().unwrap(), "--program-directory"];
    let call = [&call[..], &programs, &[cluster.program_directory().to_str().unwrap()]].concat();

    let planned = home.expect(0, &[&call[..], &["--dry-run"]].concat()).stdout;
    assert!(planned.contains(", and pause there, into"), "{planned}");
    let paused = home.expect(0, &call).stdout;
    let reached = paused.lines().find_map(|line| line.strip_prefix("  reached ")).unwrap().to_owned();
    for words in [
        "a server stands still there",
        "last before: commit",
        "first after: commit",
        "+09:00)",
        "read only:   psql -h ",
        &format!("hikae restore --promote {target}"),
        &format!("hikae restore main --to-time … --target {target}   (it only goes forward)"),
        &format!("hikae restore --discard {target}"),
    ] {
        assert!(paused.contains(words), "`{words}` is not in {paused}");
    }
    let look = paused.lines().find_map(|line| line.split_once("psql -h ")).unwrap().1;
    let words: Vec<&str> = look.split(' ').collect();
    let [socket, "-p", port, "-U", user, "postgres"] = words[..] else { panic!("{look}") };
    let mut config = postgres::Config::new();
    config.host_path(socket).port(port.parse().unwrap()).user(user).dbname("postgres");
    let mut client = config.connect(postgres::NoTls).unwrap();
    assert_eq!(client.query_one("SELECT count(*) FROM ledger", &[]).unwrap().get::<_, i64>(0), 1);

    // The same moment of one table, beside what there is now.
    let host = cluster.connection().conninfo(None);
    let part = ["--table", "ledger", "--connection", &host, "--into-database", "then", "--no-owners"];
    let part = [&call[..4], &programs, &[cluster.program_directory().to_str().unwrap()], &part].concat();
    let scratch = home.path("srv");
    let part = [&part[..], &["--scratch", scratch.to_str().unwrap()]].concat();
    let planned = home.expect(0, &[&part[..], &["--dry-run"]].concat()).stdout;
    assert!(planned.contains("would restore ledger of database postgres, of main at"), "{planned}");
    let taken = home.expect(0, &part).stdout;
    assert!(taken.contains("then on ") && taken.contains("public.ledger: 1 row"), "{taken}");
    let count = "SELECT count(*) FROM ledger";
    assert_eq!(enter(&cluster, "then").query_one(count, &[]).unwrap().get::<_, i64>(0), 1);
    assert_eq!(enter(&cluster, "postgres").query_one(count, &[]).unwrap().get::<_, i64>(0), 2);
    home.expect(2, &["restore", "main", "--table", "ledger"]);

    let opened = home.expect(0, &["restore", "--promote", target]).stdout;
    let place = reached.split([',', ';']).next().unwrap();
    assert!(opened.contains(&format!("reached {place}")) && opened.contains("timeline 2 begins"), "{opened}");
    assert!(home.path("srv/then/PG_VERSION").exists());
    assert_eq!(std::fs::read_dir(home.path("srv")).unwrap().count(), 1, "only the new directory");
    let ran = home.expect(2, &["restore", "--discard", target]);
    assert!(ran.stderr.contains("nothing is paused for"), "{}", ran.stderr);
    home.expect(2, &["restore", "main", "--promote", target]);
}
