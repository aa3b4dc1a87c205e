//! A restore: always into a new database, never into one that is there.
//!
//! ```text
//! roles, extensions   what must exist first; a missing one is said by its name
//! CREATE DATABASE     from template0, with the recorded encoding and locale
//! definitions         pg_restore --section=pre-data
//! rows                COPY, several tables at once; then sequences and large objects
//! indexes, keys       pg_restore --section=post-data
//! the database        settings, privileges, comment, statistics
//! ```
//!
//! If any step fails, the new database is dropped again. What was restored is then compared with the manifest by
//! [`verify`](super::verify); giving it the live one's name is [`swap`](super::swap()).

use super::catalog::{self, Database, literal, quote};
use super::connection::{Connection, shown_name};
use super::copy::CopyTable;
use super::manifest::{Manifest, SequenceRecord, TableRecord};
use super::programs::{Environment, PrivateDir, Programs, Running, SystemUser, find};
use super::verify::verify;
use super::wire::{Client, CopyInError, WireError};
use super::{connect, failed, wire_failed};
use crate::check::Check;
use crate::{NotReadBack, SourceError, Stored};
use hikae_model::{Cx, Entry, ErrorCode, HashKey};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;

/// How to restore.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// The key that hashed the rows in the manifest.
    pub key: HashKey,
    /// Name of the new database; by default `db_restore_` and something random.
    pub database: Option<String>,
    /// Whom the objects belong to.
    pub owners: Owners,
    /// How many tables are written, and indexes made, at once.
    pub jobs: NonZeroUsize,
    /// Where `pg_restore` is, if not in one of the usual places.
    pub program_directory: Option<PathBuf>,
}

/// Whom restored objects belong to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Owners {
    /// To their owners, with their privileges. Roles that are missing are made, without login.
    #[default]
    Keep,
    /// To the role that restores; privileges are left out.
    None,
}

/// What a restore brought.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The new database.
    pub database: String,
    /// Everything that was compared with the manifest.
    pub checks: Vec<Check>,
    /// What was left out or done differently.
    pub notes: Vec<String>,
    /// How long each phase took.
    pub timings: Vec<PhaseTime>,
}

/// How long one phase took.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PhaseTime {
    /// As `rows`.
    pub phase: String,
    /// In milliseconds.
    pub milliseconds: u64,
}

/// Restores what `stored` holds into a new database of the server at `into`, and compares it with its manifest.
///
/// A check that failed is not an error: the new database stays, and the caller decides.
///
/// # Errors
/// [`SourceError`]: nothing was restored, and the new database is gone again.
pub fn restore(
    stored: &dyn Stored,
    into: &Connection,
    options: &RestoreOptions,
    environment: &Environment,
    cx: &Cx,
) -> Result<Restored, SourceError> {
    let scratch = PrivateDir::create(&environment.scratch, cx)?;
    let conninfo_passfile = scratch.write_pgpass(into)?;
    let place = Place { into, scratch: scratch.path(), passfile: conninfo_passfile.as_deref(), user: None };
    restore_at(stored, &place, options, environment, cx)
}

/// Where a restore goes and what it may use there.
pub(super) struct Place<'a> {
    /// A database of the server, to make the new one from.
    pub(super) into: &'a Connection,
    /// A directory of our own that programs can reach.
    pub(super) scratch: &'a Path,
    pub(super) passfile: Option<&'a Path>,
    /// As whom programs run, which read what we restore.
    pub(super) user: Option<&'a SystemUser>,
}

/// Measures phases.
pub(super) struct Stopwatch<'a> {
    cx: &'a Cx,
    since: Duration,
    pub(super) times: Vec<PhaseTime>,
}

impl<'a> Stopwatch<'a> {
    pub(super) fn new(cx: &'a Cx) -> Self {
        Self { cx, since: cx.elapsed(), times: Vec::new() }
    }

    /// Ends a phase and begins the next.
    pub(super) fn lap(&mut self, phase: &str) {
        let now = self.cx.elapsed();
        let spent = now.saturating_sub(self.since);
        self.since = now;
        let milliseconds = u64::try_from(spent.as_millis()).unwrap_or(u64::MAX);
        self.times.push(PhaseTime { phase: phase.to_owned(), milliseconds });
    }
}

