//! A real server beside its base backups: its log received, its window shown, itself set up and looked at.

use crate::home::{Home, Ran};
use crate::postgresql::enter;
use hikae_model::Lsn;
use hikae_source::postgresql::{Cluster, ClusterOptions, Environment, Host};
use hikae_testkit::{named_postgresql, not_run, system_cx};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

/// Whom nobody here is.
const RECIPIENT: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

/// How long anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server with segments of 1 MiB, and a home whose configuration has it as the source `main`.
struct Machine {
    home: Home,
    cluster: Cluster,
}

impl Machine {
    /// Nothing if there is no PostgreSQL here.
    fn start(settings: &[(&str, &str)]) -> Option<Self> {
        let scratch = PathBuf::from("/tmp");
        let needed = [("wal_level", "replica"), ("max_wal_senders", "5"), ("full_page_writes", "on")];
        let settings = needed.iter().chain(settings);
        let options = ClusterOptions {
            major: 13,
            program_directory: named_postgresql(),
            settings: settings.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            initdb: vec!["--wal-segsize=1".to_owned()],
            ..ClusterOptions::default()
        };
        let cluster = Cluster::start(&options, &scratch, &Environment::bare(scratch.clone()), &system_cx());
        let cluster = match cluster {
            Ok(cluster) => cluster,
            Err(error) => {
                not_run(&format!("no PostgreSQL server can be started: {error}"));
                return None;
            }
        };
        let machine = Self { home: Home::new(), cluster };
        machine.add_to_hba("local replication all trust");
        machine.configure(&machine.conninfo("postgres"));
        machine.home.expect(0, &["init"]);
        Some(machine)
    }

    fn configure(&self, connection: &str) {
        let root = self.home.path("");
        let root = root.display();
        self.home.configure(&format!(
            "[repository.main]\nstore = \"{root}data/repo\"\nunlock = {{ key_file = \"{root}config/main.key\" }}\n\n\
             [source.main]\nkind = \"postgresql-cluster\"\nconnection = {connection:?}\n"
        ));
    }

    fn conninfo(&self, role: &str) -> String {
        let Host::Socket(socket) = &self.cluster.connection().host else { panic!("not a socket") };
        let port = self.cluster.connection().port;
        format!("host={} port={port} user={role} dbname=postgres", socket.display())
    }

    /// Puts a line before the others.
    fn add_to_hba(&self, line: &str) {
        let hba = self.cluster.directory().join("hba.conf");
        let lines = std::fs::read_to_string(&hba).unwrap();
        std::fs::write(&hba, format!("{line}\n{lines}")).unwrap();
        self.sql("SELECT pg_reload_conf()");
    }

    #[track_caller]
    fn sql(&self, sql: &str) {
        let done = enter(&self.cluster, "postgres").batch_execute(sql);
        done.unwrap_or_else(|error| panic!("{error:?} in {sql}"));
    }

    #[track_caller]
    fn text(&self, sql: &str) -> Option<String> {
        let row = enter(&self.cluster, "postgres").query_one(sql, &[]);
        row.unwrap_or_else(|error| panic!("{error:?} in {sql}")).get(0)
    }

    /// Writes `n` segments with something in each, and a little of one more.
    fn write(&self, n: u32) {
        self.sql("CREATE TABLE IF NOT EXISTS ledger (n bigserial, what text)");
        for _ in 0..n {
            self.sql("INSERT INTO ledger (what) SELECT md5(random()::text) FROM generate_series(1, 50)");
            self.sql("SELECT pg_switch_wal()");
        }
        self.sql("INSERT INTO ledger (what) VALUES ('last')");
    }

    fn receive(&self, more: &[&str]) -> Receiving {
        let mut command = self.home.command(&[&["pg", "receive", "main", "--json"], more].concat());
        Receiving(Some(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()))
    }

