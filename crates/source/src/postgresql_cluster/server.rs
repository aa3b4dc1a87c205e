//! The server's side of a base backup: what it says of itself, and the session in which the backup begins and ends.
//!
//! ```text
//! enter -> slot that keeps the log -> pg_backup_start -> ... files are read ... -> pg_backup_stop -> segments are read -> drop
//! ```
//!
//! The session is held open throughout. If it ends early, for whatever reason, the server forgets the backup and the slot by
//! itself, and nothing of the backup may be kept.

use super::manifest::Tablespace;
use crate::SourceError;
use crate::postgresql::{Connection, Session, failed};
use hikae_model::{Cx, ErrorCode, Lsn, SegmentName, SegmentSize, SystemId, Timeline, sabotage};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// How the backup is called in the server's files.
pub(super) const LABEL: &str = "hikae";

/// What a server says of itself before a backup.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) version: String,
    pub(super) version_num: u32,
    pub(super) system_id: SystemId,
    pub(super) catalog_version: u32,
    pub(super) is_standby: bool,
    /// Nobody, if we may not know.
    pub(super) data_directory: Option<PathBuf>,
    pub(super) block_size: u32,
    pub(super) wal_block_size: u32,
    pub(super) segment_size: SegmentSize,
    /// Pages in one file of a relation.
    pub(super) relation_segment_blocks: u32,
    pub(super) data_checksums: bool,
    /// Settings that a recovery needs, as far as we may know them.
    pub(super) settings: BTreeMap<String, String>,
    /// Database and role of this session.
    pub(super) database: String,
    pub(super) role: String,
    pub(super) may_start_and_stop: bool,
    pub(super) may_replicate: bool,
    pub(super) superuser: Option<String>,
}

/// Settings that are kept in the manifest.
const SETTINGS: &str = "'max_connections', 'max_worker_processes', 'max_wal_senders', 'max_prepared_transactions', \
    'max_locks_per_transaction', 'wal_level', 'full_page_writes', 'archive_mode', 'shared_preload_libraries', \
    'config_file', 'hba_file', 'ident_file', 'data_directory', 'server_encoding', 'lc_messages', 'summarize_wal'";