/// Restores at `place`.
pub(super) fn restore_at(
    stored: &dyn Stored,
    place: &Place<'_>,
    options: &RestoreOptions,
    environment: &Environment,
    cx: &Cx,
) -> Result<Restored, SourceError> {
    let manifest = stored.manifest().ok_or_else(|| incomplete("it has no manifest"))?;
    let manifest = Manifest::parse(manifest)?;
    let files = Files::of(stored);
    let database: Database = files.json("database.json")?;
    see_files_are_there(&files, &manifest)?;
    let mut maintenance = connect(place.into, cx)?;
    let programs = choose_programs(&maintenance, &manifest, options, environment)?;
    let name = match &options.database {
        Some(name) => name.clone(),
        None => format!("db_restore_{}", cx.random::<4>().map(|byte| format!("{byte:02x}")).concat()),
    };
    let mut notes: Vec<String> = manifest.selection_note().into_iter().collect();
    see_extensions_are_there(&mut maintenance, &database)?;
    make_roles(&mut maintenance, &database, options.owners, &mut notes)?;

    let mut watch = Stopwatch::new(cx);
    let created = maintenance.execute(&create_statement(&name, &database, maintenance.server_version_num()));
    created.map_err(|error| creation_failed(&name, &database, &error))?;
    watch.lap("create");
    let work = Work {
        files: &files,
        manifest: &manifest,
        database: &database,
        target: place.into.to_database(&name),
        place,
        programs: &programs,
        options,
        cx,
    };
    let filled = work.fill(&mut watch).and_then(|()| {
        adorn(&mut maintenance, &name, &database, options.owners, &mut notes)?;
        let checks =
            verify(&work.target, &manifest, &database, options.key, options.owners, options.jobs, cx)?;
        watch.lap("verify");
        Ok(checks)
    });
    match filled {
        Ok(checks) => Ok(Restored { database: name, checks, notes, timings: watch.times }),
        Err(error) => {
            // Ours since a moment ago, and nobody else's. What matters is the first error.
            let _ = maintenance.execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote(&name)));
            Err(error)
        }
    }
}

/// The stored files by name.
pub(super) struct Files<'a> {
    stored: &'a dyn Stored,
    by_name: BTreeMap<&'a [u8], &'a Entry>,
}

impl<'a> Files<'a> {
    pub(super) fn of(stored: &'a dyn Stored) -> Self {
        let by_name = stored.entries().iter().map(|entry| (entry.path.as_bytes(), entry)).collect();
        Self { stored, by_name }
    }

    pub(super) fn open(&self, name: &str) -> Result<Box<dyn std::io::Read + Send + '_>, SourceError> {
        let entry = self.by_name.get(name.as_bytes());
        let entry = entry.ok_or_else(|| incomplete(&format!("{name} is not in it")))?;
        self.stored.open(entry).map_err(|error| SourceError::not_read_back(name, &error))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name.as_bytes())
    }

    fn size(&self, name: &str) -> u64 {
        self.by_name.get(name.as_bytes()).map_or(0, |entry| entry.size())
    }

    fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T, SourceError> {
        let mut bytes = Vec::new();
        self.open(name)?.read_to_end(&mut bytes).map_err(|error| SourceError::not_read_back(name, &error))?;
        serde_json::from_slice(&bytes)
            .map_err(|error| incomplete(&format!("{name} is not understood: {error}")))
    }
}

fn incomplete(what: &str) -> SourceError {
    failed(ErrorCode::VerificationFailed, format!("the snapshot cannot be restored: {what}"), None)
}

fn see_files_are_there(files: &Files<'_>, manifest: &Manifest) -> Result<(), SourceError> {
    let tables = manifest.tables.iter().flat_map(|table| &table.files).map(|file| format!("tables/{file}"));
    let large = manifest.large_objects.iter().map(|_| "large-objects.dump".to_owned());
    for name in tables.chain(large).chain(["schema.dump", "sequences.json", "globals.sql"].map(str::to_owned))
    {
        if !files.has(&name) {
            return Err(incomplete(&format!("{name} is not in it")));
        }
    }
    Ok(())
}

/// A `pg_restore` that reads the dump, and a server that takes it.
fn choose_programs(
    client: &Client,
    manifest: &Manifest,
    options: &RestoreOptions,
    environment: &Environment,
) -> Result<Programs, SourceError> {
    let target = client.server_version_num() / 10_000;
    let origin = manifest.server_version_num / 10_000;
    if target < origin {
        return Err(failed(
            ErrorCode::Usage,
            format!("the snapshot is of PostgreSQL {origin} and this server is {target}"),
            Some(format!("restore into PostgreSQL {origin} or newer")),
        ));
    }
    let dumped_by: u32 = manifest
        .pg_dump
        .split(|c: char| !c.is_ascii_digit())
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    find("pg_restore", dumped_by.max(target), options.program_directory.as_deref(), environment)
}