    /// Objects of the log in the repository: their files, in order of their names.
    fn log(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut directories = vec![self.home.path("data/repo/wal")];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() { directories.push(path) } else { found.push(path) }
            }
        }
        found.sort_by_key(|path| path.file_name().map(ToOwned::to_owned));
        found
    }

    /// Waits until the slot has nothing more to give than the segment under way.
    #[track_caller]
    fn wait_until_received(&self) {
        let all = "SELECT div(restart_lsn - '0/0', 1048576) = div(pg_current_wal_lsn() - '0/0', 1048576)
                   FROM pg_replication_slots WHERE slot_name = 'hikae_main'";
        let is_all = || {
            let rows = enter(&self.cluster, "postgres").query(all, &[]).unwrap();
            rows.first().and_then(|row| row.get::<_, Option<bool>>(0)).unwrap_or(false)
        };
        wait_until("everything came", is_all);
    }
}

#[track_caller]
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let pause = Duration::from_millis(50);
    for _ in 0..PATIENCE.as_millis() / pause.as_millis() {
        if holds() {
            return;
        }
        std::thread::sleep(pause);
    }
    panic!("it never was so: {what}");
}

/// `hikae pg receive` under way. Killed when dropped.
struct Receiving(Option<Child>);

impl Receiving {
    fn tell(&self, signal: rustix::process::Signal) {
        let pid = self.0.as_ref().unwrap().id();
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
    }

    /// Stops it as a service manager does.
    fn stop(mut self) -> Ran {
        self.tell(rustix::process::Signal::TERM);
        Ran::of(&self.0.take().unwrap().wait_with_output().unwrap())
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            drop((child.kill(), child.wait()));
        }
    }
}

fn json(ran: &Ran) -> serde_json::Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {} {}", ran.stdout, ran.stderr))
}

/// Keeps EC-10, BC-1, BC-25.
#[test]
fn a_server_is_received_and_its_window_says_what_came_back_and_what_is_missing() {
    let Some(machine) = Machine::start(&[]) else { return };
    let home = &machine.home;
    let ran = home.expect(2, &["pg", "window"]);
    assert!(ran.stderr.contains("there is no base backup of main"), "{}", ran.stderr);
    let ran = home.expect(6, &["pg", "receive", "main"]);
    assert!(ran.stderr.contains("--create-slot"), "{}", ran.stderr);

    let receiving = machine.receive(&["--create-slot"]);
    machine.write(2);
    machine.wait_until_received();
    home.expect(0, &["backup"]);
    machine.write(4);
    machine.wait_until_received();
    let ran = receiving.stop();
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let told = json(&ran)["result"].clone();
    assert!(told["n_stored"].as_u64() >= Some(6) && told["made_slot"] == true, "{told}");
    assert_eq!((told["pending_bytes"].as_u64(), &told["received"]), (Some(0), &told["durable"]), "{told}");
    assert!(told["n_parts"].as_u64() > Some(0), "{told}");

    let shown = home.expect(0, &["pg", "window", "main"]).stdout;
    assert!(shown.contains(" UTC") && shown.contains("+09:00"), "{shown}");
    let window = &home.json(&["pg", "window"])["result"][0]["window"];
    let interval = &window["intervals"][0];
    let (from, to) = (interval["from_moment"].as_str().unwrap(), interval["to_moment"].as_str().unwrap());
    assert!(from < to, "{window}");
    assert_eq!(window["n_log_files"].as_u64(), Some(machine.log().len() as u64));
    assert_eq!(interval["to"], told["durable"], "what is reachable is what is durable");

    // Whatever comes again is known again, and what came meanwhile comes too.
    machine.write(1);
    let receiving = machine.receive(&[]);
    machine.wait_until_received();
    assert_eq!(json(&receiving.stop())["result"]["n_stored"], 1);

    let log = machine.log();
    std::fs::remove_file(&log[log.len() - 2]).unwrap();
    let ran = home.expect(13, &["pg", "window"]);
    let name = log[log.len() - 2].file_name().unwrap().to_str().unwrap().to_ascii_uppercase();
    assert!(ran.stdout.contains(&format!("gap: segment {name} ")), "the gap is not shown: {}", ran.stdout);
    assert!(ran.stdout.contains("nothing behind them can be reached"), "{}", ran.stdout);
    assert!(ran.stdout.contains("take a base backup now"), "{}", ran.stdout);
    let told = home.run(&["doctor"]).stdout;
    assert!(told.contains("window of main") && told.contains("gaps in its log: 1 missing"), "{told}");
    // The next base backup leads on behind it, and the gap stays shown.
    home.expect(0, &["backup"]);
    let receiving = machine.receive(&[]);
    machine.write(1);
    machine.wait_until_received();
    receiving.stop();
    let ran = home.expect(13, &["pg", "window"]);
    assert!(ran.stdout.contains("up to the base backup of "), "{}", ran.stdout);
}

