//! Base backups over the wire, from real servers: they unpack to what the server had, and a server starts on them.

use super::super::standby::as_owner;
use super::server::{Server, config, load, replicating};
use super::*;
use hikae_source::postgresql::replication::{
    BackupEntryKind, BackupPiece, BackupWal, BaseBackup, BaseBackupOptions, Checkpoint, FinishedBackup,
    ReplicationError, Session,
};
use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Child;
use std::time::Duration;

pub(super) fn usual() -> BaseBackupOptions {
    BaseBackupOptions { label: "it's hikae's".into(), checkpoint: Checkpoint::Fast, wal: BackupWal::Included }
}

/// Unpacks below `data`, a tablespace below `spaces` by its number. As careful as whoever restores has to be.
pub(super) fn unpack(
    mut backup: BaseBackup,
    data: &Path,
    spaces: &Path,
) -> Result<FinishedBackup, ReplicationError> {
    let mut buffer = vec![0; 100_000];
    for directory in [data, spaces] {
        std::fs::create_dir_all(directory).unwrap();
    }
    std::fs::set_permissions(data, Permissions::from_mode(0o700)).unwrap();
    while let Some(piece) = backup.next_piece()? {
        let (path, mode) = match piece {
            BackupPiece::Manifest => (data.join("backup_manifest"), 0o600),
            BackupPiece::Entry(entry) => {
                let base = entry.tablespace.map_or(data.to_owned(), |oid| spaces.join(oid.to_string()));
                let path = base.join(std::str::from_utf8(entry.path.as_bytes()).unwrap());
                match entry.kind {
                    BackupEntryKind::File => {}
                    BackupEntryKind::Directory => {
                        std::fs::create_dir_all(&path).unwrap();
                        std::fs::set_permissions(&path, Permissions::from_mode(entry.mode)).unwrap();
                        continue;
                    }
                    BackupEntryKind::TablespaceLink(_) => continue,
                }
                assert!(entry.modified > 1_000_000_000, "{path:?} is of {}", entry.modified);
                (path, entry.mode)
            }
        };
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(mode).open(&path).unwrap();
        loop {
            match backup.read(&mut buffer)? {
                0 => break,
                n => file.write_all(&buffer[..n]).unwrap(),
            }
        }
    }
    backup.finish()
}

/// Gives everything below to the server's user.
fn give_all(path: &Path, cluster: &Cluster) {
    give(path, cluster);
    if path.is_dir() && !path.is_symlink() {
        std::fs::read_dir(path).unwrap().for_each(|entry| give_all(&entry.unwrap().path(), cluster));
    }
}

/// A server on a restored directory.
struct Restored(Child, postgres::Config);

impl Drop for Restored {
    fn drop(&mut self) {
        let pid = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        let _ = self.0.wait();
    }
}

