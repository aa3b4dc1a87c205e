//! `hikae restore`

mod cluster;
mod database;
mod dump;
mod files;
mod point;
mod take_out;

use super::list;
use crate::app::{App, absolute};
use crate::failure::{Ended, Failure};
use crate::page::{Mark, count, marked};
use clap::{Args, ValueEnum};
use hikae_model::{ErrorCode, SnapshotId};
use hikae_ops::list::{ListedSnapshot, listed};
use hikae_ops::pitr::target::Course;
use hikae_ops::select::SnapshotSelector;
use hikae_ops::{Overwrite, ROWS_KIND, Repo};
use serde::Serialize;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Restore a snapshot: into a new folder, beside the live database, or where you say
#[derive(Debug, Args)]
#[command(after_help = "Without a snapshot, lists what there is.\n\n\
    Examples:\n  \
    hikae restore documents\n  \
    hikae restore documents --date 2026-11-18 --path /srv/documents/letter.odt --into /tmp/letters\n  \
    hikae restore documents --path /srv/documents/letter.odt --in-place --overwrite always\n  \
    hikae restore main --to-time '2026-11-20 12:00:00+09:00' --target /srv/noon --dry-run\n  \
    hikae restore shop --connection postgresql://admin@db.example.org/postgres --swap\n  \
    hikae restore --dump old.sql.gz --connection postgresql://loader@db.example.org/postgres --into-database old")]
pub struct RestoreArgs {
    /// Snapshot: a source, beginning of an id, a time, `latest` or `latest-verified`
    snapshot: Option<SnapshotSelector>,
    /// Source to choose from
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// The newest snapshot of this day, of the source
    #[arg(long, value_name = "YYYY-MM-DD", conflicts_with = "point")]
    date: Option<jiff::civil::Date>,
    /// Folder to restore into, or file for a SQLite database [default: a new folder here]
    #[arg(long, value_name = "DIR")]
    target: Option<PathBuf>,
    /// Only these folders and files of the snapshot; they land below the target as they stand in it
    #[arg(long, value_name = "PATH", num_args = 1.., conflicts_with = "point")]
    path: Vec<OsString>,
    /// What --path names lands in this folder itself: what a folder holds, or each of several by its name
    #[arg(long, value_name = "DIR", requires = "path", conflicts_with = "target")]
    into: Option<PathBuf>,
    /// What --path names goes back where it was; what stands there stays unless --overwrite says otherwise
    #[arg(long, requires = "path", conflicts_with_all = ["target", "into"])]
    in_place: bool,
    /// What happens to files that stand in the target already
    #[arg(long, value_enum, value_name = "WHEN", conflicts_with = "point")]
    overwrite: Option<When>,
    /// Keep files that are replaced beside the new ones, as NAME.before-restore-TIME
    #[arg(long, requires = "overwrite")]
    keep_replaced: bool,
    /// Go on into file systems that are mounted in the target
    #[arg(long, conflicts_with = "point")]
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
    /// A dump of PostgreSQL that hikae did not make, in any format of pg_dump: into a new database, without a repository
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "snapshot", "source", "date", "target", "path", "overwrite", "cross_mounts", "swap", "point",
    ])]
    dump: Option<PathBuf>,
    /// Load a dump as a superuser: what it brings then runs as one
    #[arg(long, requires = "dump")]
    allow_superuser: bool,
    /// PostgreSQL cluster: where a tablespace goes, by its number [default: DIR-tablespaces/OID]
    #[arg(long, value_name = "OID=DIR", value_parser = cluster::parse_tablespace)]
    tablespace: Vec<(u32, PathBuf)>,
    /// PostgreSQL cluster: onto a data directory of the same cluster, writing only what differs; no server may run on it
    #[arg(long, requires = "target", conflicts_with = "point")]
    delta: bool,
    #[command(flatten)]
    point: point::PointArgs,
    /// Stop just before the point
    #[arg(long, requires = "point")]
    exclusive: bool,
    /// Timeline to follow: a number, `latest` or `current`, that of the base backup [default: latest]
    #[arg(long, requires = "point", value_name = "N", value_parser = point::parse_course)]
    timeline: Option<Course>,
    /// Where PostgreSQL's server programs are, if not in one of the usual places
    #[arg(long, requires = "point", value_name = "DIR")]
    program_directory: Option<PathBuf>,
    /// As which user the server recovers if we are root [default: postgres]
    #[arg(long, requires = "point", value_name = "USER")]
    run_as: Option<String>,
    /// The program hikae-wal, if it is not beside this one
    #[arg(long, requires = "point", value_name = "FILE")]
    wal_program: Option<PathBuf>,
    /// Only these tables, with their partitions and what their foreign keys name: into a new database of --connection
    #[arg(long, value_name = "TABLE", num_args = 1.., requires = "point", conflicts_with_all = ["target", "pause"])]
    table: Vec<String>,
    /// Only this database of the cluster: into a new one of --connection [default with --table: the only one]
    #[arg(long, value_name = "NAME", requires = "point", conflicts_with_all = ["target", "pause"])]
    from_database: Option<String>,
    /// Leave a server there that stands still at the point and can be read, to look before it is opened
    #[arg(long, requires = "point")]
    pause: bool,
    /// Open what --pause left for this data directory
    #[arg(long, value_name = "DIR", conflicts_with_all = [
        "snapshot", "source", "date", "target", "path", "point", "dump", "connection", "into_database", "swap",
    ])]
    promote: Option<PathBuf>,
    /// Stop what --pause left for this data directory, and remove it
    #[arg(long, value_name = "DIR", conflicts_with_all = [
        "promote", "snapshot", "source", "date", "target", "path", "point", "dump", "connection", "into_database", "swap",
    ])]
    discard: Option<PathBuf>,
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
    if let Some(dump) = &args.dump {
        return dump::restore(dump, args, app);
    }
    if let Some(directory) = &args.discard {
        return point::discard(directory, app);
    }
    let repo = app.open()?;
    if let Some(directory) = &args.promote {
        return point::promote(directory, &repo, app);
    }
    if let Some(target) = args.point.target() {
        return point::restore(target, args, &repo, app);
    }
    let (selector, source) = match (&args.snapshot, args.date, &args.source) {
        (None, Some(date), source) => (SnapshotSelector::On(date), source.as_ref()),
        // With a day, the name can only be that of the source.
        (Some(SnapshotSelector::Named(source)), Some(date), None) => {
            (SnapshotSelector::On(date), Some(source))
        }
        (Some(_), Some(_), _) => {
            let what = "--date chooses a snapshot, and there is one already";
            let advice = "give --date and a source, or the snapshot alone";
            return Err(Failure::new(ErrorCode::Usage, what, Some(advice.into())));
        }
        (Some(selector), None, source) => (selector.clone(), source.as_ref()),
        (None, None, Some(source)) => (SnapshotSelector::Latest, Some(source)),
        (None, None, None) => return show_choice(&repo, app),
    };
    let chosen = app.choose(&repo, &selector, source.map(String::as_str))?;
    let (state, found) = (&chosen.state, chosen.snapshot());
    let snapshot = listed(&repo, found)?;
    let newer_partial = selector.passed_over(state, found).map(|newer| newer.snapshot.id);
    if let Some(newer) = newer_partial {
        let moment = state.snapshots.get(&newer).map_or(snapshot.moment, |newer| newer.snapshot.moment);
        let hint = format!("`hikae restore {}` restores that one", newer.short());
        let what = format!(
            "this is the newest complete one of {}; a newer, partial one exists: {}, of {}",
            snapshot.source,
            newer.short(),
            app.time(moment)
        );
        app.output.warning(&what, Some(&hint));
    }
    if !snapshot.complete {
        let problems = count(snapshot.n_problems, "problem", "problems");
        let hint = format!("`hikae show {}` lists them", snapshot.id.short());
        app.output.warning(&format!("this snapshot is partial: {problems}"), Some(&hint));
    }
    if snapshot.kind != "postgresql-cluster" {
        let only = [("--tablespace", !args.tablespace.is_empty()), ("--delta", args.delta)];
        refuse(&only, &snapshot.kind)?;
    }
    let origin = Origin { repo: &repo, snapshot, newer_partial };
    match origin.snapshot.kind.as_str() {
        "files" => files::restore(args, &origin, app),
        "sqlite" => database::sqlite(args, &origin, app),
        // New rows are files, and with the dump that they follow they are a database.
        ROWS_KIND if args.target.is_some() || !args.path.is_empty() => files::restore(args, &origin, app),
        "postgresql" | ROWS_KIND => database::postgresql(args, &origin, app),
        // A part of it is a matter of files.
        "postgresql-cluster" if args.path.is_empty() => cluster::restore(args, &origin, app),
        "postgresql-cluster" => files::restore(args, &origin, app),
        kind => {
            let what = format!("this release cannot restore a source of kind `{kind}`");
            Err(Failure::new(ErrorCode::Usage, what, Some("use a newer release of hikae".into())))
        }
    }
}

