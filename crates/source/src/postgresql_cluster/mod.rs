//! PostgreSQL, physically: the files of a running server between `pg_backup_start` and `pg_backup_stop`, and the log that
//! makes one state of them.
//!
//! ```text
//! data/...     the data directory, without what every server makes anew
//! spaces/OID/  each tablespace
//! stop/        backup_label, pg_control, tablespace_map: what the end of the backup gives
//! wal/         the segments from start to stop
//! ```
//!
//! - One session is held open throughout. If it ends early, or the server does, there is no snapshot.
//! - Files are read by several threads while the server writes; the log makes good for what changes meanwhile.
//! - Every page is compared with its checksum. One that is damaged is named and does not end the backup.
//! - Relations are maps of pages, so a second backup stores what changed, and every snapshot is whole.
//! - Nothing is written into the data directory of the source, and no link in it is followed but those of tablespaces.
//!
//! This module knows no repository. How a server is entered is the business of [`postgresql`](crate::postgresql).

mod arrival;
mod backup_manifest;
mod control;
mod crc32c;
mod drill;
mod manifest;
mod names;
mod page;
mod pause;
mod point;
mod postmaster;
mod preflight;
mod read;
mod reading;
mod recover;
mod segment;
mod server;
mod setup;
mod standing;
mod summaries;
mod upkeep;
mod walk;
mod whole;
mod wire;

pub use drill::{DrillOptions, DrillResult, UpTo, prepare, prove};
pub use manifest::{Manifest, Tablespace};
pub use pause::{Paused, discard, pause, paused_below, replays_from, take_over};
pub use point::{PointMade, PointMaker};
pub use recover::{Feed, Place, Reached, Recovering, recover, recover_to_read};
pub use setup::{SetupPlan, SetupStep, SetupWish, apply, calls_hikae_wal, plan_setup, shell_word};
pub use standing::{ASIDE, StandingCluster, put_aside, remove_aside};
pub use upkeep::{Archiver, HbaRule, RoleRights, ServerSetting, Upkeep};

use crate::postgresql::{
    Connection, Environment, Finding, Secret, Session, Weight, failed, without_password,
};
use crate::{Earlier, Reading, Source, SourceError};
use control::Control;
use hikae_model::{Cx, ErrorCode, HashKey, Problem, sabotage};
use server::Facts;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use walk::Root;

/// The kind of such a source.
pub const KIND: &str = "postgresql-cluster";

/// How often the data directory is compared with what the server says of it: it may write between the two looks.
const LOOKS: usize = 20;

/// How the files of a server are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadBy {
    /// By us, where they are: on the server's machine.
    #[default]
    Local,
    /// By the server, which sends them.
    Wire,
}

/// What the configuration says of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSettings {
    /// `host=... dbname=... user=...` or `postgresql://...`, without a password. Any database of the cluster will do.
    pub connection: String,
    /// How its files are read.
    #[serde(default)]
    pub read: ReadBy,
    /// Where its files are on this machine; by default where the server says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_directory: Option<PathBuf>,
    /// Where the log from start to stop is kept.
    #[serde(default)]
    pub wal: WalIn,
}

/// Where the log is kept that a base backup needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WalIn {
    /// In the snapshot.
    #[default]
    Include,
}

impl ClusterSettings {
    /// A cluster, all else by default.
    pub fn of(connection: impl Into<String>) -> Self {
        Self {
            connection: connection.into(),
            read: ReadBy::default(),
            data_directory: None,
            wal: WalIn::default(),
        }
    }

    fn data_directory_of(&self, facts: &Facts) -> Result<PathBuf, SourceError> {
        self.data_directory.clone().or_else(|| facts.data_directory.clone()).ok_or_else(|| {
            failed(
                ErrorCode::Permission,
                format!("the server does not tell role {} where its files are", facts.role),
                Some(format!(
                    "set data_directory, or let the role know:\n{}",
                    preflight::sql(facts, self.read)
                )),
            )
        })
    }
}

/// The files of one PostgreSQL server.
pub struct ClusterSource {
    settings: ClusterSettings,
    connection: Connection,
}

