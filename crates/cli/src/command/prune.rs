//! `hikae prune`

use crate::app::App;
use crate::failure::{Ended, Failure};
use crate::page::count;
use clap::Args;
use hikae_model::{Bytes, ErrorCode};
use hikae_ops::pitr::keep::LogPlan;
use hikae_ops::prune::{BundleTotals, KeepLog, PruneOptions, PruneTotals, Pruned, plan, prune};
use jiff::SignedDuration;
use std::time::Duration;

/// Free the space of what no snapshot needs, after a time in which it can be brought back
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  hikae prune --dry-run\n  hikae prune --max-copied 10GiB")]
pub struct PruneArgs {
    /// How long what is not needed stays, as 14d
    #[arg(long, value_name = "TIME", default_value = "14d")]
    soft: jiff::Span,
    /// Leftovers of runs that died go once they are so old; longer than the longest backup
    #[arg(long, value_name = "TIME", default_value = "1d")]
    orphan_grace: jiff::Span,
    /// Copy no more than so many bytes in one go, as 10GiB
    #[arg(long, value_name = "BYTES")]
    max_copied: Option<hikae_ops::config::ByteSize>,
    /// Also when there is no snapshot, which frees everything
    #[arg(long)]
    even_without_snapshots: bool,
    /// Say what would be freed, and free nothing
    #[arg(long)]
    dry_run: bool,
}

impl PruneArgs {
    fn options(&self) -> Result<PruneOptions, Failure> {
        Ok(PruneOptions {
            soft: duration(self.soft)?,
            orphan_grace: duration(self.orphan_grace)?,
            max_copied_bytes: self.max_copied.map(|size| size.as_u64()),
            even_without_snapshots: self.even_without_snapshots,
            ..PruneOptions::default()
        })
    }
}

fn duration(span: jiff::Span) -> Result<Duration, Failure> {
    let days = jiff::SpanRelativeTo::days_are_24_hours();
    let length = span.to_duration(days).ok().filter(|length| *length >= SignedDuration::ZERO);
    let length = length.and_then(|length| Duration::try_from(length).ok());
    length.ok_or_else(|| {
        Failure::new(ErrorCode::Usage, format!("{span:#} is no length of time"), Some("as 14d".into()))
    })
}

pub fn run(args: &PruneArgs, app: &App) -> Result<Ended, Failure> {
    let options = args.options()?;
    let repo = app.open()?;
    let config = app.config_or_none()?;
    // What stands elsewhere than the configuration says is none of its business.
    let name = app.repository_name(&config, None)?;
    let keep = name.map_or_else(KeepLog::default, |name| KeepLog::of_config(&config, name));
    if args.dry_run {
        let plan = {
            let _progress = app.progress();
            plan(&repo, &options, &keep, &app.cx)?
        };
        let packs = text(&plan.doomed.totals, plan.doomed.doomed.len(), "would be");
        let (log, bundled) = (log_text(&plan.log, "would go", app), bundled_text(&plan.bundled, "would be"));
        let text = format!("{packs}{log}{bundled}Nothing was changed.\n");
        app.output.result(Ended::Well, &plan, &text);
        return Ok(Ended::Well);
    }
    let pruned = {
        let _progress = app.progress();
        prune(&repo, &options, &keep, &app.cx)?
    };
    app.output.result(Ended::Well, &pruned, &pruned_text(&pruned, app));
    Ok(Ended::Well)
}

