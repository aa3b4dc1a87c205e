//! Retention: which snapshots of a source a rule keeps.
//!
//! A snapshot is kept if any rule keeps it. `last` counts snapshots; `hourly` to `yearly` count the newest
//! hours, days, … that have a snapshot, and keep the first of each (the first of a month is the month's, and
//! Monday's the week's); `within` keeps all that are younger.
//!
//! - An incomplete snapshot takes no complete one's place. The rules are applied twice, to the complete ones and
//!   to all, and what either keeps stays: a source of which some file is never readable has a history too.
//! - A snapshot from the future takes part in nothing and is never dropped: some clock was wrong, and which one
//!   the rule cannot know.
//!
//! This module is pure. It knows moments, and not what must be kept whatever the rule says: that is `forget`'s.

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};
use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU32;

/// `[job.retention]` in the configuration. A snapshot is kept if any rule keeps it.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(try_from = "RetentionText")]
pub struct Retention {
    /// The newest this many, whatever their age. Never 0: the last good snapshot stays.
    pub last: NonZeroU32,
    /// Hours that have a snapshot; those that have none are not counted. So with all that follow.
    pub hourly: u32,
    /// Days.
    pub daily: u32,
    /// Weeks, which begin on Monday.
    pub weekly: u32,
    /// Months.
    pub monthly: u32,
    /// Years.
    pub yearly: u32,
    /// Everything that is no older than this.
    pub within: Option<Span>,
}

/// Retention as it is written. A rule that is given is never 0: nothing and "none" must not look alike.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)] // a misspelt rule must not read as "keep nothing"
struct RetentionText {
    last: Option<NonZeroU32>,
    hourly: Option<NonZeroU32>,
    daily: Option<NonZeroU32>,
    weekly: Option<NonZeroU32>,
    monthly: Option<NonZeroU32>,
    yearly: Option<NonZeroU32>,
    within: Option<Span>,
}

/// What is wrong with a retention.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRetention {
    /// It has no rule at all.
    #[error("a retention needs at least one rule, as `daily = 30`")]
    Empty,
    /// `within` keeps nothing.
    #[error("`within` must be longer than nothing, as \"30d\"")]
    Within,
}

impl TryFrom<RetentionText> for Retention {
    type Error = BadRetention;

    fn try_from(text: RetentionText) -> Result<Self, BadRetention> {
        let RetentionText { last, hourly, daily, weekly, monthly, yearly, within } = text;
        let counts = [last, hourly, daily, weekly, monthly, yearly];
        if counts.iter().all(Option::is_none) && within.is_none() {
            return Err(BadRetention::Empty);
        }
        if within.is_some_and(|within| !within.is_positive()) {
            return Err(BadRetention::Within);
        }
        let [_, hourly, daily, weekly, monthly, yearly] =
            counts.map(|count| count.map_or(0, NonZeroU32::get));
        Ok(Self { last: last.unwrap_or(NonZeroU32::MIN), hourly, daily, weekly, monthly, yearly, within })
    }
}

/// Why a snapshot is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeptBy {
    /// One of the newest.
    Last,
    /// Young enough.
    Within,
    /// The first of its hour.
    Hourly,
    /// The first of its day.
    Daily,
    /// The first of its week.
    Weekly,
    /// The first of its month.
    Monthly,
    /// The first of its year.
    Yearly,
    /// Its moment lies in the future.
    Future,
    /// The newest of its source that a drill has restored.
    NewestVerified,
    /// The newest of its source of which nothing is missing.
    NewestComplete,
    /// Nobody asked for it to go.
    NotAsked,
}

/// A snapshot as the rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// The moment that it shows.
    pub moment: Timestamp,
    /// Nothing of the source is missing.
    pub complete: bool,
}

/// Which of `snapshots`, all of one source, newest first, are kept, and by which rules. In the same order.
pub fn kept(
    snapshots: &[Kept],
    retention: &Retention,
    zone: &TimeZone,
    now: Timestamp,
) -> Vec<BTreeSet<KeptBy>> {
    let mut kept = vec![BTreeSet::new(); snapshots.len()];
    let future = |at: &usize| snapshots[*at].moment > now;
    for at in (0..snapshots.len()).filter(future) {
        kept[at].insert(KeptBy::Future);
    }
    let past: Vec<_> = (0..snapshots.len()).filter(|at| !future(at)).collect();
    let complete: Vec<_> = past.iter().copied().filter(|at| snapshots[*at].complete).collect();
    for among in [complete, past] {
        apply(&among, snapshots, retention, zone, now, &mut kept);
    }
    kept
}

/// Applies every rule to the snapshots at `among`, newest first.
fn apply(
    among: &[usize],
    snapshots: &[Kept],
    retention: &Retention,
    zone: &TimeZone,
    now: Timestamp,
    kept: &mut [BTreeSet<KeptBy>],
) {
    for at in among.iter().take(retention.last.get() as usize) {
        kept[*at].insert(KeptBy::Last);
    }
    if let Some(within) = retention.within {
        // What would begin before the calendar does keeps everything.
        let begins = now.to_zoned(zone.clone()).checked_sub(within);
        let begins = begins.map_or(Timestamp::MIN, |begins| begins.timestamp());
        for at in among.iter().filter(|at| snapshots[**at].moment >= begins) {
            kept[*at].insert(KeptBy::Within);
        }
    }
    let zoned: Vec<_> = among.iter().map(|at| snapshots[*at].moment.to_zoned(zone.clone())).collect();
    for (rule, count, period) in [
        (KeptBy::Hourly, retention.hourly, hour as fn(&Zoned) -> Period),
        (KeptBy::Daily, retention.daily, day),
        (KeptBy::Weekly, retention.weekly, week),
        (KeptBy::Monthly, retention.monthly, month),
        (KeptBy::Yearly, retention.yearly, year),
    ] {
        let mut n_periods = 0;
        // Newest first: the last of a stretch with the same period is the first of that period.
        for (place, at) in among.iter().enumerate().take_while(|_| count > 0) {
            let this = period(&zoned[place]);
            if zoned.get(place + 1).is_none_or(|earlier| period(earlier) != this) {
                kept[*at].insert(rule);
                n_periods += 1;
                if n_periods == count {
                    break;
                }
            }
        }
    }
}

/// A period of the calendar by its numbers, the largest unit first.
type Period = [i32; 4];

/// The offset tells the two hours apart that a clock set back shows twice.
fn hour(time: &Zoned) -> Period {
    [time.year().into(), time.day_of_year().into(), time.hour().into(), time.offset().seconds()]
}

fn day(time: &Zoned) -> Period {
    [time.year().into(), time.day_of_year().into(), 0, 0]
}

fn week(time: &Zoned) -> Period {
    let week = time.date().iso_week_date();
    [week.year().into(), week.week().into(), 0, 0]
}

fn month(time: &Zoned) -> Period {
    [time.year().into(), time.month().into(), 0, 0]
}

fn year(time: &Zoned) -> Period {
    [time.year().into(), 0, 0, 0]
}

impl fmt::Display for KeptBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Last => "one of the newest",
            Self::Within => "young enough",
            Self::Hourly => "first of its hour",
            Self::Daily => "first of its day",
            Self::Weekly => "first of its week",
            Self::Monthly => "first of its month",
            Self::Yearly => "first of its year",
            Self::Future => "from the future: a clock was wrong",
            Self::NewestVerified => "newest of its source that a drill has restored",
            Self::NewestComplete => "newest of its source that is complete",
            Self::NotAsked => "not asked for",
        })
    }
}
