//! `hikae pg receive`

use crate::app::App;
use crate::failure::{Ended, Failure};
use crate::page::count;
use clap::Args;
use hikae_model::{Bytes, ErrorCode, Lsn};
use hikae_ops::pg::receive::{ReceiveOptions, ReceiveReport, receive};
use hikae_ops::replication::SlotName;
use std::time::Duration;

/// Receive a server's write-ahead log as it is written, until stopped; what came is durable within a second
#[derive(Debug, Args)]
#[command(
    after_help = "SIGINT and SIGTERM end it well: what is not kept yet stays with the server's slot.\n\
    With synchronous_standby_names = 'hikae' a commit returns once it is in the repository; --every 0 keeps it short.\n\n\
    Examples:\n  hikae pg receive main --create-slot --verbose\n  hikae pg receive main --slot standby_7"
)]
pub struct ReceiveArgs {
    /// Source of kind postgresql-cluster
    source: String,
    /// Replication slot that holds what has not come yet [default: hikae_SOURCE]
    #[arg(long, value_name = "NAME")]
    slot: Option<SlotName>,
    /// Make the slot if it is not there
    #[arg(long)]
    create_slot: bool,
    /// End once everything before this place has come, as 16/B374D848
    #[arg(long, value_name = "LSN")]
    until: Option<Lsn>,
    /// How many seconds may pass, as 0.2, before what came is durable; 0 stores each commit, or a few together [default: 1]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    every: Option<Duration>,
    /// How many seconds to wait for a server that is away [default: 600]
    #[arg(long, value_name = "SECONDS")]
    patience: Option<u32>,
}

/// Seconds with a fraction, up to an hour.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..=3600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "not a number from 0 to 3600".to_owned())
}

pub fn run(args: &ReceiveArgs, app: &App) -> Result<Ended, Failure> {
    let config = app.config()?;
    let repositories = config.repositories_of(&args.source);
    let cluster = config.source(&args.source)?.cluster(&args.source, &app.around, &app.cx)?;
    let one = match (&app.global.store, &app.global.repository) {
        (None, None) => match repositories?.as_slice() {
            [one] => Some((*one).to_owned()),
            several => {
                let what = format!(
                    "{} is kept in {}, and one stream goes into one",
                    args.source,
                    several.join(", ")
                );
                let advice =
                    "name one with --repository; each further one wants a call and a --slot of its own";
                return Err(Failure::new(ErrorCode::Usage, what, Some(advice.into())));
            }
        },
        _ => None,
    };
    let repo = app.open_of(one.as_deref())?;
    let options = ReceiveOptions {
        slot: args.slot.clone(),
        create_slot: args.create_slot,
        until: args.until,
        every: args.every,
        patience: args.patience.map(|seconds| Duration::from_secs(seconds.into())),
    };
    let report = receive(&repo, &args.source, cluster.connection(), &options, &app.cx)?;
    app.output.result(Ended::Well, &report, &text(&report));
    Ok(Ended::Well)
}

fn text(report: &ReceiveReport) -> String {
    let stored = count(report.n_stored, "segment", "segments");
    let mut text = format!("{}: {stored} stored in {}", report.source, Bytes(report.stored_bytes));
    if report.n_known > 0 {
        text.push_str(&format!(", {} there already", report.n_known));
    }
    if report.n_parts > 0 {
        let parts = count(report.n_parts, "part", "parts");
        text.push_str(&format!(", and {parts} before them in {}", Bytes(report.part_bytes)));
    }
    text.push_str(".\n");
    match (&report.received, &report.durable) {
        (None, _) => text.push_str("Nothing more came.\n"),
        (Some(received), durable) => {
            let durable = durable.as_deref().unwrap_or("nothing");
            text.push_str(&format!("Received up to {received}, durable up to {durable}.\n"));
        }
    }
    if report.pending_bytes > 0 {
        text.push_str(&format!(
            "{} came of a segment that is not whole. They are with the server alone: slot {} holds them.\n",
            Bytes(report.pending_bytes),
            report.slot
        ));
    }
    text
}
