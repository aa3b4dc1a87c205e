//! Restore of a base backup: a new data directory, in which a server of the same version starts and comes to the end of the
//! backup.
//!
//! ```text
//! spaces/OID -> its directory    data -> DIR    wal -> DIR/pg_wal    links in pg_tblspc    backup_label    pg_control
//! ```
//!
//! Each step is on the disk before the next begins, and `pg_control` comes last: no server starts on a directory in which
//! anything is missing. Links of tablespaces are made here, from what was asked for; none comes out of the snapshot.
//!
//! A data directory of the same cluster can be changed instead ([`Onto::Same`]): what stands there as it should stays, pages
//! that differ are written, what is too much goes. Its `pg_control` is put aside first, so no server starts on it if that is
//! killed in the middle, and a second run completes it.

use crate::OpsError;
use crate::choice::{Choice, Landing};
use crate::delta::Standing;
use crate::report::RestoreReport;
use crate::restore::{restore_chosen, restore_over};
use hikae_model::{Cx, Entry, ErrorCode, Outcome, Problem, SnapshotId, TreePath, sabotage};
use hikae_repo::Repo;
use hikae_repo::keys::BlobClass;
use hikae_repo::reach::Named;
use hikae_repo::reader::BlobReader;
use hikae_source::SourceError;
use hikae_source::files::{Mounts, Overwrite, Target, Wanted};
pub use hikae_source::postgresql_cluster::KIND;
use hikae_source::postgresql_cluster::{ASIDE, Manifest, StandingCluster, put_aside, remove_aside};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};
use std::path::{Path, PathBuf};

/// Where a base backup is restored to.
#[derive(Clone, Debug, Default)]
pub struct ClusterTarget {
    /// The data directory.
    pub directory: PathBuf,
    /// Where tablespaces go, by number; those that are not named go beside the data directory, or where they are.
    pub tablespaces: BTreeMap<u32, PathBuf>,
    /// What may be there.
    pub onto: Onto,
}

/// What may be where a base backup is restored to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Onto {
    /// Nothing.
    #[default]
    Nothing,
    /// Another state of the same cluster, on which no server runs.
    Same,
}

/// What a restore of a base backup would do: made without writing.
#[derive(Clone, Debug, Serialize)]
pub struct ClusterPlan {
    /// What was backed up.
    pub manifest: Manifest,
    /// The new data directory.
    pub directory: PathBuf,
    /// Where each tablespace goes.
    pub tablespaces: BTreeMap<u32, PathBuf>,
    /// What is there now.
    pub onto: Onto,
    /// What to know before.
    pub notes: Vec<String>,
}

