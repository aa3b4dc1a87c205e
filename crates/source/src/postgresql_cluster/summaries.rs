//! Which files did not change since an earlier base backup, by the server's summaries of its log (`summarize_wal`, 17 and
//! newer): they are not read again.
//!
//! The rules are those of PostgreSQL's own incremental backup (`backup/basebackup_incremental.c`), and stricter:
//!
//! - Summaries must lead without a gap, on one timeline, from where the earlier backup began to where this one begins. All that
//!   was written after that beginning is in them, so what the earlier backup read of other files is not torn.
//! - Only main forks of relations with page checksums are left out: without checksums pages change that the log does not name,
//!   and other forks are not wholly logged. A file of another length, one that was truncated or made anew, and all of a database
//!   that was copied as files are read.
//! - Nothing is believed for ever: pages of files that are left out are compared with what is kept, and once a week everything
//!   is read, which finds pages that rot on the disk.
//!
//! This module reads no file of the server.

use super::backup_manifest::{self, FileSum};
use super::manifest::Manifest;
use super::names::{Fork, RelationFile};
use super::server::{Begun, Facts};
use crate::{SourceError, Stored};
use hikae_model::{Cx, Lsn, Timeline, TreePath, sabotage};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read as _;
use std::time::Duration;

/// The first version that has summaries.
const FIRST_VERSION: u32 = 170_000;
/// How long the server may take to write the last of them.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
/// After so many hours everything is read again.
const READ_WHOLE_HOURS: i64 = 7 * 24;
/// The tablespaces that every cluster has (`catalog/pg_tablespace.dat`).
const DEFAULT_TABLESPACE: u32 = 1663;
const GLOBAL_TABLESPACE: u32 = 1664;

/// The timeline of the checkpoint with which a backup begins.
const TIMELINE: &str = "SELECT timeline_id::text FROM pg_control_checkpoint()";
/// Whether the server has summed up its log to here.
const SUMMED_UP: &str = "SELECT (summarized_lsn >= $1::pg_lsn)::text FROM pg_get_wal_summarizer_state()";

/// A relation: tablespace, database, and the number of its files. 0 stands for all of the database.
type Relation = (u32, u32, u32);
/// Files with changed pages, by relation and segment; without a segment, all of the relation.
type Changed = HashSet<(Relation, Option<u32>)>;

/// What did not change since an earlier backup.
pub(super) struct Unchanged {
    changed: Changed,
    /// How long each file was.
    bytes: HashMap<TreePath, u64>,
    sums: BTreeMap<Vec<u8>, FileSum>,
    page_bytes: u32,
    pub(super) timeline: Timeline,
    /// When everything was read last.
    pub(super) read_whole: jiff::Timestamp,
}

impl Unchanged {
    /// Whether the server sums up its log at all.
    pub(super) fn is_told(facts: &Facts) -> bool {
        let is_on = facts.settings.get("summarize_wal").is_some_and(|setting| setting == "on");
        is_on && facts.version_num >= FIRST_VERSION
    }

    /// Asks the server what changed between the backup `before` and the one that has `begun`.
    ///
    /// # Errors
    /// The inner error says why everything is to be read; [`SourceError`] if the session ended.
    pub(super) fn since(
        before: &dyn Stored,
        begun: &mut Begun,
        cx: &Cx,
    ) -> Result<Result<Self, String>, SourceError> {
        let manifest = match comparable(before, &begun.server.facts, begun.started) {
            Ok(manifest) => manifest,
            Err(why) => return Ok(Err(why)),
        };
        let (Ok(from), Some(read_whole)) = (manifest.start_lsn.parse::<Lsn>(), manifest.read_whole) else {
            return Ok(Err("the backup before does not say where it begins".into()));
        };
        let now = begun.server.session.value("look at", TIMELINE, &[])?;
        let timeline = now.and_then(|now| now.parse().ok()).and_then(Timeline::new);
        let Some(timeline) = timeline.filter(|timeline| timeline.get() == manifest.timeline) else {
            return Ok(Err(format!("the backup before is of timeline {}", manifest.timeline)));
        };
        let changed = match changed(begun, timeline, from, cx)? {
            Ok(changed) => changed,
            Err(why) => return Ok(Err(why)),
        };
        let entries = before.entries();
        let path = format!("stop/{}", backup_manifest::NAME);
        let Some(entry) = entries.iter().find(|entry| entry.path.as_bytes() == path.as_bytes()) else {
            return Ok(Err("the backup before has no manifest of its files".into()));
        };
        let mut json = Vec::new();
        let read = before.open(entry).and_then(|mut content| content.read_to_end(&mut json));
        let sums = match read.map_err(|error| error.to_string()).and_then(|_| backup_manifest::sums_of(&json))
        {
            Ok(sums) => sums,
            Err(why) => return Ok(Err(format!("the files of the backup before cannot be known: {why}"))),
        };
        let bytes = entries.iter().map(|entry| (entry.path.clone(), entry.size())).collect();
        let page_bytes = begun.server.facts.block_size;
        Ok(Ok(Self { changed, bytes, sums, page_bytes, timeline, read_whole }))
    }

