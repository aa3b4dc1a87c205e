//! What each statement of a dump is, and whether it may reach a server.
//!
//! `pg_dump` writes statements of a few dozen kinds, and a dump that holds any other is refused: a list of what is
//! dangerous would never be complete. Of those kinds, the ones that reach beyond the new database are refused too, and
//! some are left out because they mean nothing in it.
//!
//! Source: `pg_dump.c`, `dumputils.c` and `pg_backup_archiver.c` of PostgreSQL 13 to 18.

use super::refusal::{Refusal, beginning};
use crate::postgresql::script::{Statement, Token, begins};
use hikae_model::sabotage;

/// What becomes of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is loaded.
    Load,
    /// Rows follow, for the table whose name stands so in the script.
    Copy { table: Vec<u8> },
    /// It brings rows itself.
    Insert { table: Vec<u8>, n_rows: u64 },
    /// It sets something for the session that a server of another version may not know.
    Setting { name: String },
    /// What comes next goes into this tablespace; empty for the default one.
    Tablespace { name: String },
    /// It is about a large object.
    LargeObject(Object),
    /// Nothing is lost without it, and nobody need be told.
    Drop,
    /// It is left out, and that is told.
    LeaveOut(LeftOut),
}

/// What is done with a large object. Between opening and closing one there is no other transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Object {
    Make,
    Open,
    Close,
}

/// Why a statement is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LeftOut {
    /// A new database has nothing to drop.
    Drops,
    /// A copy that subscribed like the original would use up the original's slot.
    Subscription,
    /// It is written on a database of the dump's name, which may be another.
    DatabaseComment,
    /// As was asked for.
    Owner,
    /// As was asked for.
    Privilege,
}

impl Verdict {
    /// True if the server is to see the statement.
    pub(super) fn is_loaded(&self) -> bool {
        !matches!(self, Self::Drop | Self::LeaveOut(_))
    }
}

impl LeftOut {
    /// For people, after `n statements:`.
    pub(super) fn why(self) -> &'static str {
        match self {
            Self::Drops => "they drop what a new database does not have (--clean)",
            Self::Subscription => "subscriptions are not made, so that a copy pulls from nobody",
            Self::DatabaseComment => "they are about a database by the dump's own name for it",
            Self::Owner => "owners, as asked for",
            Self::Privilege => "privileges, as asked for",
        }
    }
}

/// Languages whose functions can do no more than the role that calls them. Source: the `TRUSTED` ones of PostgreSQL and
/// of the better known extensions.
const TRUSTED_LANGUAGES: [&str; 9] =
    ["sql", "plpgsql", "plperl", "pltcl", "plv8", "plcoffee", "plls", "pllua", "plrust"];

/// What a dump sets for its session.
const SETTINGS: [&str; 16] = [
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "transaction_timeout",
    "client_encoding",
    "standard_conforming_strings",
    "check_function_bodies",
    "xmloption",
    "client_min_messages",
    "escape_string_warning",
    "row_security",
    "search_path",
    "default_table_access_method",
    "default_with_oids",
    "default_toast_compression",
];

/// What `CREATE` makes within a database, by the first words after it.
const CREATED: [&[&str]; 35] = [
    &["table"],
    &["unlogged", "table"],
    &["foreign", "table"],
    &["index"],
    &["unique", "index"],
    &["sequence"],
    &["unlogged", "sequence"],
    &["view"],
    &["recursive", "view"],
    &["materialized", "view"],
    &["type"],
    &["domain"],
    &["function"],
    &["procedure"],
    &["aggregate"],
    &["operator"],
    &["cast"],
    &["transform"],
    &["trigger"],
    &["constraint", "trigger"],
    &["rule"],
    &["policy"],
    &["schema"],
    &["extension"],
    &["collation"],
    &["conversion"],
    &["default", "conversion"],
    &["text", "search"],
    &["foreign", "data", "wrapper"],
    &["server"],
    &["user", "mapping"],
    &["event", "trigger"],
    &["publication"],
    &["statistics"],
    &["access", "method"],
];

