//! How fast WAL and base backups come, beside PostgreSQL's own programs. The full form measures; the quick one sees that both
//! give the same segments.

use super::server::{Server, config, load, replicating};
use super::*;
use hikae_model::{Lsn, SegmentName, Timeline, WalName};
use hikae_source::postgresql::replication::{
    BackupWal, BaseBackupOptions, Checkpoint, FollowOptions, Session, SinkError, Start, WalPosition, WalSink,
    follow,
};
use std::path::Path;
use std::process::Stdio;

/// Rounds, and MiB of rows.
fn extent() -> (usize, u32) {
    if std::env::var_os("HIKAE_FULL").is_some() { (5, 700) } else { (1, 30) }
}

/// Keeps segments as pg_receivewal does: written under another name, synced, renamed, and the directory synced.
struct Synced {
    directory: PathBuf,
    durable: Option<Lsn>,
}

impl Synced {
    fn keep(&self, name: WalName, bytes: &[u8]) -> io::Result<()> {
        let (new, path) = (self.directory.join("new"), self.directory.join(name.to_string()));
        std::fs::write(&new, bytes)?;
        std::fs::File::open(&new)?.sync_all()?;
        std::fs::rename(&new, path)?;
        std::fs::File::open(&self.directory)?.sync_all()
    }
}

impl WalSink for Synced {
    fn segment(&mut self, segment: SegmentName, bytes: &[u8]) -> Result<(), SinkError> {
        self.keep(segment.into(), bytes)?;
        let start = segment.start(hikae_model::SegmentSize::USUAL).unwrap();
        self.durable = Some(Lsn(start.0 + bytes.len() as u64));
        Ok(())
    }

    fn partial(&mut self, segment: SegmentName, bytes: &[u8]) -> Result<(), SinkError> {
        Ok(self.keep(WalName::Partial(segment), bytes)?)
    }

    fn history(&mut self, timeline: Timeline, text: &[u8]) -> Result<(), SinkError> {
        Ok(self.keep(WalName::History(timeline), text)?)
    }

    fn durable(&mut self) -> Option<Lsn> {
        self.durable
    }
}

/// MiB a second, over all rounds.
fn report(what: &str, bytes: u64, mut seconds: Vec<f64>) {
    seconds.sort_by(f64::total_cmp);
    let rate = |seconds: f64| (bytes >> 20) as f64 / seconds;
    println!(
        "{what}: {} MiB, median {:.0} MiB/s, best {:.0}, worst {:.0}",
        bytes >> 20,
        rate(seconds[seconds.len() / 2]),
        rate(seconds[0]),
        rate(seconds[seconds.len() - 1]),
    );
}

fn timed(work: impl FnOnce()) -> f64 {
    let cx = system_cx();
    let begun = cx.elapsed();
    work();
    (cx.elapsed() - begun).as_secs_f64()
}

#[test]
fn streams_and_base_backups_beside_postgresqls_own_programs() {
    let mut options = replicating();
    options.initdb.clear();
    options.settings.push(("max_wal_size".into(), "16GB".into()));
    options.settings.push(("wal_keep_size".into(), "8GB".into()));
    let server = Server::start(&options);
    if server.program("pg_receivewal").is_none() {
        return hikae_testkit::not_run("this PostgreSQL came without pg_receivewal");
    }
    let (n_rounds, mib) = extent();
    let slot = server.slot("theirs");
    let begin = Lsn(hikae_source::postgresql::replication::slot_health(
        server.cluster.connection(),
        &slot,
        &system_cx(),
    )
    .unwrap()
    .restart
    .unwrap()
    .0 & !((16 << 20) - 1));
    load(&config(server.cluster.connection()), mib).unwrap();
    let end = Lsn(server.switch().0 & !((16 << 20) - 1));
    let scratch = server.cluster.directory().join("speed");
    let fresh = |name: &str| {
        let path = scratch.join(name);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        give(&path, &server.cluster);
        path
    };
    let streamed = end.0 - begin.0;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..n_rounds {
        let directory = fresh("theirs");
        // Without a slot it begins where the server is, unless something is there already.
        let first = SegmentName::holding(begin, Timeline::FIRST, hikae_model::SegmentSize::USUAL);
        let partial = directory.join(WalName::Partial(first).to_string());
        std::fs::File::create(&partial).unwrap().set_len(0).unwrap();
        give(&partial, &server.cluster);
        let mut receiver = server.program("pg_receivewal").unwrap();
        receiver.args(["--no-loop", "-E", &end.to_string(), "-D"]).arg(&directory);
        theirs.push(timed(|| {
            let output = receiver.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }));
        let directory = fresh("ours");
        let options = FollowOptions {
            start: Start::At(WalPosition { timeline: Timeline::FIRST, lsn: begin }),
            until: Some(end),
            ..FollowOptions::of(server.cluster.connection().clone())
        };
        let mut sink = Synced { directory: directory.clone(), durable: None };
        ours.push(timed(|| {
            follow(&options, &mut sink, &system_cx()).unwrap();
        }));
        let n_whole = |directory: &Path| {
            let names =
                std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
            names.filter(|name| name.parse::<SegmentName>().is_ok()).count()
        };
        assert_eq!(n_whole(&directory) as u64, streamed >> 24);
        assert!(n_whole(&scratch.join("theirs")) as u64 >= streamed >> 24);
    }
    report("WAL, pg_receivewal", streamed, theirs);
    report("WAL, hikae", streamed, ours);
    std::fs::remove_dir_all(&scratch).unwrap();

    let (mut ours, mut theirs, mut bytes) = (Vec::new(), Vec::new(), 0);
    for _ in 0..n_rounds {
        let mut program = server.program("pg_basebackup").unwrap();
        program
            .args(["-c", "fast", "-X", "none", "-F", "t", "-D", "-"])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        theirs.push(timed(|| assert!(program.status().unwrap().success())));
        ours.push(timed(|| {
            let session = Session::enter(server.cluster.connection(), &system_cx()).unwrap();
            let options = BaseBackupOptions {
                label: "speed".into(),
                checkpoint: Checkpoint::Fast,
                wal: BackupWal::Elsewhere,
            };
            let mut backup = session.base_backup(&options, &system_cx()).unwrap();
            let mut buffer = vec![0; 256 << 10];
            bytes = 0;
            while backup.next_piece().unwrap().is_some() {
                loop {
                    match backup.read(&mut buffer).unwrap() {
                        0 => break,
                        n => bytes += n as u64,
                    }
                }
            }
            backup.finish().unwrap();
        }));
    }
    report("base backup, pg_basebackup to /dev/null", bytes, theirs);
    report("base backup, hikae, read and dropped", bytes, ours);
}
