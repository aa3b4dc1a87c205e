//! One reading: a session that holds the snapshot, workers that read tables in it, and programs that dump the rest.
//!
//! ```text
//! session   BEGIN, export the snapshot, look, lock; stays open until the end
//! workers   a connection each, in the same snapshot; used again for the next table
//! programs  pg_dump with --snapshot, pg_dumpall; started when their content is first read
//! ```
//!
//! Whatever goes wrong with any content is remembered here, so that [`finish`](Reading::finish) fails even if
//! nobody looked. An export is good only if all of it is.

use super::catalog::{self, Relation};
use super::connection::Connection;
use super::copy::{Blocks, CopyTable, plan_parts};
use super::manifest::{
    LargeObjects, Manifest, NotCovered, ROWS_NOT_SELECTED, TableRecord, ViewRecord, count_objects, file_stem,
};
use super::preflight::{self, Look, lock_statement, set_snapshot};
use super::programs::{Environment, PrivateDir, Programs, Running};
use super::rows::RowSum;
use super::settings::PostgresqlSettings;
use super::wire::{Client, CopyOut, WireError};
use super::{connect, failed, wire_failed};
use crate::{Content, Finished, Item, Reading, SourceError};
use hikae_model::{
    Attributes, ContentError, Cut, Cx, Entry, EntryKind, ErrorCode, FileTime, HashKey, ReadContent, Stretch,
    TreePath,
};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::process::{ChildStdin, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};

/// How often a reading begins anew because a table was rewritten under its snapshot.
const MAX_ATTEMPTS: u32 = 3;
/// How many tables one LOCK names.
const LOCK_BATCH: usize = 500;

/// Starts a reading.
pub(super) fn begin(
    connection: &Connection,
    settings: &PostgresqlSettings,
    environment: &Environment,
    key: HashKey,
    cx: &Cx,
) -> Result<Box<dyn Reading>, SourceError> {
    for _ in 0..MAX_ATTEMPTS {
        cx.check()?;
        if let Some(reading) = try_begin(connection, settings, environment, key, cx)? {
            return Ok(Box::new(reading));
        }
    }
    Err(failed(
        ErrorCode::Busy,
        format!("tables of {} are being rewritten or truncated all the time", connection.shown()),
        Some("run again when the migration is done".into()),
    ))
}

/// `None` if a table was rewritten between the snapshot and our lock.
fn try_begin(
    connection: &Connection,
    settings: &PostgresqlSettings,
    environment: &Environment,
    key: HashKey,
    cx: &Cx,
) -> Result<Option<PostgresqlReading>, SourceError> {
    let wire = |error: WireError| wire_failed(&format!("cannot read {}", connection.shown()), &error);
    let mut session = connect(connection, cx)?;
    let session_settings =
        catalog::session_settings(session.server_version_num(), settings.lock_timeout_ms());
    session.execute(&session_settings).map_err(wire)?;
    session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").map_err(wire)?;
    let snapshot = session.value("SELECT pg_export_snapshot()", &[]).map_err(wire)?.unwrap_or_default();
    let moment = session.value("SELECT to_json(now())#>>'{}'", &[]).map_err(wire)?.unwrap_or_default();
    let moment: jiff::Timestamp = moment.parse().map_err(|error| {
        failed(ErrorCode::Failure, format!("the server's time `{moment}` is not understood: {error}"), None)
    })?;
    let look = preflight::look(&mut session, connection, settings, environment)?;
    look.refuse()?;
    if !lock(&mut session, &look).map_err(wire)? {
        return Ok(None);
    }

    let scratch = PrivateDir::create(&environment.scratch, cx)?;
    let passfile = scratch.write_pgpass(connection)?;
    let Some(programs) = look.pg_dump.clone() else {
        return Err(failed(ErrorCode::SourceMissing, "pg_dump is not installed here".into(), None));
    };
    let shared = Arc::new(Shared {
        conninfo: connection.conninfo(passfile.as_deref()),
        connection: connection.clone(),
        encoding: look.database.encoding.clone(),
        server_major: look.database.server_version_num / 10_000,
        snapshot,
        session_settings,
        programs,
        key,
        cx: cx.clone(),
        idle: Mutex::default(),
        parts: Mutex::default(),
        _scratch: scratch,
    });
    let manifest = draft_manifest(&mut session, &look, settings, &shared, moment).map_err(wire)?;
    PostgresqlReading::plan(session, shared, &look, settings, manifest).map(Some)
}

