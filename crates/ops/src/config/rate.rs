//! How fast something may be, as people write it: `10 MB/s`.

use bytesize::ByteSize;
use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

/// Bytes a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(pub NonZeroU64);

/// Text that is no [`Rate`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not so many bytes a second: write \"10 MB/s\", or \"512 KiB/s\"", .0.escape_debug())]
pub struct BadRate(String);

impl FromStr for Rate {
    type Err = BadRate;

    fn from_str(text: &str) -> Result<Self, BadRate> {
        let bytes = text.trim().strip_suffix("/s").and_then(|size| size.parse::<ByteSize>().ok());
        bytes
            .and_then(|size| NonZeroU64::new(size.as_u64()))
            .map(Self)
            .ok_or_else(|| BadRate(text.to_owned()))
    }
}

impl fmt::Display for Rate {
    /// Exactly, so that it reads back as the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("MB", 1_000_000), ("MiB", 1 << 20), ("kB", 1_000), ("KiB", 1 << 10), ("B", 1)];
        let (unit, size) =
            units.into_iter().find(|(_, size)| self.0.get().is_multiple_of(*size)).unwrap_or(("B", 1));
        write!(f, "{} {unit}/s", self.0.get() / size)
    }
}

impl<'de> serde::Deserialize<'de> for Rate {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_read_as_it_is_written_and_nothing_else_is_one() {
        for (text, bytes) in
            [("10 MB/s", 10_000_000), ("512 KiB/s", 512 << 10), ("3MiB/s", 3 << 20), ("1 B/s", 1)]
        {
            let rate: Rate = text.parse().unwrap();
            assert_eq!(rate.0.get(), bytes, "{text}");
            assert_eq!(rate.to_string().parse(), Ok(rate), "{rate}");
        }
        for bad in ["", "10", "10 MB", "0 B/s", "-1 MB/s", "fast", "10 MB/h", "/s"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }
}
