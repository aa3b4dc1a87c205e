//! Setting a server up so that its log is kept: what it must be told by the configuration of the source and its repository.

use super::slot_of;
use crate::OpsError;
use crate::config::{Config, RepositoryConfig, UnlockConfig};
use crate::surroundings::Surroundings;
use hikae_model::{Cx, ErrorCode};
use hikae_source::SourceError;
use hikae_source::postgresql::replication::SlotName;
use hikae_source::postgresql::without_password;
use hikae_source::postgresql_cluster::{SetupPlan, SetupWish, Upkeep, apply, plan_setup, shell_word};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// How the log is to be kept.
#[derive(Clone, Debug)]
pub struct SetupOptions {
    /// The connection of a superuser; without it, the source's own.
    pub admin: Option<String>,
    /// The server archives.
    pub archive: bool,
    /// hikae receives.
    pub stream: bool,
    /// The slot; the source's own by default.
    pub slot: Option<SlotName>,
    /// Our archiver, where the server is.
    pub hikae_wal: PathBuf,
    /// The key file of the server's user; that of the configuration by default.
    pub wal_key: Option<PathBuf>,
    /// Where the server's user may cache.
    pub wal_cache: PathBuf,
    /// After how many seconds a segment is archived though it is not full.
    pub archive_timeout: u32,
    /// What the slot may hold, in megabytes.
    pub slot_keep_mb: u32,
    /// Put our `archive_command` in the place of another's.
    pub replace: bool,
    /// Do it.
    pub apply: bool,
}

/// What a server needs, or was given.
#[derive(Clone, Debug, Serialize)]
pub struct SetupReport {
    /// The source.
    pub source: String,
    /// The server.
    pub server: String,
    /// What is right, what is to be done, and what people do.
    #[serde(flatten)]
    pub plan: SetupPlan,
    /// Whether the steps were done.
    pub applied: bool,
    /// Whether the server has to be restarted for them.
    pub restart: bool,
}

/// Works out what the server of `source` needs so that its log comes into `repository`, and does it if asked to.
///
/// # Errors
/// [`OpsError`] if the server cannot be entered, is a standby, or refuses a statement.
pub fn setup(
    config: &Config,
    source: &str,
    repository: &RepositoryConfig,
    options: &SetupOptions,
    around: &Surroundings,
    cx: &Cx,
) -> Result<SetupReport, OpsError> {
    let no_source =
        |error: crate::config::ConfigError| OpsError::refused(ErrorCode::Usage, error.to_string(), None);
    let cluster = config.source(source).map_err(no_source)?.cluster(source, around, cx)?;
    let own = cluster.connection();
    let of_source = |error: SourceError| OpsError::Source { source_name: source.to_owned(), source: error };
    let admin = match &options.admin {
        Some(text) => {
            let admin = without_password(text, None, &around.for_postgresql()).map_err(of_source)?;
            admin.to_database(&own.database)
        }
        None => own.clone(),
    };
    let mut by_hand = Vec::new();
    let archive_command = match archive_command(repository, options).filter(|_| options.archive) {
        Some(command) => {
            by_hand.extend(for_the_servers_user(repository, options));
            Some(command)
        }
        None => {
            if options.archive {
                let why = match repository.store.directory() {
                    None => {
                        "the server archives by itself only into a directory: receive the log with --by stream"
                    }
                    Some(_) => {
                        "the server archives by itself only with a key file: make one with `hikae key add --new-key-file /etc/hikae/wal.key` and give --wal-key, or receive the log with --by stream"
                    }
                };
                by_hand.push(why.to_owned());
            }
            None
        }
    };
    let slot = match (&options.slot, options.stream) {
        (Some(slot), true) => Some(slot.clone()),
        (None, true) => Some(slot_of(source).map_err(|error| {
            OpsError::refused(ErrorCode::Usage, error.to_string(), Some("name one with --slot".into()))
        })?),
        (_, false) => None,
    };
    let asked = Upkeep::ask(&admin, &own.user, cx).map_err(|error| match error {
        // Before the role is made, only another one can enter.
        SourceError::Failed { code: ErrorCode::Permission, what, .. } if options.admin.is_none() => {
            let advice = "if there is no such role yet, give --admin with a superuser's connection, as 'host=… dbname=… user=postgres'";
            SourceError::Failed { code: ErrorCode::Permission, what, advice: Some(advice.into()) }
        }
        error => error,
    });
    let upkeep = asked.map_err(of_source)?;
    let wish = SetupWish {
        role: own.user.clone(),
        database: own.database.clone(),
        read: cluster.read_by(),
        archive_command,
        slot,
        archive_timeout: options.archive_timeout,
        slot_keep_mb: options.slot_keep_mb,
        replace: options.replace,
    };
    let mut plan = plan_setup(&upkeep, own, &wish).map_err(of_source)?;
    plan.by_hand.extend(by_hand);
    if options.apply {
        apply(&plan, &admin, cx).map_err(of_source)?;
    }
    let (restart, server) = (plan.needs_restart(), own.shown());
    Ok(SetupReport { source: source.to_owned(), server, plan, applied: options.apply, restart })
}

