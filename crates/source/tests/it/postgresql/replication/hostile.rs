//! Servers that lie: a program that speaks the protocol, and sends what no PostgreSQL would. Keeps I-8.

use super::base_backup::{unpack, usual};
use super::server::{Directory, Kept};
use super::*;
use hikae_source::postgresql::replication::{
    BrokenStream, FollowOptions, ReplicationError, Retry, Session, Start, WalPosition, follow,
};
use hikae_testkit::{Seed, TestRandom};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

fn table(columns: &[Option<&str>]) -> Vec<u8> {
    let mut row = (columns.len() as u16).to_be_bytes().to_vec();
    for column in columns {
        match column {
            None => row.extend((-1_i32).to_be_bytes()),
            Some(text) => {
                row.extend((text.len() as u32).to_be_bytes());
                row.extend(text.as_bytes());
            }
        }
    }
    [message(b'T', &[0, 0]), message(b'D', &row), message(b'C', b"SELECT\0")].concat()
}

fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

fn copy(parts: &[&[u8]]) -> Vec<u8> {
    message(b'd', &parts.concat())
}

/// Serves every connection: answers each command as `answer` says, and closes after the last byte of it if that is so.
fn serve(directory: &Path, answer: impl Fn(&str) -> (Vec<u8>, bool) + Send + 'static) -> Connection {
    let listener = UnixListener::bind(directory.join(".s.PGSQL.5432")).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            // Whoever hangs up ends only this connection.
            let _ = (|| -> io::Result<()> {
                let mut length = [0; 4];
                stream.read_exact(&mut length)?;
                let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
                stream.read_exact(&mut body)?;
                let version = message(b'S', b"server_version\x0015.13\0");
                stream.write_all(&[message(b'R', &[0; 4]), version, ready()].concat())?;
                loop {
                    let mut head = [0; 5];
                    stream.read_exact(&mut head)?;
                    let mut body = vec![0; u32::from_be_bytes(head[1..].try_into().unwrap()) as usize - 4];
                    stream.read_exact(&mut body)?;
                    if head[0] == b'Q' {
                        let command = String::from_utf8_lossy(&body).trim_end_matches('\0').to_owned();
                        let (bytes, stays) = answer(&command);
                        stream.write_all(&bytes)?;
                        if !stays {
                            return Ok(());
                        }
                    }
                }
            })();
        }
    });
    Connection::parse(&format!("host={}", directory.display()), "me").unwrap()
}

fn header(name: &str, kind: u8, link: &str, bytes: u64) -> Vec<u8> {
    let mut block = [0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(b"0000600 ");
    block[108..124].copy_from_slice(b"0000146 0000147 ");
    block[124..136].copy_from_slice(format!("{bytes:011o} ").as_bytes());
    block[136..148].copy_from_slice(b"15070624612 ");
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:07o} ").as_bytes());
    block.to_vec()
}

fn file(name: &str, content: &[u8]) -> Vec<u8> {
    let padding = vec![0; content.len().next_multiple_of(512) - content.len()];
    [header(name, b'0', "", content.len() as u64), content.to_vec(), padding].concat()
}

/// What a server of version 15 sends for one tablespace and the cluster's own directory.
fn backup_of(space: &[u8], base: &[u8]) -> Vec<u8> {
    let spaces =
        [message(b'T', &[0, 0]), table(&[Some("16384"), Some("/mnt/space"), Some("10")])[7..].to_vec()]
            .concat();
    let own = table(&[None, None, Some("20")])[7..].to_vec();
    // Two rows of one table: the first's end is cut off.
    let spaces = [&spaces[..spaces.len() - 12], &own].concat();
    let end = [0; 1024];
    [
        table(&[Some("0/2000028"), Some("1")]),
        spaces,
        message(b'H', &[0, 0, 0]),
        copy(&[b"n16384.tar\0/mnt/space\0"]),
        copy(&[b"d", space, &end]),
        copy(&[b"nbase.tar\0\0"]),
        copy(&[b"p", &7_u64.to_be_bytes()]),
        copy(&[b"d", base]),
        copy(&[b"d", &end]),
        copy(&[b"m"]),
        copy(&[b"d", b"{}"]),
        message(b'c', b""),
        table(&[Some("0/2000100"), Some("1")]),
        message(b'C', b"BASE_BACKUP\0"),
        ready(),
    ]
    .concat()
}

/// Takes what is sent; says how it ended, and what was written.
fn take(sent: Vec<u8>) -> (Result<(), ReplicationError>, Vec<String>) {
    let scratch = tempfile::Builder::new().prefix("hostile").tempdir_in("/tmp").unwrap();
    let connection = serve(scratch.path(), move |_| (sent.clone(), false));
    let session = Session::enter(&connection, &system_cx()).unwrap();
    let into = scratch.path().join("into");
    let backup = session.base_backup(&usual(), &system_cx());
    let ended = backup.and_then(|backup| unpack(backup, &into.join("data"), &into.join("spaces"))).map(drop);
    let outside: Vec<String> = std::fs::read_dir(scratch.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "into" && name != ".s.PGSQL.5432")
        .collect();
    assert!(outside.is_empty(), "written outside: {outside:?}");
    let mut written = Vec::new();
    let mut open = vec![into];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            assert!(!path.is_symlink(), "{path:?} is a link");
            written.push(path.file_name().unwrap().to_str().unwrap().to_owned());
            open.extend(path.is_dir().then_some(path));
        }
    }
    (ended, written)
}

