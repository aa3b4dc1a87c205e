//! Exports: snapshots as ordinary files, which ordinary programs open without us.
//!
//! ```text
//! snapshot -> contents -> compressed -> encrypted -> hashed -> a file without a name -> synced, named
//!                                                    sums beside it, then the signed manifest: the run is done
//! ```
//!
//! - A file has its name only when all of it is there; no file is written over. A run that was killed leaves whole files that
//!   no manifest names, and the next one takes them for its own if they are what it would write.
//! - What the configuration calls secret is exported encrypted or not at all.
//! - What an export does not keep goes only after this run's files are there, only by signed manifests, and never the newest
//!   complete export of a source.
//!
//! Contents come out of the repository as every restore reads them: this module knows names, forms and order.

mod contents;
mod folder;
pub mod form;
mod keep;
pub mod manifest;
mod sealing;

use crate::OpsError;
use crate::choice::Landing;
use crate::config::{Config, ExportConfig, SourceSettings, StoreConfig};
use crate::report::BackupReport;
use crate::stored::StoredSnapshot;
use crate::surroundings::Surroundings;
use contents::{Chosen, ContentOf, Secrets, of_io};
use form::{Form, compression_of};
use hikae_export::archive::Archive;
use hikae_export::pipeline::{Compression, Written, write_through};
use hikae_export::place::{Place, Unnamed};
use hikae_export::seal::Sealing;
use hikae_export::sums;
use hikae_export::template::{BadTemplate, Template, Values};
use hikae_model::{Advise as _, Cx, ErrorCode, Outcome, Problem, SnapshotId, TreePath, with_causes};
use hikae_repo::Repo;
use hikae_repo::retention::Retention;
use hikae_repo::snapshot::SnapshotRecord;
use hikae_repo::state::State;
use hikae_source::postgresql::differential::{self, TableName};
use hikae_source::postgresql::{self, ExportForm};
use jiff::Timestamp;
use manifest::{ExportedFile, Manifest, Original};
use serde::Serialize;
use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// What is exported, and how.
pub struct Export<'a> {
    /// Its name.
    pub name: &'a str,
    /// How.
    pub config: &'a ExportConfig,
    /// The configuration that it stands in: what is secret of a source.
    pub all: &'a Config,
}

/// What an export would write: made without writing.
#[derive(Clone, Debug, Serialize)]
pub struct ExportPlan {
    /// Name of the export.
    pub export: String,
    /// Where it goes.
    pub to: String,
    /// The files, one after the other.
    pub files: Vec<PlannedFile>,
    /// What of earlier runs would go then.
    pub goes: Vec<String>,
}

/// One file that an export would write.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedFile {
    /// Below the target.
    pub name: String,
    /// What it would hold.
    pub form: Form,
    /// How it would be compressed.
    pub compression: Compression,
    /// How it would be encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<&'static str>,
    /// Name of the source.
    pub source: String,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The moment that it shows.
    pub moment: Timestamp,
    /// Bytes of content before compression; of a part of a snapshot, those of all of it.
    pub bytes: u64,
    /// Of new rows: the table.
    #[serde(skip)]
    table: Option<TableName>,
    #[serde(skip)]
    target: TreePath,
    #[serde(skip)]
    record: Box<SnapshotRecord>,
}

impl PlannedFile {
    /// What a manifest would say of it.
    fn record(&self, bytes: u64) -> ExportedFile {
        ExportedFile {
            name: self.name.clone(),
            bytes,
            sha256: String::new(),
            form: self.form,
            compression: self.compression,
            encryption: self.encryption.map(str::to_owned),
            source: self.source.clone(),
            kind: self.record.kind.clone(),
            snapshot: self.snapshot,
            moment: self.moment,
            purpose: self.record.purpose.clone(),
            complete: self.record.complete,
            entries: 1,
            original: None,
        }
    }
}

/// What an export wrote.
#[derive(Clone, Debug, Serialize)]
pub struct ExportReport {
    /// Name of the export.
    pub export: String,
    /// Where it went.
    pub to: String,
    /// How it ended: `Failed` if nothing was written that should have been.
    pub outcome: Outcome,
    /// What was written.
    pub files: Vec<ExportedFile>,
    /// The manifest that names it; nothing if nothing was written.
    pub manifest: Option<String>,
    /// What of earlier runs was removed, by the rule of the export.
    pub removed: Vec<String>,
    /// Snapshots that were exported before, by their names then.
    pub there_already: Vec<String>,
    /// What could not be.
    pub problems: Vec<Problem>,
    /// The kind of the first failure, for the exit code.
    #[serde(skip)]
    pub code: Option<ErrorCode>,
    /// How long it took.
    pub seconds: f64,
}

