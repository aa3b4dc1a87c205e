//! Stamps as PostgreSQL writes them into a COPY under our settings (ISO, UTC), put in order without a server.

use std::cmp::Ordering;

/// A `timestamp` or a `timestamptz` in UTC. Ordered as PostgreSQL orders them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stamp {
    /// `-infinity`.
    Before,
    /// Year (BC is 0 and less), month, day, hour, minute, second, microsecond.
    At([i32; 7]),
    /// `infinity`.
    After,
}

impl Stamp {
    /// Reads a field as `2026-11-20 15:00:00.25+00`, `0044-03-15 00:00:00 BC`, `infinity`. Nothing for any other, NULL
    /// among them.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        match text {
            b"-infinity" => return Some(Self::Before),
            b"infinity" => return Some(Self::After),
            _ => {}
        }
        let text = std::str::from_utf8(text).ok()?;
        let (text, before_christ) = text.strip_suffix(" BC").map_or((text, false), |text| (text, true));
        let (date, time) = text.split_once(' ')?;
        let time = time.strip_suffix("+00").unwrap_or(time);
        let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
        let mut numbers = [0; 7];
        let parts = date.split('-').chain(time.split(':'));
        let mut n_parts = 0;
        for part in parts {
            *numbers.get_mut(n_parts).filter(|_| n_parts < 6)? = number(part)?;
            n_parts += 1;
        }
        if n_parts != 6 || fraction.len() > 6 {
            return None;
        }
        if !fraction.is_empty() {
            numbers[6] = number(fraction)? * 10_i32.pow(6 - fraction.len() as u32);
        }
        if before_christ {
            numbers[0] = 1 - numbers[0];
        }
        Some(Self::At(numbers))
    }
}

/// Digits and nothing else.
fn number(text: &str) -> Option<i32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Whether a row of a COPY is from before `cut`, by its field number `field`. A row without a stamp is from after it.
pub(super) fn is_before(row: &[u8], field: usize, cut: Stamp) -> Option<bool> {
    let text = row.strip_suffix(b"\n")?.split(|&byte| byte == b'\t').nth(field)?;
    if text == b"\\N" {
        return Some(false);
    }
    Some(Stamp::parse(text)?.cmp(&cut) == Ordering::Less)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_in_the_order_of_the_server() {
        let in_order = [
            "-infinity",
            "4713-01-01 00:00:00 BC",
            "0044-03-15 00:00:00+00 BC",
            "0001-01-01 00:00:00",
            "1999-12-31 23:59:59.999999+00",
            "2026-11-20 15:00:00+00",
            "2026-11-20 15:00:00.05+00",
            "2026-11-20 15:00:00.5+00",
            "9999-12-31 00:00:00",
            "10000-01-01 00:00:00",
            "294276-12-31 23:59:59.999999",
            "infinity",
        ];
        for pair in in_order.windows(2) {
            let [first, second] = [pair[0], pair[1]].map(|text| Stamp::parse(text.as_bytes()).unwrap());
            assert!(first < second, "{pair:?}");
        }
        for text in [
            "",
            "\\N",
            "2026-11-20",
            "2026-11-20 15:00",
            "2026-11-20 15:00:00+09",
            "x 1:2:3",
            "1-2-3 4:5:6:7",
        ] {
            assert_eq!(Stamp::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_row_without_a_stamp_is_never_before() {
        let cut = Stamp::parse(b"2026-11-20 15:00:00+00").unwrap();
        assert_eq!(is_before(b"1\t2026-11-20 14:59:59.999999+00\tx\n", 1, cut), Some(true));
        assert_eq!(is_before(b"1\t2026-11-20 15:00:00+00\n", 1, cut), Some(false));
        assert_eq!(is_before(b"1\t\\N\tx\n", 1, cut), Some(false));
        assert_eq!(is_before(b"1\tnonsense\tx\n", 1, cut), None);
        assert_eq!(is_before(b"1\n", 1, cut), None);
    }
}