/// Locks the tables that are read. False if one of them was rewritten since the snapshot: rows of before then
/// cannot be seen any more, and a truncated table would be read as an empty one.
fn lock(session: &mut Client, look: &Look) -> Result<bool, WireError> {
    let tables: Vec<&Relation> =
        look.relations.iter().filter(|r| look.selection.rows.contains(&r.oid)).collect();
    for batch in tables.chunks(LOCK_BATCH) {
        match session.execute(&lock_statement(batch)) {
            Err(error) if matches!(error.sqlstate(), Some("42P01" | "3F000")) => return Ok(false), // dropped meanwhile
            locked => locked?,
        }
    }
    // The query sees the catalog as it was in our snapshot, the function as it is now.
    let rewritten = session.value(
        "SELECT count(*) FROM pg_class WHERE oid = ANY ($1::oid[])
            AND pg_relation_filenode(oid) IS DISTINCT FROM relfilenode AND relfilenode <> 0",
        &[&catalog::oid_array(&look.selection.rows)],
    )?;
    Ok(rewritten.as_deref() == Some("0"))
}

fn draft_manifest(
    session: &mut Client,
    look: &Look,
    settings: &PostgresqlSettings,
    shared: &Shared,
    moment: jiff::Timestamp,
) -> Result<Manifest, WireError> {
    let is_left_out = |relation: &&Relation| look.selection.left_out.contains(&relation.oid);
    let sequences: Vec<(String, String)> = look
        .relations
        .iter()
        .filter(|relation| relation.kind == 'S' && !is_left_out(relation))
        .map(|relation| (relation.schema.clone(), relation.name.clone()))
        .collect();
    let sequences = catalog::sequences(session, &sequences)?;
    let materialised_views = look
        .relations
        .iter()
        .filter(|relation| relation.kind == 'm' && relation.populated && !is_left_out(relation))
        .map(|relation| ViewRecord { schema: relation.schema.clone(), name: relation.name.clone() })
        .collect();
    let inventory = catalog::inventory(session, &catalog::oid_array(&look.selection.left_out))?;
    let mut not_covered = Vec::new();
    for relation in &look.relations {
        let why = match relation.kind {
            _ if is_left_out(&relation) => "not selected, and the role may not read it",
            'r' if !look.selection.rows.contains(&relation.oid) => ROWS_NOT_SELECTED,
            'r' if look.is_standby && relation.unlogged => {
                "rows of an unlogged table, which a standby has not"
            }
            'f' => "rows of a foreign table, which are on another server",
            _ => continue,
        };
        not_covered.push(NotCovered { what: relation.shown(), why: why.into() });
    }
    if look.has_large_objects && settings.is_selection() {
        not_covered.push(NotCovered { what: "large objects".into(), why: "not selected".into() });
    }
    if !look.may_read_passwords {
        let why = "the role may not read pg_authid".to_owned();
        not_covered.push(NotCovered { what: "passwords of roles".into(), why });
    }
    let database = &look.database;
    Ok(Manifest {
        kind: "postgresql".into(),
        version: Manifest::VERSION,
        database: database.name.clone(),
        server_version: database.server_version.clone(),
        server_version_num: database.server_version_num,
        pg_dump: shared.programs.version.clone(),
        moment,
        selection: settings.is_selection(),
        role_passwords: look.may_read_passwords,
        tables: Vec::new(),
        sequences: sequences.into_iter().map(Into::into).collect(),
        materialised_views,
        large_objects: None,
        objects: count_objects(&inventory, shared.key),
        extensions: database.extensions.iter().map(|e| (e.name.clone(), e.version.clone())).collect(),
        roles: database.roles.iter().map(|role| role.name.clone()).collect(),
        not_covered,
    })
}

/// What the contents of one reading share.
struct Shared {
    connection: Connection,
    /// The connection for programs.
    conninfo: String,
    encoding: String,
    server_major: u32,
    snapshot: String,
    session_settings: String,
    programs: Programs,
    key: HashKey,
    cx: Cx,
    /// Workers that wait for the next table, in the snapshot.
    idle: Mutex<Vec<Client>>,
    parts: Mutex<Vec<Part>>,
    /// Holds the password file while programs run.
    _scratch: PrivateDir,
}

/// One content and what became of it.
struct Part {
    name: String,
    /// The table it belongs to, by its place in the manifest.
    table: Option<usize>,
    outcome: PartOutcome,
}

