//! JSON Schema of the configuration, for editors.
//!
//! The settings of sources are of another crate that knows no schemas, so they are drawn here a second time; a
//! test compares the names with those that are read.

use schemars::{JsonSchema, schema_for};
use std::num::NonZeroU32;

/// Configuration of hikae, the backup program.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, title = "hikae")]
#[allow(dead_code)] // only its shape is used
struct Configuration {
    /// Where backups are kept.
    repository: Option<std::collections::BTreeMap<String, Repository>>,
    /// What is protected.
    source: Option<std::collections::BTreeMap<String, Source>>,
    /// Where this machine is, and who looks after it.
    here: Option<Domains>,
    /// What is backed up together.
    job: Option<std::collections::BTreeMap<String, Job>>,
    /// What is written as ordinary files.
    export: Option<std::collections::BTreeMap<String, Export>>,
}

/// What can be lost at once: two things with one name in one of these are lost together.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code)]
struct Domains {
    /// A computer.
    machine: Option<String>,
    /// A disk.
    disk: Option<String>,
    /// A place that burns down at once.
    site: Option<String>,
    /// An account at a provider.
    account: Option<String>,
    /// A key.
    key: Option<String>,
    /// Who can delete all of it.
    administrator: Option<String>,
}

/// A repository.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code)]
struct Repository {
    /// An absolute path to a directory, or a bucket.
    store: Store,
    /// Which repository it is, 32 hex digits; another that stands there is refused.
    id: Option<String>,
    /// What opens it, unless the command line says otherwise.
    unlock: Option<Unlock>,
    /// Age recipients who can open contents, besides the repository's own identity; used when it is made.
    recipients: Option<Vec<String>>,
    /// This host keeps no key that opens contents; used when it is made.
    write_only: Option<bool>,
    /// Free space that packs leave on the disk, as "1 GiB"; by default 2 % of it, at most 1 GiB.
    reserve: Option<String>,
    /// How fast it may be written and read; as fast as can be, if left out.
    limit: Option<Limit>,
    /// How often space is freed after a job has forgotten old snapshots by its retention, as "7d"; never, if left out.
    prune_every: Option<String>,
    /// What it is lost with, as far as it cannot be seen.
    domains: Option<Domains>,
    /// It cannot be reached from here most of the time, as a disk that is unplugged.
    offline: Option<bool>,
    /// How long what is stored stays, whoever wants it gone: Object Lock; only in a bucket.
    lock: Option<Lock>,
}

/// How long what is stored stays.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code)]
struct Lock {
    /// Who may end it early.
    mode: LockMode,
    /// The least that is left of each lock when a snapshot relies on it, as "30d"; objects are locked for half as long again.
    #[schemars(rename = "for")]
    length: String,
}

/// Who may end a lock early.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
#[allow(dead_code)]
enum LockMode {
    /// Nobody.
    Compliance,
    /// Who has the right s3:BypassGovernanceRetention.
    Governance,
}

/// Bytes of objects a second, as "10 MB/s".
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code)]
struct Limit {
    /// To the repository.
    up: Option<String>,
    /// From the repository.
    down: Option<String>,
}

