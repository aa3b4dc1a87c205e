//! From TOML text to a [`Config`], with the place of everything that is wrong.
//!
//! Sources are read in two steps, by hand: `kind` decides which settings the rest of the table is. A derived
//! tagged enum would lose the places.

use super::leak::has_secret;
use super::source::SourceSettings;
use super::{Config, ConfigError, Fault, Fixtures, SecretRef, SourceConfig, UnlockConfig, nearest};
use crate::hooks::Hooks;
use hikae_model::sabotage;
use hikae_source::postgresql::differential;
use hikae_source::postgresql_cluster;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

/// How long a hook may take unless it says otherwise.
const HOOK_LIMIT: Duration = Duration::from_secs(600);

/// Keys of jobs that are in the design and not in this release.
const LATER: [&str; 6] = ["schedule", "time_zone", "objective", "drill", "notify", "window"];

/// Reads a configuration.
///
/// # Errors
/// [`ConfigError::Wrong`] with every fault, each with its line and column in `text`.
pub fn parse(text: &str, file: Option<&Path>) -> Result<Config, ConfigError> {
    let mut reading = Parsing { text, file, faults: Vec::new() };
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        reading.fault(error.span().unwrap_or(0..0), error.message().to_owned());
    }
    if !reading.faults.is_empty() {
        return Err(reading.wrong());
    }
    let mut config = Config { file: file.map(Path::to_owned), ..Config::default() };
    for (key, value) in root.into_inner() {
        let sections = ["repository", "source", "job", "export", "here"];
        match key.get_ref().as_ref() {
            "repository" => config.repositories = reading.section(value, Parsing::plain),
            "source" => config.sources = reading.section(value, Parsing::source),
            "job" => config.jobs = reading.section(value, Parsing::plain),
            "here" => config.here = reading.plain(value).unwrap_or_default(),
            "export" => config.exports = reading.section(value, Parsing::plain),
            other => reading.unknown(key.span(), other, &sections),
        }
    }
    if reading.faults.is_empty() {
        reading.check_names(&config);
        reading.check_retentions(&config);
        reading.check_exports(&config);
    }
    reading.refuse_passwords(&config);
    config.warnings = reading.secrets_in_arguments(&config);
    config.warnings.extend(reading.absolute_excludes(&config));
    match reading.faults.is_empty() {
        true => Ok(config),
        false => Err(reading.wrong()),
    }
}

/// Settings of hooks as the configuration writes them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HooksTable {
    #[serde(default)]
    before: Vec<Vec<String>>,
    #[serde(default)]
    after: Vec<Vec<String>>,
    time_limit: Option<jiff::SignedDuration>,
}

struct Parsing<'t> {
    text: &'t str,
    file: Option<&'t Path>,
    faults: Vec<Fault>,
}

impl<'t> Parsing<'t> {
    fn fault(&mut self, span: Range<usize>, what: impl Into<String>) {
        self.faults.push(Fault::at(self.text, self.file, span, what));
    }

