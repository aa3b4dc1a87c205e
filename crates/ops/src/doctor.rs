//! Doctor: one line for each condition that backups rest on, good or bad, with what to do.
//!
//! It looks and changes nothing. What is bad is found here before it is found at a restore.

use crate::OpsError;
use crate::config::{Config, SecretRef, SourceSettings, UnlockConfig};
use crate::list::ListedSnapshot;
use crate::open::Place;
use crate::surroundings::Surroundings;
use hikae_model::{Advise, Bytes, Cx};
use hikae_repo::Repo;
use hikae_source::files::FilesSource;
use hikae_source::postgresql::{Finding, Weight};
use hikae_store::Durability;
use jiff::Timestamp;
use serde::Serialize;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// How a condition stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Health {
    /// As it should be.
    Ok,
    /// Backups work, and this should be mended.
    Warn,
    /// Backups or restores do not work.
    Fail,
}

/// One condition.
#[derive(Clone, Debug, Serialize)]
pub struct Condition {
    /// What was looked at, as `key file` or `source docs`.
    pub name: String,
    /// How it stands.
    pub health: Health,
    /// What was found.
    pub found: String,
    /// What to do.
    pub advice: Option<String>,
}

impl Condition {
    /// A condition as it should be.
    pub fn ok(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self { name: name.into(), health: Health::Ok, found: found.into(), advice: None }
    }

    /// One that should be mended.
    pub fn warn(name: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Self {
        let advice = Some(advice.into()).filter(|advice| !advice.is_empty());
        Self { name: name.into(), health: Health::Warn, found: found.into(), advice }
    }

    /// One that stops backups or restores.
    pub fn fail(name: impl Into<String>, error: &(impl Advise + ?Sized)) -> Self {
        let found = crate::with_causes(error);
        let advice = error.advice().map(std::borrow::Cow::into_owned);
        Self { name: name.into(), health: Health::Fail, found, advice }
    }

    fn of_finding(name: &str, Finding { weight, problem }: &Finding) -> Self {
        let health = match weight {
            Weight::Blocks => Health::Fail,
            Weight::Warns => Health::Warn,
            Weight::Notes => Health::Ok,
        };
        let (found, advice) = (problem.to_string(), problem.advice.clone());
        Self { name: name.to_owned(), health, found, advice }
    }
}

/// A backup older than this is overdue, unless an objective says otherwise.
const OVERDUE_HOURS: i64 = 26;
/// A drill older than this proves little.
const STALE_DRILL_DAYS: i64 = 31;

/// What the configuration itself and its files look like.
pub fn look_at_config(config: &Config) -> Vec<Condition> {
    let mut found = Vec::new();
    if let Some(file) = &config.file {
        let what =
            format!("{}, sources: {}, jobs: {}", file.display(), config.sources.len(), config.jobs.len());
        found.push(Condition::ok("configuration", what));
        found.extend(config.warnings.iter().map(|warning| {
            Condition::warn("configuration", warning.to_string(), warning.advice.clone().unwrap_or_default())
        }));
    }
    for (name, repository) in &config.repositories {
        let store = repository.store.directory();
        let file = match &repository.unlock {
            Some(UnlockConfig::KeyFile(path)) => path,
            Some(UnlockConfig::IdentityFile(path)) => path,
            Some(UnlockConfig::Passphrase(_)) | None => continue,
        };
        // A key that is not there and opens nothing yet is made with the repository.
        if file.exists() || store.is_none_or(Path::exists) {
            found.push(look_at_key(&format!("key of {name}"), file, store));
        }
    }
    found
}

fn look_at_key(name: &str, file: &Path, store: Option<&Path>) -> Condition {
    match crate::private_file::read(file) {
        Err(error) => Condition::fail(name, &error),
        Ok(_) if store.is_some_and(|store| is_on_one_disk(file, store)) => Condition::warn(
            name,
            format!("{} lies on the disk of its repository", file.display()),
            "keep a copy of the repository and the recovery sheet elsewhere: a thief of this disk has both",
        ),
        Ok(_) => Condition::ok(name, format!("{} (mode 0600)", file.display())),
    }
}

fn is_on_one_disk(a: &Path, b: &Path) -> bool {
    let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev()).ok();
    device(a).is_some_and(|device_of_a| device(b) == Some(device_of_a))
}

