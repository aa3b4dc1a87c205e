//! `hikae copies`

use crate::app::App;
use crate::failure::{Ended, Failure};
use crate::page::{Align, Mark, Table, duration, marked};
use clap::Args;
use hikae_model::ErrorCode;
use hikae_ops::copies::{
    CopiesReport, Kept, Loss, LossReport, SourceCopies, copies, domains_of, domains_of_here,
};
use hikae_ops::open::Place;
use serde_json::json;

/// Show what each repository has of each source, and what is left if something is lost
#[derive(Debug, Args)]
#[command(
    after_help = "3-2-1-1-0: three copies with the source itself, on two media, one off site, one offline or locked, no errors: each \
                  copy was restored by a drill. Two repositories with one key or account count as one. Where a repository is, \
                  its `domains` in the configuration say, as far as it cannot be seen; where this machine is, `[here]`.\n\n\
                  Ends with 13 if a source does not survive the loss.\n\n\
                  Examples:\n  hikae copies\n  hikae copies --without site=tokyo\n  hikae copies --without repository=main"
)]
pub struct CopiesArgs {
    /// What is lost: machine, disk, site, account, key, administrator or repository, and its name
    #[arg(long, value_name = "KIND=NAME")]
    without: Option<Loss>,
}

pub fn run(args: &CopiesArgs, app: &App) -> Result<Ended, Failure> {
    let config = app.config()?;
    let key = app.key()?;
    let mut kept = Vec::new();
    let mut ended = Ended::Well;
    for (name, repository) in &config.repositories {
        let place = Place::of(repository, key.clone(), &app.around, &app.cx).map_err(Failure::from);
        let address = place.as_ref().map_or_else(|_| String::new(), Place::address);
        let opened = place.and_then(|place| app.open_place(&place));
        if let Err(failure) = &opened {
            let hint = failure.advice().map(|hint| hint.into_owned());
            app.output
                .warning(&format!("{name} cannot be looked at: {}", failure.message()), hint.as_deref());
            ended = ended.or(Ended::With(failure.code()));
        }
        let family = opened.as_ref().ok().map(|repo| repo.header().core.family);
        kept.push(Kept {
            name: name.clone(),
            address,
            domains: domains_of(repository, &config.here, &app.around.host, family),
            offline: repository.offline,
            repo: opened.map_err(|failure| failure.message()),
        });
    }
    let sources: Vec<&str> = config.sources.keys().map(String::as_str).collect();
    let report = copies(&kept, &sources, &domains_of_here(&config, &app.around.host))?;
    let Some(loss) = &args.without else {
        app.output.result(ended, &report, &text(&report, app));
        return Ok(ended);
    };
    let loss = report.without(loss)?;
    if loss.n_lost() > 0 {
        ended = Ended::With(ErrorCode::ObjectiveBreached);
    }
    app.output.result(ended, &json!(loss), &loss_text(&loss, app));
    Ok(ended)
}

fn text(report: &CopiesReport, app: &App) -> String {
    let mut places =
        Table::new(&[("repository", Align::Left), ("where", Align::Left), ("lost with", Align::Left)]);
    for one in &report.repositories {
        let domains: Vec<String> = one.domains.iter().map(|(kind, name)| format!("{kind}={name}")).collect();
        let state = match &one.unreadable {
            Some(_) => marked(Mark::Bad, "cannot be looked at"),
            None => domains.join(", "),
        };
        places.row([one.name.clone(), one.address.clone(), state]);
    }
    let mut text = format!("{}\n", places.text());
    let mut table = Table::new(&[
        ("source", Align::Left),
        ("repository", Align::Left),
        ("newest", Align::Left),
        ("restored from there", Align::Left),
        ("in", Align::Right),
    ]);
    for source in &report.sources {
        if source.copies.is_empty() {
            table.row([
                source.source.clone(),
                marked(Mark::Bad, "none"),
                String::new(),
                String::new(),
                String::new(),
            ]);
        }
        for copy in &source.copies {
            let verified = match (copy.verified, copy.last_drill_failed) {
                (_, true) => marked(Mark::Bad, "the last drill failed"),
                (Some(moment), false) => app.time(moment),
                (None, false) => marked(Mark::Doubtful, "never"),
            };
            let took = copy.recovery_seconds.map_or(String::new(), duration);
            table.row([
                source.source.clone(),
                copy.repository.clone(),
                app.time(copy.moment),
                verified,
                took,
            ]);
        }
    }
    text.push_str(&table.text());
    for source in &report.sources {
        text.push_str(&score_text(source));
    }
    text
}

fn score_text(source: &SourceCopies) -> String {
    let score = &source.score;
    let parts: Vec<String> = score
        .parts
        .iter()
        .map(|part| {
            let mark = if part.kept { Mark::Good } else { Mark::Doubtful };
            marked(mark, part.wanted)
        })
        .collect();
    let name = marked(Mark::Strong, &source.source);
    let mut text =
        format!("\n{name}: {} of {} kept ({})\n", score.n_kept(), score.parts.len(), parts.join(", "));
    for part in &score.parts {
        if let Some(missing) = &part.missing {
            text.push_str(&format!("  {} {}: {missing}\n", marked(Mark::Doubtful, "!"), part.wanted));
        }
    }
    text
}

fn loss_text(loss: &LossReport, app: &App) -> String {
    let mut table = Table::new(&[
        ("source", Align::Left),
        ("comes back from", Align::Left),
        ("as it was", Align::Left),
        ("instead of", Align::Left),
        ("in", Align::Left),
    ]);
    for survivor in &loss.sources {
        match &survivor.from {
            None => {
                let lost = marked(Mark::Bad, "nowhere: it is lost");
                table.row([
                    survivor.source.clone(),
                    lost,
                    String::new(),
                    app.time(survivor.newest_today),
                    String::new(),
                ]);
            }
            Some(copy) => {
                let took = copy.recovery_seconds.map_or_else(
                    || marked(Mark::Doubtful, "unknown: never restored from there"),
                    |seconds| format!("{} by its last drill", duration(seconds)),
                );
                table.row([
                    survivor.source.clone(),
                    copy.repository.clone(),
                    app.time(copy.moment),
                    app.time(survivor.newest_today),
                    took,
                ]);
            }
        }
    }
    let n_lost = loss.n_lost();
    let verdict = match n_lost {
        0 => "Every source survives.".to_owned(),
        n => format!("{n} of {} sources do not survive.", loss.sources.len()),
    };
    format!(
        "Without {}, which takes {}:\n\n{}\n{verdict}\n",
        loss.without,
        loss.lost.join(", "),
        table.text()
    )
}