    fn unknown(&mut self, span: Range<usize>, name: &str, known: &[&str]) {
        if sabotage::on("unknown-key-accepted") {
            return;
        }
        let fault = Fault::at(self.text, self.file, span, format!("`{name}` is not a known key"));
        let advice = match nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if LATER.contains(&name) => "that comes with a later release of hikae".to_owned(),
            None => format!("known here: {}", known.join(", ")),
        };
        self.faults.push(fault.advise(advice));
    }

    fn wrong(mut self) -> ConfigError {
        self.faults.sort_by_key(|fault| (fault.line, fault.column));
        ConfigError::Wrong { faults: self.faults }
    }

    /// The tables of one section, by name.
    fn section<T>(
        &mut self,
        value: Spanned<DeValue<'t>>,
        read: impl Fn(&mut Self, Spanned<DeValue<'t>>) -> Option<T>,
    ) -> BTreeMap<String, T> {
        let span = value.span();
        let DeValue::Table(tables) = value.into_inner() else {
            self.fault(span, "must be a table of tables, as [source.NAME]");
            return BTreeMap::new();
        };
        let mut section = BTreeMap::new();
        for (name, value) in tables {
            if !is_name(name.get_ref()) {
                self.fault(name.span(), "a name is made of letters, digits, `-` and `_`");
                continue;
            }
            if let Some(read) = read(self, value) {
                section.insert(name.into_inner().into_owned(), read);
            }
        }
        section
    }

    /// A table whose type says all.
    fn plain<T: DeserializeOwned>(&mut self, value: Spanned<DeValue<'t>>) -> Option<T> {
        let whole = value.span();
        T::deserialize(ValueDeserializer::from(value)).map_err(|error| self.refused(&error, whole)).ok()
    }

    fn refused(&mut self, error: &toml::de::Error, whole: Range<usize>) {
        let span = error.span().unwrap_or(whole);
        match unknown_name(error.message()) {
            Some((name, known)) => self.unknown(span, name, &known),
            None => self.fault(span, error.message().trim_end().replace('\n', ": ")),
        }
    }

    fn source(&mut self, value: Spanned<DeValue<'t>>) -> Option<SourceConfig> {
        let span = value.span();
        let DeValue::Table(mut table) = value.into_inner() else {
            self.fault(span, "must be a table, as [source.NAME]");
            return None;
        };
        let Some(kind) = table.remove("kind") else {
            self.fault(span, format!("the source lacks `kind`: {}", SourceSettings::KINDS.join(", ")));
            return None;
        };
        let hooks = match table.remove("hooks") {
            Some(value) => self.plain::<HooksTable>(value)?.into(),
            None => Hooks { time_limit: HOOK_LIMIT, ..Hooks::default() },
        };
        let is_files = kind.get_ref().as_str() == Some("files");
        let fixtures = match table.remove("fixtures").filter(|_| is_files) {
            Some(value) => self.plain::<Fixtures>(value)?,
            None => Fixtures::default(),
        };
        let enters_a_server = matches!(
            kind.get_ref().as_str(),
            Some("postgresql" | differential::KIND | postgresql_cluster::KIND)
        );
        let password = match table.remove("password").filter(|_| enters_a_server) {
            Some(value) => Some(self.plain::<SecretRef>(value)?),
            None => None,
        };
        let rest = Spanned::new(span, DeValue::Table(table));
        let settings = match kind.get_ref().as_str() {
            Some("files") => SourceSettings::Files(self.plain(rest)?),
            Some("sqlite") => SourceSettings::Sqlite(self.plain(rest)?),
            Some("postgresql") => SourceSettings::Postgresql(Box::new(self.plain(rest)?)),
            Some(differential::KIND) => SourceSettings::PostgresqlRows(Box::new(self.plain(rest)?)),
            Some(postgresql_cluster::KIND) => SourceSettings::PostgresqlCluster(self.plain(rest)?),
            other => {
                let what = format!("`{}` is not a kind of source", other.unwrap_or_default());
                let fault = Fault::at(self.text, self.file, kind.span(), what);
                let near = other.and_then(|name| nearest(name, SourceSettings::KINDS));
                self.faults.push(match near {
                    Some(near) => fault.advise(format!("did you mean `{near}`?")),
                    None => fault.advise(format!("known kinds: {}", SourceSettings::KINDS.join(", "))),
                });
                return None;
            }
        };
        Some(SourceConfig { settings, password, hooks, fixtures })
    }

    /// Sources and repositories that jobs name and nobody defines.
    fn check_names(&mut self, config: &Config) {
        let sources: Vec<&str> = config.sources.keys().map(String::as_str).collect();
        let repositories: Vec<&str> = config.repositories.keys().map(String::as_str).collect();
        let exports: Vec<&str> = config.exports.keys().map(String::as_str).collect();
        for (name, base) in config.bases() {
            let is_dumped = config
                .sources
                .get(base)
                .is_some_and(|source| matches!(source.settings, SourceSettings::Postgresql(_)));
            if !is_dumped {
                let span = self.span_of(&format!("source.{name}"), &format!("\"{base}\""));
                let what = format!("`base` must be a source of kind postgresql, and `{base}` is none");
                let fault = Fault::at(self.text, self.file, span, what);
                self.faults.push(match nearest(base, sources.iter().copied()) {
                    Some(near) if near != base => fault.advise(format!("did you mean `{near}`?")),
                    _ => fault,
                });
            }
        }
        for (name, _) in config
            .repositories
            .iter()
            .filter(|(_, one)| one.lock.is_some() && one.store.directory().is_some())
        {
            // Not that of `unlock`.
            let line = self.span_of(&format!("repository.{name}"), "\nlock");
            let span = line.start + 1..line.end;
            let fault = Fault::at(self.text, self.file, span, "a directory locks nothing");
            self.faults.push(fault.advise("`lock` is for buckets of S3 with Object Lock"));
        }
        for (job_name, job) in &config.jobs {
            let named = job.sources.iter().flatten().map(|name| ("source", name, &sources));
            let named_of_job = job.repository.iter().chain(&job.copies);
            let repository = named_of_job.map(|name| ("repository", name, &repositories));
            let exports = job.exports.iter().map(|name| ("export", name, &exports));
            for (what, name, known) in named.chain(repository).chain(exports) {
                if known.contains(&name.as_str()) {
                    continue;
                }
                let span = self.span_of(&format!("job.{job_name}"), &format!("\"{name}\""));
                let fault = Fault::at(self.text, self.file, span, format!("there is no [{what}.{name}]"));
                self.faults.push(match nearest(name, known.iter().copied()) {
                    Some(near) => fault.advise(format!("did you mean `{near}`?")),
                    None => fault,
                });
            }
        }
    }

    /// Two rules for one source in one repository: what one keeps the other would forget.
    fn check_retentions(&mut self, config: &Config) {
        if sabotage::on("two-retentions-accepted") {
            return;
        }
        let mut rules: BTreeMap<(&str, Option<&str>), &str> = BTreeMap::new();
        for (job_name, job) in config.jobs.iter().filter(|(_, job)| job.retention.is_some()) {
            for source in config.sources_of(Some(job_name)).unwrap_or_default() {
                let Some(other) = rules.insert((source, job.repository.as_deref()), job_name) else {
                    continue;
                };
                let span = self.span_of(&format!("job.{job_name}"), "retention");
                let what = format!("the job `{other}` has a retention for {source} too");
                let advice = "give one job the whole rule: last, hourly, daily, weekly, monthly and yearly go together";
                self.faults.push(Fault::at(self.text, self.file, span, what).advise(advice));
            }
        }
    }

    /// Exports that could not be, or would show what must not be seen.
    fn check_exports(&mut self, config: &Config) {
        for (name, export) in &config.exports {
            for (key, fault) in export.faults(config) {
                let span = self.span_of(&format!("export.{name}"), &key);
                self.faults.push(Fault::at(self.text, self.file, span, fault.0).advise(fault.1));
            }
        }
    }

    /// Passwords that stand in connection strings: they would be shown, logged and copied, and no backup uses them.
    fn refuse_passwords(&mut self, config: &Config) {
        for (name, source) in &config.sources {
            let Some(connection) = source.settings.connection() else { continue };
            if super::effective::without_password(connection) != connection {
                let span = self.span_of(&format!("source.{name}"), "connection");
                let fault =
                    Fault::at(self.text, self.file, span, "a password stands in the connection string");
                let advice = "take it out, and add password = \"file:/path\" (mode 0600), or use ~/.pgpass";
                self.faults.push(fault.advise(advice));
            }
        }
    }

    /// What looks like a secret in the arguments of a program: every user of the machine sees those while it runs.
    fn secrets_in_arguments(&self, config: &Config) -> Vec<Fault> {
        let mut warnings = Vec::new();
        let mut look = |header: String, key: &str, words: &[String]| {
            if has_secret(words) {
                let span = self.span_of(&header, key);
                let what = "a secret seems to stand in the arguments of a program";
                let fault = Fault::at(self.text, self.file, span, what);
                warnings.push(fault.advise("have the program read it from a file of mode 0600"));
            }
        };
        for (name, source) in &config.sources {
            for (key, programs) in [("before", &source.hooks.before), ("after", &source.hooks.after)] {
                programs.iter().for_each(|words| look(format!("source.{name}"), key, words));
            }
            if let Some(SecretRef::Command(words)) = &source.password {
                look(format!("source.{name}"), "password", words);
            }
        }
        for (name, repository) in &config.repositories {
            if let Some(UnlockConfig::Passphrase(SecretRef::Command(words))) = &repository.unlock {
                look(format!("repository.{name}"), "unlock", words);
            }
        }
        warnings
    }

    /// Patterns that are written as paths of the machine: they are relative to each include, and match nothing so.
    fn absolute_excludes(&self, config: &Config) -> Vec<Fault> {
        let mut found = Vec::new();
        for (name, source) in &config.sources {
            let SourceSettings::Files(files) = &source.settings else { continue };
            for pattern in files.exclude.iter().filter(|pattern| pattern.starts_with('/')) {
                let below =
                    |include: &Path| Path::new(pattern).strip_prefix(include).ok().map(Path::to_owned);
                let Some(below) = files.include.iter().find_map(|include| below(&include.path)) else {
                    continue;
                };
                let span = self.span_of(&format!("source.{name}"), pattern);
                let what =
                    format!("the pattern `{pattern}` matches nothing: patterns are relative to each include");
                let advice = format!("write \"/{}\"", below.display());
                found.push(Fault::at(self.text, self.file, span, what).advise(advice));
            }
        }
        found
    }

    /// Where `needle` first stands in the table `[header]`, or else the table.
    fn span_of(&self, header: &str, needle: &str) -> Range<usize> {
        let (section, name) = header.split_once('.').unwrap_or((header, ""));
        let written =
            [format!("[{header}]"), format!("[{section}.\"{name}\"]"), format!("[{section}.'{name}']")];
        let table = written.iter().find_map(|header| self.text.find(header)).unwrap_or(0);
        let end = self.text[table..].find("\n[").map_or(self.text.len(), |n| table + n);
        let at = self.text[table..end].find(needle).map_or(table, |n| table + n);
        at..at + needle.len()
    }
}