enum PartOutcome {
    Waiting,
    Read(Option<RowSum>),
    Failed(String),
}

impl Shared {
    fn lock_parts(&self) -> MutexGuard<'_, Vec<Part>> {
        self.parts.lock().unwrap_or_else(|broken| broken.into_inner())
    }

    fn add_part(&self, name: &str, table: Option<usize>) -> usize {
        let mut parts = self.lock_parts();
        parts.push(Part { name: name.to_owned(), table, outcome: PartOutcome::Waiting });
        parts.len() - 1
    }

    fn set(&self, part: usize, outcome: PartOutcome) {
        if let Some(part) = self.lock_parts().get_mut(part) {
            part.outcome = outcome;
        }
    }

    /// Remembers the failure and gives it on.
    fn broken(&self, part: usize, what: String) -> ContentError {
        self.set(part, PartOutcome::Failed(what.clone()));
        ContentError::Broken(what)
    }

    /// A connection in the snapshot: one that waits, or a new one.
    fn worker(&self) -> Result<Client, WireError> {
        let idle = self.idle.lock().unwrap_or_else(|broken| broken.into_inner()).pop();
        if let Some(client) = idle {
            return Ok(client);
        }
        let mut client = Client::connect(&self.connection, self.cx.cancel())?;
        client.execute(&self.session_settings)?;
        client.execute(&set_snapshot(&self.snapshot))?;
        Ok(client)
    }

    fn give_back(&self, client: Client) {
        if !client.is_broken() {
            self.idle.lock().unwrap_or_else(|broken| broken.into_inner()).push(client);
        }
    }
}

struct PostgresqlReading {
    session: Client,
    shared: Arc<Shared>,
    items: VecDeque<Item>,
    lanes: usize,
    manifest: Manifest,
    large_objects: bool,
}

impl PostgresqlReading {
    fn plan(
        session: Client,
        shared: Arc<Shared>,
        look: &Look,
        settings: &PostgresqlSettings,
        mut manifest: Manifest,
    ) -> Result<Self, SourceError> {
        let mut files = Files { shared: &shared, moment: manifest.moment, items: Vec::new() };
        files.add_json("database.json", &look.database)?;
        files.add_json("sequences.json", &manifest.sequences)?;
        files.add_program("globals.sql", "pg_dumpall", globals_arguments(&shared, look), Whole::Trailer)?;
        files.add_program(
            "schema.dump",
            "pg_dump",
            schema_arguments(&shared, look, settings),
            Whole::Archive,
        )?;
        let large_objects = look.has_large_objects && !settings.is_selection();
        if large_objects {
            files.add_program(
                "large-objects.dump",
                "pg_dump",
                large_objects_arguments(&shared, settings),
                Whole::Archive,
            )?;
        }
        files.add_directory("tables")?;
        let unreadable = |relation: &Relation| look.is_standby && relation.unlogged;
        for relation in &look.relations {
            if look.selection.rows.contains(&relation.oid) && !unreadable(relation) {
                let record = files.add_table(relation, settings, manifest.tables.len())?;
                manifest.tables.push(record);
            }
        }
        let mut items = files.items;
        items.sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
        Ok(Self { session, shared, items: items.into(), lanes: settings.jobs.get(), manifest, large_objects })
    }

    /// Large objects are hashed once more from the same snapshot: pg_dump says nothing of what it wrote.
    fn hash_large_objects(&mut self) -> Result<LargeObjects, WireError> {
        let mut sum = RowSum::new(self.shared.key);
        let mut buffer = vec![0; 64 << 10];
        let mut copy =
            self.session.copy_out(&format!("COPY ({}) TO STDOUT", catalog::LARGE_OBJECTS), &sum)?;
        while self.session.copy_read(&mut copy, &mut sum, &mut buffer)? > 0 {}
        let count = self.session.value("SELECT count(*) FROM pg_largeobject_metadata", &[])?;
        let count = count.and_then(|count| count.parse().ok()).unwrap_or_default();
        Ok(LargeObjects { count, hash: sum.hex() })
    }
}

