//! Restores of base backups: a whole PostgreSQL cluster into a new data directory.

use super::{Origin, RestoreArgs, new_folder, only_for_postgresql, refuse};
use crate::app::{App, absolute};
use crate::command::shown;
use crate::failure::{Ended, Failure};
use crate::page::{Mark, count, duration, marked};
use hikae_model::{Bytes, Count, ErrorCode, Outcome};
use hikae_ops::restore_cluster::{ClusterTarget, KIND, Onto, plan_cluster, restore_cluster};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;

pub fn restore(args: &RestoreArgs, origin: &Origin<'_>, app: &App) -> Result<Ended, Failure> {
    refuse(&only_for_postgresql(args), KIND)?;
    refuse(&[("--overwrite", args.overwrite.is_some()), ("--cross-mounts", args.cross_mounts)], KIND)?;
    let (repo, snapshot) = (origin.repo, &origin.snapshot);
    let directory = match &args.target {
        Some(target) => absolute(target)?,
        None => new_folder(snapshot, app)?,
    };
    let onto = if args.delta { Onto::Same } else { Onto::Nothing };
    let target = ClusterTarget { directory, tablespaces: tablespaces(args)?, onto };
    let plan = plan_cluster(repo, snapshot.id, &target, &app.cx)?;
    let version = &plan.manifest.server_version;
    let spaces = shown_spaces(&plan.tablespaces);
    if args.dry_run {
        let text = format!(
            "would restore {}, {} of PostgreSQL {version}, {} {}\n{spaces}{}Nothing was written.\n",
            origin.said(app),
            Bytes(snapshot.bytes),
            if plan.onto == Onto::Same { "onto" } else { "into" },
            plan.directory.display(),
            lines(&plan.notes),
        );
        app.output.result(Ended::Well, &origin.shown(json!({ "plan": plan })), &text);
        return Ok(Ended::Well);
    }
    if plan.onto == Onto::Same && !args.yes {
        let name = plan.directory.file_name().unwrap_or_default().to_string_lossy();
        let what = format!(
            "{} becomes the {}, and what else it holds is lost",
            plan.directory.display(),
            origin.said(app)
        );
        app.confirm(&what, &name)?;
    }
    let restored = {
        let _progress = app.progress();
        restore_cluster(repo, snapshot.id, &target, &app.cx)?
    };
    let (mark, ended) = match (restored.outcome, restored.n_damaged) {
        (Outcome::Complete, _) => (Mark::Good, Ended::Well),
        (_, 1..) => (Mark::Bad, Ended::With(ErrorCode::VerificationFailed)),
        (outcome, 0) => (Mark::Bad, outcome.into()),
    };
    let mut text = format!(
        "{}  {}: {}, {} in {}, into {}\n{spaces}",
        marked(mark, "restored"),
        origin.said(app),
        count(restored.entries, "entry", "entries"),
        Bytes(restored.bytes),
        duration(restored.seconds),
        restored.directory.display(),
    );
    if plan.onto == Onto::Same {
        let kept = count(restored.n_kept, "file was", "files were");
        let removed = count(restored.n_removed, "entry that is", "entries that are");
        text.push_str(&format!("  {kept} there already; {removed} not in the backup went\n"));
    }
    if restored.outcome == Outcome::Complete {
        let directory = restored.directory.display();
        text.push_str(&format!("  start PostgreSQL {version} on it: postgres -D {directory}\n"));
    }
    if restored.n_damaged > 0 {
        let files = count(restored.n_damaged, "file is", "files are");
        text.push_str(&format!("  {files} damaged in the repository and did not come back\n"));
    }
    if restored.n_owners_not_set > 0 {
        let n = Count(restored.n_owners_not_set);
        text.push_str(&format!("  {n} belong to you now: only root can give files away\n"));
    }
    text.push_str(&lines(&restored.notes));
    text.push_str(&shown::problems(&restored.problems, restored.problems.len() as u64, ""));
    app.output.result(ended, &origin.shown(json!({ "restored": restored })), &text);
    Ok(ended)
}

/// Where tablespaces are to go.
pub fn tablespaces(args: &RestoreArgs) -> Result<BTreeMap<u32, PathBuf>, Failure> {
    args.tablespace.iter().map(|(oid, place)| Ok((*oid, absolute(place)?))).collect()
}

/// Where tablespaces go, as text.
pub fn shown_spaces(tablespaces: &BTreeMap<u32, PathBuf>) -> String {
    let line = |(oid, place): (&u32, &PathBuf)| format!("  tablespace {oid} into {}\n", place.display());
    tablespaces.iter().map(line).collect()
}

/// Notes as text.
pub fn lines(notes: &[String]) -> String {
    notes.iter().map(|note| format!("  {note}\n")).collect()
}

/// `OID=DIR`
pub fn parse_tablespace(text: &str) -> Result<(u32, PathBuf), String> {
    let parse = || {
        let (oid, place) = text.split_once('=')?;
        Some((oid.parse().ok()?, PathBuf::from(place)))
    };
    parse().ok_or_else(|| "must be a number and a directory, as 16384=/srv/fast".to_owned())
}