/// Keeps BC-65.
#[test]
fn a_point_that_was_named_before_a_change_is_kept_when_its_command_ends() {
    let Some(machine) = Machine::start(&[]) else { return };
    let home = &machine.home;
    let no_base = home.expect(2, &["pg", "restore-point", "main", "before v3"]).stderr;
    assert!(no_base.contains("there is no base backup of main"), "{no_base}");
    home.expect(0, &["backup"]);
    machine.write(1);
    // Nobody keeps the log: the point is made, and is not called kept.
    let late = home.expect(13, &["pg", "restore-point", "main", "too early", "--patience", "0"]).stdout;
    assert!(late.contains("NOT KEPT YET") && late.contains("pg window"), "{late}");

    let receiving = machine.receive(&["--create-slot"]);
    machine.wait_until_received();
    // What the log from before the slot held is gone, so a base backup begins anew.
    home.expect(0, &["backup"]);
    let told = home.expect(0, &["pg", "restore-point", "main", "before v3's"]).stdout;
    assert!(
        told.contains("kept  main: `before v3's` at ") && told.contains("no drill has restored it yet"),
        "{told}"
    );
    let back = "hikae restore main --to-name 'before v3'\\''s' --target DIR";
    assert!(told.contains(back), "{told}");
    receiving.stop();
    let at: Lsn = told.split(" at ").nth(1).and_then(|rest| rest.split(',').next()).unwrap().parse().unwrap();
    let window = home.json(&["pg", "window"])["result"][0]["window"].clone();
    let to = window["intervals"].as_array().unwrap().last().unwrap()["to"].as_str().unwrap();
    assert!(to.parse::<Lsn>().unwrap() >= at, "the point that was called kept cannot be reached: {window}");

    let taken = home.expect(2, &["pg", "restore-point", "main", "before v3's", "--patience", "0"]);
    assert!(taken.stderr.contains("already"), "{}", taken.stderr);
    machine.sql("CREATE ROLE plain LOGIN");
    let plain = machine.conninfo("plain");
    let refused = home.expect(7, &["pg", "restore-point", "main", "another", "--admin", &plain]).stderr;
    assert!(refused.contains("GRANT EXECUTE ON FUNCTION pg_create_restore_point(text)"), "{refused}");
}

