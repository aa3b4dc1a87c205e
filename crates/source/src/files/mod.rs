//! Files: folders and single files, with everything that a file system writes on them.
//!
//! - A backup lists the includes in path order, each thing once, with paths relative to `/`, and reads files
//!   lazily. It follows no link below an include and opens nothing but files and directories.
//! - A restore writes beneath its [`Target`] and nowhere else, and gives a file its name when it is whole.
//! - What cannot be read, vanished or changed under our hands is named; its siblings are complete.
//!
//! This module knows one machine's files. It knows no repository and decides nothing about keeping.

mod attributes;
pub(crate) mod beneath;
mod include;
mod names;
mod place;
mod read;
mod standing;
mod target;
mod walk;
mod xattr;

pub use self::place::{FileWriter, PlaceError};
pub use self::standing::Wanted;
pub use self::target::{Mounts, Overwrite, Placed, Target, TargetReport};

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, bounded};
use hikae_model::{Cx, ErrorCode, FileTime, HashKey, Problem, sabotage};
use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};
use rustix::fd::AsFd as _;
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat};
use rustix::io::Errno;
use serde::Deserialize as _;
use serde::de::value::MapAccessDeserializer;

use self::include::Plan;
use self::walk::{Batch, Rules};
use crate::{Finished, Item, Reading, Source, SourceError};

/// Batches that the walk may be ahead of the reader.
const BATCHES_AHEAD: usize = 8;
/// Files read at the same time, one a core up to this: a disk that turns would seek more than it reads.
const MAX_LANES: usize = 4;

/// `[source.<name>]` with `kind = "files"` in the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct FilesSettings {
    /// Folders and files to back up. A link on the way to one is kept, and so is what it leads to.
    pub include: Vec<Include>,
    /// What to leave out, in gitignore syntax, relative to each include.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// A file with more such patterns, one a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclude_file: Option<PathBuf>,
    /// Files that must be JSON, in gitignore syntax, as `*.json`: one that is not is kept and listed as a problem.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parse_json: Vec<String>,
    /// Stay on the file system of each include: what is mounted below it is listed empty.
    #[serde(default)]
    pub one_file_system: bool,
    /// Only files modified within this time, as `7d`; directories and links always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newer_than: Option<String>,
}

/// One folder or file to back up: `"/etc/nginx"`, or `{ path = "/srv/app/.env", secret = true }`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Include {
    /// Where it is.
    pub path: PathBuf,
    /// It holds secrets: `hikae cat` shows it only with `--reveal`. A restore puts it back as any other file.
    pub secret: bool,
    /// It need not be there.
    pub optional: bool,
}

impl<P: Into<PathBuf>> From<P> for Include {
    fn from(path: P) -> Self {
        Self { path: path.into(), ..Self::default() }
    }
}

/// An [`Include`] that is more than a path.
#[derive(serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
struct IncludeTable {
    path: PathBuf,
    #[serde(default)]
    secret: bool,
    #[serde(default)]
    optional: bool,
}

impl serde::Serialize for Include {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { path, secret, optional } = self.clone();
        if secret || optional {
            IncludeTable { path, secret, optional }.serialize(serializer)
        } else {
            path.serialize(serializer)
        }
    }
}

// By hand, because an untagged enum would answer a misspelt key with "did not match any variant".
impl<'de> serde::Deserialize<'de> for Include {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PathOrTable;

        impl<'de> serde::de::Visitor<'de> for PathOrTable {
            type Value = Include;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a path, or a table with `path`, `secret` and `optional`")
            }

            fn visit_str<E: serde::de::Error>(self, path: &str) -> Result<Include, E> {
                Ok(Include::from(path))
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Include, A::Error> {
                let table = IncludeTable::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Include { path: table.path, secret: table.secret, optional: table.optional })
            }
        }

        deserializer.deserialize_any(PathOrTable)
    }
}

