//! What a server must be told so that nothing of its log is lost: worked out from what it says, shown, then done.
//!
//! What is right already is not touched, and what another has set up is not replaced unasked. `pg_hba.conf` and passwords
//! are for people: lines and hints are printed, nothing of them is done.

use super::ReadBy;
use super::server::functions;

use super::upkeep::{ServerSetting, Upkeep};
use crate::SourceError;
use crate::postgresql::replication::SlotName;
use crate::postgresql::{Connection, Host, Session, failed, literal, quoted};
use hikae_model::{Cx, ErrorCode, sabotage};
use serde::Serialize;
use std::path::Path;

/// Longest `archive_command` that every version takes (`MAXPGPATH`, less its NUL).
const MAX_COMMAND_BYTES: usize = 1023;

/// What a server is to do.
#[derive(Clone, Debug)]
pub struct SetupWish {
    /// The role by which the source is entered.
    pub role: String,
    /// The database that it enters.
    pub database: String,
    /// How its files are read.
    pub read: ReadBy,
    /// `archive_command`, if the server is to archive.
    pub archive_command: Option<String>,
    /// The slot, if its log is to be received.
    pub slot: Option<SlotName>,
    /// After how many seconds a segment is archived though it is not full.
    pub archive_timeout: u32,
    /// What a slot may hold at most, in megabytes.
    pub slot_keep_mb: u32,
    /// Put our `archive_command` in the place of another's.
    pub replace: bool,
}

/// What is to be done.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SetupPlan {
    /// What is right already.
    pub right: Vec<String>,
    /// What is done by SQL, in this order, in the database of the source.
    pub steps: Vec<SetupStep>,
    /// What people do.
    pub by_hand: Vec<String>,
}

/// A change.
#[derive(Clone, Debug, Serialize)]
pub struct SetupStep {
    /// What it is for.
    pub what: String,
    /// The statements.
    pub sql: Vec<String>,
    /// Whether it takes a restart of the server.
    pub restart: bool,
}

impl SetupPlan {
    /// Whether the server has to be restarted for it.
    pub fn needs_restart(&self) -> bool {
        self.steps.iter().any(|step| step.restart)
    }
}

/// Text as one word of a command line for `sh`.
pub fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@".contains(c);
    match !text.is_empty() && (text.chars().all(is_plain) || sabotage::on("shell-unquoted")) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// Works out what the server has to be told.
///
/// # Errors
/// [`SourceError::Failed`] for a standby, and for a command that no server takes.
pub fn plan_setup(
    upkeep: &Upkeep,
    connection: &Connection,
    wish: &SetupWish,
) -> Result<SetupPlan, SourceError> {
    if upkeep.is_standby {
        let advice = "set up the server that it follows";
        return Err(failed(ErrorCode::Forbidden, "the server is a standby".into(), Some(advice.into())));
    }
    let mut plan = SetupPlan::default();
    plan.role(upkeep, wish);
    let at_least = |least: u64| move |value: &str| value.parse::<u64>().is_ok_and(|value| value >= least);
    plan.setting(upkeep, "wal_level", "replica", &|level| matches!(level, "replica" | "logical"));
    // One for the log, one for a base backup, and one that the server has not noticed to be dead.
    let n_senders = if wish.read == ReadBy::Wire { 3 } else { 2 };
    plan.setting(upkeep, "max_wal_senders", "10", &at_least(n_senders));
    let most = wish.archive_timeout;
    plan.setting(upkeep, "archive_timeout", &format!("{most}s"), &|seconds| {
        seconds.parse::<u32>().is_ok_and(|seconds| (1..=most).contains(&seconds))
    });
    if let Some(command) = &wish.archive_command {
        if command.len() > MAX_COMMAND_BYTES || command.contains(['\n', '\0']) {
            let what = format!("no server takes this archive_command: {}", command.escape_debug());
            let advice = format!("choose paths without line ends, {MAX_COMMAND_BYTES} bytes in all");
            return Err(failed(ErrorCode::Usage, what, Some(advice)));
        }
        plan.setting(upkeep, "archive_mode", "on", &|mode| matches!(mode, "on" | "always"));
        plan.archive_command(upkeep, command, wish.replace);
    }
    if let Some(slot) = &wish.slot {
        let keep = format!("{}MB", wish.slot_keep_mb);
        plan.setting(upkeep, "max_slot_wal_keep_size", &keep, &|value| value != "-1");
        match upkeep.slots.iter().any(|there| *there == slot.to_string()) {
            true => plan.right.push(format!("replication slot {slot}")),
            false => plan.steps.push(SetupStep {
                what: "a replication slot that holds the log until it was received".into(),
                sql: vec![format!("SELECT pg_create_physical_replication_slot('{slot}', true)")],
                restart: false,
            }),
        }
    }
    if plan.steps.iter().any(|step| step.sql.iter().any(|sql| sql.starts_with("ALTER SYSTEM"))) {
        plan.steps.push(SetupStep {
            what: "the server reads its settings again".into(),
            sql: vec!["SELECT pg_reload_conf()".into()],
            restart: false,
        });
    }
    plan.entrance(upkeep, connection, wish);
    Ok(plan)
}