/// Keeps BC-24.
#[test]
fn a_prune_says_what_log_goes_and_from_when_on_a_server_can_come_back() {
    let Some(machine) = Machine::start(&[]) else { return };
    let home = &machine.home;
    let receiving = machine.receive(&["--create-slot"]);
    machine.write(2);
    machine.wait_until_received();
    let told = home.expect(0, &["prune", "--even-without-snapshots"]).stdout;
    assert!(told.contains("All of the log of system") && told.contains("no base backup"), "{told}");
    home.expect(0, &["backup"]);
    machine.write(2);
    machine.wait_until_received();
    receiving.stop();

    let planned = home.json(&["prune", "--dry-run"])["result"]["log"]["clusters"][0]["goes"].clone();
    let n_before = planned["n_files"].as_u64().unwrap();
    assert!(n_before >= 2 && n_before + 2 < machine.log().len() as u64, "{planned}");
    let told = home.expect(0, &["prune", "--dry-run"]).stdout;
    let goes = format!("would go: {n_before} of {} files, ", machine.log().len());
    assert!(told.contains("The log of main (system ") && told.contains(&goes), "{told}");
    assert!(told.contains("What leads on from the base backup of 20"), "{told}");
    let told = home.json(&["prune"])["result"].clone();
    let log = &told["log"]["clusters"][0]["goes"];
    assert_eq!((log, told["removed"]["n_log_files"].as_u64()), (&planned, Some(0)), "{told}");
    let shown = home.expect(0, &["pg", "window"]).stdout;
    assert!(shown.contains(&format!("{n_before} files of it, ")), "{shown}");
    assert!(shown.contains("lie before what is kept and go with a prune after "), "{shown}");
    let told = home.expect(0, &["prune", "--soft", "0d"]).stdout;
    assert!(!told.contains("The log of main"), "it has its floor already: {told}");
    assert_eq!(machine.log().len(), told_files(&shown), "nothing goes before its time");
    let whole = home.json(&["verify"])["result"].clone();
    assert_eq!(whole["problems"].as_array().map(Vec::len), Some(0), "{whole}");
}

/// How many files of log a window speaks of.
fn told_files(shown: &str) -> usize {
    let line = shown.lines().find(|line| line.contains(" of log, ")).unwrap();
    line.split(' ').next().unwrap().parse().unwrap()
}

/// A host that only writes opens no log, and knows all the same from where to where it goes.
#[test]
fn a_host_that_only_writes_receives_and_shows_its_window_without_the_last_moment() {
    let Some(machine) = Machine::start(&[]) else { return };
    let home = &machine.home;
    std::fs::remove_dir_all(home.path("data/repo")).unwrap();
    std::fs::remove_file(home.path("config/main.key")).unwrap();
    home.expect(0, &["init", "--write-only", "--recipient", RECIPIENT]);
    let receiving = machine.receive(&["--create-slot"]);
    machine.write(1);
    machine.wait_until_received();
    home.expect(0, &["backup"]);
    machine.write(2);
    machine.wait_until_received();
    assert_eq!(receiving.stop().code, Some(0));
    let shown = home.expect(0, &["pg", "window"]).stdout;
    assert!(shown.contains("not known") && shown.contains("Give --identity"), "{shown}");
    let window = &home.json(&["pg", "window"])["result"][0]["window"];
    assert!(window["intervals"][0]["to_moment"].is_null() && window["sealed"] == true, "{window}");
}

/// Keeps EC-10.
#[test]
fn the_server_keeps_what_is_not_durable_here() {
    let Some(machine) = Machine::start(&[]) else { return };
    let receiving = machine.receive(&["--create-slot"]);
    machine.write(3);
    machine.wait_until_received();
    let slot = |what: &str| {
        let sql = format!("SELECT ({what})::text FROM pg_replication_slots WHERE slot_name = 'hikae_main'");
        machine.text(&sql).unwrap()
    };
    machine.sql("ALTER DATABASE postgres SET synchronous_commit = on");
    for _ in 0..20 {
        machine.sql("INSERT INTO ledger (what) VALUES ('a little')");
        let written = machine.text("SELECT pg_current_wal_flush_lsn()::text").unwrap();
        wait_until("it is durable", || {
            machine.text("SELECT flush_lsn::text FROM pg_stat_replication").as_deref() >= Some(&written)
        });
        // What the server may drop is here, under its name.
        let at: u64 = slot("restart_lsn - '0/0'").parse().unwrap();
        let segment = slot("pg_walfile_name(restart_lsn)").to_ascii_lowercase();
        let log = machine.log();
        let mut names = log.iter().map(|path| path.file_name().unwrap().to_str().unwrap());
        let end = format!("-{:08x}", at % (1 << 20));
        let is_kept = |name: &str| name.starts_with(&segment) && (name.len() == 24 || name[33..] >= *end);
        assert!(
            at.is_multiple_of(1 << 20) || names.any(is_kept),
            "{at:x} is not kept, the slot went on: {log:?}"
        );
    }
    receiving.stop();
}

