//! Text for people: clean, aligned, and coloured only where somebody looks at it.
//!
//! A page is plain text with a few marks for colour. Everything that could move a cursor or hide text is escaped
//! when it is rendered, whatever it came from: file names, messages of servers, labels of other people.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::fmt::Display;

/// A colour or weight, by what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// As it should be.
    Good,
    /// To be looked at.
    Doubtful,
    /// Wrong.
    Bad,
    /// A heading.
    Strong,
    /// Less important.
    Faint,
}

// Marks are control characters that no clean text holds. If one comes from elsewhere, it colours and does no more.
const GOOD: char = '\u{1}';
const DOUBTFUL: char = '\u{2}';
const BAD: char = '\u{3}';
const STRONG: char = '\u{4}';
const FAINT: char = '\u{5}';
const PLAIN: char = '\u{6}';

/// `text` with a mark around it.
pub fn marked(mark: Mark, text: impl Display) -> String {
    let start = match mark {
        Mark::Good => GOOD,
        Mark::Doubtful => DOUBTFUL,
        Mark::Bad => BAD,
        Mark::Strong => STRONG,
        Mark::Faint => FAINT,
    };
    format!("{start}{text}{PLAIN}")
}

/// Makes the text safe for a terminal, with colours or without.
pub fn render(text: &str, colour: bool) -> String {
    let mut rendered = String::with_capacity(text.len());
    for c in text.chars() {
        let code = match c {
            GOOD => "\u{1b}[32m",
            DOUBTFUL => "\u{1b}[33m",
            BAD => "\u{1b}[31m",
            STRONG => "\u{1b}[1m",
            FAINT => "\u{1b}[2m",
            PLAIN => "\u{1b}[0m",
            '\n' => "\n",
            c if c.is_control() || is_direction_mark(c) => {
                rendered.extend(c.escape_default());
                continue;
            }
            c => {
                rendered.push(c);
                continue;
            }
        };
        if colour || code == "\n" {
            rendered.push_str(code);
        }
    }
    rendered
}

/// Unicode's marks for the direction of text, which can make a name read as another.
fn is_direction_mark(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// How a column is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows of cells below headings.
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns. No headings are shown if all of them are empty.
    pub fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// The rows, set in columns as wide as their widest cell.
    pub fn text(&self) -> String {
        let width_of = |cell: &str| console::measure_text_width(&render(cell, false));
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(at, (heading, _))| {
                let cells = self.rows.iter().filter_map(|row| row.get(at));
                cells.map(|cell| width_of(cell)).chain([width_of(heading)]).max().unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        let mut put = |cells: &[String]| {
            let mut line = String::new();
            for (at, cell) in cells.iter().enumerate() {
                let padding = " ".repeat(widths[at].saturating_sub(width_of(cell)));
                let gap = if at == 0 { "" } else { "  " };
                match self.columns[at].1 {
                    Align::Left => line.push_str(&format!("{gap}{cell}{padding}")),
                    Align::Right => line.push_str(&format!("{gap}{padding}{cell}")),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        };
        if self.columns.iter().any(|(heading, _)| !heading.is_empty()) {
            let headings = self.columns.iter().map(|(heading, _)| marked(Mark::Faint, heading));
            put(&headings.collect::<Vec<_>>());
        }
        self.rows.iter().for_each(|row| put(row));
        text
    }
}

/// A moment in the reader's zone with its offset, as `2026-11-20 14:30:05 +09:00`.
pub fn time(moment: Timestamp, zone: &TimeZone) -> String {
    moment.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S %:z").to_string()
}

/// A length of time, as `0.4 s`, `12 s`, `3 min 20 s`, `2 h 05 min`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..120 => format!("{whole} s"),
        120..7200 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

/// `1 file`, `2 files`.
pub fn count(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", hikae_model::Count(n), if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_on_a_page_moves_the_cursor() {
        let hostile = "a\u{1b}[2J\r\u{7}\u{202e}b\tc";
        let clean = render(hostile, true);
        assert_eq!(clean, "a\\u{1b}[2J\\r\\u{7}\\u{202e}b\\tc");
        assert_eq!(render(&marked(Mark::Bad, "x"), false), "x");
        assert_eq!(render(&marked(Mark::Bad, "x"), true), "\u{1b}[31mx\u{1b}[0m");
    }

    #[test]
    fn columns_line_up_whatever_is_in_them() {
        let mut table = Table::new(&[("name", Align::Left), ("size", Align::Right)]);
        table.row([marked(Mark::Good, "控え"), "1".to_owned()]);
        table.row(["plain".to_owned(), "1000".to_owned()]);
        assert_eq!(render(&table.text(), false), "name   size\n控え      1\nplain  1000\n");
    }

    #[test]
    fn lengths_of_time_read_as_people_say_them() {
        for (seconds, text) in
            [(0.04, "0.0 s"), (0.4, "0.4 s"), (61.4, "61 s"), (200.0, "3 min 20 s"), (7500.0, "2 h 05 min")]
        {
            assert_eq!(duration(seconds), text);
        }
    }
}