impl ClusterSource {
    /// The source that `settings` describe. `password` goes before any password file.
    ///
    /// # Errors
    /// [`SourceError::Setting`] if the connection string is not understood or holds a password;
    /// [`SourceError`] if a password file cannot be used.
    pub fn new(
        settings: ClusterSettings,
        password: Option<Secret>,
        environment: &Environment,
    ) -> Result<Self, SourceError> {
        if settings.read == ReadBy::Wire && settings.data_directory.is_some() {
            return Err(SourceError::Setting {
                setting: "data_directory".into(),
                why: "nothing is read there with read = \"wire\"; take one of the two away".into(),
            });
        }
        let connection = without_password(&settings.connection, password, environment)?;
        Ok(Self { settings, connection })
    }

    /// How the server is entered.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// How its files are read.
    pub fn read_by(&self) -> ReadBy {
        self.settings.read
    }

    /// Looks, without writing, at everything that a backup needs, and says how much each finding weighs.
    ///
    /// # Errors
    /// [`SourceError`] if the server does not answer at all.
    pub fn preflight(&self, cx: &Cx) -> Result<Vec<Finding>, SourceError> {
        let mut session = Session::enter(&self.connection, cx)?;
        preflight::look(&mut session, &self.connection, &self.settings, cx)
    }
}

impl Source for ClusterSource {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn check(&self, cx: &Cx) -> Result<Vec<Problem>, SourceError> {
        let wrong = self.preflight(cx)?.into_iter().filter(|finding| finding.weight != Weight::Notes);
        Ok(wrong.map(|finding| finding.problem).collect())
    }

    fn size(&self, cx: &Cx) -> Result<Option<u64>, SourceError> {
        if self.settings.read == ReadBy::Wire {
            return Ok(None); // the server says it once it begins to send
        }
        let facts = Facts::ask(&mut Session::enter(&self.connection, cx)?)?;
        let data = Arc::new(Root::open(&self.settings.data_directory_of(&facts)?)?);
        Ok(Some(walk::list(&data, facts.version_num / 10_000, facts.catalog_version)?.bytes))
    }

    fn begin(&self, key: HashKey, cx: &Cx) -> Result<Box<dyn Reading>, SourceError> {
        self.begin_after(&Earlier::NOTHING, key, cx)
    }

    fn begin_after(
        &self,
        earlier: &Earlier<'_>,
        _key: HashKey,
        cx: &Cx,
    ) -> Result<Box<dyn Reading>, SourceError> {
        Ok(match self.settings.read {
            ReadBy::Local => {
                let reading =
                    reading::ClusterReading::begin(&self.connection, &self.settings, earlier.snapshot, cx)?;
                Box::new(reading)
            }
            ReadBy::Wire => Box::new(wire::WireReading::begin(&self.connection, cx)?),
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sees that the files are those of this very server: not of another cluster, nor of a copy or a standby of it.
fn same_cluster(session: &mut Session, facts: &Facts, data: &Root) -> Result<(), SourceError> {
    let at = data.path().display().to_string();
    let other = |why: String| {
        let advice = "set data_directory to where the files of that server are, or connect to the server whose files they are";
        failed(
            ErrorCode::Forbidden,
            format!("{at} holds the files of another server: {why}"),
            Some(advice.into()),
        )
    };
    if sabotage::on("any-data-directory") {
        return Ok(());
    }
    if postmaster::is_another(session, data)? {
        return Err(other("another process runs on them than the one that was entered".into()));
    }
    for _ in 0..LOOKS {
        let bytes = control::read(data.fd()).map_err(|source| SourceError::Io {
            verb: "read",
            path: data.path().join(control::PATH),
            source,
        })?;
        let here = Control::parse(&bytes).ok_or_else(|| other("its pg_control is too short".into()))?;
        if here.system_id != facts.system_id || here.catalog_version != facts.catalog_version {
            return Err(other(format!(
                "its system identifier is {}, the server's is {}",
                here.system_id, facts.system_id
            )));
        }
        if server::control(session)? == (here.written, here.checkpoint) {
            return Ok(());
        }
    }
    Err(other(
        "its pg_control is not the one that the server writes; it may be of a standby or a copy".into(),
    ))
}
