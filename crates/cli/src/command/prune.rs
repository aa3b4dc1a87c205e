//! `hikae prune`

use crate::app::App;
use crate::failure::{Ended, Failure};
use crate::page::count;
use clap::Args;
use hikae_model::{Bytes, ErrorCode};
use hikae_ops::prune::{PruneOptions, PruneTotals, Pruned, plan, prune};
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
    if args.dry_run {
        let plan = {
            let _progress = app.progress();
            plan(&repo, &options, &app.cx)?
        };
        let text = format!("{}Nothing was changed.\n", text(&plan.totals, plan.doomed.len(), "would be"));
        app.output.result(Ended::Well, &plan, &text);
        return Ok(Ended::Well);
    }
    let pruned = {
        let _progress = app.progress();
        prune(&repo, &options, &app.cx)?
    };
    app.output.result(Ended::Well, &pruned, &pruned_text(&pruned, app));
    Ok(Ended::Well)
}

/// What a prune did.
pub fn pruned_text(pruned: &Pruned, app: &App) -> String {
    let plan = &pruned.doomed.plan;
    let mut page = text(&plan.totals, plan.doomed.len(), "now");
    let removed = &pruned.removed;
    if removed.n_packs + removed.n_indexes > 0 {
        page.push_str(&format!(
            "Removed {} and {} whose soft period is over.\n",
            count(removed.n_packs as u64, "pack", "packs"),
            count(removed.n_indexes as u64, "index object", "index objects")
        ));
    }
    if let Some(next) = removed.next {
        let packs = count(removed.n_waiting as u64, "pack waits", "packs wait");
        page.push_str(&format!(
            "{packs} for the end of the soft period, the first until {}.\n",
            app.time(next)
        ));
    }
    page
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
