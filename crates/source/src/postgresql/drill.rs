//! A drill: the whole restore, in a server of its own that is made for it and gone afterwards.
//!
//! A server of its own, because on the source's server missing roles and extensions stay hidden, and because a test
//! restore on a production server has destroyed production. Globals come first, then the database, then every
//! comparison with the manifest.

use super::catalog::{Database, quote};
use super::cluster::{Cluster, ClusterOptions};
use super::manifest::Manifest;
use super::programs::Environment;
use super::reading::TRAILER;
use super::restore::{Files, Owners, PhaseTime, Place, RestoreOptions, Stopwatch, restore_at};
use super::script::{Piece, Script, Statement, Token, begins};
use super::{connect, failed, wire_failed};
use crate::check::Check;
use crate::{SourceError, Stored};
use hikae_model::{Cx, ErrorCode, HashKey, sabotage};
use std::io::Read as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// How to drill.
#[derive(Clone, Debug)]
pub struct DrillOptions {
    /// The key that hashed the rows in the manifest.
    pub key: HashKey,
    /// How many tables are written, and indexes made, at once.
    pub jobs: NonZeroUsize,
    /// Where the server's programs are, if not in one of the usual places.
    pub program_directory: Option<PathBuf>,
    /// As which user the server runs if we are root.
    pub run_as: Option<String>,
}

/// What a drill showed.
#[derive(Clone, Debug)]
pub struct DrillResult {
    /// Everything that was compared. The drill is green if all passed and there are any.
    pub checks: Vec<Check>,
    /// How long each phase took.
    pub timings: Vec<PhaseTime>,
    /// The server in which it was restored, as `15.13`.
    pub server_version: String,
    /// The server from which it came.
    pub source_version: String,
    /// Whether the server had no network at all.
    pub fenced: bool,
    /// What was left out or done differently.
    pub notes: Vec<String>,
}

impl DrillResult {
    /// True if everything that had to hold does. Nothing compared is nothing proved.
    pub fn passed(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.passed)
    }
}