impl Facts {
    /// Asks for everything.
    pub(super) fn ask(session: &mut Session) -> Result<Self, SourceError> {
        #[derive(serde::Deserialize)]
        struct Told {
            version: String,
            system_id: String,
            catalog_version: u32,
            is_standby: bool,
            block_size: u32,
            wal_block_size: u32,
            wal_segment_size: u64,
            segment_size: u32,
            data_checksums: bool,
            settings: BTreeMap<String, String>,
            database: String,
            role: String,
            may_start_and_stop: bool,
            may_replicate: bool,
            superuser: Option<String>,
        }
        let version_num = session.server_version_num();
        let (start, stop) = functions(version_num);
        let sql = format!(
            "SELECT current_setting('server_version') AS version,
                    (SELECT system_identifier::text FROM pg_control_system()) AS system_id,
                    (SELECT catalog_version_no FROM pg_control_system()) AS catalog_version,
                    pg_is_in_recovery() AS is_standby,
                    current_setting('block_size')::int AS block_size,
                    current_setting('wal_block_size')::int AS wal_block_size,
                    (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size') AS wal_segment_size,
                    (SELECT setting::int FROM pg_settings WHERE name = 'segment_size') AS segment_size,
                    current_setting('data_checksums')::bool AS data_checksums,
                    (SELECT json_object_agg(name, setting) FROM pg_settings WHERE name IN ({SETTINGS})) AS settings,
                    current_database() AS database, current_user AS role,
                    has_function_privilege('{start}', 'EXECUTE') AND has_function_privilege('{stop}', 'EXECUTE')
                        AS may_start_and_stop,
                    (SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user) AS may_replicate,
                    (SELECT rolname FROM pg_roles WHERE rolsuper AND rolcanlogin ORDER BY oid LIMIT 1) AS superuser"
        );
        let told = session.rows::<Told>("look at", &sql)?.into_iter().next();
        let impossible =
            |what: &str| failed(ErrorCode::Failure, format!("the server does not say its {what}"), None);
        let told = told.ok_or_else(|| impossible("settings"))?;
        let segment_size =
            SegmentSize::new(told.wal_segment_size).ok_or_else(|| impossible("segment size"))?;
        let pages = [told.block_size, told.wal_block_size];
        if !pages.iter().all(|bytes| bytes.is_power_of_two() && (1024..=64 << 10).contains(bytes))
            || told.segment_size == 0
        {
            return Err(impossible("page sizes"));
        }
        Ok(Self {
            version: told.version,
            version_num,
            system_id: told.system_id.parse().map_err(|_| impossible("system identifier"))?,
            catalog_version: told.catalog_version,
            is_standby: told.is_standby,
            data_directory: told.settings.get("data_directory").map(PathBuf::from),
            block_size: told.block_size,
            wal_block_size: told.wal_block_size,
            segment_size,
            relation_segment_blocks: told.segment_size,
            data_checksums: told.data_checksums,
            settings: told.settings,
            database: told.database,
            role: told.role,
            may_start_and_stop: told.may_start_and_stop,
            may_replicate: told.may_replicate,
            superuser: told.superuser,
        })
    }
}

/// What begins and ends a backup, as SQL names them.
pub(super) fn functions(version_num: u32) -> (&'static str, &'static str) {
    match version_num {
        150_000.. => ("pg_catalog.pg_backup_start(text, boolean)", "pg_catalog.pg_backup_stop(boolean)"),
        _ => (
            "pg_catalog.pg_start_backup(text, boolean, boolean)",
            "pg_catalog.pg_stop_backup(boolean, boolean)",
        ),
    }
}

/// What the server's `pg_control` says, by its own functions: seconds of its last writing, and its checkpoint.
pub(super) fn control(session: &mut Session) -> Result<(i64, Lsn), SourceError> {
    let sql = "SELECT extract(epoch FROM pg_control_last_modified)::bigint::text, checkpoint_lsn::text
               FROM pg_control_system(), pg_control_checkpoint()";
    let row = session.query("look at", sql, &[])?.into_iter().next().unwrap_or_default();
    let mut columns = row.into_iter().flatten();
    let mut read = || Some((columns.next()?.parse().ok()?, columns.next()?.parse().ok()?));
    read().ok_or_else(|| {
        failed(ErrorCode::Failure, "the server does not say what its pg_control holds".into(), None)
    })
}

/// A server that was entered for a backup, and keeps its log for it.
pub(super) struct Entered {
    pub(super) session: Session,
    pub(super) facts: Facts,
    /// Why nothing keeps the log until it is read, if nothing does.
    pub(super) no_slot: Option<String>,
    databases: Vec<String>,
}

/// A backup that the server knows of.
pub(super) struct Begun {
    pub(super) server: Entered,
    pub(super) start: Lsn,
    pub(super) started: jiff::Timestamp,
}

/// What the server said at the end.
pub(super) struct Ended {
    pub(super) stop: Lsn,
    pub(super) stopped: jiff::Timestamp,
    pub(super) timeline: Timeline,
    pub(super) label: String,
    pub(super) tablespace_map: String,
    /// Those that were there from start to stop.
    pub(super) databases: Vec<String>,
}

impl Entered {
    /// Enters the server, and lets it keep its log as long as the session lasts.
    pub(super) fn enter(connection: &Connection, cx: &Cx) -> Result<Self, SourceError> {
        let mut session = Session::enter(connection, cx)?;
        let facts = Facts::ask(&mut session)?;
        // Without it, the server may take the segments away that the backup needs before they are read.
        let slot: String = cx.random::<4>().iter().map(|byte| format!("{byte:02x}")).collect();
        let kept = session.attempt(
            "keep the log of",
            "SELECT 1 FROM pg_create_physical_replication_slot($1, true, true)",
            &[&format!("hikae_{slot}")],
        )?;
        let databases = databases(&mut session, "begin a backup of")?;
        Ok(Self { session, facts, no_slot: kept.err(), databases })
    }