impl Reading for PostgresqlReading {
    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        self.shared.cx.check()?;
        Ok(self.items.pop_front())
    }

    fn lanes(&self) -> usize {
        self.lanes
    }

    fn finish(mut self: Box<Self>) -> Result<Finished, SourceError> {
        let mut sums: Vec<RowSum> = vec![RowSum::new(self.shared.key); self.manifest.tables.len()];
        for part in self.shared.lock_parts().iter() {
            let what = match &part.outcome {
                PartOutcome::Waiting => format!("{} was not read to its end", part.name),
                PartOutcome::Failed(what) => what.clone(),
                PartOutcome::Read(sum) => {
                    if let (Some(table), Some(sum)) = (part.table, sum) {
                        sums[table].add_sum(sum);
                    }
                    continue;
                }
            };
            return Err(failed(ErrorCode::Failure, what, Some("run the backup again".into())));
        }
        for (table, sum) in self.manifest.tables.iter_mut().zip(&sums) {
            (table.rows, table.hash) = (sum.rows(), sum.hex());
        }
        let wire = |error: WireError| wire_failed("the session that held the snapshot failed", &error);
        if self.large_objects {
            self.manifest.large_objects = Some(self.hash_large_objects().map_err(wire)?);
        }
        // If the session died, locks were let go and tables may have been rewritten while they were read.
        self.session.execute("COMMIT").map_err(wire)?;
        let manifest = serde_json::to_vec_pretty(&self.manifest).map_err(|error| {
            failed(ErrorCode::Failure, format!("cannot write the manifest: {error}"), None)
        })?;
        Ok(Finished {
            moment: self.manifest.moment,
            problems: Vec::new(),
            notes: Vec::new(),
            manifest: Some(manifest),
        })
    }
}

/// Gathers the items of a reading.
struct Files<'a> {
    shared: &'a Arc<Shared>,
    moment: jiff::Timestamp,
    items: Vec<Item>,
}

impl Files<'_> {
    fn add(
        &mut self,
        path: &str,
        size: u64,
        reader: Option<Box<dyn ReadContent>>,
    ) -> Result<(), SourceError> {
        let path = TreePath::parse(path)
            .map_err(|error| failed(ErrorCode::Failure, format!("cannot name a file: {error}"), None))?;
        let modified = FileTime {
            seconds: self.moment.as_second(),
            nanoseconds: self.moment.subsec_nanosecond().max(0) as u32,
        };
        let (kind, mode) =
            if reader.is_some() { (EntryKind::File { size }, 0o600) } else { (EntryKind::Directory, 0o700) };
        self.items.push(Item {
            entry: Entry { path, kind, attributes: Attributes { mode, modified, ..Attributes::default() } },
            content: reader.map(|reader| Content { cut: Cut::Rows, reader }),
        });
        Ok(())
    }

    fn add_directory(&mut self, path: &str) -> Result<(), SourceError> {
        self.add(path, 0, None)
    }

    fn add_json(&mut self, path: &str, value: &impl serde::Serialize) -> Result<(), SourceError> {
        let mut bytes = serde_json::to_vec_pretty(value)
            .map_err(|error| failed(ErrorCode::Failure, format!("cannot write {path}: {error}"), None))?;
        bytes.push(b'\n');
        self.add(path, bytes.len() as u64, Some(Box::new(InMemory { bytes, at: 0 })))
    }

    fn add_program(
        &mut self,
        path: &str,
        program: &'static str,
        arguments: Vec<OsString>,
        whole: Whole,
    ) -> Result<(), SourceError> {
        let part = self.shared.add_part(path, None);
        let shared = Arc::clone(self.shared);
        self.add(
            path,
            0,
            Some(Box::new(ProgramContent { shared, part, program, arguments, whole, state: None })),
        )
    }

    fn add_table(
        &mut self,
        relation: &Relation,
        settings: &PostgresqlSettings,
        table: usize,
    ) -> Result<TableRecord, SourceError> {
        let copy = CopyTable {
            schema: &relation.schema,
            name: &relation.name,
            columns: &relation.columns,
            condition: relation.condition.as_deref(),
            encoding: &self.shared.encoding,
        };
        // Ranges of ctid are found without reading the rest since PostgreSQL 14; blocks are of 8 KiB nearly always.
        let parts = if self.shared.server_major >= 14 && relation.condition.is_none() {
            plan_parts(relation.blocks, settings.part_bytes / 8192)
        } else {
            vec![Blocks { from: 0, to: None }]
        };
        let stem = file_stem(&relation.schema, &relation.name);
        let mut files = Vec::with_capacity(parts.len());
        for (i, &blocks) in parts.iter().enumerate() {
            let file = if parts.len() == 1 { format!("{stem}.copy") } else { format!("{stem}.{i:04}.copy") };
            let path = format!("tables/{file}");
            let part = self.shared.add_part(&path, Some(table));
            let content = TableContent {
                shared: Arc::clone(self.shared),
                part,
                shown: relation.shown(),
                lock: lock_statement(&[relation]),
                copy: copy.out((parts.len() > 1).then_some(blocks)),
                state: None,
                rows: RowSum::new(self.shared.key),
            };
            self.add(&path, 0, Some(Box::new(content)))?;
            files.push(file);
        }
        Ok(TableRecord {
            schema: relation.schema.clone(),
            name: relation.name.clone(),
            files,
            columns: relation.columns.clone(),
            condition: relation.condition.clone(),
            rows: 0,
            hash: String::new(),
        })
    }
}

