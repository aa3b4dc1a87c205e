//! Naming a snapshot: by id, by the beginning of an id, by source, by time, or as the latest one.
//!
//! ```text
//! latest              the newest that is complete; the newest of all if none is
//! latest-verified     the newest that is complete and whose drill found everything right
//! 3f02                the one whose id begins so
//! documents           the latest of the source of this name
//! 2026-11-20 14:30 +09:00, 2026-11-20T05:30:00Z, 2026-11-20 14:30
//!                     the newest that is not younger; without an offset, in the zone of who asks
//! 2026-11-20          the newest of that day
//! ```
//!
//! This module is pure: it knows the state of a repository and reads nothing.

use crate::OpsError;
use crate::config::nearest;
use crate::error::printable;
use hikae_model::ErrorCode;
use hikae_repo::state::{SnapshotState, State};
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use std::collections::BTreeSet;

/// A snapshot, as a person names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotSelector {
    /// The newest that is complete.
    Latest,
    /// The newest that is complete and that a drill found right.
    LatestVerified,
    /// The newest at this moment.
    At(Timestamp),
    /// The newest at this moment of the asker's zone.
    AtLocal(DateTime),
    /// The newest of this day in the asker's zone.
    On(Date),
    /// A source, or the beginning of an id.
    Named(String),
}

impl std::str::FromStr for SnapshotSelector {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        Ok(match text {
            "latest" => Self::Latest,
            "latest-verified" => Self::LatestVerified,
            text => parse_time(text).unwrap_or_else(|| Self::Named(text.to_owned())),
        })
    }
}

/// A date, or a time with or without an offset. An offset may stand after a space.
fn parse_time(text: &str) -> Option<SnapshotSelector> {
    let looks_like_time = text.len() >= 10 && text.as_bytes()[4] == b'-' && text.as_bytes()[7] == b'-';
    if !looks_like_time {
        return None;
    }
    if let Ok(date) = text.parse::<Date>()
        && text.len() == 10
    {
        return Some(SnapshotSelector::On(date));
    }
    let joined = text.replace(" +", "+").replace(" -", "-").replace(" Z", "Z");
    if let Ok(zoned) = joined.parse::<Zoned>() {
        return Some(SnapshotSelector::At(zoned.timestamp()));
    }
    if let Ok(moment) = joined.parse::<Timestamp>() {
        return Some(SnapshotSelector::At(moment));
    }
    joined.parse::<DateTime>().ok().map(SnapshotSelector::AtLocal)
}

impl SnapshotSelector {
    /// The snapshot that is meant, among those of `source` or of all.
    ///
    /// # Errors
    /// [`OpsError::Refused`] if there is none, or if several could be meant.
    pub fn resolve<'s>(
        &self,
        state: &'s State,
        source: Option<&str>,
        zone: &TimeZone,
    ) -> Result<&'s SnapshotState, OpsError> {
        let sources: BTreeSet<&str> =
            state.snapshots.values().map(|one| one.snapshot.source.as_str()).collect();
        if let Some(name) = source
            && !sources.contains(name)
        {
            return Err(no_source(name, &sources));
        }
        let one_source = || match source {
            Some(name) => Ok(Some(name)),
            None if sources.len() > 1 => Err(OpsError::refused(
                ErrorCode::Usage,
                format!("there are snapshots of {}", list(&sources)),
                Some("say which with --source NAME, or name a snapshot by its id".into()),
            )),
            None => Ok(sources.first().copied()),
        };
        match self {
            Self::Latest => latest(state, one_source()?),
            Self::LatestVerified => {
                let of = one_source()?;
                // What was missing at the backup, no drill can miss: a partial one is never the last good one.
                let is_good =
                    |snapshot: &&SnapshotState| snapshot.snapshot.complete && snapshot.is_verified();
                let verified = state.newest_first(of).into_iter().find(is_good);
                verified.ok_or_else(|| none("that is complete and was verified", "run `hikae drill`"))
            }
            Self::At(moment) => at(state, one_source()?, *moment, zone),
            Self::AtLocal(time) => at(state, one_source()?, local(*time, zone)?, zone),
            Self::On(date) => {
                let of = one_source()?;
                let is_of_day = |snapshot: &&SnapshotState| {
                    snapshot.snapshot.moment.to_zoned(zone.clone()).date() == *date
                };
                let found = state.newest_first(of).into_iter().find(is_of_day);
                found.ok_or_else(|| none(&format!("of {date}"), "`hikae list` shows what there is"))
            }
            Self::Named(name) if sources.contains(name.as_str()) => latest(state, Some(name)),
            Self::Named(name) => by_prefix(state, source, name, &sources),
        }
    }

    /// A newer snapshot of the same source that was passed over because it is partial.
    pub fn passed_over<'s>(&self, state: &'s State, found: &SnapshotState) -> Option<&'s SnapshotState> {
        let source = found.snapshot.source.as_str();
        let takes_newest = match self {
            Self::Latest => true,
            Self::Named(name) => name == source,
            Self::LatestVerified | Self::At(_) | Self::AtLocal(_) | Self::On(_) => false,
        };
        let newest = state.newest_first(Some(source)).into_iter().next();
        newest.filter(|newest| takes_newest && newest.snapshot.id != found.snapshot.id)
    }
}

