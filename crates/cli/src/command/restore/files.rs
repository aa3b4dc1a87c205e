//! Restore of files: into a new folder, into one that is there, or where they were.

use super::{Origin, RestoreArgs, When, new_folder, only_for_postgresql, refuse};
use crate::app::{App, absolute};
use crate::command::shown;
use crate::failure::{Ended, Failure};
use crate::page::{Mark, count, duration, marked};
use hikae_model::{Bytes, Count, ErrorCode, Outcome};
use hikae_ops::choice::{Choice, Landing};
use hikae_ops::report::RestoreReport;
use hikae_ops::restore::restore_chosen;
use hikae_ops::{Mounts, OpsError, Overwrite, Target};
use serde_json::json;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

/// Where files go.
enum Into {
    Folder(PathBuf),
    Place,
}

pub fn restore(args: &RestoreArgs, origin: &Origin<'_>, app: &App) -> Result<Ended, Failure> {
    refuse(&only_for_postgresql(args), "files")?;
    let into = match (&args.target, &args.into, args.in_place) {
        (_, _, true) => Into::Place,
        (Some(folder), ..) | (None, Some(folder), _) => Into::Folder(absolute(folder)?),
        (None, None, false) => Into::Folder(new_folder(&origin.snapshot, app)?),
    };
    let landing = if args.into.is_some() { Landing::Into } else { Landing::Below };
    let paths: Vec<&[u8]> = args.path.iter().map(|path| path.as_bytes()).collect();
    let choice = Choice::look_up(origin.repo, origin.snapshot.id, &paths, landing)?;
    if choice.is_everything() && matches!(into, Into::Place) {
        let what = "a whole snapshot is not put back in place";
        let advice = "name what to put back with --path, or restore it all into a new folder";
        return Err(Failure::new(ErrorCode::Usage, what, Some(advice.into())));
    }
    let mounts = if args.cross_mounts { Mounts::Cross } else { Mounts::Refuse };
    let overwrite = args.overwrite.map(Overwrite::from);
    if let Into::Folder(folder) = &into {
        Target::check(folder, overwrite, mounts, &app.cx).map_err(of_target)?;
    }
    let shown = match &into {
        Into::Folder(folder) => folder.display().to_string(),
        Into::Place => "the place where it was".to_owned(),
    };
    if args.dry_run {
        return Ok(show_plan(args, origin, &choice, &into, &shown, app));
    }
    if args.overwrite.is_some_and(|when| when != When::Never) && !args.yes {
        match &into {
            Into::Folder(folder) if folder.exists() => {
                let name = folder.file_name().unwrap_or_default().to_string_lossy();
                app.confirm(&format!("Files in {shown} will be replaced"), &name)?;
            }
            Into::Folder(_) => {}
            Into::Place => {
                let paths: Vec<String> = choice.paths().map(|path| format!("/{path}")).collect();
                let what = format!("{} will be replaced by the {}", paths.join(", "), origin.said(app));
                app.confirm(&what, &origin.snapshot.source)?;
            }
        }
    }
    let target = match (&into, overwrite) {
        (Into::Place, overwrite) => Target::in_place(overwrite.unwrap_or(Overwrite::Never), &app.cx),
        (Into::Folder(folder), Some(overwrite)) if folder.exists() => {
            Target::into_existing(folder, overwrite, mounts, &app.cx)
        }
        (Into::Folder(folder), _) => Target::into_new(folder, &app.cx),
    };
    let target = target.map_err(of_target)?;
    // As a database that is replaced is kept.
    let aside = format!(".before-restore-{}", app.cx.now().strftime("%Y%m%dT%H%M%SZ"));
    let target = if args.keep_replaced { target.keep_replaced(aside.clone()) } else { target };
    let report = {
        let _progress = app.progress();
        restore_chosen(origin.repo, origin.snapshot.id, &choice, target, &app.cx)?
    };
    let ended = match report.n_damaged {
        0 => report.outcome.into(),
        _ => Ended::With(ErrorCode::VerificationFailed),
    };
    let aside = args.keep_replaced.then_some(aside);
    let mut text = text(&report, origin, &shown, app);
    if report.replaced > 0 {
        let n = count(report.replaced, "file was", "files were");
        text.push_str(&match &aside {
            Some(aside) => format!("  {n} replaced; what stood there is kept beside as NAME{aside}\n"),
            None => format!("  {n} replaced; what stood there is gone (--keep-replaced keeps it)\n"),
        });
    }
    text.push_str(&shown::problems(&report.problems, report.problems.len() as u64, ""));
    let value = json!({ "target": target_of(&into), "kept_aside": aside, "restored": report });
    app.output.result(ended, &origin.shown(value), &text);
    Ok(ended)
}

fn of_target(source: hikae_ops::SourceError) -> OpsError {
    OpsError::Source { source_name: "target".to_owned(), source }
}

fn target_of(into: &Into) -> &std::path::Path {
    match into {
        Into::Folder(folder) => folder,
        Into::Place => std::path::Path::new("/"),
    }
}

fn show_plan(
    args: &RestoreArgs,
    origin: &Origin<'_>,
    choice: &Choice,
    into: &Into,
    shown: &str,
    app: &App,
) -> Ended {
    let what = match choice.paths().count() {
        0 => format!(
            "{}, {}",
            count(origin.snapshot.entries, "entry", "entries"),
            Bytes(origin.snapshot.bytes)
        ),
        n => count(n as u64, "path", "paths"),
    };
    let rule = match (args.overwrite, into) {
        (None, Into::Folder(_)) => "which is new or empty",
        (None | Some(When::Never), _) => "leaving what stands there",
        (Some(When::IfNewer), _) => "replacing what is older there",
        (Some(When::IfChanged), _) => "replacing what differs there",
        (Some(When::Always), _) => "replacing what stands there",
    };
    let text =
        format!("would restore {what} of {} into {shown}, {rule}\nNothing was written.\n", origin.said(app));
    let paths: Vec<String> = choice.paths().map(ToString::to_string).collect();
    let value = json!({ "target": target_of(into), "paths": paths });
    app.output.result(Ended::Well, &origin.shown(value), &text);
    Ended::Well
}

fn text(report: &RestoreReport, origin: &Origin<'_>, target: &str, app: &App) -> String {
    let mark = match (report.outcome, report.n_damaged) {
        (_, 1..) => Mark::Bad,
        (Outcome::Complete, _) => Mark::Good,
        (Outcome::WithProblems | Outcome::Failed, _) => Mark::Doubtful,
    };
    let mut text = format!(
        "{}  {}: {}, {} in {}, into {target}\n",
        marked(mark, "restored"),
        origin.said(app),
        count(report.entries, "entry", "entries"),
        Bytes(report.bytes),
        duration(report.seconds),
    );
    if report.n_damaged > 0 {
        let files = count(report.n_damaged, "file is", "files are");
        text.push_str(&format!("  {files} damaged in the repository and did not come back\n"));
    }
    if report.kept > 0 {
        text.push_str(&format!("  {} left as they stood\n", count(report.kept, "entry", "entries")));
    }
    if report.n_owners_not_set > 0 {
        text.push_str(&format!(
            "  {} belong to you now: only root can give files away\n",
            Count(report.n_owners_not_set)
        ));
    }
    text
}