fn key_of<'a>(repository: &'a RepositoryConfig, options: &'a SetupOptions) -> Option<&'a Path> {
    options.wal_key.as_deref().or(match &repository.unlock {
        Some(UnlockConfig::KeyFile(path)) => Some(path.as_path()),
        Some(UnlockConfig::Passphrase(_) | UnlockConfig::IdentityFile(_)) | None => None,
    })
}

/// What the server is to call for each segment; nothing without a key file.
fn archive_command(repository: &RepositoryConfig, options: &SetupOptions) -> Option<String> {
    let store = repository.store.directory()?;
    let key = key_of(repository, options)?;
    // To the server `%` begins what it puts in.
    let word = |path: &Path| shell_word(&path.to_string_lossy().replace('%', "%%"));
    Some(format!(
        "{} push --store {} --key-file {} --cache {} %p",
        word(&options.hikae_wal),
        word(store),
        word(key),
        word(&options.wal_cache)
    ))
}

/// What the server's user must be able to do.
fn for_the_servers_user(repository: &RepositoryConfig, options: &SetupOptions) -> Vec<String> {
    let store = repository.store.directory().unwrap_or(Path::new(""));
    let mut by_hand = Vec::new();
    if !options.hikae_wal.exists() {
        by_hand.push(format!("install hikae-wal as {}: it is not there", options.hikae_wal.display()));
    }
    let key = key_of(repository, options).unwrap_or(Path::new(""));
    by_hand.push(format!(
        "the server's user must write to {} and {}, and own {} (mode 0600). Better give it a key of its own, which can be taken away alone: `hikae key add --new-key-file /etc/hikae/wal.key --label archiver`, chown it, and give --wal-key. Of a repository that was made with --write-only it opens no contents",
        store.display(),
        options.wal_cache.display(),
        key.display()
    ));
    by_hand
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StoreConfig;

    #[test]
    fn a_percent_sign_of_a_path_is_none_of_the_servers() {
        let options = SetupOptions {
            admin: None,
            archive: true,
            stream: false,
            slot: None,
            hikae_wal: "/opt/hikae-wal".into(),
            wal_key: Some("/k".into()),
            wal_cache: "/var/it's".into(),
            archive_timeout: 60,
            slot_keep_mb: 1,
            replace: false,
            apply: false,
        };
        let repository = RepositoryConfig {
            store: StoreConfig::Directory("/100%p".into()),
            id: None,
            unlock: None,
            recipients: Vec::new(),
            write_only: false,
            reserve: None,
            limit: Default::default(),
            lock: None,
            prune_every: None,
            domains: Default::default(),
            offline: false,
        };
        assert_eq!(
            archive_command(&repository, &options).unwrap(),
            r"/opt/hikae-wal push --store '/100%%p' --key-file /k --cache '/var/it'\''s' %p"
        );
    }
}