fn local(time: DateTime, zone: &TimeZone) -> Result<Timestamp, OpsError> {
    let moment = time.to_zoned(zone.clone()).map(|zoned| zoned.timestamp());
    moment.map_err(|_| OpsError::refused(ErrorCode::Usage, format!("{time} is no time"), None))
}

fn latest<'s>(state: &'s State, source: Option<&str>) -> Result<&'s SnapshotState, OpsError> {
    let newest = state.newest_first(source);
    let complete = newest.iter().find(|snapshot| snapshot.snapshot.complete);
    let found = complete.or_else(|| newest.first()).copied();
    found.ok_or_else(|| none("yet", "make one with `hikae backup`"))
}

fn at<'s>(
    state: &'s State,
    source: Option<&str>,
    moment: Timestamp,
    zone: &TimeZone,
) -> Result<&'s SnapshotState, OpsError> {
    let newest = state.newest_first(source);
    let found = newest.iter().find(|snapshot| snapshot.snapshot.moment <= moment).copied();
    found.ok_or_else(|| {
        let oldest = newest.last().map(|oldest| oldest.snapshot.moment.to_zoned(zone.clone()));
        let oldest = oldest.map(|oldest| format!("the oldest is of {}", oldest.strftime("%F %T %:z")));
        none("as old as that", &oldest.unwrap_or_else(|| "make one with `hikae backup`".to_owned()))
    })
}

fn by_prefix<'s>(
    state: &'s State,
    source: Option<&str>,
    prefix: &str,
    sources: &BTreeSet<&str>,
) -> Result<&'s SnapshotState, OpsError> {
    let lower = prefix.to_ascii_lowercase();
    let is_hex = !lower.is_empty() && lower.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hex {
        return Err(no_source(prefix, sources));
    }
    let wanted = |snapshot: &&SnapshotState| {
        snapshot.snapshot.id.to_string().starts_with(&lower)
            && source.is_none_or(|source| snapshot.snapshot.source == source)
    };
    let found: Vec<_> = state.snapshots.values().filter(wanted).collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] => Err(none(&format!("whose id begins with {lower}"), "`hikae list` shows what there is")),
        several => {
            let ids: Vec<String> =
                several.iter().take(5).map(|one| one.snapshot.id.to_string()[..16].to_owned()).collect();
            Err(OpsError::refused(
                ErrorCode::Usage,
                format!("{} snapshots have an id that begins with {lower}", several.len()),
                Some(format!("give more digits: {}", ids.join(", ")).into()),
            ))
        }
    }
}

fn none(what: &str, advice: &str) -> OpsError {
    OpsError::refused(
        ErrorCode::Usage,
        format!("there is no snapshot {what}"),
        Some(advice.to_owned().into()),
    )
}