/// A missing extension is no fault of the snapshot, and is said before anything is made.
fn see_extensions_are_there(client: &mut Client, database: &Database) -> Result<(), SourceError> {
    let wire = |error: WireError| wire_failed("cannot ask for the server's extensions", &error);
    let rows = client.query("SELECT name FROM pg_available_extensions", &[]).map_err(wire)?;
    let available: BTreeSet<String> = rows.into_iter().flatten().flatten().collect();
    let missing: Vec<&str> = database
        .extensions
        .iter()
        .map(|e| e.name.as_str())
        .filter(|name| !available.contains(*name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = shown_name(&missing.join(", "));
    Err(failed(
        ErrorCode::SourceMissing,
        format!("extension {names} is not installed on this server; the snapshot itself is not at fault"),
        Some(format!(
            "install the package of {names} for PostgreSQL {}",
            client.server_version_num() / 10_000
        )),
    ))
}

fn make_roles(
    client: &mut Client,
    database: &Database,
    owners: Owners,
    notes: &mut Vec<String>,
) -> Result<(), SourceError> {
    let wire = |error: WireError| wire_failed("cannot make the roles that own the objects", &error);
    let rows = client.query("SELECT rolname FROM pg_roles", &[]).map_err(wire)?;
    let existing: BTreeSet<String> = rows.into_iter().flatten().flatten().collect();
    let missing =
        database.roles.iter().filter(|role| !existing.contains(&role.name) && !role.name.starts_with("pg_"));
    for role in missing {
        match owners {
            Owners::Keep => {
                client.execute(&format!("CREATE ROLE {} NOLOGIN", quote(&role.name))).map_err(wire)?;
                notes.push(format!(
                    "made role {} without login; its password is in globals.sql",
                    shown_name(&role.name)
                ));
            }
            Owners::None => notes.push(format!("role {} is not on this server", shown_name(&role.name))),
        }
    }
    Ok(())
}

/// `CREATE DATABASE` for a server of version `target`.
fn create_statement(name: &str, database: &Database, target: u32) -> String {
    let mut sql = format!(
        "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}",
        quote(name),
        literal(&database.encoding),
        literal(&database.collate),
        literal(&database.ctype)
    );
    let locale = database.locale.as_deref();
    if target >= 150_000 {
        match (database.locale_provider, locale) {
            ('i', Some(locale)) => {
                sql.push_str(&format!(" LOCALE_PROVIDER icu ICU_LOCALE {}", literal(locale)));
                if let Some(rules) = database.icu_rules.as_deref().filter(|_| target >= 160_000) {
                    sql.push_str(&format!(" ICU_RULES {}", literal(rules)));
                }
            }
            ('b', Some(locale)) => {
                sql.push_str(&format!(" LOCALE_PROVIDER builtin BUILTIN_LOCALE {}", literal(locale)))
            }
            _ => sql.push_str(" LOCALE_PROVIDER libc"),
        }
    }
    sql
}

fn creation_failed(name: &str, database: &Database, error: &WireError) -> SourceError {
    let what = format!("cannot create database {}", shown_name(name));
    // 22023, 42809: the server has no such locale, or none for this encoding.
    if matches!(error.sqlstate(), Some("22023" | "42809")) {
        let locale = database.locale.as_deref().unwrap_or(&database.collate);
        let advice =
            format!("install locale {locale} on the server's machine; the snapshot itself is not at fault");
        return failed(ErrorCode::SourceMissing, format!("{what}: {error}"), Some(advice));
    }
    wire_failed(&what, error)
}

/// What fills a new database.
struct Work<'a> {
    files: &'a Files<'a>,
    manifest: &'a Manifest,
    database: &'a Database,
    target: Connection,
    place: &'a Place<'a>,
    programs: &'a Programs,
    options: &'a RestoreOptions,
    cx: &'a Cx,
}

impl Work<'_> {
    fn fill(&self, watch: &mut Stopwatch<'_>) -> Result<(), SourceError> {
        let mut client = self.session()?;
        self.clear_template(&mut client)?;
        let schema = self.materialise("schema.dump")?;
        self.pg_restore(&["--section=pre-data"], Some(&schema), None)?;
        watch.lap("definitions");
        self.copy_tables()?;
        self.set_sequences(&mut client)?;
        watch.lap("rows");
        if self.manifest.large_objects.is_some() {
            self.pg_restore(&[], None, Some("large-objects.dump"))?;
            watch.lap("large objects");
        }
        let jobs = format!("--jobs={}", self.options.jobs);
        self.pg_restore(&["--section=post-data", &jobs], Some(&schema), None)?;
        watch.lap("indexes and keys");
        self.fill_views(&mut client)?;
        client.execute("ANALYZE").map_err(|error| wire_failed("cannot gather statistics", &error))?;
        watch.lap("statistics");
        Ok(())
    }

    /// A session in the new database with the settings under which rows were read.
    fn session(&self) -> Result<Client, SourceError> {
        let mut client = connect(&self.target, self.cx)?;
        let settings = catalog::session_settings(client.server_version_num(), 0);
        client.execute(&settings).map_err(|error| wire_failed("cannot set up a session", &error))?;
        Ok(client)
    }

    /// Takes out of the new database what every new one has and this one had not.
    fn clear_template(&self, client: &mut Client) -> Result<(), SourceError> {
        let mut statements = Vec::new();
        if !self.database.has_public {
            statements.push("DROP SCHEMA public");
        }
        if !self.database.extensions.iter().any(|extension| extension.name == "plpgsql") {
            statements.push("DROP EXTENSION plpgsql");
        }
        for statement in statements {
            client
                .execute(statement)
                .map_err(|error| wire_failed("cannot empty the new database", &error))?;
        }
        Ok(())
    }

    /// Writes a stored file of definitions to scratch, because `pg_restore` works on several indexes at once
    /// only from a file.
    fn materialise(&self, name: &str) -> Result<PathBuf, SourceError> {
        let path = self.place.scratch.join(name);
        let io_failed = |source| SourceError::Io { verb: "write", path: path.clone(), source };
        let mut from = self.files.open(name)?;
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).open(&path).map_err(io_failed)?;
        std::io::copy(&mut from, &mut file).map_err(|error| match NotReadBack::of(&error) {
            Some(_) => SourceError::not_read_back(name, &error),
            None => io_failed(error),
        })?;
        if let Some(user) = self.place.user {
            std::os::unix::fs::fchown(&file, Some(user.uid), Some(user.gid)).map_err(io_failed)?;
        }
        Ok(path)
    }

    /// Runs `pg_restore` on a file of scratch or on a stored one.
    fn pg_restore(
        &self,
        more: &[&str],
        file: Option<&Path>,
        stored: Option<&str>,
    ) -> Result<(), SourceError> {
        let mut arguments: Vec<OsString> = vec![
            "--exit-on-error".into(),
            "--no-password".into(),
            "--no-subscriptions".into(),
            "--no-tablespaces".into(),
            format!("--dbname={}", self.target.conninfo(self.place.passfile)).into(),
        ];
        if self.options.owners == Owners::None {
            arguments.extend(["--no-owner".into(), "--no-privileges".into()]);
        }
        arguments.extend(more.iter().map(Into::into));
        if let Some(file) = file {
            arguments.push("--".into());
            arguments.push(file.into());
        }
        let stdin = if stored.is_some() { Stdio::piped() } else { Stdio::null() };
        let path = self.programs.path("pg_restore");
        let mut running = Running::start(&path, &arguments, self.place.user, stdin, Stdio::null())?;
        if let (Some(name), Some(mut stdin)) = (stored, running.stdin()) {
            let mut from = self.files.open(name)?;
            let copied = std::io::copy(&mut from, &mut stdin);
            drop(stdin);
            // If pg_restore went away first, what it says is the better message.
            if let Err(error) = copied
                && error.kind() != std::io::ErrorKind::BrokenPipe
            {
                return Err(SourceError::not_read_back(name, &error));
            }
        }
        running.wait(self.cx)
    }

    /// Writes all tables, the largest first, several at once.
    fn copy_tables(&self) -> Result<(), SourceError> {
        let mut tasks: Vec<(u64, &TableRecord, &str)> = Vec::new();
        for table in &self.manifest.tables {
            for file in &table.files {
                tasks.push((self.files.size(&format!("tables/{file}")), table, file));
            }
        }
        tasks.sort_by_key(|(size, ..)| *size); // taken from the end
        let tasks = Mutex::new(tasks);
        let take = || tasks.lock().unwrap_or_else(|broken| broken.into_inner()).pop();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..self.options.jobs.get())
                .map(|_| {
                    scope.spawn(|| {
                        let mut client: Option<Client> = None;
                        while let Some((_, table, file)) = take() {
                            self.cx.check()?;
                            let mut session = match client.take() {
                                Some(session) => session,
                                None => self.session()?,
                            };
                            self.copy_file(&mut session, table, file)?;
                            client = Some(session);
                        }
                        Ok(())
                    })
                })
                .collect();
            let outcomes: Vec<Result<(), SourceError>> = workers
                .into_iter()
                .map(|worker| {
                    worker.join().unwrap_or_else(|_| Err(incomplete("a worker ended unexpectedly")))
                })
                .collect();
            outcomes.into_iter().collect()
        })
    }

    fn copy_file(&self, session: &mut Client, table: &TableRecord, file: &str) -> Result<(), SourceError> {
        let copy = CopyTable {
            schema: &table.schema,
            name: &table.name,
            columns: &table.columns,
            condition: table.condition.as_deref(),
            encoding: &self.database.encoding,
        };
        let name = format!("tables/{file}");
        let what =
            || format!("cannot write table {}", shown_name(&format!("{}.{}", table.schema, table.name)));
        let mut from = self.files.open(&name)?;
        // A table of ours alone is truncated and filled in one transaction: its rows are stored as long committed, and
        // nothing need look at them again. A table of an extension has rows of its own already.
        let alone = table.files.len() == 1 && table.condition.is_none();
        if alone {
            let begin = format!("BEGIN; TRUNCATE ONLY {}", copy.quoted());
            session.execute(&begin).map_err(|error| wire_failed(&what(), &error))?;
        }
        let copied = session.copy_in(&copy.fill(alone), &mut from);
        let n_rows = copied.map_err(|error| match error {
            CopyInError::Wire(error) => wire_failed(&what(), &error),
            CopyInError::Source(error) => SourceError::not_read_back(&name, &error),
        })?;
        if alone {
            session.execute("COMMIT").map_err(|error| wire_failed(&what(), &error))?;
        }
        self.cx.progress().add_entries(1);
        let _ = n_rows; // compared with the manifest when all is there, by counting again
        Ok(())
    }

    /// Fills materialised views. One may select from another, so those that must wait are tried again.
    fn fill_views(&self, client: &mut Client) -> Result<(), SourceError> {
        let mut waiting: Vec<String> = self
            .manifest
            .materialised_views
            .iter()
            .map(|view| format!("{}.{}", quote(&view.schema), quote(&view.name)))
            .collect();
        while !waiting.is_empty() {
            let before = waiting.len();
            let mut first_error = None;
            waiting.retain(|view| {
                let filled = client.execute(&format!("REFRESH MATERIALIZED VIEW {view}"));
                let failed = filled
                    .err()
                    .map(|error| wire_failed(&format!("cannot fill {}", shown_name(view)), &error));
                let waits = failed.is_some();
                first_error = first_error.take().or(failed);
                waits
            });
            if waiting.len() == before {
                return first_error.map_or(Ok(()), Err);
            }
        }
        Ok(())
    }

    fn set_sequences(&self, client: &mut Client) -> Result<(), SourceError> {
        // From the file and not from the manifest, or the comparison with the manifest would prove nothing.
        let sequences: Vec<SequenceRecord> = self.files.json("sequences.json")?;
        for batch in sequences.chunks(200) {
            let calls: Vec<String> = batch
                .iter()
                .map(|sequence| {
                    let name = format!("{}.{}", quote(&sequence.schema), quote(&sequence.name));
                    format!(
                        "SELECT setval({}, {}, {})",
                        literal(&name),
                        sequence.last_value,
                        sequence.is_called
                    )
                })
                .collect();
            client.execute(&calls.join(";")).map_err(|error| wire_failed("cannot set sequences", &error))?;
        }
        Ok(())
    }
}

