//! Exports, opened with the ordinary programs that anybody has.

use crate::home::{Home, Ran};
use crate::postgresql::{address, enter, start};
use hikae_source::postgresql::Host;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A home with a tree, a database, a job and exports, and the folders that those go into.
fn home(exports: &str) -> Home {
    let home = Home::new();
    home.write("srv/app/data/a.txt", "a letter");
    home.write("srv/app/data/naïve/ü.txt", "another");
    home.write(&format!("srv/app/data/{}/x", "long".repeat(40)), "deep");
    home.write("etc/nginx/mirai.conf", "server {}");
    home.write("etc/systemd/mirai.service", "[Unit]");
    home.write_private("srv/app/.env", "TOKEN=of-the-env");
    home.write("srv/mail/cur/1", "From: a");
    home.write("srv/mail/cur/2", "From: b");
    symlink("a.txt", home.path("srv/app/data/link")).unwrap();
    fs::hard_link(home.path("srv/app/data/a.txt"), home.path("srv/app/data/again.txt")).unwrap();
    fs::create_dir_all(home.path("out")).unwrap();
    let database = rusqlite::Connection::open(home.path("itsm.db")).unwrap();
    database.execute_batch("CREATE TABLE ticket (text); INSERT INTO ticket VALUES ('broken')").unwrap();
    let at = |name: &str| home.path(name).display().to_string();
    home.configure(&format!(
        "[repository.main]\nstore = '{}'\nunlock = {{ key_file = '{}' }}\n\
         [source.app]\nkind = 'files'\ninclude = ['{}', {{ path = '{}', secret = true }}, '{}']\n\
         [source.mail]\nkind = 'files'\ninclude = ['{}']\n\
         [source.itsm]\nkind = 'sqlite'\npath = '{}'\n\
         {}",
        at("data/hikae/main"),
        at("config/hikae/main.key"),
        at("srv/app/data"),
        at("srv/app/.env"),
        at("etc"),
        at("srv/mail"),
        at("itsm.db"),
        exports.replace("HOME", &home.path("").display().to_string()),
    ));
    home
}

fn ready(exports: &str) -> Home {
    let home = home(exports);
    home.expect(0, &["init"]);
    home
}

/// The one file below `out` whose name matches, `*` standing for anything.
#[track_caller]
fn the(home: &Home, pattern: &str) -> PathBuf {
    let (start, end) = pattern.split_once('*').unwrap();
    let names = everything(&home.path("out"));
    let found: Vec<_> = names.iter().filter(|name| name.starts_with(start) && name.ends_with(end)).collect();
    assert_eq!(found.len(), 1, "{pattern} in {names:?}");
    home.path("out").join(found[0])
}

/// The names of all files below a folder.
pub fn everything(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut left = vec![folder.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => left.push(entry.path()),
                false => names.push(entry.path().strip_prefix(folder).unwrap().display().to_string()),
            }
        }
    }
    names.sort();
    names
}

/// Runs an ordinary program, which must end well. Gives what it printed.
#[track_caller]
pub fn run(folder: &Path, program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).current_dir(folder).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    output.stdout
}

/// Sees that `sha256sum` finds the file as its sidecar says.
#[track_caller]
pub fn see_sums(file: &Path) {
    let name = format!("{}.sha256", file.file_name().unwrap().to_str().unwrap());
    run(file.parent().unwrap(), "sha256sum", &["--check", "--strict", "--quiet", &name]);
}

const ALL: &str = "[export.data]\nsources = ['app']\nto = 'HOMEout'\nname = 'appdata/data_{time:%Y%m%d_%H%M%S}.tar.gz'\n\
     paths = ['HOMEsrv/app/data']\n\
     [export.nginx]\nsources = ['app']\nto = 'HOMEout'\nname = 'nginx_{time}.conf'\npaths = ['HOMEetc/nginx/mirai.conf']\n\
     mode = '0640'\n\
     [export.systemd]\nsources = ['app']\nto = 'HOMEout'\nname = 'systemd_{time}.service'\n\
     paths = ['HOMEetc/systemd/mirai.service']\nmanifest = 'manifest_{time:%Y%m%d_%H%M%S}'\n\
     [export.itsm]\nsources = ['itsm']\nto = 'HOMEout'\ntime_zone = 'Asia/Tokyo'\n\
     name = '{purpose}/itsm_nexus_{purpose}_{time:%Y%m%d_%H%M%S}.db.gz'\n\
     [export.mail]\nsources = ['mail']\nto = 'HOMEout'\nname = 'daily/mail/{time:%Y-%m-%d}/'\npaths = ['HOMEsrv/mail']\n\
     [job.all]\nexports = ['data', 'nginx', 'systemd', 'itsm', 'mail']\n";

