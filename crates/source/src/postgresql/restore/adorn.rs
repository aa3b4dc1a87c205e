//! What is written on a database itself, which no dump of it holds: settings, owner, privileges, limit, comment.

use super::Owners;
use crate::SourceError;
use crate::postgresql::catalog::{Database, literal, quote};
use crate::postgresql::connection::shown_name;
use crate::postgresql::wire::Client;
use crate::postgresql::wire_failed;
use std::collections::BTreeSet;

/// Writes on the database what a dump leaves out: settings, privileges, limit, comment.
pub(super) fn adorn(
    client: &mut Client,
    name: &str,
    database: &Database,
    owners: Owners,
    notes: &mut Vec<String>,
) -> Result<(), SourceError> {
    let rows = client.query("SELECT rolname FROM pg_roles", &[]);
    let rows = rows.map_err(|error| wire_failed("cannot ask for roles", &error))?;
    let roles: BTreeSet<String> = rows.into_iter().flatten().flatten().collect();
    let on = quote(name);
    let mut statements = Vec::new();
    for setting in &database.settings {
        let to = setting_value(&setting.name, &setting.value);
        let set = format!("SET {} TO {to}", setting_name(&setting.name));
        match &setting.role {
            None => statements.push(format!("ALTER DATABASE {on} {set}")),
            Some(role) if roles.contains(role) => {
                statements.push(format!("ALTER ROLE {} IN DATABASE {on} {set}", quote(role)));
            }
            Some(role) => {
                notes.push(format!("role {} is not here, nor its setting {}", shown_name(role), setting.name))
            }
        }
    }
    if owners == Owners::Keep
        && let Some(privileges) = &database.privileges
    {
        statements.push(format!("REVOKE ALL ON DATABASE {on} FROM PUBLIC"));
        for privilege in privileges {
            let to = match &privilege.grantee {
                None => "PUBLIC".to_owned(),
                Some(role) => quote(role),
            };
            let option = if privilege.grantable { " WITH GRANT OPTION" } else { "" };
            statements.push(format!("GRANT {} ON DATABASE {on} TO {to}{option}", privilege.privilege));
        }
    }
    if database.connection_limit >= 0 {
        statements.push(format!("ALTER DATABASE {on} CONNECTION LIMIT {}", database.connection_limit));
    }
    if let Some(comment) = &database.comment {
        statements.push(format!("COMMENT ON DATABASE {on} IS {}", literal(comment)));
    }
    for statement in statements {
        client.execute(&statement).map_err(|error| {
            wire_failed(&format!("cannot write the properties of database {}", shown_name(name)), &error)
        })?;
    }
    Ok(())
}

/// A setting's name as SQL: `work_mem`, or `"my ext"."a.b"` for one of an extension.
fn setting_name(name: &str) -> String {
    name.split('.').map(quote).collect::<Vec<_>>().join(".")
}

/// A setting's value as SQL. Lists of names are kept quoted inside (`"$user", public`) and must be taken apart, or the
/// whole would become one name. Source: `makeAlterConfigCommand` in PostgreSQL's `dumputils.c`.
fn setting_value(name: &str, value: &str) -> String {
    const LISTS: [&str; 6] = [
        "local_preload_libraries",
        "search_path",
        "session_preload_libraries",
        "shared_preload_libraries",
        "temp_tablespaces",
        "unix_socket_directories",
    ];
    if !LISTS.iter().any(|list| name.eq_ignore_ascii_case(list)) {
        return literal(value);
    }
    let mut items = vec![String::new()];
    let mut quoted = false;
    let mut chars = value.chars().peekable();
    while let Some(c) = chars.next() {
        let last = items.len() - 1;
        match c {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => items[last].push('"'),
            '"' => quoted = !quoted,
            ',' if !quoted => items.push(String::new()),
            c if !quoted && c.is_whitespace() => {}
            c => items[last].push(c),
        }
    }
    items.iter().map(|item| literal(item)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_schemas_stays_a_list() {
        for (name, value, sql) in [
            ("search_path", "\"$user\", public", "'$user', 'public'"),
            ("search_path", "\"a,b\", \"c\"\"d\"", "'a,b', 'c\"d'"),
            ("search_path", "\"\"", "''"),
            ("work_mem", "64MB", "'64MB'"),
            ("my.text", "a, b", "'a, b'"),
        ] {
            assert_eq!(setting_value(name, value), sql);
        }
    }
}
