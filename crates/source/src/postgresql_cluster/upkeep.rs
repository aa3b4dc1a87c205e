//! What a server says of how its log is kept: settings, what became of archiving, who may enter and how.
//!
//! It asks and judges nothing. What our role may not see is told as not seen.

use super::server::functions;
use crate::SourceError;
use crate::postgresql::{Connection, Session, failed, literal};
use hikae_model::{Cx, ErrorCode};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Settings that matter to who keeps the log.
const SETTINGS: &str = "'wal_level', 'archive_mode', 'archive_command', 'archive_library', 'archive_timeout', \
    'max_wal_senders', 'max_replication_slots', 'max_slot_wal_keep_size'";

/// What a server says of how its log is kept.
#[derive(Clone, Debug)]
pub struct Upkeep {
    /// Its version, as 150013.
    pub version_num: u32,
    /// Whether it is a standby.
    pub is_standby: bool,
    /// Whether who asked is a superuser.
    pub is_superuser: bool,
    /// Settings by name, as far as they may be seen.
    pub settings: BTreeMap<String, ServerSetting>,
    /// What became of archiving.
    pub archiver: Archiver,
    /// How long ago the oldest file was written that waits to be archived; nothing if none waits, or it may not be seen.
    pub oldest_ready: Option<Duration>,
    /// How many wait; nothing if it may not be seen.
    pub n_ready: Option<u64>,
    /// The lines of `pg_hba.conf`; nothing if they may not be seen.
    pub rules: Option<Vec<HbaRule>>,
    /// The role that was asked about; nothing if there is none of the name.
    pub role: Option<RoleRights>,
    /// Physical replication slots by name.
    pub slots: Vec<String>,
    /// Whether what is sent is encrypted.
    pub is_encrypted: bool,
    /// Our address, as the server sees it; nothing over a unix socket.
    pub our_address: Option<String>,
}

/// A setting of a server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ServerSetting {
    /// Its value, in its unit.
    pub value: String,
    /// Whether a change takes a restart.
    pub needs_restart: bool,
    /// Whether it was given where the server was started, so that `ALTER SYSTEM` cannot change it.
    pub is_fixed: bool,
}

/// `pg_stat_archiver`, with times as seconds before now.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Archiver {
    /// Calls that failed since the statistics began.
    pub n_failed: i64,
    /// The file of the last success.
    pub last_archived: Option<String>,
    /// When that was.
    pub archived_seconds_ago: Option<f64>,
    /// The file of the last failure.
    pub last_failed: Option<String>,
    /// When that was.
    pub failed_seconds_ago: Option<f64>,
}

impl Archiver {
    /// Whether the last call failed.
    pub fn is_failing(&self) -> bool {
        match (self.failed_seconds_ago, self.archived_seconds_ago) {
            (Some(failed), Some(archived)) => failed <= archived,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }
}

/// A line of `pg_hba.conf`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct HbaRule {
    /// Its number.
    pub line: u32,
    /// `local`, `host`, `hostssl` and so on.
    pub kind: String,
    /// Databases, as they stand there.
    pub databases: Vec<String>,
    /// Roles, as they stand there.
    pub users: Vec<String>,
    /// Address, if it has one.
    pub address: Option<String>,
    /// Its mask.
    pub netmask: Option<String>,
    /// How who enters by it proves who it is.
    pub method: String,
}

impl HbaRule {
    /// Whether it is for this role, by name or with all others.
    pub fn is_for(&self, role: &str) -> bool {
        self.users.iter().any(|user| user == role || user == "all")
    }
}

/// What a role may do.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RoleRights {
    /// Everything.
    pub is_superuser: bool,
    /// Enter.
    pub may_login: bool,
    /// Replicate.
    pub may_replicate: bool,
    /// See all settings.
    pub may_see_settings: bool,
    /// Begin and end a base backup.
    pub may_back_up: bool,
    /// See which files wait to be archived.
    pub may_list_ready: bool,
}

