//! Which timelines of a cluster came before one, and where each of them ended.
//!
//! PostgreSQL keeps it in a file for each timeline but the first, as `00000003.history`, with tabs between the fields:
//!
//! ```text
//! 1    0/5000198    before 2026-11-20 10:00:00+00
//!
//! 2    0/70000A0    no recovery target specified
//! ```
//!
//! It is read more strictly than the server does (`readTimeLineHistory` in `timeline.c`): what we decide from it is which
//! segments a recovery needs. This module knows the text, and not where it came from.

use crate::wal::{Lsn, Timeline};
use std::str::FromStr as _;

/// Longest history that is read: a line for each promotion of a cluster's life.
const MAX_BYTES: usize = 16 << 20;

/// A timeline, and those that led to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineHistory {
    timeline: Timeline,
    ancestors: Vec<Ancestor>,
}

/// A timeline that another went on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ancestor {
    /// Which.
    pub timeline: Timeline,
    /// Where it ended for those who follow the history: the first place that is the next timeline's.
    pub end: Lsn,
    /// Why it ended, as the server wrote it. For people.
    pub reason: String,
}

/// Text that should be the history of a timeline and is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the history of timeline {timeline} cannot be read: {why}")]
pub struct BadHistory {
    timeline: Timeline,
    why: String,
}

impl TimelineHistory {
    /// That of a cluster that was never promoted. The server has no file for it.
    pub fn first() -> Self {
        Self { timeline: Timeline::FIRST, ancestors: Vec::new() }
    }

    /// Reads the file of `timeline`.
    ///
    /// # Errors
    /// [`BadHistory`] if a line is not of the form, timelines do not rise from line to line, or one ended before it began.
    pub fn parse(timeline: Timeline, text: &[u8]) -> Result<Self, BadHistory> {
        let bad = |why: String| BadHistory { timeline, why };
        if text.len() > MAX_BYTES {
            return Err(bad(format!("it has {} bytes", text.len())));
        }
        let mut ancestors: Vec<Ancestor> = Vec::new();
        for (n, line) in text.split(|&byte| byte == b'\n').enumerate() {
            let line = line.trim_ascii_start();
            if line.is_empty() || line[0] == b'#' {
                continue;
            }
            // A restore point may have been named in any encoding.
            let line = String::from_utf8_lossy(line);
            let ancestor = parse_line(&line).ok_or_else(|| bad(format!("line {} is `{line}`", n + 1)))?;
            if let Some(before) = ancestors.last() {
                if before.timeline >= ancestor.timeline {
                    return Err(bad(format!(
                        "timeline {} after {}",
                        ancestor.timeline.get(),
                        before.timeline.get()
                    )));
                }
                if before.end > ancestor.end {
                    return Err(bad(format!("timeline {} ends before it begins", ancestor.timeline.get())));
                }
            }
            ancestors.push(ancestor);
        }
        match ancestors.last() {
            Some(last) if last.timeline >= timeline => {
                Err(bad(format!("timeline {} led to it", last.timeline.get())))
            }
            None if timeline != Timeline::FIRST => Err(bad("no timeline led to it".into())),
            _ => Ok(Self { timeline, ancestors }),
        }
    }

    /// The timeline whose history this is.
    pub fn timeline(&self) -> Timeline {
        self.timeline
    }

    /// Those that led to it, the oldest first.
    pub fn ancestors(&self) -> &[Ancestor] {
        &self.ancestors
    }

    /// The timeline on which what stands at `lsn` was written, for who follows this history.
    pub fn timeline_at(&self, lsn: Lsn) -> Timeline {
        let holding = self.ancestors.iter().find(|ancestor| lsn < ancestor.end);
        holding.map_or(self.timeline, |ancestor| ancestor.timeline)
    }

