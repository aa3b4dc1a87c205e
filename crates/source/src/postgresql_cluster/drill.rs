//! A drill: a restored cluster is started in a server of its own, comes to the end of the backup, and is looked at.
//!
//! ```text
//! prepare -> (the files are restored there) -> prove: pg_verifybackup, start, replay, look, pg_amcheck, stop,
//!                                                     pg_checksums
//! ```
//!
//! Nothing of the source's configuration is used: it could archive into production, listen, or ask for more memory than
//! there is. What recovery needs of it is in the manifest.

use super::backup_manifest;
use super::manifest::Manifest;
use crate::SourceError;
use crate::check::Check;
use crate::postgresql::{
    Begins, Cluster, ClusterOptions, Environment, PhaseTime, Ran, Session, Stopwatch, Vacant, failed,
};
use hikae_model::{Cx, ErrorCode, Lsn, sabotage};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// How to drill.
#[derive(Clone, Debug, Default)]
pub struct DrillOptions {
    /// Where the server's programs are, if not in one of the usual places.
    pub program_directory: Option<PathBuf>,
    /// As which user the server runs if we are root.
    pub run_as: Option<String>,
}

/// Up to where in its life a cluster is that is to be proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpTo {
    /// The end of its backup, to which the log in it leads.
    EndOfBackup,
    /// A later moment, to which it was recovered: databases may have come and gone since.
    Later,
}

/// What a drill showed.
#[derive(Clone, Debug)]
pub struct DrillResult {
    /// Everything that was compared.
    pub checks: Vec<Check>,
    /// How long each phase took.
    pub timings: Vec<PhaseTime>,
    /// How many of them it took until the cluster could have served again.
    pub n_until_served: usize,
    /// The server in which it was looked at, as `15.13`.
    pub server_version: String,
    /// What was left out or done differently.
    pub notes: Vec<String>,
}

/// Settings that must be no smaller than the source's, or recovery ends (`access/transam/xlogrecovery.c`).
const MINIMA: [&str; 5] = [
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
];

/// Makes a place below `scratch` in which a server of the right version can be started once the cluster is restored there.
///
/// # Errors
/// [`SourceError`]: there is no such server here.
pub fn prepare(
    manifest: &Manifest,
    scratch: &Path,
    options: &DrillOptions,
    environment: &Environment,
    cx: &Cx,
) -> Result<Vacant, SourceError> {
    let vacant = Vacant::make(&throw_away(manifest, options), scratch, environment, cx)?;
    if vacant.major() != manifest.major() {
        // Its files are of one major version and no other.
        return Err(failed(
            ErrorCode::Usage,
            format!(
                "the cluster is of PostgreSQL {}, and the server here is {}",
                manifest.major(),
                vacant.major()
            ),
            Some(format!("install postgresql-{}, or drill on a machine that has it", manifest.major())),
        ));
    }
    Ok(vacant)
}

