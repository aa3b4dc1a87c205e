//! `hikae doctor`

use crate::app::App;
use crate::failure::{Ended, Failure};
use crate::page::{Align, Mark, Table, marked};
use clap::Args;
use hikae_model::ErrorCode;
use hikae_ops::doctor::{
    Condition, Health, look_at_config, look_at_programs, look_at_snapshots, look_at_sources, look_at_store,
};
use hikae_ops::pg::watch::{look_at_logs, look_at_windows};

/// Look at everything that backups rest on, one line each
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  hikae doctor --json")]
pub struct DoctorArgs {}

pub fn run(_: &DoctorArgs, app: &App) -> Result<Ended, Failure> {
    let config = app.config_or_none()?;
    let mut conditions = look_at_config(&config);
    match app.place() {
        Err(failure) => conditions.push(failed("repository", &failure)),
        Ok(place) => {
            if place.has_repository(&app.cx) {
                conditions.extend(look_at_store(&place, &app.cx));
            }
            let opened = place.open(&app.around, &app.cx).map_err(Failure::from);
            let looked = opened.and_then(|opened| {
                let repo = opened.repo;
                let repaired = opened.repaired.iter().map(|problem| {
                    Condition::warn("store", problem.to_string(), problem.advice.clone().unwrap_or_default())
                });
                conditions.extend(repaired);
                let repository = format!("{} at log entry {}", repo.header().core.repository, repo.state().n);
                conditions.push(Condition::ok("repository", repository));
                let mut found = look_at_snapshots(&repo, &config, app.cx.now())?;
                found.extend(look_at_windows(&repo, &config, &app.cx));
                Ok(found)
            });
            match looked {
                Ok(found) => conditions.extend(found),
                Err(failure) => conditions.push(failed("repository", &failure)),
            }
        }
    }
    conditions.extend(look_at_programs(&config, &app.around));
    conditions.extend(look_at_sources(&config, &app.around, &app.cx));
    conditions.extend(look_at_logs(&config, &app.around, &app.cx));
    let ended = worst(&conditions);
    app.output.result(ended, &conditions, &text(&conditions));
    Ok(ended)
}

fn failed(name: &str, failure: &Failure) -> Condition {
    Condition {
        name: name.to_owned(),
        health: Health::Fail,
        found: failure.message(),
        advice: failure.advice().map(|advice| advice.into_owned()),
    }
}

/// Something that stops backups or restores is a failure; a warning is none.
pub fn worst(conditions: &[Condition]) -> Ended {
    match conditions.iter().map(|condition| condition.health).max() {
        Some(Health::Fail) => Ended::With(ErrorCode::Failure),
        Some(Health::Ok | Health::Warn) | None => Ended::Well,
    }
}

/// One line a condition, with its hint below.
pub fn text(conditions: &[Condition]) -> String {
    let mut table = Table::new(&[("", Align::Left), ("", Align::Left), ("", Align::Left)]);
    for condition in conditions {
        let health = match condition.health {
            Health::Ok => marked(Mark::Good, "OK"),
            Health::Warn => marked(Mark::Doubtful, "WARN"),
            Health::Fail => marked(Mark::Bad, "FAIL"),
        };
        let found = condition.found.replace('\n', "; ");
        table.row([health, condition.name.clone(), found]);
        for line in condition.advice.iter().flat_map(|advice| advice.lines()) {
            table.row([String::new(), String::new(), format!("{} {line}", marked(Mark::Faint, "hint:"))]);
        }
    }
    table.text()
}
