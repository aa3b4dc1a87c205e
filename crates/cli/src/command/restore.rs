//! `hikae restore`

use super::{list, shown};
use crate::app::{App, absolute};
use crate::failure::{Ended, Failure};
use crate::page::{Mark, count, duration, marked};
use clap::{Args, ValueEnum};
use hikae_model::{Bytes, Count, ErrorCode, Outcome, SnapshotId, TreePath};
use hikae_ops::browse::parse_path;
use hikae_ops::config::SourceSettings;
use hikae_ops::list::{ListedSnapshot, listed};
use hikae_ops::report::RestoreReport;
use hikae_ops::restore::restore_files;
use hikae_ops::restore_database::{
    DatabaseRestored, PostgresqlTarget, plan_postgresql, restore_postgresql, restore_sqlite,
};
use hikae_ops::select::SnapshotSelector;
use hikae_ops::{Mounts, Overwrite, Repo, Target};
use serde_json::json;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Restore a snapshot: into a new folder, beside the live database, or where you say
#[derive(Debug, Args)]
#[command(after_help = "Without a snapshot, lists what there is.\n\n\
    Examples:\n  \
    hikae restore documents\n  \
    hikae restore documents --date 2026-11-18 --path srv/documents/letter.odt --target /tmp/letter\n  \
    hikae restore shop --connection postgresql://admin@db.example.org/postgres --swap")]
pub struct RestoreArgs {
    /// Snapshot: a source, beginning of an id, a time, `latest` or `latest-verified`
    snapshot: Option<SnapshotSelector>,
    /// Source to choose from
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// The newest snapshot of this day
    #[arg(long, value_name = "YYYY-MM-DD", conflicts_with = "snapshot")]
    date: Option<jiff::civil::Date>,
    /// Folder to restore into, or file for a SQLite database [default: a new folder here]
    #[arg(long, value_name = "DIR")]
    target: Option<PathBuf>,
    /// Only these folders and files of the snapshot
    #[arg(long, value_name = "PATH", num_args = 1..)]
    path: Vec<OsString>,
    /// What happens to files that stand in the target already
    #[arg(long, value_enum, value_name = "WHEN")]
    overwrite: Option<When>,
    /// Go on into file systems that are mounted in the target
    #[arg(long)]
    cross_mounts: bool,
    /// PostgreSQL: name of the new database
    #[arg(long, value_name = "NAME")]
    into_database: Option<String>,
    /// PostgreSQL: the server, entered as a role that may make databases [default: that of the source]
    #[arg(long, value_name = "ADDRESS")]
    connection: Option<String>,
    /// PostgreSQL: give it the live name once everything held; the live one is kept under another
    #[arg(long)]
    swap: bool,
    /// PostgreSQL: leave out owners and privileges
    #[arg(long)]
    no_owners: bool,
    /// Do not ask before anything is replaced
    #[arg(long)]
    yes: bool,
    /// Say what would be restored, and restore nothing
    #[arg(long)]
    dry_run: bool,
}

/// When a file that stands there is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum When {
    /// It stays
    Never,
    /// Replaced if the restored one was modified later
    IfNewer,
    /// Replaced unless size, time and mode are the same
    IfChanged,
    /// Replaced
    Always,
}

impl From<When> for Overwrite {
    fn from(when: When) -> Self {
        match when {
            When::Never => Self::Never,
            When::IfNewer => Self::IfNewer,
            When::IfChanged => Self::IfChanged,
            When::Always => Self::Always,
        }
    }
}

pub fn run(args: &RestoreArgs, app: &App) -> Result<Ended, Failure> {
    let repo = app.open()?;
    let state = app.readable(&repo)?;
    let selector = match (&args.snapshot, args.date, &args.source) {
        (Some(selector), _, _) => selector.clone(),
        (None, Some(date), _) => SnapshotSelector::On(date),
        (None, None, Some(_)) => SnapshotSelector::Latest,
        (None, None, None) => return show_choice(&repo, app),
    };
    let found = selector.resolve(&state, args.source.as_deref(), &app.around.zone)?;
    let snapshot = listed(&repo, found)?;
    if !snapshot.complete {
        let problems = count(snapshot.n_problems, "problem", "problems");
        let hint = format!("`hikae show {}` lists them", snapshot.id.short());
        app.output.warning(&format!("this snapshot is partial: {problems}"), Some(&hint));
    }
    match snapshot.kind.as_str() {
        "files" => files(args, &repo, &snapshot, app),
        "sqlite" => sqlite(args, &repo, &snapshot, app),
        "postgresql" => postgresql(args, &repo, &snapshot, app),
        kind => {
            let what = format!("this release cannot restore a source of kind `{kind}`");
            Err(Failure::new(ErrorCode::Usage, what, Some("use a newer release of hikae".into())))
        }
    }
}

