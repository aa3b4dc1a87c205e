//! Names of exported files, by template.
//!
//! ```text
//! postgresql/db_{time:%Y%m%d_%H%M%S}.sql.gz      {time} alone is {time:%Y%m%d_%H%M%S}
//! {purpose}/{source}_{time}.db.gz                {purpose}: daily, weekly, monthly or manual
//! daily/{source}/{time:%Y-%m-%d}/                a folder
//! ```
//!
//! What a placeholder stands for never makes a folder of its own: a `/` in it becomes `_`. Only the format of a time may
//! hold one, because who writes the configuration wrote it.

use hikae_model::TreePath;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::de::{self, Deserialize, Deserializer};
use std::fmt;

/// How a time is written unless the template says so.
const TIME_FORMAT: &str = "%Y%m%d_%H%M%S";
/// The placeholders.
const KNOWN: [&str; 8] = ["source", "kind", "purpose", "time", "snapshot", "export", "host", "table"];

/// A name with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Time(String),
    Placeholder(&'static str),
}

/// What the placeholders stand for.
#[derive(Clone, Debug)]
pub struct Values<'a> {
    /// `{source}`.
    pub source: &'a str,
    /// `{kind}`.
    pub kind: &'a str,
    /// `{purpose}`.
    pub purpose: &'a str,
    /// `{time}`: the moment that the snapshot shows.
    pub moment: Timestamp,
    /// `{snapshot}`: the beginning of its id.
    pub snapshot: &'a str,
    /// `{export}`.
    pub export: &'a str,
    /// `{host}`.
    pub host: &'a str,
    /// `{table}`, where there is one.
    pub table: Option<&'a str>,
}