#[track_caller]
fn is_refused(space: &[u8], base: &[u8], says: &str) {
    let (ended, written) = take(backup_of(space, base));
    let error = ended.expect_err(says);
    assert!(matches!(error, ReplicationError::BadArchive { .. }), "{error:?}");
    assert!(error.to_string().contains(says), "{error}");
    assert!(!written.iter().any(|name| name == "evil"), "{written:?}");
}

/// Names and links that lead outside, kinds that are never sent, sizes that cannot be: refused, and nothing is written.
#[test]
fn what_a_lying_server_sends_is_refused_and_written_nowhere() {
    let good = file("PG_VERSION", b"15\n");
    let (ended, written) = take(backup_of(&file("PG_15_1/5/1", b"row"), &good));
    ended.unwrap();
    assert!(["PG_VERSION", "backup_manifest", "1"].iter().all(|name| written.iter().any(|w| w == name)));
    let link = |name: &str, to: &str| header(name, b'2', to, 0);
    is_refused(b"", &file("../evil", b"x"), "not a path");
    is_refused(b"", &file("/tmp/evil", b"x"), "not a path");
    is_refused(&file("PG_15/../../../evil", b"x"), &good, "not a path");
    is_refused(b"", &link("base/", "/etc"), "which is no tablespace");
    is_refused(b"", &link("pg_tblspc/16384/", "/etc"), "which is no tablespace");
    is_refused(b"", &link("pg_tblspc/99/", "/mnt/space"), "which is no tablespace");
    is_refused(&link("pg_tblspc/16384/", "/mnt/space"), &good, "which is no tablespace");
    let through = [link("pg_tblspc/16384/", "/mnt/space"), file("pg_tblspc/16384/evil", b"x")].concat();
    is_refused(b"", &through, "through a link");
    for kind in [b'1', b'3', b'L', b'x', b'g'] {
        is_refused(b"", &header("evil", kind, "PG_VERSION", 0), "is of kind");
    }
    is_refused(b"", &header("huge", b'0', "", 0o77777777777), "in the middle of a file");
    is_refused(b"", &[header("short", b'0', "", 5000), vec![b'x'; 100]].concat(), "in the middle of a file");
    is_refused(b"", &[good.clone(), vec![0; 1024], file("evil", b"x")].concat(), "behind the end");
    let (ended, _) = take(backup_of(b"", &link("pg_tblspc/16384/", "/mnt/space")));
    ended.expect("the link of a tablespace that the server named");
}

/// Archives and connections that end too early, archives that nobody announced, messages that are too long.
#[test]
fn a_backup_that_is_cut_or_out_of_turn_is_none() {
    let whole = backup_of(&file("PG_15_1/5/1", b"row"), &file("PG_VERSION", b"15\n"));
    take(whole.clone()).0.unwrap();
    for cut in (0..whole.len()).step_by(whole.len() / 60 + 1) {
        let error = take(whole[..cut].to_vec()).0.expect_err("it was cut");
        assert!(matches!(error, ReplicationError::ConnectionLost { .. }), "cut to {cut}: {error:?}");
    }
    // The server ends the archive, and not the connection.
    let parts = |base: &[&[u8]]| {
        let mut sent = table(&[Some("0/2000028"), Some("1")]);
        sent.extend(table(&[None, None, None]));
        sent.extend(message(b'H', &[0, 0, 0]));
        base.iter().for_each(|part| sent.extend(message(b'd', part)));
        sent.extend(message(b'c', b""));
        sent.extend(table(&[Some("0/2000100"), Some("1")]));
        sent.extend([message(b'C', b"BASE_BACKUP\0"), ready()].concat());
        sent
    };
    let begun = [&b"d"[..], &header("base/1", b'0', "", 100_000), &[b'x'; 600]].concat();
    let end = [&b"d"[..], &[0; 1024]].concat();
    take(parts(&[b"n\0\0", &end, b"m", b"d{}"])).0.unwrap();
    for (what, pieces) in [
        ("cut in a file", vec![&b"n\0\0"[..], &begun, b"m", b"d{}"]),
        ("cut in a header", vec![b"n\0\0", &begun[..300], b"m", b"d{}"]),
        ("no manifest", vec![b"n\0\0", &end]),
        ("no archive", vec![b"m", b"d{}"]),
        ("one too many", vec![b"n\0\0", &end, b"n\0\0", &end, b"m", b"d{}"]),
        ("two manifests", vec![b"n\0\0", &end, b"m", b"d{}", b"m", b"d{}"]),
        ("bytes before any archive", vec![&end, b"n\0\0", b"m", b"d{}"]),
        ("an unknown message", vec![b"n\0\0", b"?"]),
    ] {
        let error = take(parts(&pieces)).0.expect_err(what);
        assert!(matches!(error, ReplicationError::BadArchive { .. }), "{what}: {error:?}");
    }
    let mut long = whole;
    long.truncate(300);
    long.extend([&b"d"[..], &0x3fff_ffff_u32.to_be_bytes(), &[0; 64]].concat());
    assert!(take(long).0.is_err());
}