/// A constant makes the tokens of `\restrict` the same in every run, so that they deduplicate. The key
/// guards psql against a hostile server; nothing of ours feeds psql.
const RESTRICT_KEY: &str = "hikae";

fn globals_arguments(shared: &Shared, look: &Look) -> Vec<OsString> {
    // libpq reads a database's name as a connection string if it looks like one, so it is given as one.
    let name = shared.connection.database.replace('\\', "\\\\").replace('\'', "\\'");
    let mut arguments: Vec<OsString> = vec![
        "--globals-only".into(),
        "--no-password".into(),
        format!("--database=dbname='{name}'").into(),
        format!("--dbname={}", shared.conninfo).into(),
    ];
    if !look.may_read_passwords {
        arguments.push("--no-role-passwords".into());
    }
    if knows_restrict_key(&shared.programs) {
        arguments.push(format!("--restrict-key={RESTRICT_KEY}").into());
    }
    arguments
}

fn dump_arguments(shared: &Shared, settings: &PostgresqlSettings) -> Vec<OsString> {
    vec![
        "--format=custom".into(),
        "--compress=0".into(),
        "--no-password".into(),
        format!("--lock-wait-timeout={}", settings.lock_timeout_ms()).into(),
        format!("--snapshot={}", shared.snapshot).into(),
        format!("--dbname={}", shared.conninfo).into(),
    ]
}

fn schema_arguments(shared: &Shared, look: &Look, settings: &PostgresqlSettings) -> Vec<OsString> {
    let mut arguments = dump_arguments(shared, settings);
    arguments.push("--schema-only".into());
    for relation in look.relations.iter().filter(|relation| look.selection.left_out.contains(&relation.oid)) {
        // Within double quotes a pattern of pg_dump has no special characters.
        arguments.push(format!("--exclude-table={}", relation.quoted()).into());
    }
    arguments
}

fn large_objects_arguments(shared: &Shared, settings: &PostgresqlSettings) -> Vec<OsString> {
    let mut arguments = dump_arguments(shared, settings);
    arguments.extend(["--data-only".into(), "--blobs".into(), "--exclude-table=*.*".into()]);
    arguments
}

/// Since the fix of CVE-2025-8714.
fn knows_restrict_key(programs: &Programs) -> bool {
    let minor: u32 = programs.version.split('.').nth(1).and_then(|minor| minor.parse().ok()).unwrap_or(0);
    match programs.major {
        13 => minor >= 22,
        14 => minor >= 19,
        15 => minor >= 14,
        16 => minor >= 10,
        17 => minor >= 6,
        major => major >= 18,
    }
}

/// A small file that was made in memory.
struct InMemory {
    bytes: Vec<u8>,
    at: usize,
}

impl ReadContent for InMemory {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Stretch, ContentError> {
        let rest = &self.bytes[self.at..];
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        self.at += n;
        Ok(if n == 0 { Stretch::End } else { Stretch::Data(n) })
    }
}

/// How a program's output shows that it is whole, besides the exit code.
#[derive(Clone, Copy)]
enum Whole {
    /// `pg_restore` reads all of it.
    Archive,
    /// It ends as a whole script does.
    Trailer,
}

/// Stands at the end of what `pg_dumpall` writes.
pub(super) const TRAILER: &[u8] = b"-- PostgreSQL database cluster dump complete";

/// The output of one of PostgreSQL's programs.
struct ProgramContent {
    shared: Arc<Shared>,
    part: usize,
    program: &'static str,
    arguments: Vec<OsString>,
    whole: Whole,
    state: Option<ProgramState>,
}