/// What a restore of a base backup did.
#[derive(Clone, Debug, Serialize)]
pub struct ClusterRestored {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// How it ended. Only if it is complete does a server start on what was restored.
    pub outcome: Outcome,
    /// The data directory.
    pub directory: PathBuf,
    /// Where each tablespace is.
    pub tablespaces: BTreeMap<u32, PathBuf>,
    /// Version of the server that it needs.
    pub server_version: String,
    /// Entries written.
    pub entries: u64,
    /// Bytes of content written.
    pub bytes: u64,
    /// Files that stood there as they should.
    pub n_kept: u64,
    /// What stood there and is not in the backup.
    pub n_removed: u64,
    /// Files that could not be restored because what is kept of them is damaged or missing.
    pub n_damaged: u64,
    /// Entries that belong to whoever restored them, because only root may give files away.
    pub n_owners_not_set: u64,
    /// What could not be restored.
    pub problems: Vec<Problem>,
    /// What to know before a server is started on it.
    pub notes: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

/// Looks whether a base backup can be restored as `target` says.
///
/// # Errors
/// [`OpsError`]: what the restore would be refused for.
pub fn plan_cluster(
    repo: &Repo,
    snapshot: SnapshotId,
    target: &ClusterTarget,
    cx: &Cx,
) -> Result<ClusterPlan, OpsError> {
    let manifest = manifest(repo, snapshot)?;
    let source = repo.snapshot(snapshot)?.record.source;
    let directory = &target.directory;
    let refuse = |what: String, advice: &str| {
        Err(OpsError::refused(ErrorCode::Usage, what, Some(advice.to_owned().into())))
    };
    let known: Vec<u32> = manifest.tablespaces.iter().map(|space| space.oid).collect();
    if let Some(oid) = target.tablespaces.keys().find(|oid| !known.contains(oid)) {
        let known: Vec<String> = known.iter().map(ToString::to_string).collect();
        let advice =
            format!("it has {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") });
        return refuse(format!("the backup has no tablespace {oid}"), &advice);
    }
    let of_source = OpsError::of_source(&source);
    let standing = match target.onto {
        Onto::Nothing => None,
        Onto::Same => StandingCluster::at(directory).map_err(&of_source)?,
    };
    if let Some(standing) = standing.as_ref().filter(|standing| {
        standing.system.to_string() != manifest.system_id && !sabotage::on("delta-onto-another")
    }) {
        let what = format!(
            "{} is of cluster {}, and the backup is of {}",
            directory.display(),
            standing.system,
            manifest.system_id
        );
        return refuse(what, "name the directory of that cluster, or a new one");
    }
    let mut beside = OsString::from(directory);
    beside.push("-tablespaces");
    let place = |oid: &u32| {
        let there = || standing.as_ref()?.tablespaces.get(oid).cloned();
        let chosen = target.tablespaces.get(oid).cloned().or_else(there);
        (*oid, chosen.unwrap_or_else(|| Path::new(&beside).join(oid.to_string())))
    };
    let tablespaces: BTreeMap<u32, PathBuf> = known.iter().map(place).collect();
    let places: Vec<&PathBuf> = tablespaces.values().chain([directory]).collect();
    for (n, place) in places.iter().enumerate() {
        if !place.is_absolute() {
            return refuse(format!("{} is not an absolute path", place.display()), "write it from / on");
        }
        let others = places.iter().enumerate().filter(|(other, _)| *other != n);
        if let Some((_, other)) = others.into_iter().find(|(_, other)| place.starts_with(other)) {
            let what = format!("{} and {} are not apart", place.display(), other.display());
            return refuse(what, "give each tablespace, and the cluster, a directory of its own");
        }
        let stands = |standing: &StandingCluster| {
            *place == directory || standing.tablespaces.values().any(|there| there == *place)
        };
        let overwrite = standing.as_ref().is_some_and(stands).then_some(Overwrite::Always);
        Target::check(place, overwrite, Mounts::Refuse, cx).map_err(&of_source)?;
    }
    let notes = notes(&manifest);
    let onto = if standing.is_some() { Onto::Same } else { Onto::Nothing };
    drop(of_source);
    Ok(ClusterPlan { manifest, directory: directory.clone(), tablespaces, onto, notes })
}

/// What to know before a server is started.
fn notes(manifest: &Manifest) -> Vec<String> {
    let mut notes = Vec::new();
    if manifest.settings.get("archive_mode").is_some_and(|mode| mode != "off") {
        notes.push(
            "the source archives its log: start this one with archive_mode = off, or it writes into the same archive"
                .to_owned(),
        );
    }
    let inside = manifest.settings.get("data_directory");
    for name in ["config_file", "hba_file", "ident_file"] {
        if let Some(path) = manifest.settings.get(name)
            && inside.is_none_or(|data| !Path::new(path).starts_with(data))
        {
            notes.push(format!("{name} was {path}, which is not in this backup"));
        }
    }
    if manifest.n_bad_pages > 0 {
        notes.push(format!("{} pages were damaged when they were backed up", manifest.n_bad_pages));
    }
    notes
}