impl From<HooksTable> for Hooks {
    fn from(table: HooksTable) -> Self {
        let limit = table.time_limit.and_then(|limit| Duration::try_from(limit).ok());
        Self {
            before: table.before,
            after: table.after,
            time_limit: limit.unwrap_or(HOOK_LIMIT),
            umask: None,
        }
    }
}

/// Names go into file names, lists and the headers of tables, where a dot would begin another table.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('-')
        && name.len() <= 64
        && name.chars().all(|c| c.is_alphanumeric() || "-_".contains(c))
}

/// The unknown name and the known ones, out of serde's message ``unknown field `x`, expected one of `a`, `b```.
fn unknown_name(message: &str) -> Option<(&str, Vec<&str>)> {
    let rest =
        message.strip_prefix("unknown field `").or_else(|| message.strip_prefix("unknown variant `"))?;
    let (name, expected) = rest.split_once('`')?;
    Some((name, expected.split('`').skip(1).step_by(2).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
[repository.main]
store = "/var/lib/hikae/main"
unlock = { passphrase = "command:pass show hikae" }
reserve = "2 GiB"

[source.app-db]
kind = "postgresql"
connection = "host=/run/postgresql dbname=app user=hikae"
password = "file:/etc/hikae/app-db"
hooks = { before = [["systemctl", "stop", "app"]], after = [["systemctl", "start", "app"]], time_limit = "10m" }

[source.app-files]
include = ["/srv/app/data", { path = "/srv/app/.env", secret = true }]
kind = "files"

[source.notes]
kind = "sqlite"
path = "/srv/notes.db"

[job.nightly]
sources = ["app-db", "app-files"]
repository = "main"
"#;

    /// Keeps MK-2, MK-8, MK-9, EC-11, RS-55.
    #[test]
    fn a_whole_configuration_is_read() {
        let config = parse(WHOLE, None).unwrap();
        assert_eq!(config.repositories["main"].reserve.unwrap().as_u64(), 2 << 30);
        assert_eq!(config.sources.len(), 3);
        let app = &config.sources["app-db"];
        assert_eq!(app.hooks.before, [["systemctl", "stop", "app"]]);
        assert_eq!(app.hooks.time_limit, Duration::from_secs(600));
        assert_eq!(app.settings.shown(), "host=/run/postgresql dbname=app user=hikae");
        assert_eq!(config.sources_of(Some("nightly")).unwrap(), ["app-db", "app-files"]);
        assert!(config.warnings.is_empty());
    }

    /// Puts `wrong` in the place of `right` and expects this fault.
    #[track_caller]
    fn check_fault(right: &str, wrong: &str, line: usize, column: usize, what: &str, advice: &str) {
        assert!(WHOLE.contains(right));
        let text = WHOLE.replacen(right, wrong, 1);
        let Err(ConfigError::Wrong { faults }) = parse(&text, None) else { panic!("{wrong} was taken") };
        let fault = &faults[0];
        assert!(fault.what.contains(what), "{fault}");
        assert_eq!((fault.line, fault.column), (line, column), "{fault}");
        assert!(fault.advice.as_deref().unwrap_or_default().contains(advice), "{:?}", fault.advice);
    }

    fn check_store_fault(store: &str, what: &str) {
        check_fault("\"/var/lib/hikae/main\"", store, 3, 9, what, "");
    }

    /// Keeps L-2.
    #[test]
    fn every_fault_says_where_and_what_was_meant() {
        check_fault("reserve", "resreve", 5, 1, "`resreve` is not a known key", "did you mean `reserve`?");
        check_fault("include", "incude", 14, 1, "`incude` is not a known key", "did you mean `include`?");
        check_fault("[job.", "[jobs.", 21, 2, "`jobs` is not a known key", "did you mean `job`?");
        check_fault("time_limit", "timelimit", 11, 93, "`timelimit`", "did you mean `time_limit`?");
        check_fault("secret = true", "secrt = true", 14, 55, "`secrt`", "did you mean `secret`?");
        check_fault("passphrase =", "pasphrase =", 4, 12, "`pasphrase`", "did you mean `passphrase`?");
        check_fault("kind = \"sqlite\"", "kind = \"sqllite\"", 18, 8, "not a kind of source", "sqlite");
        check_fault("\"/srv/notes.db\"", "7", 19, 8, "invalid type: integer `7`", "");
        check_fault("\"2 GiB\"", "\"2 GoB\"", 5, 11, "", "");
        check_fault("path = \"/srv/notes.db\"", "", 17, 1, "missing field `path`", "");
        check_fault("[\"app-db\", ", "[\"app-dp\", ", 22, 12, "no [source.app-dp]", "did you mean `app-db`?");
        check_fault("repository = \"main\"", "schedule = \"daily\"", 23, 1, "`schedule`", "later release");
        check_store_fault("{ ftp = { host = \"b\" } }", "kind `ftp`");
        check_store_fault("{ s3 = { bucket = \"b/c\" } }", "no name of a bucket");
        check_store_fault("{ s3 = { bucket = \"b\", prefix = \"/c\" } }", "prefix `/c`");
        check_store_fault(
            "{ s3 = { bucket = \"b\", endpoint = \"s3.example.com\" } }",
            "begin with https://",
        );
        check_store_fault("{ s3 = { bucket = \"b\", access_key = \"a\" } }", "needs its `secret_key`");
        check_store_fault("{ s3 = { bucket = \"b\", external_id = \"x\" } }", "are for a `role`");
        check_store_fault(
            "{ s3 = { bucket = \"b\", access_key = \"a\", secret_key = \"env:B\", profile = \"c\" } }",
            "both say who we are",
        );
        check_store_fault("{ s3 = { bucket = \"b\" }, x = 1 }", "not also `x`");
        check_fault("\"/var/lib/hikae/main\"", "\"main\"", 3, 9, "not an absolute path", "");
        check_fault(
            "reserve = \"2 GiB\"",
            "lock = { mode = \"compliance\", for = \"30d\" }",
            5,
            1,
            "a directory locks nothing",
            "buckets",
        );
        check_fault("reserve =", "lock = { mode = \"legal\", for = \"30d\" }\nreserve =", 5, 17, "legal", "");
        check_fault("\"command:pass show hikae\"", "\"hunter2\"", 4, 25, "not a secret reference", "");
        check_fault("reserve =", "store = \"/x\"\nreserve =", 5, 1, "duplicate key", "");
        check_fault("[source.notes]", "[source.\"no tes\"]", 17, 9, "a name is made of", "");
        check_fault("[source.notes]", "[source.notes", 17, 14, "", "");
        check_fault(
            "reserve = \"2 GiB\"",
            "limit = { up = \"2 MB\" }",
            5,
            16,
            "not so many bytes a second",
            "",
        );
        check_store_fault("{ sftp = { host = \"b@c\", path = \"/d\" } }", "no name of a machine");
        check_store_fault("{ sftp = { host = \"b\", path = \"/\" } }", "one directory of the server");
        check_fault(
            "\"/var/lib/hikae/main\"",
            "{ sftp = { host = \"b\", path = \"/d\", password = \"secret\" } }",
            3,
            56,
            "not a secret reference",
            "",
        );
        check_fault("reserve = \"2 GiB\"", "prune_every = \"0d\"", 5, 15, "longer than nothing", "");
        let rows = "[source.rows]\nkind = \"postgresql-rows\"\nconnection = \"\"\nbase = \"app-bd\"\ntables = []\n[source.notes]";
        check_fault(
            "[source.notes]",
            rows,
            20,
            8,
            "must be a source of kind postgresql",
            "did you mean `app-db`?",
        );
        check_fault("[source.notes]", &rows.replace("app-bd", "notes"), 20, 8, "`notes` is none", "");
        let two = "[job.a]\nretention = { daily = 7 }\nrepository = \"main\"\n[job.nightly]\nretention = { last = 3 }";
        check_fault(
            "[job.nightly]",
            two,
            25,
            1,
            "the job `a` has a retention for app-db too",
            "one job the whole rule",
        );
    }

    #[test]
    fn a_password_in_a_connection_string_is_refused_and_not_repeated() {
        for connection in ["postgresql://hikae:hunter2@db/app", "host=db password=hunter2 dbname=app"] {
            let text = WHOLE.replace("host=/run/postgresql dbname=app user=hikae", connection);
            let Err(ConfigError::Wrong { faults }) = parse(&text, None) else { panic!("it was taken") };
            assert_eq!((faults.len(), faults[0].line), (1, 9), "{connection}");
            assert!(!format!("{faults:?}").contains("hunter2"));
        }
    }

    #[test]
    fn a_secret_in_the_arguments_of_a_program_is_warned_of_and_never_shown() {
        let text = WHOLE
            .replace("\"stop\", \"app\"", "\"stop\", \"--password=hunter2\"")
            .replace("command:pass show hikae", "command:vault --token hunter2 read");
        let config = parse(&text, None).unwrap();
        let lines: Vec<usize> = config.warnings.iter().map(|warning| warning.line).collect();
        assert_eq!(lines, [11, 4]);
        let shown = super::super::to_text(&super::super::effective(&config));
        assert!(
            !format!("{:?}", config.warnings).contains("hunter2") && !shown.contains("hunter2"),
            "{shown}"
        );
        assert!(shown.contains("--password=***") && shown.contains("--token ***"), "{shown}");
    }
}