/// How the definition of a language begins.
const LANGUAGES: [&[&str]; 4] = [
    &["language"],
    &["procedural", "language"],
    &["trusted", "language"],
    &["trusted", "procedural", "language"],
];

/// What `ALTER` changes within a database.
const ALTERED: [&[&str]; 27] = [
    &["table"],
    &["foreign", "table"],
    &["index"],
    &["sequence"],
    &["view"],
    &["materialized", "view"],
    &["type"],
    &["domain"],
    &["function"],
    &["procedure"],
    &["aggregate"],
    &["operator"],
    &["policy"],
    &["trigger"],
    &["schema"],
    &["language"],
    &["procedural", "language"],
    &["collation"],
    &["conversion"],
    &["text", "search"],
    &["foreign", "data", "wrapper"],
    &["server"],
    &["user", "mapping"],
    &["event", "trigger"],
    &["publication"],
    &["statistics"],
    &["large", "object"],
];

/// What stands beside databases on a server, and not in one.
const OF_SERVER: [&str; 7] = ["role", "user", "group", "tablespace", "system", "parameter", "database"];

/// Functions by which a dump sets sequences, large objects and statistics.
const CALLS: [&str; 9] = [
    "set_config",
    "setval",
    "lo_create",
    "lo_open",
    "lowrite",
    "lo_close",
    "pg_restore_relation_stats",
    "pg_restore_attribute_stats",
    "pg_restore_extended_stats",
];

/// Judges one statement. `no_owners` leaves out owners and privileges.
///
/// # Errors
/// [`Refusal`]: no server may see it, nor the dump that holds it.
pub(super) fn judge(statement: &Statement, no_owners: bool) -> Result<Verdict, Refusal> {
    if statement.text.contains(&0) {
        return Err(Refusal::Malformed { line: statement.line });
    }
    // Rows stand in these, so they are not taken apart more than needed.
    let mut tokens = statement.tokens();
    if let (Some(first), Some(second)) = (tokens.next(), tokens.next())
        && first.is("insert")
        && second.is("into")
    {
        return insert(statement).ok_or_else(|| unknown(statement));
    }
    let tokens: Vec<Token<'_>> = statement.tokens().collect();
    let Some(first) = tokens.first().and_then(Token::name) else { return Err(unknown(statement)) };
    let rest = &tokens[1..];
    match first.as_str() {
        "set" => setting(statement, rest, no_owners),
        "select" => call(statement, rest),
        "copy" => copy(statement, rest),
        "create" => create(statement, rest),
        "alter" => alter(statement, rest, no_owners),
        "drop" => match is_of_server(rest) {
            true => Err(of_server(statement, rest)),
            false => Ok(Verdict::LeaveOut(LeftOut::Drops)),
        },
        "comment" | "security" => label(statement, &tokens),
        "grant" | "revoke" => privilege(statement, rest, no_owners),
        "refresh" if begins(rest, &["materialized", "view"]) => Ok(Verdict::Load),
        // pg_dump puts them around large objects; here they are within a transaction already.
        "begin" | "commit" if rest.is_empty() => Ok(Verdict::Drop),
        _ => Err(unknown(statement)),
    }
}

fn unknown(statement: &Statement) -> Refusal {
    Refusal::Unknown { line: statement.line, statement: beginning(statement) }
}