    /// The sum of a file, if it is the same as in the backup before.
    pub(super) fn find(&self, path: &TreePath, file: RelationFile, bytes: u64) -> Option<FileSum> {
        let place = backup_manifest::place_of(path)?;
        let sum = self.sums.get(&place).filter(|sum| sum.bytes == bytes)?;
        let is_whole = bytes > 0 && bytes.is_multiple_of(u64::from(self.page_bytes));
        if file.fork != Fork::Main || !is_whole || self.bytes.get(path) != Some(&bytes) {
            return None;
        }
        let (tablespace, database) = space_and_database(&place)?;
        let is_changed = [(file.number, Some(file.segment)), (file.number, None), (0, None)]
            .into_iter()
            .any(|(number, segment)| self.changed.contains(&((tablespace, database, number), segment)));
        (!is_changed || sabotage::on("summaries-unread")).then_some(*sum)
    }
}

/// The manifest of the earlier backup, if what it read can be what is there still.
fn comparable(before: &dyn Stored, facts: &Facts, now: jiff::Timestamp) -> Result<Manifest, String> {
    let manifest = before.manifest().ok_or("the backup before has no manifest")?;
    let manifest = Manifest::parse(manifest).map_err(|error| error.to_string())?;
    if !facts.data_checksums || !manifest.data_checksums {
        return Err("pages have no checksums, or had none, and so change without the log".into());
    }
    let same = [
        manifest.system_id == facts.system_id.to_string(),
        manifest.catalog_version == facts.catalog_version,
        manifest.block_size == facts.block_size,
        manifest.relation_segment_blocks == facts.relation_segment_blocks,
        manifest.from_standby == facts.is_standby,
    ];
    if same.contains(&false) {
        return Err("the backup before is of another server, or of a standby".into());
    }
    if manifest.n_bad_pages > 0 {
        return Err("the backup before has damaged pages".into());
    }
    let read_whole = manifest.read_whole.ok_or("the backup before is of an older release")?;
    if !(0..READ_WHOLE_HOURS).contains(&now.duration_since(read_whole).as_hours()) {
        return Err("everything is read once a week".into());
    }
    Ok(manifest)
}

/// The files that the log names between two places, once the server has summed it up.
fn changed(
    begun: &mut Begun,
    timeline: Timeline,
    from: Lsn,
    cx: &Cx,
) -> Result<Result<Changed, String>, SourceError> {
    let to = begun.start;
    let begun_waiting = cx.elapsed();
    let summaries = loop {
        let is_done = begun.server.session.value("look at", SUMMED_UP, &[&to.to_string()])?;
        let found = available(begun, timeline, from)?;
        if leads(&found, from, to) || sabotage::on("summary-gap-unseen") {
            break found;
        }
        let is_done = is_done.is_some_and(|is_done| is_done.starts_with('t'));
        if is_done || cx.elapsed().saturating_sub(begun_waiting) > PATIENCE {
            let what =
                format!("the server has no summaries of its log from {from} to {to} on timeline {timeline}");
            return Ok(Err(what));
        }
        cx.check()?;
        std::thread::sleep(POLL);
    };
    let mut changed = Changed::new();
    for (first, last) in summaries {
        // A fork but the main one is read in any case.
        let sql = format!(
            "SELECT DISTINCT reltablespace::text, reldatabase::text, relfilenode::text,
                    CASE WHEN is_limit_block THEN NULL ELSE relblocknumber / {} END::text
             FROM pg_wal_summary_contents($1::int8, $2::pg_lsn, $3::pg_lsn) WHERE relforknumber = 0",
            begun.server.facts.relation_segment_blocks
        );
        let parameters = [&timeline.to_string(), &first.to_string(), &last.to_string()];
        let session = &mut begun.server.session;
        let rows = match session.attempt_rows("look at", &sql, &parameters.map(String::as_str))? {
            Ok(rows) => rows,
            Err(why) => return Ok(Err(format!("a summary of the log cannot be read: {why}"))),
        };
        for row in rows {
            let Some(named) = parse_row(&row) else {
                return Ok(Err(format!("a summary of the log is not understood: {row:?}")));
            };
            changed.insert(named);
        }
    }
    Ok(Ok(changed))
}

