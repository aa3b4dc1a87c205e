//! Filling the new database: definitions, rows, sequences, large objects, indexes and keys.

use super::files::{Files, incomplete};
use super::{Owners, Place, RestoreOptions, Stopwatch};
use crate::postgresql::catalog::{self, Database, literal, quote};
use crate::postgresql::connection::{Connection, shown_name};
use crate::postgresql::copy::CopyTable;
use crate::postgresql::manifest::{Manifest, SequenceRecord, TableRecord};
use crate::postgresql::programs::{Programs, Running};
use crate::postgresql::wire::{Client, CopyInError};
use crate::postgresql::{connect, wire_failed};
use crate::{NotReadBack, SourceError};
use hikae_model::Cx;
use std::ffi::OsString;
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
    pub(super) options: &'a RestoreOptions,
    pub(super) cx: &'a Cx,
}

impl Work<'_> {
    pub(super) fn fill(&self, watch: &mut Stopwatch<'_>) -> Result<(), SourceError> {
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
