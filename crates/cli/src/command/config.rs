//! `hikae config`

use super::doctor;
use crate::app::App;
use crate::failure::{Ended, Failure};
use crate::page::{Mark, count, marked};
use clap::{Args, Subcommand};
use hikae_ops::config::{Config, differences, effective, schema, to_text};
use hikae_ops::doctor::{look_at_config, look_at_fixtures, look_at_programs, look_at_sources, look_at_store};
use serde_json::json;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Read the configuration and say whether it is right
    Check,
    /// Try sources, repositories, programs and fixtures, without writing
    Test,
    Show(ShowArgs),
    /// Print the JSON Schema of the configuration, for editors
    Schema,
    Diff(DiffArgs),
}

/// Show what the configuration says, with secrets left out
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  hikae config show --effective")]
pub struct ShowArgs {
    /// Everything, with the defaults
    #[arg(long)]
    effective: bool,
}

/// Show in which settings two configurations differ
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  hikae config diff\n  hikae config diff /etc/hikae/config.toml new.toml")]
pub struct DiffArgs {
    /// A configuration to compare with [default: the defaults]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Another one, to compare the first with
    #[arg(value_name = "OTHER", requires = "file")]
    other: Option<PathBuf>,
}

pub fn run(command: &ConfigCommand, app: &App) -> Result<Ended, Failure> {
    match command {
        ConfigCommand::Check => check(app),
        ConfigCommand::Test => test(app),
        ConfigCommand::Show(args) => show(args, app),
        ConfigCommand::Schema => {
            let schema = schema();
            let text = serde_json::to_string_pretty(&schema).unwrap_or_default();
            app.output.result(Ended::Well, &schema, &format!("{text}\n"));
            Ok(Ended::Well)
        }
        ConfigCommand::Diff(args) => diff(args, app),
    }
}

fn check(app: &App) -> Result<Ended, Failure> {
    let config = app.config()?;
    let file = config.file.as_ref().map_or(String::new(), |file| file.display().to_string());
    let mut text = format!(
        "{} {file}: {}, {}, {}\n",
        marked(Mark::Good, "OK"),
        count(config.repositories.len() as u64, "repository", "repositories"),
        count(config.sources.len() as u64, "source", "sources"),
        count(config.jobs.len() as u64, "job", "jobs"),
    );
    let own = config.own_directories(&app.around);
    for (source, directory) in &own {
        text.push_str(&format!("{source} leaves out {}, which hikae fills itself\n", directory.display()));
    }
    let left_out: Vec<_> =
        own.iter().map(|(source, path)| json!({ "source": source, "path": path })).collect();
    let result = json!({ "file": config.file, "warnings": config.warnings, "left_out": left_out });
    app.output.result(Ended::Well, &result, &text);
    Ok(Ended::Well)
}

fn test(app: &App) -> Result<Ended, Failure> {
    let config = app.config()?;
    let mut conditions = look_at_config(&config);
    for place in app.places()? {
        conditions.extend(look_at_store(&place, &app.cx));
    }
    conditions.extend(look_at_fixtures(&config));
    conditions.extend(look_at_programs(&config, &app.around));
    {
        // A database that somebody has locked is waited for.
        let _progress = app.progress();
        conditions.extend(look_at_sources(&config, &app.around, &app.cx));
    }
    let ended = doctor::worst(&conditions);
    app.output.result(ended, &conditions, &doctor::text(&conditions));
    Ok(ended)
}

fn show(args: &ShowArgs, app: &App) -> Result<Ended, Failure> {
    let mut sections = effective(&app.config()?);
    if !args.effective {
        sections.iter_mut().for_each(|section| section.settings.retain(|setting| !setting.is_default));
    }
    app.output.result(Ended::Well, &sections, &to_text(&sections));
    Ok(Ended::Well)
}

fn diff(args: &DiffArgs, app: &App) -> Result<Ended, Failure> {
    let load = |file: &PathBuf| Ok::<_, Failure>(effective(&Config::load(file)?));
    let (first, second) = match (&args.file, &args.other) {
        (Some(first), Some(second)) => (load(first)?, Some(load(second)?)),
        (Some(second), None) => (effective(&app.config()?), Some(load(second)?)),
        (None, _) => (effective(&app.config()?), None),
    };
    let found = differences(&first, second.as_deref());
    let mut text = String::new();
    for difference in &found {
        text.push_str(&format!("{}.{}\n", difference.section, difference.key));
        for (sign, mark, value) in
            [("-", Mark::Bad, &difference.first), ("+", Mark::Good, &difference.second)]
        {
            if let Some(value) = value {
                let sign = if second.is_none() { "=" } else { sign };
                text.push_str(&format!("  {} {value}\n", marked(mark, sign)));
            }
        }
    }
    if found.is_empty() {
        text = "Nothing differs.\n".to_owned();
    }
    app.output.result(Ended::Well, &found, &text);
    Ok(Ended::Well)
}