/// The summaries that tell of anything after `from`, in the order of the log.
fn available(begun: &mut Begun, timeline: Timeline, from: Lsn) -> Result<Vec<(Lsn, Lsn)>, SourceError> {
    let sql = "SELECT start_lsn::text, end_lsn::text FROM pg_available_wal_summaries()
               WHERE tli = $1::int8 AND end_lsn > $2::pg_lsn AND start_lsn < $3::pg_lsn ORDER BY start_lsn";
    let parameters = [timeline.to_string(), from.to_string(), begun.start.to_string()];
    let [timeline, from, to] = &parameters;
    let rows = begun.server.session.query("look at", sql, &[timeline, from, to])?;
    let parse = |row: Vec<Option<String>>| {
        let mut columns = row.into_iter().flatten().map(|text| text.parse().ok());
        Some((columns.next()??, columns.next()??))
    };
    Ok(rows.into_iter().filter_map(parse).collect())
}

/// Whether they lead from one place to the other without a gap.
fn leads(summaries: &[(Lsn, Lsn)], from: Lsn, to: Lsn) -> bool {
    let reached = summaries.iter().fold(
        from,
        |reached, (first, last)| {
            if *first <= reached { reached.max(*last) } else { reached }
        },
    );
    from <= to && reached >= to
}

fn parse_row(row: &[Option<String>]) -> Option<(Relation, Option<u32>)> {
    let [tablespace, database, number, segment] = row else { return None };
    let parse = |text: &Option<String>| text.as_ref()?.parse().ok();
    let segment = match segment {
        Some(text) => Some(text.parse().ok()?),
        None => None,
    };
    Some(((parse(tablespace)?, parse(database)?, parse(number)?), segment))
}

/// Of what tablespace and database a file is that stands here in a data directory.
fn space_and_database(place: &[u8]) -> Option<(u32, u32)> {
    let names: Vec<&str> = std::str::from_utf8(place).ok()?.split('/').collect();
    match names[..] {
        ["global", _] => Some((GLOBAL_TABLESPACE, 0)),
        ["base", database, _] => Some((DEFAULT_TABLESPACE, database.parse().ok()?)),
        ["pg_tblspc", tablespace, _, database, _] => Some((tablespace.parse().ok()?, database.parse().ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_in_the_summaries_is_seen() {
        let lsns = |pairs: &[(u64, u64)]| pairs.iter().map(|(a, b)| (Lsn(*a), Lsn(*b))).collect::<Vec<_>>();
        for (summaries, lead) in [
            (&[(10, 20), (20, 30)][..], true),
            (&[(5, 20), (15, 40)], true),
            (&[(10, 19), (20, 30)], false),
            (&[(11, 30)], false),
            (&[(10, 29)], false),
            (&[], false),
        ] {
            assert_eq!(leads(&lsns(summaries), Lsn(10), Lsn(30)), lead, "{summaries:?}");
        }
        assert!(leads(&[], Lsn(30), Lsn(30)));
        assert!(!leads(&lsns(&[(10, 40)]), Lsn(31), Lsn(30)), "the server was set back");
    }

    #[test]
    fn files_are_known_by_where_they_stand() {
        for (place, found) in [
            ("global/1262", Some((1664, 0))),
            ("base/5/16384.1", Some((1663, 5))),
            ("pg_tblspc/16390/PG_17_202406281/5/16391", Some((16390, 5))),
            ("base/5/x/1", None),
            ("pg_xact/0000", None),
        ] {
            assert_eq!(space_and_database(place.as_bytes()), found, "{place}");
        }
    }
}