/// Where a repository is kept.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[allow(dead_code)]
enum Store {
    /// An absolute path to a directory.
    Directory(#[schemars(regex(pattern = "^/"))] String),
    /// A store over the network.
    Remote(Box<Remote>),
}

/// A store over the network.
#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case", deny_unknown_fields)]
#[allow(dead_code)]
enum Remote {
    /// A bucket of Amazon S3, or of what speaks like it.
    S3(S3),
    /// A directory of another machine, over SSH.
    Sftp(Sftp),
}

/// A directory of another machine.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code)]
struct Sftp {
    /// The machine.
    host: String,
    /// Its port; 22, if left out.
    port: Option<u16>,
    /// Who we are there; the user's own name, if left out.
    user: Option<String>,
    /// The directory: absolute, or below the one in which the server puts that user.
    path: String,
    /// The fingerprint of the server's key, as `SHA256:…`; any other key is an error.
    host_key: Option<String>,
    /// Where keys of servers are, if there is no host_key; `~/.ssh/known_hosts`, if left out.
    known_hosts: Option<String>,
    /// Our private key (mode 0600); with no key, agent or password, the usual ones in `~/.ssh`.
    key_file: Option<String>,
    /// What opens the private key.
    key_passphrase: Option<Secret>,
    /// Whether the agent that SSH_AUTH_SOCK names is asked; if no key and no password is given, it is.
    agent: Option<bool>,
    /// A password.
    password: Option<Secret>,
}

/// A bucket, or a part of one.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code)]
struct S3 {
    /// The bucket; it must be there.
    bucket: String,
    /// What all names begin with: lower-case letters, digits, `.` and `-`, joined by `/`.
    prefix: Option<String>,
    /// The region; AWS_REGION, or else us-east-1.
    region: Option<String>,
    /// The server, as `https://s3.example.com`; Amazon's, if left out.
    endpoint: Option<String>,
    /// Whether the bucket is named in the path and not in the host's name; so wherever there is an endpoint, if left out.
    path_style: Option<bool>,
    /// Certificates (PEM) that the server's is checked against, beside those of the system.
    ca: Option<String>,
    /// Who we are; if left out, without a profile: environment, ~/.aws, web identity, container, instance.
    access_key: Option<String>,
    /// The secret that goes with access_key.
    secret_key: Option<Secret>,
    /// The profile of ~/.aws that says who we are, and nothing else.
    profile: Option<String>,
    /// The role that is assumed with what was found, as arn:aws:iam::123456789012:role/backup.
    role: Option<String>,
    /// What whoever trusts us with the role asks for besides.
    external_id: Option<String>,
    /// The server that gives out roles; the store's own where it is not Amazon's, if left out.
    sts_endpoint: Option<String>,
}

/// What opens a repository.
#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case", deny_unknown_fields)]
#[allow(dead_code)]
enum Unlock {
    /// A key file (mode 0600).
    KeyFile(String),
    /// A passphrase.
    Passphrase(Secret),
    /// A file of age or SSH identities (mode 0600).
    IdentityFile(String),
}

/// Where a secret is.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[allow(dead_code)]
enum Secret {
    /// file:/path, file:/path#NAME for a file of NAME=value lines, env:NAME, command:program arguments, or
    /// credential:name.
    Reference(#[schemars(regex(pattern = "^(file:/|env:|command:|credential:)."))] String),
    /// A program and its arguments.
    Program(Program),
}

/// A program that prints a secret.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code)]
struct Program {
    /// The program, then its arguments.
    command: Vec<String>,
}

/// Something to protect.
#[derive(JsonSchema)]
#[schemars(tag = "kind", rename_all = "lowercase")]
#[allow(dead_code)]
enum Source {
    /// Folders and files.
    Files(Files),
    /// A SQLite database.
    Sqlite(Sqlite),
    /// A PostgreSQL database.
    Postgresql(Postgresql),
    /// New rows of append-only tables, between two dumps of their database.
    #[schemars(rename = "postgresql-rows")]
    PostgresqlRows(PostgresqlRows),
    /// The files of a PostgreSQL server.
    #[schemars(rename = "postgresql-cluster")]
    PostgresqlCluster(PostgresqlCluster),
}

/// Folders and files.
#[derive(JsonSchema)]
#[allow(dead_code)]
struct Files {
    /// Folders and files to back up.
    include: Vec<Include>,
    /// What to leave out, in gitignore syntax, relative to each include.
    exclude: Option<Vec<String>>,
    /// A file with more such patterns, one a line.
    exclude_file: Option<String>,
    /// Files that must be JSON, in gitignore syntax; one that is not is kept and listed as a problem.
    parse_json: Option<Vec<String>>,
    /// Stay on the file system of each include.
    one_file_system: Option<bool>,
    /// Only files modified within this time, as "7d".
    newer_than: Option<String>,
    /// Programs around the reading.
    hooks: Option<Hooks>,
    /// What a backup must keep and leave out, for `hikae config test`.
    fixtures: Option<Fixtures>,
}

/// Paths that need not be there: the rules are asked, and nothing else.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code)]
struct Fixtures {
    /// What a backup must keep.
    holds: Option<Vec<String>>,
    /// What it must leave out.
    leaves_out: Option<Vec<String>>,
}

/// A path, or a path with what is special about it.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[allow(dead_code)]
enum Include {
    /// A path.
    Path(String),
    /// A path with what is special about it.
    Table(IncludeTable),
}

/// A path with what is special about it.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code)]
struct IncludeTable {
    /// Where it is.
    path: String,
    /// It holds secrets: `hikae cat` shows it only with `--reveal`.
    secret: Option<bool>,
    /// It need not be there.
    optional: Option<bool>,
}

/// A SQLite database.
#[derive(JsonSchema)]
#[allow(dead_code)]
struct Sqlite {
    /// The database file.
    path: String,
    /// Where the copy is made that is backed up.
    scratch: Option<String>,
    /// Programs around the reading.
    hooks: Option<Hooks>,
}

/// A PostgreSQL database.
#[derive(JsonSchema)]
#[allow(dead_code)]
struct Postgresql {
    /// host=… dbname=… user=…, or postgresql://…, without a password.
    connection: String,
    /// Where the password is, if not in ~/.pgpass.
    password: Option<Secret>,
    /// Tables whose rows are kept, with what they need; by default all.
    tables: Option<Vec<String>>,
    /// Schemas all of whose tables are kept.
    schemas: Option<Vec<String>>,
    /// Read as a superuser or as a role that can become one; a backup needs to read, nothing more.
    allow_superuser: Option<bool>,
    /// How long to wait for a table that somebody holds locked, as "60s".
    lock_timeout: Option<String>,
    /// How many tables are read at once.
    jobs: Option<NonZeroU32>,
    /// Where pg_dump is, if not in one of the usual places.
    program_directory: Option<String>,
    /// Tables are read in parts of about so many bytes, several at once.
    part_bytes: Option<u64>,
    /// Programs around the reading.
    hooks: Option<Hooks>,
}

/// New rows of append-only tables, between two dumps of their database.
#[derive(JsonSchema)]
#[allow(dead_code)]
struct PostgresqlRows {
    /// host=… dbname=… user=…, or postgresql://…, without a password.
    connection: String,
    /// Where the password is, if not in ~/.pgpass.
    password: Option<Secret>,
    /// The source of kind postgresql whose dumps these rows follow.
    base: String,
    /// Tables to which rows are only added.
    tables: Vec<WatchedTable>,
    /// How much earlier than the oldest open transaction of the run before a run begins to read, as "1m".
    overlap: Option<String>,
    /// How often the whole tables are counted and hashed, to see what rows alone cannot show, as "1d".
    compare_every: Option<String>,
    /// Read as a superuser or as a role that can become one; a backup needs to read, nothing more.
    allow_superuser: Option<bool>,
    /// How long to wait for a table that somebody holds locked, as "60s".
    lock_timeout: Option<String>,
    /// How many tables are read at once.
    jobs: Option<NonZeroU32>,
    /// Programs around the reading.
    hooks: Option<Hooks>,
}

/// A table to which rows are only added.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code)]
struct WatchedTable {
    /// Its name in SQL; a partitioned table with all its partitions.
    table: String,
    /// The column that says when a row came: timestamptz, or timestamp in time_zone.
    column: String,
    /// The zone in which a timestamp is written, as "Asia/Tokyo".
    time_zone: Option<String>,
}

/// The files of a PostgreSQL server.
#[derive(JsonSchema)]
#[allow(dead_code)]
struct PostgresqlCluster {
    /// host=… dbname=… user=…, or postgresql://…, without a password.
    connection: String,
    /// Where the password is, if not in ~/.pgpass.
    password: Option<Secret>,
    /// How its files are read: "local", by hikae on the server's machine, or "wire", by the server, which sends them.
    read: Option<ReadBy>,
    /// Where its files are on this machine; by default where the server says.
    data_directory: Option<String>,
    /// Where the log from start to stop is kept: "include", in the snapshot.
    wal: Option<WalIn>,
    /// Programs around the reading.
    hooks: Option<Hooks>,
}

/// How the files of a server are read.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case")]
#[allow(dead_code)]
enum ReadBy {
    /// By hikae, on the server's machine.
    Local,
    /// By the server, which sends them.
    Wire,
}

/// Where the log is kept that a base backup needs.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case")]
#[allow(dead_code)]
enum WalIn {
    /// In the snapshot.
    Include,
}

/// Programs around the reading of a source, as argument arrays; no shell.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code)]
struct Hooks {
    /// Run in this order before the source is read. One that fails has failed the source.
    before: Option<Vec<Vec<String>>>,
    /// Run in this order after it was read, whatever came of it.
    after: Option<Vec<Vec<String>>>,
    /// How long each may take, as "10m".
    time_limit: Option<String>,
}

/// What is backed up together.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code)]
struct Job {
    /// Names of sources; all of them, if left out.
    sources: Option<Vec<String>>,
    /// Name of the repository; not needed if there is one.
    repository: Option<String>,
    /// Names of further repositories, into which the snapshots of each run are copied.
    copies: Option<Vec<String>>,
    /// What the job is for; kept with each snapshot that it makes.
    description: Option<String>,
    /// Which snapshots of its sources are kept; the others are forgotten after each good backup of this job. All are kept,
    /// if left out.
    retention: Option<Retention>,
    /// How far back the archived log of its clusters leads, as "14d"; older log goes with a prune, also where older base
    /// backups stay. As far as the oldest of them, if left out.
    keep_log: Option<String>,
    /// Names of exports that follow each run, of what it backed up.
    exports: Option<Vec<String>>,
}

/// Snapshots as ordinary files.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code)]
struct Export {
    /// Names of the sources whose snapshots are exported.
    sources: Vec<String>,
    /// An absolute path to a directory, which must be there.
    to: Store,
    /// What each file is called, as "db_{time:%Y%m%d_%H%M%S}.sql.gz"; what it ends with says what it is. Known are {source},
    /// {kind}, {purpose}, {time}, {snapshot}, {export}, {host} and {table}.
    name: String,
    /// What the manifest of a run is called, without what it ends with; "manifest_{export}_{time}", if left out.
    manifest: Option<String>,
    /// Of sources of files: only these and what is below them.
    paths: Option<Vec<String>>,
    /// Only snapshots of these types: daily, weekly, monthly, manual.
    types: Option<Vec<String>>,
    /// Who can open it; anybody, if left out.
    encrypt: Option<Encrypt>,
    /// What is secret by the configuration of its source is left out.
    without_secrets: Option<bool>,
    /// Permission bits of the files, as "0640"; "0600", if left out.
    mode: Option<String>,
    /// The zone of the times in names, as "Asia/Tokyo"; UTC, if left out.
    time_zone: Option<String>,
    /// Which runs are kept; the others go after the next. All are kept, if left out.
    keep: Option<Retention>,
}

/// Who can open an export.
#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case", deny_unknown_fields)]
#[allow(dead_code)]
enum Encrypt {
    /// Recipients of age: age1… and SSH public keys.
    Age(Vec<String>),
    /// Files of OpenPGP public keys, as `gpg --export --armor` writes them.
    Openpgp(Vec<String>),
    /// A passphrase, by OpenPGP with AES-256.
    Passphrase(Secret),
}

/// Which snapshots are kept: those that any of these rules keeps.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code)]
struct Retention {
    /// The newest so many.
    last: Option<NonZeroU32>,
    /// One of each of so many hours that have any; so with all that follow.
    hourly: Option<NonZeroU32>,
    /// Days.
    daily: Option<NonZeroU32>,
    /// Weeks, which begin on Monday.
    weekly: Option<NonZeroU32>,
    /// Months.
    monthly: Option<NonZeroU32>,
    /// Years.
    yearly: Option<NonZeroU32>,
    /// Everything no older than this, as "30d".
    within: Option<String>,
}

/// The schema, as JSON.
pub fn schema() -> serde_json::Value {
    schema_for!(Configuration).to_value()
}

#[cfg(test)]
mod tests {
    use super::super::{ConfigError, parse};
    use super::*;