/// What else there is that a source of files should know of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    /// Directories that hikae fills itself: listed, and left out with all that is in them. A repository that is backed
    /// up into itself grows with every run.
    pub own: Vec<PathBuf>,
    /// The same for directories of which only the beginning of the name is known, with where they are.
    pub own_beginnings: Vec<(PathBuf, &'static str)>,
    /// SQLite databases that a source of their own reads.
    pub databases: Vec<PathBuf>,
}

/// Folders and files as a [`Source`].
#[derive(Debug)]
pub struct FilesSource {
    settings: FilesSettings,
    neighbours: Neighbours,
    exclude: Gitignore,
    json: Gitignore,
    newer_than: Option<SignedDuration>,
}

impl FilesSource {
    /// A source of what `settings` name. Reads `exclude_file`; looks at nothing else yet.
    ///
    /// # Errors
    /// [`SourceError`] for a pattern or a time that is none, and for an `exclude_file` that cannot be read.
    pub fn new(settings: FilesSettings) -> Result<Self, SourceError> {
        Self::beside(Neighbours::default(), settings)
    }

    /// The same, with something around it.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn beside(neighbours: Neighbours, settings: FilesSettings) -> Result<Self, SourceError> {
        if settings.include.is_empty() {
            return Err(bad_setting("include", "names nothing to back up"));
        }
        let exclude = exclude_matcher(&settings)?;
        let newer_than = settings.newer_than.as_deref().map(parse_age).transpose()?;
        let json = matcher("parse_json", &settings.parse_json)?;
        Ok(Self { settings, neighbours, exclude, json, newer_than })
    }
}

impl FilesSource {
    /// Why a backup would leave out what is at this path, by the rules alone; nothing if it would keep it. The path
    /// need not be there, and is taken for a file. Age and file system are not looked at.
    pub fn why_left_out(&self, path: &Path) -> Option<String> {
        let mut why = "no `include` holds it".to_owned();
        for include in &self.settings.include {
            let Ok(below) = path.strip_prefix(&include.path) else { continue };
            let names: Vec<_> = below.components().collect();
            // As the walk meets them: what is below a folder that is left out is never asked about.
            let excluded = (1..=names.len()).find_map(|n| {
                let way: PathBuf = names[..n].iter().collect();
                match self.exclude.matched(way, n < names.len()) {
                    Match::Ignore(glob) => Some(format!("`{}` excludes it", glob.original())),
                    Match::None | Match::Whitelist(_) => None,
                }
            });
            why = excluded?;
        }
        Some(why)
    }
}

impl Source for FilesSource {
    fn kind(&self) -> &'static str {
        "files"
    }

    fn check(&self, _cx: &Cx) -> Result<Vec<Problem>, SourceError> {
        let mut plan = Plan::make(&self.settings.include)?;
        let unreadable = require_any_readable(&plan)?;
        for (place, error) in unreadable {
            let what = format!("cannot be read: {}", std::io::Error::from(error));
            let problem = Problem::new("unreadable", place.display(), what);
            plan.problems.push(problem.advise("run hikae as a user who may read it, or exclude it"));
        }
        Ok(plan.problems)
    }

    fn begin(&self, _key: HashKey, cx: &Cx) -> Result<Box<dyn Reading>, SourceError> {
        let moment = cx.now();
        let mut plan = Plan::make(&self.settings.include)?;
        require_any_readable(&plan)?;
        let problems = std::mem::take(&mut plan.problems);
        let Neighbours { own, own_beginnings, databases } = &self.neighbours;
        let beginnings = own_beginnings.iter().filter_map(|(place, name)| Some((identity_of(place)?, *name)));
        let rules = Rules {
            plan,
            own: match sabotage::on("own-repository-is-read") {
                true => Vec::new(),
                false => own.iter().filter_map(|place| identity_of(place)).collect(),
            },
            own_beginnings: beginnings.collect(),
            databases: databases.iter().filter_map(|path| std::fs::canonicalize(path).ok()).collect(),
            exclude: self.exclude.clone(),
            json: self.json.clone(),
            one_file_system: self.settings.one_file_system,
            not_before: self.newer_than.map(|age| file_time(moment, age)),
        };
        let (sender, batches) = bounded(BATCHES_AHEAD);
        let walker_cx = cx.clone();
        let walker = std::thread::Builder::new()
            .name("walk".to_owned())
            .spawn(move || walk::walk(rules, &sender, &walker_cx))
            .map_err(|source| SourceError::Io { verb: "start a thread to walk", path: "/".into(), source })?;
        Ok(Box::new(FilesReading {
            moment,
            batches: Some(batches),
            walker: Some(walker),
            items: Vec::new().into_iter(),
            problems,
            notes: Vec::new(),
        }))
    }
}

