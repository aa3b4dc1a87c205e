//! `hikae store`

use crate::app::App;
use crate::failure::{Ended, Failure};
use crate::page::{Align, Mark, Table, marked};
use clap::{Args, Subcommand};
use hikae_model::ErrorCode;
use hikae_ops::store::{Ability, Durability, Found, LocksFound};
use serde_json::json;

#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    Init(InitArgs),
    Check(CheckArgs),
}

/// Make the bucket of the repository, and see what its server does
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  hikae store init --repository offsite")]
pub struct InitArgs {}

/// See by trying what the store does, and what it lets us do
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  hikae store check --repository offsite")]
pub struct CheckArgs {}

pub fn run(command: &StoreCommand, app: &App) -> Result<Ended, Failure> {
    let place = app.place_of_new()?;
    if let StoreCommand::Init(_) = command {
        place.store.make(&app.cx)?;
    }
    let found = place.store.probe(&app.cx)?;
    let locks = place.store.check_locks(&app.cx)?;
    let is_locked = locks.as_ref().is_none_or(|locks| locks.unlocked.is_empty());
    let is_fit = is_locked && found.is_fit();
    let ended = if is_fit { Ended::Well } else { Ended::With(ErrorCode::Forbidden) };
    let mut table = Table::new(&[("", Align::Left), ("", Align::Left), ("", Align::Left)]);
    for (ability, found) in &found.abilities {
        let (mark, text) = shown(*ability, found);
        table.row([mark, ability.name().to_owned(), text]);
    }
    let (mark, durability) = match found.durability {
        Durability::Full => (marked(Mark::Good, "ok"), "yes".to_owned()),
        Durability::BestEffort { why } => {
            (marked(Mark::Doubtful, "!"), format!("best effort: it is on {why}"))
        }
    };
    table.row([mark, "survive a power cut".to_owned(), durability.clone()]);
    if let Some(locks) = &locks {
        let mark = if is_locked { marked(Mark::Good, "ok") } else { marked(Mark::Bad, "no") };
        table.row([mark, "object lock".to_owned(), locks_text(locks, app)]);
    }
    let verdict = match is_fit {
        false if !is_locked => format!("{} does not lock what it is told to lock.\n", place.address()),
        true => format!("{} can keep a repository.\n", place.address()),
        false => format!("{} cannot keep a repository.\n", place.address()),
    };
    let abilities: serde_json::Map<_, _> = found
        .abilities
        .iter()
        .map(|(ability, found)| (ability.name().replace(' ', "_"), json!(shown(*ability, found).1)))
        .collect();
    let result = json!({
        "store": place.address(), "fit": is_fit, "abilities": abilities, "durable": durability, "locks": locks
    });
    app.output.result(ended, &result, &format!("{}\n{verdict}", table.text()));
    Ok(ended)
}

fn locks_text(locks: &LocksFound, app: &App) -> String {
    let LocksFound { n_looked_at, unlocked, until } = locks;
    match (unlocked.first(), until) {
        (Some(first), _) => {
            format!("{} of {n_looked_at} objects that were looked at are not locked: {first}", unlocked.len())
        }
        (None, Some(until)) => {
            format!(
                "yes; {n_looked_at} objects were looked at, the first is locked until {}",
                app.time(*until)
            )
        }
        (None, None) => "yes; nothing is stored yet".to_owned(),
    }
}

fn shown(ability: Ability, found: &Found) -> (String, String) {
    let bad = if ability.is_needed() { Mark::Bad } else { Mark::Faint };
    match found {
        Found::Kept => (marked(Mark::Good, "ok"), "yes".to_owned()),
        Found::Broken(why) => (marked(bad, "no"), why.clone()),
        Found::Failed(error) => (marked(bad, "no"), hikae_ops::with_causes(error)),
    }
}
