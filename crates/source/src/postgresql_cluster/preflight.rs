//! Whether a base backup could be made now, and what exactly is in its way.

use super::server::{Facts, functions};
use super::walk::{self, Root};
use super::{ClusterSettings, ReadBy, same_cluster, wire};
use crate::SourceError;
use crate::postgresql::{Connection, Finding, Session, Weight, quoted, replication};
use hikae_model::{Advise as _, Cx, ErrorCode, Problem};
use std::sync::Arc;

/// Oldest and newest major versions of servers that are known to work.
const KNOWN_MAJORS: std::ops::RangeInclusive<u32> = 13..=18;

/// Looks at everything.
pub(super) fn look(
    session: &mut Session,
    connection: &Connection,
    settings: &ClusterSettings,
    cx: &Cx,
) -> Result<Vec<Finding>, SourceError> {
    let facts = Facts::ask(session)?;
    let mut findings = Vec::new();
    let mut find = |weight, problem| findings.push(Finding { weight, problem });
    let on = connection.shown();
    let major = facts.version_num / 10_000;
    if !KNOWN_MAJORS.contains(&major) {
        let what = format!("the server is PostgreSQL {}", facts.version);
        find(Weight::Blocks, Problem::new("version", &on, what).advise("hikae knows PostgreSQL 13 to 18"));
    }
    if settings.read == ReadBy::Local && !facts.may_start_and_stop {
        let what = format!("role {} may not begin and end a backup", facts.role);
        find(Weight::Blocks, Problem::new("cannot-back-up", &on, what).advise(sql(&facts, settings.read)));
    }
    if !facts.may_replicate {
        let (weight, why) = match settings.read {
            ReadBy::Local => {
                (Weight::Warns, "so nothing holds the log until it is read, and a long backup may fail")
            }
            ReadBy::Wire => (Weight::Blocks, "so the server sends it no base backup"),
        };
        let what = format!("role {} has no REPLICATION, {why}", facts.role);
        find(weight, Problem::new("no-replication", &on, what).advise(sql(&facts, settings.read)));
    }
    if facts.settings.get("wal_level").is_some_and(|level| level == "minimal") {
        let what = "wal_level is minimal, and such a log does not make one state of files that were copied";
        let advice = "ALTER SYSTEM SET wal_level = 'replica', and restart the server";
        find(Weight::Blocks, Problem::new("wal-level", &on, what).advise(advice));
    }
    if !facts.data_checksums {
        let what = "pages have no checksums, so a damaged one is not seen";
        let advice = "stop the server and run pg_checksums --enable";
        find(Weight::Notes, Problem::new("no-checksums", &on, what).advise(advice));
    }
    let within_reach = match settings.read {
        ReadBy::Local => files(session, settings, &facts),
        ReadBy::Wire if facts.may_replicate => replication::Session::enter(connection, cx)
            .map_err(SourceError::from)
            .and_then(|mut sender| wire::same_server(session, &facts, &mut sender)),
        ReadBy::Wire => Ok(()), // which is said already
    };
    match within_reach {
        Ok(()) => {}
        Err(SourceError::Cancelled(cancelled)) => return Err(cancelled.into()),
        Err(error) => {
            let code = match error.code() {
                ErrorCode::Forbidden => "other-server",
                _ => "cannot-read",
            };
            let problem = Problem::new(code, &on, describe(&error));
            let advice = match &error {
                SourceError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                    Some("run hikae as the user of the server, or as root, or let the server send its files: read = \"wire\"".to_owned())
                }
                SourceError::Missing { .. } => Some(
                    "run hikae on the server's machine, set data_directory to where its files are, or let the server send them: read = \"wire\""
                        .to_owned(),
                ),
                error => error.advice().map(|advice| advice.to_string()),
            };
            find(
                Weight::Blocks,
                match advice {
                    Some(advice) => problem.advise(advice),
                    None => problem,
                },
            );
        }
    }
    Ok(findings)
}

/// Whether the files are there, are those of this server, and can be read.
fn files(session: &mut Session, settings: &ClusterSettings, facts: &Facts) -> Result<(), SourceError> {
    let data = Arc::new(Root::open(&settings.data_directory_of(facts)?)?);
    same_cluster(session, facts, &data)?;
    walk::list(&data, facts.version_num / 10_000, facts.catalog_version).map(drop)
}

/// An error with what the system said.
fn describe(error: &SourceError) -> String {
    match error {
        SourceError::Io { source, .. } => format!("{error}: {source}"),
        error => error.to_string(),
    }
}

/// What to run as a superuser, in the database that is entered, so that the role has what a backup needs.
pub(super) fn sql(facts: &Facts, read: ReadBy) -> String {
    let role = quoted(&facts.role);
    let (start, stop) = functions(facts.version_num);
    let mut sql = format!(
        "-- in database {}\nALTER ROLE {role} REPLICATION;\nGRANT pg_read_all_settings TO {role};",
        quoted(&facts.database)
    );
    if read == ReadBy::Local {
        for function in [start, stop] {
            sql.push_str(&format!("\nGRANT EXECUTE ON FUNCTION {function} TO {role};"));
        }
    }
    sql
}
