//! Filling the new database: definitions, rows, sequences, large objects, indexes and keys.

use super::admit::owners_refused;
use super::files::{Files, incomplete};
use super::{Owners, Place, RestoreOptions, Stopwatch};
use crate::postgresql::catalog::{self, Database, literal, quote};
use crate::postgresql::connection::{Connection, shown_name};
use crate::postgresql::copy::CopyTable;
use crate::postgresql::differential::TableName;
use crate::postgresql::manifest::{Manifest, SequenceRecord, TableRecord};
use crate::postgresql::programs::{Programs, Running};
use crate::postgresql::wire::{Client, CopyInError, WireError};
use crate::postgresql::{connect, wire_failed};
use crate::{NotReadBack, SourceError};
use hikae_model::Cx;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;

/// What fills a new database.
pub(super) struct Work<'a> {
    pub(super) files: &'a Files<'a>,
    pub(super) manifest: &'a Manifest,
    pub(super) database: &'a Database,
    pub(super) target: Connection,
    pub(super) place: &'a Place<'a>,
    pub(super) programs: &'a Programs,
    /// Whether things go into their tablespaces, or all into the default one.
    pub(super) in_tablespaces: bool,
    pub(super) options: &'a RestoreOptions,
    pub(super) cx: &'a Cx,
}

/// What one worker writes without a pause.
struct Task<'a> {
    table: &'a TableRecord,
    files: &'a [String],
    bytes: u64,
    /// All of a table of ours: it is truncated and filled in one transaction, so that its rows are stored as long
    /// committed and nothing need look at them again. A table of an extension has rows of its own already.
    alone: bool,
}