/// Whether the programs are there that the configuration names: hooks and tellers of secrets. None is run.
pub fn look_at_programs(config: &Config, around: &Surroundings) -> Vec<Condition> {
    let mut found = Vec::new();
    let mut look = |title: String, words: &[String]| {
        let name = words.first().map_or("", String::as_str);
        let there = match name.contains('/') {
            true => Path::new(name).is_file(),
            false => around.path.iter().any(|directory| directory.join(name).is_file()),
        };
        found.push(match there {
            true => Condition::ok(title, words.join(" ")),
            false => {
                let what = format!("there is no program `{name}`");
                Condition { health: Health::Fail, ..Condition::warn(title, what, "see its path, or PATH") }
            }
        });
    };
    for (name, repository) in &config.repositories {
        if let Some(UnlockConfig::Passphrase(SecretRef::Command(words))) = &repository.unlock {
            look(format!("passphrase of {name}"), words);
        }
    }
    for (name, source) in &config.sources {
        if let Some(SecretRef::Command(words)) = &source.password {
            look(format!("password of {name}"), words);
        }
        for words in source.hooks.before.iter().chain(&source.hooks.after) {
            look(format!("hook of {name}"), words);
        }
    }
    found
}

/// What the author of the configuration meant each source of files to keep and to leave out, against its rules.
pub fn look_at_fixtures(config: &Config) -> Vec<Condition> {
    let mut found = Vec::new();
    for (name, source) in config.sources.iter().filter(|(_, source)| !source.fixtures.is_empty()) {
        let title = format!("fixtures of {name}");
        let SourceSettings::Files(settings) = &source.settings else { continue };
        let rules = match FilesSource::new(settings.clone()) {
            Ok(rules) => rules,
            Err(error) => {
                found.push(Condition::fail(title, &error));
                continue;
            }
        };
        let broken = source.fixtures.broken_by(&rules);
        let advice = "change `include` and `exclude`, or the fixture if it is no longer meant";
        found.extend(
            broken
                .iter()
                .map(|what| Condition { health: Health::Fail, ..Condition::warn(&title, what, advice) }),
        );
        if broken.is_empty() {
            let (holds, out) = (source.fixtures.holds.len(), source.fixtures.leaves_out.len());
            found.push(Condition::ok(title, format!("{holds} held, {out} left out, as meant")));
        }
    }
    found
}

/// What the store looks like: whether it keeps what it says, who may read it, how much room it has.
///
/// Where no repository was made yet there is nothing to look at, and nothing wrong either.
pub fn look_at_store(place: &Place, cx: &Cx) -> Vec<Condition> {
    let mut found = Vec::new();
    if !place.has_repository(cx) {
        let what = format!("there is none in {} yet", place.address());
        return vec![Condition::warn("repository", what, "run `hikae init`, which makes it and its key")];
    }
    let store = match place.open_store(cx) {
        Ok(store) => store,
        Err(error) => return vec![Condition::fail("store", &error)],
    };
    found.push(match store.durability() {
        Ok(Durability::Full) => Condition::ok("store", format!("{}, durable", place.address())),
        Ok(Durability::BestEffort { why }) => Condition::warn(
            "store",
            format!("{} is on {why}", place.address()),
            "a power cut may cost the last run; keep a copy elsewhere",
        ),
        Err(error) => Condition::fail("store", &error),
    });
    let Some(store) = store.directory() else { return found };
    match std::fs::metadata(store.path()) {
        Ok(metadata) if metadata.mode() & 0o077 != 0 => found.push(Condition::warn(
            "store",
            format!("others may enter it (mode {:03o})", metadata.mode() & 0o777),
            "run chmod 700 on it",
        )),
        Ok(_) | Err(_) => {}
    }
    found.extend(free_space(store.path()));
    match store.strangers() {
        Ok(strangers) if !strangers.is_empty() => found.push(Condition::warn(
            "store",
            format!("{} files in it are not hikae's, as {}", strangers.len(), strangers[0].escape_default()),
            "move them away; hikae never touches them",
        )),
        Ok(_) => {}
        Err(error) => found.push(Condition::fail("store", &error)),
    }
    found
}