/// Restores a base backup into a new data directory.
///
/// # Errors
/// [`OpsError`]; then there is no `pg_control` in the directory, and no server starts on it. Damage to single files stands
/// in the report, and then there is none either.
pub fn restore_cluster(
    repo: &Repo,
    snapshot: SnapshotId,
    target: &ClusterTarget,
    cx: &Cx,
) -> Result<ClusterRestored, OpsError> {
    let began = cx.elapsed();
    let ClusterPlan { manifest, directory, tablespaces, onto, mut notes } =
        plan_cluster(repo, snapshot, target, cx)?;
    let mut work = Work {
        repo,
        snapshot,
        source: repo.snapshot(snapshot)?.record.source,
        cx,
        restored: ClusterRestored {
            snapshot,
            outcome: Outcome::Complete,
            directory: directory.clone(),
            tablespaces: tablespaces.clone(),
            server_version: manifest.server_version.clone(),
            entries: 0,
            bytes: 0,
            n_kept: 0,
            n_removed: 0,
            n_damaged: 0,
            n_owners_not_set: 0,
            problems: Vec::new(),
            notes: Vec::new(),
            seconds: 0.0,
        },
    };
    if onto == Onto::Same && !sabotage::on("delta-unmarked") {
        put_aside(&directory).map_err(OpsError::of_source(&work.source))?;
    }
    for (oid, place) in &tablespaces {
        // One that was made since the backup began stands nowhere.
        let onto = if place.exists() { onto } else { Onto::Nothing };
        work.fill(&format!("spaces/{oid}"), place, onto)?;
    }
    work.fill("data", &directory, onto)?;
    work.link(&directory, &tablespaces)?;
    work.put("wal", &directory.join("pg_wal"))?;
    work.put("stop/backup_label", &directory)?;
    // For `pg_verifybackup`. Snapshots of older releases have none.
    if work.entry("stop/backup_manifest")?.is_some() {
        work.put("stop/backup_manifest", &directory)?;
    }
    if work.restored.problems.is_empty() || sabotage::on("control-in-any-case") {
        work.put("stop/pg_control", &directory.join("global"))?;
        if onto == Onto::Same {
            remove_aside(&directory).map_err(OpsError::of_source(&work.source))?;
        }
    }
    let Work { mut restored, .. } = work;
    if !restored.problems.is_empty() {
        restored.outcome = Outcome::Failed;
        notes.push(
            "global/pg_control was left out, so that no server starts on this by mistake; restore an older snapshot, or that \
             file with --path stop/pg_control to save what can be saved"
                .to_owned(),
        );
    }
    restored.notes = notes;
    restored.seconds = (cx.elapsed() - began).as_secs_f64();
    Ok(restored)
}

/// The manifest of a base backup.
///
/// # Errors
/// [`OpsError`] if it cannot be read.
pub fn manifest(repo: &Repo, snapshot: SnapshotId) -> Result<Manifest, OpsError> {
    let record = repo.snapshot(snapshot)?.record;
    let Some(blob) = record.manifest else {
        let what = format!("the snapshot of {} has no manifest", record.source);
        return Err(OpsError::refused(ErrorCode::VerificationFailed, what, None));
    };
    let json = BlobReader::new(repo)?.read(BlobClass::Metadata, blob)?;
    Manifest::parse(&json).map_err(OpsError::of_source(&record.source))
}

struct Work<'a> {
    repo: &'a Repo,
    snapshot: SnapshotId,
    source: String,
    cx: &'a Cx,
    restored: ClusterRestored,
}

