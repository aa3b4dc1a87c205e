//! A dump that died is a dump that failed (E-2).

use super::*;
use hikae_model::Advise as _;
use hikae_model::ErrorCode;

fn big(tag: &str) -> Db {
    let db = Db::new(tag);
    db.sql("CREATE TABLE big AS SELECT i, repeat(md5(i::text), 8) AS x FROM generate_series(1, 60000) i; CREATE TABLE small (a int)");
    db
}

#[test]
fn a_backend_that_is_terminated_fails_the_reading() {
    let db = big("killed");
    for victim in ["COPY%", "%"] {
        let cx = system_cx();
        let mut reading = db.source().begin(KEY, &cx).unwrap();
        let mut item = reading.next().unwrap();
        while let Some(found) = item {
            if found.entry.path.as_bytes() == b"tables/public.big.copy" {
                let mut content = found.content.unwrap().reader;
                let mut buffer = [0; 1000];
                assert!(matches!(content.read(&mut buffer), Ok(Stretch::Data(1000))));
                let mut admin = db.client_as("postgres", "postgres");
                let n = admin
                    .execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND query LIKE $2 AND backend_type = 'client backend'",
                        &[&db.name, &victim],
                    )
                    .unwrap();
                assert!(n >= 1);
                // What the server had sent before it died may still be read; then it must break.
                let broke = loop {
                    match content.read(&mut buffer) {
                        Ok(Stretch::Data(_)) => {}
                        Ok(_) => break false,
                        Err(_) => break true,
                    }
                };
                assert!(broke, "a terminated COPY ended as if it were whole");
            } else if let Some(content) = found.content {
                let mut reader = content.reader;
                let mut buffer = [0; 65536];
                while let Ok(Stretch::Data(_)) = reader.read(&mut buffer) {}
            }
            item = reading.next().unwrap();
        }
        assert!(reading.finish().is_err());
    }
}

#[test]
fn the_session_that_holds_the_snapshot_must_live_to_the_end() {
    let db = big("holder");
    let result = back_up_by(&db.source(), 100_000, &mut |path| {
        if path.as_bytes() == b"tables/public.small.copy" {
            let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND state = 'idle in transaction'";
            db.client_as("postgres", "postgres").execute(sql, &[&db.name]).unwrap();
        }
    });
    assert!(result.is_err());
}

/// Its locks went with it, and tables may have been rewritten while they were read.
#[test]
fn a_snapshot_that_is_lost_after_the_last_row_fails_the_reading() {
    let db = big("lost");
    let mut reading = db.source().begin(KEY, &system_cx()).unwrap();
    while let Some(item) = reading.next().unwrap() {
        let mut content = item.content.map(|content| content.reader);
        while content.as_mut().is_some_and(|c| matches!(c.read(&mut [0; 100_000]), Ok(Stretch::Data(_)))) {}
    }
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND state = 'idle in transaction'";
    assert!(db.client_as("postgres", "postgres").execute(sql, &[&db.name]).unwrap() >= 1);
    assert!(reading.finish().is_err(), "nobody saw that the snapshot was lost");
}

#[test]
fn a_content_that_was_not_read_to_its_end_fails_the_reading() {
    let db = big("unread");
    let cx = system_cx();
    let mut reading = db.source().begin(KEY, &cx).unwrap();
    while let Some(item) = reading.next().unwrap() {
        if let Some(mut content) = item.content {
            let _ = content.reader.read(&mut [0; 10]);
        }
    }
    let error = reading.finish().unwrap_err();
    assert!(error.to_string().contains("was not read to its end"), "{error}");
}

#[test]
fn a_reading_that_is_dropped_leaves_nothing_behind() {
    let db = big("dropped");
    let sessions = || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND application_name = 'hikae'";
        db.client_as("postgres", "postgres").query_one(sql, &[&db.name]).unwrap().get::<_, i64>(0)
    };
    let cx = system_cx();
    let mut reading = db.source().begin(KEY, &cx).unwrap();
    let mut contents = Vec::new();
    while let Some(item) = reading.next().unwrap() {
        if let Some(mut content) = item.content {
            content.reader.read(&mut [0; 10]).unwrap();
            contents.push(content);
        }
    }
    assert!(sessions() >= 3);
    drop((reading, contents));
    for _ in 0..200 {
        if sessions() == 0 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(25));
    }
    panic!("{} sessions are left", sessions());
}