/// Any bytes: an error or a backup, no panic, nothing outside.
#[test]
fn no_bytes_of_a_server_make_us_panic_or_write_outside() {
    let random = TestRandom::new(Seed::draw());
    let whole = backup_of(&file("PG_15_1/5/1", b"row"), &file("PG_VERSION", b"15\n"));
    let n_changes = if std::env::var_os("HIKAE_FULL").is_some() { 20_000 } else { 200 };
    for _ in 0..n_changes {
        let mut sent = whole.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(sent.len() as u64) as usize;
            match random.below(4) {
                0 => sent[at] ^= 1 << random.below(8),
                1 => sent[at] = random.bytes(1)[0],
                2 => drop(sent.drain(at..(at + 1 + random.below(8) as usize).min(sent.len()))),
                _ => drop(sent.splice(at..at, random.bytes(4))),
            }
            if sent.is_empty() {
                break;
            }
        }
        drop(take(sent));
    }
}

fn wal(at: u64, bytes: &[u8]) -> Vec<u8> {
    copy(&[b"w", &at.to_be_bytes(), &u64::MAX.to_be_bytes(), &[0; 8], bytes])
}

/// Follows a server that answers to `START_REPLICATION` with these bytes.
fn follow_liar(sent: Vec<u8>) -> ReplicationError {
    let scratch = tempfile::Builder::new().prefix("hostile").tempdir_in("/tmp").unwrap();
    let connection = serve(scratch.path(), move |command| match command {
        "IDENTIFY_SYSTEM" => {
            ([table(&[Some("7"), Some("1"), Some("0/100000"), None]), ready()].concat(), true)
        }
        "SHOW wal_segment_size" => ([table(&[Some("1MB")]), ready()].concat(), true),
        _ => (sent.clone(), true),
    });
    let start = WalPosition { timeline: hikae_model::Timeline::FIRST, lsn: hikae_model::Lsn(1 << 20) };
    let options = FollowOptions {
        start: Start::At(start),
        silence: Duration::from_secs(2),
        retry: Retry {
            first: Duration::from_millis(1),
            longest: Duration::from_millis(1),
            budget: Duration::ZERO,
        },
        ..FollowOptions::of(connection)
    };
    let mut sink = Directory::new(&scratch.path().join("wal"), &Kept::default());
    follow(&options, &mut sink, &system_cx()).expect_err("it was followed")
}

/// A stream with a hole, one that goes back, one of nonsense, one that is silent.
#[test]
fn a_stream_that_lies_is_ended() {
    let begin = message(b'W', &[0, 0, 0]);
    let at = 1 << 20;
    let sent = |parts: &[Vec<u8>]| [std::slice::from_ref(&begin), parts].concat().concat();
    let error = follow_liar(sent(&[wal(at, b"abc"), wal(at + 4, b"e")]));
    assert!(matches!(error, ReplicationError::BrokenStream(BrokenStream::Hole { .. })), "{error:?}");
    let error = follow_liar(sent(&[wal(at, b"abc"), wal(at, b"abc")]));
    assert!(matches!(error, ReplicationError::BrokenStream(BrokenStream::Back { .. })), "{error:?}");
    for nonsense in [copy(&[b"x"]), copy(&[]), copy(&[b"w123"]), message(b'Q', b""), wal(u64::MAX, b"ab")] {
        let error = follow_liar(sent(&[nonsense]));
        assert!(matches!(error, ReplicationError::Protocol { .. }), "{error:?}");
    }
    let error = follow_liar(sent(&[]));
    assert!(matches!(error, ReplicationError::Silent { .. }), "{error:?}");
    // A timeline that ends before what came, and one that begins behind it.
    let next = |begins: &str| {
        let row = table(&[Some("2"), Some(begins)]);
        sent(&[wal(at, b"abc"), message(b'c', b""), row, message(b'C', b"START_STREAMING\0"), ready()])
    };
    let error = follow_liar(next("0/200000"));
    assert!(!error.may_pass(), "{error:?}");
}

/// A server that takes the connection and says nothing does not hold us for ever.
#[test]
fn a_server_that_never_answers_is_given_up() {
    let scratch = tempfile::Builder::new().prefix("hostile").tempdir_in("/tmp").unwrap();
    let _listener = UnixListener::bind(scratch.path().join(".s.PGSQL.5432")).unwrap();
    let text = format!("host={} connect_timeout=1", scratch.path().display());
    let cx = system_cx();
    let begun = cx.elapsed();
    let error = Session::enter(&Connection::parse(&text, "me").unwrap(), &cx).err().unwrap();
    assert!(matches!(error, ReplicationError::Unreachable { .. }), "{error:?}");
    assert!(cx.elapsed() - begun < Duration::from_secs(20));
}