/// What the organisations keep in files of their own, by one job.
///
/// Keeps MK-22, MK-25, MK-26, MK-20, IN-8, IN-11, IN-14, IN-16, IN-20, IN-25, IN-50, RS-47.
#[test]
fn ordinary_programs_open_what_a_job_exports() {
    let home = ready(ALL);
    home.expect(0, &["backup", "--job", "all", "--type", "weekly"]);
    // A tree in one file, with links, long and foreign names and times.
    let data = the(&home, "appdata/data_*.tar.gz");
    see_sums(&data);
    let back = home.path("back");
    fs::create_dir_all(&back).unwrap();
    run(&back, "tar", &["--extract", "--gzip", "--file", data.to_str().unwrap()]);
    let (was, is) =
        (home.path("srv/app/data"), back.join(home.path("srv/app/data").strip_prefix("/").unwrap()));
    run(&back, "diff", &["--recursive", "--no-dereference", was.to_str().unwrap(), is.to_str().unwrap()]);
    assert_eq!(fs::read_link(is.join("link")).unwrap(), Path::new("a.txt"));
    let at = |path: PathBuf| {
        fs::metadata(path).map(|meta| (meta.mtime(), meta.mtime_nsec(), meta.mode())).unwrap()
    };
    assert_eq!(at(was.join("a.txt")), at(is.join("a.txt")));
    let inode = |name: &str| fs::metadata(is.join(name)).unwrap().ino();
    assert_eq!(inode("a.txt"), inode("again.txt"));
    assert!(!is.parent().unwrap().join(".env").exists(), "what is secret was exported");
    // Single files as themselves.
    let nginx = the(&home, "nginx_*.conf");
    assert_eq!(fs::read(&nginx).unwrap(), b"server {}");
    assert_eq!(fs::metadata(&nginx).unwrap().permissions().mode() & 0o7777, 0o640);
    assert_eq!(fs::read(the(&home, "systemd_*.service")).unwrap(), b"[Unit]");
    see_sums(&nginx);
    // A database, in a folder of its kind.
    let database = the(&home, "weekly/itsm_nexus_weekly_*.db.gz");
    see_sums(&database);
    assert_eq!(fs::metadata(&database).unwrap().permissions().mode() & 0o7777, 0o600);
    fs::write(home.path("back.db"), run(&home.path(""), "gunzip", &["--stdout", database.to_str().unwrap()]))
        .unwrap();
    let rows = run(&home.path(""), "sqlite3", &["back.db", "PRAGMA integrity_check; SELECT * FROM ticket"]);
    assert_eq!(rows, b"ok\nbroken\n");
    // A folder of files as themselves.
    let day = the(&home, "daily/mail/*.sha256");
    run(
        day.parent().unwrap(),
        "sha256sum",
        &["--check", "--strict", "--quiet", day.file_name().unwrap().to_str().unwrap()],
    );
    assert_eq!(fs::read(day.with_extension("").join("cur/2")).unwrap(), b"From: b");
    // Manifests, for programs and for people.
    let manifest = the(&home, "manifest_2*.json");
    let text = fs::read_to_string(manifest.with_extension("txt")).unwrap();
    assert!(text.contains("systemd_") && text.contains("mode 0644"), "{text}");
    see_signature(&home, &manifest);
    // A second time nothing is left to do.
    let before = everything(&home.path("out"));
    let again = home.expect(0, &["export"]);
    assert!(again.stdout.contains("is there already"), "{}", again.stdout);
    assert_eq!(everything(&home.path("out")), before);
}