fn no_source(name: &str, sources: &BTreeSet<&str>) -> OpsError {
    let advice = match nearest(name, sources.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if sources.is_empty() => "there is no snapshot yet: make one with `hikae backup`".to_owned(),
        None => format!(
            "there are snapshots of {}; or give the beginning of an id, a time, or `latest`",
            list(sources)
        ),
    };
    let shown = printable(name);
    OpsError::refused(ErrorCode::Usage, format!("there is no snapshot of `{shown}`"), Some(advice.into()))
}

fn list(names: &BTreeSet<&str>) -> String {
    names.iter().copied().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use hikae_model::{EvidenceId, RepositoryId, SnapshotId, WriterId};
    use hikae_repo::log::{EvidenceRef, SnapshotRef};
    use jiff::tz;

    /// Snapshots of `docs` and `app` as (id, source, time in UTC, complete, verified).
    fn state(snapshots: &[(u8, &str, &str, bool, bool)]) -> State {
        let core = hikae_repo::header::Core::new(
            RepositoryId::from_bytes([0; 16]),
            hikae_model::FamilyId::from_bytes([0; 16]),
            WriterId::from_bytes([0; 32]),
            Vec::new(),
            Timestamp::UNIX_EPOCH,
        );
        let mut state = State::begin(&hikae_repo::header::Header { core, slots: Vec::new() });
        for (n, source, moment, complete, verified) in snapshots {
            let id = SnapshotId::from_bytes([*n; 32]);
            let snapshot = SnapshotRef {
                id,
                source: (*source).to_owned(),
                moment: moment.parse().unwrap(),
                complete: *complete,
            };
            let evidence = verified.then_some(EvidenceRef {
                id: EvidenceId::from_bytes([0; 32]),
                snapshot: id,
                passed: true,
            });
            state.snapshots.insert(id, SnapshotState { snapshot, n: 1, evidence });
        }
        state
    }

    #[track_caller]
    fn check(text: &str, source: Option<&str>, expected: Result<u8, &str>) {
        let state = state(&[
            (0x11, "docs", "2026-11-18T22:00:00Z", true, true),
            (0x12, "docs", "2026-11-19T22:00:00Z", true, false),
            (0x23, "docs", "2026-11-20T22:00:00Z", false, true),
            (0x24, "app", "2026-11-20T22:00:00Z", true, false),
        ]);
        let zone = TimeZone::fixed(tz::offset(9));
        let found = text.parse::<SnapshotSelector>().unwrap().resolve(&state, source, &zone);
        match (found.map(|one| one.snapshot.id.as_bytes()[0]), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{text}: {error}"),
            (found, expected) => panic!("{text}: {found:?} and not {expected:?}"),
        }
    }

    /// Keeps RS-53, RS-54.
    #[test]
    fn a_snapshot_is_found_as_people_name_it() {
        let docs = Some("docs");
        check("latest", docs, Ok(0x12)); // the newest is partial
        check("latest", None, Err("there are snapshots of app, docs"));
        check("latest-verified", docs, Ok(0x11)); // so is the newest verified
        check("latest-verified", Some("app"), Err("complete and was verified"));
        check("docs", None, Ok(0x12));
        check("app", None, Ok(0x24));
        check("11", None, Ok(0x11));
        check("2", None, Err("2 snapshots have an id that begins with 2"));
        check("2", docs, Ok(0x23));
        check("ff", None, Err("whose id begins with ff"));
        check("dcos", None, Err("no snapshot of `dcos`"));
        check("latest", Some("dosc"), Err("no snapshot of `dosc`"));
        check("2026-11-20T22:00:00Z", docs, Ok(0x23));
        check("2026-11-20T21:59:59Z", docs, Ok(0x12));
        check("2026-11-21 06:59 +09:00", docs, Ok(0x12));
        check("2026-11-21 07:00 +09:00", docs, Ok(0x23));
        check("2026-11-21 07:00", docs, Ok(0x23)); // in the asker's zone, nine hours ahead
        check("2026-11-21", docs, Ok(0x23));
        check("2026-11-18", docs, Err("of 2026-11-18"));
        check("2026-01-01 00:00", docs, Err("as old as that"));
    }
}