impl Work<'_> {
    /// Does all of it. Gives what could not be done.
    pub(super) fn fill(&self, watch: &mut Stopwatch<'_>) -> Result<Vec<String>, SourceError> {
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
        let mut more = vec!["--section=post-data".to_owned(), format!("--jobs={}", self.options.jobs)];
        let (list, mut notes) = self.leave_out_keys(&schema)?;
        more.extend(list.map(|list| format!("--use-list={}", list.display())));
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        self.pg_restore(&more, Some(&schema), None)?;
        watch.lap("indexes and keys");
        notes.extend(self.fill_views(&mut client));
        self.analyse(&mut client)?;
        watch.lap("statistics");
        Ok(notes)
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
        self.write_scratch(name, &mut *self.files.open(name)?)
    }

    /// Writes a file of scratch, which programs can read.
    fn write_scratch(&self, name: &str, from: &mut dyn Read) -> Result<PathBuf, SourceError> {
        let path = self.place.scratch.join(name);
        let io_failed = |source| SourceError::Io { verb: "write", path: path.clone(), source };
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).open(&path).map_err(io_failed)?;
        std::io::copy(from, &mut file).map_err(|error| match NotReadBack::of(&error) {
            Some(_) => SourceError::not_read_back(name, &error),
            None => io_failed(error),
        })?;
        if let Some(user) = self.place.user {
            std::os::unix::fs::fchown(&file, Some(user.uid), Some(user.gid)).map_err(io_failed)?;
        }
        Ok(path)
    }

    /// For `--use-list`: everything but the foreign keys of tables that are of a later moment than those they refer to. With
    /// what is to be said of those.
    fn leave_out_keys(&self, schema: &Path) -> Result<(Option<PathBuf>, Vec<String>), SourceError> {
        let tables = &self.manifest.rolled_forward;
        if tables.is_empty() {
            return Ok((None, Vec::new()));
        }
        let path = self.programs.path("pg_restore");
        let arguments = ["--list".into(), "--".into(), schema.into()];
        let mut running = Running::start(&path, &arguments, self.place.user, Stdio::null(), Stdio::piped())?;
        let mut list = String::new();
        if let Some(mut output) = running.stdout() {
            let read = output.read_to_string(&mut list);
            read.map_err(|source| SourceError::Io {
                verb: "read the output of",
                path: path.clone(),
                source,
            })?;
        }
        running.wait(self.cx)?;
        let (kept, left_out) = split_keys(&list, tables);
        let list = self.write_scratch("without-keys.list", &mut kept.as_bytes())?;
        let note = |name: &str| {
            format!(
                "foreign key {} is not made: it may lead to rows that came after the dump",
                shown_name(name)
            )
        };
        Ok((Some(list), left_out.into_iter().map(note).collect()))
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
            format!("--dbname={}", self.target.conninfo(self.place.passfile)).into(),
        ];
        if !self.in_tablespaces {
            arguments.push("--no-tablespaces".into());
        }
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
        running.wait(self.cx).map_err(owners_refused)
    }

    /// Writes all tables, the largest first, several at once.
    fn copy_tables(&self) -> Result<(), SourceError> {
        let mut tasks = self.plan_tasks();
        tasks.sort_by_key(|task| task.bytes); // taken from the end
        let tasks = Mutex::new(tasks);
        let take = || tasks.lock().unwrap_or_else(|broken| broken.into_inner()).pop();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..self.options.jobs.get())
                .map(|_| {
                    scope.spawn(|| {
                        let mut client: Option<Client> = None;
                        while let Some(task) = take() {
                            self.cx.check()?;
                            let mut session = match client.take() {
                                Some(session) => session,
                                None => self.session()?,
                            };
                            self.copy(&mut session, &task)?;
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

    /// A table goes to one worker, unless it is more than a worker's share of all: then its files go to all of them.
    fn plan_tasks(&self) -> Vec<Task<'_>> {
        let bytes_of = |files: &[String]| -> u64 {
            files.iter().map(|file| self.files.size(&format!("tables/{file}"))).sum()
        };
        let all_bytes: u64 = self.manifest.tables.iter().map(|table| bytes_of(&table.files)).sum();
        let share_bytes = all_bytes / self.options.jobs.get() as u64;
        let mut tasks = Vec::new();
        for table in &self.manifest.tables {
            let in_parts = bytes_of(&table.files) > share_bytes && table.files.len() > 1;
            let files_each = if in_parts { 1 } else { table.files.len().max(1) };
            for files in table.files.chunks(files_each) {
                let alone = !in_parts && table.condition.is_none();
                tasks.push(Task { table, files, bytes: bytes_of(files), alone });
            }
        }
        tasks
    }

    fn copy(&self, session: &mut Client, task: &Task<'_>) -> Result<(), SourceError> {
        let Task { table, files, alone, .. } = *task;
        let copy = CopyTable {
            schema: &table.schema,
            name: &table.name,
            columns: &table.columns,
            condition: table.condition.as_deref(),
            encoding: &self.database.encoding,
        };
        let failed = |error: WireError| {
            let name = shown_name(&format!("{}.{}", table.schema, table.name));
            wire_failed(&format!("cannot write table {name}"), &error)
        };
        if alone {
            session.execute(&format!("BEGIN; TRUNCATE ONLY {}", copy.quoted())).map_err(failed)?;
        }
        for file in files {
            let name = format!("tables/{file}");
            let mut from = self.files.open(&name)?;
            // The server's count is not looked at: all rows are counted again when all are there.
            session.copy_in(copy.fill(alone), &mut from).map_err(|error| match error {
                CopyInError::Wire(error) => failed(error),
                CopyInError::Source(error) => SourceError::not_read_back(&name, &error),
            })?;
            self.cx.progress().add_entries(1);
        }
        if alone {
            session.execute("COMMIT").map_err(failed)?;
        }
        Ok(())
    }

    /// Fills materialised views. One may select from another, so those that must wait are tried again. One that cannot be
    /// filled is a note here, and found missing by the comparison: all the rest is there.
    fn fill_views(&self, client: &mut Client) -> Vec<String> {
        let mut waiting: Vec<String> = self
            .manifest
            .materialised_views
            .iter()
            .map(|view| format!("{}.{}", quote(&view.schema), quote(&view.name)))
            .collect();
        if waiting.is_empty() {
            return Vec::new();
        }
        // So that no event trigger of the database, which writes down what is done, writes down this. Who may not say so
        // has made no event triggers either.
        let _ = client.execute("SET session_replication_role = replica");
        loop {
            let before = waiting.len();
            let mut notes = Vec::new();
            waiting.retain(|view| match client.execute(&format!("REFRESH MATERIALIZED VIEW {view}")) {
                Ok(()) => false,
                Err(error) => {
                    let why = shown_name(&error.to_string());
                    notes.push(format!("materialised view {} is not filled: {why}", shown_name(view)));
                    true
                }
            });
            if waiting.is_empty() || waiting.len() == before {
                return notes;
            }
        }
    }

    /// Gathers statistics of all tables but of those that have foreign tables below them: their servers would be asked.
    fn analyse(&self, client: &mut Client) -> Result<(), SourceError> {
        let failed = |error: WireError| wire_failed("cannot gather statistics", &error);
        let tables = client.query(catalog::TABLES_TO_ANALYSE, &[]).map_err(failed)?;
        let tables: Vec<String> = tables.into_iter().flatten().flatten().collect();
        if tables.is_empty() {
            return Ok(());
        }
        client.execute(&format!("ANALYZE {}", tables.join(", "))).map_err(failed)
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

/// Parts the entries of `pg_restore --list` into those that are kept and the names of the foreign keys of `tables`.
///
/// An entry is `3401; 2606 16423 FK CONSTRAINT public orders orders_customer_fkey owner`, names as they are.
fn split_keys<'l>(list: &'l str, tables: &[TableName]) -> (String, Vec<&'l str>) {
    let (mut kept, mut left_out) = (String::new(), Vec::new());
    for line in list.lines() {
        let key = line.split_once(" FK CONSTRAINT ").filter(|_| !line.starts_with(';'));
        let of_table = key.and_then(|(_, key)| {
            tables
                .iter()
                .find_map(|TableName { schema, name }| key.strip_prefix(&format!("{schema} {name} ")))
        });
        match of_table {
            // The last word is the owner.
            Some(key) => left_out.push(key.rsplit_once(' ').map_or(key, |(name, _)| name)),
            None => kept.extend([line, "\n"]),
        }
    }
    (kept, left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_foreign_keys_of_the_tables_are_left_out() {
        let list = "; 1; FK CONSTRAINT public orders x y\n\
                    3401; 2606 16423 FK CONSTRAINT public orders orders customer fkey app\n\
                    3402; 2606 16424 FK CONSTRAINT public orders_old a_fkey app\n\
                    3403; 2606 16425 CONSTRAINT public orders orders_pkey app\n";
        let tables = [TableName { schema: "public".into(), name: "orders".into() }];
        let (kept, left_out) = split_keys(list, &tables);
        assert_eq!(left_out, ["orders customer fkey"]);
        let kept: Vec<&str> = kept.lines().map(|line| &line[..4]).collect();
        assert_eq!(kept, ["; 1;", "3402", "3403"]);
    }
}
