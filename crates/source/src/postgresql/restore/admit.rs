//! What a restore would be refused for by the server, seen before anything is made.
//!
//! The role that backs up can read and nothing more, so the first restore of a well kept source meets this. This module
//! asks the server and changes nothing.

use super::create::{choose_programs, see_extensions_are_there};
use super::files::{Files, incomplete, see_files_are_there};
use super::{Owners, RestoreOptions};
use crate::postgresql::catalog::Database;
use crate::postgresql::connection::{Connection, shown_name};
use crate::postgresql::manifest::Manifest;
use crate::postgresql::programs::Environment;
use crate::postgresql::wire::Client;
use crate::postgresql::{connect, failed, wire_failed};
use crate::{SourceError, Stored};
use hikae_model::{Cx, ErrorCode};

/// Sees whether [`restore`](super::restore) would be let do its work at `into`, and with `swap_for` whether the restored
/// database could take the name of that one.
///
/// # Errors
/// [`SourceError`]: what stands in the way, and what to do.
pub fn look(
    stored: &dyn Stored,
    into: &Connection,
    options: &RestoreOptions,
    swap_for: Option<&str>,
    environment: &Environment,
    cx: &Cx,
) -> Result<(), SourceError> {
    let manifest = stored.manifest().ok_or_else(|| incomplete("it has no manifest"))?;
    let manifest = Manifest::parse(manifest)?;
    let files = Files::of(stored);
    let database: Database = files.json("database.json")?;
    see_files_are_there(&files, &manifest)?;
    let mut client = connect(into, cx)?;
    choose_programs(&client, &manifest, options, environment)?;
    see_extensions_are_there(&mut client, &database)?;
    let is_superuser = see_may_create(&mut client, into, options.database.as_deref())?;
    if !is_superuser && options.owners == Owners::Keep {
        see_owner(&mut client, &database.owner, &into.user)?;
    }
    see_live(&mut client, swap_for, is_superuser)
}

/// Sees whether a database `name` may be made at `into`, before it is known what goes into it.
///
/// # Errors
/// [`SourceError`]: what stands in the way, and what to do.
pub fn look_at_server(into: &Connection, name: Option<&str>, cx: &Cx) -> Result<(), SourceError> {
    see_may_create(&mut connect(into, cx)?, into, name).map(drop)
}

/// True for a superuser.
fn see_may_create(client: &mut Client, into: &Connection, name: Option<&str>) -> Result<bool, SourceError> {
    if let Some(name) = name
        && is_there(client, name)?
    {
        return Err(exists(name));
    }
    if ask(client, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user", &[])? {
        return Ok(true);
    }
    if !ask(client, "SELECT rolcreatedb FROM pg_roles WHERE rolname = current_user", &[])? {
        let what = format!("role {} may not create databases", shown_name(&into.user));
        return Err(failed(ErrorCode::Permission, what, Some(ANOTHER_ROLE.into())));
    }
    Ok(false)
}

/// What to do if the role of the connection may only read.
pub(in crate::postgresql) const ANOTHER_ROLE: &str = "give --connection with a role that may, as postgresql://admin@HOST/postgres; the role of the backup need only read";
/// What to do if it may not give objects to their owners.
pub(super) const NO_OWNERS: &str =
    "give --connection with a superuser or a member of all owners, or restore with --no-owners";

/// For a name that is taken.
pub(super) fn exists(name: &str) -> SourceError {
    let what = format!("database {} is there already", shown_name(name));
    let advice = "name another with --into-database; to replace the live one, leave that out and give --swap";
    failed(ErrorCode::Forbidden, what, Some(advice.into()))
}

/// What a program said, with what to do if the role may not give objects to their owners. The server says so in words
/// that changed with version 16, and programs hand on nothing else.
pub(super) fn owners_refused(error: SourceError) -> SourceError {
    match error {
        SourceError::Failed { code: ErrorCode::Failure, what, advice: None }
            if what.contains("must be member of role") || what.contains("must be able to SET ROLE") =>
        {
            failed(ErrorCode::Permission, what, Some(NO_OWNERS.into()))
        }
        error => error,
    }
}

/// Only a member of a role may give it anything.
fn see_owner(client: &mut Client, owner: &str, user: &str) -> Result<(), SourceError> {
    let is_member = match client.server_version_num() {
        160_000.. => "SELECT pg_has_role(current_user, oid, 'SET') FROM pg_roles WHERE rolname = $1",
        _ => "SELECT pg_has_role(current_user, oid, 'MEMBER') FROM pg_roles WHERE rolname = $1",
    };
    let makes_roles = "SELECT rolcreaterole FROM pg_roles WHERE rolname = current_user";
    let is_known = ask(client, "SELECT true FROM pg_roles WHERE rolname = $1", &[owner])?;
    let may = match is_known {
        true => ask(client, is_member, &[owner])?,
        false => ask(client, makes_roles, &[])?,
    };
    if may {
        return Ok(());
    }
    let (user, owner) = (shown_name(user), shown_name(owner));
    let what = match is_known {
        true => format!("role {user} is no member of {owner}, whom the database belongs to"),
        false => {
            format!("there is no role {owner}, whom the database belongs to, and {user} may not make one")
        }
    };
    Err(failed(ErrorCode::Permission, what, Some(NO_OWNERS.into())))
}

/// Only its owner may rename the live database.
fn see_live(client: &mut Client, live: Option<&str>, is_superuser: bool) -> Result<(), SourceError> {
    let Some(live) = live else { return Ok(()) };
    if !is_there(client, live)? {
        let what = format!("there is no live database {} to take the place of", shown_name(live));
        let advice = format!("restore it with --into-database {live} instead of --swap");
        return Err(failed(ErrorCode::SourceMissing, what, Some(advice)));
    }
    let owns = "SELECT pg_has_role(current_user, datdba, 'USAGE') FROM pg_database WHERE datname = $1";
    if is_superuser || ask(client, owns, &[live])? {
        return Ok(());
    }
    let what = format!("database {} belongs to another role, so it cannot be renamed", shown_name(live));
    let advice = "give --connection with its owner who may create databases, or with a superuser";
    Err(failed(ErrorCode::Permission, what, Some(advice.into())))
}

/// True if the server has a database of this name.
pub(in crate::postgresql) fn is_there(client: &mut Client, name: &str) -> Result<bool, SourceError> {
    ask(client, "SELECT true FROM pg_database WHERE datname = $1", &[name])
}

/// A question with yes or no for an answer; no row means no.
fn ask(client: &mut Client, question: &str, about: &[&str]) -> Result<bool, SourceError> {
    let answer = client.value(question, about);
    let answer = answer.map_err(|error| wire_failed("cannot ask the server what the role may do", &error))?;
    Ok(answer.as_deref() == Some("t"))
}