/// Keeps MK-12, BC-7, BC-15.
#[test]
fn psql_and_pg_restore_load_what_is_exported() {
    let Some(cluster) = start() else { return };
    let Host::Socket(socket) = cluster.connection().host.clone() else { panic!("not a socket") };
    let sql = |database: &str, sql: &str| enter(&cluster, database).batch_execute(sql).unwrap();
    sql("postgres", "CREATE DATABASE shop");
    sql(
        "shop",
        "CREATE TABLE audit_logs AS SELECT n AS id FROM generate_series(1, 500) n; CREATE INDEX ON audit_logs (id)",
    );
    sql("shop", "CREATE TABLE wares (name text); INSERT INTO wares VALUES ('tea\\t'), (NULL)");
    let home = Home::new();
    fs::create_dir_all(home.path("out")).unwrap();
    let programs = cluster.program_directory().display().to_string();
    let source = |name: &str, more: &str| {
        let address = address(&cluster, &socket, "postgres", "shop");
        format!(
            "[source.{name}]\nkind = 'postgresql'\nconnection = '{address}'\nallow_superuser = true\n\
             program_directory = '{programs}'\n{more}\n"
        )
    };
    let export = |name: &str, source: &str, file: &str| {
        format!(
            "[export.{name}]\nsources = ['{source}']\nto = '{}'\nname = '{file}'\n",
            home.path("out").display()
        )
    };
    home.configure(
        &[
            format!(
                "[repository.main]\nstore = '{}'\nunlock = {{ key_file = '{}' }}\n",
                home.store().display(),
                home.key_file().display()
            ),
            source("shop", ""),
            source("audit", "tables = ['audit_logs']"),
            export("sql", "shop", "db_{time}.sql.gz"),
            export("dump", "shop", "bc003_full_{time}.dump"),
            export("audit", "audit", "audit_logs_{time}.dump.gz"),
        ]
        .concat(),
    );
    home.expect(0, &["init"]);
    home.expect(0, &["backup"]);
    home.expect(0, &["export"]);
    let load = |database: &str, program: &str, file: &Path| {
        sql("postgres", &format!("CREATE DATABASE {database} TEMPLATE template0"));
        let to = format!(
            "--dbname=host={} port={} user=postgres dbname={database}",
            socket.display(),
            cluster.connection().port
        );
        let program = cluster.program_directory().join(program);
        let more: &[&str] = if program.ends_with("psql") {
            &["--quiet", "--set=ON_ERROR_STOP=1", "--file"]
        } else {
            &["--exit-on-error"]
        };
        run(
            &home.path(""),
            program.to_str().unwrap(),
            &[&[to.as_str()], more, &[file.to_str().unwrap()]].concat(),
        );
        let count = |table: &str| -> i64 {
            enter(&cluster, database).query_one(&format!("SELECT count(*) FROM {table}"), &[]).unwrap().get(0)
        };
        (count("audit_logs"), count("wares"))
    };
    let unzipped = |file: PathBuf| {
        see_sums(&file);
        home.write("unzipped", run(&home.path(""), "gunzip", &["--stdout", file.to_str().unwrap()]))
    };
    assert_eq!(load("of_sql", "psql", &unzipped(the(&home, "db_*.sql.gz"))), (500, 2));
    assert_eq!(load("of_dump", "pg_restore", &the(&home, "bc003_full_*.dump")), (500, 2));
    // A selection has the definition of the other table, and none of its rows.
    assert_eq!(load("of_audit", "pg_restore", &unzipped(the(&home, "audit_logs_*.dump.gz"))), (500, 0));
}

/// A program that need not be here. Without it, the test is told to be not run.
#[track_caller]
pub fn is_here(program: &str) -> bool {
    let is_here =
        Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !is_here {
        hikae_testkit::not_run(&format!("there is no `{program}`: ./check installs it"));
    }
    is_here
}

/// GnuPG with a home of its own.
pub struct Gpg<'h>(&'h Home);

impl Gpg<'_> {
    pub fn run(&self, arguments: &[&str]) -> Vec<u8> {
        let folder = self.0.path("gpg");
        let output = self.0.program("gpg").env("GNUPGHOME", &folder).args(arguments).output().unwrap();
        assert!(output.status.success(), "gpg {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    pub fn new(home: &Home) -> Gpg<'_> {
        fs::create_dir(home.path("gpg")).unwrap();
        fs::set_permissions(home.path("gpg"), fs::Permissions::from_mode(0o700)).unwrap();
        Gpg(home)
    }
}

impl Drop for Gpg<'_> {
    fn drop(&mut self) {
        drop(self.0.program("gpgconf").env("GNUPGHOME", self.0.path("gpg")).args(["--kill", "all"]).status());
    }
}