/// A server waits for who says that something is flushed, and would wait for ever for the rest of a segment.
#[test]
fn a_server_that_is_shut_down_does_not_wait_for_the_end_of_a_segment() {
    let Some(machine) = Machine::start(&[]) else { return };
    let receiving = machine.receive(&["--create-slot", "--patience", "1"]);
    machine.write(3);
    machine.wait_until_received();
    let pid_file = machine.cluster.directory().join("data/postmaster.pid");
    let pid: i32 = std::fs::read_to_string(&pid_file).unwrap().lines().next().unwrap().parse().unwrap();
    // Fast shutdown.
    let server = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(server, rustix::process::Signal::INT).unwrap();
    wait_until("the server is down, and did not wait for us", || !pid_file.exists());
    let mut receiving = receiving;
    let ran = Ran::of(&receiving.0.take().unwrap().wait_with_output().unwrap());
    assert_eq!(ran.code, Some(6), "{} {}", ran.stdout, ran.stderr);
}

/// Keeps E-7.
#[test]
fn another_cluster_is_not_received_into_the_log_of_the_first() {
    let Some(machine) = Machine::start(&[]) else { return };
    let Some(other) = Machine::start(&[]) else { return };
    machine.home.expect(0, &["backup"]);
    machine.configure(&other.conninfo("postgres"));
    let ran = machine.home.expect(12, &["pg", "receive", "main", "--create-slot"]);
    assert!(ran.stderr.contains("is followed"), "{}", ran.stderr);
    assert_eq!(machine.log(), Vec::<PathBuf>::new());
    let n = other.text("SELECT count(*)::text FROM pg_replication_slots");
    assert_eq!(n.as_deref(), Some("0"), "no slot is left at a server that is not ours");
}

/// Keeps BC-20, BC-21, BC-22.
#[test]
fn doctor_names_each_way_in_which_a_log_is_lost() {
    let machine = Machine::start(&[("archive_mode", "on"), ("listen_addresses", "127.0.0.91")]);
    let Some(machine) = machine else { return };
    let told = || machine.home.run(&["doctor"]).stdout;
    let archive_with = |command: &str| {
        machine.sql(&format!("ALTER SYSTEM SET archive_command = '{command}'"));
        machine.sql("SELECT pg_reload_conf()");
    };
    let says = |what: &str| {
        let line = |told: &str| told.lines().any(|line| line.contains(what) && !line.contains("OK "));
        wait_until(what, || line(&told()));
    };
    says("FAIL  log of main");
    says("archive_command is empty");
    says("archive_timeout is 0");
    says("line 1 of pg_hba.conf (local for postgres) lets in whoever says to be it");
    archive_with("/bin/true");
    says("the log is thrown away");
    archive_with("cp %p /nowhere/%f");
    machine.write(1);
    says("archive_command is not ours, it begins with `cp`");
    says("archiving fails: 0000");
    let status = machine.cluster.directory().join("data/pg_wal/archive_status");
    let is_ready = |path: &PathBuf| path.extension().is_some_and(|end| end == "ready");
    let mut files = std::fs::read_dir(status).unwrap().map(|entry| entry.unwrap().path());
    let ready = files.find(is_ready).expect("a file that waits");
    let old = std::time::SystemTime::from(system_cx().now()) - Duration::from_secs(3 * 3600);
    std::fs::File::options().write(true).open(ready).unwrap().set_modified(old).unwrap();
    says("files wait to be archived, the oldest for 3 h");

    machine.sql("SELECT pg_create_physical_replication_slot('hikae_main', true)");
    says("nobody receives the log");
    says("nothing bounds the WAL that it keeps");

    // Over TCP, with a password that goes as md5.
    machine.sql("SET password_encryption = md5; CREATE ROLE seen LOGIN SUPERUSER PASSWORD 'secret'");
    machine.add_to_hba("host all seen 127.0.0.0/8 md5");
    machine.home.write_private(".pgpass", "*:*:*:*:secret\n");
    let port = machine.cluster.connection().port;
    machine.configure(&format!("host=127.0.0.91 port={port} user=seen dbname=postgres"));
    says("line 1 of pg_hba.conf (host for seen) proves it by md5");
    says("what is sent is not encrypted");

    // What is well is said to be so, and nothing else.
    archive_with("/opt/hikae-wal push %p");
    let told = told();
    assert!(!told.contains("is not ours") && !told.contains("thrown away"), "{told}");
}