impl Export<'_> {
    fn to(&self) -> Result<PathBuf, OpsError> {
        match &self.config.to {
            StoreConfig::Directory(path) => Ok(path.clone()),
            StoreConfig::S3(_) | StoreConfig::Sftp(_) => {
                let what = format!("the export {} cannot go over the network yet", self.name);
                let advice = "let it go into a directory, as a mounted one";
                Err(OpsError::refused(ErrorCode::Usage, what, Some(advice.into())))
            }
        }
    }

    fn bad_name(&self, error: &BadTemplate) -> OpsError {
        OpsError::refused(ErrorCode::Usage, format!("the export {}: {error}", self.name), None)
    }

    /// The newest complete snapshot of each of its sources, or the newest if none is complete; only of its types.
    ///
    /// # Errors
    /// [`OpsError::Refused`] if a source has none; any failure to read a record.
    pub fn newest(&self, repo: &Repo, state: &State) -> Result<Vec<SnapshotId>, OpsError> {
        let mut found = Vec::new();
        for source in &self.config.sources {
            let (mut newest, mut partial) = (None, None);
            for one in state.newest_first(Some(source)) {
                if self.is_of_type(repo, one.snapshot.id)? {
                    if one.snapshot.complete {
                        newest = Some(one.snapshot.id);
                        break;
                    }
                    partial = partial.or(Some(one.snapshot.id));
                }
            }
            found.push(newest.or(partial).ok_or_else(|| {
                let what = format!("there is no snapshot of {source} to export");
                OpsError::refused(ErrorCode::SourceMissing, what, Some("make one with `hikae backup`".into()))
            })?);
        }
        Ok(found)
    }

    /// Those of a run's snapshots that it exports.
    ///
    /// # Errors
    /// Any failure to read a record.
    pub fn of_run(&self, repo: &Repo, report: &BackupReport) -> Result<Vec<SnapshotId>, OpsError> {
        let ours = report.snapshots.iter().filter(|one| self.config.sources.contains(&one.source));
        let mut found = Vec::new();
        for id in ours.filter_map(|one| one.id) {
            if self.is_of_type(repo, id)? {
                found.push(id);
            }
        }
        Ok(found)
    }

    fn is_of_type(&self, repo: &Repo, id: SnapshotId) -> Result<bool, OpsError> {
        let types = &self.config.types;
        Ok(types.is_empty() || types.contains(&repo.snapshot(id)?.record.purpose))
    }

    /// What would be written of these snapshots.
    ///
    /// # Errors
    /// [`OpsError`]: one of them cannot be exported so.
    pub fn plan(
        &self,
        repo: &Repo,
        snapshots: &[SnapshotId],
        around: &Surroundings,
    ) -> Result<ExportPlan, OpsError> {
        let mut plan = self.plan_files(repo, snapshots, around)?;
        if let Some(retention) = &self.config.keep {
            let place = Place::open(&self.to()?, self.config.mode)?;
            let mut runs = self.manifests(&place, repo)?;
            let planned = plan.files.iter().map(|planned| planned.record(planned.bytes)).collect();
            let next = Manifest::new(self.name, planned, &around.host, repo);
            let made = next.made;
            if let Some(file) = plan.files.last() {
                runs.push((file.target.clone(), next));
            }
            let is_whole = |run: &Manifest| run.made == made || keep::is_whole(&place, run);
            let now = repo.cx().now();
            let (goes, _) = keep::plan_removal(&runs, retention, &self.config.zone(), now, &is_whole);
            plan.goes = goes.iter().flat_map(|(_, run)| &run.files).map(|file| file.name.clone()).collect();
        }
        Ok(plan)
    }

    fn plan_files(
        &self,
        repo: &Repo,
        snapshots: &[SnapshotId],
        around: &Surroundings,
    ) -> Result<ExportPlan, OpsError> {
        let to = self.to()?.display().to_string();
        let mut files = Vec::new();
        for &snapshot in snapshots {
            let tables = match repo.snapshot(snapshot)?.record {
                record if record.kind == differential::KIND => {
                    let stored = StoredSnapshot::open(repo, snapshot)?;
                    let tables = postgresql::tables_with_rows(&stored);
                    tables.map_err(OpsError::of_source(&record.source))?.into_iter().map(Some).collect()
                }
                _ => vec![None],
            };
            for table in tables {
                files.push(self.plan_one(repo, snapshot, table, around)?);
            }
        }
        Ok(ExportPlan { export: self.name.to_owned(), to, files, goes: Vec::new() })
    }

    fn plan_one(
        &self,
        repo: &Repo,
        id: SnapshotId,
        table: Option<TableName>,
        around: &Surroundings,
    ) -> Result<PlannedFile, OpsError> {
        let record = repo.snapshot(id)?.record;
        let form = Form::of(&self.config.name, &record.kind).map_err(|(what, advice)| {
            OpsError::refused(
                ErrorCode::Usage,
                format!("the export {}: {what}", self.name),
                Some(advice.into()),
            )
        })?;
        let shown = table.as_ref().map(|TableName { schema, name }| match schema.as_str() {
            "public" => name.clone(),
            schema => format!("{schema}.{name}"),
        });
        let target = self.rendered(&self.config.name, (&record, id), shown.as_deref(), around)?;
        let suffix = sealing::suffix(self.config.encrypt.as_ref());
        let target = TreePath::parse([target.as_bytes(), suffix.as_bytes()].concat())
            .map_err(|_| self.bad_name(&BadTemplate::Path { name: target.to_string() }))?;
        Ok(PlannedFile {
            name: target.to_string(),
            form,
            compression: compression_of(&self.config.name),
            encryption: sealing::kind(self.config.encrypt.as_ref()),
            source: record.source.clone(),
            snapshot: id,
            moment: record.moment,
            bytes: record.bytes,
            target,
            table,
            record: Box::new(record),
        })
    }

    fn rendered(
        &self,
        template: &Template,
        (record, id): (&SnapshotRecord, SnapshotId),
        table: Option<&str>,
        around: &Surroundings,
    ) -> Result<TreePath, OpsError> {
        let values = Values {
            source: &record.source,
            kind: &record.kind,
            purpose: &record.purpose,
            moment: record.moment,
            snapshot: &id.short(),
            export: self.name,
            host: &around.host,
            table,
        };
        template.render(&values, &self.config.zone()).map_err(|error| self.bad_name(&error))
    }

    /// Exports these snapshots. What one of them fails with stands in the report, and the others go on.
    ///
    /// # Errors
    /// [`OpsError`]: nothing was exported.
    pub fn export(
        &self,
        repo: &Repo,
        snapshots: &[SnapshotId],
        around: &Surroundings,
        cx: &Cx,
    ) -> Result<ExportReport, OpsError> {
        let began = cx.elapsed();
        let plan = self.plan_files(repo, snapshots, around)?;
        let sealing = sealing::of(self.config.encrypt.as_ref(), around, cx)?;
        let place = Place::open(&self.to()?, self.config.mode)?;
        let earlier = self.manifests(&place, repo)?;
        let run = Run { export: self, repo, place, sealing, around, cx };
        let (mut written, mut there_already, mut problems, mut code) =
            (Vec::new(), Vec::new(), Vec::new(), None);
        // Before anything of this run is there.
        plan.files.iter().try_for_each(|planned| run.place.sweep(&planned.target))?;
        for planned in &plan.files {
            if let Some(file) = run.is_there(planned, &earlier)? {
                there_already.push(file.name.clone());
                continue;
            }
            match run.write(planned) {
                Ok(file) => written.push(file),
                Err(OpsError::Cancelled(cancelled)) => return Err(cancelled.into()),
                Err(error) => {
                    cx.progress().add_problems(1);
                    code.get_or_insert(error.code());
                    let problem = Problem::new(error.code().name(), &planned.name, with_causes(&error));
                    problems.push(match error.advice() {
                        Some(advice) => problem.advise(advice),
                        None => problem,
                    });
                }
            }
        }
        let files = written.into_iter().map(|file| run.name(file)).collect::<Result<Vec<_>, _>>()?;
        let newest = plan.files.iter().filter(|planned| files.iter().any(|file| file.name == planned.name));
        let manifest = match newest.max_by_key(|planned| planned.moment) {
            Some(newest) => Some(run.put_manifest(&files, newest, around)?),
            None => None,
        };
        let mut removed = Vec::new();
        if let Some(retention) = self.config.keep.as_ref().filter(|_| problems.is_empty()) {
            let (gone, not_removed) = run.obey(retention)?;
            (removed, problems) = (gone, not_removed);
        }
        let outcome = match (problems.is_empty(), files.is_empty()) {
            (true, _) => Outcome::Complete,
            (false, _) if code.is_none() => Outcome::WithProblems,
            (false, false) => Outcome::WithProblems,
            (false, true) => Outcome::Failed,
        };
        Ok(ExportReport {
            export: plan.export,
            to: plan.to,
            outcome,
            files,
            manifest,
            removed,
            there_already,
            problems,
            code,
            seconds: (cx.elapsed() - began).as_secs_f64(),
        })
    }

    /// The manifests of earlier runs of this export, by their names without what they end with.
    fn manifests(&self, place: &Place, repo: &Repo) -> Result<Vec<(TreePath, Manifest)>, OpsError> {
        let folder = self.config.manifest.folder().unwrap_or_default();
        let folder = match folder {
            "" => None,
            folder => Some(
                TreePath::parse(folder)
                    .map_err(|_| self.bad_name(&BadTemplate::Path { name: folder.to_owned() }))?,
            ),
        };
        let mut found = Vec::new();
        for name in place.list(folder.as_ref())? {
            let Some(stem) = name.strip_suffix(JSON) else { continue };
            let path = match &folder {
                Some(folder) => folder.join(stem),
                None => TreePath::parse(stem),
            };
            let Ok(path) = path else { continue };
            let bytes = place.read(&with(&path, JSON), manifest::MAX_BYTES)?.unwrap_or_default();
            let signature = place.read(&with(&path, SIGNATURE), 64)?.unwrap_or_default();
            if let Some(manifest) = Manifest::open(&bytes, &signature, self.name, repo) {
                found.push((path, manifest));
            }
        }
        Ok(found)
    }
}