/// Keeps MK-15, MK-23, MK-24, MK-65, BC-62.
#[test]
fn gpg_opens_what_is_encrypted_for_it() {
    if !is_here("gpg") {
        return;
    }
    let home = home(
        "[export.env]\nsources = ['app']\nto = 'HOMEout'\nname = 'env_{time}.backup'\npaths = ['HOMEsrv/app/.env']\n\
         encrypt = { passphrase = 'file:HOMEpassphrase' }\n\
         [export.ssl]\nsources = ['app']\nto = 'HOMEout'\nname = 'ssl_{time}.tar.gz'\nencrypt = { openpgp = ['HOMEkey.asc'] }\n\
         [export.secret]\nsources = ['mail']\nto = 'HOMEout'\nname = 's_{time}.tar'\nencrypt = { openpgp = ['HOMEsecret.asc'] }\n",
    );
    home.expect(0, &["init"]);
    home.write_private("passphrase", "of the safe\n");
    let gpg = Gpg::new(&home);
    let made = [
        "--batch",
        "--passphrase",
        "",
        "--quick-generate-key",
        "backup@example.com",
        "future-default",
        "default",
        "1y",
    ];
    gpg.run(&made);
    home.write("key.asc", gpg.run(&["--export", "--armor", "backup@example.com"]));
    home.write("secret.asc", gpg.run(&["--batch", "--export-secret-keys", "--armor", "backup@example.com"]));
    // Many buffers, so that a message of several parts is read too.
    home.write("srv/app/data/large", (0..200_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
    home.expect(0, &["backup"]);
    home.expect(0, &["export", "env"]);
    home.expect(0, &["export", "ssl"]);
    let env = the(&home, "env_*.backup.gpg");
    see_sums(&env);
    let from_file = home.path("passphrase").display().to_string();
    let with = [
        "--batch",
        "--pinentry-mode",
        "loopback",
        "--passphrase-file",
        &from_file,
        "--decrypt",
        env.to_str().unwrap(),
    ];
    assert_eq!(gpg.run(&with), b"TOKEN=of-the-env");
    let packets = gpg.run(&[
        "--batch",
        "--pinentry-mode",
        "loopback",
        "--passphrase-file",
        &from_file,
        "--list-packets",
        env.to_str().unwrap(),
    ]);
    let packets = String::from_utf8(packets).unwrap();
    assert!(
        packets.contains("cipher 9") && packets.contains("mdc_method"),
        "AES-256, authenticated: {packets}"
    );
    let ssl = the(&home, "ssl_*.tar.gz.gpg");
    home.write("ssl.tar.gz", gpg.run(&["--batch", "--decrypt", ssl.to_str().unwrap()]));
    let listed = run(&home.path(""), "tar", &["--list", "--gzip", "--file", "ssl.tar.gz"]);
    assert!(String::from_utf8(listed).unwrap().contains("srv/app/.env"));
    // A secret key has no place on this machine.
    let ran = home.expect(2, &["export", "secret"]);
    assert!(ran.stderr.contains("secret key"), "{}", ran.stderr);
}

/// Keeps MK-27, IN-23.
#[test]
fn age_opens_what_is_encrypted_for_it() {
    if !is_here("age") {
        return;
    }
    let home = ready("");
    home.expect(0, &["backup"]);
    run(&home.path(""), "age-keygen", &["--output", "identity"]);
    let key = String::from_utf8(run(&home.path(""), "age-keygen", &["-y", "identity"])).unwrap();
    let to = home.path("out").display().to_string();
    let name = "logs_{time:%Y%m%d_%H%M%S}.tar.zst";
    let arguments = ["export", "app", "--to", &to, "--name", name, "--recipient", key.trim()];
    let planned = home.expect(0, &[&arguments[..], &["--dry-run"]].concat());
    assert!(planned.stdout.contains(".tar.zst.age") && everything(&home.path("out")).is_empty());
    home.expect(0, &arguments);
    let logs = the(&home, "logs_*.tar.zst.age");
    see_sums(&logs);
    let plain = run(&home.path(""), "age", &["--decrypt", "--identity", "identity", logs.to_str().unwrap()]);
    home.write("logs.tar.zst", plain);
    let listed = run(&home.path(""), "tar", &["--list", "--zstd", "--file", "logs.tar.zst"]);
    assert!(String::from_utf8(listed).unwrap().contains("srv/app/.env"));
}

/// `openssl` finds the signature right by the key that the manifest names, and wrong when a byte of it changed.
fn see_signature(home: &Home, manifest: &Path) {
    let json: serde_json::Value = serde_json::from_slice(&fs::read(manifest).unwrap()).unwrap();
    let hex = json["writer"].as_str().unwrap();
    let key = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
    // The header of an Ed25519 public key (RFC 8410, section 4).
    let der: Vec<u8> =
        [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0].into_iter().chain(key).collect();
    home.write("writer.der", der);
    let check = |file: &Path| {
        let mut command = Command::new("openssl");
        command.args(["pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-rawin", "-inkey"]);
        command
            .arg(home.path("writer.der"))
            .arg("-in")
            .arg(file)
            .arg("-sigfile")
            .arg(manifest.with_extension("json.sig"));
        command.output().unwrap().status.success()
    };
    assert!(check(manifest));
    let changed = fs::read_to_string(manifest).unwrap().replace("systemd_", "systemc_");
    assert!(!check(&home.write("changed.json", changed)));
}

/// Keeps B-4, F-2.
#[test]
fn what_cannot_be_read_is_no_export() {
    let home = ready(ALL);
    home.write("srv/mail/cur/3", "From: c\n".repeat(100_000));
    home.expect(0, &["backup", "mail"]);
    crate::drills::damage(&home);
    let to = home.path("out").display().to_string();
    let ran = home.run(&["export", "mail", "--to", &to, "--name", "{time}.tar"]);
    assert_eq!(everything(&home.path("out")), Vec::<String>::new(), "something was exported: {}", ran.stdout);
    assert_eq!(ran.code, Some(4), "{}", ran.stdout);
    // A job whose export fails is not well, and its snapshots stand.
    let ready = ready(ALL);
    fs::remove_dir(ready.path("out")).unwrap();
    let ran = ready.expect(2, &["backup", "--job", "all"]);
    assert!(ran.stdout.contains("Nothing was exported by"), "{}", ran.stdout);
    assert_eq!(ready.json(&["list"])["result"].as_array().unwrap().len(), 3);
}

/// Keeps MK-15.
#[test]
fn what_is_secret_is_not_exported_in_the_clear() {
    let open = "[export.env]\nsources = ['app']\nto = 'HOMEout'\nname = 'env_{time}.tar.gz'\n";
    let ran = home(open).expect(2, &["config", "check"]);
    assert!(ran.stderr.contains(".env is secret") && ran.stderr.contains("encrypt"), "{}", ran.stderr);
    // One that names no secret path is fine, and so is one that leaves them out.
    let home = ready(&format!("{open}without_secrets = true\n"));
    home.expect(0, &["backup"]);
    home.expect(0, &["export", "env"]);
    let listed = run(
        &home.path(""),
        "tar",
        &["--list", "--gzip", "--file", the(&home, "env_*.tar.gz").to_str().unwrap()],
    );
    let listed = String::from_utf8(listed).unwrap();
    assert!(listed.contains("mirai.conf") && !listed.contains(".env"), "{listed}");
    // The command line is refused too, and leaves nothing.
    fs::create_dir_all(home.path("usb")).unwrap();
    let to = home.path("usb").display().to_string();
    let ran = home.expect(12, &["export", "app", "--to", &to]);
    assert!(ran.stdout.contains(".env is secret"), "{}", ran.stdout);
    home.expect(12, &["export", "app", "--to", &to, "--name", "{time}/"]);
    assert_eq!(everything(&home.path("usb")), Vec::<String>::new());
}

#[test]
fn no_file_is_written_over_and_what_a_killed_run_left_goes() {
    let home = ready(ALL);
    home.expect(0, &["backup"]);
    home.write("out/.hikae-0000000000000000.partial", "half of one");
    home.expect(0, &["export", "nginx"]);
    let file = the(&home, "nginx_*.conf");
    let signature = the(&home, "manifest_nginx_*.json.sig");
    assert!(!everything(&home.path("out")).iter().any(|name| name.contains("partial")));
    // Killed before the manifest was there: the same file is taken for what it is.
    let unsigned =
        |ending: &str| fs::remove_file(signature.with_extension("").with_extension(ending)).unwrap();
    fs::remove_file(&signature).unwrap();
    unsigned("json");
    unsigned("txt");
    home.expect(0, &["export", "nginx"]);
    assert!(signature.exists());
    // Something else under its name stays.
    fs::remove_file(&signature).unwrap();
    fs::write(&file, "of somebody else").unwrap();
    let ran: Ran = home.expect(12, &["export", "nginx"]);
    assert!(ran.stderr.contains("is something else"), "{}", ran.stderr);
    assert_eq!(fs::read(&file).unwrap(), b"of somebody else");
    // A disk that is not mounted is not filled in its stead.
    fs::rename(home.path("out"), home.path("away")).unwrap();
    home.expect(2, &["export", "nginx"]);
    assert!(!home.path("out").exists());
}

/// Keeps MK-5.
#[test]
fn an_export_removes_only_what_it_wrote_and_signed() {
    let home = ready(
        "[export.mail]\nsources = ['mail']\nto = 'HOMEout'\nname = '{snapshot}.tar'\nmanifest = 'm_{time}_{snapshot}'\n\
         keep = { last = 2 }\n[job.all]\nsources = ['mail']\nexports = ['mail']\n",
    );
    let backup = |code: i32, content: &str| {
        home.write("srv/mail/cur/1", content);
        home.expect(code, &["backup", "--job", "all"])
    };
    let tars = || {
        everything(&home.path("out")).into_iter().filter(|name| name.ends_with(".tar")).collect::<Vec<_>>()
    };
    let newest = || {
        let listed = home.json(&["list"]);
        format!("{}.tar", &listed["result"][0]["id"].as_str().unwrap()[..8])
    };
    home.write("out/of-somebody.tar", "x");
    backup(0, "one");
    let first = newest();
    backup(0, "two");
    let second = newest();
    // What somebody changed is theirs, and says so.
    fs::write(home.path("out").join(&first), "changed").unwrap();
    let ran = backup(3, "three");
    assert!(ran.stdout.contains("is not as this export wrote it"), "{}", ran.stdout);
    assert_eq!(tars().len(), 4);
    // A manifest that nobody of this repository signed removes nothing.
    let manifest = |stem: &str| {
        let names = everything(&home.path("out"));
        let found = names
            .into_iter()
            .find(|name| name.starts_with("m_") && name.ends_with(&format!("{stem}.json.sig")));
        home.path("out").join(found.unwrap())
    };
    fs::remove_file(home.path("out").join(&first)).unwrap();
    let signature = manifest(first.trim_end_matches(".tar"));
    let kept = fs::read(&signature).unwrap();
    fs::write(manifest(second.trim_end_matches(".tar")), [0; 64]).unwrap();
    backup(0, "four");
    assert!(!signature.exists(), "the rest of a run goes, when its file is gone already");
    assert_eq!(kept.len(), 64);
    backup(0, "five");
    assert!(tars().contains(&second) && tars().contains(&"of-somebody.tar".to_owned()), "{:?}", tars());
    assert_eq!(tars().len(), 4);
    // Where the newest is gone, nothing goes: there may be nothing else.
    fs::remove_file(home.path("out").join(newest())).unwrap();
    let planned = home.expect(0, &["export", "mail", "--dry-run"]);
    assert!(!planned.stdout.contains("would go"), "{}", planned.stdout);
}

#[test]
fn a_configuration_of_exports_that_cannot_be_is_refused_with_advice() {
    for (wrong, said) in [
        ("sources = ['ap']\nname = '{time}.tar'", "did you mean `app`?"),
        ("sources = ['mail']\nname = 'mail.tar.gz'", "put {time} in it"),
        ("sources = ['mail', 'itsm']\nname = '{time}.gz'", "put {source} in it"),
        ("sources = ['mail']\nname = '{tme}.tar'", "{source}"),
        ("sources = ['mail']\nname = '{time}.tar'\nmode = '0755'", "no mode of a file"),
        ("sources = ['mail']\nname = '{time}.tar'\nencrypt = { age = [] }", "name a recipient"),
        ("sources = ['mail']\nname = '{time}/'\nencrypt = { age = ['age1'] }", "end with .tar.gz"),
        ("sources = ['mail']\nname = '{time}.tar'\ntime_zone = 'Asia/Tokio'", "Asia/Tokyo"),
        ("sources = ['mail']\nname = '{time}.tar'\nkeep = {}", "at least one rule"),
    ] {
        let ran = home(&format!("[export.x]\nto = 'HOMEout'\n{wrong}\n")).expect(2, &["config", "check"]);
        assert!(ran.stderr.contains(said), "{wrong}: {}", ran.stderr);
    }
}
