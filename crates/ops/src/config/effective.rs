//! The configuration as it takes effect: every setting with its value, defaults included and marked.
//!
//! Nothing that this module makes holds a secret: references stay references, and what looks like a password in a
//! connection string or in the arguments of a program is taken out.

use super::append::header_name;
use super::leak::{masked, shown_reference};
use super::{
    Config, DomainKind, Domains, EncryptConfig, ExportConfig, FileMode, JobConfig, LimitConfig, LockConfig,
    LockMode, RepositoryConfig, S3Config, SecretRef, SftpConfig, SourceConfig, SourceSettings, StoreConfig,
    UnlockConfig,
};
use hikae_repo::retention::Retention;
use hikae_source::files::FilesSettings;
use hikae_source::postgresql::PostgresqlSettings;
use hikae_source::postgresql::differential::RowsSettings;
use hikae_source::postgresql_cluster::{ClusterSettings, ReadBy, WalIn};
use hikae_source::sqlite::SqliteSettings;
use serde::Serialize;
use std::path::PathBuf;
use toml::Value;

/// One table of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Section {
    /// Its header, as `source.app`.
    pub name: String,
    /// Its settings.
    pub settings: Vec<Setting>,
}

/// One setting and its value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Setting {
    /// Its key.
    pub key: String,
    /// Its value; nothing if it is not set and has no default.
    pub value: Option<Value>,
    /// True if the value is the default.
    pub is_default: bool,
}

/// A setting that two configurations do not share.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The table, as `source.app`.
    pub section: String,
    /// The key.
    pub key: String,
    /// Its value in the first; nothing if it is not there.
    pub first: Option<Value>,
    /// Its value in the second.
    pub second: Option<Value>,
}

/// Everything that a configuration says or leaves to its defaults.
pub fn effective(config: &Config) -> Vec<Section> {
    let mut sections = Vec::new();
    if !config.here.is_empty() {
        let setting_of = |(kind, name): (&DomainKind, &String)| setting(kind.name(), Some(text(name)), None);
        let settings = config.here.iter().map(setting_of).collect();
        sections.push(Section { name: "here".to_owned(), settings });
    }
    for (name, repository) in &config.repositories {
        sections.push(Section { name: format!("repository.{name}"), settings: of_repository(repository) });
    }
    for (name, source) in &config.sources {
        sections.push(Section { name: format!("source.{name}"), settings: of_source(source) });
    }
    for (name, job) in &config.jobs {
        sections.push(Section { name: format!("job.{name}"), settings: of_job(job) });
    }
    for (name, export) in &config.exports {
        sections.push(Section { name: format!("export.{name}"), settings: of_export(export) });
    }
    sections
}

/// The settings in which two configurations differ. Without a second one: those that are not the default.
pub fn differences(first: &[Section], second: Option<&[Section]>) -> Vec<Difference> {
    let settings = |sections: &[Section]| -> Vec<(String, Setting)> {
        let of = |section: &Section| {
            section.settings.iter().map(|setting| (section.name.clone(), setting.clone())).collect::<Vec<_>>()
        };
        sections.iter().flat_map(of).collect()
    };
    let ours = settings(first);
    let Some(second) = second else {
        let set = ours.into_iter().filter(|(_, setting)| !setting.is_default);
        let difference =
            |(section, Setting { key, value, .. })| Difference { section, key, first: value, second: None };
        return set.map(difference).collect();
    };
    let theirs = settings(second);
    let find = |all: &[(String, Setting)], section: &str, key: &str| {
        all.iter()
            .find(|(name, setting)| name == section && setting.key == key)
            .and_then(|(_, s)| s.value.clone())
    };
    let mut names: Vec<(String, String)> =
        ours.iter().chain(&theirs).map(|(section, setting)| (section.clone(), setting.key.clone())).collect();
    names.sort();
    names.dedup();
    let compared = names.into_iter().map(|(section, key)| {
        let (first, second) = (find(&ours, &section, &key), find(&theirs, &section, &key));
        Difference { section, key, first, second }
    });
    compared.filter(|difference| difference.first != difference.second).collect()
}

/// The same as TOML, with defaults marked.
pub fn to_text(sections: &[Section]) -> String {
    let mut text = String::new();
    for section in sections {
        if !text.is_empty() {
            text.push('\n');
        }
        match section.name.split_once('.') {
            Some((kind, name)) => text.push_str(&format!("[{kind}.{}]\n", header_name(name))),
            None => text.push_str(&format!("[{}]\n", section.name)),
        }
        for Setting { key, value, is_default } in &section.settings {
            match value {
                Some(value) if *is_default => text.push_str(&format!("{key} = {value}  # default\n")),
                Some(value) => text.push_str(&format!("{key} = {value}\n")),
                None => text.push_str(&format!("# {key} is not set\n")),
            }
        }
    }
    text
}