fn show_choice(repo: &Repo, app: &App) -> Result<Ended, Failure> {
    let snapshots = hikae_ops::list::list(repo, None)?;
    let hint = "\n`hikae restore SNAPSHOT` restores one of them into a new folder here.\n";
    let text = match snapshots.is_empty() {
        true => "There is no snapshot yet.\n".to_owned(),
        false => format!("{}{hint}", list::table(&snapshots, app)),
    };
    app.output.result(Ended::Well, &snapshots, &text);
    Ok(Ended::Well)
}

/// A folder that does not exist, named for what is in it.
fn new_folder(snapshot: &ListedSnapshot, app: &App) -> Result<PathBuf, Failure> {
    let moment = snapshot.moment.to_zoned(app.around.zone.clone()).strftime("%Y%m%d-%H%M%S");
    absolute(Path::new(&format!("restored-{}-{moment}", snapshot.source)))
}

fn refuse(flags: &[(&str, bool)], kind: &str) -> Result<(), Failure> {
    match flags.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((flag, _)) => {
            let what = format!("{flag} means nothing for a snapshot of kind `{kind}`");
            Err(Failure::new(ErrorCode::Usage, what, None))
        }
    }
}

fn only_for_postgresql(args: &RestoreArgs) -> [(&'static str, bool); 4] {
    [
        ("--into-database", args.into_database.is_some()),
        ("--connection", args.connection.is_some()),
        ("--swap", args.swap),
        ("--no-owners", args.no_owners),
    ]
}

fn files(args: &RestoreArgs, repo: &Repo, snapshot: &ListedSnapshot, app: &App) -> Result<Ended, Failure> {
    refuse(&only_for_postgresql(args), "files")?;
    let target = match &args.target {
        Some(target) => absolute(target)?,
        None => new_folder(snapshot, app)?,
    };
    let paths: Vec<Option<TreePath>> =
        args.path.iter().map(|path| parse_path(path.as_bytes())).collect::<Result<_, _>>()?;
    // The top among them means everything.
    let paths: Vec<TreePath> = paths.into_iter().collect::<Option<_>>().unwrap_or_default();
    let what = match paths.len() {
        0 => format!("{}, {}", count(snapshot.entries, "entry", "entries"), Bytes(snapshot.bytes)),
        n => count(n as u64, "path", "paths"),
    };
    if args.dry_run {
        let rule = args.overwrite.map_or("which must be new or empty", |when| match when {
            When::Never => "leaving what stands there",
            When::IfNewer => "replacing what is older there",
            When::IfChanged => "replacing what differs there",
            When::Always => "replacing what stands there",
        });
        let text = format!(
            "would restore {what} of {} ({}) into {}, {rule}\nNothing was written.\n",
            snapshot.source,
            app.time(snapshot.moment),
            target.display()
        );
        app.output.result(Ended::Well, &json!({ "snapshot": snapshot, "target": target }), &text);
        return Ok(Ended::Well);
    }
    let mounts = if args.cross_mounts { Mounts::Cross } else { Mounts::Refuse };
    let into = match args.overwrite {
        Some(when) if target.exists() => {
            let replaces = when != When::Never;
            if replaces && !args.yes {
                let name =
                    target.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned());
                app.confirm(&format!("Files in {} will be replaced", target.display()), &name)?;
            }
            Target::into_existing(&target, when.into(), mounts, &app.cx)?
        }
        Some(_) | None => Target::into_new(&target, &app.cx)?,
    };
    let report = {
        let _progress = app.progress();
        restore_files(repo, snapshot.id, &paths, into, &app.cx)?
    };
    let ended = match report.n_damaged {
        0 => report.outcome.into(),
        _ => Ended::With(ErrorCode::VerificationFailed),
    };
    app.output.result(ended, &json!({ "target": target, "restored": report }), &text(&report, &target));
    Ok(ended)
}

