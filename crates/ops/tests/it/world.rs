//! One machine for a test: a home, a repository on disk, and what it takes to open it again.

use hikae_model::{Cx, SnapshotId};
use hikae_ops::OpsError;
use hikae_ops::backup::{BackupOptions, NamedSource, backup};
use hikae_ops::hooks::Hooks;
use hikae_ops::report::BackupReport;
use hikae_ops::surroundings::Surroundings;
use hikae_repo::keys::Secret32;
use hikae_repo::slot::{Unlock, Wrap};
use hikae_repo::{InitOptions, Repo};
use hikae_source::Source;
use hikae_source::files::{FilesSettings, FilesSource};
use hikae_store::{DirectoryStore, Reserve, Store};
use hikae_testkit::system_cx;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A machine with a repository.
pub struct World {
    pub root: tempfile::TempDir,
    pub cx: Cx,
    pub repo: Arc<Repo>,
}

pub const KEY: [u8; 32] = [7; 32];

impl World {
    pub fn new() -> Self {
        let (root, cx) = (tempfile::tempdir().unwrap(), system_cx());
        let store =
            DirectoryStore::create(&root.path().join("repo"), Reserve::Bytes(0), cx.random_source()).unwrap();
        Self::with(root, Arc::new(store))
    }

    /// The same with a repository in this store.
    pub fn of(store: Arc<dyn Store>) -> Self {
        Self::with(tempfile::tempdir().unwrap(), store)
    }

    fn with(root: tempfile::TempDir, store: Arc<dyn Store>) -> Self {
        let cx = system_cx();
        std::fs::create_dir(root.path().join("scratch")).unwrap();
        let key = Secret32::new(KEY);
        let options = InitOptions::opened_by(Wrap::KeyFile(&key));
        let new = Repo::init(store, &options, &root.path().join("cache"), &cx).unwrap();
        Self { root, cx, repo: Arc::new(new.repo) }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Opens the repository once more, as another process would, with an empty cache.
    pub fn open_afresh(&self) -> Arc<Repo> {
        let store =
            DirectoryStore::open(&self.path("repo"), Reserve::Bytes(0), self.cx.random_source()).unwrap();
        let unlock = Unlock::KeyFile(Secret32::new(KEY));
        Arc::new(Repo::open(Arc::new(store), unlock, Vec::new(), &self.path("cache-2"), &self.cx).unwrap())
    }

    pub fn around(&self) -> Surroundings {
        Surroundings {
            variables: Arc::new(|_| None),
            path: vec!["/usr/bin".into(), "/bin".into()],
            home: Some(self.root.path().to_owned()),
            user: "tester".to_owned(),
            host: "test".to_owned(),
            config: self.path("config"),
            data: self.path("data"),
            cache: self.path("cache"),
            umask: None,
            scratch: self.path("scratch"),
            zone: jiff::tz::TimeZone::UTC,
        }
    }

    pub fn backup(&self, sources: &[NamedSource]) -> Result<BackupReport, OpsError> {
        let options = BackupOptions {
            purpose: "manual".to_owned(),
            description: None,
            host: "test".to_owned(),
            epoch_days: 90,
        };
        backup(&self.repo, sources, &options, &self.cx)
    }

    /// Backs up one folder as the source `files`.
    pub fn backup_files(&self, path: &Path) -> (SnapshotId, BackupReport) {
        let report = self.backup(&[files(path)]).unwrap();
        (report.snapshots[0].id.unwrap(), report)
    }
}

pub fn named(name: &str, source: impl Source + 'static) -> NamedSource {
    let hooks = Hooks { time_limit: Duration::from_secs(5), ..Hooks::default() };
    NamedSource { name: name.to_owned(), source: Box::new(source), hooks }
}

pub fn files(path: &Path) -> NamedSource {
    let settings = FilesSettings { include: vec![path.into()], ..FilesSettings::default() };
    named("files", FilesSource::new(settings).unwrap())
}