/// Why a text is no template, or gives no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTemplate {
    /// A brace without its other.
    #[error("`{text}` has a brace without its other; placeholders are as {{source}} and {{time:%Y-%m-%d}}")]
    Brace {
        /// The template.
        text: String,
    },
    /// Nobody knows the placeholder.
    #[error("{{{name}}} stands for nothing here; known are {{{}}}", KNOWN.join("}, {"))]
    Unknown {
        /// Its name.
        name: String,
    },
    /// The format of a time.
    #[error("`{format}` is no format of a time: {why}")]
    Time {
        /// The format.
        format: String,
        /// Why.
        why: String,
    },
    /// What comes out is no path below the target.
    #[error("`{name}` is no name of a file below the target")]
    Path {
        /// What came out.
        name: String,
    },
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// [`BadTemplate`]; also if what it gives for a time of today is no path.
    pub fn parse(text: &str) -> Result<Self, BadTemplate> {
        let brace = || BadTemplate::Brace { text: text.to_owned() };
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find(['{', '}']) {
            let inner = rest[open..].strip_prefix('{').ok_or_else(brace)?;
            if open > 0 {
                parts.push(Part::Text(rest[..open].to_owned()));
            }
            let (inner, after) = inner.split_once('}').ok_or_else(brace)?;
            parts.push(match inner.split_once(':') {
                Some(("time", format)) => Part::Time(format.to_owned()),
                _ if inner == "time" => Part::Time(TIME_FORMAT.to_owned()),
                _ => {
                    let known = KNOWN.into_iter().find(|known| *known == inner);
                    Part::Placeholder(known.ok_or_else(|| BadTemplate::Unknown { name: inner.to_owned() })?)
                }
            });
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        let template = Self { text: text.to_owned(), parts };
        let sample = Values {
            source: "source",
            kind: "files",
            purpose: "daily",
            moment: Timestamp::UNIX_EPOCH,
            snapshot: "0",
            export: "export",
            host: "host",
            table: Some("table"),
        };
        template.render(&sample, &TimeZone::UTC)?;
        Ok(template)
    }

    /// What a manifest is called that is not told otherwise.
    pub fn manifest() -> Self {
        let parts = vec![
            Part::Text("manifest_".to_owned()),
            Part::Placeholder("export"),
            Part::Text("_".to_owned()),
            Part::Time(TIME_FORMAT.to_owned()),
        ];
        Self { text: "manifest_{export}_{time}".to_owned(), parts }
    }

    /// The template as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it holds the placeholder.
    pub fn has(&self, name: &str) -> bool {
        self.parts.iter().any(|part| match part {
            Part::Placeholder(placeholder) => *placeholder == name,
            Part::Time(_) => name == "time",
            Part::Text(_) => false,
        })
    }

    /// The folder in which all that it names stands; nothing if a placeholder decides that.
    pub fn folder(&self) -> Option<&str> {
        let folder = self.text.rsplit_once('/').map_or("", |(folder, _)| folder);
        (!folder.contains('{')).then_some(folder)
    }

    /// Whether it names folders.
    pub fn is_folder(&self) -> bool {
        self.text.ends_with('/')
    }

    /// The name for these values.
    ///
    /// # Errors
    /// [`BadTemplate::Time`] and [`BadTemplate::Path`].
    pub fn render(&self, values: &Values<'_>, zone: &TimeZone) -> Result<TreePath, BadTemplate> {
        let mut name = String::new();
        for part in &self.parts {
            let value = match part {
                Part::Text(text) => {
                    name.push_str(text);
                    continue;
                }
                Part::Time(format) => {
                    let time = values.moment.to_zoned(zone.clone());
                    let written = jiff::fmt::strtime::format(format, &time);
                    let bad =
                        |why: jiff::Error| BadTemplate::Time { format: format.clone(), why: why.to_string() };
                    name.push_str(&written.map_err(bad)?);
                    continue;
                }
                Part::Placeholder("source") => values.source,
                Part::Placeholder("kind") => values.kind,
                Part::Placeholder("purpose") => values.purpose,
                Part::Placeholder("snapshot") => values.snapshot,
                Part::Placeholder("export") => values.export,
                Part::Placeholder("host") => values.host,
                Part::Placeholder(_) => values.table.unwrap_or_default(),
            };
            let plain = |c: char| if c == '/' || c.is_control() { '_' } else { c };
            name.extend(value.chars().map(plain));
        }
        let path = name.strip_suffix('/').unwrap_or(&name);
        let is_hidden = |path: &TreePath| path.names().any(|name| name.starts_with(b".hikae-"));
        match TreePath::parse(path) {
            Ok(path) if !is_hidden(&path) => Ok(path),
            _ => Err(BadTemplate::Path { name }),
        }
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str, source: &str, zone: &str) -> String {
        let values = Values {
            source,
            kind: "sqlite",
            purpose: "weekly",
            moment: "2026-01-25T18:04:05Z".parse().unwrap(),
            snapshot: "3f02",
            export: "e",
            host: "h",
            table: None,
        };
        let zone = TimeZone::posix(zone).unwrap();
        Template::parse(template).unwrap().render(&values, &zone).unwrap().to_string()
    }

    /// Keeps IN-16, MK-12.
    #[test]
    fn a_name_is_of_the_moment_of_its_snapshot_in_the_zone_that_is_asked_for() {
        let weekly = "{purpose}/itsm_nexus_{purpose}_{time:%Y%m%d_%H%M%S}.db.gz";
        assert_eq!(render(weekly, "itsm", "UTC0"), "weekly/itsm_nexus_weekly_20260125_180405.db.gz");
        assert_eq!(render(weekly, "itsm", "JST-9"), "weekly/itsm_nexus_weekly_20260126_030405.db.gz");
        assert_eq!(render("daily/{source}/{time:%Y/%m}/", "mail", "UTC0"), "daily/mail/2026/01");
    }

    #[test]
    fn no_value_leads_out_of_its_folder_and_no_template_is_half_understood() {
        assert_eq!(render("a/{source}_x", "../../etc", "UTC0"), "a/.._.._etc_x");
        for bad in ["{sorce}", "{time", "a}b", "../{time}", "/etc/{time}", "{time:%!}", "", ".hikae-{time}"] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
        assert!(Template::parse("{sorce}").unwrap_err().to_string().contains("{source}"));
        assert_eq!(Template::parse("a/b_{time}").unwrap().folder(), Some("a"));
        assert_eq!(Template::parse("{source}/b_{time}").unwrap().folder(), None);
    }
}