/// Restores what `stored` holds in a throw-away server below `scratch` and compares it with its manifest.
///
/// # Errors
/// [`SourceError`]: it could not be restored at all, which is a drill that failed, or there is no server to do it in,
/// which is not.
pub fn drill(
    stored: &dyn Stored,
    scratch: &Path,
    options: &DrillOptions,
    environment: &Environment,
    cx: &Cx,
) -> Result<DrillResult, SourceError> {
    let manifest = stored.manifest().ok_or_else(|| {
        failed(
            ErrorCode::VerificationFailed,
            "the snapshot has no manifest, so nothing can be compared".into(),
            None,
        )
    })?;
    let manifest = Manifest::parse(manifest)?;
    let database: Database = Files::of(stored).json("database.json")?;
    let mut watch = Stopwatch::new(cx);
    // Roles are granted in the name of the source's first superuser, who may not be `postgres`: in clouds that one is
    // nobody special, and `globals.sql` makes it so.
    let cluster_options = ClusterOptions {
        major: manifest.server_version_num / 10_000,
        program_directory: options.program_directory.clone(),
        run_as: options.run_as.clone(),
        superuser: Some(database.first_superuser).filter(|name| !name.is_empty()),
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(&cluster_options, scratch, environment, cx)?;
    watch.lap("server");
    let mut notes = Vec::new();
    let checks = load_globals(&cluster, &Files::of(stored), &mut notes, cx).map_err(unrestorable)?;
    watch.lap("globals");

    let place = Place {
        into: cluster.connection(),
        scratch: cluster.directory(),
        passfile: None,
        user: cluster.user(),
    };
    let restore_options = RestoreOptions {
        key: options.key,
        database: None,
        owners: Owners::Keep,
        jobs: options.jobs,
        program_directory: options.program_directory.clone(),
    };
    let restored = restore_at(stored, &place, &restore_options, environment, cx).map_err(unrestorable)?;
    let mut timings = watch.times;
    timings.extend(restored.timings);
    notes.extend(restored.notes);
    Ok(DrillResult {
        checks: checks.into_iter().chain(restored.checks).collect(),
        timings,
        server_version: cluster.version().to_owned(),
        source_version: manifest.server_version,
        fenced: cluster.is_fenced(),
        notes,
    })
}

/// A server of ours, of the right version, with nothing else in it, did not take what is kept: then that is at fault,
/// unless the failure has a kind of its own, as a full disk.
fn unrestorable(error: SourceError) -> SourceError {
    match error {
        SourceError::Failed { code: ErrorCode::Failure, what, advice } => {
            SourceError::Failed { code: ErrorCode::VerificationFailed, what, advice }
        }
        error => error,
    }
}

/// Runs `globals.sql` statement by statement. Each must succeed, so a file that was cut short or altered is found.
fn load_globals(
    cluster: &Cluster,
    files: &Files<'_>,
    notes: &mut Vec<String>,
    cx: &Cx,
) -> Result<Vec<Check>, SourceError> {
    let broken = |what: String| failed(ErrorCode::VerificationFailed, format!("globals.sql: {what}"), None);
    let mut client = connect(cluster.connection(), cx)?;
    let mut text = Vec::new();
    let read = files.open("globals.sql")?.read_to_end(&mut text);
    read.map_err(|error| SourceError::not_read_back("globals.sql", &error))?;
    let is_whole = text.windows(TRAILER.len()).any(|window| window == TRAILER);
    if !is_whole && !sabotage::on("globals-cut-unnoticed") {
        return Err(broken("it is cut short".into()));
    }
    let mut script = Script::new(text.as_slice());
    let (mut n_roles, mut n_tablespaces) = (0_u64, 0_u64);
    while let Some(piece) = script.next().map_err(|error| broken(error.to_string()))? {
        let statement = match piece {
            Piece::CutShort { .. } if sabotage::on("globals-cut-unnoticed") => break,
            Piece::CutShort { line } => return Err(broken(format!("it is cut short at line {line}"))),
            Piece::Meta { text, .. } if text.starts_with("restrict ") || text.starts_with("unrestrict ") => {
                continue;
            }
            Piece::Meta { line, .. } => return Err(broken(format!("line {line} holds a command of psql"))),
            Piece::TooLong { line } => {
                return Err(broken(format!("line {line} begins a statement without end")));
            }
            Piece::Comment { .. } => continue,
            Piece::Statement(statement) => statement,
        };
        let tokens: Vec<Token<'_>> = statement.tokens().collect();
        if tokens.iter().any(|token| token.is("tablespace")) {
            n_tablespaces += 1; // their directories are on the source's machine
            continue;
        }
        // Roles enter this server by its socket alone, so nobody needs a password here.
        match client.execute(&without_password(&statement)) {
            // 42710: the role is there already, as `postgres` is in every new cluster.
            Err(error) if error.sqlstate() == Some("42710") => {}
            ran => {
                ran.map_err(|error| wire_failed(&format!("globals.sql, line {}", statement.line), &error))?
            }
        }
        n_roles += u64::from(begins(&tokens, &["create", "role"]));
    }
    if n_tablespaces > 0 {
        notes.push(format!("{n_tablespaces} statements about tablespaces were left out"));
    }
    // What the superuser set for its own sessions is not for ours, and it may have been locked out.
    let reset = format!(
        "ALTER ROLE {0} SUPERUSER LOGIN; ALTER ROLE {0} RESET ALL",
        quote(&cluster.connection().user)
    );
    client.execute(&reset).map_err(|error| wire_failed("cannot reset the superuser's settings", &error))?;
    let expected = if n_roles == 0 { "at least 1".to_owned() } else { n_roles.to_string() };
    Ok(vec![Check::equal("roles in globals.sql", expected, n_roles)])
}

/// `ALTER ROLE x WITH ... PASSWORD 'SCRAM-SHA-256$...' VALID UNTIL '...'` without the password and what follows it.
fn without_password(statement: &Statement) -> String {
    const MARK: &str = " PASSWORD '";
    let text = String::from_utf8_lossy(&statement.text);
    let tokens: Vec<Token<'_>> = statement.tokens().collect();
    // A role's name may hold the same words, in quotes; the option is the only one outside of them.
    let has_password =
        tokens.windows(2).any(|pair| pair[0].is("password") && matches!(pair[1], Token::Text(_)));
    match text.rfind(MARK) {
        Some(at) if has_password && begins(&tokens, &["alter", "role"]) => text[..at].to_owned(),
        _ => text.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_do_not_reach_the_throw_away_server() {
        let mut script = Script::new(
            "ALTER ROLE a WITH NOSUPERUSER LOGIN PASSWORD 'SCRAM-SHA-256$4096:x' VALID UNTIL 'infinity';\
             ALTER ROLE \"b PASSWORD 'x\" WITH LOGIN;"
                .as_bytes(),
        );
        let mut texts = Vec::new();
        while let Some(Piece::Statement(statement)) = script.next().unwrap() {
            texts.push(without_password(&statement));
        }
        assert_eq!(texts, ["ALTER ROLE a WITH NOSUPERUSER LOGIN", "ALTER ROLE \"b PASSWORD 'x\" WITH LOGIN"]);
    }
}