/// The server in which a cluster is looked at or recovered.
pub(super) fn throw_away(manifest: &Manifest, options: &DrillOptions) -> ClusterOptions {
    let mut settings: Vec<(String, String)> = [
        ("wal_level", "replica"),
        ("restore_command", ""),
        ("huge_pages", "off"),
        ("ssl", "off"),
        ("data_sync_retry", "on"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let minimum = |name: &str| Some((name.to_owned(), manifest.settings.get(name)?.clone()));
    settings.extend(MINIMA.iter().filter_map(|name| minimum(name)));
    if manifest.major() >= 17 {
        // A trigger on login would run in our own session.
        settings.push(("event_triggers".into(), "off".into()));
    }
    ClusterOptions {
        major: manifest.major(),
        program_directory: options.program_directory.clone(),
        run_as: options.run_as.clone(),
        superuser: manifest.superuser.clone(),
        settings,
        ..ClusterOptions::default()
    }
}

/// Starts the server on what was restored, and looks at it.
///
/// # Errors
/// [`SourceError`]: it did not come up, or cannot be looked at.
pub fn prove(vacant: Vacant, manifest: &Manifest, up_to: UpTo, cx: &Cx) -> Result<DrillResult, SourceError> {
    let data = vacant.data();
    let (mut notes, mut watch) = (Vec::new(), Stopwatch::new(cx));
    vacant.give_all()?;
    let mut checks = Vec::from_iter(verify(&vacant, &mut notes, cx)?);
    watch.lap("pg_verifybackup");
    for name in ["postgresql.conf", "postgresql.auto.conf"] {
        let path = data.join(name);
        std::fs::write(&path, "").map_err(|source| SourceError::Io { verb: "write", path, source })?;
    }
    vacant.give_all()?;
    let database =
        match up_to == UpTo::EndOfBackup && manifest.databases.iter().any(|name| name == "postgres") {
            true => "postgres",
            false if up_to == UpTo::Later => "template1",
            false => manifest.databases.first().map_or("template1", String::as_str),
        };
    let started = vacant.start(Begins::Recovering, database, cx);
    let mut cluster = started.map_err(fault_of_files)?;
    watch.lap("start and replay the log");
    let n_until_served = watch.times.len();

    checks.extend(look(&cluster, manifest, up_to, &mut notes, cx)?);
    watch.lap("look");
    checks.extend(amcheck(&cluster, &mut notes, cx)?);
    watch.lap("pg_amcheck");
    cluster.stop(cx)?;
    watch.lap("stop");
    checks.extend(checksums(&cluster, manifest, &data, &mut notes, cx)?);
    watch.lap("pg_checksums");
    if !cluster.is_fenced() {
        notes.push("the server could have reached the network: no namespace can be made here".to_owned());
    }
    Ok(DrillResult {
        checks,
        timings: watch.times,
        n_until_served,
        server_version: cluster.version().to_owned(),
        notes,
    })
}

/// The files as they were restored, by PostgreSQL's own program. A cluster that was recovered further has no manifest.
fn verify(vacant: &Vacant, notes: &mut Vec<String>, cx: &Cx) -> Result<Option<Check>, SourceError> {
    let data = vacant.data();
    if !data.join(backup_manifest::NAME).exists() {
        return Ok(None);
    }
    cx.progress().begin("checking", "files", 0);
    let Some(Ran { ended, .. }) = vacant.run("pg_verifybackup", &["--quiet".into(), data.into()], cx)? else {
        notes.push("pg_verifybackup is not installed, so files were not compared with their manifest".into());
        return Ok(None);
    };
    let actual = ended.err().unwrap_or_else(|| "none".to_owned());
    Ok(Some(Check::equal("damage found by pg_verifybackup", "none", actual)))
}

/// A server that did not start is of the right version and on files of ours: what it cannot make of them is their fault.
pub(super) fn fault_of_files(error: SourceError) -> SourceError {
    match error {
        SourceError::Failed { code: ErrorCode::Failure, what, advice } => {
            SourceError::Failed { code: ErrorCode::VerificationFailed, what, advice }
        }
        error => error,
    }
}

/// How far it came, and whether everything is there.
fn look(
    cluster: &Cluster,
    manifest: &Manifest,
    up_to: UpTo,
    notes: &mut Vec<String>,
    cx: &Cx,
) -> Result<Vec<Check>, SourceError> {
    let mut session = Session::enter(cluster.connection(), cx)?;
    let mut value = |sql: &str| session.value("look at", sql, &[]).map(Option::unwrap_or_default);
    let reached = value("SELECT pg_current_wal_insert_lsn()::text")?;
    let passed = match (reached.parse::<Lsn>(), manifest.stop_lsn.parse::<Lsn>()) {
        (Ok(reached), Ok(stop)) => reached >= stop,
        _ => false,
    };
    let mut checks = vec![
        Check {
            name: "log replayed".to_owned(),
            expected: format!("to the end of the backup, {}", manifest.stop_lsn),
            actual: reached,
            passed,
        },
        Check::equal(
            "in recovery still",
            "f",
            value("SELECT pg_is_in_recovery()::text")?.get(..1).unwrap_or(""),
        ),
        Check::equal(
            "system identifier",
            &manifest.system_id,
            value("SELECT system_identifier::text FROM pg_control_system()")?,
        ),
    ];
    let databases = match up_to {
        UpTo::EndOfBackup => manifest.databases.clone(),
        UpTo::Later => {
            // One with this limit is in the middle of being dropped (`dbcommands.c`).
            let names = "SELECT datname FROM pg_database WHERE datallowconn AND datconnlimit <> -2";
            session.query("look at", names, &[])?.into_iter().flatten().flatten().collect()
        }
    };
    drop(session);
    let (mut n_entered, mut n_relations) = (0, 0_u64);
    for name in &databases {
        let count =
            |mut session: Session| session.value("look at", "SELECT count(*)::text FROM pg_class", &[]);
        match Session::enter(&cluster.connection().to_database(name), cx).and_then(count) {
            Ok(n) => {
                n_entered += 1;
                n_relations += n.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
            }
            Err(SourceError::Cancelled(cancelled)) => return Err(cancelled.into()),
            Err(error) => notes.push(error.to_string()),
        }
    }
    // They came back as they were. A cluster with such pages is not proved, whatever else can be looked at here.
    checks.push(Check::equal("pages damaged when they were backed up", 0, manifest.n_bad_pages));
    checks.push(Check::equal("databases that can be entered", databases.len(), n_entered));
    notes.push(format!("{n_relations} relations in {} databases", databases.len()));
    Ok(checks)
}

/// Every index against its table, and every table by itself.
fn amcheck(cluster: &Cluster, notes: &mut Vec<String>, cx: &Cx) -> Result<Option<Check>, SourceError> {
    cx.progress().begin("checking", "tables and indexes", 0);
    let connection = cluster.connection();
    let arguments = ["--all", "--heapallindexed", "--install-missing", "--no-password"];
    let mut arguments: Vec<OsString> = arguments.map(Into::into).into();
    let crate::postgresql::Host::Socket(socket) = &connection.host else { return Ok(None) };
    arguments.extend(["--host".into(), socket.into(), "--port".into(), connection.port.to_string().into()]);
    arguments.extend(["--username".into(), (&connection.user).into()]);
    let Some(Ran { ended: ran, printed }) = cluster.run("pg_amcheck", &arguments, cx)? else {
        notes.push("pg_amcheck is not installed, so indexes were not compared with their tables".to_owned());
        return Ok(None);
    };
    let no_extension = |text: &str| text.contains("extension \"amcheck\" is not available");
    if ran.as_ref().is_err_and(|error| no_extension(error)) {
        notes.push(
            "the extension amcheck is not installed, so indexes were not compared with their tables"
                .to_owned(),
        );
        return Ok(None);
    }
    let found: Vec<&str> = printed.lines().take(5).collect();
    let actual = match (&ran, found.is_empty()) {
        (Ok(()), true) => "none".to_owned(),
        (_, false) => found.join("; "),
        (Err(error), true) => error.clone(),
    };
    Ok(Some(Check::equal("damage found by pg_amcheck", "none", actual)))
}

/// Every page of the stopped cluster.
fn checksums(
    cluster: &Cluster,
    manifest: &Manifest,
    data: &Path,
    notes: &mut Vec<String>,
    cx: &Cx,
) -> Result<Option<Check>, SourceError> {
    if !manifest.data_checksums {
        notes.push("pages have no checksums".to_owned());
        return Ok(None);
    }
    cx.progress().begin("checking", "pages", 0);
    let arguments: Vec<OsString> = vec!["--check".into(), "--pgdata".into(), data.into()];
    let Some(Ran { ended: ran, printed }) = cluster.run("pg_checksums", &arguments, cx)? else {
        notes.push(
            "pg_checksums is not installed, so pages were not compared with their checksums".to_owned(),
        );
        return Ok(None);
    };
    let bad = printed.lines().find_map(|line| line.strip_prefix("Bad checksums:"));
    let actual = match (bad.map(str::trim), ran) {
        (Some(n), Ok(())) => n.to_owned(),
        (_, Err(_)) if sabotage::on("bad-pages-pass") => "0".to_owned(),
        (Some("0"), Err(error)) => error,
        (Some(n), Err(_)) => n.to_owned(),
        (None, Err(error)) => error,
        (None, Ok(())) => "pg_checksums does not say".to_owned(),
    };
    Ok(Some(Check::equal("pages with a wrong checksum", 0, actual)))
}