/// Writes on the database what a dump leaves out: settings, privileges, limit, comment.
fn adorn(
    client: &mut Client,
    name: &str,
    database: &Database,
    owners: Owners,
    notes: &mut Vec<String>,
) -> Result<(), SourceError> {
    let rows = client.query("SELECT rolname FROM pg_roles", &[]);
    let rows = rows.map_err(|error| wire_failed("cannot ask for roles", &error))?;
    let roles: BTreeSet<String> = rows.into_iter().flatten().flatten().collect();
    let on = quote(name);
    let mut statements = Vec::new();
    for setting in &database.settings {
        let to = setting_value(&setting.name, &setting.value);
        let set = format!("SET {} TO {to}", setting_name(&setting.name));
        match &setting.role {
            None => statements.push(format!("ALTER DATABASE {on} {set}")),
            Some(role) if roles.contains(role) => {
                statements.push(format!("ALTER ROLE {} IN DATABASE {on} {set}", quote(role)));
            }
            Some(role) => {
                notes.push(format!("role {} is not here, nor its setting {}", shown_name(role), setting.name))
            }
        }
    }
    if owners == Owners::Keep {
        statements.push(format!("ALTER DATABASE {on} OWNER TO {}", quote(&database.owner)));
        if let Some(privileges) = &database.privileges {
            statements.push(format!("REVOKE ALL ON DATABASE {on} FROM PUBLIC"));
            for privilege in privileges {
                let to = match &privilege.grantee {
                    None => "PUBLIC".to_owned(),
                    Some(role) => quote(role),
                };
                let option = if privilege.grantable { " WITH GRANT OPTION" } else { "" };
                statements.push(format!("GRANT {} ON DATABASE {on} TO {to}{option}", privilege.privilege));
            }
        }
    }
    if database.connection_limit >= 0 {
        statements.push(format!("ALTER DATABASE {on} CONNECTION LIMIT {}", database.connection_limit));
    }
    if let Some(comment) = &database.comment {
        statements.push(format!("COMMENT ON DATABASE {on} IS {}", literal(comment)));
    }
    for statement in statements {
        client.execute(&statement).map_err(|error| {
            wire_failed(&format!("cannot write the properties of database {}", shown_name(name)), &error)
        })?;
    }
    Ok(())
}