    /// The time by the server's clock.
    pub(super) fn clock(&mut self) -> Result<jiff::Timestamp, SourceError> {
        let now = self.session.value("look at", "SELECT clock_timestamp()::text", &[])?;
        now.and_then(|now| moment(&now)).ok_or_else(|| not_said("the time"))
    }

    /// The databases that were there when it was entered and still are.
    pub(super) fn databases(&mut self) -> Result<Vec<String>, SourceError> {
        let now = databases(&mut self.session, "end the backup of")?;
        Ok(self.databases.iter().filter(|name| now.contains(name)).cloned().collect())
    }
}

impl Begun {
    /// Enters the server and begins a backup. It makes a checkpoint at once.
    pub(super) fn begin(connection: &Connection, cx: &Cx) -> Result<Self, SourceError> {
        let mut server = Entered::enter(connection, cx)?;
        let sql = match server.facts.version_num {
            150_000.. => "SELECT clock_timestamp()::text, pg_backup_start($1, true)::text",
            _ => "SELECT clock_timestamp()::text, pg_start_backup($1, true, false)::text",
        };
        let session = &mut server.session;
        let row = session.query("begin a backup of", sql, &[LABEL])?.into_iter().next().unwrap_or_default();
        let mut columns = row.into_iter().flatten();
        let mut read = || Some((moment(&columns.next()?)?, columns.next()?.parse().ok()?));
        let (started, start) = read().ok_or_else(|| not_said("where the backup begins"))?;
        Ok(Self { server, start, started })
    }

    /// Ends the backup, and says what the server says. The session goes on, and with it the slot that keeps the log.
    pub(super) fn end(&mut self) -> Result<Ended, SourceError> {
        self.ask_to_end().map_err(ended_in_the_middle)
    }

    fn ask_to_end(&mut self) -> Result<Ended, SourceError> {
        let databases = self.server.databases()?;
        let sql = match self.server.facts.version_num {
            150_000.. => {
                "SELECT clock_timestamp()::text, lsn::text, labelfile, spcmapfile FROM pg_backup_stop(false)"
            }
            _ => {
                "SELECT clock_timestamp()::text, lsn::text, labelfile, spcmapfile FROM pg_stop_backup(false, false)"
            }
        };
        let session = &mut self.server.session;
        let row = session.query("end the backup of", sql, &[])?.into_iter().next().unwrap_or_default();
        let mut columns = row.into_iter();
        let mut next = || columns.next().flatten();
        let stopped = next().and_then(|text| moment(&text));
        let stop = next().and_then(|text| text.parse().ok());
        let (label, map) = (next(), next().unwrap_or_default());
        let label = label
            .filter(|label| !label.is_empty())
            .ok_or_else(|| not_said("how its backup is to be recovered"))?;
        let timeline = line(&label, "START TIMELINE: ").and_then(|text| Timeline::new(text.parse().ok()?));
        let timeline = timeline.ok_or_else(|| not_said("the timeline of its backup"))?;
        let (Some(stop), Some(stopped)) = (stop, stopped) else {
            return Err(not_said("where the backup ends"));
        };
        self.require_timeline(timeline)?;
        Ok(Ended { stop, stopped, timeline, label, tablespace_map: map, databases })
    }