impl SetupPlan {
    fn role(&mut self, upkeep: &Upkeep, wish: &SetupWish) {
        let role = quoted(&wish.role);
        let (start, stop) = functions(upkeep.version_num);
        let mut sql = Vec::new();
        let rights = match &upkeep.role {
            None => {
                sql.push(format!("CREATE ROLE {role} LOGIN REPLICATION"));
                self.by_hand.push(format!(
                    "give the role a password, in psql: \\password {role}    and put it into ~/.pgpass (mode 0600), with `*` or a second line for the database `replication`"
                ));
                [false, wish.read == ReadBy::Wire, false]
            }
            Some(rights) if rights.is_superuser => {
                self.right.push(format!("role {role} (a superuser, which is more than it needs)"));
                return;
            }
            Some(rights) => {
                if !rights.may_login {
                    sql.push(format!("ALTER ROLE {role} LOGIN"));
                }
                if !rights.may_replicate {
                    sql.push(format!("ALTER ROLE {role} REPLICATION"));
                }
                let may_back_up = rights.may_back_up || wish.read == ReadBy::Wire;
                [rights.may_see_settings, may_back_up, rights.may_list_ready]
            }
        };
        let grants = [
            format!("GRANT pg_read_all_settings TO {role}"),
            format!("GRANT EXECUTE ON FUNCTION {start}, {stop} TO {role}"),
            format!("GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_archive_statusdir() TO {role}"),
        ];
        sql.extend(rights.into_iter().zip(grants).filter(|(has, _)| !has).map(|(_, grant)| grant));
        match sql.is_empty() {
            true => self.right.push(format!("role {role}")),
            false => self.steps.push(SetupStep {
                what: "a role that makes base backups, replicates, and reads no table".into(),
                sql,
                restart: false,
            }),
        }
    }

    fn setting(&mut self, upkeep: &Upkeep, name: &str, value: &str, is_right: &dyn Fn(&str) -> bool) {
        let Some(ServerSetting { value: now, needs_restart, is_fixed }) = upkeep.settings.get(name) else {
            self.by_hand.push(format!("see that {name} is {value}: this role may not see what it is"));
            return;
        };
        if is_right(now) {
            self.right.push(format!("{name} = {now}"));
        } else if *is_fixed {
            self.by_hand.push(format!(
                "set {name} to {value} where the server is started: its command line says {}, and goes before every file",
                if now.is_empty() { "nothing" } else { now }
            ));
        } else {
            let was = if now.is_empty() { "empty" } else { now };
            self.steps.push(SetupStep {
                what: format!("{name}, which is {was}"),
                sql: vec![format!("ALTER SYSTEM SET {name} = {}", literal(value).trim_start())],
                restart: *needs_restart,
            });
        }
    }