fn serve(data: &Path, cluster: &Cluster) -> Restored {
    let sockets = data.with_extension("socket");
    std::fs::create_dir(&sockets).unwrap();
    give(&sockets, cluster);
    let mut command = as_owner(&cluster.program_directory().join("postgres"), data);
    command.arg("-D").arg(data).args(["-c", "listen_addresses=", "-c", "port=5432", "-c", "fsync=off"]);
    command.args(["-c", "max_connections=50", "-c", "max_prepared_transactions=5"]);
    command.args(["-c", "max_locks_per_transaction=1024", "-c"]);
    command.arg(format!("unix_socket_directories={}", sockets.display()));
    let log_path = data.with_extension("log");
    let log = std::fs::File::create(&log_path).unwrap();
    let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    let mut config = postgres::Config::new();
    config.host_path(&sockets).port(5432).user("postgres").dbname("postgres");
    let restored = Restored(child, config);
    for _ in 0..800 {
        if restored.1.connect(postgres::NoTls).is_ok() {
            return restored;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    panic!("it does not start: {}", std::fs::read_to_string(log_path).unwrap());
}

/// Takes a base backup under load, with a tablespace; unpacks it elsewhere; a server starts on it and has the rows.
#[track_caller]
pub(super) fn comes_back(server: &Server) {
    let base = server.cluster.directory();
    let space = base.join("a space");
    std::fs::create_dir(&space).unwrap();
    give(&space, &server.cluster);
    server.sql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display()));
    server.sql(
        "CREATE TABLE kept TABLESPACE space AS SELECT i, md5(i::text) m FROM generate_series(1, 20000) i;
         CREATE UNLOGGED TABLE passing AS SELECT 1 a",
    );
    let connection = config(server.cluster.connection());
    let writer = std::thread::spawn(move || load(&connection, 5));
    let session = Session::enter(server.cluster.connection(), &system_cx()).unwrap();
    let backup = session.base_backup(&usual(), &system_cx()).unwrap();
    let start = backup.start();
    let found: Vec<_> = backup.tablespaces().cloned().collect();
    assert_eq!((found.len(), &found[0].location), (1, &space));
    assert!(backup.size() > 1 << 20 && found[0].bytes > Some(1 << 20));
    let (data, spaces) = (base.join("restored"), base.join("spaces"));
    let finished = unpack(backup, &data, &spaces).unwrap();
    writer.join().unwrap().unwrap();
    assert!(finished.stop.lsn > start.lsn && finished.stop.timeline == start.timeline);
    assert!(!finished.has_bad_pages);
    let label = std::fs::read_to_string(data.join("backup_label")).unwrap();
    assert!(label.contains("LABEL: it's hikae's") && label.contains(&start.lsn.to_string()), "{label}");

    let restored_space = spaces.join(found[0].oid.to_string());
    let link = data.join("pg_tblspc").join(found[0].oid.to_string());
    std::os::unix::fs::symlink(&restored_space, &link).unwrap();
    for path in [&data, &spaces] {
        give_all(path, &server.cluster);
    }
    let verify = server.cluster.program_directory().join("pg_verifybackup");
    if verify.exists() {
        let output = as_owner(&verify, base).arg(&data).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let map = data.join("tablespace_map");
    let told = std::fs::read_to_string(&map).unwrap();
    assert!(told.starts_with(&format!("{} ", found[0].oid)), "{told}");
    std::fs::write(&map, format!("{} {}\n", found[0].oid, restored_space.display())).unwrap();
    let restored = serve(&data, &server.cluster);
    let mut client = restored.1.connect(postgres::NoTls).unwrap();
    let sums = "SELECT count(*), md5(string_agg(m, '' ORDER BY i)) FROM kept";
    let (ours, theirs) =
        (client.query_one(sums, &[]).unwrap(), server.client().query_one(sums, &[]).unwrap());
    assert_eq!(ours.get::<_, i64>(0), 20000);
    assert_eq!(ours.get::<_, String>(1), theirs.get::<_, String>(1));
    let location = client
        .query_one("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'space'", &[]);
    assert_eq!(Path::new(&location.unwrap().get::<_, String>(0)), restored_space);
    assert_eq!(client.query_one("SELECT count(*) FROM passing", &[]).unwrap().get::<_, i64>(0), 0);
}

/// Keeps E-3.
#[test]
fn a_base_backup_over_the_wire_starts_and_has_every_row() {
    comes_back(&Server::start(&replicating()));
}

/// A backup that was not read to its end is none, and leaves no session behind.
#[test]
fn a_base_backup_that_is_left_is_no_backup() {
    let server = Server::start(&replicating());
    let take = || {
        let session = Session::enter(server.cluster.connection(), &system_cx()).unwrap();
        session.base_backup(&usual(), &system_cx()).unwrap()
    };
    let mut backup = take();
    for _ in 0..5 {
        backup.next_piece().unwrap().unwrap();
    }
    let error = backup.finish().expect_err("it was taken for whole");
    assert!(matches!(error, ReplicationError::BadArchive { .. }), "{error}");
    drop(take());
    server.wait_for("SELECT count(*) = 0 FROM pg_stat_replication");
    let options = BaseBackupOptions { label: "two\nlines".into(), ..usual() };
    let session = Session::enter(server.cluster.connection(), &system_cx()).unwrap();
    assert!(session.base_backup(&options, &system_cx()).is_err());

    // The server dies in the middle.
    let mut backup = take();
    backup.next_piece().unwrap().unwrap();
    server.kill();
    let scratch = tempfile::tempdir().unwrap();
    let error = unpack(backup, &scratch.path().join("data"), &scratch.path().join("spaces")).unwrap_err();
    assert!(matches!(error, ReplicationError::ConnectionLost { .. }), "{error}");
}

/// The server's own check of page checksums: the backup comes, and is said to hold bad pages.
#[test]
fn bad_pages_that_the_server_found_are_told() {
    let mut options = replicating();
    options.initdb.push("--data-checksums".into());
    let server = Server::start(&options);
    server.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 10000) i; CHECKPOINT");
    let path = server.text("SELECT pg_relation_filepath('t')").unwrap();
    server.kill();
    let file = std::fs::OpenOptions::new().write(true).open(server.data().join(path)).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"rot", 8192 * 3 + 4000).unwrap();
    server.start_again();
    let mut session = Session::enter(server.cluster.connection(), &system_cx()).unwrap();
    assert!(session.data_checksums().unwrap());
    let backup = session.base_backup(&usual(), &system_cx()).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let finished = unpack(backup, &scratch.path().join("data"), &scratch.path().join("spaces")).unwrap();
    assert!(finished.has_bad_pages, "nobody was told");
}
