//! What a recovery aims at, and how PostgreSQL is told.
//!
//! The settings are those of `src/backend/access/transam/xlogrecovery.c`. This module knows their words; whether the aim
//! can be reached is for the window and the plan to say.

use hikae_model::{Lsn, Timeline};
use jiff::Timestamp;
use std::fmt;
use std::str::FromStr;

/// Longest name of a restore point in bytes (`MAXFNAMELEN` in `xlog_internal.h`, less its NUL).
const MAX_NAME_BYTES: usize = 63;

/// A place in the life of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// As far as the log goes.
    End,
    /// As soon as the base backup is consistent.
    Immediate,
    /// What was committed up to this moment.
    Time(Timestamp),
    /// A place in the log.
    Lsn(Lsn),
    /// One transaction's commit. Transactions are numbered as they begin, and counted as they commit.
    Xid(u64),
    /// The first restore point of this name, as `pg_create_restore_point` made it.
    Name(RestorePoint),
}

/// Reads a moment with its zone, as `2026-11-20 12:00:00+09:00`, `2026-11-20T03:00:00Z` or `2026-11-20 12:00[Asia/Tokyo]`, to
/// the microsecond, as the server counts. A recovery to the noon of another zone would lose or bring back hours.
///
/// # Errors
/// [`BadMoment`] for anything else, and above all for a time without a zone.
pub fn parse_moment(text: &str) -> Result<Timestamp, BadMoment> {
    let text = text.trim();
    let joined = text.replace(" +", "+").replace(" -", "-").replace(" Z", "Z").replace(" UTC", "Z");
    let zoned = joined.parse::<jiff::Zoned>().map(|zoned| zoned.timestamp());
    let moment = zoned.or_else(|_| joined.parse::<Timestamp>());
    let rounded = moment.ok().and_then(|moment| {
        Timestamp::from_microsecond(moment.as_nanosecond().div_euclid(1000).try_into().ok()?).ok()
    });
    rounded.ok_or_else(|| match joined.parse::<jiff::civil::DateTime>() {
        Ok(_) => BadMoment::NoZone(text.to_owned()),
        Err(_) => BadMoment::NoTime(text.escape_debug().to_string()),
    })
}

/// Text that names no moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadMoment {
    /// It is another moment in each zone.
    #[error("`{0}` does not say in which zone: add it, as `{0}+09:00`, or `{0}Z` for UTC")]
    NoZone(String),
    /// It is no time at all.
    #[error("`{0}` is no time with a zone, as `2026-11-20 12:00:00+09:00`")]
    NoTime(String),
}

/// The name of a restore point: not empty, at most 63 bytes, without control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestorePoint(String);

impl RestorePoint {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Text that no restore point has as its name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not the name of a restore point: 1 to {MAX_NAME_BYTES} bytes without control characters", .0.escape_debug())]
pub struct BadRestorePoint(String);

impl FromStr for RestorePoint {
    type Err = BadRestorePoint;

    fn from_str(text: &str) -> Result<Self, BadRestorePoint> {
        let fits = (1..=MAX_NAME_BYTES).contains(&text.len()) && !text.contains(char::is_control);
        if fits { Ok(Self(text.to_owned())) } else { Err(BadRestorePoint(text.to_owned())) }
    }
}

/// Which timeline a recovery follows where there are several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// The newest that goes on from the base backup's.
    Latest,
    /// That of the base backup, to its end.
    Current,
    /// This one.
    Timeline(Timeline),
}

/// A recovery, as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aim {
    /// Where to.
    pub target: Target,
    /// Whether what is exactly there is part of it.
    pub inclusive: bool,
    /// By which way.
    pub course: Course,
}

/// What a server does at its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It opens.
    Promote,
    /// It stands still, and lets sessions read.
    Pause,
}

impl Then {
    fn name(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::Pause => "pause",
        }
    }
}

/// A setting of a server and its value.
pub type Setting = (String, String);