/// Programs that end in every wrong way: silently, in the middle, with words and a zero.
/// Keeps MK-66.
#[test]
fn a_dump_program_that_dies_or_lies_fails_the_reading() {
    let db = big("liar");
    let real = db.cluster.program_directory().to_owned();
    let real = real.display();
    for (pg_dump, pg_dumpall) in [
        ("exit 1", "REAL"),
        ("exit 0", "REAL"),
        ("REAL | head -c 700; exit 0", "REAL"),
        ("REAL | head -c 1000; exit 0", "REAL"),
        ("REAL; echo 'pg_dump: error: out of memory' >&2", "REAL"),
        ("REAL; kill -9 $$", "REAL"),
        ("printf 'PGDMP\\001\\016\\000'", "REAL"),
        ("REAL", "exit 1"),
        ("REAL", "exit 0"),
        ("REAL", "REAL | head -c 300"),
        ("REAL", "echo '-- PostgreSQL database cluster dump'"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        for (name, body) in [("pg_dump", pg_dump), ("pg_dumpall", pg_dumpall), ("pg_restore", "REAL")] {
            let body = body.replace("REAL", &format!("{real}/{name} \"$@\""));
            let script =
                format!("#!/bin/sh\n[ \"$1\" = --version ] && exec {real}/{name} --version\n{body}\n");
            let path = directory.path().join(name);
            std::fs::write(&path, script).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
        let settings =
            PostgresqlSettings { program_directory: Some(directory.path().to_owned()), ..db.settings() };
        let result = back_up(&source(settings));
        assert!(result.is_err(), "{pg_dump} / {pg_dumpall}");
    }
}

#[test]
fn a_pg_dump_that_is_too_old_is_said_by_name() {
    let db = big("old");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pg_dump");
    std::fs::write(&path, "#!/bin/sh\necho 'pg_dump (PostgreSQL) 12.3'\n").unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let settings =
        PostgresqlSettings { program_directory: Some(directory.path().to_owned()), ..db.settings() };
    let findings = source(settings.clone()).preflight(&system_cx()).unwrap();
    assert!(findings.iter().any(|finding| finding.problem.code == "pg-dump-too-old"), "{findings:?}");
    let error = back_up(&source(settings)).err().unwrap();
    assert_eq!(error.code(), ErrorCode::PgDumpTooOld);
    assert!(error.to_string().contains("12.3"), "{error}");
    let advice = error.advice().unwrap();
    assert!(advice.contains("postgresql-client-") && advice.contains("program_directory"), "{advice}");
}

#[test]
fn a_locked_table_ends_the_waiting_and_says_so() {
    let db = big("locked");
    let mut holder = db.client();
    holder.batch_execute("BEGIN; LOCK TABLE small IN ACCESS EXCLUSIVE MODE").unwrap();
    let settings =
        PostgresqlSettings { lock_timeout: jiff::SignedDuration::from_millis(300), ..db.settings() };
    let error = back_up(&source(settings)).err().unwrap();
    assert_eq!(error.code(), ErrorCode::Busy, "{error}");
}

#[test]
fn a_cancelled_reading_ends() {
    let db = big("cancelled");
    let cx = system_cx();
    let mut reading = db.source().begin(KEY, &cx).unwrap();
    cx.cancel().cancel();
    assert!(matches!(reading.next(), Err(SourceError::Cancelled(_))));
}

/// A table that is truncated after the snapshot was taken would be read as empty.
#[test]
fn a_table_that_is_truncated_meanwhile_is_not_kept_as_empty() {
    let db = Db::new("truncated");
    db.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 100) i; CREATE TABLE u (a int)");
    // The reading waits for the lock on `t`, with its snapshot taken; then `t` is rewritten and the lock let go.
    let mut holder = db.client();
    holder.batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE").unwrap();
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| back_up(&db.source()));
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND wait_event_type = 'Lock'";
        let mut admin = db.client_as("postgres", "postgres");
        while admin.query_one(waiting, &[&db.name]).unwrap().get::<_, i64>(0) == 0 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        holder.batch_execute("TRUNCATE t; INSERT INTO t VALUES (1), (2), (3); COMMIT").unwrap();
        let kept = reading.join().unwrap().unwrap();
        assert_eq!(kept.rows("public", "t"), Some(3), "the reading began anew");
    });
}