const JSON: &[u8] = b".json";
const SIGNATURE: &[u8] = b".json.sig";
const TEXT: &[u8] = b".txt";
const SUM: &[u8] = b".sha256";

/// A name with something behind it.
fn with(name: &TreePath, suffix: &[u8]) -> TreePath {
    let longer = TreePath::parse([name.as_bytes(), suffix].concat());
    // A name stays one when plain letters follow it; only its length could be too much, and then nothing is there.
    longer.unwrap_or_else(|_| name.clone())
}

/// One run of an export.
struct Run<'a> {
    export: &'a Export<'a>,
    repo: &'a Repo,
    place: Place,
    sealing: Sealing,
    around: &'a Surroundings,
    cx: &'a Cx,
}

/// PostgreSQL databases on their way out.
struct Databases<'a> {
    repo: &'a Repo,
    all: &'a Config,
    around: &'a Surroundings,
    cx: &'a Cx,
}

impl Databases<'_> {
    /// Writes one. Gives how many tables it has, or how many new rows of one.
    fn write(&self, planned: &PlannedFile, out: &mut dyn Write) -> Result<u64, OpsError> {
        let form = match (planned.form, planned.compression) {
            (Form::Sql, _) => ExportForm::Script,
            (_, Compression::None) => ExportForm::Archive,
            // Compressed once, never twice.
            _ => ExportForm::PlainArchive,
        };
        let directory = match self.all.sources.get(&planned.source).map(|source| &source.settings) {
            Some(SourceSettings::Postgresql(settings)) => settings.program_directory.as_deref(),
            _ => None,
        };
        let stored = StoredSnapshot::open(self.repo, planned.snapshot)?;
        let environment = self.around.for_postgresql();
        let of_source = OpsError::of_source(&planned.source);
        if let Some(table) = &planned.table {
            let compressed = form == ExportForm::Archive;
            return postgresql::export_rows(&stored, table, compressed, out, &environment, self.cx)
                .map_err(of_source);
        }
        postgresql::export(&stored, form, out, directory, &environment, self.cx).map_err(of_source)
    }
}