/// The room on the disk of a directory.
pub(crate) struct Disk {
    free_bytes: u64,
    total_bytes: u64,
}

impl Disk {
    pub(crate) fn of(directory: &Path) -> Option<Self> {
        let disk = rustix::fs::statvfs(directory).ok()?;
        Some(Self {
            free_bytes: disk.f_bavail.saturating_mul(disk.f_frsize),
            total_bytes: disk.f_blocks.saturating_mul(disk.f_frsize),
        })
    }
}

impl std::fmt::Display for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} free of {}", Bytes(self.free_bytes), Bytes(self.total_bytes))
    }
}

fn free_space(path: &Path) -> Option<Condition> {
    let disk = Disk::of(path)?;
    let used = 100 - disk.free_bytes.saturating_mul(100) / disk.total_bytes.max(1);
    let what = disk.to_string();
    Some(match used {
        0..90 => Condition::ok("free space", what),
        _ => Condition::warn("free space", what, "forget old snapshots and prune, or make room"),
    })
}

/// What each source looks like right now, as a backup would find it.
pub fn look_at_sources(config: &Config, around: &Surroundings, cx: &Cx) -> Vec<Condition> {
    let mut found = Vec::new();
    for (name, source) in &config.sources {
        let title = format!("source {name}");
        match source.look(name, around, cx) {
            Err(error) => found.push(Condition::fail(title, &error)),
            Ok(findings) if findings.iter().all(|finding| finding.weight == Weight::Notes) => {
                found.push(Condition::ok(&title, shown(&source.settings)));
                found.extend(findings.iter().map(|finding| Condition::of_finding(&title, finding)));
            }
            Ok(findings) => {
                found.extend(findings.iter().map(|finding| Condition::of_finding(&title, finding)));
            }
        }
    }
    found
}

fn shown(settings: &SourceSettings) -> String {
    let library = match settings {
        SourceSettings::Sqlite(_) => format!(" {}", hikae_source::sqlite::library_version()),
        SourceSettings::Files(_)
        | SourceSettings::Postgresql(_)
        | SourceSettings::PostgresqlRows(_)
        | SourceSettings::PostgresqlCluster(_) => String::new(),
    };
    format!("{} ({}{library})", settings.shown(), settings.kind())
}

/// What the repository holds of each source: how old the last good snapshot is, and whether it was proved.
///
/// # Errors
/// Any failure to read the repository.
pub fn look_at_snapshots(repo: &Repo, config: &Config, now: Timestamp) -> Result<Vec<Condition>, OpsError> {
    let snapshots = crate::list::list(repo, None)?;
    let mut names: Vec<&str> = config.sources.keys().map(String::as_str).collect();
    names.extend(snapshots.iter().map(|snapshot| snapshot.source.as_str()));
    names.sort_unstable();
    names.dedup();
    let mut found = Vec::new();
    for name in names {
        let of_source: Vec<&ListedSnapshot> =
            snapshots.iter().filter(|snapshot| snapshot.source == name).collect();
        found.push(look_at_newest(name, &of_source, now));
        found.extend(look_at_drills(name, &of_source, now));
    }
    let state = repo.state();
    if !state.void.is_empty() {
        found.push(Condition::warn(
            "log",
            format!("{} entries do not count: their writers had no right", state.void.len()),
            "see who writes to this repository",
        ));
    }
    Ok(found)
}

