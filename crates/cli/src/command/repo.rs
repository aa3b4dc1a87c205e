//! `hikae repo`

use super::verify;
use crate::app::App;
use crate::failure::{Ended, Failure};
use crate::page::{Align, Mark, Table, count, marked};
use clap::{Args, Subcommand};
use hikae_model::{Bytes, Count, ErrorCode, Outcome};
use hikae_ops::stats::{Space, stats};
use hikae_ops::verify::{
    PutBackReport, VerifyOptions, VerifyReport, heal, is_relative, put_back, repair, verify as look_again,
};
use serde_json::json;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum RepoCommand {
    /// Show where the space goes, by source and kind
    Stats,
    /// Show what the repository is
    Info,
    Repair(RepairArgs),
}

/// Mend what can be mended: adds and marks, deletes nothing
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  hikae repo repair --dry-run")]
pub struct RepairArgs {
    /// Read, open and compare all contents before
    #[arg(long)]
    read_data: bool,
    /// Bring what is damaged or gone here out of this one: a copy of the directory, or a repository of the family, by its
    /// name in the configuration or its place; everything is proved before it is taken
    #[arg(long, value_name = "REPO")]
    from: Option<PathBuf>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

pub fn run(command: &RepoCommand, app: &App) -> Result<Ended, Failure> {
    match command {
        RepoCommand::Stats => show_stats(app),
        RepoCommand::Info => info(app),
        RepoCommand::Repair(args) => mend(args, app),
    }
}

fn show_stats(app: &App) -> Result<Ended, Failure> {
    let repo = app.open()?;
    let measured = {
        let _progress = app.progress();
        stats(&repo, &app.cx)?
    };
    let mut table = Table::new(&[
        ("source", Align::Left),
        ("snapshots", Align::Right),
        ("as full copies", Align::Right),
        ("unique", Align::Right),
        ("stored", Align::Right),
        ("factor", Align::Right),
    ]);
    let mut put = |name: String, space: &Space| {
        table.row([
            name,
            Count(space.snapshots).to_string(),
            Bytes(space.restored_bytes).to_string(),
            Bytes(space.unique_bytes).to_string(),
            Bytes(space.stored_bytes).to_string(),
            space.factor().map_or(String::new(), |factor| format!("{factor:.1}")),
        ]);
    };
    measured.sources.iter().for_each(|(name, space)| put(name.clone(), space));
    if measured.kinds.len() > 1 {
        measured
            .kinds
            .iter()
            .for_each(|(name, space)| put(marked(Mark::Faint, format!("all {name}")), space));
    }
    put(marked(Mark::Strong, "all"), &measured.total);
    let mut text = table.text();
    let mut objects =
        Table::new(&[("class", Align::Left), ("objects", Align::Right), ("bytes", Align::Right)]);
    for (class, one) in &measured.objects {
        objects.row([class.clone(), Count(one.objects).to_string(), Bytes(one.bytes).to_string()]);
    }
    text.push_str(&format!("\n{}\n", objects.text()));
    text.push_str(&format!(
        "{} in the store; {} of packs are needed by no snapshot.\n",
        Bytes(measured.stored_bytes),
        Bytes(measured.unneeded_bytes)
    ));
    app.output.result(Ended::Well, &measured, &text);
    Ok(Ended::Well)
}

fn info(app: &App) -> Result<Ended, Failure> {
    let repo = app.open()?;
    let state = repo.follow()?;
    let core = &repo.header().core;
    let rights =
        if repo.secret().is_some() { "owner: everything" } else { "writer: what it was enrolled for" };
    let contents =
        if repo.contents().has_identity() { "can be opened" } else { "cannot be opened with this key" };
    let result = json!({
        "repository": core.repository,
        "store": repo.store().address(),
        "format": core.format,
        "created": core.created,
        "release": core.release,
        "root": core.root,
        "log_entry": state.n,
        "snapshots": state.snapshots.len(),
        "forgotten": state.forgotten.len(),
        "writers": state.writers.len() + 1,
        "recipients": state.recipients,
        "owner": repo.secret().is_some(),
        "opens_contents": repo.contents().has_identity(),
    });
    let mut table = Table::new(&[("", Align::Left), ("", Align::Left)]);
    let mut put = |name: &str, value: String| table.row([marked(Mark::Faint, name), value]);
    put("repository", core.repository.to_string());
    put("store", repo.store().address());
    put("made", format!("{} by hikae {}, format {}", app.time(core.created), core.release, core.format));
    put("root key", core.root.to_string());
    put("log", format!("{} entries", Count(state.n)));
    put(
        "snapshots",
        format!("{}, and {} forgotten", Count(state.snapshots.len() as u64), state.forgotten.len()),
    );
    put("this key", rights.to_owned());
    put("contents", contents.to_owned());
    app.output.result(Ended::Well, &result, &table.text());
    Ok(Ended::Well)
}

fn put_back_text(done: &PutBackReport, dry_run: bool) -> String {
    let (n, n_missed) = (done.put_back.len() as u64, done.not_in_copy.len() as u64);
    let did = if dry_run { "Would put back" } else { "Put back" };
    let mut text = format!("{did} {}.\n", count(n, "object", "objects"));
    if n_missed > 0 {
        text.push_str(&format!(
            "{} not to be had from the copy:\n",
            count(n_missed, "object is", "objects are")
        ));
        done.not_in_copy.iter().take(5).for_each(|key| text.push_str(&format!("    {key}\n")));
    }
    text.push('\n');
    text
}

/// What was found, with the advice that is left once the repair that it begins with is done.
fn as_after_repair(found: &VerifyReport) -> VerifyReport {
    let mut found = found.clone();
    for problem in found.problems.iter_mut().chain(&mut found.notes) {
        let left = |advice: String| match advice.strip_prefix("run `hikae repo repair`, ") {
            Some(rest) => rest.strip_prefix("then ").map(str::to_owned),
            None => Some(advice),
        };
        problem.advice = problem.advice.take().and_then(left);
    }
    found
}

fn mend(args: &RepairArgs, app: &App) -> Result<Ended, Failure> {
    let mut repo = app.open()?;
    let options = VerifyOptions { read_data: args.read_data, ..VerifyOptions::default() };
    let (mut from_copy, mut relative) = (None, None);
    if let Some(copy) = &args.from {
        let place = app.place_of_other(copy)?;
        let store = place.open_store(&app.cx)?.shared();
        {
            let _progress = app.progress();
            from_copy = Some(put_back(&repo, &options, &*store, args.dry_run, &app.cx)?);
        }
        // What is well again may be the log itself.
        repo = app.open()?;
        if is_relative(&repo, &*store)? {
            relative = Some(app.open_place(&place)?);
        }
    }
    let (mut found, done) = {
        let _progress = app.progress();
        repair(&repo, &options, args.dry_run, &app.cx)?
    };
    let hits_before = found.hits.len();
    let healed = match &relative {
        Some(relative) if !args.dry_run && repo.doubts().is_empty() && hits_before > 0 => {
            let _progress = app.progress();
            let healed = heal(&repo, relative, &app.cx)?;
            found = look_again(&repo, &options, &app.cx)?;
            Some(healed)
        }
        _ => None,
    };
    let mut text = from_copy.as_ref().map_or(String::new(), |done| put_back_text(done, args.dry_run));
    text.push_str(&verify::text(&if args.dry_run { found.clone() } else { as_after_repair(&found) }));
    if done.anything {
        let did = if args.dry_run { "Would do" } else { "Did" };
        text.push_str(&format!(
            "\n{did}: {} named again, {} salvaged, {} called damaged, {} called well.\n",
            count(done.packs_named_again, "pack", "packs"),
            count(done.salvaged, "part", "parts"),
            count(done.called_damaged, "pack", "packs"),
            count(done.called_well, "pack", "packs"),
        ));
    } else if !repo.doubts().is_empty() {
        text.push_str("\nNothing is written while the log is in doubt, so nothing is repaired.\n");
    } else {
        text.push_str("\nThere is nothing to repair.\n");
    }
    if let Some(healed) = &healed {
        let blobs = count(healed.blobs, "blob", "blobs");
        text.push_str(&format!(
            "Brought {blobs} out of the other repository, {} stored.\n",
            Bytes(healed.stored_bytes)
        ));
    }
    if done.set_aside > 0 {
        let snapshots = count(done.set_aside, "snapshot is", "snapshots are");
        let did = if args.dry_run { "would be " } else { "" };
        text.push_str(&format!(
            "{snapshots} {did}set aside: no record, no restore. Its data stays; with a copy of the \
             repository, --from DIR puts the record back.\n"
        ));
    }
    if done.taken_back > 0 {
        let snapshots = count(done.taken_back, "snapshot counts", "snapshots count");
        text.push_str(&format!("{snapshots} again.\n"));
    }
    if done.called_damaged > 0 {
        text.push_str("The next `hikae backup` stores again what was in them and is still in the sources.\n");
    }
    if done.lost_blobs > 0 {
        let blobs = count(done.lost_blobs, "blob is", "blobs are");
        text.push_str(&format!("{blobs} nowhere; only a backup of the source brings them back.\n"));
    }
    // What was damaged and is mended now is no failure any more; what is lost, or only planned, is.
    let mended = !args.dry_run
        && repo.doubts().is_empty()
        && (done.lost_blobs == 0 || healed.is_some_and(|healed| healed.lost == 0))
        && found.hits.is_empty();
    let ended = match found.outcome == Outcome::Complete || mended {
        true => Ended::Well,
        false => Ended::With(ErrorCode::VerificationFailed),
    };
    app.output.result(
        ended,
        &json!({ "from_copy": from_copy, "verify": found, "repair": done, "healed": healed }),
        &text,
    );
    Ok(ended)
}