impl Aim {
    /// The settings that tell the server, by name. Every target that is not aimed at is set to nothing: the server takes
    /// one alone, and a configuration that came with the base backup may have another.
    pub fn settings(&self, then: Then) -> Vec<Setting> {
        let mut settings: Vec<(&str, String)> = [
            "recovery_target",
            "recovery_target_time",
            "recovery_target_lsn",
            "recovery_target_xid",
            "recovery_target_name",
        ]
        .map(|name| (name, String::new()))
        .into();
        let mut aim_at = |name: &str, value: String| {
            settings
                .iter_mut()
                .filter(|setting| setting.0 == name)
                .for_each(|setting| setting.1.clone_from(&value));
        };
        match &self.target {
            Target::End => {}
            Target::Immediate => aim_at("recovery_target", "immediate".into()),
            Target::Time(at) => aim_at("recovery_target_time", at.strftime("%F %T%.6f+00").to_string()),
            Target::Lsn(at) => aim_at("recovery_target_lsn", at.to_string()),
            Target::Xid(xid) => aim_at("recovery_target_xid", xid.to_string()),
            Target::Name(name) => aim_at("recovery_target_name", name.0.clone()),
        }
        // The server takes "nothing" for a second target as well if it reads it after the first.
        settings.sort_by_key(|(_, value)| !value.is_empty());
        let course = match (self.course, &self.target) {
            // To be consistent is all that is asked, and the server would look for newer timelines first.
            (Course::Current, _) | (_, Target::Immediate) => "current".to_owned(),
            (Course::Latest, _) => "latest".to_owned(),
            (Course::Timeline(timeline), _) => timeline.to_string(),
        };
        settings.push(("recovery_target_inclusive", if self.inclusive { "on" } else { "off" }.to_owned()));
        settings.push(("recovery_target_timeline", course));
        settings.push(("recovery_target_action", then.name().to_owned()));
        settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// For people: as `2026-11-20 12:00:00+00`, or `the place 0/16B3748`.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::End => f.write_str("the end of the log"),
            Self::Immediate => f.write_str("the end of the base backup"),
            Self::Time(at) => write!(f, "{at}"),
            Self::Lsn(at) => write!(f, "the place {at}"),
            Self::Xid(xid) => write!(f, "transaction {xid}"),
            Self::Name(name) => write!(f, "the restore point `{}`", name.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(target: Target) -> Vec<Setting> {
        Aim { target, inclusive: true, course: Course::Latest }.settings(Then::Promote)
    }

    /// The server refuses to start with two.
    #[test]
    fn one_target_is_set_and_all_others_are_set_to_nothing() {
        let named = Target::Name("before the 5 o'clock run".parse().unwrap());
        let at = Target::Time("2026-11-20T12:00:00.25+09:00".parse().unwrap());
        for (target, expected) in [
            (Target::End, None),
            (Target::Immediate, Some(("recovery_target", "immediate"))),
            (at, Some(("recovery_target_time", "2026-11-20 03:00:00.250000+00"))),
            (Target::Lsn(Lsn(0x16b_3748)), Some(("recovery_target_lsn", "0/16B3748"))),
            (Target::Xid(731), Some(("recovery_target_xid", "731"))),
            (named, Some(("recovery_target_name", "before the 5 o'clock run"))),
        ] {
            let settings = settings(target);
            let targets = settings[..5].iter().filter(|(_, value)| !value.is_empty());
            let found: Vec<_> = targets.map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert_eq!(found, Vec::from_iter(expected));
            assert!(
                settings[..4].iter().all(|(_, value)| value.is_empty()),
                "it is not the last: {settings:?}"
            );
        }
    }

    /// Keeps BC-34.
    #[test]
    fn a_moment_has_its_zone_or_is_none() {
        let noon = "2026-11-20T03:00:00.25Z".parse().unwrap();
        for text in [
            "2026-11-20 12:00:00.25+09:00",
            "2026-11-20 12:00:00.25 +09",
            "2026-11-20T03:00:00.25Z",
            "2026-11-20 03:00:00.25 UTC",
            "2026-11-20 03:00:00.250000999+00",
            "2026-11-20T12:00:00.25+09:00[Asia/Tokyo]",
        ] {
            assert_eq!(parse_moment(text), Ok(noon), "{text}");
        }
        for text in ["2026-11-20 12:00:00", "2026-11-20 12:00", "2026-11-20"] {
            assert_eq!(parse_moment(text), Err(BadMoment::NoZone(text.to_owned())));
        }
        for text in ["", "noon", "2026-11-31 12:00:00Z", "12:00Z"] {
            assert!(matches!(parse_moment(text), Err(BadMoment::NoTime(_))), "{text}");
        }
    }

    #[test]
    fn what_no_restore_point_is_called_is_refused() {
        for name in ["", "a\nrestore_command = 'x'", "\0", &"x".repeat(64)] {
            assert!(name.parse::<RestorePoint>().is_err(), "{name:?}");
        }
    }
}
