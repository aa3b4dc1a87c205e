//! What a server would refuse, or should never be asked, seen before anything is made.

use super::{DumpContents, DumpOptions};
use crate::SourceError;
use crate::postgresql::catalog::quote;
use crate::postgresql::connection::{Connection, shown_name};
use crate::postgresql::preflight::me;
use crate::postgresql::restore::{ANOTHER_ROLE, is_there};
use crate::postgresql::wire::{Client, WireError};
use crate::postgresql::{connect, failed, wire_failed};
use hikae_model::{Cx, ErrorCode, sabotage};
use std::collections::BTreeMap;

/// Sees whether a dump may be loaded at `into` as database `name`, and with its contents, whether the server has what it
/// needs. Gives what to know before.
///
/// # Errors
/// [`SourceError`]: what stands in the way, and what to do.
pub fn look_at_target(
    into: &Connection,
    name: &str,
    contents: Option<&DumpContents>,
    options: &DumpOptions,
    cx: &Cx,
) -> Result<Vec<String>, SourceError> {
    let mut client = connect(into, cx)?;
    let is_superuser = see_role(&mut client, into, options)?;
    if is_there(&mut client, name)? {
        let what = format!("database {} is there already", shown_name(name));
        let advice = "name another with --into-database; a dump is only loaded into a new one";
        return Err(failed(ErrorCode::Forbidden, what, Some(advice.into())));
    }
    let Some(contents) = contents else { return Ok(Vec::new()) };
    let mut notes = Vec::new();
    see_roles(&mut client, contents, is_superuser)?;
    see_extensions(&mut client, contents, is_superuser, &mut notes)?;
    let target = client.server_version_num() / 10_000;
    let origin =
        contents.server_version.as_deref().and_then(|version| version.split('.').next()?.parse().ok());
    if origin.is_some_and(|origin: u32| origin > target) {
        notes.push(format!(
            "it is of PostgreSQL {} and this server is {target}: what only the newer one knows will stop it",
            contents.server_version.as_deref().unwrap_or_default()
        ));
    }
    Ok(notes)
}

fn wire(error: WireError) -> SourceError {
    wire_failed("cannot ask the server what the role may do", &error)
}

/// What rows of a name and a yes or no say.
fn answers(rows: Vec<Vec<Option<String>>>) -> BTreeMap<String, bool> {
    let answer = |row: Vec<Option<String>>| {
        let mut row = row.into_iter().flatten();
        Some((row.next()?, row.next()? == "t"))
    };
    rows.into_iter().filter_map(answer).collect()
}

/// True for a superuser, who is refused unless that is allowed: functions of the dump run in its name when indexes and
/// constraints are made, and no check of ours knows what they do.
fn see_role(client: &mut Client, into: &Connection, options: &DumpOptions) -> Result<bool, SourceError> {
    let me = me(client).map_err(wire)?;
    let Some(me) = me else {
        return Err(failed(ErrorCode::Failure, "our own role is not in pg_roles".into(), None));
    };
    let role = shown_name(&me.name);
    let mut mighty = me.can_become.as_deref().map(|mighty| match me.superuser {
        true => "is a superuser".to_owned(),
        false => format!("can act as {}", shown_name(mighty)),
    });
    let makes_roles = "SELECT rolcreaterole FROM pg_roles WHERE rolname = session_user";
    if mighty.is_none()
        && client.server_version_num() < 160_000
        && client.value(makes_roles, &[]).map_err(wire)?.as_deref() == Some("t")
    {
        mighty = Some("may make roles, and before PostgreSQL 16 give itself any".to_owned());
    }
    if let Some(mighty) = mighty.filter(|_| !options.allow_superuser && !sabotage::on("dump-by-superuser")) {
        let what =
            format!("role {role} {mighty}, and what a dump of foreign origin brings would run in its name");
        let advice = "make one for it: CREATE ROLE loader LOGIN CREATEDB; and give --connection with that one, or add --allow-superuser if you trust who made the dump";
        return Err(failed(ErrorCode::Forbidden, what, Some(advice.into())));
    }
    let makes_databases = "SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user";
    if client.value(makes_databases, &[]).map_err(wire)?.as_deref() != Some("t") {
        let what = format!("role {} may not create databases", shown_name(&into.user));
        return Err(failed(ErrorCode::Permission, what, Some(ANOTHER_ROLE.into())));
    }
    Ok(me.superuser)
}

/// Every role that the dump names is there, and what it gives away can be given by us.
fn see_roles(client: &mut Client, contents: &DumpContents, is_superuser: bool) -> Result<(), SourceError> {
    const NO_OWNERS: &str = "leave owners and privileges out with --no-owners";
    let how = if client.server_version_num() >= 160_000 { "SET" } else { "MEMBER" };
    let rows =
        client.query(format!("SELECT rolname, pg_has_role(current_user, oid, '{how}') FROM pg_roles"), &[]);
    let known = answers(rows.map_err(wire)?);
    let missing: Vec<&String> = contents.roles.iter().filter(|role| !known.contains_key(*role)).collect();
    if !missing.is_empty() {
        let names: Vec<String> = missing.iter().map(|role| shown_name(role)).collect();
        let make: Vec<String> =
            missing.iter().map(|role| format!("CREATE ROLE {} NOLOGIN;", quote(role))).collect();
        let what = format!("the dump names roles that are not on this server: {}", names.join(", "));
        let advice = format!("make them first: {} or {NO_OWNERS}", make.join(" "));
        return Err(failed(ErrorCode::SourceMissing, what, Some(advice)));
    }
    let foreign: Vec<String> = contents
        .owners
        .iter()
        .filter(|owner| !is_superuser && known.get(*owner) != Some(&true))
        .map(|owner| shown_name(owner))
        .collect();
    if !foreign.is_empty() {
        let what = format!("the dump gives things to {}, of whom our role is no member", foreign.join(", "));
        let advice = format!("{NO_OWNERS}, or grant these roles to the one that loads");
        return Err(failed(ErrorCode::Permission, what, Some(advice)));
    }
    Ok(())
}

/// Extensions are named before anything is made if the server has not got them. Which of them a role may make is for the
/// server to say: some let more roles make more of them than PostgreSQL does.
fn see_extensions(
    client: &mut Client,
    contents: &DumpContents,
    is_superuser: bool,
    notes: &mut Vec<String>,
) -> Result<(), SourceError> {
    let rows =
        client.query("SELECT name, bool_or(trusted) FROM pg_available_extension_versions GROUP BY name", &[]);
    let rows = rows.map_err(|error| wire_failed("cannot ask for the server's extensions", &error))?;
    let available = answers(rows);
    let missing: Vec<&str> = contents
        .extensions
        .iter()
        .map(String::as_str)
        .filter(|name| !available.contains_key(*name))
        .collect();
    if !missing.is_empty() {
        let names = shown_name(&missing.join(", "));
        let major = client.server_version_num() / 10_000;
        return Err(failed(
            ErrorCode::SourceMissing,
            format!("extension {names} is not installed on this server; the dump itself is not at fault"),
            Some(format!("install the package of {names} for PostgreSQL {major}")),
        ));
    }
    let untrusted = contents.extensions.iter().filter(|name| available.get(*name) != Some(&true));
    for name in untrusted.filter(|_| !is_superuser) {
        notes.push(format!(
            "extension {} is not a trusted one: unless this server lets the role make it, only a superuser can load the dump",
            shown_name(name)
        ));
    }
    Ok(())
}