/// A server that nobody gave settings to on its command line, with a directory that its user can reach.
struct Plain {
    programs: PathBuf,
    /// Of the server, its repository and our programs. The name would not survive a shell.
    root: PathBuf,
    owner: (u32, u32),
    _home: tempfile::TempDir,
}

impl Plain {
    /// Begins one with the programs and the user of a throwaway server.
    fn beside(cluster: &Cluster) -> Self {
        let like = std::fs::metadata(cluster.directory().join("data")).unwrap();
        let home = tempfile::Builder::new().prefix("hikae-setup-").tempdir_in("/tmp").unwrap();
        let root = home.path().join("it's 100% \"so\" $HOME `x` \\");
        std::fs::create_dir(&root).unwrap();
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let owner = (like.uid(), like.gid());
        std::os::unix::fs::chown(&root, Some(owner.0), Some(owner.1)).unwrap();
        let plain = Self { programs: cluster.program_directory().to_owned(), root, owner, _home: home };
        plain.run("initdb", &["--auth=trust", "--no-sync", "--wal-segsize=1", "-U", "postgres"]);
        // A socket's path is bounded and goes through the options of pg_ctl.
        let socket = plain._home.path().display().to_string();
        let more = format!("unix_socket_directories = '{socket}'\nlisten_addresses = ''\nfsync = off\n");
        let file = plain.root.join("data/postgresql.conf");
        std::fs::write(&file, std::fs::read_to_string(&file).unwrap() + &more).unwrap();
        std::fs::set_permissions(plain._home.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        plain.run("pg_ctl", &["start", "-w", "-l", "server.log"]);
        plain
    }

    #[track_caller]
    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = std::process::Command::new(self.programs.join(program));
        command.args(arguments).env("PGDATA", self.root.join("data")).current_dir(&self.root);
        if rustix::process::geteuid().is_root() {
            command.uid(self.owner.0).gid(self.owner.1);
        }
        // The server inherits them, and would hold a pipe open.
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(status.unwrap().success(), "{program} {arguments:?}");
    }

    fn conninfo(&self, role: &str) -> String {
        format!("host={} user={role} dbname=postgres", self._home.path().display())
    }

    fn sql(&self, sql: &str) -> Vec<postgres::Row> {
        let mut config = postgres::Config::new();
        let mut client = config
            .host_path(self._home.path())
            .user("postgres")
            .dbname("postgres")
            .connect(postgres::NoTls)
            .unwrap();
        client.query(sql, &[]).unwrap_or_else(|error| panic!("{error:?} in {sql}"))
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.run("pg_ctl", &["stop", "-m", "immediate"]);
    }
}