fn look_at_newest(name: &str, snapshots: &[&ListedSnapshot], now: Timestamp) -> Condition {
    let title = format!("backup of {name}");
    let Some(newest) = snapshots.first() else {
        return Condition {
            name: title,
            health: Health::Fail,
            found: "there is none".to_owned(),
            advice: Some("run `hikae backup`".to_owned()),
        };
    };
    if let Some(why) = &newest.damaged {
        let good = snapshots.iter().find(|snapshot| snapshot.complete);
        let good = good.map_or("there is no good one".to_owned(), |good| {
            let hours = (now.as_second() - good.moment.as_second()) / 3600;
            format!("the last good one is {} old ({})", age(hours), good.id.short())
        });
        return Condition {
            health: Health::Fail,
            ..Condition::warn(
                title,
                format!("the newest, {}, is damaged: {why}; {good}", newest.id.short()),
                "run `hikae repo repair`, then `hikae backup`",
            )
        };
    }
    let Some(good) = snapshots.iter().find(|snapshot| snapshot.complete) else {
        let what = format!("none is complete; the newest has {}", n_problems(newest));
        return Condition::warn(title, what, format!("`hikae show {}` lists them", newest.id.short()));
    };
    let hours = (now.as_second() - good.moment.as_second()) / 3600;
    let what = format!("the last good one is {} old ({})", age(hours), good.id.short());
    match (newest.complete, hours > OVERDUE_HOURS) {
        (true, false) => Condition::ok(title, what),
        (true, true) => Condition::warn(title, what, "run `hikae backup`"),
        (false, _) => Condition::warn(
            title,
            format!("the newest has {}; {what}", n_problems(newest)),
            format!("`hikae show {}` lists them", newest.id.short()),
        ),
    }
}

fn look_at_drills(name: &str, snapshots: &[&ListedSnapshot], now: Timestamp) -> Option<Condition> {
    let title = format!("drill of {name}");
    snapshots.first()?;
    let mut whole = snapshots.iter().filter(|snapshot| snapshot.damaged.is_none());
    let drilled = whole.clone().find(|snapshot| snapshot.drill_passed.is_some());
    let proved = whole.find(|snapshot| snapshot.complete && snapshot.drill_passed == Some(true));
    Some(match (drilled, proved) {
        (None, _) => Condition::warn(title, "it was never restored", "run `hikae drill`"),
        (Some(newest), _) if newest.drill_passed == Some(false) => Condition {
            name: title,
            health: Health::Fail,
            found: format!("the restore of {} was not right", newest.id.short()),
            advice: Some("run `hikae drill` again, then `hikae verify --read-data`".to_owned()),
        },
        (Some(partial), None) => Condition::warn(
            title,
            format!("only a partial snapshot was restored ({})", partial.id.short()),
            "run `hikae drill` once a backup is complete",
        ),
        (Some(_), Some(proved)) => {
            let hours = (now.as_second() - proved.moment.as_second()) / 3600;
            let what = format!("the newest proved snapshot is {} old ({})", age(hours), proved.id.short());
            match hours > STALE_DRILL_DAYS * 24 {
                true => Condition::warn(title, what, "run `hikae drill`"),
                false => Condition::ok(title, what),
            }
        }
    })
}

fn n_problems(snapshot: &ListedSnapshot) -> String {
    match snapshot.n_problems {
        1 => "1 problem".to_owned(),
        n => format!("{n} problems"),
    }
}

fn age(hours: i64) -> String {
    match hours {
        ..0 => "less than nothing (a clock is wrong)".to_owned(),
        0 => "less than an hour".to_owned(),
        1 => "1 hour".to_owned(),
        2..48 => format!("{hours} hours"),
        _ => format!("{} days", hours / 24),
    }
}