    /// The timeline that went on from `timeline` in this history; `None` if it is no ancestor.
    pub fn after(&self, timeline: Timeline) -> Option<Timeline> {
        let at = self.ancestors.iter().position(|ancestor| ancestor.timeline == timeline)?;
        Some(self.ancestors.get(at + 1).map_or(self.timeline, |next| next.timeline))
    }

    /// Where `timeline` ended in this history; `None` if it is no ancestor.
    pub fn end_of(&self, timeline: Timeline) -> Option<Lsn> {
        self.ancestors.iter().find(|ancestor| ancestor.timeline == timeline).map(|ancestor| ancestor.end)
    }
}

/// `1<tab>0/5000198<tab>why`.
fn parse_line(line: &str) -> Option<Ancestor> {
    let mut fields = line.trim_end_matches('\r').splitn(3, '\t');
    let (timeline, end) = (fields.next()?, fields.next()?);
    let is_decimal = !timeline.is_empty() && timeline.bytes().all(|byte| byte.is_ascii_digit());
    let timeline = is_decimal.then(|| timeline.parse().ok()).flatten().and_then(Timeline::new)?;
    let reason = fields.next().unwrap_or_default().trim_end().to_owned();
    Some(Ancestor { timeline, end: Lsn::from_str(end).ok()?, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline(number: u32) -> Timeline {
        Timeline::new(number).unwrap()
    }

    fn parse(number: u32, text: &str) -> Result<TimelineHistory, BadHistory> {
        TimelineHistory::parse(timeline(number), text.as_bytes())
    }

    #[test]
    fn a_history_says_on_which_timeline_a_place_was_written() {
        let text =
            "1\t0/5000198\tbefore 2026-11-20 10:00:00+00\n\n2\t0/70000A0\tno recovery target specified\n";
        let history = parse(5, text).unwrap();
        assert_eq!(history.ancestors()[0].reason, "before 2026-11-20 10:00:00+00");
        for (lsn, number) in
            [(0, 1), (0x500_0197, 1), (0x500_0198, 2), (0x700_009f, 2), (0x700_00a0, 5), (u64::MAX, 5)]
        {
            assert_eq!(history.timeline_at(Lsn(lsn)), timeline(number), "{lsn:x}");
        }
        assert_eq!(history.end_of(timeline(2)), Some(Lsn(0x700_00a0)));
        assert_eq!((history.end_of(timeline(3)), history.end_of(timeline(5))), (None, None));
        assert_eq!(
            (history.after(timeline(1)), history.after(timeline(2))),
            (Some(timeline(2)), Some(timeline(5)))
        );
        assert_eq!(history.after(timeline(5)), None);
        assert_eq!(TimelineHistory::first().timeline_at(Lsn(7)), Timeline::FIRST);
    }

    #[test]
    fn comments_empty_lines_and_any_encoding_of_a_reason_are_read() {
        let history =
            TimelineHistory::parse(timeline(2), b"# from a person\n\n 1\t1/0\tat \xff\"x\"").unwrap();
        assert_eq!(history.ancestors()[0].end, Lsn(1 << 32));
        assert!(history.ancestors()[0].reason.ends_with("\"x\""));
        assert_eq!(parse(2, "1\t0/1").unwrap().ancestors()[0].reason, "");
    }

    #[test]
    fn a_history_that_cannot_be_is_refused() {
        for (number, text) in [
            (2, ""),
            (2, "# nothing\n"),
            (2, "1 0/1 spaces"),
            (2, "1\n"),
            (2, "one\t0/1\tx"),
            (2, "+1\t0/1\tx"),
            (2, "0\t0/1\tx"),
            (2, "1\t0/G\tx"),
            (2, "2\t0/1\titself"),
            (2, "3\t0/1\tlater"),
            (4, "2\t0/1\tx\n1\t0/2\tfalls"),
            (4, "1\t0/1\tx\n1\t0/2\ttwice"),
            (4, "1\t0/2\tx\n2\t0/1\tends before it begins"),
        ] {
            assert!(parse(number, text).is_err(), "{text}");
        }
    }
}
