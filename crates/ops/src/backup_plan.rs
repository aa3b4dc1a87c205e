//! What a backup would do now, without reading a content and without writing.
//!
//! Files are listed and held against the newest snapshot, as a backup does before it reads any; of a database its size
//! is told, for what changed in it is known only when it is read. What would end a backup ends the plan the same
//! way: it is made with an open repository, and with everything that a source is looked at for beforehand.

use crate::OpsError;
use crate::config::Config;
use crate::earlier::{Earlier, read_parent};
use crate::report::problem_of;
use crate::surroundings::Surroundings;
use hikae_model::{Advise as _, Cx, EntryKind, ErrorCode, Outcome, Problem, TreePath, sabotage};
use hikae_repo::Repo;
use hikae_source::{Item, Source};
use rustix::fs::{Access, AtFlags, CWD, accessat};
use serde::Serialize;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// What a backup would do with one source.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedSource {
    /// The source.
    pub source: String,
    /// Its kind.
    pub kind: &'static str,
    /// How a backup would end, as far as can be seen.
    pub outcome: Outcome,
    /// The files that it holds now; nothing for a database.
    pub files: Option<PlannedFiles>,
    /// Bytes of all that it holds.
    pub bytes: u64,
    /// Bytes that would be read. No more than these would be stored, and less where the repository has some of it.
    pub read_bytes: u64,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What kind of failure it would be.
    #[serde(skip)]
    pub code: Option<ErrorCode>,
}

/// Files, held against the newest snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PlannedFiles {
    /// Those that it does not have.
    pub new: u64,
    /// Those that are not as it has them.
    pub changed: u64,
    /// Those that would not be read again.
    pub unchanged: u64,
    /// Those that it has and that are not there any more.
    pub gone: u64,
}

/// Plans the backup of these sources of the configuration.
///
/// # Errors
/// Faults of the repository and cancellation. Faults of sources stand in the plan.
pub fn plan_backup(
    repo: &Repo,
    config: &Config,
    names: &[&str],
    around: &Surroundings,
    cx: &Cx,
) -> Result<Vec<PlannedSource>, OpsError> {
    let mut plan = Vec::new();
    for name in names {
        cx.check()?;
        cx.progress().begin("looking at", *name, 0);
        let planned = plan_source(repo, config, name, around, cx);
        plan.push(match planned {
            Ok(planned) => planned,
            Err(error @ (OpsError::Repo(_) | OpsError::Cancelled(_))) => return Err(error),
            Err(error) => PlannedSource {
                source: (*name).to_owned(),
                kind: config.sources.get(*name).map_or("", |source| source.settings.kind()),
                outcome: Outcome::Failed,
                files: None,
                bytes: 0,
                read_bytes: 0,
                problems: vec![problem_of(name, &error)],
                code: Some(error.code()),
            },
        });
    }
    Ok(plan)
}

fn plan_source(
    repo: &Repo,
    config: &Config,
    name: &str,
    around: &Surroundings,
    cx: &Cx,
) -> Result<PlannedSource, OpsError> {
    let of_source = OpsError::of_source(name);
    let settings = config
        .source(name)
        .map_err(|error| OpsError::refused(ErrorCode::Usage, error.to_string(), error.advice()))?;
    let mut problems = settings.require_ready(name, around, cx)?;
    let source = settings.open(name, &config.neighbours(repo, around), around, cx)?.source;
    let (files, bytes, read_bytes) = match source.size(cx).map_err(&of_source)? {
        Some(bytes) => (None, bytes, bytes),
        None => {
            let held = hold_against_parent(repo, name, &*source, cx)?;
            // The walk finds what the look found, and more.
            problems = held.problems;
            (Some(held.files), held.bytes, held.read_bytes)
        }
    };
    let outcome = if problems.is_empty() { Outcome::Complete } else { Outcome::WithProblems };
    let kind = source.kind();
    Ok(PlannedSource {
        source: name.to_owned(),
        kind,
        outcome,
        files,
        bytes,
        read_bytes,
        problems,
        code: None,
    })
}

#[derive(Default)]
struct Held {
    files: PlannedFiles,
    bytes: u64,
    read_bytes: u64,
    problems: Vec<Problem>,
}

/// Lists a source of files and holds each against the newest snapshot, as a backup would.
fn hold_against_parent(repo: &Repo, name: &str, source: &dyn Source, cx: &Cx) -> Result<Held, OpsError> {
    let of_source = OpsError::of_source(name);
    let newest = repo.follow()?.newest_first(Some(name)).first().map(|state| state.snapshot.id);
    let (parent, _) = read_parent(repo, newest);
    let mut earlier = Earlier::of(repo, parent.as_ref())?;
    let mut reading = source.begin(repo.hash_key(), cx).map_err(&of_source)?;
    let mut held = Held::default();
    while let Some(Item { entry, content }) = reading.next().map_err(&of_source)? {
        cx.check()?;
        cx.progress().add_entries(1);
        let before = earlier.find(&entry.path);
        let was_file =
            before.as_ref().is_some_and(|before| matches!(before.entry.kind, EntryKind::File { .. }));
        if content.is_none() {
            held.files.gone += u64::from(was_file);
            continue;
        }
        held.bytes += entry.size();
        match before {
            Some(before)
                if entry.looks_unchanged_since(&before.entry) && !sabotage::on("plan-reads-everything") =>
            {
                held.files.unchanged += 1;
                continue;
            }
            Some(_) if was_file => held.files.changed += 1,
            Some(_) | None => held.files.new += 1,
        }
        match may_read(&entry.path) {
            Ok(()) => held.read_bytes += entry.size(),
            Err(error) => held.problems.push(
                Problem::new("unreadable", &entry.path, error)
                    .advise("run hikae as a user who may read it, or exclude it"),
            ),
        }
    }
    held.files.gone += earlier.n_files_passed_by();
    held.problems.extend(reading.finish().map_err(&of_source)?.problems);
    Ok(held)
}

fn may_read(path: &TreePath) -> io::Result<()> {
    let path = Path::new("/").join(OsStr::from_bytes(path.as_bytes()));
    if sabotage::on("plan-may-read-all") {
        return Ok(());
    }
    Ok(accessat(CWD, &path, Access::READ_OK, AtFlags::EACCESS)?)
}