/// True if these words after a verb name a thing that is of the whole server.
fn is_of_server(rest: &[Token<'_>]) -> bool {
    let is_one = rest.first().is_some_and(|token| OF_SERVER.iter().any(|thing| token.is(thing)));
    is_one && !begins(rest, &["user", "mapping"]) || begins(rest, &["owned"])
}

fn of_server(statement: &Statement, rest: &[Token<'_>]) -> Refusal {
    let (line, text) = (statement.line, beginning(statement));
    match begins(rest, &["database"]) {
        true => Refusal::ActsOnDatabase { line, statement: text },
        false => Refusal::ActsOnServer { line, statement: text },
    }
}

fn setting(statement: &Statement, rest: &[Token<'_>], no_owners: bool) -> Result<Verdict, Refusal> {
    if begins(rest, &["session", "authorization"]) {
        return Ok(if no_owners { Verdict::LeaveOut(LeftOut::Owner) } else { Verdict::Load });
    }
    let Some(name) = rest.first().and_then(Token::name) else { return Err(unknown(statement)) };
    let is_assigned = matches!(rest.get(1), Some(Token::Sign(b'=')));
    match name.as_str() {
        "standard_conforming_strings" => match rest {
            [_, Token::Sign(b'='), value] if value.is("on") => Ok(Verdict::Load),
            _ => Err(Refusal::Ambiguous { line: statement.line }),
        },
        "default_tablespace" if is_assigned => match rest.get(2) {
            Some(Token::Text(b"")) if rest.len() == 3 => Ok(Verdict::Tablespace { name: String::new() }),
            Some(value) if rest.len() == 3 => {
                Ok(Verdict::Tablespace { name: value.name().ok_or_else(|| unknown(statement))? })
            }
            _ => Err(unknown(statement)),
        },
        name if is_assigned && SETTINGS.contains(&name) => Ok(Verdict::Setting { name: name.to_owned() }),
        _ => Err(unknown(statement)),
    }
}

/// `SELECT pg_catalog.setval('x', 1, true)` and its like: one call, whose arguments are values.
fn call(statement: &Statement, rest: &[Token<'_>]) -> Result<Verdict, Refusal> {
    let rest = match rest {
        [Token::Sign(b'*'), from, rest @ ..] if from.is("from") => rest,
        rest => rest,
    };
    // Of all that --clean makes vanish, the one thing without a DROP.
    if matches!(rest, [_, Token::Sign(b'.'), unlink, ..] if unlink.is("lo_unlink")) {
        return Ok(Verdict::LeaveOut(LeftOut::Drops));
    }
    let [schema, Token::Sign(b'.'), function, Token::Sign(b'('), arguments @ .., Token::Sign(b')')] = rest
    else {
        return Err(unknown(statement));
    };
    let function = function.name().unwrap_or_default();
    let is_nested = arguments.iter().any(|token| matches!(token, Token::Sign(b'(' | b')')));
    if !schema.is("pg_catalog") || is_nested || !CALLS.contains(&function.as_str()) {
        return Err(unknown(statement));
    }
    // What is set by a call is set by SET as well, and judged there.
    let sets_other = function == "set_config" && !matches!(arguments, [Token::Text(b"search_path"), ..]);
    match function.as_str() {
        _ if sets_other => Err(unknown(statement)),
        "lo_create" => Ok(Verdict::LargeObject(Object::Make)),
        "lo_open" => Ok(Verdict::LargeObject(Object::Open)),
        "lo_close" => Ok(Verdict::LargeObject(Object::Close)),
        _ => Ok(Verdict::Load),
    }
}

fn copy(statement: &Statement, rest: &[Token<'_>]) -> Result<Verdict, Refusal> {
    let refusal = || Refusal::ServerSide { line: statement.line, statement: beginning(statement) };
    let [target @ .., from, stdin] = rest else { return Err(refusal()) };
    if sabotage::on("copy-believed") {
        return Ok(Verdict::Load);
    }
    if !from.is("from") || !stdin.is("stdin") {
        return Err(refusal());
    }
    let columns = target.iter().position(|token| *token == Token::Sign(b'(')).unwrap_or(target.len());
    let (name, columns) = target.split_at(columns);
    let is_list = columns.is_empty()
        || columns.ends_with(&[Token::Sign(b')')])
            && columns[1..columns.len() - 1]
                .iter()
                .all(|token| matches!(token, Token::Word(_) | Token::Name(_) | Token::Sign(b',')));
    if !is_name(name) || !is_list {
        return Err(unknown(statement));
    }
    let mut tokens = statement.tokens();
    tokens.next();
    Ok(Verdict::Copy { table: name_text(statement, tokens.position(), name.len()) })
}

/// True for `a` and `a.b`.
fn is_name(tokens: &[Token<'_>]) -> bool {
    let is_part = |token: &Token<'_>| matches!(token, Token::Word(_) | Token::Name(_));
    match tokens {
        [name] => is_part(name),
        [schema, Token::Sign(b'.'), name] => is_part(schema) && is_part(name),
        _ => false,
    }
}

/// The text of `n_tokens` tokens from `start` on.
fn name_text(statement: &Statement, start: usize, n_tokens: usize) -> Vec<u8> {
    let mut tokens = crate::postgresql::script::Tokens::of(&statement.text[start..]);
    tokens.by_ref().take(n_tokens).for_each(drop);
    statement.text[start..start + tokens.position()].trim_ascii().to_vec()
}

/// `INSERT INTO t (a, b) VALUES (...), (...)`.
fn insert(statement: &Statement) -> Option<Verdict> {
    let mut tokens = statement.tokens();
    tokens.by_ref().take(2).for_each(drop);
    let start = tokens.position();
    let mut n_name = 1;
    tokens.next()?.name()?;
    let mut next = tokens.next()?;
    if next == Token::Sign(b'.') {
        tokens.next()?.name()?;
        n_name = 3;
        next = tokens.next()?;
    }
    let table = name_text(statement, start, n_name);
    let (mut depth, mut n_rows, mut in_values) = (0_u32, 0, false);
    let mut token = Some(next);
    while let Some(at) = token {
        match at {
            Token::Sign(b'(') => {
                n_rows += u64::from(in_values && depth == 0);
                depth += 1;
            }
            Token::Sign(b')') => depth = depth.checked_sub(1)?,
            at if depth == 0 && at.is("values") => in_values = true,
            // A row of no columns.
            at if depth == 0 && at.is("default") => n_rows = 1,
            at if depth == 0 && at.is("select") => return None,
            at if depth == 0 && (at.is("on") || at.is("returning")) => in_values = false,
            _ => {}
        }
        token = tokens.next();
    }
    (n_rows > 0).then_some(Verdict::Insert { table, n_rows })
}

fn create(statement: &Statement, rest: &[Token<'_>]) -> Result<Verdict, Refusal> {
    let rest = if begins(rest, &["or", "replace"]) { &rest[2..] } else { rest };
    if is_of_server(rest) {
        return Err(of_server(statement, rest));
    }
    if begins(rest, &["subscription"]) {
        return Ok(Verdict::LeaveOut(LeftOut::Subscription));
    }
    // Every new database has it; dumps by pg_dump before 11, and with --clean, make it again.
    if matches!(rest, [schema, public] if schema.is("schema") && public.name().as_deref() == Some("public")) {
        return Ok(Verdict::Drop);
    }
    if begins(rest, &["function"]) || begins(rest, &["procedure"]) {
        see_language(statement, &languages_of(rest))?;
    }
    if let Some(kind) = LANGUAGES.iter().find(|kind| begins(rest, kind)) {
        see_language(statement, &rest[kind.len()..rest.len().min(kind.len() + 1)])?;
    }
    match CREATED.iter().chain(&LANGUAGES).any(|kind| begins(rest, kind)) {
        true => Ok(Verdict::Load),
        false => Err(unknown(statement)),
    }
}

/// What follows each `LANGUAGE` in the definition of a function, outside of its parameters and before its body.
fn languages_of<'a>(rest: &[Token<'a>]) -> Vec<Token<'a>> {
    let mut languages = Vec::new();
    let mut depth = 0_i32;
    for (i, token) in rest.iter().enumerate() {
        let next = rest.get(i + 1).copied();
        match token {
            Token::Sign(b'(') => depth += 1,
            Token::Sign(b')') => depth -= 1,
            _ if depth > 0 || i == 0 => {}
            // A body in SQL itself is the last thing in a definition.
            word if word.is("return") || word.is("begin") && next.is_some_and(|next| next.is("atomic")) => {
                break;
            }
            // A type of that name stands behind its schema.
            word if word.is("language") && rest[i - 1] != Token::Sign(b'.') => languages.extend(next),
            _ => {}
        }
    }
    languages
}

fn see_language(statement: &Statement, languages: &[Token<'_>]) -> Result<(), Refusal> {
    for language in languages {
        let language = match language {
            Token::Text(text) => String::from_utf8_lossy(text).to_ascii_lowercase(),
            token => token.name().unwrap_or_default(),
        };
        if !TRUSTED_LANGUAGES.contains(&language.as_str()) && !sabotage::on("languages-believed") {
            return Err(Refusal::Untrusted {
                line: statement.line,
                statement: beginning(statement),
                language,
            });
        }
    }
    Ok(())
}

fn alter(statement: &Statement, rest: &[Token<'_>], no_owners: bool) -> Result<Verdict, Refusal> {
    if begins(rest, &["default", "privileges"]) {
        return Ok(if no_owners { Verdict::LeaveOut(LeftOut::Privilege) } else { Verdict::Load });
    }
    if begins(rest, &["subscription"]) {
        return Ok(Verdict::LeaveOut(LeftOut::Subscription));
    }
    if is_of_server(rest) {
        return Err(of_server(statement, rest));
    }
    if !ALTERED.iter().any(|kind| begins(rest, kind)) {
        return Err(unknown(statement));
    }
    if let [.., owner, to, _] = rest
        && owner.is("owner")
        && to.is("to")
        && no_owners
    {
        return Ok(Verdict::LeaveOut(LeftOut::Owner));
    }
    // --clean takes constraints and defaults away before it drops their tables.
    let drops =
        |pair: &[Token<'_>]| pair[0].is("drop") && (pair[1].is("constraint") || pair[1].is("default"));
    if rest.windows(2).any(drops) {
        return Ok(Verdict::LeaveOut(LeftOut::Drops));
    }
    Ok(Verdict::Load)
}

/// `COMMENT ON ...` and `SECURITY LABEL ... ON ...`.
fn label(statement: &Statement, tokens: &[Token<'_>]) -> Result<Verdict, Refusal> {
    let Some(on) = tokens.iter().position(|token| token.is("on")) else { return Err(unknown(statement)) };
    let thing = &tokens[on + 1..];
    if begins(thing, &["database"]) {
        return Ok(Verdict::LeaveOut(LeftOut::DatabaseComment));
    }
    if begins(thing, &["subscription"]) {
        return Ok(Verdict::LeaveOut(LeftOut::Subscription));
    }
    if is_of_server(thing) {
        return Err(of_server(statement, thing));
    }
    // Written by pg_dump before 11; both have this comment in every new database, and only a superuser may write it.
    let [.., comment] = tokens else { return Err(unknown(statement)) };
    let of_template = begins(thing, &["extension", "plpgsql"])
        || begins(thing, &["schema", "public"]) && *comment == Token::Text(b"standard public schema");
    Ok(if of_template { Verdict::Drop } else { Verdict::Load })
}

fn privilege(statement: &Statement, rest: &[Token<'_>], no_owners: bool) -> Result<Verdict, Refusal> {
    let Some(on) = rest.iter().position(|token| token.is("on")) else {
        // `GRANT role TO role`
        return Err(Refusal::ActsOnServer { line: statement.line, statement: beginning(statement) });
    };
    let thing = &rest[on + 1..];
    if begins(thing, &["database"]) {
        return Ok(Verdict::LeaveOut(LeftOut::DatabaseComment));
    }
    if is_of_server(thing) {
        return Err(of_server(statement, thing));
    }
    Ok(if no_owners { Verdict::LeaveOut(LeftOut::Privilege) } else { Verdict::Load })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict_of(text: &str, no_owners: bool) -> Result<Verdict, Refusal> {
        judge(&Statement { line: 7, text: text.as_bytes().to_vec() }, no_owners)
    }

    #[track_caller]
    fn refused(text: &str) -> Refusal {
        verdict_of(text, false).expect_err(text)
    }

    #[test]
    fn what_reaches_beyond_the_new_database_is_refused() {
        for text in [
            "DROP DATABASE IF EXISTS shop",
            "CREATE DATABASE shop WITH TEMPLATE = template0",
            "create dataBase x",
            "ALTER DATABASE shop OWNER TO postgres",
        ] {
            assert!(matches!(refused(text), Refusal::ActsOnDatabase { .. }), "{text}");
        }
        for text in [
            "CREATE ROLE x SUPERUSER",
            "CREATE USER x",
            "ALTER ROLE postgres PASSWORD 'x'",
            "ALTER USER postgres SET work_mem = 1",
            "ALTER SYSTEM SET archive_command = 'sh'",
            "DROP OWNED BY x",
            "DROP ROLE x",
            "GRANT postgres TO x",
            "REVOKE a FROM b",
            "GRANT SET ON PARAMETER log_directory TO x",
            "CREATE TABLESPACE x LOCATION '/'",
            "COMMENT ON ROLE x IS ''",
            "SECURITY LABEL FOR p ON TABLESPACE x IS ''",
        ] {
            assert!(matches!(refused(text), Refusal::ActsOnServer { .. }), "{text}");
        }
        for text in [
            "COPY t FROM PROGRAM 'sh'",
            "COPY t TO PROGRAM 'sh'",
            "COPY t TO '/etc/passwd'",
            "COPY t FROM '/etc/passwd'",
            "COPY (SELECT 1) TO STDOUT",
            "COPY t FROM STDIN WITH (FORMAT csv)",
            "COPY",
        ] {
            assert!(matches!(refused(text), Refusal::ServerSide { .. }), "{text}");
        }
        for text in [
            "DO $$ BEGIN END $$",
            "CALL p()",
            "LOAD 'x'",
            "SELECT pg_read_file('/etc/passwd')",
            "SELECT pg_catalog.pg_read_file('/etc/passwd')",
            "SELECT pg_catalog.setval('x', (SELECT 1), true)",
            "SELECT pg_catalog.lo_import('/etc/passwd')",
            "SELECT pg_catalog.set_config('session_preload_libraries', 'x', false)",
            "SELECT 1",
            "INSERT INTO t SELECT 1",
            "SET session_preload_libraries = 'x'",
            "SET ROLE postgres",
            "UPDATE pg_catalog.pg_class SET relname = 'x'",
            "IMPORT FOREIGN SCHEMA x FROM SERVER s INTO y",
            "VACUUM",
            "COMMIT AND CHAIN",
            "ROLLBACK",
            "CREATE TEMP TABLE x (a int)",
            "ALTER EXTENSION x ADD FUNCTION f()",
            "",
        ] {
            assert!(matches!(refused(text), Refusal::Unknown { .. }), "{text}");
        }
        for text in ["SET standard_conforming_strings = off", "SET standard_conforming_strings TO on"] {
            assert!(matches!(refused(text), Refusal::Ambiguous { .. }), "{text}");
        }
    }

    #[test]
    fn code_of_untrusted_languages_is_refused_however_it_is_written() {
        for text in [
            "CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'x'",
            "CREATE OR REPLACE FUNCTION f() RETURNS int AS 'libc.so.6', 'system' LANGUAGE 'c'",
            "CREATE FUNCTION f() RETURNS int LANGUAGE \"plpython3u\" AS $$ $$",
            "CREATE FUNCTION f(a int) RETURNS int LANGUAGE InternaL AS 'x'",
            "CREATE PROCEDURE p() LANGUAGE plperlu AS $$ $$",
            "CREATE PROCEDURE p(language int) LANGUAGE plsh AS $$ $$",
            "CREATE TRUSTED PROCEDURAL LANGUAGE plpython3u",
            "CREATE OR REPLACE LANGUAGE plperlu",
        ] {
            assert!(matches!(refused(text), Refusal::Untrusted { .. }), "{text}");
        }
        for text in [
            "CREATE FUNCTION public.f(language c) RETURNS public.language LANGUAGE plpgsql AS $$ LANGUAGE c $$",
            "CREATE FUNCTION f() RETURNS TABLE(language c) LANGUAGE sql AS 'x'",
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1 AS language; END",
            "CREATE OR REPLACE PROCEDURAL LANGUAGE plpgsql",
            "CREATE TABLE language (language c)",
        ] {
            assert_eq!(verdict_of(text, false).unwrap(), Verdict::Load, "{text}");
        }
    }

    #[test]
    fn what_means_nothing_in_a_new_database_is_left_out() {
        use LeftOut::{DatabaseComment, Drops, Owner, Privilege, Subscription};
        for (text, why) in [
            ("DROP TABLE IF EXISTS public.t", Drops),
            ("ALTER TABLE IF EXISTS ONLY public.t DROP CONSTRAINT IF EXISTS \"t pkey\"", Drops),
            ("ALTER TABLE public.t ALTER COLUMN id DROP DEFAULT", Drops),
            (
                "SELECT pg_catalog.lo_unlink(oid) FROM pg_catalog.pg_largeobject_metadata WHERE oid = '1'",
                Drops,
            ),
            ("CREATE SUBSCRIPTION s CONNECTION 'host=x' PUBLICATION p WITH (connect = false)", Subscription),
            ("ALTER SUBSCRIPTION s OWNER TO x", Subscription),
            ("COMMENT ON DATABASE shop IS 'x'", DatabaseComment),
            ("GRANT CONNECT ON DATABASE shop TO x", DatabaseComment),
        ] {
            assert_eq!(verdict_of(text, false).unwrap(), Verdict::LeaveOut(why), "{text}");
        }
        for (text, why) in [
            ("ALTER TABLE public.t OWNER TO \"a b\"", Owner),
            ("ALTER FUNCTION public.f(a integer) OWNER TO x", Owner),
            ("SET SESSION AUTHORIZATION 'x'", Owner),
            ("GRANT SELECT(a, b) ON TABLE public.t TO x WITH GRANT OPTION", Privilege),
            ("REVOKE ALL ON FUNCTION public.f() FROM PUBLIC", Privilege),
            ("ALTER DEFAULT PRIVILEGES FOR ROLE x GRANT SELECT ON TABLES TO y", Privilege),
        ] {
            assert_eq!(verdict_of(text, true).unwrap(), Verdict::LeaveOut(why), "{text}");
            assert_eq!(verdict_of(text, false).unwrap(), Verdict::Load, "{text}");
        }
        for text in [
            "CREATE SCHEMA public",
            "COMMENT ON EXTENSION plpgsql IS 'PL/pgSQL procedural language'",
            "BEGIN",
        ] {
            assert_eq!(verdict_of(text, false).unwrap(), Verdict::Drop, "{text}");
        }
    }

    #[test]
    fn rows_are_counted_where_they_stand_in_statements() {
        for (text, table, n_rows) in [
            ("INSERT INTO public.t VALUES (1, 'a), (b')", "public.t", 1),
            (
                "INSERT INTO \"a b\".\"c\"\"d\" (\"x(\", y) VALUES ((1), 2),\n\t(3, $$)$$)",
                "\"a b\".\"c\"\"d\"",
                2,
            ),
            ("INSERT INTO t OVERRIDING SYSTEM VALUE VALUES (DEFAULT) ON CONFLICT DO NOTHING", "t", 1),
            ("INSERT INTO t DEFAULT VALUES", "t", 1),
        ] {
            let table = table.as_bytes().to_vec();
            assert_eq!(verdict_of(text, false).unwrap(), Verdict::Insert { table, n_rows }, "{text}");
        }
        for (text, table) in [
            ("COPY public.t (a, \"b (c\") FROM stdin", "public.t"),
            ("COPY \"S p\".\"t.\"\"x\" FROM stdin", "\"S p\".\"t.\"\"x\""),
            ("copy  t () from STDIN", "t"),
        ] {
            let table = table.as_bytes().to_vec();
            assert_eq!(verdict_of(text, false).unwrap(), Verdict::Copy { table }, "{text}");
        }
        assert_eq!(
            verdict_of("SET default_tablespace = \"fast disk\"", false).unwrap(),
            Verdict::Tablespace { name: "fast disk".into() }
        );
    }
}
