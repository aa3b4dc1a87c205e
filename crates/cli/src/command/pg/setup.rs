//! `hikae pg setup`

use crate::app::{App, absolute};
use crate::failure::{Ended, Failure};
use crate::page::{Mark, marked};
use clap::{Args, ValueEnum};
use hikae_ops::pg::setup::{SetupOptions, SetupReport, setup};
use hikae_ops::replication::SlotName;
use std::path::PathBuf;

/// Say what a server must be told so that its log is kept, or tell it
#[derive(Debug, Args)]
#[command(after_help = "Without --apply nothing is changed. What is right already is never touched.\n\n\
    Examples:\n  hikae pg setup main\n  \
    hikae pg setup main --admin 'host=/run/postgresql user=postgres dbname=postgres' --apply\n  \
    hikae pg setup main --by stream")]
pub struct SetupArgs {
    /// Source of kind postgresql-cluster
    source: String,
    /// How the log comes into the repository
    #[arg(long, value_enum, default_value = "archive")]
    by: By,
    /// Connection of a superuser, without a password [default: that of the source]
    #[arg(long, value_name = "CONNECTION")]
    admin: Option<String>,
    /// Do it, instead of saying it
    #[arg(long)]
    apply: bool,
    /// Put ours in the place of another's archive_command
    #[arg(long)]
    replace: bool,
    /// Seconds after which a segment is kept although it is not full: the most that can be lost
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=1_073_741_823))]
    archive_timeout: u32,
    /// Key file for the server's user [default: that of the repository]
    #[arg(long, value_name = "FILE")]
    wal_key: Option<PathBuf>,
    /// Where the server's user caches
    #[arg(long, value_name = "DIR", default_value = "/var/cache/hikae-wal")]
    wal_cache: PathBuf,
    /// Replication slot to make [default: hikae_SOURCE]
    #[arg(long, value_name = "NAME")]
    slot: Option<SlotName>,
    /// Megabytes of log that the slot may hold while nobody receives
    #[arg(long, value_name = "MB", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=2_147_483_647))]
    slot_keep: u32,
}

/// How the log comes into the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    /// The server archives each segment with hikae-wal
    Archive,
    /// `hikae pg receive` receives it
    Stream,
    /// Both; a segment from both is stored once
    Both,
}

pub fn run(args: &SetupArgs, app: &App) -> Result<Ended, Failure> {
    let config = app.config()?;
    let named = app.global.repository.as_deref();
    let own = match named {
        Some(_) => None,
        None => config.repositories_of(&args.source)?.first().copied().map(str::to_owned),
    };
    let (_, repository) = config.repository(named.or(own.as_deref()))?;
    let here = std::env::current_exe().map_err(|error| Failure::of_io("find this program", &error))?;
    let options = SetupOptions {
        admin: args.admin.clone(),
        archive: args.by != By::Stream,
        stream: args.by != By::Archive,
        slot: args.slot.clone(),
        hikae_wal: here.with_file_name("hikae-wal"),
        wal_key: args.wal_key.as_deref().map(absolute).transpose()?,
        wal_cache: absolute(&args.wal_cache)?,
        archive_timeout: args.archive_timeout,
        slot_keep_mb: args.slot_keep,
        replace: args.replace,
        apply: args.apply,
    };
    let report = setup(&config, &args.source, repository, &options, &app.around, &app.cx)?;
    app.output.result(Ended::Well, &report, &text(&report));
    Ok(Ended::Well)
}

fn text(report: &SetupReport) -> String {
    let mut text = format!("{}\n", marked(Mark::Strong, format!("{} ({})", report.source, report.server)));
    for right in &report.plan.right {
        text.push_str(&format!("{}  {right}\n", marked(Mark::Good, "OK")));
    }
    let heading = match (report.plan.steps.is_empty(), report.applied) {
        (true, _) => "\nThe server has all that SQL can give it.\n",
        (false, true) => "\nDone, as a superuser:\n",
        (false, false) => "\nTo be done as a superuser, in the database of the source, or with --apply:\n",
    };
    text.push_str(heading);
    for step in &report.plan.steps {
        let restart = if step.restart { " (takes a restart)" } else { "" };
        text.push_str(&format!("\n{}\n", marked(Mark::Faint, format!("-- {}{restart}", step.what))));
        step.sql.iter().for_each(|sql| text.push_str(&format!("{sql};\n")));
    }
    if report.restart {
        text.push_str(&format!("\n{}\n", marked(Mark::Doubtful, "Restart the server after that.")));
    }
    if !report.plan.by_hand.is_empty() {
        text.push_str("\nBy hand:\n");
        report.plan.by_hand.iter().for_each(|what| text.push_str(&format!("- {what}\n")));
    }
    text
}