impl Work<'_> {
    /// Restores what is below a directory of the snapshot into a new one, or onto what is there.
    fn fill(&mut self, path: &str, place: &Path, onto: Onto) -> Result<(), OpsError> {
        match onto {
            Onto::Nothing => {
                let target = Target::into_new(place, self.cx).map_err(OpsError::of_source(&self.source))?;
                self.restore(path, target)?;
            }
            Onto::Same => self.restore_over(path, place)?,
        }
        let Some(entry) = self.entry(path)? else { return Ok(()) };
        // PostgreSQL takes no directory that others may enter.
        let mode = std::fs::Permissions::from_mode((entry.attributes.mode | 0o700) & 0o750);
        std::fs::set_permissions(place, mode).map_err(|source| self.io("change", place, source))?;
        self.give(place, &entry)
    }

    /// Restores what is below a directory of the snapshot onto what is there.
    fn restore_over(&mut self, path: &str, place: &Path) -> Result<(), OpsError> {
        let source = self.source.clone();
        let of_source = OpsError::of_source(&source);
        let target = Target::into_existing(place, Overwrite::Always, Mounts::Refuse, self.cx);
        let target = target.map_err(&of_source)?;
        let choice = self.choose(path)?;
        let standing = Standing::look(self.repo, self.snapshot, &choice, &target, self.cx)?;
        let is_data = path == "data";
        let wanted = |path: &TreePath| match is_data {
            true if path.as_bytes() == ASIDE.as_bytes() => Wanted::Anything,
            true => standing.wanted(path),
            // Clusters of several versions may have a directory each in that of one tablespace.
            false => match (standing.wanted(path), path.as_bytes().contains(&b'/')) {
                (Wanted::Nothing, false) => Wanted::Anything,
                (wanted, _) => wanted,
            },
        };
        if !sabotage::on("delta-leaves-others") {
            self.restored.n_removed += target.remove_others(&wanted).map_err(&of_source)?;
        }
        let report = restore_over(self.repo, self.snapshot, &choice, target, &standing, self.cx)?;
        self.count(report);
        Ok(())
    }

    /// Restores a directory's content, or a file, into a directory that is there.
    fn put(&mut self, path: &str, place: &Path) -> Result<(), OpsError> {
        let target = Target::into_existing(place, Overwrite::Never, Mounts::Refuse, self.cx);
        self.restore(path, target.map_err(OpsError::of_source(&self.source))?)
    }

    fn choose(&self, path: &str) -> Result<Choice, OpsError> {
        Choice::look_up(self.repo, self.snapshot, &[path.as_bytes()], Landing::Into)
    }

    fn restore(&mut self, path: &str, target: Target) -> Result<(), OpsError> {
        let choice = self.choose(path)?;
        let report = restore_chosen(self.repo, self.snapshot, &choice, target, self.cx)?;
        self.count(report);
        Ok(())
    }

    fn count(&mut self, report: RestoreReport) {
        let restored = &mut self.restored;
        restored.entries += report.entries;
        restored.bytes += report.bytes;
        restored.n_kept += report.kept;
        restored.n_damaged += report.n_damaged;
        restored.n_owners_not_set += report.n_owners_not_set;
        restored.problems.extend(report.problems);
    }

    /// Makes the links of tablespaces.
    fn link(&self, directory: &Path, tablespaces: &BTreeMap<u32, PathBuf>) -> Result<(), OpsError> {
        let Some(owner) = self.entry("data/pg_tblspc")? else { return Ok(()) };
        for (oid, place) in tablespaces {
            let link = directory.join("pg_tblspc").join(oid.to_string());
            symlink(place, &link).map_err(|source| self.io("make", &link, source))?;
            self.give(&link, &owner)?;
        }
        Ok(())
    }

    /// Gives a thing to whom the entry belongs, if we may.
    fn give(&self, place: &Path, entry: &Entry) -> Result<(), OpsError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let (uid, gid) = (entry.attributes.uid, entry.attributes.gid);
        lchown(place, Some(uid), Some(gid)).map_err(|source| self.io("give away", place, source))
    }

    fn entry(&self, path: &str) -> Result<Option<Entry>, OpsError> {
        let record = self.repo.snapshot(self.snapshot)?.record;
        let named = Named { id: self.snapshot, record: &record };
        let Ok(path) = TreePath::parse(path) else { return Ok(None) };
        Ok(BlobReader::new(self.repo)?.entry(named, &path)?.map(|stored| stored.entry))
    }

    fn io(&self, verb: &'static str, path: &Path, source: std::io::Error) -> OpsError {
        OpsError::of_source(&self.source)(SourceError::Io { verb, path: path.to_owned(), source })
    }
}