fn setting(key: &str, value: Option<Value>, default: Option<Value>) -> Setting {
    Setting { key: key.to_owned(), is_default: value == default, value }
}

fn text(text: impl ToString) -> Value {
    Value::String(text.to_string())
}

fn texts(texts: &[String]) -> Value {
    Value::Array(texts.iter().map(text).collect())
}

fn table(key: &str, value: Value) -> Value {
    Value::Table([(key.to_owned(), value)].into_iter().collect())
}

fn of_repository(repository: &RepositoryConfig) -> Vec<Setting> {
    let RepositoryConfig {
        store,
        id,
        unlock,
        recipients,
        write_only,
        reserve,
        limit,
        prune_every,
        domains,
        offline,
        lock,
    } = repository;
    let unlock = unlock.as_ref().map(|unlock| match unlock {
        UnlockConfig::KeyFile(path) => table("key_file", text(path.display())),
        UnlockConfig::Passphrase(secret) => table("passphrase", text(shown_reference(secret))),
        UnlockConfig::IdentityFile(path) => table("identity_file", text(path.display())),
    });
    vec![
        setting("store", Some(of_store(store)), None),
        setting("id", id.map(text), None),
        setting("unlock", unlock, None),
        setting("recipients", Some(texts(recipients)), Some(texts(&[]))),
        setting("write_only", Some((*write_only).into()), Some(false.into())),
        setting("reserve", reserve.map(text), None),
        setting("limit", of_limit(limit), None),
        setting("prune_every", prune_every.map(|every| text(format_args!("{every:#}"))), None),
        setting("domains", Some(of_domains(domains)), Some(of_domains(&Domains::new()))),
        setting("offline", Some((*offline).into()), Some(false.into())),
        setting("lock", lock.map(of_lock), None),
    ]
}

fn of_limit(limit: &LimitConfig) -> Option<Value> {
    let ways = [("up", limit.up), ("down", limit.down)].into_iter();
    let ways: toml::Table = ways.filter_map(|(way, rate)| Some((way.to_owned(), text(rate?)))).collect();
    (!ways.is_empty()).then_some(Value::Table(ways))
}

fn of_domains(domains: &Domains) -> Value {
    Value::Table(domains.iter().map(|(kind, name)| (kind.to_string(), text(name))).collect())
}

