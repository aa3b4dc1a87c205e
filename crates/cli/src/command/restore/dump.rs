//! Restore of a dump that hikae did not make. It needs neither repository nor configuration.

use super::RestoreArgs;
use crate::app::{App, absolute};
use crate::failure::{Ended, Failure};
use crate::page::{Mark, count, duration, marked};
use hikae_model::{Count, ErrorCode};
use hikae_ops::restore_dump::{DumpPlan, DumpRestored, DumpTarget, plan_dump, restore_dump};
use hikae_ops::{DumpOptions, DumpedTable};
use serde_json::json;
use std::path::Path;

/// What nobody can compare, said with every result.
const NO_MANIFEST: &str = "a foreign dump has no manifest: its rows were counted, and could not be compared with those that it was made of";

pub fn restore(dump: &Path, args: &RestoreArgs, app: &App) -> Result<Ended, Failure> {
    let path = absolute(dump)?;
    if args.into_database.is_none() && !(args.dry_run && args.connection.is_none()) {
        let what = "nothing says what the new database is to be called";
        return Err(Failure::new(ErrorCode::Usage, what, Some("give --into-database NAME".into())));
    }
    let target = DumpTarget {
        connection: args.connection.clone(),
        database: args.into_database.clone().unwrap_or_default(),
        options: DumpOptions {
            no_owners: args.no_owners,
            allow_superuser: args.allow_superuser,
            program_directory: None,
        },
    };
    if args.dry_run {
        let plan = {
            let _progress = app.progress();
            plan_dump(&path, &target, &app.around, &app.cx)?
        };
        let text = text_of_plan(&plan, &path, args);
        app.output.result(Ended::Well, &json!({ "dump": path, "plan": plan }), &text);
        return Ok(Ended::Well);
    }
    let restored = {
        let _progress = app.progress();
        restore_dump(&path, &target, &app.around, &app.cx)?
    };
    let value = json!({ "dump": path, "restored": restored, "compared": false });
    app.output.result(Ended::Well, &value, &text_of(&restored, &path));
    Ok(Ended::Well)
}

fn text_of_plan(plan: &DumpPlan, path: &Path, args: &RestoreArgs) -> String {
    let contents = &plan.contents;
    let of = |what: &str, version: &Option<String>| match version {
        Some(version) => format!(", {what} {version}"),
        None => String::new(),
    };
    let mut text = format!(
        "would restore {} into {}\n  {}{}{}\n  {}, {}\n",
        path.display(),
        args.into_database.as_deref().unwrap_or("a new database"),
        contents.form.shown(),
        of("of PostgreSQL", &contents.server_version),
        of("by pg_dump", &contents.pg_dump_version),
        tables_with_rows(&contents.tables),
        count(contents.large_objects, "large object", "large objects"),
    );
    text.push_str(&list_of_tables(&contents.tables));
    for (what, names) in [
        ("extensions", &contents.extensions),
        ("roles", &contents.roles),
        ("tablespaces", &contents.tablespaces),
    ] {
        if !names.is_empty() {
            text.push_str(&format!("  {what} that it names: {}\n", names.join(", ")));
        }
    }
    for note in contents.left_out.iter().chain(&plan.notes) {
        text.push_str(&format!("  {note}\n"));
    }
    if !plan.server_asked {
        text.push_str("  No server was asked whether it has what this needs; --connection does.\n");
    }
    text.push_str("Nothing was written.\n");
    text
}

fn text_of(restored: &DumpRestored, path: &Path) -> String {
    let mut text = format!(
        "{}  {}: {} in {}, {}\n",
        marked(Mark::Good, "restored"),
        path.display(),
        restored.place,
        duration(restored.seconds),
        tables_with_rows(&restored.tables),
    );
    text.push_str(&list_of_tables(&restored.tables));
    if !restored.extensions.is_empty() {
        text.push_str(&format!("  extensions: {}\n", restored.extensions.join(", ")));
    }
    for note in &restored.notes {
        text.push_str(&format!("  {note}\n"));
    }
    text.push_str(&format!("  {NO_MANIFEST}\n"));
    text
}

fn tables_with_rows(tables: &[DumpedTable]) -> String {
    let rows: u64 = tables.iter().map(|table| table.rows).sum();
    format!("{} with {}", count(tables.len() as u64, "table", "tables"), count(rows, "row", "rows"))
}

fn list_of_tables(tables: &[DumpedTable]) -> String {
    const SHOWN: usize = 50;
    let mut text: String = tables
        .iter()
        .take(SHOWN)
        .map(|table| format!("    {}  {}\n", Count(table.rows), table.name))
        .collect();
    if tables.len() > SHOWN {
        text.push_str(&format!("    and {} more; --json lists them\n", tables.len() - SHOWN));
    }
    text
}
