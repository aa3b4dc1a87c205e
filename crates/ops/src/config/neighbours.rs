//! What the rest of a configuration means for its sources of files: directories that hikae fills itself are left out,
//! and SQLite databases that have a source of their own need no note.

use super::{Config, SourceSettings};
use crate::scratch;
use crate::surroundings::Surroundings;
use hikae_repo::Repo;
use hikae_source::files::Neighbours;
use std::path::PathBuf;

impl Config {
    /// What a source of files has around it in a run that writes into `repo`.
    ///
    /// The key file and the recovery sheet are not left out: who can read them in a backup has a key to it already.
    pub fn neighbours(&self, repo: &Repo, around: &Surroundings) -> Neighbours {
        let databases = self.sources.values().filter_map(|source| match &source.settings {
            SourceSettings::Sqlite(sqlite) => Some(sqlite.path.clone()),
            SourceSettings::Files(_)
            | SourceSettings::Postgresql(_)
            | SourceSettings::PostgresqlRows(_)
            | SourceSettings::PostgresqlCluster(_) => None,
        });
        Neighbours {
            own: vec![repo.store().address().into(), around.cache.clone()],
            own_beginnings: vec![
                (around.scratch.clone(), scratch::PREFIX),
                (around.scratch.clone(), hikae_source::sqlite::SCRATCH_PREFIX),
            ],
            databases: databases.collect(),
        }
    }

    /// The directories that lie in a source of files and that its backups leave out, with its name.
    pub fn own_directories(&self, around: &Surroundings) -> Vec<(&str, PathBuf)> {
        let stores = self.repositories.values().filter_map(|repository| repository.store.directory());
        let own = stores.chain([around.cache.as_path()]).filter_map(|path| std::fs::canonicalize(path).ok());
        let own: Vec<PathBuf> = own.collect();
        let mut found = Vec::new();
        for (name, source) in &self.sources {
            let SourceSettings::Files(files) = &source.settings else { continue };
            let includes =
                files.include.iter().filter_map(|include| std::fs::canonicalize(&include.path).ok());
            let includes: Vec<PathBuf> = includes.collect();
            let inside = own.iter().filter(|own| includes.iter().any(|include| own.starts_with(include)));
            found.extend(inside.map(|own| (name.as_str(), own.clone())));
        }
        found
    }
}
