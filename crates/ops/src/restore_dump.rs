//! Restore of a dump of foreign origin: a file that hikae did not make, into a new database. It needs no repository and no
//! configuration.

use crate::OpsError;
use crate::restore_database::named_server;
use crate::surroundings::Surroundings;
use hikae_model::Cx;
use hikae_source::SourceError;
use hikae_source::postgresql::{
    Connection, DumpContents, DumpOptions, DumpedTable, load_dump, look_at_target, read_dump,
};
use serde::Serialize;
use std::path::Path;

/// Where a dump goes, and how.
#[derive(Clone, Debug, Default)]
pub struct DumpTarget {
    /// The server, as `host=… user=…` or `postgresql://…` without a password; its database is only entered to make the
    /// new one. Nobody is asked if it is not said, and then only what the dump itself says is planned.
    pub connection: Option<String>,
    /// Name of the new database.
    pub database: String,
    /// How it is read and loaded.
    pub options: DumpOptions,
}

/// What a restore of a dump would do.
#[derive(Clone, Debug, Serialize)]
pub struct DumpPlan {
    /// What the dump holds.
    pub contents: DumpContents,
    /// Whether a server was asked if it has all that the dump needs.
    pub server_asked: bool,
    /// What to know before.
    pub notes: Vec<String>,
}

/// What a restore of a dump did.
#[derive(Clone, Debug, Serialize)]
pub struct DumpRestored {
    /// Where the database is now.
    pub place: String,
    /// What the dump held.
    pub contents: DumpContents,
    /// Tables and their rows, as counted in the new database.
    pub tables: Vec<DumpedTable>,
    /// Extensions with their versions.
    pub extensions: Vec<String>,
    /// What was left out or done differently.
    pub notes: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

/// Reads the whole dump and, if `target` names a server, asks that. Nothing is written anywhere.
///
/// # Errors
/// [`OpsError`]: what the restore would be refused for.
pub fn plan_dump(
    path: &Path,
    target: &DumpTarget,
    around: &Surroundings,
    cx: &Cx,
) -> Result<DumpPlan, OpsError> {
    let into = connection(target, around)?;
    if let Some(into) = &into {
        look_at_target(into, &target.database, None, &target.options, cx).map_err(of_dump)?;
    }
    begin("checking", path, cx);
    let contents =
        read_dump(path, false, &target.options, &around.for_postgresql(), cx).map_err(of_dump)?.contents;
    let notes = match &into {
        Some(into) => {
            look_at_target(into, &target.database, Some(&contents), &target.options, cx).map_err(of_dump)?
        }
        None => Vec::new(),
    };
    Ok(DumpPlan { contents, server_asked: into.is_some(), notes })
}

/// Restores the dump at `path` into a new database. The file is read once, and what was checked is what is loaded.
///
/// # Errors
/// [`OpsError`]: nothing was restored, and the new database is gone again.
pub fn restore_dump(
    path: &Path,
    target: &DumpTarget,
    around: &Surroundings,
    cx: &Cx,
) -> Result<DumpRestored, OpsError> {
    let began = cx.elapsed();
    let DumpTarget { database, options, .. } = target;
    let Some(into) = connection(target, around)? else {
        let what = "nothing says on which server the dump is to be restored";
        let advice = "give --connection postgresql://ROLE@HOST/postgres";
        return Err(OpsError::refused(hikae_model::ErrorCode::Usage, what, Some(advice.into())));
    };
    // Before hours are spent on reading.
    look_at_target(&into, database, None, options, cx).map_err(of_dump)?;
    begin("checking", path, cx);
    let dump = read_dump(path, true, options, &around.for_postgresql(), cx).map_err(of_dump)?;
    let contents = dump.contents.clone();
    let mut notes = contents.left_out.clone();
    notes.extend(look_at_target(&into, database, Some(&contents), options, cx).map_err(of_dump)?);
    begin("restoring", path, cx);
    let loaded = load_dump(dump, &into, database, options, cx).map_err(of_dump)?;
    notes.extend(loaded.notes);
    Ok(DumpRestored {
        place: into.to_database(database).shown(),
        contents,
        tables: loaded.tables,
        extensions: loaded.extensions,
        notes,
        seconds: (cx.elapsed() - began).as_secs_f64(),
    })
}

fn connection(target: &DumpTarget, around: &Surroundings) -> Result<Option<Connection>, OpsError> {
    let environment = around.for_postgresql();
    let text = target.connection.as_deref();
    text.map(|text| named_server(text, None, &environment, &of_dump)).transpose()
}

fn begin(verb: &'static str, path: &Path, cx: &Cx) {
    cx.progress().begin(verb, path.display().to_string(), 0);
}

fn of_dump(error: SourceError) -> OpsError {
    OpsError::of_source("dump")(error)
}