/// What a prune did.
pub fn pruned_text(pruned: &Pruned, app: &App) -> String {
    let plan = &pruned.doomed.plan;
    let mut page = text(&plan.totals, plan.doomed.len(), "now");
    page.push_str(&log_text(&pruned.log, "goes", app));
    page.push_str(&bundled_text(&pruned.bundled, "now"));
    let removed = &pruned.removed;
    if removed.n_packs + removed.n_indexes > 0 {
        page.push_str(&format!(
            "Removed {} and {} whose soft period is over.\n",
            count(removed.n_packs as u64, "pack", "packs"),
            count(removed.n_indexes as u64, "index object", "index objects")
        ));
    }
    if removed.n_log_files > 0 {
        page.push_str(&format!(
            "Removed {} of archived log ({}) whose soft period is over.\n",
            count(removed.n_log_files, "file", "files"),
            Bytes(removed.log_bytes)
        ));
    }
    if removed.n_locked > 0 {
        page.push_str(&format!(
            "{} for the end of their lock: nobody can remove them before.\n",
            count(removed.n_locked as u64, "object waits", "objects wait")
        ));
    }
    if removed.n_bundled > 0 {
        page.push_str(&format!(
            "Removed {} of archived log that a bundle stands for.\n",
            count(removed.n_bundled, "object", "objects"),
        ));
    }
    if let Some(next) = removed.next {
        let what = match removed.n_waiting {
            0 if removed.n_locked > 0 => "The first of them waits".to_owned(),
            0 => "Archived log waits".to_owned(),
            n => count(n as u64, "pack waits", "packs wait"),
        };
        page.push_str(&format!(
            "{what} for the end of the soft period, the first until {}.\n",
            app.time(next)
        ));
    }
    page
}

/// What is bundled of archived log.
fn bundled_text(bundled: &BundleTotals, are: &str) -> String {
    match bundled.n_bundles {
        0 => String::new(),
        n => format!(
            "{} of archived log ({}) {are} bundled, in {}.\n",
            count(bundled.n_files, "small segment", "small segments"),
            Bytes(bundled.stored_bytes),
            count(n, "object", "objects"),
        ),
    }
}

/// What goes of the log of each cluster, and from when on it can come back.
fn log_text(log: &LogPlan, goes: &str, app: &App) -> String {
    let mut text = String::new();
    for cluster in &log.clusters {
        let sources: Vec<&str> = cluster.sources.iter().map(String::as_str).collect();
        let name = match &sources[..] {
            [] => format!("system {}", cluster.system),
            sources => format!("{} (system {})", sources.join(", "), cluster.system),
        };
        if let Some(log) = &cluster.goes {
            text.push_str(&format!(
                "The log of {name} before {} {goes}: {} of {}, {}. What leads on from the base backup of {} stays.\n",
                log.below,
                log.n_files,
                count(cluster.n_files, "file", "files"),
                Bytes(log.stored_bytes),
                app.time(log.recovers_from),
            ));
            if log.n_alone > 0 {
                let bases = count(log.n_alone as u64, "older base backup", "older base backups");
                text.push_str(&format!("{bases} of it can then be restored as of their own moments only.\n"));
            }
        }
        if let Some(why) = &cluster.stays {
            let (files, bytes) = (count(cluster.n_files, "file", "files"), Bytes(cluster.stored_bytes));
            text.push_str(&format!("All of the log of {name} stays, {files} of {bytes}: {why}.\n"));
        }
    }
    text
}

fn text(totals: &PruneTotals, n_doomed: usize, are: &str) -> String {
    let mut text = match n_doomed {
        0 => "Every pack is needed.\n".to_owned(),
        n => format!(
            "{} ({}) {are} doomed as no longer needed; {} copied, {} to come free after the soft period.\n",
            count(n as u64, "pack", "packs"),
            Bytes(totals.doomed_bytes),
            Bytes(totals.copied_bytes),
            Bytes(totals.freed_bytes)
        ),
    };
    text.push_str(&format!(
        "{} in use, {} of unused space in packs that are not worth emptying.\n",
        Bytes(totals.living_bytes),
        Bytes(totals.unused_bytes)
    ));
    if totals.n_young_orphans > 0 {
        text.push_str(&format!(
            "{} in {} that nothing names, of a run that died or is at work; they go when they are as old as --orphan-grace.\n",
            Bytes(totals.young_orphan_bytes),
            count(totals.n_young_orphans as u64, "pack", "packs"),
        ));
    }
    if totals.sparse_bytes > 0 {
        text.push_str(&format!(
            "{} lie in frames of which less than half is needed; the next backup writes that half anew.\n",
            Bytes(totals.sparse_bytes)
        ));
    }
    text
}
