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

use hikae_model::sabotage;
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
    /// The newest base backup from which the log leads to the present.
    Leading,
    /// Its record cannot be read, so that no rule can judge it.
    SetAside,
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
    let complete: Vec<_> =
        past.iter().copied().filter(|at| snapshots[*at].complete || sabotage::on("partial-counts")).collect();
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
    for at in
        among.iter().skip(usize::from(sabotage::on("newest-not-kept"))).take(retention.last.get() as usize)
    {
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
            Self::Leading => "base backup from which the log leads to the present",
            Self::SetAside => "damaged: counts for nothing, and goes only if it is named",
            Self::NotAsked => "not asked for",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const NOW: i64 = 1_767_225_600; // 2026-01-01T00:00:00Z

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn days(last: u32, daily: u32) -> Retention {
        let last = NonZeroU32::new(last).unwrap();
        Retention { last, hourly: 0, daily, weekly: 0, monthly: 0, yearly: 0, within: None }
    }

    #[track_caller]
    fn check_kept(retention: &Retention, moments: &[&str], expected: &[&str]) {
        let snapshots: Vec<_> =
            moments.iter().map(|moment| Kept { moment: at(moment), complete: true }).collect();
        let zone = TimeZone::posix("JST-9").unwrap();
        let kept = kept(&snapshots, retention, &zone, at("2026-01-01T00:00:00Z"));
        let stays = moments.iter().zip(kept).filter(|(_, by)| !by.is_empty()).map(|(moment, _)| *moment);
        assert_eq!(stays.collect::<Vec<_>>(), expected);
    }

    /// Keeps IN-27.
    #[test]
    fn the_first_of_a_month_and_monday_are_kept_apart() {
        let monthly = Retention { monthly: 2, ..days(1, 0) };
        // The first of December in Japan is still November in Greenwich.
        let moments =
            ["2025-12-31T15:00:00Z", "2025-12-02T17:00:00Z", "2025-11-30T17:00:00Z", "2025-11-29T17:00:00Z"];
        check_kept(&monthly, &moments, &["2025-12-31T15:00:00Z", "2025-11-30T17:00:00Z"]);
        let weekly = Retention { weekly: 2, ..days(1, 0) };
        let moments = [
            "2025-12-24T17:00:00Z", // Thursday
            "2025-12-21T17:00:00Z", // Monday
            "2025-12-20T17:00:00Z", // Sunday
            "2025-12-14T17:00:00Z", // Monday
        ];
        check_kept(&weekly, &moments, &[moments[0], moments[1], moments[3]]);
    }

    /// 24 hours are 24 hours, to the second, on days that have 23 or 25 too. Keeps BC-28.
    #[test]
    fn hours_are_counted_to_the_second() {
        let within = Retention { within: Some(Span::new().hours(24)), ..days(1, 0) };
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        for now in ["2026-10-25T12:00:00Z", "2026-03-29T12:00:00Z", "2026-07-01T00:00:00Z"] {
            let ages = [0, 3600, 24 * 3600, 24 * 3600 + 1];
            let of = |age: i64| at(now) - Span::new().seconds(age);
            let snapshots = ages.map(|age| Kept { moment: of(age), complete: true });
            let stays = kept(&snapshots, &within, &zone, at(now));
            let stays: Vec<bool> = stays.iter().map(|by| !by.is_empty()).collect();
            assert_eq!(stays, [true, true, true, false], "{now}");
        }
    }

    #[test]
    fn days_without_a_snapshot_are_not_counted() {
        let moments =
            ["2025-12-30T01:00:00Z", "2025-12-20T01:00:00Z", "2025-06-01T01:00:00Z", "2025-05-01T01:00:00Z"];
        check_kept(&days(1, 3), &moments, &moments[..3]);
    }

    #[test]
    fn a_rule_that_is_blank_misspelt_or_nothing_is_refused() {
        for text in [
            "{}",
            r#"{"daily": 0}"#,
            r#"{"last": 0, "daily": 3}"#,
            r#"{"daily": -1}"#,
            r#"{"daily": null}"#,
            r#"{"daily": ""}"#,
            r#"{"dayly": 3}"#,
            r#"{"daily": 3, "keep": 1}"#,
            r#"{"within": ""}"#,
            r#"{"within": "0d"}"#,
            r#"{"within": "-3d"}"#,
            r#"{"daily": 1e99}"#,
        ] {
            assert!(serde_json::from_str::<Retention>(text).is_err(), "{text}");
        }
        let retention: Retention =
            serde_json::from_str(r#"{"daily": 30, "weekly": 12, "monthly": 12, "within": "2w"}"#).unwrap();
        assert_eq!((retention.last.get(), retention.daily, retention.hourly), (1, 30, 0));
    }

    /// The rules once more, as one would say them, pair by pair.
    fn oracle(snapshots: &[Kept], retention: &Retention, zone: &TimeZone, now: Timestamp) -> Vec<bool> {
        let all: Vec<usize> = (0..snapshots.len()).filter(|at| snapshots[*at].moment <= now).collect();
        let complete: Vec<usize> = all.iter().copied().filter(|at| snapshots[*at].complete).collect();
        let keeps = |among: &[usize], at: usize| {
            let newer = among.iter().filter(|other| **other < at).count();
            let in_window = retention.within.is_some_and(|within| {
                snapshots[at].moment >= now.to_zoned(zone.clone()).checked_sub(within).unwrap().timestamp()
            });
            let label = |at: usize, format: &str| {
                snapshots[at].moment.to_zoned(zone.clone()).strftime(format).to_string()
            };
            let by_period = [
                (retention.hourly, "%Y-%m-%d %H %z"),
                (retention.daily, "%Y-%m-%d"),
                (retention.weekly, "%G-%V"),
                (retention.monthly, "%Y-%m"),
                (retention.yearly, "%Y"),
            ];
            let first_of_a_counted_period = by_period.iter().any(|(count, format)| {
                let mine = label(at, format);
                let is_first = !among.iter().any(|other| *other > at && label(*other, format) == mine);
                let newer: BTreeSet<_> = among
                    .iter()
                    .filter(|other| **other < at)
                    .map(|other| label(*other, format))
                    .filter(|label| *label != mine)
                    .collect();
                is_first && newer.len() < *count as usize
            });
            newer < retention.last.get() as usize || in_window || first_of_a_counted_period
        };
        (0..snapshots.len())
            .map(|at| {
                snapshots[at].moment > now
                    || (complete.contains(&at) && keeps(&complete, at))
                    || (all.contains(&at) && keeps(&all, at))
            })
            .collect()
    }

    fn any_retention() -> impl Strategy<Value = Retention> {
        (1_u32..5, [0_u32..4, 0..6, 0..5, 0..4, 0..3], proptest::option::of(1_i64..900)).prop_map(
            |(last, [hourly, daily, weekly, monthly, yearly], within)| Retention {
                last: NonZeroU32::new(last).unwrap(),
                hourly,
                daily,
                weekly,
                monthly,
                yearly,
                within: within.map(|hours| Span::new().hours(hours)),
            },
        )
    }

    /// Backups close together, days apart and years apart, some of them from the future, some incomplete,
    /// some at the same moment.
    fn any_history() -> impl Strategy<Value = Vec<Kept>> {
        let step = prop_oneof![Just(0), 1_i64..4, 1_i64..100, 1_i64..2_000, 1_i64..20_000];
        (vec((step, prop::bool::weighted(0.8)), 0..30), -500_i64..3_000).prop_map(|(steps, first)| {
            let mut seconds = NOW - first * 3600 + 1800;
            let mut history = Vec::new();
            for (hours, complete) in steps {
                seconds -= hours * 3600 / 2;
                history.push(Kept { moment: Timestamp::from_second(seconds).unwrap(), complete });
            }
            history
        })
    }

    fn any_zone() -> impl Strategy<Value = TimeZone> {
        let zones = ["UTC0", "JST-9", "CET-1CEST,M3.5.0,M10.5.0/3", "LHST-10:30LHDT-11,M10.1.0,M4.1.0"];
        prop::sample::select(zones.to_vec()).prop_map(|zone| TimeZone::posix(zone).unwrap())
    }

    fn stays(history: &[Kept], retention: &Retention, zone: &TimeZone) -> Vec<bool> {
        let now = Timestamp::from_second(NOW).unwrap();
        kept(history, retention, zone, now).iter().map(|by| !by.is_empty()).collect()
    }

    fn cases() -> u32 {
        let times = std::env::var("HIKAE_TEST_TIMES").ok().and_then(|text| text.parse::<u32>().ok());
        1000 * times.unwrap_or(1)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(cases()))]

        /// Keeps IN-27.
        #[test]
        fn rules_keep_what_the_oracle_keeps(
            history in any_history(), retention in any_retention(), zone in any_zone(),
        ) {
            let now = Timestamp::from_second(NOW).unwrap();
            prop_assert_eq!(stays(&history, &retention, &zone), oracle(&history, &retention, &zone, now));
        }

        /// I1: with a `last` of at least one, the newest complete snapshot stays.
        #[test]
        fn the_newest_complete_one_always_stays(
            history in any_history(), retention in any_retention(), zone in any_zone(),
        ) {
            let newest = history.iter().position(|s| s.complete && s.moment.as_second() <= NOW);
            if let Some(newest) = newest {
                prop_assert!(stays(&history, &retention, &zone)[newest]);
            }
        }

        /// I3: more policy keeps no less.
        #[test]
        fn a_rule_that_keeps_more_drops_nothing_that_one_keeping_less_keeps(
            history in any_history(), one in any_retention(), other in any_retention(), zone in any_zone(),
        ) {
            let both = Retention {
                last: one.last.max(other.last),
                hourly: one.hourly.max(other.hourly),
                daily: one.daily.max(other.daily),
                weekly: one.weekly.max(other.weekly),
                monthly: one.monthly.max(other.monthly),
                yearly: one.yearly.max(other.yearly),
                within: one.within.or(other.within),
            };
            let one = Retention { within: both.within, ..one };
            let (fewer, more) = (stays(&history, &one, &zone), stays(&history, &both, &zone));
            prop_assert!(fewer.iter().zip(&more).all(|(fewer, more)| !fewer || *more));
        }

        /// I4: what a rule has left it leaves.
        #[test]
        fn a_rule_applied_twice_drops_no_more(
            history in any_history(), retention in any_retention(), zone in any_zone(),
        ) {
            let kept = stays(&history, &retention, &zone);
            let left: Vec<_> = history.iter().zip(kept).filter(|(_, kept)| *kept).map(|(s, _)| *s).collect();
            prop_assert!(stays(&left, &retention, &zone).iter().all(|kept| *kept));
        }

        /// I5: under `within`, one more snapshot takes no older one's place.
        #[test]
        fn one_more_snapshot_drops_none_that_is_young_enough(
            history in any_history(), retention in any_retention(), zone in any_zone(), hours in 1_i64..900,
        ) {
            let retention = Retention { within: Some(Span::new().hours(hours)), ..retention };
            let newest = Kept { moment: Timestamp::from_second(NOW).unwrap(), complete: true };
            let mut more = history.clone();
            let place = more.iter().position(|s| s.moment <= newest.moment).unwrap_or(more.len());
            more.insert(place, newest);
            let after = stays(&more, &retention, &zone);
            for (at, snapshot) in more.iter().enumerate() {
                let age = NOW - snapshot.moment.as_second();
                prop_assert!(age > hours * 3600 || after[at]);
            }
        }

        /// I6: what is from the future stays and changes nothing; what is incomplete takes nobody's place.
        #[test]
        fn future_and_incomplete_snapshots_push_nothing_out(
            history in any_history(), retention in any_retention(), zone in any_zone(),
        ) {
            let all = stays(&history, &retention, &zone);
            let is_past = |s: &Kept| s.moment.as_second() <= NOW;
            let past: Vec<_> = history.iter().copied().filter(is_past).collect();
            let without_future: Vec<_> =
                history.iter().zip(&all).filter(|(s, _)| is_past(s)).map(|(_, kept)| *kept).collect();
            prop_assert_eq!(stays(&past, &retention, &zone), without_future);
            prop_assert!(history.iter().zip(&all).all(|(s, kept)| is_past(s) || *kept));
            let whole: Vec<_> = past.iter().copied().filter(|s| s.complete).collect();
            let alone = stays(&whole, &retention, &zone);
            let among = past.iter().zip(stays(&past, &retention, &zone)).filter(|(s, _)| s.complete);
            prop_assert!(alone.iter().zip(among).all(|(alone, (_, among))| !alone || among));
        }
    }
}
