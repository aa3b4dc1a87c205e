//! Whether a server's log comes to us: what `hikae doctor` says of each source of kind `postgresql-cluster`.

use super::slot_of;
use super::window::window;
use crate::OpsError;
use crate::config::{Config, SourceConfig, SourceSettings};
use crate::doctor::{Condition, Health};
use crate::surroundings::Surroundings;
use hikae_model::{Cx, ErrorCode, sabotage};
use hikae_repo::Repo;
use hikae_source::postgresql::replication::{ReplicationError, SlotHealth, slot_health};
use hikae_source::postgresql::{Connection, Host};
use hikae_source::postgresql_cluster::{HbaRule, Upkeep, calls_hikae_wal};
use std::sync::Arc;
use std::time::Duration;

/// A file that waits for so long to be archived is a sign; for as long as the second, a failure.
const LATE: Duration = Duration::from_secs(5 * 60);
const MUCH_TOO_LATE: Duration = Duration::from_secs(60 * 60);

/// What the servers of the configuration say of their log.
pub fn look_at_logs(config: &Config, around: &Surroundings, cx: &Cx) -> Vec<Condition> {
    let mut found = Vec::new();
    for (name, source) in &config.sources {
        if !matches!(source.settings, SourceSettings::PostgresqlCluster(_)) {
            continue;
        }
        // That it cannot be entered is said of the source already.
        let Ok(cluster) = source.cluster(name, around, cx) else { continue };
        let Ok(upkeep) = Upkeep::ask(cluster.connection(), &cluster.connection().user, cx) else { continue };
        match look_at_log(name, cluster.connection(), &upkeep, cx) {
            Ok(conditions) => found.extend(conditions),
            Err(error) => found.push(Condition::fail(format!("log of {name}"), &error)),
        }
    }
    found
}

fn look_at_log(
    name: &str,
    connection: &Connection,
    upkeep: &Upkeep,
    cx: &Cx,
) -> Result<Vec<Condition>, OpsError> {
    let mut found = Vec::new();
    let slot = slot_of_source(name, connection, cx)?;
    found.extend(archiving(name, upkeep, slot.is_some()));
    found.extend(slot.iter().flat_map(|slot| look_at_slot(name, slot)));
    // What is received is kept as it is written.
    if slot.is_none() && matches!(upkeep.setting("archive_mode"), Some("on" | "always")) {
        found.extend(late_segments(name, upkeep));
    }
    found.extend(entrance(name, connection, upkeep));
    Ok(found)
}

/// Whether a segment that a quiet server does not fill stays with the server alone.
fn late_segments(name: &str, upkeep: &Upkeep) -> Option<Condition> {
    (upkeep.setting("archive_timeout") == Some("0")).then(|| {
        Condition::warn(
            format!("log of {name}"),
            "archive_timeout is 0: on a quiet server the last segment is kept only when it is full, in hours or days",
            "ALTER SYSTEM SET archive_timeout = '60s'; SELECT pg_reload_conf(); that is the most that can be lost then",
        )
    })
}

/// Whether each server of the configuration can come back to every moment since its first base backup in `repo`.
pub fn look_at_windows(repo: &Arc<Repo>, config: &Config, cx: &Cx) -> Vec<Condition> {
    let is_cluster = |source: &&SourceConfig| matches!(source.settings, SourceSettings::PostgresqlCluster(_));
    let names = config.sources.iter().filter(|(_, source)| is_cluster(source)).map(|(name, _)| name);
    names.filter_map(|name| look_at_window(repo, name, cx)).collect()
}

/// Nothing where there is no base backup: that is said of the backups already.
fn look_at_window(repo: &Arc<Repo>, name: &str, cx: &Cx) -> Option<Condition> {
    let title = format!("window of {name}");
    let report = match window(repo, name, cx) {
        Ok(report) => report,
        Err(OpsError::Refused { code: ErrorCode::Usage, .. }) => return None,
        Err(error) => return Some(Condition::fail(title, &error)),
    };
    let missing: u64 = report.gaps.iter().map(|gap| gap.n_segments).sum();
    Some(match (report.is_broken(), report.intervals.last()) {
        (false, Some(last)) => {
            let to =
                last.to_moment.map_or("a moment that this key does not open".to_owned(), |to| to.to_string());
            Condition::ok(title, format!("from {} to {to}", last.from_moment))
        }
        _ => Condition {
            health: Health::Fail,
            ..Condition::warn(
                title,
                match missing {
                    0 => "nothing can be reached, or not what came before a timeline began".to_owned(),
                    n => format!("gaps in its log: {n} missing of segment files that a recovery reads"),
                },
                format!(
                    "`hikae pg window {name}` says what can be reached; take a base backup now: `hikae backup`"
                ),
            )
        },
    })
}

/// The source's own slot, if it has one.
fn slot_of_source(name: &str, connection: &Connection, cx: &Cx) -> Result<Option<SlotHealth>, OpsError> {
    let Ok(slot) = slot_of(name) else { return Ok(None) };
    match slot_health(connection, &slot, cx) {
        Ok(health) => Ok(Some(health)),
        Err(ReplicationError::NoSlot { .. }) => Ok(None),
        Err(error) => Err(super::receive::of_stream(name, error)),
    }
}