/// A walk under way.
struct FilesReading {
    moment: Timestamp,
    batches: Option<Receiver<Result<Batch, SourceError>>>,
    walker: Option<JoinHandle<()>>,
    items: std::vec::IntoIter<Item>,
    problems: Vec<Problem>,
    notes: Vec<Problem>,
}

impl Reading for FilesReading {
    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        loop {
            if let Some(item) = self.items.next() {
                return Ok(Some(item));
            }
            let Some(batches) = &self.batches else { return Ok(None) };
            match batches.recv() {
                Ok(batch) => {
                    let Batch { items, problems, notes } = batch?;
                    self.items = items.into_iter();
                    self.problems.extend(problems);
                    self.notes.extend(notes);
                }
                Err(_) => self.join()?,
            }
        }
    }

    fn lanes(&self) -> usize {
        std::thread::available_parallelism().map_or(1, usize::from).min(MAX_LANES)
    }

    fn finish(mut self: Box<Self>) -> Result<Finished, SourceError> {
        self.join()?;
        let (problems, notes) = (std::mem::take(&mut self.problems), std::mem::take(&mut self.notes));
        Ok(Finished { moment: self.moment, problems, notes, manifest: None })
    }
}

impl FilesReading {
    /// Ends the walk. It has nothing left to send, or stops when nobody listens.
    fn join(&mut self) -> Result<(), SourceError> {
        self.batches = None;
        match self.walker.take().map(JoinHandle::join) {
            None | Some(Ok(())) => Ok(()),
            Some(Err(_)) => Err(SourceError::Failed {
                code: ErrorCode::Failure,
                what: "the walk over the files ended by a fault of hikae itself".to_owned(),
                advice: Some("report this with the output of the run".into()),
            }),
        }
    }
}

impl Drop for FilesReading {
    fn drop(&mut self) {
        let _ = self.join();
    }
}

/// The includes that we may not read.
///
/// # Errors
/// [`SourceError::Io`] if that is all of them: a snapshot of nothing would look like a backup.
fn require_any_readable(plan: &Plan) -> Result<Vec<(PathBuf, Errno)>, SourceError> {
    let unreadable = plan.places.iter().filter_map(|place| {
        let wanted = if place.is_dir() { Access::READ_OK | Access::EXEC_OK } else { Access::READ_OK };
        let error = accessat(CWD, place, wanted, AtFlags::EACCESS).err()?;
        Some((place.clone(), error))
    });
    let unreadable: Vec<_> = unreadable.collect();
    match unreadable.first() {
        Some((path, error)) if unreadable.len() == plan.places.len() => {
            Err(SourceError::Io { verb: "read", path: path.clone(), source: (*error).into() })
        }
        _ => Ok(unreadable),
    }
}

/// What stands at `place`, if anything does. A link is followed: it is what it leads to that we leave out.
fn identity_of(place: &Path) -> Option<beneath::Identity> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let opened = rustix::fs::open(place, flags, Mode::empty()).ok()?;
    beneath::look_at(opened.as_fd()).ok().map(|seen| beneath::identity(&seen))
}

fn bad_setting(setting: &str, why: impl std::fmt::Display) -> SourceError {
    SourceError::Setting { setting: setting.to_owned(), why: why.to_string() }
}

fn matcher(setting: &str, patterns: &[String]) -> Result<Gitignore, SourceError> {
    let mut builder = GitignoreBuilder::new("");
    for pattern in patterns {
        builder.add_line(None, pattern).map_err(|error| bad_setting(setting, error))?;
    }
    builder.build().map_err(|error| bad_setting(setting, error))
}