    /// What the reader says that it knows in a table, when it is given a key that it does not know.
    fn known_keys(table: &str) -> Vec<String> {
        let text = format!("{table}\nsurely_unknown = 1");
        let Err(ConfigError::Wrong { faults }) = parse(&text, None) else { panic!("{text} was taken") };
        let advice = faults[0].advice.clone().unwrap_or_default();
        let known = advice.strip_prefix("known here: ").unwrap_or_else(|| panic!("{table}: {faults:?}"));
        known.split(", ").map(str::to_owned).collect()
    }

    #[test]
    fn the_schema_names_what_is_read_and_nothing_else() {
        let schema = schema();
        let definitions = &schema["$defs"];
        for (table, definition, apart) in [
            ("[repository.x]\nstore = '/s'", "Repository", &[][..]),
            ("[source.x]\nkind = 'files'\ninclude = []", "Files", &["fixtures", "hooks"]),
            ("[source.x]\nkind = 'sqlite'\npath = '/s'", "Sqlite", &["hooks"]),
            ("[source.x]\nkind = 'postgresql'\nconnection = ''", "Postgresql", &["hooks", "password"]),
            (
                "[source.x]\nkind = 'postgresql-rows'\nconnection = ''\nbase = ''\ntables = []",
                "PostgresqlRows",
                &["hooks", "password"],
            ),
            (
                "[source.x]\nkind = 'postgresql-rows'\nconnection = ''\nbase = ''\n[[source.x.tables]]\ntable = ''\ncolumn = ''",
                "WatchedTable",
                &[],
            ),
            (
                "[source.x]\nkind = 'postgresql-cluster'\nconnection = ''",
                "PostgresqlCluster",
                &["hooks", "password"],
            ),
            ("[source.x]\nkind = 'files'\ninclude = []\n[source.x.hooks]", "Hooks", &[]),
            ("[source.x]\nkind = 'files'\ninclude = []\n[source.x.fixtures]", "Fixtures", &[]),
            ("[job.x]", "Job", &[]),
            ("[job.x]\n[job.x.retention]", "Retention", &[]),
            ("[export.x]\nsources = []\nto = '/t'\nname = '{time}'", "Export", &[]),
        ] {
            let mut read = known_keys(table);
            read.extend(apart.iter().map(|&name| name.to_owned()));
            read.sort();
            let properties = definitions[definition]["properties"].as_object().unwrap();
            let mut drawn: Vec<String> = properties.keys().cloned().collect();
            drawn.sort();
            assert_eq!(drawn, read, "{definition}");
        }
    }
}