    fn archive_command(&mut self, upkeep: &Upkeep, command: &str, replace: bool) {
        let by_library = upkeep.setting("archive_library").filter(|library| !library.is_empty());
        let others = match (by_library, upkeep.setting("archive_command")) {
            (Some(library), _) => Some(format!("the library {library} archives")),
            (None, Some(now)) if !(now.is_empty() || now == "(disabled)" || calls_hikae_wal(now)) => {
                Some("another archive_command is set".to_owned())
            }
            _ => None,
        };
        if let Some(others) = others.filter(|_| !replace && !sabotage::on("archiving-replaced")) {
            self.by_hand.push(format!(
                "{others}, and is left as it is: to put ours in its place, give --replace; to have both, receive the log (--by stream)"
            ));
            return;
        }
        if let Some(library) = by_library {
            self.steps.push(SetupStep {
                what: format!("archive_library, which is {library} and goes before archive_command"),
                sql: vec!["ALTER SYSTEM SET archive_library = ''".into()],
                restart: false,
            });
        }
        self.setting(upkeep, "archive_command", command, &|now| now == command);
    }

    /// How the role enters.
    fn entrance(&mut self, upkeep: &Upkeep, connection: &Connection, wish: &SetupWish) {
        let is_good = |method: &str| !matches!(method, "trust" | "password" | "md5" | "ident" | "reject");
        let leads = |database: &str| {
            upkeep.rules.iter().flatten().any(|rule| {
                rule.users.contains(&wish.role)
                    && rule.databases.iter().any(|name| name == database)
                    && is_good(&rule.method)
            })
        };
        if leads("replication") && leads(&wish.database) {
            self.right.push("lines of pg_hba.conf".to_owned());
            return;
        }
        let (role, database) = (hba_word(&wish.role), hba_word(&wish.database));
        let line = match &connection.host {
            Host::Socket(_) => format!("local  {database},replication  {role}  scram-sha-256"),
            Host::Name(_) => {
                let address = match upkeep.our_address.as_deref() {
                    Some(v6) if v6.contains(':') => format!("{v6}/128"),
                    Some(v4) => format!("{v4}/32"),
                    None => "ADDRESS-OF-THIS-HOST/32".to_owned(),
                };
                format!("hostssl  {database},replication  {role}  {address}  scram-sha-256")
            }
        };
        self.by_hand.push(format!(
            "put this line into pg_hba.conf, before all others, and run SELECT pg_reload_conf():\n    {line}"
        ));
    }
}

/// A name as `pg_hba.conf` takes it for a name: what is in quotes is no keyword.
fn hba_word(name: &str) -> String {
    let is_plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    match is_plain && !matches!(name, "all" | "replication" | "sameuser" | "samerole" | "samegroup") {
        true => name.to_owned(),
        false => quoted(name),
    }
}

/// Whether a command is a call of our own program.
pub fn calls_hikae_wal(command: &str) -> bool {
    let program = match command.strip_prefix('\'') {
        Some(rest) => rest.split('\'').next(),
        None => command.split_whitespace().next(),
    };
    program.and_then(|program| Path::new(program).file_name()).is_some_and(|name| name == "hikae-wal")
}

/// Does what the plan says, by this connection, which leads to the database of the source.
///
/// # Errors
/// [`SourceError`] with the statement that the server refused; those before it are done.
pub fn apply(plan: &SetupPlan, connection: &Connection, cx: &Cx) -> Result<(), SourceError> {
    let mut session = Session::enter(connection, cx)?;
    for sql in plan.steps.iter().flat_map(|step| &step.sql) {
        if let Err(why) = session.attempt("set up", sql, &[])? {
            let advice = "give --admin with the connection of a superuser; what was done before it stays, and running it again goes on";
            let what = format!("the server refused `{sql}`: {why}");
            return Err(failed(ErrorCode::Permission, what, Some(advice.into())));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_to_the_program_as_they_are() {
        for text in ["/a/b", "a b", "it's", "$HOME `x` \\ \"", "", "*", "~", "a;b", "控え"] {
            let line = format!("printf %s {}", shell_word(text));
            let said = std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
            assert_eq!(String::from_utf8(said.stdout).unwrap(), text, "{line}");
        }
    }

    #[test]
    fn our_own_command_is_known_wherever_it_is() {
        for ours in ["hikae-wal push %p", "/usr/bin/hikae-wal push", "'/a b/hikae-wal' push %p"] {
            assert!(calls_hikae_wal(ours), "{ours}");
        }
        for other in
            ["", "/bin/true", "cp %p /hikae-wal", "test ! -f x && hikae-wal push %p", "hikae-wal2 %p"]
        {
            assert!(!calls_hikae_wal(other), "{other}");
        }
    }
}