fn exclude_matcher(settings: &FilesSettings) -> Result<Gitignore, SourceError> {
    let mut builder = GitignoreBuilder::new("");
    for pattern in &settings.exclude {
        builder.add_line(None, pattern).map_err(|error| bad_setting("exclude", error))?;
    }
    if let Some(path) = &settings.exclude_file {
        let text = std::fs::read_to_string(path).map_err(|source| SourceError::Io {
            verb: "read",
            path: path.clone(),
            source,
        })?;
        for pattern in text.lines() {
            builder.add_line(None, pattern).map_err(|error| bad_setting("exclude_file", error))?;
        }
    }
    builder.build().map_err(|error| bad_setting("exclude", error))
}

/// An age as people write it: `7d`, `36h`, `2 weeks`.
fn parse_age(text: &str) -> Result<SignedDuration, SourceError> {
    let wrong = |why: &dyn std::fmt::Display| bad_setting("newer_than", format_args!("`{text}`: {why}"));
    let span: Span = text.parse().map_err(|error| wrong(&error))?;
    let age = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|error| wrong(&error))?;
    if age.is_positive() { Ok(age) } else { Err(wrong(&"must be longer than nothing")) }
}

fn file_time(moment: Timestamp, before: SignedDuration) -> FileTime {
    let then = moment.saturating_sub(before).unwrap_or(Timestamp::MIN);
    FileTime { seconds: then.as_second(), nanoseconds: u32::try_from(then.subsec_nanosecond()).unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_read_as_people_write_them() {
        for (text, hours) in [("7d", 168), ("36h", 36), ("2 weeks", 336), ("1d 12h", 36)] {
            assert_eq!(parse_age(text).unwrap(), SignedDuration::from_hours(hours), "{text}");
        }
        for text in ["", "7", "0d", "-7d", "1 month", "soon"] {
            assert!(parse_age(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_rules_alone_say_what_a_backup_leaves_out_and_why() {
        let settings = FilesSettings {
            include: vec!["/srv/app".into(), "/srv/app/cache/kept".into()],
            exclude: ["*.tmp", "cache/", "/build", "!keep.tmp"].map(str::to_owned).to_vec(),
            ..FilesSettings::default()
        };
        let source = FilesSource::new(settings).unwrap();
        for (path, why) in [
            ("/srv/app", None),
            ("/srv/app/a.txt", None),
            ("/srv/app/deep/a.tmp", Some("`*.tmp` excludes it")),
            ("/srv/app/deep/keep.tmp", None),
            ("/srv/app/deep/cache/a", Some("`cache/` excludes it")),
            ("/srv/app/deep/cache", None), // a file of that name
            ("/srv/app/cache/keep.tmp", Some("`cache/` excludes it")),
            ("/srv/app/cache/kept/a", None), // an include of its own
            ("/srv/app/build/a", Some("`/build` excludes it")),
            ("/srv/app/deep/build/a", None),
            ("/srv/application", Some("no `include` holds it")),
        ] {
            assert_eq!(source.why_left_out(Path::new(path)).as_deref(), why, "{path}");
        }
    }

    #[test]
    fn an_include_is_a_path_or_a_table_and_a_misspelt_key_is_named() {
        let settings: FilesSettings = serde_json::from_str(
            r#"{"include": ["/etc/nginx", {"path": "/srv/.env", "secret": true}], "newer_than": "7d"}"#,
        )
        .unwrap();
        assert_eq!(settings.include[0], Include::from("/etc/nginx"));
        assert_eq!(settings.include[1], Include { secret: true, ..Include::from("/srv/.env") });
        let back: FilesSettings = serde_json::from_str(&serde_json::to_string(&settings).unwrap()).unwrap();
        assert_eq!(back, settings);
        let wrong = serde_json::from_str::<Include>(r#"{"path": "/srv/.env", "secrit": true}"#).unwrap_err();
        assert!(wrong.to_string().contains("secrit"), "{wrong}");
    }
}