fn text(report: &RestoreReport, target: &Path) -> String {
    let mut text = format!(
        "{}  {}, {} in {}, into {}\n",
        marked(if report.outcome == Outcome::Complete { Mark::Good } else { Mark::Doubtful }, "restored"),
        count(report.entries, "entry", "entries"),
        Bytes(report.bytes),
        duration(report.seconds),
        target.display(),
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
    text.push_str(&shown::problems(&report.problems, report.problems.len() as u64, ""));
    text
}

fn sqlite(args: &RestoreArgs, repo: &Repo, snapshot: &ListedSnapshot, app: &App) -> Result<Ended, Failure> {
    refuse(&only_for_postgresql(args), "sqlite")?;
    refuse(&[("--path", !args.path.is_empty())], "sqlite")?;
    let target = match &args.target {
        Some(target) => absolute(target)?,
        None => new_folder(snapshot, app)?,
    };
    let replace = match args.overwrite {
        None | Some(When::Never) => false,
        Some(When::Always) => true,
        Some(When::IfNewer | When::IfChanged) => {
            let what = "a database is replaced whole or not at all";
            let advice = "give --overwrite always or --overwrite never";
            return Err(Failure::new(ErrorCode::Usage, what, Some(advice.into())));
        }
    };
    if args.dry_run {
        let text = format!(
            "would restore {} ({}) to {}, compared with its manifest first\nNothing was written.\n",
            snapshot.source,
            app.time(snapshot.moment),
            target.display()
        );
        app.output.result(Ended::Well, &json!({ "snapshot": snapshot, "target": target }), &text);
        return Ok(Ended::Well);
    }
    if replace && target.exists() && !args.yes {
        let name = target.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned());
        app.confirm(&format!("{} will be moved aside and replaced", target.display()), &name)?;
    }
    if args.target.is_none() {
        hikae_ops::private_file::create_directory(&target)?;
    }
    let restored = {
        let _progress = app.progress();
        restore_sqlite(repo, snapshot.id, &target, replace, &app.cx)?
    };
    show_database(&restored, snapshot.id, app)
}

fn postgresql(
    args: &RestoreArgs,
    repo: &Repo,
    snapshot: &ListedSnapshot,
    app: &App,
) -> Result<Ended, Failure> {
    refuse(
        &[
            ("--path", !args.path.is_empty()),
            ("--target", args.target.is_some()),
            ("--overwrite", args.overwrite.is_some()),
        ],
        "postgresql",
    )?;
    let config = app.config_or_none()?;
    let of_config = config.sources.get(&snapshot.source).map(|source| &source.settings);
    let (connection, program_directory) = match (&args.connection, of_config) {
        (Some(connection), Some(SourceSettings::Postgresql(settings))) => {
            (connection.clone(), settings.program_directory.clone())
        }
        (Some(connection), _) => (connection.clone(), None),
        (None, Some(SourceSettings::Postgresql(settings))) => {
            (settings.connection.clone(), settings.program_directory.clone())
        }
        (None, _) => {
            let what = format!("nothing says on which server {} is to be restored", snapshot.source);
            let advice = "give --connection postgresql://ROLE@HOST/postgres";
            return Err(Failure::new(ErrorCode::Usage, what, Some(advice.into())));
        }
    };
    let target = PostgresqlTarget {
        connection,
        database: args.into_database.clone(),
        swap: args.swap,
        no_owners: args.no_owners,
        program_directory,
    };
    let plan = plan_postgresql(repo, snapshot.id, &target)?;
    let live = &plan.live;
    if args.dry_run {
        let name = args.into_database.as_deref().unwrap_or("a new database");
        let then = match args.swap {
            true => format!(", and then give it the name {live}, keeping the live one under another"),
            false => String::new(),
        };
        let notes: String = plan.notes.iter().map(|note| format!("  {note}\n")).collect();
        let text = format!(
            "would restore {} ({}) into {name}, compare it with its manifest{then}\n{notes}Nothing was written.\n",
            snapshot.source,
            app.time(snapshot.moment)
        );
        let value = json!({ "snapshot": snapshot, "database": name, "plan": plan });
        app.output.result(Ended::Well, &value, &text);
        return Ok(Ended::Well);
    }
    if args.swap && !args.yes {
        let what = format!(
            "The live database {live} will be replaced by its state of {} and kept under another name",
            app.time(snapshot.moment)
        );
        app.confirm(&what, live)?;
    }
    let restored = {
        let _progress = app.progress();
        restore_postgresql(repo, snapshot.id, &target, &app.around, &app.cx)?
    };
    show_database(&restored, snapshot.id, app)
}

fn show_database(restored: &DatabaseRestored, snapshot: SnapshotId, app: &App) -> Result<Ended, Failure> {
    let failed: Vec<_> = restored.checks.iter().filter(|check| !check.passed).collect();
    let whole = restored.outcome != Outcome::Failed;
    let verdict = if whole { marked(Mark::Good, "restored") } else { marked(Mark::Bad, "NOT RIGHT") };
    let mut text = format!(
        "{verdict}  {} in {}, {} held\n",
        restored.place,
        duration(restored.seconds),
        count((restored.checks.len() - failed.len()) as u64, "check", "checks"),
    );
    for check in &failed {
        text.push_str(&format!("  {} {check}\n", marked(Mark::Bad, "x")));
    }
    if let Some(aside) = &restored.kept_aside {
        text.push_str(&format!("  what stood there is kept as {aside}\n"));
    }
    for note in &restored.notes {
        text.push_str(&format!("  {note}\n"));
    }
    let ended = match restored.outcome {
        Outcome::Failed => Ended::With(ErrorCode::VerificationFailed),
        outcome => outcome.into(),
    };
    app.output.result(ended, &json!({ "snapshot": snapshot, "restored": restored }), &text);
    Ok(ended)
}