/// A file that was written and has no name yet, with its sums.
struct WrittenFile {
    record: ExportedFile,
    file: Unnamed,
    sums: Unnamed,
    target: TreePath,
}

impl Run<'_> {
    /// The file of an earlier run that is this one, if it still stands there.
    fn is_there<'m>(
        &self,
        planned: &PlannedFile,
        earlier: &'m [(TreePath, Manifest)],
    ) -> Result<Option<&'m ExportedFile>, OpsError> {
        let is_it = |file: &&ExportedFile| file.snapshot == planned.snapshot && file.name == planned.name;
        let Some(file) = earlier.iter().flat_map(|(_, manifest)| &manifest.files).find(is_it) else {
            return Ok(None);
        };
        let stat = self.place.stat(&planned.target)?;
        Ok(stat.is_some_and(|(is_folder, bytes)| is_folder || bytes == file.bytes).then_some(file))
    }

    /// Removes what the rule does not keep. Gives what went, and what could not.
    fn obey(&self, retention: &Retention) -> Result<(Vec<String>, Vec<Problem>), OpsError> {
        let Self { export, repo, place, cx, .. } = self;
        cx.progress().begin("removing old files of", export.name, 0);
        let runs = export.manifests(place, repo)?;
        let is_whole = |run: &Manifest| keep::is_whole(place, run);
        let (goes, mut problems) =
            keep::plan_removal(&runs, retention, &export.config.zone(), cx.now(), &is_whole);
        let is_going = |stem: &TreePath| goes.iter().any(|(going, _)| going == stem);
        let staying = runs.iter().filter(|(stem, _)| !is_going(stem)).flat_map(|(_, run)| &run.files);
        let named: BTreeSet<&str> = staying.map(|file| file.name.as_str()).collect();
        let mut removed = Vec::new();
        for run in goes {
            cx.check()?;
            match keep::remove(place, run, &named)? {
                Ok(names) => removed.extend(names),
                Err(problem) => problems.push(problem),
            }
        }
        Ok((removed, problems))
    }

    fn write(&self, planned: &PlannedFile) -> Result<WrittenFile, OpsError> {
        let Self { repo, place, cx, .. } = self;
        cx.progress().begin("exporting", &planned.source, planned.bytes);
        let chosen = self.chosen(planned)?;
        let mut record = planned.record(0);
        if planned.form == Form::Folder {
            let file = place.create_folder(&planned.target, cx)?;
            let filled = folder::fill(
                repo,
                &chosen,
                file.folder().unwrap_or(Path::new("")),
                planned.target.name(),
                cx,
            )?;
            (record.bytes, record.entries) = (filled.bytes, filled.files);
            let (sums, sha256) = self.put_sums(&planned.target, &filled.sums)?;
            record.sha256 = sums::hex(&sha256);
            return Ok(WrittenFile { record, file, sums, target: planned.target.clone() });
        }
        let mut file = place.create(&planned.target, cx)?;
        let (extra, written) = self.write_file(planned, &chosen, &mut file)?;
        let Written { bytes, sha256 } = written;
        let (sums, _) = self.put_sums(&planned.target, &sums::line(&sha256, planned.target.name()))?;
        (record.bytes, record.sha256) = (bytes, sums::hex(&sha256));
        (record.entries, record.original) = extra;
        Ok(WrittenFile { record, file, sums, target: planned.target.clone() })
    }

    fn write_file(
        &self,
        planned: &PlannedFile,
        chosen: &Chosen<'_>,
        out: &mut Unnamed,
    ) -> Result<((u64, Option<Original>), Written), OpsError> {
        let Self { export, repo, sealing, around, cx, .. } = self;
        let database = Databases { repo, all: export.all, around, cx };
        let (form, compression) = (planned.form, planned.compression);
        write_through(
            out,
            compression,
            sealing,
            |sink| match form {
                Form::Tar => {
                    let mut archive = Archive::new(sink);
                    chosen.each(repo, &mut |entry, content| {
                        cx.check()?;
                        cx.progress().add_entries(1);
                        archive.add(entry, content).map_err(of_io)
                    })?;
                    Ok((archive.finish().map_err(of_io)?, None))
                }
                Form::Sql | Form::Dump => Ok((database.write(planned, sink)?, None)),
                Form::File | Form::Folder => {
                    let stored = chosen.one_file(repo)?;
                    let mut content = ContentOf::open(repo, &stored)?;
                    std::io::copy(&mut content, sink).map_err(of_io)?;
                    let entry = &stored.entry;
                    let modified = entry.attributes.modified;
                    let at = Timestamp::new(modified.seconds, modified.nanoseconds as i32);
                    let original = Original {
                        path: format!("/{}", entry.path),
                        modified: at.unwrap_or_default(),
                        uid: entry.attributes.uid,
                        gid: entry.attributes.gid,
                        mode: format!("{:04o}", entry.attributes.mode),
                    };
                    // A database is more than its file.
                    Ok((1, (planned.record.kind == "files").then_some(original)))
                }
            },
            cx,
        )
    }

    fn chosen<'p>(&'p self, planned: &'p PlannedFile) -> Result<Chosen<'p>, OpsError> {
        let Export { config, all, .. } = *self.export;
        let secrets = match (config.without_secrets, &self.sealing) {
            (true, _) => Secrets::LeaveOut,
            (false, Sealing::None) => Secrets::Refuse,
            (false, _) => Secrets::Export,
        };
        let source = all.sources.get(&planned.source);
        let mut paths: Vec<&[u8]> = match planned.record.kind.as_str() {
            "files" => config.paths.iter().map(|path| path.as_os_str().as_bytes()).collect(),
            _ => Vec::new(),
        };
        // A folder of a source that is one folder is that folder.
        if let Some(SourceSettings::Files(files)) = source.map(|source| &source.settings)
            && let ([], [only], Form::Folder) = (paths.as_slice(), files.include.as_slice(), planned.form)
        {
            paths.push(only.path.as_os_str().as_bytes());
        }
        let landing = if planned.form == Form::Folder { Landing::Into } else { Landing::Below };
        let named = (planned.snapshot, &*planned.record);
        Chosen::look_up(self.repo, named, &paths, landing, secrets, source)
    }

    /// Writes the sums beside a file.
    fn put_sums(&self, of: &TreePath, sums: &[u8]) -> Result<(Unnamed, [u8; 32]), OpsError> {
        self.put(&with(of, SUM), sums)
    }

    /// Writes a small file that is called `name` later.
    fn put(&self, name: &TreePath, bytes: &[u8]) -> Result<(Unnamed, [u8; 32]), OpsError> {
        let mut file = self.place.create(name, self.cx)?;
        file.write_all(bytes).map_err(of_io)?;
        Ok((file, sums::sha256_of_bytes(bytes)))
    }

    /// Gives a written file its name, and then its sums theirs.
    fn name(&self, written: WrittenFile) -> Result<ExportedFile, OpsError> {
        let Self { place, cx, .. } = self;
        let WrittenFile { record, file, sums, target } = written;
        let path = place.path_of(&target);
        let is_same = || match record.form {
            Form::Folder => folder::sums(&path, target.name(), cx)
                .is_ok_and(|found| sums::hex(&sums::sha256_of_bytes(&found.sums)) == record.sha256),
            Form::File | Form::Tar | Form::Sql | Form::Dump => {
                place.sha256_of(&target).is_ok_and(|found| sums::hex(&found) == record.sha256)
            }
        };
        place.name(file, &is_same)?;
        // The sums of the same are the same.
        place.name(sums, &|| true)?;
        Ok(record)
    }

    fn is_taken(&self, stem: &TreePath) -> Result<bool, OpsError> {
        for suffix in [TEXT, JSON, SIGNATURE] {
            if self.place.stat(&with(stem, suffix))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Writes and signs the manifest of these files. It is called after the newest snapshot among them.
    fn put_manifest(
        &self,
        files: &[ExportedFile],
        newest: &PlannedFile,
        around: &Surroundings,
    ) -> Result<String, OpsError> {
        let Export { name, config, .. } = self.export;
        let named =
            self.export.rendered(&config.manifest, (&newest.record, newest.snapshot), None, around)?;
        // A run that had problems, or was killed in the middle of this, is gone on with by another one of the same snapshots.
        let mut stem = named.clone();
        let mut n = 1;
        while self.is_taken(&stem)? {
            n += 1;
            stem = with(&named, format!("_{n}").as_bytes());
        }
        let manifest = Manifest::new(name, files.to_vec(), &around.host, self.repo);
        let (json, signature) = manifest.sign(self.repo).map_err(|error| {
            OpsError::refused(ErrorCode::Failure, format!("cannot write the manifest: {error}"), None)
        })?;
        let text = manifest.to_text(&config.zone());
        // The signature last: without it, it is none.
        for (suffix, bytes) in [(TEXT, text.as_bytes()), (JSON, &json), (SIGNATURE, &signature)] {
            let (file, _) = self.put(&with(&stem, suffix), bytes)?;
            self.place.name(file, &|| false)?;
        }
        Ok(with(&stem, JSON).to_string())
    }
}