struct ProgramState {
    running: Option<Running>,
    output: std::process::ChildStdout,
    /// `pg_restore`, which reads along.
    reader: Option<(Running, ChildStdin)>,
    tail: Vec<u8>,
}

impl ProgramContent {
    fn start(&self) -> Result<ProgramState, SourceError> {
        let programs = &self.shared.programs;
        let path = programs.path(self.program);
        let mut running = Running::start(&path, &self.arguments, None, Stdio::null(), Stdio::piped())?;
        let output = running.stdout();
        let output =
            output.ok_or_else(|| failed(ErrorCode::Failure, "a program has no output".into(), None))?;
        let reader = match self.whole {
            Whole::Trailer => None,
            Whole::Archive => {
                let arguments = ["--file=/dev/null".into()];
                let path = programs.path("pg_restore");
                let mut reader = Running::start(&path, &arguments, None, Stdio::piped(), Stdio::null())?;
                reader.stdin().map(|stdin| (reader, stdin))
            }
        };
        Ok(ProgramState { running: Some(running), output, reader, tail: Vec::new() })
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, String> {
        let mut state = match self.state.take() {
            Some(state) => state,
            None => self.start().map_err(|error| error.to_string())?,
        };
        let n = loop {
            match state.output.read(buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                read => break read.map_err(|error| format!("{}: {error}", self.program))?,
            }
        };
        if n > 0 {
            // An error here is one of the reading program, which says at its end why it went.
            let passed_on =
                state.reader.as_mut().is_none_or(|(_, stdin)| stdin.write_all(&buffer[..n]).is_ok());
            if !passed_on && let Some((reader, stdin)) = state.reader.take() {
                drop(stdin);
                reader.finish()?;
                return Err(format!("pg_restore stopped reading what {} wrote", self.program));
            }
            state.tail.extend(&buffer[..n]);
            let cut = state.tail.len().saturating_sub(1024);
            state.tail.drain(..cut);
            self.state = Some(state);
            return Ok(n);
        }
        state.running.take().map_or(Ok(()), Running::finish)?;
        match (self.whole, state.reader.take()) {
            (Whole::Archive, Some((reader, stdin))) => {
                drop(stdin);
                reader
                    .finish()
                    .map_err(|error| format!("what {} wrote is not whole: {error}", self.program))?;
            }
            (Whole::Archive, None) => return Err(format!("nothing looked at what {} wrote", self.program)),
            (Whole::Trailer, _) => {
                if !state.tail.windows(TRAILER.len()).any(|window| window == TRAILER) {
                    return Err(format!("what {} wrote has no end", self.program));
                }
            }
        }
        Ok(0)
    }
}

impl ReadContent for ProgramContent {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Stretch, ContentError> {
        match self.read_some(buffer) {
            Ok(0) => {
                self.shared.set(self.part, PartOutcome::Read(None));
                Ok(Stretch::End)
            }
            Ok(n) => Ok(Stretch::Data(n)),
            Err(what) => Err(self.shared.broken(self.part, what)),
        }
    }
}

/// Rows of a table or of a part of one.
struct TableContent {
    shared: Arc<Shared>,
    part: usize,
    shown: String,
    lock: String,
    copy: String,
    state: Option<(Client, CopyOut)>,
    rows: RowSum,
}

impl TableContent {
    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, WireError> {
        if self.state.is_none() {
            let mut client = self.shared.worker()?;
            client.execute(&self.lock)?;
            let copy = client.copy_out(&self.copy, &self.rows)?;
            self.state = Some((client, copy));
        }
        let Some((client, copy)) = &mut self.state else { return Ok(0) };
        client.copy_read(copy, &mut self.rows, buffer)
    }
}

impl ReadContent for TableContent {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Stretch, ContentError> {
        match self.read_some(buffer) {
            Ok(0) => {
                self.shared.set(self.part, PartOutcome::Read(Some(self.rows.clone())));
                if let Some((client, _)) = self.state.take() {
                    self.shared.give_back(client);
                }
                Ok(Stretch::End)
            }
            Ok(n) => Ok(Stretch::Data(n)),
            Err(error) => {
                self.state = None;
                let what = format!(
                    "cannot read {}: {}",
                    self.shown,
                    super::connection::shown_name(&error.to_string())
                );
                Err(self.shared.broken(self.part, what))
            }
        }
    }
}