    /// A standby may have followed its primary onto another timeline, and then the names of segments are of both.
    fn require_timeline(&mut self, started: Timeline) -> Result<(), SourceError> {
        if !self.server.facts.is_standby {
            return Ok(());
        }
        let sql = "SELECT greatest(timeline_id, min_recovery_end_timeline)::text
                   FROM pg_control_checkpoint(), pg_control_recovery()";
        let now = self.server.session.value("look at", sql, &[])?;
        match now.and_then(|text| text.parse().ok()).and_then(Timeline::new) {
            Some(now) if now != started && !sabotage::on("timeline-change-unseen") => {
                Err(went_over(started, now))
            }
            Some(_) => Ok(()),
            None => Err(not_said("its timeline")),
        }
    }
}

/// What to do when the session was no more.
pub(super) fn ended_in_the_middle(error: SourceError) -> SourceError {
    match error {
        SourceError::Failed { code, what, advice: None } => {
            let advice =
                "the session or the server ended in the middle, and nothing was kept: run the backup again";
            SourceError::Failed { code, what, advice: Some(advice.into()) }
        }
        error => error,
    }
}

/// The segments that the backup needs would be of two timelines.
pub(super) fn went_over(started: Timeline, now: Timeline) -> SourceError {
    let what = format!("the standby went over from timeline {started} to {now} in the middle of the backup");
    failed(ErrorCode::Failure, what, Some("run the backup again".into()))
}

/// Names of all databases that can be entered.
fn databases(session: &mut Session, verb: &str) -> Result<Vec<String>, SourceError> {
    let sql = "SELECT datname FROM pg_database WHERE datallowconn ORDER BY datname";
    let rows = session.query(verb, sql, &[])?;
    Ok(rows.into_iter().flatten().flatten().collect())
}

/// The rest of the line of a backup label that begins so.
fn line<'t>(label: &'t str, begins: &str) -> Option<&'t str> {
    label.lines().find_map(|line| line.strip_prefix(begins)).map(str::trim)
}

/// A time as the session's settings have it written: `2026-11-20 14:30:05.123+00`.
fn moment(text: &str) -> Option<jiff::Timestamp> {
    text.parse().ok()
}

/// The tablespaces of a map: each line a number, a space and a path with `\` before what would end it.
pub(super) fn parse_tablespace_map(map: &str) -> Option<Vec<Tablespace>> {
    let mut tablespaces = Vec::new();
    let mut rest = map;
    while !rest.is_empty() {
        let (oid, after) = rest.split_once(' ')?;
        let mut location = String::new();
        let mut characters = after.char_indices();
        let end = loop {
            match characters.next() {
                Some((at, '\n' | '\r')) => break at + 1,
                Some((_, '\\')) => location.push(characters.next()?.1),
                Some((_, character)) => location.push(character),
                None => break after.len(),
            }
        };
        tablespaces.push(Tablespace { oid: oid.parse().ok()?, location });
        rest = after.get(end..)?;
    }
    Some(tablespaces)
}

/// The names of the segments from `start` to `stop`.
pub(super) fn segments(start: Lsn, stop: Lsn, timeline: Timeline, size: SegmentSize) -> Vec<SegmentName> {
    // A place at the very beginning of a segment is the end of the one before.
    let last = SegmentName::holding(Lsn(stop.0.saturating_sub(1).max(start.0)), timeline, size);
    let first = SegmentName::holding(start, timeline, size);
    std::iter::successors(Some(first), |name| name.next(size)).take_while(|name| *name <= last).collect()
}

fn not_said(what: &str) -> SourceError {
    failed(ErrorCode::Failure, format!("the server does not say {what}"), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_of_tablespaces_is_read_whatever_is_in_the_paths() {
        let map = "16384 /srv/fast disk\n16390 /srv/a\\\nb\\\\c\n";
        let read = parse_tablespace_map(map).unwrap();
        let read: Vec<_> = read.iter().map(|space| (space.oid, space.location.as_str())).collect();
        assert_eq!(read, [(16384, "/srv/fast disk"), (16390, "/srv/a\nb\\c")]);
        assert_eq!(parse_tablespace_map(""), Some(Vec::new()));
        assert_eq!(parse_tablespace_map("x /srv"), None);
    }

    #[test]
    fn segments_go_from_start_to_stop_and_no_further() {
        let names = |start, stop| {
            let names = segments(Lsn(start), Lsn(stop), Timeline::FIRST, SegmentSize::USUAL);
            names.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(names(0x200_0028, 0x200_0100), ["000000010000000000000002"]);
        assert_eq!(names(0x200_0028, 0x300_0000), ["000000010000000000000002"]);
        assert_eq!(names(0x2ff_ff00, 0x300_0001), ["000000010000000000000002", "000000010000000000000003"]);
        assert_eq!(
            names(0xffff_ff00, 0x1_0000_0001),
            ["0000000100000000000000FF", "000000010000000100000000"]
        );
    }
}