impl Upkeep {
    /// Asks the server that `connection` leads to; of roles about `role`.
    ///
    /// # Errors
    /// [`SourceError`] if it cannot be entered or does not answer.
    pub fn ask(connection: &Connection, role: &str, cx: &Cx) -> Result<Self, SourceError> {
        #[derive(Deserialize)]
        struct Told {
            is_standby: bool,
            is_superuser: bool,
            settings: BTreeMap<String, ServerSetting>,
            archiver: Archiver,
            slots: Vec<String>,
            our_address: Option<String>,
            may_list: bool,
            may_see_rules: bool,
        }
        #[derive(Deserialize)]
        struct Ready {
            n: u64,
            seconds: Option<f64>,
        }
        let mut session = Session::enter(connection, cx)?;
        let version_num = session.server_version_num();
        let told = session.rows::<Told>(
            "look at",
            &format!(
                "SELECT pg_is_in_recovery() AS is_standby,
                    (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS is_superuser,
                    (SELECT json_object_agg(name, json_build_object('value', setting,
                            'needs_restart', context = 'postmaster', 'is_fixed', source = 'command line'))
                        FROM pg_settings WHERE name IN ({SETTINGS})) AS settings,
                    (SELECT json_build_object('n_failed', failed_count,
                            'last_archived', last_archived_wal, 'last_failed', last_failed_wal,
                            'archived_seconds_ago', extract(epoch FROM clock_timestamp() - last_archived_time),
                            'failed_seconds_ago', extract(epoch FROM clock_timestamp() - last_failed_time))
                        FROM pg_stat_archiver) AS archiver,
                    (SELECT coalesce(json_agg(slot_name), '[]') FROM pg_replication_slots
                        WHERE slot_type = 'physical') AS slots,
                    host(inet_client_addr()) AS our_address,
                    has_function_privilege('pg_catalog.pg_ls_archive_statusdir()', 'EXECUTE') AS may_list,
                    has_table_privilege('pg_catalog.pg_hba_file_rules', 'SELECT')
                        AND has_function_privilege('pg_catalog.pg_hba_file_rules()', 'EXECUTE') AS may_see_rules"
            ),
        )?;
        let told = told
            .into_iter()
            .next()
            .ok_or_else(|| failed(ErrorCode::Failure, "the server says nothing of itself".into(), None))?;
        let ready = match told.may_list {
            true => session.rows::<Ready>(
                "look at",
                "SELECT count(*) AS n, extract(epoch FROM clock_timestamp() - min(modification)) AS seconds
                 FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'",
            )?,
            false => Vec::new(),
        };
        let oldest = ready.iter().filter_map(|ready| ready.seconds).next();
        let rules = match told.may_see_rules {
            true => Some(session.rows::<HbaRule>(
                "look at",
                "SELECT line_number AS line, type AS kind, database AS databases, user_name AS users, address, netmask,
                        auth_method AS method
                 FROM pg_hba_file_rules WHERE error IS NULL ORDER BY line_number",
            )?),
            false => None,
        };
        let role = rights(&mut session, role, version_num)?;
        Ok(Self {
            version_num,
            is_standby: told.is_standby,
            is_superuser: told.is_superuser,
            settings: told.settings,
            archiver: told.archiver,
            oldest_ready: oldest.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()),
            n_ready: ready.first().map(|ready| ready.n),
            rules,
            role,
            slots: told.slots,
            is_encrypted: session.is_encrypted(),
            our_address: told.our_address,
        })
    }

    /// The value of a setting; nothing if it may not be seen, or the server knows none of the name.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(|setting| setting.value.as_str())
    }
}

fn rights(session: &mut Session, role: &str, version_num: u32) -> Result<Option<RoleRights>, SourceError> {
    let (start, stop) = functions(version_num);
    let sql = format!(
        "SELECT rolsuper AS is_superuser, rolcanlogin AS may_login, rolreplication AS may_replicate,
                pg_has_role(oid, 'pg_read_all_settings', 'USAGE') AS may_see_settings,
                has_function_privilege(oid, '{start}', 'EXECUTE')
                    AND has_function_privilege(oid, '{stop}', 'EXECUTE') AS may_back_up,
                has_function_privilege(oid, 'pg_catalog.pg_ls_archive_statusdir()', 'EXECUTE') AS may_list_ready
         FROM pg_roles WHERE rolname = {}",
        literal(role)
    );
    Ok(session.rows("look at", &sql)?.into_iter().next())
}