/// A setting's name as SQL: `work_mem`, or `"my ext"."a.b"` for one of an extension.
fn setting_name(name: &str) -> String {
    name.split('.').map(quote).collect::<Vec<_>>().join(".")
}

/// A setting's value as SQL. Lists of names are kept quoted inside (`"$user", public`) and must be taken apart, or the
/// whole would become one name. Source: `makeAlterConfigCommand` in PostgreSQL's `dumputils.c`.
fn setting_value(name: &str, value: &str) -> String {
    const LISTS: [&str; 6] = [
        "local_preload_libraries",
        "search_path",
        "session_preload_libraries",
        "shared_preload_libraries",
        "temp_tablespaces",
        "unix_socket_directories",
    ];
    if !LISTS.iter().any(|list| name.eq_ignore_ascii_case(list)) {
        return literal(value);
    }
    let mut items = vec![String::new()];
    let mut quoted = false;
    let mut chars = value.chars().peekable();
    while let Some(c) = chars.next() {
        let last = items.len() - 1;
        match c {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => items[last].push('"'),
            '"' => quoted = !quoted,
            ',' if !quoted => items.push(String::new()),
            c if !quoted && c.is_whitespace() => {}
            c => items[last].push(c),
        }
    }
    items.iter().map(|item| literal(item)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_schemas_stays_a_list() {
        for (name, value, sql) in [
            ("search_path", "\"$user\", public", "'$user', 'public'"),
            ("search_path", "\"a,b\", \"c\"\"d\"", "'a,b', 'c\"d'"),
            ("search_path", "\"\"", "''"),
            ("work_mem", "64MB", "'64MB'"),
            ("my.text", "a, b", "'a, b'"),
        ] {
            assert_eq!(setting_value(name, value), sql);
        }
    }

    #[test]
    fn the_new_database_is_made_for_the_version_of_the_server() {
        let database = Database {
            encoding: "UTF8".into(),
            collate: "C".into(),
            ctype: "C".into(),
            locale_provider: 'i',
            locale: Some("de-DE".into()),
            ..Database::default()
        };
        assert!(
            create_statement("x", &database, 150_001).ends_with("LOCALE_PROVIDER icu ICU_LOCALE 'de-DE'")
        );
        assert!(create_statement("x", &database, 140_001).ends_with("LC_CTYPE 'C'"));
    }
}