/// Keeps BC-20, BC-22.
#[test]
fn a_server_is_set_up_and_calls_the_archiver_with_every_path_as_it_is() {
    let Some(machine) = Machine::start(&[]) else { return };
    let plain = Plain::beside(&machine.cluster);
    let root = &plain.root;
    // Our own program, beside an archiver that writes down how it was called.
    let program = root.join("hikae");
    std::fs::copy(env!("CARGO_BIN_EXE_hikae"), &program).unwrap();
    let archiver = root.join("hikae-wal");
    std::fs::write(&archiver, "#!/bin/sh\nprintf '%s\\n' \"$@\" >> \"${0%/*}/data/called\"\n").unwrap();
    std::fs::set_permissions(&archiver, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = |name: &str| root.join(name).display().to_string();
    let (store, key, cache) = (path("re po"), path("key's"), path("ca che"));
    machine.home.configure(&format!(
        "[repository.main]\nstore = {store:?}\nunlock = {{ key_file = {key:?} }}\n\n\
         [source.main]\nkind = \"postgresql-cluster\"\nconnection = {:?}\n",
        plain.conninfo(r"'it\'s'")
    ));
    let before = machine.home.run(&["pg", "setup", "main"]);
    assert!(before.stderr.contains("give --admin"), "{}", before.stderr);
    let admin = plain.conninfo("postgres");
    let run = |more: &[&str]| {
        let mut command = machine.home.program(program.to_str().unwrap());
        command
            .args(["pg", "setup", "main", "--by", "both", "--wal-cache", &cache, "--admin", &admin])
            .args(more);
        let ran = Ran::of(&command.output().unwrap());
        assert_eq!(ran.code, Some(0), "{} {}", ran.stdout, ran.stderr);
        ran
    };
    let shown = run(&[]).stdout;
    for part in [
        "CREATE ROLE \"it's\" LOGIN REPLICATION;",
        "GRANT EXECUTE ON FUNCTION",
        "ALTER SYSTEM SET archive_mode = 'on';",
        "ALTER SYSTEM SET archive_timeout = '60s';",
        "pg_create_physical_replication_slot('hikae_main', true)",
        "\\password \"it's\"",
        "local  postgres,replication  \"it's\"  scram-sha-256",
        "Restart the server after that.",
    ] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    assert!(plain.sql("SELECT 1 FROM pg_roles WHERE rolname = 'it''s'").is_empty(), "nothing was asked for");

    assert!(json(&run(&["--apply", "--json"]))["result"]["applied"] == true);
    plain.run("pg_ctl", &["restart", "-w", "-l", "server.log"]);
    let left = json(&run(&["--json"]))["result"].clone();
    assert_eq!(left["steps"], serde_json::json!([]), "{left}");
    plain.sql("SELECT pg_create_restore_point('a record to archive')");
    plain.sql("SELECT pg_switch_wal()");
    let called = root.join("data/called");
    wait_until("the archiver was called", || called.exists());
    let words = std::fs::read_to_string(&called).unwrap();
    let words: Vec<&str> = words.lines().take(8).collect();
    let expected = ["push", "--store", &store, "--key-file", &key, "--cache", &cache];
    assert_eq!(words[..7], expected);
    assert!(words[7].starts_with("pg_wal/0000"), "{words:?}");

    // What another has set up stays, unless it is said.
    plain.sql("ALTER SYSTEM SET archive_command = 'cp %p /elsewhere/%f'");
    plain.sql("SELECT pg_reload_conf()");
    let others = || plain.sql("SHOW archive_command")[0].get::<_, String>(0).starts_with("cp ");
    wait_until("the server has read it", others);
    let left = json(&run(&["--apply", "--json"]))["result"].clone();
    assert_eq!(left["steps"], serde_json::json!([]), "another's archiving was replaced unasked");
    assert!(left["by_hand"].to_string().contains("another archive_command is set"), "{left}");
    run(&["--apply", "--replace"]);
    wait_until("it was replaced", || !others());

    // A role that has less than it needs is given the rest, and no more.
    plain.sql("ALTER ROLE \"it's\" NOREPLICATION");
    let left = json(&run(&["--json"]))["result"]["steps"].clone();
    assert_eq!(left[0]["sql"], serde_json::json!(["ALTER ROLE \"it's\" REPLICATION"]), "{left}");
}