fn look_at_slot(name: &str, slot: &SlotHealth) -> Vec<Condition> {
    let title = format!("slot of {name}");
    let worst = |code: &str| {
        if matches!(code, "slot-lost" | "slot-unreserved") { Health::Fail } else { Health::Warn }
    };
    let problems = slot.problems();
    let mut found: Vec<Condition> = problems
        .iter()
        .map(|problem| Condition {
            health: worst(&problem.code),
            ..Condition::warn(&title, problem.what.clone(), problem.advice.clone().unwrap_or_default())
        })
        .collect();
    if !slot.active {
        let advice = format!(
            "start `hikae pg receive {name}`, or if nobody is to receive it: SELECT pg_drop_replication_slot('{}')",
            slot.slot
        );
        found.push(Condition::warn(&title, "nobody receives the log, and the server holds it", advice));
    }
    if found.is_empty() {
        found.push(Condition::ok(title, format!("{} is received", slot.slot)));
    }
    found
}

/// What archiving does, where the server archives or nothing else takes its log.
fn archiving(name: &str, upkeep: &Upkeep, has_slot: bool) -> Vec<Condition> {
    let title = format!("log of {name}");
    let fail = |found: String, advice: &str| Condition {
        health: Health::Fail,
        ..Condition::warn(&title, found, advice)
    };
    if upkeep.setting("archive_mode") == Some("off") {
        let what = "archive_mode is off and no slot is ours: what was written after the last base backup is lost with the server";
        let advice = format!("`hikae pg setup {name}` says what the server needs");
        return if has_slot { Vec::new() } else { vec![Condition::warn(title, what, advice)] };
    }
    let mut found = Vec::new();
    let by_library = upkeep.setting("archive_library").filter(|library| !library.is_empty());
    match (by_library, upkeep.setting("archive_command")) {
        (Some(library), _) => found.push(Condition::warn(
            &title,
            format!("the library {library} archives it, not hikae"),
            format!("if that is not meant, see `hikae pg setup {name}`"),
        )),
        (None, None) => found.push(Condition::warn(
            &title,
            "this role may not see archive_command",
            format!("`hikae pg setup {name}` says what it lacks"),
        )),
        (None, Some("")) => found.push(fail(
            "archive_command is empty: the server keeps its log until the disk is full".into(),
            "`hikae pg setup` says what to set",
        )),
        (None, Some(command)) if throws_away(command) => found.push(fail(
            "archive_command keeps nothing: the log is thrown away".into(),
            "`hikae pg setup` says what to set; then take a base backup",
        )),
        (None, Some(command)) if !calls_hikae_wal(command) => {
            // It may hold a secret, so no more of it is shown.
            let program = command.split_whitespace().next().unwrap_or_default().to_owned();
            found.push(Condition::warn(
                &title,
                format!("archive_command is not ours, it begins with `{program}`"),
                format!("if that is not meant, see `hikae pg setup {name}`"),
            ));
        }
        (None, Some(_)) => {}
    }
    let archiver = &upkeep.archiver;
    if archiver.is_failing() && !sabotage::on("failing-archiver-unseen") {
        found.push(fail(
            format!(
                "archiving fails: {} failed {} ago, {} calls in all; the last success was {}",
                archiver.last_failed.as_deref().unwrap_or("a file"),
                ago(archiver.failed_seconds_ago.unwrap_or_default()),
                archiver.n_failed,
                archiver.archived_seconds_ago.map_or("never".to_owned(), |at| format!("{} ago", ago(at))),
            ),
            "the server's log says why, in lines that begin with hikae-wal; until it is mended pg_wal grows",
        ));
    }
    if let Some(age) = upkeep.oldest_ready.filter(|age| *age >= LATE) {
        let what = format!(
            "{} files wait to be archived, the oldest for {}",
            upkeep.n_ready.unwrap_or(1),
            ago(age.as_secs_f64())
        );
        let advice = "see that archive_command ends, and is as fast as the log is written";
        found.push(match age >= MUCH_TOO_LATE {
            true => fail(what, advice),
            false => Condition::warn(&title, what, advice),
        });
    }
    if found.is_empty() {
        let last =
            archiver.archived_seconds_ago.map_or("nothing yet".into(), |at| format!("last {} ago", ago(at)));
        found.push(Condition::ok(title, format!("archived, {last}")));
    }
    found
}

/// Whether a command only says that all is well.
fn throws_away(command: &str) -> bool {
    matches!(command.trim(), "/bin/true" | "/usr/bin/true" | "true" | ":" | "exit 0" | "/bin/true %p")
}

/// How our role enters.
fn entrance(name: &str, connection: &Connection, upkeep: &Upkeep) -> Vec<Condition> {
    let title = format!("entrance to {name}");
    let mut found = Vec::new();
    if matches!(connection.host, Host::Name(_)) && !connection.is_local() && !upkeep.is_encrypted {
        found.push(Condition::warn(
            &title,
            "what is sent is not encrypted: who can see the network reads every page and every row",
            "turn on ssl at the server, and put sslmode=verify-full into the connection",
        ));
    }
    let role = &connection.user;
    let weak =
        |rule: &&HbaRule| rule.is_for(role) && matches!(rule.method.as_str(), "trust" | "md5" | "password");
    for rule in upkeep.rules.iter().flatten().filter(weak) {
        let why = match rule.method.as_str() {
            "trust" => "lets in whoever says to be it, without proof",
            "md5" => "proves it by md5, which who has seen the stored hash can do too",
            _ => "has the password sent as it is",
        };
        found.push(Condition::warn(
            &title,
            format!("line {} of pg_hba.conf ({} for {role}) {why}", rule.line, rule.kind),
            "set password_encryption = scram-sha-256, set the password anew, and put scram-sha-256 into the line",
        ));
    }
    found
}

fn ago(seconds: f64) -> String {
    match seconds as u64 {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ ..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}