/// What is restored from.
struct Origin<'a> {
    repo: &'a Repo,
    snapshot: ListedSnapshot,
    /// A newer one that was passed over because it is partial.
    newer_partial: Option<SnapshotId>,
}

/// A restore, done or planned, as `--json` shows it.
#[derive(Serialize)]
struct Shown<'a, T> {
    snapshot: &'a ListedSnapshot,
    newer_partial: Option<SnapshotId>,
    #[serde(flatten)]
    what: T,
}

impl Origin<'_> {
    fn shown<T: Serialize>(&self, what: T) -> Shown<'_, T> {
        Shown { snapshot: &self.snapshot, newer_partial: self.newer_partial, what }
    }

    /// As `docs, state of 2026-11-20 14:30:05 +09:00 (partial: 2 problems at backup)`.
    fn said(&self, app: &App) -> String {
        let snapshot = &self.snapshot;
        let partial = match snapshot.complete {
            true => String::new(),
            false => {
                let n = count(snapshot.n_problems, "problem", "problems");
                format!(" ({})", marked(Mark::Doubtful, format!("partial: {n} at backup")))
            }
        };
        format!("{}, state of {}{partial}", snapshot.source, app.time(snapshot.moment))
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
    new_folder_of(&snapshot.source, snapshot.moment, app)
}

fn new_folder_of(source: &str, moment: jiff::Timestamp, app: &App) -> Result<PathBuf, Failure> {
    let moment = moment.to_zoned(app.around.zone.clone()).strftime("%Y%m%d-%H%M%S");
    absolute(Path::new(&format!("restored-{source}-{moment}")))
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