fn of_lock(lock: LockConfig) -> Value {
    let mode = match lock.mode {
        LockMode::Compliance => "compliance",
        LockMode::Governance => "governance",
    };
    let settings = [("mode", text(mode)), ("for", text(format_args!("{:#}", lock.length)))];
    Value::Table(settings.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn of_store(store: &StoreConfig) -> Value {
    let (kind, settings) = match store {
        StoreConfig::Directory(path) => return text(path.display()),
        StoreConfig::S3(s3) => ("s3", of_s3(s3)),
        StoreConfig::Sftp(sftp) => ("sftp", of_sftp(sftp)),
    };
    let settings = settings.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    table(kind, Value::Table(settings.collect()))
}

fn of_s3(s3: &S3Config) -> Vec<(&'static str, Option<Value>)> {
    let S3Config {
        bucket,
        prefix,
        region,
        endpoint,
        path_style,
        ca,
        access_key,
        secret_key,
        profile,
        role,
        external_id,
        sts_endpoint,
    } = s3;
    vec![
        ("bucket", Some(text(bucket))),
        ("prefix", prefix.as_ref().map(text)),
        ("region", region.as_ref().map(text)),
        ("endpoint", endpoint.as_ref().map(text)),
        ("path_style", path_style.map(Value::Boolean)),
        ("ca", ca.as_ref().map(|path| text(path.display()))),
        ("access_key", access_key.as_ref().map(text)),
        ("secret_key", secret_key.as_ref().map(|secret| text(shown_reference(secret)))),
        ("profile", profile.as_ref().map(text)),
        ("role", role.as_ref().map(text)),
        ("external_id", external_id.as_ref().map(text)),
        ("sts_endpoint", sts_endpoint.as_ref().map(text)),
    ]
}

fn of_sftp(sftp: &SftpConfig) -> Vec<(&'static str, Option<Value>)> {
    let SftpConfig {
        host,
        port,
        user,
        path,
        host_key,
        known_hosts,
        key_file,
        key_passphrase,
        agent,
        password,
    } = sftp;
    let reference = |secret: &Option<SecretRef>| secret.as_ref().map(|secret| text(shown_reference(secret)));
    let file = |path: &Option<PathBuf>| path.as_ref().map(|path| text(path.display()));
    vec![
        ("host", Some(text(host))),
        ("port", port.map(|port| Value::Integer(port.into()))),
        ("user", user.as_ref().map(text)),
        ("path", Some(text(path))),
        ("host_key", host_key.as_ref().map(text)),
        ("known_hosts", file(known_hosts)),
        ("key_file", file(key_file)),
        ("key_passphrase", reference(key_passphrase)),
        ("agent", agent.map(Value::Boolean)),
        ("password", reference(password)),
    ]
}

fn of_source(source: &SourceConfig) -> Vec<Setting> {
    let mut settings = vec![setting("kind", Some(text(source.settings.kind())), None)];
    match &source.settings {
        SourceSettings::Files(files) => settings.extend(of_files(files)),
        SourceSettings::Sqlite(SqliteSettings { path, scratch }) => settings.extend([
            setting("path", Some(text(path.display())), None),
            setting("scratch", scratch.as_ref().map(|path| text(path.display())), None),
        ]),
        SourceSettings::Postgresql(postgresql) => settings.extend(of_postgresql(postgresql)),
        SourceSettings::PostgresqlRows(rows) => settings.extend(of_rows(rows)),
        SourceSettings::PostgresqlCluster(cluster) => settings.extend(of_cluster(cluster)),
    }
    if source.settings.connection().is_some() {
        let password = source.password.as_ref().map(|secret| text(shown_reference(secret)));
        settings.push(setting("password", password, None));
    }
    let programs =
        |programs: &[Vec<String>]| Value::Array(programs.iter().map(|words| texts(&masked(words))).collect());
    let hooks = &source.hooks;
    if !(hooks.before.is_empty() && hooks.after.is_empty()) {
        let limit = text(format_args!("{}s", hooks.time_limit.as_secs()));
        let parts =
            [("before", programs(&hooks.before)), ("after", programs(&hooks.after)), ("time_limit", limit)];
        let table = parts.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        settings.push(setting("hooks", Some(Value::Table(table)), None));
    }
    if !source.fixtures.is_empty() {
        // Lists of paths, which came out of TOML.
        settings.push(setting("fixtures", Value::try_from(&source.fixtures).ok(), None));
    }
    settings
}

fn of_files(files: &FilesSettings) -> Vec<Setting> {
    let FilesSettings { include, exclude, exclude_file, parse_json, one_file_system, newer_than } = files;
    // An include is a text or a small table; both can always be written as TOML.
    let include = include.iter().filter_map(|include| Value::try_from(include).ok()).collect();
    vec![
        setting("include", Some(Value::Array(include)), None),
        setting("exclude", Some(texts(exclude)), Some(texts(&[]))),
        setting("exclude_file", exclude_file.as_ref().map(|path| text(path.display())), None),
        setting("parse_json", Some(texts(parse_json)), Some(texts(&[]))),
        setting("one_file_system", Some((*one_file_system).into()), Some(false.into())),
        setting("newer_than", newer_than.as_ref().map(text), None),
    ]
}

fn of_cluster(cluster: &ClusterSettings) -> Vec<Setting> {
    let ClusterSettings { connection, read, data_directory, wal } = cluster;
    let read = match read {
        ReadBy::Local => "local",
        ReadBy::Wire => "wire",
    };
    let wal = match wal {
        WalIn::Include => "include",
    };
    vec![
        setting("connection", Some(text(without_password(connection))), None),
        setting("read", Some(text(read)), Some(text("local"))),
        setting("data_directory", data_directory.as_ref().map(|path| text(path.display())), None),
        setting("wal", Some(text(wal)), Some(text("include"))),
    ]
}

fn of_postgresql(postgresql: &PostgresqlSettings) -> Vec<Setting> {
    let values = |settings: &PostgresqlSettings| {
        let PostgresqlSettings {
            connection,
            tables,
            schemas,
            allow_superuser,
            lock_timeout,
            jobs,
            program_directory,
            part_bytes,
        } = settings;
        [
            ("connection", Some(text(without_password(connection)))),
            ("tables", Some(texts(tables))),
            ("schemas", Some(texts(schemas))),
            ("allow_superuser", Some((*allow_superuser).into())),
            ("lock_timeout", Some(text(format_args!("{lock_timeout:#}")))),
            ("jobs", Some(i64::try_from(jobs.get()).unwrap_or(i64::MAX).into())),
            ("program_directory", program_directory.as_ref().map(|path| text(path.display()))),
            ("part_bytes", Some(i64::try_from(*part_bytes).unwrap_or(i64::MAX).into())),
        ]
    };
    let pairs = values(postgresql).into_iter().zip(values(&PostgresqlSettings::of("")));
    pairs.map(|((key, value), (_, default))| setting(key, value, default)).collect()
}

fn of_rows(rows: &RowsSettings) -> Vec<Setting> {
    let values = |settings: &RowsSettings| {
        let RowsSettings {
            connection,
            base,
            tables,
            overlap,
            compare_every,
            allow_superuser,
            lock_timeout,
            jobs,
        } = settings;
        // A table is a few texts, which can always be written as TOML.
        let tables = tables.iter().filter_map(|table| Value::try_from(table).ok()).collect();
        [
            ("connection", Some(text(without_password(connection)))),
            ("base", Some(text(base))),
            ("tables", Some(Value::Array(tables))),
            ("overlap", Some(text(format_args!("{overlap:#}")))),
            ("compare_every", Some(text(format_args!("{compare_every:#}")))),
            ("allow_superuser", Some((*allow_superuser).into())),
            ("lock_timeout", Some(text(format_args!("{lock_timeout:#}")))),
            ("jobs", Some(i64::try_from(jobs.get()).unwrap_or(i64::MAX).into())),
        ]
    };
    let pairs = values(rows).into_iter().zip(values(&RowsSettings::of("", "", Vec::new())));
    pairs.map(|((key, value), (_, default))| setting(key, value, default)).collect()
}

fn of_retention(rule: &Retention) -> Value {
    let Retention { last, hourly, daily, weekly, monthly, yearly, within } = rule;
    let named =
        [("hourly", hourly), ("daily", daily), ("weekly", weekly), ("monthly", monthly), ("yearly", yearly)];
    let counts = named.into_iter().filter(|(_, n)| **n > 0);
    let mut rules: toml::Table = counts.map(|(name, n)| (name.to_owned(), i64::from(*n).into())).collect();
    rules.insert("last".to_owned(), i64::from(last.get()).into());
    rules.extend(within.map(|within| ("within".to_owned(), text(format_args!("{within:#}")))));
    Value::Table(rules)
}

fn of_export(export: &ExportConfig) -> Vec<Setting> {
    let ExportConfig {
        sources,
        to,
        name,
        manifest,
        paths,
        types,
        encrypt,
        without_secrets,
        mode,
        time_zone,
        keep,
    } = export;
    let shown = |paths: &[PathBuf]| Value::Array(paths.iter().map(|path| text(path.display())).collect());
    let encrypt = encrypt.as_ref().map(|encrypt| match encrypt {
        EncryptConfig::Age(recipients) => table("age", texts(recipients)),
        EncryptConfig::Openpgp(keys) => table("openpgp", shown(keys)),
        EncryptConfig::Passphrase(secret) => table("passphrase", text(shown_reference(secret))),
    });
    let zone = time_zone.as_ref().and_then(|zone| zone.0.iana_name());
    vec![
        setting("sources", Some(texts(sources)), None),
        setting("to", Some(of_store(to)), None),
        setting("name", Some(text(name)), None),
        setting("manifest", Some(text(manifest)), Some(text("manifest_{export}_{time}"))),
        setting("paths", Some(shown(paths)), Some(shown(&[]))),
        setting("types", Some(texts(types)), Some(texts(&[]))),
        setting("encrypt", encrypt, None),
        setting("without_secrets", Some((*without_secrets).into()), Some(false.into())),
        setting("mode", Some(text(mode)), Some(text(FileMode::default()))),
        setting("time_zone", Some(text(zone.unwrap_or("UTC"))), Some(text("UTC"))),
        setting("keep", keep.as_ref().map(of_retention), None),
    ]
}

fn of_job(job: &JobConfig) -> Vec<Setting> {
    let JobConfig { sources, repository, copies, description, retention, keep_log, exports } = job;
    vec![
        setting("sources", sources.as_deref().map(texts), None),
        setting("repository", repository.as_ref().map(text), None),
        setting("copies", Some(texts(copies)), Some(texts(&[]))),
        setting("description", description.as_ref().map(text), None),
        setting("retention", retention.as_ref().map(of_retention), None),
        setting("keep_log", keep_log.map(|length| text(format_args!("{length:#}"))), None),
        setting("exports", Some(texts(exports)), Some(texts(&[]))),
    ]
}

/// A connection string with the password in it taken out: `postgresql://user:***@host/db`, `password=***`.
pub(super) fn without_password(connection: &str) -> String {
    const MASK: &str = "***";
    let mut masked = connection.to_owned();
    if let Some(start) = masked.find("://").map(|n| n + 3) {
        let end = masked[start..].find(['/', '?']).map_or(masked.len(), |n| start + n);
        // The last `@`: a password may hold one.
        if let Some(at) = masked[start..end].rfind('@')
            && let Some(colon) = masked[start..start + at].find(':')
        {
            masked.replace_range(start + colon + 1..start + at, MASK);
        }
    }
    let lower = masked.to_ascii_lowercase();
    let Some(word) = lower.find("password").filter(|&at| !lower[at..].starts_with("passwordfile")) else {
        return masked;
    };
    let after = word + "password".len();
    let spaces = |text: &str| text.len() - text.trim_start().len();
    let equals = after + spaces(&masked[after..]);
    if !masked[equals..].starts_with('=') {
        return masked;
    }
    let value = equals + 1 + spaces(&masked[equals + 1..]);
    let length = match masked[value..].strip_prefix('\'') {
        Some(quoted) => quoted.find('\'').map_or(masked.len() - value, |n| n + 2),
        None => masked[value..].find([' ', '&', '\t']).unwrap_or(masked.len() - value),
    };
    masked.replace_range(value..value + length, MASK);
    masked
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    /// Keeps MK-61, X-8.
    #[test]
    fn what_is_shown_holds_no_password_and_marks_defaults() {
        for (connection, shown) in [
            ("postgresql://u:p@ss@h:5432/d?sslmode=require", "postgresql://u:***@h:5432/d?sslmode=require"),
            (
                "postgresql://h/d?user=u&password=hunter2&port=1",
                "postgresql://h/d?user=u&password=***&port=1",
            ),
            ("host=h password = 'hun ter2' dbname=d", "host=h password = *** dbname=d"),
            ("postgresql://u@h/d", "postgresql://u@h/d"),
            ("host=h user=u", "host=h user=u"),
        ] {
            assert_eq!(without_password(connection), shown);
        }
        let config =
            parse("[source.a]\nkind = 'files'\ninclude = ['/a', { path = '/b', secret = true }]", None);
        let text = to_text(&effective(&config.unwrap()));
        assert!(text.contains("one_file_system = false  # default"), "{text}");
        assert!(text.contains("[source.a]\nkind = \"files\"\n"), "{text}");
    }

    #[test]
    fn what_is_shown_reads_back_as_the_same() {
        let text = "[repository.m]\nstore = '/s'\nunlock = { key_file = '/k' }\nprune_every = '7d'\nlimit = { up = '10 MB/s' }\n\
                    [source.d]\nkind = 'postgresql'\nconnection = 'host=h'\npassword = 'env:P'\nlock_timeout = '5s'\n\
                    hooks = { before = [['a', 'b c']] }\n[source.s]\nkind = 'sqlite'\npath = '/d.db'\n\
                    [source.r]\nkind = 'postgresql-rows'\nconnection = 'host=h'\nbase = 'd'\ncompare_every = '2h'\n\
                    tables = [{ table = 'a.b', column = 'at', time_zone = 'Asia/Tokyo' }]\n\
                    [source.f]\nkind = 'files'\ninclude = ['/a']\nfixtures = { holds = ['/a/b'] }\n\
                    [job.j]\nsources = ['s']\nretention = { daily = 3, within = '2d' }\nkeep_log = '14d'\n";
        let config = parse(text, None).unwrap();
        let shown = effective(&config);
        let again = effective(&parse(&to_text(&shown), None).unwrap());
        assert_eq!(shown, again);
        assert!(differences(&shown, Some(&again)).is_empty());
        let changed = effective(&parse(&text.replace("'5s'", "'6s'"), None).unwrap());
        let differences = differences(&shown, Some(&changed));
        assert_eq!(differences.len(), 1);
        assert_eq!(
            (differences[0].section.as_str(), differences[0].key.as_str()),
            ("source.d", "lock_timeout")
        );
    }
}
